import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { orComplain } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { type Device, deviceRemove } from '../libxl/device.js';
import { findNic, findNicByMac } from '../libxl/device-list.js';
import { atoi } from '../libxl/strtol.js';

export default class NetworkDetach extends XlCommand {
  static override summary = "Destroy a domain's virtual network device";
  static override examples = ['<%= config.bin %> network-detach web 1', '<%= config.bin %> network-detach web 00:16:3e:00:00:02'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    device: Args.string({ required: true, ignoreStdin: true, description: 'devid or MAC address' }),
  };
  static override xl: XlLayout = { usage: '<Domain> <DevId|mac>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(NetworkDetach);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const byMac = args.device.includes(':');
      const nic = await (byMac ? findNicByMac(ctx, domid, args.device) : findNic(ctx, domid, atoi(args.device)));
      if (!nic) throw new XlFailure(1, `Unknown device ${args.device}.`);
      const { devid, backendDomid } = nic;
      const device: Device = { domid, devid, kind: 'vif', backendDomid, backendKind: 'vif' };
      await orComplain(deviceRemove(ctx, device, 'auto'), 'libxl_device_nic_del failed.', 1);
    });
  }
}
