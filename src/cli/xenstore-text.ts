/**
 * What Debian's xenstore-ls, -read, -write, -list, -rm, -exists, -chmod and -watch (Xen 4.17) take and print, as text
 * alone: their options, how values are escaped and read back, the lines of `ls`.
 *
 * No store and no stream here; the order of the requests is in the commands. All text is bytes, one a character, as in
 * xs-client.ts: neither an argument nor a value need be UTF-8. The rules were found by running the real programs, and a
 * test runs each command beside its original. `--json` is ours.
 */
import { isUtf8 } from 'node:buffer';
import { atoi } from '../libxl/strtol.js';
import { formatPerm, type Perm, type XsErrno } from '../xenbus/xs-wire.js';

/** What each program takes beside `-h` and `-s`, by the letters of its options, and its usage line behind its name. */
const tools = {
  ls: { letters: 'fp', json: true, usage: '[-h] [-f] [-p] [-s] [path]' },
  read: { letters: 'pR', json: true, usage: '[-h] [-p] [-s] [-R] key [...]' },
  write: { letters: 'R', json: false, usage: '[-h] [-s] [-R] key value [...]' },
  list: { letters: 'p', json: true, usage: '[-h] [-p] [-s] key [...]' },
  rm: { letters: 't', json: false, usage: '[-h] [-s] [-t] key [...]' },
  // Its usage line is that of xenstore-list, down to the `-p` that it refuses.
  exists: { letters: '', json: false, usage: '[-h] [-p] [-s] key [...]' },
  chmod: { letters: 'ur', json: false, usage: '[-h] [-u] [-r] [-s] key <mode [modes...]>' },
  watch: { letters: 'n', json: true, usage: '[-h] [-n NR] key' },
} as const satisfies Record<string, { letters: string; json: boolean; usage: string }>;
export type ToolName = keyof typeof tools;

/** All programs know all options; one that belongs to another program is answered with the usage line. */
const longOptions: Readonly<Record<string, string>> = {
  help: 'h',
  flat: 'f',
  prefix: 'p',
  tidy: 't',
  upto: 'u',
  recurse: 'r',
  number: 'n',
  raw: 'R',
};
const letters = 'hfspturnR';

/** The name that a program gives itself in what it says. Ours is the same, so that what is said is. */
export function programName(tool: ToolName): string {
  return `xenstore-${tool}`;
}

/** Behind `xenstore-read: `. */
export function usageLine(tool: ToolName): string {
  return `Usage: ${programName(tool)} ${tools[tool].usage}`;
}

/** What a command line asks for. */
export interface Asked {
  readonly flat: boolean;
  readonly prefix: boolean;
  readonly tidy: boolean;
  readonly upto: boolean;
  readonly recurse: boolean;
  readonly raw: boolean;
  readonly json: boolean;
  /** Events until the end; -1: there is no end. */
  readonly number: number;
  readonly operands: readonly string[];
}

export interface ToolLine {
  /** getopt's own lines for stderr. What it complains of is left out, and the rest is done. */
  readonly complaints: readonly string[];
  readonly asked: Asked | 'help' | 'usage';
}

/**
 * Reads the words behind a program's name, as getopt_long does it for that program: options anywhere before a `--`,
 * long ones by any unambiguous beginning, in order, so that the first `-h` or misplaced option decides.
 */
export function readToolLine(tool: ToolName, given: readonly string[]): ToolLine {
  const complaints: string[] = [];
  const complain = (text: string): void => {
    complaints.push(`${programName(tool)}: ${text}`);
  };
  const long: Readonly<Record<string, string>> = tools[tool].json ? { ...longOptions, json: 'json' } : longOptions;
  const set = new Set<string>();
  const operands: string[] = [];
  let number = -1;
  const words = [...given];

  /** Takes note of an option. Answers with how the command line ends because of it, if it does. */
  const take = (option: string, value: string): 'help' | 'usage' | undefined => {
    if (option === 'h') return 'help';
    if (option !== 's' && option !== 'json' && !tools[tool].letters.includes(option)) return 'usage';
    if (option === 'n') number = atoi(value);
    set.add(option);
    return undefined;
  };

  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    if (word === '--') {
      operands.push(...words);
      break;
    }
    if (!word.startsWith('-') || word === '-') {
      operands.push(word);
      continue;
    }
    if (word.startsWith('--')) {
      const typed = word.slice(2).split('=', 1)[0] ?? '';
      const value = word.length > typed.length + 2 ? word.slice(typed.length + 3) : undefined;
      const names = Object.hasOwn(long, typed) ? [typed] : Object.keys(long).filter((name) => name.startsWith(typed));
      const [name, other] = names;
      const option = name === undefined ? undefined : long[name];
      if (option === undefined) {
        complain(`unrecognized option '${word}'`);
      } else if (other !== undefined) {
        complain(`option '${word}' is ambiguous; possibilities:${names.map((each) => ` '--${each}'`).join('')}`);
      } else if (option !== 'n' && value !== undefined) {
        complain(`option '--${name}' doesn't allow an argument`);
      } else {
        const argument = option === 'n' ? (value ?? words.shift()) : '';
        if (argument === undefined) {
          complain(`option '--${name}' requires an argument`);
          continue;
        }
        const end = take(option, argument);
        if (end) return { complaints, asked: end };
      }
      continue;
    }
    for (let at = 1; at < word.length; at += 1) {
      const letter = word.charAt(at);
      if (!letters.includes(letter)) {
        complain(`invalid option -- '${letter}'`);
        continue;
      }
      let argument: string | undefined = '';
      if (letter === 'n') {
        argument = at + 1 < word.length ? word.slice(at + 1) : words.shift();
        at = word.length;
        if (argument === undefined) {
          complain(`option requires an argument -- 'n'`);
          continue;
        }
      }
      const end = take(letter, argument);
      if (end) return { complaints, asked: end };
    }
  }

  if (!fits(tool, operands.length)) return { complaints, asked: 'usage' };
  const asked: Asked = {
    flat: set.has('f'),
    prefix: set.has('p'),
    tidy: set.has('t'),
    upto: set.has('u'),
    recurse: set.has('r'),
    raw: set.has('R'),
    json: set.has('json'),
    number,
    operands,
  };
  return { complaints, asked };
}

function fits(tool: ToolName, operands: number): boolean {
  if (tool === 'ls') return true;
  return operands > 0 && (tool !== 'write' || operands % 2 === 0);
}

/** A value as it is shown: printable ASCII as it is, a backslash and every other byte escaped. */
export function escaped(value: string): string {
  return value.replace(/[^ -[\]-~]/g, (char) => {
    const short = shortEscapes[char];
    if (short !== undefined) return `\\${short}`;
    const code = char.charCodeAt(0);
    return code < 8 ? `\\${code.toString(8).padStart(3, '0')}` : `\\x${code.toString(16).padStart(2, '0')}`;
  });
}

const shortEscapes: Readonly<Record<string, string>> = { '\t': 't', '\n': 'n', '\r': 'r', '\\': '\\' };
const unescapes: Readonly<Record<string, string>> = { t: '\t', n: '\n', r: '\r' };

/**
 * A value as `write` takes it: the other way. It is read by scanf, and so is this: `\x` takes two characters of a
 * hexadecimal number with white space before it, and a sign or `0x` within; without a number it is an `x`. `\` before
 * anything else is nothing, and at the end it is a NUL.
 */
export function unescaped(text: string): string {
  const out: string[] = [];
  let at = 0;
  while (at < text.length) {
    const slash = text.indexOf('\\', at);
    if (slash < 0) break;
    out.push(text.slice(at, slash));
    const char = text.charAt(slash + 1);
    at = slash + 2;
    if (char === '') {
      out.push('\0');
    } else if (char === 'x') {
      const { byte, size } = scanHex(text, at);
      out.push(byte);
      at += size;
    } else if (char >= '0' && char <= '7') {
      const [digits = ''] = /^[0-7]{1,3}/.exec(text.slice(slash + 1, slash + 4)) ?? [];
      out.push(byteOf(Number.parseInt(digits, 8)));
      at = slash + 1 + digits.length;
    } else {
      out.push(unescapes[char] ?? char);
    }
  }
  return out.join('') + text.slice(at);
}

/** scanf's `%2x` at `at`: the byte that the number ends as, and how many characters were taken. */
function scanHex(text: string, at: number): { readonly byte: string; readonly size: number } {
  let start = at;
  while (start < text.length && ' \t\n\v\f\r'.includes(text.charAt(start))) start += 1;
  const [number] = /^(?:0[xX]|[+-]?[\da-fA-F]+)/.exec(text.slice(start, start + 2)) ?? [];
  if (number === undefined) return { byte: 'x', size: 0 };
  const value = number.length === 2 && /x/i.test(number) ? 0 : Number.parseInt(number, 16);
  return { byte: byteOf(value), size: start - at + number.length };
}

function byteOf(value: number): string {
  return String.fromCharCode(value & 0xff);
}

/** What a line of `ls` shows. */
export interface Shown {
  readonly path: string;
  readonly name: string;
  /** How deep below the path that was asked for; 0 for its children. */
  readonly depth: number;
  /** Undefined when it could not be read: it may have gone meanwhile. */
  readonly value: string | undefined;
  /** Undefined when nobody asked, or they could not be read. */
  readonly perms: readonly Perm[] | undefined;
}

export interface LsStyle {
  /** Full paths in place of indented names. */
  readonly flat: boolean;
  readonly prefix: boolean;
  /** Columns of the terminal; undefined when it is none. */
  readonly columns: number | undefined;
}

/** ` = "..."` */
const lsTagWidth = 8;
/** Where `ls` thinks that a line ends when nobody reads along, and with `-f`. */
const lsWidth = 80;
const lsFlatWidth = 0x3fff_ffff;
/** Up to where dots lead from a value to its permissions. */
const lsPermsColumn = 60;

/**
 * A line of `ls`, with its newline; more than one for a value that could not be read.
 *
 * The width is 80, or what the terminal has less 2, with `-f` too; with `-f` and no terminal there is none. A value is
 * shortened when its bytes would not fit, though what is cut is its escaped form, and a `\...` stands behind. Neither the
 * path of `-f` nor what stands behind the value counts. Where less than nothing is left, nothing is cut.
 */
export function lsLine(node: Shown, style: LsStyle): string {
  const width = style.columns === undefined ? (style.flat ? lsFlatWidth : lsWidth) : style.columns - 2;
  const permsColumn = Math.min(style.flat ? 0 : lsPermsColumn, width);
  let head = node.path;
  let used = 0;
  if (!style.flat) {
    head = ' '.repeat(node.depth) + cut(node.name, width - lsTagWidth - node.depth);
    used = head.length;
  }
  const perms = node.perms === undefined ? '' : `  (${node.perms.map(formatPerm).join(',')})`;
  if (node.value === undefined) return `${head}:\n${perms}\n`;
  const text = escaped(node.value);
  if (width >= 0 && width < used + node.value.length + lsTagWidth) {
    return `${head} = "${cut(text, width - lsTagWidth - used)}\\..."${perms}\n`;
  }
  const line = `${head} = "${text}"`;
  if (!style.prefix) return `${line}${perms}\n`;
  let dots = ' ';
  for (let column = used + text.length + 5 + 1; column < permsColumn; column += 1) dots += column % 2 === 1 ? '.' : ' ';
  return `${line}${dots}${perms}\n`;
}

/** printf's `%.*s`: a negative precision is none. */
function cut(text: string, width: number): string {
  return width < 0 ? text : text.slice(0, width);
}

/**
 * The permissions of `chmod`, one a word: a letter and a domid. The character that is no letter, if there is one: of an
 * empty word that is its NUL.
 */
export function readPerms(words: readonly string[]): readonly Perm[] | string {
  const perms: Perm[] = [];
  for (const word of words) {
    const letter = word.charAt(0) || '\0';
    if (!'nrwb'.includes(letter)) return letter;
    // The buffer of the C client has no room for the eleventh character of a number.
    const domid = Number(String(atoi(word.slice(1))).slice(0, 10));
    perms.push({ domid, read: 'rb'.includes(letter), write: 'wb'.includes(letter) });
  }
  return perms;
}

/** A value in JSON: text where its bytes are UTF-8, else base64 under another name. */
export function jsonValue(value: string): { readonly value: string } | { readonly base64: string } {
  const bytes = Buffer.from(value, 'latin1');
  return isUtf8(bytes) ? { value: bytes.toString('utf8') } : { base64: bytes.toString('base64') };
}

/** What strerror(3) says of the errors that the store can name. */
export const errnoText: Readonly<Record<XsErrno, string>> = {
  EINVAL: 'Invalid argument',
  EACCES: 'Permission denied',
  EEXIST: 'File exists',
  EISDIR: 'Is a directory',
  ENOENT: 'No such file or directory',
  ENOMEM: 'Cannot allocate memory',
  ENOSPC: 'No space left on device',
  EIO: 'Input/output error',
  ENOTEMPTY: 'Directory not empty',
  ENOSYS: 'Function not implemented',
  EROFS: 'Read-only file system',
  EBUSY: 'Device or resource busy',
  EAGAIN: 'Resource temporarily unavailable',
  EISCONN: 'Transport endpoint is already connected',
  E2BIG: 'Argument list too long',
  EPERM: 'Operation not permitted',
};
