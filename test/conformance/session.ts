/**
 * One server as the tester sees it: its connections during an episode, and what comes back of each operation.
 *
 * It speaks the protocol by itself, with nothing of the server that is tested. After every operation each connection
 * asks something harmless, and whatever came before the answer belongs to the operation; so nothing here waits for time
 * to pass, except for a server that does not answer at all.
 */
import { connect, type Socket } from 'node:net';
import {
  type DomainState,
  dom0Connections,
  guests,
  nameOf,
  type Operation,
  type RequestOp,
  show,
  speakers,
  types,
} from './operations.js';

/** Bytes to and from a server, however they travel. */
export interface Channel {
  write(bytes: Buffer): void;
  /** `closed` comes once, when the server or the test ended it. */
  receive(handlers: { readonly data: (bytes: Buffer) => void; readonly closed: () => void }): void;
  close(): void;
}

/** The hypervisor that a server was started with, as far as a store asks it. */
export interface Machine {
  /** What a domain comes to. For all but `running` VIRQ_DOM_EXC is raised. */
  set(domid: number, state: DomainState): void;
  /** Gives a domain that is to be introduced an empty ring. */
  ring(domid: number): Promise<Channel>;
}

export interface Server {
  readonly name: string;
  /** The unix socket on which clients speak for dom0. */
  readonly socket: string;
  /** Missing where the server was started by somebody else: then there are no guests. */
  readonly machine?: Machine;
  /** How it ended, if it has ended by itself, and what it said last. */
  readonly obituary?: () => string | undefined;
}

/** How long a server may take to say something, in ms; whoever takes longer has lost the connection. */
const patienceMs = 10_000;
const headerSize = 16;
/** Request ids from here on are the tester's own questions. */
const ownIds = 0xf0000000;

export function socketChannel(path: string): Promise<Channel> {
  return new Promise((resolve, reject) => {
    const socket: Socket = connect(path);
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      // A connection that the server resets is closed, which is told below.
      socket.on('error', () => undefined);
      resolve({
        write: (bytes) => {
          socket.write(bytes);
        },
        receive: ({ data, closed }) => {
          socket.on('data', data);
          socket.on('close', closed);
        },
        close: () => socket.destroy(),
      });
    });
  });
}

function encode(type: number, reqId: number, txId: number, payload: string): Buffer {
  const bytes = Buffer.alloc(headerSize + payload.length);
  bytes.writeUInt32LE(type >>> 0, 0);
  bytes.writeUInt32LE(reqId, 4);
  bytes.writeUInt32LE(txId >>> 0, 8);
  bytes.writeUInt32LE(payload.length, 12);
  bytes.write(payload, headerSize, 'latin1');
  return bytes;
}

interface Message {
  readonly type: number;
  readonly reqId: number;
  readonly txId: number;
  readonly payload: string;
}

/** One connection: what arrived and was not asked for by the tester itself, in order. */
class Connection {
  arrived: Message[] = [];
  isOpen = true;
  #rest = Buffer.alloc(0);
  #waiting: { readonly reqId: number; readonly done: (message: Message | undefined) => void } | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(private readonly channel: Channel) {
    channel.receive({ data: (bytes) => this.#read(bytes), closed: () => this.#end() });
  }

  send(bytes: Buffer): void {
    if (this.isOpen) this.channel.write(bytes);
  }

  /** The reply of that id; undefined when the connection ended, or nothing came. */
  reply(reqId: number, forMs: number = patienceMs): Promise<Message | undefined> {
    return new Promise((resolve) => {
      if (!this.isOpen) {
        resolve(undefined);
        return;
      }
      this.#timer = setTimeout(() => this.#answer(undefined), forMs);
      this.#waiting = { reqId, done: resolve };
    });
  }

  close(): void {
    this.#end();
    this.channel.close();
  }

  #read(bytes: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    for (;;) {
      if (this.#rest.length < headerSize) return;
      const size = headerSize + this.#rest.readUInt32LE(12);
      if (this.#rest.length < size) return;
      const message: Message = {
        type: this.#rest.readUInt32LE(0),
        reqId: this.#rest.readUInt32LE(4),
        txId: this.#rest.readUInt32LE(8),
        payload: this.#rest.toString('latin1', headerSize, size),
      };
      this.#rest = this.#rest.subarray(size);
      if (message.type !== types.WATCH_EVENT && message.reqId === this.#waiting?.reqId) this.#answer(message);
      else this.arrived.push(message);
    }
  }

  #answer(message: Message | undefined): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    clearTimeout(this.#timer);
    waiting?.done(message);
  }

  #end(): void {
    this.isOpen = false;
    this.#answer(undefined);
  }
}

/** What an operation came to: the lines of each connection that heard of it. */
export interface Outcome {
  /** Replies and events of each connection in the order in which they arrived; a connection without any is missing. */
  readonly heard: ReadonlyMap<number, readonly string[]>;
  /** The errno of the reply, `OK`, or what else it was; empty when there was none. */
  readonly reply: string;
  /** What the reply carried. */
  readonly payload: string;
}

export const untouched: Outcome = { heard: new Map(), reply: '', payload: '' };

/** An outcome on lines of its own. */
export function showOutcome({ heard }: Outcome): string[] {
  return heard.size === 0
    ? ['nothing']
    : [...heard].sort(([a], [b]) => a - b).map(([conn, lines]) => `c${conn}: ${lines.join('; ')}`);
}

function printable(payload: string): string {
  const json = JSON.stringify(payload).replace(/[\u007f-\u00ff]/g, (c) => `\\u00${c.charCodeAt(0).toString(16)}`);
  return json.length > 400 ? `${json.slice(0, 300)}...${json.slice(-80)} (${payload.length} bytes)` : json;
}

/** Operations that only read; nobody else hears of them. */
const quiet = new Set<number>([types.READ, types.DIRECTORY, types.GET_PERMS, types.DIRECTORY_PART, types.GET_DOMAIN_PATH]);

/** Requests of one string. */
const ofOneString = new Set<number>([types.READ, types.DIRECTORY, types.GET_PERMS, types.MKDIR, types.RM]);

/** Whether C's answer depends on what it failed at last: then it is made to fail at something known before. */
export function isUnclear({ type, payload }: RequestOp): boolean {
  if (type === types.SET_PERMS) return payload.startsWith('@');
  return ofOneString.has(type) && (payload === '' || payload.indexOf('\0') !== payload.length - 1);
}

/** Whether a domain in state `now` cannot come to `next`. */
function isFinal(now: DomainState | undefined, next: DomainState): boolean {
  if (next === 'running' || next === 'gone') return false;
  return now === 'gone' || (now === 'dying' && next === 'shutdown');
}

export class Session {
  readonly #connections = new Map<number, Connection>();
  readonly #transactions = new Map<number, { readonly conn: number; readonly id: number }>();
  /** The generations that DIRECTORY_PART showed, renamed in the order of appearance. */
  readonly #generations = new Map<string, string>();
  /** What has become of domains in this episode; of those that are missing, nothing. */
  readonly #states = new Map<number, DomainState>();
  #speakers = speakers(false);
  #nextId = 0;
  #last = 'none';
  #nextOwnId = ownIds;

  constructor(readonly server: Server) {}

  /** Whether a connection is there to be spoken on: always for dom0, while it is introduced for a guest. */
  canSpeak(conn: number): boolean {
    return this.#connections.has(conn);
  }

  has(handle: number): boolean {
    return this.#transactions.has(handle);
  }

  /** Brings the server to where every episode begins. */
  async start(withGuests: boolean): Promise<void> {
    try {
      await this.#start(withGuests);
    } catch (error) {
      throw this.#explained(error);
    }
  }

  async #start(withGuests: boolean): Promise<void> {
    this.end();
    this.#speakers = speakers(withGuests);
    this.#generations.clear();
    this.#states.clear();
    this.#nextId = 0;
    for (let conn = 0; conn < dom0Connections; conn += 1) await this.#connect(conn);
    const { machine } = this.server;
    if (withGuests && !machine) throw new Error(`${this.server.name} was not started here: there are no guests on it`);
    for (const domid of withGuests ? [1, 2, 3] : []) {
      await this.#ask(0, types.RELEASE, `${domid}\0`);
      machine?.set(domid, 'gone');
    }
    for (const [path, kept] of [
      ['/', 'tool'],
      ['/tool', 'xenstored'],
    ] as const) {
      const names = await this.#list(path);
      // oxenstored shows its special nodes, which stay.
      for (const name of typeof names === 'string' ? [] : names.filter((each) => each !== kept && !each.startsWith('@'))) {
        await this.#ask(0, types.RM, `${path === '/' ? '' : path}/${name}\0`);
      }
    }
    const steps: [number, string][] = [
      [types.MKDIR, '/t\0'],
      [types.MKDIR, '/local/domain/0\0'],
      ...['/', '/local'].map((path): [number, string] => [types.WRITE, `${path}\0`]),
      ...['/', '/local', '/tool/xenstored', '/t', '/local/domain', '/local/domain/0', '@introduceDomain', '@releaseDomain'].map(
        (path): [number, string] => [types.SET_PERMS, `${path}\0n0\0`],
      ),
      [types.WRITE, '/tool/xenstored\0'],
    ];
    for (const [type, payload] of steps) await this.#ask(0, type, payload);
    for (const domid of withGuests ? guests : []) {
      machine?.set(domid, 'running');
      await this.#ask(0, types.INTRODUCE, `${domid}\x001\x001\0`);
      await this.#ask(0, types.MKDIR, `/local/domain/${domid}\0`);
      await this.#ask(0, types.SET_PERMS, `/local/domain/${domid}\0n${domid}\0`);
      await this.#meetGuest(domid);
    }
    await this.#settle([...this.#connections.keys()]);
    for (const connection of this.#connections.values()) connection.arrived = [];
  }

  end(): void {
    for (const connection of this.#connections.values()) connection.close();
    this.#connections.clear();
    this.#transactions.clear();
  }

  async run(op: Operation): Promise<Outcome> {
    this.#last = show(op);
    try {
      return await this.#run(op);
    } catch (error) {
      throw this.#explained(error);
    }
  }

  /** An error with what the server did before it. */
  #explained(error: unknown): Error {
    const { name, obituary } = this.server;
    const message = error instanceof Error ? error.message : String(error);
    return new Error(`${name}: ${message}; the last operation was ${this.#last}\n${obituary?.() ?? ''}`);
  }

  async #run(op: Operation): Promise<Outcome> {
    let answer = { reply: '', payload: '' };
    switch (op.kind) {
      case 'request':
        answer = await this.#request(op);
        break;
      case 'reconnect':
        await this.#connect(op.conn);
        await this.#settle();
        break;
      case 'raw':
        return { heard: new Map([[-1, await this.#raw(op.pieces, op.cut === true)]]), ...answer };
      case 'domain':
        this.server.machine?.set(op.domid, op.becomes);
        // The VIRQ first, before any ring is looked at.
        await this.#settle([0]);
        // A domain that is dying stays so, and one that is gone can only be made anew.
        if (!isFinal(this.#states.get(op.domid), op.becomes)) this.#states.set(op.domid, op.becomes);
        // With a VIRQ a server looks at every domain: one that was introduced again while dying ends here, too.
        for (const domid of op.becomes === 'running' ? [] : guests) {
          if (['dying', 'gone'].includes(this.#states.get(domid) ?? '')) this.#loseGuest(domid);
        }
        await this.#settle();
    }
    return { heard: this.#collect(), ...answer };
  }

  /** The whole tree below `root`, as dom0 sees it: a line for each node, in the order of DIRECTORY. */
  async tree(root = '/'): Promise<string[]> {
    const lines: string[] = [];
    const visit = async (path: string): Promise<void> => {
      const [list, value, perms] = [
        await this.#list(path),
        await this.#ask(0, types.READ, `${path}\0`),
        await this.#ask(0, types.GET_PERMS, `${path}\0`),
      ];
      const text = (message: Message | undefined) =>
        message ? `${nameOf(message.type)} ${printable(message.payload)}` : 'no answer';
      lines.push(`${path}: ${text(value)} ${text(perms)} ${typeof list === 'string' ? list : `${list.length} children`}`);
      if (typeof list === 'string') return;
      for (const name of list) await visit(path === '/' ? `/${name}` : `${path}/${name}`);
    };
    await visit(root);
    this.#collect();
    return lines;
  }

  // Requests.

  async #request(op: RequestOp): Promise<Omit<Outcome, 'heard'>> {
    const connection = this.#connections.get(op.conn);
    if (!connection) return { reply: '', payload: '' };
    const txId = op.tx === undefined ? 0 : typeof op.tx === 'number' ? (this.#transactions.get(op.tx)?.id ?? 0) : op.tx.unknown;
    if (isUnclear(op)) await this.#ask(op.conn, types.READ, 'none\0');
    this.#nextId += 1;
    const reqId = this.#nextId;
    connection.send(encode(op.type, reqId, txId, op.payload));
    // The question follows at once: oxenstored looks at an empty request only when more bytes arrive.
    await this.#settle([op.conn]);
    const found = connection.arrived.find((message) => message.reqId === reqId && message.type !== types.WATCH_EVENT);
    const reply =
      found === undefined
        ? ''
        : found.type === types.ERROR
          ? found.payload.slice(0, -1)
          : found.type === op.type
            ? 'OK'
            : nameOf(found.type);
    if (found && found.txId !== txId >>> 0) connection.arrived.push({ ...found, payload: `its transaction is ${found.txId}` });
    if (!connection.isOpen) {
      await this.#connect(op.conn);
    } else if (found && reply === 'OK') {
      await this.#note(op, found);
    }
    if (reply === 'EAGAIN' && op.type === types.TRANSACTION_END && typeof op.tx === 'number') this.#transactions.delete(op.tx);
    if (!quiet.has(op.type) || op.tx !== undefined) await this.#settle();
    return { reply, payload: found?.payload ?? '' };
  }

  /** What a request that succeeded means for the connections and transactions. */
  async #note(op: RequestOp, reply: Message): Promise<void> {
    const domid = Number.parseInt(op.payload, 10);
    switch (op.type) {
      case types.TRANSACTION_START:
        if (op.handle !== undefined) this.#transactions.set(op.handle, { conn: op.conn, id: Number(reply.payload.slice(0, -1)) });
        break;
      case types.TRANSACTION_END:
        if (typeof op.tx === 'number') this.#transactions.delete(op.tx);
        break;
      case types.RESET_WATCHES:
        this.#forget(op.conn);
        break;
      case types.RELEASE:
        this.#loseGuest(domid);
        break;
      case types.INTRODUCE:
        await this.#meetGuest(domid);
        break;
      default:
    }
  }

  #forget(conn: number): void {
    for (const [handle, transaction] of this.#transactions) if (transaction.conn === conn) this.#transactions.delete(handle);
  }

  async #connect(conn: number): Promise<void> {
    this.#forget(conn);
    this.#connections.get(conn)?.close();
    this.#connections.set(conn, new Connection(await socketChannel(this.server.socket)));
  }

  /** A guest that was introduced speaks on its ring. One that was there already has lost its watches and transactions. */
  async #meetGuest(domid: number): Promise<void> {
    const conn = this.#speakers.findIndex((speaker, i) => i >= dom0Connections && speaker === domid);
    if (conn < 0) return;
    this.#forget(conn);
    if (this.#connections.has(conn)) return;
    const channel = await this.server.machine?.ring(domid);
    if (channel) this.#connections.set(conn, new Connection(channel));
  }

  #loseGuest(domid: number): void {
    const conn = this.#speakers.findIndex((speaker, i) => i >= dom0Connections && speaker === domid);
    this.#connections.get(conn)?.close();
    this.#connections.delete(conn);
    this.#forget(conn);
  }

  /** The tester's own request. */
  async #ask(conn: number, type: number, payload: string): Promise<Message | undefined> {
    const connection = this.#connections.get(conn);
    if (!connection) return undefined;
    this.#nextOwnId = this.#nextOwnId >= 0xfffffff0 ? ownIds : this.#nextOwnId + 1;
    const answer = connection.reply(this.#nextOwnId);
    connection.send(encode(type, this.#nextOwnId, 0, payload));
    return answer;
  }

  /** Waits until the connections have heard of all that was done before. */
  async #settle(conns: readonly number[] = [...this.#connections.keys()]): Promise<void> {
    await Promise.all(conns.map((conn) => this.#ask(conn, types.GET_DOMAIN_PATH, '0\0')));
  }

  async #list(path: string): Promise<string[] | string> {
    const whole = await this.#ask(0, types.DIRECTORY, `${path}\0`);
    if (whole?.type === types.DIRECTORY) return whole.payload.split('\0').slice(0, -1);
    if (whole?.payload !== 'E2BIG\0') return whole?.payload ?? 'no answer';
    let list = '';
    for (;;) {
      const part = await this.#ask(0, types.DIRECTORY_PART, `${path}\0${list.length}\0`);
      if (part?.type !== types.DIRECTORY_PART) return `DIRECTORY_PART ${part?.payload ?? 'no answer'}`;
      const names = part.payload.slice(part.payload.indexOf('\0') + 1);
      const isLast = names === '\0' || names.endsWith('\0\0');
      list += isLast ? names.slice(0, -1) : names;
      if (isLast) return list.split('\0').slice(0, -1);
    }
  }

  /** Sends pieces on a connection of their own and a READ after them; what came back, and whether it was closed. */
  async #raw(pieces: readonly string[], cut: boolean): Promise<string[]> {
    const connection = new Connection(await socketChannel(this.server.socket));
    for (const piece of pieces) {
      connection.send(Buffer.from(piece, 'latin1'));
      // Each piece is a write of its own.
      await new Promise((resolve) => setImmediate(resolve));
    }
    const lines: string[] = [];
    if (!cut) {
      const answer = connection.reply(ownIds, this.server.name === 'oxenstored' ? 300 : patienceMs);
      connection.send(encode(types.READ, ownIds, 0, '/t\0'));
      const isAnswered = (await answer) !== undefined;
      lines.push(...connection.arrived.map((message) => this.#line(message)));
      lines.push(isAnswered ? 'open' : connection.isOpen ? 'silent' : 'closed');
    }
    connection.close();
    await this.#settle();
    return lines;
  }

  // What arrived.

  #collect(): Map<number, string[]> {
    const heard = new Map<number, string[]>();
    for (const [conn, connection] of this.#connections) {
      if (connection.arrived.length > 0)
        heard.set(
          conn,
          connection.arrived.map((message) => this.#line(message)),
        );
      connection.arrived = [];
    }
    return heard;
  }

  #line({ type, reqId, txId, payload }: Message): string {
    if (type === types.WATCH_EVENT) {
      const oddHeader = reqId === 0 && txId === 0 ? '' : ` of request ${reqId} in ${txId}`;
      return `event${oddHeader} ${payload.split('\0').slice(0, -1).map(printable).join(' ')}`;
    }
    if (type === types.DIRECTORY_PART) {
      const [generation = '', ...rest] = payload.split('\0');
      const renamed = this.#generations.get(generation) ?? `g${this.#generations.size}`;
      this.#generations.set(generation, renamed);
      return `${nameOf(type)} ${renamed} ${printable(rest.join('\0'))}`;
    }
    return `${nameOf(type)} ${printable(payload)}`;
  }
}
