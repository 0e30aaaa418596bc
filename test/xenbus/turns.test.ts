import { SimClock } from '../../src/xenbus/clock.js';
import { Turns, turnMaxMs, turnsMax } from '../../src/xenbus/turns.js';

function setUp() {
  const clock = new SimClock(1);
  const turns = new Turns(clock);
  const begun: number[] = [];
  const take = async () => {
    const mine = await turns.take();
    if (mine) begun.push(mine.turn);
  };
  return { clock, turns, begun, take, settle: () => clock.turn() };
}

test('one at a time, in the order of asking', async () => {
  const { turns, begun, take, settle } = setUp();
  for (let asked = 0; asked < 3; asked++) void take();
  await settle();
  expect(begun).toEqual([1]);
  turns.over(1);
  await settle();
  expect(begun).toEqual([1, 2]);
  turns.over(2);
  await settle();
  expect(begun).toEqual([1, 2, 3]);
});

test('who is not there any more is passed over', async () => {
  const { turns, begun, take, settle } = setUp();
  for (let asked = 0; asked < 3; asked++) void take();
  turns.over(2);
  turns.over(1);
  await settle();
  expect(begun).toEqual([1, 3]);
});

test('a turn that nobody gives back ends by itself, and giving it back then takes it from nobody', async () => {
  const { clock, turns, begun, take, settle } = setUp();
  for (let asked = 0; asked < 3; asked++) void take();
  clock.advance(turnMaxMs - 1);
  await settle();
  expect(begun).toEqual([1]);
  clock.advance(1);
  await settle();
  expect(begun).toEqual([1, 2]);
  turns.over(1);
  await settle();
  expect(begun).toEqual([1, 2]);
});

test('past the bound there is no turn to wait for', async () => {
  const { turns, take } = setUp();
  for (let asked = 0; asked <= turnsMax; asked++) void take();
  expect(turns.waiting).toBe(turnsMax);
  expect(await turns.take()).toBeNull();
});
