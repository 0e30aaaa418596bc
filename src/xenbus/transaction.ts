/**
 * Transactions of XenStore: one connection's private view of the tree, and what happens when it is committed.
 *
 * It is not a snapshot. A node is copied into the transaction when it is first accessed, and from then on reads the
 * same; until then the transaction sees what everybody sees. Conflicts are found node by node, by generation, as C
 * xenstored 4.17 does (behaviour of xenstored_transaction.c; docs/misc/xenstore.txt promises less). Watches are fired
 * by whoever commits; this file only says which, and in what order.
 *
 * The conflict rule, on a worked example. G is the store's count of changes; A@1 is node A, written as change 1:
 *
 *   before              A@1  B@2                 G=2
 *   T  START            a transaction counts as a change        G=3
 *   T  READ A           T keeps A@1
 *      WRITE A          A@4                      G=4            somebody else
 *   T  WRITE B          T keeps B@2, and has its own B@5        G=5
 *   T  END              T read A@1, the store has A@4: EAGAIN, nothing is applied
 *
 * Without the foreign write END would find A@1 and B@2 as they were, and put T's B into the store as B@6. A node that
 * was written conflicts like one that was read, because writing reads it first. So do the parents of nodes that are
 * created or removed, and a node that was missing and no longer is. The same value written again is a change.
 *
 * Events come in the order of first access, reads count:
 *
 *   T  READ A, WRITE B, WRITE A, RM C, WRITE C        END: A, B, C; C once, though it was touched twice
 *   T  WRITE D, RM D                                  END: nothing, D is not there and never was
 */
import { baseName, join, parentPath } from './paths.js';
import {
  type Children,
  listOf,
  type NodePerms,
  type NodeSpace,
  ownString,
  type Place,
  type Removed,
  recordBytes,
  type Store,
  type StoreNode,
} from './store.js';
import { type XsErrno, XsError } from './xs-wire.js';

/** What a transaction knows of one node that it accessed. */
interface Access {
  /** Where the node was found at first; undefined when it was missing. */
  readonly place: Place | undefined;
  /** The node and its children as they were then. The children are the store's own, and stay as long as they are borrowed. */
  readonly before: StoreNode | undefined;
  readonly children: Children | undefined;
  /** The node as the transaction sees it now. */
  now: StoreNode | undefined;
  modified: boolean;
  /**
   * What the transaction has changed about the list of children: names taken out, and then names added at the end. As in
   * xenstored a node that the transaction makes is added although it is listed, which only one that must fail can see.
   */
  removed: Set<string> | undefined;
  added: string[] | undefined;
  listBytes: number;
  /** Which watches a commit fires: none, those on exactly this path, or those on its ancestors too. */
  fire: 'none' | 'exact' | 'subtree';
}

/** One node that a commit changes. */
export interface TransactionChange {
  readonly path: string;
  readonly before: StoreNode | undefined;
  readonly now: StoreNode | undefined;
  readonly fire: 'none' | 'exact' | 'subtree';
  /** The children that it gets, in the order in which they were added. */
  readonly added: readonly string[] | undefined;
}

export class Transaction implements NodeSpace {
  /** Whether a node was created in it; only then is the number of its owner's nodes checked at the end. */
  created = false;
  /** Set by a failure that cannot be undone: the commit answers ENOMEM. */
  failed = false;
  /**
   * What its copies take, for the memory quota of its domain. As in xenstored 4.17 nodes that were not there are free:
   * they are bounded by the nodes of a transaction and the length of a path.
   */
  bytes = 0;
  readonly #accessed = new Map<string, Access>();
  /** Who was given a node in it, if only for a time: at 0, until they are counted. */
  readonly #owners = new Map<number, number>();

  constructor(
    readonly id: number,
    private readonly store: Store,
    private readonly nodesMax: number,
  ) {
    store.nextGeneration();
  }

  get(path: string): StoreNode | undefined {
    return this.#access(path).now;
  }

  put(path: string, value: string, perms: NodePerms): StoreNode {
    const access = this.#access(path);
    const node: StoreNode = { value, perms, generation: this.store.nextGeneration() };
    if (access.now?.perms[0].domid !== perms[0].domid) this.countOwner(perms[0].domid);
    if (!access.now && path !== '/') this.#enter(this.#access(parentPath(path)), baseName(path));
    this.#replace(access, path, node);
    return node;
  }

  /**
   * A child that its parent lists and that is not there ends it with EIO, as does a node that its parent does not list:
   * a transaction's copy of a parent may be older than its view of the child. It ends in EAGAIN anyway.
   */
  removeTree(path: string, removed?: Removed): void {
    const access = this.#access(path, 'EIO');
    const node = access.now;
    if (!node) throw new XsError('EIO', `${path} is listed and missing`);
    for (const name of this.names(path)) this.removeTree(join(path, name), removed);
    const parent = this.#access(parentPath(path));
    this.store.nextGeneration();
    this.#replace(access, path, undefined);
    this.#strike(parent, baseName(path));
    removed?.(path, node, parent.now);
  }

  names(path: string): string[] {
    const { children, removed, added } = this.#access(path);
    const kept = [...(children?.keys() ?? [])];
    return [...(removed ? kept.filter((name) => !removed.has(name)) : kept), ...(added ?? [])];
  }

  list(path: string): string {
    return listOf(this.names(path));
  }

  listBytes(path: string): number {
    return this.#access(path).listBytes;
  }

  /** Notes an owner whose number of nodes the commit must look at, although it may not change. */
  countOwner(domid: number): void {
    this.#owners.set(domid, 0);
  }

  /** Ends it: what it has borrowed of the store is given back. Nothing but `changes` may be asked of it any more. */
  end(): void {
    for (const { place, children } of this.#accessed.values()) this.store.giveBack(place, children);
  }

  /** Notes that a commit must fire the watches of `path`. An event for a subtree takes the place of an exact one. */
  touched(path: string, exact: boolean): void {
    const access = this.#access(path);
    if (!exact) access.fire = 'subtree';
    else if (access.fire === 'none') access.fire = 'exact';
  }

  /** Whether every accessed node is still in the store as it was found. */
  isCurrent(): boolean {
    for (const [path, { place, before }] of this.#accessed) {
      if (place ? place.node !== before : this.store.get(path)) return false;
    }
    return true;
  }

  /** The changed nodes in the order of first access. */
  changes(): TransactionChange[] {
    const changes: TransactionChange[] = [];
    for (const [path, { before, now, modified, fire, added }] of this.#accessed) {
      if (modified) changes.push({ path, before, now, fire, added });
    }
    return changes;
  }

  /** By how much each owner's number of nodes changes; one whose nodes came and went is there with 0. */
  ownerChanges(): Map<number, number> {
    const counts = new Map<number, number>(this.#owners);
    const count = (node: StoreNode | undefined, by: number) => {
      if (node) counts.set(node.perms[0].domid, (counts.get(node.perms[0].domid) ?? 0) + by);
    };
    for (const { before, now } of this.changes()) {
      if (before?.perms[0].domid === now?.perms[0].domid) continue;
      count(before, -1);
      count(now, 1);
    }
    return counts;
  }

  /** A node's access; past the bound the transaction is spoilt, and `errno` is the answer. */
  #access(path: string, errno: XsErrno = 'ENOSPC'): Access {
    const known = this.#accessed.get(path);
    if (known) return known;
    if (this.#accessed.size >= this.nodesMax) {
      this.failed = true;
      throw new XsError(errno, `a transaction of over ${this.nodesMax} nodes`);
    }
    const place = this.store.borrow(path);
    const before = place?.node;
    const listBytes = place?.listBytes ?? 0;
    const access: Access = {
      place,
      before,
      children: place?.children,
      now: before,
      modified: false,
      removed: undefined,
      added: undefined,
      listBytes,
      fire: 'none',
    };
    this.#accessed.set(ownString(path), access);
    if (before) this.bytes += recordBytes(before.value, before.perms, listBytes) + path.length;
    return access;
  }

  #replace(access: Access, path: string, now: StoreNode | undefined): void {
    if (access.now) this.bytes -= recordBytes(access.now.value, access.now.perms, access.listBytes) + path.length;
    if (now) this.bytes += recordBytes(now.value, now.perms, access.listBytes) + path.length;
    access.now = now;
    access.modified = true;
  }

  #enter(parent: Access, name: string): void {
    parent.added ??= [];
    parent.added.push(name);
    this.#resize(parent, name.length + 1);
  }

  #strike(parent: Access, name: string): void {
    if (parent.children?.has(name) && !parent.removed?.has(name)) {
      parent.removed ??= new Set();
      parent.removed.add(name);
    } else {
      const at = parent.added?.indexOf(name) ?? -1;
      if (at < 0) throw new XsError('EIO', `${name} is not listed`);
      parent.added?.splice(at, 1);
    }
    this.#resize(parent, -(name.length + 1));
  }

  #resize(access: Access, by: number): void {
    access.listBytes += by;
    if (access.now) this.bytes += by;
  }
}

/**
 * Applies the changes of `transaction`, in the order of first access, and after each tells `applied`, so that its
 * watches see the tree as it is at that point. `settled` strikes out what it gave to domains that have ended since. The
 * caller has checked that the transaction is current, and ended it.
 */
export function applyChanges(
  transaction: Transaction,
  store: Store,
  settled: (node: StoreNode) => NodePerms,
  applied: (change: TransactionChange) => void,
): void {
  const changes = transaction.changes();
  const mark = store.order;
  for (const change of changes) {
    if (change.now) store.put(change.path, change.now.value, settled(change.now));
    else if (change.before) store.remove(change.path);
    // What came and went within the transaction nobody ever saw.
    if (change.now || change.before) applied(change);
  }
  // Nodes come in the order of access; their names stand in the order in which they were added.
  for (const { path, now, added } of changes) if (now && added) store.moveToEnd(path, added, mark);
}
