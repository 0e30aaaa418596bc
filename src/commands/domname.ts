import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { domidOf, domname } from '../cli/quick/domid.js';
import { withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';

export default class Domname extends XlCommand {
  static override summary = 'Convert a domain id to domain name';
  static override examples = ['<%= config.bin %> domname 7'];
  static override args = { domain: Args.string({ required: true, ignoreStdin: true, description: 'domid' }) };
  static override xl: XlLayout = { usage: '<DomainId>' };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Domname);
    const domid = domidOf(args.domain);
    await withSession(this, flags, (session) => domname(session, domid));
  }
}
