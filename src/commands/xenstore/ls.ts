import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../../cli/argv.js';
import { type Asked, errnoText, jsonValue, type LsStyle, lsLine, type Shown } from '../../cli/xenstore-text.js';
import { type Answer, answer, jsonReport, type Outcome, put, unlessRefused, XenstoreTool } from '../../cli/xenstore-tool.js';
import { textOf, type Xs } from '../../xenbus/xs-client.js';
import { formatPerm } from '../../xenbus/xs-wire.js';

/** Bytes that are printed at once: a reader who has seen enough must not wait for the whole store. */
const printedAtOnce = 16_384;

export default class XenstoreLs extends XenstoreTool {
  static override summary = 'Show a part of the store, or all of it';
  static override description =
    'Show what is below nodes of the store, or all of it, as xenstore-ls does: names with their values, indented by depth, long ones shortened to the line';
  static override examples = [
    '<%= config.bin %> xenstore ls',
    '<%= config.bin %> xenstore ls --flat --prefix /local/domain/1',
    "<%= config.bin %> xenstore ls --json /local/domain/1 | jq -r '.[].path'",
  ];
  static override flags = {
    flat: Flags.boolean({ char: 'f', description: 'print full paths, and whole values unless to a terminal' }),
    prefix: Flags.boolean({ char: 'p', description: 'print the permissions too' }),
    json: Flags.boolean({ description: 'print JSON, with whole values; one that is no UTF-8 is in base64' }),
  };
  static override xl: XlLayout = { usage: '[options] [<Path>]...', getopt: 'own' };

  override readonly tool = 'ls';

  protected override async work(xs: Xs, { operands, flat, prefix, json }: Asked): Promise<Outcome> {
    const style: LsStyle = { flat, prefix, columns: process.stdout.isTTY ? process.stdout.columns : undefined };
    const report: unknown[] = [];
    let text = '';
    const show = (node: Shown): void => {
      if (json) {
        report.push(jsonOf(node));
        return;
      }
      text += lsLine(node, style);
      if (text.length < printedAtOnce) return;
      put(process.stdout, text);
      text = '';
    };
    try {
      for (const path of operands.length > 0 ? operands : ['/']) {
        await this.#below(xs, path, await answer(xs.directory(path)), 0, prefix, show);
      }
    } catch (error) {
      // What was shown up to an error was shown.
      put(process.stdout, text);
      throw error;
    }
    return { stdout: json ? jsonReport(report) : text, exit: 0 };
  }

  async #below(
    xs: Xs,
    path: string,
    list: Answer<readonly string[]>,
    depth: number,
    withPerms: boolean,
    show: (node: Shown) => void,
  ): Promise<void> {
    if ('errno' in list) {
      // It went while its parent was shown.
      if (depth > 0 && list.errno === 'ENOENT') return;
      this.fail(`xs_directory (${path}): ${errnoText[list.errno]}`);
    }
    for (const name of list.found) {
      const child = path.endsWith('/') ? `${path}${name}` : `${path}/${name}`;
      const [value, perms, children] = await Promise.all([
        unlessRefused(xs.read(child)),
        withPerms ? answer(xs.getPerms(child)) : undefined,
        answer(xs.directory(child)),
      ]);
      if (perms && 'errno' in perms) this.complain(`\ncould not access permissions for ${name}: ${errnoText[perms.errno]}`);
      show({ path: child, name, depth, value, perms: perms && 'found' in perms ? perms.found : undefined });
      await this.#below(xs, child, children, depth + 1, withPerms, show);
    }
  }
}

function jsonOf({ path, value, perms }: Shown): unknown {
  return {
    path: textOf(path),
    ...(value === undefined ? { value: null } : jsonValue(value)),
    ...(perms ? { perms: perms.map(formatPerm) } : {}),
  };
}
