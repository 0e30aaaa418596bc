/** The logs are those of golden/30-shutdown-destroy and 53-shutdown-actions, domids and pids aside. */
import { domainCreateNew } from '../../src/libxl/create.js';
import type { Ctx } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainInfo, domainPause, domainRename, domainShutdown, domainUnpause, listDomains } from '../../src/libxl/domain.js';
import type { DomainConfig } from '../../src/libxl/domain-config.js';
import { actionsOf, type Monitor, type Monitored, startMonitor } from '../../src/libxl/monitor.js';
import { domainResume, domainSuspendOnly } from '../../src/libxl/suspend.js';
import type { ShutdownReason } from '../../src/xenbus/xenbus.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
/** The log of the monitor: its own lines and libxl's. */
let log: string[];
beforeEach(async () => {
  m = await machine();
  log = m.lines;
});
afterEach(() => m.dom0.close());

const usual: Monitored['actions'] = {
  ...{ poweroff: 'destroy', reboot: 'restart', crash: 'destroy' },
  ...{ watchdog: 'destroy', softReset: 'soft-reset' },
};

const monitorCtx = (): Ctx => ({ ...m.ctx, xs: m.connect('monitor') });

async function monitored(actions: Partial<Monitored['actions']> = {}): Promise<{ domid: number; monitor: Monitor }> {
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  const all = { ...usual, ...actions };
  const monitor = await m.run(startMonitor(monitorCtx(), { domid, name: 'pv', actions: all }, (line) => log.push(line)));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  return { domid, monitor };
}

const waiting = (domid: number) => `Waiting for domain pv (domid ${domid}) to die [pid 1000]`;
const domids = async () => (await listDomains(m.ctx)).map((info) => info.domid);

test('its watch is there before its domain runs', async () => {
  await monitored();
  const own = m.trace.filter(({ who }) => who === 'monitor');
  expect(own[0]).toMatchObject({ op: 'WATCH', args: ['@releaseDomain', expect.anything()] });
  const guest = m.trace.findIndex(({ who }) => who === 'domU-kernel');
  expect(m.trace.findIndex(({ who }) => who === 'monitor')).toBeLessThan(guest);
});

test('a guest that powers off is destroyed', async () => {
  const { domid, monitor } = await monitored();
  await m.run(domainShutdown(m.ctx, domid));
  await m.run(monitor.done);
  expect(log).toEqual([
    waiting(1),
    'Domain 1 has shut down, reason code 0 0x0',
    'Action for shutdown reason code 0 is destroy',
    'Domain 1 needs to be cleaned up: destroying the domain',
    'Done. Exiting now',
  ]);
  expect(await domids()).toEqual([0]);
});

test('a domain that somebody destroyed is no more to be waited for', async () => {
  const { domid, monitor } = await monitored();
  await m.run(domainDestroy(m.ctx, domid));
  await m.run(monitor.done);
  expect(log).toEqual([waiting(1), 'Domain 1 has been destroyed.']);
});

test('an end that came before the monitor is seen all the same', async () => {
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(domainDestroy(m.ctx, domid));
  const monitor = await m.run(startMonitor(monitorCtx(), { domid, name: 'pv', actions: usual }, (line) => log.push(line)));
  await m.run(monitor.done);
  expect(log).toEqual([waiting(1), 'Domain 1 has been destroyed.']);
});

test("a suspension ends it, and of a domain that was resumed a later end is nobody's", async () => {
  const { domid, monitor } = await monitored();
  await m.run(domainSuspendOnly(m.ctx, domid));
  await m.run(monitor.done);
  expect(log).toEqual([waiting(1), 'Domain 1 has shut down, reason code 2 0x2', 'Domain has suspended.', 'Done. Exiting now']);
  await m.run(domainResume(m.ctx, domid));
  await m.run(domainShutdown(m.ctx, domid));
  await m.settle();
  expect(await domainInfo(m.ctx, domid)).toMatchObject({ shutdown: 0, dying: false });
});

test('a preserved domain stays, shut down', async () => {
  const { domid, monitor } = await monitored({ poweroff: 'preserve' });
  await m.run(domainShutdown(m.ctx, domid));
  await m.run(monitor.done);
  expect(log.slice(1)).toEqual([
    'Domain 1 has shut down, reason code 0 0x0',
    'Action for shutdown reason code 0 is preserve',
    'Done. Exiting now',
  ]);
  expect(await domainInfo(m.ctx, domid)).toMatchObject({ shutdown: 0, dying: false });
});

test('coredump-destroy has no core to write, says so, and destroys', async () => {
  const { domid, monitor } = await monitored({ crash: 'coredump-destroy' });
  m.dom0.guestStops(domid, 'crash');
  await m.run(monitor.done);
  expect(log.slice(1)).toEqual([
    'Domain 1 has shut down, reason code 3 0x3',
    'Action for shutdown reason code 3 is coredump-destroy',
    'dumping core to /var/lib/xen/dump/pv',
    'xc: error: Could not open corefile /var/lib/xen/dump/pv (2 = No such file or directory): Internal error',
    'libxl: error: libxl_domain.c:603:libxl_domain_core_dump: Domain 1:Core dumping domain to /var/lib/xen/dump/pv: No such file or directory',
    'core dump failed (rc=-3).',
    'Domain 1 needs to be cleaned up: destroying the domain',
    'Done. Exiting now',
  ]);
  expect(await domids()).toEqual([0]);
});

test('a reboot is another domid with the same name, uuid and MAC address, and it is waited for again', async () => {
  const { domid, monitor } = await monitored();
  const uuid = (await domainInfo(m.ctx, domid))?.uuid;
  m.dom0.guestStops(domid, 'reboot');
  await m.run(m.ctx.clock.sleep(2_500));
  await m.settle();
  expect(await domainInfo(m.ctx, 2)).toMatchObject({ uuid, paused: false, shutdown: null });
  expect(await m.run(m.ctx.xs.read('/local/domain/2/name'))).toBe('pv');
  expect(await m.run(m.ctx.xs.read('/local/domain/0/backend/vif/2/0/mac'))).toBe('00:16:3e:00:00:01');
  await m.run(domainDestroy(m.ctx, 2));
  await m.run(monitor.done);
  expect(log).toEqual([
    waiting(1),
    'Domain 1 has shut down, reason code 1 0x1',
    'Action for shutdown reason code 1 is restart',
    'Domain 1 needs to be cleaned up: destroying the domain',
    'Done. Rebooting now',
    waiting(2),
    'Domain 2 has been destroyed.',
  ]);
  expect((await m.store()).filter((line) => /mtwatch\/|\/vm\/|\/libxl\/|domain\/[12]/.test(line))).toEqual([]);
});

test('between two lives a domain has no mtwatch node, and never a life without one', async () => {
  const { domid } = await monitored();
  const from = m.trace.length;
  m.dom0.guestStops(domid, 'reboot');
  await m.run(m.ctx.clock.sleep(2_500));
  const nodes = m.trace
    .slice(from)
    .filter(
      ({ who, op, args }) => who === 'monitor' && ['WRITE', 'RM'].includes(op) && /mtwatch|domain\/\d+$/.test(args[0] ?? ''),
    );
  expect(nodes.map(({ op, args }) => `${op} ${args[0]}`)).toEqual([
    'RM /local/domain/1',
    'RM /local/domain/0/mtwatch/1',
    'WRITE /local/domain/0/mtwatch/2',
    'RM /local/domain/2',
    'WRITE /local/domain/2',
  ]);
});

test('rename-restart keeps the old domain under another name, and the next one fails over its disk', async () => {
  const { domid, monitor } = await monitored({ crash: 'rename-restart' });
  m.dom0.guestStops(domid, 'crash');
  await m.run(monitor.done);
  expect(log).toEqual([
    waiting(1),
    'Domain 1 has shut down, reason code 3 0x3',
    'Action for shutdown reason code 3 is rename-restart',
    expect.stringMatching(/^Preserving domain 1 pv with suffix-20180407T\d{4}Z$/),
    'Done. Rebooting now',
    expect.stringMatching(
      /^libxl: error: libxl_exec\.c:117:libxl_report_child_exitstatus: \/etc\/xen\/scripts\/block add \[\d+\] exited with error status 1$/,
    ),
    'libxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: Device /dev/loop0 is mounted in a guest domain,\nand so cannot be mounted now.',
    'libxl: error: libxl_create.c:1672:domcreate_launch_dm: Domain 2:unable to add disk devices',
    'libxl: error: libxl_domain.c:1183:libxl__destroy_domid: Domain 2:Non-existant domain',
    'libxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain 2:Unable to destroy guest',
    'libxl: error: libxl_domain.c:1064:domain_destroy_cb: Domain 2:Destruction of domain failed',
  ]);
  expect(await m.run(m.ctx.xs.read('/local/domain/1/name'))).toMatch(/^pv-20180407T\d{4}Z$/);
  expect(await domids()).toEqual([0, 1]);
});

test('a destruction that is stuck is in the log, and ends the monitor like any other', async () => {
  const { domid, monitor } = await monitored();
  m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
  await m.run(domainPause(m.ctx, domid));
  m.dom0.guestStops(domid, 'crash');
  await m.run(monitor.done);
  expect(log).toEqual([
    waiting(1),
    'Domain 1 has shut down, reason code 3 0x3',
    'Action for shutdown reason code 3 is destroy',
    'Domain 1 needs to be cleaned up: destroying the domain',
    'libxl: error: libxl_device.c:1181:device_backend_callback: Domain 1:unable to remove device with path /local/domain/0/backend/vif/1/0',
    'libxl: error: libxl_domain.c:1530:devices_destroy_cb: Domain 1:libxl__devices_destroy failed',
    'Done. Exiting now',
  ]);
});

describe('every end and every action', () => {
  const reasons = { poweroff: 0, reboot: 1, crash: 3, watchdog: 4, softReset: 5 } as const;
  type Kind = keyof typeof reasons;
  const kinds = Object.keys(reasons) as Kind[];
  const dump = '/var/lib/xen/dump/pv';
  const cleaned = 'Domain 1 needs to be cleaned up: destroying the domain';
  const rebooted = ['Done. Rebooting now', waiting(2)];
  /** What follows `Action for ...`, the domains that are there then, and whether the monitor waits for a next life. */
  const outcomes: Record<string, { lines: readonly unknown[]; domids: readonly number[]; waits: boolean; core?: true }> = {
    destroy: { lines: [cleaned, 'Done. Exiting now'], domids: [], waits: false },
    restart: { lines: [cleaned, ...rebooted], domids: [2], waits: true },
    'rename-restart': {
      lines: [expect.stringMatching(/^Preserving domain 1 pv with suffix-20180407T\d{4}Z$/), ...rebooted],
      domids: [1, 2],
      waits: true,
    },
    preserve: { lines: ['Done. Exiting now'], domids: [1], waits: false },
    'coredump-destroy': {
      lines: [`dumping core to ${dump}`, cleaned, 'Done. Exiting now'],
      domids: [],
      waits: false,
      core: true,
    },
    'coredump-restart': { lines: [`dumping core to ${dump}`, cleaned, ...rebooted], domids: [2], waits: true, core: true },
    // A PV guest has none: xl is told so after its pause, and the domain goes without another word.
    'soft-reset': { lines: ['Done. Rebooting now'], domids: [], waits: false },
  };
  const table = kinds.flatMap((kind) => Object.keys(outcomes).map((action) => [kind, action] as const));

  test.each(table)('on %s %s', async (kind, action) => {
    m.dom0.close();
    m = await machine({ dumps: true });
    log = m.lines;
    const { lines, domids: there, waits, core = false } = outcomes[action] ?? { lines: [], domids: [], waits: false };
    const key = {
      poweroff: 'onPoweroff',
      reboot: 'onReboot',
      crash: 'onCrash',
      watchdog: 'onWatchdog',
      softReset: 'onSoftReset',
    }[kind];
    const config = pvConfig('pv', { disks: [], [key]: libxlAction(action) });
    await m.run(domainCreateNew(m.ctx, config));
    const kept: Monitored[] = [];
    const monitor = await m.run(
      startMonitor(
        monitorCtx(),
        { domid: 1, name: 'pv', actions: actionsOf(config) },
        (line) => log.push(line),
        (now) => kept.push(now),
      ),
    );
    await m.run(domainUnpause(m.ctx, 1));
    await m.settle();
    m.dom0.hypervisor.shutdown(1, reasons[kind]);
    if (waits) await m.run(m.ctx.clock.sleep(2_500));
    else await m.run(monitor.done);
    await m.settle();
    const reason = reasons[kind];
    expect(log).toEqual([
      waiting(1),
      `Domain 1 has shut down, reason code ${reason} 0x${reason}`,
      `Action for shutdown reason code ${reason} is ${action}`,
      ...lines,
    ]);
    expect(await domids()).toEqual([0, ...there]);
    expect(m.files.has(dump)).toBe(core);
    const homes = (await m.store()).flatMap((line) => /^\/local\/domain\/([1-9]\d*) =/.exec(line)?.[1] ?? []);
    const nodes = (await m.store()).flatMap((line) => /^\/local\/domain\/0\/mtwatch\/(\d+) =/.exec(line)?.[1] ?? []);
    expect({ homes, nodes }).toEqual({ homes: there.map(String), nodes: there.map(String) });
    // Whoever keeps it knows of the next life before the last one goes.
    expect(kept.map(({ domid, next }) => [domid, next?.keepsOld])).toEqual(
      waits
        ? [
            [1, action === 'rename-restart'],
            [2, undefined],
          ]
        : [],
    );
    if (!waits) return;
    await m.run(domainDestroy(m.ctx, 2));
    await m.run(monitor.done);
    expect(log.at(-1)).toBe('Domain 2 has been destroyed.');
  });

  test('of a reason that xl does not know is a destruction', async () => {
    const { monitor } = await monitored({ poweroff: 'preserve' });
    m.dom0.hypervisor.shutdown(1, 9 as ShutdownReason);
    await m.run(monitor.done);
    expect(log.slice(1)).toEqual([
      'Domain 1 has shut down, reason code 9 0x9',
      'Unknown shutdown reason code 9. Destroying domain.',
      'Action for shutdown reason code 9 is destroy',
      cleaned,
      'Done. Exiting now',
    ]);
  });

  /** As the JSON has it. */
  function libxlAction(action: string): DomainConfig['onCrash'] {
    return (action === 'rename-restart' ? 'restart_rename' : action.replace('-', '_')) as DomainConfig['onCrash'];
  }
});

test('a renamed domain reboots under its new name, and what its config says then counts', async () => {
  const { domid, monitor } = await monitored();
  await m.run(domainRename(m.ctx, domid, undefined, 'other'));
  m.dom0.guestStops(domid, 'reboot');
  await m.run(m.ctx.clock.sleep(2_500));
  await m.settle();
  expect(log.at(-1)).toBe('Waiting for domain other (domid 2) to die [pid 1000]');
  const info = await domainInfo(m.ctx, 2);
  const text = `name = "third"\nuuid = "${info?.uuid}"\nkernel = "/boot/vmlinux"\non_crash = "preserve"\n`;
  m.files.set(`userdata-d.2.${info?.uuid}.xl`, text);
  m.dom0.guestStops(2, 'reboot');
  await m.run(m.ctx.clock.sleep(2_500));
  await m.settle();
  m.dom0.guestStops(3, 'crash');
  await m.run(monitor.done);
  expect(log.slice(6)).toEqual([
    'Domain 2 has shut down, reason code 1 0x1',
    'Action for shutdown reason code 1 is restart',
    '"xl" configuration found, using it\n',
    'Domain 2 needs to be cleaned up: destroying the domain',
    'Done. Rebooting now',
    'Waiting for domain third (domid 3) to die [pid 1000]',
    'Domain 3 has shut down, reason code 3 0x3',
    'Action for shutdown reason code 3 is preserve',
    'Done. Exiting now',
  ]);
});

test('without what was saved of it a domain reboots as it was created', async () => {
  const { domid } = await monitored();
  m.files.clear();
  m.dom0.guestStops(domid, 'reboot');
  await m.run(m.ctx.clock.sleep(2_500));
  await m.settle();
  expect(log.slice(3)).toEqual([
    'libxl: error: libxl_domain.c:2335:retrieve_domain_configuration_lock_acquired: Domain 1:Fail to get domain configuration',
    'failed to retrieve guest configuration (rc=-3). reusing old configuration',
    'Domain 1 needs to be cleaned up: destroying the domain',
    'Done. Rebooting now',
    waiting(2),
  ]);
  expect(await m.run(m.ctx.xs.read('/local/domain/0/backend/vif/2/0/mac'))).toBe('00:16:3e:00:00:01');
});

test('rename-restart changes name and uuid in the store alone', async () => {
  m.dom0.close();
  m = await machine();
  log = m.lines;
  await m.run(domainCreateNew(m.ctx, pvConfig('pv', { disks: [] })));
  const uuid = (await domainInfo(m.ctx, 1))?.uuid ?? '';
  const actions = { ...usual, crash: 'rename-restart' };
  await m.run(startMonitor(monitorCtx(), { domid: 1, name: 'pv', actions }, (line) => log.push(line)));
  await m.run(domainUnpause(m.ctx, 1));
  m.dom0.guestStops(1, 'crash');
  await m.run(m.ctx.clock.sleep(2_500));
  await m.settle();
  const old = await m.run(m.ctx.xs.read('/local/domain/1/vm'));
  expect(old).not.toBe(`/vm/${uuid}`);
  // Of the preserved life /vm has its uuid alone: the name went to that of the handle, which the new life made anew.
  expect((await m.store()).filter((line) => line.startsWith(`${old}/`))).toEqual([`${old}/uuid = "${old?.slice(4)}"   (n0,r1)`]);
  expect(await m.run(m.ctx.xs.read(`/vm/${uuid}/name`))).toBe('pv');
  expect([(await domainInfo(m.ctx, 1))?.uuid, (await domainInfo(m.ctx, 2))?.uuid]).toEqual([uuid, uuid]);
  await m.run(domainDestroy(m.ctx, 1));
  expect(await m.run(m.ctx.xs.read(`/vm/${uuid}/name`))).toBe('pv');
  expect(await m.run(m.ctx.xs.read(old ?? ''))).toBeUndefined();
});

test('a monitor that was lost between two lives is gone on with: what is left of either goes first', async () => {
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig('pv')));
  const config =
    m.files.get(`userdata-d.${domid}.${(await domainInfo(m.ctx, domid))?.uuid}.libxl-json`)?.replace(/\0$/, '') ?? '';
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  m.dom0.hypervisor.shutdown(domid, 1);
  const lost: Monitored = { domid, name: 'pv', actions: usual, next: { config, keepsOld: false } };
  const kept: Monitored[] = [];
  await m.run(
    startMonitor(
      monitorCtx(),
      lost,
      (line) => log.push(line),
      (now) => kept.push(now),
    ),
  );
  await m.run(m.ctx.clock.sleep(1));
  await m.settle();
  expect(log).toEqual(['Domain 1 needs to be cleaned up: destroying the domain', waiting(2)]);
  expect(kept).toEqual([{ domid: 2, name: 'pv', actions: usual }]);
  expect(await domids()).toEqual([0, 2]);
});

test('an eject of a removable disk is acknowledged, and refused to a PV guest', async () => {
  const cdrom = { pdevPath: '/srv/cd.iso', vdev: 'xvdb', format: 'raw', removable: true, isCdrom: true } as const;
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig('pv', { disks: [cdrom] })));
  const path = `/local/domain/${domid}/device/vbd/51728/eject`;
  const xs = m.connect('monitor');
  await m.run(startMonitor({ ...m.ctx, xs }, { domid, name: 'pv', actions: usual }, (line) => log.push(line)));
  const own = m.trace.filter(({ who, op }) => who === 'monitor' && op === 'WATCH').map(({ args }) => args[0]);
  expect(own).toEqual(['@releaseDomain', path]);
  await m.run(m.ctx.xs.write(path, 'something'));
  await m.settle();
  expect(await m.run(m.ctx.xs.read(path))).toBe('something');
  await m.run(m.ctx.xs.write(path, 'eject'));
  await m.settle();
  expect(await m.run(m.ctx.xs.read(path))).toBe('');
  expect(log.slice(1)).toEqual([
    'libxl: error: libxl_disk.c:838:libxl_cdrom_insert: Domain 1:cdrom-insert requires an HVM domain',
  ]);
});
