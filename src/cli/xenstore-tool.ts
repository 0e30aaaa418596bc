/**
 * What the commands `xl xenstore ls`, `read` and so on share: the way from their words to a store, and the ways in which
 * their originals end. Which requests each of them makes is in the commands; their text is xenstore-text.ts.
 *
 * What differs from the originals, on purpose: `-h` prints xl's help on stdout and exits with 0; a store that cannot be
 * reached, or goes away, is told in xl's words, and nobody waits for it in a loop; output that cannot be written is an
 * error; `chmod -r` does not cut a path at 255 bytes, which could be another node's.
 */
import { readFileSync } from 'node:fs';
import { abort, byteString, type Xs, type XsRequests } from '../xenbus/xs-client.js';
import { type XsErrno, XsError } from '../xenbus/xs-wire.js';
import { type CommandSpec, commandHelp, type XlLayout } from './argv.js';
import { type Globals, withStore, XlFailure } from './session.js';
import { type Asked, programName, readToolLine, type ToolName, usageLine } from './xenstore-text.js';
import { XlCommand } from './xl-command.js';

/** How a program ends: what it has printed by then, and its exit code. */
export interface Outcome {
  /** Bytes, for stdout. */
  readonly stdout: string;
  readonly exit: number;
}

/** A request's result, or the error that the store answered with. */
export type Answer<T> = { readonly found: T } | { readonly errno: XsErrno };

export abstract class XenstoreTool extends XlCommand {
  abstract readonly tool: ToolName;

  /** Does what was asked for. */
  protected abstract work(xs: Xs, asked: Asked): Promise<Outcome>;

  async run(): Promise<void> {
    const before = this.argv.indexOf('--');
    const words = this.argv.slice(before + 1);
    const { flags } = await this.parse(this.ctor as typeof XlCommand, this.argv.slice(0, before));
    const { complaints, asked } = readToolLine(this.tool, byteWords(words));
    put(process.stderr, complaints.map((line) => `${line}\n`).join(''));
    if (asked === 'help') {
      process.stdout.write(commandHelp(this.#spec()));
      return;
    }
    if (asked === 'usage') this.fail(usageLine(this.tool));
    const globals: Globals = { verbosity: flags.verbosity, timestamps: flags.timestamps };
    const { stdout, exit } = await withStore(this, globals, (xs) => this.work(xs, asked));
    put(process.stdout, stdout);
    process.exitCode = exit;
  }

  /** A line on stderr, as warnx(3) writes it. */
  protected complain(text: string): void {
    put(process.stderr, `${programName(this.tool)}: ${text}\n`);
  }

  /** The end of the program, as errx(3) makes it. */
  protected fail(text: string): never {
    this.complain(text);
    throw new XlFailure(1);
  }

  /** Runs `body` in a transaction, again on EAGAIN. What it did is thrown away when it ends with another code than 0. */
  protected async atomically(xs: Xs, body: (tx: XsRequests) => Promise<Outcome>): Promise<Outcome> {
    let outcome: Outcome | undefined;
    try {
      await xs.transaction(async (tx) => {
        outcome = await body(tx);
        return outcome.exit === 0 ? undefined : abort;
      });
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
      this.fail(outcome ? "couldn't end transaction" : "couldn't start transaction");
    }
    return outcome ?? { stdout: '', exit: 0 };
  }

  /** What oclif's manifest says of this command. */
  #spec(): CommandSpec {
    const { summary, description, examples, flags, xl } = this.ctor as typeof XlCommand;
    return {
      id: this.id ?? '',
      summary,
      description,
      examples: examples as CommandSpec['examples'],
      flags: flags as CommandSpec['flags'],
      args: {},
      xl: xl as XlLayout | undefined,
    };
  }
}

/** A refusal of the store as a value. A missing node is ENOENT. */
export async function answer<T>(request: Promise<T | undefined>): Promise<Answer<T>> {
  try {
    const found = await request;
    return found === undefined ? { errno: 'ENOENT' } : { found };
  } catch (error) {
    if (error instanceof XsError) return { errno: error.errno };
    throw error;
  }
}

/** What was found, or undefined for whatever reason. */
export async function unlessRefused<T>(request: Promise<T | undefined>): Promise<T | undefined> {
  const answered = await answer(request);
  return 'found' in answered ? answered.found : undefined;
}

/** Writes bytes. */
export function put(stream: NodeJS.WriteStream, bytes: string): void {
  if (bytes !== '') stream.write(Buffer.from(bytes, 'latin1'));
}

/** A report of `--json`, as bytes. */
export function jsonReport(value: unknown): string {
  return byteString(`${JSON.stringify(value, null, 2)}\n`);
}

/**
 * The words, which are the last ones of this process, as bytes. Node has read them as UTF-8, and what is none has become
 * U+FFFD; the kernel still has it as it was.
 */
function byteWords(words: readonly string[]): string[] {
  if (words.some((word) => word.includes('\ufffd'))) {
    const given = argumentsOfProcess();
    if (given) return given.slice(given.length - words.length);
  }
  return words.map(byteString);
}

function argumentsOfProcess(): string[] | undefined {
  try {
    return readFileSync('/proc/self/cmdline', 'latin1').split('\0').slice(0, -1);
  } catch {
    return undefined;
  }
}
