/**
 * The announcement: for every observer of the store, whenever `/local/domain/N` is there, `mtwatch/N` is. On the way up
 * it comes first, on the way down it goes last, and a creation that fails takes it back.
 */
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { type Machine, type MachineOptions, machine, pvConfig } from '../machine.js';

let m: Machine;
afterEach(() => m.dom0.close());

/** What `xenstore-watch /` shows of domain `domid` while `work` runs: `mtwatch` for its node, `home` for all else of it. */
async function observed(domid: number, options: MachineOptions, work: () => Promise<unknown>): Promise<string[]> {
  m = await machine(options);
  const seen: string[] = [];
  const observer = m.connect('client');
  await m.run(observer.watch('/', (path) => seen.push(path)));
  await m.run(work().catch((error: unknown) => error));
  await m.settle();
  const about = seen.flatMap((path) => {
    if (path === `/local/domain/0/mtwatch/${domid}`) return ['mtwatch'];
    return `${path}/`.startsWith(`/local/domain/${domid}/`) ? ['home'] : [];
  });
  return about.filter((what, index) => what !== about[index - 1]);
}

const whole = ['mtwatch', 'home', 'mtwatch'];

/** Announces a domain and answers with the pid of its thread. */
async function announcedPid(domid: number): Promise<number | undefined> {
  await m.run(m.ctx.xs.write(`/local/domain/0/mtwatch/${domid}`, ''));
  await m.settle();
  return m.threads().find((thread) => thread.domid === domid)?.pid;
}

test('a create and a destroy', async () => {
  const work = async () => domainDestroy(m.ctx, await domainCreateNew(m.ctx, pvConfig()));
  expect(await observed(1, {}, work)).toEqual(whole);
});

test('a name that is taken: the domain never was, its announcement came and went', async () => {
  const work = async () => {
    await domainCreateNew(m.ctx, pvConfig('same'));
    await domainCreateNew(m.ctx, pvConfig('same'));
  };
  expect(await observed(2, {}, work)).toEqual(['mtwatch']);
  expect(await m.run(m.ctx.xs.directory('/local/domain/0/mtwatch'))).toEqual(['1']);
});

test('a disk that is not there', async () => {
  const options = { missing: ['/dev/loop0'] };
  expect(await observed(1, options, () => domainCreateNew(m.ctx, pvConfig()))).toEqual(whole);
});

test('a bridge that is not there', async () => {
  const options = { bridges: [] };
  expect(await observed(1, options, () => domainCreateNew(m.ctx, pvConfig()))).toEqual(whole);
  expect(m.lines).toContainEqual(expect.stringContaining('script: Could not find bridge device xenbr0'));
});

test('a backend that never answers', async () => {
  const work = async () => {
    const domid = await domainCreateNew(m.ctx, pvConfig('stall'));
    await m.ctx.xc.call('dom0.hold', { device: `vbd-${domid}-51712`, mode: 'connect' });
    await m.ctx.xc.call('xc.domain_unpause', { domid });
    await domainCreateNew(m.ctx, pvConfig('other'));
  };
  expect(await observed(2, { cmdline: '' }, work)).toEqual(whole);
  expect(m.lines).toContainEqual(expect.stringContaining('unable to add device with path /local/domain/0/backend/vbd/2/51712'));
});

test('a domain with a thread that has not left keeps its domid from being given out', async () => {
  m = await machine();
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(m.ctx.xc.call('xc.domain_unpause', { domid }));
  await m.settle();
  m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
  await m.run(domainDestroy(m.ctx, domid));
  const wanted = pvConfig('again');
  const again = domainCreateNew(m.ctx, { ...wanted, cInfo: { ...wanted.cInfo, domid } });
  await expect(m.run(again)).rejects.toMatchObject({ rc: -3 });
});

test('removing every announcement at once ends the threads of those that have nothing more to run', async () => {
  m = await machine();
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(m.ctx.xs.rm('/local/domain/0/mtwatch'));
  await m.run(domainDestroy(m.ctx, domid));
  await m.settle();
  expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch']);
});

test('announcements that were there before dom0 looked are taken up', async () => {
  m = await machine();
  await m.run(m.ctx.xs.rm('/local/domain/0/mtwatch'));
  await m.run(
    m.ctx.xs.transaction(async (tx) => {
      for (const domid of [3, 4]) await tx.write(`/local/domain/0/mtwatch/${domid}`, '');
    }),
  );
  await m.settle();
  expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch', 'xen-mtwatch-3', 'xen-mtwatch-4']);
});

test('an event of a domain that nobody announced gets a thread too, which leaves when it is done', async () => {
  m = await machine();
  const [eighth, ninth] = [await announcedPid(8), await announcedPid(9)];
  expect(ninth).toBe((eighth ?? 0) + 1);
  await m.run(m.ctx.xs.write('/local/domain/0/backend/vbd/10/51712/state', '1'));
  await m.settle();
  expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch', 'xen-mtwatch-8', 'xen-mtwatch-9']);
  // A pid was used in between.
  expect(await announcedPid(11)).toBe((eighth ?? 0) + 3);
});

test.each(['7abc', '007', '65543', '32752', 'abc'])('mtwatch/%s names no domain and makes no thread', async (name) => {
  m = await machine();
  await m.run(m.ctx.xs.write(`/local/domain/0/mtwatch/${name}`, ''));
  await m.settle();
  expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch']);
});

test('more announcements than one reply can list are looked at all the same', async () => {
  const m = await machine();
  const xs = m.connect('client');
  const domids = Array.from({ length: 1500 }, (_, index) => index + 1);
  for (const domid of domids) await m.run(xs.write(`/local/domain/0/mtwatch/${domid}`, ''));
  // An event of the parent makes the kernel look at every node there is.
  await m.run(xs.write('/local/domain/0/mtwatch', 'x'));
  const names = await new Promise<string[] | undefined>((resolve) => {
    const { kernel } = m.dom0;
    kernel.spawn('test', 'test', function* () {
      resolve(yield* kernel.directoryWhole('mtwatch'));
    });
  });
  expect(names?.map(Number)).toEqual(domids);
  expect(m.threads()).toHaveLength(1 + domids.length);
  await m.run(xs.rm('/local/domain/0/mtwatch'));
  expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch']);
  const log = (m.dom0.handlers['dom0.dmesg']({ clear: false }) as { lines: readonly string[] }).lines;
  expect(log.filter((line) => line.includes('E2BIG'))).toEqual([]);
  m.dom0.close();
});
