import { nicAttach } from '../../src/libxl/attach.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import { destroyGuest, domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import type { DomainConfig } from '../../src/libxl/domain-config.js';
import { devd, type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine({ bridges: ['xenbr0'] });
});
afterEach(() => m.dom0.close());

async function running(name: string, changes: Partial<DomainConfig>): Promise<number> {
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig(name, { disks: [], nics: [], ...changes })));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  return domid;
}

/** A guest with `driver_domain=1`: domain 1. */
async function storage(): Promise<void> {
  const config = pvConfig();
  expect(await running('storage', { cInfo: { ...config.cInfo, name: 'storage', driverDomain: true } })).toBe(1);
}

const states = async (...paths: readonly string[]) => {
  await m.settle();
  return Promise.all(paths.map((path) => m.run(m.ctx.xs.read(`${path}/state`))));
};

const served: Partial<DomainConfig> = {
  disks: [{ pdevPath: '/dev/vg/web', vdev: 'xvda', format: 'raw', readwrite: true, backendDomname: 'storage' }],
  nics: [{ devid: 0, mac: '00:16:3e:00:00:05', backendDomname: 'storage' }],
};
const places = [
  '/local/domain/1/backend/vbd/2/51712',
  '/local/domain/2/device/vbd/51712',
  '/local/domain/1/backend/vif/2/0',
  '/local/domain/2/device/vif/0',
];

test('devices of a driver domain are served there, and its devd runs their scripts', async () => {
  await storage();
  const stop = devd(m, 1);
  expect(await running('web', served)).toBe(2);
  await m.run(m.clock.sleep(200));
  expect({ lines: m.lines, states: await states(...places) }).toEqual({ lines: [], states: ['4', '4', '4', '4'] });
  const scripts = m.trace.filter(({ who }) => who === 'hotplug');
  expect(scripts).toEqual([]);
  await m.run(domainDestroy(m.ctx, 2));
  await m.settle();
  const left = (await m.store()).filter((line) => /backend\/v(bd|if)\/2|domain\/2/.test(line));
  expect({ lines: m.lines, left, domains: m.dom0.domains }).toEqual({ lines: [], left: [], domains: 1 });
  await stop();
});

test('without a devd the backends come up as far as their drivers bring them, the guest waits for its disk, and libxl for nobody', async () => {
  await storage();
  expect(await running('web', served)).toBe(2);
  expect(await states(...places)).toEqual(['2', '3', '2', '1']);
  // The guest has waited for its disk long enough, and goes on with its interface.
  m.clock.advance(300_000);
  expect({ lines: m.lines, states: await states(...places) }).toEqual({ lines: [], states: ['2', '3', '2', '4'] });
});

test('a domain that is no driver domain serves nobody, and libxl gives up', async () => {
  await running('storage', {});
  await expect(m.run(domainCreateNew(m.ctx, pvConfig('web', { disks: [], ...{ nics: served.nics ?? [] } })))).rejects.toThrow();
  expect(m.lines.slice(0, 2)).toEqual([
    'libxl: error: libxl_device.c:1181:device_backend_callback: Domain 2:unable to add device with path /local/domain/1/backend/vif/2/0',
    'libxl: error: libxl_create.c:1921:domcreate_attach_devices: Domain 2:unable to add vif devices',
  ]);
});

test('a driver domain that is destroyed lets go of what it had mapped, and its clients of its backends', async () => {
  await storage();
  const stop = devd(m, 1);
  await running('web', served);
  await m.run(nicAttach(m.ctx, 2, { mac: '00:16:3e:00:00:06', backendDomname: 'storage' }));
  await m.run(m.clock.sleep(200));
  await stop();
  await m.run(destroyGuest(m.ctx, 1));
  await m.run(destroyGuest(m.ctx, 2));
  await m.settle();
  expect({ domains: m.dom0.domains, lines: m.lines.filter((line) => line.includes('error')) }).toEqual({ domains: 0, lines: [] });
});
