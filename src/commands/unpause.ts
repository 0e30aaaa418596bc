import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, ignoringFailure, withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { domainUnpause } from '../libxl/domain.js';

export default class Unpause extends XlCommand {
  static override summary = 'Unpause a paused domain';
  static override examples = ['<%= config.bin %> unpause web'];
  static override args = { domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }) };
  static override xl: XlLayout = { usage: '<Domain>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Unpause);
    await withSession(this, flags, async ({ ctx }) => {
      await ignoringFailure(domainUnpause(ctx, await findDomain(ctx, args.domain)));
    });
  }
}
