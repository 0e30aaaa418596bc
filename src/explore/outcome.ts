/**
 * What exploring is about: a setup, a chooser that decides who goes on, and what came of one schedule.
 *
 * Everything here is synchronous and deterministic: the same setup and the same choices give the same outcome, so a
 * schedule is known by its choices alone.
 */

export type Design = 'single' | 'rfc' | 'hardened';

/** What is run: everything but the schedule. */
export interface Setup {
  readonly design: Design;
  readonly scenario: string;
  /** Hazard switches that differ from the design's own setting. */
  readonly switches: Readonly<Record<string, boolean>>;
  /** Operations of the scenario's scripts that are left out, by number; shrinking removes them. */
  readonly without: readonly number[];
}

/** A task that can go on. `lane` is its name in traces, unique within a run: X, R, D7, KW, T, G7, U. */
export interface Lane {
  readonly lane: string;
}

/**
 * Picks who goes on: an index into `ready` (two or more, in order of arrival). `current` is the index in it of who ran the
 * last step, -1 when that one cannot go on.
 */
export type Chooser = (ready: readonly Lane[], current: number) => number;

export interface Violation {
  readonly hazard: string;
  readonly invariant: string;
  readonly step: number;
  readonly text: string;
}

/** What a task visibly did, for traces. */
export interface Note {
  readonly step: number;
  readonly lane: string;
  readonly text: string;
}

/** What schedules have been through; a run adds to it. */
export interface Coverage {
  readonly states: Set<number>;
  readonly points: Set<string>;
  readonly preempted: Set<string>;
}

export interface Outcome {
  /** The first of each hazard, in order. */
  readonly violations: readonly Violation[];
  readonly steps: number;
  /** Choice points met (two or more could go on). */
  readonly choices: number;
  readonly notes: readonly Note[];
  /** Operations of the scripts, for `without`, by number: `LANE: NAME`. */
  readonly operations: readonly string[];
}

export interface RunOptions {
  readonly notes?: boolean;
  /** Stop at the first violation of this hazard. */
  readonly until?: string;
  readonly coverage?: Coverage;
}

export type RunSchedule = (setup: Setup, choose: Chooser, options?: RunOptions) => Outcome;

export interface ScenarioInfo {
  readonly name: string;
  readonly what: string;
}

export interface HazardInfo {
  readonly id: string;
  readonly title: string;
  readonly what: string;
}

/** A piece of a design that can be turned into, or out of, what the hazards come from. */
export interface SwitchInfo {
  readonly name: string;
  readonly hazards: readonly string[];
  readonly what: string;
  /** Where it means anything. */
  readonly designs: readonly Design[];
}

export const designs: readonly Design[] = ['single', 'rfc', 'hardened'];
