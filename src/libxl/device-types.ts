/**
 * The types of device other than disks, network interfaces and console 0: the device and the XenStore nodes of each, from
 * libxl's JSON of it.
 *
 * What a domain is created with and what `xl ...-attach` adds later are written alike. Order and values are those of the
 * `set_xenstore_config` functions of libxl 4.17; which of these devices anybody here serves is not this file's matter.
 */
import { strerror } from './ao.js';
import { LIBXL_XENCONSOLE_LIMIT, LIBXL_XENCONSOLE_PROTOCOL } from './console.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import type { Device } from './device.js';
import { findUsbctrl } from './device-list.js';
import { qualifierToDomid } from './domain.js';
import type { DomainConfig } from './domain-config.js';
import type { JsonObject, JsonValue } from './json.js';
import type { DeviceNodes, NodePair } from './nodes.js';

/** A device and what is written of it. */
export interface Writable {
  readonly device: Device;
  readonly nodes: DeviceNodes;
}

/** What is settled before a device can be written: whose it is, and its number. */
export interface Place {
  readonly domid: number;
  readonly devid: number;
  readonly backendDomid: number;
}

function device({ domid, devid, backendDomid }: Place, kind: string, backendKind = kind): Device {
  return { domid, devid, kind, backendDomid, backendKind };
}

/** The nodes that every device has, and then its own. */
function plainNodes(
  { domid, backendDomid }: Place,
  own: { readonly front?: readonly NodePair[]; readonly back?: readonly NodePair[] },
): DeviceNodes {
  return {
    front: [['backend-id', String(backendDomid)], ['state', '1'], ...(own.front ?? [])],
    frontRo: [],
    back: [['frontend-id', String(domid)], ['online', '1'], ['state', '1'], ...(own.back ?? [])],
  };
}

function text(value: JsonValue | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function object(value: JsonValue | undefined): JsonObject {
  return (typeof value === 'object' && value !== null && !Array.isArray(value) ? value : {}) as JsonObject;
}

function objects(value: JsonValue | undefined): readonly JsonObject[] {
  return Array.isArray(value) ? (value as readonly JsonObject[]) : [];
}

function named(owner: JsonObject, field: string, node: string): NodePair[] {
  const value = text(owner[field]);
  return value === undefined ? [] : [[node, value]];
}

/** The domain that `backend=` of a device names, by libxl's JSON of the device. */
export function backendName(json: JsonObject): string | undefined {
  return text(json['backend_domname']);
}

/** The domid of that domain. libxl says nothing of one that it does not find. */
export async function resolveBackend(ctx: Ctx, name: string | undefined): Promise<number | undefined> {
  if (name === undefined) return undefined;
  const domid = await qualifierToDomid(ctx, name);
  if (domid === undefined) throw new LibxlError(Rc.INVAL, `there is no domain ${name} for the backend`);
  return domid;
}

/**
 * Whether a PV guest has a qemu (libxl__need_xenpv_qemu). A disk counts only if qemu was chosen for it, and like a USB
 * controller or a channel only if its backend is in dom0.
 */
export function needsQemu({ vfbs = [], p9s = [], disks, usbctrls = [], channels = [] }: DomainConfig): boolean {
  return (
    vfbs.length > 0 ||
    p9s.length > 0 ||
    disks.some((disk) => disk.backend === 'qdisk' && (disk.backendDomid ?? 0) === 0) ||
    usbctrls.some((usbctrl) => usbctrl['type'] === 'qusb' && (usbctrl['backend_domid'] ?? 0) === 0) ||
    channels.some((channel) => (channel['backend_domid'] ?? 0) === 0)
  );
}

// ---- Displays, keyboards

/** libxl's defaults of a defbool. */
function flag(value: JsonValue | undefined, otherwise: boolean): '0' | '1' {
  return (value === undefined ? otherwise : value === 'True') ? '1' : '0';
}

/** A frame buffer, which is qemu's. */
export function vfbDevice(json: JsonObject, place: Place): Writable {
  const vnc = object(json['vnc']);
  const sdl = object(json['sdl']);
  const isShown = flag(vnc['enable'], true);
  const listen = text(vnc['listen']) ?? (isShown === '1' ? '127.0.0.1' : undefined);
  const back: NodePair[] = [
    ['vnc', isShown],
    ...(listen === undefined ? [] : ([['vnclisten', listen]] as const)),
    ...named(vnc, 'passwd', 'vncpasswd'),
    ['vncdisplay', String(vnc['display'] ?? 0)],
    ['vncunused', flag(vnc['findunused'], isShown === '1')],
    ['sdl', flag(sdl['enable'], false)],
    ['opengl', flag(sdl['opengl'], false)],
    ...named(sdl, 'xauthority', 'xauthority'),
    ...named(sdl, 'display', 'display'),
  ];
  return { device: device(place, 'vfb'), nodes: plainNodes(place, { back }) };
}

const vkbFeatures = ['feature-disable-keyboard', 'feature-disable-pointer', 'feature-abs-pointer', 'feature-raw-pointer'];
const vkbTouch = ['multi-touch-width', 'multi-touch-height', 'multi-touch-num-contacts'];

/** A keyboard: qemu's unless it says `linux`. */
export function vkbDevice(json: JsonObject, place: Place): Writable {
  const number = (node: string) => Number(json[node.replaceAll('-', '_')] ?? 0);
  const given = (node: string): NodePair[] => (number(node) ? [[node, String(number(node))]] : []);
  const touch: NodePair[] = number('feature-multi-touch')
    ? [['feature-multi-touch', '1'], ...vkbTouch.map((node): NodePair => [node, String(number(node))])]
    : [];
  const back = [
    ...named(json, 'unique_id', 'unique-id'),
    ...vkbFeatures.flatMap(given),
    ...touch,
    ...['width', 'height'].flatMap(given),
  ];
  const backendKind = json['backend_type'] === 'linux' ? 'vinput' : 'vkbd';
  return { device: device(place, 'vkbd', backendKind), nodes: plainNodes(place, { back }) };
}

/** A display with its connectors. */
export function vdisplDevice(json: JsonObject, place: Place): Writable {
  const connectors = objects(json['connectors']).flatMap((connector, index): NodePair[] => [
    [`${index}/resolution`, `${connector['width'] ?? 0}x${connector['height'] ?? 0}`],
    [`${index}/unique-id`, text(connector['unique_id']) ?? ''],
  ]);
  const frontRo: NodePair[] = [['be-alloc', json['be_alloc'] ? '1' : '0'], ...connectors];
  return { device: device(place, 'vdispl'), nodes: { ...plainNodes(place, {}), frontRo } };
}

// ---- Sound cards

/** A sound card, as `sound-card.ts` reads it. */
export function vsndDevice(card: JsonObject, place: Place): Writable {
  const front = [
    ...named(card, 'long_name', 'long-name'),
    ...named(card, 'short_name', 'short-name'),
    ...paramNodes(card, ''),
    ...objects(card['pcms']).flatMap((pcm, index) => [
      ...named(pcm, 'name', `${index}/name`),
      ...paramNodes(pcm, `${index}/`),
      ...objects(pcm['streams']).flatMap((stream, at) => streamNodes(stream, `${index}/${at}/`)),
    ]),
  ];
  return { device: device(place, 'vsnd'), nodes: plainNodes(place, { front }) };
}

function streamNodes(stream: JsonObject, prefix: string): NodePair[] {
  return [
    ...named(stream, 'unique_id', `${prefix}unique-id`),
    ...named(stream, 'type', `${prefix}type`),
    ...paramNodes(stream, prefix),
  ];
}

function paramNodes(owner: JsonObject, prefix: string): NodePair[] {
  const params = object(owner['params']);
  return ['sample_rates', 'sample_formats', 'channels_min', 'channels_max', 'buffer_size'].flatMap((field): NodePair[] => {
    const value = params[field];
    return value ? [[`${prefix}${field.replace('_', '-')}`, String(value)]] : [];
  });
}

// ---- TPMs, shares, sockets

/** A TPM with its uuid. */
export function vtpmDevice(json: JsonObject, place: Place): Writable {
  const handle: NodePair = ['handle', String(place.devid)];
  const back: NodePair[] = [handle, ['uuid', text(json['uuid']) ?? ''], ['resume', 'False']];
  return { device: device(place, 'vtpm'), nodes: plainNodes(place, { front: [handle], back }) };
}

/** A directory shared by 9P, which is qemu's. */
export function p9Device(json: JsonObject, place: Place): Writable {
  const back = [...named(json, 'path', 'path'), ...named(json, 'security_model', 'security_model')];
  return { device: device(place, '9pfs'), nodes: plainNodes(place, { front: named(json, 'tag', 'tag'), back }) };
}

export function pvcallsDevice(_json: JsonObject, place: Place): Writable {
  return { device: device(place, 'pvcalls'), nodes: plainNodes(place, {}) };
}

// ---- Channels

/**
 * A channel: a console with a name, served by qemu. Without a name it is refused; one of number 0 would be the domain's
 * console, and is silently left out.
 */
export function channelDevice(ctx: Ctx, json: JsonObject, place: Place): Writable | undefined {
  const name = text(json['name']);
  if (name === undefined) {
    const line = `channel ${place.devid} has no name`;
    ctx.log('error', 'libxl_console.c:407:libxl__init_console_from_channel', undefined, line);
    throw new LibxlError(Rc.INVAL, line);
  }
  if (place.devid === 0) {
    const where = 'libxl_console.c:271:libxl__device_console_add';
    ctx.log('error', where, place.domid, 'Primary console has invalid configuration');
    return undefined;
  }
  const path = text(object(json['connection.socket'])['path']);
  const output = path === undefined ? 'pty' : `chardev:libxl-channel${place.devid}`;
  const nodes: DeviceNodes = {
    front: [
      ['backend-id', String(place.backendDomid)],
      ['state', '1'],
      ['protocol', LIBXL_XENCONSOLE_PROTOCOL],
    ],
    frontRo: [
      ['name', name],
      ['limit', String(LIBXL_XENCONSOLE_LIMIT)],
      ['type', 'ioemu'],
      ['output', output],
      ['tty', ''],
    ],
    back: [
      ['frontend-id', String(place.domid)],
      ['online', '1'],
      ['state', '1'],
      ['protocol', LIBXL_XENCONSOLE_PROTOCOL],
      ['name', name],
      ['connection', path === undefined ? 'pty' : 'socket'],
      ...(path === undefined ? [] : ([['path', path]] as const)),
    ],
  };
  return { device: device(place, 'console'), nodes };
}

// ---- USB

/** The most ports that a paravirtual controller has (USBIF_MAX_PORTNR). */
const USBIF_MAX_PORTNR = 31;

/** A USB controller with its defaults, or libxl's refusal of it. `auto` is qemu's on a host whose kernel has no usbback, as here. */
export function settleUsbctrl(ctx: Ctx, json: JsonObject): JsonObject {
  const refuse = (line: number, message: string): never => {
    ctx.log('error', `libxl_usb.c:${line}:libxl__device_usbctrl_setdefault`, undefined, message);
    throw new LibxlError(Rc.INVAL, message);
  };
  const given = json['type'] ?? 'auto';
  const type = given === 'auto' ? 'qusb' : given;
  const version = Number(json['version'] ?? 0) || 2;
  const wanted = Number(json['ports'] ?? 0);
  if (type === 'devicemodel') {
    if (version < 1 || version > 3) return refuse(117, 'Illegal USB version');
    const fixed = version === 1 ? 2 : version === 2 ? 6 : undefined;
    if (fixed !== undefined && wanted && wanted !== fixed) {
      return refuse(version === 1 ? 88 : 98, `Number of ports for USB controller of version ${version} is always ${fixed}`);
    }
    if (wanted > 15) return refuse(110, 'Number of ports for USB controller of version 3 is limited to 15');
    return { ...json, type, version, ports: fixed ?? (wanted || 8) };
  }
  if (version < 1 || version > 2) return refuse(67, 'USB version for paravirtualized devices must be 1 or 2');
  const ports = wanted || 8;
  if (ports < 1 || ports > USBIF_MAX_PORTNR) {
    return refuse(75, `Number of ports for USB controller is limited to ${USBIF_MAX_PORTNR}`);
  }
  return { ...json, type, version, ports };
}

/** A settled USB controller. */
export function usbctrlDevice(json: JsonObject, place: Place): Writable {
  const ports = Array.from({ length: Number(json['ports']) }, (_, index): NodePair => [`port/${index + 1}`, '']);
  const back: NodePair[] = [
    ['type', String(json['type'])],
    ['usb-ver', String(json['version'])],
    ['num-ports', String(json['ports'])],
    ['port', ''],
    ...ports,
  ];
  return { device: device(place, 'vusb', json['type'] === 'qusb' ? 'qusb' : 'vusb'), nodes: plainNodes(place, { back }) };
}

/** Refuses a USB device: the host has none that could be given away. */
export async function refuseUsbdev(ctx: Ctx, domid: number, json: JsonObject): Promise<never> {
  const { hostbus = 0, hostaddr = 0 } = object(json['type.hostdev']);
  const ctrl = Number(json['ctrl'] ?? -1);
  if (ctrl !== -1 && !(await findUsbctrl(ctx, domid, ctrl))) throw new LibxlError(Rc.FAIL, `there is no USB controller ${ctrl}`);
  if (Number(hostbus) > 0 && Number(hostaddr) > 0) {
    const message = `opendir failed: '/sys/bus/usb/devices': ${strerror('ENOENT')}`;
    ctx.log('error', 'libxl_usb.c:837:usbdev_busaddr_to_busid', undefined, message);
  }
  const line = 'USB device is not assignable.';
  ctx.log('error', 'libxl_usb.c:1732:libxl__device_usbdev_add', domid, line);
  throw new LibxlError(Rc.FAIL, line);
}
