/**
 * Locks between processes, as files (libxl's are flock(2)s on such files, which Node does not have).
 *
 * A lock file names its holder by pid and start time, so that one left behind by a process that was killed is known as
 * such and taken over, even when another process has that pid by now. Like flock, a lock is waited for without a bound
 * while its holder lives: what it guards is held for one transaction, or for as long as a device takes to come up.
 */
import { readFileSync } from 'node:fs';
import { link, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Clock } from '../xenbus/clock.js';

/** Between two looks at a lock that another process holds. */
const lockPollMs = 10;
/** Of this process, which may wait for several at once. */
let locksTaken = 0;
/** Who of this process comes after whom, by file: they need not look at the file all at once. */
const turns = new Map<string, Promise<void>>();

/** Takes a lock as soon as nobody has it; the answer lets it go. */
export async function takeLockFile(file: string, clock: Clock): Promise<() => Promise<void>> {
  const before = turns.get(file);
  let pass = () => {};
  const mine = new Promise<void>((resolve) => {
    pass = resolve;
  });
  turns.set(file, mine);
  const leave = () => {
    if (turns.get(file) === mine) turns.delete(file);
    pass();
  };
  await before;
  try {
    await takeFile(file, clock);
  } catch (error) {
    leave();
    throw error;
  }
  return () => rm(file, { force: true }).finally(leave);
}

/** Of all who see a dead holder, only one can move its file away, and whoever moves a newer one puts it back. */
async function takeFile(file: string, clock: Clock): Promise<void> {
  locksTaken += 1;
  const mine = `${file}.${process.pid}.${locksTaken}`;
  const aside = `${mine}.left`;
  await mkdir(path.dirname(file), { mode: 0o700, recursive: true });
  for (;;) {
    // It is whole when it gets its name, so that none who is killed leaves a lock that names nobody.
    await writeFile(mine, `${process.pid} ${startTimeOf(process.pid) ?? ''}\n`, { mode: 0o600 });
    try {
      await link(mine, file);
      return;
    } catch (error) {
      // The domain may be destroyed at this moment, with all of its files.
      if (!isErrno(error, 'EEXIST', 'ENOENT')) throw error;
    } finally {
      await rm(mine, { force: true });
    }
    const holder = await contentsOf(file);
    if (holder !== undefined && !isAlive(holder)) {
      await rename(file, aside).catch(() => undefined);
      if ((await contentsOf(aside)) !== holder) await link(aside, file).catch(() => undefined);
      await rm(aside, { force: true });
    }
    await clock.sleep(lockPollMs);
  }
}

function isAlive(holder: string): boolean {
  const [, word = '', started = ''] = /^(\d+) ?(.*)\n?$/.exec(holder) ?? [];
  // Locks get their names whole, so one that names nobody is none of theirs.
  if (word === '') return false;
  const pid = Number(word);
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (isErrno(error, 'ESRCH')) return false;
  }
  const now = startTimeOf(pid);
  return started === '' || now === undefined || now === started;
}

/** When a process started, in whatever words the system has; undefined where it has none. */
function startTimeOf(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The 22nd field. The second is the name in parentheses, with anything in it.
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}

async function contentsOf(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'latin1');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

function isErrno(error: unknown, ...codes: readonly string[]): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && codes.includes(String(error.code));
}
