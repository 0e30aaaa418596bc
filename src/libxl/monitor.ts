/**
 * What a domain's death does: the part of `xl create` that stays behind, one a domain.
 *
 * Real xl leaves a process of its own for it; here dom0d hosts it, or `xl create -F` runs it in the foreground. Its
 * lines are those of xl_vmcontrol.c of 4.17, as they stand in `/var/log/xen/xl-NAME.log`.
 */
import type { MonitorRequest } from '../xenbus/privcmd.js';
import { ShutdownReason } from '../xenbus/xenbus.js';
import { byteString } from '../xenbus/xs-client.js';
import { asLibxlError } from './ao.js';
import { parseConfig, textOfConfig } from './config.js';
import { domainCoreDump } from './core-dump.js';
import { CreateError, domainCreateNew, domainCreateRestore, userdataName } from './create.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { domainDestroy } from './destroy.js';
import {
  type DeathWatch,
  type DomainEvent,
  domainInfo,
  domainPreserve,
  domainUnpause,
  formatUuid,
  watchDeaths,
} from './domain.js';
import type { DomainConfig } from './domain-config.js';
import { retrieveConfig } from './saved-config.js';
import type { ReadBytes } from './stream.js';

/** Where cores go, when somebody has made it. */
const dumpDir = '/var/lib/xen/dump';
/** Between the end of a domain and its next life, in milliseconds. */
const rebootPauseMs = 2_000;

export type Monitored = Pick<MonitorRequest, 'domid' | 'name' | 'actions'>;

export interface Monitor {
  /** Resolves when there is nothing more to wait for; rejects only for a bug. */
  readonly done: Promise<void>;
}

/**
 * Begins to wait for the end of a domain, and does then what its actions say. The watch is registered when this
 * resolves. `say` gets the lines of the log.
 */
export async function startMonitor(ctx: Ctx, monitored: Monitored, say: (line: string) => void): Promise<Monitor> {
  say(`Waiting for domain ${monitored.name} (domid ${monitored.domid}) to die [pid ${ctx.host.pid}]`);
  const deaths = watchDeaths(ctx);
  await deaths.add(monitored.domid);
  return { done: follow(ctx, deaths, monitored, say) };
}

/** From one life of the domain to the next, while it is restarted. */
async function follow(ctx: Ctx, deaths: DeathWatch, first: Monitored, say: (line: string) => void): Promise<void> {
  let monitored = first;
  try {
    for (;;) {
      const event = await deaths.next();
      const config = await act(ctx, monitored, event, say);
      if (config === 'wait') continue;
      if (config === 'done') return;
      const domid = await recreate(ctx, config);
      if (domid === undefined) return;
      monitored = { ...monitored, domid };
      say(`Waiting for domain ${monitored.name} (domid ${domid}) to die [pid ${ctx.host.pid}]`);
      await deaths.add(domid);
    }
  } finally {
    await deaths.close().catch(() => undefined);
  }
}

/** What is to be done after an event: wait for another, end, or create the domain anew. */
type Next = 'wait' | 'done' | DomainConfig;

async function act(
  ctx: Ctx,
  { domid, name, actions }: Monitored,
  event: DomainEvent,
  say: (line: string) => void,
): Promise<Next> {
  if (event.domid !== domid) return 'wait';
  if (event.on === 'death') {
    say(`Domain ${domid} has been destroyed.`);
    return 'done';
  }
  const { reason } = event;
  say(`Domain ${domid} has shut down, reason code ${reason} 0x${reason.toString(16)}`);
  if (reason === ShutdownReason.suspend) {
    say('Domain has suspended.');
    say('Done. Exiting now');
    return 'done';
  }
  const action = actionFor(reason, actions);
  if (action === undefined) say(`Unknown shutdown reason code ${reason}. Destroying domain.`);
  else say(`Action for shutdown reason code ${reason} is ${action}`);

  if (action?.startsWith('coredump-')) await dumpCore(ctx, domid, name, say);
  switch (action) {
    case 'preserve':
      break;
    case 'restart':
    case 'coredump-restart':
      return restart(ctx, domid, say);
    case 'rename-restart':
      return renameRestart(ctx, domid, name, say);
    default:
      await cleanUp(ctx, domid, say);
  }
  say('Done. Exiting now');
  return 'done';
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
  try {
    await domainDestroy(ctx, domid);
  } catch (error) {
    if (!asLibxlError(error, 'destroy')) throw error;
  }
}

/** The config is read before the domain goes, because it goes with it. */
async function restart(ctx: Ctx, domid: number, say: (line: string) => void): Promise<Next> {
  const config = await reloadConfig(ctx, domid, say);
  if (config === 'refused') return 'done';
  await cleanUp(ctx, domid, say);
  return reboot(ctx, config, say);
}

/**
 * The config of the next life: what `xl config-update` has left, once, else that of the domain as it is now. `refused`: what
 * was left is no config, and xl's monitor ends over it.
 */
async function reloadConfig(ctx: Ctx, domid: number, say: (line: string) => void): Promise<DomainConfig | undefined | 'refused'> {
  const info = await domainInfo(ctx, domid);
  const updated = info && userdataName(domid, info.uuid, 'xl');
  const text = updated && (await ctx.host.readUserdata(updated));
  if (!updated || !text) return retrieveConfig(ctx, domid);
  say('"xl" configuration found, using it\n');
  const { lines, config } = parseConfig(byteString(text), '<updated>', { randomUuid: () => formatUuid(ctx.clock.random(16)) });
  for (const line of lines) say(line);
  if (!config) return 'refused';
  await ctx.host.writeUserdata(updated, '');
  return textOfConfig(config);
}

/** The old domain stays to be looked at, under another name and uuid; the new one takes both over. */
async function renameRestart(ctx: Ctx, domid: number, name: string, say: (line: string) => void): Promise<Next> {
  const config = await reloadConfig(ctx, domid, say);
  if (config === 'refused') return 'done';
  const suffix = `-${new Date(ctx.clock.wall()).toISOString().replace(/[-:]/g, '').slice(0, 13)}Z`;
  say(`Preserving domain ${domid} ${name} with suffix${suffix}`);
  try {
    await domainPreserve(ctx, domid, `${name}${suffix}`, formatUuid(ctx.clock.random(16)));
  } catch (error) {
    const failure = asLibxlError(error, 'preserve');
    if (!failure) throw error;
    say(`Domain ${domid} was not renamed (rc=${failure.rc})`);
    return 'done';
  }
  return reboot(ctx, config, say);
}

async function reboot(ctx: Ctx, config: DomainConfig | undefined, say: (line: string) => void): Promise<Next> {
  if (!config) {
    say(`failed to retrieve guest configuration (rc=${Rc.FAIL}).`);
    say('Done. Exiting now');
    return 'done';
  }
  say('Done. Rebooting now');
  await ctx.clock.sleep(rebootPauseMs * ctx.timeoutScale);
  return config;
}

/** The next life. A failed one is the end of the monitor, as of xl's. */
async function recreate(ctx: Ctx, config: DomainConfig): Promise<number | undefined> {
  try {
    const domid = await createDomain(ctx, config);
    await domainUnpause(ctx, domid);
    return domid;
  } catch (error) {
    if (error instanceof LibxlError) return undefined;
    throw error;
  }
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
