/**
 * Kernel tasks and what they can wait for.
 *
 * A task is a generator. It yields wherever a kernel thread could sleep or be preempted, and the scheduler decides who
 * goes on: first in, first out when live, by a seeded choice in simulation. Nothing here reads a clock or a promise, so
 * the same choices give the same run. Each function that the model wants to see in a stack runs under `call`, which
 * keeps the task's stack of names; `/proc/PID/stack`, hung-task reports and wait-for cycles derive from that and from
 * what the task waits on.
 *
 * ```
 * function* worker(self: KTask): Task {
 *   yield* waitEvent(self, queue, () => work.length > 0);   // S: asleep until woken and the condition holds
 *   yield* mutexLock(self, lock);                           // D: uninterruptible
 *   ...
 *   mutexUnlock(self, lock);
 * }
 * ```
 */

/** What a task runs: yields `undefined` to be preempted, or what it blocks on. */
export type Task<T = void> = Generator<Block | undefined, T, void>;

export type TaskState = 'R' | 'S' | 'D';

/** A place where tasks sleep until somebody wakes them. */
export interface WaitQueue {
  readonly name: string;
  readonly waiters: Set<KTask>;
  /** Who could wake it, for wait-for cycles: the owner of a lock, the task that is to exit. */
  readonly owner?: () => KTask | undefined;
}

export interface Block {
  readonly on: WaitQueue;
  readonly state: 'S' | 'D';
}

/** A sleeping lock with one owner, served in order of arrival. */
export interface Mutex {
  readonly name: string;
  readonly queue: WaitQueue;
  owner: KTask | undefined;
}

/** Steps that a task may take without blocking before it counts as a soft lockup. */
export const taskStepsMax = 100_000;

/** Which domain's kernel a task belongs to, and whether that domain runs now. */
export interface TaskHome {
  readonly domid: number;
  frozen: boolean;
  /** Tasks of it that could run now. */
  ready: number;
}

export class KTask {
  state: TaskState = 'R';
  /** Function names, outermost first. */
  readonly stack: string[] = [];
  readonly holds = new Set<Mutex>();
  waitingOn: WaitQueue | undefined;
  /** How often it blocked; a task in D whose count does not move is hung. */
  switches = 0;
  shouldStop = false;
  exited = false;
  readonly exit: WaitQueue;
  /** Steps since it blocked last. */
  spins = 0;

  constructor(
    readonly pid: number,
    /** The whole name; `comm` is what `current->comm` holds of it. */
    readonly name: string,
    readonly home: TaskHome,
  ) {
    this.exit = { name: `exit of ${name}`, waiters: new Set(), owner: () => this };
  }

  /** TASK_COMM_LEN is 16 with its NUL. */
  get comm(): string {
    return this.name.slice(0, 15);
  }
}

export interface SchedHooks {
  /** Which of `n` runnable tasks goes on. */
  readonly choose?: (n: number) => number;
  /** There is something to run now that there was not. */
  readonly wake: () => void;
  /** A task threw, or spun for `taskStepsMax` steps; it is parked for good. */
  readonly trouble: (task: KTask, what: 'oops' | 'soft lockup', error?: unknown) => void;
  /** A task took a step. */
  readonly charged?: (task: KTask) => void;
}

export class Sched {
  readonly #hooks: SchedHooks;
  readonly #bodies = new Map<KTask, Task>();
  readonly #frozen = new Map<TaskHome, KTask[]>();
  #runnable: KTask[] = [];
  #head = 0;
  #current: KTask | undefined;

  constructor(hooks: SchedHooks) {
    this.#hooks = hooks;
  }

  /** Every task that has not exited, in order of creation. */
  get tasks(): IterableIterator<KTask> {
    return this.#bodies.keys();
  }

  get runnable(): boolean {
    return this.#head < this.#runnable.length;
  }

  get current(): KTask | undefined {
    return this.#current;
  }

  spawn(task: KTask, body: (self: KTask) => Task): KTask {
    this.#bodies.set(task, body(task));
    task.home.ready += 1;
    this.#enqueue(task);
    return task;
  }

  /** Lets one task run until it yields; false when none can. */
  step(): boolean {
    const task = this.#take();
    if (!task) return false;
    const body = this.#bodies.get(task);
    if (!body) return true;
    this.#current = task;
    task.spins += 1;
    this.#hooks.charged?.(task);
    try {
      const { done, value } = body.next();
      if (done) this.#exit(task);
      else if (value) this.#block(task, value);
      else if (task.spins >= taskStepsMax) this.#park(task, 'soft lockup');
      else this.#enqueue(task);
    } catch (error) {
      this.#park(task, 'oops', error);
    } finally {
      this.#current = undefined;
    }
    return true;
  }

  wakeAll(queue: WaitQueue): void {
    for (const task of [...queue.waiters]) this.#wake(task, queue);
  }

  wakeOne(queue: WaitQueue): void {
    const [first] = queue.waiters;
    if (first) this.#wake(first, queue);
  }

  /** Wakes a task from an interruptible sleep. */
  interrupt(task: KTask): void {
    if (task.state === 'S' && task.waitingOn) this.#wake(task, task.waitingOn);
  }

  /** The tasks of a paused domain do not run; they go on where they were when it is unpaused. */
  freeze(home: TaskHome, frozen: boolean): void {
    home.frozen = frozen;
    if (frozen) return;
    const waiting = this.#frozen.get(home) ?? [];
    this.#frozen.delete(home);
    for (const task of waiting) this.#enqueue(task);
  }

  /** Ends every task of a domain, wherever it is: its vcpus are gone. */
  kill(home: TaskHome): void {
    home.frozen = true;
    for (const task of [...this.#bodies.keys()]) if (task.home === home) this.#forget(task);
    this.#runnable = this.#runnable.slice(this.#head).filter((task) => task.home !== home);
    this.#head = 0;
    this.#frozen.delete(home);
  }

  #take(): KTask | undefined {
    while (this.runnable) {
      const ready = this.#runnable.length - this.#head;
      const index = this.#head + (this.#hooks.choose && ready > 1 ? this.#hooks.choose(ready) : 0);
      const task = this.#runnable[index];
      if (index === this.#head) this.#head += 1;
      else this.#runnable.splice(index, 1);
      if (this.#head > 1024 && this.#head * 2 > this.#runnable.length) {
        this.#runnable = this.#runnable.slice(this.#head);
        this.#head = 0;
      }
      if (!task) continue;
      if (!task.home.frozen) return task;
      const parked = this.#frozen.get(task.home) ?? [];
      parked.push(task);
      this.#frozen.set(task.home, parked);
    }
    if (this.#head > 0) this.#runnable = [];
    this.#head = 0;
    return undefined;
  }

  #enqueue(task: KTask): void {
    const idle = !this.runnable;
    this.#runnable.push(task);
    if (idle) this.#hooks.wake();
  }

  #block(task: KTask, block: Block): void {
    task.state = block.state;
    task.waitingOn = block.on;
    task.switches += 1;
    task.spins = 0;
    task.home.ready -= 1;
    block.on.waiters.add(task);
  }

  #wake(task: KTask, queue: WaitQueue): void {
    if (!queue.waiters.delete(task)) return;
    task.state = 'R';
    task.waitingOn = undefined;
    task.home.ready += 1;
    this.#enqueue(task);
  }

  #exit(task: KTask): void {
    this.#bodies.delete(task);
    task.home.ready -= 1;
    task.exited = true;
    this.wakeAll(task.exit);
  }

  #park(task: KTask, what: 'oops' | 'soft lockup', error?: unknown): void {
    this.#hooks.trouble(task, what, error);
    if (what === 'oops') this.#exit(task);
  }

  #forget(task: KTask): void {
    task.waitingOn?.waiters.delete(task);
    this.#bodies.delete(task);
    task.exited = true;
    task.home.ready = 0;
  }
}

export function waitQueue(name: string, owner?: () => KTask | undefined): WaitQueue {
  return owner ? { name, waiters: new Set(), owner } : { name, waiters: new Set() };
}

/** Sleeps on `queue` until `ready` holds, looking again at each wake-up. */
export function* waitEvent(queue: WaitQueue, ready: () => boolean, state: 'S' | 'D' = 'S'): Task {
  while (!ready()) yield { on: queue, state };
}

export function mutex(name: string): Mutex {
  const lock: Mutex = { name, owner: undefined, queue: waitQueue(name, () => lock.owner) };
  return lock;
}

export function* mutexLock(self: KTask, lock: Mutex): Task {
  if (lock.owner === self) throw new Error(`${self.name} locks ${lock.name}, which it holds`);
  yield undefined;
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

/** Runs `body` as the kernel function `name`, so that it stands in the task's stack. */
export function* call<T>(self: KTask, name: string, body: Task<T>): Task<T> {
  self.stack.push(name);
  try {
    return yield* body;
  } finally {
    self.stack.pop();
  }
}

/** Asks `task` to stop and waits, uninterruptibly, until it has. */
export function* kthreadStop(sched: Sched, self: KTask, task: KTask): Task {
  task.shouldStop = true;
  sched.interrupt(task);
  yield* call(
    self,
    'kthread_stop',
    waitEvent(task.exit, () => task.exited, 'D'),
  );
}

/** A task's stack as `/proc/PID/stack` prints it: innermost first, module in brackets. */
export function procStack(task: KTask): string[] {
  return [...task.stack]
    .reverse()
    .concat('kthread', 'ret_from_fork')
    .map((name) => `[<0>] ${name}`);
}

/** The chain of tasks that `task` waits for, itself first; the last one is again the first in a deadlock. */
export function waitsFor(task: KTask): KTask[] {
  const chain = [task];
  for (let next = task.waitingOn?.owner?.(); next; next = next.waitingOn?.owner?.()) {
    const seen = chain.includes(next);
    chain.push(next);
    if (seen) break;
  }
  return chain;
}
