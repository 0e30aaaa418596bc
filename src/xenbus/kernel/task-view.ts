/**
 * What can be told of a kernel task from outside: what it waits for, whom that depends on, and who depends on it.
 *
 * Everything follows from the task's stack, its locks and the queue that it sleeps on; nothing here changes anything.
 */
import { type KTask, type Lock, waitsFor } from './sched.js';

export interface TaskWait {
  /** A lock, the end of a task (`kthread_stop`), the reply to a store request, or anything else that wakes it. */
  readonly kind: Lock['kind'] | 'exit' | 'reply' | 'event';
  readonly on: string;
  /** Who has to do something before it can go on, if that is one task. */
  readonly owner: KTask | undefined;
}

/** What `task` sleeps on; undefined when it could run. */
export function waitOf(task: KTask): TaskWait | undefined {
  const queue = task.waitingOn;
  if (!queue) return undefined;
  const owner = queue.owner?.();
  if (owner && queue === owner.exit) return { kind: 'exit', on: owner.name, owner };
  const lock = [...(owner?.holds ?? [])].find((each) => each.queue === queue);
  if (lock) return { kind: lock.kind, on: queue.name, owner };
  return { kind: queue.name === 'xs_reply' ? 'reply' : 'event', on: queue.name, owner };
}

/** As the kernel names a task in its messages: `xenwatch:29`. */
export function taskLabel(task: KTask): string {
  return `${task.comm}:${task.pid}`;
}

export function waitText({ kind, on, owner }: TaskWait): string {
  const who = owner ? taskLabel(owner) : undefined;
  switch (kind) {
    case 'mutex':
    case 'spinlock':
    case 'rwsem':
      return `${kind} ${on}, owned by ${who}`;
    case 'exit':
      return `kthread_stop of ${who}`;
    case 'reply':
      return 'the reply of xenstored';
    case 'event':
      return who === undefined ? on : `${on}, in ${who}`;
  }
}

/** The tasks that cannot go on before `task` does, in order of creation. */
export function waitersOf(tasks: Iterable<KTask>, task: KTask): KTask[] {
  return [...tasks].filter((other) => other !== task && waitsFor(other).indexOf(task, 1) > 0);
}

/** The scheduler's own functions between `__schedule` and the sleeper, as a backtrace of Linux 6.1 has them. */
export function sleepFrames(task: KTask): string[] {
  const kind = waitOf(task)?.kind;
  if (kind === 'exit') return ['schedule_timeout', '__wait_for_common', 'wait_for_completion'];
  if (kind === 'mutex') return ['schedule_preempt_disabled', '__mutex_lock.constprop.0'];
  return task.stack.at(-1) === 'folio_wait_bit_common' ? ['io_schedule'] : [];
}
