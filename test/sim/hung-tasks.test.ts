/**
 * khungtaskd and the four ways to hold a device, in each design: which task is reported, in the kernel's words, with the
 * frames of its stack, and that nothing is reported and nothing left once the hold is flushed.
 */
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import type { Hold } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
afterEach(() => m.dom0.close());

const designs = [
  ['one watch thread', '', 'xenwatch', 'xenwatch_thread'],
  ['the patch as posted', 'xen_mtwatch=rfc', 'xen-mtwatch-1', 'mtwatch_thread'],
  ['one watch thread a domain', 'xen_mtwatch', 'xen-mtwatch-1', 'mtwatch_thread'],
] as const;

/** The functions that hang, innermost first, and those that led to them. */
const holds: readonly (readonly [string, Hold['mode'], readonly string[]])[] = [
  [
    'vif1.0',
    'inflight',
    [
      'kthread_stop',
      'xenvif_disconnect_queue',
      'xenvif_disconnect_data',
      'backend_disconnect',
      'set_backend_state',
      'frontend_changed',
    ],
  ],
  [
    'vbd-1-51712',
    'connect',
    [
      'folio_wait_bit_common',
      'folio_wait_writeback',
      '__filemap_fdatawait_range',
      'filemap_write_and_wait_range',
      'xen_update_blkif_status',
    ],
  ],
  ['vbd-1-51712', 'io', ['kthread_stop', 'xen_blkif_disconnect', 'xen_blkbk_remove', 'xenbus_dev_remove']],
  [
    'vbd-1-51712',
    'grants',
    ['gnttab_unmap_refs_sync', 'free_persistent_gnts', 'xen_blkbk_free_caches', 'xen_blkif_disconnect', 'xen_blkbk_remove'],
  ],
];

/** The reports in the kernel's log: who, for how long, and the functions of the trace. */
function reports(): { readonly who: string; readonly frames: readonly string[] }[] {
  const log = m.dom0.handlers['dom0.dmesg']({ clear: false }) as { readonly lines: readonly string[] };
  const lines = log.lines.map((line) => line.replace(/^\[ *\d+\.\d+\] /, ''));
  return lines.flatMap((line, at) => {
    const who = /^INFO: task (\S+):\d+ blocked for more than (\d+) seconds\.$/.exec(line);
    if (!who) return [];
    const trace = lines.slice(lines.indexOf(' <TASK>', at) + 1, lines.indexOf(' </TASK>', at));
    return [{ who: `${who[1]} ${who[2]}`, frames: trace.map((frame) => frame.trim().replace(/ \[.*\]$/, '')) }];
  });
}

describe.each(designs)('with %s,', (_title, cmdline, name, entry) => {
  test.each(holds)('%s on hold (%s) is reported once a period, and no longer than that', async (device, mode, frames) => {
    m = await machine({ cmdline });
    const before = await m.store();
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig('one')));
    const start = async () => {
      await m.run(domainUnpause(m.ctx, domid));
      await m.settle();
    };
    if (mode !== 'connect') await start();
    m.dom0.handlers['dom0.hold']({ device, mode });
    if (mode === 'connect') await start();
    else await m.run(domainDestroy(m.ctx, domid)).catch(() => undefined);

    m.clock.advance(119_000);
    expect(reports()).toEqual([]);
    m.clock.advance(241_000);
    // A ring's thread that cannot get its request into the block layer hangs as well.
    const also = mode === 'io' ? ['1.xvda-0'] : [];
    expect(reports().map(({ who }) => who)).toEqual([120, 240].flatMap((s) => [name, ...also].map((task) => `${task} ${s}`)));
    const [first, second] = reports().filter(({ who }) => who.startsWith(name));
    expect(first?.frames).toEqual(second?.frames);
    const at = first?.frames.indexOf(frames[0] ?? '') ?? -1;
    expect(first?.frames.slice(0, 2)).toEqual(['__schedule', 'schedule']);
    expect(first?.frames.slice(at, at + frames.length)).toEqual(frames);
    expect(first?.frames.slice(-3)).toEqual([entry, 'kthread', 'ret_from_fork']);

    m.dom0.handlers['dom0.flush']({});
    await m.settle();
    m.clock.advance(600_000);
    await m.settle();
    await m.run(domainDestroy(m.ctx, domid)).catch(() => undefined);
    await m.settle();
    expect(reports()).toHaveLength(2 + 2 * also.length);
    const left = (await m.store()).filter((line) => !before.includes(line));
    expect({ left, domains: m.dom0.domains, threads: m.threads().map(({ thread }) => thread) }).toEqual({
      left: ['/vm = ""   (n0)', '/libxl = ""   (n0)'],
      domains: 0,
      threads: ['xenwatch'],
    });
  });
});
