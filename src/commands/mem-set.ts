import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { type Ctx, LibxlError } from '../libxl/ctx.js';
import { parseMemSizeKb, setMemoryTarget } from '../libxl/memory.js';

export default class MemSet extends XlCommand {
  static override summary = 'Set the current memory usage for a domain';
  static override examples = ['<%= config.bin %> mem-set web 96', '<%= config.bin %> mem-set web 131072k'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    memory: Args.string({ required: true, ignoreStdin: true, description: 'a size, in MiB unless it says otherwise' }),
  };
  static override xl: XlLayout = {
    usage: "<Domain> <MemMB['b'[bytes]|'k'[KB]|'m'[MB]|'g'[GB]|'t'[TB]]>",
    modifies: true,
  };

  /** What is set, in xl's words, and by what. */
  protected readonly limit: string = 'dynamic';
  protected readonly set: (ctx: Ctx, domid: number, kb: bigint) => Promise<void> = setMemoryTarget;

  async run(): Promise<void> {
    const { args, flags } = await this.parse(MemSet);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const kb = parseMemSizeKb(args.memory);
      if (kb === undefined) throw new XlFailure(1, `invalid memory size: ${args.memory}`);
      try {
        await this.set(ctx, domid, kb);
      } catch (error) {
        if (!(error instanceof LibxlError)) throw error;
        throw new XlFailure(1, `cannot set domid ${domid} ${this.limit} max memory to : ${args.memory}`);
      }
    });
  }
}
