/**
 * What can be built wrong: the hazards of the posted patch, each as a switch of the hardened design.
 *
 * A switch plants one defect into mtwatch.ts (or a driver); `xl mtwatch explore` shows the interleaving in which it
 * breaks a law, and finds nothing with the switch off. The `rfc` design (rfc.ts) has its defects because the patch
 * has them. `hazards` names what is found, in whichever design; the names are those of the project's documents.
 */

/** The switches that are on. */
export type Defects = ReadonlySet<Defect>;

export const switches = {
  lifo: 'an event goes to the head of its thread’s queue',
  'early-unhash': 'a thread whose node is gone is forgotten before its queue is empty',
  'purge-skips-retiring': 'unregistering a watch passes over the queues of threads whose node is gone',
  fallback: 'an event whose domain has no thread runs in xenwatch',
  'hotplug-status-in-xenwatch': 'the watch on hotplug-status runs in xenwatch',
  'physical-device-in-xenwatch': 'the watch on physical-device runs in xenwatch',
  'multicast-in-xenwatch': 'the watch on request-multicast-control runs in xenwatch',
  'multicast-unlimited': 'any number of events of request-multicast-control may wait',
  'rcu-sleep': 'unregistering a watch waits within an RCU read section',
  'err-ptr': 'a thread that could not be started is taken for one',
  'silent-alloc': 'the events of a domain whose thread cannot be made are dropped',
  'unregister-mutexes': 'unregistering takes xenwatch_mutex and the mutex of the watch’s domain, which are held over callbacks',
  'unregister-all': 'unregistering a watch of dom0 waits for the callback of every domain',
  'frontends-in-xenwatch': 'dom0’s own devices run in xenwatch, also those that a driver domain serves',
  'removals-cross': 'frontends-in-xenwatch and unregister-mutexes together: two removals, two mutexes, two orders',
  'late-events-in-xenwatch': 'early-unhash, fallback and unregister-mutexes together: two threads meet at one device',
  'rtnl-over-stop': 'netback waits for a queue’s threads with rtnl_lock held',
  'removal-queued': 'the removal of a node waits in the domain’s own queue',
  'silent-reuse': 'nothing tells that a domid is announced anew while its last callback hangs',
  'serial-purge': 'one worker waits for the end of one thread after the other',
  'no-enumeration': 'nodes that were there before the watch are not looked at',
  'parent-ignored': 'the removal of the parent node is not looked at',
  'lax-domid': 'a domid is read as the patch reads it: leading digits, 16 bits',
  'pending-at-dispatch': 'an event counts as waiting only until it is handed to its thread',
} as const satisfies Record<string, string>;

export type Defect = keyof typeof switches;

export function isDefect(name: string): name is Defect {
  return name in switches;
}

const implied: Partial<Record<Defect, readonly Defect[]>> = {
  'late-events-in-xenwatch': ['early-unhash', 'fallback', 'unregister-mutexes'],
  'removals-cross': ['frontends-in-xenwatch', 'unregister-mutexes'],
};

/** The switches with what they stand for. */
export function withImplied(on: Iterable<Defect>): Defects {
  return new Set([...on].flatMap((each) => [each, ...(implied[each] ?? [])]));
}
