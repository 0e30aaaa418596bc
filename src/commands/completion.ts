import { readFileSync } from 'node:fs';
import * as Args from '@oclif/core/args';
import type { Table } from '../cli/argv.js';
import { completionScript, shells } from '../cli/completion.js';
import { XlFailure } from '../cli/session.js';
import { tableFile, XlCommand } from '../cli/xl-command.js';

export default class Completion extends XlCommand {
  static override summary = 'Print a completion script for a shell';
  static override description =
    'Print a script that teaches a shell the commands, their options, and the names of the domains that there are.';
  static override examples = ['eval "$(<%= config.bin %> completion bash)"', '<%= config.bin %> completion fish | source'];
  static override args = {
    shell: Args.string({ required: true, ignoreStdin: true, description: 'bash, zsh or fish' }),
  };

  async run(): Promise<void> {
    const { args } = await this.parse(Completion);
    const shell = shells.find((name) => name === args.shell);
    if (!shell) throw new XlFailure(2, `xl: no completion for ${args.shell}; there is one for ${shells.join(', ')}`);
    const table = JSON.parse(readFileSync(tableFile, 'utf8')) as Table;
    process.stdout.write(completionScript(shell, table));
  }
}
