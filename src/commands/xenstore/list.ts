import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../../cli/argv.js';
import type { Asked } from '../../cli/xenstore-text.js';
import { jsonReport, type Outcome, unlessRefused, XenstoreTool } from '../../cli/xenstore-tool.js';
import { textOf, type Xs } from '../../xenbus/xs-client.js';

export default class XenstoreList extends XenstoreTool {
  static override summary = 'List the children of nodes of the store';
  static override description = 'List the children of nodes of the store, as xenstore-list does: a name a line';
  static override examples = [
    '<%= config.bin %> xenstore list /local/domain',
    '<%= config.bin %> xenstore list --prefix /local/domain/1/device /local/domain/1/control',
    '<%= config.bin %> xenstore list --json /local/domain',
  ];
  static override flags = {
    prefix: Flags.boolean({ char: 'p', description: 'print full paths' }),
    json: Flags.boolean({ description: 'print JSON' }),
  };
  static override xl: XlLayout = { usage: '[options] <Path>...', getopt: 'own' };

  override readonly tool = 'list';

  protected override work(xs: Xs, { operands, prefix, json }: Asked): Promise<Outcome> {
    return this.atomically(xs, async (tx) => {
      const listed: { readonly path: string; readonly children: readonly string[] }[] = [];
      let exit = 0;
      for (const path of operands) {
        const children = await unlessRefused(tx.directory(path));
        if (!children) {
          this.complain(`could not list path ${path}`);
          exit = 1;
          break;
        }
        listed.push({ path, children });
      }
      if (json) {
        const report = listed.map(({ path, children }) => ({ path: textOf(path), children: children.map(textOf) }));
        return { stdout: jsonReport(report), exit };
      }
      // Below the root that makes two slashes, in xenstore-list too.
      const lines = listed.flatMap(({ path, children }) => children.map((name) => `${prefix ? `${path}/` : ''}${name}\n`));
      return { stdout: lines.join(''), exit };
    });
  }
}
