/**
 * The fuzzer by hand: `npm run fuzz -- [--inputs N] [--seed S] [--round R]`.
 *
 * Progress goes to stderr, a summary to stdout at the end; the exit code is 1 when something broke. The heap is
 * measured after a collection, at the ends of the rounds at 10 % and at 100 %, and must not have grown by more than
 * `heapGrowthMaxBytes` between.
 */
import { parseArgs } from 'node:util';
import { SystemClock } from '../../src/xenbus/clock.js';
import { failureText, fuzz, roundInputs } from './fuzz.js';

/** How much the heap may grow from 10 % to 100 % of a run. The store remembers some thousands of paths, long ones among them. */
const heapGrowthMaxBytes = 8 * 1024 * 1024;
const progressEveryMs = 5_000;

const { values } = parseArgs({
  options: { inputs: { type: 'string' }, seed: { type: 'string' }, round: { type: 'string' } },
});
const wanted: { inputs: number; seed: number; round?: number } = {
  inputs: Number(values.inputs ?? (values.round === undefined ? 1_000_000 : roundInputs)),
  seed: Number(values.seed ?? 1),
  ...(values.round === undefined ? {} : { round: Number(values.round) }),
};
for (const [name, value] of Object.entries(wanted)) {
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`--${name} must be a whole number`);
}

// Every refused request is an Error; a stack for each is half of the time. A single round is run with them.
if (wanted.round === undefined) Error.stackTraceLimit = 0;

const clock = new SystemClock();
const started = clock.now();
const perSecond = (inputs: number) => Math.round((inputs * 1000) / Math.max(1, clock.now() - started));
const heap = (): number => {
  for (let i = 0; i < 3; i += 1) globalThis.gc?.();
  return process.memoryUsage().heapUsed;
};

let told = started;
let early: number | undefined;
let late: number | undefined;
const { failure, ...done } = fuzz({
  ...wanted,
  progress: ({ rounds, inputs }) => {
    if (early === undefined && inputs >= wanted.inputs / 10) early = heap();
    if (inputs >= wanted.inputs) late = heap();
    if (clock.now() - told < progressEveryMs) return;
    told = clock.now();
    process.stderr.write(`fuzz: ${inputs} inputs, ${rounds} rounds, ${perSecond(inputs)} inputs/s\n`);
  },
});
const rate = perSecond(done.inputs);
const mib = (bytes: number | undefined) => (bytes === undefined ? '?' : `${(bytes / 1024 / 1024).toFixed(2)} MiB`);
const grown = (late ?? 0) - (early ?? late ?? 0);
const isOver = failure === undefined && globalThis.gc !== undefined && grown > heapGrowthMaxBytes;

if (failure) process.stdout.write(`${failureText(failure, wanted.inputs)}\n`);
if (isOver) process.stdout.write(`the heap grew by ${mib(grown)}, over ${mib(heapGrowthMaxBytes)}\n`);
process.stdout.write(
  `fuzz: seed ${wanted.seed}, ${done.inputs} inputs, ${done.rounds} rounds, ${done.requests} requests, ${done.events} events, ` +
    `${rate} inputs/s; heap ${mib(early)} at 10 %, ${mib(late)} at the end; ${failure || isOver ? 'FAILED' : 'ok'}\n`,
);
process.exitCode = failure || isOver ? 1 : 0;
