/** mem-set and mem-max: sizes as xl reads them, what libxl checks and writes, and what the kernels make of it. */
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { domainSetMaxMem, parseMemSizeKb, setMemoryTarget } from '../../src/libxl/memory.js';
import type { DomInfo } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';

test.each([
  ['96', 98_304n],
  ['96m', 98_304n],
  ['96M', 98_304n],
  ['131072k', 131_072n],
  ['134217728b', 131_072n],
  ['1023b', 0n],
  ['2g', 2_097_152n],
  ['1t', 1_073_741_824n],
  ['', 0n],
  [' 7', 7168n],
  ['-5', -5120n],
  ['-1k', undefined],
  ['abc', undefined],
  ['1x', undefined],
  ['1mm', undefined],
  ['m', 0n],
  ['99999999999999999999k', 2n ** 63n - 1n],
  ['9007199254740992g', 0n],
])('the size %j is %s KiB', (text, kb) => {
  expect(parseMemSizeKb(text)).toBe(kb);
});

let m: Machine;
afterEach(() => m?.dom0.close());

const info = (domid: number) => m.dom0.handlers['xc.domain_getinfo']({ domid }) as DomInfo;
const freeKb = () => (m.dom0.handlers['xc.physinfo']({}) as { freeKb: number }).freeKb;
const read = (path: string) => m.run(m.ctx.xs.read(path));

/** A guest of 128 MiB that may have 256. */
async function guest(): Promise<void> {
  m = await machine();
  const { bInfo } = pvConfig();
  await m.run(domainCreateNew(m.ctx, pvConfig('pv', { bInfo: { ...bInfo, maxMemkb: 262_144 } })));
  await m.run(domainUnpause(m.ctx, 1));
  await m.settle();
}

const fails = async (work: Promise<void>) => {
  m.lines.length = 0;
  await expect(m.run(work)).rejects.toThrow();
  return m.lines;
};

describe('mem-set', () => {
  test("moves a guest's memory to what is free and back, and Xen's limit with it", async () => {
    await guest();
    const free = freeKb();
    await m.run(setMemoryTarget(m.ctx, 1, 102_400n));
    await m.settle();
    expect([info(1).currentKb, info(1).maxKb, freeKb() - free]).toEqual([102_400, 103_424, 28_672]);
    expect(await read('/local/domain/1/memory/target')).toBe('102400');
    expect(await read(`/vm/${info(1).uuid}/memory`)).toBe('100');
    await m.run(setMemoryTarget(m.ctx, 1, 262_144n));
    await m.settle();
    expect(info(1).currentKb).toBe(262_144);
  });

  test('reads and writes in one transaction, in the order of libxl', async () => {
    await guest();
    const before = m.trace.length;
    await m.run(setMemoryTarget(m.ctx, 1, 102_400n));
    const asked = m.trace.slice(before).filter(({ who, op }) => who === 'xl' && !op.endsWith('EVENT'));
    expect(asked.map(({ op, args }) => [op, ...args].join(' '))).toEqual([
      expect.stringMatching(/^TRANSACTION_START/),
      'READ /local/domain/1/memory/target',
      'READ /local/domain/1/memory/static-max',
      'READ /local/domain/1/memory/videoram',
      'WRITE /local/domain/1/memory/target 102400',
      `READ /vm/${info(1).uuid}`,
      `WRITE /vm/${info(1).uuid}/memory 100`,
      'TRANSACTION_END T',
    ]);
  });

  test('a paused guest has its target, and follows it once it runs, as far as its kernel can', async () => {
    m = await machine();
    await m.run(domainCreateNew(m.ctx, pvConfig()));
    await m.run(setMemoryTarget(m.ctx, 1, 65_536n));
    await m.settle();
    expect(info(1).currentKb).toBe(131_072);
    await m.run(domainUnpause(m.ctx, 1));
    await m.settle();
    expect(info(1).currentKb).toBe(86 * 1024);
  });

  test('is refused over the maximum, without a change', async () => {
    await guest();
    const where = 'libxl: error: libxl_mem.c:278:libxl_set_memory_target: Domain 1:';
    const line = `${where}memory_dynamic_max must be less than or equal to memory_static_max\n`;
    expect(await fails(setMemoryTarget(m.ctx, 1, 262_145n))).toEqual([line]);
    expect(await fails(setMemoryTarget(m.ctx, 1, -5120n))).toEqual([line]);
    expect([await read('/local/domain/1/memory/target'), info(1).maxKb]).toEqual(['131072', 132_096]);
  });

  test('leaves dom0 its least, and makes the nodes that dom0 lacks', async () => {
    m = await machine();
    expect(await fails(setMemoryTarget(m.ctx, 0, 10_240n))).toEqual([
      'libxl: error: libxl_mem.c:287:libxl_set_memory_target: New target 10240 for dom0 is below the minimum threshold',
    ]);
    await m.run(m.ctx.xs.rm('/local/domain/0/memory'));
    await m.run(setMemoryTarget(m.ctx, 0, 1_048_576n));
    await m.settle();
    expect(info(0)).toMatchObject({ currentKb: 1_048_576, maxKb: 1_049_600 });
    expect(await read('/local/domain/0/memory/static-max')).toBe('1572864');
    expect(await read('/vm/00000000-0000-0000-0000-000000000000/memory')).toBe('1024');
  });

  test('knows no domain that is not there, and none of which nothing is left but itself', async () => {
    await guest();
    expect(await fails(setMemoryTarget(m.ctx, 99, 1n))).toEqual([
      'libxl: error: libxl_dom.c:1216:libxl__userdata_path: unable to find domain info for domain 99: Success',
    ]);
    m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
    await m.run(domainDestroy(m.ctx, 1));
    expect(await fails(setMemoryTarget(m.ctx, 1, 1n))).toEqual([
      'libxl: error: libxl_mem.c:210:libxl_set_memory_target: unable to retrieve domain configuration: No such file or directory',
    ]);
  });
});

describe('mem-max', () => {
  test("raises what may be asked for, and Xen's limit", async () => {
    await guest();
    await m.run(domainSetMaxMem(m.ctx, 1, 307_200n));
    expect([await read('/local/domain/1/memory/static-max'), info(1).maxKb]).toEqual(['307200', 308_224]);
    await m.run(setMemoryTarget(m.ctx, 1, 300_000n));
    await m.settle();
    expect(info(1).currentKb).toBe(300_000);
  });

  test('is not less than the target', async () => {
    await guest();
    expect(await fails(domainSetMaxMem(m.ctx, 1, 131_071n))).toEqual([
      'libxl: error: libxl_mem.c:59:libxl_domain_setmaxmem: Domain 1:memory_static_max must be greater than or or equal to memory_dynamic_max: Success',
    ]);
  });

  test('a negative one is no limit, and a target past all memory moves nothing', async () => {
    m = await machine();
    await m.run(domainSetMaxMem(m.ctx, 0, -5120n));
    expect(await read('/local/domain/0/memory/static-max')).toBe('18446744073709546496');
    expect(info(0).maxKb).toBe(0xffff_ffff * 4);
    await m.run(setMemoryTarget(m.ctx, 0, -5120n));
    await m.settle();
    expect(info(0).currentKb).toBe(1_572_864);
  });
});
