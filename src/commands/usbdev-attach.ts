import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { operandsOf, orComplain } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { usbdevAttach } from '../libxl/attach.js';
import { parseUsbdevWords } from '../libxl/device-words.js';

export default class UsbdevAttach extends XlCommand {
  static override summary = 'Attach a USB device to a domain';
  static override examples = ['<%= config.bin %> usbdev-attach web hostbus=1 hostaddr=2'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    spec: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'key=value' }),
  };
  static override xl: XlLayout = {
    notModelled: 'USB devices of the host: there are none',
    usage: '<Domain> hostbus=<busnum> hostaddr=<devnum> [controller=<DevId> [port=<port>]]',
    modifies: true,
  };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(UsbdevAttach);
    const [domain = '', ...words] = operandsOf(raw);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, domain);
      const parsed = parseUsbdevWords(words);
      if ('complaint' in parsed) throw new XlFailure(parsed.exit, parsed.complaint);
      await orComplain(usbdevAttach(ctx, domid, parsed.device), 'libxl_device_usbdev_add failed.', 1);
    });
  }
}
