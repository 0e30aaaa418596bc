/**
 * One kernel: its tasks, its log and its connection to XenStore. dom0 has one, and so has every guest.
 *
 * The XenStore side is drivers/xen/xenbus/xenbus_xs.c and xenbus_comms.c: a request of a task goes out with a number,
 * the task sleeps uninterruptibly, and the `xenbus` thread takes replies and events off the ring, wakes whom a reply is
 * for and hands events on. That thread never runs a callback, so requests are answered while every callback hangs.
 */
import type { Clock } from '../clock.js';
import type { StoreLink, StorePort, Who } from '../transport.js';
import { parseState, XenbusState } from '../xenbus.js';
import { joinStrings, splitStrings, type XsErrno, XsError, type XsPacket, XsType } from '../xs-wire.js';
import { call, KTask, type Sched, type Task, type TaskHome, type WaitQueue, waitEvent, waitQueue } from './sched.js';

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
}

interface PendingReply {
  readonly queue: WaitQueue;
  reply: XsPacket | undefined;
}

export class Kernel {
  readonly home: TaskHome;
  readonly sched: Sched;
  readonly clock: Clock;
  readonly printk: (text: string) => void;
  readonly domid: number;
  /** What takes the events that the ring brings; set before `connect`. */
  onWatchEvent: (path: string, token: string) => void = () => {};

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
    this.#who = options.who;
  }

  /** The task that runs now. Only tasks call what needs it. */
  get self(): KTask {
    const task = this.sched.current;
    if (!task) throw new Error('no kernel task is running');
    return task;
  }

  /** Starts a kernel thread; `entry` is the function at the bottom of its stack. */
  spawn(name: string, entry: string, body: (self: KTask) => Task): KTask {
    const task = new KTask(this.#nextPid++, name, this.home);
    return this.sched.spawn(task, (self) => call(self, entry, body(self)));
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
    this.spawn('xenbus', 'xenbus_thread', () => this.#xenbusThread());
  }

  /** Drops the connection: the domain is gone, or the machine is. */
  disconnect(): void {
    this.#link?.close();
    this.#link = undefined;
  }

  *#xenbusThread(): Task {
    for (;;) {
      yield* waitEvent(this.#ringQueue, () => this.#ring.length > 0);
      const wasFull = this.#ring.length >= ringPacketsMax;
      const packet = this.#ring.shift();
      if (!packet) continue;
      if (wasFull) this.#link?.resume();
      if (packet.type === XsType.WatchEvent) {
        const [path, token] = splitStrings(packet.payload);
        if (path !== undefined && token !== undefined) this.onWatchEvent(path, token);
      } else {
        const pending = this.#pending.get(packet.reqId);
        if (pending) {
          pending.reply = packet;
          this.sched.wakeAll(pending.queue);
        }
      }
      yield undefined;
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
    const reqId = this.#nextReq;
    this.#nextReq = (this.#nextReq % 0xffff_fffe) + 1;
    const pending: PendingReply = { queue: waitQueue('xs_reply'), reply: undefined };
    this.#pending.set(reqId, pending);
    this.#backlog.push({ type, reqId, txId, payload });
    this.#flush();
    yield* this.call(
      'xs_talkv',
      this.call(
        'xs_wait_for_reply',
        waitEvent(pending.queue, () => pending.reply !== undefined, 'D'),
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
