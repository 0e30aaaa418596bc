import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../argv.js';
import { readOptions, runBatch, runScreen } from '../xentop.js';
import { withSession, XlCommand } from '../xl.js';
import { terminalOrComplaint } from './top.js';

/** A program of its own on a real host, which `xl top` starts there. */
export default class Xentop extends XlCommand {
  static override summary = 'Show domains and what they use, as xentop does';
  static override description =
    'Show domains and what they use, as xentop does: on the whole screen, or with --batch as lines. `xl top` is this command without options.';
  static override examples = [
    '<%= config.bin %> xentop --batch --iterations 2 --delay 1',
    '<%= config.bin %> xentop --vcpus --networks --vbds',
  ];
  static override flags = {
    version: Flags.boolean({ char: 'V', default: false, description: 'print the version' }),
    delay: Flags.string({ char: 'd', helpValue: 'SECONDS', description: 'time from one sample to the next (default 3)' }),
    networks: Flags.boolean({ char: 'n', default: false, description: 'print the vifs of each domain' }),
    vbds: Flags.boolean({ char: 'x', default: false, description: 'print the vbds of each domain' }),
    'repeat-header': Flags.boolean({ char: 'r', default: false, description: 'print the header above each domain' }),
    vcpus: Flags.boolean({ char: 'v', default: false, description: 'print the vcpus of each domain' }),
    batch: Flags.boolean({ char: 'b', default: false, description: 'print lines, without a screen and keys' }),
    iterations: Flags.string({ char: 'i', helpValue: 'NUMBER', description: 'end after so many samples' }),
    'full-name': Flags.boolean({ char: 'f', default: false, description: 'print names as long as they are' }),
  };
  static override xl: XlLayout = { usage: '[options]', getopt: 'own' };

  async run(): Promise<void> {
    const before = this.argv.indexOf('--');
    const asked = readOptions(this.argv.slice(before + 1));
    const { flags } = await this.parse(Xentop, this.argv.slice(0, before));
    if (asked.do === 'print') {
      process.stderr.write(asked.stderr);
      process.stdout.write(asked.stdout);
      return;
    }
    const { options } = asked;
    if (options.batch) {
      // In batch mode a signal is the ordinary end.
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(0));
      return withSession(this, flags, ({ ctx }) => runBatch(ctx, options, (text) => process.stdout.write(text)));
    }
    const terminal = terminalOrComplaint();
    if (!terminal) {
      process.exitCode = 1;
      return;
    }
    try {
      await withSession(this, flags, ({ ctx }) => runScreen(ctx, options, terminal));
    } finally {
      terminal.close();
    }
  }
}
