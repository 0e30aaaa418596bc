/** The model itself: what each design shows, that schedules reach into everything, and that they are the same each time. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { transformSync } from '@swc/core';
import { type Campaign, runPiece, type Tally } from '../../src/explore/campaign.js';
import { type Chooser, type Coverage, type Design, designs, type Setup } from '../../src/explore/outcome.js';
import { recording, replaying } from '../../src/explore/replay.js';
import { byDefault, pct, random, type Strategy, scheduleSeed } from '../../src/explore/strategy.js';
import { explore, poolHere, poolOf } from '../../src/explore/workers.js';
import { runSchedule, scenarios } from '../../src/explore/world.js';

const names = scenarios.map(({ name }) => name);
const setupOf = (design: Design, scenario: string): Setup => ({ design, scenario, switches: {}, without: [] });

/** The default schedule, and some of each strategy that draws: what they showed. */
function shownBy(design: Design, scenario: string, each: number): string[] {
  const choosers: (() => Chooser)[] = [
    () => byDefault,
    ...Array.from({ length: each }, (_, index) => () => random(scheduleSeed(11, index))),
    ...Array.from({ length: each }, (_, index) => () => pct(scheduleSeed(12, index), 2 + (index % 4), 600)),
  ];
  const shown = choosers.flatMap((choose) => runSchedule(setupOf(design, scenario), choose()).violations);
  return [...new Set(shown.map(({ hazard }) => hazard))].sort();
}

test.each(names)('hardened: nothing goes wrong in %s', (scenario) => {
  expect(shownBy('hardened', scenario, 3)).toEqual([]);
});

/** Where something of a domain is held up, so that one thread for all stands still. */
const stalls = [
  'destroy-stalled',
  'destroy-stalled-io',
  'destroy-stalled-grants',
  'connect-stalled',
  'heal-two-vifs',
  'node-first',
  'late-event',
  'block-attach-stalled',
  'dom0-detach',
  'purge-block',
  'unannounced',
  'reuse-stalled',
  'recreate-stalled',
  'self-wait',
  'flood',
  'process-closes',
  'xenwatch-stalled',
  'vifs-stalled',
];

test.each(names)('single: one thread stalls for all where a domain does, and nothing else goes wrong, in %s', (scenario) => {
  const shown = shownBy('single', scenario, 1);
  // Netfront waits for its back end, which a driver domain may take its time to close.
  if (scenario.startsWith('driver-domain')) expect(shown.filter((hazard) => hazard !== 'S1')).toEqual([]);
  else expect(shown).toEqual(stalls.includes(scenario) ? ['S1'] : []);
});

test.each(designs)('%s: every point where a task can be preempted is one, and was', (design) => {
  const coverage: Coverage = { states: new Set(), points: new Set(), preempted: new Set() };
  for (const scenario of ['two-devices', 'no-memory']) {
    for (let index = 0; index < 8; index++) {
      runSchedule(setupOf(design, scenario), random(scheduleSeed(1, index)), { coverage });
    }
  }
  expect([...coverage.points].sort()).toEqual(pointsOf[design]);
  expect([...coverage.preempted].sort()).toEqual(pointsOf[design]);
});

const everywhere = ['down_read', 'mutex_lock', 'spin_lock', 'xenstore request'];
/** Only who makes threads of domains waits for them. */
const withThreads = [...everywhere, 'kthread_run'].sort();
const pointsOf: Record<Design, readonly string[]> = { single: everywhere, rfc: withThreads, hardened: withThreads };

test.each(designs)('%s: a schedule is the same, note by note, each time and when it is replayed', (design) => {
  const setup = setupOf(design, 'node-first');
  const recorder = recording(random(3));
  const once = runSchedule(setup, recorder.chooser, { notes: true });
  expect(once.notes.length).toBeGreaterThan(50);
  // Another run between the two leaves nothing behind.
  runSchedule(setupOf('rfc', 'toggle'), random(4));
  expect(runSchedule(setup, random(3), { notes: true })).toEqual(once);
  expect(runSchedule(setup, replaying(recorder.segments), { notes: true })).toEqual(once);
});

test('an observer changes nothing: with notes, coverage or none, the schedule is the same', () => {
  const setup = setupOf('rfc', 'hasty-destroy');
  const { notes: _, ...bare } = runSchedule(setup, random(5));
  const { notes: __, ...noted } = runSchedule(setup, random(5), { notes: true });
  const coverage: Coverage = { states: new Set(), points: new Set(), preempted: new Set() };
  const { notes: ___, ...covered } = runSchedule(setup, random(5), { coverage });
  expect(noted).toEqual(bare);
  expect(covered).toEqual(bare);
});

describe('worker threads', () => {
  let dir: string;
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'world-'));
  });
  afterAll(() => rmSync(dir, { recursive: true }));

  /** The program of a worker, as it is when it is built. */
  function program(): URL {
    const root = fileURLToPath(new URL('../../src', import.meta.url));
    for (const part of ['explore', 'xenbus']) {
      for (const name of readdirSync(join(root, part), { recursive: true, encoding: 'utf8' })) {
        if (!name.endsWith('.ts')) continue;
        const { code } = transformSync(readFileSync(join(root, part, name), 'utf8'), {
          jsc: { target: 'es2022', parser: { syntax: 'typescript' } },
          module: { type: 'es6' },
        });
        const file = join(dir, part, name.replace(/\.ts$/, '.js'));
        mkdirSync(dirname(file), { recursive: true });
        writeFileSync(file, code);
      }
    }
    writeFileSync(join(dir, 'package.json'), '{"type":"module"}');
    return pathToFileURL(join(dir, 'explore/worker.js'));
  }

  test('find what one thread finds, and go through the same', async () => {
    const campaigns = (['random', 'pct', 'dfs'] satisfies Strategy[]).map(
      (strategy): Campaign => ({ setup: setupOf('rfc', 'crash-adding'), strategy, seed: 9, schedules: 10 }),
    );
    const here = await explore(campaigns, { pool: poolHere(runSchedule) });
    expect(here.map(({ schedules }) => schedules)).toEqual([10, 10, 10]);
    for (const workers of [1, 3]) {
      const pool = poolOf(workers, undefined, program());
      expect(await explore(campaigns, { pool })).toEqual(here);
      await pool.close();
    }
  });
});

test('a piece of a campaign is the same alone as in the whole', () => {
  const campaign: Campaign = { setup: setupOf('rfc', 'no-memory'), strategy: 'random', seed: 9, schedules: 8 };
  const tally = (from: number, to: number): Tally => {
    const running = runPiece(runSchedule, { campaign, from, to });
    for (;;) {
      const { done, value } = running.next();
      if (done) return value;
    }
  };
  const whole = tally(0, 8);
  expect(tally(0, 5).schedules + tally(5, 8).schedules).toBe(whole.schedules);
  expect(new Set([...tally(0, 5).coverage.states, ...tally(5, 8).coverage.states])).toEqual(whole.coverage.states);
});
