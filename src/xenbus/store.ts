/**
 * The node tree of XenStore: nodes, their permissions and their children.
 *
 * It knows paths, owners and generations, and nothing of connections, transactions in progress, watches or quotas.
 * A node is never changed: writing puts another in its place, so a transaction can keep the one that it read.
 * The rules are those of C xenstored 4.17 (docs/misc/xenstore.txt and the behaviour of xenstored_core.c).
 */
import { baseName, join, parentPath } from './paths.js';
import { joinStrings, type Perm, XsError } from './xs-wire.js';

/** A permission as it is stored. One that is `ignored` was given to a domain that did not exist: it never counts again. */
export interface NodePerm extends Perm {
  readonly ignored?: boolean;
}
/** The owner's entry comes first; its letters are for all who are not named. */
export type NodePerms = readonly [NodePerm, ...NodePerm[]];

export interface NodeContents {
  readonly value: string;
  readonly perms: NodePerms;
  readonly children: Children;
}

export interface StoreNode extends NodeContents {
  /** The store's count of changes when this was written; what conflicts are found by. */
  readonly generation: number;
}

/** What a request acts on: the store, or one transaction's view of it. */
export interface NodeSpace {
  get(path: string): StoreNode | undefined;
  put(path: string, contents: NodeContents): StoreNode;
  remove(path: string): void;
}

/** A string that stays in memory by itself: the engine may keep a part of a string as a reference to the whole. */
export function ownString(part: string): string {
  return part.length < 13 ? part : Buffer.from(part, 'latin1').toString('latin1');
}

/** A node of a balanced tree of names. */
interface Names {
  readonly name: string;
  /** Rises with every name that is added; the order of DIRECTORY. */
  readonly order: number;
  readonly size: number;
  readonly left: Names | undefined;
  readonly right: Names | undefined;
}

/** A side may hold this many times the names of the other before it is rotated (weight-balanced trees, Adams 1992). */
const balanceMax = 3;
const rotateTwiceFrom = 2;

const sizeOf = (names: Names | undefined): number => names?.size ?? 0;

function tree(name: string, order: number, left: Names | undefined, right: Names | undefined): Names {
  return { name, order, left, right, size: sizeOf(left) + sizeOf(right) + 1 };
}

function balanced(name: string, order: number, left: Names | undefined, right: Names | undefined): Names {
  const [l, r] = [sizeOf(left), sizeOf(right)];
  if (l + r >= 2 && right && r > balanceMax * l) {
    const inner = right.left;
    if (!inner || sizeOf(inner) < rotateTwiceFrom * sizeOf(right.right)) {
      return tree(right.name, right.order, tree(name, order, left, inner), right.right);
    }
    const outer = tree(right.name, right.order, inner.right, right.right);
    return tree(inner.name, inner.order, tree(name, order, left, inner.left), outer);
  }
  if (l + r >= 2 && left && l > balanceMax * r) {
    const inner = left.right;
    if (!inner || sizeOf(inner) < rotateTwiceFrom * sizeOf(left.left)) {
      return tree(left.name, left.order, left.left, tree(name, order, inner, right));
    }
    const outer = tree(left.name, left.order, left.left, inner.left);
    return tree(inner.name, inner.order, outer, tree(name, order, inner.right, right));
  }
  return tree(name, order, left, right);
}

function inserted(at: Names | undefined, name: string, order: number): Names {
  if (!at) return tree(name, order, undefined, undefined);
  if (name < at.name) return balanced(at.name, at.order, inserted(at.left, name, order), at.right);
  return balanced(at.name, at.order, at.left, inserted(at.right, name, order));
}

function least(at: Names): Names {
  let first = at;
  while (first.left) first = first.left;
  return first;
}

function removed(at: Names | undefined, name: string): Names | undefined {
  if (!at) return undefined;
  if (name < at.name) return balanced(at.name, at.order, removed(at.left, name), at.right);
  if (name > at.name) return balanced(at.name, at.order, at.left, removed(at.right, name));
  if (!at.left || !at.right) return at.left ?? at.right;
  const next = least(at.right);
  return balanced(next.name, next.order, at.left, removed(at.right, next.name));
}

function find(names: Names | undefined, name: string): Names | undefined {
  let at = names;
  while (at && at.name !== name) at = name < at.name ? at.left : at.right;
  return at;
}

function collect(at: Names | undefined, into: Names[]): Names[] {
  if (!at) return into;
  collect(at.left, into);
  into.push(at);
  return collect(at.right, into);
}

/**
 * The names of a node's children, in the order in which they were added.
 *
 * A value: adding and removing leave it alone and give another, in O(log n), because `/local/domain` may have
 * thousands of children and every created domain adds one.
 */
export class Children {
  static readonly none = new Children(undefined, 0, 0);

  /** The length of the list that DIRECTORY answers with. */
  readonly bytes: number;
  readonly #names: Names | undefined;
  readonly #next: number;
  #list: string | undefined;

  private constructor(names: Names | undefined, bytes: number, next: number) {
    this.#names = names;
    this.bytes = bytes;
    this.#next = next;
  }

  get size(): number {
    return sizeOf(this.#names);
  }

  has(name: string): boolean {
    return find(this.#names, name) !== undefined;
  }

  /** Where `name` stands among its siblings: a number that rises with the order of adding. */
  order(name: string): number {
    return find(this.#names, name)?.order ?? -1;
  }

  with(name: string): Children {
    if (this.has(name)) return this;
    return new Children(inserted(this.#names, name, this.#next), this.bytes + name.length + 1, this.#next + 1);
  }

  without(name: string): Children {
    if (!this.has(name)) return this;
    return new Children(removed(this.#names, name), this.bytes - name.length - 1, this.#next);
  }

  names(): string[] {
    return collect(this.#names, [])
      .sort((a, b) => a.order - b.order)
      .map((child) => child.name);
  }

  /** The names, each with its NUL, as DIRECTORY sends them. Kept, because a directory is often listed unchanged. */
  list(): string {
    this.#list ??= joinStrings(...this.names());
    return this.#list;
  }
}

/** What the C server would store beside a node's value, children and permissions: its record header. */
const recordHeaderBytes = 24;
const recordPermBytes = 8;

/** The size that the quota on nodes is held against: that of the C server's record. */
export function recordBytes(node: NodeContents): number {
  return recordHeaderBytes + recordPermBytes * node.perms.length + node.value.length + node.children.bytes;
}

interface Owned {
  readonly paths: Set<string>;
  bytes: number;
}

/** The global tree. */
export class Store implements NodeSpace {
  readonly #nodes = new Map<string, StoreNode>();
  readonly #owned = new Map<number, Owned>();
  #generation = 0;

  /** The count of changes so far. */
  get generation(): number {
    return this.#generation;
  }

  /** Counts one more change. A transaction counts its own writes here too, so that no two nodes share a generation. */
  nextGeneration(): number {
    this.#generation += 1;
    return this.#generation;
  }

  get size(): number {
    return this.#nodes.size;
  }

  get(path: string): StoreNode | undefined {
    return this.#nodes.get(path);
  }

  put(path: string, contents: NodeContents): StoreNode {
    const { value, perms, children } = contents;
    const node: StoreNode = { value, perms, children, generation: this.nextGeneration() };
    this.#account(path, this.#nodes.get(path), node);
    this.#nodes.set(path, node);
    return node;
  }

  remove(path: string): void {
    this.nextGeneration();
    this.#account(path, this.#nodes.get(path), undefined);
    this.#nodes.delete(path);
  }

  /** How many nodes `domid` owns. */
  ownedNodes(domid: number): number {
    return this.#owned.get(domid)?.paths.size ?? 0;
  }

  /** What the nodes of `domid` take, paths included. */
  ownedBytes(domid: number): number {
    return this.#owned.get(domid)?.bytes ?? 0;
  }

  /** The nodes of `domid` that do not lie below another of its nodes, in the order in which a walk of the tree meets them. */
  ownedRoots(domid: number): string[] {
    const paths = this.#owned.get(domid)?.paths;
    if (!paths) return [];
    const belowOwned = (path: string): boolean => {
      for (let at = path; at !== '/'; ) {
        at = parentPath(at);
        if (paths.has(at)) return true;
      }
      return false;
    };
    return [...paths]
      .filter((path) => !belowOwned(path))
      .map((path) => ({ path, place: this.#place(path) }))
      .sort((a, b) => comparePlaces(a.place, b.place))
      .map(({ path }) => path);
  }

  /** All nodes, for checks and snapshots. */
  entries(): IterableIterator<[string, StoreNode]> {
    return this.#nodes.entries();
  }

  /** The places of `path`'s ancestors and of itself among their siblings, from the root down. */
  #place(path: string): number[] {
    const place: number[] = [];
    for (let at = path; at !== '/'; at = parentPath(at)) {
      place.unshift(this.#nodes.get(parentPath(at))?.children.order(baseName(at)) ?? -1);
    }
    return place;
  }

  #account(path: string, before: StoreNode | undefined, after: StoreNode | undefined): void {
    if (before) {
      const owned = this.#owned.get(before.perms[0].domid);
      if (owned) {
        owned.bytes -= recordBytes(before) + path.length;
        if (before.perms[0].domid !== after?.perms[0].domid) owned.paths.delete(path);
        if (owned.paths.size === 0) this.#owned.delete(before.perms[0].domid);
      }
    }
    if (after) {
      const domid = after.perms[0].domid;
      let owned = this.#owned.get(domid);
      if (!owned) {
        owned = { paths: new Set(), bytes: 0 };
        this.#owned.set(domid, owned);
      }
      owned.bytes += recordBytes(after) + path.length;
      owned.paths.add(path);
    }
  }
}

function comparePlaces(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; ; i += 1) {
    const [x, y] = [a[i], b[i]];
    if (x === undefined || y === undefined) return a.length - b.length;
    if (x !== y) return x - y;
  }
}

/** One node that creating a path writes. */
export interface PlannedNode {
  readonly path: string;
  readonly contents: NodeContents;
  /** False for the one that existed and gets a child. */
  readonly fresh: boolean;
}

/**
 * What creating `path` with `value` has to write, in the order of writing: the new node, its missing ancestors upwards,
 * and last the nearest ancestor that exists, with its new child.
 *
 * New nodes inherit the permissions above them; `owner` is put in where an unprivileged domain creates, because such a
 * domain owns what it makes. `settled` strikes out what the inherited permissions give to domains that are gone.
 */
export function planCreation(
  space: NodeSpace,
  path: string,
  value: string,
  owner: number | undefined,
  settled: (node: StoreNode) => NodePerms,
): PlannedNode[] {
  const missing: string[] = [];
  let at = path;
  let ancestor: StoreNode | undefined;
  while (!ancestor) {
    if (at === '/') throw new XsError('ENOENT', 'the root is gone');
    missing.push(at);
    at = parentPath(at);
    ancestor = space.get(at);
  }
  const given = settled(ancestor);
  const [first, ...others] = given;
  const perms: NodePerms = owner === undefined ? given : [{ ...first, domid: owner }, ...others];
  const planned = missing.map((name, i): PlannedNode => {
    const below = missing[i - 1];
    const children = below === undefined ? Children.none : Children.none.with(baseName(below));
    return { path: name, contents: { value: i === 0 ? value : '', perms, children }, fresh: true };
  });
  const grown = ancestor.children.with(baseName(missing.at(-1) ?? path));
  planned.push({ path: at, contents: { value: ancestor.value, perms: given, children: grown }, fresh: false });
  return planned;
}

/**
 * Removes `path` and all below it: children before their parents, each as `removed` is told, and at last its name in its
 * parent. A child that its parent lists and that is not there ends it with EIO; only a transaction, whose copy of the
 * parent may be older than its view of the child, ever sees that.
 */
export function removeTree(
  space: NodeSpace,
  path: string,
  settled: (node: StoreNode) => NodePerms,
  removed: (path: string, node: StoreNode, parent: StoreNode) => void,
): void {
  const parentAt = parentPath(path);
  const parent = space.get(parentAt);
  if (!parent) throw new XsError('EINVAL', `${path} has no parent`);
  const walk = (at: string, above: StoreNode): void => {
    const node = space.get(at);
    if (!node) throw new XsError('EIO', `${at} is listed and missing`);
    for (const name of node.children.names()) walk(join(at, name), node);
    space.remove(at);
    removed(at, node, above);
  };
  walk(path, parent);
  if (!parent.children.has(baseName(path))) throw new XsError('EIO', `${path} is not listed`);
  space.put(parentAt, { value: parent.value, perms: settled(parent), children: parent.children.without(baseName(path)) });
}

/** What is wrong with the tree: nodes without a parent, names without a node. Empty when it is sound. */
export function faults(store: Store): string[] {
  const found: string[] = [];
  for (const [path, node] of store.entries()) {
    for (const name of node.children.names()) {
      if (!store.get(join(path, name))) found.push(`${join(path, name)} is listed and missing`);
    }
    if (path !== '/' && !store.get(parentPath(path))?.children.has(baseName(path))) found.push(`${path} is not listed`);
  }
  return found;
}
