import { asLibxlError, beginWait, multidev, runAo, transact, waitForState } from '../../src/libxl/ao.js';
import { LibxlError, Rc } from '../../src/libxl/ctx.js';
import { PrivcmdError } from '../../src/xenbus/privcmd.js';
import { XenbusState } from '../../src/xenbus/xenbus.js';
import { XsError } from '../../src/xenbus/xs-wire.js';
import { type Machine, machine } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine();
});
afterEach(() => m.dom0.close());

const state = '/local/domain/0/backend/vbd/9/51712/state';
const wait = (ms = 10_000) => waitForState(m.ctx, state, XenbusState.InitWait, ms);
const watchOps = () => m.trace.filter(({ who, op }) => who === 'xl' && /^(UN)?WATCH$/.test(op)).map(({ op }) => op);

describe('waiting for a state', () => {
  test('is over at once when the node has it', async () => {
    await m.run(m.ctx.xs.write(state, '2'));
    await m.run(wait());
    expect({ now: m.clock.now(), ops: watchOps() }).toEqual({ now: 0, ops: ['WATCH', 'UNWATCH'] });
  });

  test('goes on through other states', async () => {
    await m.run(m.ctx.xs.write(state, '1'));
    const waiting = wait();
    m.clock.after(300, () => void m.ctx.xs.write(state, '1'));
    m.clock.after(700, () => void m.ctx.xs.write(state, '2'));
    await m.run(waiting);
    expect(m.clock.now()).toBe(700);
  });

  test('fails with INVAL when the node vanishes', async () => {
    await m.run(m.ctx.xs.write(state, '1'));
    m.clock.after(100, () => void m.ctx.xs.rm(state));
    await expect(m.run(wait())).rejects.toMatchObject({ rc: Rc.INVAL });
    expect(watchOps()).toEqual(['WATCH', 'UNWATCH']);
  });

  test('fails with TIMEDOUT at its deadline, and takes its watch away', async () => {
    await m.run(m.ctx.xs.write(state, '1'));
    await expect(m.run(wait())).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect({ now: m.clock.now(), ops: watchOps() }).toEqual({ now: 10_000, ops: ['WATCH', 'UNWATCH'] });
  });

  test('has its deadline scaled', async () => {
    await m.run(m.ctx.xs.write(state, '1'));
    const scaled = waitForState({ ...m.ctx, timeoutScale: 0.05 }, state, XenbusState.InitWait, 10_000);
    await expect(m.run(scaled)).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect(m.clock.now()).toBe(500);
  });

  test('counts its time from its beginning, not from when it is awaited', async () => {
    await m.run(m.ctx.xs.write(state, '1'));
    const rest = await m.run(beginWait(m.ctx, state, 1_000, (value) => value === '2'));
    m.clock.advance(1_500);
    await expect(m.run(rest())).rejects.toMatchObject({ rc: Rc.TIMEDOUT });
    expect(m.clock.now()).toBe(1_500);
  });
});

describe('several devices', () => {
  const ran: string[] = [];
  const device = (name: string, ms: number, rc?: Rc) => async () => {
    ran.push(`start ${name}`);
    return async () => {
      await m.clock.sleep(ms);
      ran.push(`end ${name}`);
      if (rc !== undefined) throw new LibxlError(rc, name);
    };
  };
  beforeEach(() => {
    ran.length = 0;
  });

  test('start in order and wait side by side', async () => {
    await m.run(multidev([device('a', 30), device('b', 10), device('c', 20)]));
    expect({ ran, now: m.clock.now() }).toEqual({
      ran: ['start a', 'start b', 'start c', 'end b', 'end c', 'end a'],
      now: 30,
    });
  });

  test('are all awaited, and the error is that of the last in the list', async () => {
    const devices = [device('a', 30, Rc.TIMEDOUT), device('b', 10, Rc.FAIL), device('c', 20)];
    await expect(m.run(multidev(devices))).rejects.toMatchObject({ rc: Rc.FAIL, message: 'b' });
    expect(m.clock.now()).toBe(30);
  });

  test('go on when one cannot start', async () => {
    const refused = () => Promise.reject(new LibxlError(Rc.DEVICE_EXISTS, 'there'));
    await expect(m.run(multidev([refused, device('b', 10)]))).rejects.toMatchObject({ rc: Rc.DEVICE_EXISTS });
    expect(ran).toEqual(['start b', 'end b']);
  });

  test('do not hide a bug behind a failure', async () => {
    const bug = () => Promise.reject(new TypeError('not a function'));
    await expect(m.run(multidev([bug, device('b', 10, Rc.FAIL)]))).rejects.toThrow(TypeError);
    expect(ran).toEqual(['start b', 'end b']);
  });
});

test('steps run in order until one fails', async () => {
  const ran: string[] = [];
  const step = (name: string, error?: Error) => ({
    name,
    run: async () => {
      ran.push(name);
      if (error) throw error;
    },
  });
  const work = runAo(m.ctx, [step('a'), step('b', new XsError('ENOSPC')), step('c')], {});
  await expect(work).rejects.toMatchObject({ rc: Rc.FAIL, message: 'b: ENOSPC', cause: { errno: 'ENOSPC' } });
  expect(ran).toEqual(['a', 'b']);
});

test('a refusal of the store or of the hypervisor is a failed operation; anything else is a bug', () => {
  const failed = [new XsError('EACCES'), new PrivcmdError('ESRCH', 'no domain 7'), new LibxlError(Rc.INVAL, 'no')];
  expect(failed.map((error) => asLibxlError(error, 'this')?.rc)).toEqual([Rc.FAIL, Rc.FAIL, Rc.INVAL]);
  expect(asLibxlError(new Error('oops'), 'this')).toBeUndefined();
});

test('transactions of one process do not overlap', async () => {
  const twice = ['a', 'b'].map((name) =>
    transact(m.ctx, async (tx) => {
      const value = (await tx.read('/libxl')) ?? '';
      await tx.write('/libxl', `${value}${name}`);
    }),
  );
  const before = m.trace.length;
  await m.run(Promise.all(twice));
  const starts = m.trace.slice(before).filter(({ op }) => op === 'TRANSACTION_START');
  expect({ value: await m.run(m.ctx.xs.read('/libxl')), starts: starts.length }).toEqual({ value: 'ab', starts: 2 });
});

test('whoever writes the awaited node again and again does not prolong the wait', async () => {
  const path = '/tool/awaited';
  await m.run(m.ctx.xs.write(path, '0'));
  // The machine never settles while the writer writes: turns are counted.
  const turns = async () => {
    for (let turn = 0; turn < 100; turn++) await m.clock.turn();
  };
  const writer = m.connect('client');
  let writes = 0;
  let open = true;
  void writer.watch(path, () => void (open && writer.write(path, String(++writes))));
  let ended: unknown;
  void beginWait(m.ctx, path, 1_000, (value) => value === 'never')
    .then((rest) => rest())
    .catch((error: unknown) => {
      ended = error;
    });
  await turns();
  m.clock.advance(1_000);
  await turns();
  const whileWriting = ended;
  open = false;
  await m.settle();
  expect(whileWriting).toMatchObject({ rc: Rc.TIMEDOUT });
  expect(writes).toBeGreaterThan(10);
});
