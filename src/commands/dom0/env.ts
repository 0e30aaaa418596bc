import { existsSync } from 'node:fs';
import * as Flags from '@oclif/core/flags';
import { findDomain, guestStore, runDirOf, type Session, withDom0, withSession, XlFailure } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';
import { guestSocketPath } from '../../xenbus/run-dir.js';
import { DOMID_LAST } from '../../xenbus/xenbus.js';

export default class Dom0Env extends XlCommand {
  static override summary = 'Print what xenstore-ls and its like need in the environment';
  static override description =
    `Print shell commands that set XL_RUN_DIR and XENSTORED_PATH, for \`eval "$(xl dom0 env)"\`; then xenstore-ls and other clients find the embedded dom0.

With --guest, clients speak as that domain: relative paths begin at its home, and its permissions and quotas hold. Commands that need dom0 refuse there; \`eval "$(xl dom0 env)"\` goes back.

With --kernel, requests go through dom0's kernel, as through /dev/xen/xenbus of a host whose store is a domain: the events of watches come when its xenwatch thread gets to them.`;
  static override examples = [
    'eval "$(<%= config.bin %> dom0 env)" && xenstore-ls',
    'eval "$(<%= config.bin %> dom0 env --guest web)" && xenstore-read name',
    'eval "$(<%= config.bin %> dom0 env --kernel)" && xenstore-watch backend',
  ];
  static override flags = {
    guest: Flags.string({ helpValue: 'DOMAIN', description: 'name or domid of the domain to speak as' }),
    kernel: Flags.boolean({ default: false, description: "go through dom0's kernel, as /dev/xen/xenbus" }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(Dom0Env);
    // What is printed takes the place of XENSTORED_PATH, so a guest's is no hindrance: this is the way back.
    if (guestStore(process.env, runDirOf(process.env)) !== undefined) delete process.env['XENSTORED_PATH'];
    const { guest } = flags;
    if (guest !== undefined && flags.kernel) throw new XlFailure(2, 'xl: dom0 env: say --guest or --kernel, not both');
    if (guest === undefined) {
      await withDom0(this, async (_xc, dir) => print(dir.path, flags.kernel ? dir.xenbus : dir.store.client));
    } else {
      await withSession(this, flags, async (session) => print(session.dir.path, await guestSocket(session, guest)));
    }
  }
}

/** The run directory is set for a guest too: by it `xl` knows whose socket that is, and finds the way back. */
function print(runDir: string, store: string): void {
  process.stdout.write(assignment('XL_RUN_DIR', runDir) + assignment('XENSTORED_PATH', store));
}

/** Where clients connect as a domain; a domain without such a place is refused. */
async function guestSocket({ ctx, xc, dir }: Session, text: string): Promise<string> {
  const domid = await findDomain(ctx, text);
  if (domid === 0) throw new XlFailure(1, 'xl: domain 0 is dom0 itself: leave --guest out');
  const info = domid > DOMID_LAST ? null : await xc.call('xc.domain_getinfo', { domid });
  if (!info) throw new XlFailure(1, `xl: there is no domain ${text}; \`xl list\` shows those that there are`);
  const path = guestSocketPath(dir, domid);
  if (existsSync(path)) return path;
  if (info.dying) throw new XlFailure(1, `xl: domain ${domid} is dying, and the store has released it`);
  if (await ctx.xs.isDomainIntroduced(domid)) throw new XlFailure(1, `xl: domain ${domid} has no socket; ${dir.log} says why`);
  throw new XlFailure(1, `xl: the store does not know domain ${domid} yet; try again when it is created`);
}

/** As ssh-agent prints it, in words that every shell reads back as they are. */
export function assignment(name: string, value: string): string {
  const word = /^[\w@%+=:,./-]+$/.test(value) ? value : `'${value.replaceAll("'", "'\\''")}'`;
  return `${name}=${word}; export ${name};\n`;
}
