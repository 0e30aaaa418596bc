/**
 * dom0's kernel as a person meets it: the store through it, its log as it comes, its threads while they hang. The rules are
 * in test/sim/xenbus-dev.test.ts and test/sim/kernel-view.test.ts; here are real processes and Debian's clients.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa, type ResultPromise } from 'execa';
import { testWith } from './clients.js';
import { bin, type Lab, lab, pvCfg, until } from './harness.js';

let l: Lab;
const children: ResultPromise[] = [];

beforeEach(() => {
  l = lab();
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await l.close();
});

const silent = { stdout: '', stderr: '', exitCode: 0 };
const dev = () => join(l.runDir, 'dev', 'xenbus');

/** A client that runs until it is killed, and the lines that it has printed. */
function running(
  command: string,
  args: readonly string[],
  env: Record<string, string>,
): { child: ResultPromise; lines: string[] } {
  const child = execa(command, args, { env, reject: false, buffer: false });
  children.push(child as unknown as ResultPromise);
  const lines: string[] = [];
  child.stdout.setEncoding('utf8');
  child.stdout.on('data', (chunk: string) => lines.push(...chunk.split('\n').filter((line) => line !== '')));
  return { child: child as unknown as ResultPromise, lines };
}

/** Domain 1, with whoever disconnects its vif stuck, and somebody at it. */
async function stall(cmdline: string): Promise<void> {
  l.env['XL_DOM0_ARGS'] = `--assume-files --cmdline='${cmdline}'`;
  writeFileSync(join(l.dir, 'one.cfg'), pvCfg('one'));
  expect(await l.xl('create', '-q', 'one.cfg')).toEqual(silent);
  await until(async () => (await l.xl('dom0', 'dmesg')).stdout.includes('vif1.0: Guest Rx ready'));
  expect(await l.xl('xwstall', 'hold', 'vif1.0')).toMatchObject({ exitCode: 0 });
  l.env['XL_TIMEOUT_SCALE'] = '0.05';
  expect(await l.xl('destroy', '1')).toMatchObject({ exitCode: 0 });
  delete l.env['XL_TIMEOUT_SCALE'];
}

describe("Debian's clients through dom0's kernel", () => {
  testWith('xenstore-ls')('read, write and list as through the store itself', async (xenstoreLs) => {
    expect(await l.xl('dom0', 'start', '--cmdline=')).toEqual(silent);
    expect((await l.xl('dom0', 'env', '--kernel')).stdout).toBe(
      `XL_RUN_DIR=${l.runDir}; export XL_RUN_DIR;\nXENSTORED_PATH=${dev()}; export XENSTORED_PATH;\n`,
    );
    const [kernel, store] = await Promise.all(
      [dev(), join(l.runDir, 'xenstored', 'socket')].map((path) => execa(xenstoreLs, [], { env: { XENSTORED_PATH: path } })),
    );
    expect(kernel?.stdout).toContain('name = "Domain-0"');
    expect(kernel?.stdout).toBe(store?.stdout);
  });

  testWith('xenstore-watch')(
    'are not told of changes while xenwatch hangs, and are told of all afterwards',
    async (xenstoreWatch) => {
      await stall('');
      const env = { XENSTORED_PATH: dev() };
      const { child, lines } = running(xenstoreWatch, ['/test'], env);
      const another = running(xenstoreWatch, ['/other'], env);
      await until(async () => (await l.xl('mtwatch', 'show', 'xenwatch')).stdout.includes('/other  watch_fired\n'));
      expect(await l.xl('xenstore', 'write', '/test', '1')).toEqual(silent);
      l.env['XENSTORED_PATH'] = dev();
      expect(await l.xl('xenstore', 'read', '/test')).toEqual({ ...silent, stdout: '1\n' });
      delete l.env['XENSTORED_PATH'];
      expect(lines).toEqual([]);

      // Who is killed meanwhile leaves a worker that hangs.
      another.child.kill('SIGKILL');
      await until(async () => (await l.xl('mtwatch', 'show', 'kworker/0:1')).exitCode === 0);
      expect((await l.xl('mtwatch', 'show', 'kworker/0:1')).stdout).toMatch(
        /^state: {4}D .*\nwaits: {4}mutex xenwatch_mutex, owned by xenwatch:\d+$/m,
      );
      expect((await l.xl('mtwatch', 'show', 'xenwatch')).stdout).toMatch(
        /^waited for by:\nkworker\/0:1:\d+ {2}mutex xenwatch_mutex/m,
      );

      expect(await l.xl('xwstall', 'flush')).toMatchObject({ exitCode: 0 });
      await until(() => lines.length === 2);
      expect(lines).toEqual(['/test', '/test']);
      expect((await l.xl('mtwatch', 'show', 'kworker/0:1')).stdout).toMatch(/^waits: {4}worker_thread$/m);
      child.kill('SIGKILL');
    },
  );
});

test('xl works through the kernel for as long as xenwatch does', async () => {
  await stall('xen_mtwatch');
  l.env['XENSTORED_PATH'] = dev();
  writeFileSync(join(l.dir, 'two.cfg'), pvCfg('two'));
  expect(await l.xl('create', '-q', 'two.cfg')).toEqual(silent);
  expect(await l.xl('destroy', 'two')).toEqual(silent);
  expect((await l.xl('list')).stdout).toContain('(null) ');
});

describe('xl dom0 dmesg --follow', () => {
  const follow = (...flags: string[]) =>
    running(process.execPath, [bin, 'dom0', 'dmesg', '--follow', ...flags], { XL_RUN_DIR: l.runDir });

  test('prints what there is, then each line as it comes, and ends by Ctrl-C without a word', async () => {
    expect(await l.xl('dom0', 'start')).toEqual(silent);
    const { child, lines } = follow();
    const json = follow('--json');
    await until(() => lines.length > 0 && json.lines.length > 0);
    await l.xl('xenstore', 'write', '/local/domain/0/control/shutdown', 'nonsense');
    await until(() => lines.at(-1)?.endsWith('xen:manage: Ignoring shutdown request: nonsense') === true);
    expect(lines).toEqual((await l.xl('dom0', 'dmesg')).stdout.trimEnd().split('\n'));
    await until(() => json.lines.length === lines.length);
    expect(json.lines.map((line) => (JSON.parse(line) as { text: string }).text)).toEqual(
      lines.map((line) => line.replace(/^\[.*?\] /, '')),
    );
    const stderr: string[] = [];
    child.stderr?.on('data', (chunk: Buffer) => stderr.push(chunk.toString()));
    child.kill('SIGINT');
    expect(await child).toMatchObject({ exitCode: 130 });
    expect(stderr).toEqual([]);
  });

  test('ends with a line when dom0 does', async () => {
    expect(await l.xl('dom0', 'start')).toEqual(silent);
    const { child, lines } = follow();
    const stderr: string[] = [];
    child.stderr?.on('data', (chunk: Buffer) => stderr.push(chunk.toString()));
    await until(() => lines.length > 0);
    expect(await l.xl('dom0', 'stop')).toEqual(silent);
    expect(await child).toMatchObject({ exitCode: 1 });
    expect(stderr.join('')).toMatch(/^xl: dom0 ended.*\n$/);
  });
});

test('xl dom0 dmesg has dates and JSON', async () => {
  expect(await l.xl('dom0', 'start')).toEqual(silent);
  const first = (await l.xl('dom0', 'dmesg', '-T')).stdout.split('\n')[0] ?? '';
  const [, date = ''] = /^\[(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})\] Linux version/.exec(first) ?? [];
  expect(Math.abs(Date.parse(date) - Date.now())).toBeLessThan(3_600_000);
  const lines = JSON.parse((await l.xl('dom0', 'dmesg', '--json')).stdout) as { seconds: number; text: string }[];
  expect(lines[0]).toEqual({ seconds: expect.any(Number), text: expect.stringMatching(/^Linux version/) });
  const withDates = JSON.parse((await l.xl('dom0', 'dmesg', '--json', '-T')).stdout) as { date: string }[];
  expect(Math.abs(Date.parse(withDates[0]?.date ?? '') - Date.parse(date))).toBeLessThan(2_000);
  expect(JSON.parse((await l.xl('dom0', 'status', '--json')).stdout)).toMatchObject({ dead: [] });
  expect(await l.xl('dom0', 'env', '--kernel', '--guest', '1')).toEqual({
    stdout: '',
    stderr: 'xl: dom0 env: say --guest or --kernel, not both\n',
    exitCode: 2,
  });
});
