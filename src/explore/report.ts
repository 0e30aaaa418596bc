/** What a campaign has found, in words for a terminal and in JSON. */
import { type Campaign, type Found, segmentsOf, spread, type Tally } from './campaign.js';
import { defaultLinesMax, type LanesOptions, lanes, wrapped } from './lanes.js';
import type { HazardInfo, Outcome, RunSchedule, Setup } from './outcome.js';
import { printReplay, replaying, type Segment } from './replay.js';

/** A campaign that has been run. */
export interface Explored {
  readonly campaign: Campaign;
  readonly tally: Tally;
}

/** A hazard that a campaign has found, with a schedule that shows it. */
export interface Finding extends Explored {
  readonly found: Found;
  readonly setup: Setup;
  /** With notes, up to the violation. */
  readonly outcome: Outcome;
  /** Replays it. */
  readonly trace: string;
}

/** `small` is what shrinking made of it; without it, the schedule is shown as it was found. */
export function findingOf(
  runSchedule: RunSchedule,
  { campaign, tally }: Explored,
  found: Found,
  small: { readonly setup: Setup; readonly segments: readonly Segment[]; readonly outcome: Outcome } | undefined,
): Finding {
  const { hazard } = found;
  const setup = small?.setup ?? campaign.setup;
  const segments = small?.segments ?? segmentsOf(runSchedule, campaign, found);
  const outcome = small?.outcome ?? runSchedule(setup, replaying(segments), { notes: true, until: hazard });
  return { campaign, tally, found, setup, outcome, trace: printReplay({ setup, segments, hazard }) };
}

/** One finding of each hazard: where the most schedules showed it, the first such scenario. */
export function mostFrequent<T extends { readonly found: Found }>(all: readonly T[]): T[] {
  const best = new Map<string, T>();
  for (const each of all) {
    const before = best.get(each.found.hazard);
    if (!before || before.found.count < each.found.count) best.set(each.found.hazard, each);
  }
  return [...best.values()].sort((a, b) => (a.found.hazard < b.found.hazard ? -1 : 1));
}

/** A finding to read, on one screen: what it is, where it was, its lanes, and how to see it again. */
export function findingText(finding: Finding, hazards: readonly HazardInfo[], options: LanesOptions): string {
  const { campaign, tally, found, setup, outcome, trace } = finding;
  const { hazard, invariant, count, schedule } = found;
  const head = `${hazard} ${hazards.find(({ id }) => id === hazard)?.title ?? ''}`.trimEnd();
  const fields = [
    ['scenario', campaign.setup.scenario],
    ['invariant', invariant],
    ['schedule', `${schedule + 1} of seed ${campaign.seed}; ${count} of ${tally.schedules} show it`],
    ...scripts(outcome.operations, setup.without)
      .flatMap((script) => wrapped(script, Math.max(options.width - 13, 20), scriptLinesMax))
      .map((line, index) => [index === 0 ? 'script' : '', line]),
    ['replay', `xl mtwatch explore --replay ${trace}`],
  ];
  const lines = fields.map(([name, text]) => `  ${(name ? `${name}:` : '').padEnd(11)}${text}\n`);
  const linesMax = (options.linesMax ?? defaultLinesMax) - lines.length - 2;
  return `${options.paint?.head(head) ?? head}\n${lines.join('')}\n${lanes(outcome, { ...options, hazard, linesMax })}\n`;
}

/** Lines of the script of one lane, at most. */
const scriptLinesMax = 3;

/** What is done from outside, of what has not been left out: a line for each lane. */
function scripts(operations: readonly string[], without: readonly number[]): string[] {
  const byLane = new Map<string, string[]>();
  for (const [number, operation] of operations.entries()) {
    if (without.includes(number)) continue;
    const [, lane = '', name = ''] = /^(.*?): (.*)$/.exec(operation) ?? [];
    byLane.set(lane, [...(byLane.get(lane) ?? []), name]);
  }
  return byLane.size === 0 ? ['nothing'] : [...byLane].map(([lane, names]) => `${lane}: ${names.join(', ')}`);
}

/** A row for each scenario. */
export function scenarioTable(explored: readonly Explored[]): string {
  const rows = explored.map(({ campaign, tally }) => {
    const { min, median, max } = spread(tally.choices);
    const { states, points, preempted } = tally.coverage;
    return [
      campaign.setup.scenario,
      `${tally.schedules}${tally.exhausted ? ' (all)' : ''}`,
      `${min}/${median}/${max}`,
      String(states.size),
      `${preempted.size}/${points.size}`,
      byName(tally.found)
        .map(({ hazard, count }) => `${hazard} ${count}`)
        .join(', ') || '-',
    ];
  });
  const head = ['Scenario', 'Schedules', 'Choices min/median/max', 'States', 'Preempted', 'Hazards'];
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  return [head, ...rows]
    .map((cells) => {
      const padded = cells.map((cell, column) => {
        const width = widths[column] ?? 0;
        return column > 0 && column < head.length - 1 ? cell.padStart(width) : cell.padEnd(width);
      });
      return `${padded.join('  ').trimEnd()}\n`;
    })
    .join('');
}

function byName(found: readonly Found[]): Found[] {
  return [...found].sort((a, b) => (a.hazard < b.hazard ? -1 : 1));
}

/** The same for a program. `schedule` is counted from 1, as in the text. */
export function reportJson(explored: readonly Explored[], findings: readonly Finding[], seconds: number): object {
  const schedules = explored.reduce((sum, { tally }) => sum + tally.schedules, 0);
  return {
    violations: findings.map(({ campaign, found, outcome, trace }) => ({
      hazard: found.hazard,
      scenario: campaign.setup.scenario,
      invariant: found.invariant,
      count: found.count,
      schedule: found.schedule + 1,
      seed: campaign.seed,
      steps: outcome.steps,
      replay: trace,
    })),
    schedules,
    perSecond: perSecond(schedules, seconds),
    scenarios: explored.map(({ campaign, tally }) => ({
      scenario: campaign.setup.scenario,
      schedules: tally.schedules,
      exhausted: tally.exhausted,
      choices: spread(tally.choices),
      states: tally.coverage.states.size,
      points: [...tally.coverage.points].sort(),
      preempted: [...tally.coverage.preempted].sort(),
      hazards: Object.fromEntries(byName(tally.found).map(({ hazard, count }) => [hazard, count])),
    })),
  };
}

export function perSecond(schedules: number, seconds: number): number {
  return seconds > 0 ? Math.round(schedules / seconds) : 0;
}
