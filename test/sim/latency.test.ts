/**
 * What a stall costs everybody else: 1,000 domains with a vif each, ten of which hang in their removal, and how long an
 * event of each of the others waits for its callback. dom0's kernel with its drivers on the store's core; guests and
 * toolstack are requests from outside. Every step of a task takes virtual time, on one processor, so that who is held up
 * by others' work is late.
 *
 * `DOMAINS=5000` runs another number; `LATENCY=1` prints the table of bench/README.md.
 */
import { DirectStore } from '../../src/explore/store.js';
import { SimClock } from '../../src/xenbus/clock.js';
import { Faults } from '../../src/xenbus/fault.js';
import { Hypervisor } from '../../src/xenbus/hypervisor.js';
import { backendBus, probeAndWatch } from '../../src/xenbus/kernel/backend-bus.js';
import { type Design, designs, makeDispatch, watchNodes } from '../../src/xenbus/kernel/designs.js';
import { Kernel } from '../../src/xenbus/kernel/kernel.js';
import { netback } from '../../src/xenbus/kernel/netback.js';
import { NetDevices } from '../../src/xenbus/kernel/netdev.js';
import { type KTask, Sched, type Task } from '../../src/xenbus/kernel/sched.js';
import { type WatchEvent, Watches } from '../../src/xenbus/kernel/xenwatch.js';
import { XenbusState } from '../../src/xenbus/xenbus.js';
import { joinStrings, type XsPacket, XsType } from '../../src/xenbus/xs-wire.js';

const { Initialising, Connected, Closing, Closed } = XenbusState;
const domains = Number(process.env['DOMAINS'] ?? 1000);
/** Every so many domains one stalls. */
const stride = 100;
/** Virtual time that a step of a task takes; a fraction that adds up without an error. */
const stepMs = 1 / 16;
/** For a slow machine; it takes a tenth of that. */
const timeoutMs = 60_000;
/** How long is waited for those who do not come. */
const patienceMs = 600_000;

/** From the moment that the ring brings an event. */
interface Latency {
  readonly domid: number;
  readonly beganMs: number;
  readonly endedMs: number;
  /** Steps of the thread that runs it, in the same time. */
  readonly beganSteps: number;
  readonly endedSteps: number;
}

interface Fired {
  readonly atMs: number;
  readonly steps: number;
  beganMs: number | undefined;
  beganSteps: number;
}

const front = (domid: number) => `/local/domain/${domid}/device/vif/0`;
const back = (domid: number) => `/local/domain/0/backend/vif/${domid}/0`;
const otherendOf = ({ path }: WatchEvent) => Number(/^\/local\/domain\/(\d+)\/device\/vif\/0\/state$/.exec(path)?.[1] ?? 0);

/** A machine with so many domains, all connected. */
function crowd(design: Design) {
  const clock = new SimClock();
  const hypervisor = new Hypervisor(
    { nrCpus: 2, totalKb: 4 * 1024 * 1024, dom0Kb: 1024 * 1024, dom0Vcpus: 2 },
    { virqDomExc: () => {}, runnable: () => {}, killed: () => {}, domidInUse: () => false },
  );
  const store = new DirectStore((domid) => {
    const domain = hypervisor.get(domid);
    return domain && { dying: domain.dying, shutdown: false };
  });
  const steps = new Map<KTask, number>();
  const stepsOf = (task: KTask | undefined) => (task ? (steps.get(task) ?? 0) : 0);
  const trouble: string[] = [];
  const sched = new Sched({
    wake: () => {},
    charged: (task) => {
      steps.set(task, stepsOf(task) + 1);
      clock.advance(stepMs);
    },
    trouble: (task, what, error) => trouble.push(`${task.name}: ${what}: ${error}`),
  });

  let threads = new Map<number, KTask>();
  const waiting = new Map<WatchEvent, Fired>();
  let measured: Latency[] = [];
  const kernel = new Kernel({
    domid: 0,
    who: 'dom0-kernel',
    sched,
    clock,
    printk: () => {},
    observer: {
      queued: (event) => {
        const domid = otherendOf(event);
        const thread = threads.get(domid) ?? threads.get(0);
        if (domid !== 0) waiting.set(event, { atMs: clock.now(), steps: stepsOf(thread), beganMs: undefined, beganSteps: 0 });
      },
      began: (task, event) => {
        const fired = waiting.get(event);
        if (!fired) return;
        fired.beganMs = clock.now();
        fired.beganSteps = stepsOf(task);
      },
      ended: (task, event) => {
        const fired = waiting.get(event);
        if (!fired || fired.beganMs === undefined) return;
        waiting.delete(event);
        measured.push({
          domid: otherendOf(event),
          beganMs: fired.beganMs - fired.atMs,
          endedMs: clock.now() - fired.atMs,
          beganSteps: fired.beganSteps - fired.steps,
          endedSteps: stepsOf(task) - fired.steps,
        });
      },
    },
  });

  const link = store.connect({ domid: 0, who: 'client', deliver: () => {}, closed: () => {} });
  const request = (type: XsPacket['type'], payload: string) => link.push({ type, reqId: 1, txId: 0, payload });
  const write = (path: string, value: string | number) => request(XsType.Write, joinStrings(path) + String(value));
  const run = () => {
    while (sched.step());
  };

  const faults = new Faults(sched, clock);
  for (const path of ['/local', '/local/domain', '/local/domain/0', '/local/domain/0/backend', '/local/domain/0/mtwatch']) {
    store.seed(path, '');
  }
  kernel.connect(store);
  const dispatch = makeDispatch(design, kernel);
  const watches = new Watches(kernel, dispatch);
  const bus = backendBus(kernel, watches);
  kernel.spawn('swapper/0', 'kernel_init', function* boot(): Task {
    yield* bus.registerDriver(netback({ bus, hypervisor, faults, nrCpus: 2, netdevs: new NetDevices(kernel, []) }));
    yield* probeAndWatch(bus);
    yield* watchNodes(kernel, watches, dispatch);
  });
  run();

  const domids = Array.from({ length: domains }, (_, index) => index + 1);
  for (const domid of domids) {
    write(`/local/domain/0/mtwatch/${domid}`, '');
    hypervisor.create('00000000-0000-4000-8000-000000000000', 1, domid);
    const port = hypervisor.evtchnAllocUnbound(domid, 0);
    const nodes = {
      [back(domid)]: {
        frontend: front(domid),
        'frontend-id': domid,
        online: 1,
        script: 'vif-bridge',
        mac: '00:16:3e:00:00:01',
        handle: 0,
      },
      [front(domid)]: {
        backend: back(domid),
        'backend-id': 0,
        'tx-ring-ref': 9,
        'rx-ring-ref': 10,
        'event-channel': port,
        'request-rx-copy': 1,
      },
    };
    for (const [dir, values] of Object.entries(nodes))
      for (const [name, value] of Object.entries(values)) write(`${dir}/${name}`, value);
    for (const dir of [front(domid), back(domid)]) write(`${dir}/state`, Initialising);
    run();
    write(`${back(domid)}/hotplug-status`, 'connected');
    write(`${front(domid)}/state`, Connected);
    run();
  }
  measured = [];
  threads = new Map(dispatch.threads().map(({ domid, task }) => [domid, task]));

  return {
    clock,
    faults,
    trouble,
    domids,
    states: (state: number) => domids.filter((domid) => store.peek(`${back(domid)}/state`) === String(state)),
    hung: () => dispatch.threads().flatMap(({ task, domid }) => (task.state === 'D' ? [domid] : [])),
    /** `xl destroy` as far as the driver sees it: the frontend goes, the backend is to close. */
    remove: (domid: number) => {
      request(XsType.Rm, joinStrings(front(domid)));
      write(`${back(domid)}/online`, 0);
      write(`${back(domid)}/state`, Closing);
      run();
    },
    write,
    run,
    /** Events that have come and whose callback has not ended. */
    waiting: () => [...waiting].map(([event, { beganMs }]) => ({ domid: otherendOf(event), began: beganMs !== undefined })),
    take: () => measured.splice(0).sort((a, b) => a.domid - b.domid),
  };
}

/** While ten domains hang, or nobody does, all others begin to close their vif at once; then each ends that alone. */
function burst(design: Design, stalls: boolean) {
  const m = crowd(design);
  expect(m.states(Connected)).toEqual(m.domids);
  const stalled = m.domids.filter((domid) => domid % stride === 1);
  const others = m.domids.filter((domid) => domid % stride !== 1);
  if (stalls) {
    for (const domid of stalled) m.faults.hold(`vif-${domid}-0`, 'inflight');
    for (const domid of stalled) m.remove(domid);
  }
  const hung = m.hung();
  m.take();
  for (const domid of others) m.write(`${front(domid)}/state`, Closing);
  m.run();
  m.clock.advance(patienceMs);
  m.run();
  const together = m.take();
  for (const domid of others) {
    m.write(`${front(domid)}/state`, Closed);
    m.run();
  }
  return { m, stalled, others, hung, together, alone: m.take() };
}

function quantiles(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => (sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN).toFixed(2);
  return sorted.length === 0 ? 'never | never' : `${at(0.5)} | ${at(1)}`;
}

/** Rows of the table: what was measured, medians and maxima. */
function tell(design: Design, stalled: number, { together, alone }: ReturnType<typeof burst>): void {
  if (!process.env['LATENCY']) return;
  for (const [what, measured] of Object.entries({ together, alone })) {
    const names = ['beganMs', 'endedMs', 'endedSteps'] as const;
    const columns = names.map((name) => quantiles(measured.map((one) => one[name])));
    process.stdout.write(`| ${design} | ${stalled} | ${what} | ${columns.join(' | ')} |\n`);
  }
}

const domidsOf = (measured: readonly Latency[]) => measured.map(({ domid }) => domid);

test.each(designs.filter((design) => design !== 'single'))(
  '%s: to every other domain it makes no difference that some hang, to a step',
  (design) => {
    const calm = burst(design, false);
    const stormy = burst(design, true);
    tell(design, 0, calm);
    tell(design, stormy.stalled.length, stormy);
    expect([calm.hung, stormy.hung]).toEqual([[], stormy.stalled]);
    expect([domidsOf(calm.together), domidsOf(calm.alone)]).toEqual([calm.others, calm.others]);
    expect(stormy.together).toEqual(calm.together);
    expect(stormy.alone).toEqual(calm.alone);
    expect([...calm.m.trouble, ...stormy.m.trouble]).toEqual([]);
  },
  timeoutMs,
);

test(
  'single: no callback of another domain begins before the hung ones are let go',
  () => {
    const calm = burst('single', false);
    const stormy = burst('single', true);
    tell('single', 0, calm);
    tell('single', stormy.stalled.length, stormy);
    const { m, others, stalled, hung, together, alone } = stormy;
    expect([domidsOf(calm.together), domidsOf(calm.alone)]).toEqual([others, others]);
    expect([hung, together, alone]).toEqual([[0], [], []]);
    const waiting = m.waiting();
    expect(waiting.filter(({ began }) => began)).toEqual([{ domid: stalled[0], began: true }]);
    expect(new Set(waiting.map(({ domid }) => domid))).toEqual(new Set(m.domids));
    m.faults.flush();
    m.run();
    const late = m.take().filter(({ domid }) => !stalled.includes(domid));
    // The second event of each has come while the first one waited, and is one with it (XSA-349).
    expect(domidsOf(late)).toEqual(others);
    expect(Math.min(...late.map(({ beganMs }) => beganMs))).toBeGreaterThanOrEqual(patienceMs);
    expect([m.waiting(), m.trouble]).toEqual([[], []]);
  },
  timeoutMs,
);
