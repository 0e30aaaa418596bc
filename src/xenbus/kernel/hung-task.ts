/**
 * khungtaskd: reports tasks that stay in D state (kernel/hung_task.c of Linux 6.1).
 *
 * Each period it looks at every task in D. One that has blocked anew since the last look is only noted; one that has
 * not moved for a whole period is reported with its stack, and again each period. So the first report comes one to two
 * periods after a task got stuck. After `hung_task_warnings` of them 6.1 says no more, and does not say that (that line
 * came with 6.3, and the one that names the owner of a mutex later still): `xl mtwatch show` tells who waits for whom.
 *
 * Both numbers are set on the kernel's command line as any sysctl is since 5.8: `sysctl.kernel.hung_task_timeout_secs=20`.
 */
import type { Ms } from '../clock.js';
import type { Kernel } from './kernel.js';
import { releaseText, taintText } from './oops.js';
import { type KTask, procStack, syscallEntry } from './sched.js';
import { sleepFrames } from './task-view.js';

/** sysctl kernel.hung_task_timeout_secs, in milliseconds. */
export const hungTaskTimeoutMs = 120_000;
/** sysctl kernel.hung_task_warnings. */
const hungTaskWarnings = 10;
/** A timer may come that much early: a tick of CONFIG_HZ=250. */
const tickMs = 4;

export interface HungTaskOptions {
  /** How long a task may be in D, and how often that is looked at; 0 is never. */
  readonly periodMs: Ms;
  /** Reports that are made in all; -1 is without an end. */
  readonly warnings: number;
}

/** What the words of a command line make of it. `scale` multiplies the period; what is wrong is printed as Linux does. */
export function hungTaskOptions(words: readonly string[], scale: number, printk: (text: string) => void): HungTaskOptions {
  const sysctl = (name: string, least: number, otherwise: number): number => {
    const word = words.findLast((each) => each.startsWith(`sysctl.kernel.${name}=`));
    const text = word?.slice(word.indexOf('=') + 1);
    if (text === undefined) return otherwise;
    if (/^-?\d{1,9}$/.test(text) && Number(text) >= least) return Number(text);
    printk(`Failed to set sysctl parameter 'kernel.${name}=${text}': invalid value`);
    return otherwise;
  };
  return {
    periodMs: sysctl('hung_task_timeout_secs', 0, hungTaskTimeoutMs / 1000) * 1000 * scale,
    warnings: sysctl('hung_task_warnings', -1, hungTaskWarnings),
  };
}

/** Starts looking; returns what stops it. */
export function watchHungTasks(kernel: Kernel, options: HungTaskOptions): () => void {
  const { periodMs } = options;
  const seen = new Map<KTask, { readonly switches: number; readonly since: Ms }>();
  let { warnings } = options;
  if (periodMs <= 0) return () => undefined;
  let cancel = kernel.clock.after(periodMs, look);

  function look(): void {
    const now = kernel.clock.now();
    for (const task of seen.keys()) if (task.exited || task.state !== 'D') seen.delete(task);
    for (const task of kernel.sched.tasks) {
      if (task.home !== kernel.home || task.state !== 'D') continue;
      const last = seen.get(task);
      if (last?.switches !== task.switches) seen.set(task, { switches: task.switches, since: now });
      else if (warnings !== 0) {
        if (warnings > 0) warnings -= 1;
        report(task, now - last.since);
      }
    }
    cancel = kernel.clock.after(periodMs, look);
  }

  function report(task: KTask, forMs: Ms): void {
    kernel.printk(
      [
        `INFO: task ${task.comm}:${task.pid} blocked for more than ${Math.floor((forMs + tickMs) / 1000)} seconds.`,
        `      ${taintText(kernel.taint)} ${releaseText}`,
        '"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.',
        ...showTask(task),
      ].join('\n'),
    );
  }

  return () => cancel();
}

/** `sched_show_task`: the task's line and its backtrace. */
export function showTask(task: KTask): string[] {
  const frames = procStack(task).map((line) => line.replace('[<0>] ', ''));
  const isUser = task.stack[0] === syscallEntry;
  const pid = String(task.pid).padEnd(5);
  const parent = isUser ? 'ppid:1      flags:0x00000002' : 'ppid:2      flags:0x00004000';
  return [
    `task:${task.comm.padEnd(15)} state:${task.state} stack:0     pid:${pid} ${parent}`,
    'Call Trace:',
    ' <TASK>',
    ...[...(task.state === 'R' ? [] : ['__schedule', 'schedule', ...sleepFrames(task)]), ...frames].map((name) => ` ${name}`),
    ' </TASK>',
  ];
}
