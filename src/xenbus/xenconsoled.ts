/**
 * xenconsoled: gives each guest's console a terminal, says which in `console/tty`, where `xl create` waits for it, and
 * keeps what the guest prints until somebody reads it there.
 *
 * A client of the store like any other, written as a task. A terminal here is a name and what waits to be read from it.
 * What was read is gone, as from a real one; of a console that nobody reads the newest `limit` bytes are kept.
 */
import type { Clock } from './clock.js';
import type { Hypervisor } from './hypervisor.js';
import { keptBelow, type Share } from './keep.js';
import { Kernel } from './kernel/kernel.js';
import { type Sched, type Task, waitEvent, waitQueue } from './kernel/sched.js';
import { consoleLimitBytes } from './privcmd.js';
import type { StorePort } from './transport.js';
import { XsError } from './xs-wire.js';

interface Console {
  readonly domid: number;
  tty: number | undefined;
}

/** The terminals, for whoever reads them. Text is bytes, one a character. */
export interface Consoles {
  /** A guest prints. What it prints before its domain is known is kept too, as its ring would keep it. */
  print(domid: number, text: string): void;
  /** Whether this is the terminal of a domain's console. */
  has(domid: number, tty: string): boolean;
  /** Takes up to `bytes` of what waits; undefined when this is no terminal of that domain, or not any more. */
  read(domid: number, tty: string, bytes: number): string | undefined;
  /** Calls `wake` whenever a domain's console has more to read, or is gone; what is returned ends that. */
  onChange(domid: number, wake: () => void): () => void;
}

const consolePrefix = 'console/';
type ConsoleKept = { readonly tty: number; readonly port: number };

export function startXenconsoled(
  sched: Sched,
  clock: Clock,
  hypervisor: Hypervisor,
  store: StorePort,
  { keep, recovered }: Share = {},
): Consoles {
  const client = new Kernel({ domid: 0, who: 'xenconsoled', sched, clock, printk: () => {} });
  /** Whose events wait. A repeated one is merged, so there are no more than there are domains, and one. */
  const tokens = new Set<string>();
  const arrived = waitQueue('xenconsoled poll');
  const consoles = new Map<number, Console>();
  /** What was printed and not read, by domid. */
  const output = new Map<number, string>();
  const readers = new Map<number, Set<() => void>>();
  client.onWatchEvent = (_path, token) => {
    tokens.add(token);
    sched.wakeAll(arrived);
    return undefined;
  };
  for (const [name, value] of keptBelow(recovered, consolePrefix)) {
    const { tty, port } = value as ConsoleKept;
    const domid = Number(name);
    consoles.set(domid, { domid, tty });
    hypervisor.evtchnBind(0, domid, port);
  }
  client.connect(store);
  client.spawn('xenconsoled', 'do_sys_poll', () => run());

  function* run(): Task {
    yield* client.watch('@introduceDomain', 'domlist');
    yield* client.watch('@releaseDomain', 'domlist');
    for (const { domid } of [...consoles.values()]) {
      yield* orGone(client.watch(`/local/domain/${domid}/console`, `dom${domid}`));
      yield* orGone(tellTty(domid));
    }
    for (;;) {
      yield* waitEvent(arrived, () => tokens.size > 0);
      for (const token of [...tokens]) {
        tokens.delete(token);
        try {
          yield* token === 'domlist' ? enumerate() : consoleChanged(Number(token.slice('dom'.length)));
        } catch (error) {
          // The domain went away between the event and the request.
          if (!(error instanceof XsError)) throw error;
        }
      }
    }
  }

  /**
   * Takes up new domains and drops dead ones. One that the store has not taken up, and nobody else has mapped a page of, is
   * told of when it is; if it ends before that nobody would say so.
   */
  function* enumerate(): Task {
    for (const { domid, dying, mappings } of hypervisor.list()) {
      if (domid === 0 || dying || mappings === 0 || consoles.has(domid)) continue;
      consoles.set(domid, { domid, tty: undefined });
      yield* client.watch(`/local/domain/${domid}/console`, `dom${domid}`);
    }
    for (const { domid } of [...consoles.values()]) {
      if (hypervisor.get(domid)?.dying === false) continue;
      consoles.delete(domid);
      keep?.delete(consolePrefix + domid);
      output.delete(domid);
      wake(domid);
      yield* client.unwatch(`/local/domain/${domid}/console`, `dom${domid}`);
    }
  }

  function* consoleChanged(domid: number): Task {
    const console = consoles.get(domid);
    const dir = `/local/domain/${domid}/console`;
    if (!console || console.tty !== undefined || (yield* client.read(`${dir}/ring-ref`)) === undefined) return;
    const port = yield* client.read(`${dir}/port`);
    if (port === undefined) return;
    hypervisor.evtchnBind(0, domid, Number(port));
    console.tty = freeTty();
    const kept: ConsoleKept = { tty: console.tty, port: Number(port) };
    keep?.set(consolePrefix + domid, kept);
    yield* client.write(`${dir}/tty`, ttyName(console.tty));
  }

  /** In a next life: says again which terminal a console has, if that was not said before. */
  function* tellTty(domid: number): Task {
    const dir = `/local/domain/${domid}/console`;
    const tty = consoles.get(domid)?.tty;
    if (tty === undefined || (yield* client.read(`${dir}/ring-ref`)) === undefined) return;
    if ((yield* client.read(`${dir}/tty`)) !== ttyName(tty)) yield* client.write(`${dir}/tty`, ttyName(tty));
  }

  function* orGone(request: Task): Task {
    try {
      yield* request;
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
    }
  }

  function freeTty(): number {
    const used = new Set([...consoles.values()].map(({ tty }) => tty));
    let tty = 0;
    while (used.has(tty)) tty += 1;
    return tty;
  }

  function wake(domid: number): void {
    for (const reader of [...(readers.get(domid) ?? [])]) reader();
  }

  function has(domid: number, tty: string): boolean {
    const number = consoles.get(domid)?.tty;
    return number !== undefined && ttyName(number) === tty && hypervisor.get(domid)?.dying === false;
  }

  return {
    print: (domid, text) => {
      if (hypervisor.get(domid)?.dying !== false) return;
      output.set(domid, ((output.get(domid) ?? '') + text).slice(-consoleLimitBytes));
      wake(domid);
    },
    has,
    read: (domid, tty, bytes) => {
      if (!has(domid, tty)) return undefined;
      const text = output.get(domid) ?? '';
      output.set(domid, text.slice(bytes));
      return text.slice(0, bytes);
    },
    onChange: (domid, reader) => {
      const set = readers.get(domid) ?? new Set();
      readers.set(domid, set.add(reader));
      return () => {
        set.delete(reader);
        if (set.size === 0) readers.delete(domid);
      };
    },
  };
}

function ttyName(tty: number): string {
  return `/dev/pts/${tty}`;
}
