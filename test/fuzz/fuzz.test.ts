/** The fuzzer, a little of it, with fixed seeds. By hand it runs for as long as one likes: `npm run fuzz`. */
import { failureText, fuzz } from './fuzz.js';

test.each([1, 2, 3])('seed %i: the laws of the store hold under any bytes', (seed) => {
  const inputs = 8_000;
  const { failure, ...done } = fuzz({ seed, inputs });
  expect(failure && failureText(failure, inputs)).toBeUndefined();
  expect(done.inputs).toBe(inputs);
  expect(done.requests).toBeGreaterThan(inputs / 2);
});

test('they hold for a dom0 that gives away the root too, where nobody is protected', () => {
  const { failure, rounds } = fuzz({ seed: 1, inputs: 8_000, round: 7 });
  expect(failure && failureText(failure, 8_000)).toBeUndefined();
  expect(rounds).toBe(1);
});

test('the same seed is the same run', () => {
  expect(fuzz({ seed: 5, inputs: 2_000 })).toEqual(fuzz({ seed: 5, inputs: 2_000 }));
});
