#!/usr/bin/env node
// The entry of `xl`: reads the command line as xl does, then prints, or runs one command.
//
// As little as possible is loaded: help and mistakes need the manifest alone, and a command brings what it needs.
import { readFileSync } from 'node:fs';
import module from 'node:module';
import { getSystemErrorMap } from 'node:util';

process.env.NODE_ENV ??= 'production';
module.enableCompileCache?.();

const { plan } = await import('../dist/argv.js');
const read = (file) => JSON.parse(readFileSync(new URL(file, import.meta.url), 'utf8'));
const planned = plan(process.argv.slice(2), {
  commands: read('../oclif.manifest.json').commands,
  topics: read('../package.json').oclif.topics,
});

for (const stream of [process.stdout, process.stderr]) {
  // A pipe reports a failed write as an event, a file throws.
  const write = stream.write.bind(stream);
  stream.write = (...args) => {
    try {
      return write(...args);
    } catch (error) {
      unwritable(stream, error);
      return true;
    }
  };
  stream.on('error', (error) => unwritable(stream, error));
}

/** Ends as a program in C ends: by SIGPIPE when nobody reads (Node ignores the signal), and never for want of a stderr. */
function unwritable(stream, error) {
  if (error.code === 'EPIPE') process.exit(128 + 13);
  if (stream === process.stderr) return;
  const [, words = error.message] = getSystemErrorMap().get(error.errno) ?? [];
  process.stderr.write(`xl: cannot write: ${words.charAt(0).toUpperCase()}${words.slice(1)}\n`);
  process.exit(1);
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
  process.stdout.write('', (error) => error || process.exit());
}
