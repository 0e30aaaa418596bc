/**
 * How `create`, `restore` and `migrate-receive` bring a domain to life: reading its config, creating it, its console, its
 * monitor (create_domain of xl_vmcontrol.c). And what other commands need of it: the text of a command's help.
 */
import { open } from 'node:fs/promises';
import { configText, type ParsedConfig, type ParseOptions, parseConfig, textOfConfig } from '../libxl/config.js';
import { type Ctx, Rc } from '../libxl/ctx.js';
import { domainPause, domainUnpause, formatUuid } from '../libxl/domain.js';
import type { DomainConfig } from '../libxl/domain-config.js';
import type { GlobalConfig } from '../libxl/global-config.js';
import { toJson } from '../libxl/json.js';
import { actionsOf, createDomain, type Monitored, startMonitor } from '../libxl/monitor.js';
import { configToSexp } from '../libxl/sexp.js';
import type { ReadBytes } from '../libxl/stream.js';
import { SystemClock } from '../xenbus/clock.js';
import { type CommandSpec, commandHelp, type XlLayout } from './argv.js';
import { type Attached, attachConsole } from './console.js';
import { type Session, XlFailure } from './session.js';
import type { XlCommand } from './xl-command.js';
import { bytesOfText, systemWords, writeBytes } from './xl-conf.js';

/** What a command line says of the domain's life beside its config. */
export interface LifeFlags {
  readonly console: boolean;
  readonly vncviewer: boolean;
  readonly 'vncviewer-autopass': boolean;
  readonly exit: boolean;
  readonly foreground: boolean;
  readonly paused: boolean;
  readonly verbosity: number;
}

/** The bytes of a config file, one character each: xl.cfg is a language of bytes. Without it nothing can be created. */
export async function readConfigFile(file: string): Promise<string> {
  if (file === '/dev/null') return '';
  return readText(file);
}

/** The bytes of a file that xl reads whole, one character each. It must be a plain file. */
export async function readText(file: string): Promise<string> {
  let words: string;
  try {
    const handle = await open(file, 'r');
    try {
      if ((await handle.stat()).isFile()) return await handle.readFile('latin1');
    } finally {
      await handle.close();
    }
    // What xl quotes is left over from its look at stderr, which is no terminal.
    words = 'Inappropriate ioctl for device';
    complain(`346:libxl_read_file_contents: ${file} is not a plain file: ${words}`);
  } catch (error) {
    words = systemWords(error);
    // libxl is silent on a file that is not there.
    if (words !== 'No such file or directory') complain(`336:libxl_read_file_contents: failed to open ${file}: ${words}`);
  }
  throw new XlFailure(-Rc.FAIL, `Failed to read config file: ${file}: ${words}`);
}

function complain(line: string): void {
  process.stderr.write(`libxl: error: libxl_utils.c:${line}\n`);
}

/** How a config is read that becomes a domain: what is random in it, and xl.conf. */
export function configOptions(global: GlobalConfig, ignoreMasks = false): ParseOptions {
  const clock = new SystemClock();
  return {
    randomUuid: () => formatUuid(clock.random(16)),
    randomGenid: () => [...clock.random(16)],
    global,
    ignoreMasks,
  };
}

/**
 * Parses a config, whose text is bytes, and prints what the parser complains of. Without a config it was refused, and
 * that is the end.
 */
export function parseOrFail(
  text: string,
  extras: readonly string[],
  file: string,
  options: ParseOptions,
): ParsedConfig & { config: DomainConfig } {
  const parsed = parseConfig(configText(text, extras.map(bytesOfText)), bytesOfText(file), options);
  writeBytes(process.stderr, parsed.stderr);
  const { config } = parsed;
  if (!config) throw new XlFailure(parsed.exit);
  return { ...parsed, config };
}

/**
 * Creates the domain of a config, which is bytes, or restores it from a stream, and lets it live as the flags say. `ended` resolves when
 * there is nothing more to wait for, with what xl's create_domain returns then: under 0 it is an rc. Throws what libxl threw.
 */
export async function bringUp(
  session: Session,
  ofBytes: DomainConfig,
  flags: LifeFlags,
  read?: ReadBytes,
): Promise<{ readonly domid: number; readonly ended: Promise<number> }> {
  const { ctx } = session;
  const config = textOfConfig(ofBytes);
  const domid = await createDomain(ctx, config, read);
  const attached = flags.console ? await autoconnectConsole(session, domid) : undefined;
  // Before the guest runs, so that nothing of its life can be missed.
  const monitored: Monitored = { domid, name: config.cInfo.name, actions: actionsOf(config) };
  if (!flags.exit && !flags.foreground) {
    await session.xc.call('dom0.monitor', { ...monitored, verbosity: flags.verbosity });
  }
  if (!flags.paused) await domainUnpause(ctx, domid);
  if (!flags.exit && (flags.vncviewer || flags['vncviewer-autopass'])) await failVncviewer(ctx, domid);
  let done: Promise<number> | undefined;
  if (flags.foreground && !flags.exit) {
    ({ done } = await startMonitor(ctx, monitored, (line) => process.stderr.write(`${line}\n`)));
  }
  return { domid, ended: Promise.all([done, attached?.ended]).then(([rc = 0]) => rc) };
}

/** A console that is not to be had is told, and no reason to stop. */
async function autoconnectConsole(session: Session, domid: number): Promise<Attached | undefined> {
  try {
    return await attachConsole(session, domid);
  } catch (error) {
    if (!(error instanceof XlFailure)) throw error;
    process.stderr.write(`${error.message}\nGot EOF from xenconsole notification fd\n`);
    return undefined;
  }
}

/** How long xl waits before it looks for a display. */
const vncviewerDelayMs = 1_000;

/** No domain here has a display, and a viewer that finds none says so. It runs beside xl, whose end it does not change. */
async function failVncviewer(ctx: Ctx, domid: number): Promise<void> {
  await ctx.clock.sleep(vncviewerDelayMs * ctx.timeoutScale);
  ctx.log('error', 'libxl_console.c:201:libxl_vncviewer_exec', domid, 'Cannot get vnc-port');
  process.stderr.write('Unable to execute vncviewer\n');
}

/** Prints the config, as `-n` and `-d` ask for it. */
export function printConfig(config: DomainConfig, format: 'json' | 'sxp', stream: NodeJS.WriteStream): void {
  const { text, error } = format === 'json' ? { text: toJson(config) } : configToSexp(config);
  writeBytes(stream, text);
  if (error !== undefined) throw new XlFailure(1, error);
}

/** Pauses a domain and does not look whether that worked. */
export async function pauseQuietly(ctx: Ctx, domid: number): Promise<void> {
  await domainPause(ctx, domid).catch(() => undefined);
}

/** The help of a command, from the class itself, for one that prints it in the middle of its work. */
export function helpText(id: string, command: typeof XlCommand): string {
  const { summary, description, examples, flags, args, xl } = command;
  return commandHelp({
    id,
    summary,
    description,
    examples: examples as CommandSpec['examples'],
    flags: flags as CommandSpec['flags'],
    args: args as CommandSpec['args'],
    xl: xl as XlLayout | undefined,
  });
}
