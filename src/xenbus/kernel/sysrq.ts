/**
 * The keys of sysrq, which the toolstack sends through `control/sysrq` (drivers/tty/sysrq.c of Linux 6.1).
 *
 * Which keys are allowed is `kernel.sysrq`: 1 is all, 0 none, else a mask. Debian's kernels are built with 0x1b6, which allows
 * no dump; `sysctl.kernel.sysrq=1` on the command line does. Of what the keys do, the lists of tasks are there.
 */
import { showTask } from './hung-task.js';
import type { Kernel } from './kernel.js';

/** CONFIG_MAGIC_SYSRQ_DEFAULT_ENABLE of Debian. */
export const sysrqMaskDefault = 0x1b6;

interface SysrqKey {
  /** As the help names it. */
  readonly help: string;
  readonly says: string;
  /** The bit of `kernel.sysrq` that allows it; 0: only 1 does. */
  readonly mask: number;
}

const log = 0x2;
const keyboard = 0x4;
const dump = 0x8;
const sync = 0x10;
const remount = 0x20;
const signal = 0x40;
const boot = 0x80;
const nice = 0x100;

const loglevel: SysrqKey = { help: 'loglevel(0-9)', says: 'Changing Loglevel', mask: log };
const keys: Readonly<Record<string, SysrqKey>> = {
  ...Object.fromEntries(Array.from('0123456789', (digit) => [digit, loglevel])),
  b: { help: 'reboot(b)', says: 'Resetting', mask: boot },
  c: { help: 'crash(c)', says: 'Trigger a crash', mask: dump },
  e: { help: 'terminate-all-tasks(e)', says: 'Terminate All Tasks', mask: signal },
  f: { help: 'memory-full-oom-kill(f)', says: 'Manual OOM execution', mask: signal },
  i: { help: 'kill-all-tasks(i)', says: 'Kill All Tasks', mask: signal },
  j: { help: 'thaw-filesystems(j)', says: 'Emergency Thaw of all frozen filesystems', mask: signal },
  k: { help: 'sak(k)', says: 'SAK', mask: keyboard },
  l: { help: 'show-backtrace-all-active-cpus(l)', says: 'Show backtrace of all active CPUs', mask: dump },
  m: { help: 'show-memory-usage(m)', says: 'Show Memory', mask: dump },
  n: { help: 'nice-all-RT-tasks(n)', says: 'Nice All RT Tasks', mask: nice },
  o: { help: 'poweroff(o)', says: 'Power Off', mask: boot },
  p: { help: 'show-registers(p)', says: 'Show Regs', mask: dump },
  q: { help: 'show-all-timers(q)', says: 'Show clockevent devices & pending hrtimers (no others)', mask: 0 },
  r: { help: 'unraw(r)', says: 'Keyboard mode set to system default', mask: keyboard },
  s: { help: 'sync(s)', says: 'Emergency Sync', mask: sync },
  t: { help: 'show-task-states(t)', says: 'Show State', mask: dump },
  u: { help: 'unmount(u)', says: 'Emergency Remount R/O', mask: remount },
  w: { help: 'show-blocked-tasks(w)', says: 'Show Blocked State', mask: dump },
  z: { help: 'dump-ftrace-buffer(z)', says: 'Dump ftrace buffer', mask: dump },
};

/** `kernel.sysrq` as the words of a command line set it. */
export function sysrqMask(words: readonly string[]): number {
  if (words.includes('sysrq_always_enabled')) return 1;
  const text = words.findLast((word) => word.startsWith('sysctl.kernel.sysrq='))?.split('=')[1];
  return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : sysrqMaskDefault;
}

/** `handle_sysrq`: says which key it was and does what it stands for, if it may. */
export function handleSysrq(kernel: Kernel, name: string, allowed: number): void {
  if (allowed === 0) return;
  const key = Object.hasOwn(keys, name) ? keys[name] : undefined;
  if (!key) {
    kernel.printk(`sysrq: HELP : ${[...new Set(Object.values(keys).map(({ help }) => help))].join(' ')} `);
    return;
  }
  if (allowed !== 1 && (allowed & key.mask) === 0) {
    kernel.printk('sysrq: This sysrq operation is disabled.');
    return;
  }
  kernel.printk(`sysrq: ${key.says}`);
  if (key === loglevel) kernel.printk(`sysrq: Loglevel set to ${name}`);
  else if (name === 't' || name === 'w') {
    const ours = [...kernel.sched.tasks].filter(({ home }) => home === kernel.home);
    for (const task of ours) if (name === 't' || task.state === 'D') kernel.printk(showTask(task).join('\n'));
  } else kernel.printk(`sysrq: ${key.help} is not acted upon: it is not modelled`);
}
