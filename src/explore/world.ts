/**
 * One schedule of one scenario: dom0's kernel with its drivers, the store, a hypervisor, and those who act on them, all
 * tasks under one scheduler whose every choice is the chooser's.
 *
 * The kernel is the one that dom0d runs; libxl is not here: its part is a script of the requests that drivers can see.
 * Time is virtual and passes only when nobody can go on. A run goes through the phases of its scenario; then every
 * fault heals, and what must hold in the end is checked.
 */
import { SimClock } from '../xenbus/clock.js';
import { Faults } from '../xenbus/fault.js';
import { Hypervisor } from '../xenbus/hypervisor.js';
import { backendBus, probeAndWatch } from '../xenbus/kernel/backend-bus.js';
import { blkback } from '../xenbus/kernel/blkback.js';
import { blkfront } from '../xenbus/kernel/blkfront.js';
import { BlockDevices } from '../xenbus/kernel/block.js';
import { makeDispatch, watchNodes } from '../xenbus/kernel/designs.js';
import { frontendBus, frontendResources, watchDevices } from '../xenbus/kernel/frontend-bus.js';
import { type Defect, switches as defects, isDefect, withImplied } from '../xenbus/kernel/hazards.js';
import { Kernel } from '../xenbus/kernel/kernel.js';
import { netback } from '../xenbus/kernel/netback.js';
import { NetDevices } from '../xenbus/kernel/netdev.js';
import { netfront } from '../xenbus/kernel/netfront.js';
import { repairs } from '../xenbus/kernel/rfc.js';
import { Sched, type Task, waitEvent } from '../xenbus/kernel/sched.js';
import { xenbusDev } from '../xenbus/kernel/xenbus-dev.js';
import { type Dispatch, Watches } from '../xenbus/kernel/xenwatch.js';
import type { StorePort } from '../xenbus/transport.js';
import { Actor } from './actor.js';
import { Laws } from './laws.js';
import type { Chooser, Coverage, Note, Outcome, RunOptions, Setup, SwitchInfo } from './outcome.js';
import { type Scenario, scenarioNamed } from './scenarios.js';
import { DirectStore } from './store.js';

/** Steps that a run may take; past them it counts as one that does not end. */
export const runStepsMax = 200_000;
/** Deadlines that may pass in one phase. */
const jumpsMax = 2_000;
const machine = { nrCpus: 2, totalKb: 4 * 1024 * 1024, dom0Kb: 1024 * 1024, dom0Vcpus: 2 };

/** What a thread is called in a trace. */
const lanes: readonly (readonly [RegExp, string])[] = [
  [/^xenbus$/, 'R'],
  [/^xenwatch$/, 'X'],
  [/^mtwatch$/, 'C'],
  [/^xen-mtwatch-/, 'D'],
  [/^kworker.*$/, 'KW'],
  [/^xenbus-user$/, 'U'],
  [/^vif(\d+)\.\d+-q\d+-guest-rx$/, 'RX$1'],
  [/^vif(\d+)\.\d+-q\d+-dealloc$/, 'TX$1'],
  [/^(\d+)\.\w+-\d+$/, 'B$1'],
];

/** The lanes of names that have come up. */
const laneNames = new Map<string, string>();

/** What scripts act on. */
export interface World {
  readonly store: DirectStore;
  readonly hypervisor: Hypervisor;
  readonly faults: Faults;
  readonly dispatch: Dispatch;
  readonly kernel: Kernel;
  readonly clock: SimClock;
  /** `/dev/xen/xenbus`, once dom0 has booted. */
  readonly device: () => StorePort;
  /** Allocations and threads that fail from now on, by the beginning of what they are for. */
  readonly failing: Set<string>;
  note(lane: string, text: string): void;
  /** Sleeps until no frontend state of a domain waits for its callback, or is in it. */
  noticed(self: Actor, domid: number): Task;
}

/** The disk that every vbd is in front of; scripts write `7:0`. */
const disk = { major: 7, minor: 0 };

export function runSchedule(setup: Setup, choose: Chooser, options: RunOptions = {}): Outcome {
  return new Run(setup, scenarioNamed(setup.scenario), choose, options).outcome();
}

class Run implements World {
  readonly clock = new SimClock();
  readonly failing = new Set<string>();
  readonly hypervisor: Hypervisor;
  readonly store: DirectStore;
  readonly faults: Faults;
  readonly kernel: Kernel;
  readonly dispatch: Dispatch;
  readonly #sched: Sched;
  readonly #laws: Laws;
  readonly #scenario: Scenario;
  readonly #setup: Setup;
  readonly #options: RunOptions;
  readonly #notes: Note[] = [];
  readonly #actors: Actor[] = [];
  readonly #operations: string[] = [];
  #device: StorePort | undefined;
  #choosing = false;
  /** Nothing is held and nothing fails any more: the kernel's own timers come to an end, too. */
  #healed = false;
  #steps = 0;
  #choices = 0;
  #nextPid = 1000;

  constructor(setup: Setup, scenario: Scenario, choose: Chooser, options: RunOptions) {
    this.#setup = setup;
    this.#scenario = scenario;
    this.#options = options;
    const { coverage } = options;
    this.hypervisor = new Hypervisor(machine, {
      virqDomExc: () => {},
      runnable: () => {},
      killed: () => {},
      // The worst case: a toolstack that asks for a domid gets it, whatever is left of its last owner.
      domidInUse: () => false,
    });
    this.store = new DirectStore((domid) => {
      const domain = this.hypervisor.get(domid);
      return domain && { dying: domain.dying, shutdown: false };
    });
    this.#sched = new Sched({
      wake: () => {},
      choose: (ready, current) => {
        if (!this.#choosing) return 0;
        this.#choices += 1;
        const index = choose(ready, current);
        if (coverage) this.#cover(coverage, ready, current, index);
        return index;
      },
      trouble: (task, what, error) => {
        if (error instanceof Error) throw error;
        this.#laws.died(task, what, String(error ?? ''));
      },
      blocking: (task) => this.#laws.blocking(task),
      spawned: (task) => {
        task.lane = this.#laneOf(task.name);
      },
      sleptAtomic: (task, what) => this.#laws.sleptAtomic(task, what),
    });
    this.#laws = new Laws({
      design: setup.design,
      tasks: () => this.#sched.tasks,
      step: () => this.#steps,
      store: this.store,
      faults: () => this.faults.list(),
      dying: () => this.hypervisor.list().flatMap(({ domid, dying }) => (dying ? [domid] : [])),
      actors: () => this.#actors,
      dispatch: () => this.dispatch,
      note: (lane, text) => this.note(lane, text),
      noting: options.notes === true,
      current: () => this.#sched.current,
    });
    this.store.onState = (written) => this.#laws.stateWritten(written);
    const repaired = new Set(repairs.filter((name) => setup.switches[name] === false));
    const built = withImplied(Object.entries(setup.switches).flatMap(([name, on]) => (on && isDefect(name) ? [name] : [])));
    this.kernel = new Kernel({
      domid: 0,
      who: 'dom0-kernel',
      sched: this.#sched,
      clock: this.clock,
      printk: (text) => this.#laws.printed(text),
      observer: this.#laws,
      defects: built,
      fails: (what) => {
        const fails = this.failing.size > 0 && [...this.failing].some((start) => what.startsWith(start));
        if (fails) this.#laws.failed(what);
        return fails;
      },
    });
    this.faults = new Faults(this.#sched, this.clock);
    this.kernel.connect(this.store);
    this.dispatch = makeDispatch(setup.design, this.kernel, repaired);
    this.#boot();
  }

  device(): StorePort {
    if (!this.#device) throw new Error('dom0 has not booted');
    return this.#device;
  }

  note(lane: string, text: string): void {
    if (this.#options.notes && this.#choosing) this.#notes.push({ step: this.#steps, lane, text });
  }

  *noticed(self: Actor, domid: number): Task {
    yield* self.read('/local/domain');
    yield* waitEvent(this.#laws.ends, () => !this.#laws.busy(domid));
  }

  outcome(): Outcome {
    this.#choosing = true;
    for (const [index, phase] of this.#scenario.phases(this).entries()) {
      if (phase.heal) this.#heal();
      this.#startScripts(phase.scripts);
      this.#runAll();
      this.#laws.settled(phase.heal === true && index > 0);
      if (this.#done()) break;
    }
    if (!this.#done()) {
      this.#heal();
      this.#runAll();
      this.#laws.healed();
    }
    return {
      violations: this.#laws.violations,
      steps: this.#steps,
      choices: this.#choices,
      notes: this.#notes,
      operations: this.#operations,
    };
  }

  /** What is there before the first choice: nodes, drivers, watches. */
  #boot(): void {
    for (const path of ['/local', '/local/domain', '/local/domain/0', '/local/domain/0/backend', '/local/domain/0/device']) {
      this.store.seed(path, '');
    }
    for (const path of ['/local/domain/0/mtwatch', ...(this.#scenario.nodes ?? [])]) this.store.seed(path, '');
    const { kernel, hypervisor, faults, dispatch } = this;
    const watches = new Watches(kernel, dispatch);
    this.#device = xenbusDev(kernel, watches);
    const bus = backendBus(kernel, watches);
    const frontends = frontendBus(kernel, watches);
    const resources = frontendResources(hypervisor, 0, 1);
    const blocks = new BlockDevices();
    blocks.device('/dev/disk', 2048, disk);
    const shared = { bus, hypervisor, faults, nrCpus: machine.nrCpus };
    const netdevs = new NetDevices(kernel, []);
    kernel.spawn('swapper/0', 'kernel_init', function* boot(): Task {
      yield* bus.registerDriver(blkback({ ...shared, blocks }));
      yield* bus.registerDriver(netback({ ...shared, netdevs }));
      yield* frontends.registerDriver(blkfront(frontends, resources));
      yield* frontends.registerDriver(netfront(frontends, resources));
      yield* probeAndWatch(bus);
      yield* watchNodes(kernel, watches, dispatch);
      yield* watchDevices(frontends);
    });
    while (this.#sched.step());
  }

  #startScripts(scripts: ReturnType<Scenario['phases']>[number]['scripts']): void {
    for (const { lane, operations } of scripts) {
      const mine = operations.filter(({ name }) => {
        this.#operations.push(`${lane}: ${name}`);
        return !this.#setup.without.includes(this.#operations.length - 1);
      });
      const actor = new Actor({
        lane,
        pid: this.#nextPid++,
        sched: this.#sched,
        clock: this.clock,
        store: this.store,
        note: (from, text) => this.note(from, text),
      });
      this.#actors.push(actor);
      actor.start(function* (self) {
        for (const { run } of mine) yield* run(self);
      });
    }
  }

  /** A short name for a column; a second task of the same kind is `D7b`. */
  #laneOf(name: string): string {
    let lane = laneNames.get(name);
    if (lane === undefined) {
      lane = lanes.reduce((rest, [pattern, to]) => rest.replace(pattern, to), name);
      laneNames.set(name, lane);
    }
    for (let order = 1; order <= 26; order++) {
      const unique = order === 1 ? lane : `${lane}${String.fromCharCode(96 + order)}`;
      if (!this.#laneTaken(unique)) return unique;
    }
    return name;
  }

  #laneTaken(lane: string): boolean {
    for (const task of this.#sched.tasks) if (task.lane === lane) return true;
    return false;
  }

  /** Until nobody can go on and nobody waits for a deadline. */
  #runAll(): void {
    for (let jumps = 0; jumps < jumpsMax; jumps++) {
      while (this.#sched.step()) {
        this.#steps += 1;
        if (this.#steps >= runStepsMax) {
          this.#laws.endless();
          return;
        }
        if (this.#done()) return;
      }
      const waits = this.#healed || this.#actors.some(({ waiting, task }) => waiting && !task.exited);
      this.#laws.nobodyGoesOn();
      if (this.#done() || !waits || !this.clock.jump()) return;
    }
  }

  #heal(): void {
    this.#healed = true;
    this.failing.clear();
    if (this.faults.list().length > 0) {
      this.note('T', 'heal: flush every hold');
      this.faults.flush();
    }
  }

  #done(): boolean {
    const { until } = this.#options;
    return until !== undefined && this.#laws.violations.some(({ hazard }) => hazard === until);
  }

  #cover(coverage: Coverage, ready: readonly { readonly lane: string }[], current: number, index: number): void {
    coverage.states.add(this.#laws.fingerprint(ready));
    if (current >= 0) {
      const at = this.#sched.lastPoint;
      if (at) {
        coverage.points.add(at);
        if (index !== current) coverage.preempted.add(at);
      }
    }
  }
}

/** The switches as the command line knows them: in `hardened` they bring a hazard, in `rfc` two of them can be put right. */
export const switches: readonly SwitchInfo[] = (Object.keys(defects) as Defect[]).map((name) => ({
  name,
  ...defects[name],
  designs: repairs.some((repair) => repair === name) ? ['rfc', 'hardened'] : ['hardened'],
}));

export { hazards } from './laws.js';
export { scenarios } from './scenarios.js';
