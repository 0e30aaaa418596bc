import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../../cli/argv.js';
import { type Asked, escaped, jsonValue } from '../../cli/xenstore-text.js';
import { jsonReport, type Outcome, unlessRefused, XenstoreTool } from '../../cli/xenstore-tool.js';
import { textOf, type Xs, type XsRequests } from '../../xenbus/xs-client.js';

export default class XenstoreRead extends XenstoreTool {
  static override summary = 'Print values of the store';
  static override description =
    'Print values of the store, as xenstore-read does: a line each, and what is not printable is escaped. Several are read in one transaction.';
  static override examples = [
    '<%= config.bin %> xenstore read /local/domain/1/name',
    '<%= config.bin %> xenstore read --prefix /local/domain/0/name /local/domain/0/domid',
    '<%= config.bin %> xenstore read --json /local/domain/1/name',
  ];
  static override flags = {
    prefix: Flags.boolean({ char: 'p', description: 'print the path before each value' }),
    raw: Flags.boolean({ char: 'R', description: 'print the bytes alone: no escapes, no newlines' }),
    json: Flags.boolean({ description: 'print JSON; a value that is no UTF-8 is in base64' }),
  };
  static override xl: XlLayout = { usage: '[options] <Path>...', getopt: 'own' };

  override readonly tool = 'read';

  protected override work(xs: Xs, asked: Asked): Promise<Outcome> {
    return asked.operands.length > 1 ? this.atomically(xs, (tx) => this.#readAll(tx, asked)) : this.#readAll(xs, asked);
  }

  async #readAll(xs: XsRequests, { operands, prefix, raw, json }: Asked): Promise<Outcome> {
    const read: { readonly path: string; readonly value: string }[] = [];
    let exit = 0;
    for (const path of operands) {
      const value = await unlessRefused(xs.read(path));
      if (value === undefined) {
        this.complain(`couldn't read path ${path}`);
        exit = 1;
        break;
      }
      read.push({ path, value });
    }
    if (json) return { stdout: jsonReport(read.map(({ path, value }) => ({ path: textOf(path), ...jsonValue(value) }))), exit };
    const shown = read.map(({ path, value }) => `${prefix ? `${path}: ` : ''}${raw ? value : `${escaped(value)}\n`}`);
    return { stdout: shown.join(''), exit };
  }
}
