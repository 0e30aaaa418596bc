import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byFindDomain, checkDomain, operandsOf, orComplain, printDryRun } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { vdisplAttach } from '../libxl/attach.js';
import { parseVdisplWords, vdisplJson } from '../libxl/device-words.js';

export default class VdisplAttach extends XlCommand {
  static override summary = 'Create a new virtual display device';
  static override examples = ["<%= config.bin %> vdispl-attach web connectors='id0:800x600;id1:1024x768'"];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    spec: Args.string({ multiple: true, ignoreStdin: true, description: 'key=value, as in a config' }),
  };
  static override flags = {
    dryrun: Flags.boolean({ hidden: true, default: false, description: 'print the display and stop' }),
  };
  static override xl: XlLayout = {
    notModelled: 'a back end: libxl gives up after ten seconds, as on a host that has none',
    usage: "<Domain> [backend=<BackDomain>] [be-alloc=<BackAlloc>] [connectors='<Connectors>']",
    modifies: true,
    options: `    BackAlloc  - 1: the backend has the buffers of the display
    Connectors - ID:WxH of each connector, parted by semicolons:
                 its name, and its width and height in pixels, as in
                 connectors='id0:800x600;id1:1024x768'
`,
  };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(VdisplAttach);
    const [domain = '', ...words] = operandsOf(raw);
    if (flags.dryrun) {
      await checkDomain(this, flags, domain, byFindDomain);
      return printDryRun('vdispl', vdisplJson(vdispl(words)));
    }
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, domain);
      await orComplain(vdisplAttach(ctx, domid, vdispl(words)), 'libxl_device_vdispl_add failed.', 253);
    });
  }
}

function vdispl(words: readonly string[]) {
  const parsed = parseVdisplWords(words);
  if ('complaint' in parsed) throw new XlFailure(parsed.exit, parsed.complaint);
  for (const line of parsed.said ?? []) process.stderr.write(`${line}\n`);
  return parsed.device;
}
