/**
 * Virtual disks: what a domain config says of one, its devid, the choice of its backend and its XenStore nodes.
 *
 * The language of `disk=[...]` is in `disk-spec.ts`. Rules are those of libxl 4.17 (`libxl_disk.c`, `libxl_device.c`).
 */
import { type FileStat, type LogLevel, Rc } from './ctx.js';
import type { DeviceNodes, NodePair } from './nodes.js';
import { isLongOverflow, strtol } from './strtol.js';

export { parseDiskSpec } from './disk-spec.js';
export type { DeviceNodes, NodePair } from './nodes.js';

export type DiskFormat = 'qcow' | 'qcow2' | 'vhd' | 'raw' | 'empty' | 'qed';
export type DiskBackend = 'phy' | 'tap' | 'qdisk' | 'standalone';
export type DiskSpecification = 'xen' | 'virtio';

/** A disk of a domain config; an absent field has libxl's default. */
export interface Disk {
  readonly backendDomid?: number;
  readonly backendDomname?: string;
  /** Absent for an empty drive that was never given a target; an empty string is a target too. */
  readonly pdevPath?: string;
  readonly vdev?: string;
  readonly backend?: DiskBackend;
  readonly format?: DiskFormat;
  readonly script?: string;
  readonly removable?: boolean;
  readonly readwrite?: boolean;
  readonly isCdrom?: boolean;
  readonly directIoSafe?: boolean;
  readonly discardEnable?: boolean;
  readonly specification?: DiskSpecification;
  readonly coloEnable?: boolean;
  readonly coloRestoreEnable?: boolean;
  readonly coloHost?: string;
  readonly coloPort?: number;
  readonly coloExport?: string;
  readonly activeDisk?: string;
  readonly hiddenDisk?: string;
  readonly trusted?: boolean;
}

/** A disk with every default settled: what can be written to XenStore. */
export interface ReadyDisk extends Disk {
  readonly backendDomid: number;
  readonly vdev: string;
  readonly backend: DiskBackend;
  readonly format: DiskFormat;
  readonly readwrite: boolean;
  readonly discardEnable: boolean;
  readonly specification: DiskSpecification;
  readonly trusted: boolean;
}

// ---- vdev and devid

/** The number of a disk's device, which is also its name in XenStore; -1 if `vdev` names none. */
export function diskDevid(disk: Pick<Disk, 'vdev'>): number {
  return vdevToDevid(disk.vdev ?? '');
}

/**
 * `xvda1` to 51713. The numbers are those of Linux's block devices, with an extended scheme for what does not fit
 * (`docs/man/xen-vbd-interface.7`):
 *
 *   xvd*, dDpP   202<<8 | disk<<4 | partition   disk and partition up to 15
 *                1<<28 | disk<<8 | partition    disk up to 1048575, partition up to 255
 *   hd*          3<<8 or 22<<8 | ...            hda to hdd
 *   sd*          8<<8 | disk<<4 | partition     sda to sdp
 *   a number     itself
 *
 * A prefix without a letter counts as disk -1, so `xvd` is -16 and `hd` is 832, as in libxl.
 */
export function vdevToDevid(vdev: string): number {
  const byIndex = /^d(\d+)p(\d+)$/.exec(vdev);
  if (byIndex) return xvdDevid(Number(byIndex[1]), Number(byIndex[2]));

  const number = strtol(vdev);
  if (number.end === vdev.length && !isLongOverflow(number)) {
    return number.value >= 0n && number.value <= 0x7fff_ffffn ? Number(number.value) : -1;
  }

  const byName = /^(xvd|hd|sd)([a-z]*)([1-9]\d*)?$/.exec(vdev);
  if (!byName) return -1;
  const disk = letterIndex(byName[2] ?? '');
  const partition = Number(byName[3] ?? 0);
  switch (byName[1]) {
    case 'xvd':
      return xvdDevid(disk, partition);
    case 'hd':
      return disk < 4 && partition <= 63 ? ((disk < 2 ? 3 : 22) << 8) | ((disk & 1) << 6) | partition : -1;
    default:
      return disk < 16 && partition <= 15 ? (8 << 8) | (disk << 4) | partition : -1;
  }
}

function xvdDevid(disk: number, partition: number): number {
  if (disk <= 15 && partition <= 15) return (202 << 8) | (disk << 4) | partition;
  if (disk < 1 << 20 && partition <= 255) return (1 << 28) | (disk << 8) | partition;
  return -1;
}

/** a is 0, z is 25, aa is 26; no letter is -1. */
function letterIndex(letters: string): number {
  let index = 0;
  for (const letter of letters) index = index * 26 + (letter.charCodeAt(0) - 0x60);
  return index - 1;
}

/** The `xvd` name of a devid, as libxl makes one up for a device it attaches to dom0 itself. */
export function devidToVdev(devid: number): string {
  const extended = (devid & (1 << 28)) !== 0;
  const minor = extended ? devid & ~(1 << 28) : devid & 0xff;
  const partitions = extended ? 256 : 16;
  const disk = Math.floor(minor / partitions);
  const partition = minor % partitions;
  return `xvd${letters(disk)}${partition === 0 ? '' : partition}`;
}

function letters(index: number): string {
  const last = String.fromCharCode(0x61 + (index % 26));
  return index < 26 ? last : letters(Math.floor(index / 26) - 1) + last;
}

// ---- Defaults and the backend

/** A line for libxl's log. */
export interface LogEntry {
  readonly level: LogLevel;
  readonly where: string;
  readonly message: string;
}

/** What only the host can say about a disk. */
export interface DiskHost {
  /** The target's file; undefined if there is none. Asked for only where `needsStat` says so. */
  readonly stat?: FileStat | undefined;
  /** The domain that `backendDomname` names. */
  readonly backendDomid?: number;
}

export type DiskDefaults =
  | { readonly log: readonly LogEntry[]; readonly disk: ReadyDisk }
  | { readonly log: readonly LogEntry[]; readonly rc: Rc };

/** Whether libxl looks at the file behind a disk before it chooses a backend. */
export function needsStat(disk: Disk): boolean {
  const local = disk.backendDomid === undefined ? disk.backendDomname === undefined : disk.backendDomid === 0;
  const mayBePhy = disk.backend === undefined || disk.backend === 'phy' || disk.backend === 'standalone';
  return disk.format !== 'empty' && mayBePhy && local && disk.script === undefined;
}

/**
 * A disk's defaults and its backend, as `libxl__device_disk_setdefault` settles them before the domain exists.
 *
 * Lines of the log come in libxl's order; a second call with the result only checks it again.
 */
export function setDiskDefaults(disk: Disk, host: DiskHost): DiskDefaults {
  const readwrite = disk.readwrite ?? false;
  const draft: Omit<ReadyDisk, 'backend'> = {
    ...disk,
    backendDomid: host.backendDomid ?? disk.backendDomid ?? 0,
    vdev: disk.vdev ?? '',
    format: disk.format ?? 'raw',
    readwrite,
    discardEnable: disk.discardEnable ?? readwrite,
    specification: disk.specification ?? 'xen',
    coloEnable: disk.coloEnable ?? false,
    coloRestoreEnable: disk.coloRestoreEnable ?? false,
    trusted: disk.trusted ?? true,
  };
  const name = `Disk vdev=${draft.vdev}`;
  const backend = disk.backend ?? 'unknown';
  const log = [entry('debug', 433, `${name} spec.backend=${backend} specification=${draft.specification}`)];
  const fail = (line: number, message: string): DiskDefaults => ({ log: [...log, entry('error', line, message)], rc: Rc.INVAL });

  if (draft.format === 'empty') {
    if (!draft.isCdrom) return fail(439, `${name} is empty but not cdrom`);
    if (draft.pdevPath) return fail(443, `${name} is empty but an image has been provided: ${draft.pdevPath}`);
  } else if (needsStat(draft) && host.stat === undefined) {
    return fail(455, `${name} failed to stat: ${draft.pdevPath ?? ''}: No such file or directory`);
  }

  for (const candidate of disk.backend ? [disk.backend] : backendsByPreference) {
    const obstacle = whyNot(draft, candidate, host.stat);
    if (obstacle) {
      const message = `${name}, backend ${candidate} ${obstacle.message}`;
      log.push({ level: 'debug', where: `libxl_device.c:${obstacle.line}:disk_try_backend`, message });
      continue;
    }
    const unseen = candidate === 'phy' ? whyUnseen(draft) : undefined;
    if (unseen)
      log.push({
        level: 'debug',
        where: `libxl_device.c:${unseen.line}:disk_try_backend`,
        message: `${name}, ${unseen.message}`,
      });
    if (!disk.backend) log.push(entry('debug', 470, `${name}, using backend ${candidate}`));
    return { log, disk: { ...draft, backend: candidate } };
  }
  return fail(475, `no suitable backend for disk ${draft.vdev}`);
}

function entry(level: LogLevel, line: number, message: string): LogEntry {
  return { level, where: `libxl_device.c:${line}:libxl__device_disk_set_backend`, message };
}

const backendsByPreference: readonly DiskBackend[] = ['phy', 'qdisk', 'tap', 'standalone'];

interface Obstacle {
  readonly line: number;
  readonly message: string;
}

/** Why `backend` cannot serve the disk, if it cannot. blktap is no part of 4.17, so `tap` never can. */
function whyNot(disk: Omit<ReadyDisk, 'backend'>, backend: DiskBackend, stat: FileStat | undefined): Obstacle | undefined {
  const badSpecification = { line: 405, message: `not compatible with specification ${disk.specification}` };
  const badFormat = { line: 388, message: `unsuitable due to format ${disk.format}` };
  const badScript = { line: 395, message: 'not compatible with script=...' };
  if ((disk.specification === 'virtio') !== (backend === 'standalone')) return badSpecification;
  switch (backend) {
    case 'phy': {
      if (disk.format !== 'raw') return badFormat;
      if (disk.coloEnable) return { line: 400, message: 'not compatible with colo' };
      const elsewhere = disk.backendDomid !== 0 || disk.script !== undefined;
      return elsewhere || isDiskFile(stat) ? undefined : { line: 344, message: 'unsuitable as phys path not a block device' };
    }
    case 'qdisk':
      return disk.script === undefined ? undefined : badScript;
    case 'tap':
      return { line: 349, message: 'unsuitable because blktap not available' };
    case 'standalone':
      if (disk.format !== 'raw') return badFormat;
      return disk.script === undefined ? undefined : badScript;
  }
}

/** Why libxl takes a target for a block device without a look at it. */
function whyUnseen(disk: Omit<ReadyDisk, 'backend'>): Obstacle | undefined {
  if (disk.backendDomid !== 0) return { line: 330, message: 'is using a storage driver domain, skipping physical device check' };
  return disk.script === undefined ? undefined : { line: 336, message: 'uses script=... assuming phy backend' };
}

function isDiskFile(stat: FileStat | undefined): boolean {
  return stat !== undefined && stat.kind !== 'other';
}

// ---- XenStore

/** The kind of the backend's directory: `/local/domain/0/backend/KIND/N/DEVID`. */
export function diskBackendKind(disk: Pick<ReadyDisk, 'backend'>): 'vbd' | 'qdisk' | 'vbd3' | 'virtio_disk' {
  switch (disk.backend) {
    case 'qdisk':
      return 'qdisk';
    case 'tap':
      return 'vbd3';
    case 'standalone':
      return 'virtio_disk';
    case 'phy':
      return 'vbd';
  }
}

/** libxl's hotplug scripts; a script without a slash is looked up here. */
export const XEN_SCRIPT_DIR = '/etc/xen/scripts';

/** A script as it stands in XenStore: absolute. */
export function scriptPath(script: string): string {
  return script.startsWith('/') ? script : `${XEN_SCRIPT_DIR}/${script}`;
}

/** The nodes of a PV guest's disk, in the order of `device_disk_add`. */
export function diskNodes(disk: ReadyDisk, domid: number): DeviceNodes {
  const deviceType = disk.isCdrom ? 'cdrom' : 'disk';
  return {
    front: [
      ['backend-id', String(disk.backendDomid)],
      ['state', '1'],
      ['virtual-device', String(diskDevid(disk))],
      ['device-type', deviceType],
      ['trusted', flag(disk.trusted)],
      ['protocol', 'x86_64-abi'],
    ],
    frontRo: [],
    back: [
      ...imageNodes(disk),
      ['frontend-id', String(domid)],
      ['online', '1'],
      ['removable', flag(disk.removable ?? false)],
      ['bootable', '1'],
      ['state', '1'],
      ['dev', disk.vdev],
      ['type', disk.backend],
      ['mode', disk.readwrite ? 'w' : 'r'],
      ['device-type', deviceType],
      ...(disk.directIoSafe ? ([['direct-io-safe', '1']] as const) : []),
      ['discard-enable', flag(disk.discardEnable)],
      ['specification', disk.specification],
    ],
  };
}

/** What the backend opens: a path and the script that makes a device of it, or for qemu a format and a path. */
function imageNodes(disk: ReadyDisk): readonly NodePair[] {
  const path = disk.pdevPath ?? '';
  switch (disk.backend) {
    case 'qdisk': {
      const format = disk.format === 'raw' || disk.format === 'empty' ? 'aio' : disk.format;
      return [['params', `${format}:${path}`]];
    }
    case 'standalone':
      return [['params', path]];
    default:
      return [
        ['params', path],
        ['script', scriptPath(disk.script ?? 'block')],
      ];
  }
}

function flag(value: boolean): string {
  return value ? '1' : '0';
}
