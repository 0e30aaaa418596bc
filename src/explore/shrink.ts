/**
 * Makes a schedule that shows a hazard small enough to read: fewer and shorter segments, fewer operations.
 *
 * What is tried stays when the same hazard still shows, wherever and whenever. Removing parts is ddmin (Zeller and
 * Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002). Without an operation the old schedule means
 * something else, so if it does not do, others are searched for, with half of the runs at most. Deterministic, and bounded by
 * a number of runs.
 */
import type { Chooser, Outcome, RunSchedule, Setup } from './outcome.js';
import { recording, replaying, type Segment } from './replay.js';
import { byDefault, pct, random, scheduleSeed } from './strategy.js';

export interface ShrinkOptions {
  /** Runs in all, but for the first and the last. With 0 the schedule stays as it is. */
  readonly runsMax?: number;
  /** Schedules that are searched when an operation is left out. */
  readonly searchMax?: number;
}

export interface Shrunk {
  readonly setup: Setup;
  readonly segments: readonly Segment[];
  /** Of the last run, with notes, up to the violation. */
  readonly outcome: Outcome;
  /** How many runs it took. */
  readonly runs: number;
}

const defaultRunsMax = 800;
const defaultSearchMax = 40;

/** Shrinks what shows `hazard`. Undefined when the given segments do not show it. */
export function shrink(
  runSchedule: RunSchedule,
  given: Setup,
  segments: readonly Segment[],
  hazard: string,
  { runsMax = defaultRunsMax, searchMax = defaultSearchMax }: ShrinkOptions = {},
): Shrunk | undefined {
  let runs = 0;
  const shows = (outcome: Outcome) => outcome.violations.some((violation) => violation.hazard === hazard);
  /** What was chosen up to the violation; undefined when there was none, or when there have been enough runs. */
  const attempt = (setup: Setup, choose: Chooser): readonly Segment[] | undefined => {
    if (runs >= runsMax) return undefined;
    runs += 1;
    const recorder = recording(choose);
    return shows(runSchedule(setup, recorder.chooser, { until: hazard })) ? recorder.segments : undefined;
  };

  const first = runSchedule(given, replaying(segments), { until: hazard });
  runs += 1;
  if (!shows(first)) return undefined;
  let setup = given;
  let best = attempt(given, replaying(segments)) ?? segments;

  const expected = Math.max(first.choices, 1);
  const search = (candidate: Setup, until: number): readonly Segment[] | undefined => {
    let found: readonly Segment[] | undefined;
    for (let index = 0; index < searchMax && !found && runs < until; index++) {
      const seed = scheduleSeed(0, index);
      found = attempt(candidate, index % 2 === 0 ? random(seed) : pct(seed, 2 + ((index >> 1) % 4), expected));
    }
    return found;
  };
  /** `until`: other schedules are searched while there have been fewer runs than that. */
  const dropOperations = (until: number) => {
    const kept = first.operations.flatMap((_, number) => (setup.without.includes(number) ? [] : [number]));
    minimise(kept, (operations) => {
      const without = first.operations.flatMap((_, number) => (operations.includes(number) ? [] : [number]));
      const candidate = { ...given, without };
      const found =
        attempt(candidate, replaying(best)) ??
        (best.length > 0 ? attempt(candidate, byDefault) : undefined) ??
        (operations.length > 0 ? search(candidate, until) : undefined);
      if (!found) return false;
      setup = candidate;
      best = found;
      return true;
    });
  };
  const still = (candidate: readonly Segment[]) => {
    if (!attempt(setup, replaying(candidate))) return false;
    best = candidate;
    return true;
  };
  const dropSegments = () => {
    for (let before = Number.POSITIVE_INFINITY; weight(best) < before; ) {
      before = weight(best);
      minimise(best, (candidate) => still(merged(candidate)));
      gather(best, still);
      shorten(best, still);
    }
  };

  // Fewer operations make runs shorter, and often do with the default schedule. A short schedule is the likelier to do
  // without an operation: it says less of what is not there any more.
  dropOperations(0);
  dropSegments();
  dropOperations(0);
  dropOperations(runs + ((runsMax - runs) >> 1));
  dropSegments();
  dropOperations(0);
  return { setup, segments: best, outcome: runSchedule(setup, replaying(best), { notes: true, until: hazard }), runs };
}

/** What is to become less: segments first, then the choice points in them. */
function weight(segments: readonly Segment[]): number {
  return segments.reduce((sum, { count }) => sum + count, segments.length * 1_000_000);
}

/** ddmin: leaves out parts of `items`, halves first, then ever smaller ones, for as long as `still` says yes. */
function minimise<T>(items: readonly T[], still: (fewer: readonly T[]) => boolean): void {
  if (items.length === 0 || still([])) return;
  let left = items;
  let size = Math.ceil(left.length / 2);
  while (left.length > 1) {
    let removed = false;
    for (let start = 0; start < left.length; ) {
      const fewer = [...left.slice(0, start), ...left.slice(start + size)];
      if (fewer.length > 0 && fewer.length < left.length && still(fewer)) {
        left = fewer;
        removed = true;
      } else {
        start += size;
      }
    }
    if (size > 1) size = Math.ceil(size / 2);
    else if (!removed) return;
  }
}

/** Neighbours of the same lane are one. */
function merged(segments: readonly Segment[]): readonly Segment[] {
  const result: Segment[] = [];
  for (const segment of segments) {
    const last = result.at(-1);
    if (last?.lane === segment.lane) result[result.length - 1] = { lane: last.lane, count: last.count + segment.count };
    else result.push(segment);
  }
  return result;
}

/** Lets a lane do at once what it did in two turns: the later one comes to the earlier, or the earlier to the later. */
function gather(segments: readonly Segment[], still: (candidate: readonly Segment[]) => boolean): void {
  let left = segments;
  for (let at = 0; at < left.length; at++) {
    const { lane } = left[at] as Segment;
    const later = left.findIndex((other, index) => index > at && other.lane === lane);
    if (later < 0) continue;
    const between = left.slice(at + 1, later);
    const [one, other] = [left[at] as Segment, left[later] as Segment];
    const forward = merged([...left.slice(0, at), one, other, ...between, ...left.slice(later + 1)]);
    const back = merged([...left.slice(0, at), ...between, one, other, ...left.slice(later + 1)]);
    const better = [forward, back].find((candidate) => candidate.length < left.length && still(candidate));
    if (!better) continue;
    left = better;
    at -= 1;
  }
}

/** Fewer choice points of each segment: one, else half as many, else one less. */
function shorten(segments: readonly Segment[], still: (candidate: readonly Segment[]) => boolean): void {
  let left = segments;
  for (let at = 0; at < left.length; at++) {
    for (let again = true; again; ) {
      const { lane, count } = left[at] as Segment;
      const counts = [...new Set([1, count >> 1, count - 1])].filter((fewer) => fewer >= 1 && fewer < count);
      const shorter = counts
        .map((fewer) => left.map((segment, index) => (index === at ? { lane, count: fewer } : segment)))
        .find(still);
      left = shorter ?? left;
      again = shorter !== undefined;
    }
  }
}
