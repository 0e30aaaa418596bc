import { seeded } from '../../src/xenbus/clock.js';
import { Children, faults, type NodePerms, planCreation, recordBytes, removeTree, Store } from '../../src/xenbus/store.js';

const perms: NodePerms = [{ domid: 0, read: false, write: false }];
const asIs = (node: { readonly perms: NodePerms }) => node.perms;

/** A store with the root and `paths`, made as requests make them. */
function storeWith(...paths: readonly string[]): Store {
  const store = new Store();
  store.put('/', { value: '', perms, children: Children.none });
  for (const path of paths) make(store, path);
  return store;
}

function make(store: Store, path: string, owner?: number): void {
  for (const { path: at, contents } of planCreation(store, path, 'v', owner, asIs)) store.put(at, contents);
}

describe('children', () => {
  test('are listed in the order in which they were added, a name added again at the end', () => {
    const children = Children.none.with('vif').with('0').with('vbd').without('0').with('0');
    expect(children.names()).toEqual(['vif', 'vbd', '0']);
    expect(children.list()).toBe('vif\0vbd\x000\0');
    expect(children.bytes).toBe(children.list().length);
  });

  test('are values: what was taken before a change stays as it was', () => {
    const before = Children.none.with('a').with('b');
    const after = before.without('a').with('c');
    expect([before.names(), after.names()]).toEqual([
      ['a', 'b'],
      ['b', 'c'],
    ]);
  });

  test.each([1, 2, 3])('agree with a plain list under 5,000 random changes (seed %i)', (seed) => {
    const next = seeded(seed);
    let children = Children.none;
    let list: string[] = [];
    for (let i = 0; i < 5000; i += 1) {
      const name = String(next() % 300);
      if (next() % 2 === 0) {
        children = children.with(name);
        if (!list.includes(name)) list.push(name);
      } else {
        children = children.without(name);
        list = list.filter((other) => other !== name);
      }
    }
    expect(children.names()).toEqual(list);
    expect(children.size).toBe(list.length);
  });

  test('of a directory with 50,000 of them are added in order without growing deep', () => {
    let children = Children.none;
    for (let i = 0; i < 50_000; i += 1) children = children.with(String(i));
    expect([children.size, children.has('49999'), children.names()[1234]]).toEqual([50_000, true, '1234']);
  });
});

describe('creating', () => {
  test('writes the node, then its missing ancestors upwards, and last the one that existed', () => {
    const plan = planCreation(storeWith('/a'), '/a/b/c', 'v', undefined, asIs);
    expect(plan.map(({ path, fresh, contents }) => [path, fresh, contents.children.names()])).toEqual([
      ['/a/b/c', true, []],
      ['/a/b', true, ['c']],
      ['/a', false, ['b']],
    ]);
  });

  test('by an unprivileged domain makes it the owner, with the letters of the node above', () => {
    const store = storeWith();
    store.put('/', {
      value: '',
      perms: [
        { domid: 0, read: true, write: true },
        { domid: 3, read: true, write: false },
      ],
      children: Children.none,
    });
    make(store, '/x', 7);
    expect(store.get('/x')?.perms).toEqual([
      { domid: 7, read: true, write: true },
      { domid: 3, read: true, write: false },
    ]);
  });
});

describe('removing', () => {
  test('goes through the children first, in their order, and ends in the parent', () => {
    const store = storeWith('/a/b/c', '/a/d', '/e');
    const removed: string[] = [];
    removeTree(store, '/a', asIs, (path) => removed.push(path));
    expect(removed).toEqual(['/a/b/c', '/a/b', '/a/d', '/a']);
    expect([store.size, store.get('/')?.children.names(), faults(store)]).toEqual([2, ['e'], []]);
  });
});

describe('owners', () => {
  test('are counted by nodes and bytes, and come back to nothing', () => {
    const store = storeWith('/a');
    make(store, '/a/b', 5);
    const node = store.get('/a/b');
    expect([store.ownedNodes(5), store.ownedBytes(5)]).toEqual([1, node && recordBytes(node) + '/a/b'.length]);
    removeTree(store, '/a', asIs, () => undefined);
    expect([store.ownedNodes(5), store.ownedBytes(5), store.ownedNodes(0)]).toEqual([0, 0, 1]);
  });

  test('have the topmost of their nodes told in the order of a walk', () => {
    const store = storeWith('/z', '/a');
    for (const path of ['/a/2', '/a/1', '/a/2/x', '/z/9']) make(store, path, 5);
    expect(store.ownedRoots(5)).toEqual(['/z/9', '/a/2', '/a/1']);
  });
});

test('a change raises the generation of its node and of no other', () => {
  const store = storeWith('/a', '/b');
  const before = store.get('/b')?.generation;
  store.put('/a', { value: 'w', perms, children: Children.none });
  expect(store.get('/a')?.generation).toBe(store.generation);
  expect(store.get('/b')?.generation).toBe(before);
});
