import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { list } from '../cli/quick/list.js';
import { withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';

export default class List extends XlCommand {
  static override summary = 'List information about all/some domains';
  static override examples = ['<%= config.bin %> list --verbose', '<%= config.bin %> list --json web'];
  static override args = { domain: Args.string({ ignoreStdin: true, description: 'name or domid' }) };
  static override flags = {
    long: Flags.boolean({ char: 'l', default: false, description: 'print the whole configuration as JSON' }),
    verbose: Flags.boolean({ char: 'v', default: false, description: 'print uuids, shutdown reasons and labels' }),
    context: Flags.boolean({ char: 'Z', default: false, description: 'print security labels' }),
    cpupool: Flags.boolean({ char: 'c', default: false, description: 'print cpupools' }),
    numa: Flags.boolean({ char: 'n', default: false, description: 'print node affinities' }),
    json: Flags.boolean({ default: false, description: 'print JSON' }),
  };
  static override xl: XlLayout = {
    usage: '[options] [Domain]\n',
    surplus: 'help',
    options: `-l, --long              Output all VM details
-v, --verbose           Prints out UUIDs and security context
-Z, --context           Prints out security context
-c, --cpupool           Prints the cpupool the domain is in
-n, --numa              Prints out NUMA node affinity`,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(List);
    await withSession(this, flags, (session) => list(session, { domain: args.domain, ...flags }));
  }
}
