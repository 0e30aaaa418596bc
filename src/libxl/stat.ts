/**
 * What xentop shows, gathered at one moment (libxenstat of 4.17): domains with their processors, vifs and vbds.
 *
 * No data goes through this dom0's vifs and vbds, so their counters stand at 0. A domain whose name is gone from the store is
 * on its way out, and is left out.
 */
import { xenVersion } from '../xenbus/machine.js';
import { type BackendDevice, type DomInfo, PrivcmdError } from '../xenbus/privcmd.js';
import type { Ctx } from './ctx.js';
import { domidToName, listDomains } from './domain.js';

/** Counters of one direction of a vif. */
export interface NetCounters {
  readonly bytes: number;
  readonly packets: number;
  readonly errors: number;
  readonly dropped: number;
}

export interface NetStat {
  readonly devid: number;
  readonly rx: NetCounters;
  readonly tx: NetCounters;
}

/** Of a vbd; without counters while blkback does not know which device it is. */
export interface VbdStat {
  readonly devid: number;
  readonly counters: {
    readonly outOfRequests: number;
    readonly reads: number;
    readonly writes: number;
    readonly readSectors: number;
    readonly writeSectors: number;
  } | null;
}

export interface VcpuStat {
  readonly online: boolean;
  /** Seconds. */
  readonly time: number;
}

export interface DomainStat {
  readonly domid: number;
  readonly name: string;
  readonly info: DomInfo;
  readonly vcpus: readonly VcpuStat[];
  readonly nets: readonly NetStat[];
  readonly vbds: readonly VbdStat[];
}

export interface NodeStat {
  /** When it was taken: milliseconds since 1970. */
  readonly at: number;
  readonly version: string;
  readonly cpuKhz: number;
  readonly nrCpus: number;
  readonly totalKb: number;
  readonly freeKb: number;
  readonly domains: readonly DomainStat[];
}

/** Gathers it all. */
export async function nodeStat(ctx: Ctx): Promise<NodeStat> {
  const at = ctx.clock.wall();
  const [{ machine }, { totalKb, freeKb, nrCpus }, backends, infos] = await Promise.all([
    ctx.xc.call('dom0.machine', {}),
    ctx.xc.call('xc.physinfo', {}),
    ctx.xc.call('dom0.backends', {}),
    listDomains(ctx),
  ]);
  const domains: DomainStat[] = [];
  for (const info of infos) {
    const name = await domidToName(ctx, info.domid);
    if (name !== undefined) domains.push(domainStat(info, name, await vcpusOf(ctx, info), backends));
  }
  return { at, version: xenVersion(machine), cpuKhz: machine.cpuKhz, nrCpus, totalKb, freeKb, domains };
}

const nothing: NetCounters = { bytes: 0, packets: 0, errors: 0, dropped: 0 };
const noRequests = { outOfRequests: 0, reads: 0, writes: 0, readSectors: 0, writeSectors: 0 };

function domainStat(info: DomInfo, name: string, vcpus: readonly VcpuStat[], backends: readonly BackendDevice[]): DomainStat {
  const { domid } = info;
  const ours = (type: BackendDevice['type']) => backends.filter((each) => each.type === type && each.domid === domid);
  return {
    domid,
    name,
    info,
    vcpus,
    nets: ours('vif').map(({ devid }) => ({ devid, rx: nothing, tx: nothing })),
    vbds: ours('vbd').map(({ devid, counts }) => ({ devid, counters: counts ? noRequests : null })),
  };
}

/** The vcpus of a domain; one that is gone meanwhile has none. */
async function vcpusOf(ctx: Ctx, { domid, maxVcpus }: DomInfo): Promise<VcpuStat[]> {
  const ids = Array.from({ length: maxVcpus }, (_, vcpu) => vcpu);
  const infos = await Promise.all(ids.map((vcpu) => ctx.xc.call('xc.vcpu_getinfo', { domid, vcpu }))).catch((error: unknown) => {
    if (error instanceof PrivcmdError) return [];
    throw error;
  });
  return infos.map(({ online, cpuTime }) => ({ online, time: cpuTime }));
}
