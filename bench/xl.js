#!/usr/bin/env node
// Wall time of `xl list` and `xl create`, against `node -e 0` in the same run.
//
//   npm run build && node bench/xl.js [rounds]
//
// The three are interleaved, so that whatever else the machine does touches all of them. Reported: the least, the
// median, and the difference of medians from bare node. dom0d is up before the first round.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';

const rounds = Number(process.argv[2] ?? 20);
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
  'xl create': (n) => xl('create', '-q', '/dev/null', ...config(n)),
  'xl destroy': (n) => xl('destroy', `bench-${n}`),
};

await xl('dom0', 'start', '--assume-files');
const times = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
try {
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of Object.entries(cases)) times[name].push(await timed(() => run(round)));
  }
} finally {
  process.kill(Number(readFileSync(join(runDir, 'dom0.pid'), 'utf8')));
  rmSync(runDir, { recursive: true, force: true });
}

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];
const base = median(times['node -e 0']);
console.log(`Node ${process.version}, ${rounds} rounds, milliseconds`);
console.log('case          least  median  median - node');
for (const [name, list] of Object.entries(times)) {
  const cells = [Math.min(...list), median(list), median(list) - base].map((ms) => ms.toFixed(0));
  console.log(`${name.padEnd(12)} ${cells[0].padStart(6)} ${cells[1].padStart(7)} ${cells[2].padStart(14)}`);
}
