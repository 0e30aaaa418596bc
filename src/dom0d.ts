/**
 * dom0d: the embedded dom0 as a process. It boots one on the system clock, listens, and hosts the monitors.
 *
 * The composition root: it knows every part, and nothing imports it. `xl` starts it detached; it says on a pipe that it
 * listens, or why it does not. It ends by SIGTERM, by `xl dom0 stop`, when its run directory is gone, and after its idle
 * time (ten minutes unless `--idle` says otherwise: long enough for a pause between two commands of a person or a
 * script, short enough that what a test forgot goes away) without a guest and without a client.
 */
import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { appendFile, open } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { parseTimeoutScale } from './cli/argv.js';
import { type Ctx, LogLevel, logLine } from './libxl/ctx.js';
import { systemHost } from './libxl/hotplug.js';
import { type Monitored, startMonitor } from './libxl/monitor.js';
import { version } from './version.js';
import { type Clock, SystemClock } from './xenbus/clock.js';
import { Dom0 } from './xenbus/dom0.js';
import { type GuestListener, type GuestSockets, guestSockets } from './xenbus/guest-sockets.js';
import { hungTaskTimeoutMs } from './xenbus/kernel/hung-task.js';
import { defaultMachine, type MachineDescription, machineOf } from './xenbus/machine.js';
import { type HostView, type MonitorRequest, PrivcmdError, type PrivcmdHandlers, type Xc } from './xenbus/privcmd.js';
import { type PrivcmdServer, servePrivcmd } from './xenbus/privcmd-server.js';
import {
  guestDirs,
  guestSocketPath,
  identityOf,
  makeGuestDir,
  prepareRunDir,
  type RunDir,
  removeGuestDir,
  runDirAt,
  takeRight,
} from './xenbus/run-dir.js';
import { guestConnectionsMax, listenStore } from './xenbus/server.js';
import type { TraceLine } from './xenbus/trace.js';
import { linkTransport, type StorePeer, type StorePort, type Who } from './xenbus/transport.js';
import { backOffOf, xsClient } from './xenbus/xs-client.js';

/** Seconds without a guest and without a client after which dom0d ends, unless `--idle` says otherwise. */
const idleDefaultSeconds = 600;
/** How often the run directory is looked at. */
const watchRunDirMs = 1_000;
/** Older logs of a monitor that are kept, as libxl keeps them. */
const logsKeptMax = 10;
/** A log of dom0's own that is longer is moved aside at the next start. */
const logMaxBytes = 1024 * 1024;
/** Trace lines that wait to be written. Past the bound the disk is too slow for a trace, and the trace ends. */
const tracePendingMaxBytes = 64 * 1024 * 1024;

interface Dom0dOptions {
  readonly runDir: string;
  readonly cmdline: string;
  readonly host: HostView;
  readonly machine: MachineDescription;
  readonly trace: string | undefined;
  readonly idleMs: number;
  readonly readyFd: number | undefined;
  /** For the hung-task period, and for what monitors wait. */
  readonly timeoutScale: number;
}

/** An argument that cannot be followed; the message says why. */
class BadArguments extends Error {
  override readonly name = 'BadArguments';
}

/** Reads the command line. Relative paths are those of whoever started us. */
function parseDom0dArgs(argv: readonly string[]): Dom0dOptions {
  const { values } = parseOrRefuse(argv);
  if (values.journal !== undefined || values.fsync !== undefined) {
    const given = values.journal !== undefined ? '--journal' : '--fsync';
    throw new BadArguments(`${given} is not there yet: the store of this version lives in memory alone; start without it`);
  }
  const idle = values.idle === undefined ? idleDefaultSeconds : Number(values.idle);
  if (!Number.isFinite(idle) || idle < 0 || values.idle === '') {
    throw new BadArguments(`--idle ${values.idle}: give a number of seconds, 0 for never`);
  }
  const timeoutScale = parseTimeoutScale(process.env['XL_TIMEOUT_SCALE']);
  if (typeof timeoutScale === 'string') throw new BadArguments(timeoutScale);
  return {
    runDir: resolve(values['run-dir'] ?? '.'),
    cmdline: values.cmdline ?? 'xen_mtwatch',
    host: {
      root: resolve(values.root ?? '/'),
      assumeFiles: values['assume-files'] ?? false,
      strictFiles: values['strict-files'] ?? false,
      bridges: values.bridge ?? ['xenbr0'],
    },
    machine: values.host === undefined ? defaultMachine : readHost(values.host),
    trace: values.trace === undefined ? undefined : resolve(values.trace),
    idleMs: idle * 1000,
    readyFd: values['ready-fd'] === undefined ? undefined : Number(values['ready-fd']),
    timeoutScale,
  };
}

function parseOrRefuse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        'run-dir': { type: 'string' },
        'ready-fd': { type: 'string' },
        cmdline: { type: 'string' },
        root: { type: 'string' },
        'assume-files': { type: 'boolean' },
        'strict-files': { type: 'boolean' },
        bridge: { type: 'string', multiple: true },
        host: { type: 'string' },
        trace: { type: 'string' },
        idle: { type: 'string' },
        journal: { type: 'string' },
        fsync: { type: 'string' },
      },
    });
  } catch (error) {
    throw new BadArguments(error instanceof Error ? error.message : String(error));
  }
}

/** `--host FILE`: what the host is, as JSON; docs/host.md has the keys. */
function readHost(file: string): MachineDescription {
  const path = resolve(file);
  try {
    return machineOf(JSON.parse(readFileSync(path, 'utf8')));
  } catch (error) {
    throw new BadArguments(`--host ${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Runs dom0 until it is told to end; answers with the exit code. */
async function runDom0d(options: Dom0dOptions, log: (line: string) => void): Promise<number> {
  const dir = runDirAt(options.runDir);
  prepareRunDir(dir);
  const right = await takeRight(dir, 'dom0');
  if (!right) {
    announce(options.readyFd, { busy: true });
    log('another process is the dom0 of this run directory');
    return 0;
  }
  // Held for as long as there is a process: whoever gets it after us may be sure that we do nothing any more.
  process.on('exit', () => right.release());
  return serve(options, dir, log);
}

async function serve(options: Dom0dOptions, dir: RunDir, log: (line: string) => void): Promise<number> {
  const lost = lostDomains(dir);
  if (lost) log(`the dom0 before this one was killed; lost with it: ${lost}`);
  removeStale(dir);
  const clock = new SystemClock();
  const trace = options.trace === undefined ? undefined : await traceTo(options.trace, log);
  const dom0 = new Dom0({
    clock,
    cmdline: options.cmdline,
    host: options.host,
    machine: options.machine,
    log,
    ...(trace ? { trace: trace.write } : {}),
    hungTaskMs: hungTaskTimeoutMs * options.timeoutScale,
    introduced: (domid) => guests.introduced(domid),
    released: (domid) => guests.released(domid),
  });
  const clients = countClients(dom0, () => idle.look());
  const files = countClients(dom0.xenbus, () => idle.look());
  let isOurs = () => true;
  const guests: GuestSockets = guestSockets({
    listen: (domid, port) => listenAsGuest(dir, domid, port, log, () => isOurs()),
    port: clients.port,
    log,
  });
  let end: (why: string) => void = () => {};
  const ended = new Promise<string>((resolve) => {
    end = resolve;
  });
  const hosted = host({
    options,
    dir,
    clock,
    dom0,
    store: guests.introducing(dom0),
    trace,
    log,
    end: (why) => end(why),
    changed: () => idle.look(),
  });
  let privcmd: PrivcmdServer | undefined;
  const idle = idleTimer(
    options.idleMs,
    clock,
    () => dom0.domains === 0 && hosted.monitors === 0 && clients.open + files.open === 0 && (privcmd?.connections ?? 0) === 0,
    () => end(`${options.idleMs / 1000} s without a guest and a client`),
  );

  const store = guests.introducing(clients.port);
  const listeners = await Promise.all([
    listenStore(store, { path: dir.store.client, domid: 0, who: 'client', log }),
    listenStore(store, { path: dir.store.xl, domid: 0, who: 'xl', log }),
    listenStore(store, { path: dir.store.hotplug, domid: 0, who: 'hotplug', log }),
    listenStore(guests.introducing(files.port), { path: dir.xenbus, domid: 0, who: 'dom0-kernel', log }),
  ]);
  writeFileSync(dir.pidFile, `${process.pid}\n`, { mode: 0o600 });
  // What the boot began is done before anybody can ask.
  await dom0.settle();
  privcmd = await servePrivcmd({ path: dir.privcmd, version, handlers: hosted.handlers, log, changed: () => idle.look() });
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => end(signal));
  isOurs = ownership(dir);
  const watching = setInterval(() => {
    if (!isOurs()) end('the run directory is gone');
    else idle.look();
  }, watchRunDirMs);
  log(`listens in ${dir.path} (pid ${process.pid}, version ${version}, command line "${options.cmdline}")`);
  announce(options.readyFd, { ready: process.pid, ...(lost ? { lost } : {}) });
  idle.look();

  const why = await ended;
  log(`ends: ${why}`);
  clearInterval(watching);
  idle.stop();
  // To close a listening socket is to unlink its path, which is another dom0's by now if the directory is not ours.
  if (isOurs()) {
    await Promise.all(listeners.map((listener) => listener.close()));
    await guests.close();
    await privcmd.close();
    for (const file of socketsAndPid(dir)) rmSync(file, { force: true });
  }
  dom0.close();
  await trace?.close();
  return 0;
}

interface Hosting {
  readonly options: Dom0dOptions;
  readonly dir: RunDir;
  readonly clock: Clock;
  readonly dom0: Dom0;
  /** Where monitors connect. */
  readonly store: StorePort;
  readonly trace: TraceFile | undefined;
  readonly log: (line: string) => void;
  readonly end: (why: string) => void;
  /** Called when a monitor has ended. */
  readonly changed: () => void;
}

/** What dom0 answers, and what only its process can answer: for itself, its files and its monitors. */
function host(hosting: Hosting): { readonly handlers: PrivcmdHandlers; readonly monitors: number } {
  const { options, dir, clock, dom0, trace, end, changed } = hosting;
  const started = clock.now();
  /** What each monitor waits for now. */
  const monitors = new Map<object, Followed>();
  const sync = async () => {
    await trace?.flush();
    return null;
  };
  const handlers: PrivcmdHandlers = {
    ...dom0.handlers,
    'dom0.status': async () => {
      await sync();
      return {
        pid: process.pid,
        version,
        runDir: dir.path,
        cmdline: options.cmdline,
        xenwatch: dom0.design,
        domains: dom0.domains,
        connections: dom0.connections,
        upMs: Math.round(clock.now() - started),
        host: options.host,
        trace: options.trace ?? null,
        dead: dom0.dead,
      };
    },
    'dom0.sync': sync,
    'dom0.stop': () => {
      // The answer goes out first.
      setImmediate(() => end('`xl dom0 stop`'));
      return null;
    },
    'dom0.monitor': async (request) => {
      await follow({ ...request, log: `xl-${request.name.replaceAll('/', '%2F')}.log` });
      return { pid: process.pid };
    },
  };
  /** Starts a monitor, or goes on with one that another process had. */
  const follow = async (first: Followed, isNew = true) => {
    const id = {};
    const { done } = await monitor(hosting, xcOf(handlers), first, isNew, (now) => monitors.set(id, now));
    void done.finally(() => {
      monitors.delete(id);
      changed();
    });
  };
  return {
    handlers,
    get monitors() {
      return monitors.size;
    },
  };
}

/** A directory with our socket in it; another one at the same path, or an emptied one, is not ours. */
function ownership(dir: RunDir): () => boolean {
  const home = identityOf(dir.path);
  const socket = identityOf(dir.privcmd);
  return () => identityOf(dir.path) === home && identityOf(dir.privcmd) === socket;
}

function socketsAndPid(dir: RunDir): string[] {
  return [dir.privcmd, dir.pidFile, dir.store.client, dir.store.xl, dir.store.hotplug, dir.xenbus];
}

/** Domains that are named at most when they are lost. */
const lostNamedMax = 10;

/**
 * The domains of a dom0 that was killed, by what it left: one that ended by itself has removed its pid file. A domain that
 * was still being created has no name yet.
 */
function lostDomains(dir: RunDir): string | undefined {
  if (!existsSync(dir.pidFile)) return undefined;
  const names = new Map(guestDirs(dir).map((domid) => [domid, `domain ${domid}`]));
  for (const file of readdirSync(dir.lib)) {
    const domid = /^userdata-d\.(\d+)\.[^.]+\.libxl-json$/.exec(file)?.[1];
    if (domid !== undefined) names.set(Number(domid), `${nameOf(join(dir.lib, file))} (${domid})`);
  }
  const lost = [...names].sort(([a], [b]) => a - b).map(([, name]) => name);
  if (lost.length === 0) return undefined;
  const more = lost.length - lostNamedMax;
  return `${lost.slice(0, lostNamedMax).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

/** The name in a saved config; one that cannot be read is nobody's loss by now. */
function nameOf(file: string): string {
  try {
    const { c_info } = JSON.parse(readFileSync(file, 'utf8').replace(/\0$/, '')) as { c_info?: { name?: unknown } };
    return String(c_info?.name ?? '(null)');
  } catch {
    return '(null)';
  }
}

/** What a dom0 left that was killed. Whoever holds the right may remove it. */
function removeStale(dir: RunDir): void {
  for (const file of socketsAndPid(dir)) rmSync(file, { force: true });
  for (const domid of guestDirs(dir)) removeGuestDir(dir, domid);
  // Its domains are gone with it, and so is what was saved of them. Anything else in there is not ours to remove.
  // Locks too, whoever had them, and which domids were used lately.
  const ours = ['userdata-', 'name-lock.', 'domid-history'];
  for (const name of readdirSync(dir.lib)) {
    if (ours.some((start) => name.startsWith(start))) rmSync(join(dir.lib, name), { force: true });
  }
}

/**
 * Listens where clients connect as a domain, below `guest/`. To close is to unlink: in a directory that is not ours any
 * more the socket stays, and ends with this process.
 */
async function listenAsGuest(
  dir: RunDir,
  domid: number,
  port: StorePort,
  log: (line: string) => void,
  isOurs: () => boolean,
): Promise<GuestListener> {
  makeGuestDir(dir, domid);
  try {
    const listener = await listenStore(port, {
      path: guestSocketPath(dir, domid),
      domid,
      who: 'client',
      log,
      connectionsMax: guestConnectionsMax,
    });
    return {
      close: () => {
        if (!isOurs()) return Promise.resolve();
        const closed = listener.close();
        removeGuestDir(dir, domid);
        return closed;
      },
    };
  } catch (error) {
    removeGuestDir(dir, domid);
    throw error;
  }
}

/** A store port that counts who came in through it. */
function countClients(port: StorePort, changed: () => void): { readonly port: StorePort; readonly open: number } {
  let open = 0;
  const connect = (peer: StorePeer) => {
    open += 1;
    let counted = true;
    const leave = () => {
      if (counted) open -= 1;
      counted = false;
      changed();
    };
    const link = port.connect({
      ...peer,
      closed: (reason) => {
        leave();
        peer.closed(reason);
      },
    });
    return {
      push: (packet: Parameters<typeof link.push>[0]) => link.push(packet),
      resume: () => link.resume(),
      end: () => link.end(),
      close: () => {
        leave();
        link.close();
      },
    };
  };
  return {
    port: { connect },
    get open() {
      return open;
    },
  };
}

/** Calls `over` when `isIdle` has been true for the whole time. 0 is never. */
function idleTimer(forMs: number, clock: Clock, isIdle: () => boolean, over: () => void) {
  let since: number | undefined;
  let cancel: (() => void) | undefined;
  const stop = () => {
    cancel?.();
    cancel = undefined;
    since = undefined;
  };
  const look = () => {
    if (forMs === 0) return;
    if (!isIdle()) return stop();
    if (since !== undefined) return;
    since = clock.now();
    cancel = clock.after(forMs, over);
  };
  return { look, stop };
}

/** The hypercalls as a monitor makes them: by function call, with errors as a client would have them. */
function xcOf(handlers: PrivcmdHandlers): Xc {
  return {
    call: async (op, args) => {
      const handler = handlers[op] as (args: unknown) => unknown;
      return (await handler(args)) as never;
    },
    close: () => undefined,
  };
}

/** All that a monitor is: plain data, from which it can be started again. */
interface Followed extends Monitored, Pick<MonitorRequest, 'verbosity'> {
  /** The name of its log. The first name of its domain is in it, whatever that is called later. */
  readonly log: string;
}

/**
 * Starts the monitor of a domain, with its own store connection and log; answers when it watches. `moved` is told what it
 * waits for, at first and whenever that changes. One that is not new goes on in the log that it has.
 */
async function monitor(
  { store, dir, options, clock, log }: Hosting,
  xc: Xc,
  request: Followed,
  isNew: boolean,
  moved: (now: Followed) => void,
): Promise<{ readonly done: Promise<void> }> {
  const file = join(dir.logs, request.log);
  if (isNew) rotate(file);
  makeLog(file);
  const print = (line: string) => {
    try {
      appendFileSync(file, `${line}\n`);
    } catch (error) {
      log(
        `monitor of domain ${request.domid}: ${line} (not in its log: ${error instanceof Error ? error.message : String(error)})`,
      );
    }
  };
  const connect = (who: Who) => xsClient(linkTransport(store, { domid: 0, who }), { backOff: backOffOf(clock) });
  const xs = connect('monitor');
  const least = Math.max(LogLevel.debug, LogLevel.progress - request.verbosity);
  const ctx: Ctx = {
    xs,
    xc,
    clock,
    host: systemHost({
      ...options.host,
      userdataDir: dir.lib,
      openXs: async () => connect('hotplug'),
      xc,
      pid: process.pid,
      scriptDir: process.env['XEN_SCRIPT_DIR'],
      xenstoredPath: dir.store.hotplug,
      scriptLog: file,
    }),
    timeoutScale: options.timeoutScale,
    log: (level, where, domid, message) => {
      if (LogLevel[level] >= least) print(logLine('libxl', level, where, domid, message));
    },
    xcLog: (line, level = 'error') => {
      if (LogLevel[level] >= least) print(line);
    },
  };
  try {
    const { verbosity } = request;
    const started = await startMonitor(ctx, request, print, (now) => moved({ ...now, verbosity, log: request.log }));
    moved(request);
    const done = started.done
      .then(() => undefined)
      .catch((error: unknown) => {
        log(`monitor of domain ${request.domid} failed: ${error instanceof Error ? error.stack : String(error)}`);
      })
      .finally(() => xs.close());
    return { done };
  } catch (error) {
    xs.close();
    throw new PrivcmdError(
      'EIO',
      `no monitor for domain ${request.domid}: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}

/** Like a log of xl's it may be read by all, as far as the directories above it let them. */
function makeLog(file: string): void {
  closeSync(openSync(file, 'a', 0o644));
  chmodSync(file, 0o644);
}

/** FILE becomes FILE.1, that FILE.2, and so on; the tenth is dropped. */
function rotate(file: string): void {
  if (!existsSync(file)) return;
  for (let number = logsKeptMax - 1; number >= 1; number--) {
    if (existsSync(`${file}.${number}`)) renameSync(`${file}.${number}`, `${file}.${number + 1}`);
  }
  renameSync(file, `${file}.1`);
}

interface TraceFile {
  readonly write: (line: TraceLine) => void;
  /** Resolves when every line so far is in the file. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** Appends lines in batches, one at a time. A write that fails ends the trace with one line in the log, and nothing else. */
async function traceTo(path: string, log: (line: string) => void): Promise<TraceFile> {
  const file = await open(path, 'a').catch((error: unknown) => {
    throw new BadArguments(`--trace ${path}: ${error instanceof Error ? error.message : String(error)}`);
  });
  let lines: string[] = [];
  let bytes = 0;
  let writing: Promise<void> | undefined;
  let over = false;

  const stop = (why: string) => {
    if (over) return;
    over = true;
    lines = [];
    log(`the trace ends: ${path}: ${why}`);
  };
  const drain = async () => {
    // One turn later there is more to write at once.
    await new Promise((next) => setImmediate(next));
    while (lines.length > 0 && !over) {
      const batch = `${lines.join('\n')}\n`;
      lines = [];
      bytes = 0;
      await appendFile(file, batch).catch((error: unknown) => stop(error instanceof Error ? error.message : String(error)));
    }
    writing = undefined;
  };
  const flush = async () => {
    while (writing) await writing;
  };
  return {
    write: (line) => {
      if (over) return;
      const text = JSON.stringify(line);
      lines.push(text);
      bytes += text.length;
      if (bytes > tracePendingMaxBytes) stop(`${tracePendingMaxBytes} bytes wait to be written`);
      else writing ??= drain();
    },
    flush,
    close: async () => {
      await flush();
      over = true;
      await file.close().catch(() => undefined);
    },
  };
}

/** `lost` says what was lost with the dom0 before. */
type Announcement = { ready: number; lost?: string } | { busy: true } | { error: string };

/** Tells who started us how it went, on the pipe that it gave us, and closes it. */
function announce(fd: number | undefined, what: Announcement): void {
  if (fd === undefined) {
    if ('error' in what) process.stderr.write(`dom0d: ${what.error}\n`);
    return;
  }
  try {
    writeSync(fd, `${JSON.stringify(what)}\n`);
    closeSync(fd);
  } catch {
    // Whoever started us is gone. The next command finds us by ourselves.
  }
}

function logToStdout(line: string): void {
  process.stdout.write(`${new Date().toISOString()} ${line}\n`);
}

async function main(): Promise<number> {
  process.title = 'dom0d';
  process.umask(0o077);
  const fd = readyFdOf(process.argv);
  try {
    const options = parseDom0dArgs(process.argv.slice(2));
    shortenLog(runDirAt(options.runDir));
    process.chdir('/');
    return await runDom0d(options, logToStdout);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    logToStdout(error instanceof BadArguments ? message : `${error instanceof Error ? error.stack : message}`);
    announce(fd, { error: message });
    return 1;
  }
}

/** Known before the arguments are read, so that their mistakes reach whoever made them. */
function readyFdOf(argv: readonly string[]): number | undefined {
  const at = argv.indexOf('--ready-fd');
  const fd = at < 0 ? Number.NaN : Number(argv[at + 1]);
  return Number.isInteger(fd) ? fd : undefined;
}

/** Our output goes to the file that was opened before; a long one is kept as dom0.log.1 for the next start. */
function shortenLog(dir: RunDir): void {
  const stats = statSync(dir.log, { throwIfNoEntry: false });
  if (!stats || stats.size < logMaxBytes) return;
  renameSync(dir.log, `${dir.log}.1`);
  chmodSync(`${dir.log}.1`, 0o600);
}

process.exitCode = await main();
// Timers of the model and connections of guests have no one to serve any more.
process.exit();
