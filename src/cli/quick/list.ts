/** `xl list`: what it asks and how it prints it, byte for byte as xl does. */
import { cpuListText } from '../../libxl/cpu-list.js';
import { cpupoolName } from '../../libxl/cpupool.js';
import type { Ctx } from '../../libxl/ctx.js';
import { domainInfo, domainNames, listDomains } from '../../libxl/domain.js';
import type { DomInfo } from '../../xenbus/privcmd.js';
import { byteString } from '../../xenbus/xs-client.js';
import { findDomain, printJson, type Session, XlFailure } from '../session.js';

/** Which columns the table has beside its own. */
export interface Columns {
  readonly verbose: boolean;
  readonly context: boolean;
  readonly cpupool: boolean;
  readonly numa: boolean;
}

/** A domain and its name in the store; a zombie has none left. What a column needs is asked for with it. */
export interface Listed {
  readonly info: DomInfo;
  readonly name: string | undefined;
  readonly pool?: string | undefined;
  readonly nodes?: readonly number[];
}

/** This host's NUMA nodes. */
const nrNodes = 1;

export interface ListWords extends Columns {
  readonly domain: string | undefined;
  readonly long: boolean;
  readonly json: boolean;
}

export async function list({ ctx }: Session, words: ListWords): Promise<void> {
  const infos = words.domain === undefined ? await listDomains(ctx) : [await oneDomain(ctx, words.domain)];
  if (words.long) return void process.stdout.write(await longList(ctx, infos));
  const names = await domainNames(ctx, infos);
  const listed: Listed[] = [];
  for (const [at, info] of infos.entries()) {
    listed.push({
      ...{ info, name: names[at] },
      ...(words.cpupool ? { pool: await cpupoolName(ctx, info.cpupool) } : {}),
      ...(words.numa ? await ctx.xc.call('xc.domain_node_getaffinity', { domid: info.domid }) : {}),
    });
  }
  if (words.json) printJson(listed.map(asJson));
  else process.stdout.write(listTable(listed, words));
}

async function oneDomain(ctx: Ctx, text: string): Promise<DomInfo> {
  const info = await domainInfo(ctx, await findDomain(ctx, text));
  if (!info) throw new XlFailure(1, `Error: Domain '${text}' does not exist.`);
  return info;
}

/** Domains whose config cannot be had are left out, as xl leaves them out. */
async function longList(ctx: Ctx, infos: readonly DomInfo[]): Promise<string> {
  const [{ configToJson, yajl }, { retrieveConfig }] = await Promise.all([
    import('../../libxl/json.js'),
    import('../../libxl/saved-config.js'),
  ]);
  const entries = [];
  for (const { domid } of infos) {
    const config = await retrieveConfig(ctx, domid);
    if (config) entries.push({ domid, config: configToJson(config) });
  }
  return `${yajl(entries)}\n`;
}

/** The table, byte for byte as xl prints it. */
export function listTable(listed: readonly Listed[], columns: Columns): string {
  return [header(columns), ...listed.map((domain) => row(domain, columns))].map((line) => `${line}\n`).join('');
}

function header({ verbose, context, cpupool, numa }: Columns): string {
  return [
    'Name                                        ID   Mem VCPUs\tState\tTime(s)',
    verbose ? '   UUID                            Reason-Code\tSecurity Label' : '',
    context && !verbose ? '   Security Label' : '',
    cpupool ? '         Cpupool' : '',
    numa ? ' NODE Affinity' : '',
  ].join('');
}

function row({ info, name, pool, nodes }: Listed, { verbose, context, cpupool, numa }: Columns): string {
  const memory = Math.floor((info.currentKb + info.outstandingKb) / 1024);
  const reason = info.shutdown === null ? '-' : info.shutdown.toString(16);
  return [
    `${padBytes(name ?? '(null)', 40)} ${String(info.domid).padStart(5)} ${String(memory).padStart(5)}`,
    ` ${String(info.onlineVcpus).padStart(5)}     ${stateOf(info)}  ${info.cpuTime.toFixed(1).padStart(8)}`,
    verbose ? ` ${info.uuid} ${reason.padStart(8)}` : '',
    verbose || context ? ` ${'-'.padStart(16)}` : '',
    cpupool ? padBytes(pool ?? '(null)', -16) : '',
    numa ? ` ${cpuListText(nodes ?? [], nrNodes)}` : '',
  ].join('');
}

/** printf counts bytes. A negative width puts the blanks in front. */
function padBytes(text: string, width: number): string {
  const blanks = ' '.repeat(Math.max(0, Math.abs(width) - byteString(text).length));
  return width < 0 ? blanks + text : text + blanks;
}

/** `r` running, `b` blocked, `p` paused, `s` shut down and a letter for why, `d` dying. */
export function stateOf(info: DomInfo): string {
  const letters = [
    info.running ? 'r' : '-',
    info.blocked ? 'b' : '-',
    info.paused ? 'p' : '-',
    info.shutdown === null ? '-' : 's',
    info.shutdown === null ? '-' : ('-rscwS'[info.shutdown] ?? '?'),
    info.dying ? 'd' : '-',
  ];
  return letters.join('');
}

function asJson({ info, name }: Listed) {
  return {
    name: name ?? null,
    domid: info.domid,
    uuid: info.uuid,
    memoryMb: Math.floor((info.currentKb + info.outstandingKb) / 1024),
    vcpus: info.onlineVcpus,
    state: stateOf(info),
    shutdownReason: info.shutdown,
    cpuTime: info.cpuTime,
  };
}
