/**
 * dom0's kernel log of a create and of a destroy, with dynamic debug on, against that of a real host (Linux 6.1).
 *
 * The data has the host's lines without their times. Lines marked `udev:` are the same message printed for udev, which
 * read the devices' `uevent` files; there is no udev here, so they are left out. What differs between any two runs is
 * put aside: domids, addresses and grant references.
 */
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainPause, domainUnpause } from '../../src/libxl/domain.js';
import type { Perm } from '../../src/xenbus/xs-wire.js';
import { type Machine, machine, pvConfig } from '../machine.js';
import { data } from './requests.js';

const dyndbg = 'dyndbg="module xenbus +p; module xen_blkback +p; module xen_netback +p"';

function normal(lines: readonly string[], domid: number): string[] {
  return lines.map((line) =>
    line
      .replace(/^\[ *[\d.]+\] /, '')
      .trimEnd()
      .replace(/\b[0-9a-f]{16}\b/, 'ADDRESS')
      .replace(/grant \d+ added/, 'grant G added')
      .replace(new RegExp(`(domain/|backend/\\w+/|vbd-|vif-|vif|dom=|ADDRESS )${domid}(?!\\d)`, 'g'), '$1N'),
  );
}

const recorded = (name: string, domid: number) =>
  normal(
    data(name)
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('udev: ')),
    domid,
  );

/** Where the guest begins to run: from there its disk and its vif connect beside each other. */
const runs = (line: string) => line.includes('state is 3, (Initialised)');
const building = (lines: readonly string[]) => lines.slice(0, lines.findIndex(runs));
const running = (lines: readonly string[]) => lines.slice(lines.findIndex(runs));

/** What of a log is about one device, or printed by a ring's thread, or an event on dom0's watch. */
const lanes = {
  disk: (line: string) => /\/vbd\/|xen-blkback: frontend/.test(line) && !line.includes('grant G'),
  vif: (line: string) => /vif/.test(line),
  ring: (line: string) => line.includes('grant G'),
  events: (line: string) => line.startsWith('xenbus: (backend_changed'),
};

describe.each([
  ['one watch thread', ''],
  ['one watch thread a domain', 'xen_mtwatch '],
])('with %s', (_title, design) => {
  let m: Machine;
  let created: string[];
  let destroyed: string[];
  const theirCreate = recorded('create.dmesg.txt', 1);
  const theirDestroy = recorded('destroy.dmesg.txt', 2);

  const log = () => (m.dom0.handlers['dom0.dmesg']({ clear: true }) as { lines: readonly string[] }).lines;

  beforeAll(async () => {
    m = await machine({ cmdline: design + dyndbg });
    log();
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    created = normal(log(), domid);
    await m.run(domainDestroy(m.ctx, domid));
    await m.settle();
    destroyed = normal(log(), domid);
  });
  afterAll(() => m.dom0.close());

  test('the backends come up with the same lines in the same order', () => {
    expect(building(created)).toEqual(building(theirCreate));
  });

  test.each(['disk', 'vif', 'ring', 'events'] as const)('the guest connects with the same lines: %s', (lane) => {
    expect(running(theirCreate).filter(lanes[lane]).length).toBeGreaterThan(0);
    expect(running(created).filter(lanes[lane])).toEqual(running(theirCreate).filter(lanes[lane]));
  });

  test('every line is in a lane', () => {
    const stray = [...running(created), ...running(theirCreate)].filter(
      (line) => !Object.values(lanes).some((lane) => lane(line)),
    );
    expect(stray).toEqual([]);
  });

  test('the backends go with the same lines in the same order', () => {
    // Events of no domain (`backend/console` as a whole) have a thread of their own when each domain has one.
    const own = (line: string) => design === '' || !lanes.events(line);
    expect(destroyed.filter(own)).toEqual(theirDestroy.filter(own));
    expect(destroyed.filter(lanes.events)).toEqual(theirDestroy.filter(lanes.events));
  });
});

/** One domain's node, which another can read. */
const perms = (owner: number, reader: number): Perm[] => [
  { domid: owner, read: false, write: false },
  { domid: reader, read: true, write: false },
];

/**
 * A disk for a guest that runs: it is Initialised long before the script names the device, so blkback connects from its
 * own watch. The recording is of `xl block-attach` and `xl block-detach`; here their nodes are written by hand, and of
 * the log only what is about the disk is compared.
 */
test('a disk that comes to a running guest, and goes, leaves the lines of a real host', async () => {
  const m = await machine({ cmdline: dyndbg });
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  const read = () => (m.dom0.handlers['dom0.dmesg']({ clear: true }) as { lines: readonly string[] }).lines;
  read();
  const front = `/local/domain/${domid}/device/vbd/51728`;
  const back = `/local/domain/0/backend/vbd/${domid}/51728`;
  const ends = {
    [front]: { backend: back, 'backend-id': '0', state: '1', 'virtual-device': '51728', 'device-type': 'disk' },
    [back]: { frontend: front, 'frontend-id': String(domid), online: '1', state: '1', dev: 'xvdb', mode: 'w' },
  };
  // The guest answers when dom0's part is done, as the slower one of the recording did.
  await m.run(domainPause(m.ctx, domid));
  await m.run(
    m.ctx.xs.transaction(async (tx) => {
      for (const [dir, nodes] of Object.entries(ends)) {
        await tx.mkdir(dir);
        await tx.setPerms(dir, dir === front ? perms(domid, 0) : perms(0, domid));
        for (const [name, value] of Object.entries(nodes)) await tx.write(`${dir}/${name}`, value);
      }
    }),
  );
  await m.settle();
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  const { major, minor } = await m.ctx.xc.call('dom0.block_attach', { path: '/dev/vg/more', as: 'device', sectors: 2048 });
  await m.run(m.ctx.xs.write(`${back}/physical-device`, `${major.toString(16)}:${minor.toString(16)}`));
  await m.settle();
  for (const [name, value] of [
    ['online', '0'],
    ['state', '5'],
  ] as const)
    await m.run(m.ctx.xs.write(`${back}/${name}`, value));
  await m.settle();
  const lines = normal(read(), domid);
  const own = lines.filter((line) => !/^xenbus: \((backend_changed|xenbus_uevent)|cleanup_dev/.test(line));
  expect(own.filter((line) => !lanes.ring(line))).toEqual(
    recorded('block-attach-detach.dmesg.txt', 1).filter((line) => !lanes.ring(line)),
  );
  expect(own.filter(lanes.ring)).toHaveLength(1);
  m.dom0.close();
});

test('without dynamic debug, what is left is what is not a debug message', async () => {
  const m = await machine();
  m.dom0.handlers['dom0.dmesg']({ clear: true });
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  const { lines } = m.dom0.handlers['dom0.dmesg']({ clear: true }) as { lines: readonly string[] };
  expect(normal(lines, domid).filter((line) => /^(xen|vif|vbd)/.test(line) && !line.startsWith('xenbr0'))).toEqual([
    'xen-blkback: backend/vbd/N/51712: using 2 queues, protocol 1 (x86_64-abi) persistent grants',
    'vif vif-N-0 vifN.0: Guest Rx ready',
  ]);
  m.dom0.close();
});
