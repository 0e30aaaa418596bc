/** Starting a dom0: one command gets to do it, the others wait for it. Apart, because mostly one runs already. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { PrivcmdClient } from '../xenbus/privcmd-client.js';
import { inRunDir, prepareRunDir, type RunDir, takeRight } from '../xenbus/run-dir.js';
import { tryConnect, XlFailure } from './session.js';

/** How long a command waits for a dom0 that somebody starts. */
export const startWaitMs = 30_000;
/** After which a command starts one itself, whoever has begun to: that one may hang, and a second dom0 gives way. */
const startPatienceMs = 10_000;
/** Between two looks whether dom0 answers by now. */
const startPollMs = 50;
/** Lines of dom0's log that are shown when it ends without a word. */
const logTailLines = 10;

/** Words as a shell splits them: blanks between, quotes around, a backslash before. For `XL_DOM0_ARGS`. */
export function splitWords(text: string): string[] {
  const words: string[] = [];
  for (const [match] of text.matchAll(/(?:[^\s'"\\]|\\[\s\S]|'[^']*'|"(?:[^"\\]|\\[\s\S])*")+/g)) {
    words.push(
      match.replace(/\\([\s\S])|'([^']*)'|"((?:[^"\\]|\\[\s\S])*)"/g, (_, escaped?: string, single?: string, double?: string) => {
        return escaped ?? single ?? (double ?? '').replace(/\\(["\\$`])/g, '$1');
      }),
    );
  }
  return words;
}

/**
 * The arguments of a dom0 that starts by itself: what `XL_DOM0_ARGS` says; without it those of the last one, if that kept a
 * journal. To begin without it would be to remove what the journal does not hold, the saved configs of its domains.
 */
export function argumentsFor(dir: RunDir, dom0Args = ''): string[] {
  if (dom0Args.trim() !== '') return splitWords(dom0Args);
  let text: string;
  try {
    text = readFileSync(dir.argsFile, 'utf8');
  } catch {
    return [];
  }
  try {
    const args: unknown = JSON.parse(text);
    if (Array.isArray(args) && args.every((each) => typeof each === 'string')) return args;
  } catch {
    // A power cut can leave half a file.
  }
  throw new XlFailure(
    1,
    `xl: ${dir.argsFile} is damaged; start dom0 with \`xl dom0 start\` and what it is to have, its --journal too`,
  );
}

/**
 * Starts a dom0 with these arguments and connects to it, or to the one that somebody else was faster to start: then it
 * is not `ours`.
 */
export async function startDom0(dir: RunDir, args: readonly string[]): Promise<{ client: PrivcmdClient; ours: boolean }> {
  prepareRunDir(dir);
  let started: number | undefined;
  const began = performance.now();
  while (performance.now() < began + startWaitMs) {
    const right = await takeRight(dir, 'start');
    const impatient = performance.now() > began + startPatienceMs;
    try {
      let client = await tryConnect(dir);
      if (!client && (right || impatient)) {
        started = await announced(() => launch(dir, args));
        client = await tryConnect(dir);
      }
      if (client) return { client, ours: client.server.pid === started };
    } finally {
      right?.release();
    }
    await new Promise((done) => setTimeout(done, startPollMs));
  }
  throw new XlFailure(1, `xl: no answer from dom0 in ${startWaitMs / 1000} s; ${dir.log} may say why`);
}

/** Shows on a terminal that dom0 is being started, and then that it was. Elsewhere nobody asked. */
async function announced(start: () => Promise<number | undefined>): Promise<number | undefined> {
  if (!process.stderr.isTTY) return start();
  // A terminal that does not say how wide it is would have its spinner cleared line by line, without an end.
  const { default: ora } = await import('ora');
  const spinner = process.stderr.columns > 0 ? ora({ text: 'starting dom0', stream: process.stderr }).start() : undefined;
  try {
    const pid = await start();
    spinner?.stop();
    if (pid !== undefined) process.stderr.write(`xl: started dom0 (pid ${pid}); \`xl dom0 stop\` ends it\n`);
    return pid;
  } finally {
    spinner?.stop();
  }
}

/**
 * Runs dom0d, detached, until it says on its pipe that it listens, or why it does not. Its pid; undefined when it gave
 * way to another one, which does not answer yet, or not any more.
 */
async function launch(dir: RunDir, args: readonly string[]): Promise<number | undefined> {
  const log = inRunDir(dir, dir.log, () => openSync(dir.log, 'a', 0o600));
  // Beside the bundle that this is in.
  const program = fileURLToPath(new URL('./dom0d.js', import.meta.url));
  const child = spawn(process.execPath, [program, '--run-dir', dir.path, '--ready-fd', '3', ...args], {
    detached: true,
    stdio: ['ignore', log, log, 'pipe'],
  });
  closeSync(log);
  const line = await firstLine(child);
  child.unref();
  if (line === undefined) throw new XlFailure(1, `xl: dom0 ended before it listened; the end of ${dir.log}:\n${tail(dir.log)}`);
  const said = JSON.parse(line) as { ready?: number; busy?: boolean; error?: string; lost?: string };
  if (said.error !== undefined) throw new XlFailure(1, `xl: dom0 did not start: ${said.error}`);
  if (said.lost !== undefined) process.stderr.write(`xl: the dom0 before was killed; lost with it: ${said.lost}\n`);
  return said.ready;
}

function firstLine(child: ChildProcess): Promise<string | undefined> {
  const pipe = child.stdio[3] as Readable;
  return new Promise((found, failed) => {
    let text = '';
    child.once('error', failed);
    pipe.setEncoding('utf8');
    pipe.on('data', (chunk: string) => {
      text += chunk;
      const end = text.indexOf('\n');
      if (end < 0) return;
      pipe.destroy();
      found(text.slice(0, end));
    });
    pipe.on('end', () => found(undefined));
    pipe.on('error', failed);
  });
}

function tail(file: string): string {
  return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-logTailLines).join('\n');
}
