import { domainCreateNew } from '../../src/libxl/create.js';
import { type Ctx, Rc } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainPreserve } from '../../src/libxl/domain.js';
import { lockConfig } from '../../src/libxl/saved-config.js';
import { PrivcmdError, type PrivcmdOp } from '../../src/xenbus/privcmd.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
let domid: number;
beforeEach(async () => {
  m = await machine();
  domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
});
afterEach(() => m.dom0.close());

const info = () => m.ctx.xc.call('xc.domain_getinfo', { domid });

/** A context whose hypervisor refuses one operation. */
const refusing = (refused: PrivcmdOp, errno: PrivcmdError['errno']): Ctx => {
  const call: Ctx['xc']['call'] = (op, args) =>
    op === refused ? Promise.reject(new PrivcmdError(errno, 'refused')) : m.ctx.xc.call(op, args);
  return { ...m.ctx, xc: { ...m.ctx.xc, call } };
};

test('ends with plain removals, the mtwatch node last, then the hypercall', async () => {
  const uuid = (await info())?.uuid;
  const calls: string[] = [];
  const call: Ctx['xc']['call'] = (op, args) => {
    calls.push(`${op} after ${m.trace.filter(({ who, op: request }) => who === 'xl' && request === 'RM').at(-1)?.args[0]}`);
    return m.ctx.xc.call(op, args);
  };
  m.trace.length = 0;
  await m.run(domainDestroy({ ...m.ctx, xc: { ...m.ctx.xc, call } }, domid));
  const plain = m.trace.filter(({ who, op, tx, result }) => who === 'xl' && op === 'RM' && tx === 0 && result !== null);
  expect(plain.map(({ args }) => args[0])).toEqual([
    `/vm/${uuid}`,
    `/local/domain/${domid}`,
    `/libxl/${domid}`,
    `/local/domain/${domid}/hvmloader`,
    `/local/domain/0/mtwatch/${domid}`,
  ]);
  expect(calls.at(-1)).toBe(`xc.domain_destroy after /local/domain/0/mtwatch/${domid}`);
  expect(calls.slice(0, 2)).toEqual(['xc.domain_getinfo after undefined', 'xc.domain_pause after undefined']);
});

test('removes what was saved of the domain, and of no other', async () => {
  const uuid = (await info())?.uuid ?? '';
  const { host } = m.ctx;
  const names = [`userdata-d.${domid}.${uuid}.libxl-json`, `userdata-d.${domid}.${uuid}.xl`, `userdata-d.1${domid}.${uuid}.xl`];
  for (const name of names) await host.writeUserdata(name, 'x');
  await m.run(domainDestroy(m.ctx, domid));
  expect(await Promise.all(names.map((name) => host.readUserdata(name)))).toEqual([undefined, undefined, 'x']);
});

test('is not kept from its end by files that cannot be removed', async () => {
  const removeUserdata = () => Promise.reject(new Error('EROFS: read-only file system'));
  await m.run(domainDestroy({ ...m.ctx, host: { ...m.ctx.host, removeUserdata } }, domid));
  expect({ there: await info(), lines: m.lines }).toEqual({
    there: null,
    lines: ['libxl: error: Domain 1:failed to remove what was saved of the domain: EROFS: read-only file system'],
  });
});

test('of a domain that is not there says so in three lines and touches nothing', async () => {
  const before = m.trace.length;
  await expect(m.run(domainDestroy(m.ctx, 77))).rejects.toMatchObject({ rc: -21 });
  expect({ lines: m.lines, requests: m.trace.length - before }).toEqual({
    lines: [
      'libxl: error: libxl_domain.c:1183:libxl__destroy_domid: Domain 77:Non-existant domain',
      'libxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain 77:Unable to destroy guest',
      'libxl: error: libxl_domain.c:1064:domain_destroy_cb: Domain 77:Destruction of domain failed',
    ],
    requests: 0,
  });
});

describe('with a backend that never closes', () => {
  beforeEach(async () => {
    m.dom0.handlers['dom0.hold']({ device: `vif${domid}.0`, mode: 'inflight' });
    await m.run(m.ctx.xc.call('xc.domain_unpause', { domid }));
    await m.settle();
  });

  test('waits ten seconds, reports it, removes every node and succeeds; a zombie is left', async () => {
    const start = m.clock.now();
    await m.run(domainDestroy(m.ctx, domid));
    const left = (await m.store()).filter((node) => new RegExp(`/(domain|libxl|mtwatch|vif|vbd|console)/${domid}\\b`).test(node));
    expect({ waited: m.clock.now() - start, lines: m.lines, left, zombie: await info() }).toMatchObject({
      waited: 10_000,
      lines: [
        `libxl: error: libxl_device.c:1181:device_backend_callback: Domain ${domid}:unable to remove device with path /local/domain/0/backend/vif/${domid}/0`,
        `libxl: error: libxl_domain.c:1530:devices_destroy_cb: Domain ${domid}:libxl__devices_destroy failed`,
      ],
      left: [],
      zombie: { dying: true },
    });
  });

  test('may be repeated on the zombie: silent, and at once', async () => {
    await m.run(domainDestroy(m.ctx, domid));
    m.lines.length = 0;
    const start = m.clock.now();
    await m.run(domainDestroy(m.ctx, domid));
    expect({ waited: m.clock.now() - start, lines: m.lines, zombie: (await info())?.dying }).toEqual({
      waited: 0,
      lines: [],
      zombie: true,
    });
  });

  test('waits for several devices at once', async () => {
    m.dom0.handlers['dom0.hold']({ device: `vbd-${domid}-51712`, mode: 'inflight' });
    const start = m.clock.now();
    await m.run(domainDestroy(m.ctx, domid));
    expect({ waited: m.clock.now() - start, lines: m.lines.length }).toEqual({ waited: 10_000, lines: 3 });
  });
});

test('goes on when the domain cannot be paused', async () => {
  await m.run(domainDestroy(refusing('xc.domain_pause', 'EINVAL'), domid));
  expect({ lines: m.lines, there: await info() }).toEqual({
    lines: ['libxl: error: libxl_domain.c:1219:destroy_domid_pci_done: Domain 1:xc_domain_pause failed'],
    there: null,
  });
});

test('fails when the hypervisor keeps the domain; its nodes are gone by then', async () => {
  await expect(m.run(domainDestroy(refusing('xc.domain_destroy', 'EBUSY'), domid))).rejects.toMatchObject({ rc: -3 });
  expect({ lines: m.lines, home: await m.run(m.ctx.xs.read(`/local/domain/${domid}`)), there: (await info())?.paused }).toEqual({
    lines: [
      'libxl: error: libxl_domain.c:1616:domain_destroy_domid_cb: Domain 1:xc_domain_destroy failed: Device or resource busy',
      'libxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain 1:Unable to destroy guest',
      'libxl: error: libxl_domain.c:1064:domain_destroy_cb: Domain 1:Destruction of domain failed',
    ],
    home: undefined,
    there: true,
  });
});

test('of two at once, both come to an end, and nothing is left', async () => {
  const other: Ctx = { ...m.ctx, xs: m.connect('xl') };
  await m.run(m.ctx.xc.call('xc.domain_unpause', { domid }));
  await m.settle();
  const ends = await m.run(Promise.allSettled([domainDestroy(m.ctx, domid), domainDestroy(other, domid)]));
  const left = (await m.store()).filter((node) => node.includes(`/${domid}`));
  expect({ first: ends[0].status, left, domains: m.dom0.domains }).toEqual({ first: 'fulfilled', left: [], domains: 0 });
});

test('waits for whoever has the lock on its files, before the domain goes', async () => {
  const uuid = m.dom0.hypervisor.get(domid)?.uuid ?? '';
  const unlock = await m.ctx.host.lockUserdata(domid, uuid);
  const destroyed = domainDestroy(m.ctx, domid);
  await m.settle();
  // Its nodes are gone by then, as with libxl.
  expect((await m.store()).filter((line) => line.startsWith(`/local/domain/${domid} `))).toEqual([]);
  expect({ files: m.files.size, dying: m.dom0.hypervisor.get(domid)?.dying }).toEqual({ files: 1, dying: false });
  await unlock();
  await m.run(destroyed);
  expect({ files: m.files.size, domain: m.dom0.hypervisor.get(domid) }).toEqual({ files: 0, domain: undefined });
});

test('who comes to have the lock of a domain that went meanwhile lets it go again, and fails', async () => {
  const uuid = m.dom0.hypervisor.get(domid)?.uuid ?? '';
  const unlock = await m.ctx.host.lockUserdata(domid, uuid);
  const late = lockConfig(m.ctx, domid);
  await m.settle();
  m.dom0.hypervisor.destroy(domid);
  await m.settle();
  await unlock();
  await expect(m.run(late)).rejects.toMatchObject({ rc: -15 });
  await (await m.run(m.ctx.host.lockUserdata(domid, uuid)))();
});

test('a monitor that keeps the domain at the same moment leaves nothing below /vm', async () => {
  const kept = '00000000-0000-4000-8000-00000000abcd';
  let preserving: Promise<unknown> | undefined;
  const rm = async (path: string) => {
    preserving ??= domainPreserve(m.ctx, domid, 'pv', '-old', kept).catch((error: unknown) => error);
    for (let reads = 0; reads < 40; reads++) await m.ctx.xs.read('/');
    return m.ctx.xs.rm(path);
  };
  await m.run(domainDestroy({ ...m.ctx, xs: Object.assign(Object.create(m.ctx.xs), { rm }) }, domid));
  expect(await preserving).toMatchObject({ rc: Rc.DOMAIN_NOTFOUND });
  expect((await m.store()).filter((line) => line.startsWith('/vm/'))).toEqual([]);
});

test('a creation that makes the nodes at the same moment leaves nothing below /vm', async () => {
  const born = (await m.run(m.ctx.xc.call('xc.domain_create', { uuid: pvConfig().cInfo.uuid, maxVcpus: 1 }))).domid;
  const before = await m.store();
  const read = async (path: string) => {
    const value = await m.ctx.xs.read(path);
    if (path !== `/local/domain/${born}/vm` || value !== undefined) return value;
    await m.ctx.xs.transaction(async (tx) => {
      await tx.write(`/local/domain/0/mtwatch/${born}`, '');
      await tx.write(path, '/vm/born');
      await tx.write('/vm/born/name', 'born');
    });
    return value;
  };
  await m.run(domainDestroy({ ...m.ctx, xs: Object.assign(Object.create(m.ctx.xs), { read }) }, born));
  expect(await m.store()).toEqual(before);
});
