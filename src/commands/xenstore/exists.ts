import type { XlLayout } from '../../cli/argv.js';
import type { Asked } from '../../cli/xenstore-text.js';
import { type Outcome, unlessRefused, XenstoreTool } from '../../cli/xenstore-tool.js';
import type { Xs } from '../../xenbus/xs-client.js';

export default class XenstoreExists extends XenstoreTool {
  static override summary = 'Tell whether nodes of the store are there';
  static override description =
    'Tell whether nodes of the store are there and can be read, as xenstore-exists does: the exit code is 0 when all are, else 1';
  static override examples = ['<%= config.bin %> xenstore exists /local/domain/1 && echo there'];
  static override xl: XlLayout = { usage: '<Path>...', getopt: 'own' };

  override readonly tool = 'exists';

  protected override work(xs: Xs, { operands }: Asked): Promise<Outcome> {
    return this.atomically(xs, async (tx) => {
      for (const path of operands) {
        if ((await unlessRefused(tx.read(path))) === undefined) return { stdout: '', exit: 1 };
      }
      return { stdout: '', exit: 0 };
    });
  }
}
