#!/usr/bin/env node
// What a schedule of each scenario costs, in one thread: node bench/explore.js [schedules] [design]. Prints a Markdown table.
import { runPiece, spread } from '../dist/explore/campaign.js';
import { runSchedule, scenarios } from '../dist/explore/world.js';

const schedules = Number(process.argv[2] ?? 300);
const design = process.argv[3] ?? 'hardened';

function tally(scenario, count) {
  const campaign = { setup: { design, scenario, switches: {}, without: [] }, strategy: 'random', seed: 1, schedules: count };
  const running = runPiece(runSchedule, { campaign, from: 0, to: count });
  for (;;) {
    const { done, value } = running.next();
    if (done) return value;
  }
}

// So that the first scenario does not pay for the compiler.
for (const { name } of scenarios) tally(name, 3);
process.stdout.write(`| ${design}: scenario | schedules/s | choice points, median | states | pre-empted |\n`);
process.stdout.write('| --- | --- | --- | --- | --- |\n');
for (const { name } of scenarios) {
  const began = performance.now();
  const { choices, coverage } = tally(name, schedules);
  const perSecond = Math.round((schedules / (performance.now() - began)) * 1000);
  const { states, points, preempted } = coverage;
  const cells = [name, perSecond, spread(choices).median, states.size, `${preempted.size}/${points.size}`];
  process.stdout.write(`| ${cells.join(' | ')} |\n`);
}
