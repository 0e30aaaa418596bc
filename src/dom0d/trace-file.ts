/** `--trace FILE`: every store request and event, as lines of JSON. */
import { appendFile, open } from 'node:fs/promises';
import type { TraceLine } from '../xenbus/trace.js';
import { BadArguments } from './arguments.js';

/** Trace lines that wait to be written. Past the bound the disk is too slow for a trace, and the trace ends. */
const tracePendingMaxBytes = 64 * 1024 * 1024;

export interface TraceFile {
  readonly write: (line: TraceLine) => void;
  /** Resolves when every line so far is in the file. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** Appends lines in batches, one at a time. A write that fails ends the trace with one line in the log, and nothing else. */
export async function traceTo(path: string, log: (line: string) => void): Promise<TraceFile> {
  const file = await open(path, 'a').catch((error: unknown) => {
    throw new BadArguments(`--trace ${path}: ${error instanceof Error ? error.message : String(error)}`);
  });
  let lines: string[] = [];
  let bytes = 0;
  let writing: Promise<void> | undefined;
  let over = false;

  const stop = (why: string) => {
    if (over) return;
    over = true;
    lines = [];
    log(`the trace ends: ${path}: ${why}`);
  };
  const drain = async () => {
    // One turn later there is more to write at once.
    await new Promise((next) => setImmediate(next));
    while (lines.length > 0 && !over) {
      const batch = `${lines.join('\n')}\n`;
      lines = [];
      bytes = 0;
      await appendFile(file, batch).catch((error: unknown) => stop(error instanceof Error ? error.message : String(error)));
    }
    writing = undefined;
  };
  const flush = async () => {
    while (writing) await writing;
  };
  return {
    write: (line) => {
      if (over) return;
      const text = JSON.stringify(line);
      lines.push(text);
      bytes += text.length;
      if (bytes > tracePendingMaxBytes) stop(`${tracePendingMaxBytes} bytes wait to be written`);
      else writing ??= drain();
    },
    flush,
    close: async () => {
      await flush();
      over = true;
      await file.close().catch(() => undefined);
    },
  };
}
