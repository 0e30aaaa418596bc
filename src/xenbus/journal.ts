/**
 * What dom0 keeps for its next life, on disk: an append-only file of records.
 *
 * A record holds all that has changed since the one before: the state between two steps of dom0, so that the file, up to
 * the end of any record, is a state that dom0 was in. The file is text:
 *
 * ```
 * xl-mtwatch journal 1
 * 0000002c 5d1f30aa [["domain/7",{"uuid":"..."}],["node/tool",["",["n0"],3,2]]]
 * 00000013 0c9f4a7e [["introduced/7"]]                      a key by itself: it is gone
 * ```
 *
 * with the length of what is in brackets, in bytes, and its CRC-32, both in eight hexadecimal digits. What a killed process
 * or a power cut has left at the end, and is no whole record, was never acknowledged and is cut off; a damaged record with a
 * whole one behind it is refused, because what follows cannot be trusted without it, and so is one of those that the file was
 * begun with, up to an empty one: they were on disk before it had its name. At each start, and when the file has
 * become much longer than what it says, it is written anew: to a file beside it, which takes its name once it is on disk.
 * docs/journal.md has the guarantees.
 */
import {
  closeSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { Keep, Kept, Recovered } from './keep.js';

/** What a record has to survive before anything that depends on it leaves the process: a power cut, or a kill. */
export type Fsync = 'always' | 'never';

const format = 1;
const magic = 'xl-mtwatch journal ';
const header = `${magic}${format}\n`;
/** `LENGTH CRC ` before what a record says. */
const recordHeadBytes = 18;
const recordHead = /^([0-9a-f]{8}) ([0-9a-f]{8}) $/;
/** The file is written anew when it is longer than this and `growthMax` times as long as it was when it was new. */
const compactMinBytes = 1024 * 1024;
const growthMax = 4;
/** Entries of one record of a file that is written anew. */
const compactEntries = 1024;

/** A journal that cannot be read or written; the message says why and what to do. */
export class JournalError extends Error {
  override readonly name = 'JournalError';
}

/** The table itself, and what has changed in it since it was last asked. Values are kept as the JSON that they become. */
export class JournalTable implements Keep {
  readonly #entries: Map<string, string>;
  readonly #changed = new Set<string>();

  constructor(entries: Iterable<readonly [string, Kept]> = []) {
    this.#entries = new Map([...entries].map(([key, value]) => [key, JSON.stringify(value)]));
  }

  set(key: string, value: Kept): void {
    const json = JSON.stringify(value);
    if (this.#entries.get(key) === json) return;
    this.#entries.set(key, json);
    this.#changed.add(key);
  }

  delete(key: string): void {
    if (this.#entries.delete(key)) this.#changed.add(key);
  }

  get(key: string): Kept | undefined {
    const json = this.#entries.get(key);
    return json === undefined ? undefined : (JSON.parse(json) as Kept);
  }

  /** One record of all that has changed; undefined when nothing has. */
  take(): Buffer | undefined {
    if (this.#changed.size === 0) return undefined;
    const entries = [...this.#changed].map((key) => entryOf(key, this.#entries.get(key)));
    this.#changed.clear();
    return recordOf(entries);
  }

  /** A whole file that says what the table says now. */
  file(): Buffer {
    const entries = [...this.#entries].map(([key, json]) => entryOf(key, json));
    const records: Buffer[] = [];
    for (let at = 0; at < entries.length; at += compactEntries) records.push(recordOf(entries.slice(at, at + compactEntries)));
    return Buffer.concat([Buffer.from(header), ...records, recordOf([])]);
  }
}

function entryOf(key: string, json: string | undefined): string {
  return json === undefined ? `[${JSON.stringify(key)}]` : `[${JSON.stringify(key)},${json}]`;
}

function recordOf(entries: readonly string[]): Buffer {
  const body = Buffer.from(`[${entries.join(',')}]`);
  const hex = (number: number) => number.toString(16).padStart(8, '0');
  return Buffer.concat([Buffer.from(`${hex(body.length)} ${hex(crc32(body))} `), body, Buffer.from('\n')]);
}

/** An empty file. */
export const journalStart: Buffer = new JournalTable().file();

/** What a file says. */
export interface JournalContents {
  readonly table: Map<string, Kept>;
  readonly records: number;
  /** Where the last whole record ends. */
  readonly goodBytes: number;
  /** Bytes behind it that are no whole record. */
  readonly tornBytes: number;
}

/** Folds a file into the table that it says. Throws a JournalError for one that is no journal, or is damaged in its middle. */
export function readJournal(bytes: Buffer, name: string): JournalContents {
  const table = new Map<string, Kept>();
  const start = bytes.subarray(0, header.length).toString('latin1');
  if (start !== header) {
    // A file that was being written when the power failed may be empty, or zeros.
    if (header.startsWith(start) || bytes.every((byte) => byte === 0)) {
      return { table, records: 0, goodBytes: 0, tornBytes: bytes.length };
    }
    if (!start.startsWith(magic)) throw new JournalError(`${name} is no journal of xl-mtwatch; give another directory`);
    const other = start.slice(magic.length).trim();
    throw new JournalError(
      `${name} has format ${other}, and this version reads ${format}; start the version that wrote it, or give another directory`,
    );
  }
  let at = header.length;
  let records = 0;
  let isComplete = false;
  for (let end = recordEnd(bytes, at); end !== undefined; end = recordEnd(bytes, at)) {
    const entries = JSON.parse(bytes.toString('utf8', at + recordHeadBytes, end - 1)) as [string, Kept?][];
    isComplete ||= entries.length === 0;
    for (const [key, value] of entries) {
      if (value === undefined) table.delete(key);
      else table.set(key, value);
    }
    records += 1;
    at = end;
  }
  const next = nextRecord(bytes, at);
  if (next !== undefined) {
    throw new JournalError(
      `${name} is damaged: record ${records + 1}, at byte ${at}, does not have its checksum, and whole records follow it from ` +
        `byte ${next} on. Restore the file, or go back to the state before the damage with \`truncate -s ${at} ${name}\`, or ` +
        'move the file away to start with nothing',
    );
  }
  if (!isComplete && bytes.length > header.length) {
    throw new JournalError(
      `${name} is damaged: record ${records + 1}, at byte ${at}, is one of those that the file was begun with, and does not have its ` +
        'checksum. Restore the file, or move it away to start with nothing',
    );
  }
  return { table, records, goodBytes: at, tornBytes: bytes.length - at };
}

/** Where the record at `at` ends, if there is a whole one. */
function recordEnd(bytes: Buffer, at: number): number | undefined {
  const [, length, checksum] = recordHead.exec(bytes.toString('latin1', at, at + recordHeadBytes)) ?? [];
  if (length === undefined || checksum === undefined) return undefined;
  const from = at + recordHeadBytes;
  const end = from + Number.parseInt(length, 16);
  if (end >= bytes.length || bytes[end] !== 0x0a) return undefined;
  return crc32(bytes.subarray(from, end)) === Number.parseInt(checksum, 16) ? end + 1 : undefined;
}

/** The first whole record behind `at`. What a record says has no line end in it. */
function nextRecord(bytes: Buffer, at: number): number | undefined {
  for (let end = bytes.indexOf(0x0a, at); end >= 0; end = bytes.indexOf(0x0a, end + 1)) {
    if (recordEnd(bytes, end + 1) !== undefined) return end + 1;
  }
  return undefined;
}

export interface Journal extends Keep {
  /** What the file said when it was opened. */
  readonly recovered: Recovered;
  /** Bytes at its end that were no whole record. */
  readonly tornBytes: number;
  readonly bytes: number;
  /** Appends what has changed. When it returns the change survives what `fsync` says. Throws a JournalError. */
  commit(): void;
  /** Sees to it that what is written is in the file of that name, which somebody may have removed. Throws a JournalError. */
  look(): void;
  close(): void;
}

export interface JournalOptions {
  /** It is there, and nobody else has its journal open. */
  readonly dir: string;
  readonly fsync: Fsync;
  readonly log: (line: string) => void;
}

/** Opens the journal of a directory, and begins one where there is none. */
export function openJournal({ dir, fsync, log }: JournalOptions): Journal {
  const path = join(dir, 'dom0.journal');
  const draft = `${path}.new`;
  const contents = attempt(path, 'read', () => readJournal(readIfThere(path) ?? Buffer.from(header), path));
  const table = new JournalTable(contents.table);
  /** Written anew; what has the name is whole at every moment. */
  const rewrite = (): { readonly fd: number; readonly bytes: number } => {
    const file = table.file();
    const fd = openSync(draft, 'w', 0o600);
    try {
      writeAll(fd, file);
      if (fsync === 'always') fsyncSync(fd);
      renameSync(draft, path);
    } catch (error) {
      closeSync(fd);
      rmSync(draft, { force: true });
      throw error;
    }
    return { fd, bytes: file.length };
  };
  /** Until its name is on disk, a power cut brings back the file before, without what is written into this one. */
  const named = (): void => {
    if (fsync === 'always') syncDirectory(dir);
  };
  let { fd, bytes } = attempt(path, 'written', rewrite);
  attempt(path, 'written', named);
  let freshBytes = bytes;
  const replace = (fresh: ReturnType<typeof rewrite>): void => {
    closeSync(fd);
    ({ fd, bytes } = fresh);
    freshBytes = bytes;
    attempt(path, 'written', named);
  };
  const compact = (): void => {
    let fresh: ReturnType<typeof rewrite>;
    try {
      fresh = rewrite();
    } catch (error) {
      log(`journal: ${path} was not written anew, and grows: ${wordsOf(error)}`);
      freshBytes = bytes;
      return;
    }
    replace(fresh);
  };
  return {
    recovered: contents.table,
    tornBytes: contents.tornBytes,
    get bytes() {
      return bytes;
    },
    set: (key, value) => table.set(key, value),
    delete: (key) => table.delete(key),
    commit: () => {
      const record = table.take();
      if (!record) return;
      attempt(path, 'written', () => {
        writeAll(fd, record);
        if (fsync === 'always') fdatasyncSync(fd);
      });
      bytes += record.length;
      if (bytes > compactMinBytes && bytes > growthMax * freshBytes) compact();
    },
    look: () => {
      if (isSameFile(fd, path)) return;
      log(`journal: ${path} was removed or replaced by somebody else; it is written anew`);
      replace(attempt(path, 'written', rewrite));
    },
    close: () => closeSync(fd),
  };
}

/** Whether a name is that of an open file. */
function isSameFile(fd: number, path: string): boolean {
  const [mine, named] = [fstatSync(fd), statSync(path, { throwIfNoEntry: false })];
  return named !== undefined && named.ino === mine.ino && named.dev === mine.dev;
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function attempt<T>(path: string, what: 'read' | 'written', body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (error instanceof JournalError) throw error;
    throw new JournalError(`${path} cannot be ${what}: ${wordsOf(error)}`);
  }
}

function writeAll(fd: number, bytes: Buffer): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
}

/** A name is on disk when its directory is. */
function syncDirectory(dir: string): void {
  const fd = openSync(dir, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function wordsOf(error: unknown): string {
  return (error as Error).message;
}
