/**
 * A toolstack process of a simulated machine: libxl with a store connection, hypercalls and files of its own, which can be
 * killed like one.
 *
 * A kill closes its connections and lets none of its code run afterwards: what it waits for is never answered, its watches
 * and timers never fire, and so no `catch` and no `finally` of it runs. Everything that it asks of the world counts as a
 * request, in order: packets to the store, hypercalls, files and scripts.
 *
 * Each request is carried out in a turn of its own, when all of the process' code has come to a wait. So the kill that
 * belongs to a request falls between two pieces of its code, and never into one.
 */
import { builtinScripts } from '../src/libxl/builtin-scripts.js';
import { type Ctx, type Host, type LogLevel, logLine, type ScriptEnd, type ScriptRun } from '../src/libxl/ctx.js';
import type { Clock } from '../src/xenbus/clock.js';
import type { PrivcmdOp, PrivcmdOps, Xc } from '../src/xenbus/privcmd.js';
import type { Who, XsTransport } from '../src/xenbus/transport.js';
import { backOffOf, type Xs, xsClient } from '../src/xenbus/xs-client.js';
import { splitStrings, typeName, type XsPacket } from '../src/xenbus/xs-wire.js';

export interface Toolstack {
  readonly ctx: Ctx;
  readonly pid: number;
  /** What it has asked for so far. */
  readonly requests: number;
  /** The same by name, as `WRITE /local/domain/0/mtwatch/1` or `xc.domain_create`. */
  readonly asked: readonly string[];
  /** Its own lines, as they stand on stderr. */
  readonly lines: readonly string[];
  readonly killed: boolean;
  /** A request of it waits to be carried out. */
  readonly busy: boolean;
  /** Resolves when it is killed. */
  readonly ended: Promise<void>;
  /** Between two pieces of its code: not from within one. */
  kill(): void;
  /** Ends it in good order: what it has asked for is carried out, and its connections close. */
  exit(): void;
}

export interface ToolstackOptions {
  /** It is killed when this many requests have been carried out and before their answer, or never. */
  readonly killAfter?: number;
  /** Of the last request: whether the kill comes before it is carried out. */
  readonly before?: boolean;
  /**
   * Where hotplug scripts run. `inside` (the default): in the process itself, as xl's built-in ones do; each of their requests
   * is one of its own, and they end with it. `child`: as a process of its own, which goes on when the toolstack is killed.
   * `slow`: the same, and each of its requests takes seconds.
   */
  readonly scripts?: 'inside' | 'child' | 'slow';
  /**
   * A kill that is none: it closes the connections, and what waits is told so. Only to check that the checks find it.
   */
  readonly mutant?: boolean;
}

/** A host that several processes share. */
export interface SharedHost {
  /** The host as the process `pid` has it. Its scripts are run by `runScript`. */
  of(pid: number, runScript: Host['runScript']): Host;
  /** The locks of a process that is gone are nobody's. */
  forget(pid: number): void;
  nextPid(): number;
}

/** What of a machine a process reaches. */
export interface World {
  readonly clock: Clock;
  readonly xc: Xc;
  readonly host: SharedHost;
  connect(who: Who): XsTransport;
}

/** What a request of a slow script takes. */
const slowScriptMs = 2_000;

export function startToolstack(world: World, options: ToolstackOptions = {}): Toolstack {
  const { clock } = world;
  const pid = world.host.nextPid();
  const asked: string[] = [];
  const lines: string[] = [];
  const open = new Set<XsTransport>();
  const rejections = new Set<(error: Error) => void>();
  const cancels = new Set<() => void>();
  let killed = false;
  let ended = () => {};
  const end = new Promise<void>((resolve) => {
    ended = resolve;
  });
  /** What it has asked for and is not carried out yet; a request has a name, anything else has none. */
  let outbox: { readonly name: string | undefined; readonly perform: () => void }[] = [];
  let busy = false;

  /** The turn that it has, which ends with its connection. */
  let turn: number | undefined;
  const turnIs = (answer: { readonly turn: number } | null) => {
    turn = answer?.turn;
    if (killed) giveBackTurn();
  };
  const giveBackTurn = () => {
    if (turn !== undefined) void world.xc.call('dom0.turn_over', { turn });
    turn = undefined;
  };

  const kill = () => {
    if (killed) return;
    killed = true;
    giveBackTurn();
    outbox = [];
    busy = false;
    for (const cancel of cancels) cancel();
    for (const transport of open) transport.close();
    world.host.forget(pid);
    if (options.mutant) for (const reject of rejections) reject(new Error('killed'));
    ended();
  };

  const step = () => {
    const next = outbox.shift();
    if (killed || !next) {
      busy = false;
      return;
    }
    if (next.name !== undefined) asked.push(next.name);
    const isLast = next.name !== undefined && asked.length === options.killAfter;
    if (!isLast || !options.before) next.perform();
    if (isLast) kill();
    else if (outbox.length > 0) void clock.turn().then(step);
    else busy = false;
  };
  const send = (name: string | undefined, perform: () => void) => {
    if (killed) return;
    outbox.push({ name, perform });
    if (busy) return;
    busy = true;
    void clock.turn().then(step);
  };

  /** Asks for something whose answer is a promise. */
  function ask<T>(name: string, perform: () => T | Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const refuse = (error: unknown) => {
        rejections.delete(refuse);
        if (!killed || options.mutant) reject(error);
      };
      rejections.add(refuse);
      const answer = (value: T) => {
        rejections.delete(refuse);
        if (!killed) resolve(value);
      };
      send(name, () => {
        // An answer takes a turn of its own: what waits for it runs before the next request is carried out.
        const later = async () => perform();
        later().then(answer, refuse);
      });
    });
  }

  const connect = (who: Who): Xs => {
    let inner: XsTransport | undefined;
    let handlers: Parameters<XsTransport['receive']>[0] | undefined;
    const opened = (): XsTransport => {
      if (inner) return inner;
      inner = world.connect(who);
      open.add(inner);
      inner.receive({
        packet: (packet) => {
          if (!killed) handlers?.packet(packet);
        },
        closed: (reason) => {
          if (inner) open.delete(inner);
          if (!killed || options.mutant) handlers?.closed(reason);
        },
      });
      return inner;
    };
    send(undefined, () => void opened());
    return xsClient(
      {
        send: (packet) => send(requestName(packet), () => opened().send(packet)),
        receive: (given) => {
          handlers = given;
        },
        close: () => {
          if (!killed) send(undefined, () => opened().close());
        },
      },
      { backOff: backOffOf(gatedClock) },
    );
  };

  const xc: Xc = {
    call: <Op extends PrivcmdOp>(op: Op, args: PrivcmdOps[Op][0]) =>
      ask(op, async () => {
        const answer = await world.xc.call(op, args);
        if (op === 'dom0.turn') turnIs(answer as PrivcmdOps['dom0.turn'][1]);
        if (op === 'dom0.turn_over') turn = undefined;
        return answer;
      }),
    close: () => {},
  };

  const gatedClock: Clock = {
    now: () => clock.now(),
    wall: () => clock.wall(),
    after: (delay, run) => {
      if (killed) return () => {};
      const cancel = clock.after(delay, () => {
        cancels.delete(cancel);
        if (!killed) run();
      });
      cancels.add(cancel);
      return () => {
        cancels.delete(cancel);
        cancel();
      };
    },
    sleep: (delay) => new Promise((resolve) => void gatedClock.after(delay, resolve)),
    turn: () =>
      new Promise((resolve) => {
        void clock.turn().then(() => {
          if (!killed) resolve();
        });
      }),
    random: (n) => clock.random(n),
  };

  const hesitate = () => (options.scripts === 'slow' ? clock.sleep(slowScriptMs) : Promise.resolve());
  const childScript = (run: ScriptRun) =>
    runBuiltin(run, {
      openXs: async () => {
        await hesitate();
        return xsClient(world.connect('hotplug'));
      },
      xc: {
        ...world.xc,
        call: async (op, args) => {
          await hesitate();
          return world.xc.call(op, args);
        },
      },
    });
  const shared = world.host.of(pid, async (run) => {
    const isInside = (options.scripts ?? 'inside') === 'inside';
    const status = await (isInside
      ? runBuiltin(run, { openXs: async () => connect('hotplug'), xc })
      : ask(`${run.script} ${run.args[0]}`, () => childScript(run)));
    return { pid: world.host.nextPid(), status };
  });
  function runBuiltin(run: ScriptRun, { openXs, xc: to }: { openXs: () => Promise<Xs>; xc: Xc }): Promise<number> {
    const name = run.script.slice(run.script.lastIndexOf('/') + 1);
    const script = builtinScripts.get(name);
    if (!script) throw new Error(`no script ${name} in a test`);
    return script({ openXs, xc: to, stat: shared.stat, resolve: async (path) => path }, run);
  }
  const host: Host = {
    pid,
    stat: (path) => ask(`stat ${path}`, () => shared.stat(path)),
    readMagic: (path) => ask(`open ${path}`, () => shared.readMagic(path)),
    runScript: (run): Promise<ScriptEnd> => shared.runScript(run),
    readUserdata: (name) => ask(`read ${name}`, () => shared.readUserdata(name)),
    writeUserdata: (name, contents) => ask(`write ${name}`, () => shared.writeUserdata(name, contents)),
    createFile: (path) =>
      ask(`create ${path}`, async () => {
        const made = await shared.createFile(path);
        if (!('file' in made)) return made;
        const { file } = made;
        return {
          file: {
            write: (bytes, at) => ask(`write ${path}`, () => file.write(bytes, at)),
            close: () => ask(`close ${path}`, () => file.close()),
          },
        };
      }),
    lockUserdata: async (domid, uuid) => {
      const unlock = await ask(`lock ${domid}`, () => shared.lockUserdata(domid, uuid));
      return () => ask(`unlock ${domid}`, unlock);
    },
    lockName: async (name) => {
      const unlock = await ask(`lock ${name}`, () => shared.lockName(name));
      return () => ask(`unlock ${name}`, unlock);
    },
    isDomidRecent: (domid) => ask(`read domid history ${domid}`, () => shared.isDomidRecent(domid)),
    markDomidRecent: (domid) => ask(`write domid history ${domid}`, () => shared.markDomidRecent(domid)),
    removeUserdata: (domid, uuid) => ask(`remove userdata ${domid}`, () => shared.removeUserdata(domid, uuid)),
  };

  const xs = connect('xl');
  const say = (line: string) => {
    if (!killed) lines.push(line);
  };
  const isTold = (level: LogLevel) => level === 'error' || level === 'warn';
  const ctx: Ctx = {
    xs,
    xc,
    clock: gatedClock,
    host,
    timeoutScale: 1,
    log: (level, where, domid, message) => {
      if (isTold(level)) say(logLine('libxl', level, where, domid, message));
    },
    xcLog: (line, level = 'error') => {
      if (isTold(level)) say(line);
    },
  };
  return {
    ctx,
    pid,
    asked,
    lines,
    ended: end,
    get requests() {
      return asked.length;
    },
    get killed() {
      return killed;
    },
    get busy() {
      return busy;
    },
    kill,
    exit: () => xs.close(),
  };
}

function requestName({ type, payload }: XsPacket): string {
  const [path = ''] = splitStrings(payload);
  return `${typeName(type)} ${path}`.trimEnd();
}
