import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { type Ctx, LibxlError } from '../libxl/ctx.js';
import { type DeathWatch, domainShutdown, listDomains, watchDeaths } from '../libxl/domain.js';

/** What shutdown and reboot differ in. */
export interface EndWords {
  readonly doing: string;
  readonly what: string;
  readonly ask: (ctx: Ctx, domid: number) => Promise<void>;
}

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

  protected readonly words: EndWords = { doing: 'Shutting down', what: 'shutdown', ask: domainShutdown };

  async run(): Promise<void> {
    const { args, flags, raw } = await this.parse(this.ctor as typeof Shutdown);
    const { domain } = args;
    if (domain === undefined && !flags.all) throw new XlFailure(1, 'You must specify -a or a domain id.\n');
    // Once: until it has shut down. Twice: until it is gone.
    const waits = raw.filter((token) => token.type === 'flag' && token.flag === 'wait').length;
    await withSession(this, flags, async ({ ctx }) => {
      const domids = flags.all || domain === undefined ? await guests(ctx) : [await findDomain(ctx, domain)];
      const deaths = watchDeaths(ctx);
      for (const domid of domids) {
        await this.#end(ctx, domid);
        if (waits > 0) await deaths.add(domid);
      }
      if (waits > 0) await waitForAll(ctx, deaths, domids.length, waits > 1);
      await deaths.close();
    });
  }

  async #end(ctx: Ctx, domid: number): Promise<void> {
    const { doing, what, ask } = this.words;
    process.stderr.write(`${doing} domain ${domid}\n`);
    try {
      await ask(ctx, domid);
    } catch (error) {
      if (error instanceof LibxlError) throw new XlFailure(1, `${what} failed (rc=${error.rc})`);
      throw error;
    }
  }
}

async function guests(ctx: Ctx): Promise<number[]> {
  const domains = await listDomains(ctx);
  return domains.flatMap(({ domid }) => (domid === 0 ? [] : [domid]));
}

/** Each domain counts once, whether it shut down or was destroyed; with `untilGone` only the latter counts. */
async function waitForAll(ctx: Ctx, deaths: DeathWatch, count: number, untilGone: boolean): Promise<void> {
  process.stderr.write(`Waiting for ${count} domains\n`);
  const ended = new Set<number>();
  while (ended.size < count) {
    const left = count - ended.size;
    const over = ctx.progress?.wait({ on: left === 1 ? 'the domain to end' : `${left} domains to end` });
    const event = await deaths.next().finally(over);
    if (ended.has(event.domid)) continue;
    const how = event.on === 'shutdown' ? `shut down, reason code ${event.reason}` : 'destroyed';
    process.stderr.write(`Domain ${event.domid} has been ${how}\n`);
    if (event.on === 'shutdown' && untilGone) process.stderr.write(`Domain ${event.domid} continue waiting for death\n`);
    else ended.add(event.domid);
  }
}
