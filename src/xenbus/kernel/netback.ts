/**
 * xen-netback: the back end of a vif (drivers/net/xen-netback/xenbus.c and interface.c of Linux 6.1).
 *
 * The frontend's state gives a target, and `nextMove` the way there:
 *
 * ```
 *   Initialising -> InitWait -> Connected -> Closing -> Closed -> InitWait
 * ```
 *
 * Connected is not written before the hotplug script has said `hotplug-status = connected`; until then later states are
 * withheld too. Leaving Connected stops the queues' threads, and the one that frees sent packets stops only when none
 * is in flight: that is where a held packet stalls whichever watch thread is running this (scenario 1 of the RFC).
 */
import type { Faults } from '../fault.js';
import type { Hypervisor } from '../hypervisor.js';
import { XenbusState } from '../xenbus.js';
import { sawState, type XenbusBus, type XenbusDevice, type XenbusDriver } from './bus.js';
import { type KTask, kthreadStop, type Task, type WaitQueue, waitEvent, waitQueue } from './sched.js';
import type { XenbusWatch } from './xenwatch.js';

const { Initialising, InitWait, Connected, Closing, Closed } = XenbusState;

/** What netback offers as soon as it is there, in the order in which it writes it. */
const features: readonly (readonly [string, number])[] = [
  ['feature-sg', 1],
  ['feature-gso-tcpv4', 1],
  ['feature-gso-tcpv6', 1],
  ['feature-ipv6-csum-offload', 1],
  ['feature-rx-copy', 1],
  ['feature-xdp-headroom', 1],
  ['feature-rx-flip', 0],
  ['feature-multicast-control', 1],
  ['feature-dynamic-multicast-control', 1],
];

/** What the frontend may have written for the whole vif, in the order in which it is read. */
const frontendFlags = [
  'feature-rx-notify',
  'feature-sg',
  'feature-gso-tcpv4',
  'feature-gso-tcpv6',
  'feature-no-csum-offload',
  'feature-ipv6-csum-offload',
  'xdp-headroom',
  'ctrl-ring-ref',
];

const queuesMax = 8;

export interface Move {
  /** What must be done before the state is the next one. */
  readonly first?: 'connect' | 'disconnect';
  readonly next: XenbusState;
}

/** The next move of netback from `state` towards `target`; undefined when it is there. */
export function nextMove(state: number, target: number): Move | undefined {
  if (state === target) return undefined;
  switch (state) {
    case Initialising:
      return { next: target === Closed ? Closed : InitWait };
    case InitWait:
      return target === Connected ? { first: 'connect', next: Connected } : { next: Closing };
    case Connected:
      return { first: 'disconnect', next: Closing };
    case Closing:
      return { next: Closed };
    case Closed:
      return { next: target === Closing ? Closing : InitWait };
    default:
      throw new Error(`netback is never in state ${state}`);
  }
}

interface Queue {
  /** Gives its ring pages and event channels back. */
  readonly release: readonly (() => void)[];
  readonly wake: WaitQueue;
  readonly guestRx: KTask;
  readonly dealloc: KTask;
}

interface Vif {
  readonly device: XenbusDevice;
  /** Where it is; the store may lag behind while the hotplug script has not finished. */
  state: number;
  name: string;
  queues: Queue[];
  rateWatch: XenbusWatch | undefined;
  mcastWatch: XenbusWatch | undefined;
  hotplugWatch: XenbusWatch | undefined;
}

export interface NetbackOptions {
  readonly bus: XenbusBus;
  readonly hypervisor: Hypervisor;
  readonly faults: Faults;
  readonly nrCpus: number;
  /** A network device is gone: it leaves its bridge. */
  readonly netdevGone: (name: string) => void;
}

export function netback({ bus, hypervisor, faults, nrCpus, netdevGone }: NetbackOptions): XenbusDriver {
  const { kernel, watches } = bus;
  const maxQueues = Math.min(queuesMax, nrCpus);
  const vifs = new WeakMap<XenbusDevice, Vif>();

  function vifOf(device: XenbusDevice): Vif {
    const vif = vifs.get(device);
    if (!vif) throw new Error(`${device.busId} was never probed by netback`);
    return vif;
  }

  function* probe(device: XenbusDevice): Task {
    const { nodename } = device;
    const vif: Vif = {
      device,
      state: Initialising,
      name: '',
      queues: [],
      rateWatch: undefined,
      mcastWatch: undefined,
      hotplugWatch: undefined,
    };
    vifs.set(device, vif);
    yield* kernel.transaction(function* (txId) {
      for (const [name, value] of features) yield* kernel.write(`${nodename}/${name}`, String(value), txId);
      return true;
    });
    yield* kernel.write(`${nodename}/feature-split-event-channels`, '1');
    yield* kernel.write(`${nodename}/multi-queue-max-queues`, String(maxQueues));
    yield* kernel.write(`${nodename}/feature-ctrl-ring`, '1');
    yield* switchState(vif, InitWait);
    if ((yield* kernel.read(`${nodename}/script`)) === undefined) return yield* bus.fatal(device, 'reading script');
    const handle = yield* bus.readUnsigned(nodename, 'handle', 0);
    vif.name = `vif${device.otherendId}.${handle}`;
  }

  /** `backend_switch_state`: the store hears of it unless the hotplug script is still awaited. */
  function* switchState(vif: Vif, state: number): Task {
    vif.state = state;
    if (!vif.hotplugWatch) yield* bus.switchState(vif.device, state);
  }

  function* setBackendState(vif: Vif, target: number): Task {
    for (let move = nextMove(vif.state, target); move; move = nextMove(vif.state, target)) {
      if (move.first === 'connect') yield* kernel.call('connect [xen_netback]', connect(vif));
      if (move.first === 'disconnect') yield* kernel.call('backend_disconnect [xen_netback]', disconnect(vif));
      yield* switchState(vif, move.next);
    }
  }

  function setting(vif: Vif, target: number): Task {
    return kernel.call('set_backend_state [xen_netback]', setBackendState(vif, target));
  }

  function* connect(vif: Vif): Task {
    const { device } = vif;
    const { nodename, otherend } = device;
    const queues = yield* bus.readUnsigned(otherend, 'multi-queue-num-queues', 1);
    if (queues === 0 || queues > maxQueues) {
      return yield* bus.fatal(device, `guest requested ${queues} queues, exceeding the maximum of ${maxQueues}.`);
    }
    yield* kernel.read(`${nodename}/mac`);
    yield* kernel.read(`${nodename}/rate`);
    yield* unregisterRateWatches(vif);
    const domidOf = () => device.otherendId;
    vif.rateWatch = yield* watches.register({
      node: `${nodename}/rate`,
      name: 'xen_net_rate_changed [xen_netback]',
      domidOf,
      callback: () => readOnly(`${nodename}/rate`),
    });
    const mcast = `${otherend}/request-multicast-control`;
    vif.mcastWatch = yield* watches.register({
      node: mcast,
      name: 'xen_mcast_ctrl_changed [xen_netback]',
      domidOf,
      guestWritable: true,
      callback: () => readOnly(mcast),
    });
    if ((yield* bus.readUnsigned(otherend, 'request-rx-copy', 0)) !== 1)
      return yield* bus.fatal(device, 'reading request-rx-copy');
    for (const flag of frontendFlags) yield* kernel.read(`${otherend}/${flag}`);
    for (let index = 0; index < queues; index++) {
      const queue = yield* connectQueue(vif, queues === 1 ? otherend : `${otherend}/queue-${index}`, index);
      if (!queue) {
        yield* kernel.call('xenvif_disconnect_data [xen_netback]', disconnectData(vif));
        return yield* bus.fatal(device, `mapping shared-frames of queue ${index}`);
      }
      vif.queues.push(queue);
    }
    kernel.printk(`vif ${device.busId} ${vif.name}: Guest Rx ready`);
    yield* unregisterHotplugWatch(vif);
    vif.hotplugWatch = yield* watches.register({
      node: `${nodename}/hotplug-status`,
      name: 'hotplug_status_changed [xen_netback]',
      domidOf,
      callback: () => hotplugStatusChanged(vif),
    });
  }

  function* readOnly(path: string): Task {
    yield* kernel.read(path);
  }

  function* connectQueue(vif: Vif, dir: string, index: number): Task<Queue | undefined> {
    const { otherendId } = vif.device;
    const refs = [yield* bus.readUnsigned(dir, 'tx-ring-ref', -1), yield* bus.readUnsigned(dir, 'rx-ring-ref', -1)];
    const split = [yield* bus.readUnsigned(dir, 'event-channel-tx', -1), yield* bus.readUnsigned(dir, 'event-channel-rx', -1)];
    const ports = split.includes(-1) ? [yield* bus.readUnsigned(dir, 'event-channel', -1)] : split;
    if (refs.includes(-1)) return undefined;
    const taken = [
      ...ports.map((port) => hypervisor.evtchnBind(0, otherendId, port)),
      ...refs.map(() => hypervisor.grantMap(otherendId)),
    ];
    if (!taken.every((one) => one !== undefined)) {
      for (const release of taken) release?.();
      return undefined;
    }
    const wake = waitQueue(`queue ${index} of ${vif.name}`);
    return {
      release: taken,
      wake,
      guestRx: kernel.spawn(`${vif.name}-q${index}-guest-rx`, 'xenvif_kthread_guest_rx [xen_netback]', (self) =>
        waitEvent(wake, () => self.shouldStop),
      ),
      dealloc: kernel.spawn(`${vif.name}-q${index}-dealloc`, 'xenvif_dealloc_kthread [xen_netback]', (self) =>
        deallocThread(self, vif.device, wake),
      ),
    };
  }

  /** Frees the pages of sent packets. Asked to stop, it goes only when no packet is in flight. */
  function* deallocThread(self: KTask, device: XenbusDevice, wake: WaitQueue): Task {
    yield* waitEvent(wake, () => self.shouldStop);
    yield* faults.wait(device.busId, 'inflight', 'S');
  }

  function* disconnect(vif: Vif): Task {
    yield* unregisterRateWatches(vif);
    yield* kernel.call('xenvif_disconnect_data [xen_netback]', disconnectData(vif));
  }

  function* disconnectData(vif: Vif): Task {
    for (const queue of vif.queues) yield* kernel.call('xenvif_disconnect_queue [xen_netback]', disconnectQueue(queue));
    vif.queues = [];
  }

  function* disconnectQueue(queue: Queue): Task {
    yield* kthreadStop(kernel.sched, kernel.self, queue.guestRx);
    yield* kthreadStop(kernel.sched, kernel.self, queue.dealloc);
    for (const release of queue.release) release();
  }

  function* unregisterRateWatches(vif: Vif): Task {
    const { mcastWatch, rateWatch } = vif;
    vif.mcastWatch = undefined;
    vif.rateWatch = undefined;
    if (mcastWatch) yield* watches.unregister(mcastWatch);
    if (rateWatch) yield* watches.unregister(rateWatch);
  }

  function* unregisterHotplugWatch(vif: Vif): Task {
    const { hotplugWatch } = vif;
    vif.hotplugWatch = undefined;
    if (hotplugWatch) yield* watches.unregister(hotplugWatch);
  }

  /** The script is done: now the store may hear of the state. */
  function* hotplugStatusChanged(vif: Vif): Task {
    if ((yield* kernel.read(`${vif.device.nodename}/hotplug-status`)) !== 'connected' || !vif.hotplugWatch) return;
    yield* bus.switchState(vif.device, vif.state);
    yield* unregisterHotplugWatch(vif);
  }

  function* otherendChanged(device: XenbusDevice, state: number): Task {
    const vif = vifOf(device);
    switch (state) {
      case Initialising:
        return yield* setting(vif, InitWait);
      case XenbusState.Initialised:
        return;
      case Connected:
        return yield* setting(vif, Connected);
      case XenbusState.Reconfiguring:
        yield* kernel.read(`${device.otherend}/xdp-headroom`);
        return yield* bus.switchState(device, XenbusState.Reconfigured);
      case Closing:
        return yield* setting(vif, Closing);
      case Closed:
        yield* setting(vif, Closed);
        if ((yield* bus.readUnsigned(device.nodename, 'online', 0)) === 1) return;
        return yield* bus.unregister(device);
      case XenbusState.Unknown:
        yield* setting(vif, Closed);
        return yield* bus.unregister(device);
      default:
        yield* bus.fatal(device, sawState(state));
    }
  }

  function* remove(device: XenbusDevice): Task {
    const vif = vifOf(device);
    yield* unregisterHotplugWatch(vif);
    yield* kernel.rm(`${device.nodename}/hotplug-status`);
    if (vif.queues.length > 0) yield* kernel.call('backend_disconnect [xen_netback]', disconnect(vif));
    else yield* unregisterRateWatches(vif);
    netdevGone(vif.name);
  }

  return {
    type: 'vif',
    names: {
      probe: 'netback_probe [xen_netback]',
      otherendChanged: 'frontend_changed [xen_netback]',
      remove: 'netback_remove [xen_netback]',
    },
    probe,
    otherendChanged,
    remove,
  };
}
