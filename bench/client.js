#!/usr/bin/env node
// What the XenStore client does a second: `node bench/client.js [SOCKET]`. Without a socket, on a store of its own.
// Medians of five rounds. The server is the limit as a rule: compare two servers, or two clients, in the same run.
import { connect, localStore } from '../dist/xenstore.js';

const path = process.argv[2];
const open = async () => (path === undefined ? store.connect() : connect({ path }));
const store = localStore();
const [xs, other] = [await open(), await open()];
const rounds = 5;
const together = 10_000;

await xs.write('/bench/node', 'value');
await report('read, 10000 at once', 10 * together, () => batches(() => xs.read('/bench/node')));
await report('write, 10000 at once', 10 * together, () => batches((i) => xs.write(`/bench/${i % 100}`, 'value')));
await report('read of a missing node, 10000 at once', 10 * together, () => batches(() => xs.read('/bench/none')));
await report('read, one after the other', 10_000, async () => {
  for (let i = 0; i < 10_000; i += 1) await xs.read('/bench/node');
});
await report('transaction of a read and a write, one after the other', 2000, async () => {
  for (let i = 0; i < 2000; i += 1) {
    await xs.transaction(async (tx) => tx.write('/bench/count', `${Number((await tx.read('/bench/count')) ?? 0) + 1}`));
  }
});
await report('event through a watch loop, 1000 writes at once', 10_000, async () => {
  const events = xs.watch('/bench/events');
  await events.next();
  for (let at = 0; at < 10_000; at += 1000) {
    const writes = Promise.all(Array.from({ length: 1000 }, (_, i) => other.write(`/bench/events/${i}`, '')));
    for (let i = 0; i < 1000; i += 1) await events.next();
    await writes;
  }
  await events.return();
});
await xs.rm('/bench');
xs.close();
other.close();

async function batches(request) {
  for (let batch = 0; batch < 10; batch += 1) await Promise.all(Array.from({ length: together }, (_, i) => request(i)));
}

async function report(what, count, run) {
  const rates = [];
  for (let round = 0; round < rounds; round += 1) {
    const begin = process.hrtime.bigint();
    await run();
    rates.push((count * 1e9) / Number(process.hrtime.bigint() - begin));
  }
  const median = rates.sort((a, b) => a - b)[rounds >> 1];
  console.log(`${String(Math.round(median)).padStart(9)} /s  ${what}`);
}
