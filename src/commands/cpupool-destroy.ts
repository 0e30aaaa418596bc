import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { requireCpupool } from '../cli/cpus.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { cpupoolDestroy } from '../libxl/cpupool.js';
import { LibxlError } from '../libxl/ctx.js';

export default class CpupoolDestroy extends XlCommand {
  static override summary = 'Deactivates a CPU pool';
  static override examples = ['<%= config.bin %> cpupool-destroy batch'];
  static override args = { pool: Args.string({ required: true, ignoreStdin: true, description: 'name or id of a pool' }) };
  static override xl: XlLayout = { usage: '<CPU Pool>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(CpupoolDestroy);
    await withSession(this, flags, async ({ ctx }) => {
      const poolId = await requireCpupool(ctx, args.pool);
      try {
        await cpupoolDestroy(ctx, poolId);
      } catch (error) {
        if (error instanceof LibxlError) throw new XlFailure(1, `Can't destroy cpupool '${args.pool}'`);
        throw error;
      }
    });
  }
}
