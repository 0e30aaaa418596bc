import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { findNamed, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { LibxlError } from '../libxl/ctx.js';
import { domainRename } from '../libxl/domain.js';

export default class Rename extends XlCommand {
  static override summary = 'Rename a domain';
  static override examples = ['<%= config.bin %> rename web shop'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    'new-name': Args.string({ required: true, ignoreStdin: true, description: 'its name from now on' }),
  };
  static override xl: XlLayout = { usage: '<Domain> <NewDomainName>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Rename);
    await withSession(this, flags, async ({ ctx }) => {
      const { domid, name } = await findNamed(ctx, args.domain);
      try {
        await domainRename(ctx, domid, name, args['new-name']);
      } catch (error) {
        if (error instanceof LibxlError) throw new XlFailure(1, `Can't rename domain '${args.domain}'.`);
        throw error;
      }
    });
  }
}
