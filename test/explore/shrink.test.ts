import type { Setup } from '../../src/explore/outcome.js';
import { recording, replaying, type Segment } from '../../src/explore/replay.js';
import { shrink } from '../../src/explore/shrink.js';
import { random } from '../../src/explore/strategy.js';
import { runSchedule } from './toy.js';

const both: Setup = { design: 'rfc', scenario: 'both', switches: {}, without: [] };

/** The first random schedules that show `hazard`. */
function showing(hazard: string, howMany: number): (readonly Segment[])[] {
  const found: (readonly Segment[])[] = [];
  for (let seed = 0; found.length < howMany; seed++) {
    const recorder = recording(random(seed));
    const { violations } = runSchedule(both, recorder.chooser);
    if (violations.some((violation) => violation.hazard === hazard)) found.push(recorder.segments);
  }
  return found;
}

test.each(showing('T1', 10))('a lost update becomes two tasks and one pre-emption (%#)', (...segments) => {
  const shrunk = shrink(runSchedule, both, segments, 'T1');
  expect(shrunk?.setup.without).toEqual([0, 1, 2, 5, 6]);
  expect(shrunk?.segments.length).toBeLessThanOrEqual(2);
  expect(shrunk?.outcome.notes.map(({ text }) => text)).toEqual(['read 0', 'read 0', 'write 1', 'write 1']);
});

test.each(showing('T2', 10))('a deadlock becomes two tasks and one pre-emption (%#)', (...segments) => {
  const shrunk = shrink(runSchedule, both, segments, 'T2');
  expect(shrunk?.setup.without).toEqual([0, 1, 2, 3, 4]);
  expect(shrunk?.segments.length).toBeLessThanOrEqual(2);
  expect(shrunk?.outcome.violations.map(({ hazard }) => hazard)).toEqual(['T2']);
  expect(shrunk?.outcome.notes.length).toBe(4);
});

test('what needs three changes in the right places among many others becomes those alone', () => {
  const rare: Setup = { design: 'hardened', scenario: 'rare', switches: {}, without: [] };
  const found: (readonly Segment[])[] = [];
  let tries = 0;
  for (; found.length < 5; tries++) {
    const recorder = recording(random(tries));
    if (runSchedule(rare, recorder.chooser, { until: 'T3' }).violations.length > 0) found.push(recorder.segments);
  }
  expect(tries).toBeGreaterThan(25);
  for (const segments of found) {
    const shrunk = shrink(runSchedule, rare, segments, 'T3');
    const { operations = [], notes = [] } = shrunk?.outcome ?? {};
    expect(operations.filter((_, number) => !shrunk?.setup.without.includes(number)).length).toBe(4);
    expect(shrunk?.segments.length).toBeLessThanOrEqual(6);
    expect(notes.filter(({ lane }) => lane === 'U').map(({ text }) => text)).toEqual(['sees 0', 'sees 1', 'sees 2', 'sees 3']);
  }
});

test('what is left shows the hazard when it is replayed, and is the same each time', () => {
  const [segments = []] = showing('T2', 1);
  const [one, other] = [1, 2].map(() => shrink(runSchedule, both, segments, 'T2'));
  expect(other).toEqual(one);
  const again = runSchedule(one?.setup ?? both, replaying(one?.segments ?? []), { notes: true, until: 'T2' });
  expect(again).toEqual(one?.outcome);
});

test('takes no more runs than it may, and still shows the hazard', () => {
  const [segments = []] = showing('T1', 1);
  for (const runsMax of [1, 2, 5, 20]) {
    let runs = 0;
    const counting: typeof runSchedule = (...args) => {
      runs += 1;
      return runSchedule(...args);
    };
    const shrunk = shrink(counting, both, segments, 'T1', { runsMax });
    expect(shrunk?.outcome.violations.at(-1)?.hazard).toBe('T1');
    // One more makes the notes.
    expect(runs).toBeLessThanOrEqual(Math.max(runsMax, 1) + 1);
  }
});

test('does not shrink what does not show it', () => {
  expect(shrink(runSchedule, both, [], 'T1')).toBeUndefined();
});
