import { seeded } from '../../../src/xenbus/clock.js';
import { mutex, mutexLock, mutexUnlock } from '../../../src/xenbus/kernel/locks.js';
import {
  call,
  KTask,
  kthreadStop,
  procStack,
  Sched,
  type Task,
  taskStepsMax,
  waitEvent,
  waitQueue,
  waitsFor,
} from '../../../src/xenbus/kernel/sched.js';

const home = () => ({ domid: 0, frozen: false, ready: 0 });

function machine(choose?: (n: number) => number) {
  const trouble: string[] = [];
  const sched = new Sched({
    wake: () => {},
    trouble: (task, what, error) => trouble.push(`${task.name}: ${what}${error ? `: ${(error as Error).message}` : ''}`),
    ...(choose ? { choose: (ready: readonly KTask[]) => choose(ready.length) } : {}),
  });
  const at = home();
  let pid = 1;
  const spawn = (name: string, body: (self: KTask) => Task) => sched.spawn(new KTask(pid++, name, at), body);
  const run = () => {
    while (sched.step());
  };
  return { sched, spawn, run, trouble, at };
}

test('a mutex is given in the order in which it was asked for, to one task at a time', () => {
  const { sched, spawn, run } = machine();
  const lock = mutex('lock');
  const order: string[] = [];
  for (const name of ['a', 'b', 'c']) {
    spawn(name, function* (self) {
      yield* mutexLock(self, lock);
      order.push(`${name} in`);
      yield undefined;
      order.push(`${name} out`);
      mutexUnlock(sched, self, lock);
    });
  }
  run();
  expect(order).toEqual(['a in', 'a out', 'b in', 'b out', 'c in', 'c out']);
});

test('who waits uninterruptibly is in D, with its functions in its stack, and names whom it waits for', () => {
  const { sched, spawn, run } = machine();
  const wake = waitQueue('packet');
  const worker = spawn('vif1.0-q0-dealloc', () => waitEvent(wake, () => false));
  const stopper = spawn('xenwatch', (self) => call(self, 'xenwatch_thread', kthreadStop(sched, self, worker)));
  run();
  expect({ state: stopper.state, stack: procStack(stopper), chain: waitsFor(stopper).map(({ name }) => name) }).toEqual({
    state: 'D',
    stack: ['[<0>] kthread_stop', '[<0>] xenwatch_thread', '[<0>] kthread', '[<0>] ret_from_fork'],
    chain: ['xenwatch', 'vif1.0-q0-dealloc'],
  });
});

test('two tasks that wait for each other are a chain that comes back', () => {
  const { spawn, run } = machine();
  const [one, two] = [mutex('one'), mutex('two')];
  const cross = (first: typeof one, second: typeof one) =>
    function* (self: KTask): Task {
      yield* mutexLock(self, first);
      yield undefined;
      yield* mutexLock(self, second);
    };
  const a = spawn('a', cross(one, two));
  spawn('b', cross(two, one));
  run();
  expect(waitsFor(a).map(({ name }) => name)).toEqual(['a', 'b', 'a']);
});

test('tasks of a frozen domain keep still, and go on where they were', () => {
  const { sched, spawn, run, at } = machine();
  const ran: number[] = [];
  spawn('guest', function* () {
    for (let step = 0; step < 3; step++) {
      ran.push(step);
      yield undefined;
    }
  });
  sched.step();
  sched.freeze(at, true);
  run();
  expect(ran).toEqual([0]);
  sched.freeze(at, false);
  run();
  expect(ran).toEqual([0, 1, 2]);
});

test('killing a domain ends its tasks wherever they are, and nobody else', () => {
  const { sched, spawn, run, at } = machine();
  const wake = waitQueue('never');
  spawn('asleep', () => waitEvent(wake, () => false));
  spawn('running', function* () {
    for (;;) yield undefined;
  });
  let other = 0;
  sched.spawn(new KTask(99, 'other', home()), function* () {
    for (; other < 5; other++) yield undefined;
  });
  sched.step();
  sched.step();
  sched.kill(at);
  run();
  expect({ tasks: [...sched.tasks], waiters: wake.waiters.size, other, ready: at.ready }).toEqual({
    tasks: [],
    waiters: 0,
    other: 5,
    ready: 0,
  });
});

test('a task that never blocks is reported and parked; one that throws is reported and gone', () => {
  const { spawn, run, trouble } = machine();
  const spinner = spawn('spinner', function* () {
    for (;;) yield undefined;
  });
  const buggy = spawn('buggy', function* () {
    yield undefined;
    throw new Error('boom');
  });
  run();
  expect({ spins: spinner.spins, exited: [spinner.exited, buggy.exited], trouble }).toEqual({
    spins: taskStepsMax,
    exited: [false, true],
    trouble: ['buggy: oops: boom', 'spinner: soft lockup'],
  });
});

test('one seed is one interleaving', () => {
  const runs = [1, 1, 2].map((seed) => {
    const draw = seeded(seed);
    const { spawn, run } = machine((n) => draw() % n);
    const order: string[] = [];
    for (const name of ['a', 'b', 'c', 'd']) {
      spawn(name, function* () {
        for (let step = 0; step < 5; step++) {
          order.push(name);
          yield undefined;
        }
      });
    }
    run();
    return order.join('');
  });
  expect(runs[0]).toBe(runs[1]);
  expect(runs[0]).not.toBe(runs[2]);
});
