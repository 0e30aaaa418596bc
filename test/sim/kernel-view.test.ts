/** What dom0 tells of its kernel while that is stuck: its threads, who waits for whom, its log, and what has died. */
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { printkLinesMax } from '../../src/xenbus/kernel/printk.js';
import type { KernelLog, KernelThread } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
afterEach(() => m.dom0.close());

const thread = (name: string) => m.dom0.handlers['dom0.thread']({ name }) as KernelThread | null;
const frames = (task: KernelThread | null) => task?.stack.map((line) => line.replace(/^\[<0>\] | \[.*\]$/g, ''));

async function stall(cmdline: string): Promise<void> {
  m = await machine({ cmdline });
  await m.run(domainCreateNew(m.ctx, pvConfig('one')));
  await m.run(domainUnpause(m.ctx, 1));
  await m.settle();
  m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
  await m.run(domainDestroy(m.ctx, 1));
}

describe('a thread of the kernel', () => {
  test('that is idle has a stack of its own, and says what it waits for', async () => {
    m = await machine({ cmdline: '' });
    expect(thread('xenwatch')).toMatchObject({
      thread: 'xenwatch',
      state: 'S',
      waits: { kind: 'event', on: 'watch_events_waitq', task: null, text: 'watch_events_waitq' },
      holds: [],
      waiters: [],
      watch: { domid: 0, pending: 0, queued: [], running: null },
    });
    expect(frames(thread('xenwatch'))).toEqual(['xenwatch_thread', 'kthread', 'ret_from_fork']);
    expect(frames(thread('xenbus'))).toEqual(['xenbus_thread', 'kthread', 'ret_from_fork']);
  });

  test('is found by its name, comm and pid, and a watch thread by its domain, too', async () => {
    m = await machine();
    await m.run(domainCreateNew(m.ctx, pvConfig('one')));
    await m.run(domainUnpause(m.ctx, 1));
    await m.settle();
    const dealloc = thread('vif1.0-q0-dealloc');
    expect(dealloc).toMatchObject({ comm: 'vif1.0-q0-deall', state: 'S', watch: null });
    for (const name of [dealloc?.comm, String(dealloc?.pid), `${dealloc?.comm}:${dealloc?.pid}`]) {
      expect(thread(name ?? '')).toEqual(dealloc);
    }
    const watching = thread('xen-mtwatch-1');
    expect(watching?.watch).toMatchObject({ domid: 1, node: true, pending: 0 });
    for (const name of ['1', 'one', String(watching?.pid)]) expect(thread(name)).toEqual(watching);
    expect([thread('0')?.thread, thread('-'), thread('none'), thread('')]).toEqual(['xenwatch', null, null, null]);
  });

  test('that is stuck names whom it waits for, what it holds, and the events behind it in their order', async () => {
    await stall('');
    const stuck = thread('xenwatch');
    expect(stuck).toMatchObject({
      state: 'D',
      waits: { kind: 'exit', on: 'vif1.0-q0-dealloc', text: expect.stringMatching(/^kthread_stop of vif1\.0-q0-deall:\d+$/) },
      holds: ['xenwatch_mutex'],
    });
    const { pending = 0, queued = [] } = stuck?.watch ?? {};
    expect(queued).toHaveLength(pending);
    expect([...new Set(queued.map(({ callback }) => callback))]).toEqual(['backend_changed']);
    // libxl waited for state 6 in vain, and then removed the nodes from the leaf up.
    expect(queued.map(({ path }) => path).filter((path) => !path.includes('console') && !path.includes('vbd'))).toEqual([
      'backend/vif/1/0/state',
      'backend/vif/1/0/online',
      'backend/vif/1/0',
      'backend/vif/1',
      'backend/vif',
      'backend',
    ]);
    const dealloc = thread('vif1.0-q0-dealloc');
    expect(dealloc).toMatchObject({
      waits: { text: 'flush of vif-1-0' },
      waiting: 1,
      waiters: [{ comm: 'xenwatch', pid: stuck?.pid, text: stuck?.waits?.text }],
    });
    m.dom0.handlers['dom0.flush']({});
    await m.settle();
    expect(thread('vif1.0-q0-dealloc')).toBeNull();
    expect(thread('xenwatch')).toMatchObject({ state: 'S', holds: [], watch: { pending: 0, queued: [] } });
  });
});

describe('the log', () => {
  const ask = (args: { clear?: boolean; from?: number; waitMs?: number }) =>
    m.dom0.handlers['dom0.dmesg']({ clear: false, ...args }) as KernelLog;

  test('is told in pages, none of them twice, and says when the kernel booted', async () => {
    m = await machine();
    for (let line = 0; line < 5000; line++) m.dom0.kernel.printk(`line ${line} ${'x'.repeat(100)}`);
    m.clock.advance(5000);
    const told: string[] = [];
    let pages = 0;
    for (let from = 0; ; pages++) {
      const page = ask({ from });
      expect(JSON.stringify(page).length).toBeLessThan(1024 * 1024);
      told.push(...page.lines);
      from = page.next;
      if (page.whole) break;
    }
    expect(pages).toBeGreaterThan(2);
    expect(told.filter((line) => line.includes('] line ')).map((line) => Number(line.split(' line ')[1]?.split(' ')[0]))).toEqual(
      Array.from({ length: 5000 }, (_, line) => line),
    );
    expect(ask({}).bootMs).toBe(Date.UTC(2018, 3, 7));
  });

  test('waits for its next line, or for the time that it was given', async () => {
    m = await machine();
    const { next } = ask({});
    const early = m.dom0.handlers['dom0.dmesg']({ clear: false, from: next, waitMs: 20_000 });
    const late = m.dom0.handlers['dom0.dmesg']({ clear: false, from: next + 1, waitMs: 20_000 });
    m.clock.advance(1000);
    m.dom0.kernel.printk('news');
    expect(await early).toMatchObject({ lines: [expect.stringMatching(/\] news$/)], next: next + 1, whole: true });
    m.clock.advance(20_000);
    expect(await late).toMatchObject({ lines: [], next: next + 1 });
    const ended = m.dom0.handlers['dom0.dmesg']({ clear: false, from: next + 1, waitMs: 20_000 });
    m.dom0.close();
    expect(await ended).toMatchObject({ lines: [] });
  });

  test('forgets what it told when it is cleared, and the oldest lines when it is full', async () => {
    m = await machine();
    const { next } = ask({ clear: true });
    expect(ask({})).toMatchObject({ lines: [], next });
    for (let line = 0; line < printkLinesMax + 10; line++) m.dom0.kernel.printk(`line ${line}`);
    expect(ask({}).lines[0]).toMatch(/\] line 10$/);
    const last = next + printkLinesMax + 9;
    expect(ask({ from: last })).toMatchObject({
      lines: [expect.stringMatching(new RegExp(`\\] line ${printkLinesMax + 9}$`))],
      next: last + 1,
    });
  });
});
