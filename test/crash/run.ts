/**
 * The crash matrix by hand: `npm run crash -- [--only OPERATION[:REQUEST]] [--design D] [--scripts inside|child]`.
 *
 * Prints each operation with its number of kill points and of leaks; the exit code is 1 when there is a leak. A leak is
 * printed with the point that it replays from: `--only "create:57" --design rfc --scripts child`; a request that is not
 * carried out any more is `create:57b`.
 */
import { parseArgs } from 'node:util';
import { SystemClock } from '../../src/xenbus/clock.js';
import { crash, type Operation, operationOf, operations, type Variant, variants } from './matrix.js';

/** Leaks of one operation and variant that are printed. */
const leaksShown = 5;

const { values } = parseArgs({
  options: { only: { type: 'string' }, design: { type: 'string' }, scripts: { type: 'string' }, verbose: { type: 'boolean' } },
});
const [, only, request, before] = /^(.*?)(?::(\d+)(b?))?$/.exec(values.only ?? '') ?? [];
const chosen = variants.filter(
  ({ design, scripts }) => (values.design ?? design) === design && (values.scripts ?? scripts) === scripts,
);
const wanted = only ? [operationOf(only)] : operations;
const clock = new SystemClock();
const started = clock.now();
const print = (line: string) => process.stdout.write(`${line}\n`);

let leaked = 0;
let points = 0;
let looked = 0;

/** Kills at one request, or at each in turn; answers with what the table says of it. */
async function row(operation: Operation, variant: Variant): Promise<string> {
  const { requests } = await crash(operation, { ...variant, kill: undefined });
  let kills = 0;
  let leaks = 0;
  let prunes = 0;
  const from = Number(request ?? 1);
  for (let at = from; at <= (request ? from : requests); at += 1) {
    for (const isBefore of request ? [before === 'b'] : [true, false]) {
      const outcome = await crash(operation, { ...variant, kill: { request: at, before: isBefore } });
      kills += 1;
      looked += outcome.looked;
      prunes += outcome.pruned.length > 0 ? 1 : 0;
      const said = outcome.killed ? outcome.leaks : [...outcome.leaks, 'it was not killed'];
      if (said.length === 0) continue;
      leaks += 1;
      if (leaks > leaksShown) continue;
      print(`--only "${operation.name}:${at}${isBefore ? 'b' : ''}" --design ${variant.design} --scripts ${variant.scripts}`);
      print(`  killed ${isBefore ? 'before' : 'after'} ${outcome.last}`);
      for (const line of said.slice(0, 12)) print(`  ${line}`);
    }
  }
  points += kills;
  leaked += leaks;
  const { name } = operation;
  return `${name.padEnd(28)} ${variant.design.padEnd(9)} ${variant.scripts.padEnd(7)} ${String(requests).padStart(8)} ${String(kills).padStart(11)} ${String(prunes).padStart(6)} ${String(leaks).padStart(6)}`;
}

print(`${'operation'.padEnd(28)} ${'kernel'.padEnd(9)} ${'scripts'.padEnd(7)} requests kill points pruned  leaks`);
for (const operation of wanted) for (const variant of chosen) print(await row(operation, variant));
const seconds = ((clock.now() - started) / 1000).toFixed(0);
print(
  `crash: ${points} kill points, ${leaked} leaks; the law of mtwatch looked at after ${looked} changes; ${seconds} s; ${leaked ? 'FAILED' : 'ok'}`,
);
process.exitCode = leaked ? 1 : 0;
