import * as Args from '@oclif/core/args';
import type { XlLayout } from '../argv.js';
import { nameToDomid } from '../libxl/domain.js';
import { withSession, XlCommand, XlFailure } from '../xl.js';

export default class Domid extends XlCommand {
  static override summary = 'Convert a domain name to domain id';
  static override examples = ['<%= config.bin %> domid web'];
  static override args = { domain: Args.string({ required: true, ignoreStdin: true, description: 'name' }) };
  static override xl: XlLayout = { usage: '<DomainName>' };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Domid);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await nameToDomid(ctx, args.domain);
      if (domid === undefined) {
        throw new XlFailure(1, `Can't get domid of domain name '${args.domain}', maybe this domain does not exist.`);
      }
      process.stdout.write(`${domid}\n`);
    });
  }
}
