#!/usr/bin/env node
// The entry of `xl`: reads the command line as xl does, then prints, or runs one command.
//
// As little as possible is loaded: help and mistakes need the table of commands alone, and a command brings what it
// needs. CommonJS, which Node starts with some milliseconds earlier.
'use strict';
const { readFileSync } = require('node:fs');
const { join } = require('node:path');

process.env.NODE_ENV ??= 'production';
require('node:module').enableCompileCache?.();

const { plan, quickCommands } = require('../dist/bundle/argv.cjs');

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
  const [, words = error.message] = require('node:util').getSystemErrorMap().get(error.errno) ?? [];
  process.stderr.write(`xl: cannot write: ${words.charAt(0).toUpperCase()}${words.slice(1)}\n`);
  process.exit(1);
}

const planned = plan(process.argv.slice(2), JSON.parse(readFileSync(join(__dirname, '../dist/bundle/table.json'), 'utf8')));
if (planned.do === 'print') {
  process.stderr.write(planned.stderr);
  process.stdout.write(planned.stdout);
  process.exitCode = planned.exit;
} else {
  run(planned.id, planned.argv).then((exit) => {
    process.exitCode = exit;
    // Connections that are still saying goodbye are no reason to stay.
    process.stdout.write('', (error) => error || process.exit());
  });
}

/** A command that scripts call in loops runs by itself, any other one through oclif. */
async function run(id, argv) {
  const exit = quickCommands.includes(id) ? await require('../dist/bundle/quick.cjs').runQuick(id, argv) : undefined;
  return exit ?? require('../dist/bundle/xl.cjs').run(id, argv);
}
