/** dom0d with `--journal`, killed and started again, as a user meets it. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { bin, isRunning, type Lab, lab, pvCfg, until } from './harness.js';

let l: Lab;
let journal: string;
beforeEach(() => {
  l = lab();
  journal = join(l.dir, 'journal');
  l.env['XL_DOM0_ARGS'] = `--assume-files --journal ${journal}`;
  writeFileSync(join(l.dir, 'pv.cfg'), pvCfg());
});
afterEach(() => l.close());

async function killDom0(): Promise<void> {
  const pid = l.pid();
  if (pid === undefined) throw new Error('no dom0 is running');
  process.kill(pid, 'SIGKILL');
  await until(() => !isRunning(pid));
}

const out = async (...args: string[]) => (await l.xl(...args)).stdout;

test('after kill -9 the next command finds its domain running, with its devices, and destroys it without a trace', async () => {
  await l.xl('create', 'pv.cfg');
  await until(async () => /^51712 0 +1 +4 /m.test(await out('block-list', 'pv')));
  await l.xl('xenstore', 'write', '/tool/mine', 'kept');
  const before = [await out('xenstore', 'ls', '-fp'), await out('block-list', 'pv'), await out('network-list', 'pv')];
  await killDom0();
  const after = [await out('xenstore', 'ls', '-fp'), await out('block-list', 'pv'), await out('network-list', 'pv')];
  expect(after).toEqual(before);
  expect((await out('list')).replace(/[\d.]+$/gm, '').split('\n')[2]).toMatch(/^pv +1 +128 +2 +-b----/);
  expect(JSON.parse(await out('dom0', 'status', '--json'))).toMatchObject({
    domains: 1,
    journal: { dir: journal, fsync: 'always', recovery: [`1 domains, from ${journal}`] },
  });
  expect(await l.xl('destroy', 'pv')).toEqual({ stdout: '', stderr: '', exitCode: 0 });
  expect((await out('xenstore', 'ls', '-f')).split('\n').filter((line) => /pv|\/1[/ ]/.test(line))).toEqual([]);
});

test('a command that starts dom0 by itself goes on with the journal of the last one, whose arguments it is not told', async () => {
  l.env['XL_DOM0_ARGS'] = '';
  expect((await l.xl('dom0', 'start', '--assume-files', '--journal', 'journal', '--fsync', 'never')).stderr).toBe('');
  await l.xl('create', '-q', 'pv.cfg');
  await killDom0();
  expect(await l.xl('domid', 'pv')).toEqual({ stdout: '1\n', stderr: '', exitCode: 0 });
  expect(JSON.parse(await out('dom0', 'status', '--json'))).toMatchObject({ journal: { dir: journal, fsync: 'never' } });
  await l.xl('dom0', 'stop');
  expect((await l.xl('list', '-l', 'pv')).exitCode).toBe(0);

  await l.xl('dom0', 'stop');
  writeFileSync(join(l.runDir, 'dom0.args'), '["--assume');
  expect((await l.xl('list')).stderr).toMatch(
    /^xl: .*dom0\.args is damaged; start dom0 with `xl dom0 start` and what it is to have/,
  );
  expect((await l.xl('dom0', 'start', '--assume-files')).exitCode).toBe(0);
  await l.xl('dom0', 'stop');
  expect((await l.xl('domid', 'pv')).exitCode).toBe(1);
});

test('what was put there by hand for a domain that is not there is nobody else’s to remove', async () => {
  await l.xl('xenstore', 'write', '/local/domain/77/x', 'mine');
  await killDom0();
  expect(await out('xenstore', 'read', '/local/domain/77/x')).toBe('mine\n');
});

test('without a journal it says which domains are lost', async () => {
  l.env['XL_DOM0_ARGS'] = '--assume-files';
  await l.xl('create', 'pv.cfg');
  await killDom0();
  const { stderr } = await l.xl('list');
  const line = 'lost with it: pv (1)';
  expect(stderr).toBe(`xl: the dom0 before was killed; ${line}\n`);
  expect(l.log()).toContain(line);
});

test('a journal that cannot be written ends dom0 before it answers, and what it had answered is there again', async () => {
  const { XENSTORED_PATH: _, ...inherited } = process.env;
  const script = `ulimit -f 24; for n in $(seq 100); do ${process.execPath} ${bin} xenstore write /tool/n/$n ${'x'.repeat(2000)} || exit 0; echo $n; done`;
  const env = { ...inherited, XL_RUN_DIR: l.runDir, ...l.env };
  const acknowledged = execFileSync('bash', ['-c', script], { cwd: l.dir, env, stdio: ['ignore', 'pipe', 'ignore'] });
  const written = acknowledged.toString().trim().split('\n');
  expect(written.length).toBeGreaterThan(2);
  expect(l.log()).toMatch(
    new RegExp(`ends at once: ${journal}/dom0.journal cannot be written: EFBIG: file too large, write; what is not in`),
  );
  const there = (await out('xenstore', 'list', '/tool/n')).trim().split('\n');
  expect(there.slice(0, written.length)).toEqual(written);
});

test('a path that is empty is refused, and does not mean the directory one is in', async () => {
  for (const option of ['journal', 'trace', 'root', 'host']) {
    expect(await l.xl('dom0', 'start', `--${option}`, '')).toEqual({
      stdout: '',
      stderr: `xl: --${option}: give a path\n`,
      exitCode: 1,
    });
  }
  expect(l.pid()).toBeUndefined();
});

test('a journal that is damaged, in use, or of another host is refused', async () => {
  await l.xl('create', 'pv.cfg');
  const other = lab({ XL_DOM0_ARGS: l.env['XL_DOM0_ARGS'] ?? '' });
  expect((await other.xl('list')).stderr).toBe(
    `xl: dom0 did not start: --journal ${journal}: another dom0 writes there; give another directory\n`,
  );
  await l.xl('dom0', 'stop');
  const pid = l.pid();
  if (pid !== undefined) await until(() => !isRunning(pid));
  expect((await other.xl('list')).stderr).toContain('it is that of the run directory of ');
  await other.close();
  mkdirSync(join(l.dir, 'x'));
  writeFileSync(join(l.dir, 'host.json'), JSON.stringify({ nrCpus: 4 }));
  expect((await l.xl('dom0', 'start', '--host', 'host.json', '--journal', journal)).stderr).toBe(
    `xl: dom0 did not start: --journal ${journal}: it is of a host with nrCpus 2, dom0Vcpus 2, and this one has nrCpus 4, ` +
      'dom0Vcpus 4; give the same --host, or another directory\n',
  );
  const file = join(journal, 'dom0.journal');
  const bytes = readFileSync(file);
  bytes[200] = (bytes[200] ?? 0) ^ 1;
  writeFileSync(file, bytes);
  expect((await l.xl('list')).stderr).toMatch(/^xl: dom0 did not start: --journal: \S+ is damaged: record 1, at byte 21, /);
});
