/**
 * How libxl's long operations run: named steps in order, waits with a deadline, several devices side by side.
 *
 * Real libxl is an event loop of callbacks (libxl_aoutils.c, libxl_event.c, and multidev in libxl_device.c); here the
 * same order is spelt out with promises. No device and no domain in this file.
 */
import { PrivcmdError } from '../xenbus/privcmd.js';
import { type abort, backOffOf, type Xs, type XsRequests, type XsTransaction } from '../xenbus/xs-client.js';
import { type Perm, type XsErrno, XsError } from '../xenbus/xs-wire.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';

/** One step of an operation. `name` is libxl's own function, because it is searched for. */
export interface AoStep<State> {
  readonly name: string;
  run(ctx: Ctx, state: State): Promise<void>;
}

/** Runs the steps in order; the first failure ends it. */
export async function runAo<State>(ctx: Ctx, steps: readonly AoStep<State>[], state: State): Promise<void> {
  for (const step of steps) {
    ctx.progress?.step(step.name);
    try {
      await step.run(ctx, state);
    } catch (error) {
      throw asLibxlError(error, step.name) ?? error;
    }
  }
}

/**
 * A failure of the store or of the hypervisor as libxl's FAIL; undefined for a bug, which must not be taken for a
 * failed operation.
 */
export function asLibxlError(error: unknown, doing: string): LibxlError | undefined {
  if (error instanceof LibxlError) return error;
  if (error instanceof XsError || error instanceof PrivcmdError) {
    return new LibxlError(Rc.FAIL, `${doing}: ${error.message}`, { cause: error });
  }
  return undefined;
}

const strerrors: Readonly<Partial<Record<XsErrno | PrivcmdError['errno'], string>>> = {
  EACCES: 'Permission denied',
  EADDRNOTAVAIL: 'Cannot assign requested address',
  EAGAIN: 'Resource temporarily unavailable',
  EBUSY: 'Device or resource busy',
  EEXIST: 'File exists',
  EINVAL: 'Invalid argument',
  EIO: 'Input/output error',
  ENODEV: 'No such device',
  ENOENT: 'No such file or directory',
  ENOMEM: 'Cannot allocate memory',
  ENOSPC: 'No space left on device',
  ENOSYS: 'Function not implemented',
  EPERM: 'Operation not permitted',
  EDOM: 'Numerical argument out of domain',
  ERANGE: 'Numerical result out of range',
  ESRCH: 'No such process',
};

/** What strerror(3) says: the end of the lines that libxl writes with an errno. */
export function strerror(errno: XsErrno | PrivcmdError['errno']): string {
  return strerrors[errno] ?? errno;
}

const turns = new WeakMap<Xs, Promise<unknown>>();

/**
 * A transaction that no other of this process overlaps. libxl blocks from its start to its commit; without that, the
 * removals of two devices would conflict over the parents they share.
 *
 * One that has met another's way asks dom0 for a turn before it tries again (real toolstacks just try again: of so many at
 * once, each commit undoes the work of all others). Who has no turn, as on an older dom0, backs off. `first`: any two of
 * them at once conflict, so the turn is taken before the first try.
 */
export function transact<T>(
  ctx: Ctx,
  body: (tx: XsTransaction) => Promise<T | typeof abort>,
  { first = false } = {},
): Promise<T | typeof abort> {
  const mine = (turns.get(ctx.xs) ?? Promise.resolve()).then(() => transactInTurn(ctx, body, first));
  turns.set(
    ctx.xs,
    mine.catch(() => undefined),
  );
  return mine;
}

async function transactInTurn<T>(
  ctx: Ctx,
  body: (tx: XsTransaction) => Promise<T | typeof abort>,
  first: boolean,
): Promise<T | typeof abort> {
  const waits = backOffOf(ctx.clock);
  let mine: { readonly turn: number } | null = null;
  const takeTurn = async () => {
    mine = await ctx.xc.call('dom0.turn', {}).catch(() => null);
  };
  const next = (conflicts: number) => (mine === null && conflicts === 1 ? takeTurn() : waits(conflicts));
  if (first) await takeTurn();
  try {
    return await ctx.xs.transaction(body, { backOff: next });
  } finally {
    await giveBack(ctx, mine);
  }
}

async function giveBack(ctx: Ctx, mine: { readonly turn: number } | null): Promise<void> {
  if (mine) await ctx.xc.call('dom0.turn_over', mine).catch(() => null);
}

/** Requests that change nodes and whose answers nobody looks at one by one. */
export interface Writes {
  write(path: string, value: string): void;
  mkdir(path: string): void;
  rm(path: string): void;
  setPerms(path: string, perms: readonly Perm[]): void;
}

/**
 * Sends what `body` puts, in that order and without a wait in between; done when all are answered, and rejects with the
 * first error. A transaction is over sooner that way, and the sooner it is over, the fewer others come in its way.
 */
export async function writeTogether(xs: XsRequests, body: (put: Writes) => void): Promise<void> {
  const sent: Promise<unknown>[] = [];
  body({
    write: (path, value) => sent.push(xs.write(path, value)),
    mkdir: (path) => sent.push(xs.mkdir(path)),
    rm: (path) => sent.push(xs.rm(path)),
    setPerms: (path, perms) => sent.push(xs.setPerms(path, perms)),
  });
  await Promise.all(sent);
}

/** Waits for what was begun: the work that is left of an operation whose start was synchronous in libxl. */
export type Rest = () => Promise<void>;

/**
 * Begins to wait for a node (libxl__xswait_start): sets the deadline and the watch. The rest reads the node at each
 * event, the first of which comes from registering, until `done` says so; TIMEDOUT at the deadline. `done` may throw.
 *
 * Beginning and waiting are apart because libxl starts every device of a group before it looks at any event.
 */
export async function beginWait(
  ctx: Ctx,
  path: string,
  timeoutMs: number,
  done: (value: string | undefined) => boolean,
): Promise<Rest> {
  let fired = false;
  let late = false;
  let wake = () => {};
  const over = ctx.progress?.wait({ on: path, timeoutMs: timeoutMs * ctx.timeoutScale });
  const cancelTimer = ctx.clock.after(timeoutMs * ctx.timeoutScale, () => {
    // What has arrived by now counts, even if this process was not given the time to look at it.
    void ctx.clock.turn().then(() => {
      late = true;
      wake();
    });
  });
  const cancel = () => {
    cancelTimer();
    over?.();
  };
  const onEvent = () => {
    fired = true;
    wake();
  };
  const watch = await ctx.xs.watch(path, onEvent).catch((error: unknown) => {
    cancel();
    throw error;
  });
  const timedOut = () => new LibxlError(Rc.TIMEDOUT, `no change of ${path} in ${timeoutMs} ms`);
  return async () => {
    try {
      for (;;) {
        if (fired) {
          // Past the deadline it looks once more, and no more: whoever writes the node must not prolong the wait.
          const isLast = late;
          fired = false;
          if (done(await ctx.xs.read(path))) return;
          if (isLast) throw timedOut();
        } else if (late) {
          throw timedOut();
        } else {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
    } finally {
      cancel();
      await watch.close();
    }
  };
}

/**
 * Begins to wait for a backend's state (libxl__ev_devstate_wait). A state node that vanishes is INVAL: whoever removed
 * it is not going to bring the device to any state.
 */
export async function beginWaitForState(ctx: Ctx, path: string, wanted: number, timeoutMs: number): Promise<Rest> {
  const say = (line: number, what: string) =>
    ctx.log('debug', `libxl_event.c:${line}:devstate_callback`, undefined, `backend ${path} wanted state ${wanted} ${what}`);
  const rest = await beginWait(ctx, path, timeoutMs, (value) => {
    if (value === undefined) {
      say(1043, 'but it was removed');
      throw new LibxlError(Rc.INVAL, `${path} was removed`);
    }
    const state = Number.parseInt(value, 10) || 0;
    if (state === wanted) say(1051, 'ok');
    else say(1054, `still waiting state ${state}`);
    return state === wanted;
  });
  return async () => {
    try {
      await rest();
    } catch (error) {
      if (error instanceof LibxlError && error.rc === Rc.TIMEDOUT) say(1038, ' timed out');
      throw error;
    }
  };
}

/** Waits until the node at `path` says `wanted`. */
export async function waitForState(ctx: Ctx, path: string, wanted: number, timeoutMs: number): Promise<void> {
  const rest = await beginWaitForState(ctx, path, wanted, timeoutMs);
  await rest();
}

/**
 * Several devices at once (libxl__multidev_*): all are started one after the other, so that their transactions keep
 * the order of the list, then the rest of each runs beside the others. It fails, once none is left running, with the
 * error of the last item that failed.
 */
export async function multidev(starts: readonly (() => Promise<Rest>)[]): Promise<void> {
  const rests: Rest[] = [];
  for (const start of starts) {
    try {
      rests.push(await start());
    } catch (error) {
      rests.push(() => Promise.reject(error));
    }
  }
  const ends = await Promise.allSettled(rests.map((rest) => rest()));
  const failures = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as unknown] : []));
  const bug = failures.find((error) => !asLibxlError(error, 'multidev'));
  if (bug !== undefined) throw bug;
  const last = failures.at(-1);
  if (last !== undefined) throw asLibxlError(last, 'multidev');
}
