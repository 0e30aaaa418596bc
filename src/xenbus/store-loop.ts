/**
 * The XenStore server as its peers see it: connections with queues, served in turn, one request each.
 *
 * What a request does is the core's business (xenstored.ts), and where packets come from is the peer's: a socket, the
 * kernel, a client in the same process. Nothing happens by itself in here: whoever composes a store calls `serveOne`.
 * That one request is served a turn is C xenstored's rule, and so is that the queue of what goes out is where an event
 * is found to be the same as one still waiting.
 */
import { sparingly } from './sparing-log.js';
import type { Store } from './store.js';
import type { StoreLink, StorePeer, StorePort, Who } from './transport.js';
import { Xenstored, type XenstoredEffect, type XenstoredEvent, type XenstoredOptions } from './xenstored.js';
import { XS_HEADER_SIZE, type XsPacket, XsType } from './xs-wire.js';

/** Requests that one connection may have waiting; at the bound `push` asks it to stop. */
export const inputQueueMax = 64;
/** Bytes that a peer may leave undelivered before its requests have to wait. */
export const outputHoldBytes = 64 * 1024;
/** Bytes that a peer may leave undelivered before it is dropped. Events of others come whether it reads or not. */
export const outputDropBytes = 16 * 1024 * 1024;
/** Bytes that all peers together may leave undelivered before the one with the most of them is dropped. */
export const outputTotalBytes = 256 * 1024 * 1024;

/** Told in the server's order of every request with its reply, and of every event, which has none. */
export type Traced = (conn: number, who: Who, domid: number, packet: XsPacket, reply: XsPacket | undefined) => void;

export interface StoreLoopOptions extends XenstoredOptions {
  /** There is something to serve. Called when there was nothing; not again until `serveOne` has said false. */
  readonly wake: () => void;
  readonly log: (line: string) => void;
  readonly traced?: Traced;
  /** A domain was introduced: the moment to connect its ring. Called from the loop, ahead of `@introduceDomain`. */
  readonly introduced?: (domid: number, mfn: number, port: number) => void;
  readonly released?: (domid: number) => void;
  /** The store has changed, and is whole: after each request, VIRQ or end of a connection that changed anything. */
  readonly committed?: (store: Store) => void;
  /** `outputTotalBytes`, unless it is given. */
  readonly outputTotalBytes?: number;
}

/** What a domain has on its way, over all of its connections. */
interface Account {
  readonly domid: number;
  /** Requests that are not done with. */
  outstanding: number;
  /** Bytes that are on their way to it. */
  unread: number;
  /** Its connections whose requests wait until it uses less. */
  readonly waiting: Set<Served>;
}

/** A request that is not done with until its reply and its events are delivered. */
interface Outstanding {
  readonly of: Account;
  left: number;
}

interface Outgoing {
  readonly to: Served;
  readonly packet: XsPacket;
  /** Two events of the same key are the same event; undefined for replies and special events. */
  readonly key: string | undefined;
  readonly cause: Outstanding | undefined;
}

/** First in, first out: a ring that grows when it is full, so that what comes and goes at once costs no memory. */
class Queue<T> {
  #ring: (T | undefined)[] = [undefined, undefined, undefined, undefined];
  #head = 0;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  get first(): T | undefined {
    return this.#ring[this.#head];
  }

  push(item: T): void {
    if (this.#length === this.#ring.length) {
      const straight = [...this.#ring.slice(this.#head), ...this.#ring.slice(0, this.#head)];
      this.#ring = [...straight, ...straight.map(() => undefined)];
      this.#head = 0;
    }
    this.#ring[(this.#head + this.#length) % this.#ring.length] = item;
    this.#length += 1;
  }

  shift(): T | undefined {
    const item = this.#ring[this.#head];
    if (this.#length === 0) return undefined;
    this.#ring[this.#head] = undefined;
    this.#head = (this.#head + 1) % this.#ring.length;
    this.#length -= 1;
    return item;
  }
}

/** A connection as the loop sees it. */
interface Served {
  readonly id: number;
  readonly peer: StorePeer;
  readonly input: Queue<XsPacket>;
  /** What the peer did not take yet, because it is full. */
  readonly output: Queue<Outgoing>;
  outputBytes: number;
  /** The events on their way to it. */
  readonly queued: Set<string>;
  readonly account: Account;
  /** Whether it is in the queue of those whose turn comes. */
  ready: boolean;
  /** It was told to push no more. */
  stopped: boolean;
  /** It will push no more. */
  ending: boolean;
  open: boolean;
}

/**
 * A store that takes connections and serves them in turn, one request each.
 *
 *   const loop = new StoreLoop({ domain, wake: () => setImmediate(turn), log });
 *   const turn = () => { while (loop.serveOne()) if (enough()) return setImmediate(turn); };
 *
 * - `connect(peer)` connects at once and returns the link that the peer pushes requests into.
 * - `serveOne()` serves one request of the connection whose turn it is, or one VIRQ, delivers all that came of it, and
 *   says whether it did anything. It is never called from within itself; a peer may push, close, connect and resume
 *   while it is being delivered to.
 * - `virq(domid)` queues VIRQ_DOM_EXC: the hypervisor calls it when a domain shuts down or ends.
 *
 * Replies and events reach a peer in order. To a peer that is `full` they wait here; past `outputHoldBytes` its
 * requests wait too, past `outputDropBytes` it is dropped. An event that is the same as one still waiting for the same
 * peer is left out, as in C xenstored, except for the special ones; so is one that would take a guest past its memory.
 */
export class StoreLoop implements StorePort {
  readonly core: Xenstored;
  readonly #options: StoreLoopOptions;
  readonly #served = new Map<number, Served>();
  /** The connections with a request to serve, in the order of their turns. */
  readonly #ready = new Queue<Served>();
  readonly #accounts = new Map<number, Account>();
  /** Those with connections that wait until their domain uses less. */
  readonly #waiting = new Set<Account>();
  /** Bytes that all peers together have left undelivered. */
  #outputTotal = 0;
  readonly #outputTotalMax: number;
  readonly #logSparingly: (kind: string, line: string) => void;
  readonly #effects = new Queue<Outgoing | Exclude<XenstoredEffect, { do: 'send' }>>();
  /** Domains that VIRQ_DOM_EXC was raised for. */
  #changed = new Set<number>();
  #nextConn = 1;
  #isAwake = false;
  #isDelivering = false;

  constructor(options: StoreLoopOptions) {
    this.#options = options;
    this.#logSparingly = sparingly(options.log);
    this.#outputTotalMax = options.outputTotalBytes ?? outputTotalBytes;
    this.core = new Xenstored({ ...options, outstanding: (domid) => this.#accountOf(domid).outstanding });
    // What has become of the domains of the life before nobody has told yet.
    for (const { domid } of options.recovered ? this.core.introducedGuests() : []) this.virq(domid);
  }

  get connections(): number {
    return this.#served.size;
  }

  /** What a node says, without a request: for whoever shows the store, not for whoever takes part in it. */
  peek(path: string): string | undefined {
    return this.core.store.get(path)?.value;
  }

  connect(peer: StorePeer): StoreLink {
    const served: Served = {
      id: this.#nextConn++,
      peer,
      input: new Queue(),
      output: new Queue(),
      outputBytes: 0,
      queued: new Set(),
      account: this.#accountOf(peer.domid),
      ready: false,
      stopped: false,
      ending: false,
      open: true,
    };
    this.#served.set(served.id, served);
    this.#take(this.#step({ on: 'connect', conn: served.id, domid: peer.domid }));
    this.#deliver();
    return {
      push: (packet) => this.#push(served, packet),
      resume: () => this.#resume(served),
      end: () => this.#end(served),
      close: () => this.#close(served),
    };
  }

  /** The account of a domain, which outlives its connections and ends with it. */
  #accountOf(domid: number): Account {
    const known = this.#accounts.get(domid);
    if (known) return known;
    const account: Account = { domid, outstanding: 0, unread: 0, waiting: new Set() };
    this.#accounts.set(domid, account);
    return account;
  }

  virq(domid: number): void {
    this.#changed.add(domid);
    this.#wake();
  }

  serveOne(): boolean {
    if (this.#isDelivering) throw new Error('a peer served the store while the store was delivering to it');
    if (this.#changed.size > 0) {
      const domids = this.#changed;
      this.#changed = new Set();
      this.#take(this.#step({ on: 'virq', domids }));
    } else {
      const served = this.#nextReady();
      const packet = served?.input.shift();
      if (!served || !packet) {
        this.#isAwake = false;
        return false;
      }
      this.#take(this.#step({ on: 'request', conn: served.id, packet }), served, packet);
      if (served.input.length > 0) this.#queue(served);
      if (served.stopped && served.open && served.input.length <= inputQueueMax / 2) {
        served.stopped = false;
        served.peer.drained?.();
      }
    }
    this.#deliver();
    this.#reconsider();
    return true;
  }

  #push(served: Served, packet: XsPacket): boolean {
    if (!served.open) return false;
    if (served.input.length >= inputQueueMax) throw new Error(`connection ${served.id} pushes into a full queue`);
    served.input.push(packet);
    this.#queue(served);
    served.stopped = served.input.length >= inputQueueMax;
    return !served.stopped;
  }

  /** Puts a connection with requests where it belongs: among those whose turn comes, or those who wait. */
  #queue(served: Served): void {
    if (served.ready || !this.#isAdmitted(served)) return;
    this.#ready.push(served);
    served.ready = true;
    this.#wake();
  }

  /** Whether a connection may be served now. If not, it comes back when its peer has read, or its domain uses less. */
  #isAdmitted(served: Served): boolean {
    const { account } = served;
    if (served.outputBytes > outputHoldBytes) return false;
    // What is left of an ending connection is little, and may be what its domain waits for.
    if (served.ending || !this.#isOver(account)) return true;
    account.waiting.add(served);
    this.#waiting.add(account);
    return false;
  }

  #isOver({ domid, outstanding }: Account): boolean {
    return domid !== 0 && (outstanding >= this.core.quotas.limits.outstanding || this.core.isStalled(domid));
  }

  /** Lets those go on whose domain uses less by now. */
  #reconsider(): void {
    if (this.#waiting.size === 0) return;
    for (const account of this.#waiting) {
      if (this.#isOver(account)) continue;
      this.#waiting.delete(account);
      const waiting = [...account.waiting];
      account.waiting.clear();
      for (const served of waiting) this.#queue(served);
    }
  }

  #nextReady(): Served | undefined {
    for (let served = this.#ready.shift(); served; served = this.#ready.shift()) {
      served.ready = false;
      if (served.open && this.#isAdmitted(served)) return served;
    }
    return undefined;
  }

  #wake(): void {
    if (this.#isAwake) return;
    this.#isAwake = true;
    this.#options.wake();
  }

  #end(served: Served): void {
    served.ending = true;
    if (served.account.waiting.delete(served)) this.#queue(served);
  }

  #close(served: Served): void {
    if (!served.open) return;
    this.#drop(served);
    this.#take(this.#step({ on: 'disconnect', conn: served.id }));
    this.#deliver();
    this.#reconsider();
  }

  /** Forgets a connection and whatever is on its way to or from it. */
  #drop(served: Served): void {
    served.open = false;
    this.#served.delete(served.id);
    served.account.waiting.delete(served);
    this.#outputTotal -= served.outputBytes;
    while (served.input.shift());
    for (let next = served.output.shift(); next; next = served.output.shift()) this.#settle(next);
  }

  /** One step of the core; whoever watches over the store looks at what it is afterwards. */
  #step(event: XenstoredEvent): XenstoredEffect[] {
    const { committed } = this.#options;
    const before = this.core.store.generation;
    const effects = this.core.step(event);
    if (committed && this.core.store.generation !== before) committed(this.core.store);
    return effects;
  }

  /** Queues the effects of a step, and traces them: the request with its reply first, then the events that it caused. */
  #take(effects: readonly XenstoredEffect[], served?: Served, request?: XsPacket): void {
    const { traced } = this.#options;
    const isCounted = served !== undefined && served.peer.domid !== 0;
    const cause: Outstanding | undefined = isCounted ? { of: served.account, left: 1 } : undefined;
    if (cause) cause.of.outstanding += 1;
    const events: Outgoing[] | undefined = traced && [];
    for (const effect of effects) {
      if (effect.do !== 'send') {
        this.#effects.push(effect);
        continue;
      }
      const to = this.#served.get(effect.conn);
      if (!to) continue;
      const { packet } = effect;
      const isEvent = packet.type === XsType.WatchEvent;
      if (isEvent && this.#isOverMemory(to, packet)) continue;
      const key = isEvent && !packet.payload.startsWith('@') ? packet.payload : undefined;
      if (key !== undefined) {
        if (to.queued.has(key)) continue;
        to.queued.add(key);
      }
      if (cause) cause.left += 1;
      to.account.unread += XS_HEADER_SIZE + packet.payload.length;
      const outgoing: Outgoing = { to, packet, key, cause };
      this.#effects.push(outgoing);
      if (isEvent) events?.push(outgoing);
      else if (request) traced?.(to.id, to.peer.who, to.peer.domid, request, packet);
    }
    for (const { to, packet } of events ?? []) traced?.(to.id, to.peer.who, to.peer.domid, packet, undefined);
    if (cause) this.#release(cause);
  }

  /** Whether an event would take a guest that does not read past its memory: then it is left out, and the log says so. */
  #isOverMemory({ account, peer }: Served, packet: XsPacket): boolean {
    if (peer.domid === 0 || account.unread === 0) return false;
    const used = this.core.memoryOf(peer.domid) + account.unread + XS_HEADER_SIZE + packet.payload.length;
    if (used < this.core.quotas.limits.memory) return false;
    this.core.quotas.say('unread', peer.domid, 'events that it does not read are left out');
    return true;
  }

  /** Carries the queued effects out, in order. What a peer does meanwhile only queues more. */
  #deliver(): void {
    if (this.#isDelivering) return;
    this.#isDelivering = true;
    try {
      for (let effect = this.#effects.shift(); effect; effect = this.#effects.shift()) {
        if ('to' in effect) this.#hand(effect);
        else if (effect.do === 'log') this.#options.log(effect.line);
        else if (effect.do === 'introduced') this.#options.introduced?.(effect.domid, effect.mfn, effect.port);
        else if (effect.do === 'released') this.#released(effect.domid);
        else this.#closeFor(this.#served.get(effect.conn), effect.reason);
      }
    } finally {
      this.#isDelivering = false;
    }
  }

  #released(domid: number): void {
    this.#accounts.delete(domid);
    this.#options.released?.(domid);
  }

  #hand(outgoing: Outgoing): void {
    const { to, packet } = outgoing;
    if (!to.open) {
      this.#settle(outgoing);
    } else if (to.output.length === 0 && !to.peer.full?.()) {
      this.#settle(outgoing);
      to.peer.deliver(packet);
    } else {
      to.output.push(outgoing);
      to.outputBytes += XS_HEADER_SIZE + packet.payload.length;
      this.#outputTotal += XS_HEADER_SIZE + packet.payload.length;
      if (to.outputBytes > outputDropBytes) this.#disconnect(to, `it left over ${outputDropBytes} bytes unread`);
      else if (this.#outputTotal > this.#outputTotalMax) this.#dropGreediest();
    }
  }

  #resume(served: Served): void {
    let next = served.output.first;
    while (next && served.open && !served.peer.full?.()) {
      served.output.shift();
      served.outputBytes -= XS_HEADER_SIZE + next.packet.payload.length;
      this.#outputTotal -= XS_HEADER_SIZE + next.packet.payload.length;
      this.#settle(next);
      served.peer.deliver(next.packet);
      next = served.output.first;
    }
    if (served.open && served.input.length > 0) this.#queue(served);
  }

  /** A packet has left: it is no longer the twin of later events, and its request may be done with. */
  #settle({ to, packet, key, cause }: Outgoing): void {
    to.account.unread -= XS_HEADER_SIZE + packet.payload.length;
    if (key !== undefined) to.queued.delete(key);
    if (cause) this.#release(cause);
  }

  #release(cause: Outstanding): void {
    cause.left -= 1;
    if (cause.left > 0) return;
    cause.of.outstanding -= 1;
    if (cause.of.waiting.size > 0) this.#reconsider();
  }

  #dropGreediest(): void {
    let greediest: Served | undefined;
    for (const served of this.#served.values()) {
      if (served.outputBytes > (greediest?.outputBytes ?? 0)) greediest = served;
    }
    if (greediest) this.#disconnect(greediest, `of over ${this.#outputTotalMax} bytes unread by all it left the most`);
  }

  /** Drops a peer that does not keep to the rules. */
  #disconnect(served: Served, reason: string): void {
    const line = `xenstored: connection ${served.id} of ${served.peer.who} (domain ${served.peer.domid}) is dropped: ${reason}`;
    this.#logSparingly(`dropped ${served.peer.domid}`, line);
    this.#take(this.#step({ on: 'disconnect', conn: served.id }));
    this.#closeFor(served, reason);
  }

  #closeFor(served: Served | undefined, reason: string): void {
    if (!served?.open) return;
    this.#drop(served);
    served.peer.closed(reason);
  }
}
