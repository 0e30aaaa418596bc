/**
 * What `xl devd` does in a domain with backends: it watches them, runs the hotplug script of each that appears, and takes
 * down what has closed (libxl 4.17, `libxl_device_events_handler`).
 *
 * It is meant for driver domains. In dom0 the toolstack runs the scripts as well, and the two get in each other's way as
 * they do on a real host.
 */
import { domainPath, join } from '../xenbus/paths.js';
import { parseState, XenbusState } from '../xenbus/xenbus.js';
import { asLibxlError, type Rest } from './ao.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { type Device, ownDomid, parseBackendPath, pathsOf, startDeviceRemove, waitDeviceConnection } from './device.js';
import { readText } from './device-list.js';
import { atoi } from './strtol.js';

/** The devices that are served, by the path of their backend, and that by domid. */
type Guests = Map<number, Map<string, Device>>;

/** Serves the backends of our domain until the connection ends; resolves only then. */
export async function deviceEventsHandler(ctx: Ctx): Promise<void> {
  const own = await ownDomid(ctx);
  if (own === undefined) {
    ctx.log('error', 'libxl_device.c:1844:libxl_device_events_handler', undefined, 'unable to get domain id');
    throw new LibxlError(Rc.FAIL, 'unable to get domain id');
  }
  const root = join(domainPath(own), 'backend');
  const guests: Guests = new Map();
  const events = ctx.xs.watch(root);
  for (const path of await waiting(ctx, root)) await backendChanged(ctx, guests, path);
  for await (const { path } of events) await backendChanged(ctx, guests, path);
}

/** The state nodes of backends that wait for their script already. */
async function waiting(ctx: Ctx, root: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const kind of (await ctx.xs.directory(root)) ?? []) {
    for (const domid of (await ctx.xs.directory(`${root}/${kind}`)) ?? []) {
      for (const devid of (await ctx.xs.directory(`${root}/${kind}/${domid}`)) ?? []) {
        const state = `${root}/${kind}/${domid}/${devid}/state`;
        const value = await ctx.xs.read(state);
        if (value !== undefined && parseState(value) === XenbusState.InitWait) found.push(state);
      }
    }
  }
  return found;
}

async function backendChanged(ctx: Ctx, guests: Guests, event: string): Promise<void> {
  const [, path] = /^(.*)\/(?:state|online)$/.exec(event) ?? [];
  if (path === undefined) return;
  const state = await readText(ctx, `${path}/state`);
  const online = state === undefined ? undefined : await readText(ctx, `${path}/online`);
  const device = parseBackendPath(path);
  if (state === undefined || online === undefined || !device) return;
  const closed = atoi(state) === XenbusState.Closed;
  const known = guests.get(device.domid)?.get(path);
  if (!known && closed) return;
  if (!known) addDevice(ctx, guests, path, device);
  else if (closed && atoi(online) === 0) await removeDevice(ctx, guests, path, known);
}

function addDevice(ctx: Ctx, guests: Guests, path: string, device: Device): void {
  const { domid } = device;
  let devices = guests.get(domid);
  if (!devices) {
    devices = new Map();
    guests.set(domid, devices);
    say(ctx, 1792, 'backend_watch_callback', domid, 'Added domain to the list of active guests');
  }
  devices.set(path, device);
  say(ctx, 1648, 'add_device', domid, `Added device ${path} to the list of active devices`);
  if (device.backendKind === 'qdisk') {
    ctx.log('error', '', domid, `${path} is not served: it is qemu's, and there is no qemu here`);
    return;
  }
  begin(ctx, device, 'add', waitDeviceConnection(ctx, device));
}

async function removeDevice(ctx: Ctx, guests: Guests, path: string, device: Device): Promise<void> {
  const { domid } = device;
  begin(ctx, device, 'remove', startDeviceRemove(ctx, device, 'auto'));
  const devices = guests.get(domid);
  devices?.delete(path);
  say(ctx, 1725, 'remove_device', domid, `Removed device ${path} from the list of active devices`);
  if (devices?.size !== 0) return;
  guests.delete(domid);
  say(ctx, 1615, 'check_and_maybe_remove_guest', domid, 'Removed domain from the list of active guests');
  // A relative path: what a driver domain has of the guest, below its own.
  await ctx.xs.rm(`libxl/${domid}`);
}

/** Lets an operation run beside the others. What fails of it has been logged. */
function begin(ctx: Ctx, device: Device, action: 'add' | 'remove', start: Promise<Rest>): void {
  const ended = (how: 'failed' | 'succeed') =>
    ctx.log('debug', 'libxl_device.c:1523:device_complete', undefined, `device ${pathsOf(device).backend} ${action} ${how}`);
  start
    .then((rest) => rest())
    .then(
      () => ended('succeed'),
      (error: unknown) => {
        if (!asLibxlError(error, action)) throw error;
        ended('failed');
      },
    );
}

function say(ctx: Ctx, line: number, where: string, domid: number, message: string): void {
  ctx.log('debug', `libxl_device.c:${line}:${where}`, domid, message);
}
