import { type NodePerms, Store, type StoreNode } from '../../src/xenbus/store.js';
import { applyChanges, Transaction } from '../../src/xenbus/transaction.js';
import { XsError } from '../../src/xenbus/xs-wire.js';

const perms: NodePerms = [{ domid: 0, read: false, write: false }];

function storeWith(...paths: readonly string[]): Store {
  const store = new Store();
  store.put('/', '', perms);
  for (const path of paths) put(store, path, 'before');
  return store;
}

function put(space: { put: Store['put'] }, path: string, value: string): void {
  space.put(path, value, perms);
}

/** A write as a request does it: the node is looked up, put, and its watches are noted. */
function write(tx: Transaction, path: string, value: string): void {
  tx.get(path);
  put(tx, path, value);
  tx.touched(path, false);
}

function commit(tx: Transaction, store: Store): string[] | 'EAGAIN' {
  if (!tx.isCurrent()) return 'EAGAIN';
  tx.end();
  const fired: string[] = [];
  applyChanges(tx, store, asIs, ({ path, fire }) => {
    if (fire !== 'none') fired.push(path);
  });
  return fired;
}

const asIs = (node: StoreNode) => node.perms;
const text = (node: StoreNode | undefined) => node?.value;
const begin = (store: Store) => new Transaction(1, store, Number.POSITIVE_INFINITY);

test('what it writes is seen within it, and by others once it is committed', () => {
  const store = storeWith('/a');
  const tx = begin(store);
  write(tx, '/a', 'after');
  expect([text(tx.get('/a')), text(store.get('/a'))]).toEqual(['after', 'before']);
  expect(commit(tx, store)).toEqual(['/a']);
  expect(text(store.get('/a'))).toBe('after');
});

test('is no snapshot: a node reads as it was at first access, not as it was at the start', () => {
  const store = storeWith('/a');
  const tx = begin(store);
  put(store, '/a', 'changed');
  expect(text(tx.get('/a'))).toBe('changed');
  put(store, '/a', 'changed again');
  expect(text(tx.get('/a'))).toBe('changed');
});

describe('the worked example at the head of transaction.ts', () => {
  test('ends in EAGAIN, with nothing applied, when a node that was read has changed', () => {
    const store = storeWith('/a', '/b');
    const tx = begin(store);
    tx.get('/a');
    put(store, '/a', 'foreign');
    write(tx, '/b', 'mine');
    expect(commit(tx, store)).toBe('EAGAIN');
    expect(text(store.get('/b'))).toBe('before');
  });

  test('commits when nobody interfered', () => {
    const store = storeWith('/a', '/b');
    const tx = begin(store);
    tx.get('/a');
    write(tx, '/b', 'mine');
    expect(commit(tx, store)).toEqual(['/b']);
    expect(store.get('/b')?.generation).toBe(store.generation);
  });

  test('fires in the order of first access, a node once, and a node that came and went not at all', () => {
    const store = storeWith('/a', '/b', '/c');
    const tx = begin(store);
    tx.get('/a');
    write(tx, '/b', '1');
    write(tx, '/a', '1');
    tx.removeTree('/c');
    tx.touched('/c', false);
    write(tx, '/c', '1');
    write(tx, '/d', '1');
    tx.removeTree('/d');
    const changed = tx.changes().filter(({ before, now }) => before || now);
    expect(changed.map(({ path }) => path)).toEqual(['/a', '/b', '/c']);
  });
});

describe('conflicts', () => {
  test.each<[string, (tx: Transaction) => void, (store: Store) => void]>([
    ['a value was rewritten as it was', (tx) => tx.get('/a'), (store) => put(store, '/a', 'before')],
    ['a node that was read is gone', (tx) => tx.get('/a'), (store) => store.removeTree('/a')],
    ['a node that was missing has come', (tx) => tx.get('/new'), (store) => put(store, '/new', 'v')],
    ['two wrote the same node blindly', (tx) => write(tx, '/a', 'mine'), (store) => put(store, '/a', 'theirs')],
    ['a node that was removed has changed', (tx) => tx.removeTree('/a'), (store) => put(store, '/a', 'theirs')],
  ])('when %s', (_what, inside, outside) => {
    const store = storeWith('/a', '/b');
    const tx = begin(store);
    inside(tx);
    outside(store);
    expect(commit(tx, store)).toBe('EAGAIN');
  });

  test('not with what the transaction has not touched', () => {
    const store = storeWith('/a', '/b');
    const tx = begin(store);
    write(tx, '/a', 'mine');
    put(store, '/b', 'theirs');
    expect(commit(tx, store)).toEqual(['/a']);
  });

  test('of two transactions that read what the other writes let one through', () => {
    const store = storeWith('/a', '/b');
    const [first, second] = [begin(store), begin(store)];
    first.get('/a');
    second.get('/b');
    write(first, '/b', '1');
    write(second, '/a', '2');
    expect([commit(first, store), commit(second, store)]).toEqual([['/b'], 'EAGAIN']);
  });
});

test('gives back what it has borrowed: the store then changes a directory where it is', () => {
  const store = storeWith('/s', '/s/a');
  const tx = begin(store);
  const place = store.borrow('/s');
  store.giveBack(place, place?.children);
  const before = place?.children;
  expect(tx.names('/s')).toEqual(['a']);
  put(store, '/s/b', 'v');
  expect([place?.children === before, tx.names('/s')]).toEqual([false, ['a']]);
  const present = place?.children;
  const another = begin(store);
  another.names('/s');
  another.end();
  put(store, '/s/c', 'v');
  expect(place?.children).toBe(present);
});

test('counts what its owners gain and lose', () => {
  const store = storeWith('/a', '/b');
  const tx = begin(store);
  tx.removeTree('/a');
  tx.put('/b', '', [{ domid: 5, read: false, write: false }]);
  tx.put('/c', '', [{ domid: 5, read: false, write: false }]);
  expect(tx.ownerChanges()).toEqual(
    new Map([
      [0, -2],
      [5, 2],
    ]),
  );
});

test('of an unprivileged domain ends in ENOSPC, and is spoilt, past its number of nodes', () => {
  const tx = new Transaction(1, storeWith('/a'), 2);
  tx.get('/a');
  tx.get('/b');
  expect(() => tx.get('/c')).toThrow(XsError);
  expect(tx.failed).toBe(true);
});
