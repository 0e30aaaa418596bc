/**
 * A whole machine in one process, on virtual time: dom0, and a toolstack that runs the real libxl against it.
 *
 * `run` lets everything happen until a promise is done. Time stands still while anybody can go on and then jumps to the
 * next deadline, so ten seconds of waiting cost nothing and no test depends on how fast the machine is.
 */
import { dirname } from 'node:path';
import { builtinScripts } from '../src/libxl/builtin-scripts.js';
import { type Ctx, type FileStat, type Host, LIBXL_DOMID_REUSE_TIMEOUT, logLine } from '../src/libxl/ctx.js';
import { deviceEventsHandler } from '../src/libxl/devd.js';
import type { DomainConfig } from '../src/libxl/domain-config.js';
import { SimClock, seeded } from '../src/xenbus/clock.js';
import { Dom0, type Dom0Options } from '../src/xenbus/dom0.js';
import type { Uevent } from '../src/xenbus/kernel/bus.js';
import type { Observer } from '../src/xenbus/kernel/kernel.js';
import type { KTask } from '../src/xenbus/kernel/sched.js';
import { mtwatchPath } from '../src/xenbus/paths.js';
import { listPageMax, type PrivcmdOp, type PrivcmdOps, type WatchThread, type Xc } from '../src/xenbus/privcmd.js';
import type { Store } from '../src/xenbus/store.js';
import type { TraceLine } from '../src/xenbus/trace.js';
import { linkTransport, type Who } from '../src/xenbus/transport.js';
import { backOffOf, type Xs, xsClient } from '../src/xenbus/xs-client.js';
import { formatPerm } from '../src/xenbus/xs-wire.js';
import { type SharedHost, startToolstack, type Toolstack, type ToolstackOptions } from './toolstack.js';

/** Deadlines that one `run` may pass before it counts as stuck. */
const jumpsMax = 200;

/** One that has a lock for so long was killed, by a test that did not say so. */
const killedHolderMs = 300_000;

export interface MachineOptions {
  /** dom0's command line; the default is one watch thread a domain. */
  readonly cmdline?: string;
  readonly seed?: number;
  readonly bridges?: readonly string[];
  /** Files that are not there. */
  readonly missing?: readonly string[];
  /** Told when the store takes up a domain, and when it lets go of it. */
  readonly introduced?: (domid: number) => void;
  readonly released?: (domid: number) => void;
  /** The store has changed, and is whole. */
  readonly committed?: (store: Store) => void;
  /** Whether the host has a directory for cores. */
  readonly dumps?: boolean;
  /** Guests have their drivers built in. */
  readonly builtInDrivers?: boolean;
  /** Who watches over dom0's kernel. */
  readonly observer?: Observer;
  /** Which of two or more tasks goes on, by its index; goes before `seed`. */
  readonly choose?: (ready: readonly KTask[]) => number;
  /** What dom0 keeps, and where it goes on. */
  readonly life?: Pick<Dom0Options, 'keep' | 'recovered' | 'commit' | 'turns'>;
  /** What libxl has written before. */
  readonly files?: ReadonlyMap<string, string>;
}

export interface Machine {
  readonly dom0: Dom0;
  readonly clock: SimClock;
  readonly ctx: Ctx;
  readonly trace: TraceLine[];
  /** libxl's lines, as they stand on stderr. */
  readonly lines: string[];
  /** What dom0 logged about itself. */
  readonly log: string[];
  /** What dom0's kernel told user space. */
  readonly uevents: Uevent[];
  connect(who: Who, domid?: number): Xs;
  /** A process that has opened /dev/xen/xenbus. */
  openXenbus(): Xs;
  run<T>(work: Promise<T>): Promise<T>;
  /** Lets everything happen that needs no time to pass. */
  settle(): Promise<void>;
  /** What libxl has written, by name: userdata and cores. */
  readonly files: Map<string, string>;
  /** The locks that are held now, as `domain 1` and `name web`. */
  readonly locks: ReadonlyMap<string, unknown>;
  /**
   * Domids N of which there was a `/local/domain/N` without an `mtwatch/N`, at any generation of the store. It looks after every
   * single change, not at the ends of operations.
   */
  readonly unannounced: ReadonlySet<number>;
  /** Another toolstack, with connections of its own, which can be killed. The files are those of this machine. */
  toolstack(options?: ToolstackOptions): Toolstack;
  threads(): readonly WatchThread[];
  /** Every node with its value and permissions, in the order of the server. */
  store(): Promise<string[]>;
  /** The same, seen from inside the store and without a request. */
  nodes(): string[];
}

export async function machine(options: MachineOptions = {}): Promise<Machine> {
  const {
    dumps = false,
    cmdline = 'xen_mtwatch',
    seed,
    bridges = ['xenbr0'],
    missing = [],
    introduced,
    released,
    observer,
    choose,
    builtInDrivers = false,
    committed,
  } = options;
  const clock = new SimClock(seed ?? 1);
  const trace: TraceLine[] = [];
  const files = new Map<string, string>(options.files);
  const log: string[] = [];
  const lines: string[] = [];
  const uevents: Uevent[] = [];
  const unannounced = new Set<number>();
  let tree: Store | undefined;
  const draw = seed === undefined ? undefined : seeded(seed);
  const host = { root: '/', assumeFiles: true, strictFiles: false, bridges };
  const dom0Options: Dom0Options = {
    clock,
    cmdline,
    host,
    builtInDrivers,
    log: (line) => log.push(line),
    trace: (line) => trace.push(line),
    uevent: (uevent) => uevents.push(uevent),
    ...(draw ? { choose: (n: number) => draw() % n } : {}),
    ...(choose ? { choose: (_n: number, ready: readonly KTask[]) => choose(ready) } : {}),
    ...(introduced ? { introduced } : {}),
    ...(released ? { released } : {}),
    ...(observer ? { observer } : {}),
    ...options.life,
    committed: (store) => {
      tree = store;
      for (const domid of unannouncedIn(store)) unannounced.add(domid);
      committed?.(store);
    },
  };
  const dom0 = new Dom0(dom0Options);
  const xc: Xc = {
    call: async <Op extends PrivcmdOp>(op: Op, args: PrivcmdOps[Op][0]) => {
      const handler = (dom0.handlers as unknown as Record<string, (args: unknown) => unknown>)[op];
      if (!handler) throw new Error(`${op} is dom0d's to answer`);
      return (await handler(args)) as PrivcmdOps[Op][1];
    },
    close: () => {},
  };
  const connect = (who: Who, domid = 0) => xsClient(linkTransport(dom0, { domid, who }), { backOff: backOffOf(clock) });
  const stat = async (path: string): Promise<FileStat | undefined> =>
    missing.includes(path) ? undefined : { kind: 'assumed', block: path.startsWith('/dev/') };
  const shared = sharedHost(clock, files, stat, [...missing, ...(dumps ? [] : ['/var/lib/xen/dump'])]);
  const toolstacks: Toolstack[] = [];
  const toolstack = (asked?: ToolstackOptions) => {
    const connectAs = (who: Who) => linkTransport(dom0, { domid: 0, who });
    const started = startToolstack({ clock, xc, host: shared.host, connect: connectAs }, asked);
    toolstacks.push(started);
    return started;
  };
  const ctx: Ctx = {
    xs: connect('xl'),
    xc,
    clock,
    timeoutScale: 1,
    log: (level, where, domid, message) => {
      if (level === 'error' || level === 'warn') lines.push(logLine('libxl', level, where, domid, message));
    },
    xcLog: (line, level = 'error') => {
      if (level === 'error') lines.push(line);
    },
    host: shared.host.of(shared.host.nextPid(), async (run) => {
      const name = run.script.slice(run.script.lastIndexOf('/') + 1);
      const script = builtinScripts.get(name);
      if (!script) throw new Error(`no script ${name} in a test`);
      const io = { openXs: async () => connect('hotplug'), xc, stat, resolve: async (path: string) => path };
      return { pid: shared.host.nextPid(), status: await script(io, run) };
    }),
  };

  async function settle(): Promise<void> {
    for (let quiet = 0; quiet < 3; ) {
      await dom0.settle();
      await clock.turn();
      quiet = dom0.idle && !toolstacks.some(({ busy }) => busy) ? quiet + 1 : 0;
    }
  }

  async function run<T>(work: Promise<T>): Promise<T> {
    let done = false;
    const ended = () => {
      done = true;
    };
    work.then(ended, ended);
    await settle();
    for (let jumps = 0; !done; jumps++) {
      if (jumps === jumpsMax) throw new Error(`not done after ${jumpsMax} deadlines:\n${lines.join('\n')}`);
      if (!clock.jump()) throw new Error(`nobody can go on:\n${lines.join('\n')}`);
      await settle();
    }
    return work;
  }

  async function store(): Promise<string[]> {
    const xs = connect('client');
    const found: string[] = [];
    const visit = async (path: string): Promise<void> => {
      for (const name of (await xs.directory(path)) ?? []) {
        const child = path === '/' ? `/${name}` : `${path}/${name}`;
        const perms = ((await xs.getPerms(child)) ?? []).map(formatPerm).join(',');
        found.push(`${child} = "${await xs.read(child)}"   (${perms})`);
        await visit(child);
      }
    };
    await run(visit('/'));
    xs.close();
    return found;
  }

  const nodes = () => {
    const found: string[] = [];
    const visit = (path: string): void => {
      for (const name of tree?.names(path) ?? []) {
        const child = path === '/' ? `/${name}` : `${path}/${name}`;
        const node = tree?.get(child);
        if (node) found.push(`${child} = "${node.value}"   (${node.perms.map(formatPerm).join(',')})`);
        visit(child);
      }
    };
    visit('/');
    return found;
  };

  const threads = () => {
    const all: WatchThread[] = [];
    for (;;) {
      const page = dom0.handlers['dom0.mtwatch']({ from: all.length }) as readonly WatchThread[];
      all.push(...page);
      if (page.length < listPageMax) return all;
    }
  };
  await settle();
  const openXenbus = () => xsClient(linkTransport(dom0.xenbus, { domid: 0, who: 'client' }));
  const { locks } = shared;
  const seen = { trace, lines, log, uevents, files, locks, unannounced, threads, store, nodes };
  return { dom0, clock, ctx, connect, openXenbus, toolstack, run, settle, ...seen };
}

/** The domids of the nodes that break the law of mtwatch: whenever `/local/domain/N` is there, `mtwatch/N` is. */
export function unannouncedIn(store: Store): number[] {
  const domids = store.names('/local/domain').map(Number);
  return domids.filter((domid) => domid !== 0 && store.get(mtwatchPath(domid)) === undefined);
}

/** Who has a lock, and who waits for it, by pid. */
interface Lock {
  readonly holder: number;
  readonly waiting: { readonly pid: number; take: () => void }[];
}

/** The files of a machine, for any number of processes. Those below the `absent` directories cannot be made. */
export function sharedHost(
  clock: SimClock,
  files: Map<string, string>,
  stat: Host['stat'],
  absent: readonly string[],
): { readonly host: SharedHost; readonly locks: ReadonlyMap<string, Lock> } {
  const locks = new Map<string, Lock>();
  let lastPid = 999;
  const unlock = (pid: number, name: string): void => {
    if (locks.get(name)?.holder !== pid) return;
    const waiting = locks.get(name)?.waiting ?? [];
    locks.delete(name);
    const [next, ...rest] = waiting;
    if (!next) return;
    locks.set(name, { holder: next.pid, waiting: rest });
    next.take();
  };
  const lock = (pid: number, name: string): Promise<void> => {
    const held = locks.get(name);
    if (!held) {
      locks.set(name, { holder: pid, waiting: [] });
      return Promise.resolve();
    }
    return new Promise((take) => {
      const mine = { pid, take: () => {} };
      const cancel = clock.after(killedHolderMs, () => {
        const waiting = locks.get(name)?.waiting ?? [];
        if (!waiting.includes(mine)) return;
        locks.set(name, { holder: pid, waiting: waiting.filter((each) => each !== mine) });
        take();
      });
      mine.take = () => {
        cancel();
        take();
      };
      held.waiting.push(mine);
    });
  };
  const locked = async (pid: number, name: string) => {
    await lock(pid, name);
    return async () => unlock(pid, name);
  };
  const recentDomids = new Map<number, number>();
  const host: SharedHost = {
    nextPid: () => ++lastPid,
    forget: (pid) => {
      for (const [name, { holder, waiting }] of [...locks]) {
        locks.set(name, { holder, waiting: waiting.filter((each) => each.pid !== pid) });
        if (holder === pid) unlock(pid, name);
      }
    },
    of: (pid, runScript) => ({
      pid,
      stat,
      readMagic: async () => undefined,
      runScript,
      readUserdata: async (name) => files.get(name),
      writeUserdata: async (name, contents) => void files.set(name, contents),
      createFile: async (path) => {
        if (absent.includes(dirname(path))) return { errno: 2, words: 'No such file or directory' };
        files.set(path, '');
        const write = async (bytes: Uint8Array, at: number) => {
          const before = files.get(path) ?? '';
          files.set(path, before.slice(0, at).padEnd(at, '\0') + Buffer.from(bytes).toString('latin1'));
        };
        return { file: { write, close: async () => undefined } };
      },
      lockUserdata: (domid) => locked(pid, `domain ${domid}`),
      lockName: (name) => locked(pid, `name ${name}`),
      isDomidRecent: async (domid) => clock.now() - (recentDomids.get(domid) ?? -Infinity) <= LIBXL_DOMID_REUSE_TIMEOUT,
      markDomidRecent: async (domid) => void recentDomids.set(domid, clock.now()),
      removeUserdata: async (domid, uuid) => {
        for (const name of [...files.keys()]) if (name.includes(`.${domid}.${uuid}.`)) files.delete(name);
      },
    }),
  };
  return { host, locks };
}

/** `xl devd` in driver domain `domid`, whose scripts speak to the store as it does; until it is stopped, or its domain ends. */
export function devd(m: Machine, domid: number): () => Promise<void> {
  const xs = m.connect('client', domid);
  let pid = 500;
  const xc: Ctx['xc'] = {
    call: (op, args) => m.ctx.xc.call(op, op === 'dom0.bridge' || op === 'dom0.rename_vif' ? { ...args, domid } : args),
    close: () => {},
  };
  const io = {
    openXs: async () => m.connect('client', domid),
    xc,
    stat: m.ctx.host.stat,
    resolve: async (file: string) => file,
  };
  const runScript: Ctx['host']['runScript'] = async (run) => {
    const script = builtinScripts.get(run.script.slice(run.script.lastIndexOf('/') + 1));
    return { pid: ++pid, status: script ? await script(io, run) : 127 };
  };
  const done = deviceEventsHandler({ ...m.ctx, xs, xc, host: { ...m.ctx.host, runScript } }).catch(() => undefined);
  return async () => {
    xs.close();
    await done;
  };
}

let uuids = 0;

/** The guest of the recordings: two vcpus, 128 MiB, a disk and a vif. */
export function pvConfig(name = 'pv', changes: Partial<DomainConfig> = {}): DomainConfig {
  uuids += 1;
  return {
    cInfo: { type: 'pv', name, uuid: `00000000-0000-4000-8000-${String(uuids).padStart(12, '0')}`, runHotplugScripts: true },
    bInfo: {
      maxVcpus: 2,
      availVcpus: [0, 1],
      maxMemkb: 131_072,
      targetMemkb: 131_072,
      schedParams: {},
      claimMode: true,
      kernel: '/boot/vmlinux',
      ramdisk: '/boot/domu.initrd',
      cmdline: 'console=hvc0 root=/dev/xvda',
      pv: {},
      archArm: {},
      archX86: {},
    },
    disks: [{ pdevPath: `/dev/${name === 'pv' ? 'loop0' : `vg/${name}`}`, vdev: 'xvda', format: 'raw', readwrite: true }],
    nics: [{ devid: 0, mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }],
    onPoweroff: 'destroy',
    onReboot: 'restart',
    onWatchdog: 'destroy',
    onCrash: 'destroy',
    onSoftReset: 'soft_reset',
    ...changes,
  };
}
