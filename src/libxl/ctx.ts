/**
 * What every libxl function is given: the two clients of dom0, the clock, the host's files and the log.
 *
 * libxl knows the world through this alone, so the same code runs in the `xl` process, in a monitor inside dom0d and
 * in a test on virtual time.
 */
import type { Clock } from '../xenbus/clock.js';
import type { Xc } from '../xenbus/privcmd.js';
import type { Xs } from '../xenbus/xs-client.js';
import type { CoreFile } from './core-dump.js';

/** libxl's error numbers (libxl_types.idl). `xl create` exits with minus the number. */
export const Rc = {
  NONSPECIFIC: -1,
  VERSION: -2,
  FAIL: -3,
  NI: -4,
  NOMEM: -5,
  INVAL: -6,
  BADFAIL: -7,
  GUEST_TIMEDOUT: -8,
  TIMEDOUT: -9,
  NOPARAVIRT: -10,
  NOT_READY: -11,
  LOCK_FAIL: -15,
  JSON_CONFIG_EMPTY: -16,
  DEVICE_EXISTS: -17,
  DOMAIN_NOTFOUND: -21,
  ABORTED: -22,
  NOTFOUND: -23,
} as const;
export type Rc = (typeof Rc)[keyof typeof Rc];

/** A failed operation. The line that explains it has been logged where it failed; this carries the code upwards. */
export class LibxlError extends Error {
  override readonly name = 'LibxlError';

  constructor(
    readonly rc: Rc,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

export const LogLevel = {
  debug: 1,
  verbose: 2,
  detail: 3,
  progress: 4,
  info: 5,
  notice: 6,
  warn: 7,
  error: 8,
  critical: 9,
} as const;
export type LogLevel = keyof typeof LogLevel;

/**
 * `libxl: error: libxl_device.c:1181:device_backend_callback: Domain 2:unable to ...`: `where` is 4.17's own
 * file:line:function, `domid` is left out where libxl has none.
 */
export type Log = (level: LogLevel, where: string, domid: number | undefined, message: string) => void;

/** Where libxl's lines go: `context` is `libxl`, `xc` or `domainbuilder`. */
export function logLine(context: string, level: LogLevel, where: string, domid: number | undefined, message: string): string {
  const location = where ? `${where}: ` : '';
  const domain = domid !== undefined && domid > 0 && domid < 0x7ff0 ? `Domain ${domid}:` : '';
  return `${context}: ${level === 'warn' ? 'warning' : level}: ${location}${domain}${message}`;
}

/** What a file of a config turned out to be. */
export type FileStat =
  | { readonly kind: 'file'; readonly bytes: number }
  | { readonly kind: 'block'; readonly major: number; readonly minor: number; readonly bytes: number }
  /** Taken on trust under `--assume-files`: a block device under /dev, a file elsewhere. */
  | { readonly kind: 'assumed'; readonly block: boolean }
  | { readonly kind: 'other' };

export interface ScriptRun {
  readonly script: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
}

/** How a script ended: by itself, by a signal of somebody's, or killed at its deadline. */
export type ScriptEnd =
  | { readonly pid: number; readonly status: number }
  | { readonly pid: number; readonly signal: string }
  | { readonly pid: number; readonly timedOut: true };

/** As much of a kernel as tells its format: the setup header of a bzImage ends its magic at 0x206. */
export const kernelMagicBytes = 0x206;

/** The machine that libxl runs on. In memory in a test. */
export interface Host {
  readonly pid: number;
  /** The file at `path`, seen through dom0's root; undefined when there is none. */
  stat(path: string): Promise<FileStat | undefined>;
  /** The first bytes of a kernel, up to `kernelMagicBytes`; undefined where contents are not to be looked at. */
  readMagic(path: string): Promise<Uint8Array | undefined>;
  /** Runs a hotplug script: a built-in one, or a real executable. */
  runScript(run: ScriptRun): Promise<ScriptEnd>;
  /** Userdata: files that outlive the command, by name (`userdata-d.1.UUID.libxl-json`). */
  readUserdata(name: string): Promise<string | undefined>;
  writeUserdata(name: string, contents: string): Promise<void>;
  /** Makes a file for a core, mode 0600, in place of what is there; or says why it cannot, as errno and strerror(3) have it. */
  createFile(path: string): Promise<{ readonly file: CoreFile } | { readonly errno: number; readonly words: string }>;
  /** Keeps other toolstacks from changing the domain's saved config, until the answer is called. */
  lockUserdata(domid: number, uuid: string): Promise<() => Promise<void>>;
  /** Keeps other toolstacks from giving the same name to another domain, until the answer is called. */
  lockName(name: string): Promise<() => Promise<void>>;
  /** Whether a domain with that domid was destroyed lately, by whatever toolstack. */
  isDomidRecent(domid: number): Promise<boolean>;
  markDomidRecent(domid: number): Promise<void>;
  /** Removes every userdata file whose name has this domid and uuid, but for the lock. */
  removeUserdata(domid: number, uuid: string): Promise<void>;
}

/** Something that libxl waits for. */
export interface Wait {
  /** A node of the store, or a script and its argument. */
  readonly on: string;
  /** When it gives up, from now on; absent: it does not. */
  readonly timeoutMs?: number;
}

/** Who shows a person how an operation goes on. */
export interface Progress {
  /** libxl's own function, as in `AoStep`. */
  step(name: string): void;
  /** Begins a wait; what it returns ends it. */
  wait(wait: Wait): () => void;
}

export interface Ctx {
  readonly xs: Xs;
  readonly xc: Xc;
  readonly clock: Clock;
  readonly host: Host;
  /** Scales libxl's waits (`XL_TIMEOUT_SCALE`). */
  readonly timeoutScale: number;
  /** libxl's own lines. */
  readonly log: Log;
  readonly progress?: Progress;
  /** Lines of libxenctrl and the domain builder (`xc: error: panic: ...`); an error unless another level is given. */
  readonly xcLog: (line: string, level?: LogLevel) => void;
}

/** libxl's waits, in milliseconds, before scaling (libxl_internal.h of 4.17). */
export const LIBXL_INIT_TIMEOUT = 10_000;
export const LIBXL_DESTROY_TIMEOUT = 10_000;
export const LIBXL_HOTPLUG_TIMEOUT = 40_000;
export const LIBXL_DEVICE_MODEL_START_TIMEOUT = 60_000;
export const LIBXL_QEMU_BODGE_TIMEOUT = 2_000;
export const LIBXL_PVCONTROL_TIMEOUT = 60_000;
export const LIBXL_DOMID_REUSE_TIMEOUT = 60_000;
