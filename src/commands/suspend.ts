import * as Args from '@oclif/core/args';
import { findDomain, ignoringFailure, withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { domainSuspendOnly } from '../libxl/suspend.js';

export default class Suspend extends XlCommand {
  static override summary = 'Suspend a domain to RAM';
  static override description =
    'Suspend a domain: it stops where it is and stays in memory, until `xl resume`. Newer releases of xl have this command, 4.17 has not.';
  static override examples = ['<%= config.bin %> suspend web'];
  static override args = { domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }) };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Suspend);
    await withSession(this, flags, async ({ ctx }) => {
      await ignoringFailure(domainSuspendOnly(ctx, await findDomain(ctx, args.domain)));
    });
  }
}
