/**
 * A toolstack process of a simulated machine: libxl with a store connection, hypercalls and files of its own, which can be
 * killed like one.
 *
 * A kill closes its connections and lets none of its code run afterwards: what it waits for is never answered, its watches
 * and timers never fire, and so no `catch` and no `finally` of it runs. Everything that it asks of the world counts as a
 * request, in order: packets to the store, hypercalls, files and scripts.
 */
import type { Ctx } from '../src/libxl/ctx.js';

export interface Toolstack {
  readonly ctx: Ctx;
  /** What it has asked for so far. */
  readonly requests: number;
  readonly killed: boolean;
  kill(): void;
}

export interface ToolstackOptions {
  /** It is killed when this many requests have been carried out and before their answer, or never. */
  readonly killAfter?: number;
  /** Of the last request: whether the kill comes before it is carried out. */
  readonly before?: boolean;
}
