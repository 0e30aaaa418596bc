/** oclif's side of the commands: their base class, and running one by its id. */
import { fileURLToPath } from 'node:url';
import { Command } from '@oclif/core/command';
import { Config } from '@oclif/core/config';
import * as Flags from '@oclif/core/flags';
import { settings } from '@oclif/core/settings';
import { parseTimeoutScale, type XlLayout } from './argv.js';
import { asFailure } from './session.js';

settings.enableAutoTranspile = false;

/** What the argv layer reads of the commands, beside the bundle that this is in. */
export const tableFile = new URL('./table.json', import.meta.url);

/** Every command of ours: oclif's class with xl's way of ending. */
export abstract class XlCommand extends Command {
  /** Where xl's text or habits are fixed; see argv.ts. */
  static xl?: XlLayout;

  static override baseFlags = {
    verbosity: Flags.integer({ hidden: true, default: 0, description: 'how many -v were given' }),
    timestamps: Flags.boolean({ hidden: true, default: false, description: 'whether -T was given' }),
  };

  /** `mtwatch list`. */
  get spokenId(): string {
    return (this.id ?? '').replaceAll(':', ' ');
  }

  /** xl reads its own configuration before any command, and ends there when it cannot be parsed. */
  protected override async init(): Promise<void> {
    await super.init();
    if (!process.env['XEN_CONFIG_DIR']) return;
    const { readGlobalConfig } = await import('./xl-conf.js');
    await readGlobalConfig(process.env);
  }

  /** A refusal or a failed operation ends with its exit code and without a stack; anything else is a bug and has one. */
  protected override async catch(error: Error): Promise<void> {
    const failure = asFailure(error);
    if (!failure) throw error;
    if (failure.message) process.stderr.write(`${failure.message}\n`);
    process.exitCode = failure.exit;
  }
}

/** oclif's configuration without a search for plugins: the argv layer has found the command already. */
class PlainConfig extends Config {
  override bin = 'xl';

  override async runHook(): Promise<{ successes: []; failures: [] }> {
    return { successes: [], failures: [] };
  }
}

/** A module under commands/. */
interface CommandModule {
  readonly default: new (argv: string[], config: Config) => { _run(): Promise<unknown> } & { id?: string };
}

/** Runs the command with that id, which `load` brings. Answers with the exit code. A bad environment is refused first. */
export async function runCommand(id: string, load: () => Promise<CommandModule>, argv: readonly string[]): Promise<number> {
  const scale = parseTimeoutScale(process.env['XL_TIMEOUT_SCALE']);
  if (typeof scale === 'string') {
    process.stderr.write(`xl: ${scale}\n`);
    return 1;
  }
  const { default: Given } = await load();
  const root = fileURLToPath(new URL('..', import.meta.url));
  const command = new Given([...argv], new PlainConfig({ root }));
  command.id = id;
  await command._run();
  return typeof process.exitCode === 'number' ? process.exitCode : 0;
}
