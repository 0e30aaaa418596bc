/**
 * Which domids were had lately (libxl_domain.c of 4.17): one that has just gone is not given to another domain while
 * somebody may still think of the first one.
 *
 * A file of lines `SECONDS DOMID`, of the clock that counts from the machine's boot. Entries that are too old are left
 * out when the next one is written; dom0 forgets all of them when it boots. How long an entry counts is each reader's to
 * say (`LIBXL_DOMID_REUSE_TIMEOUT`), and is not scaled.
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import type { Clock } from '../xenbus/clock.js';
import { LIBXL_DOMID_REUSE_TIMEOUT } from './ctx.js';
import { takeLockFile } from './lock-file.js';
import { strtol } from './strtol.js';

export interface DomidHistory {
  isRecent(domid: number): Promise<boolean>;
  mark(domid: number): Promise<void>;
}

/** The history in `file`. `seconds` is CLOCK_MONOTONIC, which all processes of the machine share. */
export function domidHistory(
  file: string,
  clock: Clock,
  reuseSeconds: number,
  seconds: () => number = () => process.hrtime()[0],
): DomidHistory {
  const recent = async () => {
    const text = await readFile(file, 'latin1').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return '';
      throw error;
    });
    return recentEntries(text, seconds(), reuseSeconds);
  };
  return {
    isRecent: async (domid) => (await recent()).some((entry) => entry.domid === domid),
    mark: async (domid) => {
      const unlock = await takeLockFile(`${file}.lock`, clock);
      try {
        const lines = [...(await recent()), { at: seconds(), domid }].map((entry) => `${entry.at} ${entry.domid}\n`);
        await writeFile(`${file}.new`, lines.join(''), { mode: 0o600 });
        await rename(`${file}.new`, file);
      } finally {
        await unlock();
      }
    },
  };
}

function recentEntries(text: string, now: number, reuseSeconds: number): { readonly at: number; readonly domid: number }[] {
  return text.split('\n').flatMap((line) => {
    const [, at, domid] = /^(\d+) (\d+)$/.exec(line) ?? [];
    const age = now - Number(at);
    return at !== undefined && age >= 0 && age <= reuseSeconds ? [{ at: Number(at), domid: Number(domid) }] : [];
  });
}

/** `LIBXL_DOMID_REUSE_TIMEOUT`, in seconds. */
export function domidReuseSeconds(env: Readonly<Record<string, string | undefined>>): number {
  const text = env['LIBXL_DOMID_REUSE_TIMEOUT'];
  return text === undefined ? LIBXL_DOMID_REUSE_TIMEOUT / 1000 : Number(strtol(text).value);
}
