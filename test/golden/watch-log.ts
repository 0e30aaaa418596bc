/**
 * What a dom0 kernel with the posted patch said of its watch threads, and the rule that it follows.
 *
 * The lines are those of a debug hook in a real kernel (data/mtwatch), and ours are put into the same words, so that
 * one parser reads both and one model of the queues checks both. The model knows nothing of rfc.ts: it is the patch's
 * text read as a rule, and the recordings show whether it was read rightly.
 */
import type { Dom0 } from '../../src/xenbus/dom0.js';
import type { Observer } from '../../src/xenbus/kernel/kernel.js';
import type { KTask } from '../../src/xenbus/kernel/sched.js';
import type { WatchEvent } from '../../src/xenbus/kernel/xenwatch.js';
import type { WatchThread } from '../../src/xenbus/privcmd.js';

/** One line. `by` is the thread's comm, 15 characters at most; a kworker is `kworker`, whatever its number. */
export interface Said {
  readonly by: string;
  readonly what: What;
  readonly text: string;
  readonly seq: number;
  readonly path: string;
  readonly domid: number;
  /** Events that wait in the domain's queue: before a forward, after a begin or a down. */
  readonly waiting: number;
}

const forms = {
  forward: /^forward #(?<seq>\d+) (?<path>\S+) to domain (?<domid>\d+) \((?<waiting>\d+) there already\)$/,
  begin: /^begin #(?<seq>\d+) (?<path>\S+)(?: \(domain (?<domid>\d+), (?<waiting>\d+) left\))?$/,
  end: /^end #(?<seq>\d+)$/,
  created: /^domain (?<domid>\d+) created, thread \d+$/,
  starts: /^thread of domain (?<domid>\d+) starts$/,
  ends: /^thread of domain (?<domid>\d+) ends$/,
  exists: /^create: domain (?<domid>\d+) exists$/,
  'no domain': /^destroy: no domain (?<domid>\d+)$/,
  down: /^domain (?<domid>\d+) down and unhashed, (?<waiting>\d+) events left$/,
  stop: /^purge: kthread_stop of domain (?<domid>\d+)$/,
  stopped: /^purge: domain (?<domid>\d+) stopped$/,
  drop: /^purge #(?<seq>\d+) (?<path>\S+) from domain (?<domid>\d+)$/,
  'no owner': /^unregister (?<path>\S+): no domain (?<domid>\d+)$/,
};
type What = keyof typeof forms | 'dom0';

/** Reads lines of a log, with or without what dmesg puts before them. */
export function parseLog(lines: readonly string[]): Said[] {
  return lines.flatMap((line) => {
    const text = line.replace(/^\[ *[\d.]+\] /, '').replace(/^xenbus: (lab: )?/, '');
    if (text === '') return [];
    const none = { seq: -1, path: '', domid: 0, waiting: 0 };
    if (text === 'default xenwatch thread is for dom0') return [{ ...none, by: 'xenwatch', what: 'dom0' as const, text }];
    const [, by = '', rest = ''] = /^([^: ]+|kworker\S+): (.*)$/.exec(text) ?? [];
    for (const [what, form] of Object.entries(forms)) {
      const found = form.exec(rest)?.groups;
      if (!found) continue;
      const { seq = '-1', path = '', domid = '0', waiting = '0' } = found;
      const numbers = { seq: Number(seq), domid: Number(domid), waiting: Number(waiting) };
      return [{ by: by.replace(/^kworker.*/, 'kworker'), what: what as What, text: rest, path, ...numbers }];
    }
    throw new Error(`not a line of a watch thread: ${line}`);
  });
}

/** A line with what never agrees put aside: the numbers of events, pids. */
export function wording({ by, text }: Said): string {
  return `${by}: ${text.replace(/#\d+/, '#').replace(/thread \d+$/, 'thread')}`;
}

/** What our kernel says, in the same words. */
export interface WatchLog {
  readonly lines: string[];
  readonly observer: Observer;
  /** Gives it the machine that it observes, which begins before it can be had. */
  of(dom0: Dom0): void;
}

/** `began`: told of every event whose callback begins. */
export function watchLog(began?: (event: WatchEvent) => void): WatchLog {
  let dom0: Dom0 | undefined;
  const threads = () => (dom0?.handlers['dom0.mtwatch']({}) ?? []) as readonly WatchThread[];
  const lines: string[] = [];
  const forwarded = new Set<number>();
  const say = (task: KTask | undefined, text: string) => lines.push(`${task?.comm ?? '-'}: ${text}`);
  const observer: Observer = {
    note: (task, text) => {
      const seq = /^forward #(\d+)/.exec(text)?.[1];
      if (seq !== undefined) forwarded.add(Number(seq));
      say(task, text);
    },
    began: (task, event) => {
      began?.(event);
      const { seq, path } = event;
      const of =
        task.serves === 0 ? '' : ` (domain ${task.serves}, ${threads().find(({ pid }) => pid === task.pid)?.pending} left)`;
      say(task, `begin #${seq} ${path}${of}`);
    },
    ended: (task, { seq }) => say(task, `end #${seq}`),
    purged: ({ seq, path, watch }) => {
      if (forwarded.has(seq)) say(dom0?.kernel.self, `purge #${seq} ${path} from domain ${watch.getDomid?.(path)}`);
    },
  };
  return {
    lines,
    observer,
    of: (its) => {
      dom0 = its;
    },
  };
}

/** An event that ran: in which thread, and the older ones of its domain that had to wait for it. */
export interface Ran {
  readonly seq: number;
  readonly path: string;
  readonly by: string;
  readonly overtook: readonly number[];
}

/** The leading digits in 16 bits, as a rule of its own: 4294967303 is 7. */
function leadingDomid(text: string): number {
  return Number(BigInt(/^\d*/.exec(text)?.[0] || '0') % 65536n);
}

/** The domain that the patch takes an event of this path for, 0 for none, if its watch has a get_domid. */
export function domidOf(path: string): number {
  const [first = '', second = '', third] = path.split('/');
  const frontend = /^\/local\/domain\/(\d+)\/device\/[^/]+\/[^/]+\/state$/.exec(path);
  if (frontend) return Number(frontend[1]);
  if (first === 'backend') return leadingDomid(third ?? '');
  return first === 'mtwatch' && third === undefined ? leadingDomid(second) : 0;
}

/** Watches that have no get_domid watch these, beside or without be_watch. */
const withoutGetDomid = /\/(physical-device|hotplug-status|rate|request-multicast-control)$/;

interface Domain {
  readonly domid: number;
  hashed: boolean;
  stopping: boolean;
  readonly queue: { readonly seq: number; readonly path: string }[];
  running: number | undefined;
}

/**
 * Follows a log and tells where it leaves the rule, and what ran where.
 *
 * ```
 * xenwatch takes events in the order of their numbers
 *   its watch has get_domid, and that domain is hashed   -> forward: put on top of the domain's queue
 *   else                                                 -> xenwatch runs it
 * a domain's thread takes the top of its queue, one at a time, hashed or not, and ends when it is told to and has none
 * mtwatch/N written   -> created unless hashed;  removed -> down and unhashed, its queue stays
 * a watch unregistered -> its events leave the queue of its domain
 * ```
 * `threads`: the domains whose threads were there before the log begins, with empty queues.
 */
export function follow(log: readonly Said[], threads: readonly number[] = []): { breaks: string[]; ran: Ran[] } {
  const breaks: string[] = [];
  const ran: Ran[] = [];
  const born = (domid: number): Domain => ({ domid, hashed: true, stopping: false, queue: [], running: undefined });
  const domains: Domain[] = threads.map(born);
  const hashed = (domid: number) => domains.find((domain) => domain.hashed && domain.domid === domid);
  let last = -1;
  let inXenwatch: number | undefined;

  for (const [at, said] of log.entries()) {
    const { by, what, seq, path, domid, waiting } = said;
    const must = (holds: boolean, rule: string) => {
      if (!holds) breaks.push(`line ${at}, ${by}: ${said.text}: ${rule}`);
    };
    const found = hashed(domid);
    const next = () => {
      must(last < 0 || seq === last + 1, `xenwatch takes #${last + 1} next`);
      must(inXenwatch === undefined, `xenwatch still runs #${inXenwatch}`);
      last = seq;
    };
    const own = domains.filter((domain) => `xen-mtwatch-${domain.domid}`.slice(0, 15) === by);
    if (what === 'forward') {
      next();
      must(by === 'xenwatch', 'only xenwatch forwards');
      must(domid === domidOf(path), `its domain is ${domidOf(path)}`);
      must(found?.queue.length === waiting, `${found?.queue.length} wait in the queue of its domain`);
      found?.queue.push({ seq, path });
    } else if (what === 'begin' && by === 'xenwatch') {
      next();
      must(!hashed(domidOf(path)) || withoutGetDomid.test(path), 'it belongs to the thread of its domain');
      inXenwatch = seq;
      ran.push({ seq, path, by, overtook: [] });
    } else if (what === 'begin') {
      const domain = own.find(({ queue }) => queue.at(-1)?.seq === seq);
      must(domain !== undefined, `the newest one is #${own.map(({ queue }) => queue.at(-1)?.seq)}`);
      must(domain?.running === undefined, `#${domain?.running} still runs`);
      domain?.queue.pop();
      must(domain?.queue.length === waiting, `${domain?.queue.length} are left`);
      if (domain) domain.running = seq;
      ran.push({ seq, path, by, overtook: domain?.queue.map((event) => event.seq) ?? [] });
    } else if (what === 'end') {
      const domain = own.find(({ running }) => running === seq);
      must(domain !== undefined || inXenwatch === seq, 'it did not run there');
      if (domain) domain.running = undefined;
      else inXenwatch = undefined;
    } else if (what === 'created') {
      must(!found, 'it was there');
      domains.push(born(domid));
    } else if (what === 'exists') must(found !== undefined, 'it is not hashed');
    else if (what === 'no domain' || what === 'no owner') must(found === undefined, 'it is hashed');
    else if (what === 'down') {
      must(found?.queue.length === waiting, `${found?.queue.length} wait`);
      if (found) found.hashed = false;
    } else if (what === 'stop') {
      const domain = domains.find((each) => each.domid === domid && !each.hashed && !each.stopping);
      must(by === 'kworker' && domain !== undefined, 'a worker stops what is down');
      if (domain) domain.stopping = true;
    } else if (what === 'ends') {
      const index = domains.findIndex((each) => each.domid === domid && each.stopping && each.queue.length === 0);
      must(index >= 0 && domains[index]?.running === undefined, 'it was told to stop and has nothing left');
      if (index >= 0) domains.splice(index, 1);
    } else if (what === 'stopped') {
      must(!domains.some((each) => each.domid === domid && each.stopping), 'its thread has ended');
    } else if (what === 'drop') {
      const domain = domains.find(({ queue }) => queue.some((event) => event.seq === seq));
      must(domain?.domid === domid, 'it waits there');
      const index = domain?.queue.findIndex((event) => event.seq === seq) ?? -1;
      if (index >= 0) domain?.queue.splice(index, 1);
    }
  }
  return { breaks, ran };
}

/** Domain and device numbers put aside: `backend/vbd/N/D/state`. */
export function pattern(path: string): string {
  return path
    .replace(/^backend\/(\w+)\/\d+(\/\d+)?/, (_, type, devid) => `backend/${type}/N${devid ? '/D' : ''}`)
    .replace(/^\/local\/domain\/\d+\/device\/(\w+)\/\d+/, '/local/domain/N/device/$1/D')
    .replace(/^mtwatch\/\d+$/, 'mtwatch/N');
}

/** How often each kind of event ran, and where: `backend/vbd/N/D/state in xen-mtwatch-N: 8`. */
export function counted(ran: readonly Ran[]): string[] {
  const counts = new Map<string, number>();
  for (const { path, by } of ran) {
    const kind = `${pattern(path)} in ${by.replace(/-\d+$/, '-N')}`;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return [...counts].map(([kind, count]) => `${kind}: ${count}`).sort();
}
