import { cpuList, cpuListText } from '../../src/libxl/cpu-list.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import { Rc } from '../../src/libxl/ctx.js';
import { domainInfo, domainPause, domainUnpause } from '../../src/libxl/domain.js';
import type { BuildInfo } from '../../src/libxl/domain-config.js';
import { retrieveConfig } from '../../src/libxl/saved-config.js';
import { listVcpus, setVcpuAffinity, setVcpuAffinityAll, setVcpusOnline } from '../../src/libxl/vcpu.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine();
});
afterEach(() => m.dom0.close());

const plain = pvConfig();
const config = (bInfo: Partial<BuildInfo>, name = 'pv') => pvConfig(name, { bInfo: { ...plain.bInfo, ...bInfo } });

async function running(bInfo: Partial<BuildInfo> = {}): Promise<number> {
  const domid = await m.run(domainCreateNew(m.ctx, config(bInfo)));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  return domid;
}

/** `VCPU CPU STATE HARD / SOFT` of each vcpu, as `xl vcpu-list` has it. */
async function vcpus(domid: number): Promise<string[] | undefined> {
  const all = await m.run(listVcpus(m.ctx, domid));
  return all?.map(({ vcpu, online, running, blocked, pcpu, hard, soft }) => {
    const state = `${running ? 'r' : '-'}${blocked ? 'b' : '-'}${online ? '-' : 'p'}`;
    return `${vcpu} ${online ? pcpu : '-'} ${state} ${cpuListText(hard, 2)} / ${cpuListText(soft, 2)}`;
  });
}

const refusal = (work: Promise<unknown>) =>
  m.run(work).then(
    () => undefined,
    (error: unknown) => error,
  );

describe('a list of processors', () => {
  test.each([
    ['all', 'all'],
    ['0-1,^1', '0'],
    ['nodes:0', 'all'],
    ['node:all', 'all'],
    ['node:5', 'none'],
    ['1', '1'],
    ['5', 'none'],
    ['', 'none'],
  ])('%j is %s of two', (text, shown) => {
    const cpus = cpuList(text, 2);
    expect(typeof cpus === 'string' ? cpus : cpuListText(cpus, 2)).toBe(shown);
  });

  test.each([
    ['1x', 'Invalid pcpu range: 1x.'],
    ['^all', 'Can\'t combine "^" and "all".'],
    ['3-1', 'Invalid pcpu range: 3-1.'],
    ['-1', 'Invalid pcpu range: -1.'],
    ['0-18446744073709551615', 'Invalid pcpu range: 0-18446744073709551615.'],
  ])('%j is none', (text, mistake) => expect(cpuList(text, 2)).toBe(mistake));

  test('is printed in ranges, and is all when none is left out', () => {
    expect([[], [0, 1, 2, 3], [0, 1, 3], [2, 3], [1, 9]].map((cpus) => cpuListText(cpus, 4))).toEqual([
      'none',
      'all',
      '0-1,3',
      '2-3',
      '1',
    ]);
  });
});

describe('the vcpus of a guest', () => {
  test('are off until it boots, but for the first; then those that it is not to have go off again', async () => {
    const domid = await m.run(domainCreateNew(m.ctx, config({ maxVcpus: 3 })));
    expect(await vcpus(domid)).toEqual(['0 0 --- all / all', '1 - --p all / all', '2 - --p all / all']);
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    expect(await vcpus(domid)).toEqual(['0 0 -b- all / all', '1 1 -b- all / all', '2 - --p all / all']);
    expect(await m.run(domainInfo(m.ctx, domid))).toMatchObject({ onlineVcpus: 2, maxVcpus: 3 });
  });

  test('do nothing while it is paused', async () => {
    const domid = await running();
    await m.run(domainPause(m.ctx, domid));
    expect(await vcpus(domid)).toEqual(['0 0 --- all / all', '1 1 --- all / all']);
  });

  test('go off when they are asked to, and nobody in the guest brings them back', async () => {
    const domid = await running();
    await m.run(setVcpusOnline(m.ctx, domid, 1));
    await m.settle();
    expect(await vcpus(domid)).toEqual(['0 0 -b- all / all', '1 - --p all / all']);
    expect((await m.run(retrieveConfig(m.ctx, domid)))?.bInfo).toMatchObject({ maxVcpus: 2, availVcpus: [0] });
    await m.run(setVcpusOnline(m.ctx, domid, 2));
    await m.settle();
    expect(await m.run(m.ctx.xs.read(`/local/domain/${domid}/cpu/1/availability`))).toBe('online');
    expect(await vcpus(domid)).toEqual(['0 0 -b- all / all', '1 - --p all / all']);
  });

  test('of dom0 come back', async () => {
    await m.run(setVcpusOnline(m.ctx, 0, 1));
    await m.settle();
    expect(await vcpus(0)).toEqual(['0 0 r-- all / all', '1 - --p all / all']);
    await m.run(setVcpusOnline(m.ctx, 0, 2));
    await m.settle();
    expect(await vcpus(0)).toEqual(['0 0 r-- all / all', '1 1 -b- all / all']);
  });

  test('have the time of their domain between them', async () => {
    const domid = await running();
    const times = ((await m.run(listVcpus(m.ctx, domid))) ?? []).map(({ cpuTime }) => cpuTime);
    const info = await m.run(domainInfo(m.ctx, domid));
    expect(times).toHaveLength(2);
    expect(times.every((time) => time > 0)).toBe(true);
    expect(times.reduce((sum, time) => sum + time, 0)).toBe(info?.cpuTime);
  });
});

describe('without such a domain', () => {
  test('nothing is listed, and the next domain is what libxl counts', async () => {
    expect(await vcpus(99)).toBeUndefined();
    const { cInfo } = pvConfig();
    await m.run(domainCreateNew(m.ctx, { ...config({}), cInfo: { ...cInfo, domid: 7 } }));
    expect(await vcpus(3)).toBeUndefined();
    expect(m.lines).toEqual([
      'libxl: error: libxl_domain.c:1667:libxl_list_vcpu: Domain 99:Getting infolist: No such file or directory',
      'libxl: error: libxl_domain.c:1691:libxl_list_vcpu: Domain 3:Getting vcpu info: No such process',
    ]);
  });

  test('an affinity and a number of vcpus are refused', async () => {
    expect(await refusal(setVcpuAffinity(m.ctx, 99, 0, { soft: [0] }))).toMatchObject({ rc: Rc.FAIL });
    expect(await refusal(setVcpusOnline(m.ctx, 99, 1))).toMatchObject({ rc: Rc.DOMAIN_NOTFOUND });
    expect(m.lines).toEqual([
      'libxl: error: libxl_sched.c:62:libxl__set_vcpuaffinity: Domain 99:Setting vcpu affinity: No such process',
      'libxl: error: libxl_domain.c:1856:libxl_set_vcpuonline: Domain 99:Getting domain info list: No such file or directory',
    ]);
  });
});

test('a domain has one vcpu at least, and no more than it was made with', async () => {
  const domid = await running();
  for (const count of [0, 3]) expect(await refusal(setVcpusOnline(m.ctx, domid, count))).toMatchObject({ rc: Rc.FAIL });
  expect(m.lines).toEqual([
    'libxl: error: libxl_domain.c:1863:libxl_set_vcpuonline: Domain 1:Requested 0 VCPUs!: Function not implemented',
    'libxl: error: libxl_domain.c:1869:libxl_set_vcpuonline: Domain 1:Requested 3 VCPUs, however maxcpus is 2!: Function not implemented',
  ]);
});

describe('affinity', () => {
  const unreachable = (vcpu: number) =>
    'libxl: warning: libxl_sched.c:84:libxl__set_vcpuaffinity: ' +
    `Domain 1:All cpus in soft affinity of vcpu ${vcpu} are unreachable. Only hard affinity will be considered for scheduling`;

  test('of a vcpu is set, and warned of when it prefers what it cannot have', async () => {
    const domid = await running();
    await m.run(setVcpuAffinity(m.ctx, domid, 0, { hard: [0], soft: [1] }));
    expect(await vcpus(domid)).toEqual(['0 0 -b- 0 / 1', '1 1 -b- all / all']);
    expect(m.lines).toEqual([unreachable(0)]);
  });

  test('of neither kind is no request, unless a pinning is taken back', async () => {
    const domid = await running();
    expect(await refusal(setVcpuAffinity(m.ctx, domid, 0, {}))).toMatchObject({ rc: Rc.INVAL });
    await m.run(setVcpuAffinity(m.ctx, domid, 0, {}, true));
    expect(m.lines).toEqual([]);
  });

  test('of all vcpus is set one by one, past those that fail', async () => {
    const domid = await running();
    expect(await refusal(setVcpuAffinityAll(m.ctx, domid, 2, { hard: [5] }))).toMatchObject({ rc: Rc.FAIL });
    const failed = 'libxl: error: libxl_sched.c:62:libxl__set_vcpuaffinity: Domain 1:Setting vcpu affinity: Invalid argument';
    expect(m.lines).toEqual([
      failed,
      'libxl: warning: libxl_sched.c:124:libxl_set_vcpuaffinity_all: Domain 1:Failed to set affinity for 0',
      failed,
      'libxl: warning: libxl_sched.c:124:libxl_set_vcpuaffinity_all: Domain 1:Failed to set affinity for 1',
    ]);
  });

  test('of a config is there before the domain runs', async () => {
    const bInfo = { vcpuHardAffinity: [[0], [0]], vcpuSoftAffinity: [[5], [0, 1]], numaPlacement: false };
    const domid = await m.run(domainCreateNew(m.ctx, config(bInfo)));
    expect(await vcpus(domid)).toEqual(['0 0 --- 0 / none', '1 - --p 0 / all']);
    expect(m.lines).toEqual([unreachable(0)]);
  });

  test.each([
    [undefined, ["libxl: error: libxl_dom.c:190:numa_place_domain: Hard affinity completely outside of domain's cpupool!"], -6],
    [
      false,
      [
        'libxl: error: libxl_sched.c:62:libxl__set_vcpuaffinity: Domain 1:Setting vcpu affinity: Invalid argument',
        "libxl: error: libxl_dom.c:350:libxl__build_pre: setting affinity failed on vcpu `0'",
      ],
      -3,
    ],
  ])('of a config that leaves no processor makes no domain (placed: %s)', async (numaPlacement, lines, rc) => {
    const bInfo = { vcpuHardAffinity: [[5], [5]], ...(numaPlacement === undefined ? {} : { numaPlacement }) };
    expect(await refusal(domainCreateNew(m.ctx, config(bInfo)))).toMatchObject({ rc: Rc.FAIL });
    expect(m.lines).toEqual([
      ...lines,
      `libxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain 1:cannot (re-)build domain: ${rc}`,
    ]);
    expect(await m.run(domainInfo(m.ctx, 1))).toBeUndefined();
  });
});
