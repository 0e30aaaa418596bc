/**
 * Xenwatch multithreading, hardened: a thread for every domain that has something to run.
 *
 * What the RFC set out to give (one hung callback stalls its own domain alone) without what it posted. The rules:
 *
 * - The `xenbus` thread hands each event to the executor of the domain that the event is about, and nobody else ever
 *   runs it: there is no fallback into another thread. `xenwatch` is the executor of domid 0.
 * - First in, first out. Every watch of a device belongs to its other end's domain, so two callbacks of one device, or
 *   of one domain, are never run at once and drivers need no locks that they did not need before.
 * - One more thread, `mtwatch`, runs no driver's code and so cannot be held up by one. It starts the others, for a
 *   domain that is announced (`/local/domain/0/mtwatch/<domid>`) or has an event and no thread yet, again and again
 *   while there is no memory for one, and it looks at the announcements.
 * - A domain whose node is gone is retiring. Its thread leaves by itself when its queue is empty: nothing is unhashed
 *   before, nobody waits for it, and what comes before it has left still goes to it, so that no domain ever has two.
 *   A node that comes back keeps the thread. That a domid is announced anew while a callback of its last owner hangs
 *   is told in the log.
 * - Unregistering purges that watch's events and waits only if that very watch's callback runs in another thread.
 * - A thread that dies of a bug in a callback leaves its queue behind, and `mtwatch` starts another one for it: what the
 *   dead one holds stays held, but no other device of its domain is lost, and `xenwatch` comes back too.
 *
 * For example, domain 7 is stuck in `frontend_changed` while `xl destroy 7` goes on:
 *
 * ```
 * queue of 7     backend/vbd/7/51712, ...       behind the callback that hangs; domain 8 is not here
 * mtwatch/7      removed: 7 is retiring
 * heal           the callback returns; the removals run in their order; queue empty, no node: the thread ends
 * ```
 *
 * The switches of hazards.ts take one of these rules away at a time.
 */
import type { Ms } from '../clock.js';
import { keptBelow } from '../keep.js';
import { parseDomid } from '../paths.js';
import type { Defect } from './hazards.js';
import type { Kernel } from './kernel.js';
import {
  type Mutex,
  mutex,
  mutexLock,
  mutexUnlock,
  rcuReadLock,
  rcuReadUnlock,
  spinLock,
  spinlock,
  spinUnlock,
  work,
} from './locks.js';
import { charCount, mtwatchGetDomid, pathToDomid } from './rfc.js';
import { type KTask, kthreadStop, type Task, type WaitQueue, waitEvent, waitQueue } from './sched.js';
import {
  type Dispatch,
  domainsOfEvents,
  dropEvents,
  keepEvent,
  type Running,
  runCallback,
  strikeOut,
  type WatchEvent,
  type Watches,
  type WatchThreadState,
  watchEventsMax,
  type XenbusWatch,
} from './xenwatch.js';

/** The executor of announcements, which is no domain's. */
export const controlDomid = -1;
/** After a thread could not be started, how long until the next try. */
const startAgainMs: Ms = 1000;
const announcedPrefix = 'announced/';

interface Executor {
  readonly domid: number;
  readonly queue: WaitQueue;
  readonly events: WatchEvent[];
  task: KTask | undefined;
  handled: number;
  running: Running | undefined;
  /** It had a node once. */
  announced: boolean;
  /** Held over callbacks, if unregistering is built wrong. */
  readonly mutex: Mutex;
}

/** Watches that a switch sends to xenwatch, by the name of their callback. */
const inXenwatch: readonly (readonly [Defect, string])[] = [
  ['hotplug-status-in-xenwatch', 'hotplug_status_changed'],
  ['physical-device-in-xenwatch', 'backend_changed [xen_blkback]'],
  ['multicast-in-xenwatch', 'xen_mcast_ctrl_changed'],
];

export class HardenedDispatch implements Dispatch {
  readonly hardened = true;
  readonly #kernel: Kernel;
  readonly #lock = spinlock('events_lock');
  readonly #executors = new Map<number, Executor>();
  readonly #control: Executor;
  /** The domids whose node was there when last looked at. */
  readonly #nodes = new Set<number>();
  /** The domids that need a thread and have none yet, and the events that wait for one. */
  readonly #lacking = new Set<number>();
  readonly #unplaced: WatchEvent[] = [];
  /** Who waits in `flush` for a callback to end. */
  readonly #flushing = new Set<WaitQueue>();
  readonly #misplaced: readonly string[];
  /** A thread could not be started; until then none is tried. */
  #backingOff = false;
  /** Forgotten too early: threads that still run, of executors that are in no table. */
  readonly #unhashed = new Set<Executor>();
  readonly #purging: Executor[] = [];
  /** Of a recovered kernel: domains with events of its last life, until those are queued again. */
  #awaited: ReadonlySet<number>;
  /** Domains that had a thread and an announcement in its last life; without the one now, the other is retiring. */
  readonly #announcedBefore: Set<string>;

  constructor(kernel: Kernel) {
    this.#kernel = kernel;
    this.#awaited = domainsOfEvents(kernel.recovered);
    this.#announcedBefore = new Set(keptBelow(kernel.recovered, announcedPrefix).keys());
    this.#misplaced = inXenwatch.filter(([defect]) => kernel.defects.has(defect)).map(([, name]) => name);
    const xenwatch = this.#newExecutor(0);
    this.#executors.set(0, xenwatch);
    xenwatch.task = kernel.spawn('xenwatch', 'xenwatch_thread', (self) => this.#thread(self, xenwatch));
    this.#minded(xenwatch, xenwatch.task);
    this.#control = this.#newExecutor(controlDomid);
    this.#control.task = kernel.spawn('mtwatch', 'mtwatch_control', (self) => this.#controlThread(self));
  }

  *queue(self: KTask, event: WatchEvent): Task {
    const { sched, printk, defects } = this.#kernel;
    const domid = this.#domidOf(event);
    yield* spinLock(self, this.#lock);
    if (defects.has('pending-at-dispatch')) event.watch.pending -= 1;
    const executor =
      domid === controlDomid
        ? this.#control
        : (this.#executors.get(domid) ?? (defects.has('fallback') ? this.#executors.get(0) : undefined));
    const events = executor?.events ?? this.#unplaced;
    if (events.length >= watchEventsMax) {
      event.watch.pending -= 1;
      strikeOut(this.#kernel, event);
      printk(`xenbus: ${watchEventsMax} watch events wait for domain ${domid}, ${event.path} dropped`);
    } else if (defects.has('lifo') && executor) events.unshift(event);
    else events.push(event);
    if (!executor) this.#lacking.add(domid);
    spinUnlock(sched, self, this.#lock);
    sched.wakeAll((executor ?? this.#control).queue);
  }

  *flush(watch: XenbusWatch): Task {
    const { self, sched, defects } = this.#kernel;
    yield* spinLock(self, this.#lock);
    if (watch.pending > 0 || defects.has('pending-at-dispatch')) {
      for (const { domid, events } of [...this.#executors.values(), ...this.#unhashed, this.#control]) {
        if (!(defects.has('purge-skips-retiring') && domid > 0 && !this.#nodes.has(domid))) {
          dropEvents(this.#kernel, events, watch);
        }
      }
      dropEvents(this.#kernel, this.#unplaced, watch);
    }
    spinUnlock(sched, self, this.#lock);
    if (defects.has('rcu-sleep')) {
      rcuReadLock(self);
      sched.mightSleep(self, 'wait_event');
    }
    if (defects.has('unregister-mutexes')) yield* this.#waitForMutexes(self, watch);
    const others = defects.has('unregister-all') && watch.domidOf(watch.node) === 0 ? [...this.#executors.values()] : [];
    for (const { domid } of others)
      yield* this.#waitForCallback(`a callback of domain ${domid}`, () => this.#runner(domid, self));
    const elsewhere = () => [...watch.runners].find((task) => task !== self);
    yield* this.#waitForCallback(`callback of the watch on ${watch.node}`, elsewhere);
    if (defects.has('rcu-sleep')) rcuReadUnlock(sched, self);
  }

  threads(): WatchThreadState[] {
    return [...this.#executors.values(), ...this.#unhashed]
      .sort((a, b) => a.domid - b.domid)
      .flatMap(({ domid, task, events, handled, announced, running }) =>
        task
          ? [{ domid, task, pending: events.length, handled, announced, node: this.#nodes.has(domid), running, queued: events }]
          : [],
      );
  }

  busy(domid: number): boolean {
    return this.#executors.has(domid) || this.#lacking.has(domid) || this.#awaited.has(domid);
  }

  /** Whether its node was there when last looked at. */
  announced(domid: number): boolean {
    return this.#nodes.has(domid);
  }

  *handOn(event: WatchEvent, domid: number): Task<boolean> {
    const { self, defects, observer } = this.#kernel;
    if (self.serves === domid || defects.has('removals-cross')) return false;
    event.watch.pending += 1;
    keepEvent(this.#kernel, event);
    observer?.queued?.(event);
    yield* this.queue(self, event);
    return true;
  }

  *#waitForCallback(what: string, runner: () => KTask | undefined): Task {
    if (!runner()) return;
    const idle = waitQueue(what, runner);
    this.#flushing.add(idle);
    yield* waitEvent(idle, () => !runner(), 'D');
    this.#flushing.delete(idle);
  }

  #runner(domid: number, self: KTask): KTask | undefined {
    const executor = this.#executors.get(domid);
    return executor?.running && executor.task !== self ? executor.task : undefined;
  }

  *#waitForMutexes(self: KTask, watch: XenbusWatch): Task {
    for (const domid of [0, watch.domidOf(watch.node)]) {
      const executor = this.#executors.get(domid);
      if (!executor || executor.task === self) continue;
      yield* mutexLock(self, executor.mutex);
      mutexUnlock(this.#kernel.sched, self, executor.mutex);
    }
  }

  #domidOf({ watch, path, domid }: WatchEvent): number {
    if (domid !== undefined) return domid;
    if (this.#misplaced.some((name) => watch.name.startsWith(name))) return 0;
    if (watch.getDomid && this.#kernel.defects.has('lax-domid')) {
      return watch.name === 'mtwatch_changed' ? controlDomid : watch.getDomid(path);
    }
    return watch.domidOf(path);
  }

  /** Takes the next event, under the lock: until here it waits, from here on who unregisters its watch waits for `self`. */
  #take(self: KTask, { events }: Executor): WatchEvent | undefined {
    const event = events.shift();
    if (!event) return undefined;
    if (!this.#kernel.defects.has('pending-at-dispatch')) event.watch.pending -= 1;
    event.watch.runners.add(self);
    return event;
  }

  /** Sees to it that an executor whose thread dies gets another one. */
  #minded(executor: Executor, task: KTask): void {
    task.onDeath = () => {
      const { sched, printk } = this.#kernel;
      const { domid, running } = executor;
      if (this.#executors.get(domid) !== executor) return void this.#unhashed.delete(executor);
      executor.task = undefined;
      executor.running = undefined;
      if (running) {
        running.watch.runners.delete(task);
        for (const idle of this.#flushing) sched.wakeAll(idle);
        printk(`xenbus: ${task.name} died in ${running.watch.name} of ${running.path}, another thread goes on`);
      }
      this.#lacking.add(domid);
      sched.wakeAll(this.#control.queue);
    };
  }

  #newExecutor(domid: number): Executor {
    const name = threadName(domid);
    return {
      domid,
      queue: waitQueue(`events of ${name}`),
      events: [],
      task: undefined,
      handled: 0,
      running: undefined,
      announced: false,
      mutex: mutex(domid === 0 ? 'xenwatch_mutex' : `domain_mutex of ${domid}`),
    };
  }

  *#thread(self: KTask, executor: Executor): Task {
    const { sched, defects } = this.#kernel;
    const { domid, events } = executor;
    // Not before it is in the table: until then nothing could come to it.
    const retired = () => (this.#executors.get(domid) === executor ? !this.#nodes.has(domid) : this.#unhashed.has(executor));
    const leaves = () => domid > 0 && retired() && !(defects.has('serial-purge') && executor.announced && !self.shouldStop);
    for (;;) {
      yield* waitEvent(executor.queue, () => events.length > 0 || leaves());
      yield* spinLock(self, this.#lock);
      const event = this.#take(self, executor);
      if (!event && leaves()) {
        // In the same breath as the look at the queue: what comes now finds no thread and gets a new one.
        if (!this.#unhashed.delete(executor)) this.#forget(self, executor);
        spinUnlock(sched, self, this.#lock);
        this.#kernel.note(() => `thread of domain ${domid} ends`);
        return;
      }
      spinUnlock(sched, self, this.#lock);
      if (event) yield* this.#runOne(self, executor, event);
    }
  }

  *#runOne(self: KTask, executor: Executor, event: WatchEvent): Task {
    const { sched, clock, defects } = this.#kernel;
    const locked = defects.has('unregister-mutexes');
    if (locked) yield* mutexLock(self, executor.mutex);
    executor.running = { watch: event.watch, path: event.path, since: clock.now() };
    yield* runCallback(this.#kernel, self, event);
    executor.running = undefined;
    executor.handled += 1;
    if (locked) mutexUnlock(sched, self, executor.mutex);
    for (const idle of this.#flushing) sched.wakeAll(idle);
  }

  *#controlThread(self: KTask): Task {
    const { events, queue } = this.#control;
    const toStart = () => (this.#backingOff ? undefined : this.#lacking.values().next().value);
    for (;;) {
      yield* waitEvent(queue, () => events.length > 0 || toStart() !== undefined);
      yield* spinLock(self, this.#lock);
      const event = this.#take(self, this.#control);
      spinUnlock(this.#kernel.sched, self, this.#lock);
      if (event) yield* this.#runOne(self, this.#control, event);
      // After each announcement one thread, so that no number of announcements keeps a domain waiting.
      const domid = toStart();
      if (domid !== undefined) yield* this.#start(self, domid);
    }
  }

  /** Starts the thread of a domain and gives it what waits for it; without memory, tries again later. */
  *#start(self: KTask, domid: number): Task {
    const kernel = this.#kernel;
    const { sched, defects } = kernel;
    // One whose thread has died is there, and in the table.
    const left = this.#executors.get(domid);
    if (!left && !kernel.alloc('kzalloc mtwatch_domain')) return this.#startAgain(domid);
    const executor = left ?? this.#newExecutor(domid);
    const entry = domid === 0 ? 'xenwatch_thread' : 'mtwatch_thread';
    const task = yield* kernel.kthreadRun(threadName(domid), entry, (thread) => {
      thread.serves = domid;
      return this.#thread(thread, executor);
    });
    if (!task && !defects.has('err-ptr')) return this.#startAgain(domid);
    if (!task) kernel.observer?.complain?.(self, 'ERR_PTR', `domain ${domid} is published without a thread`);
    executor.task = task;
    if (task) this.#minded(executor, task);
    executor.announced = this.#nodes.has(domid) || this.#announcedBefore.delete(String(domid));
    yield* spinLock(self, this.#lock);
    this.#lacking.delete(domid);
    const mine = this.#unplaced.filter((event) => this.#domidOf(event) === domid);
    executor.events.push(...mine);
    this.#unplaced.splice(0, this.#unplaced.length, ...this.#unplaced.filter((event) => !mine.includes(event)));
    this.#executors.set(domid, executor);
    spinUnlock(sched, self, this.#lock);
    sched.wakeAll(executor.queue);
  }

  #startAgain(domid: number): void {
    const { printk, clock, sched, defects } = this.#kernel;
    if (defects.has('silent-alloc')) {
      this.#lacking.delete(domid);
      this.#unplaced.splice(0, this.#unplaced.length, ...this.#unplaced.filter((event) => this.#domidOf(event) !== domid));
      return;
    }
    printk(`xenbus: no memory for ${threadName(domid)}, trying again in ${startAgainMs / 1000} s`);
    // Next time another one is the first to be tried.
    this.#lacking.delete(domid);
    this.#lacking.add(domid);
    this.#backingOff = true;
    clock.after(startAgainMs, () => {
      this.#backingOff = false;
      sched.wakeAll(this.#control.queue);
    });
  }

  /**
   * The announcements that a recovered kernel finds. Their threads are there before the events of the last life are queued;
   * of a domain without one, it is those events that keep a thread.
   */
  recoverNodes(domids: readonly number[]): void {
    for (const domid of domids) this.#announce(domid);
    const gone = [...this.#announcedBefore].map(Number).filter((domid) => !this.#nodes.has(domid) && !this.#awaited.has(domid));
    for (const domid of gone) this.#kernel.keep?.delete(announcedPrefix + domid);
    this.#kernel.sched.wakeAll(this.#control.queue);
  }

  /** The events of the last life are queued again. */
  eventsRecovered(): void {
    this.#awaited = new Set();
  }

  /** The node of `domid` is there, or is not. Called by whoever looked at it, in the thread of announcements. */
  setNode(domid: number, node: boolean): void {
    if (node) this.#announce(domid);
    else this.#retract(domid);
  }

  #announce(domid: number): void {
    const { printk, defects, recovered } = this.#kernel;
    const isKnown = this.#nodes.has(domid);
    this.#nodes.add(domid);
    this.#kernel.keep?.set(announcedPrefix + domid, true);
    const executor = this.#executors.get(domid);
    if (!executor) {
      this.#lacking.add(domid);
      return;
    }
    executor.announced = true;
    if (executor.running && !defects.has('silent-reuse') && !(recovered && isKnown)) {
      const { watch, path } = executor.running;
      printk(`xenbus: domain ${domid} is announced while ${watch.name} of ${path} runs; its events wait behind that`);
    }
  }

  #retract(domid: number): void {
    const { sched, defects } = this.#kernel;
    this.#nodes.delete(domid);
    const executor = this.#executors.get(domid);
    if (!executor) {
      if (!this.#unplaced.some((event) => this.#domidOf(event) === domid)) this.#lacking.delete(domid);
      return;
    }
    if (defects.has('early-unhash')) {
      this.#forget(this.#kernel.self, executor);
      this.#unhashed.add(executor);
    }
    if (defects.has('serial-purge')) {
      this.#purging.unshift(executor);
      this.#kernel.workqueue.schedule(this.#purgeWork);
    }
    sched.wakeAll(executor.queue);
  }

  #forget(self: KTask, { domid, events }: Executor): void {
    this.#executors.delete(domid);
    if (!this.#nodes.has(domid)) this.#kernel.keep?.delete(announcedPrefix + domid);
    this.#kernel.observer?.unhashed?.(self, domid, events.length);
  }

  readonly #purgeWork = work('xen_mtwatch_purge_domain', (self) => this.#purge(self));

  *#purge(self: KTask): Task {
    for (let executor = this.#purging.shift(); executor; executor = this.#purging.shift()) {
      if (executor.task) yield* kthreadStop(this.#kernel.sched, self, executor.task);
    }
  }

  /**
   * One announcement came or went; or (the event of the watch itself, and of its removal as a whole) any of them did,
   * and each is looked at.
   */
  *mtwatchChanged(path: string): Task {
    const { defects, printk } = this.#kernel;
    const lax = defects.has('lax-domid');
    const domidOf = (each: string) => (lax ? mtwatchGetDomid(each) : mtwatchDomid(each));
    if (charCount(path, '/') === 0) {
      const names = defects.has('no-enumeration') ? [] : ((yield* this.#kernel.directoryWhole(path)) ?? []);
      const known = defects.has('parent-ignored') ? [] : [...this.#nodes];
      for (const name of new Set([...names, ...known.map(String)]))
        yield* this.#look(`${path}/${name}`, domidOf(`${path}/${name}`));
      return;
    }
    if (charCount(path, '/') > 1) return;
    const domid = domidOf(path);
    if (domid === 0) printk(`xenbus: ${path} names no domain, ignored`);
    else yield* this.#look(path, domid);
  }

  *#look(path: string, domid: number): Task {
    if (domid === 0) return;
    this.setNode(domid, yield* this.#kernel.exists(path));
  }
}

function threadName(domid: number): string {
  return domid === 0 ? 'xenwatch' : `xen-mtwatch-${domid}`;
}

/** The domid of `mtwatch/<domid>`; 0 for every other path, and for a name that is no domid. */
export function mtwatchDomid(path: string): number {
  const parts = path.split('/');
  return parts.length === 2 ? (parseDomid(parts[1]) ?? 0) : 0;
}

/** Watches the announcements. The watch's own first event takes up those that are there already. */
export function* watchAnnouncements(kernel: Kernel, watches: Watches, dispatch: HardenedDispatch): Task {
  const queued = kernel.defects.has('removal-queued');
  yield* watches.register({
    node: 'mtwatch',
    name: 'mtwatch_changed',
    domidOf: (path) => (queued && mtwatchDomid(path)) || controlDomid,
    getDomid: (path) => pathToDomid(path.split('/')[1] ?? ''),
    callback: (path) => dispatch.mtwatchChanged(path),
  });
}
