/** Short simulations: the laws hold, a seed replays, and the laws find each planted bug. `npm run sim` is the long form. */
import { isPlant, type PlantName, plants } from './plants.js';
import { simulate } from './simulation.js';

test.each([1, 2, 3, 4])('seed %i: the laws hold', async (seed) => {
  const { failure, ends } = await simulate(seed, 150);
  expect(failure).toBeUndefined();
  expect(ends.get('create')?.ok).toBeGreaterThan(0);
});

test('one seed is one run, to the last delivery', async () => {
  const runs = [await simulate(5, 60), await simulate(5, 60), await simulate(6, 60)];
  const [first, again, other] = runs.map(({ hash, deliveries }) => `${hash} ${deliveries}`);
  expect(again).toBe(first);
  expect(other).not.toBe(first);
});

/** The words of the law that each bug breaks; a few of them can break several. And a seed that was seen to show it, which goes first. */
const broken: Readonly<Record<PlantName, readonly [RegExp, number]>> = {
  'mtwatch-after-T1': [/whenever/, 1],
  'mtwatch-before-vbd': [/mtwatch/, 1],
  'no-retry': [/./, 9],
  'rollback-keeps-mtwatch': [/mtwatch|leaves nothing|nothing is left/, 15],
  'event-after-unregister': [/no event of a watch/, 1],
  lifo: [/in the order/, 1],
  'early-reuse': [/not given out/, 2],
  'no-refund': [/quota/, 1],
  'first-event-lost': [/first event/, 1],
  'orphan-kept': [/nothing is left/, 1],
};
/** Seeds that a bug has to show in. */
const seedsMax = 40;

test.each(Object.keys(plants).filter(isPlant))('the laws find %s', async (plant) => {
  const [law, first] = broken[plant];
  let found: string | undefined;
  for (const seed of [first, ...Array.from({ length: seedsMax }, (_, index) => index + 1)]) {
    const { failure } = await simulate(seed, 200, { plant });
    found = failure?.law;
    if (found !== undefined) break;
  }
  expect(found).toMatch(law);
});
