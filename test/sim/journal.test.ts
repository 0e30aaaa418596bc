/** dom0's end at any record of its journal: the short form of `npm run journal -- --points`. */
import { expect, test } from '@jest/globals';
import { recoverAt, runEpisode } from '../journal/points.js';

/** Every so many records one is an end; a prime, so that it does not keep step with what the episode does. */
const stride = 41;

test.each(['xen_mtwatch', ''])('a life that ends at any record is gone on with, under "%s"', async (cmdline) => {
  const episode = await runEpisode(cmdline);
  const points = episode.points.filter((_, index) => index % stride === 0 || index === episode.points.length - 1);
  const wrong = [...episode.wrong];
  for (const point of points) wrong.push(...(await recoverAt(episode, point, cmdline)));
  expect(wrong).toEqual([]);
});
