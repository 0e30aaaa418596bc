/**
 * The hypervisor's processors: physical ones, the pools that they are dealt out to, and the vcpus of each domain.
 *
 * Tables with functions on them, synchronous, with no clock: nothing is scheduled here. A vcpu lies on a processor that it
 * may use, so that what is printed of it is possible; how long it ran is charged to it by whoever runs it. Facts from
 * xen/common/sched/ of 4.17 (cpupool.c, core.c, credit.c, credit2.c): which pool may lose which processor, what an
 * affinity becomes, which parameters a scheduler has.
 */
import {
  type CpupoolInfo,
  type CreditParams,
  type DomainSched,
  PrivcmdError,
  type SchedulerName,
  type VcpuInfo,
} from './privcmd.js';

/** Schedulers that this hypervisor was built with. */
const builtSchedulers: readonly string[] = ['credit', 'credit2'] satisfies readonly SchedulerName[];

/** A domain's weight before anybody sets it (CSCHED_DEFAULT_WEIGHT). */
const defaultWeight = 256;
const defaultCredit: CreditParams = { tsliceMs: 30, ratelimitUs: 1000, migrationDelayUs: 0 };
/** XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US. */
const migrationDelayMaxUs = 100_000;

/** One processor of a domain. */
export interface Vcpu {
  readonly id: number;
  /** Not taken off by its domain (VCPUOP_down). Those that a kernel has not brought up yet are off. */
  online: boolean;
  /** The physical processor that it runs on, or ran on last. */
  pcpu: number;
  /** Processors that it may use, and of these the ones that it would like; only those that exist. */
  hard: readonly number[];
  soft: readonly number[];
  /** Seconds. */
  cpuTime: number;
}

/** What a domain has of processors. */
export interface DomainCpus {
  /** Told whenever something of it changes but the time that it has run. */
  changed: () => void;
  readonly vcpus: readonly Vcpu[];
  pool: Pool;
  weight: number;
  /** Percent of one processor; 0 is no limit. */
  cap: number;
}

type KeptVcpu = Omit<Vcpu, 'id'>;

/** A domain's processors as plain values. */
export interface KeptCpus extends Pick<DomainCpus, 'weight' | 'cap'> {
  readonly pool: number;
  readonly vcpus: readonly KeptVcpu[];
}

export interface KeptPools {
  readonly pools: readonly {
    readonly id: number;
    readonly sched: SchedulerName;
    readonly cpus: readonly number[];
    readonly credit: CreditParams;
  }[];
  readonly free: readonly number[];
}

interface Pool {
  readonly id: number;
  readonly sched: SchedulerName;
  readonly cpus: Set<number>;
  readonly domains: Set<DomainCpus>;
  credit: CreditParams;
}

export class Cpus {
  readonly #count: number;
  /** By rising id. */
  #pools: Pool[];
  readonly #free = new Set<number>();
  /** Told whenever the pools change. */
  readonly #changed: () => void;

  constructor(count: number, changed: () => void = () => undefined) {
    this.#count = count;
    this.#changed = changed;
    const pool0 = newPool(0, 'credit2');
    for (const cpu of this.#all()) pool0.cpus.add(cpu);
    this.#pools = [pool0];
  }

  /** The processors of a new domain, all but the first one off: its kernel brings them up. */
  addDomain(count: number, poolId = 0): DomainCpus {
    const pool = this.#pools.find(({ id }) => id === poolId);
    if (!pool) throw new PrivcmdError('ESRCH', `no cpupool ${poolId}`);
    const cpus = sorted(pool.cpus);
    if (cpus.length === 0) throw new PrivcmdError('ENODEV', `cpupool ${poolId} has no cpu`);
    const all = this.#all();
    const kept = Array.from({ length: count }, (_, id): KeptVcpu => {
      return { online: id === 0, pcpu: cpus[id % cpus.length] ?? 0, hard: all, soft: all, cpuTime: 0 };
    });
    return makeDomain(pool, kept, defaultWeight, 0);
  }

  /** What the next life needs of a domain's processors, and what makes them again. */
  static keep({ pool, weight, cap, vcpus }: DomainCpus): KeptCpus {
    return {
      ...{ pool: pool.id, weight, cap },
      vcpus: vcpus.map(({ online, pcpu, hard, soft, cpuTime }) => ({ online, pcpu, hard, soft, cpuTime })),
    };
  }

  restoreDomain({ pool: poolId, weight, cap, vcpus }: KeptCpus): DomainCpus {
    return makeDomain(this.#pool(poolId), vcpus, weight, cap);
  }

  /** The same of the pools. */
  keepPools(): KeptPools {
    const pools = this.#pools.map(({ id, sched, cpus, credit }) => ({ id, sched, cpus: sorted(cpus), credit }));
    return { pools, free: sorted(this.#free) };
  }

  restorePools({ pools, free }: KeptPools): void {
    this.#pools = pools.map(({ cpus, ...pool }) => ({ ...pool, cpus: new Set(cpus), domains: new Set() }));
    this.#free.clear();
    for (const cpu of free) this.#free.add(cpu);
  }

  removeDomain(domain: DomainCpus): void {
    domain.pool.domains.delete(domain);
  }

  /** A domain that dies goes back to Pool-0, so that it cannot hold another pool. */
  retire(domain: DomainCpus): void {
    const [pool0] = this.#pools;
    if (pool0 && domain.pool !== pool0) this.#enter(domain, pool0);
  }

  /** XEN_SYSCTL_CPUPOOL_OP_INFO: the first pool whose id is `from` or above. */
  poolInfo(from: number): CpupoolInfo | null {
    const pool = this.#pools.find(({ id }) => id >= from);
    return pool ? { id: pool.id, sched: pool.sched, domains: pool.domains.size, cpus: sorted(pool.cpus) } : null;
  }

  freeCpus(): readonly number[] {
    return sorted(this.#free);
  }

  /** A pool without processors, behind the last one. */
  createPool(sched: string): number {
    if (this.#pools.length >= 2 * this.#count) throw new PrivcmdError('ENOSPC', `${this.#pools.length} cpupools exist`);
    if (!isBuilt(sched)) throw new PrivcmdError('ENOENT', `no scheduler ${sched}`);
    const id = (this.#pools.at(-1)?.id ?? -1) + 1;
    this.#pools.push(newPool(id, sched));
    this.#changed();
    return id;
  }

  destroyPool(id: number): void {
    const pool = this.#pool(id);
    if (pool.domains.size > 0 || pool.cpus.size > 0) throw new PrivcmdError('EBUSY', `cpupool ${id} is in use`);
    this.#pools = this.#pools.filter((other) => other !== pool);
    this.#changed();
  }

  /** Gives a free processor to a pool. */
  addCpu(id: number, cpu: number): void {
    const pool = this.#pool(id);
    if (cpu < 0 || cpu >= this.#count) throw new PrivcmdError('EINVAL', `no cpu ${cpu}`);
    if (!this.#free.delete(cpu)) throw new PrivcmdError('ENODEV', `cpu ${cpu} is not free`);
    pool.cpus.add(cpu);
    this.#changed();
  }

  /**
   * Takes a processor off its pool; what was on it goes elsewhere. The last one stays while there are domains. Who may use
   * no processor of the pool any more may use all of them from then on.
   */
  removeCpu(id: number, cpu: number): void {
    const pool = this.#pool(id);
    if (cpu < 0 || cpu >= this.#count || (id === 0 && cpu === 0)) throw new PrivcmdError('EINVAL', `cpu ${cpu} of pool ${id}`);
    if (!pool.cpus.has(cpu)) throw new PrivcmdError('EADDRNOTAVAIL', `cpu ${cpu} is not in cpupool ${id}`);
    if (pool.domains.size > 0 && pool.cpus.size === 1) throw new PrivcmdError('EBUSY', `cpupool ${id} has domains`);
    pool.cpus.delete(cpu);
    this.#free.add(cpu);
    this.#changed();
    for (const { vcpus, changed } of pool.domains) {
      for (const vcpu of vcpus) {
        if (vcpu.hard.includes(cpu) && !vcpu.hard.some((each) => pool.cpus.has(each))) vcpu.hard = this.#all();
        place(vcpu, pool);
      }
      changed();
    }
  }

  /** Affinities and parameters do not come along. */
  moveDomain(domain: DomainCpus, id: number): void {
    if (domain.pool.id === id) return;
    const pool = this.#pool(id);
    if (pool.cpus.size === 0) throw new PrivcmdError('ENOENT', `cpupool ${id} has no cpu`);
    this.#enter(domain, pool);
  }

  /** What XEN_DOMCTL_getvcpuinfo and getvcpuaffinity say. */
  vcpuInfo(domain: DomainCpus, id: number, runs: 'no' | 'idle' | 'busy'): VcpuInfo {
    const vcpu = vcpuOf(domain, id, 'ESRCH');
    const { online, pcpu, cpuTime, hard, soft } = vcpu;
    const running = online && runs === 'busy' && id === firstOnline(domain);
    return { vcpu: id, online, running, blocked: online && runs !== 'no' && !running, pcpu, cpuTime, hard, soft };
  }

  /** XEN_DOMCTL_setvcpuaffinity. Answers with what the scheduler will use of what was asked for. */
  setAffinity(
    domain: DomainCpus,
    id: number,
    { hard, soft }: { readonly hard?: readonly number[]; readonly soft?: readonly number[] },
  ): { hard: readonly number[]; soft: readonly number[] } {
    const vcpu = vcpuOf(domain, id, 'EINVAL');
    const { cpus } = domain.pool;
    if (hard) {
      const wanted = this.#existing(hard);
      if (!wanted.some((cpu) => cpus.has(cpu))) throw new PrivcmdError('EINVAL', `no cpu of the pool in ${hard.join(',')}`);
      vcpu.hard = wanted;
    }
    if (soft) vcpu.soft = this.#existing(soft);
    place(vcpu, domain.pool);
    domain.changed();
    const usable = vcpu.hard.filter((cpu) => cpus.has(cpu));
    return { hard: usable, soft: vcpu.soft.filter((cpu) => usable.includes(cpu)) };
  }

  /** Nodes that a domain's memory may come from. All processors of this host are in one. */
  nodesOf({ vcpus }: DomainCpus): readonly number[] {
    return vcpus.some(({ hard }) => hard.length > 0) ? [0] : [];
  }

  /** XEN_DOMCTL_SCHEDOP_getinfo, of the scheduler that the caller takes the domain's to be. */
  domainSched({ pool, weight, cap }: DomainCpus, sched: SchedulerName): DomainSched {
    requireSched(pool, sched);
    return { sched, weight, cap };
  }

  /** XEN_DOMCTL_SCHEDOP_putinfo. A weight of 0 changes none. */
  setDomainSched(domain: DomainCpus, { sched, weight, cap }: DomainSched): void {
    requireSched(domain.pool, sched);
    if (sched === 'credit2' && cap > 100 * domain.vcpus.length) throw new PrivcmdError('EINVAL', `a cap of ${cap} %`);
    domain.weight = weight || domain.weight;
    domain.cap = cap;
    domain.changed();
  }

  /** XEN_DOMCTL_SCHEDOP_putvcpuinfo, which only rtds has. */
  setRtds({ pool }: DomainCpus): void {
    requireSched(pool, 'rtds');
  }

  /** XEN_SYSCTL_SCHEDOP_getinfo of a pool. Credit2 has the rate limit alone. */
  poolSched(id: number, sched: SchedulerName): CreditParams {
    return this.#schedPool(id, sched).credit;
  }

  setPoolSched(id: number, sched: SchedulerName, params: CreditParams): void {
    const pool = this.#schedPool(id, sched);
    const { migrationDelayUs: delay } = params;
    if (delay < 0 || delay > migrationDelayMaxUs) throw new PrivcmdError('EINVAL', `a migration delay of ${delay} us`);
    pool.credit = params;
    this.#changed();
  }

  #schedPool(id: number, sched: SchedulerName): Pool {
    const pool = this.#pools.find((each) => each.id === id);
    if (!pool) throw new PrivcmdError('ESRCH', `no cpupool ${id}`);
    requireSched(pool, sched);
    return pool;
  }

  #enter(domain: DomainCpus, pool: Pool): void {
    domain.pool.domains.delete(domain);
    pool.domains.add(domain);
    domain.pool = pool;
    domain.weight = defaultWeight;
    domain.cap = 0;
    const cpus = sorted(pool.cpus);
    for (const vcpu of domain.vcpus) {
      vcpu.hard = vcpu.soft = this.#all();
      vcpu.pcpu = cpus[vcpu.id % cpus.length] ?? vcpu.pcpu;
    }
    domain.changed();
  }

  #pool(id: number): Pool {
    const pool = this.#pools.find((each) => each.id === id);
    if (!pool) throw new PrivcmdError('ENOENT', `no cpupool ${id}`);
    return pool;
  }

  #all(): number[] {
    return Array.from({ length: this.#count }, (_, cpu) => cpu);
  }

  #existing(cpus: readonly number[]): readonly number[] {
    return this.#all().filter((cpu) => cpus.includes(cpu));
  }
}

function makeDomain(pool: Pool, kept: readonly KeptVcpu[], weight: number, cap: number): DomainCpus {
  const domain: DomainCpus = {
    ...{ changed: () => undefined, pool, weight, cap },
    vcpus: kept.map((vcpu, id) => watched({ id, ...vcpu }, () => domain.changed())),
  };
  pool.domains.add(domain);
  return domain;
}

/** A vcpu that tells when it goes on or off, whoever has done it. */
function watched(vcpu: Vcpu, changed: () => void): Vcpu {
  let { online } = vcpu;
  return Object.defineProperty(vcpu, 'online', {
    enumerable: true,
    get: () => online,
    set: (yes: boolean) => {
      if (yes === online) return;
      online = yes;
      changed();
    },
  });
}

/** Vcpus that are not off. */
export function onlineVcpus({ vcpus }: DomainCpus): number {
  return vcpus.reduce((count, { online }) => count + (online ? 1 : 0), 0);
}

/** All of a domain's processor time, in seconds. */
export function cpuTime({ vcpus }: DomainCpus): number {
  return vcpus.reduce((sum, vcpu) => sum + vcpu.cpuTime, 0);
}

/** Charges processor time to the vcpu that has run least: a kernel's work goes to all of them in turn. */
export function charge({ vcpus }: DomainCpus, seconds: number): void {
  let least: Vcpu | undefined;
  for (const vcpu of vcpus) if (vcpu.online && (!least || vcpu.cpuTime < least.cpuTime)) least = vcpu;
  if (least) least.cpuTime += seconds;
}

function firstOnline({ vcpus }: DomainCpus): number | undefined {
  return vcpus.find(({ online }) => online)?.id;
}

/** Moves a vcpu, if it is not where it may be: to the next processor that it would like, else to one that it may use. */
function place(vcpu: Vcpu, { cpus }: Pool): void {
  const usable = vcpu.hard.filter((cpu) => cpus.has(cpu));
  const liked = usable.filter((cpu) => vcpu.soft.includes(cpu));
  const best = liked.length > 0 ? liked : usable;
  if (!best.includes(vcpu.pcpu)) vcpu.pcpu = best[vcpu.id % best.length] ?? vcpu.pcpu;
}

function vcpuOf(domain: DomainCpus, id: number, errno: 'EINVAL' | 'ESRCH'): Vcpu {
  const vcpu = domain.vcpus[id];
  if (!vcpu) throw new PrivcmdError(errno, `no vcpu ${id}`);
  return vcpu;
}

function requireSched(pool: Pool, sched: string): void {
  if (pool.sched !== sched) throw new PrivcmdError('EINVAL', `cpupool ${pool.id} has ${pool.sched}`);
}

function isBuilt(sched: string): sched is SchedulerName {
  return builtSchedulers.includes(sched);
}

function newPool(id: number, sched: SchedulerName): Pool {
  return { id, sched, cpus: new Set(), domains: new Set(), credit: defaultCredit };
}

function sorted(cpus: ReadonlySet<number>): number[] {
  return [...cpus].sort((a, b) => a - b);
}
