/**
 * Many schedules of one setup: what they showed, and how far they came.
 *
 * A campaign is cut into pieces that can be run anywhere and in any order; the sum of the pieces is the same however it was
 * cut. No piece records what it chose: a schedule is known by its seed, or by its deviations, and what is worth a look is
 * run again.
 */
import type { Chooser, Coverage, RunSchedule, Setup } from './outcome.js';
import { recording, type Segment } from './replay.js';
import { byDefault, type Deviation, deviating, dfs, pct, random, type Strategy, scheduleSeed } from './strategy.js';

export interface Campaign {
  readonly setup: Setup;
  readonly strategy: Strategy;
  readonly seed: number;
  /** How many schedules; with `dfs`, at most. */
  readonly schedules: number;
  /** Leave out what the schedules have been through: it takes time, and memory. */
  readonly uncovered?: boolean;
}

/** Schedules `from` up to, and without, `to`. */
export interface Piece {
  readonly campaign: Campaign;
  readonly from: number;
  readonly to: number;
}

/** A hazard that schedules showed. */
export interface Found {
  readonly hazard: string;
  readonly invariant: string;
  /** Schedules that showed it. */
  readonly count: number;
  /** The first of them, counted from 0. */
  readonly schedule: number;
  /** What makes it anew, where a seed does not. */
  readonly deviations?: readonly Deviation[];
}

export interface Tally {
  readonly schedules: number;
  /** In order of the schedule that showed it first. */
  readonly found: readonly Found[];
  /** How many schedules had so many choice points. */
  readonly choices: ReadonlyMap<number, number>;
  readonly coverage: Coverage;
  /** `dfs` has run all that there is within its bound. */
  readonly exhausted: boolean;
}

/** Pre-emptions in a schedule of `dfs`, at most. */
export const dfsPreemptions = 3;
/** Schedules that tell how many choice points there are, for `pct`. */
const pilotSchedules = 8;
/** Runs of `dfs` for one new schedule, at most: where there are no places left, most runs have been seen before. */
const dfsRunsPerSchedule = 8;

/** Runs a piece, and yields after each schedule, so that who runs it can look around. */
export function* runPiece(runSchedule: RunSchedule, { campaign, from, to }: Piece): Generator<void, Tally> {
  const coverage = { states: new Set<number>(), points: new Set<string>(), preempted: new Set<string>() };
  const choices = new Map<number, number>();
  const found = new Map<string, Found>();
  let schedules = 0;
  let exhausted = false;

  const run = (choose: Chooser) => runSchedule(campaign.setup, choose, campaign.uncovered ? {} : { coverage });
  const count = (schedule: number, outcome: ReturnType<RunSchedule>, deviations?: readonly Deviation[]) => {
    schedules += 1;
    choices.set(outcome.choices, (choices.get(outcome.choices) ?? 0) + 1);
    for (const { hazard, invariant } of outcome.violations) {
      const before = found.get(hazard);
      if (before) found.set(hazard, { ...before, count: before.count + 1 });
      else found.set(hazard, { hazard, invariant, count: 1, schedule, ...(deviations ? { deviations } : {}) });
    }
  };

  if (campaign.strategy === 'dfs') {
    const search = dfs(dfsPreemptions);
    for (let runs = 0; schedules < to - from && !search.exhausted && runs < (to - from) * dfsRunsPerSchedule; runs++) {
      const outcome = run(search.chooser);
      if (search.ran()) count(schedules, outcome, search.deviations);
      yield;
    }
    exhausted = search.exhausted;
  } else {
    const choosers = choosersOf(runSchedule, campaign);
    for (let schedule = from; schedule < to; schedule++) {
      count(schedule, run(choosers(schedule)));
      yield;
    }
  }
  return { schedules, found: [...found.values()], choices, coverage, exhausted };
}

/** The chooser of schedule k, for the strategies that draw. */
function choosersOf(runSchedule: RunSchedule, { setup, strategy, seed }: Campaign): (schedule: number) => Chooser {
  if (strategy !== 'pct') return (schedule) => random(scheduleSeed(seed, schedule));
  const expected = expectedChoices(runSchedule, setup);
  return (schedule) => pct(scheduleSeed(seed, schedule), pctDepth(schedule), expected);
}

/** One depth finds what the next does not: two to five in turn. */
function pctDepth(schedule: number): number {
  return 2 + (schedule % 4);
}

/** The most choice points of a few schedules. They are the same ones always, so that a schedule can be made anew alone. */
function expectedChoices(runSchedule: RunSchedule, setup: Setup): number {
  const pilots = [byDefault, ...Array.from({ length: pilotSchedules }, (_, index) => random(scheduleSeed(0, index)))];
  return Math.max(...pilots.map((choose) => runSchedule(setup, choose).choices));
}

/** Cuts a campaign into pieces of at most `size` schedules. A search goes on from where it was, and is one piece. */
export function piecesOf(campaign: Campaign, size: number): Piece[] {
  if (campaign.strategy === 'dfs') return [{ campaign, from: 0, to: campaign.schedules }];
  return Array.from({ length: Math.ceil(campaign.schedules / size) }, (_, index) => ({
    campaign,
    from: index * size,
    to: Math.min((index + 1) * size, campaign.schedules),
  }));
}

export const emptyTally: Tally = {
  schedules: 0,
  found: [],
  choices: new Map(),
  coverage: { states: new Set(), points: new Set(), preempted: new Set() },
  exhausted: false,
};

/** The sum of two tallies of one campaign. */
export function added(a: Tally, b: Tally): Tally {
  const found = new Map(a.found.map((each) => [each.hazard, each]));
  for (const each of b.found) {
    const other = found.get(each.hazard);
    const first = other && other.schedule < each.schedule ? other : each;
    found.set(each.hazard, { ...first, count: each.count + (other?.count ?? 0) });
  }
  const choices = new Map(a.choices);
  for (const [number, count] of b.choices) choices.set(number, count + (choices.get(number) ?? 0));
  const union = <T>(one: ReadonlySet<T>, other: ReadonlySet<T>) => new Set([...one, ...other]);
  return {
    schedules: a.schedules + b.schedules,
    found: [...found.values()].sort((one, other) => one.schedule - other.schedule || (one.hazard < other.hazard ? -1 : 1)),
    choices,
    coverage: {
      states: union(a.coverage.states, b.coverage.states),
      points: union(a.coverage.points, b.coverage.points),
      preempted: union(a.coverage.preempted, b.coverage.preempted),
    },
    exhausted: a.exhausted || b.exhausted,
  };
}

export interface Spread {
  readonly min: number;
  readonly median: number;
  readonly max: number;
}

/** Of how many choice points schedules had. */
export function spread(choices: ReadonlyMap<number, number>): Spread {
  const sorted = [...choices].sort(([a], [b]) => a - b);
  const total = sorted.reduce((sum, [, count]) => sum + count, 0);
  let below = 0;
  const median = sorted.find(([, count]) => {
    below += count;
    return below * 2 >= total;
  });
  return { min: sorted[0]?.[0] ?? 0, median: median?.[0] ?? 0, max: sorted.at(-1)?.[0] ?? 0 };
}

/** Runs the first schedule that showed a hazard once more, and says what it chose. */
export function segmentsOf(runSchedule: RunSchedule, campaign: Campaign, { schedule, deviations, hazard }: Found): Segment[] {
  const choose = deviations ? deviating(deviations) : choosersOf(runSchedule, campaign)(schedule);
  const recorder = recording(choose);
  runSchedule(campaign.setup, recorder.chooser, { until: hazard });
  return [...recorder.segments];
}
