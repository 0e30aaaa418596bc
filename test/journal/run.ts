/**
 * The journal held against the end of dom0, by hand: `npm run journal -- [--kills N] [--seed S] [--fsync always|never]
 * [--cmdline WORDS]`, or `npm run journal -- --points` for its end at every record of one episode, in this process.
 *
 * Progress goes to stderr, a summary to stdout at the end; the exit code is 1 when something was wrong.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { SystemClock } from '../../src/xenbus/clock.js';
import { kills } from './kills.js';
import { recoverAt, runEpisode } from './points.js';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    fsync: { type: 'string', default: 'always' },
    cmdline: { type: 'string', default: 'xen_mtwatch' },
    points: { type: 'boolean', default: false },
  },
});
const { cmdline, fsync } = values;
const clock = new SystemClock();
const started = clock.now();
const seconds = () => `${((clock.now() - started) / 1000).toFixed(1)} s`;
const wrong: string[] = [];

if (values.points) {
  const episode = await runEpisode(cmdline);
  let bad = 0;
  wrong.push(...episode.wrong);
  for (const point of episode.points) {
    const found = await recoverAt(episode, point, cmdline);
    if (found.length > 0) bad += 1;
    wrong.push(...found);
  }
  process.stdout.write(`${wrong.map((line) => `${line}\n`).join('')}`);
  process.stdout.write(`journal: ${episode.points.length} ends of dom0, one behind each record: ${bad} wrong, in ${seconds()}\n`);
} else {
  const [count, seed] = [Number(values.kills), Number(values.seed)];
  if (!Number.isSafeInteger(count) || count < 1 || !Number.isSafeInteger(seed))
    throw new Error('--kills and --seed are whole numbers');
  if (fsync !== 'always' && fsync !== 'never') throw new Error('--fsync is always or never');
  const dir = mkdtempSync(join(tmpdir(), 'xl-kills-'));
  const done = await kills({
    ...{ dir, kills: count, seed, fsync, cmdline },
    dom0d: fileURLToPath(new URL('../../../dist/bundle/dom0d.js', import.meta.url)),
    say: (line) => process.stderr.write(`journal: ${line}, ${seconds()}\n`),
  });
  wrong.push(...done.wrong);
  const starts = done.startMs.toSorted((a, b) => a - b);
  const at = (part: number) => Math.round(starts[Math.floor((starts.length - 1) * part)] ?? 0);
  for (const [kind, times] of [...done.halfDone].sort((a, b) => b[1] - a[1]))
    process.stdout.write(`${String(times).padStart(6)}  ${kind}\n`);
  for (const line of new Set(done.failures)) process.stdout.write(`failed: ${line}\n`);
  for (const line of wrong) process.stdout.write(`wrong: ${line}\n`);
  process.stdout.write(
    `journal: seed ${seed}, fsync ${fsync}, ${done.kills} kills, ${done.acknowledged} writes acknowledged, ` +
      `${done.operations} operations (${done.failures.length} failed), a start takes ${at(0.5)} ms (99 %: ${at(0.99)}): ${wrong.length} wrong, in ${seconds()}\n`,
  );
  if (wrong.length > 0) process.stdout.write(`what is left of it is in ${dir}\n`);
  else rmSync(dir, { recursive: true, force: true });
}
process.exit(wrong.length > 0 ? 1 : 0);
