#!/usr/bin/env node
// Our store against other servers of the protocol: speed, latency, the server's CPU time, and memory.
//
//   npm run build && node bench/xenstore.js [options]
//
//   --server 'NAME=COMMAND'   another server; repeatable. {dir} in the command is replaced by an empty directory; it must
//                             start the server in the background and print `socket=PATH pid=PID`
//   --runs N, --secs S        3 runs of 1 second for each workload
//   --warm S                  each workload for so long before it is measured, 0 seconds (rm and memory: once as they are)
//   --cpu N                   server and client on this core (taskset)
//   --only A,B                these workloads only
//   --xsbench PATH            a client in C for the workloads that it has: its own time is less than ours
//   --json                    all that was measured, in place of tables
//
// In each run the servers take turns, workload group by workload group, freshly started for each. Reported are medians
// over the runs; what a workload is stands with it in bench/xenstore-load.js. A server that answers wrongly has no
// figures, and the benchmark fails.
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { markdown, median, pinned, startServer } from './xenstore-client.js';

/** Each group has a server of its own: what came before weighs on what comes behind. */
const groups = [
  'read readpipe32 write overwrite mkrm dir1000 dirpart5000 txn10 txn10pipe conflict watchlat fanout100 fanout1000 fanout10000 conns100',
  'domains0 domainspipe0 domains1000 domainspipe1000 domains5000 domainspipe5000',
  'rm20000',
  'memory5000',
].map((names) => names.split(' '));
const ofXsbench = (name) => !/pipe\d*$|^(rm|memory)/.test(name);
/** For the workloads of a group on one server. */
const workloadsMaxMs = 1_800_000;

const { values: options } = parseArgs({
  options: {
    server: { type: 'string', multiple: true, default: [] },
    runs: { type: 'string', default: '3' },
    secs: { type: 'string', default: '1' },
    warm: { type: 'string', default: '0' },
    cpu: { type: 'string' },
    only: { type: 'string' },
    xsbench: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});
const servers = [
  { name: 'xl-mtwatch', command: undefined },
  ...options.server.map((text) => {
    const [, name, command] = /^([^=]+)=(.+)$/.exec(text) ?? [];
    if (!command) throw new Error(`--server ${text} must be NAME=COMMAND`);
    return { name, command };
  }),
];
const only = options.only?.split(',');
const unknown = only?.filter((name) => !groups.flat().includes(name)) ?? [];
if (unknown.length > 0) throw new Error(`no workload ${unknown.join(', ')}: there are ${groups.flat().join(', ')}`);
const chosen = groups.map((names) => names.filter((name) => only?.includes(name) ?? true)).filter((names) => names.length > 0);

/** The lines that a load generator prints, one for each workload. */
async function lines(command, args, each) {
  const child = spawn(...pinned(options.cpu, command, args), { stdio: ['ignore', 'pipe', 'pipe'], timeout: workloadsMaxMs });
  let trouble = '';
  child.stderr.on('data', (chunk) => {
    trouble += chunk;
  });
  const ended = new Promise((resolve) => child.once('close', resolve));
  for await (const line of createInterface({ input: child.stdout })) each(line);
  const code = await ended;
  if (child.killed) return `not done within ${workloadsMaxMs / 1000} s`;
  return code === 0 ? undefined : trouble.trim() || `${command} ended with ${code}`;
}

const nodeLoad = fileURLToPath(new URL('xenstore-load.js', import.meta.url));
async function runOurs({ socket, pid }, names, report) {
  return lines(process.execPath, [nodeLoad, socket, String(pid), options.secs, options.warm, ...names], (line) =>
    report(JSON.parse(line)),
  );
}

async function runXsbench({ socket, pid }, names, report) {
  const args = (seconds) => ['-T', '-t', seconds, '-s', socket, '-p', String(pid), ...names];
  if (Number(options.warm) > 0) await lines(options.xsbench, args(options.warm), () => undefined);
  return lines(options.xsbench, args(options.secs), (line) => {
    const [name, ops, p50, p99, note = ''] = line.split('\t');
    const noted = (key) => {
      const found = new RegExp(`${key}=([\\d.]+)`).exec(note)?.[1];
      return found === undefined ? undefined : Number(found);
    };
    if (note.startsWith('unsupported')) return report({ name, unsupported: true });
    report({
      name,
      ops: Number(ops),
      p50: Number(p50),
      p99: Number(p99),
      cpuUs: noted('cpu_us/op'),
      eagain: noted('eagain'),
      destroyP50: noted('destroy-p50'),
    });
  });
}

/** Runs of workloads on one freshly started server. What was left out because a load generator died is an error too. */
async function runGroup(server, names, report) {
  const started = await startServer(server.command, options.cpu);
  try {
    const theirs = names.filter((name) => options.xsbench && ofXsbench(name));
    const ours = names.filter((name) => !theirs.includes(name));
    for (const [some, run] of [
      [theirs, runXsbench],
      [ours, runOurs],
    ]) {
      const missing = new Set(some);
      const done = (result) => {
        missing.delete(result.name);
        report(result);
      };
      const trouble = some.length > 0 ? await run(started, some, done) : undefined;
      for (const name of missing) report({ name, error: trouble ?? 'no result' });
    }
  } finally {
    started.stop();
  }
}

/** Results by workload, then by server: a list of one for each run. */
const results = new Map(chosen.flat().map((name) => [name, new Map(servers.map((server) => [server.name, []]))]));
const errors = [];
const runs = Number(options.runs);
for (let run = 0; run < runs; run += 1) {
  for (const names of chosen) {
    for (let turn = 0; turn < servers.length; turn += 1) {
      const server = servers[(turn + run) % servers.length];
      await runGroup(server, names, ({ name, ...result }) => {
        results.get(name).get(server.name).push(result);
        const said =
          result.error ?? (result.unsupported ? 'unsupported' : JSON.stringify(result, (_, v) => (v > 1 ? Math.round(v) : v)));
        console.error(`run ${run + 1}/${runs} ${server.name} ${name}: ${said}`);
        if (result.error) errors.push(`${server.name}, ${name}: ${result.error}`);
      });
    }
  }
}

// Tables.

/** The median over the runs; undefined unless every run has the figure. */
function middle(name, server, key) {
  const list = results
    .get(name)
    .get(server)
    .map((result) => result[key]);
  return list.length > 0 && list.every((figure) => figure !== undefined) ? median(list) : undefined;
}

const shown = (figure) => {
  if (figure === undefined) return '-';
  return figure < 10 ? figure.toFixed(1) : String(Math.round(figure));
};
const [own, ...others] = servers.map(({ name }) => name);

/** How many times better ours is than the best of the others; `better` says which of two figures is better. */
function ratio(name, key, better) {
  const figure = middle(name, own, key);
  const theirs = others.map((other) => middle(name, other, key)).filter((each) => each !== undefined);
  if (figure === undefined || theirs.length === 0) return '-';
  const best = better(...theirs);
  return (better === Math.max ? figure / best : best / figure).toFixed(2);
}

function report() {
  const all = servers.map(({ name }) => name);
  const versus = (title) => (others.length > 0 ? [title] : []);
  const timed = chosen.flat().filter((name) => !name.startsWith('memory'));
  const cells = (name, server) => {
    if (
      results
        .get(name)
        .get(server)
        .some(({ error }) => error)
    )
      return ['wrong', '-', '-', '-'];
    if (
      results
        .get(name)
        .get(server)
        .some(({ unsupported }) => unsupported)
    )
      return ['none', '-', '-', '-'];
    return ['ops', 'p50', 'p99', 'cpuUs'].map((key) => shown(middle(name, server, key)));
  };
  const parts = [
    `Node ${process.version}, ${availableParallelism()} cores, ${runs} runs of ${options.secs} s behind ${options.warm} s not measured, medians; client: ${options.xsbench ? 'xsbench (C) for what it has, else ' : ''}bench/xenstore-load.js${options.cpu === undefined ? '' : `; server and client on core ${options.cpu}`}.`,
    servers.map(({ name, command }) => `- ${name}: \`${command ?? 'node bench/xenstore-server.js {dir}/socket'}\``).join('\n'),
  ];
  if (timed.length > 0) {
    const head = all.flatMap((name) => [`${name} ops/s`, 'p50 µs', 'p99 µs', 'server CPU µs/op']);
    const rows = timed.map((name) => [
      name,
      ...all.flatMap((server) => cells(name, server)),
      ...versus(ratio(name, 'ops', Math.max)),
      ...versus(ratio(name, 'cpuUs', Math.min)),
    ]);
    parts.push(
      markdown([['workload', ...head, ...versus('ops/s to the best other'), ...versus('CPU, the best other to ours')], ...rows]),
    );
  }
  const destroyed = timed.filter((name) => name.startsWith('domains'));
  if (destroyed.length > 0) {
    const head = all.flatMap((name) => [`${name} p50 µs`, 'p99 µs']);
    const rows = destroyed.map((name) => [
      name,
      ...all.flatMap((server) => ['destroyP50', 'destroyP99'].map((key) => shown(middle(name, server, key)))),
      ...versus(ratio(name, 'destroyP50', Math.min)),
    ]);
    parts.push(markdown([['domain destroyed', ...head, ...versus('p50, the best other to ours')], ...rows]));
  }
  for (const name of chosen.flat().filter((each) => each.startsWith('memory'))) {
    const rows = all.map((server) => {
      const [before, after] = ['before', 'after'].map((key) => middle(name, server, key));
      return [server, ...[before, after].map((bytes) => shown(bytes && bytes / 1024)), shown(middle(name, server, 'bytes'))];
    });
    parts.push(markdown([[name, 'RSS before, KiB', 'after, KiB', 'bytes a domain'], ...rows]));
  }
  return parts.join('\n\n');
}

if (options.json) {
  const plain = Object.fromEntries([...results].map(([name, byServer]) => [name, Object.fromEntries(byServer)]));
  const { runs: _, ...rest } = options;
  console.log(JSON.stringify({ node: process.version, cores: availableParallelism(), runs, ...rest, results: plain }, null, 2));
} else console.log(report());
if (errors.length > 0) {
  console.error(`\nWrong answers, or none:\n${errors.join('\n')}`);
  process.exitCode = 1;
}
