/** The store through /dev/xen/xenbus: requests as everywhere, watches by the kernel's watch threads, and what hangs with them. */
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { fileEventsMax, fileWritesMax } from '../../src/xenbus/kernel/xenbus-dev.js';
import type { KernelLog, KernelThread } from '../../src/xenbus/privcmd.js';
import type { StorePeer } from '../../src/xenbus/transport.js';
import { joinStrings, splitStrings, typeName, type XsPacket, XsType } from '../../src/xenbus/xs-wire.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
afterEach(() => m.dom0.close());

const thread = (name: string) => m.dom0.handlers['dom0.thread']({ name }) as KernelThread | null;
const frames = (task: KernelThread | null) => task?.stack.map((line) => line.replace(/^\[<0>\] /, ''));
const log = () => (m.dom0.handlers['dom0.dmesg']({ clear: false }) as KernelLog).lines.join('\n');
const flush = async () => {
  m.dom0.handlers['dom0.flush']({});
  await m.settle();
};

/** A machine where whoever disconnects vif1.0 hangs, and somebody does. */
async function stall(cmdline: string): Promise<void> {
  m = await machine({ cmdline });
  await m.run(domainCreateNew(m.ctx, pvConfig('one')));
  await m.run(domainUnpause(m.ctx, 1));
  await m.settle();
  m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
  await m.run(domainDestroy(m.ctx, 1));
}

/** A process with the file open: what it writes is a packet each, what it reads is written down. */
function open(peer: Partial<StorePeer> = {}) {
  const read: string[] = [];
  const link = m.dom0.xenbus.connect({
    domid: 0,
    who: 'client',
    deliver: ({ type, reqId, payload }) => read.push(`${reqId} ${typeName(type)} ${splitStrings(payload).join(' ')}`),
    closed: () => undefined,
    ...peer,
  });
  let reqId = 0;
  const send = (type: number, txId: number, ...strings: string[]) => {
    reqId += 1;
    return link.push({ type, reqId, txId, payload: joinStrings(...strings) });
  };
  const write = async (...args: Parameters<typeof send>) => {
    send(...args);
    await m.settle();
    return read.splice(0);
  };
  return { ...link, read, send, write };
}

test('requests, transactions and watches work as on any connection, and the store knows the kernel alone', async () => {
  m = await machine({ cmdline: '' });
  const { connections } = m.dom0;
  const xs = m.openXenbus();
  const seen: string[] = [];
  await m.run(xs.watch('/local/domain/0/test', (path) => seen.push(path)));
  await m.run(xs.write('/local/domain/0/test/a', '1'));
  await m.run(
    xs.transaction(async (tx) => {
      await tx.write('/local/domain/0/test/b', '2');
      expect(await xs.read('/local/domain/0/test/b')).toBeUndefined();
    }),
  );
  await m.settle();
  expect(seen).toEqual(['/local/domain/0/test', '/local/domain/0/test/a', '/local/domain/0/test/b']);
  expect(await m.run(xs.directory('/local/domain/0/test'))).toEqual(['a', 'b']);
  expect(await m.run(xs.read('/no/such/node'))).toBeUndefined();
  expect(m.dom0.connections).toBe(connections);
  expect(m.trace.at(-1)).toMatchObject({ who: 'dom0-kernel', op: 'READ' });
});

test('the kernel itself answers what it can: a transaction that is not of this file, and a watch without its NULs', async () => {
  m = await machine({ cmdline: '' });
  const [mine, other] = [open(), open()];
  const tx = Number((await mine.write(XsType.TransactionStart, 0, ''))[0]?.split(' ').at(-1));
  expect(await other.write(XsType.Read, tx, 'domid')).toEqual(['1 ERROR ENOENT']);
  expect(await mine.write(XsType.Read, tx, 'domid')).toEqual(['2 READ 0']);
  expect(await mine.write(XsType.TransactionEnd, tx, 'maybe')).toEqual(['3 ERROR EINVAL']);
  expect(await mine.write(XsType.TransactionEnd, tx, 'T')).toEqual(['4 TRANSACTION_END OK']);
  expect(await mine.write(XsType.Read, tx, 'domid')).toEqual(['5 ERROR ENOENT']);
  expect(await other.write(XsType.Unwatch, 0, 'never', 'there')).toEqual(['2 UNWATCH OK']);
  other.push({ type: XsType.Watch, reqId: 9, txId: 0, payload: 'no\0end' });
  await m.settle();
  expect(other.read.splice(0)).toEqual(['9 ERROR EINVAL']);
  expect(await other.write(XsType.Watch, 0, '//bad//path', 'x')).toEqual(['3 ERROR EINVAL']);
});

test('the same path and token twice are two watches, and each UNWATCH takes one', async () => {
  m = await machine({ cmdline: '' });
  const file = open();
  await file.write(XsType.Watch, 0, 'test', 't');
  await file.write(XsType.Watch, 0, 'test', 't');
  const events = async () => (await file.write(XsType.Write, 0, 'test')).filter((line) => line.includes('WATCH_EVENT')).length;
  expect(await events()).toBe(2);
  await file.write(XsType.Unwatch, 0, 'test', 't');
  expect(await events()).toBe(1);
});

test('a closed file leaves nothing: its transactions are aborted, newest first, and its watches unregistered', async () => {
  m = await machine({ cmdline: '' });
  const file = open();
  const start = async () => Number((await file.write(XsType.TransactionStart, 0, ''))[0]?.split(' ').at(-1));
  const [first, second] = [await start(), await start()];
  await file.write(XsType.Watch, 0, 'test', 'a');
  await file.write(XsType.Watch, 0, 'test', 'b');
  const before = m.trace.length;
  file.close();
  await m.settle();
  expect(
    m.trace
      .slice(before)
      .filter(({ who }) => who === 'dom0-kernel')
      .map(({ op, args, tx }) => `${op} ${args[0]} ${tx}`),
  ).toEqual([`TRANSACTION_END F ${second}`, `TRANSACTION_END F ${first}`, 'UNWATCH test 0', 'UNWATCH test 0']);
  expect([thread('xenbus-user'), thread('kworker/0:1')?.waits?.on]).toEqual([null, 'worker_thread']);
});

describe('with one watch thread, and that stalled', () => {
  test('requests are answered and watches are silent, until it goes on', async () => {
    await stall('');
    const xs = m.openXenbus();
    const seen: string[] = [];
    await m.run(xs.watch('/local/domain/0/test', (path) => seen.push(path)));
    await m.run(xs.write('/local/domain/0/test', '1'));
    expect(await m.run(xs.read('/local/domain/0/test'))).toBe('1');
    expect(seen).toEqual([]);
    expect(thread('xenwatch')?.watch?.queued.at(-1)).toEqual({ path: '/local/domain/0/test', callback: 'watch_fired' });
    await flush();
    expect(seen).toEqual(['/local/domain/0/test', '/local/domain/0/test']);
  });

  test('who closes a file is gone, and a kworker is in D for it, behind xenwatch, and is reported as hung', async () => {
    await stall('sysctl.kernel.hung_task_timeout_secs=20');
    const xs = m.openXenbus();
    await m.run(xs.watch('/local/domain/0/test', () => undefined));
    xs.close();
    await m.settle();
    expect(thread('xenbus-user')).toBeNull();
    const xenwatch = thread('xenwatch');
    const worker = thread('kworker/0:1');
    expect(worker).toMatchObject({
      state: 'D',
      waits: { kind: 'mutex', on: 'xenwatch_mutex', task: { comm: 'xenwatch', pid: xenwatch?.pid } },
    });
    expect(frames(worker)).toEqual([
      'unregister_xenbus_watch',
      'xenbus_worker',
      'process_one_work',
      'worker_thread',
      'kthread',
      'ret_from_fork',
    ]);
    expect(xenwatch?.waiters).toEqual([
      { comm: 'kworker/0:1', pid: worker?.pid, text: `mutex xenwatch_mutex, owned by xenwatch:${xenwatch?.pid}` },
    ]);
    // Whom the stuck thread waits for has both behind it.
    expect(thread('vif1.0-q0-dealloc')?.waiters.map(({ comm }) => comm)).toEqual(['xenwatch', 'kworker/0:1']);
    m.clock.advance(40_000);
    await m.settle();
    expect(log()).toContain(`INFO: task kworker/0:1:${worker?.pid} blocked for more than 20 seconds.`);
    expect(log()).toContain('  schedule_preempt_disabled');
    expect(log()).toContain('  __mutex_lock.constprop.0');
    await flush();
    expect(thread('kworker/0:1')?.waits?.on).toBe('worker_thread');
    expect(thread('xenwatch')).toMatchObject({ state: 'S', holds: [], waiting: 0 });
  });

  test('who takes a watch back is in D itself, and its further requests wait with it', async () => {
    await stall('');
    const [file, other] = [open(), open()];
    expect(await file.write(XsType.Watch, 0, 'test', 't')).toEqual(['1 WATCH OK']);
    expect(await file.write(XsType.Unwatch, 0, 'test', 't')).toEqual([]);
    const stuck = thread('xenbus-user');
    expect(stuck).toMatchObject({ state: 'D', waits: { on: 'xenwatch_mutex' } });
    expect(frames(stuck)).toEqual([
      'unregister_xenbus_watch',
      'xenbus_write_watch',
      'xenbus_file_write',
      'vfs_write',
      'ksys_write',
      'do_syscall_64',
      'entry_SYSCALL_64_after_hwframe',
    ]);
    expect(await file.write(XsType.Read, 0, 'domid')).toEqual([]);
    expect(await other.write(XsType.Read, 0, 'domid')).toEqual(['1 READ 0']);
    await flush();
    expect(file.read).toEqual(['2 UNWATCH OK', '3 READ 0']);
  });
});

test('with one watch thread a domain, what one domain stalls concerns no open file', async () => {
  await stall('xen_mtwatch');
  const file = open();
  await file.write(XsType.Watch, 0, 'test', 't');
  expect((await file.write(XsType.Write, 0, 'test')).sort()).toEqual(['0 WATCH_EVENT test t', '2 WRITE OK']);
  expect(await file.write(XsType.Unwatch, 0, 'test', 't')).toEqual(['3 UNWATCH OK']);
  await file.write(XsType.Watch, 0, 'test', 't');
  file.close();
  await m.settle();
  expect([thread('xenbus-user'), thread('kworker/0:1')?.waits?.on]).toEqual([null, 'worker_thread']);
  expect(thread('xen-mtwatch-1')?.state).toBe('D');
});

test('a process that does not read is kept to bounds, and hears of what was kept in order', async () => {
  m = await machine({ cmdline: '' });
  let isFull = true;
  const got: XsPacket[] = [];
  let drained = 0;
  const file = open({ full: () => isFull, deliver: (packet) => got.push(packet), drained: () => (drained += 1) });
  file.send(XsType.Watch, 0, 'test', 't');
  await m.settle();
  const { kernel } = m.dom0;
  kernel.spawn('test', 'test', function* () {
    for (let event = 0; event < fileEventsMax + 10; event++) {
      const taken = kernel.onWatchEvent(`test/${event}`, watchToken());
      if (taken) yield* taken;
    }
  });
  await m.settle();
  expect(log().match(/a process does not read/g)).toHaveLength(1);
  // No request is looked at meanwhile, and no more than so many can be written.
  const taken = Array.from({ length: fileWritesMax }, () => file.send(XsType.Read, 0, 'domid'));
  expect(taken.indexOf(false)).toBe(fileWritesMax - 1);
  await m.settle();
  expect(m.trace.at(-1)?.op).not.toBe('READ');
  isFull = false;
  file.resume();
  await m.settle();
  expect(got.filter(({ type }) => type === XsType.WatchEvent).length).toBeLessThanOrEqual(fileEventsMax);
  expect(got.filter(({ type }) => type === XsType.Read)).toHaveLength(fileWritesMax);
  expect(drained).toBe(1);
});

/** The token of the watch on `test`, as the kernel gave it to the store. */
function watchToken(): string {
  const line = m.trace.findLast(({ op, args }) => op === 'WATCH' && args[0] === 'test');
  return String(line?.args[1]);
}

test('a bug in a callback ends xenwatch and what depends on it; dom0 goes on and tells', async () => {
  m = await machine({ cmdline: '' });
  const file = open({
    deliver: ({ type }) => {
      if (type === XsType.WatchEvent) throw new Error('a bug in watch_fired');
    },
  });
  file.send(XsType.Watch, 0, 'test', 't');
  await m.settle();
  const holds = ['xenwatch_mutex'];
  expect(m.dom0.dead).toEqual([{ thread: 'xenwatch', pid: expect.any(Number), why: 'a bug in watch_fired', holds }]);
  expect(log()).toContain('kernel BUG in xenwatch');
  const other = open();
  expect(await other.write(XsType.Read, 0, 'domid')).toEqual(['1 READ 0']);
  // Its mutex is never given back: no watch can be taken back any more.
  expect(await other.write(XsType.Watch, 0, 'test', 't')).toEqual(['2 WATCH OK']);
  other.close();
  await m.settle();
  expect(thread('xenwatch')).toMatchObject({
    state: 'X',
    stack: [],
    holds: ['xenwatch_mutex'],
    waiters: [{ comm: 'kworker/0:1' }],
    watch: { running: { callback: 'watch_fired', path: 'test' } },
  });
  expect(m.threads()[0]).toMatchObject({ thread: 'xenwatch', state: 'X' });
});
