/**
 * The nodes of mtwatch, `/local/domain/0/mtwatch/<domid>`, and those whose domain is gone: left by a toolstack that was
 * killed halfway.
 */
import { domainPath, libxlPath, mtwatchPath, parseDomid, vmPath } from '../xenbus/paths.js';
import { abort, type Xs, type XsRequests } from '../xenbus/xs-client.js';
import type { Ctx } from './ctx.js';
import { devicesSweep } from './device.js';
import { destroyDeviceModel } from './device-model.js';
import { listDomains } from './domain.js';

const backends = '/local/domain/0/backend';

/** Between the two looks at a foreign store: a domain that is being made has its nodes by then. */
const secondLookMs = 60_000;

/** The domids that have a node, in rising order. */
export async function announcedDomids(xs: XsRequests): Promise<number[]> {
  const names = (await xs.directory('/local/domain/0/mtwatch')) ?? [];
  return names.flatMap((name) => parseDomid(name) ?? []).sort((a, b) => a - b);
}

/** The nodes of a store, of which the hypervisor cannot be asked, that belong to no domain now. */
export async function orphansNow(xs: Xs): Promise<number[]> {
  const orphans = await xs.transaction((tx) => findOrphans(tx));
  return orphans === abort ? [] : orphans;
}

async function findOrphans(tx: XsRequests): Promise<number[]> {
  const orphans: number[] = [];
  for (const domid of await announcedDomids(tx)) {
    const home = await tx.read(domainPath(domid));
    const libxl = await tx.read(libxlPath(domid));
    if (home === undefined && libxl === undefined) orphans.push(domid);
  }
  return orphans;
}

/**
 * The hypervisor knows: a node whose domid it does not have is an orphan, unless a domain is just being made. Where the
 * toolstack got further before the domain was lost, what else it made goes first: `xl destroy` finds no such domain.
 */
export async function pruneOwn(ctx: Ctx): Promise<number[]> {
  const removed: number[] = [];
  // The nodes first: a domid is the hypervisor's before it has a node.
  const announced = await announcedDomids(ctx.xs);
  const alive = new Set((await listDomains(ctx)).map(({ domid }) => domid));
  for (const domid of announced) {
    if (!alive.has(domid) && (await pruneOne(ctx, domid))) removed.push(domid);
  }
  return removed;
}

/** Removes one; whether it was there. The domid may be another domain's by now, which has its home or finds no announcement. */
async function pruneOne(ctx: Ctx, domid: number): Promise<boolean> {
  const isRemoved = await ctx.xs.transaction(async (tx) => {
    return (await tx.read(domainPath(domid))) === undefined ? tx.rm(mtwatchPath(domid)) : abort;
  });
  if (isRemoved === false) return false;
  const isBack = (await ctx.xc.call('xc.domain_getinfo', { domid })) !== null;
  const hadRemains = !isBack && (await removeRemains(ctx, domid));
  return isRemoved === true || hadRemains;
}

/** Removes what is left of a domain that is gone, its node last; whether that was there. */
export async function removeRemains(ctx: Ctx, domid: number): Promise<boolean> {
  const home = domainPath(domid);
  const vm = await ctx.xs.read(`${home}/vm`);
  const [, uuid] = /^\/vm\/([-0-9a-f]+)$/.exec(vm ?? '') ?? [];
  if (uuid !== undefined) {
    await ctx.xs.rm(vmPath(uuid));
    await ctx.host.removeUserdata(domid, uuid);
  }
  await ctx.xs.rm(home);
  await devicesSweep(ctx, domid);
  for (const kind of (await ctx.xs.directory(backends)) ?? []) await ctx.xs.rm(`${backends}/${kind}/${domid}`);
  await destroyDeviceModel(ctx, domid);
  await ctx.xs.rm(libxlPath(domid));
  return ctx.xs.rm(mtwatchPath(domid));
}

/** Two looks; what the first and the second find is removed in the transaction of the second. */
export async function pruneForeign(ctx: Ctx, now: boolean): Promise<number[]> {
  const before = await orphansNow(ctx.xs);
  if (before.length > 0 && !now) await ctx.clock.sleep(secondLookMs * ctx.timeoutScale);
  const removed = await ctx.xs.transaction(async (tx) => {
    const still = (await findOrphans(tx)).filter((domid) => before.includes(domid));
    for (const domid of still) await tx.rm(mtwatchPath(domid));
    return still;
  });
  return removed === abort ? [] : removed;
}
