#!/usr/bin/env node
// The load of bench/xenstore.js, in a process of its own: workloads against one server, one after the other.
//
//   node bench/xenstore-load.js SOCKET PID SECONDS WARM WORKLOAD...
//
// Each workload is done for WARM seconds first, without being measured, and then is a line of JSON: operations a second, median and 99th percentile in microseconds, the server's CPU time for
// an operation, and what else there is to say; or the error of a server that gave a wrong answer. All that is set up,
// taken down and read back is outside of the measurement.
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { XsType } from '../dist/xenbus/xs-wire.js';
import {
  batch,
  bulk,
  Connection,
  cpuSeconds,
  cpuSecondsLeast,
  createRequests,
  end,
  inTransaction,
  mkdir,
  mustBe,
  percentile,
  putDigits,
  read,
  recordedDomain,
  removeRequests,
  rm,
  rssBytes,
  sorted,
  start,
  template,
  watch,
  write,
} from './xenstore-client.js';

const [socket, pidText, secondsText, warmText, ...names] = process.argv.slice(2);
const pid = Number(pidText);
let forMs = 0;
const top = '/xsbench';
const value = '0123456789abcdef0123456789abcdef';
const open = () => Connection.open(socket);
const times = (count, make) => Array.from({ length: count }, (_, i) => make(i));
const [starting, ending] = [batch(start()), batch(end())];

/** Milliseconds of each operation, the whole time and the server's CPU seconds, as what is reported. */
function figures(list, { operations = list.length, wallMs, cpu, ...more }) {
  const inOrder = sorted(list);
  const us = (percent) => percentile(inOrder, percent) * 1000;
  const cpuUs = cpu < cpuSecondsLeast ? undefined : (cpu * 1e6) / operations;
  return { ops: (operations * 1000) / wallMs, p50: us(50), p99: us(99), cpuUs, ...more };
}

/** Does an operation again and again. It is given how many there were, and may give back what it took of its own time. */
async function measured(operation) {
  const list = [];
  const cpu = cpuSeconds(pid);
  const begun = performance.now();
  let now = begun;
  while (now < begun + forMs) {
    const took = await operation(list.length);
    const then = now;
    now = performance.now();
    list.push(took ?? now - then);
  }
  return { list, wallMs: now - begun, cpu: cpuSeconds(pid) - cpu };
}

async function sequence(connection, batches) {
  for (const each of batches) await connection.run(each);
}

async function readOne(connection) {
  await connection.run(batch(write(`${top}/r/node`, value)));
  await mustBe(connection, `${top}/r/node`, value);
  return read(`${top}/r/node`, value);
}

async function readSequential(connection) {
  const request = batch(await readOne(connection));
  const { list, ...spent } = await measured(() => connection.run(request).then(() => undefined));
  return figures(list, spent);
}

/** Keeps `depth` requests on their way: as many as were answered are sent again, in one write. */
async function readPipelined(connection, depth) {
  const one = await readOne(connection);
  const requests = batch(...times(depth, () => one));
  const sentAt = new Float64Array(depth);
  const list = [];
  const cpu = cpuSeconds(pid);
  const begun = performance.now();
  const wallMs = await new Promise((resolve, reject) => {
    let outstanding = 0;
    const send = (now) => {
      const count = depth - outstanding;
      for (let i = 0; i < count; i += 1) sentAt[(list.length + outstanding + i) % depth] = now;
      outstanding = depth;
      connection.run(requests, count).catch(reject);
    };
    connection.onReplies = (replies) => {
      const now = performance.now();
      for (let i = 0; i < replies; i += 1) list.push(now - sentAt[list.length % depth]);
      outstanding -= replies;
      if (now < begun + forMs) send(now);
      else if (outstanding === 0) resolve(now - begun);
    };
    send(begun);
  });
  return figures(list, { wallMs, cpu: cpuSeconds(pid) - cpu });
}

async function writeNew(connection) {
  await connection.run(batch(mkdir(`${top}/w`)));
  const path = (i) => `${top}/w/${String(Math.trunc(i / 100)).padStart(6, '0')}/${String(i % 100).padStart(2, '0')}`;
  const request = batch(write(path(0), value));
  const nameEnd = request.bytes.indexOf(0, 16);
  const { list, ...spent } = await measured((i) => {
    putDigits(request.bytes, nameEnd, 2, i % 100);
    putDigits(request.bytes, nameEnd - 3, 6, Math.trunc(i / 100));
    return connection.run(request).then(() => undefined);
  });
  for (const i of [0, list.length - 1]) await mustBe(connection, path(i), value);
  await mustBe(connection, path(list.length), undefined);
  await bulk(
    connection,
    times(Math.ceil(list.length / 100), (i) => rm(path(i * 100).slice(0, -3))),
  );
  return figures(list, spent);
}

async function overwrite(connection, nodes) {
  const requests = times(nodes, (i) => batch(write(`${top}/o/${i}`, value)));
  const { list, ...spent } = await measured((i) => connection.run(requests[i % nodes]).then(() => undefined));
  await mustBe(connection, `${top}/o/${Math.min(list.length, nodes) - 1}`, value);
  return figures(list, spent);
}

async function mkdirAndRm(connection) {
  const requests = [mkdir(`${top}/m`), write(`${top}/m/x`, value), rm(`${top}/m`)].map((each) => batch(each));
  const { list, ...spent } = await measured(() => sequence(connection, requests));
  await mustBe(connection, `${top}/m/x`, undefined);
  return figures(list, spent);
}

async function directory(connection, children) {
  const path = `${top}/d`;
  await bulk(
    connection,
    times(children, (i) => mkdir(`${path}/${i.toString(36).padStart(2, '0')}`)),
  );
  const request = batch({ type: XsType.Directory, payload: `${path}\0`, reply: 3 * children });
  const { list, ...spent } = await measured(() => connection.run(request).then(() => undefined));
  return figures(list, spent);
}

async function directoryPart(connection, children) {
  const path = `${top}/p`;
  await bulk(
    connection,
    times(children, (i) => mkdir(`${path}/n${String(i).padStart(7, '0')}`)),
  );
  const parts = new Map();
  const part = (offset) => {
    if (!parts.has(offset)) parts.set(offset, batch({ type: XsType.DirectoryPart, payload: `${path}\0${offset}\0` }));
    return parts.get(offset);
  };
  const whole = async () => {
    let offset = 0;
    for (let last = false; !last; ) {
      const text = await connection.run(part(offset));
      const names = text.length - text.indexOf('\0') - 1;
      last = names === 0 || text.endsWith('\0\0');
      offset += names;
    }
    // Names of 8 and their NULs, then the empty one that is the last.
    if (offset !== 9 * children + 1) throw new Error(`DIRECTORY_PART gave ${offset} bytes of ${children} children`);
  };
  const prober = await open();
  const probe = await prober.run(part(0)).catch((error) => error);
  prober.close();
  if (probe instanceof Error && /(ENOSYS|EINVAL)/.test(probe.message)) return { unsupported: true };
  const { list, ...spent } = await measured(whole);
  return figures(list, spent);
}

async function transactions(connection, { writes, pipelined }) {
  const paths = times(writes, (i) => `${top}/t/${i}`);
  const requests = [...paths.map((path) => write(path, value)), end()];
  const batches = pipelined ? [batch(...requests)] : requests.map((each) => batch(each));
  let eagain = 0;
  const { list, ...spent } = await measured(async () => {
    const id = Number.parseInt(await connection.run(starting), 10);
    for (const each of batches) if ((await connection.run(inTransaction(each, id))) === 'EAGAIN') eagain += 1;
  });
  for (const path of paths) await mustBe(connection, path, value);
  return figures(list, { ...spent, operations: list.length - eagain, eagain });
}

/** Two connections read and write one node in a transaction each, then both commit. */
async function conflict(connection) {
  const connections = [connection, await open()];
  const path = `${top}/g/counter`;
  await connection.run(batch(write(path, '0')));
  const reading = batch({ type: XsType.Read, payload: `${path}\0` });
  const counting = batch(write(path, '000000000.0'));
  let commits = 0;
  let eagain = 0;
  const { list, ...spent } = await measured(async () => {
    const ids = [];
    for (const each of connections) ids.push(Number.parseInt(await each.run(starting), 10));
    for (const i of [0, 1]) await connections[i].run(inTransaction(reading, ids[i]));
    for (const i of [0, 1]) {
      putDigits(counting.bytes, counting.bytes.length, 1, i);
      putDigits(counting.bytes, counting.bytes.length - 2, 9, commits + eagain);
      await connections[i].run(inTransaction(counting, ids[i]));
    }
    let both = 0;
    for (const i of [0, 1]) if ((await connections[i].run(inTransaction(ending, ids[i]))) !== 'EAGAIN') both += 1;
    commits += both;
    eagain += 2 - both;
    if (both === 2) throw new Error('both of two conflicting transactions were committed');
    if (both === 0) throw new Error('none of two conflicting transactions was committed');
  });
  connections[1].close();
  return figures(list, { ...spent, operations: commits, eagain });
}

/** The time from a write to its event on another connection. */
async function watchLatency(writer) {
  const watcher = await open();
  const path = `${top}/wl/node`;
  await writer.run(batch(write(path, 'x')));
  await watcher.run(batch(watch(path, 'tok')));
  await watcher.eventsReach(1);
  const request = batch(write(path, value));
  const { list, ...spent } = await measured(async (i) => {
    const begun = performance.now();
    const written = writer.run(request);
    await watcher.eventsReach(i + 2);
    const took = performance.now() - begun;
    await written;
    return took;
  });
  if (watcher.events !== list.length + 1) throw new Error(`${watcher.events} events for ${list.length} writes`);
  watcher.close();
  return figures(list, spent);
}

/** Writes while there are many watches, of which one matches; ten connections have them, and read every 64 writes. */
async function fanout(connection, count) {
  const paths = times(count, (i) => `${top}/f/${Math.trunc(i / 100)}/${i % 100}`);
  await bulk(connection, paths.map(mkdir));
  const watchers = await Promise.all(times(10, open));
  const events = () => watchers.reduce((sum, { events }) => sum + events, 0);
  for (const [k, each] of watchers.entries()) {
    const own = paths.filter((_, i) => i % 10 === k);
    await bulk(
      each,
      own.map((path, i) => watch(path, `tok${i}`)),
    );
    await each.eventsReach(own.length);
    each.pause();
  }
  const expected = watchers.map(({ events }) => events);
  const drain = async () => {
    for (const each of watchers) each.resume();
    await Promise.all(watchers.map((each, k) => each.eventsReach(expected[k])));
    for (const each of watchers) each.pause();
  };
  const requests = paths.map((path) => batch(write(path, value)));
  const { list, ...spent } = await measured(async (i) => {
    // The events of the writes before are read between two operations, as part of the time of the next one.
    if (i % 64 === 0) await drain();
    const at = (i * 7919) % count;
    expected[at % 10] += 1;
    await connection.run(requests[at]);
  });
  await drain();
  await connection.run(batch(read(`${top}/f/0/0`, value)));
  if (events() !== count + list.length) throw new Error(`${events() - count} events for ${list.length} writes`);
  for (const each of watchers) each.close();
  return figures(list, spent);
}

/** Many connections, one READ of each on its way. */
async function manyConnections(connection, count) {
  const request = batch(await readOne(connection));
  const connections = await Promise.all(times(count, open));
  const list = [];
  const cpu = cpuSeconds(pid);
  const begun = performance.now();
  const loop = async (each) => {
    for (let now = performance.now(); now < begun + forMs; ) {
      const then = now;
      await each.run(request);
      now = performance.now();
      list.push(now - then);
    }
  };
  await Promise.all(connections.map(loop));
  const spent = { wallMs: performance.now() - begun, cpu: cpuSeconds(pid) - cpu };
  for (const each of connections) each.close();
  return figures(list, spent);
}

/** What a toolstack writes for one guest, with a disk and a vif. */
const guest = {
  create: template(`
    /local/domain/%D (n0,r%D)
    /vm/%U (n0,r%D)
    /libxl/%D (n0)
    /local/domain/%D/vm = /vm/%U
    /local/domain/%D/name = guest-%D
    /local/domain/%D/domid = %D
    /local/domain/%D/cpu (n0,r%D)
    /local/domain/%D/cpu/0/availability = online
    /local/domain/%D/cpu/1/availability = online
    /local/domain/%D/memory (n0,r%D)
    /local/domain/%D/memory/static-max = 1048576
    /local/domain/%D/memory/target = 1048577
    /local/domain/%D/memory/videoram = -1
    /local/domain/%D/control (n0,r%D)
    /local/domain/%D/control/shutdown = (n0,b%D)
    /local/domain/%D/control/feature-poweroff =
    /local/domain/%D/control/feature-reboot =
    /local/domain/%D/data (n0,b%D)
    /local/domain/%D/store/port = 1
    /local/domain/%D/store/ring-ref = 1044476
    /local/domain/%D/console/backend-id = 0
    /local/domain/%D/console/limit = 1048576
    /local/domain/%D/console/type = xenconsoled
    /local/domain/%D/console/port = 2
    /local/domain/%D/console/ring-ref = 1044479
    /vm/%U/uuid = %U
    /vm/%U/name = guest-%D
    /vm/%U/start_time = 1700000000.00
    /libxl/%D/type = pvh
    /libxl/%D/dm-version = qemu_xen
    /local/domain/%D/device/vbd/51712 (n0,r%D)
    /local/domain/%D/device/vbd/51712/backend = /local/domain/0/backend/vbd/%D/51712
    /local/domain/%D/device/vbd/51712/backend-id = 0
    /local/domain/%D/device/vbd/51712/state = 1
    /local/domain/%D/device/vbd/51712/virtual-device = 51712
    /local/domain/0/backend/vbd/%D/51712 (n0,r%D)
    /local/domain/0/backend/vbd/%D/51712/frontend = /local/domain/%D/device/vbd/51712
    /local/domain/0/backend/vbd/%D/51712/params = /dev/vg/guest-%D
    /local/domain/0/backend/vbd/%D/51712/frontend-id = %D
    /local/domain/0/backend/vbd/%D/51712/online = 1
    /local/domain/0/backend/vbd/%D/51712/state = 1
    /local/domain/0/backend/vbd/%D/51712/mode = w
    /local/domain/%D/device/vif/0 (n0,r%D)
    /local/domain/%D/device/vif/0/backend = /local/domain/0/backend/vif/%D/0
    /local/domain/%D/device/vif/0/state = 1
    /local/domain/%D/device/vif/0/mac = 00:16:3e:00:00:01
    /local/domain/0/backend/vif/%D/0 (n0,r%D)
    /local/domain/0/backend/vif/%D/0/frontend = /local/domain/%D/device/vif/0
    /local/domain/0/backend/vif/%D/0/state = 1
    /local/domain/0/backend/vif/%D/0/bridge = xenbr0`),
  remove: ['/local/domain/0/backend/vbd/%D', '/local/domain/0/backend/vif/%D', '/local/domain/%D', '/vm/%U', '/libxl/%D'],
};

let present = 0;
function* upTo(domain, count) {
  for (; present < count; present += 1) yield* createRequests(domain, present + 1);
}

/** A domain is created in one transaction, which is the operation, and destroyed in another. */
async function domains(connection, { count, pipelined }) {
  await bulk(connection, upTo(guest, count));
  const shape = pipelined ? (requests) => [batch(...requests)] : (requests) => requests.map((each) => batch(each));
  let eagain = 0;
  const transaction = async (requests) => {
    const batches = shape([...requests, end()]);
    const begun = performance.now();
    for (;;) {
      const id = Number.parseInt(await connection.run(starting), 10);
      let outcome;
      for (const each of batches) outcome = await connection.run(inTransaction(each, id));
      if (outcome !== 'EAGAIN') return performance.now() - begun;
      eagain += 1;
    }
  };
  const proof = '/local/domain/0/backend/vif/19999/0/bridge';
  await transaction(createRequests(guest, 19999));
  await mustBe(connection, proof, 'xenbr0');
  await transaction(removeRequests(guest, 19999));
  await mustBe(connection, proof, undefined);

  const destroyed = [];
  const { list, cpu } = await measured(async (i) => {
    const domid = 20000 + (i % 10000);
    const took = await transaction(createRequests(guest, domid));
    destroyed.push(await transaction(removeRequests(guest, domid)));
    return took;
  });
  const wallMs = list.reduce((sum, ms) => sum + ms, 0);
  const destroy = sorted(destroyed);
  return figures(list, {
    wallMs,
    cpu,
    eagain,
    destroyP50: percentile(destroy, 50) * 1000,
    destroyP99: percentile(destroy, 99) * 1000,
  });
}

/** One RM of a directory with many children, which is made anew each time. Five times, or fewer when it takes long. */
async function rmMany(connection, children) {
  const path = `${top}/many`;
  const request = batch(rm(path));
  const list = [];
  let cpu = 0;
  for (let wallMs = 0; list.length < 5 && wallMs < 2 * forMs; wallMs += list.at(-1)) {
    await bulk(
      connection,
      times(children, (i) => mkdir(`${path}/n${i}`)),
    );
    const cpuBefore = cpuSeconds(pid);
    const begun = performance.now();
    await connection.run(request);
    list.push(performance.now() - begun);
    cpu += cpuSeconds(pid) - cpuBefore;
    await mustBe(connection, `${path}/n${children - 1}`, undefined);
  }
  return figures(list, { wallMs: list.reduce((sum, ms) => sum + ms, 0), cpu });
}

/** Resident memory of the server for a domain that does nothing: the least within ten seconds, before and afterwards. */
async function memory(connection, count) {
  const domain = recordedDomain();
  const settled = async (seconds) => {
    let least = rssBytes(pid);
    for (let i = 0; i < seconds * 10; i += 1) {
      await sleep(100);
      least = Math.min(least, rssBytes(pid));
    }
    return least;
  };
  const before = await settled(1);
  await bulk(connection, upTo(domain, count));
  const after = await settled(10);
  await mustBe(connection, `/local/domain/${count}/name`, `guest-${count}`);
  return { nodes: domain.nodes, before, after, bytes: (after - before) / count };
}

const workloads = {
  read: readSequential,
  readpipe32: (connection) => readPipelined(connection, 32),
  write: writeNew,
  overwrite: (connection) => overwrite(connection, 1000),
  mkrm: mkdirAndRm,
  dir1000: (connection) => directory(connection, 1000),
  dirpart5000: (connection) => directoryPart(connection, 5000),
  txn10: (connection) => transactions(connection, { writes: 10, pipelined: false }),
  txn10pipe: (connection) => transactions(connection, { writes: 10, pipelined: true }),
  conflict,
  watchlat: watchLatency,
  fanout100: (connection) => fanout(connection, 100),
  fanout1000: (connection) => fanout(connection, 1000),
  fanout10000: (connection) => fanout(connection, 10000),
  conns100: (connection) => manyConnections(connection, 100),
  domains0: (connection) => domains(connection, { count: 0, pipelined: false }),
  domainspipe0: (connection) => domains(connection, { count: 0, pipelined: true }),
  domains1000: (connection) => domains(connection, { count: 1000, pipelined: false }),
  domainspipe1000: (connection) => domains(connection, { count: 1000, pipelined: true }),
  domains5000: (connection) => domains(connection, { count: 5000, pipelined: false }),
  domainspipe5000: (connection) => domains(connection, { count: 5000, pipelined: true }),
  rm20000: (connection) => rmMany(connection, 20000),
  memory5000: (connection) => memory(connection, 5000),
};

/** Reads for a while, so that the first workload is not measured with code of the client that is not compiled yet. */
async function warmUp(forMs) {
  const connection = await open();
  const request = batch(await readOne(connection));
  for (const until = performance.now() + forMs; performance.now() < until; ) await connection.run(request);
  connection.close();
}

/** What is not made to be repeated: it has its own count, or leaves what it made. */
const isOnce = (name) => /^(rm|memory)\d/.test(name);

async function main() {
  await warmUp(250);
  for (const name of names) {
    const connection = await open();
    const clear = batch(rm(top, 'ENOENT'));
    try {
      let result;
      for (const seconds of isOnce(name) ? [secondsText] : [warmText, secondsText].filter((text) => Number(text) > 0)) {
        forMs = Number(seconds) * 1000;
        await connection.run(clear);
        result = await workloads[name](connection);
        connection.onReplies = undefined;
      }
      await connection.run(clear);
      console.log(JSON.stringify({ name, ...result }));
    } catch (error) {
      console.log(JSON.stringify({ name, error: error.message }));
    }
    connection.close();
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error.message);
    process.exit(1);
  },
);
