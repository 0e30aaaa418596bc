import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { domainCoreDump } from '../libxl/core-dump.js';
import { LibxlError } from '../libxl/ctx.js';

export default class DumpCore extends XlCommand {
  static override summary = 'Core dump a domain';
  static override examples = ['<%= config.bin %> dump-core web web.core'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    filename: Args.string({ required: true, ignoreStdin: true, description: 'where the core goes' }),
  };
  static override xl: XlLayout = {
    notModelled: 'the contents of memory: the core has the headers and the notes',
    usage: '<Domain> <filename>',
    modifies: true,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(DumpCore);
    await withSession(this, flags, async ({ ctx }) => {
      try {
        await domainCoreDump(ctx, await findDomain(ctx, args.domain), args.filename);
      } catch (error) {
        if (error instanceof LibxlError) throw new XlFailure(1, `core dump failed (rc=${error.rc})`);
        throw error;
      }
    });
  }
}
