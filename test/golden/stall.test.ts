/**
 * The stall of a real host's only watch thread (Xen 4.17, Linux 6.1), from the disk that hangs while it connects until all
 * is well again: each command's lines, end and duration, what every connection asked of the store, the store meanwhile
 * and after, the monitors' logs, and what dom0's kernel shows and logs. Then the same with one watch thread a domain.
 *
 * There the disk lay on a suspended device with dirty pages; here it is held as it connects. A duration is what libxl's own
 * deadlines make of it: nothing else takes time here. How the built xl prints the same episode, `xl list` included, is in
 * commands.test.ts.
 *
 * Of the kernel's stacks offsets are left out, and guesses of the unwinder (`? name`); of its log, where Linux looks at
 * each device on the bus (`cleanup_dev`), the number of looks, which depends on how devices are kept.
 */
import { fileURLToPath } from 'node:url';
import { diskAttach, nicAttach } from '../../src/libxl/attach.js';
import type { Ctx } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { deviceRemove } from '../../src/libxl/device.js';
import { findDisk, listedDiskDevice } from '../../src/libxl/device-list.js';
import { domainShutdown, domainUnpause, listDomains, watchDeaths } from '../../src/libxl/domain.js';
import type { DomainConfig } from '../../src/libxl/domain-config.js';
import { createDomain } from '../../src/libxl/monitor.js';
import { retrieveConfig } from '../../src/libxl/saved-config.js';
import { type Machine, machine, pvConfig } from '../machine.js';
import { failedDestroy } from '../rfc-lines.js';
import { leaveMonitor, startProcess } from './process.js';
import { recordings } from './recordings.js';
import { connections, data, nodes, type Request, recorded, traced, type Unit } from './requests.js';

const dyndbg = 'dyndbg="module xenbus +p; module xen_blkback +p; module xen_netback +p"';
const [other, stall, third] = [16, 17, 20];

/** One of the guests of the recording: a vcpu, a disk and a vif. */
function guest(name: string, disk: string, mac: string, more = ''): DomainConfig {
  const base = pvConfig(name);
  return {
    ...base,
    bInfo: { ...base.bInfo, maxVcpus: 1, availVcpus: [0], cmdline: `console=hvc0 root=/dev/xvda${more}` },
    disks: [{ pdevPath: disk, vdev: 'xvda', format: 'raw', readwrite: true }],
    nics: [{ devid: 0, mac: `00:16:3e:00:00:${mac}`, bridge: 'xenbr0' }],
  };
}

const guests = {
  other: () => guest('other', '/dev/loop1', '0b'),
  stall: () => guest('stall', '/dev/mapper/slow', '0a', ' labio'),
  third: () => guest('third', '/dev/loop3', '0c'),
};

/** What came of a command. */
interface Ended {
  readonly failed: boolean;
  readonly tookMs: number;
  readonly lines: readonly string[];
  readonly units: readonly Unit[];
}

/** An episode: the commands by the names of their recordings, and what was looked at meanwhile. */
interface Episode {
  readonly m: Machine;
  readonly commands: Map<string, Ended>;
  /** What the monitors wrote, by the names of their domains. */
  readonly logs: Map<string, readonly string[]>;
  /** What the monitors asked of the store once the disk hung. */
  readonly monitors: Map<string, () => readonly Unit[]>;
  readonly stores: Map<string, readonly string[]>;
  readonly stacks: Map<string, readonly string[]>;
  readonly dmesg: Map<string, readonly string[]>;
  /** Everything that was asked of the store since the disk hung. */
  readonly requests: readonly Request[];
}

async function play(cmdline: string): Promise<Episode> {
  const m = await machine({ cmdline: `${cmdline} sysctl.kernel.hung_task_timeout_secs=20 ${dyndbg}` });
  const commands = new Map<string, Ended>();
  const logs = new Map<string, readonly string[]>();
  const monitors = new Map<string, () => readonly Unit[]>();
  const stores = new Map<string, readonly string[]>();
  const stacks = new Map<string, readonly string[]>();
  const dmesg = new Map<string, readonly string[]>();
  let hung = Number.POSITIVE_INFINITY;

  const command = async (name: string, work: (ctx: Ctx) => Promise<unknown>): Promise<boolean> => {
    const lines: string[] = [];
    const { ctx, units, close } = await m.run(startProcess(m, lines));
    const [from, start] = [m.trace.length, m.clock.now()];
    let tookMs = 0;
    const ended = await m.run(
      work(ctx)
        .then(
          () => false,
          () => true,
        )
        .finally(() => {
          tookMs = m.clock.now() - start;
        }),
    );
    close();
    await m.settle();
    commands.set(name, { failed: ended, tookMs, lines, units: plain(units(from)) });
    return !ended;
  };
  const create =
    (name: keyof typeof guests, paused = false) =>
    async (ctx: Ctx) => {
      const config = guests[name]();
      const domid = await createDomain(ctx, config);
      const log: string[] = [];
      logs.set(name, log);
      const begun = m.trace.length;
      const monitor = await leaveMonitor(m, domid, name, log);
      monitors.set(name, () => plain(monitor.units(Math.max(begun, hung))));
      if (!paused) await domainUnpause(ctx, domid);
    };
  const detach = (vdev: string) => async (ctx: Ctx) => {
    const disk = await findDisk(ctx, other, vdev);
    if (!disk) throw new Error('the disk is not there');
    await deviceRemove(ctx, listedDiskDevice(other, disk), 'off');
  };
  const look = async (name: string) => {
    stores.set(name, await m.store());
    const { stack = [] } = m.threads().find(({ state }) => state === 'D')?.running ?? {};
    stacks.set(name, stack);
  };
  const readLog = () => (m.dom0.handlers['dom0.dmesg']({ clear: true }) as { lines: readonly string[] }).lines;

  for (let domid = 1; domid < other; domid += 1) {
    const { uuid } = pvConfig().cInfo;
    await m.ctx.xc.call('xc.domain_create', { uuid, maxVcpus: 1 });
    await m.ctx.xc.call('xc.domain_destroy', { domid });
  }
  // The host had not been asked yet what dom0 has.
  await m.run(m.ctx.xs.rm('/local/domain/0/memory'));
  await command('00-create-other', create('other'));
  await command('01-create-stall-paused', create('stall', true));
  m.dom0.handlers['dom0.hold']({ device: `vbd-${stall}-51712`, mode: 'connect' });
  hung = m.trace.length;
  await command('02-unpause', (ctx) => domainUnpause(ctx, stall));
  await look('03-store-stalled');
  readLog();
  m.clock.advance(45_000);
  await m.settle();
  dmesg.set('hung', readLog());
  const attached = await command('05-block-attach-other', (ctx) =>
    diskAttach(ctx, other, { pdevPath: '/dev/loop3', vdev: 'xvdb', format: 'raw', readwrite: true }),
  );
  // Where it went well there, the disk would still be in use when `third` wants it.
  if (attached) await command('05-block-attach-other, detached', detach('xvdb'));
  await command('06-network-attach-other', (ctx) => nicAttach(ctx, other, { mac: '00:16:3e:00:00:99', bridge: 'xenbr0' }));
  for (const [name, domid] of [
    ['07-create-third', 18],
    ['08-create-third-vvv', 19],
  ] as const) {
    const done = await command(name, create('third'));
    if (done) await command(`${name}, destroyed`, (ctx) => domainDestroy(ctx, domid));
  }
  await command('09-block-detach-other', detach('xvda'));
  await command('10-shutdown-w-other', async (ctx) => {
    const deaths = watchDeaths(ctx);
    await domainShutdown(ctx, other);
    await deaths.add(other);
    await deaths.next();
    await deaths.close();
  });
  await command('12-destroy-stall', (ctx) => domainDestroy(ctx, stall));
  await m.settle();
  await look('13-store');
  await command('13b-list-l', async (ctx) => {
    for (const { domid } of await listDomains(ctx)) await retrieveConfig(ctx, domid);
  });
  await command('14-destroy-stall-again', (ctx) => domainDestroy(ctx, stall));
  readLog();
  m.dom0.handlers['dom0.flush']({});
  await m.settle();
  dmesg.set('resumed', readLog());
  await look('18-store');
  const requests = traced(m.trace.slice(hung));
  await command('19-create-third', create('third'));
  await command('20-destroy-third', (ctx) => domainDestroy(ctx, third));
  await m.settle();
  return { m, commands, logs, monitors, stores, stacks, dmesg, requests };
}

/** Requests of which only the mtwatch node is ours; what the hypervisor made up is put aside. */
function plain(units: readonly Unit[]): Unit[] {
  return units
    .map((unit) => unit.filter((text) => !text.includes('/local/domain/0/mtwatch/')))
    .filter((unit) => unit.length > 0)
    .map((unit) => unit.map((text) => text.replace(/^(INTRODUCE \d+) .*/, '$1')));
}

const written = recorded(data('xenwatch-stall.writes.txt'));
const theirs = (conn: string) =>
  plain(
    connections(
      written.filter((request) => request.conn === conn).map((request) => ({ ...request, who: 'one' })),
      'one',
      -1,
    )[0] ?? [],
  );

/** The commands and how long each waits in vain: 10 s for a backend, 5 s for a guest whose vif does not close. */
const waits = {
  '00-create-other': 0,
  '01-create-stall-paused': 0,
  '02-unpause': 0,
  '05-block-attach-other': 10_000,
  '06-network-attach-other': 10_000,
  '07-create-third': 20_000,
  '08-create-third-vvv': 20_000,
  '09-block-detach-other': 10_000,
  '10-shutdown-w-other': 5_000,
  '12-destroy-stall': 10_000,
  '13b-list-l': 0,
  '14-destroy-stall-again': 0,
  '19-create-third': 0,
  '20-destroy-third': 0,
};
const episodeThere = recordings(fileURLToPath(new URL('data/commands/xenwatch-stall.txt', import.meta.url)));

const part = (file: string, name: string) => {
  const parts = data(file).split(/^=== (.*)\n/m);
  const at = parts.indexOf(name);
  if (at < 0) throw new Error(`${file} has no ${name}`);
  return (parts[at + 1] ?? '').split('\n').filter((line) => line !== '');
};

describe('with one watch thread', () => {
  let episode: Episode;
  beforeAll(async () => {
    episode = await play('');
  });
  afterAll(() => episode.m.dom0.close());

  test.each(Object.entries(waits))('%s ends as the real one does, after %d ms', (name, ms) => {
    const there = episodeThere.find((each) => each.name === name);
    expect(episode.commands.get(name)).toMatchObject({
      failed: there?.exit !== 0,
      tookMs: ms,
      lines: (there?.stderr ?? '').split('\n').filter((line) => line.startsWith('libxl: error: ')),
    });
  });

  test.each([
    ['05-block-attach-other', '#6'],
    ['06-network-attach-other', '#8'],
    ['07-create-third', '#9'],
    ['08-create-third-vvv', '#12'],
    ['09-block-detach-other', '#13'],
    ['10-shutdown-w-other', '#14'],
    ['12-destroy-stall', '#17'],
    ['13b-list-l', '#21'],
    ['14-destroy-stall-again', '#22'],
  ])('%s asks what the real one does', (name, conn) => {
    expect(episode.commands.get(name)?.units).toEqual(theirs(conn));
  });

  test.each([
    ['other', '#15'],
    ['stall', '#18'],
  ])('the monitor of %s asks what the real one does', (name, conn) => {
    expect(episode.monitors.get(name)?.()).toEqual(theirs(conn));
  });

  test("the guests' kernels ask what the real ones do", () => {
    const [ofStall = [], ofOther = []] = connections(episode.requests, 'domU-kernel', -1);
    expect([ofStall, ofOther]).toEqual([theirs('#2'), theirs('#7')]);
  });

  test("dom0's kernel and xenconsoled ask what the real ones do", () => {
    expect(connections(episode.requests, 'dom0-kernel', -1)).toEqual([theirs('#3')]);
    expect(connections(episode.requests, 'xenconsoled', -1)).toEqual([theirs('#10')]);
  });

  test.each(['03-store-stalled', '13-store', '18-store'])('%s: the store has the same nodes in the same order', (name) => {
    expect(listed(episode, name)).toEqual(listedThere(name));
  });

  test('the monitors write into their logs what those of real ones did', () => {
    const named = [...episode.logs].map(([name, lines]) => [name, lines.map((line) => line.replace(/\[pid \d+\]/, '[pid PID]'))]);
    const [ofOther, ofStall] = ['other', 'stall'].map((name) => part('xenwatch-stall.logs.txt', name));
    expect(named.slice(0, 2)).toEqual([
      ['other', ofOther],
      ['stall', ofStall],
    ]);
  });

  test.each(['03-store-stalled', '13-store'])('%s: xenwatch sleeps in the frames of the real one', (name) => {
    const there = part('xenwatch-stall.dmesg.txt', 'stack').map(frame);
    const here = (episode.stacks.get(name) ?? []).map((line) => frame(line.replace('[<0>] ', '')));
    // Linux calls the last of these and lets go of its own frame.
    const tailCalls = ['frontend_changed [xen_blkback]', 'xenbus_otherend_changed', 'frontend_changed'];
    expect(here.filter((name) => !tailCalls.includes(name))).toEqual(there);
    expect(here.filter((name) => tailCalls.includes(name))).toEqual(tailCalls);
    expect(episode.stacks.get('18-store')).toEqual([]);
  });

  test('the hung task is reported as there', () => {
    const reports = (episode.dmesg.get('hung') ?? []).map((line) => line.replace(/^\[ *[\d.]+\] /, ''));
    const there = part('xenwatch-stall.dmesg.txt', 'hung').flatMap((line) => (/^ \? /.test(line) ? [] : [frame(line)]));
    const tailCalls = [' frontend_changed [xen_blkback]', ' xenbus_otherend_changed', ' frontend_changed'];
    const seconds = (line: string) => line.replace(/than \d+ seconds/, 'than N seconds');
    expect(reports.filter((line) => !tailCalls.includes(line)).map(seconds)).toEqual(there.map(seconds));
  });

  test('what waited is handled with the lines of the real one', () => {
    const there = part('xenwatch-stall.dmesg.txt', 'resumed').map(event);
    const here = (episode.dmesg.get('resumed') ?? []).map(event);
    expect(here.slice(-there.length)).toEqual(there);
  });

  test('nothing is left but what the host has learnt of dom0', () => {
    expect(episode.m.threads().map(({ thread, state }) => [thread, state])).toEqual([['xenwatch', 'S']]);
    expect([episode.m.dom0.domains, episode.m.log]).toEqual([0, []]);
  });
});

const frame = (line: string) => line.replace(/\+0x[0-9a-f]+\/0x[0-9a-f]+/, '').trimEnd();
const event = (line: string) =>
  line
    .replace(/^\[ *[\d.]+\] /, '')
    .replace(/\b[0-9a-f]{16}\b/, 'ADDRESS')
    .trimEnd();

/** Our store, without what it has more. */
function listed(episode: Episode, name: string): string[] {
  return nodes((episode.stores.get(name) ?? []).join('\n')).filter((line) => !line.startsWith('/local/domain/0/mtwatch'));
}

/** The real one. A device-mapper device has a number of its own there, and a name in /dev/mapper is a link. */
function listedThere(name: string): string[] {
  return nodes(part('xenwatch-stall.store.txt', name).join('\n')).map((line) =>
    line.replace('physical-device = "fd:0"', 'physical-device = "7:0"').replace('"/dev/dm-0"', '"/dev/mapper/slow"'),
  );
}

describe('with one watch thread a domain', () => {
  let episode: Episode;
  beforeAll(async () => {
    episode = await play('xen_mtwatch');
  });
  afterAll(() => episode.m.dom0.close());

  test("only the stalled domain's own command waits in vain; all others end well, at once", () => {
    const vain = [...episode.commands].filter(([, { tookMs, failed, lines }]) => tookMs > 0 || failed || lines.length > 0);
    const { lines } = episode.commands.get('12-destroy-stall') ?? {};
    const zombie = 'libxl: error: libxl_domain.c:2335:retrieve_domain_configuration_lock_acquired: ';
    expect(vain.map(([name, { failed, tookMs, lines }]) => ({ name, failed, tookMs, lines }))).toEqual([
      { name: '12-destroy-stall', failed: false, tookMs: 10_000, lines: failedDestroy(stall, 'vbd/17/51712', 'vif/17/0') },
      { name: '13b-list-l', failed: false, tookMs: 0, lines: [`${zombie}Domain ${stall}:Fail to get domain configuration`] },
    ]);
    expect(lines).toHaveLength(3);
    expect(episode.commands.size).toBe(Object.keys(waits).length + 3);
  });

  test('its thread alone sleeps, in the frames of the real xenwatch', () => {
    const here = (episode.stacks.get('03-store-stalled') ?? []).map((line) => frame(line.replace('[<0>] ', '')));
    const there = part('xenwatch-stall.dmesg.txt', 'stack').map((line) =>
      frame(line).replace('xenwatch_thread', 'mtwatch_thread'),
    );
    expect(there.filter((name) => !here.includes(name))).toEqual([]);
    const reports = (episode.dmesg.get('hung') ?? []).filter((line) => line.includes('INFO: task'));
    expect(reports).toEqual([expect.stringMatching(/task xen-mtwatch-17:\d+ blocked for more than 20 seconds/)]);
  });

  test('the store has what it has with one thread while the disk hangs, and nothing more in the end', () => {
    expect(listed(episode, '03-store-stalled')).toEqual(listedThere('03-store-stalled'));
    expect(listed(episode, '13-store')).toEqual(listedThere('13-store'));
    expect(listed(episode, '18-store')).toEqual(listedThere('18-store'));
    expect(episode.m.threads().map(({ thread, state }) => [thread, state])).toEqual([['xenwatch', 'S']]);
    expect([episode.m.dom0.domains, episode.m.log]).toEqual([0, []]);
  });
});
