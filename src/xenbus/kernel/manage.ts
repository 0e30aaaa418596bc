/**
 * What the toolstack asks of a kernel through `control/` (drivers/xen/manage.c): shutting down.
 *
 * dom0 and guests have the same handler; they differ in what they do about it.
 */
import { ShutdownReason } from '../xenbus.js';
import type { Kernel } from './kernel.js';
import type { Task } from './sched.js';
import type { Watches } from './xenwatch.js';

/** What `control/shutdown` may ask for, and how the domain stops then. */
const shutdownRequests: ReadonlyMap<string, ShutdownReason> = new Map([
  ['poweroff', ShutdownReason.poweroff],
  ['halt', ShutdownReason.poweroff],
  ['reboot', ShutdownReason.reboot],
]);

/** Registers the watches that every Linux domain has, and says what it can do, in Linux's order. */
export function* watchControl(kernel: Kernel, watches: Watches, stop: (request: string, reason: ShutdownReason) => void): Task {
  yield* watches.register({ node: 'memory/target', name: 'watch_target', callback: () => reading(kernel, 'memory/target') });
  yield* watches.register({
    node: 'control/shutdown',
    name: 'shutdown_handler',
    callback: () => shutdownHandler(kernel, stop),
  });
  yield* watches.register({ node: 'control/sysrq', name: 'sysrq_handler', callback: () => reading(kernel, 'control/sysrq') });
  for (const feature of ['poweroff', 'reboot', 'suspend']) yield* kernel.write(`control/feature-${feature}`, '1');
}

/** A callback that looks and does nothing: ballooning and sysrq are not modelled. */
function* reading(kernel: Kernel, path: string): Task {
  yield* kernel.read(path);
}

/** Acknowledges what it can do by emptying the node, then does it. */
function* shutdownHandler(kernel: Kernel, stop: (request: string, reason: ShutdownReason) => void): Task {
  let request = '';
  yield* kernel.transaction(function* (txId) {
    request = (yield* kernel.read('control/shutdown', txId)) ?? '';
    if (!shutdownRequests.has(request)) return false;
    yield* kernel.write('control/shutdown', '', txId);
    return true;
  });
  const reason = shutdownRequests.get(request);
  if (reason !== undefined) stop(request, reason);
  else if (request !== '') kernel.printk(`xen:manage: Ignoring shutdown request: ${request}`);
}
