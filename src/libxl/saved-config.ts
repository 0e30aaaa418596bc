/**
 * The config of a domain that exists, put together again: for `xl list -l`, and for the next life of a domain.
 *
 * Apart from domain.ts because it brings the whole language of configs, which few commands need.
 */
import { domainPath, join } from '../xenbus/paths.js';
import type { DomInfo } from '../xenbus/privcmd.js';
import { strerror } from './ao.js';
import { userdataName, writeSaved } from './create.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { listDisks, listNics, listUsbctrls, listVdispls, listVsnds, listVtpms } from './device-list.js';
import { domainInfo, domidToName } from './domain.js';
import type { DomainConfig, OtherDeviceList } from './domain-config.js';
import { fromJson, type JsonObject } from './json.js';
import { fillDom0Memory } from './memory.js';
import { getDomainSched } from './sched.js';

/**
 * The config of a domain as it is now: what was saved when it was created, with the store's name, memory and vcpus, the
 * hypervisor's uuid and the scheduler's parameters. Undefined for a domain of which nothing was saved, or nothing is left,
 * as of a zombie; the log says so.
 */
export async function retrieveConfig(ctx: Ctx, domid: number): Promise<DomainConfig | undefined> {
  const info = await domainInfo(ctx, domid);
  if (!info) return undefined;
  const saved = await readSaved(ctx, info);
  const config = saved && (await withoutGone(ctx, domid, saved));
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
  if (domid === 0 && (await ctx.xs.read(join(memory, 'target'))) === undefined) await fillDom0Memory(ctx);
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

async function readSaved(ctx: Ctx, { domid, uuid }: DomInfo): Promise<DomainConfig | undefined> {
  const saved = await ctx.host.readUserdata(userdataName(domid, uuid, 'libxl-json'));
  return saved !== undefined
    ? fromJson(saved)
    : domid === 0 && (await domidToName(ctx, 0)) !== undefined
      ? dom0Config()
      : undefined;
}

/** Takes the lock on the saved config of a domain (libxl__lock_domain_userdata); the answer lets it go. */
export async function lockConfig(ctx: Ctx, domid: number): Promise<() => Promise<void>> {
  const unlock = await ctx.host.lockUserdata(domid, (await existing(ctx, domid)).uuid);
  let failure: unknown;
  try {
    // Whoever had it before may have destroyed the domain, or dom0 may have ended meanwhile.
    if (await domainInfo(ctx, domid)) return unlock;
    failure = new LibxlError(Rc.LOCK_FAIL, `domain ${domid} was destroyed meanwhile`);
  } catch (error) {
    failure = error;
  }
  await unlock();
  throw failure;
}

/** The config as it was saved, to be changed and written again (libxl__get_domain_configuration). */
export async function readConfig(ctx: Ctx, domid: number): Promise<DomainConfig> {
  const config = await readSaved(ctx, await existing(ctx, domid));
  if (!config) throw new LibxlError(Rc.JSON_CONFIG_EMPTY, `no configuration of domain ${domid} was saved`);
  return config;
}

/** Saves a config in place of the one before (libxl__set_domain_configuration). */
export async function writeConfig(ctx: Ctx, domid: number, config: DomainConfig): Promise<void> {
  const { uuid } = await existing(ctx, domid);
  await writeSaved(ctx, domid, uuid, config);
}

/** The files of a domain are named by its uuid, which the hypervisor has. */
async function existing(ctx: Ctx, domid: number): Promise<DomInfo> {
  const info = await domainInfo(ctx, domid);
  if (info) return info;
  const line = `unable to find domain info for domain ${domid}`;
  ctx.log('error', 'libxl_dom.c:1216:libxl__userdata_path', undefined, `${line}: ${strerror('ENOENT')}`);
  throw new LibxlError(Rc.LOCK_FAIL, line);
}

/** The devices of a saved config that are still in the store; for each other one the log has a warning. */
async function withoutGone(ctx: Ctx, domid: number, config: DomainConfig): Promise<DomainConfig> {
  const keep = <T>(list: readonly T[], isThere: (device: T) => boolean): readonly T[] =>
    list.filter((device) => {
      if (isThere(device)) return true;
      const where = 'libxl_domain.c:2603:retrieve_domain_configuration_end';
      ctx.log('warn', where, domid, 'Device present in JSON but not in xenstore, ignored');
      return false;
    });
  const vdevs = (await listDisks(ctx, domid))?.map(({ vdev }) => vdev);
  const disks = keep(config.disks, ({ vdev }) => vdevs?.includes(vdev ?? '') === true);
  const nicDevids = (await listNics(ctx, domid))?.map(({ devid }) => devid);
  const nics = keep(config.nics, ({ devid = -1 }) => nicDevids?.includes(devid) === true);
  const others: { [List in OtherDeviceList]?: readonly JsonObject[] } = {};
  for (const [list, devids] of [
    ['vtpms', await devidsOf(listVtpms(ctx, domid))],
    ['usbctrls', await devidsOf(listUsbctrls(ctx, domid))],
    ['vdispls', await devidsOf(listVdispls(ctx, domid))],
    ['vsnds', await devidsOf(listVsnds(ctx, domid))],
  ] as const) {
    const devices = config[list];
    if (devices) others[list] = keep(devices, ({ devid }) => devids.includes(Number(devid ?? -1)));
  }
  return { ...config, disks, nics, ...others };
}

async function devidsOf(listed: Promise<readonly { readonly devid: number }[] | undefined>): Promise<readonly number[]> {
  return ((await listed) ?? []).map(({ devid }) => devid);
}

/** What xen-init-dom0 saves for domain 0; `xl destroy -f 0` takes it away with the domain's nodes. */
function dom0Config(): DomainConfig {
  return fromJson('{"c_info":{"type":"pv"},"b_info":{"sched_params":{},"type.pv":{},"arch_arm":{},"arch_x86":{}}}');
}

async function readNumber(ctx: Ctx, path: string): Promise<number | undefined> {
  const text = await ctx.xs.read(path);
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
}
