/**
 * Cpupools: the hypervisor has their processors and domains, the store their names (`/local/pool/ID/name`).
 *
 * Lines and order of requests are those of libxl_cpupool.c of 4.17.
 */
import { type CpupoolInfo, PrivcmdError } from '../xenbus/privcmd.js';
import { byteString, textOf } from '../xenbus/xs-client.js';
import { strerror, transact } from './ao.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';

export interface Cpupool extends CpupoolInfo {
  readonly name: string;
}

/** libxl's schedulers, by rising id. A hypervisor has some of them. */
export const schedulerNames = ['unknown', 'sedf', 'credit', 'credit2', 'arinc653', 'rtds', 'null'] as const;

/** The name of a pool; undefined for one that has none, and for one that is not there. */
export async function cpupoolName(ctx: Ctx, poolId: number): Promise<string | undefined> {
  const name = await ctx.xs.read(`${poolPath(poolId)}/name`);
  return name === undefined ? undefined : textOf(name);
}

/** Every pool by rising id, up to the first that has no name: libxl takes that for the end. */
export async function listCpupools(ctx: Ctx): Promise<readonly Cpupool[]> {
  const pools: Cpupool[] = [];
  for (let poolId = 0; ; ) {
    const info = await ctx.xc.call('xc.cpupool_getinfo', { poolId });
    const name = info ? await cpupoolName(ctx, info.id) : undefined;
    if (!info || name === undefined) return pools;
    pools.push({ ...info, name });
    poolId = info.id + 1;
  }
}

/** The pool of that name. */
export async function nameToCpupool(ctx: Ctx, name: string): Promise<number | undefined> {
  return (await listCpupools(ctx)).find((pool) => pool.name === name)?.id;
}

/** The pool that a `<CPU Pool>` argument means, by id or by name; undefined when it has no name in the store. */
export async function findCpupool(ctx: Ctx, text: string): Promise<number | undefined> {
  const poolId = /^\d+$/.test(text) ? Number(text) % 2 ** 32 : await nameToCpupool(ctx, text);
  return poolId !== undefined && (await cpupoolName(ctx, poolId)) !== undefined ? poolId : undefined;
}

/** Makes a pool of free processors. What could not be given to it fails, and the pool is gone again. */
export async function cpupoolCreate(
  ctx: Ctx,
  name: string,
  sched: string,
  cpus: readonly number[],
  uuid: string,
): Promise<number> {
  const { poolId } = await attempt(ctx, 157, 'libxl_cpupool_create', 'Could not create cpupool', () =>
    ctx.xc.call('xc.cpupool_create', { sched }),
  );
  for (const cpu of cpus) {
    try {
      await attempt(ctx, 167, 'libxl_cpupool_create', 'Error moving cpu to cpupool', () =>
        ctx.xc.call('xc.cpupool_addcpu', { poolId, cpu }),
      );
    } catch (error) {
      await cpupoolDestroy(ctx, poolId).catch(ignoreFailure);
      throw error;
    }
  }
  await transact(ctx, async (tx) => {
    await tx.write(poolPath(poolId), '');
    await tx.write(`${poolPath(poolId)}/uuid`, uuid);
    await tx.write(`${poolPath(poolId)}/name`, byteString(name));
  });
  return poolId;
}

/** Frees a pool's processors and removes it. A pool with domains is refused without a word. */
export async function cpupoolDestroy(ctx: Ctx, poolId: number): Promise<void> {
  const info = await poolInfo(ctx, poolId);
  if (info.domains > 0) throw new LibxlError(Rc.INVAL, `cpupool ${poolId} has ${info.domains} domains`);
  for (const cpu of info.cpus) {
    await attempt(ctx, 219, 'libxl_cpupool_destroy', 'Error removing cpu from cpupool', () =>
      ctx.xc.call('xc.cpupool_removecpu', { poolId, cpu }),
    );
  }
  await attempt(ctx, 227, 'libxl_cpupool_destroy', 'Could not destroy cpupool', () =>
    ctx.xc.call('xc.cpupool_destroy', { poolId }),
  );
  await ctx.xs.rm(poolPath(poolId));
}

export async function cpupoolRename(ctx: Ctx, poolId: number, name: string): Promise<void> {
  await poolInfo(ctx, poolId);
  await transact(ctx, (tx) => tx.write(`${poolPath(poolId)}/name`, byteString(name)));
}

async function poolInfo(ctx: Ctx, poolId: number): Promise<CpupoolInfo> {
  const info = await ctx.xc.call('xc.cpupool_getinfo', { poolId });
  if (!info) throw new LibxlError(Rc.NOMEM, `no cpupool ${poolId} or above`);
  if (info.id !== poolId) throw new LibxlError(Rc.INVAL, `no cpupool ${poolId}`);
  return info;
}

/** Adds processors to a pool, or removes them: each for itself, and afterwards it fails if one did. */
export async function cpupoolCpus(ctx: Ctx, what: 'add' | 'remove', poolId: number, cpus: readonly number[]): Promise<void> {
  let failed: unknown;
  for (const cpu of cpus) {
    try {
      await cpupoolCpu(ctx, what, poolId, cpu);
    } catch (error) {
      ignoreFailure(error);
      failed = error;
    }
  }
  if (failed !== undefined) throw new LibxlError(Rc.FAIL, `some cpus of pool ${poolId} stay where they are`, { cause: failed });
}

async function cpupoolCpu(ctx: Ctx, what: 'add' | 'remove', poolId: number, cpu: number): Promise<void> {
  const line = what === 'add' ? `Error moving cpu ${cpu} to cpupool` : `Error removing cpu ${cpu} from cpupool`;
  const op = what === 'add' ? 'xc.cpupool_addcpu' : 'xc.cpupool_removecpu';
  const place = what === 'add' ? 302 : 365;
  await attempt(ctx, place, `libxl_cpupool_cpu${what}`, line, () => ctx.xc.call(op, { poolId, cpu }), { why: true });
}

export async function cpupoolMoveDomain(ctx: Ctx, poolId: number, domid: number): Promise<void> {
  const move = () => ctx.xc.call('xc.cpupool_movedomain', { poolId, domid });
  await attempt(ctx, 437, 'libxl_cpupool_movedomain', 'Error moving domain to cpupool', move, { domid });
}

/** Asks the hypervisor. Most of libxl's lines about its refusals leave out why. */
async function attempt<T>(
  ctx: Ctx,
  line: number,
  name: string,
  doing: string,
  body: () => Promise<T>,
  more: More = {},
): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    const message = more.why ? `${doing}: ${strerror(error.errno)}` : doing;
    ctx.log('error', `libxl_cpupool.c:${line}:${name}`, more.domid, message);
    throw new LibxlError(Rc.FAIL, message, { cause: error });
  }
}

interface More {
  readonly domid?: number;
  /** Whether the line ends with the errno. */
  readonly why?: boolean;
}

function ignoreFailure(error: unknown): void {
  if (!(error instanceof LibxlError)) throw error;
}

function poolPath(poolId: number): string {
  return `/local/pool/${poolId}`;
}
