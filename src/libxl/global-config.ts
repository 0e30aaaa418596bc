/**
 * xl.conf: what holds for every domain unless its own config says otherwise, in the language of xl.cfg.
 *
 * A real xl reads it from `/etc/xen`; ours from where `XEN_CONFIG_DIR` points, and without that there is none. Nothing
 * follows here from `lockfile`, `autoballoon` and `domid_policy`: they are read for what xl says of them.
 */
import { cpuList } from './cpu-list.js';
import type { Nic } from './nic.js';
import {
  type CfgReader,
  cfgReader,
  diagnosticLines,
  getBoundedLong,
  getLong,
  getString,
  parseXlCfg,
  saidText,
  sayUnended,
} from './xl-cfg.js';
import { exitXl, XlExit } from './xl-exit.js';

export interface GlobalConfig {
  /** -1: as Xen's command line has it, off when it gives dom0 its memory. */
  readonly autoballoon: boolean | 'auto';
  readonly runHotplugScripts: boolean;
  readonly lockfile: string;
  /** What an interface has that does not say otherwise. */
  readonly nicDefaults: Pick<Nic, 'script' | 'bridge' | 'gatewaydev' | 'backendDomname'>;
  readonly outputFormat: 'json' | 'sxp';
  readonly claimMode: boolean;
  readonly blkdevStart?: string;
  readonly maxGrantFrames?: number;
  readonly maxMaptrackFrames?: number;
  readonly maxGrantVersion?: number;
  /** The pcpus that guests may use at all, those of type HVM and PVH, and those of type PV; absent: any. */
  readonly vmCpumask?: ReadonlySet<number>;
  readonly vmHvmCpumask?: ReadonlySet<number>;
  readonly vmPvCpumask?: ReadonlySet<number>;
  readonly domidPolicy: 'xen' | 'random';
}

export const globalDefaults: GlobalConfig = {
  autoballoon: 'auto',
  runHotplugScripts: true,
  lockfile: '/var/lock/xl',
  nicDefaults: {},
  outputFormat: 'json',
  claimMode: true,
  domidPolicy: 'xen',
};

export interface ParsedGlobalConfig {
  /** Absent if xl would have ended. */
  readonly global?: GlobalConfig;
  /** For stderr. */
  readonly stderr: string;
  readonly exit: number;
}

/** Reads the text of xl.conf; `source` is the file's name in messages. */
export function parseGlobalConfig(text: string, source: string, pcpus: number): ParsedGlobalConfig {
  const cfg = parseXlCfg(text, source);
  const reader = cfgReader(cfg.settings, source);
  try {
    const errors = diagnosticLines(cfg);
    if (errors.length > 0) exitXl(reader, 1, ...errors, 'Failed to parse config file: Invalid argument');
    return { global: readGlobal(reader, pcpus), stderr: saidText(reader), exit: 0 };
  } catch (error) {
    if (!(error instanceof XlExit)) throw error;
    return { stderr: saidText(reader), exit: error.status };
  }
}

function readGlobal(reader: CfgReader, pcpus: number): GlobalConfig {
  const autoballoon = readAutoballoon(reader);
  const hotplug = getLong(reader, 'run_hotplug_scripts');
  const lockfile = getString(reader, 'lockfile') ?? globalDefaults.lockfile;
  const script = readRenamed(reader, 'vifscript', 'vif.default.script');
  const bridge = readRenamed(reader, 'defaultbridge', 'vif.default.bridge');
  const gatewaydev = getString(reader, 'vif.default.gatewaydev');
  const backendDomname = getString(reader, 'vif.default.backend');
  const format = getString(reader, 'output_format');
  if (format !== undefined && format !== 'json' && format !== 'sxp') {
    reader.lines.push(`invalid default output format "${format}"`);
  }
  const blkdevStart = getString(reader, 'blkdev_start');
  const claimMode = getLong(reader, 'claim_mode');
  // Remus and COLO are not modelled; their scripts are read so that what is wrong with the keys is said.
  getString(reader, 'remus.default.netbufscript');
  getString(reader, 'colo.default.proxyscript');
  const maxGrantFrames = readLimit(reader, 'max_grant_frames');
  const maxMaptrackFrames = readLimit(reader, 'max_maptrack_frames');
  const maxGrantVersion = readLimit(reader, 'max_grant_version');
  const vmCpumask = readMask(reader, 'vm.cpumask', pcpus);
  const vmHvmCpumask = readMask(reader, 'vm.hvm.cpumask', pcpus);
  const vmPvCpumask = readMask(reader, 'vm.pv.cpumask', pcpus);
  const policy = getString(reader, 'domid_policy');
  if (policy !== undefined && policy !== 'xen' && policy !== 'random') sayUnended(reader, 'invalid domid_policy option');
  return {
    autoballoon,
    runHotplugScripts: hotplug === undefined || BigInt.asIntN(32, hotplug) !== 0n,
    lockfile,
    nicDefaults: {
      ...(backendDomname === undefined ? {} : { backendDomname }),
      ...(bridge === undefined ? {} : { bridge }),
      ...(script === undefined ? {} : { script }),
      ...(gatewaydev === undefined ? {} : { gatewaydev }),
    },
    outputFormat: format === 'sxp' ? 'sxp' : 'json',
    claimMode: claimMode === undefined || BigInt.asIntN(32, claimMode) !== 0n,
    ...(blkdevStart === undefined ? {} : { blkdevStart }),
    ...(maxGrantFrames === undefined ? {} : { maxGrantFrames }),
    ...(maxMaptrackFrames === undefined ? {} : { maxMaptrackFrames }),
    ...(maxGrantVersion === undefined ? {} : { maxGrantVersion }),
    ...(vmCpumask ? { vmCpumask } : {}),
    ...(vmHvmCpumask ? { vmHvmCpumask } : {}),
    ...(vmPvCpumask ? { vmPvCpumask } : {}),
    domidPolicy: policy === 'random' ? 'random' : 'xen',
  };
}

function readAutoballoon(reader: CfgReader): boolean | 'auto' {
  const value = getString(reader, 'autoballoon');
  if (value === 'on' || value === '1') return true;
  if (value === 'off' || value === '0') return false;
  if (value !== undefined && value !== 'auto') sayUnended(reader, 'invalid autoballoon option');
  return 'auto';
}

/** A key with a deprecated name, which counts where the new one is not given. */
function readRenamed(reader: CfgReader, old: string, key: string): string | undefined {
  const before = getString(reader, old);
  if (before !== undefined) reader.lines.push(`the global config option ${old} is deprecated, please switch to ${key}`);
  return getString(reader, key) ?? before;
}

function readLimit(reader: CfgReader, key: string): number | undefined {
  const limit = getBoundedLong(reader, key, 0, 0x7fff_ffff, { quiet: true });
  return limit === 'outside' ? exitXl(reader, 1) : limit;
}

/** A mask; what is wrong in it is said, and what came before that holds. Absent: any pcpu. */
function readMask(reader: CfgReader, key: string, pcpus: number): ReadonlySet<number> | undefined {
  const text = getString(reader, key);
  if (text === undefined) return undefined;
  const cpus = new Set<number>();
  const mistake = cpuList(text, pcpus, cpus);
  if (typeof mistake === 'string') reader.lines.push(mistake);
  return cpus.size === Math.ceil(pcpus / 8) * 8 ? undefined : cpus;
}
