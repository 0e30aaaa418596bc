import { availableParallelism } from 'node:os';
import * as Flags from '@oclif/core/flags';
import chalk from 'chalk';
import { coloured, printJson, XlFailure } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';
import type { Campaign } from '../../explore/campaign.js';
import { type LanesOptions, lanes } from '../../explore/lanes.js';
import { matrix } from '../../explore/matrix.js';
import {
  type Design,
  designs,
  type HazardInfo,
  type RunSchedule,
  type ScenarioInfo,
  type SwitchInfo,
} from '../../explore/outcome.js';
import { parseReplay, type Replay, ReplayError, replaying } from '../../explore/replay.js';
import {
  type Explored,
  findingOf,
  findingText,
  mostFrequent,
  perSecond,
  reportJson,
  scenarioTable,
} from '../../explore/report.js';
import { strategies } from '../../explore/strategy.js';
import { type Exploring, explore, poolHere, poolOf, shrinkAll } from '../../explore/workers.js';
import * as world from '../../explore/world.js';
import { SystemClock } from '../../xenbus/clock.js';
import { nearest } from '../../xenbus/words.js';

/** What there is to explore. */
export interface World {
  readonly runSchedule: RunSchedule;
  readonly scenarios: readonly ScenarioInfo[];
  readonly hazards: readonly HazardInfo[];
  readonly switches: readonly SwitchInfo[];
}

const defaultSchedules = 1000;
const schedulesMax = 100_000_000;
const workersMax = 64;
/** Fewer schedules than that are run in less time than it takes to start threads. */
const schedulesForWorkers = 3000;
const defaultWorkersMax = 8;
/** Where nobody says how wide a line is. */
const defaultWidth = 100;

export default class MtwatchExplore extends XlCommand {
  static override summary = 'Search the schedules of a watch design for what goes wrong';
  static override description =
    `Run a model of dom0's watch threads under many schedules, in scenarios such as create and destroy, and look for hazards: a use after free, a deadlock, a domain that stalls another. What is found is shrunk to a trace that is short enough to read, and can be replayed. Needs no dom0.

Exit code 0: nothing was found; 1: a violation was; 2: usage.`;
  static override examples = [
    '<%= config.bin %> mtwatch explore --design rfc',
    '<%= config.bin %> mtwatch explore --design rfc --strategy pct --schedules 20000 --seed 7',
    '<%= config.bin %> mtwatch explore --list',
  ];
  static override flags = {
    design: Flags.string({ helpValue: 'NAME', description: 'single, rfc or hardened (default hardened)' }),
    scenario: Flags.string({ helpValue: 'NAME', description: 'one scenario (default all)' }),
    strategy: Flags.string({ helpValue: 'NAME', description: 'random, pct or dfs (default random)' }),
    schedules: Flags.string({ helpValue: 'N', description: `schedules of each scenario (default ${defaultSchedules})` }),
    seed: Flags.string({ helpValue: 'N', description: 'what the schedules are drawn from (default: another one each time)' }),
    switch: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'NAME=on|off',
      description: 'turn a part of the design into a hazard, or out of it (repeatable)',
    }),
    workers: Flags.string({ helpValue: 'N', description: 'threads to run schedules in (default: by the number of processors)' }),
    'no-shrink': Flags.boolean({ default: false, description: 'show schedules as they were found' }),
    replay: Flags.string({ helpValue: 'TRACE', description: 'run the one schedule of a trace, and show it' }),
    list: Flags.boolean({ default: false, description: 'list scenarios, hazards and switches' }),
    matrix: Flags.boolean({
      default: false,
      description: 'print tables of all designs and switches, as Markdown (by random and pct; default seed 1)',
    }),
    json: Flags.boolean({ default: false, description: 'print JSON' }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(MtwatchExplore);
    const request = requestOf(flags, world);
    switch (request.do) {
      case 'list':
        if (flags.json) printJson({ scenarios: world.scenarios, hazards: world.hazards, switches: world.switches });
        else process.stdout.write(listText(world));
        return;
      case 'replay':
        return replay(request.replay, flags.json);
      case 'matrix':
        return interruptible(request.workers, async (exploring, quiet) => {
          const shrinking = request.shrink ? {} : { runsMax: 0 };
          const text = await matrix({ ...request, switches: world.switches, designs, shrinking }, exploring);
          quiet();
          if (!exploring.signal?.aborted) process.stdout.write(text);
          return 0;
        });
      case 'explore':
        return interruptible(request.workers, (exploring, quiet) => campaigns(request, flags.json, exploring, quiet));
    }
  }
}

/** What the command line asks for. */
export type Request =
  | { readonly do: 'list' }
  | { readonly do: 'replay'; readonly replay: Replay }
  | {
      readonly do: 'matrix';
      readonly scenarios: readonly ScenarioInfo[];
      readonly schedules: number;
      readonly seed: number;
      readonly workers: number;
      readonly shrink: boolean;
    }
  | {
      readonly do: 'explore';
      readonly campaigns: readonly Campaign[];
      readonly workers: number;
      readonly shrink: boolean;
    };

type ExploreRequest = Extract<Request, { do: 'explore' }>;

export type ExploreFlags = Readonly<Record<string, unknown>>;

/** Reads the flags. A mistake is a usage error that names what there is. */
export function requestOf(flags: ExploreFlags, { scenarios, switches }: Pick<World, 'scenarios' | 'switches'>): Request {
  const given = Object.keys(flags).filter((name) => flags[name] !== undefined && flags[name] !== false);
  const alone = (name: string, ...beside: readonly string[]) => {
    const other = given.find((flag) => ![name, 'json', 'verbosity', 'timestamps', ...beside].includes(flag));
    if (other !== undefined) throw usage(`--${name} and --${other} do not go together`);
  };
  const text = (name: string) => flags[name] as string | undefined;

  if (flags['list']) {
    alone('list');
    return { do: 'list' };
  }
  const trace = text('replay');
  if (trace !== undefined) {
    alone('replay');
    return { do: 'replay', replay: replayOf(trace, scenarios, switches) };
  }
  const strategy = oneOf('strategy', text('strategy') ?? 'random', strategies);
  const schedules = numberOf('schedules', text('schedules'), 1, schedulesMax) ?? defaultSchedules;
  const seed = numberOf('seed', text('seed'), 0, 0xffff_ffff);
  const workers = numberOf('workers', text('workers'), 1, workersMax);
  const scenario = text('scenario') ?? 'all';
  const names = scenarios.map(({ name }) => name);
  const wanted = scenario === 'all' ? names : [oneOf('scenario', scenario, names, 'all')];
  const shrink = !flags['no-shrink'];
  if (flags['matrix']) {
    alone('matrix', 'scenario', 'schedules', 'seed', 'workers', 'no-shrink');
    if (flags['json']) throw usage('--matrix is Markdown, and --json does not go with it');
    return {
      do: 'matrix',
      scenarios: scenarios.filter(({ name }) => wanted.includes(name)),
      schedules,
      seed: seed ?? 1,
      workers: workers ?? defaultWorkers(),
      shrink,
    };
  }

  const design = oneOf('design', text('design') ?? 'hardened', designs);
  const set = switchesOf((flags['switch'] as readonly string[] | undefined) ?? [], design, switches);
  const drawn = seed ?? new DataView(new SystemClock().random(4).slice().buffer).getUint32(0);
  return {
    do: 'explore',
    campaigns: wanted.map((name) => ({
      setup: { design, scenario: name, switches: set, without: [] },
      strategy,
      seed: drawn,
      schedules,
    })),
    workers: workers ?? (schedules * wanted.length < schedulesForWorkers ? 1 : defaultWorkers()),
    shrink,
  };
}

function defaultWorkers(): number {
  return Math.min(availableParallelism(), defaultWorkersMax);
}

function usage(message: string): XlFailure {
  return new XlFailure(2, `xl: ${message}`);
}

function numberOf(flag: string, text: string | undefined, least: number, most: number): number | undefined {
  if (text === undefined) return undefined;
  const number = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (!(number >= least && number <= most)) throw usage(`--${flag} is a number from ${least} to ${most}, not "${text}"`);
  return number;
}

/** The name, which must be there; else a word about the nearest one, and all of them. */
function oneOf<T extends string>(what: string, name: string, names: readonly T[], ...also: readonly string[]): T {
  const known = names.find((each) => each === name);
  if (known !== undefined) return known;
  const all = [...names, ...also];
  const near = nearest(name, all);
  throw usage(
    `there is no ${what} ${name}${near === undefined ? '' : `; did you mean ${near}?`}\nxl: there are ${all.join(', ') || 'none'}`,
  );
}

function switchesOf(words: readonly string[], design: Design, known: readonly SwitchInfo[]): Record<string, boolean> {
  const set: Record<string, boolean> = {};
  for (const word of words) {
    const [, name, value] = /^([^=]+)=(on|off)$/.exec(word) ?? [];
    if (name === undefined || value === undefined) throw usage(`--switch is NAME=on or NAME=off, not "${word}"`);
    set[switchIn(name, design, known)] = value === 'on';
  }
  return set;
}

function switchIn(name: string, design: Design, known: readonly SwitchInfo[]): string {
  oneOf(
    'switch',
    name,
    known.map((each) => each.name),
  );
  const there = known.filter((each) => each.designs.includes(design)).map((each) => each.name);
  if (there.includes(name)) return name;
  throw usage(`the design ${design} has no switch ${name}\nxl: it has ${there.join(', ') || 'none'}`);
}

function replayOf(trace: string, scenarios: readonly ScenarioInfo[], switches: readonly SwitchInfo[]): Replay {
  try {
    const replay = parseReplay(trace);
    const { design, scenario, switches: set } = replay.setup;
    oneOf(
      'scenario',
      scenario,
      scenarios.map(({ name }) => name),
    );
    for (const name of Object.keys(set)) switchIn(name, design, switches);
    return replay;
  } catch (error) {
    throw error instanceof ReplayError ? usage(`--replay: ${error.message}`) : error;
  }
}

/** What there is, for `--list`. */
export function listText({ scenarios, hazards, switches }: Omit<World, 'runSchedule'>): string {
  const section = (title: string, rows: readonly (readonly [string, string])[]) => {
    const width = Math.max(0, ...rows.map(([name]) => name.length));
    return `${title}:\n${rows.map(([name, what]) => `  ${name.padEnd(width)}  ${what}\n`).join('')}`;
  };
  return [
    section(
      'Scenarios',
      scenarios.map(({ name, what }) => [name, what]),
    ),
    section(
      'Hazards',
      hazards.map(({ id, title, what }) => [id, `${title}: ${what}`]),
    ),
    section(
      'Switches',
      switches.map(({ name, what, hazards, designs }) => [name, `${what} (${hazards.join(', ')}; in ${designs.join(', ')})`]),
    ),
  ].join('\n');
}

/** As wide as the terminal; in colour on one. */
function lanesOptions(): LanesOptions {
  const width = process.stdout.columns || defaultWidth;
  if (!coloured(process.stdout)) return { width };
  return { width, paint: { head: chalk.bold, dim: chalk.dim, violated: chalk.red } };
}

function replay({ setup, segments, hazard }: Replay, json: boolean): void {
  const outcome = world.runSchedule(setup, replaying(segments), {
    notes: true,
    ...(hazard === undefined ? {} : { until: hazard }),
  });
  const beyond = setup.without.find((number) => number >= outcome.operations.length);
  if (beyond !== undefined) {
    throw usage(`--replay: ${setup.scenario} has ${outcome.operations.length} operations, and there is no operation ${beyond}`);
  }
  const seen = outcome.violations.filter((violation) => hazard === undefined || violation.hazard === hazard);
  const occurred = seen.length > 0;
  if (json) {
    printJson({ occurred, violations: outcome.violations, steps: outcome.steps, choices: outcome.choices, notes: outcome.notes });
  } else {
    process.stdout.write(lanes(outcome, { ...lanesOptions(), ...(hazard === undefined ? {} : { hazard }) }));
    const what = hazard ?? 'a violation';
    process.stdout.write(occurred ? `\n${seen.map((each) => each.hazard).join(', ')} occurred\n` : `\n${what} did not occur\n`);
  }
  if (occurred) throw new XlFailure(1);
}

/** Explores, and says what was found. After Ctrl-C, of what has been run by then. */
async function campaigns(
  { campaigns, shrink, workers }: ExploreRequest,
  json: boolean,
  exploring: Exploring,
  quiet: () => void,
): Promise<number> {
  const began = performance.now();
  const tallies = await explore(campaigns, exploring);
  const seconds = (performance.now() - began) / 1000;
  const explored = campaigns.flatMap((campaign, index): Explored[] => {
    const tally = tallies[index];
    return tally ? [{ campaign, tally }] : [];
  });
  const all = explored.flatMap((each) => each.tally.found.map((found) => ({ ...each, found })));
  // Shrinking is most of the work where there are many hazards: once for each will do.
  const frequent = mostFrequent(all);
  const shrunk = shrink ? await shrinkAll(frequent, exploring) : [];
  const findings = (json ? all : frequent).map((each) =>
    findingOf(world.runSchedule, each, each.found, shrunk[frequent.indexOf(each)]),
  );
  quiet();
  if (json) {
    printJson(reportJson(explored, findings, seconds));
  } else {
    for (const finding of findings) process.stdout.write(findingText(finding, world.hazards, lanesOptions()));
    process.stdout.write(scenarioTable(explored));
    const schedules = explored.reduce((sum, { tally }) => sum + tally.schedules, 0);
    const [first] = campaigns;
    const { design = 'hardened' } = first?.setup ?? {};
    process.stdout.write(
      `\n${design}: ${schedules} schedules, seed ${first?.seed}, ${workers} worker${workers > 1 ? 's' : ''}, ${perSecond(schedules, seconds)}/s\n`,
    );
  }
  return findings.length > 0 ? 1 : 0;
}

/**
 * Runs `body`, which answers with an exit code, with a pool, a line of progress on a terminal until it is quiet, and Ctrl-C as
 * the end of searching: what was found by then is told, and the exit code is that of a program that SIGINT ended. A second
 * one ends at once.
 */
async function interruptible(workers: number, body: (exploring: Exploring, quiet: () => void) => Promise<number>): Promise<void> {
  const stop = new AbortController();
  const interrupt = () => stop.abort();
  process.once('SIGINT', interrupt);
  const pool = workers > 1 ? poolOf(workers, stop.signal) : poolHere(world.runSchedule, stop.signal);
  const progress = await progressLine();
  let exit = 0;
  try {
    exit = await body({ pool, signal: stop.signal, ran: progress.ran }, progress.stop);
  } finally {
    progress.stop();
    process.off('SIGINT', interrupt);
    await pool.close();
  }
  if (stop.signal.aborted) throw new XlFailure(128 + 2, 'xl: interrupted');
  if (exit !== 0) throw new XlFailure(exit);
}

/** How many schedules there have been, and how fast, on a terminal that says how wide it is. */
async function progressLine(): Promise<{ readonly ran: (schedules: number) => void; readonly stop: () => void }> {
  if (!process.stderr.isTTY || !(process.stderr.columns > 0)) return { ran: () => undefined, stop: () => undefined };
  const { default: ora } = await import('ora');
  // Ctrl-C is ours.
  const spinner = ora({ text: 'exploring', stream: process.stderr, discardStdin: false }).start();
  const began = performance.now();
  let schedules = 0;
  return {
    ran: (more) => {
      schedules += more;
      spinner.text = `${schedules} schedules, ${perSecond(schedules, (performance.now() - began) / 1000)}/s`;
    },
    stop: () => spinner.stop(),
  };
}
