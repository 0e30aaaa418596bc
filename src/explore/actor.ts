/**
 * Those who act on a kernel from outside while it is explored: the toolstack, guests, users. Each is a task under the
 * same scheduler with a store connection of its own, and can be preempted before every request.
 */
import type { Clock } from '../xenbus/clock.js';
import { KTask, type Point, type Sched, type Task, waitEvent, waitQueue } from '../xenbus/kernel/sched.js';
import type { StoreLink, StorePort } from '../xenbus/transport.js';
import { joinStrings, splitStrings, type XsErrno, XsError, type XsPacket, XsType } from '../xenbus/xs-wire.js';

/** Before a request. */
const request: Point = { at: 'xenstore request' };

export interface ActorOptions {
  readonly lane: string;
  readonly pid: number;
  readonly sched: Sched;
  readonly clock: Clock;
  readonly store: StorePort;
  /** Something that it did, for traces. */
  readonly note: (lane: string, text: string) => void;
}

export class Actor {
  readonly lane: string;
  readonly task: KTask;
  /** How many actors wait for something with a deadline: while there are any, time may pass. */
  waiting = false;
  readonly #options: ActorOptions;
  readonly #events = waitQueue('a watch event');
  #link: StoreLink | undefined;
  #reply: XsPacket | undefined;
  #fired = false;

  constructor(options: ActorOptions) {
    this.#options = options;
    this.lane = options.lane;
    this.task = new KTask(options.pid, options.lane, { domid: 0, frozen: false, ready: 0 });
  }

  start(body: (self: Actor) => Task): void {
    this.#link = this.#options.store.connect({
      domid: 0,
      who: 'client',
      deliver: (packet) => {
        if (packet.type !== XsType.WatchEvent) this.#reply = packet;
        else {
          this.#fired = true;
          this.#options.sched.wakeAll(this.#events);
        }
      },
      closed: () => {},
    });
    this.#options.sched.spawn(this.task, () => body(this));
  }

  /** Says what it does, in a trace. */
  note(text: string): void {
    this.#options.note(this.lane, text);
  }

  *request(type: number, txId: number, payload: string): Task<string> {
    yield request;
    this.#reply = undefined;
    this.#link?.push({ type, reqId: 1, txId, payload });
    const reply = this.#reply as XsPacket | undefined;
    if (!reply) throw new Error(`no reply to ${type} ${payload}`);
    if (reply.type === XsType.Error) throw new XsError((splitStrings(reply.payload)[0] ?? 'EIO') as XsErrno);
    return reply.payload;
  }

  *write(path: string, value: string, txId = 0): Task {
    yield* this.request(XsType.Write, txId, joinStrings(path) + value);
    if (txId === 0) this.note(`write ${path} "${value}"`);
  }

  *read(path: string, txId = 0): Task<string | undefined> {
    try {
      return yield* this.request(XsType.Read, txId, joinStrings(path));
    } catch (error) {
      if (error instanceof XsError && error.errno === 'ENOENT') return undefined;
      throw error;
    }
  }

  *rm(path: string, txId = 0): Task {
    try {
      yield* this.request(XsType.Rm, txId, joinStrings(path));
      if (txId === 0) this.note(`rm ${path}`);
    } catch (error) {
      if (!(error instanceof XsError && error.errno === 'ENOENT')) throw error;
    }
  }

  /** Runs `body` in a transaction, again on EAGAIN. */
  *transaction(what: string, body: (txId: number) => Task): Task {
    for (;;) {
      const txId = Number(splitStrings(yield* this.request(XsType.TransactionStart, 0, joinStrings('')))[0]);
      yield* body(txId);
      try {
        yield* this.request(XsType.TransactionEnd, txId, joinStrings('T'));
        this.note(what);
        return;
      } catch (error) {
        if (!(error instanceof XsError && error.errno === 'EAGAIN')) throw error;
      }
    }
  }

  /** Waits until the value of a node is as wanted, for `ms` at most; answers whether it is. */
  *until(path: string, wanted: (value: string | undefined) => boolean, ms: number): Task<boolean> {
    const { clock, sched } = this.#options;
    let expired = false;
    yield* this.request(XsType.Watch, 0, joinStrings(path, path));
    const cancel = clock.after(ms, () => {
      expired = true;
      sched.wakeAll(this.#events);
    });
    this.waiting = true;
    let held = wanted(yield* this.read(path));
    while (!held && !expired) {
      yield* waitEvent(this.#events, () => this.#fired || expired);
      this.#fired = false;
      held = wanted(yield* this.read(path));
    }
    this.waiting = false;
    cancel();
    yield* this.request(XsType.Unwatch, 0, joinStrings(path, path));
    return held;
  }
}
