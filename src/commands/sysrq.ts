import * as Args from '@oclif/core/args';
import { commandHelp, type XlLayout } from '../cli/argv.js';
import { findDomain, ignoringFailure, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { sendSysrq } from '../libxl/info.js';

export default class Sysrq extends XlCommand {
  static override summary = 'Send a sysrq to a domain';
  static override examples = ['<%= config.bin %> sysrq web h'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    letter: Args.string({ required: true, ignoreStdin: true, description: 'the key; h lists them in the log of its kernel' }),
  };
  static override xl: XlLayout = { usage: '<Domain> <letter>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Sysrq);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      if (Buffer.byteLength(args.letter) !== 1) {
        process.stdout.write(commandHelp({ id: 'sysrq', summary: Sysrq.summary, flags: {}, args: {}, xl: Sysrq.xl }));
        throw new XlFailure(1, 'Invalid sysrq.\n');
      }
      await ignoringFailure(sendSysrq(ctx, domid, args.letter));
    });
  }
}
