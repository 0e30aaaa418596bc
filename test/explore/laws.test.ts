/** Laws that no design breaks in any scenario, or few: each is broken here by hand, and is kept by what is next to it. */
import { Laws } from '../../src/explore/laws.js';
import { DirectStore } from '../../src/explore/store.js';
import { SimClock } from '../../src/xenbus/clock.js';
import { Kernel } from '../../src/xenbus/kernel/kernel.js';
import { HardenedDispatch } from '../../src/xenbus/kernel/mtwatch.js';
import { KTask, Sched, type Task } from '../../src/xenbus/kernel/sched.js';
import type { WatchEvent, XenbusWatch } from '../../src/xenbus/kernel/xenwatch.js';

/** A kernel that does what a test says, its laws, and what was there before. */
function watched(nodes: Readonly<Record<string, string>> = {}, dying: readonly number[] = []) {
  const store = new DirectStore(() => undefined);
  const dirs = ['/local', '/local/domain', '/local/domain/0', '/local/domain/0/backend', '/local/domain/0/mtwatch'];
  for (const [path, value] of [...dirs.map((dir) => [dir, ''] as const), ...Object.entries(nodes)]) store.seed(path, value);
  const sched = new Sched({ wake: () => {}, trouble: () => {} });
  const kernel = new Kernel({ domid: 0, who: 'dom0-kernel', sched, clock: new SimClock(), printk: () => {} });
  const dispatch = new HardenedDispatch(kernel);
  const actors: { readonly lane: string; readonly task: KTask }[] = [];
  const laws = new Laws({
    design: 'hardened',
    tasks: () => sched.tasks,
    step: () => 0,
    store,
    faults: () => [],
    dying: () => dying,
    actors: () => actors,
    dispatch: () => dispatch,
    note: () => {},
    noting: false,
    current: () => undefined,
  });
  store.onState = (written) => laws.stateWritten(written);
  kernel.connect(store);
  const run = (body: () => Task) => {
    kernel.spawn('test', 'test', body);
    while (sched.step());
  };
  const broken = () => laws.violations.map(({ hazard, text }) => `${hazard}: ${text}`);
  return { laws, kernel, sched, actors, run, broken };
}

const vbd = '/local/domain/0/backend/vbd';
const device = {
  [vbd]: '',
  [`${vbd}/7`]: '',
  [`${vbd}/7/51712`]: '',
  [`${vbd}/7/51712/state`]: '1',
};

describe('what a driver writes as its state', () => {
  test.each([
    ['2 4 5 6 2 4', []],
    ['2 5 4 6', []],
    ['2 4 2', ['STATE: /local/domain/0/backend/vbd/7/51712/state goes from 4 to 2']],
    ['4', ['STATE: /local/domain/0/backend/vbd/7/51712/state goes from 1 to 4']],
    ['2 3', ['STATE: /local/domain/0/backend/vbd/7/51712/state goes from 2 to 3']],
  ])('%s', (states, expected) => {
    for (const inTransaction of [false, true]) {
      const { kernel, run, broken } = watched(device);
      run(function* () {
        const path = 'backend/vbd/7/51712/state';
        for (const state of states.split(' ')) {
          if (!inTransaction) yield* kernel.write(path, state);
          else {
            yield* kernel.transaction(function* (txId) {
              yield* kernel.write(path, state, txId);
              return true;
            });
          }
        }
      });
      expect(broken()).toEqual(expected);
    }
  });

  test('follows from what it wrote itself, not from what the toolstack made of a new device', () => {
    const { kernel, run, broken } = watched({ ...device, [`${vbd}/7/51712/state`]: '5' });
    run(function* () {
      yield* kernel.write('backend/vbd/7/51712/state', '2');
    });
    expect(broken()).toEqual([]);
  });

  test('in a transaction that is given up, is nothing', () => {
    const { kernel, run, broken } = watched(device);
    run(
      () =>
        kernel.transaction(function* (txId) {
          yield* kernel.write('backend/vbd/7/51712/state', '4', txId);
          return false;
        }) as unknown as Task,
    );
    expect(broken()).toEqual([]);
  });

  test('after its device is gone, brings it back', () => {
    const { kernel, run, broken } = watched(device);
    run(function* () {
      yield* kernel.rm('backend/vbd/7');
      yield* kernel.write('backend/vbd/7/51712/state', '6');
    });
    expect(broken()).toEqual(['GHOST: /local/domain/0/backend/vbd/7/51712/state was gone, and is 6']);
  });
});

test('a domain that is dying in the end is held up by its devices, or by nothing', () => {
  for (const [nodes, expected] of [
    [device, []],
    [{ [vbd]: '', [`${vbd}/7`]: '' }, ['ZOMBIE: domain 7 is dying still']],
  ] as const) {
    const { laws, broken } = watched(nodes, [7]);
    laws.healed();
    expect(broken()).toEqual(expected);
  }
});

test('who began comes to an end', () => {
  const { laws, actors, broken } = watched();
  actors.push({ lane: 'T', task: new KTask(1, 'T', { domid: 0, frozen: false, ready: 0 }) });
  laws.healed();
  expect(broken()).toEqual(['STUCK: T: nothing in ']);
});

test('a domain is forgotten with an empty queue', () => {
  const { laws, broken } = watched();
  const task = new KTask(1, 'xen-mtwatch-7', { domid: 0, frozen: false, ready: 0 });
  task.lane = 'D7';
  laws.unhashed(task, 7, 0);
  expect(broken()).toEqual([]);
  laws.unhashed(task, 7, 2);
  expect(broken()).toEqual(['O4: D7 forgets domain 7, 2 events wait']);
});

test('when nobody can go on, an event waits for a callback of its own domain', () => {
  const { laws, broken } = watched();
  const watch = { name: 'backend_changed', node: 'backend', domidOf: (path: string) => Number(path) } as XenbusWatch;
  const event = (path: string, seq: number): WatchEvent => ({ watch, path, token: '', seq });
  const [first, second, other] = [event('7', 0), event('7', 1), event('8', 2)];
  const task = new KTask(1, 'xen-mtwatch-7', { domid: 0, frozen: false, ready: 0 });
  for (const each of [first, second]) laws.queued(each);
  laws.began(task, first);
  laws.nobodyGoesOn();
  expect(broken()).toEqual([]);
  laws.queued(other);
  laws.nobodyGoesOn();
  expect(broken()).toEqual(['E6: #2 8 waits, and no callback of domain 8 runs']);
});
