import type { Setup } from '../../src/explore/outcome.js';
import { parseReplay, printReplay, type Replay, ReplayError, recording, replaying } from '../../src/explore/replay.js';
import { random } from '../../src/explore/strategy.js';
import { seeded } from '../../src/xenbus/clock.js';
import { runSchedule } from './toy.js';

const both: Setup = { design: 'rfc', scenario: 'both', switches: {}, without: [] };
const example = 'x1:rfc:create-destroy:lifo=off,tail=on:-3.5:Xx4.R.D7x2.Tx9:U1';

test('what was recorded is replayed bit for bit, and recorded again', () => {
  for (let seed = 0; seed < 200; seed++) {
    const recorder = recording(random(seed));
    const outcome = runSchedule(both, recorder.chooser, { notes: true });
    const again = recording(replaying(recorder.segments));
    expect(runSchedule(both, again.chooser, { notes: true })).toEqual(outcome);
    expect(again.segments).toEqual(recorder.segments);
  }
});

test('a lane that cannot go on loses its turn, and behind the end the default goes on', () => {
  const lanes = ['A', 'B', 'C'].map((lane) => ({ lane }));
  const chooser = replaying([
    { lane: 'B', count: 1 },
    { lane: 'gone', count: 5 },
    { lane: 'C', count: 2 },
  ]);
  expect([chooser(lanes, 0), chooser(lanes, 1), chooser(lanes, 2), chooser(lanes, 2), chooser(lanes, -1)]).toEqual([
    1, 2, 2, 2, 0,
  ]);
});

test('is written as one word of a shell', () => {
  const replay: Replay = {
    setup: { design: 'rfc', scenario: 'create-destroy', switches: { tail: true, lifo: false }, without: [3, 5] },
    segments: [
      { lane: 'X', count: 4 },
      { lane: 'R', count: 1 },
      { lane: 'D7', count: 2 },
      { lane: 'T', count: 9 },
    ],
    hazard: 'U1',
  };
  expect(printReplay(replay)).toBe(example);
  expect(parseReplay(example)).toEqual(replay);
});

test('is read as what was written, whatever the names are', () => {
  const next = seeded(11);
  const names = ['X', 'x', '-', '-a', 'D7', 'xx4', 'vif 7.0', 'ü', '%', 'a:b', '__proto__', '*', '~', 'Tx9', '0'];
  const name = () => names[next() % names.length] ?? '';
  for (let round = 0; round < 2000; round++) {
    const replay: Replay = {
      setup: {
        design: (['single', 'rfc', 'hardened'] as const)[next() % 3] ?? 'rfc',
        scenario: name(),
        switches: Object.fromEntries(Array.from({ length: next() % 4 }, () => [name(), next() % 2 === 0])),
        without: [...new Set(Array.from({ length: next() % 4 }, () => next() % 20))].sort((a, b) => a - b),
      },
      segments: Array.from({ length: next() % 6 }, () => ({ lane: name(), count: 1 + (next() % 20) })),
      ...(next() % 2 === 0 ? { hazard: name() } : {}),
    };
    const text = printReplay(replay);
    expect(text).toMatch(/^[\w:=,.%-]+$/);
    expect(parseReplay(text)).toEqual(replay);
  }
});

test.each([
  ['', 1, 'it begins with "x1:"'],
  ['x2:rfc:a:-:-:X', 1, 'it begins with "x1:"'],
  ['x1:rfc:a', 9, 'it ends before the switches'],
  ['x1:both:a:-:-:X', 4, 'the design is single, rfc or hardened, not "both"'],
  ['x1:rfc::-:-:X', 8, 'the scenario is missing'],
  ['x1:rfc:a b:-:-:X', 9, '" " is no part of a scenario'],
  ['x1:rfc:a:lifo:-:X', 10, 'a switch is NAME=on or NAME=off, not "lifo"'],
  ['x1:rfc:a:lifo=1:-:X', 15, 'a switch is NAME=on or NAME=off, not "lifo=1"'],
  ['x1:rfc:a:b=on,a=on:-:X', 15, 'switches stand in order of name, each once; "a" does not'],
  ['x1:rfc:a:-:3:X', 12, 'operations that are left out follow a "-"'],
  ['x1:rfc:a:-:-3.2:X', 15, 'operations stand in rising order; 2 does not'],
  ['x1:rfc:a:-:-03:X', 13, 'the number of an operation is a number from 0 to 999999, not "03"'],
  ['x1:rfc:a:-:-:', 14, 'the lane is missing'],
  ['x1:rfc:a:-:-:X..T', 16, 'the lane is missing'],
  ['x1:rfc:a:-:-:Xx1', 16, 'a count is a number from 2 to 999999, not "1"'],
  ['x1:rfc:a:-:-:Xx', 16, 'a count is a number from 2 to 999999, not ""'],
  ['x1:rfc:a:-:-:Xx2x3', 14, 'a part of the schedule is LANE or LANExCOUNT'],
  ['x1:rfc:a:-:-:X.%4', 16, 'two hexadecimal digits (0-9, A-F) follow a %'],
  ['x1:rfc:a:-:-:X.%41', 16, 'a lane is spelt "A", not "%41"'],
  ['x1:rfc:a:-:-:X:U1:', 19, 'there is nothing behind the hazard'],
])('refuses %j', (text, column, reason) => {
  const parse = () => parseReplay(text);
  expect(parse).toThrow(ReplayError);
  expect(parse).toThrow(`column ${column} of the trace: ${reason}`);
});
