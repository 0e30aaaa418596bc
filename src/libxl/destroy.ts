/**
 * Destroying a domain: the devices by force, every node, the saved files, then the domain itself.
 *
 * The order is that of libxl_domain.c of 4.17. A device that does not close in time delays it and is reported, but
 * changes nothing else: its nodes go, and the domain goes as far as what still maps its pages allows. The mtwatch node
 * is the last thing that leaves the store, so that `/local/domain/N` is never there without it.
 */
import { domainPath, libxlPath, mtwatchPath, vmPath } from '../xenbus/paths.js';
import { everyDomain, PrivcmdError } from '../xenbus/privcmd.js';
import { abort } from '../xenbus/xs-client.js';
import { type AoStep, asLibxlError, runAo, strerror, transact } from './ao.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { devicesDestroy, devicesSweep } from './device.js';
import { destroyDeviceModel } from './device-model.js';
import { holdingVm } from './domain.js';

/** What the steps of one destruction share. */
interface Destroying {
  readonly domid: number;
  /** The hypervisor's handle; userdata files are named by it. */
  uuid: string;
}

/** The steps in the order they happen. */
export const destroySteps: readonly AoStep<Destroying>[] = [
  { name: 'libxl__destroy_domid', run: checkDomain },
  { name: 'destroy_domid_pci_done', run: pauseDomain },
  { name: 'libxl__destroy_device_model', run: (ctx, { domid }) => destroyDeviceModel(ctx, domid) },
  { name: 'libxl__devices_destroy', run: removeDevices },
  { name: 'devices_destroy_cb', run: removeNodes },
  { name: 'libxl__userdata_destroyall', run: removeFiles },
  { name: 'domain_destroy_domid_cb', run: killDomain },
];

/** Destroys a domain, as `xl destroy` does. DOMAIN_NOTFOUND when the hypervisor has none of that domid. */
export async function domainDestroy(ctx: Ctx, domid: number): Promise<void> {
  try {
    await destroyGuest(ctx, domid);
  } catch (error) {
    if (asLibxlError(error, 'destroy')) {
      ctx.log('error', 'libxl_domain.c:1064:domain_destroy_cb', domid, 'Destruction of domain failed');
    }
    throw error;
  }
}

/** The same without the last line of the log: what the rollback of a failed creation runs (libxl__domain_destroy). */
export async function destroyGuest(ctx: Ctx, domid: number): Promise<void> {
  try {
    await runAo(ctx, destroySteps, { domid, uuid: '' });
  } catch (error) {
    if (asLibxlError(error, 'destroy')) {
      ctx.log('error', 'libxl_domain.c:1137:domain_destroy_callback', domid, 'Unable to destroy guest');
    }
    throw error;
  }
}

async function checkDomain(ctx: Ctx, state: Destroying): Promise<void> {
  const info = await ctx.xc.call('xc.domain_getinfo', { domid: state.domid });
  if (!info) {
    ctx.log('error', 'libxl_domain.c:1183:libxl__destroy_domid', state.domid, 'Non-existant domain');
    throw new LibxlError(Rc.DOMAIN_NOTFOUND, `there is no domain ${state.domid}`);
  }
  state.uuid = info.uuid;
}

async function pauseDomain(ctx: Ctx, { domid }: Destroying): Promise<void> {
  try {
    await ctx.xc.call('xc.domain_pause', { domid, toDestroy: true });
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    ctx.log('error', 'libxl_domain.c:1219:destroy_domid_pci_done', domid, 'xc_domain_pause failed');
  }
}

async function removeDevices(ctx: Ctx, { domid }: Destroying): Promise<void> {
  try {
    await devicesDestroy(ctx, domid);
  } catch (error) {
    if (!asLibxlError(error, 'devices')) throw error;
    ctx.log('error', 'libxl_domain.c:1530:devices_destroy_cb', domid, 'libxl__devices_destroy failed');
  }
}

/**
 * Each removal is a request of its own: whoever watches sees `/vm/UUID`, `/local/domain/N`, `/libxl/N` and at last
 * `mtwatch/N` go. A path that is gone already is no failure.
 */
async function removeNodes(ctx: Ctx, state: Destroying): Promise<void> {
  const { domid } = state;
  const home = domainPath(domid);
  // A monitor that keeps the domain under another name would give it another /vm in between.
  const vm = await holdingVm(ctx, domid, async () => {
    const path = await ctx.xs.read(`${home}/vm`);
    if (path !== undefined) await removeLogged(ctx, domid, 1535, path);
    await removeFormerVm(ctx, state, path);
    if (path !== undefined) await removeLogged(ctx, domid, 1538, home);
    return path;
  });
  // A creation may have made them since.
  if (vm === undefined && !(await removeHomeless(ctx, domid))) {
    await removeDevices(ctx, state);
    return removeNodes(ctx, state);
  }
  // Another toolstack may have added a device since they were listed. It cannot any more: who adds one looks for the home.
  await devicesSweep(ctx, domid);
  await ctx.xs.rm(libxlPath(domid));
  await ctx.xs.rm(`${home}/hvmloader`);
  if (vm === undefined) await removeUnborn(ctx, state);
  else await ctx.xs.rm(mtwatchPath(domid));
}

/** Removes a home without a `/vm` of its own. Answers false, and leaves it, when it has one. */
async function removeHomeless(ctx: Ctx, domid: number): Promise<boolean> {
  const home = domainPath(domid);
  const removed = await transact(ctx, async (tx) => ((await tx.read(`${home}/vm`)) === undefined ? tx.rm(home) : abort));
  if (removed === false) logUnremoved(ctx, domid, 1538, home);
  return removed !== abort;
}

/**
 * The end of a domain that had no nodes: its creation may commit the first ones at any time. Either that sees that the
 * announcement is gone, or we see the nodes, and begin again.
 */
async function removeUnborn(ctx: Ctx, state: Destroying): Promise<void> {
  const { domid } = state;
  const removed = await transact(ctx, async (tx) => {
    if ((await tx.read(domainPath(domid))) !== undefined) return abort;
    await tx.rm(mtwatchPath(domid));
    return undefined;
  });
  if (removed !== abort) return;
  await removeDevices(ctx, state);
  await removeNodes(ctx, state);
}

/**
 * A domain that was kept under another uuid has left the `/vm` of its own to a successor. If the successor came to nothing,
 * because whoever made it was killed, the last of the two removes that. libxl leaves it.
 */
async function removeFormerVm(ctx: Ctx, { domid, uuid }: Destroying, vm: string | undefined): Promise<void> {
  const former = vmPath(uuid);
  if (vm === former || (await ctx.xs.read(former)) === undefined) return;
  const others = await everyDomain(ctx.xc);
  if (others.every((other) => other.domid === domid || other.uuid !== uuid)) await ctx.xs.rm(former);
}

async function removeLogged(ctx: Ctx, domid: number, line: number, path: string): Promise<void> {
  if (!(await ctx.xs.rm(path))) logUnremoved(ctx, domid, line, path);
}

function logUnremoved(ctx: Ctx, domid: number, line: number, path: string): void {
  ctx.log('error', `libxl_domain.c:${line}:devices_destroy_cb`, domid, `xs_rm failed for ${path}: ${strerror('ENOENT')}`);
}

/** Files that cannot be removed are no reason to keep the domain. */
async function removeFiles(ctx: Ctx, { domid, uuid }: Destroying): Promise<void> {
  const remove = async () => {
    const unlock = await ctx.host.lockUserdata(domid, uuid);
    await ctx.host.removeUserdata(domid, uuid).finally(unlock);
  };
  await remove().catch((error: unknown) => {
    const reason = error instanceof Error ? error.message : String(error);
    const line = `failed to remove what was saved of the domain: ${reason}`;
    ctx.log('error', '', domid, line);
  });
}

async function killDomain(ctx: Ctx, { domid }: Destroying): Promise<void> {
  await ctx.host.markDomidRecent(domid).catch((error: unknown) => {
    ctx.log('error', '', domid, `its domid may be used again at once: ${error instanceof Error ? error.message : String(error)}`);
  });
  try {
    await ctx.xc.call('xc.domain_destroy', { domid });
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    const line = `xc_domain_destroy failed: ${strerror(error.errno)}`;
    ctx.log('error', 'libxl_domain.c:1616:domain_destroy_domid_cb', domid, line);
    throw new LibxlError(Rc.FAIL, line, { cause: error });
  }
}
