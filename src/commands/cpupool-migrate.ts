import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { requireCpupool } from '../cli/cpus.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { cpupoolMoveDomain } from '../libxl/cpupool.js';
import { domidToName, nameToDomid } from '../libxl/domain.js';

export default class CpupoolMigrate extends XlCommand {
  static override summary = 'Moves a domain into a CPU pool';
  static override examples = ['<%= config.bin %> cpupool-migrate web batch'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    pool: Args.string({ required: true, ignoreStdin: true, description: 'name or id of a pool' }),
  };
  static override xl: XlLayout = { usage: '<Domain> <CPU Pool>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(CpupoolMigrate);
    await withSession(this, flags, async ({ ctx }) => {
      const digits = /^\d*$/.test(args.domain);
      const domid = digits ? Math.min(Number(args.domain), 0xffff_ffff) : await nameToDomid(ctx, args.domain);
      if (domid === undefined || (await domidToName(ctx, domid)) === undefined) {
        throw new XlFailure(1, `unknown domain '${args.domain}'`);
      }
      await cpupoolMoveDomain(ctx, await requireCpupool(ctx, args.pool), domid);
    });
  }
}
