import {
  diskAttach,
  nicAttach,
  usbctrlAttach,
  usbdevAttach,
  vdisplAttach,
  vkbAttach,
  vsndAttach,
  vtpmAttach,
} from '../../src/libxl/attach.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import { Rc } from '../../src/libxl/ctx.js';
import { deviceRemove } from '../../src/libxl/device.js';
import {
  diskInfo,
  findDisk,
  findNic,
  findNicByMac,
  listDisks,
  listedDiskDevice,
  listNics,
  listUsbctrls,
  listVdispls,
  listVkbs,
  listVsnds,
  listVtpms,
  nicInfo,
  vdisplInfo,
} from '../../src/libxl/device-list.js';
import type { Disk } from '../../src/libxl/disk.js';
import { domainPause, domainUnpause } from '../../src/libxl/domain.js';
import { retrieveConfig } from '../../src/libxl/saved-config.js';
import { type Machine, type MachineOptions, machine, pvConfig } from '../machine.js';

const xvdb: Disk = { pdevPath: '/dev/loop1', vdev: 'xvdb', format: 'raw', readwrite: true };
const notAdded = 'libxl: error: libxl_device.c:1486:device_addrm_aocomplete: unable to add device';

let m: Machine;
let domid: number;
afterEach(() => m.dom0.close());

async function running(options: MachineOptions = {}): Promise<void> {
  m = await machine(options);
  domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
}
const below = async (path: string) => (await m.store()).filter((line) => line.startsWith(path));

describe('a disk', () => {
  test('is in the listing, in the saved config and in the next life of its domain', async () => {
    await running();
    await m.run(diskAttach(m.ctx, domid, xvdb));
    await m.settle();
    const disk = await m.run(findDisk(m.ctx, domid, 'xvdb'));
    const info = disk && (await m.run(diskInfo(m.ctx, domid, disk)));
    expect(info).toEqual({
      devid: 51728,
      backendDomid: 0,
      backend: `/local/domain/0/backend/vbd/${domid}/51728`,
      state: 4,
      evtch: -1,
      rref: -1,
    });
    const config = await m.run(retrieveConfig(m.ctx, domid));
    expect(config?.disks.map(({ vdev }) => vdev)).toEqual(['xvda', 'xvdb']);
    if (!config) throw new Error('no config');
    const next = await m.run(domainCreateNew(m.ctx, { ...config, cInfo: { ...config.cInfo, name: 'next' } }));
    expect((await m.run(listDisks(m.ctx, next)))?.map(({ vdev }) => vdev)).toEqual(['xvda', 'xvdb']);
  });

  test('whose toolstack loses dom0 while it waits for the lock lets the lock go', async () => {
    await running();
    const { ctx } = m;
    const locks: string[] = [];
    const lost = new Error('dom0 ended the connection');
    const call: typeof ctx.xc.call = (op, args) => (locks.length > 0 ? Promise.reject(lost) : ctx.xc.call(op, args));
    const lockUserdata = async () => {
      locks.push('taken');
      return async () => void locks.push('let go');
    };
    const lonely = { ...ctx, xc: { ...ctx.xc, call }, host: { ...ctx.host, lockUserdata } };
    await expect(m.run(diskAttach(lonely, domid, xvdb))).rejects.toThrow(lost);
    expect(locks).toEqual(['taken', 'let go']);
  });

  test('that was detached is left out of the config, with a warning', async () => {
    await running();
    await m.run(diskAttach(m.ctx, domid, xvdb));
    const disk = await m.run(findDisk(m.ctx, domid, 'xvdb'));
    if (!disk) throw new Error('no disk');
    await m.run(deviceRemove(m.ctx, listedDiskDevice(domid, disk), 'off'));
    const config = await m.run(retrieveConfig(m.ctx, domid));
    expect({ vdevs: config?.disks.map(({ vdev }) => vdev), lines: m.lines }).toEqual({
      vdevs: ['xvda'],
      lines: [
        `libxl: warning: libxl_domain.c:2603:retrieve_domain_configuration_end: Domain ${domid}:Device present in JSON but not in xenstore, ignored`,
      ],
    });
  });

  test('that is there already is refused, and the saved config is as it was', async () => {
    await running();
    await m.run(diskAttach(m.ctx, domid, xvdb));
    const before = await m.run(retrieveConfig(m.ctx, domid));
    await expect(m.run(diskAttach(m.ctx, domid, { ...xvdb, pdevPath: '/dev/loop2' }))).rejects.toMatchObject({
      rc: Rc.DEVICE_EXISTS,
    });
    expect(await m.run(retrieveConfig(m.ctx, domid))).toEqual(before);
    expect(m.lines).toEqual([
      `libxl: error: libxl_disk.c:343:device_disk_add: Domain ${domid}:device already exists in xenstore`,
      notAdded,
    ]);
  });

  test.each<[string, Disk, number, string[]]>([
    [
      'whose file is missing',
      { ...xvdb, pdevPath: '/dev/nosuch' },
      Rc.INVAL,
      [
        'libxl: error: libxl_device.c:455:libxl__device_disk_set_backend: Disk vdev=xvdb failed to stat: /dev/nosuch: No such file or directory',
      ],
    ],
    [
      'whose vdev means nothing',
      { ...xvdb, vdev: 'foo' },
      Rc.INVAL,
      [
        'libxl: error: libxl_disk.c:214:libxl__device_from_disk: Domain 1:Invalid or unsupported virtual disk identifier foo',
        'libxl: error: libxl_disk.c:335:device_disk_add: Domain 1:Invalid or unsupported virtual disk identifier foo',
      ],
    ],
    [
      'that asks for qemu',
      { ...xvdb, backend: 'qdisk' },
      Rc.FAIL,
      ['libxl: error: libxl_dm.c:3845:libxl__dm_check_start: Domain 1:device model required but not running'],
    ],
    ['whose backend is in no domain', { ...xvdb, backendDomname: 'nosuch' }, Rc.INVAL, []],
    [
      'for virtio',
      { ...xvdb, specification: 'virtio' },
      Rc.FAIL,
      ["libxl: error: libxl_disk.c:187:libxl__device_disk_setdefault: Domain 1:Hotplug isn't supported for specification virtio"],
    ],
  ])('%s is refused before anything is written', async (_what, disk, rc, lines) => {
    await running({ missing: ['/dev/nosuch'] });
    const before = await m.store();
    await expect(m.run(diskAttach(m.ctx, domid, disk))).rejects.toMatchObject({ rc });
    expect({ lines: m.lines, store: await m.store() }).toEqual({ lines: [...lines, notAdded], store: before });
  });

  test('for a domain that is not there is refused', async () => {
    await running();
    await expect(m.run(diskAttach(m.ctx, 99, xvdb))).rejects.toMatchObject({ rc: Rc.FAIL });
    expect(m.lines).toEqual([
      'libxl: error: libxl_dom.c:37:libxl__domain_type: unable to get domain type for domid=99',
      notAdded,
    ]);
  });

  test('that another guest has is not added; its nodes and its place in the config stay, as libxl leaves them', async () => {
    await running();
    const other = await m.run(domainCreateNew(m.ctx, pvConfig('other')));
    await expect(m.run(diskAttach(m.ctx, other, { ...xvdb, pdevPath: '/dev/loop0' }))).rejects.toMatchObject({ rc: Rc.FAIL });
    expect(m.lines.at(-1)).toBe(
      `libxl: error: libxl_device.c:1481:device_addrm_aocomplete: Domain ${other}:Unable to add vbd with id 51728`,
    );
    const config = await m.run(retrieveConfig(m.ctx, other));
    expect(config?.disks.map(({ vdev }) => vdev)).toEqual(['xvda', 'xvdb']);
  });

  test('of a guest that is paused is added, and connects once it runs', async () => {
    await running();
    await m.run(domainPause(m.ctx, domid));
    await m.run(diskAttach(m.ctx, domid, xvdb));
    const state = `/local/domain/0/backend/vbd/${domid}/51728/state`;
    expect(await m.run(m.ctx.xs.read(state))).toBe('2');
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    expect(await m.run(m.ctx.xs.read(state))).toBe('4');
  });

  test('of a guest that is paused is not let go: ten seconds, and by force another ten', async () => {
    await running();
    await m.run(domainPause(m.ctx, domid));
    const disk = await m.run(findDisk(m.ctx, domid, 'xvda'));
    if (!disk) throw new Error('no disk');
    const device = listedDiskDevice(domid, disk);
    await expect(m.run(deviceRemove(m.ctx, device, 'off'))).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect({ now: m.clock.now(), nodes: (await below(`/libxl/${domid}/device/vbd/51712 `)).length }).toEqual({
      now: 10_000,
      nodes: 1,
    });
    await m.run(deviceRemove(m.ctx, device, 'on'));
    expect(await below(`/libxl/${domid}/device/vbd`)).toEqual([]);
  });

  test('is given to dom0 itself, whose own driver connects it', async () => {
    await running();
    await m.run(diskAttach(m.ctx, 0, xvdb));
    await m.settle();
    expect((await m.run(listDisks(m.ctx, 0)))?.map(({ vdev }) => vdev)).toEqual(['xvdb']);
    expect(await m.run(m.ctx.xs.read('/local/domain/0/backend/vbd/0/51728/state'))).toBe('4');
    expect((await m.run(retrieveConfig(m.ctx, 0)))?.disks.map(({ vdev }) => vdev)).toEqual(['xvdb']);
    const disk = await m.run(findDisk(m.ctx, 0, 'xvdb'));
    if (!disk) throw new Error('no disk');
    await m.run(deviceRemove(m.ctx, listedDiskDevice(0, disk), 'off'));
    expect(await m.run(listDisks(m.ctx, 0))).toBeUndefined();
  });
});

test('a disk that only qemu could serve is written, and nobody misses the qemu, as on a real host', async () => {
  await running();
  await m.run(diskAttach(m.ctx, domid, { ...xvdb, format: 'qcow2', pdevPath: '/srv/a.qcow2' }));
  expect({ lines: m.lines, now: m.clock.now() }).toEqual({ lines: [], now: 0 });
  expect(await m.run(m.ctx.xs.read(`/local/domain/0/backend/qdisk/${domid}/51728/params`))).toBe('qcow2:/srv/a.qcow2');
});

describe('a network interface', () => {
  test('has the next number and an address of its own, and is found by both', async () => {
    await running();
    await m.run(nicAttach(m.ctx, domid, {}));
    await m.settle();
    const nics = (await m.run(listNics(m.ctx, domid))) ?? [];
    expect(nics.map(({ devid }) => devid)).toEqual([0, 1]);
    const mac = nics[1]?.mac ?? '';
    expect(mac).toMatch(/^00:16:3e:[0-7][0-9a-f]:[0-9a-f]{2}:[0-9a-f]{2}$/);
    const found = await m.run(findNicByMac(m.ctx, domid, mac.toUpperCase()));
    expect(found).toEqual(await m.run(findNic(m.ctx, domid, 1)));
    expect(found && (await m.run(nicInfo(m.ctx, domid, found)))?.state).toBe(4);
    expect((await m.run(retrieveConfig(m.ctx, domid)))?.nics.at(-1)).toEqual({ devid: 1, mac, nictype: 'vif' });
  });

  test('is not found by another number, which is told, nor by another address', async () => {
    await running();
    expect(await m.run(findNic(m.ctx, domid, 7))).toBeUndefined();
    expect(m.lines).toEqual([
      `libxl: error: libxl_xshelp.c:206:libxl__xs_read_mandatory: xenstore read failed: \`/libxl/${domid}/device/vif/7': No such file or directory`,
    ]);
    for (const mac of ['00:16:3e:00:00:99', '0:16:3e:00:00:01', 'zz:zz', '00:16:3e:00:00']) {
      expect(await m.run(findNicByMac(m.ctx, domid, mac))).toBeUndefined();
    }
  });

  test('on a bridge that is not there stays half way, as libxl leaves it', async () => {
    await running();
    await expect(m.run(nicAttach(m.ctx, domid, { bridge: 'nosuch' }))).rejects.toMatchObject({ rc: Rc.FAIL });
    expect(m.lines.slice(1)).toEqual([
      'libxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: Could not find bridge device nosuch',
      `libxl: error: libxl_device.c:1481:device_addrm_aocomplete: Domain ${domid}:Unable to add vif with id 1`,
    ]);
    expect((await m.run(listNics(m.ctx, domid)))?.map(({ devid }) => devid)).toEqual([0, 1]);
  });
});

test('one vbd after another, all at once, and every one is in the config', async () => {
  await running();
  const vdevs = ['xvdb', 'xvdc', 'xvdd', 'xvde'];
  await m.run(Promise.all(vdevs.map((vdev) => diskAttach(m.ctx, domid, { ...xvdb, vdev, pdevPath: `/dev/vg/${vdev}` }))));
  const config = await m.run(retrieveConfig(m.ctx, domid));
  expect(config?.disks.map(({ vdev }) => vdev)).toEqual(['xvda', ...vdevs]);
});

describe('a device whose backend nobody runs', () => {
  test('is written and not awaited if it is a keyboard', async () => {
    await running();
    await m.run(vkbAttach(m.ctx, domid, { backendType: 'linux', uniqueId: 'kbd', numbers: { width: 5 } }));
    await m.run(vkbAttach(m.ctx, domid, { backendType: 'qemu', numbers: {} }));
    expect({ now: m.clock.now(), lines: m.lines }).toEqual({ now: 0, lines: [] });
    expect(await m.run(listVkbs(m.ctx, domid))).toEqual([
      { devid: 0, backendDomid: 0, backend: `/local/domain/0/backend/vinput/${domid}/0`, backendType: 'linux', uniqueId: 'kbd' },
      { devid: 1, backendDomid: 0, backend: `/local/domain/0/backend/vkbd/${domid}/1`, backendType: 'qemu', uniqueId: undefined },
    ]);
    expect(await below(`/local/domain/0/backend/vinput/${domid}/0/`)).toEqual(
      [
        'frontend = "/local/domain/1/device/vkbd/0"',
        'frontend-id = "1"',
        'online = "1"',
        'state = "1"',
        'unique-id = "kbd"',
        'width = "5"',
      ].map((line) => `/local/domain/0/backend/vinput/${domid}/0/${line}   (n0,r${domid})`),
    );
    expect((await m.run(retrieveConfig(m.ctx, domid)))?.vkbs).toBeUndefined();
  });

  test.each<[string, string, () => Promise<void>, () => Promise<readonly { devid: number }[] | undefined>]>([
    ['vtpm', 'vtpms', () => vtpmAttach(m.ctx, domid, {}), () => listVtpms(m.ctx, domid)],
    [
      'vdispl',
      'vdispls',
      () => vdisplAttach(m.ctx, domid, { beAlloc: true, connectors: [{ uniqueId: 'id0', width: 800, height: 600 }] }),
      () => listVdispls(m.ctx, domid),
    ],
    [
      'vsnd',
      'vsnds',
      () => vsndAttach(m.ctx, domid, { params: {}, pcms: [{ params: {}, streams: [{ params: {} }] }] }),
      () => listVsnds(m.ctx, domid),
    ],
    [
      'vusb',
      'usbctrls',
      () => usbctrlAttach(m.ctx, domid, { type: 'pv', version: 2, ports: 4 }),
      () => listUsbctrls(m.ctx, domid),
    ],
  ])('is awaited for ten seconds if it is a %s, and stays', async (kind, list, attach, listed) => {
    await running();
    await expect(m.run(attach())).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect({ now: m.clock.now(), lines: m.lines }).toEqual({
      now: 10_000,
      lines: [
        `libxl: error: libxl_device.c:1181:device_backend_callback: Domain ${domid}:unable to add device with path /local/domain/0/backend/${kind}/${domid}/0`,
        `libxl: error: libxl_device.c:1481:device_addrm_aocomplete: Domain ${domid}:Unable to add ${kind} with id 0`,
      ],
    });
    expect((await m.run(listed()))?.map(({ devid }) => devid)).toEqual([0]);
    const config = (await m.run(retrieveConfig(m.ctx, domid))) as unknown as Record<string, { devid: number }[]>;
    expect(config[list]?.map(({ devid }) => devid)).toEqual([0]);
  });

  test('is refused for a domain that is not there', async () => {
    await running();
    await expect(m.run(vkbAttach(m.ctx, 99, { backendType: 'qemu', numbers: {} }))).rejects.toMatchObject({
      rc: Rc.DOMAIN_NOTFOUND,
    });
    await expect(m.run(vtpmAttach(m.ctx, 99, {}))).rejects.toMatchObject({ rc: Rc.LOCK_FAIL });
    expect(m.lines).toEqual([
      'libxl: error: libxl_vkb.c:239:libxl_device_vkb_add: Domain 99:Unable to add vkb device',
      'libxl: error: libxl_dom.c:1216:libxl__userdata_path: unable to find domain info for domain 99: No such file or directory',
      notAdded,
    ]);
    expect(await below('/local/domain/99')).toEqual([]);
  });

  test("has its streams below the guest's directory if it is a sound card", async () => {
    await running();
    const stream = { unique_id: 's0', type: 'c', params: { channels_max: 2 } };
    const card = {
      short_name: 'main',
      params: { sample_rates: [44100, 48000] },
      pcms: [{ name: 'in', params: {}, streams: [stream] }],
    };
    await m.run(vsndAttach(m.ctx, domid, card).catch(() => undefined));
    const home = `/local/domain/${domid}/device/vsnd/0/`;
    const nodes = (await below(home)).map((line) => line.slice(home.length).replace(/ +\(.*$/, ''));
    expect(nodes.slice(3)).toEqual([
      'short-name = "main"',
      'sample-rates = "44100,48000"',
      '0 = ""',
      '0/name = "in"',
      '0/0 = ""',
      '0/0/unique-id = "s0"',
      '0/0/type = "c"',
      '0/0/channels-max = "2"',
    ]);
    const [listed] = (await m.run(listVsnds(m.ctx, domid))) ?? [];
    expect(listed).toMatchObject({ shortName: 'main', params: { sampleRates: [44100, 48000] }, pcms: [{ name: 'in' }] });
    expect(listed?.pcms[0]?.streams).toMatchObject([{ uniqueId: 's0', type: 'c', evtch: -1, rref: -1 }]);
  });

  test('tells of its connectors if it is a display', async () => {
    await running();
    const connectors = [{ uniqueId: 'id0', width: 800, height: 600 }];
    await m.run(vdisplAttach(m.ctx, domid, { beAlloc: true, connectors }).catch(() => undefined));
    const [found] = (await m.run(listVdispls(m.ctx, domid))) ?? [];
    const info = found && (await m.run(vdisplInfo(m.ctx, domid, found)));
    const rings = { reqRref: -1, reqEvtch: -1, evtRref: -1, evtEvtch: -1 };
    expect(info).toMatchObject({ beAlloc: 1, state: 1, connectors: [{ ...connectors[0], ...rings }] });
  });

  test('is refused if it is a USB controller of qemu, or one with too many ports', async () => {
    await running();
    await expect(m.run(usbctrlAttach(m.ctx, domid, { type: 'auto', version: 0, ports: 0 }))).rejects.toMatchObject({
      rc: Rc.FAIL,
    });
    await expect(m.run(usbctrlAttach(m.ctx, domid, { type: 'pv', version: 2, ports: 32 }))).rejects.toMatchObject({
      rc: Rc.INVAL,
    });
    await expect(m.run(usbdevAttach(m.ctx, domid, { hostbus: 1, hostaddr: 2, ctrl: -1, port: 0 }))).rejects.toMatchObject({
      rc: Rc.FAIL,
    });
    expect(m.lines).toEqual([
      `libxl: error: libxl_dm.c:3845:libxl__dm_check_start: Domain ${domid}:device model required but not running`,
      notAdded,
      'libxl: error: libxl_usb.c:75:libxl__device_usbctrl_setdefault: Number of ports for USB controller is limited to 31',
      notAdded,
      "libxl: error: libxl_usb.c:837:usbdev_busaddr_to_busid: opendir failed: '/sys/bus/usb/devices': No such file or directory",
      `libxl: error: libxl_usb.c:1732:libxl__device_usbdev_add: Domain ${domid}:USB device is not assignable.`,
      notAdded,
    ]);
  });
});
