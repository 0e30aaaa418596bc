import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../../cli/argv.js';
import type { Asked } from '../../cli/xenstore-text.js';
import { type Outcome, unlessRefused, XenstoreTool } from '../../cli/xenstore-tool.js';
import type { Xs, XsRequests } from '../../xenbus/xs-client.js';

export default class XenstoreRm extends XenstoreTool {
  static override summary = 'Remove nodes from the store';
  static override description =
    'Remove nodes from the store with all below them, as xenstore-rm does, in one transaction. One that is missing below a node that is there counts as removed.';
  static override examples = [
    '<%= config.bin %> xenstore rm /tool/a /tool/b',
    '<%= config.bin %> xenstore rm --tidy /tool/some/where/deep',
  ];
  static override flags = {
    tidy: Flags.boolean({ char: 't', description: 'remove the nodes above too, as long as they are empty by then' }),
  };
  static override xl: XlLayout = { usage: '[options] <Path>...', getopt: 'own' };

  override readonly tool = 'rm';

  protected override work(xs: Xs, { operands, tidy }: Asked): Promise<Outcome> {
    return this.atomically(xs, async (tx) => {
      for (const operand of operands) {
        for (let path: string | undefined = operand; path !== undefined; path = tidy ? await emptyParent(tx, path) : undefined) {
          if (await unlessRefused(tx.rm(path))) continue;
          this.complain(`could not remove path ${path}`);
          return { stdout: '', exit: 1 };
        }
      }
      return { stdout: '', exit: 0 };
    });
  }
}

/** The node above, when it has neither a value nor children. There is none above a name alone, nor above the top. */
async function emptyParent(xs: XsRequests, path: string): Promise<string | undefined> {
  const slash = path.lastIndexOf('/');
  if (slash < 0) return undefined;
  const parent = path.slice(0, slash);
  if ((await unlessRefused(xs.read(parent))) !== '') return undefined;
  const children = await unlessRefused(xs.directory(parent));
  return children?.length === 0 ? parent : undefined;
}
