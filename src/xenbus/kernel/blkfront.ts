/**
 * xen-blkfront: the front end of a vbd (drivers/block/xen-blkfront.c of Linux 6.1).
 *
 * | backend | frontend | what happens |
 * |---|---|---|
 * | 2 | 1 | offers its rings: 3 |
 * | 4 | 3 | takes up the disk: 4, and looks for partitions, which may hang |
 * | 4 | 4 | looks how big the disk is now |
 * | 4 | other | offers its rings, then takes up the disk |
 * | 5, 6 | not 6 | 6 |
 */
import { XenbusState } from '../xenbus.js';
import type { XenbusBus, XenbusDevice, XenbusDriver } from './bus.js';
import { type FrontendResources, frontendClosed, offer } from './frontend-bus.js';
import { type Task, waitEvent, waitQueue } from './sched.js';

const { Initialising, InitWait, Initialised, Connected, Closing, Closed } = XenbusState;

/** Module parameter max_queues. */
const queuesMax = 4;

/** What is read of a connected back end. */
const backendFeatures = [
  'sector-size',
  'physical-sector-size',
  'feature-barrier',
  'feature-flush-cache',
  'feature-discard',
  'discard-granularity',
  'discard-alignment',
  'discard-secure',
  'feature-persistent',
  'feature-max-indirect-segments',
];

type BlkfrontInfo = {
  /** The event channel of each ring. */
  ports: number[];
  connected: boolean;
  /** It has been looked into, and its domain can use it. */
  ready: boolean;
  sectors: number;
};

export interface BlkfrontOptions {
  /** Whether the thread that takes up a disk waits until its first sector is read. Off: it is read, and nobody waits. */
  readonly scans?: boolean;
}

export function blkfront(bus: XenbusBus, resources: FrontendResources, { scans = false }: BlkfrontOptions = {}): XenbusDriver {
  const { kernel } = bus;
  const infos = new WeakMap<XenbusDevice, BlkfrontInfo>();
  /** Devices of dom0's last life whose back end has not moved since. */
  const recovered = new WeakSet<XenbusDevice>();

  function infoOf(device: XenbusDevice): BlkfrontInfo {
    const info = infos.get(device);
    if (!info) throw new Error(`${device.busId} was never probed by blkfront`);
    return info;
  }

  function* probe(device: XenbusDevice): Task<number> {
    const vdevice = yield* bus.scan(device.nodename, 'virtual-device');
    if (vdevice < 0) {
      yield* bus.fatal(device, -vdevice, 'reading virtual-device');
      return -vdevice;
    }
    infos.set(device, { ports: [], connected: false, ready: false, sectors: 0 });
    return 0;
  }

  function* talkToBlkback(device: XenbusDevice, info: BlkfrontInfo): Task {
    yield* kernel.read(`${device.nodename}/trusted`);
    yield* kernel.read(`${device.otherend}/max-ring-page-order`);
    const offered = yield* bus.readUnsigned(device.otherend, 'multi-queue-max-queues', 1);
    const queues = Math.max(1, Math.min(offered, queuesMax, resources.vcpus));
    freeRings(info);
    const nodes: [string, string | number][] = [];
    if (queues > 1) nodes.push(['multi-queue-num-queues', queues]);
    for (let queue = 0; queue < queues; queue++) {
      const dir = queues > 1 ? `queue-${queue}/` : '';
      const ref = resources.grantRef();
      const port = resources.port(device.otherendId);
      info.ports.push(port);
      nodes.push([`${dir}ring-ref`, ref], [`${dir}event-channel`, port]);
    }
    bus.keep(device);
    nodes.push(['protocol', 'x86_64-abi'], ['feature-persistent', 1]);
    yield* offer(bus, device, nodes);
    yield* bus.switchState(device, Initialised);
  }

  function* connect(device: XenbusDevice, info: BlkfrontInfo): Task {
    const sectors = yield* bus.scan(device.otherend, 'sectors');
    if (info.connected) {
      if (sectors >= 0 && sectors !== info.sectors) kernel.printk(`Setting capacity to ${sectors}`);
      if (sectors >= 0) info.sectors = sectors;
      return bus.keep(device);
    }
    const flags = sectors < 0 ? sectors : yield* bus.scan(device.otherend, 'info');
    if (flags < 0) return yield* bus.fatal(device, -flags, `reading backend fields at ${device.otherend}`);
    for (const name of backendFeatures) yield* kernel.read(`${device.otherend}/${name}`);
    info.sectors = sectors;
    info.connected = true;
    bus.keep(device);
    yield* bus.switchState(device, Connected);
    yield* kernel.call('device_add_disk', scan(info));
    info.ready = true;
    bus.keep(device);
    kernel.sched.wakeAll(bus.connecting);
  }

  /** Whoever gets a disk looks for a partition table in its first sector, in the watch thread. A restored one has done so. */
  function* scan(info: BlkfrontInfo): Task {
    const [port] = info.ports;
    if (port === undefined) return;
    const queue = waitQueue('the first sector');
    let read = !scans || info.ready;
    resources.notify(port, [resources.grantRef()], () => {
      read = true;
      kernel.sched.wakeAll(queue);
    });
    if (!read) yield* waitEvent(queue, () => read, 'D');
  }

  function freeRings(info: BlkfrontInfo): void {
    for (const port of info.ports.splice(0)) resources.closePort(port);
    info.connected = false;
  }

  function* otherendChanged(device: XenbusDevice, state: number): Task {
    const info = infoOf(device);
    if (state !== Connected) recovered.delete(device);
    switch (state) {
      case InitWait:
        if (device.state === Initialising) yield* kernel.call('talk_to_blkback [xen_blkfront]', talkToBlkback(device, info));
        return;
      case Connected:
        // The watch is new, and the news is not: it was heard before the device began to close.
        if (recovered.has(device) && (device.state === Closing || device.state === Closed)) return;
        if (device.state !== Initialised && device.state !== Connected) {
          yield* kernel.call('talk_to_blkback [xen_blkfront]', talkToBlkback(device, info));
        }
        return yield* kernel.call('blkfront_connect [xen_blkfront]', connect(device, info));
      case Closing:
      case Closed:
        if (device.state !== Closed) yield* frontendClosed(bus, device);
    }
  }

  return {
    type: 'vbd',
    names: {
      probe: 'blkfront_probe [xen_blkfront]',
      otherendChanged: 'blkback_changed [xen_blkfront]',
      remove: 'blkfront_remove [xen_blkfront]',
    },
    allowRebind: false,
    probe,
    otherendChanged,
    isReady: (device) => infos.get(device)?.ready === true,
    *resume(device) {
      const info = { ports: [], connected: false, ready: true, sectors: 0 };
      infos.set(device, info);
      yield* kernel.call('talk_to_blkback [xen_blkfront]', talkToBlkback(device, info));
    },
    // biome-ignore lint/correctness/useYield: nothing has to be waited for.
    *remove(device) {
      const info = infos.get(device);
      if (info) freeRings(info);
      bus.keep(device);
    },
    kept: (device): BlkfrontInfo | undefined => infos.get(device),
    recover: (device, kept) => {
      const { ports, connected, sectors } = (kept as BlkfrontInfo | undefined) ?? { ports: [], connected: false, sectors: 0 };
      infos.set(device, { ports: [...ports], connected, ready: connected, sectors });
      recovered.add(device);
    },
    // biome-ignore lint/correctness/useYield: it has no watch of its own.
    *rewatch(device) {
      // It had the disk, but had not said so yet.
      if (device.state === Connected) return;
      const info = infoOf(device);
      info.connected = info.ready = false;
    },
  };
}
