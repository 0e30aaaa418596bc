import * as Flags from '@oclif/core/flags';
import chalk from 'chalk';
import { domidToName } from '../../libxl/domain.js';
import type { WatchThread } from '../../xenbus/privcmd.js';
import { byteString, textOf } from '../../xenbus/xs-client.js';
import { coloured, foreignStore, type Globals, printJson, runDirOf, withForeignStore, withSession, XlCommand } from '../../xl.js';
import { announcedDomids, orphansNow } from './prune.js';

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

export default class MtwatchList extends XlCommand {
  static override summary = "List dom0's xenwatch threads";
  static override description =
    "List dom0's xenwatch threads: whose they are, what waits for them and what they run. A node whose domain is gone is marked as an orphan.";
  static override examples = ['<%= config.bin %> mtwatch list', '<%= config.bin %> mtwatch list --json'];
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };

  async run(): Promise<void> {
    const { flags } = await this.parse(MtwatchList);
    const foreign = foreignStore(process.env, runDirOf(process.env));
    const rows = foreign === undefined ? await ownRows(this, flags) : await foreignRows(this, foreign, flags);
    if (flags.json) printJson(rows.map(({ orphan: _, ...row }) => row));
    else process.stdout.write(mtwatchTable(rows, coloured(process.stdout)));
  }
}

/**
 * The threads come over privcmd, so that they are told while every one of them is stuck; the nodes from the store, which
 * has no thread that could be. A node without a domain is an orphan, with a thread or without.
 */
function ownRows(command: XlCommand, globals: Globals): Promise<Row[]> {
  return withSession(command, globals, async ({ ctx, xc }) => {
    // The nodes first: a domid is the hypervisor's before it has a node.
    const announced = await announcedDomids(ctx.xs);
    const [threads, domains] = await Promise.all([xc.call('dom0.mtwatch', {}), xc.call('xc.domain_getinfolist', {})]);
    const alive = new Set(domains.map(({ domid }) => domid));
    const orphans = announced.filter((domid) => !alive.has(domid));
    const rows: Row[] = threads.map((thread) => ({
      ...thread,
      name: thread.name === null ? null : textOf(thread.name),
      orphan: orphans.includes(thread.domid),
    }));
    const bare = orphans.filter((domid) => !threads.some((thread) => thread.domid === domid));
    return [...rows, ...bare.map((domid) => nodeRow(domid, null, true))];
  });
}

function foreignRows(command: XlCommand, path: string, globals: Globals): Promise<Row[]> {
  return withForeignStore(command, path, globals, async (ctx) => {
    const orphans = await orphansNow(ctx.xs);
    const rows: Row[] = [];
    for (const domid of await announcedDomids(ctx.xs)) {
      rows.push(nodeRow(domid, (await domidToName(ctx, domid)) ?? null, orphans.includes(domid)));
    }
    return rows;
  });
}

/** What a node alone tells: nothing of a thread. */
function nodeRow(domid: number, name: string | null, orphan: boolean): Row {
  const unknown = { thread: null, pid: null, state: null, pending: null, handled: null, retiring: null };
  return { domid, name, node: true, ...unknown, running: null, orphan };
}

/** The table of design and documentation; a thread in D state is red on a terminal. */
export function mtwatchTable(rows: readonly Row[], colour: boolean): string {
  const paint = colour ? chalk : undefined;
  const header = 'Name                                        ID Thread           PID State Pending Handled  Running';
  const lines = rows.map((row) => {
    const name = row.domid === 0 ? '-' : (row.name ?? '(null)');
    const state = (row.state ?? '-').padEnd(5);
    const cells = [
      `${name}${' '.repeat(Math.max(0, 40 - byteString(name).length))} ${String(row.domid).padStart(5)}`,
      (row.thread ?? '-').padEnd(15),
      String(row.pid ?? '-').padStart(4),
      row.state === 'D' && paint ? paint.red(state) : state,
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
