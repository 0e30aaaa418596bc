import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { domid } from '../cli/quick/domid.js';
import { withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';

export default class Domid extends XlCommand {
  static override summary = 'Convert a domain name to domain id';
  static override examples = ['<%= config.bin %> domid web'];
  static override args = { domain: Args.string({ required: true, ignoreStdin: true, description: 'name' }) };
  static override xl: XlLayout = { usage: '<DomainName>' };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Domid);
    await withSession(this, flags, (session) => domid(session, args.domain));
  }
}
