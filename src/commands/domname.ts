import * as Args from '@oclif/core/args';
import type { XlLayout } from '../argv.js';
import { domidToName } from '../libxl/domain.js';
import { withSession, XlCommand, XlFailure } from '../xl.js';

export default class Domname extends XlCommand {
  static override summary = 'Convert a domain id to domain name';
  static override examples = ['<%= config.bin %> domname 7'];
  static override args = { domain: Args.string({ required: true, ignoreStdin: true, description: 'domid' }) };
  static override xl: XlLayout = { usage: '<DomainId>' };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Domname);
    // Digits at the beginning will do, as they do for xl.
    const digits = /^\s*\+?(\d+)/.exec(args.domain)?.[1];
    if (digits === undefined) throw new XlFailure(1, 'Invalid domain id.\n');
    await withSession(this, flags, async ({ ctx }) => {
      const domid = Math.min(Number(digits), 0xffff_ffff);
      const name = await domidToName(ctx, domid);
      if (name === undefined) {
        throw new XlFailure(1, `Can't get domain name of domain id '${domid}', maybe this domain does not exist.`);
      }
      process.stdout.write(`${name}\n`);
    });
  }
}
