/**
 * The RFC's stalls, with one watch thread and with one a domain: a packet that never comes back (scenario 1), a request
 * that never gets into the block layer (2), a granted page that stays in use (3), and a write-back that never ends while
 * the frontend connects (what a real host was made to do).
 */
import { CreateError, domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainPause, domainUnpause } from '../../src/libxl/domain.js';
import { heldDevice } from '../../src/xenbus/fault.js';
import { waitsFor } from '../../src/xenbus/kernel/sched.js';
import type { Hold } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';
import { failedCreate, failedDestroy } from '../rfc-lines.js';

let m: Machine;
afterEach(() => m.dom0.close());

/** Creates a domain as `xl create` does, its second destroy after a failure included. */
async function create(name: string): Promise<{ domid: number | undefined; rc: number }> {
  try {
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig(name)));
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    return { domid, rc: 0 };
  } catch (error) {
    if (!(error instanceof CreateError) || error.domid === undefined) throw error;
    await m.run(domainDestroy(m.ctx, error.domid)).catch(() => undefined);
    return { domid: undefined, rc: error.rc };
  }
}

const destroy = (domid: number) => m.run(domainDestroy(m.ctx, domid));
const hold = (device: string, mode: Hold['mode']) => m.dom0.handlers['dom0.hold']({ device, mode });
const flush = () => m.dom0.handlers['dom0.flush']({});
const info = (domid: number) => m.dom0.handlers['xc.domain_getinfo']({ domid });
const takeLines = () => m.lines.splice(0);
/** Those that are not always there. */
const leftTasks = () =>
  tasks().flatMap(({ name }) => (/^(xenbus|xenwatch|mtwatch|xen-balloon|kworker.*)$/.test(name) ? [] : [name]));
const tasks = () => [...m.dom0.kernel.sched.tasks].filter(({ home }) => home === m.dom0.kernel.home);
const stuck = () => m.threads().filter(({ state }) => state === 'D');

/** Innermost first, as the RFC's cover letter has them for scenario 1. */
const scenario1 = ['kthread_stop', 'xenvif_disconnect_data', 'set_backend_state', 'frontend_changed'];
/** As a real host's /proc/PID/stack had them. */
const writeBack = [
  'folio_wait_bit_common',
  'folio_wait_writeback',
  '__filemap_fdatawait_range',
  'filemap_write_and_wait_range',
  'xen_update_blkif_status',
];

/** Those of `names` that stand in the stack, in its order. */
const framesIn = (stack: readonly string[] | undefined, names: readonly string[]) => {
  const frames = (stack ?? []).map((line) => line.replace('[<0>] ', '').replace(/ \[.*\]$/, ''));
  return names.filter((name, index) => frames.indexOf(name) > (index === 0 ? -1 : frames.indexOf(names[index - 1] ?? '')));
};

describe('with one watch thread, a held packet', () => {
  test("stalls the domain's destruction and every later creation, until it is let go", async () => {
    m = await machine({ cmdline: '' });
    const before = await m.store();
    await create('one');
    hold('vif1.0', 'inflight');
    const start = m.clock.now();
    await destroy(1);
    expect(m.clock.now() - start).toBe(10_000);
    expect(takeLines()).toEqual(failedDestroy(1, 'vif/1/0'));
    expect(info(1)).toMatchObject({ dying: true, paused: true, currentKb: 0 });
    expect(stuck().map(({ thread }) => thread)).toEqual(['xenwatch']);
    expect(framesIn(stuck()[0]?.running?.stack, [...scenario1, 'xenwatch_thread', 'kthread', 'ret_from_fork'])).toHaveLength(7);

    expect(await create('two')).toEqual({ domid: undefined, rc: -3 });
    expect(takeLines()).toEqual(failedCreate(2));
    expect(info(2)).toBeNull();

    flush();
    await m.settle();
    expect(info(1)).toBeNull();
    expect(await create('three')).toEqual({ domid: 3, rc: 0 });
    await destroy(3);
    expect({ lines: takeLines(), store: await m.store(), stuck: stuck() }).toEqual({
      lines: [],
      store: [...before, ...['/vm = ""   (n0)', '/libxl = ""   (n0)']],
      stuck: [],
    });
  });
});

describe('with one watch thread a domain, a held packet', () => {
  test('stalls its own domain alone', async () => {
    m = await machine();
    const before = await m.store();
    await create('one');
    hold('vif1.0', 'inflight');
    await destroy(1);
    expect(takeLines()).toEqual(failedDestroy(1, 'vif/1/0'));
    const names = Array.from({ length: 10 }, (_, index) => `other-${index}`);
    const others = await Promise.all(names.map((name) => m.run(domainCreateNew(m.ctx, pvConfig(name)))));
    for (const domid of others) await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    expect(stuck().map(({ thread, retiring, node }) => ({ thread, retiring, node }))).toEqual([
      { thread: 'xen-mtwatch-1', retiring: true, node: false },
    ]);
    await Promise.all(others.map(destroy));
    expect(takeLines()).toEqual([]);
    expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch', 'xen-mtwatch-1']);

    flush();
    await m.settle();
    expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch']);
    expect(m.dom0.domains).toBe(0);
    expect((await m.store()).filter((line) => !before.includes(line))).toEqual(['/vm = ""   (n0)', '/libxl = ""   (n0)']);
  });
});

describe.each([
  ['one watch thread', ''],
  ['one watch thread a domain', 'xen_mtwatch'],
])('with %s, a write-back that never ends', (_title, cmdline) => {
  test('hangs the thread that connects the frontend, in the frames of a real host', async () => {
    m = await machine({ cmdline });
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig('stall')));
    hold(`vbd-${domid}-51712`, 'connect');
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    const [thread] = stuck();
    const entry = cmdline === '' ? 'xenwatch_thread' : 'mtwatch_thread';
    expect(framesIn(thread?.running?.stack, [...writeBack, entry, 'kthread', 'ret_from_fork'])).toHaveLength(8);
    expect(await m.run(m.ctx.xs.read(`/local/domain/0/backend/vbd/${domid}/51712/state`))).toBe('4');

    const other = await create('other');
    expect(other.rc).toBe(cmdline === '' ? -3 : 0);
    takeLines();
    await destroy(domid);
    expect(takeLines()).toEqual(failedDestroy(domid, `vbd/${domid}/51712`, `vif/${domid}/0`));
    flush();
    await m.settle();
    if (other.domid !== undefined) await destroy(other.domid);
    expect({ lines: takeLines(), domains: m.dom0.domains, threads: m.threads().map(({ thread }) => thread) }).toEqual({
      lines: [],
      domains: 0,
      threads: ['xenwatch'],
    });
  });
});

describe('a guest whose disk hangs as it connects', () => {
  const read = (domid: number, node: string) => m.run(m.ctx.xs.read(`/local/domain/${domid}/${node}`));
  /** What it has of its vif: whether it watches the back end's state, and its own state. */
  const vif = async (domid: number) => [
    m.trace.some(({ who, op, args }) => who === 'domU-kernel' && op === 'WATCH' && args[0]?.includes(`/vif/${domid}/0/`)),
    await read(domid, 'device/vif/0/state'),
  ];

  async function hung(): Promise<number> {
    m = await machine();
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig('stall')));
    hold(`vbd-${domid}-51712`, 'connect');
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    return domid;
  }

  test('waits in its own watch thread, and has no network, until the disk answers', async () => {
    const domid = await hung();
    await m.run(m.ctx.xs.write(`/local/domain/${domid}/control/shutdown`, 'poweroff'));
    await m.settle();
    expect([await read(domid, 'device/vbd/51712/state'), ...(await vif(domid))]).toEqual(['4', false, '1']);
    expect([await read(domid, 'control/shutdown'), info(domid)]).toMatchObject(['poweroff', { shutdown: null }]);
    flush();
    await m.settle();
    expect([await read(domid, 'control/shutdown'), info(domid)]).toMatchObject(['', { shutdown: 0 }]);
  });

  test('has its network when the disk answers', async () => {
    const domid = await hung();
    flush();
    await m.settle();
    expect(await vif(domid)).toEqual([true, '4']);
  });

  test('loads the next driver after five minutes all the same', async () => {
    const domid = await hung();
    m.clock.advance(299_999);
    await m.settle();
    expect(await vif(domid)).toEqual([false, '1']);
    m.clock.advance(1);
    await m.settle();
    expect(await vif(domid)).toEqual([true, '1']);
  });
});

test('a paused domain answers while every watch callback hangs', async () => {
  m = await machine({ cmdline: '' });
  const { domid = 0 } = await create('one');
  hold('vif1.0', 'inflight');
  const other = await create('two');
  await destroy(domid);
  const start = m.clock.now();
  await m.run(domainPause(m.ctx, other.domid ?? 0));
  expect({ waited: m.clock.now() - start, paused: info(other.domid ?? 0) }).toMatchObject({
    waited: 0,
    paused: { paused: true },
  });
});

/** Innermost first, as the RFC's cover letter has them; [brackets] are its modules, left out there. */
const removal = [
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
const scenario2 = ['kthread_stop', 'xen_blkif_disconnect', ...removal];
const scenario3 = ['gnttab_unmap_refs_sync', 'free_persistent_gnts', 'xen_blkbk_free_caches', 'xen_blkif_disconnect', ...removal];

const plain = (stack: readonly string[] | undefined) =>
  (stack ?? []).map((line) => line.replace('[<0>] ', '').replace(/ \[.*\]$/, ''));

describe.each([
  ['one watch thread', '', ['xenwatch', 'xenwatch_thread']],
  ['one watch thread a domain', 'xen_mtwatch', ['xen-mtwatch-1', 'mtwatch_thread']],
] as const)('with %s,', (_title, cmdline, [name, entry]) => {
  beforeEach(async () => {
    m = await machine({ cmdline });
    await create('one');
  });

  const ended = [entry, 'kthread', 'ret_from_fork'];

  test.each([
    ['a request that never gets into the block layer', 'io', scenario2],
    ['a granted page that stays in use', 'grants', scenario3],
  ] as const)('%s stalls the destruction in the frames of the RFC, and heals', async (_what, mode, frames) => {
    const before = await m.store();
    expect(hold('vbd-1-51712', mode)).toEqual({ device: 'vbd-1-51712', mode, stalled: false });
    const start = m.clock.now();
    await destroy(1);
    expect(takeLines().slice(0, 1)).toEqual(failedDestroy(1, 'vbd/1/51712').slice(0, 1));
    expect(m.clock.now() - start).toBeGreaterThanOrEqual(10_000);
    expect(stuck().map(({ thread }) => thread)).toEqual([name]);
    expect(plain(stuck()[0]?.running?.stack)).toEqual([...frames, ...ended]);
    expect(stuck()[0]?.running?.stack[1]).toMatch(/ \[xen_blkback\]$/);
    expect(m.dom0.handlers['dom0.holds']({})).toEqual([{ device: 'vbd-1-51712', mode, stalled: true }]);
    expect(info(1)).toMatchObject({ dying: true });

    const other = await create('two');
    expect(other.rc).toBe(cmdline === '' ? -3 : 0);
    takeLines();
    expect(flush()).toEqual([{ device: 'vbd-1-51712', mode, stalled: true }]);
    m.clock.advance(60_000);
    await m.settle();
    if (other.domid !== undefined) await destroy(other.domid);
    const left = (await m.store()).filter((line) => !before.includes(line));
    expect({ stuck: stuck(), domains: m.dom0.domains, threads: m.threads().map(({ thread }) => thread), left }).toEqual({
      stuck: [],
      domains: 0,
      threads: ['xenwatch'],
      left: [],
    });
    expect([m.log, takeLines(), m.dom0.handlers['dom0.holds']({})]).toEqual([[], [], []]);
    expect(leftTasks()).toEqual([]);
  });

  test('pages that stay in use are looked at again, a little later each time, and only then given up', async () => {
    hold('vbd-1-51712', 'grants');
    await destroy(1);
    flush();
    await m.settle();
    expect(stuck().map(({ thread }) => thread)).toEqual([name]);
    m.clock.advance(1_000);
    await m.settle();
    expect([stuck(), m.dom0.domains]).toEqual([[], 0]);
  });

  test('a request that never ends stalls nobody; its domain is a zombie until it does', async () => {
    hold('vbd-1-51712', 'bio');
    const start = m.clock.now();
    await destroy(1);
    expect([takeLines(), m.clock.now() - start, stuck()]).toEqual([[], 0, []]);
    expect(info(1)).toMatchObject({ dying: true });
    expect(await create('two')).toEqual({ domid: 2, rc: 0 });
    flush();
    await m.settle();
    expect(info(1)).toBeNull();
    await destroy(2);
    expect([m.dom0.domains, m.log, takeLines()]).toEqual([0, [], []]);
    expect(leftTasks()).toEqual([]);
  });

  test('a frontend that comes back while a request of its former life is in flight is refused: pending I/O', async () => {
    hold('vbd-1-51712', 'bio');
    for (const state of ['6', '1', '3']) {
      await m.run(m.ctx.xs.write('/local/domain/1/device/vbd/51712/state', state));
      await m.settle();
    }
    expect(await m.run(m.ctx.xs.read('/local/domain/0/error/backend/vbd/1/51712/error'))).toBe('16 pending I/O');
    expect(await m.run(m.ctx.xs.read('/local/domain/0/backend/vbd/1/51712/state'))).toBe('5');
    flush();
    await m.settle();
    await destroy(1);
    expect([m.dom0.domains, m.log]).toEqual([0, []]);
  });

  test('a vbd that closes by itself stalls without the frames of a removal', async () => {
    hold('vbd-1-51712', 'io');
    await m.run(m.ctx.xs.write('/local/domain/1/device/vbd/51712/state', '6'));
    await m.settle();
    expect(plain(stuck()[0]?.running?.stack)).toEqual([
      'kthread_stop',
      'xen_blkif_disconnect',
      'frontend_changed',
      'xenbus_otherend_changed',
      'frontend_changed',
      ...ended,
    ]);
    flush();
    await m.settle();
    expect(await m.run(m.ctx.xs.read('/local/domain/0/backend/vbd/1/51712/state'))).toBe('6');
  });

  test('two held devices are let go one at a time', async () => {
    hold('vbd-1-51712', 'io');
    hold('vif1.0', 'inflight');
    await destroy(1);
    m.dom0.handlers['dom0.flush']({ device: 'vif1.0' });
    await m.settle();
    expect(plain(stuck()[0]?.running?.stack).slice(0, 2)).toEqual(['kthread_stop', 'xen_blkif_disconnect']);
    m.dom0.handlers['dom0.flush']({ device: 'vbd-1-51712' });
    await m.settle();
    expect([stuck(), m.dom0.domains]).toEqual([[], 0]);
  });
});

test('of a frontend that grants nothing for good, no page is waited for', async () => {
  m = await machine();
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig('one')));
  const { port } = await m.ctx.xc.call('xc.evtchn_alloc_unbound', { domid, remote: 0 });
  const dir = `/local/domain/${domid}/device/vbd/51712`;
  for (const [node, value] of [
    ['ring-ref', 8],
    ['event-channel', port],
    ['feature-persistent', 0],
    ['state', 3],
  ] as const) {
    await m.run(m.ctx.xs.write(`${dir}/${node}`, String(value)));
  }
  await m.settle();
  hold(`vbd-${domid}-51712`, 'grants');
  await destroy(domid);
  expect([takeLines(), m.dom0.domains]).toEqual([[], 0]);
});

test.each([
  ['vif-1-0', 'inflight', ['xen-mtwatch-1', 'vif1.0-q0-dealloc']],
  ['vbd-1-51712', 'io', ['xen-mtwatch-1', '1.xvda-0']],
  ['vbd-1-51712', 'grants', ['xen-mtwatch-1']],
] as const)('the chain of who waits for whom ends at the held device: %s, %s', async (device, mode, names) => {
  m = await machine();
  await create('one');
  hold(device, mode);
  hold('vif-9-0', 'inflight');
  await destroy(1);
  const watcher = tasks().find(({ name }) => name === 'xen-mtwatch-1');
  const chain = watcher ? waitsFor(watcher) : [];
  const queue = chain.at(-1)?.waitingOn;
  expect(chain.map(({ name }) => name)).toEqual(names);
  expect(queue && heldDevice(queue)).toBe(device);
});
