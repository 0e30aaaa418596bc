/**
 * What a config asks for and this dom0 does not model: said when a domain is to be made of it, never in a dry run.
 */
import type { DomainConfig } from './domain-config.js';
import { type CfgReader, hasKey } from './xl-cfg.js';

/** Why no domain can be created with a device of that key, though libxl goes through all that a real host's does. */
const fruitless: Readonly<Record<string, string>> = {
  pci: 'refused: the host has no IOMMU',
  dtdev: 'refused: the host has no IOMMU',
  vfb: "qemu's, which this host has not",
  p9: "qemu's, which this host has not",
  channel: "qemu's, which this host has not",
  vtpm: 'served by nobody here: libxl gives up after ten seconds',
  vdispl: 'served by nobody here: libxl gives up after ten seconds',
  vsnd: 'served by nobody here: libxl gives up after ten seconds',
  usbctrl: 'served by nobody here: libxl gives up after ten seconds',
  usbdev: 'refused: the host has no USB device',
  pvcalls: 'served by nobody here',
  vkb: 'served by nobody here',
};

/** Why `key` is of no use in this dom0; undefined if it is. */
export function useless(key: string): string | undefined {
  if (effectless.includes(key)) return `'${key}' is not modelled and has no effect`;
  const why = Object.hasOwn(fruitless, key) ? fruitless[key] : undefined;
  return why === undefined ? undefined : `'${key}' is ${why}`;
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
