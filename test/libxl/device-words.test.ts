import {
  parseUsbctrlWords,
  parseUsbdevWords,
  parseVdisplWords,
  parseVkbWords,
  parseVtpmWords,
  vdisplJson,
  vkbJson,
} from '../../src/libxl/device-words.js';

describe('xl vkb-attach takes', () => {
  const json = (...words: string[]) => {
    const parsed = parseVkbWords(words);
    return 'device' in parsed ? vkbJson(parsed.device) : parsed;
  };

  test('its words in any order, and prints them in that of the IDL', () => {
    expect(json('width=0x10', 'unique-id=keys', 'backend-type=Linux', 'feature-abs-pointer=7', 'height=0')).toEqual({
      backend_type: 'linux',
      unique_id: 'keys',
      feature_abs_pointer: true,
      width: 16,
    });
  });

  test('a size for touching as the wish to be touched', () => {
    expect(json('backend-type=qemu', 'multi-touch-width=5')).toEqual({
      backend_type: 'qemu',
      feature_multi_touch: true,
      multi_touch_width: 5,
    });
  });

  test.each<[string[], string, number]>([
    [['backend-type=zzz'], 'Unknown backend_type "zzz" in vkb spec', 255],
    [['backend-type=qemu,width=5'], 'Unknown backend_type "qemu,width=5" in vkb spec', 255],
    [['width'], 'Unknown string "width" in vkb spec', 255],
    [['nosuch=1'], 'Unknown string "nosuch=1" in vkb spec', 255],
    [['width=5'], 'backend-type should be set', 253],
    [['backend-type=unknown'], 'backend-type should be set', 253],
    [
      ['backend-type=qemu', 'feature-multi-touch=1'],
      'multi-touch-width, multi-touch-height, multi-touch-num-contacts should be set',
      253,
    ],
  ])('no %j', (words, complaint, exit) => {
    expect(parseVkbWords(words)).toEqual({ complaint, exit });
  });
});

describe('xl vdispl-attach takes', () => {
  test('connectors', () => {
    const parsed = parseVdisplWords(['connectors=id0:800x600;id1:1024x768', 'be-alloc=1', 'backend=0']);
    expect('device' in parsed && vdisplJson(parsed.device)).toEqual({
      backend_domname: '0',
      be_alloc: true,
      connectors: [
        { unique_id: 'id0', width: 800, height: 600 },
        { unique_id: 'id1', width: 1024, height: 768 },
      ],
    });
  });

  test.each<[string[], string, number]>([
    [[], 'At least one connector should be specified.', 253],
    [['nosuch=1'], 'Unknown string "nosuch=1" in vdispl spec', 1],
    [['connectors=id0:800'], "Can't parse connector resolution", 1],
  ])('no %j', (words, complaint, exit) => {
    expect(parseVdisplWords(words)).toEqual({ complaint, exit });
  });

  test('a connector without a number, of which it complains', () => {
    expect(parseVdisplWords(['connectors=id0:wide'])).toEqual({
      device: { beAlloc: false, connectors: [{ uniqueId: 'id0', width: 0, height: 0 }] },
      said: ["Can't parse connector resolution"],
    });
  });
});

test('xl vtpm-attach takes a uuid and a backend, and nothing else', () => {
  const uuid = '01234567-89AB-cdef-0123-456789abcdef';
  expect(parseVtpmWords([`uuid=${uuid}`, 'backend=tpms'])).toEqual({
    device: { uuid: uuid.toLowerCase(), backendDomname: 'tpms' },
  });
  expect(parseVtpmWords(['uuid=zz'])).toEqual({ complaint: 'Invalid uuid specified (zz)', exit: 1 });
  expect(parseVtpmWords(['foo'])).toEqual({ complaint: "unrecognized argument `foo'", exit: 1 });
});

test('xl usbctrl-attach and usbdev-attach take their words, and nothing else', () => {
  expect(parseUsbctrlWords(['type=PV', 'version=2x', 'ports=4'])).toEqual({ device: { type: 'pv', version: 2, ports: 4 } });
  expect(parseUsbctrlWords(['type=zz'])).toEqual({ complaint: "Invalid usb controller type 'zz'", exit: 1 });
  expect(parseUsbctrlWords(['zz=1'])).toEqual({ complaint: "Unknown string `zz=1' in usbctrl spec", exit: 1 });
  expect(parseUsbdevWords(['hostbus=0x1', 'hostaddr=258', 'controller=3', 'port=1'])).toEqual({
    device: { hostbus: 1, hostaddr: 2, ctrl: 3, port: 1 },
  });
  expect(parseUsbdevWords(['zz'])).toEqual({ complaint: "Unknown string `zz' in usbdev spec", exit: 1 });
  expect(parseUsbdevWords(['type=disk'])).toEqual({ complaint: 'Invalid usb device type: (null)', exit: 1 });
});
