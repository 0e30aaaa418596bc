/**
 * What the toolstack asks of a kernel through nodes: to shut down and to act on a sysrq key (drivers/xen/manage.c), to have
 * less or more memory (xen-balloon.c, balloon.c), and to take processors off or back (cpu_hotplug.c).
 *
 * dom0 and guests have the same handlers; they differ in what they do about it. All of it happens in xenwatch: with that
 * stalled, what is asked for is written and not acted on.
 */
import { ShutdownReason } from '../xenbus.js';
import type { Kernel } from './kernel.js';
import { type Task, waitEvent, waitQueue } from './sched.js';
import { handleSysrq, sysrqMaskDefault } from './sysrq.js';
import type { Watches, WatchSpec } from './xenwatch.js';

/** What `control/shutdown` may ask for, and how the domain stops then. */
const shutdownRequests: ReadonlyMap<string, ShutdownReason> = new Map([
  ['poweroff', ShutdownReason.poweroff],
  ['halt', ShutdownReason.poweroff],
  ['reboot', ShutdownReason.reboot],
]);

/** What a kernel's memory is made of: what it has, and asking for another amount; answers with what it has then. In KiB. */
export interface Reservation {
  current(): number;
  change(kb: number): number;
}

export interface ControlOptions {
  /** What the balloon driver works on; without it a target is read and nothing is done. */
  readonly memory?: Reservation;
  /** `kernel.sysrq`: which keys are allowed. */
  readonly sysrq?: number;
  /** Given to a kernel that can be suspended (`do_suspend`); runs in the watch thread, until the domain is resumed. */
  readonly suspend?: () => Task;
  /** Told of a request before it is acknowledged, from when on nobody else knows of it; or that there is none. */
  readonly taking?: (request: string | undefined) => void;
  /** What a recovered kernel goes on with when it first looks at `control/shutdown`, after all other news. */
  readonly goOn?: () => Task;
  /** It was all set up before the domain was saved: only the watches are set again, the last one first. */
  readonly isRestored?: boolean;
}

/** Registers the watches that every Linux domain has, and says what it can do, in Linux's order. */
export function* watchControl(
  kernel: Kernel,
  watches: Watches,
  stop: (request: string, reason: ShutdownReason) => void,
  { memory, sysrq = sysrqMaskDefault, suspend, taking = () => {}, goOn, isRestored = false }: ControlOptions = {},
): Task {
  const setTarget = memory ? startBalloon(kernel, memory) : () => undefined;
  let fired = false;
  const callback = function* (): Task {
    if (yield* watchTarget(kernel, setTarget, !fired)) fired = true;
  };
  let first = goOn;
  const shutdownWatch = function* (): Task {
    const before = first;
    first = undefined;
    if (before) yield* before();
    yield* shutdownHandler(kernel, stop, suspend, taking);
  };
  const specs: readonly WatchSpec[] = [
    { node: 'memory/target', name: 'watch_target', callback },
    { node: 'control/shutdown', name: 'shutdown_handler', callback: shutdownWatch },
    { node: 'control/sysrq', name: 'sysrq_handler', callback: () => sysrqHandler(kernel, sysrq) },
  ];
  for (const spec of isRestored ? [...specs].reverse() : specs) yield* watches.register(spec);
  if (isRestored) return;
  for (const feature of ['poweroff', 'reboot', 'suspend']) yield* kernel.write(`control/feature-${feature}`, '1');
}

/**
 * Reads a number as scanf does; what does not begin with one is none, and no error. Answers whether there was one. The first
 * time it also looks at the most that the domain may have, which a PV kernel makes nothing of.
 */
function* watchTarget(kernel: Kernel, setTarget: (kb: number) => void, first: boolean): Task<boolean> {
  const digits = /^\s*\+?(\d{1,15})/.exec((yield* kernel.read('memory/target')) ?? '');
  if (!digits) return false;
  if (first && (yield* kernel.read('memory/static-max')) === undefined) yield* kernel.read('memory/memory_static_max');
  setTarget(Number(digits[1]));
  return true;
}

/** How long the balloon waits before it tries again to get what it was refused: 1 s, then twice as long each time. */
const balloonRetryMs = { first: 1_000, most: 32_000 } as const;
const pageKb = 4;

/**
 * What sets the target of a domain's memory. The thread that moves the memory there starts with the first target that is
 * another one than the domain has: nobody can tell that it slept before.
 */
function startBalloon(kernel: Kernel, memory: Reservation): (kb: number) => void {
  const queue = waitQueue('balloon_thread_wq');
  let target = memory.current();
  let started = false;
  kernel.printk('xen:balloon: Initialising balloon driver');
  const balloonThread = function* (): Task {
    for (let retryMs: number = balloonRetryMs.first; ; ) {
      yield* waitEvent(queue, () => memory.current() !== target);
      const wanted = target;
      const before = memory.current();
      const now = memory.change(wanted);
      if (now === wanted || now !== before) retryMs = balloonRetryMs.first;
      if (now === wanted) continue;
      const changed = yield* kernel.sleepOn(queue, retryMs, () => target !== wanted);
      retryMs = changed ? balloonRetryMs.first : Math.min(retryMs * 2, balloonRetryMs.most);
    }
  };
  return (kb) => {
    target = kb - (kb % pageKb);
    if (!started && target !== memory.current()) {
      started = true;
      kernel.spawn('xen-balloon', 'balloon_thread', balloonThread);
    }
    kernel.sched.wakeAll(queue);
  };
}

/** Takes the key off the node in a transaction, so that it is acted on once, then acts on it. */
function* sysrqHandler(kernel: Kernel, mask: number): Task {
  let key = '';
  const taken = yield* kernel.transaction(function* (txId) {
    key = ((yield* kernel.read('control/sysrq', txId)) ?? '').charAt(0);
    // The watch's own first event, and that of the acknowledgement.
    if (key === '') return false;
    if (key !== '\0') yield* kernel.write('control/sysrq', '', txId);
    return true;
  });
  if (taken && key !== '\0') handleSysrq(kernel, key, mask);
}

/** A processor as its kernel sees it: it takes it off, and brings it back. */
export interface HotplugCpu {
  online: boolean;
}

/**
 * Watches which processors the domain is to have. They are all up when this begins, and those that it is not to have go off
 * at once; a restored kernel has them as they were. One that is to come back is made present by the kernel, and brought up by
 * a rule of udev, in a domain with `udev`.
 */
export function* watchCpus(
  kernel: Kernel,
  watches: Watches,
  cpus: readonly HotplugCpu[],
  { udev, isRestored = false }: { readonly udev: boolean; readonly isRestored?: boolean },
): Task {
  const hotplug = function* (id: number): Task {
    const cpu = cpus[id];
    if (!cpu) return;
    const state = yield* kernel.read(`cpu/${id}/availability`);
    const word = /^\s*(\S{1,15})/.exec(state ?? '')?.[1];
    if (word === 'online') {
      if (cpu.online || !udev) return;
      kernel.printk(`installing Xen timer for CPU ${id}`);
      cpu.online = true;
    } else if (word === 'offline') {
      // The first processor of x86 cannot be taken off.
      if (id === 0 || !cpu.online) return;
      kernel.printk(`smpboot: CPU ${id} is now offline`);
      cpu.online = false;
    } else if (word !== undefined) kernel.printk(`xen:cpu_hotplug: unknown state(${word}) on CPU${id}`);
  };
  const callback = function* (path: string): Task {
    const id = /cpu\/(\d{1,9})/.exec(path)?.[1];
    if (id !== undefined) yield* kernel.call('vcpu_hotplug', hotplug(Number(id)));
  };
  yield* watches.register({ node: 'cpu', name: 'handle_vcpu_hotplug_event', callback });
  if (!isRestored) for (const id of cpus.keys()) yield* hotplug(id);
}

/** Acknowledges what it can do by emptying the node, then does it. */
function* shutdownHandler(
  kernel: Kernel,
  stop: (request: string, reason: ShutdownReason) => void,
  suspend: (() => Task) | undefined,
  taking: (request: string | undefined) => void,
): Task {
  let request = '';
  yield* kernel.transaction(function* (txId) {
    request = (yield* kernel.read('control/shutdown', txId)) ?? '';
    const isKnown = shutdownRequests.has(request) || (suspend !== undefined && request === 'suspend');
    taking(isKnown ? request : undefined);
    if (isKnown) yield* kernel.write('control/shutdown', '', txId);
    return isKnown;
  });
  if (!(yield* carryOut(kernel, request, stop, suspend)) && request !== '') {
    kernel.printk(`xen:manage: Ignoring shutdown request: ${request}`);
  }
}

/** Does what was asked for; false: it is nothing that this kernel does. */
export function* carryOut(
  kernel: Kernel,
  request: string,
  stop: (request: string, reason: ShutdownReason) => void,
  suspend: (() => Task) | undefined,
): Task<boolean> {
  const reason = shutdownRequests.get(request);
  if (reason !== undefined) stop(request, reason);
  else if (suspend && request === 'suspend') yield* kernel.call('do_suspend', suspend());
  else return false;
  return true;
}
