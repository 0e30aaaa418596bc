/**
 * A fuzz run: rounds of actions on one store that lives on, with the laws held at every packet, every so many inputs,
 * and at the end of each round, when nothing may be left.
 *
 * A round's actions depend on the seed, its number and the store's answers, so a run replays exactly. Every
 * `wildEvery`th round has a store of its own and no bystanders (see rig.ts). A round that fails is tried again on a
 * fresh store, and if it fails there in the same way, actions are left out for as long as it still does.
 */

import { XsType } from '../../src/xenbus/xs-wire.js';
import { actionLine, drawer, inputs, roundQuotas } from './inputs.js';
import { birthmark, checkLaws, checkNothingLeft } from './laws.js';
import { type Action, Broken, makeRig, type Rig } from './rig.js';

/** Inputs of one round. */
export const roundInputs = 40_000;
/** Inputs between two checks. */
const checkEvery = 8_000;
const wildEvery = 8;
/** Actions that may be replayed to make a failure smaller. */
const shrinkActionsMax = 2_000_000;

export interface FuzzOptions {
  readonly seed: number;
  readonly inputs: number;
  /** Only this round, on a fresh store. */
  readonly round?: number;
  /** Told after every round. */
  readonly progress?: (done: FuzzDone) => void;
}

export interface FuzzDone {
  readonly rounds: number;
  readonly inputs: number;
  readonly requests: number;
  readonly events: number;
  readonly logLines: number;
}

export interface FuzzFailure {
  readonly seed: number;
  readonly round: number;
  /** How many inputs had gone in, over all rounds. */
  readonly input: number;
  readonly error: Error;
  /** The fewest actions found that fail in the same way on a fresh store; undefined when the round alone does not fail. */
  readonly actions: readonly string[] | undefined;
}

const lawOf = (error: unknown): string =>
  error instanceof Broken
    ? error.law
    : error instanceof Error
      ? `nothing is thrown (${error.message.slice(0, 40)})`
      : String(error);

/** Starts a round: its quotas, as an administrator would set them. */
function begin(rig: Rig, quotas: ReturnType<typeof roundQuotas>): void {
  for (const quota of quotas) rig.ask(XsType.Control, ...quota);
}

function perform(rig: Rig, action: Action): void {
  rig.run(action);
  if (action.do === 'check') checkLaws(rig);
}

const roundSeed = (seed: number, round: number): number => (Math.imul(seed, 0x9e3779b1) ^ Math.imul(round + 1, 0x85ebca6b)) >>> 0;

/** Runs until the inputs are spent or something breaks. */
export function fuzz(options: FuzzOptions): FuzzDone & { readonly failure?: FuzzFailure } {
  const { seed, progress } = options;
  const lasting = makeRig({ wild: false });
  const lastingBorn = birthmark(lasting);
  let [rounds, count, requests, events, logLines] = [0, 0, 0, 0, 0];
  for (let round = options.round ?? 0; count < options.inputs; round += 1) {
    const draw = drawer(roundSeed(seed, round));
    const wild = round % wildEvery === wildEvery - 1;
    const rig = wild ? makeRig({ wild }) : lasting;
    const before = { requests: rig.requests, events: rig.events };
    const quotas = roundQuotas(draw);
    const actions: Action[] = [];
    try {
      const born = wild ? birthmark(rig) : lastingBorn;
      begin(rig, quotas);
      const next = inputs(draw, rig);
      const end = Math.min(roundInputs, options.inputs - count);
      for (let done = 0; done < end; ) {
        const action = next();
        actions.push(action);
        perform(rig, action);
        if (action.do !== 'bytes') continue;
        done += 1;
        count += 1;
        if (done % checkEvery > 0) continue;
        actions.push({ do: 'check' });
        checkLaws(rig);
      }
      checkNothingLeft(rig, born);
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      const shrunk = shrink({ wild, quotas, law: lawOf(error) }, actions);
      const failure = { seed, round, input: count, error, actions: shrunk?.map(actionLine) };
      return { rounds, inputs: count, requests, events, logLines, failure };
    }
    actions.length = 0;
    rounds += 1;
    requests += rig.requests - before.requests;
    events += rig.events - before.events;
    logLines += rig.takeLog().length;
    progress?.({ rounds, inputs: count, requests, events, logLines });
    if (options.round !== undefined) break;
  }
  return { rounds, inputs: count, requests, events, logLines };
}

interface Case {
  readonly wild: boolean;
  readonly quotas: ReturnType<typeof roundQuotas>;
  readonly law: string;
}

/** Whether the actions break the same law on a fresh store. */
function breaks({ wild, quotas, law }: Case, actions: readonly Action[]): boolean {
  try {
    const rig = makeRig({ wild });
    const born = birthmark(rig);
    begin(rig, quotas);
    for (const action of actions) perform(rig, action);
    checkNothingLeft(rig, born);
    return false;
  } catch (error) {
    return lawOf(error) === law;
  }
}

/** Leaves out parts, half of the actions at first, single ones at last. */
function shrink(given: Case, actions: readonly Action[]): readonly Action[] | undefined {
  if (!breaks(given, actions)) return undefined;
  let kept = actions;
  let replayed = actions.length;
  for (let size = Math.ceil(kept.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < kept.length && replayed < shrinkActionsMax; ) {
      const fewer = [...kept.slice(0, at), ...kept.slice(at + size)];
      replayed += fewer.length;
      if (breaks(given, fewer)) kept = fewer;
      else at += size;
    }
  }
  return kept;
}

/** A failure as text, with the command that shows it again. */
export function failureText({ seed, round, input, error, actions }: FuzzFailure, inputsAsked: number): string {
  const stack = error instanceof Broken ? error.message : (error.stack ?? error.message);
  const again =
    actions === undefined
      ? `npm run fuzz -- --seed ${seed} --inputs ${inputsAsked}    (the round alone, on a fresh store, does not fail)`
      : `npm run fuzz -- --seed ${seed} --round ${round}`;
  const few = actions && (actions.length > 60 ? [...actions.slice(0, 10), '...', ...actions.slice(-50)] : actions);
  const list = few === undefined ? '' : `\nthe actions that are left of it:\n  ${few.join('\n  ')}`;
  return `seed ${seed}, round ${round}, after ${input} inputs: ${stack}\nagain: ${again}${list}`;
}
