/**
 * What a domain's death does: the part of `xl create` that stays behind, one a domain.
 *
 * Real xl leaves a process of its own for it; here dom0d hosts it, or `xl create -F` runs it in the foreground. Its
 * lines are those of xl_vmcontrol.c of 4.17, as they stand in `/var/log/xen/xl-NAME.log`.
 */
import { domainPath, join } from '../xenbus/paths.js';
import type { MonitorRequest } from '../xenbus/privcmd.js';
import { ShutdownReason } from '../xenbus/xenbus.js';
import { byteString, type XsWatch } from '../xenbus/xs-client.js';
import { asLibxlError } from './ao.js';
import { refuseInsert } from './cdrom.js';
import { actionName, parseConfig, textOfConfig } from './config.js';
import { domainCoreDump } from './core-dump.js';
import { CreateError, domainCreateNew, domainCreateRestore, userdataName } from './create.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { domainDestroy } from './destroy.js';
import { type Disk, diskDevid } from './disk.js';
import { type DeathWatch, domainInfo, domainPreserve, domainUnpause, formatUuid, listDomains, watchDeaths } from './domain.js';
import type { DomainConfig } from './domain-config.js';
import { fromJson, toJson } from './json.js';
import { retrieveConfig } from './saved-config.js';
import type { ReadBytes } from './stream.js';

/** Where cores go, when somebody has made it. */
const dumpDir = '/var/lib/xen/dump';
/** Between the end of a domain and its next life, in milliseconds. */
const rebootPauseMs = 2_000;

/** What a monitor waits for: all that it takes to go on with it in another process. */
export interface Monitored extends Pick<MonitorRequest, 'domid' | 'name' | 'actions'> {
  /** The domain has ended, and this is to come in its place; `domid` is that of the life that ended. */
  readonly next?: NextLife;
}

/** A life that is about to begin. */
export interface NextLife {
  /** Its config, as libxl's JSON. */
  readonly config: string;
  /** The ended life stays, under another name. */
  readonly keepsOld: boolean;
}

export interface Monitor {
  /** Resolves when there is nothing more to wait for, with what xl's process returns then: 0, or an rc. Rejects for a bug. */
  readonly done: Promise<number>;
}

/** Told of each change of what a monitor waits for, before it acts on it: whoever keeps the last one can go on with it. */
export type Moved = (now: Monitored) => void;

/**
 * Begins to wait for the end of a domain, and does then what its actions say. The watch is registered when this
 * resolves. `say` gets the lines of the log. Of what another process has left between two lives, the rest is done.
 */
export async function startMonitor(
  ctx: Ctx,
  monitored: Monitored,
  say: (line: string) => void,
  moved: Moved = () => undefined,
): Promise<Monitor> {
  const job: Job = { ctx, say, moved };
  if (monitored.next) return { done: resume(job, monitored, monitored.next) };
  const life = await watchLife(job, monitored, await readCreated(ctx, monitored.domid));
  return { done: follow(job, life) };
}

/** What a monitor works with. */
interface Job {
  readonly ctx: Ctx;
  readonly say: (line: string) => void;
  readonly moved: Moved;
}

/** One life of the domain, watched. */
interface Life {
  readonly monitored: Monitored;
  /** As xl remembers it from its creation; undefined for a domain of which nothing was saved. */
  readonly config: DomainConfig | undefined;
  readonly deaths: DeathWatch;
  readonly ejects: XsWatch[];
}

/** From one life of the domain to the next, while it is restarted. */
async function follow(job: Job, first: Life): Promise<number> {
  for (let life: Life | number = first; ; ) {
    if (typeof life === 'number') return life;
    let next: Next;
    try {
      next = await liveOut(job, life);
    } finally {
      await leave(life);
    }
    life = typeof next === 'number' ? next : await rebirth(job, next);
  }
}

/** What is to come: another life, or the end of the monitor with xl's return value. */
type Next = Monitored | number;

/** xl's own failure, which is none of libxl's. */
const failed = -1;

/** Waits for the end of a life, and does what it calls for. */
async function liveOut(job: Job, life: Life): Promise<Next> {
  const { domid } = life.monitored;
  for (;;) {
    const event = await life.deaths.next();
    if (event.domid !== domid) continue;
    if (event.on === 'shutdown') return act(job, life, event.reason);
    job.say(`Domain ${domid} has been destroyed.`);
    return 0;
  }
}

async function watchLife(job: Job, monitored: Monitored, config: DomainConfig | undefined): Promise<Life> {
  const { ctx, say } = job;
  const { domid } = monitored;
  say(`Waiting for domain ${monitored.name} (domid ${domid}) to die [pid ${ctx.host.pid}]`);
  const deaths = watchDeaths(ctx);
  await deaths.add(domid);
  const ejects: XsWatch[] = [];
  for (const disk of config?.disks ?? []) if (disk.removable) ejects.push(await watchEject(ctx, domid, disk));
  return { monitored, config, deaths, ejects };
}

/** Takes the watches back, once. */
async function leave({ deaths, ejects }: Life): Promise<void> {
  for (const watch of [deaths, ...ejects.splice(0)]) await watch.close().catch(() => undefined);
}

/**
 * A guest that ejects a medium writes so beside its frontend (libxl_evenable_disk_eject): it is acknowledged, and the
 * empty drive that xl asks for then is refused to a PV guest.
 */
async function watchEject(ctx: Ctx, domid: number, disk: Disk): Promise<XsWatch> {
  const frontend = join(domainPath(domid), 'device', 'vbd', String(diskDevid(disk)));
  const path = join(frontend, 'eject');
  const look = async () => {
    if ((await ctx.xs.read(path)) !== 'eject') return;
    await ctx.xs.write(path, '');
    if ((await ctx.xs.read(join(frontend, 'backend'))) !== undefined) await refuseInsert(ctx, domid);
  };
  // libxl asks for a name that the backend has; here it finds none.
  await ctx.xs.read(join(frontend, 'dev'));
  let turn = Promise.resolve();
  return ctx.xs.watch(path, () => {
    // A connection that ends meanwhile ends the monitor too, and that is told where it waits.
    turn = turn.then(look).catch(() => undefined);
  });
}

async function act(job: Job, life: Life, reason: ShutdownReason): Promise<Next> {
  const { ctx, say } = job;
  const { domid, actions } = life.monitored;
  say(`Domain ${domid} has shut down, reason code ${reason} 0x${reason.toString(16)}`);
  if (reason === ShutdownReason.suspend) {
    say('Domain has suspended.');
    return endsHere(say);
  }
  const action = actionFor(reason, actions) ?? 'destroy';
  if (actionFor(reason, actions) === undefined) say(`Unknown shutdown reason code ${reason}. Destroying domain.`);
  say(`Action for shutdown reason code ${reason} is ${action}`);

  if (action.startsWith('coredump-')) await dumpCore(ctx, domid, life.monitored.name, say);
  switch (action) {
    case 'preserve':
      return endsHere(say);
    case 'restart':
    case 'coredump-restart':
      return restart(job, life);
    case 'rename-restart':
      return renameRestart(job, life);
    case 'soft-reset':
      return softReset(job, life);
    default:
      await cleanUp(ctx, domid, say);
      return endsHere(say);
  }
}

function endsHere(say: (line: string) => void): number {
  say('Done. Exiting now');
  return 0;
}

function actionFor(reason: ShutdownReason, actions: Monitored['actions']): string | undefined {
  switch (reason) {
    case ShutdownReason.poweroff:
      return actions.poweroff;
    case ShutdownReason.reboot:
      return actions.reboot;
    case ShutdownReason.crash:
      return actions.crash;
    case ShutdownReason.watchdog:
      return actions.watchdog;
    case ShutdownReason.soft_reset:
      return actions.softReset;
    default:
      return undefined;
  }
}

/** A core that could not be written changes nothing of what follows. */
async function dumpCore(ctx: Ctx, domid: number, name: string, say: (line: string) => void): Promise<void> {
  const path = `${dumpDir}/${name}`;
  say(`dumping core to ${path}`);
  try {
    await domainCoreDump(ctx, domid, path);
  } catch (error) {
    const failure = asLibxlError(error, 'libxl_domain_core_dump');
    if (!failure) throw error;
    say(`core dump failed (rc=${failure.rc}).`);
  }
}

/** Destroys what has shut down. That it failed stands in the log, and changes nothing. */
async function cleanUp(ctx: Ctx, domid: number, say: (line: string) => void): Promise<void> {
  say(`Domain ${domid} needs to be cleaned up: destroying the domain`);
  await destroyAnyhow(ctx, domid);
}

async function destroyAnyhow(ctx: Ctx, domid: number): Promise<void> {
  try {
    await domainDestroy(ctx, domid);
  } catch (error) {
    if (!asLibxlError(error, 'destroy')) throw error;
  }
}

/** The config is read before the domain goes, because it goes with it. */
async function restart(job: Job, life: Life): Promise<Next> {
  const next = await reloaded(job, life, false);
  if (next === 'refused') return failed;
  if (next) job.moved(next);
  await cleanUp(job.ctx, life.monitored.domid, job.say);
  return reboots(job, life, next);
}

/**
 * What comes after this life. Its config is what `xl config-update` has left, once, else that of the domain as it is now,
 * else that of its creation; name and actions are those of the config. `refused`: what was left is no config, and xl's
 * monitor ends over it. Undefined: there is none.
 */
async function reloaded(job: Job, life: Life, keepsOld: boolean): Promise<Monitored | undefined | 'refused'> {
  const { ctx, say } = job;
  const { domid } = life.monitored;
  const asNext = (config: DomainConfig): Monitored => ({
    ...{ domid, name: config.cInfo.name, actions: actionsOf(config) },
    next: { config: toJson(config), keepsOld },
  });
  const info = await domainInfo(ctx, domid);
  const updated = info && userdataName(domid, info.uuid, 'xl');
  const text = updated && (await ctx.host.readUserdata(updated));
  if (updated && text) {
    say('"xl" configuration found, using it\n');
    const { lines, config } = parseConfig(byteString(text), '<updated>', { randomUuid: () => formatUuid(ctx.clock.random(16)) });
    for (const line of lines) say(line);
    if (!config) return 'refused';
    await ctx.host.writeUserdata(updated, '');
    return asNext(textOfConfig(config));
  }
  const config = await retrieveConfig(ctx, domid);
  if (config) return asNext(config);
  say(`failed to retrieve guest configuration (rc=${Rc.FAIL}). reusing old configuration`);
  return life.config && asNext(life.config);
}

/** The old domain stays to be looked at, under another name; the new one has its name and uuid. */
async function renameRestart(job: Job, life: Life): Promise<Next> {
  const { ctx, say } = job;
  const { domid } = life.monitored;
  const next = await reloaded(job, life, true);
  if (next === 'refused') return failed;
  const name = next?.name ?? life.monitored.name;
  const suffix = `-${new Date(ctx.clock.wall()).toISOString().replace(/[-:]/g, '').slice(0, 13)}Z`;
  say(`Preserving domain ${domid} ${name} with suffix${suffix}`);
  try {
    await domainPreserve(ctx, domid, name, suffix, formatUuid(ctx.clock.random(16)));
  } catch (error) {
    // libxl's lines have told why; the old domain is left in place.
    if (!asLibxlError(error, 'preserve')) throw error;
    return failed;
  }
  if (next) job.moved(next);
  return reboots(job, life, next);
}

/** A soft reset is for HVM guests (libxl_domain_soft_reset). xl learns that after its pause, and destroys the domain. */
async function softReset(job: Job, life: Life): Promise<number> {
  const next = await reloaded(job, life, false);
  if (next === 'refused') return failed;
  await pauseBefore(job, life);
  await destroyAnyhow(job.ctx, life.monitored.domid);
  return Rc.INVAL;
}

async function reboots(job: Job, life: Life, next: Monitored | undefined): Promise<Next> {
  // Nothing was ever saved of the domain, so there is nothing to create.
  if (!next) return endsHere(job.say);
  await pauseBefore(job, life);
  return next;
}

/** Nobody waits for the death of a domain while there is none. */
async function pauseBefore({ ctx, say }: Job, life: Life): Promise<void> {
  await leave(life);
  say('Done. Rebooting now');
  await ctx.clock.sleep(rebootPauseMs * ctx.timeoutScale);
}

/** Brings the next life about, and watches it. A failed one is the end of the monitor, as of xl's. */
async function rebirth(job: Job, monitored: Monitored): Promise<Life | number> {
  const { ctx, moved } = job;
  const { next, ...rest } = monitored;
  if (!next) return 0;
  const config = fromJson(next.config);
  const domid = await recreate(ctx, config);
  if (domid < 0) return domid;
  const now: Monitored = { ...rest, domid };
  moved(now);
  return watchLife(job, now, (await readCreated(ctx, domid)) ?? config);
}

/**
 * Goes on where a monitor was lost between two lives: what is left of the ended one goes, unless it is kept, and so does
 * what was made of the next.
 */
async function resume(job: Job, monitored: Monitored, { config, keepsOld }: NextLife): Promise<number> {
  const { ctx, say } = job;
  const { uuid } = fromJson(config).cInfo;
  for (const info of await listDomains(ctx)) {
    if (info.domid === 0 || info.uuid !== uuid || info.dying) continue;
    if (info.domid !== monitored.domid || !keepsOld) await cleanUp(ctx, info.domid, say);
  }
  const life = await rebirth(job, monitored);
  return typeof life === 'number' ? life : follow(job, life);
}

/** The config that a domain was created from, which xl remembers. */
async function readCreated(ctx: Ctx, domid: number): Promise<DomainConfig | undefined> {
  const info = await domainInfo(ctx, domid);
  const saved = info && (await ctx.host.readUserdata(userdataName(domid, info.uuid, 'libxl-json')));
  return saved ? fromJson(saved) : undefined;
}

/** What each kind of end does to a domain of that config. */
export function actionsOf(config: DomainConfig): Monitored['actions'] {
  return {
    poweroff: actionName(config.onPoweroff),
    reboot: actionName(config.onReboot),
    crash: actionName(config.onCrash),
    watchdog: actionName(config.onWatchdog),
    softReset: actionName(config.onSoftReset),
  };
}

/** Creates a domain and lets it run; xl does not look whether the latter worked. Answers with its domid, or an rc. */
async function recreate(ctx: Ctx, config: DomainConfig): Promise<number> {
  let domid: number;
  try {
    domid = await createDomain(ctx, config);
  } catch (error) {
    if (error instanceof LibxlError) return error.rc;
    throw error;
  }
  await domainUnpause(ctx, domid).catch((error: unknown) => {
    if (!(error instanceof LibxlError)) throw error;
  });
  return domid;
}

/** Creates a domain, paused. What a failed creation made is destroyed once more, as xl does, which mostly finds nothing. */
export async function createDomain(ctx: Ctx, config: DomainConfig, read?: ReadBytes): Promise<number> {
  try {
    return await (read ? domainCreateRestore(ctx, config, read) : domainCreateNew(ctx, config));
  } catch (error) {
    if (!(error instanceof CreateError) || error.domid === undefined) throw error;
    // libxl kills in a child process, and when that has ended a domain of which nothing is mapped is gone.
    await ctx.clock.turn();
    try {
      await domainDestroy(ctx, error.domid);
    } catch (second) {
      if (!asLibxlError(second, 'destroy')) throw second;
    }
    throw error;
  }
}
