/**
 * Giving a device to a domain that exists: its defaults, its number, the saved config with it, then what a creation does
 * for a device too (device.ts).
 *
 * The order, and which failure says what, is that of `device_disk_add`, `libxl__device_add_async` and
 * `libxl__device_add` of libxl 4.17. A kind whose backend nobody runs here is written like any other, and its backend
 * awaited like that of a host without the driver.
 */
import { transact } from './ao.js';
import { diskDevice, nicDevice } from './create.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { checkAlive, type Device, deviceAdd, genericAdd, refusedDevice } from './device.js';
import { devicesPath } from './device-list.js';
import {
  backendName,
  needsQemu,
  type Place,
  refuseUsbdev,
  resolveBackend,
  settleUsbctrl,
  usbctrlDevice,
  vdisplDevice,
  vkbDevice,
  vsndDevice,
  vtpmDevice,
} from './device-types.js';
import { type Usbctrl, type Usbdev, type Vdispl, type Vkb, type Vtpm, vdisplJson, vkbJson, vtpmJson } from './device-words.js';
import { type Disk, diskNodes, needsStat, setDiskDefaults } from './disk.js';
import { checkType, formatUuid } from './domain.js';
import type { DomainConfig, OtherDeviceList } from './domain-config.js';
import type { JsonObject } from './json.js';
import { type Nic, nextNicDevid, nicNodes, nicObstacle, savedNic, setNicDefaults } from './nic.js';
import type { DeviceNodes } from './nodes.js';
import { lockConfig, readConfig, writeConfig } from './saved-config.js';
import { atoi } from './strtol.js';

/** What a device needs to be added. */
interface Prepared {
  readonly device: Device;
  readonly nodes: DeviceNodes;
  /** The saved config with the device in it. */
  readonly config: DomainConfig;
}

/** What is open while a device is added: the lock on the saved config, from its reading to its writing. */
interface Adding {
  unlock: () => Promise<void>;
}

/** Adds what `prepare` has made ready. Before that libxl has no name for the device that it cannot add. */
async function add(ctx: Ctx, domid: number, prepare: (adding: Adding) => Promise<Prepared>): Promise<void> {
  const adding: Adding = { unlock: async () => undefined };
  let prepared: Prepared;
  try {
    prepared = await prepare(adding);
  } catch (error) {
    await adding.unlock();
    throw refusedDevice(ctx, error);
  }
  const { device, nodes, config } = prepared;
  await deviceAdd(ctx, device, nodes, { save: () => writeConfig(ctx, domid, config), settled: adding.unlock });
}

/** `xl block-attach`. */
export function diskAttach(ctx: Ctx, domid: number, disk: Disk): Promise<void> {
  return add(ctx, domid, async (adding) => {
    await checkType(ctx, domid);
    const config = await withDevice(ctx, domid, adding, (before) => ({
      ...before,
      disks: replaced(before.disks, disk, (other) => other.vdev === disk.vdev),
    }));
    const backendDomid = await resolveBackend(ctx, disk.backendDomname);
    if (disk.specification === 'virtio') {
      const line = "Hotplug isn't supported for specification virtio";
      ctx.log('error', 'libxl_disk.c:187:libxl__device_disk_setdefault', domid, line);
      throw new LibxlError(Rc.FAIL, line);
    }
    const local = { ...disk, ...(backendDomid === undefined ? {} : { backendDomid }) };
    const stat = needsStat(local) ? await ctx.host.stat(disk.pdevPath ?? '') : undefined;
    const settled = setDiskDefaults(local, { stat, ...(backendDomid === undefined ? {} : { backendDomid }) });
    for (const { level, where, message } of settled.log) ctx.log(level, where, undefined, message);
    if ('rc' in settled) throw new LibxlError(settled.rc, `disk ${disk.vdev} was refused`);
    const device = diskDevice(ctx, domid, settled.disk);
    return { device, nodes: diskNodes(settled.disk, domid), config };
  });
}

/** `xl network-attach`. */
export function nicAttach(ctx: Ctx, domid: number, nic: Nic): Promise<void> {
  return add(ctx, domid, async (adding) => {
    const backendDomid = await resolveBackend(ctx, nic.backendDomname);
    await checkType(ctx, domid);
    const obstacle = nicObstacle(nic);
    if (obstacle) {
      ctx.log(obstacle.level, obstacle.where, domid, obstacle.message);
      throw new LibxlError(Rc.INVAL, obstacle.message);
    }
    const listed = nic.devid === undefined ? ((await ctx.xs.directory(devicesPath(domid, 'vif'))) ?? []) : [];
    const ready = setNicDefaults(nic, {
      random: ctx.clock.random(16),
      devid: nextNicDevid(listed),
      ...(backendDomid === undefined ? {} : { backendDomid }),
    });
    const saved = savedNic(nic, ready);
    const config = await withDevice(ctx, domid, adding, (before) => ({
      ...before,
      nics: replaced(before.nics, saved, (other) => other.devid === ready.devid),
    }));
    return { device: nicDevice(domid, ready), nodes: nicNodes(ready, domid), config };
  });
}

/** `xl vtpm-attach`. */
export function vtpmAttach(ctx: Ctx, domid: number, vtpm: Vtpm): Promise<void> {
  return add(ctx, domid, async (adding) => {
    const uuid = vtpm.uuid ?? formatUuid(ctx.clock.random(16));
    const json = vtpmJson({ ...vtpm, uuid });
    const place = await newPlace(ctx, domid, json, 'vtpm');
    const config = await withOther(ctx, domid, adding, 'vtpms', numbered(json, place.devid));
    return { ...vtpmDevice(json, place), config };
  });
}

/** `xl vdispl-attach`. */
export function vdisplAttach(ctx: Ctx, domid: number, vdispl: Vdispl): Promise<void> {
  return add(ctx, domid, async (adding) => {
    const json = vdisplJson(vdispl);
    const place = await newPlace(ctx, domid, json, 'vdispl');
    const config = await withOther(ctx, domid, adding, 'vdispls', numbered(json, place.devid));
    return { ...vdisplDevice(json, place), config };
  });
}

/** `xl vsnd-attach`: a card as JSON, as `sound-card.ts` reads it. */
export function vsndAttach(ctx: Ctx, domid: number, card: JsonObject): Promise<void> {
  return add(ctx, domid, async (adding) => {
    const place = await newPlace(ctx, domid, card, 'vsnd');
    const config = await withOther(ctx, domid, adding, 'vsnds', numbered(card, place.devid));
    return { ...vsndDevice(card, place), config };
  });
}

/** `xl usbctrl-attach`. */
export function usbctrlAttach(ctx: Ctx, domid: number, { type, version, ports }: Usbctrl): Promise<void> {
  return add(ctx, domid, async (adding) => {
    await checkType(ctx, domid).catch((error: unknown) => {
      // libxl takes a domain that it cannot see for one that is not HVM, and stumbles later.
      if (!(error instanceof LibxlError)) throw error;
    });
    const usbctrl = settleUsbctrl(ctx, { type, version, ports });
    const place = await newPlace(ctx, domid, usbctrl, 'vusb');
    const json = {
      type: usbctrl['type'] ?? '',
      devid: place.devid,
      version: usbctrl['version'] ?? 0,
      ports: usbctrl['ports'] ?? 0,
    };
    const config = await withOther(ctx, domid, adding, 'usbctrls', json);
    return { ...usbctrlDevice(usbctrl, place), config };
  });
}

/**
 * `xl vkb-attach`: its nodes are written and that is all. Nobody waits for its backend, and the saved config does not
 * learn of it.
 */
export async function vkbAttach(ctx: Ctx, domid: number, vkb: Vkb): Promise<void> {
  try {
    const json = vkbJson(vkb);
    const { device, nodes } = vkbDevice(json, await newPlace(ctx, domid, json, 'vkbd'));
    await transact(ctx, async (tx) => {
      await checkAlive(tx, domid);
      await genericAdd(tx, device, nodes);
    });
  } catch (error) {
    if (error instanceof LibxlError) ctx.log('error', 'libxl_vkb.c:239:libxl_device_vkb_add', domid, 'Unable to add vkb device');
    throw error;
  }
}

// ---- What they share

/** Where a device goes that has no number yet. */
async function newPlace(ctx: Ctx, domid: number, json: JsonObject, kind: string): Promise<Place> {
  const backendDomid = (await resolveBackend(ctx, backendName(json))) ?? 0;
  return { domid, backendDomid, devid: await nextDevid(ctx, domid, kind) };
}

/** One past the last of the listing (libxl__device_nextid). */
async function nextDevid(ctx: Ctx, domid: number, kind: string): Promise<number> {
  const last = ((await ctx.xs.directory(devicesPath(domid, kind))) ?? []).at(-1);
  return last === undefined ? 0 : atoi(last) + 1;
}

function numbered(json: JsonObject, devid: number): JsonObject {
  const { backend_domname, ...rest } = json;
  return { ...(backend_domname === undefined ? {} : { backend_domname }), devid, ...rest };
}

function replaced<T>(list: readonly T[], item: T, same: (other: T) => boolean): readonly T[] {
  const at = list.findIndex(same);
  return at < 0 ? [...list, item] : list.map((other, index) => (index === at ? item : other));
}

function withOther(ctx: Ctx, domid: number, adding: Adding, list: OtherDeviceList, device: JsonObject): Promise<DomainConfig> {
  return withDevice(ctx, domid, adding, (before) => ({
    ...before,
    [list]: replaced(before[list] ?? [], device, (other) => other['devid'] === device['devid']),
  }));
}

/** The saved config with a device more, unless that device needs a qemu: none runs, and none is started for it. */
async function withDevice(
  ctx: Ctx,
  domid: number,
  adding: Adding,
  change: (before: DomainConfig) => DomainConfig,
): Promise<DomainConfig> {
  adding.unlock = await lockConfig(ctx, domid);
  const config = change(await readConfig(ctx, domid));
  const image = `/local/domain/${domid}/image`;
  const active =
    (await ctx.xs.read(`${image}/device-model-pid`)) !== undefined ||
    (await ctx.xs.read(`${image}/device-model-domid`)) !== undefined;
  if (active || !needsQemu(config)) return config;
  const line = 'device model required but not running';
  ctx.log('error', 'libxl_dm.c:3845:libxl__dm_check_start', domid, line);
  throw new LibxlError(Rc.FAIL, line);
}

/** `xl usbdev-attach`. */
export async function usbdevAttach(ctx: Ctx, domid: number, { hostbus, hostaddr, ctrl }: Usbdev): Promise<void> {
  await refuseUsbdev(ctx, domid, { ctrl, 'type.hostdev': { hostbus, hostaddr } }).catch((error: unknown) => {
    throw refusedDevice(ctx, error);
  });
}
