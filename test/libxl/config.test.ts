import { actionName, configText, parseConfig } from '../../src/libxl/config.js';
import type { DomainConfig } from '../../src/libxl/domain-config.js';

const uuid = '00112233-4455-6677-8899-aabbccddeeff';
const minimal = 'name="t"\nmemory=128\nkernel="/k"\n';

function parse(text: string) {
  return parseConfig(text, 'F', { randomUuid: () => uuid, pcpus: 2 });
}

function configOf(text: string): DomainConfig {
  const { config, lines } = parse(text);
  if (!config) throw new Error(lines.join('\n'));
  return config;
}

test('a PV guest, whole', () => {
  const text = `${minimal}vcpus=2
maxvcpus=4
maxmem=256
ramdisk="/r"
root="/dev/xvda"
extra="ro"
disk=["phy:/dev/loop0,xvda,w"]
vif=["mac=00:16:3e:00:00:01,bridge=xenbr0",""]
on_crash="preserve"
uuid="00112233-4455-6677-8899-AABBCCDDEEFF"
`;
  expect(parse(text)).toEqual({
    exit: 0,
    lines: [],
    stderr: '',
    notices: [],
    config: {
      cInfo: { type: 'pv', name: 't', uuid, runHotplugScripts: true },
      bInfo: {
        maxVcpus: 4,
        availVcpus: [0, 1],
        maxMemkb: 262144,
        targetMemkb: 131072,
        schedParams: {},
        claimMode: true,
        kernel: '/k',
        cmdline: 'root=/dev/xvda ro',
        ramdisk: '/r',
        pv: {},
        archArm: {},
        archX86: {},
      },
      disks: [{ pdevPath: '/dev/loop0', vdev: 'xvda', format: 'raw', readwrite: true }],
      nics: [{ devid: 0, mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }, { devid: 1 }],
      pcidevs: [],
      dtdevs: [],
      vfbs: [],
      vkbs: [],
      vtpms: [],
      p9s: [],
      pvcallsifs: [],
      vdispls: [],
      vsnds: [],
      channels: [],
      usbctrls: [],
      usbdevs: [],
      onPoweroff: 'destroy',
      onReboot: 'restart',
      onWatchdog: 'destroy',
      onCrash: 'preserve',
      onSoftReset: 'soft_reset',
    },
  });
});

test('settings of the command line come last, on lines of their own', () => {
  expect(configText('a=1', [])).toBe('a=1');
  expect(configText('a=1\n', ['b=2', 'c=3'])).toBe('a=1\n\nb=2\nc=3\n\n');
  expect(parse(configText(minimal, ['vcpus=x'])).lines).toEqual([
    "F:5: config parsing error near `x': syntax error, unexpected IDENT, expecting STRING or NUMBER or '['",
    'Failed to parse config: Invalid argument',
  ]);
});

describe('a mistake ends xl', () => {
  test.each<[string, number, readonly string[]]>([
    ['type="pvhx"', 1, ['Invalid domain type pvhx.']],
    ['builder="pv"', 1, ['Invalid domain type pv.']],
    ['type="pv"\nbuilder="hvm"', 1, ['Contradicting "builder" and "type" options specified.']],
    [
      'name=["x"]',
      1,
      ["F:4: warning: parameter `name' is a list but should be a single value", 'Domain name must be specified.'],
    ],
    ['uuid=" 00112233-4455-6677-8899-aabbccddeeff"', 1, ['Failed to parse UUID:  00112233-4455-6677-8899-aabbccddeeff']],
    ['vcpus=4\nmaxvcpus=2', 1, ['xl: maxvcpus < vcpus']],
    [
      'vcpus="-1"',
      1,
      ['libxl: error: libxl_utils.c:809:libxl_cpu_bitmap_alloc: invalid number of cpus provided', 'Unable to allocate cpumap'],
    ],
    ['cpus="^all"', 1, ['Can\'t combine "^" and "all".']],
    ['cpus="1-0"', 1, ['Invalid pcpu range: 1-0.']],
    ['vcpus=2\ncpus="12"', 1, ['vcpu hard affinity map is empty']],
    ['max_grant_frames="-1"', 1, []],
    ['on_watchdog="x"\non_crash="y"', 1, ['Unknown on_watchdog action "x" specified']],
    ['passthrough="x"', 1, ["ERROR: unknown passthrough option 'x'"]],
    ['tsc_mode="nosuch"', 1, ['got a tsc mode string: "nosuch"', 'ERROR: invalid value "nosuch" for "tsc_mode"']],
    [
      'tsc_mode=9',
      1,
      [
        'WARNING: specifying "tsc_mode" as an integer is deprecated. Please use the named parameter variant. ',
        'ERROR: invalid value 9 for "tsc_mode"',
      ],
    ],
    ['timer_mode=1', 3, ['ERROR: "timer_mode" option is not supported for PV guests.']],
    ['firmware="pvgrub64"', 1, ['ERROR: both kernel and firmware specified']],
    [
      'kernel=["x"]',
      1,
      ["F:4: warning: parameter `kernel' is a list but should be a single value", 'Neither kernel nor bootloader specified'],
    ],
    ['irqs=[[1]]', 1, ['xl: Unable to get element 0 in irq list']],
    ['ioports=["x"]', 1, ['xl: Invalid argument parsing ioport: x']],
    ['iomem=["x"]', 1, ['xl: Invalid argument parsing iomem: x']],
    [
      'disk=["phy:/a,xvda,w","x"]\nvif=["rate=x"]',
      1,
      ["F: config parsing error in disk specification: no vdev specified in `x'"],
    ],
    ['vif=["foo,rate=x"]', 1, ["unrecognized argument `foo'", "F: config parsing error in vif: invalid rate in `x'"]],
    ['device_model_version="x"', 1, ['Unknown device_model_version "x" specified']],
    [
      'device_model_args="x"',
      3,
      [
        "F:4: warning: parameter `device_model_args' is a single value but should be a list",
        'xl: Unable to parse device_model_args.',
      ],
    ],
    ['tee="x"', 3, ['Unknown tee "x" specified']],
    ['gic_version="zz"', 3, ['Unknown gic_version "zz" specified']],
    ['vtpm=["foo=1,backend=0"]', 1, ["Unknown string `foo' in vtpm spec"]],
    ['vtpm=["backend=0,uuid=x"]', 1, ['Failed to parse vtpm UUID: x']],
    ['channel=["connection=socket"]', 1, ["channel connection 'socket' requires path=.."]],
    ['p9=["tag=a"]', 1, ['9pfs spec missing required field!']],
    ['vdispl=["backend=0"]', 1, ['At least one connector should be specified.']],
    ['vkb=["foo=1"]', 1, ['Unknown string "foo=1" in vkb spec']],
    ['usbctrl=["type=x"]', 1, ["Invalid usb controller type 'x'"]],
    ['pci=["0000:00:1f.7=2"]', 6, ["unable to parse PCI_SPEC_STRING `0000:00:1f.7=2' for passthrough"]],
  ])('%j', (text, exit, lines) => {
    expect(parse(`${minimal.replace(/^kernel.*\n/m, text.startsWith('kernel') ? '\n' : '$&')}${text}\n`)).toEqual({
      exit,
      lines,
      stderr: lines.map((line) => `${line}\n`).join(''),
      notices: [],
    });
  });

  test('and of two mistakes the first by the order of xl counts, not by that of the file', () => {
    expect(parse('vif=["rate=x"]\nuuid=1\ntype="x"\n').lines).toEqual(['Invalid domain type x.']);
    expect(parse('vif=["rate=x"]\nuuid=1\n').lines).toEqual(['Domain name must be specified.']);
  });
});

describe('a value of the wrong type is warned of and counts as absent, in the order of reading', () => {
  test.each<[string, readonly string[]]>([
    [
      'acpi=[1]\ndevice_tree=[1]\nextra=[1]',
      [
        "F:5: warning: parameter `device_tree' is a list but should be a single value",
        "F:6: warning: parameter `extra' is a list but should be a single value",
        "F:4: warning: parameter `acpi' is a list but should be a single value",
      ],
    ],
    ['vcpus=[2]\ncpus=[["a"]]', ["F:4: warning: parameter `vcpus' is a list but should be a single value"]],
    ['on_crash=["x"]', ["F:4: warning: parameter `on_crash' is a list but should be a single value"]],
    ['disk="phy:/a,xvda,w"', ["F:4: warning: parameter `disk' is a single value but should be a list"]],
    ['localtime="x"', ["F:4: warning: parameter `localtime' is not a valid number"]],
  ])('%j', (text, lines) => {
    expect(parse(`${minimal}${text}\n`)).toMatchObject({ exit: 0, lines });
  });
});

describe('advice that does not stop xl', () => {
  test.each<[string, readonly string[]]>([
    ['root="/dev/x"\ncmdline="c"', ['Warning: ignoring root= and extra= in favour of cmdline=']],
    [
      'bootloader="b"\nbootloader_args="-q"',
      ['WARNING: Specifying "bootloader_args" as a string is deprecated. Please use a list of arguments.'],
    ],
    [
      'vif2=["x"]\nvncviewer=1',
      [
        'WARNING: ignoring "vncviewer" option. Use "-V" option of "xl create" to automatically spawn vncviewer.',
        'WARNING: vif2: netchannel2 is deprecated and not supported by xl',
      ],
    ],
    [
      'msr_relaxed=0',
      [
        'WARNING: msr_relaxed will be removed in future versions.',
        'If it fixes an issue you are having please report to xen-devel@lists.xenproject.org.',
      ],
    ],
    ['device_model_override="/q"', ['WARNING: device model override given without specific DM version']],
    ['ioports=["1zz"]', ['xl: Invalid argument parsing ioport: 1zz']],
    ['channel=["foo=1,connection=pty"]', ["unknown channel parameter 'foo', ignoring"]],
  ])('%j', (text, lines) => {
    expect(parse(`${minimal}${text}\n`)).toMatchObject({ exit: 0, lines });
  });
});

describe('sets of processors, on a host of two', () => {
  const all = [0, 1, 2, 3, 4, 5, 6, 7];
  test.each<[string, Partial<DomainConfig['bInfo']>]>([
    [
      'vcpus=2\ncpus="0-1"',
      {
        vcpuHardAffinity: [
          [0, 1],
          [0, 1],
        ],
      },
    ],
    ['vcpus=2\ncpus=["0", "1"]', { vcpuHardAffinity: [[0], [1]], numaPlacement: false }],
    ['vcpus=3\ncpus=["0"]', { vcpuHardAffinity: [[0]], numaPlacement: false }],
    ['vcpus=1\ncpus="all"', { vcpuHardAffinity: [all] }],
    ['vcpus=1\ncpus="node:all"', { vcpuHardAffinity: [all] }],
    ['vcpus=1\ncpus="all,^1"', { vcpuHardAffinity: [[0, 2, 3, 4, 5, 6, 7]] }],
    ['vcpus=1\ncpus="0-99999999,^3"', { vcpuHardAffinity: [[0, 1, 2, 4, 5, 6, 7]] }],
    ['vcpus=1\ncpus="nodes:0"', { vcpuHardAffinity: [[0, 1]] }],
    ['vcpus=1\ncpus="^nodes:0,1"', { vcpuHardAffinity: [[1]] }],
    ['vcpus=1\ncpus=",,0, 1,"', { vcpuHardAffinity: [[0, 1]] }],
    ['vcpus=2\ncpus_soft=""', { vcpuSoftAffinity: [[], []], numaPlacement: false }],
  ])('%j', (text, expected) => {
    const { vcpuHardAffinity, vcpuSoftAffinity, numaPlacement } = configOf(`${minimal}${text}\n`).bInfo;
    expect(JSON.parse(JSON.stringify({ vcpuHardAffinity, vcpuSoftAffinity, numaPlacement }))).toEqual(expected);
  });
});

describe('what happens at a shutdown', () => {
  test('is said in one spelling and kept in another', () => {
    const names = ['destroy', 'restart', 'rename-restart', 'preserve', 'coredump-destroy', 'coredump-restart', 'soft-reset'];
    const actions = names.map((name) => configOf(`${minimal}on_crash="${name}"\n`).onCrash);
    expect(actions).toEqual([
      'destroy',
      'restart',
      'restart_rename',
      'preserve',
      'coredump_destroy',
      'coredump_restart',
      'soft_reset',
    ]);
    expect(actions.map(actionName)).toEqual(names);
  });
});

describe('what is not modelled', () => {
  test('is without effect, and says so', () => {
    expect(parse(`${minimal}cpuid="host,htt=0"\nirqs=[5]\n`).notices).toEqual([
      'xl: warning: irqs= is not modelled and has no effect',
      'xl: warning: cpuid= is not modelled and has no effect',
    ]);
  });
});
