/** The RFC's stall as it is typed: real processes, real sockets; waits that must time out are scaled down. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { failedCreate, failedDestroy } from '../rfc-lines.js';
import { type Lab, lab, pvCfg, until } from './harness.js';

let l: Lab;
afterEach(() => l.close());

const header = 'Name                                        ID   Mem VCPUs\tState\tTime(s)\n';
const silent = { stdout: '', stderr: '', exitCode: 0 };

/** `xl list` without the processor times. */
async function list(): Promise<string[]> {
  const { stdout, exitCode } = await l.xl('list');
  expect(exitCode).toBe(0);
  expect(stdout.startsWith(header)).toBe(true);
  return stdout
    .slice(header.length)
    .trimEnd()
    .split('\n')
    .map((row) => row.replace(/ +\d+\.\d$/, ''));
}

const dom0Row = 'Domain-0                                     0  1536     2     r-----';
const zombieRow = (domid: number) =>
  `(null)                                    ${String(domid).padStart(4)}     0     2     --p--d`;

async function threads(): Promise<{ thread: string; state: string }[]> {
  const { stdout } = await l.xl('mtwatch', 'list', '--json');
  return (JSON.parse(stdout) as { thread: string; state: string }[]).map(({ thread, state }) => ({ thread, state }));
}

/** Runs a command whose waits are short because it is meant to wait in vain. */
async function impatient(...args: string[]) {
  const before = l.env['XL_TIMEOUT_SCALE'];
  l.env['XL_TIMEOUT_SCALE'] = '0.2';
  const run = await l.xl(...args);
  if (before === undefined) delete l.env['XL_TIMEOUT_SCALE'];
  else l.env['XL_TIMEOUT_SCALE'] = before;
  return run;
}

/** Lines as they stand on stderr. */
const text = (...lines: string[]) => `${lines.join('\n')}\n`;

function configs(...names: string[]): void {
  for (const name of names) writeFileSync(join(l.dir, `${name}.cfg`), pvCfg(name));
}

/** Waits until the first domain's devices are connected. */
async function connected(domid: number): Promise<void> {
  await until(async () => {
    const { stdout } = await l.xl('dom0', 'dmesg');
    return stdout.includes(`vif${domid}.0: Guest Rx ready`);
  });
}

/** Holds the disk of a domain that is connected and has been read from. */
async function heldDisk(name: string, how: string): Promise<readonly string[]> {
  expect(await l.xl('create', '-q', `${name}.cfg`)).toEqual(silent);
  await connected(1);
  const state = ['xenstore', 'read', '/local/domain/1/device/vbd/51712/state'];
  await until(async () => (await l.xl(...state)).stdout === '4\n');
  expect(await l.xl('xwstall', 'hold', 'vbd-1-51712', how)).toMatchObject({ exitCode: 0, stderr: '' });
  return ['vbd/1/51712', 'vif/1/0'];
}

/** Puts a domain's watch callbacks on hold in one of these ways, so that the next command finds them hung. */
const ways = {
  'a packet in flight': async (name: string) => {
    expect(await l.xl('create', '-q', `${name}.cfg`)).toEqual(silent);
    await connected(1);
    expect(await l.xl('xwstall', 'hold', 'vif1.0')).toMatchObject({ exitCode: 0, stderr: '' });
    return ['vif/1/0'];
  },
  'a request that never gets into the block layer': (name: string) => heldDisk(name, '--io'),
  'a granted page that stays in use': (name: string) => heldDisk(name, '--grants'),
  'a write-back at connect': async (name: string) => {
    expect(await l.xl('create', '-q', '-p', `${name}.cfg`)).toEqual(silent);
    expect(await l.xl('xwstall', 'hold', 'vbd-1-51712', '--connect')).toMatchObject({ exitCode: 0, stderr: '' });
    expect(await l.xl('unpause', name)).toEqual(silent);
    await until(async () => (await threads()).some(({ state }) => state === 'D'));
    return ['vbd/1/51712', 'vif/1/0'];
  },
} as const;

test('a hold that makes no sense is refused with a word about it', async () => {
  l = lab();
  const refused = async (...args: string[]) => {
    const { exitCode, stderr } = await l.xl('xwstall', 'hold', ...args);
    return [exitCode, stderr];
  };
  expect(await refused('vif1.0', '--grants')).toEqual([
    1,
    'xl: vif1.0: a vif keeps no page after its packet; hold it without --grants\n',
  ]);
  expect(await refused('vbd-1-51712', '--io', '--bio')).toEqual([
    2,
    'xl: --io and --bio: a device is held in one way at a time\n',
  ]);
});

describe.each(Object.entries(ways))('%s', (_way, stall) => {
  test('with one watch thread stops every creation until it is flushed', async () => {
    l = lab();
    configs('one', 'two', 'three');
    expect(await l.xl('dom0', 'start', '--cmdline', '', '--assume-files')).toMatchObject({ exitCode: 0 });
    const hung = await stall('one');
    expect(await impatient('destroy', '1')).toEqual({ stdout: '', stderr: text(...failedDestroy(1, ...hung)), exitCode: 0 });
    expect(await list()).toEqual([dom0Row, zombieRow(1)]);
    expect(await threads()).toEqual([{ thread: 'xenwatch', state: 'D' }]);
    const creating = impatient('create', 'two.cfg');
    expect(await l.xl('domid', 'Domain-0')).toEqual({ ...silent, stdout: '0\n' });
    expect(await creating).toEqual({ stdout: '', stderr: text('Parsing config from two.cfg', ...failedCreate(2)), exitCode: 3 });
    expect(await l.xl('xwstall', 'flush')).toMatchObject({ exitCode: 0, stderr: '' });
    await until(async () => (await list()).length === 1);
    expect(await l.xl('create', '-q', 'three.cfg')).toEqual(silent);
    expect(await l.xl('destroy', 'three')).toEqual(silent);
    expect(await list()).toEqual([dom0Row]);
  });

  test('with one watch thread a domain stops its own domain alone', async () => {
    l = lab();
    const others = Array.from({ length: 10 }, (_, index) => `other${index}`);
    configs('one', ...others);
    await l.xl('dom0', 'start', '--cmdline', 'quiet xen_mtwatch', '--assume-files');
    const hung = await stall('one');
    expect(await impatient('destroy', '1')).toEqual({ stdout: '', stderr: text(...failedDestroy(1, ...hung)), exitCode: 0 });
    for (const step of [(name: string) => ['create', '-q', `${name}.cfg`], (name: string) => ['destroy', name]]) {
      expect(await Promise.all(others.map((name) => l.xl(...step(name))))).toEqual(others.map(() => silent));
    }
    await until(async () => (await threads()).length === 2);
    expect(await threads()).toEqual([
      { thread: 'xenwatch', state: 'S' },
      { thread: 'xen-mtwatch-1', state: 'D' },
    ]);
    expect(await list()).toEqual([dom0Row, zombieRow(1)]);
    expect(await l.xl('xwstall', 'flush')).toMatchObject({ exitCode: 0, stderr: '' });
    await until(async () => (await threads()).length === 1);
    expect(await list()).toEqual([dom0Row]);
  });
});
