/**
 * qemu as the device model of a PV guest: the back ends of frame buffers, keyboards, channels and images that dom0's kernel
 * cannot read (`-machine xenpv` of qemu 7.2, as a real xenstored logged it).
 *
 * A client of the store like any other, written as tasks. It has two connections, because qemu has two generations of Xen
 * code: "legacy" back ends (`hw/xen/xen-legacy-backend.c`), which poll the nodes of a kind, and disks (`hw/xen/xen-bus.c`).
 * Nothing is shown, typed, listened to or stored. Of an image only its being there counts.
 *
 * | legacy back end | frontend | what happens |
 * |---|---|---|
 * | none | any | Initialising, then the kind's features, `hotplug-status` and InitWait; a console that is xenconsoled's is left |
 * | InitWait | Initialised, Connected | Connected |
 * | any | Closing, Closed | Closed |
 */
import type { Clock } from './clock.js';
import type { Grants } from './hypervisor.js';
import { keptBelow, type Share } from './keep.js';
import { Kernel } from './kernel/kernel.js';
import { type Sched, type Task, waitEvent, waitQueue } from './kernel/sched.js';
import { PrivcmdError } from './privcmd.js';
import type { StorePort } from './transport.js';
import { parseState, XenbusState } from './xenbus.js';
import { joinStrings, XsError, XsType } from './xs-wire.js';

const { Initialising, InitWait, Initialised, Connected, Closing, Closed } = XenbusState;

export interface Qemu {
  readonly domid: number;
  readonly pid: number;
  /** SIGHUP: it takes its own nodes away and ends. */
  stop(): void;
  /** SIGKILL, or the end of the machine. */
  kill(): void;
}

export interface QemuOptions {
  readonly domid: number;
  readonly pid: number;
  readonly sched: Sched;
  readonly clock: Clock;
  readonly store: StorePort;
  readonly hypervisor: Grants;
  /** It served these rings in dom0's last life, and goes on with what it finds. */
  readonly before?: RingPorts | undefined;
  /** Told of the rings that it serves, whenever they change. */
  readonly keepRings?: (rings: RingPorts) => void;
}

/** The event channel of each disk that is connected, by the directory of its back end. */
type RingPorts = { readonly [dir: string]: number };

/** The kinds of legacy back ends in the order in which qemu registers them, with what each says of itself. */
const legacyKinds: readonly { readonly kind: string; readonly features: readonly string[] }[] = [
  { kind: 'console', features: [] },
  { kind: 'vkbd', features: ['feature-abs-pointer', 'feature-raw-pointer'] },
  { kind: '9pfs', features: ['versions', 'max-rings', 'max-ring-page-order'] },
  { kind: 'qusb', features: [] },
  { kind: 'vfb', features: ['feature-resize'] },
  { kind: 'qnic', features: [] },
];

/** What a feature says that is not just there. */
const featureValues: Readonly<Record<string, string>> = { versions: '1', 'max-rings': '8', 'max-ring-page-order': '9' };

interface Backend {
  readonly kind: string;
  readonly devid: string;
  readonly features: readonly string[];
  /** Below dom0: `backend/vfb/1/0`. */
  readonly dir: string;
  frontend: string;
  state: number;
}

/** What a process maps and binds, all of which it lets go when it ends. */
function keeping(hypervisor: Grants): { readonly grants: Grants; readonly release: () => void } {
  const taken = new Set<() => void>();
  const keep = (release: (() => void) | undefined) => {
    if (release) taken.add(release);
    return release;
  };
  return {
    grants: {
      grantMap: (domid) => keep(hypervisor.grantMap(domid)),
      evtchnBind: (local, domid, port, notified) => keep(hypervisor.evtchnBind(local, domid, port, notified)),
    },
    release: () => {
      for (const each of taken) each();
      taken.clear();
    },
  };
}

/** A client with a queue of events, and a task that serves it. */
function client({ sched, clock, store }: QemuOptions, name: string) {
  const kernel = new Kernel({ domid: 0, who: 'qemu', sched, clock, printk: () => {} });
  const events: { path: string; token: string }[] = [];
  const arrived = waitQueue(`${name} poll`);
  kernel.onWatchEvent = (path, token) => {
    // The store merges what a node is written again; of a device whose events wait one more tells nothing.
    if (!events.some((event) => event.path === path && event.token === token)) events.push({ path, token });
    sched.wakeAll(arrived);
    return undefined;
  };
  kernel.connect(store);
  const next = function* (): Task<{ path: string; token: string }> {
    for (;;) {
      yield* waitEvent(arrived, () => events.length > 0);
      const event = events.shift();
      if (event) return event;
    }
  };
  return { kernel, next };
}

/** Starts a device model, which says `running` once its back ends are there. */
export function startQemu(options: QemuOptions): Qemu {
  const { domid, pid, sched } = options;
  const isRecovered = options.before !== undefined;
  const legacy = client(options, `qemu-${domid}`);
  const bus = client(options, `qemu-${domid} xen-bus`);
  const { kernel } = legacy;
  const home = `device-model/${domid}`;
  let isUp = false;
  const backends = new Map<string, Backend>();
  const { grants, release } = keeping(options.hypervisor);
  const rings = ringsOf(domid, grants, options);
  const kill = () => {
    release();
    for (const each of [kernel, bus.kernel]) {
      sched.kill(each.home);
      each.disconnect();
    }
  };

  kernel.spawn('qemu-system-i386', 'do_sys_poll', () => guarded(run()));

  function* run(): Task {
    for (const { kind, features } of legacyKinds) {
      const node = `${home}/backends/${kind}`;
      if (!isRecovered || !(yield* kernel.exists(node))) {
        yield* kernel.talk(XsType.Mkdir, 0, joinStrings(node));
        yield* kernel.talk(XsType.SetPerms, 0, joinStrings(node, 'n0', `n${domid}`));
      }
      yield* kernel.watch(`backend/${kind}/${domid}`, `be:${kind}`);
      yield* scan(kind, features);
    }
    bus.kernel.spawn('qemu-system-i386', 'do_sys_poll', () => guarded(serveDisks(bus, domid, rings, isRecovered)));
    isUp = true;
    if (!isRecovered || (yield* kernel.read(`${home}/state`)) !== 'running') yield* kernel.write(`${home}/state`, 'running');
    for (;;) {
      const { path, token } = yield* legacy.next();
      yield* guarded(token.startsWith('be:') ? backendEvent(path, token.slice(3)) : frontendEvent(token.slice(3)));
    }
  }

  /** The devices of a kind that are not known yet. */
  function* scan(kind: string, features: readonly string[]): Task {
    for (const devid of (yield* kernel.directory(`backend/${kind}/${domid}`)) ?? []) {
      const dir = `backend/${kind}/${domid}/${devid}`;
      if (backends.has(dir)) continue;
      const before = parseState(yield* kernel.read(`${dir}/state`));
      const frontend = yield* kernel.read(`${dir}/frontend`);
      if (frontend === undefined) continue;
      // Initialising may be the toolstack's word, and then nothing has been said yet.
      const state = isRecovered && before !== Initialising ? before : 0;
      const backend = { kind, devid, features, dir, frontend, state };
      backends.set(dir, backend);
      yield* kernel.watch(frontend, `fe:${dir}`);
      yield* check(backend);
    }
  }

  function* backendEvent(path: string, kind: string): Task {
    const devid = path.split('/')[3];
    const features = legacyKinds.find((each) => each.kind === kind)?.features ?? [];
    if (devid === undefined) return yield* scan(kind, features);
    const dir = `backend/${kind}/${domid}/${devid}`;
    const backend = backends.get(dir);
    if (!backend) return yield* scan(kind, features);
    if ((yield* kernel.read(dir)) === undefined) {
      backends.delete(dir);
      yield* kernel.unwatch(backend.frontend, `fe:${dir}`);
    } else yield* check(backend);
  }

  function* frontendEvent(dir: string): Task {
    const backend = backends.get(dir);
    if (backend) yield* check(backend);
  }

  /** xen_be_check_state: goes on as far as it can. */
  function* check(backend: Backend): Task {
    const { dir, frontend, features, kind } = backend;
    const setState = function* (state: number): Task {
      backend.state = state;
      yield* kernel.write(`${dir}/state`, String(state));
    };
    if (backend.state === 0) {
      yield* setState(Initialising);
      yield* kernel.read(`${dir}/online`);
    }
    const front = parseState(yield* kernel.read(`${frontend}/state`));
    if (backend.state === Initialising) {
      yield* kernel.read(`${frontend}/protocol`);
      // xenconsoled has that one.
      if (kind === 'console' && (yield* kernel.read(`${frontend}/type`)) !== 'ioemu') return;
      for (const feature of features) yield* kernel.write(`${dir}/${feature}`, featureValues[feature] ?? '1');
      yield* kernel.write(`${dir}/hotplug-status`, 'connected');
      yield* setState(InitWait);
    }
    if (backend.state === InitWait && (front === Initialised || front === Connected)) yield* setState(Connected);
    if (backend.state !== Closed && (front === Closing || front === Closed)) yield* setState(Closed);
  }

  function* takeDown(): Task {
    for (const { kind } of legacyKinds) yield* guarded(kernel.rm(`${home}/backends/${kind}`));
    kill();
  }

  return {
    domid,
    pid,
    stop: () => {
      if (isUp) kernel.spawn('qemu-system-i386', 'do_exit', takeDown);
      else kill();
    },
    kill,
  };
}

/** What an image holds, in sectors: nobody looks into it. */
const imageSectors = 32_768;

/** One qdisk (hw/block/xen-block.c). */
interface Disk {
  readonly dir: string;
  readonly frontend: string;
  state: number;
  /** Gives back its rings, whose requests are answered at once. */
  disconnect: () => void;
}

interface Rings {
  /** Takes up a ring; what is returned gives it back, once. */
  connect(dir: string, port: number): () => void;
  /** What gives back the ring of a disk, if it has one. */
  of(dir: string): (() => void) | undefined;
  /** Gives back those of all other disks. */
  retain(dirs: readonly string[]): void;
}

/** The rings of a qemu: those of the life before are served from the start, for their guests go on at once. */
function ringsOf(domid: number, grants: Grants, { before = {}, keepRings = () => {} }: QemuOptions): Rings {
  const all = new Map<string, { readonly port: number; readonly disconnect: () => void }>();
  const keep = () => keepRings(Object.fromEntries([...all].map(([dir, { port }]) => [dir, port])));
  const connect = (dir: string, port: number) => {
    const taken = [grants.grantMap(domid), grants.evtchnBind(0, domid, port, (_grants, ended) => ended?.())];
    const disconnect = () => {
      if (all.get(dir)?.disconnect !== disconnect) return;
      all.delete(dir);
      for (const release of taken) release?.();
      keep();
    };
    all.set(dir, { port, disconnect });
    keep();
    return disconnect;
  };
  for (const [dir, port] of Object.entries(before)) connect(dir, port);
  const retain = (dirs: readonly string[]) => {
    for (const [dir, { disconnect }] of [...all]) if (!dirs.includes(dir)) disconnect();
  };
  return { connect, of: (dir) => all.get(dir)?.disconnect, retain };
}

/** What a disk says of itself, in the order of qemu's writes. */
function diskFeatures(node: { readonly mode: string; readonly isCdrom: boolean; readonly discard: boolean }): [string, string][] {
  const info = (node.isCdrom ? 1 : 0) | (node.mode === 'w' ? 0 : 4);
  return [
    ...(node.discard
      ? ([
          ['feature-discard', '1'],
          ['discard-granularity', '4096'],
          ['discard-alignment', '0'],
        ] as [string, string][])
      : []),
    ['feature-flush-cache', '1'],
    ['max-ring-page-order', '4'],
    ['info', String(info)],
    ['sector-size', '512'],
    ['sectors', String(imageSectors)],
    ['hotplug-status', 'connected'],
  ];
}

type Client = ReturnType<typeof client>;

/**
 * Serves the disks of a domain: those that are there, and each that appears. A drive without a medium, or without one that
 * qemu can open, stays as the toolstack has written it.
 *
 * | front end | what happens |
 * |---|---|
 * | Initialised, Connected | Connected |
 * | Closing | Closing |
 * | Closed, or none | Closed |
 *
 * Where the toolstack has asked it to close and no front end is at work, it does so by itself.
 */
function* serveDisks({ kernel, next }: Client, domid: number, rings: Rings, isRecovered: boolean): Task {
  const root = `backend/qdisk/${domid}`;
  const disks = new Map<string, Disk>();
  yield* kernel.watch(root, 'disks');
  for (;;) {
    const { token } = yield* next();
    yield* guarded(token === 'disks' ? scan() : change(token.slice(3), token.startsWith('fe:')));
  }

  function* scan(): Task {
    const devids = (yield* kernel.directory(root)) ?? [];
    rings.retain(devids.map((devid) => `${root}/${devid}`));
    for (const dir of disks.keys()) if (!devids.includes(dir.slice(root.length + 1))) yield* forget(dir);
    for (const devid of devids) {
      const dir = `${root}/${devid}`;
      if (!disks.has(dir)) yield* guarded(create(dir));
    }
  }

  function* forget(dir: string): Task {
    const disk = disks.get(dir);
    disks.delete(dir);
    if (!disk) return;
    disk.disconnect();
    yield* kernel.unwatch(`${disk.frontend}/state`, `fe:${dir}`);
    yield* kernel.unwatch(`${dir}/state`, `be:${dir}`);
  }

  function* create(dir: string): Task {
    const state = parseState(yield* kernel.read(`${dir}/state`));
    if (isRecovered && state !== Initialising) return yield* takeUp(dir, state);
    if (state !== Initialising || (yield* kernel.read(`${dir}/online`)) !== '1') return;
    const frontend = yield* kernel.read(`${dir}/frontend`);
    const [, path] = /^\w+:(.*)$/s.exec((yield* kernel.read(`${dir}/params`)) ?? '') ?? [];
    if (frontend === undefined || !path) return;
    const mode = (yield* kernel.read(`${dir}/mode`)) ?? 'w';
    const isCdrom = (yield* kernel.read(`${dir}/device-type`)) === 'cdrom';
    const discard = (yield* kernel.read(`${dir}/discard-enable`)) === '1';
    const disk: Disk = { dir, frontend, state: Initialising, disconnect: () => {} };
    disks.set(dir, disk);
    for (const [node, value] of diskFeatures({ mode, isCdrom, discard })) yield* kernel.write(`${dir}/${node}`, value);
    yield* setState(disk, InitWait);
    yield* watch(disk);
  }

  function* watch({ dir, frontend }: Disk): Task {
    yield* kernel.watch(`${dir}/state`, `be:${dir}`);
    yield* kernel.watch(`${frontend}/state`, `fe:${dir}`);
  }

  /** A disk of dom0's last life, with its ring. What has happened meanwhile is told by the new watches. */
  function* takeUp(dir: string, state: number): Task {
    const frontend = yield* kernel.read(`${dir}/frontend`);
    if (frontend === undefined || state === Closed) return rings.of(dir)?.();
    const disk: Disk = { dir, frontend, state, disconnect: rings.of(dir) ?? (() => {}) };
    disks.set(dir, disk);
    yield* watch(disk);
  }

  function* setState(disk: Disk, state: number): Task {
    if (disk.state === state) return;
    disk.state = state;
    yield* kernel.write(`${disk.dir}/state`, String(state));
  }

  /** Takes up the one ring that qemu serves, as it offers no more. */
  function* connect(disk: Disk): Task<boolean> {
    const port = yield* kernel.read(`${disk.frontend}/event-channel`);
    if (port === undefined) return false;
    disk.disconnect = rings.connect(disk.dir, Number(port));
    return true;
  }

  function* close(disk: Disk): Task {
    disk.disconnect();
    yield* setState(disk, Closed);
  }

  function* change(dir: string, isFrontend: boolean): Task {
    const disk = disks.get(dir);
    if (!disk) return;
    if (!isFrontend) {
      const state = yield* kernel.read(`${dir}/state`);
      if (state === undefined) return;
      disk.state = parseState(state);
    }
    const front = parseState(yield* kernel.read(`${disk.frontend}/state`));
    const isActive = front === Initialised || front === Connected || front === Closing;
    if (disk.state === Closing && !isActive) return yield* close(disk);
    if (!isFrontend || disk.state === Closed) return;
    if ((front === Initialised || front === Connected) && disk.state === InitWait) {
      if (yield* connect(disk)) yield* setState(disk, Connected);
    } else if (front === Closing) yield* setState(disk, Closing);
    else if (front === Closed) yield* close(disk);
  }
}

/** The domain goes away while it is served: what fails of a request is no error then. */
function* guarded(body: Task): Task {
  try {
    yield* body;
  } catch (error) {
    if (!(error instanceof XsError)) throw error;
  }
}

/** The first pid of a device model: above those that xl and its scripts are likely to have. */
const firstQemuPid = 60_001;
/** The port of VNC's display 0, and how many displays qemu tries when it is to look for a free one. */
const vncPort = 5900;
const vncDisplaysMax = 100;

const qemuPrefix = 'qemu/';
const nextPidKey = 'next-qemu';
type QemuKept = { readonly domid: number; readonly vncPort: number | null; readonly rings: RingPorts };

/** The device models of a machine. Those of dom0's last life go on: what they serve is in the store. */
export class Qemus {
  readonly #running = new Map<number, Qemu & { readonly vncPort: number | null }>();
  #nextPid = firstQemuPid;

  constructor(
    readonly sched: Sched,
    readonly clock: Clock,
    readonly store: StorePort,
    readonly hypervisor: Grants,
    readonly share: Share = {},
  ) {
    this.#nextPid = Number(share.recovered?.get(nextPidKey) ?? firstQemuPid);
    for (const [pid, value] of keptBelow(share.recovered, qemuPrefix)) {
      const { domid, vncPort, rings } = value as QemuKept;
      this.#start(Number(pid), domid, vncPort, rings);
    }
  }

  spawn(asked: { readonly domid: number; readonly vncDisplay?: number; readonly vncUnused: boolean }) {
    const { domid, vncDisplay, vncUnused } = asked;
    if (this.#of(domid)) throw new PrivcmdError('EEXIST', `domain ${domid} has a device model`);
    const port = vncDisplay === undefined ? null : this.#port(vncDisplay, vncUnused);
    const pid = this.#nextPid++;
    this.share.keep?.set(nextPidKey, this.#nextPid);
    this.#start(pid, domid, port);
    return { pid, vncPort: port };
  }

  #start(pid: number, domid: number, vncPort: number | null, before?: RingPorts): void {
    const { sched, clock, store, hypervisor } = this;
    const keep = (rings: RingPorts) => this.share.keep?.set(`${qemuPrefix}${pid}`, { domid, vncPort, rings });
    keep(before ?? {});
    const keepRings = (rings: RingPorts) => {
      if (this.#running.has(pid)) keep(rings);
    };
    this.#running.set(pid, { ...startQemu({ domid, pid, sched, clock, store, hypervisor, before, keepRings }), vncPort });
  }

  stop({ pid, domid }: { readonly pid?: number; readonly domid?: number }): void {
    const qemu = pid === undefined ? this.#of(domid) : this.#running.get(pid);
    if (!qemu)
      throw new PrivcmdError(
        'ESRCH',
        pid === undefined ? `domain ${domid} has no device model` : `no device model has pid ${pid}`,
      );
    this.#forget(qemu.pid);
    qemu.stop();
  }

  get running(): readonly Pick<Qemu, 'pid' | 'domid'>[] {
    return [...this.#running.values()];
  }

  /** The domain is gone, and with it whatever it had mapped. */
  bereft(domid: number): void {
    const qemu = this.#of(domid);
    if (!qemu) return;
    this.#forget(qemu.pid);
    qemu.kill();
  }

  #forget(pid: number): void {
    this.#running.delete(pid);
    this.share.keep?.delete(`${qemuPrefix}${pid}`);
  }

  #of(domid: number | undefined) {
    return [...this.#running.values()].find((qemu) => qemu.domid === domid);
  }

  #port(display: number, unused: boolean): number {
    const taken = new Set([...this.#running.values()].map((qemu) => qemu.vncPort));
    const last = unused ? display + vncDisplaysMax - 1 : display;
    for (let port = vncPort + display; port <= vncPort + last; port++) if (!taken.has(port)) return port;
    throw new PrivcmdError('EBUSY', `VNC display ${display} is taken`);
  }
}
