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
import type { Grants } from '../hypervisor.js';
import { strstate, XenbusState } from '../xenbus.js';
import { errno, type XenbusBus, type XenbusDevice, type XenbusDriver } from './bus.js';
import type { NetDevices } from './netdev.js';
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

/** What the frontend may have written for the whole vif, besides `xdp-headroom`, in the order in which it is read. */
const frontendFlags = [
  'feature-rx-notify',
  'feature-sg',
  'feature-gso-tcpv4',
  'feature-gso-tcpv6',
  'feature-no-csum-offload',
  'feature-ipv6-csum-offload',
];

/** Module parameter max_queues is the number of processors, and no more than this (MAX_QUEUES_DEFAULT). */
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
  /** Its event channels. */
  readonly ports: readonly number[];
  /** Gives its ring pages and event channels back. */
  readonly release: readonly (() => void)[];
  readonly wake: WaitQueue;
  /** Its threads, until they have been stopped. */
  tasks: KTask[];
}

interface Vif {
  readonly device: XenbusDevice;
  /** Where it is; the store may lag behind while the hotplug script has not finished. */
  state: number;
  script: string | undefined;
  /** The network device, once there is one. */
  name: string | undefined;
  queues: Queue[];
  /** Queues whose receiving side is not ready; the device has a carrier when there is none. */
  stalledQueues: number;
  /** Gives the control ring back. */
  ctrl: readonly (() => void)[];
  /** Its event channel, while the ring is there. */
  ctrlPort: number | undefined;
  rateWatch: XenbusWatch | undefined;
  mcastWatch: XenbusWatch | undefined;
  hotplugWatch: XenbusWatch | undefined;
}

/** What is kept of a vif: of one that is connecting or disconnecting, from where it began to. */
type VifKept = {
  readonly state: number;
  readonly script: string | null;
  readonly name: string | null;
  /** The event channels of each queue. */
  readonly queues: readonly (readonly number[])[];
  readonly stalledQueues: number;
  readonly ctrlPort: number | null;
  readonly rateWatch: boolean;
  readonly mcastWatch: boolean;
  readonly hotplugWatch: boolean;
};

/** Pages of a queue, and of a control ring. */
const queuePages = 2;
const ctrlPages = 1;

export interface NetbackOptions {
  readonly bus: XenbusBus;
  readonly hypervisor: Grants;
  readonly netdevs: NetDevices;
  readonly faults: Faults;
  readonly nrCpus: number;
}

export function netback({ bus, hypervisor, netdevs, faults, nrCpus }: NetbackOptions): XenbusDriver {
  const { kernel, watches } = bus;
  const { hardened } = watches.dispatch;
  const maxQueues = Math.min(queuesMax, nrCpus);
  const vifs = new WeakMap<XenbusDevice, Vif>();

  function vifOf(device: XenbusDevice): Vif {
    const vif = vifs.get(device);
    if (!vif) throw new Error(`${device.busId} was never probed by netback`);
    return vif;
  }

  const debug = (where: string, text: string) => kernel.debug('xen_netback', `xen_netback:${where}: ${text}`);
  const netdevLine = ({ device, name }: Vif, text: string) => `vif ${device.busId} ${name}: ${text}`;

  function* probe(device: XenbusDevice): Task<number> {
    const { nodename } = device;
    const vif = newVif(device);
    // Only in a next life was it in this probe before.
    vif.name = vifs.get(device)?.name;
    vifs.set(device, vif);
    yield* kernel.transaction(function* (txId) {
      for (const [name, value] of features) yield* kernel.write(`${nodename}/${name}`, String(value), txId);
      return true;
    });
    yield* kernel.write(`${nodename}/feature-split-event-channels`, '1');
    yield* kernel.write(`${nodename}/multi-queue-max-queues`, String(maxQueues));
    yield* kernel.write(`${nodename}/feature-ctrl-ring`, '1');
    // From InitWait on, the hotplug script may ask for the network device.
    netdevs.coming(netdevOf(device));
    yield* switchState(vif, InitWait);
    vif.script = yield* kernel.read(`${nodename}/script`);
    const failed = vif.script === undefined ? yield* refuse(vif, errno.ENOENT, 'reading script') : yield* createVif(vif);
    netdevs.settled(netdevOf(device));
    if (failed !== 0) {
      debug('netback_probe', 'failed');
      yield* remove(device);
    }
    return failed;
  }

  /** `backend_create_xenvif`: the network device, of which user space hears at once. */
  function* createVif(vif: Vif): Task<number> {
    const { device } = vif;
    const handle = yield* bus.scan(device.nodename, 'handle');
    if (handle < 0) return yield* refuse(vif, -handle, 'reading handle');
    const name = `vif${device.otherendId}.${handle}`;
    if (vif.name !== name && !(yield* netdevs.register(name))) {
      kernel.printk(`vif ${device.busId} ${name}: Could not register device: err=-${errno.EEXIST}`);
      return yield* refuse(vif, errno.EEXIST, 'creating interface');
    }
    vif.name = name;
    bus.keep(device);
    kernel.debug('xen_netback', netdevLine(vif, 'Successfully created xenvif'));
    bus.uevent(device, 'online');
    return 0;
  }

  function* refuse({ device }: Vif, code: number, message: string): Task<number> {
    yield* bus.fatal(device, code, message);
    return code;
  }

  /** `backend_switch_state`: the store hears of it unless the hotplug script is still awaited. */
  function* switchState(vif: Vif, state: number): Task {
    debug('backend_switch_state', `${vif.device.nodename} -> ${strstate(state)}`);
    vif.state = state;
    bus.keep(vif.device);
    if (!vif.hotplugWatch) yield* bus.switchState(vif.device, state);
  }

  function* setBackendState(vif: Vif, target: number): Task {
    for (let move = nextMove(vif.state, target); move; move = nextMove(vif.state, target)) {
      // Whether connecting went well or not, the state is Connected then: an error is 5 in the store, and then 4.
      if (move.first === 'connect') yield* kernel.call('connect [xen_netback]', connect(vif));
      if (move.first === 'disconnect') yield* kernel.call('backend_disconnect [xen_netback]', disconnect(vif));
      yield* switchState(vif, move.next);
    }
  }

  function setting(vif: Vif, target: number): Task {
    return kernel.call('set_backend_state [xen_netback]', setBackendState(vif, target));
  }

  function* connect(vif: Vif): Task {
    const { device, name } = vif;
    const { nodename, otherend } = device;
    if (name === undefined) return;
    const queues = yield* bus.readUnsigned(otherend, 'multi-queue-num-queues', 1);
    if (queues > maxQueues) {
      const exceeding = `guest requested ${queues} queues, exceeding the maximum of ${maxQueues}.`;
      return yield* bus.fatal(device, errno.EINVAL, exceeding);
    }
    const mac = yield* kernel.read(`${nodename}/mac`);
    if (!/^([0-9a-f]{1,2}:){5}[0-9a-f]{1,2}$/i.test(mac ?? '')) {
      return yield* bus.fatal(device, errno.ENOENT, `parsing ${nodename}/mac`);
    }
    yield* readRate(vif);
    yield* unregisterRateWatches(vif);
    vif.rateWatch = yield* watchRate(vif);
    vif.mcastWatch = yield* watchMulticast(device);
    yield* readFlags(otherend);
    const failed = yield* connectCtrlRing(vif);
    if (failed !== 0) return yield* bus.fatal(device, failed, 'connecting control ring');
    if (queues === 0) return yield* bus.fatal(device, errno.ENOMEM, 'allocating queues');
    vif.stalledQueues = queues;
    for (let index = 0; index < queues; index++) {
      const queue = yield* connectQueue(vif, name, queues === 1 ? otherend : `${otherend}/queue-${index}`, index);
      if (!queue) {
        if (vif.queues.length > 0) yield* kernel.call('xenvif_disconnect_data [xen_netback]', disconnectData(vif));
        return disconnectCtrl(vif);
      }
      vif.queues.push(queue);
    }
    yield* netdevs.locked(() => {});
    yield* kernel.call(
      'xenvif_carrier_on [xen_netback]',
      netdevs.locked(() => {}),
    );
    yield* unregisterHotplugWatch(vif);
    vif.hotplugWatch = yield* watchHotplug(vif);
  }

  function watchRate(vif: Vif): Task<XenbusWatch> {
    const { device } = vif;
    return watches.register({
      node: `${device.nodename}/rate`,
      name: 'xen_net_rate_changed [xen_netback]',
      domidOf: () => device.otherendId,
      callback: () => readRate(vif),
    });
  }

  function watchMulticast(device: XenbusDevice): Task<XenbusWatch> {
    const node = `${device.otherend}/request-multicast-control`;
    return watches.register({
      node,
      name: 'xen_mcast_ctrl_changed [xen_netback]',
      domidOf: () => device.otherendId,
      // Linux forgot this one of the nodes that a guest can write (XSA-349).
      guestWritable: hardened && !kernel.defects.has('multicast-unlimited'),
      callback: () => readOnly(node),
    });
  }

  function watchHotplug(vif: Vif): Task<XenbusWatch> {
    const { device } = vif;
    return watches.register({
      node: `${device.nodename}/hotplug-status`,
      name: 'hotplug_status_changed [xen_netback]',
      domidOf: () => device.otherendId,
      callback: () => hotplugStatusChanged(vif),
    });
  }

  function* readOnly(path: string): Task {
    yield* kernel.read(path);
  }

  /** `BYTES,MICROSECONDS`; no traffic is shaped. */
  function* readRate({ device }: Vif): Task {
    const rate = yield* kernel.read(`${device.nodename}/rate`);
    if (rate === undefined || /^\d+,\d+$/.test(rate)) return;
    kernel.printk('xen_netback:xen_net_read_rate: Failed to parse network rate limit. Traffic unlimited.');
  }

  /** Reads what the frontend can do. One that does not ask for copies is asked nothing else, and connects all the same. */
  function* readFlags(otherend: string): Task {
    if ((yield* bus.readUnsigned(otherend, 'request-rx-copy', 0)) === 0) return;
    for (const flag of [...frontendFlags, 'xdp-headroom']) yield* kernel.read(`${otherend}/${flag}`);
  }

  /** The control ring, if the frontend has one. Answers 0, or the errno of what it has told. */
  function* connectCtrlRing(vif: Vif): Task<number> {
    const { otherend, otherendId } = vif.device;
    const ref = yield* bus.scan(otherend, 'ctrl-ring-ref');
    if (ref < 0) return 0;
    const port = yield* bus.scan(otherend, 'event-channel-ctrl');
    if (port < 0) return yield* refuse(vif, -port, `reading ${otherend}/event-channel-ctrl`);
    const taken = take(parts(otherendId, ctrlPages, [port]));
    if (!taken) return yield* refuse(vif, errno.EINVAL, `mapping shared-frame ${ref} port ${port}`);
    vif.ctrl = taken;
    vif.ctrlPort = port;
    return 0;
  }

  function disconnectCtrl(vif: Vif): void {
    for (const release of vif.ctrl) release();
    vif.ctrl = [];
    vif.ctrlPort = undefined;
  }

  /** What a ring is made of. */
  function parts(domid: number, pages: number, ports: readonly number[]): (() => (() => void) | undefined)[] {
    return [
      ...Array.from({ length: pages }, () => () => hypervisor.grantMap(domid)),
      ...ports.map((port) => () => hypervisor.evtchnBind(kernel.domid, domid, port)),
    ];
  }

  function* connectQueue(vif: Vif, name: string, dir: string, index: number): Task<Queue | undefined> {
    const { device } = vif;
    const { otherendId } = device;
    const tx = yield* bus.scan(dir, 'tx-ring-ref');
    const rx = tx < 0 ? tx : yield* bus.scan(dir, 'rx-ring-ref');
    if (rx < 0) return yield* refused(vif, -rx, `reading ${dir}/ring-ref`);
    let txPort = yield* bus.scan(dir, 'event-channel-tx');
    let rxPort = txPort < 0 ? txPort : yield* bus.scan(dir, 'event-channel-rx');
    if (rxPort < 0) txPort = rxPort = yield* bus.scan(dir, 'event-channel');
    if (rxPort < 0) return yield* refused(vif, -rxPort, `reading ${dir}/event-channel(-tx/rx)`);
    const ports = [...new Set([txPort, rxPort])];
    const release = take(parts(otherendId, queuePages, ports));
    if (!release) {
      return yield* refused(vif, errno.EINVAL, `mapping shared-frames ${tx}/${rx} port tx ${txPort} rx ${rxPort}`);
    }
    return startQueue(vif, name, index, ports, release);
  }

  function startQueue(vif: Vif, name: string, index: number, ports: readonly number[], release: Queue['release']): Queue {
    const wake = waitQueue(`queue ${index} of ${name}`);
    const tasks = [
      kernel.spawn(`${name}-q${index}-guest-rx`, 'xenvif_kthread_guest_rx [xen_netback]', (self) =>
        guestRxThread(self, vif, name, wake),
      ),
      kernel.spawn(`${name}-q${index}-dealloc`, 'xenvif_dealloc_kthread [xen_netback]', (self) =>
        deallocThread(self, vif.device, wake),
      ),
    ];
    return { ports, release, wake, tasks };
  }

  function* refused(vif: Vif, code: number, message: string): Task<undefined> {
    yield* refuse(vif, code, message);
    return undefined;
  }

  /** Gives packets to the guest, which has room for them; the device has a carrier when all its queues have this. */
  function* guestRxThread(self: KTask, vif: Vif, name: string, wake: WaitQueue): Task {
    // In a next life the receiving side may have been ready before.
    if (vif.stalledQueues > 0) {
      vif.stalledQueues -= 1;
      if (vif.stalledQueues === 0) {
        kernel.printk(netdevLine(vif, 'Guest Rx ready'));
        netdevs.carrier(name, true);
      }
      bus.keep(vif.device);
    }
    yield* waitEvent(wake, () => self.shouldStop);
  }

  /** Frees the pages of sent packets. Asked to stop, it goes only when no packet is in flight. */
  function* deallocThread(self: KTask, device: XenbusDevice, wake: WaitQueue): Task {
    yield* waitEvent(wake, () => self.shouldStop);
    yield* faults.wait(device.busId, 'inflight', 'S');
  }

  function* disconnect(vif: Vif): Task {
    if (vif.name === undefined) return;
    yield* unregisterRateWatches(vif);
    yield* kernel.call('xenvif_disconnect_data [xen_netback]', disconnectData(vif));
    disconnectCtrl(vif);
  }

  function* disconnectData(vif: Vif): Task {
    yield* kernel.call(
      'xenvif_carrier_off [xen_netback]',
      netdevs.locked(() => {
        if (vif.name !== undefined) netdevs.carrier(vif.name, false);
      }),
    );
    const stopping = disconnectQueues(vif);
    yield* kernel.defects.has('rtnl-over-stop') ? netdevs.over(stopping) : stopping;
  }

  function* disconnectQueues(vif: Vif): Task {
    for (const queue of vif.queues) yield* kernel.call('xenvif_disconnect_queue [xen_netback]', disconnectQueue(queue));
    vif.queues = [];
  }

  function* disconnectQueue(queue: Queue): Task {
    for (const task of queue.tasks) yield* kthreadStop(kernel.sched, kernel.self, task);
    queue.tasks = [];
    for (const release of queue.release) release();
  }

  function* unregisterRateWatches(vif: Vif): Task {
    if (vif.mcastWatch) yield* watches.unregister(vif.mcastWatch);
    vif.mcastWatch = undefined;
    if (vif.rateWatch) yield* watches.unregister(vif.rateWatch);
    vif.rateWatch = undefined;
  }

  function* unregisterHotplugWatch(vif: Vif): Task {
    if (vif.hotplugWatch) yield* watches.unregister(vif.hotplugWatch);
    vif.hotplugWatch = undefined;
    bus.keep(vif.device);
  }

  /** The script is done: now the store may hear of the state. */
  function* hotplugStatusChanged(vif: Vif): Task {
    if ((yield* kernel.read(`${vif.device.nodename}/hotplug-status`)) !== 'connected') return;
    yield* bus.switchState(vif.device, vif.state);
    yield* unregisterHotplugWatch(vif);
  }

  function* otherendChanged(device: XenbusDevice, state: number): Task {
    const vif = vifOf(device);
    debug('frontend_changed', `${device.otherend} -> ${strstate(state)}`);
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
        if ((yield* bus.readUnsigned(device.nodename, 'online', 0)) !== 0) return;
        return yield* bus.unregister(device);
      case XenbusState.Unknown:
        yield* setting(vif, Closed);
        return yield* bus.unregister(device);
      default:
        yield* bus.fatal(device, errno.EINVAL, `saw state ${state} at frontend`);
    }
  }

  function* remove(device: XenbusDevice): Task {
    const vif = vifOf(device);
    netdevs.settled(netdevOf(device));
    yield* unregisterHotplugWatch(vif);
    yield* kernel.rm(`${device.nodename}/hotplug-status`);
    const { name } = vif;
    if (name === undefined) return;
    bus.uevent(device, 'offline');
    yield* kernel.call('backend_disconnect [xen_netback]', disconnect(vif));
    yield* kernel.call('unregister_netdev', netdevs.unregister(name));
    vif.name = undefined;
    bus.keep(device);
  }

  function keptOf({ state, script, name, queues, stalledQueues, ctrlPort, ...vif }: Vif): VifKept {
    const isConnected = state === Connected;
    return {
      state,
      script: script ?? null,
      name: name ?? null,
      queues: isConnected ? queues.map(({ ports }) => ports) : [],
      stalledQueues: isConnected ? stalledQueues : 0,
      ctrlPort: isConnected ? (ctrlPort ?? null) : null,
      rateWatch: isConnected && vif.rateWatch !== undefined,
      mcastWatch: isConnected && vif.mcastWatch !== undefined,
      hotplugWatch: vif.hotplugWatch !== undefined,
    };
  }

  /** What it was to have of its last life besides what was taken again at once. */
  const rewatched = new WeakMap<XenbusDevice, VifKept>();

  /** Takes again what a vif of the last life held, as far as it is still there: its rings, with their threads. */
  function recover(device: XenbusDevice, kept: VifKept | undefined): void {
    const vif = newVif(device);
    vifs.set(device, vif);
    if (device.phase === 'probing') netdevs.coming(netdevOf(device));
    if (!kept) return;
    rewatched.set(device, kept);
    const { state, script, name, queues, stalledQueues, ctrlPort } = kept;
    const again = (pages: number, ports: readonly number[]) =>
      parts(device.otherendId, pages, ports).flatMap((part) => part() ?? []);
    vif.state = state;
    vif.script = script ?? undefined;
    vif.name = name ?? undefined;
    if (ctrlPort !== null) [vif.ctrl, vif.ctrlPort] = [again(ctrlPages, [ctrlPort]), ctrlPort];
    if (name === null) return;
    vif.stalledQueues = stalledQueues > 0 ? queues.length : 0;
    vif.queues = queues.map((ports, index) => startQueue(vif, name, index, ports, again(queuePages, ports)));
  }

  function* rewatch(device: XenbusDevice): Task {
    const vif = vifOf(device);
    const kept = rewatched.get(device);
    if (kept?.rateWatch) vif.rateWatch = yield* watchRate(vif);
    if (kept?.mcastWatch) vif.mcastWatch = yield* watchMulticast(device);
    if (kept?.hotplugWatch) vif.hotplugWatch = yield* watchHotplug(vif);
  }

  return {
    type: 'vif',
    names: {
      probe: 'netback_probe [xen_netback]',
      otherendChanged: 'frontend_changed [xen_netback]',
      remove: 'netback_remove [xen_netback]',
    },
    allowRebind: true,
    probe,
    otherendChanged,
    remove,
    uevent: (device) => {
      const vif = vifs.get(device);
      if (vif?.script === undefined) return {};
      return { script: vif.script, ...(vif.name === undefined ? {} : { vif: vif.name }) };
    },
    kept: (device) => {
      const vif = vifs.get(device);
      return vif && keptOf(vif);
    },
    recover: (device, kept) => recover(device, kept as VifKept | undefined),
    rewatch,
  };
}

/** What libxl and its scripts take the network device to be called. */
function netdevOf({ nodename, otherendId }: XenbusDevice): string {
  return `vif${otherendId}.${nodename.slice(nodename.lastIndexOf('/') + 1)}`;
}

function newVif(device: XenbusDevice): Vif {
  return {
    device,
    state: Initialising,
    script: undefined,
    name: undefined,
    queues: [],
    stalledQueues: 0,
    ctrl: [],
    ctrlPort: undefined,
    rateWatch: undefined,
    mcastWatch: undefined,
    hotplugWatch: undefined,
  };
}

/** Takes everything that is listed, or nothing. */
function take(what: readonly (() => (() => void) | undefined)[]): readonly (() => void)[] | undefined {
  const taken: (() => void)[] = [];
  for (const one of what) {
    const release = one();
    if (release) taken.push(release);
    else {
      for (const undo of taken) undo();
      return undefined;
    }
  }
  return taken;
}
