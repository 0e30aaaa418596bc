/** The three designs of dom0's watch dispatch, and the word of the command line that chooses one. */
import { parseDomid } from '../paths.js';
import type { Kernel } from './kernel.js';
import { HardenedDispatch, watchAnnouncements } from './mtwatch.js';
import { type Repair, RfcDispatch, watchMtwatch } from './rfc.js';
import type { Task } from './sched.js';
import { type Dispatch, SingleDispatch, type Watches } from './xenwatch.js';

/** The kernel as it is; the patch as posted; the design that keeps its promise. */
export const designs = ['single', 'rfc', 'hardened'] as const;
export type Design = (typeof designs)[number];

/** `parameter`: the word `xen_mtwatch` or `xen_mtwatch=VALUE`, if the command line has it. As in the patch, a value says nothing; `rfc` alone does. */
export function designOf(parameter: string | undefined): Design {
  if (parameter === undefined) return 'single';
  return parameter === 'xen_mtwatch=rfc' ? 'rfc' : 'hardened';
}

export function makeDispatch(design: Design, kernel: Kernel, repaired?: ReadonlySet<Repair>): Dispatch {
  if (design === 'single') return new SingleDispatch(kernel);
  if (design === 'rfc') return new RfcDispatch(kernel, repaired);
  kernel.printk('xenbus: xenwatch multithreading is enabled');
  return new HardenedDispatch(kernel);
}

/** The watch on the announcements, right after be_watch; one thread has no use for it. */
export function* watchNodes(kernel: Kernel, watches: Watches, dispatch: Dispatch): Task {
  if (dispatch instanceof RfcDispatch) yield* watchMtwatch(watches, dispatch);
  if (dispatch instanceof HardenedDispatch) yield* watchAnnouncements(kernel, watches, dispatch);
}

/** The threads of a recovered kernel: of the domains that are announced. */
export function* recoverNodes(kernel: Kernel, dispatch: Dispatch): Task {
  const names = dispatch instanceof SingleDispatch ? [] : ((yield* kernel.directoryWhole('mtwatch')) ?? []);
  const domids = names.flatMap((name) => parseDomid(name) ?? []).filter((domid) => domid > 0);
  if (dispatch instanceof HardenedDispatch) dispatch.recoverNodes(domids);
  if (dispatch instanceof RfcDispatch) yield* dispatch.recoverDomains(domids);
}

/** The events of the last life are queued again. */
export function* eventsRecovered(dispatch: Dispatch): Task {
  if (dispatch instanceof HardenedDispatch) dispatch.eventsRecovered();
  if (dispatch instanceof RfcDispatch) yield* dispatch.eventsRecovered();
}
