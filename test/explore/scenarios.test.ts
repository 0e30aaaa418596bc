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

const stuckVif = /^D7 waits: exit of vif7\.\d-q0-dealloc/;
const stuckDisk = /waits: flush of vbd-7-51712/;
const connected = /backend\/v(bd|if)\/[37]\/\d+\/state is 4/;

test.each([
  ['create-destroy', connected],
  ['two-devices', connected],
  ['hasty-destroy', connected],
  ['recreate', connected],
  ['driver-domain', connected],
  ['announced-before', connected],
  ['crash-adding', connected],
  ['crash-destroying', connected],
  ['destroy-stalled', stuckVif],
  ['destroy-stalled-io', stuckDisk],
  ['destroy-stalled-grants', stuckDisk],
  ['connect-stalled', stuckDisk],
  ['heal-two-vifs', stuckVif],
  ['node-first', stuckVif],
  ['late-event', stuckVif],
  ['block-attach-stalled', stuckDisk],
  ['dom0-detach', stuckVif],
  ['purge-block', stuckVif],
  ['unannounced', stuckVif],
  ['reuse-stalled', stuckVif],
  ['recreate-stalled', stuckVif],
  ['flood', stuckVif],
  ['vifs-stalled', stuckVif],
  ['xenwatch-stalled', /^X waits: flush of vbd-0-51712/],
  ['process-closes', /^X waits: flush of vbd-0-51712/],
  ['no-thread', /^C log: xenbus: no memory for xen-mtwatch-7/],
  ['no-memory', /^C log: xenbus: no memory for xen-mtwatch-7/],
])('%s comes to what it is about, whatever the schedule', (name, what) => {
  expect(noted(explore(name, 'hardened', 4), what)).toBe(4);
});

test('who closes /dev/xen/xenbus waits for xenwatch with one thread and as posted, and not with the hardened design', () => {
  const waiting = (design: Design) => noted(explore('process-closes', design, 3), /^KW waits: xenwatch_mutex/);
  expect([waiting('single'), waiting('rfc'), waiting('hardened')]).toEqual([3, 3, 0]);
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
