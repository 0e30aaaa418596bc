/**
 * `vnuma=`: a list for each virtual NUMA node, of `pnode=N`, `size=MIB`, `vcpus=LIST` and `vdistances=LIST`.
 *
 * A dry run shows the nodes; libxl refuses them for guests that run here.
 */
import { splitList, splitPair, trim } from './c-text.js';
import type { JsonObject, JsonValue } from './json.js';
import { asUint64, strtol } from './strtol.js';
import { type CfgReader, type CfgValue, getList, warnOfItem } from './xl-cfg.js';
import { exitXl } from './xl-exit.js';

/** The host has one node. */
const hostNodes = 1n;
/** More vcpus than any Xen gives a domain: xl would count on for minutes. */
const vcpusMax = 1n << 20n;
/** Each node knows its distance to each other. */
const nodesMax = 1024;

export interface Vnuma {
  readonly nodes: readonly JsonObject[];
  readonly maxVcpus: number;
  readonly maxMemkb: bigint;
  /** Whether a node names a node of the host, which leaves nothing to libxl's placement. */
  readonly placed: boolean;
}

interface Node {
  memkb?: bigint;
  pnode: number;
  readonly distances: number[];
  readonly vcpus: Set<number>;
}

interface Given {
  /** `maxvcpus`, 0 without. */
  readonly maxVcpus: number;
  readonly maxMemkb: number | undefined;
  readonly pcpus: number;
}

export function readVnuma(reader: CfgReader, given: Given): Vnuma | undefined {
  const items = getList(reader, 'vnuma', { quiet: true });
  if (!items || items.length === 0) return undefined;
  if (items.length > nodesMax) exitXl(reader, 1, `xl: vnuma=: this model of xl has at most ${nodesMax} nodes`);
  const nodes = items.map((): Node => ({ pnode: 0, distances: items.map(() => 0), vcpus: new Set() }));
  const wanted = BigInt(Math.ceil((given.maxVcpus || given.pcpus) / 8) * 8);
  const total = { vcpus: 0n, memkb: 0n, placed: false, width: wanted < vcpusMax ? wanted : vcpusMax };
  for (const [index, item] of items.entries()) {
    const node = nodes[index];
    if (node) readNode(reader, item, node, total);
  }
  if (given.maxVcpus !== 0) {
    if (BigInt(given.maxVcpus) !== total.vcpus) exitXl(reader, 1, 'xl: vnuma vcpus and maxvcpus= mismatch');
  } else if (BigInt(given.pcpus) < total.vcpus) {
    exitXl(reader, 1, 'xl: vnuma specifies more vcpus than pcpus, use maxvcpus= to override this check.');
  }
  const maxMemkb = BigInt.asUintN(64, total.memkb);
  if (given.maxMemkb !== undefined && BigInt.asUintN(64, BigInt(given.maxMemkb)) !== maxMemkb) {
    exitXl(reader, 1, 'xl: maxmem and vnuma memory size mismatch');
  }
  return { nodes: nodes.map(nodeJson), maxVcpus: Number(total.vcpus), maxMemkb, placed: total.placed };
}

interface Total {
  vcpus: bigint;
  memkb: bigint;
  placed: boolean;
  /** How many vcpus a set has room for; others are counted and forgotten. */
  readonly width: bigint;
}

function readNode(reader: CfgReader, item: CfgValue, node: Node, total: Total): void {
  if (item.kind !== 'list') {
    warnOfItem(reader, item, 'value is not a list');
    exitXl(reader, 1, 'xl: cannot get vnode config option list');
  }
  for (const option of item.items) {
    if (option.kind !== 'string') continue;
    const pair = splitPair(option.text, '=') ?? exitXl(reader, 1, `xl: failed to split "${option.text}" into pair`);
    const value = trim(pair[1]);
    switch (trim(pair[0])) {
      case 'pnode': {
        const number = readNumber(reader, value);
        if (number >= hostNodes) exitXl(reader, 1, `xl: invalid pnode number: ${number}`);
        node.pnode = Number(number);
        total.placed = true;
        break;
      }
      case 'size':
        node.memkb = BigInt.asUintN(64, readNumber(reader, value) << 10n);
        total.memkb += node.memkb;
        break;
      case 'vcpus':
        for (const range of splitList(reader, value, ',')) addVcpus(range, node, total);
        break;
      case 'vdistances':
        for (const [index, text] of splitList(reader, value, ',').entries()) {
          const distance = Number(BigInt.asUintN(32, readNumber(reader, text)));
          if (index < node.distances.length) node.distances[index] = distance;
        }
        break;
      default:
    }
  }
}

/** `strtoul` in base 10, of which only its greatest number and no number at all are mistakes. */
function readNumber(reader: CfgReader, text: string): bigint {
  const number = strtol(text, 10);
  const value = asUint64(number);
  if (number.end > 0 && value < 2n ** 64n - 1n) return value;
  return exitXl(reader, 1, `xl: failed to convert "${text}" to number`);
}

/** `A` or `A-B`. What does not belong to a number is passed over, and nothing at all is 0: xl does not look at the outcome. */
function addVcpus(text: string, node: Node, total: Total): void {
  const first = strtol(text, 10);
  const from = first.end === 0 ? 0n : asUint64(first);
  let to = from;
  if (first.end > 0 && text.charAt(first.end) === '-') to = asUint64(strtol(text.slice(first.end + 1), 10));
  if (to < from) return;
  total.vcpus += to - from + 1n;
  const end = to < total.width ? to : total.width - 1n;
  for (let vcpu = from; vcpu <= end; vcpu++) node.vcpus.add(Number(vcpu));
}

function nodeJson({ memkb, distances, pnode, vcpus }: Node): JsonObject {
  const json: Record<string, JsonValue> = {};
  if (memkb !== undefined) json['memkb'] = memkb <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(memkb) : memkb;
  json['distances'] = distances;
  if (pnode !== 0) json['pnode'] = pnode;
  if (vcpus.size > 0) json['vcpus'] = [...vcpus].sort((a, b) => a - b);
  return json;
}
