/** The fuzzer of configs and command lines, a little of it. By hand: `npm run fuzz:xl`. */
import { readFileSync } from 'node:fs';
import type { Table } from '../../src/cli/argv.js';
import { declined } from '../../src/cli/declined.js';
import { fuzzXl, inputOf } from './xl.js';

const manifest = readFileSync(new URL('../../oclif.manifest.json', import.meta.url), 'utf8');
const table: Table = { ...JSON.parse(manifest), declined, topics: {} };

test.each([1, 2, 3])('seed %i: no text that a user can write breaks a parser', (seed) => {
  const { failure, ...done } = fuzzXl({ seed, inputs: 8_000, table });
  expect(failure).toBeUndefined();
  expect(done.accepted + done.refused).toBe(8_000);
  expect(Math.min(done.accepted, done.refused)).toBeGreaterThan(1_000);
});

test('an input is that of its number', () => {
  expect(inputOf(5, 77, table)).toEqual(inputOf(5, 77, table));
  expect(inputOf(5, 77, table)).not.toEqual(inputOf(6, 77, table));
});
