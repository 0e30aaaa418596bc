/**
 * The end of dom0 at every moment that its journal knows: an episode is run with a record for every turn, and each prefix of
 * the records is a life that ended there. The next life begins on it, finishes what was half done, and is held against what
 * must be so; then everything is destroyed, and dom0 must be as it was before the episode.
 */
import { diskAttach } from '../../src/libxl/attach.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { deviceRemove } from '../../src/libxl/device.js';
import { findDisk, listedDiskDevice } from '../../src/libxl/device-list.js';
import { domainReboot, domainUnpause } from '../../src/libxl/domain.js';
import { recover } from '../../src/libxl/recover.js';
import type { Domain } from '../../src/xenbus/hypervisor.js';
import { JournalTable, journalStart, readJournal } from '../../src/xenbus/journal.js';
import type { Xc } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';

/** Dom0 as it stands after a commit. */
export interface Point {
  /** How many records there are by then. */
  readonly records: number;
  /** What libxl has written. */
  readonly files: ReadonlyMap<string, string>;
  /** What the client was told last, and what it has asked for. */
  readonly acknowledged: number;
  readonly asked: number;
  /** Domains that were up, and that nobody was about to take down. */
  readonly up: readonly string[];
  /** The domids of those that somebody had begun to destroy. */
  readonly ending: readonly number[];
}

export interface Episode {
  readonly records: readonly Buffer[];
  readonly points: readonly Point[];
  /** The store before it all. */
  readonly start: readonly string[];
  /** Where what is kept was not what is. */
  readonly wrong: readonly string[];
}

const counter = '/tool/counter';
/** What the first domain of all, and the first with a qemu, leaves behind on a real host too. */
const emptyDirs: ReadonlySet<string> = new Set(
  ['/vm', '/libxl', '/local/domain/0/device-model'].map((path) => `${path} = ""   (n0)`),
);
const image = { pdevPath: '/img/b.qcow2', vdev: 'xvdc', format: 'qcow2', readwrite: true, backend: 'qdisk' } as const;

/** Two domains come, one with a qemu, get and lose a disk, one is destroyed; a client counts in pairs of nodes, by transactions, all along. */
export async function runEpisode(cmdline = 'xen_mtwatch'): Promise<Episode> {
  const table = new JournalTable();
  const records: Buffer[] = [];
  const points: Point[] = [];
  const wrong: string[] = [];
  let acknowledged = 0;
  let asked = 0;
  const up = new Set<string>();
  const ending = new Set<number>();
  let m: Machine | undefined;
  const commit = () => {
    const record = table.take();
    if (!record) return;
    records.push(record);
    const all = m?.dom0.hypervisor.list() ?? [];
    points.push({ records: records.length, files: new Map(m?.files), acknowledged, asked, up: [...up], ending: [...ending] });
    for (const domain of all) {
      for (const name of ['pauseCount', 'dying', 'ending', 'shutdown', 'currentKb', 'maxKb', 'cmdline'] as const) {
        const kept = (table.get(`domain/${domain.domid}`) as Partial<Domain> | undefined)?.[name];
        if (kept !== domain[name])
          wrong.push(`record ${records.length}: ${name} of domain ${domain.domid} is ${domain[name]}, kept ${kept}`);
      }
      for (const { port, remote } of domain.ports.values()) {
        if (table.get(`port/${domain.domid}/${port}`) !== remote)
          wrong.push(`record ${records.length}: port ${port} is not kept`);
      }
    }
  };
  m = await machine({ cmdline, life: { keep: table, commit, turns: 1 } });
  const start = await m.store();
  points.splice(0, points.length, ...points.slice(-1));
  const { xc } = m.ctx;
  const call: Xc['call'] = async (op, args) => {
    const answer = await xc.call(op, args);
    if (op === 'xc.domain_pause') ending.add((args as { domid: number }).domid);
    return answer;
  };
  const ctx = { ...m.ctx, xc: { ...xc, call } };

  const xs = m.connect('client');
  let isOver = false;
  const count = async () => {
    while (!isOver) {
      asked += 1;
      await xs.transaction(async (tx) => {
        await tx.write(`${counter}/a`, String(asked));
        await tx.write(`${counter}/b`, String(asked));
      });
      acknowledged = asked;
      await ctx.clock.sleep(50);
    }
    await xs.rm(counter);
  };
  const counting = count();
  const story = async () => {
    const a = await domainCreateNew(ctx, pvConfig('a'));
    await domainUnpause(ctx, a);
    up.add('a');
    const config = pvConfig('b');
    const b = await domainCreateNew(ctx, { ...config, disks: [...config.disks, image] });
    await ctx.clock.sleep(500);
    await diskAttach(ctx, a, { pdevPath: '/dev/vg/more', vdev: 'xvdb', format: 'raw', readwrite: true });
    await ctx.clock.sleep(500);
    const disk = await findDisk(ctx, a, 'xvdb');
    if (disk) await deviceRemove(ctx, listedDiskDevice(a, disk), 'off');
    up.delete('a');
    await domainReboot(ctx, a);
    await ctx.clock.sleep(500);
    await domainDestroy(ctx, a);
    await domainDestroy(ctx, b);
    isOver = true;
    await counting;
  };
  await m.run(story());
  m.dom0.close();
  return { records, points, start, wrong };
}

/** What is wrong with a life that begins at that point; empty when all is as it must be. */
export async function recoverAt({ records, start }: Episode, point: Point, cmdline = 'xen_mtwatch'): Promise<string[]> {
  const wrong: string[] = [];
  const { table } = readJournal(Buffer.concat([journalStart, ...records.slice(0, point.records)]), 'records');
  const keep = new JournalTable(table);
  const m = await machine({ cmdline, files: point.files, life: { keep, recovered: table, commit: () => void keep.take() } });
  const { ctx } = m;
  const said: string[] = [];
  await m.run(recover(ctx, (line) => said.push(line)));
  await m.settle();

  const nodes = await m.store();
  const check = async () => {
    const domains = m.dom0.hypervisor.list().filter(({ domid }) => domid !== 0);
    const names = new Map<string, number>();
    for (const { domid, dying, uuid } of domains) {
      const name = await ctx.xs.read(`/local/domain/${domid}/name`);
      if (name !== undefined) names.set(name, domid);
      if (dying) wrong.push(`domain ${domid} is a zombie`);
      if (name === undefined) wrong.push(`domain ${domid} has no nodes`);
      if (!m.files.has(`userdata-d.${domid}.${uuid}.libxl-json`)) wrong.push(`domain ${domid} has no config`);
    }
    const there = new Set([0, ...domains.map(({ domid }) => domid)]);
    const owners = nodes.flatMap((line) => {
      const [, domid] =
        /^(?:\/local\/domain|\/libxl|\/local\/domain\/0\/(?:mtwatch|device-model)|\/local\/domain\/0\/backend\/[a-z]+)\/(\d+)[/ ]/.exec(
          line,
        ) ?? [];
      return domid === undefined ? [] : [Number(domid)];
    });
    for (const domid of new Set(owners))
      if (!there.has(domid)) wrong.push(`there are nodes of domain ${domid}, which is not there`);
    for (const { domid } of m.threads()) if (!there.has(domid)) wrong.push(`there is a thread of domain ${domid}`);
    for (const domid of there) {
      if (domid !== 0 && (await ctx.xs.read(`/local/domain/0/mtwatch/${domid}`)) === undefined) {
        wrong.push(`domain ${domid} has no mtwatch node`);
      }
    }
    return names;
  };
  const names = await m.run(check());
  for (const domid of point.ending) {
    if (m.dom0.hypervisor.get(domid)) wrong.push(`domain ${domid} was about to be destroyed, and is still there`);
  }
  for (const name of point.up) {
    const domid = names.get(name);
    if (domid === undefined) wrong.push(`${name} was up and is gone`);
    else {
      const states: string[] = [];
      for (const path of ['backend/vbd', 'backend/vif']) {
        for (const devid of (await m.run(ctx.xs.directory(`/local/domain/0/${path}/${domid}`))) ?? []) {
          const backend = `/local/domain/0/${path}/${domid}/${devid}`;
          const frontend = (await m.run(ctx.xs.read(`${backend}/frontend`))) ?? '';
          const ends = [await m.run(ctx.xs.read(`${backend}/state`)), await m.run(ctx.xs.read(`${frontend}/state`))];
          states.push(`${path}/${devid} ${ends.join('/')}`);
        }
      }
      if (states.length < 2) wrong.push(`${name} has lost a device, and has ${states}`);
      for (const state of states) if (!state.endsWith('4/4')) wrong.push(`${name}: ${state}`);
    }
  }
  const counted = await m.run(Promise.all([ctx.xs.read(`${counter}/a`), ctx.xs.read(`${counter}/b`)]));
  const [a = 0, b = 0] = counted.map((text) => Number(text ?? 0));
  if (a !== b) wrong.push(`half of a transaction: ${a} and ${b}`);
  const isGone = counted[0] === undefined && (point.acknowledged === 0 || point.records > records.length / 2);
  if ((a < point.acknowledged || a > point.asked) && !isGone) {
    wrong.push(`${point.acknowledged} was acknowledged, ${point.asked} asked for, and ${a} is there`);
  }

  for (const domid of names.values()) await m.run(domainDestroy(ctx, domid));
  await m.run(ctx.xs.rm(counter));
  await m.settle();
  const left = m.dom0.hypervisor.list().map(({ domid }) => domid);
  if (left.length > 1) wrong.push(`destroyed all, and there are domains ${left.join(' ')}`);
  const end = await m.store();
  for (const line of end) if (!start.includes(line) && !emptyDirs.has(line)) wrong.push(`left: ${line}`);
  for (const line of start) if (!end.includes(line)) wrong.push(`lost: ${line}`);
  if (m.files.size > 0) wrong.push(`files are left: ${[...m.files.keys()].join(' ')}`);
  if (m.threads().length > 1) wrong.push(`threads are left: ${m.threads().map(({ domid }) => domid)}`);
  m.dom0.close();
  return wrong.length === 0
    ? []
    : [`after record ${point.records} of ${records.length}:`, ...wrong, ...said.map((line) => `  said: ${line}`)];
}
