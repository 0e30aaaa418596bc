import * as Flags from '@oclif/core/flags';
import { foreignStore, printJson, runDirOf, withForeignStore, withSession } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';
import { pruneForeign, pruneOwn } from '../../libxl/mtwatch-nodes.js';
import { mtwatchPath } from '../../xenbus/paths.js';

export default class MtwatchPrune extends XlCommand {
  static override summary = 'Remove mtwatch nodes whose domain is gone';
  static override description =
    'Remove mtwatch nodes whose domain is gone, which a toolstack leaves when it is killed halfway, with what else is left of that domain. In a foreign store the node alone is removed, when two looks 60 seconds apart find no trace of its domain.';
  static override examples = ['<%= config.bin %> mtwatch prune', '<%= config.bin %> mtwatch prune --now --json'];
  static override flags = {
    now: Flags.boolean({ default: false, description: 'do not wait for the second look' }),
    json: Flags.boolean({ default: false, description: 'print the domids of the removed nodes as JSON' }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(MtwatchPrune);
    const foreign = foreignStore(process.env, runDirOf(process.env));
    const removed =
      foreign === undefined
        ? await withSession(this, flags, ({ ctx }) => pruneOwn(ctx))
        : await withForeignStore(this, foreign, flags, (ctx) => pruneForeign(ctx, flags.now));
    if (flags.json) printJson(removed);
    else for (const domid of removed) process.stdout.write(`removed ${mtwatchPath(domid)}\n`);
  }
}
