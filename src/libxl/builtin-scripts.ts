/**
 * The built-in hotplug scripts: `block`, `vif-bridge` and their sisters.
 *
 * A runner without Xen has neither loop devices to set up nor bridges to fill, so they do in XenStore what the scripts
 * of xen-utils 4.17 do there, request by request, and ask dom0 for the rest.
 */
import { type BlockDevice, PrivcmdError, type Xc } from '../xenbus/privcmd.js';
import { abort, byteString, textOf, type Xs, type XsRequests } from '../xenbus/xs-client.js';
import { XsError } from '../xenbus/xs-wire.js';
import type { FileStat, ScriptRun } from './ctx.js';
import type { NodePair } from './nodes.js';

/** What a disk taken on trust holds, in sectors of 512 bytes. */
const assumedSectors = 32_768;
/** The mtu of a bridge: what Linux gives to one. */
const bridgeMtu = '1500';

/** What a built-in script works with. */
export interface ScriptIo {
  /** A connection of its own for each request: the real scripts run a `xenstore-read` or `-write` for each. */
  openXs(): Promise<Xs>;
  readonly xc: Xc;
  stat(path: string): Promise<FileStat | undefined>;
  /** The path with its symbolic links followed. */
  resolve(path: string): Promise<string>;
}

/** A built-in script: runs to its exit status. */
export type BuiltinScript = (io: ScriptIo, run: ScriptRun) => Promise<number>;

export const builtinScripts: ReadonlyMap<string, BuiltinScript> = new Map([
  ['block', guarded(block)],
  ['block-iscsi', guarded(blockIscsi)],
  ['vif-bridge', guarded(vifBridge)],
  ['vif-nat', guarded(vifNat)],
  ['vif-route', guarded(vifRoute)],
  ['vif-openvswitch', guarded(vifOpenvswitch)],
]);

/** Ends a built-in script early. */
class ScriptExit extends Error {
  override readonly name = 'ScriptExit';

  constructor(readonly status: number) {
    super(`exit ${status}`);
  }
}

/** The trap of xen-hotplug-common.sh: a command that fails unforeseen ends the script, and is its error. */
function guarded(script: (io: ScriptIo, run: ScriptRun) => Promise<void>): BuiltinScript {
  return async (io, run) => {
    try {
      await script(io, run);
      return 0;
    } catch (error) {
      if (error instanceof XsError || error instanceof PrivcmdError) return trapped(io, run).catch(exitStatus);
      return exitStatus(error);
    }
  };
}

function trapped(io: ScriptIo, run: ScriptRun): Promise<never> {
  return fail(io, run, `${run.script} failed; error detected.`);
}

function exitStatus(error: unknown): number {
  if (error instanceof ScriptExit) return error.status;
  if (error instanceof XsError) return 1;
  throw error;
}

/** The device's backend, relative to dom0: `backend/vbd/N/D`. */
function backendOf(run: ScriptRun): string {
  return run.env['XENBUS_PATH'] ?? '';
}

async function withXs<T>(io: ScriptIo, use: (xs: Xs) => Promise<T>): Promise<T> {
  const xs = await io.openXs();
  try {
    return await use(xs);
  } finally {
    xs.close();
  }
}

/** A node that may be missing, or not be ours to read: a driver domain sees little of the guests that it serves. */
async function read(io: ScriptIo, node: string): Promise<string | undefined> {
  const bytes = await withXs(io, (xs) => readable(xs, node));
  return bytes === undefined ? undefined : textOf(bytes);
}

async function readable(xs: XsRequests, node: string): Promise<string | undefined> {
  return xs.read(node).catch((error: unknown) => {
    if (error instanceof XsError) return undefined;
    throw error;
  });
}

/** A node that must be there and say something. */
async function readMandatory(io: ScriptIo, run: ScriptRun, node: string): Promise<string> {
  return (await read(io, node)) || trapped(io, run);
}

/**
 * Writes nodes of a device, unless it is gone; answers whether it was there. A script outlives the xl that ran it, and
 * whoever removed the device meanwhile must not find it again: a plain write would make anew all that is above the node.
 */
async function writeOf(io: ScriptIo, dir: string, nodes: readonly NodePair[]): Promise<boolean> {
  const written = await withXs(io, (xs) =>
    xs.transaction(async (tx) => {
      if ((await tx.read(dir)) === undefined) return abort;
      for (const [name, value] of nodes) await tx.write(`${dir}/${name}`, byteString(value));
      return undefined;
    }),
  );
  return written !== abort;
}

/** Writes a node of the backend; the script ends when that is gone. */
async function write(io: ScriptIo, run: ScriptRun, name: string, value: string): Promise<void> {
  if (!(await writeOf(io, backendOf(run), [[name, value]]))) throw new ScriptExit(1);
}

/** Says why in `hotplug-error` and ends the script. Both nodes are one `xenstore-write`, and so one transaction. */
async function fail(io: ScriptIo, run: ScriptRun, text: string, status: 'error' | 'busy' = 'error'): Promise<never> {
  await writeOf(io, backendOf(run), [
    ['hotplug-error', text],
    ['hotplug-status', status],
  ]);
  throw new ScriptExit(1);
}

/** `r` and `w` ask for the checks of a read-only or a writable mount, `!` for none (canonicalise_mode). */
function canonicalMode(mode: string): 'r' | 'w' | '!' {
  if (!mode.includes('w')) return 'r';
  return mode.includes('!') ? '!' : 'w';
}

/** `block add|remove`: gives a vbd its device, through a loop device if `params` names a regular file. */
async function block(io: ScriptIo, run: ScriptRun): Promise<void> {
  const backend = backendOf(run);
  const params = await readMandatory(io, run, `${backend}/params`);
  const mode = canonicalMode(await readMandatory(io, run, `${backend}/mode`));
  if (run.args[0] === 'add') await blockAdd(io, run, params, mode);
  else await blockRemove(io, run, params);
}

/** What a disk asks for. */
interface Wanted {
  readonly run: ScriptRun;
  /** The guest's `/vm/UUID`; within one, a device may be shared. */
  readonly vm: string;
  readonly mode: 'r' | 'w' | '!';
  /** With symbolic links followed. */
  readonly file: string;
}

async function blockAdd(io: ScriptIo, run: ScriptRun, params: string, mode: 'r' | 'w' | '!'): Promise<void> {
  const backend = backendOf(run);
  // Called twice for one device, the script leaves it as it is.
  if ((await read(io, `${backend}/physical-device`)) !== undefined) return;
  const frontendId = await readMandatory(io, run, `${backend}/frontend-id`);
  const vm = (await read(io, `/local/domain/${frontendId}/vm`)) ?? 'unknown';
  const file = await io.stat(params);
  if (file && file.kind !== 'other') {
    const wanted = { run, vm, mode, file: await io.resolve(params) };
    const node = isBlock(file) ? await attachDevice(io, wanted, file) : await attachFile(io, wanted, file);
    await write(io, run, 'physical-device-path', node);
  }
  await write(io, run, 'hotplug-status', 'connected');
}

function isBlock(file: FileStat): boolean {
  return file.kind === 'block' || (file.kind === 'assumed' && file.block);
}

async function attachDevice(io: ScriptIo, wanted: Wanted, file: FileStat): Promise<string> {
  const numbers = file.kind === 'block' ? { major: file.major, minor: file.minor } : {};
  const sectors = file.kind === 'block' ? Math.floor(file.bytes / 512) : assumedSectors;
  const device = await io.xc.call('dom0.block_attach', { path: wanted.file, as: 'device', sectors, ...numbers });
  const mine = majorMinor(device);
  const sharer = await claim(io, wanted, mine, (_xs, _dir, theirs) => theirs === mine);
  if (sharer !== undefined) await failBusy(io, wanted, `Device ${device.node} is mounted `);
  return device.node;
}

async function attachFile(io: ScriptIo, wanted: Wanted, file: FileStat): Promise<string> {
  const backend = backendOf(wanted.run);
  const state = (await read(io, `${backend}/state`)) ?? 'unknown';
  if (state !== '2') {
    await fail(io, wanted.run, `Path closed or removed during hotplug add: ${backend} state: ${state}`);
  }
  const sameFile: SameDevice = async (xs, dir) => {
    const params = (await xs.read(`${dir}/node`)) === undefined ? undefined : await xs.read(`${dir}/params`);
    return params !== undefined && (await io.resolve(textOf(params))) === wanted.file;
  };
  const through = (sharer: string) => `File ${wanted.file} is loopback-mounted through ${sharer},\nwhich is mounted `;
  const sharer = await withXs(io, async (xs) => findSharer(xs, await listBackends(xs), wanted, sameFile));
  if (sharer !== undefined) return failBusy(io, wanted, through(sharer));

  const sectors = file.kind === 'file' ? Math.floor(file.bytes / 512) : assumedSectors;
  const device = await io.xc.call('dom0.block_attach', { path: wanted.file, as: 'loop', sectors, owner: backend });
  let faster: string | undefined;
  try {
    await write(io, wanted.run, 'node', device.node);
    faster = await claim(io, wanted, majorMinor(device), sameFile);
  } catch (error) {
    if (error instanceof ScriptExit) await detachOwn(io, backend);
    throw error;
  }
  if (faster === undefined) return device.node;
  await io.xc.call('dom0.block_detach', { node: device.node });
  return failBusy(io, wanted, through(faster));
}

/** Takes down the loop device of a backend that is gone, unless whoever removed that has done so. */
async function detachOwn(io: ScriptIo, owner: string): Promise<void> {
  try {
    await io.xc.call('dom0.block_detach', { owner });
  } catch (error) {
    if (!(error instanceof PrivcmdError) || error.errno !== 'ENOENT') throw error;
  }
}

/** As stat's `%t:%T`: hexadecimal without a prefix. */
function majorMinor(device: BlockDevice): string {
  return `${device.major.toString(16)}:${device.minor.toString(16)}`;
}

/** Whether the vbd at `dir`, whose `physical-device` is `theirs`, is on the device we want. */
type SameDevice = (xs: XsRequests, dir: string, theirs: string) => boolean | Promise<boolean>;

/** Who is checking and writing now, by the dom0 that it is for. */
const claiming = new WeakMap<Xc, Promise<unknown>>();

/**
 * Writes `physical-device` unless another guest has the device, whose numbers are then the answer. The real script
 * holds a lock file from its check to its write. Here the scripts of one process take turns, and against those of others
 * check and write are one transaction, the list of vbds in it: of two that check at the same time the slower one checks
 * again.
 */
function claim(io: ScriptIo, wanted: Wanted, mine: string, same: SameDevice): Promise<string | undefined> {
  const turn = (claiming.get(io.xc) ?? Promise.resolve()).then(() =>
    withXs(io, async (xs) => {
      let sharer: string | undefined;
      let isGone = false;
      const backend = backendOf(wanted.run);
      await xs.transaction(async (tx) => {
        isGone = (await tx.read(backend)) === undefined;
        if (isGone) return abort;
        sharer = await findSharer(tx, await listBackends(tx), wanted, same);
        if (sharer !== undefined) return abort;
        await tx.write(`${backend}/physical-device`, mine);
        return undefined;
      });
      if (isGone) throw new ScriptExit(1);
      return sharer;
    }),
  );
  claiming.set(
    io.xc,
    turn.catch(() => undefined),
  );
  return turn;
}

/** The directories of all vbds. */
async function listBackends(xs: XsRequests): Promise<string[]> {
  const domids = (await xs.directory('backend/vbd')) ?? [];
  const devids = await Promise.all(domids.map((domid) => xs.directory(`backend/vbd/${domid}`)));
  return domids.flatMap((domid, index) => (devids[index] ?? []).map((devid) => `backend/vbd/${domid}/${devid}`));
}

/**
 * The `physical-device` of another guest's vbd that rules ours out (check_sharing): a writer suffers nobody beside it,
 * a reader no writer.
 */
async function findSharer(
  xs: XsRequests,
  backends: readonly string[],
  { vm, mode }: Wanted,
  same: SameDevice,
): Promise<string | undefined> {
  if (mode === '!') return undefined;
  // All are asked for at once: there may be thousands.
  const devices = await Promise.all(backends.map((dir) => xs.read(`${dir}/physical-device`)));
  for (const [index, dir] of backends.entries()) {
    const theirs = devices[index];
    if (!theirs || !(await same(xs, dir, theirs))) continue;
    if (mode === 'r' && canonicalMode((await xs.read(`${dir}/mode`)) ?? '') !== 'w') continue;
    // Without a vm node the guest is on its way out, and does not stand in the way.
    const [, , domid] = dir.split('/');
    if (((await readable(xs, `/local/domain/${domid}/vm`)) ?? vm) !== vm) return theirs;
  }
  return undefined;
}

/** The script's words for a device that another guest has. */
function failBusy(io: ScriptIo, { run, mode }: Wanted, what: string): Promise<never> {
  const [theirs, ours] = mode === 'w' ? ['', ''] : ['read-write ', 'read-only '];
  return fail(io, run, `${what}${theirs}in a guest domain,\nand so cannot be mounted ${ours}now.`, 'busy');
}

async function blockRemove(io: ScriptIo, run: ScriptRun, params: string): Promise<void> {
  const file = await io.stat(params);
  if (file && isBlock(file)) return;
  const node = await read(io, `${backendOf(run)}/node`);
  if (node) await io.xc.call('dom0.block_detach', { node, owner: backendOf(run) });
  // A script that was killed has left its loop device unnamed; if there is none, that is an error foreseen by nobody.
  else if (file && file.kind !== 'other') await io.xc.call('dom0.block_detach', { owner: backendOf(run) });
}

/** `vif-bridge online|offline`: puts a vif on its bridge and tells the guest the mtu, or takes it off. */
async function vifBridge(io: ScriptIo, run: ScriptRun): Promise<void> {
  const backend = backendOf(run);
  const { vif, add } = await vifCommon(io, run);
  // An empty name is that of the first bridge there is.
  const bridge = (await read(io, `${backend}/bridge`)) || (await io.xc.call('dom0.host', {})).bridges[0];
  if (bridge === undefined) return fail(io, run, 'Could not find bridge, and none was specified');
  try {
    await io.xc.call('dom0.bridge', { bridge, vif, add });
  } catch (error) {
    if (!(error instanceof PrivcmdError) || error.errno !== 'ENOENT') throw error;
    await fail(io, run, `Could not find bridge device ${bridge}`);
  }
  if (!add) return;
  const mtu = (await read(io, `${backend}/mtu`)) || bridgeMtu;
  const [, domid, devid] = /^backend\/vif\/(\d+)\/(\d+)$/.exec(backend) ?? [];
  await writeOf(io, `/local/domain/${domid}/device/vif/${devid}`, [['mtu', mtu]]);
  await write(io, run, 'hotplug-status', 'connected');
}

/** What all scripts of interfaces begin with (vif-common.sh): the name that the interface is to have. */
async function vifCommon(io: ScriptIo, run: ScriptRun): Promise<{ readonly vif: string; readonly add: boolean }> {
  const device = run.env['vif'] ?? '';
  const vif = (await read(io, `${backendOf(run)}/vifname`)) || device;
  const add = run.args[0] === 'online';
  if (add && vif !== device) await renameVif(io, run, device, vif);
  return { vif, add };
}

/** `vif-nat online|offline`: addresses and routes are not modelled, so there is nothing to do but to say that it is done. */
async function vifNat(io: ScriptIo, run: ScriptRun): Promise<void> {
  const backend = backendOf(run);
  const { add } = await vifCommon(io, run);
  await read(io, `${backend}/ip`);
  for (const node of ['frontend-id', 'handle']) await readMandatory(io, run, `${backend}/${node}`);
  if (add) await write(io, run, 'hotplug-status', 'connected');
}

/** `vif-route online|offline`: it wants an interface with an address to route from, and dom0 has bridges alone. */
async function vifRoute(io: ScriptIo, run: ScriptRun): Promise<void> {
  await vifCommon(io, run);
  await read(io, `${backendOf(run)}/ip`);
  await trapped(io, run);
}

/** `vif-openvswitch online|offline`: its tool is not installed, which a removal does without. */
async function vifOpenvswitch(io: ScriptIo, run: ScriptRun): Promise<void> {
  const { add } = await vifCommon(io, run);
  if (add) await fail(io, run, 'Unable to find ovs-vsctl tool');
}

/** `block-iscsi add|remove`: its tool is not installed either. */
async function blockIscsi(io: ScriptIo, run: ScriptRun): Promise<void> {
  const params = await readMandatory(io, run, `${backendOf(run)}/params`);
  const isWhole = ['iqn=', 'portal='].every((key) => params.split(',').some((item) => item.startsWith(key)));
  await fail(io, run, isWhole ? 'Unable to find iscsiadm tool' : 'iqn= and portal= are required parameters');
}

/** A name that another device has is not taken from it: most likely the configuration is wrong. */
async function renameVif(io: ScriptIo, run: ScriptRun, device: string, name: string): Promise<void> {
  try {
    await io.xc.call('dom0.rename_vif', { vif: device, name });
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    const why = `An interface with name ${name} already exists.`;
    await fail(
      io,
      run,
      error.errno === 'EEXIST' ? `Cannot rename interface ${device}. ${why}` : `ip link set ${device} name ${name} failed`,
    );
  }
}
