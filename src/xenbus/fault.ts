/**
 * Holds: what keeps a device from letting go, on purpose. This is the xwstall patch, and a disk that fails, as a switch.
 *
 * | mode | of | what is held | who sleeps |
 * |---|---|---|---|
 * | `inflight` | vif | a packet, somewhere behind the vif | the dealloc thread, so who disconnects (scenario 1 of the RFC) |
 * | `io` | vbd | a request, on its way into the block layer | the ring's thread, so who disconnects (scenario 2) |
 * | `grants` | vbd | the pages that a guest granted persistently | who disconnects (scenario 3) |
 * | `connect` | vbd | the write-back of the device when it connects | who connects (what a real host was made to do) |
 * | `bio` | vbd | a request that the block layer has taken and never ends | nobody; its domain stays as a zombie |
 *
 * The drivers ask here at the places where Linux would wait. Each hold has a wait queue of its own, which knows its
 * device: from a task that hangs, the chain of who waits for whom ends at one.
 */
import type { Clock } from './clock.js';
import { keptBelow, type Share } from './keep.js';
import { type Sched, type Task, type WaitQueue, waitEvent, waitQueue } from './kernel/sched.js';
import { type Hold, PrivcmdError } from './privcmd.js';

export type HoldMode = Hold['mode'];

/** Holds at a time. */
export const holdsMax = 1024;
/** Between two looks at pages that somebody else uses: this, and as much again after each (GNTTAB_UNMAP_REFS_DELAY). */
const unmapRetryMs = 5;
const holdPrefix = 'hold/';

/** Where tasks sleep that a hold has caught. */
export interface HoldQueue extends WaitQueue {
  /** The bus name of the held device, `vif-1-0`. */
  readonly device: string;
}

interface Held {
  readonly device: string;
  readonly mode: HoldMode;
  readonly queue: HoldQueue;
  stuck: number;
}

const vifName = /^vif(0|[1-9]\d{0,4})\.(0|[1-9]\d{0,9})$/;
const busName = /^(vif|vbd)-(0|[1-9]\d{0,4})-(0|[1-9]\d{0,9})$/;
const vbdModes: readonly HoldMode[] = ['io', 'grants', 'connect', 'bio'];

/** `vif1.0` and `vif-1-0` are the same device; answers with its bus name, or refuses what names none. */
export function holdName(text: string): string {
  const netdev = vifName.exec(text);
  if (netdev) return `vif-${netdev[1]}-${netdev[2]}`;
  if (busName.test(text)) return text;
  throw new PrivcmdError('EINVAL', `${text} names no device: say vif1.0, vif-1-0 or vbd-1-51712`);
}

/** The device that a task on this queue waits for; undefined when it is no hold's. */
export function heldDevice(queue: WaitQueue): string | undefined {
  return 'device' in queue ? (queue as HoldQueue).device : undefined;
}

export class Faults {
  readonly #sched: Sched;
  readonly #clock: Clock;
  readonly #holds = new Map<string, Held>();

  readonly #share: Share;

  /** The holds of a last life are there again: whoever hung in one hangs again when he gets there. */
  constructor(sched: Sched, clock: Clock, share: Share = {}) {
    this.#sched = sched;
    this.#clock = clock;
    this.#share = share;
    for (const [device, mode] of keptBelow(share.recovered, holdPrefix)) this.#enter(device, mode as HoldMode);
  }

  #enter(device: string, mode: HoldMode): Held {
    const held: Held = { device, mode, queue: { ...waitQueue(`flush of ${device}`), device }, stuck: 0 };
    this.#holds.set(device, held);
    return held;
  }

  /** Without a mode, what a device has in flight: a packet of a vif, a request of a vbd. */
  hold(name: string, wanted: HoldMode = 'inflight'): Hold {
    const device = holdName(name);
    const vbd = device.startsWith('vbd-');
    const mode = vbd && wanted === 'inflight' ? 'io' : wanted;
    if (!vbd && vbdModes.includes(mode)) throw new PrivcmdError('EINVAL', `${name}: ${vifHas[mode] ?? ''}`);
    if (this.#holds.has(device)) throw new PrivcmdError('EBUSY', `${name} is on hold already: flush it first`);
    if (this.#holds.size >= holdsMax) throw new PrivcmdError('ENOMEM', `${holdsMax} devices are on hold already`);
    this.#share.keep?.set(holdPrefix + device, mode);
    return describe(this.#enter(device, mode));
  }

  /** Lets go of one device, or of all of them. */
  flush(name?: string): Hold[] {
    const device = name === undefined ? undefined : holdName(name);
    if (device !== undefined && !this.#holds.has(device)) throw new PrivcmdError('ENOENT', `${name} is not on hold`);
    const released = [...this.#holds.values()].filter((held) => device === undefined || held.device === device);
    for (const { device: each } of released) {
      this.#holds.delete(each);
      this.#share.keep?.delete(holdPrefix + each);
    }
    for (const held of released) this.#sched.wakeAll(held.queue);
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
    yield* waitEvent(held.queue, () => this.#holds.get(device) !== held, state);
    held.stuck -= 1;
  }

  /**
   * Sleeps until somebody who looks again and again, a little later each time, finds that the device is not held:
   * nobody is told when a page's last user lets go of it (gnttab_unmap_refs_async).
   */
  *waitPolling(device: string, mode: HoldMode): Task {
    const held = this.#holds.get(device);
    if (held?.mode !== mode) return;
    let age = 0;
    let unmapped = false;
    const again = () => {
      this.#clock.after(unmapRetryMs * (age + 1), () => {
        age += 1;
        unmapped = this.#holds.get(device) !== held;
        if (unmapped) this.#sched.wakeAll(held.queue);
        else again();
      });
    };
    again();
    held.stuck += 1;
    yield* waitEvent(held.queue, () => unmapped, 'D');
    held.stuck -= 1;
  }
}

/** Why a vif is not held in the ways of a vbd. */
const vifHas: Partial<Record<HoldMode, string>> = {
  connect: 'only a vbd writes back when it connects; hold a vif without --connect',
  io: 'a vif has packets, not requests; hold it without --io',
  bio: 'a vif has packets, not requests; hold it without --bio',
  grants: 'a vif keeps no page after its packet; hold it without --grants',
};

function describe({ device, mode, stuck }: Held): Hold {
  return { device, mode, stalled: stuck > 0 };
}
