import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { LibxlError } from '../libxl/ctx.js';
import { domainDestroy } from '../libxl/destroy.js';

export default class Destroy extends XlCommand {
  static override summary = 'Terminate a domain immediately';
  static override examples = ['<%= config.bin %> destroy web'];
  static override args = { domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }) };
  static override flags = { force: Flags.boolean({ char: 'f', default: false, description: 'permit destroying domain 0' }) };
  static override xl: XlLayout = {
    usage: '[options] <Domain>\n',
    modifies: true,
    options: `-f                      Permit destroying domain 0, which will only succeed
                        when run from disaggregated toolstack domain with a
                        hardware domain distinct from domain 0.`,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Destroy);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      if (domid === 0 && !flags.force) {
        const why = 'This can only be done when using a disaggregated hardware domain and toolstack.';
        throw new XlFailure(1, `Not destroying domain 0; use -f to force.\n${why}\n`);
      }
      try {
        await domainDestroy(ctx, domid);
      } catch (error) {
        if (error instanceof LibxlError) throw new XlFailure(1, `destroy failed (rc=${error.rc})`);
        throw error;
      }
    });
  }
}
