import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { withDom0, XlCommand } from '../../xl.js';

export default class XwstallHold extends XlCommand {
  static override summary = 'Hold a device, so that the watch callback that ends it hangs';
  static override description =
    'Hold a device, so that whichever xenwatch thread takes it down (or brings it up) waits until `xl xwstall flush`. Of vif1.0 a packet stays in flight; of vbd-1-51712 a request, or what an option says';
  static override examples = ['<%= config.bin %> xwstall hold vif1.0', '<%= config.bin %> xwstall hold vbd-1-51712 --connect'];
  static override args = {
    device: Args.string({ required: true, ignoreStdin: true, description: 'vifDOMID.DEVID or vbd-DOMID-DEVID' }),
  };
  static override flags = {
    connect: Flags.boolean({
      description: 'hang when the device connects, not when it ends',
      exclusive: ['io', 'grants', 'bio'],
    }),
    io: Flags.boolean({ description: 'a request never gets into the block layer (what a vbd does without an option)' }),
    grants: Flags.boolean({ description: 'pages that the guest granted for good stay in use', exclusive: ['io', 'bio'] }),
    bio: Flags.boolean({ description: 'a request never ends: nobody hangs, the domain remains', exclusive: ['io'] }),
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(XwstallHold);
    const mode = (['connect', 'io', 'grants', 'bio'] as const).find((name) => flags[name]) ?? 'inflight';
    await withDom0(this, (xc) => xc.call('dom0.hold', { device: args.device, mode }));
  }
}
