import { Cpus, charge, cpuTime, type DomainCpus, onlineVcpus } from '../../src/xenbus/cpus.js';

/** The host of the recordings has two processors. */
let cpus: Cpus;
beforeEach(() => {
  cpus = new Cpus(2);
});

const pcpus = ({ vcpus }: DomainCpus) => vcpus.map(({ pcpu }) => pcpu);
const hard = ({ vcpus }: DomainCpus) => vcpus.map((vcpu) => vcpu.hard);
const thrown = (run: () => unknown) => {
  try {
    run();
  } catch (error) {
    return error;
  }
  return undefined;
};

/** A pool of one processor, taken from Pool-0. */
function poolOf1(): number {
  const id = cpus.createPool('credit');
  cpus.removeCpu(0, 1);
  cpus.addCpu(id, 1);
  return id;
}

test('Pool-0 has every processor, and its scheduler is credit2', () => {
  expect(cpus.poolInfo(0)).toEqual({ id: 0, sched: 'credit2', domains: 0, cpus: [0, 1] });
  expect(cpus.poolInfo(1)).toBeNull();
  expect(cpus.freeCpus()).toEqual([]);
});

test('the vcpus of a new domain lie on the processors in turn, and all but the first are off', () => {
  const domain = cpus.addDomain(3);
  expect(pcpus(domain)).toEqual([0, 1, 0]);
  expect(onlineVcpus(domain)).toBe(1);
  expect(cpus.poolInfo(0)).toMatchObject({ domains: 1 });
  cpus.removeDomain(domain);
  expect(cpus.poolInfo(0)).toMatchObject({ domains: 0 });
});

describe('a pool', () => {
  test('has the next id, and is found by the first id that is not below', () => {
    expect([cpus.createPool('credit'), cpus.createPool('credit2')]).toEqual([1, 2]);
    cpus.destroyPool(1);
    expect(cpus.poolInfo(1)).toEqual({ id: 2, sched: 'credit2', domains: 0, cpus: [] });
    expect(cpus.createPool('credit')).toBe(3);
  });

  test('needs a scheduler that was built in, and there are two a processor at most', () => {
    expect(thrown(() => cpus.createPool('rtds'))).toMatchObject({ errno: 'ENOENT' });
    for (let count = 1; count < 4; count++) cpus.createPool('credit');
    expect(thrown(() => cpus.createPool('credit'))).toMatchObject({ errno: 'ENOSPC' });
  });

  test('gets free processors only', () => {
    const id = cpus.createPool('credit');
    expect(thrown(() => cpus.addCpu(id, 1))).toMatchObject({ errno: 'ENODEV' });
    expect(thrown(() => cpus.addCpu(id, 2))).toMatchObject({ errno: 'EINVAL' });
    expect(thrown(() => cpus.addCpu(7, 1))).toMatchObject({ errno: 'ENOENT' });
    cpus.removeCpu(0, 1);
    expect(cpus.freeCpus()).toEqual([1]);
    cpus.addCpu(id, 1);
    expect([cpus.poolInfo(0), cpus.poolInfo(1)]).toMatchObject([{ cpus: [0] }, { cpus: [1] }]);
  });

  test.each([
    ['the boot processor of Pool-0', 0, 0, 'EINVAL'],
    ['a processor that is not there', 0, 2, 'EINVAL'],
    ['a processor of another pool', 1, 0, 'EADDRNOTAVAIL'],
    ['the last one under a domain', 1, 1, 'EBUSY'],
  ])('does not lose %s', (_what, id, cpu, errno) => {
    cpus.addDomain(1, poolOf1());
    expect(thrown(() => cpus.removeCpu(id, cpu))).toMatchObject({ errno });
  });

  test('is destroyed when it has neither processors nor domains', () => {
    const id = poolOf1();
    expect(thrown(() => cpus.destroyPool(id))).toMatchObject({ errno: 'EBUSY' });
    cpus.removeCpu(id, 1);
    cpus.destroyPool(id);
    expect(cpus.poolInfo(1)).toBeNull();
  });

  test('without a processor takes no domain', () => {
    const id = cpus.createPool('credit');
    expect(thrown(() => cpus.addDomain(1, id))).toMatchObject({ errno: 'ENODEV' });
    expect(thrown(() => cpus.moveDomain(cpus.addDomain(1), id))).toMatchObject({ errno: 'ENOENT' });
    expect(thrown(() => cpus.addDomain(1, 9))).toMatchObject({ errno: 'ESRCH' });
  });
});

describe('affinity', () => {
  test('moves a vcpu off a processor that it may not use, and leaves it on one that it may', () => {
    const domain = cpus.addDomain(2);
    expect(cpus.setAffinity(domain, 0, { hard: [1] })).toEqual({ hard: [1], soft: [1] });
    expect(cpus.setAffinity(domain, 1, { hard: [0, 1] })).toEqual({ hard: [0, 1], soft: [0, 1] });
    expect(pcpus(domain)).toEqual([1, 1]);
  });

  test('of a kind that cannot be had is no mistake when it is soft', () => {
    const domain = cpus.addDomain(1);
    expect(cpus.setAffinity(domain, 0, { hard: [0], soft: [1] })).toEqual({ hard: [0], soft: [] });
    expect(cpus.vcpuInfo(domain, 0, 'idle')).toMatchObject({ hard: [0], soft: [1], pcpu: 0 });
    expect(cpus.setAffinity(domain, 0, { soft: [5] })).toEqual({ hard: [0], soft: [] });
    expect(thrown(() => cpus.setAffinity(domain, 0, { hard: [5] }))).toMatchObject({ errno: 'EINVAL' });
    expect(thrown(() => cpus.setAffinity(domain, 1, { hard: [0] }))).toMatchObject({ errno: 'EINVAL' });
  });

  test('is given up when the pool loses the last processor of it', () => {
    const domain = cpus.addDomain(2);
    cpus.setAffinity(domain, 0, { hard: [1] });
    cpus.setAffinity(domain, 1, { hard: [0, 1], soft: [1] });
    cpus.removeCpu(0, 1);
    expect(hard(domain)).toEqual([
      [0, 1],
      [0, 1],
    ]);
    expect(pcpus(domain)).toEqual([0, 0]);
  });

  test('does not come along into another pool, nor do parameters', () => {
    const domain = cpus.addDomain(1);
    cpus.setAffinity(domain, 0, { hard: [0] });
    cpus.setDomainSched(domain, { sched: 'credit2', weight: 512, cap: 50 });
    const id = poolOf1();
    cpus.moveDomain(domain, id);
    expect(cpus.vcpuInfo(domain, 0, 'idle')).toMatchObject({ hard: [0, 1], pcpu: 1 });
    expect(cpus.domainSched(domain, 'credit')).toEqual({ sched: 'credit', weight: 256, cap: 0 });
  });

  test('a dying domain goes back to Pool-0', () => {
    const id = poolOf1();
    const domain = cpus.addDomain(1, id);
    cpus.retire(domain);
    expect([cpus.poolInfo(0), cpus.poolInfo(id)]).toMatchObject([{ domains: 1 }, { domains: 0 }]);
  });
});

test('of a busy domain the first vcpu runs and the others are blocked; of a stopped one none does anything', () => {
  const domain = cpus.addDomain(3);
  for (const vcpu of domain.vcpus) vcpu.online = vcpu.id < 2;
  const states = (runs: 'no' | 'idle' | 'busy') =>
    domain.vcpus.map(({ id }) => {
      const { online, running, blocked } = cpus.vcpuInfo(domain, id, runs);
      return `${online ? 'o' : '-'}${running ? 'r' : '-'}${blocked ? 'b' : '-'}`;
    });
  expect({ busy: states('busy'), idle: states('idle'), no: states('no') }).toEqual({
    busy: ['or-', 'o-b', '---'],
    idle: ['o-b', 'o-b', '---'],
    no: ['o--', 'o--', '---'],
  });
  expect(thrown(() => cpus.vcpuInfo(domain, 3, 'idle'))).toMatchObject({ errno: 'ESRCH' });
});

test('time is charged to the vcpus in turn, and never to one that is off', () => {
  const domain = cpus.addDomain(3);
  for (const vcpu of domain.vcpus) vcpu.online = vcpu.id !== 1;
  for (let step = 0; step < 4; step++) charge(domain, 0.25);
  expect(domain.vcpus.map((vcpu) => vcpu.cpuTime)).toEqual([0.5, 0, 0.5]);
  expect(cpuTime(domain)).toBe(1);
});

describe('parameters', () => {
  test('of credit2: a weight of 0 changes nothing, and a cap goes as far as there are vcpus', () => {
    const domain = cpus.addDomain(2);
    cpus.setDomainSched(domain, { sched: 'credit2', weight: 0, cap: 200 });
    expect(cpus.domainSched(domain, 'credit2')).toEqual({ sched: 'credit2', weight: 256, cap: 200 });
    expect(thrown(() => cpus.setDomainSched(domain, { sched: 'credit2', weight: 1, cap: 201 }))).toMatchObject({
      errno: 'EINVAL',
    });
  });

  test('are asked of the scheduler that the pool has', () => {
    const domain = cpus.addDomain(1);
    for (const ask of [
      () => cpus.domainSched(domain, 'credit'),
      () => cpus.setDomainSched(domain, { sched: 'credit', weight: 1, cap: 0 }),
      () => cpus.setRtds(domain),
      () => cpus.poolSched(0, 'credit'),
    ]) {
      expect(thrown(ask)).toMatchObject({ errno: 'EINVAL' });
    }
    expect(thrown(() => cpus.poolSched(1, 'credit2'))).toMatchObject({ errno: 'ESRCH' });
  });

  test('of a pool are kept for the pool', () => {
    const id = cpus.createPool('credit');
    const params = { tsliceMs: 20, ratelimitUs: 2000, migrationDelayUs: 10 };
    cpus.setPoolSched(id, 'credit', params);
    const late = () => cpus.setPoolSched(id, 'credit', { ...params, migrationDelayUs: -5 });
    expect(thrown(late)).toMatchObject({ errno: 'EINVAL' });
    expect(cpus.poolSched(id, 'credit')).toEqual(params);
    expect(cpus.poolSched(0, 'credit2')).toMatchObject({ ratelimitUs: 1000 });
  });
});
