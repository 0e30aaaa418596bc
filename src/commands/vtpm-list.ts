import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byQualifier, left, operandsOf, printListing, right } from '../cli/device-command.js';
import { XlCommand } from '../cli/xl-command.js';
import type { Ctx } from '../libxl/ctx.js';
import { listVtpms, type VtpmInfo, vtpmInfo } from '../libxl/device-list.js';

export default class VtpmList extends XlCommand {
  static override summary = 'List virtual TPM devices for a domain';
  static override examples = ['<%= config.bin %> vtpm-list web', '<%= config.bin %> vtpm-list --json web'];
  static override args = {
    domains: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'names or domids' }),
  };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { usage: '<Domain(s)>', options: '' };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(VtpmList);
    await printListing(this, flags, operandsOf(raw), {
      header: 'Idx BE Uuid                                 handle state evt-ch ring-ref BE-path   ',
      lookup: byQualifier,
      rows: vtpmRows,
      text: vtpmRow,
    });
  }
}

async function vtpmRows(ctx: Ctx, domid: number): Promise<readonly VtpmInfo[]> {
  const rows: VtpmInfo[] = [];
  for (const vtpm of (await listVtpms(ctx, domid)) ?? []) {
    const info = await vtpmInfo(ctx, domid, vtpm);
    if (info) rows.push(info);
  }
  return rows;
}

function vtpmRow({ devid, backendDomid, uuid, state, evtch, rref, backend }: VtpmInfo): string {
  const head = `${left(devid, 3)} ${left(backendDomid, 2)} ${uuid} ${right(devid, 6)} ${right(state, 5)} ${right(evtch, 6)}`;
  return `${head} ${right(rref, 8)} ${left(backend, 30)}\n`;
}
