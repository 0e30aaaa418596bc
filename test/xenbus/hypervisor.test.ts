import { Hypervisor, type HypervisorHooks } from '../../src/xenbus/hypervisor.js';
import { DOMID_LAST, ShutdownReason } from '../../src/xenbus/xenbus.js';

const uuid = '11111111-2222-3333-4444-555555555555';
const options = { nrCpus: 2, totalKb: 1 << 20, dom0Kb: 1 << 18, dom0Vcpus: 2 };

function machine(hooks: Partial<HypervisorHooks> = {}) {
  const heard: string[] = [];
  const hypervisor = new Hypervisor(options, {
    virqDomExc: () => heard.push('virq'),
    runnable: (domid, yes) => heard.push(`${domid} ${yes ? 'runs' : 'stops'}`),
    killed: (domid) => heard.push(`${domid} killed`),
    domidInUse: () => false,
    ...hooks,
  });
  return { hypervisor, heard };
}

test('domids rise and are not reused at once, whatever is free', () => {
  const { hypervisor } = machine();
  const first = hypervisor.create(uuid, 1).domid;
  hypervisor.destroy(first);
  expect([first, hypervisor.create(uuid, 1).domid, hypervisor.create(uuid, 1).domid]).toEqual([1, 2, 3]);
});

test('after the last domid the search begins again at 1 and skips what exists', () => {
  const { hypervisor } = machine();
  hypervisor.create(uuid, 1, 1);
  for (let domid = 2; domid <= DOMID_LAST; domid++) hypervisor.destroy(hypervisor.create(uuid, 1).domid);
  expect(hypervisor.create(uuid, 1).domid).toBe(2);
});

test('a domid whose watch thread has not left is passed over, and refused when asked for', () => {
  const { hypervisor } = machine({ domidInUse: (domid) => domid === 1 });
  expect(hypervisor.create(uuid, 1).domid).toBe(2);
  expect(() => hypervisor.create(uuid, 1, 1)).toThrow('domain id recently used');
});

test("the controller's pauses are counted", () => {
  const { hypervisor, heard } = machine();
  const { domid } = hypervisor.create(uuid, 1);
  hypervisor.pause(domid);
  hypervisor.unpause(domid);
  expect(heard).toEqual([]);
  hypervisor.unpause(domid);
  hypervisor.pause(domid);
  expect(heard).toEqual(['1 runs', '1 stops']);
});

test('a dying domain stays for as long as a page of it is mapped', () => {
  const { hypervisor, heard } = machine();
  const { domid } = hypervisor.create(uuid, 2);
  hypervisor.build(domid, 1024, '');
  const unmap = hypervisor.grantMap(domid);
  hypervisor.pause(domid);
  hypervisor.destroy(domid);
  const zombie = hypervisor.get(domid);
  expect(zombie && hypervisor.info(zombie)).toMatchObject({ dying: true, paused: true, currentKb: 0, onlineVcpus: 1 });
  expect(() => hypervisor.destroy(domid)).not.toThrow();
  unmap?.();
  unmap?.();
  expect(hypervisor.get(domid)).toBeUndefined();
  expect(heard).toEqual(['1 killed', 'virq', 'virq']);
});

test('a guest that shuts down stays, says why, and stops', () => {
  const { hypervisor, heard } = machine();
  const domain = hypervisor.create(uuid, 1);
  hypervisor.unpause(domain.domid);
  hypervisor.shutdown(domain.domid, ShutdownReason.crash);
  expect(hypervisor.info(domain)).toMatchObject({ shutdown: 3, dying: false, blocked: false, running: false });
  expect(heard).toEqual(['1 runs', '1 stops', 'virq']);
});

test('memory is what is there: no more can be given', () => {
  const { hypervisor } = machine();
  const { domid } = hypervisor.create(uuid, 1);
  expect(() => hypervisor.build(domid, 1 << 20, '')).toThrow('1048576 KiB wanted, 786432 KiB free');
});

test('event channels are given from 1 upwards, and only the one they are for can bind them, once', () => {
  const { hypervisor } = machine();
  const { domid } = hypervisor.create(uuid, 1);
  expect([hypervisor.evtchnAllocUnbound(domid, 0), hypervisor.evtchnAllocUnbound(domid, 0)]).toEqual([1, 2]);
  expect(hypervisor.evtchnBind(5, domid, 1)).toBeUndefined();
  const unbind = hypervisor.evtchnBind(0, domid, 1);
  expect(unbind).toBeDefined();
  expect(hypervisor.evtchnBind(0, domid, 1)).toBeUndefined();
  unbind?.();
  expect(hypervisor.evtchnBind(0, domid, 1)).toBeDefined();
});

test('domain 0 is not paused, unpaused or destroyed: it is the one that asks', () => {
  const { hypervisor } = machine();
  for (const operation of [() => hypervisor.pause(0), () => hypervisor.unpause(0), () => hypervisor.destroy(0)]) {
    expect(operation).toThrow('domain 0 is the one that asks');
  }
});

test('operations on a domain that is not there are refused', () => {
  const { hypervisor } = machine();
  for (const operation of [() => hypervisor.pause(9), () => hypervisor.destroy(9), () => hypervisor.evtchnAllocUnbound(9, 0)]) {
    expect(operation).toThrow('no domain 9');
  }
});
