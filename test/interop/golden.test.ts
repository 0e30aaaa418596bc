/** `xl create` and `xl destroy` as they are typed, against the recordings of a real host: store, trace and exit codes. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import type { TraceLine } from '../../src/xenbus/trace.js';
import { about, connections, data, mainConnection, nodes, recorded, traced, units } from '../golden/requests.js';
import { testWith } from './clients.js';
import { type Lab, lab, until } from './harness.js';

let l: Lab;
afterEach(() => l.close());

/** Starts a dom0 that writes a trace, and creates the recorded guest in it. */
async function created(...options: readonly string[]): Promise<{ trace: () => Promise<TraceLine[]>; socket: string }> {
  l = lab();
  const file = join(l.dir, 'trace.jsonl');
  writeFileSync(join(l.dir, 'pv.cfg'), data('pv.cfg'));
  expect(await l.xl('dom0', 'start', '--assume-files', '--trace', file)).toMatchObject({ exitCode: 0 });
  expect(await l.xl('create', ...options, 'pv.cfg')).toEqual({ stdout: '', stderr: 'Parsing config from pv.cfg\n', exitCode: 0 });
  const trace = async () => {
    expect(await l.xl('dom0', 'status')).toMatchObject({ exitCode: 0 });
    return readFileSync(file, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as TraceLine);
  };
  const states = (lines: readonly TraceLine[]) =>
    lines.filter(
      ({ op, args, who }) => op === 'WRITE' && who !== 'xl' && /\/(vbd|vif)\/.*state$/.test(args[0] ?? '') && args[1] === '4',
    ).length;
  await until(async () => states(await trace()) === 4);
  return { trace, socket: join(l.runDir, 'xenstored', 'socket') };
}

testWith('xenstore-ls')("Debian's xenstore-ls shows the nodes, values and permissions of a real host", async (xenstoreLs) => {
  const { socket } = await created();
  const { stdout } = await execa(xenstoreLs, ['-fp'], { env: { XENSTORED_PATH: socket } });
  const added = ['/local/domain/0/mtwatch = ""   (n0)', '/local/domain/0/mtwatch/1 = ""   (n0)'];
  // xenstore-ls fills up to a column before the permissions; the recording was made without a terminal.
  const shown = nodes(stdout);
  expect(shown.filter((line) => added.includes(line))).toEqual(added);
  expect(shown.filter((line) => !added.includes(line))).toEqual(nodes(data('store-running.txt')));
});

test('the trace has the requests of a real host, the mtwatch node first and last', async () => {
  const { trace } = await created();
  const createTrace = await trace();
  expect(await l.xl('destroy', 'pv')).toEqual({ stdout: '', stderr: '', exitCode: 0 });
  const destroyTrace = (await trace()).slice(createTrace.length);
  for (const [ours, theirs, domid, mtwatch] of [
    [createTrace, recorded(data('create.writes.txt')), 1, 'WRITE'],
    [destroyTrace, recorded(data('destroy.writes.txt')), 2, 'RM'],
  ] as const) {
    const own = connections(traced(ours), 'xl', 1).flat();
    const node = [`${mtwatch} /local/domain/0/mtwatch/N`];
    expect(mtwatch === 'WRITE' ? own[0] : own.at(-1)).toEqual(node);
    const rest = own.filter((unit) => unit[0] !== node[0]);
    const real = units(
      theirs.filter(({ who }) => who === 'xl'),
      domid,
    );
    for (const kind of ['vbd', 'vif', 'other'] as const) expect(about(rest, kind)).toEqual(about(real, kind));
    const kernel = connections(traced(ours), 'dom0-kernel', 1).flat();
    const linux = mainConnection(theirs, 'dom0-kernel', domid);
    for (const kind of ['vbd', 'vif'] as const) expect(about(kernel, kind)).toEqual(about(linux, kind));
    if (mtwatch === 'WRITE') {
      const guest = connections(traced(ours), 'domU-kernel', 1).flat();
      const frontends = mainConnection(theirs, 'domU-kernel', domid);
      for (const kind of ['vbd', 'vif'] as const) expect(about(guest, kind)).toEqual(about(frontends, kind));
    }
    const monitor = connections(traced(ours), 'monitor', 1).flat();
    expect(monitor).toEqual([[mtwatch === 'WRITE' ? 'WATCH @releaseDomain' : 'UNWATCH @releaseDomain']]);
  }
});

testWith('xenstore-watch')('for an observer the mtwatch node is there before the domain and after it', async (xenstoreWatch) => {
  l = lab();
  writeFileSync(join(l.dir, 'pv.cfg'), data('pv.cfg'));
  writeFileSync(
    join(l.dir, 'nobridge.cfg'),
    data('pv.cfg').replace('xenbr0', 'nosuchbr').replace('loop0', 'loop1').replace('"pv"', '"nob"'),
  );
  await l.xl('dom0', 'start', '--assume-files');
  const watch = execa(xenstoreWatch, ['/'], { env: { XENSTORED_PATH: join(l.runDir, 'xenstored', 'socket') }, reject: false });
  const seen: string[] = [];
  watch.stdout?.on('data', (chunk: Buffer) => seen.push(...chunk.toString().split('\n')));
  await until(() => seen.includes('/'));
  await l.xl('create', 'pv.cfg');
  await l.xl('create', 'pv.cfg');
  await l.xl('create', 'nobridge.cfg');
  await l.xl('destroy', 'pv');
  await l.xl('dom0', 'status');
  await until(() => seen.filter((path) => path === '/local/domain/0/mtwatch/1').length === 2);
  watch.kill();
  await watch;
  const story = (domid: number) =>
    seen
      .flatMap((path) => {
        if (path === `/local/domain/0/mtwatch/${domid}`) return ['mtwatch'];
        return `${path}/`.startsWith(`/local/domain/${domid}/`) ? ['home'] : [];
      })
      .filter((what, index, all) => what !== all[index - 1]);
  expect([1, 2, 3].map(story)).toEqual([['mtwatch', 'home', 'mtwatch'], ['mtwatch'], ['mtwatch', 'home', 'mtwatch']]);
});

test('shutdown -w says what a real host says', async () => {
  // Without a monitor, which may have destroyed the domain before xl has looked at it, here as on a real host.
  await created('-e');
  expect(await l.xl('shutdown', '-w', 'pv')).toEqual({
    stdout: '',
    stderr: 'Shutting down domain 1\nWaiting for 1 domains\nDomain 1 has been shut down, reason code 0\n',
    exitCode: 0,
  });
});

test('the log of a monitor says what a real host says about a shutdown', async () => {
  await created();
  await l.xl('shutdown', 'pv');
  const log = () => readFileSync(join(l.runDir, 'log', 'xl-pv.log'), 'utf8');
  await until(() => log().includes('Exiting'));
  expect(log().replace(/\[pid \d+\]/, '[pid PID]')).toBe(
    [
      'Waiting for domain pv (domid 1) to die [pid PID]',
      'Domain 1 has shut down, reason code 0 0x0',
      'Action for shutdown reason code 0 is destroy',
      'Domain 1 needs to be cleaned up: destroying the domain',
      'Done. Exiting now',
      '',
    ].join('\n'),
  );
});
