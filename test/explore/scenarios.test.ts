/** The scenarios themselves: what each is about happens in it, and what each design makes of that. */
import type { Design, Outcome } from '../../src/explore/outcome.js';
import { runSchedule, scenarios } from '../../src/explore/world.js';
import { seeded } from '../../src/xenbus/clock.js';

function explore(scenario: string, design: Design, schedules: number): Outcome[] {
  return Array.from({ length: schedules }, (_, seed) => {
    const draw = seeded(seed + 1);
    return runSchedule({ design, scenario, switches: {}, without: [] }, (ready) => draw() % ready.length, { notes: true });
  });
}

const hazardsOf = (outcomes: readonly Outcome[]) => [
  ...new Set(outcomes.flatMap(({ violations }) => violations.map(({ hazard }) => hazard))),
];
const noted = (outcomes: readonly Outcome[], what: RegExp) =>
  outcomes.filter(({ notes }) => notes.some(({ lane, text }) => what.test(`${lane} ${text}`))).length;

test.each(scenarios.map(({ name }) => name))('%s: no law is broken with a thread for each domain, S1 alone with one', (name) => {
  expect(hazardsOf(explore(name, 'hardened', 4))).toEqual([]);
  expect(['', 'S1']).toContain(hazardsOf(explore(name, 'single', 4)).join());
});

describe('a vif of dom0’s that is removed waits for its back end', () => {
  test('in the thread that would bring the news: with one thread, every domain waits with it', () => {
    const [single, hardened] = (['single', 'hardened'] as const).map((design) => explore('self-wait', design, 5));
    expect([noted(single ?? [], /^X waits: module_wq/), hazardsOf(single ?? [])]).toEqual([5, ['S1']]);
    expect([noted(hardened ?? [], /^X waits: module_wq/), hazardsOf(hardened ?? [])]).toEqual([5, []]);
  });

  test('in its driver domain’s thread, though it was removed while that was finding it', () => {
    const outcomes = explore('driver-domain-silent', 'hardened', 150);
    expect(noted(outcomes, /^D3 waits: module_wq in xennet_bus_close/)).toBeGreaterThan(0);
    expect([noted(outcomes, /^X waits/), hazardsOf(outcomes)]).toEqual([0, []]);
  });
});
