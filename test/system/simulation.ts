/**
 * One simulated life of a system: operations begin at random, faults come and go, and at the end everything is let go,
 * destroyed and looked at.
 */
import { LIBXL_DOMID_REUSE_TIMEOUT, LibxlError } from '../../src/libxl/ctx.js';
import { type BackendDevice, type Census, PrivcmdError } from '../../src/xenbus/privcmd.js';
import type { TraceLine } from '../../src/xenbus/trace.js';
import { abort, type Xs, type XsWatch } from '../../src/xenbus/xs-client.js';
import { XsError } from '../../src/xenbus/xs-wire.js';
import { type Law, Violation, violated } from './laws.js';
import { destroyAll, domainsMax, type ToolstackOp, toolstackOps, weighted } from './operations.js';
import type { Lane } from './pending.js';
import { type Plant, type PlantName, plants } from './plants.js';
import { guestNodesMax, type Process, World } from './world.js';

/** Toolstacks at a time, and clients of the store that are no toolstacks. */
const toolstacksMax = 4;
const clientsMax = 3;
/** Of an operation of a toolstack, how many in a hundred are killed halfway, and within how many requests. */
const killsPercent = 4;
const killWithin = 160;
/**
 * Of the operations of one actor, how many in a hundred begin a while after the one before, and how long at most, in
 * milliseconds of virtual time. The others begin at once: time moves when all actors think or wait.
 */
const thinksPercent = 40;
const thinkMaxMs = 3_000;
/** What guests come to by themselves besides ending. */
const strangeEvents = ['hang', 'hang', 'wake', 'wake', 'suspend', 'watchdog', 'soft-reset'] as const;
/** Ends of operations that a report shows. */
const historyMax = 30;
/** Operations between two counts of all nodes. */
const auditEvery = 25;

export interface Failure {
  readonly seed: number;
  /** Operations that had begun, the last of them among those that go on. */
  readonly op: number;
  readonly law: string;
  readonly detail: string;
  /** The last deliveries. */
  readonly recent: readonly string[];
  /** Operations that had ended lately, and those that went on. */
  readonly history: readonly string[];
  readonly running: readonly string[];
}

export interface Outcome {
  readonly seed: number;
  readonly ops: number;
  readonly deliveries: number;
  readonly hash: string;
  /** Operations by name: how many ended well, failed, were killed. */
  readonly ends: ReadonlyMap<string, { ok: number; failed: number; killed: number }>;
  readonly failure: Failure | undefined;
}

export interface SimulateOptions {
  readonly plant?: PlantName | undefined;
  /** Told of every request and event of the store. */
  readonly trace?: ((line: TraceLine) => void) | undefined;
}

/** Runs one seed. The same arguments give the same outcome. */
export async function simulate(seed: number, ops: number, { plant, trace }: SimulateOptions = {}): Promise<Outcome> {
  const world = new World(seed, plant && (plants[plant] as Plant), trace);
  const life = new Life(world, ops);
  let failure: Failure | undefined;
  try {
    await life.run();
  } catch (error) {
    const what = error instanceof Violation ? error : violated('sound', error instanceof Error ? `${error.stack}` : `${error}`);
    const { law, detail } = what;
    failure = {
      seed,
      op: life.begun,
      law,
      detail,
      recent: world.pending.recent(),
      history: life.history,
      running: life.running(),
    };
  } finally {
    world.close();
  }
  return { seed, ops: life.begun, deliveries: world.pending.count, hash: world.hash, ends: life.ends, failure };
}

/** An operation that goes on. */
interface Running {
  readonly name: string;
  readonly number: number;
  readonly domid: number | undefined;
  readonly process: Process | undefined;
  /** Somebody else has had to do with its domain meanwhile. */
  raced: boolean;
}

class Life {
  begun = 0;
  readonly ends = new Map<string, { ok: number; failed: number; killed: number }>();
  /** How the last operations ended. */
  readonly history: string[] = [];
  readonly #world: World;
  readonly #ops: number;
  readonly #lane: Lane;
  readonly #running = new Set<Running>();
  /** Why operations on a domain may fail. */
  readonly #taints = new Map<number, string>();
  readonly #clients: StoreClient[] = [];
  #stranger: Xs | undefined;
  readonly #guests = new Map<number, GuestClient>();
  #before: string[] = [];
  #census: Census | undefined;
  /** Actors that have stopped, after the last operation. */
  #stopped = 0;

  constructor(world: World, ops: number) {
    this.#world = world;
    this.#ops = ops;
    this.#lane = world.pending.lane('actors');
    world.onFault = (domid) => this.#taint(domid, 'a fault');
  }

  async run(): Promise<void> {
    const world = this.#world;
    await world.boot();
    this.#before = this.#nodes();
    this.#census = world.dom0.census();
    this.#stranger = world.client('client', 0, 'stranger');
    this.#clients.push(...Array.from({ length: clientsMax }, (_, index) => new StoreClient(world, index, this.#clients)));
    const actors = [
      ...Array.from({ length: toolstacksMax }, () => () => this.#toolstack()),
      ...this.#clients.map((client) => () => this.#client(client)),
      () => this.#guest(),
      () => this.#fate(),
    ];
    for (const act of actors) this.#later(act);
    await world.go(() => this.#stopped === actors.length && this.#running.size === 0, Number.POSITIVE_INFINITY);
    await this.#heal();
  }

  running(): string[] {
    return [...this.#running].map(operationText);
  }

  /** One actor's next operation, a while from now. */
  #later(act: () => Promise<void>): void {
    const world = this.#world;
    const begin = () => {
      if (this.begun >= this.#ops) {
        this.#stopped += 1;
        return;
      }
      this.begun += 1;
      if (this.begun % auditEvery === 0) world.storeLaws.audit();
      act().then(
        () => this.#later(act),
        (error: unknown) => {
          world.fail(
            error instanceof Violation ? error : violated('sound', error instanceof Error ? `${error.stack}` : `${error}`),
          );
        },
      );
    };
    if (world.below(100) < thinksPercent) world.clock.after(world.below(thinkMaxMs), begin);
    else world.pending.push(this.#lane, () => 'the next operation', begin);
  }

  #begin(name: string, domid: number | undefined, process?: Process): Running {
    const running: Running = { name, number: this.begun, domid, process, raced: false };
    for (const other of this.#running) {
      if (domid !== undefined && domidsOf(other).includes(domid)) {
        other.raced = true;
        running.raced = true;
      }
    }
    this.#running.add(running);
    return running;
  }

  #end(running: Running, how: 'ok' | 'failed' | 'killed'): void {
    this.#running.delete(running);
    const ends = this.ends.get(running.name) ?? { ok: 0, failed: 0, killed: 0 };
    ends[how] += 1;
    this.ends.set(running.name, ends);
    this.history.push(`${operationText(running)}: ${how}`);
    if (this.history.length > historyMax) this.history.shift();
  }

  #taint(domid: number, why: string): void {
    if (domid <= 0) return;
    if (!this.#taints.has(domid)) this.#taints.set(domid, why);
    for (const other of this.#running) if (domidsOf(other).includes(domid)) other.raced = true;
  }

  #domids(): number[] {
    return this.#world.dom0.hypervisor.list().flatMap(({ domid }) => (domid === 0 ? [] : [domid]));
  }

  // Toolstacks.

  async #toolstack(): Promise<void> {
    const world = this.#world;
    let [name, op] = weighted(world, Object.entries(toolstackOps));
    const domids = this.#domids();
    if (name === 'create' && domids.length >= domainsMax) name = 'destroy';
    else if (op.about === 'domain' && domids.length === 0) name = 'create';
    op = toolstackOps[name] ?? op;
    const domid = op.about === 'none' ? undefined : (world.pick(domids) ?? 0);
    const kill = world.below(100) < killsPercent ? { killAfter: 1 + world.below(killWithin), before: world.below(2) === 0 } : {};
    await this.#runOp(name, op, domid, kill);
  }

  async #runOp(name: string, op: ToolstackOp, domid: number | undefined, kill: Parameters<World['process']>[1]): Promise<void> {
    const world = this.#world;
    const process = world.process(name, kill);
    const { stack } = process;
    const running = this.#begin(name, domid, process);
    if (op.taints && domid !== undefined) this.#taint(domid, op.taints);
    const work = op.run(stack.ctx, world, domid ?? -1).then(
      () => undefined,
      (error: unknown) => ({ error }),
    );
    const end = await Promise.race([work, stack.ended.then(() => 'killed' as const)]);
    if (end === 'killed') {
      this.#killed(running);
      return;
    }
    stack.exit();
    this.#end(running, end ? 'failed' : 'ok');
    if (end) this.#failed(running, end.error);
    if (name === 'create' && end) this.#rolledBack(running);
    if (!end) this.#fresh(running);
  }

  #killed(running: Running): void {
    for (const domid of domidsOf(running)) {
      this.#taint(domid, 'its toolstack was killed');
      this.#world.torn.add(domid);
    }
    this.#end(running, 'killed');
  }

  /** Whether a failure has a reason. */
  #failed(running: Running, error: unknown): void {
    const { name, raced, process } = running;
    const message = error instanceof Error ? error.message : String(error);
    const what = `${name} (operation ${running.number}) of domain ${domidOf(running)}: ${message}`;
    if (error instanceof XsError && error.errno === 'EAGAIN') throw violated('retried', what);
    if (message.includes('EAGAIN')) throw violated('retried', what);
    if (!(error instanceof LibxlError || error instanceof XsError || error instanceof PrivcmdError)) {
      throw violated('sound', `${what}\n${error instanceof Error ? error.stack : ''}`);
    }
    const said = [message, ...(process?.stack.lines ?? [])];
    if (raced || said.some((line) => excuses.some((excuse) => excuse.test(line)))) return;
    const domids = domidsOf(running);
    if (domids.some((domid) => this.#taints.has(domid))) return;
    // A back end whose thread could not be started for seconds comes too late for libxl.
    if (domids.some((domid) => this.#world.startsRefused(domid) >= startsRefusedMax)) return;
    // A guest that has used up its nodes cannot connect a device.
    if (domids.some((domid) => this.#world.dom0.core.store.ownedNodes(domid) > guestNodesMax / 2)) return;
    throw violated('contained', `${what}\n${process?.stack.lines.join('\n')}`);
  }

  /** A creation that failed has left no node and no domain, unless others had their hands in it. */
  #rolledBack(running: Running): void {
    const domid = running.process?.made;
    const { dom0, torn } = this.#world;
    if (domid === undefined || running.raced || torn.has(domid)) return;
    if (this.#taints.has(domid) && dom0.hypervisor.get(domid)) return;
    if (dom0.core.store.get(`/local/domain/0/mtwatch/${domid}`) && !dom0.hypervisor.get(domid)) {
      throw violated('rolledBack', `create (operation ${running.number}) failed and left mtwatch/${domid}`);
    }
  }

  /** A domid that was given out had not been somebody's lately. */
  #fresh({ name, number, process }: Running): void {
    if (process?.made === undefined) return;
    const since = process.madeAt - (this.#world.destroyed.get(process.made) ?? Number.NEGATIVE_INFINITY);
    if (since >= 0 && since <= LIBXL_DOMID_REUSE_TIMEOUT) {
      throw violated('lately', `${name} (operation ${number}) has domid ${process.made}, ${since} ms after it was destroyed`);
    }
  }

  // Others.

  async #client(client: StoreClient): Promise<void> {
    const running = this.#begin('client', undefined);
    await client.act();
    this.#end(running, 'ok');
  }

  async #guest(): Promise<void> {
    const world = this.#world;
    const domid = world.pick([...world.introduced].filter((each) => world.dom0.hypervisor.get(each)?.dying === false));
    if (domid === undefined) return;
    let guest = this.#guests.get(domid);
    if (!guest || guest.over) {
      guest = new GuestClient(world, domid);
      this.#guests.set(domid, guest);
    }
    const running = this.#begin('guest', undefined);
    const well = await guest.act();
    if (guest.over) this.#guests.delete(domid);
    this.#end(running, well ? 'ok' : 'failed');
  }

  /** What befalls a system: guests that stop, devices that hang, scripts that fail, memory that runs out. */
  async #fate(): Promise<void> {
    const world = this.#world;
    const { handlers, hypervisor } = world.dom0;
    const domid = world.pick(this.#domids());
    const held = world.holds();
    const what = world.below(22);
    if (what === 19) {
      // What a toolstack of another make leaves behind when it dies.
      await this.#stranger?.write(`/local/domain/0/mtwatch/${20_000 + world.below(100)}`, '');
    } else if (what < 4 && held.length > 0) {
      handlers['dom0.flush']({});
    } else if (what < 6) {
      world.failing = world.failing > 0 ? 0 : 1 + world.below(30);
    } else if (what < 11) {
      this.#hold();
    } else if (domid !== undefined && what < 13) {
      this.#taint(domid, 'a script fails');
      world.scriptFaults.set(domid, world.below(2) === 0 ? { status: 1 } : 'late');
    } else if (domid !== undefined && what < 17 && world.introduced.has(domid) && hypervisor.get(domid)?.dying === false) {
      this.#taint(domid, 'it stops');
      world.dom0.guestStops(domid, world.pick(['poweroff', 'reboot', 'crash'] as const) ?? 'crash');
    } else if (domid !== undefined && what > 19) {
      const event = world.pick(strangeEvents) ?? 'hang';
      this.#taint(domid, `it does not go on as it was: ${event}`);
      try {
        handlers['dom0.guest_event']({ domid, event });
      } catch (error) {
        // One that is being built, or has ended, does nothing by itself.
        if (!(error instanceof PrivcmdError)) throw error;
      }
    }
  }

  /** Holds a device that is there. */
  #hold(): void {
    const world = this.#world;
    const { handlers } = world.dom0;
    const device = world.pick(handlers['dom0.backends']({}) as readonly BackendDevice[]);
    if (!device) return;
    const { type, domid, devid } = device;
    const name = `${type}-${domid}-${devid}`;
    if (world.holds().some((hold) => hold.device === name)) return;
    this.#taint(domid, 'a device of it is held');
    const mode = type === 'vif' ? 'inflight' : (world.pick(['io', 'bio', 'grants', 'connect'] as const) ?? 'io');
    handlers['dom0.hold']({ device: name, mode });
  }

  // The end.

  /** Lets go of everything, destroys everything, and looks what is left. */
  async #heal(): Promise<void> {
    const world = this.#world;
    const { dom0, clock } = world;
    world.failing = 0;
    world.scriptFaults.clear();
    dom0.handlers['dom0.flush']({});
    await this.#rest(30_000);
    for (const client of this.#clients) client.check();
    for (let round = 0; round < 3 && (this.#domids().length > 0 || round === 0); round++) {
      let done = false;
      const { stack } = world.process(round === 0 ? 'destroy' : 'destroy again');
      const failed: unknown[] = [];
      void destroyAll(stack.ctx)
        .catch((error: unknown) => failed.push(error))
        .then(() => {
          done = true;
          stack.exit();
        });
      await world.go(() => done);
      const [error] = failed;
      if (error !== undefined && !(error instanceof LibxlError)) throw error;
      await this.#rest(70_000);
    }
    let pruned = false;
    const { stack } = world.process('prune');
    void toolstackOps['prune']?.run(stack.ctx, world, -1).then(() => {
      pruned = true;
      stack.exit();
    });
    await world.go(() => pruned);
    for (const client of this.#clients) void client.leave();
    this.#stranger?.close();
    await this.#rest(10_000);
    const until = clock.now() + 1;
    await world.go(() => clock.now() >= until || world.pending.empty);
    world.quiet();
    this.#nothingLeft();
  }

  /** Lets so much time go by, and whatever happens in it. */
  async #rest(ms: number): Promise<void> {
    const { clock } = this.#world;
    let over = false;
    clock.after(ms, () => {
      over = true;
    });
    await this.#world.go(() => over && this.#world.pending.empty, 20_000);
  }

  #nothingLeft(): void {
    const world = this.#world;
    const { dom0 } = world;
    const wrong = (law: Law, what: string) => violated(law, what);
    if (world.monitors > 0) throw wrong('healed', `${world.monitors} monitors`);
    const domids = this.#domids();
    if (domids.length > 0) throw wrong('healed', `domains ${domids}`);
    const threads = world.threads().map(({ thread }) => thread);
    if (threads.length !== 1) throw wrong('healed', `threads ${threads}`);
    const left = this.#nodes().filter((line) => !this.#before.includes(line) && !mayStay.test(line));
    if (left.length > 0) throw wrong('healed', `nodes ${left.join(', ')}`);
    const census = dom0.census();
    for (const [what, now] of Object.entries(census)) {
      const before = (this.#census as unknown as Record<string, unknown>)[what];
      if (JSON.stringify(now) !== JSON.stringify(before)) {
        throw wrong('healed', `${what} ${JSON.stringify(now)}, before ${JSON.stringify(before)}`);
      }
    }
    if (world.files.size > 0) throw wrong('healed', `files ${[...world.files.keys()]}`);
    for (const domid of world.released.keys()) {
      if (dom0.core.store.ownedNodes(domid) !== 0) throw wrong('counted', `domain ${domid} is gone and owns nodes`);
    }
    world.storeLaws.audit();
  }

  #nodes(): string[] {
    return [...this.#world.dom0.core.store.entries()].map(([path, { value }]) => `${path} = ${value}`);
  }
}

/** What stays: directories that libxl makes and never removes, and what Linux has to say of a back end that failed. */
const mayStay = /^(\/vm = |\/libxl = |\/local\/domain\/0\/error( = |\/))/;

/** Refused starts of a domain's watch thread that libxl outwaits. */
const startsRefusedMax = 3;

/** Failures that nobody has to be blamed for: what was asked for cannot be. */
const excuses = [
  /already exists/,
  /recently used/,
  /File exists/,
  /is there already/,
  /Unpausing domain: Invalid argument/,
  /is (loopback-)?mounted/,
  /however maxcpus/,
];

function operationText(running: Running): string {
  const domid = domidOf(running);
  return `${running.number} ${running.name}${domid === undefined ? '' : ` ${domid}`}`;
}

function domidOf(running: Running): number | undefined {
  return domidsOf(running)[0];
}

/** Whom it is about, and whom it has made. */
function domidsOf({ domid, process }: Running): number[] {
  return [domid, process?.made].filter((each) => each !== undefined);
}

/** Keys of each client's own, and counters that all of them share. */
const keys = 6;
const counters = 1;
const counterPath = (index: number) => `/tool/sim/shared/${index}`;
/** Increments of each counter that were acknowledged, by the world that they were made in. */
const increments = new WeakMap<World, number[]>();

/** A program that uses the store, knows what it has written, and looks whether it is there. */
class StoreClient {
  readonly #world: World;
  readonly #xs: Xs;
  readonly #home: string;
  readonly #others: readonly StoreClient[];
  /** What is in its keys, as far as it knows. */
  readonly values = new Map<number, string>();
  #watch: XsWatch | undefined;
  /** What it has read of another one's key since it watches it. */
  #heard: { readonly path: string; value: string | undefined } | undefined;
  #reads = 0;

  constructor(world: World, index: number, others: readonly StoreClient[]) {
    this.#world = world;
    this.#xs = world.client('client', 0, `client ${index}`);
    this.#home = `/tool/sim/${index}`;
    this.#others = others;
    if (!increments.has(world)) increments.set(world, new Array(counters).fill(0));
  }

  async act(): Promise<void> {
    const world = this.#world;
    const key = world.below(keys);
    const path = `${this.#home}/${key}`;
    const what = world.below(12);
    if (what < 3) {
      const value = String(world.below(1_000_000));
      await this.#xs.write(path, value);
      this.values.set(key, value);
    } else if (what < 5) {
      const value = await this.#xs.read(path);
      if (value !== this.values.get(key)) throw violated('acknowledged', `${path} is ${value}, not ${this.values.get(key)}`);
    } else if (what < 6) {
      await this.#xs.rm(path);
      this.values.delete(key);
    } else if (what < 9) {
      await this.#count(world.below(counters));
    } else if (what < 10) {
      await this.#xs.directory('/local/domain');
    } else {
      await this.#listen();
    }
  }

  /** Adds one to a counter that others count too, and notes it among its own keys. */
  async #count(index: number): Promise<void> {
    const path = counterPath(index);
    const aborted = this.#world.below(8) === 0;
    const done = await this.#xs.transaction(async (tx) => {
      const before = Number((await tx.read(path)) ?? '0');
      await tx.write(path, String(before + 1));
      return aborted ? abort : undefined;
    });
    const counted = increments.get(this.#world);
    if (done !== abort && counted) counted[index] = (counted[index] ?? 0) + 1;
  }

  /** Watches a key of another client for a while. */
  async #listen(): Promise<void> {
    if (this.#watch) {
      const watch = this.#watch;
      this.#watch = undefined;
      this.#heard = undefined;
      await watch.close();
      return;
    }
    const path = `/tool/sim/${this.#world.below(this.#others.length)}/${this.#world.below(keys)}`;
    const heard: { readonly path: string; value: string | undefined } = { path, value: undefined };
    this.#heard = heard;
    this.#watch = await this.#xs.watch(path, () => {
      this.#reads += 1;
      const mine = this.#reads;
      const note = (value: string | undefined) => {
        if (mine === this.#reads) heard.value = value;
      };
      // It may leave before the answer comes.
      void this.#xs.read(path).then(note, () => undefined);
    });
  }

  /** Nothing is on its way: all that was acknowledged is there, and what it watches is what it has heard. */
  check(): void {
    const { store } = this.#world.dom0.core;
    for (const [key, value] of this.values) {
      const there = store.get(`${this.#home}/${key}`)?.value;
      if (there !== value) throw violated('acknowledged', `${this.#home}/${key} is ${there}, not ${value}`);
    }
    for (const [index, count] of (increments.get(this.#world) ?? []).entries()) {
      const there = Number(store.get(counterPath(index))?.value ?? '0');
      if (there !== count)
        throw violated('acknowledged', `${counterPath(index)} is ${there}, and ${count} increments were acknowledged`);
    }
    const heard = this.#heard;
    if (heard && this.#watch && heard.value !== store.get(heard.path)?.value) {
      throw violated('heard', `${heard.path} is ${store.get(heard.path)?.value}, and who watches it has heard of ${heard.value}`);
    }
  }

  async leave(): Promise<void> {
    await this.#xs.rm('/tool/sim').catch(() => false);
    this.#xs.close();
  }
}

/** A program in a guest, which writes where it may, until its quota is used up. */
class GuestClient {
  readonly #world: World;
  readonly #xs: Xs;
  over = false;

  constructor(world: World, domid: number) {
    this.#world = world;
    this.#xs = world.client('client', domid, `guest ${domid}`);
    void this.#xs.ended.then(() => {
      this.over = true;
    });
  }

  /** False: it was refused. */
  async act(): Promise<boolean> {
    const world = this.#world;
    const node = `data/${world.below(60)}`;
    const what = world.below(10);
    try {
      if (what < 3) await this.#xs.write(node, 'x'.repeat(1 + world.below(40)));
      else if (what < 4) for (let index = 0; index < 12; index++) await this.#xs.write(`data/${index}/${world.below(8)}`, '');
      else if (what < 6) await this.#xs.rm(node);
      else if (what < 7) await this.#xs.read('name');
      else if (what < 8) await this.#xs.read('/local/domain/0/name');
      else {
        await this.#xs.transaction(async (tx) => {
          await tx.read(node);
          await tx.write(node, String(world.below(1000)));
        });
      }
      return true;
    } catch (error) {
      if (error instanceof XsError && error.errno === 'EAGAIN') throw violated('retried', error.message);
      if (error instanceof XsError || this.over || (error as Error).name === 'ConnectionEnded') return false;
      throw error;
    }
  }
}
