import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { operandsOf, orComplain } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { usbctrlAttach } from '../libxl/attach.js';
import { parseUsbctrlWords } from '../libxl/device-words.js';

export default class UsbctrlAttach extends XlCommand {
  static override summary = 'Create a virtual USB controller for a domain';
  static override examples = ['<%= config.bin %> usbctrl-attach web type=pv version=2 ports=4'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    spec: Args.string({ multiple: true, ignoreStdin: true, description: 'type=..., version=..., ports=...' }),
  };
  static override xl: XlLayout = {
    notModelled: 'a back end: libxl gives up after ten seconds, as on a host that has none',
    usage: '<Domain> [type=pv] [version=<version>] [ports=<number>]',
    modifies: true,
  };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(UsbctrlAttach);
    const [domain = '', ...words] = operandsOf(raw);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, domain);
      const parsed = parseUsbctrlWords(words);
      if ('complaint' in parsed) throw new XlFailure(parsed.exit, parsed.complaint);
      await orComplain(usbctrlAttach(ctx, domid, parsed.device), 'libxl_device_usbctrl_add failed.', 1);
    });
  }
}
