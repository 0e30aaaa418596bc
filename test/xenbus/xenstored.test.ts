import { seeded } from '../../src/xenbus/clock.js';
import { atoi, lenientPerm } from '../../src/xenbus/requests.js';
import { faults } from '../../src/xenbus/store.js';
import {
  inputQueueMax,
  outputDropBytes,
  outputHoldBytes,
  StoreLoop,
  type StoreLoopOptions,
} from '../../src/xenbus/store-loop.js';
import type { StoreLink, StorePeer, Who } from '../../src/xenbus/transport.js';
import { Xenstored, type XenstoredEffect, type XenstoredOptions } from '../../src/xenbus/xenstored.js';
import { joinStrings, splitStrings, type XsPacket, XsType } from '../../src/xenbus/xs-wire.js';

/** Who asks, in which transaction, what, and what comes of it. An event is a row of its own, where it comes. */
type Row = readonly [who: string, tx: number, request: string, reply: string];

const types: Readonly<Record<string, number>> = {
  CONTROL: 0,
  DIRECTORY: 1,
  READ: 2,
  GET_PERMS: 3,
  WATCH: 4,
  UNWATCH: 5,
  START: 6,
  END: 7,
  INTRODUCE: 8,
  RELEASE: 9,
  GET_DOMAIN_PATH: 10,
  WRITE: 11,
  MKDIR: 12,
  RM: 13,
  SET_PERMS: 14,
  IS_DOMAIN_INTRODUCED: 17,
  RESUME: 18,
  SET_TARGET: 19,
  RESET_WATCHES: 21,
  DIRECTORY_PART: 22,
};

/** `WRITE /a some value`, `SET_PERMS /a n0 r1`, `READ`, `#99 x` (a type that there is not). */
function packet(tx: number, request: string): XsPacket {
  const [op = '', ...args] = request.split(' ');
  const type = op.startsWith('#') ? Number(op.slice(1)) : (types[op] ?? 0);
  const [path = '', ...rest] = args;
  const payload = op === 'WRITE' ? joinStrings(path) + rest.join(' ') : joinStrings(...args);
  return { type, reqId: 7, txId: tx, payload };
}

const shown = ({ payload }: XsPacket): string => splitStrings(payload).join(' ');

interface Stage {
  readonly core: Xenstored;
  /** Plays the requests of a table and answers with the table as it came out. */
  play(rows: readonly Row[]): Row[];
  /** What comes of a VIRQ, in the same form. */
  virq(): Row[];
  readonly other: string[];
}

/** A store with the connections `dom0`, `dom0b`, `dom1`, `dom2`, `dom3`, of domains that the hypervisor has. */
function stage(options: Partial<XenstoredOptions> = {}): Stage {
  const core = new Xenstored({ domain: (domid) => (domid <= 3 ? { dying: false, shutdown: false } : undefined), ...options });
  const names = new Map<number, string>();
  const conns = new Map<string, number>();
  const other: string[] = [];
  const rows = (effects: readonly XenstoredEffect[], tx = 0, request = '', asker = ''): Row[] =>
    effects.flatMap((effect): Row[] => {
      if (effect.do === 'log') return other.push(effect.line) ? [] : [];
      if (effect.do === 'introduced') return [['-', 0, 'introduced', `${effect.domid} ${effect.mfn} ${effect.port}`]];
      if (effect.do === 'released') return [['-', 0, 'released', `${effect.domid}`]];
      const who = names.get(effect.conn) ?? '?';
      if (effect.do === 'close') return [[who, 0, 'closed', '']];
      if (effect.packet.type === XsType.WatchEvent) return [[who, 0, 'EVENT', shown(effect.packet)]];
      return [[asker, tx, request, shown(effect.packet)]];
    });
  for (const [i, name] of ['dom0', 'dom0b', 'dom1', 'dom2', 'dom3'].entries()) {
    const domid = Number(/\d/.exec(name)?.[0]);
    names.set(i + 1, name);
    conns.set(name, i + 1);
    core.step({ on: 'connect', conn: i + 1, domid });
  }
  const ask = (who: string, tx: number, request: string): Row[] =>
    rows(core.step({ on: 'request', conn: conns.get(who) ?? 0, packet: packet(tx, request) }), tx, request, who);
  return {
    core,
    play: (table) =>
      table
        .filter(([, , request]) => types[request.split(' ')[0] ?? ''] !== undefined || request.startsWith('#'))
        .flatMap(([who, tx, request]) => ask(who, tx, request)),
    virq: () => rows(core.step({ on: 'virq' })),
    other,
  };
}

function expectDialogue(table: readonly Row[], on: Stage = stage()): Stage {
  expect(on.play(table)).toEqual(table);
  return on;
}

describe('a fresh store', () => {
  test('has /tool/xenstored, empty and of dom0', () => {
    expectDialogue([
      ['dom0', 0, 'DIRECTORY /', 'tool'],
      ['dom0', 0, 'DIRECTORY /tool', 'xenstored'],
      ['dom0', 0, 'READ /tool/xenstored', ''],
      ['dom0', 0, 'GET_PERMS /tool/xenstored', 'n0'],
    ]);
  });
});

describe('values and directories', () => {
  test('a write makes what is missing above, and lists come in the order of creation', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /z/y/x some value', 'OK'],
      ['dom0', 0, 'WRITE /z/a ', 'OK'],
      ['dom0', 0, 'READ /z/y/x', 'some value'],
      ['dom0', 0, 'READ /z/y', ''],
      ['dom0', 0, 'DIRECTORY /z', 'y a'],
    ]);
  });

  test('relative paths lie below the home of the connection', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE mtwatch/1 ', 'OK'],
      ['dom0', 0, 'DIRECTORY /local/domain/0/mtwatch', '1'],
      ['dom0', 0, 'GET_DOMAIN_PATH 5', '/local/domain/5'],
    ]);
  });

  test('removing is deep, and fine for a missing node whose parent is there', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /a/b/c v', 'OK'],
      ['dom0', 0, 'RM /a/b', 'OK'],
      ['dom0', 0, 'READ /a/b/c', 'ENOENT'],
      ['dom0', 0, 'RM /a/b', 'OK'],
      ['dom0', 0, 'RM /a/b/c', 'ENOENT'],
      ['dom0', 0, 'RM /', 'EINVAL'],
      ['dom0', 0, 'DIRECTORY /a', ''],
    ]);
  });

  test('a list past one payload is E2BIG, and comes in parts that end in an empty name', () => {
    const { core, play } = stage();
    for (let i = 0; i < 1100; i += 1) play([['dom0', 0, `MKDIR /d/${i}`, 'OK']]);
    const generation = core.store.get('/d')?.generation;
    expect(play([['dom0', 0, 'DIRECTORY /d', '']])).toEqual([['dom0', 0, 'DIRECTORY /d', 'E2BIG']]);
    const list = core.store.list('/d');
    const part = (offset: number): string => {
      const [effect] = core.step({ on: 'request', conn: 1, packet: packet(0, `DIRECTORY_PART /d ${offset}`) });
      return effect?.do === 'send' ? effect.packet.payload : '';
    };
    const first = part(0);
    const head = joinStrings(String(generation));
    const taken = first.length - head.length;
    expect(first.length).toBeLessThanOrEqual(4096);
    expect(first.slice(head.length) + part(taken).slice(head.length)).toBe(`${list}\0`);
    expect(part(list.length)).toBe(`${head}\0`);
  });
});

describe('mistakes', () => {
  test.each<Row>([
    ['dom0', 0, 'READ /missing', 'ENOENT'],
    ['dom0', 0, 'READ //', 'EINVAL'],
    ['dom0', 0, 'READ /a/', 'EINVAL'],
    ['dom0', 0, 'READ /a.b', 'EINVAL'],
    ['dom0', 0, 'READ @releaseDomain', 'EINVAL'],
    ['dom0', 0, 'READ /a /b', 'ENOENT'],
    ['dom0', 0, 'MKDIR /a /b', 'ENOMEM'],
    ['dom0', 0, `READ /${'x'.repeat(2048)}`, 'EINVAL'],
    ['dom0', 0, `READ /local/domain/7/${'x'.repeat(2048)}`, 'ENOENT'],
    ['dom0', 0, `READ /local/domain/7/${'x'.repeat(2049)}`, 'EINVAL'],
    ['dom0', 9, 'READ /tool', 'ENOENT'],
    ['dom0', 9, '#20 x', 'ENOSYS'],
    ['dom0', 0, '#15 x', 'ENOSYS'],
    ['dom0', 0, '#4000000000 x', 'ENOSYS'],
    ['dom0', 0, 'SET_PERMS /tool', 'EINVAL'],
    ['dom0', 0, 'SET_PERMS /tool x0', 'EINVAL'],
    ['dom0', 0, 'SET_PERMS /tool n99', 'ENOENT'],
    ['dom0', 0, 'SET_PERMS /missing n0', 'ENOENT'],
    ['dom0', 0, 'WATCH /a', 'EINVAL'],
    ['dom0', 0, 'WATCH /a b c', 'EINVAL'],
    ['dom0', 0, 'WATCH /a/ t', 'EINVAL'],
    ['dom0', 0, 'UNWATCH /a t', 'ENOENT'],
    ['dom0', 0, 'END T', 'ENOENT'],
    ['dom0', 0, 'END X', 'EINVAL'],
    ['dom0', 0, 'RELEASE 0', 'EINVAL'],
    ['dom0', 0, 'RELEASE 9', 'ENOENT'],
    ['dom0', 0, 'INTRODUCE 9 1 1', 'EINVAL'],
    ['dom0', 0, 'INTRODUCE 1 1 0', 'EINVAL'],
    ['dom0', 0, 'INTRODUCE 1', 'EINVAL'],
    ['dom0', 0, 'CONTROL nonsense', 'EINVAL'],
    ['dom1', 0, 'CONTROL help', 'EACCES'],
    ['dom1', 0, 'INTRODUCE 1 1 1', 'EACCES'],
    ['dom1', 0, 'IS_DOMAIN_INTRODUCED 0', 'EACCES'],
    ['dom1', 0, 'READ /tool', 'EACCES'],
    ['dom1', 0, 'READ /missing', 'EACCES'],
  ])('%s, transaction %i: %s is %s', (...row) => {
    expectDialogue([row]);
  });
});

describe('events', () => {
  test('come before the reply of what caused them, and the first one of a watch behind its reply', () => {
    expectDialogue([
      ['dom0', 0, 'WATCH /a t', 'OK'],
      ['dom0', 0, 'EVENT', '/a t'],
      ['dom0', 0, 'EVENT', '/a/b t'],
      ['dom0', 0, 'WRITE /a/b v', 'OK'],
      ['dom0', 0, 'WATCH /a t', 'EEXIST'],
      ['dom0', 0, 'UNWATCH /a t', 'OK'],
      ['dom0', 0, 'WRITE /a/b v', 'OK'],
    ]);
  });

  test('of a write tell of the node, and not of the parents that it made on the way', () => {
    expectDialogue([
      ['dom0', 0, 'WATCH / t', 'OK'],
      ['dom0', 0, 'EVENT', '/ t'],
      ['dom0', 0, 'EVENT', '/a/b/c t'],
      ['dom0', 0, 'WRITE /a/b/c v', 'OK'],
      ['dom0', 0, 'MKDIR /a/b', 'OK'],
      ['dom0', 0, 'EVENT', '/a/b t'],
      ['dom0', 0, 'SET_PERMS /a/b n0', 'OK'],
    ]);
  });

  test('of a removal go to exact watches below, children first, and then from its root to all above', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /a/b/c v', 'OK'],
      ['dom0', 0, 'WRITE /a/d v', 'OK'],
      ['dom0', 0, 'WATCH /a/b/c t', 'OK'],
      ['dom0', 0, 'EVENT', '/a/b/c t'],
      ['dom0', 0, 'WATCH /a/b t', 'OK'],
      ['dom0', 0, 'EVENT', '/a/b t'],
      ['dom0', 0, 'WATCH / t', 'OK'],
      ['dom0', 0, 'EVENT', '/ t'],
      ['dom0', 0, 'WATCH /a/missing t', 'OK'],
      ['dom0', 0, 'EVENT', '/a/missing t'],
      ['dom0', 0, 'EVENT', '/a/b/c t'],
      ['dom0', 0, 'EVENT', '/a/b t'],
      ['dom0', 0, 'EVENT', '/a t'],
      ['dom0', 0, 'RM /a', 'OK'],
    ]);
  });

  test('go to the older connection first, and to each in the order of its watches', () => {
    expectDialogue([
      ['dom0b', 0, 'WATCH / b', 'OK'],
      ['dom0b', 0, 'EVENT', '/ b'],
      ['dom0', 0, 'WATCH /a deep', 'OK'],
      ['dom0', 0, 'EVENT', '/a deep'],
      ['dom0', 0, 'WATCH / root', 'OK'],
      ['dom0', 0, 'EVENT', '/ root'],
      ['dom0', 0, 'EVENT', '/a deep'],
      ['dom0', 0, 'EVENT', '/a root'],
      ['dom0b', 0, 'EVENT', '/a b'],
      ['dom0b', 0, 'WRITE /a v', 'OK'],
    ]);
  });

  test('of a relative watch are relative', () => {
    expectDialogue([
      ['dom0', 0, 'WATCH mtwatch t', 'OK'],
      ['dom0', 0, 'EVENT', 'mtwatch t'],
      ['dom0', 0, 'EVENT', 'mtwatch/1 t'],
      ['dom0', 0, 'WRITE mtwatch/1 ', 'OK'],
      ['dom0', 0, 'WATCH /local/domain/0/mtwatch t', 'EEXIST'],
    ]);
  });

  test('past one payload are left out', () => {
    const { play } = stage();
    const token = 't'.repeat(4090);
    expect(play([['dom0', 0, `WATCH /a ${token}`, 'OK']])).toHaveLength(2);
    expect(play([['dom0', 0, 'WRITE /a/bcdefgh v', '']])).toEqual([['dom0', 0, 'WRITE /a/bcdefgh v', 'OK']]);
  });

  test('reach no one any more after RESET_WATCHES, which also ends the transactions', () => {
    expectDialogue([
      ['dom0', 0, 'WATCH /a t', 'OK'],
      ['dom0', 0, 'EVENT', '/a t'],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 0, 'RESET_WATCHES ', 'OK'],
      ['dom0', 0, 'WRITE /a v', 'OK'],
      ['dom0', 1, 'READ /a', 'ENOENT'],
    ]);
  });
});

describe('transactions', () => {
  test('list children in the order in which they were added, not in that of access', () => {
    expectDialogue([
      ['dom0', 0, 'MKDIR /s', 'OK'],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'READ /s/b', 'ENOENT'],
      ['dom0', 1, 'WRITE /s/a v', 'OK'],
      ['dom0', 1, 'WRITE /s/b v', 'OK'],
      ['dom0', 1, 'END T', 'OK'],
      ['dom0', 0, 'DIRECTORY /s', 'a b'],
      ['dom0', 0, 'START ', '2'],
      ['dom0', 2, 'RM /s/a', 'OK'],
      ['dom0', 2, 'WRITE /s/a v', 'OK'],
      ['dom0', 2, 'DIRECTORY /s', 'b a'],
      ['dom0', 2, 'END T', 'OK'],
      ['dom0', 0, 'DIRECTORY /s', 'b a'],
    ]);
  });

  test('hold a directory against the size of a node as it has become in them', () => {
    expectDialogue(
      [
        ['dom0', 0, 'WRITE /local/domain/1 ', 'OK'],
        ['dom0', 0, 'SET_PERMS /local/domain/1 n1', 'OK'],
        ['dom1', 0, 'MKDIR aaaaaaaaaa', 'OK'],
        ['dom1', 0, 'MKDIR bbbbbbbbbb', 'OK'],
        ['dom1', 0, 'MKDIR cccccccccc', 'ENOSPC'],
        ['dom1', 0, 'START ', '1'],
        ['dom1', 1, 'RM aaaaaaaaaa', 'OK'],
        ['dom1', 1, 'MKDIR cccccccccc', 'OK'],
        ['dom1', 1, 'MKDIR dddddddddd', 'ENOSPC'],
      ],
      stage({ quotas: { nodeSize: 60 } }),
    );
  });

  test('fire at the commit, in the order of first access, each node once', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /a v', 'OK'],
      ['dom0b', 0, 'WATCH / t', 'OK'],
      ['dom0b', 0, 'EVENT', '/ t'],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'READ /a', 'v'],
      ['dom0', 1, 'WRITE /b 1', 'OK'],
      ['dom0', 1, 'WRITE /a 1', 'OK'],
      ['dom0', 1, 'WRITE /a 2', 'OK'],
      ['dom0', 1, 'WRITE /c/d 2', 'OK'],
      ['dom0', 1, 'RM /c/d', 'OK'],
      ['dom0b', 0, 'READ /b', 'ENOENT'],
      ['dom0b', 0, 'EVENT', '/a t'],
      ['dom0b', 0, 'EVENT', '/b t'],
      ['dom0', 1, 'END T', 'OK'],
      ['dom0b', 0, 'DIRECTORY /', 'tool a b c'],
    ]);
  });

  test('end in EAGAIN when another created a sibling, and are gone then', () => {
    expectDialogue([
      ['dom0', 0, 'MKDIR /d', 'OK'],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'WRITE /d/mine v', 'OK'],
      ['dom0b', 0, 'WRITE /d/theirs v', 'OK'],
      ['dom0', 1, 'END T', 'EAGAIN'],
      ['dom0', 1, 'END T', 'ENOENT'],
      ['dom0', 0, 'DIRECTORY /d', 'theirs'],
    ]);
  });

  test('do not nest, are numbered for each connection, and are thrown away by F', () => {
    expectDialogue([
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'START ', 'EBUSY'],
      ['dom0b', 0, 'START ', '1'],
      ['dom0b', 1, 'WRITE /a v', 'OK'],
      ['dom0', 1, 'READ /a', 'ENOENT'],
      ['dom0b', 1, 'END F', 'OK'],
      ['dom0', 0, 'READ /a', 'ENOENT'],
      ['dom0', 0, 'START ', '2'],
    ]);
  });

  test('that only read conflict too', () => {
    expectDialogue([
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'READ /missing', 'ENOENT'],
      ['dom0b', 0, 'WRITE /missing v', 'OK'],
      ['dom0', 1, 'END T', 'EAGAIN'],
    ]);
  });
});

describe('permissions', () => {
  const home: readonly Row[] = [
    ['dom0', 0, 'WRITE /local/domain/1 ', 'OK'],
    ['dom0', 0, 'SET_PERMS /local/domain/1 n1', 'OK'],
  ];

  test('an owner may do all but give its node away; what it makes is its own', () => {
    expectDialogue([
      ...home,
      ['dom1', 0, 'WRITE data/x v', 'OK'],
      ['dom1', 0, 'GET_PERMS data/x', 'n1'],
      ['dom2', 0, 'READ /local/domain/1/data/x', 'EACCES'],
      ['dom1', 0, 'SET_PERMS data/x n1 r2', 'OK'],
      ['dom2', 0, 'READ /local/domain/1/data/x', 'v'],
      ['dom2', 0, 'WRITE /local/domain/1/data/x w', 'EACCES'],
      ['dom2', 0, 'SET_PERMS /local/domain/1/data/x n1', 'EACCES'],
      ['dom1', 0, 'SET_PERMS data/x n2', 'EPERM'],
    ]);
  });

  test('dom0 may do all, and what it makes belongs to the owner of the node above', () => {
    expectDialogue([...home, ['dom0', 0, 'WRITE /local/domain/1/x v', 'OK'], ['dom0', 0, 'GET_PERMS /local/domain/1/x', 'n1']]);
  });

  test('whoever may not see a node is not told whether it is there', () => {
    expectDialogue([
      ...home,
      ['dom1', 0, 'WRITE x v', 'OK'],
      ['dom2', 0, 'READ /local/domain/1/x', 'EACCES'],
      ['dom2', 0, 'READ /local/domain/1/missing', 'EACCES'],
      ['dom1', 0, 'READ missing', 'ENOENT'],
    ]);
  });

  test('events reach an unprivileged watcher that may read the node, its parent, or could until now', () => {
    expectDialogue([
      ...home,
      ['dom1', 0, 'WRITE x v', 'OK'],
      ['dom2', 0, 'WATCH /local/domain/1 t', 'OK'],
      ['dom2', 0, 'EVENT', '/local/domain/1 t'],
      ['dom1', 0, 'WRITE x v', 'OK'],
      ['dom2', 0, 'EVENT', '/local/domain/1/x t'],
      ['dom1', 0, 'SET_PERMS x n1 r2', 'OK'],
      ['dom2', 0, 'EVENT', '/local/domain/1/x t'],
      ['dom1', 0, 'WRITE x w', 'OK'],
      ['dom2', 0, 'EVENT', '/local/domain/1/x t'],
      ['dom1', 0, 'SET_PERMS x n1', 'OK'],
      ['dom1', 0, 'WRITE x x', 'OK'],
    ]);
  });

  test('a domain has the rights of its target too', () => {
    const known = { dying: false, shutdown: false };
    const on = stage({ domain: () => known });
    on.play([
      ['dom0', 0, 'INTRODUCE 1 1 1', 'OK'],
      ['dom0', 0, 'INTRODUCE 2 1 1', 'OK'],
    ]);
    expectDialogue(
      [
        ...home,
        ['dom1', 0, 'WRITE x v', 'OK'],
        ['dom2', 0, 'READ /local/domain/1/x', 'EACCES'],
        ['dom0', 0, 'SET_TARGET 2 1', 'OK'],
        ['dom2', 0, 'READ /local/domain/1/x', 'v'],
        ['dom0', 0, 'SET_TARGET 2 9', 'ENOENT'],
      ],
      on,
    );
  });

  test('given to a domain that is gone do not count for the next of that number', () => {
    const living = new Set([4]);
    const on = stage({ domain: (domid) => (living.has(domid) ? { dying: false, shutdown: false } : undefined) });
    on.play([
      ['dom0', 0, 'INTRODUCE 4 1 1', ''],
      ['dom0', 0, 'WRITE /x v', ''],
      ['dom0', 0, 'SET_PERMS /x n0 r4', ''],
      ['dom0', 0, 'WRITE /later v', ''],
    ]);
    on.core.step({ on: 'connect', conn: 40, domid: 4 });
    const read = (conn: number) => {
      const [effect] = on.core.step({ on: 'request', conn, packet: packet(0, 'READ /x') });
      return effect?.do === 'send' ? shown(effect.packet) : '';
    };
    expect(read(40)).toBe('v');
    on.play([
      ['dom0', 0, 'RELEASE 4', ''],
      ['dom0', 0, 'INTRODUCE 4 1 1', ''],
    ]);
    on.core.step({ on: 'connect', conn: 41, domid: 4 });
    expect(read(41)).toBe('EACCES');
    expectDialogue([['dom0', 0, 'GET_PERMS /x', 'n0 r4']], on);
  });
});

describe('domains', () => {
  test('an introduction is announced once, and never for dom0', () => {
    expectDialogue([
      ['dom0', 0, 'WATCH @introduceDomain t', 'OK'],
      ['dom0', 0, 'EVENT', '@introduceDomain t'],
      ['dom0', 0, 'IS_DOMAIN_INTRODUCED 1', 'F'],
      ['-', 0, 'introduced', '1 4660 2'],
      ['dom0', 0, 'EVENT', '@introduceDomain t'],
      ['dom0', 0, 'INTRODUCE 1 4660 2', 'OK'],
      ['dom0', 0, 'INTRODUCE 1 4660 3', 'OK'],
      ['dom0', 0, 'INTRODUCE 0 4660 3', 'OK'],
      ['dom0', 0, 'IS_DOMAIN_INTRODUCED 1', 'T'],
      ['dom0', 0, 'IS_DOMAIN_INTRODUCED 0', 'T'],
    ]);
  });

  test('a shutdown is announced once, and the end once more, with the nodes and connections of the domain gone', () => {
    const state = { dying: false, shutdown: false };
    const on = stage({ domain: (domid) => (domid <= 3 ? (domid === 1 ? state : { dying: false, shutdown: false }) : undefined) });
    on.play([
      ['dom0', 0, 'INTRODUCE 1 1 1', 'OK'],
      ['dom0', 0, 'WRITE /local/domain/1 ', 'OK'],
      ['dom0', 0, 'SET_PERMS /local/domain/1 n1', 'OK'],
      ['dom1', 0, 'WRITE x v', 'OK'],
      ['dom0', 0, 'WATCH /local t', 'OK'],
      ['dom0', 0, 'WATCH @releaseDomain t', 'OK'],
    ]);
    expect(on.virq()).toEqual([]);
    state.shutdown = true;
    expect(on.virq()).toEqual([['dom0', 0, 'EVENT', '@releaseDomain t']]);
    expect(on.virq()).toEqual([]);
    state.dying = true;
    expect(on.virq()).toEqual([
      ['dom1', 0, 'closed', ''],
      ['dom0', 0, 'EVENT', '/local/domain/1 t'],
      ['dom0', 0, 'EVENT', '@releaseDomain t'],
      ['-', 0, 'released', '1'],
    ]);
    expect(on.virq()).toEqual([]);
    expectDialogue([['dom0', 0, 'DIRECTORY /local/domain', '']], on);
    expect([on.core.store.ownedNodes(1), faults(on.core.store)]).toEqual([0, []]);
  });

  test('after RESUME a shutdown is announced again', () => {
    const on = stage({ domain: () => ({ dying: false, shutdown: true }) });
    on.play([
      ['dom0', 0, 'INTRODUCE 1 1 1', 'OK'],
      ['dom0', 0, 'WATCH @releaseDomain t', 'OK'],
    ]);
    expect([on.virq().length, on.virq().length]).toEqual([1, 0]);
    on.play([['dom0', 0, 'RESUME 1', 'OK']]);
    expect(on.virq()).toHaveLength(1);
  });

  test('special events are for dom0, until it lets others hear of them', () => {
    const on = stage();
    expectDialogue(
      [
        ['dom1', 0, 'WATCH @introduceDomain t', 'OK'],
        ['dom1', 0, 'EVENT', '@introduceDomain t'],
        ['-', 0, 'introduced', '2 1 1'],
        ['dom0', 0, 'INTRODUCE 2 1 1', 'OK'],
        ['dom1', 0, 'SET_PERMS @introduceDomain n0 r1', 'EACCES'],
        ['dom0', 0, 'SET_PERMS @introduceDomain n0 r1', 'OK'],
        ['-', 0, 'introduced', '3 1 1'],
        ['dom1', 0, 'EVENT', '@introduceDomain t'],
        ['dom0', 0, 'INTRODUCE 3 1 1', 'OK'],
      ],
      on,
    );
  });
});

describe('quotas', () => {
  const home: readonly Row[] = [
    ['dom0', 0, 'WRITE /local/domain/1 ', 'OK'],
    ['dom0', 0, 'SET_PERMS /local/domain/1 n1', 'OK'],
  ];
  const full = (quotas: XenstoredOptions['quotas']): Stage => {
    const on = stage({ ...(quotas && { quotas }) });
    on.play(home);
    return on;
  };

  test.each<[string, NonNullable<XenstoredOptions['quotas']>, readonly Row[]]>([
    [
      'nodes',
      { nodes: 2 },
      [
        ['dom1', 0, 'WRITE a v', 'OK'],
        ['dom1', 0, 'WRITE b v', 'ENOSPC'],
        ['dom1', 0, 'WRITE a w', 'OK'],
        ['dom0', 0, 'WRITE /local/domain/1/b v', 'OK'],
      ],
    ],
    [
      'watches',
      { watches: 1 },
      [
        ['dom1', 0, 'WATCH a t', 'OK'],
        ['dom1', 0, 'EVENT', 'a t'],
        ['dom1', 0, 'WATCH b t', 'OK'],
        ['dom1', 0, 'EVENT', 'b t'],
        ['dom1', 0, 'WATCH c t', 'E2BIG'],
      ],
    ],
    [
      'transactions',
      { transactions: 1 },
      [
        ['dom1', 0, 'START ', '1'],
        ['dom1', 0, 'START ', '2'],
        ['dom1', 0, 'START ', 'ENOSPC'],
      ],
    ],
    [
      'node-size',
      { nodeSize: 60 },
      [
        ['dom1', 0, `WRITE a ${'v'.repeat(27)}`, 'OK'],
        ['dom1', 0, `WRITE a ${'v'.repeat(28)}`, 'ENOSPC'],
        ['dom0', 0, `WRITE /local/domain/1/a ${'v'.repeat(99)}`, 'OK'],
      ],
    ],
    [
      'permissions',
      { permissions: 1 },
      [
        ['dom1', 0, 'SET_PERMS /local/domain/1 n1', 'OK'],
        ['dom1', 0, 'SET_PERMS /local/domain/1 n1 r2', 'ENOSPC'],
      ],
    ],
    [
      'transaction-nodes',
      { transactionNodes: 1 },
      [
        ['dom1', 0, 'START ', '1'],
        ['dom1', 1, 'READ /local/domain/1', ''],
        ['dom1', 1, 'READ a', 'ENOSPC'],
        ['dom1', 1, 'END T', 'ENOMEM'],
      ],
    ],
    [
      'memory',
      { memory: 200 },
      [
        ['dom1', 0, 'WRITE a v', 'OK'],
        ['dom1', 0, `WRITE b ${'v'.repeat(99)}`, 'EIO'],
        ['dom1', 0, `WATCH ${'b'.repeat(150)} t`, 'ENOMEM'],
      ],
    ],
  ])('of %s hold for a guest, and the log names quota, domain and limit once', (quota, quotas, table) => {
    const on = full(quotas);
    expectDialogue(table, on);
    const [limit] = Object.values(quotas);
    const lines = on.other.filter((line) => line.includes(`domain 1 is at its quota ${quota} of ${limit}:`));
    if (quota !== 'transaction-nodes') expect(lines).toHaveLength(1);
  });

  test('of nodes count what a transaction would leave, and refuse at its end', () => {
    expectDialogue(
      [
        ['dom1', 0, 'START ', '1'],
        ['dom1', 1, 'WRITE a v', 'OK'],
        ['dom1', 1, 'WRITE b v', 'OK'],
        ['dom1', 1, 'END T', 'ENOSPC'],
        ['dom1', 0, 'READ a', 'ENOENT'],
      ],
      full({ nodes: 3 }),
    );
  });

  test('leave nothing behind of a path that was made half way', () => {
    const on = full({ nodes: 3 });
    expectDialogue([['dom1', 0, 'WRITE a/b/c v', 'ENOSPC']], on);
    expect([on.core.store.ownedNodes(1), faults(on.core.store)]).toEqual([1, []]);
  });

  test('can be read and set by xenstore-control', () => {
    const on = stage();
    on.play([['dom0', 0, 'CONTROL quota set nodes 5', 'OK']]);
    expect(on.core.quotas.limits.nodes).toBe(5);
    expect(on.play([['dom0', 0, 'CONTROL quota', '']])[0]?.[3]).toMatch(/^Quota settings:\nnodes {12}: {8}5 /);
    expect(on.play([['dom0', 0, 'CONTROL quota 1', '']])[0]?.[3]).toMatch(/^Domain 1:\nnodes {11}: {8}0\n/);
  });
});

test.each([
  ['12', 12],
  [' -3x', -3],
  ['x', 0],
  ['', 0],
  ['4294967297', 1],
])('atoi(%j) is %i, as in C', (text, number) => {
  expect(atoi(text)).toBe(number);
});

test.each([
  ['r1', 1],
  ['n0x10', 16],
  ['b010', 8],
  ['w -1', -1],
  ['r08', undefined],
  ['r', undefined],
  ['x1', undefined],
  ['r1x', undefined],
])('the permission %j is for domain %j, in any spelling of strtol', (text, domid) => {
  expect(lenientPerm(text)?.domid).toBe(domid);
});

test('step is not entered while it runs', () => {
  const core: Xenstored = new Xenstored({
    domain: () => {
      core.step({ on: 'virq' });
      return undefined;
    },
  });
  core.step({ on: 'connect', conn: 1, domid: 0 });
  expect(() => core.step({ on: 'request', conn: 1, packet: packet(0, 'INTRODUCE 5 1 1') })).toThrow(/while it was at work/);
});

describe('laws, under random requests of dom0 and three guests that come and go', () => {
  /** A random request, most of them sensible. */
  function anyRequest(next: () => number): string {
    const pick = <T>(...options: readonly [T, ...T[]]): T => options[next() % options.length] ?? options[0];
    const path = `${pick('/t', '/t', '/local/domain/1', '/local/domain/2')}${pick('', '/a', '/b', '/a/b', '/a/b/c')}`;
    const perm = () => `${pick('n', 'r', 'w', 'b')}${pick(0, 1, 2, 3)}`;
    return pick(
      `WRITE ${path} ${'v'.repeat(next() % 40)}`,
      `MKDIR ${path}`,
      `RM ${path}`,
      `SET_PERMS ${path} ${perm()} ${perm()}`,
      `WATCH ${path} ${pick('x', 'y')}`,
      `UNWATCH ${path} x`,
      `READ ${path}`,
      `DIRECTORY ${path}`,
      'START ',
      `END ${pick('T', 'T', 'F')}`,
      `INTRODUCE ${pick(1, 2, 3)} 1 1`,
      'RESET_WATCHES ',
    );
  }

  test.each([1, 2, 3, 4, 5, 6, 7, 8])(
    'seed %i: owners count their nodes, every request is answered once, nothing is left',
    (seed) => {
      const next = seeded(seed);
      const living = new Set([1, 2, 3]);
      const core = new Xenstored({
        domain: (domid) => (living.has(domid) ? { dying: false, shutdown: false } : undefined),
        quotas: { nodes: 20, watches: 5, transactions: 2, nodeSize: 120, memory: 2000 },
      });
      const open = new Map<number, number>();
      const take = (effects: readonly XenstoredEffect[]): number => {
        for (const effect of effects) if (effect.do === 'close') open.delete(effect.conn);
        return effects.filter((effect) => effect.do === 'send' && effect.packet.type !== XsType.WatchEvent).length;
      };
      let last = 0;
      for (let i = 0; i < 3000; i += 1) {
        const chance = next() % 50;
        const conns = [...open.keys()];
        const conn = conns[next() % Math.max(1, conns.length)];
        if (chance === 0 || conn === undefined) {
          last += 1;
          const domid = next() % 4;
          open.set(last, domid);
          take(core.step({ on: 'connect', conn: last, domid: living.has(domid) ? domid : 0 }));
        } else if (chance === 1) {
          open.delete(conn);
          take(core.step({ on: 'disconnect', conn }));
        } else if (chance === 2) {
          const domid = 1 + (next() % 3);
          if (!living.delete(domid)) living.add(domid);
          take(core.step({ on: 'virq' }));
        } else {
          const tx = next() % 3 === 0 ? 1 + (next() % 3) : 0;
          expect(take(core.step({ on: 'request', conn, packet: packet(tx, anyRequest(next)) }))).toBe(1);
        }
      }
      expect(faults(core.store)).toEqual([]);
      const counted = new Map<number, number>();
      const generations = new Set<number>();
      for (const [, node] of core.store.entries()) {
        counted.set(node.perms[0].domid, (counted.get(node.perms[0].domid) ?? 0) + 1);
        generations.add(node.generation);
      }
      expect([0, 1, 2, 3].map((domid) => core.store.ownedNodes(domid))).toEqual(
        [0, 1, 2, 3].map((domid) => counted.get(domid) ?? 0),
      );
      expect(generations.size).toBe(core.store.size);
      for (const conn of [...open.keys()]) core.step({ on: 'disconnect', conn });
      living.clear();
      core.step({ on: 'virq' });
      expect([1, 2, 3].map((domid) => [core.store.ownedNodes(domid), core.memoryOf(domid)])).toEqual([
        [0, 0],
        [0, 0],
        [0, 0],
      ]);
      expect(core.watches.matching('/t/a/b/c', false)).toEqual([]);
    },
  );
});

/** A peer of a loop that writes down what it gets, and says that it is full when it is told to be. */
interface Listener {
  readonly got: string[];
  readonly link: StoreLink;
  full: boolean;
  drains: number;
  closed: string | undefined;
}

function loopWith(options: Partial<StoreLoopOptions> = {}) {
  const wakes: string[] = [];
  const log: string[] = [];
  const order: string[] = [];
  const loop = new StoreLoop({
    domain: () => undefined,
    wake: () => wakes.push('wake'),
    log: (line) => log.push(line),
    ...options,
  });
  const join = (name: string, domid = 0, who: Who = 'client'): Listener => {
    const listener = { got: [] as string[], full: false, drains: 0, closed: undefined as string | undefined };
    const peer: StorePeer = {
      domid,
      who,
      deliver: (given) => {
        listener.got.push(shown(given));
        order.push(`${name}: ${shown(given)}`);
      },
      full: () => listener.full,
      closed: (reason) => {
        listener.closed = reason;
      },
      drained: () => {
        listener.drains += 1;
      },
    };
    return Object.assign(listener, { link: loop.connect(peer) });
  };
  const run = () => {
    while (loop.serveOne());
  };
  return { loop, join, run, wakes, log, order };
}

describe('the loop', () => {
  test('serves the connections in turn, one request each, and wakes once for all that is waiting', () => {
    const { join, run, wakes, order } = loopWith();
    const [a, b] = [join('a'), join('b')];
    for (const path of ['/1', '/2', '/3']) a.link.push(packet(0, `READ ${path}`));
    b.link.push(packet(0, 'GET_DOMAIN_PATH 1'));
    expect(order).toEqual([]);
    run();
    expect(order).toEqual(['a: ENOENT', 'b: /local/domain/1', 'a: ENOENT', 'a: ENOENT']);
    a.link.push(packet(0, 'READ /1'));
    expect(wakes).toHaveLength(2);
  });

  test('asks a connection to stop at the bound of its queue, and to go on when half of it is served', () => {
    const { loop, join } = loopWith();
    const a = join('a');
    const pushed: boolean[] = [];
    for (let i = 0; i < inputQueueMax; i += 1) pushed.push(a.link.push(packet(0, 'READ /1')));
    expect(pushed.indexOf(false)).toBe(inputQueueMax - 1);
    expect(() => a.link.push(packet(0, 'READ /1'))).toThrow(/full queue/);
    for (let i = 0; i < inputQueueMax / 2; i += 1) {
      expect(a.drains).toBe(0);
      loop.serveOne();
    }
    expect([a.drains, a.link.push(packet(0, 'READ /1'))]).toEqual([1, true]);
  });

  test('keeps what a full peer does not take, in order, and leaves out the event that is still waiting', () => {
    const { join, run } = loopWith();
    const [a, b] = [join('a'), join('b')];
    a.link.push(packet(0, 'WATCH /x t'));
    run();
    a.full = true;
    for (const path of ['/x', '/x', '/x/y', '/x']) b.link.push(packet(0, `WRITE ${path} v`));
    a.link.push(packet(0, 'READ /x'));
    run();
    expect(a.got).toEqual(['OK', '/x t']);
    a.full = false;
    a.link.resume();
    expect(a.got).toEqual(['OK', '/x t', '/x t', 'v', '/x/y t']);
    b.link.push(packet(0, 'WRITE /x v'));
    run();
    expect(a.got.at(-1)).toBe('/x t');
  });

  test('does not serve a peer that leaves too much unread, and drops it in the end; others go on', () => {
    const served: number[] = [];
    const { join, run, log } = loopWith({ traced: (conn, _who, _domid, _request, reply) => reply && served.push(conn) });
    const [a, b] = [join('a'), join('b')];
    a.link.push(packet(0, `WATCH /x ${'t'.repeat(4000)}`));
    run();
    a.full = true;
    let written = 0;
    const write = (bytes: number) => {
      for (const end = written + bytes / 4000; written < end; written += 1) {
        b.link.push(packet(0, `WRITE /x/${written} v`));
        run();
      }
    };
    write(outputHoldBytes + 4000);
    a.link.push(packet(0, 'READ /x'));
    run();
    expect(served.filter((conn) => conn === 1)).toHaveLength(1);
    a.full = false;
    a.link.resume();
    run();
    expect(served.filter((conn) => conn === 1)).toHaveLength(2);
    a.full = true;
    write(outputDropBytes + 4000);
    expect(a.closed).toMatch(/unread/);
    expect(log.at(-1)).toMatch(/connection 1 of client \(domain 0\) is dropped: it left over \d+ bytes unread/);
    expect(b.got.at(-1)).toBe('OK');
  });

  test('lets a guest have no more requests open than its quota, until their events are delivered', () => {
    const { join, run } = loopWith({ quotas: { outstanding: 2 }, domain: () => ({ dying: false, shutdown: false }) });
    const dom0 = join('dom0');
    const guest = join('guest', 1, 'domU-kernel');
    for (const request of ['WATCH /local/domain/1 t', 'WRITE /local/domain/1 ', 'SET_PERMS /local/domain/1 n1']) {
      dom0.link.push(packet(0, request));
    }
    run();
    dom0.full = true;
    for (let i = 0; i < 4; i += 1) guest.link.push(packet(0, `WRITE ${i} v`));
    run();
    expect(guest.got).toEqual(['OK', 'OK']);
    const another = join('agent', 1);
    another.link.push(packet(0, 'READ 0'));
    run();
    expect(another.got).toEqual([]);
    dom0.full = false;
    dom0.link.resume();
    run();
    expect([guest.got, another.got]).toEqual([['OK', 'OK', 'OK', 'OK'], ['v']]);
  });

  test('leaves events out that would take a guest which does not read past its memory, and says so once', () => {
    const { join, run, log } = loopWith({ quotas: { memory: 400 }, domain: () => ({ dying: false, shutdown: false }) });
    const dom0 = join('dom0');
    const guest = join('guest', 1, 'domU-kernel');
    for (const request of ['WRITE /a ', 'SET_PERMS /a r0', 'RM /a', 'WRITE /a ', 'SET_PERMS /a r0']) {
      dom0.link.push(packet(0, request));
    }
    guest.link.push(packet(0, 'WATCH /a t'));
    run();
    guest.full = true;
    for (let i = 0; i < 40; i += 1) dom0.link.push(packet(0, `WRITE /a/${i} v`));
    run();
    guest.full = false;
    guest.link.resume();
    expect(guest.got.length).toBeGreaterThan(5);
    expect(guest.got.length).toBeLessThan(25);
    expect(log).toEqual(['xenstored: domain 1 is at its quota memory of 400: events that it does not read are left out']);
    dom0.link.push(packet(0, 'WRITE /a/again v'));
    run();
    expect(guest.got.at(-1)).toBe('/a/again t');
    expect(log).toHaveLength(1);
  });

  test('lets no connections of a guest past its quota together, and none by leaving and coming back', () => {
    const { join, run } = loopWith({ quotas: { outstanding: 2 }, domain: () => ({ dying: false, shutdown: false }) });
    const dom0 = join('dom0');
    for (const request of ['WATCH /local/domain/1 t', 'WRITE /local/domain/1 ', 'SET_PERMS /local/domain/1 n1']) {
      dom0.link.push(packet(0, request));
    }
    run();
    dom0.full = true;
    const agents = [1, 2, 3, 4].map((i) => join(`agent ${i}`, 1));
    for (const [i, { link }] of agents.entries()) link.push(packet(0, `WRITE ${i} v`));
    run();
    expect(agents.map(({ got }) => got)).toEqual([['OK'], ['OK'], [], []]);
    for (const { link } of agents) link.close();
    const again = join('agent', 1);
    again.link.push(packet(0, 'WRITE again v'));
    run();
    expect(again.got).toEqual([]);
    dom0.full = false;
    dom0.link.resume();
    run();
    expect(again.got).toEqual(['OK']);
  });

  test('drops who has left the most unread when it is too much for all', () => {
    const { join, run, log } = loopWith({ outputTotalBytes: 3000 });
    const [asks, writes, a, b] = [join('asks'), join('writes'), join('a'), join('b')];
    a.link.push(packet(0, 'WATCH /w t'));
    b.link.push(packet(0, 'WATCH /w/x a-much-longer-token'));
    run();
    a.full = true;
    b.full = true;
    for (let i = 0; i < 60; i += 1) writes.link.push(packet(0, i % 2 ? `WRITE /w/x/${i} v` : `WRITE /w/${i} v`));
    run();
    for (let i = 0; i < 60; i += 1) writes.link.push(packet(0, i % 2 ? `WRITE /w/x/${i + 60} v` : `WRITE /w/${i + 60} v`));
    run();
    expect([a.closed, b.closed]).toEqual([expect.stringMatching(/by all it left the most/), undefined]);
    expect(log).toHaveLength(1);
    asks.link.push(packet(0, 'READ /w/0'));
    run();
    expect(asks.got).toEqual(['v']);
  });

  test('lets a guest go on when another connection of it closes, and what that one held is free', () => {
    const { join, run, wakes } = loopWith({ quotas: { memory: 4500 }, domain: () => ({ dying: false, shutdown: false }) });
    const dom0 = join('dom0');
    for (const request of ['WRITE /local/domain/1 ', 'SET_PERMS /local/domain/1 n1']) dom0.link.push(packet(0, request));
    run();
    const [a, b] = [join('a', 1), join('b', 1)];
    const ask = (tx: number, request: string) => {
      a.link.push(packet(tx, request));
      run();
    };
    ask(0, `WRITE big ${'v'.repeat(1500)}`);
    for (const tx of [1, 2]) {
      ask(0, 'START ');
      ask(tx, 'READ big');
    }
    b.link.push(packet(0, 'GET_PERMS /local/domain/1'));
    run();
    expect(b.got).toEqual([]);
    wakes.length = 0;
    a.link.close();
    expect(wakes).toEqual(['wake']);
    run();
    expect(b.got).toEqual(['n1']);
  });

  test('serves what an ending connection has asked, although it is what its domain waits for', () => {
    const { join, run } = loopWith({ quotas: { memory: 4500 }, domain: () => ({ dying: false, shutdown: false }) });
    const dom0 = join('dom0');
    for (const request of ['WRITE /local/domain/1 ', 'SET_PERMS /local/domain/1 n1']) dom0.link.push(packet(0, request));
    run();
    const a = join('a', 1);
    a.link.push(packet(0, `WRITE big ${'v'.repeat(1500)}`));
    for (const tx of [1, 2]) {
      a.link.push(packet(0, 'START '));
      a.link.push(packet(tx, 'READ big'));
    }
    a.link.push(packet(0, 'READ big'));
    run();
    expect(a.got).toHaveLength(5);
    a.link.end();
    run();
    expect(a.got).toHaveLength(6);
  });

  test('counts the transactions of a guest over all of its connections', () => {
    const { join, run } = loopWith({ quotas: { transactions: 1 }, domain: () => ({ dying: false, shutdown: false }) });
    const [one, two] = [join('kernel', 1, 'domU-kernel'), join('agent', 1)];
    for (const { link } of [one, two, one, two]) link.push(packet(0, 'START '));
    run();
    expect([one.got, two.got]).toEqual([
      ['1', 'ENOSPC'],
      ['1', 'ENOSPC'],
    ]);
  });

  test('connects a guest from within the hook, before the introduction is announced', () => {
    const seen: string[] = [];
    const made = loopWith({
      domain: () => ({ dying: false, shutdown: false }),
      introduced: (domid) => {
        seen.push(`introduced ${domid}`);
        made.join('guest', domid, 'domU-kernel');
      },
    });
    const dom0 = made.join('dom0');
    dom0.link.push(packet(0, 'WATCH @introduceDomain t'));
    dom0.link.push(packet(0, 'INTRODUCE 1 1 1'));
    made.run();
    expect([seen, made.loop.connections]).toEqual([['introduced 1'], 2]);
    expect(dom0.got).toEqual(['OK', '@introduceDomain t', '@introduceDomain t', 'OK']);
  });

  test('closes the connections of a domain that is gone, and says so', () => {
    let living = true;
    const released: number[] = [];
    const { loop, join, run } = loopWith({
      domain: () => (living ? { dying: false, shutdown: false } : undefined),
      released: (domid) => released.push(domid),
    });
    const dom0 = join('dom0');
    dom0.link.push(packet(0, 'INTRODUCE 1 1 1'));
    run();
    const guest = join('guest', 1, 'domU-kernel');
    living = false;
    loop.virq(1);
    run();
    expect([guest.closed, released, loop.connections]).toEqual(['domain 1 was released', [1], 1]);
  });

  test('lets a peer push, close and connect while it is being delivered to, and never serves within that', () => {
    const { loop, run, join } = loopWith();
    const got: string[] = [];
    let tried: unknown;
    const link: StoreLink = loop.connect({
      domid: 0,
      who: 'client',
      deliver: (given) => {
        got.push(shown(given));
        if (got.length === 1) {
          link.push(packet(0, 'GET_DOMAIN_PATH 2'));
          join('another');
          try {
            loop.serveOne();
          } catch (error) {
            tried = error;
          }
        } else link.close();
      },
      closed: () => undefined,
    });
    link.push(packet(0, 'GET_DOMAIN_PATH 1'));
    run();
    expect(got).toEqual(['/local/domain/1', '/local/domain/2']);
    expect(tried).toBeInstanceOf(Error);
    expect(loop.connections).toBe(1);
  });

  test('traces every request with its reply, and behind it the events that it caused', () => {
    const lines: string[] = [];
    const { join, run } = loopWith({
      traced: (conn, who, domid, request, reply) =>
        lines.push(`${conn} ${who} ${domid} ${shown(request)} ${reply ? `-> ${shown(reply)}` : ''}`.trim()),
    });
    const [a, b] = [join('a', 0, 'xl'), join('b', 0, 'dom0-kernel')];
    b.link.push(packet(0, 'WATCH /x t'));
    run();
    a.link.push(packet(0, 'WRITE /x v'));
    run();
    expect(lines).toEqual(['2 dom0-kernel 0 /x t -> OK', '2 dom0-kernel 0 /x t', '1 xl 0 /x v -> OK', '2 dom0-kernel 0 /x t']);
  });
});
