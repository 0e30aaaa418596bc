/**
 * Watches of a kernel: registration, the queueing of events, and the one default thread that runs every callback.
 *
 * Rules from drivers/xen/xenbus/xenbus_xs.c of Linux 6.1. The `xenbus` thread queues events (`queueEvent`); who runs
 * the callbacks is a `Dispatch`: here the kernel as it is, one `xenwatch` thread that holds `xenwatch_mutex` over each
 * callback, so that one callback which never returns stops all of them. mtwatch.ts has the other design.
 */
import type { Ms } from '../clock.js';
import { XsError } from '../xs-wire.js';
import type { Kernel } from './kernel.js';
import { type KTask, mutex, mutexLock, mutexUnlock, type Task, waitEvent, waitQueue } from './sched.js';

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

  token: string;
  /** Events queued whose callback has not begun. */
  pending: number;
  /** The threads that are in its callback now. */
  readonly runners: Set<KTask>;
}

/** What a caller must say of a watch. */
export type WatchSpec = Pick<XenbusWatch, 'node' | 'name' | 'callback'> & Partial<Pick<XenbusWatch, 'domidOf' | 'guestWritable'>>;

export interface WatchEvent {
  readonly watch: XenbusWatch;
  readonly path: string;
  readonly token: string;
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
  readonly running: Running | undefined;
}

/** A design of dispatch: who runs which callback, and what unregistering waits for. */
export interface Dispatch {
  /** Takes an event from the `xenbus` thread. Never sleeps. */
  queue(event: WatchEvent): void;
  /** Runs in whoever unregisters, once no new event can come: drops what is queued, waits for what runs. */
  flush(watch: XenbusWatch): Task;
  threads(): WatchThreadState[];
  /** Whether a thread of this domain is there, so that its domid must not be given out again. */
  busy(domid: number): boolean;
}

export class Watches {
  readonly #kernel: Kernel;
  readonly #byToken = new Map<string, XenbusWatch>();
  #nextToken = 0xffff_8880_0591_0000n;

  constructor(
    kernel: Kernel,
    readonly dispatch: Dispatch,
  ) {
    this.#kernel = kernel;
    kernel.onWatchEvent = (path, token) => this.#queueEvent(path, token);
  }

  /** `register_xenbus_watch`. The watch is known before the request goes out, so its first event cannot be lost. */
  *register(spec: WatchSpec): Task<XenbusWatch> {
    const token = this.#nextToken.toString(16).toUpperCase();
    this.#nextToken += 0x30n;
    const watch: XenbusWatch = { domidOf: () => 0, guestWritable: false, ...spec, token, pending: 0, runners: new Set() };
    this.#byToken.set(token, watch);
    try {
      yield* this.#kernel.call('register_xenbus_watch', this.#kernel.watch(watch.node, token));
    } catch (error) {
      this.#byToken.delete(token);
      throw error;
    }
    return watch;
  }

  /** `unregister_xenbus_watch`: when it returns, no callback of this watch runs or will run (but the caller's own). */
  *unregister(watch: XenbusWatch): Task {
    if (this.#byToken.get(watch.token) !== watch) throw new Error(`kernel BUG: watch on ${watch.node} unregistered twice`);
    this.#byToken.delete(watch.token);
    yield* this.#kernel.call('unregister_xenbus_watch', this.#unregister(watch));
  }

  *#unregister(watch: XenbusWatch): Task {
    try {
      yield* this.#kernel.unwatch(watch.node, watch.token);
    } catch {
      this.#kernel.printk(`xenbus: Failed to release watch ${watch.node}`);
    }
    yield* this.dispatch.flush(watch);
  }

  /** `xs_watch_msg`: an event of a watch that is gone is dropped, and so is a second one of a guest's node. */
  #queueEvent(path: string, token: string): void {
    const watch = this.#byToken.get(token);
    if (!watch || (watch.guestWritable && watch.pending > 0)) return;
    watch.pending += 1;
    this.dispatch.queue({ watch, path, token });
  }
}

/** The kernel as it is: one thread, in order, each event for as long as its callback takes. */
export class SingleDispatch implements Dispatch {
  readonly #kernel: Kernel;
  readonly #events: WatchEvent[] = [];
  readonly #queue = waitQueue('watch_events_waitq');
  readonly #mutex = mutex('xenwatch_mutex');
  readonly #thread: KTask;
  #handled = 0;
  #running: Running | undefined;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    this.#thread = kernel.spawn('xenwatch', 'xenwatch_thread', (self) => this.#xenwatchThread(self));
  }

  queue(event: WatchEvent): void {
    if (this.#events.length >= watchEventsMax) {
      event.watch.pending -= 1;
      this.#kernel.printk(`xenbus: ${watchEventsMax} watch events wait, ${event.path} dropped`);
      return;
    }
    this.#events.push(event);
    this.#kernel.sched.wakeAll(this.#queue);
  }

  /** Waits for whatever callback runs, of any watch: that is how it knows that none of this one does. */
  *flush(watch: XenbusWatch): Task {
    const { self, sched } = this.#kernel;
    if (self !== this.#thread) yield* mutexLock(self, this.#mutex);
    dropEvents(this.#events, watch);
    if (self !== this.#thread) mutexUnlock(sched, self, this.#mutex);
  }

  threads(): WatchThreadState[] {
    return [
      {
        domid: 0,
        task: this.#thread,
        pending: this.#events.length,
        handled: this.#handled,
        announced: false,
        running: this.#running,
      },
    ];
  }

  busy(): boolean {
    return false;
  }

  *#xenwatchThread(self: KTask): Task {
    for (;;) {
      yield* waitEvent(this.#queue, () => this.#events.length > 0);
      yield* mutexLock(self, this.#mutex);
      const event = this.#events.shift();
      if (event) {
        event.watch.pending -= 1;
        this.#running = { watch: event.watch, path: event.path, since: this.#kernel.clock.now() };
        yield* runCallback(this.#kernel, event);
        this.#running = undefined;
        this.#handled += 1;
      }
      mutexUnlock(this.#kernel.sched, self, this.#mutex);
    }
  }
}

/** Runs one callback. A request that the store refuses ends the callback and is told; the thread goes on. */
export function* runCallback(kernel: Kernel, event: WatchEvent): Task {
  try {
    yield* kernel.call(event.watch.name, event.watch.callback(event.path, event.token));
  } catch (error) {
    if (!(error instanceof XsError)) throw error;
    kernel.printk(`xenbus: ${event.watch.name} of ${event.path}: ${error.message}`);
  }
}

/** Takes every event of `watch` out of a thread's queue. */
export function dropEvents(events: WatchEvent[], watch: XenbusWatch): void {
  if (watch.pending === 0) return;
  const kept = events.filter((event) => event.watch !== watch);
  watch.pending -= events.length - kept.length;
  events.splice(0, events.length, ...kept);
}
