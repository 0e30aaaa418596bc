/**
 * The requests of a domain's life against those of a real Xen 4.17 host with a Linux 6.1 dom0, connection by connection: it is
 * created paused and destroyed, shuts down while `xl shutdown -w` waits, and is rebooted by its monitor. The only difference
 * is ours: the mtwatch node, written before anything else of a domain and removed after it.
 */

import type { Ctx } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainReboot, domainShutdown, domainUnpause, watchDeaths } from '../../src/libxl/domain.js';
import { createDomain } from '../../src/libxl/monitor.js';
import { type Machine, machine, pvConfig } from '../machine.js';
import { leaveMonitor, type Process, startProcess } from './process.js';
import { about, connections, data, mainConnection, type Request, recorded, traced, type Unit, units } from './requests.js';

const kinds = ['vbd', 'vif', 'other'] as const;
const kernels = ['dom0-kernel', 'domU-kernel'] as const;

/** Those of one connection of a recording, by its number. */
const theirs = (requests: readonly Request[], conn: string, domid: number) =>
  units(
    requests.filter((request) => request.conn === conn),
    domid,
  );

/** Lines of a vbd, of a vif and of neither may interleave. */
function byKind(all: readonly Unit[]): Record<string, Unit[]> {
  return Object.fromEntries(kinds.map((kind) => [kind, about(all, kind)]));
}

const isNode = (unit: Unit) => unit.length === 1 && unit[0]?.includes('/local/domain/0/mtwatch/');

/** Our units without the mtwatch node, which has to be the first or the last of them. */
function withoutNode(all: readonly Unit[], op: 'WRITE' | 'RM'): Unit[] {
  const place = op === 'WRITE' ? 0 : all.length - 1;
  expect(all.map((unit, at) => (isNode(unit) ? at : -1)).filter((at) => at >= 0)).toEqual([place]);
  expect(all[place]?.[0]).toMatch(new RegExp(`^${op} `));
  return all.filter((unit) => !isNode(unit));
}

describe.each([
  ['one watch thread', ''],
  ['one watch thread a domain', 'xen_mtwatch'],
])('with %s', (_title, cmdline) => {
  let m: Machine;
  let monitor: Process;
  let log: string[];
  beforeEach(async () => {
    m = await machine({ cmdline });
    log = [];
  });
  afterEach(() => m.dom0.close());

  /** A command: what it asks of the store, and what everybody asks until all is quiet. */
  async function command(
    work: (ctx: Ctx) => Promise<unknown>,
  ): Promise<{ from: number; process: Process; all: () => Request[] }> {
    const from = m.trace.length;
    const process = await m.run(startProcess(m, m.lines));
    await m.run(work(process.ctx));
    await m.settle();
    process.close();
    await m.settle();
    return { from, process, all: () => traced(m.trace.slice(from)) };
  }

  /** `xl create` of the recorded guest. */
  const create = (paused: boolean) => async (ctx: Ctx) => {
    const domid = await createDomain(ctx, pvConfig());
    monitor = await leaveMonitor(m, domid, 'pv', log);
    if (!paused) await domainUnpause(ctx, domid);
  };

  test('create -p, and destroy of what never ran', async () => {
    const created = recorded(data('create-paused.writes.txt'));
    const { process, all } = await command(create(true));
    expect(byKind(withoutNode(process.units(0, 1), 'WRITE'))).toEqual(byKind(theirs(created, '#1', 4)));
    expect(units(by(all(), 'dom0-kernel'), 1)).toEqual(mainConnection(created, 'dom0-kernel', 4));
    expect(monitor.units(0, 1)).toEqual(theirs(created, '#22', 4));
    const [consoled, ...scripts] = connections(created, 'other', 4).filter(
      (list) => !list.flat().includes('WATCH @releaseDomain'),
    );
    expect(connections(all(), 'xenconsoled', 1)).toEqual([consoled]);
    expect(connections(all(), 'hotplug', 1)).toEqual(scripts);
    expect(by(all(), 'domU-kernel')).toEqual([]);

    const destroyed = recorded(data('destroy-paused.writes.txt'));
    const end = await command((ctx) => domainDestroy(ctx, 1));
    expect(withoutNode(end.process.units(0, 1), 'RM')).toEqual(theirs(destroyed, '#1', 4));
    expect(units(by(end.all(), 'dom0-kernel'), 1)).toEqual(theirs(destroyed, '#2', 4));
    expect(units(by(end.all(), 'xenconsoled'), 1)).toEqual(theirs(destroyed, '#3', 4));
    expect(monitor.units(end.from, 1)).toEqual(theirs(destroyed, '#10', 4));
    expect([m.lines, m.dom0.domains]).toEqual([[], 0]);
  });

  test('shutdown -w, until nothing is left', async () => {
    const there = recorded(data('shutdown.writes.txt'));
    await command(create(false));
    const { from, process, all } = await command(async (ctx) => {
      const deaths = watchDeaths(ctx);
      await domainShutdown(ctx, 1);
      await deaths.add(1);
      await deaths.next();
      await deaths.close();
    });
    expect(process.units(0, 1)).toEqual(theirs(there, '#1', 1));
    for (const who of kernels) expect(units(by(all(), who), 1)).toEqual(mainConnection(there, who, 1));
    // It ends by closing its watch; the node goes before that.
    const asked = monitor.units(from, 1);
    expect(asked.at(-1)).toEqual(['UNWATCH @releaseDomain']);
    expect([...withoutNode(asked.slice(0, -1), 'RM'), asked.at(-1)]).toEqual(theirs(there, '#4', 1));
    expect(units(by(all(), 'xenconsoled'), 1)).toEqual(theirs(there, '#5', 1));
    expect(log).toEqual([
      expect.stringMatching(/^Waiting for domain pv \(domid 1\) to die \[pid \d+\]$/),
      'Domain 1 has shut down, reason code 0 0x0',
      'Action for shutdown reason code 0 is destroy',
      'Domain 1 needs to be cleaned up: destroying the domain',
      'Done. Exiting now',
    ]);
    expect([m.lines, m.dom0.domains]).toEqual([[], 0]);
  });

  test('reboot, until the next life is connected', async () => {
    const there = recorded(data('reboot.writes.txt'));
    const { uuid } = pvConfig().cInfo;
    await m.ctx.xc.call('xc.domain_create', { uuid, maxVcpus: 1 });
    await m.ctx.xc.call('xc.domain_destroy', { domid: 1 });
    await command(create(false));
    const { from, process, all } = await command((ctx) => domainReboot(ctx, 2));
    // Between the two lives the monitor sleeps for a while.
    m.clock.advance(2_000);
    await m.settle();
    expect(process.units()).toEqual(plain(theirs(there, '#1', -1)));

    const asked = plain(monitor.units(from));
    const nodes = asked.filter(isNode).flat();
    expect(nodes).toEqual(['RM /local/domain/0/mtwatch/2', 'WRITE /local/domain/0/mtwatch/3']);
    expect(byKind(asked.filter((unit) => !isNode(unit)))).toEqual(byKind(plain(theirs(there, '#4', -1))));
    const at = (text: string) => asked.findIndex(([first]) => first === text);
    expect(at('RM /local/domain/0/mtwatch/2')).toBe(at('RM /local/domain/2/hvmloader') + 1);
    expect(asked.findIndex((unit) => unit.includes('WRITE /local/domain/3'))).toBe(at('WRITE /local/domain/0/mtwatch/3') + 1);

    expect(byKind(sizeless(units(by(all(), 'dom0-kernel'), -1)))).toEqual(
      byKind(sizeless(mainConnection(there, 'dom0-kernel', -1))),
    );
    const [before, after] = connections(all(), 'domU-kernel', -1);
    expect([before, after]).toEqual([theirs(there, '#2', -1), theirs(there, '#55', -1)]);
    const [consoled, ...scripts] = connections(there, 'other', -1).slice(1);
    expect(connections(all(), 'xenconsoled', -1)).toEqual([consoled]);
    expect(connections(all(), 'hotplug', -1)).toEqual(scripts);
    expect(log.map((line) => line.replace(/ \[pid \d+\]$/, ''))).toEqual([
      'Waiting for domain pv (domid 2) to die',
      'Domain 2 has shut down, reason code 1 0x1',
      'Action for shutdown reason code 1 is restart',
      'Domain 2 needs to be cleaned up: destroying the domain',
      'Done. Rebooting now',
      'Waiting for domain pv (domid 3) to die',
    ]);
    expect([m.lines, m.dom0.domains]).toEqual([[], 1]);
  });
});

/** Without what a backend says of a disk's size and what it can: there was no file behind that of the recording. */
function sizeless(all: readonly Unit[]): Unit[] {
  return all.map((unit) =>
    unit.filter((text) => !/\/(sectors|feature-(flush-cache|discard|barrier)|discard-\w+) \d+$/.test(text)),
  );
}

/** Frame numbers and event channels are of one run. */
function plain(all: readonly Unit[]): Unit[] {
  return all.map((unit) => unit.map((text) => text.replace(/^(INTRODUCE \d+) .*/, '$1')));
}

function by(requests: readonly Request[], who: string): Request[] {
  return requests.filter((request) => request.who === who);
}
