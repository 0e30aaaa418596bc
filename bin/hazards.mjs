#!/usr/bin/env node
// Makes what docs/hazards.md shows anew, between its markers, by `xl mtwatch explore`: the tables, and the traces of which it
// tells. What is around them is prose, and stays. What replaying each trace of the tables gives goes to
// test/explore/traces.json, which a test holds the program against. Arguments go to `explore --matrix`. Takes some minutes.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseReplay, replaying } from '../dist/explore/replay.js';
import { runSchedule } from '../dist/explore/world.js';

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));

/** What a command prints; the exit codes of `explore` are 0 and 1. */
function xl(...args) {
  const { status, signal, error, stdout } = spawnSync(process.execPath, [path('bin/xl.js'), 'mtwatch', 'explore', ...args], {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (status !== 0 && status !== 1)
    throw new Error(`explore ${args.join(' ')}: ${error?.message ?? signal ?? `exit code ${status}`}`);
  return stdout;
}

/** Replaces what is between two markers. */
function between(text, name, what) {
  const [begin, end] = [`<!-- ${name} -->\n`, `<!-- end of ${name} -->\n`];
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/hazards.md has no ${begin.trim()} and ${end.trim()}`);
  return `${text.slice(0, from)}${begin}\n${what}\n${text.slice(to)}`;
}

const tables = xl('--matrix', '--schedules', '200', ...process.argv.slice(2));
const tracesIn = (text) => [...text.matchAll(/\bx1:[^`\s]+/g)].map(([trace]) => trace);

let document = between(readFileSync(path('docs/hazards.md'), 'utf8'), 'tables', tables);
for (const [, hazard, scenario] of document.matchAll(/^<!-- trace of (\w+) in ([\w-]+) -->$/gm)) {
  const search = ['--design', 'rfc', '--scenario', scenario, '--strategy', 'pct', '--schedules', '300', '--seed', '1'];
  const trace =
    tracesIn(tables).find((each) => each.startsWith(`x1:rfc:${scenario}:`) && each.endsWith(`:${hazard}`)) ??
    JSON.parse(xl(...search, '--json')).violations.find((each) => each.hazard === hazard)?.replay;
  if (!trace) throw new Error(`no trace of ${hazard} in ${scenario}`);
  const shown = `\`\`\`console\n$ xl mtwatch explore --replay ${trace}\n${xl('--replay', trace)}\`\`\`\n`;
  document = between(document, `trace of ${hazard} in ${scenario}`, shown);
}
writeFileSync(path('docs/hazards.md'), document);

const replayed = [...new Set(tracesIn(document))].map((trace) => {
  const { setup, segments, hazard } = parseReplay(trace);
  const { violations, notes } = runSchedule(setup, replaying(segments), { notes: true, until: hazard });
  const { step } = violations.find((violation) => violation.hazard === hazard);
  return { trace, step, notes: createHash('sha256').update(JSON.stringify(notes)).digest('hex').slice(0, 16) };
});
writeFileSync(path('test/explore/traces.json'), `[\n${replayed.map((each) => `  ${JSON.stringify(each)}`).join(',\n')}\n]\n`);
