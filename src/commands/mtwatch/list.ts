import * as Flags from '@oclif/core/flags';
import { foreignRows, ownRows, printRows } from '../../cli/quick/mtwatch-list.js';
import { foreignStore, runDirOf, withForeignStore, withSession } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';

export default class MtwatchList extends XlCommand {
  static override summary = "List dom0's xenwatch threads";
  static override description =
    "List dom0's xenwatch threads: whose they are, what waits for them and what they run. A node whose domain is gone is marked as an orphan.";
  static override examples = ['<%= config.bin %> mtwatch list', '<%= config.bin %> mtwatch list --json'];
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };

  async run(): Promise<void> {
    const { flags } = await this.parse(MtwatchList);
    const foreign = foreignStore(process.env, runDirOf(process.env));
    const rows =
      foreign === undefined ? await withSession(this, flags, ownRows) : await withForeignStore(this, foreign, flags, foreignRows);
    await printRows(rows, flags.json);
  }
}
