/** Who runs which callback, in which order, and what unregistering waits for: both designs of dispatch. */
import { SimClock } from '../../../src/xenbus/clock.js';
import { Kernel } from '../../../src/xenbus/kernel/kernel.js';
import { controlDomid, HardenedDispatch, mtwatchDomid } from '../../../src/xenbus/kernel/mtwatch.js';
import { bug, Sched, type Task, waitEvent, waitQueue } from '../../../src/xenbus/kernel/sched.js';
import { type Dispatch, SingleDispatch, Watches, watchEventsMax, type XenbusWatch } from '../../../src/xenbus/kernel/xenwatch.js';
import { joinStrings, type XsPacket, XsType } from '../../../src/xenbus/xs-wire.js';

/** A kernel whose store says OK to everything; `fire` is an event of a watch. What `failing` names cannot be had. */
function machine(design: 'single' | 'hardened', failing: ReadonlySet<string> = new Set()) {
  const trouble: string[] = [];
  const printed: string[] = [];
  /** Who goes on only when nobody else can. */
  const last = new Set<string>();
  const sched = new Sched({
    wake: () => {},
    choose: (ready) =>
      Math.max(
        0,
        ready.findIndex(({ name }) => !last.has(name)),
      ),
    trouble: (task, what, error) => trouble.push(`${task.name}: ${what}: ${error}`),
  });
  const clock = new SimClock();
  const kernel = new Kernel({
    domid: 0,
    who: 'dom0-kernel',
    sched,
    clock,
    printk: (text) => printed.push(text),
    fails: (what) => failing.has(what),
  });
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
  return { kernel, sched, clock, dispatch, watches, run, fire, task, last, trouble, printed };
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

describe('a thread of the hardened design that dies of a bug in a callback', () => {
  /** Paths that end in `bug` are fatal. */
  function dying(failing?: ReadonlySet<string>) {
    const m = machine('hardened', failing);
    const ran: string[] = [];
    const callback = function* (path: string): Task {
      ran.push(path);
      yield undefined;
      if (path.endsWith('bug')) yield* bug(`at ${path}`);
      ran.push(`${path} done`);
    };
    const watch = m.task(() => m.watches.register({ node: 'backend', name: 'backend_changed', domidOf, callback }));
    const threads = () => m.dispatch.threads().map(({ task, pending }) => `${task.name} ${pending}`);
    return { ...m, ran, watch, threads };
  }

  test.each([
    ['a domain', 7, 'xen-mtwatch-7'],
    ['dom0', 0, 'xenwatch'],
  ])('of %s: what waits behind it is run by another one', (_whose, domid, name) => {
    const { watch, fire, run, ran, trouble, printed } = dying();
    for (const what of ['bug', 'a', 'b']) fire(watch, `${domid}/${what}`);
    run();
    fire(watch, `${domid}/later`);
    run();
    expect({ ran, trouble, printed }).toEqual({
      ran: [`${domid}/bug`, ...['a', 'b', 'later'].flatMap((what) => [`${domid}/${what}`, `${domid}/${what} done`])],
      trouble: [`${name}: oops: at ${domid}/bug`],
      printed: [`xenbus: ${name} died in backend_changed of ${domid}/bug, another thread goes on`],
    });
  });

  test('leaves nothing behind when nothing waits and its domain has no node', () => {
    const { watch, fire, run, dispatch, threads } = dying();
    fire(watch, '7/bug');
    run();
    expect({ threads: threads(), busy: dispatch.busy(7) }).toEqual({ threads: ['xenwatch 0'], busy: false });
  });

  test('is no callback that unregistering waits for', () => {
    const { watch, watches, fire, run, task } = dying();
    fire(watch, '7/bug');
    run();
    let gone = false;
    task(function* () {
      yield* watches.unregister(watch);
      gone = true;
    });
    expect(gone).toBe(true);
  });

  test('is replaced once there is memory, though its node goes meanwhile', () => {
    const failing = new Set<string>();
    const { watch, fire, run, ran, dispatch, threads, clock } = dying(failing);
    (dispatch as HardenedDispatch).setNode(7, true);
    fire(watch, '7/bug');
    fire(watch, '7/a');
    while (ran.length === 0) run();
    expect(threads()).toEqual(['xenwatch 0', 'xen-mtwatch-7 0']);
    failing.add('kthread_run xen-mtwatch-7');
    fire(watch, '7/bug');
    fire(watch, '7/b');
    run();
    (dispatch as HardenedDispatch).setNode(7, false);
    expect({ threads: threads(), busy: dispatch.busy(7) }).toEqual({ threads: ['xenwatch 0'], busy: true });
    failing.clear();
    clock.jump();
    run();
    expect({ ran: ran.slice(-2), threads: threads(), busy: dispatch.busy(7) }).toEqual({
      ran: ['7/b', '7/b done'],
      threads: ['xenwatch 0'],
      busy: false,
    });
  });
});

test('a domain whose thread cannot be started keeps no other one waiting', () => {
  const failing = new Set(['kthread_run xen-mtwatch-7']);
  const m = machine('hardened', failing);
  const ran: string[] = [];
  const watch = m.task(() =>
    m.watches.register({
      node: 'backend',
      name: 'backend_changed',
      domidOf,
      // biome-ignore lint/correctness/useYield: it has nothing to wait for.
      callback: function* (path) {
        ran.push(path);
      },
    }),
  );
  for (const path of ['7/a', '8/b']) m.fire(watch, path);
  m.run();
  m.clock.jump();
  m.run();
  expect(ran).toEqual(['8/b']);
  failing.clear();
  m.clock.jump();
  m.run();
  expect(ran).toEqual(['8/b', '7/a']);
});

test('announcements without end keep no domain without a thread', () => {
  const { dispatch, watches, fire, run, sched, task, last } = machine('hardened');
  const ran: string[] = [];
  const again: XenbusWatch = task(() =>
    watches.register({
      node: 'mtwatch',
      name: 'mtwatch_changed',
      domidOf: () => controlDomid,
      // biome-ignore lint/correctness/useYield: each time somebody writes the node twice.
      callback: function* (path) {
        fire(again, path);
        fire(again, path);
      },
    }),
  );
  const watch = task(() =>
    watches.register({
      node: 'backend',
      name: 'backend_changed',
      domidOf,
      // biome-ignore lint/correctness/useYield: it has nothing to wait for.
      callback: function* (path) {
        ran.push(path);
      },
    }),
  );
  run();
  // The ring is read first, so that one announcement or more are there whenever the thread looks.
  last.add('mtwatch');
  fire(again, 'mtwatch/9');
  fire(watch, '7/a');
  for (let steps = 0; steps < 1000; steps++) sched.step();
  expect({ ran, threads: dispatch.threads().map(({ task }) => task.name) }).toEqual({ ran: ['7/a'], threads: ['xenwatch'] });
});

test('an event that is handed on while its watch is unregistered never runs', () => {
  const { kernel, sched, watches, fire, run, task, last } = machine('hardened');
  const ran: string[] = [];
  const watch: XenbusWatch = task(() =>
    watches.register({
      node: 'device',
      name: 'frontend_changed',
      callback: function* (path, token) {
        ran.push(`${path}, watch gone: ${watch.gone}`);
        if (kernel.self.serves === 3) return;
        last.add('xenwatch');
        yield* watches.handOn(3, path, token);
      },
    }),
  );
  fire(watch, 'device/vif/0');
  while (!last.has('xenwatch')) sched.step();
  // xenwatch is about to take the lock, and others come first.
  kernel.spawn('rmmod', 'delete_module', () => watches.unregister(watch));
  run();
  expect({ ran, gone: watch.gone }).toEqual({ ran: ['device/vif/0, watch gone: false'], gone: true });
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
