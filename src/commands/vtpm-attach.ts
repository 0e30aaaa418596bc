import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byQualifier, checkDomain, operandsOf, orComplain, printDryRun } from '../cli/device-command.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { vtpmAttach } from '../libxl/attach.js';
import { parseVtpmWords, vtpmJson } from '../libxl/device-words.js';

export default class VtpmAttach extends XlCommand {
  static override summary = 'Create a new virtual TPM device';
  static override examples = ['<%= config.bin %> vtpm-attach web backend=tpms'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    spec: Args.string({ multiple: true, ignoreStdin: true, description: 'uuid=... and backend=...' }),
  };
  static override flags = {
    dryrun: Flags.boolean({ hidden: true, default: false, description: 'print the TPM and stop' }),
  };
  static override xl: XlLayout = {
    notModelled: 'a back end: libxl gives up after ten seconds, as on a host that has none',
    usage: '<Domain> [uuid=<uuid>] [backend=<BackDomain>]',
    modifies: true,
  };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(VtpmAttach);
    const [domain = '', ...words] = operandsOf(raw);
    if (flags.dryrun) {
      await checkDomain(this, flags, domain, byQualifier);
      return printDryRun('vtpm', vtpmJson(vtpm(words)));
    }
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await byQualifier(ctx, domain);
      await orComplain(vtpmAttach(ctx, domid, vtpm(words)), 'libxl_device_vtpm_add failed.', 1);
    });
  }
}

function vtpm(words: readonly string[]) {
  const parsed = parseVtpmWords(words);
  if ('complaint' in parsed) throw new XlFailure(parsed.exit, parsed.complaint);
  return parsed.device;
}
