/**
 * The watches of XenStore: who wants to hear of which path.
 *
 * A table and a search, no delivery and no permissions. A change finds its watches by its path and the path's
 * ancestors, so that it costs the same however many watches there are elsewhere. The order is C xenstored's: the
 * connections from the oldest to the newest, and each one's watches in the order of registration.
 */
import { parentPath } from './paths.js';

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

interface OfConnection {
  readonly watches: Map<string, Watch>;
  bytes: number;
}

export class WatchTable {
  readonly #byPath = new Map<string, Set<Watch>>();
  readonly #byConn = new Map<number, OfConnection>();
  #order = 0;

  has(conn: number, path: string, token: string): boolean {
    return this.#byConn.get(conn)?.watches.has(keyOf(path, token)) ?? false;
  }

  add(conn: number, path: string, token: string, prefix: number): Watch {
    const watch: Watch = { conn, path, token, prefix, order: this.#order++ };
    const ofConn = this.#byConn.get(conn) ?? { watches: new Map(), bytes: 0 };
    ofConn.watches.set(keyOf(path, token), watch);
    ofConn.bytes += path.length + token.length;
    this.#byConn.set(conn, ofConn);
    const ofPath = this.#byPath.get(path) ?? new Set<Watch>();
    this.#byPath.set(path, ofPath.add(watch));
    return watch;
  }

  /** The watch that was taken out, or undefined when there was none. */
  remove(conn: number, path: string, token: string): Watch | undefined {
    const ofConn = this.#byConn.get(conn);
    const watch = ofConn?.watches.get(keyOf(path, token));
    if (!ofConn || !watch) return undefined;
    ofConn.watches.delete(keyOf(path, token));
    ofConn.bytes -= path.length + token.length;
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
    if (this.#byPath.size === 0) return found;
    for (let at = path; ; at = parentPath(at)) {
      const here = this.#byPath.get(at);
      if (here) found.push(...here);
      if (exact || at === '/') break;
    }
    return found.length > 1 ? found.sort(inOrder) : found;
  }

  #forget(watch: Watch): void {
    const ofPath = this.#byPath.get(watch.path);
    ofPath?.delete(watch);
    if (ofPath?.size === 0) this.#byPath.delete(watch.path);
  }
}
