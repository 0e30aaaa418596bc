import { domainCreateNew } from '../../src/libxl/create.js';
import { Rc } from '../../src/libxl/ctx.js';
import { type Device, deviceAdd, deviceRemove, parseBackendPath, pathCleanup, pathsOf } from '../../src/libxl/device.js';
import { diskNodes, type ReadyDisk } from '../../src/libxl/disk.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import type { DeviceNodes } from '../../src/libxl/nodes.js';
import { type Machine, machine, pvConfig } from '../machine.js';

const xvdb: ReadyDisk = {
  backendDomid: 0,
  vdev: 'xvdb',
  pdevPath: '/dev/loop1',
  backend: 'phy',
  format: 'raw',
  readwrite: true,
  discardEnable: true,
  specification: 'xen',
  trusted: true,
};
const vbd = (domid: number, changes: Partial<Device> = {}): Device => {
  return { domid, devid: 51728, kind: 'vbd', backendDomid: 0, backendKind: 'vbd', ...changes };
};
const backendOf = (domid: number) => `/local/domain/0/backend/vbd/${domid}/51728`;

let m: Machine;
let domid: number;
afterEach(() => m?.dom0.close());

async function runningDomain(cmdline?: string): Promise<void> {
  m = await machine(cmdline === undefined ? {} : { cmdline });
  domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
}
const add = (device = vbd(domid), nodes: DeviceNodes = diskNodes(xvdb, domid)) => m.run(deviceAdd(m.ctx, device, nodes));
const nodesOf = async (device: Device) => {
  const { frontend, backend, libxl } = pathsOf(device);
  return (await m.store()).filter((line) => [frontend, backend, libxl].some((path) => line.startsWith(`${path} `)));
};
const read = (path: string) => m.run(m.ctx.xs.read(path));

describe('a device of a running domain', () => {
  beforeEach(() => runningDomain());

  test('is added: its nodes, its script, and its guest connects', async () => {
    await add();
    await m.settle();
    expect({ lines: m.lines, state: await read(`${backendOf(domid)}/state`) }).toEqual({ lines: [], state: '4' });
    expect(await read(`/libxl/${domid}/device/vbd/51728/state`)).toBe('1');
  });

  test('is refused when it is there already', async () => {
    await add();
    const before = await m.store();
    await expect(add()).rejects.toMatchObject({ rc: Rc.DEVICE_EXISTS });
    expect({ lines: m.lines, store: await m.store() }).toEqual({
      lines: [
        `libxl: error: libxl_disk.c:343:device_disk_add: Domain ${domid}:device already exists in xenstore`,
        'libxl: error: libxl_device.c:1486:device_addrm_aocomplete: unable to add device',
      ],
      store: before,
    });
  });

  test('has its config saved within its transaction, before its first write', async () => {
    const seen: string[] = [];
    const save = async () => {
      seen.push(m.trace.filter(({ who }) => who === 'xl').at(-1)?.op ?? '');
    };
    await m.run(deviceAdd(m.ctx, vbd(domid), diskNodes(xvdb, domid), { save }));
    expect(seen).toEqual(['READ']);
  });

  test('that cannot be saved is not added', async () => {
    const save = () => Promise.reject(new Error('no space left on device'));
    await expect(m.run(deviceAdd(m.ctx, vbd(domid), diskNodes(xvdb, domid), { save }))).rejects.toThrow('no space');
    expect(await nodesOf(vbd(domid))).toEqual([]);
  });

  test('is removed once its backend has closed, and the emptied parents with it', async () => {
    await add();
    await m.settle();
    await m.run(deviceRemove(m.ctx, vbd(domid), 'off'));
    expect({ lines: m.lines, nodes: await nodesOf(vbd(domid)), now: m.clock.now() }).toEqual({ lines: [], nodes: [], now: 0 });
    expect(await read(`/libxl/${domid}/device/vbd/51712`)).toBe('');
  });

  test('whose backend is gone already is cleaned up without waiting', async () => {
    await add();
    await m.settle();
    await m.run(m.ctx.xs.rm(backendOf(domid)));
    await m.settle();
    await m.run(deviceRemove(m.ctx, vbd(domid), 'off'));
    expect({ nodes: await nodesOf(vbd(domid)), now: m.clock.now() }).toEqual({ nodes: [], now: 0 });
  });

  test('of a domain that is not there is refused', async () => {
    await expect(m.run(deviceRemove(m.ctx, vbd(9), 'off'))).rejects.toMatchObject({ rc: Rc.DOMAIN_NOTFOUND });
    expect(m.lines[0]).toBe(
      'libxl: error: libxl_device.c:1026:libxl__initiate_device_generic_remove: Domain 9:unable to get info for domain 9',
    );
  });
});

describe('while the watch thread hangs, a device', () => {
  const unable = (action: string) => [
    `libxl: error: libxl_device.c:1181:device_backend_callback: Domain ${domid}:unable to ${action} device with path ${backendOf(domid)}`,
    `libxl: error: libxl_device.c:1481:device_addrm_aocomplete: Domain ${domid}:Unable to ${action} vbd with id 51728`,
  ];
  const hang = async () => {
    const other = await m.run(domainCreateNew(m.ctx, pvConfig('stall')));
    m.dom0.handlers['dom0.hold']({ device: `vbd-${other}-51712`, mode: 'connect' });
    await m.run(domainUnpause(m.ctx, other));
    await m.settle();
  };
  beforeEach(() => runningDomain(''));

  test('is not added: ten seconds, two lines, and its nodes stay', async () => {
    await hang();
    await expect(add()).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect({ lines: m.lines, now: m.clock.now(), nodes: (await nodesOf(vbd(domid))).length }).toEqual({
      lines: unable('add'),
      now: 10_000,
      nodes: 3,
    });
  });

  test('is not removed without force: ten seconds, two lines, and its nodes stay', async () => {
    await add();
    await hang();
    await expect(m.run(deviceRemove(m.ctx, vbd(domid), 'off'))).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect({ lines: m.lines, now: m.clock.now(), nodes: (await nodesOf(vbd(domid))).length }).toEqual({
      lines: unable('remove'),
      now: 10_000,
      nodes: 3,
    });
  });

  test('is removed by force after ten seconds, and the failure is told', async () => {
    await add();
    await hang();
    await expect(m.run(deviceRemove(m.ctx, vbd(domid), 'on'))).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect({ lines: m.lines, now: m.clock.now(), nodes: await nodesOf(vbd(domid)) }).toEqual({
      lines: unable('remove'),
      now: 10_000,
      nodes: [],
    });
  });

  test('is removed by force after twenty seconds where force is the second try', async () => {
    await add();
    await hang();
    await expect(m.run(deviceRemove(m.ctx, vbd(domid), 'auto'))).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect({ lines: m.lines, now: m.clock.now(), nodes: await nodesOf(vbd(domid)) }).toEqual({
      lines: unable('remove'),
      now: 20_000,
      nodes: [],
    });
  });
});

describe('the loop device of a disk', () => {
  const file = { ...xvdb, pdevPath: '/srv/web.img' };
  const loops = () => m.dom0.census().loops;
  const loop = '/dev/loop1 /srv/web.img';
  beforeEach(async () => {
    await runningDomain();
    await add(vbd(domid), diskNodes(file, domid));
    await m.settle();
    expect(loops()).toEqual([loop]);
  });

  test('that is removed by force stays until its back end has let go of it', async () => {
    m.dom0.handlers['dom0.hold']({ device: `vbd-${domid}-51728`, mode: 'io' });
    await expect(m.run(deviceRemove(m.ctx, vbd(domid), 'on'))).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect({ nodes: await nodesOf(vbd(domid)), loops: loops() }).toEqual({ nodes: [], loops: [loop] });
    m.dom0.handlers['dom0.flush']({});
    await m.settle();
    expect(loops()).toEqual([]);
  });

  test('whose backend directory vanishes goes with it', async () => {
    await m.run(m.ctx.xs.rm(backendOf(domid)));
    await m.settle();
    expect(loops()).toEqual([]);
  });

  test('is not another one that has its name meanwhile', async () => {
    const detach = (owner: string) => m.dom0.handlers['dom0.block_detach']({ node: '/dev/loop1', owner });
    detach('backend/vbd/9/51728');
    expect(loops()).toEqual([loop]);
    detach(`backend/vbd/${domid}/51728`);
    expect(loops()).toEqual([]);
  });

  test('is not set up for a backend that is gone', () => {
    const asked = { path: '/srv/late.img', as: 'loop', sectors: 8, owner: 'backend/vbd/9/51728' } as const;
    expect(() => m.dom0.handlers['dom0.block_attach'](asked)).toThrow('there is no backend/vbd/9/51728');
  });
});

describe('a backend elsewhere', () => {
  beforeEach(() => runningDomain());

  /** A disk whose backend is in another guest, which brings it up after a while. */
  const addFromDriverDomain = async () => {
    const backendDomid = await m.run(domainCreateNew(m.ctx, pvConfig('driver')));
    const device = vbd(domid, { backendDomid });
    const { backend } = pathsOf(device);
    m.clock.after(100, () => void m.ctx.xs.write(`${backend}/state`, '2'));
    await m.run(deviceAdd(m.ctx, device, diskNodes({ ...xvdb, backendDomid }, domid)));
    m.clock.after(100, () => void m.ctx.xs.write(`${backend}/state`, '6'));
    return { device, backend };
  };

  test('in a driver domain: no script here, and removal waits until that domain has removed its directory', async () => {
    const { device, backend } = await addFromDriverDomain();
    expect(await read(`${backend}/hotplug-status`)).toBeUndefined();
    m.clock.after(400, () => void m.ctx.xs.rm(backend));
    await m.run(deviceRemove(m.ctx, device, 'off'));
    expect({ now: m.clock.now(), nodes: await nodesOf(device), lines: m.lines }).toEqual({ now: 500, nodes: [], lines: [] });
  });

  test('in a driver domain that does not remove it', async () => {
    const { device, backend } = await addFromDriverDomain();
    await expect(m.run(deviceRemove(m.ctx, device, 'off'))).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect(m.lines[0]).toBe(
      `libxl: error: libxl_device.c:1375:device_destroy_be_watch_cb: Domain ${domid}:timed out while waiting for ${backend} to be removed`,
    );
  });

  test('in qemu: added without waiting; of a guest that stands still it is closed by hand after two seconds', async () => {
    const device = vbd(domid, { backendKind: 'qdisk' });
    await m.run(deviceAdd(m.ctx, device, diskNodes({ ...xvdb, backend: 'qdisk' }, domid)));
    expect(m.clock.now()).toBe(0);
    await m.run(m.ctx.xc.call('xc.domain_pause', { domid }));
    await m.run(deviceRemove(m.ctx, device, 'off'));
    expect({ now: m.clock.now(), nodes: await nodesOf(device) }).toEqual({ now: 2_000, nodes: [] });
  });
});

test('a path is cleaned up to the first parent that has a value or another child', async () => {
  m = await machine();
  const { xs } = m.ctx;
  const left = async (path: string) => {
    await m.run(pathCleanup(xs, path));
    return (await m.store()).filter((line) => line.startsWith('/a')).map((line) => line.split(' ')[0]);
  };
  for (const path of ['/a/b/c/d', '/a/b/e']) await m.run(xs.write(path, ''));
  expect(await left('/a/x/y')).toEqual(['/a', '/a/b', '/a/b/c', '/a/b/c/d', '/a/b/e']);
  expect(await left('/a/b/c/d')).toEqual(['/a', '/a/b', '/a/b/e']);
  await m.run(xs.write('/a', 'kept'));
  expect(await left('/a/b/e')).toEqual(['/a']);
});

test.each([
  ['/local/domain/0/backend/vbd/7/51712', { domid: 7, devid: 51712, kind: 'vbd', backendDomid: 0, backendKind: 'vbd' }],
  ['/local/domain/3/backend/qdisk/7/768', { domid: 7, devid: 768, kind: 'qdisk', backendDomid: 3, backendKind: 'qdisk' }],
  ['/local/domain/0/device/vbd/7/51712', undefined],
  ['/local/domain/0/backend/vbd/7', undefined],
  ['', undefined],
])('the backend path %s', (path, device) => {
  expect(parseBackendPath(path)).toEqual(device);
});
