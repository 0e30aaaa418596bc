/** How packets travel between a XenStore client and its server: the interface here, sockets and in-process queues behind it. */
import type { XsPacket } from './xs-wire.js';

export interface XsTransport {
  send(packet: XsPacket): void;
  /** Called once, before anything is sent. `closed` comes at most once, with the reason when it was not us. */
  receive(handlers: { readonly packet: (packet: XsPacket) => void; readonly closed: (reason?: Error) => void }): void;
  close(): void;
}
