/**
 * The posted patch as a whole machine: what a BUG in it leaves of dom0 (round 45 of `71-frontend-toggle-fast`, in part 4.10 of
 * the facts), and a life of domains without one.
 */
import { CreateError, domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { rcuStallAgainMs, rcuStallMs } from '../../src/xenbus/kernel/oops.js';
import { type KTask, waitsFor } from '../../src/xenbus/kernel/sched.js';
import type { KernelLog } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';
import { failedCreate } from '../rfc-lines.js';

let m: Machine;
afterEach(() => m.dom0.close());

/** The log without times. */
const log = () =>
  (m.dom0.handlers['dom0.dmesg']({ clear: false }) as KernelLog).lines.map((line) => line.replace(/^\[.*?\] /, ''));
const task = (name: string): KTask | undefined => [...m.dom0.kernel.sched.tasks].find((each) => each.name === name);
const write = (path: string, value: string) => m.run(m.ctx.xs.write(path, value));
const front = '/local/domain/1/device/vif/0';
const back = '/local/domain/0/backend/vif/1/0';

async function frontend(state: number): Promise<void> {
  await write(`${front}/state`, String(state));
  await m.settle();
}

const isUnregistering = (each: KTask) => each.stack.at(-1) === 'unregister_xenbus_watch';
/** Who runs meanwhile, so that somebody else can be kept waiting although nobody else can go on. */
const decoy = 'decoy';

/**
 * U2: the domain's thread connects anew and takes back its watch of hotplug-status, while xenwatch runs the callback of
 * that watch and takes it back too. Both have looked whether it is there before either has begun.
 */
async function race(): Promise<void> {
  let racing = false;
  const racers = ['xenwatch', 'xen-mtwatch-1'];
  m = await machine({
    cmdline: 'xen_mtwatch=rfc',
    choose: (ready) => {
      if (!racing) return 0;
      const isHeld = (each: KTask) => racers.includes(each.name) && isUnregistering(each);
      const free = ready.findIndex((each) => each.name !== decoy && !isHeld(each));
      return free >= 0 ? free : ready.findIndex(({ name }) => name === decoy);
    },
  });
  await m.run(domainCreateNew(m.ctx, pvConfig('one')));
  const { port } = await m.ctx.xc.call('xc.evtchn_alloc_unbound', { domid: 1, remote: 0 });
  for (const [node, value] of [
    ['tx-ring-ref', 9],
    ['rx-ring-ref', 10],
    ['event-channel', port],
    ['request-rx-copy', 1],
  ] as const) {
    await write(`${front}/${node}`, String(value));
  }
  await m.run(m.ctx.xs.rm(`${back}/hotplug-status`));
  for (const state of [4, 6, 1]) await frontend(state);
  racing = true;
  m.dom0.kernel.spawn(decoy, decoy, function* (self) {
    while (!racers.every((name) => isUnregistering(task(name) ?? self))) {
      self.spins = 0;
      yield undefined;
    }
    racing = false;
  });
  await Promise.all([m.ctx.xs.write(`${front}/state`, '4'), m.ctx.xs.write(`${back}/hotplug-status`, 'connected')]);
  await m.settle();
}

const released = '6.1.0-56-amd64 #1  Debian 6.1.192-2';
const died = (pid: number) => [
  '------------[ cut here ]------------',
  'kernel BUG at drivers/xen/xenbus/xenbus_xs.c:1180!',
  'invalid opcode: 0000 [#1] PREEMPT SMP NOPTI',
  `CPU: 0 PID: ${pid} Comm: xen-mtwatch-1 Not tainted ${released}`,
  'RIP: e030:unregister_xenbus_watch',
  'Call Trace:',
  ' <TASK>',
  ...['connect', 'set_backend_state', 'frontend_changed'].map((name) => ` ${name} [xen_netback]`),
  ...['xenbus_otherend_changed', 'frontend_changed', 'mtwatch_thread', 'kthread', 'ret_from_fork'].map((name) => ` ${name}`),
  ' </TASK>',
  '---[ end trace 0000000000000000 ]---',
  `note: xen-mtwatch-1[${pid}] exited with preempt_count 1`,
];
const stalled = (pid: number, seconds: number) => [
  'rcu: INFO: rcu_sched self-detected stall on CPU',
  `\t(t=${seconds * 250} jiffies)`,
  `CPU: 0 PID: ${pid} Comm: xenbus Tainted: G      D            ${released}`,
  'RIP: e030:queued_spin_lock_slowpath',
  'Call Trace:',
  ' <TASK>',
  ...['xs_watch_msg', 'xenbus_thread', 'kthread', 'ret_from_fork'].map((name) => ` ${name}`),
  ' </TASK>',
];

/** A task of dom0's kernel that asks the store for something, and whether it has been answered. */
async function asking(): Promise<KTask> {
  const { kernel } = m.dom0;
  const asker = kernel.spawn('asker', 'asker', function* () {
    yield* kernel.read('domid');
  });
  await m.settle();
  return asker;
}

async function pass(ms: number): Promise<string[]> {
  const before = log().length;
  m.clock.advance(ms);
  await m.settle();
  return log().slice(before);
}

describe('U2: two threads take back one watch of hotplug-status', () => {
  beforeEach(race);

  test('the thread of the domain dies of the BUG as in Linux, with the locks that it has', async () => {
    const [dead] = m.dom0.dead;
    const why = 'kernel BUG at drivers/xen/xenbus/xenbus_xs.c:1180!';
    const holds = ['domain_mutex of 1', 'xs_watch_rwsem', 'watches_lock'];
    expect(m.dom0.dead).toEqual([{ thread: 'xen-mtwatch-1', pid: expect.any(Number), why, holds }]);
    const pid = dead?.pid ?? 0;
    expect(log().slice(-died(pid).length)).toEqual(died(pid));
    expect(m.log).toEqual([`dom 0: kernel BUG in xen-mtwatch-1:${pid}: ${why}`]);
    expect(m.threads().map(({ thread, state }) => `${thread} ${state}`)).toEqual(['xenwatch S', 'xen-mtwatch-1 X']);
    expect((await asking()).exited).toBe(true);
  });

  test('at the next event the reader of the ring spins: no reply comes any more, and it is reported again and again', async () => {
    const ring = task('xenbus');
    const { pid = 0 } = ring ?? {};
    await write('/local/domain/0/mtwatch/9', '');
    expect(ring && waitsFor(ring).map(({ name, exited }) => [name, exited])).toEqual([
      ['xenbus', false],
      ['xen-mtwatch-1', true],
    ]);
    expect(await pass(rcuStallMs - 1)).toEqual([]);
    expect(await pass(1)).toEqual(stalled(pid, 21));
    expect(await pass(rcuStallAgainMs - 1)).toEqual([]);
    expect(await pass(1)).toEqual(stalled(pid, 84));

    const asker = await asking();
    const reported = await pass(2 * 120_000);
    expect([asker.exited, asker.state, asker.stack.at(-1)]).toEqual([false, 'D', 'xs_wait_for_reply']);
    expect(reported.filter((line) => /self-detected|INFO: task/.test(line)).map((line) => line.replace(/:\d+ /, ' '))).toEqual([
      'rcu: INFO: rcu_sched self-detected stall on CPU',
      'rcu: INFO: rcu_sched self-detected stall on CPU',
      'INFO: task asker blocked for more than 120 seconds.',
      'rcu: INFO: rcu_sched self-detected stall on CPU',
    ]);
    expect(reported).toContain('      Tainted: G      D            6.1.0-56-amd64 #1 Debian 6.1.192-2');
    expect(m.dom0.dead).toHaveLength(1);
  });

  test('a create fails as in a stall; who asks the store or the hypervisor is answered', async () => {
    const failing = m.run(domainCreateNew(m.ctx, pvConfig('two')));
    const rc = await failing.then(
      () => 0,
      (error: unknown) => (error instanceof CreateError ? error.rc : undefined),
    );
    expect(rc).toBe(-3);
    await m.run(domainDestroy(m.ctx, 2)).catch(() => undefined);
    expect(m.lines).toEqual(failedCreate(2));
    const domains = m.dom0.handlers['xc.domain_getinfolist']({}) as readonly { readonly domid: number }[];
    expect(domains.map(({ domid }) => domid)).toEqual([0, 1]);
    expect(await m.run(m.ctx.xs.read('/local/domain/1/name'))).toBe('one');
    expect(m.threads().map(({ thread, state }) => `${thread} ${state}`)).toEqual(['xenwatch S', 'xen-mtwatch-1 X']);
    expect(m.dom0.handlers['dom0.thread']({ name: 'xenbus' })).toMatchObject({
      state: 'R',
      waits: { kind: 'spinlock', on: 'watches_lock', task: { comm: 'xen-mtwatch-1' } },
    });
  });
});

test('U1: of two vifs that go, the callback on a watch that was freed is told with the garbage that a plain kernel prints', async () => {
  m = await machine({ cmdline: 'xen_mtwatch=rfc' });
  const nics = [0, 1].map((devid) => ({ devid, mac: `00:16:3e:00:00:0${devid}`, bridge: 'xenbr0' }));
  await m.run(domainCreateNew(m.ctx, pvConfig('one', { nics })));
  await m.run(domainUnpause(m.ctx, 1));
  await m.settle();
  m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
  await m.run(domainDestroy(m.ctx, 1));
  m.dom0.handlers['dom0.flush']({});
  await m.settle();
  expect(log().filter((line) => line.includes('garbage'))).toEqual([
    'xen-backend (garbage: the watch was freed): xenbus: Ignoring watch at /local/domain/1/device/vif/1/state',
  ]);
  expect([m.dom0.dead, m.dom0.domains, m.threads().length]).toEqual([[], 0, 1]);
});
