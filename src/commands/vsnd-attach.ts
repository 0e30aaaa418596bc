import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byFindDomain, checkDomain, operandsOf, orComplain, printDryRun } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { vsndAttach } from '../libxl/attach.js';
import type { JsonObject } from '../libxl/json.js';
import { parseSoundCard } from '../libxl/sound-card.js';

export default class VsndAttach extends XlCommand {
  static override summary = 'Create a new virtual sound device';
  static override examples = ['<%= config.bin %> vsnd-attach web card,short-name=main pcm,name=out stream,unique-id=out0,type=p'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    spec: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'the card, as in a config' }),
  };
  static override flags = {
    dryrun: Flags.boolean({ hidden: true, default: false, description: 'print the card and stop' }),
  };
  static override xl: XlLayout = {
    notModelled: 'a back end: libxl gives up after ten seconds, as on a host that has none',
    usage: '<Domain> <vsnd-spec-component(s)>...',
    modifies: true,
  };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(VsndAttach);
    const [domain = '', ...words] = operandsOf(raw);
    if (flags.dryrun) {
      await checkDomain(this, flags, domain, byFindDomain);
      return printDryRun('vsnd', card(words));
    }
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, domain);
      await orComplain(vsndAttach(ctx, domid, card(words)), 'libxl_device_vsnd_add failed.', 253);
    });
  }
}

/** A format that does not exist ends xl where it is read; all else is the -1 of its parser. */
function card(words: readonly string[]): JsonObject {
  const parsed = parseSoundCard(words);
  if ('card' in parsed) return parsed.card;
  const text = parsed.errors.join('\n');
  throw new XlFailure(text.startsWith('Invalid pcm format') ? 1 : 255, text);
}
