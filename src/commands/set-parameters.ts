import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { LibxlError } from '../libxl/ctx.js';
import { setParameters } from '../libxl/info.js';

export default class SetParameters extends XlCommand {
  static override summary = 'Set hypervisor parameters';
  static override examples = ["<%= config.bin %> set-parameters 'loglvl=all guest_loglvl=warning'"];
  static override args = {
    params: Args.string({ required: true, ignoreStdin: true, description: 'as on the command line of Xen' }),
  };
  static override xl: XlLayout = { notModelled: 'what depends on a parameter', usage: '<Params>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(SetParameters);
    await withSession(this, flags, async ({ ctx }) => {
      try {
        await setParameters(ctx, args.params);
      } catch (error) {
        if (!(error instanceof LibxlError)) throw error;
        throw new XlFailure(1, `cannot set parameters: ${args.params}`);
      }
    });
  }
}
