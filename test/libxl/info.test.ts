/** What libxl tells of the host and Xen, and what it tells them: `xl info`, keys, parameters, triggers. */
import { infoLines } from '../../src/commands/info.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import {
  dom0Uptime,
  hostInfo,
  readXenConsole,
  sendDebugKeys,
  sendSysrq,
  sendTrigger,
  setParameters,
  type TriggerName,
  triggerOf,
  vmStartTime,
} from '../../src/libxl/info.js';
import type { KernelLog } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine();
});
afterEach(() => m.dom0.close());

const fails = async (work: () => Promise<void>) => {
  m.lines.length = 0;
  await expect(m.run(work())).rejects.toThrow();
  return m.lines;
};

/** What Xen has said since the last time. */
async function said(): Promise<string> {
  let all = '';
  for await (const text of readXenConsole(m.ctx, true)) all += text;
  return all;
}

test('info prints the default host as it was recorded, with what domains have taken', async () => {
  await m.run(domainCreateNew(m.ctx, pvConfig()));
  const lines = infoLines(await m.run(hostInfo(m.ctx)), true);
  expect(lines.slice(4, 29)).toEqual([
    'nr_cpus                : 2',
    'max_cpu_id             : 1',
    'nr_nodes               : 1',
    'cores_per_socket       : 2',
    'threads_per_core       : 1',
    'cpu_mhz                : 2596.135',
    'hw_caps                : 178bfbfd:80982201:20100800:00000001:00000000:00000000:00000000:00000000',
    'virt_caps              : pv gnttab-v1 gnttab-v2',
    'total_memory           : 6143',
    'free_memory            : 4416',
    'sharing_freed_memory   : 0',
    'sharing_used_memory    : 0',
    'outstanding_claims     : 0',
    'free_cpus              : 0',
    'cpu_topology           :',
    'cpu:    core    socket     node',
    '  0:       0        0        0',
    '  1:       1        0        0',
    'device topology        :',
    'device           node',
    'No device topology data available',
    'numa_info              :',
    'node:    memsize    memfree    distances',
    '   0:      7168       4416      10',
    'xen_major              : 4',
  ]);
  expect(lines.at(-1)).toBe('xend_config_format     : 4');
  expect(lines).toContain('platform_params        : virt_start=0xffff800000000000');
});

test('dom0 is up since it booted, a guest since it was built', async () => {
  m.clock.advance(90_500);
  expect(await m.run(dom0Uptime(m.ctx))).toBe(90);
  const built = Math.floor(m.clock.wall() / 1000);
  await m.run(domainCreateNew(m.ctx, pvConfig()));
  expect(await m.run(vmStartTime(m.ctx, 1))).toBe(built);
  m.lines.length = 0;
  expect(await m.run(vmStartTime(m.ctx, 99))).toBeUndefined();
  expect(m.lines).toEqual([
    "libxl: error: libxl_domain.c:2231:libxl_vm_get_start_time: Domain 99:Can't get start time of domain",
  ]);
});

test('a debug key is answered on the console, about the domains that there are', async () => {
  await m.run(domainCreateNew(m.ctx, pvConfig()));
  expect(await said()).toMatch(/^\(XEN\) Xen version 4\.17\.7 \(modelled by xl-mtwatch\)\n/);
  await m.run(sendDebugKeys(m.ctx, 'yq'));
  const lines = (await said()).split('\n');
  expect(lines.filter((line) => line.includes('General information'))).toEqual([
    '(XEN) General information for domain 0:',
    '(XEN) General information for domain 1:',
  ]);
  expect(lines).toContain('(XEN)     dying=0 pause_count=1 mapped_pages=1');
  expect(await said()).toBe('');
});

test('parameters are set one by one, up to the first that fails', async () => {
  await said();
  await m.run(setParameters(m.ctx, ' loglvl=all  gnttab_max_frames=64 '));
  await m.run(setParameters(m.ctx, ''));
  expect(await fails(() => setParameters(m.ctx, 'noglobal-pages nofoo loglvl=none'))).toEqual([
    'libxl: error: libxl.c:706:libxl_set_parameters: setting parameters: No such file or directory',
  ]);
  expect(await fails(() => setParameters(m.ctx, 'loglvl=loud'))).toEqual([
    'libxl: error: libxl.c:706:libxl_set_parameters: setting parameters: Invalid argument',
  ]);
  expect((await said()).match(/\/params\/\S+ is "\w+"/g)).toEqual([
    '/params/loglvl is "all"',
    '/params/gnttab_max_frames is "64"',
    '/params/global-pages is "no"',
  ]);
});

describe('a trigger', () => {
  test('has a name in either case', () => {
    expect(['NMI', 's3Resume', 'unknown', 'foo', ''].map(triggerOf)).toEqual([
      'nmi',
      's3resume',
      'unknown',
      undefined,
      undefined,
    ]);
  });

  test('nmi reaches the kernel, which expects none', async () => {
    m.dom0.handlers['dom0.dmesg']({ clear: true });
    await m.run(sendTrigger(m.ctx, 0, 'nmi', 1));
    const { lines } = m.dom0.handlers['dom0.dmesg']({ clear: false }) as KernelLog;
    expect(lines.map((line) => line.replace(/^\[.*?\] /, ''))).toEqual([
      'Uhhuh. NMI received for unknown reason 00 on CPU 1.',
      'Dazed and confused, but trying to continue',
    ]);
  });

  test.each<[TriggerName, number, number, string]>([
    ['power', 1, 0, 'Invalid argument'],
    ['sleep', 1, 0, 'Invalid argument'],
    ['unknown', 1, 0, 'Invalid argument'],
    ['init', 1, 0, 'Function not implemented'],
    ['reset', 1, 0, 'Function not implemented'],
    ['nmi', 1, 2, 'No such process'],
    ['nmi', 99, 0, 'No such process'],
  ])('%s to domain %i, vcpu %i: %s', async (trigger, domid, vcpu, error) => {
    await m.run(domainCreateNew(m.ctx, pvConfig()));
    expect(await fails(() => sendTrigger(m.ctx, domid, trigger, vcpu))).toEqual([
      `libxl: error: libxl_domain.c:2207:libxl_send_trigger: Domain ${domid}:Send trigger '${trigger}' failed: ${error}`,
    ]);
  });

  test('s3resume is for HVM guests', async () => {
    expect(await fails(() => sendTrigger(m.ctx, 99, 's3resume', 0))).toEqual([
      'libxl: error: libxl_dom.c:37:libxl__domain_type: unable to get domain type for domid=99',
      "libxl: error: libxl_domain.c:2162:domain_s3_resume_done: Domain 99:Send trigger 's3resume' failed, rc=-6",
    ]);
  });
});

test('a sysrq key is written, whether or not anybody is there to read it', async () => {
  await m.run(sendSysrq(m.ctx, 99, 'h'));
  expect(await m.run(m.ctx.xs.read('/local/domain/99/control/sysrq'))).toBe('h');
});
