/** `xl mtwatch explore` as it is installed: with worker threads, without a dom0. */
import { existsSync } from 'node:fs';
import { type Lab, lab } from './harness.js';

let l: Lab;
beforeEach(() => {
  l = lab();
});
afterEach(() => l.close());

interface Report {
  readonly violations: readonly { readonly hazard: string; readonly scenario: string; readonly replay: string }[];
  readonly schedules: number;
  readonly perSecond: number;
}

async function explored(...args: string[]): Promise<Report> {
  const { stdout, stderr, exitCode } = await l.xl('mtwatch', 'explore', '--json', ...args);
  const report = JSON.parse(stdout) as Report;
  expect({ stderr, exitCode }).toEqual({ stderr: '', exitCode: report.violations.length > 0 ? 1 : 0 });
  return report;
}

/** Scenarios of which a schedule is short. */
const [small, smaller] = ['no-thread', 'parent-removed'];

test('finds the same with any number of workers, and starts no dom0', async () => {
  const args = ['--design', 'rfc', '--schedules', '3', '--seed', '7', '--no-shrink'];
  const [one, ...others] = [await explored(...args, '--workers', '1'), await explored(...args, '--workers', '2')];
  for (const other of others) expect({ ...other, perSecond: 0 }).toEqual({ ...one, perSecond: 0 });
  expect(one?.violations.length).toBeGreaterThan(0);
  expect(existsSync(l.runDir)).toBe(false);
});

test('what it found can be replayed, and what did not happen is told apart', async () => {
  const { violations } = await explored('--design', 'rfc', '--scenario', small, '--schedules', '20', '--seed', '7');
  const [first] = violations;
  expect(first).toBeDefined();
  const replayed = await l.xl('mtwatch', 'explore', '--replay', first?.replay ?? '');
  expect(replayed).toMatchObject({ stderr: '', exitCode: 1 });
  expect(replayed.stdout).toMatch(
    new RegExp(`^ +step .*\n[\\s\\S]*> ${first?.hazard} at step [\\s\\S]*\n${first?.hazard} occurred\n$`),
  );

  const hardened = await l.xl('mtwatch', 'explore', '--replay', (first?.replay ?? '').replace(':rfc:', ':hardened:'));
  expect(hardened).toMatchObject({ stderr: '', exitCode: 0 });
  expect(hardened.stdout).toMatch(new RegExp(`\n${first?.hazard} did not occur\n$`));
});

test('a mistake on the command line ends with exit code 2', async () => {
  const { stdout, stderr, exitCode } = await l.xl('mtwatch', 'explore', '--design', 'harened');
  expect({ stdout, stderr, exitCode }).toEqual({
    stdout: '',
    stderr: 'xl: there is no design harened; did you mean hardened?\nxl: there are single, rfc, hardened\n',
    exitCode: 2,
  });
});

test('the tables are the same with any number of workers', async () => {
  const args = ['mtwatch', 'explore', '--matrix', '--schedules', '4', '--scenario', smaller, '--no-shrink'];
  const [one, other] = [await l.xl(...args, '--workers', '1'), await l.xl(...args, '--workers', '2')];
  expect(other).toEqual(one);
  expect(one?.stdout).toContain(`\n| **${smaller}**: `);
});
