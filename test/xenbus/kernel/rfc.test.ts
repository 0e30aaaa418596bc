/**
 * The posted patch, function by function, against its text: what each does, in which order, and what it forgets.
 *
 * A kernel whose store knows which nodes there are and says OK to the rest; `first` names the tasks that go on before
 * all others, so that an interleaving can be told.
 */
import { SimClock } from '../../../src/xenbus/clock.js';
import { Kernel } from '../../../src/xenbus/kernel/kernel.js';
import {
  beGetDomid,
  charCount,
  mtwatchGetDomid,
  pathToDomid,
  RfcDispatch,
  watchMtwatch,
} from '../../../src/xenbus/kernel/rfc.js';
import { KTask, Sched, type Task, waitEvent, waitQueue } from '../../../src/xenbus/kernel/sched.js';
import { type WatchEvent, Watches, type WatchSpec, type XenbusWatch } from '../../../src/xenbus/kernel/xenwatch.js';
import { joinStrings, splitStrings, type XsPacket, XsType } from '../../../src/xenbus/xs-wire.js';

function machine(fails: (what: string) => boolean = () => false) {
  const printed: string[] = [];
  const complaints: string[] = [];
  const said: string[] = [];
  const ran: string[] = [];
  const nodes = new Set<string>();
  const tokens = new Map<string, string>();
  const held = waitQueue('a hold');
  const holds = new Set<string>();
  let first: string[] = [];
  const sched = new Sched({
    wake: () => {},
    choose: (ready) => {
      const order = ready.map(({ name }) => (first.includes(name) ? first.indexOf(name) : first.length));
      return order.indexOf(Math.min(...order));
    },
    trouble: (task, what, error) => complaints.push(`${task.name}: ${what}: ${error}`),
    sleptAtomic: (task, what) => complaints.push(`${task.name}: sleeping function called from invalid context at ${what}`),
  });
  const kernel = new Kernel({
    domid: 0,
    who: 'dom0-kernel',
    sched,
    clock: new SimClock(),
    printk: (text) => printed.push(text),
    fails,
    observer: {
      note: (task, text) => said.push(`${task?.comm}: ${text}`),
      began: (task, { path }) => ran.push(`${task.comm} ${path}`),
      purged: ({ path }) => ran.push(`drop ${path}`),
      complain: (task, what, text) => complaints.push(`${task.name}: ${what}: ${text}`),
    },
  });
  let deliver: (packet: XsPacket) => void = () => {};
  kernel.connect({
    connect: (peer) => {
      deliver = (packet) => peer.deliver(packet);
      const push = ({ type, reqId, txId, payload }: XsPacket) => {
        const [path = '', token = ''] = splitStrings(payload);
        if (type === XsType.Watch) tokens.set(path, token);
        const missing = type === XsType.Directory && !nodes.has(path);
        peer.deliver({ type: missing ? XsType.Error : type, reqId, txId, payload: joinStrings(missing ? 'ENOENT' : 'OK') });
        return true;
      };
      return { push, resume: () => {}, end: () => {}, close: () => {} };
    },
  });
  const rfc = new RfcDispatch(kernel);
  const watches = new Watches(kernel, rfc);
  const run = (...names: string[]) => {
    first = names;
    while (sched.step());
  };
  /** Takes `count` steps, those of the tasks named before any other. */
  const step = (count: number, ...names: string[]) => {
    first = names;
    for (let taken = 0; taken < count; taken++) sched.step();
  };
  const start = <T>(body: (self: KTask) => Task<T>, name = 'test') => {
    const task: { done: boolean; result?: T } = { done: false };
    kernel.spawn(name, name, function* (self) {
      task.result = yield* body(self);
      task.done = true;
    });
    return task;
  };
  const task = <T>(body: () => Task<T>): T => {
    const started = start(body);
    run();
    return started.result as T;
  };
  /** Takes `steps` steps of `body` and keeps it there, on its processor, until it is resumed. */
  const preempted = <T>(steps: number, body: () => Task<T>) => {
    const home = { domid: 0, frozen: false, ready: 0 };
    const task: { result?: T } = {};
    sched.spawn(new KTask(9, 'preempted', home), function* () {
      task.result = yield* body();
    });
    step(steps, 'preempted');
    sched.freeze(home, true);
    const resume = () => {
      sched.freeze(home, false);
      run('preempted');
      return task.result;
    };
    return { resume };
  };
  const fire = (node: string, path: string) =>
    deliver({ type: XsType.WatchEvent, reqId: 0, txId: 0, payload: joinStrings(path, tokens.get(node) ?? '') });
  /** A watch whose callback hangs while its path is in `holds`. */
  const watch = (spec: Partial<WatchSpec> = {}): XenbusWatch =>
    task(() =>
      watches.register({
        node: 'backend',
        name: 'backend_changed',
        getDomid: beGetDomid,
        *callback(path) {
          yield* waitEvent(held, () => !holds.has(path), 'D');
        },
        ...spec,
      }),
    );
  const release = (path: string) => {
    holds.delete(path);
    sched.wakeAll(held);
  };
  /** Writes or removes `mtwatch/NAME`, whose event comes. */
  const node = (name: number | string, there: boolean) => {
    if (there) nodes.add(`mtwatch/${name}`);
    else nodes.delete(`mtwatch/${name}`);
    fire('mtwatch', `mtwatch/${name}`);
  };
  const threads = () => rfc.threads().map(({ task: { name, state } }) => `${name}:${state}`);
  task(() => watchMtwatch(watches, rfc));
  return {
    kernel,
    sched,
    rfc,
    watches,
    run,
    start,
    task,
    preempted,
    fire,
    watch,
    holds,
    release,
    node,
    nodes,
    threads,
    printed,
    complaints,
    said,
    ran,
  };
}

/** A machine with these domains announced. */
function announced(...domids: number[]) {
  const m = machine();
  for (const domid of domids) m.node(domid, true);
  m.run();
  m.said.length = 0;
  m.ran.length = 0;
  return m;
}
const vbd = (domid: number, leaf = 'state') => `backend/vbd/${domid}/51712/${leaf}`;

describe('path_to_domid', () => {
  test.each([
    ['5', 5],
    ['007', 7],
    ['7abc', 7],
    ['7/51712/state', 7],
    ['abc', 0],
    ['', 0],
    ['-1', 0],
    [' 7', 0],
    ['32752', 32_752],
    ['65535', 65_535],
    ['65536', 0],
    ['65543', 7],
    ['4294967303', 7],
    ['99999999999999999999999999', Number(99999999999999999999999999n % 65536n)],
  ])('%p is %i', (path, domid) => expect(pathToDomid(path)).toBe(domid));
});

test.each([
  ['', 0],
  ['backend', 0],
  ['backend/vbd/7', 2],
  ['//', 2],
])('char_count of %p is %i', (path, count) => expect(charCount(path, '/')).toBe(count));

describe('be_get_domid takes the third component, of three or more', () => {
  test.each([
    ['backend', 0],
    ['backend/vbd', 0],
    ['backend/vbd/7', 7],
    ['backend/vbd/7/51712/state', 7],
    ['backend/vbd/65543/51712', 7],
    ['backend/vbd/x/51712', 0],
    ['backend/7/vbd', 0],
  ])('%s: %i', (path, domid) => expect(beGetDomid(path)).toBe(domid));
});

describe('mtwatch_get_domid takes the second component, of exactly two', () => {
  test.each([
    ['mtwatch', 0],
    ['mtwatch/', 0],
    ['mtwatch/7', 7],
    ['mtwatch/7abc', 7],
    ['mtwatch/8/x', 0],
  ])('%s: %i', (path, domid) => expect(mtwatchGetDomid(path)).toBe(domid));
});

test('it says at boot, before xenwatch starts, that it is there', () => {
  expect(machine().printed).toEqual(['xenbus: xenwatch multithreading is enabled']);
});

describe('mtwatch_find_domain', () => {
  test.each([
    [5, 261],
    [7, 263],
  ])('tells %i from %i, which share a slot of the hash', (one, other) => {
    const m = announced(one, other);
    expect(m.rfc.hashed()).toEqual([other, one]);
    expect([one, other, one + 512].map((domid) => m.rfc.mtwatchFindDomain(domid)?.domid)).toEqual([one, other, undefined]);
    m.node(one, false);
    m.run();
    expect({ hashed: m.rfc.hashed(), threads: m.threads() }).toEqual({
      hashed: [other],
      threads: ['xenwatch:S', `xen-mtwatch-${other}:S`],
    });
  });
});

describe('mtwatch_process', () => {
  const event = (watch: XenbusWatch, path: string): WatchEvent => ({ watch, path, token: watch.token, seq: 99 });

  test('gives an event to the thread of its domain', () => {
    const m = announced(7);
    m.watch();
    m.fire('backend', vbd(7));
    m.run();
    expect(m.ran).toEqual([`xen-mtwatch-7 ${vbd(7)}`]);
  });

  test.each<[string, Partial<WatchSpec>, string]>([
    ['its watch has no get_domid', { getDomid: undefined }, vbd(7)],
    ['its domid is 0', {}, 'backend/vbd'],
    ['there is no such domain', {}, vbd(8)],
  ])('leaves it to xenwatch when %s', (_, spec, path) => {
    const m = announced(7);
    m.watch(spec);
    m.fire('backend', path);
    m.run();
    expect(m.ran).toEqual([`xenwatch ${path}`]);
  });

  test('leaves it to xenwatch when the domain that it has found is DOWN by the time that it has the lock', () => {
    const m = announced(7);
    const watch = m.watch();
    const processing = m.preempted(1, () => m.rfc.process(event(watch, vbd(7))));
    m.task(() => m.rfc.mtwatchDestroyDomain(7));
    expect(m.rfc.hashed()).toEqual([]);
    expect(processing.resume()).toBe(false);
  });

  test('takes it although the domain is not UP yet: that state is never asked for', () => {
    const m = machine();
    const watch = m.watch();
    const creating = m.preempted(2, () => m.rfc.mtwatchCreateDomain(7));
    expect({ hashed: m.rfc.hashed(), threadless: m.rfc.threadless() }).toEqual({ hashed: [7], threadless: [7] });
    expect(m.task(() => m.rfc.process(event(watch, vbd(7))))).toBe(true);
    creating.resume();
    m.run();
    expect(m.ran.slice(-1)).toEqual([`xen-mtwatch-7 ${vbd(7)}`]);
  });
});

describe('mtwatch_thread', () => {
  test('runs the newest first, one at a time', () => {
    const m = announced(7);
    m.watch();
    m.holds.add(vbd(7, 'hangs'));
    for (const leaf of ['hangs', 'a', 'b', 'c']) {
      m.fire('backend', vbd(7, leaf));
      m.run();
    }
    expect(m.threads()).toEqual(['xenwatch:S', 'xen-mtwatch-7:D']);
    m.release(vbd(7, 'hangs'));
    m.run();
    expect(m.ran).toEqual(['hangs', 'c', 'b', 'a'].map((leaf) => `xen-mtwatch-7 ${vbd(7, leaf)}`));
  });

  test('told to stop, it runs what it has left before it ends; what comes meanwhile is run by xenwatch, beside it', () => {
    const m = announced(7);
    m.watch();
    m.holds.add(vbd(7, 'hangs'));
    m.fire('backend', vbd(7, 'old'));
    m.fire('backend', vbd(7, 'hangs'));
    m.node(7, false);
    m.run('xenbus', 'xenwatch');
    m.fire('backend', vbd(7, 'new'));
    m.run();
    expect({ threads: m.threads(), hashed: m.rfc.hashed() }).toEqual({ threads: ['xenwatch:S', 'xen-mtwatch-7:D'], hashed: [] });
    m.release(vbd(7, 'hangs'));
    m.run();
    expect({ ran: m.ran, threads: m.threads() }).toEqual({
      ran: [
        'xen-mtwatch-7 mtwatch/7',
        `xen-mtwatch-7 ${vbd(7, 'hangs')}`,
        `xenwatch ${vbd(7, 'new')}`,
        `xen-mtwatch-7 ${vbd(7, 'old')}`,
      ],
      threads: ['xenwatch:S'],
    });
  });
});

describe('mtwatch_create_domain', () => {
  test.each(['0', 'abc', '65536'])('mtwatch/%s is dom0’s: a warning, and no thread', (name) => {
    const m = machine();
    m.node(name, true);
    m.run();
    expect({ printed: m.printed.slice(1), hashed: m.rfc.hashed() }).toEqual({
      printed: ['xenbus: default xenwatch thread is for dom0'],
      hashed: [],
    });
  });

  test('one that is there stays as it is', () => {
    const m = announced(7);
    const pid = m.rfc.mtwatchFindDomain(7)?.pid;
    m.node(7, true);
    m.run();
    expect(m.said).toEqual([
      'xenwatch: forward #1 mtwatch/7 to domain 7 (0 there already)',
      'xen-mtwatch-7: create: domain 7 exists',
    ]);
    expect(m.rfc.mtwatchFindDomain(7)?.pid).toBe(pid);
  });

  test('the thread’s pid is 0 until it has run', () => {
    const m = machine();
    const creating = m.preempted(2, () => m.rfc.mtwatchCreateDomain(7));
    const domain = m.rfc.mtwatchFindDomain(7);
    expect(domain?.pid).toBe(0);
    creating.resume();
    expect(m.rfc.threads().map(({ task }) => task.pid)).toContain(domain?.pid);
  });

  test('without memory (GFP_ATOMIC) there is no domain, and nothing says so', () => {
    const m = machine((what) => what === 'kzalloc mtwatch_domain');
    m.watch();
    m.node(7, true);
    m.fire('backend', vbd(7));
    m.run();
    expect({ ran: m.ran, printed: m.printed.slice(1), said: m.said, complaints: m.complaints, hashed: m.rfc.hashed() }).toEqual({
      ran: ['xenwatch mtwatch/7', `xenwatch ${vbd(7)}`],
      printed: [],
      said: [],
      complaints: [],
      hashed: [],
    });
  });

  test('without a thread it is UP all the same, an ERR_PTR being no null: its events wait for ever', () => {
    const m = machine((what) => what === 'kthread_run xen-mtwatch-7');
    m.watch();
    m.node(7, true);
    m.run();
    m.fire('backend', vbd(7));
    m.run();
    const domain = m.rfc.mtwatchFindDomain(7);
    expect([domain?.task, domain?.state, domain?.events.length]).toEqual(['ERR_PTR(-ENOMEM)', 'UP', 1]);
    expect(m.printed.slice(1)).toEqual([]);
    expect({ ran: m.ran, threadless: m.rfc.threadless(), complaints: m.complaints }).toEqual({
      ran: ['xenwatch mtwatch/7'],
      threadless: [7],
      complaints: ['xenwatch: ERR_PTR: domain 7 is published without a thread'],
    });
  });
});

describe('mtwatch_destroy_domain', () => {
  test('is DOWN and unhashed at once, with events left', () => {
    const m = announced(7);
    m.watch();
    m.fire('backend', vbd(7, 'a'));
    m.fire('backend', vbd(7, 'b'));
    m.node(7, false);
    m.run('xenbus', 'xenwatch');
    expect(m.said.slice(3)).toEqual([
      'xen-mtwatch-7: domain 7 down and unhashed, 2 events left',
      'kworker/0:1: purge: kthread_stop of domain 7',
      'xen-mtwatch-7: thread of domain 7 ends',
      'kworker/0:1: purge: domain 7 stopped',
    ]);
  });

  test('one that is not there is nothing', () => {
    const m = machine();
    m.node(7, false);
    m.run();
    expect([m.said, m.complaints]).toEqual([['xenwatch: destroy: no domain 7'], []]);
  });

  test('a domid announced again before its last thread has ended has two', () => {
    const m = announced(7);
    m.watch();
    m.holds.add(vbd(7, 'hangs'));
    m.fire('backend', vbd(7, 'hangs'));
    m.run();
    m.start(() => m.rfc.mtwatchDestroyDomain(7));
    m.run();
    m.node(7, true);
    m.run();
    m.fire('backend', vbd(7, 'new'));
    m.run();
    expect({ threads: m.threads(), ran: m.ran.slice(-1) }).toEqual({
      threads: ['xenwatch:S', 'xen-mtwatch-7:D', 'xen-mtwatch-7:S'],
      ran: [`xen-mtwatch-7 ${vbd(7, 'new')}`],
    });
  });
});

describe('mtwatch_changed', () => {
  test.each(['mtwatch', 'mtwatch/8/x'])('looks at nothing of %s', (path) => {
    const m = announced(7);
    m.nodes.add(path);
    m.fire('mtwatch', path);
    m.run();
    expect({ said: m.said, ran: m.ran, hashed: m.rfc.hashed() }).toEqual({ said: [], ran: [`xenwatch ${path}`], hashed: [7] });
  });

  test('goes by what is there now: a removal whose node is back keeps the thread', () => {
    const m = announced(7);
    m.fire('mtwatch', 'mtwatch/7');
    m.run();
    expect([m.said.at(-1), m.threads()]).toEqual(['xen-mtwatch-7: create: domain 7 exists', ['xenwatch:S', 'xen-mtwatch-7:S']]);
  });

  test('two spellings are one domain, and the end of either ends it', () => {
    const m = announced(7);
    m.node('007', true);
    m.node('65543', true);
    m.run();
    m.node('007', false);
    m.run();
    expect({ hashed: m.rfc.hashed(), left: [...m.nodes] }).toEqual({ hashed: [], left: ['mtwatch/7', 'mtwatch/65543'] });
  });
});

describe('xen_mtwatch_purge_domain', () => {
  test('stops one thread after the other, the newest first, and waits for each: one that hangs keeps the rest', () => {
    const m = announced(1, 2, 3);
    m.watch();
    m.holds.add(vbd(2, 'hangs'));
    m.fire('backend', vbd(2, 'hangs'));
    m.run();
    m.start(() => m.rfc.mtwatchDestroyDomain(2));
    m.run();
    m.node(1, false);
    m.run();
    m.node(3, false);
    m.run();
    const kworker = [...m.sched.tasks].find(({ name }) => name.startsWith('kworker'));
    expect({ threads: m.threads(), hashed: m.rfc.hashed(), stack: kworker?.stack, state: kworker?.state }).toEqual({
      threads: ['xenwatch:S', 'xen-mtwatch-1:S', 'xen-mtwatch-2:D', 'xen-mtwatch-3:S'],
      hashed: [],
      stack: ['worker_thread', 'process_one_work', 'xen_mtwatch_purge_domain', 'kthread_stop'],
      state: 'D',
    });
    m.said.length = 0;
    m.release(vbd(2, 'hangs'));
    m.run();
    expect(m.said.filter((line) => line.includes('kthread_stop'))).toEqual([
      'kworker/0:1: purge: kthread_stop of domain 3',
      'kworker/0:1: purge: kthread_stop of domain 1',
    ]);
    expect(m.threads()).toEqual(['xenwatch:S']);
  });

  test('meets an ERR_PTR and dies of it; no thread is stopped after that', () => {
    const m = machine((what) => what === 'kthread_run xen-mtwatch-7');
    m.node(7, true);
    m.node(8, true);
    m.run();
    m.complaints.length = 0;
    m.start(() => m.rfc.mtwatchDestroyDomain(7));
    m.run();
    m.node(8, false);
    m.run();
    expect({ complaints: m.complaints, threads: m.threads(), hashed: m.rfc.hashed() }).toEqual({
      complaints: [
        'kworker/0:1: ERR_PTR: kthread_stop(ERR_PTR(-ENOMEM)) of domain 7',
        'kworker/0:1: oops: unable to handle page fault for address: fffffffffffffff4',
      ],
      threads: ['xenwatch:S', 'xen-mtwatch-8:S'],
      hashed: [],
    });
  });

  test('frees a domain after a grace period: not before a reader that found it is done', () => {
    const m = announced(7);
    const domain = m.rfc.mtwatchFindDomain(7);
    const watch = m.watch();
    const reading = m.preempted(1, () => m.rfc.process({ watch, path: vbd(7), token: '', seq: 9 }));
    m.task(() => m.rfc.mtwatchDestroyDomain(7));
    expect([domain?.freed, m.said.at(-1)]).toEqual([false, 'kworker/0:1: purge: domain 7 stopped']);
    reading.resume();
    expect(domain?.freed).toBe(true);
  });
});

describe('unregister_mtwatch', () => {
  const owned = (domid: number): Partial<WatchSpec> => ({ node: `of ${domid}`, getDomid: () => domid, getOwner: () => domid });

  test('of a watch with an owner drops its events from that domain’s queue, and from no other', () => {
    const m = announced(7, 8);
    m.watch();
    const watch = m.watch({ ...owned(7), getDomid: (path) => Number(path) });
    for (const domid of [7, 8]) {
      m.holds.add(vbd(domid));
      m.fire('backend', vbd(domid));
    }
    m.run();
    for (const domid of [7, 8]) m.fire('of 7', String(domid));
    m.run();
    const unregistered = m.start(() => m.watches.unregister(watch));
    m.run();
    m.ran.length = 0;
    m.release(vbd(7));
    m.run();
    expect(unregistered.done).toBe(true);
    m.release(vbd(8));
    m.run();
    // What waits in 8 runs on a watch that is gone.
    expect(m.ran).toEqual(['drop 7', 'xen-mtwatch-8 8']);
  });

  test('waits for the callback that its domain’s thread is in, whatever watch it is of', () => {
    const m = announced(7);
    m.watch();
    const watch = m.watch(owned(7));
    m.holds.add(vbd(7));
    m.fire('backend', vbd(7));
    m.run();
    m.fire('of 7', 'of 7');
    const unregistered = m.start(() => m.watches.unregister(watch));
    m.run();
    expect(unregistered.done).toBe(false);
    m.release(vbd(7));
    m.run();
    expect({ done: unregistered.done, ran: m.ran }).toEqual({
      done: true,
      ran: [`xen-mtwatch-7 ${vbd(7)}`, 'drop of 7'],
    });
  });

  test('from a callback of that thread waits for nobody, and drops what is queued behind itself', () => {
    const m = announced(7);
    let watch: XenbusWatch | undefined;
    watch = m.watch({
      ...owned(7),
      *callback() {
        if (watch) yield* m.watches.unregister(watch);
      },
    });
    for (const path of ['a', 'b', 'c']) m.fire('of 7', path);
    m.run('xenbus', 'xenwatch');
    expect({ ran: m.ran, complaints: m.complaints }).toEqual({ ran: ['xen-mtwatch-7 c', 'drop b', 'drop a'], complaints: [] });
  });

  test('of a watch without get_domid touches no domain', () => {
    const m = announced(7);
    m.watch();
    m.holds.add(vbd(7));
    m.fire('backend', vbd(7));
    m.run();
    const watch = m.watch({ node: 'rate', getDomid: undefined });
    const unregistered = m.start(() => m.watches.unregister(watch));
    m.run();
    expect(unregistered.done).toBe(true);
  });

  test('without a domain warns, in the log once in a boot, and drops nothing', () => {
    const m = announced();
    const watches = [m.watch(owned(7)), m.watch({ ...owned(8), node: 'of 8' })];
    for (const watch of watches) m.task(() => m.watches.unregister(watch));
    expect(m.complaints).toEqual([7, 8].map((domid) => `test: WARN: unregister_single_mtwatch finds no domain ${domid}`));
    const warnings = m.printed.filter((text) => text.includes('WARNING'));
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(/WARNING: .*xenbus_xs\.c:1135 unregister_xenbus_watch\n.* Comm: test Not tainted/);
  });

  test.each([
    ['no owner', {}],
    ['owner 0', { getOwner: () => 0 }],
  ])('of a watch with %s goes through every domain, and waits for one that hangs', (_, spec) => {
    const m = announced(1, 2, 3);
    const watch = m.watch(spec);
    m.watch({ node: 'other' });
    for (const domid of [1, 2, 3]) {
      m.holds.add(vbd(domid));
      m.fire('other', vbd(domid));
    }
    m.run();
    for (const domid of [1, 2, 3]) m.fire('backend', vbd(domid, 'queued'));
    m.run();
    m.ran.length = 0;
    const unregistered = m.start(() => m.watches.unregister(watch), 'unregistering');
    for (const domid of [1, 2, 3]) {
      m.run();
      expect(unregistered.done).toBe(false);
      m.release(vbd(domid));
      m.run('unregistering');
    }
    expect(unregistered.done).toBe(true);
  });

  test('sleeps in an RCU read section when it takes another domain’s mutex, held or not; with its own it does not', () => {
    const m = announced(7);
    const watch = m.watch(owned(7));
    m.task(() => m.watches.unregister(watch));
    expect(m.complaints).toEqual(['test: sleeping function called from invalid context at mutex_lock']);
  });

  describe('of all, while it waits for domain 1', () => {
    /** Walks over 1, 2 and 3 that wait at 1. */
    function walking(...names: string[]) {
      const m = announced(1, 2, 3);
      m.watch({ node: 'other' });
      m.holds.add(vbd(1));
      m.fire('other', vbd(1));
      m.run();
      const walks = names.map((name) => {
        const watch = m.watch({ node: name });
        return m.start(() => m.watches.unregister(watch), name);
      });
      m.run();
      expect(walks.map(({ done }) => done)).toEqual(names.map(() => false));
      const destroy = (...domids: number[]) =>
        m.start(function* () {
          for (const domid of domids) yield* m.rfc.mtwatchDestroyDomain(domid);
        }, 'destroying');
      const freed = () => m.complaints.filter((text) => text.includes('use after free'));
      const hang = (domid: number) => {
        m.holds.add(vbd(domid));
        m.fire('other', vbd(domid));
      };
      const at = (name: string) => [...m.sched.tasks].find((task) => task.name === name)?.waitingOn?.name;
      return { ...m, walks, destroy, freed, hang, at };
    }

    test('one that is destroyed ahead of it is passed over', () => {
      const m = walking('walking');
      m.hang(3);
      m.destroy(2);
      m.run();
      m.release(vbd(1));
      m.run();
      expect([m.at('walking'), m.freed()]).toEqual(['domain_mutex of 3', []]);
    });

    test('domain 1’s own end does not lose it its way to the next', () => {
      const m = walking('walking');
      m.hang(2);
      m.destroy(1);
      m.run();
      m.release(vbd(1));
      m.run();
      expect([m.at('walking'), m.threads(), m.freed()]).toEqual([
        'domain_mutex of 2',
        ['xenwatch:S', 'xen-mtwatch-2:D', 'xen-mtwatch-3:S'],
        [],
      ]);
    });

    test('1 and then 2 end: it goes on from 1 to 2, which was freed meanwhile', () => {
      const m = walking('walking');
      m.destroy(1, 2);
      // The worker takes the newest first, so 2 is gone while 1 still hangs.
      m.run('destroying');
      expect(m.threads()).toEqual(['xenwatch:S', 'xen-mtwatch-1:D', 'xen-mtwatch-3:S']);
      m.release(vbd(1));
      m.run();
      expect(m.freed()).toEqual(['walking: use after free: mtwatch_domain of 2, which it slept on']);
    });

    test('of two that wait, the second gets the mutex of what the first has seen freed', () => {
      const m = walking('walking', 'after it');
      m.destroy(1);
      m.run();
      m.release(vbd(1));
      m.run('xen-mtwatch-1', 'kworker/0:1', 'walking');
      expect(m.freed()).toEqual(['after it: use after free: mtwatch_domain of 1, which it slept on']);
    });
  });
});
