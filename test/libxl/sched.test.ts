import { cpupoolCreate } from '../../src/libxl/cpupool.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import { Rc } from '../../src/libxl/ctx.js';
import { retrieveConfig } from '../../src/libxl/saved-config.js';
import {
  domainScheduler,
  getCredit2Ratelimit,
  getCreditParams,
  getDomainSched,
  getVcpuSched,
  setCredit2Ratelimit,
  setCreditParams,
  setDomainSched,
  setVcpuSched,
} from '../../src/libxl/sched.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine();
});
afterEach(() => m.dom0.close());

/** The rc of a refused operation with the lines about it; undefined when it was not refused. */
async function refusal(work: () => Promise<unknown>): Promise<[rc: unknown, ...lines: string[]] | undefined> {
  const from = m.lines.length;
  return m.run(work()).then(
    () => undefined,
    (error: { rc: unknown }) => [error.rc, ...m.lines.slice(from)],
  );
}

describe('of a domain', () => {
  test('weight and cap are set each for itself, and -1 leaves one as it is', async () => {
    await m.run(setDomainSched(m.ctx, 0, { sched: 'credit2', weight: 512, cap: -1 }));
    await m.run(setDomainSched(m.ctx, 0, { cap: 100 }));
    expect(await m.run(getDomainSched(m.ctx, 0))).toEqual({ sched: 'credit2', weight: 512, cap: 100 });
    expect((await m.run(retrieveConfig(m.ctx, 0)))?.bInfo.schedParams).toEqual({ sched: 'credit2', weight: 512, cap: 100 });
  });

  const weight = 'Cpu weight out of range, valid values are within range from 1 to 65535';
  const cap = 'Cpu cap out of range, valid range is from 0 to 200 for specified number of vcpus';
  test.each([
    [{ weight: 0 }, `445:sched_credit2_domain_set: ${weight}`],
    [{ weight: 65_536 }, `445:sched_credit2_domain_set: ${weight}`],
    [{ cap: 201 }, `455:sched_credit2_domain_set: ${cap}`],
    [{ cap: -5 }, `455:sched_credit2_domain_set: ${cap}`],
  ])('%j is out of range', async (params, line) => {
    expect(await refusal(() => setDomainSched(m.ctx, 0, params))).toEqual([Rc.INVAL, `libxl: error: libxl_sched.c:${line}`]);
  });

  test('the parameters are those of its own scheduler', async () => {
    expect(await refusal(() => setDomainSched(m.ctx, 0, { sched: 'credit', weight: 1 }))).toEqual([
      Rc.FAIL,
      'libxl: error: libxl_sched.c:232:sched_credit_domain_set: Getting domain sched credit: Invalid argument',
    ]);
    const line = 'per-VCPU parameter getting not supported for this scheduler';
    expect(await refusal(() => getVcpuSched(m.ctx, 0, false))).toEqual([
      Rc.INVAL,
      `libxl: error: libxl_sched.c:931:libxl_vcpu_sched_params_get: ${line}`,
    ]);
    expect(await refusal(() => getVcpuSched(m.ctx, 0, true))).toEqual([
      Rc.INVAL,
      `libxl: error: libxl_sched.c:964:libxl_vcpu_sched_params_get_all: ${line}`,
    ]);
  });

  test('that is not there there is no scheduler', async () => {
    const nobody = 'libxl: error: libxl_dom.c:76:libxl__domain_cpupool: getinfolist failed 0: No such file or directory';
    expect(await refusal(() => getDomainSched(m.ctx, 99))).toEqual([
      Rc.INVAL,
      nobody,
      'libxl: error: libxl_sched.c:905:libxl_domain_sched_params_get: Domain 99:Unknown scheduler',
    ]);
    expect(await refusal(() => setDomainSched(m.ctx, 99, { sched: 'credit2', weight: 1 }))).toEqual([Rc.INVAL]);
  });

  test('that is not there libxl may be told of the next one, and sees it', async () => {
    await m.run(domainCreateNew(m.ctx, { ...pvConfig('pv'), cInfo: { ...pvConfig('pv').cInfo, domid: 7 } }));
    expect(await m.run(domainScheduler(m.ctx, 3))).toBeUndefined();
    expect(m.lines).toEqual([
      'libxl: error: libxl_dom.c:81:libxl__domain_cpupool: got info for dom7, wanted dom3\n: No such file or directory',
    ]);
  });

  test('its config sets them, and a bad one makes no domain', async () => {
    const { bInfo } = pvConfig();
    const made = (schedParams: object) => m.run(domainCreateNew(m.ctx, pvConfig('pv', { bInfo: { ...bInfo, schedParams } })));
    expect(await refusal(() => made({ weight: 70_000 }))).toEqual([
      Rc.FAIL,
      `libxl: error: libxl_sched.c:445:sched_credit2_domain_set: Domain 1:${weight}`,
      'libxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain 1:cannot (re-)build domain: -6',
    ]);
    const domid = await made({ weight: 300, cap: 50 });
    expect(await m.run(getDomainSched(m.ctx, domid))).toEqual({ sched: 'credit2', weight: 300, cap: 50 });
  });
});

test.each([
  [[{ vcpu: 2, period: 5, budget: 5 }], false, '627:sched_rtds_vcpu_set: Invalid VCPU 2: valid range is [0, 1]', Rc.INVAL],
  [
    [{ vcpu: 0, period: 0, budget: 5 }],
    false,
    '477:sched_rtds_validate_params: Invalid VCPU period of 0 (it should be >= 1)',
    Rc.INVAL,
  ],
  [
    [{ vcpu: 0, period: 5, budget: 0 }],
    true,
    '483:sched_rtds_validate_params: Invalid VCPU budget of 0 (it should be >= 1)',
    Rc.INVAL,
  ],
  [
    [{ vcpu: 0, period: 5, budget: 6 }],
    true,
    '489:sched_rtds_validate_params: VCPU budget must be smaller than or equal to period, but 6 > 5',
    Rc.INVAL,
  ],
  [[{ vcpu: 0, period: 5, budget: 5 }], false, '653:sched_rtds_vcpu_set: Setting vcpu sched rtds: Invalid argument', Rc.FAIL],
  [[{ vcpu: 0, period: 5, budget: 5 }], true, '705:sched_rtds_vcpu_set_all: Setting vcpu sched rtds: Invalid argument', Rc.FAIL],
])('rtds: %j (all: %s) is refused', async (vcpus, all, line, rc) => {
  expect(await refusal(() => setVcpuSched(m.ctx, 0, vcpus, all))).toEqual([rc, `libxl: error: libxl_sched.c:${line}`]);
});

describe('of a pool', () => {
  const range = '270:sched_ratelimit_check: Ratelimit out of range, valid range is from 100 to 500000';

  test('credit2 has a rate limit, which may be 0', async () => {
    expect(await m.run(getCredit2Ratelimit(m.ctx, 0))).toBe(1000);
    for (const limitUs of [50, -1, 600_000]) {
      expect(await refusal(() => setCredit2Ratelimit(m.ctx, 0, limitUs))).toEqual([
        Rc.INVAL,
        `libxl: error: libxl_sched.c:${range}`,
      ]);
    }
    await m.run(setCredit2Ratelimit(m.ctx, 0, 0));
    expect(await m.run(getCredit2Ratelimit(m.ctx, 0))).toBe(0);
  });

  test.each([
    [{ tsliceMs: 0 }, '311:libxl_sched_credit_params_set: Time slice out of range, valid range is from 1 to 1000'],
    [{ ratelimitUs: 50 }, range],
    [{ tsliceMs: 1, ratelimitUs: 5000 }, '321:libxl_sched_credit_params_set: Ratelimit cannot be greater than timeslice'],
    [{ migrationDelayUs: 200_000 }, '326:libxl_sched_credit_params_set: vcpu migration delay should be >= 0 and <= 100000us'],
    [{ migrationDelayUs: -5 }, '338:libxl_sched_credit_params_set: Setting Credit scheduler parameters: Invalid argument'],
  ])('credit does not take %j', async (change, line) => {
    const poolId = await m.run(cpupoolCreate(m.ctx, 'batch', 'credit', [], '616ff13c-89e5-48d8-8708-c74cf73ee8d9'));
    const now = await m.run(getCreditParams(m.ctx, poolId));
    expect(now).toEqual({ tsliceMs: 30, ratelimitUs: 1000, migrationDelayUs: 0 });
    const refused = await refusal(() => setCreditParams(m.ctx, poolId, { ...now, ...change }));
    expect(refused?.slice(1)).toEqual([`libxl: error: libxl_sched.c:${line}`]);
    expect(await m.run(getCreditParams(m.ctx, poolId))).toEqual(now);
  });

  test('they are those of its own scheduler', async () => {
    expect(await refusal(() => getCreditParams(m.ctx, 0))).toEqual([
      Rc.FAIL,
      'libxl: error: libxl_sched.c:287:libxl_sched_credit_params_get: getting Credit scheduler parameters: Invalid argument',
    ]);
  });
});
