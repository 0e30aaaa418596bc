import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { withDom0, XlFailure } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';

const modes = ['connect', 'io', 'grants', 'bio'] as const;

export default class XwstallHold extends XlCommand {
  static override summary = 'Hold a device, so that the watch callback that ends it hangs';
  static override description =
    'Hold a device, so that whichever xenwatch thread takes it down (or brings it up) waits until `xl xwstall flush`. Of vif1.0 a packet stays in flight; of vbd-1-51712 a request, or what an option says';
  static override examples = [
    '<%= config.bin %> xwstall hold vif1.0',
    '<%= config.bin %> xwstall hold vbd-1-51712 --connect',
    '<%= config.bin %> xwstall hold vbd-1-51712 --grants',
  ];
  static override args = {
    device: Args.string({ required: true, ignoreStdin: true, description: 'vifDOMID.DEVID or vbd-DOMID-DEVID' }),
  };
  static override flags = {
    connect: Flags.boolean({ default: false, description: 'hang when the device connects, not when it ends' }),
    io: Flags.boolean({ default: false, description: 'a request never gets into the block layer (default of a vbd)' }),
    grants: Flags.boolean({ default: false, description: 'pages that the guest granted for good stay in use' }),
    bio: Flags.boolean({ default: false, description: 'a request never ends: nobody hangs, its domain remains' }),
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(XwstallHold);
    const [mode = 'inflight', second] = modes.filter((name) => flags[name]);
    if (second !== undefined) throw new XlFailure(2, `xl: --${mode} and --${second}: a device is held in one way at a time`);
    await withDom0(this, (xc) => xc.call('dom0.hold', { device: args.device, mode }));
  }
}
