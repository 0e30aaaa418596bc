/**
 * What can be built wrong: the hazards of the posted patch, each as a switch of the hardened design.
 *
 * A switch plants one defect into mtwatch.ts (or a driver); `xl mtwatch explore` shows the interleaving in which it
 * breaks a law, and finds nothing with the switch off. The `rfc` design (rfc.ts) has its defects because the patch
 * has them. `hazards` names what is found, in whichever design; the names are those of the project's documents.
 */

/** The switches that are on. */
export type Defects = ReadonlySet<Defect>;

export interface Switch {
  /** What is built wrong with it. */
  readonly what: string;
  /** What follows from that, by the names of the documents. */
  readonly hazards: readonly string[];
}

const one = (what: string, ...hazards: readonly string[]): Switch => ({ what, hazards });

export const switches = {
  lifo: one('an event goes to the head of its thread’s queue', 'O1'),
  'early-unhash': one('a thread whose node is gone is forgotten before its queue is empty', 'O3', 'O4'),
  'purge-skips-retiring': one('unregistering a watch passes over the queues of threads whose node is gone', 'U1'),
  fallback: one('an event whose domain has no thread runs in xenwatch', 'E1', 'L4'),
  'late-events-in-xenwatch': one('early-unhash, fallback and unregister-mutexes together', 'O2', 'D2'),
  'hotplug-status-in-xenwatch': one('the watch on hotplug-status runs in xenwatch', 'A1', 'U2', 'U2R', 'STATE'),
  'physical-device-in-xenwatch': one('the watch on physical-device runs in xenwatch', 'U3', 'E5'),
  'multicast-in-xenwatch': one('the watch on request-multicast-control runs in xenwatch', 'X2'),
  'multicast-unlimited': one('any number of events of request-multicast-control may wait', 'X1'),
  'pending-at-dispatch': one('an event counts as waiting only until it is handed to its thread', 'X1'),
  'rcu-sleep': one('unregistering a watch waits within an RCU read section', 'U4'),
  'err-ptr': one('a thread that could not be started is taken for one', 'U5'),
  'silent-alloc': one('the events of a domain whose thread cannot be made are dropped', 'L6'),
  'unregister-mutexes': one('unregistering takes xenwatch_mutex and its domain’s mutex, which are held over callbacks', 'E4'),
  'unregister-all': one('unregistering a watch of dom0 waits for the callback of every domain', 'E2'),
  'removals-cross': one(
    'unregister-mutexes, and dom0’s own devices run in xenwatch, also those that a driver domain serves',
    'D1',
  ),
  'rtnl-over-stop': one('netback waits for a queue’s threads with rtnl_mutex held', 'E3'),
  'removal-queued': one('the removal of a node waits in the domain’s own queue', 'L1'),
  'silent-reuse': one('nothing tells that a domid is announced anew while its last callback hangs', 'L2'),
  'serial-purge': one('one worker waits for the end of one thread after the other', 'L3'),
  'no-enumeration': one('nodes that were there before the watch are not looked at', 'L5'),
  'parent-ignored': one('the removal of the parent node is not looked at', 'P1'),
  'lax-domid': one('a domid is read as the patch reads it: leading digits, 16 bits', 'P2'),
} as const satisfies Record<string, Switch>;

export type Defect = keyof typeof switches;

export function isDefect(name: string): name is Defect {
  return name in switches;
}

const implied: Partial<Record<Defect, readonly Defect[]>> = {
  'late-events-in-xenwatch': ['early-unhash', 'fallback', 'unregister-mutexes'],
  'removals-cross': ['unregister-mutexes'],
};

/** The switches with what they stand for. */
export function withImplied(on: Iterable<Defect>): Defects {
  return new Set([...on].flatMap((each) => [each, ...(implied[each] ?? [])]));
}
