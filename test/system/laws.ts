/**
 * What must hold in a simulated system, whatever happens in it.
 *
 * A law is checked at the moment at which it can be broken: at each change of the store, at each packet that a client is
 * sent, at each callback of dom0's kernel, at the end of each operation. The first violation ends the run.
 */
import type { Complaint, Observer } from '../../src/xenbus/kernel/kernel.js';
import type { KTask } from '../../src/xenbus/kernel/sched.js';
import type { WatchEvent } from '../../src/xenbus/kernel/xenwatch.js';
import { mtwatchPath, parseDomid } from '../../src/xenbus/paths.js';
import { faults } from '../../src/xenbus/store.js';
import type { TraceLine } from '../../src/xenbus/trace.js';
import type { Xenstored } from '../../src/xenbus/xenstored.js';
import { splitStrings, type XsPacket, XsType } from '../../src/xenbus/xs-wire.js';

export class Violation extends Error {
  override readonly name = 'Violation';

  constructor(
    readonly law: string,
    readonly detail: string,
  ) {
    super(`${law}: ${detail}`);
  }
}

/** The laws, by the words that a report has for them. */
export const laws = {
  announced: 'whenever /local/domain/N exists, mtwatch/N exists',
  enclosed: 'mtwatch/N is there before the first node of N and after the last',
  serial: 'a domain has one callback at a time',
  fifo: 'the events of a domain run in the order in which they came',
  silence: 'no event of a watch after its unregistering has returned',
  first: 'every registration of a watch has its first event',
  counted: 'the nodes of each owner are those that its quota counts',
  retried: 'no user of libxl sees EAGAIN',
  acknowledged: 'what was acknowledged is in the store',
  heard: 'who watches a node learns of its last value',
  reuse: 'a domid is not given out while a thread or a zombie of it is there',
  lately: 'a domid that was had in the last 60 s is not given to another domain',
  contained: 'what fails has a fault, a guest or somebody else to blame',
  rolledBack: 'a failed creation leaves nothing',
  sound: 'nothing dies of a bug',
  alive: 'everything comes to an end',
  healed: 'when the faults are gone and all domains are destroyed, nothing is left',
} as const;
export type Law = keyof typeof laws;

export function violated(law: Law, detail: string): Violation {
  return new Violation(laws[law], detail);
}

/** Directories with an entry for each domain, all of which lie between the two ends of its announcement. */
const perDomain = ['/libxl', '/local/domain/0/backend/vbd', '/local/domain/0/backend/vif', '/local/domain/0/backend/console'];

/** Checks the store at every generation. */
export class StoreLaws {
  readonly #core: () => Xenstored | undefined;
  #generation = -1;
  /** The registration whose first event comes next. */
  #first: { readonly conn: number; readonly path: string; readonly token: string } | undefined;
  /** Domains of which a killed toolstack may have left parts. */
  readonly #torn: (domid: number) => boolean;

  constructor(core: () => Xenstored | undefined, torn: (domid: number) => boolean) {
    this.#core = core;
    this.#torn = torn;
  }

  /** A line of the store's trace. */
  traced(line: TraceLine): void {
    this.look();
    const first = this.#first;
    if (first) {
      this.#first = undefined;
      const [path, token] = line.args;
      if (line.op !== 'WATCH_EVENT' || line.conn !== first.conn || path !== first.path || token !== first.token) {
        throw violated('first', `connection ${first.conn}, ${first.path} ${first.token}: what comes is ${line.op} ${line.args}`);
      }
    }
    if (line.op === 'WATCH' && line.result === 'OK') {
      const [path = '', token = ''] = line.args;
      this.#first = { conn: line.conn, path, token };
    }
  }

  look(): void {
    const store = this.#core()?.store;
    if (!store || store.generation === this.#generation) return;
    this.#generation = store.generation;
    for (const name of store.names('/local/domain')) {
      const domid = parseDomid(name);
      if (domid === undefined || domid === 0 || store.get(mtwatchPath(domid))) continue;
      throw violated('announced', `/local/domain/${domid} is there and ${mtwatchPath(domid)} is not`);
    }
    for (const dir of perDomain) {
      if (!store.get(dir)) continue;
      for (const name of store.names(dir)) {
        const domid = parseDomid(name);
        if (domid === undefined || domid === 0 || store.get(mtwatchPath(domid)) || this.#torn(domid)) continue;
        // libxl writes this one by itself: a creation that has been overtaken by a destruction has it until it notices.
        if (dir === '/libxl' && store.names(`${dir}/${name}`).join() === 'dm-version') continue;
        throw violated('enclosed', `${dir}/${domid} is there and ${mtwatchPath(domid)} is not`);
      }
    }
  }

  /** Counts every node. */
  audit(): void {
    const core = this.#core();
    const found = core ? faults(core.store) : [];
    if (found[0]) throw violated('counted', found.join('; '));
  }
}

/** What a client of the store is sent, held against what it has asked for. */
export class ClientLaws {
  readonly #who: string;
  readonly #asked = new Map<number, { readonly type: number; readonly path: string; readonly token: string }>();
  readonly #gone = new Set<string>();
  #first: { readonly path: string; readonly token: string } | undefined;

  constructor(who: string) {
    this.#who = who;
  }

  sent({ type, reqId, payload }: XsPacket): void {
    if (type !== XsType.Watch && type !== XsType.Unwatch) return;
    const [path = '', token = ''] = splitStrings(payload);
    this.#asked.set(reqId, { type, path, token });
  }

  received({ type, reqId, payload }: XsPacket): void {
    const first = this.#first;
    this.#first = undefined;
    const [path, token] = type === XsType.WatchEvent ? splitStrings(payload) : [];
    if (first && (path !== first.path || token !== first.token)) {
      throw violated('first', `${this.#who} has registered ${first.path} with ${first.token}`);
    }
    if (type === XsType.WatchEvent) {
      if (this.#gone.has(token ?? '')) throw violated('silence', `${this.#who} has an event of ${path}, which it unregistered`);
      return;
    }
    const asked = this.#asked.get(reqId);
    if (!asked) return;
    this.#asked.delete(reqId);
    if (type === XsType.Error) return;
    if (asked.type === XsType.Unwatch) {
      this.#gone.add(asked.token);
    } else {
      this.#gone.delete(asked.token);
      this.#first = asked;
    }
  }

  /** Nothing is on its way to it. */
  quiet(): void {
    if (this.#first) throw violated('first', `${this.#who} has registered ${this.#first.path}`);
  }
}

/** Watches over the watch threads of dom0. */
export class KernelLaws implements Observer {
  readonly #report: (violation: Violation) => void;
  readonly #waiting = new Map<number, WatchEvent[]>();
  readonly #running = new Map<number, WatchEvent>();

  /** `report` hears of a violation, from within a task of the kernel, which must not be thrown through. */
  constructor(report: (violation: Violation) => void) {
    this.#report = report;
  }

  queued(event: WatchEvent): void {
    const domid = domainOf(event);
    const waiting = this.#waiting.get(domid);
    if (waiting) waiting.push(event);
    else this.#waiting.set(domid, [event]);
  }

  began(_task: KTask, event: WatchEvent): void {
    const domid = domainOf(event);
    const name = `${event.watch.name} of ${event.path}`;
    if (event.watch.gone) this.#report(violated('silence', `domain ${domid}: ${name} runs, and its watch is gone`));
    const before = this.#running.get(domid);
    if (before) this.#report(violated('serial', `domain ${domid}: ${name} runs beside ${before.watch.name} of ${before.path}`));
    this.#running.set(domid, event);
    const waiting = this.#waiting.get(domid) ?? [];
    const [next] = waiting;
    if (next !== event)
      this.#report(violated('fifo', `domain ${domid}: ${name} runs before ${next?.watch.name} of ${next?.path}`));
    this.#forget(domid, event);
  }

  ended(_task: KTask, event: WatchEvent): void {
    const domid = domainOf(event);
    if (this.#running.get(domid) === event) this.#running.delete(domid);
  }

  purged(event: WatchEvent): void {
    this.#forget(domainOf(event), event);
  }

  complain(task: KTask, what: Complaint, text: string): void {
    this.#report(violated('sound', `${task.name}: ${what}: ${text}`));
  }

  #forget(domid: number, event: WatchEvent): void {
    const waiting = this.#waiting.get(domid);
    if (!waiting) return;
    const at = waiting.indexOf(event);
    if (at >= 0) waiting.splice(at, 1);
    if (waiting.length === 0) this.#waiting.delete(domid);
  }
}

function domainOf({ watch, path, domid }: WatchEvent): number {
  return domid ?? watch.domidOf(path);
}
