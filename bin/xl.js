#!/usr/bin/env node
// The entry of `xl`: reads the command line as xl does, then prints, or runs one command.
//
// As little as possible is loaded: help and mistakes need the manifest alone, and a command brings what it needs.
import { readFileSync } from 'node:fs';
import module from 'node:module';

process.env.NODE_ENV ??= 'production';
module.enableCompileCache?.();

const { plan } = await import('../dist/argv.js');
const read = (file) => JSON.parse(readFileSync(new URL(file, import.meta.url), 'utf8'));
const planned = plan(process.argv.slice(2), {
  commands: read('../oclif.manifest.json').commands,
  topics: read('../package.json').oclif.topics,
});

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error) => {
    // Whoever read our output has seen enough.
    if (error.code === 'EPIPE') process.exit();
    throw error;
  });
}

if (planned.do === 'print') {
  process.stderr.write(planned.stderr);
  process.stdout.write(planned.stdout);
  process.exitCode = planned.exit;
} else {
  const { settings } = await import('@oclif/core/settings');
  settings.enableAutoTranspile = false;
  const { runCommand } = await import('../dist/xl.js');
  process.exitCode = await runCommand(planned.id, planned.argv);
  // Connections that are still saying goodbye are no reason to stay.
  process.stdout.write('', () => process.exit());
}
