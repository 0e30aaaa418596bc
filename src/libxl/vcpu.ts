/**
 * What libxl does with the vcpus of a domain: listing them, taking them off and on, and saying where they may run.
 *
 * Lines and order of checks are those of libxl_domain.c and libxl_sched.c of 4.17. Some of its lines end with an errno
 * that an earlier call has left: the name of a domain that has none (ENOENT), the label of one without XSM (ENOSYS).
 */
import { domainPath } from '../xenbus/paths.js';
import { PrivcmdError, type VcpuInfo } from '../xenbus/privcmd.js';
import { strerror, transact } from './ao.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { checkAlive } from './device.js';
import { domainInfo, listDomains } from './domain.js';

/** Every vcpu of a domain, or undefined when the hypervisor does not tell; the log says why (libxl_list_vcpu). */
export async function listVcpus(ctx: Ctx, domid: number): Promise<readonly VcpuInfo[] | undefined> {
  // The hypervisor answers with the next domain where there is none of that domid, and libxl counts that one's vcpus.
  const domain = (await listDomains(ctx)).find((each) => each.domid >= domid);
  if (!domain) {
    ctx.log('error', 'libxl_domain.c:1667:libxl_list_vcpu', domid, `Getting infolist: ${strerror('ENOENT')}`);
    return undefined;
  }
  const vcpus: VcpuInfo[] = [];
  for (let vcpu = 0; vcpu < domain.maxVcpus; vcpu++) {
    try {
      vcpus.push(await ctx.xc.call('xc.vcpu_getinfo', { domid, vcpu }));
    } catch (error) {
      if (!(error instanceof PrivcmdError)) throw error;
      ctx.log('error', 'libxl_domain.c:1691:libxl_list_vcpu', domid, `Getting vcpu info: ${strerror(error.errno)}`);
      return undefined;
    }
  }
  return vcpus;
}

/** Where a vcpu may run and would like to; what is absent stays as it is. */
export interface Affinity {
  readonly hard?: readonly number[] | undefined;
  readonly soft?: readonly number[] | undefined;
}

/** `force` also undoes a pinning that dom0's kernel has asked for. */
export async function setVcpuAffinity(ctx: Ctx, domid: number, vcpu: number, wanted: Affinity, force = false): Promise<void> {
  const { hard, soft } = wanted;
  if (!hard && !soft && !force) throw new LibxlError(Rc.INVAL, 'neither a hard nor a soft affinity is given');
  const where = (line: number) => `libxl_sched.c:${line}:libxl__set_vcpuaffinity`;
  let used: { readonly hard: readonly number[]; readonly soft: readonly number[] };
  try {
    used = await ctx.xc.call('xc.vcpu_setaffinity', { domid, vcpu, ...(hard ? { hard } : {}), ...(soft ? { soft } : {}) });
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    const line = `Setting vcpu affinity: ${strerror(error.errno)}`;
    ctx.log('error', where(62), domid, line);
    throw new LibxlError(Rc.FAIL, line, { cause: error });
  }
  if (hard && !sameCpus(hard, used.hard)) {
    ctx.log('debug', where(74), domid, `New hard affinity for vcpu ${vcpu} has unreachable cpus`);
  }
  if (!soft) return;
  if (!sameCpus(soft, used.soft)) {
    ctx.log('debug', where(81), domid, `New soft affinity for vcpu ${vcpu} has unreachable cpus`);
  }
  if (used.soft.length > 0) return;
  const unreachable = `All cpus in soft affinity of vcpu ${vcpu} are unreachable.`;
  ctx.log('warn', where(84), domid, `${unreachable} Only hard affinity will be considered for scheduling`);
}

/** The same of every vcpu. One that fails does not keep the others from it. */
export async function setVcpuAffinityAll(ctx: Ctx, domid: number, count: number, wanted: Affinity): Promise<void> {
  let failed: unknown;
  for (let vcpu = 0; vcpu < count; vcpu++) {
    try {
      await setVcpuAffinity(ctx, domid, vcpu, wanted);
    } catch (error) {
      if (!(error instanceof LibxlError)) throw error;
      ctx.log('warn', 'libxl_sched.c:124:libxl_set_vcpuaffinity_all', domid, `Failed to set affinity for ${vcpu}`);
      failed = error;
    }
  }
  if (failed !== undefined) throw new LibxlError(Rc.FAIL, 'some vcpus keep their affinity', { cause: failed });
}

function sameCpus(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((cpu) => b.includes(cpu));
}

/** Asks the domain to have its first `count` vcpus on and the others off. Its kernel does it, or does not. */
export async function setVcpusOnline(ctx: Ctx, domid: number, count: number): Promise<void> {
  const fail = (line: number, message: string, errno: 'ENOENT' | 'ENOSYS', rc: Rc): never => {
    ctx.log('error', `libxl_domain.c:${line}:libxl_set_vcpuonline`, domid, `${message}: ${strerror(errno)}`);
    throw new LibxlError(rc, message);
  };
  const info = await domainInfo(ctx, domid);
  if (!info) return fail(1856, 'Getting domain info list', 'ENOENT', Rc.DOMAIN_NOTFOUND);
  if (count === 0) return fail(1863, 'Requested 0 VCPUs!', 'ENOSYS', Rc.FAIL);
  if (count > info.maxVcpus) {
    return fail(1869, `Requested ${count} VCPUs, however maxcpus is ${info.maxVcpus}!`, 'ENOSYS', Rc.FAIL);
  }
  await transact(ctx, async (tx) => {
    if (domid !== 0) await checkAlive(tx, domid);
    for (let vcpu = 0; vcpu < info.maxVcpus; vcpu++) {
      await tx.write(`${domainPath(domid)}/cpu/${vcpu}/availability`, vcpu < count ? 'online' : 'offline');
    }
  });
}
