import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byFindDomain, checkDomain, operandsOf, orComplain, printDryRun } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { vkbAttach } from '../libxl/attach.js';
import { parseVkbWords, vkbJson } from '../libxl/device-words.js';

export default class VkbAttach extends XlCommand {
  static override summary = 'Create a new virtual keyboard device';
  static override examples = ['<%= config.bin %> vkb-attach web backend-type=linux unique-id=keys'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    spec: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'key=value, as in a config' }),
  };
  static override flags = {
    dryrun: Flags.boolean({ hidden: true, default: false, description: 'print the keyboard and stop' }),
  };
  static override xl: XlLayout = {
    notModelled: 'a back end: the nodes are written, and nobody answers',
    usage: '<Domain> <vkb-spec-component(s)>...',
    modifies: true,
  };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(VkbAttach);
    const [domain = '', ...words] = operandsOf(raw);
    if (flags.dryrun) {
      await checkDomain(this, flags, domain, byFindDomain);
      return printDryRun('vkb', vkbJson(vkb(words)));
    }
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, domain);
      await orComplain(vkbAttach(ctx, domid, vkb(words)), 'libxl_device_vkb_add failed.', 253);
    });
  }
}

function vkb(words: readonly string[]) {
  const parsed = parseVkbWords(words);
  if ('complaint' in parsed) throw new XlFailure(parsed.exit, parsed.complaint);
  return parsed.device;
}
