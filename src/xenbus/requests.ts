/**
 * The requests of XenStore, one function each, in the order of checks and with the errnos of C xenstored 4.17.
 *
 * What a request does to the store is in here; who may ask, and what becomes of it, is the core's (`xenstored.ts`).
 */
import { canonical, domainPath, parentPath } from './paths.js';
import {
  dom0TransactionsMax,
  dom0WatchesMax,
  hardQuotas,
  type QuotaName,
  quotaReport,
  softQuotas,
  usageReport,
} from './quota.js';
import { faults, type NodePerm, type NodePerms, type NodeSpace, ownString } from './store.js';
import { applyChanges, Transaction } from './transaction.js';
import { type Watch, watchBytes } from './watch.js';
import { DOMID_FIRST_RESERVED } from './xenbus.js';
import type { Xenstored } from './xenstored.js';
import {
  formatPerm,
  joinStrings,
  oneString,
  terminatedStrings,
  XENSTORE_PAYLOAD_MAX,
  XENSTORE_REL_PATH_MAX,
  type XsErrno,
  XsError,
  XsType,
} from './xs-wire.js';

export interface Connection {
  readonly id: number;
  readonly domid: number;
  readonly transactions: Map<number, Transaction>;
  lastTransaction: number;
}

/** What is known of a domain: an introduced one, or one that a permission names. */
export interface Domain {
  readonly domid: number;
  /** Rises with every domain that becomes known. */
  readonly order: number;
  /** The store's generation when it became known. What was granted before that was granted to another domain. */
  readonly generation: number;
  readonly conns: Set<Connection>;
  introduced: boolean;
  /** Whether its shutdown has been announced. */
  shutdown: boolean;
  /** The event channel that it was introduced with. */
  port: number;
  /** A domain whose rights it has too (XS_SET_TARGET). */
  target: number | undefined;
  /** The domains that have it for a target. */
  readonly targetOf: Set<Domain>;
}

export interface Request {
  readonly conn: Connection;
  readonly payload: string;
  readonly transaction: Transaction | undefined;
  /** Where it reads and writes: its transaction, or the store. */
  readonly space: NodeSpace;
  /** The watch that it registered, which fires once behind the reply. */
  registered?: Watch;
}

export interface Handler {
  /** The payload of the reply. */
  readonly run: (core: Xenstored, request: Request) => string;
  /** For dom0 alone: EACCES. */
  readonly privileged?: true;
  /** The transaction id is echoed and otherwise ignored. */
  readonly outsideTransactions?: true;
}

export const mayRead = 1;
export const mayWrite = 2;
export const mayOwn = 4;
export const mayAll = mayRead | mayWrite | mayOwn;

export const ok = joinStrings('OK');
export const specialNames = ['@introduceDomain', '@releaseDomain'] as const;
export const ownedByDom0: NodePerms = [{ domid: 0, read: false, write: false }];

export function permBits(perm: NodePerm): number {
  return (perm.read ? mayRead : 0) | (perm.write ? mayWrite : 0);
}

/** C's `atoi`: white space, a sign and digits, as a 32-bit integer; 0 for anything else. */
export function atoi(text: string): number {
  const match = /^[ \t-\r]*([+-]?\d+)/.exec(text);
  return match?.[1] ? clampLong(BigInt(match[1].replace('+', ''))) : 0;
}

/** A long as C converts it to an int. */
function clampLong(value: bigint): number {
  const max = 2n ** 63n - 1n;
  const clamped = value > max ? max : value < -max - 1n ? -max - 1n : value;
  return Number(BigInt.asIntN(32, clamped));
}

/** A permission in any spelling that C's `strtol` takes for the domid: `r1`, `n0x10`, `b-1`, `w 7`, `r010`. */
export function lenientPerm(text: string): NodePerm | undefined {
  const match = /^([rwbn])[ \t-\r]*([+-]?)(0[xX][\da-fA-F]+|0[0-7]*|[1-9]\d*)$/.exec(text);
  if (!match) return undefined;
  const [, letter, sign, digits = ''] = match;
  const value = BigInt(/^0[0-7]/.test(digits) ? `0o${digits}` : digits);
  const domid = clampLong(sign === '-' ? -value : value);
  return { domid, read: letter === 'r' || letter === 'b', write: letter === 'w' || letter === 'b' };
}

/** The only string of a payload; the errnos for anything else are the accidental ones of the C server. */
function only({ payload }: Request, errno: XsErrno): string {
  const name = oneString(payload);
  if (name === undefined) throw new XsError(errno, 'not one string');
  return name;
}

/** Two strings and no third; bytes behind the second are ignored. */
function pathAndToken({ payload }: Request): [string, string] {
  const [path, token, third] = terminatedStrings(payload);
  if (path === undefined || token === undefined || third !== undefined) throw new XsError('EINVAL', 'not a path and a token');
  return [path, token];
}

function directory(core: Xenstored, request: Request): string {
  const name = only(request, 'ENOENT');
  core.existing(request, name);
  return request.space.list(core.path(request.conn, name));
}

function directoryPart(core: Xenstored, request: Request): string {
  const [name, offset, third] = terminatedStrings(request.payload);
  if (name === undefined || offset === undefined || third !== undefined) throw new XsError('EINVAL', 'not a path and an offset');
  const node = core.existing(request, name);
  const list = request.space.list(core.path(request.conn, name));
  const from = atoi(offset) >>> 0;
  const generation = joinStrings(String(node.generation));
  if (from >= list.length) return `${generation}\0`;
  const room = XENSTORE_PAYLOAD_MAX - generation.length - 1;
  if (list.length - from <= room) return `${generation}${list.slice(from)}\0`;
  const end = list.lastIndexOf('\0', from + room - 1) + 1;
  return generation + list.slice(from, Math.max(from, end));
}

function write(core: Xenstored, request: Request): string {
  const { conn, payload, transaction } = request;
  const nul = payload.indexOf('\0');
  if (nul < 0) throw new XsError('EINVAL', 'no path');
  const path = core.path(conn, payload.slice(0, nul));
  const before = core.lookup(request, path, mayWrite);
  const value = ownString(payload.slice(nul + 1));
  const node = before ? core.rewrite(request, path, before, value, core.settled(before)) : core.create(request, path, value);
  core.fire(transaction, path, false, { node });
  return ok;
}

function mkdir(core: Xenstored, request: Request): string {
  const path = core.path(request.conn, only(request, 'ENOMEM'));
  if (!core.lookup(request, path, mayWrite)) {
    const node = core.create(request, path, '');
    core.fire(request.transaction, path, false, { node });
  }
  return ok;
}

function rm(core: Xenstored, request: Request): string {
  const path = core.path(request.conn, only(request, 'ENOMEM'));
  if (!core.lookup(request, path, mayWrite)) {
    if (!request.space.get(parentPath(path))) throw new XsError('ENOENT');
    return ok;
  }
  if (path === '/') throw new XsError('EINVAL', 'the root stays');
  core.removeTree(request.space, request.transaction, path);
  return ok;
}

function areSame(some: NodePerms, others: NodePerms): boolean {
  return (
    some.length === others.length &&
    some.every(({ domid, read, write, ignored }, i) => {
      const other = others[i];
      return other?.domid === domid && other.read === read && other.write === write && other.ignored === ignored;
    })
  );
}

function setPerms(core: Xenstored, request: Request): string {
  const { conn, payload, transaction } = request;
  const [name, ...texts] = terminatedStrings(payload);
  if (name === undefined || texts.length === 0) throw new XsError('EINVAL', 'no permissions');
  if (conn.domid !== 0 && texts.length > core.quotas.limits.permissions) core.quotas.refuse('permissions', conn.domid, 'ENOSPC');
  const parsed = texts.map((text) => {
    const perm = lenientPerm(text);
    if (!perm) throw new XsError('EINVAL', 'not a permission');
    return perm;
  });
  const [owner, ...others] = parsed.map((perm) => (core.existingDomain(perm.domid) ? perm : { ...perm, ignored: true }));
  if (!owner || owner.ignored) throw new XsError('ENOENT', 'no such owner');
  const perms: NodePerms = [owner, ...others];
  if (name.startsWith('@')) {
    core.setSpecialPerms(conn, name, perms);
    return ok;
  }
  const path = core.path(conn, name);
  const before = core.lookup(request, path, mayWrite | mayOwn);
  if (!before) throw new XsError('ENOENT');
  if (conn.domid !== 0 && owner.domid !== before.perms[0].domid) throw new XsError('EPERM');
  transaction?.countOwner(owner.domid);
  // Most say again what was inherited: such nodes go on sharing it.
  const node = core.rewrite(request, path, before, before.value, areSame(before.perms, perms) ? before.perms : perms);
  core.fire(transaction, path, false, { before, node });
  return ok;
}

function watch(core: Xenstored, request: Request): string {
  const { conn } = request;
  const [name, token] = pathAndToken(request);
  const special = name.startsWith('@');
  if (special && name.length > XENSTORE_REL_PATH_MAX) throw new XsError('EINVAL', 'too long a name');
  const path = special ? name : core.path(conn, name);
  if (core.watches.has(conn.id, path, token)) throw new XsError('EEXIST');
  if (conn.domid === 0) {
    if (core.watches.usage(conn.id).count >= dom0WatchesMax) throw new XsError('E2BIG', `${dom0WatchesMax} are set`);
  } else {
    const conns = core.domain(conn.domid)?.conns ?? [];
    const count = [...conns].reduce((sum, { id }) => sum + core.watches.usage(id).count, 0);
    if (count > core.quotas.limits.watches) core.quotas.refuse('watches', conn.domid, 'E2BIG');
    const used = core.memoryOf(conn.domid) + watchBytes(path, token);
    if (used >= core.quotas.limits.memory) core.quotas.refuse('memory', conn.domid, 'ENOMEM');
  }
  const isRelative = !special && !name.startsWith('/');
  request.registered = core.watches.add(conn.id, path, token, isRelative ? domainPath(conn.domid).length : 0);
  return ok;
}

function unwatch(core: Xenstored, request: Request): string {
  const [name, token] = pathAndToken(request);
  if (!core.watches.remove(request.conn.id, canonical(name, request.conn.domid), token)) throw new XsError('ENOENT');
  return ok;
}

function transactionStart(core: Xenstored, { conn, transaction }: Request): string {
  if (transaction) throw new XsError('EBUSY', 'no transactions within transactions');
  const { limits } = core.quotas;
  if (conn.domid === 0) {
    if (conn.transactions.size >= dom0TransactionsMax) throw new XsError('ENOSPC', `${dom0TransactionsMax} are open`);
  } else {
    const conns = core.domain(conn.domid)?.conns ?? [];
    const open = [...conns].reduce((sum, { transactions }) => sum + transactions.size, 0);
    if (open > limits.transactions) core.quotas.refuse('transactions', conn.domid, 'ENOSPC');
  }
  do {
    conn.lastTransaction = (conn.lastTransaction + 1) >>> 0;
  } while (conn.lastTransaction === 0 || conn.transactions.has(conn.lastTransaction));
  const id = conn.lastTransaction;
  const nodesMax = conn.domid === 0 ? Number.POSITIVE_INFINITY : limits.transactionNodes;
  conn.transactions.set(id, new Transaction(id, core.store, nodesMax));
  return joinStrings(String(id));
}

function transactionEnd(core: Xenstored, request: Request): string {
  const { conn, transaction } = request;
  const how = oneString(request.payload);
  if (how !== 'T' && how !== 'F') throw new XsError('EINVAL', 'neither T nor F');
  if (!transaction) throw new XsError('ENOENT', 'no transaction');
  conn.transactions.delete(transaction.id);
  transaction.end();
  if (how === 'F') return ok;
  if (transaction.failed) throw new XsError('ENOMEM', 'something in it failed');
  for (const [domid, by] of transaction.ownerChanges()) {
    if (!core.existingDomain(domid)) throw new XsError('ENOMEM', `owner ${domid} is gone`);
    const isChecked = transaction.created && conn.domid !== 0 && domid !== 0;
    const count = core.store.ownedNodes(domid) + by;
    if (isChecked && count >= core.quotas.limits.nodes) core.quotas.refuse('nodes', domid, 'ENOSPC');
  }
  if (!transaction.isCurrent()) throw new XsError('EAGAIN');
  applyChanges(transaction, core.store, core.settled, ({ path, before, fire }) => {
    if (fire !== 'none') core.fire(undefined, path, fire === 'exact', { before });
  });
  return ok;
}

function introduce(core: Xenstored, { payload }: Request): string {
  const [domid, mfn, port] = terminatedStrings(payload);
  if (domid === undefined || mfn === undefined || port === undefined)
    throw new XsError('EINVAL', 'not a domid, a frame and a port');
  if (atoi(port) === 0) throw new XsError('EINVAL', 'no port');
  core.introduce(atoi(domid) >>> 0, atoi(mfn) >>> 0, atoi(port) >>> 0);
  return ok;
}

/** The introduced domain that a request names; dom0 cannot be meant. */
function namedDomain(core: Xenstored, request: Request): Domain {
  const domid = atoi(only(request, 'EINVAL')) >>> 0;
  if (domid === 0) throw new XsError('EINVAL', 'dom0 stays');
  return introducedDomain(core, domid);
}

function introducedDomain(core: Xenstored, domid: number): Domain {
  const domain = core.domain(domid);
  if (!domain?.introduced) throw new XsError('ENOENT', `domain ${domid} is not introduced`);
  return domain;
}

function isDomainIntroduced(core: Xenstored, request: Request): string {
  const domid = atoi(only(request, 'EINVAL')) >>> 0;
  const isKnown = domid === DOMID_FIRST_RESERVED || core.domain(domid)?.introduced === true;
  return joinStrings(isKnown ? 'T' : 'F');
}

function release(core: Xenstored, request: Request): string {
  core.forget(namedDomain(core, request));
  return ok;
}

/** A suspended domain runs again: its next shutdown is announced anew. */
function resume(core: Xenstored, request: Request): string {
  const domain = namedDomain(core, request);
  domain.shutdown = false;
  core.keepDomain(domain);
  return ok;
}

function resetWatches(core: Xenstored, { conn }: Request): string {
  core.reset(conn);
  return ok;
}

function setTarget(core: Xenstored, { payload }: Request): string {
  const [domid, target] = terminatedStrings(payload);
  if (domid === undefined || target === undefined) throw new XsError('EINVAL', 'not two domids');
  const domain = introducedDomain(core, atoi(domid) >>> 0);
  const meant = introducedDomain(core, atoi(target) >>> 0);
  if (domain.target !== undefined) core.domain(domain.target)?.targetOf.delete(domain);
  aim(domain, meant);
  core.keepDomain(domain);
  return ok;
}

export function aim(domain: Domain, meant: Domain): void {
  domain.target = meant.domid;
  meant.targetOf.add(domain);
}

/** The commands of xenstore-control that make sense here. Any other is EINVAL, as an unknown one is. */
const controls: Readonly<Record<string, { readonly usage: string; readonly run: (core: Xenstored, args: string[]) => string }>> =
  {
    check: {
      usage: '',
      run: (core, args) => {
        if (args.length > 0) throw new XsError('EINVAL');
        for (const fault of faults(core.store)) core.log(`xenstored: ${fault}`);
        return ok;
      },
    },
    log: {
      usage: 'on|off',
      run: (_core, [how, ...more]) => {
        if ((how !== 'on' && how !== 'off') || more.length > 0) throw new XsError('EINVAL');
        return ok;
      },
    },
    memreport: {
      usage: '',
      run: (core, args) => {
        if (args.length > 0) throw new XsError('EINVAL');
        core.log(`xenstored: ${core.store.size} nodes, of dom0 ${core.store.ownedNodes(0)} in ${core.store.ownedBytes(0)} bytes`);
        return ok;
      },
    },
    print: {
      usage: '<string>',
      run: (core, [text, ...more]) => {
        if (text === undefined || more.length > 0) throw new XsError('EINVAL');
        core.log(`xenstored: control: ${printable(text)}`);
        return ok;
      },
    },
    quota: { usage: '[set <name> <val>|<domid>]', run: (core, args) => quotaControl(core, args, hardQuotas) },
    'quota-soft': { usage: '[set <name> <val>]', run: (core, args) => quotaControl(core, args, softQuotas) },
    help: {
      usage: '',
      run: (_core, args) => {
        if (args.length > 0) throw new XsError('EINVAL');
        const lines = Object.entries(controls).map(([name, { usage }]) => `${name}\t${usage}\n`);
        return joinStrings(lines.join(''));
      },
    },
  };

/** A text that stays on one line, and is nothing but text for whoever looks at it. */
function printable(text: string): string {
  return text.replace(/[^ -~]/g, (byte) => `\\x${byte.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

function quotaControl(core: Xenstored, args: readonly string[], names: readonly QuotaName[]): string {
  const [first, name, value, ...more] = args;
  if (first === undefined) return joinStrings(quotaReport(core.quotas.limits, names));
  if (first === 'set') {
    const quota = names.find((entry) => entry.name === name);
    const limit = atoi(value ?? '');
    if (!quota || limit < 1 || more.length > 0) throw new XsError('EINVAL');
    core.quotas.set(quota.quota, limit);
    core.keepSettings();
    return ok;
  }
  if (name !== undefined || names === softQuotas) throw new XsError('EINVAL');
  const domid = atoi(first) >>> 0;
  const domain = core.domain(domid);
  if (!domain) throw new XsError('ENOENT');
  const conns = [...domain.conns];
  return joinStrings(
    usageReport(domid, {
      nodes: core.store.ownedNodes(domid),
      watches: conns.reduce((sum, { id }) => sum + core.watches.usage(id).count, 0),
      transactions: conns.reduce((sum, { transactions }) => sum + transactions.size, 0),
      outstanding: core.outstanding(domid),
      memory: core.memoryOf(domid),
    }),
  );
}

function control(core: Xenstored, { payload }: Request): string {
  const [command = '', ...args] = terminatedStrings(payload);
  const entry = Object.hasOwn(controls, command) ? controls[command] : undefined;
  if (!entry) throw new XsError('EINVAL', 'no such command');
  return entry.run(core, args);
}

/** What answers each type of request. A type that is not here does not exist. */
export const handlers: Readonly<Record<number, Handler | undefined>> = {
  [XsType.Control]: { run: control, privileged: true },
  [XsType.Directory]: { run: directory },
  [XsType.Read]: { run: (core, request) => core.existing(request, only(request, 'ENOENT')).value },
  [XsType.GetPerms]: {
    run: (core, request) => joinStrings(...core.existing(request, only(request, 'ENOENT')).perms.map(formatPerm)),
  },
  [XsType.Watch]: { run: watch, outsideTransactions: true },
  [XsType.Unwatch]: { run: unwatch, outsideTransactions: true },
  [XsType.TransactionStart]: { run: transactionStart },
  [XsType.TransactionEnd]: { run: transactionEnd },
  [XsType.Introduce]: { run: introduce, privileged: true },
  [XsType.Release]: { run: release, privileged: true },
  [XsType.GetDomainPath]: { run: (_core, request) => joinStrings(domainPath(atoi(only(request, 'EINVAL')) >>> 0)) },
  [XsType.Write]: { run: write },
  [XsType.Mkdir]: { run: mkdir },
  [XsType.Rm]: { run: rm },
  [XsType.SetPerms]: { run: setPerms },
  [XsType.IsDomainIntroduced]: { run: isDomainIntroduced, privileged: true },
  [XsType.Resume]: { run: resume, privileged: true },
  [XsType.SetTarget]: { run: setTarget, privileged: true },
  [XsType.ResetWatches]: { run: resetWatches },
  [XsType.DirectoryPart]: { run: directoryPart },
};
