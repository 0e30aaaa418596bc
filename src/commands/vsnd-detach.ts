import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { orComplain } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { deviceRemove } from '../libxl/device.js';
import { deviceOf, listVsnds } from '../libxl/device-list.js';
import { atoi } from '../libxl/strtol.js';

export default class VsndDetach extends XlCommand {
  static override summary = "Destroy a domain's virtual sound device";
  static override examples = ['<%= config.bin %> vsnd-detach web 0'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    device: Args.string({ required: true, ignoreStdin: true, description: 'devid' }),
  };
  static override xl: XlLayout = { usage: '<Domain> <DevId>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(VsndDetach);
    const devid = atoi(args.device);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const found = (await listVsnds(ctx, domid))?.find((card) => card.devid === devid);
      if (!found) throw new XlFailure(253, `Error: Device ${devid} not connected.`);
      const device = deviceOf(domid, 'vsnd', found);
      await orComplain(deviceRemove(ctx, device, 'auto'), 'libxl_device_vsnd_remove failed.', 253);
    });
  }
}
