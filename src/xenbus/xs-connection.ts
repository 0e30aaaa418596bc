/**
 * One connection of a XenStore client: requests with their numbers, answers to whom they belong, events to whose watch they
 * are of. What can be asked, and how transactions and watches are put together, is `xs-client.ts`.
 */
import { ConnectionEnded, type XsTransport } from './transport.js';
import {
  joinStrings,
  type Perm,
  parsePerm,
  splitStrings,
  typeName,
  XENSTORE_PAYLOAD_MAX,
  type XsErrno,
  XsError,
  type XsPacket,
  XsType,
  xsErrnos,
} from './xs-wire.js';

/** What the server refused: which errno, of which request, for which path. */
export class XsRequestError extends XsError {
  constructor(
    errno: XsErrno,
    /** The request's name in the protocol: `READ`, `TRANSACTION_END`. */
    readonly operation: string,
    /** Its path as it was given; undefined for a request that has none. */
    readonly path: string | undefined,
    detail = path === undefined ? operation : `${operation} ${path}`,
  ) {
    super(errno, detail);
  }
}

/** This client was closed by its owner. */
export class ConnectionClosed extends Error {
  override readonly name = 'ConnectionClosed';
}

/** A kind of request: its type, and what is made of its answer. */
export interface Ask<T> {
  readonly type: XsType;
  /** May throw for what is no answer to it. */
  readonly take: (payload: string) => T;
  /** What a missing node (ENOENT) means, where that is an answer. */
  readonly missing?: { readonly value: T };
  /** Whether the first string is a path. */
  readonly hasPath?: true;
}

export const nothing = (): void => undefined;
const only = (payload: string): string => splitStrings(payload)[0] ?? '';
const node = { hasPath: true, missing: { value: undefined } } as const;

export const asks = {
  read: { type: XsType.Read, take: (payload: string): string | undefined => payload, ...node },
  directory: { type: XsType.Directory, take: (payload: string): string[] | undefined => splitStrings(payload), ...node },
  directoryPart: { type: XsType.DirectoryPart, take: partOf, ...node },
  write: { type: XsType.Write, take: nothing, hasPath: true },
  mkdir: { type: XsType.Mkdir, take: nothing, hasPath: true },
  rm: { type: XsType.Rm, take: (): boolean => true, missing: { value: false }, hasPath: true },
  getPerms: { type: XsType.GetPerms, take: permsOf, ...node },
  setPerms: { type: XsType.SetPerms, take: nothing, hasPath: true },
  watch: { type: XsType.Watch, take: nothing, hasPath: true },
  unwatch: { type: XsType.Unwatch, take: nothing, hasPath: true },
  resetWatches: { type: XsType.ResetWatches, take: nothing },
  transactionStart: { type: XsType.TransactionStart, take: transactionOf },
  transactionEnd: { type: XsType.TransactionEnd, take: nothing },
  getDomainPath: { type: XsType.GetDomainPath, take: only },
  introduce: { type: XsType.Introduce, take: nothing },
  release: { type: XsType.Release, take: nothing },
  resume: { type: XsType.Resume, take: nothing },
  isDomainIntroduced: { type: XsType.IsDomainIntroduced, take: (payload: string): boolean => only(payload) === 'T' },
  setTarget: { type: XsType.SetTarget, take: nothing },
  control: { type: XsType.Control, take: (payload: string): string => payload.replace(/\0$/, '') },
} as const satisfies Record<string, Ask<unknown>>;

function permsOf(payload: string): Perm[] | undefined {
  return splitStrings(payload).map((text) => {
    const perm = parsePerm(text);
    if (!perm) throw new Error(`${JSON.stringify(text)} is no permission`);
    return perm;
  });
}

/** Number 0 would be no transaction: what its body wrote would be there for all to see, and to stay. */
function transactionOf(payload: string): number {
  const id = only(payload);
  if (!/^[1-9]\d{0,9}$/.test(id)) throw new Error(`${JSON.stringify(id)} is no transaction`);
  return Number(id);
}

export interface DirectoryPart {
  readonly generation: string;
  readonly part: string;
  readonly isLast: boolean;
}

/** The last part ends in an empty name. A part that is neither the last nor has a name in it would lead nowhere. */
function partOf(payload: string): DirectoryPart | undefined {
  const end = payload.indexOf('\0');
  const part = payload.slice(end + 1);
  if (end < 0 || part.length === 0) throw new Error('it has no generation and names');
  const isLast = part === '\0' || part.endsWith('\0\0');
  return { generation: payload.slice(0, end), part: isLast ? part.slice(0, -1) : part, isLast };
}

/** The transaction that a request belongs to. */
export interface Within {
  readonly id: number;
  readonly signal: AbortSignal | undefined;
  over: boolean;
}

/** Who waits for which signal to abort: one listener a signal, however many requests have it. */
const signals = new WeakMap<AbortSignal, Set<() => void>>();

/** Calls `run` when `signal` aborts, at once if it has, until the function that is returned is called. */
export function onAbort(signal: AbortSignal, run: () => void): () => void {
  if (signal.aborted) {
    run();
    return nothing;
  }
  let runs = signals.get(signal);
  if (!runs) {
    runs = new Set();
    signals.set(signal, runs);
    signal.addEventListener('abort', aborted, { once: true });
  }
  const all = runs.add(run);
  return () => {
    if (!all.delete(run) || all.size > 0 || signal.aborted) return;
    signals.delete(signal);
    signal.removeEventListener('abort', aborted);
  };
}

function aborted(event: Event): void {
  const signal = event.target as AbortSignal;
  const runs = [...(signals.get(signal) ?? [])];
  signals.delete(signal);
  for (const run of runs) run();
}

/** A request as it is made. */
interface Made<T> {
  readonly strings: readonly string[];
  /** What follows the strings, without a NUL of its own. */
  readonly value?: string | Uint8Array;
  /** The transaction's number, where that is known to be open; else the transaction itself. */
  readonly tx?: number;
  readonly within?: Within | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Another way to the answer, where this one is too big for the server (E2BIG). */
  readonly tooBig?: (error: XsRequestError) => Promise<T>;
  /** Gets the answer of a request whose caller has gone: what it brought into being must be taken back. */
  readonly late?: (answer: T) => void;
}

/** A request on its way. */
interface Pending {
  readonly ask: Ask<unknown>;
  readonly path: string | undefined;
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: unknown) => void;
  readonly tooBig: ((error: XsRequestError) => Promise<unknown>) | undefined;
  readonly late: ((answer: never) => void) | undefined;
  /** Whether somebody waits for the answer still. */
  isWanted: boolean;
  /** Ends the wait for the signals. */
  leave: () => void;
}

export interface Listener {
  readonly event: (path: string) => void;
  /** The watch is no more, and not because its owner said so: with the reason, or undefined where that is what was wanted. */
  readonly end: (reason: Error | undefined) => void;
}

/** Keeps a token from others while its watch ends. */
const deaf: Listener = { event: nothing, end: nothing };

/** The connection: what is awaited, and who hears of what. */
export class Client {
  readonly ended: Promise<Error | undefined>;
  readonly #transport: XsTransport;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Map<string, Listener>();
  #lastRequest = 0;
  #lastToken = 0;
  /** Why it has ended, once it has. */
  #end: Error | undefined;
  #tellEnd: (reason: Error | undefined) => void = nothing;

  constructor(transport: XsTransport) {
    this.#transport = transport;
    this.ended = new Promise((resolve) => {
      this.#tellEnd = resolve;
    });
    transport.receive({
      packet: (packet) => this.#receive(packet),
      closed: (reason) => this.#finish(reason ?? closedHere()),
    });
  }

  request<T>(ask: Ask<T>, made: Made<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const { within, signal } = made;
      const path = ask.hasPath ? made.strings[0] : undefined;
      if (this.#end) throw this.#end;
      signal?.throwIfAborted();
      within?.signal?.throwIfAborted();
      if (within?.over) throw new Error(`transaction ${within.id} has ended: make the request before its body returns`);
      const payload = payloadOf(ask.type, path, made);
      const pending: Pending = {
        ask,
        path,
        resolve: resolve as (answer: unknown) => void,
        reject,
        tooBig: made.tooBig,
        late: made.late,
        isWanted: true,
        leave: nothing,
      };
      if (signal) dropOnAbort(pending, signal);
      if (within?.signal && within.signal !== signal) dropOnAbort(pending, within.signal);
      const reqId = this.#freeRequest();
      this.#pending.set(reqId, pending);
      this.#transport.send({ type: ask.type, reqId, txId: within?.id ?? made.tx ?? 0, payload });
    });
  }

  /** Registers a watch. A listener whose registering fails is forgotten. */
  async listen(path: string, token: string, listener: Listener): Promise<void> {
    if (this.#listeners.has(token)) throw new Error(`the token ${token} belongs to another watch of this client`);
    this.#listeners.set(token, listener);
    try {
      await this.request(asks.watch, { strings: [path, token] });
    } catch (error) {
      if (this.#listeners.get(token) === listener) this.#listeners.delete(token);
      throw error;
    }
  }

  /** Forgets a listener, and then the server does. Nothing happens to one that is forgotten already. */
  async unlisten(path: string, token: string, listener: Listener): Promise<void> {
    if (this.#listeners.get(token) !== listener) return;
    // Events may be on their way until it is answered: the next watch of that token must not get them.
    this.#listeners.set(token, deaf);
    try {
      if (!this.#end) await this.request(asks.unwatch, { strings: [path, token] });
    } finally {
      if (this.#listeners.get(token) === deaf) this.#listeners.delete(token);
    }
  }

  async resetWatches(signal: AbortSignal | undefined): Promise<void> {
    const before = [...this.#listeners];
    const reset = () => {
      for (const [token, listener] of before) {
        if (this.#listeners.get(token) !== listener) continue;
        this.#listeners.delete(token);
        listener.end(undefined);
      }
    };
    await this.request(asks.resetWatches, { strings: [''], signal, late: reset });
    reset();
  }

  close(): void {
    if (this.#end) return;
    this.#transport.close();
    this.#finish(closedHere());
  }

  freeToken(): string {
    do this.#lastToken += 1;
    while (this.#listeners.has(String(this.#lastToken)));
    return String(this.#lastToken);
  }

  #receive(packet: XsPacket): void {
    if (this.#end) return;
    if (packet.type === XsType.WatchEvent) {
      const [path, token] = splitStrings(packet.payload);
      // There may be no such watch any more: its end and the event have met on the way.
      if (path !== undefined && token !== undefined) this.#listeners.get(token)?.event(path);
      else this.#leave('a watch event has no path and token');
      return;
    }
    const pending = this.#pending.get(packet.reqId);
    if (!pending) {
      this.#leave(`request ${packet.reqId}, which nobody made, was answered`);
    } else if (packet.type !== pending.ask.type && packet.type !== XsType.Error) {
      this.#leave(`a ${typeName(pending.ask.type)} was answered by a ${typeName(packet.type)}`);
    } else {
      this.#pending.delete(packet.reqId);
      pending.leave();
      settle(pending, packet);
    }
  }

  /** Ends the connection to a server that does not keep to the protocol: which answer belongs to what is unknown now. */
  #leave(why: string): void {
    this.#finish(new ConnectionEnded(`the connection was given up, for the server does not speak the XenStore protocol: ${why}`));
    this.#transport.close();
  }

  #finish(reason: Error): void {
    if (this.#end) return;
    this.#end = reason;
    const wanted = reason instanceof ConnectionClosed ? undefined : reason;
    this.#tellEnd(wanted);
    const listeners = [...this.#listeners.values()];
    this.#listeners.clear();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { end } of listeners) end(wanted);
    for (const { leave, reject } of pending) {
      leave();
      reject(reason);
    }
  }

  #freeRequest(): number {
    do {
      this.#lastRequest = (this.#lastRequest + 1) >>> 0;
    } while (this.#lastRequest === 0 || this.#pending.has(this.#lastRequest));
    return this.#lastRequest;
  }
}

/** Lets the caller go when `signal` aborts. The request stays, for its answer will come. */
function dropOnAbort(pending: Pending, signal: AbortSignal): void {
  const leaveOther = pending.leave;
  const leave = onAbort(signal, () => {
    pending.isWanted = false;
    pending.leave();
    pending.reject(signal.reason);
  });
  pending.leave = () => {
    leaveOther();
    leave();
  };
}

/** Carries an answer to its promise, in this very moment: answers that come together settle in their order. */
function settle({ ask, path, resolve, reject, tooBig, late, isWanted }: Pending, { type, payload }: XsPacket): void {
  if (!isWanted && !late) return;
  if (type === XsType.Error) {
    const errno = errnoOf(payload);
    if (ask.missing && errno === 'ENOENT') {
      resolve(ask.missing.value);
      return;
    }
    const error = new XsRequestError(errno, typeName(ask.type), path);
    if (tooBig && errno === 'E2BIG') resolve(tooBig(error));
    else reject(error);
    return;
  }
  let answer: unknown;
  try {
    answer = ask.take(payload);
  } catch (error) {
    const what = path === undefined ? typeName(ask.type) : `${typeName(ask.type)} ${path}`;
    reject(new Error(`the server's answer to ${what} makes no sense: ${(error as Error).message}`));
    return;
  }
  if (isWanted) resolve(answer);
  else late?.(answer as never);
}

function closedHere(): ConnectionClosed {
  return new ConnectionClosed('the connection to xenstored was closed');
}

/**
 * The bytes of a request, checked. A string with a NUL within it would arrive as two; a character that is no byte is a
 * mistake of the caller's, and must not be cut to one.
 */
function payloadOf(
  type: number,
  path: string | undefined,
  { strings, value = '' }: Pick<Made<unknown>, 'strings' | 'value'>,
): string {
  for (const string of strings) {
    if (typeof string !== 'string') throw new TypeError(`${typeName(type)}: ${String(string)} is no path or other string`);
    if (string.includes('\0')) {
      throw new XsRequestError('EINVAL', typeName(type), path, `${typeName(type)}: ${JSON.stringify(string)} has a NUL in it`);
    }
  }
  const tail = typeof value === 'string' ? value : latin1(value);
  const payload = joinStrings(...strings) + tail;
  if (payload.length > XENSTORE_PAYLOAD_MAX) {
    const detail = `a ${typeName(type)} of ${payload.length} bytes, and ${XENSTORE_PAYLOAD_MAX} is all that a request can have`;
    throw new XsRequestError('E2BIG', typeName(type), path, detail);
  }
  if (/[^\x00-\xff]/.test(payload)) {
    const text = [...strings, tail].find((string) => /[^\x00-\xff]/.test(string));
    throw new Error(`${JSON.stringify(text)} is text, not bytes: pass it through byteString`);
  }
  return payload;
}

function latin1(bytes: Uint8Array): string {
  if (!ArrayBuffer.isView(bytes)) throw new TypeError(`a value is a byte string or a Uint8Array, not ${String(bytes)}`);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

/** The errno of an XS_ERROR. One that the protocol does not have is reported as EINVAL, as libxenstore does. */
function errnoOf(payload: string): XsErrno {
  const name = only(payload);
  return xsErrnos.find((errno) => errno === name) ?? 'EINVAL';
}
