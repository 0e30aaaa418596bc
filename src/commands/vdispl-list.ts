import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byQualifier, operandsOf, printListing } from '../cli/device-command.js';
import { XlCommand } from '../cli/xl-command.js';
import type { Ctx } from '../libxl/ctx.js';
import { listVdispls, type VdisplInfo, vdisplInfo } from '../libxl/device-list.js';

export default class VdisplList extends XlCommand {
  static override summary = 'List virtual display devices for a domain';
  static override examples = ['<%= config.bin %> vdispl-list web', '<%= config.bin %> vdispl-list --json web'];
  static override args = {
    domains: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'names or domids' }),
  };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { usage: '<Domain(s)>', options: '' };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(VdisplList);
    await printListing(this, flags, operandsOf(raw), { lookup: byQualifier, rows: vdisplRows, text: vdisplText });
  }
}

interface Row extends VdisplInfo {
  readonly frontendDomid: number;
}

async function vdisplRows(ctx: Ctx, domid: number): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const vdispl of (await listVdispls(ctx, domid)) ?? []) {
    const info = await vdisplInfo(ctx, domid, vdispl);
    if (info) rows.push({ ...info, frontendDomid: domid });
  }
  return rows;
}

function vdisplText({ devid, backendDomid, frontendDomid, state, beAlloc, backend, frontend, connectors }: Row): string {
  const what = `DevId: ${devid}, BE: ${backendDomid}, handle: ${frontendDomid}, state: ${state}, be-alloc: ${beAlloc}`;
  const lines = connectors.map((connector, index) => {
    const { uniqueId, width, height, reqRref, reqEvtch, evtRref, evtEvtch } = connector;
    const rings = `req-rref: ${reqRref}, req-evtch: ${reqEvtch}, evt-rref: ${evtRref}, evt-evtch: ${evtEvtch}`;
    return `\tConnector: ${index}, id: ${uniqueId}, width: ${width}, height: ${height}, ${rings}\n`;
  });
  return `${what}, BE-path: ${backend}, FE-path: ${frontend}\n${lines.join('')}`;
}
