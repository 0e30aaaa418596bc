/**
 * What must hold between requests, whoever asked what: the tree is sound, the counts are those of a recount, every
 * request is answered, and when all is over nothing is left.
 *
 * The recount walks the store with packets, as a client would. What else is looked at is public: `faults`, `Store`'s
 * counts, `WatchTable.usage`, `StoreLoop.connections`. A change of the store's inside is followed in this file alone.
 */
import { isWithin, join } from '../../src/xenbus/paths.js';
import { faults } from '../../src/xenbus/store.js';
import { splitStrings, XsType } from '../../src/xenbus/xs-wire.js';
import { Broken, bystanderDomid, guestDomids, type Rig, shown } from './rig.js';

/** The size of a node for its owner: the C server's record, and the path. */
const recordBytes = (path: string, perms: number, value: string, list: string): number =>
  24 + 8 * perms + value.length + list.length + path.length;

interface Counted {
  nodes: number;
  bytes: number;
}

/** Every path of the store, and what each owner has, by asking. */
function recount(rig: Rig): { readonly paths: string[]; readonly owners: Map<number, Counted> } {
  const paths: string[] = [];
  const owners = new Map<number, Counted>();
  const ask = (type: number, ...strings: readonly string[]): string => {
    const reply = rig.ask(type, ...strings);
    if (reply.type !== type) throw new Broken('a walk of the tree is answered', `${strings}: ${shown(reply)}`);
    return reply.payload;
  };
  /** By parts, because a list can be longer than a packet. */
  const children = (path: string): string => {
    for (let list = ''; ; ) {
      const part = ask(XsType.DirectoryPart, path, String(list.length));
      const rest = part.slice(part.indexOf('\0') + 1);
      // The last part has a NUL more.
      if (rest === '' || rest === '\0' || rest.endsWith('\0\0')) return list + rest.slice(0, -1);
      list += rest;
    }
  };
  const walk = (path: string): void => {
    paths.push(path);
    const list = children(path);
    const perms = splitStrings(ask(XsType.GetPerms, path));
    const owner = Number(perms[0]?.slice(1));
    const counted = owners.get(owner) ?? { nodes: 0, bytes: 0 };
    counted.nodes += 1;
    counted.bytes += recordBytes(path, perms.length, ask(XsType.Read, path), list);
    owners.set(owner, counted);
    for (const name of splitStrings(list)) walk(join(path, name));
  };
  walk('/');
  return { paths, owners };
}

const same = (law: string, found: unknown, expected: unknown, facts = ''): void => {
  const [is, should] = [JSON.stringify(found), JSON.stringify(expected)];
  if (is !== should) throw new Broken(law, `${facts} is ${is}, should be ${should}`);
};

/** What xenstore-control's `quota DOMID` says, or undefined for a domain that the store does not know. */
/** How many names a path has; those past the 32nd of a watch are charged for what they take. */
const depthOf = (path: string): number => path.split('/').filter((name) => name !== '').length;

function usageOf(rig: Rig, domid: number): Map<string, number> | undefined {
  const reply = rig.ask(XsType.Control, 'quota', String(domid));
  if (reply.type === XsType.Error) return undefined;
  const lines = [...reply.payload.matchAll(/^(\w+) *: *(\d+)$/gm)];
  return new Map(lines.map(([, name = '', used]) => [name, Number(used)]));
}

/** To be held when everybody reads and nothing waits to be served. */
export function checkLaws(rig: Rig): void {
  rig.settle();
  const { core } = rig.loop;
  for (const conn of rig.open) {
    // Past its memory a guest is not served any more.
    const first = conn.unanswered[0];
    if (first && !core.isStalled(conn.domid)) {
      const more = `${conn.unanswered.length - 1} more of ${conn.name} of domain ${conn.domid}`;
      throw new Broken('every request is answered', `${shown(first)} and ${more} were not`);
    }
  }
  for (const id of rig.takeGone()) {
    same('nothing is left of a connection', core.watches.usage(id), { count: 0, bytes: 0 }, String(id));
  }
  same('the tree is sound', faults(core.store), []);
  const { paths, owners } = recount(rig);
  same('the store counts its nodes', core.store.size, paths.length, 'size');
  same('a path is there once', new Set(paths).size, paths.length);
  for (const domid of new Set([0, bystanderDomid, ...guestDomids, ...owners.keys()])) {
    const { nodes, bytes } = owners.get(domid) ?? { nodes: 0, bytes: 0 };
    const found = { nodes: core.store.ownedNodes(domid), bytes: core.store.ownedBytes(domid) };
    same('owners are charged for what they own', found, { nodes, bytes }, `domain ${domid}`);
    let [watches, watchBytes, transactions] = [0, 0, 0];
    for (const conn of rig.open) {
      if (conn.domid !== domid) continue;
      const ofConn = core.watches.usage(conn.id);
      let held = 0;
      for (const { path, token } of conn.watches.values())
        held += path.length + token.length + 512 * Math.max(0, depthOf(path) - 32);
      same('watches are counted', ofConn, { count: conn.watches.size, bytes: held }, conn.name);
      watches += ofConn.count;
      watchBytes += ofConn.bytes;
      transactions += conn.transactions.size;
    }
    const usage = usageOf(rig, domid);
    if (!usage) {
      same('only an unknown domain has no usage', [nodes, watches, transactions], [0, 0, 0], `domain ${domid}`);
      continue;
    }
    const reported = [usage.get('nodes'), usage.get('watches'), usage.get('transactions')];
    same('usage is what there is', reported, [nodes, watches, transactions], `domain ${domid}`);
    const memory = usage.get('memory') ?? 0;
    if (transactions === 0) same('memory is nodes and watches', memory, bytes + watchBytes, `domain ${domid}`);
    else if (memory < bytes + watchBytes) throw new Broken('memory is nodes and watches at least', `domain ${domid}: ${memory}`);
  }
  same('connections are counted', rig.loop.connections, rig.open.size);
}

/** What a rig has before anything is done to it. */
export function birthmark(rig: Rig): string[] {
  return recount(rig).paths.filter((path) => !isBystanders(path));
}

/** The bystanders are in the middle of their dialogue. */
const isBystanders = (path: string): boolean =>
  path.startsWith('/by') || path.startsWith(`/local/domain/${bystanderDomid}`) || path === '/local' || path === '/local/domain';

/** Lets everybody go and removes what dom0 made, and expects the store as it was at birth. */
export function checkNothingLeft(rig: Rig, born: readonly string[]): void {
  rig.release();
  const { core } = rig.loop;
  for (const domid of guestDomids) {
    const left = [core.store.ownedNodes(domid), core.store.ownedBytes(domid), core.memoryOf(domid), usageOf(rig, domid) ?? null];
    same('nothing is left of a dead domain', left, [0, 0, 0, null], `domain ${domid}`);
  }
  checkLaws(rig);
  for (const name of ['@introduceDomain', '@releaseDomain']) rig.ask(XsType.SetPerms, name, 'n0');
  const keep = new Set(born);
  let removed = '/none';
  for (const path of recount(rig).paths) {
    if (keep.has(path) || isBystanders(path) || isWithin(path, removed)) continue;
    rig.ask(XsType.Rm, path);
    removed = path;
  }
  rig.ask(XsType.SetPerms, '/', 'n0');
  // What was there at birth may be gone, when dom0 gave it to somebody who died.
  const left = recount(rig).paths.filter((path) => !keep.has(path) && !isBystanders(path));
  same('nothing is left in the tree', left, []);
  checkLaws(rig);
}
