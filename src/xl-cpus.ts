/**
 * What the commands about cpupools and schedulers have in common (xl_cpupool.c, xl_sched.c): which pool an argument means,
 * and how parameters are listed, pool by pool.
 */
import { findCpupool, listCpupools } from './libxl/cpupool.js';
import { type Ctx, LibxlError } from './libxl/ctx.js';
import { domidToName, listDomains } from './libxl/domain.js';
import { getDomainSched } from './libxl/sched.js';
import type { DomainSched, SchedulerName } from './xenbus/privcmd.js';
import { byteString } from './xenbus/xs-client.js';
import { XlFailure } from './xl.js';

/** The pool that a `<CPU Pool>` argument means: a name or an id. */
export async function requireCpupool(ctx: Ctx, text: string): Promise<number> {
  const poolId = await findCpupool(ctx, text);
  if (poolId === undefined) throw new XlFailure(1, `unknown cpupool '${text}'`);
  return poolId;
}

/** The rows of one listing. What cannot be had is a failure, and its text is xl's. */
export interface SchedListing {
  readonly sched: SchedulerName;
  readonly header: string;
  /** The line of a pool above its domains. */
  pool(ctx: Ctx, poolId: number, name: string): Promise<string>;
  rows(ctx: Ctx, domid: number): Promise<readonly string[]>;
}

/** Every pool with that scheduler, or the one that was named, with its domains. The first failure ends it, and it succeeds. */
export async function listSched(ctx: Ctx, listing: SchedListing, cpupool: string | undefined): Promise<void> {
  const only = cpupool === undefined ? undefined : await requireCpupool(ctx, cpupool);
  const domains = await listDomains(ctx);
  for (const { id, name, sched } of await listCpupools(ctx)) {
    if (sched !== listing.sched || (only !== undefined && only !== id)) continue;
    print(await listing.pool(ctx, id, name));
    print(listing.header);
    for (const { domid, cpupool } of domains) {
      if (cpupool !== id) continue;
      try {
        for (const row of await listing.rows(ctx, domid)) print(row);
      } catch (error) {
        if (!(error instanceof XlFailure)) throw error;
        process.stderr.write(`${error.message}\n`);
        return;
      }
    }
  }
}

/** One domain, under the header that stands there whatever comes of it. */
export async function showSched(ctx: Ctx, { header, rows }: Pick<SchedListing, 'header' | 'rows'>, domid: number): Promise<void> {
  print(header);
  for (const row of await rows(ctx, domid)) print(row);
}

/** A domain's parameters, if its scheduler is the one that the command is about. */
export async function requireDomainSched<Name extends SchedulerName>(ctx: Ctx, domid: number, sched: Name): Promise<Of<Name>> {
  const params = await failing('libxl_domain_sched_params_get failed.', getDomainSched(ctx, domid));
  if (isOf(params, sched)) return params;
  throw new XlFailure(1, `libxl_domain_sched_params_get returned ${params.sched} not ${sched}.`);
}

type Of<Name extends SchedulerName> = Extract<DomainSched, { readonly sched: Name }>;

function isOf<Name extends SchedulerName>(params: DomainSched, sched: Name): params is Of<Name> {
  return params.sched === sched;
}

/** Columns `Name` and `ID`, which begin every row. */
export async function nameAndId(ctx: Ctx, domid: number): Promise<string> {
  const name = (await domidToName(ctx, domid)) ?? '(null)';
  return `${name}${' '.repeat(Math.max(0, 33 - byteString(name).length))} ${String(domid).padStart(4)}`;
}

/** `-w` and `-c` of credit and of credit2, and their listing. */
export function creditListing(sched: 'credit' | 'credit2', pool: SchedListing['pool']): SchedListing {
  return {
    sched,
    header: 'Name                                ID Weight  Cap',
    pool,
    rows: async (ctx, domid) => {
      const { weight, cap } = await requireDomainSched(ctx, domid, sched);
      return [`${await nameAndId(ctx, domid)} ${String(weight).padStart(6)} ${String(cap).padStart(4)}`];
    },
  };
}

/** A pool's line; without its parameters when they cannot be had, which xl does not take for a failure. */
export async function poolLine(name: string, text: Promise<string>): Promise<string> {
  try {
    return `Cpupool ${name}: ${await text}`;
  } catch (error) {
    if (!(error instanceof XlFailure)) throw error;
    process.stderr.write(`${error.message}\n`);
    return `Cpupool ${name}: [sched params unavailable]`;
  }
}

/** libxl has said what was wrong; xl says what it was about. */
export async function failing<T>(message: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw error instanceof LibxlError ? new XlFailure(1, message) : error;
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
