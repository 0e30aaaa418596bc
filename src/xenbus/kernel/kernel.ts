/**
 * One kernel: its tasks, its log and its connection to XenStore. dom0 has one, and so has every guest.
 *
 * The XenStore side is drivers/xen/xenbus/xenbus_xs.c and xenbus_comms.c: a request of a task goes out with a number,
 * the task sleeps uninterruptibly, and the `xenbus` thread takes replies and events off the ring, wakes whom a reply is
 * for and hands events on. That thread never runs a callback, so requests are answered while every callback hangs.
 */
import type { Clock } from '../clock.js';
import type { Keep, Recovered } from '../keep.js';
import type { StoreLink, StorePort, Who } from '../transport.js';
import { parseState, XenbusState } from '../xenbus.js';
import { joinStrings, splitStrings, type XsErrno, XsError, type XsPacket, XsType } from '../xs-wire.js';
import type { Defects } from './hazards.js';
import { Workqueue } from './locks.js';
import { type Taint, untainted } from './oops.js';
import { bug, call, KTask, type Sched, type Task, type TaskHome, type WaitQueue, waitEvent, waitQueue } from './sched.js';
import type { WatchEvent } from './xenwatch.js';

/** The first pid that a model's kernel thread gets; lower ones belong to threads that are not modelled. */
const firstPid = 29;
/** Packets that the ring holds before the store has to keep the next ones, and merges events that are the same. */
export const ringPacketsMax = 32;

export interface KernelOptions {
  readonly domid: number;
  readonly who: Who;
  readonly sched: Sched;
  readonly clock: Clock;
  readonly printk: (text: string) => void;
  /** Who watches over what the kernel does: the explorer, a test. */
  readonly observer?: Observer;
  /** What is built wrong on purpose. */
  readonly defects?: Defects;
  /** Whether an allocation, or the start of a thread, fails now. */
  readonly fails?: (what: string) => boolean;
  /** Whether dynamic debug is on for a module. */
  readonly debugs?: (module: string) => boolean;
  /** Gets what the kernel's next life needs; absent: nothing is kept. */
  readonly keep?: Keep;
  /** What its last life has kept; absent: it boots. */
  readonly recovered?: Recovered | undefined;
}

/** What a kernel tells of itself, for whoever checks or traces it; nothing depends on it. */
export interface Observer {
  /** Something worth a line in a trace, in the words of the recordings of a real kernel. */
  note?(task: KTask | undefined, text: string): void;
  /** An event was queued by the ring reader, goes to another thread, begins, ends, is dropped with its watch. */
  queued?(event: WatchEvent): void;
  began?(task: KTask, event: WatchEvent): void;
  ended?(task: KTask, event: WatchEvent): void;
  purged?(event: WatchEvent): void;
  /** A domain is forgotten by who hands events out, with so many events in its queue. */
  unhashed?(task: KTask, domid: number, left: number): void;
  /** What a kernel with its debugging options would complain about. */
  complain?(task: KTask, what: Complaint, text: string): void;
}

export type Complaint = 'BUG' | 'WARN' | 'sleeping in atomic' | 'use after free' | 'ERR_PTR' | 'double connect';

/** Where a task that starts another one can be preempted. */
const kthreadd = { at: 'kthread_run' };

interface PendingReply {
  readonly task: KTask;
  reply: XsPacket | undefined;
}

export class Kernel {
  readonly home: TaskHome;
  readonly sched: Sched;
  readonly clock: Clock;
  readonly printk: (text: string) => void;
  readonly debugs: (module: string) => boolean;
  readonly domid: number;
  readonly observer: Observer | undefined;
  readonly keep: Keep | undefined;
  readonly recovered: Recovered | undefined;
  readonly defects: Defects;
  readonly taint: Taint = untainted();
  /** The system's workqueue. */
  readonly workqueue: Workqueue;
  /** What takes the events that the ring brings, in the thread that reads it; set before `connect`. */
  onWatchEvent: (path: string, token: string) => Task | undefined = () => undefined;

  readonly #fails: (what: string) => boolean;
  readonly #who: Who;
  readonly #ring: XsPacket[] = [];
  readonly #ringQueue = waitQueue('xb_waitq');
  readonly #pending = new Map<number, PendingReply>();
  #link: StoreLink | undefined;
  /** Requests that wait for room in the store's input queue; no more than there are tasks. */
  readonly #backlog: XsPacket[] = [];
  #full = false;
  #nextReq = 1;
  #nextPid = firstPid;

  constructor(options: KernelOptions) {
    this.domid = options.domid;
    this.home = { domid: options.domid, frozen: false, ready: 0 };
    this.sched = options.sched;
    this.clock = options.clock;
    this.printk = options.printk;
    this.observer = options.observer;
    this.keep = options.keep;
    this.recovered = options.recovered;
    this.defects = options.defects ?? new Set();
    this.#fails = options.fails ?? (() => false);
    this.debugs = options.debugs ?? (() => false);
    this.#who = options.who;
    this.workqueue = new Workqueue(this.sched, (name, entry, body) => this.spawn(name, entry, body));
  }

  /** The task that runs now. Only tasks call what needs it. */
  get self(): KTask {
    const task = this.sched.current;
    if (!task) throw new Error('no kernel task is running');
    return task;
  }

  /** A debug message of a module; kept only where dynamic debug is on for it. */
  debug(module: string, text: string): void {
    if (this.debugs(module)) this.printk(text);
  }

  /** Starts a kernel thread; `entry` is the function at the bottom of its stack. */
  spawn(name: string, entry: string, body: (self: KTask) => Task): KTask {
    const task = new KTask(this.#nextPid++, name, this.home);
    return this.sched.spawn(task, (self) => call(self, entry, body(self)));
  }

  /**
   * `kthread_run`: waits until kthreadd has made the thread. Undefined: there was no memory for it, or no pid, and the
   * real one answers with an ERR_PTR.
   */
  *kthreadRun(name: string, entry: string, body: (self: KTask) => Task): Task<KTask | undefined> {
    this.sched.mightSleep(this.self, 'kthread_run');
    yield kthreadd;
    return this.#fails(`kthread_run ${name}`) ? undefined : this.spawn(name, entry, body);
  }

  /** Whether an allocation succeeds; `what` says of what. */
  alloc(what: string): boolean {
    return !this.#fails(what);
  }

  /** BUG(), at a place in the source: the running task dies and keeps what it holds. */
  *bug(at: string): Task<never> {
    this.observer?.complain?.(this.self, 'BUG', at);
    return yield* bug(`kernel BUG at ${at}!`);
  }

  /** A line for whoever traces the kernel. */
  note(text: () => string): void {
    this.observer?.note?.(this.sched.current, text());
  }

  /** Runs `body` as the kernel function `name`. */
  call<T>(name: string, body: Task<T>): Task<T> {
    return call(this.self, name, body);
  }

  /** Sleeps until `ready` holds, looking when `queue` is woken, for `ms` at most; answers whether it holds. */
  *sleepOn(queue: WaitQueue, ms: number, ready: () => boolean): Task<boolean> {
    let expired = false;
    const cancel = this.clock.after(ms, () => {
      expired = true;
      this.sched.wakeAll(queue);
    });
    yield* waitEvent(queue, () => expired || ready());
    cancel();
    return ready();
  }

  /** Opens the connection to XenStore and starts the thread that reads it. */
  connect(port: StorePort): void {
    this.#link = port.connect({
      domid: this.domid,
      who: this.#who,
      deliver: (packet) => {
        this.#ring.push(packet);
        this.sched.wakeAll(this.#ringQueue);
      },
      full: () => this.#ring.length >= ringPacketsMax,
      closed: () => {
        this.#link = undefined;
      },
      drained: () => {
        this.#full = false;
        this.#flush();
      },
    });
    this.spawn('xenbus', 'xenbus_thread', (self) => this.#xenbusThread(self));
  }

  /** Drops the connection: the domain is gone, or the machine is. */
  disconnect(): void {
    this.#link?.close();
    this.#link = undefined;
  }

  *#xenbusThread(self: KTask): Task {
    for (;;) {
      yield* waitEvent(this.#ringQueue, () => this.#ring.length > 0);
      const wasFull = this.#ring.length >= ringPacketsMax;
      const packet = this.#ring.shift();
      if (!packet) continue;
      self.spins = 0;
      if (wasFull) this.#link?.resume();
      if (packet.type === XsType.WatchEvent) {
        const [path, token] = splitStrings(packet.payload);
        const taken = path !== undefined && token !== undefined ? this.onWatchEvent(path, token) : undefined;
        if (taken) yield* this.call('xs_watch_msg', taken);
      } else {
        const pending = this.#pending.get(packet.reqId);
        if (pending) {
          pending.reply = packet;
          this.sched.wakeAll(pending.task.reply);
        }
      }
    }
  }

  #flush(): void {
    while (this.#link && !this.#full) {
      const packet = this.#backlog.shift();
      if (!packet) return;
      this.#full = !this.#link.push(packet);
    }
  }

  /** One request and its answer. An XS_ERROR is thrown as `XsError`. */
  *talk(type: number, txId: number, payload: string): Task<string> {
    const task = this.self;
    this.sched.mightSleep(task, 'xs_talkv');
    const reqId = this.#nextReq;
    this.#nextReq = (this.#nextReq % 0xffff_fffe) + 1;
    const pending: PendingReply = { task, reply: undefined };
    this.#pending.set(reqId, pending);
    this.#backlog.push({ type, reqId, txId, payload });
    this.#flush();
    yield* this.call(
      'xs_talkv',
      this.call(
        'xs_wait_for_reply',
        waitEvent(task.reply, () => pending.reply !== undefined, 'D'),
      ),
    );
    this.#pending.delete(reqId);
    const reply = pending.reply;
    if (!reply) throw new Error('woken without a reply');
    if (reply.type === XsType.Error) throw new XsError((splitStrings(reply.payload)[0] ?? 'EIO') as XsErrno);
    return reply.payload;
  }

  /** The value of a node; undefined when it is missing. */
  *read(path: string, txId = 0): Task<string | undefined> {
    return yield* orMissing(this.talk(XsType.Read, txId, joinStrings(path)));
  }

  /** The children of a node; undefined when it is missing. */
  *directory(path: string, txId = 0): Task<string[] | undefined> {
    const list = yield* orMissing(this.talk(XsType.Directory, txId, joinStrings(path)));
    return list === undefined ? undefined : splitStrings(list);
  }

  /**
   * The children of a node that may have more of them than one reply can list (XS_DIRECTORY_PART). Linux has no such
   * function: its `xenbus_directory` fails with E2BIG then.
   */
  *directoryWhole(path: string): Task<string[] | undefined> {
    try {
      return yield* this.directory(path);
    } catch (error) {
      if (!(error instanceof XsError && error.errno === 'E2BIG')) throw error;
    }
    let generation: string | undefined;
    for (let names = ''; ; ) {
      const reply = yield* orMissing(this.talk(XsType.DirectoryPart, 0, joinStrings(path, String(names.length))));
      if (reply === undefined) return undefined;
      const end = reply.indexOf('\0');
      const part = reply.slice(end + 1);
      const isWhole = generation === undefined || generation === reply.slice(0, end);
      generation = isWhole ? reply.slice(0, end) : undefined;
      // It changed between two parts: from the start again.
      if (!isWhole) names = '';
      else if (part === '\0' || part.endsWith('\0\0')) return splitStrings(names + part.slice(0, -1));
      else names += part;
    }
  }

  /** `xenbus_exists`: asks for the directory. Whatever goes wrong, it is not there. */
  *exists(path: string): Task<boolean> {
    try {
      return (yield* this.directory(path)) !== undefined;
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      return false;
    }
  }

  /** `xenbus_read_driver_state`: Unknown when it cannot be read, for whatever reason. */
  *readState(dir: string): Task<number> {
    try {
      return parseState(yield* this.read(`${dir}/state`));
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      return XenbusState.Unknown;
    }
  }

  *write(path: string, value: string, txId = 0): Task {
    yield* this.talk(XsType.Write, txId, joinStrings(path) + value);
  }

  *rm(path: string, txId = 0): Task {
    yield* orMissing(this.talk(XsType.Rm, txId, joinStrings(path)));
  }

  *watch(path: string, token: string): Task {
    yield* this.talk(XsType.Watch, 0, joinStrings(path, token));
  }

  *unwatch(path: string, token: string): Task {
    yield* this.talk(XsType.Unwatch, 0, joinStrings(path, token));
  }

  /**
   * Runs `body` in a transaction, again on EAGAIN. A body that answers false ends it without a commit; so does one
   * that throws.
   */
  *transaction(body: (txId: number) => Task<boolean>): Task<boolean> {
    for (;;) {
      const txId = Number(splitStrings(yield* this.talk(XsType.TransactionStart, 0, joinStrings('')))[0]);
      let commit = false;
      try {
        commit = yield* body(txId);
      } catch (error) {
        yield* this.talk(XsType.TransactionEnd, txId, joinStrings('F'));
        throw error;
      }
      try {
        yield* this.talk(XsType.TransactionEnd, txId, joinStrings(commit ? 'T' : 'F'));
        return commit;
      } catch (error) {
        if (!(error instanceof XsError && error.errno === 'EAGAIN')) throw error;
      }
    }
  }
}

/** ENOENT as undefined. */
function* orMissing(request: Task<string>): Task<string | undefined> {
  try {
    return yield* request;
  } catch (error) {
    if (error instanceof XsError && error.errno === 'ENOENT') return undefined;
    throw error;
  }
}
