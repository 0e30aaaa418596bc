import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { type Credit, failing, listPools, requireCpupool, setDomain, showDomain, showPool } from '../cli/cpus.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { getCredit2Ratelimit, setCredit2Ratelimit } from '../libxl/sched.js';
import { atoi } from '../libxl/strtol.js';

export default class SchedCredit2 extends XlCommand {
  static override summary = 'Get/set credit2 scheduler parameters';
  static override examples = ['<%= config.bin %> sched-credit2', '<%= config.bin %> sched-credit2 --domain=web --weight=512'];
  static override flags = {
    domain: Flags.string({ char: 'd', description: 'the domain' }),
    weight: Flags.string({ char: 'w', description: 'its weight' }),
    cap: Flags.string({ char: 'c', description: 'its cap in percent of one processor' }),
    schedparam: Flags.boolean({ char: 's', default: false, description: 'parameters of a pool' }),
    ratelimit_us: Flags.string({ char: 'r', description: 'rate limit' }),
    cpupool: Flags.string({ char: 'p', description: 'the pool' }),
    json: Flags.boolean({ default: false, description: 'print JSON' }),
  };
  static override xl: XlLayout = {
    usage: '[-d <Domain> [-w[=WEIGHT]]] [-p CPUPOOL]',
    modifies: true,
    options: `-d DOMAIN, --domain=DOMAIN     The domain
-w WEIGHT, --weight=WEIGHT     Its weight
-c CAP,    --cap=CAP           Its cap
-s         --schedparam        Show or set what a pool's scheduler has
-r RLIMIT, --ratelimit_us=RLIMIT Rate limit in microseconds
-p CPUPOOL, --cpupool=CPUPOOL  Only this pool`,
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(SchedCredit2);
    const { domain, weight, cap, cpupool, schedparam, ratelimit_us: ratelimit } = flags;
    const ofDomain = weight !== undefined || cap !== undefined;
    if (cpupool !== undefined && (domain !== undefined || ofDomain)) {
      throw new XlFailure(1, 'Specifying a cpupool is not allowed with other options.');
    }
    if (domain === undefined && ofDomain) throw new XlFailure(1, 'Must specify a domain.');

    await withSession(this, flags, async ({ ctx }) => {
      if (schedparam) {
        const poolId = cpupool === undefined ? 0 : await requireCpupool(ctx, cpupool);
        if (ratelimit === undefined) return showPool(ctx, credit2, poolId, flags.json);
        const set = setCredit2Ratelimit(ctx, poolId, atoi(ratelimit));
        await failing('libxl_sched_credit2_params_set failed.', set);
      } else if (domain === undefined) {
        await listPools(ctx, credit2, cpupool, flags.json);
      } else {
        const domid = await findDomain(ctx, domain);
        if (ofDomain) await setDomain(ctx, credit2, domid, { weight, cap });
        else await showDomain(ctx, credit2, domid, flags.json);
      }
    });
  }
}

const credit2: Credit = {
  sched: 'credit2',
  params: async (ctx, poolId) => {
    const limitUs = await failing('libxl_sched_credit2_params_get failed.', getCredit2Ratelimit(ctx, poolId));
    return { ratelimitUs: limitUs };
  },
  text: ({ ratelimitUs }) => `ratelimit=${ratelimitUs}us`,
};
