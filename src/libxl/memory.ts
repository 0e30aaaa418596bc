/**
 * How much memory a domain has and may have: the target that its kernel balloons to, and Xen's limit (libxl_mem.c of 4.17).
 *
 * libxl sets Xen's limit and writes nodes. The memory moves when the domain's kernel acts on its target, which nobody here
 * waits for.
 */
import { domainPath, join, vmPath } from '../xenbus/paths.js';
import { PrivcmdError } from '../xenbus/privcmd.js';
import { abort } from '../xenbus/xs-client.js';
import { strerror, transact } from './ao.js';
import { userdataName } from './create.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { domainInfo } from './domain.js';
import { asUint64, atoi, strtol } from './strtol.js';

/** What a domain may use on top of its memory, in KiB (LIBXL_MAXMEM_CONSTANT). */
const extraKb = 1024n;
/** What dom0 must keep, in KiB (LIBXL_MIN_DOM0_MEM). */
const leastDom0Kb = 128n * 1024n;

/**
 * A size as xl reads it (parse_mem_size_kb): a number and one letter for its unit, MiB without. In KiB; undefined when it is
 * none. A number past 64 bits is the last one there is, and what a unit shifts out is lost.
 */
export function parseMemSizeKb(text: string): bigint | undefined {
  const { value, end } = strtol(text, 10);
  const rest = text.slice(end);
  if (rest.length > 1) return undefined;
  const shifts: Readonly<Record<string, bigint>> = { t: 30n, g: 20n, m: 10n, '': 10n, k: 0n, b: -10n };
  const shift = shifts[rest.toLowerCase()];
  if (shift === undefined) return undefined;
  const most = 2n ** 63n - 1n;
  const long = value > most ? most : value < -most - 1n ? -most - 1n : value;
  const kb = BigInt.asIntN(64, shift < 0n ? long >> -shift : long << shift);
  return kb === -1n ? undefined : kb;
}

/** Sets what the domain may have at most (libxl_domain_setmaxmem). It must not be less than its target. */
export async function domainSetMaxMem(ctx: Ctx, domid: number, maxKb: bigint): Promise<void> {
  const fail = failing(ctx, domid);
  const memory = join(domainPath(domid), 'memory');
  const max = BigInt.asUintN(64, maxKb);
  await lockUserdata(ctx, domid);
  const text = await ctx.xs.read(join(memory, 'target'));
  if (text === undefined) throw fail(47, SETMAXMEM, `Cannot get memory info from ${memory}/target: ${strerror('ENOENT')}`);
  const target = wholeNumber(text);
  if (target === undefined) throw fail(53, SETMAXMEM, `Invalid memory ${text} from ${memory}/target\n: Success`);
  if (max < target) {
    throw fail(59, SETMAXMEM, 'memory_static_max must be greater than or or equal to memory_dynamic_max: Success');
  }
  await domainConfiguration(ctx, domid, `libxl_mem.c:66:${SETMAXMEM}`);
  await setLimit(ctx, domid, max + extraKb, (kb, error) =>
    fail(78, SETMAXMEM, `xc_domain_setmaxmem domid=${domid} memkb=${kb} failed rc=-1\n: ${error}`),
  );
  await ctx.xs.write(join(memory, 'static-max'), String(max));
}

const SETMAXMEM = 'libxl_domain_setmaxmem';
const SETTARGET = 'libxl_set_memory_target';

/** Sets the target of the domain and, with it, Xen's limit (libxl_set_memory_target with `enforce`). */
export async function setMemoryTarget(ctx: Ctx, domid: number, targetKb: bigint): Promise<void> {
  const fail = failing(ctx, domid);
  const memory = join(domainPath(domid), 'memory');
  await lockUserdata(ctx, domid);
  await domainConfiguration(ctx, domid, `libxl_mem.c:210:${SETTARGET}`);
  for (let filled = false; ; filled = true) {
    const done = await transact(ctx, async (tx) => {
      const target = await tx.read(join(memory, 'target'));
      if (target === undefined && domid === 0 && !filled) return abort;
      if (target === undefined) {
        throw fail(234, SETTARGET, `Cannot get target memory info from ${memory}/target: ${strerror('ENOENT')}`);
      }
      if (wholeNumber(target) === undefined) {
        throw fail(242, SETTARGET, `Invalid memory target ${target} from ${memory}/target\n: Success`);
      }
      const text = await tx.read(join(memory, 'static-max'));
      if (text === undefined) {
        throw fail(251, SETTARGET, `Cannot get memory info from ${memory}/static-max: ${strerror('ENOENT')}`);
      }
      const most = wholeNumber(text);
      if (most === undefined) throw fail(259, SETTARGET, `Invalid max memory ${text} from ${memory}/static-max\n: Success`);
      const videoram = BigInt(atoi((await tx.read(join(memory, 'videoram'))) ?? '0'));
      const wanted = BigInt.asUintN(64, targetKb - videoram);
      if (wanted > most) {
        throw fail(278, SETTARGET, 'memory_dynamic_max must be less than or equal to memory_static_max\n', Rc.INVAL);
      }
      if (domid === 0 && wanted < leastDom0Kb) {
        throw fail(287, SETTARGET, `New target ${wanted} for dom0 is below the minimum threshold`, Rc.INVAL);
      }
      await setLimit(ctx, domid, wanted + videoram + extraKb, (kb, error) =>
        fail(299, SETTARGET, `xc_domain_setmaxmem memkb=${kb} failed rc=-1\n: ${error}`),
      );
      await tx.write(join(memory, 'target'), String(wanted));
      const info = await domainInfo(ctx, domid);
      if (!info) throw new LibxlError(Rc.FAIL, `domain ${domid} is gone`);
      await tx.write(join(vmPath(info.uuid), 'memory'), String(wanted / 1024n));
      return true;
    });
    if (done === true) return;
    await fillDom0Memory(ctx);
  }
}

/** Writes the nodes that dom0's kernel does not make (libxl__fill_dom0_memory_info). */
export async function fillDom0Memory(ctx: Ctx): Promise<void> {
  const memory = join(domainPath(0), 'memory');
  const info = await domainInfo(ctx, 0);
  if (!info) throw new LibxlError(Rc.FAIL, 'there is no domain 0');
  await transact(ctx, async (tx) => {
    if ((await tx.read(join(memory, 'target'))) === undefined) await tx.write(join(memory, 'target'), String(info.currentKb));
    if ((await tx.read(join(memory, 'static-max'))) === undefined) await tx.write(join(memory, 'static-max'), String(info.maxKb));
  });
}

/** Userdata has a lock for each domain, which only a domain that exists can have. */
async function lockUserdata(ctx: Ctx, domid: number): Promise<void> {
  if (await domainInfo(ctx, domid)) return;
  const line = `unable to find domain info for domain ${domid}`;
  ctx.log('error', 'libxl_dom.c:1216:libxl__userdata_path', undefined, `${line}: Success`);
  throw new LibxlError(Rc.LOCK_FAIL, line);
}

/** What was saved of a domain must be there, though nothing is made of it: every guest here is PV. dom0's is built in. */
async function domainConfiguration(ctx: Ctx, domid: number, where: string): Promise<void> {
  const info = await domainInfo(ctx, domid);
  if (domid === 0 || (info && (await ctx.host.readUserdata(userdataName(domid, info.uuid, 'libxl-json'))) !== undefined)) return;
  const line = 'unable to retrieve domain configuration';
  ctx.log('error', where, undefined, `${line}: ${strerror('ENOENT')}`);
  throw new LibxlError(Rc.FAIL, line);
}

async function setLimit(ctx: Ctx, domid: number, kb: bigint, failed: (kb: bigint, error: string) => LibxlError): Promise<void> {
  const maxKb = BigInt.asUintN(64, kb);
  try {
    await ctx.xc.call('xc.domain_setmaxmem', { domid, maxKb: Number(maxKb) });
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    throw failed(maxKb, strerror(error.errno));
  }
}

/** Logs a line and makes the error of it. */
function failing(ctx: Ctx, domid: number) {
  return (line: number, where: string, message: string, rc: Rc = Rc.FAIL): LibxlError => {
    ctx.log('error', `libxl_mem.c:${line}:${where}`, domid, message);
    return new LibxlError(rc, message);
  };
}

/** What `strtoull` makes of the whole of a node; undefined when something else is behind the number. */
function wholeNumber(text: string): bigint | undefined {
  const number = strtol(text, 10);
  return number.end === text.length ? asUint64(number) : undefined;
}
