/**
 * A screen of characters as curses has it, and the terminal that shows it: what a program like xentop draws on.
 *
 * A `Screen` is data: text wraps at the right edge, a newline clears the rest of its line, and nothing scrolls. `paint` makes
 * the escape sequences that turn one screen into the next, line by line. Sequences are those of ECMA-48 and of xterm, which
 * terminals of today share; terminfo is not read.
 */

export interface Style {
  readonly bold?: boolean;
  readonly reverse?: boolean;
  /** Yellow behind it. */
  readonly marked?: boolean;
}

const plain: Style = {};

interface Cell {
  readonly char: string;
  readonly style: Style;
}

const blank: Cell = { char: ' ', style: plain };

export class Screen {
  row = 0;
  col = 0;
  readonly #cells: Cell[][];

  constructor(
    readonly rows: number,
    readonly cols: number,
  ) {
    this.#cells = Array.from({ length: rows }, () => Array.from({ length: cols }, () => blank));
  }

  move(row: number, col: number): void {
    this.row = Math.min(Math.max(row, 0), this.rows - 1);
    this.col = Math.min(Math.max(col, 0), this.cols - 1);
  }

  add(text: string, style: Style = plain): void {
    for (const char of text) {
      if (char === '\n') this.#newline();
      else this.#put({ char, style });
    }
  }

  /** What stands there, without what it looks like. */
  lines(): string[] {
    return this.#cells.map((cells) => cells.map(({ char }) => char).join(''));
  }

  /** One line with its styles. */
  line(row: number): string {
    let text = '';
    let now = plain;
    for (const { char, style } of this.#cells[row] ?? []) {
      if (!isSame(style, now)) text += select(style);
      now = style;
      text += char;
    }
    const trimmed = isSame(now, plain) ? text.trimEnd() : text;
    return isSame(now, plain) ? trimmed : `${trimmed}${select(plain)}`;
  }

  #put(cell: Cell): void {
    const cells = this.#cells[this.row];
    if (!cells) return;
    cells[this.col] = cell;
    if (this.col + 1 < this.cols) this.col += 1;
    else if (this.row + 1 < this.rows) this.move(this.row + 1, 0);
  }

  #newline(): void {
    this.#cells[this.row]?.fill(blank, this.col);
    if (this.row + 1 < this.rows) this.move(this.row + 1, 0);
  }
}

function isSame(a: Style, b: Style): boolean {
  return !a.bold === !b.bold && !a.reverse === !b.reverse && !a.marked === !b.marked;
}

/** SGR: everything off, then what the style has. */
function select({ bold, reverse, marked }: Style): string {
  return `\x1b[0${bold ? ';1' : ''}${reverse ? ';7' : ''}${marked ? ';43' : ''}m`;
}

/** The sequences that turn a terminal which shows `before` into one that shows `screen`. Without `before` it is cleared. */
export function paint(screen: Screen, before?: Screen): string {
  const same = before !== undefined && before.rows === screen.rows && before.cols === screen.cols;
  let out = same ? '' : '\x1b[H\x1b[2J';
  for (let row = 0; row < screen.rows; row++) {
    const line = screen.line(row);
    if (line !== (same ? before.line(row) : '')) out += `\x1b[${row + 1};1H${line}\x1b[K`;
  }
  return `${out}\x1b[${screen.row + 1};${screen.col + 1}H`;
}

/** A key: a character, or the name of one that sends more than one. */
export type Key = string;

const sequences: Readonly<Record<string, Key>> = {
  '\x1b[A': 'up',
  '\x1bOA': 'up',
  '\x1b[B': 'down',
  '\x1bOB': 'down',
  '\x1b[5~': 'page up',
  '\x1b[6~': 'page down',
  '\x7f': 'backspace',
  '\b': 'backspace',
  '\n': '\r',
};

/** The keys in what a terminal sent at once. A sequence that is not known is no key. */
export function keysOf(text: string): Key[] {
  const words = text.match(/\x1b(?:\[[0-9;?]*[A-Za-z~]|O[A-Za-z])|[\s\S]/gu) ?? [];
  return words.flatMap((word) => {
    const named = Object.hasOwn(sequences, word) ? sequences[word] : undefined;
    return named !== undefined ? [named] : word.length > 1 && word.startsWith('\x1b') ? [] : [word];
  });
}

/** The size where nothing says what it is. */
const usualRows = 24;
const usualCols = 80;

/** Keys kept for a program that does not take them. */
const keysMax = 256;

export interface Terminal {
  readonly rows: number;
  readonly cols: number;
  /** Keys that nobody has taken yet, and `resize` for a new size. */
  readonly keys: Key[];
  show(screen: Screen): void;
  /** Called when there is a key. */
  onKey: () => void;
  /** Shows what was there before; again: no harm. */
  close(): void;
}

/**
 * Takes over the terminal: its alternate screen, and its keys one by one. Ctrl-C ends the process as curses does, Ctrl-Z stops
 * it with the screen given back.
 */
export function openTerminal(
  stdin: NodeJS.ReadStream,
  stdout: NodeJS.WriteStream,
  env: Readonly<Record<string, string | undefined>>,
): Terminal {
  let shown: Screen | undefined;
  let open = false;
  const enter = () => {
    open = true;
    shown = undefined;
    stdout.write('\x1b[?1049h');
    if (stdin.isTTY) stdin.setRawMode(true);
  };
  const leave = () => {
    if (!open) return;
    open = false;
    if (stdin.isTTY) stdin.setRawMode(false);
    stdout.write(`\x1b[0m\x1b[${terminal.rows};1H\x1b[?1049l`);
  };
  const onData = (data: Buffer) => {
    for (const key of keysOf(data.toString('utf8'))) {
      if (key === '\x03') {
        terminal.close();
        process.exit(interruptedExit);
      } else if (key === '\x1a') {
        leave();
        process.once('SIGCONT', resume);
        process.kill(process.pid, 'SIGTSTP');
      } else press(key);
    }
  };
  const press = (key: Key) => {
    if (terminal.keys.length < keysMax) terminal.keys.push(key);
    terminal.onKey();
  };
  const resized = () => press('resize');
  const resume = () => {
    enter();
    resized();
  };
  const ended = () => {
    terminal.close();
    process.exit(interruptedExit);
  };
  const terminal: Terminal = {
    keys: [],
    get rows() {
      return stdout.rows || Number(env['LINES']) || usualRows;
    },
    get cols() {
      return stdout.columns || Number(env['COLUMNS']) || usualCols;
    },
    show: (screen) => {
      stdout.write(paint(screen, shown));
      shown = screen;
    },
    onKey: () => {},
    close: () => {
      leave();
      stdin.off('data', onData);
      stdin.pause();
      stdout.off('resize', resized);
      process.off('SIGCONT', resume);
      process.off('SIGTERM', ended);
      process.off('SIGINT', ended);
    },
  };
  enter();
  stdin.on('data', onData);
  stdout.on('resize', resized);
  process.on('SIGTERM', ended);
  process.on('SIGINT', ended);
  return terminal;
}

/** What `xl top` ends with after Ctrl-C: xentop fails, and xl hands its wait status on, whose low byte is 0. */
const interruptedExit = 0;
