#!/usr/bin/env node
// What an operation costs our store's process when there are no domains, 1,000, 5,000 and 20,000: it must be the same.
//
//   npm run build && node bench/xenstore-flat.js [--rounds 5] [--secs 1] [--cpu N] [--domains 0,1000,5000,20000]
//
// One server for each population, all there at the same time; in each round every operation is done on every one of
// them, one after the other. Each domain is as xl writes it, 110 nodes, with the 15 watches that its kernel and its
// backends' have; dom0 watches all backends besides, as its kernel does. The operations are on ten domains more, so that
// the first server has those ten alone. Requests go out many in one write, so that the socket's share, which cannot
// grow, is small. An operation is repeated until it has cost the server --secs of CPU time, user and system, so that
// a busy machine makes it slower and not less exact. Reported: that time for one operation, medians over the rounds.
import { execFileSync } from 'node:child_process';
import { performance } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import {
  batch,
  bulk,
  Connection,
  cpuSeconds,
  createRequests,
  end,
  inTransaction,
  markdown,
  median,
  mustBe,
  putDigits,
  read,
  recordedDomain,
  removeRequests,
  rm,
  rssBytes,
  start,
  startServer,
  unwatch,
  watch,
  watchRequests,
  write,
} from './xenstore-client.js';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    secs: { type: 'string', default: '1' },
    cpu: { type: 'string' },
    domains: { type: 'string', default: '0,1000,5000,20000' },
  },
});
if (options.cpu !== undefined) execFileSync('taskset', ['-p', '-c', options.cpu, String(process.pid)]);
const populations = options.domains.split(',').map(Number);
const worked = Array.from({ length: 10 }, (_, i) => 30001 + i);
/** Of guests; a domain has one of them, and shares it. */
const guestConnections = 100;
const perWrite = 30;

const domain = recordedDomain();
const home = (domid) => `/local/domain/${domid}`;
const starting = batch(start());
const begin = async (connection) => Number.parseInt(await connection.run(starting), 10);

async function populated(count) {
  const server = await startServer(undefined, options.cpu);
  const open = () => Connection.open(server.socket);
  const [xl, kernel, ...guests] = await Promise.all(Array.from({ length: 2 + guestConnections }, open));
  await kernel.run(batch(watch('/local/domain/0/backend', 'FFFFFFFF82BB0B60')));
  const domids = [...Array.from({ length: count }, (_, i) => i + 1), ...worked];
  await bulk(
    xl,
    requestsOf(domids, (domid) => createRequests(domain, domid)),
  );
  await bulk(
    kernel,
    requestsOf(domids, (domid) => watchRequests(domain.watches.dom0, domid)),
  );
  for (const [k, guest] of guests.entries()) {
    const own = domids.filter((domid) => domid % guestConnections === k);
    await bulk(
      guest,
      requestsOf(own, (domid) => watchRequests(domain.watches.guest, domid)),
    );
  }
  const events = () => guests.reduce((sum, guest) => sum + guest.events, 0);
  return { ...server, count, xl, kernel, guests, events };
}

function* requestsOf(domids, make) {
  for (const domid of domids) yield* make(domid);
}

const some = (make) => batch(...Array.from({ length: perWrite }, (_, i) => make(worked[i % worked.length], i)));

/** Each operation: what is sent again and again, how many operations that is, and what is to be seen to afterwards. */
const operations = [
  () => {
    const requests = some((domid) => read(`${home(domid)}/name`, `guest-${domid}`));
    return { name: 'READ', count: perWrite, run: ({ xl }) => xl.run(requests) };
  },
  () => {
    const requests = some((domid) => write(`${home(domid)}/memory/static-max`, '262144'));
    return {
      name: 'WRITE of a node that is there',
      count: perWrite,
      run: ({ xl }) => xl.run(requests),
      after: ({ xl }) => mustBe(xl, `${home(worked[9])}/memory/static-max`, '262144'),
    };
  },
  () => {
    const path = (domid, n, i) => `${home(domid)}/data/new/${String(n).padStart(6, '0')}/${i}`;
    const requests = some((domid, i) => write(path(domid, 0, i), 'x'));
    const ends = requests.offsets.map((at) => requests.bytes.lastIndexOf('/', requests.bytes.indexOf(0, at + 16)));
    return {
      name: 'WRITE of a new node',
      count: perWrite,
      run: ({ xl }, n) => {
        for (const behind of ends) putDigits(requests.bytes, behind, 6, n);
        return xl.run(requests);
      },
      after: async ({ xl }, n) => {
        await mustBe(xl, path(worked[9], n - 1, 9), 'x');
        await xl.run(batch(...worked.map((domid) => rm(`${home(domid)}/data/new`))));
      },
    };
  },
  () => {
    const each = worked.map((domid) => {
      const keys = ['shutdown', 'feature-poweroff', 'feature-reboot', 'feature-suspend', 'sysrq'];
      const paths = [...keys.map((key) => `control/${key}`), 'name', 'vm', 'domid', 'store/port', 'console/limit'];
      return batch(...paths.map((path) => write(`${home(domid)}/bench/${path}`, '1')), end());
    });
    return {
      name: 'transaction of 10 WRITEs',
      count: 1,
      run: async ({ xl }, n) => {
        const outcome = await xl.run(inTransaction(each[n % each.length], await begin(xl)));
        if (outcome === 'EAGAIN') throw new Error('a transaction that nothing disturbs was not committed');
      },
      after: async ({ xl }) => {
        await mustBe(xl, `${home(worked[0])}/bench/store/port`, '1');
        await xl.run(batch(...worked.map((domid) => rm(`${home(domid)}/bench`, 'ENOENT'))));
      },
    };
  },
  () => {
    const requests = some((domid) => write(`${home(domid)}/control/shutdown`, ''));
    const watching = worked.map((domid) => domid % guestConnections);
    return {
      name: 'WRITE and its watch event',
      count: perWrite,
      run: async ({ xl, guests }) => {
        const before = watching.map((k) => guests[k].events);
        await xl.run(requests);
        await Promise.all(watching.map((k, i) => guests[k].eventsReach(before[i] + perWrite / worked.length)));
      },
      after: (server, n, eventsBefore) => {
        const events = server.events() - eventsBefore;
        if (events !== n * perWrite) throw new Error(`${events} events for ${n * perWrite} writes`);
      },
    };
  },
  () => {
    const lives = Array.from({ length: 100 }, (_, i) => {
      const domid = 31001 + i;
      const ofBoth = (make) =>
        [domain.watches.dom0, domain.watches.guest].map((paths) => batch(...watchRequests(paths, domid, make)));
      return {
        domid,
        create: batch(...createRequests(domain, domid), end()),
        watches: ofBoth(watch),
        unwatches: ofBoth(unwatch),
        remove: batch(...removeRequests(domain, domid), end()),
      };
    });
    return {
      name: 'domain created and destroyed',
      count: 1,
      run: async ({ xl, kernel, guests }, n) => {
        const { domid, create, watches, unwatches, remove } = lives[n % lives.length];
        const holders = [kernel, guests[domid % guestConnections]];
        await xl.run(inTransaction(create, await begin(xl)));
        await Promise.all(watches.map((requests, i) => holders[i].run(requests)));
        await Promise.all(unwatches.map((requests, i) => holders[i].run(requests)));
        await xl.run(inTransaction(remove, await begin(xl)));
      },
      after: ({ xl }) => mustBe(xl, `${home(31001)}/name`, undefined),
    };
  },
].map((make) => make());

/** Microseconds of the server's CPU for one operation. */
async function costOf({ name, count, run, after }, server) {
  const eventsBefore = server.events();
  const cpu = cpuSeconds(server.pid);
  const used = () => cpuSeconds(server.pid) - cpu;
  let n = 0;
  while (used() < Number(options.secs)) {
    for (const until = performance.now() + 20; performance.now() < until; n += 1) await run(server, n);
  }
  const us = (used() * 1e6) / (n * count);
  try {
    await after?.(server, n, eventsBefore);
  } catch (error) {
    throw new Error(`${name}, ${server.count} domains: ${error.message}`);
  }
  return us;
}

const servers = [];
for (const count of populations) {
  servers.push(await populated(count));
  console.error(`${count} domains: ${Math.round(rssBytes(servers.at(-1).pid) / 2 ** 20)} MiB`);
}
const costs = operations.map(() => servers.map(() => []));
// The round before the first is not counted: code is compiled in it.
for (let round = 0; round <= Number(options.rounds); round += 1) {
  for (const [o, operation] of operations.entries()) {
    for (const [s, server] of servers.entries()) {
      const us = await costOf(operation, server);
      if (round > 0) costs[o][s].push(us);
    }
    console.error(`round ${round}/${options.rounds} ${operation.name}`);
  }
}
const rows = operations.map(({ name }, o) => {
  const medians = costs[o].map(median);
  const spread = (Math.max(...medians) / Math.min(...medians) - 1) * 100;
  return { name, medians, spread };
});
const head = ['server CPU, µs', ...populations.map((count) => `${count.toLocaleString('en')} domains`), 'spread'];
const cells = rows.map(({ name, medians, spread }) => [name, ...medians.map((us) => us.toFixed(1)), `${spread.toFixed(0)} %`]);
console.log(
  `Node ${process.version}, ${options.rounds} rounds of ${options.secs} s of CPU, medians.\n\n${markdown([head, ...cells])}\n`,
);
const widest = rows.reduce((a, b) => (b.spread > a.spread ? b : a));
console.log(`Largest spread: ${widest.spread.toFixed(0)} % (${widest.name}).`);
process.exit(0);
