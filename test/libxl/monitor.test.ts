/** The logs are those of golden/30-shutdown-destroy and 53-shutdown-actions, domids and pids aside. */
import { domainCreateNew } from '../../src/libxl/create.js';
import type { Ctx } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainInfo, domainPause, domainShutdown, domainUnpause, listDomains } from '../../src/libxl/domain.js';
import { type Monitor, type Monitored, startMonitor } from '../../src/libxl/monitor.js';
import { domainResume, domainSuspendOnly } from '../../src/libxl/suspend.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
/** The log of the monitor: its own lines and libxl's. */
let log: string[];
beforeEach(async () => {
  m = await machine();
  log = m.lines;
});
afterEach(() => m.dom0.close());

const monitorCtx = (): Ctx => ({ ...m.ctx, xs: m.connect('monitor') });

async function monitored(actions: Partial<Monitored['actions']> = {}): Promise<{ domid: number; monitor: Monitor }> {
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  const all = { poweroff: 'destroy', reboot: 'restart', crash: 'destroy', watchdog: 'destroy', ...actions };
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
  const actions = { poweroff: 'destroy', reboot: 'restart', crash: 'destroy', watchdog: 'destroy' };
  const monitor = await m.run(startMonitor(monitorCtx(), { domid, name: 'pv', actions }, (line) => log.push(line)));
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
