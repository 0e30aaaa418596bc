/**
 * Devices given in words on the command line: `xl vkb-attach web backend-type=linux unique-id=kbd`.
 *
 * Each word is one `key=value`; commas do not part them, as they do in a config (`other-devices.ts`). A complaint ends
 * the command with the exit code that xl's function happens to return (xl 4.17, `xl_parse.c` and `xl_vtpm.c`).
 */
import { killedBy, scanNumber, strtok } from './c-text.js';
import { parseUuid, type UsbctrlType } from './device-list.js';
import type { JsonObject } from './json.js';
import { asUint32, atoi } from './strtol.js';

/** What the words say, or what xl says instead and ends with. */
export type Parsed<T> = { readonly device: T } | { readonly complaint: string; readonly exit: number };

/** What main returns becomes eight bits: -1 is 255, libxl's FAIL 253. */
const minusOne = 255;
const failed = 253;

function pair(word: string): readonly [key: string, value: string | undefined] {
  const equals = word.indexOf('=');
  return equals < 0 ? [word, undefined] : [word.slice(0, equals), word.slice(equals + 1)];
}

// ---- Keyboards

export interface Vkb {
  readonly backendDomname?: string;
  readonly backendType: 'qemu' | 'linux';
  readonly uniqueId?: string;
  /** By the names of libxl's JSON; features are 0 or 1. */
  readonly numbers: Readonly<Record<string, number>>;
}

/** The numbers of a keyboard by their words, in the order of its nodes. */
export const vkbNodes = [
  'feature-disable-keyboard',
  'feature-disable-pointer',
  'feature-abs-pointer',
  'feature-raw-pointer',
  'feature-multi-touch',
  'width',
  'height',
  'multi-touch-width',
  'multi-touch-height',
  'multi-touch-num-contacts',
] as const;
const touchNodes = ['multi-touch-width', 'multi-touch-height', 'multi-touch-num-contacts'] as const;

export function parseVkbWords(words: readonly string[]): Parsed<Vkb> {
  const numbers: Record<string, number> = {};
  const strings: { backendDomname?: string; uniqueId?: string } = {};
  let backendType: string | undefined;
  for (const word of words) {
    const [key, value] = pair(word);
    const node = vkbNodes.find((name) => name === key);
    if (value === undefined) return { complaint: `Unknown string "${word}" in vkb spec`, exit: minusOne };
    if (key === 'backend') strings.backendDomname = value;
    else if (key === 'unique-id') strings.uniqueId = value;
    else if (key === 'backend-type') {
      backendType = ['unknown', 'qemu', 'linux'].find((name) => name === value.toLowerCase());
      if (backendType === undefined) return { complaint: `Unknown backend_type "${value}" in vkb spec`, exit: minusOne };
    } else if (node) {
      const number = asUint32(value);
      numbers[node] = node.startsWith('feature') ? Number(number !== 0) : number;
    } else return { complaint: `Unknown string "${word}" in vkb spec`, exit: minusOne };
  }
  if (backendType !== 'qemu' && backendType !== 'linux') return { complaint: 'backend-type should be set', exit: failed };
  if (touchNodes.some((node) => numbers[node])) numbers['feature-multi-touch'] = 1;
  else if (numbers['feature-multi-touch']) return { complaint: `${touchNodes.join(', ')} should be set`, exit: failed };
  return { device: { ...strings, backendType, numbers } };
}

export function vkbJson({ backendDomname, backendType, uniqueId, numbers }: Vkb): JsonObject {
  const entries = vkbNodes.flatMap((node) => {
    const number = numbers[node];
    return number ? [[node.replaceAll('-', '_'), node.startsWith('feature') ? true : number] as const] : [];
  });
  return {
    ...(backendDomname === undefined ? {} : { backend_domname: backendDomname }),
    backend_type: backendType,
    ...(uniqueId === undefined ? {} : { unique_id: uniqueId }),
    ...Object.fromEntries(entries),
  };
}

// ---- TPMs

export interface Vtpm {
  readonly backendDomname?: string;
  readonly uuid?: string;
}

export function parseVtpmWords(words: readonly string[]): Parsed<Vtpm> {
  let device: Vtpm = {};
  for (const word of words) {
    const [key, value] = pair(word);
    if (key === 'uuid' && value !== undefined) {
      const uuid = parseUuid(value);
      if (uuid === undefined) return { complaint: `Invalid uuid specified (${value})`, exit: 1 };
      device = { ...device, uuid };
    } else if (key === 'backend' && value !== undefined) {
      device = { ...device, backendDomname: value };
    } else return { complaint: `unrecognized argument \`${word}'`, exit: 1 };
  }
  return { device };
}

export function vtpmJson({ backendDomname, uuid }: Vtpm): JsonObject {
  return {
    ...(backendDomname === undefined ? {} : { backend_domname: backendDomname }),
    ...(uuid === undefined ? {} : { uuid }),
  };
}

// ---- Displays

export interface Connector {
  readonly uniqueId: string;
  readonly width: number;
  readonly height: number;
}

export interface Vdispl {
  readonly backendDomname?: string;
  readonly beAlloc: boolean;
  readonly connectors: readonly Connector[];
}

export function parseVdisplWords(words: readonly string[]): Parsed<Vdispl> & { readonly said?: readonly string[] } {
  let device: Vdispl = { beAlloc: false, connectors: [] };
  const said: string[] = [];
  for (const word of words) {
    const [key, value] = pair(word);
    if (value !== undefined && key === 'backend') device = { ...device, backendDomname: value };
    else if (value !== undefined && key === 'be-alloc') device = { ...device, beAlloc: asUint32(value) !== 0 };
    else if (value !== undefined && key === 'connectors') {
      const read = parseConnectors(value);
      if (read.exit !== 0) return { complaint: read.complaint, exit: read.exit };
      if (read.complaint) said.push(read.complaint);
      device = { ...device, connectors: read.connectors };
    } else return { complaint: `Unknown string "${word}" in vdispl spec`, exit: 1 };
  }
  if (device.connectors.length === 0) return { complaint: 'At least one connector should be specified.', exit: failed };
  return { device, said };
}

/**
 * `ID:WIDTHxHEIGHT;...`. Without a number at all xl complains, leaves the rest of the list empty and goes on; with a
 * width alone it ends. What has no two parts it reads through a pointer to nowhere.
 */
function parseConnectors(text: string): { connectors: readonly Connector[]; complaint: string; exit: number } {
  const specs = strtok(text, ';');
  const connectors = specs.map((): Connector => ({ uniqueId: '', width: 0, height: 0 }));
  if (specs.length === 0) return { connectors, complaint: '', exit: killedBy.segv };
  const complaint = "Can't parse connector resolution";
  for (const [index, spec] of specs.entries()) {
    const [id, resolution] = strtok(spec, ':');
    if (id === undefined || resolution === undefined) return { connectors, complaint: '', exit: killedBy.segv };
    const width = scanNumber(resolution, 10);
    const height = width?.rest.startsWith('x') ? scanNumber(width.rest.slice(1), 10) : undefined;
    connectors[index] = {
      uniqueId: id,
      width: Number(BigInt.asUintN(32, width?.value ?? 0n)),
      height: Number(BigInt.asUintN(32, height?.value ?? 0n)),
    };
    if (!width) return { connectors, complaint, exit: 0 };
    if (!height) return { connectors, complaint, exit: 1 };
  }
  return { connectors, complaint: '', exit: 0 };
}

export function vdisplJson({ backendDomname, beAlloc, connectors }: Vdispl): JsonObject {
  return {
    ...(backendDomname === undefined ? {} : { backend_domname: backendDomname }),
    ...(beAlloc ? { be_alloc: true } : {}),
    connectors: connectors.map(({ uniqueId, width, height }) => ({
      ...(uniqueId === '' ? {} : { unique_id: uniqueId }),
      ...(width === 0 ? {} : { width }),
      ...(height === 0 ? {} : { height }),
    })),
  };
}

// ---- USB

export interface Usbctrl {
  readonly type: UsbctrlType;
  readonly version: number;
  readonly ports: number;
}

export function parseUsbctrlWords(words: readonly string[]): Parsed<Usbctrl> {
  let device: Usbctrl = { type: 'auto', version: 0, ports: 0 };
  for (const word of words) {
    const [key, value] = pair(word);
    if (value !== undefined && key === 'type') {
      const type = (['auto', 'pv', 'devicemodel', 'qusb'] as const).find((name) => name === value.toLowerCase());
      if (!type) return { complaint: `Invalid usb controller type '${value}'`, exit: 1 };
      device = { ...device, type };
    } else if (value !== undefined && (key === 'version' || key === 'ports')) device = { ...device, [key]: atoi(value) };
    else return { complaint: `Unknown string \`${word}' in usbctrl spec`, exit: 1 };
  }
  return { device };
}

export interface Usbdev {
  readonly hostbus: number;
  readonly hostaddr: number;
  /** -1: whichever has a port left. */
  readonly ctrl: number;
  readonly port: number;
}

export function parseUsbdevWords(words: readonly string[]): Parsed<Usbdev> {
  let device: Usbdev = { hostbus: 0, hostaddr: 0, ctrl: -1, port: 0 };
  for (const word of words) {
    const [key, value] = pair(word);
    if (value === undefined) return unknownUsbdev(word);
    if (key === 'type') {
      // xl names what getopt saw last, which is nothing.
      if (value.toLowerCase() !== 'hostdev') return { complaint: 'Invalid usb device type: (null)', exit: 1 };
    } else if (key === 'hostbus' || key === 'hostaddr') device = { ...device, [key]: asUint32(value) & 0xff };
    else if (key === 'controller') device = { ...device, ctrl: atoi(value) };
    else if (key === 'port') device = { ...device, port: atoi(value) };
    else return unknownUsbdev(word);
  }
  return { device };
}

function unknownUsbdev(word: string): Parsed<Usbdev> {
  return { complaint: `Unknown string \`${word}' in usbdev spec`, exit: 1 };
}
