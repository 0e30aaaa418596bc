/** The backends' state tables, driven through the store as a guest or a toolstack would. */
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainShutdown, domainUnpause } from '../../src/libxl/domain.js';
import { ringPacketsMax } from '../../src/xenbus/kernel/kernel.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
let domid: number;
afterEach(() => m.dom0.close());

const frontend = (device: string) => `/local/domain/${domid}/device/${device}`;
const backend = (kind: string, devid: number) => `/local/domain/0/backend/${kind}/${domid}/${devid}`;
const read = (path: string) => m.run(m.ctx.xs.read(path));
const dmesg = () => (m.dom0.handlers['dom0.dmesg']({ clear: false }) as { lines: readonly string[] }).lines;

/** A domain whose guest never runs, so that the test can speak for it. */
async function paused(): Promise<void> {
  m = await machine();
  domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
}

/** Writes a frontend's nodes as the guest would, then its state, and lets the backend answer. */
async function says(device: string, nodes: Readonly<Record<string, string>>, state: number): Promise<void> {
  for (const [name, value] of Object.entries(nodes)) await m.run(m.ctx.xs.write(`${frontend(device)}/${name}`, value));
  await m.run(m.ctx.xs.write(`${frontend(device)}/state`, String(state)));
  await m.settle();
}

async function vbdRing(): Promise<Record<string, string>> {
  const { port } = await m.ctx.xc.call('xc.evtchn_alloc_unbound', { domid, remote: 0 });
  return { 'ring-ref': '8', 'event-channel': String(port), protocol: 'x86_64-abi' };
}

describe('blkback', () => {
  beforeEach(paused);

  test('connects at Initialised, closes with its frontend, and prepares to be connected again', async () => {
    const state = () => read(`${backend('vbd', 51712)}/state`);
    const seen = [await state()];
    for (const frontendState of [3, 5, 6, 1]) {
      await says('vbd/51712', frontendState === 3 ? await vbdRing() : {}, frontendState);
      seen.push(await state());
    }
    await says('vbd/51712', await vbdRing(), 3);
    seen.push(await state());
    expect(seen).toEqual(['2', '4', '5', '6', '2', '4']);
  });

  const frontendDir = '/local/domain/1/device/vbd/51712';
  const error = () => read(`/local/domain/0/error/backend/vbd/${domid}/51712/error`);

  test.each([
    ['a protocol that it does not know', { protocol: 'm68k-abi' }, '-1 unknown fe protocol m68k-abi'],
    [
      'more queues than it offered',
      { 'multi-queue-num-queues': '99' },
      '-1 guest requested 99 queues, exceeding the maximum of 2.',
    ],
    ['no queues at all', { 'multi-queue-num-queues': '0' }, '-1 guest requested 0 queues, exceeding the maximum of 2.'],
    ['an event channel that is not there', { 'event-channel': '999' }, '22 mapping ring-ref port 999'],
    // xenstored's and the console's are bound already.
    ['an event channel that is taken', { 'event-channel': '1' }, '22 mapping ring-ref port 1'],
    ['an event channel that is no number', { 'event-channel': 'junk' }, `22 reading ${frontendDir}/event-channel`],
    ['a ring that is no number', { 'ring-ref': 'junk' }, `22 reading ${frontendDir}/ring-ref`],
    ['rings of too many pages', { 'ring-page-order': '5' }, '22 requested ring page order 5 exceed max:4'],
    ['a ring that lacks pages', { 'ring-page-order': '1', 'ring-ref0': '8' }, `22 reading ${frontendDir}/ring-ref1`],
    [
      'queues of which the second is not there',
      { 'multi-queue-num-queues': '2', 'queue-0/ring-ref': '8' },
      `22 reading ${frontendDir}/queue-0/event-channel`,
    ],
  ])('refuses %s, says why and closes', async (_what, wrong, why) => {
    await says('vbd/51712', { ...(await vbdRing()), ...wrong }, 3);
    expect([await read(`${backend('vbd', 51712)}/state`), await error()]).toEqual(['5', why]);
    expect(dmesg().at(-1)).toMatch(`vbd vbd-1-51712: ${why}`);
    expect(m.log).toEqual([]);
  });

  test('gives back the rings that it had mapped when a later one is wrong', async () => {
    const ring = await vbdRing();
    const queues = {
      'multi-queue-num-queues': '2',
      'queue-0/ring-ref': '8',
      'queue-0/event-channel': ring['event-channel'] ?? '',
    };
    await says('vbd/51712', { ...queues, 'queue-1/event-channel': 'junk' }, 3);
    const second = await vbdRing();
    await says('vbd/51712', { 'queue-1/ring-ref': '9', 'queue-1/event-channel': second['event-channel'] ?? '' }, 4);
    expect(await read(`${backend('vbd', 51712)}/state`)).toBe('4');
  });

  test('takes rings of several pages, and old frontends that name no protocol', async () => {
    const { port } = await m.ctx.xc.call('xc.evtchn_alloc_unbound', { domid, remote: 0 });
    await m.run(m.ctx.xs.rm(`${frontend('vbd/51712')}/protocol`));
    const refs = Object.fromEntries([0, 1, 2, 3].map((page) => [`ring-ref${page}`, String(8 + page)]));
    await says('vbd/51712', { 'ring-page-order': '2', ...refs, 'event-channel': String(port) }, 3);
    expect(await read(`${backend('vbd', 51712)}/state`)).toBe('4');
    const using = 'xen-blkback: backend/vbd/1/51712: using 1 queues, protocol 1 (unspecified, assuming default) ';
    expect(dmesg().some((line) => line.endsWith(using))).toBe(true);
    await m.run(domainDestroy(m.ctx, domid));
    expect(m.dom0.domains).toBe(0);
  });

  test.each([2, 7, 8, 9])('refuses state %i, which a frontend never has', async (state) => {
    await says('vbd/51712', {}, state);
    expect([await read(`${backend('vbd', 51712)}/state`), await error()]).toEqual(['5', `22 saw state ${state} at frontend`]);
  });

  test('stays when its frontend has closed and the toolstack wants it, and goes when it does not', async () => {
    await says('vbd/51712', {}, 6);
    expect(await read(`${backend('vbd', 51712)}/state`)).toBe('6');
    await says('vbd/51712', {}, 1);
    expect(dmesg().at(-1)).toContain('xen-blkback: backend/vbd/1/51712: prepare for reconnect');
    await m.run(m.ctx.xs.write(`${backend('vbd', 51712)}/online`, '0'));
    await says('vbd/51712', {}, 6);
    await says('vbd/51712', {}, 1);
    expect(await read(`${backend('vbd', 51712)}/state`)).toBe('6');
  });

  test('does not change its device once it has one', async () => {
    const was = (await read(`${backend('vbd', 51712)}/physical-device`)) ?? '';
    await m.run(m.ctx.xs.write(`${backend('vbd', 51712)}/physical-device`, '7:9'));
    await m.settle();
    expect(dmesg().at(-1)).toContain(`xen-blkback: changing physical device (from ${was} to 7:9) not supported.`);
  });
});

describe('a block device that the script names', () => {
  beforeEach(async () => {
    m = await machine();
    domid = 9;
  });

  /** A vbd by hand, as far as its script. */
  async function vbd(nodes: Readonly<Record<string, string>>): Promise<void> {
    await m.run(
      m.ctx.xs.transaction(async (tx) => {
        await tx.write(`${frontend('vbd/51712')}/state`, '1');
        const all = {
          frontend: frontend('vbd/51712'),
          'frontend-id': '9',
          online: '1',
          mode: 'w',
          dev: 'xvda',
          state: '1',
          ...nodes,
        };
        for (const [name, value] of Object.entries(all)) await tx.write(`${backend('vbd', 51712)}/${name}`, value);
      }),
    );
    await m.settle();
  }
  const error = () => read('/local/domain/0/error/backend/vbd/9/51712/error');

  test.each([
    [
      'must be there',
      { 'physical-device': 'fd:1' },
      '2 creating vbd structure',
      'xen_vbd_create: device 0fd00001 could not be opened',
    ],
    ['has two numbers', { 'physical-device': '7' }, '-1 reading physical-device', '-1 reading physical-device'],
  ])('%s', async (_title, nodes, why, line) => {
    await vbd(nodes);
    expect([await error(), await read(`${backend('vbd', 51712)}/state`)]).toEqual([why, '5']);
    expect(dmesg().join('\n')).toContain(line);
  });

  test('is not looked at before it has numbers, nor without a mode', async () => {
    await vbd({ 'physical-device': 'not yet' });
    expect(await read(`${backend('vbd', 51712)}/state`)).toBe('2');
    await m.run(m.ctx.xs.rm(`${backend('vbd', 51712)}/mode`));
    await m.run(m.ctx.xs.write(`${backend('vbd', 51712)}/physical-device`, '7:0'));
    await m.settle();
    expect([await error(), await read(`${backend('vbd', 51712)}/state`)]).toEqual(['2 reading mode', '5']);
  });
});

test.each([
  ['a disk that is written', { readwrite: true }, '0'],
  ['a disk that is only read', { readwrite: false }, '4'],
  ['a cdrom', { readwrite: false, isCdrom: true }, '5'],
])('%s says so to its frontend', async (_what, how, info) => {
  m = await machine();
  const disk = { pdevPath: '/dev/vg/disk', vdev: 'xvda', format: 'raw' as const, ...how };
  domid = await m.run(domainCreateNew(m.ctx, pvConfig('pv', { disks: [disk] })));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  expect(await read(`${backend('vbd', 51712)}/info`)).toBe(info);
});

test('a backend whose frontend is no path, or of another domain, makes no device and harms nobody', async () => {
  for (const [cmdline, frontendId, path, domid = '9'] of [
    ['', '9', '/local/domain/9/device/vif/0/'],
    ['xen_mtwatch', '9', '/bad path'],
    ['xen_mtwatch', '8', '/local/domain/8/device/vif/0'],
    ['xen_mtwatch', '009', '/local/domain/9/device/vif/0'],
    ['xen_mtwatch', '009', '/local/domain/9/device/vif/0', '009'],
  ] as const) {
    m = await machine({ cmdline });
    const dir = `/local/domain/0/backend/vif/${domid}/0`;
    await m.run(
      m.ctx.xs.transaction(async (tx) => {
        for (const [name, value] of Object.entries({ frontend: path, 'frontend-id': frontendId, state: '1' })) {
          await tx.write(`${dir}/${name}`, value);
        }
        if (/\d$/.test(path)) await tx.write(`${path}/state`, '1');
      }),
    );
    await m.settle();
    expect(await read(`${dir}/state`)).toBe('1');
    expect({ log: m.log, threads: m.threads().map(({ thread, state }) => `${thread} ${state}`) }).toEqual({
      log: [],
      threads: ['xenwatch S'],
    });
    expect(await m.run(domainCreateNew(m.ctx, pvConfig()))).toBe(1);
  }
});

test('a guest of many vcpus has event channels left for its devices', async () => {
  m = await machine();
  const config = pvConfig();
  domid = await m.run(domainCreateNew(m.ctx, { ...config, bInfo: { ...config.bInfo, maxVcpus: 300, availVcpus: [0] } }));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  expect([await read(`${frontend('vbd/51712')}/state`), await read(`${frontend('vif/0')}/state`), m.log]).toEqual(['4', '4', []]);
});

const kernelThreads = () =>
  [...m.dom0.kernel.sched.tasks].filter(({ home }) => home === m.dom0.kernel.home).map(({ name }) => name);

/** What netback wrote as its state, in order. */
const vifStates = (from = 0) =>
  m.trace
    .slice(from)
    .filter(({ who, op, args }) => who === 'dom0-kernel' && op === 'WRITE' && args[0] === `backend/vif/${domid}/0/state`)
    .map(({ args }) => args[1]);

/** Event channels of the guest's for dom0 to bind. */
async function ports(count: number): Promise<string[]> {
  const taken: string[] = [];
  for (let index = 0; index < count; index++) {
    taken.push(String((await m.ctx.xc.call('xc.evtchn_alloc_unbound', { domid, remote: 0 })).port));
  }
  return taken;
}

async function vifRing(): Promise<Record<string, string>> {
  const [tx = '', rx = ''] = await ports(2);
  const rings = { 'tx-ring-ref': '8', 'rx-ring-ref': '9', 'event-channel-tx': tx, 'event-channel-rx': rx };
  return { ...rings, 'request-rx-copy': '1', 'feature-rx-notify': '1' };
}

describe('netback', () => {
  beforeEach(paused);
  const error = () => read(`/local/domain/0/error/backend/vif/${domid}/0/error`);
  const frontendDir = '/local/domain/1/device/vif/0';

  test('withholds Connected until the hotplug script is done', async () => {
    await m.run(m.ctx.xs.write(`${backend('vif', 0)}/hotplug-status`, ''));
    await m.run(m.ctx.xc.call('xc.domain_unpause', { domid }));
    await m.settle();
    expect([await read(`${backend('vif', 0)}/state`), await read(`${frontend('vif/0')}/state`)]).toEqual(['2', '4']);
    await m.run(m.ctx.xs.write(`${backend('vif', 0)}/hotplug-status`, 'connected'));
    await m.settle();
    expect(await read(`${backend('vif', 0)}/state`)).toBe('4');
  });

  test('withholds every later state too, and writes the one that it is in then', async () => {
    await m.run(m.ctx.xs.write(`${backend('vif', 0)}/hotplug-status`, ''));
    await says('vif/0', await vifRing(), 4);
    await says('vif/0', {}, 5);
    expect(vifStates()).toEqual(['2']);
    await m.run(m.ctx.xs.write(`${backend('vif', 0)}/hotplug-status`, 'connected'));
    await m.settle();
    expect(vifStates()).toEqual(['2', '5']);
  });

  test('goes on with a frontend that closes and comes back, and reconfigures', async () => {
    await says('vif/0', await vifRing(), 4);
    await says('vif/0', {}, 7);
    for (const state of [5, 6, 1]) await says('vif/0', {}, state);
    await says('vif/0', await vifRing(), 4);
    expect(vifStates()).toEqual(['2', '4', '8', '5', '6', '2', '4']);
    expect(await error()).toBeUndefined();
  });

  test.each([
    [
      'more queues than it offered',
      { 'multi-queue-num-queues': '9' },
      '22 guest requested 9 queues, exceeding the maximum of 2.',
    ],
    ['no queues at all', { 'multi-queue-num-queues': '0' }, '12 allocating queues'],
    ['no ring', { 'tx-ring-ref': '' }, `34 reading ${frontendDir}/ring-ref`],
    ['no event channel', { 'event-channel-tx': '', 'event-channel': '' }, `34 reading ${frontendDir}/event-channel(-tx/rx)`],
    ['an event channel that is taken', { 'event-channel-tx': '1' }, `22 mapping shared-frames 8/9 port tx 1 rx RX`],
    ['queues that are not there', { 'multi-queue-num-queues': '2' }, `2 reading ${frontendDir}/queue-0/ring-ref`],
    ['a control ring without an event channel', { 'ctrl-ring-ref': '10' }, '2 connecting control ring'],
    ['a control ring that is taken', { 'ctrl-ring-ref': '10', 'event-channel-ctrl': '1' }, '22 connecting control ring'],
  ])('tells of %s, closes, and is Connected all the same', async (_what, wrong, why) => {
    const ring: Record<string, string> = { ...(await vifRing()), ...wrong };
    const before = m.dom0.hypervisor.get(domid)?.mappings;
    await says('vif/0', ring, 4);
    expect([await error(), vifStates()]).toEqual([why.replace('RX', ring['event-channel-rx'] ?? ''), ['2', '5', '4']]);
    expect(m.dom0.hypervisor.get(domid)?.mappings).toBe(before);
    await m.run(domainDestroy(m.ctx, domid));
    expect([m.dom0.domains, m.log]).toEqual([0, []]);
  });

  test('connects a control ring, one event channel for both ways, and two queues, and gives all of it back', async () => {
    const [ctrl = '', first = '', second = ''] = await ports(3);
    const bound = () => [...(m.dom0.hypervisor.get(domid)?.ports.values() ?? [])].filter((port) => port.bound).length;
    const before = [m.dom0.hypervisor.get(domid)?.mappings, bound()];
    const queue = (index: number, port: string) => ({
      [`queue-${index}/tx-ring-ref`]: '8',
      [`queue-${index}/rx-ring-ref`]: '9',
      [`queue-${index}/event-channel`]: port,
    });
    const control = { 'ctrl-ring-ref': '10', 'event-channel-ctrl': ctrl, 'multi-queue-num-queues': '2', 'request-rx-copy': '1' };
    await says('vif/0', { ...control, ...queue(0, first), ...queue(1, second) }, 4);
    expect([await error(), vifStates()]).toEqual([undefined, ['2', '4']]);
    const vifThreads = () => kernelThreads().filter((name) => name.startsWith('vif'));
    expect(vifThreads()).toEqual(['vif1.0-q0-guest-rx', 'vif1.0-q0-dealloc', 'vif1.0-q1-guest-rx', 'vif1.0-q1-dealloc']);
    expect([m.dom0.hypervisor.get(domid)?.mappings, bound()]).toEqual([(before[0] ?? 0) + 5, (before[1] ?? 0) + 3]);
    expect(dmesg().filter((line) => line.includes('Guest Rx ready'))).toHaveLength(1);
    await says('vif/0', {}, 6);
    expect([vifThreads(), m.dom0.hypervisor.get(domid)?.mappings, bound()]).toEqual([[], ...before]);
  });

  test('a frontend that does not ask for copies is asked nothing else, and connects', async () => {
    const from = m.trace.length;
    await says('vif/0', { ...(await vifRing()), 'request-rx-copy': '0' }, 4);
    expect(vifStates(from)).toEqual(['4']);
    expect(m.trace.slice(from).some(({ args }) => args[0]?.endsWith('/feature-rx-notify') && args.length === 1)).toBe(false);
  });

  test.each([2, 8, 9])('refuses state %i, which a frontend never has', async (state) => {
    await says('vif/0', {}, state);
    expect([await error(), vifStates()]).toEqual([`22 saw state ${state} at frontend`, ['2', '5']]);
  });

  test('a rate that it cannot read is no limit', async () => {
    await m.run(m.ctx.xs.write(`${backend('vif', 0)}/rate`, 'fast'));
    await says('vif/0', await vifRing(), 4);
    expect(dmesg().join('\n')).toContain('xen_netback:xen_net_read_rate: Failed to parse network rate limit. Traffic unlimited.');
    expect(vifStates()).toEqual(['2', '4']);
  });
});

describe('a vif that the toolstack wrote wrongly', () => {
  const good = { script: '/etc/xen/scripts/vif-bridge', handle: '0', mac: '00:16:3e:00:00:01' };

  async function vif(devid: number, nodes: Readonly<Record<string, string>>): Promise<void> {
    await m.run(
      m.ctx.xs.transaction(async (tx) => {
        await tx.write(`${frontend(`vif/${devid}`)}/state`, '1');
        const all = { frontend: frontend(`vif/${devid}`), 'frontend-id': '9', online: '1', ...nodes, state: '1' };
        for (const [name, value] of Object.entries(all)) await tx.write(`${backend('vif', devid)}/${name}`, value);
      }),
    );
    await m.settle();
  }

  test.each([
    ['without a script', { handle: '0' }, 'reading script', 2],
    ['without a handle', { script: '/x' }, 'reading handle', 2],
    ['with a handle that is no number', { script: '/x', handle: 'one' }, 'reading handle', 34],
  ])('%s closes, is told of twice, and leaves no network device', async (_how, nodes, why, code) => {
    m = await machine();
    domid = 9;
    await vif(0, nodes);
    const told = dmesg().filter((line) => line.includes('vif vif-9-0'));
    expect(told.map((line) => line.replace(/^\[.*?\] /, ''))).toEqual([
      `vif vif-9-0: ${code} ${why}`,
      `vif vif-9-0: ${code} xenbus_dev_probe on backend/vif/9/0`,
    ]);
    expect(await read(`${backend('vif', 0)}/state`)).toBe('5');
    expect(m.uevents.map(({ action }) => action)).toEqual(['add']);
    expect(m.log).toEqual([]);
  });

  test('as another of the same handle is refused, and may come when that one is gone', async () => {
    m = await machine();
    domid = 9;
    await vif(0, good);
    await vif(1, good);
    expect(
      dmesg()
        .filter((line) => line.includes('vif-9-1'))
        .map((line) => line.replace(/^\[.*?\] /, '')),
    ).toEqual([
      'vif vif-9-1 vif9.0: Could not register device: err=-17',
      'vif vif-9-1: 17 creating interface',
      'vif vif-9-1: 17 xenbus_dev_probe on backend/vif/9/1',
    ]);
    for (const devid of [1, 0]) await m.run(m.ctx.xs.rm(backend('vif', devid)));
    await m.settle();
    await vif(1, good);
    expect(await read(`${backend('vif', 1)}/state`)).toBe('2');
  });
});

test('user space is told of every device, with its variables', async () => {
  await paused();
  await m.run(domainDestroy(m.ctx, domid));
  const of = (type: string, id: string) => ({
    MODALIAS: `xen-backend:${type}`,
    XENBUS_TYPE: type,
    XENBUS_PATH: `backend/${type}/1/${id}`,
    XENBUS_BASE_PATH: 'backend',
  });
  const netdev = { script: '/etc/xen/scripts/vif-bridge', vif: 'vif1.0' };
  const told = (action: string, type: string, id: string, more = {}) => ({
    action,
    subsystem: 'xen-backend',
    device: `${type}-1-${id}`,
    env: { ...of(type, id), ...more },
  });
  expect(m.uevents).toEqual([
    told('add', 'vbd', '51712'),
    told('bind', 'vbd', '51712'),
    told('add', 'console', '0'),
    told('add', 'vif', '0'),
    told('online', 'vif', '0', netdev),
    told('bind', 'vif', '0', netdev),
    told('unbind', 'vbd', '51712'),
    told('remove', 'vbd', '51712'),
    told('remove', 'console', '0'),
    told('offline', 'vif', '0', netdev),
    told('unbind', 'vif', '0'),
    told('remove', 'vif', '0'),
  ]);
});

describe('a running guest', () => {
  beforeEach(async () => {
    await paused();
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
  });

  test('acknowledges a shutdown, closes its devices, last one first, and stops', async () => {
    const from = m.trace.length;
    await m.run(domainShutdown(m.ctx, domid));
    await m.settle();
    const states = m.trace
      .slice(from)
      .filter(({ who, op, args }) => who === 'domU-kernel' && op === 'WRITE' && args[0]?.endsWith('/state'));
    expect(states.map(({ args }) => args.join(' '))).toEqual([
      'device/vif/0/state 5',
      'device/vif/0/state 6',
      'device/vbd/51712/state 5',
      'device/vbd/51712/state 6',
    ]);
    expect(m.dom0.handlers['xc.domain_getinfo']({ domid })).toMatchObject({ shutdown: 0, dying: false });
    expect(await read(`${backend('vbd', 51712)}/state`)).toBe('6');
  });

  test('ignores a request that it does not know, and leaves it unacknowledged', async () => {
    await m.run(m.ctx.xs.write(`/local/domain/${domid}/control/shutdown`, 'dance'));
    await m.settle();
    expect(await read(`/local/domain/${domid}/control/shutdown`)).toBe('dance');
    expect(m.dom0.handlers['xc.domain_getinfo']({ domid })).toMatchObject({ shutdown: null });
  });

  test('does not answer while it is paused, and goes on where it was', async () => {
    await m.run(m.ctx.xc.call('xc.domain_pause', { domid }));
    await m.run(m.ctx.xs.write(`/local/domain/${domid}/control/shutdown`, 'poweroff'));
    await m.settle();
    expect(await read(`/local/domain/${domid}/control/shutdown`)).toBe('poweroff');
    await m.run(m.ctx.xc.call('xc.domain_unpause', { domid }));
    await m.settle();
    expect(await read(`/local/domain/${domid}/control/shutdown`)).toBe('');
  });

  test('a guest that may not write its own state any more says so in vain, and goes on', async () => {
    const node = frontend('vif/0');
    await m.run(
      m.ctx.xs.setPerms(`${node}/state`, [
        { domid: 0, read: false, write: false },
        { domid, read: true, write: false },
      ]),
    );
    await m.run(m.ctx.xs.write(`${backend('vif', 0)}/state`, '5'));
    await m.settle();
    expect(await read(`${node}/state`)).toBe('4');
    await m.run(m.ctx.xs.rm(node));
    await m.run(m.ctx.xs.rm(backend('vif', 0)));
    m.clock.advance(10_000);
    await m.run(domainShutdown(m.ctx, domid));
    expect([await read(`${frontend('vbd/51712')}/state`), m.log]).toEqual(['6', []]);
  });

  test('a guest whose backend is removed behind its back goes on', async () => {
    await m.run(m.ctx.xs.rm(backend('vif', 0)));
    await m.settle();
    await m.run(domainShutdown(m.ctx, domid));
    expect(m.log).toEqual([]);
  });

  test('what a guest writes again and again waits once, while its domain is stalled (XSA-349)', async () => {
    m.dom0.handlers['dom0.hold']({ device: `vif${domid}.0`, mode: 'inflight' });
    const guest = m.connect('client', domid);
    await m.run(guest.write('device/vif/0/state', '5'));
    await m.settle();
    const waiting = () => m.threads().find(({ domid: of }) => of === domid)?.pending;
    for (let times = 0; times < 50; times++) {
      await m.run(guest.write('device/vif/0/state', String(4 + (times % 2))));
      await m.run(guest.write('device/vif/0/request-multicast-control', String(times)));
      await m.run(guest.write('device/vbd/51712/state', String(4 + (times % 2))));
    }
    await m.settle();
    // One of each vif and vbd state; the multicast watch was unregistered when the disconnecting began.
    expect(waiting()).toBe(2);
  });

  test('a paused guest is not told the same thing twice', async () => {
    await m.run(m.ctx.xc.call('xc.domain_pause', { domid }));
    for (let times = 0; times < 500; times++) await m.run(m.ctx.xs.write(`/local/domain/${domid}/memory/target`, String(times)));
    const from = m.trace.length;
    await m.run(m.ctx.xc.call('xc.domain_unpause', { domid }));
    await m.settle();
    const reads = m.trace
      .slice(from)
      .filter(({ who, op, args }) => who === 'domU-kernel' && op === 'READ' && args[0] === 'memory/target');
    expect(reads.length).toBeLessThanOrEqual(ringPacketsMax + 1);
    expect(reads.at(-1)?.result).toBe('499');
  });

  test('pages that a guest grants for good stay mapped, once each, until it disconnects', async () => {
    const mapped = () => m.dom0.hypervisor.get(domid)?.mappings ?? 0;
    const port = Number(await read(`${frontend('vbd/51712')}/queue-1/event-channel`));
    const before = mapped();
    for (const request of [[100, 101], [101, 102], [100]]) m.dom0.hypervisor.evtchnSend(domid, port, request);
    await m.settle();
    expect(mapped() - before).toBe(3);
    await says('vbd/51712', {}, 6);
    // Two rings, and the page of the guest's own first read, are gone as well.
    expect(mapped() - before).toBe(-3);
    expect(kernelThreads()).not.toContain(`${domid}.xvda-0`);
  });

  test('no more than 1056 pages of a ring stay mapped', async () => {
    const mapped = () => m.dom0.hypervisor.get(domid)?.mappings ?? 0;
    const port = Number(await read(`${frontend('vbd/51712')}/queue-1/event-channel`));
    const before = mapped();
    for (let first = 0; first < 2000; first += 100) {
      m.dom0.hypervisor.evtchnSend(
        domid,
        port,
        Array.from({ length: 100 }, (_, index) => 5000 + first + index),
      );
    }
    await m.settle();
    expect(mapped() - before).toBe(1056);
    await m.run(domainDestroy(m.ctx, domid));
    expect([m.dom0.domains, m.log]).toEqual([0, []]);
  });

  test('a vif that hung leaves its bridge when it goes', async () => {
    m.dom0.handlers['dom0.hold']({ device: `vif${domid}.0`, mode: 'inflight' });
    await m.run(domainDestroy(m.ctx, domid));
    expect(dmesg().join('\n')).not.toContain('left promiscuous mode');
    m.dom0.handlers['dom0.flush']({});
    await m.settle();
    expect(dmesg().join('\n')).toContain(`device vif${domid}.0 left promiscuous mode`);
  });

  test('a guest that gives up on a backend that hangs stops all the same', async () => {
    m.dom0.handlers['dom0.hold']({ device: `vif${domid}.0`, mode: 'inflight' });
    m.dom0.guestStops(domid, 'poweroff');
    await m.settle();
    expect(m.dom0.handlers['xc.domain_getinfo']({ domid })).toMatchObject({ shutdown: null });
    for (const _device of ['vif', 'vbd']) {
      m.clock.advance(5_000);
      await m.settle();
    }
    expect(m.dom0.handlers['xc.domain_getinfo']({ domid })).toMatchObject({ shutdown: 0 });
  });

  test('what hangs and is destroyed meanwhile brings no removed node back when it is let go', async () => {
    m.dom0.handlers['dom0.hold']({ device: `vbd-${domid}-51712`, mode: 'inflight' });
    m.dom0.handlers['dom0.hold']({ device: `vif-${domid}-0`, mode: 'inflight' });
    await m.run(domainDestroy(m.ctx, domid));
    m.dom0.handlers['dom0.flush']({});
    await m.settle();
    expect(await read('/local/domain/0/backend')).toBeUndefined();
    expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch']);
  });

  test('a request in flight stalls the removal in the frames of scenario 2', async () => {
    m.dom0.handlers['dom0.hold']({ device: `vbd-${domid}-51712`, mode: 'inflight' });
    await m.run(domainDestroy(m.ctx, domid));
    const stack = m.threads().find(({ state }) => state === 'D')?.running?.stack ?? [];
    const frames = stack.map((line) => line.replace('[<0>] ', '').replace(/ \[.*\]$/, ''));
    const scenario2 = [
      'kthread_stop',
      'xen_blkif_disconnect',
      'xen_blkbk_remove',
      'xenbus_dev_remove',
      '__device_release_driver',
      'device_release_driver',
      'bus_remove_device',
      'device_del',
      'device_unregister',
      'frontend_changed',
      'xenbus_otherend_changed',
      'frontend_changed',
    ];
    expect(frames.slice(0, scenario2.length)).toEqual(scenario2);
  });

  test('a task that hangs for two periods is reported with its stack, again each period', async () => {
    m.dom0.handlers['dom0.hold']({ device: `vif${domid}.0`, mode: 'inflight' });
    await m.run(domainDestroy(m.ctx, domid));
    for (let period = 0; period < 3; period++) {
      m.clock.advance(120_000);
      await m.settle();
    }
    const reports = dmesg().filter((line) => line.includes('INFO: task'));
    expect(reports.map((line) => line.replace(/^\[.*?\] /, '').replace(/:\d+ /, ':PID '))).toEqual([
      'INFO: task xen-mtwatch-1:PID blocked for more than 120 seconds.',
      'INFO: task xen-mtwatch-1:PID blocked for more than 240 seconds.',
    ]);
    expect(dmesg().filter((line) => line.includes('kthread_stop'))).toHaveLength(2);
  });
});

test('dom0 acknowledges that it is to shut down, and stays', async () => {
  m = await machine();
  await m.run(domainShutdown(m.ctx, 0));
  expect(dmesg().join('\n')).toContain('xen:manage: poweroff requested; dom0 stays');
  expect(m.dom0.handlers['xc.domain_getinfo']({ domid: 0 })).toMatchObject({ shutdown: null, running: true });
});

test('there are ten hung-task reports, and no more', async () => {
  await paused();
  m.dom0.handlers['dom0.hold']({ device: `vbd-${domid}-51712`, mode: 'connect' });
  await m.run(m.ctx.xc.call('xc.domain_unpause', { domid }));
  await m.settle();
  for (let period = 0; period < 15; period++) {
    m.clock.advance(120_000);
    await m.settle();
  }
  expect(dmesg().filter((line) => line.includes('INFO: task'))).toHaveLength(10);
});

describe('holds', () => {
  beforeEach(async () => {
    m = await machine();
    domid = 0;
  });

  test.each([
    ['eth0', 'inflight', 'eth0 names no device'],
    ['vif1.0', 'connect', 'only a vbd writes back when it connects; hold a vif without --connect'],
    ['vif1.0', 'io', 'a vif has packets, not requests; hold it without --io'],
    ['vif1.0', 'bio', 'a vif has packets, not requests; hold it without --bio'],
    ['vif1.0', 'grants', 'a vif keeps no page after its packet; hold it without --grants'],
    ['vif01.0', 'inflight', 'vif01.0 names no device'],
  ] as const)('%s %s is refused: %s', (device, mode, why) => {
    expect(() => m.dom0.handlers['dom0.hold']({ device, mode })).toThrow(why);
  });

  test('what a vbd has in flight is a request', () => {
    m.dom0.handlers['dom0.hold']({ device: 'vbd-3-51712', mode: 'inflight' });
    expect(m.dom0.handlers['dom0.holds']({})).toEqual([{ device: 'vbd-3-51712', mode: 'io', stalled: false }]);
  });

  test('both names of a vif are one hold; flushing what is not held is an error', () => {
    m.dom0.handlers['dom0.hold']({ device: 'vif3.0', mode: 'inflight' });
    expect(() => m.dom0.handlers['dom0.hold']({ device: 'vif-3-0', mode: 'inflight' })).toThrow('on hold already');
    expect(m.dom0.handlers['dom0.holds']({})).toEqual([{ device: 'vif-3-0', mode: 'inflight', stalled: false }]);
    expect(m.dom0.handlers['dom0.flush']({ device: 'vif3.0' })).toHaveLength(1);
    expect(() => m.dom0.handlers['dom0.flush']({ device: 'vif3.0' })).toThrow('not on hold');
  });
});
