/** What comes from inside a guest: `xl guest`, and what the toolstack sees of it. */
import { domainCreateNew } from '../../src/libxl/create.js';
import { Rc } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainInfo, domainPause, domainShutdown, domainUnpause } from '../../src/libxl/domain.js';
import { domainResume } from '../../src/libxl/suspend.js';
import { type GuestEvent, guestEvents, type PrivcmdError } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine();
  await m.run(domainCreateNew(m.ctx, pvConfig()));
});
afterEach(() => m.dom0.close());

async function boot(): Promise<void> {
  await m.run(domainUnpause(m.ctx, 1));
  await m.settle();
}
const event = (name: GuestEvent) => m.ctx.xc.call('dom0.guest_event', { domid: 1, event: name });
const state = async () => (await m.ctx.xc.call('dom0.guest', { domid: 1 })).state;
const refusal = (name: GuestEvent) =>
  event(name).then(
    () => 'done',
    (error: PrivcmdError) => `${error.errno}: ${error.message}`,
  );

test.each([
  ['poweroff', 0, 'shut down'],
  ['reboot', 1, 'shut down'],
  ['suspend', 2, 'suspended'],
  ['crash', 3, 'shut down'],
  ['watchdog', 4, 'shut down'],
  ['soft-reset', 5, 'shut down'],
] as const)('%s stops the domain with reason %d', async (name, shutdown, after) => {
  await boot();
  expect(await state()).toBe('running');
  await event(name);
  await m.settle();
  expect(await domainInfo(m.ctx, 1)).toMatchObject({ shutdown, dying: false });
  expect(await state()).toBe(after);
});

test('a guest that powers off closes its devices before; one that crashes does not', async () => {
  const frontend = '/local/domain/1/device/vif/0/state';
  await boot();
  await event('poweroff');
  await m.settle();
  expect(await m.run(m.ctx.xs.read(frontend))).toBe('6');
  await m.run(domainDestroy(m.ctx, 1));
  await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(domainUnpause(m.ctx, 2));
  await m.settle();
  await m.ctx.xc.call('dom0.guest_event', { domid: 2, event: 'crash' });
  await m.settle();
  expect(await m.run(m.ctx.xs.read('/local/domain/2/device/vif/0/state'))).toBe('4');
  expect(m.dom0.hypervisor.get(2)?.shutdown).toBe(3);
});

test('a guest that hangs reads nothing: `xl shutdown` waits 60 s for it, and it finds the request when it wakes', async () => {
  await boot();
  const node = '/local/domain/1/control/shutdown';
  await event('hang');
  expect(await state()).toBe('hung');
  const began = m.clock.now();
  await expect(m.run(domainShutdown(m.ctx, 1))).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
  expect(m.clock.now() - began).toBe(60_000);
  expect(m.lines).toEqual(["libxl: error: libxl_domain.c:854:pvcontrol_cb: guest didn't acknowledge control request: -9"]);
  expect(await m.run(m.ctx.xs.read(node))).toBe('poweroff');
  expect(await domainInfo(m.ctx, 1)).toMatchObject({ shutdown: null, paused: false });
  await event('wake');
  await m.settle();
  expect(await domainInfo(m.ctx, 1)).toMatchObject({ shutdown: 0 });
  expect(await m.run(m.ctx.xs.read(node))).toBe('');
});

test('pausing and unpausing does not wake a guest that hangs', async () => {
  await boot();
  await event('hang');
  await m.run(domainPause(m.ctx, 1));
  expect(await state()).toBe('paused');
  await m.run(domainUnpause(m.ctx, 1));
  expect(await state()).toBe('hung');
  await m.run(m.ctx.xs.write('/local/domain/1/memory/target', '65536'));
  await m.settle();
  expect((await domainInfo(m.ctx, 1))?.currentKb).toBe(131_072);
  await event('wake');
  await m.run(m.ctx.clock.sleep(100));
  expect((await domainInfo(m.ctx, 1))?.currentKb).toBeLessThan(131_072);
});

test('a guest that hangs from before its boot boots when it wakes', async () => {
  await event('hang');
  await boot();
  expect(await m.run(m.ctx.xs.read('/local/domain/1/device/vif/0/state'))).toBe('1');
  await event('wake');
  await m.settle();
  expect(await m.run(m.ctx.xs.read('/local/domain/1/device/vif/0/state'))).toBe('4');
});

test('a guest that hangs is destroyed like any other', async () => {
  await boot();
  await event('hang');
  await m.run(domainDestroy(m.ctx, 1));
  expect(m.lines).toEqual([]);
  expect(await domainInfo(m.ctx, 1)).toBeUndefined();
});

test('a guest that suspended itself goes on when it is resumed', async () => {
  await boot();
  await event('suspend');
  await m.settle();
  await m.run(domainResume(m.ctx, 1));
  await m.settle();
  expect(await state()).toBe('running');
  await event('reboot');
  await m.settle();
  expect(await domainInfo(m.ctx, 1)).toMatchObject({ shutdown: 1 });
});

describe('what cannot happen is refused, with what to do', () => {
  test('in a guest that is paused', async () => {
    expect(await state()).toBe('paused');
    const paused = 'EBUSY: domain 1 is paused and does nothing; `xl unpause 1` lets it go on';
    expect(await Promise.all((['poweroff', 'reboot', 'crash', 'suspend', 'soft-reset'] as const).map(refusal))).toEqual(
      Array.from({ length: 5 }, () => paused),
    );
    // The timer is the hypervisor's.
    expect(await refusal('watchdog')).toBe('done');
  });

  test('in a guest that hangs', async () => {
    await boot();
    await event('hang');
    const hung = 'EBUSY: domain 1 hangs and does nothing; `xl guest 1 wake` lets it go on';
    expect(await Promise.all((['poweroff', 'reboot', 'suspend', 'soft-reset'] as const).map(refusal))).toEqual(
      Array.from({ length: 4 }, () => hung),
    );
    // To hang once more, or to panic over it, is nothing that the kernel has to do.
    expect(await refusal('hang')).toBe('done');
    expect(await refusal('crash')).toBe('done');
  });

  test('in one that has ended', async () => {
    await boot();
    await event('crash');
    const over = 'EINVAL: domain 1 has shut down already; `xl destroy 1` ends it';
    expect(await Promise.all(guestEvents.map(refusal))).toEqual(guestEvents.map(() => over));
  });

  test('in one that suspended itself', async () => {
    await boot();
    await event('suspend');
    await m.settle();
    expect(await refusal('wake')).toBe('EINVAL: domain 1 has suspended itself; `xl resume 1` lets it go on');
  });

  test('in none, and in dom0', async () => {
    const call = (domid: number) =>
      m.ctx.xc.call('dom0.guest_event', { domid, event: 'hang' }).catch((error: PrivcmdError) => error.message);
    expect([await call(7), await call(0)]).toEqual(['there is no domain 7', 'domain 0 is no guest']);
  });
});
