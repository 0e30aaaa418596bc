import * as Args from '@oclif/core/args';
import { findDomain, ignoringFailure, withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { domainResume } from '../libxl/suspend.js';

export default class Resume extends XlCommand {
  static override summary = 'Resume a domain from RAM';
  static override description =
    'Let a domain go on that `xl suspend` has stopped. Newer releases of xl have this command, 4.17 has not.';
  static override examples = ['<%= config.bin %> resume web'];
  static override args = { domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }) };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Resume);
    await withSession(this, flags, async ({ ctx }) => {
      await ignoringFailure(domainResume(ctx, await findDomain(ctx, args.domain)));
    });
  }
}
