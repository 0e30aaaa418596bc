/**
 * libxl's JSON of a domain config, byte for byte as yajl prints it in Xen 4.17: for `xl create -n`, `xl list -l` and the
 * userdata that outlives a command. And back again, for what was written here.
 *
 * One table per struct says which fields there are, in the order of the IDL (`libxl_types.idl`), and both directions
 * follow it. A field is printed when it is set to something else than its default; a struct always, even an empty one.
 */

import type { Disk } from './disk.js';
import { type DomainConfig, otherDeviceLists } from './domain-config.js';
import type { Nic } from './nic.js';

/** A bigint where libxl has 64 bits that a double does not hold. */
export type JsonValue = null | boolean | number | bigint | string | readonly JsonValue[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: JsonValue;
}

/** The JSON of a domain config, with the newline at its end. */
export function toJson(config: DomainConfig): string {
  return yajl(configToJson(config));
}

export function configToJson(config: DomainConfig): JsonObject {
  return encode(configFields, config);
}

/** The JSON of a disk, as `xl -N block-attach` prints it. */
export function diskToJson(disk: Disk): JsonObject {
  return encode(diskFields, disk);
}

/** The JSON of a network interface, as `xl -N network-attach` prints it. */
export function nicToJson(nic: Nic): JsonObject {
  return encode(nicFields, nic);
}

/** Reads back what `toJson` wrote. The text may carry the NUL that ends libxl's userdata. */
export function fromJson(text: string): DomainConfig {
  const json: JsonValue = JSON.parse(text.replace(/\0$/, '').replace(longNumber, '"\\u0000$1"'), reviveLong);
  if (!isObject(json)) throw new Error('a domain config is a JSON object');
  // The tables below name the fields of DomainConfig and give those that it requires a value.
  return decode(configFields, json) as unknown as DomainConfig;
}

/** A number on its line of yajl's that may be too long for a double. No string has a line's end in it, nor a NUL. */
const longNumber = /(?<=^(?: *| *"[^"]*": ))(\d{16,})(?=,?$)/gm;

function reviveLong(_key: string, value: JsonValue): JsonValue {
  if (typeof value !== 'string' || !value.startsWith('\0') || !/^\0\d+$/.test(value)) return value;
  const number = BigInt(value.slice(1));
  return number <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(number) : number;
}

/** KiB as JSON has them: those of the upper half of 64 bits are kept negative, and printed as what they are. */
export function memkbJson(memkb: number | undefined): number | bigint | undefined {
  if (memkb === undefined || Number.isSafeInteger(memkb) === false || memkb < 0) {
    return memkb === undefined ? undefined : BigInt.asUintN(64, BigInt(memkb));
  }
  return memkb;
}

// ---- How it is printed

/** A value as yajl's `beautify` prints it: four blanks a level, every item on a line of its own, a newline at the end. */
export function yajl(value: JsonValue): string {
  return `${print(value, '')}\n`;
}

function print(value: JsonValue, indent: string): string {
  if (typeof value === 'string') return quote(value);
  if (value === null || typeof value !== 'object') return String(value);
  const inner = `${indent}    `;
  const [open, close] = isList(value) ? ['[', ']'] : ['{', '}'];
  const items = isList(value)
    ? value.map((item) => inner + print(item, inner))
    : Object.entries(value).map(([key, item]) => `${inner}${quote(key)}: ${print(item, inner)}`);
  return `${open}\n${items.join(',\n')}\n${indent}${close}`;
}

const shortEscapes: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\b': '\\b',
  '\f': '\\f',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
};

function quote(text: string): string {
  const escaped = (char: string) => shortEscapes[char] ?? `\\u${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
  return `"${text.replace(/["\\\x00-\x1f]/g, escaped)}"`;
}

function isList(value: JsonValue): value is readonly JsonValue[] {
  return Array.isArray(value);
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !isList(value);
}

// ---- The tables

type Coding =
  /** A number, string, enumeration or list as it is. */
  | { readonly kind: 'plain' }
  /** A boolean that C keeps in an int. */
  | { readonly kind: 'int' }
  /** KiB in 64 bits. */
  | { readonly kind: 'memkb' }
  /** `true`, or nothing. */
  | { readonly kind: 'bool' }
  /** `"True"`, `"False"`, or nothing for the default. */
  | { readonly kind: 'defbool' }
  | { readonly kind: 'struct'; readonly fields: readonly Field[] }
  | { readonly kind: 'structs'; readonly fields: readonly Field[] }
  /** The `colo_...` strings of an interface, side by side with its other fields. */
  | { readonly kind: 'colo' };

interface Field {
  readonly name: string;
  /** The name in camel case, but for the arms of a union. */
  readonly property: string;
  readonly coding: Coding;
  /** The value that is not printed. */
  readonly init?: JsonValue;
  /** What a config without the field has, where it must have something. */
  readonly fallback?: JsonValue;
}

function field(name: string, coding: Coding, more: Partial<Field> = {}): Field {
  return { name, property: name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase()), coding, ...more };
}

/** Several fields of one kind that have nothing to add. */
function plain(...names: readonly string[]): Field[] {
  return names.map((name) => field(name, { kind: 'plain' }));
}

function count(...names: readonly string[]): Field[] {
  return names.map((name) => field(name, { kind: 'plain' }, { init: 0 }));
}

function defbool(...names: readonly string[]): Field[] {
  return names.map((name) => field(name, { kind: 'defbool' }));
}

function int(...names: readonly string[]): Field[] {
  return names.map((name) => field(name, { kind: 'int' }));
}

function struct(name: string, fields: readonly Field[], property?: string): Field {
  return field(name, { kind: 'struct', fields }, property ? { property } : {});
}

function action(name: string): Field {
  return field(name, { kind: 'plain' }, { init: 'destroy', fallback: 'destroy' });
}

function memkb(...names: readonly string[]): Field[] {
  return names.map((name) => field(name, { kind: 'memkb' }));
}

/** Numbers that are -1 until somebody sets them. */
function countFromMinusOne(...names: readonly string[]): Field[] {
  return names.map((name) => field(name, { kind: 'plain' }, { init: -1 }));
}

const diskFields: readonly Field[] = [
  ...count('backend_domid'),
  ...plain('backend_domname', 'pdev_path', 'vdev', 'backend', 'format', 'script'),
  ...int('removable', 'readwrite', 'is_cdrom'),
  field('direct_io_safe', { kind: 'bool' }),
  ...defbool('discard_enable'),
  ...plain('specification'),
  ...defbool('colo_enable', 'colo_restore_enable'),
  ...plain('colo_host'),
  ...count('colo_port'),
  ...plain('colo_export', 'active_disk', 'hidden_disk'),
  ...defbool('trusted'),
];

const nicFields: readonly Field[] = [
  ...count('backend_domid'),
  ...plain('backend_domname'),
  ...countFromMinusOne('devid'),
  ...count('mtu'),
  ...plain('model', 'mac', 'ip', 'bridge', 'ifname', 'script', 'nictype'),
  ...count('rate_bytes_per_interval', 'rate_interval_usecs'),
  ...plain('gatewaydev', 'coloft_forwarddev'),
  field('colo', { kind: 'colo' }),
  ...defbool('trusted'),
];

const createInfoFields: readonly Field[] = [
  ...plain('type'),
  ...defbool('hap', 'oos'),
  ...plain('ssid_label'),
  field('name', { kind: 'plain' }, { fallback: '' }),
  ...plain('domid'),
  field(
    'uuid',
    { kind: 'plain' },
    { init: '00000000-0000-0000-0000-000000000000', fallback: '00000000-0000-0000-0000-000000000000' },
  ),
  ...plain('pool_name'),
  ...defbool('run_hotplug_scripts', 'driver_domain'),
  ...plain('passthrough'),
  ...defbool('xend_suspend_evtchn_compat'),
];

const schedParamsFields: readonly Field[] = [
  ...plain('sched'),
  ...countFromMinusOne('weight', 'cap', 'period', 'budget', 'extratime', 'slice', 'latency'),
];

const buildInfoFields: readonly Field[] = [
  field('max_vcpus', { kind: 'plain' }, { init: 0, fallback: 0 }),
  field('avail_vcpus', { kind: 'plain' }, { init: [], fallback: [] }),
  field('vcpu_hard_affinity', { kind: 'plain' }, { init: [] }),
  field('vcpu_soft_affinity', { kind: 'plain' }, { init: [] }),
  ...defbool('numa_placement'),
  field('tsc_mode', { kind: 'plain' }, { init: 'default' }),
  ...memkb('max_memkb', 'target_memkb', 'video_memkb', 'shadow_memkb'),
  ...count('rtc_timeoffset'),
  ...plain('exec_ssid_label'),
  ...defbool('localtime', 'disable_migrate'),
  ...plain('cpuid', 'blkdev_start', 'vnuma_nodes'),
  ...plain('max_grant_frames', 'max_maptrack_frames', 'max_grant_version', 'device_model_version'),
  ...defbool('device_model_stubdomain'),
  ...memkb('stubdomain_memkb'),
  ...plain('stubdomain_kernel', 'stubdomain_cmdline', 'stubdomain_ramdisk', 'device_model'),
  ...plain('device_model_ssid_label', 'device_model_user'),
  ...['extra', 'extra_pv', 'extra_hvm'].map((name) => field(name, { kind: 'plain' }, { init: [] })),
  struct('sched_params', schedParamsFields),
  field('ioports', { kind: 'structs', fields: count('first', 'number') }, { init: [] }),
  field('irqs', { kind: 'plain' }, { init: [] }),
  field('iomem', { kind: 'structs', fields: [...count('start', 'number'), ...plain('gfn')] }, { init: [] }),
  ...defbool('claim_mode'),
  ...count('event_channels'),
  ...plain('kernel', 'cmdline', 'ramdisk', 'device_tree'),
  ...defbool('acpi'),
  ...plain('bootloader'),
  field('bootloader_args', { kind: 'plain' }, { init: [] }),
  ...plain('timer_mode'),
  ...defbool('nested_hvm', 'apic', 'dm_restrict'),
  field('tee', { kind: 'plain' }, { init: 'none' }),
  field('type.pv', { kind: 'struct', fields: defbool('e820_host') }, { property: 'pv' }),
  field('type.pvh', { kind: 'plain' }, { property: 'pvh' }),
  field('type.hvm', { kind: 'plain' }, { property: 'hvm' }),
  struct('arch_arm', [field('gic_version', { kind: 'plain' }, { init: 'default' }), ...plain('vuart')]),
  struct('arch_x86', defbool('msr_relaxed')),
  field('altp2m', { kind: 'plain' }, { init: 'disabled' }),
  ...count('vmtrace_buf_kb'),
  ...defbool('vpmu'),
];

const configFields: readonly Field[] = [
  struct('c_info', createInfoFields),
  struct('b_info', buildInfoFields),
  field('disks', { kind: 'structs', fields: diskFields }, { init: [], fallback: [] }),
  field('nics', { kind: 'structs', fields: nicFields }, { init: [], fallback: [] }),
  ...otherDeviceLists.map((name) => field(name, { kind: 'plain' }, { init: [] })),
  action('on_poweroff'),
  action('on_reboot'),
  action('on_watchdog'),
  action('on_crash'),
  action('on_soft_reset'),
];

// ---- Both directions

/** The fields of `value` that are worth printing. */
function encode(fields: readonly Field[], value: object): JsonObject {
  const record = value as Readonly<Record<string, JsonValue | undefined>>;
  const json: Record<string, JsonValue> = {};
  for (const { name, property, coding, init } of fields) {
    const item = record[property];
    if (item === undefined || isInit(item, init)) continue;
    if (coding.kind === 'colo') {
      Object.assign(json, item);
      continue;
    }
    const encoded = encodeItem(coding, item);
    if (encoded !== undefined) json[name] = encoded;
  }
  return json;
}

function isInit(item: JsonValue, init: JsonValue | undefined): boolean {
  return item === init || (isList(item) && item.length === 0 && init !== undefined && isList(init));
}

function encodeItem(coding: Coding, item: JsonValue): JsonValue | undefined {
  switch (coding.kind) {
    case 'int':
      return item ? 1 : undefined;
    case 'memkb':
      return memkbJson(Number(item));
    case 'bool':
      return item ? true : undefined;
    case 'defbool':
      return item ? 'True' : 'False';
    case 'struct':
      return encode(coding.fields, isObject(item) ? item : {});
    case 'structs':
      return isList(item) ? item.map((each) => encode(coding.fields, isObject(each) ? each : {})) : undefined;
    default:
      return item;
  }
}

function decode(fields: readonly Field[], json: JsonObject): JsonObject {
  const record: Record<string, JsonValue> = {};
  for (const { name, property, coding, fallback } of fields) {
    const item = coding.kind === 'colo' ? coloStrings(json) : json[name];
    const decoded = item === undefined ? undefined : decodeItem(coding, item);
    const value = decoded ?? fallback;
    if (value !== undefined) record[property] = value;
  }
  return record;
}

function decodeItem(coding: Coding, item: JsonValue): JsonValue {
  switch (coding.kind) {
    case 'int':
      return item !== 0;
    case 'memkb':
      return typeof item === 'bigint' ? Number(BigInt.asIntN(64, item)) : item;
    case 'defbool':
      return item === 'True';
    case 'struct':
      return decode(coding.fields, isObject(item) ? item : {});
    case 'structs':
      return isList(item) ? item.map((each) => decode(coding.fields, isObject(each) ? each : {})) : [];
    default:
      return item;
  }
}

function coloStrings(json: JsonObject): JsonObject | undefined {
  const entries = Object.entries(json).filter(([key]) => key.startsWith('colo_'));
  return entries.length > 0 ? Object.fromEntries(entries) : undefined;
}
