/**
 * Laws that hold in every interleaving: seeded runs of several domains at once, with devices that hang and are let go.
 * A failing seed is in the title of its test and replays the run.
 */
import { createHash } from 'node:crypto';
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { seeded } from '../../src/xenbus/clock.js';
import { machine, pvConfig } from '../machine.js';

const domains = 6;
/** How devices are held: a packet, a request before and after it is submitted, a granted page, a write-back. */
const modes = ['inflight', 'io', 'bio', 'grants', 'connect'] as const;

/** Creates domains at once, holds some of their devices, destroys all, lets go; answers with what an observer saw. */
async function life(seed: number, cmdline: string) {
  const draw = seeded(seed);
  const m = await machine({ seed, cmdline });
  const before = await m.store();
  const seen: string[] = [];
  const observer = m.connect('client');
  await m.run(observer.watch('/', (path) => seen.push(path)));

  const configs = Array.from({ length: domains }, (_, index) => {
    const config = pvConfig(`guest-${index}`);
    return { ...config, cInfo: { ...config.cInfo, uuid: `00000000-0000-4000-9000-${String(index).padStart(12, '0')}` } };
  });
  const domids = await m.run(Promise.all(configs.map((config) => domainCreateNew(m.ctx, config))));
  await m.run(Promise.all(domids.map((domid) => domainUnpause(m.ctx, domid))));
  if (draw() % 2 === 0) await m.settle();
  const held = domids.filter(() => draw() % 3 === 0);
  for (const domid of held) {
    const mode = modes[draw() % modes.length] ?? 'inflight';
    m.dom0.handlers['dom0.hold']({ device: mode === 'inflight' ? `vif${domid}.0` : `vbd-${domid}-51712`, mode });
  }
  await m.run(Promise.all(domids.map((domid) => domainDestroy(m.ctx, domid))));
  const complaints = m.lines.filter((line) => cmdline !== '' && !held.some((domid) => line.includes(`Domain ${domid}:`)));
  m.dom0.handlers['dom0.flush']({});
  m.clock.advance(60_000);
  await m.settle();
  const after = await m.store();
  observer.close();
  m.dom0.close();
  return { m, before, after, seen, domids, complaints };
}

describe.each([
  ['one watch thread', ''],
  ['one watch thread a domain', 'xen_mtwatch'],
])('with %s', (_title, cmdline) => {
  test.each(Array.from({ length: 12 }, (_, seed) => seed + 1))('seed %i: the laws hold', async (seed) => {
    const { m, before, after, seen, domids, complaints } = await life(seed, cmdline);

    // Nobody but the owners of held devices hears of them.
    expect(complaints).toEqual([]);

    // For every observer: whenever /local/domain/N is there, mtwatch/N is.
    for (const domid of domids) {
      const home = seen.map((path, at) => ({ path, at })).filter(({ path }) => isBelow(path, `/local/domain/${domid}`));
      const node = seen.map((path, at) => ({ path, at })).filter(({ path }) => path === `/local/domain/0/mtwatch/${domid}`);
      expect(node).toHaveLength(2);
      expect(node[0]?.at).toBeLessThan(home[0]?.at ?? -1);
      expect(node[1]?.at).toBeGreaterThan(home.at(-1)?.at ?? seen.length);
    }

    // When the faults clear, nothing is left: no domain, no thread, no node.
    expect({ domains: m.dom0.domains, threads: m.threads().map(({ thread }) => thread), log: m.log }).toEqual({
      domains: 0,
      threads: ['xenwatch'],
      log: [],
    });
    expect(after.filter((line) => !before.includes(line))).toEqual(['/vm = ""   (n0)', '/libxl = ""   (n0)']);
  });

  test.each(Array.from({ length: 20 }, (_, seed) => seed + 1))(
    'seed %i: a destroy in the middle of a create leaves nothing',
    async (seed) => {
      const draw = seeded(seed);
      const m = await machine({ seed, cmdline });
      const before = await m.store();
      const creating = domainCreateNew(m.ctx, pvConfig()).catch((error: unknown) => error);
      for (let turns = draw() % 120; turns > 0; turns--) await m.clock.turn();
      const other = { ...m.ctx, xs: m.connect('xl') };
      await m.run(domainDestroy(other, 1).catch(() => undefined));
      if ((await m.run(creating)) === 1) await m.run(domainDestroy(m.ctx, 1).catch(() => undefined));
      await m.settle();
      const left = (await m.store()).filter((line) => !before.includes(line));
      const empty = ['/vm = ""   (n0)', '/libxl = ""   (n0)'];
      expect({ left: left.filter((line) => !empty.includes(line)), domains: m.dom0.domains, log: m.log }).toEqual({
        left: [],
        domains: 0,
        log: [],
      });
      expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch']);
      m.dom0.close();
    },
  );

  test('one seed is one run, to the last byte of the trace', async () => {
    const hashes = await Promise.all([5, 5, 6].map(async (seed) => hash((await life(seed, cmdline)).m.trace)));
    expect(hashes[0]).toBe(hashes[1]);
    expect(hashes[0]).not.toBe(hashes[2]);
  });
});

function isBelow(path: string, dir: string): boolean {
  return path === dir || path.startsWith(`${dir}/`);
}

function hash(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex');
}
