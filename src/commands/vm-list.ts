import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { printJson, withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { domidToName, listDomains } from '../libxl/domain.js';
import { byteString } from '../xenbus/xs-client.js';

interface Vm {
  readonly uuid: string;
  readonly domid: number;
  readonly name: string | null;
}

export default class VmList extends XlCommand {
  static override summary = 'List guest domains, excluding dom0, stubdoms, etc.';
  static override examples = ['<%= config.bin %> vm-list', '<%= config.bin %> vm-list --json'];
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { usage: '', options: '' };

  async run(): Promise<void> {
    const { flags } = await this.parse(VmList);
    await withSession(this, flags, async ({ ctx }) => {
      const vms: Vm[] = [];
      for (const { uuid, domid } of await listDomains(ctx)) {
        vms.push({ uuid, domid, name: (await domidToName(ctx, domid)) ?? null });
      }
      if (flags.json) printJson(vms);
      else process.stdout.write(vmTable(vms));
    });
  }
}

/** Domain 0 is among them, whatever the summary says. */
export function vmTable(vms: readonly Vm[]): string {
  const rows = vms.map(({ uuid, domid, name }) => {
    const text = name ?? '(null)';
    return `${uuid}  ${domid}    ${text}${' '.repeat(Math.max(0, 30 - byteString(text).length))}\n`;
  });
  return `UUID                                  ID    name\n${rows.join('')}`;
}
