/**
 * The host: its processors, its memory, and what Xen and dom0's kernel say they are. `xl info` prints it.
 *
 * Data and its check, and nothing that happens. `--host FILE` is a JSON object with any of `MachineDescription`'s keys, but
 * for memory, which is in MiB there (`totalMb`, `xenMb`, `dom0Mb`, `dom0MaxMb`) because `xl info` has it so. What it leaves
 * out is that of the default host, a recorded one.
 */
import { nearest } from './words.js';

/** What `xl info` says about a host, under names of our own. */
export interface MachineDescription {
  /** dom0's host name, and its kernel as uname(2) tells it. */
  readonly hostName: string;
  readonly release: string;
  readonly version: string;
  readonly machine: string;

  readonly nrCpus: number;
  readonly nrNodes: number;
  readonly coresPerSocket: number;
  readonly threadsPerCore: number;
  readonly cpuKhz: number;
  /** Eight words in hexadecimal, with colons between. */
  readonly hwCaps: string;
  readonly virtCaps: readonly string[];

  readonly totalKb: number;
  /** What Xen keeps for itself. */
  readonly xenKb: number;
  readonly dom0Kb: number;
  /** Up to where dom0 may balloon. */
  readonly dom0MaxKb: number;
  readonly dom0Vcpus: number;

  readonly xenMajor: number;
  readonly xenMinor: number;
  readonly xenExtra: string;
  readonly xenCaps: string;
  readonly xenScheduler: string;
  /** In hexadecimal, `0x` in front. */
  readonly virtStart: string;
  readonly xenChangeset: string;
  readonly xenCommandline: string;
  readonly ccCompiler: string;
  readonly ccCompileBy: string;
  readonly ccCompileDomain: string;
  readonly ccCompileDate: string;
  readonly buildId: string;
}

const kbOfMb = 1024;

/** The host of the recordings: 2 processors, 6,143 MiB, of which Xen has 63 and dom0 1,536. */
export const defaultMachine: MachineDescription = {
  hostName: 'dom0',
  release: '6.1.0-56-amd64',
  version: '#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)',
  machine: 'x86_64',
  nrCpus: 2,
  nrNodes: 1,
  coresPerSocket: 2,
  threadsPerCore: 1,
  cpuKhz: 2_596_135,
  hwCaps: '178bfbfd:80982201:20100800:00000001:00000000:00000000:00000000:00000000',
  virtCaps: ['pv', 'gnttab-v1', 'gnttab-v2'],
  totalKb: 6_290_928,
  xenKb: 64_680,
  dom0Kb: 1536 * kbOfMb,
  dom0MaxKb: 1536 * kbOfMb,
  dom0Vcpus: 2,
  xenMajor: 4,
  xenMinor: 17,
  xenExtra: '.7',
  xenCaps: 'xen-3.0-x86_64 ',
  xenScheduler: 'credit2',
  virtStart: '0xffff800000000000',
  xenChangeset: '',
  xenCommandline: 'console=com1 com1=115200,8n1 dom0_mem=1536M,max:1536M loglvl=all guest_loglvl=all sched=credit2 ',
  ccCompiler: 'x86_64-linux-gnu-gcc (Debian 12.2.0-14+deb12u1) 12.2.0',
  ccCompileBy: 'pkg-xen-devel',
  ccCompileDomain: 'lists.alioth.debian.org',
  ccCompileDate: 'Wed Nov  4 16:52:28 UTC 2026',
  buildId: '151b373fd64b321593bf987fd923cd10dabadac4',
};

/** `4.17.7` */
export function xenVersion({ xenMajor, xenMinor, xenExtra }: MachineDescription): string {
  return `${xenMajor}.${xenMinor}${xenExtra}`;
}

/** In the order in which `xl info` prints them. */
export const virtCapNames: readonly string[] = [
  ...['pv', 'hvm', 'hvm_directio', 'pv_directio', 'hap', 'shadow', 'iommu_hap_pt_share', 'vmtrace', 'vpmu'],
  ...['gnttab-v1', 'gnttab-v2'],
];

/** Xen's schedulers as `sched=` names them, with the titles that Xen has for them. */
export const schedulers: Readonly<Record<string, string>> = {
  credit: 'SMP Credit Scheduler',
  credit2: 'SMP Credit Scheduler rev2',
  rtds: 'SMP RTDS Scheduler',
  null: 'null Scheduler',
};

/** NR_CPUS of Debian's Xen, and MAX_NUMNODES of x86. */
const nrCpusMax = 256;
const nrNodesMax = 64;
/** 16 TiB. */
const totalMbMax = 1 << 24;

/** What is wrong with the file of `--host`; the message names the key. */
export class BadMachine extends Error {
  override readonly name = 'BadMachine';
}

type Rule =
  | { readonly is: 'number'; readonly least: number; readonly most: number }
  | { readonly is: 'text'; readonly like?: RegExp; readonly words?: string }
  | { readonly is: 'choice'; readonly among: readonly string[] }
  | { readonly is: 'list'; readonly among: readonly string[] };

const text: Rule = { is: 'text', like: /^[ -~]*$/, words: 'text of one line, in ASCII' };
const number = (least: number, most: number): Rule => ({ is: 'number', least, most });

/** The keys of the file that are sizes, and what they are in a description. */
const sizes = { totalMb: 'totalKb', xenMb: 'xenKb', dom0Mb: 'dom0Kb', dom0MaxMb: 'dom0MaxKb' } as const;
type FileKey = Exclude<keyof MachineDescription, (typeof sizes)[keyof typeof sizes]> | keyof typeof sizes;

const rules: { readonly [Key in FileKey]: Rule } = {
  hostName: text,
  release: text,
  version: text,
  machine: text,
  nrCpus: number(1, nrCpusMax),
  nrNodes: number(1, nrNodesMax),
  coresPerSocket: number(1, nrCpusMax),
  threadsPerCore: number(1, nrCpusMax),
  cpuKhz: number(1, 99_999_999),
  hwCaps: {
    is: 'text',
    like: /^[0-9a-f]{8}(:[0-9a-f]{8}){7}$/,
    words: 'eight words of eight hexadecimal digits, with colons between',
  },
  virtCaps: { is: 'list', among: virtCapNames },
  totalMb: number(1, totalMbMax),
  xenMb: number(0, totalMbMax),
  dom0Mb: number(1, totalMbMax),
  dom0MaxMb: number(1, totalMbMax),
  dom0Vcpus: number(1, nrCpusMax),
  xenMajor: number(0, 999),
  xenMinor: number(0, 999),
  xenExtra: text,
  xenCaps: text,
  xenScheduler: { is: 'choice', among: Object.keys(schedulers) },
  virtStart: { is: 'text', like: /^0x[0-9a-f]{1,16}$/, words: '0x and hexadecimal digits' },
  xenChangeset: text,
  xenCommandline: text,
  ccCompiler: text,
  ccCompileBy: text,
  ccCompileDomain: text,
  ccCompileDate: text,
  buildId: text,
};

/** A host out of parsed JSON. What follows from another key and is not given follows from it here too. */
export function machineOf(given: unknown): MachineDescription {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) throw new BadMachine('it must be a JSON object');
  const values: { -readonly [Key in keyof MachineDescription]?: unknown } = {};
  for (const [name, value] of Object.entries(given)) {
    if (!isFileKey(name)) throw unknownKey(name);
    const problem = broken(rules[name], value);
    if (problem !== undefined) throw new BadMachine(`${name} must be ${problem}, not ${JSON.stringify(value)}`);
    if (isSize(name)) values[sizes[name]] = Number(value) * kbOfMb;
    else values[name] = value;
  }
  // Each value has been held against the rule of its key.
  const host = { ...defaultMachine, ...(values as Partial<MachineDescription>) };
  const { nrCpus, nrNodes, threadsPerCore, totalKb, dom0Kb } = host;
  const settled: MachineDescription = {
    ...host,
    coresPerSocket: values.coresPerSocket === undefined ? wholeOr1(nrCpus / nrNodes / threadsPerCore) : host.coresPerSocket,
    dom0Vcpus: values.dom0Vcpus === undefined ? nrCpus : host.dom0Vcpus,
    dom0MaxKb: values.dom0MaxKb === undefined ? dom0Kb : host.dom0MaxKb,
    xenKb: values.xenKb === undefined ? Math.min(host.xenKb, Math.max(0, totalKb - dom0Kb)) : host.xenKb,
  };
  const wrong = contradiction(settled);
  if (wrong !== undefined) throw new BadMachine(wrong);
  return settled;
}

function isFileKey(name: string): name is FileKey {
  return Object.hasOwn(rules, name);
}

function isSize(name: FileKey): name is keyof typeof sizes {
  return Object.hasOwn(sizes, name);
}

function wholeOr1(value: number): number {
  return Number.isInteger(value) ? value : 1;
}

function unknownKey(name: string): BadMachine {
  const names = Object.keys(rules);
  const near = nearest(name, names);
  return new BadMachine(
    near === undefined ? `${name} is not known; there are ${names.join(', ')}` : `${name} is not known; did you mean ${near}?`,
  );
}

/** What the value should have been; undefined when it is that. */
function broken(rule: Rule, value: unknown): string | undefined {
  switch (rule.is) {
    case 'number': {
      const fits = Number.isInteger(value) && (value as number) >= rule.least && (value as number) <= rule.most;
      return fits ? undefined : `a whole number from ${rule.least} to ${rule.most}`;
    }
    case 'text':
      return typeof value === 'string' && (rule.like?.test(value) ?? true) ? undefined : (rule.words ?? 'text');
    case 'choice':
      return typeof value === 'string' && rule.among.includes(value) ? undefined : `one of ${rule.among.join(', ')}`;
    case 'list': {
      const fits = Array.isArray(value) && value.every((each) => rule.among.includes(each));
      return fits ? undefined : `a list of any of ${rule.among.join(', ')}`;
    }
  }
}

/** Two keys that cannot both be so. */
function contradiction(host: MachineDescription): string | undefined {
  const { nrCpus, nrNodes } = host;
  const totalMb = mbOf(host.totalKb);
  const xenMb = mbOf(host.xenKb);
  const dom0Mb = mbOf(host.dom0Kb);
  const dom0MaxMb = mbOf(host.dom0MaxKb);
  if (nrNodes > nrCpus) return `nrNodes (${nrNodes}) must not be more than nrCpus (${nrCpus}): each node has a processor`;
  if (dom0Mb >= totalMb) return `dom0Mb (${dom0Mb}) must be less than totalMb (${totalMb})`;
  if (dom0Mb + xenMb > totalMb) return `dom0Mb (${dom0Mb}) and xenMb (${xenMb}) are more than totalMb (${totalMb})`;
  if (dom0MaxMb < dom0Mb) return `dom0MaxMb (${dom0MaxMb}) must not be less than dom0Mb (${dom0Mb})`;
  return undefined;
}

/** As `xl info` prints a size: what is over a whole MiB is left out. */
export function mbOf(kb: number): number {
  return Math.floor(kb / kbOfMb);
}

/** Where a processor is. */
export interface CpuPlace {
  readonly core: number;
  readonly socket: number;
  readonly node: number;
}

/**
 * Where each processor is, by number: threads of a core side by side, then the cores of a socket. Nodes have equal shares of the
 * processors; the first ones have one more when that cannot be.
 */
export function cpuPlaces({ nrCpus, nrNodes, coresPerSocket, threadsPerCore }: MachineDescription): CpuPlace[] {
  return Array.from({ length: nrCpus }, (_, cpu) => {
    const core = Math.floor(cpu / threadsPerCore);
    return {
      core: core % coresPerSocket,
      socket: Math.floor(core / coresPerSocket),
      node: Math.floor((cpu * nrNodes) / nrCpus),
    };
  });
}

/** One NUMA node: what its addresses span, what of it is free, and how far the others are. */
export interface NumaNode {
  readonly sizeMb: number;
  readonly freeMb: number;
  readonly distances: readonly number[];
}

/** Below 4 GiB there are 3 of memory and one of devices; a node's size counts the hole with it. */
const lowMemoryMb = 3072;
const deviceHoleMb = 1024;

/** The nodes, which have equal shares of the memory: no domain is bound to one. */
export function numaNodes({ totalKb, nrNodes }: MachineDescription, freeMb: number): NumaNode[] {
  const installed = mbOf(totalKb) + (mbOf(totalKb) % 2);
  const span = installed + (installed > lowMemoryMb ? deviceHoleMb : 0);
  return Array.from({ length: nrNodes }, (_, node) => ({
    sizeMb: share(span, node, nrNodes),
    freeMb: share(freeMb, node, nrNodes),
    distances: Array.from({ length: nrNodes }, (__, other) => (other === node ? 10 : 20)),
  }));
}

/** The part of `whole` that the node gets, so that all parts make the whole. */
function share(whole: number, node: number, nodes: number): number {
  return Math.floor((whole * (node + 1)) / nodes) - Math.floor((whole * node) / nodes);
}
