import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { failing, requireCpupool, requireDomainSched } from '../cli/cpus.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import type { Ctx } from '../libxl/ctx.js';
import { getVcpuSched, setVcpuSched, type VcpuSched } from '../libxl/sched.js';
import { atoi } from '../libxl/strtol.js';

export default class SchedRtds extends XlCommand {
  static override summary = 'Get/set rtds scheduler parameters';
  static override examples = ['<%= config.bin %> sched-rtds --domain=web --vcpuid=all'];
  static override flags = {
    domain: Flags.string({ char: 'd', description: 'the domain' }),
    vcpuid: Flags.string({ char: 'v', multiple: true, description: 'a vcpu, or all' }),
    period: Flags.string({ char: 'p', multiple: true, description: 'its period in microseconds' }),
    budget: Flags.string({ char: 'b', multiple: true, description: 'its budget in microseconds' }),
    extratime: Flags.string({ char: 'e', multiple: true, description: '1: it may run beyond its budget' }),
    cpupool: Flags.string({ description: 'the pool' }),
    // The short form takes no value in xl 4.17, so it names no pool.
    c: Flags.boolean({ char: 'c', default: false, description: 'no effect' }),
  };
  static override xl: XlLayout = {
    notModelled: 'the scheduler, which Debian builds Xen without: it says so',
    usage: '[-d <Domain> [-v[=VCPUID/all]] [-p[=PERIOD]] [-b[=BUDGET]] [-e[=Extratime]]]',
    modifies: true,
    options: `-d DOMAIN, --domain=DOMAIN     The domain
-v VCPUID/all, --vcpuid=VCPUID/all    A VCPU of it;
               all of them with '-v all'
-p PERIOD, --period=PERIOD     Period in microseconds
-b BUDGET, --budget=BUDGET     Budget in microseconds
-e Extratime, --extratime=Extratime Whether it may run beyond its budget (1, 0)
`,
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(SchedRtds);
    const { domain, cpupool } = flags;
    const wanted = readWanted(flags);
    const given = wanted.values || wanted.vcpus.length > 0;
    if (cpupool !== undefined && (domain !== undefined || given || wanted.all)) {
      throw new XlFailure(1, 'Specifying a cpupool is not allowed with other options.');
    }
    if (domain === undefined && given) throw new XlFailure(1, 'Missing parameters.');
    const anyVcpu = wanted.vcpus.length > 0 || wanted.all;
    if (domain !== undefined && !anyVcpu && wanted.values) throw new XlFailure(1, 'Must specify VCPU.');
    if (wanted.vcpus.length > 0 && wanted.all) throw new XlFailure(1, 'Incorrect VCPU IDs.');
    if (!wanted.complete) throw new XlFailure(1, 'Incorrect number of period, budget and extratime');

    await withSession(this, flags, async ({ ctx }) => {
      // No pool has this scheduler, and xl prints nothing of the others.
      if (domain === undefined) return void (cpupool !== undefined && (await requireCpupool(ctx, cpupool)));
      const domid = await findDomain(ctx, domain);
      if (!anyVcpu) await showDomain(ctx, domid);
      else if (wanted.values) await setVcpus(ctx, domid, wanted);
      else await showVcpus(ctx, domid, wanted.all);
    });
  }
}

interface Wanted {
  readonly all: boolean;
  readonly vcpus: readonly number[];
  /** Whether any of the three was given, and their values: one for each vcpu, or one for all. */
  readonly values: boolean;
  readonly params: readonly Omit<VcpuSched, 'vcpu'>[];
  /** There are as many of each. */
  readonly complete: boolean;
}

interface Given {
  readonly vcpuid?: readonly string[] | undefined;
  readonly period?: readonly string[] | undefined;
  readonly budget?: readonly string[] | undefined;
  readonly extratime?: readonly string[] | undefined;
}

function readWanted({ vcpuid = [], period = [], budget = [], extratime = [] }: Given): Wanted {
  if (extratime.some((text) => text !== '0' && text !== '1')) throw new XlFailure(1, 'Invalid extratime.');
  const vcpus = vcpuid.filter((text) => text !== 'all').map(atoi);
  const counts = [period.length, budget.length, extratime.length];
  return {
    all: vcpuid.includes('all'),
    vcpus,
    values: counts.some((count) => count > 0),
    params: period.map((text, at) => ({ period: atoi(text), budget: atoi(budget[at] ?? '') })),
    complete: counts.every((count) => count === period.length && (count === 0 || count >= vcpus.length)),
  };
}

async function setVcpus(ctx: Ctx, domid: number, { all, vcpus, params }: Wanted): Promise<void> {
  const each = params.slice(0, Math.max(1, vcpus.length)).map((param, at) => ({ vcpu: vcpus[at] ?? 0, ...param }));
  const name = all ? 'libxl_vcpu_sched_params_set_all' : 'libxl_vcpu_sched_params_set';
  await failing(`${name} failed.`, setVcpuSched(ctx, domid, each, all));
}

/** What xl says of a domain whose scheduler is another one. */
async function showDomain(ctx: Ctx, domid: number): Promise<void> {
  process.stdout.write('Name                                ID    Period    Budget  Extratime\n');
  await requireDomainSched(ctx, domid, 'rtds');
}

async function showVcpus(ctx: Ctx, domid: number, all: boolean): Promise<void> {
  process.stdout.write('Name                                ID VCPU    Period    Budget  Extratime\n');
  const name = all ? 'libxl_vcpu_sched_params_get_all' : 'libxl_vcpu_sched_params_get';
  await failing(`${name} failed.`, getVcpuSched(ctx, domid, all));
}
