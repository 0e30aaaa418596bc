import * as Flags from '@oclif/core/flags';
import { printJson, withDom0 } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';
import type { Hold } from '../../xenbus/privcmd.js';

export default class XwstallList extends XlCommand {
  static override summary = 'List held devices';
  static override description = 'List held devices, and whether a thread is stuck in one now';
  static override examples = ['<%= config.bin %> xwstall list', '<%= config.bin %> xwstall list --json'];
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };

  async run(): Promise<void> {
    const { flags } = await this.parse(XwstallList);
    const holds = await withDom0(this, (xc) => xc.call('dom0.holds', {}));
    if (flags.json) return printJson(holds);
    process.stdout.write(`Device           Mode     Stalled\n${holds.map(holdLine).join('')}`);
  }
}

export function holdLine({ device, mode, stalled }: Hold): string {
  return `${device.padEnd(16)} ${mode.padEnd(8)} ${stalled ? 'yes' : 'no'}\n`;
}
