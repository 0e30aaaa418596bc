import { getEventListeners } from 'node:events';
import { StoreLoop } from '../../src/xenbus/store-loop.js';
import { ConnectionEnded, linkTransport, PacketReader, type XsTransport } from '../../src/xenbus/transport.js';
import {
  abort,
  byteString,
  ConnectionClosed,
  directoryTriesMax,
  textOf,
  transactionTriesMax,
  watchQueueMax,
  type Xs,
  type XsEvents,
  XsRequestError,
  type XsTransaction,
  xsClient,
} from '../../src/xenbus/xs-client.js';
import { encode, joinStrings, splitStrings, XsError, type XsPacket, XsType } from '../../src/xenbus/xs-wire.js';

/** A store that is served in turns of the event loop, and clients of it. */
function store() {
  const turn = () => {
    while (loop.serveOne());
  };
  const loop = new StoreLoop({
    domain: () => ({ dying: false, shutdown: false }),
    wake: () => setImmediate(turn),
    log: () => undefined,
  });
  const link = (domid = 0) => linkTransport(loop, { domid, who: 'client' });
  const client = (): Xs => xsClient(link());
  return { loop, link, client };
}

/** A transport that can be cut, and tells of each packet before it is sent and of each before it is delivered. */
function tapped(transport: XsTransport, tap: { sends?: (packet: XsPacket) => void; gets?: (packet: XsPacket) => void } = {}) {
  let handlers: Parameters<XsTransport['receive']>[0] | undefined;
  const made: XsTransport = {
    send: (packet) => {
      tap.sends?.(packet);
      transport.send(packet);
    },
    receive: (given) => {
      handlers = given;
      transport.receive({
        ...given,
        packet: (packet) => {
          tap.gets?.(packet);
          given.packet(packet);
        },
      });
    },
    close: () => transport.close(),
  };
  const cut = () => {
    handlers?.closed(new ConnectionEnded('the cable was pulled'));
    transport.close();
  };
  return { transport: made, cut };
}

/** The watches and transactions that the server has for domain 5. */
async function heldFor5(xs: Xs): Promise<{ watches: number; transactions: number }> {
  const report = await xs.control('quota', ['5']);
  const count = (name: string) => Number(new RegExp(`${name} *: *(\\d+)`).exec(report)?.[1]);
  return { watches: count('watches'), transactions: count('transactions') };
}
const nothingHeld = { watches: 0, transactions: 0 };

/** Lets everything happen that was begun. */
async function settled(): Promise<void> {
  for (let turns = 0; turns < 5; turns += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** A home for domain 5, which may do as it likes in there. */
async function makeHome(xs: Xs): Promise<void> {
  await xs.introduce(5, 1, 1);
  await xs.mkdir('/local/domain/5');
  await xs.setPerms('/local/domain/5', [{ domid: 5, read: false, write: false }]);
}

/** A server that answers by the function given, at once. */
function scripted(answer: (request: XsPacket) => Partial<XsPacket>, close: () => void = () => undefined): XsTransport {
  let receive: ((packet: XsPacket) => void) | undefined;
  return {
    send: (request) => receive?.({ ...request, ...answer(request) }),
    receive: (handlers) => {
      receive = handlers.packet;
    },
    close,
  };
}

const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'no failure',
    (error: unknown) => error,
  );

describe('requests', () => {
  test('answer with what is there, and with undefined or false for what is not', async () => {
    const xs = store().client();
    await xs.write('/a/b', 'v');
    await xs.mkdir('/a/c');
    expect(await xs.read('/a/b')).toBe('v');
    expect(await xs.directory('/a')).toEqual(['b', 'c']);
    expect(await xs.getPerms('/a')).toEqual([{ domid: 0, read: false, write: false }]);
    expect([await xs.read('/x'), await xs.directory('/x'), await xs.getPerms('/x'), await xs.rm('/x/y')]).toEqual([
      undefined,
      undefined,
      undefined,
      false,
    ]);
    expect([await xs.rm('/a/b'), await xs.read('/a/b')]).toEqual([true, undefined]);
  });

  test('set permissions and ask about domains', async () => {
    const xs = store().client();
    await xs.setPerms('/tool', [
      { domid: 0, read: false, write: false },
      { domid: 5, read: true, write: true },
    ]);
    expect(await xs.getPerms('/tool')).toHaveLength(2);
    await xs.introduce(5, 1, 1);
    expect([await xs.getDomainPath(5), await xs.isDomainIntroduced(5)]).toEqual(['/local/domain/5', true]);
    await xs.introduce(6, 1, 1);
    await xs.setTarget(6, 5);
    await xs.resume(5);
    await xs.release(5);
    expect(await xs.isDomainIntroduced(5)).toBe(false);
    expect(String(await failure(xs.setTarget(6, 5)))).toBe('XsError: ENOENT: SET_TARGET');
  });

  test('command the server, and answer with its words', async () => {
    const xs = store().client();
    expect(await xs.control('print', ['hello'])).toBe('OK');
    expect(await xs.control('quota')).toMatch(/nodes/);
    expect(String(await failure(xs.control('nonsense')))).toMatch(/EINVAL: CONTROL/);
  });

  test('of a guest are relative to its home', async () => {
    const { client, link } = store();
    const dom0 = client();
    await makeHome(dom0);
    const guest = xsClient(link(5));
    await guest.write('data/x', '1');
    expect([await guest.read('data/x'), await dom0.read('/local/domain/5/data/x')]).toEqual(['1', '1']);
    expect(await failure(guest.write('/tool/x', '1'))).toMatchObject({ errno: 'EACCES', operation: 'WRITE', path: '/tool/x' });
  });

  test('write bytes as they are', async () => {
    const xs = store().client();
    await xs.write('/a', new Uint8Array([0, 255, 10]).subarray(1));
    expect(await xs.read('/a')).toBe('\xff\n');
  });

  test('are sent at once and answered in order, however many', async () => {
    const xs = store().client();
    await Promise.all(Array.from({ length: 10_000 }, (_, i) => xs.write(`/n/${i}`, String(i))));
    const values = await Promise.all(Array.from({ length: 10_000 }, (_, i) => xs.read(`/n/${i}`)));
    expect(values).toEqual(Array.from({ length: 10_000 }, (_, i) => String(i)));
  });

  test('settle in the order of the calls, whatever their kind, when the answers come together', async () => {
    const xs = store().client();
    const settledInOrder: string[] = [];
    const note = (name: string, asked: Promise<unknown>) =>
      asked.then(
        () => settledInOrder.push(name),
        () => settledInOrder.push(name),
      );
    const asked = [
      note('introduce', xs.introduce(5, 1, 1)),
      note('read of a missing node', xs.read('/a')),
      note('control', xs.control('quota')),
      note('directory', xs.directory('/')),
      note('refused', xs.read('/a//b')),
      note('rm', xs.rm('/x/y')),
      note('perms', xs.getPerms('/')),
      note('domain path', xs.getDomainPath(5)),
      note('write', xs.write('/a', '1')),
      note('release', xs.release(5)),
      note('mkdir', xs.mkdir('/b')),
      note('read', xs.read('/a')),
    ];
    await Promise.all(asked);
    expect(settledInOrder).toEqual([
      'introduce',
      'read of a missing node',
      'control',
      'directory',
      'refused',
      'rm',
      'perms',
      'domain path',
      'write',
      'release',
      'mkdir',
      'read',
    ]);
  });

  test('carry every byte there and back, and refuse what is no byte', async () => {
    const xs = store().client();
    const bytes = String.fromCharCode(...Array.from({ length: 256 }, (_, i) => i));
    await xs.write('/a', bytes);
    expect(await xs.read('/a')).toBe(bytes);
    await xs.write('/a', byteString('Größe €'));
    expect(textOf((await xs.read('/a')) ?? '')).toBe('Größe €');
    expect(String(await failure(xs.write('/a', '€')))).toMatch(/byteString/);
    expect(String(await failure(xs.read('/€')))).toMatch(/byteString/);
  });

  test('fail with the errno of the server, the name of the request and its path', async () => {
    const xs = store().client();
    const error = await failure(xs.read('/a//b'));
    expect(error).toBeInstanceOf(XsError);
    expect(error).toBeInstanceOf(XsRequestError);
    expect(error).toMatchObject({ errno: 'EINVAL', operation: 'READ', path: '/a//b' });
    expect(await failure(xs.release(77))).toMatchObject({ errno: 'ENOENT', operation: 'RELEASE', path: undefined });
    expect(String(error)).toBe('XsError: EINVAL: READ /a//b');
  });

  test('of a NUL within a path, or over one payload, are refused before they are sent', async () => {
    const xs = store().client();
    expect(String(await failure(xs.write('/a\0b', 'v')))).toMatch(/EINVAL/);
    expect(String(await failure(xs.write('/a', 'v'.repeat(4096))))).toMatch(/E2BIG/);
    expect(await xs.read('/a')).toBeUndefined();
  });

  test('of what is no path, value or domid are refused before they are sent', async () => {
    const sent: XsPacket[] = [];
    const xs = xsClient(tapped(store().link(), { sends: (packet) => sent.push(packet) }).transport);
    const as = <T>(value: unknown) => value as T;
    const errors = [
      failure(xs.read(as(undefined))),
      failure(xs.write('/a', as(5))),
      failure(xs.getDomainPath(Number.NaN)),
      failure(xs.release(-1)),
      failure(xs.introduce(1, 0.5, 1)),
    ];
    expect((await Promise.all(errors)).map(String)).toEqual([
      'TypeError: READ: undefined is no path or other string',
      'TypeError: a value is a byte string or a Uint8Array, not 5',
      'TypeError: GET_DOMAIN_PATH: NaN is no domid, frame or port',
      'TypeError: RELEASE: -1 is no domid, frame or port',
      'TypeError: INTRODUCE: 0.5 is no domid, frame or port',
    ]);
    expect(sent).toEqual([]);
  });

  test('that are open when the connection ends all fail, and so do later ones', async () => {
    const xs = store().client();
    const open = [failure(xs.read('/a')), failure(xs.read('/b'))];
    xs.close();
    const errors = await Promise.all([...open, failure(xs.read('/c'))]);
    for (const error of errors) expect(String(error)).toMatch(/closed/);
  });
});

describe('lists past one payload', () => {
  test('come in parts, and are whole', async () => {
    const xs = store().client();
    const names = Array.from({ length: 3000 }, (_, i) => `name-${i}`);
    await Promise.all(names.map((name) => xs.mkdir(`/d/${name}`)));
    expect(await xs.directory('/d')).toEqual(names);
    expect(await xs.transaction(async (tx) => (await tx.directory('/d'))?.length)).toBe(3000);
  });

  test('start over when the directory changes between two parts, and give up when that goes on', async () => {
    let generation = 1;
    const asked: string[] = [];
    const changing = (times: number) =>
      xsClient(
        scripted(({ type, payload }) => {
          if (type === XsType.Directory) return { type: XsType.Error, payload: joinStrings('E2BIG') };
          const [, offset = ''] = splitStrings(payload);
          asked.push(offset);
          if (offset === '0') return { payload: joinStrings(String(generation), 'a') };
          if (generation <= times) generation += 1;
          return { payload: joinStrings(String(generation), 'b', '') };
        }),
      );
    expect(await changing(2).directory('/d')).toEqual(['a', 'b']);
    expect(asked).toEqual(['0', '2', '0', '2', '0', '2']);
    expect(String(await failure(changing(1e9).directory('/d')))).toBe(
      `XsError: EAGAIN: the list of /d changed each of the ${directoryTriesMax} times that it was read`,
    );
  });
});

describe('a list past one payload', () => {
  test('is refused as too big where the server has no parts', async () => {
    const answers: Record<number, string> = { [XsType.Directory]: 'E2BIG', [XsType.DirectoryPart]: 'ENOSYS' };
    const xs = xsClient(scripted(({ type }) => ({ type: XsType.Error, payload: joinStrings(answers[type] ?? '') })));
    expect(String(await failure(xs.directory('/d')))).toBe('XsError: E2BIG: DIRECTORY /d');
  });

  test.each(['', '7', '7\0'])('answered by %j is no list, and not asked for again', async (payload) => {
    let asked = 0;
    const xs = xsClient(
      scripted(({ type }) => {
        if (type === XsType.Directory) return { type: XsType.Error, payload: joinStrings('E2BIG') };
        asked += 1;
        return { payload };
      }),
    );
    expect(String(await failure(xs.directory('/d')))).toMatch(/DIRECTORY_PART \/d makes no sense/);
    expect(asked).toBe(1);
  });
});

describe('transactions', () => {
  test('commit what the body did, and answer with what it returned', async () => {
    const xs = store().client();
    const result = await xs.transaction(async (tx) => {
      await tx.write('/a', '1');
      return tx.read('/a');
    });
    expect([result, await xs.read('/a')]).toEqual(['1', '1']);
  });

  test('run again when others were in the way', async () => {
    const { client } = store();
    const [xs, other] = [client(), client()];
    await xs.write('/count', '0');
    let runs = 0;
    await xs.transaction(async (tx) => {
      const count = Number(await tx.read('/count'));
      if (runs++ === 0) await other.write('/count', '10');
      await tx.write('/count', String(count + 1));
    });
    expect([runs, await xs.read('/count')]).toEqual([2, '11']);
  });

  test('of many clients on one counter lose nothing', async () => {
    const { client } = store();
    const clients = Array.from({ length: 8 }, client);
    const add = (xs: Xs) => xs.transaction(async (tx) => tx.write('/count', String(Number((await tx.read('/count')) ?? 0) + 1)));
    await Promise.all(
      clients.map(async (xs) => {
        for (let i = 0; i < 10; i += 1) await add(xs);
      }),
    );
    expect(await client().read('/count')).toBe('80');
  });

  test('are thrown away when the body aborts or fails, and its error is passed on', async () => {
    const xs = store().client();
    const aborted = await xs.transaction(async (tx) => {
      await tx.write('/a', '1');
      return abort;
    });
    const failed = await failure(
      xs.transaction(async (tx) => {
        await tx.write('/a', '2');
        throw new Error('of the body');
      }),
    );
    expect([aborted, String(failed), await xs.read('/a')]).toEqual([abort, 'Error: of the body', undefined]);
  });

  test('at once on one connection that want the same node are both carried out', async () => {
    const xs = store().client();
    await xs.write('/count', '0');
    let runs = 0;
    const add = () =>
      xs.transaction(async (tx) => {
        runs += 1;
        await tx.write('/count', String(Number(await tx.read('/count')) + 1));
      });
    await Promise.all([add(), add()]);
    expect([await xs.read('/count'), runs]).toEqual(['2', 3]);
  });

  test('refuse requests that come after their end, and send nothing', async () => {
    const { client } = store();
    const xs = client();
    let kept: XsTransaction | undefined;
    await xs.transaction(async (tx) => {
      kept = tx;
    });
    expect(String(await failure(kept?.write('/a', '1') ?? Promise.resolve()))).toMatch(/transaction \d+ has ended/);
    await failure(
      xs.transaction(async (tx) => {
        kept = tx;
        throw new Error('of the body');
      }),
    );
    expect(String(await failure(kept?.write('/a', '1') ?? Promise.resolve()))).toMatch(/transaction \d+ has ended/);
    expect(await xs.read('/a')).toBeUndefined();
  });

  test('fail with the connection that ends in the middle, and are not begun again', async () => {
    const { link, client } = store();
    const { transport, cut } = tapped(link());
    let runs = 0;
    const error = await failure(
      xsClient(transport).transaction(async (tx) => {
        runs += 1;
        await tx.write('/a', '1');
        cut();
        await tx.write('/b', '1');
      }),
    );
    expect(String(error)).toBe('ConnectionEnded: the cable was pulled');
    expect([runs, await client().read('/a')]).toEqual([1, undefined]);
  });

  test('give up in the end, and say so', async () => {
    const xs = xsClient(
      scripted(({ type }) =>
        type === XsType.TransactionStart ? { payload: joinStrings('1') } : { type: XsType.Error, payload: joinStrings('EAGAIN') },
      ),
    );
    const error = await failure(xs.transaction(async () => undefined));
    expect(String(error)).toBe(`XsError: EAGAIN: a transaction met others in its way ${transactionTriesMax} times and gave up`);
  });
});

describe('watches', () => {
  test('of a token that was used before hear nothing of what it was used for', async () => {
    const { client } = store();
    const [xs, other] = [client(), client()];
    const heard: string[] = [];
    const first = await xs.watch('/p', () => undefined, 'token');
    void other.write('/p', 'v');
    const closed = first.close();
    await expect(xs.watch('/q', () => undefined, 'token')).rejects.toThrow('belongs to another watch');
    await closed;
    await xs.watch('/q', (path) => heard.push(path), 'token');
    await other.write('/p', 'w');
    await settled();
    expect(heard).toEqual(['/q']);
  });

  test('hear first of themselves and then of every change, in order, until they are closed', async () => {
    const xs = store().client();
    const heard: string[] = [];
    const watch = await xs.watch('/a', (path) => heard.push(path));
    await xs.write('/a/b', '1');
    await xs.rm('/a');
    await watch.close();
    await xs.write('/a/c', '1');
    await watch.close();
    expect(heard).toEqual(['/a', '/a/b', '/a']);
  });

  test('of one path are told apart by their tokens', async () => {
    const xs = store().client();
    const heard: string[] = [];
    const first = await xs.watch('/a', () => heard.push('first'));
    const second = await xs.watch('/a', () => heard.push('second'), 'a token');
    expect([second.token, first.token === second.token]).toEqual(['a token', false]);
    await first.close();
    await xs.write('/a', '1');
    expect(heard).toEqual(['first', 'second', 'second']);
    expect(String(await failure(xs.watch('/b', () => undefined, { token: 'a token' })))).toMatch(/another watch/);
  });

  test('that the server refuses leave their token free', async () => {
    const xs = store().client();
    expect(String(await failure(xs.watch('/a/', () => undefined, { token: 't' })))).toMatch(/EINVAL/);
    expect((await xs.watch('/a', () => undefined, { token: 't' })).token).toBe('t');
  });
});

/** The paths of the next events. */
async function take(events: XsEvents, count: number): Promise<string[]> {
  const paths: string[] = [];
  for (let i = 0; i < count; i += 1) {
    const { value } = await events.next();
    paths.push(value?.path ?? 'the end');
  }
  return paths;
}

describe('watch loops', () => {
  test('hear first of themselves and then of every change, and may make requests', async () => {
    const xs = store().client();
    const heard: [string, string | undefined][] = [];
    for await (const { path } of xs.watch('/a')) {
      heard.push([path, await xs.read(path)]);
      if (heard.length === 1) await xs.write('/a/b', '1');
      if (heard.length === 2) await xs.rm('/a');
      if (heard.length === 3) break;
    }
    expect(heard).toEqual([
      ['/a', undefined],
      ['/a/b', '1'],
      ['/a', undefined],
    ]);
  });

  test('are registered when they are made, with a token that is free or the one given', async () => {
    const xs = store().client();
    const [first, second] = [xs.watch('/a'), xs.watch('/a', { token: 'mine' })];
    await xs.write('/a/b', '1');
    expect([await take(first, 2), await take(second, 2)]).toEqual([
      ['/a', '/a/b'],
      ['/a', '/a/b'],
    ]);
    expect([second.token, first.token === second.token]).toEqual(['mine', false]);
    expect(await failure(xs.watch('/c', { token: 'mine' }).next())).toEqual(
      new Error('the token mine belongs to another watch of this client'),
    );
  });

  test.each(['break', 'return', 'throw', 'return()', 'dispose', 'abort', 'close of the callback form'])(
    'that end by %s leave nothing at the server',
    async (how) => {
      const { client, link } = store();
      const dom0 = client();
      await makeHome(dom0);
      const guest = xsClient(link(5));
      const stopping = new AbortController();
      const loop = async () => {
        const events = guest.watch('data', { signal: stopping.signal });
        if (how === 'return()') return events.return();
        if (how === 'dispose') return events[Symbol.asyncDispose]();
        if (how.startsWith('close')) {
          await events.return();
          return (await guest.watch('data', () => undefined)).close();
        }
        for await (const _ of events) {
          expect(await heldFor5(dom0)).toEqual({ watches: 1, transactions: 0 });
          if (how === 'break') break;
          if (how === 'return') return;
          if (how === 'abort') stopping.abort();
          else throw new Error('of the loop');
        }
      };
      const ends: Record<string, RegExp> = { throw: /of the loop/, abort: /AbortError/ };
      expect(String(await failure(loop()))).toMatch(ends[how] ?? /no failure/);
      await settled();
      expect(await heldFor5(dom0)).toEqual(nothingHeld);
      expect(getEventListeners(stopping.signal, 'abort')).toEqual([]);
    },
  );

  test('leave out an event for a path that waits already', async () => {
    const xs = store().client();
    const events = xs.watch('/a');
    for (const value of ['1', '2', '3']) {
      await xs.write('/a/b', value);
      await xs.write('/a/c', value);
    }
    expect(await take(events, 3)).toEqual(['/a', '/a/b', '/a/c']);
    const next = events.next();
    await xs.write('/a/b', '4');
    expect(await next).toEqual({ done: false, value: { path: '/a/b', token: events.token, missed: false } });
  });

  test('that do not keep up have one event for all that they missed, and no more than the bound waiting', async () => {
    const xs = store().client();
    const events = xs.watch('/a');
    const storm = (from: number, count: number) =>
      Promise.all(Array.from({ length: count }, (_, i) => xs.write(`/a/${from + i}`, '')));
    // With the first event, of the watch itself, they are just as many as may wait.
    await storm(0, watchQueueMax - 1);
    await xs.write('/a/7', 'again');
    expect((await events.next()).value).toEqual({ path: '/a', token: events.token, missed: false });
    expect((await events.next()).value).toEqual({ path: '/a/0', token: events.token, missed: false });
    await storm(watchQueueMax, 5);
    expect((await events.next()).value).toEqual({ path: '/a', token: events.token, missed: true });
    expect(await take(events, 2)).toEqual([`/a/${watchQueueMax + 3}`, `/a/${watchQueueMax + 4}`]);
  });

  test('give a storm to whoever keeps up, event by event', async () => {
    const { client } = store();
    const xs = client();
    const events = xs.watch('/a');
    await events.next();
    const count = 3 * watchQueueMax;
    const taken = take(events, count);
    const other = client();
    for (let at = 0; at < count; at += 1024) {
      await Promise.all(Array.from({ length: 1024 }, (_, i) => other.write(`/a/${at + i}`, '')));
    }
    expect(await taken).toEqual(Array.from({ length: count }, (_, i) => `/a/${i}`));
  });

  test('answer to several that ask at once, in the order of their asking', async () => {
    const xs = store().client();
    const events = xs.watch('/a');
    const asked = [events.next(), events.next(), events.next()];
    await xs.write('/a/b', '');
    await settled();
    xs.close();
    const [first, second, third] = await Promise.all(asked);
    expect([first?.value?.path, second?.value?.path, third?.done]).toEqual(['/a', '/a/b', true]);
  });

  test('that the server refuses fail, once', async () => {
    const xs = store().client();
    const events = xs.watch('/a/');
    expect(await failure(events.next())).toMatchObject({ errno: 'EINVAL', operation: 'WATCH', path: '/a/' });
    expect(await events.next()).toEqual({ done: true, value: undefined });
    await events.return();
  });

  test('give what came before the connection ended, then the reason', async () => {
    const { link } = store();
    const { transport, cut } = tapped(link());
    const xs = xsClient(transport);
    const events = xs.watch('/a');
    await xs.write('/a/b', '');
    cut();
    expect(await take(events, 2)).toEqual(['/a', '/a/b']);
    expect(String(await failure(events.next()))).toBe('ConnectionEnded: the cable was pulled');
    expect(await events.next()).toEqual({ done: true, value: undefined });
    expect(String(await xs.ended)).toBe('ConnectionEnded: the cable was pulled');
  });

  test('that wait hear of the end of the connection at once', async () => {
    const { link } = store();
    const { transport, cut } = tapped(link());
    const xs = xsClient(transport);
    const events = xs.watch('/a');
    await events.next();
    const waiting = failure(events.next());
    cut();
    expect(String(await waiting)).toBe('ConnectionEnded: the cable was pulled');
  });

  test('end quietly when their own side closes the connection or resets the watches', async () => {
    const xs = store().client();
    const run = async () => {
      for await (const _ of xs.watch('/a'));
      return 'over';
    };
    const first = run();
    await settled();
    await xs.resetWatches();
    expect(await first).toBe('over');
    const second = run();
    await settled();
    xs.close();
    expect(await second).toBe('over');
  });

  test('that are made behind a reset are not ended by it', async () => {
    const xs = store().client();
    const reset = xs.resetWatches();
    const events = xs.watch('/a');
    await reset;
    expect(await take(events, 1)).toEqual(['/a']);
  });
});

describe('waitFor', () => {
  test('answers with the value when it is what was waited for, now or later', async () => {
    const { client } = store();
    const [xs, other] = [client(), client()];
    const seen: (string | undefined)[] = [];
    const waiting = xs.waitFor('/state', (value) => {
      seen.push(value);
      return value === '4';
    });
    for (const value of ['1', '4']) {
      await settled();
      await other.write('/state', value);
    }
    expect([await waiting, seen]).toEqual(['4', [undefined, '1', '4']]);
    const there: string = await xs.waitFor('/state', (value) => value !== undefined);
    expect(there).toBe('4');
  });

  test('gives up with the signal, with the connection and with a mistake of the predicate', async () => {
    const xs = store().client();
    const stopping = new AbortController();
    const waiting = failure(xs.waitFor('/a', () => false, { signal: stopping.signal }));
    const mistaken = failure(
      xs.waitFor('/a', () => {
        throw new Error('of the predicate');
      }),
    );
    const closed = failure(xs.waitFor('/a', () => false));
    await settled();
    stopping.abort(new Error('no time'));
    expect([String(await waiting), String(await mistaken)]).toEqual(['Error: no time', 'Error: of the predicate']);
    xs.close();
    expect(await closed).toBeInstanceOf(ConnectionClosed);
  });
});

describe('signals', () => {
  test('that have aborted send nothing', async () => {
    const sent: XsPacket[] = [];
    const { transport } = tapped(store().link(), { sends: (packet) => sent.push(packet) });
    const xs = xsClient(transport);
    const signal = AbortSignal.abort(new Error('too late'));
    const errors = await Promise.all(
      [
        xs.read('/a', { signal }),
        xs.directory('/a', { signal }),
        xs.write('/a', '', { signal }),
        xs.mkdir('/a', { signal }),
        xs.rm('/a', { signal }),
        xs.getPerms('/a', { signal }),
        xs.setPerms('/a', [], { signal }),
        xs.transaction(async () => undefined, { signal }),
        xs.watch('/a', () => undefined, { signal }),
        xs.watch('/a', { signal }).next(),
        xs.waitFor('/a', () => true, { signal }),
        xs.resetWatches({ signal }),
        xs.getDomainPath(1, { signal }),
        xs.introduce(1, 1, 1, { signal }),
        xs.release(1, { signal }),
        xs.resume(1, { signal }),
        xs.isDomainIntroduced(1, { signal }),
        xs.setTarget(1, 2, { signal }),
        xs.control('help', [], { signal }),
      ].map(failure),
    );
    expect(errors.map(String)).toEqual(errors.map(() => 'Error: too late'));
    expect(sent).toEqual([]);
  });

  test('end the wait at once; the late answer goes to nobody', async () => {
    const xs = store().client();
    await xs.write('/a', 'old');
    const stopping = new AbortController();
    const [aborted, next] = [failure(xs.read('/a', { signal: stopping.signal })), xs.read('/a')];
    stopping.abort(new Error('enough'));
    expect([String(await aborted), await next, await xs.read('/none')]).toEqual(['Error: enough', 'old', undefined]);
  });

  test('are listened to once, however many requests have them, and not any more when those are answered', async () => {
    const xs = store().client();
    const { signal } = new AbortController();
    const reads = Array.from({ length: 1000 }, () => xs.read('/a', { signal }));
    expect(getEventListeners(signal, 'abort')).toHaveLength(1);
    await Promise.all(reads);
    expect(getEventListeners(signal, 'abort')).toEqual([]);
    await xs.transaction(async (tx) => tx.write('/a', '1'), { signal });
    await (await xs.watch('/a', () => undefined, { signal })).close();
    const reading = failure(xs.read('/a', { signal }));
    xs.close();
    await reading;
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });

  test('stop a watch of the callback form whenever they abort', async () => {
    const { client, link } = store();
    const dom0 = client();
    await makeHome(dom0);
    const guest = xsClient(link(5));
    const [early, later] = [new AbortController(), new AbortController()];
    const heard: string[] = [];
    const refused = failure(guest.watch('data', () => heard.push('early'), { signal: early.signal }));
    early.abort();
    expect(String(await refused)).toMatch(/AbortError/);
    await guest.watch('data', (path) => heard.push(path), { signal: later.signal });
    later.abort();
    await guest.write('data', '1');
    expect([heard, await heldFor5(dom0)]).toEqual([['data'], nothingHeld]);
  });

  const operations: Record<string, (xs: Xs, signal: AbortSignal) => Promise<unknown>> = {
    read: (xs, signal) => xs.read('data', { signal }),
    'a long list': (xs, signal) => xs.directory('/long', { signal }),
    watch: async (xs, signal) => {
      const watch = await xs.watch('data', () => undefined, { signal });
      await xs.read('data');
      await watch.close();
    },
    waitFor: (xs, signal) => xs.waitFor('data', (value) => value === '1', { signal }),
    transaction: (xs, signal) =>
      xs.transaction(
        async (tx) => {
          await tx.write('data', '1');
          await Promise.all([tx.read('data'), tx.directory('/long')]);
          await tx.mkdir('more');
        },
        { signal },
      ),
    'an ill-behaved transaction': (xs, signal) =>
      xs.transaction(
        async (tx) => {
          await tx.write('data', '1').catch(() => undefined);
          await new Promise((resolve) => setImmediate(resolve));
          await tx.write('data', '2').catch(() => undefined);
        },
        { signal },
      ),
    'a transaction that is thrown away': (xs, signal) =>
      xs.transaction(
        async (tx) => {
          await tx.write('data', '1');
          return abort;
        },
        { signal },
      ),
  };

  describe.each(Object.keys(operations))('that abort at any point of %s', (name) => {
    test.each(['sends', 'gets'] as const)('(as it %s a packet) end it and leave nothing at the server', async (when) => {
      let points = 0;
      for (let point = 1; ; point += 1) {
        const { client, link } = store();
        const dom0 = client();
        await makeHome(dom0);
        const names = Array.from({ length: 120 }, (_, i) => `${'long-'.repeat(10)}${i}`);
        await dom0.mkdir('/long');
        await dom0.setPerms('/long', [{ domid: 0, read: true, write: false }]);
        await Promise.all(names.map((child) => dom0.mkdir(`/long/${child}`)));
        await dom0.write('/local/domain/5/data', '1');

        const stopping = new AbortController();
        points = 0;
        const { transport } = tapped(link(5), {
          [when]: () => {
            points += 1;
            if (points === point) stopping.abort(new Error('enough'));
          },
        });
        const xs = xsClient(transport);
        const end = await failure(operations[name]?.(xs, stopping.signal) ?? Promise.resolve());
        await settled();
        expect([point, await heldFor5(dom0)]).toEqual([point, nothingHeld]);
        expect(getEventListeners(stopping.signal, 'abort')).toEqual([]);
        if (!stopping.signal.aborted) {
          expect(end).toBe('no failure');
          break;
        }
        expect([point, String(end)]).toEqual([point, expect.stringMatching(/^Error: enough$|^no failure$/)]);
        expect(await xs.read('data')).toMatch(/^[12]$/);
        xs.close();
      }
      expect(points).toBeGreaterThan(0);
    });
  });

  test('are no trouble to a body that returns no promise', async () => {
    const { signal } = new AbortController();
    const body = (() => 'at once') as unknown as (tx: XsTransaction) => Promise<string>;
    expect(await store().client().transaction(body, { signal })).toBe('at once');
  });

  test('that abort a transaction need no server that answers', async () => {
    const stopping = new AbortController();
    const sent: number[] = [];
    let receive: ((packet: XsPacket) => void) | undefined;
    const xs = xsClient({
      send: ({ type, reqId, txId }) => {
        sent.push(type);
        if (type === XsType.TransactionStart) receive?.({ type, reqId, txId, payload: '1\0' });
      },
      receive: ({ packet }) => {
        receive = packet;
      },
      close: () => undefined,
    });
    const end = failure(xs.transaction((tx) => tx.write('/a', '1'), { signal: stopping.signal }));
    await settled();
    stopping.abort(new Error('enough'));
    expect(String(await end)).toBe('Error: enough');
    expect(sent).toEqual([XsType.TransactionStart, XsType.Write, XsType.TransactionEnd]);
  });

  test('that abort a reset do not keep its loops waiting', async () => {
    const xs = store().client();
    const events = xs.watch('/a');
    await events.next();
    const stopping = new AbortController();
    const reset = failure(xs.resetWatches({ signal: stopping.signal }));
    stopping.abort(new Error('enough'));
    expect(String(await reset)).toBe('Error: enough');
    expect(await events.next()).toEqual({ done: true, value: undefined });
  });

  test('that abort a commit say nothing of whether it came to be', async () => {
    const { client, link } = store();
    const stopping = new AbortController();
    const { transport } = tapped(link(), {
      sends: ({ type }) => type === XsType.TransactionEnd && stopping.abort(new Error('enough')),
    });
    const xs = xsClient(transport);
    const end = failure(xs.transaction((tx) => tx.write('/a', '1'), { signal: stopping.signal }));
    expect(String(await end)).toBe('Error: enough');
    await settled();
    expect(await client().read('/a')).toBe('1');
  });
});

describe('a client that was closed', () => {
  test('has sent what it was asked to send, also to a store in the same process', async () => {
    const { loop, client } = store();
    const [xs, other] = [client(), client()];
    void xs.write('/k', 'v').catch(() => undefined);
    xs.close();
    await settled();
    expect([await other.read('/k'), loop.connections]).toEqual(['v', 1]);
  });

  test('refuses everything, and closing it again does nothing', async () => {
    const xs = store().client();
    xs.close();
    xs.close();
    await xs[Symbol.asyncDispose]();
    const errors = await Promise.all(
      [
        xs.read('/a'),
        xs.write('/a', '1'),
        xs.transaction(async () => 'never'),
        xs.watch('/a', () => undefined),
        xs.watch('/a').next(),
        xs.waitFor('/a', () => true),
      ].map(failure),
    );
    expect(errors.map((error) => error instanceof ConnectionClosed)).toEqual(errors.map(() => true));
    expect(await xs.ended).toBeUndefined();
  });
});

describe('a server that does not speak the protocol', () => {
  const odd: [string, (request: XsPacket) => Partial<XsPacket>, RegExp][] = [
    ['answers a READ by a WRITE', () => ({ type: XsType.Write }), /a READ was answered by a WRITE/],
    ['answers what nobody asked', ({ reqId }) => ({ reqId: reqId + 7 }), /request 8, which nobody made, was answered/],
    [
      'sends an event without a token',
      () => ({ type: XsType.WatchEvent, payload: '/a\0' }),
      /a watch event has no path and token/,
    ],
  ];
  test.each(odd)('and %s is left, and everything that was open fails', async (_, answer, message) => {
    let isClosed = false;
    const xs = xsClient(
      scripted(answer, () => {
        isClosed = true;
      }),
    );
    const error = await failure(xs.read('/a'));
    expect(error).toBeInstanceOf(ConnectionEnded);
    expect(String(error)).toMatch(message);
    expect([await xs.ended, await failure(xs.read('/b')), isClosed]).toEqual([error, error, true]);
  });

  test.each(['0', '', '-1', 'x', '99999999999'])('and has no transaction but %j fails that and no more', async (id) => {
    const xs = xsClient(
      scripted(({ type }) => (type === XsType.TransactionStart ? { payload: joinStrings(id) } : { payload: 'v' })),
    );
    let ran = false;
    const error = await failure(
      xs.transaction(async () => {
        ran = true;
      }),
    );
    expect(String(error)).toMatch(/answer to TRANSACTION_START makes no sense/);
    expect([ran, await xs.read('/a')]).toEqual([false, 'v']);
  });

  test('and has strange permissions and errnos is told so', async () => {
    const xs = xsClient(
      scripted(({ type }) =>
        type === XsType.GetPerms ? { payload: joinStrings('q7') } : { type: XsType.Error, payload: 'EWHAT\0' },
      ),
    );
    expect(String(await failure(xs.getPerms('/a')))).toMatch(/answer to GET_PERMS \/a makes no sense: "q7"/);
    expect(await failure(xs.read('/a'))).toMatchObject({ errno: 'EINVAL' });
  });
});

describe('bytes in pieces', () => {
  const packets = ['/a', '/b/c', ''].map((path, i): XsPacket => ({ type: 2, reqId: i, txId: 0, payload: joinStrings(path) }));
  const bytes = Buffer.concat(packets.map((packet) => encode(packet)));

  test.each([1, 2, 15, 17, 1000])('of %i give the same packets', (size) => {
    const reader = new PacketReader();
    const read: XsPacket[] = [];
    for (let at = 0; at < bytes.length; at += size) read.push(...reader.read(bytes.subarray(at, at + size)).packets);
    expect(read).toEqual(packets);
  });

  test('that announce too long a payload end it, behind what came before', () => {
    const long = encode({ type: 2, reqId: 9, txId: 0, payload: 'x'.repeat(4097) }).subarray(0, 16);
    const { packets: read, bad } = new PacketReader().read(Buffer.concat([bytes, long]));
    expect([read.length, bad]).toEqual([3, 'payload of 4097 bytes is over 4096']);
  });
});
