/**
 * Creating a PV domain: the steps in the order they happen, and what becomes of a failed one.
 *
 * The order and the lines are those of libxl_create.c of 4.17; building the domain is `build.ts`. The mtwatch node is written once the domid is final and
 * before the transaction that brings `/local/domain/N` into being, so that dom0's kernel has its thread for the domain
 * before any event of it; destroy.ts removes it last.
 */
import { domainPath, libxlPath, mtwatchPath, vmPath } from '../xenbus/paths.js';
import { everyDomain, PrivcmdError } from '../xenbus/privcmd.js';
import { DOMID_LAST } from '../xenbus/xenbus.js';
import { byteString, type XsTransaction } from '../xenbus/xs-client.js';
import type { Perm } from '../xenbus/xs-wire.js';
import {
  type AoStep,
  asLibxlError,
  beginWait,
  multidev,
  type Rest,
  runAo,
  strerror,
  transact,
  type Writes,
  writeTogether,
} from './ao.js';
import { type Building, domainBuild, settle } from './build.js';
import { consoleNodes } from './console.js';
import { findCpupool } from './cpupool.js';
import { type Ctx, LIBXL_INIT_TIMEOUT, LibxlError, Rc } from './ctx.js';
import { destroyGuest } from './destroy.js';
import { checkAlive, type Device, deviceDestroy, genericAdd, startDeviceAdd } from './device.js';
import { spawnLocalDm } from './device-model.js';
import {
  backendName,
  channelDevice,
  needsQemu,
  type Place,
  p9Device,
  pvcallsDevice,
  refuseUsbdev,
  resolveBackend,
  settleUsbctrl,
  usbctrlDevice,
  vdisplDevice,
  vfbDevice,
  vkbDevice,
  vsndDevice,
  vtpmDevice,
  type Writable,
} from './device-types.js';
import { diskBackendKind, diskDevid, diskNodes, needsStat, type ReadyDisk, setDiskDefaults } from './disk.js';
import { formatUuid, holdingName } from './domain.js';
import type { DomainConfig, OtherDeviceList } from './domain-config.js';
import { type JsonObject, toJson } from './json.js';
import { nicNodes, nicObstacle, type ReadyNic, savedNic, setNicDefaults } from './nic.js';
import type { ReadBytes } from './stream.js';

/** A failed creation. `domid` is that of the domain it had made, if it came so far; that domain is gone again. */
export class CreateError extends LibxlError {
  constructor(
    rc: Rc,
    message: string,
    readonly domid: number | undefined,
    options?: ErrorOptions,
  ) {
    super(rc, message, options);
  }
}

/** What the steps of one creation share. */
interface Creating extends Building {
  /** 0 until the hypervisor has given one. */
  domid: number;
  poolId: number;
  disks: readonly ReadyDisk[];
  nics: readonly ReadyNic[];
  /** With the uuids that libxl gives them. */
  vtpms: readonly JsonObject[];
  /** The other devices that have been written. */
  readonly others: Device[];
}

/** The steps in the order they happen. */
export const createSteps: readonly AoStep<Creating>[] = [
  { name: 'libxl__domain_config_setdefault', run: checkConfig },
  { name: 'libxl__domain_make', run: domainMake },
  { name: 'store_libxl_entry', run: storeLibxlEntry },
  { name: 'libxl__device_disk_setdefault', run: settleDisks },
  { name: 'libxl__device_nic_set_devids', run: settleNics },
  { name: 'libxl__bootloader_run', run: bootloaderRun },
  { name: 'libxl__domain_build', run: domainBuild },
  { name: 'store_libxl_entry', run: storeLibxlEntry },
  { name: 'libxl__add_disks', run: addDisks },
  { name: 'domcreate_launch_dm', run: addUnawaited },
  { name: 'libxl__device_console_add', run: addConsole },
  { name: 'libxl__spawn_local_dm', run: startDeviceModel },
  { name: 'domcreate_attach_devices', run: attachDevices },
  { name: 'console_xswait_callback', run: waitForConsole },
];

/**
 * Creates the domain of a config and leaves it paused; answers with its domid. A failure destroys what was made and
 * throws a CreateError.
 */
export function domainCreateNew(ctx: Ctx, config: DomainConfig): Promise<number> {
  return doDomainCreate(ctx, config, undefined);
}

/** The same with a saved guest, read from the stream that `read` gives (libxl_domain_create_restore). */
export function domainCreateRestore(ctx: Ctx, config: DomainConfig, read: ReadBytes): Promise<number> {
  return doDomainCreate(ctx, config, read);
}

async function doDomainCreate(ctx: Ctx, config: DomainConfig, restore: ReadBytes | undefined): Promise<number> {
  const state: Creating = {
    config,
    settings: settle(config),
    build: { storePort: 0, storeMfn: 0, consolePort: 0, consoleMfn: 0 },
    domid: 0,
    poolId: 0,
    disks: [],
    nics: [],
    vtpms: [],
    others: [],
    restore,
  };
  try {
    await runAo(ctx, createSteps, state);
  } catch (error) {
    throw await rollBack(ctx, state, error);
  }
  try {
    await saveConfig(ctx, state);
  } catch (error) {
    // The domain stays, as in libxl; the caller destroys it.
    const why = error instanceof Error ? error.message : String(error);
    ctx.log('error', '', state.domid, `the configuration was not saved: ${why}`);
    throw new CreateError(Rc.FAIL, `the configuration of domain ${state.domid} was not saved`, state.domid, { cause: error });
  }
  return state.domid;
}

/** "Let the policy choose": what the JSON of a domain says of its domid. */
const anyDomid = 0xffff_ffff;

/**
 * Saves the config for `xl list -l` and for a reboot: as the user gave it, with what a reboot must not choose anew (the
 * MAC addresses), and with the few defaults that libxl sets before it takes its copy.
 */
async function saveConfig(ctx: Ctx, { config, domid, nics, vtpms }: Creating): Promise<void> {
  const { cInfo, bInfo } = config;
  const saved: DomainConfig = {
    ...config,
    cInfo: { ...cInfo, domid: anyDomid },
    bInfo: { ...bInfo, videoMemkb: bInfo.videoMemkb ?? 0, archX86: { msrRelaxed: false, ...bInfo.archX86 } },
    disks: config.disks.map((disk) => ({ coloRestoreEnable: false, ...disk })),
    nics: nics.map((ready, index) => savedNic(config.nics[index] ?? {}, ready)),
    ...(vtpms.length === 0 ? {} : { vtpms }),
  };
  await writeSaved(ctx, domid, cInfo.uuid, saved);
}

/**
 * Writes the saved config of a domain. One that is destroyed meanwhile has lost its nodes before its files: then this one, which
 * may have come after that, goes too.
 */
export async function writeSaved(ctx: Ctx, domid: number, uuid: string, config: DomainConfig): Promise<void> {
  await ctx.host.writeUserdata(userdataName(domid, uuid, 'libxl-json'), `${toJson(config)}\0`);
  if (domid !== 0 && (await ctx.xs.read(domainPath(domid))) === undefined) await ctx.host.removeUserdata(domid, uuid);
}

/** The file that keeps a domain's `libxl-json` or `xl` data. */
export function userdataName(domid: number, uuid: string, user: 'libxl-json' | 'xl'): string {
  return `userdata-d.${domid}.${uuid}.${user}`;
}

/** Undoes a failed creation (domcreate_complete). Whatever went wrong, a domain that was made is destroyed. */
async function rollBack(ctx: Ctx, state: Creating, error: unknown): Promise<unknown> {
  const { domid } = state;
  const failure = asLibxlError(error, 'create');
  if (domid === 0) return failure ? new CreateError(failure.rc, failure.message, undefined, { cause: error }) : error;
  try {
    await destroyGuest(ctx, domid);
  } catch (second) {
    const why = asLibxlError(second, 'destroy');
    if (!why) return second;
    if (why.rc === Rc.DOMAIN_NOTFOUND) await removeRemains(ctx, state);
    const where = 'libxl_create.c:2051:domcreate_destruction_cb';
    ctx.log('error', where, domid, 'unable to destroy domain following failed creation');
  }
  return failure ? new CreateError(Rc.FAIL, failure.message, domid, { cause: error }) : error;
}

/**
 * Somebody destroyed the domain while it was being made. What was written after that is removed: the devices, the
 * domain's own nodes and, last again, its mtwatch node.
 */
async function removeRemains(ctx: Ctx, { domid, config, disks, nics, others }: Creating): Promise<void> {
  const devices = [
    ...disks.filter((disk) => diskDevid(disk) >= 0).map((disk) => diskDevice(ctx, domid, disk)),
    ...nics.map((nic) => nicDevice(domid, nic)),
    ...others,
    consoleDevice(domid),
  ];
  for (const device of devices) await deviceDestroy(ctx, device);
  for (const path of [vmPath(config.cInfo.uuid), domainPath(domid), libxlPath(domid), mtwatchPath(domid)]) await ctx.xs.rm(path);
}

/** What this host cannot run is refused before anything exists: it has no VMX, and it executes no boot loader. */
async function checkConfig(ctx: Ctx, state: Creating): Promise<void> {
  const { config, restore } = state;
  const { poolName } = config.cInfo;
  if (poolName !== undefined) {
    const poolId = await findCpupool(ctx, poolName);
    if (poolId === undefined) {
      const line = `Illegal pool specified: ${poolName}`;
      ctx.log('error', 'libxl_create.c:1134:libxl__domain_config_setdefault', undefined, line);
      throw new LibxlError(Rc.INVAL, line);
    }
    state.poolId = poolId;
  }
  if (config.cInfo.type !== 'pv') {
    const where = 'libxl_create.c:46:libxl__domain_create_info_setdefault';
    ctx.log('error', where, undefined, 'neither hap nor shadow paging available');
    const setdefault = 'libxl_create.c:1143:libxl__domain_config_setdefault';
    ctx.log('error', setdefault, undefined, 'Unable to set domain create info defaults');
    throw new LibxlError(Rc.INVAL, `a guest of type ${config.cInfo.type} needs hap or shadow paging`);
  }
  refusePassthrough(ctx, config);
  const { bootloader, kernel } = config.bInfo;
  if (restore) return;
  if (bootloader !== undefined || kernel === undefined) {
    const line =
      bootloader === undefined
        ? 'no kernel: name one with kernel='
        : `bootloader ${bootloader} is not run, as guests are models: name a kernel with kernel= instead`;
    ctx.log('error', '', undefined, line);
    throw new LibxlError(Rc.NI, line);
  }
}

/** Giving a device of the host away takes an IOMMU, and the host has none. */
function refusePassthrough(ctx: Ctx, { cInfo: { passthrough }, pcidevs = [], dtdevs = [] }: DomainConfig): void {
  const isNeeded = pcidevs.length > 0 || dtdevs.length > 0;
  if (!isNeeded && (passthrough === undefined || passthrough === 'disabled')) return;
  const [line, text] =
    passthrough === 'disabled'
      ? [1167, 'passthrough disabled but devices are specified']
      : [1160, 'passthrough not supported on this platform\n'];
  ctx.log('error', `libxl_create.c:${line}:libxl__domain_config_setdefault`, undefined, text);
  throw new LibxlError(Rc.INVAL, text.trim());
}

/** Gets a domid and writes the domain's first nodes (libxl__domain_make): T1 of its creation. */
async function domainMake(ctx: Ctx, state: Creating): Promise<void> {
  ctx.log('detail', 'libxl_create.c:662:libxl__domain_make', undefined, 'passthrough: disabled');
  try {
    await createDomain(ctx, state);
    const { domid, config } = state;
    await ctx.xs.write(mtwatchPath(domid), '');
    const make = () => transact(ctx, (tx) => writeDomain(ctx, tx, domid, config), { first: true });
    await holdingName(ctx, config.cInfo.name, make);
  } catch (error) {
    const failure = asLibxlError(error, 'libxl__domain_make');
    const where = 'libxl_create.c:1296:initiate_domain_create';
    if (failure) ctx.log('error', where, state.domid, `cannot make domain: ${failure.rc}`);
    throw error;
  }
}

/**
 * A domid that was had lately is not used: a domain that got it is destroyed, and another asked for. One that was asked for
 * by number is refused, and so is one whose watch thread has not left yet.
 */
async function createDomain(ctx: Ctx, state: Creating): Promise<void> {
  const { uuid, domid: policy = 0 } = state.config.cInfo;
  const wanted = policy > 0 && policy <= DOMID_LAST ? { domid: policy } : {};
  const { poolId } = state;
  const fail = (line: number, text: string, cause?: unknown) => {
    ctx.log('error', `libxl_create.c:${line}:libxl__domain_make`, wanted.domid, text);
    return new LibxlError(Rc.FAIL, text, { cause });
  };
  for (let tries = 0; tries < DOMID_LAST; tries++) {
    try {
      const made = await ctx.xc.call('xc.domain_create', { uuid, maxVcpus: state.settings.maxVcpus, poolId, ...wanted });
      state.domid = made.domid;
    } catch (error) {
      if (!(error instanceof PrivcmdError)) throw error;
      if (error.errno === 'EBUSY') throw fail(732, 'domain id recently used', error);
      throw fail(711, `domain creation fail: ${strerror(error.errno)}`, error);
    }
    const { domid } = state;
    if (!(await ctx.host.isDomidRecent(domid))) return;
    if (wanted.domid !== undefined) throw fail(732, 'domain id recently used');
    state.domid = 0;
    await ctx.xc.call('xc.domain_destroy', { domid });
  }
  throw fail(711, 'domain creation fail: every domid was used in the last seconds');
}

/** Nodes for the guest to write. */
const guestNodes = [
  'control/shutdown',
  'control/feature-poweroff',
  'control/feature-reboot',
  'control/feature-suspend',
  'control/sysrq',
  'data',
  'drivers',
  'feature',
  'attr',
  'error',
];

/** More of them for a guest that has backends of its own. */
const driverDomainNodes = ['libxl', 'device-model'];

async function writeDomain(ctx: Ctx, tx: XsTransaction, domid: number, { cInfo }: DomainConfig): Promise<void> {
  const home = domainPath(domid);
  const vm = vmPath(cInfo.uuid);
  const libxl = libxlPath(domid);
  const name = byteString(cInfo.name);
  const dom0Only: Perm[] = [{ domid: 0, read: false, write: false }];
  const guestReads: Perm[] = [...dom0Only, { domid, read: true, write: false }];
  const guestOwns: Perm[] = [{ domid, read: false, write: false }];
  const mknod = (put: Writes, path: string, perms: readonly Perm[]) => {
    put.write(path, '');
    put.setPerms(path, perms);
  };

  // Whoever destroyed the domain just now has removed its announcement: without that it must not come into being.
  if ((await tx.read(mtwatchPath(domid))) === undefined) {
    throw new LibxlError(Rc.DOMAIN_NOTFOUND, `domain ${domid} was destroyed meanwhile`);
  }
  await writeTogether(tx, (put) => {
    put.rm(home);
    mknod(put, home, guestReads);
    put.rm(vm);
    mknod(put, vm, guestReads);
    put.rm(libxl);
    mknod(put, libxl, dom0Only);
    mknod(put, `${libxl}/device`, dom0Only);
    put.write(`${home}/vm`, vm);
  });
  await checkName(ctx, domid, cInfo.name);
  await writeTogether(tx, (put) => {
    put.write(`${home}/name`, name);
    put.write(`${vm}/name`, name);
    mknod(put, `${home}/cpu`, guestReads);
    mknod(put, `${home}/memory`, guestReads);
    if (cInfo.xendSuspendEvtchnCompat) {
      mknod(put, `${home}/device`, guestOwns);
    } else {
      mknod(put, `${home}/device`, guestReads);
      mknod(put, `${home}/device/suspend/event-channel`, guestOwns);
    }
    mknod(put, `${home}/control`, guestReads);
    const nodes = cInfo.driverDomain ? [...guestNodes, ...driverDomainNodes] : guestNodes;
    for (const node of nodes) mknod(put, `${home}/${node}`, guestOwns);
    put.write(`${vm}/uuid`, cInfo.uuid);
    put.write(`${vm}/name`, name);
    put.write(`${home}/control/platform-feature-multiprocessor-suspend`, '1');
    put.write(`${home}/control/platform-feature-xs_reset_watches`, '1');
    put.write(`${libxl}/type`, cInfo.type);
  });
}

/**
 * A name must be free (libxl__domain_rename). The names are read outside the transaction, as libxl does; that two toolstacks
 * at once do not both find theirs free is what `holdingName` is for.
 */
async function checkName(ctx: Ctx, domid: number, name: string): Promise<void> {
  const others = await everyDomain(ctx.xc);
  const names = await Promise.all(others.map((other) => ctx.xs.read(`${domainPath(other.domid)}/name`)));
  // A name that says nothing may be had by many.
  if (name !== '' && others.some((other, index) => other.domid !== domid && names[index] === byteString(name))) {
    const line = `Domain with name "${name}" already exists.`;
    ctx.log('error', 'libxl_domain.c:81:libxl__domain_rename', domid, line);
    throw new LibxlError(Rc.INVAL, line);
  }
}

/** Names the device model, though there is none: what reads the node only wants to know of which kind it would be. */
async function storeLibxlEntry(ctx: Ctx, { domid }: Creating): Promise<void> {
  await ctx.xs.write(`${libxlPath(domid)}/dm-version`, 'qemu_xen');
}

async function settleDisks(ctx: Ctx, state: Creating): Promise<void> {
  const ready: ReadyDisk[] = [];
  for (const [index, disk] of state.config.disks.entries()) {
    const refuse = (rc: Rc): never => {
      const line = `Unable to set disk defaults for disk ${index}`;
      ctx.log('error', 'libxl_create.c:1318:initiate_domain_create', state.domid, line);
      throw new LibxlError(rc, line);
    };
    const backendDomid = await resolveBackend(ctx, disk.backendDomname).catch(() => refuse(Rc.INVAL));
    const local = backendDomid === undefined ? disk : { ...disk, backendDomid };
    const stat = needsStat(local) ? await ctx.host.stat(disk.pdevPath ?? '') : undefined;
    const settled = setDiskDefaults(local, { stat });
    for (const { level, where, message } of settled.log) ctx.log(level, where, undefined, message);
    if ('rc' in settled) return refuse(settled.rc);
    ready.push(settled.disk);
  }
  state.disks = ready;
}

/** Devids count on from the highest that the config names. */
async function settleNics(ctx: Ctx, state: Creating): Promise<void> {
  const backends: (number | undefined)[] = [];
  for (const [index, nic] of state.config.nics.entries()) {
    try {
      backends.push(await resolveBackend(ctx, nic.backendDomname));
      const obstacle = nicObstacle(nic);
      if (!obstacle) continue;
      ctx.log(obstacle.level, obstacle.where, state.domid, obstacle.message);
      throw new LibxlError(Rc.INVAL, obstacle.message);
    } catch (error) {
      if (!asLibxlError(error, 'nics')) throw error;
      const line = `Unable to set nic defaults for nic ${index}`;
      ctx.log('error', 'libxl_nic.c:520:libxl__device_nic_set_devids', state.domid, line);
      throw error;
    }
  }
  let last = state.config.nics.reduce((highest, nic) => Math.max(highest, nic.devid ?? -1), -1);
  state.nics = state.config.nics.map((nic, index) => {
    const backendDomid = backends[index];
    const devid = nic.devid === undefined ? ++last : nic.devid;
    return setNicDefaults(nic, { random: ctx.clock.random(16), devid, ...(backendDomid === undefined ? {} : { backendDomid }) });
  });
  state.vtpms = (state.config.vtpms ?? []).map((vtpm) => ({ ...vtpm, uuid: vtpm['uuid'] ?? formatUuid(ctx.clock.random(16)) }));
}

async function bootloaderRun(ctx: Ctx, { domid, restore }: Creating): Promise<void> {
  if (restore) return ctx.log('debug', 'libxl_create.c:1339:initiate_domain_create', domid, 'restoring, not running bootloader');
  ctx.log('debug', 'libxl_create.c:1342:initiate_domain_create', domid, 'running bootloader');
  const line = 'no bootloader configured, using user supplied kernel';
  ctx.log('debug', 'libxl_bootloader.c:417:libxl__bootloader_run', domid, line);
}

/** All disks at once: their transactions in the order of the list, then their backends and scripts in parallel. */
async function addDisks(ctx: Ctx, { domid, disks }: Creating): Promise<void> {
  try {
    await multidev(disks.map((disk) => () => startDiskAdd(ctx, domid, disk)));
  } catch (error) {
    if (asLibxlError(error, 'disks')) {
      ctx.log('error', 'libxl_create.c:1672:domcreate_launch_dm', domid, 'unable to add disk devices');
    }
    throw error;
  }
}

/** libxl settles a disk's backend once more when it adds it. */
function startDiskAdd(ctx: Ctx, domid: number, disk: ReadyDisk): Promise<Rest> {
  const { vdev, backend, specification } = disk;
  const where = 'libxl_device.c:433:libxl__device_disk_set_backend';
  ctx.log('debug', where, undefined, `Disk vdev=${vdev} spec.backend=${backend} specification=${specification}`);
  return startDeviceAdd(ctx, diskDevice(ctx, domid, disk), diskNodes(disk, domid));
}

/** The device of a disk; a vdev that means nothing has none. */
export function diskDevice(ctx: Ctx, domid: number, disk: ReadyDisk): Device {
  const devid = diskDevid(disk);
  if (devid < 0) {
    const line = `Invalid or unsupported virtual disk identifier ${disk.vdev}`;
    ctx.log('error', 'libxl_disk.c:214:libxl__device_from_disk', domid, line);
    ctx.log('error', 'libxl_disk.c:335:device_disk_add', domid, line);
    throw new LibxlError(Rc.INVAL, line);
  }
  return { domid, devid, kind: 'vbd', backendDomid: disk.backendDomid, backendKind: diskBackendKind(disk) };
}

/** The device of a nic. */
export function nicDevice(domid: number, nic: ReadyNic): Device {
  return { domid, devid: nic.devid, kind: 'vif', backendDomid: nic.backendDomid, backendKind: 'vif' };
}

function consoleDevice(domid: number): Device {
  return { domid, devid: 0, kind: 'console', backendDomid: 0, backendKind: 'console' };
}

/** Console 0: xenconsoled's, from the nodes alone. Nobody waits for it here; its state never moves. */
async function addConsole(ctx: Ctx, { domid, build }: Creating): Promise<void> {
  const device = consoleDevice(domid);
  const nodes = consoleNodes(domid, { port: build.consolePort, mfn: build.consoleMfn });
  await transact(ctx, async (tx) => {
    await checkAlive(tx, domid);
    await genericAdd(tx, device, nodes);
  });
}

/** One of the types of device that libxl creates a domain with: by its list, how a device of it is written. */
interface DeviceType {
  readonly list: OtherDeviceList;
  readonly write: (ctx: Ctx, json: JsonObject, place: Place) => Writable | undefined;
}

/** Devices that are written before the device model starts and awaited by nobody, in libxl's order. */
const unawaited: readonly DeviceType[] = [
  { list: 'channels', write: channelDevice },
  { list: 'p9s', write: (_ctx, json, place) => p9Device(json, place) },
  { list: 'pvcallsifs', write: (_ctx, json, place) => pvcallsDevice(json, place) },
  { list: 'vfbs', write: (_ctx, json, place) => vfbDevice(json, place) },
  { list: 'vkbs', write: (_ctx, json, place) => vkbDevice(json, place) },
];

/**
 * Writes them. Only a channel that libxl cannot make sense of ends the creation; what else goes wrong with one of these
 * devices, a `backend=` that is no domain for one, libxl passes over in silence.
 */
async function addUnawaited(ctx: Ctx, state: Creating): Promise<void> {
  for (const { list, write } of unawaited) {
    for (const [index, json] of (state.config[list] ?? []).entries()) {
      try {
        const written = write(ctx, json, await placeOf(ctx, state.domid, json, index));
        if (!written) continue;
        state.others.push(written.device);
        await transact(ctx, async (tx) => {
          await checkAlive(tx, state.domid);
          await genericAdd(tx, written.device, written.nodes);
        });
      } catch (error) {
        const failure = asLibxlError(error, list);
        if (!failure || failure.rc === Rc.DOMAIN_NOTFOUND || list === 'channels') throw error;
      }
    }
  }
}

/** Where a device of a config goes. Its number is its place in the list, unless it has one. */
async function placeOf(ctx: Ctx, domid: number, json: JsonObject, index: number): Promise<Place> {
  const { devid = -1 } = json;
  const backendDomid = (await resolveBackend(ctx, backendName(json))) ?? 0;
  return { domid, devid: Number(devid) === -1 ? index : Number(devid), backendDomid };
}

/** libxl starts a qemu for a PV guest that needs one. */
async function startDeviceModel(ctx: Ctx, { domid, config, disks }: Creating): Promise<void> {
  const channels = [];
  for (const channel of config.channels ?? []) {
    channels.push({ ...channel, backend_domid: (await resolveBackend(ctx, backendName(channel))) ?? 0 });
  }
  if (needsQemu({ ...config, disks, channels })) await spawnLocalDm(ctx, domid, config);
}

/** The other types of device, each at once and one type after the other. pci and dtdev have been refused by then. */
async function attachDevices(ctx: Ctx, state: Creating): Promise<void> {
  const { domid, config, nics, vtpms } = state;
  await attachType(ctx, domid, 'vif', nics, async (nic) => startDeviceAdd(ctx, nicDevice(domid, nic), nicNodes(nic, domid)));
  const start =
    (settle: (json: JsonObject) => JsonObject, write: (json: JsonObject, place: Place) => Writable) =>
    async (given: JsonObject, index: number): Promise<Rest> => {
      const json = settle(given);
      const { device, nodes } = write(json, await placeOf(ctx, domid, json, index));
      state.others.push(device);
      return startDeviceAdd(ctx, device, nodes);
    };
  const asGiven = (json: JsonObject) => json;
  await attachType(ctx, domid, 'vtpm', vtpms, start(asGiven, vtpmDevice));
  const usbctrl = start((json) => settleUsbctrl(ctx, json), usbctrlDevice);
  await attachType(ctx, domid, 'vusb', config.usbctrls ?? [], usbctrl);
  await attachType(ctx, domid, 'vusb', config.usbdevs ?? [], async (json) => refuseUsbdev(ctx, domid, json));
  await attachType(ctx, domid, 'vdispl', config.vdispls ?? [], start(asGiven, vdisplDevice));
  await attachType(ctx, domid, 'vsnd', config.vsnds ?? [], start(asGiven, vsndDevice));
}

async function attachType<T>(
  ctx: Ctx,
  domid: number,
  kind: string,
  devices: readonly T[],
  start: (device: T, index: number) => Promise<Rest>,
): Promise<void> {
  try {
    await multidev(devices.map((device, index) => () => start(device, index)));
  } catch (error) {
    if (asLibxlError(error, kind)) {
      ctx.log('error', 'libxl_create.c:1921:domcreate_attach_devices', domid, `unable to add ${kind} devices`);
    }
    throw error;
  }
}

/** xenconsoled writes the name of the console's terminal once it has taken notice of the domain. */
async function waitForConsole(ctx: Ctx, { domid }: Creating): Promise<void> {
  const tty = `${domainPath(domid)}/console/tty`;
  try {
    const written = await beginWait(ctx, tty, LIBXL_INIT_TIMEOUT, (value) => value !== undefined && value !== '');
    await written();
  } catch (error) {
    if (error instanceof LibxlError && error.rc === Rc.TIMEDOUT) {
      const line = `domain ${domid} console tty: timed out`;
      ctx.log('error', 'libxl_create.c:1976:console_xswait_callback', undefined, line);
    }
    throw error;
  }
}
