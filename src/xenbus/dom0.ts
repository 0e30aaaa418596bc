/**
 * The embedded dom0 in one object: store, hypervisor, kernel, guests and xenconsoled under one scheduler.
 *
 * It has no sockets and no files: `connect` gives a store connection, `handlers` answers privcmd operations, and the
 * clock says whether time is the machine's or virtual. Work is done in turns: one store request, one step of a task,
 * and so on in alternation, so that nobody waits behind anybody for long.
 *
 * ```
 * live         wake -> up to turnStepsMax turns -> back to the event loop -> ...
 * in a test    await settle(): turns until nothing can run; then clock.advance(ms) lets time pass
 * ```
 */
import type { Clock } from './clock.js';
import { cpuHandlers } from './cpu-handlers.js';
import { charge } from './cpus.js';
import { Faults } from './fault.js';
import { Guest } from './guest.js';
import { type Domain, Hypervisor, type HypervisorHooks } from './hypervisor.js';
import { Hypfs } from './hypfs.js';
import { type Keep, type Kept, keptBelow, partOf, type Recovered, type Share } from './keep.js';
import { backendBus, probeAndWatch, watchBackends } from './kernel/backend-bus.js';
import { blkback } from './kernel/blkback.js';
import { blkfront } from './kernel/blkfront.js';
import { BlockDevices } from './kernel/block.js';
import type { Uevent, XenbusBus } from './kernel/bus.js';
import { type Design, designOf, eventsRecovered, makeDispatch, recoverNodes, watchNodes } from './kernel/designs.js';
import { frontendBus, frontendResources, watchDevices, watchFrontends } from './kernel/frontend-bus.js';
import type { Defects } from './kernel/hazards.js';
import { hungTaskOptions, hungTaskTimeoutMs, watchHungTasks } from './kernel/hung-task.js';
import { Kernel, type Observer } from './kernel/kernel.js';
import { watchControl, watchCpus } from './kernel/manage.js';
import { netback } from './kernel/netback.js';
import { NetDevices } from './kernel/netdev.js';
import { netfront } from './kernel/netfront.js';
import { oopsText, type StallWatch, watchRcuStalls } from './kernel/oops.js';
import { debugModules, Printk } from './kernel/printk.js';
import { type KTask, procStack, Sched, type Task } from './kernel/sched.js';
import { sysrqMask } from './kernel/sysrq.js';
import { xenbusDev } from './kernel/xenbus-dev.js';
import { type Dispatch, Watches } from './kernel/xenwatch.js';
import { defaultMachine, type MachineDescription } from './machine.js';
import { domainPath } from './paths.js';
import {
  type BackendDevice,
  type Census,
  consolePageBytes,
  type DeadThread,
  dmesgWaitMaxMs,
  type GuestEvent,
  type GuestState,
  type Hold,
  type HostView,
  type KernelLog,
  listPageMax,
  PrivcmdError,
  type PrivcmdHandlers,
  type PrivcmdOps,
  type SavedGuest,
} from './privcmd.js';
import { Qemus } from './qemu.js';
import type { Store } from './store.js';
import { StoreLoop } from './store-loop.js';
import { kernelThread, type ThreadSource, watchThreads } from './thread-view.js';
import { type TraceLine, traceLine } from './trace.js';
import type { StoreLink, StorePeer, StorePort } from './transport.js';
import { Turns } from './turns.js';
import { bootText, pressKeys, XenConsole } from './xen-console.js';
import { ShutdownReason } from './xenbus.js';
import { type Consoles, startXenconsoled } from './xenconsoled.js';
import type { Xenstored } from './xenstored.js';

/** Turns before the event loop gets its chance. */
export const turnStepsMax = 512;
/** Processor time that one step of a task stands for, in seconds. A model's number: it says who was busy, not how long. */
const stepSeconds = 50e-6;

/** Guests that were put into a domain which has not begun to run. */
const restoredPrefix = 'restored/';

/** How long a script waits for a network device that is being made. */
const netdevWaitMaxMs = 5_000;

/** Kernel threads that ended by a bug and are remembered. */
const deadThreadsMax = 100;

export interface Dom0Options {
  readonly clock: Clock;
  /** dom0's kernel command line; `xen_mtwatch` gives every domain its own watch thread. */
  readonly cmdline: string;
  readonly host: HostView;
  /** The host's hardware and Xen; absent: that of the recordings. */
  readonly machine?: MachineDescription;
  readonly log: (line: string) => void;
  readonly trace?: (line: TraceLine) => void;
  /** Which of `n` runnable tasks goes on, by its index in `ready`; the first in line when absent. */
  readonly choose?: (n: number, ready: readonly KTask[]) => number;
  readonly hungTaskMs?: number;
  /** Who watches over dom0's kernel. */
  readonly observer?: Observer;
  /** What is built wrong in dom0's kernel on purpose, and whether an allocation of it fails now. */
  readonly defects?: Defects;
  readonly fails?: (what: string) => boolean;
  /** Calls `run` when dom0's next turns have come, with how many; absent: after a turn of the event loop, `turnStepsMax`. */
  readonly schedule?: (run: (steps: number) => void) => void;
  /** The store has taken up a domain, or let go of it and closed its connections. Whoever asked for it has no reply yet. */
  readonly introduced?: (domid: number) => void;
  readonly released?: (domid: number) => void;
  /** Guests have their drivers built in, and wait for no device before they go on. */
  readonly builtInDrivers?: boolean;
  /** The store has changed, and is whole. */
  readonly committed?: (store: Store) => void;
  /** dom0's kernel tells user space about a device. */
  readonly uevent?: (uevent: Uevent) => void;
  /** Gets what the next life needs; absent: nothing is kept. */
  readonly keep?: Keep;
  /** What the life before has kept; absent or empty: a clean start. */
  readonly recovered?: Recovered;
  /** Called between two steps, whenever something may have been kept: before anything that was answered leaves the process. */
  readonly commit?: () => void;
  /** Turns before the event loop gets its chance; `turnStepsMax` unless it is given. */
  readonly turns?: number;
}

type ConsoleAnswer = PrivcmdOps['dom0.console'][1];

/** What dom0 itself answers; who hosts it answers the rest (its process, its monitors, its files). */
export type Dom0Handlers = Omit<PrivcmdHandlers, 'dom0.status' | 'dom0.stop' | 'dom0.monitor' | 'dom0.sync'>;

export class Dom0 implements StorePort {
  readonly hypervisor: Hypervisor;
  readonly kernel: Kernel;
  readonly handlers: Dom0Handlers;
  readonly design: Design;

  readonly #clock: Clock;
  readonly #host: HostView;
  readonly #machine: MachineDescription;
  readonly #xenConsole = new XenConsole();
  readonly #hypfs = new Hypfs();
  readonly #sched: Sched;
  readonly #store: StoreLoop;
  readonly #dispatch: Dispatch;
  readonly #faults: Faults;
  readonly #blocks: BlockDevices;
  readonly #netdevs: NetDevices;
  readonly #guests = new Map<number, Guest>();
  readonly #share: Share;
  /** Of each guest: what forgets all that is kept of it. */
  readonly #forget = new Map<number, () => void>();
  readonly #builtInDrivers: boolean;
  /** Guests that were put into domains which the store does not know yet. */
  readonly #restored = new Map<number, SavedGuest>();
  readonly #consoles: Consoles;
  readonly #qemus: Qemus;
  readonly #ringMappings = new Map<number, () => void>();
  readonly #printk: Printk;
  readonly #toolstackTurns: Turns;
  readonly #stopHungTasks: () => void;
  readonly #stalls: StallWatch;
  #xenbus: StorePort | undefined;
  #backends: XenbusBus | undefined;
  readonly #dead: DeadThread[] = [];
  /** Questions that wait for what comes next: a line of the log or of a console, a network device. */
  readonly #followers = new Set<() => void>();
  readonly #bootMs: number;
  readonly #schedule: NonNullable<Dom0Options['schedule']>;
  readonly #commit: () => void;
  #scheduled = false;
  #closed = false;
  #settled: (() => void)[] = [];

  constructor(options: Dom0Options) {
    const { clock, cmdline, host, log, choose } = options;
    this.#clock = clock;
    this.#host = host;
    this.#commit = options.commit ?? (() => undefined);
    this.#builtInDrivers = options.builtInDrivers ?? false;
    const { turns = turnStepsMax } = options;
    this.#schedule = options.schedule ?? ((run) => void clock.turn().then(() => run(turns)));
    const boot = clock.now();
    this.#bootMs = boot;
    this.#toolstackTurns = new Turns(clock);
    this.#printk = new Printk(() => clock.now() - boot);
    const wake = () => this.#wake();
    const machine = options.machine ?? defaultMachine;
    this.#machine = machine;
    this.#xenConsole.print(bootText(machine));

    this.#sched = new Sched({
      wake,
      ...(choose ? { choose: (ready: readonly KTask[]) => choose(ready.length, ready) } : {}),
      trouble: (task, what, error) => this.#trouble(task, what, error, log),
      blocking: (task) => this.#stalls.blocking(task),
      charged: (task) => {
        const domain = this.hypervisor.get(task.home.domid);
        if (domain) charge(domain.cpus, stepSeconds);
      },
    });
    const { trace, keep } = options;
    // A life that has kept nothing yet was none.
    const recovered = options.recovered && options.recovered.size > 0 ? options.recovered : undefined;
    const hooks: HypervisorHooks = {
      virqDomExc: (domid) => this.#store.virq(domid),
      runnable: (domid, yes) => this.#guests.get(domid)?.setRunnable(yes),
      killed: (domid) => {
        this.#guests.get(domid)?.kill();
        this.#guests.delete(domid);
        this.#forget.get(domid)?.();
        this.#forget.delete(domid);
        if (this.#restored.delete(domid)) keep?.delete(restoredPrefix + domid);
      },
      domidInUse: (domid) => this.#dispatch.busy(domid),
    };
    this.hypervisor = new Hypervisor(machine, hooks, keep, recovered);
    this.#store = new StoreLoop({
      domain: (domid) => {
        const domain = this.hypervisor.get(domid);
        return domain && { dying: domain.dying, shutdown: domain.shutdown !== null };
      },
      wake,
      log,
      ...(keep ? { keep } : {}),
      ...(recovered ? { recovered } : {}),
      introduced: (domid, _mfn, port) => {
        this.#introduced(domid, port);
        options.introduced?.(domid);
      },
      released: (domid) => {
        this.#released(domid);
        options.released?.(domid);
      },
      ...(options.committed ? { committed: options.committed } : {}),
      ...(trace
        ? { traced: (conn, who, domid, packet, reply) => trace(traceLine(clock.now() - boot, conn, who, domid, packet, reply)) }
        : {}),
    });

    this.kernel = new Kernel({
      domid: 0,
      who: 'dom0-kernel',
      sched: this.#sched,
      clock,
      printk: (text) => this.#printk.print(text),
      ...(options.observer ? { observer: options.observer } : {}),
      ...(options.defects ? { defects: options.defects } : {}),
      ...(options.fails ? { fails: options.fails } : {}),
      ...(keep ? { keep } : {}),
      recovered,
      debugs: debugModules(cmdline),
    });
    this.#stalls = watchRcuStalls(this.kernel);
    this.#share = { keep, recovered };
    this.#blocks = new BlockDevices(this.#share);
    for (const [domid, guest] of keptBelow(recovered, restoredPrefix)) {
      this.#restored.set(Number(domid), guest as unknown as SavedGuest);
    }
    this.#netdevs = new NetDevices(this.kernel, host.bridges);
    this.#printk.print(`Linux version ${machine.release} (modelled by xl-mtwatch)`);
    this.#printk.print(`Command line: ${cmdline}`);
    this.kernel.connect(this.#store);
    const words = cmdline.split(/\s+/);
    const parameter = words.find((word) => word === 'xen_mtwatch' || word.startsWith('xen_mtwatch='));
    this.#faults = new Faults(this.#sched, clock, this.#share);
    this.design = designOf(parameter);
    this.#dispatch = makeDispatch(this.design, this.kernel);
    if (parameter?.includes('=') && this.design !== 'rfc') {
      this.#printk.print(`xenbus: ${parameter}: the value is not known and means nothing`);
    }
    this.#boot(machine, options.uevent, sysrqMask(words));
    this.#consoles = startXenconsoled(this.#sched, clock, this.hypervisor, this.#store, this.#share);
    this.#qemus = new Qemus(this.#sched, clock, this.#store, this.hypervisor, this.#share);
    const scale = (options.hungTaskMs ?? hungTaskTimeoutMs) / hungTaskTimeoutMs;
    this.#stopHungTasks = watchHungTasks(
      this.kernel,
      hungTaskOptions(words, scale, (text) => this.#printk.print(text)),
    );
    this.handlers = this.#makeHandlers();
    if (recovered) for (const { domid, port } of this.introduced) this.#introduced(domid, port, recovered);
    this.hypervisor.recovered();
    this.#commit();
  }

  /** The guests that the store knows, for whoever connects them to the world. */
  get introduced(): readonly { readonly domid: number; readonly port: number }[] {
    return this.#store.core.introducedGuests();
  }

  connect(peer: StorePeer): StoreLink {
    return this.#store.connect(peer);
  }

  /** `/dev/xen/xenbus`: the store through dom0's kernel, where watches are events of its watch threads. */
  get xenbus(): StorePort {
    if (!this.#xenbus) throw new Error('dom0 has not booted');
    return this.#xenbus;
  }

  /** Connections that are open now, the machine's own among them. */
  get connections(): number {
    return this.#store.connections;
  }

  /** The store itself, for who checks it. Whoever takes part in it connects. */
  get core(): Xenstored {
    return this.#store.core;
  }

  /** Guests that exist, zombies included. */
  get domains(): number {
    return this.hypervisor.count - 1;
  }

  /** Resolves when nothing can run: everybody waits for a message or for time to pass. */
  settle(): Promise<void> {
    return new Promise((resolve) => {
      this.#settled.push(resolve);
      this.#wake();
    });
  }

  /** Whether nobody can go on now. */
  get idle(): boolean {
    return !this.#scheduled;
  }

  close(): void {
    this.#closed = true;
    this.#stopHungTasks();
    this.#stalls.stop();
    for (const end of [...this.#followers]) end();
  }

  #wake(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    this.#schedule(this.#run);
  }

  readonly #run = (steps: number): void => {
    this.#scheduled = false;
    let isMore = true;
    for (let turns = 0; isMore && turns < steps; turns++) {
      const served = this.#store.serveOne();
      const stepped = this.#sched.step();
      isMore = served || stepped;
    }
    this.#commit();
    if (isMore) this.#wake();
    else for (const resolve of this.#settled.splice(0)) resolve();
  };

  /** What the machine does before anybody can connect: dom0's nodes, the drivers, the watches. */
  #boot(machine: MachineDescription, uevent: Dom0Options['uevent'], sysrq: number): void {
    const { kernel } = this;
    const dispatch = this.#dispatch;
    const watches = new Watches(kernel, this.#dispatch);
    this.#xenbus = xenbusDev(kernel, watches);
    const bus = backendBus(kernel, watches);
    this.#backends = bus;
    const frontends = frontendBus(kernel, watches);
    if (uevent) bus.onUevent = frontends.onUevent = uevent;
    const shared = { bus, hypervisor: this.hypervisor, faults: this.#faults, nrCpus: machine.nrCpus };
    const blocks = this.#blocks;
    const netdevs = this.#netdevs;
    const resources = frontendResources(this.hypervisor, 0, machine.dom0Vcpus, this.#share);
    const hasNodes = this.#store.peek('/local/domain/0/mtwatch') !== undefined;
    const { recovered } = kernel;
    const backendDrivers = [blkback({ ...shared, blocks }), netback({ ...shared, netdevs })];
    const frontendDrivers = [blkfront(frontends, resources), netfront(frontends, resources)];
    if (recovered) {
      kernel.printk('xl-mtwatch: dom0 goes on where its last life ended');
      bus.recover(backendDrivers);
      frontends.recover(frontendDrivers);
    }
    const dom0 = this.hypervisor.dom0;
    const memory = {
      current: () => dom0.currentKb,
      change: (kb: number) => this.hypervisor.setReservation(0, kb),
    };
    kernel.spawn('swapper/0', 'kernel_init', function* boot(): Task {
      const stop = (request: string) => {
        kernel.printk(`xen:manage: ${request} requested; dom0 stays, it is modelled without an end of its own`);
      };
      yield* watchControl(kernel, watches, stop, { memory, sysrq, isRestored: recovered !== undefined && hasNodes });
      if (!hasNodes) {
        yield* kernel.write('/local/domain/0/domid', '0');
        yield* kernel.write('/local/domain/0/name', 'Domain-0');
        yield* kernel.write('/local/domain/0/memory/target', String(machine.dom0Kb));
        yield* kernel.write('/local/domain/0/memory/static-max', String(machine.dom0MaxKb));
        yield* kernel.write('/local/pool/0/name', 'Pool-0');
        yield* kernel.write('/local/domain/0/mtwatch', '');
      }
      if (recovered) return yield* goOn();
      for (const driver of backendDrivers) yield* bus.registerDriver(driver);
      for (const driver of frontendDrivers) yield* frontends.registerDriver(driver);
      yield* probeAndWatch(bus);
      yield* watchNodes(kernel, watches, dispatch);
      yield* watchDevices(frontends);
      yield* watchCpus(kernel, watches, dom0.cpus.vcpus, { udev: true });
    });

    // In the place of a boot: every watch first, then what was about to happen, each in the thread that it belongs to.
    function* goOn(): Task {
      yield* recoverNodes(kernel, dispatch);
      const backends = yield* bus.rewatch();
      const devices = yield* frontends.rewatch();
      yield* watchBackends(bus);
      yield* watchNodes(kernel, watches, dispatch);
      yield* watchFrontends(frontends);
      yield* watchCpus(kernel, watches, dom0.cpus.vcpus, { udev: true });
      const further = [['backend', backends] as const, ['device', devices] as const];
      yield* watches.recover(further.flatMap(([node, paths]) => paths.map((path) => [node, path] as const)));
      yield* eventsRecovered(dispatch);
    }
  }

  /** The store took up a domain: its page is mapped, and its kernel can connect; or it had done so in dom0's last life. */
  #introduced(domid: number, port: number, recovered?: Recovered): void {
    const domain = this.hypervisor.get(domid);
    if (!domain || this.#guests.has(domid)) return;
    const unmap = this.hypervisor.grantMap(domid);
    if (unmap) this.#ringMappings.set(domid, unmap);
    if (domain.dying) return;
    this.hypervisor.evtchnBind(0, domid, port);
    const share = partOf({ keep: this.#share.keep, recovered }, `guest/${domid}/`);
    this.#forget.set(domid, share.clear);
    const guest = new Guest({
      domain,
      hypervisor: this.hypervisor,
      sched: this.#sched,
      clock: this.#clock,
      store: this.#store,
      console: (text) => this.#consoles.print(domid, text),
      // Only such a domain has a place of its own for what libxl writes there (driver_domain=1).
      ...(this.#store.peek(`${domainPath(domid)}/libxl`) === undefined
        ? {}
        : { drivers: { blocks: this.#blocks, faults: this.#faults, bridges: this.#host.bridges } }),
      saved: this.#restored.get(domid),
      share,
      builtInDrivers: this.#builtInDrivers,
    });
    this.#guests.set(domid, guest);
    if (domain.pauseCount === 0 && domain.shutdown === null) guest.setRunnable(true);
  }

  #released(domid: number): void {
    if (!this.hypervisor.get(domid) || this.hypervisor.get(domid)?.dying) this.#qemus.bereft(domid);
    this.#ringMappings.get(domid)?.();
    this.#ringMappings.delete(domid);
  }

  /**
   * A BUG is told as Linux does. An error that is none of Linux's is a bug of the model, and has only the functions that
   * it was thrown through on its way out.
   */
  #trouble(task: KTask, what: 'oops' | 'soft lockup', error: unknown, log: (line: string) => void): void {
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error ?? '');
    const text =
      what === 'oops' ? `kernel BUG in ${task.comm}:${task.pid}` : `watchdog: BUG: soft lockup [${task.comm}:${task.pid}]`;
    const kernel = task.home === this.kernel.home ? this.kernel : this.#guests.get(task.home.domid)?.kernel;
    if (kernel && what === 'oops' && typeof error === 'string') kernel.printk(oopsText(kernel.taint, task, error));
    else kernel?.printk([text, 'Call Trace:', ...procStack(task)].join('\n'));
    if (what === 'soft lockup') kernel?.taint.flags.add('L');
    if (kernel === this.kernel && this.#dead.length < deadThreadsMax) {
      const why = error instanceof Error ? error.message : typeof error === 'string' ? error : what;
      this.#dead.push({ thread: task.name, pid: task.pid, why, holds: [...task.holds].map(({ name }) => name) });
    }
    log(`dom ${task.home.domid}: ${text}: ${reason}`);
  }

  #threadSource(): ThreadSource {
    const tasks = [...this.#sched.tasks].filter(({ home }) => home === this.kernel.home);
    return { threads: this.#dispatch.threads(), tasks, peek: (path) => this.#store.peek(path), now: this.#clock.now() };
  }

  /** A page of the log, and after a while when there is nothing in it yet. */
  #dmesg(clear: boolean, from: number, waitMs: number): KernelLog | Promise<KernelLog> {
    const answer = (): KernelLog => {
      const { lines, next } = this.#printk.page(from);
      const whole = next === this.#printk.end;
      if (clear) this.#printk.clear(next);
      return { lines, next, whole, bootMs: this.#clock.wall() - (this.#clock.now() - this.#bootMs) };
    };
    if (!(waitMs > 0) || from < this.#printk.end || this.#closed) return answer();
    return new Promise((resolve) => {
      const end = () => {
        late();
        unheard();
        this.#followers.delete(end);
        resolve(answer());
      };
      const late = this.#clock.after(Math.min(waitMs, dmesgWaitMaxMs), end);
      const unheard = this.#printk.onLine(end);
      this.#followers.add(end);
    });
  }

  #saved(domid: number): SavedGuest {
    const saved = this.#guests.get(domid)?.save();
    if (!saved) throw new PrivcmdError('EINVAL', `domain ${domid} has not suspended itself`);
    return saved;
  }

  #restore(domid: number, guest: SavedGuest): { storeMfn: number; consoleMfn: number } {
    const frames = this.hypervisor.build(domid, guest.memoryKb, guest.cmdline);
    const domain = this.hypervisor.get(domid);
    for (const vcpu of domain?.cpus.vcpus ?? []) vcpu.online = vcpu.id < guest.onlineVcpus;
    this.#restored.set(domid, guest);
    this.#share.keep?.set(restoredPrefix + domid, guest as unknown as Kept);
    return frames;
  }

  /** What a terminal has to read, and after a while when there is nothing yet. */
  #console(domid: number, tty: string, input: string | undefined, waitMs: number): ConsoleAnswer | Promise<ConsoleAnswer> {
    if (input !== undefined && this.#consoles.has(domid, tty)) {
      this.#guests.get(domid)?.type(Buffer.from(input, 'base64').toString('latin1'));
    }
    const answer = (): ConsoleAnswer => {
      const text = this.#consoles.read(domid, tty, consolePageBytes);
      return text === undefined ? null : { data: Buffer.from(text, 'latin1').toString('base64') };
    };
    const now = answer();
    if (!(waitMs > 0) || now === null || now.data !== '' || this.#closed) return now;
    return new Promise((resolve) => {
      const end = () => {
        late();
        unheard();
        this.#followers.delete(end);
        resolve(answer());
      };
      const late = this.#clock.after(Math.min(waitMs, dmesgWaitMaxMs), end);
      const unheard = this.#consoles.onChange(domid, end);
      this.#followers.add(end);
    });
  }

  /** Kernel threads that a bug has ended, oldest first; a soft lockup is as good as an end. */
  get dead(): readonly DeadThread[] {
    return this.#dead;
  }

  /** What there is now, for whoever compares it with what was there before. */
  census(): Census {
    const { hypervisor } = this;
    return {
      domains: hypervisor.list().map(({ domid, uuid, dying, mappings, ports }) => {
        return { domid, uuid, dying, mappings, ports: ports.size };
      }),
      freeKb: hypervisor.freeKb,
      store: this.#store.core.usage,
      tasks: [...this.#sched.tasks].map(({ name }) => name).filter((name) => !name.startsWith('kworker/')),
      loops: this.#blocks.loops.map(({ node, backing }) => `${node} ${backing}`),
      netdevs: this.#netdevs.names,
      bridges: this.#netdevs.ports,
      backends: [...(this.#backends?.devices.keys() ?? [])],
      qemus: this.#qemus.running.map(({ pid, domid }) => `${pid} of domain ${domid}`),
      holds: this.#faults.list().map(({ device, mode }) => `${device} ${mode}`),
    };
  }

  #makeHandlers(): Dom0Handlers {
    const { hypervisor } = this;
    const blocks = this.#blocks;
    const faults = this.#faults;
    return {
      'xc.domain_create': ({ uuid, maxVcpus, domid, poolId }) => ({
        domid: hypervisor.create(uuid, maxVcpus, domid, poolId).domid,
      }),
      'xc.domain_getinfo': ({ domid }) => this.#info(domid),
      'xc.domain_getinfolist': ({ first }) => {
        const page = hypervisor.list().filter(({ domid }) => domid >= (first ?? 0));
        return page.slice(0, listPageMax).flatMap(({ domid }) => this.#info(domid) ?? []);
      },
      'xc.domain_pause': ({ domid, toDestroy }) => act(() => hypervisor.pause(domid, toDestroy)),
      'xc.domain_unpause': ({ domid }) => act(() => hypervisor.unpause(domid)),
      'xc.domain_destroy': ({ domid }) => act(() => hypervisor.destroy(domid)),
      'xc.domain_setmaxmem': ({ domid, maxKb }) => act(() => hypervisor.setMaxMem(domid, maxKb)),
      'xc.evtchn_alloc_unbound': ({ domid, remote }) => ({ port: hypervisor.evtchnAllocUnbound(domid, remote) }),
      'xc.dom_build': ({ domid, memoryKb, cmdline }) => hypervisor.build(domid, memoryKb, cmdline),
      'xc.domain_resume': ({ domid }) => act(() => hypervisor.resume(domid)),
      'xc.dom_save': ({ domid }) => this.#saved(domid),
      'xc.dom_restore': ({ domid, guest }) => this.#restore(domid, guest),
      'xc.physinfo': () => hypervisor.physinfo(),
      ...cpuHandlers(hypervisor, (domid) => void this.#look(domid)),
      ...this.#xenHandlers(),
      'dom0.dmesg': ({ clear, from, waitMs }) => this.#dmesg(clear, from ?? 0, waitMs ?? 0),
      'dom0.host': () => this.#host,
      'dom0.machine': () => ({ machine: this.#machine, upMs: this.#clock.now() - this.#bootMs }),
      'dom0.census': () => this.census(),
      'dom0.backends': () => this.#backendDevices(),
      'dom0.mtwatch': ({ from }) => watchThreads(this.#threadSource(), from ?? 0),
      'dom0.thread': ({ name }) => kernelThread(this.#threadSource(), name),
      'dom0.console': ({ domid, tty, input, waitMs }) => this.#console(domid, tty, input, waitMs ?? 0),
      'dom0.hold': ({ device, mode }): Hold => faults.hold(device, mode),
      'dom0.flush': ({ device }) => faults.flush(device),
      'dom0.holds': () => faults.list(),
      'dom0.block_attach': ({ path, as, sectors, major, minor, owner }) => {
        // Of one that comes too late, nobody would take it down.
        if (owner !== undefined && !this.#isBackend(owner)) throw new PrivcmdError('ENOENT', `there is no ${owner}`);
        if (as === 'loop') return blocks.loop(path, sectors, owner);
        return blocks.device(path, sectors, major !== undefined && minor !== undefined ? { major, minor } : undefined);
      },
      'dom0.turn': () => this.#toolstackTurns.take(),
      'dom0.turn_over': ({ turn }) => act(() => this.#toolstackTurns.over(turn)),
      'dom0.guest': ({ domid }) => ({ state: this.#guestState(domid) }),
      'dom0.guest_event': ({ domid, event }) => act(() => this.#guestEvent(domid, event)),
      'dom0.block_detach': ({ node, owner }) =>
        act(() => (node === undefined ? blocks.detachOf(owner ?? '') : blocks.detach(node, owner))),
      'dom0.spawn_qemu': (asked) => this.#qemus.spawn(asked),
      'dom0.kill_qemu': (which) => act(() => this.#qemus.stop(which)),
      'dom0.rename_vif': ({ vif, name, domid }) => this.#onNetdev(domid, vif, (netdevs) => netdevs.rename(vif, name)),
      'dom0.bridge': ({ bridge, vif, add, domid }) => {
        const change = (netdevs: NetDevices) => void netdevs.bridge(bridge, vif, add);
        return add ? this.#onNetdev(domid, vif, change) : act(() => change(this.#netdevsOf(domid)));
      },
    };
  }

  /** Whether dom0 or a driver domain has such a backend. */
  #isBackend(path: string): boolean {
    return [0, ...this.#guests.keys()].some((domid) => this.#store.peek(`${domainPath(domid)}/${path}`) !== undefined);
  }

  /** The network devices of dom0, or of a driver domain. */
  #netdevsOf(domid = 0): NetDevices {
    const netdevs = domid === 0 ? this.#netdevs : this.#guests.get(domid)?.netdevs;
    if (!netdevs) throw new PrivcmdError('ESRCH', `domain ${domid} is no driver domain`);
    return netdevs;
  }

  /**
   * What a script does with a network device. netback says InitWait before it has made that: a script that is a process comes late
   * enough, and one that is built in waits here, for a while.
   */
  #onNetdev(domid: number | undefined, vif: string, change: (netdevs: NetDevices) => void): null | Promise<null> {
    const run = () => act(() => change(this.#netdevsOf(domid)));
    let wake = () => {};
    if (this.#closed || !this.#netdevsOf(domid).awaits(vif, () => wake())) return run();
    return new Promise((resolve, reject) => {
      wake = () => {
        late();
        if (!this.#followers.delete(wake)) return;
        try {
          resolve(run());
        } catch (error) {
          reject(error);
        }
      };
      const late = this.#clock.after(netdevWaitMaxMs, wake);
      this.#followers.add(wake);
    });
  }

  /** Xen's console and what writes to it, its parameters, and triggers. */
  #xenHandlers() {
    const { hypervisor } = this;
    const ring = this.#xenConsole;
    return {
      'xc.domain_send_trigger': ({ domid, trigger, vcpu }) =>
        act(() => {
          hypervisor.sendTrigger(domid, trigger, vcpu);
          const kernel = domid === 0 ? this.kernel : this.#guests.get(domid)?.kernel;
          kernel?.printk(unknownNmi(vcpu));
        }),
      'xc.send_debug_keys': ({ keys }) => {
        const { totalKb, freeKb } = hypervisor.physinfo();
        const domains = hypervisor.list().map((domain) => ({
          ...{ ...domain, ...hypervisor.info(domain) },
          eventChannels: domain.ports.size,
        }));
        const now = Math.round((this.#clock.now() - this.#bootMs) * 1e6);
        return act(() => pressKeys(ring, keys, { now, domains, totalKb, freeKb }));
      },
      'xc.readconsolering': (from) => ring.read(from),
      'xc.hypfs_write': ({ path, value }) =>
        act(() => {
          this.#hypfs.write(path, value);
          ring.print(`hypfs: ${path} is "${value}" now; nothing that is modelled depends on it`);
        }),
    } satisfies Partial<Dom0Handlers>;
  }

  /** The vifs and vbds that have a driver, by bus id. */
  #backendDevices(): BackendDevice[] {
    const devices = [...(this.#backends?.devices.values() ?? [])].filter(({ driver }) => driver);
    return devices
      .sort((a, b) => (a.busId < b.busId ? -1 : 1))
      .flatMap(({ devicetype: type, nodename, otherendId: domid }): BackendDevice[] => {
        if (type !== 'vif' && type !== 'vbd') return [];
        const counts = type === 'vif' || this.#store.peek(`/local/domain/0/${nodename}/physical-device`) !== undefined;
        return [{ type, domid, devid: Number(nodename.slice(nodename.lastIndexOf('/') + 1)), counts }];
      });
  }

  #info(domid: number) {
    const domain = this.#look(domid);
    return domain ? this.hypervisor.info(domain) : null;
  }

  /** A domain, with whether its kernel has something to do now. */
  #look(domid: number): Domain | undefined {
    const domain = this.hypervisor.get(domid);
    const guest = this.#guests.get(domid);
    if (domain && guest) domain.busy = guest.kernel.home.ready > 0;
    return domain;
  }

  #guestState(domid: number): GuestState {
    const domain = this.hypervisor.get(domid);
    if (!domain) throw new PrivcmdError('ESRCH', `there is no domain ${domid}`);
    if (domid === 0) throw new PrivcmdError('EINVAL', 'domain 0 is no guest');
    const guest = this.#guests.get(domid);
    if (domain.dying) return 'dying';
    if (domain.shutdown !== null) return domain.shutdown === ShutdownReason.suspend ? 'suspended' : 'shut down';
    if (!guest) return 'building';
    if (domain.pauseCount > 0) return 'paused';
    return guest.state === 'booting' ? 'building' : guest.state;
  }

  /** What comes from inside a guest, or from the timer that watches over it. */
  #guestEvent(domid: number, event: GuestEvent): void {
    const state = this.#guestState(domid);
    const guest = this.#guests.get(domid);
    const refuse = (errno: 'EBUSY' | 'EINVAL', why: string) => new PrivcmdError(errno, `domain ${domid} ${why}`);
    if (state === 'dying') throw refuse('EINVAL', 'is dying');
    if (state === 'suspended') throw refuse('EINVAL', `has suspended itself; \`xl resume ${domid}\` lets it go on`);
    if (state === 'shut down') throw refuse('EINVAL', `has shut down already; \`xl destroy ${domid}\` ends it`);
    if (!guest) throw refuse('EBUSY', 'is still being built');
    if (event === 'hang' || event === 'wake') guest.setHung(event === 'hang');
    else if (event === 'watchdog') {
      this.#xenConsole.print(`Watchdog timer fired for domain ${domid}`);
      this.hypervisor.shutdown(domid, ShutdownReason.watchdog);
    } else if (state === 'paused') throw refuse('EBUSY', `is paused and does nothing; \`xl unpause ${domid}\` lets it go on`);
    else if (event === 'crash') guest.panic();
    else if (state === 'hung') throw refuse('EBUSY', `hangs and does nothing; \`xl guest ${domid} wake\` lets it go on`);
    else if (state === 'shutting down') throw refuse('EBUSY', 'is shutting down already');
    else if (event === 'suspend') guest.suspend();
    else if (event === 'soft-reset') this.hypervisor.shutdown(domid, ShutdownReason.soft_reset);
    else guest.stop(ShutdownReason[event]);
  }

  /** A guest-initiated end, as the guest itself would bring it about. */
  guestStops(domid: number, reason: 'poweroff' | 'reboot' | 'crash'): void {
    const guest = this.#guests.get(domid);
    if (!guest) throw new PrivcmdError('ESRCH', `no guest ${domid}`);
    if (reason === 'crash') this.hypervisor.shutdown(domid, ShutdownReason.crash);
    else guest.stop(ShutdownReason[reason]);
  }
}

/** What Linux says of an NMI that nobody has expected. */
function unknownNmi(cpu: number): string {
  return `Uhhuh. NMI received for unknown reason 00 on CPU ${cpu}.\nDazed and confused, but trying to continue`;
}

function act(run: () => void): null {
  run();
  return null;
}
