/**
 * Devices of xl.cfg that have no model here: read with xl's complaints, and kept as the JSON that xl would print.
 *
 * A dry run shows them; `config.ts` sees to it that no domain is made with them.
 */
import type { DomainType } from './domain-config.js';
import type { JsonObject, JsonValue } from './json.js';
import { asUint64, atoi, strtol } from './strtol.js';
import { type CfgReader, getDefbool, getList, getLong, getString, getStrings } from './xl-cfg.js';
import { exitXl } from './xl-exit.js';

type Devices = readonly JsonObject[];

/** The items of a specification, split at commas as `strtok` splits. */
function items(spec: string): readonly string[] {
  return spec
    .split(',')
    .filter((item) => item !== '')
    .map((item) => item.replace(/^ +/, ''));
}

/** `key=value`; the value is undefined without an equals sign. */
function pair(item: string): readonly [key: string, value: string | undefined] {
  const equals = item.indexOf('=');
  return equals < 0 ? [item, undefined] : [item.slice(0, equals), item.slice(equals + 1)];
}

/** `record` without what is undefined, 0, "" excepted, or false: what yajl would not print. */
function printed(record: Readonly<Record<string, JsonValue | undefined>>): JsonObject {
  return Object.fromEntries(
    Object.entries(record).flatMap(([key, value]) =>
      value === undefined || value === 0 || value === false ? [] : [[key, value]],
    ),
  );
}

export function defboolJson(value: boolean | undefined): string | undefined {
  return value === undefined ? undefined : value ? 'True' : 'False';
}

// ---- Read before the boot keys

export function readHardwareDevices(reader: CfgReader): { readonly pcidevs: Devices; readonly dtdevs: Devices } {
  const msitranslate = getLong(reader, 'pci_msitranslate') ?? 0;
  const powerMgmt = getLong(reader, 'pci_power_mgmt') ?? 0;
  const permissive = getLong(reader, 'pci_permissive') ?? 0;
  const seize = getLong(reader, 'pci_seize') ?? 0;
  getString(reader, 'rdm');
  const defaults = {
    msitranslate: msitranslate !== 0,
    power_mgmt: powerMgmt !== 0,
    permissive: permissive !== 0,
    seize: seize !== 0,
  };
  const pcidevs = (getStrings(reader, 'pci') ?? []).map((spec) => readPci(reader, spec, defaults));
  const dtdevs = (getStrings(reader, 'dtdev') ?? []).map((path) => ({ path }));
  return { pcidevs, dtdevs };
}

interface PciFlags {
  readonly msitranslate: boolean;
  readonly power_mgmt: boolean;
  readonly permissive: boolean;
  readonly seize: boolean;
}

/** `[DOMAIN:]BUS:DEV.FUNC[@SLOT][,key=value]`, all hexadecimal, with `*` for every function; or `name=...`. */
function readPci(reader: CfgReader, spec: string, defaults: PciFlags): JsonObject {
  const invalid = () => exitXl(reader, 6, `unable to parse PCI_SPEC_STRING \`${spec}' for passthrough`);
  const [first = '', ...options] = spec.split(',');
  const address = /^(?:bdf=)?(?:([0-9a-f]{1,4}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7*])(?:@([0-9a-f]{1,2}))?$/i.exec(first);
  if (!address) options.unshift(first);
  const flags = { ...defaults };
  let policy = 'strict';
  let name: string | undefined;
  for (const option of options) {
    const [key, value] = pair(option);
    if (key === 'name' && value !== undefined) name = value;
    else if (key === 'rdm_policy' && (value === 'strict' || value === 'relaxed')) policy = value;
    else if (Object.hasOwn(flags, key) && value !== undefined && /^[01]$/.test(value))
      flags[key as keyof PciFlags] = value === '1';
    else invalid();
  }
  if (!address && name === undefined) invalid();
  const [, domain = '0', bus = '0', device = '0', func = '0', slot = '0'] = address ?? [];
  return printed({
    func: func === '*' ? 0 : hex(func),
    dev: hex(device),
    bus: hex(bus),
    domain: hex(domain),
    vdevfn: hex(slot) << 3,
    vfunc_mask: address ? (func === '*' ? 0xffff_ffff : 1) : 0,
    ...flags,
    rdm_policy: policy,
    name,
  });
}

function hex(digits: string): number {
  return Number.parseInt(digits, 16);
}

// ---- Read between the disks and the network interfaces

export function readDevices(reader: CfgReader) {
  const p9s = (getStrings(reader, 'p9') ?? []).map((spec) => readP9(reader, spec));
  const vtpms = (getStrings(reader, 'vtpm') ?? []).map((spec, devid) => readVtpm(reader, spec, devid));
  const vdispls = (getStrings(reader, 'vdispl') ?? []).map((spec, devid) => readVdispl(reader, spec, devid));
  const pvcallsifs = (getStrings(reader, 'pvcalls') ?? []).map((spec, devid) => readPvcalls(reader, spec, devid));
  // A sound card is a list of lists; its streams are not read.
  const vsnds = (getList(reader, 'vsnd') ?? []).map((_, devid) => printed({ devid }));
  const channels = (getStrings(reader, 'channel') ?? []).map((spec, devid) => readChannel(reader, spec, devid));
  return { p9s, vtpms, vdispls, pvcallsifs, vsnds, channels };
}

/** The pairs of a specification that may only have these keys; it ends at the first item without an equals sign. */
function knownPairs(reader: CfgReader, spec: string, what: string, keys: readonly string[]): Readonly<Record<string, string>> {
  const pairs: Record<string, string> = {};
  for (const item of items(spec)) {
    const [key, value] = pair(item);
    if (value === undefined) break;
    if (!keys.includes(key)) exitXl(reader, 1, `Unknown string \`${key}' in ${what} spec`);
    pairs[key] = value;
  }
  return pairs;
}

function readP9(reader: CfgReader, spec: string): JsonObject {
  const { backend, tag, path, security_model } = knownPairs(reader, spec, '9pfs', ['security_model', 'path', 'tag', 'backend']);
  if (path === undefined || tag === undefined || security_model === undefined) {
    exitXl(reader, 1, '9pfs spec missing required field!');
  }
  return printed({ backend_domname: backend, tag, path, security_model });
}

function readVtpm(reader: CfgReader, spec: string, devid: number): JsonObject {
  const { backend, uuid } = knownPairs(reader, spec, 'vtpm', ['backend', 'uuid']);
  if (uuid !== undefined && !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(uuid)) {
    exitXl(reader, 1, `Failed to parse vtpm UUID: ${uuid}`);
  }
  if (backend === undefined) exitXl(reader, 1, 'vtpm spec missing required backend field!');
  return { ...printed({ backend_domname: backend }), devid, ...printed({ uuid: uuid?.toLowerCase() }) };
}

function readVdispl(reader: CfgReader, spec: string, devid: number): JsonObject {
  let backend: string | undefined;
  let allocates = false;
  let connectors: JsonObject[] = [];
  for (const item of items(spec)) {
    const [key, value = ''] = pair(item);
    if (key === 'backend') backend = value;
    else if (key === 'be-alloc') allocates = asUint64(strtol(value)) !== 0n;
    else if (key === 'connectors') connectors = value.split(';').map((connector) => readConnector(reader, connector));
    else exitXl(reader, 1, `Unknown string "${item}" in vdispl spec`);
  }
  if (connectors.length === 0) exitXl(reader, 1, 'At least one connector should be specified.');
  return { ...printed({ backend_domname: backend }), devid, ...printed({ be_alloc: allocates, connectors }) };
}

/** `ID:WIDTHxHEIGHT`. */
function readConnector(reader: CfgReader, text: string): JsonObject {
  const [, id = '', width = '', height = ''] = /^([^:]*):(\d+)x(\d+)$/.exec(text) ?? [];
  if (width === '') exitXl(reader, 1);
  return printed({ unique_id: id, width: Number(width), height: Number(height) });
}

function readPvcalls(reader: CfgReader, spec: string, devid: number): JsonObject {
  const { backend } = knownPairs(reader, spec, 'pvcalls', ['backend']);
  return { ...printed({ backend_domname: backend }), devid };
}

function readChannel(reader: CfgReader, spec: string, devid: number): JsonObject {
  const values: Record<string, string> = {};
  for (const item of spec.split(',').filter((text) => text !== '')) {
    const [key, value] = item.split('=').filter((text) => text !== '');
    if (key === undefined || value === undefined) return exitXl(reader, 1, `failed to parse channel configuration: ${item}`);
    const name = key.trim();
    if (!['backend', 'name', 'path', 'connection'].includes(name)) {
      reader.lines.push(`unknown channel parameter '${name}', ignoring`);
      continue;
    }
    values[name] = value.trim();
    const connection = values['connection'];
    if (name === 'connection' && connection !== 'pty' && connection !== 'socket') {
      exitXl(reader, 1, `unknown channel connection '${connection}'`);
    }
  }
  const { backend, name, path, connection } = values;
  if (connection === undefined) return exitXl(reader, 1, "channel has unknown 'connection'");
  if (connection === 'socket' && path === undefined) exitXl(reader, 1, "channel connection 'socket' requires path=..");
  const details = connection === 'socket' ? printed({ path }) : {};
  return { ...printed({ backend_domname: backend }), devid, ...printed({ name }), [`connection.${connection}`]: details };
}

// ---- Read after the network interfaces

/** The frame buffers of `vfb`, or the one that `vnc=1` makes for a PV guest without; and USB. */
export function readDisplay(reader: CfgReader, type: DomainType) {
  const vfbs = (getStrings(reader, 'vfb') ?? []).map(readVfb);
  const usbctrls = (getStrings(reader, 'usbctrl') ?? []).map((spec, devid) => readUsbctrl(reader, spec, devid));
  const usbdevs = (getStrings(reader, 'usbdev') ?? []).map((spec) => readUsbdev(reader, spec));
  /** Only after the device model's keys does xl look at the display at the top level. */
  const fromTopLevel = (): { readonly vfbs: Devices; readonly vkbs: Devices } => {
    const all = vfbs.length === 0 && type === 'pv' && getLong(reader, 'vnc') ? [topLevelVfb(reader)] : vfbs;
    return { vfbs: all, vkbs: all.map((_, devid) => ({ devid })) };
  };
  return { usbctrls, usbdevs, fromTopLevel };
}

function topLevelVfb(reader: CfgReader): JsonObject {
  return { devid: 0, vnc: vncJson(reader), sdl: sdlJson(reader), ...printed({ keymap: getString(reader, 'keymap') }) };
}

export function vncJson(reader: CfgReader): JsonObject {
  return printed({
    enable: defboolJson(getDefbool(reader, 'vnc')),
    listen: getString(reader, 'vnclisten'),
    passwd: getString(reader, 'vncpasswd'),
    display: getLong(reader, 'vncdisplay'),
    findunused: defboolJson(getDefbool(reader, 'vncunused')),
  });
}

export function sdlJson(reader: CfgReader): JsonObject {
  return printed({
    enable: defboolJson(getDefbool(reader, 'sdl')),
    opengl: defboolJson(getDefbool(reader, 'opengl')),
    display: getString(reader, 'display'),
    xauthority: getString(reader, 'xauthority'),
  });
}

/** Sub-keys that are not known are passed over. */
function readVfb(spec: string, devid: number): JsonObject {
  const values: Record<string, string> = {};
  for (const item of items(spec)) {
    const [key, value] = pair(item);
    if (value === undefined) break;
    values[key] = value;
  }
  const flag = (key: string) => defboolJson(values[key] === undefined ? undefined : atoi(values[key]) !== 0);
  const vnc = printed({
    enable: flag('vnc'),
    listen: values['vnclisten'],
    passwd: values['vncpasswd'],
    display: atoi(values['vncdisplay'] ?? '0'),
    findunused: flag('vncunused'),
  });
  const sdl = printed({
    enable: flag('sdl'),
    opengl: flag('opengl'),
    display: values['display'],
    xauthority: values['xauthority'],
  });
  return { devid, vnc, sdl, ...printed({ keymap: values['keymap'] }) };
}

function readUsbctrl(reader: CfgReader, spec: string, devid: number): JsonObject {
  const values: Record<string, string> = {};
  for (const item of items(spec)) {
    const [key, value] = pair(item);
    if (value === undefined || !['type', 'version', 'ports'].includes(key)) {
      return exitXl(reader, 1, `Unknown string \`${item}' in usbctrl spec`);
    }
    if (key === 'type' && !['auto', 'pv', 'devicemodel', 'qusb'].includes(value.toLowerCase())) {
      exitXl(reader, 1, `Invalid usb controller type '${value}'`);
    }
    values[key] = value;
  }
  const type = values['type']?.toLowerCase();
  const numbers = printed({ version: atoi(values['version'] ?? ''), ports: atoi(values['ports'] ?? '') });
  return { ...printed({ type: type === 'auto' ? undefined : type }), devid, ...numbers };
}

function readUsbdev(reader: CfgReader, spec: string): JsonObject {
  const values: Record<string, string> = {};
  for (const item of items(spec)) {
    const [key, value] = pair(item);
    if (value === undefined || !['type', 'hostbus', 'hostaddr', 'controller', 'port'].includes(key)) {
      return exitXl(reader, 1, `Unknown string \`${item}' in usbdev spec`);
    }
    if (key === 'type' && value.toLowerCase() !== 'hostdev') exitXl(reader, 1, `Invalid usb device type: ${value}`);
    values[key] = value;
  }
  const number = (key: string) => Number(asUint64(strtol(values[key] ?? '')));
  const controller = values['controller'];
  const place = {
    ...(controller === undefined ? {} : { ctrl: atoi(controller) }),
    ...printed({ port: atoi(values['port'] ?? '') }),
  };
  // Without a type xl keeps what it read where the JSON does not look.
  if (values['type'] === undefined) return place;
  return { ...place, 'type.hostdev': printed({ hostbus: number('hostbus'), hostaddr: number('hostaddr') }) };
}

/** The keyboards of `vkb`, behind those that came with the frame buffers. */
export function readVirtualKeyboards(reader: CfgReader, before: Devices): Devices {
  const own = (getStrings(reader, 'vkb') ?? []).map((spec, index) => readVkb(reader, spec, before.length + index));
  return [...before, ...own];
}

const vkbNumbers: Readonly<Record<string, string>> = {
  'feature-disable-keyboard': 'feature_disable_keyboard',
  'feature-disable-pointer': 'feature_disable_pointer',
  'feature-abs-pointer': 'feature_abs_pointer',
  'feature-raw-pointer': 'feature_raw_pointer',
  'feature-multi-touch': 'feature_multi_touch',
  width: 'width',
  height: 'height',
  'multi-touch-width': 'multi_touch_width',
  'multi-touch-height': 'multi_touch_height',
  'multi-touch-num-contacts': 'multi_touch_num_contacts',
};

function readVkb(reader: CfgReader, spec: string, devid: number): JsonObject {
  const strings: Record<string, string> = {};
  const numbers: Record<string, number> = {};
  for (const item of items(spec)) {
    const [key, value = ''] = pair(item);
    const field = Object.hasOwn(vkbNumbers, key) ? vkbNumbers[key] : undefined;
    if (field) numbers[field] = Number(asUint64(strtol(value)));
    else if (key === 'backend' || key === 'backend-type' || key === 'unique-id') strings[key] = value;
    else return exitXl(reader, 1, `Unknown string "${item}" in vkb spec`);
    if (key === 'backend-type' && !['qemu', 'linux'].includes(value.toLowerCase())) {
      exitXl(reader, 1, `Unknown backend_type "${value}" in vkb spec`);
    }
  }
  const type = strings['backend-type'];
  if (type === undefined) return exitXl(reader, 1, 'backend-type should be set in vkb spec');
  const fields = Object.values(vkbNumbers).map((field) => {
    const number = numbers[field];
    return [field, number === undefined ? undefined : field.startsWith('feature') ? number !== 0 : number] as const;
  });
  return {
    ...printed({ backend_domname: strings['backend'] }),
    devid,
    ...printed({ backend_type: type.toLowerCase(), unique_id: strings['unique-id'], ...Object.fromEntries(fields) }),
  };
}
