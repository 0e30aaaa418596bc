/**
 * Network interfaces: what a domain config says of one, its defaults, its MAC address and its XenStore nodes.
 *
 * The language of `vif=[...]` is in `nic-spec.ts`. Rules are those of libxl 4.17 (`libxl_nic.c`).
 */
import { type LogEntry, scriptPath } from './disk.js';
import { formatMac } from './nic-spec.js';
import type { DeviceNodes, NodePair } from './nodes.js';

export { parseNicSpec, parseNicWords } from './nic-spec.js';
export type { DeviceNodes, NodePair } from './nodes.js';

export type NicType = 'vif' | 'vif_ioemu';

/** A network interface of a domain config; an absent field has libxl's default. */
export interface Nic {
  readonly backendDomid?: number;
  readonly backendDomname?: string;
  readonly devid?: number;
  readonly mtu?: number;
  readonly model?: string;
  /** `00:16:3e:00:00:01`, in lower case. */
  readonly mac?: string;
  readonly ip?: string;
  readonly bridge?: string;
  readonly ifname?: string;
  readonly script?: string;
  readonly nictype?: NicType;
  readonly rateBytesPerInterval?: number;
  readonly rateIntervalUsecs?: number;
  readonly gatewaydev?: string;
  readonly coloftForwarddev?: string;
  /** The `colo_...` sub-keys by name, in the order written. Nothing here acts on them. */
  readonly colo?: Readonly<Record<string, string>>;
  readonly trusted?: boolean;
}

/** A network interface with every default settled: what can be written to XenStore. */
export interface ReadyNic extends Nic {
  readonly backendDomid: number;
  readonly devid: number;
  readonly mtu: number;
  readonly model: string;
  readonly mac: string;
  readonly bridge: string;
  readonly script: string;
  readonly nictype: NicType;
  readonly trusted: boolean;
}

/** What the defaults of an interface need from outside. */
export interface NicHost {
  /** 16 fresh random bytes, for the MAC address. Used only when the config gives none. */
  readonly random: Uint8Array;
  /** Its number, when the config gives none: the next free one of the domain. */
  readonly devid: number;
  /** The domain that `backendDomname` names. */
  readonly backendDomid?: number;
}

/** A MAC address of Xen's own range from the first three of a random uuid's bytes. */
export function randomMac(random: Uint8Array): string {
  const [first = 0, second = 0, third = 0] = random;
  return formatMac([0x00, 0x16, 0x3e, first & 0x7f, second, third]);
}

/** libxl's line for an interface that a PV guest cannot have; undefined if all is well. */
export function nicObstacle(nic: Nic): LogEntry | undefined {
  if (nic.nictype !== 'vif_ioemu') return undefined;
  const where = 'libxl_nic.c:107:libxl__device_nic_setdefault';
  return { level: 'error', where, message: 'trying to create PV or PVH guest with an emulated interface' };
}

/** The defaults of a PV guest's interface, as `libxl__device_nic_setdefault` settles them. `nicObstacle` is asked before. */
export function setNicDefaults(nic: Nic, host: NicHost): ReadyNic {
  return {
    ...nic,
    backendDomid: host.backendDomid ?? nic.backendDomid ?? 0,
    devid: nic.devid ?? host.devid,
    mtu: nic.mtu ?? 1500,
    model: nic.model ?? 'rtl8139',
    mac: nic.mac ?? randomMac(host.random),
    bridge: nic.bridge ?? 'xenbr0',
    script: nic.script ?? scriptPath('vif-bridge'),
    nictype: nic.nictype ?? 'vif',
    trusted: nic.trusted ?? true,
  };
}

/** What libxl keeps of an interface in the domain's JSON: the user's words, and what it alone could decide. */
export function savedNic(nic: Nic, ready: ReadyNic): Nic {
  return { ...nic, devid: ready.devid, mac: ready.mac, nictype: ready.nictype };
}

/** The number of an interface plugged in later: one past the last of the listing of `/libxl/N/device/vif`. */
export function nextNicDevid(listed: readonly string[]): number {
  const last = listed.at(-1);
  return last === undefined ? 0 : Number(last) + 1;
}

/** The nodes of an interface, in the order of `libxl__set_xenstore_nic`. */
export function nicNodes(nic: ReadyNic, domid: number): DeviceNodes {
  return {
    front: [
      ['backend-id', String(nic.backendDomid)],
      ['state', '1'],
      ['handle', String(nic.devid)],
      ['mac', nic.mac],
      ['trusted', nic.trusted ? '1' : '0'],
    ],
    frontRo: [['mtu', String(nic.mtu)]],
    back: [
      ['frontend-id', String(domid)],
      ['online', '1'],
      ['state', '1'],
      ['script', scriptPath(nic.script)],
      ...optional('vifname', nic.ifname),
      ...optional('forwarddev', nic.coloftForwarddev),
      ['mac', nic.mac],
      ...optional('ip', nic.ip),
      ...optional('gatewaydev', nic.gatewaydev),
      ...optional('rate', rateNode(nic)),
      ...optional('mtu', nic.mtu === 1500 ? undefined : String(nic.mtu)),
      ['bridge', nic.bridge],
      ['handle', String(nic.devid)],
      ['type', nic.nictype],
      ['hotplug-status', ''],
    ],
  };
}

function optional(key: string, value: string | undefined): readonly NodePair[] {
  return value === undefined ? [] : [[key, value]];
}

/** netback's limit: how many bytes in how many microseconds. */
function rateNode(nic: Nic): string | undefined {
  if (!nic.rateIntervalUsecs) return undefined;
  return `${nic.rateBytesPerInterval ?? 0},${nic.rateIntervalUsecs}`;
}
