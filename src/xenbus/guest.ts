/**
 * The kernel of a PV guest, as far as its host can see it: what Linux 6.1 writes to XenStore while it boots, runs and
 * shuts down. Its image is not executed.
 *
 * It is a kernel like dom0's, with its own store connection, its own single xenwatch thread and the frontend drivers
 * (drivers/block/xen-blkfront.c, drivers/net/xen-netfront.c, drivers/xen/manage.c), and it acts with the rights and
 * quotas of its domain.
 */
import type { Clock } from './clock.js';
import { type Domain, evtchnPortsMax, type Hypervisor } from './hypervisor.js';
import { type BusType, XenbusBus, type XenbusDevice, type XenbusDriver } from './kernel/bus.js';
import { Kernel } from './kernel/kernel.js';
import { watchControl } from './kernel/manage.js';
import { Printk } from './kernel/printk.js';
import { type Sched, type Task, waitQueue } from './kernel/sched.js';
import { SingleDispatch, Watches } from './kernel/xenwatch.js';
import type { StorePort } from './transport.js';
import { type ShutdownReason, XenbusState } from './xenbus.js';
import { XsError } from './xs-wire.js';

const { Initialising, InitWait, Initialised, Connected, Closing, Closed } = XenbusState;

/** Linux keeps the first 8 grant references for itself (GNTTAB_NR_RESERVED_ENTRIES). */
const firstGrantRef = 8;
/** Event channels that the interrupts of many vcpus leave for devices: those vcpus that find none stay offline. */
const devicePorts = 256;
/** How long a guest that shuts down waits for one device to close (xenbus_dev_shutdown). */
const deviceShutdownMs = 5_000;

const frontendBusType: BusType = {
  root: 'device',
  levels: 3,
  otherendIdNode: 'backend-id',
  otherendNode: 'backend',
  changedName: 'backend_changed',
  // biome-ignore lint/correctness/useYield: a frontend's name is in its path, nothing has to be read for it.
  *busId(_kernel, nodename): Task<string | undefined> {
    const [, type, devid] = nodename.split('/');
    return `${type}-${devid}`;
  },
};

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
  readonly #closed = waitQueue('a device to close');
  #nextGrantRef = firstGrantRef;
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
    this.#bus = new XenbusBus(this.kernel, new Watches(this.kernel, new SingleDispatch(this.kernel)), frontendBusType);
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
    this.#bindInterrupts();
    try {
      const { watches } = this.#bus;
      yield* watchControl(kernel, watches, (_request, reason) => this.stop(reason));
      yield* kernel.directory('backend');
      yield* watches.register({ node: 'backend', name: 'backend_changed', callback: () => this.#nothing() });
      yield* this.#bus.probeDevices();
      yield* watches.register({ node: 'device', name: 'frontend_changed', callback: (path) => this.#bus.changed(path) });
      yield* watches.register({ node: 'cpu', name: 'handle_vcpu_hotplug_event', callback: () => this.#nothing() });
      for (let cpu = 0; cpu < this.#domain.maxVcpus; cpu++) yield* kernel.read(`cpu/${cpu}/availability`);
      yield* this.#bus.registerDriver(this.#blkfront());
      yield* this.#bus.registerDriver(this.#netfront());
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
    for (const device of [...this.#bus.devices.values()].reverse()) {
      if (device.state !== Connected) continue;
      yield* this.#bus.switchState(device, Closing);
      const closed = yield* this.kernel.sleepOn(this.#closed, deviceShutdownMs, () => device.state === Closed);
      if (!closed) this.kernel.printk(`xenbus: xenbus_dev_shutdown ${device.nodename} timeout closing device`);
    }
    this.#hypervisor.shutdown(this.#domain.domid, reason);
  }

  /** `xenbus_frontend_closed`. */
  *#frontendClosed(device: XenbusDevice): Task {
    yield* this.#bus.switchState(device, Closed);
    this.kernel.sched.wakeAll(this.#closed);
  }

  #grantRef(): number {
    return this.#nextGrantRef++;
  }

  #port(): number {
    return this.#hypervisor.evtchnAllocUnbound(this.#domain.domid, 0);
  }

  /** Queues that both sides have processors for. */
  *#queues(device: XenbusDevice): Task<number> {
    const offered = yield* this.#bus.readUnsigned(device.otherend, 'multi-queue-max-queues', 1);
    return Math.max(1, Math.min(offered, this.#domain.maxVcpus));
  }

  #blkfront(): XenbusDriver {
    const { kernel } = this;
    const bus = this.#bus;
    const talkToBlkback = (device: XenbusDevice) => this.#talkToBlkback(device);
    const frontendClosed = (device: XenbusDevice) => this.#frontendClosed(device);
    return {
      type: 'vbd',
      names: { probe: 'blkfront_probe', otherendChanged: 'blkback_changed', remove: 'blkfront_remove' },
      *probe(device) {
        yield* kernel.read(`${device.nodename}/virtual-device`);
      },
      *otherendChanged(device, state) {
        if (state === InitWait && device.state === Initialising) yield* talkToBlkback(device);
        if (state === Connected) {
          if (device.state !== Initialised && device.state !== Connected) yield* talkToBlkback(device);
          for (const name of blkfrontReads) yield* kernel.read(`${device.otherend}/${name}`);
          yield* bus.switchState(device, Connected);
        }
        if ((state === Closing || state === Closed) && device.state !== Closed) yield* frontendClosed(device);
      },
      *remove() {},
    };
  }

  *#talkToBlkback(device: XenbusDevice): Task {
    const { kernel } = this;
    yield* kernel.read(`${device.nodename}/trusted`);
    yield* kernel.read(`${device.otherend}/max-ring-page-order`);
    const queues = yield* this.#queues(device);
    const nodes: [string, string | number][] = [];
    if (queues > 1) nodes.push(['multi-queue-num-queues', queues]);
    for (let queue = 0; queue < queues; queue++) {
      const dir = queues > 1 ? `queue-${queue}/` : '';
      nodes.push([`${dir}ring-ref`, this.#grantRef()], [`${dir}event-channel`, this.#port()]);
    }
    nodes.push(['protocol', 'x86_64-abi'], ['feature-persistent', 1]);
    yield* this.#offer(device, nodes);
    yield* this.#bus.switchState(device, Initialised);
  }

  #netfront(): XenbusDriver {
    const bus = this.#bus;
    const connect = (device: XenbusDevice) => this.#connectNetback(device);
    const frontendClosed = (device: XenbusDevice) => this.#frontendClosed(device);
    return {
      type: 'vif',
      names: { probe: 'netfront_probe', otherendChanged: 'netback_changed', remove: 'xennet_remove' },
      *probe(device) {
        yield* bus.kernel.read(`${device.nodename}/mac`);
      },
      *otherendChanged(device, state) {
        if (state === InitWait && device.state === Initialising) yield* connect(device);
        if ((state === Closing || state === Closed) && device.state !== Closed) yield* frontendClosed(device);
      },
      *remove() {},
    };
  }

  *#connectNetback(device: XenbusDevice): Task {
    const { kernel } = this;
    if ((yield* this.#bus.readUnsigned(device.otherend, 'feature-rx-copy', 0)) !== 1) {
      kernel.printk(`vif ${device.busId}: backend does not support copying receive path`);
      return;
    }
    yield* kernel.write(`${device.nodename}/xdp-headroom`, '0');
    const queues = yield* this.#queues(device);
    const nodes: [string, string | number][] = [['multi-queue-num-queues', queues]];
    for (let queue = 0; queue < queues; queue++) {
      const dir = queues > 1 ? `queue-${queue}/` : '';
      nodes.push([`${dir}tx-ring-ref`, this.#grantRef()], [`${dir}rx-ring-ref`, this.#grantRef()]);
      nodes.push([`${dir}event-channel-tx`, this.#port()], [`${dir}event-channel-rx`, this.#port()]);
    }
    nodes.push(...netfrontFeatures.map((name): [string, number] => [name, 1]));
    yield* this.#offer(device, nodes);
    yield* this.#bus.switchState(device, Connected);
  }

  *#offer(device: XenbusDevice, nodes: readonly (readonly [string, string | number])[]): Task {
    const { kernel } = this;
    yield* kernel.transaction(function* (txId) {
      for (const [name, value] of nodes) yield* kernel.write(`${device.nodename}/${name}`, String(value), txId);
      return true;
    });
  }
}

/** What blkfront reads of a connected back end. */
const blkfrontReads = [
  'sectors',
  'info',
  'sector-size',
  'physical-sector-size',
  'feature-barrier',
  'feature-flush-cache',
  'feature-discard',
  'discard-granularity',
  'discard-alignment',
  'feature-persistent',
  'feature-max-indirect-segments',
];

const netfrontFeatures = [
  'request-rx-copy',
  'feature-rx-notify',
  'feature-sg',
  'feature-gso-tcpv4',
  'feature-gso-tcpv6',
  'feature-ipv6-csum-offload',
];
