import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { findNamed, printJson, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { type GuestEvent, guestEvents, PrivcmdError } from '../xenbus/privcmd.js';

export default class Guest extends XlCommand {
  static override summary = 'Let something happen inside a guest, or say how it is';
  static override description =
    'Let something happen inside a guest: poweroff, reboot and suspend as its kernel does it, crash (a panic), hang (its kernel does nothing until wake: it answers no request), watchdog (its watchdog timer has run out) or soft-reset. Without an event it says how the guest is';
  static override examples = [
    '<%= config.bin %> guest web reboot',
    '<%= config.bin %> guest web hang',
    '<%= config.bin %> guest web --json',
  ];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    event: Args.string({ ignoreStdin: true, description: guestEvents.join(', ') }),
  };
  static override flags = {
    json: Flags.boolean({ default: false, description: 'print how the guest is as JSON' }),
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Guest);
    const { event } = args;
    if (event !== undefined && !isEvent(event)) {
      throw new XlFailure(2, `xl: guest: there is no event ${event}; there are ${guestEvents.join(', ')}`);
    }
    await withSession(this, flags, async ({ ctx, xc }) => {
      const { domid, name = null } = await findNamed(ctx, args.domain);
      try {
        if (event !== undefined) await xc.call('dom0.guest_event', { domid, event });
        if (event !== undefined && !flags.json) return;
        const { state } = await xc.call('dom0.guest', { domid });
        if (flags.json) printJson({ domid, name, state });
        else process.stdout.write(`${state}\n`);
      } catch (error) {
        if (!(error instanceof PrivcmdError)) throw error;
        if (error.errno === 'ESRCH')
          throw new XlFailure(1, `xl: there is no domain ${domid}; \`xl list\` shows those that there are`);
        throw new XlFailure(1, `xl: ${error.message}`);
      }
    });
  }
}

function isEvent(word: string): word is GuestEvent {
  return (guestEvents as readonly string[]).includes(word);
}
