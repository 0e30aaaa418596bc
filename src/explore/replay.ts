/**
 * A schedule as text: which lane goes on for how many choice points, with the setup that it belongs to.
 *
 * ```
 * x1:rfc:create-destroy:lifo=off:-3.5:Xx4.R.D7x2.Tx9:U1
 * |  |   |              |        |    |              the hazard that it shows, if one was looked for
 * |  |   |              |        |    X at four choice points, R at one, D7 at two, T at nine
 * |  |   |              |        operations 3 and 5 are left out
 * |  |   |              switches, in order of name
 * |  |   scenario
 * |  design
 * version of this notation
 * ```
 *
 * `-` stands for none. Whatever is not plain is written as `%` and two hexadecimal digits, so that a shell takes the whole
 * for one word. There is one spelling of each, and nothing else is read.
 *
 * Only choice points count, for elsewhere there is nothing to be told. A lane whose turn it is and which cannot go on loses
 * what is left of it; behind the last one the default rule goes on. So a schedule from which a part was taken out is a
 * schedule too, which is what shrinking needs.
 */
import { type Chooser, type Design, designs, type Lane, type Setup } from './outcome.js';

/** `lane` goes on at the next `count` choice points. */
export interface Segment {
  readonly lane: string;
  readonly count: number;
}

export interface Replay {
  readonly setup: Setup;
  readonly segments: readonly Segment[];
  readonly hazard?: string;
}

/** What is written at the beginning; to be raised when the meaning of the rest changes. */
export const replayVersion = 'x1';

/** The most choice points of one segment, and the highest number of an operation, that are read. */
export const countMax = 999_999;

/** Chooses as `segments` say. */
export function replaying(segments: readonly Segment[]): Chooser {
  let at = 0;
  let left = segments[0]?.count ?? 0;
  return (ready, current) => {
    while (at < segments.length) {
      const { lane } = segments[at] as Segment;
      const index = left > 0 ? indexOf(ready, lane) : -1;
      if (index >= 0) {
        left -= 1;
        return index;
      }
      at += 1;
      left = segments[at]?.count ?? 0;
    }
    return Math.max(current, 0);
  };
}

function indexOf(ready: readonly Lane[], lane: string): number {
  for (let index = 0; index < ready.length; index++) if ((ready[index] as Lane).lane === lane) return index;
  return -1;
}

export interface Recorder {
  readonly chooser: Chooser;
  /** What was chosen until now. To replay it is to run the same schedule. */
  readonly segments: readonly Segment[];
}

/** Chooses as `choose` does, and remembers. */
export function recording(choose: Chooser): Recorder {
  const lanes: string[] = [];
  const counts: number[] = [];
  return {
    chooser: (ready, current) => {
      const index = choose(ready, current);
      const { lane } = ready[index] as Lane;
      const last = lanes.length - 1;
      if (lanes[last] === lane) counts[last] = (counts[last] as number) + 1;
      else {
        lanes.push(lane);
        counts.push(1);
      }
      return index;
    },
    get segments() {
      return lanes.map((lane, index) => ({ lane, count: counts[index] as number }));
    },
  };
}

/** A text that is no replay string: which place of it is wrong, and why. */
export class ReplayError extends Error {
  override readonly name = 'ReplayError';

  constructor(
    /** Counted from 1. */
    readonly column: number,
    reason: string,
  ) {
    super(`column ${column} of the trace: ${reason}`);
  }
}

const none = '-';
/** What a name may hold as it is. An `x` in a lane would be taken for `times`. */
const plain = /[A-Za-z0-9_-]/;
const plainInLane = /[A-Za-wyz0-9_]/;

export function printReplay({ setup, segments, hazard }: Replay): string {
  const { design, scenario, switches, without } = setup;
  const set = Object.keys(switches)
    .sort()
    .map((name) => `${escaped(name, plain)}=${switches[name] ? 'on' : 'off'}`);
  const left = [...new Set(without)].sort((a, b) => a - b);
  const fields = [
    replayVersion,
    design,
    escaped(scenario, plain),
    set.join(',') || none,
    `${none}${left.join('.')}`,
    segments.map(({ lane, count }) => `${escaped(lane, plainInLane)}${count === 1 ? '' : `x${count}`}`).join('.') || none,
    ...(hazard === undefined ? [] : [escaped(hazard, plain)]),
  ];
  return fields.join(':');
}

function escaped(name: string, as: RegExp): string {
  if (name === '') throw new Error('a name in a replay string is empty');
  const hex = (byte: number) => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  const text = [...Buffer.from(name)].map((byte) => (as.test(String.fromCharCode(byte)) ? String.fromCharCode(byte) : hex(byte)));
  // A lone `-` is `none`, and one at the beginning looks like an option.
  return text[0] === none ? `%2D${text.slice(1).join('')}` : text.join('');
}

/** Reads what `printReplay` wrote. Throws a `ReplayError`. */
export function parseReplay(text: string): Replay {
  const at = [...fieldsOf(text)];
  const [version, design, scenario, switches, without, segments, hazard] = at;
  if (!version || version.text !== replayVersion) throw new ReplayError(1, `it begins with "${replayVersion}:"`);
  if (!design || !scenario || !switches || !without || !segments) {
    const names = ['version', 'design', 'scenario', 'switches', 'operations left out', 'schedule'];
    throw new ReplayError(text.length + 1, `it ends before the ${names[at.length]}`);
  }
  if (at.length > 7) throw new ReplayError((at[7] as Field).column, 'there is nothing behind the hazard');
  const known = designs.find((name) => name === design.text);
  if (known === undefined) throw new ReplayError(design.column, `the design is ${oneOf(designs)}, not "${design.text}"`);
  const setup: Setup = {
    design: known satisfies Design,
    scenario: nameIn(scenario, plain, 'scenario'),
    switches: switchesIn(switches),
    without: withoutIn(without),
  };
  const replay = { setup, segments: segmentsIn(segments) };
  return hazard ? { ...replay, hazard: nameIn(hazard, plain, 'hazard') } : replay;
}

interface Field {
  readonly text: string;
  /** Of its first character, counted from 1. */
  readonly column: number;
}

function fieldsOf(text: string): Field[] {
  return split({ text, column: 1 }, ':');
}

function split({ text, column }: Field, by: string): Field[] {
  let at = column;
  return text.split(by).map((part) => {
    const field = { text: part, column: at };
    at += part.length + by.length;
    return field;
  });
}

function oneOf(words: readonly string[]): string {
  return `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`;
}

function nameIn({ text, column }: Field, as: RegExp, what: string): string {
  if (text === '') throw new ReplayError(column, `the ${what} is missing`);
  const bytes: number[] = [];
  for (let at = 0; at < text.length; at++) {
    const character = text.charAt(at);
    if (character === '%') {
      const digits = text.slice(at + 1, at + 3);
      if (!/^[0-9A-F]{2}$/.test(digits)) throw new ReplayError(column + at, 'two hexadecimal digits (0-9, A-F) follow a %');
      bytes.push(Number.parseInt(digits, 16));
      at += 2;
    } else if (as.test(character) && !(at === 0 && character === none)) {
      bytes.push(character.charCodeAt(0));
    } else {
      throw new ReplayError(column + at, `"${character}" is no part of a ${what}`);
    }
  }
  const name = Buffer.from(bytes).toString();
  if (escaped(name, as) !== text) throw new ReplayError(column, `a ${what} is spelt "${escaped(name, as)}", not "${text}"`);
  return name;
}

function switchesIn(field: Field): Record<string, boolean> {
  const switches: Record<string, boolean> = {};
  if (field.text === none) return switches;
  let before = '';
  for (const part of split(field, ',')) {
    const [name, value, ...more] = split(part, '=');
    if (!name || !value || more.length > 0 || !['on', 'off'].includes(value.text)) {
      throw new ReplayError(value?.column ?? part.column, `a switch is NAME=on or NAME=off, not "${part.text}"`);
    }
    const known = nameIn(name, plain, 'switch');
    if (known <= before) throw new ReplayError(part.column, `switches stand in order of name, each once; "${known}" does not`);
    before = known;
    Object.defineProperty(switches, known, {
      value: value.text === 'on',
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return switches;
}

function withoutIn({ text, column }: Field): number[] {
  if (!text.startsWith(none)) throw new ReplayError(column, 'operations that are left out follow a "-"');
  if (text === none) return [];
  let before = -1;
  return split({ text: text.slice(1), column: column + 1 }, '.').map((part) => {
    const number = numberIn(part, 0, 'the number of an operation');
    if (number <= before) throw new ReplayError(part.column, `operations stand in rising order; ${number} does not`);
    before = number;
    return number;
  });
}

function segmentsIn(field: Field): Segment[] {
  if (field.text === none) return [];
  return split(field, '.').map((part) => {
    const [name, count, ...more] = split(part, 'x');
    if (!name || more.length > 0) throw new ReplayError(part.column, `a part of the schedule is LANE or LANExCOUNT`);
    const lane = nameIn(name, plainInLane, 'lane');
    return { lane, count: count ? numberIn(count, 2, 'a count') : 1 };
  });
}

function numberIn({ text, column }: Field, least: number, what: string): number {
  const number = /^(0|[1-9][0-9]*)$/.test(text) ? Number(text) : Number.NaN;
  if (!(number >= least && number <= countMax)) {
    throw new ReplayError(column, `${what} is a number from ${least} to ${countMax}, not "${text}"`);
  }
  return number;
}
