/** The laws themselves: each can be broken, by events made by hand where no schedule of a correct kernel gets there. */
import { Laws, type LawsOptions } from '../../src/explore/laws.js';
import { DirectStore } from '../../src/explore/store.js';
import { KTask } from '../../src/xenbus/kernel/sched.js';
import type { WatchEvent, WatchThreadState, XenbusWatch } from '../../src/xenbus/kernel/xenwatch.js';

const home = '/local/domain/0/mtwatch';

function task(lane: string, pid = 1): KTask {
  return Object.assign(new KTask(pid, lane, { domid: 0, frozen: false, ready: 0 }), { lane });
}

function watch(spec: Partial<XenbusWatch> = {}): XenbusWatch {
  return {
    node: 'backend',
    name: 'backend_changed',
    callback: function* () {},
    domidOf: (path) => Number(path.split('/')[2] ?? 0),
    guestWritable: false,
    getDomid: (path) => Number(path.split('/')[2] ?? 0),
    token: '',
    pending: 0,
    runners: new Set(),
    gone: false,
    ...spec,
  };
}

let seq = 0;
const event = (of: XenbusWatch, path = 'backend/vif/7/0/state'): WatchEvent => ({ watch: of, path, token: '', seq: ++seq });

const thread = (domid: number, of: KTask, more: Partial<WatchThreadState> = {}): WatchThreadState => ({
  domid,
  task: of,
  pending: 0,
  handled: 0,
  announced: true,
  node: true,
  running: undefined,
  queued: [],
  ...more,
});

/** Laws over these tasks, threads and nodes of mtwatch. */
function lawsOf({
  tasks = [],
  threads = [],
  nodes = [],
  ...more
}: {
  tasks?: KTask[];
  threads?: WatchThreadState[];
  nodes?: string[];
} & Partial<Omit<LawsOptions, 'tasks'>> = {}): Laws {
  const store = new DirectStore(() => undefined);
  for (const path of ['/local', '/local/domain', '/local/domain/0', home]) store.seed(path, '');
  for (const name of nodes) store.seed(`${home}/${name}`, '');
  return new Laws({
    design: 'hardened',
    tasks: () => tasks,
    step: () => 1,
    store,
    faults: () => [],
    dying: () => [],
    actors: () => [],
    dispatch: () => ({
      hardened: true,
      queue: function* () {},
      flush: function* () {},
      threads: () => threads,
      busy: () => false,
    }),
    note: () => {},
    noting: false,
    current: () => undefined,
    ...more,
  });
}

const broken = (laws: Laws) => laws.violations.map(({ hazard, text }) => `${hazard}: ${text}`);

test('an event that is queued is run, or dropped with its watch, once everything is over (LOST)', () => {
  const laws = lawsOf({ nodes: ['7'], threads: [thread(7, task('D7'))] });
  const [run, dropped, lost] = [event(watch()), event(watch()), event(watch(), 'backend/vbd/7/51712')];
  for (const each of [run, dropped, lost]) laws.queued(each);
  laws.began(task('D7'), run);
  laws.purged(dropped);
  expect(broken(laws)).toEqual([]);
  laws.healed();
  expect(broken(laws)).toEqual([`LOST: #${lost.seq} backend/vbd/7/51712 was never run`]);
});

test('a thread whose node is gone is gone, once everything is over (LEAK)', () => {
  const laws = lawsOf({ nodes: ['8'], threads: [thread(7, task('D7')), thread(8, task('D8'))] });
  laws.healed();
  expect(broken(laws)).toEqual(['LEAK: D7 is left without one']);
});

test('a thread that has ended, or is dead, is no leak', () => {
  const [ended, dead] = [task('D7'), task('D8')];
  ended.exited = true;
  dead.died = 'kernel BUG';
  const laws = lawsOf({ threads: [thread(7, ended), thread(8, dead)] });
  laws.healed();
  expect(broken(laws)).toEqual([]);
});

test('a node has a thread, once everything is over, but in the design that has none (L5)', () => {
  const laws = lawsOf({ nodes: ['7', 'abc'] });
  laws.healed();
  expect(broken(laws)).toEqual(['L5: mtwatch/7 has none']);
  const single = lawsOf({ nodes: ['7'], design: 'single' });
  single.healed();
  expect(broken(single)).toEqual([]);
});

test('a thread of a name that is no domid is told apart from a leak (P2)', () => {
  const laws = lawsOf({ nodes: ['7abc'], threads: [thread(7, task('D7'))] });
  laws.healed();
  expect(broken(laws)).toEqual(['P2: D7 is there for 7abc']);
});

test('nobody sleeps uninterruptibly, once everything is over (STUCK)', () => {
  const [stuck, idle] = [task('KW'), task('D7')];
  stuck.state = 'D';
  stuck.waitingOn = { name: 'a lock', waiters: new Set() };
  stuck.stack.push('worker_thread', 'flush [xen_blkback]');
  idle.state = 'S';
  const laws = lawsOf({ tasks: [stuck, idle] });
  laws.healed();
  expect(broken(laws)).toEqual(['STUCK: KW: a lock in flush']);
});

test('a run ends (ENDLESS)', () => {
  const laws = lawsOf();
  laws.endless();
  expect(broken(laws)).toEqual(['ENDLESS: it did not']);
  const locked = lawsOf();
  locked.died(task('X'), 'soft lockup', '');
  expect(broken(locked)).toEqual(['ENDLESS: X never blocks']);
});

test('of what follows from a thread that is dead nothing is told once more', () => {
  const laws = lawsOf({ threads: [thread(7, task('D7'))] });
  laws.queued(event(watch()));
  laws.complain(task('X'), 'BUG', 'xenbus_xs.c:1180');
  laws.healed();
  expect(broken(laws)).toEqual(['U2: X: xenbus_xs.c:1180']);
});

test('of each hazard the first is kept', () => {
  let step = 3;
  const laws = lawsOf({ step: () => step });
  laws.complain(task('X'), 'double connect', 'one');
  step = 4;
  laws.complain(task('X'), 'double connect', 'two');
  expect(laws.violations.map(({ hazard, step, text }) => [hazard, step, text])).toEqual([['U3', 3, 'X: one']]);
});

test.each([
  ['BUG', 'U2'],
  ['WARN', 'L4'],
  ['sleeping in atomic', 'U4'],
  ['use after free', 'U4'],
  ['ERR_PTR', 'U5'],
  ['double connect', 'U3'],
] as const)('a kernel that complains of %s breaks the law of %s', (what, hazard) => {
  const laws = lawsOf();
  laws.complain(task('X'), what, 'so');
  expect(broken(laws)).toEqual([`${hazard}: X: so`]);
});

test('a callback on a watch that was unregistered is told (U1)', () => {
  const laws = lawsOf({ nodes: ['7'] });
  laws.began(task('D7'), event(watch({ gone: true })));
  expect(broken(laws)).toEqual(['U1: D7 runs backend/vif/7/0/state on a watch that was unregistered']);
});

test('events of a domain begin in order (O1), and of dom0 they need not', () => {
  const laws = lawsOf({ nodes: ['7'] });
  const [first, second] = [event(watch()), event(watch())];
  const d7 = task('D7');
  for (const each of [second, first]) {
    laws.began(d7, each);
    laws.ended(d7, each);
  }
  expect(broken(laws)).toEqual([`O1: #${first.seq} backend/vif/7/0/state begins after #${second.seq} backend/vif/7/0/state`]);
  const own = lawsOf();
  const [one, two] = [event(watch(), 'backend/vif/0/0/state'), event(watch(), 'backend/vif/0/0/state')];
  for (const each of [two, one]) own.began(task('X'), each);
  expect(broken(own)).toEqual([]);
});

test.each([
  ['X and the thread of the domain', 'X', {}, 'O2'],
  ['two threads of the domain', 'D7b', {}, 'O3'],
  ['X and the thread, of a watch that stays in X', 'X', { getDomid: undefined }, 'A1'],
] as const)('one callback of a domain runs at a time, else it is by whom: %s', (_, other, spec, hazard) => {
  const laws = lawsOf({ nodes: ['7'] });
  laws.began(task('D7'), event(watch()));
  laws.began(task(other, 2), event(watch(spec)));
  expect(laws.violations.map((violation) => violation.hazard)).toEqual([hazard]);
});

test('a task that is dead is not in its callback any more', () => {
  const laws = lawsOf({ nodes: ['7'] });
  const d7 = task('D7');
  laws.began(d7, event(watch()));
  d7.exited = true;
  laws.began(task('D7b', 2), event(watch()));
  expect(broken(laws)).toEqual([]);
});

test('of a node that a guest writes one event waits (X1), of others any number', () => {
  const laws = lawsOf();
  const [guests, others] = [watch({ node: 'state', guestWritable: true }), watch()];
  for (const each of [others, others, others, guests]) laws.queued(event(each));
  expect(broken(laws)).toEqual([]);
  laws.queued(event(guests));
  expect(broken(laws)).toEqual(['X1: 2 events of state wait']);
});

test('tasks that wait in a ring are told, by what they wait for (D1, D2)', () => {
  const ring = (name: string) => {
    const [a, b] = [task('X'), task('D7', 2)];
    a.state = 'D';
    b.state = 'D';
    a.waitingOn = { name, waiters: new Set(), owner: () => b };
    b.waitingOn = { name: 'xenwatch_mutex', waiters: new Set(), owner: () => a };
    const laws = lawsOf({ tasks: [a, b] });
    laws.blocking(b);
    return broken(laws);
  };
  expect(ring('domain_mutex of 7')).toEqual(['D1: D7 waits for X waits for D7 (xenwatch_mutex, domain_mutex of 7)']);
  expect(ring('device lock of vif-7-0')).toEqual(['D2: D7 waits for X waits for D7 (xenwatch_mutex, device lock of vif-7-0)']);
});

test('a reader that spins on a lock of a dead task is told (U2R)', () => {
  const [reader, dead] = [task('R'), task('X', 2)];
  dead.died = 'kernel BUG';
  reader.state = 'R';
  reader.waitingOn = { name: 'watches_lock', waiters: new Set(), owner: () => dead };
  const laws = lawsOf({ tasks: [reader, dead] });
  laws.blocking(reader);
  expect(broken(laws)).toEqual(['U2R: R spins on watches_lock, which X holds, and it is dead']);
});

test('memory that was not there is told of (L6)', () => {
  const silent = lawsOf();
  silent.failed('kzalloc mtwatch_domain');
  silent.settled(false);
  expect(broken(silent)).toEqual(['L6: a thread could not be made, and nothing says so']);
  const told = lawsOf();
  told.failed('kzalloc mtwatch_domain');
  told.printed('xenbus: no memory for the thread of domain 7');
  told.settled(false);
  expect(broken(told)).toEqual([]);
});
