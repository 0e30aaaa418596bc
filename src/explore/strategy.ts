/**
 * Who goes on at each choice point: by chance, by priorities that change a few times, or one deviation after the other.
 *
 * Schedule k of a campaign has a seed of its own, made of the campaign's seed and k, so that it can be run alone. A chooser
 * is called some hundred times a schedule, and allocates nothing there.
 */
import { seeded } from '../xenbus/clock.js';
import type { Chooser, Lane } from './outcome.js';

export const strategies = ['random', 'pct', 'dfs'] as const;
export type Strategy = (typeof strategies)[number];

/** The seed of schedule `index`: different for each index of one campaign, for the mixing can be undone (murmur3's). */
export function scheduleSeed(seed: number, index: number): number {
  let mixed = (seed ^ Math.imul(index + 1, 0x9e3779b1)) >>> 0;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** Goes on with whom it was at, else with whoever stands first: what a schedule does where nothing else is said. */
export const byDefault: Chooser = (_ready, current) => Math.max(current, 0);

/** Each of those that can go on is as likely as the others. */
export function random(seed: number): Chooser {
  const next = seeded(seed);
  return (ready) => next() % ready.length;
}

/**
 * Probabilistic concurrency testing (Burckhardt and others, "A Randomized Scheduler with Probabilistic Guarantees of Finding
 * Bugs", ASPLOS 2010). Each lane gets a random priority when it is first seen, and the highest goes on. At `depth` - 1
 * steps, drawn from the `expected` ones, who takes that step falls behind everybody else: to priority i at the i-th of
 * them. A bug that needs `depth` ordering constraints shows with a probability of at least 1 in n * k^(depth-1). Steps are
 * choice points here: elsewhere a priority decides nothing.
 */
export function pct(seed: number, depth: number, expected: number): Chooser {
  const next = seeded(seed);
  const changes = Array.from({ length: depth - 1 }, () => 1 + (next() % Math.max(expected, 1)));
  const priorities = new Map<string, number>();
  const priorityOf = ({ lane }: Lane) => {
    const known = priorities.get(lane);
    if (known !== undefined) return known;
    const drawn = depth + next();
    priorities.set(lane, drawn);
    return drawn;
  };
  let step = 0;
  return (ready) => {
    step += 1;
    let best = 0;
    let highest = -1;
    for (let index = 0; index < ready.length; index++) {
      const priority = priorityOf(ready[index] as Lane);
      if (priority > highest) {
        best = index;
        highest = priority;
      }
    }
    for (let i = 0; i < changes.length; i++) {
      if (changes[i] === step) priorities.set((ready[best] as Lane).lane, i + 1);
    }
    return best;
  };
}

/** At choice point `at`, counted from 0, not the default goes on but alternative `take` of the others, in order of arrival. */
export interface Deviation {
  readonly at: number;
  readonly take: number;
}

/** A schedule by what is different in it from the default. */
export function deviating(deviations: readonly Deviation[]): Chooser {
  let point = 0;
  let next = 0;
  return (_ready, current) => {
    const usual = Math.max(current, 0);
    const deviation = deviations[next];
    if (deviation?.at !== point++) return usual;
    next += 1;
    return deviation.take < usual ? deviation.take : deviation.take + 1;
  };
}

export interface Dfs {
  /** For one run, the next schedule. */
  readonly chooser: Chooser;
  /** To be called after that run: whether it was a schedule not seen before. A search looks beyond the end of each once. */
  ran(): boolean;
  /** Every schedule within the bound has been run. */
  readonly exhausted: boolean;
  /** What is different from the default in the run before the last call of `ran`, for `deviating`. */
  readonly deviations: readonly Deviation[];
}

/**
 * Every schedule with at most `preemptions` pre-emptions: first the default, then those that deviate from it once, then
 * twice, and so on, each level depth first. Tasks cannot be copied, so each schedule is run from the start. To choose
 * another one than the default where the current task could go on is a pre-emption; where it could not, it is free.
 *
 * The level of one deviation (x), where two could go on at each point:
 *
 *     . . . .        the default, 4 choice points
 *     x . . .
 *     . x . . .
 *     . . x .
 *     . . . x
 *     . . . .        no place left: seen before, and the level is done
 *
 * What is remembered is the deviations of one schedule, whatever the size of the space. A pre-emption that is over the bound
 * is not tried: the deviation moves on to the next choice point within the same run.
 */
export function dfs(preemptions: number): Dfs {
  const at: number[] = [];
  const take: number[] = [];
  /** How many could go on where the deviation was. */
  const width: number[] = [];
  let point = 0;
  let next = 0;
  let used = 0;
  let levelFound = false;
  let exhausted = false;
  let deviations: readonly Deviation[] = [];

  /** Deviation `from` is at `place` now, and those behind it follow as closely as they can. */
  const place = (from: number, first: number) => {
    for (let index = from; index < at.length; index++) {
      at[index] = first + index - from;
      take[index] = 0;
    }
  };
  const chooser: Chooser = (ready, current) => {
    const here = point++;
    const usual = Math.max(current, 0);
    if (at[next] !== here) return usual;
    if (current >= 0 && used >= preemptions) {
      place(next, here + 1);
      return usual;
    }
    if (current >= 0) used += 1;
    width[next] = ready.length;
    const taken = take[next] as number;
    next += 1;
    return taken < usual ? taken : taken + 1;
  };
  /** `reached`: how many of the deviations the run came to. Those behind have no place left after these. */
  const advance = (reached: number) => {
    const last = reached - 1;
    if (last >= 0) {
      const other = (take[last] as number) + 1;
      const here = at[last] as number;
      if (other < (width[last] as number) - 1) {
        take[last] = other;
        place(last + 1, here + 1);
      } else {
        place(last, here + 1);
      }
    } else if (levelFound) {
      levelFound = false;
      at.push(0);
      place(0, 0);
    } else {
      exhausted = true;
    }
  };
  return {
    chooser,
    ran: () => {
      const reached = next;
      const whole = reached === at.length;
      if (whole) {
        levelFound = true;
        deviations = at.map((place, index) => ({ at: place, take: take[index] as number }));
      }
      advance(reached);
      point = 0;
      next = 0;
      used = 0;
      return whole;
    },
    get exhausted() {
      return exhausted;
    },
    get deviations() {
      return deviations;
    },
  };
}
