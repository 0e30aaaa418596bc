/**
 * What a kernel prints when it is broken: a BUG, a bad pointer, a WARN, a stalled CPU, in the words of Linux 6.1
 * (arch/x86/kernel/dumpstack.c, kernel/panic.c, kernel/rcu/tree_stall.h).
 *
 * ```
 * kernel BUG at FILE:LINE!      the task dies; what it holds stays held; Tainted: G      D from then on
 * BUG: unable to handle page    the same
 * WARNING: CPU: 0 PID: 29 at    nobody dies; Tainted: G        W from then on
 * rcu: INFO: ... stall          a task spins on a lock that nobody gives back
 * ```
 *
 * Registers, code bytes, offsets and the hardware's name are left out: a model has none.
 */
import type { Ms } from '../clock.js';
import type { Kernel } from './kernel.js';
import { type KTask, procStack } from './sched.js';

/** `uname -r` and what stands behind it, as a hung task report has it. */
const release = '6.1.0-56-amd64';
export const releaseText = `${release} #1 Debian 6.1.192-2`;

/** Places of flags in `Tainted:`, of 19 (include/linux/panic.h): a task died, a WARN was met, a soft lockup. */
const taintPlaces = { D: 7, W: 9, L: 14 } as const;
const taintFlagsCount = 19;
type TaintFlag = keyof typeof taintPlaces;

/** What a kernel remembers of its misfortunes until it is booted anew. */
export interface Taint {
  readonly flags: Set<TaintFlag>;
  /** Tasks that have died so. */
  oopses: number;
}

export function untainted(): Taint {
  return { flags: new Set(), oopses: 0 };
}

/** `print_tainted`: a letter or a space for each flag; the first is G, no proprietary module. */
export function taintText({ flags }: Taint): string {
  if (flags.size === 0) return 'Not tainted';
  const letters: string[] = Array.from({ length: taintFlagsCount }, (_, place) => (place === 0 ? 'G' : ' '));
  for (const flag of flags) letters[taintPlaces[flag]] = flag;
  return `Tainted: ${letters.join('')}`;
}

/** The innermost function apart from those that called it. */
function framesOf(task: KTask): { readonly at: string; readonly callers: string[] } {
  const [at = 'unknown', ...callers] = procStack(task).map((line) => line.replace('[<0>] ', ''));
  return { at, callers };
}

function showRegs(taint: Taint, task: KTask): string[] {
  const { at, callers } = framesOf(task);
  return [
    `CPU: 0 PID: ${task.pid} Comm: ${task.comm} ${taintText(taint)} ${releaseText.replace('#1 ', '#1  ')}`,
    // The code segment of a kernel on Xen.
    `RIP: e030:${at}`,
    'Call Trace:',
    ' <TASK>',
    ...callers.map((name) => ` ${name}`),
    ' </TASK>',
  ];
}

const cutHere = '------------[ cut here ]------------';
const endTrace = '---[ end trace 0000000000000000 ]---';

/** `die`: `bug` is what the task met, `kernel BUG at FILE:LINE!` or `unable to handle page fault for address: N`. */
export function oopsText(taint: Taint, task: KTask, bug: string): string {
  taint.oopses += 1;
  const count = `0000 [#${taint.oopses}] PREEMPT SMP NOPTI`;
  const isTrap = bug.startsWith('kernel BUG');
  const lines = [
    ...(isTrap ? [cutHere, bug, `invalid opcode: ${count}`] : [`BUG: ${bug}`, `Oops: ${count}`]),
    ...showRegs(taint, task),
    endTrace,
    // What it dies with: each spinlock that it holds counts.
    ...(task.atomic > 0 ? [`note: ${task.comm}[${task.pid}] exited with preempt_count ${task.atomic}`] : []),
  ];
  taint.flags.add('D');
  return lines.join('\n');
}

/** `__warn`: `at` is FILE:LINE. */
export function warnText(taint: Taint, task: KTask, at: string): string {
  const place = `WARNING: CPU: 0 PID: ${task.pid} at ${at} ${framesOf(task).at}`;
  const lines = [cutHere, place, ...showRegs(taint, task), endTrace];
  taint.flags.add('W');
  return lines.join('\n');
}

/** CONFIG_HZ of Debian. */
const jiffiesPerSecond = 250;
/** CONFIG_RCU_CPU_STALL_TIMEOUT; again after three times as long. */
export const rcuStallMs = 21_000;
export const rcuStallAgainMs = 3 * rcuStallMs;

/** Reports tasks that spin on a lock: a processor that does nothing else lets no grace period end. */
export interface StallWatch {
  /** `task` is about to wait. */
  blocking(task: KTask): void;
  stop(): void;
}

export function watchRcuStalls(kernel: Kernel): StallWatch {
  const timers = new Map<KTask, () => void>();

  function look(task: KTask, afterMs: Ms, since: Ms): void {
    const { switches } = task;
    const late = () => {
      timers.delete(task);
      if (task.switches !== switches || !task.waitingOn) return;
      const jiffies = Math.round(((kernel.clock.now() - since) * jiffiesPerSecond) / 1000);
      const stall = ['rcu: INFO: rcu_sched self-detected stall on CPU', `\t(t=${jiffies} jiffies)`];
      kernel.printk([...stall, ...showRegs(kernel.taint, task)].join('\n'));
      look(task, rcuStallAgainMs, since);
    };
    timers.set(task, kernel.clock.after(afterMs, late));
  }

  return {
    blocking: (task) => {
      timers.get(task)?.();
      timers.delete(task);
      if (task.state === 'R' && task.home === kernel.home) look(task, rcuStallMs, kernel.clock.now());
    },
    stop: () => {
      for (const cancel of timers.values()) cancel();
    },
  };
}
