/**
 * khungtaskd: reports tasks that stay in D state (kernel/hung_task.c of Linux 6.1).
 *
 * Each period it looks at every task in D. One that has blocked anew since the last look is only noted; one that has
 * not moved for a whole period is reported with its stack. So the first report comes one to two periods after a task
 * got stuck, and there are at most `hung_task_warnings` of them.
 */
import type { Ms } from '../clock.js';
import type { Kernel } from './kernel.js';
import { type KTask, procStack } from './sched.js';

/** sysctl kernel.hung_task_timeout_secs, in milliseconds. */
export const hungTaskTimeoutMs = 120_000;
/** sysctl kernel.hung_task_warnings. */
const hungTaskWarnings = 10;

/** Starts looking; returns what stops it. */
export function watchHungTasks(kernel: Kernel, periodMs: Ms = hungTaskTimeoutMs): () => void {
  const seen = new Map<KTask, { readonly switches: number; readonly since: Ms }>();
  let warnings = hungTaskWarnings;
  let cancel = kernel.clock.after(periodMs, look);

  function look(): void {
    const now = kernel.clock.now();
    for (const task of seen.keys()) if (task.exited || task.state !== 'D') seen.delete(task);
    for (const task of kernel.sched.tasks) {
      if (task.home !== kernel.home || task.state !== 'D') continue;
      const last = seen.get(task);
      if (last?.switches !== task.switches) seen.set(task, { switches: task.switches, since: now });
      else if (warnings > 0 && now - last.since >= periodMs) {
        warnings -= 1;
        report(task, now - last.since);
      }
    }
    cancel = kernel.clock.after(periodMs, look);
  }

  function report(task: KTask, forMs: Ms): void {
    kernel.printk(
      [
        `INFO: task ${task.comm}:${task.pid} blocked for more than ${Math.floor(forMs / 1000)} seconds.`,
        '      Not tainted 6.1.0-56-amd64 #1 Debian 6.1.192-2',
        '"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.',
        `task:${task.comm.padEnd(15)} state:D stack:0     pid:${String(task.pid).padEnd(5)} ppid:2      flags:0x00004000`,
        'Call Trace:',
        ' <TASK>',
        ...['__schedule', 'schedule', ...procStack(task).map((line) => line.replace('[<0>] ', ''))].map((name) => ` ${name}`),
        ' </TASK>',
      ].join('\n'),
    );
  }

  return () => cancel();
}
