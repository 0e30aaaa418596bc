/**
 * Turns: one after the other, in the order of asking, for what many want to do at once and only one can do at a time.
 *
 * Toolstacks whose transactions come into each other's way take them, so that each commit of a storm is somebody's last. A
 * turn binds nobody: who does not ask is served as ever. It ends when it is given back, or after `turnMaxMs`, so that one who
 * is stopped or killed in it delays the others once.
 */
import type { Clock } from './clock.js';

/** How long a turn lasts at most. */
export const turnMaxMs = 1_000;
/** Who may wait for one; the next one is told to do without. */
export const turnsMax = 8_192;

export class Turns {
  readonly #clock: Clock;
  readonly #waiting = new Map<number, () => void>();
  #running: { readonly id: number; readonly cancel: () => void } | undefined;
  #last = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Those who wait. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Resolves when the turn has come, with what gives it back; `null` when too many wait already. */
  take(): Promise<{ readonly turn: number } | null> {
    if (this.#waiting.size >= turnsMax) return Promise.resolve(null);
    this.#last += 1;
    const turn = this.#last;
    return new Promise((resolve) => {
      this.#waiting.set(turn, () => resolve({ turn }));
      this.#next();
    });
  }

  /** Gives a turn back, or leaves the queue. One that is over already is nobody's any more. */
  over(turn: number): void {
    this.#waiting.delete(turn);
    if (this.#running?.id !== turn) return;
    this.#running.cancel();
    this.#running = undefined;
    this.#next();
  }

  #next(): void {
    const [first] = this.#waiting;
    if (this.#running || !first) return;
    const [id, begin] = first;
    this.#waiting.delete(id);
    this.#running = { id, cancel: this.#clock.after(turnMaxMs, () => this.over(id)) };
    begin();
  }
}
