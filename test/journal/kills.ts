/**
 * dom0d killed with -9 at random moments under load, and what its next life makes of it.
 *
 * A round starts dom0d on the journal of the one before, checks what it finds against what clients were told, and puts it
 * under load until the kill: clients that write and count what was acknowledged, toolstacks that create, attach, detach,
 * reboot and destroy, holds that come and go. Now and then the kill comes while dom0d starts. When moments and operations
 * come is drawn from a seed; what the machine makes of that is not repeatable, and does not need to be: what was
 * acknowledged is known.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { diskAttach } from '../../src/libxl/attach.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import type { Ctx } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { deviceRemove } from '../../src/libxl/device.js';
import { findDisk, listedDiskDevice } from '../../src/libxl/device-list.js';
import { domainReboot, domainUnpause, formatUuid, listDomains } from '../../src/libxl/domain.js';
import { systemHost } from '../../src/libxl/hotplug.js';
import { actionsOf } from '../../src/libxl/monitor.js';
import { SystemClock, seeded } from '../../src/xenbus/clock.js';
import { everyWatchThread, type Hold } from '../../src/xenbus/privcmd.js';
import { type PrivcmdClient, privcmdClient } from '../../src/xenbus/privcmd-client.js';
import { type RunDir, runDirAt } from '../../src/xenbus/run-dir.js';
import { socketTransport } from '../../src/xenbus/transport.js';
import { abort, type Xs, xsClient } from '../../src/xenbus/xs-client.js';
import { pvConfig } from '../machine.js';

/** The longest that dom0d lives under load: mostly, and now and then, so that domains come up. */
const loadMaxMs = 300;
const longLoadMaxMs = 3_000;
/** How long a domain may take until it is as it must be. */
const patienceMs = 20_000;
const names = ['a', 'b', 'c'] as const;
const writers = 3;
/** Rounds between two returns to the start. */
const cleanEvery = 50;
/** Of what libxl and monitors wait. */
const timeoutScale = 0.3;

export interface KillsOptions {
  readonly dom0d: string;
  readonly dir: string;
  readonly kills: number;
  readonly seed: number;
  readonly fsync: 'always' | 'never';
  readonly cmdline: string;
  readonly say: (line: string) => void;
}

export interface KillsDone {
  readonly kills: number;
  readonly acknowledged: number;
  readonly operations: number;
  /** Operations that failed although dom0d was there: a device was held, or the machine was slow. */
  readonly failures: readonly string[];
  readonly startMs: readonly number[];
  /** What the next lives found half done, by kind. */
  readonly halfDone: ReadonlyMap<string, number>;
  readonly wrong: readonly string[];
}

/** What is known of a domain of a name, from what its toolstacks were told. */
type Known = 'none' | 'up' | 'creating' | 'rebooting' | 'destroying' | 'attaching';

interface Server {
  readonly process: ChildProcess;
  readonly ready: Promise<boolean>;
  readonly gone: Promise<void>;
}

/** What the first domain of all, and the first with a qemu, leaves behind on a real host too. */
const emptyDirs: ReadonlySet<string> = new Set(['/vm=', '/libxl=', '/local/domain/0/device-model=']);

/** One of them has an image that a qemu serves. */
function configOf(name: string): ReturnType<typeof pvConfig> {
  const config = pvConfig(name);
  const image = { pdevPath: '/img/c.qcow2', vdev: 'xvdc', format: 'qcow2', readwrite: true, backend: 'qdisk' } as const;
  return name === 'c' ? { ...config, disks: [...config.disks, image] } : config;
}

export async function kills(options: KillsOptions): Promise<KillsDone> {
  const { dir, seed, say } = options;
  const next = seeded(seed);
  const draw = (n: number) => next() % n;
  const clock = new SystemClock();
  const run = runDirAt(join(dir, 'run'));
  mkdirSync(run.path, { recursive: true, mode: 0o700 });
  const wrong: string[] = [];
  const startMs: number[] = [];
  const halfDone = new Map<string, number>();
  const counters = Array.from({ length: writers }, () => ({ acknowledged: 0, asked: 0 }));
  const known = new Map<string, Known>(names.map((name) => [name, 'none']));
  let hold: 'yes' | 'no' | 'asked' = 'no';
  const failures: string[] = [];
  let operations = 0;
  let acknowledged = 0;
  let start: readonly string[] | undefined;
  let startKb = 0;

  for (let round = 0; round <= options.kills && wrong.length === 0; round++) {
    if (round > 0 && draw(10) === 0) await killWhileStarting();
    const began = clock.now();
    const server = launch(options, run);
    if (!(await server.ready)) {
      wrong.push(`round ${round}: dom0d did not start`);
      break;
    }
    startMs.push(clock.now() - began);
    const lab = await connect(run, clock, draw(1_000_000));
    try {
      await check(lab, round);
      if (wrong.length > 0) break;
      if (round % cleanEvery === 0 || round === options.kills) await clean(lab, round);
      if (round === options.kills) break;
      load(lab);
      await clock.sleep(5 + draw(draw(4) === 0 ? longLoadMaxMs : loadMaxMs));
      server.process.kill('SIGKILL');
      await server.gone;
    } catch (error) {
      wrong.push(`round ${round}: ${error instanceof Error ? error.stack : String(error)}`);
    } finally {
      server.process.kill('SIGKILL');
      await server.gone;
      lab.close();
    }
    if (round % 50 === 49) say(`${round + 1} kills, ${acknowledged} writes acknowledged, ${operations} operations`);
  }
  return { kills: startMs.length - 1, acknowledged, operations, failures, startMs, halfDone, wrong };

  async function killWhileStarting(): Promise<void> {
    const server = launch(options, run);
    await clock.sleep(draw(300));
    server.process.kill('SIGKILL');
    await server.gone;
    await server.ready;
  }

  /** What must be so when dom0d answers for the first time. */
  async function check(lab: Lab, round: number): Promise<void> {
    const { xs, xc, ctx } = lab;
    const fail = (what: string) => wrong.push(`round ${round}: ${what}`);
    for (const line of (await xc.call('dom0.status', {})).journal?.recovery?.slice(1) ?? []) {
      const kind = line.replace(/\d+/g, 'N');
      halfDone.set(kind, (halfDone.get(kind) ?? 0) + 1);
      if (kind.startsWith('was not finished')) fail(line);
    }
    for (const [index, counter] of counters.entries()) {
      const [a, b] = await Promise.all(
        ['a', 'b'].map(async (part) => Number((await xs.read(`/tool/writer/${index}/${part}`)) ?? 0)),
      );
      if (a !== b) fail(`writer ${index}: half of a transaction, ${a} and ${b}`);
      if (a === undefined || a < counter.acknowledged || a > counter.asked) {
        fail(`writer ${index}: ${counter.acknowledged} was acknowledged, ${counter.asked} asked for, and ${a} is there`);
      }
      counter.acknowledged = counter.asked = a ?? 0;
    }
    const holds = (await xc.call('dom0.holds', {})) as readonly Hold[];
    if ((hold === 'yes' && holds.length === 0) || (hold === 'no' && holds.length > 0)) {
      fail(`the hold is ${hold === 'yes' ? 'lost' : 'there again'}`);
    }
    hold = holds.length > 0 ? 'yes' : 'no';
    // A domain that hangs because of the hold would only slow everything down.
    if (hold === 'yes') await xc.call('dom0.flush', {});
    hold = 'no';
    for (const [name, state] of known) {
      const domid = await settled(lab, name, state);
      if (typeof domid === 'string') fail(`${name} was ${state}: ${domid}`);
      known.set(name, typeof domid === 'number' ? 'up' : 'none');
    }
    for (const line of await orphans(ctx, xs, run)) fail(line);
  }

  /** The domid of a name once all is well with it; undefined when it is not there and need not be, else what is wrong. */
  async function settled({ ctx, xs, xc }: Lab, name: string, state: Known): Promise<number | undefined | string> {
    const giveUp = clock.now() + patienceMs;
    for (let last = ''; ; await clock.sleep(20)) {
      const infos = (await listDomains(ctx)).filter(({ domid }) => domid !== 0);
      const named = await Promise.all(
        infos.map(async (info) => ({ info, name: await xs.read(`/local/domain/${info.domid}/name`) })),
      );
      const found = named.find((each) => each.name === name)?.info;
      if (!found) {
        if (state === 'none' || state === 'creating' || state === 'destroying') return undefined;
        last = 'it is gone';
      } else if (state === 'none') {
        return 'it is there again';
      } else if (found.paused && (state === 'creating' || state === 'destroying')) {
        // Whoever was to unpause it is gone.
        await domainUnpause(ctx, found.domid);
        await xc.call('dom0.monitor', {
          ...{ domid: found.domid, name, verbosity: 0 },
          actions: actionsOf(configOf(name)),
        });
        continue;
      } else {
        const extra = state === 'attaching' ? await findDisk(ctx, found.domid, 'xvdb') : undefined;
        // It was attached; whoever was to detach it is gone.
        if (extra) await deviceRemove(ctx, listedDiskDevice(found.domid, extra), 'on');
        const bad = found.dying || found.paused ? ['it does not run'] : await unconnected(xs, found.domid, name);
        if (bad.length === 0) return found.domid;
        last = bad.join(', ');
      }
      if (clock.now() > giveUp) return last;
    }
  }

  /** Everything is destroyed, and dom0 is as it was. */
  async function clean({ ctx, xs, xc }: Lab, round: number): Promise<void> {
    for (const { domid } of await listDomains(ctx)) if (domid !== 0) await domainDestroy(ctx, domid);
    for (const name of names) known.set(name, 'none');
    await xs.rm('/tool/writer');
    for (const counter of counters) counter.acknowledged = counter.asked = 0;
    const giveUp = clock.now() + patienceMs;
    for (;;) {
      const nodes = await snapshot(xs);
      const { freeKb } = await xc.call('xc.physinfo', {});
      if (!start) {
        start = nodes;
        startKb = freeKb;
      }
      const before = start;
      const left = nodes.filter((line) => !before.includes(line) && !emptyDirs.has(line));
      const lost = before.filter((line) => !nodes.includes(line));
      const files = readdirSync(run.lib).filter((name) => name.startsWith('userdata-'));
      const threads = (await everyWatchThread(xc)).filter(({ domid }) => domid !== 0).map(({ thread }) => thread);
      const domains = (await listDomains(ctx)).length - 1;
      const all = [...left.map((line) => `left ${line}`), ...lost.map((line) => `lost ${line}`), ...files, ...threads];
      if (domains > 0) all.push(`${domains} domains`);
      if (freeKb !== startKb) all.push(`${freeKb} KiB are free, and were ${startKb}`);
      if (all.length === 0) return;
      if (clock.now() > giveUp) {
        wrong.push(`round ${round}: all is destroyed, and there is: ${all.slice(0, 20).join('; ')}`);
        return;
      }
      await clock.sleep(20);
    }
  }

  /** Everybody at work until dom0d is gone. What fails then fails because of that, or is told by the next check. */
  function load(lab: Lab): void {
    const endless = async (step: () => Promise<void>) => {
      try {
        while (!lab.isOver()) await step();
      } catch (error) {
        // It fails because dom0 is gone, which the other connection may not have heard of yet.
        await clock.sleep(50);
        if (!lab.isOver()) failures.push(error instanceof Error ? error.message : String(error));
      }
    };
    for (const [index, counter] of counters.entries()) {
      void endless(async () => {
        counter.asked += 1;
        const asked = String(counter.asked);
        const write = async (xs: Pick<Xs, 'write'>) => {
          await xs.write(`/tool/writer/${index}/a`, asked);
          await xs.write(`/tool/writer/${index}/b`, asked);
        };
        const done = await lab.xs.transaction(write);
        if (done !== abort) {
          counter.acknowledged = counter.asked;
          acknowledged += 1;
        }
        if (index > 0) await clock.sleep(draw(10));
      });
    }
    for (const name of names) void endless(() => toolstack(lab, name));
    void endless(async () => {
      await clock.sleep(draw(100));
      const up = names.find((name) => known.get(name) === 'up');
      const domid = up && (await domidOf(lab, up));
      if (domid === undefined) return;
      hold = 'asked';
      await lab.xc.call('dom0.hold', { device: `vif${domid}.0`, mode: 'inflight' }).then(
        () => {
          hold = 'yes';
        },
        () => undefined,
      );
      await clock.sleep(draw(40));
      hold = 'asked';
      await lab.xc.call('dom0.flush', {});
      hold = 'no';
    });
  }

  /** One operation on the domain of a name. */
  async function toolstack({ ctx, xc }: Lab, name: string): Promise<void> {
    await clock.sleep(draw(60));
    operations += 1;
    if (known.get(name) === 'none') {
      known.set(name, 'creating');
      const config = configOf(name);
      const uuid = formatUuid(ctx.clock.random(16));
      const domid = await domainCreateNew(ctx, { ...config, cInfo: { ...config.cInfo, uuid }, nics: [{ bridge: 'xenbr0' }] });
      await xc.call('dom0.monitor', { domid, name, verbosity: 0, actions: actionsOf(config) });
      await domainUnpause(ctx, domid);
      known.set(name, 'up');
      return;
    }
    const domid = await domidOf({ ctx }, name);
    if (domid === undefined) return;
    switch (draw(4)) {
      case 0:
        known.set(name, 'destroying');
        await domainDestroy(ctx, domid);
        known.set(name, 'none');
        return;
      case 1: {
        const info = (await listDomains(ctx)).find((each) => each.domid === domid);
        if (!info || info.shutdown !== null) return;
        known.set(name, 'rebooting');
        await domainReboot(ctx, domid);
        // Until its next life has another domid.
        for (let now = await domidOf({ ctx }, name); now === undefined || now === domid; now = await domidOf({ ctx }, name)) {
          await clock.sleep(20);
        }
        const again = await domidOf({ ctx }, name);
        for (;;) {
          const up = again === undefined ? undefined : (await listDomains(ctx)).find((each) => each.domid === again);
          if (!up?.paused) break;
          await clock.sleep(20);
        }
        known.set(name, 'up');
        return;
      }
      default: {
        known.set(name, 'attaching');
        await diskAttach(ctx, domid, { pdevPath: `/dev/vg/more-${name}`, vdev: 'xvdb', format: 'raw', readwrite: true });
        const disk = await findDisk(ctx, domid, 'xvdb');
        if (disk) await deviceRemove(ctx, listedDiskDevice(domid, disk), 'on');
        known.set(name, 'up');
      }
    }
  }

  async function domidOf({ ctx }: Pick<Lab, 'ctx'>, name: string): Promise<number | undefined> {
    for (const { domid } of await listDomains(ctx)) {
      if (domid !== 0 && (await ctx.xs.read(`/local/domain/${domid}/name`)) === name) return domid;
    }
    return undefined;
  }
}

/** A process that has dom0's sockets open. */
interface Lab {
  readonly ctx: Ctx;
  readonly xs: Xs;
  readonly xc: PrivcmdClient;
  isOver(): boolean;
  close(): void;
}

async function connect(run: RunDir, clock: SystemClock, seed: number): Promise<Lab> {
  const xc = await privcmdClient(run.privcmd, 'kills');
  const xs = xsClient(await socketTransport(run.store.client));
  const xl = xsClient(await socketTransport(run.store.xl));
  let isOver = false;
  void xc.closed.then(() => {
    isOver = true;
  });
  const random = seeded(seed);
  const ctx: Ctx = {
    xs: xl,
    xc,
    clock: Object.assign(Object.create(clock) as SystemClock, {
      random: (n: number) => Uint8Array.from({ length: n }, () => random() & 0xff),
    }),
    host: systemHost({
      ...{ root: '/', assumeFiles: true, strictFiles: false },
      userdataDir: run.lib,
      openXs: async () => xsClient(await socketTransport(run.store.hotplug)),
      xc,
      pid: process.pid,
    }),
    timeoutScale,
    log: () => undefined,
    xcLog: () => undefined,
  };
  return {
    ctx,
    xs,
    xc,
    isOver: () => isOver,
    close: () => {
      xs.close();
      xl.close();
      xc.close();
    },
  };
}

function launch({ dom0d, dir, fsync, cmdline }: KillsOptions, run: RunDir): Server {
  const args = ['--run-dir', run.path, '--ready-fd', '3', '--assume-files', '--idle', '0', '--cmdline', cmdline];
  const log = openSync(run.log, 'a');
  const child = spawn(process.execPath, [dom0d, ...args, '--journal', join(dir, 'journal'), '--fsync', fsync], {
    stdio: ['ignore', log, 'inherit', 'pipe'],
    env: { ...process.env, XL_TIMEOUT_SCALE: String(timeoutScale) },
  });
  closeSync(log);
  const pipe = child.stdio[3] as Readable;
  let said = '';
  const ready = new Promise<boolean>((resolve) => {
    pipe.setEncoding('utf8');
    pipe.on('data', (chunk: string) => {
      said += chunk;
      if (!said.includes('\n')) return;
      if (!said.includes('"ready"')) process.stderr.write(said);
      resolve(said.includes('"ready"'));
    });
    pipe.on('end', () => resolve(false));
  });
  const gone = new Promise<void>((resolve) => child.on('exit', () => resolve()));
  return { process: child, ready, gone };
}

async function unconnected(xs: Xs, domid: number, name: string): Promise<string[]> {
  const found: string[] = [];
  for (const [kind, front, count] of [
    ['vbd', 'vbd', 1],
    ['qdisk', 'vbd', configOf(name).disks.length - 1],
    ['vif', 'vif', 1],
  ] as const) {
    const devids = (await xs.directory(`/local/domain/0/backend/${kind}/${domid}`)) ?? [];
    if (devids.length !== count) found.push(`${devids.length} ${kind}s`);
    for (const devid of devids) {
      const ends = [`/local/domain/0/backend/${kind}/${domid}/${devid}`, `/local/domain/${domid}/device/${front}/${devid}`];
      const states = await Promise.all(ends.map((end) => xs.read(`${end}/state`)));
      if (states.join() !== '4,4') found.push(`${kind} ${devid} is ${states.join('/')}`);
    }
  }
  return found;
}

/** Nodes, threads and files of domains that are not there, and domains without their mtwatch node. */
async function orphans(ctx: Ctx, xs: Xs, run: RunDir): Promise<string[]> {
  const found: string[] = [];
  const before = new Set((await listDomains(ctx)).map(({ domid }) => domid));
  const dirs = ['/local/domain', '/libxl', '/local/domain/0/mtwatch', '/local/domain/0/device-model'];
  for (const kind of (await xs.directory('/local/domain/0/backend')) ?? []) dirs.push(`/local/domain/0/backend/${kind}`);
  const listed = await Promise.all(dirs.map(async (dir) => ({ dir, names: (await xs.directory(dir)) ?? [] })));
  const threads = await everyWatchThread(ctx.xc);
  const files = readdirSync(run.lib).flatMap((name) => /^userdata-\w+\.(\d+)\./.exec(name)?.[1] ?? []);
  // A monitor may be between two lives of a domain meanwhile.
  const alive = new Set([...before, ...(await listDomains(ctx)).map(({ domid }) => domid)]);
  for (const { dir, names: domids } of listed) {
    for (const domid of domids) if (!alive.has(Number(domid))) found.push(`${dir}/${domid} is of no domain`);
  }
  for (const { domid, thread } of threads) if (!alive.has(domid)) found.push(`thread ${thread} is of no domain`);
  for (const domid of files) if (!alive.has(Number(domid))) found.push(`there are saved files of domain ${domid}`);
  const announced = listed.find(({ dir }) => dir === '/local/domain/0/mtwatch')?.names ?? [];
  for (const domid of listed[0]?.names ?? []) {
    if (domid !== '0' && !announced.includes(domid)) found.push(`domain ${domid} has no mtwatch node`);
  }
  return found;
}

async function snapshot(xs: Xs): Promise<string[]> {
  const lines: string[] = [];
  const visit = async (path: string): Promise<void> => {
    for (const name of (await xs.directory(path === '' ? '/' : path)) ?? []) {
      lines.push(`${path}/${name}=${await xs.read(`${path}/${name}`)}`);
      await visit(`${path}/${name}`);
    }
  };
  await visit('');
  return lines;
}
