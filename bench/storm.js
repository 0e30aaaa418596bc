#!/usr/bin/env node
// A storm: many toolstacks create a domain each at once, every domain connects its devices, and all are destroyed at once.
// Then, with --cycles, create and destroy over and over, to see whether anything grows.
//
//   npm run build && node bench/storm.js [--domains 512] [--rounds 3] [--cycles 1500] [--cmdline xen_mtwatch]
//
// dom0d is a process of its own, started here; each toolstack is the real libxl with a store connection and hypercalls of its
// own, all in this process. Fairness: how long the luckiest, the median and the unluckiest toolstack took, from the moment that
// all began, and how often a transaction had to be done again.
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { domainCreateNew } from '../dist/libxl/create.js';
import { domainDestroy } from '../dist/libxl/destroy.js';
import { domainUnpause } from '../dist/libxl/domain.js';
import { systemHost } from '../dist/libxl/hotplug.js';
import { version } from '../dist/version.js';
import { SystemClock } from '../dist/xenbus/clock.js';
import { privcmdClient } from '../dist/xenbus/privcmd-client.js';
import { socketTransport } from '../dist/xenbus/transport.js';
import { backOffOf, xsClient } from '../dist/xenbus/xs-client.js';

const { values } = parseArgs({
  options: {
    domains: { type: 'string', default: '512' },
    rounds: { type: 'string', default: '3' },
    cycles: { type: 'string', default: '0' },
    cmdline: { type: 'string', default: 'xen_mtwatch' },
  },
});
const domains = Number(values.domains);
const xl = join(dirname(fileURLToPath(import.meta.url)), '../bin/xl.js');
const runDir = mkdtempSync(join(tmpdir(), 'xl-storm.'));
const env = { ...process.env, XL_RUN_DIR: runDir };
const run = promisify(execFile);
const clock = new SystemClock();
const complaints = [];

async function toolstack() {
  const open = async (who) => xsClient(await socketTransport(join(runDir, 'xenstored', who)), { backOff: backOffOf(clock) });
  const [xs, xc] = await Promise.all([open('xl'), privcmdClient(join(runDir, 'privcmd.sock'), version)]);
  const counted = { conflicts: 0 };
  const { transaction } = xs;
  const ctx = {
    xs: {
      ...xs,
      transaction: (body, ...rest) => {
        let tries = 0;
        const again = (tx) => {
          if (tries++ > 0) counted.conflicts += 1;
          return body(tx);
        };
        return transaction.call(xs, again, ...rest);
      },
    },
    xc,
    clock,
    timeoutScale: 1,
    log: (level, where, domid, message) => level === 'error' && complaints.push(`${where} ${domid} ${message}`),
    xcLog: (line) => complaints.push(line),
    host: systemHost({
      root: '/',
      assumeFiles: true,
      strictFiles: false,
      userdataDir: join(runDir, 'lib'),
      openXs: () => open('hotplug'),
      xc,
      pid: process.pid,
    }),
  };
  const close = () => {
    xs.close();
    xc.close();
  };
  return { ctx, xs, xc, counted, close };
}

let count = 0;
function config() {
  count += 1;
  return {
    cInfo: {
      type: 'pv',
      name: `storm-${count}`,
      uuid: `00000000-0000-4000-8000-${String(count).padStart(12, '0')}`,
      runHotplugScripts: true,
    },
    bInfo: {
      maxVcpus: 1,
      availVcpus: [0],
      maxMemkb: 4096,
      targetMemkb: 4096,
      schedParams: {},
      kernel: '/boot/vmlinux',
      pv: {},
      archArm: {},
      archX86: {},
    },
    disks: [{ pdevPath: `/dev/vg/storm-${count}`, vdev: 'xvda', format: 'raw', readwrite: true }],
    nics: [{ devid: 0, bridge: 'xenbr0' }],
    onPoweroff: 'destroy',
    onReboot: 'restart',
    onWatchdog: 'destroy',
    onCrash: 'destroy',
    onSoftReset: 'soft_reset',
  };
}

function waitFor(xs, path, wanted) {
  return new Promise((resolve) => {
    const watch = xs.watch(path, async () => {
      if ((await xs.read(path)) === wanted) resolve(watch.then((registered) => registered.close()));
    });
  });
}

const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;

/** Runs `work` of every toolstack at once; answers with the wall time and what each took. */
async function storm(stacks, work) {
  for (const { counted } of stacks) counted.conflicts = 0;
  const begun = performance.now();
  const before = processorTime();
  const each = await Promise.all(
    stacks.map(async (stack, index) => {
      await work(stack, index);
      return performance.now() - begun;
    }),
  );
  const sorted = each.sort((a, b) => a - b);
  const conflicts = stacks.map(({ counted }) => counted.conflicts).sort((a, b) => a - b);
  const after = processorTime();
  const cpu = { stacks: after.stacks - before.stacks, dom0d: after.dom0d - before.dom0d };
  return { wall: sorted.at(-1), sorted, conflicts, cpu };
}

/** Seconds of processor time of the toolstacks' process and of dom0d. */
function processorTime() {
  const { user, system } = process.cpuUsage();
  const pid = readFileSync(join(runDir, 'dom0.pid'), 'utf8').trim();
  const [utime, stime] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(' ').slice(13, 15).map(Number);
  return { stacks: (user + system) / 1e6, dom0d: (utime + stime) / 100 };
}

function report(what, { wall, sorted, conflicts, cpu }) {
  const ms = (value) => `${(value / 1000).toFixed(2)} s`;
  const used = `processor ${cpu.stacks.toFixed(1)} s of the toolstacks, ${cpu.dom0d.toFixed(1)} s of dom0d`;
  const times = `first ${ms(sorted[0])}, median ${ms(quantile(sorted, 0.5))}, last ${ms(wall)}`;
  console.log(`${what.padEnd(9)} ${times}; done again: median ${quantile(conflicts, 0.5)}, most ${conflicts.at(-1)}; ${used}`);
}

/** What dom0d has: pages of memory, nodes of the store. */
async function level() {
  const pid = Number(readFileSync(join(runDir, 'dom0.pid'), 'utf8'));
  const rss = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
  const xs = xsClient(await socketTransport(join(runDir, 'xenstored/socket')));
  const lines = async (path) => {
    const names = (await xs.directory(path)) ?? [];
    const below = await Promise.all(names.map((name) => lines(path === '/' ? `/${name}` : `${path}/${name}`)));
    return 1 + below.reduce((sum, n) => sum + n, 0);
  };
  const nodes = await lines('/');
  xs.close();
  return { mib: Math.round(rss / 1024), nodes };
}

await run(process.execPath, [xl, 'dom0', 'start', '--assume-files', '--idle', '0', '--cmdline', values.cmdline], { env });
try {
  const before = await level();
  console.log(
    `Node ${process.version}, ${domains} toolstacks at once, "${values.cmdline}"; before: ${before.mib} MiB, ${before.nodes} nodes`,
  );
  for (let round = 0; round < Number(values.rounds); round++) {
    const stacks = await Promise.all(Array.from({ length: domains }, toolstack));
    const domids = [];
    report(
      'create',
      await storm(stacks, async ({ ctx }, index) => {
        domids[index] = await domainCreateNew(ctx, config());
        await domainUnpause(ctx, domids[index]);
      }),
    );
    report(
      'connected',
      await storm(stacks, async ({ xs }, index) => {
        const backend = (kind, devid) => `/local/domain/0/backend/${kind}/${domids[index]}/${devid}/state`;
        await Promise.all([waitFor(xs, backend('vbd', 51712), '4'), waitFor(xs, backend('vif', 0), '4')]);
      }),
    );
    report('destroy', await storm(stacks, ({ ctx }, index) => domainDestroy(ctx, domids[index])));
    for (const stack of stacks) stack.close();
    const after = await level();
    console.log(`          after: ${after.mib} MiB, ${after.nodes} nodes`);
  }
  if (Number(values.cycles) > 0) {
    const stacks = await Promise.all(Array.from({ length: 8 }, toolstack));
    for (let cycle = 0; cycle < Number(values.cycles); ) {
      const until = Math.min(cycle + Number(values.cycles) / 5, Number(values.cycles));
      const begun = performance.now();
      const work = async ({ ctx }) => {
        while (cycle < until) {
          cycle += 1;
          const domid = await domainCreateNew(ctx, config());
          await domainUnpause(ctx, domid);
          await domainDestroy(ctx, domid);
        }
      };
      await Promise.all(stacks.map(work));
      const { mib, nodes } = await level();
      console.log(`${cycle} cycles: ${mib} MiB, ${nodes} nodes, ${((performance.now() - begun) / 1000).toFixed(1)} s`);
    }
    for (const stack of stacks) stack.close();
  }
  for (const line of complaints.slice(0, 10)) console.log(`! ${line}`);
  if (complaints.length > 0) process.exitCode = 1;
} finally {
  await run(process.execPath, [xl, 'dom0', 'stop'], { env });
  rmSync(runDir, { recursive: true, force: true });
}
