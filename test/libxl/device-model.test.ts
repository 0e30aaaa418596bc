import { diskAttach } from '../../src/libxl/attach.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { deviceRemove } from '../../src/libxl/device.js';
import { findDisk, listedDiskDevice } from '../../src/libxl/device-list.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import type { DomainConfig } from '../../src/libxl/domain-config.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine();
});
afterEach(() => m.dom0.close());

const create = (config: Partial<DomainConfig>, name = 'pv') =>
  m.run(domainCreateNew(m.ctx, pvConfig(name, { disks: [], nics: [], ...config })));

/** The nodes below some directories, without what all devices have. */
async function nodes(...dirs: readonly string[]): Promise<string[]> {
  await m.settle();
  return (await m.store()).filter((line) => dirs.some((dir) => line.startsWith(`${dir} `) || line.startsWith(`${dir}/`)));
}

/** Who changed what, without reads and transactions. */
function changes(): string[] {
  return m.trace
    .filter(({ op, who }) => ['WRITE', 'MKDIR', 'RM', 'SET_PERMS'].includes(op) && (who === 'xl' || who === 'qemu'))
    .map(({ who, op, args }) => `${who} ${op} ${args.join(' ')}`);
}

describe('a frame buffer', () => {
  test('comes with a keyboard, and qemu takes both to InitWait and says where its display is', async () => {
    expect(await create({ vfbs: [{ devid: 0, vnc: {}, sdl: {} }], vkbs: [{ devid: 0 }] })).toBe(1);
    expect({
      lines: m.lines,
      nodes: await nodes('/local/domain/0/backend/vfb/1/0', '/local/domain/0/backend/vkbd/1/0', '/local/domain/0/device-model'),
    }).toEqual({
      lines: [],
      nodes: expect.arrayContaining([
        '/local/domain/0/backend/vfb/1/0 = ""   (n0,r1)',
        ...[
          ['frontend', '/local/domain/1/device/vfb/0'],
          ['frontend-id', '1'],
          ['online', '1'],
          ['state', '2'],
          ['vnc', '1'],
          ['vnclisten', '127.0.0.1'],
          ['vncdisplay', '0'],
          ['vncunused', '1'],
          ['sdl', '0'],
          ['opengl', '0'],
          ['feature-resize', '1'],
          ['hotplug-status', 'connected'],
        ].map(([node, value]) => `/local/domain/0/backend/vfb/1/0/${node} = "${value}"   (n0,r1)`),
        ...[
          ['state', '2'],
          ['feature-abs-pointer', '1'],
          ['feature-raw-pointer', '1'],
          ['hotplug-status', 'connected'],
        ].map(([node, value]) => `/local/domain/0/backend/vkbd/1/0/${node} = "${value}"   (n0,r1)`),
        ...['console', 'vkbd', '9pfs', 'qusb', 'vfb', 'qnic'].map(
          (kind) => `/local/domain/0/device-model/1/backends/${kind} = ""   (n0,n1)`,
        ),
        '/local/domain/0/device-model/1/state = "running"   (n0)',
      ]),
    });
    expect(
      await nodes('/local/domain/1/image', '/local/domain/1/console/vnc-listen', '/local/domain/1/console/vnc-port'),
    ).toEqual([
      '/local/domain/1/console/vnc-listen = "127.0.0.1"   (n0,r1)',
      '/local/domain/1/console/vnc-port = "5900"   (n0,r1)',
      '/local/domain/1/image = ""   (n0,r1)',
      '/local/domain/1/image/device-model-pid = "60001"   (n0,r1)',
    ]);
  });

  test('goes two seconds after its qemu, by a state that libxl writes itself', async () => {
    const before = await m.store();
    await create({ vfbs: [{ devid: 0, vnc: {}, sdl: {} }] });
    m.trace.length = 0;
    const start = m.clock.now();
    await m.run(domainDestroy(m.ctx, 1));
    await m.settle();
    const kept = (line: string) => !/^\/(vm|libxl|local\/domain\/0\/(backend|device-model)) =/.test(line);
    expect({
      lines: m.lines,
      seconds: (m.clock.now() - start) / 1000,
      left: (await m.store()).filter(kept),
      closed: changes().filter((line) => line.includes('state')),
      unregistered: changes().filter((line) => line.startsWith('qemu')),
    }).toEqual({
      lines: [],
      seconds: 2,
      left: before.filter(kept),
      closed: ['xl WRITE /local/domain/0/backend/vfb/1/0/state 6'],
      unregistered: ['console', 'vkbd', '9pfs', 'qusb', 'vfb', 'qnic'].map((kind) => `qemu RM device-model/1/backends/${kind}`),
    });
  });

  test('looks for a display that is free, and keeps a password where qemu finds it', async () => {
    const vfbs = [{ devid: 0, vnc: { listen: '0.0.0.0', passwd: 'secret' }, sdl: {} }];
    await create({ vfbs }, 'one');
    await create({ vfbs }, 'two');
    expect(
      await nodes('/local/domain/2/console/vnc-listen', '/local/domain/2/console/vnc-port', '/local/domain/2/console/vnc-pass'),
    ).toEqual([
      '/local/domain/2/console/vnc-listen = "0.0.0.0"   (n0,r2)',
      '/local/domain/2/console/vnc-port = "5901"   (n0,r2)',
      '/local/domain/2/console/vnc-pass = "secret"   (n0,r2)',
    ]);
    expect((await m.store()).filter((line) => line.includes('/vncpasswd'))).toHaveLength(6);
  });
});

describe('an image that qemu reads', () => {
  const image = (vdev: string, pdevPath = '/img/a.qcow2') => ({ pdevPath, vdev, format: 'qcow2' as const, readwrite: true });
  const states = async (devid: number) => {
    await m.settle();
    const paths = [`/local/domain/0/backend/qdisk/1/${devid}/state`, `/local/domain/1/device/vbd/${devid}/state`];
    return Promise.all(paths.map((path) => m.run(m.ctx.xs.read(path))));
  };

  test('is a disk like any other for its guest, with no script for it', async () => {
    await create({ disks: [image('xvda')] });
    expect(await states(51712)).toEqual(['2', '1']);
    await m.run(domainUnpause(m.ctx, 1));
    expect({ lines: m.lines, states: await states(51712) }).toEqual({ lines: [], states: ['4', '4'] });
    expect(await nodes('/local/domain/0/backend/qdisk/1/51712')).toEqual([
      '/local/domain/0/backend/qdisk/1/51712 = ""   (n0,r1)',
      ...[
        ['frontend', '/local/domain/1/device/vbd/51712'],
        ['params', 'qcow2:/img/a.qcow2'],
        ['frontend-id', '1'],
        ['online', '1'],
        ['removable', '0'],
        ['bootable', '1'],
        ['state', '4'],
        ['dev', 'xvda'],
        ['type', 'qdisk'],
        ['mode', 'w'],
        ['device-type', 'disk'],
        ['discard-enable', '1'],
        ['specification', 'xen'],
        ['feature-discard', '1'],
        ['discard-granularity', '4096'],
        ['discard-alignment', '0'],
        ['feature-flush-cache', '1'],
        ['max-ring-page-order', '4'],
        ['info', '0'],
        ['sector-size', '512'],
        ['sectors', '32768'],
        ['hotplug-status', 'connected'],
      ].map(([node, value]) => `/local/domain/0/backend/qdisk/1/51712/${node} = "${value}"   (n0,r1)`),
    ]);
    expect(m.trace.filter(({ who }) => who === 'hotplug')).toEqual([]);
  });

  test('is plugged in and out while the guest runs, by the qemu that it has', async () => {
    await create({ disks: [image('xvda')] });
    await m.run(domainUnpause(m.ctx, 1));
    await m.run(diskAttach(m.ctx, 1, { ...image('xvdb', '/img/b.qcow2'), backend: 'qdisk' }));
    expect({ lines: m.lines, states: await states(51728) }).toEqual({ lines: [], states: ['4', '4'] });
    const disk = await m.run(findDisk(m.ctx, 1, 'xvdb'));
    if (!disk) throw new Error('no disk');
    await m.run(deviceRemove(m.ctx, listedDiskDevice(1, disk), 'off'));
    expect({ lines: m.lines, states: await states(51728) }).toEqual({ lines: [], states: [undefined, undefined] });
    await m.run(domainDestroy(m.ctx, 1));
    expect({ lines: m.lines, domains: m.dom0.domains }).toEqual({ lines: [], domains: 0 });
  });

  test('is refused for a guest that runs without a qemu', async () => {
    await create({});
    const attached = m.run(diskAttach(m.ctx, 1, { ...image('xvdb'), backend: 'qdisk' }));
    await expect(attached).rejects.toMatchObject({ rc: -3 });
    expect(m.lines).toEqual([
      'libxl: error: libxl_dm.c:3845:libxl__dm_check_start: Domain 1:device model required but not running',
      'libxl: error: libxl_device.c:1486:device_addrm_aocomplete: unable to add device',
    ]);
  });

  test('stays as libxl wrote it where there is none, as in an empty drive', async () => {
    await create({ disks: [{ vdev: 'hdc', format: 'empty', isCdrom: true, removable: true }] });
    await m.run(domainUnpause(m.ctx, 1));
    expect({ lines: m.lines, states: await states(5632) }).toEqual({ lines: [], states: ['1', '1'] });
  });
});

describe('a toolstack that is killed at', () => {
  const config = () => pvConfig('pv', { disks: [], nics: [], channels: [{ devid: 1, name: 'agent', 'connection.pty': {} }] });
  const ofQemu = (line: string) => line.startsWith('/local/domain/0/device-model/1');
  /** How many requests a creation has made when it has asked for this. */
  const requestsUntil = async (asked: string) => {
    const whole = await machine();
    const toolstack = whole.toolstack();
    await whole.run(domainCreateNew(toolstack.ctx, config()));
    whole.dom0.close();
    return toolstack.asked.indexOf(asked) + 1;
  };

  test.each([
    ['MKDIR /local/domain/0/device-model/1', 0],
    ['dom0.spawn_qemu', 1],
    ['WRITE /local/domain/1/image/device-model-pid', 1],
  ])('%s leaves nothing of a qemu behind that destroy does not end, on its way up or up', async (asked, running) => {
    const killAfter = await requestsUntil(asked);
    for (const when of ['on its way up', 'up']) {
      const toolstack = m.toolstack({ killAfter });
      let seen = -1;
      const destroy = async () => {
        seen = m.dom0.census().qemus.length;
        await domainDestroy(m.ctx, 1);
      };
      const overtaken = when === 'up' ? undefined : toolstack.ended.then(destroy);
      void domainCreateNew(toolstack.ctx, config()).catch(() => undefined);
      await m.run(overtaken ?? toolstack.ended);
      if (!overtaken) await m.run(destroy());
      await m.settle();
      expect({ seen, qemus: m.dom0.census().qemus, left: m.nodes().filter(ofQemu), lines: m.lines }).toEqual({
        seen: running,
        qemus: [],
        left: [],
        lines: [],
      });
      m.dom0.close();
      m = await machine();
    }
  });
});

test('a device that nobody awaits is written and stays as it is', async () => {
  const vkbs = [{ devid: 0, backend_type: 'linux', feature_multi_touch: true, multi_touch_width: 9, width: 3 }];
  await create({ vkbs, pvcallsifs: [{ devid: 0 }] });
  expect(m.lines).toEqual([]);
  expect(await nodes('/local/domain/0/backend/vinput/1/0', '/local/domain/0/device-model/1')).toEqual([
    '/local/domain/0/backend/vinput/1/0 = ""   (n0,r1)',
    ...[
      ['frontend', '/local/domain/1/device/vkbd/0'],
      ['frontend-id', '1'],
      ['online', '1'],
      ['state', '1'],
      ['feature-multi-touch', '1'],
      ['multi-touch-width', '9'],
      ['multi-touch-height', '0'],
      ['multi-touch-num-contacts', '0'],
      ['width', '3'],
    ].map(([node, value]) => `/local/domain/0/backend/vinput/1/0/${node} = "${value}"   (n0,r1)`),
  ]);
  await m.run(domainDestroy(m.ctx, 1));
  expect(m.lines).toEqual([
    'libxl: error: libxl_device.c:1181:device_backend_callback: Domain 1:unable to remove device with path /local/domain/0/backend/pvcalls/1/0',
    'libxl: error: libxl_device.c:1181:device_backend_callback: Domain 1:unable to remove device with path /local/domain/0/backend/vinput/1/0',
    'libxl: error: libxl_domain.c:1530:devices_destroy_cb: Domain 1:libxl__devices_destroy failed',
  ]);
});

test('the first channel of a config has the number of the console, and libxl leaves it out', async () => {
  const channels = ['foo', 'bar'].map((name, devid) => ({ devid, name, 'connection.pty': {} }));
  await create({ channels });
  expect(m.lines).toEqual([
    'libxl: error: libxl_console.c:271:libxl__device_console_add: Domain 1:Primary console has invalid configuration',
  ]);
  expect(await nodes('/local/domain/1/device/console')).toEqual([
    '/local/domain/1/device/console = ""   (n0,r1)',
    '/local/domain/1/device/console/1 = ""   (n1,r0)',
    '/local/domain/1/device/console/1/backend = "/local/domain/0/backend/console/1/1"   (n1,r0)',
    '/local/domain/1/device/console/1/backend-id = "0"   (n1,r0)',
    '/local/domain/1/device/console/1/state = "1"   (n1,r0)',
    '/local/domain/1/device/console/1/protocol = "vt100"   (n1,r0)',
    '/local/domain/1/device/console/1/name = "bar"   (n0,r1)',
    '/local/domain/1/device/console/1/limit = "1048576"   (n0,r1)',
    '/local/domain/1/device/console/1/type = "ioemu"   (n0,r1)',
    '/local/domain/1/device/console/1/output = "pty"   (n0,r1)',
    '/local/domain/1/device/console/1/tty = ""   (n0,r1)',
  ]);
});
