import { lanes } from '../../src/explore/lanes.js';
import type { Note, Outcome } from '../../src/explore/outcome.js';
import { recording } from '../../src/explore/replay.js';
import { shrink } from '../../src/explore/shrink.js';
import { random } from '../../src/explore/strategy.js';
import { runSchedule } from './toy.js';

const outcome = (notes: readonly Note[], violations: Outcome['violations'] = []): Outcome => ({
  violations,
  steps: notes.at(-1)?.step ?? 0,
  choices: 0,
  notes,
  operations: [],
});

test('a shrunk deadlock, as it is printed', () => {
  const setup = { design: 'rfc', scenario: 'both', switches: {}, without: [] } as const;
  const shrunk = Array.from({ length: 500 }, (_, seed) => {
    const recorder = recording(random(seed));
    runSchedule(setup, recorder.chooser);
    return recorder.segments;
  })
    .map((segments) => shrink(runSchedule, setup, segments, 'T2'))
    .find((each) => each !== undefined);
  expect(shrunk && lanes(shrunk.outcome, { width: 100 })).toBe(
    [
      '  step  X            D7',
      '     1  lock a',
      '     2               lock b',
      '     3               waits for a',
      '>    4  waits for b',
      '> T2 at step 4: X, D7',
      '  violated: no two wait for each other',
      '',
    ].join('\n'),
  );
});

test('kernel threads stand first, then the toolstack and the guests; who does nothing has no column', () => {
  const names = ['G7', 'T', 'KW', 'D10', 'D7', 'X', 'R', 'blk', 'U'];
  const [head] = lanes(outcome(names.map((lane, step) => ({ step, lane, text: 'a' }))), { width: 100 }).split('\n');
  expect(head?.trim().split(/ +/)).toEqual(['step', 'R', 'X', 'D7', 'D10', 'KW', 'blk', 'U', 'T', 'G7']);
});

test('a text that is too wide goes on in its column, at blanks and slashes', () => {
  const text = 'takes the event of /local/domain/0/backend/vif/7/0/state';
  expect(
    lanes(
      outcome([
        { step: 1, lane: 'X', text },
        { step: 2, lane: 'D7', text: 'runs' },
        { step: 3, lane: 'T', text },
      ]),
      { width: 60 },
    ),
  ).toBe(
    [
      '  step  X                       D7    T',
      '     1  takes the event of',
      '        /local/domain/0/',
      '        backend/vif/7/0/state',
      '     2                          runs',
      '     3                                takes the event of',
      '                                      /local/domain/0/',
      '                                      backend/vif/7/0/state',
      '',
    ].join('\n'),
  );
});

test('a text that is far too long is cut off', () => {
  const lines = lanes(outcome([{ step: 1, lane: 'X', text: 'word '.repeat(100) }]), { width: 28 }).split('\n');
  expect(lines.slice(-3)).toEqual(['        word word word word', '        word word word wo...', '']);
});

test('of a long trace the end is shown, within the lines that there are', () => {
  const notes = Array.from({ length: 200 }, (_, index) => ({ step: index * 3 + 1, lane: 'X', text: `n${index}` }));
  const text = lanes(outcome(notes, [{ hazard: 'T1', invariant: 'all is well', step: 599, text: 'it is not' }]), { width: 80 });
  const lines = text.trimEnd().split('\n');
  expect(lines.length).toBe(50);
  expect(lines.slice(0, 3)).toEqual(['  step  X', '  ... 462 steps ...', '   463  n154']);
  expect(lines.slice(-3)).toEqual(['>  598  n199', '> T1 at step 599: it is not', '  violated: all is well']);
});

test('what is marked is painted, and nothing is without paint', () => {
  const one = outcome([{ step: 1, lane: 'X', text: 'a' }], [{ hazard: 'T1', invariant: 'i', step: 1, text: 't' }]);
  const as = (letter: string) => (text: string) => `<${letter} ${text}>`;
  expect(lanes(one, { width: 80, paint: { head: as('head'), dim: as('dim'), violated: as('bad') } })).toBe(
    ['<head   step  X>', '<bad >    1  a>', '<bad > T1 at step 1: t>', '  violated: i', ''].join('\n'),
  );
});
