/**
 * Processes of the toolstack on a simulated machine, each with a store connection and lines of its own, as every command and
 * every monitor of a real host has them.
 */
import { type Ctx, logLine } from '../../src/libxl/ctx.js';
import { type Monitored, startMonitor } from '../../src/libxl/monitor.js';
import type { Machine } from '../machine.js';
import { connections, traced, type Unit } from './requests.js';

export interface Process {
  readonly ctx: Ctx;
  /** What it has asked of the store, from a line of the trace on; `domid` is put aside as in `units`. */
  units(from?: number, domid?: number): Unit[];
  close(): void;
}

/** A process whose lines of the log go to `lines`. */
export async function startProcess(m: Machine, lines: string[]): Promise<Process> {
  const xs = m.connect('xl');
  const mark = `/tool/${m.trace.length}`;
  await xs.read(mark);
  const conn = m.trace.findLast(({ args }) => args[0] === mark)?.conn;
  const ctx: Ctx = {
    ...m.ctx,
    xs,
    log: (level, where, domid, text) => {
      if (level === 'error') lines.push(logLine('libxl', level, where, domid, text));
    },
  };
  return {
    ctx,
    units: (from = 0, domid = -1) =>
      connections(traced(m.trace.slice(from).filter((line) => line.conn === conn)), 'xl', domid)[0] ?? [],
    close: () => xs.close(),
  };
}

/** The monitor that `xl create` leaves behind, with xl's defaults for what it does. It ends by itself. */
export async function leaveMonitor(m: Machine, domid: number, name: string, log: string[]): Promise<Process> {
  const process = await startProcess(m, log);
  const actions: Monitored['actions'] = {
    poweroff: 'destroy',
    reboot: 'restart',
    crash: 'destroy',
    watchdog: 'destroy',
    softReset: 'soft-reset',
  };
  const { done } = await startMonitor(process.ctx, { domid, name, actions }, (line) => log.push(line));
  void done.then(process.close);
  return process;
}
