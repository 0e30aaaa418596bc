import { everyDomain, everyWatchThread, listPageMax, type Xc } from '../../src/xenbus/privcmd.js';
import { machine } from '../machine.js';

test('a long list comes in pages, and is whole', async () => {
  const { dom0 } = await machine();
  const { handlers } = dom0;
  for (let n = 0; n < 2 * listPageMax + 7; n++) {
    handlers['xc.domain_create']({ uuid: '00000000-0000-0000-0000-000000000000', maxVcpus: 1 });
  }
  handlers['xc.domain_destroy']({ domid: 3 });
  const pages: number[] = [];
  const xc = {
    call: async (op: 'xc.domain_getinfolist' | 'dom0.mtwatch', args: object) => {
      const page = (await handlers[op](args)) as readonly object[];
      pages.push(page.length);
      return page;
    },
    close: () => {},
  } as unknown as Xc;
  expect((await everyDomain(xc)).map(({ domid }) => domid)).toEqual(dom0.hypervisor.list().map(({ domid }) => domid));
  expect(pages).toEqual([listPageMax, listPageMax, 7]);
  expect((await everyWatchThread(xc)).map(({ thread }) => thread)).toEqual(['xenwatch']);
});
