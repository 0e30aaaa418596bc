/**
 * Debian's XenStore clients, for tests that need them. Where one is absent its tests are skipped and say so; with
 * `XL_TEST_CLIENTS=required`, as in .ci/run, they fail instead.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

const places = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/lib/xen-4.17/bin'];

/** The path of a client, or undefined. */
export function findClient(name: string): string | undefined {
  return places
    .map((place) => join(place, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

type TestWith = (title: string, body: (path: string) => Promise<void>) => void;

/** `test` for what needs the client `name`; the body gets its path. */
export function testWith(name: string): TestWith {
  return testFound(name, findClient(name));
}

/** The same for what needs a module of Python; the body gets the path of a Python that has it. */
export function testWithPython(module: string): TestWith {
  const pythons = ['python3', '/usr/bin/python3'];
  return testFound(
    module,
    pythons.find((python) => spawnSync(python, ['-c', `import ${module}`]).status === 0),
  );
}

function testFound(name: string, path: string | undefined): TestWith {
  if (path !== undefined) return (title, body) => test(title, () => body(path));
  if (process.env['XL_TEST_CLIENTS'] === 'required') {
    return (title) =>
      test(title, () => {
        throw new Error(
          `${name} is not installed: apt-get install xenstore-utils xen-utils-4.17 python3-pyxs libxen-dev gcc libc6-dev`,
        );
      });
  }
  return (title) => test.skip(`${title} (skipped: no ${name})`, () => {});
}

/** `test` for what needs Debian packages of which some are `missing`. */
export function testUnless(missing: readonly string[]): (title: string, body: () => Promise<void>) => void {
  const run = testFound(missing.join(', '), missing.length === 0 ? '' : undefined);
  return (title, body) => run(title, () => body());
}
