import { spawnSync } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { builtinScripts } from '../../src/libxl/builtin-scripts.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import type { FileStat, Host, ScriptRun } from '../../src/libxl/ctx.js';
import { type SystemHostOptions, systemHost } from '../../src/libxl/hotplug.js';
import { SystemClock } from '../../src/xenbus/clock.js';
import type { Xc } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';

describe('the built-in scripts', () => {
  let m: Machine;
  beforeEach(async () => {
    m = await machine();
  });
  afterEach(() => m.dom0.close());

  const run = (name: 'block' | 'vif-bridge', kind: 'vbd' | 'vif', args: readonly string[], domid = 1): ScriptRun => {
    const devid = kind === 'vbd' ? 51712 : 0;
    const env = { XENBUS_TYPE: kind, XENBUS_PATH: `backend/${kind}/${domid}/${devid}`, XENBUS_BASE_PATH: 'backend' };
    const script = `/etc/xen/scripts/${name}`;
    return { script, args, env: { ...env, script, vif: `vif${domid}.0` }, timeoutMs: 40_000 };
  };
  const files: Record<string, FileStat> = {
    '/dev/loop0': { kind: 'block', major: 7, minor: 0, bytes: 1 << 24 },
    '/dev/vg/disk': { kind: 'block', major: 254, minor: 300, bytes: 1 << 24 },
    '/dev/link': { kind: 'block', major: 254, minor: 300, bytes: 1 << 24 },
    '/img/a': { kind: 'file', bytes: 1 << 24 },
  };
  const io = () => ({
    openXs: async () => m.connect('hotplug'),
    xc: m.ctx.xc,
    stat: async (file: string) => files[file],
    resolve: async (file: string) => (file === '/dev/link' ? '/dev/vg/disk' : file),
  });
  const start = async (what: ScriptRun) => {
    const script = builtinScripts.get(path.basename(what.script));
    return script ? script(io(), what) : 127;
  };
  const block = (action: 'add' | 'remove', domid = 1) => m.run(start(run('block', 'vbd', [action], domid)));
  const vif = (action: 'online' | 'offline') => m.run(start(run('vif-bridge', 'vif', [action, 'type_if=vif'])));

  /** A vbd as libxl leaves it to the script. */
  const vbd = async (params: string, { mode = 'w', domid = 1, vm = '', state = '2' } = {}) => {
    const backend = `/local/domain/0/backend/vbd/${domid}/51712`;
    const nodes = {
      [`/local/domain/${domid}/vm`]: vm || `/vm/${domid}`,
      [`${backend}/params`]: params,
      [`${backend}/mode`]: mode,
    };
    const rest = { [`${backend}/frontend-id`]: String(domid), [`${backend}/state`]: state };
    for (const [node, value] of Object.entries({ ...nodes, ...rest })) await m.run(m.ctx.xs.write(node, value));
  };
  const nodes = async (kind: 'vbd' | 'vif', domid = 1) => {
    const dir = `/local/domain/0/backend/${kind}/${domid}/${kind === 'vbd' ? 51712 : 0}/`;
    const left = (await m.store()).filter((line) => line.startsWith(dir) && /hotplug|physical|node/.test(line));
    return left.map((line) => line.slice(dir.length).replace(/ {3}\(.*$/, ''));
  };
  const writes = () => m.trace.filter(({ who, op }) => who === 'hotplug' && op === 'WRITE');

  test('block add gives a vbd its device, each write through a connection of its own', async () => {
    await vbd('/dev/vg/disk');
    expect(await block('add')).toBe(0);
    expect(await nodes('vbd')).toEqual([
      'physical-device = "fe:12c"',
      'physical-device-path = "/dev/vg/disk"',
      'hotplug-status = "connected"',
    ]);
    expect(new Set(writes().map(({ conn }) => conn)).size).toBe(3);
    expect(writes().map(({ args }) => args[0])).toEqual([
      'backend/vbd/1/51712/physical-device',
      'backend/vbd/1/51712/physical-device-path',
      'backend/vbd/1/51712/hotplug-status',
    ]);
  });

  test('block add leaves a vbd that has its device as it is', async () => {
    await vbd('/dev/loop0');
    await block('add');
    m.trace.length = 0;
    expect({ status: await block('add'), writes: writes() }).toEqual({ status: 0, writes: [] });
  });

  test('block add names the device that a link leads to', async () => {
    await vbd('/dev/link');
    await block('add');
    expect(await nodes('vbd')).toContain('physical-device-path = "/dev/vg/disk"');
  });

  test('block add goes through a loop device for a file, and block remove takes it away', async () => {
    await vbd('/img/a');
    expect(await block('add')).toBe(0);
    const first = await nodes('vbd');
    expect(first).toEqual([
      expect.stringMatching(/^node = "\/dev\/loop\d+"$/),
      expect.stringMatching(/^physical-device = "7:\d+"$/),
      expect.stringMatching(/^physical-device-path = "\/dev\/loop\d+"$/),
      'hotplug-status = "connected"',
    ]);
    expect(await block('remove')).toBe(0);
    await m.run(m.ctx.xs.rm('/local/domain/0/backend/vbd'));
    await vbd('/img/a');
    await block('add');
    expect(await nodes('vbd')).toEqual(first);
  });

  test('block add of a file refuses a backend that is not waiting for it', async () => {
    await vbd('/img/a', { state: '5' });
    expect(await block('add')).toBe(1);
    expect(await nodes('vbd')).toEqual([
      'hotplug-error = "Path closed or removed during hotplug add: backend/vbd/1/51712 state: 5"',
      'hotplug-status = "error"',
    ]);
  });

  test('block fails as the shell script does when a node is missing', async () => {
    await vbd('/dev/loop0');
    await m.run(m.ctx.xs.rm('/local/domain/0/backend/vbd/1/51712/mode'));
    expect(await block('add')).toBe(1);
    expect(await nodes('vbd')).toEqual([
      'hotplug-error = "/etc/xen/scripts/block failed; error detected."',
      'hotplug-status = "error"',
    ]);
  });

  const now = (theirs: string, ours: string) =>
    `hotplug-error = "Device /dev/loop0 is mounted ${theirs}in a guest domain,\nand so cannot be mounted ${ours}now."`;

  test.each([
    ['a writer beside a writer', 'w', 'w', now('', '')],
    ['a writer beside a reader', 'r', 'w', now('', '')],
    ['a reader beside a writer', 'w', 'r', now('read-write ', 'read-only ')],
    ['a reader beside a reader', 'r', 'r', undefined],
    ['one who does not ask beside a writer', 'w', 'w!', undefined],
  ])('block add decides on %s', async (_who, theirs, ours, refusal) => {
    await vbd('/dev/loop0', { mode: theirs });
    await block('add');
    await vbd('/dev/loop0', { mode: ours, domid: 2 });
    expect(await block('add', 2)).toBe(refusal === undefined ? 0 : 1);
    const said = await nodes('vbd', 2);
    if (refusal === undefined) expect(said.at(-1)).toBe('hotplug-status = "connected"');
    else expect(said).toEqual([refusal, 'hotplug-status = "busy"']);
  });

  test('block add lets one guest, or one that is on its way out, share a device', async () => {
    await vbd('/dev/loop0', { vm: '/vm/same' });
    await block('add');
    await vbd('/dev/loop0', { vm: '/vm/same', domid: 2 });
    expect(await block('add', 2)).toBe(0);
    await m.run(m.ctx.xs.rm('/local/domain/1'));
    await m.run(m.ctx.xs.rm('/local/domain/2'));
    await vbd('/dev/loop0', { domid: 3 });
    expect(await block('add', 3)).toBe(0);
  });

  test('block add refuses a file that another guest has through a loop device', async () => {
    await vbd('/img/a');
    await block('add');
    const loop = (await nodes('vbd')).find((node) => node.startsWith('physical-device ='))?.match(/7:\d+/)?.[0];
    await vbd('/img/a', { domid: 2 });
    expect({ status: await block('add', 2), nodes: await nodes('vbd', 2) }).toEqual({
      status: 1,
      nodes: [
        `hotplug-error = "File /img/a is loopback-mounted through ${loop},\nwhich is mounted in a guest domain,\nand so cannot be mounted now."`,
        'hotplug-status = "busy"',
      ],
    });
  });

  test.each(['/dev/loop0', '/img/a'])('of two that want %s at the same time, one gets it', async (file) => {
    await vbd(file);
    await vbd(file, { domid: 2 });
    const both = [1, 2].map((domid) => start(run('block', 'vbd', ['add'], domid)));
    const statuses = await m.run(Promise.all(both));
    expect(statuses.toSorted()).toEqual([0, 1]);
  });

  test('block takes what is no device and no file for somebody else’s business', async () => {
    await vbd('/nosuch');
    expect({ add: await block('add'), remove: await block('remove') }).toEqual({ add: 0, remove: 0 });
    expect(await nodes('vbd')).toEqual(['hotplug-status = "connected"']);
  });

  /** Domain 1 with a vif, on which the script is run once more. */
  const withVif = async () => {
    await m.run(domainCreateNew(m.ctx, pvConfig('pv', { disks: [] })));
    m.trace.length = 0;
  };

  test('vif-bridge online tells the guest the mtu and then the backend to go on', async () => {
    await withVif();
    expect(await vif('online')).toBe(0);
    expect(writes().map(({ args }) => args)).toEqual([
      ['/local/domain/1/device/vif/0/mtu', '1500'],
      ['backend/vif/1/0/hotplug-status', 'connected'],
    ]);
    m.trace.length = 0;
    expect({ status: await vif('offline'), writes: writes() }).toEqual({ status: 0, writes: [] });
  });

  test('vif-bridge keeps an mtu that the config gives', async () => {
    await withVif();
    await m.run(m.ctx.xs.write('/local/domain/0/backend/vif/1/0/mtu', '9000'));
    await vif('online');
    expect(await m.run(m.ctx.xs.read('/local/domain/1/device/vif/0/mtu'))).toBe('9000');
  });

  test('a script that outlives its device leaves nothing of it behind', async () => {
    await vbd('/img/a');
    const before = await m.store();
    const call: Xc['call'] = async (op, args) => {
      const answer = await m.ctx.xc.call(op, args);
      if (op === 'dom0.block_attach') await m.ctx.xs.rm('/local/domain/0/backend/vbd/1');
      return answer;
    };
    const script = builtinScripts.get('block');
    expect(await m.run(script?.({ ...io(), xc: { ...m.ctx.xc, call } }, run('block', 'vbd', ['add'])) ?? Promise.reject())).toBe(
      1,
    );
    expect(await m.store()).toEqual(before.filter((line) => !line.includes('backend/vbd/1')));
    expect(m.dom0.census().loops).toEqual([]);
  });

  test('block remove takes down the loop device of a script that was killed before it could name it', async () => {
    await vbd('/img/a');
    const owner = 'backend/vbd/1/51712';
    await m.run(m.ctx.xc.call('dom0.block_attach', { path: '/img/a', as: 'loop', sectors: 8, owner }));
    expect(m.dom0.census().loops).toEqual(['/dev/loop0 /img/a']);
    expect([await block('remove'), m.dom0.census().loops]).toEqual([0, []]);
  });

  test.each(['online', 'offline'] as const)('vif-bridge %s needs the bridge', async (action) => {
    await m.run(m.ctx.xs.write('/local/domain/0/backend/vif/1/0/bridge', 'nosuchbr'));
    expect(await vif(action)).toBe(1);
    expect(await nodes('vif')).toEqual(['hotplug-error = "Could not find bridge device nosuchbr"', 'hotplug-status = "error"']);
  });
});

describe("this machine's host", () => {
  let dir: string;
  let host: Host;
  const make = (options: Partial<SystemHostOptions> = {}): Host => {
    const openXs = () => Promise.reject(new Error('no store here'));
    const xc = { call: () => Promise.reject(new Error('no hypervisor here')), close: () => {} };
    const userdataDir = path.join(dir, 'lib');
    return systemHost({ root: '/', assumeFiles: false, strictFiles: false, userdataDir, openXs, xc, pid: 4711, ...options });
  };
  beforeEach(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'xl-hotplug-'));
    host = make();
  });
  afterEach(() => rm(dir, { recursive: true }));

  const put = async (name: string, contents: string, mode = 0o644) => {
    const file = path.join(dir, name);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, contents);
    await chmod(file, mode);
    return file;
  };
  const script = (body: string) => put('script', `#!/bin/sh\n${body}\n`, 0o755);
  const runScript = (file: string, more: Partial<ScriptRun> = {}, on = host) =>
    on.runScript({ script: file, args: ['add'], env: {}, timeoutMs: 30_000, ...more });

  test('says what a path is', async () => {
    const file = await put('disk.img', 'x'.repeat(2048));
    await symlink(file, path.join(dir, 'link'));
    expect(await Promise.all([file, path.join(dir, 'link'), dir, '/dev/null', path.join(dir, 'nosuch')].map(host.stat))).toEqual([
      { kind: 'file', bytes: 2048 },
      { kind: 'file', bytes: 2048 },
      { kind: 'other' },
      { kind: 'other' },
      undefined,
    ]);
  });

  test('looks absolute paths up below its root', async () => {
    await put('boot/vmlinux', 'x');
    const rooted = make({ root: dir });
    expect(await Promise.all(['/boot/vmlinux', '/boot/nosuch'].map(rooted.stat))).toEqual([
      { kind: 'file', bytes: 1 },
      undefined,
    ]);
  });

  test('takes every path on trust when told to', async () => {
    const trusting = make({ assumeFiles: true, strictFiles: true });
    expect(await Promise.all(['/dev/vg/a', '/boot/b'].map(trusting.stat))).toEqual([
      { kind: 'assumed', block: true },
      { kind: 'assumed', block: false },
    ]);
    expect(await trusting.readMagic('/boot/b')).toBeUndefined();
  });

  test('looks into kernels only when told to', async () => {
    const file = await put('vmlinux', `\x7fELF${'x'.repeat(4096)}`);
    expect(await host.readMagic(file)).toBeUndefined();
    const magic = await make({ strictFiles: true }).readMagic(file);
    expect({ length: magic?.length, start: Buffer.from(magic ?? []).toString('latin1', 0, 4) }).toEqual({
      length: 0x206,
      start: '\x7fELF',
    });
  });

  test('the lock of userdata is had by one at a time, and a dead holder has none', async () => {
    const files = () => readdir(path.join(dir, 'lib'));
    const dead = spawnSync('true').pid;
    await put(`lib/userdata-l.3.u.domain-userdata-lock`, `${dead}\n`);
    const order: string[] = [];
    await Promise.all(
      ['a', 'b', 'c'].map(async (name) => {
        const unlock = await host.lockUserdata(3, 'u');
        order.push(name);
        expect(await files()).toContain('userdata-l.3.u.domain-userdata-lock');
        order.push(name);
        await unlock();
      }),
    );
    expect(order.filter((name, at) => at % 2 === 1 && name !== order[at - 1])).toEqual([]);
    expect(order).toHaveLength(6);
    expect(await files()).toEqual([]);
  });

  test('keeps userdata in files of its own, and removes those of one domain', async () => {
    const uuid = '00000000-0000-4000-8000-000000000001';
    const mine = `userdata-d.1.${uuid}.libxl-json`;
    const others = [`userdata-d.11.${uuid}.libxl-json`, `userdata-d.1.${uuid.replace(/1$/, '2')}.xl`];
    for (const name of [mine, ...others]) await host.writeUserdata(name, '{}\n\0');
    expect({ mine: await host.readUserdata(mine), none: await host.readUserdata('userdata-d.9.x.xl') }).toEqual({
      mine: '{}\n\0',
      none: undefined,
    });
    expect((await stat(path.join(dir, 'lib', mine))).mode & 0o777).toBe(0o600);
    await host.removeUserdata(1, uuid);
    expect((await readdir(path.join(dir, 'lib'))).toSorted()).toEqual(others.toSorted());
  });

  test('has no userdata to remove before there was any', async () => {
    await expect(host.removeUserdata(1, 'x')).resolves.toBeUndefined();
  });

  test('runs a script with its arguments and variables, and nothing to read', async () => {
    const out = path.join(dir, 'out');
    const file = await script(`{ echo "$@"; echo "$XENBUS_PATH $XENSTORED_PATH"; cat; } >${out}; exit 3`);
    const env = { XENBUS_PATH: 'backend/vbd/1/51712' };
    const end = await runScript(file, { args: ['online', 'type_if=vif'], env }, make({ xenstoredPath: '/run/hotplug' }));
    expect(end).toEqual({ pid: expect.any(Number), status: 3 });
    expect(await readFile(out, 'utf8')).toBe('online type_if=vif\nbackend/vbd/1/51712 /run/hotplug\n');
  });

  test("writes a script's output behind what is in a log, where there is one", async () => {
    const log = await put('xl-a.log', 'Waiting\n');
    const logged = make({ scriptLog: log });
    await runScript(await script('echo out; echo err >&2'), {}, logged);
    await runScript('/nosuch/script', {}, logged);
    expect(await readFile(log, 'utf8')).toBe(
      'Waiting\nout\nerr\nlibxl: cannot execute /nosuch/script: No such file or directory\n',
    );
  });

  test('kills a script that takes too long, and its children with it', async () => {
    const out = path.join(dir, 'out');
    const file = await script(`sh -c 'echo $$ >${out}; exec sleep 60' & wait`);
    const started = runScript(file, { timeoutMs: 500 });
    expect(await started).toEqual({ pid: expect.any(Number), timedOut: true });
    const child = Number(await readFile(out, 'utf8'));
    await expect(gone(child)).resolves.toBe(true);
  });

  test('says which signal ended a script', async () => {
    const end = await runScript(await script('kill -SEGV $$'));
    expect(end).toEqual({ pid: expect.any(Number), signal: 'Segmentation fault' });
  });

  test.each([
    ['is not there', undefined, 0, 'No such file or directory'],
    ['is not executable', '#!/bin/sh\n', 0o644, 'Permission denied'],
    ['has no interpreter', '#!/nosuch/sh\n', 0o755, 'No such file or directory'],
  ])('ends with 255, and says why, when the script %s', async (_what, text, mode, why) => {
    const file = text === undefined ? path.join(dir, 'nosuch') : await put('script', text, mode);
    const said: unknown[] = [];
    const { write } = process.stderr;
    process.stderr.write = (line: unknown) => said.push(line) > 0;
    const end = await runScript(file).finally(() => {
      process.stderr.write = write;
    });
    expect({ end, said }).toEqual({
      end: { pid: 4712, status: 255 },
      said: [`libxl: cannot execute ${file}: ${why}\n`],
    });
  });

  test('gives up a script at its deadline that it may not kill', async () => {
    const { kill } = process;
    const timers: (() => void)[] = [];
    const set: (() => void)[] = [];
    const nextTimer = () => new Promise<void>((resolve) => set.push(resolve));
    const clock = Object.assign(new SystemClock(), {
      after: (_ms: number, run: () => void) => {
        timers.push(run);
        set.shift()?.();
        return () => undefined;
      },
    });
    const file = await script('exec sleep 60');
    const started = nextTimer();
    const running = runScript(file, {}, make({ clock }));
    await started;
    process.kill = () => {
      throw Object.assign(new Error('kill EPERM'), { code: 'EPERM' });
    };
    try {
      timers[0]?.();
      timers[1]?.();
    } finally {
      process.kill = kill;
    }
    const end = await running;
    expect(end).toEqual({ pid: expect.any(Number), timedOut: true });
    process.kill(-end.pid, 'SIGKILL');
    await expect(gone(end.pid)).resolves.toBe(true);
  });

  test('runs a script of XEN_SCRIPT_DIR in place of a built-in one', async () => {
    await put('scripts/block', '#!/bin/sh\nexit 7\n', 0o755);
    const own = make({ scriptDir: path.join(dir, 'scripts') });
    expect(await runScript('/etc/xen/scripts/block', {}, own)).toEqual({ pid: expect.any(Number), status: 7 });
  });

  test('says that a script of XEN_SCRIPT_DIR is not executable, rather than that there is none', async () => {
    await put('scripts/own', '#!/bin/sh\n', 0o644);
    const said: unknown[] = [];
    const { write } = process.stderr;
    process.stderr.write = (line: unknown) => said.push(line) > 0;
    const end = await runScript('/etc/xen/scripts/own', {}, make({ scriptDir: path.join(dir, 'scripts') })).finally(() => {
      process.stderr.write = write;
    });
    expect({ end, said }).toEqual({
      end: { pid: 4712, status: 255 },
      said: ['libxl: cannot execute /etc/xen/scripts/own: Permission denied\n'],
    });
  });

  /** Whether a process ends within a second. */
  async function gone(pid: number): Promise<boolean> {
    for (let tries = 0; tries < 100; tries++) {
      const state = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => undefined);
      if (state === undefined || / Z /.test(state)) return true;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return false;
  }
});
