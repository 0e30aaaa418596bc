/**
 * Creating a PV domain: the steps in the order they happen, and what becomes of a failed one.
 *
 * The order and the lines are those of libxl_create.c and libxl_dom.c of 4.17. Guests are models, so "building" checks
 * that the images are there and asks the hypervisor for memory. The mtwatch node is written once the domid is final and
 * before the transaction that brings `/local/domain/N` into being, so that dom0's kernel has its thread for the domain
 * before any event of it; destroy.ts removes it last.
 */
import { domainPath, libxlPath, mtwatchPath, vmPath } from '../xenbus/paths.js';
import { everyDomain, PrivcmdError } from '../xenbus/privcmd.js';
import { DOMID_LAST } from '../xenbus/xenbus.js';
import { byteString, type XsTransaction } from '../xenbus/xs-client.js';
import type { Perm } from '../xenbus/xs-wire.js';
import { type AoStep, asLibxlError, beginWait, multidev, runAo, strerror, transact, type Writes, writeTogether } from './ao.js';
import { consoleNodes } from './console.js';
import { findCpupool } from './cpupool.js';
import { type Ctx, LIBXL_INIT_TIMEOUT, LibxlError, Rc } from './ctx.js';
import { destroyGuest } from './destroy.js';
import { checkAlive, type Device, deviceDestroy, genericAdd, startDeviceAdd } from './device.js';
import { diskBackendKind, diskDevid, diskNodes, needsStat, type ReadyDisk, setDiskDefaults } from './disk.js';
import type { DomainConfig } from './domain-config.js';
import { toJson } from './json.js';
import { nicNodes, nicObstacle, type ReadyNic, savedNic, setNicDefaults } from './nic.js';
import { setDomainSched } from './sched.js';
import { type ReadBytes, readStream, StreamError } from './stream.js';
import { setVcpuAffinity } from './vcpu.js';

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

/** What a config leaves to libxl's defaults (libxl__domain_build_info_setdefault). */
interface BuildSettings {
  readonly maxVcpus: number;
  readonly availVcpus: readonly number[];
  readonly maxMemkb: number;
  readonly targetMemkb: number;
  readonly videoMemkb: number;
  readonly kernel: string;
  readonly ramdisk: string | undefined;
  readonly cmdline: string | undefined;
}

/** What the domain builder has set up for the guest to find. */
interface BuildState {
  storePort: number;
  storeMfn: number;
  consolePort: number;
  consoleMfn: number;
}

/** What the steps of one creation share. */
interface Creating {
  readonly config: DomainConfig;
  readonly settings: BuildSettings;
  readonly build: BuildState;
  /** 0 until the hypervisor has given one. */
  domid: number;
  poolId: number;
  disks: readonly ReadyDisk[];
  nics: readonly ReadyNic[];
  /** Where the guest is read from that goes on in the domain; a new guest is built otherwise. */
  readonly restore: ReadBytes | undefined;
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
  { name: 'libxl__device_console_add', run: addConsole },
  { name: 'libxl__spawn_local_dm', run: checkDeviceModel },
  { name: 'domcreate_attach_devices', run: attachNics },
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
async function saveConfig(ctx: Ctx, { config, domid, nics }: Creating): Promise<void> {
  const { cInfo, bInfo } = config;
  const saved: DomainConfig = {
    ...config,
    cInfo: { ...cInfo, domid: anyDomid },
    bInfo: { ...bInfo, videoMemkb: bInfo.videoMemkb ?? 0, archX86: { msrRelaxed: false, ...bInfo.archX86 } },
    disks: config.disks.map((disk) => ({ coloRestoreEnable: false, ...disk })),
    nics: nics.map((ready, index) => savedNic(config.nics[index] ?? {}, ready)),
  };
  await ctx.host.writeUserdata(userdataName(domid, cInfo.uuid, 'libxl-json'), `${toJson(saved)}\0`);
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
async function removeRemains(ctx: Ctx, { domid, config, disks, nics }: Creating): Promise<void> {
  const devices = [
    ...disks.filter((disk) => diskDevid(disk) >= 0).map((disk) => diskDevice(ctx, domid, disk)),
    ...nics.map((nic) => nicDevice(domid, nic)),
    consoleDevice(domid),
  ];
  for (const device of devices) await deviceDestroy(ctx, device);
  for (const path of [vmPath(config.cInfo.uuid), domainPath(domid), libxlPath(domid), mtwatchPath(domid)]) await ctx.xs.rm(path);
}

function settle({ bInfo }: DomainConfig): BuildSettings {
  const maxMemkb = bInfo.maxMemkb ?? 32 * 1024;
  return {
    maxVcpus: bInfo.maxVcpus || 1,
    availVcpus: bInfo.availVcpus.length > 0 ? bInfo.availVcpus : [0],
    maxMemkb,
    targetMemkb: bInfo.targetMemkb ?? maxMemkb,
    videoMemkb: bInfo.videoMemkb ?? 0,
    kernel: bInfo.kernel ?? '',
    ramdisk: bInfo.ramdisk || undefined,
    cmdline: bInfo.cmdline,
  };
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

/** Gets a domid and writes the domain's first nodes (libxl__domain_make): T1 of its creation. */
async function domainMake(ctx: Ctx, state: Creating): Promise<void> {
  ctx.log('detail', 'libxl_create.c:662:libxl__domain_make', undefined, 'passthrough: disabled');
  try {
    await createDomain(ctx, state);
    const { domid, config } = state;
    await ctx.xs.write(mtwatchPath(domid), '');
    await transact(ctx, (tx) => writeDomain(ctx, tx, domid, config), { first: true });
  } catch (error) {
    const failure = asLibxlError(error, 'libxl__domain_make');
    const where = 'libxl_create.c:1296:initiate_domain_create';
    if (failure) ctx.log('error', where, state.domid, `cannot make domain: ${failure.rc}`);
    throw error;
  }
}

/** A domid whose watch thread has not left yet is not given out; one that was asked for by number is refused. */
async function createDomain(ctx: Ctx, state: Creating): Promise<void> {
  const { uuid, domid: policy = 0 } = state.config.cInfo;
  const wanted = policy > 0 && policy <= DOMID_LAST ? { domid: policy } : {};
  const { poolId } = state;
  try {
    const made = await ctx.xc.call('xc.domain_create', { uuid, maxVcpus: state.settings.maxVcpus, poolId, ...wanted });
    state.domid = made.domid;
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    const [line, text] =
      error.errno === 'EBUSY' ? [732, 'domain id recently used'] : [711, `domain creation fail: ${strerror(error.errno)}`];
    ctx.log('error', `libxl_create.c:${line}:libxl__domain_make`, wanted.domid, text);
    throw new LibxlError(Rc.FAIL, text, { cause: error });
  }
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
 * A name must be free (libxl__domain_rename). The names are read outside the transaction, as libxl does: two creations
 * at once may both find theirs free.
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
    refuseForeignBackend(ctx, state.domid, disk, `disk ${disk.vdev}`);
    const stat = needsStat(disk) ? await ctx.host.stat(disk.pdevPath ?? '') : undefined;
    const settled = setDiskDefaults(disk, { stat });
    for (const { level, where, message } of settled.log) ctx.log(level, where, undefined, message);
    if ('rc' in settled) {
      const line = `Unable to set disk defaults for disk ${index}`;
      ctx.log('error', 'libxl_create.c:1318:initiate_domain_create', state.domid, line);
      throw new LibxlError(settled.rc, line);
    }
    ready.push(settled.disk);
  }
  state.disks = ready;
}

/** dom0 alone has backends here. A driver domain would have to run them itself, and guests are not executed. */
function refuseForeignBackend(ctx: Ctx, domid: number, device: { readonly backendDomname?: string }, what: string): void {
  const name = device.backendDomname;
  if (name === undefined || name === '0' || name === 'Domain-0') return;
  const line = `${what}: a backend in domain ${name} is not modelled: leave backend= out, dom0 has it then`;
  ctx.log('error', '', domid, line);
  throw new LibxlError(Rc.NI, line);
}

/** Devids count on from the highest that the config names. */
async function settleNics(ctx: Ctx, state: Creating): Promise<void> {
  for (const [index, nic] of state.config.nics.entries()) {
    refuseForeignBackend(ctx, state.domid, nic, `vif ${index}`);
    const obstacle = nicObstacle(nic);
    if (!obstacle) continue;
    ctx.log(obstacle.level, obstacle.where, undefined, obstacle.message);
    const line = `Unable to set nic defaults for nic ${index}`;
    ctx.log('error', 'libxl_nic.c:520:libxl__device_nic_set_devids', state.domid, line);
    throw new LibxlError(Rc.INVAL, line);
  }
  let last = state.config.nics.reduce((highest, nic) => Math.max(highest, nic.devid ?? -1), -1);
  state.nics = state.config.nics.map((nic) =>
    setNicDefaults(nic, { random: ctx.clock.random(16), devid: nic.devid === undefined ? ++last : nic.devid }),
  );
}

async function bootloaderRun(ctx: Ctx, { domid, restore }: Creating): Promise<void> {
  if (restore) return ctx.log('debug', 'libxl_create.c:1339:initiate_domain_create', domid, 'restoring, not running bootloader');
  ctx.log('debug', 'libxl_create.c:1342:initiate_domain_create', domid, 'running bootloader');
  const line = 'no bootloader configured, using user supplied kernel';
  ctx.log('debug', 'libxl_bootloader.c:417:libxl__bootloader_run', domid, line);
}

/** Ports, memory and images, then T2 and the introduction of the domain to xenstored (libxl__domain_build). */
async function domainBuild(ctx: Ctx, state: Creating): Promise<void> {
  try {
    await buildPre(ctx, state);
    if (state.restore) await restoreGuest(ctx, state, state.restore);
    else await buildPv(ctx, state);
    await buildPost(ctx, state);
  } catch (error) {
    const failure = asLibxlError(error, 'libxl__domain_build');
    const where = 'libxl_create.c:1640:domcreate_rebuild_done';
    if (failure) ctx.log('error', where, state.domid, `cannot (re-)build domain: ${failure.rc}`);
    throw error;
  }
}

/** What a domain may use on top of its memory, in KiB (LIBXL_MAXMEM_CONSTANT). */
const LIBXL_MAXMEM_CONSTANT = 1024;

async function buildPre(ctx: Ctx, state: Creating): Promise<void> {
  const { domid, settings, build } = state;
  await placeVcpus(ctx, state);
  await ctx.xc.call('xc.domain_setmaxmem', { domid, maxKb: settings.targetMemkb + LIBXL_MAXMEM_CONSTANT });
  build.storePort = (await ctx.xc.call('xc.evtchn_alloc_unbound', { domid, remote: 0 })).port;
  build.consolePort = (await ctx.xc.call('xc.evtchn_alloc_unbound', { domid, remote: 0 })).port;
}

/**
 * Says where each vcpu may run. libxl would look for a NUMA node that suits the domain; with one node there is none to
 * choose, and only a domain that could run nowhere in its pool is refused.
 */
async function placeVcpus(ctx: Ctx, { config, domid, poolId }: Creating): Promise<void> {
  const { vcpuHardAffinity: hard = [], vcpuSoftAffinity: soft = [], numaPlacement = true } = config.bInfo;
  const [first] = hard;
  if (numaPlacement && first) {
    const pool = await ctx.xc.call('xc.cpupool_getinfo', { poolId });
    if (!first.some((cpu) => pool?.cpus.includes(cpu))) {
      const line = "Hard affinity completely outside of domain's cpupool!";
      ctx.log('error', 'libxl_dom.c:190:numa_place_domain', undefined, line);
      throw new LibxlError(Rc.INVAL, line);
    }
  }
  for (let vcpu = 0; vcpu < Math.max(hard.length, soft.length); vcpu++) {
    try {
      await setVcpuAffinity(ctx, domid, vcpu, { hard: hard[vcpu], soft: soft[vcpu] });
    } catch (error) {
      if (!(error instanceof LibxlError)) throw error;
      const line = `setting affinity failed on vcpu \`${vcpu}'`;
      ctx.log('error', 'libxl_dom.c:350:libxl__build_pre', undefined, line);
      throw new LibxlError(Rc.FAIL, line, { cause: error });
    }
  }
}

async function buildPv(ctx: Ctx, { domid, settings, build }: Creating): Promise<void> {
  const { kernel, ramdisk, cmdline = '', targetMemkb } = settings;
  ctx.log('debug', 'libxl_dom.c:633:libxl__build_pv', undefined, `pv kernel mapped 0 path ${kernel}`);
  await checkImage(ctx, kernel, 646, 'xc_dom_kernel_file');
  if (ramdisk !== undefined) await checkImage(ctx, ramdisk, 659, 'xc_dom_ramdisk_file');
  const magic = await ctx.host.readMagic(kernel);
  if (magic && !isKernel(magic)) {
    throw builderPanic(ctx, 'xg_dom_core.c:689: xc_dom_find_loader: no loader found: Invalid kernel', [
      'libxl_dom.c:571:libxl__build_dom',
      'xc_dom_parse_image failed',
    ]);
  }
  try {
    const images = { kernel, ramdisk: ramdisk ?? null, cmdline };
    Object.assign(build, await ctx.xc.call('xc.dom_build', { domid, memoryKb: targetMemkb, ...images }));
  } catch (error) {
    if (!(error instanceof PrivcmdError) || error.errno !== 'ENOMEM') throw error;
    const panic = "xg_dom_boot.c:119: xc_dom_boot_mem_init: can't allocate low memory for domain: Out of memory";
    const line = `xc_dom_boot_mem_init failed: ${strerror(error.errno)}`;
    throw builderPanic(ctx, panic, ['libxl_dom.c:586:libxl__build_dom', line]);
  }
}

/** Reads a saved guest and puts it into the domain (libxl__stream_read_start). */
async function restoreGuest(ctx: Ctx, { domid, build }: Creating, read: ReadBytes): Promise<void> {
  const info = (line: string) => ctx.xcLog(`xc: info: ${line}`, 'info');
  const found = (xen: string) => {
    info(`Found x86 PV domain from Xen ${xen}`);
    info('Restoring domain');
  };
  const guest = await readStream(read, found).catch((error: unknown) => {
    if (!(error instanceof StreamError)) throw error;
    if ('where' in error.who) ctx.log('error', error.who.where, undefined, error.message);
    else {
      ctx.xcLog(`xc: error: ${error.message}: Internal error`);
      ctx.xcLog('xc: error: Restore failed (0 = Success): Internal error');
      ctx.log('error', 'libxl_stream_read.c:850:libxl__xc_domain_restore_done', undefined, 'restoring domain: Success');
    }
    throw new LibxlError(Rc.FAIL, error.message);
  });
  try {
    Object.assign(build, await ctx.xc.call('xc.dom_restore', { domid, guest }));
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    ctx.xcLog(
      `xc: error: Failed to populate physmap (${error.errno === 'ENOMEM' ? 12 : 22} = ${strerror(error.errno)}): Internal error`,
    );
    ctx.log(
      'error',
      'libxl_stream_read.c:850:libxl__xc_domain_restore_done',
      undefined,
      `restoring domain: ${strerror(error.errno)}`,
    );
    throw new LibxlError(Rc.FAIL, error.message, { cause: error });
  }
  info('Restore successful');
  info(`XenStore: mfn 0x${build.storeMfn.toString(16)}, dom 0, evt ${build.storePort}`);
  info(`Console: mfn 0x${build.consoleMfn.toString(16)}, dom 0, evt ${build.consolePort}`);
}

/** An image must be there. */
async function checkImage(ctx: Ctx, path: string, line: number, loads: string): Promise<void> {
  if (await ctx.host.stat(path)) return;
  const missing = strerror('ENOENT');
  const panic = `xg_dom_core.c:205: failed to open file '${path}': ${missing}: Internal error`;
  throw builderPanic(ctx, panic, [`libxl_dom.c:${line}:libxl__build_pv`, `${loads} failed: ${missing}`]);
}

/** The domain builder's own line, then libxl's. */
function builderPanic(ctx: Ctx, panic: string, [where, line]: readonly [where: string, line: string]): LibxlError {
  ctx.xcLog(`xc: error: panic: ${panic}`);
  ctx.log('error', where, undefined, line);
  return new LibxlError(Rc.FAIL, panic);
}

/** Whether one of the domain builder's loaders would take it: ELF, a bzImage, or either of them compressed. */
function isKernel(magic: Uint8Array): boolean {
  const startsWith = (at: number, ...bytes: readonly number[]) => bytes.every((byte, index) => magic[at + index] === byte);
  const elf = startsWith(0, 0x7f, 0x45, 0x4c, 0x46);
  const gzip = startsWith(0, 0x1f, 0x8b);
  const bzImage = startsWith(0x1fe, 0x55, 0xaa) && startsWith(0x202, 0x48, 0x64, 0x72, 0x53);
  return elf || gzip || bzImage;
}

/** T2: what the guest's kernel looks for. Then xenstored is told of the domain, and fires `@introduceDomain`. */
async function buildPost(ctx: Ctx, { domid, config, settings, build, restore }: Creating): Promise<void> {
  const home = domainPath(domid);
  const vm = vmPath(config.cInfo.uuid);
  const { maxMemkb, targetMemkb, videoMemkb, maxVcpus, availVcpus, kernel, ramdisk, cmdline } = settings;
  const { weight = -1, cap = -1 } = config.bInfo.schedParams;
  // Nothing to set, nothing to ask: every creation would pay for it.
  if (weight !== -1 || cap !== -1) await setDomainSched(ctx, domid, { weight, cap });
  const started = ctx.clock.wall();
  await transact(ctx, async (tx) => {
    await checkAlive(tx, domid);
    await writeTogether(tx, (put) => {
      put.write(`${home}/memory/static-max`, String(maxMemkb));
      put.write(`${home}/memory/target`, String(targetMemkb - videoMemkb));
      put.write(`${home}/memory/videoram`, String(videoMemkb));
      put.write(`${home}/domid`, String(domid));
      put.write(`${home}/store/port`, String(build.storePort));
      put.write(`${home}/store/ring-ref`, String(build.storeMfn));
      for (let vcpu = 0; vcpu < maxVcpus; vcpu++) {
        put.write(`${home}/cpu/${vcpu}/availability`, availVcpus.includes(vcpu) ? 'online' : 'offline');
      }
      put.write(`${vm}/image/ostype`, 'linux');
      if (!restore) put.write(`${vm}/image/kernel`, byteString(kernel));
      put.write(`${vm}/start_time`, secondsAndCentiseconds(started));
      if (!restore && ramdisk !== undefined) put.write(`${vm}/image/ramdisk`, byteString(ramdisk));
      if (!restore && cmdline !== undefined) put.write(`${vm}/image/cmdline`, byteString(cmdline));
    });
  });
  await ctx.xs.introduce(domid, build.storeMfn, build.storePort);
}

/** `1795357362.38` */
function secondsAndCentiseconds(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  return `${seconds}.${String(Math.floor((ms % 1000) / 10)).padStart(2, '0')}`;
}

/** All disks at once: their transactions in the order of the list, then their backends and scripts in parallel. */
async function addDisks(ctx: Ctx, { domid, disks }: Creating): Promise<void> {
  try {
    await multidev(disks.map((disk) => () => startDeviceAdd(ctx, diskDevice(ctx, domid, disk), diskNodes(disk, domid))));
  } catch (error) {
    if (asLibxlError(error, 'disks')) {
      ctx.log('error', 'libxl_create.c:1672:domcreate_launch_dm', domid, 'unable to add disk devices');
    }
    throw error;
  }
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

/** libxl starts a qemu for a PV guest whose disks need one. This dom0 has none to start. */
async function checkDeviceModel(ctx: Ctx, { domid, disks }: Creating): Promise<void> {
  if (!disks.some((disk) => disk.backend === 'qdisk' && disk.backendDomid === 0)) return;
  const qemu = '/usr/libexec/xen-qemu-system-i386';
  const line = `device model ${qemu} is not executable: ${strerror('ENOENT')}`;
  ctx.log('error', 'libxl_dm.c:2909:libxl__spawn_local_dm', domid, line);
  ctx.log('error', 'libxl_create.c:1896:domcreate_devmodel_started', domid, `device model did not start: ${Rc.FAIL}`);
  throw new LibxlError(Rc.FAIL, line);
}

async function attachNics(ctx: Ctx, { domid, nics }: Creating): Promise<void> {
  try {
    await multidev(nics.map((nic) => () => startDeviceAdd(ctx, nicDevice(domid, nic), nicNodes(nic, domid))));
  } catch (error) {
    if (asLibxlError(error, 'nics')) {
      ctx.log('error', 'libxl_create.c:1921:domcreate_attach_devices', domid, 'unable to add vif devices');
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
