import { isUtf8 } from 'node:buffer';
import { readFile } from 'node:fs/promises';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../argv.js';
import { actionName, configText, parseConfig } from '../libxl/config.js';
import { LibxlError, Rc } from '../libxl/ctx.js';
import { domainUnpause, formatUuid } from '../libxl/domain.js';
import type { DomainConfig } from '../libxl/domain-config.js';
import { toJson } from '../libxl/json.js';
import { createDomain, type Monitored, startMonitor } from '../libxl/monitor.js';
import { SystemClock } from '../xenbus/clock.js';
import { type Session, withSession, XlCommand, XlFailure } from '../xl.js';

export default class Create extends XlCommand {
  static override summary = 'Create a domain from config file <filename>';
  static override examples = [
    '<%= config.bin %> create web.cfg',
    '<%= config.bin %> create --defconfig=web.cfg --dryrun memory=64',
  ];
  static override strict = false;
  static override args = {
    'config-file': Args.string({ ignoreStdin: true, description: 'xl.cfg file; key=value of more arguments override it' }),
  };
  static override flags = {
    console: Flags.boolean({ char: 'c', default: false, description: 'not modelled' }),
    debug: Flags.boolean({ char: 'd', default: false, description: 'print the configuration as JSON on stderr' }),
    exit: Flags.boolean({ char: 'e', default: false, description: 'leave no monitor behind' }),
    foreground: Flags.boolean({ char: 'F', default: false, description: "monitor the domain's death in the foreground" }),
    defconfig: Flags.string({ char: 'f', helpValue: 'FILE', description: 'the configuration file' }),
    dryrun: Flags.boolean({ char: 'n', default: false, description: 'print the resulting configuration and stop' }),
    paused: Flags.boolean({ char: 'p', default: false, description: 'leave the domain paused' }),
    quiet: Flags.boolean({ char: 'q', default: false, description: 'do not say which file is read' }),
    vncviewer: Flags.boolean({ char: 'V', default: false, description: 'not modelled' }),
    'vncviewer-autopass': Flags.boolean({ char: 'A', default: false, description: 'not modelled' }),
    'ignore-global-affinity-masks': Flags.boolean({
      char: 'i',
      default: false,
      description: 'no effect: there is no xl.conf here',
    }),
  };
  static override xl: XlLayout = {
    usage: '<ConfigFile> [options] [vars]',
    modifies: true,
    surplus: 'vars',
    options: `-c                      Connect to the console after the domain is created.
-d                      Enable debug messages.
-e                      Do not wait in the background for the death of the domain.
-F                      Run in foreground until death of the domain.
-f FILE, --defconfig=FILE
                     Use the given configuration file.
-h                      Print this help.
-n, --dryrun            Dry run - prints the resulting configuration
                         (deprecated in favour of global -N option).
-p                      Leave the domain paused after it is created.
-q, --quiet             Quiet.
-V, --vncviewer         Connect to the VNC display after the domain is created.
-A, --vncviewer-autopass
                        Pass VNC password to viewer via stdin.
--ignore-global-affinity-masks Ignore global masks in xl.conf.`,
  };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(Create);
    // `argv` of oclif sorts equal words together, and the order of assignments matters.
    const operands = raw.flatMap((token) => (token.type === 'arg' ? [token.input] : []));
    const file = flags.defconfig ?? operands.find((operand) => !operand.includes('='));
    if (file === undefined) throw new XlFailure(-Rc.INVAL, 'Config file not specified and none in save file');

    const text = await readConfigFile(file);
    if (!flags.quiet) process.stderr.write(`Parsing config from ${file}\n`);
    const extras = operands.filter((operand) => operand.includes('='));
    const clock = new SystemClock();
    const parsed = parseConfig(configText(text, extras), file, { randomUuid: () => formatUuid(clock.random(16)) });
    for (const line of parsed.lines) process.stderr.write(`${line}\n`);
    const { config } = parsed;
    if (!config) throw new XlFailure(parsed.exit);
    if (flags.dryrun) return void process.stdout.write(toJson(config));
    if (flags.debug) process.stderr.write(toJson(config));

    refuseUnmodelled(flags, parsed.refusals);
    for (const line of parsed.notices) process.stderr.write(`${line}\n`);
    await withSession(this, flags, (session) => create(session, config, flags));
  }
}

async function readConfigFile(file: string): Promise<string> {
  if (file === '/dev/null') return '';
  const bytes = await readFile(file).catch((error: unknown) => {
    throw unreadable(file, error);
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

function unreadable(file: string, error: unknown): XlFailure {
  const why = error instanceof Error && 'code' in error ? String(error.code) : '';
  const words: Readonly<Record<string, string>> = {
    ENOENT: 'No such file or directory',
    EACCES: 'Permission denied',
    EISDIR: 'Is a directory',
    ENOTDIR: 'Not a directory',
    ELOOP: 'Too many levels of symbolic links',
  };
  return new XlFailure(-Rc.FAIL, `Failed to read config file: ${file}: ${words[why] ?? why}`);
}

interface CreateFlags {
  readonly console: boolean;
  readonly vncviewer: boolean;
  readonly 'vncviewer-autopass': boolean;
  readonly exit: boolean;
  readonly foreground: boolean;
  readonly paused: boolean;
  readonly verbosity: number;
}

function refuseUnmodelled(flags: CreateFlags, refusals: readonly string[]): void {
  const option = flags.console ? '-c' : flags.vncviewer ? '-V' : flags['vncviewer-autopass'] ? '-A' : undefined;
  if (option !== undefined) {
    const what = option === '-c' ? 'consoles' : 'displays';
    throw new XlFailure(1, `xl: create ${option}: ${what} are not modelled, as guests execute nothing; create without ${option}`);
  }
  if (refusals.length > 0) throw new XlFailure(1, refusals.join('\n'));
}

async function create({ ctx, xc }: Session, config: DomainConfig, flags: CreateFlags): Promise<void> {
  let domid: number;
  try {
    domid = await createDomain(ctx, config);
  } catch (error) {
    if (error instanceof LibxlError) throw new XlFailure(-error.rc);
    throw error;
  }
  const monitored: Monitored = { domid, name: config.cInfo.name, actions: actionsOf(config) };
  // Before the guest runs, so that nothing of its life can be missed.
  if (!flags.exit && !flags.foreground) {
    await xc.call('dom0.monitor', { ...monitored, verbosity: flags.verbosity });
  }
  if (!flags.paused) await domainUnpause(ctx, domid);
  if (flags.foreground && !flags.exit) {
    const { done } = await startMonitor(ctx, monitored, (line) => process.stderr.write(`${line}\n`));
    await done;
  }
}

function actionsOf(config: DomainConfig): Monitored['actions'] {
  return {
    poweroff: actionName(config.onPoweroff),
    reboot: actionName(config.onReboot),
    crash: actionName(config.onCrash),
    watchdog: actionName(config.onWatchdog),
  };
}
