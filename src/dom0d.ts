/**
 * dom0d: the embedded dom0 as a process. It boots one on the system clock, listens, and hosts the monitors.
 *
 * The composition root: it knows every part, and nothing imports it. `xl` starts it detached; it says on a pipe that it
 * listens, or why it does not. It ends by SIGTERM, by `xl dom0 stop`, when its run directory is gone, and after its idle
 * time (ten minutes unless `--idle` says otherwise: long enough for a pause between two commands of a person or a
 * script, short enough that what a test forgot goes away) without a guest and without a client.
 */
import {
  chmodSync,
  closeSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { BadArguments, type Dom0dOptions, parseDom0dArgs } from './dom0d/arguments.js';
import { type Followed, type MonitorHost, startHosted, toolstack, xcOf } from './dom0d/monitors.js';
import { type TraceFile, traceTo } from './dom0d/trace-file.js';
import { recover } from './libxl/recover.js';
import { version } from './version.js';
import { type Clock, SystemClock } from './xenbus/clock.js';
import { Dom0 } from './xenbus/dom0.js';
import { type GuestListener, type GuestSockets, guestSockets } from './xenbus/guest-sockets.js';
import { type Journal, JournalError, openJournal } from './xenbus/journal.js';
import type { Kept } from './xenbus/keep.js';
import { hungTaskTimeoutMs } from './xenbus/kernel/hung-task.js';
import type { PrivcmdHandlers } from './xenbus/privcmd.js';
import { type PrivcmdServer, servePrivcmd } from './xenbus/privcmd-server.js';
import {
  guestDirs,
  guestSocketPath,
  identityOf,
  makeDir,
  makeGuestDir,
  prepareRunDir,
  type RunDir,
  removeGuestDir,
  runDirAt,
  takeRight,
} from './xenbus/run-dir.js';
import { guestConnectionsMax, listenStore } from './xenbus/server.js';
import type { StorePeer, StorePort } from './xenbus/transport.js';

/** How often the run directory is looked at. */
const watchRunDirMs = 1_000;
/** A log of dom0's own that is longer is moved aside at the next start. */
const logMaxBytes = 1024 * 1024;
/** How long a start waits until what was half done is finished. It goes on beside the first commands then. */
const recoverWaitMs = 2_000;
/** Lines about the life before that are remembered. */
const recoveryLinesMax = 1_000;
/** Keys of what dom0d itself keeps: of each monitor, and of what it was told the host is. */
const monitorKey = 'monitor/';
const hostKey = 'host';

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
  const clock = new SystemClock();
  const kept = options.journal === undefined ? undefined : await journalAt(options.journal, options, dir, log);
  const recoveredDomids = domidsIn(kept?.journal);
  const lost = lostDomains(dir, recoveredDomids);
  if (lost) log(`the dom0 before this one was killed; lost with it: ${lost}`);
  removeStale(dir, recoveredDomids);
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
    ...(kept ? { keep: kept.journal, recovered: kept.journal.recovered, commit: kept.commit } : {}),
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
    kept,
    log,
    end: (why) => end(why),
    changed: () => idle.look(),
  });
  for (const { domid } of kept?.journal.recovered.size ? dom0.introduced : []) guests.introduced(domid);
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
  if (kept) writeFileSync(dir.argsFile, `${JSON.stringify(options.again)}\n`, { mode: 0o600 });
  else rmSync(dir.argsFile, { force: true });
  // What the boot began is done before anybody can ask.
  await dom0.settle();
  await guests.opened();
  if (kept?.recovery) {
    // The host is fully back when its domains are: what a stalled one still holds up must not keep everybody out.
    await Promise.race([hosted.recover(), clock.sleep(recoverWaitMs)]);
  }
  privcmd = await servePrivcmd({ path: dir.privcmd, version, handlers: hosted.handlers, log, changed: () => idle.look() });
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => end(signal));
  isOurs = ownership(dir);
  const watching = setInterval(() => {
    if (!isOurs()) end('the run directory is gone');
    else idle.look();
    kept?.look();
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
  kept?.journal.close();
  await trace?.close();
  return 0;
}

interface Hosting extends MonitorHost {
  readonly dom0: Dom0;
  readonly trace: TraceFile | undefined;
  readonly kept: KeptHere | undefined;
  readonly end: (why: string) => void;
  /** Called when a monitor has ended. */
  readonly changed: () => void;
}

/** What dom0 answers, and what only its process can answer: for itself, its files and its monitors. */
function host(hosting: Hosting): {
  readonly handlers: PrivcmdHandlers;
  readonly monitors: number;
  /** Goes on with what the life before has left. */
  recover(): Promise<void>;
} {
  const { options, dir, clock, dom0, trace, kept, end, changed, log } = hosting;
  const started = clock.now();
  /** What each monitor waits for now. */
  const monitors = new Map<number, Followed>();
  const keptMonitors = [...(kept?.journal.recovered ?? [])].flatMap(([key, value]) =>
    key.startsWith(monitorKey) ? [{ id: Number(key.slice(monitorKey.length)), monitor: value as unknown as Followed }] : [],
  );
  // Those that are to go on keep their numbers, whoever asks for another one before they do.
  let lastMonitor = Math.max(0, ...keptMonitors.map(({ id }) => id));
  const sync = async () => {
    await trace?.flush();
    return null;
  };
  const handlers: PrivcmdHandlers = committing(kept, {
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
        journal: kept
          ? {
              dir: kept.dir,
              fsync: options.fsync,
              bytes: kept.journal.bytes,
              recovery: kept.recovery ? [...kept.recovery] : null,
            }
          : null,
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
      lastMonitor += 1;
      await follow(lastMonitor, { ...request, log: `xl-${request.name.replaceAll('/', '%2F')}.log` });
      return { pid: process.pid };
    },
  });
  const say = (line: string) => {
    log(`recovery: ${line}`);
    if (kept?.recovery && kept.recovery.length < recoveryLinesMax) kept.recovery.push(line);
  };
  /** Starts a monitor, or goes on with one that another process had. */
  const follow = async (id: number, first: Followed, isNew = true) => {
    const moved = (now: Followed) => {
      monitors.set(id, now);
      kept?.journal.set(monitorKey + id, now as unknown as Kept);
    };
    const { done } = await startHosted(hosting, xcOf(handlers), first, isNew, moved);
    void done.finally(() => {
      monitors.delete(id);
      kept?.journal.delete(monitorKey + id);
      kept?.commit();
      changed();
    });
  };
  return {
    handlers,
    recover: async () => {
      const { ctx, xs } = toolstack(hosting, xcOf(handlers), 'monitor', 0, (line) => log(`recovery: ${line}`), dir.log);
      try {
        await recover(ctx, say);
        for (const { id, monitor: before } of keptMonitors) await follow(id, before, false);
      } catch (error) {
        say(`was not finished: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
      } finally {
        xs.close();
      }
    },
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
function lostDomains(dir: RunDir, recovered: ReadonlySet<number>): string | undefined {
  if (!existsSync(dir.pidFile)) return undefined;
  const names = new Map(guestDirs(dir).map((domid) => [domid, `domain ${domid}`]));
  for (const file of readdirSync(dir.lib)) {
    const domid = /^userdata-d\.(\d+)\.[^.]+\.libxl-json$/.exec(file)?.[1];
    if (domid !== undefined) names.set(Number(domid), `${nameOf(join(dir.lib, file))} (${domid})`);
  }
  for (const domid of recovered) names.delete(domid);
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

/**
 * Removes what a dom0 left that was killed: whoever holds the right may. What was saved of a domain stays if the domain is
 * `recovered`, and is gone with it if not; anything else in there is not ours to remove.
 */
function removeStale(dir: RunDir, recovered: ReadonlySet<number>): void {
  for (const file of socketsAndPid(dir)) rmSync(file, { force: true });
  for (const domid of guestDirs(dir)) removeGuestDir(dir, domid);
  // Locks too, whoever had them, and which domids were used lately, unless domids go on from there.
  const ours = recovered.size > 0 ? ['userdata-', 'name-lock.'] : ['userdata-', 'name-lock.', 'domid-history'];
  for (const name of readdirSync(dir.lib)) {
    if (name.startsWith('userdata-') && recovered.has(Number(name.split('.')[1]))) continue;
    if (ours.some((start) => name.startsWith(start))) rmSync(join(dir.lib, name), { force: true });
  }
}

/** A journal with what goes on around it. */
interface KeptHere {
  readonly dir: string;
  readonly journal: Journal;
  /** Writes what was kept. A journal that cannot be written ends this process, before anything that depends on it leaves it. */
  readonly commit: () => void;
  /** Sees to it that the file is where it belongs; the same end if it cannot be. */
  readonly look: () => void;
  /** What was done about the life before; undefined when there was none. */
  readonly recovery: string[] | undefined;
}

/** Opens the journal of a directory, which this process has for itself then. */
async function journalAt(path: string, options: Dom0dOptions, dir: RunDir, log: (line: string) => void): Promise<KeptHere> {
  try {
    makeDir(path);
  } catch (error) {
    throw new BadArguments(`--journal ${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const right = await takeRight(runDirAt(path), 'journal');
  if (!right) throw new BadArguments(`--journal ${path}: another dom0 writes there; give another directory`);
  process.on('exit', () => right.release());
  let journal: Journal;
  try {
    journal = openJournal({ dir: path, fsync: options.fsync, log });
  } catch (error) {
    if (error instanceof JournalError) throw new BadArguments(`--journal: ${error.message}`);
    throw error;
  }
  const isNew = journal.recovered.size === 0;
  if (!isNew) checkHost(path, journal, options, dir, log);
  journal.set(hostKey, hostOf(options, dir));
  const recovery = isNew ? undefined : [`${domidsIn(journal).size - 1} domains, from ${path}`];
  if (journal.tornBytes > 0) {
    const line = `the journal ended in ${journal.tornBytes} bytes that are no whole record; they are cut off, nobody was told of them`;
    recovery?.push(line);
    log(line);
  }
  const orEnd = (write: () => void) => {
    try {
      write();
    } catch (error) {
      log(`ends at once: ${error instanceof Error ? error.message : String(error)}; what is not in the journal was not answered`);
      process.exit(1);
    }
  };
  const commit = () => orEnd(() => journal.commit());
  const look = () => orEnd(() => journal.look());
  return { dir: path, journal, commit, look, recovery };
}

function hostOf({ machine, host }: Dom0dOptions, dir: RunDir) {
  const { nrCpus, totalKb, xenKb, dom0Kb, dom0MaxKb, dom0Vcpus } = machine;
  return { machine: { nrCpus, totalKb, xenKb, dom0Kb, dom0MaxKb, dom0Vcpus }, root: host.root, lib: dir.lib };
}

/** Domains do not move to another host by themselves, and their configs lie in their run directory. */
function checkHost(path: string, journal: Journal, options: Dom0dOptions, dir: RunDir, log: (line: string) => void): void {
  const before = journal.recovered.get(hostKey) as ReturnType<typeof hostOf>;
  const now = hostOf(options, dir);
  if (before.lib !== now.lib) {
    throw new BadArguments(
      `--journal ${path}: it is that of the run directory of ${before.lib}; set XL_RUN_DIR to it, or give another directory`,
    );
  }
  const differs = Object.entries(now.machine).filter(
    ([name, value]) => before.machine[name as keyof typeof now.machine] !== value,
  );
  if (differs.length > 0) {
    const was = differs.map(([name]) => `${name} ${before.machine[name as keyof typeof now.machine]}`).join(', ');
    const is = differs.map(([name, value]) => `${name} ${value}`).join(', ');
    throw new BadArguments(
      `--journal ${path}: it is of a host with ${was}, and this one has ${is}; give the same --host, or another directory`,
    );
  }
  if (before.root !== now.root)
    log(`the files of configs are looked up below ${now.root} now; the domains from the journal had ${before.root}`);
}

/** The domains in a journal, dom0 among them. */
function domidsIn(journal: Journal | undefined): ReadonlySet<number> {
  const keys = [...(journal?.recovered.keys() ?? [])];
  return new Set(keys.flatMap((key) => /^domain\/(\d+)$/.exec(key)?.[1] ?? []).map(Number));
}

/** What an operation has changed is in the journal before it is answered. */
function committing(kept: KeptHere | undefined, handlers: PrivcmdHandlers): PrivcmdHandlers {
  if (!kept) return handlers;
  const wrapped = Object.entries(handlers).map(([op, handler]) => {
    const run = handler as (args: unknown) => unknown;
    return [
      op,
      (args: unknown) => {
        try {
          const result = run(args);
          return result instanceof Promise ? result.finally(kept.commit) : result;
        } finally {
          kept.commit();
        }
      },
    ];
  });
  return Object.fromEntries(wrapped) as PrivcmdHandlers;
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
