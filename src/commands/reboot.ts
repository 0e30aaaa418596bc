import type { XlLayout } from '../cli/argv.js';
import { domainReboot } from '../libxl/domain.js';
import Shutdown, { type EndWords } from './shutdown.js';

export default class Reboot extends Shutdown {
  static override summary = 'Issue a reboot signal to a domain';
  static override args = Shutdown.args;
  static override flags = Shutdown.flags;
  static override examples = ['<%= config.bin %> reboot web', '<%= config.bin %> reboot --all --wait'];
  static override xl: XlLayout = {
    usage: '[options] <-a|Domain>',
    modifies: true,
    options: `-a, --all               Shutdown all guest domains.
-h                      Print this help.
-F                      Fallback to ACPI reset event for HVM guests with
                        no PV drivers.
-w, --wait              Wait for guest(s) to reboot.
`,
  };

  protected override readonly words: EndWords = { doing: 'Rebooting', what: 'reboot', ask: domainReboot };
}
