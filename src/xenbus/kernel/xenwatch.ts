/**
 * Watches of a kernel: registration, the queueing of events, and the one default thread that runs every callback.
 *
 * Rules from drivers/xen/xenbus/xenbus_xs.c of Linux 6.1. The `xenbus` thread queues events (`xsWatchMsg`); who runs
 * the callbacks is a `Dispatch`: here the kernel as it is, one `xenwatch` thread that holds `xenwatch_mutex` over each
 * callback, so that one callback which never returns stops all of them. rfc.ts has the patch as it was posted,
 * mtwatch.ts the design that keeps its promise.
 */
import type { Ms } from '../clock.js';
import { type Kept, keptBelow, type Recovered } from '../keep.js';
import { XsError } from '../xs-wire.js';
import type { Kernel } from './kernel.js';
import { downRead, mutex, mutexLock, mutexUnlock, rwsem, spinLock, spinlock, spinUnlock, upRead } from './locks.js';
import { type KTask, type Task, waitEvent, waitQueue } from './sched.js';

/** Events that one thread may have waiting. dom0's own writes are not limited otherwise; see XSA-349 for the guests'. */
export const watchEventsMax = 65_536;

/** A registered watch. What a caller gives is `readonly`. */
export interface XenbusWatch {
  readonly node: string;
  /** The callback's name in the kernel, for stacks and lists. */
  readonly name: string;
  readonly callback: (path: string, token: string) => Task;
  /** The domain that an event of this watch is about; 0 for dom0's own. */
  readonly domidOf: (path: string) => number;
  /** A guest can write there: at most one event waits (`frontend_will_handle`, XSA-349). */
  readonly guestWritable: boolean;
  /** What the patch adds to a watch: the domain of an event, and that of the watch itself. Few watches have them. */
  readonly getDomid?: ((path: string) => number) | undefined;
  readonly getOwner?: (() => number) | undefined;

  token: string;
  /** Events queued whose callback has not begun. */
  pending: number;
  /** The threads that are in its callback now. */
  readonly runners: Set<KTask>;
  /** `unregister_xenbus_watch` has returned: whoever registered it may have freed it. */
  gone: boolean;
}

/** What a caller must say of a watch. */
export type WatchSpec = Pick<XenbusWatch, 'node' | 'name' | 'callback'> &
  Partial<Pick<XenbusWatch, 'domidOf' | 'guestWritable' | 'getDomid' | 'getOwner'>>;

export interface WatchEvent {
  readonly watch: XenbusWatch;
  readonly path: string;
  readonly token: string;
  /** The order in which the store sent it. */
  readonly seq: number;
  /** The domain that it turned out to be about, where the path does not tell. */
  readonly domid?: number;
}

/** The callback that a watch thread is in. */
export interface Running {
  readonly watch: XenbusWatch;
  readonly path: string;
  readonly since: Ms;
}

/** One watch thread as it stands. */
export interface WatchThreadState {
  readonly domid: number;
  readonly task: KTask;
  readonly pending: number;
  readonly handled: number;
  /** Its domain had a node once; without one now, the thread leaves when its queue is empty. */
  readonly announced: boolean;
  /** Whether the kernel takes the domain for announced. */
  readonly node: boolean;
  readonly running: Running | undefined;
  /** What waits, in the order in which it will run. */
  readonly queued: readonly WatchEvent[];
}

/** A design of dispatch: who runs which callback, and what unregistering waits for. */
export interface Dispatch {
  /** Whether it is the design that keeps what it promises: all watches of a device in one thread, all of a guest's limited. */
  readonly hardened: boolean;
  /** Takes an event from the `xenbus` thread, which holds `watches_lock`. */
  queue(self: KTask, event: WatchEvent): Task;
  /** Runs in whoever unregisters, once no new event can come: drops what is queued, waits for what runs. */
  flush(watch: XenbusWatch): Task;
  threads(): WatchThreadState[];
  /** Gives an event to the thread of the domain that it turned out to be about; false: it may run where it is. */
  handOn?(event: WatchEvent, domid: number): Task<boolean>;
  /**
   * Gives an event of a recovered kernel to the thread that is to run it, without a detour; false: it is queued as any other.
   * `thread`: the domain whose thread had it, 0 if none did, undefined for an event that is new.
   */
  requeue?(event: WatchEvent, thread: number | undefined): boolean;
  /** Whether a thread of this domain is there, so that its domid must not be given out again. */
  busy(domid: number): boolean;
}

export class Watches {
  readonly #kernel: Kernel;
  readonly #byToken = new Map<string, XenbusWatch>();
  readonly #lock = spinlock('watches_lock');
  readonly #rwsem = rwsem('xs_watch_rwsem');
  #nextToken = 0xffff_8880_0591_0000n;
  #seq = 0;
  /** Events that come while a recovered kernel registers its watches: none runs before those of its last life. */
  #early: WatchEvent[] | undefined;

  constructor(
    kernel: Kernel,
    readonly dispatch: Dispatch,
  ) {
    this.#kernel = kernel;
    if (kernel.recovered) {
      this.#early = [];
      for (const seq of keptBelow(kernel.recovered, eventPrefix).keys()) this.#seq = Math.max(this.#seq, Number(seq) + 1);
    }
    kernel.onWatchEvent = (path, token) => this.#xsWatchMsg(path, token);
  }

  /** `register_xenbus_watch`. The watch is known before the request goes out, so its first event cannot be lost. */
  *register(spec: WatchSpec): Task<XenbusWatch> {
    const token = this.#nextToken.toString(16).toUpperCase();
    this.#nextToken += 0x30n;
    const watch: XenbusWatch = {
      domidOf: () => 0,
      guestWritable: false,
      ...spec,
      token,
      pending: 0,
      runners: new Set(),
      gone: false,
    };
    yield* this.#kernel.call('register_xenbus_watch', this.#register(watch));
    return watch;
  }

  *#register(watch: XenbusWatch): Task {
    const { self, sched } = this.#kernel;
    yield* downRead(self, this.#rwsem);
    yield* spinLock(self, this.#lock);
    this.#byToken.set(watch.token, watch);
    spinUnlock(sched, self, this.#lock);
    try {
      yield* this.#kernel.watch(watch.node, watch.token);
    } catch (error) {
      yield* spinLock(self, this.#lock);
      this.#byToken.delete(watch.token);
      spinUnlock(sched, self, this.#lock);
      throw error;
    } finally {
      upRead(sched, self, this.#rwsem);
    }
  }

  /**
   * `unregister_xenbus_watch`: when it returns, no callback of this watch runs or will run (but the caller's own).
   * Twice for one watch is a kernel BUG, and who meets it dies with `watches_lock` held: the `xenbus` thread then spins
   * at the next event, and replies stop too.
   */
  *unregister(watch: XenbusWatch): Task {
    yield* this.#kernel.call('unregister_xenbus_watch', this.#unregister(watch));
    watch.gone = true;
  }

  *#unregister(watch: XenbusWatch): Task {
    const { self, sched } = this.#kernel;
    yield* downRead(self, this.#rwsem);
    yield* spinLock(self, this.#lock);
    if (this.#byToken.get(watch.token) !== watch) yield* this.#kernel.bug('drivers/xen/xenbus/xenbus_xs.c:1180');
    this.#byToken.delete(watch.token);
    spinUnlock(sched, self, this.#lock);
    try {
      yield* this.#kernel.unwatch(watch.node, watch.token);
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      this.#kernel.printk(`xenbus: Failed to release watch ${watch.node}: ${error.errno}`);
    }
    upRead(sched, self, this.#rwsem);
    yield* this.dispatch.flush(watch);
  }

  /**
   * For a callback that has found out whose domain its event is about: true when another thread takes it from here, in
   * the order of its domain.
   */
  *handOn(domid: number, path: string, token: string): Task<boolean> {
    const { self, sched } = this.#kernel;
    if (!this.dispatch.handOn) return false;
    yield* spinLock(self, this.#lock);
    // Unregistered meanwhile: whoever does that waits for this callback, but not for an event that is queued after it.
    const watch = this.#byToken.get(token);
    const taken = watch !== undefined && (yield* this.dispatch.handOn({ watch, path, token, seq: this.#seq++, domid }, domid));
    spinUnlock(sched, self, this.#lock);
    return taken;
  }

  /**
   * The watches of a recovered kernel are registered: from here on events run. First come those that its last life had
   * queued and not run to their end, in their order, each in the thread that it would be in; then `further` ones, by the
   * node that is watched, for what may have been on its way; then what the watches themselves have brought.
   */
  *recover(further: readonly (readonly [node: string, path: string])[]): Task {
    const { keep, recovered, self, sched } = this.#kernel;
    yield* spinLock(self, this.#lock);
    const watches = [...this.#byToken.values()];
    const queue = [...keptBelow(recovered, eventPrefix)]
      .sort(([a, one], [b, other]) => runs(one) - runs(other) || Number(a) - Number(b))
      .flatMap(([seq, value]): { event: WatchEvent; thread?: number }[] => {
        const { node, name, path, domid, thread } = value as EventKept;
        const watch = watches.find((each) => each.node === node && each.name === name);
        if (!watch) keep?.delete(eventPrefix + seq);
        const at = domid === undefined ? {} : { domid };
        return watch ? [{ event: { watch, path, token: watch.token, seq: Number(seq), ...at }, thread: thread ?? 0 }] : [];
      });
    const later: WatchEvent[] = [];
    for (const [node, path] of further) {
      const watch = watches.find((each) => each.node === node);
      if (watch) later.push({ watch, path, token: watch.token, seq: this.#seq++ });
    }
    for (const { watch } of [...queue.map(({ event }) => event), ...later]) watch.pending += 1;
    later.push(...(this.#early ?? []).filter(({ watch }) => this.#byToken.get(watch.token) === watch));
    queue.push(...later.map((event) => ({ event })));
    for (const { event, thread } of queue) {
      keepEvent(this.#kernel, event);
      this.#kernel.observer?.queued?.(event);
      if (!this.dispatch.requeue?.(event, thread)) yield* this.dispatch.queue(self, event);
    }
    this.#early = undefined;
    spinUnlock(sched, self, this.#lock);
  }

  /** `xs_watch_msg`: an event of a watch that is gone is dropped, and so is a second one of a guest's node. */
  *#xsWatchMsg(path: string, token: string): Task {
    const { self, sched } = this.#kernel;
    yield* spinLock(self, this.#lock);
    const watch = this.#byToken.get(token);
    if (watch && !(watch.guestWritable && watch.pending > 0)) {
      watch.pending += 1;
      const event: WatchEvent = { watch, path, token, seq: this.#seq++ };
      if (this.#early) this.#early.push(event);
      else {
        keepEvent(this.#kernel, event);
        this.#kernel.observer?.queued?.(event);
        yield* this.dispatch.queue(self, event);
      }
    }
    spinUnlock(sched, self, this.#lock);
  }
}

const eventPrefix = 'event/';

/** An event as it is kept: its watch by what stays the same from one life to the next. */
type EventKept = {
  readonly node: string;
  readonly name: string;
  readonly path: string;
  readonly domid?: number | undefined;
  /** The domain that it is about, whichever told. */
  readonly of: number;
  /** The domain whose thread it was handed to, where that is another one than it was queued for. */
  readonly thread?: number | undefined;
  /** That thread has begun with it, before others that were there. */
  readonly begun?: boolean | undefined;
};

/** What was begun is given last to a thread that takes the newest first. */
const runs = (kept: Kept) => ((kept as EventKept).begun ? 1 : 0);

/** An event is kept from when it is queued until its callback has returned, or nobody will run it. */
export function keepEvent({ keep }: Kernel, { watch, path, seq, domid }: WatchEvent, thread?: number, begun?: boolean): void {
  if (!keep) return;
  const { node, name } = watch;
  const kept: EventKept = { node, name, path, domid, of: domid ?? watch.domidOf(path), thread, begun };
  keep.set(eventPrefix + seq, kept);
}

/** The domains that events of a last life are about, and those whose threads they were handed to. */
export function domainsOfEvents(recovered: Recovered | undefined, which: 'of' | 'thread' = 'of'): Set<number> {
  return new Set([...keptBelow(recovered, eventPrefix).values()].flatMap((value) => (value as EventKept)[which] ?? []));
}

export function strikeOut({ keep }: Kernel, { seq }: WatchEvent): void {
  keep?.delete(eventPrefix + seq);
}

/** What the patch puts into the one thread: who else may take an event, and what else unregistering does. */
export interface Mtwatch {
  /** Whether another thread has taken the event. Runs in xenwatch, with `xenwatch_mutex` held. */
  process(event: WatchEvent): Task<boolean>;
  unregister(watch: XenbusWatch): Task;
}

/** The kernel as it is: one thread, in order, each event for as long as its callback takes. */
export class SingleDispatch implements Dispatch {
  readonly hardened = false;
  readonly #kernel: Kernel;
  readonly #mtwatch: Mtwatch | undefined;
  readonly #events: WatchEvent[] = [];
  readonly #lock = spinlock('watch_events_lock');
  readonly #queue = waitQueue('watch_events_waitq');
  readonly #mutex = mutex('xenwatch_mutex');
  readonly #thread: KTask;
  #handled = 0;
  #running: Running | undefined;

  constructor(kernel: Kernel, mtwatch?: Mtwatch) {
    this.#kernel = kernel;
    this.#mtwatch = mtwatch;
    this.#thread = kernel.spawn('xenwatch', 'xenwatch_thread', (self) => this.#xenwatchThread(self));
  }

  *queue(self: KTask, event: WatchEvent): Task {
    const { sched } = this.#kernel;
    yield* spinLock(self, this.#lock);
    if (this.#events.length < watchEventsMax) this.#events.push(event);
    else {
      event.watch.pending -= 1;
      strikeOut(this.#kernel, event);
      this.#kernel.printk(`xenbus: ${watchEventsMax} watch events wait, ${event.path} dropped`);
    }
    spinUnlock(sched, self, this.#lock);
    sched.wakeAll(this.#queue);
  }

  /** Waits for whatever callback runs, of any watch: that is how it knows that none of this one does. */
  *flush(watch: XenbusWatch): Task {
    const { self, sched } = this.#kernel;
    if (self !== this.#thread) yield* mutexLock(self, this.#mutex);
    yield* spinLock(self, this.#lock);
    dropEvents(this.#kernel, this.#events, watch);
    spinUnlock(sched, self, this.#lock);
    if (self !== this.#thread) mutexUnlock(sched, self, this.#mutex);
    if (this.#mtwatch) yield* this.#mtwatch.unregister(watch);
  }

  threads(): WatchThreadState[] {
    return [
      {
        domid: 0,
        task: this.#thread,
        pending: this.#events.length,
        handled: this.#handled,
        announced: false,
        node: false,
        running: this.#running,
        queued: this.#events,
      },
    ];
  }

  busy(): boolean {
    return false;
  }

  *#xenwatchThread(self: KTask): Task {
    const { sched } = this.#kernel;
    for (;;) {
      yield* waitEvent(this.#queue, () => this.#events.length > 0);
      yield* mutexLock(self, this.#mutex);
      yield* spinLock(self, this.#lock);
      const event = this.#events.shift();
      if (event) event.watch.pending -= 1;
      spinUnlock(sched, self, this.#lock);
      if (event && !(this.#mtwatch && (yield* this.#mtwatch.process(event)))) {
        this.#running = { watch: event.watch, path: event.path, since: this.#kernel.clock.now() };
        yield* runCallback(this.#kernel, self, event);
        this.#running = undefined;
        this.#handled += 1;
      }
      mutexUnlock(sched, self, this.#mutex);
    }
  }
}

/**
 * Runs one callback. A request that the store refuses ends the callback and is told; the thread goes on.
 *
 * Of a watch that is gone, the callback runs on freed memory: a plain kernel takes what happens to stand there for the name
 * of a device, and says that it looks no further.
 */
export function* runCallback(kernel: Kernel, self: KTask, event: WatchEvent): Task {
  const { watch } = event;
  self.spins = 0;
  watch.runners.add(self);
  kernel.observer?.began?.(self, event);
  if (watch.gone) kernel.printk(`xen-backend (garbage: the watch was freed): xenbus: Ignoring watch at ${event.path}`);
  try {
    yield* kernel.call(watch.name, watch.callback(event.path, event.token));
  } catch (error) {
    // What kills its thread would kill it again in each life.
    if (!(error instanceof XsError)) strikeOut(kernel, event);
    if (!(error instanceof XsError)) throw error;
    kernel.printk(`xenbus: ${watch.name} of ${event.path}: ${error.message}`);
  }
  strikeOut(kernel, event);
  kernel.observer?.ended?.(self, event);
  watch.runners.delete(self);
}

/** Takes every event of `watch` out of a thread's queue; answers how many there were. */
export function dropEvents(kernel: Kernel, events: WatchEvent[], watch: XenbusWatch): number {
  const dropped = events.filter((event) => event.watch === watch);
  if (dropped.length === 0) return 0;
  const kept = events.filter((event) => event.watch !== watch);
  events.splice(0, events.length, ...kept);
  watch.pending = Math.max(0, watch.pending - dropped.length);
  for (const event of dropped) {
    strikeOut(kernel, event);
    kernel.observer?.purged?.(event);
  }
  return dropped.length;
}
