/**
 * The client of `privcmd.sock`: operations as JSON lines, many in flight, each answered by its number.
 *
 * The first line each way says who speaks. A server of another protocol is refused before anything is asked of it.
 */
import { connect, type Socket } from 'node:net';
import { SystemClock } from './clock.js';
import { PRIVCMD_PROTO, PrivcmdError, type PrivcmdOp, type PrivcmdOps, privcmdLineMaxBytes, type Xc } from './privcmd.js';

/** Who speaks: the first line in each direction. */
export interface Hello {
  readonly proto: number;
  readonly version: string;
  readonly pid: number;
}

export interface PrivcmdClient extends Xc {
  /** The dom0 at the other end. */
  readonly server: Hello;
  /** Resolves when the connection has ended, whoever ended it. */
  readonly closed: Promise<void>;
}

/** A dom0 that speaks another protocol; the message says what to do. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';

  constructor(
    readonly mine: Hello,
    readonly theirs: Hello,
  ) {
    super(
      `this is xl ${mine.version} (protocol ${mine.proto}), the running dom0 is ${theirs.version} (protocol ${theirs.proto}, pid ${theirs.pid}); ` +
        `use that xl, or end its dom0 with \`kill ${theirs.pid}\``,
    );
  }
}

/** Something listens there and says nothing: a dom0 that is stopped, or stuck. */
export class NoAnswer extends Error {
  override readonly name = 'NoAnswer';
}

/** One line of the server's. */
export type Reply =
  | { readonly id: number; readonly ok: unknown }
  | { readonly id: number; readonly error: { readonly errno: PrivcmdError['errno']; readonly message: string } };

/** Connects and exchanges the first lines. Rejects with the socket's error when nobody listens. */
export function privcmdClient(path: string, version: string, waitMs = 10_000): Promise<PrivcmdClient> {
  return new Promise((resolve, reject) => {
    const mine: Hello = { proto: PRIVCMD_PROTO, version, pid: process.pid };
    const socket = connect(path);
    const inTime = new SystemClock().after(waitMs, () => {
      socket.destroy(new NoAnswer(`no answer from dom0 at ${path} in ${waitMs / 1000} s`));
    });
    const pending = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
    let greeted = false;
    let lastId = 0;
    let ended: () => void = () => {};
    const closed = new Promise<void>((done) => {
      ended = done;
    });

    const fail = (error: Error) => {
      inTime();
      reject(error);
      for (const request of pending.values()) request.reject(error);
      pending.clear();
      ended();
    };
    const onHello = (line: unknown) => {
      const theirs = parseHello(line);
      if (theirs?.proto !== PRIVCMD_PROTO) {
        socket.destroy(theirs ? new ProtocolError(mine, theirs) : new Error(`what answers at ${path} is no dom0`));
        return;
      }
      inTime();
      greeted = true;
      resolve({ server: theirs, closed, call, close: () => socket.destroy() });
    };
    const onReply = (line: unknown) => {
      const reply = parseReply(line);
      const request = reply && pending.get(reply.id);
      if (!reply || !request) {
        socket.destroy(new Error('dom0 sent an answer that nobody asked for'));
        return;
      }
      pending.delete(reply.id);
      if ('error' in reply) request.reject(new PrivcmdError(reply.error.errno, reply.error.message));
      else request.resolve(reply.ok);
    };
    const call = <Op extends PrivcmdOp>(op: Op, args: PrivcmdOps[Op][0]): Promise<PrivcmdOps[Op][1]> =>
      new Promise((answer, refuse) => {
        if (socket.destroyed) return refuse(new PrivcmdError('EIO', 'the connection to dom0 has ended'));
        lastId += 1;
        pending.set(lastId, { resolve: (value) => answer(value as PrivcmdOps[Op][1]), reject: refuse });
        socket.write(`${JSON.stringify({ id: lastId, op, args })}\n`);
      });

    socket.on('error', fail);
    socket.on('close', () => fail(new PrivcmdError('EIO', 'dom0 ended the connection')));
    readLines(socket, (line) => (greeted ? onReply(line) : onHello(line)));
    socket.write(`${JSON.stringify(mine)}\n`);
  });
}

export function parseHello(line: unknown): Hello | undefined {
  if (!isRecord(line)) return undefined;
  const { proto, version, pid } = line;
  return typeof proto === 'number' && typeof version === 'string' && typeof pid === 'number'
    ? { proto, version, pid }
    : undefined;
}

function parseReply(line: unknown): Reply | undefined {
  if (!isRecord(line) || typeof line['id'] !== 'number') return undefined;
  const { id, ok, error } = line;
  if (!isRecord(error)) return { id, ok: ok ?? null };
  const { errno, message } = error;
  return typeof message === 'string' ? { id, error: { errno: errno as PrivcmdError['errno'], message } } : undefined;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Hands on each line of a socket as the JSON value it is. A line that is too long, or is none, destroys the socket with
 * an error that says so: after it nothing of this peer can be trusted to begin where it seems to.
 */
export function readLines(socket: Socket, onLine: (value: unknown) => void): void {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let parts: Buffer[] = [];
  let held = 0;
  socket.on('data', (chunk: Buffer) => {
    let rest = chunk;
    while (!socket.destroyed) {
      const end = rest.indexOf(0x0a);
      const piece = end < 0 ? rest : rest.subarray(0, end);
      held += piece.length;
      if (held > privcmdLineMaxBytes) {
        socket.destroy(new Error(`a line of more than ${privcmdLineMaxBytes} bytes`));
        return;
      }
      parts.push(piece);
      if (end < 0) return;
      rest = rest.subarray(end + 1);
      const line = parts.length === 1 ? piece : Buffer.concat(parts);
      parts = [];
      held = 0;
      let value: unknown;
      try {
        value = JSON.parse(decoder.decode(line));
      } catch {
        socket.destroy(new Error(`a line that is not JSON: ${JSON.stringify(line.toString('latin1', 0, 60))}`));
        return;
      }
      onLine(value);
    }
  });
}
