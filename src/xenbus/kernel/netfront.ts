/**
 * xen-netfront: the front end of a vif (drivers/net/xen-netfront.c of Linux 6.1).
 *
 * It goes from 1 to 4 when its back end is in 2, and to 6 when that is in 5 or 6. Taken off its bus it closes by
 * itself: it waits for the back end, in whichever thread removes it. Where that thread would also have to bring it the
 * news (dom0's own vif, with one watch thread) it can only look again each time the wait times out, until the toolstack
 * has removed the back end.
 */
import { XenbusState } from '../xenbus.js';
import type { XenbusBus, XenbusDevice, XenbusDriver } from './bus.js';
import { type FrontendResources, frontendClosed, offer } from './frontend-bus.js';
import { type Task, waitEvent, waitQueue } from './sched.js';

const { Unknown, Initialising, InitWait, Connected, Closing, Closed } = XenbusState;

/** MAX_QUEUES_DEFAULT. */
const queuesMax = 8;
/** XENNET_TIMEOUT. */
const backendWaitMs = 5_000;

const features = [
  'request-rx-copy',
  'feature-rx-notify',
  'feature-sg',
  'feature-gso-tcpv4',
  'feature-gso-tcpv6',
  'feature-ipv6-csum-offload',
];

export function netfront(bus: XenbusBus, resources: FrontendResources): XenbusDriver {
  const { kernel } = bus;
  const ports = new WeakMap<XenbusDevice, number[]>();
  /** `module_wq`: woken at each change of any back end. */
  const changed = waitQueue('module_wq');
  let changes = 0;

  /** Waits until the back end's state is as wanted; false when it was not in time. */
  function* backendIs(device: XenbusDevice, wanted: (state: number) => boolean): Task<boolean> {
    let expired = false;
    const cancel = kernel.clock.after(backendWaitMs, () => {
      expired = true;
      kernel.sched.wakeAll(changed);
    });
    try {
      for (;;) {
        const seen = changes;
        if (wanted(yield* kernel.readState(device.otherend))) return true;
        if (expired) return false;
        yield* waitEvent(changed, () => expired || changes !== seen, 'D');
      }
    } finally {
      cancel();
    }
  }

  /** Goes to `state`, again and again, until the back end has followed. */
  function* insist(device: XenbusDevice, state: number, wanted: (state: number) => boolean): Task {
    do yield* bus.switchState(device, state);
    while (!(yield* backendIs(device, wanted)));
  }

  function* probe(device: XenbusDevice): Task<number> {
    ports.set(device, []);
    yield* insist(device, Initialising, (state) => state !== Closed && state !== Unknown);
    return 0;
  }

  function* connect(device: XenbusDevice): Task {
    const { nodename, otherend } = device;
    const backend = (name: string, otherwise: number) => bus.readUnsigned(otherend, name, otherwise);
    if ((yield* backend('feature-rx-copy', 0)) !== 1) {
      return kernel.printk(`vif ${device.busId}: backend does not support copying receive path`);
    }
    yield* kernel.read(`${nodename}/trusted`);
    const offered = yield* backend('multi-queue-max-queues', 1);
    const split = (yield* backend('feature-split-event-channels', 0)) === 1;
    yield* kernel.read(`${nodename}/mac`);
    if ((yield* backend('feature-xdp-headroom', 0)) === 1) {
      kernel.printk('xen_netfront: backend supports XDP headroom');
      yield* kernel.write(`${nodename}/xdp-headroom`, '0');
    }
    const multiQueue = yield* kernel.exists(`${otherend}/multi-queue-max-queues`);
    const queues = Math.max(1, Math.min(offered, queuesMax, resources.vcpus));
    freeRings(device);
    const nodes: [string, string | number][] = multiQueue ? [['multi-queue-num-queues', queues]] : [];
    for (let queue = 0; queue < queues; queue++) {
      const dir = queues > 1 ? `queue-${queue}/` : '';
      const channels = split ? ['event-channel-tx', 'event-channel-rx'] : ['event-channel'];
      for (const ring of ['tx-ring-ref', 'rx-ring-ref']) nodes.push([`${dir}${ring}`, resources.grantRef()]);
      for (const channel of channels) nodes.push([`${dir}${channel}`, port(device)]);
    }
    bus.keep(device);
    nodes.push(...features.map((name): [string, number] => [name, 1]));
    yield* offer(bus, device, nodes);
    yield* bus.switchState(device, Connected);
  }

  function port(device: XenbusDevice): number {
    const taken = resources.port(device.otherendId);
    ports.get(device)?.push(taken);
    return taken;
  }

  function freeRings(device: XenbusDevice): void {
    for (const taken of ports.get(device)?.splice(0) ?? []) resources.closePort(taken);
  }

  function* otherendChanged(device: XenbusDevice, state: number): Task {
    changes += 1;
    kernel.sched.wakeAll(changed);
    if (state === InitWait && device.state === Initialising) {
      yield* kernel.call('xennet_connect [xen_netfront]', connect(device));
    }
    if ((state === Closing || state === Closed) && device.state !== Closed) yield* frontendClosed(bus, device);
  }

  /** `xennet_bus_close`: first Closing, then Closed, the back end after it each time. */
  function* busClose(device: XenbusDevice): Task {
    const gone = (state: number) => state === Closed || state === Unknown;
    if ((yield* kernel.readState(device.otherend)) === Closed) return;
    yield* insist(device, Closing, (state) => state === Closing || gone(state));
    if ((yield* kernel.readState(device.otherend)) === Closed) return;
    yield* insist(device, Closed, gone);
  }

  return {
    type: 'vif',
    names: {
      probe: 'netfront_probe [xen_netfront]',
      otherendChanged: 'netback_changed [xen_netfront]',
      remove: 'xennet_remove [xen_netfront]',
    },
    allowRebind: false,
    probe,
    otherendChanged,
    // biome-ignore lint/correctness/useYield: nothing has to be waited for.
    *resume(device) {
      ports.set(device, []);
    },
    *remove(device) {
      yield* kernel.call('xennet_bus_close [xen_netfront]', busClose(device));
      freeRings(device);
      bus.keep(device);
    },
    kept: (device) => [...(ports.get(device) ?? [])],
    recover: (device, kept) => void ports.set(device, [...((kept as readonly number[] | undefined) ?? [])]),
  };
}
