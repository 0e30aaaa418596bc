/**
 * Monitors, which a real `xl create` leaves behind as processes: libxl in this process, with a store connection and a log for
 * each. What a monitor does is `libxl/monitor.ts`.
 */
import { appendFileSync, chmodSync, closeSync, existsSync, openSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { type Ctx, LogLevel, logLine } from '../libxl/ctx.js';
import { systemHost } from '../libxl/hotplug.js';
import { type Monitored, startMonitor } from '../libxl/monitor.js';
import type { Clock } from '../xenbus/clock.js';
import { type MonitorRequest, PrivcmdError, type PrivcmdHandlers, type Xc } from '../xenbus/privcmd.js';
import type { RunDir } from '../xenbus/run-dir.js';
import { linkTransport, type StorePort, type Who } from '../xenbus/transport.js';
import { backOffOf, xsClient } from '../xenbus/xs-client.js';
import type { Dom0dOptions } from './arguments.js';

/** Older logs of a monitor that are kept, as libxl keeps them. */
const logsKeptMax = 10;

/** What monitors need of the process that hosts them. */
export interface MonitorHost {
  readonly options: Dom0dOptions;
  readonly dir: RunDir;
  readonly clock: Clock;
  /** Where monitors connect. */
  readonly store: StorePort;
  readonly log: (line: string) => void;
}

/** The hypercalls as a monitor makes them: by function call, with errors as a client would have them. */
export function xcOf(handlers: PrivcmdHandlers): Xc {
  return {
    call: async (op, args) => {
      const handler = handlers[op] as (args: unknown) => unknown;
      return (await handler(args)) as never;
    },
    close: () => undefined,
  };
}

/** libxl in this process, with its own store connection. `print` gets its lines. */
export function toolstack(
  { store, dir, options, clock }: MonitorHost,
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
export interface Followed extends Monitored, Pick<MonitorRequest, 'verbosity'> {
  /** The name of its log. The first name of its domain is in it, whatever that is called later. */
  readonly log: string;
}

/**
 * Starts the monitor of a domain, with its own store connection and log; answers when it watches. `moved` is told what it
 * waits for, at first and whenever that changes. One that is not new goes on in the log that it has.
 */
export async function startHosted(
  hosting: MonitorHost,
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
