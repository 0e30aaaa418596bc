/**
 * The configuration of a domain, as libxl has it.
 *
 * Field names are those of libxl's IDL (`libxl_types.idl`) in camel case; an absent field has libxl's default.
 */
import type { Disk } from './disk.js';
import type { JsonObject } from './json.js';
import type { Nic } from './nic.js';

export type DomainType = 'pv' | 'pvh' | 'hvm';

/** What to do when a domain has shut down, in the spelling of libxl's JSON (xl.cfg says `rename-restart`). */
export type ActionOnShutdown =
  | 'destroy'
  | 'restart'
  | 'restart_rename'
  | 'preserve'
  | 'coredump_destroy'
  | 'coredump_restart'
  | 'soft_reset';

export interface CreateInfo {
  readonly type: DomainType;
  readonly hap?: boolean;
  readonly oos?: boolean;
  readonly ssidLabel?: string;
  readonly name: string;
  /** In the JSON of a running domain 4294967295, "let the policy choose" (libxl stores the policy, not the domid). */
  readonly domid?: number;
  readonly uuid: string;
  readonly poolName?: string;
  readonly runHotplugScripts?: boolean;
  readonly driverDomain?: boolean;
  readonly passthrough?: string;
  readonly xendSuspendEvtchnCompat?: boolean;
}

/** Scheduler parameters; an absent one is left to the scheduler. */
export interface SchedParams {
  readonly sched?: string;
  readonly weight?: number;
  readonly cap?: number;
  readonly period?: number;
  readonly budget?: number;
  readonly extratime?: number;
  readonly slice?: number;
  readonly latency?: number;
}

export interface BuildInfo {
  /** 0 when the config names neither `vcpus` nor `maxvcpus`; libxl makes it 1. */
  readonly maxVcpus: number;
  /** The vcpus that are online at boot; empty when the config does not say, and libxl makes it [0]. */
  readonly availVcpus: readonly number[];
  /** One list of pcpus for each vcpu. */
  readonly vcpuHardAffinity?: readonly (readonly number[])[];
  readonly vcpuSoftAffinity?: readonly (readonly number[])[];
  readonly numaPlacement?: boolean;
  readonly tscMode?: string;
  /**
   * Absent when neither `memory` nor `maxmem` is given; libxl makes it 32 MiB. Here, as in the other amounts, a negative
   * number stands for the 64 bits that C has of it.
   */
  readonly maxMemkb?: number;
  readonly targetMemkb?: number;
  readonly videoMemkb?: number;
  readonly shadowMemkb?: number;
  readonly rtcTimeoffset?: number;
  readonly execSsidLabel?: string;
  readonly localtime?: boolean;
  readonly disableMigrate?: boolean;
  /** What the guest sees of the processor, and its virtual NUMA nodes, as JSON: neither is modelled. */
  readonly cpuid?: JsonObject;
  readonly vnumaNodes?: readonly JsonObject[];
  /** The first name for a disk that is attached to dom0 itself. */
  readonly blkdevStart?: string;
  readonly maxGrantFrames?: number;
  readonly maxMaptrackFrames?: number;
  readonly maxGrantVersion?: number;
  readonly deviceModelVersion?: string;
  readonly deviceModelStubdomain?: boolean;
  readonly stubdomainMemkb?: number;
  readonly stubdomainKernel?: string;
  readonly stubdomainCmdline?: string;
  readonly stubdomainRamdisk?: string;
  readonly deviceModel?: string;
  readonly deviceModelSsidLabel?: string;
  readonly deviceModelUser?: string;
  readonly extra?: readonly string[];
  readonly extraPv?: readonly string[];
  readonly extraHvm?: readonly string[];
  readonly schedParams: SchedParams;
  readonly ioports?: readonly { readonly first: number; readonly number: number }[];
  readonly irqs?: readonly number[];
  readonly iomem?: readonly JsonObject[];
  readonly claimMode?: boolean;
  readonly eventChannels?: number;
  readonly kernel?: string;
  readonly cmdline?: string;
  readonly ramdisk?: string;
  readonly deviceTree?: string;
  readonly acpi?: boolean;
  readonly bootloader?: string;
  readonly bootloaderArgs?: readonly string[];
  readonly timerMode?: string;
  readonly nestedHvm?: boolean;
  readonly apic?: boolean;
  readonly dmRestrict?: boolean;
  readonly tee?: string;
  /** What only a PV guest has (`"type.pv"` in the JSON). */
  readonly pv?: { readonly e820Host?: boolean };
  /** What only another type of guest has, as JSON: no such guest runs here. */
  readonly pvh?: JsonObject;
  readonly hvm?: JsonObject;
  readonly archArm: { readonly gicVersion?: string; readonly vuart?: string };
  readonly archX86: { readonly msrRelaxed?: boolean };
  readonly altp2m?: string;
  readonly vmtraceBufKb?: number;
  readonly vpmu?: boolean;
}

/** The lists of devices other than disks and nics, by the names of libxl's JSON, in its order. */
export const otherDeviceLists = [
  'pcidevs',
  'dtdevs',
  'vfbs',
  'vkbs',
  'vtpms',
  'p9s',
  'pvcallsifs',
  'vdispls',
  'vsnds',
  'channels',
  'usbctrls',
  'usbdevs',
] as const;
export type OtherDeviceList = (typeof otherDeviceLists)[number];
/** Those devices as JSON. */
export type OtherDevices = { readonly [List in OtherDeviceList]?: readonly JsonObject[] };

export interface DomainConfig extends OtherDevices {
  readonly cInfo: CreateInfo;
  readonly bInfo: BuildInfo;
  readonly disks: readonly Disk[];
  readonly nics: readonly Nic[];
  readonly onPoweroff: ActionOnShutdown;
  readonly onReboot: ActionOnShutdown;
  readonly onWatchdog: ActionOnShutdown;
  readonly onCrash: ActionOnShutdown;
  readonly onSoftReset: ActionOnShutdown;
}
