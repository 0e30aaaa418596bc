import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { withSession } from '../cli/session.js';
import { readOptions, runScreen } from '../cli/xentop.js';
import { XlCommand } from '../cli/xl-command.js';
import { printBatch, terminalOrComplaint, topFlags } from './top.js';

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
    ...topFlags,
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
    if (options.batch) return printBatch(this, flags, options);
    const terminal = terminalOrComplaint();
    if (terminal === 'none') return printBatch(this, flags, options);
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
