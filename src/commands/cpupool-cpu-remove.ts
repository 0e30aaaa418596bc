import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { requireCpupool } from '../cli/cpus.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { cpuList } from '../libxl/cpu-list.js';
import { cpupoolCpus } from '../libxl/cpupool.js';
import { LibxlError } from '../libxl/ctx.js';

export default class CpupoolCpuRemove extends XlCommand {
  static override summary = 'Removes a CPU from a CPU pool';
  static override examples = ['<%= config.bin %> cpupool-cpu-remove batch 1'];
  static override args = {
    pool: Args.string({ required: true, ignoreStdin: true, description: 'name or id of a pool' }),
    cpus: Args.string({ required: true, ignoreStdin: true, description: 'processors: 1, 0-3, node:0, all' }),
  };
  static override xl: XlLayout = { usage: '<CPU Pool> <CPU nr>|node:<node nr>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(CpupoolCpuRemove);
    await withSession(this, flags, async ({ ctx }) => {
      const { nrCpus } = await ctx.xc.call('xc.physinfo', {});
      const cpus = cpuList(args.cpus, nrCpus);
      if (typeof cpus === 'string') throw new XlFailure(1, cpus);
      const poolId = await requireCpupool(ctx, args.pool);
      try {
        await cpupoolCpus(ctx, 'remove', poolId, cpus);
      } catch (error) {
        if (!(error instanceof LibxlError)) throw error;
        // xl says so and succeeds.
        process.stderr.write(`Some cpus may have not or only partially been removed from '${args.pool}'.\n`);
        process.stderr.write(`If a cpu can't be added to another cpupool, add it to '${args.pool}' again and retry.\n`);
      }
    });
  }
}
