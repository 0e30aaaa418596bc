import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { left, operandsOf } from '../cli/device-command.js';
import { findDomain, printJson, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { type ListedUsbctrl, listUsbctrls, usbctrlState } from '../libxl/device-list.js';

export default class UsbList extends XlCommand {
  static override summary = 'List information about all USB controllers and devices for a domain';
  static override examples = ['<%= config.bin %> usb-list web', '<%= config.bin %> usb-list --json web'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    surplus: Args.string({ multiple: true, hidden: true, ignoreStdin: true, description: 'refused' }),
  };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { usage: '<Domain>', options: '' };

  async run(): Promise<void> {
    const { raw, args, flags } = await this.parse(UsbList);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      if (operandsOf(raw).length > 1) throw new XlFailure(255, 'Invalid arguments.');
      const rows: Row[] = [];
      for (const usbctrl of (await listUsbctrls(ctx, domid)) ?? []) {
        rows.push({ ...usbctrl, state: await usbctrlState(ctx, domid, usbctrl) });
      }
      if (flags.json) printJson(rows);
      else for (const row of rows) process.stdout.write(usbctrlText(row));
    });
  }
}

interface Row extends ListedUsbctrl {
  readonly state: number;
}

/** A controller under a header of its own, and its ports. Nothing of this host is ever in one. */
function usbctrlText({ devid, type, backendDomid, state, version, ports }: Row): string {
  const header = 'Devid  Type         BE  state usb-ver ports\n';
  const row = `${left(devid, 6)} ${left(type, 12)} ${left(backendDomid, 3)} ${left(state, 5)} ${left(version, 7)} ${left(ports, 5)}\n`;
  return header + row + Array.from({ length: Math.max(0, ports) }, (_, index) => `  Port ${index + 1}:\n`).join('');
}
