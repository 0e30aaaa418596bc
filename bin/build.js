#!/usr/bin/env node
// Builds dist/ from src/ and writes oclif.manifest.json from the commands found there.
//
// The manifest is what lets `xl` start without importing every command. It is committed; `--check` fails when the
// committed one is not what the commands say now.
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const manifestFile = join(root, 'oclif.manifest.json');

rmSync(join(root, 'dist'), { recursive: true, force: true });
const tsc = spawnSync(
  process.execPath,
  [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.build.json')],
  {
    stdio: 'inherit',
  },
);
if (tsc.status !== 0) process.exit(tsc.status ?? 1);

const { Plugin } = await import('@oclif/core');
const plugin = new Plugin({ root, type: 'core', ignoreManifest: true, errorOnManifestCreate: true, respectNoCacheDefault: true });
await plugin.load();
// The directories are searched at the same time, and the commands stand as they were found.
const commands = Object.fromEntries(Object.entries(plugin.manifest.commands).sort(([a], [b]) => (a < b ? -1 : 1)));
const manifest = `${JSON.stringify({ ...plugin.manifest, commands }, null, 2)}\n`;
if (process.argv.includes('--check')) {
  if (readFileSync(manifestFile, 'utf8') !== manifest) {
    process.stderr.write('oclif.manifest.json is out of date: run `npm run build` and commit it\n');
    process.exit(1);
  }
} else {
  writeFileSync(manifestFile, manifest);
}
