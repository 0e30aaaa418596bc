import {
  type Disk,
  devidToVdev,
  diskBackendKind,
  diskDevid,
  diskNodes,
  needsStat,
  parseDiskSpec,
  type ReadyDisk,
  setDiskDefaults,
  vdevToDevid,
} from '../../src/libxl/disk.js';

const xvda: Disk = { readwrite: true, pdevPath: '/x', vdev: 'xvda', format: 'raw' };

function parse(words: string | readonly string[]) {
  const parsed = parseDiskSpec(words, 'F');
  return 'disk' in parsed
    ? parsed.disk
    : parsed.errors.map((line) => line.replace('F: config parsing error in disk specification: ', ''));
}

describe('a disk can be said in many ways', () => {
  test.each<[string, string | readonly string[]]>([
    ['by position', '/x,raw,xvda,w'],
    ['with defaults', '/x,,xvda'],
    ['with commas too many', '/x,,xvda,,'],
    ['with an old prefix', 'phy:/x,xvda,w'],
    ['with two of them', 'tap:aio:/x,xvda,rw'],
    ['with the format twice', 'format=raw,raw:/x,xvda'],
    ['by name', 'format=,vdev=xvda,access=rw,target=/x'],
    ['mixed', 'vdev=xvda,/x,raw'],
    ['in words', ['/x', 'raw', 'xvda', 'w']],
    ['in words and commas', ['/x,raw', 'xvda']],
    ['with an empty vdev before the real one', 'vdev=,vdev=xvda,target=/x'],
  ])('%s', (_, words) => {
    expect(parse(words)).toEqual(xvda);
  });
});

test('target= takes all that is left, but for one comma', () => {
  expect(parse('vdev=xvda,target=iqn=x,portal=1.2.3.4,,')).toEqual({ ...xvda, pdevPath: 'iqn=x,portal=1.2.3.4,' });
});

describe('a drive may be empty', () => {
  const cdrom: Disk = { readwrite: false, removable: true, isCdrom: true };
  test.each<[string, Disk]>([
    ['vdev=xvda,cdrom', { ...cdrom, vdev: 'xvda', format: 'empty' }],
    ['vdev=xvda,cdrom,format=qcow2', { ...cdrom, vdev: 'xvda', format: 'empty' }],
    [',hdc:cdrom,r', { ...cdrom, pdevPath: '', vdev: 'hdc', format: 'empty' }],
    [',,hdc:cdrom,r', { ...cdrom, pdevPath: '', vdev: 'hdc', format: 'empty' }],
    ['phy:/x,hda:foo:cdrom', { ...cdrom, pdevPath: '/x', vdev: 'hda:foo', format: 'raw' }],
  ])('%s', (spec, expected) => {
    expect(parse(spec)).toEqual(expected);
  });
});

test('every named item has its place', () => {
  const spec =
    'colo,colo-host=h,colo-port=9x,colo-export=e,active-disk=a,hidden-disk=b,backend=dom,backendtype=qdisk,script=s,' +
    'direct-io-safe,no-discard,specification=xen,devtype=disk,vdev=xvda,format=qcow2,access=ro,target=/x,y';
  expect(parse(spec)).toEqual({
    readwrite: false,
    coloEnable: true,
    coloHost: 'h',
    coloPort: 9,
    coloExport: 'e',
    activeDisk: 'a',
    hiddenDisk: 'b',
    backendDomname: 'dom',
    backend: 'qdisk',
    script: 's',
    directIoSafe: true,
    discardEnable: false,
    specification: 'xen',
    isCdrom: false,
    vdev: 'xvda',
    format: 'qcow2',
    pdevPath: '/x,y',
  });
});

describe('a mistake is named with the text near it', () => {
  test.each<[string, readonly string[]]>([
    ['', ["no vdev specified in `'"]],
    [' ', ["no vdev specified in ` '"]],
    ['vdev=xvda', ["no target specified (and device not removable) in `vdev=xvda'"]],
    ['bogus=12,vdev=xvda', ["unknown parameter: near `bogus=1' in `bogus=12,vdev=xvda'"]],
    ['bogus=,vdev=xvda', ["bad disk syntax: near `=,vdev=xvda' in `bogus=,vdev=xvda'"]],
    ['a=b=c,vdev=x', ["unknown parameter: near `a=b' in `a=b=c,vdev=x'", "bad disk syntax: near `=c,vdev=x' in `a=b=c,vdev=x'"]],
    ['devtype=foo,vdev=x', ["unknown value for type: near `devtype=foo,' in `devtype=foo,vdev=x'"]],
    ['raw:qcow2:/x,xvda', ["format respecified: near `qcow2' in `raw:qcow2:/x,xvda'"]],
    ['iscsi:nbd:/x,xvda', ["script respecified: near `block-nbd' in `iscsi:nbd:/x,xvda'"]],
    ['foo:/x,xvda', ["unknown deprecated disk prefix: near `foo:' in `foo:/x,xvda'"]],
    // Followed by a letter it is no prefix at all.
    ['foo:x,xvda,w', ["unknown value for format: near `xvda' in `foo:x,xvda,w'"]],
    ['backendtype=phy,backendtype=tap', ["backend respecified: near `tap' in `backendtype=phy,backendtype=tap'"]],
    ['colo-port=0', ["unknown value for colo_port: near `0' in `colo-port=0'"]],
    // 4.17 does not know the word, so it is the target.
    ['vdev=xvda,trusted,target=/x', ["target respecified: near `/x' in `vdev=xvda,trusted,target=/x'"]],
  ])('%j', (spec, expected) => {
    expect(parse(spec)).toEqual(expected);
  });
});

describe('vdev and devid', () => {
  test.each<[string, number]>([
    ['xvda', 51712],
    ['xvda1', 51713],
    ['xvdb', 51728],
    ['xvdp', 51952],
    ['xvdp15', 51967],
    ['xvda16', 268435472],
    ['xvdq', 268439552],
    ['xvdz', 268441856],
    ['xvdaa', 268442112],
    ['xvdtq37', 268572709],
    ['d536p37', 268572709],
    ['d0p0', 51712],
    ['hda', 768],
    ['hda1', 769],
    ['hdb', 832],
    ['hdc', 5632],
    ['hdd', 5696],
    ['sda', 2048],
    ['sda1', 2049],
    ['sdb3', 2067],
    ['sdp', 2288],
    ['51712', 51712],
    ['0xca00', 51712],
    ['hde', -1],
    ['sdq', -1],
    ['vda', -1],
    ['d0', -1],
    ['xvda0', -1],
    ['xvda01', -1],
    ['xvda256', -1],
    ['xvdA', -1],
    ['/dev/xvda', -1],
    // Oddities of libxl.
    ['xvd', -16],
    ['hd', 832],
    ['', 0],
  ])('%j is %d', (vdev, devid) => {
    expect(vdevToDevid(vdev)).toBe(devid);
  });

  test.each(['xvda', 'xvda1', 'xvdp15', 'xvdq', 'xvdz', 'xvdaa', 'xvdtq37'])('%s comes back from its devid', (vdev) => {
    expect(devidToVdev(vdevToDevid(vdev))).toBe(vdev);
  });
});

const file = { kind: 'file', bytes: 4096 } as const;
const settledBy = (disk: Disk, stat?: Parameters<typeof setDiskDefaults>[1]['stat']) => {
  const { log, ...result } = setDiskDefaults(disk, { stat });
  const lines = log.map(({ level, where, message }) => `${level}: ${where}: ${message}`);
  return { lines, backend: 'disk' in result ? result.disk.backend : result.rc };
};
const tried = 'debug: libxl_device.c:433:libxl__device_disk_set_backend: Disk vdev=xvda spec.backend=unknown specification=xen';

describe('the backend', () => {
  test('is phy for a raw file or block device, with all defaults settled', () => {
    expect(setDiskDefaults(xvda, { stat: file })).toEqual({
      log: [
        {
          level: 'debug',
          where: 'libxl_device.c:433:libxl__device_disk_set_backend',
          message: 'Disk vdev=xvda spec.backend=unknown specification=xen',
        },
        {
          level: 'debug',
          where: 'libxl_device.c:470:libxl__device_disk_set_backend',
          message: 'Disk vdev=xvda, using backend phy',
        },
      ],
      disk: {
        ...xvda,
        backendDomid: 0,
        backend: 'phy',
        discardEnable: true,
        specification: 'xen',
        coloEnable: false,
        coloRestoreEnable: false,
        trusted: true,
      },
    });
  });

  test('once chosen is only checked', () => {
    const first = setDiskDefaults(xvda, { stat: file });
    if (!('disk' in first)) throw new Error('no backend');
    expect(settledBy(first.disk, file)).toEqual({ backend: 'phy', lines: [tried.replace('unknown', 'phy')] });
  });

  test('is qdisk for another format, and for a drive without a medium', () => {
    const using = 'debug: libxl_device.c:470:libxl__device_disk_set_backend: Disk vdev=xvda, using backend qdisk';
    const unsuitable = (format: string) =>
      `debug: libxl_device.c:388:disk_try_backend: Disk vdev=xvda, backend phy unsuitable due to format ${format}`;
    expect(settledBy({ ...xvda, format: 'qcow2' }, file)).toEqual({
      backend: 'qdisk',
      lines: [tried, unsuitable('qcow2'), using],
    });
    const empty: Disk = { vdev: 'xvda', format: 'empty', isCdrom: true, removable: true };
    expect(settledBy(empty)).toEqual({ backend: 'qdisk', lines: [tried, unsuitable('empty'), using] });
  });

  test('is qdisk for a file that is neither', () => {
    expect(settledBy(xvda, { kind: 'other' })).toEqual({
      backend: 'qdisk',
      lines: [
        tried,
        'debug: libxl_device.c:344:disk_try_backend: Disk vdev=xvda, backend phy unsuitable as phys path not a block device',
        'debug: libxl_device.c:470:libxl__device_disk_set_backend: Disk vdev=xvda, using backend qdisk',
      ],
    });
  });

  test('can be missing', () => {
    expect(settledBy({ ...xvda, format: 'qcow2', script: 'block' })).toEqual({
      backend: -6,
      lines: [
        tried,
        'debug: libxl_device.c:388:disk_try_backend: Disk vdev=xvda, backend phy unsuitable due to format qcow2',
        'debug: libxl_device.c:395:disk_try_backend: Disk vdev=xvda, backend qdisk not compatible with script=...',
        'debug: libxl_device.c:349:disk_try_backend: Disk vdev=xvda, backend tap unsuitable because blktap not available',
        'debug: libxl_device.c:405:disk_try_backend: Disk vdev=xvda, backend standalone not compatible with specification xen',
        'error: libxl_device.c:475:libxl__device_disk_set_backend: no suitable backend for disk xvda',
      ],
    });
  });

  test.each<[string, Disk, string]>([
    [
      'a file that is not there',
      xvda,
      '455:libxl__device_disk_set_backend: Disk vdev=xvda failed to stat: /x: No such file or directory',
    ],
    [
      'an empty disk',
      { vdev: 'xvda', format: 'empty', pdevPath: '/x' },
      '439:libxl__device_disk_set_backend: Disk vdev=xvda is empty but not cdrom',
    ],
    [
      'an empty drive with an image',
      { vdev: 'xvda', format: 'empty', pdevPath: '/x', isCdrom: true },
      '443:libxl__device_disk_set_backend: Disk vdev=xvda is empty but an image has been provided: /x',
    ],
  ])('is not looked for: %s', (_, disk, expected) => {
    expect(settledBy(disk)).toEqual({ backend: -6, lines: [tried, `error: libxl_device.c:${expected}`] });
  });

  test('is looked for without a look at the file where a script or another domain opens it', () => {
    const disks: readonly Disk[] = [
      xvda,
      { ...xvda, script: 'block-iscsi' },
      { ...xvda, backend: 'qdisk' },
      { ...xvda, backendDomname: 'd' },
    ];
    expect(disks.map(needsStat)).toEqual([true, false, false, false]);
  });
});

function ready(disk: Disk, stat = true): ReadyDisk {
  const settled = setDiskDefaults(disk, stat ? { stat: file } : {});
  if (!('disk' in settled)) throw new Error('no backend');
  return settled.disk;
}

const front = (devid: number, type: string) => [
  ['backend-id', '0'],
  ['state', '1'],
  ['virtual-device', String(devid)],
  ['device-type', type],
  ['trusted', '1'],
  ['protocol', 'x86_64-abi'],
];

describe('the nodes, in the order in which libxl writes them', () => {
  test('of a phy disk', () => {
    const disk = ready(xvda);
    expect(diskBackendKind(disk)).toBe('vbd');
    expect(diskDevid(disk)).toBe(51712);
    expect(diskNodes(disk, 1)).toEqual({
      front: front(51712, 'disk'),
      frontRo: [],
      back: [
        ['params', '/x'],
        ['script', '/etc/xen/scripts/block'],
        ['frontend-id', '1'],
        ['online', '1'],
        ['removable', '0'],
        ['bootable', '1'],
        ['state', '1'],
        ['dev', 'xvda'],
        ['type', 'phy'],
        ['mode', 'w'],
        ['device-type', 'disk'],
        ['discard-enable', '1'],
        ['specification', 'xen'],
      ],
    });
  });

  test('of a read-only one that is safe for direct I/O', () => {
    const disk = ready({
      vdev: 'xvda',
      pdevPath: '/x',
      format: 'raw',
      directIoSafe: true,
      discardEnable: false,
      script: 'block-x',
    });
    expect(diskNodes(disk, 25).back).toEqual([
      ['params', '/x'],
      ['script', '/etc/xen/scripts/block-x'],
      ['frontend-id', '25'],
      ['online', '1'],
      ['removable', '0'],
      ['bootable', '1'],
      ['state', '1'],
      ['dev', 'xvda'],
      ['type', 'phy'],
      ['mode', 'r'],
      ['device-type', 'disk'],
      ['direct-io-safe', '1'],
      ['discard-enable', '0'],
      ['specification', 'xen'],
    ]);
  });

  test('of a drive that qemu serves', () => {
    const disk = ready({ vdev: 'xvdb', format: 'empty', isCdrom: true, removable: true, readwrite: false }, false);
    expect(diskBackendKind(disk)).toBe('qdisk');
    expect(diskNodes(disk, 25)).toEqual({
      front: front(51728, 'cdrom'),
      frontRo: [],
      back: [
        ['params', 'aio:'],
        ['frontend-id', '25'],
        ['online', '1'],
        ['removable', '1'],
        ['bootable', '1'],
        ['state', '1'],
        ['dev', 'xvdb'],
        ['type', 'qdisk'],
        ['mode', 'r'],
        ['device-type', 'cdrom'],
        ['discard-enable', '0'],
        ['specification', 'xen'],
      ],
    });
    expect(diskNodes(ready({ ...xvda, format: 'qcow2' }), 1).back[0]).toEqual(['params', 'qcow2:/x']);
  });
});
