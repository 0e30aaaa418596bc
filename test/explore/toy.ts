/**
 * A world of a page, to explore where the real one would be too large: tasks that count, and tasks that take two locks.
 *
 * - `count`: D1 and D2 add to a number, by reading and writing it. One of the two may be lost (T1).
 * - `locks`: X takes a, then b; D7 takes b, then a. They may wait for each other (T2).
 * - `both`: all of them, and T, whose operations do nothing but take time.
 * - `quiet`: nothing can go wrong.
 * - `rare`, which is not listed: among many others U reads the number four times, and it may be another one each time (T3).
 *
 * In `rfc` both may happen, in `single` and `hardened` only what a switch (`torn`, `crossed`) brings back.
 */
import type { Lane, Note, Outcome, RunSchedule, ScenarioInfo, Violation } from '../../src/explore/outcome.js';

export const scenarios: readonly ScenarioInfo[] = [
  { name: 'count', what: 'two tasks add to one number' },
  { name: 'locks', what: 'two tasks take two locks' },
  { name: 'both', what: 'all of it, among others' },
  { name: 'quiet', what: 'nothing can go wrong' },
];
export const hazards = [
  { id: 'T1', title: 'lost update', what: 'of two additions one is lost' },
  { id: 'T2', title: 'lock order', what: 'two tasks wait for each other' },
];
export const switches = [
  { name: 'torn', hazards: ['T1'], what: 'a number is read, then written', designs: ['rfc', 'hardened'] as const },
  { name: 'crossed', hazards: ['T2'], what: 'locks are taken in any order', designs: ['rfc', 'hardened'] as const },
];

interface World {
  readonly torn: boolean;
  readonly crossed: boolean;
  number: number;
  added: number;
  /** How often U has looked, and whether it saw another number each time. */
  looks: number;
  changing: boolean;
  readonly owner: Map<string, string>;
  readonly note: (text: string) => void;
}

/** Yields the lock that it waits for, or nothing. */
type Body = Generator<string | undefined, void>;

interface ToyTask extends Lane {
  readonly body: Body;
  waitsFor: string | undefined;
}

function* add(world: World): Body {
  const read = world.number;
  world.note(`read ${read}`);
  if (world.torn) yield undefined;
  world.number = read + 1;
  world.added += 1;
  world.note(`write ${read + 1}`);
  yield undefined;
}

function* take(world: World, lane: string, locks: readonly string[]): Body {
  for (const lock of world.crossed ? locks : [...locks].sort()) {
    while (world.owner.has(lock)) yield lock;
    world.owner.set(lock, lane);
    world.note(`lock ${lock}`);
    yield undefined;
  }
  for (const lock of locks) {
    world.owner.delete(lock);
    world.note(`unlock ${lock}`);
  }
}

function* idle(world: World, operation: string): Body {
  world.note(operation);
  yield undefined;
  yield undefined;
}

function* look(world: World): Body {
  let changes = 0;
  for (let before: number | undefined; ; ) {
    world.note(`sees ${world.number}`);
    if (before !== undefined) changes = world.number === before ? 0 : changes + 1;
    if (changes === 3) world.changing = true;
    before = world.number;
    if (changes === 3 || world.looks++ === 3) return;
    yield undefined;
  }
}

type Operation = readonly [lane: string, name: string, body: (world: World) => Body];

const counting: readonly Operation[] = [
  ['D1', 'D1: adds', add],
  ['D2', 'D2: adds', add],
];
const locking: readonly Operation[] = [
  ['X', 'X: takes a and b', (world) => take(world, 'X', ['a', 'b'])],
  ['D7', 'D7: takes b and a', (world) => take(world, 'D7', ['b', 'a'])],
];
const idling: readonly Operation[] = [1, 2, 3].map((n) => ['T', `T: does ${n}`, (world) => idle(world, `step ${n}`)]);
const scripts: Readonly<Record<string, readonly Operation[]>> = {
  count: counting,
  locks: locking,
  both: [...idling, ...counting, ...locking],
  rare: [
    ...idling,
    ...idling.map(([, name, body], index) => [`G${index}`, name, body] as const),
    ...['R', 'KW', 'D3', 'D4'].map((lane) => [lane, `${lane}: adds`, add] as const),
    ...locking,
    ['U', 'U looks', look],
  ],
  quiet: idling.map(([, name, body], index) => [`G${index}`, name, body] as const),
};

function* script(world: World, operations: readonly Operation[]): Body {
  for (const [, , body] of operations) yield* body(world);
}

export const runSchedule: RunSchedule = (setup, choose, options = {}): Outcome => {
  const operations = scripts[setup.scenario];
  if (!operations) throw new Error(`no scenario ${setup.scenario}`);
  const on = (name: string) => setup.switches[name] ?? setup.design === 'rfc';
  const notes: Note[] = [];
  const violations: Violation[] = [];
  let running = '';
  let steps = 0;
  let choices = 0;
  const world: World = {
    torn: on('torn'),
    crossed: on('crossed'),
    number: 0,
    added: 0,
    looks: 0,
    changing: false,
    owner: new Map(),
    note: (text) => {
      if (options.notes) notes.push({ step: steps, lane: running, text });
    },
  };
  const there = operations.filter((_, number) => !setup.without.includes(number));
  const lanes = [...new Set(there.map(([lane]) => lane))];
  const tasks: ToyTask[] = lanes.map((lane) => ({
    lane,
    body: script(
      world,
      there.filter((operation) => operation[0] === lane),
    ),
    waitsFor: undefined,
  }));
  let ready = [...tasks];
  let current: ToyTask | undefined;
  const violate = (hazard: string, invariant: string, text: string) => {
    if (!violations.some((violation) => violation.hazard === hazard)) violations.push({ hazard, invariant, step: steps, text });
  };
  while (ready.length > 0 && !violations.some(({ hazard }) => hazard === options.until)) {
    const was = current ? ready.indexOf(current) : -1;
    if (ready.length > 1) choices += 1;
    const index = ready.length > 1 ? choose(ready, was) : 0;
    const task = ready[index];
    if (!task) throw new Error(`chose ${index} of ${ready.length}`);
    if (was >= 0 && was !== index) options.coverage?.preempted.add(running);
    current = task;
    running = task.lane;
    steps += 1;
    const { done, value } = task.body.next();
    if (done) ready = ready.filter((other) => other !== task);
    else if (value !== undefined) {
      task.waitsFor = value;
      ready = ready.filter((other) => other !== task);
      world.note(`waits for ${value}`);
    }
    for (const waiting of tasks) {
      if (waiting.waitsFor === undefined || world.owner.has(waiting.waitsFor)) continue;
      waiting.waitsFor = undefined;
      ready.push(waiting);
    }
    options.coverage?.points.add(running);
    options.coverage?.states.add(world.number * 100 + world.owner.size * 10 + ready.length);
    if (world.number !== world.added) violate('T1', 'what is added is there', `${world.added} added, ${world.number} there`);
    if (world.changing) violate('T3', 'a number stands still for a while', `it is ${world.number}`);
    const stuck = tasks.filter((task) => task.waitsFor !== undefined);
    if (stuck.length > 1) violate('T2', 'no two wait for each other', stuck.map(({ lane }) => lane).join(', '));
  }
  return { violations, steps, choices, notes, operations: operations.map(([, name]) => name) };
};
