/**
 * What each design shows in each scenario, as tables in Markdown; and how soon each mutation of the hardened design is found.
 *
 * The second table is what makes the first worth something: a scenario in which nothing shows may be one that could not
 * show it. So each switch is put into the hardened design alone, and its hazards have to appear.
 */
import type { Campaign, Found } from './campaign.js';
import type { Design, ScenarioInfo, SwitchInfo } from './outcome.js';
import { printReplay } from './replay.js';
import type { ShrinkOptions } from './shrink.js';
import type { Strategy } from './strategy.js';
import { type Exploring, explore, shrinkAll } from './workers.js';

export interface MatrixOptions {
  readonly scenarios: readonly ScenarioInfo[];
  readonly switches: readonly SwitchInfo[];
  readonly designs: readonly Design[];
  readonly seed: number;
  /** Of each strategy, for each scenario and design; at most so many for each scenario and mutation. */
  readonly schedules: number;
  /** How far traces are shrunk. */
  readonly shrinking?: ShrinkOptions;
}

/** A hazard that a campaign showed. */
interface Shown {
  readonly campaign: Campaign;
  readonly found: Found;
}

interface Mutation {
  readonly mutation: SwitchInfo;
  readonly hazard: string;
  readonly first: Shown | undefined;
}

/** Traces that are committed may take longer to shrink than those that somebody waits for. */
const matrixShrinking: ShrinkOptions = { runsMax: 800, searchMax: 40 };
/** Schedules of the first round of searching for a mutation; each next one has four times as many. */
const firstRound = 2;

/** The tables. */
export async function matrix(options: MatrixOptions, exploring: Exploring): Promise<string> {
  const { scenarios, designs, seed, schedules } = options;
  const campaigns = scenarios.flatMap(({ name }) =>
    designs.flatMap((design) =>
      tried.map((strategy): Campaign => {
        const setup = { design, scenario: name, switches: {}, without: [] };
        return { setup, strategy, seed, schedules, uncovered: true };
      }),
    ),
  );
  const tallies = await explore(campaigns, exploring);
  const mutations = await mutated(options, exploring);

  const shown = campaigns.flatMap((campaign, index): Shown[] =>
    (tallies[index]?.found ?? []).map((found) => ({ campaign, found })),
  );
  const chosen = covering(shown);
  const wanted = [...chosen, ...mutations.flatMap(({ first }) => first ?? [])];
  const shrunk = await shrinkAll(wanted, exploring, { ...matrixShrinking, ...options.shrinking });
  const traceOf = (each: Shown | undefined) => {
    const small = each && shrunk[wanted.indexOf(each)];
    return small ? `\`${printReplay({ ...small, hazard: each.found.hazard })}\`` : '-';
  };
  const cellOf = (scenario: string, design: Design) => {
    const of = (strategy: Strategy) => (one: Campaign) =>
      one.setup.scenario === scenario && one.setup.design === design && one.strategy === strategy;
    return cellText(tried.map((strategy) => tallies[campaigns.findIndex(of(strategy))]?.found ?? []));
  };

  return [
    `Hazards, and how many of ${schedules} random / ${schedules} pct schedules showed them (seed ${seed}).\n`,
    table(
      ['Scenario', ...designs],
      scenarios.map(({ name, what }) => [`**${name}**: ${what}`, ...designs.map((design) => cellOf(name, design))]),
    ),
    'A trace of each hazard in each design, and one at least of each cell above, for `xl mtwatch explore --replay TRACE`:\n',
    table(
      ['Hazard', 'Design', 'Scenario', 'Trace'],
      chosen.map((each) => {
        const { design, scenario } = each.campaign.setup;
        return [each.found.hazard, design, scenario, traceOf(each)];
      }),
    ),
    `The hardened design with one thing undone: the first schedule that shows what follows from it, of at most ${schedules} random and ${schedules} pct ones in each scenario (seed ${seed}).\n`,
    table(
      ['Switch', 'What it undoes', 'Hazard', 'Scenario', 'Schedules to find', 'Trace'],
      mutations.map(({ mutation, hazard, first }) => [
        mutation.name,
        mutation.what,
        hazard,
        first?.campaign.setup.scenario ?? '-',
        first ? `${first.found.schedule + 1} (${first.campaign.strategy})` : 'not found',
        traceOf(first),
      ]),
    ),
  ].join('\n');
}

/** What one of them seldom finds, the other may find at once. */
const tried: readonly Strategy[] = ['random', 'pct'];

/**
 * Where each mutation shows each of its hazards first. All scenarios have a few schedules, and more only when that was not
 * enough: most mutations are found at once, and what is known to be there need not be counted.
 */
async function mutated({ scenarios, switches, seed, schedules }: MatrixOptions, exploring: Exploring): Promise<Mutation[]> {
  let missing = switches
    .filter((each) => each.designs.includes('hardened'))
    .flatMap((mutation) => mutation.hazards.map((hazard): Mutation => ({ mutation, hazard, first: undefined })));
  const all = missing;
  const firsts = new Map<Mutation, Shown>();
  for (let round = Math.min(firstRound, schedules); missing.length > 0; round = Math.min(round * 4, schedules)) {
    const campaigns = [...new Set(missing.map(({ mutation }) => mutation))].flatMap(({ name }) =>
      scenarios.flatMap((scenario) =>
        tried.map((strategy): Campaign => {
          const setup = { design: 'hardened', scenario: scenario.name, switches: { [name]: true }, without: [] } as const;
          return { setup, strategy, seed, schedules: round, uncovered: true };
        }),
      ),
    );
    const tallies = await explore(campaigns, exploring);
    const shown = campaigns.flatMap((campaign, index): Shown[] =>
      (tallies[index]?.found ?? []).map((found) => ({ campaign, found })),
    );
    for (const each of missing) {
      const first = shown
        .filter(({ campaign, found }) => each.mutation.name in campaign.setup.switches && found.hazard === each.hazard)
        .reduce<Shown | undefined>(
          (best, other) => (best && best.found.schedule <= other.found.schedule ? best : other),
          undefined,
        );
      if (first) firsts.set(each, first);
    }
    missing = missing.filter((each) => !firsts.has(each));
    if (round === schedules) break;
  }
  return all.map((each) => ({ ...each, first: firsts.get(each) }));
}

/**
 * Of each hazard in each design, where the most schedules showed it; and of each scenario and design that is not among
 * these, the hazard that the fewest others of the design have.
 */
function covering(shown: readonly Shown[]): Shown[] {
  const of = ({ campaign, found }: Shown) => `${campaign.setup.design} ${found.hazard}`;
  const cell = ({ campaign }: Shown) => `${campaign.setup.design} ${campaign.setup.scenario}`;
  const most = new Map<string, Shown>();
  const often = new Map<string, number>();
  for (const each of shown) {
    const before = most.get(of(each));
    if (!before || before.found.count < each.found.count) most.set(of(each), each);
    often.set(of(each), (often.get(of(each)) ?? 0) + 1);
  }
  const cells = new Set([...most.values()].map(cell));
  const rarest = new Map<string, Shown>();
  for (const each of shown.filter((one) => !cells.has(cell(one)))) {
    const before = rarest.get(cell(each));
    if (!before || (often.get(of(each)) ?? 0) < (often.get(of(before)) ?? 0)) rarest.set(cell(each), each);
  }
  const key = ({ campaign, found }: Shown) => `${found.hazard} ${campaign.setup.design} ${campaign.setup.scenario}`;
  return [...most.values(), ...rarest.values()].sort((a, b) => (key(a) < key(b) ? -1 : 1));
}

/** `found`: by each strategy that was tried. */
function cellText(found: readonly (readonly Found[])[]): string {
  const names = [...new Set(found.flat().map(({ hazard }) => hazard))].sort();
  const counts = (name: string) => found.map((by) => by.find(({ hazard }) => hazard === name)?.count ?? 0).join('/');
  return names.map((name) => `${name} ${counts(name)}`).join(', ') || 'clean';
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`;
  return `${line(head)}${line(head.map(() => '---')).replaceAll(' ', '')}${rows.map(line).join('')}`;
}
