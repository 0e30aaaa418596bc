import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { requireCpupool } from '../cli/cpus.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { cpupoolRename } from '../libxl/cpupool.js';
import { LibxlError } from '../libxl/ctx.js';

export default class CpupoolRename extends XlCommand {
  static override summary = 'Renames a CPU pool';
  static override examples = ['<%= config.bin %> cpupool-rename batch night'];
  static override args = {
    pool: Args.string({ required: true, ignoreStdin: true, description: 'name or id of a pool' }),
    name: Args.string({ required: true, ignoreStdin: true, description: 'its new name' }),
  };
  static override xl: XlLayout = { usage: '<CPU Pool> <new name>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(CpupoolRename);
    await withSession(this, flags, async ({ ctx }) => {
      const poolId = await requireCpupool(ctx, args.pool);
      try {
        await cpupoolRename(ctx, poolId, args.name);
      } catch (error) {
        if (error instanceof LibxlError) throw new XlFailure(1, `Can't rename cpupool '${args.pool}'`);
        throw error;
      }
    });
  }
}
