/**
 * Compares servers of the XenStore protocol, operation by operation.
 *
 * The first server is the reference, the last one is tested: all that a connection hears must be the same, in the same
 * order, and so must the tree be at the end; what may differ is in accepted.ts. A server between the two is a second
 * opinion: it may differ from the reference as it likes, and is asked until its state may be another.
 */
import { acceptedAs } from './accepted.js';
import { type Generating, generate, type Operation, show, types } from './operations.js';
import { type Outcome, type Server, Session, showOutcome, untouched } from './session.js';

export interface Divergence {
  readonly kind: 'outcome' | 'tree';
  readonly op: Operation | undefined;
  readonly at: number;
  readonly reference: readonly string[];
  readonly tested: readonly string[];
  /** What the second opinion is, where there is one that still counts. */
  readonly second?: readonly string[];
  readonly why: string;
}

export interface Tally {
  operations: number;
  /** By the ids of the table. */
  readonly accepted: Map<string, number>;
  /** Operations in which the second server differed from the reference, and the tested one did not. */
  secondDiffers: number;
  /** The replies that the reference gave, by request and errno: what the comparison has reached. */
  readonly reached: Map<string, number>;
}

export function newTally(): Tally {
  return { operations: 0, accepted: new Map(), secondDiffers: 0, reached: new Map() };
}

/** Requests after which a different reply means a different tree, or different connections. */
const changing = new Set<number>([
  ...[types.WRITE, types.MKDIR, types.RM, types.SET_PERMS, types.TRANSACTION_START, types.TRANSACTION_END],
  ...[types.WATCH, types.UNWATCH, types.RESET_WATCHES, types.INTRODUCE, types.RELEASE, types.SET_TARGET, types.RESUME],
]);

/** What oxenstored takes at its word: the tree or dom0 would be gone for good. */
function wrecksOxenstored(op: Operation): boolean {
  if (op.kind !== 'request') return false;
  const of = (op.payload.split('\0')[0] ?? '').trim();
  if (op.type === types.RM) return of === '/' || of === '';
  return (op.type === types.RELEASE || op.type === types.RESUME) && (Number.parseInt(of, 10) || 0) === 0;
}

const isSame = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every((line, i) => line === b[i]);
const same = (a: Outcome, b: Outcome): boolean => isSame(showOutcome(a), showOutcome(b));

export interface Comparing {
  readonly reference: Session;
  readonly second?: Session | undefined;
  readonly tested: Session;
}

export function comparing(servers: readonly Server[]): Comparing {
  const sessions = servers.map((server) => new Session(server));
  const [reference, ...others] = sessions;
  const tested = others.pop();
  if (!reference || !tested || others.length > 1) throw new Error(`two or three servers are compared, not ${servers.length}`);
  return { reference, second: others[0], tested };
}

/** Runs an episode; the first divergence that is not accepted ends it. */
export async function runEpisode(
  { reference, second, tested }: Comparing,
  operations: readonly Operation[],
  withGuests: boolean,
  tally: Tally = newTally(),
): Promise<Divergence | undefined> {
  const sessions = [reference, tested, ...(second ? [second] : [])];
  for (const session of sessions) await session.start(withGuests);
  /** Whether the second server is still in the same state as the others, as far as can be told. */
  let counts = second !== undefined;
  for (const [at, op] of operations.entries()) {
    if (op.kind === 'request') {
      if (!reference.canSpeak(op.conn)) continue;
      if (typeof op.tx === 'number' && !reference.has(op.tx)) continue;
    }
    if (counts && wrecksOxenstored(op)) counts = false;
    const [expected, got, other] = await Promise.all([
      reference.run(op),
      tested.run(op),
      second && counts ? second.run(op) : Promise.resolve(untouched),
    ]);
    tally.operations += 1;
    if (op.kind === 'request') count(tally.reached, `${op.type} ${expected.reply}`);
    const isSecondSame = counts && same(expected, other);
    if (!same(expected, got)) {
      const entry = acceptedAs({ op }, expected, got);
      if (!entry) {
        const why = isSecondSame ? 'both references agree' : 'not in the table of accepted ones';
        const opinion = counts ? { second: showOutcome(other) } : {};
        return { kind: 'outcome', op, at, reference: showOutcome(expected), tested: showOutcome(got), ...opinion, why };
      }
      count(tally.accepted, entry.id);
    } else if (counts && !isSecondSame) {
      tally.secondDiffers += 1;
    }
    if (counts && expected.reply !== other.reply && (op.kind !== 'request' || changing.has(op.type) || other.reply === ''))
      counts = false;
  }
  const [expected, got] = [await reference.tree(), await tested.tree()];
  if (isSame(expected, got)) return undefined;
  const only = (these: readonly string[], those: readonly string[]) => these.filter((line) => !those.includes(line));
  const [here, there] = [only(expected, got), only(got, expected)];
  const isOrder = here.length === 0 && there.length === 0;
  return {
    kind: 'tree',
    op: undefined,
    at: operations.length,
    reference: isOrder ? expected : here,
    tested: isOrder ? got : there,
    why: isOrder ? 'the order of the children is another' : 'these nodes differ',
  };
}

function count(counts: Map<string, number>, what: string): void {
  counts.set(what, (counts.get(what) ?? 0) + 1);
}

/** Two divergences are the same if the same request goes wrong in the same way. */
function signature({ kind, op, reference, tested }: Divergence): string {
  const shape = (lines: readonly string[]) =>
    lines.map((line) =>
      line
        .replace(/"(?:[^"\\]|\\.)*"(?!\\0)/g, (text) => (/^"E[A-Z0-9]+\\u0000"$/.test(text) ? text : '""'))
        .replace(/\d+/g, '#'),
    );
  const what = op?.kind === 'request' ? String(op.type) : (op?.kind ?? '');
  return kind === 'tree' ? kind : JSON.stringify([kind, what, shape(reference).sort(), shape(tested).sort()]);
}

/** Episodes that shrinking may take; each of them is a fraction of the one that failed. */
export const shrinkingEpisodesMax = 400;

/** Leaves operations out as long as the same divergence stays. */
export async function shrink(
  comparison: Comparing,
  operations: readonly Operation[],
  withGuests: boolean,
  found: Divergence,
): Promise<{ readonly operations: readonly Operation[]; readonly divergence: Divergence }> {
  let best = { operations: operations.slice(0, found.kind === 'tree' ? undefined : found.at + 1), divergence: found };
  let tries = 0;
  for (let size = Math.ceil(best.operations.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let from = 0; from < best.operations.length && tries < shrinkingEpisodesMax; ) {
      const fewer = [...best.operations.slice(0, from), ...best.operations.slice(from + size)];
      tries += 1;
      const divergence = await runEpisode(comparison, fewer, withGuests);
      if (divergence && signature(divergence) === signature(found)) best = { operations: fewer, divergence };
      else from += size;
    }
  }
  return best;
}

/** A divergence as it is reported: where, what, and how to have it again. */
export function report(
  divergence: Divergence,
  operations: readonly Operation[],
  { reference, second, tested }: Comparing,
  seed: number,
): string {
  const side = (name: string, lines: readonly string[]) => lines.slice(0, 12).map((line) => `  ${name.padEnd(10)} ${line}`);
  return [
    `divergence (${divergence.why}) with seed ${seed}:`,
    ...operations.map((op) => `    ${show(op)}`),
    ...side(reference.server.name, divergence.reference),
    ...(second && divergence.second ? side(second.server.name, divergence.second) : []),
    ...side(tested.server.name, divergence.tested),
  ].join('\n');
}

export interface SeedFailure {
  readonly seed: number;
  readonly divergence: Divergence;
  readonly text: string;
}

/** Runs one seed and shrinks what it finds. */
export async function runSeed(comparison: Comparing, what: Generating, tally: Tally): Promise<SeedFailure | undefined> {
  const operations = generate(what);
  const found = await runEpisode(comparison, operations, what.guests, tally);
  if (!found) return undefined;
  const small = await shrink(comparison, operations, what.guests, found);
  return {
    seed: what.seed,
    divergence: small.divergence,
    text: report(small.divergence, small.operations, comparison, what.seed),
  };
}
