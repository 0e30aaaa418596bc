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

/** The words of the law that each bug breaks; a few of them can break several. */
const broken: Readonly<Record<PlantName, RegExp>> = {
  'mtwatch-after-T1': /whenever/,
  'mtwatch-before-vbd': /mtwatch/,
  'no-retry': /./,
  'rollback-keeps-mtwatch': /mtwatch|leaves nothing|nothing is left/,
  'event-after-unregister': /no event of a watch/,
  lifo: /in the order/,
  'early-reuse': /not given out/,
  'no-refund': /quota/,
  'first-event-lost': /first event/,
  'orphan-kept': /nothing is left/,
};
/** Seeds that a bug has to show in. */
const seedsMax = 20;

test.each(Object.keys(plants).filter(isPlant))('the laws find %s', async (plant) => {
  let found: string | undefined;
  for (let seed = 1; found === undefined && seed <= seedsMax; seed++) {
    const { failure } = await simulate(seed, 200, { plant });
    found = failure?.law;
  }
  expect(found).toMatch(broken[plant]);
});
