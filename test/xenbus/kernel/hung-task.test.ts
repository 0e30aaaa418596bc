/** khungtaskd: when it reports, what it prints (golden-mtwatch/51 has a real one), how often, and of whom. */
import { domainCreateNew } from '../../../src/libxl/create.js';
import { domainDestroy } from '../../../src/libxl/destroy.js';
import { domainUnpause } from '../../../src/libxl/domain.js';
import { waitEvent, waitQueue } from '../../../src/xenbus/kernel/sched.js';
import type { KernelLog } from '../../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../../machine.js';

let m: Machine;
afterEach(() => m.dom0.close());

/** The log without times and pids, from the first hung task on. */
function reports(): string[] {
  const { lines } = m.dom0.handlers['dom0.dmesg']({ clear: false }) as KernelLog;
  const texts = lines.map((line) => line.replace(/^\[.*?\] /, '').replace(/pid:\d+ +ppid/, 'pid:N ppid'));
  const first = texts.findIndex((text) => text.startsWith('INFO: task'));
  return first < 0 ? [] : texts.slice(first).map((text) => text.replace(/^(INFO: task \S+):\d+ /, '$1:N '));
}

const infos = () => reports().filter((line) => line.startsWith('INFO: task'));

/** Lets `ms` pass in steps of a second, as far as whoever wakes up goes. */
async function pass(seconds: number): Promise<void> {
  for (let second = 0; second < seconds; second++) {
    m.clock.advance(1000);
    await m.settle();
  }
}

/** A domain whose vif never lets go, and whoever had to disconnect it. */
async function stall(cmdline: string): Promise<void> {
  m = await machine({ cmdline });
  await m.run(domainCreateNew(m.ctx, pvConfig('one')));
  await m.run(domainUnpause(m.ctx, 1));
  await m.settle();
  m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
  await m.run(domainDestroy(m.ctx, 1));
}

describe.each([
  ['one watch thread', '', 'xenwatch', 'xenwatch_thread'],
  ['one watch thread a domain', 'xen_mtwatch', 'xen-mtwatch-1', 'mtwatch_thread'],
])('with %s', (_title, design, thread, entry) => {
  test('a stalled vif is reported in the words of Linux 6.1, and again each period', async () => {
    await stall(`${design} sysctl.kernel.hung_task_timeout_secs=20`);
    await pass(50);
    const report = (seconds: number) => [
      `INFO: task ${thread}:N blocked for more than ${seconds} seconds.`,
      '      Not tainted 6.1.0-56-amd64 #1 Debian 6.1.192-2',
      '"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.',
      `task:${thread.padEnd(15)} state:D stack:0     pid:N ppid:2      flags:0x00004000`,
      'Call Trace:',
      ' <TASK>',
      ...['__schedule', 'schedule', 'schedule_timeout', '__wait_for_common', 'wait_for_completion'].map((name) => ` ${name}`),
      ' kthread_stop',
      ' xenvif_disconnect_queue [xen_netback]',
      ' xenvif_disconnect_data [xen_netback]',
      ' backend_disconnect [xen_netback]',
      ' set_backend_state [xen_netback]',
      ' frontend_changed [xen_netback]',
      ...['xenbus_otherend_changed', 'frontend_changed', entry, 'kthread', 'ret_from_fork'].map((name) => ` ${name}`),
      ' </TASK>',
    ];
    const printed = reports();
    expect(printed.slice(0, 2 * report(20).length)).toEqual([...report(20), ...report(40)]);
  });

  test('the first report comes after one period and before two, and none after healing', async () => {
    await stall(`${design} sysctl.kernel.hung_task_timeout_secs=100`);
    // The destroy has waited for ten seconds already.
    await pass(89);
    expect(infos()).toEqual([]);
    await pass(101);
    expect(infos()).toEqual([`INFO: task ${thread}:N blocked for more than 100 seconds.`]);
    m.dom0.handlers['dom0.flush']({});
    await m.settle();
    await pass(500);
    expect(infos()).toHaveLength(1);
  });
});

test('who waits for a disk is in io_schedule, as golden/60 has it', async () => {
  m = await machine({ cmdline: 'sysctl.kernel.hung_task_timeout_secs=20' });
  await m.run(domainCreateNew(m.ctx, pvConfig('one')));
  m.dom0.handlers['dom0.hold']({ device: 'vbd-1-51712', mode: 'connect' });
  await m.run(domainUnpause(m.ctx, 1));
  await pass(45);
  expect(reports().slice(5, 11)).toEqual([
    ' <TASK>',
    ' __schedule',
    ' schedule',
    ' io_schedule',
    ' folio_wait_bit_common',
    ' folio_wait_writeback',
  ]);
});

test('nothing is said of a machine that is merely busy', async () => {
  m = await machine({ cmdline: 'sysctl.kernel.hung_task_timeout_secs=1' });
  const xs = m.connect('client');
  for (let round = 0; round < 20; round++) {
    for (let write = 0; write < 20; write++) void xs.write(`/local/domain/0/backend/vif/${write}`, String(round));
    await pass(1);
  }
  expect(infos()).toEqual([]);
});

test('a task that is in D at every look, and has run in between, is not hung', async () => {
  m = await machine({ cmdline: 'sysctl.kernel.hung_task_timeout_secs=20' });
  const { kernel } = m.dom0;
  const queue = waitQueue('a slow disk');
  let done = 0;
  kernel.spawn('reader', 'read_slowly', function* () {
    for (let block = 1; ; block++) yield* waitEvent(queue, () => done >= block, 'D');
  });
  for (let block = 0; block < 10; block++) {
    await pass(10);
    done += 1;
    kernel.sched.wakeAll(queue);
  }
  expect(infos()).toEqual([]);
  await pass(40);
  expect(infos()).toHaveLength(1);
});

test.each([
  ['sysctl.kernel.hung_task_warnings=3', 3],
  ['sysctl.kernel.hung_task_warnings=-1', 15],
  ['sysctl.kernel.hung_task_warnings=0', 0],
  ['', 10],
])('%j: there are that many reports (%i of 15), and 6.1 does not say that it stops', async (words, count) => {
  await stall(`sysctl.kernel.hung_task_timeout_secs=20 ${words}`);
  await pass(20 * 16 - 5);
  expect(infos()).toHaveLength(count);
  expect(reports().join('\n')).not.toContain('suppressed');
});

test('a period of 0 is none, and a value that is no number is refused as Linux refuses it', async () => {
  await stall('sysctl.kernel.hung_task_timeout_secs=0 sysctl.kernel.hung_task_warnings=-2');
  await pass(1000);
  const { lines } = m.dom0.handlers['dom0.dmesg']({ clear: false }) as KernelLog;
  expect(lines.filter((line) => /INFO|sysctl parameter/.test(line)).map((line) => line.replace(/^\[.*?\] /, ''))).toEqual([
    "Failed to set sysctl parameter 'kernel.hung_task_warnings=-2': invalid value",
  ]);
});
