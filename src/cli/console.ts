/**
 * xenconsole: a guest's console on this terminal, until the guest is gone or `^]` is typed (tools/console/client/main.c).
 *
 * Where input and output are a terminal it is raw, and what is typed goes to the guest; elsewhere nothing is read, and
 * what the guest prints is printed. One at a time: a lock per domain refuses the next.
 */
import type { ReadStream } from 'node:tty';
import { domainPath } from '../xenbus/paths.js';
import { takeRight } from '../xenbus/run-dir.js';
import { type Session, XlFailure } from './session.js';

/** How long a console may take to get its terminal, in milliseconds. */
const ttyWaitMs = 5_000;
/** How long one question for output may wait. The end of the domain, and a key, end it before. */
const followMs = 20_000;
/** `^]`. */
const escapeByte = 0x1d;

export type ConsoleType = 'pv' | 'serial' | 'vuart';

/** A console that is shown; `ended` resolves when it is no more. */
export interface Attached {
  readonly ended: Promise<void>;
}

/** Attaches to a console of a domain. Refusals are xenconsole's, with errno for an exit code. */
export async function attachConsole(session: Session, domid: number, type: ConsoleType = 'pv', number = 0): Promise<Attached> {
  const { ctx, dir } = session;
  if (domid === 0) throw new XlFailure(22, "Can't specify Domain-0");
  const home = domainPath(domid);
  const path =
    type === 'vuart' ? `${home}/vuart/0/tty` : number === 0 ? `${home}/console/tty` : `${home}/device/console/${number}/tty`;
  const lock = await takeRight(dir, `xenconsole.${domid}`);
  if (!lock) {
    const file = `/var/lock/xenconsole.${domid}`;
    throw new XlFailure(11, `xenconsole: Could not lock ${file}: Resource temporarily unavailable`);
  }
  try {
    const tty = await waitForTty(session, path);
    if (tty === undefined) throw new XlFailure(2, 'xenconsole: Could not read tty from store: No such file or directory');
    const ended = follow(session, domid, tty).finally(() => lock.release());
    // Whoever attaches may be busy with something else when it ends.
    ended.catch(() => undefined);
    return { ended };
  } catch (error) {
    lock.release();
    throw error;
  }

  async function waitForTty({ ctx: { xs, clock } }: Session, node: string): Promise<string | undefined> {
    let changed = () => {};
    const watch = await xs.watch(node, () => changed());
    let late = false;
    const cancel = clock.after(ttyWaitMs * ctx.timeoutScale, () => {
      late = true;
      changed();
    });
    try {
      for (;;) {
        const next = new Promise<void>((resolve) => {
          changed = resolve;
        });
        const tty = await xs.read(node);
        if (tty !== undefined && tty !== '') return tty;
        if (late) return undefined;
        await next;
      }
    } finally {
      cancel();
      await watch.close();
    }
  }
}

async function follow({ xc }: Session, domid: number, tty: string): Promise<void> {
  const { stdin, stdout } = process;
  const interactive = stdin.isTTY === true && stdout.isTTY === true;
  let over = false;
  let quit = () => {};
  const left = new Promise<'left'>((resolve) => {
    quit = () => {
      over = true;
      resolve('left');
    };
  });
  const type = (chunk: Buffer) => {
    if (chunk.length === 1 && chunk[0] === escapeByte) return quit();
    void xc.call('dom0.console', { domid, tty, input: chunk.toString('base64') }).then(show, quit);
  };
  const show = (answer: { readonly data: string } | null) => {
    if (!answer) quit();
    else if (answer.data !== '') stdout.write(Buffer.from(answer.data, 'base64'));
  };
  const terminated = () => quit();
  process.once('SIGTERM', terminated);
  if (interactive) {
    (stdin as ReadStream).setRawMode(true);
    stdin.on('data', type);
    stdin.on('end', quit);
    stdin.resume();
  }
  try {
    while (!over) {
      const asked = xc.call('dom0.console', { domid, tty, waitMs: followMs });
      // When somebody leaves, nobody looks at this one any more.
      asked.catch(() => undefined);
      const answer = await Promise.race([asked, left]);
      if (answer === 'left') return;
      show(answer);
    }
  } finally {
    process.off('SIGTERM', terminated);
    if (interactive) {
      stdin.off('data', type);
      stdin.off('end', quit);
      stdin.pause();
      (stdin as ReadStream).setRawMode(false);
    }
  }
}
