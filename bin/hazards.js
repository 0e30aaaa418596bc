#!/usr/bin/env node
// Writes the tables of docs/hazards.md anew, between its markers, by `xl mtwatch explore --matrix`. What is around them is
// prose, and stays. Arguments go to that command. `--check` fails when the tables are not what is there.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const file = fileURLToPath(new URL('../docs/hazards.md', import.meta.url));
const [begin, end] = ['<!-- tables -->\n', '<!-- end of tables -->\n'];

const args = process.argv.slice(2).filter((arg) => arg !== '--check');
const xl = fileURLToPath(new URL('./xl.js', import.meta.url));
const { status, stdout } = spawnSync(process.execPath, [xl, 'mtwatch', 'explore', '--matrix', ...args], {
  encoding: 'utf8',
  maxBuffer: 64 * 1024 * 1024,
  stdio: ['ignore', 'pipe', 'inherit'],
});
if (status !== 0) process.exit(status ?? 1);

const text = readFileSync(file, 'utf8');
const [from, to] = [text.indexOf(begin), text.indexOf(end)];
if (from < 0 || to < from) {
  process.stderr.write(`${file} has no ${begin.trim()} and ${end.trim()}, between which the tables go\n`);
  process.exit(1);
}
const written = `${text.slice(0, from)}${begin}\n${stdout}\n${text.slice(to)}`;
if (!process.argv.includes('--check')) {
  writeFileSync(file, written);
} else if (text !== written) {
  process.stderr.write(`${file} is out of date: run \`npm run hazards\` and commit it\n`);
  process.exit(1);
}
