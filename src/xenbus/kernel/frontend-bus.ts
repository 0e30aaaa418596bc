/**
 * The frontend bus: finds devices below `device/` by one recursive watch (drivers/xen/xenbus/xenbus_probe_frontend.c).
 *
 * Every kernel has it. A guest's devices are served by dom0 or by a driver domain; dom0 has devices of its own when
 * `xl block-attach 0` gives it one, or when libxl attaches a disk to look into it.
 */
import type { Hypervisor } from '../hypervisor.js';
import type { Share } from '../keep.js';
import { XenbusState } from '../xenbus.js';
import { type BusType, XenbusBus, type XenbusDevice } from './bus.js';
import type { Kernel } from './kernel.js';
import type { Task } from './sched.js';
import type { Watches } from './xenwatch.js';

/** Linux keeps the first 8 grant references for itself (GNTTAB_NR_RESERVED_ENTRIES). */
const firstGrantRef = 8;
const grantKey = 'grant';
/** How long a domain that shuts down waits for one device to close (xenbus_dev_shutdown). */
const deviceShutdownMs = 5_000;

const frontendBusType: BusType = {
  root: 'device',
  subsystem: 'xen',
  levels: 3,
  otherendIdNode: 'backend-id',
  otherendNode: 'backend',
  otherendChangedName: 'backend_changed',
  // biome-ignore lint/correctness/useYield: a frontend's name is in its path, nothing has to be read for it.
  *busId(_bus, nodename): Task<string | undefined> {
    const [, type, devid] = nodename.split('/');
    return `${type}-${devid}`;
  },
};

/** What frontends take of their domain: grant references and event channels. */
export interface FrontendResources {
  /** Processors, which is how many queues a device is worth. */
  readonly vcpus: number;
  grantRef(): number;
  /** A new event channel that `remote` may bind. */
  port(remote: number): number;
  closePort(port: number): void;
  /** Tells the other end of a ring that there is a request on it, with these pages. `ended` is called when it is done. */
  notify(port: number, grants: readonly number[], ended?: () => void): void;
}

/** `share`: where the domain keeps which references it has given. */
export function frontendResources(hypervisor: Hypervisor, domid: number, vcpus: number, share: Share = {}): FrontendResources {
  const { keep, recovered } = share;
  let nextGrantRef = Number(recovered?.get(grantKey) ?? firstGrantRef);
  return {
    vcpus,
    grantRef: () => {
      keep?.set(grantKey, nextGrantRef + 1);
      return nextGrantRef++;
    },
    port: (remote) => hypervisor.evtchnAllocUnbound(domid, remote),
    closePort: (port) => hypervisor.evtchnClose(domid, port),
    notify: (port, grants, ended) => hypervisor.evtchnSend(domid, port, grants, ended),
  };
}

export function frontendBus(kernel: Kernel, watches: Watches, share?: Share): XenbusBus {
  return new XenbusBus(kernel, watches, frontendBusType, share);
}

/** What is there already, then `fe_watch`. */
export function* watchDevices(bus: XenbusBus): Task {
  yield* bus.probeDevices();
  yield* watchFrontends(bus);
}

/** `fe_watch` alone. */
export function* watchFrontends(bus: XenbusBus): Task {
  yield* bus.watches.register({
    node: 'device',
    name: 'frontend_changed',
    callback: (path, token) => frontendChanged(bus, path, token),
  });
}

/** The path does not tell which domain serves the device; once that is known, it is that domain's thread that goes on. */
function* frontendChanged(bus: XenbusBus, path: string, token: string): Task {
  const { kernel, watches } = bus;
  const nodename = path.split('/').slice(0, frontendBusType.levels).join('/');
  if (watches.dispatch.handOn && nodename !== path.slice(0, path.indexOf('/'))) {
    const owner = bus.devices.get(nodename)?.otherendId ?? (yield* bus.scan(nodename, frontendBusType.otherendIdNode));
    if (owner >= 0 && (yield* watches.handOn(owner, path, token))) return;
  }
  // That of its domain may have found the device meanwhile, and is in its probe.
  const elsewhere = (device: XenbusDevice) => watches.handOn(device.otherendId, path, token);
  yield* kernel.call('xenbus_dev_changed', bus.changed(path, elsewhere));
}

/** `xenbus_frontend_closed`. */
export function* frontendClosed(bus: XenbusBus, device: XenbusDevice): Task {
  yield* bus.switchState(device, XenbusState.Closed);
  bus.kernel.sched.wakeAll(device.down);
}

/** `xenbus_dev_shutdown` of every device, the last one first. */
export function* shutDownDevices(bus: XenbusBus): Task {
  const { kernel } = bus;
  for (const device of [...bus.devices.values()].reverse()) {
    if (device.state !== XenbusState.Connected) continue;
    yield* bus.switchState(device, XenbusState.Closing);
    const closed = yield* kernel.sleepOn(device.down, deviceShutdownMs, () => device.state === XenbusState.Closed);
    if (!closed) kernel.printk(`xenbus: xenbus_dev_shutdown: ${device.nodename} timeout closing device`);
  }
}

/** Writes what a frontend offers, in one transaction. */
export function* offer(bus: XenbusBus, device: XenbusDevice, nodes: readonly (readonly [string, string | number])[]): Task {
  const { kernel } = bus;
  yield* kernel.transaction(function* (txId) {
    for (const [name, value] of nodes) yield* kernel.write(`${device.nodename}/${name}`, String(value), txId);
    return true;
  });
}
