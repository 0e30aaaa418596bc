import type { XlLayout } from '../cli/argv.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { cpupoolCpus, cpupoolRename, listCpupools } from '../libxl/cpupool.js';
import { LibxlError } from '../libxl/ctx.js';

export default class CpupoolNumaSplit extends XlCommand {
  static override summary = 'Splits up the machine into one CPU pool per NUMA node';
  static override examples = ['<%= config.bin %> cpupool-numa-split'];
  static override xl: XlLayout = { usage: '', modifies: true };

  /** This host has one node: Pool-0 gets what is free, and the name of the node. No other pool is to be made. */
  async run(): Promise<void> {
    const { flags } = await this.parse(CpupoolNumaSplit);
    await withSession(this, flags, async ({ ctx }) => {
      const pools = await listCpupools(ctx);
      if (pools.length > 1) throw new XlFailure(1, 'splitting not possible, already cpupools in use');
      const { cpus } = await ctx.xc.call('xc.cpupool_freeinfo', {});
      try {
        await cpupoolCpus(ctx, 'add', 0, cpus);
        await cpupoolRename(ctx, 0, 'Pool-node0');
      } catch (error) {
        if (error instanceof LibxlError) throw new XlFailure(1, 'error on renaming Pool 0');
        throw error;
      }
    });
  }
}
