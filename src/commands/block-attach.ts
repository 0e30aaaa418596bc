import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byQualifier, checkDomain, operandsOf, orComplain, printDryRun } from '../cli/device-command.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { diskAttach } from '../libxl/attach.js';
import { parseDiskSpec } from '../libxl/disk-spec.js';
import { diskToJson } from '../libxl/json.js';

export default class BlockAttach extends XlCommand {
  static override summary = 'Create a new virtual block device';
  static override examples = ['<%= config.bin %> block-attach web phy:/dev/vg/data,xvdb,w'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    spec: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'the disk, as in a config' }),
  };
  static override flags = {
    dryrun: Flags.boolean({ hidden: true, default: false, description: 'print the disk and stop' }),
  };
  static override xl: XlLayout = { usage: '<Domain> <disk-spec-component(s)>...', modifies: true };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(BlockAttach);
    const [domain = '', ...words] = operandsOf(raw);
    if (flags.dryrun) {
      await checkDomain(this, flags, domain, byQualifier);
      return printDryRun('disk', diskToJson(disk(words)));
    }
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await byQualifier(ctx, domain);
      await orComplain(diskAttach(ctx, domid, disk(words)), 'libxl_device_disk_add failed.', 1);
    });
  }
}

function disk(words: readonly string[]) {
  const parsed = parseDiskSpec(words, 'command line');
  if ('errors' in parsed) throw new XlFailure(1, parsed.errors.join('\n'));
  return parsed.disk;
}
