/**
 * The keys that only HVM and PVH guests have, as the JSON that xl prints of them and with xl's complaints.
 *
 * No such guest runs here: libxl refuses it on this host, which has neither VMX nor SVM. But a dry run shows it.
 */

import { killedBy } from './c-text.js';
import { type JsonObject, type JsonValue, memkbJson } from './json.js';
import { defboolJson } from './other-devices.js';
import { type CfgReader, getDefbool, getInt, getList, getLong, getMebibytes, getString, getStrings, hasKey } from './xl-cfg.js';
import { exitXl, readName } from './xl-exit.js';

type Fields = Record<string, JsonValue | undefined>;

/** The fields of `"type.hvm"` in the order of the IDL. */
const hvmFields = [
  'firmware',
  'bios',
  'pae',
  'acpi_s3',
  'acpi_s4',
  'acpi_laptop_slate',
  'nx',
  'viridian',
  'viridian_enable',
  'viridian_disable',
  'hpet',
  'vpt_align',
  'mmio_hole_memkb',
  'altp2m',
  'system_firmware',
  'smbios_firmware',
  'acpi_firmware',
  'hdtype',
  'nographic',
  'vga',
  'vnc',
  'keymap',
  'sdl',
  'spice',
  'gfx_passthru',
  'gfx_passthru_kind',
  'serial',
  'boot',
  'usb',
  'usbversion',
  'usbdevice',
  'vkb_device',
  'soundhw',
  'xen_platform_pci',
  'usbdevice_list',
  'vendor_device',
  'ms_vm_genid',
  'serial_list',
  'rdm',
  'rdm_mem_boundary_memkb',
  'mca_caps',
];

export function readPvh(reader: CfgReader): JsonObject {
  return defined({
    pvshim: defboolJson(getDefbool(reader, 'pvshim')),
    pvshim_path: getString(reader, 'pvshim_path'),
    pvshim_cmdline: getString(reader, 'pvshim_cmdline'),
    pvshim_extra: getString(reader, 'pvshim_extra'),
  });
}

const biosTypes = ['unknown', 'rombios', 'seabios', 'ovmf'];

/** What xl reads of an HVM guest right after the boot keys; `randomGenid` makes the 16 bytes of a generation id. */
export function readHvm(
  reader: CfgReader,
  randomGenid: () => readonly number[],
): { readonly fields: Fields; readonly apic?: boolean } {
  const fields: Fields = {};
  fields['firmware'] = getString(reader, 'firmware_override');
  fields['system_firmware'] = getString(reader, 'bios_path_override');
  fields['bios'] = readName(reader, 'bios', biosTypes, (value) => `ERROR: invalid value "${value}" for "bios"`);
  if (fields['bios'] === undefined && fields['system_firmware'] !== undefined) {
    reader.lines.push('WARNING: bios_path_override given without specific bios name');
  }
  for (const key of ['pae', 'acpi_s3', 'acpi_s4', 'acpi_laptop_slate', 'nx', 'hpet', 'vpt_align']) readFlag(reader, fields, key);
  const apic = getDefbool(reader, 'apic');
  readViridian(reader, fields);
  readMmioHole(reader, fields);
  const altp2m = getDefbool(reader, 'altp2mhvm');
  fields['altp2m'] = defboolJson(altp2m);
  if (altp2m !== undefined) reader.lines.push('WARNING: Specifying "altp2mhvm" is deprecated. Please use "altp2m" instead.');
  for (const key of ['smbios_firmware', 'acpi_firmware']) fields[key] = getString(reader, key);
  const genid = getString(reader, 'ms_vm_genid');
  if (genid !== undefined && genid !== 'generate' && genid !== 'none') {
    exitXl(reader, 1, 'ERROR: "ms_vm_genid" option must be "generate" or "none"');
  }
  if (genid === 'generate') fields['ms_vm_genid'] = randomGenid();
  fields['rdm_mem_boundary_memkb'] = memkbJson(getMebibytes(reader, 'rdm_mem_boundary'));
  const capabilities = getList(reader, 'mca_caps', { quiet: true });
  if (!capabilities && hasKey(reader, 'mca_caps')) exitXl(reader, 3, 'ERROR: unable to parse mca_caps.');
  for (const capability of capabilities ?? []) {
    if (capability.kind !== 'string') return exitXl(reader, killedBy.segv);
    if (capability.text !== 'lmce') exitXl(reader, 3, `ERROR: unrecognized MCA capability '${capability.text}'.`);
    fields['mca_caps'] = 1;
  }
  readFirmware(reader, fields);
  if (fields['bios'] === 'unknown') fields['bios'] = undefined;
  return apic === undefined ? { fields } : { fields, apic };
}

/** `firmware` is a name for a BIOS, `uefi` for one of them, `bios` for libxl's choice, or a path. */
function readFirmware(reader: CfgReader, fields: Fields): void {
  const firmware = getString(reader, 'firmware');
  if (firmware === undefined) return;
  const bios = biosTypes.find((name) => name === firmware.toLowerCase());
  if (bios) fields['bios'] = bios;
  else if ('uefi'.startsWith(firmware)) fields['bios'] = 'ovmf';
  else if (!'bios'.startsWith(firmware)) fields['firmware'] = firmware;
}

/** Enlightenments of Windows guests; the JSON has their numbers. */
const enlightenments = [
  'base',
  'freq',
  'time_ref_count',
  'reference_tsc',
  'hcall_remote_tlb_flush',
  'apic_assist',
  'crash_ctl',
  'synic',
  'stimer',
  'hcall_ipi',
  'ex_processor_masks',
  'no_vp_limit',
  'cpu_hotplug',
];

function readViridian(reader: CfgReader, fields: Fields): void {
  const list = getList(reader, 'viridian', { quiet: true });
  if (!list) {
    fields['viridian'] = defboolJson(getDefbool(reader, 'viridian', { quiet: true }));
    return;
  }
  const enabled = new Set<number>();
  const disabled = new Set<number>();
  for (const item of list) {
    if (item.kind !== 'string') exitXl(reader, killedBy.segv);
    const word = item.text;
    if (word === 'defaults') fields['viridian'] = 'True';
    else if (word === 'all') for (let bit = 0; bit < 64; bit++) enabled.add(bit);
    else {
      const name = word.replace(/^!/, '');
      const number = enlightenments.indexOf(name.toLowerCase());
      if (number < 0) exitXl(reader, 3, `xl: unknown viridian enlightenment '${name}'`);
      const [to, from] = word.startsWith('!') ? [disabled, enabled] : [enabled, disabled];
      to.add(number);
      from.delete(number);
    }
  }
  const sorted = (set: ReadonlySet<number>) => (set.size === 0 ? undefined : [...set].sort((a, b) => a - b));
  fields['viridian_enable'] = sorted(enabled);
  fields['viridian_disable'] = sorted(disabled);
}

/** The hole for devices below 4 GiB, in MiB: at least what a guest has anyhow, at most up to where memory begins. */
function readMmioHole(reader: CfgReader, fields: Fields): void {
  const mebibytes = getLong(reader, 'mmio_hole');
  if (mebibytes === undefined) return;
  const bytes = BigInt.asUintN(64, mebibytes << 20n);
  if (bytes < 256n << 20n || bytes > 3840n << 20n) exitXl(reader, 1, `ERROR: invalid value ${mebibytes} for "mmio_hole"`);
  fields['mmio_hole_memkb'] = memkbJson(Number(BigInt.asIntN(64, mebibytes * 1024n)));
}

const vgaKinds: Readonly<Record<string, string>> = { stdvga: 'std', cirrus: 'cirrus', none: 'none', qxl: 'qxl' };

/** What xl reads of an HVM guest after its device model: the whole of `"type.hvm"`. */
export function readHvmDisplay(reader: CfgReader, fields: Fields): JsonObject {
  fields['vga'] = readVga(reader);
  const hdtype = readName(reader, 'hdtype', ['ide', 'ahci'], (value) => `ERROR: invalid value "${value}" for "hdtype"`);
  fields['hdtype'] = hdtype === 'ide' ? undefined : hdtype;
  fields['keymap'] = getString(reader, 'keymap');
  fields['spice'] = readSpice(reader);
  readFlag(reader, fields, 'nographic');
  readGfxPassthru(reader, fields);
  readOneOrMore(reader, fields, 'serial');
  fields['boot'] = getString(reader, 'boot');
  readFlag(reader, fields, 'usb');
  fields['usbversion'] = getInt(reader, 'usbversion') || undefined;
  readOneOrMore(reader, fields, 'usbdevice');
  readFlag(reader, fields, 'vkb_device');
  fields['soundhw'] = getString(reader, 'soundhw');
  readFlag(reader, fields, 'xen_platform_pci');
  if (getString(reader, 'vnclisten', { quiet: true })?.includes(':') && getInt(reader, 'vncdisplay', { quiet: true })) {
    exitXl(reader, 1, 'ERROR: Display specified both in vnclisten and vncdisplay!');
  }
  const complaint = (value: string) => `xl: unknown vendor_device '${value}'`;
  const vendor = readName(reader, 'vendor_device', ['none', 'xenserver'], complaint, 3);
  fields['vendor_device'] = vendor === 'none' ? undefined : vendor;
  return defined(Object.fromEntries(hvmFields.map((name) => [name, fields[name]])));
}

function readVga(reader: CfgReader): JsonObject {
  const name = getString(reader, 'vga');
  if (name !== undefined) {
    const kind = Object.hasOwn(vgaKinds, name) ? vgaKinds[name] : undefined;
    return { kind: kind ?? exitXl(reader, 1, `Unknown vga "${name}" specified`) };
  }
  const standard = getLong(reader, 'stdvga');
  return standard === undefined ? {} : { kind: standard !== 0n ? 'std' : 'cirrus' };
}

function readSpice(reader: CfgReader): JsonObject {
  return defined({
    enable: defboolJson(getDefbool(reader, 'spice')),
    port: getInt(reader, 'spiceport') || undefined,
    tls_port: getInt(reader, 'spicetls_port') || undefined,
    host: getString(reader, 'spicehost'),
    disable_ticketing: defboolJson(getDefbool(reader, 'spicedisable_ticketing')),
    passwd: getString(reader, 'spicepasswd'),
    agent_mouse: defboolJson(getDefbool(reader, 'spiceagent_mouse')),
    vdagent: defboolJson(getDefbool(reader, 'spicevdagent')),
    clipboard_sharing: defboolJson(getDefbool(reader, 'spice_clipboard_sharing')),
    usbredirection: getInt(reader, 'spiceusbredirection') || undefined,
    image_compression: getString(reader, 'spice_image_compression'),
    streaming_video: getString(reader, 'spice_streaming_video'),
  });
}

function readGfxPassthru(reader: CfgReader, fields: Fields): void {
  const flag = getLong(reader, 'gfx_passthru', { quiet: true });
  if (flag !== undefined) {
    fields['gfx_passthru'] = defboolJson(flag !== 0n);
    return;
  }
  const kind = readName(
    reader,
    'gfx_passthru',
    ['default', 'igd'],
    (value) => `ERROR: invalid value "${value}" for "gfx_passthru"`,
  );
  if (kind === undefined) return;
  fields['gfx_passthru'] = 'True';
  fields['gfx_passthru_kind'] = kind === 'default' ? undefined : kind;
}

/** A key that takes a string or a list of strings. */
function readOneOrMore(reader: CfgReader, fields: Fields, key: string): void {
  const list = getStrings(reader, key, { quiet: true });
  if (list) fields[`${key}_list`] = list.length > 0 ? list : undefined;
  else fields[key] = getString(reader, key);
}

function readFlag(reader: CfgReader, fields: Fields, key: string): void {
  fields[key] = defboolJson(getDefbool(reader, key));
}

function defined(fields: Fields): JsonObject {
  return Object.fromEntries(Object.entries(fields).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])));
}
