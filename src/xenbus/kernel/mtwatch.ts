/**
 * Xenwatch multithreading, hardened: a thread for every domain that has something to run.
 *
 * What the RFC set out to give (one hung callback stalls its own domain alone) without what it posted. The rules:
 *
 * - The `xenbus` thread hands each event to the executor of the domain that the event is about, and nobody else ever
 *   runs it: there is no fallback into another thread. `xenwatch` is the executor of domid 0.
 * - First in, first out. Every watch of a device belongs to its other end's domain, so two callbacks of one device, or
 *   of one domain, are never run at once and drivers need no locks that they did not need before.
 * - The node `/local/domain/0/mtwatch/<domid>` creates its domain's thread and keeps it. Its removal is one more event
 *   in the domain's own queue, behind all the work that came before it. A thread leaves when its queue is empty and it
 *   has no node; it leaves by itself, so nobody can be stuck waiting for it. An event of a domid that was never
 *   announced makes a thread too, which leaves in the same way.
 * - Unregistering purges that watch's events and waits only if that very watch's callback runs in another thread.
 *
 * For example, domain 7 is stuck in `frontend_changed` while `xl destroy 7` goes on:
 *
 * ```
 * queue of 7     backend/vbd/7/51712, ..., mtwatch/7          (behind the callback that hangs; domain 8 is not here)
 * heal           the callback returns; the removals run in their order; mtwatch/7: no node; queue empty: the thread ends
 * ```
 */
import { parseDomid } from '../paths.js';
import type { Kernel } from './kernel.js';
import { type KTask, type Task, type WaitQueue, waitEvent, waitQueue } from './sched.js';
import {
  type Dispatch,
  dropEvents,
  type Running,
  runCallback,
  type WatchEvent,
  type Watches,
  type WatchThreadState,
  watchEventsMax,
  type XenbusWatch,
} from './xenwatch.js';

interface Executor {
  readonly domid: number;
  readonly queue: WaitQueue;
  readonly events: WatchEvent[];
  task: KTask | undefined;
  /** Its node was there when last looked at. */
  node: boolean;
  /** It had a node once. */
  announced: boolean;
  handled: number;
  running: Running | undefined;
}

export class HardenedDispatch implements Dispatch {
  readonly #kernel: Kernel;
  readonly #executors = new Map<number, Executor>();
  /** Who waits in `flush` for a callback to end. */
  readonly #flushing = new Set<WaitQueue>();

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    this.#executor(0);
  }

  queue(event: WatchEvent): void {
    const executor = this.#executor(event.watch.domidOf(event.path));
    if (executor.events.length >= watchEventsMax) {
      event.watch.pending -= 1;
      this.#kernel.printk(`xenbus: ${watchEventsMax} watch events wait for domain ${executor.domid}, ${event.path} dropped`);
      return;
    }
    executor.events.push(event);
    this.#kernel.sched.wakeAll(executor.queue);
  }

  *flush(watch: XenbusWatch): Task {
    const { self } = this.#kernel;
    if (watch.pending > 0) for (const executor of this.#executors.values()) dropEvents(executor.events, watch);
    const elsewhere = () => [...watch.runners].find((task) => task !== self);
    const idle = waitQueue(`callback of the watch on ${watch.node}`, elsewhere);
    this.#flushing.add(idle);
    yield* waitEvent(idle, () => !elsewhere(), 'D');
    this.#flushing.delete(idle);
  }

  threads(): WatchThreadState[] {
    return [...this.#executors.values()]
      .sort((a, b) => a.domid - b.domid)
      .flatMap(({ domid, task, events, handled, announced, running }) =>
        task ? [{ domid, task, pending: events.length, handled, announced, running }] : [],
      );
  }

  busy(domid: number): boolean {
    return this.#executors.has(domid);
  }

  /** The domains whose node was there when last looked at. */
  announced(): number[] {
    return [...this.#executors.values()].filter(({ domid, node }) => domid !== 0 && node).map(({ domid }) => domid);
  }

  /** The node of `domid` is there, or is not. Called in the domain's own thread, behind all earlier work. */
  setNode(domid: number, node: boolean): void {
    const executor = this.#executors.get(domid);
    if (!executor) return;
    executor.node = node;
    executor.announced ||= node;
  }

  #executor(domid: number): Executor {
    const known = this.#executors.get(domid);
    if (known) return known;
    const name = domid === 0 ? 'xenwatch' : `xen-mtwatch-${domid}`;
    const executor: Executor = {
      domid,
      queue: waitQueue(`events of ${name}`),
      events: [],
      task: undefined,
      node: domid === 0,
      announced: false,
      handled: 0,
      running: undefined,
    };
    this.#executors.set(domid, executor);
    executor.task = this.#kernel.spawn(name, domid === 0 ? 'xenwatch_thread' : 'mtwatch_thread', (self) =>
      this.#thread(self, executor),
    );
    return executor;
  }

  *#thread(self: KTask, executor: Executor): Task {
    const { events } = executor;
    try {
      for (;;) {
        yield* waitEvent(executor.queue, () => events.length > 0 || !executor.node);
        const event = events.shift();
        if (!event) return;
        event.watch.pending -= 1;
        executor.running = { watch: event.watch, path: event.path, since: this.#kernel.clock.now() };
        event.watch.runners.add(self);
        try {
          yield* runCallback(this.#kernel, event);
        } finally {
          event.watch.runners.delete(self);
          for (const idle of this.#flushing) this.#kernel.sched.wakeAll(idle);
        }
        executor.running = undefined;
        executor.handled += 1;
        yield undefined;
      }
    } finally {
      // Also after a bug in a callback: the next event of the domain gets a new thread.
      this.#executors.delete(executor.domid);
    }
  }
}

/** The domid of `mtwatch/<domid>`; 0 for every other path, and for a name that is no domid. */
export function mtwatchDomid(path: string): number {
  const parts = path.split('/');
  return parts.length === 2 ? (parseDomid(parts[1]) ?? 0) : 0;
}

/** Watches the announcements. The watch's own first event takes up those that are there already. */
export function* watchAnnouncements(kernel: Kernel, watches: Watches, dispatch: HardenedDispatch): Task {
  yield* watches.register({
    node: 'mtwatch',
    name: 'mtwatch_changed',
    domidOf: mtwatchDomid,
    callback: (path, token) => mtwatchChanged(kernel, dispatch, path, token),
  });
}

/**
 * One announcement came or went; or (the event of the watch itself, and of its removal as a whole) any of them did,
 * and each is looked at in its own thread.
 */
function* mtwatchChanged(kernel: Kernel, dispatch: HardenedDispatch, path: string, token: string): Task {
  const parts = path.split('/');
  if (parts.length === 1) {
    const listed = ((yield* kernel.directory(path)) ?? []).map((name) => mtwatchDomid(`${path}/${name}`));
    for (const domid of new Set([...listed, ...dispatch.announced()])) {
      if (domid !== 0) kernel.onWatchEvent(`${path}/${domid}`, token);
    }
    return;
  }
  if (parts.length !== 2) return;
  const domid = mtwatchDomid(path);
  if (domid === 0) {
    kernel.printk(`xenbus: ${path} names no domain, ignored`);
    return;
  }
  dispatch.setNode(domid, yield* kernel.exists(path));
}
