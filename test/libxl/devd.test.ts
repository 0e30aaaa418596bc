import { diskAttach } from '../../src/libxl/attach.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import type { Ctx } from '../../src/libxl/ctx.js';
import { deviceEventsHandler } from '../../src/libxl/devd.js';
import { deviceRemove } from '../../src/libxl/device.js';
import { findDisk, listDisks, listedDiskDevice } from '../../src/libxl/device-list.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
afterEach(() => m.dom0.close());

/** A devd beside the toolstack, and what it says, from `-vvv` on. */
function devd(): { said: string[]; stop: () => Promise<void> } {
  const said: string[] = [];
  const xs = m.connect('client');
  const ours =
    /:(backend_watch_callback|add_device|remove_device|check_and_maybe_remove_guest|device_complete|device_backend_callback)$/;
  const log: Ctx['log'] = (_level, where, _domid, message) => {
    if (ours.test(where) && !message.startsWith('calling')) said.push(message);
  };
  const done = deviceEventsHandler({ ...m.ctx, xs, log });
  const stop = async () => {
    xs.close();
    await done.catch(() => undefined);
  };
  return { said, stop };
}

test('devd runs the script of a device that appears, and forgets one that has closed', async () => {
  m = await machine();
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  const { said, stop } = devd();
  await m.settle();
  expect(said).toEqual([]);

  const backend = `/local/domain/0/backend/vbd/${domid}/51728`;
  await m.run(diskAttach(m.ctx, domid, { pdevPath: '/dev/loop1', vdev: 'xvdb', format: 'raw', readwrite: true }));
  await m.settle();
  expect(said.splice(0)).toEqual([
    'Added domain to the list of active guests',
    `Added device ${backend} to the list of active devices`,
    `device ${backend} add succeed`,
  ]);

  const disk = await m.run(findDisk(m.ctx, domid, 'xvdb'));
  if (!disk) throw new Error('no disk');
  await m.run(deviceRemove(m.ctx, listedDiskDevice(domid, disk), 'off'));
  await m.settle();
  expect(said.slice(0, 2)).toEqual([
    `Removed device ${backend} from the list of active devices`,
    'Removed domain from the list of active guests',
  ]);
  expect((await m.run(listDisks(m.ctx, domid)))?.map(({ vdev }) => vdev)).toEqual(['xvda']);
  await stop();
});

test('devd waits for a backend that comes to nothing, and says so', async () => {
  m = await machine();
  const { said, stop } = devd();
  await m.run(m.ctx.xs.write('/local/domain/0/backend/vtpm/7/0/online', '1'));
  await m.run(m.ctx.xs.write('/local/domain/0/backend/vtpm/7/0/state', '1'));
  await m.run(m.clock.sleep(20_000));
  expect(said).toEqual([
    'Added domain to the list of active guests',
    'Added device /local/domain/0/backend/vtpm/7/0 to the list of active devices',
    'unable to add device with path /local/domain/0/backend/vtpm/7/0',
    'device /local/domain/0/backend/vtpm/7/0 add failed',
  ]);
  await stop();
});
