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
      '  step  X               D7',
      '     1  lock a',
      '     2                  lock b',
      '     3                  waits for a',
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

test('a text goes on over the columns to its right; one that is too wide goes on below, at blanks and slashes', () => {
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
      '  step  X     D7    T',
      '     1  takes the event of /local/domain/0/backend/vif/7/0/',
      '        state',
      '     2        runs',
      '     3              takes the event of /local/domain/0/',
      '                    backend/vif/7/0/state',
      '',
    ].join('\n'),
  );
});

test('a text that is far too long is cut off', () => {
  const lines = lanes(outcome([{ step: 1, lane: 'X', text: 'word '.repeat(100) }]), { width: 28 }).split('\n');
  expect(lines.slice(-3)).toEqual(['        word word word word', '        word word word wo...', '']);
});

test('a line of the log is one line', () => {
  const lines = lanes(outcome([{ step: 1, lane: 'X', text: `log: ${'word '.repeat(100)}` }]), { width: 28 }).split('\n');
  expect(lines).toEqual(['  step  X', '     1  log: word word wo...', '']);
});

/** What D7 does, as the kernel tells it, with the steps counted from 1. */
const doing = (...texts: readonly (readonly [string, string])[]): Note[] =>
  texts.map(([lane, text], index) => ({ step: index + 1, lane, text }));
const shown = (notes: readonly Note[], violations: Outcome['violations'] = []) =>
  lanes(outcome(notes, violations), { width: 100 })
    .trimEnd()
    .split('\n')
    .slice(1)
    .map((line) => line.trim().replace(/ +/g, ' '));

test('of three or more that are alike, the first and the last are shown, and how many are between', () => {
  const forwards = (from: number, count: number) =>
    Array.from({ length: count }, (_, index): [string, string] => [
      'X',
      `forward #${from + index} backend/vbd/7/51712/n${index} to domain 7 (${index} there already)`,
    ]);
  expect(shown(doing(...forwards(1, 5), ['X', 'domain 7 created, thread 32'], ...forwards(6, 3)))).toEqual([
    '1 forward #1 backend/vbd/7/51712/n0 to domain 7 (0 there already)',
    '2 ... 3 more like it',
    '5 forward #5 backend/vbd/7/51712/n4 to domain 7 (4 there already)',
    '6 domain 7 created, thread 32',
    // One line for one is no gain.
    '7 forward #6 backend/vbd/7/51712/n0 to domain 7 (0 there already)',
    '8 forward #7 backend/vbd/7/51712/n1 to domain 7 (1 there already)',
    '9 forward #8 backend/vbd/7/51712/n2 to domain 7 (2 there already)',
  ]);
});

test('a callback in which nothing is to be seen is one line, and of many the first and the last are shown', () => {
  const callback = (event: number): [string, string][] => [
    ['D7', `begin #${event} backend/vbd/7/51712/mode [backend_changed]`],
    ['D7', `end #${event}`],
  ];
  const [begin = ['', ''], end = ['', '']] = callback(5);
  expect(shown(doing(...callback(1), ...callback(2), ...callback(3), ...callback(4), begin, ['D7', 'log: told'], end))).toEqual([
    '1 begin, end #1 backend/vbd/7/51712/mode [backend_changed]',
    '3 ... 2 more like it',
    '7 begin, end #4 backend/vbd/7/51712/mode [backend_changed]',
    '9 begin #5 backend/vbd/7/51712/mode [backend_changed]',
    '10 log: told',
    '11 end #5',
  ]);
  // Beside somebody else it has a beginning and an end.
  expect(shown(doing(begin, ['X', 'forward #9 mtwatch/7 to domain 7 (0 there already)'], end)).length).toBe(3);
});

test('what a violation speaks of is not folded', () => {
  const notes = doing(...[1, 2, 3, 4, 5, 6, 7, 8].map((n): [string, string] => ['X', `forward #${n} a/b to domain 7`]));
  const violation = { hazard: 'T1', invariant: 'i', step: 8, text: '#4 overtakes #3' };
  expect(shown(notes, [violation]).slice(0, -2)).toEqual([
    '1 forward #1 a/b to domain 7',
    '2 forward #2 a/b to domain 7',
    '3 forward #3 a/b to domain 7',
    '4 forward #4 a/b to domain 7',
    '5 forward #5 a/b to domain 7',
    '6 forward #6 a/b to domain 7',
    '7 forward #7 a/b to domain 7',
    '> 8 forward #8 a/b to domain 7',
  ]);
  expect(shown(notes, [{ ...violation, text: 'it is not' }]).slice(0, -2)).toEqual([
    '1 forward #1 a/b to domain 7',
    '2 ... 5 more like it',
    '7 forward #7 a/b to domain 7',
    '> 8 forward #8 a/b to domain 7',
  ]);
});

test('what toolstacks and guests do is not folded', () => {
  expect(shown(doing(...[1, 2, 3, 4].map((n): [string, string] => ['G7', `vif-7-0 frontend: state ${n}`]))).length).toBe(4);
});

test('of several hazards, the one that the trace is about is marked and told', () => {
  const both = outcome(doing(['X', 'a'], ['X', 'b']), [
    { hazard: 'T1', invariant: 'i', step: 1, text: 't' },
    { hazard: 'T2', invariant: 'j', step: 2, text: 'u' },
  ]);
  expect(lanes(both, { width: 80, hazard: 'T2' })).toBe(
    ['  step  X', '     1  a', '>    2  b', '> T2 at step 2: u', '  violated: j', ''].join('\n'),
  );
  expect(lanes(both, { width: 80 })).toContain('> T1 at step 1: t');
});

test('of a long trace the end is shown, within the lines that there are', () => {
  const name = (index: number) => [...String(index)].map((digit) => 'abcdefghij'[Number(digit)]).join('');
  const notes = Array.from({ length: 200 }, (_, index) => ({ step: index * 3 + 1, lane: 'X', text: name(index) }));
  const text = lanes(outcome(notes, [{ hazard: 'T1', invariant: 'all is well', step: 599, text: 'it is not' }]), { width: 80 });
  const lines = text.trimEnd().split('\n');
  expect(lines.length).toBe(50);
  expect(lines.slice(0, 3)).toEqual(['  step  X', '  ... 462 steps ...', '   463  bfe']);
  expect(lines.slice(-3)).toEqual(['>  598  bjj', '> T1 at step 599: it is not', '  violated: all is well']);
});

test('what is marked is painted, and nothing is without paint', () => {
  const one = outcome([{ step: 1, lane: 'X', text: 'a' }], [{ hazard: 'T1', invariant: 'i', step: 1, text: 't' }]);
  const as = (letter: string) => (text: string) => `<${letter} ${text}>`;
  expect(lanes(one, { width: 80, paint: { head: as('head'), dim: as('dim'), violated: as('bad') } })).toBe(
    ['<head   step  X>', '<bad >    1  a>', '<bad > T1 at step 1: t>', '  violated: i', ''].join('\n'),
  );
});
