import * as Args from '@oclif/core/args';
import { withDom0 } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';
import { holdLine } from './list.js';

export default class XwstallFlush extends XlCommand {
  static override summary = 'Let go of held devices';
  static override description = 'Let go of one held device, or of all; what waited for it goes on. Prints what was let go';
  static override examples = ['<%= config.bin %> xwstall flush', '<%= config.bin %> xwstall flush vif1.0'];
  static override args = { device: Args.string({ ignoreStdin: true, description: 'as given to hold' }) };

  async run(): Promise<void> {
    const { args } = await this.parse(XwstallFlush);
    const { device } = args;
    const flushed = await withDom0(this, (xc) => xc.call('dom0.flush', device === undefined ? {} : { device }));
    for (const hold of flushed) process.stdout.write(holdLine(hold));
  }
}
