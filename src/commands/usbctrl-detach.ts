import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { orComplain } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { deviceRemove } from '../libxl/device.js';
import { findUsbctrl, usbctrlDevice } from '../libxl/device-list.js';
import { atoi } from '../libxl/strtol.js';

export default class UsbctrlDetach extends XlCommand {
  static override summary = 'Remove the virtual USB controller specified by <DevId> for a domain';
  static override examples = ['<%= config.bin %> usbctrl-detach web 0'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    device: Args.string({ required: true, ignoreStdin: true, description: 'devid' }),
  };
  static override xl: XlLayout = { usage: '<Domain> <DevId>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(UsbctrlDetach);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const usbctrl = await findUsbctrl(ctx, domid, atoi(args.device));
      if (!usbctrl) throw new XlFailure(1, `Unknown device ${args.device}.`);
      // Its ports are empty: no device of this host can be assigned to one.
      const removal = deviceRemove(ctx, usbctrlDevice(domid, usbctrl), 'auto');
      await orComplain(removal, 'libxl_device_usbctrl_remove failed.', 1);
    });
  }
}
