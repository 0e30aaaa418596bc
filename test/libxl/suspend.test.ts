/** Saving, restoring and resuming, in one process on virtual time. The lines are those of a 4.17 host. */
import { domainCreateNew, domainCreateRestore } from '../../src/libxl/create.js';
import { LibxlError, Rc } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainInfo, domainPause, domainUnpause } from '../../src/libxl/domain.js';
import { domainResume, domainSuspend, WriteFailed } from '../../src/libxl/suspend.js';
import { ShutdownReason } from '../../src/xenbus/xenbus.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine();
});
afterEach(() => m.dom0.close());

async function running(name = 'pv'): Promise<number> {
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig(name)));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  return domid;
}

/** Suspends a domain; answers with its stream. */
async function saved(domid: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  await m.run(domainSuspend(m.ctx, domid, async (bytes) => void parts.push(bytes)));
  return Buffer.concat(parts);
}

function reader(bytes: Buffer) {
  let at = 0;
  return async (count: number) => {
    at += count;
    return bytes.subarray(at - count, at);
  };
}

const states = async (domid: number) => {
  const ends = [`/local/domain/${domid}/device`, `/local/domain/0/backend`];
  const devices = ['vbd/51712', 'vif/0'];
  const paths = ends.flatMap((end) =>
    devices.map((device) =>
      end.endsWith('backend') ? `${end}/${device.replace('/', `/${domid}/`)}/state` : `${end}/${device}/state`,
    ),
  );
  return Promise.all(paths.map((path) => m.run(m.ctx.xs.read(path))));
};

const rejection = (work: Promise<unknown>) =>
  m.run(
    work.then(
      () => undefined,
      (error: unknown) => error,
    ),
  );

test('a guest that is asked to suspend takes the request and stops, with its devices as they were', async () => {
  const domid = await running();
  await saved(domid);
  expect(await domainInfo(m.ctx, domid)).toMatchObject({ shutdown: ShutdownReason.suspend, dying: false });
  expect(await m.run(m.ctx.xs.read(`/local/domain/${domid}/control/shutdown`))).toBe('');
  expect(await states(domid)).toEqual(['4', '4', '4', '4']);
});

test('a suspended domain that is resumed goes on: it can be suspended again, and shut down', async () => {
  const domid = await running();
  await saved(domid);
  await m.run(domainResume(m.ctx, domid));
  await m.settle();
  expect(await domainInfo(m.ctx, domid)).toMatchObject({ shutdown: null, paused: false });
  expect(m.trace.filter(({ op }) => op === 'RESUME').map(({ args }) => args)).toEqual([[String(domid)]]);
  await saved(domid);
  await m.run(domainResume(m.ctx, domid));
  await m.run(m.ctx.xs.write(`/local/domain/${domid}/control/shutdown`, 'poweroff'));
  await m.settle();
  expect(await domainInfo(m.ctx, domid)).toMatchObject({ shutdown: ShutdownReason.poweroff });
});

test('a paused domain that is resumed stays paused until it is unpaused', async () => {
  const domid = await running();
  await saved(domid);
  await m.run(domainPause(m.ctx, domid));
  await m.run(domainResume(m.ctx, domid));
  expect(await domainInfo(m.ctx, domid)).toMatchObject({ shutdown: null, paused: true });
  await m.run(domainUnpause(m.ctx, domid));
  await saved(domid);
});

test('a restored domain is another domid with the same guest, whose front ends connect again without a probe', async () => {
  const domid = await running();
  await m.run(m.ctx.clock.sleep(60_000));
  const stream = await saved(domid);
  await m.run(domainDestroy(m.ctx, domid));
  const from = m.trace.length;
  const again = await m.run(domainCreateRestore(m.ctx, pvConfig(), reader(stream)));
  await m.run(domainUnpause(m.ctx, again));
  await m.settle();
  expect(again).toBe(2);
  expect(await states(again)).toEqual(['4', '4', '4', '4']);
  const guest = m.trace.slice(from).filter(({ who }) => who === 'domU-kernel');
  const watches = guest.filter(({ op }) => op === 'WATCH').map(({ args }) => args[0]);
  expect(watches).toEqual([
    'cpu',
    'device',
    'backend',
    'control/sysrq',
    'control/shutdown',
    'memory/target',
    '/local/domain/0/backend/vbd/2/51712/state',
    '/local/domain/0/backend/vif/2/0/state',
  ]);
  // Only a boot says what the kernel can do.
  expect(await m.run(m.ctx.xs.read('/local/domain/2/control/feature-suspend'))).toBe('');
  expect(await m.run(m.ctx.xs.read('/vm/00000000-0000-4000-8000-000000000001/image/kernel'))).toBeUndefined();
  // It shuts down like any other.
  await m.run(m.ctx.xs.write('/local/domain/2/control/shutdown', 'poweroff'));
  await m.run(m.ctx.clock.sleep(30_000));
  expect(await domainInfo(m.ctx, again)).toMatchObject({ shutdown: ShutdownReason.poweroff });
});

test("a restored guest's clock and console go on where they were", async () => {
  const domid = await running();
  const read = async (of: number) => {
    const tty = (await m.run(m.ctx.xs.read(`/local/domain/${of}/console/tty`))) ?? '';
    const answer = await m.ctx.xc.call('dom0.console', { domid: of, tty });
    return Buffer.from(answer?.data ?? '', 'base64').toString();
  };
  expect(await read(domid)).toMatch(/^\[ {4}0\.000000\] Linux version 6\.1\.0.*\r\n\[ {4}0\.000000\] Command line: console=hvc0/);
  expect(await read(domid)).toBe('');
  await m.run(m.ctx.clock.sleep(60_000));
  const stream = await saved(domid);
  await m.run(domainDestroy(m.ctx, domid));
  const again = await m.run(domainCreateRestore(m.ctx, pvConfig(), reader(stream)));
  await m.run(domainUnpause(m.ctx, again));
  await m.settle();
  expect((await read(again)).split('\r\n')[0]).toMatch(/^\[ {3}6\d\.\d+\] xen:grant_table: Grant tables using version 1 layout$/);
});

test('a guest that does not take the request has it taken back after a minute', async () => {
  const domid = await running();
  await m.run(domainPause(m.ctx, domid));
  expect(await rejection(saved(domid))).toMatchObject({ rc: Rc.GUEST_TIMEDOUT });
  expect(m.lines).toEqual([
    "libxl: error: libxl_dom_suspend.c:269:domain_suspend_common_pvcontrol_suspending: Domain 1:guest didn't acknowledge suspend, cancelling request",
    'xc: error: Domain has not been suspended: shutdown 0, reason 255: Internal error',
    'xc: error: Save failed (0 = Success): Internal error',
    'libxl: error: libxl_stream_write.c:347:libxl__xc_domain_save_done: Domain 1:saving domain: domain did not respond to suspend request: Success',
  ]);
  expect(await m.run(m.ctx.xs.read(`/local/domain/${domid}/control/shutdown`))).toBe('');
  m.lines.length = 0;
  expect(await rejection(domainResume(m.ctx, domid))).toBeInstanceOf(LibxlError);
  expect(m.lines[0]).toBe('xc: error: Dom 1 not suspended: (shutdown 0, reason 255): Internal error');
  // What was not taken does not come true later.
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  expect(await domainInfo(m.ctx, domid)).toMatchObject({ shutdown: null });
});

test('a stream that cannot be written leaves the guest suspended, for the caller to resume', async () => {
  const domid = await running();
  let writes = 0;
  const full = async () => {
    writes += 1;
    if (writes === 2) throw new WriteFailed(32, 'Broken pipe');
  };
  expect(await rejection(domainSuspend(m.ctx, domid, full))).toMatchObject({ rc: Rc.FAIL });
  expect(m.lines.slice(1)).toEqual([
    'xc: error: Save failed (32 = Broken pipe): Internal error',
    'libxl: error: libxl_stream_write.c:347:libxl__xc_domain_save_done: Domain 1:saving domain: domain responded to suspend request: Broken pipe',
  ]);
  await m.run(domainResume(m.ctx, domid));
  expect(await domainInfo(m.ctx, domid)).toMatchObject({ shutdown: null });
});

test('of what no stream is no domain is left, and no mtwatch node', async () => {
  for (const bytes of [Buffer.alloc(0), Buffer.alloc(400), (await saved(await running())).subarray(0, 90)]) {
    const before = (await m.store()).filter((line) => /mtwatch\//.test(line));
    expect(await rejection(domainCreateRestore(m.ctx, pvConfig('other'), reader(bytes)))).toBeInstanceOf(LibxlError);
    expect((await m.store()).filter((line) => /mtwatch\//.test(line))).toEqual(before);
  }
});

test('two domains of one saved file are two domains; the second fails over the name alone', async () => {
  const domid = await running();
  const stream = await saved(domid);
  await m.run(domainResume(m.ctx, domid));
  expect(await rejection(domainCreateRestore(m.ctx, pvConfig(), reader(stream)))).toBeInstanceOf(LibxlError);
  expect(m.lines[0]).toBe('libxl: error: libxl_domain.c:81:libxl__domain_rename: Domain 2:Domain with name "pv" already exists.');
  expect(await domainInfo(m.ctx, domid)).toMatchObject({ shutdown: null });
});
