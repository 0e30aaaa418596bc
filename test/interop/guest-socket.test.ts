/**
 * Speaking as a guest over a real socket: `guest/N/socket` of a dom0d, with clients that nobody here wrote and with ours.
 * The order of opening and closing, move by move, is in test/sim/guest-sockets.test.ts.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { execa } from 'execa';
import { type PrivcmdClient, privcmdClient } from '../../src/xenbus/privcmd-client.js';
import { socketTransport } from '../../src/xenbus/transport.js';
import { type Xs, xsClient } from '../../src/xenbus/xs-client.js';
import { testWith, testWithPython } from './clients.js';
import { bin, isRunning, type Lab, lab, pvCfg, until } from './harness.js';

let l: Lab;
beforeEach(() => {
  l = lab();
});
afterEach(() => l.close());

const socketOf = (domid: number) => join(l.runDir, 'guest', String(domid), 'socket');
const connectAs = async (domid: number) => xsClient(await socketTransport(socketOf(domid)));
const connectDom0 = async () => xsClient(await socketTransport(join(l.runDir, 'xenstored', 'socket')));
const guestDirs = () => readdirSync(join(l.runDir, 'guest'));

async function create(name: string, ...flags: string[]): Promise<void> {
  writeFileSync(join(l.dir, `${name}.cfg`), pvCfg(name));
  expect(await l.xl('create', '-q', ...flags, `${name}.cfg`)).toEqual({ stdout: '', stderr: '', exitCode: 0 });
}

/** What a command says as domain 1, whatever its end is. */
async function asGuest(command: string, ...args: string[]): Promise<{ stdout: string; stderr: string }> {
  const { stdout, stderr } = await execa(command, args, { env: { XENSTORED_PATH: socketOf(1) }, reject: false });
  return { stdout, stderr };
}

/** A client of dom0's hypercalls and of its store, for what no command does. */
async function toolstack(): Promise<{ xc: PrivcmdClient; xs: Xs; close(): void }> {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
  const xc = await privcmdClient(join(l.runDir, 'privcmd.sock'), version);
  const xs = await connectDom0();
  return {
    xc,
    xs,
    close: () => {
      xc.close();
      xs.close();
    },
  };
}

describe("Debian's clients in a guest", () => {
  testWith('xenstore-read')('read what the guest may read, and nothing else', async (xenstoreRead) => {
    await create('web');
    expect(await asGuest(xenstoreRead, 'name', 'domid')).toEqual({ stdout: 'web\n1', stderr: '' });
    for (const path of ['/local/domain/0/name', '/libxl/1/type', 'nosuch']) {
      const { stdout, stderr } = await asGuest(xenstoreRead, path);
      expect({ stdout, stderr }).toEqual({ stdout: '', stderr: `xenstore-read: couldn't read path ${path}` });
    }
  });

  testWith('xenstore-write')('write below the frontends of the guest, and nowhere else', async (xenstoreWrite) => {
    await create('web');
    expect((await asGuest(xenstoreWrite, 'device/vif/0/test', 'v')).stderr).toBe('');
    for (const path of ['name', '/local/domain/0/backend/vif/1/0/state', '/tool/x']) {
      expect((await asGuest(xenstoreWrite, path, 'v')).stderr).toBe(`xenstore-write: could not write path ${path}`);
    }
    const dom0 = await connectDom0();
    expect(await dom0.read('/local/domain/1/device/vif/0/test')).toBe('v');
    expect((await dom0.getPerms('/local/domain/1/device/vif/0/test'))?.[0]?.domid).toBe(1);
    dom0.close();
  });

  testWith('xenstore-ls')('list the home of the guest by a relative path', async (xenstoreLs) => {
    await create('web', '-p');
    expect(await asGuest(xenstoreLs, 'memory')).toEqual({
      stdout: 'static-max = "131072"\ntarget = "131072"\nvideoram = "0"',
      stderr: '',
    });
  });

  testWith('xenstore-watch')('are told relative paths by a relative watch', async (xenstoreWatch) => {
    await create('web', '-p');
    const watch = execa(xenstoreWatch, ['-n', '2', 'data'], { env: { XENSTORED_PATH: socketOf(1) } });
    const seen: string[] = [];
    watch.stdout.on('data', (chunk: Buffer) => seen.push(...chunk.toString().trim().split('\n')));
    await until(() => seen.length === 1);
    const dom0 = await connectDom0();
    await dom0.write('/local/domain/1/data/report', '1');
    dom0.close();
    await watch;
    expect(seen).toEqual(['data', 'data/report']);
  });

  testWithPython('pyxs')('pyxs reads, writes and watches as the guest', async (python) => {
    await create('web', '-p');
    const script = `
import pyxs
with pyxs.Client() as c:
    print(c[b"name"])
    try:
        c.read(b"/local/domain/0/name")
    except pyxs.PyXSError as error:
        print(error.args[0])
    monitor = c.monitor()
    monitor.watch(b"data", b"token")
    print(next(monitor.wait()))
    c[b"data/agent"] = b"up"
    print(next(monitor.wait()).path)
`;
    const { stdout, stderr } = await promisify(execFile)(python, ['-c', script], {
      env: { ...process.env, XENSTORED_PATH: socketOf(1) },
    });
    expect({ lines: stdout.trim().split('\n'), stderr }).toEqual({
      lines: ["b'web'", '13', "Event(path=b'data', token=b'token')", "b'data/agent'"],
      stderr: '',
    });
  });
});

describe('a connection as a guest', () => {
  test('is traced as a client of that domain', async () => {
    l.env['XL_DOM0_ARGS'] = `--assume-files --trace ${join(l.dir, 'trace')}`;
    await create('web', '-p');
    const guest = await connectAs(1);
    expect(await guest.read('name')).toBe('web');
    guest.close();
    await l.xl('dom0', 'status');
    const lines = readFileSync(join(l.dir, 'trace'), 'utf8').trim().split('\n');
    const ofGuest = lines.map((line) => JSON.parse(line)).filter(({ domid }) => domid === 1);
    expect(ofGuest).toMatchObject([{ who: 'client', domid: 1, op: 'READ', args: ['name'], result: 'web' }]);
  });

  test('may not do what is for dom0 alone', async () => {
    await create('web', '-p');
    const guest = await connectAs(1);
    await expect(guest.introduce(1, 1, 1)).rejects.toThrow('EACCES');
    await expect(guest.release(1)).rejects.toThrow('EACCES');
    await expect(guest.write('/local/domain/1/name', 'x')).rejects.toThrow('EACCES');
    guest.close();
  });

  test('has the quota of watches together with the others of its domain, and the log names it', async () => {
    await create('web', '-p');
    const [one, other] = [await connectAs(1), await connectAs(1)];
    for (let count = 0; count < 129; count++) await (count % 2 ? one : other).watch('data', () => undefined, `${count}`);
    await expect(one.watch('data', () => undefined, 'more')).rejects.toThrow('E2BIG');
    await expect(other.watch('data', () => undefined, 'more')).rejects.toThrow('E2BIG');
    expect(l.log()).toContain('xenstored: domain 1 is at its quota watches of 128: E2BIG\n');
    // What one of them leaves, the other can have.
    one.close();
    await until(async () =>
      other
        .watch('data', () => undefined, 'again')
        .then(
          () => true,
          () => false,
        ),
    );
    other.close();
  });

  test('has eleven transactions and no twelfth, and the log names the quota of ten', async () => {
    await create('web', '-p');
    const guest = await connectAs(1);
    let end: () => void = () => undefined;
    const over = new Promise<void>((resolve) => {
      end = resolve;
    });
    let open = 0;
    const held = Array.from({ length: 11 }, () =>
      guest.transaction(async (tx) => {
        await tx.read('name');
        open += 1;
        await over;
      }),
    );
    await until(() => open === 11);
    await expect(guest.transaction((tx) => tx.read('name'))).rejects.toThrow('ENOSPC');
    expect(l.log()).toContain('xenstored: domain 1 is at its quota transactions of 10: ENOSPC\n');
    end();
    await Promise.all(held);
    guest.close();
  });

  test('has the quota of nodes of its domain, and the log names it', async () => {
    await create('web', '-p');
    const guest = await connectAs(1);
    let made = 0;
    const refused = await (async () => {
      for (; ; made++) await guest.write(`data/${made % 10}/${made}`, '');
    })().catch((error: Error) => error.message);
    expect(refused).toMatch(/^ENOSPC/);
    expect(made).toBeGreaterThan(900);
    expect(made).toBeLessThan(1000);
    expect(l.log()).toContain('xenstored: domain 1 is at its quota nodes of 1000: ENOSPC\n');
    guest.close();
  });

  test('ends with its domain, in the middle of a transaction and of a watch', async () => {
    await create('web', '-p');
    const [busy, waiting] = [await connectAs(1), await connectAs(1)];
    await waiting.watch('control/shutdown', () => undefined);
    const ended = busy.transaction(async (tx) => {
      await tx.write('data/x', '1');
      expect((await l.xl('destroy', 'web')).exitCode).toBe(0);
      await tx.write('data/y', '2');
    });
    await expect(ended).rejects.toThrow(/the connection to .* ended/);
    await expect(waiting.read('name')).rejects.toThrow(/the connection to .* ended/);
    const dom0 = await connectDom0();
    expect(await dom0.directory('/local/domain')).toEqual(['0']);
    dom0.close();
  });
});

describe('the socket of a guest', () => {
  test('is there when xl create returns, whatever its options, for its user alone', async () => {
    for (const [index, flags] of [[], ['-p'], ['-e'], ['-p', '-e']].entries()) {
      await create(`g${index}`, ...flags);
      expect(statSync(socketOf(index + 1)).mode & 0o777).toBe(0o600);
      expect(statSync(join(l.runDir, 'guest', String(index + 1))).mode & 0o777).toBe(0o700);
    }
    expect(statSync(join(l.runDir, 'guest')).mode & 0o777).toBe(0o700);
  });

  test('goes with its directory when the domain is destroyed, and all go when dom0 ends', async () => {
    await create('web');
    await create('db');
    expect(guestDirs()).toEqual(['1', '2']);
    await l.xl('destroy', 'web');
    await until(() => guestDirs().join() === '2');
    await l.xl('dom0', 'stop');
    expect(guestDirs()).toEqual([]);
  });

  test('goes when the store releases the domain, although a callback holds it as a zombie', async () => {
    await create('web');
    await until(async () => (await l.xl('dom0', 'dmesg')).stdout.includes('Guest Rx ready'));
    await l.xl('xwstall', 'hold', 'vif1.0');
    l.env['XL_TIMEOUT_SCALE'] = '0.02';
    await l.xl('destroy', 'web');
    expect((await l.xl('list')).stdout).toContain('(null)                                       1     0     2     --p--d');
    expect(guestDirs()).toEqual([]);
    expect(await l.xl('dom0', 'env', '--guest', '1')).toEqual({
      stdout: '',
      stderr: 'xl: domain 1 is dying, and the store has released it\n',
      exitCode: 1,
    });
    await l.xl('xwstall', 'flush');
  });

  test('is another one after a reboot, as the domid is', async () => {
    await create('web');
    const dom0 = await connectDom0();
    // A guest that has booted takes the request away; one that has not yet finds it there.
    await dom0.write('/local/domain/1/control/shutdown', 'reboot');
    await until(() => existsSync(socketOf(2)) && !existsSync(socketOf(1)));
    const guest = await connectAs(2);
    expect(await guest.read('name')).toBe('web');
    guest.close();
    dom0.close();
  });

  test('is there for each of 512 domains that are introduced at once, and gone when they are destroyed at once', async () => {
    await l.xl('dom0', 'start', '--assume-files');
    const { xc, xs, close } = await toolstack();
    const uuid = (index: number) => `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`;
    const domids: number[] = [];
    for (let index = 0; index < 512; index++) {
      domids.push((await xc.call('xc.domain_create', { uuid: uuid(index), maxVcpus: 1 })).domid);
    }
    const there = await Promise.all(
      domids.map(async (domid) => {
        await xs.introduce(domid, 1, 1);
        return existsSync(socketOf(domid));
      }),
    );
    expect(there.filter((is) => !is)).toEqual([]);
    const clients = await Promise.all(domids.map(connectAs));
    const homes = await Promise.all(clients.map((client, index) => client.getDomainPath(domids[index] ?? 0)));
    expect(homes).toEqual(domids.map((domid) => `/local/domain/${domid}`));
    const ended = Promise.all(clients.map((client) => lost(client)));
    await Promise.all(domids.map((domid) => xc.call('xc.domain_destroy', { domid })));
    await xs.read('/tool');
    expect(guestDirs()).toEqual([]);
    await ended;
    close();
  });

  test('speaks as the new domain when a domid is used again, and what was connected before is not of it', async () => {
    await l.xl('dom0', 'start', '--assume-files');
    const { xc, xs, close } = await toolstack();
    const uuid = '00000000-0000-4000-8000-000000000001';
    for (let round = 0; round < 3; round++) {
      await xc.call('xc.domain_create', { uuid, maxVcpus: 1, domid: 5 });
      await xs.introduce(5, 1, 1);
      await xs.write('/local/domain/5', '');
      await xs.setPerms('/local/domain/5', [{ domid: 5, read: false, write: false }]);
      const guest = await connectAs(5);
      expect(await guest.directory('/local/domain/5')).toEqual([]);
      await guest.write('round', String(round));
      await xc.call('xc.domain_destroy', { domid: 5 });
      await lost(guest);
      expect(await xs.read('/local/domain/5')).toBeUndefined();
    }
    close();
  });

  test('comes and goes with RELEASE and INTRODUCE, however close they follow each other', async () => {
    await create('web', '-p');
    const { xs, close } = await toolstack();
    const before = await connectAs(1);
    const asked: Promise<void>[] = [];
    for (let round = 0; round < 20; round++) asked.push(xs.release(1), xs.introduce(1, 1, 1));
    await Promise.all(asked);
    await lost(before);
    const after = await connectAs(1);
    expect(await after.getDomainPath(1)).toBe('/local/domain/1');
    await xs.release(1);
    expect(guestDirs()).toEqual([]);
    await lost(after);
    close();
  });

  test('leaves no connection of a domain that is destroyed while clients connect', async () => {
    const connections = async () => JSON.parse((await l.xl('dom0', 'status', '--json')).stdout).connections as number;
    await l.xl('list');
    await until(async () => (await connections()) === 2);
    await create('web', '-p');
    let over = false;
    const connecting = Array.from({ length: 8 }, async () => {
      let made = 0;
      while (!over) {
        // Refused, reset or closed at once: each is a way to be told that the domain is gone.
        const guest = await connectAs(1).catch(() => undefined);
        if (guest) made += 1;
        await guest?.read('name').catch(() => undefined);
        await new Promise((resolve) => setImmediate(resolve));
      }
      return made;
    });
    await l.xl('destroy', 'web');
    over = true;
    expect(Math.max(...(await Promise.all(connecting)))).toBeGreaterThan(0);
    // Those of dom0's kernel and of xenconsoled are left.
    await until(async () => (await connections()) === 2);
    const dom0 = await connectDom0();
    expect(await dom0.isDomainIntroduced(1)).toBe(false);
    dom0.close();
  });

  test('that a killed dom0 left is removed by the next one; what somebody else put beside it is not', async () => {
    await create('web');
    await create('db');
    mkdirSync(join(l.runDir, 'guest', 'mine'));
    writeFileSync(join(l.runDir, 'guest', '2', 'notes'), '');
    const pid = l.pid() ?? 0;
    process.kill(pid, 'SIGKILL');
    await until(() => !isRunning(pid));
    expect(existsSync(socketOf(1))).toBe(true);
    await l.xl('list');
    expect(guestDirs().sort()).toEqual(['2', 'mine']);
    expect(readdirSync(join(l.runDir, 'guest', '2'))).toEqual(['notes']);
  });

  test('that cannot be is told in the log and by dom0 env; the domain is created without it', async () => {
    await l.xl('list');
    writeFileSync(join(l.runDir, 'guest', '1'), '');
    await create('web');
    expect(l.log()).toMatch(/ domain 1 has no socket: listen ENOTDIR: .*guest\/1\/socket\n/);
    expect(await l.xl('dom0', 'env', '--guest', 'web')).toEqual({
      stdout: '',
      stderr: `xl: domain 1 has no socket; ${join(l.runDir, 'dom0.log')} says why\n`,
      exitCode: 1,
    });
    await create('db');
    expect(existsSync(socketOf(2))).toBe(true);
  });
});

describe('xl dom0 env --guest', () => {
  const environment = (path: string) =>
    `XL_RUN_DIR=${l.runDir}; export XL_RUN_DIR;\nXENSTORED_PATH=${path}; export XENSTORED_PATH;\n`;

  test('prints what a client needs to be in a domain, by name or by domid', async () => {
    await create('web');
    for (const domain of ['web', '1']) {
      expect(await l.xl('dom0', 'env', '--guest', domain)).toEqual({ stdout: environment(socketOf(1)), stderr: '', exitCode: 0 });
    }
  });

  test.each([
    ['7', 'xl: there is no domain 7; `xl list` shows those that there are'],
    ['99999', 'xl: there is no domain 99999; `xl list` shows those that there are'],
    ['nosuch', 'nosuch is an invalid domain identifier (rc=-6)'],
    ['0', 'xl: domain 0 is dom0 itself: leave --guest out'],
  ])('refuses %s in one line', async (domain, line) => {
    expect(await l.xl('dom0', 'env', '--guest', domain)).toEqual({ stdout: '', stderr: `${line}\n`, exitCode: 1 });
  });

  test('refuses a domain that the store does not know yet', async () => {
    await l.xl('dom0', 'start');
    const { xc, close } = await toolstack();
    await xc.call('xc.domain_create', { uuid: '00000000-0000-4000-8000-000000000001', maxVcpus: 1 });
    const stderr = 'xl: the store does not know domain 1 yet; try again when it is created\n';
    expect(await l.xl('dom0', 'env', '--guest', '1')).toEqual({ stdout: '', stderr, exitCode: 1 });
    close();
  });

  test('leaves nothing to xl inside but what a guest has, and the way back', async () => {
    await create('web');
    await create('db');
    l.env['XENSTORED_PATH'] = socketOf(1);
    for (const command of [
      'list',
      'create -q web.cfg',
      'destroy 1',
      'dom0 dmesg',
      'mtwatch list',
      'mtwatch prune',
      'mtwatch show 1',
    ]) {
      const [first = '', second = ''] = command.split(' ');
      const name = ['dom0', 'mtwatch'].includes(first) ? `${first} ${second}` : first;
      expect(await l.xl(...command.split(' '))).toEqual({
        stdout: '',
        stderr: `xl: ${name} needs dom0, and XENSTORED_PATH is that of domain 1: \`eval "$(xl dom0 env)"\` goes back to dom0\n`,
        exitCode: 1,
      });
    }
    expect(await l.xl('xenstore', 'read', 'name')).toEqual({ stdout: 'web\n', stderr: '', exitCode: 0 });
    for (const path of ['/local/domain/2/data', '/local/domain/0/name']) {
      expect(await l.xl('xenstore', 'read', path)).toEqual({
        stdout: '',
        stderr: `xenstore-read: couldn't read path ${path}\n`,
        exitCode: 1,
      });
    }
    expect(await l.xl('xenstore', 'write', 'name', 'x')).toMatchObject({ exitCode: 1 });
    expect((await l.xl('dom0', 'env', '--guest', 'db')).stdout).toBe(environment(socketOf(2)));
    expect((await l.xl('dom0', 'env')).stdout).toBe(environment(join(l.runDir, 'xenstored/socket')));
    delete l.env['XENSTORED_PATH'];
    await l.xl('destroy', 'web');
    l.env['XENSTORED_PATH'] = socketOf(1);
    const { stderr } = await l.xl('mtwatch', 'list');
    expect(stderr).toMatch(
      /^xl: no store answers at .*ENOENT.*; domain 1 is gone, or dom0 is: `eval "\$\(xl dom0 env\)"` leaves it\n$/,
    );
  });

  test('is words that a shell reads back, in a run directory with any name', async () => {
    l.env['XL_RUN_DIR'] = join(l.dir, "it's $here");
    await create('web', '-p');
    const script =
      'eval "$("$1" "$2" dom0 env --guest web)"; test -S "$XENSTORED_PATH" && echo "$XL_RUN_DIR"; "$1" "$2" dom0 stop; eval "$("$1" "$2" dom0 env)"; "$1" "$2" dom0 stop';
    const { stdout } = await execa('sh', ['-c', script, 'sh', process.execPath, bin], { env: l.env });
    expect(stdout).toBe(l.env['XL_RUN_DIR']);
  });
});

/** Resolves when the server has ended the connection. */
async function lost(client: Xs): Promise<void> {
  await until(() =>
    client.getDomainPath(0).then(
      () => false,
      () => true,
    ),
  );
}
