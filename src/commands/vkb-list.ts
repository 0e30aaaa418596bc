import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byFindDomain, left, operandsOf, printListing, right } from '../cli/device-command.js';
import { XlCommand } from '../cli/xl-command.js';
import type { Ctx } from '../libxl/ctx.js';
import { type ListedVkb, listVkbs, type RingInfo, ringInfo } from '../libxl/device-list.js';

export default class VkbList extends XlCommand {
  static override summary = 'List virtual keyboard devices for a domain';
  static override examples = ['<%= config.bin %> vkb-list web', '<%= config.bin %> vkb-list --json web'];
  static override args = {
    domains: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'names or domids' }),
  };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { usage: '<Domain(s)>', options: '' };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(VkbList);
    await printListing(this, flags, operandsOf(raw), {
      header: 'Idx BE handle state evt-ch    ref ID         BE-type    BE-path                       ',
      lookup: byFindDomain,
      rows: vkbRows,
      text: vkbRow,
    });
  }
}

type Row = RingInfo & Pick<ListedVkb, 'backendType' | 'uniqueId'>;

async function vkbRows(ctx: Ctx, domid: number): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const { devid, backendType, uniqueId } of (await listVkbs(ctx, domid)) ?? []) {
    const info = await ringInfo(ctx, domid, 'vkbd', devid, 'page-gref');
    if (info) rows.push({ ...info, backendType, uniqueId });
  }
  return rows;
}

function vkbRow({ devid, backendDomid, state, evtch, rref, uniqueId, backendType, backend }: Row): string {
  const numbers = `${left(devid, 3)} ${left(backendDomid, 2)} ${right(devid, 6)} ${right(state, 5)} ${right(evtch, 6)}`;
  return `${numbers} ${right(rref, 6)} ${left(uniqueId ?? '(null)', 10)} ${left(backendType, 10)} ${left(backend, 30)}\n`;
}
