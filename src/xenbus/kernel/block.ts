/**
 * dom0's block devices: what `physical-device` names by major and minor. Loop devices are made here; a node under /dev
 * is taken up when a hotplug script first uses it.
 */
import { keptBelow, type Share } from '../keep.js';
import { isWithin } from '../paths.js';
import { type BlockDevice, PrivcmdError } from '../privcmd.js';

const LOOP_MAJOR = 7;
/** Devices at a time. */
export const blockDevicesMax = 65_536;

export interface Disk extends BlockDevice {
  /** In units of 512 bytes. */
  readonly sectors: number;
  /** The file behind a loop device. */
  readonly backing: string | undefined;
  /** The backend that a loop device is for, as `backend/vbd/1/51712`. */
  readonly owner?: string | undefined;
}

const blockPrefix = 'block/';
type DiskKept = Pick<Disk, 'major' | 'minor' | 'sectors'> & { readonly backing: string | null; readonly owner?: string };

export class BlockDevices {
  readonly #byNode = new Map<string, Disk>();
  readonly #byNumber = new Map<string, Disk>();
  readonly #loops = new Set<Disk>();
  readonly #share: Share;

  constructor(share: Share = {}) {
    this.#share = share;
    for (const [node, value] of keptBelow(share.recovered, blockPrefix)) {
      const { backing, owner, ...numbers } = value as DiskKept;
      this.#enter({ node, ...numbers, backing: backing ?? undefined, owner: owner ?? undefined });
    }
  }

  /** A node under /dev, with its own numbers or, if it is only assumed to exist, a loop device's: its own, else the next one. */
  device(node: string, sectors: number, numbers?: { readonly major: number; readonly minor: number }): BlockDevice {
    const known = this.#byNode.get(node);
    if (known) return known;
    return this.#add({ node, ...(numbers ?? { major: LOOP_MAJOR, minor: this.#loopMinor(node) }), sectors, backing: undefined });
  }

  /** `losetup -f`: a loop device in front of a file. */
  loop(backing: string, sectors: number, owner?: string): BlockDevice {
    const minor = this.#freeMinor();
    return this.#add({ node: `/dev/loop${minor}`, major: LOOP_MAJOR, minor, sectors, backing, owner });
  }

  /** `losetup -d`. A device that is no loop in front of a file stays, and so does one that is for another than `owner`. */
  detach(node: string, owner?: string): void {
    const disk = this.#byNode.get(node);
    if (disk?.backing === undefined || (owner !== undefined && disk.owner !== owner)) return;
    this.#byNode.delete(node);
    this.#loops.delete(disk);
    this.#byNumber.delete(key(disk.major, disk.minor));
    this.#share.keep?.delete(blockPrefix + node);
  }

  /** `losetup -d` of what is for a backend, by whoever does not know its name. ENOENT when there is none. */
  detachOf(owner: string): void {
    const own = this.loops.filter((disk) => disk.owner === owner);
    if (own.length === 0) throw new PrivcmdError('ENOENT', `no loop device is for ${owner}`);
    for (const { node } of own) this.detach(node);
  }

  /** The loop devices of backends at or below a path. */
  loopsBelow(path: string): readonly Disk[] {
    return this.loops.filter(({ owner }) => owner !== undefined && isWithin(owner, path));
  }

  /** The loop devices that are set up. */
  get loops(): readonly Disk[] {
    return [...this.#loops];
  }

  find(major: number, minor: number): Disk | undefined {
    return this.#byNumber.get(key(major, minor));
  }

  #loopMinor(node: string): number {
    const minor = Number(/^\/dev\/loop(\d{1,5})$/.exec(node)?.[1]);
    return minor < blockDevicesMax && !this.#byNumber.has(key(LOOP_MAJOR, minor)) ? minor : this.#freeMinor();
  }

  #freeMinor(): number {
    for (let minor = 0; minor < blockDevicesMax; minor++) {
      if (!this.#byNumber.has(key(LOOP_MAJOR, minor)) && !this.#byNode.has(`/dev/loop${minor}`)) return minor;
    }
    throw new PrivcmdError('ENOMEM', `all ${blockDevicesMax} loop devices are in use`);
  }

  #add(disk: Disk): BlockDevice {
    if (this.#byNode.size >= blockDevicesMax) throw new PrivcmdError('ENOMEM', `${blockDevicesMax} block devices are in use`);
    this.#enter(disk);
    const { node, backing, major, minor, sectors, owner } = disk;
    const kept: DiskKept = { major, minor, sectors, backing: backing ?? null, ...(owner === undefined ? {} : { owner }) };
    this.#share.keep?.set(blockPrefix + node, kept);
    return disk;
  }

  #enter(disk: Disk): void {
    this.#byNode.set(disk.node, disk);
    if (disk.backing !== undefined) this.#loops.add(disk);
    this.#byNumber.set(key(disk.major, disk.minor), disk);
  }
}

function key(major: number, minor: number): string {
  return `${major}:${minor}`;
}
