/**
 * What a config asks for and this dom0 does not model: said when a domain is to be made of it, never in a dry run.
 */
import { type DomainConfig, type OtherDeviceList, otherDeviceLists } from './domain-config.js';
import { type CfgReader, hasKey } from './xl-cfg.js';

/** The keys of the device lists that have no model, to name them to the user. */
const deviceKeys: Readonly<Record<OtherDeviceList, string>> = {
  pcidevs: 'pci',
  dtdevs: 'dtdev',
  vfbs: 'vfb',
  vkbs: 'vkb',
  vtpms: 'vtpm',
  p9s: 'p9',
  pvcallsifs: 'pvcalls',
  vdispls: 'vdispl',
  vsnds: 'vsnd',
  channels: 'channel',
  usbctrls: 'usbctrl',
  usbdevs: 'usbdev',
};

/** Why `key` is of no use in this dom0; undefined if it is. */
export function useless(key: string): string | undefined {
  if (effectless.includes(key)) return `'${key}' is not modelled and has no effect`;
  return Object.values(deviceKeys).includes(key) ? `'${key}' is not modelled: no domain can be created with it here` : undefined;
}

/** One line for each kind of device that no domain here can have. A guest that Xen itself refuses is left to libxl. */
export function refusals(config: DomainConfig): readonly string[] {
  return otherDeviceLists
    .filter((list) => (config[list]?.length ?? 0) > 0)
    .filter((list) => list !== 'vkbs' || (config.vfbs?.length ?? 0) === 0)
    .map((list) => `xl: ${deviceKeys[list]}= is not modelled yet; remove it, or use -n to see the configuration alone`);
}

/** Keys of which nothing follows here. */
const effectless = ['ioports', 'irqs', 'iomem', 'cpuid', 'vnuma'];

/** What the user asked for and will not get. Defaults are passed over in silence. */
export function notices(reader: CfgReader, config: DomainConfig): readonly string[] {
  const lines: string[] = [];
  if (config.cInfo.runHotplugScripts === false) {
    lines.push('xl: warning: run_hotplug_scripts=0 of xl.conf is not modelled; xl runs the scripts');
  }
  for (const key of effectless) {
    if (hasKey(reader, key)) lines.push(`xl: warning: ${key}= is not modelled and has no effect`);
  }
  return lines;
}
