import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { bringUp, configOptions, parseOrFail, printConfig, readConfigFile } from '../cli/bring-up.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { bytesOfText, readGlobalConfig, writeBytes } from '../cli/xl-conf.js';
import { configText } from '../libxl/config.js';
import { LibxlError, Rc } from '../libxl/ctx.js';
import { type Finding, lintConfig } from '../libxl/lint.js';

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
    console: Flags.boolean({ char: 'c', default: false, description: "connect to the domain's console" }),
    debug: Flags.boolean({ char: 'd', default: false, description: 'print the configuration as JSON on stderr' }),
    exit: Flags.boolean({ char: 'e', default: false, description: 'leave no monitor behind' }),
    foreground: Flags.boolean({ char: 'F', default: false, description: "monitor the domain's death in the foreground" }),
    defconfig: Flags.string({ char: 'f', helpValue: 'FILE', description: 'the configuration file' }),
    dryrun: Flags.boolean({ char: 'n', default: false, description: 'print the resulting configuration and stop' }),
    paused: Flags.boolean({ char: 'p', default: false, description: 'leave the domain paused' }),
    lint: Flags.boolean({ default: false, description: 'report what is odd about the configuration, and create nothing' }),
    json: Flags.boolean({ default: false, description: 'print the findings of --lint as JSON' }),
    quiet: Flags.boolean({ char: 'q', default: false, description: 'do not say which file is read' }),
    vncviewer: Flags.boolean({ char: 'V', default: false, description: 'look for its display, of which there is none' }),
    'vncviewer-autopass': Flags.boolean({ char: 'A', default: false, description: 'the same' }),
    'ignore-global-affinity-masks': Flags.boolean({
      char: 'i',
      default: false,
      description: "ignore xl.conf's vm.cpumask and its like",
    }),
  };
  static override xl: XlLayout = {
    notModelled:
      'HVM and PVH guests, boot loaders, qemu disks, PCI and USB devices: a dry run shows them, and no domain is made of them',
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

    const global = await readGlobalConfig(process.env);
    const text = await readConfigFile(file);
    const extras = operands.filter((operand) => operand.includes('='));
    const options = configOptions(global, flags['ignore-global-affinity-masks']);
    if (flags.lint) {
      const source = bytesOfText(file);
      return reportFindings(lintConfig(configText(text, extras.map(bytesOfText)), source, options), source, flags.json);
    }
    if (!flags.quiet) process.stderr.write(`Parsing config from ${file}\n`);
    const { config, notices } = parseOrFail(text, extras, file, options);
    if (flags.dryrun || flags.debug) printConfig(config, global.outputFormat, flags.dryrun ? process.stdout : process.stderr);
    if (flags.dryrun) return;

    for (const line of notices) process.stderr.write(`${line}\n`);
    try {
      const rc = await withSession(this, flags, async (session) => (await bringUp(session, config, flags)).ended);
      if (rc < 0) throw new XlFailure(-rc);
    } catch (error) {
      if (error instanceof LibxlError) throw new XlFailure(-error.rc);
      throw error;
    }
  }
}

/** `FILE:LINE:COLUMN: message` for each finding; the exit code is 1 if there are any. */
function reportFindings(findings: readonly Finding[], file: string, json: boolean): void {
  if (json) {
    const list = findings.map(({ line, column, message }) => ({ file, line, column, message }));
    writeBytes(process.stdout, `${JSON.stringify(list, null, 2)}\n`);
  } else {
    const lines = findings.map(({ line, column, message }) => `${file}:${line}:${column}: ${message}\n`);
    writeBytes(process.stdout, lines.join(''));
  }
  if (findings.length > 0) throw new XlFailure(1);
}
