/** xl giving up in the middle of a config: what has been said stands in the reader's lines. */
import { type CfgReader, getString } from './xl-cfg.js';

export class XlExit extends Error {
  override readonly name = 'XlExit';

  constructor(readonly status: number) {
    super(`xl exits with ${status}`);
  }
}

/** Says `lines` and ends the reading. */
export function exitXl(reader: CfgReader, status: number, ...lines: readonly string[]): never {
  reader.lines.push(...lines);
  throw new XlExit(status);
}

/** One of the names of an IDL enumeration, read without regard to case; any other ends xl. */
export function readName(
  reader: CfgReader,
  key: string,
  names: readonly string[],
  complaint: (value: string) => string,
  status = 1,
  quiet = false,
): string | undefined {
  const value = getString(reader, key, { quiet });
  if (value === undefined) return undefined;
  return names.find((name) => name === value.toLowerCase()) ?? exitXl(reader, status, complaint(value));
}
