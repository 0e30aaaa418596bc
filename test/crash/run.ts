/**
 * The crash matrix by hand.
 *
 *     npm run crash                                              every request of every operation, on every kernel
 *     npm run crash -- --only create:57 --design rfc --scripts child      one point of it; `57b`: before it is carried out
 *     npm run crash -- --sample 20 --seed 7                      20 points of each row, drawn
 *     npm run crash -- --lost --only create                      the hypervisor loses the domain: prune alone cleans up
 *     npm run crash -- --real 50 --seed 7                        the built xl, killed with SIGKILL 50 times
 *
 * Prints each operation with its number of kill points and of leaks, and each leak with the point that it replays from; the
 * exit code is 1 when there is one.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { SystemClock, seeded } from '../../src/xenbus/clock.js';
import { crash, type Operation, operationOf, operations, type Point, type Variant, variants } from './matrix.js';
import { crashForReal } from './real.js';

/** Leaks of one row that are printed, and lines of each. */
const leaksShown = 5;
const linesShown = 12;

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    design: { type: 'string' },
    scripts: { type: 'string' },
    sample: { type: 'string' },
    seed: { type: 'string' },
    lost: { type: 'boolean', default: false },
    real: { type: 'string' },
  },
});
const seed = Number(values.seed ?? 1);
const clock = new SystemClock();
const started = clock.now();
const print = (line: string) => process.stdout.write(`${line}\n`);
const inSeconds = () => `${((clock.now() - started) / 1000).toFixed(0)} s`;

type Kill = NonNullable<Point['kill']>;

function rowText(...cells: readonly (string | number)[]): string {
  const widths = [31, 9, 7, -8, -11, -7, -6];
  return cells
    .map((cell, at) => ((widths[at] ?? 0) < 0 ? String(cell).padStart(-(widths[at] ?? 0)) : String(cell).padEnd(widths[at] ?? 0)))
    .join(' ');
}

/** The kills of a row: the one that was asked for, some that are drawn, or all. */
function killsOf(requests: number, one: Kill | undefined, draw: () => number): (Kill | undefined)[] {
  if (one) return [one];
  const all = Array.from({ length: requests * 2 }, (_, at) => ({ request: 1 + (at >> 1), before: at % 2 === 0 }));
  if (values.sample === undefined) return all;
  return Array.from({ length: Number(values.sample) }, () => all[draw() % all.length]);
}

async function simulated(): Promise<boolean> {
  const [, only, request, before] = /^(.*?)(?::(\d+)(b?))?$/.exec(values.only ?? '') ?? [];
  const one = request === undefined ? undefined : { request: Number(request), before: before === 'b' };
  const chosen = variants.filter(
    ({ design, scripts }) => (values.design ?? design) === design && (values.scripts ?? scripts) === scripts,
  );
  const draw = seeded(seed);
  const total = { kills: 0, leaks: 0, looked: 0 };
  const row = async (operation: Operation, variant: Variant): Promise<void> => {
    const { lost } = values;
    const whole = await crash(operation, { ...variant, lost, kill: undefined });
    const { requests } = whole;
    const counted = { kills: 0, prunes: 0, leaks: 0 };
    for (const kill of [undefined, ...killsOf(requests, one, draw)]) {
      const outcome = kill ? await crash(operation, { ...variant, lost, kill }) : whole;
      counted.kills += kill ? 1 : 0;
      counted.prunes += outcome.pruned.length > 0 ? 1 : 0;
      total.looked += outcome.looked;
      const said = outcome.killed || !kill ? outcome.leaks : [...outcome.leaks, 'it was not killed'];
      if (said.length === 0) continue;
      counted.leaks += 1;
      if (counted.leaks > leaksShown) continue;
      const point = kill ? `:${kill.request}${kill.before ? 'b' : ''}` : '';
      print(`${lost ? '--lost ' : ''}--only "${operation.name}${point}" --design ${variant.design} --scripts ${variant.scripts}`);
      print(kill ? `  killed ${kill.before ? 'before' : 'after'} ${outcome.last}` : '  not killed');
      for (const line of said.slice(0, linesShown)) print(`  ${line}`);
    }
    total.kills += counted.kills;
    total.leaks += counted.leaks;
    print(rowText(operation.name, variant.design, variant.scripts, requests, counted.kills, counted.prunes, counted.leaks));
  };
  print(rowText('operation', 'kernel', 'scripts', 'requests', 'kill points', 'pruned', 'leaks'));
  for (const operation of only ? [operationOf(only)] : operations) for (const variant of chosen) await row(operation, variant);
  const { kills, leaks, looked } = total;
  const law = `the law of mtwatch held against ${looked} changes of the store`;
  const isClean = leaks === 0 && kills > 0;
  const verdict = kills === 0 ? 'FAILED: nothing was killed' : isClean ? 'ok' : 'FAILED';
  print(`crash: ${kills} kill points, ${leaks} leaks; ${law}; ${inSeconds()}; ${verdict}`);
  return isClean;
}

async function real(count: number): Promise<boolean> {
  // From build/test/crash, where this runs.
  const root = new URL('../../../', import.meta.url);
  if (!existsSync(new URL('dist/bundle/xl.cjs', root))) throw new Error('there is no dist: npm run build');
  let leaks = 0;
  await crashForReal(count, seed, fileURLToPath(new URL('bin/xl.js', root)), ({ point, last, leaks: found }) => {
    print(`${point.padEnd(28)} ${last.padEnd(48)} ${found.length === 0 ? 'ok' : 'LEAK'}`);
    for (const line of found.slice(0, linesShown)) print(`  ${line}`);
    leaks += found.length === 0 ? 0 : 1;
  });
  print(`crash: ${count} times kill -9, seed ${seed}, ${leaks} leaks; ${inSeconds()}; ${leaks ? 'FAILED' : 'ok'}`);
  return leaks === 0;
}

const isClean = values.real === undefined ? await simulated() : await real(Number(values.real));
process.exitCode = isClean ? 0 : 1;
