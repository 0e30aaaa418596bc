import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { type Credit, failing, listPools, requireCpupool, setDomain, showDomain, showPool } from '../cli/cpus.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import type { Ctx } from '../libxl/ctx.js';
import { getCreditParams, setCreditParams } from '../libxl/sched.js';
import { atoi } from '../libxl/strtol.js';
import type { CreditParams } from '../xenbus/privcmd.js';

export default class SchedCredit extends XlCommand {
  static override summary = 'Get/set credit scheduler parameters';
  static override examples = ['<%= config.bin %> sched-credit --domain=web --weight=512 --cap=50'];
  static override flags = {
    domain: Flags.string({ char: 'd', description: 'the domain' }),
    weight: Flags.string({ char: 'w', description: 'its weight' }),
    cap: Flags.string({ char: 'c', description: 'its cap in percent of one processor' }),
    schedparam: Flags.boolean({ char: 's', default: false, description: 'parameters of a pool' }),
    tslice_ms: Flags.string({ char: 't', description: 'time slice' }),
    ratelimit_us: Flags.string({ char: 'r', description: 'rate limit' }),
    migration_delay_us: Flags.string({ char: 'm', description: 'migration delay' }),
    cpupool: Flags.string({ char: 'p', description: 'the pool' }),
    json: Flags.boolean({ default: false, description: 'print JSON' }),
  };
  static override xl: XlLayout = {
    usage: '[-d <Domain> [-w[=WEIGHT]|-c[=CAP]]] [-s [-t TSLICE] [-r RATELIMIT]] [-p CPUPOOL]',
    modifies: true,
    options: `-d DOMAIN, --domain=DOMAIN        The domain
-w WEIGHT, --weight=WEIGHT        Its weight
-c CAP, --cap=CAP                 Its cap
-s         --schedparam           Show or set what a pool's scheduler has
-t TSLICE, --tslice_ms=TSLICE     Time slice in milliseconds
-r RLIMIT, --ratelimit_us=RLIMIT  Rate limit in microseconds
-m DLY, --migration_delay_us=DLY  Migration delay in microseconds
-p CPUPOOL, --cpupool=CPUPOOL     Only this pool`,
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(SchedCredit);
    const { domain, weight, cap, cpupool, schedparam } = flags;
    const { tslice_ms: tslice, ratelimit_us: ratelimit, migration_delay_us: delay } = flags;
    const ofDomain = weight !== undefined || cap !== undefined;
    const ofPool = tslice !== undefined || ratelimit !== undefined || delay !== undefined;
    if ((cpupool !== undefined || schedparam) && (domain !== undefined || ofDomain)) {
      throw new XlFailure(1, 'Specifying a cpupool or schedparam is not allowed with domain options.');
    }
    if (domain === undefined && ofDomain) throw new XlFailure(1, 'Must specify a domain.');
    if (!schedparam && ofPool) throw new XlFailure(1, 'Must specify schedparam to set schedule parameter values.');

    await withSession(this, flags, async ({ ctx }) => {
      if (schedparam) {
        const poolId = cpupool === undefined ? 0 : await requireCpupool(ctx, cpupool);
        if (ofPool) await setPool(ctx, poolId, { tslice, ratelimit, delay });
        else await showPool(ctx, credit, poolId, flags.json);
      } else if (domain === undefined) {
        await listPools(ctx, credit, cpupool, flags.json);
      } else {
        const domid = await findDomain(ctx, domain);
        if (ofDomain) await setDomain(ctx, credit, domid, { weight, cap });
        else await showDomain(ctx, credit, domid, flags.json);
      }
    });
  }
}

const credit: Credit = {
  sched: 'credit',
  params: poolParams,
  text: ({ tsliceMs, ratelimitUs, migrationDelayUs }) =>
    `tslice=${tsliceMs}ms ratelimit=${ratelimitUs}us migration-delay=${migrationDelayUs}us`,
};

function poolParams(ctx: Ctx, poolId: number): Promise<CreditParams> {
  return failing('libxl_sched_credit_params_get failed.', getCreditParams(ctx, poolId));
}

interface Wanted {
  readonly tslice: string | undefined;
  readonly ratelimit: string | undefined;
  readonly delay: string | undefined;
}

/** What is not given stays as it is. */
async function setPool(ctx: Ctx, poolId: number, { tslice, ratelimit, delay }: Wanted): Promise<void> {
  const now = await poolParams(ctx, poolId);
  const params = {
    tsliceMs: tslice === undefined ? now.tsliceMs : atoi(tslice),
    ratelimitUs: ratelimit === undefined ? now.ratelimitUs : atoi(ratelimit),
    migrationDelayUs: delay === undefined ? now.migrationDelayUs : atoi(delay),
  };
  await failing('libxl_sched_credit_params_set failed.', setCreditParams(ctx, poolId, params));
}
