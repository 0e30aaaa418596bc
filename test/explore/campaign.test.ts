import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { transformSync } from '@swc/core';
import {
  added,
  type Campaign,
  emptyTally,
  piecesOf,
  runPiece,
  segmentsOf,
  spread,
  type Tally,
} from '../../src/explore/campaign.js';
import { replaying } from '../../src/explore/replay.js';
import { scheduleSeed, strategies } from '../../src/explore/strategy.js';
import { explore, poolHere, poolOf, shrinkAll } from '../../src/explore/workers.js';
import { runSchedule } from './toy.js';

const campaign = (changes: Partial<Campaign> = {}): Campaign => ({
  setup: { design: 'rfc', scenario: 'both', switches: {}, without: [] },
  strategy: 'random',
  seed: 3,
  schedules: 500,
  ...changes,
});

function whole(running: Generator<void, Tally>): Tally {
  for (;;) {
    const { done, value } = running.next();
    if (done) return value;
  }
}

test('how a campaign is cut makes no difference to what comes out', () => {
  for (const strategy of strategies) {
    const sums = [1, 7, 64, 500].map((size) =>
      piecesOf(campaign({ strategy }), size)
        .map((piece) => whole(runPiece(runSchedule, piece)))
        .reverse()
        .reduce(added, emptyTally),
    );
    for (const sum of sums) expect(sum).toEqual(sums[0]);
    expect(sums[0]?.schedules).toBe(500);
    expect(sums[0]?.found.map(({ hazard }) => hazard).sort()).toEqual(['T1', 'T2']);
  }
});

test('the first schedule that showed a hazard can be run alone', () => {
  for (const strategy of strategies) {
    const [piece] = piecesOf(campaign({ strategy }), 500);
    if (!piece) throw new Error('there is no piece');
    for (const found of whole(runPiece(runSchedule, piece)).found) {
      const segments = segmentsOf(runSchedule, piece.campaign, found);
      const { violations } = runSchedule(piece.campaign.setup, replaying(segments));
      expect(violations.map(({ hazard }) => hazard)).toContain(found.hazard);
    }
  }
});

test('a small space is exhausted, and a campaign ends there', () => {
  const small = campaign({ strategy: 'dfs', setup: { design: 'rfc', scenario: 'count', switches: {}, without: [] } });
  const tallies = piecesOf(small, 100).map((piece) => whole(runPiece(runSchedule, piece)));
  expect(tallies.map(({ schedules, exhausted }) => ({ schedules, exhausted }))).toEqual([{ schedules: 18, exhausted: true }]);
});

test('choice points are told as least, middle and most', () => {
  const choices = new Map([
    [9, 1],
    [2, 2],
    [4, 2],
  ]);
  expect([spread(choices), spread(new Map())]).toEqual([
    { min: 2, median: 4, max: 9 },
    { min: 0, median: 0, max: 0 },
  ]);
});

describe('workers', () => {
  const dir = mkdtempSync(join(tmpdir(), 'xl-explore-'));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  /** A program for worker threads, which cannot run TypeScript: the toy world and what serves it, translated. */
  function program(): URL {
    const modules = ['strategy', 'replay', 'outcome', 'shrink', 'campaign', 'workers'].map((name) => `src/explore/${name}`);
    const root = fileURLToPath(new URL('../..', import.meta.url));
    for (const name of [...modules, 'src/xenbus/clock', 'test/explore/toy']) {
      const { code } = transformSync(readFileSync(join(root, `${name}.ts`), 'utf8'), {
        jsc: { target: 'es2022', parser: { syntax: 'typescript' } },
        module: { type: 'es6' },
      });
      mkdirSync(dirname(join(dir, name)), { recursive: true });
      writeFileSync(join(dir, `${name}.js`), code);
    }
    writeFileSync(join(dir, 'package.json'), '{"type":"module"}');
    const file = join(dir, 'worker.js');
    writeFileSync(
      file,
      `import { parentPort } from 'node:worker_threads';
      import { serveJobs } from './src/explore/workers.js';
      import { runSchedule } from './test/explore/toy.js';
      serveJobs(parentPort, runSchedule);`,
    );
    return pathToFileURL(file);
  }

  test('find and shrink the same as one thread does, and tell how far they are', async () => {
    const campaigns = strategies.map((strategy) => campaign({ strategy, seed: scheduleSeed(1, 2) }));
    const results: unknown[] = [];
    for (const pool of [poolHere(runSchedule), poolOf(1, undefined, program()), poolOf(3, undefined, program())]) {
      let schedules = 0;
      const exploring = {
        pool,
        ran: (more: number) => {
          schedules += more;
        },
      };
      const tallies = await explore(campaigns, exploring);
      const wanted = tallies.flatMap(({ found }, index) =>
        found.map((each) => ({ campaign: campaigns[index] ?? campaign(), found: each })),
      );
      results.push({ tallies, shrunk: await shrinkAll(wanted, exploring) });
      expect(schedules).toBeGreaterThanOrEqual(1500);
      await pool.close();
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });

  test('that are told to stop leave what is done by then', async () => {
    for (const make of [
      (signal: AbortSignal) => poolHere(runSchedule, signal),
      (signal: AbortSignal) => poolOf(2, signal, program()),
    ]) {
      const stop = new AbortController();
      const pool = make(stop.signal);
      let pieces = 0;
      const counting = {
        ...pool,
        run: async (...args: Parameters<typeof pool.run>) => {
          const done = await pool.run(...args);
          if (++pieces === 3) stop.abort();
          return done;
        },
      };
      const [tally] = await explore([campaign({ schedules: 100_000 })], { pool: counting, signal: stop.signal });
      await pool.close();
      expect(tally?.schedules).toBeGreaterThan(0);
      expect(tally?.schedules).toBeLessThan(50_000);
    }
  });

  test('that cannot start say why', async () => {
    const file = join(dir, 'broken.js');
    writeFileSync(file, 'throw new Error("no world");');
    const pool = poolOf(2, undefined, pathToFileURL(file));
    await expect(explore([campaign()], { pool })).rejects.toThrow('no world');
    await pool.close();
  });
});
