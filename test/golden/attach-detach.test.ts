/**
 * The requests of `xl block-attach` and `xl block-detach` of a running domain against those of a real Xen 4.17 host with a
 * Linux 6.1 dom0, connection by connection, and the store between them.
 */
import { diskAttach } from '../../src/libxl/attach.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import { deviceRemove } from '../../src/libxl/device.js';
import { findDisk, listedDiskDevice } from '../../src/libxl/device-list.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { type Machine, machine, pvConfig } from '../machine.js';
import { connections, data, mainConnection, nodes, type Request, recorded, traced, units } from './requests.js';

const by = (requests: readonly Request[], who: string) => requests.filter((request) => request.who === who);

describe.each([
  ['one watch thread', ''],
  ['one watch thread a domain', 'xen_mtwatch'],
])('with %s', (_title, cmdline) => {
  let m: Machine;
  let domid: number;
  let attach: Request[];
  let detach: Request[];
  let before: string[];
  let between: string[];
  let after: string[];

  beforeAll(async () => {
    m = await machine({ cmdline });
    domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    before = await m.store();
    const attachBegin = m.trace.length;
    const spec = { pdevPath: '/dev/loop1', vdev: 'xvdb', format: 'raw', readwrite: true } as const;
    await m.run(diskAttach(m.ctx, domid, spec));
    await m.settle();
    attach = traced(m.trace.slice(attachBegin));
    between = await m.store();
    const detachBegin = m.trace.length;
    const disk = await m.run(findDisk(m.ctx, domid, 'xvdb'));
    if (!disk) throw new Error('the disk is not there');
    await m.run(deviceRemove(m.ctx, listedDiskDevice(domid, disk), 'off'));
    await m.settle();
    detach = traced(m.trace.slice(detachBegin));
    after = await m.store();
  });
  afterAll(() => m.dom0.close());

  const attached = recorded(data('block-attach.writes.txt'));
  const detached = recorded(data('block-detach.writes.txt'));

  test('xl attaches as the real one does', () => {
    expect(units(by(attach, 'xl'), domid)).toEqual(units(by(attached, 'xl'), 1));
  });

  test.each(['dom0-kernel', 'domU-kernel'] as const)('the %s connects as Linux does', (who) => {
    expect(units(by(attach, who), domid)).toEqual(mainConnection(attached, who, 1));
  });

  test('the script writes what the real one does, each node through a connection of its own', () => {
    expect(connections(attach, 'hotplug', domid)).toEqual(connections(attached, 'other', 1));
  });

  test('xl detaches as the real one does', () => {
    expect(units(by(detach, 'xl'), domid)).toEqual(units(by(detached, 'xl'), 1));
  });

  test.each(['dom0-kernel', 'domU-kernel'] as const)('the %s lets go as Linux does', (who) => {
    expect(units(by(detach, who), domid)).toEqual(mainConnection(detached, who, 1));
  });

  test('the store has the same nodes for the disk, in the same order', () => {
    const ofDisk = (lines: readonly string[]) => nodes(lines.filter((line) => line.includes('/51728')).join('\n'));
    expect(ofDisk(between)).toEqual(nodes(data('block-attach.store.txt')));
  });

  test('nothing is left of it', () => {
    expect(after).toEqual(before);
    expect(m.lines).toEqual([]);
  });
});
