/**
 * `/dev/xen/xenbus`: the store for processes of dom0, through the kernel's own connection.
 *
 * Rules from drivers/xen/xenbus/xenbus_dev_frontend.c of Linux 6.1. An open file speaks the wire protocol. Its requests are
 * requests of the kernel, so the store sees one client more than it knows; its watches are watches of the kernel, whose
 * callback copies the event to the file, and so an event of it comes when a watch thread gets to it: requests are answered
 * while xenwatch hangs, and watches are silent. Where the two meet, the process or a worker hangs, too:
 *
 * ```
 * write(XS_UNWATCH)   the process unregisters in its own name: D, behind the callback that hangs
 * close()             a kworker does what is left (since 5.7): aborts the transactions, then unregisters: the kworker is in D
 * ```
 *
 * RESET_WATCHES is passed on like any other request, and takes the watches of the kernel with it: it is the same connection.
 *
 * What is not as there: a WATCH that is refused is an XS_ERROR here, where Linux lets write(2) fail; and the events that a
 * process does not read are bounded.
 */
import type { StoreLink, StorePeer, StorePort } from '../transport.js';
import { joinStrings, splitStrings, XsError, type XsPacket, XsType } from '../xs-wire.js';
import type { Kernel } from './kernel.js';
import { work } from './locks.js';
import { syscallEntry, type Task, type WaitQueue, waitEvent, waitQueue } from './sched.js';
import type { Watches, XenbusWatch } from './xenwatch.js';

/** Requests of one file that wait for the one before them. */
export const fileWritesMax = 64;
/** Packets that a process has not read; with so many the next request waits. */
export const fileUnreadMax = 64;
/** Events that a process has not read; further ones are dropped, and that is printed once. */
export const fileEventsMax = 16_384;
/** Watches of one file. */
export const fileWatchesMax = 16_384;

interface FileWatch {
  readonly token: string;
  readonly watch: XenbusWatch;
}

interface OpenFile {
  readonly peer: StorePeer;
  /** Written, not looked at yet. */
  readonly writes: XsPacket[];
  /** For the process, which takes no more now. */
  readonly reads: XsPacket[];
  /** Something was written or read, or the file was closed. */
  readonly changed: WaitQueue;
  /** Open transactions and watches, newest first, which is the order in which they end with the file. */
  readonly transactions: number[];
  readonly watches: FileWatch[];
  isOpen: boolean;
  /** The process was told that no more can be written now. */
  isFull: boolean;
  hasLost: boolean;
}

/** The device; to connect is to open it. The name of the process is not known: its task is `xenbus-user`. */
export function xenbusDev(kernel: Kernel, watches: Watches): StorePort {
  /** Workers that close files now. */

  function connect(peer: StorePeer): StoreLink {
    const file: OpenFile = {
      peer,
      writes: [],
      reads: [],
      changed: waitQueue('read_waitq'),
      transactions: [],
      watches: [],
      isOpen: true,
      isFull: false,
      hasLost: false,
    };
    kernel.spawn('xenbus-user', syscallEntry, function* () {
      yield* kernel.call('do_syscall_64', user(file));
    });
    return {
      push: (packet) => {
        file.writes.push(packet);
        kernel.sched.wakeAll(file.changed);
        file.isFull ||= file.writes.length >= fileWritesMax;
        return !file.isFull;
      },
      resume: () => {
        while (file.reads.length > 0 && !peer.full?.()) peer.deliver(file.reads.shift() as XsPacket);
        kernel.sched.wakeAll(file.changed);
      },
      end: () => undefined,
      close: () => {
        file.isOpen = false;
        file.reads.length = 0;
        kernel.sched.wakeAll(file.changed);
      },
    };
  }

  /** The process, as far as the kernel sees it: one request after the other, until it has closed the file. */
  function* user(file: OpenFile): Task {
    for (;;) {
      yield* kernel.call('ksys_read', frame('vfs_read', frame('xenbus_file_read', waitToGoOn(file))));
      const packet = file.writes.shift();
      if (!packet) break;
      if (file.isFull && file.writes.length < fileWritesMax) {
        file.isFull = false;
        file.peer.drained?.();
      }
      yield* kernel.call('ksys_write', frame('vfs_write', frame('xenbus_file_write', write(file, packet))));
    }
    if (file.transactions.length > 0 || file.watches.length > 0)
      kernel.workqueue.schedule(work('xenbus_worker', () => release(file)));
  }

  function* frame(name: string, body: Task): Task {
    yield* kernel.call(name, body);
  }

  function* waitToGoOn(file: OpenFile): Task {
    yield* waitEvent(file.changed, () => !file.isOpen || (file.writes.length > 0 && file.reads.length < fileUnreadMax));
  }

  function* write(file: OpenFile, packet: XsPacket): Task {
    const { type, reqId, txId } = packet;
    try {
      const payload = yield* answer(file, packet);
      read(file, { type, reqId, txId, payload });
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      read(file, { type: XsType.Error, reqId, txId, payload: joinStrings(error.errno) });
    }
  }

  function* answer(file: OpenFile, { type, txId, payload }: XsPacket): Task<string> {
    if (type === XsType.Watch || type === XsType.Unwatch) {
      yield* kernel.call('xenbus_write_watch', writeWatch(file, type, payload));
      return joinStrings('OK');
    }
    if (type === XsType.TransactionStart) {
      const started = yield* kernel.talk(type, txId, payload);
      file.transactions.unshift(Number(splitStrings(started)[0]));
      return started;
    }
    if (txId !== 0 && !file.transactions.includes(txId)) throw new XsError('ENOENT');
    if (type !== XsType.TransactionEnd) return yield* kernel.talk(type, txId, payload);
    if (payload !== joinStrings('T') && payload !== joinStrings('F')) throw new XsError('EINVAL');
    try {
      return yield* kernel.talk(type, txId, payload);
    } finally {
      const at = file.transactions.indexOf(txId);
      if (at >= 0) file.transactions.splice(at, 1);
    }
  }

  function* writeWatch(file: OpenFile, type: number, payload: string): Task {
    const [node, token, end] = payload.split('\0', 3);
    if (node === undefined || token === undefined || end === undefined) throw new XsError('EINVAL');
    if (type === XsType.Unwatch) {
      // A watch that is not there is none to complain about.
      const known = file.watches.find(({ watch, token: its }) => its === token && watch.node === node);
      if (!known) return;
      yield* watches.unregister(known.watch);
      file.watches.splice(file.watches.indexOf(known), 1);
      return;
    }
    if (file.watches.length >= fileWatchesMax) throw new XsError('E2BIG');
    const callback = (path: string) => watchFired(file, path, token);
    file.watches.unshift({ token, watch: yield* watches.register({ node, name: 'watch_fired', callback }) });
  }

  /** Runs in a watch thread: the event is copied to the file, with the token that the process gave. */
  function* watchFired(file: OpenFile, path: string, token: string): Task {
    yield undefined;
    if (file.reads.length < fileEventsMax) {
      read(file, { type: XsType.WatchEvent, reqId: 0, txId: 0, payload: joinStrings(path, token) });
    } else if (!file.hasLost) {
      file.hasLost = true;
      kernel.printk(`xenbus: a process does not read: ${fileEventsMax} events wait, further ones are dropped`);
    }
  }

  function read(file: OpenFile, packet: XsPacket): void {
    if (!file.isOpen) return;
    if (file.reads.length === 0 && !file.peer.full?.()) file.peer.deliver(packet);
    else file.reads.push(packet);
  }

  function* release(file: OpenFile): Task {
    for (const txId of file.transactions) {
      try {
        yield* kernel.talk(XsType.TransactionEnd, txId, joinStrings('F'));
      } catch (error) {
        if (!(error instanceof XsError)) throw error;
      }
    }
    for (const { watch } of file.watches) yield* watches.unregister(watch);
  }

  return { connect };
}
