import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, ignoringFailure, withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { domainPause } from '../libxl/domain.js';

export default class Pause extends XlCommand {
  static override summary = 'Pause execution of a domain';
  static override examples = ['<%= config.bin %> pause web'];
  static override args = { domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }) };
  static override xl: XlLayout = { usage: '<Domain>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Pause);
    await withSession(this, flags, async ({ ctx }) => {
      await ignoringFailure(domainPause(ctx, await findDomain(ctx, args.domain)));
    });
  }
}
