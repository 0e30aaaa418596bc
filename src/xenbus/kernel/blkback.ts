/**
 * xen-blkback: the back end of a vbd (drivers/block/xen-blkback/xenbus.c of Linux 6.1).
 *
 * | frontend | backend | what happens |
 * |---|---|---|
 * | 1 | 6 | prepares to reconnect: 2 |
 * | 3, 4 | not 4 | disconnects, maps the rings, and connects once the block device is there: 4 |
 * | 5 | any | 5 |
 * | 6 | any | disconnects, 6; the device goes unless it is `online` |
 * | 0 | any | the device goes |
 *
 * No I/O is done: a ring has a thread, and the block device has a size. Where Linux waits for I/O (a ring thread that
 * must stop, the page cache that is written back at connect) a hold makes it wait.
 */
import type { Faults } from '../fault.js';
import type { Hypervisor } from '../hypervisor.js';
import { XenbusState } from '../xenbus.js';
import type { BlockDevices, Disk } from './block.js';
import { sawState, type XenbusBus, type XenbusDevice, type XenbusDriver } from './bus.js';
import { type KTask, kthreadStop, type Task, type WaitQueue, waitEvent, waitQueue } from './sched.js';
import type { XenbusWatch } from './xenwatch.js';

const maxIndirectSegments = 256;
const maxRingPageOrder = 4;

interface Ring {
  readonly unmap: () => void;
  readonly wake: WaitQueue;
  task: KTask | undefined;
}

interface Blkif {
  readonly device: XenbusDevice;
  physWatch: XenbusWatch | undefined;
  disk: Disk | undefined;
  readonly: boolean;
  cdrom: boolean;
  rings: Ring[];
}

export interface BlkbackOptions {
  readonly bus: XenbusBus;
  readonly hypervisor: Hypervisor;
  readonly blocks: BlockDevices;
  readonly faults: Faults;
  readonly nrCpus: number;
}

/** What a frontend's `protocol` may be, with the number that Linux prints for it. */
const protocols = new Map([
  ['x86_64-abi', '1 (x86_64-abi)'],
  ['x86_32-abi', '2 (x86_32-abi)'],
]);

export function blkback({ bus, hypervisor, blocks, faults, nrCpus }: BlkbackOptions): XenbusDriver {
  const { kernel, watches } = bus;
  const blkifs = new WeakMap<XenbusDevice, Blkif>();

  function blkifOf(device: XenbusDevice): Blkif {
    const blkif = blkifs.get(device);
    if (!blkif) throw new Error(`${device.busId} was never probed by blkback`);
    return blkif;
  }

  function* probe(device: XenbusDevice): Task {
    const blkif: Blkif = { device, physWatch: undefined, disk: undefined, readonly: false, cdrom: false, rings: [] };
    blkifs.set(device, blkif);
    yield* kernel.write(`${device.nodename}/feature-max-indirect-segments`, String(maxIndirectSegments));
    yield* kernel.write(`${device.nodename}/multi-queue-max-queues`, String(nrCpus));
    blkif.physWatch = yield* watches.register({
      node: `${device.nodename}/physical-device`,
      name: 'backend_changed [xen_blkback]',
      domidOf: () => device.otherendId,
      callback: () => physicalDeviceChanged(blkif),
    });
    yield* kernel.write(`${device.nodename}/max-ring-page-order`, String(maxRingPageOrder));
    yield* bus.switchState(device, XenbusState.InitWait);
  }

  /** The hotplug script has said which device it is. */
  function* physicalDeviceChanged(blkif: Blkif): Task {
    const { device } = blkif;
    const text = yield* kernel.read(`${device.nodename}/physical-device`);
    if (text === undefined) return;
    const match = /^([0-9a-f]+):([0-9a-f]+)$/i.exec(text);
    const disk = match && blocks.find(Number.parseInt(match[1] ?? '', 16), Number.parseInt(match[2] ?? '', 16));
    if (blkif.disk) {
      if (disk !== blkif.disk) {
        kernel.printk(`vbd ${device.busId}: changing physical device (from ${blkif.disk.node} to ${text}) not supported.`);
      }
      return;
    }
    if (!disk) {
      yield* bus.fatal(device, `reading physical-device ${text}: no such block device`);
      return;
    }
    blkif.readonly = !((yield* kernel.read(`${device.nodename}/mode`)) ?? 'r').includes('w');
    blkif.cdrom = (yield* kernel.read(`${device.otherend}/device-type`)) === 'cdrom';
    blkif.disk = disk;
    yield* kernel.call('xen_update_blkif_status [xen_blkback]', updateStatus(blkif));
  }

  /** Connects once the rings are mapped and the device is open; relies on nobody else doing so at the same time. */
  function* updateStatus(blkif: Blkif): Task {
    const { device, disk } = blkif;
    if (blkif.rings.length === 0 || !disk || device.state === XenbusState.Connected) return;
    yield* kernel.call('connect [xen_blkback]', connect(blkif, disk));
    if (device.state !== XenbusState.Connected) return;
    const dev = (yield* kernel.read(`${device.nodename}/dev`)) ?? device.busId;
    yield* writeBack(device);
    for (const [index, ring] of blkif.rings.entries()) {
      ring.task = kernel.spawn(`${device.otherendId}.${dev}-${index}`, 'xen_blkif_schedule [xen_blkback]', (self) =>
        ringThread(self, device, ring),
      );
    }
  }

  /** The page cache of the device is flushed, so that the guest sees what dom0 wrote. */
  function* writeBack(device: XenbusDevice): Task {
    if (!faults.holds(device.busId, 'connect')) return;
    const frames = ['filemap_write_and_wait_range', '__filemap_fdatawait_range', 'folio_wait_writeback', 'folio_wait_bit_common'];
    yield* frames.reduceRight<Task>((inner, name) => framed(name, inner), faults.wait(device.busId, 'connect'));
  }

  function* framed(name: string, inner: Task): Task {
    yield* kernel.call(name, inner);
  }

  function* connect(blkif: Blkif, disk: Disk): Task {
    const { device } = blkif;
    yield* kernel.transaction(function* (txId) {
      const write = (name: string, value: number) => kernel.write(`${device.nodename}/${name}`, String(value), txId);
      yield* write('feature-flush-cache', 1);
      if ((yield* kernel.read(`${device.nodename}/discard-enable`, txId)) !== '0') {
        yield* write('discard-granularity', 4096);
        yield* write('discard-alignment', 0);
        yield* write('discard-secure', 0);
        yield* write('feature-discard', 1);
      }
      yield* write('feature-barrier', 1);
      yield* write('feature-persistent', 1);
      yield* write('sectors', disk.sectors);
      yield* write('info', (blkif.cdrom ? 1 : 0) | (blkif.readonly ? 4 : 0));
      yield* write('sector-size', 512);
      yield* write('physical-sector-size', 512);
      return true;
    });
    yield* bus.switchState(device, XenbusState.Connected);
  }

  /** Serves one ring: here it only waits to be stopped, or for I/O that does not come back. */
  function* ringThread(self: KTask, device: XenbusDevice, ring: Ring): Task {
    while (!self.shouldStop) yield* waitEvent(ring.wake, () => self.shouldStop);
    if (faults.holds(device.busId, 'inflight')) {
      yield* kernel.call('submit_bio', faults.wait(device.busId, 'inflight'));
    }
  }

  /** Reads what the frontend offers and maps its rings. Undefined: it was wrong, and the device is closing. */
  function* connectRing(blkif: Blkif): Task {
    const { device } = blkif;
    const protocol = protocols.get((yield* kernel.read(`${device.otherend}/protocol`)) ?? 'x86_64-abi');
    if (!protocol) return yield* bus.fatal(device, `unknown fe protocol`);
    const persistent = yield* bus.readUnsigned(device.otherend, 'feature-persistent', 0);
    const queues = yield* bus.readUnsigned(device.otherend, 'multi-queue-num-queues', 1);
    if (queues === 0 || queues > nrCpus) {
      return yield* bus.fatal(device, `guest requested ${queues} queues, exceeding the maximum of ${nrCpus}.`);
    }
    kernel.printk(
      `xen-blkback: ${device.nodename}: using ${queues} queues, protocol ${protocol} ${persistent ? 'persistent grants' : ''}`,
    );
    yield* kernel.read(`${device.otherend}/ring-page-order`);
    for (let queue = 0; queue < queues; queue++) {
      const dir = queues === 1 ? device.otherend : `${device.otherend}/queue-${queue}`;
      const port = yield* bus.readUnsigned(dir, 'event-channel', -1);
      const ref = yield* bus.readUnsigned(dir, 'ring-ref', -1);
      const unmap = ref < 0 ? undefined : mapRing(device.otherendId, port);
      if (!unmap) {
        unmapRings(blkif);
        return yield* bus.fatal(device, `mapping ring-ref of ${dir}`);
      }
      blkif.rings.push({ unmap, wake: waitQueue(`ring ${queue} of ${device.busId}`), task: undefined });
    }
  }

  /** The ring's page and its event channel; what is returned gives both back. */
  function mapRing(domid: number, port: number): (() => void) | undefined {
    const unbind = hypervisor.evtchnBind(0, domid, port);
    const unmap = unbind && hypervisor.grantMap(domid);
    if (!unmap) unbind?.();
    return (
      unmap &&
      (() => {
        unbind();
        unmap();
      })
    );
  }

  function unmapRings(blkif: Blkif): void {
    for (const ring of blkif.rings) ring.unmap();
    blkif.rings = [];
  }

  /** Stops the ring threads, one after the other, and gives the rings back. Harmless when there are none. */
  function* disconnect(blkif: Blkif): Task {
    for (const ring of blkif.rings) if (ring.task) yield* kthreadStop(kernel.sched, kernel.self, ring.task);
    unmapRings(blkif);
  }

  function disconnecting(blkif: Blkif): Task {
    return kernel.call('xen_blkif_disconnect [xen_blkback]', disconnect(blkif));
  }

  function* otherendChanged(device: XenbusDevice, state: number): Task {
    const blkif = blkifOf(device);
    switch (state) {
      case XenbusState.Initialising:
        if (device.state === XenbusState.Closed) {
          kernel.printk(`xen-blkback: ${device.nodename}: prepare for reconnect`);
          yield* bus.switchState(device, XenbusState.InitWait);
        }
        return;
      case XenbusState.Initialised:
      case XenbusState.Connected:
        if (device.state === XenbusState.Connected) return;
        yield* disconnecting(blkif);
        yield* connectRing(blkif);
        if (blkif.rings.length > 0) yield* kernel.call('xen_update_blkif_status [xen_blkback]', updateStatus(blkif));
        return;
      case XenbusState.Closing:
        yield* bus.switchState(device, XenbusState.Closing);
        return;
      case XenbusState.Closed:
        yield* disconnecting(blkif);
        yield* bus.switchState(device, XenbusState.Closed);
        if ((yield* bus.readUnsigned(device.nodename, 'online', 0)) === 1) return;
        yield* bus.unregister(device);
        return;
      case XenbusState.Unknown:
        yield* bus.unregister(device);
        return;
      default:
        yield* bus.fatal(device, sawState(state));
    }
  }

  function* remove(device: XenbusDevice): Task {
    const blkif = blkifOf(device);
    if (blkif.physWatch) {
      yield* watches.unregister(blkif.physWatch);
      blkif.physWatch = undefined;
    }
    yield* disconnecting(blkif);
  }

  return {
    type: 'vbd',
    names: {
      probe: 'xen_blkbk_probe [xen_blkback]',
      otherendChanged: 'frontend_changed [xen_blkback]',
      remove: 'xen_blkbk_remove [xen_blkback]',
    },
    probe,
    otherendChanged,
    remove,
  };
}
