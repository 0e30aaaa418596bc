/** Each lock by what it promises, and by what is left of it when its owner dies. */
import {
  complete,
  completion,
  downRead,
  downWrite,
  mutex,
  mutexLock,
  mutexUnlock,
  rcuReadLock,
  rcuReadUnlock,
  rwsem,
  spinLock,
  spinlock,
  spinUnlock,
  synchronizeRcu,
  upRead,
  upWrite,
  Workqueue,
  waitForCompletion,
  work,
  workersMax,
} from '../../../src/xenbus/kernel/locks.js';
import {
  bug,
  call,
  KTask,
  kthreadStop,
  procStack,
  Sched,
  type Task,
  waitEvent,
  waitQueue,
  waitsFor,
} from '../../../src/xenbus/kernel/sched.js';

function machine() {
  const trouble: string[] = [];
  const slept: string[] = [];
  const sched = new Sched({
    wake: () => {},
    trouble: (task, what, error) => trouble.push(`${task.name}: ${what}: ${error instanceof Error ? error.message : error}`),
    sleptAtomic: (task, what) => slept.push(`${task.name}: ${what}`),
  });
  const home = { domid: 0, frozen: false, ready: 0 };
  let pid = 1;
  const spawn = (name: string, body: (self: KTask) => Task) => sched.spawn(new KTask(pid++, name, home), body);
  const run = () => {
    while (sched.step());
  };
  /** Something to wait for: `open` lets all go that wait at `wait`. */
  const gate = () => {
    const queue = waitQueue('a gate');
    let isOpen = false;
    const open = () => {
      isOpen = true;
      sched.wakeAll(queue);
      run();
    };
    return { wait: () => waitEvent(queue, () => isOpen), open };
  };
  return { sched, spawn, run, gate, trouble, slept };
}

describe('a mutex', () => {
  test('is handed to who has waited longest: a task that comes as it is given back does not get in between', () => {
    const { sched, spawn, run, gate } = machine();
    const lock = mutex('lock');
    const order: string[] = [];
    const { wait, open } = gate();
    spawn('owner', function* (self) {
      yield* mutexLock(self, lock);
      yield* wait();
      mutexUnlock(sched, self, lock);
      yield* mutexLock(self, lock);
      order.push('owner again');
    });
    const waiter = spawn('waiter', function* (self) {
      yield* mutexLock(self, lock);
      order.push('waiter');
      mutexUnlock(sched, self, lock);
    });
    run();
    expect([waiter.state, lock.owner?.name]).toEqual(['D', 'owner']);
    open();
    expect(order).toEqual(['waiter', 'owner again']);
  });

  test('may not be taken twice, nor given back by who has it not', () => {
    const { sched, spawn, run, trouble } = machine();
    const lock = mutex('lock');
    spawn('twice', function* (self) {
      yield* mutexLock(self, lock);
      yield* mutexLock(self, lock);
    });
    spawn('other', function* (self) {
      yield undefined;
      mutexUnlock(sched, self, lock);
    });
    run();
    expect(trouble).toEqual([
      'twice: oops: twice locks lock, which it holds',
      'other: oops: other unlocks lock, which it does not hold',
    ]);
  });

  test('is a place to sleep, even when it is free', () => {
    const { spawn, run, slept } = machine();
    const [lock, spin] = [mutex('lock'), spinlock('spin')];
    spawn('a', function* (self) {
      yield* spinLock(self, spin);
      yield* mutexLock(self, lock);
    });
    run();
    expect(slept).toEqual(['a: mutex_lock']);
  });
});

describe('a spinlock', () => {
  test('keeps who waits for it in state R, at the top of its stack', () => {
    const { sched, spawn, run, slept, gate } = machine();
    const lock = spinlock('watches_lock');
    const { wait, open } = gate();
    spawn('owner', function* (self) {
      yield* spinLock(self, lock);
      yield* wait();
      spinUnlock(sched, self, lock);
    });
    const spinner = spawn('xenbus', (self) => call(self, 'xs_watch_msg', spinLock(self, lock)));
    run();
    expect({
      state: spinner.state,
      stack: procStack(spinner).slice(0, 2),
      chain: waitsFor(spinner).map(({ name }) => name),
    }).toEqual({
      state: 'R',
      stack: ['[<0>] queued_spin_lock_slowpath', '[<0>] xs_watch_msg'],
      chain: ['xenbus', 'owner'],
    });
    // The owner slept with it; the spinner did not sleep.
    expect(slept).toEqual(['owner: a gate']);
    open();
    expect([spinner.exited, lock.owner]).toEqual([true, spinner]);
  });

  test('whose owner died is spun on for ever, in state R', () => {
    const { spawn, run, trouble } = machine();
    const lock = spinlock('watches_lock');
    const dead = spawn('xen-mtwatch-7', function* (self) {
      yield* spinLock(self, lock);
      yield* bug('kernel BUG at drivers/xen/xenbus/xenbus_xs.c:1180!');
    });
    const spinners = ['xenbus', 'xenwatch'].map((name) => spawn(name, (self) => spinLock(self, lock)));
    run();
    expect({
      trouble,
      owner: lock.owner === dead,
      states: spinners.map(({ state, exited }) => [state, exited]),
      waitsFor: waitsFor(spinners[0] as KTask).map(({ name }) => name),
    }).toEqual({
      trouble: ['xen-mtwatch-7: oops: kernel BUG at drivers/xen/xenbus/xenbus_xs.c:1180!'],
      owner: true,
      states: [
        ['R', false],
        ['R', false],
      ],
      waitsFor: ['xenbus', 'xen-mtwatch-7'],
    });
  });

  test('is taken within another one without a chance to be preempted', () => {
    const { sched, spawn, run } = machine();
    const [outer, inner] = [spinlock('outer'), spinlock('inner')];
    const order: string[] = [];
    const section = (name: string) =>
      spawn(name, function* (self) {
        yield* spinLock(self, outer);
        order.push(`${name} outer`);
        yield* spinLock(self, inner);
        order.push(`${name} inner ${self.atomic}`);
        spinUnlock(sched, self, inner);
        spinUnlock(sched, self, outer);
      });
    section('a');
    section('b');
    run();
    expect(order).toEqual(['a outer', 'a inner 2', 'b outer', 'b inner 2']);
  });

  test('may not be taken twice, nor given back by who has it not', () => {
    const { sched, spawn, run, trouble } = machine();
    const lock = spinlock('lock');
    spawn('twice', function* (self) {
      yield* spinLock(self, lock);
      yield* spinLock(self, lock);
    });
    spawn('other', function* (self) {
      yield undefined;
      spinUnlock(sched, self, lock);
    });
    run();
    expect(trouble).toEqual([
      'twice: oops: twice spins on lock, which it holds',
      'other: oops: other unlocks lock, which it does not hold',
    ]);
  });
});

describe('a reader-writer semaphore', () => {
  /** Tasks that take `lock` and keep it until their own gate opens. */
  function holders() {
    const m = machine();
    const lock = rwsem('xs_watch_rwsem');
    const inside: string[] = [];
    const hold = (name: string, kind: 'read' | 'write') => {
      const { wait, open } = m.gate();
      m.spawn(name, function* (self) {
        yield* kind === 'read' ? downRead(self, lock) : downWrite(self, lock);
        inside.push(name);
        yield* wait();
        inside.splice(inside.indexOf(name), 1);
        if (kind === 'read') upRead(m.sched, self, lock);
        else upWrite(m.sched, self, lock);
      });
      m.run();
      return open;
    };
    return { ...m, lock, inside, hold };
  }

  test('has many readers, or one writer', () => {
    const { inside, hold } = holders();
    const readers = ['a', 'b', 'c'].map((name) => hold(name, 'read'));
    const write = hold('w', 'write');
    const write2 = hold('w2', 'write');
    expect(inside).toEqual(['a', 'b', 'c']);
    for (const open of readers) open();
    expect(inside).toEqual(['w']);
    write();
    expect(inside).toEqual(['w2']);
    write2();
    expect(inside).toEqual([]);
  });

  test('a writer that waits goes before readers that come later', () => {
    const { inside, hold } = holders();
    const early = hold('early', 'read');
    const write = hold('w', 'write');
    hold('late', 'read');
    expect(inside).toEqual(['early']);
    early();
    expect(inside).toEqual(['w']);
    write();
    expect(inside).toEqual(['late']);
  });

  test('who waits is in D and waits for the writer, or for a reader', () => {
    const { sched, hold } = holders();
    const read = hold('a', 'read');
    hold('w', 'write');
    hold('b', 'read');
    const chains = () => [...sched.tasks].map((task) => `${task.state} ${waitsFor(task).map(({ name }) => name)}`);
    expect(chains()).toEqual(['S a', 'D w,a', 'D b,a']);
    read();
    expect(chains()).toEqual(['S w', 'D b,w']);
  });

  test('may not be given back by who has it not', () => {
    const { sched, spawn, run, trouble, lock } = holders();
    spawn('reader', function* (self) {
      yield* downRead(self, lock);
      upWrite(sched, self, lock);
    });
    spawn('other', function* (self) {
      yield undefined;
      upRead(sched, self, lock);
    });
    run();
    expect(trouble).toEqual([
      'reader: oops: reader gives back xs_watch_rwsem, which it does not write',
      'other: oops: other gives back xs_watch_rwsem, which it does not read',
    ]);
  });
});

test('a completion lets go all who wait for it, and whoever comes later', () => {
  const { sched, spawn, run } = machine();
  let owner: KTask | undefined;
  const done = completion('a reply', () => owner);
  const wait = (name: string) => spawn(name, (self) => waitForCompletion(self, done));
  const waiting = [wait('a'), wait('b')];
  owner = spawn('owner', () => waitEvent(waitQueue('nothing'), () => false));
  run();
  expect(waiting.map((task) => [task.state, procStack(task)[0], waitsFor(task).map(({ name }) => name)])).toEqual([
    ['D', '[<0>] wait_for_completion', ['a', 'owner']],
    ['D', '[<0>] wait_for_completion', ['b', 'owner']],
  ]);
  complete(sched, done);
  const late = wait('late');
  run();
  expect([...waiting, late].map(({ exited }) => exited)).toEqual([true, true, true]);
});

describe('an RCU grace period', () => {
  test('waits for the readers that are there, not for those that come later', () => {
    const { sched, spawn, run, slept } = machine();
    const order: string[] = [];
    const reader = (name: string, steps: number) =>
      spawn(name, function* (self) {
        rcuReadLock(self);
        for (let step = 0; step < steps; step++) yield undefined;
        order.push(name);
        rcuReadUnlock(sched, self);
      });
    reader('before', 3);
    sched.step();
    const waiter = spawn('synchronize', function* (self) {
      yield* synchronizeRcu(self, sched);
      order.push('over');
    });
    sched.step();
    sched.step();
    expect([waiter.state, procStack(waiter)[1]]).toEqual(['D', '[<0>] synchronize_rcu']);
    reader('after', 9);
    run();
    expect([order, slept]).toEqual([['before', 'over', 'after'], []]);
  });

  test('is over at once without readers', () => {
    const { sched } = machine();
    let over = false;
    sched.afterGracePeriod(() => {
      over = true;
    });
    expect(over).toBe(true);
  });

  test('ends with the outermost of nested sections', () => {
    const { sched, spawn, run } = machine();
    const seen: boolean[] = [];
    let over = false;
    spawn('reader', function* (self) {
      rcuReadLock(self);
      rcuReadLock(self);
      yield undefined;
      rcuReadUnlock(sched, self);
      seen.push(over);
      rcuReadUnlock(sched, self);
      seen.push(over);
    });
    sched.step();
    sched.afterGracePeriod(() => {
      over = true;
    });
    run();
    expect(seen).toEqual([false, true]);
  });

  test.each(['already', 'meanwhile'])('a reader that %s sleeps counts as gone, and the checker is told', (when) => {
    const { sched, spawn, run, slept } = machine();
    let over = false;
    const reader = spawn('reader', function* (self) {
      rcuReadLock(self);
      yield undefined;
      yield* waitEvent(waitQueue('a mutex'), () => false, 'D');
    });
    sched.step();
    if (when === 'already') run();
    sched.afterGracePeriod(() => {
      over = true;
    });
    expect(over).toBe(when === 'already');
    run();
    expect({ over, rcu: reader.rcu, slept }).toEqual({ over: true, rcu: 1, slept: ['reader: a mutex'] });
  });

  test('a reader that spins is still reading', () => {
    const { sched, spawn, run, gate } = machine();
    const lock = spinlock('events_lock');
    const { wait, open } = gate();
    spawn('owner', function* (self) {
      yield* spinLock(self, lock);
      yield* wait();
      spinUnlock(sched, self, lock);
    });
    run();
    spawn('reader', function* (self) {
      rcuReadLock(self);
      yield* spinLock(self, lock);
      spinUnlock(sched, self, lock);
      rcuReadUnlock(sched, self);
    });
    sched.step();
    const over: string[] = [];
    sched.afterGracePeriod(() => over.push('begun before it spun'));
    run();
    sched.afterGracePeriod(() => over.push('begun while it spun'));
    expect(over).toEqual([]);
    open();
    expect(over).toEqual(['begun before it spun', 'begun while it spun']);
  });

  test('a reader that dies is gone', () => {
    const { sched, spawn, run } = machine();
    let over = false;
    spawn('reader', function* (self) {
      rcuReadLock(self);
      yield undefined;
      yield* bug('kernel BUG');
    });
    sched.step();
    sched.afterGracePeriod(() => {
      over = true;
    });
    run();
    expect(over).toBe(true);
  });
});

describe('the workqueue', () => {
  function queue() {
    const m = machine();
    const workqueue = new Workqueue(m.sched, (name, entry, body) => m.spawn(name, (self) => call(self, entry, body(self))));
    const ran: string[] = [];
    /** An item that stays in its work until its gate opens. */
    const held = (name: string) => {
      const { wait, open } = m.gate();
      const item = work(name, function* (self) {
        ran.push(`${name} in ${self.name}`);
        yield* wait();
        ran.push(`${name} done`);
      });
      return { item, open };
    };
    const workers = () => [...m.sched.tasks].filter(({ name }) => name.startsWith('kworker'));
    return { ...m, workqueue, ran, held, workers };
  }

  test('an item scheduled again while it waits is done once; while it runs, once more afterwards, never beside itself', () => {
    const { workqueue, ran, held, run } = queue();
    const { item, open } = held('purge');
    workqueue.schedule(item);
    workqueue.schedule(item);
    run();
    workqueue.schedule(item);
    workqueue.schedule(item);
    run();
    expect(ran).toEqual(['purge in kworker/0:1']);
    open();
    expect(ran).toEqual(['purge in kworker/0:1', 'purge done', 'purge in kworker/0:1', 'purge done']);
  });

  test('one that hangs keeps a worker and no other item; idle workers are used again', () => {
    const { workqueue, ran, held, run, workers } = queue();
    const hung = held('hung');
    workqueue.schedule(hung.item);
    run();
    for (const name of ['a', 'b', 'c']) {
      const { item, open } = held(name);
      workqueue.schedule(item);
      run();
      open();
    }
    expect(ran).toEqual([
      'hung in kworker/0:1',
      ...['a', 'b', 'c'].flatMap((name) => [`${name} in kworker/0:2`, `${name} done`]),
    ]);
    expect(workers().map(({ stack }) => stack)).toEqual([['worker_thread', 'process_one_work', 'hung'], ['worker_thread']]);
    hung.open();
    expect(ran.at(-1)).toBe('hung done');
  });

  test(`has ${workersMax} workers and no more; what is over waits for one of them`, () => {
    const { workqueue, ran, held, run, workers } = queue();
    const items = Array.from({ length: workersMax + 2 }, (_, index) => held(`item ${index}`));
    for (const { item } of items) workqueue.schedule(item);
    run();
    expect([workers().length, ran.length]).toEqual([workersMax, workersMax]);
    items[3]?.open();
    expect(ran.slice(workersMax)).toEqual(['item 3 done', `item ${workersMax} in kworker/0:4`]);
    for (const { open } of items) open();
    expect(ran.filter((line) => line.endsWith('done'))).toHaveLength(workersMax + 2);
  });

  test('an item in which a worker died is never done again; others are', () => {
    const { workqueue, ran, held, run, trouble } = queue();
    const fatal = work('purge', function* () {
      yield* bug('unable to handle page fault');
    });
    workqueue.schedule(fatal);
    run();
    workqueue.schedule(fatal);
    workqueue.schedule(held('other').item);
    run();
    expect([trouble, ran]).toEqual([
      ['kworker/0:1: oops: unable to handle page fault'],
      [expect.stringMatching(/^other in kworker/)],
    ]);
  });
});

describe('BUG()', () => {
  test('ends the task there, and whoever waits for its end goes on', () => {
    const { sched, spawn, run, trouble } = machine();
    const ran: string[] = [];
    const dying = spawn('dying', function* (self) {
      try {
        yield undefined;
        yield* call(self, 'inner', bug('kernel BUG at here!'));
      } finally {
        ran.push('unwound');
      }
      ran.push('went on');
    });
    spawn('stopper', function* (self) {
      yield* kthreadStop(sched, self, dying);
      ran.push('stopped');
    });
    run();
    expect({ trouble, ran, died: dying.died, exited: dying.exited }).toEqual({
      trouble: ['dying: oops: kernel BUG at here!'],
      ran: ['stopped'],
      died: 'kernel BUG at here!',
      exited: true,
    });
  });

  test('keeps what is held: spinlock, mutex and semaphore stay with the dead', () => {
    const { spawn, run } = machine();
    const [spin, sleeping, sem] = [spinlock('spin'), mutex('mutex'), rwsem('rwsem')];
    const dead = spawn('dead', function* (self) {
      yield* downRead(self, sem);
      yield* mutexLock(self, sleeping);
      yield* spinLock(self, spin);
      yield* bug('kernel BUG');
    });
    run();
    const waiters = [
      spawn('a', (self) => spinLock(self, spin)),
      spawn('b', (self) => mutexLock(self, sleeping)),
      spawn('c', (self) => downWrite(self, sem)),
      spawn('d', (self) => downRead(self, sem)),
    ];
    run();
    expect([...dead.holds].map(({ name }) => name)).toEqual(['rwsem', 'mutex', 'spin']);
    expect(waiters.map((task) => `${task.state} ${waitsFor(task).map(({ name }) => name)}`)).toEqual([
      'R a,dead',
      'D b,dead',
      'D c,dead',
      'D d,dead',
    ]);
  });
});
