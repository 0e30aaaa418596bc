/**
 * The requests of a create and of a destroy against those of a real Xen 4.17 host with a Linux 6.1 dom0, connection by
 * connection. The only difference is ours: the mtwatch node, written first and removed last.
 */
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { type Machine, machine, pvConfig } from '../machine.js';
import { about, connections, data, mainConnection, nodes, type Request, recorded, traced, type Unit, units } from './requests.js';

const by = (requests: readonly Request[], who: string) => requests.filter((request) => request.who === who);

const kinds = ['vbd', 'vif', 'other'] as const;

const mtwatch = (op: string): Unit => [`${op} /local/domain/0/mtwatch/N`];

describe.each([
  ['one watch thread', ''],
  ['one watch thread a domain', 'xen_mtwatch'],
])('with %s', (_title, cmdline) => {
  let m: Machine;
  let domid: number;
  let bootEnd: number;
  let createEnd: number;
  let destroyBegin: number;
  let store: string[];

  beforeAll(async () => {
    m = await machine({ cmdline });
    bootEnd = m.trace.length;
    domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
    await m.run(domainUnpause(m.ctx, domid));
    await m.settle();
    createEnd = m.trace.length;
    store = await m.store();
    await m.settle();
    destroyBegin = m.trace.length;
    await m.run(domainDestroy(m.ctx, domid));
    await m.settle();
  });
  afterAll(() => m.dom0.close());

  const created = recorded(data('create.writes.txt'));
  const destroyed = recorded(data('destroy.writes.txt'));
  const inCreate = () => traced(m.trace.slice(bootEnd, createEnd));
  const inDestroy = () => traced(m.trace.slice(destroyBegin));
  const unitsOf = (requests: readonly Request[], who: string) => units(by(requests, who), domid);

  test('xl creates as the real one does, the mtwatch node before anything else', () => {
    const theirs = units(by(created, 'xl'), 1);
    const [first, ...rest] = unitsOf(inCreate(), 'xl');
    expect(first).toEqual(mtwatch('WRITE'));
    for (const kind of kinds) expect(about(rest, kind)).toEqual(about(theirs, kind));
  });

  test("dom0's kernel brings the backends up as Linux does", () => {
    const theirs = mainConnection(created, 'dom0-kernel', 1);
    const mine = unitsOf(inCreate(), 'dom0-kernel');
    for (const kind of kinds) expect(about(mine, kind)).toEqual(about(theirs, kind));
  });

  test.each(['vbd', 'vif'] as const)("the guest's %s connects as Linux does", (kind) => {
    const theirs = about(mainConnection(created, 'domU-kernel', 1), kind);
    expect(about(unitsOf(inCreate(), 'domU-kernel'), kind)).toEqual(theirs);
  });

  test('scripts and xenconsoled write what the real ones do, each through its own connection', () => {
    const theirs = connections(created, 'other', 1).filter(
      (list) => !list.flat().some((text) => text.includes('@releaseDomain')),
    );
    const mine = ['xenconsoled', 'hotplug'].flatMap((who) => connections(inCreate(), who, domid));
    expect(mine).toEqual(theirs);
  });

  test('xl destroys as the real one does, the mtwatch node after everything else', () => {
    const theirs = units(by(destroyed, 'xl'), 2);
    const mine = unitsOf(inDestroy(), 'xl');
    expect(mine.at(-1)).toEqual(mtwatch('RM'));
    for (const kind of kinds) expect(about(mine.slice(0, -1), kind)).toEqual(about(theirs, kind));
  });

  test("dom0's kernel takes the backends down as Linux does", () => {
    const theirs = mainConnection(destroyed, 'dom0-kernel', 2);
    const mine = unitsOf(inDestroy(), 'dom0-kernel');
    for (const kind of kinds) expect(about(mine, kind)).toEqual(about(theirs, kind));
  });

  test('the store has the same nodes, values and permissions in the same order, and the mtwatch node', () => {
    const mine = nodes(store.join('\n'));
    const added = ['/local/domain/0/mtwatch = ""   (n0)', `/local/domain/0/mtwatch/${domid} = ""   (n0)`];
    expect(mine.filter((line) => added.includes(line))).toEqual(added);
    expect(mine.filter((line) => !added.includes(line))).toEqual(nodes(data('store-running.txt')));
  });

  test('nothing is left behind', () => {
    expect(m.log).toEqual([]);
    expect(m.lines).toEqual([]);
    expect(m.threads().map(({ thread }) => thread)).toEqual(['xenwatch']);
    expect(m.dom0.domains).toBe(0);
  });
});
