/**
 * Holds: what keeps a device from letting go, on purpose.
 *
 * `inflight` is a packet (vif) or a request (vbd) that never comes back; `connect` is a write-back that never ends
 * while the frontend connects. The drivers ask here at the places where Linux would wait; the task that is caught
 * sleeps uninterruptibly until the hold is flushed. This is the xwstall patch and the suspended disk of a real host
 * (scenarios 1 and 2 of the RFC) as one switch.
 */
import { type Sched, type Task, type WaitQueue, waitEvent, waitQueue } from './kernel/sched.js';
import { type Hold, PrivcmdError } from './privcmd.js';

export type HoldMode = Hold['mode'];

/** Holds at a time. */
export const holdsMax = 1024;

interface Held {
  readonly device: string;
  readonly mode: HoldMode;
  stuck: number;
}

const vifName = /^vif(0|[1-9]\d{0,4})\.(0|[1-9]\d{0,9})$/;
const busName = /^(vif|vbd)-(0|[1-9]\d{0,4})-(0|[1-9]\d{0,9})$/;

/** `vif1.0` and `vif-1-0` are the same device; answers with its bus name, or refuses what names none. */
export function holdName(text: string): string {
  const netdev = vifName.exec(text);
  if (netdev) return `vif-${netdev[1]}-${netdev[2]}`;
  if (busName.test(text)) return text;
  throw new PrivcmdError('EINVAL', `${text} names no device: say vif1.0, vif-1-0 or vbd-1-51712`);
}

export class Faults {
  readonly #sched: Sched;
  readonly #holds = new Map<string, Held>();
  readonly #flushed: WaitQueue = waitQueue('a hold to be flushed');

  constructor(sched: Sched) {
    this.#sched = sched;
  }

  hold(name: string, mode: HoldMode): Hold {
    const device = holdName(name);
    if (mode === 'connect' && !device.startsWith('vbd-')) {
      throw new PrivcmdError('EINVAL', `${name}: only a vbd writes back when it connects; hold a vif without --connect`);
    }
    if (this.#holds.has(device)) throw new PrivcmdError('EBUSY', `${name} is on hold already: flush it first`);
    if (this.#holds.size >= holdsMax) throw new PrivcmdError('ENOMEM', `${holdsMax} devices are on hold already`);
    const held: Held = { device, mode, stuck: 0 };
    this.#holds.set(device, held);
    return describe(held);
  }

  /** Lets go of one device, or of all of them. */
  flush(name?: string): Hold[] {
    const device = name === undefined ? undefined : holdName(name);
    if (device !== undefined && !this.#holds.has(device)) throw new PrivcmdError('ENOENT', `${name} is not on hold`);
    const released = [...this.#holds.values()].filter((held) => device === undefined || held.device === device);
    for (const held of released) this.#holds.delete(held.device);
    this.#sched.wakeAll(this.#flushed);
    return released.map(describe);
  }

  list(): Hold[] {
    return [...this.#holds.values()].map(describe);
  }

  holds(device: string, mode: HoldMode): boolean {
    return this.#holds.get(device)?.mode === mode;
  }

  /** Sleeps here for as long as the device is held in this way. */
  *wait(device: string, mode: HoldMode, state: 'S' | 'D' = 'D'): Task {
    const held = this.#holds.get(device);
    if (held?.mode !== mode) return;
    held.stuck += 1;
    yield* waitEvent(this.#flushed, () => this.#holds.get(device) !== held, state);
    held.stuck -= 1;
  }
}

function describe({ device, mode, stuck }: Held): Hold {
  return { device, mode, stalled: stuck > 0 };
}
