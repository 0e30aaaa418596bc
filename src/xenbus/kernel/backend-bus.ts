/**
 * dom0's backend bus: finds devices below `backend/` by one recursive watch (drivers/xen/xenbus/xenbus_probe_backend.c).
 *
 * Every write below `/local/domain/0/backend`, by whomever, is one event here: a domain with a disk and a vif makes
 * some seventy of them while it comes up.
 */
import { parseDomid } from '../paths.js';
import { type BusType, XenbusBus } from './bus.js';
import type { Kernel } from './kernel.js';
import { beGetDomid } from './rfc.js';
import type { Task } from './sched.js';
import type { Watches } from './xenwatch.js';

const backendBusType: BusType = {
  root: 'backend',
  subsystem: 'xen-backend',
  levels: 4,
  otherendIdNode: 'frontend-id',
  otherendNode: 'frontend',
  otherendChangedName: 'frontend_changed',
  ueventDebug: '(xenbus_uevent_backend:102) ',
  *busId({ kernel, watches }, nodename): Task<string | undefined> {
    const frontendId = yield* kernel.read(`${nodename}/frontend-id`);
    const frontend = yield* kernel.read(`${nodename}/frontend`);
    const [, type, domid, devid] = nodename.split('/');
    const domidRead = scanInteger(frontendId);
    if (domidRead === undefined) return undefined;
    if (watches.dispatch.hardened && (frontendId !== domid || parseDomid(domid) === undefined)) {
      // Its watches would belong to two domains, and its callbacks to two threads: 009 is no domain in a path.
      kernel.printk(`xenbus: ${nodename}: frontend-id ${frontendId} is not the domain of the path`);
      return undefined;
    }
    if (!frontend || !(yield* kernel.exists(frontend))) return undefined;
    return `${type}-${domidRead}-${devid}`;
  },
};

/** What `%i` of scanf makes of a text: `010` is 8, `0x10` is 16. */
function scanInteger(text: string | undefined): number | undefined {
  const match = /^\s*(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9]\d*))/.exec(text ?? '');
  if (!match) return undefined;
  if (match[1] !== undefined) return Number.parseInt(match[1], 16);
  return match[2] !== undefined ? Number.parseInt(match[2], 8) : Number(match[3]);
}

/** The domain that a path below `backend` is about: `backend/<type>/<domid>/...`; 0 for anything shorter. */
export function backendDomid(path: string): number {
  return parseDomid(path.split('/')[2]) ?? 0;
}

export function backendBus(kernel: Kernel, watches: Watches): XenbusBus {
  return new XenbusBus(kernel, watches, backendBusType);
}

/** `backend_probe_and_watch`: what is there already, then `be_watch`. */
export function* probeAndWatch(bus: XenbusBus): Task {
  yield* bus.probeDevices();
  yield* watchBackends(bus);
}

/** `be_watch` alone. */
export function* watchBackends(bus: XenbusBus): Task {
  yield* bus.watches.register({
    node: 'backend',
    name: 'backend_changed',
    domidOf: backendDomid,
    getDomid: beGetDomid,
    callback: (path) => backendChanged(bus, path),
  });
}

function* backendChanged(bus: XenbusBus, path: string): Task {
  bus.kernel.debug('xenbus', 'xenbus: (backend_changed:215) ');
  yield* bus.kernel.call('xenbus_dev_changed', bus.changed(path));
}
