import type { Chooser, Outcome, Setup } from '../../src/explore/outcome.js';
import { byDefault, deviating, dfs, pct, random, scheduleSeed } from '../../src/explore/strategy.js';
import { runSchedule } from './toy.js';

const setup = (scenario: string, design: Setup['design'] = 'rfc'): Setup => ({ design, scenario, switches: {}, without: [] });
const hazardsOf = (outcome: Outcome) => outcome.violations.map(({ hazard }) => hazard);

/** How many of 500 schedules show each hazard. */
function counted(scenario: string, chooser: (seed: number) => Chooser): Record<string, number> {
  const counts: Record<string, number> = {};
  for (let index = 0; index < 500; index++) {
    for (const hazard of hazardsOf(runSchedule(setup(scenario), chooser(scheduleSeed(7, index))))) {
      counts[hazard] = (counts[hazard] ?? 0) + 1;
    }
  }
  return counts;
}

/** Runs a whole space; every schedule as what it showed, and by how many it differs from the default. */
function searched(
  where: Setup,
  preemptions: number,
  most = 100_000,
): { runs: Outcome[]; traces: Set<string>; exhausted: boolean } {
  const search = dfs(preemptions);
  const runs: Outcome[] = [];
  const traces = new Set<string>();
  for (let tries = 0; tries < most && !search.exhausted; tries++) {
    const outcome = runSchedule(where, search.chooser, { notes: true });
    if (!search.ran()) continue;
    runs.push(outcome);
    traces.add(JSON.stringify(outcome));
  }
  return { runs, traces, exhausted: search.exhausted };
}

test('the schedules of a campaign have different seeds, and so have those of another', () => {
  const seeds = [1, 2].flatMap((seed) => Array.from({ length: 10_000 }, (_, index) => scheduleSeed(seed, index)));
  expect(new Set(seeds).size).toBeGreaterThan(19_990);
  expect(new Set(seeds.slice(0, 10_000)).size).toBe(10_000);
});

test('without a word nobody is pre-empted, and nothing goes wrong', () => {
  expect(hazardsOf(runSchedule(setup('both'), byDefault))).toEqual([]);
});

test('random finds what can go wrong, and nothing where nothing can', () => {
  const { T1 = 0, T2 = 0 } = counted('both', random);
  expect(T1).toBeGreaterThan(100);
  expect(T2).toBeGreaterThan(20);
  expect(counted('quiet', random)).toEqual({});
});

test('pct finds what can go wrong, and nothing where nothing can', () => {
  const { choices } = runSchedule(setup('both'), byDefault);
  const { T1 = 0, T2 = 0 } = counted('both', (seed) => pct(seed, 3, choices));
  expect(T1).toBeGreaterThan(20);
  expect(T2).toBeGreaterThan(20);
  expect(counted('quiet', (seed) => pct(seed, 3, choices))).toEqual({});
});

test('pct with depth 1 never leaves a lane that can go on for another one', () => {
  for (let seed = 0; seed < 100; seed++) {
    const preempted = new Set<string>();
    runSchedule(setup('quiet'), pct(seed, 1, 10), { coverage: { states: new Set(), points: new Set(), preempted } });
    expect([...preempted]).toEqual([]);
  }
});

test('the lane that takes the step of a change falls behind all others', () => {
  const lanes = ['A', 'B', 'C'].map((lane) => ({ lane }));
  const chooser = pct(1, 2, 1);
  const [first, ...later] = Array.from({ length: 5 }, () => chooser(lanes, -1));
  expect(later).not.toContain(first);
  expect(new Set(later).size).toBe(1);
});

describe('dfs', () => {
  test('runs every schedule of a small space once', () => {
    // Two tasks of three steps each: 6! / (3! 3!) orders.
    const { runs, traces, exhausted } = searched(setup('count'), 9);
    expect(exhausted).toBe(true);
    expect(runs.length).toBe(20);
    expect(traces.size).toBeLessThanOrEqual(20);
  });

  test('without a pre-emption misses what one is needed for', () => {
    const found = [0, 1].map((preemptions) => {
      const { runs, exhausted } = searched(setup('count'), preemptions);
      return { schedules: runs.length, exhausted, hazards: [...new Set(runs.flatMap(hazardsOf))] };
    });
    expect(found).toEqual([
      { schedules: 2, exhausted: true, hazards: [] },
      { schedules: 6, exhausted: true, hazards: ['T1'] },
    ]);
  });

  test('finds a deadlock with one pre-emption', () => {
    const { runs, exhausted } = searched(setup('locks'), 1);
    expect(exhausted).toBe(true);
    expect(new Set(runs.flatMap(hazardsOf))).toEqual(new Set(['T2']));
  });

  test('says that nothing is there, when everything has been run', () => {
    const { runs, exhausted } = searched(setup('locks', 'hardened'), 3);
    expect(exhausted).toBe(true);
    expect(runs.flatMap(hazardsOf)).toEqual([]);
  });

  test('begins with the default, and tries few deviations before many', () => {
    const search = dfs(2);
    const numbers: number[] = [];
    for (let tries = 0; tries < 400; tries++) {
      runSchedule(setup('both'), search.chooser);
      if (search.ran()) numbers.push(search.deviations.length);
    }
    expect(numbers[0]).toBe(0);
    expect(numbers).toEqual([...numbers].sort((a, b) => a - b));
    expect(numbers.at(-1)).toBeGreaterThan(1);
  });

  test('tells each schedule by its deviations', () => {
    const search = dfs(2);
    for (let tries = 0; tries < 300; tries++) {
      const outcome = runSchedule(setup('both'), search.chooser, { notes: true });
      if (search.ran()) expect(runSchedule(setup('both'), deviating(search.deviations), { notes: true })).toEqual(outcome);
    }
  });
});
