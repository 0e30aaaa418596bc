/**
 * What libxl tells of the host as a whole: its processors, its memory, and what Xen is (libxl_get_physinfo,
 * libxl_get_version_info, libxl_get_numainfo of 4.17); and what it tells Xen itself, by keys and parameters.
 */
import { cpuPlaces, type MachineDescription, mbOf, type NumaNode, numaNodes } from '../xenbus/machine.js';
import { domainPath, join } from '../xenbus/paths.js';
import { PrivcmdError, type Trigger } from '../xenbus/privcmd.js';
import { strerror } from './ao.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { domainInfo } from './domain.js';
import { strtol } from './strtol.js';

/** The host now: what it is, and how much of it is free. Memory is in MiB. */
export interface HostInfo {
  readonly machine: MachineDescription;
  readonly totalMb: number;
  readonly freeMb: number;
  /** Claimed by domains that are being built, and not given to them yet. */
  readonly claimedMb: number;
  /** Processors that no cpupool has. */
  readonly freeCpus: number;
  readonly scheduler: string;
}

export async function hostInfo(ctx: Ctx): Promise<HostInfo> {
  const [{ machine }, { totalKb, freeKb }] = await Promise.all([ctx.xc.call('dom0.machine', {}), ctx.xc.call('xc.physinfo', {})]);
  const [{ cpus: free }, pool] = await Promise.all([
    ctx.xc.call('xc.cpupool_freeinfo', {}),
    ctx.xc.call('xc.cpupool_getinfo', { poolId: 0 }),
  ]);
  const scheduler = pool?.sched ?? machine.xenScheduler;
  return { machine, totalMb: mbOf(totalKb), freeMb: mbOf(freeKb), claimedMb: 0, freeCpus: free.length, scheduler };
}

/** The NUMA nodes, by number. */
export function numaInfo({ machine, freeMb }: HostInfo): readonly NumaNode[] {
  return numaNodes(machine, freeMb);
}

export { cpuPlaces };

/** Seconds since dom0 booted. */
export async function dom0Uptime(ctx: Ctx): Promise<number> {
  const { upMs } = await ctx.xc.call('dom0.machine', {});
  return Math.floor(upMs / 1000);
}

/** When a domain was built, in seconds since 1970; undefined, with a line in the log, when the store has not kept it. */
export async function vmStartTime(ctx: Ctx, domid: number): Promise<number | undefined> {
  const vm = await ctx.xs.read(join(domainPath(domid), 'vm'));
  const text = vm === undefined ? undefined : await ctx.xs.read(`${vm}/start_time`);
  if (text !== undefined) return Number(BigInt.asUintN(32, strtol(text, 10).value));
  ctx.log('error', 'libxl_domain.c:2231:libxl_vm_get_start_time', domid, "Can't get start time of domain");
  return undefined;
}

/** Xen's console, piece by piece. Without an end only while Xen goes on talking. */
export async function* readXenConsole(ctx: Ctx, clear: boolean): AsyncGenerator<string> {
  for (let from = 0; ; ) {
    const { text, index } = await ctx.xc.call('xc.readconsolering', { index: from, clear });
    if (text === '') return;
    yield text;
    from = index;
  }
}

/** Presses keys of Xen's console. Xen looks at those that it knows, and at no others. */
export async function sendDebugKeys(ctx: Ctx, keys: string): Promise<void> {
  await ctx.xc.call('xc.send_debug_keys', { keys });
}

/**
 * Sets parameters of Xen, given as on its command line: `name=value` or `noname`, with blanks between. The first that fails
 * ends it; those before it are set.
 */
export async function setParameters(ctx: Ctx, text: string): Promise<void> {
  for (const word of text.split(/[ \t]+/).filter((each) => each !== '')) {
    const equals = word.indexOf('=');
    const negated = equals < 0 && word.startsWith('no');
    const name = negated ? word.slice(2) : equals < 0 ? word : word.slice(0, equals);
    const value = negated ? 'no' : equals < 0 ? '' : word.slice(equals + 1);
    ctx.log('debug', 'libxl.c:703:libxl_set_parameters', undefined, `setting node "/params/${name}" to value "${value}"`);
    try {
      await ctx.xc.call('xc.hypfs_write', { path: `/params/${name}`, value });
    } catch (error) {
      if (!(error instanceof PrivcmdError)) throw error;
      const message = `setting parameters: ${strerror(error.errno)}`;
      ctx.log('error', 'libxl.c:706:libxl_set_parameters', undefined, message);
      throw new LibxlError(Rc.FAIL, message, { cause: error });
    }
  }
}

/** What a trigger may be called, in either case (libxl_trigger); Xen has none for `unknown`. */
export const triggers = ['unknown', 'power', 'sleep', 'nmi', 'init', 'reset', 's3resume'] as const;
export type TriggerName = (typeof triggers)[number];

export function triggerOf(text: string): TriggerName | undefined {
  return triggers.find((name) => name === text.toLowerCase());
}

/** Sends a trigger to one vcpu of a domain. `s3resume` is for HVM guests, of which there are none. */
export async function sendTrigger(ctx: Ctx, domid: number, trigger: TriggerName, vcpu: number): Promise<void> {
  if (trigger === 's3resume') throw await s3Resume(ctx, domid);
  const errno = trigger === 'unknown' ? 'EINVAL' : await triggerErrno(ctx, domid, trigger, vcpu);
  if (errno === undefined) return;
  const message = `Send trigger '${trigger}' failed: ${strerror(errno)}`;
  ctx.log('error', 'libxl_domain.c:2207:libxl_send_trigger', domid, message);
  throw new LibxlError(Rc.FAIL, message);
}

async function triggerErrno(ctx: Ctx, domid: number, trigger: Trigger, vcpu: number): Promise<PrivcmdError['errno'] | undefined> {
  try {
    await ctx.xc.call('xc.domain_send_trigger', { domid, trigger, vcpu });
    return undefined;
  } catch (error) {
    if (error instanceof PrivcmdError) return error.errno;
    throw error;
  }
}

async function s3Resume(ctx: Ctx, domid: number): Promise<LibxlError> {
  if (!(await domainInfo(ctx, domid))) {
    ctx.log('error', 'libxl_dom.c:37:libxl__domain_type', undefined, `unable to get domain type for domid=${domid}`);
  }
  const message = `Send trigger 's3resume' failed, rc=${Rc.INVAL}`;
  ctx.log('error', 'libxl_domain.c:2162:domain_s3_resume_done', domid, message);
  return new LibxlError(Rc.INVAL, message);
}

/** Writes a key to where the domain's kernel looks for sysrq keys. Nobody looks whether there is such a domain. */
export async function sendSysrq(ctx: Ctx, domid: number, key: string): Promise<void> {
  await ctx.xs.write(join(domainPath(domid), 'control', 'sysrq'), key);
}
