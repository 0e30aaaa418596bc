/**
 * The core of the XenStore server: one event in, effects out, synchronously.
 *
 * No connections that bytes could come from, no clock and no chance in here; store-loop.ts queues the requests and
 * delivers the replies, server.ts has the sockets. Behaviour, errnos and the order of checks and events are those of C
 * xenstored 4.17 (docs/misc/xenstore.txt, xs_wire.h, and what the real server was observed to answer). Left out of it:
 * live update, the limit on the rate of writes and the 20 s after which an event for a deaf guest is dropped, which
 * need a clock.
 */
import type { Keep, Recovered } from './keep.js';
import { canonical, checkPath, parentPath } from './paths.js';
import type { Census } from './privcmd.js';
import { type Quota, QuotaKeeper, type Quotas } from './quota.js';
import {
  aim,
  type Connection,
  type Domain,
  handlers,
  mayAll,
  mayOwn,
  mayRead,
  mayWrite,
  ownedByDom0,
  permBits,
  type Request,
  specialNames,
} from './requests.js';
import {
  type NodePerm,
  type NodePerms,
  type NodeSpace,
  permOf,
  permText,
  planCreation,
  recordBytes,
  Store,
  type StoreNode,
} from './store.js';
import type { Transaction } from './transaction.js';
import { reportedPath, type Watch, WatchTable } from './watch.js';
import { DOMID_FIRST_RESERVED } from './xenbus.js';
import { joinStrings, XENSTORE_PAYLOAD_MAX, type XsErrno, XsError, type XsPacket, XsType } from './xs-wire.js';

export type XenstoredEvent =
  | { readonly on: 'connect'; readonly conn: number; readonly domid: number }
  | { readonly on: 'request'; readonly conn: number; readonly packet: XsPacket }
  | { readonly on: 'disconnect'; readonly conn: number }
  /** VIRQ_DOM_EXC: some domain has shut down, or is gone: one of these, which a real hypervisor does not tell. */
  | { readonly on: 'virq'; readonly domids?: ReadonlySet<number> };

export type XenstoredEffect =
  | { readonly do: 'send'; readonly conn: number; readonly packet: XsPacket }
  | { readonly do: 'close'; readonly conn: number; readonly reason: string }
  | { readonly do: 'log'; readonly line: string }
  /** A domain was introduced; whoever composes connects its ring with that domid. */
  | { readonly do: 'introduced'; readonly domid: number; readonly mfn: number; readonly port: number }
  /** A domain is gone from the store, and its connections are closed. */
  | { readonly do: 'released'; readonly domid: number };

/** What is known of a node that changed: as it was, as it is or was last, and its parent. The store knows the rest. */
interface Seen {
  readonly before?: StoreNode | undefined;
  readonly node?: StoreNode | undefined;
  readonly parent?: StoreNode | undefined;
}

export interface XenstoredOptions {
  /** Asks the hypervisor for a domain; undefined when there is none. Dom0 is never asked for. */
  readonly domain: (domid: number) => { readonly dying: boolean; readonly shutdown: boolean } | undefined;
  readonly quotas?: Partial<Quotas>;
  /** How many requests of a domain are not done with; who queues them knows. */
  readonly outstanding?: (domid: number) => number;
  /** Gets what the store's next life needs. */
  readonly keep?: Keep;
  /** What the life before has kept. Connections, and with them watches and transactions, are gone. */
  readonly recovered?: Recovered;
}

/** The keys of what is known of a domain, and of the store itself. */
const knownKey = 'introduced/';
const storeKey = 'xenstored';

/**
 * The state of the store and the one way to change it.
 *
 * `step` is never entered while it runs, keeps no promise and reads no clock: the same events give the same effects.
 */
export class Xenstored {
  readonly store: Store;
  readonly watches = new WatchTable();
  readonly quotas: QuotaKeeper;
  readonly #connections = new Map<number, Connection>();
  readonly #domains = new Map<number, Domain>();
  /** Who may hear of the special events, and who may say who may. */
  readonly #special = new Map<string, NodePerms>(specialNames.map((name) => [name, ownedByDom0]));
  readonly #askHypervisor: XenstoredOptions['domain'];
  /** How many requests of a domain are not done with. */
  readonly outstanding: (domid: number) => number;
  #effects: XenstoredEffect[] = [];
  #known = 0;
  /** Introduced since the last VIRQ, which may have been raised for them before that. */
  readonly #unseen = new Set<number>();
  readonly #keep: Keep | undefined;
  #stepping = false;

  constructor(options: XenstoredOptions) {
    this.#askHypervisor = options.domain;
    this.outstanding = options.outstanding ?? (() => 0);
    this.#keep = options.keep;
    this.store = new Store(options.keep, options.recovered);
    this.quotas = new QuotaKeeper(options.quotas ?? {}, (line) => this.#emit({ do: 'log', line }));
    if (options.recovered && this.store.size > 0) {
      this.#restore(options.recovered);
      return;
    }
    this.#knowDomain(0);
    for (const path of ['/', '/tool', '/tool/xenstored']) this.store.put(path, '', ownedByDom0);
    this.keepSettings();
  }

  #restore(recovered: Recovered): void {
    const known = [...recovered].flatMap(([key, value]) =>
      key.startsWith(knownKey) ? [{ domid: Number(key.slice(knownKey.length)), ...(value as unknown as KnownDomain) }] : [],
    );
    for (const { target: _, ...domain } of known.sort((a, b) => a.order - b.order)) {
      this.#domains.set(domain.domid, { ...domain, conns: new Set(), target: undefined, targetOf: new Set() });
      this.#known = domain.order + 1;
    }
    for (const { domid, target } of known) {
      const domain = this.#domains.get(domid);
      const meant = target === null ? undefined : this.#domains.get(target);
      if (domain && meant) aim(domain, meant);
    }
    const settings = recovered.get(storeKey) as unknown as StoreSettings;
    for (const [quota, limit] of Object.entries(settings.quotas)) this.quotas.set(quota as Quota, limit);
    for (const [name, perms] of Object.entries(settings.special)) {
      const [owner, ...others] = perms.map(permOf);
      if (owner) this.#special.set(name, [owner, ...others]);
    }
    // What may be granted to who comes now is younger than all that there is.
    this.store.nextGeneration();
  }

  /** Keeps what is known of a domain; called whenever that changes. */
  keepDomain({ domid, order, generation, introduced, shutdown, target, port }: Domain): void {
    this.#keep?.set(knownKey + domid, { order, generation, introduced, shutdown, target: target ?? null, port });
  }

  keepSettings(): void {
    const special = Object.fromEntries([...this.#special].map(([name, perms]) => [name, perms.map(permText)]));
    this.#keep?.set(storeKey, { quotas: { ...this.quotas.limits }, special });
  }

  /** The introduced guests with their event channels, the one that became known first in front. */
  introducedGuests(): { readonly domid: number; readonly port: number }[] {
    return [...this.#domains.values()].filter(({ domid, introduced }) => domid !== 0 && introduced);
  }

  step(event: XenstoredEvent): XenstoredEffect[] {
    if (this.#stepping) throw new Error(`xenstored was entered with ${event.on} while it was at work`);
    this.#stepping = true;
    this.#effects = [];
    try {
      if (event.on === 'request') this.#serve(event.conn, event.packet);
      else if (event.on === 'connect') this.#connect(event.conn, event.domid);
      else if (event.on === 'disconnect') this.#disconnect(event.conn);
      else this.#checkDomains(event.domids);
      return this.#effects;
    } finally {
      this.#stepping = false;
    }
  }

  /** Whether the requests of a domain wait because it is over its memory. */
  isStalled(domid: number): boolean {
    return domid !== 0 && this.memoryOf(domid) >= this.quotas.limits.memory;
  }

  /** Bytes that count against the memory of a domain: its nodes, watches and transactions. */
  memoryOf(domid: number): number {
    let bytes = this.store.ownedBytes(domid);
    for (const conn of this.#domains.get(domid)?.conns ?? []) {
      bytes += this.watches.usage(conn.id).bytes;
      for (const transaction of conn.transactions.values()) bytes += transaction.bytes;
    }
    return bytes;
  }

  /** What all peers together have of it now. */
  get usage(): Census['store'] {
    const connections = [...this.#connections.values()];
    return {
      connections: connections.length,
      watches: connections.reduce((count, { id }) => count + this.watches.usage(id).count, 0),
      transactions: connections.reduce((count, { transactions }) => count + transactions.size, 0),
      domids: [...this.#domains.keys()].sort((a, b) => a - b),
    };
  }

  // Connections and domains.

  #connect(id: number, domid: number): void {
    const conn: Connection = { id, domid, transactions: new Map(), lastTransaction: 0 };
    this.#connections.set(id, conn);
    this.#knowDomain(domid).conns.add(conn);
  }

  #disconnect(id: number): void {
    const conn = this.#connections.get(id);
    if (!conn) return;
    this.reset(conn);
    this.#connections.delete(id);
    this.#domains.get(conn.domid)?.conns.delete(conn);
  }

  /** Takes a connection's watches and transactions from it. */
  reset(conn: Connection): void {
    this.watches.removeAll(conn.id);
    for (const transaction of conn.transactions.values()) transaction.end();
    conn.transactions.clear();
  }

  domain(domid: number): Domain | undefined {
    return this.#domains.get(domid);
  }

  #knowDomain(domid: number): Domain {
    const known = this.#domains.get(domid);
    if (known) return known;
    const domain: Domain = {
      domid,
      order: this.#known++,
      generation: this.store.generation,
      conns: new Set(),
      introduced: domid === 0,
      shutdown: false,
      port: 0,
      target: undefined,
      targetOf: new Set(),
    };
    this.#domains.set(domid, domain);
    this.keepDomain(domain);
    return domain;
  }

  /** The domain, if it is known or the hypervisor has it. */
  existingDomain(domid: number): Domain | undefined {
    const known = this.#domains.get(domid);
    if (known || domid <= 0 || domid >= DOMID_FIRST_RESERVED || !this.#askHypervisor(domid)) return known;
    return this.#knowDomain(domid);
  }

  /**
   * Introduces a domain, once: later calls renew its event channel, which here means that its connections start afresh.
   * A domain that the hypervisor does not have is EINVAL, because its ring cannot be mapped.
   */
  introduce(domid: number, mfn: number, port: number): void {
    const domain = this.existingDomain(domid);
    if (!domain) throw new XsError('EINVAL', `no domain ${domid}`);
    if (!domain.introduced) {
      domain.introduced = true;
      domain.shutdown = false;
      domain.port = port;
      this.keepDomain(domain);
      this.#unseen.add(domid);
      this.#emit({ do: 'introduced', domid, mfn, port });
      this.#fireSpecial('@introduceDomain');
    }
    if (domid !== 0) for (const conn of domain.conns) this.reset(conn);
  }

  /**
   * What domains have come to: a shutdown is announced once, a dead domain is forgotten with all it owned. The domain
   * that became known last comes first.
   */
  #checkDomains(domids: Iterable<number> = this.#domains.keys()): void {
    const asked = new Set([...domids, ...this.#unseen]);
    this.#unseen.clear();
    const domains = [...asked].flatMap((domid) => (domid === 0 ? [] : (this.#domains.get(domid) ?? [])));
    let announce = false;
    for (const domain of domains.sort((a, b) => b.order - a.order)) {
      const info = this.#askHypervisor(domain.domid);
      if (!domain.introduced) {
        if (!info) this.forget(domain);
        continue;
      }
      if (info?.shutdown && !domain.shutdown) {
        domain.shutdown = true;
        this.keepDomain(domain);
        announce = true;
      }
      if (!info || info.dying) {
        this.forget(domain);
        announce = false;
      }
    }
    if (announce) this.#fireSpecial('@releaseDomain');
  }

  /** A domain ends: its connections first, then its nodes, with their events, then the word to those who wait for it. */
  forget(domain: Domain): void {
    const { domid } = domain;
    for (const conn of [...domain.conns]) {
      this.#disconnect(conn.id);
      this.#emit({ do: 'close', conn: conn.id, reason: `domain ${domid} was released` });
    }
    // The root stays, whoever owned it.
    const root = this.store.get('/');
    if (root?.perms[0].domid === domid) this.store.put('/', root.value, [{ ...root.perms[0], domid: 0 }, ...root.perms.slice(1)]);
    for (const path of this.store.ownedRoots(domid)) this.removeTree(this.store, undefined, path);
    for (const other of domain.targetOf) {
      other.target = undefined;
      this.keepDomain(other);
    }
    if (domain.target !== undefined) this.#domains.get(domain.target)?.targetOf.delete(domain);
    for (const [name, [owner, ...others]] of this.#special) {
      const kept = others.filter((perm) => perm.domid !== domid);
      this.#special.set(name, [owner.domid === domid ? { ...owner, domid: 0 } : owner, ...kept]);
    }
    this.keepSettings();
    this.#domains.delete(domid);
    this.#keep?.delete(knownKey + domid);
    this.quotas.forget(domid);
    if (!domain.introduced) return;
    this.#fireSpecial('@releaseDomain');
    this.#emit({ do: 'released', domid });
  }

  // Requests.

  #serve(id: number, packet: XsPacket): void {
    const conn = this.#connections.get(id);
    if (!conn) return;
    let registered: Watch | undefined;
    let type = packet.type;
    let payload: string;
    try {
      const handler = handlers[packet.type];
      if (!handler) throw new XsError('ENOSYS', `request ${packet.type}`);
      if (handler.privileged && conn.domid !== 0) throw new XsError('EACCES');
      const transaction = handler.outsideTransactions ? undefined : this.#transaction(conn, packet.txId);
      const request: Request = { conn, payload: packet.payload, transaction, space: transaction ?? this.store };
      payload = handler.run(this, request);
      registered = request.registered;
      if (payload.length > XENSTORE_PAYLOAD_MAX) throw new XsError('E2BIG', `a reply of ${payload.length} bytes`);
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      type = XsType.Error;
      payload = joinStrings(error.errno);
    }
    this.#send(id, { type, reqId: packet.reqId, txId: packet.txId, payload });
    if (registered) this.#event(registered, registered.path);
  }

  #transaction(conn: Connection, id: number): Transaction | undefined {
    if (id === 0) return undefined;
    const transaction = conn.transactions.get(id);
    if (!transaction) throw new XsError('ENOENT', `transaction ${id}`);
    return transaction;
  }

  /** Most steps have one effect: an array of one is smaller than one that was pushed to. */
  #emit(effect: XenstoredEffect): void {
    if (this.#effects.length === 0) this.#effects = [effect];
    else this.#effects.push(effect);
  }

  #send(conn: number, packet: XsPacket): void {
    this.#emit({ do: 'send', conn, packet });
  }

  log(line: string): void {
    this.#emit({ do: 'log', line });
  }

  // Nodes and permissions.

  /** What a connection may do with a node of these permissions. */
  #rights(conn: Connection, perms: NodePerms, generation: number): number {
    if (conn.domid === 0) return mayAll;
    const target = this.#domains.get(conn.domid)?.target;
    const [owner, ...others] = perms;
    if (owner.domid === conn.domid || owner.domid === target) return mayAll;
    const own = others.find(
      (perm) => (perm.domid === conn.domid || perm.domid === target) && !perm.ignored && this.#isSince(perm.domid, generation),
    );
    return permBits(own ?? owner);
  }

  /** Whether the domain of that name is the one that a node of this generation could mean. */
  #isSince(domid: number, generation: number): boolean {
    const domain = this.#domains.get(domid);
    return domain !== undefined && domain.generation < generation;
  }

  /** The permissions of a node, those of domains that are gone struck out; a new domain of that number gets none of them. */
  readonly settled = (node: StoreNode): NodePerms => {
    const [owner, ...others] = node.perms;
    const isStale = (perm: NodePerm) => !perm.ignored && !this.#isSince(perm.domid, node.generation);
    if (!others.some(isStale)) return node.perms;
    return [owner, ...others.map((perm) => (isStale(perm) ? { ...perm, ignored: true } : perm))];
  };

  /** The name that a request gave, as an absolute path; EINVAL if it can be none. */
  path(conn: Connection, name: string): string {
    const { pathMax } = this.quotas.limits;
    if (name.length <= pathMax && this.store.remembers(name)) return name;
    const path = checkPath(canonical(name, conn.domid), pathMax);
    if (path === undefined) throw new XsError('EINVAL', 'not a path');
    return path;
  }

  /**
   * The node of a request, or undefined when it is missing.
   *
   * Whoever lacks the rights gets EACCES. So does, for a missing node, whoever may not even see its nearest ancestor:
   * the errno must not tell what is there.
   */
  lookup({ conn, space }: Request, path: string, need: number): StoreNode | undefined {
    const node = space.get(path);
    if (node && (this.#rights(conn, node.perms, node.generation) & need) === need) return node;
    let at = path;
    let ancestor: StoreNode | undefined;
    do {
      at = parentPath(at);
      ancestor = space.get(at);
    } while (!ancestor && at !== '/');
    if (node || !ancestor || (this.#rights(conn, ancestor.perms, ancestor.generation) & need) === 0) throw new XsError('EACCES');
    return undefined;
  }

  /** The node of a request that only reads; ENOENT when it is missing. */
  existing(request: Request, name: string): StoreNode {
    const node = this.lookup(request, this.path(request.conn, name), mayRead);
    if (!node) throw new XsError('ENOENT');
    return node;
  }

  /** Puts a node that was there, within the quotas. */
  rewrite(request: Request, path: string, before: StoreNode, value: string, perms: NodePerms): StoreNode {
    const { space } = request;
    this.#checkSize(request, { path, value, perms, before }, 0);
    return space.put(path, value, perms);
  }

  /** Makes `path` and its missing ancestors, all or none. Past the first node a refusal spoils a transaction for good. */
  create(request: Request, path: string, value: string): StoreNode {
    const { conn, space, transaction } = request;
    const owner = conn.domid === 0 ? undefined : conn.domid;
    const planned = planCreation(space, path, value, owner, this.settled);
    if (transaction) transaction.created = true;
    let bytes = 0;
    for (const [i, { path: at, value: written, perms, listBytes, fresh }] of planned.entries()) {
      if (owner === undefined && perms[0].domid === 0) continue;
      // Within a transaction the store's count does not move; what it comes to is checked at the end.
      const counted = this.store.ownedNodes(conn.domid) + (transaction ? 0 : i);
      if (owner !== undefined && fresh && counted >= this.quotas.limits.nodes) {
        if (transaction && i > 0) transaction.failed = true;
        this.quotas.refuse('nodes', owner, 'ENOSPC');
      }
      this.#checkSize(request, { path: at, value: written, perms, before: fresh ? undefined : space.get(at), listBytes }, bytes);
      bytes += recordBytes(written, perms, listBytes) + at.length;
    }
    let made: StoreNode | undefined;
    for (const { path: at, value: written, perms } of planned) {
      const node = space.put(at, written, perms);
      made ??= node;
    }
    if (!made) throw new Error(`creating ${path} made nothing`);
    return made;
  }

  /**
   * Holds a node that is to be written against the quotas of the writer (its size) and of its owner (memory). `more`
   * are bytes that are to be written with it. A refused write spoils its transaction.
   */
  #checkSize(
    { conn, space, transaction }: Request,
    node: {
      readonly path: string;
      readonly value: string;
      readonly perms: NodePerms;
      readonly before: StoreNode | undefined;
      /** When it is to change. */
      readonly listBytes?: number;
    },
    more: number,
  ): void {
    const charged = transaction ? conn.domid : node.perms[0].domid;
    if (conn.domid === 0 && charged === 0) return;
    const { limits } = this.quotas;
    const { path, value, perms, before } = node;
    const present = before ? space.listBytes(path) : 0;
    const size = recordBytes(value, perms, node.listBytes ?? present);
    const refuse = (quota: 'nodeSize' | 'memory', domid: number, errno: XsErrno): never => {
      if (transaction) transaction.failed = true;
      return this.quotas.refuse(quota, domid, errno);
    };
    if (conn.domid !== 0 && size >= limits.nodeSize) refuse('nodeSize', conn.domid, 'ENOSPC');
    if (charged === 0) return;
    const isFreed = before && (transaction || before.perms[0].domid === charged);
    const freed = isFreed ? recordBytes(before.value, before.perms, present) : -path.length;
    const used = this.memoryOf(charged) + more + size - freed;
    if (used >= limits.memory) refuse('memory', charged, 'EIO');
    if (used >= limits.memorySoft) this.quotas.say('memorySoft', charged, 'a warning, nothing is refused');
    else this.quotas.recovered('memorySoft', charged);
  }

  /** Removes `path` and all below it, with the events: exact ones for what lies below, one for all above at the root. */
  removeTree(space: NodeSpace, transaction: Transaction | undefined, path: string): void {
    const parentAt = parentPath(path);
    const parent = space.get(parentAt);
    if (!parent) throw new XsError('EINVAL', `${path} has no parent`);
    if (transaction || this.watches.isWatchedBelow(path)) {
      space.removeTree(path, (at, node, above) => this.fire(transaction, at, at !== path, { node, parent: above }));
    } else {
      const node = space.get(path);
      space.removeTree(path);
      this.fire(undefined, path, false, { node, parent });
    }
    space.put(parentAt, parent.value, this.settled(parent));
  }

  // Watches.

  /**
   * Tells the watches of `path` that it changed: those on exactly it, or those on its ancestors too. Within a transaction
   * they are only noted.
   *
   * An unprivileged watcher hears of what it may read: the node as it is or was before, or else its parent.
   */
  fire(transaction: Transaction | undefined, path: string, exact: boolean, seen: Seen = {}): void {
    if (transaction) {
      transaction.touched(path, exact);
      return;
    }
    const watches = this.watches.matching(path, exact);
    if (watches.length === 0) return;
    let candidates: StoreNode[] | undefined;
    let asked: Connection | undefined;
    let hears = false;
    for (const watch of watches) {
      if (asked?.id !== watch.conn) {
        const conn = this.#connections.get(watch.conn);
        if (!conn) continue;
        asked = conn;
        if (conn.domid !== 0) candidates ??= this.#tellable(path, seen);
        hears = conn.domid === 0 || candidates?.some((at) => this.#rights(conn, at.perms, at.generation) & mayRead) === true;
      }
      if (hears) this.#event(watch, path);
    }
  }

  /** The nodes whose readers may hear of a change of `path`. */
  #tellable(path: string, seen: Seen): StoreNode[] {
    const node = seen.node ?? this.store.get(path);
    const parent = node && (seen.parent ?? this.store.get(parentPath(path)));
    return [seen.before, node, parent].filter((at) => at !== undefined);
  }

  #fireSpecial(name: string): void {
    const perms = this.#special.get(name);
    for (const watch of this.watches.matching(name, true)) {
      const conn = this.#connections.get(watch.conn);
      if (conn && perms && this.#rights(conn, perms, Number.POSITIVE_INFINITY) & mayRead) this.#event(watch, name);
    }
  }

  /** Queues one event. One that is too long for the wire is left out, as there is nobody to tell. */
  #event(watch: Watch, path: string): void {
    const payload = joinStrings(reportedPath(watch, path), watch.token);
    if (payload.length > XENSTORE_PAYLOAD_MAX) return;
    this.#send(watch.conn, { type: XsType.WatchEvent, reqId: 0, txId: 0, payload });
  }

  /** Sets who may hear of a special event. */
  setSpecialPerms(conn: Connection, name: string, perms: NodePerms): void {
    const present = this.#special.get(name);
    if (!present) throw new XsError('EINVAL', 'no such event');
    const need = mayWrite | mayOwn;
    if ((this.#rights(conn, present, Number.POSITIVE_INFINITY) & need) !== need) throw new XsError('EACCES');
    this.#special.set(name, perms);
    this.keepSettings();
  }
}

/** What is kept of a domain. */
type KnownDomain = Pick<Domain, 'order' | 'generation' | 'introduced' | 'shutdown' | 'port'> & { readonly target: number | null };

interface StoreSettings {
  readonly quotas: Readonly<Record<string, number>>;
  readonly special: Readonly<Record<string, readonly string[]>>;
}
