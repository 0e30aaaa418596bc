import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { orComplain } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { deviceRemove } from '../libxl/device.js';
import { findDisk, listedDiskDevice } from '../libxl/device-list.js';

export default class BlockDetach extends XlCommand {
  static override summary = "Destroy a domain's virtual block device";
  static override examples = ['<%= config.bin %> block-detach web xvdb', '<%= config.bin %> block-detach --force web xvdb'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    device: Args.string({ required: true, ignoreStdin: true, description: 'vdev or devid' }),
  };
  static override flags = {
    force: Flags.boolean({ char: 'f', default: false, description: 'take it away even if the domain does not let go' }),
  };
  static override xl: XlLayout = {
    usage: '[option] <Domain> <DevId>',
    modifies: true,
    options: '-f, --force        take it away even if the domain does not let go of it',
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(BlockDetach);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const disk = await findDisk(ctx, domid, args.device);
      if (!disk) throw new XlFailure(1, `Error: Device ${args.device} not connected.`);
      if (disk.specification === 'virtio') throw new XlFailure(1, "Hotunplug isn't supported for specification virtio");
      const removal = deviceRemove(ctx, listedDiskDevice(domid, disk), flags.force ? 'on' : 'off');
      await orComplain(removal, `libxl_device_disk_${flags.force ? 'destroy' : 'safe_remove'} failed.`, 1);
    });
  }
}
