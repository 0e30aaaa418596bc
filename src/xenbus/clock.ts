/**
 * Time and chance. The only file that reads a clock, sets a timer or draws a random number.
 *
 * `SystemClock` is the machine's; `SimClock` is virtual: it stands still while anybody can run and jumps to the next
 * timer when nobody can, so that a test never waits and a seed replays exactly.
 */

/** Milliseconds from some fixed start, never going back. */
export type Ms = number;

export interface Clock {
  /** Monotonic time. */
  now(): Ms;
  /** Milliseconds since 1970, for what is printed or stored as a date. */
  wall(): Ms;
  /** Calls `run` once after `delay`; returns what cancels it. */
  after(delay: Ms, run: () => void): () => void;
  /** Resolves after `delay`. */
  sleep(delay: Ms): Promise<void>;
  /** Resolves once everything that is ready now has had its turn (one macrotask). */
  turn(): Promise<void>;
  /** `n` random bytes: of the system's, or of the seed's. */
  random(n: number): Uint8Array;
}

export class SystemClock implements Clock {
  now(): Ms {
    return performance.now();
  }

  wall(): Ms {
    return Date.now();
  }

  after(delay: Ms, run: () => void): () => void {
    const timer = setTimeout(run, delay);
    return () => clearTimeout(timer);
  }

  sleep(delay: Ms): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, delay));
  }

  turn(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  random(n: number): Uint8Array {
    return crypto.getRandomValues(new Uint8Array(n));
  }
}

/** A generator of 32-bit numbers from one seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
}

interface Timer {
  readonly at: Ms;
  readonly order: number;
  readonly run: () => void;
}

/** Virtual time. Nothing moves it but `advance` and `jump`; timers of one moment run in the order they were set. */
export class SimClock implements Clock {
  #now = 0;
  #order = 0;
  #timers: Timer[] = [];
  readonly #next: () => number;
  readonly #wallStart: Ms;

  constructor(seed = 1, wallStart: Ms = Date.UTC(2018, 3, 7)) {
    this.#next = seeded(seed);
    this.#wallStart = wallStart;
  }

  now(): Ms {
    return this.#now;
  }

  wall(): Ms {
    return this.#wallStart + this.#now;
  }

  after(delay: Ms, run: () => void): () => void {
    const timer: Timer = { at: this.#now + Math.max(0, delay), order: this.#order++, run };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  sleep(delay: Ms): Promise<void> {
    return new Promise((resolve) => {
      this.after(delay, resolve);
    });
  }

  turn(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  random(n: number): Uint8Array {
    return Uint8Array.from({ length: n }, () => this.#next() & 0xff);
  }

  /** Whether a timer is set. */
  get pending(): boolean {
    return this.#timers.length > 0;
  }

  /** Jumps to the next timer and runs it; false when there is none. */
  jump(): boolean {
    const next = this.#timers.reduce<Timer | undefined>(
      (best, timer) => (best && (best.at < timer.at || (best.at === timer.at && best.order < timer.order)) ? best : timer),
      undefined,
    );
    if (!next) return false;
    this.#timers = this.#timers.filter((timer) => timer !== next);
    this.#now = Math.max(this.#now, next.at);
    next.run();
    return true;
  }

  /** Runs every timer of the next `delay` milliseconds, in order, and leaves the time at its end. */
  advance(delay: Ms): void {
    const end = this.#now + delay;
    while (this.#timers.some((timer) => timer.at <= end)) this.jump();
    this.#now = end;
  }
}
