import { CreateError, domainCreateNew } from '../../src/libxl/create.js';
import type { Ctx, Host, LibxlError } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainRename } from '../../src/libxl/domain.js';
import type { DomainConfig } from '../../src/libxl/domain-config.js';
import { PrivcmdError } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
afterEach(() => m.dom0.close());

const withHost = (host: Partial<Host>): Ctx => ({ ...m.ctx, host: { ...m.ctx.host, ...host } });

async function refused(ctx: Ctx, config: DomainConfig): Promise<CreateError> {
  try {
    await m.run(domainCreateNew(ctx, config));
  } catch (error) {
    if (error instanceof CreateError) return error;
    throw error;
  }
  throw new Error('it was created');
}

const build = (changes: Partial<DomainConfig['bInfo']>) => ({ bInfo: { ...pvConfig().bInfo, ...changes } });

/** Lines of golden/50-create-errors, 10-create-running and 90-extra, without those of xl's second destroy. */
const failures: readonly { what: string; config: DomainConfig; host?: Partial<Host>; lines: readonly string[] }[] = [
  {
    what: 'a missing kernel',
    config: pvConfig('pv', build({ kernel: '/boot/nosuch' })),
    lines: [
      "xc: error: panic: xg_dom_core.c:205: failed to open file '/boot/nosuch': No such file or directory: Internal error",
      'libxl: error: libxl_dom.c:646:libxl__build_pv: xc_dom_kernel_file failed: No such file or directory',
      'libxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain 1:cannot (re-)build domain: -3',
    ],
  },
  {
    what: 'a missing ramdisk',
    config: pvConfig('pv', build({ ramdisk: '/boot/nosuch' })),
    lines: [
      "xc: error: panic: xg_dom_core.c:205: failed to open file '/boot/nosuch': No such file or directory: Internal error",
      'libxl: error: libxl_dom.c:659:libxl__build_pv: xc_dom_ramdisk_file failed: No such file or directory',
      'libxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain 1:cannot (re-)build domain: -3',
    ],
  },
  {
    what: 'a kernel that is none, where kernels are looked at',
    config: pvConfig(),
    host: { readMagic: async () => Buffer.from('#!/bin/sh\n') },
    lines: [
      'xc: error: panic: xg_dom_core.c:689: xc_dom_find_loader: no loader found: Invalid kernel',
      'libxl: error: libxl_dom.c:571:libxl__build_dom: xc_dom_parse_image failed',
      'libxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain 1:cannot (re-)build domain: -3',
    ],
  },
  {
    what: 'an emulated interface, which no PV guest can have',
    config: pvConfig('pv', { nics: [{ devid: 0, nictype: 'vif_ioemu' }] }),
    lines: [
      'libxl: error: libxl_nic.c:107:libxl__device_nic_setdefault: Domain 1:trying to create PV or PVH guest with an emulated interface',
      'libxl: error: libxl_nic.c:520:libxl__device_nic_set_devids: Domain 1:Unable to set nic defaults for nic 0',
    ],
  },
  {
    what: 'a disk whose backend is no domain',
    config: pvConfig('pv', { disks: [{ pdevPath: '/dev/sda', vdev: 'xvda', backendDomname: 'storage' }] }),
    lines: ['libxl: error: libxl_create.c:1318:initiate_domain_create: Domain 1:Unable to set disk defaults for disk 0'],
  },
  {
    what: 'an interface whose backend is no domain',
    config: pvConfig('pv', { nics: [{ devid: 0, backendDomname: 'net' }] }),
    lines: ['libxl: error: libxl_nic.c:520:libxl__device_nic_set_devids: Domain 1:Unable to set nic defaults for nic 0'],
  },
  {
    what: 'a TPM, which nobody serves',
    config: pvConfig('pv', { vtpms: [{ backend_domname: '0', devid: 0 }] }),
    lines: [
      'libxl: error: libxl_device.c:1181:device_backend_callback: Domain 1:unable to add device with path /local/domain/0/backend/vtpm/1/0',
      'libxl: error: libxl_create.c:1921:domcreate_attach_devices: Domain 1:unable to add vtpm devices',
      'libxl: error: libxl_device.c:1181:device_backend_callback: Domain 1:unable to remove device with path /local/domain/0/backend/vtpm/1/0',
      'libxl: error: libxl_domain.c:1530:devices_destroy_cb: Domain 1:libxl__devices_destroy failed',
    ],
  },
  {
    what: 'a channel without a name',
    config: pvConfig('pv', { channels: [{ devid: 0, 'connection.pty': {} }] }),
    lines: ['libxl: error: libxl_console.c:407:libxl__init_console_from_channel: channel 0 has no name'],
  },
  {
    what: 'more memory than the host has',
    config: pvConfig('pv', build({ maxMemkb: 1 << 30, targetMemkb: 1 << 30 })),
    lines: [
      "xc: error: panic: xg_dom_boot.c:119: xc_dom_boot_mem_init: can't allocate low memory for domain: Out of memory",
      'libxl: error: libxl_dom.c:586:libxl__build_dom: xc_dom_boot_mem_init failed: Cannot allocate memory',
      'libxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain 1:cannot (re-)build domain: -3',
    ],
  },
  {
    what: 'a missing disk',
    config: pvConfig('pv', { disks: [{ pdevPath: '/dev/nosuch', vdev: 'xvda', format: 'raw' }] }),
    lines: [
      'libxl: error: libxl_device.c:455:libxl__device_disk_set_backend: Disk vdev=xvda failed to stat: /dev/nosuch: No such file or directory',
      'libxl: error: libxl_create.c:1318:initiate_domain_create: Domain 1:Unable to set disk defaults for disk 0',
    ],
  },
  {
    what: 'a missing bridge',
    config: pvConfig('pv', { nics: [{ mac: '00:16:3e:00:00:01', bridge: 'nosuchbr' }] }),
    lines: [
      'libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: /etc/xen/scripts/vif-bridge online [1002] exited with error status 1',
      'libxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: Could not find bridge device nosuchbr',
      'libxl: error: libxl_create.c:1921:domcreate_attach_devices: Domain 1:unable to add vif devices',
      'libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: /etc/xen/scripts/vif-bridge offline [1004] exited with error status 1',
      'libxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: Could not find bridge device nosuchbr',
    ],
  },
  ...[
    ['vif-route', '/etc/xen/scripts/vif-route failed; error detected.', ['online', 'offline']],
    ['vif-openvswitch', 'Unable to find ovs-vsctl tool', ['online']],
  ].map(([script, why, actions]) => ({
    what: `an interface that ${script} is to plug in`,
    config: pvConfig('pv', { nics: [{ mac: '00:16:3e:00:00:01', script: `/etc/xen/scripts/${script}` }] }),
    lines: [...(actions as string[])].flatMap((action, index) => [
      `libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: /etc/xen/scripts/${script} ${action} [${1002 + 2 * index}] exited with error status 1`,
      `libxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: ${why}`,
      ...(action === 'online'
        ? ['libxl: error: libxl_create.c:1921:domcreate_attach_devices: Domain 1:unable to add vif devices']
        : []),
    ]),
  })),
  {
    what: 'a hotplug script that hangs',
    config: pvConfig('pv', { nics: [] }),
    host: {
      runScript: async (run) => {
        if (run.args[0] === 'remove') return { pid: 302, status: 0 };
        await m.clock.sleep(run.timeoutMs);
        return { pid: 301, timedOut: true };
      },
    },
    lines: [
      'libxl: error: libxl_aoutils.c:539:async_exec_timeout: killing execution of /etc/xen/scripts/block add because of timeout',
      'libxl: error: libxl_create.c:1672:domcreate_launch_dm: Domain 1:unable to add disk devices',
    ],
  },
  {
    what: 'a hotplug script that crashes',
    config: pvConfig('pv', { nics: [] }),
    host: {
      runScript: async ({ args }) => (args[0] === 'add' ? { pid: 301, signal: 'Segmentation fault' } : { pid: 302, status: 0 }),
    },
    lines: [
      'libxl: error: libxl_exec.c:127:libxl_report_child_exitstatus: /etc/xen/scripts/block add [301] died due to fatal signal Segmentation fault',
      'libxl: error: libxl_create.c:1672:domcreate_launch_dm: Domain 1:unable to add disk devices',
    ],
  },
  {
    what: 'a vdev that names no device',
    config: pvConfig('pv', { disks: [{ pdevPath: '/dev/loop0', vdev: 'nosuch', format: 'raw' }] }),
    lines: [
      'libxl: error: libxl_disk.c:214:libxl__device_from_disk: Domain 1:Invalid or unsupported virtual disk identifier nosuch',
      'libxl: error: libxl_disk.c:335:device_disk_add: Domain 1:Invalid or unsupported virtual disk identifier nosuch',
      'libxl: error: libxl_create.c:1672:domcreate_launch_dm: Domain 1:unable to add disk devices',
    ],
  },
  {
    what: 'two disks of one name',
    config: pvConfig('pv', {
      disks: ['/dev/loop0', '/dev/loop1'].map((pdevPath) => ({ pdevPath, vdev: 'xvda', format: 'raw' as const })),
    }),
    lines: [
      'libxl: error: libxl_disk.c:343:device_disk_add: Domain 1:device already exists in xenstore',
      'libxl: error: libxl_create.c:1672:domcreate_launch_dm: Domain 1:unable to add disk devices',
    ],
  },
  {
    what: 'a device model that is not there',
    config: pvConfig('pv', { ...build({ deviceModel: '/boot/nosuch' }), vfbs: [{ devid: 0 }] }),
    lines: [
      'libxl: error: libxl_dm.c:2909:libxl__spawn_local_dm: Domain 1:device model /boot/nosuch is not executable: No such file or directory',
      'libxl: error: libxl_dm.c:3158:device_model_spawn_outcome: Domain 1:(null): spawn failed (rc=-3)',
      'libxl: error: libxl_create.c:1896:domcreate_devmodel_started: Domain 1:device model did not start: -3',
    ],
  },
];

test.each(failures)('$what: told as libxl tells it, and nothing is left', async ({ config, host, lines }) => {
  m = await machine({ missing: ['/boot/nosuch', '/dev/nosuch'] });
  const before = await m.store();
  const { rc, domid } = await refused(withHost(host ?? {}), config);
  await m.settle();
  expect({ rc, domid, lines: m.lines }).toEqual({ rc: -3, domid: 1, lines });
  const left = (await m.store()).filter((node) => !before.includes(node));
  expect({ left, domains: m.dom0.domains, threads: m.threads().length }).toEqual({
    left: left.filter((node) => /^\/(vm|libxl) = ""/.test(node)),
    domains: 0,
    threads: 1,
  });
  await expect(m.run(domainDestroy(m.ctx, 1))).rejects.toMatchObject({ rc: -21 });
});

test('a name in use costs a domid and nothing else', async () => {
  m = await machine();
  await m.run(domainCreateNew(m.ctx, pvConfig()));
  const before = await m.store();
  const { rc, domid } = await refused(m.ctx, pvConfig());
  expect({ rc, domid, lines: m.lines, store: await m.store() }).toEqual({
    rc: -3,
    domid: 2,
    lines: [
      'libxl: error: libxl_domain.c:81:libxl__domain_rename: Domain 2:Domain with name "pv" already exists.',
      'libxl: error: libxl_create.c:1296:initiate_domain_create: Domain 2:cannot make domain: -6',
    ],
    store: before,
  });
});

test('a name may have letters of any language', async () => {
  m = await machine();
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig('gäst')));
  const { lines, rc } = { ...(await refused(m.ctx, pvConfig('gäst'))), lines: m.lines };
  expect({ domid, rc, first: lines[0] }).toEqual({
    domid: 1,
    rc: -3,
    first: 'libxl: error: libxl_domain.c:81:libxl__domain_rename: Domain 2:Domain with name "gäst" already exists.',
  });
});

test('a disk that another guest writes to is refused in the words of the script', async () => {
  m = await machine();
  const disks = [{ pdevPath: '/dev/loop0', vdev: 'xvda', format: 'raw' as const, readwrite: true }];
  await m.run(domainCreateNew(m.ctx, pvConfig('pv', { disks })));
  const { rc, domid } = await refused(m.ctx, pvConfig('pvb', { disks }));
  expect({ rc, domid, lines: m.lines }).toEqual({
    rc: -3,
    domid: 2,
    lines: [
      'libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: /etc/xen/scripts/block add [1003] exited with error status 1',
      'libxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: Device /dev/loop0 is mounted in a guest domain,\nand so cannot be mounted now.',
      'libxl: error: libxl_create.c:1672:domcreate_launch_dm: Domain 2:unable to add disk devices',
    ],
  });
});

test('of several disks that fail, the error is that of the last', async () => {
  m = await machine();
  const disks = ['xvda', 'xvdb'].map((vdev) => ({ pdevPath: `/dev/${vdev}`, vdev, format: 'raw' as const }));
  const runScript: Host['runScript'] = async ({ args, env }) => {
    if (args[0] === 'remove') return { pid: 9, status: 0 };
    return env['XENBUS_PATH']?.endsWith('51712') ? { pid: 7, status: 5 } : { pid: 8, timedOut: true };
  };
  const { cause } = await refused(withHost({ runScript }), pvConfig('pv', { disks }));
  expect({ cause, shown: m.lines.map((line) => line.split(': ').at(-1)) }).toMatchObject({
    cause: { rc: -9 },
    shown: [
      '/etc/xen/scripts/block add [7] exited with error status 5',
      'killing execution of /etc/xen/scripts/block add because of timeout',
      'Domain 1:unable to add disk devices',
    ],
  });
});

test('a console that nobody takes up fails the creation after ten seconds', async () => {
  m = await machine();
  const read = (path: string) => (path.endsWith('/tty') ? Promise.resolve('') : m.ctx.xs.read(path));
  const start = m.clock.now();
  const { rc } = await refused({ ...m.ctx, xs: { ...m.ctx.xs, read } }, pvConfig());
  expect({ rc, waited: m.clock.now() - start, lines: m.lines }).toEqual({
    rc: -3,
    waited: 10_000,
    lines: ['libxl: error: libxl_create.c:1976:console_xswait_callback: domain 1 console tty: timed out'],
  });
});

test.each([
  ['ELF', [0x7f, 0x45, 0x4c, 0x46]],
  ['gzip', [0x1f, 0x8b]],
  ['bzImage', [...Array<number>(0x1fe).fill(0), 0x55, 0xaa, 0, 0, 0x48, 0x64, 0x72, 0x53]],
])('a kernel that is %s is one', async (_format, magic) => {
  m = await machine();
  const ctx = withHost({ readMagic: async () => Uint8Array.from(magic) });
  expect(await m.run(domainCreateNew(ctx, pvConfig()))).toBe(1);
});

test.each([
  [
    'a guest of another type',
    { ...pvConfig(), cInfo: { ...pvConfig().cInfo, type: 'hvm' as const } },
    -6,
    [
      'libxl: error: libxl_create.c:46:libxl__domain_create_info_setdefault: neither hap nor shadow paging available',
      'libxl: error: libxl_create.c:1143:libxl__domain_config_setdefault: Unable to set domain create info defaults',
    ],
  ],
  [
    'a boot loader',
    pvConfig('pv', build({ bootloader: 'pygrub' })),
    -4,
    ['libxl: error: bootloader pygrub is not run, as guests are models: name a kernel with kernel= instead'],
  ],
])('%s is refused before a domid is spent', async (_what, config, rc, lines) => {
  m = await machine();
  const before = m.trace.length;
  const error = await refused(m.ctx, config);
  expect({ rc: error.rc, domid: error.domid, lines: m.lines, requests: m.trace.length - before }).toEqual({
    rc,
    domid: undefined,
    lines,
    requests: 0,
  });
  expect(await m.run(domainCreateNew(m.ctx, pvConfig()))).toBe(1);
});

test('a domid that was asked for is given, or refused without a trace', async () => {
  m = await machine();
  const asked = { ...pvConfig(), cInfo: { ...pvConfig().cInfo, domid: 42 } };
  expect(await m.run(domainCreateNew(m.ctx, asked))).toBe(42);
  const before = await m.store();
  const { rc, domid } = await refused(m.ctx, { ...asked, cInfo: { ...asked.cInfo, name: 'other' } });
  expect({ rc, domid, lines: m.lines, store: await m.store() }).toEqual({
    rc: -3,
    domid: undefined,
    lines: [
      'libxl: error: libxl_create.c:711:libxl__domain_make: Domain 42:domain creation fail: File exists',
      'libxl: error: libxl_create.c:1296:initiate_domain_create: cannot make domain: -3',
    ],
    store: before,
  });
});

test('a domid whose watch thread has not left yet is refused as recently used', async () => {
  m = await machine();
  const call: Ctx['xc']['call'] = (op, args) =>
    op === 'xc.domain_create' ? Promise.reject(new PrivcmdError('EBUSY', 'domain id recently used')) : m.ctx.xc.call(op, args);
  const asked = { ...pvConfig(), cInfo: { ...pvConfig().cInfo, domid: 7 } };
  const { rc, domid } = await refused({ ...m.ctx, xc: { ...m.ctx.xc, call } }, asked);
  expect({ rc, domid, lines: m.lines }).toEqual({
    rc: -3,
    domid: undefined,
    lines: [
      'libxl: error: libxl_create.c:732:libxl__domain_make: Domain 7:domain id recently used',
      'libxl: error: libxl_create.c:1296:initiate_domain_create: cannot make domain: -3',
    ],
  });
});

test('every observer sees the mtwatch node for as long as the domain, and longer', async () => {
  m = await machine();
  const seen: string[] = [];
  const observer = m.connect('client');
  await m.run(observer.watch('/', (path) => void seen.push(path)));
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(domainDestroy(m.ctx, domid));
  await m.settle();
  const node = `/local/domain/0/mtwatch/${domid}`;
  const ofDomain = (path: string) =>
    new RegExp(`^(/local/domain/${domid}|/vm/[^/]+|/libxl/${domid}|/local/domain/0/backend/[^/]+/${domid})(/|$)`).test(path);
  const first = seen.indexOf(node);
  const last = seen.lastIndexOf(node);
  expect({ first: first >= 0 && first < seen.findIndex(ofDomain), last: last > seen.findLastIndex(ofDomain) }).toEqual({
    first: true,
    last: true,
  });
  expect(seen.filter((path) => path.startsWith('/local/domain/0/mtwatch'))).toEqual([node, node]);
});

test('nics without a number count on from the highest', async () => {
  m = await machine();
  await m.run(domainCreateNew(m.ctx, pvConfig('pv', { nics: [{}, { devid: 3 }, {}] })));
  expect(await m.run(m.ctx.xs.directory('/libxl/1/device/vif'))).toEqual(['4', '3', '5']);
});

test('what a reboot needs is saved, and a domain whose config cannot be saved is left to the caller', async () => {
  m = await machine();
  const config = pvConfig('pv', { nics: [{}] });
  await m.run(domainCreateNew(m.ctx, config));
  const saved = (await m.ctx.host.readUserdata(`userdata-d.1.${config.cInfo.uuid}.libxl-json`)) ?? '';
  const mac = await m.run(m.ctx.xs.read('/local/domain/0/backend/vif/1/0/mac'));
  expect({ ends: saved.at(-1), mac: saved.includes(`"${mac}"`) }).toEqual({ ends: '\0', mac: true });

  const full = withHost({ writeUserdata: () => Promise.reject(new Error('ENOSPC: no space left on device')) });
  const { rc, domid = 0 } = await refused(full, pvConfig('other'));
  expect({ rc, there: (await m.ctx.xc.call('xc.domain_getinfo', { domid }))?.domid }).toEqual({ rc: -3, there: 2 });
  expect(m.lines).toEqual(['libxl: error: Domain 2:the configuration was not saved: ENOSPC: no space left on device']);
});

test('the sharing check of many disks costs each a look at every other one, and no more', async () => {
  m = await machine();
  const count = 24;
  const disks = Array.from({ length: count }, (_, index) => ({
    pdevPath: `/dev/vg/disk-${index}`,
    vdev: `xvd${String.fromCharCode(97 + index)}`,
    format: 'raw' as const,
    readwrite: true,
  }));
  await m.run(domainCreateNew(m.ctx, pvConfig('many', { disks })));
  const reads = m.trace.filter(
    ({ who, op, args }) => who === 'hotplug' && op === 'READ' && args[0]?.endsWith('/physical-device'),
  );
  expect(reads.length).toBeLessThanOrEqual(count * (count + 1));
});

describe('a domid that was had in the last 60 seconds', () => {
  const createdAndGone = async (domid: number) => {
    await m.run(domainDestroy(m.ctx, await m.run(domainCreateNew(m.ctx, { ...pvConfig(), ...asked(domid) }))));
  };
  const asked = (domid: number) => ({ cInfo: { ...pvConfig().cInfo, domid } });

  test('is passed over, by destroying the domain that got it and asking for another', async () => {
    m = await machine();
    await createdAndGone(1);
    await createdAndGone(2);
    const from = m.trace.length;
    expect(await m.run(domainCreateNew(m.ctx, pvConfig()))).toBe(3);
    // Neither had a node of its own.
    expect(m.trace.slice(from).filter(({ args }) => /domain\/0\/mtwatch\/[12]$/.test(args[0] ?? ''))).toEqual([]);
    expect(m.lines).toEqual([]);
  });

  test('is given again after that', async () => {
    m = await machine();
    await createdAndGone(1);
    await m.run(m.clock.sleep(60_001));
    expect(await m.run(domainCreateNew(m.ctx, pvConfig()))).toBe(1);
  });

  test('is refused to whoever asks for it', async () => {
    m = await machine();
    await createdAndGone(5);
    const error = await refused(m.ctx, { ...pvConfig(), ...asked(5) });
    expect({ rc: error.rc, domid: error.domid, lines: m.lines }).toEqual({
      rc: -3,
      domid: 5,
      lines: [
        'libxl: error: libxl_create.c:732:libxl__domain_make: Domain 5:domain id recently used',
        'libxl: error: libxl_create.c:1296:initiate_domain_create: Domain 5:cannot make domain: -3',
      ],
    });
    expect(m.dom0.hypervisor.list().map(({ domid }) => domid)).toEqual([0]);
    expect((await m.store()).filter((line) => /mtwatch\/|domain\/5/.test(line))).toEqual([]);
  });

  test('is had even by one whose creation failed', async () => {
    m = await machine();
    await refused(m.ctx, { ...pvConfig('pv', build({ kernel: '/nosuch' })), nics: [{ devid: 0, bridge: 'nosuch' }] });
    expect(await m.ctx.host.isDomidRecent(1)).toBe(true);
  });
});

test('of two creations with one name at the same moment one ends with a domain', async () => {
  m = await machine();
  const create = (xs: Ctx['xs']) =>
    domainCreateNew({ ...m.ctx, xs }, pvConfig('a')).then(
      () => 'created',
      (error: CreateError) => error.rc,
    );
  expect((await m.run(Promise.all([create(m.ctx.xs), create(m.connect('xl'))]))).sort()).toEqual([-3, 'created']);
  expect(m.lines.filter((line) => line.includes('already exists'))).toEqual([
    expect.stringMatching(
      /^libxl: error: libxl_domain.c:81:libxl__domain_rename: Domain \d:Domain with name "a" already exists\.$/,
    ),
  ]);
});

describe('two renames to one name at the same moment', () => {
  const renames = async (lockName: Host['lockName']) => {
    m = await machine();
    for (const name of ['a', 'b']) await m.run(domainCreateNew(m.ctx, pvConfig(name)));
    const ctx = withHost({ lockName });
    const rename = (xs: Ctx['xs'], domid: number) =>
      domainRename({ ...ctx, xs }, domid, undefined, 'c').then(
        () => 'renamed',
        (error: LibxlError) => error.rc,
      );
    return (await m.run(Promise.all([rename(m.ctx.xs, 1), rename(m.connect('xl'), 2)]))).sort();
  };

  test('are one after the other, and the second finds it taken', async () => {
    expect(await renames((name) => m.ctx.host.lockName(name))).toEqual([-6, 'renamed']);
  });

  test('without the lock both have it, as with real Xen', async () => {
    expect(await renames(async () => async () => undefined)).toEqual(['renamed', 'renamed']);
  });
});
