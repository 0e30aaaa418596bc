// What the benchmarks of the store share: a client of the wire protocol that costs little, the nodes of a domain, and
// servers that are started, looked at in /proc, and killed. It measures nothing by itself.
//
// The client's cost is part of what is measured. So requests are encoded beforehand, as a batch that goes out in one
// write, and replies are looked at where they lie in the socket's one buffer. Every reply is held against its request,
// though, by type, number and length; what else must be right is read back by the workloads outside of the measurement.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { encode, joinStrings, XENSTORE_PAYLOAD_MAX, XS_HEADER_SIZE, XsType } from '../dist/xenbus/xs-wire.js';

// Requests. `reply` is the length that the reply's payload must have, if it is known; `may` is the error that it may be.

const ok = 'OK\0'.length;
export const read = (path, value) => ({ type: XsType.Read, payload: joinStrings(path), reply: value.length });
export const write = (path, value) => ({ type: XsType.Write, payload: `${path}\0${value}`, reply: ok });
export const mkdir = (path) => ({ type: XsType.Mkdir, payload: joinStrings(path), reply: ok });
export const rm = (path, may) => ({ type: XsType.Rm, payload: joinStrings(path), reply: ok, may });
export const watch = (path, token) => ({ type: XsType.Watch, payload: joinStrings(path, token), reply: ok });
export const unwatch = (path, token) => ({ type: XsType.Unwatch, payload: joinStrings(path, token), reply: ok });
export const start = () => ({ type: XsType.TransactionStart, payload: '\0' });
export const end = () => ({ type: XsType.TransactionEnd, payload: 'T\0', reply: ok, may: 'EAGAIN' });

/** Requests as the bytes of one write, numbered from 0. */
export function batch(...requests) {
  const bytes = encode(...requests.map(({ type, payload }, reqId) => ({ type, reqId, txId: 0, payload })));
  const offsets = [];
  let at = 0;
  for (const { payload } of requests) {
    offsets.push(at);
    at += XS_HEADER_SIZE + payload.length;
  }
  return { requests, bytes, offsets };
}

/** Puts a batch, all of whose replies have come, into another transaction. */
export function inTransaction(given, txId) {
  for (const at of given.offsets) given.bytes.writeUInt32LE(txId, at + 8);
  return given;
}

/** Writes `value` over the last `width` bytes before `behind`, which are decimal digits of a batch that is not on its way. */
export function putDigits(bytes, behind, width, value) {
  let rest = value;
  for (let at = behind - 1; at >= behind - width; at -= 1) {
    bytes[at] = 48 + (rest % 10);
    rest = Math.trunc(rest / 10);
  }
}

/** One connection. It fails for good, with all that was asked, at the first reply that is not right. */
export class Connection {
  /** Watch events that have come. */
  events = 0;
  /** Called behind each chunk with the number of replies that it held. */
  onReplies = undefined;

  #socket;
  #rest = undefined;
  #pending = [];
  #awaited = undefined;
  #failure = undefined;

  static open(path) {
    const connection = new Connection();
    const onread = { buffer: Buffer.allocUnsafe(1 << 17), callback: (length, buffer) => connection.#take(length, buffer) };
    return new Promise((resolve, reject) => {
      const socket = connect({ path, onread });
      connection.#socket = socket;
      socket.once('connect', () => resolve(connection));
      socket.on('error', (error) => {
        reject(error);
        connection.#fail(error);
      });
      socket.on('close', () => connection.#fail(new Error('the server closed the connection')));
    });
  }

  /** Sends a batch, or its first `count` requests. Gives the last reply's text, or the name of the error that was allowed. */
  run(given, count = given.requests.length) {
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure);
      this.#pending.push({ requests: given.requests, count, done: 0, error: undefined, resolve, reject });
      this.#socket.write(count === given.requests.length ? given.bytes : given.bytes.subarray(0, given.offsets[count]));
    });
  }

  /** Waits until `count` events have come since the connection was opened. */
  eventsReach(count) {
    return new Promise((resolve, reject) => {
      if (this.#failure) reject(this.#failure);
      else if (this.events >= count) resolve();
      else this.#awaited = { count, resolve, reject };
    });
  }

  /** Leaves what comes in the socket, or reads again. */
  pause() {
    this.#socket.pause();
  }
  resume() {
    this.#socket.resume();
  }

  close() {
    this.#failure = new Error('the connection is closed');
    this.#socket.destroy();
  }

  #take(length, buffer) {
    const bytes = this.#rest ? Buffer.concat([this.#rest, buffer.subarray(0, length)]) : buffer;
    const have = this.#rest ? bytes.length : length;
    let replies = 0;
    let at = 0;
    while (have - at >= XS_HEADER_SIZE && !this.#failure) {
      const size = bytes.readUInt32LE(at + 12);
      if (size > XENSTORE_PAYLOAD_MAX) return this.#fail(new Error(`the server sent a payload of ${size} bytes`));
      const next = at + XS_HEADER_SIZE + size;
      if (next > have) break;
      if (bytes.readUInt32LE(at) === XsType.WatchEvent) this.events += 1;
      else {
        this.#reply(bytes, at, size);
        replies += 1;
      }
      at = next;
    }
    this.#rest = at < have ? Buffer.from(bytes.subarray(at, have)) : undefined;
    const awaited = this.#awaited;
    if (awaited && this.events >= awaited.count) {
      this.#awaited = undefined;
      awaited.resolve();
    }
    if (replies > 0) this.onReplies?.(replies);
  }

  #reply(bytes, at, size) {
    const pending = this.#pending[0];
    if (!pending) return this.#fail(new Error('the server answered what was not asked'));
    const request = pending.requests[pending.done];
    const type = bytes.readUInt32LE(at);
    const isRight = type === request.type && (request.reply === undefined || request.reply === size);
    const text = () => bytes.toString('latin1', at + XS_HEADER_SIZE, at + XS_HEADER_SIZE + size);
    if (bytes.readUInt32LE(at + 4) !== pending.done)
      return this.#fail(new Error(`wrong number on the reply to ${said(request)}`));
    if (!isRight) {
      if (type !== XsType.Error || request.may === undefined || text() !== joinStrings(request.may)) {
        return this.#fail(new Error(`${said(request)} was answered by type ${type} with ${JSON.stringify(text().slice(0, 80))}`));
      }
      pending.error = request.may;
    }
    pending.done += 1;
    if (pending.done < pending.count) return;
    this.#pending.shift();
    pending.resolve(pending.error ?? (request.reply === undefined ? text() : undefined));
  }

  #fail(error) {
    this.#failure ??= error;
    for (const { reject } of this.#pending.splice(0)) reject(this.#failure);
    this.#awaited?.reject(this.#failure);
  }
}

const said = ({ type, payload }) => `request type ${type} ${JSON.stringify(payload.slice(0, 80))}`;

/** Sends many requests whose replies only have to be right, some dozens at a time. */
export async function bulk(connection, requests) {
  const perBatch = 64;
  let before;
  let some = [];
  const send = async () => {
    const sent = connection.run(batch(...some));
    sent.catch(() => undefined);
    some = [];
    await before;
    before = sent;
  };
  for (const request of requests) {
    some.push(request);
    if (some.length === perBatch) await send();
  }
  if (some.length > 0) await send();
  await before;
}

/** A text that must be in the store; undefined: nothing must be. */
export async function mustBe(connection, path, value) {
  const request = { type: XsType.Read, payload: joinStrings(path), may: value === undefined ? 'ENOENT' : undefined };
  const found = await connection.run(batch(request));
  if (found !== (value ?? 'ENOENT')) throw new Error(`${path} is ${JSON.stringify(found)} and not ${JSON.stringify(value)}`);
}

// Domains. A template is a list of requests with %D for the domid and %U for the uuid.

const templateRequest = (type, ...strings) => ({ type, payload: strings.join('\0'), reply: ok });

/** `/path (n0,r%D)` is a MKDIR and a SET_PERMS; `/path = value` is a WRITE, and may have permissions too. */
export function template(text) {
  return text
    .trim()
    .split('\n')
    .flatMap((line) => {
      const [, path, written, value = '', perms] = /^(\S+)( =(?: ([^( ]+))?)?(?: \((.*)\))?$/.exec(line.trim());
      const made = written ? templateRequest(XsType.Write, path, value) : templateRequest(XsType.Mkdir, path, '');
      return perms ? [made, templateRequest(XsType.SetPerms, path, ...perms.split(','), '')] : [made];
    });
}

const fill = (text, domid) =>
  text.replaceAll('%D', domid).replaceAll('%U', `00000000-0000-4000-8000-${String(domid).padStart(12, '0')}`);

export const createRequests = (domain, domid) => domain.create.map((each) => ({ ...each, payload: fill(each.payload, domid) }));
export const removeRequests = (domain, domid) => domain.remove.map((path) => rm(fill(path, domid)));
/** WATCHes of a template's paths, or with `unwatch` the other way. */
export const watchRequests = (paths, domid, make = watch) => paths.map((path) => make(fill(path, domid), `FFFF8880${domid}`));

/**
 * A domain as xl writes it, 110 nodes with their values and permissions, and the 15 watches that dom0 and the guest then
 * have on it: taken from the requests that were recorded on a real host. Left out are libxl's own copies of the backends.
 * What the guest would own is dom0's, because no server here has guests, and a node is not given to a domain that is not.
 */
export function recordedDomain() {
  const recording = readFileSync(new URL('../test/golden/data/create.writes.txt', import.meta.url), 'utf8');
  const text = recording
    .replaceAll(/\/vm\/(\S+)/.exec(recording)[1], '%U')
    .replaceAll(/\b(domain|libxl|vbd|vif|console)\/1(?!\d)/g, '$1/%D')
    .replaceAll(/(domid|frontend-id) 1$/gm, '$1 %D')
    .replaceAll(/(SET_PERMS \S+) n1 r0\b/g, '$1 n0 r1')
    .replaceAll(/(SET_PERMS \S+) n1\b/g, '$1 n0')
    .replaceAll(/(SET_PERMS \S+ n0 r)1\b/g, '$1%D')
    .replaceAll(/name pv$/gm, 'name guest-%D');
  const domain = { create: [], remove: [], watches: { dom0: [], guest: [] } };
  const nodes = new Set();
  for (const line of text.split('\n')) {
    const [, who, op, path, rest = ''] = /^#\d+ +(\S+) +(?:\[T )?(\S+)(?: (\S+))?(?: (.*))?$/.exec(line) ?? [];
    if (op === 'WATCH' && who !== 'xl' && !path.startsWith('@')) {
      const home = who === 'domU-kernel' ? '/local/domain/%D/' : '/local/domain/0/';
      domain.watches[who === 'domU-kernel' ? 'guest' : 'dom0'].push(path.startsWith('/') ? path : home + path);
    }
    if (who !== 'xl' || !['WRITE', 'MKDIR', 'SET_PERMS'].includes(op)) continue;
    const copy = /^\/libxl\/%D\/device\/[a-z]+(?=\/)/.exec(path)?.[0];
    if (copy && nodes.has(copy)) continue;
    const type = { WRITE: XsType.Write, MKDIR: XsType.Mkdir, SET_PERMS: XsType.SetPerms }[op];
    if (copy) domain.create.push(templateRequest(XsType.Mkdir, copy, ''));
    else domain.create.push(templateRequest(type, path, ...(op === 'SET_PERMS' ? [...rest.trim().split(/ +/), ''] : [rest])));
    for (let node = copy ?? path; /%[DU]/.test(node); node = node.slice(0, node.lastIndexOf('/'))) nodes.add(node);
  }
  domain.remove = [...nodes].filter((node) => /%[DU]$/.test(node));
  domain.nodes = nodes.size;
  return domain;
}

// Servers.

const ticksPerSecond = 100;

/** Seconds of user and system time that a process has used. */
export function cpuSeconds(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

/** Less than this cannot be told from the clock's own steps. */
export const cpuSecondsLeast = 5 / ticksPerSecond;

export function rssBytes(pid) {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024;
}

/** What ends the servers that are still there; none outlives the benchmark, however it ends. */
const running = new Set();
process.on('exit', () => {
  for (const stop of running) stop();
});
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));

/** This project's server, when no command is given; else what the command starts, which must print `socket=PATH pid=PID`. */
export async function startServer(command, cpu) {
  const dir = mkdtempSync(join(tmpdir(), 'xsb.'));
  const stopping = (pid) => {
    const stop = () => {
      running.delete(stop);
      try {
        process.kill(pid, 'SIGKILL');
      } catch (error) {
        // One that is gone by itself was told of by its connections.
        if (error.code !== 'ESRCH') throw error;
      }
      rmSync(dir, { recursive: true, force: true });
    };
    running.add(stop);
    return stop;
  };
  if (command === undefined) {
    const socket = join(dir, 'socket');
    const server = fileURLToPath(new URL('xenstore-server.js', import.meta.url));
    const child = spawn(...pinned(cpu, process.execPath, [server, socket]), { stdio: ['ignore', 'pipe', 'inherit'] });
    const stop = stopping(child.pid);
    await new Promise((resolve, reject) => {
      child.once('exit', (code) =>
        reject(new Error(`bench/xenstore-server.js ended with ${code}: was there \`npm run build\`?`)),
      );
      child.stdout.once('data', resolve);
    });
    return { socket, pid: child.pid, stop };
  }
  const env = cpu === undefined ? process.env : { ...process.env, XSPEER_CPU: cpu };
  const printed = execFileSync('sh', ['-c', command.replaceAll('{dir}', dir)], { encoding: 'utf8', env });
  const [, socket, pid] = /socket=(\S+) pid=(\d+)/.exec(printed) ?? [];
  if (pid === undefined) throw new Error(`\`${command}\` must print socket=PATH pid=PID, and printed ${JSON.stringify(printed)}`);
  const stop = stopping(Number(pid));
  if (cpu !== undefined) execFileSync('taskset', ['-a', '-p', '-c', cpu, pid]);
  return { socket, pid: Number(pid), stop };
}

/** A command and its arguments, on one core if one is given. */
export function pinned(cpu, command, args) {
  return cpu === undefined ? [command, args] : ['taskset', ['-c', cpu, command, ...args]];
}

// Figures.

export const sorted = (list) => Float64Array.from(list).sort();
export const percentile = (list, percent) => list[Math.min(list.length - 1, Math.floor((list.length * percent) / 100))];
export const median = (list) => (percentile(sorted(list), 50) + sorted(list)[(list.length - 1) >> 1]) / 2;

/** Rows of text as a Markdown table; the first column is words, the others are numbers. */
export function markdown(rows) {
  const widths = rows[0].map((_, column) => Math.max(3, ...rows.map((row) => row[column].length)));
  const line = (cells) => `| ${cells.join(' | ')} |`;
  const padded = rows.map((row) => line(row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))));
  const rule = line(widths.map((width, i) => (i === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`)));
  return [padded[0], rule, ...padded.slice(1)].join('\n');
}
