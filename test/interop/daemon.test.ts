/** dom0d and the commands that find, start and lose it: real processes, real sockets. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { socketTransport } from '../../src/xenbus/transport.js';
import { xsClient } from '../../src/xenbus/xs-client.js';
import { bin, isRunning, type Lab, lab, pvCfg, until } from './harness.js';

let l: Lab;
beforeEach(() => {
  l = lab();
});
afterEach(() => l.close());

const dom0Row = 'Domain-0                                     0  1536     2     r-----';
const starts = () => l.log().match(/listens in/g)?.length ?? 0;

test('twenty first commands at once start one dom0', async () => {
  const runs = await Promise.all(Array.from({ length: 20 }, () => l.xl('list')));
  for (const run of runs) expect(run).toEqual({ stdout: expect.stringContaining(dom0Row), stderr: '', exitCode: 0 });
  expect(starts()).toBe(1);
  expect(
    l
      .log()
      .split('\n')
      .filter((line) => /another process/.test(line)),
  ).toEqual([]);
});

test('of two who start one with arguments of their own, one is told that it is not', async () => {
  const runs = await Promise.all(['a', 'b', 'c'].map((cmdline) => l.xl('dom0', 'start', '--cmdline', cmdline)));
  expect(runs.map(({ exitCode }) => exitCode).sort()).toEqual([0, 1, 1]);
  for (const { stderr } of runs.filter(({ exitCode }) => exitCode === 1))
    expect(stderr).toMatch(/^xl: a (command beside|dom0 is running)/);
  const { cmdline } = JSON.parse((await l.xl('dom0', 'status', '--json')).stdout);
  expect(['a', 'b', 'c'].indexOf(cmdline)).toBe(runs.findIndex(({ exitCode }) => exitCode === 0));
});

test('the files of a run directory are for their user alone', async () => {
  await l.xl('list');
  const mode = (name: string) => (statSync(join(l.runDir, name)).mode & 0o777).toString(8);
  expect(['.', 'xenstored', 'lib', 'log'].map(mode)).toEqual(['700', '700', '700', '700']);
  expect(['privcmd.sock', 'xenstored/socket', 'xenstored/xl', 'xenstored/hotplug', 'dom0.pid', 'dom0.log'].map(mode)).toEqual(
    Array.from({ length: 6 }, () => '600'),
  );
});

test('after kill -9 the next command starts another, and nothing of the first is left', async () => {
  writeFileSync(join(l.dir, 'a.cfg'), pvCfg('a'));
  expect(await l.xl('create', '-q', 'a.cfg')).toEqual({ stdout: '', stderr: '', exitCode: 0 });
  const first = l.pid() ?? 0;
  writeFileSync(join(l.runDir, 'lib/mine'), '');
  process.kill(first, 'SIGKILL');
  await until(() => !isRunning(first));
  const runs = await Promise.all([l.xl('list'), l.xl('domid', 'a'), l.xl('list')]);
  expect(runs.map(({ exitCode }) => exitCode)).toEqual([0, 1, 0]);
  expect(runs[0]?.stdout.trimEnd().split('\n')).toHaveLength(2);
  expect(l.pid()).not.toBe(first);
  expect(starts()).toBe(2);
  // What it had saved of its domains goes; what somebody else put there does not.
  expect(readdirSync(join(l.runDir, 'lib'))).toEqual(['mine']);
});

test('a command whose dom0 is killed says so and fails', async () => {
  writeFileSync(join(l.dir, 'a.cfg'), pvCfg('a', 'on_poweroff = "preserve"'));
  await l.xl('create', '-q', '-p', 'a.cfg');
  const asking = l.xl('shutdown', 'a');
  const xs = xsClient(await socketTransport(join(l.runDir, 'xenstored', 'socket')));
  await until(async () => (await xs.read('/local/domain/1/control/shutdown')) === 'poweroff');
  xs.close();
  process.kill(l.pid() ?? 0, 'SIGKILL');
  const { stderr, exitCode } = await asking;
  expect(exitCode).toBe(1);
  expect(stderr).toMatch(/^Shutting down domain 1\nxl: dom0 ended while the command was running; .*dom0\.log may say why\n$/);
});

test('a run directory that is too long is refused before anything is made', async () => {
  l.env['XL_RUN_DIR'] = join(l.dir, 'x'.repeat(100));
  const { stderr, exitCode } = await l.xl('list');
  expect(exitCode).toBe(1);
  expect(stderr).toMatch(
    /^xl: the run directory \S+ is \d+ bytes long and unix sockets leave room for \d+; set XL_RUN_DIR to a shorter one\n$/,
  );
  expect(existsSync(l.env['XL_RUN_DIR'])).toBe(false);
});

test.each(['list', 'dom0 start', 'dom0 stop', 'create -n /dev/null'])(
  'a time scale that is none is refused by xl %s before anything is done',
  async (command) => {
    l.env['XL_TIMEOUT_SCALE'] = 'soon';
    const stderr = 'xl: XL_TIMEOUT_SCALE is soon; it must be a number over 0, like 0.05\n';
    expect(await l.xl(...command.split(' '))).toEqual({ stdout: '', stderr, exitCode: 1 });
    expect(existsSync(l.runDir)).toBe(false);
  },
);

test('dom0d refuses such a scale too', async () => {
  const program = fileURLToPath(new URL('../../dist/dom0d.js', import.meta.url));
  const { stderr, exitCode } = await execa(process.execPath, [program, '--run-dir', l.runDir], {
    env: { XL_TIMEOUT_SCALE: '0' },
    reject: false,
  });
  expect({ stderr, exitCode }).toEqual({
    stderr: 'dom0d: XL_TIMEOUT_SCALE is 0; it must be a number over 0, like 0.05',
    exitCode: 1,
  });
  expect(existsSync(l.runDir)).toBe(false);
});

test('a run directory that cannot be used is refused in one line', async () => {
  for (const path of ['/proc', '/dev/null', join(l.dir, 'link')]) {
    if (path.endsWith('link')) symlinkSync(path, path);
    l.env['XL_RUN_DIR'] = path;
    const stderr = expect.stringMatching(/^xl: the run directory .*; set XL_RUN_DIR to .*\n$/);
    expect(await l.xl('list')).toEqual({ stdout: '', stderr, exitCode: 1 });
  }
});

describe('output that cannot be written', () => {
  const sh = (script: string) =>
    execa('bash', ['-c', script, 'sh', process.execPath, bin], {
      cwd: l.dir,
      env: { XL_RUN_DIR: l.runDir, ...l.env },
      reject: false,
      stdin: 'ignore',
    });

  test.each(['help', 'list', 'list -l', 'dom0 status', 'mtwatch list --json'])('is told once by xl %s', async (words) => {
    await l.xl('list');
    const { stderr, exitCode } = await sh(`"$1" "$2" ${words} >/dev/full`);
    expect({ stderr, exitCode }).toEqual({ stderr: 'xl: cannot write: No space left on device', exitCode: 1 });
  });

  test('ends a command as SIGPIPE would, when nobody reads it any more', async () => {
    await l.xl('list');
    for (const [words, way] of [
      ['help', '>&3'],
      ['list', '>&3'],
      ['nosuch', '2>&3'],
    ]) {
      // The pipe has a reader while it is opened, and none when xl starts.
      const { stdout, stderr } = await sh(
        `mkfifo fifo; sleep 60 <fifo & exec 3>fifo; kill $!; wait $!; rm fifo; "$1" "$2" ${words} ${way}; echo $?`,
      );
      expect({ words, stdout, stderr: stderr.replace(/.*Terminated.*/, '') }).toEqual({ words, stdout: '141', stderr: '' });
    }
  });
});

test('xl list -l says of a zombie that it has no config, as a real host does', async () => {
  writeFileSync(join(l.dir, 'a.cfg'), pvCfg('a'));
  l.env['XL_TIMEOUT_SCALE'] = '0.01';
  await l.xl('create', '-q', 'a.cfg');
  await l.xl('xwstall', 'hold', 'vif1.0');
  await l.xl('destroy', 'a');
  const { stdout, stderr, exitCode } = await l.xl('list', '-l');
  expect({ stderr, exitCode }).toEqual({
    stderr:
      'libxl: error: libxl_domain.c:2335:retrieve_domain_configuration_lock_acquired: Domain 1:Fail to get domain configuration\n',
    exitCode: 0,
  });
  expect(JSON.parse(stdout).map(({ domid }: { domid: number }) => domid)).toEqual([0]);
});

test('xl shutdown -aw without a guest says that it waits for none', async () => {
  expect(await l.xl('shutdown', '-aw')).toEqual({ stdout: '', stderr: 'Waiting for 0 domains\n', exitCode: 0 });
});

test('a config is bytes: what is no UTF-8 comes out as it went in', () => {
  writeFileSync(join(l.dir, 'a.cfg'), Buffer.from('name = "w\xe9b"\nkernel="/k"\nmemory="1"\nmemory=["\xe9"]\n', 'latin1'));
  const { stdout, stderr, status } = spawnSync(process.execPath, [bin, 'create', '-n', 'a.cfg'], { cwd: l.dir, env: l.env });
  expect(stdout.toString('latin1')).toContain('"name": "w\xe9b"');
  expect([stderr.toString('latin1'), status]).toEqual([
    "Parsing config from a.cfg\na.cfg:4: warning: parameter `memory' is a list but should be a single value\n",
    0,
  ]);
});

test('XL_DOM0_AUTOSTART=0 names the command to run instead', async () => {
  l.env['XL_DOM0_AUTOSTART'] = '0';
  const refusal = { stdout: '', stderr: `xl: no dom0 is running in ${l.runDir}; start it with \`xl dom0 start\`\n`, exitCode: 1 };
  expect(await l.xl('list')).toEqual(refusal);
  expect(await l.xl('dom0', 'status')).toEqual(refusal);
  expect(existsSync(l.runDir)).toBe(false);
});

test.each([
  ['an argument that dom0 does not have', '--bogus', /^xl: dom0 did not start: Unknown option '--bogus'/],
  ['a journal in a place that is none', '--journal /dev/null/j', /^xl: dom0 did not start: --journal \/dev\/null\/j: ENOTDIR/],
  [
    'a way to write it that is none',
    '--journal j --fsync often',
    /^xl: dom0 did not start: --fsync often: give always or never\n$/,
  ],
  [
    'a way to write no journal',
    '--fsync never',
    /^xl: dom0 did not start: --fsync never: there is no journal to write; give --journal DIR too\n$/,
  ],
  ['a time that is none', '--idle soon', /^xl: dom0 did not start: --idle soon: give a number of seconds, 0 for never\n$/],
  ['a host that is not described', '--host nosuch.json', /^xl: dom0 did not start: --host \S*nosuch\.json: ENOENT/],
  ['a trace nowhere', '--trace /nosuch/trace', /^xl: dom0 did not start: --trace \/nosuch\/trace: ENOENT/],
])('%s in XL_DOM0_ARGS is told to whoever needed a dom0', async (_what, args, message) => {
  l.env['XL_DOM0_ARGS'] = args;
  expect(await l.xl('list')).toEqual({ stdout: '', stderr: expect.stringMatching(message), exitCode: 1 });
  expect(l.pid()).toBeUndefined();
});

describe('a running dom0', () => {
  test('answers an operation that it does not have with ENOSYS, and ends a peer that speaks nonsense', async () => {
    await l.xl('list');
    const ask = (...lines: string[]) =>
      new Promise<string[]>((resolve) => {
        const socket = connect(join(l.runDir, 'privcmd.sock'));
        let text = '';
        socket.on('data', (chunk) => {
          text += chunk.toString();
          if (text.includes('"id":1')) socket.end();
        });
        socket.on('close', () => resolve(text.trimEnd().split('\n')));
        for (const line of lines) socket.write(`${line}\n`);
      });
    const hello = '{"proto":1,"version":"x","pid":5}';
    expect((await ask(hello, '{"id":1,"op":"xc.nosuch","args":{}}')).map((line) => JSON.parse(line))).toEqual([
      { proto: 1, version: expect.any(String), pid: l.pid() },
      { id: 1, error: { errno: 'ENOSYS', message: 'no operation xc.nosuch' } },
    ]);
    expect(await ask('GET / HTTP/1.1')).toHaveLength(1);
    await until(() => /privcmd: closed a connection: a line that is not JSON: "GET \/ HTTP\/1\.1"/.test(l.log()));
    expect((await l.xl('list')).exitCode).toBe(0);
  });

  test('is refused a second time, told about, and stopped, with nothing left of it', async () => {
    expect(await l.xl('dom0', 'start', '--assume-files', '--cmdline', '', '--bridge', 'br0', '--bridge', 'br1')).toEqual({
      stdout: '',
      stderr: '',
      exitCode: 0,
    });
    const pid = l.pid();
    expect((await l.xl('dom0', 'start')).stderr).toMatch(`xl: a dom0 is running in ${l.runDir} (pid ${pid}); stop it first with`);
    const { stdout } = await l.xl('dom0', 'status', '--json');
    expect(JSON.parse(stdout)).toMatchObject({
      pid,
      runDir: l.runDir,
      cmdline: '',
      xenwatch: 'single',
      domains: 0,
      host: { root: '/', assumeFiles: true, strictFiles: false, bridges: ['br0', 'br1'] },
      trace: null,
    });
    expect(await l.xl('dom0', 'stop')).toEqual({ stdout: '', stderr: '', exitCode: 0 });
    await until(() => !isRunning(pid ?? 0));
    expect(
      ['privcmd.sock', 'dom0.pid', 'xenstored/socket', 'xenstored/xl'].filter((name) => existsSync(join(l.runDir, name))),
    ).toEqual([]);
    expect(await l.xl('dom0', 'stop')).toEqual({ stdout: '', stderr: `xl: no dom0 is running in ${l.runDir}\n`, exitCode: 0 });
  });

  test('ends when its run directory is gone, and another can take its place at once', async () => {
    await l.xl('list');
    const first = l.pid() ?? 0;
    rmSync(l.runDir, { recursive: true });
    expect((await l.xl('list')).exitCode).toBe(0);
    expect(l.pid()).not.toBe(first);
    await until(() => !isRunning(first));
    expect((await l.xl('list')).exitCode).toBe(0);
    expect(starts()).toBe(1);
  });

  test('ends after its idle time, but not while there is a guest', async () => {
    l.env['XL_DOM0_ARGS'] = '--assume-files --idle 0.05';
    writeFileSync(join(l.dir, 'a.cfg'), pvCfg('a'));
    await l.xl('create', '-q', 'a.cfg');
    const pid = l.pid() ?? 0;
    // From one command to the next is longer than the idle time: a process has to start.
    for (let times = 0; times < 5; times++) expect((await l.xl('domid', 'a')).stdout).toBe('1\n');
    expect(isRunning(pid)).toBe(true);
    expect((await l.xl('destroy', 'a')).exitCode).toBe(0);
    await until(() => !isRunning(pid));
    expect(l.log()).toMatch(/ends: 0.05 s without a guest and a client\n$/);
  });

  test('ends by SIGTERM, and what it wrote to its trace is whole', async () => {
    l.env['XL_DOM0_ARGS'] = '--assume-files --trace trace.jsonl';
    writeFileSync(join(l.dir, 'a.cfg'), pvCfg('a'));
    await l.xl('create', '-q', 'a.cfg');
    const pid = l.pid() ?? 0;
    process.kill(pid, 'SIGTERM');
    await until(() => !isRunning(pid));
    const text = readFileSync(join(l.dir, 'trace.jsonl'), 'utf8');
    const lines = text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { who: string; op: string; args: string[] });
    expect([...new Set(lines.map(({ who }) => who))].sort()).toEqual([
      'dom0-kernel',
      'domU-kernel',
      'hotplug',
      'monitor',
      'xenconsoled',
      'xl',
    ]);
    expect(lines.find(({ who }) => who === 'monitor')).toMatchObject({
      op: 'WATCH',
      args: ['@releaseDomain', expect.anything()],
    });
    expect(l.log()).toMatch(/ends: SIGTERM\n$/);
  });

  test('loses its trace when the disk is full, and nothing else', async () => {
    l.env['XL_DOM0_ARGS'] = '--trace /dev/full';
    expect((await l.xl('list')).exitCode).toBe(0);
    expect((await l.xl('list')).exitCode).toBe(0);
    expect(l.log().match(/the trace ends: \/dev\/full: ENOSPC/g)).toHaveLength(1);
  });

  test('describes the host that it was given', async () => {
    writeFileSync(join(l.dir, 'host.json'), '{"totalMb": 4096, "dom0Mb": 1024, "nrCpus": 8}');
    l.env['XL_DOM0_ARGS'] = '--host host.json';
    expect((await l.xl('list')).stdout).toContain('Domain-0                                     0  1024     8     r-----');
  });
});

describe('a foreign store', () => {
  test('is for mtwatch and xenstore alone', async () => {
    l.env['XENSTORED_PATH'] = '/nosuch/socket';
    for (const command of [['list'], ['mtwatch', 'show', '0'], ['dom0', 'dmesg']]) {
      expect(await l.xl(...command)).toEqual({
        stdout: '',
        stderr: `xl: ${command[0]}${command[1] && command[0] !== 'list' ? ` ${command[1]}` : ''} needs the embedded dom0; XENSTORED_PATH points to /nosuch/socket\n`,
        exitCode: 1,
      });
    }
    expect((await l.xl('mtwatch', 'list')).stderr).toMatch(/^xl: no store answers at XENSTORED_PATH=\/nosuch\/socket: /);
    expect(existsSync(l.runDir)).toBe(false);
  });

  test('is listed by its nodes, and its orphans are marked and pruned', async () => {
    writeFileSync(join(l.dir, 'a.cfg'), pvCfg('a'));
    await l.xl('create', '-q', 'a.cfg');
    // The store of one dom0 is foreign to a command with another run directory.
    const store = join(l.runDir, 'xenstored/socket');
    await leaveNode(store, 77);
    // The dom0 whose store it is has a thread for the node, and says the same of it.
    expect((await l.xl('mtwatch', 'list')).stdout).toMatch(/ 77 xen-mtwatch-77 .*\(orphan\)\n/);
    expect((await l.xl('mtwatch', 'show', '77')).stdout).toContain('\nnode:     yes (orphan)\n');
    expect((await l.xl('mtwatch', 'show', 'a')).stdout).toContain('\nnode:     yes\n');
    expect((await l.xl('mtwatch', 'show', 'xenwatch')).stdout).not.toContain('node:');
    const other = join(l.dir, 'other');
    mkdirSync(other, { mode: 0o700 });
    Object.assign(l.env, { XL_RUN_DIR: other, XENSTORED_PATH: store, XL_TIMEOUT_SCALE: '0.01' });
    expect((await l.xl('mtwatch', 'list')).stdout.split('\n').slice(1)).toEqual([
      'a                                            1 -                  - -           -       -  -',
      '(null)                                      77 -                  - -           -       -  -  (orphan)',
      '',
    ]);
    expect(JSON.parse((await l.xl('mtwatch', 'list', '--json')).stdout)[0]).toEqual({
      domid: 1,
      name: 'a',
      node: true,
      thread: null,
      pid: null,
      state: null,
      pending: null,
      handled: null,
      retiring: null,
      running: null,
    });
    expect((await l.xl('mtwatch', 'prune')).stdout).toBe('removed /local/domain/0/mtwatch/77\n');
    expect((await l.xl('mtwatch', 'prune', '--now', '--json')).stdout).toBe('[]\n');
    expect(readFileSync(join(l.runDir, 'dom0.pid'), 'utf8')).toMatch(/^\d+\n$/);
  });
});

/** What a toolstack leaves that is killed after it announced a domid. */
async function leaveNode(store: string, domid: number): Promise<void> {
  const payload = Buffer.from(`/local/domain/0/mtwatch/${domid}\0`);
  const header = Buffer.alloc(16);
  header.writeUInt32LE(11, 0);
  header.writeUInt32LE(payload.length, 12);
  await new Promise<void>((resolve, reject) => {
    const socket = connect(store);
    socket.on('error', reject);
    socket.on('data', () => {
      socket.end();
      resolve();
    });
    socket.write(Buffer.concat([header, payload]));
  });
}

describe('a dom0 that is killed', () => {
  test('again and again, with clients connected: each next one starts clean and names what was lost', async () => {
    for (const name of ['a', 'b']) writeFileSync(join(l.dir, `${name}.cfg`), pvCfg(name));
    for (let round = 1; round <= 4; round++) {
      for (const name of ['a', 'b']) expect((await l.xl('create', '-q', '-p', `${name}.cfg`)).exitCode).toBe(0);
      const server = l.pid() ?? 0;
      const idle = connect(join(l.runDir, 'privcmd.sock')).resume();
      const watcher = xsClient(await socketTransport(join(l.runDir, 'xenstored', 'socket')));
      const lost = watcher.ended;
      await watcher.watch('/local', () => undefined);
      const left = new Promise((done) => idle.on('close', done));
      process.kill(server, 'SIGKILL');
      await Promise.all([left, lost, until(() => !isRunning(server))]);
      const { stderr, stdout, exitCode } = await l.xl('list');
      expect({ stderr, rows: stdout.trimEnd().split('\n').length, exitCode }).toEqual({
        stderr: 'xl: the dom0 before was killed; lost with it: a (1), b (2)\n',
        rows: 2,
        exitCode: 0,
      });
      expect((await l.xl('list')).stderr).toBe('');
      expect(l.log().match(/the dom0 before this one was killed; lost with it: a \(1\), b \(2\)\n/g)).toHaveLength(round);
      expect([readdirSync(join(l.runDir, 'lib')), readdirSync(join(l.runDir, 'guest'))]).toEqual([[], []]);
    }
  });

  test('with many domains: the first ten are named', async () => {
    await l.xl('list');
    const server = l.pid() ?? 0;
    process.kill(server, 'SIGKILL');
    await until(() => !isRunning(server));
    for (let domid = 1; domid <= 12; domid++) {
      const json = `{"c_info": {"name": "web\\"${domid}"}}\0`;
      writeFileSync(join(l.runDir, `lib/userdata-d.${domid}.00000000-0000-4000-8000-000000000000.libxl-json`), json);
    }
    // A domain that was still being created, and one of which nothing can be read.
    mkdirSync(join(l.runDir, 'guest/20'));
    writeFileSync(join(l.runDir, 'lib/userdata-d.3.00000000-0000-4000-8000-000000000000.libxl-json'), '{');
    const names = Array.from({ length: 10 }, (_, index) => (index === 2 ? '(null) (3)' : `web"${index + 1} (${index + 1})`));
    expect((await l.xl('list')).stderr).toBe(`xl: the dom0 before was killed; lost with it: ${names.join(', ')} and 3 more\n`);
  });

  test('is no news when it was stopped, whatever it had', async () => {
    writeFileSync(join(l.dir, 'a.cfg'), pvCfg('a'));
    await l.xl('create', '-q', '-p', 'a.cfg');
    await l.xl('dom0', 'stop');
    expect(await l.xl('list')).toEqual({ stdout: expect.stringContaining(dom0Row), stderr: '', exitCode: 0 });
  });
});

test('a second dom0 of the same run directory gives way', async () => {
  await l.xl('list');
  const first = l.pid();
  const program = fileURLToPath(new URL('../../dist/dom0d.js', import.meta.url));
  const { stdout, exitCode } = await execa(process.execPath, [program, '--run-dir', l.runDir]);
  expect({ stdout, exitCode }).toEqual({
    stdout: expect.stringMatching(/ another process is the dom0 of this run directory$/),
    exitCode: 0,
  });
  expect((await l.xl('list')).stderr).toBe('');
  expect(l.pid()).toBe(first);
});

describe('a dom0 of another version that has gone on running after an upgrade', () => {
  let server: Server | undefined;
  afterEach(() => server?.close());

  /** Listens as one and says these words first. */
  const pretend = async (hello: object): Promise<void> => {
    mkdirSync(l.runDir, { mode: 0o700, recursive: true });
    server = createServer((socket) => {
      socket.write(`${JSON.stringify(hello)}\n`);
      let text = '';
      socket.on('data', (chunk) => {
        text += chunk.toString();
        const { id, op } = (/"id"/.test(text) ? JSON.parse(text.slice(text.indexOf('\n') + 1)) : {}) as {
          id?: number;
          op?: string;
        };
        if (id !== undefined)
          socket.end(`${JSON.stringify({ id, error: { errno: 'ENOSYS', message: `no operation ${op}` } })}\n`);
      });
      socket.on('error', () => undefined);
    });
    server.listen(join(l.runDir, 'privcmd.sock'));
    await once(server, 'listening');
  };
  const mine = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version as string;

  test('and speaks another protocol is refused with what to do, and neither killed nor replaced', async () => {
    await pretend({ proto: 2, version: '9.9.9', pid: process.pid });
    const stderr = `xl: this is xl ${mine} (protocol 1), the running dom0 is 9.9.9 (protocol 2, pid ${process.pid}); use that xl, or end its dom0 with \`kill ${process.pid}\`\n`;
    for (const words of ['list', 'create -q a.cfg', 'dom0 stop', 'dom0 start']) {
      writeFileSync(join(l.dir, 'a.cfg'), pvCfg('a'));
      expect({ words, ...(await l.xl(...words.split(' '))) }).toEqual({ words, stdout: '', stderr, exitCode: 1 });
    }
    expect(l.log()).toBe('');
  });

  test('and speaks ours is asked; what it does not have is refused with what to do', async () => {
    await pretend({ proto: 1, version: '0.0.9', pid: process.pid });
    expect(await l.xl('xwstall', 'list')).toEqual({
      stdout: '',
      stderr: `xl: no operation dom0.holds: the running dom0 is 0.0.9, this is xl ${mine}; use that xl, or end its dom0 with \`kill ${process.pid}\`\n`,
      exitCode: 1,
    });
  });
});
