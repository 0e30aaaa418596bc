import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
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
