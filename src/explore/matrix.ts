/**
 * What each design shows in each scenario, as tables in Markdown; and how soon each mutation of the hardened design is found.
 *
 * The second table is what makes the first worth something: a scenario in which nothing shows may be one that could not
 * show it. So each switch is put into the hardened design alone, and its hazards have to appear.
 */
import type { Campaign, Found, Tally } from './campaign.js';
import type { Design, ScenarioInfo, SwitchInfo } from './outcome.js';
import { printReplay } from './replay.js';
import type { ShrinkOptions } from './shrink.js';
import type { Strategy } from './strategy.js';
import { type Exploring, explore, shrinkAll } from './workers.js';

export interface MatrixOptions {
  readonly scenarios: readonly ScenarioInfo[];
  readonly switches: readonly SwitchInfo[];
  readonly designs: readonly Design[];
  readonly strategy: Strategy;
  readonly seed: number;
  /** For each scenario and design, and for each scenario and mutation. */
  readonly schedules: number;
  /** How far traces are shrunk. */
  readonly shrinking?: ShrinkOptions;
}

interface Cell {
  readonly campaign: Campaign;
  readonly tally: Tally;
}

/** A hazard that a cell showed, with the trace that replays it. */
interface Traced {
  readonly campaign: Campaign;
  readonly found: Found;
  readonly trace: string;
}

/** The tables. */
export async function matrix(options: MatrixOptions, exploring: Exploring): Promise<string> {
  const { scenarios, switches, designs, strategy, seed, schedules } = options;
  const campaign = (design: Design, scenario: string, set: Readonly<Record<string, boolean>> = {}): Campaign => ({
    setup: { design, scenario, switches: set, without: [] },
    strategy,
    seed,
    schedules,
    uncovered: true,
  });
  const plain = scenarios.flatMap(({ name }) => designs.map((design) => campaign(design, name)));
  const mutations = switches.filter((each) => each.designs.includes('hardened'));
  const mutated = mutations.flatMap(({ name }) =>
    scenarios.map((scenario) => campaign('hardened', scenario.name, { [name]: true })),
  );
  const campaigns = [...plain, ...mutated];
  const tallies = await explore(campaigns, exploring);
  const cells = campaigns.flatMap((each, index) => {
    const tally = tallies[index];
    return tally ? [{ campaign: each, tally }] : [];
  });
  const [designCells, mutationCells] = [cells.slice(0, plain.length), cells.slice(plain.length)];

  const caught = mutations.flatMap((mutation) =>
    mutation.hazards.map((hazard) => ({ mutation, hazard, first: firstOf(mutationCells, mutation.name, hazard) })),
  );
  const wanted = [
    ...designCells.flatMap(({ campaign, tally }) => tally.found.map((found) => ({ campaign, found }))),
    ...caught.flatMap(({ first }) => (first ? [first] : [])),
  ];
  const shrunk = await shrinkAll(wanted, exploring, options.shrinking);
  const traced = wanted.flatMap((each, index): Traced[] => {
    const small = shrunk[index];
    if (!small) return [];
    const { setup, segments } = small;
    return [{ ...each, trace: printReplay({ setup, segments, hazard: each.found.hazard }) }];
  });

  const cellOf = (scenario: string, design: Design) => {
    const cell = designCells.find(({ campaign: { setup } }) => setup.scenario === scenario && setup.design === design);
    return cell ? cellText(cell.tally) : '';
  };
  const traceOf = ({ campaign, found }: { readonly campaign: Campaign; readonly found: Found }) =>
    traced.find((each) => each.campaign === campaign && each.found === found)?.trace;

  return [
    `${schedules} schedules each (${strategy}, seed ${seed}): hazard and schedules that showed it.\n`,
    table(
      ['Scenario', ...designs],
      scenarios.map(({ name, what }) => [`**${name}**: ${what}`, ...designs.map((design) => cellOf(name, design))]),
    ),
    'A trace of each, for `xl mtwatch explore --replay TRACE`:\n',
    table(
      ['Scenario', 'Design', 'Hazard', 'Trace'],
      designCells.flatMap(({ campaign, tally }) =>
        [...tally.found]
          .sort(byHazard)
          .map((found) => [
            campaign.setup.scenario,
            campaign.setup.design,
            found.hazard,
            `\`${traceOf({ campaign, found }) ?? '-'}\``,
          ]),
      ),
    ),
    'The hardened design with one thing undone: the first schedule that shows what follows from it.\n',
    table(
      ['Switch', 'What it undoes', 'Hazard', 'Scenario', 'Schedules to find', 'Trace'],
      caught.map(({ mutation, hazard, first }) => [
        mutation.name,
        mutation.what,
        hazard,
        first?.campaign.setup.scenario ?? '-',
        first ? String(first.found.schedule + 1) : 'not found',
        first ? `\`${traceOf(first) ?? '-'}\`` : '-',
      ]),
    ),
  ].join('\n');
}

function cellText({ found, schedules }: Tally): string {
  if (found.length === 0) return 'clean';
  return [...found]
    .sort(byHazard)
    .map(({ hazard, count }) => `${hazard} ${count}/${schedules}`)
    .join(', ');
}

function byHazard(a: Found, b: Found): number {
  return a.hazard < b.hazard ? -1 : 1;
}

/** Where a mutation showed a hazard after the fewest schedules. */
function firstOf(cells: readonly Cell[], mutation: string, hazard: string): { campaign: Campaign; found: Found } | undefined {
  return cells
    .filter(({ campaign }) => campaign.setup.switches[mutation] === true)
    .flatMap(({ campaign, tally }) => tally.found.map((found) => ({ campaign, found })))
    .filter(({ found }) => found.hazard === hazard)
    .reduce<{ campaign: Campaign; found: Found } | undefined>(
      (best, each) => (best && best.found.schedule <= each.found.schedule ? best : each),
      undefined,
    );
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`;
  return `${line(head)}${line(head.map(() => '---')).replaceAll(' ', '')}${rows.map(line).join('')}`;
}
