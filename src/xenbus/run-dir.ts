/**
 * The run directory: what lies where in it, whether it is fit for use, and which process it belongs to.
 *
 * A run directory has one dom0. The right to be it is an abstract unix socket named after the directory's device and
 * inode: the kernel gives the name to one process and takes it back when that process ends, however it ends. Where
 * there are no abstract sockets it is a lock file with a pid and that process's start time.
 */
import { execFileSync } from 'node:child_process';
import {
  accessSync,
  constants,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  type Stats,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join, relative, sep } from 'node:path';
import { getSystemErrorMap } from 'node:util';
import { parseDomid } from './paths.js';

/** Bytes that the path of a unix socket can have, without the NUL (sun_path). */
const socketPathMaxBytes = process.platform === 'linux' ? 107 : 103;
/** The longest name of a socket below the run directory. */
const longestSocket = '/guest/32751/socket';

export interface RunDir {
  readonly path: string;
  /** Where XenStore clients of all kinds connect, xl itself, and what hotplug scripts run. */
  readonly store: { readonly dir: string; readonly client: string; readonly xl: string; readonly hotplug: string };
  /** `/dev/xen/xenbus`: where clients connect through dom0's kernel. */
  readonly xenbus: string;
  readonly privcmd: string;
  readonly pidFile: string;
  /** The arguments of a dom0 with a journal, for whoever starts the next one without saying how. */
  readonly argsFile: string;
  readonly log: string;
  /** Userdata of the domains. */
  readonly lib: string;
  /** Logs of the monitors. */
  readonly logs: string;
  /** For each domain that the store knows a directory of its domid, with the socket where clients connect as it. */
  readonly guests: string;
}

/** A run directory that cannot be used; the message says why and what to do. */
export class RunDirError extends Error {
  override readonly name = 'RunDirError';
}

export function runDirAt(path: string): RunDir {
  const dir = join(path, 'xenstored');
  return {
    path,
    store: { dir, client: join(dir, 'socket'), xl: join(dir, 'xl'), hotplug: join(dir, 'hotplug') },
    xenbus: join(path, 'dev', 'xenbus'),
    privcmd: join(path, 'privcmd.sock'),
    pidFile: join(path, 'dom0.pid'),
    argsFile: join(path, 'dom0.args'),
    log: join(path, 'dom0.log'),
    lib: join(path, 'lib'),
    logs: join(path, 'log'),
    guests: join(path, 'guest'),
  };
}

/** Where clients connect as a domain, `guest/3/socket`. */
export function guestSocketPath(dir: RunDir, domid: number): string {
  return join(dir.guests, String(domid), 'socket');
}

/** The other way: the domain that speaks on a path, which has its links followed; undefined when it is no such path. */
export function guestOfPath(dir: RunDir, path: string): number | undefined {
  const [name = '', file, ...more] = relative(dir.guests, path).split(sep);
  return file === 'socket' && more.length === 0 ? parseDomid(name) : undefined;
}

/** Makes the directory for a domain's socket, mode 0700. */
export function makeGuestDir(dir: RunDir, domid: number): void {
  makeDir(dirname(guestSocketPath(dir, domid)));
}

/** Removes a domain's socket and its directory. What somebody else has put there stays. */
export function removeGuestDir(dir: RunDir, domid: number): void {
  const socket = guestSocketPath(dir, domid);
  try {
    rmSync(socket, { force: true });
    rmdirSync(dirname(socket));
  } catch {
    // It is gone, or it is not empty, or it was never ours.
  }
}

/** The domids that have a directory. */
export function guestDirs(dir: RunDir): number[] {
  return readdirSync(dir.guests).flatMap((name) => parseDomid(name) ?? []);
}

/** Refuses a path that is too long for the sockets below it: the system would cut it or fail with less to say. */
export function checkLength(dir: RunDir): void {
  const bytes = Buffer.byteLength(dir.path) + longestSocket.length;
  if (bytes <= socketPathMaxBytes) return;
  const room = socketPathMaxBytes - longestSocket.length;
  throw new RunDirError(
    `the run directory ${dir.path} is ${Buffer.byteLength(dir.path)} bytes long and unix sockets leave room for ${room}; set XL_RUN_DIR to a shorter one`,
  );
}

/** Makes the directories, mode 0700, or checks that what is there belongs to us alone. */
export function prepareRunDir(dir: RunDir): void {
  checkLength(dir);
  const stats = inRunDir(dir, dir.path, () => {
    makeDir(dir.path);
    return statSync(dir.path);
  });
  if (!stats.isDirectory()) throw unusable(dir, dir.path, 'Not a directory');
  checkOwner(dir.path, stats);
  // In a temp directory anybody can put a link that leads to one of ours.
  const link = lstatSync(dir.path);
  if (link.isSymbolicLink()) checkOwner(dir.path, { uid: link.uid, mode: 0 });
  for (const path of [dir.path, dir.store.dir, dirname(dir.xenbus), dir.lib, dir.logs, dir.guests]) {
    inRunDir(dir, path, () => {
      makeDir(path);
      if (!statSync(path).isDirectory()) throw unusable(dir, path, 'Not a directory');
      accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
    });
  }
  const log = inRunDir(dir, dir.log, () => statSync(dir.log, { throwIfNoEntry: false }));
  if (log?.isDirectory()) throw unusable(dir, dir.log, 'Is a directory');
}

/**
 * Makes a directory, and those above it that are missing. Component by component: mkdir of Node with `recursive` never
 * returns where a file system answers ENOENT although the parent is there, as /proc does.
 */
export function makeDir(path: string): void {
  const parent = dirname(path);
  if (parent !== path && !lstatSync(parent, { throwIfNoEntry: false })) makeDir(parent);
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
}

/** Runs what touches `file` of the run directory; the system's refusal becomes a line about the run directory. */
export function inRunDir<T>(dir: RunDir, file: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw asRunDirError(dir, file, error);
  }
}

/** The error of a system call as a RunDirError; any other error as it is. */
export function asRunDirError(dir: RunDir, file: string, error: unknown): unknown {
  const code = errnoOf(error);
  return code === undefined ? error : unusable(dir, file, errnoWords(error as NodeJS.ErrnoException, code));
}

function unusable(dir: RunDir, file: string, why: string): RunDirError {
  const below = relative(dir.path, file);
  return new RunDirError(
    `the run directory ${dir.path} cannot be used: ${below === '' ? '' : `${below}: `}${why}; set XL_RUN_DIR to another one`,
  );
}

function errnoOf(error: unknown): string | undefined {
  return typeof error === 'object' && error !== null && 'syscall' in error && 'code' in error ? String(error.code) : undefined;
}

/** Where libuv's words are not those of strerror. */
const strerror: Readonly<Record<string, string>> = {
  EEXIST: 'File exists',
  EIO: 'Input/output error',
  EISDIR: 'Is a directory',
  ELOOP: 'Too many levels of symbolic links',
};

function errnoWords(error: NodeJS.ErrnoException, code: string): string {
  const words = strerror[code] ?? getSystemErrorMap().get(error.errno ?? 0)?.[1] ?? code;
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function checkOwner(path: string, stats: Pick<Stats, 'uid' | 'mode'>): void {
  const uid = process.getuid?.();
  if (uid !== undefined && stats.uid !== uid) {
    throw new RunDirError(`the run directory ${path} belongs to uid ${stats.uid}, not to ${uid}; set XL_RUN_DIR to one of yours`);
  }
  if ((stats.mode & 0o022) !== 0) {
    throw new RunDirError(`others can write to the run directory ${path}; chmod go-w it, or set XL_RUN_DIR to another one`);
  }
}

/** What tells this directory from one that is made at the same path later; undefined when it is gone. */
export function identityOf(path: string): string | undefined {
  const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stats ? `${stats.dev}:${stats.ino}` : undefined;
}

/** A right that this process holds. */
export interface Right {
  release(): void;
}

/**
 * Takes a right on the run directory; undefined when another process holds it. `dom0` is the right to be its dom0, held
 * for life; `start` is held by a command while it starts one, so that many first commands do not start many processes.
 */
export async function takeRight(
  dir: RunDir,
  what: 'dom0' | 'start' | 'journal' | `xenconsole.${number}`,
  abstract = process.platform === 'linux',
): Promise<Right | undefined> {
  try {
    return await (abstract ? bindName(dir, what) : lockFile(join(dir.path, `${what}.lock`)));
  } catch (error) {
    throw asRunDirError(dir, dir.path, error);
  }
}

function bindName(dir: RunDir, what: string): Promise<Right | undefined> {
  const identity = identityOf(dir.path);
  if (!identity) throw new RunDirError(`the run directory ${dir.path} is gone`);
  // Always 108 bytes: older versions of Node pad a shorter abstract name with NULs, newer ones do not.
  const name = `\0xl-mtwatch ${what} ${identity} `.padEnd(socketPathMaxBytes + 1, '.');
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.on('error', (error: NodeJS.ErrnoException) => (error.code === 'EADDRINUSE' ? resolve(undefined) : reject(error)));
    server.listen({ path: name, exclusive: true }, () => {
      server.unref();
      resolve({ release: () => server.close() });
    });
  });
}

/** The lock file appears whole, by a link. A holder that is dead, or another process with its pid, is overruled. */
function lockFile(path: string): Right | undefined {
  const mine = `${process.pid} ${startTimeOf(process.pid) ?? ''}\n`;
  const draft = `${path}.${process.pid}`;
  writeFileSync(draft, mine, { mode: 0o600 });
  try {
    for (let tries = 0; tries < 3; tries++) {
      if (linked(draft, path)) return { release: () => removeIf(path, mine) };
      const held = contentsOf(path);
      if (held === undefined) continue;
      if (isAlive(held)) return undefined;
      // Of all who see the dead holder only one can move its file away; whoever moves a newer one puts it back.
      const aside = `${path}.stale.${process.pid}`;
      try {
        renameSync(path, aside);
      } catch {
        continue;
      }
      if (contentsOf(aside) !== held) linked(aside, path);
      rmSync(aside, { force: true });
    }
    return undefined;
  } finally {
    rmSync(draft, { force: true });
  }
}

function linked(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch {
    return false;
  }
}

function contentsOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function removeIf(path: string, contents: string): void {
  if (contentsOf(path) === contents) rmSync(path, { force: true });
}

function isAlive(lock: string): boolean {
  const [, pid = '', started = ''] = /^(\d+) (.*)\n$/.exec(lock) ?? [];
  return pid !== '' && startTimeOf(Number(pid)) === started;
}

/** When a process started, in whatever words the system has; undefined when there is none of that pid. */
function startTimeOf(pid: number): string | undefined {
  const stat = contentsOf(`/proc/${pid}/stat`);
  // The 22nd field. The second is the name in parentheses, with anything in it.
  if (stat !== undefined) return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  try {
    const words = execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return words.trim() || undefined;
  } catch {
    return undefined;
  }
}
