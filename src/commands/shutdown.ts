import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../argv.js';
import { type Ctx, LibxlError } from '../libxl/ctx.js';
import { type DeathWatch, domainShutdown, listDomains, watchDeaths } from '../libxl/domain.js';
import { findDomain, withSession, XlCommand, XlFailure } from '../xl.js';

export default class Shutdown extends XlCommand {
  static override summary = 'Issue a shutdown signal to a domain';
  static override examples = ['<%= config.bin %> shutdown --wait web', '<%= config.bin %> shutdown --all --wait'];
  static override args = { domain: Args.string({ ignoreStdin: true, description: 'name or domid' }) };
  static override flags = {
    all: Flags.boolean({ char: 'a', default: false, description: 'shut down every guest' }),
    wait: Flags.boolean({ char: 'w', default: false, description: 'wait until they have shut down' }),
    fallback: Flags.boolean({ char: 'F', default: false, description: 'no effect: every guest here has the control interface' }),
  };
  static override xl: XlLayout = {
    usage: '[options] <-a|Domain>',
    modifies: true,
    options: `-a, --all               Shutdown all guest domains.
-h                      Print this help.
-F                      Fallback to ACPI power event for HVM guests with
                        no PV drivers.
-w, --wait              Wait for guest(s) to shutdown.
`,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Shutdown);
    const { domain } = args;
    if (domain === undefined && !flags.all) throw new XlFailure(1, 'You must specify -a or a domain id.\n');
    await withSession(this, flags, async ({ ctx }) => {
      const domids = flags.all || domain === undefined ? await guests(ctx) : [await findDomain(ctx, domain)];
      const deaths = watchDeaths(ctx);
      for (const domid of domids) {
        await shutdownOne(ctx, domid);
        if (flags.wait) await deaths.add(domid);
      }
      if (flags.wait) await waitForAll(deaths, domids.length);
      await deaths.close();
    });
  }
}

async function guests(ctx: Ctx): Promise<number[]> {
  const domains = await listDomains(ctx);
  return domains.flatMap(({ domid }) => (domid === 0 ? [] : [domid]));
}

async function shutdownOne(ctx: Ctx, domid: number): Promise<void> {
  process.stderr.write(`Shutting down domain ${domid}\n`);
  try {
    await domainShutdown(ctx, domid);
  } catch (error) {
    if (error instanceof LibxlError) throw new XlFailure(1, `shutdown failed (rc=${error.rc})`);
    throw error;
  }
}

/** Each domain counts once, whether it shut down or was destroyed. */
async function waitForAll(deaths: DeathWatch, count: number): Promise<void> {
  process.stderr.write(`Waiting for ${count} domains\n`);
  const ended = new Set<number>();
  while (ended.size < count) {
    const event = await deaths.next();
    if (ended.has(event.domid)) continue;
    ended.add(event.domid);
    const how = event.on === 'shutdown' ? `shut down, reason code ${event.reason}` : 'destroyed';
    process.stderr.write(`Domain ${event.domid} has been ${how}\n`);
  }
}
