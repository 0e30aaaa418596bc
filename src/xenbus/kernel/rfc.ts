/**
 * Xenwatch multithreading exactly as it was posted: "[PATCH RFC linux 1/2] xenbus: introduce xenwatch multithreading to
 * dom0 linux kernel", 7 April 2018, with every defect that it has.
 *
 * Each function of the patch is here under its name in camel case, and does what the original does, in its order, under
 * its locks. It is checked against recordings of the patch on a real kernel (Linux 6.1, Xen 4.17).
 *
 * ```
 * xenbus (R)          queues every event for xenwatch, in order
 * xenwatch (X)        pops one; mtwatchProcess: its domain has a thread? then it goes to the HEAD of that one's queue;
 *                     else, and for every watch without getDomid, X runs the callback itself
 * xen-mtwatch-N       takes the head of its queue and runs the callback, with domain_mutex held
 * mtwatch/N written   X creates the thread (it has none yet);
 * mtwatch/N removed   the thread itself marks its domain DOWN and unhashes it, whatever waits in its queue
 * kworker             stops the threads that are down, one after the other, and waits for each
 * ```
 */
import type { Kernel } from './kernel.js';
import {
  type Mutex,
  mutex,
  mutexLock,
  mutexUnlock,
  rcuReadLock,
  rcuReadUnlock,
  type SpinLock,
  spinLock,
  spinlock,
  spinUnlock,
  type Work,
  work,
} from './locks.js';
import { warnText } from './oops.js';
import { bug, type KTask, kthreadStop, type Task, type WaitQueue, waitEvent, waitQueue } from './sched.js';
import {
  type Dispatch,
  domainsOfEvents,
  dropEvents,
  keepEvent,
  type Mtwatch,
  type Running,
  runCallback,
  SingleDispatch,
  type WatchEvent,
  type Watches,
  type WatchThreadState,
  type XenbusWatch,
} from './xenwatch.js';

const mtwatchHashSize = 256;
const mtwatchHash = (domid: number) => domid & (mtwatchHashSize - 1);

/** 0 at birth: the patch sets UP at the very end of the creation, and never asks for it. */
type DomainState = 0 | 'UP' | 'DOWN';

/** What `kthread_run` gives when it cannot start a thread: not a null pointer, which is all that the patch looks for. */
const errPtr = 'ERR_PTR(-ENOMEM)';

/** Single lines of the patch that can be put right: insertion at the tail, and a look for an ERR_PTR. */
export const repairs = ['lifo', 'err-ptr'] as const;
export type Repair = (typeof repairs)[number];

/** `struct mtwatch_domain`. */
interface MtwatchDomain {
  readonly domid: number;
  task: KTask | typeof errPtr | undefined;
  /** That of its thread, 0 until the thread has run. */
  pid: number;
  readonly domainMutex: Mutex;
  readonly eventsWq: WaitQueue;
  readonly eventsLock: SpinLock;
  readonly events: WatchEvent[];
  state: DomainState;
  /** The next one of domain_list; kept when it is taken out, as list_del_rcu does for readers that stand on it. */
  listNext: MtwatchDomain | undefined;
  /** For reports: callbacks that it has run, and the one that it is in. */
  handled: number;
  running: Running | undefined;
  freed: boolean;
}

/** `path_to_domid`: the leading decimal digits, in 16 bits, without a look at what follows; 0 when there are none. */
export function pathToDomid(path: string): number {
  let domid = 0;
  for (const digit of path) {
    if (digit < '0' || digit > '9') break;
    domid = (domid * 10 + Number(digit)) & 0xffff;
  }
  return domid;
}

/** `char_count`: how often `char` is in `text`. */
export function charCount(text: string, char: string): number {
  let count = 0;
  for (const each of text) if (each === char) count += 1;
  return count;
}

/** `be_get_domid`: `backend/<pvdev>/<domid>/...`; 0, so xenwatch, for anything shorter. */
export function beGetDomid(path: string): number {
  return charCount(path, '/') < 2 ? 0 : pathToDomid(path.split('/')[2] ?? '');
}

/** `mtwatch_get_domid`: `mtwatch/<domid>` and nothing deeper. So the removal of a node runs in the thread that it ends. */
export function mtwatchGetDomid(path: string): number {
  return charCount(path, '/') !== 1 ? 0 : pathToDomid(path.split('/')[1] ?? '');
}

export class RfcDispatch implements Dispatch, Mtwatch {
  readonly hardened = false;
  readonly #kernel: Kernel;
  readonly #xenwatch: SingleDispatch;
  /** `mtwatch_info`: a hash and a list, both under domain_lock, and what waits to be stopped, under purge_lock. */
  readonly #domainLock = spinlock('domain_lock');
  readonly #domainHash: MtwatchDomain[][] = Array.from({ length: mtwatchHashSize }, () => []);
  #domainList: MtwatchDomain | undefined;
  readonly #purgeLock = spinlock('purge_lock');
  readonly #purgeList: MtwatchDomain[] = [];
  readonly #purgeWork: Work;
  /** Every domain whose thread is there, hashed or not: for reports only. */
  readonly #alive = new Set<MtwatchDomain>();
  readonly #retiring: number[] = [];
  #warned = false;
  readonly #repaired: ReadonlySet<Repair>;

  /** `repaired`: what is not as posted, to see what is left then. */
  constructor(kernel: Kernel, repaired: ReadonlySet<Repair> = new Set()) {
    this.#kernel = kernel;
    this.#repaired = repaired;
    kernel.printk('xenbus: xenwatch multithreading is enabled');
    this.#xenwatch = new SingleDispatch(kernel, this);
    this.#purgeWork = work('xen_mtwatch_purge_domain', (self) => this.xenMtwatchPurgeDomain(self));
  }

  queue(self: KTask, event: WatchEvent): Task {
    return this.#xenwatch.queue(self, event);
  }

  flush(watch: XenbusWatch): Task {
    return this.#xenwatch.flush(watch);
  }

  threads(): WatchThreadState[] {
    const domains = [...this.#alive].sort((a, b) => a.domid - b.domid);
    return [
      ...this.#xenwatch.threads(),
      ...domains.flatMap(({ domid, task, events, handled, running, state }): WatchThreadState[] => {
        const node = state !== 'DOWN';
        return typeof task === 'object'
          ? [{ domid, task, pending: events.length, handled, announced: true, node, running, queued: events }]
          : [];
      }),
    ];
  }

  /** The patch leaves the hypervisor alone: a domid may come again while a thread of its last owner is there. */
  busy(): boolean {
    return false;
  }

  /** The domains that an event would find: those of the hash. */
  hashed(): number[] {
    return this.#domainHash.flat().map(({ domid }) => domid);
  }

  /** Events that wait for a domain that is hashed without a thread, and why not: for reports. */
  threadless(): number[] {
    return this.#domainHash.flatMap((slot) => slot.filter(({ task }) => typeof task !== 'object').map(({ domid }) => domid));
  }

  /** `mtwatch_find_domain`: in its slot of the hash, under RCU or domain_lock. */
  mtwatchFindDomain(domid: number): MtwatchDomain | undefined {
    return this.#domainHash[mtwatchHash(domid)]?.find((domain) => domain.domid === domid);
  }

  /** `mtwatch_thread`: one event at a time, the newest first, until it is told to stop and has none left. */
  *mtwatchThread(self: KTask, domain: MtwatchDomain): Task {
    const { sched, clock } = this.#kernel;
    domain.pid = self.pid;
    this.#kernel.note(() => `thread of domain ${domain.domid} starts`);
    for (;;) {
      yield* waitEvent(domain.eventsWq, () => domain.events.length > 0 || self.shouldStop);
      if (self.shouldStop && domain.events.length === 0) break;
      yield* mutexLock(self, domain.domainMutex);
      yield* spinLock(self, domain.eventsLock);
      const event = domain.events.shift();
      spinUnlock(sched, self, domain.eventsLock);
      if (event) {
        keepEvent(this.#kernel, event, domain.domid, true);
        domain.running = { watch: event.watch, path: event.path, since: clock.now() };
        yield* runCallback(this.#kernel, self, event);
        domain.running = undefined;
        domain.handled += 1;
      }
      mutexUnlock(sched, self, domain.domainMutex);
    }
    this.#alive.delete(domain);
    this.#kernel.note(() => `thread of domain ${domain.domid} ends`);
  }

  /**
   * `mtwatch_process`: gives the event to its domain's thread; false (the original's 1) when xenwatch is to run it: the
   * watch has no get_domid, the domid is 0, there is no such domain, or it is DOWN.
   */
  *process(event: WatchEvent): Task<boolean> {
    const { self, sched } = this.#kernel;
    const { watch } = event;
    if (!watch.getDomid) return false;
    const domid = watch.getDomid(event.path);
    if (domid === 0) return false;
    rcuReadLock(self);
    const domain = this.mtwatchFindDomain(domid);
    let taken = false;
    if (domain) {
      yield* spinLock(self, domain.eventsLock);
      if (domain.state !== 'DOWN') {
        this.#kernel.note(() => `forward #${event.seq} ${event.path} to domain ${domid} (${domain.events.length} there already)`);
        // list_add: the newest first.
        this.#give(domain, event);
        taken = true;
      }
      spinUnlock(sched, self, domain.eventsLock);
    }
    rcuReadUnlock(sched, self);
    return taken;
  }

  #give({ domid, events, eventsWq }: MtwatchDomain, event: WatchEvent): void {
    keepEvent(this.#kernel, event, domid);
    if (this.#repaired.has('lifo')) events.push(event);
    else events.unshift(event);
    this.#kernel.sched.wakeAll(eventsWq);
  }

  /** What a thread had goes to it again, and so does what it would have had: xenwatch must not run it beside that. */
  requeue(event: WatchEvent, thread: number | undefined): boolean {
    const domain = this.mtwatchFindDomain(thread ?? event.watch.getDomid?.(event.path) ?? 0);
    if (!domain) return false;
    // As xenwatch does when it takes one.
    event.watch.pending -= 1;
    if (thread !== undefined) this.#give(domain, event);
    else {
      keepEvent(this.#kernel, event, domain.domid);
      domain.events.push(event);
      this.#kernel.sched.wakeAll(domain.eventsWq);
    }
    return true;
  }

  /** The threads of a recovered kernel: of the domains that are announced, and of those with events in a thread. */
  *recoverDomains(announced: readonly number[]): Task {
    for (const domid of domainsOfEvents(this.#kernel.recovered, 'thread'))
      if (!announced.includes(domid)) this.#retiring.push(domid);
    for (const domid of [...announced, ...this.#retiring]) yield* this.mtwatchCreateDomain(domid);
  }

  /** Those whose node went in the last life are down again. */
  *eventsRecovered(): Task {
    for (const domid of this.#retiring.splice(0)) yield* this.mtwatchDestroyDomain(domid);
  }

  /** `xen_mtwatch_purge_domain`: one thread after the other; it waits for each to end before it looks at the next. */
  *xenMtwatchPurgeDomain(self: KTask): Task {
    const { sched } = this.#kernel;
    while (this.#purgeList.length > 0) {
      yield* spinLock(self, this.#purgeLock);
      const domain = this.#purgeList.shift();
      spinUnlock(sched, self, this.#purgeLock);
      if (!domain) continue;
      this.#kernel.note(() => `purge: kthread_stop of domain ${domain.domid}`);
      if (typeof domain.task !== 'object') {
        this.#kernel.observer?.complain?.(self, 'ERR_PTR', `kthread_stop(${errPtr}) of domain ${domain.domid}`);
        yield* this.#kernel.call('kthread_stop', bug('unable to handle page fault for address: fffffffffffffff4'));
        return;
      }
      yield* kthreadStop(sched, self, domain.task);
      this.#kernel.note(() => `purge: domain ${domain.domid} stopped`);
      this.#delayedDestroyDomain(domain);
    }
  }

  /** `call_rcu(..., delayed_destroy_domain)`: freed after a grace period. */
  #delayedDestroyDomain(domain: MtwatchDomain): void {
    this.#kernel.sched.afterGracePeriod(() => {
      domain.freed = true;
      this.#alive.delete(domain);
    });
  }

  /** `mtwatch_create_domain`: published first, then its thread is started, then it is UP. */
  *mtwatchCreateDomain(domid: number): Task {
    const kernel = this.#kernel;
    const { self, sched } = kernel;
    if (domid === 0) return kernel.printk('xenbus: default xenwatch thread is for dom0');
    yield* spinLock(self, this.#domainLock);
    if (this.mtwatchFindDomain(domid)) {
      kernel.note(() => `create: domain ${domid} exists`);
      return spinUnlock(sched, self, this.#domainLock);
    }
    // GFP_ATOMIC; without memory nothing is said.
    if (!kernel.alloc('kzalloc mtwatch_domain')) return spinUnlock(sched, self, this.#domainLock);
    const domain: MtwatchDomain = {
      domid,
      task: undefined,
      pid: 0,
      domainMutex: mutex(`domain_mutex of ${domid}`),
      eventsWq: waitQueue(`events of xen-mtwatch-${domid}`),
      eventsLock: spinlock(`events_lock of ${domid}`),
      events: [],
      state: 0,
      listNext: undefined,
      handled: 0,
      running: undefined,
      freed: false,
    };
    this.#domainHash[mtwatchHash(domid)]?.unshift(domain);
    this.#listAddTail(domain);
    spinUnlock(sched, self, this.#domainLock);

    const started = yield* kernel.kthreadRun(`xen-mtwatch-${domid}`, 'mtwatch_thread', (thread) => {
      thread.serves = domid;
      return this.mtwatchThread(thread, domain);
    });
    if (!started && this.#repaired.has('err-ptr')) return yield* this.#creationFailed(self, domain);
    domain.task = started ?? errPtr;
    // `if (!domain->task)`: an ERR_PTR is not null, so a failure passes for a thread and what the patch has for this
    // case ("mtwatch kthread creation is failed") never runs.
    if (started) {
      this.#alive.add(domain);
      kernel.note(() => `domain ${domid} created, thread ${started.pid}`);
    } else kernel.observer?.complain?.(self, 'ERR_PTR', `domain ${domid} is published without a thread`);
    domain.state = 'UP';
  }

  /** What the patch has for a thread that could not be started, and never reaches. */
  *#creationFailed(self: KTask, domain: MtwatchDomain): Task {
    const { sched, printk } = this.#kernel;
    printk('xenbus: mtwatch kthread creation is failed');
    yield* spinLock(self, this.#domainLock);
    this.#unhash(domain);
    spinUnlock(sched, self, this.#domainLock);
    this.#delayedDestroyDomain(domain);
  }

  #unhash(domain: MtwatchDomain): void {
    const slot = this.#domainHash[mtwatchHash(domain.domid)];
    slot?.splice(slot.indexOf(domain), 1);
    this.#listDel(domain);
  }

  /** `mtwatch_destroy_domain`: DOWN and out of the hash at once, whatever still waits in its queue; then to the worker. */
  *mtwatchDestroyDomain(domid: number): Task {
    const kernel = this.#kernel;
    const { self, sched } = kernel;
    yield* spinLock(self, this.#domainLock);
    const domain = this.mtwatchFindDomain(domid);
    if (!domain) {
      kernel.note(() => `destroy: no domain ${domid}`);
      return spinUnlock(sched, self, this.#domainLock);
    }
    yield* spinLock(self, domain.eventsLock);
    domain.state = 'DOWN';
    spinUnlock(sched, self, domain.eventsLock);
    this.#unhash(domain);
    kernel.observer?.unhashed?.(self, domid, domain.events.length);
    kernel.note(() => `domain ${domid} down and unhashed, ${domain.events.length} events left`);
    spinUnlock(sched, self, this.#domainLock);
    yield* spinLock(self, this.#purgeLock);
    this.#purgeList.unshift(domain);
    spinUnlock(sched, self, this.#purgeLock);
    kernel.workqueue.schedule(this.#purgeWork);
  }

  /** `xen_mtwatch_callback`: what the node is now decides, not what it was when the event was made. */
  *xenMtwatchCallback(domid: number, path: string): Task {
    if (yield* this.#kernel.exists(path)) yield* this.mtwatchCreateDomain(domid);
    else yield* this.mtwatchDestroyDomain(domid);
  }

  /** `mtwatch_changed`. The watch's own first event has no slash: nodes that are there already are not looked at. */
  *mtwatchChanged(path: string): Task {
    if (charCount(path, '/') !== 1) return;
    yield* this.xenMtwatchCallback(pathToDomid(path.split('/')[1] ?? ''), path);
  }

  /** `__unregister_single_mtwatch`: waits for the domain's running callback, unless it is the caller's own. */
  *#unregisterFrom(watch: XenbusWatch, domain: MtwatchDomain): Task {
    const { self, sched } = this.#kernel;
    const own = self.pid === domain.pid;
    if (!own) yield* mutexLock(self, domain.domainMutex);
    if (domain.freed) {
      this.#kernel.observer?.complain?.(self, 'use after free', `mtwatch_domain of ${domain.domid}, which it slept on`);
    }
    yield* spinLock(self, domain.eventsLock);
    dropEvents(this.#kernel, domain.events, watch);
    spinUnlock(sched, self, domain.eventsLock);
    if (!own) mutexUnlock(sched, self, domain.domainMutex);
  }

  /** `unregister_single_mtwatch`: without a domain it warns, once in a boot, and purges nothing. */
  *unregisterSingleMtwatch(watch: XenbusWatch, domid: number): Task {
    const { self, sched } = this.#kernel;
    rcuReadLock(self);
    const domain = this.mtwatchFindDomain(domid);
    if (domain) yield* this.#kernel.call('__unregister_single_mtwatch', this.#unregisterFrom(watch, domain));
    else this.#warn(self, watch, domid);
    rcuReadUnlock(sched, self);
  }

  /** `unregister_all_mtwatch`: one domain after the other, stalled ones included. */
  *unregisterAllMtwatch(watch: XenbusWatch): Task {
    const { self, sched } = this.#kernel;
    rcuReadLock(self);
    for (let domain = this.#domainList; domain; domain = domain.listNext) {
      yield* this.#kernel.call('__unregister_single_mtwatch', this.#unregisterFrom(watch, domain));
    }
    rcuReadUnlock(sched, self);
  }

  /** `unregister_mtwatch`, for the watches that have a get_domid. */
  *unregister(watch: XenbusWatch): Task {
    if (!watch.getDomid) return;
    const domid = watch.getOwner?.() ?? 0;
    if (domid !== 0) yield* this.unregisterSingleMtwatch(watch, domid);
    else yield* this.unregisterAllMtwatch(watch);
  }

  #warn(self: KTask, watch: XenbusWatch, domid: number): void {
    this.#kernel.note(() => `unregister ${watch.node}: no domain ${domid}`);
    this.#kernel.observer?.complain?.(self, 'WARN', `unregister_single_mtwatch finds no domain ${domid}`);
    if (this.#warned) return;
    this.#warned = true;
    this.#kernel.printk(warnText(this.#kernel.taint, self, 'drivers/xen/xenbus/xenbus_xs.c:1135'));
  }

  #listAddTail(domain: MtwatchDomain): void {
    if (!this.#domainList) {
      this.#domainList = domain;
      return;
    }
    let last = this.#domainList;
    while (last.listNext) last = last.listNext;
    last.listNext = domain;
  }

  #listDel(domain: MtwatchDomain): void {
    if (this.#domainList === domain) {
      this.#domainList = domain.listNext;
      return;
    }
    let before = this.#domainList;
    while (before && before.listNext !== domain) before = before.listNext;
    if (before) before.listNext = domain.listNext;
  }
}

/** `mtwatch_watch`, registered right after be_watch. */
export function* watchMtwatch(watches: Watches, rfc: RfcDispatch): Task {
  yield* watches.register({
    node: 'mtwatch',
    name: 'mtwatch_changed',
    getDomid: mtwatchGetDomid,
    callback: (path) => rfc.mtwatchChanged(path),
  });
}
