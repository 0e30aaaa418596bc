import type { XlLayout } from '../argv.js';
import { openTerminal, type Terminal } from '../screen.js';
import { defaultOptions, runScreen } from '../xentop.js';
import { withSession, XlCommand } from '../xl.js';

/** What xl starts for `top`; its options are those of `xl xentop`, and xl passes none on. */
export default class Top extends XlCommand {
  static override summary = 'Monitor a host and the domains in real time';
  static override examples = ['<%= config.bin %> top'];
  static override xl: XlLayout = { usage: '' };

  async run(): Promise<void> {
    const { flags } = await this.parse(Top);
    const terminal = terminalOrComplaint();
    // xl ends with the wait status of xentop, and of a failed one the low byte is 0.
    if (!terminal) return;
    try {
      await withSession(this, flags, ({ ctx }) => runScreen(ctx, defaultOptions, terminal));
    } finally {
      terminal.close();
    }
  }
}

/** The terminal; undefined, with curses' own words on stderr, where nothing says which one it is. */
export function terminalOrComplaint(): Terminal | undefined {
  if (process.env['TERM']) return openTerminal(process.stdin, process.stdout, process.env);
  process.stderr.write('Error opening terminal: unknown.\n');
  return undefined;
}
