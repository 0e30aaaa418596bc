#!/usr/bin/env node
// Wall time of commands, against `node -e 0` in the same run, and of `xl list` when there are many domains.
//
//   npm run build && node bench/xl.js [rounds] [domains]
//
// The cases are interleaved, so that whatever else the machine does touches all of them. Reported: the least, the
// median, and the difference of medians from bare node. dom0d is up before the first round.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { version } from '../dist/version.js';
import { privcmdClient } from '../dist/xenbus/privcmd-client.js';
import { runDirAt } from '../dist/xenbus/run-dir.js';
import { socketTransport } from '../dist/xenbus/transport.js';
import { xsClient } from '../dist/xenbus/xs-client.js';

const rounds = Number(process.argv[2] ?? 15);
const many = Number(process.argv[3] ?? 5_000);
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const runDir = mkdtempSync(join(tmpdir(), 'xl-bench.'));
const env = { XL_RUN_DIR: runDir, XL_DOM0_ARGS: '--assume-files', NODE_ENV: 'production' };
const xl = (...args) => execa(process.execPath, [join(root, 'bin/xl.js'), ...args], { env, cwd: root });

async function timed(run) {
  const start = performance.now();
  await run();
  return performance.now() - start;
}

const config = (n) => [
  `name="bench-${n}"`,
  'memory=32',
  'kernel="/boot/vmlinux"',
  `disk=["/dev/vg/bench-${n},raw,xvda"]`,
  'vif=[""]',
];
const cases = {
  'node -e 0': () => execa(process.execPath, ['-e', '0']),
  'xl list': () => xl('list'),
  'xl domid': () => xl('domid', 'Domain-0'),
  'xl domname': () => xl('domname', '0'),
  'xl mtwatch list': () => xl('mtwatch', 'list'),
  'xl help': () => xl('help'),
  'xl vcpu-list': () => xl('vcpu-list'),
  'xl create -n': (n) => xl('create', '-n', '/dev/null', ...config(n)),
  'xl create': (n) => xl('create', '-q', '/dev/null', ...config(n)),
  'xl destroy': (n) => xl('destroy', `bench-${n}`),
};

async function measure(which) {
  const times = Object.fromEntries(Object.keys(which).map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of Object.entries(which)) times[name].push(await timed(() => run(round)));
  }
  return times;
}

/** Domains that have a name and nothing else: what a listing asks about. */
async function addDomains(count) {
  const dir = runDirAt(runDir);
  const xc = await privcmdClient(dir.privcmd, version);
  const xs = xsClient(await socketTransport(dir.store.xl));
  for (let n = 0; n < count; n++) {
    const uuid = `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
    const { domid } = await xc.call('xc.domain_create', { uuid, maxVcpus: 1 });
    await xs.write(`/local/domain/${domid}/name`, `many-${n}`);
  }
  xs.close();
  xc.close();
}

await xl('dom0', 'start', '--assume-files');
let times;
try {
  times = await measure(cases);
  await addDomains(1);
  const { 'xl list': one } = await measure({ 'xl list': cases['xl list'] });
  await addDomains(many - 1);
  const listings = await measure({ 'node -e 0': cases['node -e 0'], 'xl list': cases['xl list'] });
  times['list of 1'] = one;
  times[`list of ${many}`] = listings['xl list'];
} finally {
  process.kill(Number(readFileSync(join(runDir, 'dom0.pid'), 'utf8')));
  rmSync(runDir, { recursive: true, force: true });
}

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const base = median(times['node -e 0']);
console.log(`Node ${process.version}, ${rounds} rounds, milliseconds`);
console.log('case              least  median  median - node');
for (const [name, list] of Object.entries(times)) {
  const cells = [Math.min(...list), median(list), median(list) - base].map((ms) => ms.toFixed(0));
  console.log(`${name.padEnd(16)} ${cells[0].padStart(6)} ${cells[1].padStart(7)} ${cells[2].padStart(14)}`);
}
