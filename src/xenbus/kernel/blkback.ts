/**
 * xen-blkback: the back end of a vbd (drivers/block/xen-blkback/xenbus.c and blkback.c of Linux 6.1).
 *
 * | frontend | backend | what happens |
 * |---|---|---|
 * | 1 | 6 | prepares to reconnect: 2 |
 * | 3, 4 | not 4 | disconnects, maps the rings, and connects once the block device is there: 4 |
 * | 5 | any | 5 |
 * | 6 | any | disconnects, 6; the device goes unless it is `online` |
 * | 0 | any | the device goes |
 * | other | any | an error, 5 |
 *
 * A ring has a thread, which takes requests and gives them to the block layer; nothing is read or written. Pages that a
 * guest granted persistently stay mapped until the ring is given back. Whoever disconnects waits for the thread and for
 * those pages, but not for requests that the block layer still has: those keep the rest of the ring, and the one that
 * ends last frees it from a workqueue.
 */
import type { Faults } from '../fault.js';
import type { Grants, Notified } from '../hypervisor.js';
import { keptBelow } from '../keep.js';
import { strstate, XenbusState } from '../xenbus.js';
import type { BlockDevices, Disk } from './block.js';
import { errno, type XenbusBus, type XenbusDevice, type XenbusDriver } from './bus.js';
import { work } from './locks.js';
import { type KTask, kthreadStop, type Task, type WaitQueue, waitEvent, waitQueue } from './sched.js';
import type { XenbusWatch } from './xenwatch.js';

const maxIndirectSegments = 256;
/** Module parameter max_ring_page_order. */
const maxRingPageOrder = 4;
/** Module parameter max_persistent_grants, of each ring. */
const maxPersistentGrants = 1056;
/** Requests on a ring of one page (XEN_BLKIF_REQS_PER_PAGE). */
const ringRequestsMax = 32;
/** MINORBITS. */
const minorBits = 20;
const VDISK_CDROM = 1;
const VDISK_READONLY = 4;

interface RingRequest {
  /** The grant references of its pages. */
  readonly grants: readonly number[];
  /** Tells the frontend that it is done. */
  readonly ended: (() => void) | undefined;
}

interface Ring {
  readonly wake: WaitQueue;
  /** Requests that the thread has not taken yet. */
  readonly requests: RingRequest[];
  /** Pages granted persistently, by reference: what unmaps each. */
  readonly persistent: Map<number, () => void>;
  active: boolean;
  /** Requests that the thread has taken and not given to the block layer: those of `requests` before they left it. */
  readonly taken: Set<readonly number[]>;
  /** Of each request that the block layer keeps, how many pages it has for itself. */
  readonly kept: Set<{ readonly pages: number }>;
  /** The frontend's event channel. */
  port: number;
  /** The shared pages, mapped. */
  pages: (() => void)[];
  unbind: (() => void) | undefined;
  task: KTask | undefined;
  /** Requests that the block layer has. */
  inflight: number;
}

interface Blkif {
  readonly device: XenbusDevice;
  /** One for the device, and one for each request in flight. */
  references: number;
  physWatch: XenbusWatch | undefined;
  /** What the hotplug script said, once it has been taken up. */
  major: number;
  minor: number;
  disk: Disk | undefined;
  readonly: boolean;
  cdrom: boolean;
  persistent: boolean;
  rings: Ring[];
  /** Its backend directory is gone from the store: nobody will take its loop device down. */
  forsaken: boolean;
  /** Its device is off the bus and requests are in flight: its number among those. */
  left: number | undefined;
}

/** What is kept of a ring and of a device. */
type RingKept = {
  /** Null: the event channel was given back. */
  readonly port: number | null;
  readonly pages: number;
  readonly active: boolean;
  /** The name of its thread, if it had one. */
  readonly thread: string | null;
  readonly requests: readonly (readonly number[])[];
  readonly persistent: readonly number[];
  /** For each request that the block layer has: its own pages. */
  readonly bios: readonly number[];
};
type BlkifKept = Pick<Blkif, 'major' | 'minor' | 'readonly' | 'cdrom' | 'persistent' | 'forsaken'> & {
  readonly rings: readonly RingKept[];
};
/** One whose device is off the bus. */
type LeftKept = { readonly nodename: string; readonly busId: string; readonly otherendId: number; readonly blkif: BlkifKept };

const leftPrefix = 'blkif/';

export interface BlkbackOptions {
  readonly bus: XenbusBus;
  readonly hypervisor: Grants;
  readonly blocks: BlockDevices;
  readonly faults: Faults;
  readonly nrCpus: number;
}

/** What a frontend's `protocol` may be, with the number that Linux prints for it. The first is that of x86-64 itself. */
const protocols = new Map([
  ['x86_64-abi', 1],
  ['x86_32-abi', 2],
]);

export function blkback({ bus, hypervisor, blocks, faults, nrCpus }: BlkbackOptions): XenbusDriver {
  const { kernel, watches } = bus;
  const blkifs = new WeakMap<XenbusDevice, Blkif>();
  /** Those that have their disk open. */
  const open = new Set<Blkif>();
  let nextLeft = 0;

  function blkifOf(device: XenbusDevice): Blkif {
    const blkif = blkifs.get(device);
    if (!blkif) throw new Error(`${device.busId} was never probed by blkback`);
    return blkif;
  }

  const debug = (text: string) => kernel.debug('xen_blkback', `xen-blkback: ${text}`);

  function* probe(device: XenbusDevice): Task<number> {
    debug(`xen_blkbk_probe ${device.pointer} ${device.otherendId}`);
    const blkif = newBlkif(device);
    blkifs.set(device, blkif);
    yield* kernel.write(`${device.nodename}/feature-max-indirect-segments`, String(maxIndirectSegments));
    yield* kernel.write(`${device.nodename}/multi-queue-max-queues`, String(nrCpus));
    yield* watchPhysicalDevice(blkif);
    yield* kernel.write(`${device.nodename}/max-ring-page-order`, String(maxRingPageOrder));
    yield* bus.switchState(device, XenbusState.InitWait);
    return 0;
  }

  function* watchPhysicalDevice(blkif: Blkif): Task {
    const { device } = blkif;
    blkif.physWatch = yield* watches.register({
      node: `${device.nodename}/physical-device`,
      name: 'backend_changed [xen_blkback]',
      domidOf: () => device.otherendId,
      callback: () => physicalDeviceChanged(blkif),
    });
  }

  /** The hotplug script has said which device it is. */
  function* physicalDeviceChanged(blkif: Blkif): Task {
    const { device } = blkif;
    debug(`backend_changed ${device.pointer} ${device.otherendId}`);
    const text = yield* kernel.read(`${device.nodename}/physical-device`);
    const [major, minor] = scanHexPair(text ?? '');
    if (major === undefined) return;
    if (minor === undefined) return yield* bus.fatal(device, -1, 'reading physical-device');
    if (blkif.major !== 0 || blkif.minor !== 0) {
      if (major !== blkif.major || minor !== blkif.minor) {
        const [from, to] = [hexPair(blkif.major, blkif.minor), hexPair(major, minor)];
        kernel.printk(`xen-blkback: changing physical device (from ${from} to ${to}) not supported.`);
      }
      return;
    }
    const mode = yield* kernel.read(`${device.nodename}/mode`);
    if (mode === undefined) return yield* bus.fatal(device, errno.ENOENT, 'reading mode');
    blkif.cdrom = (yield* kernel.read(`${device.otherend}/device-type`)) === 'cdrom';
    const handle = device.otherend.slice(device.otherend.lastIndexOf('/') + 1);
    if (!/^(0x[0-9a-f]+|\d+)$/i.test(handle)) return;
    blkif.readonly = !mode.includes('w');
    [blkif.major, blkif.minor] = [major, minor];
    blkif.disk = blocks.find(major, minor);
    if (!blkif.disk) {
      [blkif.major, blkif.minor] = [0, 0];
      const number = (major * 2 ** minorBits + minor).toString(16).padStart(8, '0');
      kernel.printk(`xen-blkback: xen_vbd_create: device ${number} could not be opened`);
      return yield* bus.fatal(device, errno.ENOENT, 'creating vbd structure');
    }
    open.add(blkif);
    bus.keep(device);
    debug(`Successful creation of handle=${Number(handle).toString(16).padStart(4, '0')} (dom=${device.otherendId})`);
    yield* updatingStatus(blkif);
  }

  function updatingStatus(blkif: Blkif): Task {
    return kernel.call('xen_update_blkif_status [xen_blkback]', updateStatus(blkif));
  }

  /** Connects once the rings are mapped and the device is open; relies on nobody else doing so at the same time. */
  function* updateStatus(blkif: Blkif): Task {
    const { device, disk } = blkif;
    if (!blkif.rings[0]?.unbind || !disk || device.state === XenbusState.Connected) return;
    yield* kernel.call('connect [xen_blkback]', connect(blkif, disk));
    if (device.state !== XenbusState.Connected) return;
    const dev = yield* kernel.read(`${device.nodename}/dev`);
    if (dev === undefined) return yield* bus.error(device, errno.ENOENT, 'get blkback dev name');
    yield* writeBack(device);
    for (const [index, ring] of blkif.rings.entries()) {
      const name = `${device.otherendId}.${dev.replace(/^\/dev\//, '')}-${index}`;
      // Nothing in Linux looks: the thread that was there before is left to itself.
      if (ring.task && !ring.task.exited)
        kernel.observer?.complain?.(kernel.self, 'double connect', `${ring.task.name} is there`);
      startThread(name, blkif, ring);
    }
    bus.keep(device);
  }

  function startThread(name: string, blkif: Blkif, ring: Ring): void {
    ring.task = kernel.spawn(name, 'xen_blkif_schedule [xen_blkback]', (self) => ringThread(self, blkif, ring));
  }

  /** The page cache of the device is flushed, so that the guest sees what dom0 wrote. */
  function* writeBack(device: XenbusDevice): Task {
    if (!faults.holds(device.busId, 'connect')) return;
    const frames = ['filemap_write_and_wait_range', '__filemap_fdatawait_range', 'folio_wait_writeback', 'folio_wait_bit_common'];
    yield* nested(frames, faults.wait(device.busId, 'connect'));
  }

  function* connect(blkif: Blkif, disk: Disk): Task {
    const { device } = blkif;
    debug(`connect ${device.otherend}`);
    yield* kernel.transaction(function* (txId) {
      const write = (name: string, value: number) => kernel.write(`${device.nodename}/${name}`, String(value), txId);
      yield* write('feature-flush-cache', 1);
      if ((yield* bus.readUnsigned(device.nodename, 'discard-enable', 1)) !== 0) {
        yield* write('discard-granularity', 4096);
        yield* write('discard-alignment', 0);
        yield* write('discard-secure', 0);
        yield* write('feature-discard', 1);
      }
      yield* write('feature-barrier', 1);
      yield* write('feature-persistent', 1);
      yield* write('sectors', disk.sectors);
      yield* write('info', (blkif.cdrom ? VDISK_CDROM : 0) | (blkif.readonly ? VDISK_READONLY : 0));
      yield* write('sector-size', 512);
      yield* write('physical-sector-size', 512);
      return true;
    });
    yield* bus.switchState(device, XenbusState.Connected);
  }

  /** Serves one ring until it is asked to stop. */
  function* ringThread(self: KTask, blkif: Blkif, ring: Ring): Task {
    const { busId } = blkif.device;
    for (;;) {
      yield* waitEvent(ring.wake, () => self.shouldStop || ring.requests.length > 0);
      if (self.shouldStop) break;
      const request = ring.requests.shift();
      if (request) yield* dispatching(blkif, ring, request);
    }
    // A hold stands for a request that had just been taken off the ring.
    if (faults.holds(busId, 'io') || faults.holds(busId, 'bio'))
      yield* dispatching(blkif, ring, { grants: [], ended: undefined });
  }

  function dispatching(blkif: Blkif, ring: Ring, request: RingRequest): Task {
    return kernel.call('dispatch_rw_block_io [xen_blkback]', dispatch(blkif, ring, request));
  }

  /** One request: its pages are mapped, and the block layer gets it. */
  function* dispatch(blkif: Blkif, ring: Ring, request: RingRequest): Task {
    const { busId } = blkif.device;
    blkif.references += 1;
    ring.inflight += 1;
    const pages = mapRequest(blkif, ring, request.grants);
    ring.taken.add(request.grants);
    keep(blkif);
    yield* kernel.call('submit_bio', faults.wait(busId, 'io'));
    ring.taken.delete(request.grants);
    const ended = () => {
      for (const unmap of pages) unmap();
      ring.inflight -= 1;
      request.ended?.();
      put(blkif);
      keep(blkif);
    };
    if (!faults.holds(busId, 'bio')) return ended();
    keepBio(busId, ring, pages.length, ended);
    keep(blkif);
  }

  /** The block layer keeps a request for as long as the disk is held. */
  function keepBio(busId: string, ring: Ring, pages: number, ended: () => void): void {
    const bio = { pages };
    ring.kept.add(bio);
    kernel.spawn('kworker/u4:1', 'worker_thread', function* () {
      yield* nested(['process_one_work', 'loop_workfn [loop]'], faults.wait(busId, 'bio'));
      ring.kept.delete(bio);
      ended();
    });
  }

  /** Maps what is not mapped yet; answers with what unmaps those pages that are this request's alone. */
  function mapRequest({ device, persistent }: Blkif, ring: Ring, grants: readonly number[]): (() => void)[] {
    const own: (() => void)[] = [];
    for (const grant of grants) {
      if (ring.persistent.has(grant)) continue;
      const unmap = hypervisor.grantMap(device.otherendId);
      if (!unmap) debug('invalid buffer -- could not remap it');
      else if (persistent && ring.persistent.size < maxPersistentGrants) {
        ring.persistent.set(grant, unmap);
        const used = `${ring.persistent.size}/${maxPersistentGrants}`;
        debug(`grant ${grant} added to the tree of persistent grants, using ${used}`);
      } else own.push(unmap);
    }
    return own;
  }

  /** `xen_blkif_put`. The last one may be given up where nobody may sleep, so a worker frees what is left. */
  function put(blkif: Blkif): void {
    blkif.references -= 1;
    if (blkif.references > 0) return;
    if (blkif.left !== undefined) kernel.keep?.delete(leftPrefix + blkif.left);
    kernel.workqueue.schedule(work('xen_blkif_deferred_free [xen_blkback]', () => free(blkif)));
  }

  function* free(blkif: Blkif): Task {
    if ((yield* disconnecting(blkif)) !== 0) throw new Error(`${blkif.device.busId} is freed with requests in flight`);
    if (blkif.disk && blkif.forsaken) blocks.detach(blkif.disk.node, blkif.disk.owner);
    blkif.disk = undefined;
    open.delete(blkif);
  }

  /**
   * No script will take down the loop device of a backend that is gone: libxl runs none for a device that did not close in
   * time. It goes when nobody has it open, as one with LO_FLAGS_AUTOCLEAR does; Xen's script sets none up, and leaves it.
   */
  function pathGone(path: string): void {
    for (const loop of blocks.loopsBelow(path)) {
      const users = [...open].filter(({ disk }) => disk === loop);
      for (const blkif of users) {
        blkif.forsaken = true;
        keep(blkif);
      }
      if (users.length === 0) blocks.detach(loop.node);
    }
  }

  /** Reads what the frontend offers and maps its rings; an error has been told, and the device is closing. */
  function* connectRing(blkif: Blkif): Task<number> {
    const { device } = blkif;
    const { otherend } = device;
    debug(`connect_ring ${otherend}`);
    const offered = yield* kernel.read(`${otherend}/protocol`);
    const protocol = offered?.trim().split(/\s/)[0]?.slice(0, 63) || undefined;
    const [native = ''] = protocols.keys();
    const number = protocols.get(protocol ?? native);
    // What Linux prints as the errno is what reading the protocol came to.
    const scanned = protocol === undefined ? errno.ENOENT : -1;
    if (number === undefined) return yield* refuse(device, scanned, `unknown fe protocol ${protocol}`);
    blkif.persistent = (yield* bus.readUnsigned(otherend, 'feature-persistent', 0)) !== 0;
    const queues = yield* bus.readUnsigned(otherend, 'multi-queue-num-queues', 1);
    if (queues === 0 || queues > nrCpus) {
      return yield* refuse(device, scanned, `guest requested ${queues} queues, exceeding the maximum of ${nrCpus}.`);
    }
    blkif.rings = Array.from({ length: queues }, (_, index) => newRing(`ring ${index} of ${device.busId}`));
    const words = `protocol ${number} (${protocol ?? 'unspecified, assuming default'})`;
    const grants = blkif.persistent ? 'persistent grants' : '';
    kernel.printk(`xen-blkback: ${device.nodename}: using ${queues} queues, ${words} ${grants}`);
    const order = yield* bus.scan(otherend, 'ring-page-order');
    if (order > maxRingPageOrder) {
      return yield* refuse(device, errno.EINVAL, `requested ring page order ${order} exceed max:${maxRingPageOrder}`);
    }
    const names = order < 0 ? ['ring-ref'] : Array.from({ length: 1 << order }, (_, page) => `ring-ref${page}`);
    for (const [index, ring] of blkif.rings.entries()) {
      const dir = queues === 1 ? otherend : `${otherend}/queue-${index}`;
      const failed = yield* readRingRefs(blkif, ring, dir, names);
      if (failed !== 0) return failed;
    }
    bus.keep(device);
    return 0;
  }

  function* readRingRefs(blkif: Blkif, ring: Ring, dir: string, names: readonly string[]): Task<number> {
    const { device } = blkif;
    const port = yield* bus.scan(dir, 'event-channel');
    if (port < 0) return yield* refuse(device, errno.EINVAL, `reading ${dir}/event-channel`);
    for (const name of names) {
      if ((yield* bus.scan(dir, name)) < 0) return yield* refuse(device, errno.EINVAL, `reading ${dir}/${name}`);
    }
    if (!mapRing(blkif, ring, port, names.length)) {
      return yield* refuse(device, errno.EINVAL, `mapping ring-ref port ${port}`);
    }
    return 0;
  }

  function* refuse(device: XenbusDevice, code: number, message: string): Task<number> {
    yield* bus.fatal(device, code, message);
    return code;
  }

  /** What a notification of the frontend does. */
  function takeRequests(blkif: Blkif, ring: Ring, pages: number): Notified {
    return (grants, ended) => {
      if (ring.requests.length < ringRequestsMax * pages) ring.requests.push({ grants, ended });
      kernel.sched.wakeAll(ring.wake);
      keep(blkif);
    };
  }

  /** `xen_blkif_map`: the ring's pages and its event channel, or nothing of it. */
  function mapRing(blkif: Blkif, ring: Ring, port: number, pages: number): boolean {
    const domid = blkif.device.otherendId;
    const mapped = Array.from({ length: pages }, () => hypervisor.grantMap(domid)).filter((unmap) => unmap !== undefined);
    const unbind =
      mapped.length < pages ? undefined : hypervisor.evtchnBind(kernel.domid, domid, port, takeRequests(blkif, ring, pages));
    if (unbind) [ring.pages, ring.unbind, ring.port] = [mapped, unbind, port];
    else for (const unmap of mapped) unmap();
    return unbind !== undefined;
  }

  /**
   * Stops the ring threads, one after the other, and gives the rings back; harmless when there are none. EBUSY while
   * requests are in flight: their rings stay.
   */
  function* disconnect(blkif: Blkif): Task<number> {
    let busy = false;
    for (const ring of blkif.rings) {
      if (!ring.active) continue;
      if (ring.task) yield* kthreadStop(kernel.sched, kernel.self, ring.task);
      ring.task = undefined;
      if (ring.inflight > 0) {
        busy = true;
        keep(blkif);
        continue;
      }
      ring.unbind?.();
      ring.unbind = undefined;
      for (const unmap of ring.pages.splice(0)) unmap();
      keep(blkif);
      yield* kernel.call('xen_blkbk_free_caches [xen_blkback]', freeCaches(blkif, ring));
      ring.active = false;
    }
    if (busy) return errno.EBUSY;
    if (blkif.rings.length > 0) {
      blkif.rings = [];
      keep(blkif);
    }
    return 0;
  }

  function* freeCaches({ device }: Blkif, ring: Ring): Task {
    if (ring.persistent.size === 0) return;
    yield* nested(['free_persistent_gnts [xen_blkback]', 'gnttab_unmap_refs_sync'], faults.waitPolling(device.busId, 'grants'));
    for (const unmap of ring.persistent.values()) unmap();
    ring.persistent.clear();
  }

  function disconnecting(blkif: Blkif): Task<number> {
    return kernel.call('xen_blkif_disconnect [xen_blkback]', disconnect(blkif));
  }

  /** Runs `body` as the innermost of these kernel functions, outermost first. */
  function* nested(frames: readonly string[], body: Task): Task {
    const [outer, ...inner] = frames;
    if (outer === undefined) yield* body;
    else yield* kernel.call(outer, nested(inner, body));
  }

  function* otherendChanged(device: XenbusDevice, state: number): Task {
    const blkif = blkifOf(device);
    debug(`frontend_changed ${device.pointer} ${strstate(state)}`);
    switch (state) {
      case XenbusState.Initialising:
        if (device.state === XenbusState.Closed) {
          kernel.printk(`xen-blkback: ${device.nodename}: prepare for reconnect`);
          yield* bus.switchState(device, XenbusState.InitWait);
        }
        return;
      case XenbusState.Initialised:
      case XenbusState.Connected: {
        if (device.state === XenbusState.Connected) return;
        const busy = yield* disconnecting(blkif);
        if (busy !== 0) return yield* bus.fatal(device, busy, 'pending I/O');
        if ((yield* connectRing(blkif)) === 0) yield* updatingStatus(blkif);
        else yield* disconnecting(blkif);
        return;
      }
      case XenbusState.Closing:
        yield* bus.switchState(device, XenbusState.Closing);
        return;
      case XenbusState.Closed:
        yield* disconnecting(blkif);
        yield* bus.switchState(device, XenbusState.Closed);
        if ((yield* bus.readUnsigned(device.nodename, 'online', 0)) !== 0) return;
        yield* bus.unregister(device);
        return;
      case XenbusState.Unknown:
        yield* bus.unregister(device);
        return;
      default:
        yield* bus.fatal(device, errno.EINVAL, `saw state ${state} at frontend`);
    }
  }

  function* remove(device: XenbusDevice): Task {
    const blkif = blkifOf(device);
    debug(`xen_blkbk_remove ${device.pointer} ${device.otherendId}`);
    if (blkif.physWatch) yield* watches.unregister(blkif.physWatch);
    blkif.physWatch = undefined;
    yield* disconnecting(blkif);
    put(blkif);
    // Nothing of it is the device's any more: what is left belongs to the requests in flight.
    if (blkif.references > 0) blkif.left = nextLeft++;
    keep(blkif);
    if (blkif.left !== undefined) bus.keep(device);
  }

  function keep(blkif: Blkif): void {
    const { left, device, references } = blkif;
    if (left === undefined && blkifs.get(device) === blkif) bus.keep(device);
    if (left === undefined || references <= 0) return;
    const { nodename, busId, otherendId } = device;
    const kept: LeftKept = { nodename, busId, otherendId, blkif: keptOf(blkif) };
    kernel.keep?.set(leftPrefix + left, kept);
  }

  /** Takes again what a device of the last life held: its rings, with their threads and what is on them. */
  function recover(device: XenbusDevice, kept: BlkifKept | undefined): Blkif {
    const blkif = newBlkif(device);
    if (!kept) return blkif;
    const { rings, ...rest } = kept;
    Object.assign(blkif, rest);
    blkif.disk = blocks.find(blkif.major, blkif.minor);
    if (blkif.disk) open.add(blkif);
    blkif.rings = rings.map((each, index) => recoverRing(blkif, each, `ring ${index} of ${device.busId}`));
    // It was about to start its threads: connecting begins again, and does not write a state that is there.
    const isHalf = rings.some(({ active, thread, port }) => active && port !== null && thread === null);
    if (isHalf && device.state === XenbusState.Connected) device.state = XenbusState.InitWait;
    return blkif;
  }

  function recoverRing(blkif: Blkif, kept: RingKept, name: string): Ring {
    const { busId, otherendId } = blkif.device;
    const ring = newRing(name);
    ring.active = kept.active;
    const map = () => hypervisor.grantMap(otherendId);
    const mapped = (count: number) => Array.from({ length: count }, map).filter((unmap) => unmap !== undefined);
    if (kept.port !== null) {
      ring.port = kept.port;
      // The domain's channels go before its pages do.
      ring.unbind =
        hypervisor.evtchnBind(kernel.domid, otherendId, kept.port, takeRequests(blkif, ring, kept.pages)) ?? (() => undefined);
    }
    ring.pages = mapped(kept.pages);
    for (const grant of kept.persistent) {
      const unmap = map();
      if (unmap) ring.persistent.set(grant, unmap);
    }
    // Whoever waits for one has a new life too.
    ring.requests.push(...kept.requests.map((grants) => ({ grants, ended: undefined })));
    for (const own of kept.bios) {
      const pages = mapped(own);
      blkif.references += 1;
      ring.inflight += 1;
      keepBio(busId, ring, own, () => {
        for (const unmap of pages) unmap();
        ring.inflight -= 1;
        put(blkif);
        keep(blkif);
      });
    }
    if (kept.thread !== null) startThread(kept.thread, blkif, ring);
    return ring;
  }

  /** What no device has any more, because the block layer still had requests when it went. */
  function recoverRest(): void {
    for (const [number, value] of keptBelow(kernel.recovered, leftPrefix)) {
      const { blkif: kept, ...its } = value as LeftKept;
      const blkif = recover(bus.strayDevice(its), kept);
      blkif.left = Number(number);
      nextLeft = Math.max(nextLeft, blkif.left + 1);
      put(blkif);
    }
  }

  return {
    type: 'vbd',
    names: {
      probe: 'xen_blkbk_probe [xen_blkback]',
      otherendChanged: 'frontend_changed [xen_blkback]',
      remove: 'xen_blkbk_remove [xen_blkback]',
    },
    allowRebind: true,
    probe,
    otherendChanged,
    remove,
    kept: (device) => {
      const blkif = blkifs.get(device);
      return blkif && blkif.left === undefined ? keptOf(blkif) : undefined;
    },
    recover: (device, kept) => void blkifs.set(device, recover(device, kept as BlkifKept | undefined)),
    *rewatch(device) {
      yield* watchPhysicalDevice(blkifOf(device));
    },
    pathGone,
    recoverRest,
  };
}

function newBlkif(device: XenbusDevice): Blkif {
  return {
    device,
    references: 1,
    physWatch: undefined,
    major: 0,
    minor: 0,
    disk: undefined,
    readonly: false,
    cdrom: false,
    persistent: false,
    rings: [],
    forsaken: false,
    left: undefined,
  };
}

function keptOf({ major, minor, readonly, cdrom, persistent, forsaken, rings }: Blkif): BlkifKept {
  const kept = rings.map((ring): RingKept => {
    const { active, port, unbind, pages, task, requests, taken, kept: bios } = ring;
    return {
      port: unbind ? port : null,
      pages: pages.length,
      active,
      thread: task && !task.exited ? task.name : null,
      requests: [...taken, ...requests.map(({ grants }) => grants)],
      persistent: [...ring.persistent.keys()],
      bios: [...bios].map(({ pages: own }) => own),
    };
  });
  return { major, minor, readonly, cdrom, persistent, forsaken, rings: kept };
}

function newRing(name: string): Ring {
  return {
    wake: waitQueue(name),
    requests: [],
    persistent: new Map(),
    active: true,
    taken: new Set(),
    kept: new Set(),
    port: 0,
    pages: [],
    unbind: undefined,
    task: undefined,
    inflight: 0,
  };
}

/** As `%x:%x` reads them: as many of the two as are there. */
function scanHexPair(text: string): (number | undefined)[] {
  const match = /^\s*(?:0x)?([0-9a-f]+)(?::\s*(?:0x)?([0-9a-f]+))?/i.exec(text);
  return [match?.[1], match?.[2]].map((part) => (part === undefined ? undefined : Number.parseInt(part, 16)));
}

function hexPair(major: number, minor: number): string {
  return `${major.toString(16)}:${minor.toString(16)}`;
}
