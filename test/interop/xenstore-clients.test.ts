/** Clients that nobody here wrote, over a real socket: Debian's xenstore-utils and Xen's own test-xenstore. */
import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { listenStore, socketPathMax } from '../../src/xenbus/server.js';
import { StoreLoop } from '../../src/xenbus/store-loop.js';
import { socketTransport } from '../../src/xenbus/transport.js';
import { xsClient } from '../../src/xenbus/xs-client.js';
import { decode, encode, joinStrings, XsType } from '../../src/xenbus/xs-wire.js';
import { testWith, testWithPython } from './clients.js';

const withTools = testWith('xenstore-ls');
const withTestXenstore = testWith('test-xenstore');

let directory: string;
let path: string;
let log: string[];
let server: { close(): Promise<void> };
let loop: StoreLoop;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'xs-'));
  path = join(directory, 'socket');
  log = [];
  const turn = (): void => {
    for (let served = 0; loop.serveOne(); served += 1) {
      if (served === 64) {
        setImmediate(turn);
        return;
      }
    }
  };
  const domain = (domid: number) => (domid === 3 || domid === 4 ? { dying: false, shutdown: false } : undefined);
  loop = new StoreLoop({ domain, wake: () => setImmediate(turn), log: (line) => log.push(line) });
  server = await listenStore(loop, { path, domid: 0, who: 'client', log: (line) => log.push(line) });
});

afterEach(async () => {
  await server.close();
  rmSync(directory, { recursive: true });
});

const environment = () => ({ ...process.env, XENSTORED_PATH: path });

async function run(command: string, ...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(command, args, { env: environment() });
  return stdout;
}

/** The next bytes of a raw socket, as many as are asked for. */
function bytesOf(socket: Socket, count: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let have = Buffer.alloc(0);
    const take = (chunk: Buffer) => {
      have = Buffer.concat([have, chunk]);
      if (have.length < count) return;
      socket.off('data', take);
      resolve(have);
    };
    socket.on('data', take);
    socket.once('close', () => reject(new Error(`closed after ${have.length} bytes`)));
  });
}

const raw = (): Promise<Socket> =>
  new Promise((resolve) => {
    const socket = connect(path, () => resolve(socket));
  });

const closed = (socket: Socket): Promise<void> =>
  new Promise((resolve) => {
    socket.resume();
    socket.once('close', () => resolve());
  });

const read = (reqId: number, name: string) => encode({ type: XsType.Read, reqId, txId: 0, payload: joinStrings(name) });

describe('xenstore-utils', () => {
  withTools('write, read, list, permit and remove', async () => {
    await run('xenstore-write', '/vm/one', 'a value', '/vm/two', 'b');
    await run('xenstore-chmod', '/vm/two', 'n0', 'r0');
    expect(await run('xenstore-read', '/vm/one')).toBe('a value\n');
    expect(await run('xenstore-list', '/vm')).toBe('one\ntwo\n');
    expect(await run('xenstore-ls', '/vm')).toBe('one = "a value"\ntwo = "b"\n');
    await run('xenstore-rm', '/vm/one');
    await expect(run('xenstore-read', '/vm/one')).rejects.toThrow(/couldn't read path/);
  });

  withTools('watch: the first event is the path itself, the next one what changed', async () => {
    const watch = spawn('xenstore-watch', ['-n', '2', '/vm'], { env: environment() });
    const lines: string[] = [];
    const ended = new Promise((resolve) => watch.once('close', resolve));
    watch.stdout.on('data', (chunk: Buffer) => {
      lines.push(...chunk.toString().trim().split('\n'));
      if (lines.length === 1) void run('xenstore-write', '/vm/x', 'v');
    });
    await ended;
    expect(lines).toEqual(['/vm', '/vm/x']);
  });
});

withTestXenstore("Xen's own test-xenstore passes all of its tests, conflicts among them", async (testXenstore) => {
  const lines = (await run(testXenstore)).trim().split('\n');
  expect(lines.map((line) => line.split(':')[0]?.trim())).toEqual([
    'read 1',
    'read 2000',
    'write 1',
    'write 2000',
    'dir',
    'rm node',
    'rm dir',
    'ta empty',
    'ta empty x',
    'ta rmw',
    'ta rmw x',
    'ta err',
  ]);
});

withTestXenstore("Xen's own test-xenstore finds nothing in a second of random work", async (testXenstore) => {
  expect(await run(testXenstore, '-r', '1')).toBe('');
});

testWithPython('pyxs')('every call of pyxs is answered as it should be', async (python) => {
  const script = `
import errno, pyxs
pyxs.Client.SU = True  # as on a host that runs Xen
def refused(call, *args):
    try:
        call(*args)
    except pyxs.PyXSError as error:
        return errno.errorcode[error.args[0]]
with pyxs.Client() as c, pyxs.Client() as other:
    c.mkdir(b"/t/dir")
    c.write(b"/t/a", b"one"); c[b"/t/b"] = b"two"
    print(c.read(b"/t/a"), c[b"/t/b"], c.read(b"/t/none", b"default"), refused(c.read, b"/t/none"))
    print(c.list(b"/t"), refused(c.list, b"/none"), c.exists(b"/t/a"), c.exists(b"/t/none"))
    c.set_perms(b"/t/a", [b"b0", b"r3"])
    print(c.get_perms(b"/t/a"), refused(c.set_perms, b"/t/none", [b"b0"]))
    print(list(c.walk(b"/t")))
    del c[b"/t/b"]
    c.delete(b"/t/b")
    print(c.list(b"/t"), refused(c.delete, b"/none/at/all"))
    c.introduce_domain(3, 1, 1); c.introduce_domain(4, 1, 1)
    c.set_target(4, 3); c.resume_domain(3)
    print(c.get_domain_path(3), c.is_domain_introduced(3), c.is_domain_introduced(9))
    c.release_domain(3)
    print(c.is_domain_introduced(3), refused(c.resume_domain, 3), refused(c.introduce_domain, 9, 1, 1))
    monitor = c.monitor()
    monitor.watch(b"/t", b"token"); monitor.watch(b"@releaseDomain", b"special")
    events = monitor.wait()
    print(next(events), next(events))
    other.transaction()
    other[b"/t/c"] = b"v"; other[b"/t/d"] = b"v"
    print(c.exists(b"/t/c"), other.exists(b"/t/c"), refused(other.transaction))
    print(other.commit(), next(events), next(events))
    other.transaction()
    other[b"/t/e"] = b"v"
    other.rollback()
    print(c.exists(b"/t/e"))
    other.transaction()
    other[b"/t/a"]
    c[b"/t/a"] = b"changed"
    print(next(events), other.commit())
    c.release_domain(4)
    print(next(events))
    monitor.close()
    print(refused(monitor.unwatch, b"/t", b"token"))
`;
  expect((await run(python, '-c', script)).trim().split('\n')).toEqual([
    "b'one' b'two' b'default' ENOENT",
    "[b'dir', b'a', b'b'] ENOENT True False",
    "[b'b0', b'r3'] ENOENT",
    "[(b'/t', b'', [b'dir', b'a', b'b']), (b'/t/dir', b'', []), (b'/t/a', b'one', []), (b'/t/b', b'two', [])]",
    "[b'dir', b'a'] ENOENT",
    "b'/local/domain/3' True False",
    'False ENOENT EINVAL',
    "Event(path=b'/t', token=b'token') Event(path=b'@releaseDomain', token=b'special')",
    'False True EALREADY',
    "True Event(path=b'/t/c', token=b'token') Event(path=b'/t/d', token=b'token')",
    'False',
    "Event(path=b'/t/a', token=b'token') False",
    "Event(path=b'@releaseDomain', token=b'special')",
    'ENOENT',
  ]);
});

describe('our client over the socket', () => {
  test('reads what it wrote, and learns when the server goes', async () => {
    const xs = xsClient(await socketTransport(path));
    await xs.write('/a', 'v');
    expect(await xs.read('/a')).toBe('v');
    await server.close();
    await expect(xs.read('/a')).rejects.toThrow(/the connection to .* ended/);
  });

  test('is told when nobody listens', async () => {
    await expect(socketTransport(join(directory, 'none'))).rejects.toThrow(/ENOENT/);
  });
});

describe('the socket', () => {
  test('is for its owner alone', () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test('gets what was answered before the store ended the connection in the same turn', async () => {
    const other = join(directory, 'other');
    const ending = await listenStore(
      {
        connect: (peer) => ({
          push: (packet) => {
            peer.deliver({ ...packet, payload: joinStrings('last words') });
            peer.closed('for a test');
            return true;
          },
          resume: () => undefined,
          end: () => undefined,
          close: () => undefined,
        }),
      },
      { path: other, domid: 3, who: 'client', log: (line) => log.push(line) },
    );
    const xs = xsClient(await socketTransport(other));
    expect(await xs.read('name')).toBe('last words\0');
    expect(await xs.ended).toBeInstanceOf(Error);
    await ending.close();
  });

  test('of too long a path is refused with the path, the limit and the way out', async () => {
    const long = join(directory, 'x'.repeat(socketPathMax));
    await expect(listenStore(loop, { path: long, domid: 0, who: 'client', log: () => undefined })).rejects.toThrow(
      `${long} is ${long.length} bytes long, and a socket's path can have 107: set XL_RUN_DIR to something shorter`,
    );
  });

  test('takes a request byte by byte', async () => {
    const socket = await raw();
    for (const byte of read(5, '/tool/none')) socket.write(Buffer.of(byte));
    const reply = decode(await bytesOf(socket, 16 + 7));
    expect(reply).toMatchObject({ kind: 'packet', packet: { type: XsType.Error, reqId: 5, payload: joinStrings('ENOENT') } });
    socket.destroy();
  });

  test('answers what was asked before the peer ended its side, and then closes', async () => {
    const socket = await raw();
    const wanted = 200;
    const replies = bytesOf(socket, wanted * 16);
    socket.end(Buffer.concat(Array.from({ length: wanted }, (_, i) => read(i, '/tool'))));
    expect((await replies).length).toBe(wanted * 16);
    await closed(socket);
  });

  test('closes a peer that announces too long a payload, and says why; others go on', async () => {
    const [bad, good] = [await raw(), await raw()];
    const header = encode({ type: 2, reqId: 1, txId: 0, payload: 'x'.repeat(4097) }).subarray(0, 16);
    bad.write(header);
    await closed(bad);
    expect(log.join('\n')).toMatch(/does not speak the protocol: payload of 4097 bytes is over 4096/);
    good.write(read(1, '/tool'));
    expect((await bytesOf(good, 16)).length).toBe(16);
    good.destroy();
  });

  test('keeps the replies of a slow reader in order, and stops reading it meanwhile', async () => {
    const xs = xsClient(await socketTransport(path));
    await xs.write('/big', 'v'.repeat(2000));
    const slow = await raw();
    slow.pause();
    const count = 2000;
    for (let i = 0; i < count; i += 1) slow.write(read(i, '/big'));
    for (let i = 0; i < 50; i += 1) expect(await xs.read('/big')).toHaveLength(2000);
    const all = bytesOf(slow, count * 2016);
    slow.resume();
    const bytes = await all;
    const ids = Array.from({ length: count }, (_, i) => bytes.readUInt32LE(i * 2016 + 4));
    expect(ids).toEqual(Array.from({ length: count }, (_, i) => i));
    slow.destroy();
    xs.close();
  });
});
