/**
 * What must hold while a schedule runs, and what must hold when nobody can go on: the invariants, and which hazard it is
 * when one of them does not.
 *
 * The kernel tells (`Observer`), the scheduler tells when a task is about to wait, and the store is looked at. A law is
 * checked at the moment at which it can be broken; the first violation of each hazard in a run is kept.
 */
import { heldDevice } from '../xenbus/fault.js';
import type { Complaint, Observer } from '../xenbus/kernel/kernel.js';
import { pathToDomid } from '../xenbus/kernel/rfc.js';
import { type KTask, type Trouble, waitQueue, waitsFor } from '../xenbus/kernel/sched.js';
import type { Dispatch, WatchEvent, XenbusWatch } from '../xenbus/kernel/xenwatch.js';
import { parseDomid } from '../xenbus/paths.js';
import type { Hold } from '../xenbus/privcmd.js';
import type { Design, HazardInfo, Violation } from './outcome.js';
import type { DirectStore, StateWritten } from './store.js';

export const hazards: readonly HazardInfo[] = [
  {
    id: 'S1',
    title: 'one hung callback stalls every domain',
    what: 'the one xenwatch thread waits for what one domain holds up; what the RFC is about',
  },
  { id: 'O1', title: 'last in, first out', what: 'a domain’s events run in another order than the store sent them' },
  {
    id: 'O2',
    title: 'xenwatch runs the events of a domain beside its thread',
    what: 'after the removal of its node a domain is unhashed while its thread still works',
  },
  {
    id: 'O3',
    title: 'two threads of one domid',
    what: 'a domid that comes back gets a new thread while the old one still works',
  },
  {
    id: 'O4',
    title: 'a domain is forgotten with events waiting',
    what: 'it is unhashed before its queue is empty; what comes then runs elsewhere, and unregistering does not find what waits',
  },
  {
    id: 'A1',
    title: 'two watches of one device in two threads',
    what: 'some of a device’s watches run in xenwatch, the others in its domain’s thread',
  },
  {
    id: 'U1',
    title: 'a callback on a watch that is gone',
    what: 'an event outlives its watch in a queue that unregistering does not find',
  },
  {
    id: 'U2',
    title: 'a watch unregistered twice: BUG',
    what: 'hotplug-status runs in xenwatch; it and the domain’s thread both unregister it',
  },
  {
    id: 'U2R',
    title: 'the ring reader spins for ever',
    what: 'who met the BUG died with watches_lock; events and replies stop for the whole of dom0',
  },
  {
    id: 'U3',
    title: 'a disk connected twice',
    what: 'physical-device in xenwatch and the frontend’s state in the domain’s thread both connect it',
  },
  {
    id: 'U4',
    title: 'sleeping in an RCU read section',
    what: 'unregistering waits for a mutex under rcu_read_lock, and what it waits on may be freed',
  },
  {
    id: 'U5',
    title: 'an ERR_PTR taken for a thread',
    what: 'a thread that could not be started stays published; its events are never run',
  },
  {
    id: 'D1',
    title: 'deadlock of xenwatch_mutex and domain_mutex',
    what: 'xenwatch unregisters a watch of a domain whose thread unregisters one, too',
  },
  {
    id: 'D2',
    title: 'deadlock of xenwatch_mutex and a device lock',
    what: 'xenwatch and the domain’s thread take down the same device',
  },
  {
    id: 'E1',
    title: 'xenwatch stalls in the callback of a domain without a thread',
    what: 'what finds no thread runs in xenwatch',
  },
  {
    id: 'E2',
    title: 'xenwatch waits for every domain',
    what: 'unregistering a watch of dom0 waits for the mutex of each domain, stalled ones too',
  },
  {
    id: 'E3',
    title: 'a shared lock of the kernel',
    what: 'a stalled callback holds a lock that another domain’s callback needs',
  },
  {
    id: 'E4',
    title: 'a domain waits for xenwatch',
    what: 'every unregistering takes xenwatch_mutex, which xenwatch holds over its callbacks',
  },
  {
    id: 'E5',
    title: 'xenwatch stalls in a domain’s disk',
    what: 'physical-device runs in xenwatch and opens, flushes, connects there',
  },
  {
    id: 'E6',
    title: 'a domain waits for another one’s callback',
    what: 'nobody can go on, an event waits, and no callback of its domain runs that it could wait for',
  },
  {
    id: 'L1',
    title: 'the removal of a stalled domain’s node is not seen',
    what: 'it waits behind the callback that hangs, so that nothing tells that the thread is to go',
  },
  {
    id: 'L2',
    title: 'a domid reused on a stalled thread, silently',
    what: 'the new domain’s events wait behind the old one’s callback and nothing says so',
  },
  {
    id: 'L3',
    title: 'one stalled thread keeps the others from being reaped',
    what: 'the one worker waits for it in kthread_stop',
  },
  { id: 'L4', title: 'a domain that nobody announced', what: 'WARN, and everything of it runs in xenwatch' },
  { id: 'L5', title: 'a node without a thread', what: 'nodes that were there before the watch are not looked at' },
  { id: 'L6', title: 'no memory, and nobody says so', what: 'the thread is not made, and nothing is tried or told' },
  { id: 'P1', title: 'the parent node removed', what: 'every thread stays for good' },
  { id: 'P2', title: 'names that are no domid', what: '7abc, 007, 65543 and 4294967303 are taken for 7' },
  { id: 'X1', title: 'XSA-349 undone', what: 'more than one event of a node that a guest writes waits in a queue' },
  { id: 'X2', title: 'a guest keeps xenwatch busy', what: 'events of a node that a guest writes run in xenwatch' },
  { id: 'STATE', title: 'a state out of order', what: 'a back end goes from one state to another that its driver has no way to' },
  { id: 'GHOST', title: 'a state of nothing', what: 'a state is written after its device was removed from the store' },
  {
    id: 'ZOMBIE',
    title: 'a domain that does not die',
    what: 'everything is over, its devices are removed, and pages of it are mapped',
  },
  { id: 'LEAK', title: 'a thread without a node', what: 'everything is over, and a thread is left' },
  {
    id: 'LOST',
    title: 'an event that never ran',
    what: 'everything is over, and an event was neither run nor dropped with its watch',
  },
  { id: 'STUCK', title: 'a task that waits for ever', what: 'everything has healed, and somebody still sleeps uninterruptibly' },
  { id: 'ENDLESS', title: 'no end', what: 'the run takes more steps than any should' },
];

export interface LawsOptions {
  readonly design: Design;
  readonly tasks: () => Iterable<KTask>;
  readonly step: () => number;
  readonly store: DirectStore;
  readonly faults: () => readonly Hold[];
  /** Domains that are dying. */
  readonly dying: () => readonly number[];
  /** Who acts on the kernel. */
  readonly actors: () => readonly { readonly lane: string; readonly task: KTask }[];
  readonly dispatch: () => Dispatch;
  readonly note: (lane: string, text: string) => void;
  readonly noting: boolean;
  /** Who runs now. */
  readonly current: () => KTask | undefined;
}

const home = '/local/domain/0/mtwatch';

/**
 * Where a back end's state can come from, as its driver writes it: by the state that it goes to. The toolstack's own writes
 * (1, and 5 when it unplugs) do not count, for drivers go by what they wrote themselves.
 *
 * A vif is more than set_backend_state's table: what is written while the hotplug script runs is kept back, so that a later
 * state may follow, and a connect that fails is 5, then 4.
 */
const cameFrom: Readonly<Record<string, Readonly<Record<number, readonly number[]>>>> = {
  vbd: { 2: [1, 6], 4: [2, 5, 6], 5: [1, 2, 4, 6], 6: [1, 2, 4, 5] },
  vif: { 2: [1, 5, 6], 4: [2, 5], 5: [1, 2, 4, 6, 8], 6: [1, 2, 4, 5, 8], 8: [2, 4, 5, 6, 8] },
};
const backendState = /^\/local\/domain\/0\/backend\/(vbd|vif)\/\d+\/\d+\/state$/;

export class Laws implements Observer {
  readonly #options: LawsOptions;
  readonly #found = new Map<string, Violation>();
  /** Callbacks that run, by the domain that they are about. */
  readonly #running = new Map<number, { readonly task: KTask; readonly event: WatchEvent }[]>();
  /** The newest event that has begun, by domain, and who ran it. */
  readonly #newest = new Map<number, { readonly event: WatchEvent; readonly task: KTask }>();
  /** Events queued that have neither begun nor been dropped. */
  readonly #waiting = new Set<WatchEvent>();
  readonly #waitingOf = new Map<XenbusWatch, number>();
  #reported = false;
  #toldOfMemory = false;
  /** An allocation has failed in this run. */
  #memoryFailed = false;
  #sloppy = false;
  /** The state that a driver wrote last, by its node. */
  readonly #states = new Map<string, number>();
  /** Domids of which an announcement has been looked at. */
  readonly #announced = new Set<number>();

  constructor(options: LawsOptions) {
    this.#options = options;
  }

  /** Woken whenever a callback ends. */
  readonly ends = waitQueue('the end of a callback');

  /** Whether an event of a domain's frontend waits or is in its callback. */
  busy(domid: number): boolean {
    const frontend = `/local/domain/${domid}/device/`;
    for (const { path } of this.#waiting) if (path.startsWith(frontend) && path.endsWith('/state')) return true;
    return (this.#running.get(domid) ?? []).some(({ event }) => event.path.startsWith(frontend) && event.path.endsWith('/state'));
  }

  get violations(): readonly Violation[] {
    return [...this.#found.values()];
  }

  // What the kernel tells.

  note(task: KTask | undefined, text: string): void {
    if (this.#options.noting) this.#options.note(task?.lane ?? 'C', text);
  }

  printed(text: string): void {
    if (text.includes('is announced while')) this.#reported = true;
    if (text.includes('no memory for')) this.#toldOfMemory = true;
    const line = text.split('\n').find((each) => !each.includes('cut here')) ?? '';
    this.note(this.#options.current(), `log: ${line}`);
  }

  queued(event: WatchEvent): void {
    this.#waiting.add(event);
    const { watch } = event;
    const waiting = (this.#waitingOf.get(watch) ?? 0) + 1;
    this.#waitingOf.set(watch, waiting);
    const guests = watch.guestWritable || (this.#options.design === 'hardened' && isMulticast(watch));
    if (guests && waiting > 1) {
      this.#violate('X1', 'at most one event of a guest’s node waits', `${waiting} events of ${watch.node} wait`);
    }
  }

  purged(event: WatchEvent): void {
    this.#settle(event);
    this.note(this.#options.current(), `drops #${event.seq} ${event.path}`);
  }

  unhashed(task: KTask, domid: number, left: number): void {
    if (left === 0) return;
    this.#violate(
      'O4',
      'a domain is forgotten when nothing waits for it',
      `${task.lane} forgets domain ${domid}, ${left} events wait`,
    );
  }

  /** A driver's state is in the store. */
  stateWritten({ path, before, after }: StateWritten): void {
    this.note(this.#options.current(), `${path.replace('/local/domain/0/', '')} is ${after}`);
    if (before === undefined) {
      this.#violate('GHOST', 'a device that was removed has no state', `${path} was gone, and is ${after}`);
      return;
    }
    const type = backendState.exec(path)?.[1];
    const from = cameFrom[type ?? ''];
    if (!from) return;
    // Nobody but the toolstack writes 1: the device is new. So it is to a driver that has written nothing yet, whatever the
    // toolstack has made of it meanwhile.
    const last = before === '1' ? 1 : (this.#states.get(path) ?? 1);
    this.#states.set(path, Number(after));
    if (from[Number(after)]?.includes(last)) return;
    this.#violate('STATE', 'a state follows from the one before', `${path} goes from ${last} to ${after}`);
  }

  began(task: KTask, event: WatchEvent): void {
    this.#settle(event);
    const { watch, path } = event;
    if (this.#options.noting) this.#options.note(task.lane, `begin #${event.seq} ${path} [${short(watch.name)}]`);
    if (watch.gone) {
      this.#violate('U1', 'no callback on a watch that is gone', `${task.lane} runs ${path} on a watch that was unregistered`);
    }
    if (watch.name === 'mtwatch_changed') {
      this.#announced.add(pathToDomid(path.split('/')[1] ?? ''));
      if (path.split('/').length === 2 && parseDomid(path.split('/')[1]) === undefined) this.#sloppy = true;
      return;
    }
    const domid = domainOf(event);
    if (domid === 0) return;
    if (task.lane === 'X' && watch.getDomid && this.#options.design !== 'single' && this.#unannounced(domid)) {
      this.#violate('L4', 'a domain’s callbacks run in its own thread', `xenwatch runs ${path} of domain ${domid}`);
    }
    this.#exclusive(task, event, domid);
    this.#ordered(task, event, domid);
    if (task.lane === 'X' && this.#options.design !== 'single' && isMulticast(watch) && !this.#unannounced(domid)) {
      this.#violate('X2', 'a guest’s events run in its own thread', `xenwatch runs ${path}, which domain ${domid} writes`);
    }
    this.#running.set(domid, [...(this.#running.get(domid) ?? []), { task, event }]);
  }

  ended(task: KTask, event: WatchEvent): void {
    if (this.#options.noting) this.#options.note(task.lane, `end #${event.seq}`);
    const domid = domainOf(event);
    const running = this.#running.get(domid);
    if (running)
      this.#running.set(
        domid,
        running.filter((one) => one.event !== event),
      );
    task.sched?.wakeAll(this.ends);
  }

  complain(task: KTask, what: Complaint, text: string): void {
    const hazard = complaints[what];
    this.#violate(hazard, complaintLaws[what], `${task.lane}: ${text}`);
  }

  died(task: KTask, what: Trouble, text: string): void {
    this.note(task, `${what}: ${text}`);
    if (what === 'soft lockup') this.#violate('ENDLESS', 'no task runs for ever', `${task.lane} never blocks`);
  }

  sleptAtomic(task: KTask, what: string): void {
    this.#violate('U4', 'nobody sleeps in atomic context', `${task.lane} may sleep at ${what} in an RCU read section`);
  }

  // What the scheduler tells.

  /** A task is about to wait: is it in a ring of tasks that wait for each other, or held up by somebody else's stall? */
  blocking(task: KTask): void {
    if (task.state === 'S') {
      if (this.#held(task) !== undefined) this.#stalled(task);
      return;
    }
    const chain = waitsFor(task);
    const last = chain[chain.length - 1] ?? task;
    if (task.waitingOn !== task.reply) this.note(task, `waits: ${describeWait(task)}`);
    const [, owner] = chain;
    if (
      owner &&
      task.waitingOn?.name.startsWith('device lock') &&
      runsCallbacks.test(task.lane) &&
      runsCallbacks.test(owner.lane)
    ) {
      this.#violate('A1', 'a device belongs to one thread', `${task.lane} waits for ${owner.lane}: ${task.waitingOn.name}`);
    }
    if (chain.length > 1 && chain.indexOf(last) < chain.length - 1) this.#deadlock(chain);
    else if (last.died !== undefined && task.lane === 'R') {
      this.#violate('U2R', 'the ring is read', `R spins on ${task.waitingOn?.name}, which ${last.lane} holds, and it is dead`);
    } else if (this.#held(last) !== undefined) this.#stalled(last);
  }

  /** A number for where everybody is; equal for equal places. */
  fingerprint(ready: readonly { readonly lane: string }[]): number {
    let hash = 17;
    for (const task of this.#options.tasks()) {
      hash = Math.imul(hash, 31) + code(task.lane) + task.stack.length * 7 + code(task.stack[task.stack.length - 1] ?? '');
      if (task.waitingOn) hash = Math.imul(hash, 33) + code(task.waitingOn.name);
    }
    for (const { lane } of ready) hash = Math.imul(hash, 37) + code(lane);
    hash = Math.imul(hash, 41) + this.#waiting.size;
    return hash | 0;
  }

  /** Nobody can go on, or not before some time has passed: an event that waits now waits for its own domain’s callback. */
  nobodyGoesOn(): void {
    if (this.#memoryFailed || this.#found.size > 0) return;
    for (const event of this.#waiting) {
      const domid = domainOf(event);
      if (domid === 0 || this.#running.get(domid)?.length) continue;
      this.#violate(
        this.#options.design === 'single' ? 'S1' : 'E6',
        'a domain waits for itself alone',
        `#${event.seq} ${event.path} waits, and no callback of domain ${domid} runs`,
      );
      return;
    }
  }

  endless(): void {
    this.#violate('ENDLESS', 'a run ends', 'it did not');
  }

  // What must hold when nobody can go on.

  /** Nobody can go on; what is held is still held, or (`healed`) has been let go before the last scripts ran. */
  settled(healed: boolean): void {
    if (this.#memoryFailed && !this.#toldOfMemory) {
      this.#violate('L6', 'what has no memory is told of', 'a thread could not be made, and nothing says so');
    }
    if (healed) return;
    const stalled = new Set(
      this.#options
        .faults()
        .filter((hold) => hold.stalled)
        .map(({ device }) => Number(device.split('-')[1])),
    );
    for (const { domid, node, running, task } of this.#options.dispatch().threads()) {
      if (domid === 0 || !stalled.has(domid) || !running || task.exited) continue;
      const there = this.#options.store.peek(`${home}/${domid}`);
      if (there === undefined && node) {
        this.#violate(
          'L1',
          'a thread whose node is gone is known to be leaving',
          `mtwatch/${domid} is gone, and nothing tells ${task.lane}`,
        );
      }
      if (there === 'again' && !this.#reported) {
        this.#violate('L2', 'a reuse of a stalled domid is told', `domain ${domid} is announced again, behind ${running.path}`);
      }
    }
  }

  /** Everything has healed, and nobody can go on. */
  healed(): void {
    const dispatch = this.#options.dispatch();
    const threads = dispatch.threads().filter(({ task }) => !task.exited && task.died === undefined);
    const { store, design } = this.#options;
    // A thread that is dead, or in a ring of waiting ones, has been told of; what follows from it needs no name.
    if (['U2', 'U5', 'D1', 'D2'].some((hazard) => this.#found.has(hazard))) return;
    const names = store.names(home);
    for (const { domid, task } of threads) {
      if (domid === 0 || names.includes(String(domid))) continue;
      if (names.some((name) => pathToDomid(name) === domid) || this.#sloppy) {
        this.#violate('P2', 'only a domid makes a thread', `${task.lane} is there for ${names.join(', ') || 'no node'}`);
      } else if (store.peek(home) === undefined)
        this.#violate('P1', 'a removed node ends its thread', `${home} is gone, ${task.lane} is not`);
      else this.#violate('LEAK', 'a thread has a node', `${task.lane} is left without one`);
    }
    for (const name of design === 'single' ? [] : names) {
      const domid = parseDomid(name);
      if (domid === undefined || domid === 0 || threads.some((thread) => thread.domid === domid)) continue;
      if (this.#sloppy) this.#violate('P2', 'only a domid ends a thread', `mtwatch/${name} is there, its thread is not`);
      else this.#violate('L5', 'an announced domain has a thread', `mtwatch/${name} has none`);
    }
    for (const event of this.#waiting) {
      this.#violate('LOST', 'every event runs or is dropped with its watch', `#${event.seq} ${event.path} was never run`);
    }
    for (const { lane, task } of this.#options.actors()) {
      if (!task.exited) this.#violate('STUCK', 'whoever began comes to an end', `${lane}: ${describeWait(task)}`);
    }
    for (const domid of this.#options.dying()) {
      if (store.backendsOf(domid) > 0) continue;
      this.#violate('ZOMBIE', 'a domain without devices is gone', `domain ${domid} is dying still`);
    }
    for (const task of this.#options.tasks()) {
      if (task.state === 'D' && !task.exited)
        this.#violate('STUCK', 'nobody waits for ever', `${task.lane}: ${describeWait(task)}`);
    }
  }

  /** There was no memory for this. A thread that cannot be started is told by an ERR_PTR, if that is looked at. */
  failed(what: string): void {
    if (what.startsWith('kzalloc') || this.#options.design === 'hardened') this.#memoryFailed = true;
  }

  // How a broken law is named.

  #unannounced(domid: number): boolean {
    return !this.#announced.has(domid) && this.#options.store.peek(`${home}/${domid}`) === undefined;
  }

  #settle(event: WatchEvent): void {
    if (!this.#waiting.delete(event)) return;
    this.#waitingOf.set(event.watch, (this.#waitingOf.get(event.watch) ?? 1) - 1);
  }

  #exclusive(task: KTask, event: WatchEvent, domid: number): void {
    const other = this.#running.get(domid)?.find((one) => one.task !== task && !one.task.exited);
    if (!other) return;
    const text = `${task.lane} begins ${event.path} while ${other.task.lane} is in ${other.event.path}`;
    this.#violate(this.#rivals(task, event, other), 'one callback of a domain at a time', text);
  }

  #ordered(task: KTask, event: WatchEvent, domid: number): void {
    const newest = this.#newest.get(domid);
    if (!newest || newest.event.seq < event.seq) {
      this.#newest.set(domid, { event, task });
      return;
    }
    const text = `#${event.seq} ${event.path} begins after #${newest.event.seq} ${newest.event.path}`;
    this.#violate(newest.task === task ? 'O1' : this.#rivals(task, event, newest), 'a domain’s events begin in order', text);
  }

  /** Two threads did what one should have: which two, and of which watches, says why. */
  #rivals(task: KTask, event: WatchEvent, other: { readonly task: KTask; readonly event: WatchEvent }): string {
    if (!event.watch.getDomid || !other.event.watch.getDomid) return 'A1';
    return task.lane === 'X' || other.task.lane === 'X' ? 'O2' : 'O3';
  }

  #deadlock(chain: readonly KTask[]): void {
    const locks = chain.map(({ waitingOn }) => waitingOn?.name ?? '');
    const device = locks.some((name) => name.startsWith('device lock'));
    const text = chain.map(({ lane }) => lane).join(' waits for ');
    this.#violate(device ? 'D2' : 'D1', 'nobody waits in a ring', `${text} (${[...new Set(locks)].join(', ')})`);
  }

  /** The domain whose hold the task sleeps in. */
  #held(task: KTask): number | undefined {
    const device = task.waitingOn && heldDevice(task.waitingOn);
    return device === undefined ? undefined : Number(device.split('-')[1]);
  }

  /** `end` is stuck in a hold: whoever waits for it, and is not its domain's, is stalled by somebody else. */
  #stalled(end: KTask): void {
    const domid = this.#held(end);
    for (const task of this.#options.tasks()) {
      if (task.state === 'S' || !watchThread.test(task.lane)) continue;
      const chain = waitsFor(task);
      if (chain[chain.length - 1] !== end || !task.waitingOn) continue;
      // Who unregisters the watches of a process serves no domain.
      const forProcess = task.lane.startsWith('U') || task.stack.includes('xenbus_worker');
      if (task.serves === domid && task.lane !== 'X' && !forProcess) continue;
      if (domid === 0 && task.lane === 'X') continue;
      this.#violate(
        this.#escape(task, domid ?? 0),
        'a stall stays with its domain',
        `${task.lane} is stalled by domain ${domid}: ${describeWait(task)}`,
      );
    }
  }

  #escape(task: KTask, domid: number): string {
    if (this.#options.design === 'single') return 'S1';
    if (task.stack.includes('xen_mtwatch_purge_domain')) return 'L3';
    const waitsOn = task.waitingOn?.name ?? '';
    if (task.stack.includes('__unregister_single_mtwatch') || waitsOn.startsWith('a callback of domain')) return 'E2';
    if (waitsOn === 'xenwatch_mutex') return 'E4';
    if (waitsOn.startsWith('rtnl') || task.lane !== 'X') return waitsOn.startsWith('domain_mutex') ? 'E2' : 'E3';
    // All of a domain that nobody announced runs there, and a watch that stays there is not what is wrong.
    const running = this.#unannounced(domid) ? undefined : this.#running.get(domid)?.find((one) => one.task === task);
    return running?.event.watch.name.includes('[xen_blkback]') && !running.event.watch.getDomid ? 'E5' : 'E1';
  }

  #violate(hazard: string, invariant: string, text: string): void {
    if (this.#found.has(hazard)) return;
    this.#found.set(hazard, { hazard, invariant, step: this.#options.step(), text });
  }
}

/** The threads that run callbacks, read the ring or do the system's work, and users of the kernel. */
const watchThread = /^(X|C|R|D\d+[a-z]?|KW[a-z]?|U\d*)$/;

const runsCallbacks = /^(X|D\d+[a-z]?)$/;

const complaints: Record<Complaint, string> = {
  BUG: 'U2',
  WARN: 'L4',
  'sleeping in atomic': 'U4',
  'use after free': 'U4',
  ERR_PTR: 'U5',
  'double connect': 'U3',
};

const complaintLaws: Record<Complaint, string> = {
  BUG: 'a watch is unregistered once',
  WARN: 'who unregisters finds the watch’s domain',
  'sleeping in atomic': 'nobody sleeps in atomic context',
  'use after free': 'nobody uses what was freed',
  ERR_PTR: 'a thread that could not be started is not taken for one',
  'double connect': 'a disk is connected once',
};

/** The domain that an event is about, whoever runs it. */
function domainOf({ watch, path, domid }: WatchEvent): number {
  return Math.max(0, domid ?? watch.domidOf(path));
}

function describeWait(task: KTask): string {
  const chain = waitsFor(task).map(({ lane }) => lane);
  const inside = task.stack[task.stack.length - 1] ?? '';
  return `${task.waitingOn?.name ?? 'nothing'} in ${short(inside)}${chain.length > 1 ? ` (${chain.join(' -> ')})` : ''}`;
}

function isMulticast({ name }: XenbusWatch): boolean {
  return name.startsWith('xen_mcast_ctrl_changed');
}

function short(name: string): string {
  return name.replace(/ \[.*\]$/, '');
}

const codes = new Map<string, number>();

/** A number for a name, the same in every run. */
function code(name: string): number {
  let known = codes.get(name);
  if (known === undefined) {
    known = 5381;
    for (let at = 0; at < name.length; at++) known = (Math.imul(known, 33) + name.charCodeAt(at)) | 0;
    codes.set(name, known);
  }
  return known;
}
