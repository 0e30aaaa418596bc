import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byQualifier, left, operandsOf, printListing } from '../cli/device-command.js';
import { XlCommand } from '../cli/xl-command.js';
import type { Ctx } from '../libxl/ctx.js';
import { type DiskInfo, diskInfo, listDisks } from '../libxl/device-list.js';

export default class BlockList extends XlCommand {
  static override summary = 'List virtual block devices for a domain';
  static override examples = ['<%= config.bin %> block-list web', '<%= config.bin %> block-list --json web'];
  static override args = {
    domains: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'names or domids' }),
  };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { usage: '<Domain(s)>', options: '' };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(BlockList);
    await printListing(this, flags, operandsOf(raw), {
      header: 'Vdev  BE  handle state evt-ch ring-ref BE-path                       ',
      lookup: byQualifier,
      rows: diskRows,
      text: diskRow,
    });
  }
}

interface Row extends DiskInfo {
  readonly frontendDomid: number;
}

async function diskRows(ctx: Ctx, domid: number): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const disk of (await listDisks(ctx, domid)) ?? []) {
    const info = await diskInfo(ctx, domid, disk);
    if (info) rows.push({ ...info, frontendDomid: domid });
  }
  return rows;
}

/** A row of the table. What xl calls handle is the guest's domid. */
function diskRow({ devid, backendDomid, frontendDomid, state, evtch, rref, backend }: Row): string {
  const numbers = `${left(devid, 5)} ${left(backendDomid, 3)} ${left(frontendDomid, 6)} ${left(state, 5)}`;
  return `${numbers} ${left(evtch, 6)} ${left(rref, 8)} ${left(backend, 30)}\n`;
}
