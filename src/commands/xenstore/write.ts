import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../../cli/argv.js';
import { type Asked, unescaped } from '../../cli/xenstore-text.js';
import { answer, type Outcome, XenstoreTool } from '../../cli/xenstore-tool.js';
import type { Xs, XsRequests } from '../../xenbus/xs-client.js';

export default class XenstoreWrite extends XenstoreTool {
  static override summary = 'Write values into the store';
  static override description =
    'Write values into the store, as xenstore-write does. What is missing above a node is made. Several are written in one transaction. \\t, \\n, \\r, \\\\, \\x41 and \\101 are one byte each.';
  static override examples = [
    '<%= config.bin %> xenstore write /local/domain/0/data/key value',
    '<%= config.bin %> xenstore write /tool/a 1 /tool/b 2',
    "<%= config.bin %> xenstore write --raw /tool/path 'C:\\new'",
  ];
  static override flags = { raw: Flags.boolean({ char: 'R', description: 'take backslashes as they are' }) };
  static override xl: XlLayout = { usage: '[options] <Path> <Value> [<Path> <Value>]...', getopt: 'own' };

  override readonly tool = 'write';

  protected override work(xs: Xs, asked: Asked): Promise<Outcome> {
    return asked.operands.length > 2 ? this.atomically(xs, (tx) => this.#writeAll(tx, asked)) : this.#writeAll(xs, asked);
  }

  async #writeAll(xs: XsRequests, { operands, raw }: Asked): Promise<Outcome> {
    for (let at = 0; at < operands.length; at += 2) {
      const [path = '', text = ''] = operands.slice(at, at + 2);
      const written = await answer(xs.write(path, raw ? text : unescaped(text)).then(() => true));
      if ('errno' in written) {
        this.complain(`could not write path ${path}`);
        return { stdout: '', exit: 1 };
      }
    }
    return { stdout: '', exit: 0 };
  }
}
