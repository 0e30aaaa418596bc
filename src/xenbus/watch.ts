/**
 * The watches of XenStore: who wants to hear of which path.
 *
 * A table and a search, no delivery and no permissions. Watches lie in a tree of their paths, whether there are such
 * nodes or not, so that a change finds its own on the way down to it, at the same cost however many there are
 * elsewhere. The order is C xenstored's: the connections from the oldest to the newest, and each one's watches in the
 * order of registration.
 */

export interface Watch {
  readonly conn: number;
  /** Absolute, or the name of a special event (`@introduceDomain`). */
  readonly path: string;
  readonly token: string;
  /** How much of an event's path is left out: the connection's home, if the watch was given a relative path. */
  readonly prefix: number;
  /** Rises with every registration. */
  readonly order: number;
}

/** The path that an event of `watch` reports for a change of `path`. */
export function reportedPath(watch: Watch, path: string): string {
  if (watch.prefix === 0) return path;
  return path[watch.prefix] === '/' ? path.slice(watch.prefix + 1) : path.slice(watch.prefix);
}

const keyOf = (path: string, token: string): string => `${path}\0${token}`;

const inOrder = (a: Watch, b: Watch): number => a.conn - b.conn || a.order - b.order;

/** A path of more names than this is nobody's, and costs what its entries in the tree take. */
const ordinaryNames = 32;
const nameBytes = 512;

/** What a watch counts for: the bytes of its path and token, as in C xenstored. */
export function watchBytes(path: string, token: string): number {
  return path.length + token.length + nameBytes * Math.max(0, namesOf(path).length - ordinaryNames);
}

interface OfConnection {
  readonly watches: Map<string, Watch>;
  bytes: number;
}

/** A path that is watched, or leads to one that is. */
interface WatchedPath {
  readonly name: string;
  readonly parent: WatchedPath | undefined;
  readonly watches: Set<Watch>;
  readonly below: Map<string, WatchedPath>;
}

const watchedPath = (name: string, parent?: WatchedPath): WatchedPath => ({ name, parent, watches: new Set(), below: new Map() });

export class WatchTable {
  /** The paths from `/` on. A special event is a name beside them. */
  readonly #root = watchedPath('');
  readonly #special = watchedPath('');
  readonly #byConn = new Map<number, OfConnection>();
  #order = 0;
  /** Entries that were looked at so far: what a search costs, whatever the machine. */
  visits = 0;

  has(conn: number, path: string, token: string): boolean {
    return this.#byConn.get(conn)?.watches.has(keyOf(path, token)) ?? false;
  }

  add(conn: number, path: string, token: string, prefix: number): Watch {
    const watch: Watch = { conn, path, token, prefix, order: this.#order++ };
    const ofConn = this.#byConn.get(conn) ?? { watches: new Map(), bytes: 0 };
    ofConn.watches.set(keyOf(path, token), watch);
    ofConn.bytes += watchBytes(path, token);
    this.#byConn.set(conn, ofConn);
    let at = path.startsWith('@') ? this.#special : this.#root;
    for (const name of namesOf(path)) {
      this.visits += 1;
      let next = at.below.get(name);
      if (!next) {
        next = watchedPath(name, at);
        at.below.set(name, next);
      }
      at = next;
    }
    at.watches.add(watch);
    return watch;
  }

  /** The watch that was taken out, or undefined when there was none. */
  remove(conn: number, path: string, token: string): Watch | undefined {
    const ofConn = this.#byConn.get(conn);
    const watch = ofConn?.watches.get(keyOf(path, token));
    if (!ofConn || !watch) return undefined;
    ofConn.watches.delete(keyOf(path, token));
    ofConn.bytes -= watchBytes(path, token);
    if (ofConn.watches.size === 0) this.#byConn.delete(conn);
    this.#forget(watch);
    return watch;
  }

  removeAll(conn: number): void {
    for (const watch of this.#byConn.get(conn)?.watches.values() ?? []) this.#forget(watch);
    this.#byConn.delete(conn);
  }

  /** How many watches a connection has, and how much they take. */
  usage(conn: number): { readonly count: number; readonly bytes: number } {
    const ofConn = this.#byConn.get(conn);
    return { count: ofConn?.watches.size ?? 0, bytes: ofConn?.bytes ?? 0 };
  }

  /** Those on `path` itself and, unless `exact`, those on its ancestors; in the order of delivery. */
  matching(path: string, exact: boolean): Watch[] {
    const found: Watch[] = [];
    let at: WatchedPath | undefined = path.startsWith('@') ? this.#special : this.#root;
    for (let from = 1; at && from < path.length; ) {
      if (!exact) this.#collect(at, found);
      const slash = path.indexOf('/', from);
      const end = slash < 0 ? path.length : slash;
      at = at.below.get(path.slice(from, end));
      from = end + 1;
    }
    if (at) this.#collect(at, found);
    return found.length > 1 ? found.sort(inOrder) : found;
  }

  /** Whether any watch is on a path below `path`. */
  isWatchedBelow(path: string): boolean {
    const at = this.#find(path);
    return at !== undefined && at.below.size > 0;
  }

  #collect({ watches }: WatchedPath, found: Watch[]): void {
    this.visits += 1 + watches.size;
    for (const watch of watches) found.push(watch);
  }

  #find(path: string): WatchedPath | undefined {
    let at: WatchedPath | undefined = path.startsWith('@') ? this.#special : this.#root;
    for (const name of namesOf(path)) {
      this.visits += 1;
      at = at?.below.get(name);
    }
    return at;
  }

  #forget(watch: Watch): void {
    const place = this.#find(watch.path);
    place?.watches.delete(watch);
    for (let at = place; at?.parent && at.watches.size === 0 && at.below.size === 0; at = at.parent)
      at.parent.below.delete(at.name);
  }
}

/** `local` and `domain` of `/local/domain`; none of `/`. A special event is one name. */
function namesOf(path: string): string[] {
  return path === '/' ? [] : path.slice(1).split('/');
}
