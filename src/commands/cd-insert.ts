import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { cdromInsert } from '../libxl/cdrom.js';

export default class CdInsert extends XlCommand {
  static override summary = "Insert a cdrom into a guest's cd drive";
  static override examples = ['<%= config.bin %> cd-insert web hdc /srv/install.iso'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    vdev: Args.string({ required: true, ignoreStdin: true, description: 'the drive' }),
    path: Args.string({ required: true, ignoreStdin: true, description: 'the image' }),
  };
  static override flags = {
    // xl takes -N before it, and does the same as without.
    dryrun: Flags.boolean({ hidden: true, default: false, description: 'no effect' }),
  };
  static override xl: XlLayout = {
    notModelled: 'CD drives, which HVM guests have: it says so',
    usage: '<Domain> <VirtualDevice> <path>',
    modifies: true,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(CdInsert);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const complaint = await cdromInsert(ctx, domid, args.vdev, args.path);
      if (complaint !== undefined) throw new XlFailure(1, complaint);
    });
  }
}
