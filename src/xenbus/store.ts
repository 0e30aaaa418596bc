/**
 * The node tree of XenStore: nodes, their permissions and their children.
 *
 * It knows paths, owners and generations, and nothing of connections, transactions in progress, watches or quotas.
 * A node is never changed: writing puts another in its place, so a transaction can keep the one that it read. The tree
 * is of places, each with its children by name, so that a removal costs what it removes and nothing costs more for
 * what is elsewhere. The rules are those of C xenstored 4.17 (docs/misc/xenstore.txt and the behaviour of
 * xenstored_core.c).
 */
import type { Keep, Recovered } from './keep.js';
import { baseName, join, parentPath } from './paths.js';
import { formatPerm, type Perm, parsePerm, XsError } from './xs-wire.js';

/** A permission as it is stored. One that is `ignored` was given to a domain that did not exist: it never counts again. */
export interface NodePerm extends Perm {
  readonly ignored?: boolean;
}
/** The owner's entry comes first; its letters are for all who are not named. */
export type NodePerms = readonly [NodePerm, ...NodePerm[]];

export interface StoreNode {
  /** A byte string. */
  readonly value: string;
  readonly perms: NodePerms;
  /** The store's count of changes when this, or its list of children, was written; what conflicts are found by. */
  readonly generation: number;
}

/** Told of a node that was removed, and of its parent. */
export type Removed = (path: string, node: StoreNode, parent: StoreNode | undefined) => void;

/** What a request acts on: the store, or one transaction's view of it. */
export interface NodeSpace {
  get(path: string): StoreNode | undefined;
  /** Writes a node, new or not, and enters a new one in its parent's list. The parent itself is not written by that. */
  put(path: string, value: string, perms: NodePerms): StoreNode;
  /**
   * Takes away what is at `path` and below it, and its name out of its parent's list. `removed` is told of every node,
   * children before their parents.
   */
  removeTree(path: string, removed?: Removed): void;
  /** The names of the children of `path`, in the order in which they were added. */
  names(path: string): string[];
  /** The same as DIRECTORY sends them, each with its NUL. */
  list(path: string): string;
  /** The length of that list. */
  listBytes(path: string): number;
}

/** A string that stays in memory by itself: the engine may keep a part of a string as a reference to the whole. */
export function ownString(part: string): string {
  return part.length < 13 ? part : Buffer.from(part, 'latin1').toString('latin1');
}

/** What the C server would store beside a node's value, children and permissions: its record header. */
const recordHeaderBytes = 24;
const recordPermBytes = 8;

/** The size that the quota on nodes is held against: that of the C server's record. */
export function recordBytes(value: string, perms: NodePerms, listBytes: number): number {
  return recordHeaderBytes + recordPermBytes * perms.length + value.length + listBytes;
}

/** The children of a place by name. The order of a Map is that of adding, which is DIRECTORY's. */
export type Children = ReadonlyMap<string, Place>;

/** Places that the store remembers by their path; past the bound it forgets them all. */
const rememberedMax = 4096;
/** Names that are kept as one string each; past the bound it begins anew. */
const namesMax = 4096;

/** Where a node is. It is empty while a request or a commit is half done: its node comes later, or is gone already. */
export interface Place {
  readonly name: string;
  readonly parent: Place | undefined;
  readonly node: StoreNode | undefined;
  readonly children: Children;
  /** The length of the list of their names. */
  readonly listBytes: number;
}

class Directory {
  children = new Map<string, OwnPlace>();
  /** The length of the list of their names. */
  bytes = 0;
  /** The list as DIRECTORY sends it. Kept, because a directory is often listed unchanged. */
  list: string | undefined;
  /** Transactions that hold `children` as it is; it must not be changed then, but be replaced. */
  holders = 0;
}

/** What every place without children has, and nobody changes. */
const noDirectory = new Directory();

class OwnPlace implements Place {
  node: StoreNode | undefined;
  directory = noDirectory;

  constructor(
    readonly name: string,
    readonly parent: OwnPlace | undefined,
    /** Rises with every place that is added to the store; the order among siblings. */
    public order: number,
  ) {}

  get children(): Map<string, OwnPlace> {
    return this.directory.children;
  }

  get listBytes(): number {
    return this.directory.bytes;
  }
}

interface Owned {
  nodes: number;
  /** Bytes of the nodes, their paths included. */
  bytes: number;
  /** Where they are; of dom0, which never goes, nobody asks. */
  readonly places: Set<OwnPlace> | undefined;
}

/** The key of a node is this and its path: a list of value, permissions, generation and order. */
const nodeKey = 'node';
/** Before a permission that is ignored. */
const ignoredMark = '!';

/** The global tree. */
export class Store implements NodeSpace {
  readonly #root = new OwnPlace('', undefined, 0);
  readonly #owned = new Map<number, Owned>();
  /** Places that were found lately, by path: most requests are about a few of them. */
  readonly #remembered = new Map<string, OwnPlace>();
  readonly #names = new Map<string, string>();
  #generation = 0;
  #order = 0;
  #size = 0;
  /** Places that were looked at so far: what an operation costs, whatever the machine. */
  visits = 0;

  /** With `recovered` it begins as the store that was kept there. */
  constructor(
    private readonly keep?: Keep,
    recovered?: Recovered,
  ) {
    if (recovered) this.#restore(recovered);
  }

  /** The count of changes so far. */
  get generation(): number {
    return this.#generation;
  }

  /** Counts one more change. A transaction counts its own writes here too, so that no two nodes share a generation. */
  nextGeneration(): number {
    this.#generation += 1;
    return this.#generation;
  }

  /** How many nodes there are. */
  get size(): number {
    return this.#size;
  }

  get(path: string): StoreNode | undefined {
    return this.#find(path)?.node;
  }

  /** Whether `path` is that of a node which was found lately: then it is a path. False says nothing. */
  remembers(path: string): boolean {
    return this.#remembered.get(path)?.node !== undefined;
  }

  put(path: string, value: string, perms: NodePerms): StoreNode {
    const place = this.#make(path);
    const node: StoreNode = { value, perms, generation: this.nextGeneration() };
    this.#set(place, node, path.length);
    return node;
  }

  /** Takes one node away. If it has children, they must follow before the request is done. */
  remove(path: string): void {
    this.nextGeneration();
    const place = this.#find(path);
    if (!place) return;
    this.#set(place, undefined, path.length);
    this.#prune(place);
  }

  /** Costs what is there; without `removed` no path below is put together. */
  removeTree(path: string, removed?: Removed): void {
    const place = this.#find(path);
    if (!place) return;
    this.#empty(place, path.length, path, removed);
    if (place.parent) this.#detach(place, place.parent);
  }

  names(path: string): string[] {
    return [...(this.#find(path)?.children.keys() ?? [])];
  }

  list(path: string): string {
    const place = this.#find(path);
    if (!place) return '';
    if (place.directory === noDirectory) return '';
    place.directory.list ??= listOf(place.children.keys());
    return place.directory.list;
  }

  listBytes(path: string): number {
    return this.#find(path)?.listBytes ?? 0;
  }

  /** The place of `path`, for a transaction: its present `children` stay as they are until it is given back with them. */
  borrow(path: string): Place | undefined {
    const place = this.#find(path);
    if (place && place.directory !== noDirectory) place.directory.holders += 1;
    return place;
  }

  giveBack(place: Place | undefined, children: Children | undefined): void {
    const { directory } = (place as OwnPlace | undefined) ?? { directory: noDirectory };
    if (directory !== noDirectory && directory.children === children) directory.holders -= 1;
  }

  /** A mark in time: places that are added later have a higher order. */
  get order(): number {
    return this.#order;
  }

  /** Has `names` stand at the end of the list of `path`, in their order. Nothing is to do if they came so, after `mark`. */
  moveToEnd(path: string, names: readonly string[], mark: number): void {
    const place = this.#find(path);
    if (!place) return;
    let last = mark;
    let inOrder = true;
    for (const name of names) {
      const order = place.children.get(name)?.order ?? 0;
      inOrder &&= order > last;
      last = order;
    }
    if (inOrder) return;
    const children = this.#changeable(place);
    for (const name of names) {
      const child = children.get(name);
      if (!child) continue;
      children.delete(name);
      children.set(name, child);
      this.#order += 1;
      child.order = this.#order;
      this.#kept(child);
    }
  }

  /** How many nodes `domid` owns. */
  ownedNodes(domid: number): number {
    return this.#owned.get(domid)?.nodes ?? 0;
  }

  /** What the nodes of `domid` take, paths included. */
  ownedBytes(domid: number): number {
    return this.#owned.get(domid)?.bytes ?? 0;
  }

  /** The nodes of guest `domid` that do not lie below another of its nodes, in the order in which a walk of the tree meets them. */
  ownedRoots(domid: number): string[] {
    const isOwned = (place: OwnPlace | undefined) => place?.node?.perms[0].domid === domid;
    const roots: { readonly path: string; readonly orders: readonly number[] }[] = [];
    for (const place of this.#owned.get(domid)?.places ?? []) {
      const orders: number[] = [];
      let isBelow = false;
      for (let at: OwnPlace | undefined = place; at; at = at.parent) {
        orders.unshift(at.order);
        isBelow ||= at !== place && isOwned(at);
      }
      if (!isBelow) roots.push({ path: pathOf(place), orders });
    }
    return roots.sort((a, b) => compareOrders(a.orders, b.orders)).map(({ path }) => path);
  }

  /** All nodes, for checks and snapshots. */
  *entries(): IterableIterator<[string, StoreNode]> {
    for (const place of this.places()) if (place.node) yield [pathOf(place), place.node];
  }

  /** All places, parents first. */
  *places(): IterableIterator<Place> {
    const waiting: OwnPlace[] = [this.#root];
    for (let place = waiting.pop(); place; place = waiting.pop()) {
      yield place;
      for (const child of [...place.children.values()].reverse()) waiting.push(child);
    }
  }

  #find(path: string): OwnPlace | undefined {
    this.visits += 1;
    const remembered = this.#remembered.get(path);
    if (remembered?.node) return remembered;
    let at: OwnPlace | undefined = this.#root;
    for (let from = 1; at && from < path.length; ) {
      const slash = path.indexOf('/', from);
      const end = slash < 0 ? path.length : slash;
      at = at.children.get(path.slice(from, end));
      from = end + 1;
      this.visits += 1;
    }
    if (at?.node) {
      if (this.#remembered.size >= rememberedMax) this.#remembered.clear();
      this.#remembered.set(ownString(path), at);
    }
    return at;
  }

  /** The place of `path`, with empty places on the way to it where there are none. */
  #make(path: string): OwnPlace {
    const found = this.#find(path);
    if (found) return found;
    let at = this.#root;
    for (let from = 1; from < path.length; ) {
      const slash = path.indexOf('/', from);
      const end = slash < 0 ? path.length : slash;
      const name = path.slice(from, end);
      at = at.children.get(name) ?? this.#attach(at, name);
      from = end + 1;
      this.visits += 1;
    }
    return at;
  }

  #attach(parent: OwnPlace, name: string): OwnPlace {
    this.#order += 1;
    const place = new OwnPlace(this.#shared(name), parent, this.#order);
    this.#changeable(parent).set(place.name, place);
    this.#resize(parent, name.length + 1);
    return place;
  }

  #detach(place: OwnPlace, parent: OwnPlace): void {
    const children = this.#changeable(parent);
    children.delete(place.name);
    this.#resize(parent, -(place.name.length + 1));
    if (children.size === 0) parent.directory = noDirectory;
  }

  /** Takes empty places without children away, from `place` upwards. */
  #prune(place: OwnPlace): void {
    for (let at = place; at.parent && !at.node && at.children.size === 0; at = at.parent) this.#detach(at, at.parent);
  }

  /** The children of `place`, to be changed: another Map when a transaction holds the present one. */
  #changeable(place: OwnPlace): Map<string, OwnPlace> {
    if (place.directory === noDirectory) place.directory = new Directory();
    const { directory } = place;
    if (directory.holders > 0) directory.children = new Map(directory.children);
    directory.holders = 0;
    directory.list = undefined;
    return directory.children;
  }

  /** The one string of that name: the same few hundred names are in every domain. */
  #shared(name: string): string {
    const known = this.#names.get(name);
    if (known !== undefined) return known;
    if (this.#names.size >= namesMax) this.#names.clear();
    const own = ownString(name);
    this.#names.set(own, own);
    return own;
  }

  #resize(place: OwnPlace, by: number): void {
    place.directory.bytes += by;
    const owned = place.node && this.#owned.get(place.node.perms[0].domid);
    if (owned) owned.bytes += by;
  }

  /** Empties `place` and all below it, children first. */
  #empty(place: OwnPlace, pathLength: number, path: string, removed: Removed | undefined): void {
    this.visits += 1;
    for (const child of place.children.values()) {
      this.#empty(
        child,
        pathLength + child.name.length + (pathLength === 1 ? 0 : 1),
        removed ? join(path, child.name) : '',
        removed,
      );
    }
    const { node } = place;
    this.nextGeneration();
    this.#set(place, undefined, pathLength);
    place.directory = noDirectory;
    if (node) removed?.(path, node, place.parent?.node);
  }

  /** Puts `node` where another or none was, and keeps the accounts of owners. */
  #set(place: OwnPlace, node: StoreNode | undefined, pathLength: number): void {
    const before = place.node;
    place.node = node;
    if (before) {
      const domid = before.perms[0].domid;
      const owned = this.#ownedBy(domid);
      owned.bytes -= recordBytes(before.value, before.perms, place.listBytes) + pathLength;
      owned.nodes -= 1;
      this.#size -= 1;
      if (node?.perms[0].domid !== domid) owned.places?.delete(place);
      if (owned.nodes === 0 && node?.perms[0].domid !== domid) this.#owned.delete(domid);
    }
    if (node) {
      const owned = this.#ownedBy(node.perms[0].domid);
      owned.bytes += recordBytes(node.value, node.perms, place.listBytes) + pathLength;
      owned.nodes += 1;
      this.#size += 1;
      owned.places?.add(place);
    }
    this.#kept(place);
  }

  #kept(place: OwnPlace): void {
    if (!this.keep) return;
    const { node, order } = place;
    const key = nodeKey + pathOf(place);
    if (node) this.keep.set(key, [node.value, node.perms.map(permText), node.generation, order]);
    else this.keep.delete(key);
  }

  /** Parents before their children, and siblings in their order. */
  #restore(recovered: Recovered): void {
    const nodes = [...recovered].flatMap(([key, value]) => {
      if (!key.startsWith(`${nodeKey}/`)) return [];
      const path = key.slice(nodeKey.length);
      const [text, perms, generation, order] = value as readonly [string, readonly string[], number, number];
      return [{ path, depth: path === '/' ? 0 : path.split('/').length, text, perms, generation, order }];
    });
    nodes.sort((a, b) => a.depth - b.depth || a.order - b.order);
    for (const { path, text, perms, generation, order } of nodes) {
      const place = this.#make(path);
      place.order = order;
      const [owner, ...others] = perms.map(permOf);
      if (owner) this.#set(place, { value: text, perms: [owner, ...others], generation }, path.length);
      this.#order = Math.max(this.#order, order);
      this.#generation = Math.max(this.#generation, generation);
    }
  }

  #ownedBy(domid: number): Owned {
    const known = this.#owned.get(domid);
    if (known) return known;
    const owned: Owned = { nodes: 0, bytes: 0, places: domid === 0 ? undefined : new Set() };
    this.#owned.set(domid, owned);
    return owned;
  }
}

export function permText(perm: NodePerm): string {
  return `${perm.ignored ? ignoredMark : ''}${formatPerm(perm)}`;
}

export function permOf(text: string): NodePerm {
  const ignored = text.startsWith(ignoredMark);
  const perm = parsePerm(ignored ? text.slice(ignoredMark.length) : text);
  if (!perm) throw new Error(`${text} was kept as a permission`);
  return ignored ? { ...perm, ignored } : perm;
}

/** Names, each with its NUL. */
export function listOf(names: Iterable<string>): string {
  let list = '';
  for (const name of names) list += `${name}\0`;
  return list;
}

function pathOf(place: Place): string {
  let path = '';
  for (let at = place; at.parent; at = at.parent) path = `/${at.name}${path}`;
  return path || '/';
}

function compareOrders(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; ; i += 1) {
    const [x, y] = [a[i], b[i]];
    if (x === undefined || y === undefined) return a.length - b.length;
    if (x !== y) return x - y;
  }
}

/** One node that creating a path writes. */
export interface PlannedNode {
  readonly path: string;
  readonly value: string;
  readonly perms: NodePerms;
  /** The length of its list of children, when it is written. */
  readonly listBytes: number;
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
  let below = 0;
  const planned = missing.map((name, i): PlannedNode => {
    const node = { path: name, value: i === 0 ? value : '', perms, listBytes: below, fresh: true };
    below = baseName(name).length + 1;
    return node;
  });
  const listBytes = space.listBytes(at) + below;
  planned.push({ path: at, value: ancestor.value, perms: given, listBytes, fresh: false });
  return planned;
}

/** What is wrong with the tree and its accounts. Empty when all is sound. */
export function faults(store: Store): string[] {
  const found: string[] = [];
  const counted = new Map<number, { nodes: number; bytes: number }>();
  let size = 0;
  for (const place of store.places()) {
    const path = pathOf(place);
    if (!place.node) found.push(`${path} is listed and missing`);
    for (const [name, child] of place.children) {
      if (child.parent !== place || child.name !== name) found.push(`${path} lists ${name}, which is elsewhere`);
    }
    if (!place.node) continue;
    const { value, perms } = place.node;
    const domid = perms[0].domid;
    const sum = counted.get(domid) ?? { nodes: 0, bytes: 0 };
    counted.set(domid, {
      nodes: sum.nodes + 1,
      bytes: sum.bytes + recordBytes(value, perms, listOf(place.children.keys()).length) + path.length,
    });
    size += 1;
  }
  if (size !== store.size) found.push(`there are ${size} nodes, and ${store.size} are counted`);
  for (const [domid, { nodes, bytes }] of counted) {
    if (nodes !== store.ownedNodes(domid))
      found.push(`domain ${domid} owns ${nodes} nodes, and ${store.ownedNodes(domid)} are counted`);
    if (bytes !== store.ownedBytes(domid))
      found.push(`domain ${domid} owns ${bytes} bytes, and ${store.ownedBytes(domid)} are counted`);
  }
  return found;
}
