/**
 * A whole dom0 in one process, whose every delivery waits until the seed lets it go: store, hypervisor, kernel and guests
 * of `Dom0`, toolstacks that run libxl, clients of the store, and virtual time.
 */
import type { Host } from '../../src/libxl/ctx.js';
import { startMonitor } from '../../src/libxl/monitor.js';
import { type Clock, SimClock, seeded } from '../../src/xenbus/clock.js';
import { Dom0 } from '../../src/xenbus/dom0.js';
import { withImplied } from '../../src/xenbus/kernel/hazards.js';
import type { Hold, KernelLog, MonitorRequest, PrivcmdOp, PrivcmdOps, WatchThread, Xc } from '../../src/xenbus/privcmd.js';
import type { TraceLine } from '../../src/xenbus/trace.js';
import { linkTransport, type Who, type XsTransport } from '../../src/xenbus/transport.js';
import { type Xs, xsClient } from '../../src/xenbus/xs-client.js';
import { splitStrings, typeName, type XsPacket, XsType } from '../../src/xenbus/xs-wire.js';
import { sharedHost } from '../machine.js';
import { startToolstack, type Toolstack, type ToolstackOptions } from '../toolstack.js';
import { ClientLaws, KernelLaws, StoreLaws, type Violation, violated } from './laws.js';
import { type Lane, Pending } from './pending.js';
import { type Plant, plantedPort } from './plants.js';

/** Steps of dom0 at a time, at most, and how many times it has so many. */
const paces = [2, 8, 64];
const paceTurnsMax = 400;
/** Nodes that a guest may own: few enough that some come to it. */
export const guestNodesMax = 80;

export interface Process {
  readonly role: string;
  readonly stack: Toolstack;
  /** The domid that the hypervisor has given it last, and when. */
  made: number | undefined;
  madeAt: number;
}

/** What a hotplug script does instead of its work. */
export type ScriptFault = { readonly status: number } | 'late';

export class World {
  readonly draw: () => number;
  readonly clock: SimClock;
  readonly pending: Pending;
  readonly dom0: Dom0;
  readonly log: string[] = [];
  readonly files = new Map<string, string>();
  readonly storeLaws: StoreLaws;
  /** Domids of which a killed toolstack may have left parts. */
  readonly torn = new Set<number>();
  /** Domids that the store has taken up and not let go. */
  readonly introduced = new Set<number>();
  /** When a domid was last somebody's. */
  readonly released = new Map<number, number>();
  /** When libxl has last destroyed a domain of that domid. */
  readonly destroyed = new Map<number, number>();
  monitors = 0;
  /** Of an allocation or the start of a thread in dom0's kernel, how many in a hundred fail. */
  failing = 0;
  /** What the next script of a domain does instead of its work, by domid. */
  readonly scriptFaults = new Map<number, ScriptFault>();
  violation: Violation | undefined;
  /** Told when a monitor acts, or a script fails. */
  onFault: (domid: number) => void = () => undefined;

  readonly #plant: Plant | undefined;
  readonly #undo: () => void;
  readonly #kernelLane: Lane;
  readonly #shared: ReturnType<typeof sharedHost>;
  readonly #clients = new Set<ClientLaws>();
  #hashLow = 0x811c9dc5;
  #hashHigh = 0x9747b28c;
  #held = false;
  #pace = 64;
  #paceFor = 0;

  constructor(seed: number, plant?: Plant, onTrace?: (line: TraceLine) => void) {
    this.#plant = plant;
    this.draw = seeded(seed);
    this.clock = new SimClock(seed);
    this.pending = new Pending(this.draw, (lane) => this.#mix(lane));
    this.#kernelLane = this.pending.lane('dom0', false);
    this.storeLaws = new StoreLaws(
      () => (this.#held ? this.dom0.core : undefined),
      (domid) => this.torn.has(domid),
    );
    this.#shared = sharedHost(this.clock, this.files, async (path) => ({ kind: 'assumed', block: path.startsWith('/dev/') }), [
      '/var/lib/xen/dump',
    ]);
    this.dom0 = new Dom0({
      clock: this.clock,
      cmdline: 'xen_mtwatch',
      host: { root: '/', assumeFiles: true, strictFiles: false, bridges: ['xenbr0'] },
      log: (line) => this.#logged(line),
      trace: (line) => {
        onTrace?.(line);
        this.#mix(line.conn);
        this.#mixText(line.op);
        for (const arg of line.args) this.#mixText(arg);
        if (typeof line.result === 'string') this.#mixText(line.result);
        if (this.#held) this.storeLaws.traced(line);
      },
      choose: (n) => this.draw() % n,
      observer: new KernelLaws((violation) => this.fail(violation)),
      fails: () => this.failing > 0 && this.draw() % 100 < this.failing,
      defects: withImplied(plant?.defects ?? []),
      introduced: (domid) => void this.introduced.add(domid),
      released: (domid) => {
        this.introduced.delete(domid);
        this.released.delete(domid);
        this.released.set(domid, this.clock.now());
      },
      schedule: (run) =>
        this.pending.push(
          this.#kernelLane,
          () => 'its turns',
          () => run(this.#steps()),
        ),
    });
    this.#undo = plant?.into?.(this.dom0) ?? (() => undefined);
  }

  /** Boots. From here on the laws hold. */
  async boot(): Promise<void> {
    await this.go(() => this.pending.empty);
    this.#held = true;
    this.dom0.core.quotas.set('nodes', guestNodesMax);
  }

  close(): void {
    this.#undo();
    this.dom0.close();
  }

  /** The run so far, as a number of 64 bits in hexadecimal. */
  get hash(): string {
    const word = (value: number) => (value >>> 0).toString(16).padStart(8, '0');
    return `${word(this.#hashHigh)}${word(this.#hashLow)}`;
  }

  /** Keeps the first violation; the run ends before the next delivery. */
  fail(violation: Violation): void {
    this.violation ??= violation;
  }

  /**
   * Lets deliveries go until `done` says so. When nothing is on its way, time jumps to the next deadline; more than `jumpsMax`
   * of those are a violation.
   */
  go(done: () => boolean, jumpsMax = 2_000): Promise<void> {
    let jumps = 0;
    return new Promise((resolve, reject) => {
      const some = (): void => {
        try {
          for (;;) {
            if (this.violation) throw this.violation;
            if (done()) {
              resolve();
              return;
            }
            let wakes = true;
            if (!this.pending.empty) wakes = this.pending.release();
            else if (jumps++ > jumpsMax || !this.clock.jump()) throw violated('alive', 'nobody can go on, and somebody waits');
            if (!wakes) continue;
            setImmediate(some);
            return;
          }
        } catch (error) {
          reject(error);
        }
      };
      some();
    });
  }

  threads(): readonly WatchThread[] {
    return this.dom0.handlers['dom0.mtwatch']({ from: 0 }) as readonly WatchThread[];
  }

  /** How often dom0's kernel had no memory for the watch thread of a domain. It tries again after a second. */
  startsRefused(domid: number): number {
    const { dom0 } = this;
    let refused = 0;
    for (let from = 0; ; ) {
      const page = dom0.handlers['dom0.dmesg']({ clear: false, from, waitMs: 0 }) as KernelLog;
      refused += page.lines.filter((line) => line.includes(`no memory for xen-mtwatch-${domid},`)).length;
      if (page.whole) return refused;
      from = page.next;
    }
  }

  holds(): readonly Hold[] {
    return this.dom0.handlers['dom0.holds']({}) as readonly Hold[];
  }

  /** A number below `n`. */
  below(n: number): number {
    return this.draw() % n;
  }

  pick<T>(list: readonly T[]): T | undefined {
    return list[this.below(Math.max(1, list.length))];
  }

  /** A process that runs libxl. */
  process(role: string, options: ToolstackOptions = {}): Process {
    const lane = this.pending.lane(role);
    const process: Process = { role, made: undefined, madeAt: 0, stack: undefined as unknown as Toolstack };
    const clock = this.#clockOf(lane);
    const host = {
      ...this.#shared.host,
      of: (pid: number, runScript: Host['runScript']) =>
        this.#shared.host.of(pid, async (run) => {
          const domid = Number(/^backend\/[a-z]+\/(\d+)\//.exec(run.env['XENBUS_PATH'] ?? '')?.[1] ?? -1);
          const fault = this.scriptFaults.get(domid);
          if (fault === undefined) return runScript(run);
          this.scriptFaults.delete(domid);
          this.onFault(domid);
          const scriptPid = this.#shared.host.nextPid();
          if (fault !== 'late') return { pid: scriptPid, status: fault.status };
          await clock.sleep(run.timeoutMs);
          if (process.stack.killed) return new Promise<never>(() => undefined);
          return { pid: scriptPid, timedOut: true as const };
        }),
    };
    const stack = startToolstack(
      { clock, xc: this.#xc(process), host, connect: (who) => this.#transport(who, 0, role, false) },
      options,
    );
    return Object.assign(process, { stack });
  }

  /** A client of the store. */
  client(who: Who, domid: number, role: string): Xs {
    return xsClient(this.#transport(who, domid, role, true));
  }

  /** Whether a packet that a client waits for is lost for good; asked when nothing is on its way. */
  quiet(): void {
    for (const client of this.#clients) client.quiet();
  }

  #transport(who: Who, domid: number, role: string, held: boolean): XsTransport {
    const requests = this.pending.lane(`${role}: store`, false);
    const answers = this.pending.lane(role);
    const client = new ClientLaws(role);
    this.#clients.add(client);
    const inner = linkTransport(plantedPort(this.dom0, this.#plant, { role }), { domid, who });
    const over = () => {
      this.#clients.delete(client);
      this.pending.close(answers);
    };
    const send = (packet: XsPacket) => {
      client.sent(packet);
      inner.send(packet);
    };
    return {
      send: (packet) => {
        if (held)
          this.pending.push(
            requests,
            () => packetText(packet),
            () => send(packet),
          );
        else send(packet);
      },
      receive: ({ packet: take, closed }) =>
        inner.receive({
          packet: (packet) => {
            client.received(packet);
            this.pending.push(
              answers,
              () => packetText(packet),
              () => take(packet),
            );
          },
          closed: (reason) => {
            this.#clients.delete(client);
            this.pending.push(
              answers,
              () => 'the end of the connection',
              () => {
                over();
                closed(reason);
              },
            );
          },
        }),
      close: () => {
        if (held) {
          this.pending.push(
            requests,
            () => 'close',
            () => inner.close(),
          );
          over();
        } else {
          inner.close();
          over();
        }
      },
    };
  }

  #xc(process: Process): Xc {
    const handlers = this.dom0.handlers as unknown as Record<string, (args: unknown) => unknown>;
    return {
      call: async <Op extends PrivcmdOp>(op: Op, args: PrivcmdOps[Op][0]) => {
        if (op === 'dom0.monitor') {
          await this.#monitor(args as MonitorRequest);
          return null as PrivcmdOps[Op][1];
        }
        const handler = handlers[op];
        if (!handler) throw new Error(`${op} is dom0d's to answer`);
        const answer = handler(args);
        if (op === 'xc.domain_destroy') this.#destroyed(process, (args as { domid: number }).domid);
        if (op === 'xc.domain_create') {
          const { domid } = answer as { domid: number };
          process.made = domid;
          process.madeAt = this.clock.now();
          this.#created(domid);
          if (process.role === 'monitor') this.onFault(domid);
        }
        return (await answer) as PrivcmdOps[Op][1];
      },
      close: () => {},
    };
  }

  #created(domid: number): void {
    this.torn.delete(domid);
    if (this.threads().some((thread) => thread.domid === domid)) this.fail(violated('reuse', `domid ${domid} has a thread`));
  }

  /** One that libxl gives up at once, because its domid was had lately, was nobody's. */
  #destroyed(process: Process, domid: number): void {
    if (process.made === domid && !process.stack.asked.includes(`write domid history ${domid}`)) return;
    this.destroyed.set(domid, this.clock.now());
  }

  /** Hosts the monitor of a domain, as dom0d does. */
  async #monitor(request: MonitorRequest): Promise<void> {
    const { stack } = this.process('monitor');
    this.monitors += 1;
    const { done } = await startMonitor(stack.ctx, request, (line) => {
      const domid = Number(/^(?:Domain|Action).*?\b(\d+)\b/.exec(line)?.[1] ?? -1);
      if (line.startsWith('Domain ')) this.onFault(domid);
    });
    const end = () => {
      this.monitors -= 1;
      stack.exit();
    };
    done.then(end, (error: unknown) => {
      end();
      this.fail(violated('sound', `a monitor failed: ${error instanceof Error ? error.stack : String(error)}`));
    });
  }

  #clockOf(lane: Lane): Clock {
    const { clock, pending } = this;
    return {
      now: () => clock.now(),
      wall: () => clock.wall(),
      after: (delay, run) => clock.after(delay, run),
      sleep: (delay) => clock.sleep(delay),
      turn: () => new Promise((resolve) => pending.push(lane, () => 'a turn', resolve)),
      random: (n) => clock.random(n),
    };
  }

  /** How fast dom0 is beside everybody else changes now and then. */
  #steps(): number {
    if (--this.#paceFor < 0) {
      this.#pace = this.pick(paces) ?? 1;
      this.#paceFor = this.below(paceTurnsMax);
    }
    return 1 + this.below(this.#pace);
  }

  #logged(line: string): void {
    this.log.push(line);
    if (/kernel BUG|soft lockup|Error/.test(line)) this.fail(violated('sound', line));
  }

  #mix(value: number): void {
    this.#hashLow = Math.imul(this.#hashLow ^ (value & 0xffff), 0x01000193);
    this.#hashHigh = Math.imul(this.#hashHigh ^ this.#hashLow, 0x85ebca6b) ^ (this.#hashHigh >>> 13);
  }

  #mixText(text: string): void {
    let low = this.#hashLow;
    for (let at = 0; at < text.length; at++) low = Math.imul(low ^ text.charCodeAt(at), 0x01000193);
    this.#hashLow = low;
    this.#mix(text.length);
  }
}

function packetText({ type, txId, payload }: XsPacket): string {
  const strings = type === XsType.Read ? [payload] : splitStrings(payload);
  const tx = txId === 0 ? '' : ` (transaction ${txId})`;
  return `${typeName(type)} ${strings.join(' ').slice(0, 100)}${tx}`;
}
