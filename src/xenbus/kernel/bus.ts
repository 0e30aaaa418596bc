/**
 * The xenbus bus: devices, drivers, and what both ends of a device share.
 *
 * From drivers/xen/xenbus/xenbus_probe.c and xenbus_client.c of Linux 6.1: a device is named by its nodes, its driver
 * is found by type, and it follows the state of its other end through one watch. Backends and frontends differ in where
 * their nodes lie and how they are named; that is a `BusType`. sysfs and modules are not modelled; uevents are told to
 * whoever listens, and nothing acts on them: libxl runs the scripts itself.
 */
import { type Kept, keptBelow, type Share } from '../keep.js';
import { isWithin } from '../paths.js';
import { PrivcmdError } from '../privcmd.js';
import { strstate, XenbusState } from '../xenbus.js';
import { type XsErrno, XsError } from '../xs-wire.js';
import type { Kernel } from './kernel.js';
import { type Mutex, mutex, mutexLock, mutexUnlock } from './locks.js';
import { type Task, type WaitQueue, waitQueue } from './sched.js';
import type { Watches, XenbusWatch } from './xenwatch.js';

/** The kernel name of a bus id may have 19 characters (XEN_BUS_ID_SIZE is 20 with its NUL). */
const busIdMax = 19;

/** Linux's numbers for what goes wrong with a device; they stand in front of its message. */
export const errno = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EIO: 5,
  E2BIG: 7,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EISDIR: 21,
  EINVAL: 22,
  ENOSPC: 28,
  EROFS: 30,
  EDOM: 33,
  ERANGE: 34,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  EADDRNOTAVAIL: 99,
  EISCONN: 106,
} as const satisfies Readonly<Record<XsErrno | PrivcmdError['errno'], number>> & Record<string, number>;

/** What the kernel tells user space about a device. */
export interface Uevent {
  readonly action: 'add' | 'bind' | 'online' | 'offline' | 'unbind' | 'remove';
  readonly subsystem: 'xen-backend' | 'xen';
  /** The device's name on its bus. */
  readonly device: string;
  /** The variables, in the order in which they are added. */
  readonly env: Readonly<Record<string, string>>;
}

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
  /** How far its driver is with it: it waits for one, is in its probe, has one, or was refused by it. */
  phase: 'new' | 'probing' | 'bound' | 'failed';
  readonly lock: Mutex;
  /** Woken when a frontend has closed. */
  readonly down: WaitQueue;
  /** What stands for its address in debug messages. */
  readonly pointer: string;
}

/** What a driver does; each method runs in the thread that the bus calls it from. */
export interface XenbusDriver {
  readonly type: string;
  /** Names in the kernel, for stacks. */
  readonly names: { readonly probe: string; readonly otherendChanged: string; readonly remove: string };
  /** Whether it can take up a device again that it let go of; the device of one that cannot ends as Closed. */
  readonly allowRebind: boolean;
  /** Answers 0, or with the errno that it failed with; it has cleaned up then. */
  probe(device: XenbusDevice): Task<number>;
  otherendChanged(device: XenbusDevice, state: number): Task;
  remove(device: XenbusDevice): Task;
  /** Its domain was restored from a saved one, and nobody is at the other end of its rings any more. */
  resume?(device: XenbusDevice): Task;
  /** Whether a device that is Connected can be used. Without it, it can. */
  isReady?(device: XenbusDevice): boolean;
  /** What it adds to the variables of a uevent. */
  uevent?(device: XenbusDevice): Readonly<Record<string, string>>;
  /** What it must be told of the device in dom0's next life. */
  kept?(device: XenbusDevice): Kept | undefined;
  /** Takes up a device of its last life: takes again what it held, and starts its threads. Nobody waits. */
  recover?(device: XenbusDevice, kept: Kept | undefined): void;
  /** Registers the watches that it had of the device. */
  rewatch?(device: XenbusDevice): Task;
  /** Nodes at or below which devices may have been are gone from the store, and so are the devices from the bus. */
  pathGone?(path: string): void;
  /** Takes up what devices have left behind that are off the bus. */
  recoverRest?(): void;
}

/** A device as it is kept. */
type DeviceKept = {
  readonly busId: string;
  readonly otherend: string;
  readonly otherendId: number;
  readonly state: number;
  readonly phase: XenbusDevice['phase'];
  readonly driver: Kept | undefined;
};

/** Backend bus or frontend bus. */
export interface BusType {
  readonly root: 'backend' | 'device';
  readonly subsystem: Uevent['subsystem'];
  /** Path components of a device: `backend/vbd/7/51712` has 4. */
  readonly levels: number;
  /** The node that names the other end's domain, and the one that has its path. */
  readonly otherendIdNode: string;
  readonly otherendNode: string;
  /** The name of the callback that follows the other end's state. */
  readonly otherendChangedName: string;
  /** What it prints, with dynamic debug, at each uevent. */
  readonly ueventDebug?: string;
  /** The bus id of the device at `nodename`; undefined when its nodes do not name one. */
  busId(bus: XenbusBus, nodename: string): Task<string | undefined>;
}

export class XenbusBus {
  /** By nodename, in the order in which they came. */
  readonly devices = new Map<string, XenbusDevice>();
  onUevent: (uevent: Uevent) => void = () => {};
  /** Woken when a device has another state, or is ready. */
  readonly connecting = waitQueue('devices to connect');
  #made = 0;
  readonly #drivers = new Map<string, XenbusDriver>();
  /** Devices of the last life whose driver has yet to take them, again or for the first time. */
  readonly #unfinished = new Set<XenbusDevice>();

  constructor(
    readonly kernel: Kernel,
    readonly watches: Watches,
    readonly type: BusType,
    /** dom0's share of what is kept, or a guest's. */
    readonly share: Share = kernel,
  ) {}

  /** The device is not what it was: its next life must know. */
  keep(device: XenbusDevice): void {
    const { keep } = this.share;
    if (!keep || this.devices.get(device.nodename) !== device) return;
    const { busId, otherend, otherendId, state, phase, driver } = device;
    const kept: DeviceKept = { busId, otherend, otherendId, state, phase, driver: driver?.kept?.(device) };
    keep.set(devicePrefix + device.nodename, kept);
  }

  /** Takes up the devices of the last life, at once: what their drivers held is held again before anybody else runs. */
  recover(drivers: readonly XenbusDriver[]): void {
    for (const driver of drivers) this.#drivers.set(driver.type, driver);
    for (const [nodename, value] of keptBelow(this.share.recovered, devicePrefix)) {
      if (!nodename.startsWith(`${this.type.root}/`)) continue;
      const { busId, driver: kept, ...rest } = value as DeviceKept;
      const device: XenbusDevice = { ...this.#makeDevice(nodename, busId, rest.state, rest.otherendId), ...rest };
      this.devices.set(nodename, device);
      const driver = this.#drivers.get(device.devicetype);
      if (!driver) continue;
      if (device.phase === 'bound' || device.phase === 'probing') {
        device.driver = driver;
        driver.recover?.(device, kept);
      }
      if (device.phase === 'probing' || device.phase === 'new') this.#unfinished.add(device);
    }
    for (const driver of drivers) driver.recoverRest?.();
  }

  /** Stands for a device that was taken off the bus in the last life. */
  strayDevice({ nodename, busId, otherendId }: Pick<XenbusDevice, 'nodename' | 'busId' | 'otherendId'>): XenbusDevice {
    return this.#makeDevice(nodename, busId, XenbusState.Closed, otherendId);
  }

  /**
   * Registers the watches that the recovered devices had. Answers with the paths that are to be looked at as if something
   * had happened there: of every device, and of every node that may be one.
   */
  *rewatch(): Task<string[]> {
    for (const device of [...this.devices.values()]) {
      if (device.phase !== 'bound') continue;
      // A back end's state is written by the toolstack, too; that of a front end by nobody but its kernel.
      if (this.type.root === 'device') device.state = (yield* this.kernel.readState(device.nodename)) || device.state;
      try {
        yield* this.#watchOtherend(device);
        if (device.driver?.rewatch) yield* device.driver.rewatch(device);
      } catch (error) {
        if (!(error instanceof XsError)) throw error;
        this.#warn(device, `xenbus: ${device.busId} is not watched any more: ${error.errno}`);
      }
    }
    const nodes = yield* this.#nodesBelow(this.type.root, this.type.levels - 1);
    return [...new Set([...this.devices.keys(), ...nodes])];
  }

  *#nodesBelow(dir: string, levels: number): Task<string[]> {
    const found: string[] = [];
    for (const name of (yield* this.kernel.directoryWhole(dir)) ?? []) {
      const path = `${dir}/${name}`;
      if (levels > 1) found.push(...(yield* this.#nodesBelow(path, levels - 1)));
      else found.push(path);
    }
    return found;
  }

  /** `xenbus_register_driver_common`: devices that wait for this driver get it now. */
  *registerDriver(driver: XenbusDriver): Task {
    this.#drivers.set(driver.type, driver);
    for (const device of [...this.devices.values()]) {
      if (device.devicetype === driver.type && !device.driver) yield* this.#bind(device, driver);
    }
  }

  /** `is_device_connecting` of any device that a driver has taken. */
  isConnecting(driver: XenbusDriver): boolean {
    const ready = (device: XenbusDevice) => driver.isReady?.(device) ?? true;
    return [...this.devices.values()].some(
      (device) =>
        device.driver === driver &&
        (device.state < XenbusState.Connected || (device.state === XenbusState.Connected && !ready(device))),
    );
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

  /**
   * `xenbus_dev_changed`: something happened at or below `path`. `elsewhere` may have another thread take a device off the
   * bus, whose it is.
   */
  *changed(path: string, elsewhere?: (device: XenbusDevice) => Task<boolean>): Task {
    const parts = path.split('/');
    if (parts.length < 3) return;
    if (!(yield* this.kernel.exists(path))) return yield* this.#cleanUp(path, elsewhere);
    if (parts.length < this.type.levels) return;
    const nodename = parts.slice(0, this.type.levels).join('/');
    if (this.#unfinished.size > 0) yield* this.#finish(this.devices.get(nodename));
    if (!this.devices.has(nodename)) yield* this.kernel.call('xenbus_probe_node', this.#probeNode(nodename));
  }

  *#finish(device: XenbusDevice | undefined): Task {
    if (!device || !this.#unfinished.delete(device)) return;
    const driver = this.#drivers.get(device.devicetype);
    if (driver) yield* this.#bind(device, driver);
  }

  /** `xenbus_cleanup_devices`: the devices at or below a path that is gone, one after the other, from the start each time. */
  *#cleanUp(path: string, elsewhere?: (device: XenbusDevice) => Task<boolean>): Task {
    for (let device = this.#below(path); device; device = this.#below(path)) {
      if (elsewhere && (yield* elsewhere(device))) return;
      yield* this.unregister(device);
    }
    for (const driver of this.#drivers.values()) driver.pathGone?.(path);
  }

  /** The first device at or below a path. Only one who debugs sees that Linux looks at every device for it. */
  #below(path: string): XenbusDevice | undefined {
    const debugs = this.kernel.debugs('xenbus');
    if (!debugs && path.split('/').length >= this.type.levels) return this.devices.get(path);
    for (const device of this.devices.values()) {
      if (debugs) this.kernel.printk(`xenbus: xenbus_probe (cleanup_dev:424) ${path}.`);
      if (isWithin(device.nodename, path)) return device;
    }
    return undefined;
  }

  *#probeNode(nodename: string): Task {
    const { kernel, type } = this;
    const state = yield* kernel.readState(nodename);
    if (state !== XenbusState.Initialising) return;
    const busId = yield* type.busId(this, nodename);
    if (busId === undefined || busId.length > busIdMax || this.devices.has(nodename)) return;
    const device = this.#makeDevice(nodename, busId, state);
    this.devices.set(nodename, device);
    this.keep(device);
    this.uevent(device, 'add');
    const driver = this.#drivers.get(device.devicetype);
    if (driver) yield* this.#bind(device, driver);
  }

  /**
   * `xenbus_dev_resume` of a device of a restored kernel, which had it before: there is no probe, the driver offers its
   * rings again, and the other end is watched anew.
   */
  *resumeDevice(nodename: string): Task {
    const { kernel } = this;
    const devicetype = nodename.split('/')[1] ?? '';
    const driver = this.#drivers.get(devicetype);
    const busId = yield* this.type.busId(this, nodename);
    if (!driver || busId === undefined || this.devices.has(nodename)) return;
    const device = this.#makeDevice(nodename, busId, XenbusState.Initialising);
    this.devices.set(nodename, device);
    device.driver = driver;
    this.#enter(device, 'bound');
    yield* this.#locked(device, kernel.call('xenbus_dev_resume', this.#resume(device, driver)));
  }

  *#resume(device: XenbusDevice, driver: XenbusDriver): Task {
    if (!(yield* this.#talkToOtherend(device))) {
      this.#warn(device, `xenbus: resume (talk_to_otherend) ${device.busId} failed: -2`);
      return;
    }
    if (driver.resume) yield* this.#refusals(device, driver.names.probe, succeeding(driver.resume(device)));
    try {
      yield* this.#watchOtherend(device);
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      this.#warn(device, `xenbus_probe: resume (watch_otherend) ${device.busId} failed: ${error.errno}`);
    }
  }

  #makeDevice(nodename: string, busId: string, state: number, otherendId?: number): XenbusDevice {
    this.#made += 1;
    return {
      nodename,
      devicetype: nodename.split('/')[1] ?? '',
      busId,
      state,
      otherend: '',
      // Until it is read: of the domain in whose thread the device is found, for that is where its events go.
      otherendId: otherendId ?? this.kernel.self.serves,
      otherendWatch: undefined,
      driver: undefined,
      phase: 'new',
      lock: mutex(`device lock of ${busId}`),
      down: waitQueue(`${busId} to close`),
      pointer: (this.#made * 0x800).toString(16).padStart(16, '0'),
    };
  }

  /** `kobject_uevent`. */
  uevent(device: XenbusDevice, action: Uevent['action']): void {
    const { kernel, type } = this;
    const { devicetype, nodename, driver } = device;
    if (type.ueventDebug !== undefined) kernel.debug('xenbus', `xenbus: ${type.ueventDebug}`);
    const paths = { XENBUS_TYPE: devicetype, XENBUS_PATH: nodename, XENBUS_BASE_PATH: type.root };
    const env =
      type.root === 'device'
        ? { MODALIAS: `xen:${devicetype}` }
        : { MODALIAS: `xen-backend:${devicetype}`, ...paths, ...driver?.uevent?.(device) };
    this.onUevent({ action, subsystem: type.subsystem, device: device.busId, env });
  }

  *#bind(device: XenbusDevice, driver: XenbusDriver): Task {
    yield* this.#locked(device, this.#bindLocked(device, driver));
  }

  *#bindLocked(device: XenbusDevice, driver: XenbusDriver): Task {
    device.driver = driver;
    this.#enter(device, 'probing');
    const isTaken = yield* this.kernel.call('xenbus_dev_probe', this.#probe(device, driver));
    if (isTaken) this.uevent(device, 'bind');
    else device.driver = undefined;
    this.#enter(device, isTaken ? 'bound' : 'failed');
  }

  #enter(device: XenbusDevice, phase: XenbusDevice['phase']): void {
    device.phase = phase;
    this.keep(device);
  }

  /** Runs `body` with the device's lock held. Who dies of a bug in it never lets go, as in Linux. */
  *#locked(device: XenbusDevice, body: Task): Task {
    const { self, sched } = this.kernel;
    yield* mutexLock(self, device.lock);
    try {
      yield* body;
    } catch (error) {
      if (isRefusal(error)) mutexUnlock(sched, self, device.lock);
      throw error;
    }
    mutexUnlock(sched, self, device.lock);
  }

  /** Answers whether the driver has taken the device. */
  *#probe(device: XenbusDevice, driver: XenbusDriver): Task<boolean> {
    const { kernel } = this;
    const { nodename } = device;
    kernel.debug('xenbus', `xenbus: xenbus_probe (xenbus_dev_probe:279) ${nodename}.`);
    if (!(yield* this.#talkToOtherend(device))) {
      this.#warn(device, `talk_to_otherend on ${nodename} failed.`);
      return false;
    }
    const failed = yield* this.#refusals(device, driver.names.probe, driver.probe(device), driver);
    if (failed !== 0) {
      yield* this.error(device, failed, `xenbus_dev_probe on ${nodename}`);
      return false;
    }
    try {
      yield* this.#watchOtherend(device);
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      this.#warn(device, `watch_otherend on ${nodename} failed.`);
      return false;
    }
    return true;
  }

  /** Runs a driver's function. What the store or the hypervisor refuses it closes its device, and takes no thread with it. */
  *#refusals(device: XenbusDevice, name: string, body: Task<number>, undo?: XenbusDriver): Task<number> {
    try {
      return yield* this.kernel.call(name, body);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const code = errnoOf(error);
      yield* this.fatal(device, code, `${name.split(' ')[0]}: ${error.message}`);
      if (undo) yield* undo.remove(device);
      return code;
    }
  }

  *#talkToOtherend(device: XenbusDevice): Task<boolean> {
    const { kernel, type } = this;
    yield* this.#freeOtherendWatch(device);
    const domid = yield* this.scan(device.nodename, type.otherendIdNode);
    const otherend = domid < 0 ? undefined : yield* kernel.read(`${device.nodename}/${type.otherendNode}`);
    if (otherend === undefined) {
      yield* this.fatal(device, domid < 0 ? -domid : errno.ENOENT, `reading other end details from ${device.nodename}`);
      return false;
    }
    if (otherend === '' || !(yield* kernel.exists(otherend))) {
      const lost = `unable to read other end from ${device.nodename}.  missing or inaccessible.`;
      yield* this.fatal(device, errno.ENOENT, lost);
      return false;
    }
    device.otherendId = domid;
    device.otherend = otherend;
    return true;
  }

  *#watchOtherend(device: XenbusDevice): Task {
    device.otherendWatch = yield* this.watches.register({
      node: `${device.otherend}/state`,
      name: this.type.otherendChangedName,
      domidOf: () => device.otherendId,
      getDomid: () => device.otherendId,
      getOwner: () => device.otherendId,
      guestWritable: this.type.root === 'backend',
      callback: (path) => this.kernel.call('xenbus_otherend_changed', this.#otherendChanged(device, path)),
    });
  }

  *#freeOtherendWatch(device: XenbusDevice): Task {
    if (device.otherendWatch) yield* this.watches.unregister(device.otherendWatch);
    device.otherendWatch = undefined;
  }

  *#otherendChanged(device: XenbusDevice, path: string): Task {
    const { kernel } = this;
    const { driver, otherend } = device;
    const named = `${device.devicetype} ${device.busId}: xenbus:`;
    if (!otherend || !isWithin(path, otherend)) return kernel.debug('xenbus', `${named} Ignoring watch at ${path}`);
    const state = yield* kernel.readState(otherend);
    kernel.debug('xenbus', `${named} state is ${state}, (${strstate(state)}), ${otherend}/state, ${path}`);
    if (driver) yield* this.#refusals(device, driver.names.otherendChanged, succeeding(driver.otherendChanged(device, state)));
  }

  /** `device_unregister`: takes the device off the bus, through its driver's remove. */
  *unregister(device: XenbusDevice): Task {
    const frames = ['device_unregister', 'device_del', 'bus_remove_device'];
    yield* frames.reduceRight<Task>((inner, name) => this.#framed(name, inner), this.#removeFromBus(device));
  }

  *#framed(name: string, inner: Task): Task {
    yield* this.kernel.call(name, inner);
  }

  *#removeFromBus(device: XenbusDevice): Task {
    yield* this.#framed('device_release_driver', this.#locked(device, this.#releaseDriver(device)));
    // Who waited for the device's lock meanwhile finds it gone.
    if (this.devices.get(device.nodename) !== device) return;
    this.devices.delete(device.nodename);
    this.#unfinished.delete(device);
    this.share.keep?.delete(devicePrefix + device.nodename);
    this.uevent(device, 'remove');
  }

  *#releaseDriver(device: XenbusDevice): Task {
    const { driver } = device;
    if (!driver) return;
    yield* this.#framed('__device_release_driver', this.#framed('xenbus_dev_remove', this.#remove(device, driver)));
    device.driver = undefined;
    this.#enter(device, 'failed');
    this.uevent(device, 'unbind');
  }

  *#remove(device: XenbusDevice, driver: XenbusDriver): Task {
    const { kernel } = this;
    kernel.debug('xenbus', `xenbus: xenbus_probe (xenbus_dev_remove:344) ${device.nodename}.`);
    yield* this.#freeOtherendWatch(device);
    yield* this.#refusals(device, driver.names.remove, succeeding(driver.remove(device)));
    if (!driver.allowRebind || (yield* kernel.readState(device.nodename)) === XenbusState.Closing) {
      yield* this.switchState(device, XenbusState.Closed);
    }
  }

  /** `xenbus_switch_state`: writes the state if it is another one and its node still exists. */
  *switchState(device: XenbusDevice, state: number): Task {
    if (state === device.state) return;
    try {
      yield* this.kernel.call('xenbus_switch_state', this.#writeState(`${device.nodename}/state`, state));
    } catch (error) {
      if (!isRefusal(error)) throw error;
      yield* this.error(device, errnoOf(error), 'writing new state');
    }
    device.state = state;
    this.keep(device);
    this.kernel.sched.wakeAll(this.connecting);
  }

  *#writeState(node: string, state: number): Task {
    const { kernel } = this;
    yield* kernel.transaction(function* (txId) {
      if ((yield* kernel.read(node, txId)) === undefined) return false;
      yield* kernel.write(node, String(state), txId);
      return true;
    });
  }

  /** `xenbus_dev_error`: says what is wrong, in the log and below `error/`. `code` is an errno, as it is printed. */
  *error(device: XenbusDevice, code: number, message: string): Task {
    const text = `${code} ${message}`;
    this.#warn(device, text);
    try {
      yield* this.kernel.write(`error/${device.nodename}/error`, text);
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
    }
  }

  /** `xenbus_dev_fatal`: the same, and closes. */
  *fatal(device: XenbusDevice, code: number, message: string): Task {
    yield* this.error(device, code, message);
    yield* this.switchState(device, XenbusState.Closing);
  }

  #warn(device: XenbusDevice, text: string): void {
    this.kernel.printk(`${device.devicetype} ${device.busId}: ${text}`);
  }

  /** `xenbus_scanf` of one `%u`: the number, or a negative errno: no node (ENOENT) or no number (ERANGE). */
  *scan(dir: string, name: string): Task<number> {
    const text = yield* this.kernel.read(`${dir}/${name}`);
    if (text === undefined) return -errno.ENOENT;
    const match = /^\s*\+?(\d+)/.exec(text);
    return match ? Number(match[1]) : -errno.ERANGE;
  }

  /** `xenbus_read_unsigned`: a number in a node, or `otherwise`. */
  *readUnsigned(dir: string, name: string, otherwise: number): Task<number> {
    const value = yield* this.scan(dir, name);
    return value < 0 ? otherwise : value;
  }
}

const devicePrefix = 'device/';

/** What the store or the hypervisor refuses is an answer; everything else that is thrown is a bug. */
function isRefusal(error: unknown): error is XsError | PrivcmdError {
  return error instanceof XsError || error instanceof PrivcmdError;
}

/** The number of what the store or the hypervisor said. */
function errnoOf(error: XsError | PrivcmdError): number {
  return errno[error.errno];
}

function* succeeding(body: Task): Task<number> {
  yield* body;
  return 0;
}
