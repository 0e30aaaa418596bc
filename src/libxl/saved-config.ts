/**
 * The config of a domain that exists, put together again: for `xl list -l`, and for the next life of a domain.
 *
 * Apart from domain.ts because it brings the whole language of configs, which few commands need.
 */
import { domainPath, join } from '../xenbus/paths.js';
import { userdataName } from './create.js';
import { type Ctx, LibxlError } from './ctx.js';
import { domainInfo, domidToName } from './domain.js';
import type { DomainConfig } from './domain-config.js';
import { fromJson } from './json.js';
import { getDomainSched } from './sched.js';

/**
 * The config of a domain as it is now: what was saved when it was created, with the store's name, memory and vcpus, the
 * hypervisor's uuid and the scheduler's parameters. Undefined for a domain of which nothing was saved, or nothing is left,
 * as of a zombie; the log says so.
 */
export async function retrieveConfig(ctx: Ctx, domid: number): Promise<DomainConfig | undefined> {
  const info = await domainInfo(ctx, domid);
  if (!info) return undefined;
  const saved = await ctx.host.readUserdata(userdataName(domid, info.uuid, 'libxl-json'));
  const config = saved !== undefined ? fromJson(saved) : domid === 0 ? dom0Config() : undefined;
  if (!config) {
    const where = 'libxl_domain.c:2335:retrieve_domain_configuration_lock_acquired';
    ctx.log('error', where, domid, 'Fail to get domain configuration');
    return undefined;
  }
  const availVcpus = [];
  for (let vcpu = 0; vcpu < config.bInfo.maxVcpus; vcpu++) {
    if ((await ctx.xs.read(`${domainPath(domid)}/cpu/${vcpu}/availability`)) === 'online') availVcpus.push(vcpu);
  }
  const memory = join(domainPath(domid), 'memory');
  const maxMemkb = await readNumber(ctx, join(memory, 'static-max'));
  const target = await readNumber(ctx, join(memory, 'target'));
  // Without the node libxl has -1 for it, and adds it all the same.
  const videoram = (await readNumber(ctx, join(memory, 'videoram'))) ?? -1;
  const schedParams = await getDomainSched(ctx, domid).catch((error: unknown) => {
    if (!(error instanceof LibxlError)) throw error;
    const where = 'libxl_domain.c:2542:retrieve_domain_configuration_end';
    ctx.log('error', where, domid, 'Fail to get scheduler parameters');
  });
  if (!schedParams) return undefined;
  return {
    ...config,
    cInfo: {
      ...config.cInfo,
      name: (await domidToName(ctx, domid)) ?? config.cInfo.name,
      ...(domid === 0 ? {} : { uuid: info.uuid }),
    },
    bInfo: {
      ...config.bInfo,
      availVcpus,
      ...(maxMemkb === undefined ? {} : { maxMemkb }),
      ...(target === undefined ? {} : { targetMemkb: target + videoram }),
      schedParams,
    },
  };
}

/** What xen-init-dom0 saves for domain 0. */
function dom0Config(): DomainConfig {
  return fromJson('{"c_info":{"type":"pv"},"b_info":{"sched_params":{},"type.pv":{},"arch_arm":{},"arch_x86":{}}}');
}

async function readNumber(ctx: Ctx, path: string): Promise<number | undefined> {
  const text = await ctx.xs.read(path);
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}
