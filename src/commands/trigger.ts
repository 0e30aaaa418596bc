import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, ignoringFailure, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { sendTrigger, triggerOf } from '../libxl/info.js';
import { atoi, strtol } from '../libxl/strtol.js';

export default class TriggerCommand extends XlCommand {
  static override summary = 'Send a trigger to a domain';
  static override examples = ['<%= config.bin %> trigger web nmi', '<%= config.bin %> trigger web nmi 1'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    trigger: Args.string({ required: true, ignoreStdin: true, description: 'which one' }),
    vcpu: Args.string({ ignoreStdin: true, description: 'the vcpu that gets it (default 0)' }),
  };
  static override xl: XlLayout = { usage: '<Domain> <nmi|reset|init|power|sleep|s3resume> [<VCPU>]', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(TriggerCommand);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const trigger = triggerOf(args.trigger);
      if (trigger === undefined) throw new XlFailure(1, `Invalid trigger "${args.trigger}"`);
      const vcpu = args.vcpu ?? '0';
      if (strtol(vcpu, 10).end === 0) process.stderr.write('Invalid vcpuid, using default vcpuid=0.\n\n');
      await ignoringFailure(sendTrigger(ctx, domid, trigger, atoi(vcpu)));
    });
  }
}
