#!/usr/bin/env node
// Writes what is made from the table of commands: the man pages and docs/coverage.md. `--check`: only says whether
// they are what the table says now. Run after a build.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { coveragePage, overviewPage, xlPage } from '../dist/cli/manual.js';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const read = (file) => readFileSync(join(root, file), 'utf8');
const table = JSON.parse(read('dist/bundle/table.json'));
const { version } = JSON.parse(read('package.json'));
const pages = {
  'docs/coverage.md': coveragePage(table),
  'man/xl.1': xlPage(table, version),
  'man/xl-mtwatch.7': overviewPage(table, version),
};

if (process.argv.includes('--check')) {
  const stale = Object.entries(pages).flatMap(([file, text]) => (read(file) === text ? [] : [file]));
  if (stale.length > 0) {
    process.stderr.write(`${stale.join(', ')}: out of date; run \`npm run docs\` and commit\n`);
    process.exit(1);
  }
} else {
  mkdirSync(join(root, 'man'), { recursive: true });
  for (const [file, text] of Object.entries(pages)) writeFileSync(join(root, file), text);
}
