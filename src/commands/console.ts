import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { attachConsole, type ConsoleType } from '../cli/console.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { LibxlError } from '../libxl/ctx.js';
import { checkType } from '../libxl/domain.js';

export default class Console extends XlCommand {
  static override summary = "Attach to domain's console";
  static override examples = ['<%= config.bin %> console web'];
  static override args = { domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }) };
  static override flags = {
    type: Flags.string({ char: 't', helpValue: 'TYPE', description: 'pv, serial or vuart' }),
    number: Flags.string({ char: 'n', helpValue: 'NUMBER', description: 'which console' }),
  };
  static override xl: XlLayout = {
    notModelled: 'a login: the console shows what the kernel prints',
    usage: `[options] <Domain>
-t <type>       console type, pv , serial or vuart
-n <number>     console number`,
    options: '',
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Console);
    const { type } = flags;
    if (type !== undefined && !isConsoleType(type)) throw new XlFailure(1, 'console type supported are: pv, serial, vuart');
    await withSession(this, flags, async (session) => {
      const domid = await findDomain(session.ctx, args.domain);
      if (type === undefined) await checkPrimary(session.ctx, domid);
      // Without a type it is console 0, whatever was said.
      const number = type === undefined ? 0 : atoi(flags.number ?? '0');
      await (await attachConsole(session, domid, type ?? 'pv', number)).ended;
    });
  }
}

function isConsoleType(text: string): text is ConsoleType {
  return ['pv', 'serial', 'vuart'].includes(text);
}

async function checkPrimary(ctx: Parameters<typeof checkType>[0], domid: number): Promise<void> {
  try {
    await checkType(ctx, domid);
  } catch (error) {
    if (error instanceof LibxlError) throw new XlFailure(1, 'Unable to attach console');
    throw error;
  }
}

function atoi(text: string): number {
  return Number(/^\s*[+-]?\d+/.exec(text)?.[0] ?? 0);
}
