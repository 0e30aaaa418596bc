import {
  cpupoolCpus,
  cpupoolCreate,
  cpupoolDestroy,
  cpupoolMoveDomain,
  cpupoolRename,
  findCpupool,
  listCpupools,
} from '../../src/libxl/cpupool.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import { Rc } from '../../src/libxl/ctx.js';
import { destroyGuest } from '../../src/libxl/destroy.js';
import { domainInfo } from '../../src/libxl/domain.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine();
});
afterEach(() => m.dom0.close());

const uuid = '616ff13c-89e5-48d8-8708-c74cf73ee8d9';
const pools = () => m.run(listCpupools(m.ctx));
const nodes = async () => (await m.store()).filter((line) => line.startsWith('/local/pool/'));
const refusal = (work: Promise<unknown>) =>
  m.run(work).then(
    () => undefined,
    (error: unknown) => error,
  );

/** A pool `batch` of processor 1. */
async function batch(): Promise<number> {
  await m.run(cpupoolCpus(m.ctx, 'remove', 0, [1]));
  return m.run(cpupoolCreate(m.ctx, 'batch', 'credit', [1], uuid));
}

test('a pool has its processors from the hypervisor and its name from the store', async () => {
  expect(await batch()).toBe(1);
  expect(await pools()).toEqual([
    { id: 0, name: 'Pool-0', sched: 'credit2', domains: 1, cpus: [0] },
    { id: 1, name: 'batch', sched: 'credit', domains: 0, cpus: [1] },
  ]);
  expect(await nodes()).toEqual([
    '/local/pool/0 = ""   (n0)',
    '/local/pool/0/name = "Pool-0"   (n0)',
    '/local/pool/1 = ""   (n0)',
    `/local/pool/1/uuid = "${uuid}"   (n0)`,
    '/local/pool/1/name = "batch"   (n0)',
  ]);
});

test('the list ends at the first pool without a name', async () => {
  await batch();
  await m.run(m.ctx.xs.rm('/local/pool/0/name'));
  expect(await pools()).toEqual([]);
});

test('an argument is an id when it is digits, and must have a name', async () => {
  await batch();
  await m.run(cpupoolRename(m.ctx, 1, '0'));
  const found = async (text: string) => m.run(findCpupool(m.ctx, text));
  expect([await found('0'), await found('1'), await found('Pool-0'), await found('7'), await found('batch')]).toEqual([
    0,
    1,
    0,
    undefined,
    undefined,
  ]);
});

test('a scheduler that the hypervisor has not makes no pool, nor does a processor that is taken', async () => {
  expect(await refusal(cpupoolCreate(m.ctx, 'a', 'rtds', [], uuid))).toMatchObject({ rc: Rc.FAIL });
  expect(await refusal(cpupoolCreate(m.ctx, 'b', 'credit', [1], uuid))).toMatchObject({ rc: Rc.FAIL });
  expect(m.lines).toEqual([
    'libxl: error: libxl_cpupool.c:157:libxl_cpupool_create: Could not create cpupool',
    'libxl: error: libxl_cpupool.c:167:libxl_cpupool_create: Error moving cpu to cpupool',
  ]);
  expect(await pools()).toHaveLength(1);
  expect(m.dom0.handlers['xc.cpupool_getinfo']({ poolId: 1 })).toBeNull();
});

test('each processor goes for itself, and what fails is told at the end', async () => {
  await batch();
  expect(await refusal(cpupoolCpus(m.ctx, 'remove', 1, [0, 1, 2]))).toMatchObject({ rc: Rc.FAIL });
  expect(await refusal(cpupoolCpus(m.ctx, 'add', 0, [0, 1]))).toMatchObject({ rc: Rc.FAIL });
  expect(m.lines).toEqual([
    'libxl: error: libxl_cpupool.c:365:libxl_cpupool_cpuremove: Error removing cpu 0 from cpupool: Cannot assign requested address',
    'libxl: error: libxl_cpupool.c:365:libxl_cpupool_cpuremove: Error removing cpu 2 from cpupool: Invalid argument',
    'libxl: error: libxl_cpupool.c:302:libxl_cpupool_cpuadd: Error moving cpu 0 to cpupool: No such device',
  ]);
  expect(await pools()).toMatchObject([{ cpus: [0, 1] }, { cpus: [] }]);
});

test('a destroyed pool frees its processors, and leaves nothing in the store', async () => {
  const poolId = await batch();
  await m.run(cpupoolDestroy(m.ctx, poolId));
  expect(await pools()).toHaveLength(1);
  expect(m.dom0.handlers['xc.cpupool_freeinfo']({})).toEqual({ cpus: [1] });
  expect(await nodes()).toHaveLength(2);
});

describe('a domain', () => {
  test('is made in the pool that its config names, and keeps it from being destroyed', async () => {
    const poolId = await batch();
    const config = pvConfig('pv');
    const domid = await m.run(domainCreateNew(m.ctx, { ...config, cInfo: { ...config.cInfo, poolName: 'batch' } }));
    expect(await m.run(domainInfo(m.ctx, domid))).toMatchObject({ cpupool: poolId });
    expect(await refusal(cpupoolDestroy(m.ctx, poolId))).toMatchObject({ rc: Rc.INVAL });
    await m.run(destroyGuest(m.ctx, domid));
    await m.settle();
    await m.run(cpupoolDestroy(m.ctx, poolId));
    expect(m.lines).toEqual([]);
  });

  test('cannot be made in a pool that is not there, or has no processor', async () => {
    const config = pvConfig('pv');
    const inPool = (poolName: string) => ({ ...config, cInfo: { ...config.cInfo, poolName } });
    await m.run(cpupoolCreate(m.ctx, 'empty', 'credit', [], uuid));
    expect(await refusal(domainCreateNew(m.ctx, inPool('nosuch')))).toMatchObject({ rc: Rc.INVAL });
    expect(await refusal(domainCreateNew(m.ctx, inPool('empty')))).toMatchObject({ rc: Rc.FAIL });
    expect(m.lines).toEqual([
      'libxl: error: libxl_create.c:1134:libxl__domain_config_setdefault: Illegal pool specified: nosuch',
      'libxl: error: libxl_create.c:711:libxl__domain_make: domain creation fail: No such device',
      'libxl: error: libxl_create.c:1296:initiate_domain_create: cannot make domain: -3',
    ]);
  });

  test('moves to another pool, but not to one without processors, and dom0 not at all', async () => {
    const poolId = await batch();
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig('pv')));
    await m.run(cpupoolMoveDomain(m.ctx, poolId, domid));
    expect(await pools()).toMatchObject([{ domains: 1 }, { domains: 1 }]);
    const empty = await m.run(cpupoolCreate(m.ctx, 'empty', 'credit', [], uuid));
    for (const [pool, domain] of [
      [empty, domid],
      [poolId, 0],
    ] as const) {
      expect(await refusal(cpupoolMoveDomain(m.ctx, pool, domain))).toMatchObject({ rc: Rc.FAIL });
    }
    expect(m.lines).toEqual([
      'libxl: error: libxl_cpupool.c:437:libxl_cpupool_movedomain: Domain 1:Error moving domain to cpupool',
      'libxl: error: libxl_cpupool.c:437:libxl_cpupool_movedomain: Error moving domain to cpupool',
    ]);
  });
});
