/**
 * The real core of the XenStore server, without its queues: a request is served when it is made, and what follows from
 * it lies in the peers' hands at once. Which of two requests comes first is the scheduler's choice already, so nothing
 * is lost but turns; back-pressure is (server and rings are tested for that elsewhere).
 */
import { ownedByDom0 } from '../xenbus/requests.js';
import type { StoreLink, StorePeer, StorePort } from '../xenbus/transport.js';
import { Xenstored, type XenstoredEffect } from '../xenbus/xenstored.js';
import { joinStrings, type XsPacket, XsType } from '../xenbus/xs-wire.js';

/** A state that dom0's kernel has written, now that it is in the store; `before` is what was there. */
export interface StateWritten {
  readonly path: string;
  readonly before: string | undefined;
  readonly after: string;
}

const dom0Home = '/local/domain/0/';
const stateEnd = '/state\0';
const committing = joinStrings('T');

export class DirectStore implements StorePort {
  /** Told of each state that dom0's kernel writes. */
  onState: (written: StateWritten) => void = () => {};
  readonly core: Xenstored;
  readonly #peers = new Map<number, StorePeer>();
  #nextConn = 1;

  constructor(domain: (domid: number) => { readonly dying: boolean; readonly shutdown: boolean } | undefined) {
    this.core = new Xenstored({ domain });
  }

  connect(peer: StorePeer): StoreLink {
    const conn = this.#nextConn++;
    this.#peers.set(conn, peer);
    this.#carryOut(this.core.step({ on: 'connect', conn, domid: peer.domid }));
    const kernel = peer.who === 'dom0-kernel' ? new Map<number, XsPacket[]>() : undefined;
    const close = () => {
      if (this.#peers.delete(conn)) this.#carryOut(this.core.step({ on: 'disconnect', conn }));
    };
    return {
      push: (packet: XsPacket) => {
        if (!this.#peers.has(conn)) return true;
        const states = kernel ? statesOf(kernel, packet) : none;
        const before = states.map(({ path }) => this.peek(path));
        const effects = this.core.step({ on: 'request', conn, packet });
        const answered = ({ type }: XsPacket) => type === packet.type;
        if (
          states.length > 0 &&
          effects.some((effect) => effect.do === 'send' && effect.conn === conn && answered(effect.packet))
        ) {
          for (const [at, state] of states.entries()) this.onState({ ...state, before: before[at] });
        }
        this.#carryOut(effects);
        return true;
      },
      resume: () => {},
      end: close,
      close,
    };
  }

  /** The value of a node; undefined when it is missing. Looked at from outside, by nobody's connection. */
  peek(path: string): string | undefined {
    return this.core.store.get(path)?.value;
  }

  /** Puts a node there before anybody looks. Its parent is there. */
  seed(path: string, value: string): void {
    this.core.store.put(path, value, ownedByDom0);
  }

  /** The names of a node's children. */
  names(path: string): string[] {
    return this.core.store.get(path) ? this.core.store.names(path) : [];
  }

  /** How many back ends there are for a domain, wherever they are served. */
  backendsOf(domid: number): number {
    const homes = this.names('/local/domain').map((server) => `/local/domain/${server}/backend`);
    const dirs = homes.flatMap((home) => this.names(home).map((type) => `${home}/${type}/${domid}`));
    return dirs.reduce((count, dir) => count + this.names(dir).length, 0);
  }

  #carryOut(effects: readonly XenstoredEffect[]): void {
    for (const effect of effects) if (effect.do === 'send') this.#peers.get(effect.conn)?.deliver(effect.packet);
  }
}

const none: readonly never[] = [];

/** The states that come into the store by this request of the kernel: its own, or those of the transaction that it ends. */
function statesOf(open: Map<number, XsPacket[]>, packet: XsPacket): readonly Omit<StateWritten, 'before'>[] {
  const { type, txId, payload } = packet;
  if (type === XsType.Write && payload.includes(stateEnd)) {
    if (txId === 0) return [stateOf(packet)];
    open.set(txId, [...(open.get(txId) ?? []), packet]);
  } else if (type === XsType.TransactionEnd) {
    const written = open.get(txId);
    if (!written) return none;
    open.delete(txId);
    if (payload === committing) return written.map(stateOf);
  }
  return none;
}

function stateOf({ payload }: XsPacket): Omit<StateWritten, 'before'> {
  const end = payload.indexOf('\0');
  const path = payload.slice(0, end);
  return { path: path.startsWith('/') ? path : dom0Home + path, after: payload.slice(end + 1) };
}
