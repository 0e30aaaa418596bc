/** The posted patch as it is typed: `xl dom0 start --cmdline xen_mtwatch=rfc`. What breaks in it is in test/sim/rfc-live.test.ts. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect } from '../../src/xenstore.js';
import { failedCreate, failedDestroy } from '../rfc-lines.js';
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

/** Requests between the two writes, for the callbacks to meet; there are 64 places for requests in a connection's queue. */
const readsBetween = 60;

/**
 * A guest that stands still, its vif driven by hand: the frontend comes back and the hotplug script is done, at such a
 * distance that two threads take back one watch (U2). Both writes go out in one piece, so that dom0 takes them up in as
 * many turns on any machine; should it be disturbed, it is done again.
 */
async function breakDom0(): Promise<void> {
  const front = '/local/domain/1/device/vif/0/state';
  const script = '/local/domain/0/backend/vif/1/0/hotplug-status';
  expect(await l.xl('pause', '1')).toEqual(silent);
  const idle = async () => {
    const { stdout } = await l.xl('mtwatch', 'list', '--json');
    return (JSON.parse(stdout) as { pending: number; state: string }[]).every(
      ({ pending, state }) => pending === 0 && state !== 'R',
    );
  };
  await until(async () => {
    const xs = await connect({ path: join(l.runDir, 'xenstored', 'socket') });
    await xs.rm(script);
    for (const state of ['6', '1', '4', '6', '1']) {
      await xs.write(front, state);
      await until(idle);
    }
    const comesBack = xs.write(front, '4');
    const between = Array.from({ length: readsBetween }, () => xs.read('/local/domain/0/domid'));
    await Promise.all([comesBack, ...between, xs.write(script, 'connected')]);
    xs.close();
    return (await status()).includes('dead:');
  });
}

test('a BUG kills a thread, and what depends on it; dom0d stays and tells what to do', async () => {
  l = lab();
  for (const name of ['one', 'two']) writeFileSync(join(l.dir, `${name}.cfg`), pvCfg(name));
  expect(await l.xl('dom0', 'start', '--cmdline', 'xen_mtwatch=rfc', '--assume-files')).toMatchObject({ exitCode: 0 });
  expect(await l.xl('create', '-q', 'one.cfg')).toEqual(silent);
  await until(async () => (await l.xl('dom0', 'dmesg')).stdout.includes('vif1.0: Guest Rx ready'));
  const server = l.pid();
  await breakDom0();
  const [, dead, pid] = /^dead: +(\S+?):(\d+) (.*)$/m.exec(await status()) ?? [];
  expect(['xenwatch', 'xen-mtwatch-1']).toContain(dead);
  expect((await status()).split('\n').at(-2)).toBe(
    `dead:          ${dead}:${pid} (kernel BUG at drivers/xen/xenbus/xenbus_xs.c:1180!); \`xl dom0 dmesg\` has its stack; ` +
      'it keeps watches_lock, so no event and no reply of the store gets through any more: ' +
      '`xl dom0 stop` and a new start are a reboot',
  );
  const { stdout } = await l.xl('dom0', 'dmesg');
  expect(stdout).toContain('invalid opcode: 0000 [#1] PREEMPT SMP NOPTI');
  expect(stdout).toContain(`CPU: 0 PID: ${pid} Comm: ${dead} Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2`);

  l.env['XL_TIMEOUT_SCALE'] = '0.2';
  const stderr = `Parsing config from two.cfg\n${failedCreate(2).join('\n')}\n`;
  expect(await l.xl('create', 'two.cfg')).toEqual({ stdout: '', stderr, exitCode: 3 });
  delete l.env['XL_TIMEOUT_SCALE'];
  expect(await listed()).toEqual(['Domain-0', 'one']);
  expect(await threads()).toContain(`${dead} X`);
  expect([l.pid(), (await l.xl('dom0', 'stop')).exitCode]).toEqual([server, 0]);
});
