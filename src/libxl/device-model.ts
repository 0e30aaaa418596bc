/**
 * The device model of a PV guest: starting qemu for what dom0's kernel does not serve, and ending it.
 *
 * libxl 4.17 forks qemu and learns over the store that it runs, and over a socket where its display is
 * (`libxl__spawn_local_dm`, `device_model_postconfig_*`). Here dom0 has a model of one (`src/xenbus/qemu.ts`).
 */
import { domainPath } from '../xenbus/paths.js';
import { PrivcmdError } from '../xenbus/privcmd.js';
import { byteString } from '../xenbus/xs-client.js';
import { asLibxlError, beginWait, strerror, transact } from './ao.js';
import { type Ctx, LIBXL_DEVICE_MODEL_START_TIMEOUT, LibxlError, Rc } from './ctx.js';
import type { DomainConfig } from './domain-config.js';
import type { JsonObject } from './json.js';

/** Debian's qemu for Xen. */
const deviceModelPath = '/usr/libexec/xen-qemu-system-i386';

/** Where a device model of domain `domid` says how it is. */
function deviceModelHome(domid: number): string {
  return `/local/domain/0/device-model/${domid}`;
}

/** Starts qemu for a domain and waits until it runs. */
export async function spawnLocalDm(ctx: Ctx, domid: number, config: DomainConfig): Promise<void> {
  try {
    await spawn(ctx, domid, config);
  } catch (error) {
    const failure = asLibxlError(error, 'device model');
    const where = 'libxl_create.c:1896:domcreate_devmodel_started';
    if (failure) ctx.log('error', where, domid, `device model did not start: ${failure.rc}`);
    throw error;
  }
}

async function spawn(ctx: Ctx, domid: number, config: DomainConfig): Promise<void> {
  const { deviceModel } = config.bInfo;
  const failed = (what: string, rc: Rc, cause?: unknown): LibxlError => {
    const line = `${what}: spawn failed (rc=${rc})`;
    ctx.log('error', 'libxl_dm.c:3161:device_model_spawn_outcome', domid, line);
    return new LibxlError(rc, line, { cause });
  };
  if (deviceModel !== undefined && !(await ctx.host.stat(deviceModel))) {
    const line = `device model ${deviceModel} is not executable: ${strerror('ENOENT')}`;
    ctx.log('error', 'libxl_dm.c:2912:libxl__spawn_local_dm', domid, line);
    throw failed('(null)', Rc.FAIL);
  }
  ctx.log('debug', 'libxl_dm.c:179:libxl__domain_get_device_model_uid', domid, 'dm_restrict disabled, starting QEMU as root');
  const home = deviceModelHome(domid);
  const vnc = vncOf(config);
  await ctx.xs.mkdir(home);
  if (vnc?.passwd !== undefined) await keepPassword(ctx, domid, vnc.passwd);
  const dm = deviceModel ?? deviceModelPath;
  ctx.log('debug', 'libxl_dm.c:3005:libxl__spawn_local_dm', domid, `Spawning device-model ${dm}`);
  const running = await beginWait(ctx, `${home}/state`, LIBXL_DEVICE_MODEL_START_TIMEOUT, (value) => value === 'running');
  const what = `domain ${domid} device model`;
  let port: number | null;
  try {
    const display = vnc ? { vncDisplay: vnc.display } : {};
    const made = await ctx.xc.call('dom0.spawn_qemu', { domid, ...display, vncUnused: vnc?.findUnused ?? false });
    port = made.vncPort;
    await ctx.xs.write(`${domainPath(domid)}/image/device-model-pid`, String(made.pid));
    await running();
  } catch (error) {
    if (error instanceof PrivcmdError) throw failed(what, Rc.FAIL, error);
    if (!(error instanceof LibxlError)) throw error;
    if (error.rc === Rc.TIMEDOUT) {
      ctx.log('error', 'libxl_exec.c:403:spawn_watch_event', undefined, `${what}: startup timed out`);
    }
    throw failed(what, error.rc, error);
  }
  if (!vnc || port === null) return;
  const console = `${domainPath(domid)}/console`;
  await ctx.xs.write(`${console}/vnc-listen`, byteString(vnc.listen));
  await ctx.xs.write(`${console}/vnc-port`, String(port));
  if (vnc.passwd) await ctx.xs.write(`${console}/vnc-pass`, byteString(vnc.passwd));
}

/** The display of the first frame buffer, if it has one. */
function vncOf({ vfbs = [] }: DomainConfig) {
  const vnc = vfbs[0]?.['vnc'] as JsonObject | undefined;
  if (!vnc || (vnc['enable'] ?? 'True') !== 'True') return undefined;
  const text = (field: string) => (typeof vnc[field] === 'string' ? vnc[field] : undefined);
  return {
    listen: text('listen') ?? '127.0.0.1',
    passwd: text('passwd'),
    display: Number(vnc['display'] ?? 0),
    findUnused: (vnc['findunused'] ?? 'True') === 'True',
  };
}

async function keepPassword(ctx: Ctx, domid: number, passwd: string): Promise<void> {
  await transact(ctx, async (tx) => {
    const vm = await tx.read(`${domainPath(domid)}/vm`);
    if (vm !== undefined) await tx.write(`${vm}/vncpasswd`, byteString(passwd));
  });
}

/** Ends the device model of a domain, if it has one (libxl__destroy_device_model). What goes wrong is only logged. */
export async function destroyDeviceModel(ctx: Ctx, domid: number): Promise<void> {
  const pidPath = `${domainPath(domid)}/image/device-model-pid`;
  const isActive =
    (await ctx.xs.read(pidPath)) !== undefined ||
    (await ctx.xs.read(`${domainPath(domid)}/image/device-model-domid`)) !== undefined;
  if (!isActive) return destroyUnrecorded(ctx, domid);
  await ctx.xs.rm(deviceModelHome(domid));
  await ctx.xs.read(`${domainPath(domid)}/image/device-model-kill-uid`);
  ctx.log('debug', 'libxl_dm.c:3595:libxl__destroy_device_model', domid, "Didn't find dm UID; destroying by pid");
  const pid = await ctx.xs.read(pidPath);
  if (pid === undefined) {
    ctx.log('error', 'libxl_aoutils.c:640:libxl__kill_xs_path', undefined, `unable to find Device Model pid in ${pidPath}`);
    const line = `Killing device model pid from path ${pidPath}`;
    ctx.log('error', 'libxl_dm.c:3602:libxl__destroy_device_model', domid, line);
    return;
  }
  try {
    await ctx.xc.call('dom0.kill_qemu', { pid: Number.parseInt(pid, 10) || 0 });
    ctx.log('debug', 'libxl_aoutils.c:649:libxl__kill_xs_path', undefined, 'Device Model signaled');
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    ctx.log('error', 'libxl_aoutils.c:646:libxl__kill_xs_path', undefined, 'Device Model already exited');
  }
  await destroyUnrecorded(ctx, domid);
}

/**
 * Ends a device model whose toolstack was killed before it could write down its pid; and removes what one has written that
 * was ended on its way up, after libxl had removed its home. libxl leaves both.
 */
async function destroyUnrecorded(ctx: Ctx, domid: number): Promise<void> {
  const home = deviceModelHome(domid);
  if ((await ctx.xs.read(home)) === undefined) return;
  try {
    await ctx.xc.call('dom0.kill_qemu', { domid });
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
  }
  await ctx.xs.rm(home);
}
