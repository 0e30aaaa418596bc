import type { DomainConfig } from '../../src/libxl/domain-config.js';
import { diskToJson, fromJson, nicToJson, toJson, yajl } from '../../src/libxl/json.js';

/** The userdata of a running domain, as a real host had it. */
const userdata = `{
    "c_info": {
        "type": "pv",
        "name": "pv",
        "domid": 4294967295,
        "uuid": "1c3fe36b-0868-4193-ad4f-dd9f2f0a07e5",
        "run_hotplug_scripts": "True"
    },
    "b_info": {
        "max_vcpus": 2,
        "avail_vcpus": [
            0,
            1
        ],
        "max_memkb": 131072,
        "target_memkb": 131072,
        "video_memkb": 0,
        "sched_params": {
            "sched": "credit2",
            "weight": 256,
            "cap": 0
        },
        "claim_mode": "True",
        "kernel": "/boot/vmlinux",
        "cmdline": "console=hvc0 root=/dev/xvda",
        "ramdisk": "/boot/domu.initrd",
        "type.pv": {

        },
        "arch_arm": {

        },
        "arch_x86": {
            "msr_relaxed": "False"
        }
    },
    "disks": [
        {
            "pdev_path": "/dev/loop0",
            "vdev": "xvda",
            "format": "raw",
            "readwrite": 1,
            "colo_restore_enable": "False"
        }
    ],
    "nics": [
        {
            "devid": 0,
            "mac": "00:16:3e:00:00:01",
            "bridge": "xenbr0",
            "nictype": "vif"
        }
    ],
    "on_reboot": "restart",
    "on_soft_reset": "soft_reset"
}
`;

const config: DomainConfig = {
  cInfo: { type: 'pv', name: 'pv', domid: 4294967295, uuid: '1c3fe36b-0868-4193-ad4f-dd9f2f0a07e5', runHotplugScripts: true },
  bInfo: {
    maxVcpus: 2,
    availVcpus: [0, 1],
    maxMemkb: 131072,
    targetMemkb: 131072,
    videoMemkb: 0,
    schedParams: { sched: 'credit2', weight: 256, cap: 0 },
    claimMode: true,
    kernel: '/boot/vmlinux',
    cmdline: 'console=hvc0 root=/dev/xvda',
    ramdisk: '/boot/domu.initrd',
    pv: {},
    archArm: {},
    archX86: { msrRelaxed: false },
  },
  disks: [{ pdevPath: '/dev/loop0', vdev: 'xvda', format: 'raw', readwrite: true, coloRestoreEnable: false }],
  nics: [{ devid: 0, mac: '00:16:3e:00:00:01', bridge: 'xenbr0', nictype: 'vif' }],
  onPoweroff: 'destroy',
  onReboot: 'restart',
  onWatchdog: 'destroy',
  onCrash: 'destroy',
  onSoftReset: 'soft_reset',
};

test('a running domain is written as libxl writes it', () => {
  expect(toJson(config)).toBe(userdata);
});

test('and read back, with or without the NUL at the end of userdata', () => {
  expect(fromJson(userdata)).toEqual(config);
  expect(fromJson(`${userdata}\0`)).toEqual(config);
});

test('the stub that stands for dom0 is a config too', () => {
  const stub = '{"c_info": {"type": "pv"}, "b_info": {"sched_params": {}, "type.pv": {}, "arch_arm": {}, "arch_x86": {}}}';
  expect(fromJson(stub)).toEqual({
    cInfo: { type: 'pv', name: '', uuid: '00000000-0000-0000-0000-000000000000' },
    bInfo: { maxVcpus: 0, availVcpus: [], schedParams: {}, pv: {}, archArm: {}, archX86: {} },
    disks: [],
    nics: [],
    onPoweroff: 'destroy',
    onReboot: 'destroy',
    onWatchdog: 'destroy',
    onCrash: 'destroy',
    onSoftReset: 'destroy',
  });
});

test('what is no object is no config', () => {
  expect(() => fromJson('[]')).toThrow('a domain config is a JSON object');
});

describe('yajl', () => {
  test('puts a line into what is empty', () => {
    expect(yajl({ map: {}, list: [] })).toBe('{\n    "map": {\n\n    },\n    "list": [\n\n    ]\n}\n');
  });

  test('escapes what JSON requires, and no slash', () => {
    expect(yajl('"\\/\b\f\n\r\t\v\x01\x7f\u00e9')).toBe('"\\"\\\\/\\b\\f\\n\\r\\t\\u000B\\u0001\x7f\u00e9"\n');
  });
});

test('a field with its default is not printed, an empty string is', () => {
  expect(
    diskToJson({
      pdevPath: '',
      vdev: 'hdc',
      removable: true,
      isCdrom: true,
      readwrite: false,
      directIoSafe: false,
      trusted: true,
    }),
  ).toEqual({
    pdev_path: '',
    vdev: 'hdc',
    removable: 1,
    is_cdrom: 1,
    trusted: 'True',
  });
  expect(
    nicToJson({ devid: 0, mtu: 0, backendDomid: 0, rateIntervalUsecs: 1, colo: { colo_compare_out: 'x' }, trusted: false }),
  ).toEqual({
    devid: 0,
    rate_interval_usecs: 1,
    colo_compare_out: 'x',
    trusted: 'False',
  });
});
