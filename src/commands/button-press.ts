import * as Args from '@oclif/core/args';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, ignoringFailure, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { sendTrigger } from '../libxl/info.js';

const deprecated = 'WARNING: "button-press" is deprecated. Please use "trigger"\n';

export default class ButtonPress extends XlCommand {
  static override summary = 'Indicate an ACPI button press to the domain';
  static override examples = ['<%= config.bin %> button-press web power'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    button: Args.string({ required: true, ignoreStdin: true, description: 'power or sleep' }),
  };
  static override xl: XlLayout = {
    usage: '<Domain> <Button>',
    modifies: true,
    warning: deprecated,
    options: "<Button> is 'power' or 'sleep'.",
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(ButtonPress);
    process.stderr.write(deprecated);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const { button } = args;
      if (button !== 'power' && button !== 'sleep') throw new XlFailure(1, `${button} is an invalid button identifier`);
      await ignoringFailure(sendTrigger(ctx, domid, button, 0));
    });
  }
}
