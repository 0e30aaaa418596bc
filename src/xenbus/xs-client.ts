/**
 * A XenStore client: requests by number, answers by promise, events by watch.
 *
 * It speaks the protocol over any `XsTransport` and knows no server in particular, so it works with a real host's
 * xenstored too. Paths, values and tokens are byte strings: each character is one byte, so that what was read is what
 * will be written, whatever the encoding. Text that is to be stored as UTF-8 goes through `byteString` first.
 */
import type { XsTransport } from './transport.js';
import {
  formatPerm,
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

/** Requests that may stand inside a transaction. Missing nodes are an answer, not an error. */
export interface XsRequests {
  /** The value, or undefined when the node is missing. */
  read(path: string): Promise<string | undefined>;
  /** Children in the server's order, or undefined when the node is missing. Long lists come in parts. */
  directory(path: string): Promise<string[] | undefined>;
  write(path: string, value: string): Promise<void>;
  mkdir(path: string): Promise<void>;
  /** False when there was nothing to remove. */
  rm(path: string): Promise<boolean>;
  getPerms(path: string): Promise<Perm[] | undefined>;
  setPerms(path: string, perms: readonly Perm[]): Promise<void>;
}

export interface XsWatch {
  readonly path: string;
  readonly token: string;
  /** Stops it; no event is delivered after this was called. */
  close(): Promise<void>;
}

export interface XsTransaction extends XsRequests {
  readonly id: number;
}

/** What libxl, xenconsoled and the monitors know of the store. Every other failure is thrown as `XsError`. */
export interface Xs extends XsRequests {
  /**
   * Runs `body` in a transaction and commits; all over again on EAGAIN. `body` may end it early by returning
   * `abort`, which throws the writes away and is returned.
   */
  transaction<T>(body: (tx: XsTransaction) => Promise<T | typeof abort>): Promise<T | typeof abort>;
  /** Registers a watch; `onEvent` gets the path of each event, beginning with the one that registering causes. */
  watch(path: string, onEvent: (path: string) => void, token?: string): Promise<XsWatch>;
  getDomainPath(domid: number): Promise<string>;
  introduce(domid: number, mfn: number, port: number): Promise<void>;
  release(domid: number): Promise<void>;
  isDomainIntroduced(domid: number): Promise<boolean>;
  close(): void;
}

/** Returned by a transaction's body to end it without a commit. */
export const abort: unique symbol = Symbol('abort');

/** How often a transaction starts over before it gives up: each time somebody else has committed something of its own. */
export const transactionTriesMax = 1000;
/** How often a list that comes in parts starts over because it changed between two of them. */
export const directoryTriesMax = 100;

/** Text as the byte string of its UTF-8, and back. */
export function byteString(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1');
}

export function textOf(bytes: string): string {
  return Buffer.from(bytes, 'latin1').toString('utf8');
}

interface Pending {
  readonly type: number;
  readonly resolve: (payload: string) => void;
  readonly reject: (error: Error) => void;
}

/** The client of `transport`. Requests are sent at once, any number of them; the server answers in order. */
export function xsClient(transport: XsTransport): Xs {
  const client = new Client(transport);
  return {
    ...requests(client, 0),
    transaction: (body) => transaction(client, body),
    watch: (path, onEvent, token) => client.watch(path, onEvent, token),
    getDomainPath: async (domid) => only(await client.request(XsType.GetDomainPath, 0, joinStrings(String(domid)))),
    introduce: async (domid, mfn, port) => {
      await client.request(XsType.Introduce, 0, joinStrings(String(domid), String(mfn), String(port)));
    },
    release: async (domid) => {
      await client.request(XsType.Release, 0, joinStrings(String(domid)));
    },
    isDomainIntroduced: async (domid) => {
      return only(await client.request(XsType.IsDomainIntroduced, 0, joinStrings(String(domid)))) === 'T';
    },
    close: () => client.close(),
  };
}

function only(payload: string): string {
  return splitStrings(payload)[0] ?? '';
}

/** A missing node is an answer. */
function unlessMissing(error: unknown): undefined {
  if (error instanceof XsError && error.errno === 'ENOENT') return undefined;
  throw error;
}

function requests(client: Client, tx: number): XsRequests {
  const ask = async (type: number, ...strings: string[]) => client.request(type, tx, stringsOf(...strings));
  return {
    read: async (path) => await ask(XsType.Read, path).catch(unlessMissing),
    directory: (path) => directory(client, tx, path).catch(unlessMissing),
    write: async (path, value) => {
      await client.request(XsType.Write, tx, stringsOf(path) + bytesOf(value));
    },
    mkdir: async (path) => {
      await ask(XsType.Mkdir, path);
    },
    rm: async (path) => (await ask(XsType.Rm, path).catch(unlessMissing)) !== undefined,
    getPerms: async (path) => {
      const payload = await ask(XsType.GetPerms, path).catch(unlessMissing);
      return payload === undefined ? undefined : splitStrings(payload).map(permOf);
    },
    setPerms: async (path, perms) => {
      await ask(XsType.SetPerms, path, ...perms.map(formatPerm));
    },
  };
}

function permOf(text: string): Perm {
  const perm = parsePerm(text);
  if (!perm) throw new Error(`the server said ${JSON.stringify(text)} for a permission`);
  return perm;
}

/** A byte string, checked. A character that is no byte is a mistake of the caller's, and must not be cut to one. */
function bytesOf(value: string): string {
  if (/[^\x00-\xff]/.test(value)) throw new Error(`${JSON.stringify(value)} is text, not bytes: pass it through byteString`);
  return value;
}

/** Strings for the wire. One with a NUL within it would arrive as two. */
function stringsOf(...strings: readonly string[]): string {
  const split = strings.find((string) => string.includes('\0'));
  if (split !== undefined) throw new XsError('EINVAL', `${JSON.stringify(split)} has a NUL in it`);
  return bytesOf(joinStrings(...strings));
}

/** One list. What does not fit into one reply comes in parts, and from the start again if it changes between them. */
async function directory(client: Client, tx: number, path: string): Promise<string[]> {
  try {
    return splitStrings(await client.request(XsType.Directory, tx, stringsOf(path)));
  } catch (error) {
    if (!(error instanceof XsError && error.errno === 'E2BIG')) throw error;
  }
  for (let tries = 0; tries < directoryTriesMax; tries += 1) {
    const list = await directoryInParts(client, tx, path);
    if (list) return splitStrings(list);
  }
  throw new XsError('EAGAIN', `the list of ${path} changed each of the ${directoryTriesMax} times that it was read`);
}

/** The whole list, or undefined when the node's generation changed on the way. */
async function directoryInParts(client: Client, tx: number, path: string): Promise<string | undefined> {
  let list = '';
  let generation: string | undefined;
  let offset = 0;
  for (;;) {
    const reply = await client.request(XsType.DirectoryPart, tx, stringsOf(path, String(offset)));
    const end = reply.indexOf('\0');
    const found = reply.slice(0, end);
    generation ??= found;
    if (found !== generation) return undefined;
    const part = reply.slice(end + 1);
    // The last part ends in an empty name.
    const isLast = part === '\0' || part.endsWith('\0\0');
    list += isLast ? part.slice(0, -1) : part;
    if (isLast) return list;
    if (part.length === 0) throw new Error(`the server said nothing at ${offset} of the list of ${path}`);
    offset += part.length;
  }
}

async function transaction<T>(client: Client, body: (tx: XsTransaction) => Promise<T | typeof abort>): Promise<T | typeof abort> {
  for (let tries = 0; tries < transactionTriesMax; tries += 1) {
    const id = Number(only(await client.request(XsType.TransactionStart, 0, joinStrings(''))));
    const end = (how: 'T' | 'F') => client.request(XsType.TransactionEnd, id, joinStrings(how));
    let result: T | typeof abort;
    try {
      result = await body({ ...requests(client, id), id });
    } catch (error) {
      // The error that ended it is the one to tell; a connection that is gone takes the transaction with it.
      await end('F').catch(() => undefined);
      throw error;
    }
    if (result === abort) {
      await end('F');
      return result;
    }
    try {
      await end('T');
      return result;
    } catch (error) {
      if (!(error instanceof XsError && error.errno === 'EAGAIN')) throw error;
    }
  }
  throw new XsError('EAGAIN', `a transaction met others in its way ${transactionTriesMax} times and gave up`);
}

/** The connection: what is awaited, and who hears of what. */
class Client {
  readonly #pending = new Map<number, Pending>();
  readonly #watches = new Map<string, (path: string) => void>();
  #lastRequest = 0;
  #lastToken = 0;
  #ended: Error | undefined;

  constructor(private readonly transport: XsTransport) {
    transport.receive({
      packet: (packet) => this.#receive(packet),
      closed: (reason) => this.#end(reason ?? new Error('the connection to xenstored was closed')),
    });
  }

  request(type: number, txId: number, payload: string): Promise<string> {
    if (this.#ended) return Promise.reject(this.#ended);
    if (payload.length > XENSTORE_PAYLOAD_MAX) {
      const detail = `a ${typeName(type)} of ${payload.length} bytes, and ${XENSTORE_PAYLOAD_MAX} is all that a request can have`;
      return Promise.reject(new XsError('E2BIG', detail));
    }
    return new Promise((resolve, reject) => {
      const reqId = this.#freeRequest();
      this.#pending.set(reqId, { type, resolve, reject });
      this.transport.send({ type, reqId, txId, payload });
    });
  }

  async watch(path: string, onEvent: (path: string) => void, given?: string): Promise<XsWatch> {
    const token = given ?? this.#freeToken();
    if (this.#watches.has(token)) throw new Error(`the token ${token} belongs to another watch of this client`);
    this.#watches.set(token, onEvent);
    try {
      await this.request(XsType.Watch, 0, stringsOf(path, token));
    } catch (error) {
      this.#watches.delete(token);
      throw error;
    }
    return {
      path,
      token,
      close: async () => {
        if (this.#watches.get(token) !== onEvent) return;
        this.#watches.delete(token);
        if (!this.#ended) await this.request(XsType.Unwatch, 0, stringsOf(path, token));
      },
    };
  }

  close(): void {
    this.transport.close();
    this.#end(new Error('the connection to xenstored was closed'));
  }

  #receive(packet: XsPacket): void {
    if (packet.type === XsType.WatchEvent) {
      const [path = '', token = ''] = splitStrings(packet.payload);
      this.#watches.get(token)?.(path);
      return;
    }
    const pending = this.#pending.get(packet.reqId);
    if (!pending) return;
    this.#pending.delete(packet.reqId);
    if (packet.type === pending.type) pending.resolve(packet.payload);
    else if (packet.type === XsType.Error) pending.reject(new XsError(errnoOf(packet.payload), typeName(pending.type)));
    else pending.reject(new Error(`a ${typeName(pending.type)} was answered by a ${typeName(packet.type)}`));
  }

  #end(reason: Error): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#watches.clear();
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
  }

  #freeRequest(): number {
    do {
      this.#lastRequest = (this.#lastRequest + 1) >>> 0;
    } while (this.#lastRequest === 0 || this.#pending.has(this.#lastRequest));
    return this.#lastRequest;
  }

  #freeToken(): string {
    do this.#lastToken += 1;
    while (this.#watches.has(String(this.#lastToken)));
    return String(this.#lastToken);
  }
}

/** The errno of an XS_ERROR. One that the protocol does not have is reported as EINVAL, as xenstored does. */
function errnoOf(payload: string): XsErrno {
  const name = splitStrings(payload)[0];
  return xsErrnos.find((errno) => errno === name) ?? 'EINVAL';
}
