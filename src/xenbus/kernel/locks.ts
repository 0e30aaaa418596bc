/**
 * The locks of a kernel: mutex, spinlock, reader-writer semaphore, completion, RCU, workqueue.
 *
 * Taking one is a point where the task can be preempted, before it has it. Every lock knows its owner, so that a
 * wait-for cycle can be seen and a task that dies keeps what it holds. What runs between taking and giving back a
 * spinlock yields nothing, or the checker says so: a sleeping function was called from an invalid context.
 */
import { call, type KTask, type Lock, type Point, type Sched, type Task, type WaitQueue, waitEvent, waitQueue } from './sched.js';

/** A sleeping lock with one owner, served in order of arrival. */
export interface Mutex extends Lock {
  readonly kind: 'mutex';
  owner: KTask | undefined;
}

/** A lock whose owner does not sleep; who waits for it spins, in state R. */
export interface SpinLock extends Lock {
  readonly kind: 'spinlock';
  owner: KTask | undefined;
}

/** Many readers or one writer; a writer that waits goes before readers that come later. */
export interface RwSem extends Lock {
  readonly kind: 'rwsem';
  readonly readers: Set<KTask>;
  writer: KTask | undefined;
  /** Writers that wait. */
  waiting: number;
}

export interface Completion {
  readonly queue: WaitQueue;
  done: boolean;
}

const points = {
  mutex: { at: 'mutex_lock' },
  spin: { at: 'spin_lock' },
  downRead: { at: 'down_read' },
  downWrite: { at: 'down_write' },
} satisfies Record<string, Point>;

export function mutex(name: string): Mutex {
  const lock: Mutex = { name, kind: 'mutex', owner: undefined, queue: waitQueue(name, () => lock.owner) };
  return lock;
}

export function* mutexLock(self: KTask, lock: Mutex): Task {
  if (lock.owner === self) throw new Error(`${self.name} locks ${lock.name}, which it holds`);
  self.sched?.mightSleep(self, 'mutex_lock');
  yield points.mutex;
  if (lock.owner === undefined) lock.owner = self;
  yield* waitEvent(lock.queue, () => lock.owner === self, 'D');
  self.holds.add(lock);
}

export function mutexUnlock(sched: Sched, self: KTask, lock: Mutex): void {
  if (lock.owner !== self) throw new Error(`${self.name} unlocks ${lock.name}, which it does not hold`);
  self.holds.delete(lock);
  // Handed to who has waited longest: nobody can come in between.
  [lock.owner] = lock.queue.waiters;
  sched.wakeOne(lock.queue);
}

export function spinlock(name: string): SpinLock {
  const lock: SpinLock = { name, kind: 'spinlock', owner: undefined, queue: waitQueue(name, () => lock.owner) };
  return lock;
}

export function* spinLock(self: KTask, lock: SpinLock): Task {
  if (lock.owner === self) throw new Error(`${self.name} spins on ${lock.name}, which it holds`);
  if (self.atomic === 0) yield points.spin;
  if (lock.owner) yield* call(self, 'queued_spin_lock_slowpath', spinning(lock));
  lock.owner = self;
  self.atomic += 1;
  self.holds.add(lock);
}

function* spinning(lock: SpinLock): Task {
  while (lock.owner) yield { on: lock.queue, state: 'R' };
}

export function spinUnlock(sched: Sched, self: KTask, lock: SpinLock): void {
  if (lock.owner !== self) throw new Error(`${self.name} unlocks ${lock.name}, which it does not hold`);
  lock.owner = undefined;
  self.atomic -= 1;
  self.holds.delete(lock);
  sched.wakeOne(lock.queue);
}

export function rwsem(name: string): RwSem {
  const owner = () => lock.writer ?? [...lock.readers][0];
  const lock: RwSem = { name, kind: 'rwsem', readers: new Set(), writer: undefined, waiting: 0, queue: waitQueue(name, owner) };
  return lock;
}

export function* downRead(self: KTask, lock: RwSem): Task {
  self.sched?.mightSleep(self, 'down_read');
  yield points.downRead;
  yield* waitEvent(lock.queue, () => !lock.writer && lock.waiting === 0, 'D');
  lock.readers.add(self);
  self.holds.add(lock);
}

export function upRead(sched: Sched, self: KTask, lock: RwSem): void {
  if (!lock.readers.delete(self)) throw new Error(`${self.name} gives back ${lock.name}, which it does not read`);
  self.holds.delete(lock);
  sched.wakeAll(lock.queue);
}

export function* downWrite(self: KTask, lock: RwSem): Task {
  self.sched?.mightSleep(self, 'down_write');
  yield points.downWrite;
  lock.waiting += 1;
  yield* waitEvent(lock.queue, () => !lock.writer && lock.readers.size === 0, 'D');
  lock.waiting -= 1;
  lock.writer = self;
  self.holds.add(lock);
}

export function upWrite(sched: Sched, self: KTask, lock: RwSem): void {
  if (lock.writer !== self) throw new Error(`${self.name} gives back ${lock.name}, which it does not write`);
  lock.writer = undefined;
  self.holds.delete(lock);
  sched.wakeAll(lock.queue);
}

/** `owner`: who is to complete it, if that is known. */
export function completion(name: string, owner?: () => KTask | undefined): Completion {
  return { queue: waitQueue(name, owner), done: false };
}

export function complete(sched: Sched, done: Completion): void {
  done.done = true;
  sched.wakeAll(done.queue);
}

export function* waitForCompletion(self: KTask, done: Completion): Task {
  yield* call(
    self,
    'wait_for_completion',
    waitEvent(done.queue, () => done.done, 'D'),
  );
}

export function rcuReadLock(self: KTask): void {
  self.rcu += 1;
}

export function rcuReadUnlock(sched: Sched, self: KTask): void {
  self.rcu -= 1;
  if (self.rcu === 0) sched.quiescent(self);
}

/**
 * Sleeps until every read section that is open now has ended. RCU here is that of a kernel without preemption
 * (PREEMPT_VOLUNTARY, as dom0 kernels have it): a reader that sleeps, which it must not, counts as gone.
 */
export function* synchronizeRcu(self: KTask, sched: Sched): Task {
  const over = completion('an RCU grace period');
  sched.afterGracePeriod(() => complete(sched, over));
  yield* call(self, 'synchronize_rcu', waitForCompletion(self, over));
}

/** Something for a worker to do. Scheduled again while it waits, it is done once; while it runs, once more after. */
export interface Work {
  readonly name: string;
  readonly run: (self: KTask) => Task;
  queued: boolean;
  running: boolean;
}

export function work(name: string, run: (self: KTask) => Task): Work {
  return { name, run, queued: false, running: false };
}

/** Workers that a queue may have at once (WQ_DFL_ACTIVE); past them work waits for one of them. */
export const workersMax = 256;

/**
 * A workqueue as the system's (kernel/workqueue.c): as many workers as there are items that run or wait, kept for the
 * next ones, so that one hung item holds up itself alone. An item never runs beside itself.
 */
export class Workqueue {
  readonly #items: Work[] = [];
  readonly #queue = waitQueue('worker_thread');
  readonly #spawn: (name: string, entry: string, body: (self: KTask) => Task) => KTask;
  readonly #sched: Sched;
  #workers = 0;
  #busy = 0;

  /** `spawn` starts a kernel thread. */
  constructor(sched: Sched, spawn: (name: string, entry: string, body: (self: KTask) => Task) => KTask) {
    this.#sched = sched;
    this.#spawn = spawn;
  }

  schedule(item: Work): void {
    if (item.queued) return;
    item.queued = true;
    this.#items.push(item);
    if (this.#workers - this.#busy < this.#items.length && this.#workers < workersMax) {
      this.#workers += 1;
      this.#spawn(`kworker/0:${this.#workers}`, 'worker_thread', (self) => this.#work(self));
    } else this.#sched.wakeOne(this.#queue);
  }

  *#work(self: KTask): Task {
    const next = () => this.#items.findIndex((item) => !item.running);
    for (;;) {
      yield* waitEvent(this.#queue, () => next() >= 0);
      const [item] = this.#items.splice(next(), 1);
      if (!item) continue;
      item.queued = false;
      item.running = true;
      this.#busy += 1;
      yield* call(self, 'process_one_work', call(self, item.name, item.run(self)));
      this.#busy -= 1;
      item.running = false;
    }
  }
}
