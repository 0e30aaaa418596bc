/**
 * The requests of `xl block-attach`, `block-detach`, `network-attach` and `network-detach` of a running domain against those of
 * a real Xen 4.17 host with a Linux 6.1 dom0, connection by connection, and the store between them.
 */
import { diskAttach, nicAttach } from '../../src/libxl/attach.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import type { Ctx } from '../../src/libxl/ctx.js';
import { deviceRemove } from '../../src/libxl/device.js';
import { findDisk, findNic, listedDiskDevice } from '../../src/libxl/device-list.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { type Machine, machine, pvConfig } from '../machine.js';
import { connections, data, mainConnection, nodes, type Request, recorded, traced, units } from './requests.js';

const by = (requests: readonly Request[], who: string) => requests.filter((request) => request.who === who);

/** A kind of device: how one is added to a domain, and removed from it. */
interface Kind {
  readonly name: string;
  readonly add: (ctx: Ctx, domid: number) => Promise<void>;
  readonly remove: (ctx: Ctx, domid: number) => Promise<void>;
  /** The nodes of the new device. */
  readonly path: RegExp;
}

const kinds: readonly Kind[] = [
  {
    name: 'block',
    add: (ctx, domid) => diskAttach(ctx, domid, { pdevPath: '/dev/loop1', vdev: 'xvdb', format: 'raw', readwrite: true }),
    remove: async (ctx, domid) => {
      const disk = await findDisk(ctx, domid, 'xvdb');
      if (!disk) throw new Error('the disk is not there');
      await deviceRemove(ctx, listedDiskDevice(domid, disk), 'off');
    },
    path: /\/51728[/ ]/,
  },
  {
    name: 'network',
    add: (ctx, domid) => nicAttach(ctx, domid, { mac: '00:16:3e:00:00:99', bridge: 'xenbr0' }),
    remove: async (ctx, domid) => {
      const nic = await findNic(ctx, domid, 1);
      if (!nic) throw new Error('the interface is not there');
      const { devid, backendDomid } = nic;
      await deviceRemove(ctx, { domid, devid, kind: 'vif', backendDomid, backendKind: 'vif' }, 'auto');
    },
    path: /^\/(local\/domain\/0\/backend\/vif\/1|local\/domain\/1\/device\/vif|libxl\/1\/device\/vif)\/1[/ ]/,
  },
];

const designs = [
  ['one watch thread', ''],
  ['one watch thread a domain', 'xen_mtwatch'],
] as const;

describe.each(designs.flatMap(([title, cmdline]) => kinds.map((kind) => ({ title, cmdline, kind }))))(
  'with $title, xl $kind.name-attach and -detach',
  ({ cmdline, kind }) => {
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
      await m.run(kind.add(m.ctx, domid));
      await m.settle();
      attach = traced(m.trace.slice(attachBegin));
      between = await m.store();
      const detachBegin = m.trace.length;
      await m.run(kind.remove(m.ctx, domid));
      await m.settle();
      detach = traced(m.trace.slice(detachBegin));
      after = await m.store();
    });
    afterAll(() => m.dom0.close());

    const attached = recorded(data(`${kind.name}-attach.writes.txt`));
    const detached = recorded(data(`${kind.name}-detach.writes.txt`));

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

    test('the store has the same nodes for the device, in the same order', () => {
      const ofDevice = nodes(between.filter((line) => kind.path.test(line)).join('\n'));
      expect(ofDevice).toEqual(nodes(data(`${kind.name}-attach.store.txt`)));
    });

    test('nothing is left of it', () => {
      expect(after).toEqual(before);
      expect(m.lines).toEqual([]);
    });
  },
);
