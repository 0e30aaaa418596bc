/** Sets of processors: `0-3,^2`, `all`, `nodes:0`, and how xl prints them. The rules are xl's (`docs/man/xl.cfg.5`, `cpus=`). */
import { asUint64, strtol } from './strtol.js';

/**
 * The processors that `text` names, for a host of `pcpus` processors in one NUMA node, or what is wrong with it.
 *
 * A set is kept in whole bytes, as libxl keeps it: `all` of 2 processors is 0 to 7. What lies beyond is ignored.
 */
export function cpuList(text: string, pcpus: number, cpus = new Set<number>()): readonly number[] | string {
  const size = Math.ceil(pcpus / 8) * 8;
  for (const item of text.split(',')) {
    const mistake = item === '' ? undefined : addCpus(item, cpus, size, pcpus);
    if (mistake !== undefined) return mistake;
  }
  return [...cpus].sort((a, b) => a - b);
}

function addCpus(item: string, cpus: Set<number>, size: number, pcpus: number): string | undefined {
  const [, not = '', nodes = '', range = ''] = /^(\^?)(nodes?:)?(.*)$/s.exec(item) ?? [];
  if (range === 'all') {
    if (not) return 'Can\'t combine "^" and "all".';
    for (let cpu = 0; cpu < size; cpu++) cpus.add(cpu);
    return undefined;
  }
  const parsed = parseRange(range);
  if (!parsed) return `Invalid pcpu range: ${range}.`;
  let [first, last] = parsed;
  if (nodes) {
    if (!isWithin(0n, first, last)) return undefined;
    [first, last] = [0n, BigInt(pcpus - 1)];
  }
  for (let cpu = 0n; cpu < BigInt(size); cpu++) {
    if (!isWithin(cpu, first, last)) continue;
    if (not) cpus.delete(Number(cpu));
    else cpus.add(Number(cpu));
  }
  return undefined;
}

/** A set as xl prints it, looking at the first `count` only: `all`, `none`, `0-1,5`. */
export function cpuListText(cpus: readonly number[], count: number): string {
  const ranges: [number, number][] = [];
  for (const cpu of [...cpus].sort((a, b) => a - b)) {
    if (cpu >= count) continue;
    const last = ranges.at(-1);
    if (last && last[1] === cpu - 1) last[1] = cpu;
    else ranges.push([cpu, cpu]);
  }
  const [first, ...more] = ranges;
  if (!first) return 'none';
  if (more.length === 0 && first[0] === 0 && first[1] === count - 1) return 'all';
  return ranges.map(([from, to]) => (from === to ? String(from) : `${from}-${to}`)).join(',');
}

/** Whether one of the numbers of the range has these lower 32 bits, which are all that libxl looks at. */
function isWithin(cpu: bigint, first: bigint, last: bigint): boolean {
  const turn = 1n << 32n;
  const next = cpu + ((first - cpu + turn - 1n) / turn) * turn;
  return (cpu >= first ? cpu : next) <= last;
}

/** `5` or `2-5`; undefined for anything else, the greatest number of 64 bits among it. */
function parseRange(text: string): [bigint, bigint] | undefined {
  const first = strtol(text, 10);
  const from = asUint64(first);
  if (first.end === 0 || from === UINT64_MAX) return undefined;
  if (text.charAt(first.end) !== '-') return first.end === text.length ? [from, from] : undefined;
  const rest = text.slice(first.end + 1);
  const last = strtol(rest, 10);
  const to = asUint64(last);
  return last.end === 0 || to === UINT64_MAX || to < from || last.end < rest.length ? undefined : [from, to];
}

const UINT64_MAX = 2n ** 64n - 1n;
