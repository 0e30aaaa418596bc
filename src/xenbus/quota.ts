/**
 * What an unprivileged domain may use of XenStore, and with what it is refused.
 *
 * Names, defaults and errnos as in C xenstored 4.17 (xenstored_core.c, and the `quota` command of xenstore-control).
 * The comparisons are odd where the real ones are: a domain has 129 watches before the quota of 128 refuses one. The
 * real server's limit on the rate of writes is left out, because nothing in here knows the time.
 */
import { isPowerOfTwo, withCount } from './sparing-log.js';
import { XENSTORE_REL_PATH_MAX, type XsErrno, XsError } from './xs-wire.js';

export interface Quotas {
  readonly nodes: number;
  readonly watches: number;
  readonly transactions: number;
  /** Requests whose reply, or an event of which, is not delivered yet. At the bound no further one is served. */
  readonly outstanding: number;
  readonly transactionNodes: number;
  /** Bytes of nodes, transactions and watches. At the bound no further request is served. */
  readonly memory: number;
  readonly nodeSize: number;
  readonly pathMax: number;
  readonly permissions: number;
  /** Past it there is a line in the log, and nothing else. */
  readonly memorySoft: number;
}
export type Quota = keyof Quotas;

export const defaultQuotas: Quotas = {
  nodes: 1000,
  watches: 128,
  transactions: 10,
  outstanding: 20,
  transactionNodes: 1024,
  memory: 2.5 * 1024 * 1024,
  nodeSize: 2048,
  pathMax: XENSTORE_REL_PATH_MAX,
  permissions: 5,
  memorySoft: 2 * 1024 * 1024,
};

/** Of one connection of dom0, which has no quotas: past this it is not a client but a leak. */
export const dom0TransactionsMax = 16_384;
export const dom0WatchesMax = 262_144;

/** A quota as xenstore-control names it, with a word about it. */
export interface QuotaName {
  readonly quota: Quota;
  readonly name: string;
  readonly about: string;
}

export const hardQuotas: readonly QuotaName[] = [
  { quota: 'nodes', name: 'nodes', about: 'Nodes per domain' },
  { quota: 'watches', name: 'watches', about: 'Watches per domain' },
  { quota: 'transactions', name: 'transactions', about: 'Transactions per domain' },
  { quota: 'outstanding', name: 'outstanding', about: 'Outstanding requests per domain' },
  { quota: 'transactionNodes', name: 'transaction-nodes', about: 'Max. number of accessed nodes per transaction' },
  { quota: 'memory', name: 'memory', about: 'Total Xenstore memory per domain (error level)' },
  { quota: 'nodeSize', name: 'node-size', about: 'Max. size of a node' },
  { quota: 'pathMax', name: 'path-max', about: 'Max. length of a node path' },
  { quota: 'permissions', name: 'permissions', about: 'Max. number of permissions per node' },
];

export const softQuotas: readonly QuotaName[] = [
  { quota: 'memorySoft', name: 'memory', about: 'Total Xenstore memory per domain (warning level)' },
];

/** The quotas in force, and what has been said about them. */
export class QuotaKeeper {
  #limits: Quotas;
  /** How often a domain came to a quota, and whether it has been there since. */
  readonly #said = new Map<number, Map<Quota | 'unread', { times: number; isThere: boolean }>>();

  constructor(
    limits: Partial<Quotas>,
    private readonly log: (line: string) => void,
  ) {
    this.#limits = { ...defaultQuotas, ...limits };
  }

  get limits(): Quotas {
    return this.#limits;
  }

  set(quota: Quota, limit: number): void {
    this.#limits = { ...this.#limits, [quota]: limit };
    this.#said.clear();
  }

  /**
   * Refuses a request of `domid` with `errno`. The log has one line for each domain and quota, however often it tries.
   */
  refuse(quota: Quota, domid: number, errno: XsErrno): never {
    this.say(quota, domid, errno);
    throw new XsError(errno, `quota ${quota}`);
  }

  /**
   * Says that a domain is at a quota, once until it has `recovered`; of the times that it comes back the second, the
   * fourth, the eighth. What it does not read counts for its memory, and is told by itself.
   */
  say(about: Quota | 'unread', domid: number, consequence: string): void {
    const quota = about === 'unread' ? 'memory' : about;
    const quotas = this.#said.get(domid) ?? new Map<Quota | 'unread', { times: number; isThere: boolean }>();
    this.#said.set(domid, quotas);
    const { times, isThere } = quotas.get(about) ?? { times: 0, isThere: false };
    if (isThere) return;
    quotas.set(about, { times: times + 1, isThere: true });
    if (!isPowerOfTwo(times + 1)) return;
    const line = `xenstored: domain ${domid} is at its quota ${quotaName(quota)} of ${this.#limits[quota]}: ${consequence}`;
    this.log(withCount(line, times + 1));
  }

  /** Lets a quota be logged again, for a domain that came back below it. */
  recovered(quota: Quota, domid: number): void {
    const said = this.#said.get(domid)?.get(quota);
    if (said) said.isThere = false;
  }

  forget(domid: number): void {
    this.#said.delete(domid);
  }
}

function quotaName(quota: Quota): string {
  if (quota === 'memorySoft') return 'memory (soft)';
  return hardQuotas.find((entry) => entry.quota === quota)?.name ?? quota;
}

/** The answer to xenstore-control's `quota` and `quota-soft`: a line for each. */
export function quotaReport(limits: Quotas, names: readonly QuotaName[]): string {
  const lines = names.map(({ quota, name, about }) => `${name.padEnd(17)}: ${String(limits[quota]).padStart(8)} ${about}\n`);
  return `Quota settings:\n${lines.join('')}`;
}

/** The answer to `quota DOMID`: what the domain uses now. */
export function usageReport(domid: number, usage: Readonly<Record<string, number>>): string {
  const lines = Object.entries(usage).map(([name, used]) => `${name.padEnd(16)}: ${String(used).padStart(8)}\n`);
  return `Domain ${domid}:\n${lines.join('')}`;
}
