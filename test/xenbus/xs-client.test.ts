import { StoreLoop } from '../../src/xenbus/store-loop.js';
import { linkTransport, PacketReader, type XsTransport } from '../../src/xenbus/transport.js';
import {
  abort,
  byteString,
  directoryTriesMax,
  textOf,
  transactionTriesMax,
  type Xs,
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
  const client = (): Xs => xsClient(linkTransport(loop, { domid: 0, who: 'client' }));
  return { loop, client };
}

/** A server that answers by the function given, at once. */
function scripted(answer: (request: XsPacket) => Partial<XsPacket>): XsTransport {
  let receive: ((packet: XsPacket) => void) | undefined;
  return {
    send: (request) => receive?.({ ...request, ...answer(request) }),
    receive: (handlers) => {
      receive = handlers.packet;
    },
    close: () => undefined,
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
    await xs.release(5);
    expect(await xs.isDomainIntroduced(5)).toBe(false);
  });

  test('are sent at once and answered in order, however many', async () => {
    const xs = store().client();
    await Promise.all(Array.from({ length: 500 }, (_, i) => xs.write(`/n/${i}`, String(i))));
    const values = await Promise.all(Array.from({ length: 500 }, (_, i) => xs.read(`/n/${i}`)));
    expect(values).toEqual(Array.from({ length: 500 }, (_, i) => String(i)));
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

  test('fail with the errno of the server and the name of the request', async () => {
    const xs = store().client();
    const error = await failure(xs.read('/a//b'));
    expect(error).toBeInstanceOf(XsError);
    expect(String(error)).toBe('XsError: EINVAL: READ');
  });

  test('of a NUL within a path, or over one payload, are refused before they are sent', async () => {
    const xs = store().client();
    expect(String(await failure(xs.write('/a\0b', 'v')))).toMatch(/EINVAL/);
    expect(String(await failure(xs.write('/a', 'v'.repeat(4096))))).toMatch(/E2BIG/);
    expect(await xs.read('/a')).toBeUndefined();
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
    expect(String(await failure(xs.watch('/b', () => undefined, 'a token')))).toMatch(/another watch/);
  });

  test('that the server refuses leave their token free', async () => {
    const xs = store().client();
    expect(String(await failure(xs.watch('/a/', () => undefined, 't')))).toMatch(/EINVAL/);
    expect((await xs.watch('/a', () => undefined, 't')).token).toBe('t');
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
