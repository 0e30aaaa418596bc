/** Network devices, their bridges, and the one lock over all of them. */
import { SimClock } from '../../../src/xenbus/clock.js';
import { Kernel } from '../../../src/xenbus/kernel/kernel.js';
import { NetDevices } from '../../../src/xenbus/kernel/netdev.js';
import { procStack, Sched, type Task, waitEvent, waitQueue } from '../../../src/xenbus/kernel/sched.js';

let lines: string[];
let kernel: Kernel;
let netdevs: NetDevices;

beforeEach(() => {
  lines = [];
  const sched = new Sched({
    wake: () => {},
    trouble: (_task, what, error) => {
      throw error ?? new Error(what);
    },
  });
  kernel = new Kernel({ domid: 0, who: 'dom0-kernel', sched, clock: new SimClock(), printk: (line) => lines.push(line) });
  netdevs = new NetDevices(kernel, ['xenbr0']);
});

const settle = () => {
  while (kernel.sched.step());
};

function run<T>(body: () => Task<T>): T | undefined {
  let result: T | undefined;
  kernel.spawn('task', 'entry', function* () {
    result = yield* body();
  });
  settle();
  return result;
}

test('a name is taken once, until it is given back', () => {
  expect([run(() => netdevs.register('vif1.0')), run(() => netdevs.register('vif1.0'))]).toEqual([true, false]);
  run(() => netdevs.unregister('vif1.0'));
  expect(run(() => netdevs.register('vif1.0'))).toBe(true);
});

test('a bridge tells what becomes of its port, as on a real host', () => {
  run(() => netdevs.register('vif1.0'));
  netdevs.bridge('xenbr0', 'vif1.0', true);
  netdevs.carrier('vif1.0', true);
  netdevs.carrier('vif1.0', true);
  netdevs.carrier('vif1.0', false);
  run(() => netdevs.unregister('vif1.0'));
  expect(lines).toEqual([
    'xenbr0: port 1(vif1.0) entered blocking state',
    'xenbr0: port 1(vif1.0) entered disabled state',
    'device vif1.0 entered promiscuous mode',
    'IPv6: ADDRCONF(NETDEV_CHANGE): vif1.0: link becomes ready',
    'xenbr0: port 1(vif1.0) entered blocking state',
    'xenbr0: port 1(vif1.0) entered forwarding state',
    'xenbr0: port 1(vif1.0) entered disabled state',
    'xenbr0: port 1(vif1.0) entered disabled state',
    'device vif1.0 left promiscuous mode',
    'xenbr0: port 1(vif1.0) entered disabled state',
  ]);
});

test('ports are numbered from 1, and a number that is free is taken again', () => {
  for (const name of ['a', 'b', 'c']) run(() => netdevs.register(name));
  const add = (name: string, yes = true) => netdevs.bridge('xenbr0', name, yes);
  expect([add('a'), add('b'), add('a', false), add('c'), add('c'), add('nobody', false)]).toEqual([1, 2, 1, 1, 1, undefined]);
  expect(() => netdevs.bridge('xenbr1', 'a', true)).toThrow('no bridge xenbr1');
});

test('who wants rtnl_mutex while another has it waits uninterruptibly', () => {
  const queue = waitQueue('somewhere');
  let free = false;
  const { sched } = kernel;
  kernel.spawn('holder', 'entry', function* (self) {
    yield* netdevs.rtnlLock();
    yield* waitEvent(queue, () => free);
    netdevs.rtnlUnlock(self);
  });
  settle();
  const waiter = kernel.spawn('waiter', 'entry', () => netdevs.unregister('vif1.0'));
  settle();
  expect([waiter.state, procStack(waiter)[0], waiter.waitingOn?.owner?.()?.name]).toEqual(['D', '[<0>] rtnl_lock', 'holder']);
  free = true;
  sched.wakeAll(queue);
  settle();
  expect(waiter.exited).toBe(true);
});

test('a vif goes by its new name, whatever its driver calls it, and gives that name back', () => {
  run(() => netdevs.register('vif1.0'));
  netdevs.rename('vif1.0', 'web0');
  netdevs.bridge('xenbr0', 'web0', true);
  lines = [];
  netdevs.carrier('vif1.0', true);
  expect(lines).toEqual([
    'IPv6: ADDRCONF(NETDEV_CHANGE): web0: link becomes ready',
    'xenbr0: port 1(web0) entered blocking state',
    'xenbr0: port 1(web0) entered forwarding state',
  ]);
  run(() => netdevs.register('vif2.0'));
  expect(() => netdevs.rename('vif2.0', 'web0')).toThrow('there is a web0');
  expect(() => netdevs.rename('vif2.0', 'xenbr0')).toThrow('there is a xenbr0');
  run(() => netdevs.unregister('vif1.0'));
  netdevs.rename('vif2.0', 'web0');
});
