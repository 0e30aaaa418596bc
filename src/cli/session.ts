/**
 * What the commands share: where dom0 is, how it is reached or started, and how a command ends.
 *
 * A command is a sentence about libxl; the rest is here. Nothing in this file knows a domain's states or a device.
 */
import { readFileSync, realpathSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { type Ctx, type Host, LibxlError, type LogLevel, LogLevel as levels, logLine } from '../libxl/ctx.js';
import { domidToName, nameToDomid } from '../libxl/domain.js';
import { version } from '../version.js';
import { SystemClock } from '../xenbus/clock.js';
import { PrivcmdError, type Xc } from '../xenbus/privcmd.js';
import { NoAnswer, type PrivcmdClient, ProtocolError, privcmdClient } from '../xenbus/privcmd-client.js';
import { asRunDirError, checkLength, guestOfPath, type RunDir, RunDirError, runDirAt } from '../xenbus/run-dir.js';
import { ConnectionEnded, socketTransport } from '../xenbus/transport.js';
import { backOffOf, type Xs, xsClient } from '../xenbus/xs-client.js';
import { XsError } from '../xenbus/xs-wire.js';
import { parseTimeoutScale } from './argv.js';
import { spinnerOn } from './progress.js';

export type Env = Readonly<Record<string, string | undefined>>;

/** The end of a command that was refused or failed: what it says on stderr, and its exit code. Nobody's bug. */
export class XlFailure extends Error {
  override readonly name = 'XlFailure';

  constructor(
    readonly exit: number,
    /** As it is printed, without the last newline. Empty: the reason has been printed where it was found. */
    text = '',
  ) {
    super(text);
  }
}

/** What the argv layer hands to every command: xl's options before the command. */
export interface Globals {
  readonly verbosity: number;
  readonly timestamps: boolean;
}

/** A command, as its refusals call it: `mtwatch list`. */
export interface Spoken {
  readonly spokenId: string;
}

/** `XL_RUN_DIR`, else a directory of this user's. */
export function runDirOf(env: Env): RunDir {
  const given = env['XL_RUN_DIR'];
  if (given) return runDirAt(resolve(given));
  const runtime = env['XDG_RUNTIME_DIR'];
  return runDirAt(runtime ? join(runtime, 'xl') : join(tmpdir(), `xl-${process.getuid?.() ?? userInfo().username}`));
}

/**
 * Whose store connection the command is for: dom0's own, or another one that `XENSTORED_PATH` points to. Another one is
 * that of a store elsewhere, and that of a guest of ours, where a command speaks as the guest.
 */
export function foreignStore(env: Env, dir: RunDir): string | undefined {
  const path = env['XENSTORED_PATH'];
  if (!path) return undefined;
  if (guestStore(env, dir) !== undefined) return path;
  return isBelow(realPath(resolve(path)), realPath(dir.path)) ? undefined : path;
}

/** The guest of the embedded dom0 that speaks on the socket `XENSTORED_PATH` points to, whether or not it is there. */
export function guestStore(env: Env, dir: RunDir): number | undefined {
  const path = env['XENSTORED_PATH'];
  return path ? guestOfPath(runDirAt(realPath(dir.path)), realPath(resolve(path))) : undefined;
}

/** Whether `XENSTORED_PATH` says that the store is reached through dom0's kernel, as on a host with a store domain. */
function throughKernel(env: Env, dir: RunDir): boolean {
  const path = env['XENSTORED_PATH'];
  return path ? realPath(resolve(path)) === realPath(dir.xenbus) : false;
}

function isBelow(path: string, dir: string): boolean {
  return path.startsWith(`${dir}/`);
}

/** The path with its links followed, as far as it exists. */
function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    const parent = dirname(path);
    return parent === path ? path : join(realPath(parent), basename(path));
  }
}

/**
 * Connects to the dom0 of the run directory, and starts one first when there is none. Many commands that find none
 * start one between them: one has the right to start, the others wait until it answers.
 */
export async function connectDom0(env: Env, dir: RunDir): Promise<PrivcmdClient> {
  checkLength(dir);
  const running = await tryConnect(dir);
  if (running) return running;
  if (env['XL_DOM0_AUTOSTART'] === '0') {
    throw new XlFailure(1, `xl: no dom0 is running in ${dir.path}; start it with \`xl dom0 start\``);
  }
  const { argumentsFor, startDom0 } = await import('./launch.js');
  return (await startDom0(dir, argumentsFor(dir, env['XL_DOM0_ARGS']))).client;
}

/** A connection, or undefined when no dom0 listens. One that listens and does not answer is a failure. */
export async function tryConnect(dir: RunDir, waitMs?: number): Promise<PrivcmdClient | undefined> {
  try {
    return await privcmdClient(dir.privcmd, version, waitMs);
  } catch (error) {
    // A dom0 that is just ending closes the connection before it has said anything.
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ECONNREFUSED', 'ECONNRESET', 'EAGAIN', 'EPIPE') || error instanceof PrivcmdError) {
      return undefined;
    }
    if (error instanceof NoAnswer) throw noAnswer(dir);
    throw asRunDirError(dir, dir.privcmd, error);
  }
}

/** What to do about a dom0 that does not answer, whose pid only its file can tell. */
export function noAnswer(dir: RunDir): XlFailure {
  let pid: string | undefined;
  try {
    pid = /^\d+/.exec(readFileSync(dir.pidFile, 'latin1'))?.[0];
  } catch {
    // Then without it.
  }
  if (pid === undefined) return new XlFailure(1, `xl: dom0 in ${dir.path} does not answer`);
  return new XlFailure(1, `xl: dom0 (pid ${pid}) does not answer; end it with \`kill -9 ${pid}\``);
}

function isErrno(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}

/** The two clients of dom0 and what libxl needs beside them. */
export interface Session {
  readonly ctx: Ctx;
  readonly xc: PrivcmdClient;
  readonly dir: RunDir;
}

/** Runs `body` with dom0 at hand, for a command that needs the embedded one. */
export async function withDom0<T>(command: Spoken, body: (xc: PrivcmdClient, dir: RunDir) => Promise<T>): Promise<T> {
  const dir = runDirOf(process.env);
  refuseForeign(command, dir);
  return withClient(await connectDom0(process.env, dir), dir, body);
}

async function withClient<T>(xc: PrivcmdClient, dir: RunDir, body: (xc: PrivcmdClient, dir: RunDir) => Promise<T>): Promise<T> {
  const ended = () => new XlFailure(1, `xl: dom0 ended while the command was running; ${dir.log} may say why`);
  let over = false;
  const lost = xc.closed.then(() => {
    if (!over) throw ended();
  });
  try {
    return (await Promise.race([body(xc, dir), lost])) as T;
  } catch (error) {
    // A dom0 of another version speaks the same protocol and may lack an operation.
    if (error instanceof PrivcmdError && error.errno === 'ENOSYS' && xc.server.version !== version) {
      const { version: theirs, pid } = xc.server;
      const what = `the running dom0 is ${theirs}, this is xl ${version}`;
      throw new XlFailure(1, `xl: ${error.message}: ${what}; use that xl, or end its dom0 with \`kill ${pid}\``);
    }
    // Of its two connections either may be the first to go.
    throw error instanceof ConnectionEnded ? ended() : error;
  } finally {
    over = true;
    xc.close();
  }
}

/** The same, with a store connection and a libxl context. */
export function withSession<T>(command: Spoken, globals: Globals, body: (session: Session) => Promise<T>): Promise<T> {
  return withDom0(command, (xc, dir) => inSession(xc, dir, globals, body));
}

async function inSession<T>(
  xc: PrivcmdClient,
  dir: RunDir,
  globals: Globals,
  body: (session: Session) => Promise<T>,
): Promise<T> {
  const xs = await openStore(dir, throughKernel(process.env, dir) ? dir.xenbus : dir.store.xl);
  try {
    return await body({ ctx: makeCtx(xc, xs, dir, globals), xc, dir });
  } finally {
    xs.close();
  }
}

/**
 * As `withSession`, but in the domain that `XENSTORED_PATH` speaks for, which may be a driver domain of ours: `xl devd` is
 * made for those. Its bridges and interfaces are that domain's.
 */
export async function withDomainSession<T>(
  command: Spoken,
  globals: Globals,
  body: (session: Session) => Promise<T>,
): Promise<T> {
  const dir = runDirOf(process.env);
  const path = process.env['XENSTORED_PATH'];
  const domid = guestStore(process.env, dir);
  if (domid === undefined || !path) return withSession(command, globals, body);
  return withClient(await connectDom0(process.env, dir), dir, async (xc) => {
    const xs = await openStore(dir, path);
    const own: Xc = {
      call: (op, args) => xc.call(op, op === 'dom0.bridge' || op === 'dom0.rename_vif' ? { ...args, domid } : args),
      close: () => undefined,
    };
    // Who waits for an event alone would never hear of the end of the domain.
    const lost = xs.ended.then((reason) => {
      if (reason) throw new XlFailure(1, `xl: ${command.spokenId}: domain ${domid} is gone`);
    });
    try {
      return (await Promise.race([body({ ctx: makeCtx(own, xs, dir, globals, path), xc, dir }), lost])) as T;
    } finally {
      xs.close();
    }
  });
}

/** As `withSession`, if a dom0 runs and it is the store's too. Otherwise nothing is done, and false the answer. */
export async function withRunning(globals: Globals, body: (session: Session) => Promise<void>): Promise<boolean> {
  if (process.env['XENSTORED_PATH']) return false;
  const dir = runDirOf(process.env);
  checkLength(dir);
  const store = openStore(dir, dir.store.xl);
  const [xc, xs] = await Promise.all([tryConnect(dir), store.catch(() => undefined)]);
  try {
    if (!xc || !xs) return false;
    await withClient(xc, dir, () => body({ ctx: makeCtx(xc, xs, dir, globals), xc, dir }));
    return true;
  } finally {
    xc?.close();
    xs?.close();
  }
}

/** A store connection of the running dom0. Without its socket something else has been at the run directory. */
async function openStore(dir: RunDir, path: string): Promise<Xs> {
  const transport = await socketTransport(path).catch((error: unknown) => {
    throw asRunDirError(dir, path, error);
  });
  return xsClient(transport, { backOff: backOffOf(new SystemClock()) });
}

/**
 * Runs `body` on a store connection that is not dom0's own: a real host's perhaps, or a guest's of ours. There is no
 * hypervisor to ask behind it: a command that comes here keeps to the store. What a guest may not do ends the command
 * with a word about it, unless `body` has one of its own.
 */
export async function withForeignStore<T>(
  command: Spoken,
  path: string,
  globals: Globals,
  body: (ctx: Ctx) => Promise<T>,
): Promise<T> {
  const dir = runDirOf(process.env);
  const refused = async () => {
    throw needsDom0(command, dir, path);
  };
  const xc: Xc = { call: refused, close: () => undefined };
  const transport = await socketTransport(path).catch((error: Error) => {
    const guest = guestStore(process.env, dir);
    const gone = guest === undefined ? '' : `; domain ${guest} is gone, or dom0 is: \`eval "$(xl dom0 env)"\` leaves it`;
    throw new XlFailure(1, `xl: no store answers at XENSTORED_PATH=${path}: ${error.message}${gone}`);
  });
  const xs = xsClient(transport, { backOff: backOffOf(new SystemClock()) });
  // Who waits for an event alone would never hear of the end of the connection.
  const lost = xs.ended.then((reason) => {
    if (reason) throw reason;
  });
  try {
    return (await Promise.race([body(makeCtx(xc, xs, dir, globals)), lost])) as T;
  } catch (error) {
    throw error instanceof XsError && error.errno === 'EACCES' ? needsDom0(command, dir, path) : error;
  } finally {
    xs.close();
  }
}

/**
 * Runs `body` with a connection of an ordinary client: to the store that `XENSTORED_PATH` points to, whosever it is, else
 * to the embedded dom0's, which is started if need be.
 */
export async function withStore<T>(command: Spoken, globals: Globals, body: (xs: Xs) => Promise<T>): Promise<T> {
  const foreign = foreignStore(process.env, runDirOf(process.env));
  if (foreign !== undefined) return withForeignStore(command, foreign, globals, ({ xs }) => body(xs));
  return withDom0(command, async (_, dir) => {
    const xs = await openStore(dir, process.env['XENSTORED_PATH'] || dir.store.client);
    try {
      return await body(xs);
    } finally {
      xs.close();
    }
  });
}

function refuseForeign(command: Spoken, dir: RunDir): void {
  const path = foreignStore(process.env, dir);
  if (path !== undefined) throw needsDom0(command, dir, path);
}

function needsDom0(command: Spoken, dir: RunDir, path: string): XlFailure {
  const guest = guestStore(process.env, dir);
  if (guest === undefined) {
    return new XlFailure(1, `xl: ${command.spokenId} needs the embedded dom0; XENSTORED_PATH points to ${path}`);
  }
  const what = `needs dom0, and XENSTORED_PATH is that of domain ${guest}`;
  return new XlFailure(1, `xl: ${command.spokenId} ${what}: \`eval "$(xl dom0 env)"\` goes back to dom0`);
}

function makeCtx(xc: Xc, xs: Xs, dir: RunDir, globals: Globals, scriptStore = dir.store.hotplug): Ctx {
  const spinner = process.stderr.isTTY ? spinnerOn(process.stderr) : undefined;
  const write = spinner?.print ?? ((line: string) => process.stderr.write(`${line}\n`));
  const print = (line: string) => write(`${globals.timestamps ? timestamp() : ''}${line}`);
  const least = leastLevel(globals.verbosity);
  return {
    xs,
    xc,
    clock: new SystemClock(),
    host: lazyHost(xc, dir, scriptStore),
    timeoutScale: timeoutScaleOf(process.env),
    log: (level, where, domid, message) => {
      if (levels[level] >= least) print(logLine('libxl', level, where, domid, message));
    },
    xcLog: (line, level = 'error') => {
      if (levels[level] >= least) print(line);
    },
    ...(spinner ? { progress: spinner.progress } : {}),
  };
}

/** libxl's lines for what is done before dom0 is reached. */
export function bareLog(globals: Globals): Pick<Ctx, 'log'> {
  const least = leastLevel(globals.verbosity);
  const log: Ctx['log'] = (level, where, domid, message) => {
    if (levels[level] < least) return;
    process.stderr.write(`${globals.timestamps ? timestamp() : ''}${logLine('libxl', level, where, domid, message)}\n`);
  };
  return { log };
}

/** xl prints from PROGRESS up, and one level more for each `-v`. */
export function leastLevel(verbosity: number): (typeof levels)[LogLevel] | number {
  return Math.max(levels.debug, levels.progress - verbosity);
}

/** `XL_TIMEOUT_SCALE`: what libxl's waits are multiplied by. */
export function timeoutScaleOf(env: Env): number {
  const scale = parseTimeoutScale(env['XL_TIMEOUT_SCALE']);
  if (typeof scale === 'string') throw new XlFailure(1, `xl: ${scale}`);
  return scale;
}

/** What `-T` puts before a line of the log. */
function timestamp(): string {
  return `${new Date().toISOString().replace('T', ' ').slice(0, 19)} UTC [${process.pid}] `;
}

/**
 * libxl's view of the machine, made when it is first asked for: most commands look at no file and run no script. Scripts
 * connect to the store at `scriptStore`.
 */
function lazyHost(xc: Xc, dir: RunDir, scriptStore: string): Host {
  const make = async (): Promise<Host> => {
    const [{ systemHost }, view] = await Promise.all([import('../libxl/hotplug.js'), xc.call('dom0.host', {})]);
    return systemHost({
      ...view,
      userdataDir: dir.lib,
      openXs: () => openStore(dir, scriptStore),
      xc,
      pid: process.pid,
      scriptDir: process.env['XEN_SCRIPT_DIR'],
      xenstoredPath: scriptStore,
    });
  };
  let made: Promise<Host> | undefined;
  const host = () => {
    made ??= make();
    return made;
  };
  const userdata = <T>(body: () => Promise<T>): Promise<T> =>
    body().catch((error: unknown) => {
      throw asRunDirError(dir, dir.lib, error);
    });
  return {
    pid: process.pid,
    stat: async (path) => (await host()).stat(path),
    readMagic: async (path) => (await host()).readMagic(path),
    runScript: async (run) => (await host()).runScript(run),
    readUserdata: (name) => userdata(async () => (await host()).readUserdata(name)),
    writeUserdata: (name, contents) => userdata(async () => (await host()).writeUserdata(name, contents)),
    lockUserdata: (domid, uuid) => userdata(async () => (await host()).lockUserdata(domid, uuid)),
    lockName: (name) => userdata(async () => (await host()).lockName(name)),
    isDomidRecent: (domid) => userdata(async () => (await host()).isDomidRecent(domid)),
    markDomidRecent: (domid) => userdata(async () => (await host()).markDomidRecent(domid)),
    createFile: async (path) => (await host()).createFile(path),
    removeUserdata: (domid, uuid) => userdata(async () => (await host()).removeUserdata(domid, uuid)),
  };
}

/**
 * The domid that a `<Domain>` argument means. Digits are a domid, whether or not there is such a domain; all else is a
 * name. xl looks the name up in either case, and so does this.
 */
export async function findDomain(ctx: Ctx, text: string): Promise<number> {
  const domid = /^\d*$/.test(text) ? Math.min(Number(text), 0xffff_ffff) : await nameToDomid(ctx, text);
  if (domid === undefined) throw new XlFailure(1, `${text} is an invalid domain identifier (rc=-6)`);
  await domidToName(ctx, domid);
  return domid;
}

/** The same with the name that it has, which xl remembers for what it does next; a domid may have none. */
export async function findNamed(ctx: Ctx, text: string): Promise<{ readonly domid: number; readonly name: string | undefined }> {
  const domid = await findDomain(ctx, text);
  return { domid, name: /^\d*$/.test(text) ? await domidToName(ctx, domid) : text };
}

/** Lets a failed operation be: some of xl's commands do not look at what libxl returned. */
export async function ignoringFailure(operation: Promise<void>): Promise<void> {
  try {
    await operation;
  } catch (error) {
    if (!(error instanceof LibxlError)) throw error;
  }
}

/** Whether colours are wanted there: by a person at a terminal who has not said no (https://no-color.org). */
export function coloured(stream: NodeJS.WriteStream): boolean {
  return stream.isTTY === true && !process.env['NO_COLOR'];
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

/** What a command's error is to its user: a refusal or a failed operation. Undefined: a bug. */
export function asFailure(error: Error): XlFailure | undefined {
  if (error instanceof XlFailure) return error;
  // libxl has said what was wrong.
  if (error instanceof LibxlError) return new XlFailure(1);
  if ([PrivcmdError, RunDirError, ProtocolError, ConnectionEnded].some((kind) => error instanceof kind)) {
    return new XlFailure(1, `xl: ${error.message}`);
  }
  return undefined;
}
