/**
 * Clients that do not behave, on real sockets: they do not read, do not finish, come in thousands, leave in the middle.
 * Whatever they do, the others are served, what is kept for them has a bound, and the log says once why somebody had to
 * go. Nothing in here waits for time to pass: a test goes on when what it waits for is there.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectionsMax, listenStore, socketBufferBytes } from '../../src/xenbus/server.js';
import { inputQueueMax, outputDropBytes, outputHoldBytes, StoreLoop } from '../../src/xenbus/store-loop.js';
import { PacketReader, type StoreLink, type StorePeer, socketTransport } from '../../src/xenbus/transport.js';
import { type Xs, xsClient } from '../../src/xenbus/xs-client.js';
import {
  encode,
  joinStrings,
  splitStrings,
  XENSTORE_PAYLOAD_MAX,
  XS_HEADER_SIZE,
  type XsPacket,
  XsType,
} from '../../src/xenbus/xs-wire.js';

/** What one connection of the server had in the store at most. */
interface Measured {
  pushed: number;
  delivered: number;
  /** Requests that were with the store and not answered, at most. */
  pendingMost: number;
  wasFull: boolean;
}

let directory: string;
let path: string;
let log: string[];
let loop: StoreLoop;
let server: { close(): Promise<void> };
let measured: Measured[];
let sockets: Socket[];
let bystander: Xs;

/** The store's loop as a port that counts what passes. */
function measuring(peer: StorePeer): StoreLink {
  const counts: Measured = { pushed: 0, delivered: 0, pendingMost: 0, wasFull: false };
  measured.push(counts);
  const link = loop.connect({
    ...peer,
    deliver: (packet) => {
      if (packet.type !== XsType.WatchEvent) counts.delivered += 1;
      peer.deliver(packet);
    },
    full: () => {
      const isFull = peer.full?.() ?? false;
      counts.wasFull ||= isFull;
      return isFull;
    },
  });
  return {
    ...link,
    push: (packet) => {
      counts.pushed += 1;
      counts.pendingMost = Math.max(counts.pendingMost, counts.pushed - counts.delivered);
      return link.push(packet);
    },
  };
}

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'xs-abuse-'));
  path = join(directory, 'socket');
  [log, measured, sockets] = [[], [], []];
  const turn = (): void => {
    for (let served = 0; loop.serveOne(); served += 1) {
      if (served === 64) {
        setImmediate(turn);
        return;
      }
    }
  };
  loop = new StoreLoop({ domain: () => undefined, wake: () => setImmediate(turn), log: (line) => log.push(line) });
  server = await listenStore({ connect: measuring }, { path, domid: 0, who: 'client', log: (line) => log.push(line) });
  bystander = xsClient(await socketTransport(path));
  await bystander.write('/by', 'stander');
});

afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  bystander.close();
  await server.close();
  rmSync(directory, { recursive: true });
});

/** Goes on when it is so; every turn of the event loop is a chance. */
async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setImmediate(resolve));
}

/** The others are served: a dialogue of theirs comes to its end. */
async function othersAreServed(): Promise<void> {
  await bystander.write('/by/value', 'v');
  expect(await bystander.read('/by/value')).toBe('v');
  expect(await bystander.read('/by/missing')).toBeUndefined();
}

function raw(): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen: true });
    sockets.push(socket);
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      // A peer that is abused back may see its connection reset.
      socket.on('error', () => undefined);
      resolve(socket);
    });
  });
}

/** A connection, and what is counted of it. */
async function accepted(): Promise<[Socket, Measured]> {
  const before = measured.length;
  const socket = await raw();
  await until(() => measured.length > before);
  return [socket, measured[before] as Measured];
}

const packet = (type: number, ...strings: readonly string[]): XsPacket => ({
  type,
  reqId: 0,
  txId: 0,
  payload: joinStrings(...strings),
});
const request = (type: number, ...strings: readonly string[]): Buffer => encode(packet(type, ...strings));

/** What a socket gets, from now on, as text; `ended` when the server closed it. */
function listen(socket: Socket): { readonly got: string[]; readonly ended: () => boolean } {
  const reader = new PacketReader();
  const got: string[] = [];
  let isEnded = false;
  socket.on('data', (chunk) => {
    for (const { payload } of reader.read(chunk).packets) got.push(splitStrings(payload).join(' '));
  });
  socket.on('end', () => {
    isEnded = true;
  });
  socket.on('close', () => {
    isEnded = true;
  });
  return { got, ended: () => isEnded };
}

const openFiles = (): number => readdirSync('/proc/self/fd').length;

test('one that asks and never reads is not served past the bounds, and gets every answer once it reads', async () => {
  const value = 'v'.repeat(4000);
  await bystander.write('/big', value);
  const asked = 5_000;
  const [slow, own] = await accepted();
  const one = request(XsType.Read, '/big');
  slow.write(Buffer.concat(new Array<Buffer>(asked).fill(one)));
  await until(() => own.wasFull);
  for (let i = 0; i < 20; i += 1) await othersAreServed();
  expect(own.delivered).toBeLessThan(asked);
  const replies = Math.ceil(outputHoldBytes / (XS_HEADER_SIZE + value.length)) + 1;
  expect(own.pendingMost).toBeLessThanOrEqual(inputQueueMax + replies);
  const { got } = listen(slow);
  await until(() => got.length === asked);
  expect(new Set(got)).toEqual(new Set([value]));
  expect(log).toEqual([]);
});

test('a watcher that never reads is dropped when too much waits for it, with one line of the log, and no other is', async () => {
  const [watcher, own] = await accepted();
  const awake = xsClient(await socketTransport(path));
  const heard: string[] = [];
  await awake.watch('/storm', (changed) => heard.push(changed));
  const token = 't'.repeat(4000);
  watcher.write(request(XsType.Watch, '/storm', token));
  await until(() => own.delivered === 1);
  // The sockets' own buffers come on top.
  const events = 2 * Math.ceil(outputDropBytes / token.length);
  let written = 0;
  for (; written < events && log.length === 0; written += 1) await bystander.write(`/storm/${written}`, 'v');
  expect(log).toEqual([
    expect.stringMatching(
      new RegExp(`^xenstored: connection \\d+ of client \\(domain 0\\) is dropped: it left over ${outputDropBytes} `),
    ),
  ]);
  const { ended } = listen(watcher);
  await until(ended);
  await othersAreServed();
  // The first event is that of the watch itself.
  await until(() => heard.length === 1 + written);
  expect(loop.connections).toBe(2);
  awake.close();
});

test('messages that are left half open hold nobody up, and are answered when they are whole', async () => {
  const whole = request(XsType.Read, '/by');
  const halves = await Promise.all(Array.from({ length: 200 }, raw));
  const all = halves.map(listen);
  const cut = (i: number) => i % whole.length;
  for (const [i, socket] of halves.entries()) socket.write(whole.subarray(0, cut(i)));
  for (let i = 0; i < 10; i += 1) await othersAreServed();
  expect(all.flatMap(({ got }) => got)).toEqual([]);
  for (const [i, socket] of halves.entries()) socket.write(whole.subarray(cut(i)));
  await until(() => all.every(({ got }) => got.length === 1));
  expect(new Set(all.flatMap(({ got }) => got))).toEqual(new Set(['stander']));
  expect(log).toEqual([]);
});

test('bytes that come one by one are requests all the same', async () => {
  const socket = await raw();
  const { got } = listen(socket);
  const bytes = Buffer.concat([
    request(XsType.Write, '/one', 'x'.repeat(2000)),
    request(XsType.Read, '/by'),
    request(XsType.Read, '/none'),
  ]);
  for (const byte of bytes) {
    await new Promise((resolve) => socket.write(Buffer.of(byte), resolve));
  }
  await until(() => got.length === 3);
  expect(got).toEqual(['OK', 'stander', 'ENOENT']);
});

test.each([XENSTORE_PAYLOAD_MAX + 1, 0x7fffffff, 0xffffffff])(
  'a length of %i ends its connection with one line of the log, when what was asked before is answered',
  async (length) => {
    const socket = await raw();
    const { got, ended } = listen(socket);
    const bad = request(XsType.Read, '/by');
    bad.writeUInt32LE(length, 12);
    socket.write(Buffer.concat([request(XsType.Read, '/by'), request(XsType.Read, '/none'), bad, request(XsType.Read, '/by')]));
    await until(ended);
    expect(got).toEqual(['stander', 'ENOENT']);
    expect(log).toEqual([
      `xenstored: ${path}: a connection of client does not speak the protocol: payload of ${length} bytes is over ${XENSTORE_PAYLOAD_MAX}`,
    ]);
    await othersAreServed();
    expect(loop.connections).toBe(1);
  },
);

test('thousands that come and go leave no connection, no file and no line behind', async () => {
  const files = openFiles();
  const what = [
    (socket: Socket) => socket.destroy(),
    (socket: Socket) => socket.end(request(XsType.Watch, '/by', 't')),
    (socket: Socket) => socket.write(request(XsType.TransactionStart, ''), () => socket.destroy()),
    (socket: Socket) => socket.end(Buffer.of(1, 2, 3)),
  ];
  for (let round = 0; round < 20; round += 1) {
    const batch = await Promise.all(Array.from({ length: 100 }, raw));
    for (const [i, socket] of batch.entries()) {
      socket.resume();
      socket.on('end', () => socket.end());
      what[i % what.length]?.(socket);
    }
    await othersAreServed();
    await until(() => batch.every((socket) => socket.closed));
    sockets = [];
  }
  await until(() => loop.connections === 1 && openFiles() <= files);
  expect(openFiles()).toBeLessThanOrEqual(files);
  expect([loop.connections, log]).toEqual([1, []]);
  expect(measured).toHaveLength(2001);
});

test(`of ${connectionsMax} and one more the last is turned away, with one line of the log, until another leaves`, async () => {
  const batch = 256;
  for (let open = 1; open < connectionsMax; ) {
    const more = Math.min(batch, connectionsMax - open);
    await Promise.all(Array.from({ length: more }, raw));
    open += more;
    await until(() => loop.connections === open);
  }
  const late = await raw();
  const { ended } = listen(late);
  await until(ended);
  expect([loop.connections, log]).toEqual([
    connectionsMax,
    [`xenstored: ${path}: over ${connectionsMax} connections, one more is turned away`],
  ]);
  await othersAreServed();
  sockets[0]?.destroy();
  await until(() => loop.connections === connectionsMax - 1);
  const next = await raw();
  const { got } = listen(next);
  next.write(request(XsType.Read, '/by'));
  await until(() => got.length === 1);
  expect(got).toEqual(['stander']);
});

test('a storm of watches reaches everybody, once for each watch, and others are served within it', async () => {
  const [watchers, watches, writes] = [40, 50, 5];
  const all = await Promise.all(Array.from({ length: watchers }, raw));
  const heard = all.map(listen);
  for (const socket of all) {
    socket.write(Buffer.concat(Array.from({ length: watches }, (_, i) => request(XsType.Watch, '/storm', String(i)))));
  }
  await until(() => heard.every(({ got }) => got.length === 2 * watches));
  const storming = Array.from({ length: writes }, (_, i) => bystander.write(`/storm/${i}`, 'v'));
  await othersAreServed();
  await Promise.all(storming);
  const total = (2 + writes) * watches;
  await until(() => heard.every(({ got }) => got.length >= total));
  const tally = new Map<string, number>();
  for (const line of heard.flatMap(({ got }) => got)) tally.set(line, (tally.get(line) ?? 0) + 1);
  const expected = Array.from({ length: writes }, (_, write) =>
    Array.from({ length: watches }, (_, watch) => tally.get(`/storm/${write} ${watch}`)),
  ).flat();
  expect(new Set(expected)).toEqual(new Set([watchers]));
  expect(log).toEqual([]);
});

test('hundreds of transactions left open hold nobody up and go with their connection', async () => {
  const socket = await raw();
  const { got } = listen(socket);
  const count = 500;
  socket.write(Buffer.concat(new Array<Buffer>(count).fill(request(XsType.TransactionStart, ''))));
  await until(() => got.length === count);
  expect(got.at(-1)).toBe(String(count));
  const write = (txId: number): Buffer => encode({ ...packet(XsType.Write, '/by', 'stolen'), txId });
  socket.write(Buffer.concat(got.map((id) => write(Number(id)))));
  await until(() => got.length === 2 * count);
  await othersAreServed();
  const usage = async (): Promise<string | undefined> => {
    const asker = await raw();
    const answer = listen(asker);
    asker.write(request(XsType.Control, 'quota', '0'));
    await until(() => answer.got.length === 1);
    asker.destroy();
    return /transactions +: +(\d+)/.exec(answer.got[0] ?? '')?.[1];
  };
  expect(await usage()).toBe(String(count));
  socket.destroy();
  await until(() => loop.connections === 1);
  expect([await usage(), await bystander.read('/by')]).toEqual(['0', 'stander']);
});

test('a peer that closes its half is answered, and closed then; half a message is no request', async () => {
  const socket = await raw();
  const { got, ended } = listen(socket);
  const whole = request(XsType.Read, '/by');
  socket.end(Buffer.concat([whole, whole, whole, whole.subarray(0, 18)]));
  await until(ended);
  expect(got).toEqual(['stander', 'stander', 'stander']);
  await until(() => loop.connections === 1);
  expect(log).toEqual([]);
});

test('a peer that closes its half and does not read gets its answers when it does', async () => {
  const value = 'v'.repeat(4000);
  await bystander.write('/big', value);
  const [socket, own] = await accepted();
  const asked = 2_000;
  socket.end(Buffer.concat(new Array<Buffer>(asked).fill(request(XsType.Read, '/big'))));
  await until(() => own.wasFull);
  await othersAreServed();
  expect(own.delivered).toBeLessThan(asked);
  const { got, ended } = listen(socket);
  await until(ended);
  expect([got.length, new Set(got)]).toEqual([asked, new Set([value])]);
  await until(() => loop.connections === 1);
});

test('peers that go away in the middle of a reply leave nothing behind', async () => {
  const value = 'v'.repeat(4000);
  await bystander.write('/big', value);
  const one = request(XsType.Read, '/big');
  const asked = Math.ceil((4 * socketBufferBytes) / value.length);
  for (let round = 0; round < 50; round += 1) {
    const [socket, own] = await accepted();
    socket.write(Buffer.concat(new Array<Buffer>(asked).fill(one)));
    if (round % 2 === 0) {
      await until(() => own.delivered > round % 7);
      socket.destroy();
    } else {
      socket.once('data', () => socket.destroy());
    }
    await until(() => socket.closed);
    await othersAreServed();
  }
  await until(() => loop.connections === 1);
  expect(log).toEqual([]);
});
