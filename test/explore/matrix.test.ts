import { matrix } from '../../src/explore/matrix.js';
import { designs } from '../../src/explore/outcome.js';
import { parseReplay, replaying } from '../../src/explore/replay.js';
import { poolHere } from '../../src/explore/workers.js';
import { runSchedule, scenarios, switches } from './toy.js';

const options = { scenarios, switches, designs, seed: 1, schedules: 200 } as const;
const text = await matrix(options, { pool: poolHere(runSchedule) });
const tables = text.split(/\n(?=[A-Z])/);

test('each scenario has a row, with what each design showed', () => {
  const rows = (tables[0] ?? '').split('\n').filter((line) => line.startsWith('|'));
  expect(rows.map((row) => row.replaceAll(/ \d+\/\d+/g, ' n/n'))).toEqual([
    '| Scenario | single | rfc | hardened |',
    '|---|---|---|---|',
    '| **count**: two tasks add to one number | clean | T1 n/n | clean |',
    '| **locks**: two tasks take two locks | clean | T2 n/n | clean |',
    '| **both**: all of it, among others | clean | T1 n/n, T2 n/n | clean |',
    '| **quiet**: nothing can go wrong | clean | clean | clean |',
  ]);
});

const traces = [...text.matchAll(/`(x1:[^`]+)`/g)].map(([, trace = '']) => parseReplay(trace));

test('every trace shows its hazard', () => {
  for (const { setup, segments, hazard } of traces) {
    expect(runSchedule(setup, replaying(segments)).violations.map((violation) => violation.hazard)).toContain(hazard);
  }
});

test('each hazard of a design has a trace, each cell has one, each mutation has those of its hazards', () => {
  expect(traces.map(({ setup, hazard }) => `${setup.design} ${Object.keys(setup.switches).join()} ${hazard}`).sort()).toEqual([
    'hardened crossed T2',
    'hardened torn T1',
    'rfc  T1',
    'rfc  T1',
    'rfc  T2',
  ]);
  const cells = traces.filter(({ setup }) => setup.design === 'rfc').map(({ setup }) => setup.scenario);
  expect(cells.sort()).toEqual(['both', 'count', 'locks']);
});

test('a mutation that nothing shows is said to be not found', async () => {
  const only = { ...options, scenarios: scenarios.filter(({ name }) => name === 'quiet') };
  const quiet = await matrix(only, { pool: poolHere(runSchedule) });
  expect(quiet.trimEnd().split('\n').slice(-2)).toEqual([
    '| torn | a number is read, then written | T1 | - | not found | - |',
    '| crossed | locks are taken in any order | T2 | - | not found | - |',
  ]);
});

test('is the same each time', async () => {
  expect(await matrix(options, { pool: poolHere(runSchedule) })).toBe(text);
});
