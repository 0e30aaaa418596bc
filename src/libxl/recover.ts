/**
 * What is half done when dom0 begins again on its journal, finished or rolled back.
 *
 * Its toolstacks are gone: a process that lost its connection to dom0 does nothing more. So a domain whose creation was not
 * finished is destroyed, as its rollback would have done, and one whose destruction had begun is destroyed to the end. A
 * device is removed by force if its removal had begun, or its hotplug script never ran. What a toolstack leaves behind of a
 * domain that the hypervisor does not have goes too, the mtwatch node last.
 */
import { domainPath, libxlPath, mtwatchPath, parseDomid } from '../xenbus/paths.js';
import type { DomInfo } from '../xenbus/privcmd.js';
import { asLibxlError } from './ao.js';
import { userdataName } from './create.js';
import type { Ctx } from './ctx.js';
import { destroyGuest } from './destroy.js';
import { type Device, deviceRemove, parseBackendPath } from './device.js';
import { listDomains } from './domain.js';
import { announcedDomids, removeRemains } from './mtwatch-nodes.js';

/** The backends that libxl runs a script for, which says so in `hotplug-status`. */
const scripted: ReadonlySet<string> = new Set(['vbd', 'vif']);
const backends = '/local/domain/0/backend';
const deviceModels = '/local/domain/0/device-model';

/** Finishes what is half done, all domains at once, and calls `say` with a line for each thing. */
export async function recover(ctx: Ctx, say: (line: string) => void): Promise<void> {
  const domains = (await listDomains(ctx)).filter(({ domid }) => domid !== 0);
  await Promise.all(domains.map((info) => recoverDomain(ctx, info, say)));
  await pruneRemains(ctx, say);
}

async function recoverDomain(ctx: Ctx, info: DomInfo, say: (line: string) => void): Promise<void> {
  const { domid } = info;
  const why = await whatIsHalfDone(ctx, info);
  if (why === undefined) return finishRemovals(ctx, domid, say);
  say(`domain ${domid}: ${why}`);
  try {
    await destroyGuest(ctx, domid);
  } catch (error) {
    const failure = asLibxlError(error, 'destroy');
    if (!failure) throw error;
    say(`domain ${domid}: was not destroyed: ${failure.message}`);
  }
}

/** Why a domain cannot stay; undefined when it is as it should be, or a zombie of which nothing else is left. */
async function whatIsHalfDone(ctx: Ctx, { domid, uuid, dying, ending }: DomInfo): Promise<string | undefined> {
  // libxl saves the config last, and removes it once the nodes are gone.
  const isSaved = (await ctx.host.readUserdata(userdataName(domid, uuid, 'libxl-json'))) !== undefined;
  const [home, ...others] = await Promise.all(
    [domainPath(domid), libxlPath(domid), mtwatchPath(domid)].map((path) => ctx.xs.read(path)),
  );
  const hasNodes = [home, ...others].some((node) => node !== undefined);
  if (dying && !hasNodes && !isSaved) return undefined;
  if (dying || ending) return 'its destruction had begun, and is finished';
  if (!isSaved) return 'its creation was not finished, and is rolled back';
  return home === undefined ? 'its nodes are gone, and so it goes' : undefined;
}

/** The devices of a domain that is to stay. */
async function finishRemovals(ctx: Ctx, domid: number, say: (line: string) => void): Promise<void> {
  for (const kind of (await ctx.xs.directory(backends)) ?? []) {
    for (const devid of (await ctx.xs.directory(`${backends}/${kind}/${domid}`)) ?? []) {
      const backend = `${backends}/${kind}/${domid}/${devid}`;
      const device = await deviceAt(ctx, backend);
      if (!device) continue;
      const isLeaving = (await ctx.xs.read(`${backend}/online`)) === '0';
      const isComing = scripted.has(kind) && (await ctx.xs.read(`${backend}/hotplug-status`)) === undefined;
      if (!isLeaving && !isComing) continue;
      const which = isLeaving ? 'removal had begun, and is finished' : 'attachment was not finished, and is rolled back';
      say(`domain ${domid}: ${kind} ${devid}: its ${which}`);
      try {
        await deviceRemove(ctx, device, 'on');
      } catch (error) {
        const failure = asLibxlError(error, 'remove');
        if (!failure) throw error;
        say(`domain ${domid}: ${kind} ${devid}: was not removed in time: ${failure.message}`);
      }
    }
  }
}

/** A qdisk is a vbd to its guest: the frontend's path says what kind of device it is. */
async function deviceAt(ctx: Ctx, backend: string): Promise<Device | undefined> {
  const device = parseBackendPath(backend);
  const frontend = await ctx.xs.read(`${backend}/frontend`);
  const kind = frontend === undefined ? undefined : /\/device\/([^/]+)\/\d+$/.exec(frontend)?.[1];
  return device && { ...device, kind: kind ?? device.kind };
}

/** What toolstacks made for domains that are not there. Nodes that somebody else has written stay. */
async function pruneRemains(ctx: Ctx, say: (line: string) => void): Promise<void> {
  const made = new Set(await announcedDomids(ctx.xs));
  for (const dir of ['/libxl', deviceModels]) {
    for (const name of (await ctx.xs.directory(dir)) ?? []) {
      const domid = parseDomid(name);
      if (domid !== undefined && domid !== 0) made.add(domid);
    }
  }
  const alive = new Set((await listDomains(ctx)).map(({ domid }) => domid));
  for (const domid of [...made].sort((a, b) => a - b)) {
    if (alive.has(domid)) continue;
    await removeRemains(ctx, domid);
    say(`domain ${domid}: is not there, and what was left of it is removed`);
  }
}
