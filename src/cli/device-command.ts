/**
 * What the commands about devices share: their words, the domains that these name, the columns of their listings.
 */
import type { Ctx, LibxlError } from '../libxl/ctx.js';
import { LibxlError as Failed } from '../libxl/ctx.js';
import { qualifierToDomid } from '../libxl/domain.js';
import { type JsonObject, yajl } from '../libxl/json.js';
import { findDomain, type Globals, printJson, type Session, withSession, XlFailure } from './session.js';
import type { XlCommand } from './xl-command.js';

/** The operands in the order they were typed; oclif's own list of them sorts equal ones together. */
export function operandsOf(raw: readonly { readonly type: string; readonly input: string }[]): string[] {
  return raw.flatMap((token) => (token.type === 'arg' ? [token.input] : []));
}

/**
 * How a command finds its domain. Most say `rc` when there is none of that name; the others ask libxl themselves and
 * have fewer words for it.
 */
export type Lookup = (ctx: Ctx, word: string) => Promise<number>;

export const byQualifier: Lookup = async (ctx, word) => {
  const domid = await qualifierToDomid(ctx, word);
  if (domid === undefined) throw new XlFailure(1, `${word} is an invalid domain identifier`);
  return domid;
};

export const byFindDomain: Lookup = findDomain;

/** Looks up the domain of a dry run, of which nothing more is asked. Digits need no dom0. */
export async function checkDomain(command: XlCommand, globals: Globals, word: string, lookup: Lookup): Promise<void> {
  if (!/^\d*$/.test(word)) await withSession(command, globals, ({ ctx }) => lookup(ctx, word));
}

/** What a dry run prints: `disk: {...}`, and the empty line that comes of two newlines. */
export function printDryRun(what: string, json: JsonObject): void {
  process.stdout.write(`${what}: ${yajl(json)}\n`);
}

/** Runs libxl's operation; when it fails xl says `complaint` and ends with `exit`, or with what main makes of the rc. */
export async function orComplain(operation: Promise<void>, complaint: string, exit?: number): Promise<void> {
  try {
    await operation;
  } catch (error) {
    if (!(error instanceof Failed)) throw error;
    throw new XlFailure(exit ?? exitOf(error), complaint);
  }
}

function exitOf({ rc }: LibxlError): number {
  return rc & 0xff;
}

/** What a listing is made of: the rows of one domain, as text and as JSON. */
export interface Listing<Row> {
  /** The first line; absent where xl has none. */
  readonly header?: string;
  readonly lookup: Lookup;
  rows(ctx: Ctx, domid: number): Promise<readonly Row[]>;
  text(row: Row): string;
}

/**
 * Prints the devices of each of some domains. xl ends at a domain that it does not find (`byFindDomain`), or says so and
 * goes on to the next (`byQualifier`).
 */
export async function printListing<Row extends object>(
  command: XlCommand,
  globals: Globals & { readonly json: boolean },
  words: readonly string[],
  listing: Listing<Row>,
): Promise<void> {
  if (!globals.json && listing.header !== undefined) process.stdout.write(`${listing.header}\n`);
  await withSession(command, globals, async ({ ctx }: Session) => {
    const found: object[] = [];
    for (const word of words) {
      const domid = await lookUp(ctx, word, listing.lookup);
      if (domid === undefined) continue;
      for (const row of await listing.rows(ctx, domid)) {
        if (globals.json) found.push({ domid, ...row });
        else process.stdout.write(listing.text(row));
      }
    }
    if (globals.json) printJson(found);
  });
}

async function lookUp(ctx: Ctx, word: string, lookup: Lookup): Promise<number | undefined> {
  try {
    return await lookup(ctx, word);
  } catch (error) {
    if (lookup !== byQualifier || !(error instanceof XlFailure)) throw error;
    process.stderr.write(`${error.message}\n`);
    return undefined;
  }
}

/** `%-5d` and the like. */
export function left(value: string | number, width: number): string {
  return String(value).padEnd(width);
}

/** `%5d` and the like. */
export function right(value: string | number, width: number): string {
  return String(value).padStart(width);
}
