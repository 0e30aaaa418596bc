/**
 * Work on many schedules, here or in worker threads: campaigns, and the shrinking of what they found.
 *
 * What comes out does not depend on how many workers there are, but for how long it takes. A job that is running when the
 * signal comes is not waited for, and counts for nothing.
 */
import { type MessagePort, Worker } from 'node:worker_threads';
import {
  added,
  type Campaign,
  emptyTally,
  type Found,
  type Piece,
  piecesOf,
  runPiece,
  segmentsOf,
  type Tally,
} from './campaign.js';
import type { RunSchedule } from './outcome.js';
import { type ShrinkOptions, type Shrunk, shrink } from './shrink.js';

/** What one worker does at a time. */
export type Job =
  | { readonly do: 'piece'; readonly piece: Piece }
  | { readonly do: 'shrink'; readonly campaign: Campaign; readonly found: Found; readonly options: ShrinkOptions };

export type Done =
  | { readonly did: 'piece'; readonly tally: Tally }
  | { readonly did: 'shrink'; readonly shrunk: Shrunk | undefined };

/** From a worker: schedules since the last word, or what came of the job. */
export type WorkerMessage = { readonly ran: number } | { readonly done: Done };

/** Schedules between two words of progress, and between two looks at the event loop. */
export const progressSchedules = 64;
/** Pieces for each worker: enough that none is idle for long at the end. */
const piecesPerWorker = 4;
const pieceMax = 2048;
/** Schedules of a piece at least: with `pct`, each piece has a few runs of its own before it begins. */
const pieceMin = 32;

/** Where jobs are done. */
export interface Pool {
  readonly size: number;
  /** `ran` hears of schedules as they are run. Rejects with the signal's reason. */
  run(job: Job, ran: (schedules: number) => void): Promise<Done>;
  close(): Promise<void>;
}

/** Does a job, and yields the number of schedules run since it yielded last. */
export function* doJob(runSchedule: RunSchedule, job: Job): Generator<number, Done> {
  if (job.do === 'shrink') {
    const { campaign, found, options } = job;
    const segments = segmentsOf(runSchedule, campaign, found);
    return { did: 'shrink', shrunk: shrink(runSchedule, campaign.setup, segments, found.hazard, options) };
  }
  const running = runPiece(runSchedule, job.piece);
  let ran = 0;
  for (;;) {
    const { done, value } = running.next();
    if (done) {
      yield ran;
      return { did: 'piece', tally: value };
    }
    if (++ran < progressSchedules) continue;
    yield ran;
    ran = 0;
  }
}

/** Jobs are done in this thread, one after the other, with a turn of the event loop now and then. */
export function poolHere(runSchedule: RunSchedule, signal?: AbortSignal): Pool {
  return {
    size: 1,
    run: async (job, ran) => {
      const doing = doJob(runSchedule, job);
      for (;;) {
        signal?.throwIfAborted();
        const { done, value } = doing.next();
        if (done) return value;
        ran(value);
        await new Promise((turn) => setImmediate(turn));
      }
    },
    close: async () => undefined,
  };
}

/** A run leaves nothing behind but garbage: with room for a few hundred of them, collecting it costs little. */
const maxYoungGenerationSizeMb = 64;

/** Jobs are done by `size` threads that run `program`: `worker.ts`, or what else calls `serveJobs`. */
export function poolOf(size: number, signal?: AbortSignal, program = new URL('./worker.js', import.meta.url)): Pool {
  const workers = Array.from({ length: size }, () => new Worker(program, { resourceLimits: { maxYoungGenerationSizeMb } }));
  const idle = [...workers];
  // A worker that ends before it is told to is a bug, and no answer comes from it.
  const broken = new Promise<never>((_, reject) => {
    for (const worker of workers) {
      worker.once('error', reject);
      worker.once('exit', (code) => reject(new Error(`a worker has ended by itself (${code})`)));
    }
  });
  broken.catch(() => undefined);
  return {
    size,
    run: async (job, ran) => {
      signal?.throwIfAborted();
      const worker = idle.pop();
      if (!worker) throw new Error(`a pool of ${size} has more jobs than that at a time`);
      const done = await Promise.race([answer(worker, job, ran, signal), broken]);
      idle.push(worker);
      return done;
    },
    close: async () => {
      await Promise.all(workers.map((worker) => worker.terminate()));
    },
  };
}

function answer(worker: Worker, job: Job, ran: (schedules: number) => void, signal?: AbortSignal): Promise<Done> {
  return new Promise((resolve, reject) => {
    const settle = () => {
      worker.off('message', hear);
      signal?.removeEventListener('abort', abort);
    };
    const hear = (message: WorkerMessage) => {
      if ('ran' in message) return ran(message.ran);
      settle();
      resolve(message.done);
    };
    const abort = () => {
      settle();
      reject(signal?.reason);
    };
    worker.on('message', hear);
    signal?.addEventListener('abort', abort);
    worker.postMessage(job);
  });
}

/** The other side: does the jobs that come through `port`, in order. */
export function serveJobs(port: MessagePort, runSchedule: RunSchedule): void {
  const say = (message: WorkerMessage) => port.postMessage(message);
  port.on('message', (job: Job) => {
    const doing = doJob(runSchedule, job);
    for (;;) {
      const { done, value } = doing.next();
      if (done) return say({ done: value });
      say({ ran: value });
    }
  });
}

export interface Exploring {
  readonly pool: Pool;
  readonly signal?: AbortSignal;
  /** How many schedules have been run since the last call. */
  readonly ran?: (schedules: number) => void;
}

/** Runs campaigns, several at a time. When the signal comes, the tallies are of the pieces that were done. */
export async function explore(campaigns: readonly Campaign[], { pool, signal, ran = () => {} }: Exploring): Promise<Tally[]> {
  const tallies = campaigns.map(() => emptyTally);
  const jobs = campaigns.flatMap((campaign, index) => {
    const size = Math.min(pieceMax, Math.max(pieceMin, Math.ceil(campaign.schedules / (pool.size * piecesPerWorker))));
    return piecesOf(campaign, size).map((piece) => ({ index, piece }));
  });
  await each(jobs, pool, signal, async ({ index, piece }) => {
    const done = await pool.run({ do: 'piece', piece }, ran);
    if (done.did === 'piece') tallies[index] = added(tallies[index] ?? emptyTally, done.tally);
  });
  return tallies;
}

/** Shrinks what was found. When the signal comes, what has not been shrunk by then is undefined. */
export async function shrinkAll(
  wanted: readonly { readonly campaign: Campaign; readonly found: Found }[],
  { pool, signal }: Exploring,
  options: ShrinkOptions = {},
): Promise<(Shrunk | undefined)[]> {
  const shrunk = wanted.map((): Shrunk | undefined => undefined);
  await each([...wanted.entries()], pool, signal, async ([index, { campaign, found }]) => {
    const done = await pool.run({ do: 'shrink', campaign, found, options }, () => {});
    if (done.did === 'shrink') shrunk[index] = done.shrunk;
  });
  return shrunk;
}

/** As many at a time as the pool has places. An abort ends it quietly, any other failure loudly. */
async function each<T>(
  items: readonly T[],
  pool: Pool,
  signal: AbortSignal | undefined,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const left = [...items];
  const place = async () => {
    for (let item = left.shift(); item !== undefined && !signal?.aborted; item = left.shift()) await work(item);
  };
  try {
    await Promise.all(Array.from({ length: pool.size }, place));
  } catch (error) {
    if (!signal?.aborted) throw error;
  }
}
