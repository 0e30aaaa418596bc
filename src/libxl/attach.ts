/**
 * Giving a device to a domain that exists: its defaults, its number, the saved config with it, then what a creation does
 * for a device too (device.ts).
 *
 * The order, and which failure says what, is that of `device_disk_add`, `libxl__device_add_async` and
 * `libxl__device_add` of libxl 4.17. A kind whose backend nobody runs here is written like any other, and its backend
 * awaited like that of a host without the driver.
 */
import { strerror, transact } from './ao.js';
import { diskDevice, nicDevice } from './create.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { checkAlive, type Device, deviceAdd, genericAdd, refusedDevice } from './device.js';
import { devicesPath, findUsbctrl } from './device-list.js';
import type { Usbctrl, Usbdev, Vdispl, Vkb, Vtpm } from './device-words.js';
import { vdisplJson, vkbNodes, vtpmJson } from './device-words.js';
import { type Disk, diskNodes, needsStat, setDiskDefaults } from './disk.js';
import { checkType, formatUuid, qualifierToDomid } from './domain.js';
import type { DomainConfig, OtherDeviceList } from './domain-config.js';
import type { JsonObject, JsonValue } from './json.js';
import { type Nic, nextNicDevid, nicNodes, nicObstacle, savedNic, setNicDefaults } from './nic.js';
import type { DeviceNodes, NodePair } from './nodes.js';
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
    const backendDomid = (await resolveBackend(ctx, vtpm.backendDomname)) ?? 0;
    const devid = await nextDevid(ctx, domid, 'vtpm');
    const config = await withOther(ctx, domid, adding, 'vtpms', numbered(vtpmJson({ ...vtpm, uuid }), devid));
    const nodes = plainNodes(domid, backendDomid, {
      front: [['handle', String(devid)]],
      back: [
        ['handle', String(devid)],
        ['uuid', uuid],
        ['resume', 'False'],
      ],
    });
    return { device: { domid, devid, kind: 'vtpm', backendDomid, backendKind: 'vtpm' }, nodes, config };
  });
}

/** `xl vdispl-attach`. */
export function vdisplAttach(ctx: Ctx, domid: number, vdispl: Vdispl): Promise<void> {
  return add(ctx, domid, async (adding) => {
    const backendDomid = (await resolveBackend(ctx, vdispl.backendDomname)) ?? 0;
    const devid = await nextDevid(ctx, domid, 'vdispl');
    const config = await withOther(ctx, domid, adding, 'vdispls', numbered(vdisplJson(vdispl), devid));
    const connectors = vdispl.connectors.flatMap(({ uniqueId, width, height }, index): NodePair[] => [
      [`${index}/resolution`, `${width}x${height}`],
      [`${index}/unique-id`, uniqueId],
    ]);
    const frontRo: NodePair[] = [['be-alloc', vdispl.beAlloc ? '1' : '0'], ...connectors];
    const nodes = { ...plainNodes(domid, backendDomid, {}), frontRo };
    return { device: { domid, devid, kind: 'vdispl', backendDomid, backendKind: 'vdispl' }, nodes, config };
  });
}

/** `xl vsnd-attach`: a card as JSON, as `sound-card.ts` reads it. */
export function vsndAttach(ctx: Ctx, domid: number, card: JsonObject): Promise<void> {
  return add(ctx, domid, async (adding) => {
    const backendDomid = (await resolveBackend(ctx, text(card['backend_domname']))) ?? 0;
    const devid = await nextDevid(ctx, domid, 'vsnd');
    const config = await withOther(ctx, domid, adding, 'vsnds', numbered(card, devid));
    const nodes = plainNodes(domid, backendDomid, { front: cardNodes(card) });
    return { device: { domid, devid, kind: 'vsnd', backendDomid, backendKind: 'vsnd' }, nodes, config };
  });
}

function cardNodes(card: JsonObject): NodePair[] {
  return [
    ...named(card, 'long_name', 'long-name'),
    ...named(card, 'short_name', 'short-name'),
    ...paramNodes(card, ''),
    ...objects(card['pcms']).flatMap((pcm, index) => [
      ...named(pcm, 'name', `${index}/name`),
      ...paramNodes(pcm, `${index}/`),
      ...objects(pcm['streams']).flatMap((stream, place) => streamNodes(stream, `${index}/${place}/`)),
    ]),
  ];
}

function streamNodes(stream: JsonObject, prefix: string): NodePair[] {
  return [
    ...named(stream, 'unique_id', `${prefix}unique-id`),
    ...named(stream, 'type', `${prefix}type`),
    ...paramNodes(stream, prefix),
  ];
}

function paramNodes(owner: JsonObject, prefix: string): NodePair[] {
  const params = objects([owner['params'] ?? {}])[0] ?? {};
  return ['sample_rates', 'sample_formats', 'channels_min', 'channels_max', 'buffer_size'].flatMap((field): NodePair[] => {
    const value = params[field];
    return value ? [[`${prefix}${field.replace('_', '-')}`, String(value)]] : [];
  });
}

function named(owner: JsonObject, field: string, node: string): NodePair[] {
  const value = text(owner[field]);
  return value === undefined ? [] : [[node, value]];
}

function text(value: JsonValue | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function objects(value: JsonValue | undefined): readonly JsonObject[] {
  return Array.isArray(value) ? (value as readonly JsonObject[]) : [];
}

/** The most ports that a paravirtual controller has (USBIF_MAX_PORTNR). */
const USBIF_MAX_PORTNR = 31;

/**
 * `xl usbctrl-attach`. `auto` is qemu's controller on a host whose kernel has no usbback, as here; there is no qemu
 * either, and so it is refused.
 */
export function usbctrlAttach(ctx: Ctx, domid: number, given: Usbctrl): Promise<void> {
  return add(ctx, domid, async (adding) => {
    await checkType(ctx, domid).catch((error: unknown) => {
      // libxl takes a domain that it cannot see for one that is not HVM, and stumbles later.
      if (!(error instanceof LibxlError)) throw error;
    });
    const usbctrl = settleUsbctrl(ctx, given);
    const devid = await nextDevid(ctx, domid, 'vusb');
    const json = { type: usbctrl.type, devid, version: usbctrl.version, ports: usbctrl.ports };
    const config = await withOther(ctx, domid, adding, 'usbctrls', json);
    const ports = Array.from({ length: usbctrl.ports }, (_, index): NodePair => [`port/${index + 1}`, '']);
    const nodes = plainNodes(domid, 0, {
      back: [
        ['type', usbctrl.type],
        ['usb-ver', String(usbctrl.version)],
        ['num-ports', String(usbctrl.ports)],
        ['port', ''],
        ...ports,
      ],
    });
    return { device: { domid, devid, kind: 'vusb', backendDomid: 0, backendKind: 'vusb' }, nodes, config };
  });
}

function settleUsbctrl(ctx: Ctx, { type: given, version: wantedVersion, ports: wantedPorts }: Usbctrl): Usbctrl {
  const refuse = (line: number, message: string): never => {
    ctx.log('error', `libxl_usb.c:${line}:libxl__device_usbctrl_setdefault`, undefined, message);
    throw new LibxlError(Rc.INVAL, message);
  };
  const type = given === 'auto' ? 'qusb' : given;
  const version = wantedVersion || 2;
  if (type === 'devicemodel') {
    if (version < 1 || version > 3) return refuse(117, 'Illegal USB version');
    const fixed = version === 1 ? 2 : version === 2 ? 6 : undefined;
    if (fixed !== undefined && wantedPorts && wantedPorts !== fixed) {
      return refuse(version === 1 ? 88 : 98, `Number of ports for USB controller of version ${version} is always ${fixed}`);
    }
    if (wantedPorts > 15) return refuse(110, 'Number of ports for USB controller of version 3 is limited to 15');
    return { type, version, ports: fixed ?? (wantedPorts || 8) };
  }
  if (version < 1 || version > 2) return refuse(67, 'USB version for paravirtualized devices must be 1 or 2');
  const ports = wantedPorts || 8;
  if (ports < 1 || ports > USBIF_MAX_PORTNR) {
    return refuse(75, `Number of ports for USB controller is limited to ${USBIF_MAX_PORTNR}`);
  }
  return { type, version, ports };
}

/**
 * `xl vkb-attach`: its nodes are written and that is all. Nobody waits for its backend, and the saved config does not
 * learn of it.
 */
export async function vkbAttach(ctx: Ctx, domid: number, vkb: Vkb): Promise<void> {
  try {
    const backendDomid = (await resolveBackend(ctx, vkb.backendDomname)) ?? 0;
    const devid = await nextDevid(ctx, domid, 'vkbd');
    const backendKind = vkb.backendType === 'linux' ? 'vinput' : 'vkbd';
    const device: Device = { domid, devid, kind: 'vkbd', backendDomid, backendKind };
    const nodes = plainNodes(domid, backendDomid, { back: vkbBackNodes(vkb) });
    await transact(ctx, async (tx) => {
      await checkAlive(tx, domid);
      await genericAdd(tx, device, nodes);
    });
  } catch (error) {
    if (error instanceof LibxlError) ctx.log('error', 'libxl_vkb.c:239:libxl_device_vkb_add', domid, 'Unable to add vkb device');
    throw error;
  }
}

function vkbBackNodes({ uniqueId, numbers }: Vkb): NodePair[] {
  const touch = Boolean(numbers['feature-multi-touch']);
  const before: NodePair[] = vkbNodes.slice(0, 5).flatMap((node): NodePair[] => (numbers[node] ? [[node, '1']] : []));
  const touched = vkbNodes.slice(7).map((node): NodePair => [node, String(numbers[node] ?? 0)]);
  const size = vkbNodes.slice(5, 7).flatMap((node): NodePair[] => (numbers[node] ? [[node, String(numbers[node])]] : []));
  return [...(uniqueId === undefined ? [] : ([['unique-id', uniqueId]] as const)), ...before, ...(touch ? touched : []), ...size];
}

// ---- What they share

/** The nodes that every device has, and then its own. */
function plainNodes(
  domid: number,
  backendDomid: number,
  own: { readonly front?: readonly NodePair[]; readonly back?: readonly NodePair[] },
): DeviceNodes {
  return {
    front: [['backend-id', String(backendDomid)], ['state', '1'], ...(own.front ?? [])],
    frontRo: [],
    back: [['frontend-id', String(domid)], ['online', '1'], ['state', '1'], ...(own.back ?? [])],
  };
}

/** The domain that a device's `backend=` names. libxl says nothing of one that it does not find. */
async function resolveBackend(ctx: Ctx, name: string | undefined): Promise<number | undefined> {
  if (name === undefined) return undefined;
  const domid = await qualifierToDomid(ctx, name);
  if (domid === undefined) throw new LibxlError(Rc.INVAL, `there is no domain ${name} for the backend`);
  return domid;
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

/** What a PV guest has a qemu for (libxl__need_xenpv_qemu). A disk counts only if its config names that backend. */
function needsQemu({ vfbs = [], p9s = [], disks, usbctrls = [], channels = [] }: DomainConfig): boolean {
  return (
    vfbs.length > 0 ||
    p9s.length > 0 ||
    disks.some((disk) => disk.backend === 'qdisk' && (disk.backendDomid ?? 0) === 0) ||
    usbctrls.some((usbctrl) => usbctrl['type'] === 'qusb' && (usbctrl['backend_domid'] ?? 0) === 0) ||
    channels.some((channel) => (channel['backend_domid'] ?? 0) === 0)
  );
}

/** `xl usbdev-attach`: the host has no USB device that could be given away. */
export async function usbdevAttach(ctx: Ctx, domid: number, { hostbus, hostaddr, ctrl }: Usbdev): Promise<void> {
  const refuse = (line: string) => refusedDevice(ctx, new LibxlError(Rc.FAIL, line));
  if (ctrl !== -1 && !(await findUsbctrl(ctx, domid, ctrl))) throw refuse(`there is no USB controller ${ctrl}`);
  if (hostbus > 0 && hostaddr > 0) {
    const message = `opendir failed: '/sys/bus/usb/devices': ${strerror('ENOENT')}`;
    ctx.log('error', 'libxl_usb.c:837:usbdev_busaddr_to_busid', undefined, message);
  }
  const line = 'USB device is not assignable.';
  ctx.log('error', 'libxl_usb.c:1732:libxl__device_usbdev_add', domid, line);
  throw refuse(line);
}
