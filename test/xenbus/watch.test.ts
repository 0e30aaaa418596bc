import { reportedPath, WatchTable } from '../../src/xenbus/watch.js';

const tokens = (table: WatchTable, path: string, exact = false) => table.matching(path, exact).map(({ token }) => token);

describe('a change of a path', () => {
  const table = new WatchTable();
  table.add(2, '/a', 'second connection', 0);
  table.add(1, '/a/b/c', 'self', 0);
  table.add(1, '/', 'root', 0);
  table.add(1, '/a/b/c/d', 'below', 0);
  table.add(1, '/a/b', 'above', 0);
  table.add(1, '/a/bb', 'beside', 0);

  test('finds the watches of the path and its ancestors, by connection and then by registration', () => {
    expect(tokens(table, '/a/b/c')).toEqual(['self', 'root', 'above', 'second connection']);
  });

  test('finds only those on the very path when the event is exact', () => {
    expect(tokens(table, '/a/b/c', true)).toEqual(['self']);
  });

  test('of the root finds the watches of the root', () => {
    expect(tokens(table, '/')).toEqual(['root']);
  });
});

test('one path may be watched by several tokens and connections, each one once', () => {
  const table = new WatchTable();
  table.add(1, '/a', 'x', 0);
  table.add(1, '/a', 'y', 0);
  table.add(2, '/a', 'x', 0);
  expect([table.has(1, '/a', 'x'), table.has(1, '/a', 'z'), tokens(table, '/a')]).toEqual([true, false, ['x', 'y', 'x']]);
});

test('what is removed is found no more, and what is left stays', () => {
  const table = new WatchTable();
  table.add(1, '/a', 'x', 0);
  table.add(1, '/b', 'y', 0);
  table.add(2, '/a', 'z', 0);
  expect(table.remove(1, '/a', 'x')?.token).toBe('x');
  expect(table.remove(1, '/a', 'x')).toBeUndefined();
  expect(tokens(table, '/a')).toEqual(['z']);
  expect(table.usage(1)).toEqual({ count: 1, bytes: 3 });
  table.removeAll(1);
  expect([table.usage(1), tokens(table, '/b'), tokens(table, '/a')]).toEqual([{ count: 0, bytes: 0 }, [], ['z']]);
});

test('nothing is kept of a path that leads to no watch any more', () => {
  const table = new WatchTable();
  table.add(1, '/a/b/c', 'x', 0);
  table.add(1, '/a/b', 'y', 0);
  expect([table.isWatchedBelow('/a/b'), table.isWatchedBelow('/a')]).toEqual([true, true]);
  table.remove(1, '/a/b/c', 'x');
  expect([table.isWatchedBelow('/a/b'), table.isWatchedBelow('/a')]).toEqual([false, true]);
  table.removeAll(1);
  expect(table.isWatchedBelow('/')).toBe(false);
});

test('a path of very many names counts for what its entries take', () => {
  const table = new WatchTable();
  table.add(1, '/local/domain/1/device/vif/0/state', 'token', 0);
  expect(table.usage(1).bytes).toBe('/local/domain/1/device/vif/0/state'.length + 'token'.length);
  table.add(1, '/a'.repeat(1000), '', 0);
  expect(table.usage(1).bytes).toBeGreaterThan(400_000);
  table.removeAll(1);
  expect(table.usage(1).bytes).toBe(0);
});

test('special events are found by their exact name', () => {
  const table = new WatchTable();
  table.add(1, '@releaseDomain', 'x', 0);
  table.add(1, '/', 'root', 0);
  expect(tokens(table, '@releaseDomain', true)).toEqual(['x']);
});

test('a relative watch reports paths as the connection would write them', () => {
  const home = '/local/domain/0';
  const relative = new WatchTable().add(1, `${home}/mtwatch`, 'x', home.length);
  const absolute = new WatchTable().add(1, `${home}/mtwatch`, 'x', 0);
  expect([`${home}/mtwatch`, `${home}/mtwatch/7`].map((path) => reportedPath(relative, path))).toEqual(['mtwatch', 'mtwatch/7']);
  expect(reportedPath(absolute, `${home}/mtwatch/7`)).toBe(`${home}/mtwatch/7`);
});
