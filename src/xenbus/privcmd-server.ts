/**
 * The server of `privcmd.sock`: JSON lines in, one handler an operation, answers by number.
 *
 * What an operation means is the handlers' business. Here a peer is kept to the protocol: its first line, its line
 * length, the types of the arguments, and a bound on what it may have in flight, past which it is no longer read.
 */
import { chmodSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { SystemClock } from './clock.js';
import { guestEvents, PRIVCMD_PROTO, PrivcmdError, type PrivcmdHandlers, type PrivcmdOp, type PrivcmdOps } from './privcmd.js';
import { type Hello, isRecord, parseHello, type Reply, readLines } from './privcmd-client.js';

/** Requests of one connection that are not answered yet. At the bound it is not read until one is. */
export const privcmdInFlightMax = 256;
/** Answers that a peer has not taken yet. Past the bound it is not read either. */
export const privcmdUnsentMaxBytes = 8 * 1024 * 1024;

/** How long a peer has to take its last answers when the server closes. */
const farewellMaxMs = 1_000;

export interface PrivcmdServer {
  /** Connections that are open now. */
  readonly connections: number;
  /** Listens no more and ends every connection once its answers are written. */
  close(): Promise<void>;
}

export interface PrivcmdServerOptions {
  readonly path: string;
  readonly version: string;
  readonly handlers: PrivcmdHandlers;
  readonly log: (line: string) => void;
  /** Called when a connection was opened or closed. */
  readonly changed?: () => void;
}

/** Listens at `path`, for this user alone. */
export function servePrivcmd(options: PrivcmdServerOptions): Promise<PrivcmdServer> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    options.changed?.();
    socket.on('close', () => {
      sockets.delete(socket);
      options.changed?.();
    });
    serve(socket, options);
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.path, () => {
      server.off('error', reject);
      server.on('error', (error) => options.log(`privcmd: ${error.message}`));
      chmodSync(options.path, 0o600);
      resolve({
        get connections() {
          return sockets.size;
        },
        close: () => closeAll(server, sockets),
      });
    });
  });
}

function closeAll(server: Server, sockets: ReadonlySet<Socket>): Promise<void> {
  return new Promise((resolve) => {
    const cancel = new SystemClock().after(farewellMaxMs, () => {
      for (const socket of sockets) socket.destroy();
    });
    server.close(() => {
      cancel();
      resolve();
    });
    for (const socket of sockets) socket.destroySoon();
  });
}

function serve(socket: Socket, { handlers, version, log }: PrivcmdServerOptions): void {
  const hello: Hello = { proto: PRIVCMD_PROTO, version, pid: process.pid };
  let peer: Hello | undefined;
  let inFlight = 0;

  const send = (line: Hello | Reply) => {
    if (!socket.destroyed) socket.write(`${JSON.stringify(line)}\n`);
  };
  const flow = () => {
    const full = inFlight >= privcmdInFlightMax || socket.writableLength > privcmdUnsentMaxBytes;
    if (full && !socket.isPaused()) socket.pause();
    if (!full && socket.isPaused()) socket.resume();
  };
  /** Turns that this peer may have. They are given back when it is gone. */
  const turns = new Set<number>();
  const giveBack = () => {
    for (const turn of turns) void handlers['dom0.turn_over']({ turn });
    turns.clear();
  };
  const answer = async (id: number, op: string, args: unknown) => {
    inFlight += 1;
    flow();
    try {
      const ok = (await run(handlers, op, args)) ?? null;
      if (isRecord(ok) && typeof ok['turn'] === 'number') turns.add(ok['turn']);
      if (op === 'dom0.turn_over' && isRecord(args)) turns.delete(Number(args['turn']));
      if (socket.destroyed) giveBack();
      send({ id, ok });
    } catch (error) {
      if (!(error instanceof PrivcmdError)) log(`privcmd: ${op} failed: ${error instanceof Error ? error.stack : String(error)}`);
      const { errno, message } = error instanceof PrivcmdError ? error : { errno: 'EIO' as const, message: String(error) };
      send({ id, error: { errno, message } });
    }
    inFlight -= 1;
    flow();
  };

  socket.on('drain', flow);
  socket.on('close', giveBack);
  socket.on('error', (error: NodeJS.ErrnoException) => {
    // A peer that goes away while we write is no news.
    if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') log(`privcmd: closed a connection${of(peer)}: ${error.message}`);
  });
  readLines(socket, (line) => {
    if (!peer) {
      peer = parseHello(line);
      if (!peer) socket.destroy(new Error('its first line does not say who it is'));
      // The peer learns from our first line which dom0 this is, and says what to do.
      else if (peer.proto !== PRIVCMD_PROTO) socket.destroySoon();
      return;
    }
    if (!isRecord(line) || typeof line['id'] !== 'number' || typeof line['op'] !== 'string') {
      socket.destroy(new Error(`a line that is no request: ${JSON.stringify(line).slice(0, 60)}`));
      return;
    }
    void answer(line['id'], line['op'], line['args'] ?? {});
  });
  send(hello);
}

function of(peer: Hello | undefined): string {
  return peer ? ` of pid ${peer.pid}` : '';
}

async function run(handlers: PrivcmdHandlers, op: string, args: unknown): Promise<unknown> {
  if (!isOp(op)) throw new PrivcmdError('ENOSYS', `no operation ${op}`);
  const problem = isRecord(args) ? mismatch(args, shapes[op]) : 'arguments are an object';
  if (problem !== undefined) throw new PrivcmdError('EINVAL', `${op}: ${problem}`);
  // The shape has been checked; what connects an operation's name to its arguments is beyond the type system here.
  const handler = handlers[op] as (args: unknown) => unknown;
  return handler(args);
}

/** A list is the words that are allowed. */
type Kind =
  | ('number' | 'string' | 'boolean' | 'record of strings' | 'saved guest')
  | ('number?' | 'numbers?' | 'string?' | 'string|null' | 'boolean?')
  | readonly string[];
/** The types of an operation's arguments, as far as JSON knows types. */
type Shape<Op extends PrivcmdOp> = { readonly [Name in keyof Required<PrivcmdOps[Op][0]>]: Kind };

const shapes: { readonly [Op in PrivcmdOp]: Shape<Op> } = {
  'xc.domain_create': { uuid: 'string', domid: 'number?', maxVcpus: 'number', poolId: 'number?' },
  'xc.domain_getinfo': { domid: 'number' },
  'xc.domain_getinfolist': { first: 'number?' },
  'xc.domain_pause': { domid: 'number', toDestroy: 'boolean?' },
  'xc.domain_unpause': { domid: 'number' },
  'xc.domain_destroy': { domid: 'number' },
  'xc.domain_setmaxmem': { domid: 'number', maxKb: 'number' },
  'xc.evtchn_alloc_unbound': { domid: 'number', remote: 'number' },
  'xc.dom_build': { domid: 'number', memoryKb: 'number', kernel: 'string', ramdisk: 'string|null', cmdline: 'string' },
  'xc.domain_resume': { domid: 'number' },
  'xc.dom_save': { domid: 'number' },
  'xc.dom_restore': { domid: 'number', guest: 'saved guest' },
  'xc.physinfo': {},
  'xc.vcpu_getinfo': { domid: 'number', vcpu: 'number' },
  'xc.vcpu_setaffinity': { domid: 'number', vcpu: 'number', hard: 'numbers?', soft: 'numbers?' },
  'xc.domain_node_getaffinity': { domid: 'number' },
  'xc.cpupool_getinfo': { poolId: 'number' },
  'xc.cpupool_freeinfo': {},
  'xc.cpupool_create': { sched: 'string' },
  'xc.cpupool_destroy': { poolId: 'number' },
  'xc.cpupool_addcpu': { poolId: 'number', cpu: 'number' },
  'xc.cpupool_removecpu': { poolId: 'number', cpu: 'number' },
  'xc.cpupool_movedomain': { poolId: 'number', domid: 'number' },
  'xc.sched_domain_get': { domid: 'number', sched: ['credit', 'credit2'] },
  'xc.sched_domain_set': { domid: 'number', sched: ['credit', 'credit2'], weight: 'number', cap: 'number' },
  'xc.sched_rtds_vcpu_set': { domid: 'number' },
  'xc.sched_params_get': { poolId: 'number', sched: ['credit', 'credit2'] },
  'xc.sched_params_set': {
    ...{ poolId: 'number', sched: ['credit', 'credit2'] },
    ...{ tsliceMs: 'number', ratelimitUs: 'number', migrationDelayUs: 'number' },
  },
  'xc.domain_send_trigger': { domid: 'number', trigger: ['power', 'sleep', 'nmi', 'init', 'reset'], vcpu: 'number' },
  'xc.send_debug_keys': { keys: 'string' },
  'xc.readconsolering': { index: 'number', clear: 'boolean' },
  'xc.hypfs_write': { path: 'string', value: 'string' },
  'dom0.status': {},
  'dom0.stop': {},
  'dom0.dmesg': { clear: 'boolean', from: 'number?', waitMs: 'number?' },
  'dom0.host': {},
  'dom0.machine': {},
  'dom0.backends': {},
  'dom0.census': {},
  'dom0.mtwatch': { from: 'number?' },
  'dom0.console': { domid: 'number', tty: 'string', input: 'string?', waitMs: 'number?' },
  'dom0.hold': { device: 'string', mode: ['inflight', 'io', 'grants', 'connect', 'bio'] },
  'dom0.thread': { name: 'string' },
  'dom0.flush': { device: 'string?' },
  'dom0.holds': {},
  'dom0.guest': { domid: 'number' },
  'dom0.guest_event': { domid: 'number', event: guestEvents },
  'dom0.monitor': { domid: 'number', name: 'string', verbosity: 'number', actions: 'record of strings' },
  'dom0.sync': {},
  'dom0.turn': {},
  'dom0.turn_over': { turn: 'number' },
  'dom0.block_attach': {
    path: 'string',
    as: ['device', 'loop'],
    sectors: 'number',
    major: 'number?',
    minor: 'number?',
    owner: 'string?',
  },
  'dom0.block_detach': { node: 'string?', owner: 'string?' },
  'dom0.spawn_qemu': { domid: 'number', vncDisplay: 'number?', vncUnused: 'boolean' },
  'dom0.kill_qemu': { pid: 'number?', domid: 'number?' },
  'dom0.rename_vif': { vif: 'string', name: 'string', domid: 'number?' },
  'dom0.bridge': { bridge: 'string', vif: 'string', add: 'boolean', domid: 'number?' },
};

/** A saved guest comes out of a file, and whoever gives it may have read another one. */
function isSavedGuest(value: unknown): boolean {
  if (!isRecord(value)) return false;
  const { cmdline, devices } = value;
  const numbers = ['memoryKb', 'maxKb', 'maxVcpus', 'onlineVcpus', 'cpuTime', 'uptimeMs'].map((name) => value[name]);
  if (!numbers.every((each) => typeof each === 'number' && each >= 0) || typeof cmdline !== 'string') return false;
  return Array.isArray(devices) && devices.every((each) => typeof each === 'string' && /^device\/\w{1,16}\/\d{1,9}$/.test(each));
}

function isOp(op: string): op is PrivcmdOp {
  return Object.hasOwn(shapes, op);
}

function mismatch(args: Readonly<Record<string, unknown>>, shape: Readonly<Record<string, Kind>>): string | undefined {
  for (const [name, kind] of Object.entries(shape)) {
    if (!isOfKind(args[name], kind)) return `${name} is not ${typeof kind === 'string' ? `a ${kind}` : kind.join(' or ')}`;
  }
  return undefined;
}

function isOfKind(value: unknown, kind: Kind): boolean {
  if (kind === 'number?') return value === undefined || typeof value === 'number';
  if (kind === 'numbers?') {
    return value === undefined || (Array.isArray(value) && value.every((each) => typeof each === 'number'));
  }
  if (kind === 'boolean?') return value === undefined || typeof value === 'boolean';
  if (kind === 'string?') return value === undefined || typeof value === 'string';
  if (kind === 'string|null') return value === null || typeof value === 'string';
  if (kind === 'record of strings') return isRecord(value) && Object.values(value).every((each) => typeof each === 'string');
  if (kind === 'saved guest') return isSavedGuest(value);
  if (typeof kind !== 'string') return typeof value === 'string' && kind.includes(value);
  return typeof value === kind;
}
