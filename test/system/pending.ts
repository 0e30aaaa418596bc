/**
 * What is on its way in a simulated system: every request, reply, event and turn waits here until it is let go.
 *
 * Deliveries of one lane keep their order; which lane goes on is drawn from the seed. Nothing else decides what happens
 * next, so one seed is one run.
 */

export interface Delivery {
  readonly lane: Lane;
  /** Said only when somebody wants to read it. */
  readonly what: () => string;
  readonly run: () => void;
}

export interface Lane {
  readonly name: string;
  /** Whether code with promises goes on after a delivery, which takes a turn of the event loop. */
  readonly wakes: boolean;
  readonly id: number;
  readonly queue: Delivery[];
  next: number;
  /** Its place among those with something to deliver; -1 without. */
  at: number;
  closed: boolean;
}

/** Deliveries that a report shows. */
const recentMax = 40;

export class Pending {
  readonly #draw: () => number;
  readonly #active: Lane[] = [];
  readonly #recent: Delivery[] = [];
  readonly #tell: (lane: number) => void;
  #lanes = 0;
  #count = 0;

  /** `tell` hears of each lane that goes on. */
  constructor(draw: () => number, tell: (lane: number) => void) {
    this.#draw = draw;
    this.#tell = tell;
  }

  lane(name: string, wakes = true): Lane {
    return { name, wakes, id: this.#lanes++, queue: [], next: 0, at: -1, closed: false };
  }

  push(lane: Lane, what: () => string, run: () => void): void {
    if (lane.closed) return;
    lane.queue.push({ lane, what, run });
    if (lane.at >= 0) return;
    lane.at = this.#active.length;
    this.#active.push(lane);
  }

  /** Nothing of this lane is delivered any more. */
  close(lane: Lane): void {
    lane.closed = true;
    lane.queue.length = 0;
    lane.next = 0;
    this.#leave(lane);
  }

  get empty(): boolean {
    return this.#active.length === 0;
  }

  /** Deliveries so far. */
  get count(): number {
    return this.#count;
  }

  /** Lets one delivery go; answers whether somebody's code may go on now. */
  release(): boolean {
    const lane = this.#active[this.#active.length === 1 ? 0 : this.#draw() % this.#active.length];
    const delivery = lane?.queue[lane.next];
    if (!lane || !delivery) throw new Error('nothing is on its way');
    lane.next += 1;
    if (lane.next === lane.queue.length) {
      lane.queue.length = 0;
      lane.next = 0;
      this.#leave(lane);
    }
    this.#tell(lane.id);
    this.#recent[this.#count % recentMax] = delivery;
    this.#count += 1;
    delivery.run();
    return lane.wakes;
  }

  /** The last deliveries, oldest first. */
  recent(): string[] {
    const from = Math.max(0, this.#count - recentMax);
    return Array.from({ length: this.#count - from }, (_, index) => {
      const delivery = this.#recent[(from + index) % recentMax];
      return delivery ? `${from + index}: ${delivery.lane.name}: ${delivery.what()}` : '';
    });
  }

  #leave(lane: Lane): void {
    if (lane.at < 0) return;
    const last = this.#active.pop();
    if (last && last !== lane) {
      this.#active[lane.at] = last;
      last.at = lane.at;
    }
    lane.at = -1;
  }
}
