/**
 * How C reads text in xl's specifications: `strtok`, `sscanf` and their like, where their manners show.
 */
import { saturate, strtol } from './strtol.js';
import type { CfgReader } from './xl-cfg.js';
import { exitXl } from './xl-exit.js';

/** What a shell reports of a process that was killed by SIGSEGV or SIGABRT. */
export const killedBy = { segv: 139, abrt: 134 } as const;

/** The words of `text` between any of the characters of `delimiters`, as `strtok` finds them: none is empty. */
export function strtok(text: string, delimiters: string): readonly string[] {
  const words: string[] = [];
  let word = '';
  for (const char of text) {
    if (!delimiters.includes(char)) word += char;
    else if (word !== '') {
      words.push(word);
      word = '';
    }
  }
  if (word !== '') words.push(word);
  return words;
}

/** A list of words for which xl makes a list: of nothing it cannot, and dies of it. */
export function splitList(reader: CfgReader, text: string, delimiters: string): readonly string[] {
  const words = strtok(text, delimiters);
  return words.length > 0 ? words : exitXl(reader, killedBy.segv);
}

/** `key=value` with the blanks around both taken away; undefined unless both are something. */
export function splitPair(text: string, delimiter: string): readonly [string, string] | undefined {
  const [first, second] = strtok(text, delimiter);
  return first === undefined || second === undefined ? undefined : [first, second];
}

/** Without C's `isspace` at both ends. */
export function trim(text: string): string {
  return text.replace(/^[ \t\n\v\f\r]+/, '').replace(/[ \t\n\v\f\r]+$/, '');
}

/**
 * A number in front of `text`, as glibc's `sscanf` reads `%u` (base 10) or `%x` (base 16); undefined if there is none. A
 * hexadecimal prefix without digits behind it is a number too, 0.
 */
export function scanNumber(text: string, base: 10 | 16): { readonly value: bigint; readonly rest: string } | undefined {
  const number = strtol(text, base);
  if (number.end === 0) return undefined;
  const prefix = base === 16 ? /^[ \t\n\v\f\r]*[+-]?0x(?![0-9a-f])/i.exec(text) : null;
  return { value: saturate(number.value), rest: text.slice(prefix ? prefix[0].length : number.end) };
}
