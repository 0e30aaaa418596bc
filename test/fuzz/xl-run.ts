/**
 * The fuzzer of configs, specifications and command lines by hand: `npm run fuzz:xl -- [--inputs N] [--seed S] [--input I]`.
 *
 * Progress goes to stderr, a summary to stdout; the exit code is 1 when something broke, or when the heap has grown from
 * 10 % to the end by more than `heapGrowthMaxBytes`.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Table } from '../../src/cli/argv.js';
import { declined } from '../../src/cli/declined.js';
import { SystemClock } from '../../src/xenbus/clock.js';
import { fuzzXl, inputOf } from './xl.js';

const heapGrowthMaxBytes = 8 * 1024 * 1024;
const progressEveryMs = 5_000;

const { values } = parseArgs({ options: { inputs: { type: 'string' }, seed: { type: 'string' }, input: { type: 'string' } } });
const seed = Number(values.seed ?? 1);
const inputs = Number(values.inputs ?? 1_000_000);
const table: Table = { ...JSON.parse(readFileSync('oclif.manifest.json', 'utf8')), declined, topics: {} };

if (values.input !== undefined) {
  process.stdout.write(`${JSON.stringify(inputOf(seed, Number(values.input), table))}\n`);
} else {
  // What ends xl is an Error, and a stack for each is half of the time. `--input` names the one to look at.
  Error.stackTraceLimit = 0;
  const clock = new SystemClock();
  const started = clock.now();
  const heap = (): number => {
    globalThis.gc?.();
    return process.memoryUsage().heapUsed;
  };
  let told = started;
  let early: number | undefined;
  const { failure, ...done } = fuzzXl({
    seed,
    inputs,
    table,
    progress: (count) => {
      if (early === undefined && count >= inputs / 10) early = heap();
      if (clock.now() - told < progressEveryMs) return;
      told = clock.now();
      process.stderr.write(`fuzz: ${count} inputs, ${Math.round((count * 1000) / (told - started))} inputs/s\n`);
    },
  });
  const late = heap();
  const seconds = (clock.now() - started) / 1000;
  const isOver = failure === undefined && early !== undefined && late - early > heapGrowthMaxBytes;
  if (failure) {
    process.stdout.write(`seed ${seed}, input ${failure.number}: ${JSON.stringify(failure.input)}\n${failure.error.stack}\n`);
  }
  if (isOver) process.stdout.write(`the heap grew from ${early} to ${late} bytes\n`);
  process.stdout.write(
    `fuzz: seed ${seed}, ${done.inputs} inputs, ${done.accepted} accepted, ${done.refused} refused, ${seconds.toFixed(0)} s; ` +
      `heap ${((early ?? late) / 2 ** 20).toFixed(1)} MiB at 10 %, ${(late / 2 ** 20).toFixed(1)} MiB at the end; ` +
      `${failure || isOver ? 'FAILED' : 'ok'}\n`,
  );
  process.exitCode = failure || isOver ? 1 : 0;
}
