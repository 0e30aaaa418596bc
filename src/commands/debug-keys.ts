import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { sendDebugKeys } from '../libxl/info.js';

export default class DebugKeys extends XlCommand {
  static override summary = 'Send debug keys to Xen';
  static override examples = ['<%= config.bin %> debug-keys h', '<%= config.bin %> debug-keys q'];
  static override args = {
    keys: Args.string({ required: true, ignoreStdin: true, description: 'one letter each; h lists them' }),
  };
  static override xl: XlLayout = {
    notModelled: 'keys about what is not modelled, which say so',
    usage: '<Keys>',
    modifies: true,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(DebugKeys);
    await withSession(this, flags, ({ ctx }) => sendDebugKeys(ctx, args.keys));
  }
}
