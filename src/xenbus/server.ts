/**
 * The edge of the store: unix sockets outside, `StorePort` inside.
 *
 * Framing, limits and back-pressure, and no meaning: what a request does is the store's business, and what bytes are a
 * packet is xs-wire.ts's. The socket is as xenstored's: a stream, mode 0600, one request after the other.
 */
import { chmod, lstat, unlink } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { sparingly } from './sparing-log.js';
import { PacketReader, type StoreLink, type StorePort, type Who } from './transport.js';
import { encode, XS_HEADER_SIZE, type XsPacket, XsType } from './xs-wire.js';

/** The longest path that a unix socket can have (sun_path, less its NUL). */
export const socketPathMax = 107;
/** Connections that may wait to be accepted. */
export const backlogMax = 512;
/** Connections of one socket at a time; further ones are closed at once. */
export const connectionsMax = 4096;
/** Connections as one guest. */
export const guestConnectionsMax = 64;
/** Bytes that may lie in a socket's buffer before the store keeps what is for it. */
export const socketBufferBytes = 64 * 1024;

const none: readonly XsPacket[] = [];

export interface ListenOptions {
  readonly path: string;
  readonly domid: number;
  readonly who: Who;
  readonly log: (line: string) => void;
  /** Connections at a time; `connectionsMax` unless it is given. */
  readonly connectionsMax?: number;
}

/**
 * Serves `port` on the unix socket `path`; whoever connects there is `who` and speaks for `domid`.
 *
 * A socket file that is already there is replaced: to be its owner is the caller's business. Closing ends every
 * connection and removes the file.
 */
export async function listenStore(port: StorePort, options: ListenOptions): Promise<{ close(): Promise<void> }> {
  const { path, log } = options;
  const logSparingly = sparingly(log);
  const most = options.connectionsMax ?? connectionsMax;
  const length = Buffer.byteLength(path);
  if (length > socketPathMax) {
    throw new Error(
      `${path} is ${length} bytes long, and a socket's path can have ${socketPathMax}: set XL_RUN_DIR to something shorter`,
    );
  }
  await removeSocket(path);
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    if (sockets.size >= most) {
      logSparingly('turned away', `xenstored: ${path}: over ${most} connections, one more is turned away`);
      socket.destroy();
      return;
    }
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    serve(port, socket, options, logSparingly);
  });
  await listening(server, path);
  await chmod(path, 0o600);
  server.on('error', (error) => log(`xenstored: ${path}: ${error.message}`));
  return {
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
}

async function removeSocket(path: string): Promise<void> {
  const present = await lstat(path).catch(() => undefined);
  if (!present) return;
  if (!present.isSocket())
    throw new Error(`${path} is there and is no socket: remove it, or set XL_RUN_DIR to another directory`);
  await unlink(path);
}

function listening(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ path, backlog: backlogMax }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/**
 * One connection. Bytes in become packets for the store, as many as its queue takes; then the socket is not read until
 * the queue has room. Packets out go to the socket until its buffer is full; then the store keeps them.
 */
function serve(
  port: StorePort,
  socket: Socket,
  { path, domid, who }: ListenOptions,
  logSparingly: (kind: string, line: string) => void,
): void {
  const reader = new PacketReader();
  /** Read, but not taken by the store yet. */
  let waiting: readonly XsPacket[] = none;
  let hasRoom = true;
  let isOpen = true;
  /** The peer said that it would send no more, or sent nonsense: what it has asked is answered, then it is closed. */
  let isEnding = false;
  let unanswered = 0;
  /** Delivered in this turn, to go out in one write. */
  let outgoing: XsPacket[] = [];
  let outgoingBytes = 0;
  /** The store was told that no more can be taken, and waits. */
  let isFull = false;
  /** The store has closed it, and who reads gets what was answered before. */
  let isLeaving = false;

  // Never from within the store's turn: what is answered has to be in the journal first.
  const flush = (): void => {
    if (outgoing.length === 0) return;
    const packets = outgoing;
    outgoing = [];
    outgoingBytes = 0;
    if (isOpen || isLeaving) socket.write(encode(...packets));
    if (isLeaving) socket.destroySoon();
    finish();
    resume();
  };
  const resume = (): void => {
    if (!isFull || !isOpen || socket.writableLength > socketBufferBytes) return;
    isFull = false;
    link.resume();
  };

  const finish = (): void => {
    if (isEnding && isOpen && unanswered === 0 && waiting.length === 0 && outgoing.length === 0) shut(() => socket.destroySoon());
  };
  const shut = (how: () => void): void => {
    if (!isOpen) return;
    isOpen = false;
    link.close();
    how();
  };
  const push = (): void => {
    let taken = 0;
    for (const packet of waiting) {
      if (!hasRoom || !isOpen) break;
      taken += 1;
      unanswered += 1;
      hasRoom = link.push(packet);
    }
    waiting = taken === waiting.length ? none : waiting.slice(taken);
    if (waiting.length > 0 || !isOpen) socket.pause();
    else if (socket.isPaused()) socket.resume();
  };

  const link: StoreLink = port.connect({
    domid,
    who,
    full: () => {
      isFull = outgoingBytes + socket.writableLength > socketBufferBytes;
      return isFull;
    },
    deliver: (packet) => {
      if (!isOpen) return;
      if (outgoing.length === 0) process.nextTick(flush);
      outgoing.push(packet);
      outgoingBytes += XS_HEADER_SIZE + packet.payload.length;
      if (packet.type !== XsType.WatchEvent) unanswered -= 1;
    },
    drained: () => {
      hasRoom = true;
      push();
    },
    closed: () => {
      isOpen = false;
      // Nobody waits for who does not read.
      isLeaving = socket.writableLength === 0 && outgoing.length > 0;
      if (!isLeaving) socket.destroy();
    },
  });

  socket.on('data', (chunk) => {
    if (isEnding) return;
    const { packets, bad } = reader.read(chunk);
    waiting = waiting.length === 0 ? packets : [...waiting, ...packets];
    if (bad !== undefined) {
      logSparingly('protocol', `xenstored: ${path}: a connection of ${who} does not speak the protocol: ${bad}`);
      isEnding = true;
    }
    push();
    finish();
  });
  socket.on('drain', resume);
  socket.on('end', () => {
    isEnding = true;
    link.end();
    finish();
  });
  socket.on('error', () => shut(() => socket.destroy()));
  socket.on('close', () => shut(() => undefined));
}
