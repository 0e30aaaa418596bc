/**
 * Seven cases of what a store means, told by a guest and dom0 through real clients: values, relative and absolute names,
 * watches, what a transaction hides, applies or throws away, and what it removes and makes again.
 *
 * The cases are those that QEMU holds its own XenStore against (tests/unit/test-xs-node.c). Where that store and C
 * xenstored differ, in the events of what is removed and made again, this one does as C xenstored does.
 */
import { StoreLoop } from '../../src/xenbus/store-loop.js';
import { linkTransport } from '../../src/xenbus/transport.js';
import { abort, type Xs, type XsTransaction, xsClient } from '../../src/xenbus/xs-client.js';
import { XsError } from '../../src/xenbus/xs-wire.js';

const home = '/local/domain/1';

interface Cast {
  readonly dom0: Xs;
  readonly guest: Xs;
  /** What is below the guest's home, by its name there. */
  tree(): Promise<Record<string, string>>;
  /** Watches `path` with `xs`; gives a function that answers with the events since it was asked last. */
  listen(xs: Xs, path: string): Promise<() => string[]>;
}

/** A store, dom0 and a guest whose home is dom0's, for it to read, with `some` in it, which is its own. */
async function cast(): Promise<Cast> {
  const loop = new StoreLoop({
    domain: () => ({ dying: false, shutdown: false }),
    wake: () => setImmediate(turn),
    log: () => undefined,
  });
  const turn = (): void => {
    while (loop.serveOne());
  };
  const dom0 = xsClient(linkTransport(loop, { domid: 0, who: 'client' }));
  const guest = xsClient(linkTransport(loop, { domid: 1, who: 'domU-kernel' }));
  await dom0.write(home, '');
  await dom0.setPerms(home, [
    { domid: 0, read: false, write: false },
    { domid: 1, read: true, write: false },
  ]);
  await dom0.write(`${home}/some`, '');
  await dom0.setPerms(`${home}/some`, [{ domid: 1, read: false, write: false }]);
  const walk = async (name: string, into: Record<string, string>): Promise<void> => {
    for (const child of (await dom0.directory(`${home}/${name}`)) ?? []) await visit(`${name}/${child}`, into);
  };
  const visit = async (name: string, into: Record<string, string>): Promise<void> => {
    into[name] = (await dom0.read(`${home}/${name}`)) ?? 'missing';
    await walk(name, into);
  };
  return {
    dom0,
    guest,
    tree: async () => {
      const into: Record<string, string> = {};
      for (const child of (await dom0.directory(home)) ?? []) await visit(child, into);
      return into;
    },
    listen: async (xs, path) => {
      let heard: string[] = [];
      await xs.watch(path, (at) => heard.push(at));
      // The first event comes behind the reply: one more round and it is there.
      await xs.getDomainPath(0);
      return () => {
        const before = heard;
        heard = [];
        return before;
      };
    },
  };
}

const errnoOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'OK',
    (error: unknown) => (error instanceof XsError ? error.errno : error),
  );

describe('without a transaction', () => {
  test('what a guest writes it reads by either name, others hear of it by theirs, and it ends where it may not go', async () => {
    const { dom0, guest, tree, listen } = await cast();
    const [ofGuest, ofDom0] = [await listen(guest, 'some'), await listen(dom0, `${home}/some`)];
    expect([ofGuest(), ofDom0()]).toEqual([['some'], [`${home}/some`]]);
    expect(await guest.read('other')).toBeUndefined();

    await guest.write('some/relative/path', 'first');
    expect([ofGuest(), ofDom0()]).toEqual([['some/relative/path'], [`${home}/some/relative/path`]]);
    expect([await guest.read('some/relative/path'), await guest.read(`${home}/some/relative/path`)]).toEqual(['first', 'first']);

    expect(await errnoOf(guest.write('/local/domain/elsewhere', 'v'))).toBe('EACCES');
    await guest.write(`${home}/some/relative/path2`, 'second');
    await guest.write('some/relative/path', 'third');
    expect(ofGuest()).toEqual(['some/relative/path2', 'some/relative/path']);
    expect(await guest.directory('some/relative')).toEqual(['path', 'path2']);
    expect(await tree()).toEqual({
      some: '',
      'some/relative': '',
      'some/relative/path': 'third',
      'some/relative/path2': 'second',
    });
  });

  test('a watch that was taken back is silent, and its name and token are free again', async () => {
    const { guest } = await cast();
    const heard: string[] = [];
    const register = () => guest.watch('some', (at) => heard.push(at), 'token');
    const first = await register();
    await guest.write('some/node', 'v');
    await first.close();
    await guest.write('some/node', 'w');
    await register();
    await guest.read('some');
    expect(heard).toEqual(['some', 'some/node', 'some']);
  });

  test('each watch hears of a removal by the name that is nearest to it, and a value goes with its children', async () => {
    const { guest, tree, listen } = await cast();
    await guest.write('some/relative/path', 'v');
    await guest.write('some/relative/path2', 'v');
    const below = await listen(guest, 'some/relative/path2');
    const absolute = await listen(guest, `${home}/some/relative`);
    expect([below(), absolute()]).toEqual([['some/relative/path2'], [`${home}/some/relative`]]);

    await guest.write('some/relative', 'more');
    expect(await guest.read('some/relative')).toBe('more');
    await guest.write('some/relative', 'other');
    expect([await guest.read('some/relative'), below(), absolute()]).toEqual([
      'other',
      [],
      [`${home}/some/relative`, `${home}/some/relative`],
    ]);

    expect(await guest.rm('some/relative')).toBe(true);
    expect([below(), absolute()]).toEqual([['some/relative/path2'], [`${home}/some/relative`]]);
    expect([await guest.read('some/relative'), await tree()]).toEqual([undefined, { some: '' }]);
  });
});

describe('a transaction that writes', () => {
  /** Writes within a transaction, with or without somebody in its way, and ends it as `end` says. */
  async function writing(disturbed: boolean, end: 'commit' | 'abort') {
    const { guest, tree, listen } = await cast();
    const heard = await listen(guest, 'some');
    await guest.write('some/node', 'before');
    heard();
    const seen: unknown[] = [];
    let runs = 0;
    const body = async (tx: XsTransaction) => {
      runs += 1;
      // Whoever was refused once gives up, so that what the refusal left can be looked at.
      if (runs > 1) return abort;
      if (disturbed) await guest.write('some/node', 'theirs');
      seen.push(heard());
      await tx.write('some/node', 'mine');
      seen.push(await guest.read('some/node'), await tx.read('some/node'), heard());
      return end === 'commit' ? 'committed' : abort;
    };
    const result = await guest.transaction(body);
    return { seen, runs, result, events: heard(), tree: await tree() };
  }

  test('and is thrown away has changed nothing and told nobody, whatever others did meanwhile', async () => {
    expect(await writing(false, 'abort')).toEqual({
      seen: [[], 'before', 'mine', []],
      runs: 1,
      result: abort,
      events: [],
      tree: { some: '', 'some/node': 'before' },
    });
    expect(await writing(true, 'abort')).toEqual({
      seen: [['some/node'], 'theirs', 'mine', []],
      runs: 1,
      result: abort,
      events: [],
      tree: { some: '', 'some/node': 'theirs' },
    });
  });

  test('and is committed tells of it once, at the commit', async () => {
    expect(await writing(false, 'commit')).toEqual({
      seen: [[], 'before', 'mine', []],
      runs: 1,
      result: 'committed',
      events: ['some/node'],
      tree: { some: '', 'some/node': 'mine' },
    });
  });

  test('what another wrote since its first access is refused, with nothing changed and nobody told', async () => {
    const { guest, tree, listen } = await cast();
    await guest.write('some/node', 'before');
    const heard = await listen(guest, 'some');
    heard();
    let runs = 0;
    const result = await guest.transaction(async (tx) => {
      runs += 1;
      if (runs > 1) return abort;
      await tx.write('some/node', 'mine');
      await guest.write('some/node', 'theirs');
      return heard();
    });
    expect([result, runs, heard(), await tree()]).toEqual([abort, 2, [], { some: '', 'some/node': 'theirs' }]);
  });
});

test('a transaction that removes a tree leaves it to others until the commit, which tells of its root', async () => {
  const { guest, tree, listen } = await cast();
  await guest.write('some/deep/dark/relative/path', 'v');
  const heard = await listen(guest, 'some');
  heard();
  await guest.transaction(async (tx) => {
    expect(await tx.rm('some/deep/dark')).toBe(true);
    expect([await tx.read('some/deep/dark/relative/path'), await guest.read('some/deep/dark/relative/path'), heard()]).toEqual([
      undefined,
      'v',
      [],
    ]);
  });
  expect([heard(), await tree()]).toEqual([['some/deep/dark'], { some: '', 'some/deep': '' }]);
});

describe('a transaction that removes a tree and makes part of it again', () => {
  async function remaking(name: string) {
    const { guest, tree, listen } = await cast();
    await guest.write('some/deep/dark/relative/path', 'old');
    await guest.write('some/place/safe', 'kept');
    await guest.write('some/deep/dark', 'foo');
    const heard = await listen(guest, 'some');
    heard();
    await guest.transaction(async (tx) => {
      await tx.rm('some/deep');
      await tx.write(name, 'new');
      expect([heard(), await guest.read('some/deep/dark')]).toEqual([[], 'foo']);
    });
    return { events: heard(), tree: await tree() };
  }

  test('loses the values of what is remade as a parent, keeps what lies elsewhere, and tells of both', async () => {
    const { events, tree } = await remaking('some/deep/dark/different/path');
    expect(tree).toEqual({
      some: '',
      'some/place': '',
      'some/place/safe': 'kept',
      'some/deep': '',
      'some/deep/dark': '',
      'some/deep/dark/different': '',
      'some/deep/dark/different/path': 'new',
    });
    expect(events).toEqual(['some/deep', 'some/deep/dark/different/path']);
  });

  test('at the same name has the new value there', async () => {
    const { events, tree } = await remaking('some/deep/dark/relative/path');
    expect(tree).toEqual({
      some: '',
      'some/place': '',
      'some/place/safe': 'kept',
      'some/deep': '',
      'some/deep/dark': '',
      'some/deep/dark/relative': '',
      'some/deep/dark/relative/path': 'new',
    });
    expect(events).toEqual(['some/deep', 'some/deep/dark/relative/path']);
  });
});
