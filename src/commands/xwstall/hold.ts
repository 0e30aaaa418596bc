import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { withDom0, XlCommand } from '../../xl.js';

export default class XwstallHold extends XlCommand {
  static override summary = 'Hold a device, so that the watch callback that ends it hangs';
  static override description =
    'Hold a device: a packet of vif1.0 or a request of vbd-1-51712 stays in flight, and whichever xenwatch thread takes the device down waits for it until `xl xwstall flush`';
  static override examples = ['<%= config.bin %> xwstall hold vif1.0', '<%= config.bin %> xwstall hold vbd-1-51712 --connect'];
  static override args = {
    device: Args.string({ required: true, ignoreStdin: true, description: 'vifDOMID.DEVID or vbd-DOMID-DEVID' }),
  };
  static override flags = {
    connect: Flags.boolean({ default: false, description: 'hang when the device connects, not when it ends' }),
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(XwstallHold);
    const mode = flags.connect ? 'connect' : 'inflight';
    await withDom0(this, (xc) => xc.call('dom0.hold', { device: args.device, mode }));
  }
}
