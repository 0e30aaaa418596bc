/** Monitors and guest events between real processes: who starts a monitor may end, its log is a file. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bin, type Lab, lab, pvCfg, until } from './harness.js';

let l: Lab;
beforeEach(() => {
  l = lab();
});
afterEach(() => l.close());

const log = (name = 'xl-a.log') => (existsSync(logFile(name)) ? readFileSync(logFile(name), 'utf8') : '');
const logFile = (name: string) => join(l.runDir, 'log', name);
const cfg = (more = '') => writeFileSync(join(l.dir, 'a.cfg'), pvCfg('a', more));
const list = async () => (await l.xl('list')).stdout.split('\n').slice(2).join('\n');
const destroyed = (domid: number, pid = l.pid()) => `Waiting for domain a (domid ${domid}) to die [pid ${pid}]
Domain ${domid} has shut down, reason code 0 0x0
Action for shutdown reason code 0 is destroy
Domain ${domid} needs to be cleaned up: destroying the domain
Done. Exiting now
`;

/** An xl that is not waited for. */
function start(...args: string[]): { child: ChildProcess; stderr: () => string; exit: Promise<unknown[]> } {
  const { XENSTORED_PATH: _, ...inherited } = process.env;
  const child = spawn(process.execPath, [bin, ...args], {
    cwd: l.dir,
    env: { ...inherited, XL_RUN_DIR: l.runDir, ...l.env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  return { child, stderr: () => text, exit: once(child, 'close') };
}

test('a monitor outlives the xl that made it, even one that was killed right after', async () => {
  cfg();
  await l.xl('list');
  const { child, exit } = start('create', '-q', 'a.cfg');
  await until(() => log() !== '');
  child.kill('SIGKILL');
  await exit;
  // It may have been killed before the domain could run.
  await l.xl('unpause', 'a');
  await until(async () => (await l.xl('guest', 'a')).stdout === 'running\n');
  expect(await l.xl('guest', 'a', 'poweroff')).toEqual({ stdout: '', stderr: '', exitCode: 0 });
  await until(() => log().endsWith('Done. Exiting now\n'));
  expect(log()).toBe(destroyed(1));
  expect(await list()).toBe('');
});

test('the log of a domain is rotated when it is created anew, and kept ten times', async () => {
  cfg();
  for (let life = 1; life <= 12; life++) {
    expect((await l.xl('create', '-q', '-p', 'a.cfg')).exitCode).toBe(0);
    expect((await l.xl('destroy', 'a')).exitCode).toBe(0);
    await until(() => log().includes('has been destroyed'));
  }
  const names = readdirSync(join(l.runDir, 'log')).sort();
  expect(names).toEqual(['xl-a.log', ...Array.from({ length: 10 }, (_, index) => `xl-a.log.${index + 1}`)].sort());
  expect(log('xl-a.log.10')).toBe(`Waiting for domain a (domid 2) to die [pid ${l.pid()}]\nDomain 2 has been destroyed.\n`);
  expect((statSync(logFile('xl-a.log')).mode & 0o777).toString(8)).toBe('644');
});

test('a reboot is another domid and another node, in the same log', async () => {
  cfg();
  await l.xl('create', '-q', 'a.cfg');
  await until(async () => (await l.xl('guest', 'a')).stdout === 'running\n');
  await l.xl('reboot', '-w', 'a');
  await until(() => log().includes('(domid 2)'));
  const pid = l.pid();
  expect(log()).toBe(`Waiting for domain a (domid 1) to die [pid ${pid}]
Domain 1 has shut down, reason code 1 0x1
Action for shutdown reason code 1 is restart
Domain 1 needs to be cleaned up: destroying the domain
Done. Rebooting now
Waiting for domain a (domid 2) to die [pid ${pid}]
`);
  const nodes = JSON.parse((await l.xl('mtwatch', 'list', '--json')).stdout) as { domid: number; node: boolean }[];
  expect(nodes.filter(({ domid }) => domid > 0).map(({ domid, node }) => [domid, node])).toEqual([[2, true]]);
  expect(readdirSync(join(l.runDir, 'log'))).toEqual(['xl-a.log']);
});

describe('xl create -F', () => {
  test('watches in the foreground and ends with 0', async () => {
    cfg();
    const { child, stderr, exit } = start('create', '-q', '-F', 'a.cfg');
    await until(() => stderr() !== '');
    await until(async () => (await l.xl('guest', 'a')).stdout === 'running\n');
    await l.xl('guest', 'a', 'poweroff');
    expect(await exit).toEqual([0, null]);
    expect(stderr()).toBe(destroyed(1, child.pid));
    expect(readdirSync(join(l.runDir, 'log'))).toEqual([]);
  });

  test("ends with libxl's code when the next life fails", async () => {
    cfg('on_crash = "rename-restart"');
    const { stderr, exit } = start('create', '-q', '-F', 'a.cfg');
    await until(() => stderr() !== '');
    await until(async () => (await l.xl('guest', 'a')).stdout === 'running\n');
    // Its disk belongs to the preserved domain.
    await l.xl('guest', 'a', 'crash');
    expect(await exit).toEqual([3, null]);
    expect(stderr()).toMatch(/\nDone\. Rebooting now\nlibxl: error: [\s\S]*Domain 2:unable to add disk devices\n/);
    expect(await list()).toMatch(/^a-\d{8}T\d{4}Z +1 /);
  });

  test('leaves the domain to nobody when it is interrupted', async () => {
    cfg();
    const { child, stderr, exit } = start('create', '-q', '-F', 'a.cfg');
    await until(() => stderr() !== '');
    await until(async () => (await l.xl('guest', 'a')).stdout === 'running\n');
    child.kill('SIGINT');
    expect(await exit).toEqual([null, 'SIGINT']);
    await l.xl('guest', 'a', 'poweroff');
    await until(async () => (await l.xl('guest', 'a')).stdout === 'shut down\n');
    expect(await list()).toMatch(/^a +1 .* ---s-- /);
  });
});

test('xl create -e leaves no monitor: what ended stays', async () => {
  cfg();
  await l.xl('create', '-q', '-e', 'a.cfg');
  await until(async () => (await l.xl('guest', 'a')).stdout === 'running\n');
  await l.xl('guest', '1', 'crash');
  expect(await list()).toMatch(/^a +1 .* ---sc- /);
  expect(readdirSync(join(l.runDir, 'log'))).toEqual([]);
  expect(await l.xl('guest', 'a', 'poweroff')).toEqual({
    stdout: '',
    stderr: 'xl: domain 1 has shut down already; `xl destroy 1` ends it\n',
    exitCode: 1,
  });
});

test('xl guest says how a guest is, and what there is to ask for', async () => {
  cfg();
  await l.xl('create', '-q', '-p', 'a.cfg');
  expect(JSON.parse((await l.xl('guest', 'a', '--json')).stdout)).toEqual({ domid: 1, name: 'a', state: 'paused' });
  expect(JSON.parse((await l.xl('guest', '1', 'hang', '--json')).stdout)).toEqual({ domid: 1, name: 'a', state: 'paused' });
  await l.xl('unpause', 'a');
  expect((await l.xl('guest', 'a')).stdout).toBe('hung\n');
  expect(await l.xl('guest', 'a', 'melt')).toEqual({
    stdout: '',
    stderr: 'xl: guest: there is no event melt; there are poweroff, reboot, crash, hang, wake, suspend, watchdog, soft-reset\n',
    exitCode: 2,
  });
  expect(await l.xl('guest', '7', 'hang')).toEqual({
    stdout: '',
    stderr: 'xl: there is no domain 7; `xl list` shows those that there are\n',
    exitCode: 1,
  });
  l.env['XL_TIMEOUT_SCALE'] = '0.01';
  expect(await l.xl('shutdown', '-w', 'a')).toEqual({
    stdout: '',
    stderr: `Shutting down domain 1
libxl: error: libxl_domain.c:854:pvcontrol_cb: guest didn't acknowledge control request: -9
shutdown failed (rc=-9)
`,
    exitCode: 1,
  });
});
