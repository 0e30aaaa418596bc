/** Sets of processors: `0-3,^2`, `all`, `nodes:0`. The rules are xl's (`docs/man/xl.cfg.5`, `cpus=`). */
import { asUint64, strtol } from './strtol.js';
import type { CfgReader } from './xl-cfg.js';
import { exitXl } from './xl-exit.js';

/**
 * The processors that `text` names, for a host of `pcpus` processors in one NUMA node.
 *
 * A set is kept in whole bytes, as libxl keeps it: `all` of 2 processors is 0 to 7. What lies beyond is ignored.
 */
export function parseCpuList(reader: CfgReader, text: string, pcpus: number, cpus = new Set<number>()): readonly number[] {
  const size = Math.ceil(pcpus / 8) * 8;
  for (const item of text.split(',')) {
    if (item !== '') addCpus(reader, item, cpus, size, pcpus);
  }
  return [...cpus].sort((a, b) => a - b);
}

function addCpus(reader: CfgReader, item: string, cpus: Set<number>, size: number, pcpus: number): void {
  const [, not = '', nodes = '', range = ''] = /^(\^?)(nodes?:)?(.*)$/s.exec(item) ?? [];
  if (range === 'all') {
    if (not) exitXl(reader, 1, 'Can\'t combine "^" and "all".');
    for (let cpu = 0; cpu < size; cpu++) cpus.add(cpu);
    return;
  }
  let [first, last] = parseRange(range) ?? exitXl(reader, 1, `Invalid pcpu range: ${range}.`);
  if (nodes) {
    if (first > 0) return;
    [first, last] = [0, pcpus - 1];
  }
  for (let cpu = first; cpu <= Math.min(last, size - 1); cpu++) {
    if (not) cpus.delete(cpu);
    else cpus.add(cpu);
  }
}

/** `5` or `2-5`; undefined for anything else. */
function parseRange(text: string): [number, number] | undefined {
  const first = strtol(text, 10);
  if (first.end === 0) return undefined;
  if (text.charAt(first.end) !== '-') return first.end === text.length ? [index(first), index(first)] : undefined;
  const rest = text.slice(first.end + 1);
  const last = strtol(rest, 10);
  if (last.end === 0 || last.end < rest.length || asUint64(last) < asUint64(first)) return undefined;
  return [index(first), index(last)];
}

function index(number: ReturnType<typeof strtol>): number {
  return Number(asUint64(number));
}
