/**
 * The language of `pci=` and `rdm=` (Xen's `libxlu_pci.c`): read with its complaints, and kept as JSON.
 *
 *   spec := BDF[@SLOT] (',' key=value)*  |  key=value (',' key=value)*       BDF := [DOMAIN:]BUS:DEVICE.FUNCTION
 *
 * All numbers are hexadecimal; the function `*` is all of them.
 */
import { killedBy, scanNumber } from './c-text.js';
import type { JsonObject, JsonValue } from './json.js';
import { atoi } from './strtol.js';
import { type CfgReader, getInt, getString, getStrings, sayUnended } from './xl-cfg.js';
import { exitXl } from './xl-exit.js';

const policies = ['invalid', 'strict', 'relaxed'];

/** What xl never set, and prints as no name at all. */
const unset = null;

export interface PciKeys {
  readonly pcidevs: readonly JsonObject[];
  /** `"rdm"` of an HVM guest. */
  readonly rdm: JsonObject;
}

/** `firstPolicy`: what a guest of this type has for a policy when nothing is said. */
export function readPciKeys(reader: CfgReader, firstPolicy: string | undefined): PciKeys {
  const defaults = {
    msitranslate: (getInt(reader, 'pci_msitranslate') ?? 0) !== 0,
    power_mgmt: (getInt(reader, 'pci_power_mgmt') ?? 0) !== 0,
    permissive: (getInt(reader, 'pci_permissive') ?? 0) !== 0,
    seize: (getInt(reader, 'pci_seize') ?? 0) !== 0,
  };
  const text = getString(reader, 'rdm');
  const rdm = text === undefined ? undefined : readRdm(reader, text);
  const policy = rdm ? rdm.policy : firstPolicy;
  const pcidevs = (getStrings(reader, 'pci') ?? []).map((spec) => {
    const device = readPci(reader, spec, { ...emptyPci, ...defaults, policy });
    if (typeof device !== 'number') return pciJson(device);
    return exitXl(reader, device, `unable to parse PCI_SPEC_STRING \`${spec}' for passthrough`);
  });
  return { pcidevs, rdm: rdm ?? {} };
}

/**
 * `strategy=host`, or undefined where xl throws away what it has read: among others after any policy that there is. What
 * was not given is whatever lay on xl's stack, which has no name.
 */
function readRdm(reader: CfgReader, text: string): { readonly strategy: JsonValue; readonly policy: JsonValue } | undefined {
  let strategy: JsonValue = unset;
  let rest = text;
  for (;;) {
    const equals = rest.indexOf('=');
    if (equals < 0) return undefined;
    const key = rest.slice(0, equals);
    if (key !== 'strategy' && key !== 'policy') {
      sayUnended(reader, `Unknown RDM state option: ${key}`);
      return undefined;
    }
    const comma = rest.indexOf(',', equals);
    const value = rest.slice(equals + 1, comma < 0 ? undefined : comma);
    if (key === 'strategy') {
      if (value !== 'host') {
        sayUnended(reader, `Unknown RDM strategy option: ${value}`);
        return undefined;
      }
      strategy = 'host';
    } else {
      if (policies.includes(value.toLowerCase())) return undefined;
      sayUnended(reader, `Unknown RDM policy: ${value}`);
    }
    if (comma < 0) return { strategy, policy: unset };
    rest = rest.slice(comma + 1);
  }
}

interface Pci {
  domain: number;
  bus: number;
  dev: number;
  func: number;
  vfunc_mask: number;
  vdevfn: number;
  msitranslate: boolean;
  power_mgmt: boolean;
  permissive: boolean;
  seize: boolean;
  policy: JsonValue | undefined;
  name?: string;
}

const emptyPci = { domain: 0, bus: 0, dev: 0, func: 0, vfunc_mask: 0, vdevfn: 0 };

/** libxl's ERROR_INVAL. */
const invalid = 6;

/** The device, or the status with which xl ends. */
function readPci(reader: CfgReader, spec: string, pci: Pci): Pci | number {
  let hasBdf = false;
  let rest = spec;
  const positional = readBdf(reader, pci, spec);
  if (positional !== undefined) {
    hasBdf = true;
    rest = positional;
    if (rest.startsWith('@')) {
      const after = readSlot(pci, rest.slice(1));
      if (after === undefined) return invalid;
      rest = after;
    }
    if (rest.startsWith(',')) rest = rest.slice(1);
    else if (rest !== '') return invalid;
  }
  while (rest !== '') {
    const equals = rest.indexOf('=');
    if (equals < 0) return invalid;
    const key = rest.slice(0, equals);
    const comma = rest.indexOf(',', equals);
    const value = rest.slice(equals + 1, comma < 0 ? undefined : comma);
    rest = comma < 0 ? '' : rest.slice(comma + 1);
    switch (key) {
      case 'bdf':
        if (readBdf(reader, pci, value) === undefined) return invalid;
        hasBdf = true;
        break;
      case 'vslot':
        if (readSlot(pci, value) === undefined) return invalid;
        break;
      case 'permissive':
      case 'msitranslate':
      case 'seize':
      case 'power_mgmt':
        pci[key] = atoi(value) !== 0;
        break;
      case 'rdm_policy': {
        const policy = policies.find((name) => name === value.toLowerCase());
        if (policy === undefined) {
          sayUnended(reader, `Unknown RDM policy: ${value}`);
          return 3;
        }
        pci.policy = policy;
        break;
      }
      case 'name':
        pci.name = value;
        break;
      default:
        sayUnended(reader, `Unknown PCI_SPEC_STRING option: ${key}`);
        return invalid;
    }
  }
  return hasBdf !== (pci.name !== undefined) ? pci : invalid;
}

/** Takes a BDF in front of `text`; what is behind it, or undefined if there is none. Without its point xl goes astray. */
function readBdf(reader: CfgReader, pci: Pci, text: string): string | undefined {
  const colons = (/^[0-9a-f:]*/i.exec(text)?.[0] ?? '').split(':').length - 1;
  if (colons !== 1 && colons !== 2) return undefined;
  const numbers: bigint[] = [];
  let rest = text;
  for (let left = colons; ; left--) {
    const number = scanNumber(rest, 16);
    if (!number) return undefined;
    numbers.push(BigInt.asUintN(32, number.value));
    rest = number.rest;
    if (left === 0) break;
    if (!rest.startsWith(':')) return undefined;
    rest = rest.slice(1);
  }
  const [dev = 0n, bus = 0n, domain = 0n] = numbers.reverse();
  if (domain > 0xffffn || bus > 0xffn || dev > 0x1fn) return undefined;
  if (!rest.startsWith('.')) exitXl(reader, killedBy.segv);
  rest = rest.slice(1);
  let func = 0n;
  let mask = 0xffff_ffff;
  if (rest.startsWith('*')) {
    rest = rest.slice(1);
  } else {
    const number = scanNumber(rest, 16);
    if (!number) return undefined;
    func = BigInt.asUintN(32, number.value);
    if (func > 7n) return undefined;
    mask = 1;
    rest = number.rest;
  }
  Object.assign(pci, { domain: Number(domain), bus: Number(bus), dev: Number(dev), func: Number(func), vfunc_mask: mask });
  return rest;
}

function readSlot(pci: Pci, text: string): string | undefined {
  const number = scanNumber(text, 16);
  const slot = number && BigInt.asUintN(32, number.value);
  if (!number || slot === undefined || slot > 0x1fn) return undefined;
  pci.vdevfn = Number(slot) << 3;
  return number.rest;
}

function pciJson({ domain, bus, dev, func, vfunc_mask, vdevfn, policy, name, ...flags }: Pci): JsonObject {
  const numbers = Object.entries({ func, dev, bus, domain, vdevfn, vfunc_mask });
  const set = Object.entries({
    msitranslate: flags.msitranslate,
    power_mgmt: flags.power_mgmt,
    permissive: flags.permissive,
    seize: flags.seize,
  });
  return {
    ...Object.fromEntries(numbers.filter(([, value]) => value !== 0)),
    ...Object.fromEntries(set.filter(([, value]) => value)),
    ...(policy === undefined || policy === 'invalid' ? {} : { rdm_policy: policy }),
    ...(name === undefined ? {} : { name }),
  };
}
