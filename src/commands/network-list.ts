import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byFindDomain, left, operandsOf, printListing, right } from '../cli/device-command.js';
import { XlCommand } from '../cli/xl-command.js';
import type { Ctx } from '../libxl/ctx.js';
import { listNics, type NicInfo, nicInfo } from '../libxl/device-list.js';

export default class NetworkList extends XlCommand {
  static override summary = 'List virtual network interfaces for a domain';
  static override examples = ['<%= config.bin %> network-list web', '<%= config.bin %> network-list --json web'];
  static override args = {
    domains: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'names or domids' }),
  };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { usage: '<Domain(s)>', options: '' };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(NetworkList);
    await printListing(this, flags, operandsOf(raw), {
      header: 'Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref BE-path                       ',
      lookup: byFindDomain,
      rows: nicRows,
      text: nicRow,
    });
  }
}

interface Row extends NicInfo {
  readonly mac: string;
}

async function nicRows(ctx: Ctx, domid: number): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const nic of (await listNics(ctx, domid)) ?? []) {
    const info = await nicInfo(ctx, domid, nic);
    if (info) rows.push({ ...info, mac: nic.mac });
  }
  return rows;
}

function nicRow({ devid, backendDomid, mac, state, evtch, rrefTx, rrefRx, backend }: Row): string {
  const head = `${left(devid, 3)} ${left(backendDomid, 2)} ${mac}${right(devid, 6)} ${right(state, 5)} ${right(evtch, 6)}`;
  return `${head} ${right(rrefTx, 5)}/${left(rrefRx, 11)} ${left(backend, 30)}\n`;
}
