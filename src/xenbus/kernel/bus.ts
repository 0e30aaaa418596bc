/**
 * The xenbus bus: devices, drivers, and what both ends of a device share.
 *
 * From drivers/xen/xenbus/xenbus_probe.c and xenbus_client.c of Linux 6.1: a device is named by its nodes, its driver
 * is found by type, and it follows the state of its other end through one watch. Backends (dom0) and frontends
 * (guests) differ in where their nodes lie and how they are named; that is a `BusType`. The sysfs, module and uevent
 * sides are not modelled.
 */
import { isWithin } from '../paths.js';
import { PrivcmdError } from '../privcmd.js';
import { strstate, XenbusState } from '../xenbus.js';
import { XsError } from '../xs-wire.js';
import type { Kernel } from './kernel.js';
import { type Mutex, mutex, mutexLock, mutexUnlock } from './locks.js';
import type { Task } from './sched.js';
import type { Watches, XenbusWatch } from './xenwatch.js';

/** The kernel name of a bus id may have 19 characters (XEN_BUS_ID_SIZE is 20 with its NUL). */
const busIdMax = 19;

export interface XenbusDevice {
  /** `backend/vbd/7/51712` or `device/vbd/51712`, relative to the domain's home. */
  readonly nodename: string;
  readonly devicetype: string;
  /** `vbd-7-51712`. */
  readonly busId: string;

  state: number;
  otherend: string;
  otherendId: number;
  otherendWatch: XenbusWatch | undefined;
  driver: XenbusDriver | undefined;
  readonly lock: Mutex;
}

/** What a driver does; each method runs in the thread that the bus calls it from. */
export interface XenbusDriver {
  readonly type: string;
  /** Names in the kernel, for stacks. */
  readonly names: { readonly probe: string; readonly otherendChanged: string; readonly remove: string };
  probe(device: XenbusDevice): Task;
  otherendChanged(device: XenbusDevice, state: number): Task;
  remove(device: XenbusDevice): Task;
}

/** Backend bus or frontend bus. */
export interface BusType {
  readonly root: 'backend' | 'device';
  /** Path components of a device: `backend/vbd/7/51712` has 4. */
  readonly levels: number;
  /** The node that names the other end's domain, and the one that has its path. */
  readonly otherendIdNode: string;
  readonly otherendNode: string;
  /** The bus-level watch callback's name. */
  readonly changedName: string;
  /** The bus id of the device at `nodename`; undefined when its nodes do not name one. */
  busId(kernel: Kernel, nodename: string): Task<string | undefined>;
}

export class XenbusBus {
  readonly devices = new Map<string, XenbusDevice>();
  readonly #drivers = new Map<string, XenbusDriver>();

  constructor(
    readonly kernel: Kernel,
    readonly watches: Watches,
    readonly type: BusType,
  ) {}

  /** `xenbus_register_driver_common`: devices that wait for this driver get it now. */
  *registerDriver(driver: XenbusDriver): Task {
    this.#drivers.set(driver.type, driver);
    for (const device of [...this.devices.values()]) {
      if (device.devicetype === driver.type && !device.driver) yield* this.#bind(device, driver);
    }
  }

  /** `xenbus_probe_devices`: takes up every device that is in the store. */
  *probeDevices(): Task {
    yield* this.#probeBelow(this.type.root, this.type.levels - 1);
  }

  *#probeBelow(dir: string, levels: number): Task {
    for (const name of (yield* this.kernel.directory(dir)) ?? []) {
      const path = `${dir}/${name}`;
      if (levels > 1) yield* this.#probeBelow(path, levels - 1);
      else yield* this.#probeNode(path);
    }
  }

  /** `xenbus_dev_changed`: something happened at or below `path`. */
  *changed(path: string): Task {
    const parts = path.split('/');
    if (parts.length < 3) return;
    if (!(yield* this.kernel.exists(path))) {
      for (const device of [...this.devices.values()]) if (isWithin(device.nodename, path)) yield* this.unregister(device);
      return;
    }
    if (parts.length < this.type.levels) return;
    const nodename = parts.slice(0, this.type.levels).join('/');
    if (!this.devices.has(nodename)) yield* this.kernel.call('xenbus_probe_node', this.#probeNode(nodename));
  }

  *#probeNode(nodename: string): Task {
    const { kernel, type } = this;
    const state = yield* kernel.readState(nodename);
    if (state !== XenbusState.Initialising) return;
    const busId = yield* type.busId(kernel, nodename);
    if (busId === undefined || busId.length > busIdMax || this.devices.has(nodename)) return;
    const device: XenbusDevice = {
      nodename,
      devicetype: nodename.split('/')[1] ?? '',
      busId,
      state,
      otherend: '',
      otherendId: 0,
      otherendWatch: undefined,
      driver: undefined,
      lock: mutex(`device lock of ${busId}`),
    };
    this.devices.set(nodename, device);
    const driver = this.#drivers.get(device.devicetype);
    if (driver) yield* this.#bind(device, driver);
  }

  #bind(device: XenbusDevice, driver: XenbusDriver): Task {
    return this.kernel.call('xenbus_dev_probe', this.#probe(device, driver));
  }

  *#probe(device: XenbusDevice, driver: XenbusDriver): Task {
    const { kernel } = this;
    const { self } = kernel;
    yield* mutexLock(self, device.lock);
    try {
      if (!(yield* this.#talkToOtherend(device))) return;
      yield* kernel.call(driver.names.probe, driver.probe(device));
      device.driver = driver;
      yield* this.#watchOtherend(device);
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      yield* this.fatal(device, `xenbus_dev_probe on ${device.nodename}: ${error.errno}`);
    } finally {
      mutexUnlock(kernel.sched, self, device.lock);
    }
  }

  *#talkToOtherend(device: XenbusDevice): Task<boolean> {
    const { kernel, type } = this;
    const domid = yield* kernel.read(`${device.nodename}/${type.otherendIdNode}`);
    const otherend = yield* kernel.read(`${device.nodename}/${type.otherendNode}`);
    if (domid === undefined || !otherend || !(yield* kernel.exists(otherend))) {
      yield* this.fatal(device, `unable to read other end from ${device.nodename}.  missing or inaccessible.`);
      return false;
    }
    device.otherendId = Number(domid);
    device.otherend = otherend;
    return true;
  }

  *#watchOtherend(device: XenbusDevice): Task {
    device.otherendWatch = yield* this.watches.register({
      node: `${device.otherend}/state`,
      name: this.type.changedName,
      domidOf: () => device.otherendId,
      getDomid: () => device.otherendId,
      getOwner: () => device.otherendId,
      guestWritable: this.type.root === 'backend',
      callback: (path) => this.kernel.call('xenbus_otherend_changed', this.#otherendChanged(device, path)),
    });
  }

  *#otherendChanged(device: XenbusDevice, path: string): Task {
    if (!device.otherend || !isWithin(path, device.otherend)) {
      this.kernel.printk(`${device.devicetype} ${device.busId}: xenbus: Ignoring watch at ${path}`);
      return;
    }
    const state = yield* this.kernel.readState(device.otherend);
    const { driver } = device;
    if (!driver) return;
    try {
      yield* this.kernel.call(driver.names.otherendChanged, driver.otherendChanged(device, state));
    } catch (error) {
      // What is refused to a driver closes its device; it does not take the watch thread with it.
      if (!(error instanceof XsError || error instanceof PrivcmdError)) throw error;
      yield* this.fatal(device, `${driver.names.otherendChanged}: ${error.message}`);
    }
  }

  /** `device_unregister`: takes the device off the bus, through its driver's remove. */
  *unregister(device: XenbusDevice): Task {
    if (this.devices.get(device.nodename) !== device) return;
    this.devices.delete(device.nodename);
    const frames = ['device_unregister', 'device_del', 'bus_remove_device', 'device_release_driver', '__device_release_driver'];
    const remove = this.#remove(device);
    yield* frames.reduceRight<Task>((inner, name) => this.#framed(name, inner), this.#framed('xenbus_dev_remove', remove));
  }

  *#framed(name: string, inner: Task): Task {
    yield* this.kernel.call(name, inner);
  }

  *#remove(device: XenbusDevice): Task {
    const { kernel, watches } = this;
    const { self } = kernel;
    yield* mutexLock(self, device.lock);
    const { driver, otherendWatch } = device;
    if (otherendWatch) {
      device.otherendWatch = undefined;
      yield* watches.unregister(otherendWatch);
    }
    if (driver) {
      yield* kernel.call(driver.names.remove, driver.remove(device));
      device.driver = undefined;
      const stored = yield* kernel.readState(device.nodename);
      if (stored === XenbusState.Closing) yield* this.switchState(device, XenbusState.Closed);
    }
    mutexUnlock(kernel.sched, self, device.lock);
  }

  /** `xenbus_switch_state`: writes the state if it is another one and its node still exists. */
  *switchState(device: XenbusDevice, state: number): Task {
    if (state === device.state) return;
    const { kernel } = this;
    const node = `${device.nodename}/state`;
    yield* kernel.call(
      'xenbus_switch_state',
      kernel.transaction(function* (txId) {
        if ((yield* kernel.read(node, txId)) === undefined) return false;
        yield* kernel.write(node, String(state), txId);
        return true;
      }),
    );
    device.state = state;
  }

  /** `xenbus_dev_fatal`: says what is wrong, in the log and under `error/`, and closes. */
  *fatal(device: XenbusDevice, message: string): Task {
    const { kernel } = this;
    kernel.printk(`${device.devicetype} ${device.busId}: ${message}`);
    try {
      yield* kernel.write(`error/${device.nodename}/error`, message);
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
    }
    yield* this.switchState(device, XenbusState.Closing);
  }

  /** A number in a node, or `otherwise`. */
  *readUnsigned(dir: string, name: string, otherwise: number): Task<number> {
    const text = yield* this.kernel.read(`${dir}/${name}`);
    return text !== undefined && /^\d+$/.test(text) ? Number(text) : otherwise;
  }
}

/** `saw state %d at frontend`, with its name. */
export function sawState(state: number): string {
  return `saw state ${state} (${strstate(state)}) at frontend`;
}
