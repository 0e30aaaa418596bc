import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { splitWords } from '../../src/cli/launch.js';
import { type Listed, listTable } from '../../src/cli/quick/list.js';
import { mtwatchTable, type Row } from '../../src/cli/quick/mtwatch-list.js';
import { foreignStore, guestStore, leastLevel, runDirOf, timeoutScaleOf, tryConnect } from '../../src/cli/session.js';
import { dated, logLineOf } from '../../src/commands/dom0/dmesg.js';
import { assignment } from '../../src/commands/dom0/env.js';
import { statusText } from '../../src/commands/dom0/status.js';
import { threadText } from '../../src/commands/mtwatch/show.js';
import type { Dom0Status, DomInfo, KernelThread, WatchThread } from '../../src/xenbus/privcmd.js';
import { checkLength, prepareRunDir, type RunDir, RunDirError, runDirAt, takeRight } from '../../src/xenbus/run-dir.js';

const temp = realpathSync(mkdtempSync(join(tmpdir(), 'xl-test-')));
afterAll(() => rmSync(temp, { recursive: true, force: true }));

let serial = 0;
function freshDir() {
  serial += 1;
  const dir = runDirAt(join(temp, `run${serial}`));
  prepareRunDir(dir);
  return dir;
}

describe('the run directory', () => {
  test('is XL_RUN_DIR, else one of this user', () => {
    const paths = [{ XL_RUN_DIR: '/a/b/' }, { XDG_RUNTIME_DIR: '/run/user/7' }, {}].map((env) => runDirOf(env).path);
    expect(paths).toEqual(['/a/b', '/run/user/7/xl', join(tmpdir(), `xl-${process.getuid?.()}`)]);
  });

  test('is refused when the sockets below it would have too long a name', () => {
    expect(() => checkLength(runDirAt(`/${'x'.repeat(60)}`))).not.toThrow();
    expect(() => checkLength(runDirAt(`/${'x'.repeat(100)}`))).toThrow(
      /^the run directory \/x+ is 101 bytes long and unix sockets leave room for \d\d; set XL_RUN_DIR to a shorter one$/,
    );
  });

  test('is refused when others can write to it', () => {
    const path = join(temp, 'open');
    mkdirSync(path);
    expect(() => prepareRunDir(runDirAt(path))).not.toThrow();
    chmodSync(path, 0o777);
    expect(() => prepareRunDir(runDirAt(path))).toThrow(/^others can write to the run directory .*; chmod go-w it/);
  });

  test('is made with the directories above it', () => {
    const dir = runDirAt(join(temp, 'one/two/three'));
    prepareRunDir(dir);
    prepareRunDir(dir);
    expect([dir.store.dir, dir.lib, dir.logs].every((path) => existsSync(path))).toBe(true);
  });

  const link = (to: string) => (dir: RunDir) => symlinkSync(to, dir.path);
  const holding = (make: (dir: RunDir) => void) => (dir: RunDir) => {
    mkdirSync(dir.path, { mode: 0o700 });
    make(dir);
  };
  test.each([
    ['a file', (dir: RunDir) => writeFileSync(dir.path, ''), 'Not a directory'],
    ['a device', link('/dev/null'), 'Not a directory'],
    ['a link to nothing', link('nosuch'), 'No such file or directory'],
    ['a link to itself', (dir: RunDir) => symlinkSync(dir.path, dir.path), 'Too many levels of symbolic links'],
    ['with a file for lib', holding((dir) => writeFileSync(dir.lib, '')), 'lib: Not a directory'],
    ['with a link to nothing for lib', holding((dir) => symlinkSync('nosuch', dir.lib)), 'lib: No such file or directory'],
    ['with a directory for its log', holding((dir) => mkdirSync(dir.log)), 'dom0.log: Is a directory'],
  ])('is refused in one line when it is %s', (_what, make, reason) => {
    serial += 1;
    const dir = runDirAt(join(temp, `bad${serial}`));
    make(dir);
    const message = `the run directory ${dir.path} cannot be used: ${reason}; set XL_RUN_DIR to another one`;
    expect(() => prepareRunDir(dir)).toThrow(new RunDirError(message));
  });

  test('is refused below a file, and in a file system where nothing can be made', () => {
    expect(() => prepareRunDir(runDirAt('/dev/null/a/b'))).toThrow(
      new RunDirError('the run directory /dev/null/a/b cannot be used: Not a directory; set XL_RUN_DIR to another one'),
    );
    // Node's own recursive mkdir never returns from there.
    for (const path of ['/proc', '/proc/xl/a']) expect(() => prepareRunDir(runDirAt(path))).toThrow(RunDirError);
  });

  test('whose socket cannot be reached is refused by a command that looks for dom0', async () => {
    const dir = runDirAt(join(temp, 'loop'));
    symlinkSync(dir.path, dir.path);
    await expect(tryConnect(dir)).rejects.toThrow(
      `the run directory ${dir.path} cannot be used: privcmd.sock: Too many levels of symbolic links; set XL_RUN_DIR`,
    );
  });

  test.each([
    ['an abstract socket', true],
    ['a lock file', false],
  ])('belongs to one process, by %s', async (_what, abstract) => {
    const dir = freshDir();
    const right = await takeRight(dir, 'dom0', abstract);
    expect(right).toBeDefined();
    expect(await takeRight(dir, 'dom0', abstract)).toBeUndefined();
    const start = await takeRight(dir, 'start', abstract);
    expect(start).toBeDefined();
    start?.release();
    right?.release();
    await new Promise((resolve) => setImmediate(resolve));
    const again = await takeRight(dir, 'dom0', abstract);
    expect(again).toBeDefined();
    again?.release();
  });

  test.each([
    ['of a process that is gone', '4194304 12345\n'],
    ['of an older process with the pid of another one', `${process.pid} 1\n`],
    ['that is half written', '12'],
  ])('a lock file %s is overruled', async (_what, contents) => {
    const dir = freshDir();
    writeFileSync(join(dir.path, 'dom0.lock'), contents);
    const right = await takeRight(dir, 'dom0', false);
    expect(right).toBeDefined();
    expect(await takeRight(dir, 'dom0', false)).toBeUndefined();
    right?.release();
  });
});

describe('XENSTORED_PATH', () => {
  const dir = runDirAt(join(temp, 'ours'));
  beforeAll(() => {
    prepareRunDir(dir);
    symlinkSync(dir.path, join(temp, 'link'));
  });

  test.each([
    ['absent', undefined, undefined],
    ['empty', '', undefined],
    ['our socket, which need not be there', join(temp, 'ours/xenstored/socket'), undefined],
    ['our socket by another name', join(temp, 'link/xenstored/socket'), undefined],
    ["a host's own", '/run/xenstored/socket', '/run/xenstored/socket'],
    ['beside ours', join(temp, 'ours2/socket'), join(temp, 'ours2/socket')],
    ["a guest's of ours, where dom0 is not at home", join(temp, 'ours/guest/3/socket'), join(temp, 'ours/guest/3/socket')],
    ["a guest's by another name", join(temp, 'link/guest/3/socket'), join(temp, 'link/guest/3/socket')],
  ])('%s', (_what, path, foreign) => {
    expect(foreignStore({ XENSTORED_PATH: path }, dir)).toBe(foreign);
  });

  test.each([
    ['ours/guest/3/socket', 3],
    ['link/guest/32751/socket', 32751],
    ['ours/guest/32752/socket', undefined],
    ['ours/guest/x/socket', undefined],
    ['ours/guest/3', undefined],
    ['ours/guest/3/socket/x', undefined],
    ['ours/xenstored/socket', undefined],
    ['ours2/guest/3/socket', undefined],
  ])('%s speaks for %s', (path, domid) => {
    expect(guestStore({ XENSTORED_PATH: join(temp, path) }, dir)).toBe(domid);
  });
});

test.each([
  ['', []],
  ['  --idle   0 ', ['--idle', '0']],
  [`--cmdline '' --root "/a b"`, ['--cmdline', '', '--root', '/a b']],
  [`--cmdline='xen_mtwatch loglvl="all"'`, ['--cmdline=xen_mtwatch loglvl="all"']],
  [String.raw`a\ b "c\"d\$e" 'f\g'`, ['a b', 'c"d$e', String.raw`f\g`]],
])('XL_DOM0_ARGS are split as a shell splits them: %j', (text, words) => expect(splitWords(text)).toEqual(words));

test('xl prints from progress up, and a level more for each -v', () => {
  expect([0, 1, 2, 3, 4].map(leastLevel)).toEqual([4, 3, 2, 1, 1]);
});

test('XL_TIMEOUT_SCALE is a number over 0', () => {
  expect([{}, { XL_TIMEOUT_SCALE: '' }, { XL_TIMEOUT_SCALE: '0.05' }].map(timeoutScaleOf)).toEqual([1, 1, 0.05]);
  for (const text of ['0', '-1', 'x', 'Infinity']) expect(() => timeoutScaleOf({ XL_TIMEOUT_SCALE: text })).toThrow(text);
});

test.each([
  ['/run/xl', 'A=/run/xl; export A;\n'],
  ["/tmp/it's here", `A='/tmp/it'\\''s here'; export A;\n`],
])('the environment is printed in words that a shell reads back: %s', (value, line) => expect(assignment('A', value)).toBe(line));

describe('xl list', () => {
  const dom0: Listed = {
    name: 'Domain-0',
    info: domain({ domid: 0, running: true, currentKb: 1_572_864, onlineVcpus: 2, cpuTime: 138.5 }),
    pool: 'Pool-0',
    nodes: [0],
  };
  const plain = { verbose: false, context: false, cpupool: false, numa: false };
  const header = 'Name                                        ID   Mem VCPUs\tState\tTime(s)';

  test('prints what a real host printed', () => {
    const rows = listTable([dom0], plain).split('\n');
    expect(rows).toEqual([header, 'Domain-0                                     0  1536     2     r-----     138.5', '']);
    expect(listTable([dom0], { ...plain, verbose: true })).toBe(
      `${header}   UUID                            Reason-Code\tSecurity Label
Domain-0                                     0  1536     2     r-----     138.5 00000000-0000-0000-0000-000000000000        -                -
`,
    );
    expect(listTable([dom0], { ...plain, context: true })).toMatch(/Time\(s\) {3}Security Label\n.* 138\.5 {16}-\n$/);
    expect(listTable([dom0], { ...plain, cpupool: true })).toMatch(/Time\(s\) {9}Cpupool\n.* 138\.5 {10}Pool-0\n$/);
    expect(listTable([dom0], { ...plain, numa: true })).toMatch(/Time\(s\) NODE Affinity\n.* 138\.5 all\n$/);
  });

  test.each([
    ['blocked', { blocked: true }, '-b----'],
    ['paused', { paused: true }, '--p---'],
    ['powered off', { shutdown: 0 }, '---s--'],
    ['rebooting', { shutdown: 1 }, '---sr-'],
    ['crashed', { shutdown: 3 }, '---sc-'],
    ['a zombie', { paused: true, dying: true }, '--p--d'],
  ] as const)('state of a domain that is %s', (_what, info, letters) => {
    expect(listTable([{ name: 'a', info: domain(info) }], plain)).toContain(`     ${letters}  `);
  });

  test('a zombie has no name, and a long one is not cut', () => {
    const name = 'n'.repeat(45);
    const lines = listTable(
      [
        { name: undefined, info: domain({ domid: 7 }) },
        { name, info: domain({ domid: 8 }) },
      ],
      plain,
    ).split('\n');
    expect(lines[1]).toMatch(/^\(null\) {34} {5}7 /);
    expect(lines[2]).toMatch(/^n{45} {5}8 /);
  });

  test('columns are counted in bytes, as printf counts', () => {
    expect(listTable([{ name: 'wéb', info: domain({ domid: 7 }) }], plain).split('\n')[1]).toMatch(/^wéb {36} {5}7 /);
  });
});

const thread: WatchThread = {
  domid: 7,
  name: null,
  node: false,
  thread: 'xen-mtwatch-7',
  pid: 812,
  state: 'D',
  pending: 3,
  handled: 61,
  retiring: false,
  running: {
    callback: 'frontend_changed',
    path: '/local/domain/7/device/vif/0/state',
    forMs: 71_234,
    stack: ['[<0>] kthread_stop', '[<0>] ret_from_fork'],
  },
};

describe('xl mtwatch list', () => {
  const xenwatch: Row = {
    ...thread,
    domid: 0,
    name: '-',
    node: false,
    thread: 'xenwatch',
    pid: 39,
    state: 'S',
    pending: 0,
    handled: 57,
    running: null,
    orphan: false,
  };

  test('prints the table of the design', () => {
    expect(mtwatchTable([xenwatch, { ...thread, orphan: false }], String)).toBe(
      `Name                                        ID Thread           PID State Pending Handled  Running
-                                            0 xenwatch          39 S           0      57  -
(null)                                       7 xen-mtwatch-7    812 D           3      61  frontend_changed  71.2s
`,
    );
  });

  test('marks a node without a domain, with a thread or without', () => {
    const bare: Row = {
      ...xenwatch,
      domid: 9,
      name: null,
      node: true,
      thread: null,
      pid: null,
      state: null,
      pending: null,
      handled: null,
      retiring: null,
      orphan: true,
    };
    expect(
      mtwatchTable([{ ...thread, running: null, orphan: true, retiring: true }, bare], String)
        .split('\n')
        .slice(1),
    ).toEqual([
      '(null)                                       7 xen-mtwatch-7    812 D           3      61  -  (orphan)',
      '(null)                                       9 -                  - -           -       -  -  (orphan)',
      '',
    ]);
  });
});

const shown: KernelThread = {
  thread: 'xen-mtwatch-12345',
  comm: 'xen-mtwatch-123',
  pid: 812,
  state: 'D',
  stack: ['[<0>] kthread_stop', '[<0>] ret_from_fork'],
  waits: {
    kind: 'exit',
    on: 'vif7.0-q0-dealloc',
    task: { comm: 'vif7.0-q0-deallo', pid: 31 },
    text: 'kthread_stop of vif7.0-q0-deallo:31',
  },
  holds: ['xenwatch_mutex'],
  waiters: [{ comm: 'kworker/0:1', pid: 60, text: 'mutex xenwatch_mutex, owned by xen-mtwatch-123:812' }],
  waiting: 1,
  watch: {
    ...thread,
    domid: 12_345,
    thread: 'xen-mtwatch-12345',
    name: 'web',
    node: true,
    queued: Array.from({ length: 22 }, (_, index) => ({ path: `backend/vif/7/${index}`, callback: 'frontend_changed' })),
    pending: 30,
  },
};

test('xl mtwatch show prints a thread, its stack, what it waits for, its queue and who waits for it', () => {
  const queue = Array.from({ length: 20 }, (_, index) => `backend/vif/7/${index}  frontend_changed\n`).join('');
  expect(threadText(shown, false)).toBe(
    `thread:   xen-mtwatch-12345
domain:   12345 (web)
node:     yes
pid:      812
comm:     xen-mtwatch-123
state:    D (disk sleep)
waits:    kthread_stop of vif7.0-q0-deallo:31
holds:    xenwatch_mutex
pending:  30
handled:  61
running:  frontend_changed for 71.2s
path:     /local/domain/7/device/vif/0/state
stack:
[<0>] kthread_stop
[<0>] ret_from_fork
queue:
${queue}... and 10 more
waited for by:
kworker/0:1:60  mutex xenwatch_mutex, owned by xen-mtwatch-123:812
`,
  );
});

test('xl mtwatch show says of a node what list says: nothing for domain 0, an orphan when its domain is gone', () => {
  const nodeLines = (changes: Partial<WatchThread>, orphan = false) =>
    threadText({ ...shown, watch: { ...thread, queued: [], ...changes } }, orphan)
      .split('\n')
      .filter((line) => line.startsWith('node:'));
  expect(nodeLines({ domid: 0, thread: 'xenwatch' })).toEqual([]);
  expect(nodeLines({ node: true }, true)).toEqual(['node:     yes (orphan)']);
  expect(nodeLines({ node: false })).toEqual(['node:     no']);
  expect(threadText({ ...shown, watch: null, waits: null, state: 'R', holds: [], waiting: 0, waiters: [] }, false)).toBe(
    'thread:   xen-mtwatch-12345\npid:      812\ncomm:     xen-mtwatch-123\nstate:    R (running)\nwaits:    -\n' +
      'stack:\n[<0>] kthread_stop\n[<0>] ret_from_fork\n',
  );
});

test('xl dom0 dmesg -T prints dates as dmesg of util-linux does, in local time', () => {
  const boot = new Date(2026, 10, 2, 9, 5, 7, 250).getTime();
  expect(dated('[    1.740000] xenbus: [x] y', boot)).toBe('[Mon Nov  2 09:05:08 2026] xenbus: [x] y');
  expect(dated('[   12.800000] ', boot)).toBe('[Mon Nov  2 09:05:20 2026] ');
  expect(logLineOf('[   12.800000]  <TASK>')).toEqual({ seconds: 12.8, text: ' <TASK>' });
});

test('xl dom0 status tells which threads are dead, and what is to be done when it is the one of all events', () => {
  const status: Dom0Status = {
    pid: 1,
    version: '1',
    runDir: '/run',
    cmdline: '',
    xenwatch: 'single',
    domains: 0,
    connections: 2,
    upMs: 1,
    host: { root: '/', assumeFiles: false, strictFiles: false, bridges: [] },
    trace: null,
    journal: null,
    dead: [{ thread: 'xenwatch', pid: 29, why: 'kernel BUG: x', holds: [] }],
  };
  const deadLine = (changes: Partial<Dom0Status>) =>
    statusText({ ...status, ...changes })
      .split('\n')
      .at(-2);
  expect(deadLine({})).toBe(
    'dead:          xenwatch:29 (kernel BUG: x); `xl dom0 dmesg` has its stack; ' +
      'no event is handled any more: `xl dom0 stop` and a new start are a reboot',
  );
  expect(deadLine({ xenwatch: 'hardened' })).toBe('dead:          xenwatch:29 (kernel BUG: x); `xl dom0 dmesg` has its stack');
  expect(deadLine({ dead: [] })).toBe('trace:         -');
  const dead = { thread: 'xen-mtwatch-7', pid: 44, why: 'kernel BUG at x.c:1!', holds: ['domain_mutex of 7'] };
  const told = 'dead:          xen-mtwatch-7:44 (kernel BUG at x.c:1!); `xl dom0 dmesg` has its stack; ';
  const reboot = '`xl dom0 stop` and a new start are a reboot';
  expect(deadLine({ xenwatch: 'rfc', dead: [dead] })).toBe(`${told}no event of domain 7 is handled any more: ${reboot}`);
  expect(deadLine({ xenwatch: 'rfc', dead: [{ ...dead, holds: ['watches_lock'] }] })).toBe(
    `${told}it keeps watches_lock, so no event and no reply of the store gets through any more: ${reboot}`,
  );
});

describe('a dom0 that listens and does not answer', () => {
  const dir = runDirAt(join(temp, 'mute'));
  const server = createServer();
  beforeAll(async () => {
    prepareRunDir(dir);
    server.listen(dir.privcmd);
    await once(server, 'listening');
  });
  afterAll(() => server.close());

  test('is named by the pid in its file, with what ends it', async () => {
    await expect(tryConnect(dir, 5)).rejects.toMatchObject({ exit: 1, message: `xl: dom0 in ${dir.path} does not answer` });
    writeFileSync(dir.pidFile, '812\n');
    const message = 'xl: dom0 (pid 812) does not answer; end it with `kill -9 812`';
    await expect(tryConnect(dir, 5)).rejects.toMatchObject({ exit: 1, message });
  });
});

function domain(changes: Partial<DomInfo>): DomInfo {
  return {
    domid: 1,
    uuid: '00000000-0000-0000-0000-000000000000',
    running: false,
    blocked: false,
    paused: false,
    dying: false,
    shutdown: null,
    currentKb: 131_072,
    outstandingKb: 0,
    maxKb: 131_072,
    onlineVcpus: 1,
    maxVcpus: 1,
    cpuTime: 0,
    cpupool: 0,
    ...changes,
  };
}
