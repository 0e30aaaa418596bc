import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { orComplain } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { deviceRemove } from '../libxl/device.js';
import { deviceOf, listVtpms, parseUuid } from '../libxl/device-list.js';
import { atoi } from '../libxl/strtol.js';

export default class VtpmDetach extends XlCommand {
  static override summary = "Destroy a domain's virtual TPM device";
  static override examples = ['<%= config.bin %> vtpm-detach web 0'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    device: Args.string({ required: true, ignoreStdin: true, description: 'devid or uuid' }),
  };
  static override xl: XlLayout = { usage: '<Domain> <DevId|uuid>', modifies: true };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(VtpmDetach);
    const uuid = parseUuid(args.device);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const vtpms = (await listVtpms(ctx, domid)) ?? [];
      const found = vtpms.find((vtpm) => (uuid === undefined ? vtpm.devid === atoi(args.device) : vtpm.uuid === uuid));
      if (!found) throw new XlFailure(1, `Unknown device ${args.device}.`);
      await orComplain(deviceRemove(ctx, deviceOf(domid, 'vtpm', found), 'auto'), 'libxl_device_vtpm_remove failed.');
    });
  }
}
