/** What an operation costs does not grow with the domains, nodes and watches that are elsewhere: counted, not timed. */
import { StoreLoop } from '../../src/xenbus/store-loop.js';
import type { StoreLink } from '../../src/xenbus/transport.js';
import { joinStrings, splitStrings, XsType } from '../../src/xenbus/xs-wire.js';

interface Machine {
  readonly loop: StoreLoop;
  /** Asks as dom0 and answers with the first string of the reply. */
  ask(type: number, payload: string, txId?: number): string;
  /** Makes a domain as xl and its kernel do, in small; ends it. */
  create(domid: number): void;
  destroy(domid: number): void;
}

function machine(): Machine {
  const living = new Set<number>();
  const loop = new StoreLoop({
    domain: (domid) => (living.has(domid) ? { dying: false, shutdown: false } : undefined),
    wake: () => undefined,
    log: () => undefined,
  });
  let reply = '';
  const join = (domid: number, heard: (payload: string) => void): StoreLink =>
    loop.connect({
      domid,
      who: 'client',
      deliver: ({ type, payload }) => {
        if (type !== XsType.WatchEvent) heard(payload);
      },
      closed: () => undefined,
    });
  const run = () => {
    while (loop.serveOne());
  };
  const dom0 = join(0, (payload) => {
    reply = splitStrings(payload)[0] ?? '';
  });
  const ask = (type: number, payload: string, txId = 0): string => {
    dom0.push({ type, reqId: 1, txId, payload });
    run();
    return reply;
  };
  const write = (path: string, value: string) => ask(XsType.Write, joinStrings(path) + value);
  const create = (domid: number) => {
    living.add(domid);
    const home = `/local/domain/${domid}`;
    write(home, '');
    ask(XsType.SetPerms, joinStrings(home, `n${domid}`));
    for (const key of ['name', 'memory/target', 'control/shutdown', 'device/vif/0/state', 'device/vbd/51712/state']) {
      write(`${home}/${key}`, key);
    }
    write(`/local/domain/0/backend/vif/${domid}/0/state`, '4');
    ask(XsType.Introduce, joinStrings(String(domid), '1', '1'));
    const guest = join(domid, () => undefined);
    for (const path of ['control/shutdown', 'device', `/local/domain/0/backend/vif/${domid}/0/state`]) {
      guest.push({ type: XsType.Watch, reqId: 1, txId: 0, payload: joinStrings(path, path) });
      ask(XsType.Watch, joinStrings(`/local/domain/${domid}/device/vif/0/state`, path));
    }
    run();
  };
  const destroy = (domid: number) => {
    living.delete(domid);
    loop.virq(domid);
    run();
    for (const path of [`/local/domain/${domid}`, `/local/domain/0/backend/vif/${domid}`]) ask(XsType.Rm, joinStrings(path));
    for (const path of ['control/shutdown', 'device', `/local/domain/0/backend/vif/${domid}/0/state`]) {
      ask(XsType.Unwatch, joinStrings(`/local/domain/${domid}/device/vif/0/state`, path));
    }
  };
  return { loop, ask, create, destroy };
}

/** The operations, each on what no other domain has. A transaction is ten writes. */
const operations: readonly (readonly [string, (machine: Machine, round: number) => string])[] = [
  ['READ', ({ ask }) => ask(XsType.Read, joinStrings('/own/deep/down/here'))],
  ['READ of what is missing', ({ ask }) => ask(XsType.Read, joinStrings('/own/deep/up'))],
  ['WRITE of what is there', ({ ask }) => ask(XsType.Write, joinStrings('/own/deep/down/here'))],
  ['WRITE of a new node', ({ ask }, round) => ask(XsType.Write, joinStrings(`/own/deep/${round}/new`))],
  ['MKDIR', ({ ask }, round) => ask(XsType.Mkdir, joinStrings(`/own/dir-${round}`))],
  ['RM of a tree', ({ ask }, round) => ask(XsType.Rm, joinStrings(`/own/deep/${round}`))],
  ['DIRECTORY', ({ ask }) => ask(XsType.Directory, joinStrings('/own/deep'))],
  ['SET_PERMS', ({ ask }) => ask(XsType.SetPerms, joinStrings('/own/deep', 'b0'))],
  ['WATCH', ({ ask }, round) => ask(XsType.Watch, joinStrings('/own/watched', String(round)))],
  ['WRITE that fires a watch', ({ ask }) => ask(XsType.Write, joinStrings('/own/watched/below'))],
  ['UNWATCH', ({ ask }, round) => ask(XsType.Unwatch, joinStrings('/own/watched', String(round)))],
  [
    'a transaction',
    ({ ask }, round) => {
      const id = Number(ask(XsType.TransactionStart, '\0'));
      for (let i = 0; i < 10; i += 1) ask(XsType.Write, joinStrings(`/own/tx/${round}/${i}`), id);
      return ask(XsType.TransactionEnd, joinStrings('T'), id);
    },
  ],
  [
    'the life of a domain',
    ({ create, destroy, ask }) => {
      create(32_000);
      destroy(32_000);
      return ask(XsType.IsDomainIntroduced, joinStrings('32000'));
    },
  ],
];

/** Store nodes and watch entries that each operation looks at, when it is done for the third time, and its answer. */
function visits(on: Machine): (readonly [string, string, number, number])[] {
  const { store, watches } = on.loop.core;
  return operations.map(([name, run]) => {
    let row: readonly [string, string, number, number] = [name, '', 0, 0];
    for (let round = 0; round < 3; round += 1) {
      const before = [store.visits, watches.visits] as const;
      const answer = run(on, round);
      row = [name, answer, store.visits - before[0], watches.visits - before[1]];
    }
    return row;
  });
}

test('an operation looks at as many nodes and watches with 20,000 domains there as with none', () => {
  const [alone, crowded] = [machine(), machine()];
  // What dom0 always watches; the tree of watched paths is there without any domain.
  for (const { ask } of [alone, crowded]) {
    for (const path of ['/local/domain', '/local/domain/0/backend/vif']) ask(XsType.Watch, joinStrings(path, 'kernel'));
  }
  for (let domid = 1; domid <= 20_000; domid += 1) crowded.create(domid);
  for (const { ask } of [alone, crowded]) ask(XsType.Write, joinStrings('/own/deep/down/here'));
  const expected = visits(alone);
  expect(crowded.loop.core.store.size).toBeGreaterThan(200_000);
  expect(visits(crowded)).toEqual(expected);
  expect(expected.filter(([, , nodes, watched]) => nodes + watched === 0)).toEqual([]);
});
