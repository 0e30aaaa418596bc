import { progressText, spinnerOn, waitWords } from '../../src/cli/progress.js';

test.each([
  ['/local/domain/0/backend/vif/1/0/state', 'the backend of vif 0 of domain 1'],
  ['/local/domain/0/backend/vbd/12/51712', 'the backend of vbd 51712 of domain 12 to go'],
  ['/local/domain/3/console/tty', 'the console of domain 3'],
  ['/local/domain/3/control/shutdown', 'domain 3 to take its shutdown request'],
  ['/etc/xen/scripts/block add', '/etc/xen/scripts/block add'],
  ['/libxl/3/type', '/libxl/3/type'],
])('%s is %s', (on, words) => expect(waitWords(on)).toBe(words));

test('the step is told where it has words, the time that is left, and how many more there are', () => {
  const on = '/local/domain/0/backend/vif/1/0/state';
  expect(progressText('libxl__devices_destroy', { on }, 7_001, 2)).toBe(
    'removing devices: waiting for the backend of vif 0 of domain 1 (8 s left), and 2 more',
  );
  expect(progressText('libxl__domain_make', { on: 'x' }, -3, 0)).toBe('waiting for x (0 s left)');
  expect(progressText('', { on: 'x' }, Number.POSITIVE_INFINITY, 0)).toBe('waiting for x');
});

test('where stderr is no terminal, or one of no width, there is nothing to show', () => {
  expect(spinnerOn({ isTTY: false, columns: 80 } as NodeJS.WriteStream)).toBeUndefined();
  expect(spinnerOn({ isTTY: true, columns: 0 } as NodeJS.WriteStream)).toBeUndefined();
});
