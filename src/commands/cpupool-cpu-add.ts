import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { requireCpupool } from '../cli/cpus.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { cpuList } from '../libxl/cpu-list.js';
import { cpupoolCpus } from '../libxl/cpupool.js';
import { LibxlError } from '../libxl/ctx.js';

export default class CpupoolCpuAdd extends XlCommand {
  static override summary = 'Adds a CPU to a CPU pool';
  static override examples = ['<%= config.bin %> cpupool-cpu-add batch 1'];
  static override args = {
    pool: Args.string({ required: true, ignoreStdin: true, description: 'name or id of a pool' }),
    cpus: Args.string({ required: true, ignoreStdin: true, description: 'processors: 1, 0-3, node:0, all' }),
  };
  static override xl: XlLayout = { usage: '<CPU Pool> <CPU nr>|node:<node nr>', modifies: true };

  protected readonly change: 'add' | 'remove' = 'add';

  /** What xl says, before it succeeds, of processors that it could not move. */
  protected complaint(pool: string): string {
    return `some cpus may not have been added to ${pool}\n`;
  }

  async run(): Promise<void> {
    const { args, flags } = await this.parse(CpupoolCpuAdd);
    await withSession(this, flags, async ({ ctx }) => {
      const { nrCpus } = await ctx.xc.call('xc.physinfo', {});
      const cpus = cpuList(args.cpus, nrCpus);
      if (typeof cpus === 'string') throw new XlFailure(1, cpus);
      const poolId = await requireCpupool(ctx, args.pool);
      try {
        await cpupoolCpus(ctx, this.change, poolId, cpus);
      } catch (error) {
        if (!(error instanceof LibxlError)) throw error;
        process.stderr.write(this.complaint(args.pool));
      }
    });
  }
}
