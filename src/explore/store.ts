/**
 * The real core of the XenStore server, without its queues: a request is served when it is made, and what follows from
 * it lies in the peers' hands at once. Which of two requests comes first is the scheduler's choice already, so nothing
 * is lost but turns; back-pressure is (server and rings are tested for that elsewhere).
 */
import { ownedByDom0 } from '../xenbus/requests.js';
import type { StoreLink, StorePeer, StorePort } from '../xenbus/transport.js';
import { Xenstored, type XenstoredEffect } from '../xenbus/xenstored.js';
import type { XsPacket } from '../xenbus/xs-wire.js';

export class DirectStore implements StorePort {
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
    const close = () => {
      if (this.#peers.delete(conn)) this.#carryOut(this.core.step({ on: 'disconnect', conn }));
    };
    return {
      push: (packet: XsPacket) => {
        if (this.#peers.has(conn)) this.#carryOut(this.core.step({ on: 'request', conn, packet }));
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

  #carryOut(effects: readonly XenstoredEffect[]): void {
    for (const effect of effects) if (effect.do === 'send') this.#peers.get(effect.conn)?.deliver(effect.packet);
  }
}
