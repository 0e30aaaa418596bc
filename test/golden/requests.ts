/**
 * Changing requests, as a real host's trace and our own have them, in one form that can be compared.
 *
 * What differs between any two runs is put aside: watch tokens, uuids, event channels, frame numbers, grant references
 * and start times. A transaction is one entry, its writes in order; one that was thrown away, or wrote nothing, is
 * left out.
 */
import { readFileSync } from 'node:fs';
import type { TraceLine } from '../../src/xenbus/trace.js';

export interface Request {
  readonly who: string;
  readonly conn: string;
  /** Of one transaction; 0 outside of any. The recordings do not tell two of one connection apart. */
  readonly tx: number;
  readonly text: string;
}

const changing = new Set(['WRITE', 'MKDIR', 'RM', 'SET_PERMS', 'WATCH', 'UNWATCH', 'INTRODUCE', 'RELEASE']);

export function data(name: string): string {
  return readFileSync(new URL(`data/${name}`, import.meta.url), 'utf8');
}

/**
 * `#1  xl          [T WRITE /local/domain/1/name pv`, as test/golden/data has them. Any request while a transaction is open
 * on its connection is marked there. Of a kernel, whose threads share one, those are another thread's that watch something,
 * or stand in a transaction that is thrown away: such a one has written nothing.
 */
export function recorded(text: string): Request[] {
  const requests = marked(text);
  const outside = new Set<Request>();
  const open = new Map<string, Request[]>();
  for (const request of requests) {
    const { conn, who, text } = request;
    const inside = open.get(conn);
    if (text === 'TSTART') open.set(conn, []);
    else if (/^(UN)?WATCH /.test(text)) outside.add(request);
    else if (text.startsWith('TEND')) {
      if (text === 'TEND F' && who.endsWith('-kernel')) for (const each of inside ?? []) outside.add(each);
      open.delete(conn);
    } else inside?.push(request);
  }
  return requests.map((request) => (outside.has(request) ? { ...request, tx: 0 } : request));
}

function marked(text: string): Request[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const match = /^(#\d+) +(\S+) +(\[T)? ?(.*)$/.exec(line);
      if (!match) throw new Error(`not a request: ${line}`);
      const [, conn = '', who = '', tx, rest = ''] = match;
      return { who, conn, tx: tx !== undefined || /^T(START|END)/.test(rest.trim()) ? 1 : 0, text: rest.trim() };
    });
}

/** Our trace in the same form. Requests that the server refused count, as they do in the recordings. */
export function traced(lines: readonly TraceLine[]): Request[] {
  return lines.flatMap(({ conn, who, op, tx, args, result }) => {
    const name = op === 'TRANSACTION_START' ? 'TSTART' : op === 'TRANSACTION_END' ? 'TEND' : op;
    if (!changing.has(name) && name !== 'TSTART' && name !== 'TEND') return [];
    if (name === 'TEND' && result === 'EAGAIN') return [{ who, conn: `#${conn}`, tx, text: 'TEND F' }];
    const shown = name === 'TSTART' ? [] : args;
    const started = name === 'TSTART' ? Number(result) : tx;
    return [{ who, conn: `#${conn}`, tx: started, text: [name, ...shown].join(' ').trim() }];
  });
}

/** One request outside a transaction, or a committed transaction's writes. */
export type Unit = readonly string[];

/** What one connection changed, in order, with what never agrees put aside. */
export function units(requests: readonly Request[], domid: number): Unit[] {
  const done: Unit[] = [];
  const open = new Map<number, string[]>();
  for (const { text, tx } of requests) {
    const inside = open.get(tx);
    if (text === 'TSTART') open.set(tx, []);
    else if (text.startsWith('TEND')) {
      if (text === 'TEND T' && inside && inside.length > 0) done.push(inside);
      open.delete(tx);
    } else if (tx !== 0 && inside) inside.push(normal(text, domid));
    else done.push([normal(text, domid)]);
  }
  return done;
}

function normal(text: string, domid: number): string {
  return text
    .replace(/^((?:UN)?WATCH \S+) .*$/, '$1')
    .replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, 'UUID')
    .replace(/((?:ring-ref|port|event-channel(?:-[tr]x)?|start_time)) \S+$/, '$1 ...')
    .replace(new RegExp(`(/domain/|mtwatch/|libxl/|/vbd/|/vif/|/console/)${domid}(?=/|$| )`, 'g'), '$1N')
    .replace(new RegExp(`((?:frontend-id|/domid)) ${domid}$`), '$1 N')
    .replace(new RegExp(`^INTRODUCE ${domid} .*$`), 'INTRODUCE N ... ...')
    .replace(new RegExp(`((?:SET_PERMS).* [nrwb])${domid}(?= |$)`, 'g'), '$1N');
}

/** The units of one device (`vbd`, `vif`), or of none of them. Lines of a vbd and of a vif may interleave. */
export function about(all: readonly Unit[], device: 'vbd' | 'vif' | 'other'): Unit[] {
  return all.filter((unit) => kindOf(unit) === device);
}

function kindOf(unit: Unit): 'vbd' | 'vif' | 'other' {
  const text = unit.join('\n');
  return text.includes('/vbd/') ? 'vbd' : text.includes('/vif/') ? 'vif' : 'other';
}

/** Each connection of `who`, as its units. */
export function connections(requests: readonly Request[], who: string, domid: number): Unit[][] {
  const byConn = new Map<string, Request[]>();
  for (const request of requests) {
    if (request.who !== who) continue;
    const list = byConn.get(request.conn) ?? [];
    list.push(request);
    byConn.set(request.conn, list);
  }
  return [...byConn.values()].map((list) => units(list, domid)).filter((list) => list.length > 0);
}

/** The lines of a store's listing (`xenstore-ls -fp`), with what never agrees put aside. */
export function nodes(listing: string): string[] {
  return listing
    .split('\n')
    .filter((line) => line !== '')
    .map((line) =>
      line
        .replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, 'UUID')
        .replace(/((?:ring-ref|port|event-channel(?:-[tr]x)?|start_time)) = "\d[\d.]*"/, '$1 = "..."'),
    );
}

/** The recording's connection of `who` with the most requests: the others are scripts that speak through the kernel. */
export function mainConnection(requests: readonly Request[], who: string, domid: number): Unit[] {
  const all = connections(requests, who, domid);
  return all.reduce((longest, units) => (units.length > longest.length ? units : longest), []);
}
