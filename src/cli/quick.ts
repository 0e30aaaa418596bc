/**
 * The commands that scripts call in loops, without oclif: the argv layer has read their words already, and oclif would
 * take longer to load than they take to run. Their classes under commands/ say what words there are, and do the same.
 *
 * What is rare is left to those classes: no dom0 that runs, another store, an xl.conf, a listing of whole configurations.
 */
import { domid, domidOf, domname } from './quick/domid.js';
import { list } from './quick/list.js';
import { ownRows, printRows } from './quick/mtwatch-list.js';
import { asFailure, type Globals, timeoutScaleOf, withRunning } from './session.js';

/** A command's words as the argv layer hands them on: `--flag`, `--flag=value`, `--` and the operands. */
interface Words extends Globals {
  readonly operands: readonly string[];
  has(flag: string): boolean;
}

/** Each answers whether it was done. */
const commands: Readonly<Record<string, (words: Words) => Promise<boolean>>> = {
  domid: (words) => withRunning(words, (session) => domid(session, words.operands[0] ?? '')),
  domname: (words) => {
    const asked = domidOf(words.operands[0] ?? '');
    return withRunning(words, (session) => domname(session, asked));
  },
  list: async (words) => {
    const { operands, has } = words;
    if (has('long')) return false;
    const columns = { verbose: has('verbose'), context: has('context'), cpupool: has('cpupool'), numa: has('numa') };
    const asked = { domain: operands[0], long: false, json: has('json'), ...columns };
    return withRunning(words, (session) => list(session, asked));
  },
  'mtwatch:list': (words) => withRunning(words, async (session) => printRows(await ownRows(session), words.has('json'))),
};

/** Runs the command if it is one of these. Answers with its exit code; undefined: nothing was done, and oclif is to do it. */
export async function runQuick(id: string, argv: readonly string[]): Promise<number | undefined> {
  const command = Object.hasOwn(commands, id) ? commands[id] : undefined;
  if (!command || process.env['XEN_CONFIG_DIR']) return undefined;
  try {
    timeoutScaleOf(process.env);
    return (await command(read(argv))) ? 0 : undefined;
  } catch (error) {
    const failure = error instanceof Error ? asFailure(error) : undefined;
    if (!failure) throw error;
    if (failure.message) process.stderr.write(`${failure.message}\n`);
    return failure.exit;
  }
}

function read(argv: readonly string[]): Words {
  const end = argv.indexOf('--');
  const flags = new Map(
    argv.slice(0, end).map((word) => {
      const [name = '', value = ''] = word.slice(2).split(/=(.*)/s);
      return [name, value];
    }),
  );
  return {
    verbosity: Number(flags.get('verbosity') ?? 0),
    timestamps: flags.has('timestamps'),
    operands: argv.slice(end + 1),
    has: (flag) => flags.has(flag),
  };
}
