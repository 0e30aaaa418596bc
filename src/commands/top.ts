import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { openTerminal, type Terminal } from '../cli/screen.js';
import { type Globals, withSession } from '../cli/session.js';
import { defaultOptions, runBatch, runScreen, type TopOptions } from '../cli/xentop.js';
import { XlCommand } from '../cli/xl-command.js';

export const topFlags = {
  delay: Flags.string({ char: 'd', helpValue: 'SECONDS', description: 'time from one sample to the next (default 3)' }),
  networks: Flags.boolean({ char: 'n', default: false, description: 'print the vifs of each domain' }),
  vbds: Flags.boolean({ char: 'x', default: false, description: 'print the vbds of each domain' }),
  'repeat-header': Flags.boolean({ char: 'r', default: false, description: 'print the header above each domain' }),
  vcpus: Flags.boolean({ char: 'v', default: false, description: 'print the vcpus of each domain' }),
  batch: Flags.boolean({ char: 'b', default: false, description: 'print lines, without a screen and keys' }),
  iterations: Flags.string({ char: 'i', helpValue: 'NUMBER', description: 'end after so many samples' }),
  'full-name': Flags.boolean({ char: 'f', default: false, description: 'print names as long as they are' }),
};

/**
 * What xl starts for `top`. A real xl takes no options there and passes none on; ours takes those of xentop, for who
 * wants its lines in a script.
 */
export default class Top extends XlCommand {
  static override summary = 'Monitor a host and the domains in real time';
  static override examples = ['<%= config.bin %> top'];
  static override flags = topFlags;
  static override xl: XlLayout = {
    usage: '',
    options: '',
    notModelled: 'the counters of vifs and vbds stand at 0: no data goes through them',
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(Top);
    const options: TopOptions = {
      ...defaultOptions,
      ...(flags.delay === undefined ? {} : { delay: Number.parseInt(flags.delay, 10) >>> 0 }),
      ...(flags.iterations === undefined ? {} : { iterations: Number.parseInt(flags.iterations, 10) >>> 0 || undefined }),
      ...{ networks: flags.networks, vbds: flags.vbds, vcpus: flags.vcpus, batch: flags.batch },
      ...{ repeatHeader: flags['repeat-header'], fullName: flags['full-name'] },
    };
    if (options.batch) return printBatch(this, flags, options);
    const terminal = terminalOrComplaint();
    if (terminal === 'none') return printBatch(this, flags, options);
    // xl ends with the wait status of xentop, and of a failed one the low byte is 0.
    if (!terminal) return;
    try {
      await withSession(this, flags, ({ ctx }) => runScreen(ctx, options, terminal));
    } finally {
      terminal.close();
    }
  }
}

/** The lines of batch mode, in which a signal is the ordinary end. */
export function printBatch(command: XlCommand, globals: Globals, options: TopOptions): Promise<void> {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(0));
  return withSession(command, globals, ({ ctx }) => runBatch(ctx, options, (text) => process.stdout.write(text)));
}

/**
 * The terminal; undefined, with curses' own words on stderr, where nothing says which one it is; `none` where nobody
 * looks at a screen, and lines will do. (curses would write its sequences into the pipe.)
 */
export function terminalOrComplaint(): Terminal | 'none' | undefined {
  if (process.env['TERM']) return process.stdout.isTTY ? openTerminal(process.stdin, process.stdout, process.env) : 'none';
  process.stderr.write('Error opening terminal: unknown.\n');
  return undefined;
}
