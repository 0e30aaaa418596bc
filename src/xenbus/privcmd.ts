/**
 * What a toolstack may ask of the hypervisor and of dom0: the operations, their arguments and answers.
 *
 * `xc.*` are hypercalls, `dom0.*` questions to the embedded dom0. Over `privcmd.sock` they travel as JSON lines; in
 * one process they are function calls. Both ends share this table, so an operation is added in one place.
 */
import type { MachineDescription } from './machine.js';
import type { ShutdownReason } from './xenbus.js';

/** Bumped when an older client could misunderstand the answer. */
export const PRIVCMD_PROTO = 1;
/** Entries that one answer lists at most: each has a few hundred bytes, and an answer is one line. */
export const listPageMax = 1024;
/** A line longer than this ends the connection. */
export const privcmdLineMaxBytes = 1024 * 1024;

export interface DomInfo {
  readonly domid: number;
  /** The handle given at creation; dom0's is all zeros. */
  readonly uuid: string;
  readonly running: boolean;
  readonly blocked: boolean;
  readonly paused: boolean;
  readonly dying: boolean;
  /** Ours: somebody has begun to destroy it. */
  readonly ending?: boolean;
  /** Why it shut down; null while it has not. */
  readonly shutdown: ShutdownReason | null;
  readonly currentKb: number;
  readonly outstandingKb: number;
  readonly maxKb: number;
  readonly onlineVcpus: number;
  readonly maxVcpus: number;
  /** Seconds of processor time. */
  readonly cpuTime: number;
  readonly cpupool: number;
}

/** One vcpu, with the physical processors that it may use and would like. */
export interface VcpuInfo {
  readonly vcpu: number;
  readonly online: boolean;
  readonly running: boolean;
  readonly blocked: boolean;
  /** The physical processor that it runs on, or ran on last. */
  readonly pcpu: number;
  /** Seconds. */
  readonly cpuTime: number;
  readonly hard: readonly number[];
  readonly soft: readonly number[];
}

/** Schedulers that a pool can have, by libxl's names: those that Debian builds Xen with. */
export type SchedulerName = 'credit' | 'credit2';

export interface CpupoolInfo {
  readonly id: number;
  readonly sched: SchedulerName;
  readonly domains: number;
  readonly cpus: readonly number[];
}

/** What a domain has of its scheduler. The cap is in percent of one processor; 0 is none. */
export interface DomainSched {
  readonly sched: SchedulerName;
  readonly weight: number;
  readonly cap: number;
}

/** What a pool has of credit; credit2 has the rate limit alone. */
export interface CreditParams {
  readonly tsliceMs: number;
  readonly ratelimitUs: number;
  readonly migrationDelayUs: number;
}

/** One watch thread, as `xl mtwatch list` shows it. */
export interface WatchThread {
  readonly domid: number;
  /** The domain's name from XenStore; null when it has none (a zombie prints as `(null)`), `-` is for domid 0. */
  readonly name: string | null;
  /** Whether `/local/domain/0/mtwatch/<domid>` is there. */
  readonly node: boolean;
  readonly thread: string;
  readonly pid: number;
  /** X: a bug has ended it, and nobody takes its place. */
  readonly state: 'R' | 'S' | 'D' | 'X';
  readonly pending: number;
  readonly handled: number;
  /** Its node is gone and it leaves once its queue is empty. */
  readonly retiring: boolean;
  readonly running: {
    readonly callback: string;
    readonly path: string;
    readonly forMs: number;
    /** As `/proc/PID/stack` prints it, innermost first. */
    readonly stack: readonly string[];
  } | null;
}

/** A task of dom0's kernel, by what its messages call it. */
export interface TaskRef {
  readonly comm: string;
  readonly pid: number;
}

/** One thread of dom0's kernel, as `xl mtwatch show` shows it. */
export interface KernelThread {
  readonly thread: string;
  readonly comm: string;
  readonly pid: number;
  readonly state: WatchThread['state'];
  /** As `/proc/PID/stack` prints it, innermost first; of a thread that is idle too. A dead one has none. */
  readonly stack: readonly string[];
  /** What it sleeps on, and the task that this depends on; null when it could run. */
  readonly waits: {
    readonly kind: 'mutex' | 'spinlock' | 'rwsem' | 'exit' | 'reply' | 'event';
    readonly on: string;
    readonly task: TaskRef | null;
    /** The same in words. */
    readonly text: string;
  } | null;
  /** The locks that it holds. */
  readonly holds: readonly string[];
  /** Who cannot go on before it does, directly or through others, and what each of them waits for itself. */
  readonly waiters: readonly (TaskRef & { readonly text: string })[];
  /** How many they are; `waiters` has the first `threadListMax`. */
  readonly waiting: number;
  /** What it is as a watch thread, with the first `threadListMax` of its `pending` events; null when it is none. */
  readonly watch: (WatchThread & { readonly queued: readonly QueuedEvent[] }) | null;
}

/** A watch event whose callback has not begun. */
export interface QueuedEvent {
  readonly path: string;
  readonly callback: string;
}

/** Entries of a list that an answer about one thread has at most. */
export const threadListMax = 256;

/** Lines of the kernel's log. */
export interface KernelLog {
  /** As `dmesg` prints them. */
  readonly lines: readonly string[];
  /** Ask for what comes `from` there. */
  readonly next: number;
  /** Nothing is left to tell. */
  readonly whole: boolean;
  /** When the kernel booted, in milliseconds since 1970. */
  readonly bootMs: number;
}

/** How long a question for the log may wait for its next line. */
export const dmesgWaitMaxMs = 30_000;

/** A held device; what each mode holds is told in fault.ts. */
export interface Hold {
  readonly device: string;
  readonly mode: 'inflight' | 'io' | 'grants' | 'connect' | 'bio';
  /** Whether a task is stuck in it now. */
  readonly stalled: boolean;
}

/** What libxl must know of the host it runs on: how the files of a config are looked up. */
export interface HostView {
  readonly root: string;
  readonly assumeFiles: boolean;
  readonly strictFiles: boolean;
  readonly bridges: readonly string[];
}

export interface BlockDevice {
  readonly node: string;
  readonly major: number;
  readonly minor: number;
}

export interface Dom0Status {
  readonly pid: number;
  readonly version: string;
  readonly runDir: string;
  readonly cmdline: string;
  /** How watch events are dispatched. */
  readonly xenwatch: 'single' | 'rfc' | 'hardened';
  readonly domains: number;
  readonly connections: number;
  readonly upMs: number;
  readonly host: HostView;
  readonly trace: string | null;
  readonly journal: JournalStatus | null;
  /** Kernel threads that a bug has ended, oldest first. */
  readonly dead: readonly DeadThread[];
}

/** Where dom0 keeps what its next life needs, and what it has found there. */
export interface JournalStatus {
  readonly dir: string;
  /** What a write survives that was answered: a power cut, or no more than the end of the process. */
  readonly fsync: 'always' | 'never';
  readonly bytes: number;
  /** What was done about the life before, a line for each thing; null when there was none. */
  readonly recovery: readonly string[] | null;
}

/** A kernel thread that is no more, and whose locks nobody gives back. */
export interface DeadThread {
  readonly thread: string;
  readonly pid: number;
  readonly why: string;
  /** Locks that it had, by name. */
  readonly holds: readonly string[];
}

/** What there is in dom0 beside the nodes of the store. Two of these are equal when nothing has come and nothing has stayed. */
export interface Census {
  readonly domains: readonly {
    readonly domid: number;
    readonly uuid: string;
    readonly dying: boolean;
    /** Pages of it that others have mapped. */
    readonly mappings: number;
    /** Its event channels. */
    readonly ports: number;
  }[];
  readonly freeKb: number;
  /** Of the store, over all peers; `domids` are those that it knows of. */
  readonly store: {
    readonly connections: number;
    readonly watches: number;
    readonly transactions: number;
    readonly domids: readonly number[];
  };
  /** Tasks of all kernels and of the daemons, by name, but for the workers of a queue, who stay. */
  readonly tasks: readonly string[];
  /** Loop devices, as `/dev/loop0 /disk.img`. */
  readonly loops: readonly string[];
  readonly netdevs: readonly string[];
  /** The ports of each bridge. */
  readonly bridges: Readonly<Record<string, readonly string[]>>;
  /** Devices that have a driver, by bus id. */
  readonly backends: readonly string[];
  /** Device models that run, as `60001 of domain 1`. */
  readonly qemus: readonly string[];
  readonly holds: readonly string[];
}

export interface MonitorRequest {
  readonly domid: number;
  readonly name: string;
  readonly verbosity: number;
  /** What each kind of death does: action names as in xl.cfg. */
  readonly actions: {
    readonly poweroff: string;
    readonly reboot: string;
    readonly crash: string;
    readonly watchdog: string;
    readonly softReset: string;
  };
}

/** What the toolstack can send a domain's processor (libxl_trigger), but for `s3resume`, which goes to a device model. */
export type Trigger = 'power' | 'sleep' | 'nmi' | 'init' | 'reset';

/** What a guest can be made to do by itself. */
export const guestEvents = [
  ...(['poweroff', 'reboot', 'crash', 'hang', 'wake', 'suspend'] as const),
  ...(['watchdog', 'soft-reset'] as const),
] as const;
export type GuestEvent = (typeof guestEvents)[number];

/** How a guest is. `hung`: its vcpus may run, and its kernel does nothing. */
export type GuestState = 'building' | 'running' | 'paused' | 'hung' | 'shutting down' | 'suspended' | 'shut down' | 'dying';

/** A backend that dom0's kernel has, as /proc/net/dev and /sys/bus/xen-backend show it. */
export interface BackendDevice {
  readonly type: 'vif' | 'vbd';
  readonly domid: number;
  readonly devid: number;
  /** Whether it has counters: a vbd has none before the hotplug script has told which device it is. */
  readonly counts: boolean;
}

/** A guest that has suspended itself, as far as the model has one: what `xl save` keeps and `xl restore` goes on from. */
export interface SavedGuest {
  readonly memoryKb: number;
  readonly maxKb: number;
  readonly maxVcpus: number;
  readonly onlineVcpus: number;
  readonly cmdline: string;
  /** Seconds of processor time. */
  readonly cpuTime: number;
  readonly uptimeMs: number;
  /** The frontends it has, as `device/vbd/51712`, in the order in which it found them. */
  readonly devices: readonly string[];
}

/** Bytes that a console keeps for a reader who does not come (`limit` of a console's nodes). */
export const consoleLimitBytes = 1024 * 1024;
/** Bytes of a console in one answer; in base64 they must fit into a line of privcmd.sock. */
export const consolePageBytes = 64 * 1024;

/** Every operation: its argument and its answer. Units are in the names. */
export interface PrivcmdOps {
  'xc.domain_create': [{ uuid: string; domid?: number; maxVcpus: number; poolId?: number }, { domid: number }];
  'xc.domain_getinfo': [{ domid: number }, DomInfo | null];
  /** The domains from domid `first` on, at most `listPageMax` of them. */
  'xc.domain_getinfolist': [{ first?: number }, readonly DomInfo[]];
  /** `toDestroy` is ours: a destruction begins, and if dom0 ends before it is done, its next life finishes it. */
  'xc.domain_pause': [{ domid: number; toDestroy?: boolean }, null];
  'xc.domain_unpause': [{ domid: number }, null];
  'xc.domain_destroy': [{ domid: number }, null];
  'xc.domain_setmaxmem': [{ domid: number; maxKb: number }, null];
  'xc.evtchn_alloc_unbound': [{ domid: number; remote: number }, { port: number }];
  /** Populates memory and loads the images. Their contents are not looked at; the guest model reads the command line. */
  'xc.dom_build': [
    { domid: number; memoryKb: number; kernel: string; ramdisk: string | null; cmdline: string },
    { storeMfn: number; consoleMfn: number },
  ];
  /** XEN_DOMCTL_resumedomain after a cooperative suspend: the guest is told that it was cancelled. */
  'xc.domain_resume': [{ domid: number }, null];
  /** What the guest of a suspended domain is. EINVAL when it has not suspended itself. */
  'xc.dom_save': [{ domid: number }, SavedGuest];
  /** Populates memory and puts a saved guest there, which goes on once the domain is introduced and unpaused. */
  'xc.dom_restore': [{ domid: number; guest: SavedGuest }, { storeMfn: number; consoleMfn: number }];
  'xc.physinfo': [Record<string, never>, { nrCpus: number; totalKb: number; freeKb: number }];
  /** ESRCH: there is no such domain, or it has no such vcpu. */
  'xc.vcpu_getinfo': [{ domid: number; vcpu: number }, VcpuInfo];
  /** Answers with what of it the scheduler will use. */
  'xc.vcpu_setaffinity': [
    { domid: number; vcpu: number; hard?: readonly number[]; soft?: readonly number[] },
    { hard: readonly number[]; soft: readonly number[] },
  ];
  /** Every node that the domain may get memory from. */
  'xc.domain_node_getaffinity': [{ domid: number }, { nodes: readonly number[] }];
  /** The first pool whose id is `poolId` or above; null behind the last one. */
  'xc.cpupool_getinfo': [{ poolId: number }, CpupoolInfo | null];
  'xc.cpupool_freeinfo': [Record<string, never>, { cpus: readonly number[] }];
  /** ENOENT: this hypervisor was built without that scheduler. */
  'xc.cpupool_create': [{ sched: string }, { poolId: number }];
  'xc.cpupool_destroy': [{ poolId: number }, null];
  'xc.cpupool_addcpu': [{ poolId: number; cpu: number }, null];
  'xc.cpupool_removecpu': [{ poolId: number; cpu: number }, null];
  'xc.cpupool_movedomain': [{ poolId: number; domid: number }, null];
  'xc.sched_domain_get': [{ domid: number; sched: SchedulerName }, DomainSched];
  'xc.sched_domain_set': [{ domid: number } & DomainSched, null];
  /** EINVAL: no pool has rtds. */
  'xc.sched_rtds_vcpu_set': [{ domid: number }, null];
  /** Parameters of a pool, of the scheduler that the caller takes its to be. */
  'xc.domain_send_trigger': [{ domid: number; trigger: Trigger; vcpu: number }, null];
  'xc.send_debug_keys': [{ keys: string }, null];
  /** Xen's console from place `index` on, and where to go on; `clear` hides it from later readers. */
  'xc.readconsolering': [{ index: number; clear: boolean }, { text: string; index: number }];
  /** Sets a runtime parameter of Xen: `path` as in hypfs. */
  'xc.hypfs_write': [{ path: string; value: string }, null];
  'xc.sched_params_get': [{ poolId: number; sched: SchedulerName }, CreditParams];
  'xc.sched_params_set': [{ poolId: number; sched: SchedulerName } & CreditParams, null];

  'dom0.status': [Record<string, never>, Dom0Status];
  'dom0.stop': [Record<string, never>, null];
  /**
   * One page of the log, of the lines from number `from` on; `clear` forgets what it tells. With `waitMs` it waits that long
   * for a line when there is none.
   */
  'dom0.dmesg': [{ clear: boolean; from?: number; waitMs?: number }, KernelLog];
  'dom0.host': [Record<string, never>, HostView];
  /** The watch threads, from number `from` on, at most `listPageMax` of them. */
  'dom0.mtwatch': [{ from?: number }, readonly WatchThread[]];
  'dom0.machine': [Record<string, never>, { machine: MachineDescription; upMs: number }];
  'dom0.census': [Record<string, never>, Census];
  'dom0.backends': [Record<string, never>, readonly BackendDevice[]];
  /** `inflight` is whatever the device has in flight: of a vbd it is `io`. */
  /**
   * What a console's terminal has to read, in base64; what is read is gone, as from any terminal. `input`, in base64 too, is
   * typed first. With `waitMs` it waits that long for output. Null: there is no such terminal.
   */
  'dom0.console': [{ domid: number; tty: string; input?: string; waitMs?: number }, { data: string } | null];
  'dom0.hold': [{ device: string; mode: Hold['mode'] }, Hold];
  /** The thread of that name, comm or pid; for a watch thread also by its domain's name or domid. Null: there is none. */
  'dom0.thread': [{ name: string }, KernelThread | null];
  /** Lets go of one device, or of all. Answers with those it let go. */
  'dom0.flush': [{ device?: string }, readonly Hold[]];
  'dom0.holds': [Record<string, never>, readonly Hold[]];
  'dom0.guest': [{ domid: number }, { state: GuestState }];
  /** What comes from inside a guest. EBUSY: it is paused, or hangs, and does nothing. EINVAL: it has ended. */
  'dom0.guest_event': [{ domid: number; event: GuestEvent }, null];
  'dom0.monitor': [MonitorRequest, { pid: number }];
  /** Waits until the trace is on disk. */
  'dom0.sync': [Record<string, never>, null];
  /** Waits for a turn among toolstacks (`turns.ts`); null: too many wait. It is over with the connection, too. */
  'dom0.turn': [Record<string, never>, { turn: number } | null];
  'dom0.turn_over': [{ turn: number }, null];
  /**
   * The block device of a file (`as: 'loop'`, through a modelled loop device, for the backend `owner`) or of a node under /dev
   * (`as: 'device'`).
   */
  'dom0.block_attach': [
    { path: string; as: 'device' | 'loop'; sectors: number; major?: number; minor?: number; owner?: string },
    BlockDevice,
  ];
  /**
   * Undoes a loop attach; a device is left alone, and so is one for another than `owner`. Without `node`, all that is for `owner`:
   * ENOENT when there is none.
   */
  'dom0.block_detach': [{ node?: string; owner?: string }, null];
  /**
   * Starts a device model for a domain; it says in `device-model/N/state` when it runs. With `vncDisplay` it listens there,
   * or with `vncUnused` at the next display that is free. EEXIST when the domain has one.
   */
  'dom0.spawn_qemu': [{ domid: number; vncDisplay?: number; vncUnused: boolean }, { pid: number; vncPort: number | null }];
  /** Signals a device model, which ends: that of the pid, or instead that of the domain. ESRCH when there is none. */
  'dom0.kill_qemu': [{ pid?: number; domid?: number }, null];
  /** Gives a vif another name, in dom0 or in a driver domain. EEXIST when there is a device of that name. */
  'dom0.rename_vif': [{ vif: string; name: string; domid?: number }, null];
  /** Puts a vif on a bridge there, or takes it off. ENOENT when there is no such bridge. */
  'dom0.bridge': [{ bridge: string; vif: string; add: boolean; domid?: number }, null];
}
export type PrivcmdOp = keyof PrivcmdOps;

export type PrivcmdErrno =
  | ('ENOENT' | 'ESRCH' | 'EINVAL' | 'EBUSY' | 'EEXIST' | 'ENOMEM' | 'ENOSYS' | 'EIO')
  | ('EPERM' | 'ENODEV' | 'ENOSPC' | 'EADDRNOTAVAIL' | 'ERANGE' | 'EDOM');

/** A refusal: an errno name, and words for a person. */
export class PrivcmdError extends Error {
  override readonly name = 'PrivcmdError';

  constructor(
    readonly errno: PrivcmdErrno,
    message: string,
  ) {
    super(message);
  }
}

/** The client's side, whatever carries it. */
export interface Xc {
  call<Op extends PrivcmdOp>(op: Op, args: PrivcmdOps[Op][0]): Promise<PrivcmdOps[Op][1]>;
  close(): void;
}

/** Every domain of the hypervisor, by rising domid. */
export async function everyDomain(xc: Xc): Promise<readonly DomInfo[]> {
  const all: DomInfo[] = [];
  for (;;) {
    const page = await xc.call('xc.domain_getinfolist', { first: (all.at(-1)?.domid ?? -1) + 1 });
    all.push(...page);
    if (page.length < listPageMax) return all;
  }
}

/** Every watch thread of dom0. */
export async function everyWatchThread(xc: Xc): Promise<readonly WatchThread[]> {
  const all: WatchThread[] = [];
  for (;;) {
    const page = await xc.call('dom0.mtwatch', { from: all.length });
    all.push(...page);
    if (page.length < listPageMax) return all;
  }
}

/** The server's side: one handler an operation. */
export type PrivcmdHandlers = {
  readonly [Op in PrivcmdOp]: (args: PrivcmdOps[Op][0]) => PrivcmdOps[Op][1] | Promise<PrivcmdOps[Op][1]>;
};
