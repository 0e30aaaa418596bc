/**
 * The XenStore client: requests by number, answers by promise, events by watch.
 *
 * It speaks the protocol of Xen 4.17 (docs/misc/xenstore.txt, xen/include/public/io/xs_wire.h) over any `XsTransport` and
 * knows no server in particular, so it works with a real host's xenstored too. It does not connect (`../xenstore.ts` and
 * the transports do) and it does not reconnect: watches and transactions belong to a connection and end with it.
 *
 * Paths, values and tokens are byte strings: each character is one byte, so that what was read is what will be written,
 * whatever the encoding. Text that is to be stored as UTF-8 goes through `byteString` first, and comes back by `textOf`.
 */
import type { Clock } from './clock.js';
import type { XsTransport } from './transport.js';
import {
  type Ask,
  asks,
  Client,
  ConnectionClosed,
  type DirectoryPart,
  type Listener,
  nothing,
  onAbort,
  type Within,
  XsRequestError,
} from './xs-connection.js';
import { formatPerm, type Perm, splitStrings, typeName, type XsErrno, XsError, XsType } from './xs-wire.js';

export { ConnectionClosed, XsRequestError };

/** How often a transaction starts over before it gives up: each time somebody else has committed something of its own. */
export const transactionTriesMax = 1000;
/** The first conflict is met by starting over at once; with each further one the wait may be so many times as long. */
const backOffGrowth = 4;
/** Within how many milliseconds it starts over at most. */
const backOffMaxMs = 2048;
/** How often a list that comes in parts starts over because it changed between two of them. */
export const directoryTriesMax = 100;
/** Paths that may wait in one watch loop. Past that they become one event that says so (`missed`). */
export const watchQueueMax = 4096;

/** What every request takes beside its own arguments. */
export interface CallOptions {
  /**
   * Ends the wait: the promise rejects with `signal.reason`, at once. A request that was sent already is carried out by the
   * server nevertheless, for the protocol cannot call it back; its answer is thrown away when it comes.
   */
  readonly signal?: AbortSignal | undefined;
}

/**
 * The requests that may stand inside a transaction. Missing nodes are an answer, not an error.
 *
 * A path is absolute (`/local/domain/1/name`) or relative to the home of whoever asks (`name` is
 * `/local/domain/N/name` on a connection of domain N). Refusals reject with `XsRequestError`: EACCES where the node is
 * somebody else's, EINVAL for a bad path, E2BIG for over 4096 bytes of path and value, ENOSPC or E2BIG over a quota.
 */
export interface XsRequests {
  /** The value as a byte string, or undefined when the node is missing. A node that is there without a value has ''. */
  read(path: string, options?: CallOptions): Promise<string | undefined>;
  /**
   * The names of the children in the server's order, or undefined when the node is missing. A list that does not fit into
   * one reply is read in parts, and anew when it changed meanwhile, up to `directoryTriesMax` times; then EAGAIN.
   */
  directory(path: string, options?: CallOptions): Promise<string[] | undefined>;
  /** Writes a value: a byte string, or bytes. The node and those above it are made if they are missing. */
  write(path: string, value: string | Uint8Array, options?: CallOptions): Promise<void>;
  /** Makes an empty node, and those above it. Nothing happens when it is there. */
  mkdir(path: string, options?: CallOptions): Promise<void>;
  /**
   * Removes a node and all below it. False when there was not even the node above it; the server counts a missing node
   * whose parent is there as removed.
   */
  rm(path: string, options?: CallOptions): Promise<boolean>;
  /** The permissions, owner first, or undefined when the node is missing. */
  getPerms(path: string, options?: CallOptions): Promise<Perm[] | undefined>;
  /** Sets the permissions, owner first: the first entry's letters are for every domain that no other entry names. */
  setPerms(path: string, perms: readonly Perm[], options?: CallOptions): Promise<void>;
}

/** The requests of one transaction. Its promises reject once it has ended: nothing can slip out of it unnoticed. */
export interface XsTransaction extends XsRequests {
  /** The server's number for it. */
  readonly id: number;
}

/** A watch of the callback form. */
export interface XsWatch {
  readonly path: string;
  readonly token: string;
  /** Stops it; no event is delivered after this was called. Resolves when the server has let go of it. */
  close(): Promise<void>;
}

export interface WatchOptions extends CallOptions {
  /** The token, a byte string that no other watch of this client has. By default a number that is free. */
  readonly token?: string | undefined;
}

/** Something happened at `path` or to it. What it is now has to be read: an event carries no value. */
export interface XsEvent {
  /** The changed node, or the watched one where something above it went away. Relative where the watch is. */
  readonly path: string;
  readonly token: string;
  /** Different events were more than `watchQueueMax`, and this one stands for all of them: read all that you watch. */
  readonly missed: boolean;
}

/**
 * A watch as a loop: `for await (const { path } of xs.watch('/a')) ...`.
 *
 * Registered as soon as it was made, before any request that is made after it. The first event is always the watched path
 * itself, whether or not the node is there: a loop that reads what it is told of needs no reading before it.
 *
 * - Events that were not taken yet wait, in order. One for a path that waits already is left out, as xenstored does with
 *   what a client was not sent yet: whoever reads the node sees the newest state in any case. When `watchQueueMax`
 *   different paths wait, they are thrown away for one event of the watched path, `missed`. The socket is read on
 *   meanwhile, so a loop may make requests.
 * - `break`, `return` and a throw out of the loop unregister it, and go on when the server has answered that.
 * - It ends with an error when the server refuses it (`XsRequestError`), when `signal` aborts (its reason; what waited is
 *   dropped) and when the connection ends (`ConnectionEnded`; what waited is given first). It ends quietly with
 *   `xs.close()` and `xs.resetWatches()`.
 */
export interface XsEvents extends AsyncIterableIterator<XsEvent> {
  readonly path: string;
  readonly token: string;
  next(): Promise<IteratorResult<XsEvent, undefined>>;
  /** Unregisters it; resolves when the server has let go of it. */
  return(): Promise<IteratorResult<XsEvent, undefined>>;
  [Symbol.asyncIterator](): XsEvents;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * A connection to a XenStore.
 *
 * Requests are sent in the order of their calls, at once, any number of them before the first answer: a hundred reads that
 * are awaited together cost about as much as one round trip. Whoever makes requests without awaiting any bounds them.
 */
export interface Xs extends XsRequests {
  /**
   * Runs `body` in a transaction and commits it; all over again, up to `transactionTriesMax` times, when somebody else
   * changed a node that it had to do with (EAGAIN), with pauses in between where the client was given a `backOff`. So `body` keeps its effects inside the transaction, uses `tx` for all of
   * its requests and leaves none of them running when it returns.
   *
   * Answers with what `body` returned. `body` may return `abort`, which throws the writes away and is the answer. If it
   * throws, they are thrown away too, and the error is passed on.
   *
   * `signal` counts for the transaction and for each request in it. Aborting rejects at once and throws the writes away,
   * unless the commit has been sent: then nobody knows whether it came to be.
   */
  transaction<T>(body: (tx: XsTransaction) => Promise<T | typeof abort>, options?: TransactionOptions): Promise<T | typeof abort>;

  /**
   * Registers a watch; `onEvent` gets the path of each event, beginning with the one that registering causes. It is called
   * as the events come, and no event waits or is merged here. Resolves when the server has answered. Aborting `signal`
   * stops the watch, then or later. The end of the connection is not an event: see `ended`. A string in the place of the
   * options is the token.
   */
  watch(path: string, onEvent: (path: string) => void, options?: WatchOptions | string): Promise<XsWatch>;
  /** The same as a loop. Paths are nodes, or `@introduceDomain` and `@releaseDomain`. */
  watch(path: string, options?: WatchOptions): XsEvents;

  /**
   * Waits until the value at `path` is what `isSo` says, and answers with it. `isSo` sees the value of now and that after
   * each change, or undefined while the node is missing. Values that come and go between two reads are not seen. Without
   * a `signal` (`AbortSignal.timeout(10_000)`, say) it waits for ever.
   */
  waitFor<V extends string | undefined>(
    path: string,
    isSo: (value: string | undefined) => value is V,
    options?: CallOptions,
  ): Promise<V>;
  waitFor(path: string, isSo: (value: string | undefined) => boolean, options?: CallOptions): Promise<string | undefined>;

  /** Drops all watches and transactions of this connection, as a booting kernel does. Loops over watches end quietly. */
  resetWatches(options?: CallOptions): Promise<void>;
  /** `/local/domain/N`, whether or not there is such a domain. */
  getDomainPath(domid: number, options?: CallOptions): Promise<string>;
  /** Tells the server of a domain's ring: the frame number of its page and its event channel. For dom0 alone (EACCES). */
  introduce(domid: number, mfn: number, port: number, options?: CallOptions): Promise<void>;
  /** Takes back what `introduce` said. For dom0 alone. */
  release(domid: number, options?: CallOptions): Promise<void>;
  /** Clears the mark that the domain has shut down, after a suspend that came to nothing. For dom0 alone. */
  resume(domid: number, options?: CallOptions): Promise<void>;
  isDomainIntroduced(domid: number, options?: CallOptions): Promise<boolean>;
  /** Gives `domid`, a stub domain, the rights of `target`. For dom0 alone. */
  setTarget(domid: number, target: number, options?: CallOptions): Promise<void>;
  /** A command of xenstore-control (`quota`, `memreport`, `help`; each server has its own) and its answer. For dom0 alone. */
  control(command: string, args?: readonly string[], options?: CallOptions): Promise<string>;

  /** Resolves when the connection has ended: with the reason, or with undefined when `close` ended it. Never rejects. */
  readonly ended: Promise<Error | undefined>;
  /**
   * Ends the connection. What was sent reaches the server, which drops the watches and the open transactions; promises that
   * are still open reject with `ConnectionClosed`, and so do later requests. Closing again does nothing.
   */
  close(): void;
  /** `close`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** Returned by a transaction's body to end it without a commit. */
export const abort: unique symbol = Symbol('abort');

/** Text as the byte string of its UTF-8, with the bytes that `losslessText` has kept. */
export function byteString(text: string): string {
  if (!keptByte.test(text)) return Buffer.from(text, 'utf8').toString('latin1');
  const pieces = text.split(/(?<![\ud800-\udbff])([\udc80-\udcff])/);
  return pieces.map((piece, at) => (at % 2 === 1 ? String.fromCharCode(piece.charCodeAt(0) & 0xff) : byteString(piece))).join('');
}

const keptByte = /(?<![\ud800-\udbff])[\udc80-\udcff]/;

/**
 * The text of any byte string, so that `byteString` gives it back: a byte that is no UTF-8 becomes the lone surrogate
 * U+DC80 to U+DCFF of its value, as in Python's `surrogateescape`.
 */
export function losslessText(bytes: string): string {
  const text = textOf(bytes);
  if (!text.includes('\ufffd')) return text;
  return bytes.replace(utf8OrByte, (match) =>
    match.length > 1 || match < '\x80' ? textOf(match) : String.fromCharCode(0xdc00 + match.charCodeAt(0)),
  );
}

const utf8OrByte =
  /[\x00-\x7f]+|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|\xed[\x80-\x9f][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}|[\x80-\xff]/g;

/** The text of a byte string that is UTF-8; bytes that are not become U+FFFD. */
export function textOf(bytes: string): string {
  return Buffer.from(bytes, 'latin1').toString('utf8');
}

/** Told that a transaction has met others `conflicts` times now: what it returns is awaited before the next try. */
export type BackOff = (conflicts: number) => Promise<void> | undefined;

export interface XsClientOptions {
  /** Absent: every try follows at once, as libxenstore's callers do it. */
  readonly backOff?: BackOff;
}

export interface TransactionOptions extends CallOptions {
  /** In place of the client's. */
  readonly backOff?: BackOff;
}

/**
 * Waits longer and longer, and never for the same time as others: for a random part of 4, 16, 64, ... `backOffMaxMs`
 * milliseconds. Many who change the same directory at once, as toolstacks that create domains do, get through one after
 * the other then; without, each commit undoes the work of all others.
 */
export function backOffOf(clock: Clock): BackOff {
  return (conflicts) => {
    if (conflicts === 1) return undefined;
    const window = Math.min(backOffGrowth ** (conflicts - 1), backOffMaxMs);
    const [low = 0, high = 0] = clock.random(2);
    return clock.sleep((window * (high * 256 + low)) / 65_536);
  };
}

/** The client of `transport`, which nobody else uses. */
export function xsClient(transport: XsTransport, { backOff = () => undefined }: XsClientOptions = {}): Xs {
  const client = new Client(transport);
  const domain = <T>(ask: Ask<T>, numbers: readonly number[], options?: CallOptions): Promise<T> => {
    // The server would take what is no number for 0, which is dom0.
    const wrong = numbers.find((number) => !Number.isSafeInteger(number) || number < 0);
    if (wrong !== undefined) return Promise.reject(new TypeError(`${typeName(ask.type)}: ${wrong} is no domid, frame or port`));
    return client.request(ask, { strings: numbers.map(String), signal: options?.signal });
  };
  function watch(path: string, onEvent: (path: string) => void, options?: WatchOptions | string): Promise<XsWatch>;
  function watch(path: string, options?: WatchOptions): XsEvents;
  function watch(path: string, second?: ((path: string) => void) | WatchOptions, third?: WatchOptions | string) {
    return typeof second === 'function' ? watchByCallback(client, path, second, third) : watchByLoop(client, path, second);
  }
  return {
    ...requests(client, undefined),
    transaction: (body, options) => transaction(client, body, options?.backOff ?? backOff, options?.signal),
    watch,
    waitFor: (path: string, isSo: (value: string | undefined) => boolean, options?: CallOptions) =>
      waitFor<never>(client, path, isSo, options),
    resetWatches: (options) => client.resetWatches(options?.signal),
    getDomainPath: (domid, options) => domain(asks.getDomainPath, [domid], options),
    introduce: (domid, mfn, port, options) => domain(asks.introduce, [domid, mfn, port], options),
    release: (domid, options) => domain(asks.release, [domid], options),
    resume: (domid, options) => domain(asks.resume, [domid], options),
    isDomainIntroduced: (domid, options) => domain(asks.isDomainIntroduced, [domid], options),
    setTarget: (domid, target, options) => domain(asks.setTarget, [domid, target], options),
    control: (command, args = [], options) =>
      client.request(asks.control, { strings: [command, ...args], signal: options?.signal }),
    ended: client.ended,
    close: () => client.close(),
    [Symbol.asyncDispose]: async () => client.close(),
  };
}

function requests(client: Client, within: Within | undefined): XsRequests {
  const ask = <T>(kind: Ask<T>, strings: readonly string[], options?: CallOptions): Promise<T> =>
    client.request(kind, { strings, within, signal: options?.signal });
  return {
    read: (path, options) => ask(asks.read, [path], options),
    directory: (path, options) => directory(client, within, path, options?.signal),
    write: (path, value, options) => client.request(asks.write, { strings: [path], value, within, signal: options?.signal }),
    mkdir: (path, options) => ask(asks.mkdir, [path], options),
    rm: (path, options) => ask(asks.rm, [path], options),
    getPerms: (path, options) => ask(asks.getPerms, [path], options),
    setPerms: (path, perms, options) => ask(asks.setPerms, [path, ...perms.map(formatPerm)], options),
  };
}

/** One list. What does not fit into one reply comes in parts, and from the start again if it changes between them. */
function directory(
  client: Client,
  within: Within | undefined,
  path: string,
  signal: AbortSignal | undefined,
): Promise<string[] | undefined> {
  const part = (offset: number) => client.request(asks.directoryPart, { strings: [path, String(offset)], within, signal });
  const inParts = async (tooBig: XsRequestError): Promise<string[] | undefined> => {
    try {
      for (let tries = 0; tries < directoryTriesMax; tries += 1) {
        const list = await directoryInParts(part);
        if (list !== 'changed') return list === undefined ? undefined : splitStrings(list);
      }
    } catch (error) {
      // A server that cannot list in parts leaves it at that.
      throw isErrno(error, 'ENOSYS') ? tooBig : error;
    }
    const detail = `the list of ${path} changed each of the ${directoryTriesMax} times that it was read`;
    throw new XsRequestError('EAGAIN', typeName(XsType.DirectoryPart), path, detail);
  };
  return client.request(asks.directory, { strings: [path], within, signal, tooBig: inParts });
}

/** The whole list; undefined when the node is missing, `changed` when its generation was another on the way. */
async function directoryInParts(
  read: (offset: number) => Promise<DirectoryPart | undefined>,
): Promise<string | undefined | 'changed'> {
  let list = '';
  let first: string | undefined;
  for (;;) {
    const found = await read(list.length);
    if (!found) return undefined;
    first ??= found.generation;
    if (found.generation !== first) return 'changed';
    list += found.part;
    if (found.isLast) return list;
  }
}

async function transaction<T>(
  client: Client,
  body: (tx: XsTransaction) => Promise<T | typeof abort>,
  backOff: BackOff,
  signal: AbortSignal | undefined,
): Promise<T | typeof abort> {
  const end = (id: number, how: 'T' | 'F') => client.request(asks.transactionEnd, { tx: id, strings: [how] });
  const drop = (id: number) => end(id, 'F').catch(nothing);
  for (let tries = 0; tries < transactionTriesMax; tries += 1) {
    // The server has no use for the empty string, but libxenstore sends it.
    const id = await client.request(asks.transactionStart, { strings: [''], signal, late: drop });
    const within: Within = { id, signal, over: false };
    let result: T | typeof abort;
    try {
      result = await untilAborted(body({ ...requests(client, within), id }), signal);
    } catch (error) {
      within.over = true;
      // The error that ended it is the one to tell; a connection that is gone takes the transaction with it.
      const dropped = drop(id);
      if (!signal?.aborted) await dropped;
      throw error;
    }
    within.over = true;
    if (result === abort) {
      await untilAborted(end(id, 'F'), signal);
      return result;
    }
    try {
      await untilAborted(end(id, 'T'), signal);
      return result;
    } catch (error) {
      if (!isErrno(error, 'EAGAIN')) throw error;
    }
    const pause = backOff(tries + 1);
    if (pause) await untilAborted(pause, signal);
  }
  const detail = `a transaction met others in its way ${transactionTriesMax} times and gave up`;
  throw new XsRequestError('EAGAIN', typeName(XsType.TransactionEnd), undefined, detail);
}

/** `work`, or the signal's reason, whichever is first. What becomes of the other is nobody's business then. */
function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const leave = onAbort(signal, () => reject(signal.reason));
    // Not all who write a body in JavaScript return a promise.
    Promise.resolve(work).then(resolve, reject).finally(leave);
  });
}

function isErrno(error: unknown, errno: XsErrno): error is XsError {
  return error instanceof XsError && error.errno === errno;
}

async function watchByCallback(
  client: Client,
  path: string,
  onEvent: (path: string) => void,
  options: WatchOptions | string = {},
): Promise<XsWatch> {
  const { token = client.freeToken(), signal }: WatchOptions = typeof options === 'string' ? { token: options } : options;
  signal?.throwIfAborted();
  let leave = nothing;
  const event = (changed: string): void => {
    try {
      onEvent(changed);
    } catch (error) {
      // A mistake of the callback's is not the connection's, which has more to deliver.
      queueMicrotask(() => {
        throw error;
      });
    }
  };
  const listener: Listener = { event, end: () => leave() };
  const registered = client.listen(path, token, listener);
  const close = () => {
    leave();
    return client.unlisten(path, token, listener);
  };
  if (signal) leave = onAbort(signal, () => void close().catch(nothing));
  try {
    await untilAborted(registered, signal);
  } catch (error) {
    leave();
    throw error;
  }
  return { path, token, close };
}

function watchByLoop(client: Client, path: string, { token = client.freeToken(), signal }: WatchOptions = {}): XsEvents {
  type Result = IteratorResult<XsEvent, undefined>;
  const done: Result = { done: true, value: undefined };
  /** The paths of the events that wait. A set keeps the order and is how two of the same are found. */
  const waiting = new Set<string>();
  const takers: { readonly resolve: (result: Result) => void; readonly reject: (error: unknown) => void }[] = [];
  let missed = false;
  let isOver = false;
  /** Why it ended, until somebody was told. */
  let failure: { readonly error: unknown } | undefined;
  let leave = nothing;

  const eventOf = (changed: string): Result => {
    const value: XsEvent = { path: changed, token, missed };
    missed = false;
    return { done: false, value };
  };
  const finish = (given?: { readonly error: unknown }): void => {
    if (isOver) return;
    isOver = true;
    leave();
    const [first, ...others] = takers.splice(0);
    if (first && given) first.reject(given.error);
    else {
      first?.resolve(done);
      failure = given;
    }
    for (const { resolve } of others) resolve(done);
  };
  const event = (changed: string): void => {
    const taker = takers.shift();
    if (taker) {
      taker.resolve(eventOf(changed));
    } else if (waiting.size < watchQueueMax || waiting.has(changed)) {
      waiting.add(changed);
    } else {
      waiting.clear();
      waiting.add(path);
      missed = true;
    }
  };
  const listener: Listener = { event, end: (error) => finish(error && { error }) };
  const stop = async (): Promise<void> => {
    waiting.clear();
    finish();
    failure = undefined;
    // What the server does not have, or what ended with the connection, needs no letting go.
    await client.unlisten(path, token, listener).catch((error: unknown) => {
      if (error instanceof XsError && error.errno !== 'ENOENT') throw error;
    });
  };
  if (signal?.aborted) {
    finish({ error: signal.reason });
  } else {
    client.listen(path, token, listener).catch((error: unknown) => finish({ error }));
    if (signal) {
      leave = onAbort(signal, () => {
        waiting.clear();
        finish({ error: signal.reason });
        client.unlisten(path, token, listener).catch(nothing);
      });
    }
  }

  const events: XsEvents = {
    path,
    token,
    next: () => {
      for (const first of waiting) {
        waiting.delete(first);
        return Promise.resolve(eventOf(first));
      }
      if (failure) {
        const { error } = failure;
        failure = undefined;
        return Promise.reject(error);
      }
      return isOver ? Promise.resolve(done) : new Promise((resolve, reject) => takers.push({ resolve, reject }));
    },
    return: async () => {
      await stop();
      return done;
    },
    [Symbol.asyncIterator]: () => events,
    [Symbol.asyncDispose]: stop,
  };
  return events;
}

async function waitFor<V extends string | undefined>(
  client: Client,
  path: string,
  isSo: (value: string | undefined) => boolean,
  { signal }: CallOptions = {},
): Promise<V> {
  for await (const _ of watchByLoop(client, path, { signal })) {
    const value = await client.request(asks.read, { strings: [path], signal });
    if (isSo(value)) return value as V;
  }
  throw new ConnectionClosed(`the watch of ${path} ended before its value came to be what was waited for`);
}
