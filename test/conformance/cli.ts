/**
 * The comparison by hand:
 *
 *   npm run conformance -- [options] [REFERENCE_SOCKET [SECOND_SOCKET] TESTED_SOCKET]
 *
 * Without sockets it starts Debian's C xenstored, oxenstored and our server itself, and ends them. All that they store is
 * removed at the beginning of every episode, so give it no store that is in use.
 *
 *   --seed S      the first seed (default 1); `random` takes one from the clock and prints it
 *   --ops N       operations in all (default 20000)
 *   --len N       operations of an episode, which begins from scratch and has a seed of its own (default 200)
 *   --guests      also as two guests, over their rings; only with servers that were started here, and without oxenstored
 *   --keep-going  go on after a divergence, and print each kind once
 *   --reached     print what was answered how often
 *
 * Exit status: 0 no divergence, 1 some, 2 trouble.
 */
import { parseArgs } from 'node:util';
import { comparing, newTally, runSeed } from './conformance.js';
import { nameOf } from './operations.js';
import { missingForPeers, type Started, startCxenstored, startOurs, startOxenstored } from './peers.js';
import type { Server } from './session.js';

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      seed: { type: 'string', default: '1' },
      ops: { type: 'string', default: '20000' },
      len: { type: 'string', default: '200' },
      guests: { type: 'boolean', default: false },
      'keep-going': { type: 'boolean', default: false },
      reached: { type: 'boolean', default: false },
    },
  });
  const [ops, len] = [Number(values.ops), Number(values.len)];
  let seed = values.seed === 'random' ? Date.now() % 2 ** 31 : Number(values.seed);
  if (![ops, len, seed].every((number) => Number.isSafeInteger(number) && number >= 0) || len === 0) {
    throw new Error('--seed, --ops and --len want numbers');
  }
  if (positionals.length === 1 || positionals.length > 3) throw new Error('give two or three sockets, or none');
  if (positionals.length > 0 && values.guests)
    throw new Error('--guests is only for servers that are started here: leave out the sockets');

  const started: Started[] = [];
  try {
    let servers: Server[];
    if (positionals.length > 0) {
      const labels = positionals.length === 2 ? ['reference', 'tested'] : ['reference', 'oxenstored', 'tested'];
      servers = positionals.map((socket, i) => ({ name: labels[i] ?? '', socket }));
    } else {
      const missing = missingForPeers();
      if (missing.length > 0) throw new Error(`the real servers cannot be started: apt-get install ${missing.join(' ')}`);
      started.push(await startCxenstored());
      if (!values.guests) started.push(await startOxenstored());
      started.push(await startOurs());
      servers = started.map(({ server }) => server);
    }
    const comparison = comparing(servers);
    const tally = newTally();
    const kinds = new Set<string>();
    const from = seed;
    const begun = Date.now();
    for (; tally.operations < ops; seed += 1) {
      const failure = await runSeed(comparison, { seed, count: len, guests: values.guests }, tally);
      if (!failure) continue;
      const kind = failure.text.replace(/\d+/g, '#').split('\n').slice(-6).join('\n');
      if (!kinds.has(kind)) console.log(failure.text);
      kinds.add(kind);
      if (!values['keep-going']) break;
    }
    comparison.reference.end();
    comparison.second?.end();
    comparison.tested.end();
    console.log(
      `${tally.operations} operations in ${((Date.now() - begun) / 1000).toFixed(1)} s, seeds ${from} to ${seed - (kinds.size > 0 && !values['keep-going'] ? 0 : 1)}, ${len} operations each`,
    );
    for (const [id, times] of tally.accepted) console.log(`accepted ${String(times).padStart(6)}  ${id}`);
    if (servers.length === 3) console.log(`${servers[1]?.name} alone differed in ${tally.secondDiffers} operations`);
    if (values.reached) {
      for (const [what, times] of [...tally.reached].sort()) {
        console.log(`${String(times).padStart(8)}  ${what.replace(/^\d+/, (type) => nameOf(Number(type)))}`);
      }
    }
    console.log(`divergences: ${kinds.size}`);
    return kinds.size === 0 ? 0 : 1;
  } finally {
    for (const each of started) await each.close();
  }
}

main().then(
  (status) => {
    process.exitCode = status;
  },
  (error: unknown) => {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 2;
  },
);
