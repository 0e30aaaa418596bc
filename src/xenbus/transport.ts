/** How packets travel between a XenStore client and its server: the interfaces; sockets and in-process queues are behind them. */
import type { XsPacket } from './xs-wire.js';

/** Who speaks on a connection, by where it came in; for the trace. */
export type Who = 'xl' | 'hotplug' | 'dom0-kernel' | 'domU-kernel' | 'xenconsoled' | 'monitor' | 'client';

/** The client's end. */
export interface XsTransport {
  send(packet: XsPacket): void;
  /** Called once, before anything is sent. `closed` comes at most once, with the reason when it was not us. */
  receive(handlers: { readonly packet: (packet: XsPacket) => void; readonly closed: (reason?: Error) => void }): void;
  close(): void;
}

/** What a server must know of a peer that connects, and how it reaches it. */
export interface StorePeer {
  readonly domid: number;
  readonly who: Who;
  /** A reply or an event for the peer, in order. */
  deliver(packet: XsPacket): void;
  /** The server ended the connection, and why. Not called after the peer's own `close`. */
  closed(reason: string): void;
  /** The input queue has room again after `push` said that it was full. */
  drained?(): void;
}

/** The server's end of one connection. */
export interface StoreLink {
  /** Queues a request. False: the queue is at its bound; push no more until `drained`. */
  push(packet: XsPacket): boolean;
  close(): void;
}

/** A running store that takes connections: `dom0` is one. */
export interface StorePort {
  connect(peer: StorePeer): StoreLink;
}
