import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { cdromInsert } from '../libxl/cdrom.js';

export default class CdEject extends XlCommand {
  static override summary = "Eject a cdrom from a guest's cd drive";
  static override examples = ['<%= config.bin %> cd-eject web hdc'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    vdev: Args.string({ required: true, ignoreStdin: true, description: 'the drive' }),
  };
  static override flags = {
    // xl takes -N before it, and does the same as without.
    dryrun: Flags.boolean({ hidden: true, default: false, description: 'no effect' }),
  };
  static override xl: XlLayout = {
    notModelled: 'CD drives, which HVM guests have: it says so',
    usage: '<Domain> <VirtualDevice>',
    modifies: true,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(CdEject);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const complaint = await cdromInsert(ctx, domid, args.vdev, '');
      if (complaint !== undefined) throw new XlFailure(1, complaint);
    });
  }
}
