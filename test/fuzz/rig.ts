/**
 * The store under fuzz: a `StoreLoop` with connections as server.ts has them, and beside it a small model of what the
 * store must hold, kept from requests and replies alone.
 *
 * An `Action` is plain data and is carried out on whatever is there (or does nothing), so a run is a list of actions,
 * and so is any part of it. Where the actions come from is inputs.ts; what must hold between them is laws.ts; what must
 * hold at every packet is in here. No clock, no chance, no socket.
 */
import { canonical, isWithin } from '../../src/xenbus/paths.js';
import { atoi } from '../../src/xenbus/requests.js';
import { StoreLoop } from '../../src/xenbus/store-loop.js';
import { PacketReader, type StoreLink } from '../../src/xenbus/transport.js';
import {
  joinStrings,
  splitStrings,
  terminatedStrings,
  typeName,
  XENSTORE_PAYLOAD_MAX,
  XS_HEADER_SIZE,
  type XsPacket,
  XsType,
} from '../../src/xenbus/xs-wire.js';

/** Domids that come and go. */
export const guestDomids = [1, 2, 3, 4, 5] as const;
/** The guest that keeps to the rules, beside everybody else. */
export const bystanderDomid = 100;
/** Connections that are opened by an action, by slot. */
export const slots = 24;
/** The connection that a domain gets when it is introduced has a slot of its own. */
export const ringSlot = (domid: number): number => slots + domid;
/** Chunks that may wait for a connection to be read. More are thrown away. */
const inboxMax = 64;
/** Inputs for one request of each bystander. */
const inputsPerLine = 16;
/** Serves after which a store that still has something to do is taken to go on for ever. */
const settleServesMax = 1_000_000;

export type Action =
  /** A connection into a slot; who was there leaves. `buffer` is what its socket takes while nobody reads. */
  | { readonly do: 'open'; readonly slot: number; readonly domid: number; readonly buffer: number }
  /** One input: bytes, whole or in pieces of `step`, and then `serve` turns of the store. */
  | { readonly do: 'bytes'; readonly slot: number; readonly bytes: Buffer; readonly step: number; readonly serve: number }
  | { readonly do: 'half-close'; readonly slot: number }
  | { readonly do: 'close'; readonly slot: number }
  /** Whether anybody reads what is delivered. The store hears of it with `drain`, as a socket's event comes later. */
  | { readonly do: 'read'; readonly slot: number; readonly yes: boolean }
  | { readonly do: 'drain'; readonly slot: number }
  /** What the hypervisor has, with its VIRQ_DOM_EXC. */
  | { readonly do: 'domain'; readonly domid: number; readonly is: 'there' | 'shut down' | 'dying' | 'gone' }
  /** VIRQ_DOM_EXC, for nothing. */
  | { readonly do: 'virq'; readonly domid: number }
  | { readonly do: 'check' };

/** Something that must hold did not. `law` is which, for comparing failures; the message has the facts. */
export class Broken extends Error {
  override readonly name = 'Broken';

  constructor(
    readonly law: string,
    facts: string,
  ) {
    super(`${law}: ${facts}`);
  }
}

interface Watched {
  readonly path: string;
  readonly token: string;
}

export interface Conn {
  /** The store's number for it: connections are numbered as they come. */
  readonly id: number;
  readonly domid: number;
  readonly name: string;
  open: boolean;
  /** It sent nonsense, or said that it would send no more. */
  ending: boolean;
  reading: boolean;
  /** Requests that were fed and not answered, the oldest first. */
  readonly unanswered: XsPacket[];
  /** Replies that the store keeps for it. */
  undelivered: number;
  // What the model says the store holds for it.
  readonly watches: Map<string, Watched>;
  readonly transactions: Set<number>;

  readonly feed: (chunk: Buffer) => void;
  readonly halfClose: () => void;
  readonly close: () => void;
  readonly setReading: (yes: boolean) => void;
  readonly drain: () => void;
}

export interface Rig {
  readonly loop: StoreLoop;
  readonly conns: ReadonlyMap<number, Conn>;
  /** Every connection that is open, the bystanders' and the auditor's among them. */
  readonly open: ReadonlySet<Conn>;
  /** The numbers of the connections that were closed since the last call. */
  takeGone(): number[];
  readonly domains: Map<number, { dying: boolean; shutdown: boolean }>;
  /** The lines of the store's log since the last call. */
  takeLog(): string[];
  readonly requests: number;
  readonly events: number;
  run(action: Action): void;
  /** Asks as dom0 and serves until the answer is there. */
  ask(type: number, ...strings: readonly string[]): XsPacket;
  /** Everybody reads, and the store serves until there is nothing to do. */
  settle(): void;
  /** Ends what the actions opened and lets every guest but the bystander die. */
  release(): void;
}

/** Packets of a stream, as the protocol says and in the plainest way: what `PacketReader` is compared with. */
function plainFraming(): (chunk: Buffer) => { packets: XsPacket[]; bad: boolean } {
  let tail = Buffer.alloc(0);
  return (chunk) => {
    tail = Buffer.concat([tail, chunk]);
    const packets: XsPacket[] = [];
    while (tail.length >= XS_HEADER_SIZE) {
      const [type, reqId, txId, length] = [0, 4, 8, 12].map((at) => tail.readUInt32LE(at)) as [number, number, number, number];
      if (length > XENSTORE_PAYLOAD_MAX) return { packets, bad: true };
      if (tail.length < XS_HEADER_SIZE + length) break;
      const payload = tail.toString('latin1', XS_HEADER_SIZE, XS_HEADER_SIZE + length);
      packets.push({ type, reqId, txId, payload });
      tail = tail.subarray(XS_HEADER_SIZE + length);
    }
    return { packets, bad: false };
  };
}

const samePacket = (a: XsPacket | undefined, b: XsPacket | undefined): boolean =>
  a?.type === b?.type && a?.reqId === b?.reqId && a?.txId === b?.txId && a?.payload === b?.payload;

export function shown({ type, reqId, txId, payload }: XsPacket): string {
  const text = payload.length > 120 ? `${payload.slice(0, 120)}... (${payload.length} bytes)` : payload;
  return `${typeName(type)} req ${reqId} tx ${txId} ${JSON.stringify(text)}`;
}

/** What the bystanders own. Nobody else may be sent to change it, or the way to it. */
const bystanderPaths = ['/by', `/local/domain/${bystanderDomid}`, '/tool'] as const;
/** Quotas that the bystander can live with. */
const quotaFloors: Readonly<Record<string, number>> = {
  nodes: 12,
  watches: 4,
  transactions: 1,
  outstanding: 1,
  'transaction-nodes': 8,
  memory: 4096,
  'node-size': 200,
  'path-max': 2048,
  permissions: 3,
};

/** Whether a request of dom0 would hit a bystander: the only requests that are held back. */
function hitsBystander({ type, payload }: XsPacket): boolean {
  const [first = '', second = '', third = '', fourth = ''] = splitStrings(payload);
  const path = canonical(first, 0);
  const inside = bystanderPaths.some((theirs) => isWithin(path, theirs));
  const above = bystanderPaths.some((theirs) => isWithin(theirs, path));
  switch (type) {
    case XsType.Write:
    case XsType.Mkdir:
      return inside;
    case XsType.Rm:
    case XsType.SetPerms:
      return inside || above;
    case XsType.Introduce:
    case XsType.Release:
    case XsType.Resume:
      return atoi(first) === bystanderDomid;
    case XsType.SetTarget:
      return [0, bystanderDomid].includes(atoi(second)) || atoi(first) === bystanderDomid;
    case XsType.Control:
      return first === 'quota' && second === 'set' && atoi(fourth) < (quotaFloors[third] ?? 0);
    default:
      return false;
  }
}

/** A request of a bystander, and all that must come of it, in order. */
interface Line {
  readonly type: number;
  readonly inTransaction?: true;
  readonly payload: string;
  readonly expect: readonly (readonly [type: number, payload: string])[];
}

function dialogueAt(base: string, perms: string): Line[] {
  const at = (name: string) => `${base}/${name}`;
  const event = (name: string): [number, string] => [XsType.WatchEvent, joinStrings(at(name), 'tok')];
  const line = (type: number, strings: readonly string[], ...expect: readonly (readonly [number, string])[]): Line => ({
    type,
    payload: joinStrings(...strings),
    expect,
  });
  const within = (given: Line): Line => ({ ...given, inTransaction: true });
  const ok = joinStrings('OK');
  const error = (errno: string): [number, string] => [XsType.Error, joinStrings(errno)];
  return [
    line(XsType.Watch, [at('w'), 'tok'], [XsType.Watch, ok], event('w')),
    line(XsType.Write, [at('w'), 'some value'], event('w'), [XsType.Write, ok]),
    line(XsType.Read, [at('w')], [XsType.Read, joinStrings('some value')]),
    line(XsType.Mkdir, [at('d')], [XsType.Mkdir, ok]),
    line(XsType.Directory, [base], [XsType.Directory, joinStrings('w', 'd')]),
    line(XsType.TransactionStart, [''], [XsType.TransactionStart, 'id']),
    within(line(XsType.Write, [at('d/x'), '1'], [XsType.Write, ok])),
    within(line(XsType.Read, [at('d/x')], [XsType.Read, joinStrings('1')])),
    line(XsType.Read, [at('d/x')], error('ENOENT')),
    within(line(XsType.TransactionEnd, ['T'], [XsType.TransactionEnd, ok])),
    line(XsType.Read, [at('d/x')], [XsType.Read, joinStrings('1')]),
    line(XsType.GetPerms, [at('d/x')], [XsType.GetPerms, joinStrings(perms)]),
    line(XsType.GetDomainPath, ['7'], [XsType.GetDomainPath, joinStrings('/local/domain/7')]),
    line(XsType.Read, ['//'], error('EINVAL')),
    line(20, [''], error('ENOSYS')),
    line(XsType.Rm, [at('d')], [XsType.Rm, ok]),
    line(XsType.Read, [at('d/x')], error('ENOENT')),
    line(XsType.Rm, [at('w')], event('w'), [XsType.Rm, ok]),
    line(XsType.Unwatch, [at('w'), 'tok'], [XsType.Unwatch, ok]),
    line(XsType.Unwatch, [at('w'), 'tok'], error('ENOENT')),
  ];
}

interface Bystander {
  readonly name: string;
  /** Sends its next request if the last one is answered in full. */
  next(): void;
  /** Whether it waits for something. */
  waits(): boolean;
  /** The number of serves by which it must have its answer. */
  deadline: number;
}

/**
 * A rig at work. A `wild` one has no bystanders, and nothing is held back for their sake: dom0 may give the root away
 * or remove `/local`.
 */
export function makeRig({ wild }: { readonly wild: boolean }): Rig {
  const domains: Rig['domains'] = new Map();
  if (!wild) domains.set(bystanderDomid, { dying: false, shutdown: false });
  const log: string[] = [];
  const conns = new Map<number, Conn>();
  const open = new Set<Conn>();
  const byId = new Map<number, Conn>();
  const gone: number[] = [];
  const bystanders: Bystander[] = [];
  let lastId = 0;
  let serves = 0;
  /** Serves that VIRQs take before anybody's turn comes. */
  let virqs = 0;
  let requests = 0;
  let events = 0;
  let inputs = 0;

  const loop = new StoreLoop({
    domain: (domid) => domains.get(domid),
    wake: () => undefined,
    log: (line) => log.push(line),
    introduced: (domid) => {
      if (domid !== 0 && domid !== bystanderDomid) fill(ringSlot(domid), domid, 64 * 1024);
    },
    traced: (id, _who, domid, packet, reply) => {
      const conn = byId.get(id);
      if (!conn) throw new Broken('connections are numbered as they come', `the store served connection ${id}`);
      if (reply) {
        requests += 1;
        if (domid !== 0) mayBeServed(conn);
        conn.undelivered += 1;
        served(conn, packet, reply);
        if (domid !== 0) withinQuotas(conn, packet, reply);
      } else {
        events += 1;
        wanted(conn, packet);
      }
      for (const each of guestDomids) before.set(each, usage(each));
    },
  });
  const { core } = loop;

  // The model: what a reply says that the store holds now.

  function served(conn: Conn, { type, txId, payload }: XsPacket, reply: XsPacket): void {
    const strings = terminatedStrings(payload);
    const [first = '', second = ''] = strings;
    const isOk = reply.type !== XsType.Error;
    const key = joinStrings(canonical(first, conn.domid), second);
    if (type === XsType.TransactionEnd && conn.transactions.has(txId) && !['EINVAL\0', 'ENOENT\0'].includes(reply.payload)) {
      conn.transactions.delete(txId);
    }
    if (!isOk) return;
    if (type === XsType.Watch) conn.watches.set(key, { path: canonical(first, conn.domid), token: second });
    else if (type === XsType.Unwatch) conn.watches.delete(key);
    else if (type === XsType.TransactionStart) conn.transactions.add(Number(splitStrings(reply.payload)[0]));
    else if (type === XsType.ResetWatches) forgetHeld(conn);
    else if (type === XsType.Introduce) {
      const domid = atoi(first) >>> 0;
      if (domid !== 0) for (const other of open) if (other.domid === domid) forgetHeld(other);
    }
  }

  const forgetHeld = (conn: Conn): void => {
    conn.watches.clear();
    conn.transactions.clear();
  };

  /** An event is for a path that its connection watches. Special ones may have been reset away by what caused them. */
  function wanted(conn: Conn, { payload }: XsPacket): void {
    const [path = '', token = ''] = terminatedStrings(payload);
    if (path.startsWith('@')) return;
    const absolute = path === '' ? `/local/domain/${conn.domid}` : canonical(path, conn.domid);
    for (const watch of conn.watches.values()) if (watch.token === token && isWithin(absolute, watch.path)) return;
    throw new Broken('an event has its watch', `${conn.name} of domain ${conn.domid} was sent ${JSON.stringify(payload)}`);
  }

  // The quotas: no request of a guest takes anybody past a limit, whatever dom0 has given it before.

  const usage = (domid: number) => ({ nodes: core.store.ownedNodes(domid), bytes: core.store.ownedBytes(domid) });
  const before = new Map<number, ReturnType<typeof usage>>(guestDomids.map((domid) => [domid, usage(domid)]));

  /** The quota of open requests at its highest since all was settled. */
  let openMost = core.quotas.limits.outstanding;

  /**
   * At its quota of open requests a guest is not served. Those of its connections whose turn was to come already are
   * served once more.
   */
  function mayBeServed({ name, domid }: Conn): void {
    let [undelivered, connections] = [0, 0];
    for (const other of open) {
      if (other.domid !== domid) continue;
      undelivered += other.undelivered;
      connections += 1;
    }
    openMost = Math.max(openMost, core.quotas.limits.outstanding);
    if (undelivered >= openMost + connections - 1) {
      throw new Broken('a guest has no more requests open than the quota', `${name} of domain ${domid} has ${undelivered}`);
    }
  }

  function withinQuotas(conn: Conn, { type, txId, payload }: XsPacket, reply: XsPacket): void {
    const { limits } = core.quotas;
    const name = `${conn.name} of domain ${conn.domid}`;
    for (const domid of guestDomids) {
      const [was, is] = [before.get(domid), usage(domid)];
      if (was && is.nodes > was.nodes && (domid !== conn.domid || is.nodes > limits.nodes)) {
        throw new Broken('a guest makes no node past the quota', `${name} took domain ${domid} from ${was.nodes} to ${is.nodes}`);
      }
      if (was && is.bytes > was.bytes && txId === 0 && is.bytes >= limits.memory) {
        throw new Broken('a guest takes no memory past the quota', `${name} took domain ${domid} to ${is.bytes} bytes`);
      }
    }
    if (reply.type === XsType.Error) return;
    const strings = terminatedStrings(payload);
    if (type === XsType.Write && payload.length - (strings[0]?.length ?? 0) - 1 >= limits.nodeSize) {
      throw new Broken('a guest writes no node over the quota', `${name} wrote ${payload.length} bytes`);
    }
    if (type === XsType.SetPerms && strings.length - 1 > limits.permissions) {
      throw new Broken('a guest sets no more permissions than the quota', `${name} set ${strings.length - 1}`);
    }
    const total = (of: (other: Conn) => number): number => {
      let sum = 0;
      for (const other of open) if (other.domid === conn.domid) sum += of(other);
      return sum;
    };
    const transactions = type === XsType.TransactionStart ? total((other) => other.transactions.size) : 0;
    if (transactions > limits.transactions + 1) {
      throw new Broken('a guest opens one transaction more than the quota at most', `${name} has ${transactions}`);
    }
    const watches = type === XsType.Watch ? total((other) => other.watches.size) : 0;
    if (watches > limits.watches + 1) {
      throw new Broken('a guest has one watch more than the quota at most', `${name} has ${watches}`);
    }
  }

  // Connections, as server.ts has them.

  const forget = (conn: Conn): void => {
    conn.open = false;
    open.delete(conn);
    byId.delete(conn.id);
    gone.push(conn.id);
  };

  function connect(name: string, domid: number, buffer: number, took?: (packet: XsPacket) => void): Conn {
    const reader = new PacketReader();
    const plain = plainFraming();
    const inbox: Buffer[] = [];
    let waiting: XsPacket[] = [];
    let hasRoom = true;
    let unread = 0;
    lastId += 1;

    const shut = (): void => {
      if (!conn.open) return;
      forget(conn);
      link.close();
    };
    const finish = (): void => {
      if (conn.ending && inbox.length === 0 && waiting.length === 0 && conn.unanswered.length === 0) shut();
    };
    const push = (): void => {
      let taken = 0;
      for (const packet of waiting) {
        if (!hasRoom || !conn.open) break;
        taken += 1;
        hasRoom = link.push(packet);
      }
      waiting = waiting.slice(taken);
    };
    const takeIn = (): void => {
      while (conn.open && waiting.length === 0) {
        const chunk = inbox.shift();
        if (!chunk) break;
        const expected = plain(chunk);
        if (!wild && domid === 0 && !took && expected.packets.some(hitsBystander)) {
          shut();
          return;
        }
        const { packets, bad } = reader.read(chunk);
        const same =
          packets.length === expected.packets.length && packets.every((one, i) => samePacket(one, expected.packets[i]));
        if (!same || (bad !== undefined) !== expected.bad) {
          throw new Broken('packets are read as they were sent', `${packets.map(shown)}, not ${expected.packets.map(shown)}`);
        }
        conn.unanswered.push(...packets);
        waiting.push(...packets);
        if (bad !== undefined) {
          conn.ending = true;
          inbox.length = 0;
        }
        push();
      }
      finish();
    };
    const conn: Conn = {
      id: lastId,
      domid,
      name,
      open: true,
      ending: false,
      reading: true,
      unanswered: [],
      undelivered: 0,
      watches: new Map(),
      transactions: new Set(),
      feed: (chunk) => {
        if (!conn.open || conn.ending || inbox.length >= inboxMax) return;
        inbox.push(chunk);
        takeIn();
      },
      halfClose: () => {
        if (!conn.open) return;
        conn.ending = true;
        finish();
      },
      close: shut,
      setReading: (yes) => {
        conn.reading = yes;
        if (yes) unread = 0;
      },
      drain: () => {
        if (conn.open) link.resume();
      },
    };
    byId.set(conn.id, conn);
    open.add(conn);
    const link: StoreLink = loop.connect({
      domid,
      who: domid === 0 ? 'client' : 'domU-kernel',
      full: () => unread > buffer,
      deliver: (packet) => {
        if (!conn.open) throw new Broken('nothing is delivered to who left', `${name} got ${shown(packet)}`);
        if (unread > buffer) throw new Broken('nothing is delivered to who is full', `${name} got ${shown(packet)}`);
        if (!conn.reading) unread += XS_HEADER_SIZE + packet.payload.length;
        if (packet.payload.length > XENSTORE_PAYLOAD_MAX) {
          throw new Broken('a packet keeps to the limit', `${name} got ${shown(packet)}`);
        }
        if (packet.type !== XsType.WatchEvent) {
          const request = conn.unanswered.shift();
          conn.undelivered -= 1;
          const fits = packet.type === request?.type || packet.type === XsType.Error;
          if (!request || !fits || packet.reqId !== request.reqId || packet.txId !== request.txId) {
            const asked = request ? shown(request) : 'nothing';
            throw new Broken('replies come in the order of requests', `${name} asked ${asked} and got ${shown(packet)}`);
          }
        } else if (packet.reqId !== 0 || packet.txId !== 0) {
          throw new Broken('an event answers nothing', shown(packet));
        }
        took?.(packet);
        finish();
      },
      drained: () => {
        hasRoom = true;
        push();
        takeIn();
      },
      closed: (reason) => {
        forget(conn);
        const isDue = reason === `domain ${domid} was released` && domid !== 0 && domid !== bystanderDomid;
        if (!isDue) throw new Broken('who is closed has died', `${name} of domain ${domid}: ${reason}`);
      },
    });
    return conn;
  }

  function fill(slot: number, domid: number, buffer: number): void {
    conns.get(slot)?.close();
    conns.set(slot, connect(`slot ${slot}`, domid, buffer));
  }

  const serveOne = (): boolean => {
    virqs = 0;
    serves += 1;
    const did = loop.serveOne();
    for (const bystander of bystanders) {
      if (bystander.waits() && serves > bystander.deadline) {
        throw new Broken('a bystander is answered when its turn comes', `${bystander.name} was passed over`);
      }
    }
    return did;
  };

  // Those who keep to the rules.

  const auditorGot: XsPacket[] = [];
  const auditor = connect('auditor', 0, 0, (packet) => auditorGot.push(packet));
  const ask: Rig['ask'] = (type, ...strings) => {
    auditor.feed(packetBytes({ type, reqId: 1, txId: 0, payload: joinStrings(...strings) }));
    while (auditorGot.length === 0) {
      if (!serveOne()) throw new Broken('dom0 is answered', `${typeName(type)} ${strings} was not`);
    }
    return auditorGot.pop() as XsPacket;
  };

  function addBystander(name: string, domid: number, base: string): void {
    const lines = dialogueAt(base, `n${domid}`);
    let at = 0;
    let got = 0;
    let transaction = 0;
    let reqId = 0;
    let isWaiting = false;
    const conn = connect(name, domid, 0, (packet) => {
      const line = lines[at % lines.length];
      const expected = line?.expect[got];
      if (expected?.[1] === 'id') transaction = Number(splitStrings(packet.payload)[0]);
      const fits = packet.type === expected?.[0] && (expected[1] === 'id' ? transaction > 0 : packet.payload === expected[1]);
      if (!isWaiting || !fits) {
        throw new Broken(
          'a bystander is answered as ever',
          `${name}, line ${at % lines.length}: ${shown(packet)}, not ${JSON.stringify(expected)}`,
        );
      }
      got += 1;
      if (got < (line?.expect.length ?? 0)) return;
      at += 1;
      got = 0;
      isWaiting = false;
    });
    const bystander: Bystander = {
      name,
      deadline: 0,
      waits: () => isWaiting,
      next: () => {
        const line = lines[at % lines.length];
        if (isWaiting || !line) return;
        isWaiting = true;
        reqId += 1;
        // Events of a guest that somebody does not read count against it, so a guest may have to wait for a slow reader.
        const mayWait = domid !== 0;
        bystander.deadline = mayWait ? Number.POSITIVE_INFINITY : serves + loop.connections + virqs + 1;
        const txId = line.inTransaction ? transaction : 0;
        // A value ends with a NUL here, as any string of the dialogue does.
        conn.feed(packetBytes({ type: line.type, reqId, txId, payload: line.payload }));
      },
    };
    bystanders.push(bystander);
  }

  if (!wild) {
    ask(XsType.Mkdir, '/by');
    ask(XsType.Mkdir, `/local/domain/${bystanderDomid}/b`);
    ask(XsType.SetPerms, `/local/domain/${bystanderDomid}`, `n${bystanderDomid}`);
    ask(XsType.SetPerms, `/local/domain/${bystanderDomid}/b`, `n${bystanderDomid}`);
    ask(XsType.Introduce, String(bystanderDomid), '1', '1');
    addBystander('the bystander of dom0', 0, '/by');
    addBystander('the bystanding guest', bystanderDomid, 'b');
    for (const bystander of bystanders) bystander.next();
  }

  const serveAll = (): void => {
    for (let left = settleServesMax; serveOne(); left -= 1) {
      if (left === 0) throw new Broken('the store comes to rest', `${settleServesMax} turns were not enough`);
    }
  };

  const settle = (): void => {
    serveAll();
    // Whatever waits for a slow reader must go on by what is read alone.
    for (const conn of [...open]) {
      conn.setReading(true);
      conn.drain();
    }
    serveAll();
    openMost = core.quotas.limits.outstanding;
    for (const bystander of bystanders) {
      if (bystander.waits()) throw new Broken('a bystander is answered in the end', bystander.name);
    }
  };

  const virq = (domid: number): void => {
    virqs = 1;
    for (const bystander of bystanders) bystander.deadline += 1;
    loop.virq(domid);
  };

  const release = (): void => {
    for (const domid of guestDomids) {
      domains.delete(domid);
      virq(domid);
    }
    settle();
    for (const conn of conns.values()) conn.close();
    conns.clear();
    settle();
  };

  const run = (action: Action): void => {
    switch (action.do) {
      case 'open':
        if (action.domid === 0 || domains.has(action.domid)) fill(action.slot, action.domid, action.buffer);
        return;
      case 'bytes': {
        const conn = conns.get(action.slot);
        const { bytes } = action;
        const step = action.step || bytes.length;
        for (let at = 0; at < bytes.length; at += step) conn?.feed(bytes.subarray(at, at + step));
        for (let i = 0; i < action.serve; i += 1) if (!serveOne()) break;
        inputs += 1;
        if (inputs % inputsPerLine === 0) for (const bystander of bystanders) bystander.next();
        return;
      }
      case 'half-close':
        conns.get(action.slot)?.halfClose();
        return;
      case 'close':
        conns.get(action.slot)?.close();
        return;
      case 'read':
        conns.get(action.slot)?.setReading(action.yes);
        return;
      case 'drain':
        conns.get(action.slot)?.drain();
        return;
      case 'domain':
        if (action.is === 'gone') domains.delete(action.domid);
        else domains.set(action.domid, { dying: action.is === 'dying', shutdown: action.is === 'shut down' });
        if (action.is !== 'there') virq(action.domid);
        return;
      case 'virq':
        virq(action.domid);
        return;
      case 'check':
        settle();
        return;
    }
  };

  return {
    loop,
    conns,
    open,
    takeGone: () => gone.splice(0),
    domains,
    takeLog: () => log.splice(0),
    get requests() {
      return requests;
    },
    get events() {
      return events;
    },
    run,
    ask,
    settle,
    release,
  };
}

/** One packet as bytes, by hand: a fuzzer does not trust the encoder that it tests. */
export function packetBytes({ type, reqId, txId, payload }: XsPacket, length = payload.length): Buffer {
  const bytes = Buffer.alloc(XS_HEADER_SIZE + payload.length);
  for (const [i, word] of [type, reqId, txId, length].entries()) bytes.writeUInt32LE(word >>> 0, i * 4);
  bytes.write(payload, XS_HEADER_SIZE, 'latin1');
  return bytes;
}
