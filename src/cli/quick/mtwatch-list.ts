/** `xl mtwatch list`: dom0's watch threads, or what a foreign store tells of them. */

import type { Ctx } from '../../libxl/ctx.js';
import { domidToName } from '../../libxl/domain.js';
import { announcedDomids, orphansNow } from '../../libxl/mtwatch-nodes.js';
import { everyDomain, everyWatchThread, type WatchThread } from '../../xenbus/privcmd.js';
import { byteString, textOf } from '../../xenbus/xs-client.js';
import { coloured, printJson, type Session } from '../session.js';

/** A row: a thread of the embedded dom0, or what the nodes of a foreign store tell without any. */
export interface Row {
  readonly domid: number;
  readonly name: string | null;
  readonly node: boolean;
  readonly thread: string | null;
  readonly pid: number | null;
  readonly state: WatchThread['state'] | null;
  readonly pending: number | null;
  readonly handled: number | null;
  readonly retiring: boolean | null;
  readonly running: WatchThread['running'];
  /** A node of a domain that there is no more. */
  readonly orphan: boolean;
}

/** Prints the rows; a thread in D state is red where colours are wanted. */
export async function printRows(rows: readonly Row[], json: boolean): Promise<void> {
  if (json) return printJson(rows.map(({ orphan: _, ...row }) => row));
  const red = coloured(process.stdout) ? (await import('chalk')).default.red : String;
  process.stdout.write(mtwatchTable(rows, red));
}

/**
 * The threads come over privcmd, so that they are told while every one of them is stuck; the nodes from the store, which
 * has no thread that could be. A node without a domain is an orphan, with a thread or without.
 */
export async function ownRows({ ctx, xc }: Session): Promise<Row[]> {
  // The nodes first: a domid is the hypervisor's before it has a node.
  const announced = await announcedDomids(ctx.xs);
  const [threads, domains] = await Promise.all([everyWatchThread(xc), everyDomain(xc)]);
  const alive = new Set(domains.map(({ domid }) => domid));
  const orphans = announced.filter((domid) => !alive.has(domid));
  const rows: Row[] = threads.map((thread) => ({
    ...thread,
    name: thread.name === null ? null : textOf(thread.name),
    orphan: orphans.includes(thread.domid),
  }));
  const bare = orphans.filter((domid) => !threads.some((thread) => thread.domid === domid));
  return [...rows, ...bare.map((domid) => nodeRow(domid, null, true))];
}

/** What the nodes of a store tell that has no kernel of ours. */
export async function foreignRows(ctx: Ctx): Promise<Row[]> {
  const orphans = await orphansNow(ctx.xs);
  const rows: Row[] = [];
  for (const domid of await announcedDomids(ctx.xs)) {
    rows.push(nodeRow(domid, (await domidToName(ctx, domid)) ?? null, orphans.includes(domid)));
  }
  return rows;
}

/** What a node alone tells: nothing of a thread. */
function nodeRow(domid: number, name: string | null, orphan: boolean): Row {
  const unknown = { thread: null, pid: null, state: null, pending: null, handled: null, retiring: null };
  return { domid, name, node: true, ...unknown, running: null, orphan };
}

/** The table of design and documentation, with the way to paint a thread in D state. */
export function mtwatchTable(rows: readonly Row[], red: (text: string) => string): string {
  const header = 'Name                                        ID Thread           PID State Pending Handled  Running';
  const lines = rows.map((row) => {
    const name = row.domid === 0 ? '-' : (row.name ?? '(null)');
    const state = (row.state ?? '-').padEnd(5);
    const cells = [
      `${name}${' '.repeat(Math.max(0, 40 - byteString(name).length))} ${String(row.domid).padStart(5)}`,
      (row.thread ?? '-').padEnd(15),
      String(row.pid ?? '-').padStart(4),
      row.state === 'D' ? red(state) : state,
      String(row.pending ?? '-').padStart(7),
      String(row.handled ?? '-').padStart(7),
    ];
    return `${cells.join(' ')}  ${whatRuns(row)}`;
  });
  return [header, ...lines].map((line) => `${line}\n`).join('');
}

function whatRuns(row: Row): string {
  const running = row.running ? `${row.running.callback}  ${(row.running.forMs / 1000).toFixed(1)}s` : '-';
  return row.orphan ? `${running}  (orphan)` : running;
}
