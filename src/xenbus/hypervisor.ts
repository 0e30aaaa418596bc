/**
 * The hypervisor: which domains exist and what holds them, and nothing that runs inside them.
 *
 * A table with functions on it, synchronous, with no clock. What the rest of the machine must learn (a guest may run,
 * must stop, is dead; VIRQ_DOM_EXC) goes out through the hooks that the caller gives. Facts from
 * xen/common/domain.c and domctl.c: domids rise and wrap, the controller's pauses are counted, and a dying domain stays
 * in the table for as long as anybody has its pages mapped.
 */
import { Cpus, cpuTime, type DomainCpus, type KeptCpus, type KeptPools, onlineVcpus } from './cpus.js';
import type { Keep, Kept, Recovered } from './keep.js';
import { type DomInfo, PrivcmdError, type Trigger, type VcpuInfo } from './privcmd.js';
import { DOMID_LAST, type ShutdownReason } from './xenbus.js';

/** Event channels of one domain (EVTCHN_2L_NR_CHANNELS is 4096; libxl's default limit is 1023). */
export const evtchnPortsMax = 1023;
/** The first frame number given to a guest; what ring-ref nodes count from. */
const firstMfn = 0x1bd000;

export interface Evtchn {
  readonly port: number;
  readonly remote: number;
  /** Somebody is at the other end. */
  bound: boolean;
  /** What the other end does when it is notified. */
  notified: Notified | undefined;
}

/**
 * A notification, with the request that lies on the ring behind it: the grant references of its pages. Rings are not
 * modelled as memory, so a request travels with its notification, and what tells its sender that it is done: `ended`.
 */
export type Notified = (grants: readonly number[], ended?: () => void) => void;

export interface Domain {
  readonly domid: number;
  readonly uuid: string;
  readonly maxVcpus: number;

  currentKb: number;
  maxKb: number;
  pauseCount: number;
  dying: boolean;
  /** Whoever paused it last is about to destroy it; what is left of that if he is lost, dom0's next life does. */
  ending: boolean;
  shutdown: ShutdownReason | null;
  cmdline: string;
  /** Pages of this domain that others have mapped. While there is one, the domain cannot go. */
  mappings: number;
  /** Whether a vcpu has work; the guest's scheduler says so. */
  busy: boolean;
  /** Its vcpus and the pool that they run in. */
  readonly cpus: DomainCpus;

  readonly ports: Map<number, Evtchn>;
}

/** What a back end asks of the hypervisor: to map its guest's pages, and to be notified by it. */
export type Grants = Pick<Hypervisor, 'grantMap' | 'evtchnBind'>;

export interface HypervisorHooks {
  /** VIRQ_DOM_EXC: some domain shut down, is dying or is gone. */
  virqDomExc(domid: number): void;
  /** The guest may run from now on, or may not. */
  runnable(domid: number, yes: boolean): void;
  /** The guest will never run again. */
  killed(domid: number): void;
  /** A domid that must not be given out although no domain has it. */
  domidInUse(domid: number): boolean;
}

export interface HypervisorOptions {
  readonly nrCpus: number;
  readonly totalKb: number;
  /** What Xen has for itself. */
  readonly xenKb?: number;
  readonly dom0Kb: number;
  /** Up to where dom0 may balloon; absent: it may not. */
  readonly dom0MaxKb?: number;
  readonly dom0Vcpus: number;
}

/** Pages that a domain may have at most (UINT_MAX): it is without a limit then. */
const maxPagesMax = 0xffff_ffff;
const pageKb = 4;

/** Keys of what is kept: of each domain, and of the rest. Event channels have keys of their own, `port/DOMID/PORT`. */
const domainKey = 'domain/';
const xenKey = 'xen';

type KeptDomain = { readonly cpus: KeptCpus } & Readonly<
  Pick<Domain, 'uuid' | 'currentKb' | 'maxKb' | 'pauseCount' | 'dying' | 'ending' | 'shutdown' | 'cmdline'>
>;
type KeptXen = KeptPools & { readonly lastDomid: number; readonly nextMfn: number };

const nilUuid = '00000000-0000-0000-0000-000000000000';

export class Hypervisor {
  readonly #domains = new Map<number, Domain>();
  readonly #hooks: HypervisorHooks;
  readonly #options: HypervisorOptions;
  /** The one that is always there. */
  readonly dom0: Domain;
  /** The processors that all of them share. */
  readonly cpus: Cpus;
  readonly #keep: Keep | undefined;
  #lastDomid = 0;
  #nextMfn = firstMfn;
  /** Dying domains of the life before stay until whoever has mapped their pages had time to do it again. */
  #recovering = false;

  constructor(options: HypervisorOptions, hooks: HypervisorHooks, keep?: Keep, recovered?: Recovered) {
    this.#options = options;
    this.#hooks = hooks;
    this.#keep = keep;
    this.cpus = new Cpus(options.nrCpus, () => this.#keepXen());
    const kept = recovered?.get(xenKey);
    if (recovered && kept) {
      this.dom0 = this.#restore(recovered, kept as unknown as KeptXen);
      return;
    }
    const dom0 = newDomain(0, nilUuid, this.cpus.addDomain(options.dom0Vcpus));
    for (const vcpu of dom0.cpus.vcpus) vcpu.online = true;
    this.dom0 = dom0;
    dom0.currentKb = options.dom0Kb;
    dom0.maxKb = options.dom0MaxKb ?? options.dom0Kb;
    dom0.busy = true;
    this.#enter(dom0);
    this.#keepXen();
  }

  /** The table of the life before. Who has mapped what, and listens to which channel, says so again. */
  #restore(recovered: Recovered, { lastDomid, nextMfn, ...pools }: KeptXen): Domain {
    this.#lastDomid = lastDomid;
    this.#nextMfn = nextMfn;
    this.cpus.restorePools(pools);
    for (const [key, value] of recovered) {
      if (!key.startsWith(domainKey)) continue;
      const { cpus, uuid, ...kept } = value as unknown as KeptDomain;
      const domain = newDomain(Number(key.slice(domainKey.length)), uuid, this.cpus.restoreDomain(cpus));
      this.#domains.set(domain.domid, Object.assign(domain, kept));
      this.#watch(domain);
    }
    for (const [key, remote] of recovered) {
      const [, domid, port] = /^port\/(\d+)\/(\d+)$/.exec(key) ?? [];
      const ports = this.#domains.get(Number(domid))?.ports;
      ports?.set(Number(port), { port: Number(port), remote: Number(remote), bound: false, notified: undefined });
    }
    const dom0 = this.#domains.get(0);
    if (!dom0) throw new Error('what was kept of the hypervisor has no domain 0');
    dom0.busy = true;
    this.#recovering = true;
    return dom0;
  }

  /** Whoever maps pages of a domain of the life before has done so: the dying ones of which nothing is mapped go. */
  recovered(): void {
    if (!this.#recovering) return;
    this.#recovering = false;
    for (const domain of [...this.#domains.values()]) this.#reap(domain);
  }

  #enter(domain: Domain): void {
    this.#domains.set(domain.domid, domain);
    this.#watch(domain);
    this.#keepDomain(domain);
  }

  #watch(domain: Domain): void {
    domain.cpus.changed = () => this.#keepDomain(domain);
  }

  #keepDomain(domain: Domain): void {
    if (!this.#keep || this.#domains.get(domain.domid) !== domain) return;
    const { uuid, currentKb, maxKb, pauseCount, dying, ending, shutdown, cmdline, cpus } = domain;
    const kept: KeptDomain = { uuid, currentKb, maxKb, pauseCount, dying, ending, shutdown, cmdline, cpus: Cpus.keep(cpus) };
    this.#keep.set(domainKey + domain.domid, kept as unknown as Kept);
  }

  #keepXen(): void {
    const kept: KeptXen = { lastDomid: this.#lastDomid, nextMfn: this.#nextMfn, ...this.cpus.keepPools() };
    this.#keep?.set(xenKey, kept as unknown as Kept);
  }

  get(domid: number): Domain | undefined {
    return this.#domains.get(domid);
  }

  /** Every domain, by rising domid. */
  list(): Domain[] {
    return [...this.#domains.values()].sort((a, b) => a.domid - b.domid);
  }

  get count(): number {
    return this.#domains.size;
  }

  /** Gives the next free domid after the last one given, or the requested one; the domain begins paused. */
  create(uuid: string, maxVcpus: number, requested?: number, poolId?: number): Domain {
    if (!Number.isInteger(maxVcpus) || maxVcpus < 1 || maxVcpus > 512) throw new PrivcmdError('EINVAL', `${maxVcpus} vcpus`);
    const domid = requested === undefined ? this.#freeDomid() : this.#checkRequested(requested);
    const domain = newDomain(domid, uuid, this.cpus.addDomain(maxVcpus, poolId));
    domain.pauseCount = 1;
    this.#enter(domain);
    if (requested === undefined) this.#lastDomid = domid;
    this.#keepXen();
    return domain;
  }

  /** `toDestroy`: as the first step of a destruction, which nobody takes back but by unpausing the domain. */
  pause(domid: number, toDestroy = false): void {
    const domain = this.#guest(domid);
    domain.pauseCount += 1;
    domain.ending ||= toDestroy;
    this.#keepDomain(domain);
    if (domain.pauseCount === 1) this.#hooks.runnable(domid, false);
  }

  unpause(domid: number): void {
    const domain = this.#guest(domid);
    if (domain.pauseCount === 0) throw new PrivcmdError('EINVAL', `domain ${domid} is not paused`);
    domain.pauseCount -= 1;
    domain.ending = false;
    this.#keepDomain(domain);
    if (domain.pauseCount === 0 && domain.shutdown === null && !domain.dying) this.#hooks.runnable(domid, true);
  }

  /** SCHEDOP_shutdown: the guest stops itself and says why. */
  shutdown(domid: number, reason: ShutdownReason): void {
    const domain = this.#live(domid);
    if (domain.shutdown !== null || domain.dying) return;
    domain.shutdown = reason;
    domain.busy = false;
    this.#keepDomain(domain);
    this.#hooks.runnable(domid, false);
    this.#hooks.virqDomExc(domid);
  }

  /** XEN_DOMCTL_resumedomain: a domain that stopped itself goes on where it stopped, unless it is paused. */
  resume(domid: number): void {
    const domain = this.#guest(domid);
    if (domain.dying || domain.shutdown === null) throw new PrivcmdError('EINVAL', `domain ${domid} has not shut down`);
    domain.shutdown = null;
    this.#keepDomain(domain);
    if (domain.pauseCount === 0) this.#hooks.runnable(domid, true);
  }

  /** Kills the domain and frees its memory; it leaves the table once nothing of it is mapped. Again: no harm. */
  destroy(domid: number): void {
    const domain = this.#guest(domid);
    if (domain.dying) return;
    domain.dying = true;
    domain.busy = false;
    domain.currentKb = 0;
    this.cpus.retire(domain.cpus);
    for (const port of [...domain.ports.keys()]) this.evtchnClose(domid, port);
    this.#keepDomain(domain);
    this.#hooks.killed(domid);
    this.#hooks.virqDomExc(domid);
    this.#reap(domain);
  }

  /** XEN_DOMCTL_max_mem, in whole pages. A domain that has more keeps it, and gets no more. */
  setMaxMem(domid: number, maxKb: number): void {
    const domain = this.#live(domid);
    domain.maxKb = Math.min(Math.floor(maxKb / pageKb), maxPagesMax) * pageKb;
    this.#keepDomain(domain);
  }

  /**
   * XEN_DOMCTL_sendtrigger: a PV guest knows nothing but the NMI, and has no buttons. Answers with the domain that is to
   * have it.
   */
  sendTrigger(domid: number, trigger: Trigger, vcpu: number): Domain {
    const domain = this.#live(domid);
    if (vcpu < 0 || vcpu >= domain.maxVcpus) throw new PrivcmdError('ESRCH', `domain ${domid} has no vcpu ${vcpu}`);
    if (trigger === 'power' || trigger === 'sleep') throw new PrivcmdError('EINVAL', 'a PV guest has no buttons');
    if (trigger !== 'nmi') throw new PrivcmdError('ENOSYS', `there is no trigger ${trigger}`);
    return domain;
  }

  /**
   * XENMEM_increase_reservation and decrease_reservation until the domain has `kb`, or all that its limit and the free memory
   * allow. Answers with what it has then. For more than the host has altogether a kernel finds no addresses, and does not ask.
   */
  setReservation(domid: number, kb: number): number {
    const domain = this.#live(domid);
    if (kb > this.#options.totalKb) return domain.currentKb;
    const most = Math.max(domain.currentKb, Math.min(domain.maxKb, domain.currentKb + this.freeKb));
    domain.currentKb = Math.min(kb, most);
    this.#keepDomain(domain);
    return domain.currentKb;
  }

  /** Gives the domain its memory and remembers its command line. Answers with two of its frames. */
  build(domid: number, memoryKb: number, cmdline: string): { storeMfn: number; consoleMfn: number } {
    const domain = this.#live(domid);
    if (memoryKb > this.freeKb) throw new PrivcmdError('ENOMEM', `${memoryKb} KiB wanted, ${this.freeKb} KiB free`);
    domain.currentKb = memoryKb;
    domain.cmdline = cmdline;
    const storeMfn = this.#nextMfn;
    this.#nextMfn += 2;
    this.#keepDomain(domain);
    this.#keepXen();
    return { storeMfn, consoleMfn: storeMfn + 1 };
  }

  get freeKb(): number {
    let free = this.#options.totalKb - (this.#options.xenKb ?? 0);
    for (const domain of this.#domains.values()) free -= domain.currentKb;
    return Math.max(0, free);
  }

  physinfo(): { nrCpus: number; totalKb: number; freeKb: number } {
    return { nrCpus: this.#options.nrCpus, totalKb: this.#options.totalKb, freeKb: this.freeKb };
  }

  /** EVTCHNOP_alloc_unbound: the lowest free port of `domid`, for `remote` to bind. */
  evtchnAllocUnbound(domid: number, remote: number): number {
    const domain = this.#live(domid);
    let port = 1;
    while (domain.ports.has(port)) port += 1;
    if (port > evtchnPortsMax) throw new PrivcmdError('ENOMEM', `domain ${domid} has ${evtchnPortsMax} event channels already`);
    domain.ports.set(port, { port, remote, bound: false, notified: undefined });
    this.#keep?.set(`port/${domid}/${port}`, remote);
    return port;
  }

  /** EVTCHNOP_close of a domain's own port. */
  evtchnClose(domid: number, port: number): void {
    if (this.#domains.get(domid)?.ports.delete(port)) this.#keep?.delete(`port/${domid}/${port}`);
  }

  /** EVTCHNOP_send on a domain's own port; nothing happens while nobody is at the other end. */
  evtchnSend(domid: number, port: number, grants: readonly number[], ended?: () => void): void {
    this.#domains.get(domid)?.ports.get(port)?.notified?.(grants, ended);
  }

  /**
   * EVTCHNOP_bind_interdomain by domain `local`; what is returned unbinds it. Undefined when the port is not there, not
   * for this domain, or bound already.
   */
  evtchnBind(local: number, domid: number, port: number, notified?: Notified): (() => void) | undefined {
    const channel = this.#domains.get(domid)?.ports.get(port);
    if (!channel || channel.remote !== local || channel.bound) return undefined;
    channel.bound = true;
    channel.notified = notified;
    return () => {
      channel.bound = false;
      channel.notified = undefined;
    };
  }

  /** Maps one page of `domid`; what is returned unmaps it, once. Of a dying domain only who had it mapped before. */
  grantMap(domid: number): (() => void) | undefined {
    const domain = this.#domains.get(domid);
    if (!domain || (domain.dying && !this.#recovering)) return undefined;
    domain.mappings += 1;
    let mapped = true;
    return () => {
      if (!mapped) return;
      mapped = false;
      domain.mappings -= 1;
      this.#reap(domain);
    };
  }

  info(domain: Domain): DomInfo {
    const stopped = domain.pauseCount > 0 || domain.dying || domain.shutdown !== null;
    return {
      domid: domain.domid,
      uuid: domain.uuid,
      running: !stopped && domain.busy,
      blocked: !stopped && !domain.busy,
      paused: domain.pauseCount > 0,
      dying: domain.dying,
      ...(domain.ending ? { ending: true } : {}),
      shutdown: domain.shutdown,
      currentKb: domain.currentKb,
      outstandingKb: 0,
      maxKb: domain.maxKb,
      onlineVcpus: onlineVcpus(domain.cpus),
      maxVcpus: domain.maxVcpus,
      cpuTime: cpuTime(domain.cpus),
      cpupool: domain.cpus.pool.id,
    };
  }

  /** One vcpu. Whatever a domain does, its first vcpu does it. */
  vcpuInfo(domid: number, vcpu: number): VcpuInfo {
    const domain = this.#live(domid);
    const { running, blocked } = this.info(domain);
    return this.cpus.vcpuInfo(domain.cpus, vcpu, running ? 'busy' : blocked ? 'idle' : 'no');
  }

  /** Moves a domain to another cpupool; nobody moves himself (EPERM). */
  moveDomain(domid: number, poolId: number): void {
    if (domid === 0) throw new PrivcmdError('EPERM', 'domain 0 is the one that asks');
    this.cpus.moveDomain(this.#live(domid).cpus, poolId);
  }

  /** A domain's processors; ESRCH when there is no such domain. */
  cpusOf(domid: number): DomainCpus {
    return this.#live(domid).cpus;
  }

  #live(domid: number): Domain {
    const domain = this.#domains.get(domid);
    if (!domain) throw new PrivcmdError('ESRCH', `no domain ${domid}`);
    return domain;
  }

  /** A domain that the caller may stop: not its own. */
  #guest(domid: number): Domain {
    if (domid === 0) throw new PrivcmdError('EINVAL', 'domain 0 is the one that asks');
    return this.#live(domid);
  }

  #freeDomid(): number {
    for (let tried = 0, domid = this.#lastDomid; tried < DOMID_LAST; tried++) {
      domid = domid >= DOMID_LAST ? 1 : domid + 1;
      if (!this.#domains.has(domid) && !this.#hooks.domidInUse(domid)) return domid;
    }
    throw new PrivcmdError('ENOMEM', 'every domid is in use');
  }

  #checkRequested(domid: number): number {
    if (!Number.isInteger(domid) || domid < 1 || domid > DOMID_LAST) throw new PrivcmdError('EINVAL', `no domid: ${domid}`);
    if (this.#domains.has(domid)) throw new PrivcmdError('EEXIST', `domain ${domid} exists`);
    if (this.#hooks.domidInUse(domid)) throw new PrivcmdError('EBUSY', 'domain id recently used');
    return domid;
  }

  #reap(domain: Domain): void {
    if (this.#recovering || !domain.dying || domain.mappings > 0 || this.#domains.get(domain.domid) !== domain) return;
    this.#domains.delete(domain.domid);
    this.#keep?.delete(domainKey + domain.domid);
    this.cpus.removeDomain(domain.cpus);
    this.#hooks.virqDomExc(domain.domid);
  }
}

function newDomain(domid: number, uuid: string, cpus: DomainCpus): Domain {
  return {
    domid,
    uuid,
    maxVcpus: cpus.vcpus.length,
    cpus,
    currentKb: 0,
    maxKb: 0,
    pauseCount: 0,
    dying: false,
    ending: false,
    shutdown: null,
    cmdline: '',
    mappings: 0,
    busy: false,
    ports: new Map(),
  };
}
