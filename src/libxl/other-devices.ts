/**
 * Devices of xl.cfg other than disks and network interfaces: read with xl's complaints, and kept as the JSON that xl would
 * print. What is written of them to XenStore is in `device-types.ts`.
 */
import { killedBy, scanNumber, splitList, splitPair, trim } from './c-text.js';
import type { DomainType } from './domain-config.js';
import type { JsonObject, JsonValue } from './json.js';
import { readSoundCards } from './sound-card.js';
import { asUint32, asUint64, atoi, strtol } from './strtol.js';
import { type CfgReader, getDefbool, getInt, getLong, getString, getStrings, sayUnended } from './xl-cfg.js';
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

// ---- Read between the disks and the network interfaces

export function readDevices(reader: CfgReader) {
  const p9s = readP9s(reader);
  const vtpms = (getStrings(reader, 'vtpm') ?? []).map((spec, devid) => readVtpm(reader, spec, devid));
  const vdispls = (getStrings(reader, 'vdispl') ?? []).map((spec, devid) => readVdispl(reader, spec, devid));
  const pvcallsifs = (getStrings(reader, 'pvcalls') ?? []).map((spec, devid) => readPvcalls(reader, spec, devid));
  const vsnds = readSoundCards(reader);
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

/** What a share does not say it has from the one before. */
function readP9s(reader: CfgReader): Devices {
  let before: Readonly<Record<string, string>> = {};
  return (getStrings(reader, 'p9') ?? []).map((spec) => {
    before = { ...before, ...knownPairs(reader, spec, '9pfs', ['security_model', 'path', 'tag', 'backend']) };
    const { backend, tag, path, security_model } = before;
    if (path === undefined || tag === undefined || security_model === undefined) {
      exitXl(reader, 1, '9pfs spec missing required field!');
    }
    return printed({ backend_domname: backend, tag, path, security_model });
  });
}

const noUuid = '00000000-0000-0000-0000-000000000000';

function readVtpm(reader: CfgReader, spec: string, devid: number): JsonObject {
  const { backend, uuid } = knownPairs(reader, spec, 'vtpm', ['backend', 'uuid']);
  if (uuid !== undefined && !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(uuid)) {
    exitXl(reader, 1, `Failed to parse vtpm UUID: ${uuid}`);
  }
  if (backend === undefined) exitXl(reader, 1, 'vtpm spec missing required backend field!');
  return {
    ...printed({ backend_domname: backend }),
    devid,
    ...printed({ uuid: uuid === noUuid ? undefined : uuid?.toLowerCase() }),
  };
}

function readVdispl(reader: CfgReader, spec: string, devid: number): JsonObject {
  let backend: string | undefined;
  let allocates = false;
  let connectors: readonly JsonObject[] = [];
  for (const item of items(spec)) {
    const [key, value] = pair(item);
    if (key === 'backend' && value !== undefined) backend = value;
    else if (key === 'be-alloc' && value !== undefined) allocates = asUint64(strtol(value)) !== 0n;
    else if (key === 'connectors' && value !== undefined) connectors = readConnectors(reader, splitList(reader, value, ';'));
    else exitXl(reader, 1, `Unknown string "${item}" in vdispl spec`);
  }
  if (connectors.length === 0) exitXl(reader, 1, 'At least one connector should be specified.');
  return { ...printed({ backend_domname: backend }), devid, ...printed({ be_alloc: allocates, connectors }) };
}

/**
 * `ID:WIDTHxHEIGHT` each. What is behind the height does not count; a resolution that does not even begin with a number
 * ends the list, and xl goes on with connectors that have no names; one half of it ends xl.
 */
function readConnectors(reader: CfgReader, texts: readonly string[]): readonly JsonObject[] {
  const connectors: Record<string, JsonValue>[] = texts.map(() => ({}));
  for (const [index, text] of texts.entries()) {
    const parts = splitPair(text, ':');
    if (!parts) return exitXl(reader, killedBy.abrt, 'free(): invalid pointer');
    const width = scanNumber(parts[1], 10);
    const height = width?.rest.startsWith('x') ? scanNumber(width.rest.slice(1), 10) : undefined;
    const uint32 = (value: bigint | undefined) => (value === undefined ? undefined : Number(BigInt.asUintN(32, value)));
    connectors[index] = { ...printed({ unique_id: parts[0], width: uint32(width?.value), height: uint32(height?.value) }) };
    if (height) continue;
    reader.lines.push("Can't parse connector resolution");
    if (width || /^[ \t\n\v\f\r]*$/.test(parts[1])) exitXl(reader, 1);
    break;
  }
  return connectors;
}

function readPvcalls(reader: CfgReader, spec: string, devid: number): JsonObject {
  const { backend } = knownPairs(reader, spec, 'pvcalls', ['backend']);
  return { ...printed({ backend_domname: backend }), devid };
}

function readChannel(reader: CfgReader, spec: string, devid: number): JsonObject {
  const values: Record<string, string> = {};
  for (const item of splitList(reader, spec, ',')) {
    const pair = splitPair(item, '=');
    if (!pair) {
      sayUnended(reader, `failed to parse channel configuration: ${item}`);
      return exitXl(reader, 1);
    }
    const [name, value] = [trim(pair[0]), trim(pair[1])];
    if (!['backend', 'name', 'path', 'connection'].includes(name)) {
      reader.lines.push(`unknown channel parameter '${name}', ignoring`);
      continue;
    }
    values[name] = value;
    if (name === 'connection' && value !== 'pty' && value !== 'socket') {
      exitXl(reader, 1, `unknown channel connection '${value}'`);
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
  const fromTopLevel = () => {
    let all = vfbs;
    let own: { readonly vnc: JsonObject; readonly sdl: JsonObject } | undefined;
    if (type !== 'pv' || vfbs.length > 0) own = { vnc: vncJson(reader), sdl: sdlJson(reader) };
    else if (getLong(reader, 'vnc')) all = [topLevelVfb(reader)];
    return { vfbs: all, vkbs: all.map((_, devid) => ({ devid })), ...own };
  };
  return { usbctrls, usbdevs, fromTopLevel };
}

function topLevelVfb(reader: CfgReader): JsonObject {
  return { devid: 0, vnc: vncJson(reader), sdl: sdlJson(reader), ...printed({ keymap: getString(reader, 'keymap') }) };
}

function vncJson(reader: CfgReader): JsonObject {
  return printed({
    enable: defboolJson(getDefbool(reader, 'vnc')),
    listen: getString(reader, 'vnclisten'),
    passwd: getString(reader, 'vncpasswd'),
    display: getInt(reader, 'vncdisplay'),
    findunused: defboolJson(getDefbool(reader, 'vncunused')),
  });
}

function sdlJson(reader: CfgReader): JsonObject {
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
    if (key === 'type' && value.toLowerCase() !== 'hostdev') exitXl(reader, 1, 'Invalid usb device type: (null)');
    values[key] = value;
  }
  const number = (key: string) => asUint32(values[key] ?? '') & 0xff;
  const controller = values['controller'];
  const place = {
    ...(controller === undefined || atoi(controller) === -1 ? {} : { ctrl: atoi(controller) }),
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
  const parsed = parseVkb(items(spec), ' in vkb spec', ' for multi touch in vkb spec');
  if ('errors' in parsed) return exitXl(reader, 1, ...parsed.errors);
  const { backend_domname, ...rest } = parsed.vkb;
  return { ...printed({ backend_domname }), devid, ...rest };
}

/**
 * A keyboard from its items, as `xl vkb-attach` has them in words; or what xl says instead, where the two mistakes of a
 * whole keyboard end differently in a config. Any measure of touches brings the feature with it.
 */
export function parseVkb(
  texts: readonly string[],
  inSpec = '',
  forTouch = '',
): { readonly vkb: JsonObject } | { readonly errors: readonly string[] } {
  const strings: Record<string, string> = {};
  const fields: Record<string, number | boolean> = {};
  for (const item of texts) {
    const [key, value] = pair(item);
    const field = Object.hasOwn(vkbNumbers, key) ? vkbNumbers[key] : undefined;
    const isText = key === 'backend' || key === 'backend-type' || key === 'unique-id';
    if (value === undefined || (!field && !isText)) return { errors: [`Unknown string "${item}" in vkb spec`] };
    if (field) fields[field] = field.startsWith('feature') ? asUint64(strtol(value)) !== 0n : asUint32(value);
    else strings[key] = value;
    if (key === 'backend-type' && !['unknown', 'qemu', 'linux'].includes(value.toLowerCase())) {
      return { errors: [`Unknown backend_type "${value}" in vkb spec`] };
    }
  }
  const type = strings['backend-type']?.toLowerCase();
  if (type === undefined || type === 'unknown') return { errors: [`backend-type should be set${inSpec}`] };
  const isMeasured = ['multi_touch_width', 'multi_touch_height', 'multi_touch_num_contacts'].some((name) => fields[name]);
  if (isMeasured) fields['feature_multi_touch'] = true;
  if (fields['feature_multi_touch'] && !isMeasured) {
    return { errors: [`multi-touch-width, multi-touch-height, multi-touch-num-contacts should be set${forTouch}`] };
  }
  return {
    vkb: printed({
      backend_domname: strings['backend'],
      backend_type: type,
      unique_id: strings['unique-id'],
      ...Object.fromEntries(Object.values(vkbNumbers).map((field) => [field, fields[field]])),
    }),
  };
}
