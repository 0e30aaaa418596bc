/**
 * The devices that a domain has, as libxl reads them back from XenStore: for the listings, for what is detached by name,
 * and to tell which devices of a saved config are still there.
 *
 * libxl trusts its own copies below `/libxl/N/device` and asks the frontend's directory only for what the guest alone
 * knows (libxl 4.17: `libxl__device_list` and the `..._from_xenstore` and `..._getinfo` of each kind). What is not there
 * reads as -1. A device that cannot be read spoils the whole list of its kind: it is undefined then, as is that of none.
 */
import { domainPath, join, libxlPath } from '../xenbus/paths.js';
import { textOf } from '../xenbus/xs-client.js';
import { strerror } from './ao.js';
import type { Ctx } from './ctx.js';
import type { Device } from './device.js';
import { type DiskBackend, diskBackendKind, vdevToDevid } from './disk.js';
import { asUint64, atoi, strtol } from './strtol.js';

/** What every kind of device has. */
export interface Listed {
  readonly devid: number;
  readonly backendDomid: number;
  /** The path of its backend. */
  readonly backend: string;
}

export async function readText(ctx: Ctx, path: string): Promise<string | undefined> {
  const bytes = await ctx.xs.read(path);
  return bytes === undefined ? undefined : textOf(bytes);
}

/** A node that must be there: its absence is told (libxl__xs_read_mandatory). */
export async function readMandatory(ctx: Ctx, path: string): Promise<string | undefined> {
  const text = await readText(ctx, path);
  if (text === undefined) {
    const where = 'libxl_xshelp.c:206:libxl__xs_read_mandatory';
    ctx.log('error', where, undefined, `xenstore read failed: \`${path}': ${strerror('ENOENT')}`);
  }
  return text;
}

/** `strtoul` into an int; -1 for a node that is not there. */
export async function readNumber(ctx: Ctx, path: string): Promise<number> {
  const text = await readText(ctx, path);
  return text === undefined ? -1 : Number(BigInt.asIntN(32, asUint64(strtol(text, 10))));
}

export function devicesPath(domid: number, kind: string): string {
  return join(libxlPath(domid), 'device', kind);
}

function frontendPath(domid: number, kind: string, devid: number): string {
  return join(domainPath(domid), 'device', kind, devid);
}

/** The domain of a backend path. */
function backendDomidOf(ctx: Ctx, path: string): number | undefined {
  const match = /^\/local\/domain\/(\d+)\//.exec(path);
  if (match) return Number(match[1]);
  const where = 'libxl_device.c:419:libxl__backendpath_parse_domid';
  ctx.log('error', where, undefined, `internal error: backend path ${path} unparseable!`);
  return undefined;
}

/** The devices of one kind in the order of the store, each read by `readOne`. */
async function listKind<T>(
  ctx: Ctx,
  dir: string,
  readOne: (path: string, devid: number) => Promise<T | undefined>,
): Promise<readonly T[] | undefined> {
  const names = (await ctx.xs.directory(dir)) ?? [];
  const found: T[] = [];
  for (const name of names) {
    const devid = atoi(name);
    const device = await readOne(`${dir}/${devid}`, devid);
    if (!device) return undefined;
    found.push(device);
  }
  return found.length > 0 ? found : undefined;
}

/** `backend` of the device at `path`, as far as all kinds read it alike. */
async function readLinks(ctx: Ctx, path: string, devid: number): Promise<Listed | undefined> {
  const backend = await readMandatory(ctx, `${path}/backend`);
  const backendDomid = backend === undefined ? undefined : backendDomidOf(ctx, backend);
  return backend === undefined || backendDomid === undefined ? undefined : { devid, backendDomid, backend };
}

/** The device itself, for what removes it. */
export function deviceOf(domid: number, kind: string, { devid, backendDomid }: Listed, backendKind = kind): Device {
  return { domid, devid, kind, backendDomid, backendKind };
}

// ---- Disks

export interface ListedDisk {
  readonly devid: number;
  readonly vdev: string;
  readonly backendDomid: number;
  readonly backend: DiskBackend | undefined;
  readonly pdevPath: string | undefined;
  readonly removable: boolean;
  readonly isCdrom: boolean;
  readonly specification: string;
}

/** Where a domain's disks are: all of them are `vbd`, or all `virtio_disk`. */
async function disksPath(ctx: Ctx, domid: number): Promise<string | undefined> {
  const xen = devicesPath(domid, 'vbd');
  const virtio = devicesPath(domid, 'virtio_disk');
  const hasXen = (await ctx.xs.read(xen)) !== undefined;
  const hasVirtio = (await ctx.xs.read(virtio)) !== undefined;
  if (hasXen && hasVirtio) {
    const where = 'libxl_disk.c:696:libxl__device_disk_get_path';
    ctx.log('error', where, domid, 'Invalid configuration, both xen and virtio paths are present');
    return undefined;
  }
  return hasVirtio ? virtio : xen;
}

export async function listDisks(ctx: Ctx, domid: number): Promise<readonly ListedDisk[] | undefined> {
  const dir = await disksPath(ctx, domid);
  return dir === undefined ? undefined : listKind(ctx, dir, (path) => readDisk(ctx, path));
}

/** The disk that `vdev` names; undefined if there is none, which the log has said unless the name means nothing. */
export async function findDisk(ctx: Ctx, domid: number, vdev: string): Promise<ListedDisk | undefined> {
  const devid = vdevToDevid(vdev);
  if (devid < 0) return undefined;
  const dir = await disksPath(ctx, domid);
  return dir === undefined ? undefined : readDisk(ctx, `${dir}/${devid}`);
}

async function readDisk(ctx: Ctx, path: string): Promise<ListedDisk | undefined> {
  const say = (line: number, message: string) =>
    ctx.log('error', `libxl_disk.c:${line}:libxl__disk_from_xenstore`, undefined, message);
  const backend = await readText(ctx, `${path}/backend`);
  if (backend === undefined) {
    say(516, `disk ${path} does not exist (no backend path`);
    return undefined;
  }
  const backendDomid = backendDomidOf(ctx, backend);
  if (backendDomid === undefined) {
    say(523, `Unable to fetch device backend domid from ${backend}`);
    return undefined;
  }
  const params = await readText(ctx, `${path}/params`);
  // With COLO more nodes would have to be there; nothing here writes them.
  await ctx.xs.read(`${path}/colo-host`);
  const required = async (node: string, line: number) => {
    const text = await readText(ctx, `${path}/${node}`);
    if (text === undefined) say(line, `Missing xenstore node ${path}/${node}`);
    return text;
  };
  const type = await required('type', 576);
  if (type === undefined) return undefined;
  const specification = (await readText(ctx, `${path}/specification`)) ?? 'xen';
  const vdev = await required('dev', 631);
  if (vdev === undefined) return undefined;
  const removable = await required('removable', 638);
  if (removable === undefined) return undefined;
  const mode = await required('mode', 645);
  if (mode === undefined) return undefined;
  const deviceType = await required('device-type', 656);
  if (deviceType === undefined) return undefined;
  return {
    devid: vdevToDevid(vdev),
    vdev,
    backendDomid,
    backend: backends.find((name) => name === type),
    pdevPath: params?.includes(':') ? params.slice(params.indexOf(':') + 1) : params,
    removable: atoi(removable) !== 0,
    isCdrom: deviceType === 'cdrom',
    specification,
  };
}

const backends: readonly DiskBackend[] = ['phy', 'qdisk', 'standalone'];

/** The device of a disk that was listed. */
export function listedDiskDevice(domid: number, disk: ListedDisk): Device {
  const { devid, backendDomid, backend = 'phy' } = disk;
  const kind = backend === 'standalone' ? 'virtio_disk' : 'vbd';
  return { domid, devid, kind, backendDomid, backendKind: diskBackendKind({ backend }) };
}

export interface DiskInfo extends Listed {
  readonly state: number;
  readonly evtch: number;
  readonly rref: number;
}

export async function diskInfo(ctx: Ctx, domid: number, disk: ListedDisk): Promise<DiskInfo | undefined> {
  const kind = disk.backend === 'standalone' ? 'virtio_disk' : 'vbd';
  const links = await infoLinks(ctx, domid, kind, disk.devid);
  if (!links) return undefined;
  const frontend = frontendPath(domid, kind, disk.devid);
  const info = {
    ...links,
    state: await readNumber(ctx, `${frontend}/state`),
    evtch: await readNumber(ctx, `${frontend}/event-channel`),
    rref: await readNumber(ctx, `${frontend}/ring-ref`),
  };
  await ctx.xs.read(`${devicesPath(domid, kind)}/${disk.devid}/frontend`);
  return info;
}

/** The links of a device that was listed just now; without a word if they are gone. */
async function infoLinks(ctx: Ctx, domid: number, kind: string, devid: number): Promise<Listed | undefined> {
  const backend = await readText(ctx, `${devicesPath(domid, kind)}/${devid}/backend`);
  const backendDomid = backend === undefined ? undefined : backendDomidOf(ctx, backend);
  return backend === undefined || backendDomid === undefined ? undefined : { devid, backendDomid, backend };
}

// ---- Network interfaces

export interface ListedNic {
  readonly devid: number;
  readonly backendDomid: number;
  /** All zeros when the store has none. */
  readonly mac: string;
}

export function listNics(ctx: Ctx, domid: number): Promise<readonly ListedNic[] | undefined> {
  return listKind(ctx, devicesPath(domid, 'vif'), (path) => readNic(ctx, path));
}

/** The interface of that number; that it is not there has been told. */
export async function findNic(ctx: Ctx, domid: number, devid: number): Promise<ListedNic | undefined> {
  const path = `${devicesPath(domid, 'vif')}/${devid}`;
  return (await readMandatory(ctx, path)) === undefined ? undefined : readNic(ctx, path);
}

/** The interface with that address. */
export async function findNicByMac(ctx: Ctx, domid: number, text: string): Promise<ListedNic | undefined> {
  const mac = parseMac(text);
  if (mac === undefined) return undefined;
  return (await listNics(ctx, domid))?.find((nic) => nic.mac === mac);
}

/** Six groups of exactly two characters that `strtol` takes for a number, in lower case; undefined for anything else. */
function parseMac(text: string): string | undefined {
  const bytes: number[] = [];
  let rest = text;
  while (rest !== '' && bytes.length < 6) {
    const number = strtol(rest, 16);
    if (number.end !== 2 || !(rest.length === 2 || rest[2] === ':')) return undefined;
    bytes.push(Number(BigInt.asUintN(8, number.value)));
    rest = rest.slice(3);
  }
  return bytes.length === 6 ? bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(':') : undefined;
}

async function readNic(ctx: Ctx, path: string): Promise<ListedNic | undefined> {
  const devid = atoi((await readText(ctx, `${path}/handle`)) ?? '0');
  const backend = await readText(ctx, `${path}/backend`);
  if (backend === undefined) {
    const where = 'libxl_nic.c:294:libxl__nic_from_xenstore';
    ctx.log('error', where, undefined, `nic ${path} does not exist (no backend path)`);
    return undefined;
  }
  const backendDomid = backendDomidOf(ctx, backend);
  const mac = parseMac((await readText(ctx, `${path}/mac`)) ?? '00:00:00:00:00:00');
  return backendDomid === undefined || mac === undefined ? undefined : { devid, backendDomid, mac };
}

export interface NicInfo extends Listed {
  readonly state: number;
  readonly evtch: number;
  readonly rrefTx: number;
  readonly rrefRx: number;
}

export async function nicInfo(ctx: Ctx, domid: number, { devid }: ListedNic): Promise<NicInfo | undefined> {
  const links = await infoLinks(ctx, domid, 'vif', devid);
  if (!links) return undefined;
  const frontend = frontendPath(domid, 'vif', devid);
  return {
    ...links,
    state: await readNumber(ctx, `${frontend}/state`),
    evtch: await readNumber(ctx, `${frontend}/event-channel`),
    rrefTx: await readNumber(ctx, `${frontend}/tx-ring-ref`),
    rrefRx: await readNumber(ctx, `${frontend}/rx-ring-ref`),
  };
}

// ---- Keyboards

export interface ListedVkb extends Listed {
  readonly backendType: 'qemu' | 'linux';
  readonly uniqueId: string | undefined;
}

export function listVkbs(ctx: Ctx, domid: number): Promise<readonly ListedVkb[] | undefined> {
  return listKind(ctx, devicesPath(domid, 'vkbd'), async (path, devid) => {
    const backend = await readMandatory(ctx, `${path}/backend`);
    if (backend === undefined || (await readMandatory(ctx, `${path}/frontend`)) === undefined) return undefined;
    const backendDomid = backendDomidOf(ctx, backend);
    if (backendDomid === undefined) return undefined;
    const backendType = backend.includes('/backend/vinput/') ? 'linux' : 'qemu';
    return { devid, backendDomid, backend, backendType, uniqueId: await readText(ctx, `${backend}/unique-id`) };
  });
}

export interface RingInfo extends Listed {
  readonly state: number;
  readonly evtch: number;
  readonly rref: number;
}

/** A device with one ring, whose grant reference is in the frontend's node `ring`. */
export async function ringInfo(
  ctx: Ctx,
  domid: number,
  kind: 'vkbd' | 'vtpm',
  devid: number,
  ring: string,
): Promise<RingInfo | undefined> {
  const links = await infoLinks(ctx, domid, kind, devid);
  if (!links) return undefined;
  const frontend = frontendPath(domid, kind, devid);
  return {
    ...links,
    state: await readNumber(ctx, `${frontend}/state`),
    evtch: await readNumber(ctx, `${frontend}/event-channel`),
    rref: await readNumber(ctx, `${frontend}/${ring}`),
  };
}

// ---- TPMs

export interface ListedVtpm extends Listed {
  readonly uuid: string | undefined;
}

const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** A uuid in lower case; undefined for what is none. */
export function parseUuid(text: string): string | undefined {
  return uuidPattern.test(text) ? text.toLowerCase() : undefined;
}

export function listVtpms(ctx: Ctx, domid: number): Promise<readonly ListedVtpm[] | undefined> {
  return listKind(ctx, devicesPath(domid, 'vtpm'), async (path, devid) => {
    const links = await readLinks(ctx, path, devid);
    if (!links) return undefined;
    const text = await readText(ctx, `${links.backend}/uuid`);
    const uuid = text === undefined ? undefined : parseUuid(text);
    if (text !== undefined && uuid === undefined) {
      const message = `${links.backend}/uuid is a malformed uuid?? (${text}) Probably a bug!!\n`;
      ctx.log('error', 'libxl_vtpm.c:82:libxl__vtpm_from_xenstore', links.backendDomid, message);
      return undefined;
    }
    return { ...links, uuid };
  });
}

export interface VtpmInfo extends RingInfo {
  readonly uuid: string;
}

export async function vtpmInfo(ctx: Ctx, domid: number, { devid }: ListedVtpm): Promise<VtpmInfo | undefined> {
  const info = await ringInfo(ctx, domid, 'vtpm', devid, 'ring-ref');
  if (!info) return undefined;
  const text = await readText(ctx, `${devicesPath(domid, 'vtpm')}/${devid}/uuid`);
  const uuid = text === undefined ? undefined : parseUuid(text);
  if (uuid !== undefined) return { ...info, uuid };
  const [line, message] =
    text === undefined
      ? [137, `${info.backend}/uuid does not exist!`]
      : [141, `${info.backend}/uuid is a malformed uuid?? (${text}) Probably a bug!\n`];
  ctx.log('error', `libxl_vtpm.c:${line}:libxl_device_vtpm_getinfo`, domid, message);
  return undefined;
}

// ---- Displays and sound cards

export function listVdispls(ctx: Ctx, domid: number): Promise<readonly Listed[] | undefined> {
  return listKind(ctx, devicesPath(domid, 'vdispl'), (path, devid) => readLinks(ctx, path, devid));
}

/** One display; that it is not there has been told. */
export async function findVdispl(ctx: Ctx, domid: number, devid: number): Promise<Listed | undefined> {
  const path = `${devicesPath(domid, 'vdispl')}/${devid}`;
  return (await readMandatory(ctx, path)) === undefined ? undefined : readLinks(ctx, path, devid);
}

export interface ConnectorInfo {
  readonly uniqueId: string;
  readonly width: number;
  readonly height: number;
  readonly reqRref: number;
  readonly reqEvtch: number;
  readonly evtRref: number;
  readonly evtEvtch: number;
}

export interface VdisplInfo extends Listed {
  readonly frontend: string;
  readonly state: number;
  readonly beAlloc: number;
  readonly connectors: readonly ConnectorInfo[];
}

export async function vdisplInfo(ctx: Ctx, domid: number, { devid }: Listed): Promise<VdisplInfo | undefined> {
  const links = await infoLinks(ctx, domid, 'vdispl', devid);
  if (!links) return undefined;
  const dir = frontendPath(domid, 'vdispl', devid);
  const state = await readNumber(ctx, `${dir}/state`);
  const frontend = (await readText(ctx, `${devicesPath(domid, 'vdispl')}/${devid}/frontend`)) ?? '(null)';
  const beAlloc = Math.max(0, await readNumber(ctx, `${dir}/be-alloc`));
  const connectors: ConnectorInfo[] = [];
  for (let index = 0; (await ctx.xs.read(`${dir}/${index}`)) !== undefined; index++) {
    const connector = await readConnector(ctx, `${dir}/${index}`);
    if (!connector) return undefined;
    connectors.push(connector);
  }
  return { ...links, frontend, state, beAlloc, connectors };
}

async function readConnector(ctx: Ctx, path: string): Promise<ConnectorInfo | undefined> {
  const uniqueId = await readText(ctx, `${path}/unique-id`);
  const [, width, height] = /^(\d+)x(\d+)/.exec((await readText(ctx, `${path}/resolution`)) ?? '') ?? [];
  if (uniqueId === undefined || width === undefined) return undefined;
  return {
    uniqueId,
    width: Number(width),
    height: Number(height),
    reqRref: await readNumber(ctx, `${path}/req-ring-ref`),
    reqEvtch: await readNumber(ctx, `${path}/req-event-channel`),
    evtRref: await readNumber(ctx, `${path}/evt-ring-ref`),
    evtEvtch: await readNumber(ctx, `${path}/evt-event-channel`),
  };
}

/** What cards, their devices and the streams of these have alike; an absent one is not printed. */
export interface SoundParams {
  readonly channelsMin: number;
  readonly channelsMax: number;
  readonly bufferSize: number;
  readonly sampleRates: readonly number[];
  readonly sampleFormats: readonly string[];
}

export interface ListedStream {
  readonly uniqueId: string | undefined;
  readonly type: string | undefined;
  readonly params: SoundParams;
  readonly evtch: number;
  readonly rref: number;
}

export interface ListedPcm {
  readonly name: string | undefined;
  readonly params: SoundParams;
  readonly streams: readonly ListedStream[];
}

export interface ListedVsnd extends Listed {
  readonly frontend: string;
  readonly state: number;
  readonly shortName: string | undefined;
  readonly longName: string | undefined;
  readonly params: SoundParams;
  readonly pcms: readonly ListedPcm[];
}

export function listVsnds(ctx: Ctx, domid: number): Promise<readonly ListedVsnd[] | undefined> {
  return listKind(ctx, devicesPath(domid, 'vsnd'), async (path, devid) => {
    const links = await readLinks(ctx, path, devid);
    const frontend = links ? await readMandatory(ctx, `${path}/frontend`) : undefined;
    if (!links || frontend === undefined) return undefined;
    return {
      ...links,
      frontend,
      shortName: await readText(ctx, `${frontend}/short-name`),
      longName: await readText(ctx, `${frontend}/long-name`),
      params: await soundParams(ctx, frontend),
      pcms: await listNumbered(ctx, frontend, (dir) => readPcm(ctx, dir)),
      state: await readNumber(ctx, `${frontendPath(domid, 'vsnd', devid)}/state`),
    };
  });
}

/** The children 0, 1 and on of a directory, as far as they go. */
async function listNumbered<T>(ctx: Ctx, dir: string, readOne: (path: string) => Promise<T>): Promise<readonly T[]> {
  const found: T[] = [];
  while ((await ctx.xs.read(`${dir}/${found.length}`)) !== undefined) found.push(await readOne(`${dir}/${found.length}`));
  return found;
}

async function readPcm(ctx: Ctx, path: string): Promise<ListedPcm> {
  const name = await readText(ctx, `${path}/name`);
  const params = await soundParams(ctx, path);
  return { name, params, streams: await listNumbered(ctx, path, (dir) => readStream(ctx, dir)) };
}

async function readStream(ctx: Ctx, path: string): Promise<ListedStream> {
  return {
    uniqueId: await readText(ctx, `${path}/unique-id`),
    type: await readText(ctx, `${path}/type`),
    params: await soundParams(ctx, path),
    rref: await readNumber(ctx, `${path}/ring-ref`),
    evtch: await readNumber(ctx, `${path}/event-channel`),
  };
}

async function soundParams(ctx: Ctx, path: string): Promise<SoundParams> {
  const words = async (node: string) =>
    ((await readText(ctx, `${path}/${node}`)) ?? '').split(/[ ,]/).filter((word) => word !== '');
  const count = async (node: string) => Math.max(0, await readNumber(ctx, `${path}/${node}`));
  return {
    sampleRates: (await words('sample-rates')).map((word) => atoi(word)),
    sampleFormats: await words('sample-formats'),
    channelsMin: await count('channels-min'),
    channelsMax: await count('channels-max'),
    bufferSize: await count('buffer-size'),
  };
}

// ---- USB

export type UsbctrlType = 'auto' | 'pv' | 'devicemodel' | 'qusb';

export interface ListedUsbctrl {
  readonly devid: number;
  readonly type: UsbctrlType;
  readonly backendDomid: number;
  readonly version: number;
  readonly ports: number;
  /** Where its ports are: the backend, or libxl's own directory for a controller of qemu's. */
  readonly portsPath: string;
}

const usbctrlTypes: readonly UsbctrlType[] = ['auto', 'pv', 'devicemodel', 'qusb'];

export async function listUsbctrls(ctx: Ctx, domid: number): Promise<readonly ListedUsbctrl[] | undefined> {
  return listKind(ctx, devicesPath(domid, 'vusb'), (path, devid) => readUsbctrl(ctx, path, devid));
}

/** One controller; that it is not there has been told. */
export async function findUsbctrl(ctx: Ctx, domid: number, devid: number): Promise<ListedUsbctrl | undefined> {
  const path = `${devicesPath(domid, 'vusb')}/${devid}`;
  return (await readMandatory(ctx, path)) === undefined ? undefined : readUsbctrl(ctx, path, devid);
}

async function readUsbctrl(ctx: Ctx, path: string, devid: number): Promise<ListedUsbctrl | undefined> {
  const word = await readText(ctx, `${path}/type`);
  const type = usbctrlTypes.find((name) => name === word) ?? 'auto';
  const portsPath = type === 'devicemodel' ? path : await readText(ctx, `${path}/backend`);
  const backendDomid = portsPath === undefined ? undefined : type === 'devicemodel' ? 0 : backendDomidOf(ctx, portsPath);
  if (portsPath === undefined || backendDomid === undefined) return undefined;
  const version = await readNumber(ctx, `${portsPath}/usb-ver`);
  return { devid, type, backendDomid, portsPath, version, ports: await readNumber(ctx, `${portsPath}/num-ports`) };
}

export function usbctrlDevice(domid: number, { devid, type, backendDomid }: ListedUsbctrl): Device {
  return { domid, devid, kind: 'vusb', backendDomid, backendKind: type === 'qusb' ? 'qusb' : 'vusb' };
}

/** The state of a controller's frontend. */
export function usbctrlState(ctx: Ctx, domid: number, { devid }: ListedUsbctrl): Promise<number> {
  return readNumber(ctx, `${frontendPath(domid, 'vusb', devid)}/state`);
}

// ---- Channels

export interface ListedChannel {
  readonly devid: number;
  readonly connection: 'pty' | 'socket';
  readonly backendDomid: number;
  readonly state: number;
  readonly evtch: number;
  readonly rref: number;
  readonly path: string;
}

/**
 * The channels of a domain: its consoles that have a name. Their numbers are those of the listing, and what is told of
 * one is read from the console after it, as libxl does.
 */
export async function listChannels(ctx: Ctx, domid: number): Promise<readonly ListedChannel[]> {
  const dir = devicesPath(domid, 'console');
  const connections: ('pty' | 'socket')[] = [];
  for (const name of (await ctx.xs.directory(dir)) ?? []) {
    if ((await ctx.xs.read(`${dir}/${name}/name`)) === undefined) continue;
    const connection = await readText(ctx, `${dir}/${name}/connection`);
    if (connection !== 'pty' && connection !== 'socket') {
      ctx.log('error', 'libxl_console.c:558:libxl_device_channel_list', domid, 'Unable to list channels');
      return [];
    }
    connections.push(connection);
  }
  const found: ListedChannel[] = [];
  for (const [devid, connection] of connections.entries()) {
    const links = await infoLinks(ctx, domid, 'console', devid + 1);
    if (!links) continue;
    const frontend = frontendPath(domid, 'console', devid + 1);
    found.push({
      devid,
      connection,
      backendDomid: links.backendDomid,
      state: await readNumber(ctx, `${frontend}/state`),
      rref: await readNumber(ctx, `${frontend}/ring-ref`),
      evtch: await readNumber(ctx, `${frontend}/port`),
      path: (await readText(ctx, `${frontend}/tty`)) ?? '/NO-SUCH-PATH',
    });
  }
  return found;
}
