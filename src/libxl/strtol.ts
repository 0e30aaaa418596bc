/**
 * C's `strtol` family, as far as xl's languages lean on it: blanks and a sign in front, base 0 with its `0x` and `0`
 * prefixes, and the place where the digits end.
 */

export interface Strtol {
  readonly value: bigint;
  /** Index of the first character that is no part of the number; 0 when there is none at all. */
  readonly end: number;
}

const LONG_MIN = -(2n ** 63n);
const LONG_MAX = 2n ** 63n - 1n;
const UINT64_MAX = 2n ** 64n - 1n;

export function strtol(text: string, base: 0 | 10 | 16 = 0): Strtol {
  let at = 0;
  while (at < text.length && ' \t\n\v\f\r'.includes(text.charAt(at))) at++;
  const negative = text.charAt(at) === '-';
  if (negative || text.charAt(at) === '+') at++;
  let radix: number = base === 0 ? 10 : base;
  if (base !== 10 && /^0x[0-9a-f]/i.test(text.slice(at, at + 3))) {
    at += 2;
    radix = 16;
  } else if (base === 0 && text.charAt(at) === '0') {
    radix = 8;
  }
  const start = at;
  let value = 0n;
  for (; at < text.length; at++) {
    const digit = digitOf(text.charAt(at));
    if (digit >= radix) break;
    value = value * BigInt(radix) + BigInt(digit);
  }
  return at === start ? { value: 0n, end: 0 } : { value: negative ? -value : value, end: at };
}

function digitOf(char: string): number {
  const digit = '0123456789abcdef'.indexOf(char.toLowerCase());
  return char === '' || digit < 0 ? Number.POSITIVE_INFINITY : digit;
}

/** Whether `strtol` would have reported ERANGE. */
export function isLongOverflow({ value }: Strtol): boolean {
  return value < LONG_MIN || value > LONG_MAX;
}

/** The value as an unsigned 64-bit number: negative ones wrap, too large ones saturate, as `strtoul` does. */
export function asUint64({ value }: Strtol): bigint {
  return saturate(value);
}

export function saturate(value: bigint): bigint {
  return value > UINT64_MAX || value < -UINT64_MAX ? UINT64_MAX : BigInt.asUintN(64, value);
}

/** The lower 32 bits of what `strtoul` makes of `text`. */
export function asUint32(text: string, base: 0 | 10 | 16 = 0): number {
  return Number(BigInt.asUintN(32, asUint64(strtol(text, base))));
}

/** C's `atoi`: the digits in front, or 0. A number over a long's is a long's last one first, and that is cut to an int. */
export function atoi(text: string): number {
  const { value } = strtol(text, 10);
  const long = value > LONG_MAX ? LONG_MAX : value < LONG_MIN ? LONG_MIN : value;
  return Number(BigInt.asIntN(32, long));
}

/** The lower 32 bits as C's int. */
export function toInt32(value: bigint): number {
  return Number(BigInt.asIntN(32, value));
}
