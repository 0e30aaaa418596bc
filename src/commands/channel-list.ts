import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byFindDomain, left, operandsOf, printListing } from '../cli/device-command.js';
import { XlCommand } from '../cli/xl-command.js';
import { type ListedChannel, listChannels } from '../libxl/device-list.js';

export default class ChannelList extends XlCommand {
  static override summary = 'List virtual channel devices for a domain';
  static override examples = ['<%= config.bin %> channel-list web', '<%= config.bin %> channel-list --json web'];
  static override args = {
    domains: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'names or domids' }),
  };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { usage: '<Domain(s)>', options: '' };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(ChannelList);
    await printListing(this, flags, operandsOf(raw), {
      header: `Idx BE state evt-ch ring-ref connection ${' '.repeat(30)}`,
      lookup: byFindDomain,
      rows: listChannels,
      text: channelRow,
    });
  }
}

function channelRow({ devid, backendDomid, state, evtch, rref, connection, path }: ListedChannel): string {
  const numbers = `${left(devid, 3)} ${left(backendDomid, 2)} ${left(state, 5)} ${left(evtch, 6)} ${left(rref, 8)}`;
  return `${numbers} ${left(connection, 10)} ${connection === 'pty' ? `${left(path, 30)} ` : ''}\n`;
}
