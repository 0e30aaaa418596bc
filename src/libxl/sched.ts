/**
 * The parameters of a scheduler, as libxl gets and sets them: those of a domain, of its vcpus, of a cpupool.
 *
 * Lines, bounds and order of checks are those of libxl_sched.c of 4.17. Where a parameter is -1, libxl leaves it as it is.
 * No pool here has RTDS, so of its functions there is what they say on such a host.
 */
import { type CreditParams, type DomainSched, PrivcmdError, type SchedulerName } from '../xenbus/privcmd.js';
import { strerror } from './ao.js';
import { cpupoolName } from './cpupool.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { listDomains } from './domain.js';

const ratelimitUs = { min: 100, max: 500_000 } as const;
const tsliceMs = { min: 1, max: 1000 } as const;
const migrationDelayMaxUs = 100_000;

/** The scheduler of a domain's pool; undefined, and a line in the log, when it cannot be told (libxl__domain_scheduler). */
export async function domainScheduler(ctx: Ctx, domid: number): Promise<SchedulerName | undefined> {
  // The hypervisor answers with the next domain where there is none of that domid.
  const info = (await listDomains(ctx)).find((each) => each.domid >= domid);
  const enoent = strerror('ENOENT');
  if (!info) {
    ctx.log('error', 'libxl_dom.c:76:libxl__domain_cpupool', undefined, `getinfolist failed 0: ${enoent}`);
    return undefined;
  }
  if (info.domid !== domid) {
    const line = `got info for dom${info.domid}, wanted dom${domid}\n: ${enoent}`;
    ctx.log('error', 'libxl_dom.c:81:libxl__domain_cpupool', undefined, line);
    return undefined;
  }
  const pool = await ctx.xc.call('xc.cpupool_getinfo', { poolId: info.cpupool });
  return pool?.id === info.cpupool && (await cpupoolName(ctx, pool.id)) !== undefined ? pool.sched : undefined;
}

export async function getDomainSched(ctx: Ctx, domid: number): Promise<DomainSched> {
  const sched = await domainScheduler(ctx, domid);
  if (!sched) throw invalid(ctx, 905, 'libxl_domain_sched_params_get', domid, 'Unknown scheduler');
  const line = { credit: 203, credit2: 410 }[sched];
  return attempt(ctx, line, `sched_${sched}_domain_get`, domid, `Getting domain sched ${sched}`, () =>
    ctx.xc.call('xc.sched_domain_get', { domid, sched }),
  );
}

/** Weight and cap, and the scheduler that they are for; without one it is that of the domain's pool. */
export type DomainSchedChange = Partial<DomainSched>;

/** Sets what `params` names. */
export async function setDomainSched(ctx: Ctx, domid: number, params: DomainSchedChange): Promise<void> {
  const sched = params.sched ?? (await domainScheduler(ctx, domid));
  if (!sched) throw invalid(ctx, 798, 'libxl_domain_sched_params_set', domid, 'Unknown scheduler');
  const lines = {
    credit: { get: 232, weight: 238, cap: 248, set: 258 },
    credit2: { get: 439, weight: 445, cap: 455, set: 465 },
  }[sched];
  const name = `sched_${sched}_domain_set`;
  const info = await ctx.xc.call('xc.domain_getinfo', { domid });
  if (!info) throw new LibxlError(Rc.INVAL, `no domain ${domid}`);
  const now = await attempt(ctx, lines.get, name, domid, `Getting domain sched ${sched}`, () =>
    ctx.xc.call('xc.sched_domain_get', { domid, sched }),
  );
  const weight = given(params.weight);
  if (weight !== undefined && (weight < 1 || weight > 65_535)) {
    const line = 'Cpu weight out of range, valid values are within range from 1 to 65535';
    throw invalid(ctx, lines.weight, name, domid, line);
  }
  const cap = given(params.cap);
  const capMax = info.maxVcpus * 100;
  if (cap !== undefined && (cap < 0 || cap > capMax)) {
    const line = `Cpu cap out of range, valid range is from 0 to ${capMax} for specified number of vcpus`;
    throw invalid(ctx, lines.cap, name, domid, line);
  }
  await attempt(ctx, lines.set, name, domid, `Setting domain sched ${sched}`, () =>
    ctx.xc.call('xc.sched_domain_set', {
      domid,
      ...now,
      ...(weight === undefined ? {} : { weight }),
      ...(cap === undefined ? {} : { cap }),
    }),
  );
}

/** Parameters of one vcpu under RTDS. Period and budget are in microseconds. */
export interface VcpuSched {
  readonly vcpu: number;
  readonly period: number;
  readonly budget: number;
}

/** Refuses to tell the parameters of vcpus: only RTDS has some. `all`: those of every vcpu were asked for. */
export async function getVcpuSched(ctx: Ctx, domid: number, all: boolean): Promise<never> {
  const [unknown, unsupported, name] = all
    ? [971, 964, 'libxl_vcpu_sched_params_get_all']
    : [938, 931, 'libxl_vcpu_sched_params_get'];
  const sched = await domainScheduler(ctx, domid);
  if (!sched) throw invalid(ctx, unknown, name, domid, 'Unknown scheduler');
  throw invalid(ctx, unsupported, name, domid, 'per-VCPU parameter getting not supported for this scheduler');
}

/** Sets the parameters of some vcpus, or the first ones for all of them: checked by libxl, and refused by the hypervisor. */
export async function setVcpuSched(ctx: Ctx, domid: number, vcpus: readonly VcpuSched[], all: boolean): Promise<void> {
  const [line, name] = all ? [705, 'sched_rtds_vcpu_set_all'] : [653, 'sched_rtds_vcpu_set'];
  // libxl does not look whether it was told of this domain or of the next one.
  const next = (await listDomains(ctx)).find((each) => each.domid >= domid);
  if (!next && !all) {
    const message = `Getting domain info: ${strerror('ESRCH')}`;
    ctx.log('error', `libxl_sched.c:614:${name}`, domid, message);
    throw new LibxlError(Rc.FAIL, message);
  }
  const last = (next?.maxVcpus ?? 1) - 1;
  for (const { vcpu, period, budget } of vcpus) {
    if (!all && (vcpu < 0 || vcpu > last)) {
      throw invalid(ctx, 627, name, domid, `Invalid VCPU ${vcpu}: valid range is [0, ${last}]`);
    }
    checkRtds(ctx, period, budget);
  }
  await attempt(ctx, line, name, domid, 'Setting vcpu sched rtds', () => ctx.xc.call('xc.sched_rtds_vcpu_set', { domid }));
}

function checkRtds(ctx: Ctx, period: number, budget: number): void {
  const refuse = (line: number, message: string) => invalid(ctx, line, 'sched_rtds_validate_params', undefined, message);
  if (period < 1) throw refuse(477, `Invalid VCPU period of ${period} (it should be >= 1)`);
  if (budget < 1) throw refuse(483, `Invalid VCPU budget of ${budget} (it should be >= 1)`);
  if (budget > period) {
    throw refuse(489, `VCPU budget must be smaller than or equal to period, but ${budget} > ${period}`);
  }
}

export function getCreditParams(ctx: Ctx, poolId: number): Promise<CreditParams> {
  return attempt(ctx, 287, 'libxl_sched_credit_params_get', undefined, 'getting Credit scheduler parameters', () =>
    ctx.xc.call('xc.sched_params_get', { poolId, sched: 'credit' }),
  );
}

export async function setCreditParams(ctx: Ctx, poolId: number, params: CreditParams): Promise<void> {
  const name = 'libxl_sched_credit_params_set';
  if (params.tsliceMs < tsliceMs.min || params.tsliceMs > tsliceMs.max) {
    const line = `Time slice out of range, valid range is from ${tsliceMs.min} to ${tsliceMs.max}`;
    throw invalid(ctx, 311, name, undefined, line);
  }
  checkRatelimit(ctx, params.ratelimitUs);
  if (params.ratelimitUs > params.tsliceMs * 1000) {
    throw invalid(ctx, 321, name, undefined, 'Ratelimit cannot be greater than timeslice');
  }
  if (params.migrationDelayUs > migrationDelayMaxUs) {
    throw invalid(ctx, 326, name, undefined, `vcpu migration delay should be >= 0 and <= ${migrationDelayMaxUs}us`);
  }
  await attempt(ctx, 338, name, undefined, 'Setting Credit scheduler parameters', () =>
    ctx.xc.call('xc.sched_params_set', { poolId, sched: 'credit', ...params }),
  );
}

/** The rate limit of a credit2 pool, in microseconds. */
export async function getCredit2Ratelimit(ctx: Ctx, poolId: number): Promise<number> {
  const params = await attempt(
    ctx,
    362,
    'libxl_sched_credit2_params_get',
    undefined,
    'getting Credit2 scheduler parameters',
    () => ctx.xc.call('xc.sched_params_get', { poolId, sched: 'credit2' }),
  );
  return params.ratelimitUs;
}

export async function setCredit2Ratelimit(ctx: Ctx, poolId: number, limitUs: number): Promise<void> {
  checkRatelimit(ctx, limitUs);
  const params: CreditParams = { tsliceMs: 0, ratelimitUs: limitUs, migrationDelayUs: 0 };
  await attempt(ctx, 389, 'libxl_sched_credit2_params_set', undefined, 'Setting Credit2 scheduler parameters', () =>
    ctx.xc.call('xc.sched_params_set', { poolId, sched: 'credit2', ...params }),
  );
}

function checkRatelimit(ctx: Ctx, limitUs: number): void {
  if (limitUs === 0 || (limitUs >= ratelimitUs.min && limitUs <= ratelimitUs.max)) return;
  const line = `Ratelimit out of range, valid range is from ${ratelimitUs.min} to ${ratelimitUs.max}`;
  throw invalid(ctx, 270, 'sched_ratelimit_check', undefined, line);
}

/** Asks the hypervisor; its refusal becomes libxl's line, `doing` and the errno. */
async function attempt<T>(
  ctx: Ctx,
  line: number,
  name: string,
  domid: number | undefined,
  doing: string,
  body: () => Promise<T>,
): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    const message = `${doing}: ${strerror(error.errno)}`;
    ctx.log('error', `libxl_sched.c:${line}:${name}`, domid, message);
    throw new LibxlError(Rc.FAIL, message, { cause: error });
  }
}

function invalid(ctx: Ctx, line: number, name: string, domid: number | undefined, message: string): LibxlError {
  ctx.log('error', `libxl_sched.c:${line}:${name}`, domid, message);
  return new LibxlError(Rc.INVAL, message);
}

function given(value: number | undefined): number | undefined {
  return value === -1 ? undefined : value;
}
