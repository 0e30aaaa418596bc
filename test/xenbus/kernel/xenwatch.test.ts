/** Who runs which callback, in which order, and what unregistering waits for: both designs of dispatch. */
import { SimClock } from '../../../src/xenbus/clock.js';
import { Kernel } from '../../../src/xenbus/kernel/kernel.js';
import { HardenedDispatch, mtwatchDomid } from '../../../src/xenbus/kernel/mtwatch.js';
import { Sched, type Task, waitEvent, waitQueue } from '../../../src/xenbus/kernel/sched.js';
import { type Dispatch, SingleDispatch, Watches, watchEventsMax, type XenbusWatch } from '../../../src/xenbus/kernel/xenwatch.js';
import { joinStrings, type XsPacket, XsType } from '../../../src/xenbus/xs-wire.js';

/** A kernel whose store says OK to everything; `fire` is an event of a watch. */
function machine(design: 'single' | 'hardened') {
  const trouble: string[] = [];
  const printed: string[] = [];
  const sched = new Sched({ wake: () => {}, trouble: (task, what, error) => trouble.push(`${task.name}: ${what}: ${error}`) });
  const kernel = new Kernel({ domid: 0, who: 'dom0-kernel', sched, clock: new SimClock(), printk: (text) => printed.push(text) });
  const deliver: ((packet: XsPacket) => void)[] = [];
  kernel.connect({
    connect: (peer) => {
      deliver.push((packet) => peer.deliver(packet));
      return {
        push: ({ type, reqId, txId }) => {
          peer.deliver({ type, reqId, txId, payload: joinStrings('OK') });
          return true;
        },
        resume: () => {},
        end: () => {},
        close: () => {},
      };
    },
  });
  const dispatch: Dispatch = design === 'single' ? new SingleDispatch(kernel) : new HardenedDispatch(kernel);
  const watches = new Watches(kernel, dispatch);
  const run = () => {
    while (sched.step());
  };
  const fire = (watch: XenbusWatch, path: string) => {
    const event = { type: XsType.WatchEvent, reqId: 0, txId: 0, payload: joinStrings(path, watch.token) };
    for (const one of deliver) one(event);
  };
  /** Runs `body` as a task and gives what it returned. */
  const task = <T>(body: () => Task<T>): T => {
    let result: T | undefined;
    kernel.spawn('test', 'test', function* () {
      result = yield* body();
    });
    run();
    return result as T;
  };
  return { kernel, sched, dispatch, watches, run, fire, task, trouble, printed };
}

const domidOf = (path: string) => Number(/\d+/.exec(path)?.[0] ?? 0);

/** A watch whose callback writes down what it sees, and hangs on paths that end in `hang` until `release`. */
function recording(design: 'single' | 'hardened', guestWritable = false) {
  const m = machine(design);
  const ran: string[] = [];
  const held = waitQueue('a hold');
  let released = false;
  const watch = m.task(() =>
    m.watches.register({
      node: 'backend',
      name: 'backend_changed',
      domidOf,
      guestWritable,
      callback: function* (path) {
        ran.push(path);
        yield undefined;
        if (path.endsWith('hang')) yield* waitEvent(held, () => released, 'D');
        ran.push(`${path} done`);
      },
    }),
  );
  const release = () => {
    released = true;
    m.sched.wakeAll(held);
    m.run();
  };
  return { ...m, watch, ran, release };
}

describe.each(['single', 'hardened'] as const)('%s', (design) => {
  test('callbacks of one domain run one at a time, in the order of their events', () => {
    const { watch, fire, run, ran } = recording(design);
    for (let n = 0; n < 20; n++) fire(watch, `7/${n}`);
    run();
    expect(ran).toEqual(Array.from({ length: 20 }, (_, n) => [`7/${n}`, `7/${n} done`]).flat());
  });

  test('a node that a guest can write has one event waiting and one running, however often it is written', () => {
    const { watch, fire, run, ran, release, dispatch } = recording(design, true);
    fire(watch, '7/hang');
    run();
    for (let n = 0; n < 100; n++) fire(watch, `7/${n}`);
    run();
    expect(
      dispatch
        .threads()
        .map(({ pending }) => pending)
        .reduce((sum, n) => sum + n),
    ).toBe(1);
    release();
    expect(ran).toEqual(['7/hang', '7/hang done', '7/0', '7/0 done']);
  });

  test('once unregistered, no event of a watch runs, neither one that waited nor one that comes', () => {
    const { watch, watches, fire, run, ran, release, task } = recording(design);
    fire(watch, '7/hang');
    fire(watch, '7/waits');
    run();
    let gone = false;
    task(function* () {
      yield* watches.unregister(watch);
      gone = true;
    });
    expect(gone).toBe(false);
    release();
    expect(gone).toBe(true);
    fire(watch, '7/late');
    run();
    expect(ran).toEqual(['7/hang', '7/hang done']);
  });

  test('a callback may unregister its own watch', () => {
    const m = machine(design);
    const ran: string[] = [];
    const watch: XenbusWatch = m.task(() =>
      m.watches.register({
        node: 'once',
        name: 'once',
        domidOf,
        callback: function* (path) {
          ran.push(path);
          yield* m.watches.unregister(watch);
        },
      }),
    );
    m.fire(watch, '7/a');
    m.fire(watch, '7/b');
    m.run();
    expect({ ran, trouble: m.trouble }).toEqual({ ran: ['7/a'], trouble: [] });
  });

  test('unregistering twice is a bug, and is reported as one', () => {
    const { watch, watches, task, trouble } = recording(design);
    task(() => watches.unregister(watch));
    task(() => watches.unregister(watch));
    expect(trouble).toEqual(['test: oops: kernel BUG at drivers/xen/xenbus/xenbus_xs.c:1180!']);
  });

  test('the queue of a thread is bounded; what is over is dropped, and said', () => {
    const { watch, fire, run, dispatch, printed } = recording(design);
    fire(watch, '7/hang');
    run();
    for (let n = 0; n < watchEventsMax + 5; n++) fire(watch, '7/x');
    run();
    expect(Math.max(...dispatch.threads().map(({ pending }) => pending))).toBe(watchEventsMax);
    expect(printed).toHaveLength(5);
    expect(printed[0]).toContain('dropped');
  });
});

test('with one thread, a callback that hangs stops those of every domain', () => {
  const { watch, fire, run, ran, release } = recording('single');
  fire(watch, '7/hang');
  fire(watch, '8/x');
  run();
  expect(ran).toEqual(['7/hang']);
  release();
  expect(ran).toEqual(['7/hang', '7/hang done', '8/x', '8/x done']);
});

test('with one thread a domain, it stops those of its own domain alone', () => {
  const { watch, fire, run, ran } = recording('hardened');
  fire(watch, '7/hang');
  fire(watch, '7/behind');
  fire(watch, '8/x');
  run();
  expect(ran).toEqual(['7/hang', '8/x', '8/x done']);
});

test('unregistering with one thread waits for any callback; with one a domain, for its own watch alone', () => {
  for (const [design, waits] of [
    ['single', true],
    ['hardened', false],
  ] as const) {
    const { watch, watches, fire, run, task } = recording(design);
    const other = task(() => watches.register({ node: 'other', name: 'other', domidOf, callback: function* () {} }));
    fire(watch, '7/hang');
    run();
    let gone = false;
    task(function* () {
      yield* watches.unregister(other);
      gone = true;
    });
    expect(gone).toBe(!waits);
  }
});

test("a domain's thread comes with its first event, leaves when it is idle, and stays while its node is there", () => {
  const { watch, fire, run, dispatch } = recording('hardened');
  const hardened = dispatch as HardenedDispatch;
  const threads = () => dispatch.threads().map(({ task }) => task.name);
  fire(watch, '7/hang');
  run();
  hardened.setNode(7, true);
  expect(threads()).toEqual(['xenwatch', 'xen-mtwatch-7']);
  hardened.setNode(7, false);
  expect({ threads: threads(), busy: dispatch.busy(7) }).toEqual({ threads: ['xenwatch', 'xen-mtwatch-7'], busy: true });
  fire(watch, '8/x');
  run();
  expect(threads()).toEqual(['xenwatch', 'xen-mtwatch-7']);
});

test.each([
  ['mtwatch/7', 7],
  ['mtwatch/32751', 32751],
  ['mtwatch', 0],
  ['mtwatch/7/x', 0],
  ['mtwatch/07', 0],
  ['mtwatch/32752', 0],
  ['mtwatch/7abc', 0],
  ['mtwatch/', 0],
])('%s announces domain %i', (path, domid) => {
  expect(mtwatchDomid(path)).toBe(domid);
});
