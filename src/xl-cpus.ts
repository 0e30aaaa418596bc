/**
 * What the commands about cpupools and schedulers have in common (xl_cpupool.c, xl_sched.c): which pool an argument means,
 * and how the parameters of credit and of credit2 are listed, pool by pool.
 */
import { cpupoolName, findCpupool, listCpupools } from './libxl/cpupool.js';
import { type Ctx, LibxlError } from './libxl/ctx.js';
import { domidToName, listDomains } from './libxl/domain.js';
import { type DomainSchedChange, getDomainSched, setDomainSched } from './libxl/sched.js';
import { atoi } from './libxl/strtol.js';
import type { DomainSched, SchedulerName } from './xenbus/privcmd.js';
import { byteString } from './xenbus/xs-client.js';
import { XlFailure } from './xl.js';

/** The pool that a `<CPU Pool>` argument means: a name or an id. */
export async function requireCpupool(ctx: Ctx, text: string): Promise<number> {
  const poolId = await findCpupool(ctx, text);
  if (poolId === undefined) throw new XlFailure(1, `unknown cpupool '${text}'`);
  return poolId;
}

/** libxl has said what was wrong; xl says what it was about. */
export async function failing<T>(message: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw error instanceof LibxlError ? new XlFailure(1, message) : error;
  }
}

/** A domain's parameters, if its scheduler is the one that the command is about. */
export async function requireDomainSched(ctx: Ctx, domid: number, sched: SchedulerName | 'rtds'): Promise<DomainSched> {
  const params = await failing('libxl_domain_sched_params_get failed.', getDomainSched(ctx, domid));
  if (params.sched === sched) return params;
  throw new XlFailure(1, `libxl_domain_sched_params_get returned ${params.sched} not ${sched}.`);
}

/** One of the two schedulers: its name, and what stands behind the name of a pool that has it. */
export interface Credit {
  readonly sched: SchedulerName;
  poolText(ctx: Ctx, poolId: number): Promise<string>;
}

const header = 'Name                                ID Weight  Cap';

/** Every pool with that scheduler, or the one that was named, with its domains. The first failure ends it, and it succeeds. */
export async function listPools(ctx: Ctx, credit: Credit, cpupool: string | undefined): Promise<void> {
  const only = cpupool === undefined ? undefined : await requireCpupool(ctx, cpupool);
  const domains = await listDomains(ctx);
  for (const pool of await listCpupools(ctx)) {
    if (pool.sched !== credit.sched || (only !== undefined && only !== pool.id)) continue;
    await showPool(ctx, credit, pool.id);
    print(header);
    for (const { domid, cpupool: poolId } of domains) {
      if (poolId === pool.id && !(await succeeds(printDomain(ctx, credit, domid)))) return;
    }
  }
}

/** One domain. The header stands there, whatever comes of it. */
export async function showDomain(ctx: Ctx, credit: Credit, domid: number): Promise<void> {
  print(header);
  await printDomain(ctx, credit, domid);
}

async function printDomain(ctx: Ctx, { sched }: Credit, domid: number): Promise<void> {
  const { weight, cap } = await requireDomainSched(ctx, domid, sched);
  const name = (await domidToName(ctx, domid)) ?? '(null)';
  const blanks = ' '.repeat(Math.max(0, 33 - byteString(name).length));
  print(`${name}${blanks} ${String(domid).padStart(4)} ${String(weight).padStart(6)} ${String(cap).padStart(4)}`);
}

/** The parameters of a pool. That they cannot be had is said, and is no failure. */
export async function showPool(ctx: Ctx, { poolText }: Credit, poolId: number): Promise<void> {
  let text = '[sched params unavailable]';
  await succeeds(
    poolText(ctx, poolId).then((params) => {
      text = params;
    }),
  );
  print(`Cpupool ${(await cpupoolName(ctx, poolId)) ?? '(null)'}: ${text}`);
}

/** Sets the weight and the cap that were given. */
export async function setDomain(
  ctx: Ctx,
  { sched }: Credit,
  domid: number,
  { weight, cap }: { readonly weight: string | undefined; readonly cap: string | undefined },
): Promise<void> {
  const params: DomainSchedChange = {
    sched,
    ...(weight === undefined ? {} : { weight: atoi(weight) }),
    ...(cap === undefined ? {} : { cap: atoi(cap) }),
  };
  await failing('libxl_domain_sched_params_set failed.', setDomainSched(ctx, domid, params));
}

/** Whether it did; what went wrong is printed. */
async function succeeds(operation: Promise<void>): Promise<boolean> {
  try {
    await operation;
    return true;
  } catch (error) {
    if (!(error instanceof XlFailure)) throw error;
    process.stderr.write(`${error.message}\n`);
    return false;
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
