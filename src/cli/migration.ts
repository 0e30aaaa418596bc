/**
 * The handshake of a migration, both ends of it (xl_migrate.c of 4.17).
 *
 * ```
 * sender                                  receiver (xl migrate-receive, its stdin and stdout)
 *                              <-  banner
 * header, config, stream       ->      creates NAME--incoming, paused
 *                              <-  ready
 * renames to NAME--migratedaway
 * go                           ->      renames to NAME, unpauses
 *                              <-  report, one byte
 * destroys                             0: it runs here
 *                              <-  go  otherwise: the copy is gone, the sender may have its domain back
 * ```
 *
 * Until `go` is out the sender's domain is the domain, and after that the receiver's: at no time may both run.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import type { Ctx } from '../libxl/ctx.js';
import type { ReadBytes } from '../libxl/stream.js';
import type { WriteBytes } from '../libxl/suspend.js';
import { say, writeFailed } from './save-file.js';
import { XlFailure } from './session.js';
import { systemWords } from './xl-conf.js';

/** The messages, with what their readers call them. Those but the first end with a NUL. */
export const messages = {
  banner: { bytes: text('xl migration receiver ready, send binary domain data.\n'), what: 'banner' },
  ready: { bytes: text('domain received, ready to unpause\0'), what: 'ready message' },
  go: { bytes: text('domain is yours, you are cleared to unpause\0'), what: 'GO message' },
  report: { bytes: text('my copy unpause results are as follows\0'), what: 'success/failure report message' },
} as const;

function text(message: string): Buffer {
  return Buffer.from(message, 'latin1');
}

/** Where a handshake reads from. `command` is what the sender runs. */
export interface Peer {
  readonly read: ReadBytes;
  readonly name: string;
  readonly command?: string;
}

/** Reads so many bytes, or says why not (libxl_read_exactly); undefined then. */
export async function readExactly(ctx: Pick<Ctx, 'log'>, peer: Peer, count: number, what: string): Promise<Buffer | undefined> {
  const failed = (line: string) => {
    ctx.log('error', 'libxl_utils.c:505:libxl_read_exactly', undefined, line);
    return undefined;
  };
  try {
    const bytes = await peer.read(count);
    return bytes.length < count ? failed(`file/stream truncated reading ${what} from ${peer.name}`) : bytes;
  } catch (error) {
    return failed(`failed to read ${what} from ${peer.name}: ${systemWords(error)}`);
  }
}

/** Reads a message that must be this one (migrate_read_fixedmessage). */
export async function expectMessage(
  ctx: Pick<Ctx, 'log'>,
  peer: Peer,
  { bytes }: { readonly bytes: Buffer },
  what: string,
): Promise<boolean> {
  const got = await readExactly(ctx, peer, bytes.length, what);
  if (!got) return false;
  if (got.equals(bytes)) return true;
  say(`${peer.name} contained unexpected data instead of ${what}`);
  if (peer.command !== undefined) say(`(command run was: ${peer.command} )`);
  return false;
}

/** Writes a message, or says why not (libxl_write_exactly); false then. */
export async function sendMessage(
  ctx: Pick<Ctx, 'log'>,
  write: WriteBytes,
  bytes: Buffer,
  stream: string,
  what: string,
): Promise<boolean> {
  try {
    await write(bytes);
    return true;
  } catch (error) {
    const line = `failed to write ${what} from ${stream}: ${error instanceof Error ? error.message : String(error)}`;
    ctx.log('error', 'libxl_utils.c:506:libxl_write_exactly', undefined, line);
    return false;
  }
}

/** The command that carries a migration, and the two ends of it that are ours. */
export interface Transport {
  readonly read: ReadBytes;
  readonly write: WriteBytes;
  /** Ends what we send; its reader notices. */
  closeSend(): void;
  /** Waits a while for the command to end, and says how it ended if that was no success. */
  report(ctx: Pick<Ctx, 'log'>): Promise<void>;
}

/** How long a command has to end once nothing more is sent. */
const childWaitMs = 2_000;
const childName = 'migration transport process';

/**
 * Runs a command in a shell, with its input and output in our hands. Node destroys a child's own stdin when the child ends;
 * what the child has started may still read there, and must hear what is said last. So the input is another descriptor.
 */
export function startTransport(command: string): Transport {
  const child = spawn('sh', ['-c', 'exec sh -c "$0" <&3 3<&-', command], { stdio: ['ignore', 'pipe', 'inherit', 'pipe'] });
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  const stdout = child.stdout as Readable;
  const stdin = child.stdio[3] as Writable;
  // Each write that fails is told to who made it.
  stdin.on('error', () => undefined);
  return {
    read: readFromStream(stdout),
    write: (bytes) =>
      new Promise((done, failed) => {
        stdin.write(bytes, (error) => (error ? failed(writeFailed(error)) : done()));
      }),
    closeSend: () => void stdin.end(),
    report: (ctx) => reportChild(ctx, child, ended),
  };
}

async function reportChild(ctx: Pick<Ctx, 'log'>, child: ChildProcess, ended: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), childWaitMs);
  });
  const who = `migration child [${child.pid ?? -1}]`;
  if ((await Promise.race([ended, late])) === 'late') {
    say(`${who} not exiting, no longer waiting (exit status will be unreported)`);
    return;
  }
  clearTimeout(timer);
  const { exitCode, signalCode, pid } = child;
  const info = (line: number, how: string) => {
    ctx.log('info', `libxl_exec.c:${line}:libxl_report_child_exitstatus`, undefined, `${childName} [${pid}] ${how}`);
  };
  if (signalCode !== null) info(127, `died due to fatal signal ${signalWords[signalCode] ?? signalCode}`);
  else if (exitCode) info(117, `exited with error status ${exitCode}`);
}

const signalWords: Readonly<Record<string, string>> = {
  SIGHUP: 'Hangup',
  SIGINT: 'Interrupt',
  SIGKILL: 'Killed',
  SIGPIPE: 'Broken pipe',
  SIGSEGV: 'Segmentation fault',
  SIGTERM: 'Terminated',
};

/** Reads a stream in the pieces that are asked for. */
function readFromStream(stream: Readable): ReadBytes {
  let wake = () => {};
  let over = false;
  const changed = () => wake();
  stream.on('readable', changed);
  for (const event of ['end', 'close', 'error']) {
    stream.on(event, () => {
      over = true;
      wake();
    });
  }
  return async (count) => {
    const parts: Buffer[] = [];
    let have = 0;
    while (have < count) {
      const next = new Promise<void>((resolve) => {
        wake = resolve;
      });
      const chunk = (stream.read(count - have) ?? (over || stream.readableEnded ? null : stream.read())) as Buffer | null;
      if (chunk && chunk.length > count - have) {
        stream.unshift(chunk.subarray(count - have));
        parts.push(chunk.subarray(0, count - have));
        have = count;
      } else if (chunk) {
        parts.push(chunk);
        have += chunk.length;
      } else if (over) break;
      else await next;
    }
    return Buffer.concat(parts);
  };
}

/** The end of a migration whose last word was lost: nobody can say who has the domain. */
export function lastWordLost(): void {
  for (const line of [
    '** Migration failed during final handshake **',
    'Domain state is now undefined !',
    'Please CHECK AT BOTH ENDS for running instances, before renaming and',
    ' resuming at most one instance.  Two simultaneous instances of the domain',
    ' would probably result in SEVERE DATA LOSS and it is now your',
    ' responsibility to avoid that.  Sorry.',
  ]) {
    say(line);
  }
}

/** The end with 1, everything having been said. */
export function giveUp(): XlFailure {
  return new XlFailure(1);
}
