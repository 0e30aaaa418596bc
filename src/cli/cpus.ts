/**
 * What the commands about cpupools and schedulers have in common (xl_cpupool.c, xl_sched.c): which pool an argument means,
 * and how the parameters of credit and of credit2 are listed, pool by pool.
 */
import { cpupoolName, findCpupool, listCpupools } from '../libxl/cpupool.js';
import { type Ctx, LibxlError } from '../libxl/ctx.js';
import { domidToName, listDomains } from '../libxl/domain.js';
import { type DomainSchedChange, getDomainSched, setDomainSched } from '../libxl/sched.js';
import { atoi } from '../libxl/strtol.js';
import type { CreditParams, DomainSched, SchedulerName } from '../xenbus/privcmd.js';
import { byteString } from '../xenbus/xs-client.js';
import { printJson, XlFailure } from './session.js';

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

/** One of the two schedulers: its name, and what a pool that has it has of parameters. */
export interface Credit {
  readonly sched: SchedulerName;
  params(ctx: Ctx, poolId: number): Promise<Partial<CreditParams>>;
  text(params: Partial<CreditParams>): string;
}

const header = 'Name                                ID Weight  Cap';

/** Every pool with that scheduler, or the one that was named, with its domains. The first failure ends it, and it succeeds. */
export async function listPools(ctx: Ctx, credit: Credit, cpupool: string | undefined, json: boolean): Promise<void> {
  const only = cpupool === undefined ? undefined : await requireCpupool(ctx, cpupool);
  const all = await listDomains(ctx);
  const listed = [];
  for (const { id, name, sched } of await listCpupools(ctx)) {
    if (sched !== credit.sched || (only !== undefined && only !== id)) continue;
    const params = await poolParams(ctx, credit, id);
    if (!json) print(`${poolLine(credit, name, params)}\n${header}`);
    const domains: DomainRow[] = [];
    listed.push({ id, name, ...params, domains });
    for (const { domid, cpupool: poolId } of all) {
      if (poolId !== id) continue;
      const domain = await orSay(domainRow(ctx, credit, domid));
      if (!domain) return json ? printJson(listed) : undefined;
      domains.push(domain);
      if (!json) print(domainLine(domain));
    }
  }
  if (json) printJson(listed);
}

/** One domain. The header stands there, whatever comes of it. */
export async function showDomain(ctx: Ctx, credit: Credit, domid: number, json: boolean): Promise<void> {
  if (!json) print(header);
  const row = await domainRow(ctx, credit, domid);
  if (json) printJson(row);
  else print(domainLine(row));
}

interface DomainRow {
  readonly name: string | null;
  readonly domid: number;
  readonly weight: number;
  readonly cap: number;
}

async function domainRow(ctx: Ctx, { sched }: Credit, domid: number): Promise<DomainRow> {
  const { weight, cap } = await requireDomainSched(ctx, domid, sched);
  return { name: (await domidToName(ctx, domid)) ?? null, domid, weight, cap };
}

function domainLine({ name, domid, weight, cap }: DomainRow): string {
  const shown = name ?? '(null)';
  const blanks = ' '.repeat(Math.max(0, 33 - byteString(shown).length));
  return `${shown}${blanks} ${String(domid).padStart(4)} ${String(weight).padStart(6)} ${String(cap).padStart(4)}`;
}

/** The parameters of a pool. That they cannot be had is said, and is no failure. */
export async function showPool(ctx: Ctx, credit: Credit, poolId: number, json: boolean): Promise<void> {
  const params = await poolParams(ctx, credit, poolId);
  const name = (await cpupoolName(ctx, poolId)) ?? null;
  if (json) printJson({ id: poolId, name, ...params });
  else print(poolLine(credit, name ?? '(null)', params));
}

function poolParams(ctx: Ctx, credit: Credit, poolId: number): Promise<Partial<CreditParams> | undefined> {
  return orSay(credit.params(ctx, poolId));
}

function poolLine(credit: Credit, name: string, params: Partial<CreditParams> | undefined): string {
  return `Cpupool ${name}: ${params ? credit.text(params) : '[sched params unavailable]'}`;
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

/** What the operation brings; undefined when it failed, and why is printed. */
async function orSay<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (!(error instanceof XlFailure)) throw error;
    process.stderr.write(`${error.message}\n`);
    return undefined;
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
