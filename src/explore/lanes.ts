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
 * are empty in its line. What a thread does again and again is folded: the first, how many more, the last.
 */
import type { Note, Outcome, Violation } from './outcome.js';

export interface LanesOptions {
  /** The hazard that the trace is about: others that it shows are not marked. Without it, all are. */
  readonly hazard?: string;
  /** Characters in a line. */
  readonly width: number;
  /** Lines in all; of a longer trace the beginning is left out. */
  readonly linesMax?: number;
  /** Around what is marked; without it, nothing is coloured. */
  readonly paint?: { readonly head: Paint; readonly dim: Paint; readonly violated: Paint };
}

type Paint = (text: string) => string;

export const defaultLinesMax = 50;
/** How wide a column is, whatever the width of a line; and the room that the last one keeps, if there is any. */
const columnMin = 4;
const columnMax = 14;
const lastColumn = 48;
const gap = '  ';
/** Lines that one note takes at most; a line of the log takes one. */
const noteLinesMax = 4;

export function lanes(outcome: Outcome, { hazard, width, linesMax = defaultLinesMax, paint }: LanesOptions): string {
  const as = paint ?? { head: same, dim: same, violated: same };
  const violations = outcome.violations.filter((violation) => hazard === undefined || violation.hazard === hazard);
  const notes = folded(outcome.notes, violations);
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
  const before = hidden > 0 ? [as.dim(`  ... ${hidden} ${hidden === 1 ? 'step' : 'steps'} ...`)] : [];
  return [head, ...before, ...shown, ...foot].map((line) => `${line}\n`).join('');
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
  const linesMax = text.startsWith('log: ') ? 1 : noteLinesMax;
  return wrapped(text, Math.max(width - 8 - before.length, columnMin), linesMax).map((line) => `${before}${line}`);
}

const begins = /^begin (#\d+) /;
const ends = /^end (#\d+)$/;

/** What a lane did without a word in between: a note, or a callback from begin to end in which it did nothing else. */
interface Doing {
  /** Which notes. */
  readonly at: readonly number[];
  /** Equal for those that are alike; undefined for what stands for itself. */
  readonly like: string | undefined;
}

/**
 * Of three doings or more of a kernel thread that are alike, the first and the last are left, and how many are between. What
 * the violations speak of is left in any case: their events, and what was done when they were seen.
 */
function folded(notes: readonly Note[], violations: readonly Violation[]): Note[] {
  const seen = violations.map((violation) => lineOf(notes, violation));
  const texts = [...violations.map(({ text }) => text), ...seen.map((at) => notes[at]?.text ?? '')];
  const events = new Set(texts.flatMap((text) => text.match(/#\d+/g) ?? []));
  const told = (at: number) => seen.includes(at) || (notes[at]?.text.match(/#\d+/g) ?? []).some((event) => events.has(event));

  const left: (Note | undefined)[] = [...notes];
  for (const lane of new Set(notes.map((note) => note.lane))) {
    if (!scripted.test(lane)) foldLane(left, doingsOf(notes, lane, told));
  }
  return withoutIdle(left.filter((note) => note !== undefined));
}

/** What toolstacks and guests do is the story itself. */
const scripted = /^[TG]\d*$/;

function doingsOf(notes: readonly Note[], lane: string, told: (at: number) => boolean): Doing[] {
  const mine = [...notes.keys()].filter((at) => notes[at]?.lane === lane);
  const doings: Doing[] = [];
  for (let index = 0; index < mine.length; index++) {
    const [at = 0, after = 0] = mine.slice(index, index + 2);
    const [text, next] = [notes[at]?.text ?? '', notes[after]?.text ?? ''];
    const event = begins.exec(text)?.[1];
    const whole = event !== undefined && ends.exec(next)?.[1] === event;
    const both = whole ? [at, after] : [at];
    if (whole) index += 1;
    // Numbers and paths are what differs; of callbacks in which nothing is to be seen, one is like the other.
    const like = whole ? 'callback' : text.replace(/\S*\/\S*/g, '/').replace(/\d+/g, '#');
    doings.push({ at: both, like: both.some(told) || (event !== undefined && !whole) ? undefined : like });
  }
  return doings;
}

function foldLane(left: (Note | undefined)[], doings: readonly Doing[]): void {
  for (let from = 0, to = 0; from < doings.length; from = to) {
    const like = doings[from]?.like;
    for (to = from + 1; like !== undefined && doings[to]?.like === like; ) to += 1;
    const between = doings.slice(from + 1, to - 1);
    if (between.length < 2) continue;
    const [first = 0, ...others] = between.flatMap(({ at }) => at);
    const note = left[first];
    if (note) left[first] = { ...note, text: `... ${between.length} more like it` };
    for (const at of others) left[at] = undefined;
  }
}

/** A callback during which nothing else is to be seen is one line. */
function withoutIdle(notes: readonly Note[]): Note[] {
  return notes.flatMap((note, at) => {
    const [before, next] = [notes[at - 1], notes[at + 1]];
    if (isWhole(note, next)) return { ...note, text: note.text.replace('begin', 'begin, end') };
    return isWhole(before, note) ? [] : note;
  });
}

function isWhole(one: Note | undefined, next: Note | undefined): boolean {
  const event = one && begins.exec(one.text)?.[1];
  return event !== undefined && next?.lane === one?.lane && ends.exec(next?.text ?? '')?.[1] === event;
}

/** At blanks and behind slashes, else wherever the line is full. What is over `linesMax` is cut off. */
export function wrapped(text: string, width: number, linesMax = noteLinesMax): string[] {
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
  if (lines.length <= linesMax) return lines;
  const last = lines[linesMax - 1] ?? '';
  return [...lines.slice(0, linesMax - 1), `${last.slice(0, width - 3)}...`];
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
