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
import { type NodeContents, type NodeSpace, recordBytes, type Store, type StoreNode } from './store.js';
import { XsError } from './xs-wire.js';

/** What a transaction knows of one node that it accessed. */
interface Access {
  /** The node as it was found at first; undefined when it was missing. */
  readonly before: StoreNode | undefined;
  /** The node as the transaction sees it now. */
  now: StoreNode | undefined;
  modified: boolean;
  /** Which watches a commit fires: none, those on exactly this path, or those on its ancestors too. */
  fire: 'none' | 'exact' | 'subtree';
}

/** One node that a commit changes. */
export interface TransactionChange {
  readonly path: string;
  readonly before: StoreNode | undefined;
  readonly now: StoreNode | undefined;
  readonly fire: 'none' | 'exact' | 'subtree';
}

export class Transaction implements NodeSpace {
  /** Whether a node was created in it; only then is the number of its owner's nodes checked at the end. */
  created = false;
  /** Set by a failure that cannot be undone: the commit answers ENOMEM. */
  failed = false;
  /** What its copies take, for the memory quota of its domain. */
  bytes = 0;
  readonly #accessed = new Map<string, Access>();

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

  put(path: string, contents: NodeContents): StoreNode {
    const access = this.#access(path);
    const { value, perms, children } = contents;
    const node: StoreNode = { value, perms, children, generation: this.store.nextGeneration() };
    this.#replace(access, path, node);
    return node;
  }

  remove(path: string): void {
    const access = this.#access(path);
    this.store.nextGeneration();
    this.#replace(access, path, undefined);
  }

  /** Notes that a commit must fire the watches of `path`. An event for a subtree takes the place of an exact one. */
  touched(path: string, exact: boolean): void {
    const access = this.#access(path);
    if (!exact) access.fire = 'subtree';
    else if (access.fire === 'none') access.fire = 'exact';
  }

  /** Whether every accessed node is still in the store as it was found. */
  isCurrent(): boolean {
    for (const [path, { before }] of this.#accessed) {
      if (this.store.get(path)?.generation !== before?.generation) return false;
    }
    return true;
  }

  /** The changed nodes in the order of first access. */
  changes(): TransactionChange[] {
    const changes: TransactionChange[] = [];
    for (const [path, { before, now, modified, fire }] of this.#accessed) {
      if (modified) changes.push({ path, before, now, fire });
    }
    return changes;
  }

  /** By how much each owner's number of nodes changes; an owner who loses one and gains one is there with 0. */
  ownerChanges(): Map<number, number> {
    const counts = new Map<number, number>();
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

  #access(path: string): Access {
    const known = this.#accessed.get(path);
    if (known) return known;
    if (this.#accessed.size >= this.nodesMax) {
      this.failed = true;
      throw new XsError('ENOSPC', `a transaction of over ${this.nodesMax} nodes`);
    }
    const before = this.store.get(path);
    const access: Access = { before, now: before, modified: false, fire: 'none' };
    this.#accessed.set(path, access);
    if (before) this.bytes += recordBytes(before) + path.length;
    return access;
  }

  #replace(access: Access, path: string, now: StoreNode | undefined): void {
    if (access.now) this.bytes -= recordBytes(access.now) + path.length;
    if (now) this.bytes += recordBytes(now) + path.length;
    access.now = now;
    access.modified = true;
  }
}

/**
 * Applies the changes of `transaction`, in the order of first access, and after each tells `applied`, so that its
 * watches see the tree as it is at that point. The caller has checked that the transaction is current.
 */
export function applyChanges(transaction: Transaction, store: Store, applied: (change: TransactionChange) => void): void {
  for (const change of transaction.changes()) {
    if (change.now) store.put(change.path, change.now);
    else if (change.before) store.remove(change.path);
    applied(change);
  }
}
