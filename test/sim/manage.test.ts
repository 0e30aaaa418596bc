/** What is asked of dom0's kernel through nodes: sysrq keys, memory, processors; and that a stalled xenwatch does none of it. */
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import type { DomInfo, KernelLog } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
afterEach(() => m.dom0.close());

const home = '/local/domain/0';
const info = () => m.dom0.handlers['xc.domain_getinfo']({ domid: 0 }) as DomInfo;
const freeKb = () => (m.dom0.handlers['xc.physinfo']({}) as { freeKb: number }).freeKb;

/** Writes a node as a toolstack does; answers with the lines that the kernel has printed since. */
async function ask(path: string, value: string): Promise<string[]> {
  m.dom0.handlers['dom0.dmesg']({ clear: true });
  await m.run(m.connect('xl').write(`${home}/${path}`, value));
  await m.settle();
  const { lines } = m.dom0.handlers['dom0.dmesg']({ clear: false }) as KernelLog;
  return lines.map((line) => line.replace(/^\[.*?\] /, ''));
}

const read = (path: string) => m.run(m.ctx.xs.read(`${home}/${path}`));

async function stall(cmdline: string): Promise<void> {
  m = await machine({ cmdline });
  await m.run(domainCreateNew(m.ctx, pvConfig('one')));
  await m.run(domainUnpause(m.ctx, 1));
  await m.settle();
  m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
  await m.run(domainDestroy(m.ctx, 1));
}

describe('control/sysrq', () => {
  test('is taken in a transaction, acknowledged by an empty value, and acted on once', async () => {
    m = await machine({ cmdline: '' });
    const before = m.trace.length;
    expect(await ask('control/sysrq', 's')).toEqual([
      'sysrq: Emergency Sync',
      'sysrq: sync(s) is not acted upon: it is not modelled',
    ]);
    const asked = m.trace.slice(before).filter(({ who }) => who === 'dom0-kernel');
    expect(asked.map(({ op, args }) => [op, ...args].join(' ').trim())).toEqual([
      `WATCH_EVENT control/sysrq ${asked[0]?.args[1]}`,
      'TRANSACTION_START',
      'READ control/sysrq',
      'WRITE control/sysrq',
      'TRANSACTION_END T',
      // The acknowledgement is a change, too.
      `WATCH_EVENT control/sysrq ${asked[0]?.args[1]}`,
      'TRANSACTION_START',
      'READ control/sysrq',
      'TRANSACTION_END F',
    ]);
    expect(await read('control/sysrq')).toBe('');
  });

  test.each([
    ['', 'w', ['sysrq: This sysrq operation is disabled.']],
    ['', '7', ['sysrq: Changing Loglevel', 'sysrq: Loglevel set to 7']],
    ['', 'qrest', ['sysrq: This sysrq operation is disabled.']],
    ['sysctl.kernel.sysrq=0', 's', []],
    ['sysctl.kernel.sysrq=1', 'w', ['sysrq: Show Blocked State']],
    ['sysrq_always_enabled', 'w', ['sysrq: Show Blocked State']],
    ['sysctl.kernel.sysrq=8', 'w', ['sysrq: Show Blocked State']],
    ['', 'h', [expect.stringMatching(/^sysrq: HELP : loglevel\(0-9\) reboot\(b\) crash\(c\) .* dump-ftrace-buffer\(z\) $/)]],
  ])('with %j the key %s says %j', async (cmdline, key, lines) => {
    m = await machine({ cmdline });
    expect(await ask('control/sysrq', key)).toEqual(lines);
  });

  test('w shows the stack of who is blocked, if it is not xenwatch, which would have to', async () => {
    await stall('xen_mtwatch sysctl.kernel.sysrq=1');
    const lines = await ask('control/sysrq', 'w');
    expect(lines.slice(0, 4)).toEqual([
      'sysrq: Show Blocked State',
      expect.stringMatching(/^task:xen-mtwatch-1 {3}state:D stack:0 {5}pid:\d+ +ppid:2 {6}flags:0x00004000$/),
      'Call Trace:',
      ' <TASK>',
    ]);
    expect(lines).toContain(' kthread_stop');
    m.dom0.close();
    await stall('sysctl.kernel.sysrq=1');
    expect(await ask('control/sysrq', 'w')).toEqual([]);
    expect(await read('control/sysrq')).toBe('w');
  });
});

describe('memory/target', () => {
  test('moves the memory of dom0, and what is free with it', async () => {
    m = await machine({ cmdline: '' });
    const [current, free] = [info().currentKb, freeKb()];
    await ask('memory/target', String(current - 102_401));
    expect({ current: info().currentKb, free: freeKb() }).toEqual({ current: current - 102_404, free: free + 102_404 });
    await ask('memory/target', 'nonsense');
    expect(info().currentKb).toBe(current - 102_404);
    await ask('memory/target', String(current));
    expect({ current: info().currentKb, free: freeKb() }).toEqual({ current, free });
  });

  test('gives no more than the limit of dom0 and the free memory allow, and the rest when they do', async () => {
    m = await machine({ cmdline: '' });
    const current = info().currentKb;
    await ask('memory/target', String(current + 4000));
    expect(info().currentKb).toBe(current);
    const pass = async (seconds: number) => {
      for (let second = 0; second < seconds; second++) {
        m.clock.advance(1000);
        await m.settle();
      }
    };
    m.dom0.handlers['xc.domain_setmaxmem']({ domid: 0, maxKb: current + 500 });
    await pass(1);
    expect(info().currentKb).toBe(current + 500);
    // Refused again and again it asks less often, and does not give up.
    await pass(200);
    m.dom0.handlers['xc.domain_setmaxmem']({ domid: 0, maxKb: current + 1000 });
    await pass(1);
    expect(info().currentKb).toBe(current + 500);
    await pass(32);
    expect(info().currentKb).toBe(current + 1000);
    m.dom0.handlers['xc.domain_setmaxmem']({ domid: 0, maxKb: current + 1_000_000 });
    await pass(32);
    expect(info().currentKb).toBe(current + 4000);
  });

  test('is written and not acted on while the one watch thread hangs', async () => {
    await stall('');
    const current = info().currentKb;
    await ask('memory/target', String(current - 4000));
    await ask('cpu/1/availability', 'offline');
    expect(info()).toMatchObject({ currentKb: current, onlineVcpus: 2 });
    m.dom0.handlers['dom0.flush']({});
    await m.settle();
    expect(info()).toMatchObject({ currentKb: current - 4000, onlineVcpus: 1 });
  });
});

test('cpu/N/availability takes a processor of dom0 off and back, but not the first one', async () => {
  m = await machine({ cmdline: '' });
  expect(await ask('cpu/1/availability', 'offline')).toEqual(['smpboot: CPU 1 is now offline']);
  expect(await ask('cpu/1/availability', 'offline')).toEqual([]);
  expect(info().onlineVcpus).toBe(1);
  expect(await ask('cpu/1/availability', 'online')).toEqual(['installing Xen timer for CPU 1']);
  expect(await ask('cpu/0/availability', 'offline')).toEqual([]);
  expect(await ask('cpu/77/availability', 'offline')).toEqual([]);
  expect(await ask('cpu/1/availability', 'nonsense of a word')).toEqual(['xen:cpu_hotplug: unknown state(nonsense) on CPU1']);
  expect(info().onlineVcpus).toBe(2);
});
