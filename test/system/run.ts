/**
 * Simulations by hand: `npm run sim -- [--seed S] [--ops N] [--seeds COUNT] [--workers W] [--plant NAME] [--plants] [--trace TEXT]`.
 *
 * Seeds S, S+1, ... are run for N operations each, one after the other in each of W threads. Progress goes to stderr and a
 * summary to stdout; a violation is printed with what led to it and the command that replays it, and makes the exit code 1.
 * `--plant` plants a bug, which is to be found. `--plants` plants each one and tells after how many operations it was
 * found; the exit code is 1 when one was not. `--trace` prints the store's requests that have TEXT in them, of one seed.
 */
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { SystemClock } from '../../src/xenbus/clock.js';
import type { TraceLine } from '../../src/xenbus/trace.js';
import { isPlant, type PlantName, plants } from './plants.js';
import { type Failure, simulate } from './simulation.js';

/** What one thread does. */
interface Job {
  readonly seeds: readonly number[];
  readonly ops: number;
  readonly plant: PlantName | undefined;
}

/** What it says after each seed. */
interface Told {
  readonly ops: number;
  readonly deliveries: number;
  readonly failure: Failure | undefined;
}

/** Seeds that `--plants` tries for each bug. */
const plantSeedsMax = 40;
const progressEveryMs = 10_000;

async function work({ seeds, ops, plant }: Job, tell: (told: Told) => void): Promise<void> {
  for (const seed of seeds) {
    const { ops: begun, deliveries, failure } = await simulate(seed, ops, { plant });
    tell({ ops: begun, deliveries, failure });
  }
}

function failureText({ seed, op, law, detail, recent, history, running }: Failure, ops: number, plant?: PlantName): string {
  return [
    `VIOLATION of a law, seed ${seed}, operation ${op}: ${law}`,
    `  ${detail.split('\n').join('\n  ')}`,
    'deliveries before it:',
    ...recent.map((line) => `  ${line}`),
    'operations that ended before it:',
    ...history.map((line) => `  ${line}`),
    'operations that went on:',
    ...running.map((line) => `  ${line}`),
    `replay: npm run sim -- --seed ${seed} --ops ${ops}${plant ? ` --plant ${plant}` : ''}`,
    '',
  ].join('\n');
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string' },
      ops: { type: 'string' },
      seeds: { type: 'string' },
      workers: { type: 'string' },
      plant: { type: 'string' },
      plants: { type: 'boolean' },
      trace: { type: 'string' },
    },
  });
  const number = (name: 'seed' | 'ops' | 'seeds' | 'workers', otherwise: number): number => {
    const value = Number(values[name] ?? otherwise);
    if (!Number.isSafeInteger(value) || value < 1) throw new Error(`--${name} must be a whole number from 1 on`);
    return value;
  };
  const first = number('seed', 1);
  const ops = number('ops', 1000);
  if (values.plants) return allPlants(first, ops);
  const { plant, trace } = values;
  if (plant !== undefined && !isPlant(plant)) throw new Error(`--plant is one of ${Object.keys(plants).join(', ')}`);
  const count = number('seeds', 1);
  if (trace !== undefined) return traced(first, ops, plant, trace);

  const clock = new SystemClock();
  const started = clock.now();
  let told = started;
  const sum = { seeds: 0, ops: 0, deliveries: 0 };
  const failures: Failure[] = [];
  const perSecond = () => Math.round((sum.ops * 1000) / Math.max(1, clock.now() - started));
  const hear = ({ ops: done, deliveries, failure }: Told) => {
    sum.seeds += 1;
    sum.ops += done;
    sum.deliveries += deliveries;
    if (failure) {
      failures.push(failure);
      process.stdout.write(failureText(failure, ops, plant));
    }
    if (clock.now() - told < progressEveryMs) return;
    told = clock.now();
    process.stderr.write(
      `sim: ${sum.seeds} seeds, ${sum.ops} operations, ${failures.length} violations, ${perSecond()} operations/s\n`,
    );
  };
  const workers = Math.min(count, number('workers', 1));
  const jobs = Array.from({ length: workers }, (_, worker): Job => {
    const seeds = Array.from({ length: count }, (_each, index) => first + index).filter((seed) => seed % workers === worker);
    return { seeds, ops, plant };
  });
  await Promise.all(workers === 1 ? jobs.map((job) => work(job, hear)) : jobs.map((job) => inThread(job, hear)));
  process.stdout.write(
    `sim: ${sum.seeds} seeds from ${first}, ${sum.ops} operations, ${sum.deliveries} deliveries, ${perSecond()} operations/s; ` +
      `${failures.length} violations\n`,
  );
  process.exitCode = failures.length > 0 ? 1 : 0;
}

function inThread(job: Job, hear: (told: Told) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const thread = new Worker(new URL(import.meta.url), { workerData: job });
    thread.on('message', hear);
    thread.once('error', reject);
    thread.once('exit', (code) => (code === 0 ? resolve() : reject(new Error(`a worker has ended with ${code}`))));
  });
}

async function traced(seed: number, ops: number, plant: PlantName | undefined, text: string): Promise<void> {
  const show = (line: TraceLine) => {
    const printed = JSON.stringify(line);
    if (printed.includes(text)) process.stdout.write(`${printed}\n`);
  };
  const { failure } = await simulate(seed, ops, { plant, trace: show });
  if (failure) process.stdout.write(failureText(failure, ops, plant));
  process.exitCode = failure ? 1 : 0;
}

/** Whether the laws find each of the bugs. */
async function allPlants(first: number, ops: number): Promise<void> {
  for (const plant of Object.keys(plants).filter(isPlant)) {
    let done = 0;
    let failure: Failure | undefined;
    let seed = first;
    for (; !failure && seed < first + plantSeedsMax; seed++) {
      const outcome = await simulate(seed, ops, { plant });
      done += outcome.ops;
      failure = outcome.failure;
    }
    const how = failure
      ? `found by seed ${failure.seed} (${seed - first} seeds, ${done} operations): ${failure.law}`
      : `NOT FOUND in ${plantSeedsMax} seeds, ${done} operations`;
    process.stdout.write(`${plant.padEnd(24)} ${how}\n`);
    if (!failure) process.exitCode = 1;
  }
}

// Many refusals are answers here: a stack for each is most of the time.
Error.stackTraceLimit = 4;
if (isMainThread) await main();
else await work(workerData as Job, (told) => parentPort?.postMessage(told));
