import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { domidHistory, domidReuseSeconds } from '../../src/libxl/domid-history.js';
import { takeLockFile } from '../../src/libxl/lock-file.js';
import { SimClock } from '../../src/xenbus/clock.js';

let dir: string;
let file: string;
const clock = new SimClock(1);
beforeEach(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'xl-lock-'));
  file = path.join(dir, 'lib', 'a-lock');
});
afterEach(() => rm(dir, { recursive: true, force: true }));

/** Whether somebody gets the lock although time passes. */
async function waits(taken: Promise<unknown>): Promise<boolean> {
  let got = false;
  void taken.then(() => {
    got = true;
  });
  for (let round = 0; round < 20; round++) {
    await readdir(dir);
    clock.jump();
    await clock.turn();
  }
  return !got;
}

describe('a lock file', () => {
  test('is had by one at a time, in the order in which they asked', async () => {
    const order: number[] = [];
    await Promise.all(
      [1, 2, 3].map(async (who) => {
        const unlock = await takeLockFile(file, clock);
        order.push(who);
        await clock.turn();
        order.push(who);
        await unlock();
      }),
    );
    expect(order).toEqual([1, 1, 2, 2, 3, 3]);
    expect(await readdir(path.dirname(file))).toEqual([]);
  });

  test('names its holder, by pid and start time', async () => {
    const unlock = await takeLockFile(file, clock);
    expect(await readFile(file, 'utf8')).toMatch(new RegExp(`^${process.pid} \\d+\n$`));
    await unlock();
  });

  test.each(['', 'nonsense\n'])("that names nobody (%j) is nobody's", async (contents) => {
    await takeLockFile(file, clock).then((unlock) => unlock());
    await writeFile(file, contents);
    const taken = takeLockFile(file, clock);
    while (await waits(taken));
    await (await taken)();
    expect(await readdir(path.dirname(file))).toEqual([]);
  });

  test('of a holder that lives is waited for; once it is killed the next one has it', async () => {
    const holder = spawn('sleep', ['60']);
    try {
      await takeLockFile(file, clock).then((unlock) => unlock());
      await writeFile(file, `${holder.pid}\n`);
      const taken = takeLockFile(file, clock);
      expect(await waits(taken)).toBe(true);
      holder.kill('SIGKILL');
      await once(holder, 'exit');
      for (let done = false; !done; clock.jump()) done = !(await waits(taken));
      await (await taken)();
      expect(await readdir(path.dirname(file))).toEqual([]);
    } finally {
      holder.kill('SIGKILL');
    }
  });

  test('of another process that has the pid of a dead holder by now is taken over', async () => {
    await takeLockFile(file, clock).then((unlock) => unlock());
    const holder = spawnSync('true').pid;
    for (const left of [`${holder} 1\n`, `${process.pid} 1\n`, `${process.ppid} 1\n`]) {
      await writeFile(file, left);
      const taken = takeLockFile(file, clock);
      for (let done = false; !done; clock.jump()) done = !(await waits(taken));
      await (await taken)();
    }
  });
});

describe('the domid history', () => {
  test('keeps a domid for 60 seconds, in lines of seconds and domid', async () => {
    let now = 1_000;
    const history = domidHistory(file, clock, 60, () => now);
    expect(await history.isRecent(7)).toBe(false);
    await history.mark(7);
    now += 40;
    await history.mark(8);
    expect(await readFile(file, 'utf8')).toBe('1000 7\n1040 8\n');
    now += 20;
    expect([await history.isRecent(7), await history.isRecent(8), await history.isRecent(78)]).toEqual([true, true, false]);
    now += 1;
    expect([await history.isRecent(7), await history.isRecent(8)]).toEqual([false, true]);
    await history.mark(9);
    expect(await readFile(file, 'utf8')).toBe('1040 8\n1061 9\n');
    expect(await readdir(path.dirname(file))).toEqual(['a-lock']);
  });

  test('passes over what is no entry, and one from the future', async () => {
    const history = domidHistory(file, clock, 60, () => 1_000);
    await history.mark(1);
    await writeFile(file, 'x\n990 2\n1001 3\n990 4 5\n\n995 6');
    const recent = [];
    for (let domid = 1; domid < 8; domid++) if (await history.isRecent(domid)) recent.push(domid);
    expect(recent).toEqual([2, 6]);
  });

  test('loses none that are marked at the same time', async () => {
    const history = domidHistory(file, clock, 60, () => 1_000);
    const domids = Array.from({ length: 50 }, (_, index) => index + 1);
    await Promise.all(domids.map((domid) => history.mark(domid)));
    expect((await readFile(file, 'utf8')).trimEnd().split('\n')).toHaveLength(50);
  });

  test('counts as long as LIBXL_DOMID_REUSE_TIMEOUT says, read as C reads it', () => {
    const of = (text?: string) => domidReuseSeconds(text === undefined ? {} : { LIBXL_DOMID_REUSE_TIMEOUT: text });
    expect([of(), of('5'), of('0x10'), of('0'), of('soon')]).toEqual([60, 5, 16, 0, 0]);
  });
});
