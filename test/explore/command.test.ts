/** The command line of `xl mtwatch explore`, and what it prints, with the world of a page. */

import { XlFailure } from '../../src/cli/session.js';
import { type ExploreFlags, listText, requestOf } from '../../src/commands/mtwatch/explore.js';
import type { Campaign } from '../../src/explore/campaign.js';
import { findingOf, findingText, mostFrequent, reportJson, scenarioTable } from '../../src/explore/report.js';
import { explore, poolHere, shrinkAll } from '../../src/explore/workers.js';
import { nearest } from '../../src/xenbus/words.js';
import { hazards, runSchedule, scenarios, switches } from './toy.js';

const known = { scenarios, switches, hazards };
const request = (flags: ExploreFlags) => requestOf(flags, known);
const campaignsOf = (flags: ExploreFlags) => {
  const asked = request(flags);
  if (asked.do !== 'explore') throw new Error(asked.do);
  return asked;
};

describe('the command line', () => {
  test('without a word is 1000 random schedules of every scenario, of the hardened design', () => {
    const { campaigns, shrink } = campaignsOf({});
    expect(campaigns.map(({ setup }) => setup)).toEqual(
      scenarios.map(({ name }) => ({ design: 'hardened', scenario: name, switches: {}, without: [] })),
    );
    expect(new Set(campaigns.map(({ strategy, schedules }) => `${strategy} ${schedules}`))).toEqual(new Set(['random 1000']));
    expect(shrink).toBe(true);
  });

  test('draws one seed for all scenarios, another one each time', () => {
    const seeds = Array.from({ length: 8 }, () => new Set(campaignsOf({}).campaigns.map(({ seed }) => seed)));
    expect(seeds.map(({ size }) => size)).toEqual(Array(8).fill(1));
    expect(new Set(seeds.flatMap((each) => [...each])).size).toBeGreaterThan(4);
  });

  test('says what is explored', () => {
    const flags = {
      design: 'rfc',
      scenario: 'locks',
      strategy: 'pct',
      schedules: '50',
      seed: '0',
      workers: '3',
      'no-shrink': true,
    };
    expect(request({ ...flags, switch: ['torn=off', 'crossed=on', 'torn=on'] })).toEqual({
      do: 'explore',
      campaigns: [
        {
          setup: { design: 'rfc', scenario: 'locks', switches: { torn: true, crossed: true }, without: [] },
          strategy: 'pct',
          seed: 0,
          schedules: 50,
        },
      ],
      workers: 3,
      shrink: false,
    });
  });

  test('of the tables has a seed of its own, so that they are the same each time', () => {
    expect(request({ matrix: true, workers: '2', scenario: 'both', 'no-shrink': true })).toEqual({
      do: 'matrix',
      scenarios: [scenarios[2]],
      schedules: 1000,
      seed: 1,
      workers: 2,
      shrink: false,
    });
  });

  test.each<[ExploreFlags, string]>([
    [{ design: 'rcf' }, 'xl: there is no design rcf; did you mean rfc?\nxl: there are single, rfc, hardened'],
    [{ scenario: 'lock' }, 'xl: there is no scenario lock; did you mean locks?\nxl: there are count, locks, both, quiet, all'],
    [{ scenario: 'zzzzzzzz' }, 'xl: there is no scenario zzzzzzzz\nxl: there are count, locks, both, quiet, all'],
    [{ strategy: 'bfs' }, 'xl: there is no strategy bfs; did you mean dfs?\nxl: there are random, pct, dfs'],
    [{ switch: ['crosed=on'] }, 'xl: there is no switch crosed; did you mean crossed?\nxl: there are torn, crossed'],
    [{ switch: ['torn'] }, 'xl: --switch is NAME=on or NAME=off, not "torn"'],
    [{ switch: ['torn=yes'] }, 'xl: --switch is NAME=on or NAME=off, not "torn=yes"'],
    [{ design: 'single', switch: ['torn=on'] }, 'xl: the design single has no switch torn\nxl: it has none'],
    [{ schedules: '0' }, 'xl: --schedules is a number from 1 to 100000000, not "0"'],
    [{ schedules: '1e3' }, 'xl: --schedules is a number from 1 to 100000000, not "1e3"'],
    [{ seed: '-1' }, 'xl: --seed is a number from 0 to 4294967295, not "-1"'],
    [{ seed: '4294967296' }, 'xl: --seed is a number from 0 to 4294967295, not "4294967296"'],
    [{ workers: '65' }, 'xl: --workers is a number from 1 to 64, not "65"'],
    [{ list: true, seed: '1' }, 'xl: --list and --seed do not go together'],
    [{ replay: 'x1:rfc:both:-:-:X', design: 'rfc' }, 'xl: --replay and --design do not go together'],
    [{ matrix: true, design: 'rfc' }, 'xl: --matrix and --design do not go together'],
    [{ matrix: true, strategy: 'pct' }, 'xl: --matrix and --strategy do not go together'],
    [{ matrix: true, json: true }, 'xl: --matrix is Markdown, and --json does not go with it'],
    [{ replay: 'x1:rfc:both:-:-:Xx0' }, 'xl: --replay: column 19 of the trace: a count is a number from 2 to 999999, not "0"'],
    [{ replay: 'x1:rfc:bot:-:-:X' }, 'xl: there is no scenario bot; did you mean both?\nxl: there are count, locks, both, quiet'],
    [{ replay: 'x1:rfc:both:tron=on:-:X' }, 'xl: there is no switch tron; did you mean torn?\nxl: there are torn, crossed'],
    [{ replay: 'x1:single:both:torn=on:-:X' }, 'xl: the design single has no switch torn\nxl: it has none'],
  ])('%j is a usage error that says what there is', (flags, message) => {
    const failure = (() => {
      try {
        return request(flags);
      } catch (error) {
        return error;
      }
    })();
    expect(failure).toBeInstanceOf(XlFailure);
    expect(failure).toMatchObject({ exit: 2, message });
  });

  test('the nearest name is one that could have been meant', () => {
    expect(['create-destory', 'CREATE', 'recreate', 'x'].map((name) => nearest(name, ['create', 'create-destroy']))).toEqual([
      'create-destroy',
      'create',
      'create',
      undefined,
    ]);
  });
});

describe('what is printed', () => {
  const campaigns: Campaign[] = ['both', 'count'].map((scenario) => ({
    setup: { design: 'rfc', scenario, switches: {}, without: [] },
    strategy: 'random',
    seed: 5,
    schedules: 300,
  }));
  const exploring = { pool: poolHere(runSchedule) };

  async function found(shrunk: boolean) {
    const tallies = await explore(campaigns, exploring);
    const explored = campaigns.flatMap((campaign, index) => {
      const tally = tallies[index];
      return tally ? [{ campaign, tally }] : [];
    });
    const all = explored.flatMap((each) => each.tally.found.map((found) => ({ ...each, found })));
    const small = shrunk ? await shrinkAll(all, exploring) : [];
    return { explored, findings: all.map((each, index) => findingOf(runSchedule, each, each.found, small[index])) };
  }

  test('a finding has all that it takes to see it again', async () => {
    const { findings } = await found(true);
    const finding = findings.find(({ found }) => found.hazard === 'T2');
    const text = finding && findingText(finding, hazards, { width: 100 });
    expect(text?.replace(/schedule: .*/, 'schedule: ...')).toBe(
      [
        'T2 lock order',
        '  scenario:  both',
        '  invariant: no two wait for each other',
        '  schedule: ...',
        '  script:    X: takes a and b',
        '             D7: takes b and a',
        `  replay:    xl mtwatch explore --replay ${finding?.trace}`,
        '',
        '  step  X               D7',
        '     1  lock a',
        '     2                  lock b',
        '     3                  waits for a',
        '>    4  waits for b',
        '> T2 at step 4: X, D7',
        '  violated: no two wait for each other',
        '',
        '',
      ].join('\n'),
    );
    expect(text).toMatch(/schedule: {2}\d+ of seed 5; \d+ of 300 show it/);
  });

  test('one finding of each hazard is shown, the most frequent', async () => {
    const { findings } = await found(false);
    const most = Math.max(...findings.flatMap(({ found }) => (found.hazard === 'T1' ? [found.count] : [])));
    expect(mostFrequent(findings).map(({ found }) => [found.hazard, found.hazard === 'T1' ? found.count : 0])).toEqual([
      ['T1', most],
      ['T2', 0],
    ]);
  });

  test('the table has a row for each scenario', async () => {
    const { explored } = await found(false);
    const lines = scenarioTable(explored).split('\n');
    expect(lines[0]).toBe('Scenario  Schedules  Choices min/median/max  States  Preempted  Hazards');
    expect(lines[1]).toMatch(/^both {12}300 +\d+\/\d+\/\d+ +\d+ +5\/5 {2}T1 \d+, T2 \d+$/);
    expect(lines.length).toBe(4);
  });

  test('JSON has the same in fields', async () => {
    const { explored, findings } = await found(true);
    const json = reportJson(explored, findings, 0.1);
    expect(json).toMatchObject({
      schedules: 600,
      perSecond: 6000,
      scenarios: [
        { scenario: 'both', schedules: 300 },
        { scenario: 'count', schedules: 300, preempted: ['D1', 'D2'] },
      ],
    });
    const { violations } = json as { violations: Record<string, unknown>[] };
    expect(violations.map(({ hazard, scenario, invariant, seed }) => [hazard, scenario, invariant, seed]).sort()).toEqual([
      ['T1', 'both', 'what is added is there', 5],
      ['T1', 'count', 'what is added is there', 5],
      ['T2', 'both', 'no two wait for each other', 5],
    ]);
  });

  test('what there is', () => {
    expect(listText(known)).toBe(
      [
        'Scenarios:',
        '  count  two tasks add to one number',
        '  locks  two tasks take two locks',
        '  both   all of it, among others',
        '  quiet  nothing can go wrong',
        '',
        'Hazards:',
        '  T1  lost update: of two additions one is lost',
        '  T2  lock order: two tasks wait for each other',
        '',
        'Switches:',
        '  torn     a number is read, then written (T1; in rfc, hardened)',
        '  crossed  locks are taken in any order (T2; in rfc, hardened)',
        '',
      ].join('\n'),
    );
  });
});
