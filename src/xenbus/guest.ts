/**
 * The kernel of a PV guest, as far as its host can see it: what Linux 6.1 writes to XenStore while it boots, runs, is
 * suspended and restored, and shuts down. Its image is not executed.
 *
 * It is a kernel like dom0's, with its own store connection, its own single xenwatch thread and the frontend drivers,
 * and it acts with the rights and quotas of its domain. What it logs goes to its console.
 */
import type { Clock } from './clock.js';
import { cpuTime, onlineVcpus } from './cpus.js';
import type { Faults } from './fault.js';
import { type Domain, evtchnPortsMax, type Grants, type Hypervisor } from './hypervisor.js';
import type { Kept, Share } from './keep.js';
import { backendBus, probeAndWatch } from './kernel/backend-bus.js';
import { blkback } from './kernel/blkback.js';
import { blkfront } from './kernel/blkfront.js';
import type { BlockDevices } from './kernel/block.js';
import type { XenbusBus, XenbusDriver } from './kernel/bus.js';
import { frontendBus, frontendResources, shutDownDevices, watchDevices, watchFrontends } from './kernel/frontend-bus.js';
import { Kernel } from './kernel/kernel.js';
import { carryOut, watchControl, watchCpus } from './kernel/manage.js';
import { netback } from './kernel/netback.js';
import { NetDevices } from './kernel/netdev.js';
import { netfront } from './kernel/netfront.js';
import { Printk } from './kernel/printk.js';
import { type Sched, type Task, waitEvent, waitQueue } from './kernel/sched.js';
import { SingleDispatch, Watches } from './kernel/xenwatch.js';
import type { SavedGuest } from './privcmd.js';
import type { StorePort } from './transport.js';
import { ShutdownReason } from './xenbus.js';
import { XsError } from './xs-wire.js';

/** What the kernel of the recordings could not give back: of 128 MiB it kept so much, whatever its target. */
const keptKb = 86 * 1024;
/** How long the loading of a driver waits for its devices (wait_for_devices). */
const devicesWaitMs = 300_000;
/** Event channels that the interrupts of many vcpus leave for devices: those vcpus that find none stay offline. */
const devicePorts = 256;

/** What the back ends of a driver domain work with. */
export interface BackendResources {
  readonly blocks: BlockDevices;
  readonly faults: Faults;
  /** The names of its bridges. */
  readonly bridges: readonly string[];
}

export interface GuestOptions {
  readonly domain: Domain;
  readonly hypervisor: Hypervisor;
  readonly sched: Sched;
  readonly clock: Clock;
  readonly store: StorePort;
  /** Where its console's output goes, with the line ends of a terminal. */
  readonly console: (text: string) => void;
  /** It is a driver domain: its kernel has back ends too. */
  readonly drivers?: BackendResources | undefined;
  /** What it was when it was saved; it goes on from there instead of booting. */
  readonly saved?: SavedGuest | undefined;
  /** Its share of what dom0 keeps. With a life in it, the guest goes on there: dom0 was away, and is back. */
  readonly share?: Share | undefined;
  /** Its drivers are no modules, and nothing waits for their devices. */
  readonly builtInDrivers?: boolean;
}

/** What dom0's next life needs of a guest, besides its devices. */
interface Life {
  /** It has run. */
  started: boolean;
  /** When its clock was at 0, of the world's time. */
  bornMs: number;
  interrupts: boolean;
  booted: boolean;
  suspended: boolean;
  /** Its kernel stands still, by `xl guest N hang`. */
  hung: boolean;
  /** What it was asked for and has not begun with, from just before nobody else knows of it. */
  asked: string | null;
  stopping: ShutdownReason | null;
  readonly saved: SavedGuest | null;
}

const lifeKey = 'life';

export class Guest {
  readonly kernel: Kernel;
  readonly #domain: Domain;
  readonly #hypervisor: Hypervisor;
  readonly #store: StorePort;
  readonly #bus: XenbusBus;
  readonly #share: Share;
  readonly #life: Life;
  /** It ran in dom0's last life. */
  readonly #isRecovered: boolean;
  readonly #builtInDrivers: boolean;
  readonly #uptime: () => number;
  readonly #console: (text: string) => void;
  readonly #drivers: BackendResources | undefined;
  /** What its back ends have mapped and bound: it ends with the domain. */
  readonly #taken = new Set<() => void>();
  /** Its network devices, where it has any. */
  readonly netdevs: NetDevices | undefined;
  readonly #resumed = waitQueue('HYPERVISOR_suspend');
  /** When its clock was at 0: from when it first runs. */
  #bootMs = 0;
  #started = false;
  #runnable = false;
  #cancelWait: () => void = () => undefined;

  constructor(options: GuestOptions) {
    const { domain, hypervisor, sched, clock, store, console, drivers, saved, share = {} } = options;
    this.#builtInDrivers = options.builtInDrivers ?? false;
    this.#uptime = () => clock.now() - this.#bootMs;
    this.#share = share;
    const before = share.recovered?.get(lifeKey) as unknown as Life | undefined;
    this.#life = before
      ? { ...before }
      : {
          started: false,
          bornMs: 0,
          interrupts: false,
          booted: false,
          suspended: false,
          hung: false,
          asked: null,
          stopping: null,
          saved: saved ?? null,
        };
    this.#isRecovered = this.#life.started;
    this.#console = console;
    const printk = new Printk(this.#uptime);
    if (hasConsole(domain.cmdline)) {
      printk.onLine(() => {
        console(
          printk
            .lines()
            .map((line) => `${line}\r\n`)
            .join(''),
        );
        printk.clear();
      });
    }
    this.kernel = new Kernel({
      domid: domain.domid,
      who: 'domU-kernel',
      sched,
      clock,
      printk: (text) => printk.print(text),
      recovered: this.#isRecovered ? share.recovered : undefined,
    });
    this.kernel.home.frozen = true;
    this.#domain = domain;
    this.#hypervisor = hypervisor;
    this.#store = store;
    this.#drivers = drivers;
    this.netdevs = drivers ? new NetDevices(this.kernel, drivers.bridges) : undefined;
    this.#bus = frontendBus(this.kernel, new Watches(this.kernel, new SingleDispatch(this.kernel)), share);
    if (this.#isRecovered) this.#bus.recover(this.#frontendDrivers());
    this.#keep();
  }

  #keep(): void {
    this.#share.keep?.set(lifeKey, { ...this.#life } as unknown as Kept);
  }

  /** The vcpus may run, or may not. The first time is the boot. */
  setRunnable(yes: boolean): void {
    this.#runnable = yes;
    const { clock } = this.kernel;
    const life = this.#life;
    this.kernel.sched.freeze(this.kernel.home, !yes || life.hung);
    if (yes && life.suspended) this.kernel.sched.wakeAll(this.#resumed);
    if (!yes || this.#started) return;
    this.#started = true;
    if (!this.#isRecovered) life.bornMs = clock.wall() - (life.saved?.uptimeMs ?? 0);
    life.started = true;
    this.#bootMs = clock.now() - (clock.wall() - life.bornMs);
    this.#keep();
    this.kernel.connect(this.#store);
    const { cmdline } = this.#domain;
    if (this.#isRecovered) {
      this.kernel.spawn('xenwatch', 'do_suspend', () => this.#goOn());
      return;
    }
    if (life.saved) {
      const { devices } = life.saved;
      this.kernel.spawn('xenwatch', 'do_suspend', () => this.#restore(devices));
      return;
    }
    this.kernel.printk('Linux version 6.1.0-56-amd64 (modelled by xl-mtwatch)');
    this.kernel.printk(`Command line: ${cmdline}`);
    this.kernel.spawn('swapper/0', 'kernel_init', () => this.#boot());
  }

  /** What it is doing, whatever its domain is. */
  get state(): 'booting' | 'running' | 'hung' | 'shutting down' {
    if (this.#life.hung) return 'hung';
    if (this.#life.stopping !== null) return 'shutting down';
    return this.#started ? 'running' : 'booting';
  }

  /**
   * Its kernel stops, or goes on: no task of it runs meanwhile, so that nothing that the store tells it is read or answered.
   * Its domain remains as it is.
   */
  setHung(yes: boolean): void {
    this.#life.hung = yes;
    this.#keep();
    this.kernel.sched.freeze(this.kernel.home, !this.#runnable || yes);
  }

  /** Suspends itself, without having been asked to. */
  suspend(): void {
    if (this.#life.stopping === null && !this.#life.suspended) this.kernel.spawn('xenwatch', 'do_suspend', () => this.#suspend());
  }

  /** Its kernel has nothing left to do but to say so. */
  panic(): void {
    this.kernel.printk('Kernel panic - not syncing: crashed by xl guest');
    this.#hypervisor.shutdown(this.#domain.domid, ShutdownReason.crash);
  }

  /** The domain is dead: nothing in it runs any more. */
  kill(): void {
    this.#cancelWait();
    this.kernel.sched.kill(this.kernel.home);
    this.kernel.disconnect();
    for (const release of this.#taken) release();
  }

  /** What a restored guest needs of this one, once it has suspended itself; undefined while it has not. */
  save(): SavedGuest | undefined {
    if (!this.#life.suspended) return undefined;
    const { currentKb: memoryKb, maxKb, maxVcpus, cmdline, cpus } = this.#domain;
    const devices = [...this.#bus.devices.values()].filter(({ driver }) => driver).map(({ nodename }) => nodename);
    const processors = { maxVcpus, onlineVcpus: onlineVcpus(cpus), cpuTime: cpuTime(cpus) };
    return { memoryKb, maxKb, ...processors, cmdline, uptimeMs: Math.round(this.#uptime()), devices };
  }

  /** What is typed at its console. Nobody reads it there, but its terminal is open and shows it. */
  type(text: string): void {
    if (this.kernel.home.frozen || !this.#started || !hasConsole(this.#domain.cmdline)) return;
    this.#console(echo(text));
  }

  *#boot(): Task {
    const { kernel } = this;
    this.#startVcpus();
    try {
      const { watches } = this.#bus;
      yield* this.#watchControl(false);
      if (!this.#drivers) yield* kernel.directory('backend');
      yield* this.#watchBackends();
      yield* watchDevices(this.#bus);
      // The guest of the recordings has no udev: what it has taken off stays off.
      yield* watchCpus(kernel, watches, this.#domain.cpus.vcpus, { udev: false });
      yield* this.#loadDrivers();
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      kernel.printk(`xenbus: boot: ${error.message}`);
    }
    this.#booted();
  }

  #startVcpus(): void {
    for (const vcpu of this.#domain.cpus.vcpus) vcpu.online = true;
    this.#bindInterrupts();
  }

  #booted(): void {
    this.#life.booted = true;
    this.#keep();
  }

  /**
   * dom0 has a new life, and this guest has none: it goes on where it was. What it sees is that its store connection and with
   * it its watches are gone, as when it is resumed; its devices, with their rings, are as they were.
   */
  *#goOn(): Task {
    const { kernel } = this;
    const { watches } = this.#bus;
    const life = this.#life;
    if (!life.interrupts && !life.saved) this.#startVcpus();
    this.#bindInterrupts();
    if (life.suspended) this.#resumeGrants();
    try {
      const paths = yield* this.#bus.rewatch();
      yield* watchCpus(kernel, watches, this.#domain.cpus.vcpus, { udev: false });
      yield* watchFrontends(this.#bus);
      yield* this.#watchBackends();
      yield* this.#watchControl(life.booted || life.saved !== null);
      const lacking = life.booted ? [] : (life.saved?.devices ?? []).filter((nodename) => !this.#bus.devices.has(nodename));
      for (const nodename of lacking) if (yield* kernel.exists(nodename)) yield* this.#bus.resumeDevice(nodename);
      yield* watches.recover(paths.map((path) => ['device', path]));
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      kernel.printk(`xenbus: resume: ${error.message}`);
    }
    if (life.suspended) this.#thaw();
    life.suspended = false;
    this.#booted();
  }

  /** What the last life had begun with, or acknowledged and not begun with. */
  *#finish(): Task {
    const { kernel } = this;
    const { stopping, asked } = this.#life;
    if (stopping !== null) this.#startShutDown(stopping);
    if (asked === null || (yield* kernel.read('control/shutdown')) !== '') return;
    yield* carryOut(
      kernel,
      asked,
      (_request, reason) => this.stop(reason),
      () => this.#suspend(),
    );
  }

  *#watchBackends(): Task {
    const { watches } = this.#bus;
    if (this.#drivers) yield* this.#bootBackends(this.#drivers, watches);
    else yield* watches.register({ node: 'backend', name: 'backend_changed', callback: () => this.#nothing() });
  }

  /** The back ends of a driver domain, as dom0 has them: for the devices of other guests. */
  *#bootBackends({ blocks, faults }: BackendResources, watches: Watches): Task {
    const bus = backendBus(this.kernel, watches);
    const shared = { bus, hypervisor: this.#grants(), faults, nrCpus: this.#domain.maxVcpus };
    yield* bus.registerDriver(blkback({ ...shared, blocks }));
    if (this.netdevs) yield* bus.registerDriver(netback({ ...shared, netdevs: this.netdevs }));
    yield* probeAndWatch(bus);
  }

  #grants(): Grants {
    const keep = (release: (() => void) | undefined) => {
      if (!release) return undefined;
      const once = () => {
        this.#taken.delete(once);
        release();
      };
      this.#taken.add(once);
      return once;
    };
    return {
      grantMap: (domid) => keep(this.#hypervisor.grantMap(domid)),
      evtchnBind: (local, domid, port, notified) => keep(this.#hypervisor.evtchnBind(local, domid, port, notified)),
    };
  }

  *#watchControl(isRestored: boolean): Task {
    const { domid } = this.#domain;
    const memory = {
      current: () => this.#domain.currentKb,
      change: (kb: number) => this.#hypervisor.setReservation(domid, Math.max(kb, Math.min(keptKb, this.#domain.currentKb))),
    };
    const taking = (request: string | undefined) => {
      if (this.#life.asked === (request ?? null)) return;
      this.#life.asked = request ?? null;
      this.#keep();
    };
    const goOn = { goOn: () => this.#finish() };
    const options = { memory, suspend: () => this.#suspend(), taking, isRestored, ...(this.#isRecovered ? goOn : {}) };
    yield* watchControl(this.kernel, this.#bus.watches, (_request, reason) => this.stop(reason), options);
  }

  /** As a rule they are modules: whoever loads one waits until its devices can be used, and then loads the next. */
  *#loadDrivers(): Task {
    for (const driver of this.#frontendDrivers()) {
      yield* this.#bus.registerDriver(driver);
      if (!this.#builtInDrivers) yield* this.#waitForDevices(driver);
    }
  }

  #frontendDrivers(): readonly XenbusDriver[] {
    const resources = frontendResources(this.#hypervisor, this.#domain.domid, this.#domain.maxVcpus, this.#share);
    return [blkfront(this.#bus, resources, { scans: true }), netfront(this.#bus, resources)];
  }

  /** `wait_for_devices`. The module stays loaded when they do not come. */
  *#waitForDevices(driver: XenbusDriver): Task {
    if (!this.#bus.isConnecting(driver)) return;
    let over = false;
    this.#cancelWait = this.kernel.clock.after(devicesWaitMs, () => {
      over = true;
      this.kernel.sched.wakeAll(this.#bus.connecting);
    });
    yield* waitEvent(this.#bus.connecting, () => over || !this.#bus.isConnecting(driver));
    this.#cancelWait();
  }

  /**
   * `do_suspend`: stops the domain, in the watch thread. It goes on here when it is resumed where it is, with its rings
   * and watches as they were; a restored copy goes on in `#restore`.
   */
  *#suspend(): Task {
    for (const [what, after] of [
      ['user space processes', 'OOM killer disabled.'],
      ['remaining freezable tasks', ''],
    ] as const) {
      this.kernel.printk(`Freezing ${what}`);
      this.kernel.printk(`Freezing ${what} completed (elapsed 0.000 seconds)`);
      if (after !== '') this.kernel.printk(after);
    }
    this.#life.suspended = true;
    this.#life.asked = null;
    this.#keep();
    this.#hypervisor.shutdown(this.#domain.domid, ShutdownReason.suspend);
    yield* waitEvent(this.#resumed, () => this.#domain.shutdown === null);
    this.#life.suspended = false;
    this.#keep();
    this.#resumeGrants();
    this.#thaw();
  }

  #resumeGrants(): void {
    this.kernel.printk('xen:grant_table: Grant tables using version 1 layout');
  }

  #thaw(): void {
    this.kernel.printk('OOM killer enabled.');
    this.kernel.printk('Restarting tasks ... done.');
  }

  /** The other end of `do_suspend` in a new domain: watches are set again (`xs_resume`), then every device is resumed. */
  *#restore(devices: readonly string[]): Task {
    const { kernel } = this;
    const { watches } = this.#bus;
    this.#bindInterrupts();
    try {
      this.#resumeGrants();
      for (const driver of this.#frontendDrivers()) yield* this.#bus.registerDriver(driver);
      yield* watchCpus(kernel, watches, this.#domain.cpus.vcpus, { udev: false, isRestored: true });
      // It would also find a device that the new domain has and the saved one had not.
      yield* watchFrontends(this.#bus);
      yield* watches.register({ node: 'backend', name: 'backend_changed', callback: () => this.#nothing() });
      yield* this.#watchControl(true);
      for (const nodename of devices) if (yield* kernel.exists(nodename)) yield* this.#bus.resumeDevice(nodename);
      this.#thaw();
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      kernel.printk(`xenbus: resume: ${error.message}`);
    }
    this.#booted();
  }

  /** Timer, debug and inter-processor interrupts take event channels before any device does: 5, and 7 for each further vcpu. */
  #bindInterrupts(): void {
    if (this.#life.interrupts) return;
    this.#life.interrupts = true;
    this.#keep();
    const count = Math.min(5 + 7 * (this.#domain.maxVcpus - 1), evtchnPortsMax - devicePorts);
    for (let bound = 0; bound < count; bound++) this.#hypervisor.evtchnAllocUnbound(this.#domain.domid, this.#domain.domid);
  }

  *#nothing(): Task {}

  /** Shuts down from inside: closes its devices, last one first, then stops. */
  stop(reason: ShutdownReason): void {
    if (this.#life.stopping !== null) return;
    this.#life.stopping = reason;
    this.#life.asked = null;
    this.#keep();
    this.#startShutDown(reason);
  }

  #startShutDown(reason: ShutdownReason): void {
    this.kernel.spawn('shutdown', 'kernel_power_off', () => this.#shutDown(reason));
  }

  *#shutDown(reason: ShutdownReason): Task {
    yield* shutDownDevices(this.#bus);
    this.kernel.printk(reason === ShutdownReason.reboot ? 'reboot: Restarting system' : 'reboot: Power down');
    this.#hypervisor.shutdown(this.#domain.domid, reason);
  }
}

/** Whether the command line leaves the kernel's messages on the console that dom0 has: they go there unless it names another. */
function hasConsole(cmdline: string): boolean {
  const consoles = cmdline.split(/\s+/).filter((word) => word.startsWith('console='));
  return consoles.length === 0 || consoles.some((word) => /^console=hvc0?(,|$)/.test(word));
}

/** As the terminal shows what is typed: a return is a new line, and a control character is spelled. */
function echo(text: string): string {
  return text.replace(/[\0-\x1f\x7f]/g, (char) => {
    if (char === '\r' || char === '\n') return '\r\n';
    if (char === '\t') return char;
    return `^${String.fromCharCode(char.charCodeAt(0) ^ 0x40)}`;
  });
}
