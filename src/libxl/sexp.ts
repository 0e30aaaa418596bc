/**
 * The config of a domain as xl prints it with `output_format="sxp"`: what xend's readers were used to, and no more.
 *
 * xl never extended it, so only some fields are there, in xl's own order (`xl_sxp.c`).
 */
import type { DomainConfig } from './domain-config.js';
import type { JsonObject, JsonValue } from './json.js';

/** The text of a domain that is not there yet: with domid -1 and no uuid. A PVH guest is more than xl can say; it stops at its image. */
export function configToSexp(config: DomainConfig): { readonly text: string; readonly error?: string } {
  const { cInfo, bInfo, disks, nics } = config;
  const lines = [
    '(domain',
    '\t(domid -1)',
    '\t(create_info)',
    `\t(hvm ${cInfo.type === 'hvm' ? 1 : 0})`,
    `\t(hap ${defbool(cInfo.hap)})`,
    `\t(oos ${defbool(cInfo.oos)})`,
    '\t(ssidref 0)',
    `\t(name ${cInfo.name})`,
    '\t(uuid <unknown>)',
    ...(cInfo.poolName === undefined ? [] : [`\t(cpupool ${cInfo.poolName})`]),
    '\t(xsdata (null))',
    '\t(platformdata (null))',
    '\t(build_info)',
    `\t(max_vcpus ${bInfo.maxVcpus})`,
    `\t(max_grant_frames ${bInfo.maxGrantFrames ?? -1})`,
    `\t(max_maptrack_frames ${bInfo.maxMaptrackFrames ?? -1})`,
    `\t(tsc_mode ${bInfo.tscMode ?? 'default'})`,
    `\t(max_memkb ${bInfo.maxMemkb ?? -1})`,
    `\t(target_memkb ${bInfo.targetMemkb ?? -1})`,
    `\t(nomigrate ${defbool(bInfo.disableMigrate)})`,
  ];
  if (cInfo.type === 'pv' && bInfo.bootloader !== undefined) {
    lines.push(`\t(bootloader ${bInfo.bootloader})`);
    if (bInfo.bootloaderArgs) lines.push(`\t(bootloader_args${bInfo.bootloaderArgs.map((word) => ` ${word}`).join('')})`);
  }
  lines.push('\t(image');
  if (cInfo.type === 'pvh') return { text: `${lines.join('\n')}\n`, error: 'Unknown domain type 3' };
  lines.push(...imageLines(config), '\t)');
  for (const disk of disks) {
    lines.push(
      '\t(device',
      '\t\t(tap',
      `\t\t\t(backend_domid ${disk.backendDomid ?? 0})`,
      '\t\t\t(frontend_domid -1)',
      `\t\t\t(physpath ${text(disk.pdevPath)})`,
      `\t\t\t(phystype ${phystypes.indexOf(disk.backend ?? 'unknown')})`,
      `\t\t\t(virtpath ${text(disk.vdev)})`,
      `\t\t\t(unpluggable ${disk.removable ? 1 : 0})`,
      `\t\t\t(readwrite ${disk.readwrite ? 1 : 0})`,
      `\t\t\t(is_cdrom ${disk.isCdrom ? 1 : 0})`,
      '\t\t)',
      '\t)',
    );
  }
  for (const nic of nics) {
    lines.push(
      '\t(device',
      '\t\t(vif',
      ...(nic.ifname === undefined ? [] : [`\t\t\t(vifname ${nic.ifname})`]),
      `\t\t\t(backend_domid ${nic.backendDomid ?? 0})`,
      '\t\t\t(frontend_domid -1)',
      `\t\t\t(devid ${nic.devid ?? -1})`,
      `\t\t\t(mtu ${nic.mtu ?? 0})`,
      `\t\t\t(model ${text(nic.model)})`,
      `\t\t\t(mac ${(nic.mac ?? '00:00:00:00:00:00').replaceAll(':', '')})`,
      '\t\t)',
      '\t)',
    );
  }
  for (const pci of config.pcidevs ?? []) lines.push(...pciLines(pci));
  for (const vfb of config.vfbs ?? []) lines.push(...vfbLines(vfb));
  return { text: `${lines.join('\n')}\n)\n` };
}

const phystypes = ['unknown', 'phy', 'tap', 'qdisk', 'standalone'];

function defbool(value: boolean | undefined): string {
  return value === undefined ? '<default>' : value ? 'True' : 'False';
}

/** A string as C's printf has it. */
function text(value: JsonValue | undefined): string {
  return value === undefined ? '(null)' : String(value);
}

function imageLines(config: DomainConfig): string[] {
  const { cInfo, bInfo } = config;
  if (cInfo.type === 'pv') {
    return [
      '\t\t(linux 0)',
      `\t\t\t(kernel ${text(bInfo.kernel)})`,
      `\t\t\t(cmdline ${text(bInfo.cmdline)})`,
      `\t\t\t(ramdisk ${text(bInfo.ramdisk)})`,
      `\t\t\t(e820_host ${defbool(bInfo.pv?.e820Host)})`,
      '\t\t)',
    ];
  }
  const hvm = bInfo.hvm ?? {};
  const [vga, vnc, sdl, spice] = ['vga', 'vnc', 'sdl', 'spice'].map((name) => object(hvm[name])) as [
    JsonObject,
    JsonObject,
    JsonObject,
    JsonObject,
  ];
  const flag = (value: JsonValue | undefined) => value ?? '<default>';
  return [
    '\t\t(hvm',
    ...[
      `(firmware ${text(hvm['firmware'])})`,
      `(video_memkb ${bInfo.videoMemkb ?? -1})`,
      `(shadow_memkb ${bInfo.shadowMemkb ?? -1})`,
      `(pae ${flag(hvm['pae'])})`,
      `(apic ${defbool(bInfo.apic)})`,
      // xl looks where the key acpi= has not been put for long.
      '(acpi <default>)',
      `(nx ${flag(hvm['nx'])})`,
      `(viridian ${flag(hvm['viridian'])})`,
      `(hpet ${flag(hvm['hpet'])})`,
      `(vpt_align ${flag(hvm['vpt_align'])})`,
      `(timer_mode ${bInfo.timerMode ?? 'unknown'})`,
      `(nestedhvm ${defbool(bInfo.nestedHvm)})`,
      `(stdvga ${vga['kind'] === 'std' ? 'True' : 'False'})`,
      `(vnc ${flag(vnc['enable'])})`,
      `(vnclisten ${text(vnc['listen'])})`,
      `(vncdisplay ${vnc['display'] ?? 0})`,
      `(vncunused ${flag(vnc['findunused'])})`,
      `(keymap ${text(hvm['keymap'])})`,
      `(sdl ${flag(sdl['enable'])})`,
      `(opengl ${flag(sdl['opengl'])})`,
      `(nographic ${flag(hvm['nographic'])})`,
      `(spice ${flag(spice['enable'])})`,
      `(spiceport ${spice['port'] ?? 0})`,
      `(spicetls_port ${spice['tls_port'] ?? 0})`,
      `(spicehost ${text(spice['host'])})`,
      `(spicedisable_ticketing ${flag(spice['disable_ticketing'])})`,
      `(spiceagent_mouse ${flag(spice['agent_mouse'])})`,
      `(device_model ${bInfo.deviceModel ?? 'default'})`,
      `(gfx_passthru ${flag(hvm['gfx_passthru'])})`,
      `(serial ${text(hvm['serial'])})`,
      `(boot ${text(hvm['boot'])})`,
      `(usb ${flag(hvm['usb'])})`,
      `(usbdevice ${text(hvm['usbdevice'])})`,
      `(vkb_device ${flag(hvm['vkb_device'])})`,
    ].map((line) => `\t\t\t${line}`),
    '\t\t)',
  ];
}

function object(value: JsonValue | undefined): JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as JsonObject) : {};
}

function pciLines(pci: JsonObject): string[] {
  const hex = (name: string, digits: number) =>
    Number(pci[name] ?? 0)
      .toString(16)
      .padStart(digits, '0');
  const address = `${hex('domain', 4)}:${hex('bus', 2)}:${hex('dev', 2)}.${hex('func', 1)}@${hex('vdevfn', 2)}`;
  const flag = (name: string) => (pci[name] === true ? 1 : 0);
  return [
    '\t(device',
    '\t\t(pci',
    `\t\t\t(pci dev ${address})`,
    `\t\t\t(opts msitranslate ${flag('msitranslate')} power_mgmt ${flag('power_mgmt')})`,
    '\t\t)',
    '\t)',
  ];
}

function vfbLines(vfb: JsonObject): string[] {
  const [vnc, sdl] = [object(vfb['vnc']), object(vfb['sdl'])];
  return [
    '\t(device',
    '\t\t(vfb',
    '\t\t\t(backend_domid 0)',
    '\t\t\t(frontend_domid -1)',
    `\t\t\t(devid ${text(vfb['devid'])})`,
    `\t\t\t(vnc ${vnc['enable'] ?? '<default>'})`,
    `\t\t\t(vnclisten ${text(vnc['listen'])})`,
    `\t\t\t(vncdisplay ${vnc['display'] ?? 0})`,
    `\t\t\t(vncunused ${vnc['findunused'] ?? '<default>'})`,
    `\t\t\t(keymap ${text(vfb['keymap'])})`,
    `\t\t\t(sdl ${sdl['enable'] ?? '<default>'})`,
    `\t\t\t(opengl ${sdl['opengl'] ?? '<default>'})`,
    `\t\t\t(display ${text(sdl['display'])})`,
    `\t\t\t(xauthority ${text(sdl['xauthority'])})`,
    '\t\t)',
    '\t)',
  ];
}
