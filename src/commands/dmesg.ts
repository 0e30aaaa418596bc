import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { readXenConsole } from '../libxl/info.js';

export default class Dmesg extends XlCommand {
  static override summary = 'Read and/or clear dmesg buffer';
  static override examples = ['<%= config.bin %> dmesg', '<%= config.bin %> dmesg --clear'];
  static override flags = {
    clear: Flags.boolean({ char: 'c', default: false, description: 'empty the buffer after printing it' }),
  };
  static override xl: XlLayout = {
    notModelled: 'what Xen prints: the text is that of the model',
    usage: '[-c]',
    options: '  -c                        Empty the buffer, too',
    silentLong: 'clear',
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(Dmesg);
    await withSession(this, flags, async ({ ctx }) => {
      for await (const text of readXenConsole(ctx, flags.clear)) process.stdout.write(text);
    });
  }
}
