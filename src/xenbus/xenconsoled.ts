/**
 * xenconsoled: gives each guest's console a terminal and says which in `console/tty`, where `xl create` waits for it.
 *
 * A client of the store like any other, written as a task. The terminals themselves are not there: the node gets the
 * name that the next free one would have.
 */
import type { Clock } from './clock.js';
import type { Hypervisor } from './hypervisor.js';
import { Kernel } from './kernel/kernel.js';
import { type Sched, type Task, waitEvent, waitQueue } from './kernel/sched.js';
import type { StorePort } from './transport.js';
import { XsError } from './xs-wire.js';

interface Console {
  readonly domid: number;
  tty: number | undefined;
}

export function startXenconsoled(sched: Sched, clock: Clock, hypervisor: Hypervisor, store: StorePort): void {
  const client = new Kernel({ domid: 0, who: 'xenconsoled', sched, clock, printk: () => {} });
  /** Whose events wait. A repeated one is merged, so there are no more than there are domains, and one. */
  const tokens = new Set<string>();
  const arrived = waitQueue('xenconsoled poll');
  const consoles = new Map<number, Console>();
  client.onWatchEvent = (_path, token) => {
    tokens.add(token);
    sched.wakeAll(arrived);
    return undefined;
  };
  client.connect(store);
  client.spawn('xenconsoled', 'do_sys_poll', () => run());

  function* run(): Task {
    yield* client.watch('@introduceDomain', 'domlist');
    yield* client.watch('@releaseDomain', 'domlist');
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

  /** Takes up new domains and drops dead ones. */
  function* enumerate(): Task {
    for (const { domid, dying } of hypervisor.list()) {
      if (domid === 0 || dying || consoles.has(domid)) continue;
      consoles.set(domid, { domid, tty: undefined });
      yield* client.watch(`/local/domain/${domid}/console`, `dom${domid}`);
    }
    for (const { domid } of [...consoles.values()]) {
      if (hypervisor.get(domid)?.dying === false) continue;
      consoles.delete(domid);
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
    yield* client.write(`${dir}/tty`, `/dev/pts/${console.tty}`);
  }

  function freeTty(): number {
    const used = new Set([...consoles.values()].map(({ tty }) => tty));
    let tty = 0;
    while (used.has(tty)) tty += 1;
    return tty;
  }
}
