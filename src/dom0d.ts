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
import { recover } from './libxl/recover.js';
import { version } from './version.js';
import { type Clock, SystemClock } from './xenbus/clock.js';
import { Dom0 } from './xenbus/dom0.js';
import { type GuestListener, type GuestSockets, guestSockets } from './xenbus/guest-sockets.js';
import { type Fsync, type Journal, JournalError, openJournal } from './xenbus/journal.js';
import type { Kept } from './xenbus/keep.js';
import { hungTaskTimeoutMs } from './xenbus/kernel/hung-task.js';
import { defaultMachine, type MachineDescription, machineOf } from './xenbus/machine.js';
import { type HostView, type MonitorRequest, PrivcmdError, type PrivcmdHandlers, type Xc } from './xenbus/privcmd.js';
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
/** How long a start waits until what was half done is finished. It goes on beside the first commands then. */
const recoverWaitMs = 2_000;
/** Lines about the life before that are remembered. */
const recoveryLinesMax = 1_000;
/** Keys of what dom0d itself keeps: of each monitor, and of what it was told the host is. */
const monitorKey = 'monitor/';
const hostKey = 'host';
/** Trace lines that wait to be written. Past the bound the disk is too slow for a trace, and the trace ends. */
const tracePendingMaxBytes = 64 * 1024 * 1024;

interface Dom0dOptions {
  readonly runDir: string;
  readonly cmdline: string;
  readonly host: HostView;
  readonly machine: MachineDescription;
  readonly trace: string | undefined;
  /** The directory of the journal. */
  readonly journal: string | undefined;
  readonly fsync: Fsync;
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
  const { journal, fsync = 'always' } = values;
  if (fsync !== 'always' && fsync !== 'never') throw new BadArguments(`--fsync ${fsync}: give always or never`);
  if (values.fsync !== undefined && journal === undefined) {
    throw new BadArguments(`--fsync ${fsync}: there is no journal to write; give --journal DIR too`);
  }
  if (journal === '') throw new BadArguments('--journal: give a directory');
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
    journal: journal === undefined ? undefined : resolve(journal),
    fsync,
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

interface Hosting {
  readonly options: Dom0dOptions;
  readonly dir: RunDir;
  readonly clock: Clock;
  readonly dom0: Dom0;
  /** Where monitors connect. */
  readonly store: StorePort;
  readonly trace: TraceFile | undefined;
  readonly kept: KeptHere | undefined;
  readonly log: (line: string) => void;
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
    const { done } = await monitor(hosting, xcOf(handlers), first, isNew, moved);
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
  const commit = () => {
    try {
      journal.commit();
    } catch (error) {
      log(`ends at once: ${error instanceof Error ? error.message : String(error)}; what is not in the journal was not answered`);
      process.exit(1);
    }
  };
  return { dir: path, journal, commit, recovery };
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

/** libxl in this process, with its own store connection. `print` gets its lines. */
function toolstack(
  { store, dir, options, clock }: Hosting,
  xc: Xc,
  who: Who,
  verbosity: number,
  print: (line: string) => void,
  scriptLog: string,
): { readonly ctx: Ctx; readonly xs: Ctx['xs'] } {
  const connect = (as: Who) => xsClient(linkTransport(store, { domid: 0, who: as }), { backOff: backOffOf(clock) });
  const xs = connect(who);
  const least = Math.max(LogLevel.debug, LogLevel.progress - verbosity);
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
      scriptLog,
    }),
    timeoutScale: options.timeoutScale,
    log: (level, where, domid, message) => {
      if (LogLevel[level] >= least) print(logLine('libxl', level, where, domid, message));
    },
    xcLog: (line, level = 'error') => {
      if (LogLevel[level] >= least) print(line);
    },
  };
  return { ctx, xs };
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
  hosting: Hosting,
  xc: Xc,
  request: Followed,
  isNew: boolean,
  moved: (now: Followed) => void,
): Promise<{ readonly done: Promise<void> }> {
  const { dir, log } = hosting;
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
  const { ctx, xs } = toolstack(hosting, xc, 'monitor', request.verbosity, print, file);
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
