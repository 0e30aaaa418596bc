/**
 * One device of a domain: its nodes, adding it, removing it, and removing it by force.
 *
 * The order of the requests is that of libxl_device.c of 4.17, as a real xenstored logged it. What the nodes of a disk
 * or a nic say is in disk.ts and nic.ts; which devices a domain has, in create.ts.
 */
import { devicePaths, domainPath, parentPath } from '../xenbus/paths.js';
import { parseState, XenbusState } from '../xenbus/xenbus.js';
import { abort, byteString, textOf, type XsRequests } from '../xenbus/xs-client.js';
import { type Perm, XsError } from '../xenbus/xs-wire.js';
import {
  asLibxlError,
  beginWait,
  beginWaitForState,
  multidev,
  type Rest,
  strerror,
  transact,
  type Writes,
  writeTogether,
} from './ao.js';
import {
  type Ctx,
  LIBXL_DESTROY_TIMEOUT,
  LIBXL_HOTPLUG_TIMEOUT,
  LIBXL_INIT_TIMEOUT,
  LIBXL_QEMU_BODGE_TIMEOUT,
  LibxlError,
  Rc,
} from './ctx.js';
import type { DeviceNodes, NodePair } from './nodes.js';
import { atoi } from './strtol.js';

/** Names a device. `backendKind` differs from `kind` where qemu serves it: a qdisk is a `vbd` to its guest. */
export interface Device {
  readonly domid: number;
  readonly devid: number;
  readonly kind: string;
  readonly backendDomid: number;
  readonly backendKind: string;
}

/** What to do with a device whose backend never reports Closed. */
export type Force =
  /** Leave it as it is, and fail. */
  | 'off'
  /** Begin again, by force. */
  | 'auto'
  /** Remove its nodes all the same; its frontend goes first. */
  | 'on';

type Action = 'add' | 'remove';

/** The domain of the toolstack. A driver domain runs the hotplug scripts of its own devices. */
const LIBXL_TOOLSTACK_DOMID = 0;

/** Backends that live in qemu: they reach Connected by themselves, and no script is run for them. */
const qemuBackends: ReadonlySet<string> = new Set(['qdisk', 'vfb', 'vkbd', 'qusb', '9pfs']);

/** The kinds that libxl knows, by number; directories with another name below `/libxl/N/device` are passed over. */
const deviceKinds: readonly string[] =
  'none vif vbd qdisk pci vfb vkbd console vtpm vusb qusb 9pfs vdispl vuart pvcalls vsnd vinput virtio_disk'.split(' ');

export function pathsOf(device: Device): ReturnType<typeof devicePaths> {
  const { domid, backendDomid, kind, backendKind, devid } = device;
  return {
    ...devicePaths(domid, backendDomid, kind, devid),
    backend: devicePaths(domid, backendDomid, backendKind, devid).backend,
  };
}

/** The device that a backend path names: `/local/domain/B/backend/KIND/N/D`; undefined when it is no such path. */
export function parseBackendPath(path: string): Device | undefined {
  const match = /^\/local\/domain\/(\d+)\/backend\/([^/]{1,15})\/(\d+)\/(\d+)$/.exec(path);
  if (!match) return undefined;
  const [, backendDomid, kind = '', domid, devid] = match;
  return { domid: Number(domid), devid: Number(devid), kind, backendDomid: Number(backendDomid), backendKind: kind };
}

/** The owner, and who else may read. */
function perms(owner: number, reader: number): Perm[] {
  return [
    { domid: owner, read: false, write: false },
    { domid: reader, read: true, write: false },
  ];
}

function writeAll(put: Writes, dir: string, nodes: readonly NodePair[], each?: readonly Perm[]): void {
  for (const [key, value] of nodes) {
    const path = `${dir}/${key}`;
    put.write(path, byteString(value));
    if (each) put.setPerms(path, each);
  }
}

/**
 * Writes every node of a device (libxl__device_generic_add): libxl's links, the frontend, the backend, and a copy of
 * the backend's nodes under `/libxl`, so that what libxl reads later does not depend on a backend's word. What is
 * there is removed first, whatever its state. Console 0 keeps its frontend read-only for the guest.
 */
export async function genericAdd(xs: XsRequests, device: Device, nodes: DeviceNodes): Promise<void> {
  const { frontend, backend, libxl } = pathsOf(device);
  const guestOwns = perms(device.domid, device.backendDomid);
  const backendOwns = perms(device.backendDomid, device.domid);

  await writeTogether(xs, (put) => {
    put.rm(libxl);
    put.write(`${libxl}/frontend`, frontend);
    put.write(`${libxl}/backend`, backend);

    put.rm(frontend);
    put.mkdir(frontend);
    put.setPerms(frontend, device.kind === 'console' && device.devid === 0 ? backendOwns : guestOwns);
    put.write(`${frontend}/backend`, backend);
    writeAll(put, frontend, nodes.front, guestOwns);
    writeAll(put, frontend, nodes.frontRo, backendOwns);

    put.rm(backend);
    put.mkdir(backend);
    put.setPerms(backend, backendOwns);
    put.write(`${backend}/frontend`, frontend);
    writeAll(put, backend, nodes.back);
    writeAll(put, libxl, nodes.back);
  });
}

/**
 * Refuses to write for a domain whose nodes are gone: somebody destroyed it meanwhile. Read in the transaction that
 * writes, so that a destruction in between makes it look again.
 */
export async function checkAlive(xs: XsRequests, domid: number): Promise<void> {
  if ((await xs.read(domainPath(domid))) !== undefined) return;
  throw new LibxlError(Rc.DOMAIN_NOTFOUND, `domain ${domid} was destroyed meanwhile`);
}

export interface AddOptions {
  /** Saves the domain's configuration with the device in it: within the transaction, before its first write. */
  readonly save?: () => Promise<void>;
  /** Called once the device is written, or is not going to be. */
  readonly settled?: () => Promise<void>;
}

/**
 * Starts to add a device: its transaction, then the watch on its backend's state. The rest waits for InitWait and
 * runs the hotplug script. libxl never waits for Connected.
 */
export async function startDeviceAdd(ctx: Ctx, device: Device, nodes: DeviceNodes, options: AddOptions = {}): Promise<Rest> {
  const { libxl } = pathsOf(device);
  await transact(ctx, async (tx) => {
    await checkAlive(tx, device.domid);
    if ((await tx.read(libxl)) !== undefined) {
      ctx.log('error', existsWhere(device.kind), device.domid, 'device already exists in xenstore');
      throw new LibxlError(Rc.DEVICE_EXISTS, `${libxl} is there already`);
    }
    await options.save?.();
    await genericAdd(tx, device, nodes);
  });
  return waitDeviceConnection(ctx, device);
}

/** Begins to wait for the backend of a device that is written; the rest runs its script (libxl__wait_device_connection). */
export async function waitDeviceConnection(ctx: Ctx, device: Device): Promise<Rest> {
  if (qemuBackends.has(device.backendKind)) return () => deviceHotplug(ctx, device, 'add');
  const { backend } = pathsOf(device);
  const ended = backendEnded(ctx, device, 'add');
  const state = await beginWaitForState(ctx, `${backend}/state`, XenbusState.InitWait, LIBXL_INIT_TIMEOUT, ended);
  return async () => {
    await settleBackend(state, ended);
    await deviceHotplug(ctx, device, 'add');
  };
}

function existsWhere(kind: string): string {
  if (kind === 'vbd') return 'libxl_disk.c:343:device_disk_add';
  if (kind === 'vusb') return 'libxl_usb.c:272:libxl__device_usbctrl_add_xenstore';
  return 'libxl_device.c:1998:libxl__device_add_async';
}

/** Says how the wait for a backend ended (device_backend_callback); when force follows, without complaint. */
function backendEnded(ctx: Ctx, device: Device, action: Action, force: Force = 'off'): (error?: LibxlError) => void {
  return (error) => {
    const say = (level: 'debug' | 'error', line: number, text: string) =>
      ctx.log(level, `libxl_device.c:${line}:device_backend_callback`, device.domid, text);
    say('debug', 1168, 'calling device_backend_cleanup');
    if (!error || (force === 'auto' && error.rc === Rc.TIMEDOUT)) return;
    say('error', 1181, `unable to ${action} device with path ${pathsOf(device).backend}`);
  };
}

/** Waits for the backend. A wait that ends by itself has said how. */
async function settleBackend(state: Rest, ended: (error?: LibxlError) => void): Promise<void> {
  try {
    await state();
  } catch (error) {
    if (error instanceof LibxlError) throw error;
    const failure = asLibxlError(error, 'wait for a backend');
    if (failure) ended(failure);
    throw failure ?? error;
  }
}

/** Adds a device to a running domain, as `xl block-attach` and `xl network-attach` do. */
export async function deviceAdd(ctx: Ctx, device: Device, nodes: DeviceNodes, options: AddOptions = {}): Promise<void> {
  let rest: Rest;
  try {
    rest = await startDeviceAdd(ctx, device, nodes, options);
  } catch (error) {
    throw refusedDevice(ctx, error);
  } finally {
    await options.settled?.();
  }
  await aocomplete(ctx, device, 'add', rest);
}

/**
 * Removes a device from a running domain. `off` is `xl block-detach`, `on` is that with `-f`, `auto` is
 * `xl network-detach`.
 */
export async function deviceRemove(ctx: Ctx, device: Device, force: Force): Promise<void> {
  await aocomplete(ctx, device, 'remove', await startDeviceRemove(ctx, device, force));
}

/** The line for a device that was refused before any of it was written: libxl does not name it. Answers with the error. */
export function refusedDevice(ctx: Ctx, error: unknown): unknown {
  const failure = asLibxlError(error, 'add device');
  if (failure) ctx.log('error', 'libxl_device.c:1486:device_addrm_aocomplete', undefined, 'unable to add device');
  return failure ?? error;
}

/** Runs the rest of one device's operation, and adds the line that libxl ends a failed one with. */
async function aocomplete(ctx: Ctx, device: Device, action: Action, rest: Rest): Promise<void> {
  try {
    await rest();
  } catch (error) {
    const line = `Unable to ${action} ${device.kind} with id ${device.devid}`;
    const failure = asLibxlError(error, line);
    if (failure) ctx.log('error', 'libxl_device.c:1481:device_addrm_aocomplete', device.domid, line);
    throw failure ?? error;
  }
}

/**
 * Starts to remove a device (libxl__initiate_device_generic_remove): `online` 0 and Closing in one transaction, then
 * the watch. The rest waits for Closed, runs the hotplug script and removes the nodes. With force the frontend goes
 * in that transaction already, and the nodes go even if the backend never closed; the failure is still reported.
 */
export async function startDeviceRemove(ctx: Ctx, device: Device, force: Force): Promise<Rest> {
  try {
    const closing = await beginRemove(ctx, device, force);
    return () => finishRemove(ctx, device, force, closing);
  } catch (error) {
    return () => finishRemove(ctx, device, force, () => Promise.reject(error));
  }
}

/** Which domain the store says we are in (libxl__get_domid). After `xl destroy -f 0` it does not tell dom0. */
export async function ownDomid(ctx: Ctx): Promise<number | undefined> {
  const domid = await ctx.xs.read('domid');
  if (domid !== undefined) return atoi(domid);
  ctx.log('error', 'libxl_domain.c:1639:libxl__get_domid', undefined, 'failed to get own domid (domid)');
  return undefined;
}

/** The requests that ask a backend to close; the rest waits until it has. Nothing is left of a backend that is gone. */
async function beginRemove(ctx: Ctx, device: Device, force: Force): Promise<Rest> {
  const { frontend, backend } = pathsOf(device);
  const own = await ownDomid(ctx);
  if (own === undefined) {
    const where = 'libxl_device.c:1019:libxl__initiate_device_generic_remove';
    ctx.log('error', where, device.domid, 'unable to get my domid');
    throw new LibxlError(Rc.FAIL, 'unable to get my domid');
  }
  if (own === LIBXL_TOOLSTACK_DOMID) {
    const info = await ctx.xc.call('xc.domain_getinfo', { domid: device.domid });
    if (!info) {
      const where = 'libxl_device.c:1026:libxl__initiate_device_generic_remove';
      ctx.log('error', where, device.domid, `unable to get info for domain ${device.domid}`);
      throw new LibxlError(Rc.DOMAIN_NOTFOUND, `no domain ${device.domid}`);
    }
    if (qemuBackends.has(device.backendKind) && (info.paused || info.dying || info.shutdown !== null)) {
      return beginQemuRemove(ctx, device);
    }
  }
  const asked = await transact(ctx, async (tx) => {
    if (force === 'on') await pathCleanup(tx, frontend);
    const state = await tx.read(`${backend}/state`);
    if (state === undefined) return abort;
    await tx.write(`${backend}/online`, '0');
    if (parseState(state) !== XenbusState.Closed) await tx.write(`${backend}/state`, String(XenbusState.Closing));
    return undefined;
  });
  if (asked === abort) {
    const where = 'libxl_device.c:1067:libxl__initiate_device_generic_remove';
    ctx.log('info', where, undefined, `backend ${backend} already removed, cleanup frontend only`);
    return async () => {};
  }
  const ended = backendEnded(ctx, device, 'remove', force);
  const closed = await beginWaitForState(ctx, `${backend}/state`, XenbusState.Closed, LIBXL_DESTROY_TIMEOUT, ended);
  return async () => {
    await settleBackend(closed, ended);
    await deviceHotplug(ctx, device, 'remove');
  };
}

/** A backend in qemu does not close while its guest stands still: after a while libxl closes it by hand. */
async function beginQemuRemove(ctx: Ctx, device: Device): Promise<Rest> {
  const state = `${pathsOf(device).backend}/state`;
  const pause = ctx.clock.sleep(LIBXL_QEMU_BODGE_TIMEOUT * ctx.timeoutScale);
  return async () => {
    await pause;
    await transact(ctx, async (tx) => {
      const value = await tx.read(state);
      if (value !== undefined && parseState(value) !== XenbusState.Closed) await tx.write(state, String(XenbusState.Closed));
    });
    await deviceHotplug(ctx, device, 'remove');
  };
}

/** The end of a removal (device_hotplug_done): the nodes go when all went well, or by force. */
async function finishRemove(ctx: Ctx, device: Device, force: Force, closing: Rest): Promise<void> {
  let failure: unknown;
  try {
    await closing();
  } catch (error) {
    if (force === 'auto' && error instanceof LibxlError && error.rc === Rc.TIMEDOUT) {
      const where = 'libxl_device.c:1174:device_backend_callback';
      ctx.log('debug', where, device.domid, 'Timeout reached, initiating forced remove');
      const rest = await startDeviceRemove(ctx, device, 'on');
      return rest();
    }
    if (force !== 'on') throw error;
    failure = error;
  }
  try {
    await deviceDestroy(ctx, device);
  } catch (error) {
    failure ??= error;
  }
  if (failure !== undefined) throw failure;
}

/**
 * Removes every node of a device in one transaction, without asking anyone (libxl__device_destroy). A driver domain
 * removes what is its own, the backend.
 */
export async function deviceDestroy(ctx: Ctx, device: Device): Promise<void> {
  const { frontend, libxl, backend } = pathsOf(device);
  const own = await ownDomid(ctx);
  if (own === undefined) throw new LibxlError(Rc.FAIL, 'unable to get my domid');
  await transact(ctx, async (tx) => {
    if (own === LIBXL_TOOLSTACK_DOMID) {
      await pathCleanup(tx, frontend);
      await pathCleanup(tx, libxl);
    }
    if (own === LIBXL_TOOLSTACK_DOMID || own === device.backendDomid) await pathCleanup(tx, backend);
  });
}

/**
 * Removes a path, then each parent that is left with no value and no children (libxl__xs_path_cleanup). A path that
 * was not there ends the walk without an error, and so does one that is not ours to remove.
 */
export async function pathCleanup(xs: XsRequests, path: string): Promise<void> {
  const remove = (node: string) =>
    xs.rm(node).catch((error: unknown) => {
      if (error instanceof XsError && error.errno === 'EACCES') return false;
      throw error;
    });
  if (!(await remove(path))) return;
  for (let parent = parentPath(path); parent !== '/'; parent = parentPath(parent)) {
    if ((await xs.read(parent)) !== '') return;
    const children = await xs.directory(parent);
    if (!children || children.length > 0) return;
    if (!(await remove(parent))) return;
  }
}

/**
 * Removes all devices of a domain by force (libxl__devices_destroy). Each is started in the order of the listing, a
 * console removed on the spot: its state nodes never move. Then all are awaited at once.
 */
export async function devicesDestroy(ctx: Ctx, domid: number): Promise<void> {
  const root = `/libxl/${domid}/device`;
  const starts: (() => Promise<Rest>)[] = [];
  for (const kind of (await ctx.xs.directory(root)) ?? []) {
    if (deviceKinds.indexOf(kind) > 0) starts.push(() => startKindRemove(ctx, domid, kind));
  }
  await multidev(starts);
}

/**
 * Removes what another toolstack has added since the devices of a domain were listed. Its frontends are gone with the domain's
 * nodes, so dom0's kernel has given the devices up and no back end answers: scripts and nodes, and nothing to wait for.
 */
export async function devicesSweep(loud: Ctx, domid: number): Promise<void> {
  // libxl does not look again: of a device that is left because nothing could be removed it has told all there is.
  const ctx: Ctx = { ...loud, log: () => undefined };
  const root = `/libxl/${domid}/device`;
  for (const kind of (await ctx.xs.directory(root)) ?? []) {
    if (deviceKinds.indexOf(kind) <= 0) continue;
    for (const devid of (await ctx.xs.directory(`${root}/${kind}`)) ?? []) {
      const backend = await ctx.xs.read(`${root}/${kind}/${devid}/backend`);
      const named = backend === undefined ? undefined : parseBackendPath(backend);
      if (!named) continue;
      const device: Device = { ...named, domid, kind, devid: Number.parseInt(devid, 10) || 0 };
      await deviceHotplug(ctx, device, 'remove').catch(asFailure);
      await deviceDestroy(ctx, device).catch(asFailure);
    }
  }
}

/** What fails is no reason to leave the rest; a bug is none of that. */
function asFailure(error: unknown): void {
  if (!asLibxlError(error, 'devices')) throw error;
}

/** Starts the devices of one kind; it is listed only once those of the kinds before it were started. */
async function startKindRemove(ctx: Ctx, domid: number, kind: string): Promise<Rest> {
  const dir = `/libxl/${domid}/device/${kind}`;
  const rests: Rest[] = [];
  for (const devid of (await ctx.xs.directory(dir)) ?? []) {
    const backend = await ctx.xs.read(`${dir}/${devid}/backend`);
    const named = backend === undefined ? undefined : parseBackendPath(backend);
    if (!named) continue;
    const device: Device = { ...named, domid, kind, devid: Number.parseInt(devid, 10) || 0 };
    if (named.backendKind === 'console' || named.backendKind === 'vuart') {
      await deviceDestroy(ctx, device).catch((error: unknown) => {
        if (!asLibxlError(error, dir)) throw error;
      });
    } else {
      rests.push(await startDeviceRemove(ctx, device, 'on'));
    }
  }
  return () => multidev(rests.map((rest) => () => Promise.resolve(rest)));
}

/** A hotplug script's command line and what it finds in its environment. */
interface HotplugCall {
  readonly script: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/**
 * Runs the hotplug script of a device, if it has one. Only the exit status counts: libxl waits for no node of the
 * script's. A failure ends an addition; a removal goes on.
 */
async function deviceHotplug(ctx: Ctx, device: Device, action: Action): Promise<void> {
  const { backend } = pathsOf(device);
  const own = await ownDomid(ctx);
  if (own === undefined) {
    ctx.log('error', 'libxl_device.c:1218:device_hotplug', device.domid, 'Failed to get domid');
    throw new LibxlError(Rc.FAIL, 'Failed to get domid');
  }
  if (device.backendDomid !== own) {
    const line = `Backend domid ${device.backendDomid}, domid ${own}, assuming driver domains`;
    ctx.log('debug', 'libxl_device.c:1222:device_hotplug', device.domid, line);
    if (action === 'remove') return backendGone(ctx, device);
    return ctx.log('debug', 'libxl_device.c:1227:device_hotplug', undefined, 'Not a remove, not executing hotplug scripts');
  }
  const call = await hotplugCall(ctx, device, action);
  if (!call) {
    return sayNoMore(ctx, device, false);
  }
  const isDisk = device.kind === 'vbd';
  if (isDisk) ctx.log('debug', 'libxl_linux.c:194:libxl__hotplug_disk', device.domid, 'Args and environment ready');
  logCall(ctx, device, call);
  const what = `${call.script} ${call.args[0]}`;
  ctx.log('debug', 'libxl_aoutils.c:593:libxl__async_exec_start', undefined, `forking to execute: ${what} `);
  const timeoutMs = LIBXL_HOTPLUG_TIMEOUT * ctx.timeoutScale;
  const over = ctx.progress?.wait({ on: what, timeoutMs });
  const end = await ctx.host.runScript({ ...call, timeoutMs }).finally(over);
  if ('timedOut' in end) {
    const line = `killing execution of ${what} because of timeout`;
    ctx.log('error', 'libxl_aoutils.c:539:async_exec_timeout', undefined, line);
    if (action === 'add') throw new LibxlError(Rc.TIMEDOUT, line);
    return;
  }
  const [at, how] =
    'signal' in end ? [127, `died due to fatal signal ${end.signal}`] : [117, `exited with error status ${end.status}`];
  if ('status' in end && end.status === 0) return sayNoMore(ctx, device, isDisk);
  const line = `${what} [${end.pid}] ${how}`;
  ctx.log('error', `libxl_exec.c:${at}:libxl_report_child_exitstatus`, undefined, line);
  const text = await readText(ctx, `${backend}/hotplug-error`);
  const where = 'libxl_device.c:1337:device_hotplug_child_death_cb';
  if (text !== undefined) ctx.log('error', where, undefined, `script: ${text}`);
  if (action === 'add') throw new LibxlError(Rc.FAIL, line);
}

/** libxl looks for one script more after each, and finds none. */
function sayNoMore({ log }: Ctx, { domid }: Device, isDisk: boolean): void {
  const where = 'libxl_linux.c:211:libxl__get_hotplug_script_info';
  if (isDisk) log('debug', where, domid, 'num_exec 1, not running hotplug scripts');
  log('debug', 'libxl_device.c:1254:device_hotplug', domid, 'No hotplug script to execute');
}

/** A driver domain removes its own backend directory; libxl waits for that and leaves the script to it. */
async function backendGone(ctx: Ctx, device: Device): Promise<void> {
  const { backend } = pathsOf(device);
  try {
    const gone = await beginWait(ctx, backend, LIBXL_DESTROY_TIMEOUT, (value) => value === undefined);
    await gone();
  } catch (error) {
    if (error instanceof LibxlError && error.rc === Rc.TIMEDOUT) {
      const where = 'libxl_device.c:1375:device_destroy_be_watch_cb';
      ctx.log('error', where, device.domid, `timed out while waiting for ${backend} to be removed`);
    }
    throw error;
  }
}

/** libxl_linux.c: a vbd has one run, a vif one, other kinds none. The script's path is read back from the backend. */
async function hotplugCall(ctx: Ctx, device: Device, action: Action): Promise<HotplugCall | undefined> {
  const { domid, devid, backendKind: kind } = device;
  if (kind !== 'vbd' && kind !== 'vif') {
    const line = `backend_kind ${deviceKinds.indexOf(kind)}, no need to execute scripts`;
    ctx.log('debug', 'libxl_linux.c:234:libxl__get_hotplug_script_info', domid, line);
    return undefined;
  }
  const { backend } = pathsOf(device);
  const script = await readText(ctx, `${backend}/script`);
  if (script === undefined) {
    const where = kind === 'vbd' ? 'libxl_linux.c:174:libxl__hotplug_disk' : 'libxl_linux.c:119:libxl__hotplug_nic';
    ctx.log('error', where, domid, `unable to read script from ${backend}: ${strerror('ENOENT')}`);
    const line = `unable to get args/env to execute hotplug script for device ${backend}`;
    ctx.log('error', 'libxl_device.c:1260:device_hotplug', domid, line);
    throw new LibxlError(Rc.FAIL, line);
  }
  const env = { script, XENBUS_TYPE: kind, XENBUS_PATH: `backend/${kind}/${domid}/${devid}`, XENBUS_BASE_PATH: 'backend' };
  if (kind === 'vbd') return { script, args: [action], env };
  const netdev = (await readText(ctx, `${backend}/gatewaydev`)) ?? '';
  const online = action === 'add' ? 'online' : 'offline';
  return { script, args: [online, 'type_if=vif'], env: { ...env, netdev, vif: `vif${domid}.${devid}` } };
}

/** A value that names something of the host's. */
async function readText(ctx: Ctx, path: string): Promise<string | undefined> {
  const bytes = await ctx.xs.read(path);
  return bytes === undefined ? undefined : textOf(bytes);
}

/** The lines of `-vvv` that show how a script was called. */
function logCall(ctx: Ctx, device: Device, call: HotplugCall): void {
  const say = (line: number, text: string) => ctx.log('debug', `libxl_device.c:${line}:device_hotplug`, device.domid, text);
  say(1269, `calling hotplug script: ${call.script} ${call.args[0]}`);
  say(1270, 'extra args:');
  for (const arg of call.args.slice(1)) say(1276, `\t${arg}`);
  say(1278, 'env:');
  for (const [key, value] of Object.entries(call.env)) say(1285, `\t${key}: ${value}`);
}
