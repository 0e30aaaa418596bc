/**
 * What libxl does with domains that exist: finding them, pausing them, asking them to shut down, learning of their end.
 *
 * Lines and order of requests are those of libxl_domain.c of 4.17. A name belongs to the store, all else to the
 * hypervisor. Nothing is created or destroyed here.
 */
import { domainPath, join, vmPath } from '../xenbus/paths.js';
import { type DomInfo, everyDomain, PrivcmdError } from '../xenbus/privcmd.js';
import type { ShutdownReason } from '../xenbus/xenbus.js';
import { byteString, textOf, type XsTransaction, type XsWatch } from '../xenbus/xs-client.js';
import { beginWait, strerror, transact } from './ao.js';
import { type Ctx, LIBXL_PVCONTROL_TIMEOUT, LibxlError, Rc } from './ctx.js';
import { checkAlive } from './device.js';

/** Every domain of the hypervisor, zombies included, by rising domid. */
export function listDomains(ctx: Ctx): Promise<readonly DomInfo[]> {
  return everyDomain(ctx.xc);
}

/** One domain, or undefined when the hypervisor has none of that domid. */
export async function domainInfo(ctx: Ctx, domid: number): Promise<DomInfo | undefined> {
  return (await ctx.xc.call('xc.domain_getinfo', { domid })) ?? undefined;
}

/** The name that the store has for a domid; a zombie has none left. */
export async function domidToName(ctx: Ctx, domid: number): Promise<string | undefined> {
  const name = await ctx.xs.read(join(domainPath(domid), 'name'));
  return name === undefined ? undefined : textOf(name);
}

/** Requests that are on their way at the same time when many domains are asked about. */
const namesAtOnce = 256;

/** The names of many domains, in their order. */
export async function domainNames(ctx: Ctx, infos: readonly DomInfo[]): Promise<(string | undefined)[]> {
  const names: (string | undefined)[] = [];
  for (let at = 0; at < infos.length; at += namesAtOnce) {
    names.push(...(await Promise.all(infos.slice(at, at + namesAtOnce).map(({ domid }) => domidToName(ctx, domid)))));
  }
  return names;
}

/** The domid of the first domain with that name. */
export async function nameToDomid(ctx: Ctx, name: string): Promise<number | undefined> {
  for (const { domid } of await listDomains(ctx)) {
    if ((await domidToName(ctx, domid)) === name) return domid;
  }
  return undefined;
}

/**
 * The domid that a word means: digits are one, whether or not there is such a domain, all else is a name
 * (libxl_domain_qualifier_to_domid).
 */
export async function qualifierToDomid(ctx: Ctx, word: string): Promise<number | undefined> {
  return /^\d*$/.test(word) ? Math.min(Number(word), 0xffff_ffff) : nameToDomid(ctx, word);
}

/** Stops a domain's processors. Pauses are counted: it takes as many unpauses for it to run again. */
export async function domainPause(ctx: Ctx, domid: number): Promise<void> {
  await control(ctx, domid, 'xc.domain_pause', 'libxl_domain.c:587:libxl_domain_pause', 'Pausing domain');
}

/** Takes back one pause. */
export async function domainUnpause(ctx: Ctx, domid: number): Promise<void> {
  await checkType(ctx, domid);
  await control(ctx, domid, 'xc.domain_unpause', 'libxl_domain.c:688:domain_unpause_done', 'Unpausing domain');
}

async function control(
  ctx: Ctx,
  domid: number,
  op: 'xc.domain_pause' | 'xc.domain_unpause',
  where: string,
  doing: string,
): Promise<void> {
  try {
    await ctx.xc.call(op, { domid });
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    const message = `${doing}: ${strerror(error.errno)}`;
    ctx.log('error', where, domid, message);
    throw new LibxlError(Rc.FAIL, message, { cause: error });
  }
}

/** Whether a guest is PV can only be said of one that exists; every guest here is. */
export async function checkType(ctx: Ctx, domid: number): Promise<void> {
  if (await domainInfo(ctx, domid)) return;
  const message = `unable to get domain type for domid=${domid}`;
  ctx.log('error', 'libxl_dom.c:37:libxl__domain_type', undefined, message);
  throw new LibxlError(Rc.FAIL, message);
}

/** Asks the guest to power off; see `pvcontrol`. */
export function domainShutdown(ctx: Ctx, domid: number): Promise<void> {
  return pvcontrol(ctx, domid, 'poweroff');
}

/** Asks the guest to restart, by itself: what its reboot does is up to its monitor. */
export function domainReboot(ctx: Ctx, domid: number): Promise<void> {
  return pvcontrol(ctx, domid, 'reboot');
}

/**
 * Asks the guest for something through `control/shutdown`, and waits until it has taken the request: the node is empty,
 * or gone with its domain. A request that nobody takes stays in the node, as it does with libxl.
 */
async function pvcontrol(ctx: Ctx, domid: number, request: 'poweroff' | 'reboot'): Promise<void> {
  await checkType(ctx, domid);
  const path = join(await ctx.xs.getDomainPath(domid), 'control', 'shutdown');
  // In a transaction that sees the domain: a request must not bring back the nodes of one that is destroyed meanwhile.
  await transact(ctx, async (tx) => {
    await checkAlive(tx, domid);
    await tx.write(path, request);
  });
  try {
    const taken = await beginWait(ctx, path, LIBXL_PVCONTROL_TIMEOUT, (value) => value === undefined || value === '');
    await taken();
  } catch (error) {
    if (error instanceof LibxlError) {
      const message = `guest didn't acknowledge control request: ${error.rc}`;
      ctx.log('error', 'libxl_domain.c:854:pvcontrol_cb', undefined, message);
    }
    throw error;
  }
}

/**
 * Gives a domain another name, in the store (libxl_domain_rename). Names are looked up outside the transaction, as libxl
 * does. `from` is the name that it must have now, or undefined.
 */
export async function domainRename(ctx: Ctx, domid: number, from: string | undefined, to: string): Promise<void> {
  await holdingName(ctx, to, () => transact(ctx, (tx) => renameIn(ctx, tx, domid, from, to)));
}

/**
 * Runs `body`, which gives a domain a name, while no other toolstack gives that one to another. libxl has no such lock, and
 * looks for the name outside its transaction: of two renames at the same moment, or of a rename and a creation, both can find
 * it free, and have it. (Two creations conflict over `/local/domain`, and the later one looks again, but only with a store
 * whose new nodes change their parent.) An empty name may be had by many.
 */
export async function holdingName<T>(ctx: Ctx, name: string, body: () => Promise<T>): Promise<T> {
  if (name === '') return body();
  const unlock = await ctx.host.lockName(byteString(name));
  try {
    return await body();
  } finally {
    await unlock();
  }
}

/**
 * Runs `body`, which gives a domain another `/vm/UUID` or removes the one that it has. libxl has no such lock: of a monitor that
 * keeps a domain and a destruction at the same moment, the latter may remove the old one alone. Without the lock it goes on.
 */
export async function holdingVm<T>(ctx: Ctx, domid: number, body: () => Promise<T>): Promise<T> {
  // No domain can have that name.
  const unlock = await ctx.host.lockName(`\0vm ${domid}`).catch(() => async () => undefined);
  try {
    return await body();
  } finally {
    await unlock();
  }
}

/** The same as part of a transaction (libxl__domain_rename). */
async function renameIn(ctx: Ctx, tx: XsTransaction, domid: number, from: string | undefined, to: string): Promise<void> {
  const fail = (rc: Rc, line: number, message: string) => {
    ctx.log('error', `libxl_domain.c:${line}:libxl__domain_rename`, domid, message);
    return new LibxlError(rc, message);
  };
  const holder = to === '' ? undefined : await nameToDomid(ctx, to);
  if (holder !== undefined && holder !== domid) throw fail(Rc.INVAL, 81, `Domain with name "${to}" already exists.`);
  const path = join(domainPath(domid), 'name');
  if (from !== undefined) {
    const name = await tx.read(path);
    if (name === undefined) {
      throw fail(Rc.FAIL, 90, `Check old name for domain allegedly named \`${from}': ${strerror('ENOENT')}`);
    }
    if (textOf(name) !== from) {
      throw fail(Rc.FAIL, 96, `Allegedly named \`${from}' is actually named \`${textOf(name)}' - racing ?`);
    }
  }
  if (domid !== 0) await checkAlive(tx, domid);
  await tx.write(path, byteString(to));
  const info = await domainInfo(ctx, domid);
  if (!info) throw new LibxlError(Rc.DOMAIN_NOTFOUND, `there is no domain ${domid}`);
  // It goes first when a domain is destroyed, and one that was preserved may have lost it to its successor.
  const vm = vmPath(info.uuid);
  if (domid === 0 || (await tx.read(vm)) !== undefined) await tx.write(join(vm, 'name'), byteString(to));
}

/** How a domain ended, as `@releaseDomain` and the hypervisor tell it. */
export type DomainEvent =
  | { readonly on: 'shutdown'; readonly domid: number; readonly reason: ShutdownReason }
  /** Destroyed: it is dying, or it is gone. */
  | { readonly on: 'death'; readonly domid: number };

export interface DeathWatch {
  /** Looks at one more domain. The first one registers the watch. */
  add(domid: number): Promise<void>;
  /** The next end of one of them. A shutdown is told once, a death once and last. */
  next(): Promise<DomainEvent>;
  close(): Promise<void>;
}

/**
 * Tells of the ends of domains (libxl_evenable_domain_death). The store says that some domain ended, by an event that
 * names none; the hypervisor is asked which, at the event that registering causes too, so that none is missed.
 */
export function watchDeaths(ctx: Ctx): DeathWatch {
  /** By domid: whether its shutdown was told. */
  const awaited = new Map<number, boolean>();
  const told: DomainEvent[] = [];
  let watch: XsWatch | undefined;
  let stale = false;
  let wake = () => {};
  const look = () => {
    stale = true;
    wake();
  };

  const ask = async () => {
    for (const [domid, shutdownTold] of awaited) {
      const info = await domainInfo(ctx, domid);
      if (!info || info.dying) {
        awaited.delete(domid);
        told.push({ on: 'death', domid });
      } else if (info.shutdown !== null && !shutdownTold) {
        awaited.set(domid, true);
        told.push({ on: 'shutdown', domid, reason: info.shutdown });
      }
    }
  };

  return {
    add: async (domid) => {
      awaited.set(domid, false);
      if (watch) look();
      else watch = await ctx.xs.watch('@releaseDomain', look);
    },
    next: async () => {
      for (;;) {
        if (stale) {
          stale = false;
          await ask();
        }
        const event = told.shift();
        if (event) return event;
        if (!stale) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
    },
    close: async () => {
      await watch?.close();
      watch = undefined;
      awaited.clear();
      told.splice(0);
    },
  };
}

/**
 * Gives a domain that is kept another name and uuid, so that its successor can have both (libxl_domain_preserve). Both are
 * changed in the store alone: the hypervisor's handle stays, and so `xl list -v` shows one uuid twice.
 */
export async function domainPreserve(ctx: Ctx, domid: number, name: string, suffix: string, uuid: string): Promise<void> {
  const vm = vmPath(uuid);
  const preserve = async (tx: XsTransaction) => {
    await checkAlive(tx, domid);
    await tx.rm(vm);
    await tx.mkdir(vm);
    await tx.setPerms(vm, [
      { domid: 0, read: false, write: false },
      { domid, read: true, write: false },
    ]);
    await tx.write(join(domainPath(domid), 'vm'), vm);
    await renameIn(ctx, tx, domid, name, `${name}${suffix}`);
    await tx.write(join(vm, 'uuid'), uuid);
  };
  await holdingName(ctx, `${name}${suffix}`, () => holdingVm(ctx, domid, () => transact(ctx, preserve)));
}

/** A random uuid (version 4) of 16 random bytes. */
export function formatUuid(random: Uint8Array): string {
  const bytes = Buffer.from(random);
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x40, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  const hex = bytes.toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}
