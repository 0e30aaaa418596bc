/**
 * What `xl create` makes of a config file: the settings read in xl's order, with xl's complaints, as a DomainConfig.
 *
 * Nothing here touches a domain: defaults that depend on the host are libxl's business, at creation.
 */

import { losslessText } from '../xenbus/xs-client.js';
import { killedBy, scanNumber, splitList } from './c-text.js';
import { cpuList } from './cpu-list.js';
import { readCpuid } from './cpuid.js';
import { type Disk, parseDiskSpec } from './disk.js';
import type { ActionOnShutdown, BuildInfo, CreateInfo, DomainConfig, DomainType } from './domain-config.js';
import { type GlobalConfig, globalDefaults } from './global-config.js';
import { readHvm, readHvmDisplay, readPvh } from './hvm-keys.js';
import type { JsonObject, JsonValue } from './json.js';
import { type Nic, parseNicSpec } from './nic.js';
import { readDevices, readDisplay, readVirtualKeyboards } from './other-devices.js';
import { readPciKeys } from './pci-spec.js';
import { asUint64, strtol, toInt32 } from './strtol.js';
import { notices } from './unmodelled.js';
import { readVnuma } from './vnuma.js';
import {
  type CfgReader,
  cfgReader,
  diagnosticLines,
  getBoundedLong,
  getDefbool,
  getInt,
  getList,
  getLong,
  getMebibytes,
  getString,
  getStrings,
  getUint32,
  hasKey,
  type ParsedCfg,
  parseXlCfg,
  saidText,
} from './xl-cfg.js';
import { exitXl, readName, XlExit } from './xl-exit.js';

export interface ParseOptions {
  /** For a config without `uuid`. */
  readonly randomUuid: () => string;
  /** 16 random bytes for `ms_vm_genid="generate"`; without it they are those of a random uuid. */
  readonly randomGenid?: () => readonly number[];
  /** What xl.conf says; its defaults without. */
  readonly global?: GlobalConfig;
  /** `xl create -i`: the processors that xl.conf allows do not count, and an empty set is not looked for. */
  readonly ignoreMasks?: boolean;
  /** How many processors the host has; they decide the size of a cpu list. */
  readonly pcpus?: number;
}

export interface ParsedConfig {
  /** Absent if xl would have given up. */
  readonly config?: DomainConfig;
  /** What xl prints on stderr, without `Parsing config from`. */
  readonly lines: readonly string[];
  /** The same as it goes to stderr: some of xl's messages have no newline at their end. */
  readonly stderr: string;
  /** xl's exit status; 0 if there is a config. */
  readonly exit: number;
  /** What will be different from a real host; for stderr, when a domain is made of it. */
  readonly notices: readonly string[];
}

/**
 * The text that xl parses: the file, then each `key=value` of the command line on a line of its own. Being last, they
 * override the file, and their lines are counted on from the file's.
 */
export function configText(file: string, extras: readonly string[]): string {
  return extras.length === 0 ? file : `${file}\n${extras.map((extra) => `${extra}\n`).join('')}\n`;
}

export function parseConfig(text: string, source: string, options: ParseOptions): ParsedConfig {
  return readParsed(parseXlCfg(text, source), source, options).parsed;
}

/** What libxl makes domains of: texts, where the config has bytes. */
export function textOfConfig(config: DomainConfig): DomainConfig {
  const convert = (value: unknown): unknown => {
    if (typeof value === 'string') return losslessText(value);
    if (Array.isArray(value)) return value.map(convert);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, convert(item)]));
  };
  return convert(config) as DomainConfig;
}

/** The same of a text that has been parsed, with the reader, which knows what was looked at. */
export function readParsed(
  cfg: ParsedCfg,
  source: string,
  options: ParseOptions,
): { readonly parsed: ParsedConfig; readonly reader: CfgReader } {
  const reader = cfgReader(cfg.settings, source);
  const errors = diagnosticLines(cfg);
  let config: DomainConfig | undefined;
  let exit = 0;
  if (cfg.aborted !== undefined) {
    reader.lines.push(...errors, cfg.aborted);
    exit = killedBy.abrt;
  } else if (errors.length > 0) {
    reader.lines.push(...errors, 'Failed to parse config: Invalid argument');
    exit = 1;
  } else {
    try {
      config = readConfig(reader, options);
    } catch (error) {
      if (!(error instanceof XlExit)) throw error;
      exit = error.status;
    }
  }
  const stderr = saidText(reader);
  const lines = stderr === '' ? [] : stderr.replace(/\n$/, '').split('\n');
  if (!config) return { reader, parsed: { lines, stderr, exit, notices: [] } };
  return { reader, parsed: { config, lines, stderr, exit, notices: notices(reader, config) } };
}

/** The keys in xl's order. A file with two mistakes reports the first by this order, not by that of the file. */
function readConfig(reader: CfgReader, options: ParseOptions): DomainConfig {
  const pcpus = options.pcpus ?? 2;
  const global = options.global ?? globalDefaults;
  const labels = readLabels(reader);
  const type = readType(reader);
  const cInfo = readCreateInfo(reader, type, labels, options, global);
  const pvh = type === 'pvh' ? readPvh(reader) : undefined;
  const resources = readResources(reader, pcpus, global);
  const actions = readActions(reader);
  const e820Host = type === 'pv' ? getDefbool(reader, 'e820_host') : undefined;
  const { pcidevs, rdm } = readPciKeys(reader, type === 'hvm' ? undefined : 'strict');
  const dtdevs = (getStrings(reader, 'dtdev') ?? []).map((path) => ({ path }));
  const passthrough = readName(
    reader,
    'passthrough',
    passthroughNames,
    (value) => `ERROR: unknown passthrough option '${value}'`,
  );
  const platform = readPlatform(reader);
  const boot = readBoot(reader, type);
  const kernel = checkKernel(reader, type, boot);
  const hvm = type === 'hvm' ? readHvm(reader, options.randomGenid ?? (() => uuidBytes(options.randomUuid()))) : undefined;
  const altp2m = readModeOrNumber(reader, 'altp2m', altp2mModes);
  const vmtraceBufKb = getInt(reader, 'vmtrace_buf_kb', { quiet: true });
  const ranges = readRanges(reader);
  const disks = readDisks(reader);
  const devices = readDevices(reader);
  const nics = readNics(reader, global.nicDefaults);
  if (getList(reader, 'vif2')) reader.lines.push('WARNING: vif2: netchannel2 is deprecated and not supported by xl');
  const display = readDisplay(reader, type);
  const cpuid = readCpuid(reader);
  const deviceModel = readDeviceModel(reader, type);
  const topLevelDisplay = display.fromTopLevel();
  const dmRestrict = getDefbool(reader, 'dm_restrict');
  const { vnc, sdl } = topLevelDisplay;
  const hvmDisplay = hvm ? readHvmDisplay(reader, { ...hvm.fields, vnc, sdl, rdm }) : undefined;
  const gicVersion = readName(reader, 'gic_version', gicVersions, (value) => `Unknown gic_version "${value}" specified`, 3, true);
  const tee = readName(reader, 'tee', teeTypes, (value) => `Unknown tee "${value}" specified`, 3, true);
  const keyboards = readVirtualKeyboards(reader, topLevelDisplay.vkbs);
  const xendSuspendEvtchnCompat = getDefbool(reader, 'xend_suspend_evtchn_compat');
  const msrRelaxed = getDefbool(reader, 'msr_relaxed');
  if (msrRelaxed !== undefined) {
    reader.lines.push(
      'WARNING: msr_relaxed will be removed in future versions.',
      'If it fixes an issue you are having please report to xen-devel@lists.xenproject.org.',
    );
  }
  const vpmu = getDefbool(reader, 'vpmu');
  const { vcpuHardAffinity: affinity, maxVcpus } = resources;
  if (resources.corrupt && !options.ignoreMasks) exitXl(reader, killedBy.abrt, 'double free or corruption (out)');
  const vcpuHardAffinity = options.ignoreMasks ? affinity : masked(reader, affinity, maxVcpus, type, global, pcpus);

  const { driverDomain, ...bootInfo } = boot;
  const { vuart, corrupt: _, ...buildResources } = resources;
  return {
    cInfo: given({
      ...cInfo,
      driverDomain,
      passthrough: passthrough === 'default' ? undefined : passthrough,
      xendSuspendEvtchnCompat,
    }),
    bInfo: given({
      ...buildResources,
      ...platform,
      ...bootInfo,
      ...ranges,
      ...deviceModel,
      vcpuHardAffinity,
      cpuid,
      blkdevStart: global.blkdevStart,
      kernel,
      apic: hvm?.apic,
      execSsidLabel: labels.execSsidLabel,
      dmRestrict,
      tee,
      ...(type === 'pv' ? { pv: given({ e820Host: pcidevs.length > 0 ? true : e820Host }) } : {}),
      pvh,
      hvm: hvmDisplay,
      archArm: given({ gicVersion, vuart }),
      archX86: given({ msrRelaxed }),
      altp2m,
      vmtraceBufKb: vmtraceBufKb || undefined,
      vpmu,
    }),
    disks,
    nics,
    pcidevs,
    dtdevs,
    ...devices,
    vfbs: topLevelDisplay.vfbs,
    vkbs: keyboards,
    usbctrls: display.usbctrls,
    usbdevs: display.usbdevs,
    ...actions,
  };
}

// ---- Names of IDL enumerations, read without regard to case. The first is the default, which is not printed.

const tscModes = ['default', 'always_emulate', 'native', 'native_paravirt'];
const timerModes = ['delay_for_missed_ticks', 'no_delay_for_missed_ticks', 'no_missed_ticks_pending', 'one_missed_tick_pending'];
const altp2mModes = ['disabled', 'mixed', 'external', 'limited'];
const passthroughNames = ['default', 'disabled', 'enabled', 'sync_pt', 'share_pt'];
const gicVersions = ['default', 'v2', 'v3'];
const teeTypes = ['none', 'optee'];
const vuartTypes = ['unknown', 'sbsa_uart'];

/** An enumeration that may be given by number too, which some keys advise against. */
function readModeOrNumber(
  reader: CfgReader,
  key: string,
  names: readonly string[],
  say: {
    readonly onNumber?: (name: string | undefined) => string;
    readonly onString?: (value: string) => string;
    /** The name of -1, which is the default. */
    readonly minusOne?: string;
  } = {},
): string | undefined {
  const number = getLong(reader, key, { quiet: true });
  if (number !== undefined) {
    // xl names what the lower 32 bits mean before it looks at all of them.
    const low = toInt32(number);
    if (say.onNumber) reader.lines.push(say.onNumber(low === -1 ? say.minusOne : names[low]));
    return (number >= 0n ? names[Number(number)] : undefined) ?? exitXl(reader, 1, `ERROR: invalid value ${number} for "${key}"`);
  }
  const value = getString(reader, key);
  if (value !== undefined && say.onString) reader.lines.push(say.onString(value));
  if (value === undefined || value.toLowerCase() === say.minusOne) return undefined;
  return readName(reader, key, names, () => `ERROR: invalid value "${value}" for "${key}"`, 1, true);
}

function integerIsDeprecated(key: string): (name: string | undefined) => string {
  return (name) => {
    const example = name === undefined ? '' : `e.g. ${key}="${name}"`;
    return `WARNING: specifying "${key}" as an integer is deprecated. Please use the named parameter variant. ${example}`;
  };
}

// ---- What the domain is

interface Labels {
  readonly ssidLabel: string | undefined;
  readonly execSsidLabel: string | undefined;
}

/** A label for the time it is built and one for the time it runs; a single `seclabel` is for both. */
function readLabels(reader: CfgReader): Labels {
  const initial = getString(reader, 'init_seclabel');
  const label = getString(reader, 'seclabel');
  return initial === undefined ? { ssidLabel: label, execSsidLabel: undefined } : { ssidLabel: initial, execSsidLabel: label };
}

/** `type`, or the deprecated `builder`. A beginning of a name will do, in the order hvm, pv, pvh: "p" is pv, "" is hvm. */
function readType(reader: CfgReader): DomainType {
  const type = readTypeName(reader, 'type', { hvm: 'hvm', pv: 'pv', pvh: 'pvh' });
  const builder = readTypeName(reader, 'builder', { hvm: 'hvm', generic: 'pv' });
  if (type && builder && type !== builder) exitXl(reader, 1, 'Contradicting "builder" and "type" options specified.');
  return builder ?? type ?? 'pv';
}

function readTypeName(reader: CfgReader, key: string, types: Readonly<Record<string, DomainType>>): DomainType | undefined {
  const value = getString(reader, key);
  if (value === undefined) return undefined;
  const found = Object.entries(types).find(([name]) => name.startsWith(value));
  return found ? found[1] : exitXl(reader, 1, `Invalid domain type ${value}.`);
}

function readCreateInfo(
  reader: CfgReader,
  type: DomainType,
  labels: Labels,
  options: ParseOptions,
  global: GlobalConfig,
): CreateInfo {
  const hap = getDefbool(reader, 'hap');
  const name = getString(reader, 'name') ?? exitXl(reader, 1, 'Domain name must be specified.');
  const uuid = readUuid(reader) ?? options.randomUuid();
  const oos = getDefbool(reader, 'oos');
  const poolName = getString(reader, 'pool');
  return given({
    type,
    hap,
    oos,
    ssidLabel: labels.ssidLabel,
    name,
    uuid,
    poolName,
    runHotplugScripts: global.runHotplugScripts,
  });
}

function readUuid(reader: CfgReader): string | undefined {
  const text = getString(reader, 'uuid');
  if (text === undefined) return undefined;
  return parseUuid(text) ?? exitXl(reader, 1, `Failed to parse UUID: ${text}`);
}

function uuidBytes(uuid: string): readonly number[] {
  return (uuid.replaceAll('-', '').match(/../g) ?? []).map((digits) => Number.parseInt(digits, 16));
}

/** A uuid in lower case, from 8-4-4-4-12 hexadecimal digits and nothing else. */
export function parseUuid(text: string): string | undefined {
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text) ? text.toLowerCase() : undefined;
}

// ---- What it gets

/** More than any Xen gives a domain; a bound for the list of vcpus. */
const vcpusMax = 1_048_576n;

interface Resources extends Pick<BuildInfo, 'maxVcpus' | 'availVcpus' | 'schedParams'> {
  readonly maxMemkb?: number;
  readonly targetMemkb?: number;
  readonly corrupt?: boolean;
  readonly vcpuHardAffinity?: readonly (readonly number[])[];
  readonly vcpuSoftAffinity?: readonly (readonly number[])[];
  readonly numaPlacement?: boolean;
  readonly maxGrantFrames?: number;
  readonly maxMaptrackFrames?: number;
  readonly maxGrantVersion?: number;
  readonly claimMode: boolean;
  readonly vnumaNodes?: readonly JsonObject[];
  readonly vuart?: string;
}

function readResources(reader: CfgReader, pcpus: number, global: GlobalConfig): Resources {
  const schedParams = given({
    weight: getInt(reader, 'cpu_weight'),
    cap: getInt(reader, 'cap'),
    period: getInt(reader, 'period'),
    slice: getInt(reader, 'slice'),
    latency: getInt(reader, 'latency'),
    extratime: getInt(reader, 'extratime'),
  });
  const targetMemkb = getMebibytes(reader, 'memory');
  const maxmem = getMebibytes(reader, 'maxmem');
  const vcpus = readVcpus(reader);
  const maxvcpus = getInt(reader, 'maxvcpus') ?? 0;
  const vuart = readName(reader, 'vuart', vuartTypes, (value) => `ERROR: invalid value "${value}" for "vuart"`);
  const vnuma = readVnuma(reader, { maxVcpus: maxvcpus, maxMemkb: maxmem, pcpus });
  const maxMemkb = vnuma ? Number(BigInt.asIntN(64, vnuma.maxMemkb)) : (maxmem ?? targetMemkb);
  const maxVcpus = vnuma?.maxVcpus || maxvcpus || toInt32(vcpus);
  if (BigInt(maxVcpus) < vcpus) exitXl(reader, 1, 'xl: maxvcpus < vcpus');
  const hard = readAffinity(reader, 'cpus', maxVcpus, pcpus);
  const soft = readAffinity(reader, 'cpus_soft', maxVcpus, pcpus);
  // A list says what each vcpu wants, and soft affinity is a preference of the user's: libxl then places nothing itself.
  const numaPlacement = hard?.from === 'list' || soft || vnuma?.placed ? false : undefined;
  return given({
    maxVcpus,
    availVcpus: Array.from({ length: Number(vcpus) }, (_, vcpu) => vcpu),
    corrupt: hard?.corrupt || undefined,
    vcpuHardAffinity: hard?.maps,
    vcpuSoftAffinity: soft?.maps,
    numaPlacement,
    maxMemkb,
    targetMemkb,
    schedParams,
    vnumaNodes: vnuma?.nodes,
    maxGrantFrames: readLimit(reader, 'max_grant_frames') ?? global.maxGrantFrames,
    maxMaptrackFrames: readLimit(reader, 'max_maptrack_frames') ?? global.maxMaptrackFrames,
    maxGrantVersion: readLimit(reader, 'max_grant_version') ?? global.maxGrantVersion,
    claimMode: global.claimMode,
    vuart: vuart === 'unknown' ? undefined : vuart,
  });
}

/** A number of vcpus for which there is a set; 0 when the config does not say. */
function readVcpus(reader: CfgReader): bigint {
  const vcpus = getLong(reader, 'vcpus') ?? 0n;
  if (toInt32(vcpus) < 0) {
    const where = 'libxl_utils.c:809:libxl_cpu_bitmap_alloc';
    exitXl(reader, 1, `libxl: error: ${where}: invalid number of cpus provided`, 'Unable to allocate cpumap');
  }
  // A real xl counts down from any number, for minutes.
  if (vcpus > vcpusMax) exitXl(reader, 1, `xl: vcpus=${vcpus}: this model of xl lists at most ${vcpusMax}`);
  return vcpus > 0n ? vcpus : 0n;
}

interface Affinity {
  readonly from: 'list' | 'string';
  readonly maps: readonly (readonly number[])[];
  readonly corrupt?: boolean;
}

/** A string is for every vcpu; a list has one for each, and those past the last vcpu are not looked at. */
function readAffinity(reader: CfgReader, key: string, vcpus: number, pcpus: number): Affinity | undefined {
  const list = getStrings(reader, key, { quiet: true });
  const items = getList(reader, key, { quiet: true });
  const room = items ? Math.min(items.length, vcpus) : vcpus;
  if (list ?? hasKey(reader, key)) checkRoom(reader, room);
  if (list) {
    const maps = list.slice(0, room).map((text) => parseCpuList(reader, text, pcpus));
    // Behind a list within the list nothing is filled in: these sets are what the heap has, mostly nothing, but for the
    // first, of which xl dies in the end.
    const rest = Array.from({ length: room - maps.length }, (): readonly number[] => []);
    return { from: 'list', maps: [...maps, ...rest], corrupt: maps.length === 0 && rest.length > 0 };
  }
  const text = getString(reader, key);
  if (text === undefined) return undefined;
  const cpus = parseCpuList(reader, text, pcpus);
  return { from: 'string', maps: Array.from({ length: vcpus }, () => cpus) };
}

/** The processors that a key names; a mistake ends xl. */
function parseCpuList(reader: CfgReader, text: string, pcpus: number): readonly number[] {
  const cpus = cpuList(text, pcpus);
  return typeof cpus === 'string' ? exitXl(reader, 1, cpus) : cpus;
}

/** xl makes room for a set for each vcpu, of which `maxvcpus` can ask more than there is. */
function checkRoom(reader: CfgReader, sets: number): void {
  if (sets >= 0 && sets <= vcpusMax) return;
  exitXl(reader, 3, `xl: Unable to malloc ${BigInt.asUintN(64, BigInt(sets) * 16n)} bytes.`);
}

/**
 * The affinity of the vcpus within the masks of xl.conf. Without masks nothing changes; with them each vcpu has an affinity.
 */
function masked(
  reader: CfgReader,
  own: readonly (readonly number[])[] | undefined,
  maxVcpus: number,
  type: DomainType,
  global: GlobalConfig,
  pcpus: number,
): readonly (readonly number[])[] | undefined {
  const masks = [global.vmCpumask, type === 'pv' ? global.vmPvCpumask : global.vmHvmCpumask].flatMap((mask) => mask ?? []);
  const all = Array.from({ length: Math.ceil(pcpus / 8) * 8 }, (_, cpu) => cpu);
  const everywhere = masks.length > 0 ? Array.from({ length: Math.max(maxVcpus, 0) }, () => all) : undefined;
  const maps = own && own.length > 0 ? own : everywhere;
  const kept = maps?.map((cpus) => cpus.filter((cpu) => masks.every((mask) => mask.has(cpu))));
  if (kept?.some((cpus) => cpus.length === 0)) exitXl(reader, 1, 'vcpu hard affinity map is empty');
  return kept;
}

/** A limit of the grant table. What is no such number ends xl without a word. */
function readLimit(reader: CfgReader, key: string): number | undefined {
  const limit = getBoundedLong(reader, key, 0, 0x7fff_ffff, { quiet: true });
  return limit === 'outside' ? exitXl(reader, 1) : limit;
}

// ---- What happens when it shuts down

const actionNames: Readonly<Record<string, ActionOnShutdown>> = {
  destroy: 'destroy',
  restart: 'restart',
  'rename-restart': 'restart_rename',
  preserve: 'preserve',
  'coredump-destroy': 'coredump_destroy',
  'coredump-restart': 'coredump_restart',
  'soft-reset': 'soft_reset',
};

type Actions = Pick<DomainConfig, 'onPoweroff' | 'onReboot' | 'onWatchdog' | 'onCrash' | 'onSoftReset'>;

function readActions(reader: CfgReader): Actions {
  return {
    onPoweroff: readAction(reader, 'on_poweroff', 'destroy'),
    onReboot: readAction(reader, 'on_reboot', 'restart'),
    onWatchdog: readAction(reader, 'on_watchdog', 'destroy'),
    onCrash: readAction(reader, 'on_crash', 'destroy'),
    onSoftReset: readAction(reader, 'on_soft_reset', 'soft-reset'),
  };
}

function readAction(reader: CfgReader, key: string, otherwise: string): ActionOnShutdown {
  const name = getString(reader, key) ?? otherwise;
  const action = Object.hasOwn(actionNames, name) ? actionNames[name] : undefined;
  return action ?? exitXl(reader, 1, `Unknown ${key} action "${name}" specified`);
}

/** An action as xl.cfg and xl's log spell it. */
export function actionName(action: ActionOnShutdown): string {
  return Object.entries(actionNames).find(([, value]) => value === action)?.[0] ?? action;
}

// ---- What it boots and how it runs

function readPlatform(reader: CfgReader) {
  const shadowMemkb = getMebibytes(reader, 'shadow_memory');
  const disableMigrate = getDefbool(reader, 'nomigrate');
  const tscMode = readModeOrNumber(reader, 'tsc_mode', tscModes, {
    onNumber: integerIsDeprecated('tsc_mode'),
    onString: (value) => `got a tsc mode string: "${value}"`,
  });
  const rtcTimeoffset = getUint32(reader, 'rtc_timeoffset');
  if (getLong(reader, 'vncviewer') !== undefined) {
    const instead = 'Use "-V" option of "xl create" to automatically spawn vncviewer.';
    reader.lines.push(`WARNING: ignoring "vncviewer" option. ${instead}`);
  }
  const localtime = getDefbool(reader, 'localtime');
  const videoMemkb = getMebibytes(reader, 'videoram');
  const eventChannels = getUint32(reader, 'max_event_channels');
  return { shadowMemkb, disableMigrate, tscMode, rtcTimeoffset, localtime, videoMemkb, eventChannels };
}

function readBoot(reader: CfgReader, type: DomainType) {
  const kernel = getString(reader, 'kernel');
  const ramdisk = getString(reader, 'ramdisk');
  const deviceTree = getString(reader, 'device_tree');
  const cmdline = readCmdline(reader);
  const driverDomain = getDefbool(reader, 'driver_domain');
  const acpi = getDefbool(reader, 'acpi');
  const bootloader = getString(reader, 'bootloader');
  const bootloaderArgs = readBootloaderArgs(reader);
  const timerMode = readTimerMode(reader, type);
  const nestedHvm = getDefbool(reader, 'nestedhvm');
  return { kernel, ramdisk, deviceTree, cmdline, driverDomain, acpi, bootloader, bootloaderArgs, timerMode, nestedHvm };
}

function readCmdline(reader: CfgReader): string | undefined {
  const cmdline = getString(reader, 'cmdline');
  const root = getString(reader, 'root');
  const extra = getString(reader, 'extra');
  if (cmdline !== undefined) {
    if (root !== undefined || extra !== undefined) {
      reader.lines.push('Warning: ignoring root= and extra= in favour of cmdline=');
    }
    return cmdline;
  }
  if (root === undefined) return extra;
  return extra === undefined ? `root=${root}` : `root=${root} ${extra}`;
}

function readBootloaderArgs(reader: CfgReader): readonly string[] | undefined {
  const list = getStrings(reader, 'bootloader_args', { quiet: true });
  if (list) return list;
  const text = getString(reader, 'bootloader_args');
  if (text === undefined) return undefined;
  reader.lines.push('WARNING: Specifying "bootloader_args" as a string is deprecated. Please use a list of arguments.');
  return splitList(reader, text, ' \t\n');
}

function readTimerMode(reader: CfgReader, type: DomainType): string | undefined {
  if (type === 'pv') {
    if (getString(reader, 'timer_mode') === undefined) return undefined;
    return exitXl(reader, 3, 'ERROR: "timer_mode" option is not supported for PV guests.');
  }
  return readModeOrNumber(reader, 'timer_mode', timerModes, { onNumber: integerIsDeprecated('timer_mode'), minusOne: 'unknown' });
}

/** Where Debian's Xen 4.17 keeps its boot loaders for guests. */
const XENFIRMWAREDIR = '/usr/lib/xen-4.17/boot';

/** A guest without firmware of its own boots a kernel, a boot loader's choice, or one of Xen's pvgrubs. */
function checkKernel(reader: CfgReader, type: DomainType, boot: ReturnType<typeof readBoot>): string | undefined {
  if (type === 'hvm') {
    if (boot.kernel?.split('/').at(-1) !== 'hvmloader') return boot.kernel;
    reader.lines.push(
      'WARNING: you seem to be using "kernel" directive to override HVM guest firmware. Ignore that. ' +
        'Use "firmware_override" instead if you really want a non-default firmware',
    );
    return undefined;
  }
  const firmware = getString(reader, 'firmware');
  if (firmware !== undefined) {
    if (boot.kernel !== undefined) exitXl(reader, 1, 'ERROR: both kernel and firmware specified');
    if (!'pvgrub32'.startsWith(firmware) && !'pvgrub64'.startsWith(firmware)) {
      exitXl(reader, 1, 'ERROR: only pvgrub{32|64} supported as firmware options');
    }
    return `${XENFIRMWAREDIR}/${firmware}.bin`;
  }
  if (boot.kernel === undefined && boot.bootloader === undefined) exitXl(reader, 1, 'Neither kernel nor bootloader specified');
  return boot.kernel;
}

// ---- Its hardware

const UINT32_MAX = 0xffff_ffff;

/** Ports, interrupts and memory of the host that the guest may use. */
function readRanges(reader: CfgReader): Pick<BuildInfo, 'ioports' | 'irqs' | 'iomem'> {
  const ioports = getList(reader, 'ioports')?.map((item, index) =>
    item.kind === 'string'
      ? readPorts(reader, item.text)
      : exitXl(reader, 1, `xl: Unable to get element #${index} in ioport list`),
  );
  const irqs = getList(reader, 'irqs')?.map((item, index) =>
    item.kind === 'string' ? readIrq(reader, item.text) : exitXl(reader, 1, `xl: Unable to get element ${index} in irq list`),
  );
  const iomem = getList(reader, 'iomem')?.map((item, index) =>
    item.kind === 'string'
      ? readMemory(reader, item.text)
      : exitXl(reader, 1, `xl: Unable to get element ${index} in iomem list`),
  );
  return given({ ioports, irqs, iomem });
}

function readPorts(reader: CfgReader, text: string): { readonly first: number; readonly number: number } {
  const invalid = `xl: Invalid argument parsing ioport: ${text}`;
  const first = strtol(text, 16);
  if (first.end === 0) exitXl(reader, 1, invalid);
  const start = checkPort(reader, asUint64(first));
  if (text.charAt(first.end) !== '-') {
    // xl complains, and takes the number all the same.
    if (first.end < text.length) reader.lines.push(invalid);
    return { first: start, number: 1 };
  }
  const rest = text.slice(first.end + 1);
  const last = strtol(rest, 16);
  if (last.end === 0 || last.end < rest.length) exitXl(reader, 1, invalid);
  const end = checkPort(reader, asUint64(last));
  return { first: start, number: (end - start + 1) >>> 0 };
}

function checkPort(reader: CfgReader, port: bigint): number {
  return port < BigInt(UINT32_MAX) ? Number(port) : exitXl(reader, 1, `xl: ioport ${port.toString(16)} too big`);
}

function readIrq(reader: CfgReader, text: string): number {
  const irq = strtol(text, 10);
  if (irq.end === 0 || irq.end < text.length) exitXl(reader, 1, `xl: Invalid argument parsing irq: ${text}`);
  const number = asUint64(irq);
  return number < BigInt(UINT32_MAX) ? Number(number) : exitXl(reader, 1, `xl: irq ${number.toString(16)} too big`);
}

const invalidGfn = 2n ** 64n - 1n;

function readMemory(reader: CfgReader, text: string): JsonObject {
  const invalid = `xl: Invalid argument parsing iomem: ${text}`;
  const start = scanNumber(text, 16);
  const number = start?.rest.startsWith(',') ? scanNumber(start.rest.slice(1), 16) : undefined;
  if (!start || !number) return exitXl(reader, 1, invalid);
  const gfn = number.rest.startsWith('@') ? scanNumber(number.rest.slice(1), 16) : undefined;
  if ((gfn ?? number).rest !== '') exitXl(reader, 1, invalid);
  const fields = {
    start: longJson(start.value),
    number: longJson(number.value),
    gfn: gfn && gfn.value !== invalidGfn ? longJson(gfn.value) : undefined,
  };
  return given(fields);
}

/** 64 bits as a number, where a double holds them. */
function longJson(value: bigint): JsonValue {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
}

function readDisks(reader: CfgReader): readonly Disk[] {
  return (getStrings(reader, 'disk') ?? []).map((spec) => {
    const parsed = parseDiskSpec(spec, reader.source);
    return 'disk' in parsed ? parsed.disk : exitXl(reader, 1, ...parsed.errors);
  });
}

/** The interfaces, numbered by their place. An item that is not understood is named, and the interface is there. */
function readNics(reader: CfgReader, defaults: Partial<Nic>): readonly Nic[] {
  return (getStrings(reader, 'vif') ?? []).map((spec, index) => {
    const parsed = parseNicSpec(spec, reader.source);
    if (parsed.status === 'fatal') exitXl(reader, 1, ...parsed.lines);
    reader.lines.push(...parsed.lines);
    return { devid: index, ...defaults, ...parsed.nic };
  });
}

function readDeviceModel(reader: CfgReader, type: DomainType) {
  const ignored = getString(reader, 'device_model');
  if (ignored !== undefined) {
    reader.lines.push(
      'WARNING: ignoring device_model directive.',
      'WARNING: Use "device_model_override" instead if you really want a non-default device_model',
    );
    if (ignored.includes('stubdom-dm')) {
      reader.lines.push(
        type === 'hvm'
          ? 'WARNING: Or use "device_model_stubdomain_override" if you  want to enable stubdomains'
          : 'WARNING: ignoring "device_model_stubdomain_override" directive for pv guest',
      );
    }
  }
  const deviceModel = getString(reader, 'device_model_override');
  const deviceModelVersion = readDeviceModelVersion(reader, deviceModel);
  return {
    deviceModelVersion,
    deviceModelStubdomain: getDefbool(reader, 'device_model_stubdomain_override'),
    deviceModelSsidLabel: getString(reader, 'device_model_stubdomain_seclabel'),
    deviceModelUser: getString(reader, 'device_model_user'),
    stubdomainKernel: getString(reader, 'stubdomain_kernel'),
    stubdomainCmdline: getString(reader, 'stubdomain_cmdline'),
    stubdomainRamdisk: getString(reader, 'stubdomain_ramdisk'),
    stubdomainMemkb: getMebibytes(reader, 'stubdomain_memory'),
    deviceModel,
    extra: readArguments(reader, 'device_model_args'),
    extraPv: readArguments(reader, 'device_model_args_pv'),
    extraHvm: readArguments(reader, 'device_model_args_hvm'),
  };
}

function readDeviceModelVersion(reader: CfgReader, override: string | undefined): string | undefined {
  const version = getString(reader, 'device_model_version');
  if (version === undefined) {
    if (override !== undefined) reader.lines.push('WARNING: device model override given without specific DM version');
    return undefined;
  }
  if (version === 'qemu-xen') return 'qemu_xen';
  if (version === 'qemu-xen-traditional') return 'qemu_xen_traditional';
  return exitXl(reader, 1, `Unknown device_model_version "${version}" specified`);
}

function readArguments(reader: CfgReader, key: string): readonly string[] | undefined {
  const list = getStrings(reader, key);
  if (!list && hasKey(reader, key)) exitXl(reader, 3, `xl: Unable to parse ${key}.`);
  return list;
}

type Given<T> = { [Key in keyof T as undefined extends T[Key] ? never : Key]: T[Key] } & {
  [Key in keyof T as undefined extends T[Key] ? Key : never]?: Exclude<T[Key], undefined>;
};

/** `record` without the fields that are undefined: an absent field is the one way to say "the default". */
function given<T extends object>(record: T): Given<T> {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined)) as Given<T>;
}
