/** The journal's file: what is read back, after any cut, and what is refused. */
import * as fs from 'node:fs';
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { type Fsync, JournalTable, openJournal, readJournal } from '../../src/xenbus/journal.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'xl-journal-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const file = () => join(dir, 'dom0.journal');
const log: string[] = [];
const open = (fsync: Fsync = 'never') => openJournal({ dir, fsync, log: (line) => log.push(line) });

/** Three records: a and b, b changed, a gone and c there. */
function threeRecords(): void {
  const journal = open();
  journal.set('a', { name: 'one' });
  journal.set('b', [1, null, 'ÿ\0\n']);
  journal.commit();
  journal.set('b', 2);
  journal.commit();
  journal.delete('a');
  journal.set('c', true);
  journal.commit();
  journal.close();
}

const states = [{}, { a: { name: 'one' }, b: [1, null, 'ÿ\0\n'] }, { a: { name: 'one' }, b: 2 }, { b: 2, c: true }];

test('what was committed is there again, in order of nothing but its keys', () => {
  threeRecords();
  const journal = open('always');
  expect(Object.fromEntries(journal.recovered)).toEqual(states[3]);
  expect(journal.tornBytes).toBe(0);
  journal.close();
});

test('what was not committed is not there', () => {
  const journal = open();
  journal.set('a', 1);
  journal.commit();
  journal.set('a', 2);
  journal.close();
  expect(open().recovered.get('a')).toBe(1);
});

test('a change that changes nothing writes nothing', () => {
  const journal = open();
  journal.set('a', [1]);
  journal.commit();
  const { size } = statSync(file());
  journal.set('a', [1]);
  journal.delete('b');
  journal.commit();
  expect(statSync(file()).size).toBe(size);
  journal.close();
});

test('cut off anywhere, it is what it was at the end of the last whole record', () => {
  threeRecords();
  const whole = readFileSync(file());
  const ends = [0, 1, 2, 3].map((records) => {
    let at = whole.indexOf('\n') + 1;
    // An empty record ends what the file was begun with.
    for (let n = 0; n <= records; n++) at = whole.indexOf('\n', at) + 1;
    return at;
  });
  for (let cut = ends[0] ?? 0; cut <= whole.length; cut++) {
    const records = ends.filter((end) => end <= cut && end > (ends[0] ?? 0)).length;
    const { table, tornBytes } = readJournal(whole.subarray(0, cut), 'it');
    const good = ends[records] ?? 0;
    expect([cut, Object.fromEntries(table), tornBytes]).toEqual([cut, states[records], cut - good]);
  }
});

test('a torn end is cut off, and what comes next is appended to what is whole', () => {
  threeRecords();
  truncateSync(file(), statSync(file()).size - 3);
  const journal = open();
  expect([Object.fromEntries(journal.recovered), journal.tornBytes > 0]).toEqual([states[2], true]);
  journal.set('d', 4);
  journal.commit();
  journal.close();
  expect(Object.fromEntries(open().recovered)).toEqual({ ...states[2], d: 4 });
});

test('an end of zeros, as a power cut may leave it, is torn', () => {
  threeRecords();
  writeFileSync(file(), Buffer.concat([readFileSync(file()), Buffer.alloc(4096)]));
  expect([Object.fromEntries(open().recovered), readJournal(Buffer.alloc(100), 'it').tornBytes]).toEqual([states[3], 100]);
});

test('any byte changed within a record that others follow is refused, with words for what to do', () => {
  threeRecords();
  const whole = readFileSync(file());
  const first = whole.indexOf('\n', whole.indexOf('\n') + 1) + 1;
  const second = whole.indexOf('\n', first) + 1;
  for (let at = first; at < second - 1; at++) {
    const damaged = Buffer.from(whole);
    damaged[at] = (damaged[at] ?? 0) ^ 1;
    expect(() => readJournal(damaged, 'F')).toThrow(
      `F is damaged: record 2, at byte ${first}, does not have its checksum, and whole records follow it from byte ${second} on. ` +
        `Restore the file, or go back to the state before the damage with \`truncate -s ${first} F\`, or move the file away to ` +
        'start with nothing',
    );
  }
});

test('what the file was begun with is never taken for a torn end', () => {
  threeRecords();
  open().close();
  const whole = readFileSync(file());
  const begun = whole.indexOf('\n') + 1;
  for (let cut = begun + 1; cut < whole.length; cut++) {
    expect(() => readJournal(whole.subarray(0, cut), 'F')).toThrow(
      /^F is damaged: record [12], at byte \d+, is one of those that the file was begun with/,
    );
  }
  for (let cut = 0; cut <= begun; cut++) expect(readJournal(whole.subarray(0, cut), 'F').table.size).toBe(0);
});

test('another format and another file are refused', () => {
  expect(() => readJournal(Buffer.from('xl-mtwatch journal 2\n'), 'F')).toThrow(
    'F has format 2, and this version reads 1; start the version that wrote it, or give another directory',
  );
  expect(() => readJournal(Buffer.from('something else altogether\n'), 'F')).toThrow(
    'F is no journal of xl-mtwatch; give another directory',
  );
});

test('it is written anew when it has grown, and the draft of a rewriting that was cut off is no harm', () => {
  writeFileSync(`${file()}.new`, 'half');
  const journal = open();
  let longest = 0;
  for (let n = 0; n < 40; n++) {
    journal.set('a', `${n}`.padEnd(100_000, 'x'));
    journal.set(`b${n % 3}`, n);
    journal.commit();
    longest = Math.max(longest, journal.bytes);
  }
  expect([longest < 1_300_000, readdirSync(dir)]).toEqual([true, ['dom0.journal']]);
  journal.close();
  expect(Object.fromEntries(open().recovered)).toEqual({ a: '39'.padEnd(100_000, 'x'), b0: 39, b1: 37, b2: 38 });
});

test('a file that cannot be written is an error that names it', () => {
  const journal = open();
  journal.close();
  journal.set('a', 1);
  expect(() => journal.commit()).toThrow(`${file()} cannot be written: EBADF: bad file descriptor, write`);
});

test('a table tells what has changed since it was last asked', () => {
  const table = new JournalTable([['a', 1]]);
  expect(table.take()).toBeUndefined();
  table.set('a', 2);
  table.set('a', 3);
  table.set('gone', 1);
  table.delete('gone');
  expect(table.take()?.toString().slice(18)).toBe('[["a",3],["gone"]]\n');
  expect(table.take()).toBeUndefined();
});

test('a file that somebody removes or replaces while it is written is written anew, as a whole', () => {
  const journal = open('always');
  journal.set('a', 1);
  journal.commit();
  for (const spoil of [() => rmSync(file()), () => renameSync(file(), `${dir}/away`)]) {
    spoil();
    journal.look();
    expect(Object.fromEntries(readJournal(readFileSync(file()), 'it').table)).toEqual({ a: 1 });
  }
  journal.set('b', 2);
  journal.commit();
  expect(Object.fromEntries(readJournal(readFileSync(file()), 'it').table)).toEqual({ a: 1, b: 2 });
  journal.close();
});

test('without its directory it is an error', () => {
  const journal = open();
  renameSync(dir, `${dir}.away`);
  try {
    expect(() => journal.look()).toThrow(/dom0\.journal cannot be written: ENOENT/);
  } finally {
    renameSync(`${dir}.away`, dir);
    journal.close();
  }
});

test('a file that is written anew and whose name does not come to disk ends the writing', async () => {
  jest.resetModules();
  let fails = false;
  jest.unstable_mockModule('node:fs', () => ({
    ...fs,
    fsyncSync: (fd: number) => {
      if (fails && fs.fstatSync(fd).isDirectory()) throw new Error('EIO: i/o error, fsync');
      fs.fsyncSync(fd);
    },
  }));
  const { openJournal: opened } = await import('../../src/xenbus/journal.js');
  const journal = opened({ dir, fsync: 'always', log: (line) => log.push(line) });
  const grow = () => {
    for (let round = 0; round < 40; round++) {
      journal.set('a', `${round}`.repeat(100_000));
      journal.commit();
    }
  };
  fails = true;
  expect(grow).toThrow(/cannot be written: EIO/);
  journal.close();
});
