/** The traces of docs/hazards.md: what they show when they are replayed, step by step; and that they are all that is claimed. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { lanes } from '../../src/explore/lanes.js';
import { parseReplay, replaying } from '../../src/explore/replay.js';
import { runSchedule, scenarios, switches } from '../../src/explore/world.js';

const read = (name: string) => readFileSync(fileURLToPath(new URL(name, import.meta.url)), 'utf8');
const document = read('../../docs/hazards.md');
/** Written by `npm run hazards`: the step of the violation, and a hash of all that was noted until then. */
const recorded = JSON.parse(read('traces.json')) as { trace: string; step: number; notes: string }[];
const traces = recorded.map((each) => ({ ...each, ...parseReplay(each.trace) }));

const replay = (trace: string) => {
  const { setup, segments, hazard = '' } = parseReplay(trace);
  return runSchedule(setup, replaying(segments), { notes: true, until: hazard });
};
const titled = traces.map((each): [string, typeof each] => {
  const { design, scenario, switches } = each.setup;
  return [`${[design, ...Object.keys(switches)].join(' with ')} shows ${each.hazard} in ${scenario}`, each];
});

test.each(titled)('%s', (_, { trace, hazard, step, notes }) => {
  const outcome = replay(trace);
  expect(outcome.violations.find((violation) => violation.hazard === hazard)?.step).toBe(step);
  expect(createHash('sha256').update(JSON.stringify(outcome.notes)).digest('hex').slice(0, 16)).toBe(notes);
});

test('the posted patch has every hazard but S1 and E3, which are not its own', () => {
  const known = 'A1 D1 D2 E1 E2 E4 E5 E6 L1 L2 L3 L4 L5 L6 O1 O2 O3 O4 P1 P2 STATE U1 U2 U2R U3 U4 U5 X1 X2'.split(' ');
  const shown = traces.filter(({ setup }) => setup.design === 'rfc').map(({ hazard }) => hazard);
  expect([...new Set(shown)].sort()).toEqual(known);
});

test('D1 needs no driver domain', () => {
  expect(traces.some(({ setup, hazard }) => setup.design === 'rfc' && hazard === 'D1' && setup.scenario === 'dom0-detach')).toBe(
    true,
  );
});

describe('each switch of the hardened design', () => {
  const mutations = switches
    .filter(({ designs }) => designs.includes('hardened'))
    .flatMap(({ name, hazards }) => hazards.map((hazard): [string, string] => [name, hazard]));

  test.each(mutations)('%s shows %s, and without it the same schedule shows nothing', (name, hazard) => {
    const shows = traces.filter(({ setup, hazard: shown }) => setup.switches[name] && shown === hazard);
    expect(shows.length).toBe(1);
    for (const { setup, segments } of shows) {
      expect(setup).toMatchObject({ design: 'hardened', switches: { [name]: true } });
      expect(Object.keys(setup.switches)).toEqual([name]);
      expect(runSchedule({ ...setup, switches: {} }, replaying(segments)).violations).toEqual([]);
    }
  });
});

describe('docs/hazards.md', () => {
  const tables = document.slice(document.indexOf('<!-- tables -->'));

  test('has the traces that are replayed here, and no others', () => {
    expect(new Set(document.match(/\bx1:[^`\s]+/g))).toEqual(new Set(recorded.map(({ trace }) => trace)));
  });

  test('has a row for each scenario, a trace of each hazard of a design, and one of each cell that is not clean', () => {
    const [head = '', , ...rows] = tables.split('\n').filter((line) => line.startsWith('| Scenario') || line.startsWith('| **'));
    const first = tables.slice(tables.indexOf(head)).split('\n\n')[0] ?? '';
    const cells = first
      .trim()
      .split('\n')
      .slice(2)
      .map((row) => row.split(' | ').map((cell) => cell.replace(/^\| | \|$/g, '')));
    expect(cells.map(([scenario]) => /\*\*(.*)\*\*/.exec(scenario ?? '')?.[1])).toEqual(scenarios.map(({ name }) => name));
    expect(rows.length).toBe(scenarios.length - 1);
    const traced = (design: string, wanted: Partial<{ scenario: string; hazard: string }>) =>
      traces.some(
        ({ setup, hazard }) =>
          setup.design === design &&
          Object.keys(setup.switches).length === 0 &&
          (wanted.scenario ?? setup.scenario) === setup.scenario &&
          (wanted.hazard ?? hazard) === hazard,
      );
    for (const [index, [, ...byDesign]] of cells.entries()) {
      for (const [at, cell] of byDesign.entries()) {
        const design = ['single', 'rfc', 'hardened'][at] ?? '';
        if (cell === 'clean') continue;
        expect([design, cell, traced(design, { scenario: scenarios[index]?.name ?? '' })]).toEqual([design, cell, true]);
        for (const hazard of cell.split(', ').map((each) => each.split(' ')[0] ?? '')) {
          expect([design, hazard, traced(design, { hazard })]).toEqual([design, hazard, true]);
        }
      }
    }
    expect(cells.map(([, , , hardened]) => hardened)).toEqual(scenarios.map(() => 'clean'));
  });

  const shown = [...document.matchAll(/^```console\n\$ xl mtwatch explore --replay (\S+)\n([\s\S]*?)^```$/gm)];

  test.each(shown.map(([, trace = '', text = '']) => [parseReplay(trace).hazard, trace, text]))(
    'tells of %s what is printed',
    (hazard = '', trace, text) => {
      expect(`${lanes(replay(trace), { width: 100, hazard })}\n${hazard} occurred\n`).toBe(text);
    },
  );

  test('tells of four hazards', () => {
    expect(shown.map(([, trace = '']) => parseReplay(trace).hazard)).toEqual(['U1', 'D1', 'U2R', 'E5']);
  });
});
