/**
 * The machine as libxl sees it: the files of a config, its own saved files, and hotplug scripts.
 *
 * A script that is built in (`builtin-scripts.ts`) runs here; every other one is a real process. This is the edge: no
 * rule of libxl's own is in it.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { access, type FileHandle, mkdir, open, readdir, readFile, realpath, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { getSystemErrorMap } from 'node:util';
import { type Clock, SystemClock } from '../xenbus/clock.js';
import type { Xc } from '../xenbus/privcmd.js';
import { byteString, losslessText, type Xs } from '../xenbus/xs-client.js';
import { type BuiltinScript, builtinScripts, type ScriptIo } from './builtin-scripts.js';
import { type FileStat, type Host, kernelMagicBytes, type ScriptEnd, type ScriptRun } from './ctx.js';
import { XEN_SCRIPT_DIR } from './disk.js';
import { domidHistory, domidReuseSeconds } from './domid-history.js';
import { takeLockFile } from './lock-file.js';

export interface SystemHostOptions {
  /** Absolute paths of a config are looked up below this directory. */
  readonly root: string;
  /** Takes every file for there, whatever the machine says. */
  readonly assumeFiles: boolean;
  /** Looks into kernels. */
  readonly strictFiles: boolean;
  readonly userdataDir: string;
  /** A connection as the hotplug scripts have it. */
  openXs(): Promise<Xs>;
  readonly xc: Xc;
  /** Of this process. */
  readonly pid: number;
  /** `XEN_SCRIPT_DIR` of the environment: scripts found there run for real, before built-in ones. */
  readonly scriptDir?: string | undefined;
  /** `XENSTORED_PATH` for real scripts: where their `xenstore-*` connect. */
  readonly xenstoredPath?: string | undefined;
  /** The file that real scripts print to; without it they print where we print errors. */
  readonly scriptLog?: string;
  /** A pid for the messages of a built-in script. */
  readonly nextPid?: () => number;
  readonly clock?: Clock;
}

/** The machine this process runs on. */
export function systemHost(options: SystemHostOptions): Host {
  const { root, assumeFiles, userdataDir, xc, pid } = options;
  let lastPid = pid;
  const clock = options.clock ?? new SystemClock();
  const history = domidHistory(path.join(userdataDir, 'domid-history'), clock, domidReuseSeconds(process.env));
  const nextPid = options.nextPid ?? (() => ++lastPid);
  const onDisk = (file: string) => (path.isAbsolute(file) ? path.join(root, file) : path.resolve(file));
  const look = (file: string): Promise<FileStat | undefined> =>
    assumeFiles ? Promise.resolve({ kind: 'assumed', block: file.startsWith('/dev/') }) : statFile(onDisk(file));
  const io: ScriptIo = {
    openXs: () => options.openXs(),
    xc,
    stat: look,
    resolve: (file) => (assumeFiles || root !== '/' ? Promise.resolve(file) : realpath(file).catch(() => file)),
  };
  return {
    pid,
    stat: look,
    readMagic: async (file) => (options.strictFiles && !assumeFiles ? readStart(onDisk(file)) : undefined),
    runScript: async (run) => {
      const found = await findScript(run.script, options.scriptDir);
      if (typeof found === 'string') return runProcess(options, run, found, nextPid);
      return { pid: nextPid(), status: await found(io, run) };
    },
    readUserdata: (name) => readUserdata(path.join(userdataDir, path.basename(name))),
    writeUserdata: (name, contents) => writeUserdata(userdataDir, path.basename(name), contents),
    createFile,
    lockUserdata: (domid, uuid) => takeLockFile(userdataLock(userdataDir, domid, uuid), clock),
    lockName: (name) => takeLockFile(nameLock(userdataDir, name), clock),
    isDomidRecent: history.isRecent,
    markDomidRecent: history.mark,
    removeUserdata: (domid, uuid) => removeUserdata(userdataDir, domid, uuid),
  };
}

/** A file for a core. Its path is as given: it is the user's, or that of the host's dump directory. */
const createFile: Host['createFile'] = async (file) => {
  try {
    const handle = await open(file, 'w+', 0o600);
    return {
      file: {
        write: async (bytes, at) => void (await handle.write(bytes, 0, bytes.length, at)),
        close: () => handle.close(),
      },
    };
  } catch (error) {
    const { errno = -5, code = 'EIO' } = error as NodeJS.ErrnoException;
    return { errno: Math.abs(errno), words: execWords[code] ?? getSystemErrorMap().get(errno)?.[1] ?? code };
  }
};

/** The script of that path: one of the same name in `XEN_SCRIPT_DIR`, a built-in one, or the file itself. */
async function findScript(script: string, scriptDir: string | undefined): Promise<string | BuiltinScript> {
  if (scriptDir && path.dirname(script) === XEN_SCRIPT_DIR) {
    const own = path.join(scriptDir, path.basename(script));
    // One that may not be run is told so, as where it is the host's.
    if (await isThere(own)) return own;
  }
  const builtin = path.dirname(script) === XEN_SCRIPT_DIR ? builtinScripts.get(path.basename(script)) : undefined;
  return builtin ?? script;
}

function isThere(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

/** How long a script has to be gone after it was killed. One that is not is stuck in the kernel, or not ours to kill. */
const killedWaitMs = 5_000;

const signalWords: Readonly<Record<string, string>> = {
  SIGABRT: 'Aborted',
  SIGHUP: 'Hangup',
  SIGINT: 'Interrupt',
  SIGKILL: 'Killed',
  SIGPIPE: 'Broken pipe',
  SIGSEGV: 'Segmentation fault',
  SIGTERM: 'Terminated',
};

/**
 * Runs an executable as libxl does: its variables on top of ours, nothing to read, its output where our errors go.
 * It leads a process group, so that at the deadline its children die with it. One that cannot be run ends with 255.
 * Whoever waits here may be dom0d's monitor, so nothing that befalls a script is thrown.
 */
async function runProcess(options: SystemHostOptions, run: ScriptRun, file: string, nextPid: () => number): Promise<ScriptEnd> {
  const log = options.scriptLog === undefined ? undefined : await open(options.scriptLog, 'a', 0o644).catch(() => undefined);
  try {
    return await runExecutable(options, run, file, nextPid, log);
  } finally {
    await log?.close();
  }
}

async function runExecutable(
  options: SystemHostOptions,
  run: ScriptRun,
  file: string,
  nextPid: () => number,
  log: FileHandle | undefined,
): Promise<ScriptEnd> {
  const cannotExecute = async (code: string | undefined, childPid = nextPid()): Promise<ScriptEnd> => {
    const line = `libxl: cannot execute ${run.script}: ${execWords[code ?? ''] ?? code}\n`;
    if (log) await log.write(line);
    else process.stderr.write(line);
    return { pid: childPid, status: 255 };
  };
  const refused = await access(file, constants.X_OK).then(
    () => undefined,
    (error: NodeJS.ErrnoException) => error.code,
  );
  if (refused !== undefined) return cannotExecute(refused);
  const { xenstoredPath, clock = new SystemClock() } = options;
  const env = { ...run.env, ...(xenstoredPath === undefined ? {} : { XENSTORED_PATH: xenstoredPath }) };
  // Loaded only here: it takes longer than most commands, and the built-in scripts do without.
  const { execa } = await import('execa');
  // execa's types know of no descriptor but the first three; it takes any.
  const errors = (log?.fd ?? 2) as 2;
  const child = execa(file, run.args, { env, stdin: 'ignore', stdout: errors, stderr: errors, detached: true, reject: false });
  const childPid = child.pid ?? nextPid();
  let timedOut = false;
  let cancel = () => {};
  const givenUp = new Promise<'stuck'>((stuck) => {
    cancel = clock.after(run.timeoutMs, () => {
      timedOut = true;
      if (child.pid !== undefined) killGroup(child.pid);
      cancel = clock.after(killedWaitMs, () => stuck('stuck'));
    });
  });
  const end = await Promise.race([child, givenUp]);
  cancel();
  if (timedOut || end === 'stuck') return { pid: childPid, timedOut: true };
  // The interpreter of a script that is there may be missing.
  if (child.pid === undefined) return cannotExecute(end.code, childPid);
  if (end.signal !== undefined) return { pid: childPid, signal: signalWords[end.signal] ?? end.signal };
  return { pid: childPid, status: end.exitCode ?? 255 };
}

const execWords: Readonly<Record<string, string>> = {
  EACCES: 'Permission denied',
  EISDIR: 'Is a directory',
  ENOSPC: 'No space left on device',
  EROFS: 'Read-only file system',
  ELOOP: 'Too many levels of symbolic links',
  ENOENT: 'No such file or directory',
  ENOTDIR: 'Not a directory',
};

/** Kills the script and its children, as far as they are there and ours to kill. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // ESRCH: it has just ended. EPERM: it became another user's, and is told as one that timed out all the same.
  }
}

function isErrno(error: unknown, ...codes: readonly string[]): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && codes.includes(String(error.code));
}

/** A path as the machine's bytes, which need not be UTF-8. */
function pathOf(text: string): Buffer {
  return Buffer.from(byteString(text), 'latin1');
}

/** What a path is on this machine; undefined for what cannot be reached. */
async function statFile(file: string): Promise<FileStat | undefined> {
  const found = await stat(pathOf(file)).catch(() => undefined);
  if (!found) return undefined;
  if (found.isFile()) return { kind: 'file', bytes: found.size };
  if (!found.isBlockDevice()) return { kind: 'other' };
  // Linux's encoding of a device number: 12 bits of major between 8 and 12 bits of minor.
  const major = (found.rdev >> 8) & 0xfff;
  const minor = (found.rdev & 0xff) | ((found.rdev >> 12) & 0xfff00);
  const sectors = await readFile(`/sys/dev/block/${major}:${minor}/size`, 'latin1').catch(() => '0');
  return { kind: 'block', major, minor, bytes: Number.parseInt(sectors, 10) * 512 };
}

async function readStart(file: string): Promise<Uint8Array | undefined> {
  const handle = await open(pathOf(file), 'r').catch(() => undefined);
  if (!handle) return undefined;
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(kernelMagicBytes), 0, kernelMagicBytes, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}

async function readUserdata(file: string): Promise<string | undefined> {
  try {
    return losslessText(await readFile(file, 'latin1'));
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Written under the name of a new file (`userdata-n`) and moved into place, so that a reader finds the old or the new. */
async function writeUserdata(dir: string, name: string, contents: string): Promise<void> {
  const fresh = path.join(dir, name.replace(/^userdata-d\./, 'userdata-n.'));
  await mkdir(dir, { mode: 0o700 }).catch((error: unknown) => {
    if (!isErrno(error, 'EEXIST')) throw error;
  });
  await writeFile(fresh, byteString(contents), { mode: 0o600, encoding: 'latin1' });
  await rename(fresh, path.join(dir, name));
}

function userdataLock(dir: string, domid: number, uuid: string): string {
  return path.join(dir, `userdata-l.${domid}.${uuid}.domain-userdata-lock`);
}

/** A name may have any bytes, and be longer than a file's. */
function nameLock(dir: string, name: string): string {
  return path.join(dir, `name-lock.${createHash('sha256').update(name, 'latin1').digest('hex')}`);
}

/** All but the lock, which whoever removes them has. */
async function removeUserdata(dir: string, domid: number, uuid: string): Promise<void> {
  const keep = path.basename(userdataLock(dir, domid, uuid));
  const names = await readdir(dir).catch((error: unknown) => {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  });
  for (const name of names) {
    const [kind, owner, of] = name.split('.');
    const mine = kind?.startsWith('userdata-') && owner === String(domid) && of === uuid && name !== keep;
    if (mine) await rm(path.join(dir, name), { force: true });
  }
}
