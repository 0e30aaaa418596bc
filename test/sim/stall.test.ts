/**
 * The RFC's stall, with one watch thread and with one a domain: a packet that never comes back (scenario 1), and a
 * write-back that never ends while the frontend connects (what a real host was made to do).
 */
import { CreateError, domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainPause, domainUnpause } from '../../src/libxl/domain.js';
import type { Hold } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';
import { failedCreate, failedDestroy } from '../rfc-lines.js';

let m: Machine;
afterEach(() => m.dom0.close());

/** Creates a domain as `xl create` does, its second destroy after a failure included. */
async function create(name: string): Promise<{ domid: number | undefined; rc: number }> {
  try {
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig(name)));
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    return { domid, rc: 0 };
  } catch (error) {
    if (!(error instanceof CreateError) || error.domid === undefined) throw error;
    await m.run(domainDestroy(m.ctx, error.domid)).catch(() => undefined);
    return { domid: undefined, rc: error.rc };
  }
}

const destroy = (domid: number) => m.run(domainDestroy(m.ctx, domid));
const hold = (device: string, mode: Hold['mode']) => m.dom0.handlers['dom0.hold']({ device, mode });
const flush = () => m.dom0.handlers['dom0.flush']({});
const info = (domid: number) => m.dom0.handlers['xc.domain_getinfo']({ domid });
const takeLines = () => m.lines.splice(0);
const stuck = () => m.threads().filter(({ state }) => state === 'D');

/** Innermost first, as the RFC's cover letter has them for scenario 1. */
const scenario1 = ['kthread_stop', 'xenvif_disconnect_data', 'set_backend_state', 'frontend_changed'];
/** As a real host's /proc/PID/stack had them. */
const writeBack = [
  'folio_wait_bit_common',
  'folio_wait_writeback',
  '__filemap_fdatawait_range',
  'filemap_write_and_wait_range',
  'xen_update_blkif_status',
];

/** Those of `names` that stand in the stack, in its order. */
const framesIn = (stack: readonly string[] | undefined, names: readonly string[]) => {
  const frames = (stack ?? []).map((line) => line.replace('[<0>] ', '').replace(/ \[.*\]$/, ''));
  return names.filter((name, index) => frames.indexOf(name) > (index === 0 ? -1 : frames.indexOf(names[index - 1] ?? '')));
};

describe('with one watch thread, a held packet', () => {
  test("stalls the domain's destruction and every later creation, until it is let go", async () => {
    m = await machine({ cmdline: '' });
    const before = await m.store();
    await create('one');
    hold('vif1.0', 'inflight');
    const start = m.clock.now();
    await destroy(1);
    expect(m.clock.now() - start).toBe(10_000);
    expect(takeLines()).toEqual(failedDestroy(1, 'vif/1/0'));
    expect(info(1)).toMatchObject({ dying: true, paused: true, currentKb: 0 });
    expect(stuck().map(({ thread }) => thread)).toEqual(['xenwatch']);
    expect(framesIn(stuck()[0]?.running?.stack, [...scenario1, 'xenwatch_thread', 'kthread', 'ret_from_fork'])).toHaveLength(7);

    expect(await create('two')).toEqual({ domid: undefined, rc: -3 });
    expect(takeLines()).toEqual(failedCreate(2));
    expect(info(2)).toBeNull();

    flush();
    await m.settle();
    expect(info(1)).toBeNull();
    expect(await create('three')).toEqual({ domid: 3, rc: 0 });
    await destroy(3);
    expect({ lines: takeLines(), store: await m.store(), stuck: stuck() }).toEqual({
      lines: [],
      store: [...before, ...['/vm = ""   (n0)', '/libxl = ""   (n0)']],
      stuck: [],
    });
  });
});

describe('with one watch thread a domain, a held packet', () => {
  test('stalls its own domain alone', async () => {
    m = await machine();
    const before = await m.store();
    await create('one');
    hold('vif1.0', 'inflight');
    await destroy(1);
    expect(takeLines()).toEqual(failedDestroy(1, 'vif/1/0'));
    const names = Array.from({ length: 10 }, (_, index) => `other-${index}`);
    const others = await Promise.all(names.map((name) => m.run(domainCreateNew(m.ctx, pvConfig(name)))));
    for (const domid of others) await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    expect(stuck().map(({ thread, retiring, node }) => ({ thread, retiring, node }))).toEqual([
      { thread: 'xen-mtwatch-1', retiring: true, node: false },
    ]);
    await Promise.all(others.map(destroy));
    expect(takeLines()).toEqual([]);
    expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch', 'xen-mtwatch-1']);

    flush();
    await m.settle();
    expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch']);
    expect(m.dom0.domains).toBe(0);
    expect((await m.store()).filter((line) => !before.includes(line))).toEqual(['/vm = ""   (n0)', '/libxl = ""   (n0)']);
  });
});

describe.each([
  ['one watch thread', ''],
  ['one watch thread a domain', 'xen_mtwatch'],
])('with %s, a write-back that never ends', (_title, cmdline) => {
  test('hangs the thread that connects the frontend, in the frames of a real host', async () => {
    m = await machine({ cmdline });
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig('stall')));
    hold(`vbd-${domid}-51712`, 'connect');
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    const [thread] = stuck();
    const entry = cmdline === '' ? 'xenwatch_thread' : 'mtwatch_thread';
    expect(framesIn(thread?.running?.stack, [...writeBack, entry, 'kthread', 'ret_from_fork'])).toHaveLength(8);
    expect(await m.run(m.ctx.xs.read(`/local/domain/0/backend/vbd/${domid}/51712/state`))).toBe('4');

    const other = await create('other');
    expect(other.rc).toBe(cmdline === '' ? -3 : 0);
    takeLines();
    await destroy(domid);
    expect(takeLines()).toEqual(failedDestroy(domid, `vbd/${domid}/51712`, `vif/${domid}/0`));
    flush();
    await m.settle();
    if (other.domid !== undefined) await destroy(other.domid);
    expect({ lines: takeLines(), domains: m.dom0.domains, threads: m.threads().map(({ thread }) => thread) }).toEqual({
      lines: [],
      domains: 0,
      threads: ['xenwatch'],
    });
  });
});

test('a paused domain answers while every watch callback hangs', async () => {
  m = await machine({ cmdline: '' });
  const { domid = 0 } = await create('one');
  hold('vif1.0', 'inflight');
  const other = await create('two');
  await destroy(domid);
  const start = m.clock.now();
  await m.run(domainPause(m.ctx, other.domid ?? 0));
  expect({ waited: m.clock.now() - start, paused: info(other.domid ?? 0) }).toMatchObject({
    waited: 0,
    paused: { paused: true },
  });
});
