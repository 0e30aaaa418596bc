/** A script asks for the network device of a vif as soon as libxl has seen InitWait, which netback writes before it has made one. */
import { domainCreateNew } from '../../src/libxl/create.js';
import { genericAdd } from '../../src/libxl/device.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
afterEach(() => m.dom0.close());

const bridge = (vif: string) => m.dom0.handlers['dom0.bridge']({ bridge: 'xenbr0', vif, add: true });

const create = () => domainCreateNew(m.ctx, pvConfig());

/** Makes domain 1 with a vif, and asks for its network device when the backend has just reached InitWait. */
async function askEarly(ask: () => unknown, make: () => Promise<unknown> = create): Promise<unknown> {
  let asked: Promise<unknown> | undefined;
  m = await machine({
    committed: (store) => {
      if (store.get('/local/domain/0/backend/vif/1/0/state')?.value !== '2') return;
      expect(m.dom0.census().netdevs).toEqual(asked ? expect.anything() : []);
      asked ??= Promise.resolve(ask()).catch((error: unknown) => error);
    },
  });
  await m.run(make().catch(() => undefined));
  return asked;
}

test('who asks for it then gets it when it is there', async () => {
  expect(await askEarly(() => bridge('vif1.0'))).toBeNull();
  expect(m.dom0.census().bridges).toEqual({ xenbr0: ['vif1.0'] });
});

test('who renames it then does so when it is there', async () => {
  const rename = () => m.dom0.handlers['dom0.rename_vif']({ vif: 'vif1.0', name: 'web0' });
  expect(await askEarly(() => Promise.resolve(rename()).then(() => m.dom0.census().netdevs))).toEqual(['web0']);
});

test('one that netback cannot make is refused when it has given up', async () => {
  const device = { domid: 1, devid: 0, kind: 'vif', backendDomid: 0, backendKind: 'vif' };
  // Without a script netback makes none.
  const state = [['state', '1']] as const;
  const nodes = { front: state, frontRo: [], back: [['frontend-id', '1'], ...state] } as const;
  const asked = askEarly(
    () => bridge('vif1.0'),
    async () => {
      await domainCreateNew(m.ctx, pvConfig('pv', { nics: [] }));
      await genericAdd(m.ctx.xs, device, nodes);
    },
  );
  expect(await asked).toMatchObject({ errno: 'ENODEV' });
});

test('one that nobody makes is refused at once', async () => {
  m = await machine();
  expect(() => bridge('vif1.0')).toThrow('no device vif1.0');
});
