/**
 * Runs commands of the built `xl` one after another in one process, for tests that need hundreds of them: what bin/xl.js
 * does behind `plan`, with what is written and the exit code as the answer. Forked; it speaks over the fork's channel.
 */
import { createRequire } from 'node:module';

const { runQuick } = createRequire(import.meta.url)('../../dist/bundle/quick.cjs');
const { run: runCommand } = createRequire(import.meta.url)('../../dist/bundle/xl.cjs');

/** A command has called process.exit. */
class Exited extends Error {}

process.exit = (code) => {
  if (code !== undefined) process.exitCode = code;
  throw new Exited();
};

const written = { stdout: [], stderr: [] };
for (const name of ['stdout', 'stderr']) {
  process[name].write = (chunk, ...rest) => {
    written[name].push(Buffer.from(chunk));
    rest.find((each) => typeof each === 'function')?.();
    return true;
  };
}

async function run({ id, argv }) {
  written.stdout = [];
  written.stderr = [];
  process.exitCode = undefined;
  let exit;
  try {
    exit = (await runQuick(id, argv)) ?? (await runCommand(id, argv));
  } catch (error) {
    exit = process.exitCode ?? 1;
    if (!(error instanceof Exited)) written.stderr.push(Buffer.from(`${error.stack ?? error}\n`));
  }
  const text = (chunks) => Buffer.concat(chunks).toString('latin1');
  return { stdout: text(written.stdout), stderr: text(written.stderr), exit };
}

process.on('message', async (request) => process.send(await run(request)));
process.on('disconnect', () => process.kill(process.pid));
process.send('ready');
