/**
 * Kernel tasks: what they run, what they wait for, and who goes on.
 *
 * A task is a generator. It yields wherever a kernel thread could sleep or be preempted, and the scheduler decides who
 * goes on: first in, first out when live, by a strategy's choice in simulation and in `xl mtwatch explore`. Nothing
 * here reads a clock or a promise, so the same choices give the same run. Each function that the model wants to see in
 * a stack runs under `call`, which keeps the task's stack of names; `/proc/PID/stack`, hung-task reports and wait-for
 * cycles derive from that and from what the task waits on. The locks are in locks.ts.
 *
 * ```
 * function* worker(self: KTask): Task {
 *   yield* waitEvent(queue, () => work.length > 0);   // S: asleep until woken and the condition holds
 *   yield* mutexLock(self, lock);                     // D: uninterruptible
 *   ...
 *   mutexUnlock(sched, self, lock);
 * }
 * ```
 */

/** What a task runs. It yields where it can be preempted, what it blocks on, a function to call, or its death. */
export type Task<T = void> = Generator<Yielded, T, void>;
export type Yielded = Block | Point | Call<unknown> | Bug | undefined;

export type TaskState = 'R' | 'S' | 'D';

/** A place where tasks sleep until somebody wakes them. */
export interface WaitQueue {
  readonly name: string;
  readonly waiters: Set<KTask>;
  /** Who could wake it, for wait-for cycles: the owner of a lock, the task that is to exit. */
  readonly owner?: () => KTask | undefined;
}

/** What a blocked task does meanwhile: it sleeps (S, D), or it spins on a lock (R). */
export interface Block {
  readonly on: WaitQueue;
  readonly state: TaskState;
}

/** A place where a task can be preempted; `at` names the primitive, for coverage. */
export interface Point {
  readonly at: string;
}

/** BUG(): the task dies here and runs no further. What it holds stays held. */
export interface Bug {
  readonly bug: string;
}

/** What a task can hold. */
export interface Lock {
  readonly name: string;
  readonly kind: 'mutex' | 'spinlock' | 'rwsem';
  /** Where tasks wait for it. */
  readonly queue: WaitQueue;
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
  readonly holds = new Set<Lock>();
  waitingOn: WaitQueue | undefined;
  /** How often it blocked; a task in D whose count does not move is hung. */
  switches = 0;
  shouldStop = false;
  exited = false;
  /** Why it died, if it did not return. */
  died: string | undefined;
  /** Told when it has died, by whoever made it; what it held is still held. */
  onDeath: (() => void) | undefined;
  readonly exit: WaitQueue;
  /** Where it waits for the reply to its one request. */
  readonly reply: WaitQueue;
  /** Steps since it blocked last, or got something done. */
  spins = 0;
  /** Spinlocks that it holds, and RCU read sections that it is in. */
  atomic = 0;
  rcu = 0;
  /** The domain whose work it does; only a stall of that domain may hold it up. */
  serves = 0;
  /** Its name in a trace; unique in a run. */
  lane: string;
  sched: Sched | undefined;
  /** The functions that it is in, innermost last, and what it started with. */
  readonly frames: Call<unknown>[] = [];
  body: Iterator<Yielded, unknown, void> | undefined;

  constructor(
    readonly pid: number,
    /** The whole name; `comm` is what `current->comm` holds of it. */
    readonly name: string,
    readonly home: TaskHome,
  ) {
    this.exit = { name: `exit of ${name}`, waiters: new Set(), owner: () => this };
    this.reply = { name: 'xs_reply', waiters: new Set() };
    this.lane = name;
  }

  /** TASK_COMM_LEN is 16 with its NUL. */
  get comm(): string {
    return this.name.slice(0, 15);
  }
}

export type Trouble = 'oops' | 'soft lockup';

export interface SchedHooks {
  /**
   * Which of two or more runnable tasks goes on, as an index; `current` is that of the task that took the last step,
   * -1 when it cannot go on.
   */
  readonly choose?: (ready: readonly KTask[], current: number) => number;
  /** There is something to run now that there was not. */
  readonly wake: () => void;
  /** A task threw, met a BUG, or spun for `taskStepsMax` steps; it is parked for good. */
  readonly trouble: (task: KTask, what: Trouble, error?: unknown) => void;
  /** A task took a step. */
  readonly charged?: (task: KTask) => void;
  /** A task was made; it has not run yet. */
  readonly spawned?: (task: KTask) => void;
  /** A task is about to wait; what it waits on is set. */
  readonly blocking?: (task: KTask) => void;
  /** A task might sleep where it must not: with a spinlock held, or in an RCU read section. */
  readonly sleptAtomic?: (task: KTask, what: string) => void;
}

export class Sched {
  readonly #hooks: SchedHooks;
  readonly #tasks = new Set<KTask>();
  readonly #frozen = new Map<TaskHome, KTask[]>();
  #runnable: KTask[] = [];
  #head = 0;
  #current: KTask | undefined;
  #last: KTask | undefined;
  /** Where the last step ended, if its task can go on. */
  lastPoint: string | undefined;
  /** Readers that a grace period waits for, and what comes after it. */
  #graces: { readonly readers: Set<KTask>; readonly then: () => void }[] = [];

  constructor(hooks: SchedHooks) {
    this.#hooks = hooks;
  }

  /** Every task that has not exited, in order of creation. */
  get tasks(): IterableIterator<KTask> {
    return this.#tasks.values();
  }

  get runnable(): boolean {
    return this.#head < this.#runnable.length;
  }

  get current(): KTask | undefined {
    return this.#current;
  }

  spawn(task: KTask, body: (self: KTask) => Task): KTask {
    task.sched = this;
    task.body = body(task);
    this.#hooks.spawned?.(task);
    this.#tasks.add(task);
    task.home.ready += 1;
    this.#enqueue(task);
    return task;
  }

  /** Lets one task run until it yields; false when none can. */
  step(): boolean {
    const task = this.#take();
    if (!task) return false;
    if (!task.body) return true;
    this.#current = task;
    this.#last = task;
    task.spins += 1;
    this.#hooks.charged?.(task);
    this.#run(task, task.body);
    this.#current = undefined;
    return true;
  }

  /** Resumes the innermost function; a call goes into another one, a return comes back to its caller. */
  #run(task: KTask, body: Iterator<Yielded, unknown, void>): void {
    const { frames, stack } = task;
    for (;;) {
      const frame = frames[frames.length - 1];
      let result: IteratorResult<Yielded, unknown>;
      try {
        result = (frame ? frame.body : body).next();
      } catch (error) {
        if (!frame) {
          this.#park(task, 'oops', error);
          return;
        }
        frames.pop();
        stack.pop();
        frame.fail(error);
        continue;
      }
      if (!result.done) {
        if (!(result.value instanceof Call)) {
          this.#yielded(task, result.value);
          return;
        }
        frames.push(result.value);
        stack.push(result.value.name);
      } else if (frame) {
        frames.pop();
        stack.pop();
        frame.succeed(result.value);
      } else {
        this.#exit(task);
        return;
      }
    }
  }

  #yielded(task: KTask, value: Block | Point | Bug | undefined): void {
    this.lastPoint = value && 'at' in value ? value.at : undefined;
    if (value && 'on' in value) this.#block(task, value);
    else if (value && 'bug' in value) this.#park(task, 'oops', value.bug);
    else if (task.spins >= taskStepsMax) this.#park(task, 'soft lockup');
    else this.#enqueue(task);
  }

  wakeAll(queue: WaitQueue): void {
    if (queue.waiters.size === 0) return;
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
    for (const task of [...this.#tasks]) if (task.home === home) this.#forget(task);
    this.#runnable = this.#runnable.slice(this.#head).filter((task) => task.home !== home);
    this.#head = 0;
    this.#frozen.delete(home);
  }

  /** Tells a checker that `task` might sleep at `what` although it must not. */
  mightSleep(task: KTask, what: string): void {
    if (task.atomic + task.rcu > 0) this.#hooks.sleptAtomic?.(task, what);
  }

  /** Calls `then` once every RCU read section that is open now has ended. */
  afterGracePeriod(then: () => void): void {
    const readers = new Set([...this.#tasks].filter((task) => task.rcu > 0 && (!task.waitingOn || task.state === 'R')));
    if (readers.size === 0) then();
    else this.#graces.push({ readers, then });
  }

  /** `task` holds up no grace period any more: it has left its read section, or it sleeps, which counts the same here. */
  quiescent(task: KTask): void {
    if (this.#graces.length === 0) return;
    for (const grace of this.#graces) grace.readers.delete(task);
    const over = this.#graces.filter(({ readers }) => readers.size === 0);
    this.#graces = this.#graces.filter(({ readers }) => readers.size > 0);
    for (const { then } of over) then();
  }

  #take(): KTask | undefined {
    const { choose } = this.#hooks;
    while (this.runnable) {
      let index = this.#head;
      if (choose && this.#runnable.length > 1) {
        if (this.#head > 0) this.#compact();
        index = this.#runnable.length > 1 ? choose(this.#runnable, this.#last ? this.#runnable.indexOf(this.#last) : -1) : 0;
      }
      const task = this.#runnable[index];
      if (index === this.#head) this.#head += 1;
      else this.#runnable.splice(index, 1);
      if (this.#head > 1024 && this.#head * 2 > this.#runnable.length) this.#compact();
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

  #compact(): void {
    this.#runnable.splice(0, this.#head);
    this.#head = 0;
  }

  #enqueue(task: KTask): void {
    const idle = !this.runnable;
    this.#runnable.push(task);
    if (idle) this.#hooks.wake();
  }

  #block(task: KTask, block: Block): void {
    if (block.state !== 'R') this.mightSleep(task, block.on.name);
    task.state = block.state;
    task.waitingOn = block.on;
    task.switches += 1;
    task.spins = 0;
    task.home.ready -= 1;
    block.on.waiters.add(task);
    if (task.rcu > 0 && task.state !== 'R') this.quiescent(task);
    this.#hooks.blocking?.(task);
  }

  #wake(task: KTask, queue: WaitQueue): void {
    if (!queue.waiters.delete(task)) return;
    task.state = 'R';
    task.waitingOn = undefined;
    task.home.ready += 1;
    this.#enqueue(task);
  }

  #exit(task: KTask): void {
    this.#tasks.delete(task);
    task.body = undefined;
    task.home.ready -= 1;
    task.exited = true;
    task.rcu = 0;
    this.quiescent(task);
    this.wakeAll(task.exit);
  }

  #park(task: KTask, what: Trouble, error?: unknown): void {
    if (what === 'oops') task.died = typeof error === 'string' ? error : String(error);
    this.#hooks.trouble(task, what, error);
    if (what === 'oops') {
      this.#exit(task);
      task.onDeath?.();
    } else task.home.ready -= 1;
  }

  #forget(task: KTask): void {
    task.waitingOn?.waiters.delete(task);
    this.#tasks.delete(task);
    task.body = undefined;
    task.exited = true;
    task.home.ready = 0;
  }
}

/**
 * A function in progress, as the scheduler sees it: what runs in it, and how it ended. It behaves as a generator
 * towards `yield*`, so that a caller cannot tell, but the scheduler resumes `body` directly: what a step costs does not
 * grow with the depth of the stack.
 */
export class Call<T> {
  #ended = false;
  #failed = false;
  #value: unknown;

  constructor(
    readonly name: string,
    readonly body: Iterator<Yielded, T, void>,
  ) {}

  succeed(value: unknown): void {
    this.#ended = true;
    this.#value = value;
  }

  fail(error: unknown): void {
    this.#ended = true;
    this.#failed = true;
    this.#value = error;
  }

  next(): IteratorResult<Yielded, T> {
    if (!this.#ended) return { done: false, value: this as Call<unknown> };
    if (this.#failed) throw this.#value;
    return { done: true, value: this.#value as T };
  }

  [Symbol.iterator](): this {
    return this;
  }
}

export function waitQueue(name: string, owner?: () => KTask | undefined): WaitQueue {
  return owner ? { name, waiters: new Set(), owner } : { name, waiters: new Set() };
}

/** Sleeps on `queue` until `ready` holds, looking again at each wake-up. */
export function* waitEvent(queue: WaitQueue, ready: () => boolean, state: 'S' | 'D' = 'S'): Task {
  while (!ready()) yield { on: queue, state };
}

/** Runs `body` as the kernel function `name`, so that it stands in the task's stack. */
export function call<T>(_self: KTask, name: string, body: Task<T>): Task<T> {
  return new Call(name, body) as unknown as Task<T>;
}

/** BUG(): whoever meets it dies, with all that it holds. */
export function* bug(text: string): Task<never> {
  yield { bug: text };
  throw new Error('a dead task went on');
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

/** The function at the bottom of the stack of a task that has come from user space, and is no kernel thread. */
export const syscallEntry = 'entry_SYSCALL_64_after_hwframe';

/** A task's stack as `/proc/PID/stack` prints it: innermost first, module in brackets. */
export function procStack(task: KTask): string[] {
  return [...task.stack]
    .reverse()
    .concat(task.stack[0] === syscallEntry ? [] : ['kthread', 'ret_from_fork'])
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
