/**
 * The language of a network interface: `mac=00:16:3e:00:00:01,bridge=xenbr0,rate=10Mb/s@20ms`.
 *
 * `xl create` splits at commas and goes on after an item it does not know; `xl network-attach` takes each word for one
 * item, commas and all, and stops. A number or a rate that cannot be read ends either (xl 4.17's `parse_nic_config` and
 * Xen's `libxlu_vif.c`).
 */
import type { Nic } from './nic.js';
import { asUint64, strtol } from './strtol.js';

export interface ParsedNic {
  readonly nic: Nic;
  /** xl's lines for stderr. */
  readonly lines: readonly string[];
  /** `refused`: an item was not understood. `fatal`: xl exits with 1, whatever the command. */
  readonly status: 'ok' | 'refused' | 'fatal';
}

/** One string of `vif=[...]`. */
export function parseNicSpec(spec: string, source: string): ParsedNic {
  const items = spec.split(',').filter((item) => item !== '');
  return parseItems(
    items.map((item) => item.replace(/^ +/, '')),
    source,
    'go on',
  );
}

/** The words of `xl network-attach`. */
export function parseNicWords(words: readonly string[], source = 'command line'): ParsedNic {
  return parseItems(words, source, 'stop');
}

type Draft = { -readonly [Key in keyof Nic]: Nic[Key] };

interface NicParse {
  readonly source: string;
  readonly nic: Draft;
  readonly lines: string[];
}

type Outcome = ParsedNic['status'];

function parseItems(items: readonly string[], source: string, whenRefused: 'go on' | 'stop'): ParsedNic {
  const parse: NicParse = { source, nic: {}, lines: [] };
  let status: Outcome = 'ok';
  for (const item of items) {
    const outcome = parseItem(parse, item);
    if (outcome === 'ok') continue;
    status = outcome;
    if (outcome === 'fatal' || whenRefused === 'stop') break;
  }
  return { nic: parse.nic, lines: parse.lines, status };
}

const stringKeys: Readonly<
  Record<string, 'bridge' | 'gatewaydev' | 'ip' | 'script' | 'backendDomname' | 'ifname' | 'model' | 'coloftForwarddev'>
> = {
  bridge: 'bridge',
  gatewaydev: 'gatewaydev',
  netdev: 'gatewaydev',
  ip: 'ip',
  script: 'script',
  backend: 'backendDomname',
  vifname: 'ifname',
  model: 'model',
  forwarddev: 'coloftForwarddev',
};

function parseItem(parse: NicParse, item: string): Outcome {
  const { nic } = parse;
  const equals = item.indexOf('=');
  if (equals < 0) {
    if (item !== 'trusted' && item !== 'untrusted') return refuse(parse, `unrecognized argument \`${item}'`);
    nic.trusted = item === 'trusted';
    return 'ok';
  }
  const key = item.slice(0, equals);
  const value = item.slice(equals + 1);
  const stringKey = Object.hasOwn(stringKeys, key) ? stringKeys[key] : undefined;
  if (key === 'netdev') parse.lines.push('the netdev parameter is deprecated, please use gatewaydev instead');
  if (stringKey) {
    nic[stringKey] = value;
    return 'ok';
  }
  if (coloKey.test(key)) {
    nic.colo = { ...nic.colo, [key]: value };
    return 'ok';
  }
  switch (key) {
    case 'type':
      if (value !== 'vif' && value !== 'ioemu') return refuse(parse, "Invalid parameter `type'.");
      nic.nictype = value === 'vif' ? 'vif' : 'vif_ioemu';
      return 'ok';
    case 'mac':
      return parseMac(parse, value);
    case 'rate':
      return parseRate(parse, value);
    case 'devid':
      return parseNumber(parse, 'devid', value);
    case 'mtu':
      return parseNumber(parse, 'mtu', value);
    case 'accel':
      parse.lines.push('the accel parameter for vifs is currently not supported');
      return 'ok';
    default:
      return refuse(parse, `unrecognized argument \`${item}'`);
  }
}

function refuse(parse: NicParse, line: string): Outcome {
  parse.lines.push(line);
  return 'refused';
}

function parseNumber(parse: NicParse, key: 'devid' | 'mtu', text: string): Outcome {
  const number = strtol(text, 10);
  const value = asUint64(number);
  if (number.end === 0 || value === 2n ** 64n - 1n) {
    parse.lines.push(`xl: failed to convert "${text}" to number`);
    return 'fatal';
  }
  parse.nic[key] = Number(BigInt.asIntN(32, value));
  return 'ok';
}

/** Six hexadecimal numbers with any one character between two. What was read before a mistake stays. */
function parseMac(parse: NicParse, text: string): Outcome {
  const octets: number[] = [];
  let rest = text;
  while (octets.length < 6) {
    const octet = strtol(rest, 16);
    if (octet.end === 0 || octet.value < 0n || octet.value > 255n) break;
    octets.push(Number(octet.value));
    rest = rest.slice(octet.end + 1);
  }
  const before = (parse.nic.mac ?? '00:00:00:00:00:00').split(':').map((octet) => Number.parseInt(octet, 16));
  const mac = formatMac([...octets, ...before.slice(octets.length)]);
  // All zeros is libxl's way to say that there is none.
  if (mac !== '00:00:00:00:00:00') parse.nic.mac = mac;
  else delete parse.nic.mac;
  return octets.length === 6 ? 'ok' : refuse(parse, "Invalid parameter `mac'.");
}

export function formatMac(octets: readonly number[]): string {
  return octets.map((octet) => octet.toString(16).padStart(2, '0')).join(':');
}

const UINT32_MAX = 2n ** 32n - 1n;
const UINT64_MAX = 2n ** 64n - 1n;
const unitFactors: Readonly<Record<string, bigint>> = { G: 1_000_000_000n, M: 1_000_000n, K: 1000n };

/**
 * `RATE[@INTERVAL]`: bits or bytes a second, and how often the credit is renewed. The number is read with C's base 0
 * after its form has been checked, so `010MB/s` is 8 MB/s.
 */
function parseRate(parse: NicParse, text: string): Outcome {
  const at = text.indexOf('@');
  const rate = at < 0 ? text : text.slice(0, at);
  const interval = at < 0 ? undefined : text.slice(at + 1);
  const fail = (message: string, near: string): Outcome => {
    parse.lines.push(`${parse.source}: config parsing error in vif: ${message} in \`${near}'`);
    return 'fatal';
  };
  if (rate === '') return fail('no rate specified', text);

  const rateUnit = /^[0-9]+([GMK]?)([Bb])\/s$/.exec(rate);
  if (!rateUnit) return fail('invalid rate', rate);
  const number = asUint64(strtol(rate));
  if (number === 0n || number > UINT32_MAX) return fail('rate overflow', rate);
  const bytesPerSecond = (number * (unitFactors[rateUnit[1] ?? ''] ?? 1n)) / (rateUnit[2] === 'b' ? 8n : 1n);

  let usecs = 50_000n;
  if (interval !== undefined) {
    const intervalUnit = /^[0-9]+([mu]?)s?$/.exec(interval);
    if (!intervalUnit) return fail('invalid replenishment interval', interval);
    const count = asUint64(strtol(interval));
    const factor = intervalUnit[1] === 'm' ? 1000n : intervalUnit[1] === 'u' ? 1n : 1_000_000n;
    if (count === 0n || count > UINT32_MAX || count * factor > UINT32_MAX)
      return fail('replenishment interval overflow', interval);
    usecs = count * factor;
  }
  if (bytesPerSecond * usecs > UINT64_MAX) return fail('rate overflow', text);
  parse.nic.rateIntervalUsecs = Number(usecs);
  parse.nic.rateBytesPerInterval = Number((bytesPerSecond * usecs) / 1_000_000n);
  return 'ok';
}

/** Sub-keys of COLO, the lock-step replication of HVM guests. */
const coloKey = new RegExp(
  '^colo_(' +
    'sock_(mirror|compare_(sec_in|pri_in|notify)|redirector[0-2]|sec_redirector[01])_(id|ip|port)' +
    '|filter_(mirror_(queue|outdev)|(sec_)?redirector[01]_(queue|indev|outdev)|sec_rewriter0_queue)' +
    '|compare_(pri_in|sec_in|out|notify_dev)' +
    '|checkpoint_(host|port)' +
    ')$',
);
