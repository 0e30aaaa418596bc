/**
 * Our XenStore server against the two real ones: everything that a connection hears, and the tree that is left, for fixed
 * seeds. What may differ is in test/conformance/accepted.ts; more seeds by hand: docs/xenstore-conformance.md.
 */
import { comparing, newTally, runSeed } from '../conformance/conformance.js';
import { generate, types } from '../conformance/operations.js';
import { missingForPeers, type Started, startCxenstored, startOurs, startOxenstored } from '../conformance/peers.js';
import { testUnless } from './clients.js';

const withPeers = testUnless(missingForPeers());

const started: Started[] = [];
afterEach(async () => {
  for (const each of started.splice(0)) await each.close();
});

async function compare(starting: readonly Promise<Started>[], seeds: readonly number[], guests: boolean) {
  for (const each of starting) started.push(await each);
  const comparison = comparing(started.map(({ server }) => server));
  const tally = newTally();
  const failures: string[] = [];
  for (const seed of seeds) {
    const failure = await runSeed(comparison, { seed, count: 150, guests }, tally);
    if (failure) failures.push(failure.text);
  }
  for (const session of [comparison.reference, comparison.second, comparison.tested]) session?.end();
  return { failures, tally };
}

const seeds = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);

describe('against C xenstored', () => {
  withPeers('dom0 hears the same in the same order, and leaves the same tree; oxenstored is asked as well', async () => {
    const { failures, tally } = await compare([startCxenstored(), startOxenstored(), startOurs()], seeds(20), false);
    expect(failures).toEqual([]);
    for (const what of [
      [types.WRITE, 'OK'],
      [types.RM, 'ENOENT'],
      [types.WATCH, 'EEXIST'],
      [types.TRANSACTION_START, 'EBUSY'],
      [types.TRANSACTION_END, 'OK'],
      [types.TRANSACTION_END, 'EAGAIN'],
      [types.DIRECTORY_PART, 'OK'],
      [types.RESET_WATCHES, 'OK'],
    ]) {
      expect([...tally.reached.keys()]).toContain(what.join(' '));
    }
    expect(tally.secondDiffers).toBeGreaterThan(0);
  });

  withPeers('guests have the same rights, quotas and events, and leave the same when they end', async () => {
    const { failures, tally } = await compare([startCxenstored(), startOurs()], seeds(40), true);
    expect(failures).toEqual([]);
    for (const what of [
      [types.WRITE, 'EACCES'],
      [types.WRITE, 'ENOSPC'],
      [types.SET_PERMS, 'EPERM'],
      [types.SET_PERMS, 'ENOSPC'],
      [types.INTRODUCE, 'EACCES'],
      [types.INTRODUCE, 'OK'],
      [types.RELEASE, 'OK'],
      [types.SET_TARGET, 'OK'],
    ]) {
      expect([...tally.reached.keys()]).toContain(what.join(' '));
    }
  });
});

describe('the comparison itself', () => {
  test('finds a server that refuses what the other takes, and shows the one operation that it takes', async () => {
    const { failures } = await compare([startOurs(), startOurs({ pathMax: 1000 })], seeds(4), false);
    expect(failures.length).toBeGreaterThan(0);
    const [first = ''] = failures;
    expect(first).toMatch(
      /^divergence \(not in the table of accepted ones\) with seed \d+:\n {4}c\d [A-Z_]+ .* bytes\)\n {2}ours/,
    );
    expect(first).toMatch(/ERROR "EINVAL\\u0000"$/);
  });

  test('finds nothing between two servers that are the same', async () => {
    const { failures, tally } = await compare([startOurs(), startOurs(), startOurs()], seeds(5), false);
    expect({ failures, accepted: [...tally.accepted], secondDiffers: tally.secondDiffers }).toEqual({
      failures: [],
      accepted: [],
      secondDiffers: 0,
    });
  });

  test('a seed means the same operations every time, and twenty seeds use every request', () => {
    const all = seeds(20).flatMap((seed) => generate({ seed, count: 150, guests: true }));
    expect(generate({ seed: 20, count: 150, guests: true })).toEqual(
      all.slice(-generate({ seed: 20, count: 150, guests: true }).length),
    );
    const used = new Set(all.flatMap((op) => (op.kind === 'request' ? [op.type] : [])));
    const requests = Object.entries(types).filter(([name]) => name !== 'WATCH_EVENT' && name !== 'ERROR');
    expect(requests.filter(([, type]) => !used.has(type))).toEqual([]);
    expect(new Set(all.map((op) => op.kind))).toEqual(new Set(['request', 'reconnect', 'raw', 'domain']));
  });
});
