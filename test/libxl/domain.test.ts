import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import {
  domainInfo,
  domainPause,
  domainShutdown,
  domainUnpause,
  domidToName,
  formatUuid,
  listDomains,
  nameToDomid,
  watchDeaths,
} from '../../src/libxl/domain.js';
import { retrieveConfig } from '../../src/libxl/saved-config.js';
import { ShutdownReason } from '../../src/xenbus/xenbus.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine();
});
afterEach(() => m.dom0.close());

async function running(name = 'pv'): Promise<number> {
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig(name)));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  return domid;
}

/** What xl asked of the store since `from`, as `OP path`. */
const asked = (from: number) =>
  m.trace.slice(from).flatMap(({ who, op, args }) => (who === 'xl' ? [[op, ...args].join(' ')] : []));

test('a name is looked up domain by domain, up to the one that has it', async () => {
  await running('a');
  await running('b');
  const from = m.trace.length;
  expect(await m.run(nameToDomid(m.ctx, 'a'))).toBe(1);
  expect(asked(from)).toEqual(['READ /local/domain/0/name', 'READ /local/domain/1/name']);
  expect(await m.run(nameToDomid(m.ctx, 'b'))).toBe(2);
  expect(await m.run(nameToDomid(m.ctx, 'c'))).toBeUndefined();
});

test('a name of more than ASCII is found by its text', async () => {
  await m.run(domainCreateNew(m.ctx, pvConfig('wéb')));
  expect(await m.run(domidToName(m.ctx, 1))).toBe('wéb');
  expect(await m.run(nameToDomid(m.ctx, 'wéb'))).toBe(1);
});

test('pauses are counted', async () => {
  const domid = await running();
  const state = async () => {
    const info = await domainInfo(m.ctx, domid);
    return info?.paused;
  };
  await m.run(domainPause(m.ctx, domid));
  await m.run(domainPause(m.ctx, domid));
  await m.run(domainUnpause(m.ctx, domid));
  expect(await state()).toBe(true);
  await m.run(domainUnpause(m.ctx, domid));
  expect(await state()).toBe(false);
  expect(m.lines).toEqual([]);
});

test.each([
  [
    'pausing nobody',
    domainPause,
    99,
    'libxl: error: libxl_domain.c:587:libxl_domain_pause: Domain 99:Pausing domain: No such process',
  ],
  [
    'unpausing nobody',
    domainUnpause,
    99,
    'libxl: error: libxl_dom.c:37:libxl__domain_type: unable to get domain type for domid=99',
  ],
  [
    'unpausing who runs',
    domainUnpause,
    1,
    'libxl: error: libxl_domain.c:688:domain_unpause_done: Domain 1:Unpausing domain: Invalid argument',
  ],
  [
    'shutting down nobody',
    domainShutdown,
    99,
    'libxl: error: libxl_dom.c:37:libxl__domain_type: unable to get domain type for domid=99',
  ],
])('%s fails with the line of a real host', async (_what, operation, domid, line) => {
  await running();
  await expect(m.run(operation(m.ctx, domid))).rejects.toMatchObject({ name: 'LibxlError', rc: -3 });
  expect(m.lines).toEqual([line]);
});

describe('shutting down', () => {
  test('asks as a real host asks: the node, a watch on it, and its value until it is taken', async () => {
    const domid = await running();
    const from = m.trace.length;
    await m.run(domainShutdown(m.ctx, domid));
    const path = '/local/domain/1/control/shutdown';
    const requests = asked(from).filter((line) => !line.startsWith('WATCH_EVENT'));
    // The transaction is ours: libxl's plain write would bring back a domain that is destroyed meanwhile.
    expect(requests.slice(0, 7)).toEqual([
      'GET_DOMAIN_PATH 1',
      expect.stringMatching('^TRANSACTION_START'),
      'READ /local/domain/1',
      `WRITE ${path} poweroff`,
      'TRANSACTION_END T',
      expect.stringMatching(`^WATCH ${path} `),
      `READ ${path}`,
    ]);
    expect(requests.at(-1)).toMatch(`UNWATCH ${path} `);
    await m.settle();
    expect((await domainInfo(m.ctx, domid))?.shutdown).toBe(ShutdownReason.poweroff);
  });

  test('a paused guest does not take the request, which stays there after a minute', async () => {
    const domid = await running();
    await m.run(domainPause(m.ctx, domid));
    const before = m.clock.now();
    await expect(m.run(domainShutdown(m.ctx, domid))).rejects.toMatchObject({ rc: -9 });
    expect(m.clock.now() - before).toBe(60_000);
    expect(m.lines).toEqual(["libxl: error: libxl_domain.c:854:pvcontrol_cb: guest didn't acknowledge control request: -9"]);
    expect(await m.run(m.ctx.xs.read('/local/domain/1/control/shutdown'))).toBe('poweroff');
  });

  test('a domain that is destroyed meanwhile has taken it', async () => {
    const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
    const asking = domainShutdown(m.ctx, domid);
    await m.settle();
    await m.run(domainDestroy(m.ctx, domid));
    await m.run(asking);
    expect(m.lines).toEqual([]);
  });
});

describe('the ends of domains', () => {
  test('a shutdown is told once, and then its destruction', async () => {
    const domid = await running();
    const deaths = watchDeaths(m.ctx);
    await m.run(deaths.add(domid));
    m.dom0.guestStops(domid, 'crash');
    expect(await m.run(deaths.next())).toEqual({ on: 'shutdown', domid, reason: ShutdownReason.crash });
    const next = deaths.next();
    await running('other');
    await m.run(domainDestroy(m.ctx, domid));
    expect(await m.run(next)).toEqual({ on: 'death', domid });
    await m.run(deaths.close());
  });

  test('what happened before anybody looked is told too', async () => {
    const first = await running('a');
    const second = await running('b');
    await m.run(domainDestroy(m.ctx, first));
    const deaths = watchDeaths(m.ctx);
    await m.run(deaths.add(first));
    expect(await m.run(deaths.next())).toEqual({ on: 'death', domid: first });
    m.dom0.guestStops(second, 'reboot');
    await m.settle();
    await m.run(deaths.add(second));
    expect(await m.run(deaths.next())).toEqual({ on: 'shutdown', domid: second, reason: ShutdownReason.reboot });
    await m.run(deaths.close());
  });

  test('a zombie is dead', async () => {
    const domid = await running();
    m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
    const deaths = watchDeaths(m.ctx);
    await m.run(deaths.add(domid));
    await m.run(domainDestroy(m.ctx, domid));
    expect(await m.run(deaths.next())).toEqual({ on: 'death', domid });
    expect((await listDomains(m.ctx)).map((info) => [info.domid, info.dying])).toEqual([
      [0, false],
      [domid, true],
    ]);
    await m.run(deaths.close());
  });
});

test('the config of a domain is what was saved, with what the store and the hypervisor say now', async () => {
  const config = pvConfig();
  const domid = await m.run(domainCreateNew(m.ctx, config));
  const retrieved = await m.run(retrieveConfig(m.ctx, domid));
  expect(retrieved?.cInfo).toMatchObject({ name: 'pv', uuid: config.cInfo.uuid, domid: 0xffff_ffff });
  expect(retrieved?.bInfo).toMatchObject({
    maxMemkb: 131_072,
    targetMemkb: 131_072,
    schedParams: { sched: 'credit2', weight: 256, cap: 0 },
  });
  expect(await m.run(retrieveConfig(m.ctx, 99))).toBeUndefined();
});

test('domain 0 has the config that xen-init-dom0 leaves, one KiB short of its target', async () => {
  const retrieved = await m.run(retrieveConfig(m.ctx, 0));
  expect(retrieved?.cInfo).toMatchObject({ type: 'pv', name: 'Domain-0' });
  expect(retrieved?.bInfo).toMatchObject({ maxMemkb: 1_572_864, targetMemkb: 1_572_863 });
});

test('a random uuid says that it is one', () => {
  expect(formatUuid(new Uint8Array(16))).toBe('00000000-0000-4000-8000-000000000000');
  expect(formatUuid(new Uint8Array(16).fill(255))).toBe('ffffffff-ffff-4fff-bfff-ffffffffffff');
});
