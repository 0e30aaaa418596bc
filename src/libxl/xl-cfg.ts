/**
 * The language of xl.cfg: text to settings, and the reading of settings.
 *
 * Hand-written, but held to what flex and bison make of Xen's grammar (`tools/libs/util/libxlu_cfg_l.l`, `_y.y`), down to
 * the texts of errors, because scripts compare them:
 *
 *   file       := stmts | stmts assignment
 *   stmt       := assignment end | end | <error> NEWLINE
 *   end        := NEWLINE | ';'
 *   assignment := IDENT '=' value | IDENT '+=' value
 *   value      := STRING | NUMBER | '[' NEWLINE* valuelist ']'
 *   valuelist  := nothing | values | values ',' NEWLINE*
 *   values     := value NEWLINE* | values ',' NEWLINE* value NEWLINE*
 *
 * Knows nothing of the meaning of a key; that is `config.ts`.
 */
import { isLongOverflow, strtol, toInt32 } from './strtol.js';

export type CfgValue = CfgString | CfgList;

/** Where something begins: lines and columns count from 1, columns in bytes. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

export interface CfgString extends Position {
  readonly kind: 'string';
  readonly text: string;
}

export interface CfgList extends Position {
  readonly kind: 'list';
  readonly items: readonly CfgValue[];
}

/** One assignment. A setting made by `+=` holds the sum, in the place of what was added. */
export interface Setting {
  readonly name: string;
  readonly op: '=' | '+=';
  readonly value: CfgValue;
  /** Where the name stands. */
  readonly at: Position;
}

/** An error: the line xl names (one less than the true one where the error is a line's end) and the whole message. */
export interface Diagnostic {
  readonly line: number;
  readonly message: string;
  /** Where it is in truth, and what is wrong there. */
  readonly at: Position;
  readonly what: string;
}

export interface ParsedCfg {
  /** In the order of the file. A later one of the same name hides the earlier. Worthless if there are diagnostics. */
  readonly settings: readonly Setting[];
  readonly diagnostics: readonly Diagnostic[];
  /** What xl dies of instead of a diagnostic: an assertion that fails on a string with a NUL. */
  readonly aborted?: string;
  /** Whether a lexical error looked like Python code, to which xl adds a hint. */
  readonly likelyPython: boolean;
}

type TokenKind = '$end' | 'IDENT' | 'STRING' | 'NUMBER' | 'NEWLINE' | '+=' | "'='" | "','" | "'['" | "']'" | "';'";

interface Token {
  readonly kind: TokenKind;
  /** As matched; an error quotes it. */
  readonly text: string;
  /** The name, digits or dequoted string. */
  readonly value: string;
  /** The line that bison takes for its own. */
  readonly line: number;
  /** Where it begins in truth. */
  readonly at: Position;
}

interface Parse {
  readonly text: string;
  readonly source: string;
  readonly diagnostics: Diagnostic[];
  readonly settings: Setting[];
  /** The last value of each name. */
  readonly latest: Map<string, CfgValue>;
  at: number;
  line: number;
  /** Where the line that is read begins. */
  lineStart: number;
  /** Where the token that is read begins. */
  tokenAt: Position;
  /** The line of the last lexical error. Later errors of lines up to it are not shown. */
  lexErrLine: number;
  /** Set by the first error; from then on nothing is stored or dequoted. */
  failed: boolean;
  likelyPython: boolean;
  /** The token that has been read but not shifted. */
  lookahead: Token | undefined;
  /** bison's count down from 3: an error is shown only after three tokens in a row were good. */
  errStatus: number;
  lastLine: number;
}

/** Parses `text`; `source` is what messages call it. */
export function parseXlCfg(text: string, source: string): ParsedCfg {
  const parse: Parse = {
    text,
    source,
    diagnostics: [],
    settings: [],
    latest: new Map(),
    at: 0,
    line: 1,
    lineStart: 0,
    tokenAt: { line: 1, column: 1 },
    lexErrLine: -1,
    failed: false,
    likelyPython: false,
    lookahead: undefined,
    errStatus: 0,
    lastLine: 1,
  };
  let aborted: string | undefined;
  try {
    parseFile(parse);
  } catch (error) {
    if (!(error instanceof Aborted)) throw error;
    aborted = error.message;
  }
  const { settings, diagnostics, likelyPython } = parse;
  return { settings, diagnostics, likelyPython, ...(aborted === undefined ? {} : { aborted }) };
}

/** What xl prints on stderr for a text that does not parse. */
export function diagnosticLines(parsed: ParsedCfg): string[] {
  const lines = parsed.diagnostics.map((diagnostic) => diagnostic.message);
  if (lines.length > 0 && parsed.likelyPython) {
    lines.push(
      'warning: Config file looks like it contains Python code.',
      'warning:  Arbitrary Python is no longer supported.',
      'warning:  See https://wiki.xen.org/wiki/PythonInXlConfig',
    );
  }
  return lines;
}

// ---- The parser

const expectStatement: readonly TokenKind[] = ['$end', 'IDENT', 'NEWLINE', "';'"];
const expectOperator: readonly TokenKind[] = ['+=', "'='"];
const expectValue: readonly TokenKind[] = ['STRING', 'NUMBER', "'['"];

/**
 * The statements of a file, with bison's recovery.
 *
 * After a mistake inside a statement the rest of its line is skipped. After a complete assignment bison has already
 * settled for "this was the last one", so what follows it on the same line ends the parse for good:
 *
 *   a=1 b=2      syntax error, unexpected IDENT, expecting $end; lines below are not looked at
 */
function parseFile(parse: Parse): void {
  for (;;) {
    const token = peek(parse);
    switch (token.kind) {
      case '$end':
        return;
      case 'NEWLINE':
      case "';'":
        shift(parse);
        break;
      case 'IDENT': {
        if (!parseAssignment(parse)) {
          if (!recover(parse)) return;
          break;
        }
        const next = peek(parse);
        if (next.kind === '$end') return;
        if (next.kind !== 'NEWLINE' && next.kind !== "';'") {
          syntaxError(parse, next, ['$end']);
          return;
        }
        shift(parse);
        break;
      }
      default:
        syntaxError(parse, token, expectStatement);
        if (!recover(parse)) return;
    }
  }
}

/** Skips to the next line; false at the end of the text. */
function recover(parse: Parse): boolean {
  parse.errStatus = 3;
  for (;;) {
    const token = peek(parse);
    if (token.kind === '$end') return false;
    if (token.kind === 'NEWLINE') {
      shift(parse);
      return true;
    }
    parse.lookahead = undefined;
  }
}

function parseAssignment(parse: Parse): boolean {
  const name = shift(parse);
  const operator = peek(parse);
  if (operator.kind !== '+=' && operator.kind !== "'='") return syntaxError(parse, operator, expectOperator);
  shift(parse);
  const start = peek(parse);
  if (!startsValue(start)) return syntaxError(parse, start, expectValue);
  const value = parseValue(parse, stackBeforeValue);
  if (!value) return false;
  store(parse, name, operator.kind === '+=' ? '+=' : '=', value.value, value.last);
  return true;
}

function startsValue(token: Token): boolean {
  return token.kind === 'STRING' || token.kind === 'NUMBER' || token.kind === "'['";
}

/** How many symbols bison keeps at most. */
const stackMax = 10_000;
/** Its first state, the statements before this one, the name and the operator. */
const stackBeforeValue = 4;

/**
 * A value and its last token, or undefined after an error. The next token must start a value. `height` is what bison has
 * on its stack before it: each level of a list adds to that, and too many levels are an error of their own.
 */
function parseValue(parse: Parse, height: number): { readonly value: CfgValue; readonly last: Token } | undefined {
  const first = shift(parse);
  if (first.kind !== "'['") {
    return { value: { kind: 'string', text: first.value, line: first.line, column: first.at.column }, last: first };
  }
  const items: CfgValue[] = [];
  skipNewlines(parse);
  // On the stack: the bracket and its newlines, and behind the first item also the values, a comma and newlines.
  let below = height + 2;
  while (startsValue(peek(parse))) {
    // The item, and the newlines that may follow it.
    if (below + 2 >= stackMax) {
      const { line, text, at } = peek(parse);
      report(parse, line, text, 'memory exhausted', at);
      parse.at = parse.text.length;
      parse.lookahead = undefined;
      parse.errStatus = 3;
      return undefined;
    }
    const item = parseValue(parse, below);
    if (!item) return undefined;
    items.push(item.value);
    skipNewlines(parse);
    if (peek(parse).kind !== "','") break;
    shift(parse);
    skipNewlines(parse);
    below = height + 5;
  }
  const last = peek(parse);
  if (last.kind !== "']'") {
    syntaxError(parse, last, ["']'"]);
    return undefined;
  }
  shift(parse);
  return { value: { kind: 'list', items, line: first.line, column: first.at.column }, last };
}

function skipNewlines(parse: Parse): void {
  while (peek(parse).kind === 'NEWLINE') shift(parse);
}

/** Records an assignment. `+=` adds to the last setting of the name: strings are joined, lists appended. */
function store(parse: Parse, { value: name, at }: Token, op: '=' | '+=', value: CfgValue, last: Token): void {
  if (parse.failed) return;
  const previous = op === '+=' ? parse.latest.get(name) : undefined;
  const sum = previous ? add(previous, value) : value;
  if (!sum) {
    lexicalError(parse, last.text, 'can\'t add [list] to "string" or vice versa', last.at);
    parse.failed = true;
    return;
  }
  parse.settings.push({ name, op, value: sum, at });
  parse.latest.set(name, sum);
}

function add(previous: CfgValue, value: CfgValue): CfgValue | undefined {
  if (previous.kind === 'string' && value.kind === 'string') return { ...value, text: previous.text + value.text };
  if (previous.kind === 'list' && value.kind === 'list') return { ...value, items: [...previous.items, ...value.items] };
  return undefined;
}

function peek(parse: Parse): Token {
  parse.lookahead ??= nextToken(parse);
  return parse.lookahead;
}

function shift(parse: Parse): Token {
  const token = peek(parse);
  parse.lookahead = undefined;
  if (parse.errStatus > 0) parse.errStatus--;
  return token;
}

function syntaxError(parse: Parse, token: Token, expected: readonly TokenKind[]): false {
  const message = `syntax error, unexpected ${token.kind}, expecting ${expected.join(' or ')}`;
  if (parse.errStatus === 0) report(parse, token.line, token.text, message, token.at);
  return false;
}

function lexicalError(parse: Parse, text: string, message: string, at = parse.tokenAt): void {
  report(parse, parse.line, text, message, at);
  parse.lexErrLine = parse.line;
}

/** What C sees of a text with a NUL in it. */
function untilNul(bytes: string): string {
  const nul = bytes.indexOf('\0');
  return nul < 0 ? bytes : bytes.slice(0, nul);
}

/**
 * One error line. A token that ends in a newline takes the line number down by one, although the lexer has done so
 * before: the first line's end is reported for line 0.
 */
function report(parse: Parse, line: number, text: string, what: string, at: Position): void {
  if (line <= parse.lexErrLine) return;
  const atNewline = text.endsWith('\n');
  const quoted = untilNul((atNewline ? text.slice(0, -1) : text).replace(/[ \t]+$/, ''));
  const near = text === '\n' ? '<newline>' : `\`${quoted}'`;
  const shown = atNewline ? line - 1 : line;
  const message = `${parse.source}:${shown}: config parsing error near ${near}: ${what}`;
  parse.diagnostics.push({ line: shown, message, at, what: text === '\n' || text === '' ? what : `${near}: ${what}` });
  parse.failed = true;
}

// ---- The lexer

const punctuation: Readonly<Record<string, TokenKind>> = { ',': "','", '[': "'['", ']': "']'", '=': "'='", ';': "';'" };

function nextToken(parse: Parse): Token {
  for (;;) {
    parse.tokenAt = { line: parse.line, column: parse.at - parse.lineStart + 1 };
    const char = parse.text.charAt(parse.at);
    if (char === '') return token(parse, '$end', '', parse.lastLine);
    if (char === ' ' || char === '\t') {
      parse.at++;
      continue;
    }
    const length = newlineLength(parse);
    if (length > 0) {
      // The location is the line that ends here; the scanner is on the next one already.
      parse.line++;
      const newline = take(parse, length);
      parse.lineStart = parse.at;
      return token(parse, 'NEWLINE', newline, parse.line - 1);
    }
    const punctuated = punctuation[char];
    if (punctuated) return token(parse, punctuated, take(parse, 1));
    if (parse.text.startsWith('+=', parse.at)) return token(parse, '+=', take(parse, 2));
    if (isLower(char))
      return token(
        parse,
        'IDENT',
        take(
          parse,
          runLength(parse, (c) => isLower(c) || isDigit(c) || c === '.' || c === '_'),
        ),
      );
    if (isDigit(char))
      return token(
        parse,
        'NUMBER',
        take(
          parse,
          runLength(parse, (c) => isDigit(c) || (c >= 'a' && c <= 'f') || c === 'x'),
        ),
      );
    const stringLength = char === '"' || char === "'" ? quotedLength(parse, char) : 0;
    if (stringLength > 0) {
      const text = take(parse, stringLength);
      return token(parse, 'STRING', text, parse.line, dequote(parse, text));
    }
    const lexed = lexBadText(parse, char);
    if (lexed) return lexed;
  }
}

function token(parse: Parse, kind: TokenKind, text: string, line = parse.line, value = text): Token {
  parse.lastLine = line;
  return { kind, text, value, line, at: parse.tokenAt };
}

function take(parse: Parse, length: number): string {
  const text = parse.text.slice(parse.at, parse.at + length);
  parse.at += length;
  return text;
}

function isLower(char: string): boolean {
  return char >= 'a' && char <= 'z';
}

function isDigit(char: string): boolean {
  return char >= '0' && char <= '9';
}

function runLength(parse: Parse, belongs: (char: string) => boolean): number {
  let end = parse.at;
  while (end < parse.text.length && belongs(parse.text.charAt(end))) end++;
  return end - parse.at;
}

/** The length of a line's end here, with the comment before it; 0 if there is none. A comment needs its newline. */
function newlineLength(parse: Parse): number {
  const char = parse.text.charAt(parse.at);
  if (char === '\n') return 1;
  if (char !== '#') return 0;
  const end = parse.text.indexOf('\n', parse.at);
  return end < 0 ? 0 : end + 1 - parse.at;
}

/** The length of a quoted string here; 0 if it does not close on its line. */
function quotedLength(parse: Parse, quote: string): number {
  for (let end = parse.at + 1; end < parse.text.length; end++) {
    const char = parse.text.charAt(end);
    if (char === '\n') return 0;
    if (char === quote) return end + 1 - parse.at;
    if (char === '\\') {
      end++;
      if (parse.text.charAt(end) === '\n') return 0;
    }
  }
  return 0;
}

/**
 * Text that is no token, up to the next blank. It is reported and skipped, with the blank if that comes right after the
 * first byte; a newline there is a token all the same. A first byte at the very end goes unnoticed.
 */
function lexBadText(parse: Parse, first: string): Token | undefined {
  if ('+-.():'.includes(first)) parse.likelyPython = true;
  parse.at++;
  const length = runLength(parse, (char) => char !== ' ' && char !== '\t' && char !== '\n');
  if (length > 0) {
    lexicalError(parse, first + take(parse, length), 'lexical error');
    return undefined;
  }
  const blank = take(parse, 1);
  if (blank === '') return token(parse, '$end', first, parse.lastLine);
  if (blank === '\n') {
    parse.line++;
    parse.lineStart = parse.at;
  }
  lexicalError(parse, first + blank, 'lexical error');
  return blank === '\n' ? token(parse, 'NEWLINE', first + blank) : undefined;
}

const escapes: Readonly<Record<string, string>> = {
  '"': '"',
  "'": "'",
  '\\': '\\',
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};

/**
 * The string within the quotes. Numeric escapes have never worked: hexadecimal ones always fail, octal ones are read as
 * decimal, need a second digit and yield nothing.
 */
function dequote(parse: Parse, quoted: string): string {
  if (parse.failed) return '';
  if (quoted.includes('\0')) throw new Aborted(untilNul(quoted));
  let result = '';
  for (let at = 1; at < quoted.length - 1; at++) {
    const char = quoted.charAt(at);
    if (char !== '\\') {
      result += char;
      continue;
    }
    at++;
    const letter = quoted.charAt(at);
    const replacement = escapes[letter];
    if (replacement !== undefined) {
      result += replacement;
    } else if (letter >= '0' && letter <= '7') {
      const { end } = strtol(quoted.slice(at + 1, at + 4), 10);
      if (end <= 1)
        return dequoteError(parse, quoted, 'invalid digit after backslash octalnumerical character escape in quoted string');
      at += end;
    } else if (letter === 'x') {
      return dequoteError(parse, quoted, 'invalid digit after backslash hexnumerical character escape in quoted string');
    } else {
      return dequoteError(parse, quoted, 'invalid character after backlash in quoted string');
    }
  }
  return result;
}

/** The end of xl at a string with a NUL: C sees less of it than the lexer, and an assertion fails. */
class Aborted extends Error {
  override readonly name = 'Aborted';

  constructor(seen: string) {
    // Behind an escaped quote the NUL is only noticed one step later.
    const closed = seen.length >= 2 && seen.endsWith(seen.charAt(0));
    const failed = closed
      ? "619: xlu__cfgl_dequote: Assertion `p < src+len-1'"
      : "607: xlu__cfgl_dequote: Assertion `len>=2 && src[0]==src[len-1]'";
    super(`xl: libxlu_cfg.c:${failed} failed.`);
  }
}

function dequoteError(parse: Parse, quoted: string, message: string): string {
  lexicalError(parse, quoted, message);
  parse.failed = true;
  return '';
}

// ---- Reading settings

/** The settings of one text with what has been said about them. */
export interface CfgReader {
  readonly source: string;
  readonly settings: ReadonlyMap<string, Setting>;
  /** xl's lines for stderr. */
  readonly lines: string[];
  /** Some messages of xl forget their newline, so that the next one goes on in their line: what stands before which line. */
  readonly unended: Map<number, string>;
  /** The keys that were there when they were asked for, and how many lines had been said before. */
  readonly asked: { readonly key: string; readonly said: number }[];
}

export function cfgReader(settings: readonly Setting[], source: string): CfgReader {
  const byName = new Map(settings.map((setting) => [setting.name, setting]));
  return { source, settings: byName, lines: [], unended: new Map(), asked: [] };
}

/** Says something without a newline behind it. */
export function sayUnended({ lines, unended }: CfgReader, text: string): void {
  unended.set(lines.length, (unended.get(lines.length) ?? '') + text);
}

/** All that was said, as bytes for stderr. */
export function saidText({ lines, unended }: CfgReader): string {
  const ended = lines.map((line, index) => `${unended.get(index) ?? ''}${line}\n`).join('');
  return ended + (unended.get(lines.length) ?? '');
}

function ask(reader: CfgReader, key: string): Setting | undefined {
  const setting = reader.settings.get(key);
  if (setting) reader.asked.push({ key, said: reader.lines.length });
  return setting;
}

export function hasKey(reader: CfgReader, key: string): boolean {
  return reader.settings.has(key);
}

interface ReadOptions {
  /** xl asks without warning where it tries one type after another. */
  readonly quiet?: boolean;
}

export function getString(reader: CfgReader, key: string, options: ReadOptions = {}): string | undefined {
  return findAtom(reader, key, options)?.text;
}

/** A number by the rules of `strtol`, so `"0x10"`, `010` and `" 5"` are numbers too: C's long, all of its 64 bits. */
export function getLong(reader: CfgReader, key: string, options: ReadOptions = {}): bigint | undefined {
  const atom = findAtom(reader, key, options);
  if (!atom) return undefined;
  if (reader.settings.get(key)?.op === '+=') {
    warn(reader, key, options, `can't use += with numbers for parameter \`${key}'`);
    return undefined;
  }
  const number = strtol(atom.text);
  if (isLongOverflow(number)) {
    warn(reader, key, options, `parameter \`${key}' could not be parsed as a number: Numerical result out of range`);
    return undefined;
  }
  if (number.end === 0 || number.end < atom.text.length) {
    warn(reader, key, options, `parameter \`${key}' is not a valid number`);
    return undefined;
  }
  return number.value;
}

/** A number that xl keeps in an int: its lower 32 bits. */
export function getInt(reader: CfgReader, key: string, options: ReadOptions = {}): number | undefined {
  const value = getLong(reader, key, options);
  return value === undefined ? undefined : toInt32(value);
}

/** A number that xl keeps in a uint32_t. */
export function getUint32(reader: CfgReader, key: string, options: ReadOptions = {}): number | undefined {
  const value = getLong(reader, key, options);
  return value === undefined ? undefined : Number(BigInt.asUintN(32, value));
}

/**
 * MiB as KiB. C multiplies modulo 2^64; the upper half of that is given as the negative number of the same bits, which a
 * double holds exactly.
 */
export function getMebibytes(reader: CfgReader, key: string): number | undefined {
  const mebibytes = getLong(reader, key);
  return mebibytes === undefined ? undefined : Number(BigInt.asIntN(64, mebibytes * 1024n));
}

/** A number between two bounds; `outside` when it is there but is not such a number. */
export function getBoundedLong(
  reader: CfgReader,
  key: string,
  min: number,
  max: number,
  options: ReadOptions = {},
): number | 'outside' | undefined {
  if (!hasKey(reader, key)) return undefined;
  const value = getLong(reader, key, options);
  if (value === undefined) return 'outside';
  if (value < min) {
    warn(reader, key, options, `value \`${value}' is smaller than minimum bound '${min}'`);
    return 'outside';
  }
  if (value > max) {
    warn(reader, key, options, `value \`${value}' is greater than maximum bound '${max}'`);
    return 'outside';
  }
  return Number(value);
}

/** A boolean: any number but 0 is true. Absent and unreadable alike leave libxl's default. */
export function getDefbool(reader: CfgReader, key: string, options: ReadOptions = {}): boolean | undefined {
  const value = getLong(reader, key, options);
  return value === undefined ? undefined : value !== 0n;
}

export function getList(reader: CfgReader, key: string, options: ReadOptions = {}): readonly CfgValue[] | undefined {
  const setting = ask(reader, key);
  if (!setting) return undefined;
  if (setting.value.kind === 'list') return setting.value.items;
  warn(reader, key, options, `parameter \`${key}' is a single value but should be a list`);
  return undefined;
}

/** The strings of a list up to the first item that is a list itself: there, xl's loops over devices end. */
export function getStrings(reader: CfgReader, key: string, options: ReadOptions = {}): readonly string[] | undefined {
  const items = getList(reader, key, options);
  if (!items) return undefined;
  const strings: string[] = [];
  for (const item of items) {
    if (item.kind !== 'string') break;
    strings.push(item.text);
  }
  return strings;
}

function findAtom(reader: CfgReader, key: string, options: ReadOptions): CfgString | undefined {
  const value = ask(reader, key)?.value;
  if (value?.kind === 'list') warn(reader, key, options, `parameter \`${key}' is a list but should be a single value`);
  return value?.kind === 'string' ? value : undefined;
}

function warn(reader: CfgReader, key: string, options: ReadOptions, message: string): void {
  if (options.quiet) return;
  reader.lines.push(`${reader.source}:${reader.settings.get(key)?.value.line ?? 0}: warning: ${message}`);
}

/** xl's warning about a part of a list. It names a column too, which is 0 whatever the text. */
export function warnOfItem(reader: CfgReader, item: CfgValue, message: string): void {
  reader.lines.push(`${reader.source}:${item.line}:0: warning: ${message}`);
}

// ---- Settings as text

/** Settings as a text that parses to the same, one on a line. */
export function printXlCfg(settings: readonly { readonly name: string; readonly value: PrintedValue }[]): string {
  return settings.map(({ name, value }) => `${name}=${printValue(value)}\n`).join('');
}

/** A value without its place. */
export type PrintedValue =
  | { readonly kind: 'string'; readonly text: string }
  | { readonly kind: 'list'; readonly items: readonly PrintedValue[] };

function printValue(value: PrintedValue): string {
  return value.kind === 'string' ? quoteXlCfg(value.text) : `[${value.items.map(printValue).join(', ')}]`;
}

const escapeOf: Readonly<Record<string, string>> = { '"': '\\"', '\\': '\\\\', '\n': '\\n' };

/** A string in quotes. All but quotes, backslashes and line ends stands for itself; a NUL cannot be said. */
export function quoteXlCfg(text: string): string {
  return `"${text.replace(/["\\\n]/g, (char) => escapeOf[char] ?? char)}"`;
}
