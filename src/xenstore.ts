/**
 * `xl-mtwatch/xenstore`: a XenStore client for Node, for a real host's xenstored, for the embedded dom0 and for a store
 * within the process. docs/xenstore-client.md is the tutorial.
 *
 * This is the public face: how to connect, and the names that are meant for others. What a client does is in
 * `xenbus/xs-client.ts`; what is not exported here may change at any time.
 */
import { lstatSync } from 'node:fs';
import { SystemClock } from './xenbus/clock.js';
import { StoreLoop } from './xenbus/store-loop.js';
import { linkTransport, socketTransport } from './xenbus/transport.js';
import { backOffOf, type CallOptions, type Xs, xsClient } from './xenbus/xs-client.js';

export { ConnectionEnded, socketTransport, type XsTransport } from './xenbus/transport.js';
export {
  abort,
  byteString,
  type CallOptions,
  ConnectionClosed,
  directoryTriesMax,
  textOf,
  transactionTriesMax,
  type WatchOptions,
  watchQueueMax,
  type Xs,
  type XsEvent,
  type XsEvents,
  XsRequestError,
  type XsRequests,
  type XsTransaction,
  type XsWatch,
  xsClient,
} from './xenbus/xs-client.js';
export {
  formatPerm,
  type Perm,
  parsePerm,
  XENSTORE_ABS_PATH_MAX,
  XENSTORE_PAYLOAD_MAX,
  XENSTORE_REL_PATH_MAX,
  type XsErrno,
  XsError,
  type XsPacket,
  xsErrnos,
} from './xenbus/xs-wire.js';

/** Where libxenstore looks for the socket when nobody says anything; `/run/xenstored` by another name on Linux. */
export const defaultRunDir = '/var/run/xenstored';
/** Requests that a local store serves before the event loop has its turn. */
export const localTurnMax = 512;

export interface ConnectOptions extends CallOptions {
  /** The server's unix socket. By default `socketPath()`. */
  readonly path?: string | undefined;
}

/** There is no connection, and the message says to which socket, why and what to do. */
export class ConnectError extends Error {
  override readonly name = 'ConnectError';

  constructor(
    message: string,
    /** The socket's path. */
    readonly path: string,
    /** The system's errno: `ENOENT`, `ECONNREFUSED`, `EACCES`; undefined where the system was not asked. */
    readonly code: string | undefined,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/**
 * The socket that XenStore clients use: `XENSTORED_PATH`; else `socket` in `XENSTORED_RUNDIR`; else
 * `/var/run/xenstored/socket`. The same as libxenstore 4.17 does (xs_lib.c), but an empty variable counts as unset.
 */
export function socketPath(env: Readonly<Record<string, string | undefined>> = process.env): string {
  return env['XENSTORED_PATH'] || `${env['XENSTORED_RUNDIR'] || defaultRunDir}/socket`;
}

/**
 * Connects to a XenStore server by its unix socket: a real host's, as root; one of the embedded dom0
 * (`eval "$(xl dom0 env)"` sets `XENSTORED_PATH`). Whose domain the connection speaks for is the socket's business: those
 * of a host are dom0's.
 *
 * Rejects with `ConnectError`, or with the reason of `signal`, which counts for connecting and not for the connection.
 * `/dev/xen/xenbus`, by which a guest reaches its host's store, is a device and not a socket: it is refused.
 */
export async function connect(options: ConnectOptions = {}): Promise<Xs> {
  const { path = socketPath(), signal } = options;
  const transport = await socketTransport(path, signal ? { signal } : {}).catch((error: unknown) => {
    if (signal?.aborted) throw error;
    throw connectError(path, error);
  });
  return xsClient(transport, { backOff: backOffOf(new SystemClock()) });
}

function connectError(path: string, cause: unknown): ConnectError {
  const code = typeof cause === 'object' && cause !== null && 'code' in cause ? String(cause.code) : undefined;
  return new ConnectError(`cannot connect to XenStore at ${path}: ${whyNot(path, code, cause)}`, path, code, { cause });
}

/** Why there is no connection, and what to do about it. */
function whyNot(path: string, code: string | undefined, cause: unknown): string {
  switch (code) {
    case 'ENOENT':
      return 'there is no such socket (ENOENT); start a server (xl dom0 start), or set XENSTORED_PATH to the socket of the one that runs (eval "$(xl dom0 env)")';
    case 'EACCES':
    case 'EPERM':
      return `permission denied (${code}); a server's socket is for its owner alone, root on a Xen host: run as that user`;
    case 'ECONNREFUSED':
    case 'ENOTSOCK':
      return isSocket(path)
        ? `nobody listens there (${code}); the server has ended and left its socket behind: start it again`
        : `that is no socket (${code}); a server's socket is called "socket", in ${defaultRunDir} on a Xen host`;
    default:
      return String(cause);
  }
}

function isSocket(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSocket() ?? false;
}

/** A XenStore within this process. */
export interface LocalStore {
  /**
   * A connection of domain `domid`, of dom0 by default, who may do anything. A guest sees and changes what permissions let
   * it; a home (`/local/domain/N`) it has when dom0 makes one and gives it away.
   */
  connect(options?: { readonly domid?: number }): Xs;
}

/**
 * A store of its own in this process, empty but for `/tool/xenstored`: for tests of what uses XenStore, without a server,
 * a socket or any waiting. It is the server of the embedded dom0 (permissions, transactions, quotas, events and their order
 * are those of xenstored 4.17); there are no domains behind it, so every domid counts as one that runs.
 *
 * `log` gets what the server would log.
 */
export function localStore({ log = () => {} }: { readonly log?: (line: string) => void } = {}): LocalStore {
  const turn = (): void => {
    for (let served = 1; loop.serveOne(); served += 1) {
      if (served < localTurnMax) continue;
      setImmediate(turn);
      return;
    }
  };
  const loop = new StoreLoop({
    domain: () => ({ dying: false, shutdown: false }),
    wake: () => setImmediate(turn),
    log,
  });
  return { connect: ({ domid = 0 } = {}) => xsClient(linkTransport(loop, { domid, who: 'client' })) };
}
