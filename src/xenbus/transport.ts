/**
 * How packets travel between a XenStore client and its server: the interfaces, and the client's two ways of travelling,
 * a unix socket and a direct link within one process. The server's end of a socket is in server.ts.
 */
import { connect, type Socket } from 'node:net';
import { decode, encode, type XsPacket, XsType } from './xs-wire.js';

/** Who speaks on a connection, by where it came in; for the trace. */
export type Who = 'xl' | 'hotplug' | 'dom0-kernel' | 'domU-kernel' | 'xenconsoled' | 'qemu' | 'monitor' | 'client';

/** The connection to a store is gone, and not by our doing; the message says which and why. */
export class ConnectionEnded extends Error {
  override readonly name = 'ConnectionEnded';
}

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
  /** Whether it can take no packet now. The server keeps them until the peer calls `resume`. Missing: it always can. */
  full?(): boolean;
  /** The server ended the connection, and why. Not called after the peer's own `close`. */
  closed(reason: string): void;
  /** The input queue has room again after `push` said that it was full. */
  drained?(): void;
}

/** The server's end of one connection. */
export interface StoreLink {
  /** Queues a request. False: the queue is at its bound; push no more until `drained`. */
  push(packet: XsPacket): boolean;
  /** The peer, which was `full`, takes packets again. */
  resume(): void;
  /** The peer will push no more: what it has pushed is served, whatever its domain uses. */
  end(): void;
  close(): void;
}

/** A running store that takes connections: `dom0` is one. */
export interface StorePort {
  connect(peer: StorePeer): StoreLink;
}

/** Pieces of a packet that is not whole yet, before they are put together. */
const piecesMax = 16;

/** Takes chunks of any size and gives the packets in them, in order. A peer may send one byte at a time. */
export class PacketReader {
  #rest: Buffer[] = [];
  #have = 0;
  #need = 0;

  /** The packets that `chunk` completes. The reason why no more can follow, if the peer does not speak the protocol. */
  read(chunk: Buffer): { readonly packets: XsPacket[]; readonly bad?: string } {
    const packets: XsPacket[] = [];
    let bytes = chunk;
    if (this.#have > 0) {
      this.#rest.push(chunk);
      this.#have += chunk.length;
      if (this.#have < this.#need) {
        // One byte at a time must not cost a buffer a byte.
        if (this.#rest.length > piecesMax) this.#rest = [Buffer.concat(this.#rest, this.#have)];
        return { packets };
      }
      bytes = Buffer.concat(this.#rest, this.#have);
      this.#rest = [];
      this.#have = 0;
    }
    for (let at = 0; ; ) {
      if (at === bytes.length) return { packets };
      const decoded = decode(bytes, at);
      if (decoded.kind === 'bad') return { packets, bad: decoded.reason };
      if (decoded.kind === 'short') {
        this.#have = bytes.length - at;
        this.#rest = [bytes.subarray(at)];
        this.#need = this.#have + decoded.need;
        return { packets };
      }
      packets.push(decoded.packet);
      at += decoded.size;
    }
  }
}

/** Requests that one write to a socket takes at most; what is beyond that goes into the next one. */
export const writePacketsMax = 1024;

/**
 * Connects to the unix socket of a XenStore server, whosever it is. Rejects with the system's error, or with the reason of
 * `signal` when that aborts first.
 *
 * What is sent in one go, up to the end of the running callback and the promises that it settles, goes out in one write.
 */
export function socketTransport(path: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<XsTransport> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const socket = connect(path);
    const settled = (): void => {
      socket.off('error', failed);
      signal?.removeEventListener('abort', aborted);
    };
    const failed = (error: Error): void => {
      settled();
      reject(error);
    };
    const aborted = (): void => {
      settled();
      socket.destroy();
      reject(signal?.reason);
    };
    socket.once('error', failed);
    signal?.addEventListener('abort', aborted);
    socket.once('connect', () => {
      settled();
      resolve(transportOf(socket, path));
    });
  });
}

function transportOf(socket: Socket, path: string): XsTransport {
  const reader = new PacketReader();
  let closedByUs = false;
  let reason = 'the server closed it';
  let batch: XsPacket[] = [];
  const flush = (): void => {
    const packets = batch;
    batch = [];
    for (let at = 0; at < packets.length; at += writePacketsMax) {
      socket.write(encode(...packets.slice(at, at + writePacketsMax)));
    }
  };
  socket.on('error', (error: NodeJS.ErrnoException) => {
    // That is how a write hears of it.
    if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') reason = error.message;
  });
  return {
    send: (packet) => {
      if (closedByUs) return;
      if (batch.length === 0) process.nextTick(flush);
      batch.push(packet);
    },
    receive: ({ packet, closed }) => {
      socket.on('data', (chunk) => {
        const { packets, bad } = reader.read(chunk);
        for (const each of packets) packet(each);
        if (bad !== undefined) socket.destroy(new Error(`it does not speak the XenStore protocol, ${bad}`));
      });
      socket.on('close', () =>
        closed(closedByUs ? undefined : new ConnectionEnded(`the connection to ${path} ended: ${reason}`)),
      );
    },
    close: () => {
      if (closedByUs) return;
      closedByUs = true;
      flush();
      // A server that does not close its side is none to wait for.
      socket.end(() => socket.unref());
    },
  };
}

/**
 * Connects to a store in the same process. What is sent while the store's queue is full waits here, in order; what the
 * store delivers arrives at once, from the store's loop.
 */
export function linkTransport(port: StorePort, { domid, who }: { readonly domid: number; readonly who: Who }): XsTransport {
  /** What waits for room, from `next` on. */
  let waiting: XsPacket[] = [];
  let next = 0;
  let hasRoom = true;
  let handlers: Parameters<XsTransport['receive']>[0] | undefined;
  let isOpen = true;
  /** Closed by the client: what it has sent is served, and nobody hears of it. */
  let isEnding = false;
  let unanswered = 0;
  const leaveWhenDone = (): void => {
    if (isEnding && unanswered === 0) link.close();
  };
  const drain = (): void => {
    for (let packet = waiting[next]; hasRoom && packet; packet = waiting[next]) {
      next += 1;
      hasRoom = link.push(packet);
    }
    if (next < waiting.length) return;
    waiting = [];
    next = 0;
  };
  const link = port.connect({
    domid,
    who,
    deliver: (packet) => {
      if (packet.type !== XsType.WatchEvent) unanswered -= 1;
      if (isOpen) handlers?.packet(packet);
      else leaveWhenDone();
    },
    drained: () => {
      hasRoom = true;
      drain();
    },
    closed: (reason) => {
      if (isOpen) handlers?.closed(new ConnectionEnded(reason));
      isOpen = false;
      isEnding = false;
    },
  });
  return {
    send: (packet) => {
      if (!isOpen) return;
      unanswered += 1;
      if (hasRoom && waiting.length === 0) {
        hasRoom = link.push(packet);
      } else {
        waiting.push(packet);
      }
    },
    receive: (given) => {
      handlers = given;
    },
    close: () => {
      if (!isOpen) return;
      isOpen = false;
      isEnding = true;
      link.end();
      leaveWhenDone();
      handlers?.closed();
    },
  };
}
