import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SimClock } from '../../src/xenbus/clock.js';
import { PRIVCMD_PROTO, PrivcmdError, type PrivcmdHandlers, privcmdLineMaxBytes } from '../../src/xenbus/privcmd.js';
import { type PrivcmdClient, ProtocolError, privcmdClient } from '../../src/xenbus/privcmd-client.js';
import { type PrivcmdServer, privcmdInFlightMax, servePrivcmd } from '../../src/xenbus/privcmd-server.js';
import { Turns } from '../../src/xenbus/turns.js';

const dir = mkdtempSync(join(tmpdir(), 'privcmd-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

let serial = 0;
let server: PrivcmdServer | undefined;
let clients: PrivcmdClient[] = [];
let log: string[] = [];

afterEach(async () => {
  for (const client of clients) client.close();
  clients = [];
  await server?.close();
  server = undefined;
  log = [];
});

async function serve(handlers: Partial<PrivcmdHandlers>): Promise<string> {
  serial += 1;
  const path = join(dir, `sock${serial}`);
  server = await servePrivcmd({
    path,
    version: '1.2.3',
    handlers: handlers as PrivcmdHandlers,
    log: (line) => log.push(line),
  });
  return path;
}

async function client(path: string): Promise<PrivcmdClient> {
  const made = await privcmdClient(path, '0.9.0');
  clients.push(made);
  return made;
}

const getinfo = (handler: (domid: number) => Promise<null> | null): Partial<PrivcmdHandlers> => ({
  'xc.domain_getinfo': ({ domid }) => handler(domid),
});

/** Sends raw lines and collects what comes back until the server ends the connection. */
async function raw(path: string, ...lines: readonly (string | Buffer)[]): Promise<string[]> {
  const socket = connect(path);
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk.toString();
  });
  socket.on('error', () => undefined);
  for (const line of lines) socket.write(line);
  await once(socket, 'close');
  return text.split('\n').filter((line) => line !== '');
}

const hello = (proto = PRIVCMD_PROTO) => `${JSON.stringify({ proto, version: '0.9.0', pid: 1 })}\n`;

test('the socket is for its user alone', async () => {
  const path = await serve({});
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test('the first line each way says who speaks', async () => {
  const path = await serve({});
  const { server: theirs } = await client(path);
  expect(theirs).toEqual({ proto: PRIVCMD_PROTO, version: '1.2.3', pid: process.pid });
});

test('many requests are in flight, and each is answered by its number in whatever order', async () => {
  const release: (() => void)[] = [];
  const path = await serve(getinfo((domid) => new Promise((resolve) => release.push(() => resolve(domid as never)))));
  const xc = await client(path);
  const order: number[] = [];
  const asked = [1, 2, 3].map(async (domid) => {
    order.push((await xc.call('xc.domain_getinfo', { domid })) as never);
  });
  while (release.length < 3) await new Promise((resolve) => setImmediate(resolve));
  for (const answer of release.reverse()) answer();
  await Promise.all(asked);
  expect(order).toEqual([3, 2, 1]);
});

/** Lets whatever is ready have its turn, so many times. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

test('a peer with too many requests in flight is no longer read, until one is answered', async () => {
  let begun = 0;
  const release: (() => void)[] = [];
  const path = await serve(
    getinfo(() => {
      begun += 1;
      return new Promise((resolve) => release.push(() => resolve(null)));
    }),
  );
  const xc = await client(path);
  // Chunks that were read before the bound are served to their end, so the requests come one at a time.
  const calls: Promise<unknown>[] = [];
  for (let domid = 0; domid < privcmdInFlightMax + 50; domid++) {
    calls.push(xc.call('xc.domain_getinfo', { domid }));
    if (domid >= privcmdInFlightMax - 10) await turns(20);
  }
  await turns(200);
  expect(begun).toBeLessThan(privcmdInFlightMax + 50);
  const held = begun;
  while (release.length > 0) {
    release.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  while (begun < privcmdInFlightMax + 50) {
    release.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  for (const answer of release) answer();
  await Promise.all(calls);
  expect(held).toBeGreaterThanOrEqual(privcmdInFlightMax);
});

test.each([
  ['an operation that is not there', 'dom0.nosuch', {}, 'ENOSYS', 'no operation dom0.nosuch'],
  ['a name that every object has', 'constructor', {}, 'ENOSYS', 'no operation constructor'],
  ['a number that is none', 'xc.domain_getinfo', { domid: '1' }, 'EINVAL', 'xc.domain_getinfo: domid is not a number'],
  [
    'an argument that is missing',
    'dom0.hold',
    { device: 'vif1.0' },
    'EINVAL',
    'dom0.hold: mode is not inflight or io or grants or connect or bio',
  ],
  ['arguments that are no object', 'xc.domain_getinfo', [1], 'EINVAL', 'xc.domain_getinfo: arguments are an object'],
])('refuses %s', async (_what, op, args, errno, message) => {
  const path = await serve(getinfo(() => null));
  const xc = await client(path);
  await expect(xc.call(op as 'dom0.status', args as never)).rejects.toMatchObject({ errno, message });
  expect(log).toEqual([]);
});

test("a handler's refusal arrives as it is; its bug as EIO, with the stack in the log", async () => {
  const path = await serve({
    'dom0.status': () => {
      throw new PrivcmdError('EBUSY', 'not now');
    },
    'dom0.holds': () => {
      throw new TypeError('oh');
    },
  });
  const xc = await client(path);
  await expect(xc.call('dom0.status', {})).rejects.toMatchObject({ errno: 'EBUSY', message: 'not now' });
  await expect(xc.call('dom0.holds', {})).rejects.toMatchObject({ errno: 'EIO', message: 'TypeError: oh' });
  expect(log).toEqual([expect.stringMatching(/^privcmd: dom0\.holds failed: TypeError: oh\n +at /)]);
});

test.each([
  ['garbage', ['\xff\xfe\n'], /a line that is not JSON/],
  ['half a line of JSON', ['{"proto":\n'], /a line that is not JSON: "\{\\"proto\\":"/],
  ['a first line that says nothing', ['{"op":"dom0.status"}\n'], /its first line does not say who it is/],
  ['a request without a number', [hello(), '{"op":"dom0.status"}\n'], /of pid 1: a line that is no request/],
  ['a line that does not end', [hello(), 'x'.repeat(privcmdLineMaxBytes + 1)], /of pid 1: a line of more than 1048576 bytes/],
])('ends the connection of a peer that sends %s, and says why in the log', async (_what, lines, why) => {
  const path = await serve({});
  const answered = await raw(path, ...lines);
  expect(answered).toHaveLength(1);
  expect(log).toEqual([expect.stringMatching(why)]);
});

test('a line may come in any pieces, and end in the middle of a character', async () => {
  const path = await serve({ 'dom0.hold': ({ device }) => ({ device, mode: 'inflight', stalled: false }) });
  const socket = connect(path);
  const replies: string[] = [];
  socket.on('data', (chunk) => replies.push(chunk.toString()));
  const bytes = Buffer.from(`${hello()}{"id":7,"op":"dom0.hold","args":{"device":"vif–1","mode":"inflight"}}\n`);
  for (const byte of bytes) {
    socket.write(Buffer.of(byte));
    await new Promise((resolve) => setImmediate(resolve));
  }
  while (!replies.join('').includes('"id":7')) await once(socket, 'data');
  socket.destroy();
  expect(JSON.parse(replies.join('').split('\n')[1] ?? '')).toEqual({
    id: 7,
    ok: { device: 'vif–1', mode: 'inflight', stalled: false },
  });
});

test('a peer of another protocol gets the first line and nothing else', async () => {
  const path = await serve({ 'dom0.holds': () => [] });
  const answered = await raw(path, hello(PRIVCMD_PROTO + 1), '{"id":1,"op":"dom0.holds"}\n');
  expect(answered.map((line) => JSON.parse(line))).toEqual([{ proto: PRIVCMD_PROTO, version: '1.2.3', pid: process.pid }]);
});

describe('a server that is not ours', () => {
  let fake: Server;
  afterEach(() => fake.close());

  async function answering(text: string, then: (socket: Socket) => void = () => undefined): Promise<string> {
    serial += 1;
    const path = join(dir, `sock${serial}`);
    fake = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.write(text);
      then(socket);
    });
    fake.listen(path);
    await once(fake, 'listening');
    return path;
  }

  test('is refused when it speaks another protocol, with what to do', async () => {
    const path = await answering('{"proto":2,"version":"3.0.0","pid":77}\n');
    const failure = await privcmdClient(path, '0.9.0').catch((error: Error) => error);
    expect(failure).toBeInstanceOf(ProtocolError);
    expect((failure as Error).message).toBe(
      'this is xl 0.9.0 (protocol 1), the running dom0 is 3.0.0 (protocol 2, pid 77); use that xl, or end its dom0 with `kill 77`',
    );
  });

  test('is refused when it says nothing that makes sense', async () => {
    await expect(privcmdClient(await answering('hello?\n'), '0.9.0')).rejects.toThrow('a line that is not JSON: "hello?"');
    fake.close();
    await expect(privcmdClient(await answering('[]\n'), '0.9.0')).rejects.toThrow('is no dom0');
  });

  test('is given up when it does not answer', async () => {
    await expect(privcmdClient(await answering(''), '0.9.0', 20)).rejects.toThrow('no answer from dom0');
  });

  test('leaves no request unanswered when it goes away', async () => {
    const path = await answering(hello(), (socket) => socket.once('data', () => setImmediate(() => socket.destroy())));
    const xc = await privcmdClient(path, '0.9.0');
    await expect(xc.call('dom0.status', {})).rejects.toMatchObject({ errno: 'EIO', message: 'dom0 ended the connection' });
    await xc.closed;
    await expect(xc.call('dom0.status', {})).rejects.toMatchObject({ errno: 'EIO' });
  });
});

test('a turn is over with the connection that had it, and one that was waited for is given back at once', async () => {
  const turns = new Turns(new SimClock(1));
  const over: number[] = [];
  const path = await serve({
    'dom0.turn': () => turns.take(),
    'dom0.turn_over': ({ turn }) => {
      over.push(turn);
      turns.over(turn);
      return null;
    },
  });
  const [first, second, third] = [await client(path), await client(path), await client(path)];
  expect(await first.call('dom0.turn', {})).toEqual({ turn: 1 });
  const never = second.call('dom0.turn', {}).catch(() => 'ended');
  // The answer to a later request shows that the earlier one has arrived.
  await second.call('dom0.turn_over', { turn: 0 });
  second.close();
  expect(await never).toBe('ended');
  const mine = third.call('dom0.turn', {});
  await third.call('dom0.turn_over', { turn: 0 });
  first.close();
  expect(await mine).toEqual({ turn: 3 });
  expect(over).toEqual([0, 0, 1, 2]);
});
