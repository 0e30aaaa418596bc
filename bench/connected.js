#!/usr/bin/env node
// How long a domain takes from `domainCreateNew` to both devices connected, inside one process, when there are 10,
// 100, 1,000 and 5,000 domains already.
//
//   npm run build && node bench/connected.js [samples]
//
// It is the whole way: libxl, the store, dom0's kernel, the guest; without sockets and processes. Cost must not grow with the
// number of domains.
import { performance } from 'node:perf_hooks';
import { builtinScripts } from '../dist/libxl/builtin-scripts.js';
import { domainCreateNew } from '../dist/libxl/create.js';
import { domainDestroy } from '../dist/libxl/destroy.js';
import { SystemClock } from '../dist/xenbus/clock.js';
import { Dom0 } from '../dist/xenbus/dom0.js';
import { defaultMachine } from '../dist/xenbus/machine.js';
import { linkTransport } from '../dist/xenbus/transport.js';
import { xsClient } from '../dist/xenbus/xs-client.js';

const samples = Number(process.argv[2] ?? 50);
const clock = new SystemClock();
const host = { root: '/', assumeFiles: true, strictFiles: false, bridges: ['xenbr0'] };
const machine = { ...defaultMachine, totalKb: 512 * 1024 * 1024 };
const dom0 = new Dom0({ clock, cmdline: 'xen_mtwatch', host, machine, log: (line) => console.error(line) });
const connect = (who) => xsClient(linkTransport(dom0, { domid: 0, who }));
const xc = { call: async (op, args) => dom0.handlers[op](args), close() {} };
const stat = async (path) => ({ kind: 'assumed', block: path.startsWith('/dev/') });
const ctx = {
  xs: connect('xl'),
  xc,
  clock,
  timeoutScale: 1,
  log: (level, where, domid, message) => level === 'error' && console.error(where, domid, message),
  xcLog: (line) => console.error(line),
  host: {
    pid: 1,
    stat,
    readMagic: async () => undefined,
    runScript: async (run) => ({
      pid: 1,
      status: await builtinScripts.get(run.script.split('/').at(-1))(
        { openXs: async () => connect('hotplug'), xc, stat, resolve: async (p) => p },
        run,
      ),
    }),
    readUserdata: async () => undefined,
    writeUserdata: async () => {},
    removeUserdata: async () => {},
  },
};

let count = 0;
function config() {
  count += 1;
  return {
    cInfo: { type: 'pv', name: `bench-${count}`, uuid: `00000000-0000-4000-8000-${String(count).padStart(12, '0')}` },
    bInfo: {
      maxVcpus: 1,
      availVcpus: [0],
      maxMemkb: 32768,
      targetMemkb: 32768,
      schedParams: {},
      kernel: '/boot/vmlinux',
      pv: {},
      archArm: {},
      archX86: {},
    },
    disks: [{ pdevPath: `/dev/vg/bench-${count}`, vdev: 'xvda', format: 'raw', readwrite: true }],
    nics: [{ devid: 0 }],
    onPoweroff: 'destroy',
    onReboot: 'restart',
    onWatchdog: 'destroy',
    onCrash: 'destroy',
    onSoftReset: 'soft_reset',
  };
}

function waitForConnected(path) {
  return new Promise((resolve) => {
    const watch = ctx.xs.watch(path, async () => {
      if ((await ctx.xs.read(path)) === '4') resolve(watch.then((registered) => registered.close()));
    });
  });
}

async function create() {
  const start = performance.now();
  const domid = await domainCreateNew(ctx, config());
  const created = performance.now();
  const nodes = ['vbd/51712', 'vif/0'].map((device) => `/local/domain/${domid}/device/${device}/state`);
  const back = ['vbd', 'vif'].map((kind) => `/local/domain/0/backend/${kind}/${domid}/${kind === 'vbd' ? 51712 : 0}/state`);
  const waits = [...nodes, ...back].map(waitForConnected);
  dom0.handlers['xc.domain_unpause']({ domid });
  await Promise.all(waits);
  return { domid, created: created - start, connected: performance.now() - start };
}

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
console.log(`Node ${process.version}, ${samples} samples a row, median milliseconds`);
console.log('domains  create  connected  destroy');
for (const population of [10, 100, 1000, 5000]) {
  while (dom0.domains < population) await create();
  const rows = [];
  for (let sample = 0; sample < samples; sample++) {
    const { domid, created, connected } = await create();
    const start = performance.now();
    await domainDestroy(ctx, domid);
    rows.push({ created, connected, destroyed: performance.now() - start });
  }
  const cells = ['created', 'connected', 'destroyed'].map((key) => median(rows.map((row) => row[key])).toFixed(1));
  console.log(`${String(population).padStart(7)} ${cells[0].padStart(7)} ${cells[1].padStart(10)} ${cells[2].padStart(8)}`);
}
process.exit(0);
