/**
 * Building a PV domain: vcpus, event channels and memory, its images or the stream that it is restored from, and what its
 * kernel looks for in the store (libxl_dom.c of 4.17). Guests are models, so "building" checks that the images are there and
 * asks the hypervisor for memory.
 */
import { domainPath, vmPath } from '../xenbus/paths.js';
import { PrivcmdError } from '../xenbus/privcmd.js';
import { byteString } from '../xenbus/xs-client.js';
import { asLibxlError, strerror, transact, writeTogether } from './ao.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { checkAlive } from './device.js';
import type { DomainConfig } from './domain-config.js';
import { setDomainSched } from './sched.js';
import { type ReadBytes, readStream, StreamError } from './stream.js';
import { setVcpuAffinity } from './vcpu.js';

/** What a config leaves to libxl's defaults (libxl__domain_build_info_setdefault). */
export interface BuildSettings {
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
export interface BuildState {
  storePort: number;
  storeMfn: number;
  consolePort: number;
  consoleMfn: number;
}

/** What building needs of a creation. */
export interface Building {
  readonly config: DomainConfig;
  readonly settings: BuildSettings;
  readonly build: BuildState;
  readonly domid: number;
  readonly poolId: number;
  /** Where the guest is read from that goes on in the domain; a new guest is built otherwise. */
  readonly restore: ReadBytes | undefined;
}

export function settle({ bInfo }: DomainConfig): BuildSettings {
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

/** Ports, memory and images, then T2 and the introduction of the domain to xenstored (libxl__domain_build). */
export async function domainBuild(ctx: Ctx, state: Building): Promise<void> {
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

async function buildPre(ctx: Ctx, state: Building): Promise<void> {
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
async function placeVcpus(ctx: Ctx, { config, domid, poolId }: Building): Promise<void> {
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

async function buildPv(ctx: Ctx, { domid, settings, build }: Building): Promise<void> {
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
async function restoreGuest(ctx: Ctx, { domid, build }: Building, read: ReadBytes): Promise<void> {
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
async function buildPost(ctx: Ctx, { domid, config, settings, build, restore }: Building): Promise<void> {
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
