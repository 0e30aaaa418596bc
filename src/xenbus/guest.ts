/**
 * The kernel of a PV guest, as far as its host can see it: what Linux 6.1 writes to XenStore while it boots, runs and
 * shuts down. Its image is not executed.
 *
 * It is a kernel like dom0's, with its own store connection, its own single xenwatch thread and the frontend drivers,
 * and it acts with the rights and
 * quotas of its domain.
 */
import type { Clock } from './clock.js';
import { type Domain, evtchnPortsMax, type Hypervisor } from './hypervisor.js';
import { blkfront } from './kernel/blkfront.js';
import type { XenbusBus } from './kernel/bus.js';
import { frontendBus, frontendResources, shutDownDevices, watchDevices } from './kernel/frontend-bus.js';
import { Kernel } from './kernel/kernel.js';
import { watchControl, watchCpus } from './kernel/manage.js';
import { netfront } from './kernel/netfront.js';
import { Printk } from './kernel/printk.js';
import type { Sched, Task } from './kernel/sched.js';
import { SingleDispatch, Watches } from './kernel/xenwatch.js';
import type { StorePort } from './transport.js';
import type { ShutdownReason } from './xenbus.js';
import { XsError } from './xs-wire.js';

/** Event channels that the interrupts of many vcpus leave for devices: those vcpus that find none stay offline. */
const devicePorts = 256;

export interface GuestOptions {
  readonly domain: Domain;
  readonly hypervisor: Hypervisor;
  readonly sched: Sched;
  readonly clock: Clock;
  readonly store: StorePort;
}

export class Guest {
  readonly kernel: Kernel;
  readonly #domain: Domain;
  readonly #hypervisor: Hypervisor;
  readonly #store: StorePort;
  readonly #bus: XenbusBus;
  #started = false;
  #stopping = false;

  constructor({ domain, hypervisor, sched, clock, store }: GuestOptions) {
    const boot = clock.now();
    const printk = new Printk(() => clock.now() - boot);
    this.kernel = new Kernel({ domid: domain.domid, who: 'domU-kernel', sched, clock, printk: (text) => printk.print(text) });
    this.kernel.home.frozen = true;
    this.#domain = domain;
    this.#hypervisor = hypervisor;
    this.#store = store;
    this.#bus = frontendBus(this.kernel, new Watches(this.kernel, new SingleDispatch(this.kernel)));
  }

  /** The vcpus may run, or may not. The first time is the boot. */
  setRunnable(yes: boolean): void {
    this.kernel.sched.freeze(this.kernel.home, !yes);
    if (!yes || this.#started) return;
    this.#started = true;
    this.kernel.connect(this.#store);
    this.kernel.spawn('swapper/0', 'kernel_init', () => this.#boot());
  }

  /** The domain is dead: nothing in it runs any more. */
  kill(): void {
    this.kernel.sched.kill(this.kernel.home);
    this.kernel.disconnect();
  }

  *#boot(): Task {
    const { kernel } = this;
    for (const vcpu of this.#domain.cpus.vcpus) vcpu.online = true;
    this.#bindInterrupts();
    try {
      const { watches } = this.#bus;
      const { domid } = this.#domain;
      const memory = {
        current: () => this.#domain.currentKb,
        change: (kb: number) => this.#hypervisor.setReservation(domid, kb),
      };
      yield* watchControl(kernel, watches, (_request, reason) => this.stop(reason), { memory });
      yield* kernel.directory('backend');
      yield* watches.register({ node: 'backend', name: 'backend_changed', callback: () => this.#nothing() });
      yield* watchDevices(this.#bus);
      // The guest of the recordings has no udev: what it has taken off stays off.
      yield* watchCpus(kernel, watches, this.#domain.cpus.vcpus, { udev: false });
      const resources = frontendResources(this.#hypervisor, this.#domain.domid, this.#domain.maxVcpus);
      yield* this.#bus.registerDriver(blkfront(this.#bus, resources));
      yield* this.#bus.registerDriver(netfront(this.#bus, resources));
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      kernel.printk(`xenbus: boot: ${error.message}`);
    }
  }

  /** Timer, debug and inter-processor interrupts take event channels before any device does: 5, and 7 for each further vcpu. */
  #bindInterrupts(): void {
    const count = Math.min(5 + 7 * (this.#domain.maxVcpus - 1), evtchnPortsMax - devicePorts);
    for (let bound = 0; bound < count; bound++) this.#hypervisor.evtchnAllocUnbound(this.#domain.domid, this.#domain.domid);
  }

  *#nothing(): Task {}

  /** Shuts down from inside: closes its devices, last one first, then stops. */
  stop(reason: ShutdownReason): void {
    if (this.#stopping) return;
    this.#stopping = true;
    this.kernel.spawn('shutdown', 'kernel_power_off', () => this.#shutDown(reason));
  }

  *#shutDown(reason: ShutdownReason): Task {
    yield* shutDownDevices(this.#bus);
    this.#hypervisor.shutdown(this.#domain.domid, reason);
  }
}
