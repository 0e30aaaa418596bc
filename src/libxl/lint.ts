/**
 * `xl create --lint`: what a reader of a config file should know about it, beyond what xl says when it creates a domain.
 *
 * xl passes over keys that it does not know, and of two settings takes the later one in silence. Here both are findings,
 * as are all of xl's own complaints; each has the place in the text that it is about.
 */
import { type ParseOptions, readParsed } from './config.js';
import { useless } from './unmodelled.js';
import { type CfgReader, type Position, parseXlCfg, type Setting } from './xl-cfg.js';

export interface Finding extends Position {
  readonly message: string;
}

/** The findings of a config, in the order of the text. */
export function lintConfig(text: string, source: string, options: ParseOptions): readonly Finding[] {
  const cfg = parseXlCfg(text, source);
  if (cfg.diagnostics.length > 0) return sorted(cfg.diagnostics.map(({ at, what }) => ({ ...at, message: what })));
  const { parsed, reader } = readParsed(cfg, source, options);
  const findings = [...said(reader, source, parsed.exit, parsed.stderr), ...hidden(cfg.settings), ...unknown(cfg.settings)];
  for (const setting of reader.settings.values()) {
    const why = useless(setting.name);
    if (why !== undefined) findings.push({ ...setting.at, message: why });
  }
  if (parsed.config) {
    const asked = new Set(reader.asked.map(({ key }) => key));
    for (const { name, at } of reader.settings.values()) {
      if (!knownKeys.has(name) || asked.has(name)) continue;
      findings.push({ ...at, message: `'${name}' is ignored for a guest of type ${parsed.config.cInfo.type}` });
    }
  }
  return sorted(findings);
}

function sorted(findings: readonly Finding[]): readonly Finding[] {
  const byMessage = (a: Finding, b: Finding) => (a.message < b.message ? -1 : a.message > b.message ? 1 : 0);
  return [...findings].sort((a, b) => a.line - b.line || a.column - b.column || byMessage(a, b));
}

/** What xl says, each at the key that it had asked for last: xl reads one key after another and complains at once. */
function said(reader: CfgReader, source: string, exit: number, stderr: string): Finding[] {
  const findings: Finding[] = [];
  for (const [index, line] of reader.lines.entries()) {
    for (const text of [reader.unended.get(index), line]) {
      if (text !== undefined) findings.push({ ...placeOf(reader, index, text), message: withoutPlace(text, source) });
    }
  }
  const unended = reader.unended.get(reader.lines.length);
  if (unended !== undefined) findings.push({ ...placeOf(reader, reader.lines.length, unended), message: unended });
  if (exit === 0) return findings;
  const dies =
    exit > 128 ? `xl dies of signal ${exit - 128} here` : stderr === '' ? `xl gives up here without a word` : undefined;
  if (dies !== undefined) findings.push({ ...placeOf(reader, reader.lines.length, dies), message: dies });
  return findings;
}

const start: Position = { line: 1, column: 1 };

function placeOf(reader: CfgReader, index: number, text: string): Position {
  const mentioned = new Set(text.split(/[^a-z0-9_.]+/));
  const last = reader.settings.get(reader.asked.findLast(({ said }) => said <= index)?.key ?? '');
  const named = [...reader.settings.values()].find(({ name }) => mentioned.has(name));
  const setting = last && mentioned.has(last.name) ? last : (named ?? last);
  return setting && text !== 'Domain name must be specified.' ? setting.at : start;
}

function withoutPlace(line: string, source: string): string {
  if (!line.startsWith(`${source}:`)) return line;
  return line.slice(source.length).replace(/^:(?:\d+:)*(?: warning:)? /, '');
}

/** Settings that a later one of the same name hides. */
function hidden(settings: readonly Setting[]): Finding[] {
  const later = new Map<string, Setting>();
  const findings: Finding[] = [];
  for (const setting of settings.toReversed()) {
    const hiding = later.get(setting.name);
    if (hiding?.op === '=') {
      const where = `line ${hiding.at.line}`;
      findings.push({ ...setting.at, message: `'${setting.name}' is set again in ${where}, and this value is lost` });
    }
    later.set(setting.name, setting);
  }
  return findings;
}

/** Keys that xl never looks up: mistyped ones mostly. */
function unknown(settings: readonly Setting[]): Finding[] {
  return settings.flatMap(({ name, at }) => {
    if (knownKeys.has(name)) return [];
    const newer = newerKeys.has(name) ? `'${name}' is a key of a newer Xen, which xl of 4.17 ignores` : undefined;
    const near = nearest(name);
    const hint = near === undefined ? '' : `; did you mean '${near}'?`;
    return [{ ...at, message: newer ?? `unknown key '${name}' is ignored${hint}` }];
  });
}

/** The known key that is the fewest changes away, if a slip of the finger can explain them. */
function nearest(name: string): string | undefined {
  const most = name.length < 5 ? 1 : 2;
  let best: { readonly key: string; readonly changes: number } | undefined;
  for (const key of knownKeys) {
    if (Math.abs(key.length - name.length) > most) continue;
    const changes = changesBetween(name, key);
    if (changes <= most && changes < (best?.changes ?? Number.POSITIVE_INFINITY)) best = { key, changes };
  }
  return best?.key;
}

/** Letters to insert, drop, replace, or swap with their neighbour. */
function changesBetween(from: string, to: string): number {
  const rows = [Array.from({ length: to.length + 1 }, (_, at) => at)];
  for (let row = 1; row <= from.length; row++) {
    const line = [row];
    const [above = [], before = []] = [rows[row - 1], rows[row - 2]];
    for (let column = 1; column <= to.length; column++) {
      const same = from[row - 1] === to[column - 1] ? 0 : 1;
      let least = Math.min((above[column] ?? 0) + 1, (line[column - 1] ?? 0) + 1, (above[column - 1] ?? 0) + same);
      if (row > 1 && column > 1 && from[row - 1] === to[column - 2] && from[row - 2] === to[column - 1]) {
        least = Math.min(least, (before[column - 2] ?? 0) + 1);
      }
      line.push(least);
    }
    rows.push(line);
  }
  return rows.at(-1)?.at(-1) ?? 0;
}

const words = (text: string) => new Set(text.split(/\s+/).filter((word) => word !== ''));

/** All that xl of 4.17 looks up, for any type of guest. */
export const knownKeys: ReadonlySet<string> = words(`
  init_seclabel seclabel type builder hap name uuid oos pool pvshim pvshim_path pvshim_cmdline pvshim_extra cpu_weight cap
  period slice latency extratime memory maxmem vcpus maxvcpus vuart vnuma cpus cpus_soft max_grant_frames
  max_maptrack_frames max_grant_version on_poweroff on_reboot on_watchdog on_crash on_soft_reset e820_host
  pci_msitranslate pci_power_mgmt pci_permissive pci_seize rdm pci dtdev passthrough shadow_memory nomigrate tsc_mode
  rtc_timeoffset vncviewer localtime videoram max_event_channels kernel ramdisk device_tree cmdline root extra
  driver_domain acpi bootloader bootloader_args timer_mode nestedhvm firmware_override bios_path_override bios pae
  acpi_s3 acpi_s4 acpi_laptop_slate nx hpet vpt_align apic viridian mmio_hole altp2mhvm smbios_firmware acpi_firmware
  ms_vm_genid rdm_mem_boundary mca_caps firmware altp2m vmtrace_buf_kb ioports irqs iomem disk p9 vtpm vdispl pvcalls
  vsnd channel vif vif2 vfb usbctrl usbdev cpuid device_model device_model_override device_model_version
  device_model_stubdomain_override device_model_stubdomain_seclabel device_model_user stubdomain_kernel
  stubdomain_cmdline stubdomain_ramdisk stubdomain_memory device_model_args device_model_args_pv device_model_args_hvm
  vnc vnclisten vncpasswd vncdisplay vncunused sdl opengl display xauthority keymap dm_restrict vga stdvga hdtype spice
  spiceport spicetls_port spicehost spicedisable_ticketing spicepasswd spiceagent_mouse spicevdagent
  spice_clipboard_sharing spiceusbredirection spice_image_compression spice_streaming_video nographic gfx_passthru
  serial boot usb usbversion usbdevice vkb_device soundhw xen_platform_pci vendor_device gic_version tee vkb
  xend_suspend_evtchn_compat msr_relaxed vpmu
`);

/** What later releases of xl have added. */
const newerKeys: ReadonlySet<string> = words(`
  virtio llc_colors altp2m_count bootloader_restrict bootloader_user nr_spis trap_unmapped_accesses arm_sci sve
  xen_platform_pci_bar_uc hvm_pirq smbios xenstore_feature_mask xenstore_quota
`);
