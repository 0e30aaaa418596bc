/**
 * dom0's own devices: its frontend bus, with a back end in dom0 itself or in a driver domain. There is no command for it
 * here: the nodes are written as a toolstack would.
 */
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
afterEach(() => m.dom0.close());

const read = (path: string) => m.run(m.ctx.xs.read(path));
const dmesg = () => (m.dom0.handlers['dom0.dmesg']({ clear: false }) as { lines: readonly string[] }).lines;
const stuck = () => m.threads().filter(({ state }) => state === 'D');
const frames = () => (stuck()[0]?.running?.stack ?? []).map((line) => line.replace('[<0>] ', ''));

/** dom0's threads but for those that are always there. */
const kernelThreads = () =>
  [...m.dom0.kernel.sched.tasks]
    .filter(({ home, name }) => home === m.dom0.kernel.home && !/^(xenbus|xenwatch|mtwatch|xen-balloon|kworker.*)$/.test(name))
    .map(({ name }) => name)
    .sort();

const front = (device: string) => `/local/domain/0/device/${device}`;
const back = (device: string, backendDomid: number) => `/local/domain/${backendDomid}/backend/${device.replace('/', '/0/')}`;
const states = async (device: string, backendDomid = 0) => [
  await read(`${front(device)}/state`),
  await read(`${back(device, backendDomid)}/state`),
];

/** Both ends of a device of dom0, in one transaction. */
async function attach(device: string, backendDomid: number, nodes: Readonly<Record<string, string>>): Promise<void> {
  const [, devid = ''] = device.split('/');
  await m.run(
    m.ctx.xs.transaction(async (tx) => {
      const ends = {
        [front(device)]: {
          backend: back(device, backendDomid),
          'backend-id': String(backendDomid),
          state: '1',
          'virtual-device': devid,
          handle: devid,
          mac: '00:16:3e:00:00:01',
        },
        [back(device, backendDomid)]: { frontend: front(device), 'frontend-id': '0', online: '1', ...nodes, state: '1' },
      };
      for (const [dir, values] of Object.entries(ends)) {
        for (const [name, value] of Object.entries(values)) await tx.write(`${dir}/${name}`, value);
      }
    }),
  );
  await m.settle();
}

/** The block device that a hotplug script would name. */
async function disk(device: string): Promise<void> {
  const { major, minor } = await m.ctx.xc.call('dom0.block_attach', { path: '/dev/vg/own', as: 'device', sectors: 2048 });
  await m.run(m.ctx.xs.write(`${back(device, 0)}/physical-device`, `${major.toString(16)}:${minor.toString(16)}`));
  await m.settle();
}

const vbdNodes = { mode: 'w', dev: 'xvdq', type: 'phy' };
const vifNodes = { script: '/etc/xen/scripts/vif-bridge', handle: '0', mac: '00:16:3e:00:00:01', 'hotplug-status': 'connected' };

/** As libxl removes a device, by force: its frontend first. */
async function remove(device: string, backendDomid = 0): Promise<void> {
  await m.run(m.ctx.xs.rm(front(device)));
  await m.settle();
  await m.run(m.ctx.xs.rm(back(device, backendDomid)));
  await m.settle();
}

describe.each([
  ['one watch thread', ''],
  ['one watch thread a domain', 'xen_mtwatch'],
])('with %s', (_title, cmdline) => {
  beforeEach(async () => {
    m = await machine({ cmdline });
  });

  test("a disk of dom0's with its back end in dom0 connects, and goes without a trace", async () => {
    await attach('vbd/51712', 0, vbdNodes);
    expect(await states('vbd/51712')).toEqual(['3', '2']);
    await disk('vbd/51712');
    expect(await states('vbd/51712')).toEqual(['4', '4']);
    expect(await read(`${front('vbd/51712')}/multi-queue-num-queues`)).toBe('2');
    expect(kernelThreads()).toEqual(['0.xvdq-0', '0.xvdq-1']);
    expect(m.dom0.hypervisor.get(0)?.ports.size).toBe(2);
    await remove('vbd/51712');
    expect([kernelThreads(), m.dom0.hypervisor.get(0)?.mappings, m.dom0.hypervisor.get(0)?.ports.size, m.log]).toEqual([
      [],
      0,
      0,
      [],
    ]);
  });

  test('a disk that grows meanwhile is told to who uses it', async () => {
    await attach('vbd/51712', 0, vbdNodes);
    await disk('vbd/51712');
    await m.run(m.ctx.xs.write(`${back('vbd/51712', 0)}/sectors`, '4096'));
    await m.run(m.ctx.xs.write(`${back('vbd/51712', 0)}/state`, '4'));
    await m.settle();
    expect(dmesg().at(-1)).toContain('Setting capacity to 4096');
  });

  test("a vif of dom0's with its back end in dom0 connects", async () => {
    await attach('vif/0', 0, vifNodes);
    expect(await states('vif/0')).toEqual(['4', '4']);
    expect(m.threads().map(({ thread, state }) => `${thread} ${state}`)).toEqual(['xenwatch S']);
  });

  test('whoever removes a vif waits for its back end, and looks again every five seconds', async () => {
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig('driver')));
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    await attach('vif/0', domid, { 'feature-rx-copy': '1' });
    await m.run(m.ctx.xs.write(`${back('vif/0', domid)}/state`, '2'));
    await m.run(m.ctx.xs.write(`${back('vif/0', domid)}/state`, '4'));
    await m.settle();
    expect(await states('vif/0', domid)).toEqual(['4', '4']);
    await m.run(m.ctx.xs.rm(front('vif/0')));
    await m.settle();
    const entry = cmdline === '' ? 'xenwatch_thread' : 'mtwatch_thread';
    expect(frames()).toEqual([
      'xennet_bus_close [xen_netfront]',
      'xennet_remove [xen_netfront]',
      'xenbus_dev_remove',
      '__device_release_driver',
      'device_release_driver',
      'bus_remove_device',
      'device_del',
      'device_unregister',
      'xenbus_dev_changed',
      'frontend_changed',
      entry,
      'kthread',
      'ret_from_fork',
    ]);
    expect(stuck().map(({ thread }) => thread)).toEqual([cmdline === '' ? 'xenwatch' : `xen-mtwatch-${domid}`]);
    m.clock.advance(60_000);
    await m.settle();
    expect(stuck()).toHaveLength(1);
    await m.run(m.ctx.xs.rm(back('vif/0', domid)));
    m.clock.advance(5_000);
    await m.settle();
    expect([stuck(), m.log, m.dom0.hypervisor.get(0)?.ports.size]).toEqual([[], [], 0]);
  });

  test('a disk that a driver domain serves connects, and its events belong to that domain', async () => {
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig('driver')));
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    await attach('vbd/51712', domid, {});
    await m.run(m.ctx.xs.write(`${back('vbd/51712', domid)}/multi-queue-max-queues`, '1'));
    await m.run(m.ctx.xs.write(`${back('vbd/51712', domid)}/state`, '2'));
    await m.settle();
    expect(await read(`${front('vbd/51712')}/state`)).toBe('3');
    const port = Number(await read(`${front('vbd/51712')}/event-channel`));
    expect(m.dom0.hypervisor.get(0)?.ports.get(port)).toMatchObject({ remote: domid, bound: false });
    for (const [name, value] of Object.entries({ sectors: '2048', info: '0', 'sector-size': '512', state: '4' })) {
      await m.run(m.ctx.xs.write(`${back('vbd/51712', domid)}/${name}`, value));
    }
    await m.settle();
    expect(await states('vbd/51712', domid)).toEqual(['4', '4']);

    // A stall of that domain's thread keeps the news of its back ends from dom0's frontends, and nothing else's.
    m.dom0.handlers['dom0.hold']({ device: `vif${domid}.0`, mode: 'inflight' });
    await m.run(m.ctx.xs.write(`/local/domain/${domid}/device/vif/0/state`, '6'));
    await m.settle();
    await m.run(m.ctx.xs.write(`${back('vbd/51712', domid)}/state`, '5'));
    await m.settle();
    expect(await read(`${front('vbd/51712')}/state`)).toBe('4');
    m.dom0.handlers['dom0.flush']({});
    await m.settle();
    expect(await read(`${front('vbd/51712')}/state`)).toBe('6');
    await m.run(domainDestroy(m.ctx, domid));
    expect([m.log, m.dom0.domains]).toEqual([[], 0]);
  });
});

test('a frontend whose back end cannot be found says so and closes', async () => {
  m = await machine();
  await m.run(
    m.ctx.xs.transaction(async (tx) => {
      for (const [name, value] of Object.entries({ 'virtual-device': '51712', 'backend-id': '0', state: '1' })) {
        await tx.write(`${front('vbd/51712')}/${name}`, value);
      }
    }),
  );
  await m.settle();
  expect([await read(`${front('vbd/51712')}/state`), await read('/local/domain/0/error/device/vbd/51712/error')]).toEqual([
    '5',
    '2 reading other end details from device/vbd/51712',
  ]);
  expect(dmesg().at(-1)).toContain('vbd vbd-51712: talk_to_otherend on device/vbd/51712 failed.');
});
