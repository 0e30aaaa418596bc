/** The states of a xenbus device and the domids with a meaning (xen/include/public/io/xenbus.h, xen.h). */

export const XenbusState = {
  Unknown: 0,
  Initialising: 1,
  InitWait: 2,
  Initialised: 3,
  Connected: 4,
  Closing: 5,
  Closed: 6,
  Reconfiguring: 7,
  Reconfigured: 8,
} as const;
export type XenbusState = (typeof XenbusState)[keyof typeof XenbusState];

const stateNames = Object.keys(XenbusState);

/** As Linux prints a state; `INVALID` for a number that is none. */
export function strstate(state: number): string {
  return stateNames[state] ?? 'INVALID';
}

/** What a `state` node says. Missing or garbled reads as Unknown, as in the kernel. */
export function parseState(text: string | undefined): number {
  const match = /^\s*(\d+)/.exec(text ?? '');
  return match ? Number(match[1]) : XenbusState.Unknown;
}

/** The first domid that is no guest's. */
export const DOMID_FIRST_RESERVED = 0x7ff0;
/** The last domid that a guest can have. */
export const DOMID_LAST = DOMID_FIRST_RESERVED - 1;

/** Why a domain shut down (xen/include/public/sched.h). */
export const ShutdownReason = { poweroff: 0, reboot: 1, suspend: 2, crash: 3, watchdog: 4, soft_reset: 5 } as const;
export type ShutdownReason = (typeof ShutdownReason)[keyof typeof ShutdownReason];
