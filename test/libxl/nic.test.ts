import { consoleNodes } from '../../src/libxl/console.js';
import {
  type Nic,
  nextNicDevid,
  nicNodes,
  nicObstacle,
  parseNicSpec,
  parseNicWords,
  randomMac,
  savedNic,
  setNicDefaults,
} from '../../src/libxl/nic.js';

const random = Uint8Array.of(0x87, 0x16, 0xc0, ...new Array(13).fill(0xff));

describe('vif= is split at commas', () => {
  test.each<[string, Nic]>([
    ['', {}],
    [' bridge=xenbr0 , mac=00:16:3E:00:00:01 ', { bridge: 'xenbr0 ', mac: '00:16:3e:00:00:01' }],
    ['bridge=a,,bridge=b', { bridge: 'b' }],
    ['bridge=xenbr0 mac=00:16:3e:00:00:01', { bridge: 'xenbr0 mac=00:16:3e:00:00:01' }],
    [
      'type=ioemu,model=,ip=1,backend=d,vifname=v,script=s',
      { nictype: 'vif_ioemu', model: '', ip: '1', backendDomname: 'd', ifname: 'v', script: 's' },
    ],
    ['gatewaydev=e,forwarddev=f,trusted', { gatewaydev: 'e', coloftForwarddev: 'f', trusted: true }],
    ['untrusted', { trusted: false }],
    ['devid=5x,mtu=-5', { devid: 5, mtu: -5 }],
    ['devid= 7', { devid: 7 }],
    ['devid=4294967297', { devid: 1 }],
    ['colo_compare_out=a,colo_sock_sec_redirector0_ip=b', { colo: { colo_compare_out: 'a', colo_sock_sec_redirector0_ip: 'b' } }],
  ])('%j', (spec, nic) => {
    expect(parseNicSpec(spec, 'F')).toEqual({ nic, lines: [], status: 'ok' });
  });

  test('and an item that is not understood is passed over', () => {
    expect(parseNicSpec('foo,mac=1,type=x,bridge=b,trusted=0,vlan=5', 'F')).toEqual({
      nic: { mac: '01:00:00:00:00:00', bridge: 'b' },
      lines: [
        "unrecognized argument `foo'",
        "Invalid parameter `mac'.",
        "Invalid parameter `type'.",
        "unrecognized argument `trusted=0'",
        "unrecognized argument `vlan=5'",
      ],
      status: 'refused',
    });
  });
});

test('xl network-attach takes a word for one item and stops at the first mistake', () => {
  expect(parseNicWords(['bridge=a,b', 'mac=x', 'model=y'])).toEqual({
    nic: { bridge: 'a,b' },
    lines: ["Invalid parameter `mac'."],
    status: 'refused',
  });
});

test('deprecated keys are named', () => {
  expect(parseNicSpec('netdev=e,accel=x', 'F')).toEqual({
    nic: { gatewaydev: 'e' },
    lines: [
      'the netdev parameter is deprecated, please use gatewaydev instead',
      'the accel parameter for vifs is currently not supported',
    ],
    status: 'ok',
  });
});

describe('a MAC address is six numbers with anything between', () => {
  test.each<[string, string | undefined]>([
    ['0:1:2:3:4:5', '00:01:02:03:04:05'],
    ['1-2-3-4-5-6', '01:02:03:04:05:06'],
    ['+1:2:3:4:5:6', '01:02:03:04:05:06'],
    ['00:16:3e:00:00:01,bridge=x', '00:16:3e:00:00:01'],
    ['0:0:0:0:0:0', undefined],
  ])('%s', (text, mac) => {
    expect(parseNicWords([`mac=${text}`])).toEqual({ nic: mac === undefined ? {} : { mac }, lines: [], status: 'ok' });
  });

  test.each(['', '00:16:3e:00:00', '100:2:3:4:5:6', 'x'])('%j is none', (text) => {
    expect(parseNicWords([`mac=${text}`])).toMatchObject({ lines: ["Invalid parameter `mac'."], status: 'refused' });
  });
});

describe('rate', () => {
  test.each<[string, number, number]>([
    ['10Mb/s', 62_500, 50_000],
    ['10MB/s', 500_000, 50_000],
    ['250Kb/s', 1562, 50_000],
    ['1Gb/s', 6_250_000, 50_000],
    ['1GB/s@1us', 1000, 1],
    ['10Mb/s@20ms', 25_000, 20_000],
    ['10Mb/s@20', 25_000_000, 20_000_000],
    ['10Mb/s@1s', 1_250_000, 1_000_000],
    ['1GB/s@4294s', 4_294_000_000_000, 4_294_000_000],
    ['7b/s@1', 0, 1_000_000],
    // The form is checked first, then the number is read as C does: octal.
    ['010MB/s', 400_000, 50_000],
  ])('%s is %d bytes in %d microseconds', (text, rateBytesPerInterval, rateIntervalUsecs) => {
    expect(parseNicSpec(`rate=${text}`, 'F')).toEqual({
      nic: { rateBytesPerInterval, rateIntervalUsecs },
      lines: [],
      status: 'ok',
    });
  });

  test.each<[string, string]>([
    ['', "no rate specified in `'"],
    ['@', "no rate specified in `@'"],
    ['10', "invalid rate in `10'"],
    ['10ZB/s', "invalid rate in `10ZB/s'"],
    ['0B/s', "rate overflow in `0B/s'"],
    ['09B/s', "rate overflow in `09B/s'"],
    ['4294967296B/s', "rate overflow in `4294967296B/s'"],
    ['10Mb/s@', "invalid replenishment interval in `'"],
    ['10Mb/s@x', "invalid replenishment interval in `x'"],
    ['10Mb/s@0ms', "replenishment interval overflow in `0ms'"],
    ['10Mb/s@4295s', "replenishment interval overflow in `4295s'"],
  ])('%j ends xl', (text, expected) => {
    expect(parseNicSpec(`rate=${text},foo`, 'F')).toEqual({
      nic: {},
      lines: [`F: config parsing error in vif: ${expected}`],
      status: 'fatal',
    });
  });
});

test('a number that cannot be read ends xl', () => {
  expect(parseNicSpec('devid=abc', 'F')).toEqual({ nic: {}, lines: ['xl: failed to convert "abc" to number'], status: 'fatal' });
  expect(parseNicSpec('devid=-1', 'F').status).toBe('fatal');
});

test('a MAC address made up here is in the range of Xen', () => {
  expect(randomMac(random)).toBe('00:16:3e:07:16:c0');
});

test('the next devid is one past the last that is listed', () => {
  expect([nextNicDevid([]), nextNicDevid(['0']), nextNicDevid(['0', '5', '2'])]).toEqual([0, 1, 3]);
});

describe('the defaults', () => {
  test('fill in what the config leaves open, and what was chosen is kept', () => {
    const nic: Nic = { bridge: 'br1', trusted: false };
    const settled = setNicDefaults(nic, { random, devid: 2 });
    expect(settled).toEqual({
      backendDomid: 0,
      devid: 2,
      mtu: 1500,
      model: 'rtl8139',
      mac: '00:16:3e:07:16:c0',
      bridge: 'br1',
      script: '/etc/xen/scripts/vif-bridge',
      nictype: 'vif',
      trusted: false,
    });
    expect(savedNic(nic, settled)).toEqual({ bridge: 'br1', trusted: false, devid: 2, mac: '00:16:3e:07:16:c0', nictype: 'vif' });
  });

  test('do not make an emulated interface one for a PV guest', () => {
    expect(nicObstacle({ nictype: 'vif' })).toBeUndefined();
    expect(nicObstacle({ nictype: 'vif_ioemu' })).toEqual({
      level: 'error',
      where: 'libxl_nic.c:107:libxl__device_nic_setdefault',
      message: 'trying to create PV or PVH guest with an emulated interface',
    });
  });
});

describe('the nodes, in the order in which libxl writes them', () => {
  test('of a plain interface', () => {
    const nic = setNicDefaults({ devid: 0, mac: '00:16:3e:00:00:01', bridge: 'xenbr0' }, { random, devid: 0 });
    expect(nicNodes(nic, 1)).toEqual({
      front: [
        ['backend-id', '0'],
        ['state', '1'],
        ['handle', '0'],
        ['mac', '00:16:3e:00:00:01'],
        ['trusted', '1'],
      ],
      frontRo: [['mtu', '1500']],
      back: [
        ['frontend-id', '1'],
        ['online', '1'],
        ['state', '1'],
        ['script', '/etc/xen/scripts/vif-bridge'],
        ['mac', '00:16:3e:00:00:01'],
        ['bridge', 'xenbr0'],
        ['handle', '0'],
        ['type', 'vif'],
        ['hotplug-status', ''],
      ],
    });
  });

  test('of one with everything', () => {
    const spec =
      'mac=00:16:3e:00:00:09,ip=10.0.0.9,vifname=v9,rate=10Mb/s,mtu=9000,gatewaydev=eth0,script=vif-bridge,forwarddev=x,untrusted';
    const nic = setNicDefaults(parseNicSpec(spec, 'F').nic, { random, devid: 5 });
    expect(nicNodes(nic, 25)).toEqual({
      front: [
        ['backend-id', '0'],
        ['state', '1'],
        ['handle', '5'],
        ['mac', '00:16:3e:00:00:09'],
        ['trusted', '0'],
      ],
      frontRo: [['mtu', '9000']],
      back: [
        ['frontend-id', '25'],
        ['online', '1'],
        ['state', '1'],
        ['script', '/etc/xen/scripts/vif-bridge'],
        ['vifname', 'v9'],
        ['forwarddev', 'x'],
        ['mac', '00:16:3e:00:00:09'],
        ['ip', '10.0.0.9'],
        ['gatewaydev', 'eth0'],
        ['rate', '62500,50000'],
        ['mtu', '9000'],
        ['bridge', 'xenbr0'],
        ['handle', '5'],
        ['type', 'vif'],
        ['hotplug-status', ''],
      ],
    });
  });

  test('of console 0', () => {
    expect(consoleNodes(1, { port: 2, mfn: 1823746 })).toEqual({
      front: [['backend-id', '0']],
      frontRo: [
        ['limit', '1048576'],
        ['type', 'xenconsoled'],
        ['output', 'pty'],
        ['tty', ''],
        ['port', '2'],
        ['ring-ref', '1823746'],
      ],
      back: [
        ['frontend-id', '1'],
        ['online', '1'],
        ['state', '1'],
        ['protocol', 'vt100'],
      ],
    });
  });
});
