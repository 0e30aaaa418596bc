/**
 * Disks and interfaces back to the text that describes them: what `parseDiskSpec` and `parseNicSpec` read as the same.
 *
 * Not every device can be said: a comma ends all but a disk's target, and blanks in front of an item do not count.
 */
import type { Disk } from './disk.js';
import type { Nic } from './nic.js';

/** A disk in the syntax of named parameters, with its target last. */
export function diskSpecText(disk: Disk): string {
  const items = [
    said('vdev', disk.vdev),
    said('backend', disk.backendDomname),
    said('backendtype', disk.backend),
    // An empty drive has no target, or an empty one; its format follows from that.
    disk.format === 'empty' && disk.isCdrom ? [] : said('format', disk.format),
    said('script', disk.script),
    disk.isCdrom ? ['cdrom'] : said('access', disk.readwrite ? 'rw' : 'ro'),
    disk.directIoSafe ? ['direct-io-safe'] : [],
    disk.discardEnable === undefined ? [] : [disk.discardEnable ? 'discard' : 'no-discard'],
    said('specification', disk.specification),
    disk.coloEnable === undefined ? [] : [disk.coloEnable ? 'colo' : 'no-colo'],
    said('colo-host', disk.coloHost),
    said('colo-port', disk.coloPort === undefined ? undefined : String(disk.coloPort)),
    said('colo-export', disk.coloExport),
    said('active-disk', disk.activeDisk),
    said('hidden-disk', disk.hiddenDisk),
    // Of all commas at its end one is dropped.
    said('target', disk.pdevPath?.replace(/,$/, ',,')),
  ];
  return items.flat().join(',');
}

/** An interface; a rate is given for a second, which is how its interval must be. */
export function nicSpecText(nic: Nic): string {
  const items = [
    said('type', nic.nictype === 'vif_ioemu' ? 'ioemu' : nic.nictype),
    said('mac', nic.mac),
    said('bridge', nic.bridge),
    said('gatewaydev', nic.gatewaydev),
    said('ip', nic.ip),
    said('script', nic.script),
    said('backend', nic.backendDomname),
    said('vifname', nic.ifname),
    said('model', nic.model),
    said('rate', nic.rateBytesPerInterval === undefined ? undefined : `${nic.rateBytesPerInterval}B/s@1s`),
    said('forwarddev', nic.coloftForwarddev),
    Object.entries(nic.colo ?? {}).map(([key, value]) => `${key}=${value}`),
    said('devid', nic.devid === undefined ? undefined : String(nic.devid)),
    said('mtu', nic.mtu === undefined ? undefined : String(nic.mtu)),
    nic.trusted === undefined ? [] : [nic.trusted ? 'trusted' : 'untrusted'],
  ];
  return items.flat().join(',');
}

function said(key: string, value: string | undefined): string[] {
  return value === undefined ? [] : [`${key}=${value}`];
}
