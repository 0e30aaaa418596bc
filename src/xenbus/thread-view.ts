/** dom0's kernel threads as `xl mtwatch list` and `show` tell of them. */
import { type KTask, procStack } from './kernel/sched.js';
import { waitersOf, waitOf, waitText } from './kernel/task-view.js';
import type { WatchThreadState } from './kernel/xenwatch.js';
import { domainPath, mtwatchPath } from './paths.js';
import { type KernelThread, listPageMax, threadListMax, type WatchThread } from './privcmd.js';

/** What there is to look at. */
export interface ThreadSource {
  readonly threads: readonly WatchThreadState[];
  /** All tasks of dom0's kernel. */
  readonly tasks: readonly KTask[];
  /** A node of the store. */
  readonly peek: (path: string) => string | undefined;
  readonly now: number;
}

/** A page of the watch threads. */
export function watchThreads(source: ThreadSource, from: number): WatchThread[] {
  return source.threads.slice(from, from + listPageMax).map((state) => watchThread(source, state));
}

function watchThread(source: ThreadSource, state: WatchThreadState): WatchThread {
  const { domid, task, pending, handled, announced, running } = state;
  const node = domid !== 0 && source.peek(mtwatchPath(domid)) !== undefined;
  return {
    domid,
    name: domid === 0 ? '-' : (source.peek(`${domainPath(domid)}/name`) ?? null),
    node,
    thread: task.name,
    pid: task.pid,
    state: stateOf(task),
    pending,
    handled,
    retiring: announced && !node,
    running: running
      ? {
          callback: running.watch.name,
          path: running.path,
          forMs: source.now - running.since,
          stack: task.exited ? [] : procStack(task),
        }
      : null,
  };
}

/** A watch thread by whatever it or its domain is called, else any thread of the kernel by its name, comm or pid. */
export function kernelThread(source: ThreadSource, name: string): KernelThread | null {
  const { tasks } = source;
  const watches = source.threads.map((state) => ({ state, view: watchThread(source, state) }));
  const watch = watches.find(({ state: { task, domid }, view }) => {
    return [task.name, task.comm, String(domid), domid === 0 ? undefined : view.name].includes(name);
  });
  const task =
    watch?.state.task ??
    tasks.find((each) => each.name === name) ??
    tasks.find(({ comm, pid }) => [comm, String(pid), `${comm}:${pid}`].includes(name));
  if (!task) return null;
  const shown = watch ?? watches.find(({ state }) => state.task === task);
  const wait = waitOf(task);
  const waiters = waitersOf(tasks, task);
  return {
    thread: task.name,
    comm: task.comm,
    pid: task.pid,
    state: stateOf(task),
    stack: task.exited ? [] : procStack(task),
    waits: wait
      ? {
          kind: wait.kind,
          on: wait.on,
          task: wait.owner ? { comm: wait.owner.comm, pid: wait.owner.pid } : null,
          text: waitText(wait),
        }
      : null,
    holds: [...task.holds].map((lock) => lock.name),
    waiters: waiters.slice(0, threadListMax).map((each) => {
      const what = waitOf(each);
      return { comm: each.comm, pid: each.pid, text: what ? waitText(what) : '' };
    }),
    waiting: waiters.length,
    watch: shown
      ? {
          ...shown.view,
          queued: shown.state.queued.slice(0, threadListMax).map(({ path, watch }) => ({ path, callback: watch.name })),
        }
      : null,
  };
}

/** A thread that has exited can still be looked at when it is the one that everything depends on. */
function stateOf(task: KTask): WatchThread['state'] {
  return task.exited ? 'X' : task.state;
}
