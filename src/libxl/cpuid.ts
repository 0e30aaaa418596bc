/**
 * `cpuid=`: what a guest sees of the processor, in both of xl's syntaxes, as the JSON of libxl's policies.
 *
 *   cpuid = "host,avx512f=0,family=6"              names of fields, with a value or a rule for each bit
 *   cpuid = [ "0x1:ecx=xxxx...,edx=xxxx..." ]      xend's: a leaf, and 32 rules for the bits of a register
 *
 * A rule is 1, 0, x (as xl would), k (as the host has it) or s (the same). The names are those of Xen's public header
 * `arch-x86/cpufeatureset.h` and libxl's own. A mistake is told, and the rest holds: nothing here ends xl.
 */
import type { JsonObject } from './json.js';
import { saturate, strtol } from './strtol.js';
import { type CfgReader, getList, getString, getStrings } from './xl-cfg.js';

const registers = ['eax', 'ebx', 'ecx', 'edx'] as const;
type Register = (typeof registers)[number];

interface Leaf {
  readonly leaf: number;
  readonly subleaf: number;
  /** 32 rules each, bit 31 first. */
  readonly registers: Partial<Record<Register, string>>;
}

interface Policies {
  readonly leaves: Leaf[];
  /** 64 rules each, bit 63 first, by the number of the register. */
  readonly msrs: Map<number, string>;
}

/** What libxl takes for "no subleaf", and for the end of its list: a leaf of this number is forgotten. */
const unused = 0xffff_ffff;

/** The policies of `cpuid`, or undefined where xl's JSON would have none. */
export function readCpuid(reader: CfgReader): JsonObject | undefined {
  const policies: Policies = { leaves: [], msrs: new Map() };
  if (getList(reader, 'cpuid', { quiet: true })) {
    for (const line of getStrings(reader, 'cpuid') ?? []) {
      const error = readXendLine(policies, line);
      if (error === 0) continue;
      reader.lines.push(`while parsing CPUID line: "${line}":`, `  error #${error}: ${xendErrors[error]}`);
    }
  } else {
    readNames(reader, policies, getString(reader, 'cpuid') ?? '');
  }
  const { leaves } = policies;
  if (leaves.length === 0 && policies.msrs.size === 0) return undefined;
  return {
    cpuid: leaves.map(({ leaf, subleaf, registers: rules }) => ({
      leaf,
      ...(subleaf === unused ? {} : { subleaf }),
      ...Object.fromEntries(registers.flatMap((register) => (rules[register] ? [[register, rules[register]]] : []))),
    })),
    msr: [...policies.msrs].map(([index, policy]) => ({ index, policy })),
  };
}

function leafOf({ leaves }: Policies, leaf: number, subleaf: number): Leaf {
  const found = leaves.find((each) => each.leaf === leaf && each.subleaf === subleaf);
  if (found) return found;
  const added = { leaf, subleaf, registers: {} };
  if (leaf !== unused) leaves.push(added);
  return added;
}

// ---- The syntax of names

interface Field {
  readonly name: string;
  readonly leaf: number;
  readonly subleaf: number;
  readonly register: Register;
  readonly bit: number;
  readonly length: number;
}

const nameErrors = ['', 'missing "=" in key=value', 'unknown CPUID flag name', 'illegal CPUID value (must be: [0|1|x|k|s])'];

function readNames(reader: CfgReader, policies: Policies, text: string): void {
  const [first, ...items] = text.split(',').filter((item) => item !== '');
  if (first === undefined) return;
  if (first !== 'host') {
    reader.lines.push(`while parsing CPUID string: "${text}":`, '  error: first word must be "host"');
    return;
  }
  for (const item of items) {
    const error = readName(policies, item);
    if (error > 0) reader.lines.push(`while parsing CPUID flag: "${item}":`, `  error #${error}: ${nameErrors[error]}`);
  }
}

/** Takes one `name=value`; the number of the error, or 0. */
function readName(policies: Policies, item: string): number {
  const equals = item.indexOf('=');
  if (equals < 0) return 1;
  const name = item.slice(0, equals);
  const value = item.slice(equals + 1);
  const field = fields.get(name);
  if (field) return addField(policies, field, value);
  const feature = features.get(name);
  if (feature === undefined) return 2;
  const place = featureWords[feature >> 5];
  if (!place) return 2;
  const [leaf, subleaf, register] = place;
  if (register === 'msr') return addMsr(policies, leaf, (feature & 31) + subleaf, value);
  return addField(policies, { name, leaf, subleaf, register, bit: feature & 31, length: 1 }, value);
}

/** A number is its lowest bits; a rule is for all of them. The leaf is there even if the value is none. */
function addField(policies: Policies, field: Field, value: string): number {
  const entry = leafOf(policies, field.leaf, field.subleaf);
  const parsed = strtol(value);
  let number = saturate(parsed.value);
  let bits: string;
  if (parsed.end > 0) bits = binary(number, field.length);
  else if (/^[xks]/.test(value)) bits = value.charAt(0).repeat(field.length);
  else return 3;
  const rules = entry.registers[field.register] ?? 'x'.repeat(32);
  let result: string;
  if (field.name === 'family') {
    // Four bits, and eight more in another place that are added to them when they are all ones.
    if (number < 16n) {
      result = place(place(rules, field.bit, bits.slice(4)), 20, '00000000');
    } else {
      number -= 15n;
      result = place(place(rules, field.bit, '1111'), 20, bits.charAt(0) + binary(number, 7));
    }
  } else if (field.name === 'model') {
    result = place(place(rules, 16, bits.slice(0, 4)), field.bit, bits.slice(4));
  } else {
    result = place(rules, field.bit, bits);
  }
  entry.registers[field.register] = result;
  return 0;
}

function binary(number: bigint, length: number): string {
  return BigInt.asUintN(length, number).toString(2).padStart(length, '0');
}

/** `rules` with `bits` of which the lowest is bit number `bit`. */
function place(rules: string, bit: number, bits: string): string {
  const end = rules.length - bit;
  return rules.slice(0, end - bits.length) + bits + rules.slice(end);
}

/** The bit of a model-specific register; its rule is one character, and s is k. */
function addMsr({ msrs }: Policies, index: number, bit: number, value: string): number {
  const rules = msrs.get(index) ?? 'x'.repeat(64);
  msrs.set(index, rules);
  if (!/^[01xks]$/.test(value)) return 3;
  msrs.set(index, place(rules, bit, value === 's' ? 'k' : value));
  return 0;
}

function field(name: string, leaf: number, register: Register, bit: number, length = 1, subleaf = unused): Field {
  return { name, leaf, subleaf, register, bit, length };
}

/** libxl's own names, which win over Xen's. */
const fields: ReadonlyMap<string, Field> = new Map(
  [
    field('maxleaf', 0, 'eax', 0, 32),
    field('stepping', 1, 'eax', 0, 4),
    field('model', 1, 'eax', 4, 8),
    field('family', 1, 'eax', 8, 8),
    field('brandid', 1, 'ebx', 0, 8),
    field('clflush', 1, 'ebx', 8, 8),
    field('proccount', 1, 'ebx', 16, 8),
    field('localapicid', 1, 'ebx', 24, 8),
    field('est', 1, 'ecx', 7),
    field('cntxid', 1, 'ecx', 10),
    field('cmpxchg16', 1, 'ecx', 13),
    field('sse4_1', 1, 'ecx', 19),
    field('sse4.1', 1, 'ecx', 19),
    field('sse4_2', 1, 'ecx', 20),
    field('sse4.2', 1, 'ecx', 20),
    field('aes', 1, 'ecx', 25),
    field('cmpxchg8', 1, 'edx', 8),
    field('sysenter', 1, 'edx', 11),
    field('psn', 1, 'edx', 18),
    field('clfsh', 1, 'edx', 19),
    field('tm', 1, 'edx', 29),
    field('ia64', 1, 'edx', 30),
    field('pbe', 1, 'edx', 31),
    field('arat', 6, 'eax', 2),
    field('tsc_adjust', 7, 'ebx', 1, 1, 0),
    field('cmt', 7, 'ebx', 12, 1, 0),
    field('lahfsahf', 0x8000_0001, 'ecx', 0),
    field('cmplegacy', 0x8000_0001, 'ecx', 1),
    field('altmovcr8', 0x8000_0001, 'ecx', 4),
    field('nodeid', 0x8000_0001, 'ecx', 19),
    field('perfctr_core', 0x8000_0001, 'ecx', 23),
    field('perfctr_nb', 0x8000_0001, 'ecx', 24),
    field('procpkg', 4, 'eax', 26, 6, 0),
    field('invtsc', 0x8000_0007, 'edx', 8),
    field('ppin', 0x8000_0008, 'ebx', 23),
    field('btc-no', 0x8000_0008, 'ebx', 29),
    field('nc', 0x8000_0008, 'ecx', 0, 8),
    field('apicidsize', 0x8000_0008, 'ecx', 12, 4),
    field('svm_npt', 0x8000_000a, 'edx', 0),
    field('svm_lbrv', 0x8000_000a, 'edx', 1),
    field('svm_nrips', 0x8000_000a, 'edx', 3),
    field('svm_tscrate', 0x8000_000a, 'edx', 4),
    field('svm_vmcbclean', 0x8000_000a, 'edx', 5),
    field('svm_decode', 0x8000_000a, 'edx', 7),
    field('svm_pausefilt', 0x8000_000a, 'edx', 10),
    field('lfence+', 0x8000_0021, 'eax', 2),
    field('maxhvleaf', 0x4000_0000, 'eax', 0, 8),
  ].map((each) => [each.name, each]),
);

/** Where the 32 features of each word are found: leaf, subleaf and register; or an MSR, and its half by the first bit. */
const featureWords: readonly (readonly [leaf: number, subleaf: number, register: Register | 'msr'])[] = [
  [1, unused, 'edx'],
  [1, unused, 'ecx'],
  [0x8000_0001, unused, 'edx'],
  [0x8000_0001, unused, 'ecx'],
  [0xd, 1, 'eax'],
  [7, 0, 'ebx'],
  [7, 0, 'ecx'],
  [0x8000_0007, unused, 'edx'],
  [0x8000_0008, unused, 'ebx'],
  [7, 0, 'edx'],
  [7, 1, 'eax'],
  [0x8000_0021, unused, 'eax'],
  [7, 1, 'ebx'],
  [7, 2, 'edx'],
  [7, 1, 'ecx'],
  [7, 1, 'edx'],
  [0x10a, 0, 'msr'],
  [0x10a, 32, 'msr'],
  [0x8000_0021, unused, 'ecx'],
];

/** The names of the words above from bit 0 on; a number is that many bits without one. */
const featureNames: readonly string[] = [
  'fpu vme de pse tsc msr pae mce cx8 apic 1 sep mtrr pge mca cmov pat pse36 1 clflush 1 ds acpi mmx fxsr sse ' +
    'sse2 ss htt tm1 1 pbe',
  'sse3 pclmulqdq dtes64 monitor dscpl vmx smx eist tm2 ssse3 2 fma cx16 xtpr pdcm 1 pcid dca sse4-1 sse4-2 ' +
    'x2apic movbe popcnt tsc-deadline aesni xsave osxsave avx f16c rdrand hypervisor',
  '11 syscall 8 nx 1 mmxext 2 ffxsr page1gb rdtscp 1 lm 3dnowext 3dnow',
  'lahf-lm cmp-legacy svm extapic cr8-legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt 1 lwp ' +
    'fma4 2 nodeid-msr 1 tbm topoext 3 dbext 2 monitorx',
  'xsaveopt xsavec xgetbv1 xsaves',
  'fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excp-only smep bmi2 erms invpcid rtm pqm no-fpu-sel mpx pqe ' +
    'avx512f avx512dq rdseed adx smap avx512-ifma 1 clflushopt clwb proc-trace avx512pf avx512er avx512cd sha ' +
    'avx512bw avx512vl',
  'prefetchwt1 avx512-vbmi umip pku ospke 1 avx512-vbmi2 cet-ss gfni vaes vpclmulqdq avx512-vnni avx512-bitalg ' +
    '1 avx512-vpopcntdq 7 rdpid 2 cldemote 1 movdiri movdir64b enqcmd',
  '7 hw-pstate itsc cpb efro',
  'clzero 1 rstr-fp-err-ptrs 6 wbnoinvd 2 ibpb 1 ibrs amd-stibp ibrs-always stibp-always ibrs-fast ' +
    'ibrs-same-mode no-lmsl 2 amd-ppin amd-ssbd virt-ssbd ssb-no 1 psfd btc-no ibpb-ret',
  '2 avx512-4vnniw avx512-4fmaps fsrm 3 avx512-vp2intersect srbds-ctrl md-clear rtm-always-abort 1 ' +
    'tsx-force-abort serialize hybrid tsxldtrk 3 cet-ibt 2 avx512-fp16 2 ibrsb stibp l1d-flush arch-caps ' +
    'core-caps ssbd',
  '4 avx-vnni avx512-bf16 4 fzrm fsrs fsrcs',
  '2 lfence-dispatch 2 verw-clear nscb 1 auto-ibrs 18 sbpb ibpb-brtype srso-no srso-us-no srso-msr-fix',
  'intel-ppin',
  'intel-psfd ipred-ctrl rrsba-ctrl 1 bhi-ctrl mcdt-no',
  '',
  '18 cet-sss',
  'rdcl-no eibrs rsba skip-l1dfl intel-ssb-no mds-no if-pschange-mc-no tsx-ctrl taa-no mcu-ctrl misc-pkg-ctrl ' +
    'energy-filtering doitm sbdr-ssdp-no fbsdp-no psdp-no 1 fb-clear fb-clear-ctrl rrsba bhi-no xapic-status 1 ' +
    'ovrclk-status pbrsb-no gds-ctrl gds-no rfds-no rfds-clear',
  '30 its-no',
  '1 tsa-sq-no tsa-l1-no',
];

/** The number of each feature: 32 times its word and its bit. */
const features: ReadonlyMap<string, number> = new Map(featureNames.flatMap(namesOfWord));

function namesOfWord(names: string, word: number): [string, number][] {
  let bit = word * 32;
  return names.split(' ').flatMap((name): [string, number][] => {
    if (name === '') return [];
    if (/^\d+$/.test(name)) {
      bit += Number(name);
      return [];
    }
    return [[name, bit++]];
  });
}

// ---- xend's syntax

const xendErrors = [
  '',
  'illegal leaf number',
  'illegal subleaf number',
  'missing colon',
  'invalid register name (must be e[abcd]x)',
  'policy string must be exactly 32 characters long',
];

/** Takes `LEAF[,SUBLEAF]:REGISTER=RULES,...`; the number of the error, or 0. What came before a mistake holds. */
function readXendLine(policies: Policies, line: string): number {
  let rest = line;
  const leaf = strtol(rest);
  if (leaf.end === 0) return 1;
  rest = rest.slice(leaf.end);
  let subleaf = unused;
  if (rest.startsWith(',')) {
    const parsed = strtol(rest.slice(1));
    if (parsed.end === 0) return 2;
    subleaf = low32(parsed.value);
    rest = rest.slice(1 + parsed.end);
  }
  if (!rest.startsWith(':')) return 3;
  rest = rest.slice(1);
  const entry = leafOf(policies, low32(leaf.value), subleaf);
  while (rest !== '') {
    if (rest.charAt(0) !== 'e' || rest.charAt(2) !== 'x') return 4;
    const register = registers.find((name) => name.charAt(1) === rest.charAt(1));
    const equals = rest.indexOf('=');
    if (!register || equals < 0) return 4;
    const comma = rest.indexOf(',', equals);
    const rules = rest.slice(equals + 1, comma < 0 ? undefined : comma);
    if (rules.length !== 32) return 5;
    entry.registers[register] = rules;
    rest = comma < 0 ? '' : rest.slice(comma + 1).replace(/^[ \n]+/, '');
  }
  return 0;
}

function low32(value: bigint): number {
  return Number(BigInt.asUintN(32, saturate(value)));
}
