import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../../cli/argv.js';
import type { Asked } from '../../cli/xenstore-text.js';
import { answer, type Outcome, put, XenstoreTool } from '../../cli/xenstore-tool.js';
import { byteString, textOf, type Xs } from '../../xenbus/xs-client.js';

export default class XenstoreWatch extends XenstoreTool {
  static override summary = 'Print the paths that change';
  static override description =
    'Print the path of every change at or below nodes of the store, as xenstore-watch does: a line each, at once, beginning with the nodes themselves. It ends after --number of them, or by Ctrl-C.';
  static override examples = [
    '<%= config.bin %> xenstore watch /local/domain/1',
    '<%= config.bin %> xenstore watch --number=3 /local/domain/0/backend',
    '<%= config.bin %> xenstore watch --json @introduceDomain @releaseDomain',
  ];
  static override flags = {
    number: Flags.string({ char: 'n', helpValue: 'NR', description: 'end after so many events' }),
    json: Flags.boolean({ description: 'print a line of JSON for each event: its path and that of the watch' }),
  };
  static override xl: XlLayout = { usage: '[options] <Path>...', getopt: 'own' };

  override readonly tool = 'watch';

  protected override async work(xs: Xs, { operands, number, json }: Asked): Promise<Outcome> {
    const line = (path: string, watch: string): string =>
      json ? byteString(`${JSON.stringify({ path: textOf(path), watch: textOf(watch) })}\n`) : `${path}\n`;
    // Nothing is printed before all watches are set.
    let waiting: string[] | undefined = [];
    let printed = 0;
    let finish: (outcome: Outcome) => void = () => undefined;
    const finished = new Promise<Outcome>((resolve) => {
      finish = resolve;
    });
    const print = (text: string): void => {
      if (printed === number) return;
      put(process.stdout, text);
      printed += 1;
      if (printed === number) finish({ stdout: '', exit: 0 });
    };
    const tokens = new Set<string>();
    for (const path of operands) {
      // The path is the token, so the same one again is a watch that is there already.
      const set =
        !tokens.has(path) &&
        'found' in
          (await answer(
            xs.watch(
              path,
              (changed) => {
                const text = line(changed, path);
                if (waiting) waiting.push(text);
                else print(text);
              },
              path,
            ),
          ));
      if (!set) this.fail(`Unable to add watch on ${path}\n`);
      tokens.add(path);
    }
    if (number !== -1 && number <= 0) return { stdout: '', exit: 0 };
    const early = waiting;
    waiting = undefined;
    for (const text of early) print(text);
    return finished;
  }
}
