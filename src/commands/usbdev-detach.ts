import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { operandsOf } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { atoi } from '../libxl/strtol.js';

export default class UsbdevDetach extends XlCommand {
  static override summary = 'Detach a USB device from a domain';
  static override examples = ['<%= config.bin %> usbdev-detach web 0 1'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    controller: Args.string({ required: true, ignoreStdin: true, description: 'devid of the controller' }),
    port: Args.string({ required: true, ignoreStdin: true, description: 'port of the device' }),
    surplus: Args.string({ multiple: true, hidden: true, ignoreStdin: true, description: 'refused' }),
  };
  static override xl: XlLayout = { usage: '<Domain> <controller> <port>', modifies: true };

  async run(): Promise<void> {
    const { raw, args, flags } = await this.parse(UsbdevDetach);
    await withSession(this, flags, async ({ ctx }) => {
      await findDomain(ctx, args.domain);
      if (operandsOf(raw).length > 3) throw new XlFailure(1, 'Invalid arguments.');
      // No device of this host can be assigned to a port, so there is none to be found at one.
      const [controller, port] = [atoi(args.controller), atoi(args.port)];
      throw new XlFailure(1, `Unknown device at controller ${controller} port ${port}.`);
    });
  }
}
