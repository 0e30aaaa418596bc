import * as Flags from '@oclif/core/flags';
import { withDom0, XlCommand } from '../../xl.js';

export default class Dom0Dmesg extends XlCommand {
  static override summary = "Print the log of dom0's kernel";
  static override description = "Print the log of dom0's kernel: what its drivers said, hung tasks, oopses";
  static override examples = ['<%= config.bin %> dom0 dmesg', '<%= config.bin %> dom0 dmesg --clear'];
  static override flags = { clear: Flags.boolean({ char: 'c', default: false, description: 'empty the log after printing it' }) };

  async run(): Promise<void> {
    const { flags } = await this.parse(Dom0Dmesg);
    const { lines } = await withDom0(this, (xc) => xc.call('dom0.dmesg', { clear: flags.clear }));
    process.stdout.write(lines.map((line) => `${line}\n`).join(''));
  }
}
