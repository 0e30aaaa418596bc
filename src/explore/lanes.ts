/**
 * A run as lanes: one column for each task that did something, one line for each thing done.
 *
 * ```
 *    step  X              D7
 *       3                 read 0
 *       5  lock a
 * >     6                 write 1
 * ```
 *
 * Kernel threads stand first, the toolstack and the guests behind them. A text goes on over the columns to its right, which
 * are empty in its line.
 */
import type { Note, Outcome, Violation } from './outcome.js';

export interface LanesOptions {
  /** Characters in a line. */
  readonly width: number;
  /** Lines in all; of a longer trace the beginning is left out. */
  readonly linesMax?: number;
  /** Around what is marked; without it, nothing is coloured. */
  readonly paint?: { readonly head: Paint; readonly dim: Paint; readonly violated: Paint };
}

type Paint = (text: string) => string;

const defaultLinesMax = 50;
/** How wide a column is, whatever the width of a line; and the room that the last one keeps, if there is any. */
const columnMin = 4;
const columnMax = 14;
const lastColumn = 48;
const gap = '  ';
/** Lines that one note takes at most. */
const noteLinesMax = 4;

export function lanes(outcome: Outcome, { width, linesMax = defaultLinesMax, paint }: LanesOptions): string {
  const as = paint ?? { head: same, dim: same, violated: same };
  const { notes, violations } = outcome;
  const columns = columnsOf(notes, width);
  const stepWidth = Math.max(4, String(outcome.steps).length);
  const marked = new Set(violations.map((violation) => lineOf(notes, violation)));

  const rows = notes.map((note, index) => {
    const step = String(note.step).padStart(stepWidth);
    const lines = textIn(note, columns, width).map((text, line) => {
      const left = `${marked.has(index) ? '>' : ' '} ${line === 0 ? step : ' '.repeat(stepWidth)}`;
      return marked.has(index) ? as.violated(`${left}${gap}${text}`) : `${as.dim(left)}${gap}${text}`;
    });
    return { step: note.step, lines };
  });

  const names = columns.map(({ lane, width }) => lane.padEnd(width)).join(gap);
  const head = as.head(`  ${'step'.padStart(stepWidth)}${gap}${names}`.trimEnd());
  const foot = violations.flatMap((violation) => violationLines(violation, width, as.violated));
  const { shown, hidden } = lastOf(rows, linesMax - 1 - foot.length);
  const folded = hidden > 0 ? [as.dim(`  ... ${hidden} ${hidden === 1 ? 'step' : 'steps'} ...`)] : [];
  return [head, ...folded, ...shown, ...foot].map((line) => `${line}\n`).join('');
}

function same(text: string): string {
  return text;
}

interface Column {
  readonly lane: string;
  readonly width: number;
}

/**
 * The lanes that did something. Only one of them has a text in each line, which may go on over the columns to its right: a
 * column is as wide as it can be while the last one keeps room for a text.
 */
function columnsOf(notes: readonly Note[], width: number): Column[] {
  const names = [...new Set(notes.map(({ lane }) => lane))].sort(inOrder);
  const share = Math.floor((width - 8 - lastColumn) / Math.max(names.length - 1, 1));
  const even = Math.min(Math.max(share, columnMin), columnMax);
  return names.map((lane) => ({ lane, width: Math.max(even, lane.length) }));
}

/** The reader, the default thread, those of the domains, workers; then others, the toolstack, the guests. */
const order = ['R', 'X', 'C', 'D', 'KW', '', 'U', 'T', 'G'];

function inOrder(a: string, b: string): number {
  const rank = (lane: string) => {
    const at = order.indexOf(/^[A-Za-z]*/.exec(lane)?.[0] ?? '');
    return at < 0 ? order.indexOf('') : at;
  };
  const byName = a < b ? -1 : 1;
  return rank(a) - rank(b) || a.length - b.length || byName;
}

function textIn({ lane, text }: Note, columns: readonly Column[], width: number): string[] {
  const at = columns.findIndex((column) => column.lane === lane);
  const before = columns
    .slice(0, at)
    .map((column) => ' '.repeat(column.width) + gap)
    .join('');
  return wrapped(text, Math.max(width - 8 - before.length, columnMin)).map((line) => `${before}${line}`);
}

/** At blanks and behind slashes, else wherever the line is full. What is over `noteLinesMax` is cut off. */
function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(/(?<= )|(?<=[^ ]\/)/)) {
    if ((line + word).trimEnd().length <= width) {
      line += word;
      continue;
    }
    if (line !== '') lines.push(line.trimEnd());
    line = word;
    for (; line.trimEnd().length > width; line = line.slice(width)) lines.push(line.slice(0, width));
  }
  lines.push(line.trimEnd());
  if (lines.length <= noteLinesMax) return lines;
  const last = lines[noteLinesMax - 1] ?? '';
  return [...lines.slice(0, noteLinesMax - 1), `${last.slice(0, width - 3)}...`];
}

/** The last thing done when the violation was seen. */
function lineOf(notes: readonly Note[], { step }: Violation): number {
  return notes.findLastIndex((note) => note.step <= step);
}

function violationLines({ hazard, invariant, step, text }: Violation, width: number, paint: Paint): string[] {
  const [first = '', ...more] = wrapped(`${hazard} at step ${step}: ${text}`, Math.max(width - 2, columnMin));
  return [paint(`> ${first}`), ...more.map((line) => paint(`  ${line}`)), `  violated: ${invariant}`];
}

/** As many rows from the end as there is room for, and how many steps are before them. */
function lastOf(
  rows: readonly { readonly step: number; readonly lines: readonly string[] }[],
  linesMax: number,
): { readonly shown: readonly string[]; readonly hidden: number } {
  let lines = rows.reduce((sum, row) => sum + row.lines.length, 0);
  if (lines <= linesMax) return { shown: rows.flatMap((row) => row.lines), hidden: 0 };
  let first = 0;
  // One line says that something is left out.
  while (first < rows.length - 1 && lines > linesMax - 1) lines -= rows[first++]?.lines.length ?? 0;
  const shown = rows.slice(first);
  return { shown: shown.flatMap((row) => row.lines), hidden: Math.max((shown[0]?.step ?? 0) - 1, 1) };
}
