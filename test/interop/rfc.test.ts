/** The posted patch as it is typed: `xl dom0 start --cmdline xen_mtwatch=rfc`. What breaks in it is in test/sim/rfc-live.test.ts. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { failedDestroy } from '../rfc-lines.js';
import { type Lab, lab, pvCfg, until } from './harness.js';

let l: Lab;
afterEach(() => l.close());

const silent = { stdout: '', stderr: '', exitCode: 0 };
const listed = async () => (await l.xl('list')).stdout.split('\n').flatMap((row) => /^(\S+) +\d+ /.exec(row)?.[1] ?? []);
const threads = async () => {
  const all = JSON.parse((await l.xl('mtwatch', 'list', '--json')).stdout) as { thread: string; state: string }[];
  return all.map(({ thread, state }) => `${thread} ${state}`);
};
const status = async () => (await l.xl('dom0', 'status')).stdout;

test('makes, lists and destroys domains, stalls one of them alone, and says which design it is', async () => {
  l = lab();
  const names = ['one', 'two', 'three'];
  for (const name of names) writeFileSync(join(l.dir, `${name}.cfg`), pvCfg(name));
  expect(await l.xl('dom0', 'start', '--cmdline', 'xen_mtwatch=rfc', '--assume-files')).toMatchObject({ exitCode: 0 });
  expect((await status()).split('\n').slice(3, 5)).toEqual([
    'command line:  xen_mtwatch=rfc',
    'xenwatch:      rfc: one thread a domain, as the patch was posted',
  ]);
  for (const name of ['one', 'two']) expect(await l.xl('create', '-q', `${name}.cfg`)).toEqual(silent);
  expect(await listed()).toEqual(['Domain-0', 'one', 'two']);
  await until(async () => (await l.xl('dom0', 'dmesg')).stdout.includes('vif1.0: Guest Rx ready'));

  expect(await l.xl('xwstall', 'hold', 'vif1.0')).toMatchObject({ exitCode: 0, stderr: '' });
  l.env['XL_TIMEOUT_SCALE'] = '0.05';
  const stderr = `${failedDestroy(1, 'vif/1/0').join('\n')}\n`;
  expect(await l.xl('destroy', 'one')).toEqual({ ...silent, stderr });
  delete l.env['XL_TIMEOUT_SCALE'];
  expect(await l.xl('destroy', 'two')).toEqual(silent);
  expect(await l.xl('create', '-q', 'three.cfg')).toEqual(silent);
  expect(await listed()).toEqual(['Domain-0', '(null)', 'three']);
  await until(async () => (await threads()).length === 3);
  expect(await threads()).toEqual(['xenwatch S', 'xen-mtwatch-1 D', 'xen-mtwatch-3 S']);
  const { stdout } = await l.xl('mtwatch', 'show', '1');
  expect(stdout).toMatch(/^running: {2}frontend_changed for /m);
  expect(stdout).toMatch(/^queue:\nmtwatch\/1 {2}mtwatch_changed\n/m);

  expect(await l.xl('xwstall', 'flush')).toMatchObject({ exitCode: 0 });
  expect(await l.xl('destroy', 'three')).toEqual(silent);
  await until(async () => (await threads()).length === 1);
  expect([await listed(), (await status()).includes('dead:')]).toEqual([['Domain-0'], false]);
});
