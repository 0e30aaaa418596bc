/**
 * How `create`, `restore` and `migrate-receive` bring a domain to life: reading its config, creating it, its console, its
 * monitor (create_domain of xl_vmcontrol.c). And what other commands need of it: the text of a command's help.
 */
import { isUtf8 } from 'node:buffer';
import { readFile } from 'node:fs/promises';
import { type CommandSpec, commandHelp, type XlLayout } from './argv.js';
import { actionName, configText, type ParsedConfig, parseConfig } from './libxl/config.js';
import { type Ctx, Rc } from './libxl/ctx.js';
import { domainPause, domainUnpause, formatUuid } from './libxl/domain.js';
import type { DomainConfig } from './libxl/domain-config.js';
import { toJson } from './libxl/json.js';
import { createDomain, type Monitored, startMonitor } from './libxl/monitor.js';
import type { ReadBytes } from './libxl/stream.js';
import { refusals } from './libxl/unmodelled.js';
import { SystemClock } from './xenbus/clock.js';
import { type Session, type XlCommand, XlFailure } from './xl.js';
import { attachConsole } from './xl-console.js';

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

/** What to do with an unreadable config file: nothing can be created. */
export async function readConfigFile(file: string): Promise<string> {
  if (file === '/dev/null') return '';
  return readText(file);
}

/** A text file that xl reads whole. */
export async function readText(file: string): Promise<string> {
  const bytes = await readFile(file).catch((error: unknown) => {
    throw new XlFailure(-Rc.FAIL, `Failed to read config file: ${file}: ${systemWords(error)}`);
  });
  if (isUtf8(bytes)) return bytes.toString('utf8');
  throw new XlFailure(1, `xl: ${file}: line ${firstBadLine(bytes)} is not UTF-8`);
}

/** The number of the first line that is not UTF-8. A newline is never part of another character. */
export function firstBadLine(bytes: Buffer): number {
  let line = 1;
  for (let start = 0; ; line++) {
    const end = bytes.indexOf(0x0a, start);
    if (end < 0 || !isUtf8(bytes.subarray(start, end))) return line;
    start = end + 1;
  }
}

/** What strerror(3) says of what the system refused. */
export function systemWords(error: unknown): string {
  const why = error instanceof Error && 'code' in error ? String(error.code) : String(error);
  const words: Readonly<Record<string, string>> = {
    ENOENT: 'No such file or directory',
    EACCES: 'Permission denied',
    EISDIR: 'Is a directory',
    ENOTDIR: 'Not a directory',
    ELOOP: 'Too many levels of symbolic links',
    EPIPE: 'Broken pipe',
    ENOSPC: 'No space left on device',
    EROFS: 'Read-only file system',
    EIO: 'Input/output error',
    EBADF: 'Bad file descriptor',
    EINVAL: 'Invalid argument',
    ECONNRESET: 'Connection reset by peer',
  };
  return words[why] ?? why;
}

/** Parses a config and prints what the parser complains of. Without a config it was refused, and that is the end. */
export function parseOrFail(text: string, extras: readonly string[], source: string): ParsedConfig & { config: DomainConfig } {
  const clock = new SystemClock();
  const parsed = parseConfig(configText(text, extras), source, { randomUuid: () => formatUuid(clock.random(16)) });
  for (const line of parsed.lines) process.stderr.write(`${line}\n`);
  const { config } = parsed;
  if (!config) throw new XlFailure(parsed.exit);
  return { ...parsed, config };
}

/** Refuses what a domain cannot have here. A dry run has ended by then. */
export function refuseUnmodelled(
  command: string,
  flags: Pick<LifeFlags, 'vncviewer' | 'vncviewer-autopass'>,
  lines: readonly string[],
): void {
  const option = flags.vncviewer ? '-V' : flags['vncviewer-autopass'] ? '-A' : undefined;
  if (option !== undefined) {
    const why = 'displays are not modelled, as guests execute nothing';
    throw new XlFailure(1, `xl: ${command} ${option}: ${why}; ${command} without ${option}`);
  }
  if (lines.length > 0) throw new XlFailure(1, lines.join('\n'));
}

/** The same for a config that came out of a saved domain. */
export function refuseUnmodelledConfig(command: string, flags: LifeFlags, config: DomainConfig): void {
  refuseUnmodelled(command, flags, refusals(config));
}

/**
 * Creates the domain of a config, or restores it from a stream, and lets it live as the flags say. `ended` resolves when
 * there is nothing more to wait for. Throws what libxl threw.
 */
export async function bringUp(
  session: Session,
  config: DomainConfig,
  flags: LifeFlags,
  read?: ReadBytes,
): Promise<{ readonly domid: number; readonly ended: Promise<void> }> {
  const { ctx } = session;
  const domid = await createDomain(ctx, config, read);
  const attached = flags.console ? await attachConsole(session, domid) : undefined;
  // Before the guest runs, so that nothing of its life can be missed.
  const monitored: Monitored = { domid, name: config.cInfo.name, actions: actionsOf(config) };
  if (!flags.exit && !flags.foreground) {
    await session.xc.call('dom0.monitor', { ...monitored, verbosity: flags.verbosity });
  }
  if (!flags.paused) await domainUnpause(ctx, domid);
  let done: Promise<void> | undefined;
  if (flags.foreground && !flags.exit) {
    ({ done } = await startMonitor(ctx, monitored, (line) => process.stderr.write(`${line}\n`)));
  }
  return { domid, ended: Promise.all([done, attached?.ended]).then(() => undefined) };
}

function actionsOf(config: DomainConfig): Monitored['actions'] {
  return {
    poweroff: actionName(config.onPoweroff),
    reboot: actionName(config.onReboot),
    crash: actionName(config.onCrash),
    watchdog: actionName(config.onWatchdog),
  };
}

/** Prints the config, as `-d` asks for it. */
export function printDebug(config: DomainConfig): void {
  process.stderr.write(toJson(config));
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
