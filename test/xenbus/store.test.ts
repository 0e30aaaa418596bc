import { seeded } from '../../src/xenbus/clock.js';
import type { Kept } from '../../src/xenbus/keep.js';
import { faults, type NodePerm, type NodePerms, planCreation, recordBytes, Store } from '../../src/xenbus/store.js';

const perms: NodePerms = [{ domid: 0, read: false, write: false }];
const asIs = (node: { readonly perms: NodePerms }) => node.perms;

/** A store with the root and `paths`, made as requests make them. */
function storeWith(...paths: readonly string[]): Store {
  const store = new Store();
  store.put('/', '', perms);
  for (const path of paths) make(store, path);
  return store;
}

function make(store: Store, path: string, owner?: number): void {
  if (store.get(path)) return;
  for (const { path: at, value, perms } of planCreation(store, path, 'v', owner, asIs)) store.put(at, value, perms);
}

describe('children', () => {
  test('are listed in the order in which they were added, a name added again at the end', () => {
    const store = storeWith('/d/vif', '/d/0', '/d/vbd');
    store.removeTree('/d/0');
    make(store, '/d/0');
    expect(store.names('/d')).toEqual(['vif', 'vbd', '0']);
    expect(store.list('/d')).toBe('vif\0vbd\x000\0');
    expect(store.listBytes('/d')).toBe(store.list('/d').length);
  });

  test('that were borrowed stay as they were, whatever the store does, until they are given back', () => {
    const store = storeWith('/d/a', '/d/b');
    const place = store.borrow('/d');
    const before = place?.children ?? new Map();
    store.removeTree('/d/a');
    make(store, '/d/c');
    expect([[...before.keys()], store.names('/d')]).toEqual([
      ['a', 'b'],
      ['b', 'c'],
    ]);
    store.giveBack(place, before);
    const again = store.borrow('/d');
    const present = again?.children ?? new Map();
    store.giveBack(again, present);
    make(store, '/d/e');
    expect([...present.keys()]).toEqual(['b', 'c', 'e']);
  });

  test.each([1, 2, 3])('agree with a plain list under 5,000 random changes (seed %i)', (seed) => {
    const next = seeded(seed);
    const store = storeWith('/d');
    let list: string[] = [];
    for (let i = 0; i < 5000; i += 1) {
      const name = String(next() % 300);
      if (next() % 2 === 0) {
        make(store, `/d/${name}`);
        if (!list.includes(name)) list.push(name);
      } else {
        store.removeTree(`/d/${name}`);
        list = list.filter((other) => other !== name);
      }
    }
    expect(store.names('/d')).toEqual(list);
    expect(faults(store)).toEqual([]);
  });
});

describe('creating', () => {
  test('writes the node, then its missing ancestors upwards, and last the one that existed', () => {
    const plan = planCreation(storeWith('/a'), '/a/b/c', 'v', undefined, asIs);
    expect(plan.map(({ path, fresh, value, listBytes }) => [path, fresh, value, listBytes])).toEqual([
      ['/a/b/c', true, 'v', 0],
      ['/a/b', true, '', 2],
      ['/a', false, 'v', 2],
    ]);
  });

  test('by an unprivileged domain makes it the owner, with the letters of the node above', () => {
    const store = storeWith();
    store.put('/', '', [
      { domid: 0, read: true, write: true },
      { domid: 3, read: true, write: false },
    ]);
    make(store, '/x', 7);
    expect(store.get('/x')?.perms).toEqual([
      { domid: 7, read: true, write: true },
      { domid: 3, read: true, write: false },
    ]);
  });
});

describe('removing', () => {
  test('goes through the children first, in their order, and leaves nothing', () => {
    const store = storeWith('/a/b/c', '/a/d', '/e');
    const removed: string[] = [];
    store.removeTree('/a', (path) => removed.push(path));
    expect(removed).toEqual(['/a/b/c', '/a/b', '/a/d', '/a']);
    expect([store.size, store.names('/'), faults(store)]).toEqual([2, ['e'], []]);
  });
});

describe('owners', () => {
  test('are counted by nodes and bytes, and come back to nothing', () => {
    const store = storeWith('/a');
    make(store, '/a/b', 5);
    const node = store.get('/a/b');
    expect([store.ownedNodes(5), store.ownedBytes(5)]).toEqual([
      1,
      node && recordBytes(node.value, node.perms, 0) + '/a/b'.length,
    ]);
    store.removeTree('/a');
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
  store.put('/a', 'w', perms);
  expect(store.get('/a')?.generation).toBe(store.generation);
  expect(store.get('/b')?.generation).toBe(before);
});

test('what a store keeps makes the same store again: nodes, permissions, generations, order and accounts', () => {
  const next = seeded(7);
  const draw = (n: number) => next() % n;
  const kept = new Map<string, Kept>();
  const keep = { set: (key: string, value: Kept) => void kept.set(key, value), delete: (key: string) => void kept.delete(key) };
  const store = new Store(keep);
  store.put('/', '', owned(0));
  const paths = Array.from({ length: 60 }, () => Array.from({ length: 1 + draw(4) }, () => `/${'abcd'[draw(4)]}`).join(''));
  let most = 0;
  for (let step = 0; step < 3000; step++) {
    const path = paths[draw(paths.length)] ?? '/a';
    const parent = path.slice(0, path.lastIndexOf('/')) || '/';
    if (draw(12) === 0) store.removeTree(path);
    else if (draw(5) === 0) store.moveToEnd(parent, store.names(parent).slice(0, 2), store.order);
    else if (store.get(parent)) {
      const reader: NodePerm = { domid: 9, read: true, write: false, ...(draw(2) === 0 ? { ignored: true } : {}) };
      store.put(path, String.fromCharCode(draw(256)).repeat(draw(5)), [
        ...owned(draw(3)),
        ...(draw(2) === 0 ? [reader] : []),
      ] as NodePerms);
    }
    most = Math.max(most, store.size);
    if (step % 100 > 0) continue;
    const again = new Store(undefined, new Map([...kept].reverse()));
    expect([...again.entries()]).toEqual([...store.entries()]);
    expect(faults(again)).toEqual([]);
    for (const domid of [1, 2]) expect(again.ownedRoots(domid)).toEqual(store.ownedRoots(domid));
  }
  expect(most).toBeGreaterThan(20);
});

function owned(domid: number): NodePerms {
  return [{ domid, read: false, write: false }];
}
