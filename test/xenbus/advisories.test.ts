/**
 * What Xen's security advisories about XenStore say a guest must not be able to do, as claims that this server keeps.
 *
 * One block an advisory, by its number (XSA), as far as it can be seen in packets; what they say of the memory and the
 * stack of one implementation is here as what bounds it. The facts are those of the advisories and of the commits that
 * name them; packets in, packets out.
 */
import { outputHoldBytes } from '../../src/xenbus/store-loop.js';
import { PacketReader } from '../../src/xenbus/transport.js';
import { expectDialogue, packetOf, type Stage, shown, stage } from './dialogue.js';

/** The last reply that `who` got. */
const lastOf = (on: Stage, who: string): string => {
  const last = on.talker(who).got.at(-1);
  return last ? shown(last) : '';
};

const ask = (on: Stage, who: string, tx: number, request: string): string => {
  on.play([[who, tx, request, '']]);
  return lastOf(on, who);
};

/** A line of `quota DOMID`: what a domain uses. */
const used = (on: Stage, domid: number, what: string): number => {
  ask(on, 'dom0', 0, `CONTROL quota ${domid}`);
  return Number(new RegExp(`^${what} *: *(\\d+)$`, 'm').exec(lastOf(on, 'dom0'))?.[1]);
};

describe('XSA-115: watches tell a guest nothing that it may not read', () => {
  test('not that nodes of others are made, changed and removed', () => {
    expectDialogue([
      ['dom2', 0, 'WATCH / t', 'OK'],
      ['dom2', 0, 'EVENT', '/ t'],
      ['dom2', 0, 'WATCH /local/domain/1/secret t', 'OK'],
      ['dom2', 0, 'EVENT', '/local/domain/1/secret t'],
      ['dom1', 0, 'WRITE secret v', 'OK'],
      ['dom1', 0, 'SET_PERMS secret n1', 'OK'],
      ['dom1', 0, 'START ', '1'],
      ['dom1', 1, 'WRITE secret w', 'OK'],
      ['dom1', 1, 'END T', 'OK'],
      ['dom1', 0, 'RM secret', 'OK'],
      ['dom0', 0, 'WRITE /vm/uuid v', 'OK'],
    ]);
  });

  test('not that domains come and go', () => {
    const on = expectDialogue([
      ['dom1', 0, 'WATCH @introduceDomain t', 'OK'],
      ['dom1', 0, 'EVENT', '@introduceDomain t'],
      ['dom1', 0, 'WATCH @releaseDomain t', 'OK'],
      ['dom1', 0, 'EVENT', '@releaseDomain t'],
      ['dom0', 0, 'INTRODUCE 3 1 1', 'OK'],
      ['dom2', 0, 'CLOSED', ''],
      ['dom0', 0, 'RELEASE 2', 'OK'],
      ['dom1', 0, 'IS_DOMAIN_INTRODUCED 3', 'EACCES'],
    ]);
    on.domains.delete(3);
    expect(on.virq()).toEqual([['dom3', 0, 'CLOSED', '']]);
  });
});

describe('XSA-322: rights and nodes of a domain that is gone are not for the next of its number', () => {
  /** Ends domain 1 and introduces another of its number. */
  const reborn = (on: Stage): void => {
    on.domains.delete(1);
    on.virq();
    on.domains.set(1, { dying: false, shutdown: false });
    expectDialogue([['dom0', 0, 'INTRODUCE 1 4660 1', 'OK']], on);
  };

  test('a permission given to the old one does not let the new one in, until it is given again', () => {
    const on = expectDialogue([
      ['dom0', 0, 'WRITE /shared v', 'OK'],
      ['dom0', 0, 'SET_PERMS /shared n0 b1', 'OK'],
      ['dom2', 0, 'WRITE x v', 'OK'],
      ['dom2', 0, 'SET_PERMS x n2 r1', 'OK'],
      ['dom1', 0, 'READ /shared', 'v'],
    ]);
    reborn(on);
    expectDialogue(
      [
        ['dom1', 0, 'READ /shared', 'EACCES'],
        ['dom1', 0, 'WRITE /shared w', 'EACCES'],
        ['dom1', 0, 'READ /local/domain/2/x', 'EACCES'],
        ['dom0', 0, 'WRITE /shared w', 'OK'],
        ['dom0', 0, 'WRITE /shared/below v', 'OK'],
        ['dom1', 0, 'READ /shared', 'EACCES'],
        ['dom1', 0, 'READ /shared/below', 'EACCES'],
        ['dom1', 0, 'WATCH /shared t', 'OK'],
        ['dom1', 0, 'EVENT', '/shared t'],
        ['dom0', 0, 'RM /shared/below', 'OK'],
        ['dom1', 0, 'EVENT', '/shared t'],
        ['dom0', 0, 'SET_PERMS /shared n0 r1', 'OK'],
        ['dom1', 0, 'READ /shared', 'w'],
      ],
      on,
    );
  });

  test('nor one in a transaction that began while the old one lived and ended when it was gone', () => {
    const on = expectDialogue([
      ['dom0', 0, 'WRITE /shared v', 'OK'],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'SET_PERMS /shared n0 r1', 'OK'],
    ]);
    on.domains.delete(1);
    on.virq();
    expectDialogue([['dom0', 1, 'END T', 'OK']], on);
    on.domains.set(1, { dying: false, shutdown: false });
    expectDialogue(
      [
        ['dom0', 0, 'WRITE /local/domain/1 ', 'OK'],
        ['dom0', 0, 'INTRODUCE 1 4660 1', 'OK'],
        ['dom1', 0, 'READ /shared', 'EACCES'],
      ],
      on,
    );
  });

  test('the right to hear of special events ends with the domain, and so does the right to give it', () => {
    const on = expectDialogue([
      ['dom0', 0, 'SET_PERMS @introduceDomain n1 r2', 'OK'],
      ['dom1', 0, 'SET_PERMS @introduceDomain n1 r2', 'OK'],
    ]);
    reborn(on);
    expectDialogue(
      [
        ['dom1', 0, 'SET_PERMS @introduceDomain n1', 'EACCES'],
        ['dom1', 0, 'WATCH @introduceDomain t', 'OK'],
        ['dom1', 0, 'EVENT', '@introduceDomain t'],
        ['dom0', 0, 'INTRODUCE 3 1 1', 'OK'],
      ],
      on,
    );
  });

  test('its nodes are gone, so that the new one finds a home without them', () => {
    const on = expectDialogue([
      ['dom1', 0, 'WRITE data/secret v', 'OK'],
      ['dom0', 0, 'WRITE /other v', 'OK'],
      ['dom0', 0, 'SET_PERMS /other n1', 'OK'],
    ]);
    reborn(on);
    expectDialogue(
      [
        ['dom0', 0, 'READ /other', 'ENOENT'],
        ['dom0', 0, 'READ /local/domain/1', 'ENOENT'],
        ['dom1', 0, 'READ data/secret', 'EACCES'],
      ],
      on,
    );
  });
});

test('XSA-323: the longest name that a guest can make in its home can be read and removed by dom0', () => {
  const name = 'x'.repeat(1900);
  const longest = 'x'.repeat(2048);
  const on = expectDialogue([
    ['dom0', 0, 'CONTROL quota set node-size 4000', 'OK'],
    ['dom1', 0, `MKDIR ${longest}`, 'OK'],
    ['dom0', 0, `READ /local/domain/1/${longest}`, ''],
    ['dom0', 0, `RM /local/domain/1/${longest}`, 'OK'],
    ['dom1', 0, `MKDIR x${longest}`, 'EINVAL'],
    ['dom1', 0, `MKDIR ${name}`, 'OK'],
    ['dom1', 0, `MKDIR ${name}/${'y'.repeat(148)}`, 'EINVAL'],
    ['dom1', 0, `MKDIR ${name}/${'y'.repeat(147)}`, 'OK'],
    ['dom0', 0, 'RM /local/domain/1', 'OK'],
  ]);
  expect(used(on, 1, 'nodes')).toBe(0);
});

test('XSA-324: an event too long for a packet is sent to nobody, and all go on', () => {
  const token = 't'.repeat(4096 - 'a\0\0'.length);
  const on = expectDialogue([
    ['dom1', 0, `WATCH a ${token}`, 'OK'],
    ['dom1', 0, 'EVENT', `a ${token}`],
    ['dom1', 0, 'EVENT', `a ${token}`],
    ['dom1', 0, 'WRITE a v', 'OK'],
    ['dom1', 0, 'WRITE a/b v', 'OK'],
    ['dom0', 0, 'WRITE /local/domain/1/a/b w', 'OK'],
  ]);
  for (const { payload } of on.talker('dom1').got) expect(payload.length).toBeLessThanOrEqual(4096);
});

describe('XSA-325: a guest that breaks the protocol disturbs its own connection only', () => {
  test('nobody hears that its domain ended, and its nodes stay, until the domain does end', () => {
    const on = expectDialogue([
      ['dom0', 0, 'WATCH @releaseDomain t', 'OK'],
      ['dom0', 0, 'EVENT', '@releaseDomain t'],
      ['dom1', 0, 'WRITE x v', 'OK'],
    ]);
    on.talker('dom1').link.close();
    expectDialogue(
      [
        ['dom0', 0, 'READ /local/domain/1/x', 'v'],
        ['dom0', 0, 'IS_DOMAIN_INTRODUCED 1', 'T'],
      ],
      on,
    );
    expect(on.virq()).toEqual([]);
    on.domains.set(1, { dying: false, shutdown: true });
    expect(on.virq()).toEqual([['dom0', 0, 'EVENT', '@releaseDomain t']]);
    on.domains.delete(1);
    expect(on.virq()).toEqual([['dom0', 0, 'EVENT', '@releaseDomain t']]);
    expectDialogue([['dom0', 0, 'READ /local/domain/1', 'ENOENT']], on);
  });
});

describe('XSA-326: what a guest can make the store keep is bounded', () => {
  test('by how many requests it may have whose answers it does not take', () => {
    const on = stage({ quotas: { outstanding: 3 } });
    const dom1 = on.talker('dom1');
    dom1.full = true;
    for (let i = 0; i < 10; i += 1) dom1.link.push(packetOf(0, `WRITE n${i} v`));
    on.run();
    expect(ask(on, 'dom0', 0, 'DIRECTORY /local/domain/1')).toBe('n0 n1 n2');
    dom1.full = false;
    dom1.link.resume();
    on.run();
    expect(ask(on, 'dom0', 0, 'DIRECTORY /local/domain/1').split(' ')).toHaveLength(10);
  });

  test('by how many requests it may have whose events others do not take', () => {
    const on = stage({ quotas: { outstanding: 3 } });
    on.play([
      ['dom2', 0, 'WATCH /local/domain/1 t', ''],
      ['dom0', 0, 'SET_PERMS /local/domain/1 r1', ''],
    ]);
    on.talker('dom2').full = true;
    for (let i = 0; i < 10; i += 1) on.talker('dom1').link.push(packetOf(0, `WRITE n${i} v`));
    on.run();
    expect(ask(on, 'dom0', 0, 'DIRECTORY /local/domain/1')).toBe('n0 n1 n2');
  });

  test('an event that still waits is not kept twice', () => {
    const on = stage();
    on.play([['dom1', 0, 'WATCH a t', '']]);
    const dom1 = on.talker('dom1');
    const before = dom1.got.length;
    dom1.full = true;
    for (let i = 0; i < 100; i += 1) on.play([['dom0', 0, `WRITE /local/domain/1/a ${i}`, '']]);
    dom1.full = false;
    dom1.link.resume();
    expect(dom1.got.slice(before).map(shown)).toEqual(['a t']);
  });

  test('by its nodes, however large, in however many transactions; over its memory it is not served any more', () => {
    const on = stage({ quotas: { memory: 20_000 } });
    const value = 'v'.repeat(1900);
    for (let i = 0; i < 20; i += 1) ask(on, 'dom1', 0, `WRITE n${i} ${value}`);
    expect(used(on, 1, 'memory')).toBeLessThan(20_000);
    expect(used(on, 1, 'nodes')).toBe(11);
    for (let i = 0; i < 20; i += 1) ask(on, 'dom1', 0, 'START ');
    expect(used(on, 1, 'transactions')).toBe(11);
    const replies = on.talker('dom1').got.length;
    for (let tx = 1; tx <= 11; tx += 1) {
      for (let i = 0; i < 4; i += 1) on.talker('dom1').link.push(packetOf(tx, `READ n${i}`));
    }
    on.run();
    const answered = on.talker('dom1').got.length - replies;
    expect(answered).toBeLessThan(44);
    expect(used(on, 1, 'memory')).toBeLessThan(20_000 + 4096);
    expect(ask(on, 'dom2', 0, 'WRITE a v')).toBe('OK');
  });

  test('by the nodes that a transaction may touch', () => {
    const on = stage({ quotas: { transactionNodes: 10 } });
    ask(on, 'dom1', 0, 'START ');
    const replies = Array.from({ length: 20 }, (_, i) => ask(on, 'dom1', 1, `READ missing${i}`));
    expect(replies.filter((reply) => reply === 'ENOENT')).toHaveLength(9);
    expect(replies.at(-1)).toBe('ENOSPC');
    expect(ask(on, 'dom1', 1, 'END T')).toBe('ENOMEM');
  });

  test('by its watches and their tokens', () => {
    const on = stage({ quotas: { watches: 5 } });
    const replies = Array.from({ length: 10 }, (_, i) => {
      const rows = on.play([['dom1', 0, `WATCH w${i} t`, '']]);
      return rows[0]?.[3];
    });
    expect(replies).toEqual([...Array(6).fill('OK'), ...Array(4).fill('E2BIG')]);
    const small = stage({ quotas: { memory: 1000 } });
    expect(small.play([['dom1', 0, `WATCH a ${'t'.repeat(1000)}`, '']])).toEqual([
      ['dom1', 0, `WATCH a ${'t'.repeat(1000)}`, 'ENOMEM'],
    ]);
  });

  test('by what it leaves unread: past a bound it is asked nothing more, past another it misses events', () => {
    const on = stage();
    on.play([['dom1', 0, `WATCH /local/domain/1/w ${'t'.repeat(4000)}`, '']]);
    const dom1 = on.talker('dom1');
    dom1.full = true;
    const write = (from: number, bytes: number): number => {
      const end = from + Math.ceil(bytes / 4000);
      for (let i = from; i < end; i += 1) on.play([['dom0', 0, `WRITE /local/domain/1/w/${i} v`, '']]);
      return end;
    };
    const written = write(0, outputHoldBytes + 4000);
    dom1.link.push(packetOf(0, 'WRITE late v'));
    on.run();
    expect(ask(on, 'dom0', 0, 'DIRECTORY /local/domain/1')).toBe('w');
    const all = write(written, 3 * 1024 * 1024);
    expect(on.log).toEqual([expect.stringContaining('domain 1 is at its quota memory')]);
    expect(ask(on, 'dom2', 0, 'WRITE a v')).toBe('OK');
    dom1.full = false;
    dom1.link.resume();
    on.run();
    const bytes = dom1.got.reduce((sum, { payload }) => sum + payload.length, 0);
    expect([dom1.open, bytes < 2.5 * 1024 * 1024, bytes < all * 4000]).toEqual([true, true, true]);
  });
});

test('XSA-330: RESET_WATCHES leaves nothing of watches and transactions behind, however often', () => {
  const on = stage();
  const before = used(on, 1, 'memory');
  for (let i = 0; i < 50; i += 1) {
    for (let w = 0; w < 20; w += 1) ask(on, 'dom1', 0, `WATCH ${i}/${w} t`);
    on.play([
      ['dom1', 0, 'START ', ''],
      ['dom1', 0, 'RESET_WATCHES', ''],
    ]);
    expect(lastOf(on, 'dom1')).toBe('OK');
  }
  expect([used(on, 1, 'memory'), used(on, 1, 'watches'), used(on, 1, 'transactions')]).toEqual([before, 0, 0]);
  expect(on.play([['dom0', 0, 'WRITE /local/domain/1/49/19 v', '']])).toHaveLength(1);
});

test('XSA-349: writing one node over and over fills no queue of its watcher', () => {
  const on = stage();
  on.play([['dom0', 0, 'WATCH /local/domain/1 t', '']]);
  const dom0 = on.talker('dom0');
  const before = dom0.got.length;
  dom0.full = true;
  for (let round = 0; round < 40; round += 1) {
    for (const name of ['a', 'b', 'c']) on.talker('dom1').link.push(packetOf(0, `WRITE ${name} ${round}`));
    on.run();
  }
  dom0.full = false;
  dom0.link.resume();
  on.run();
  const heard = dom0.got.slice(before).map(shown);
  expect(new Set(heard)).toEqual(new Set(['a', 'b', 'c'].map((name) => `/local/domain/1/${name} t`)));
  expect(heard).toHaveLength(3);
});

test.each(['DIRECTORY /', 'READ /', 'GET_PERMS /', 'DIRECTORY_PART / 0', 'WRITE / v', 'MKDIR /', 'SET_PERMS / n1', 'RM /'])(
  'XSA-353: the root has permissions as any node has, and a guest may not %s',
  (request) => {
    expectDialogue([
      ['dom1', 0, request, 'EACCES'],
      ['dom1', 0, 'START ', '1'],
      ['dom1', 1, request, 'EACCES'],
      ['dom1', 1, 'END T', 'OK'],
      ['dom0', 0, 'DIRECTORY /', 'tool local'],
      ['dom0', 0, 'GET_PERMS /', 'n0'],
    ]);
  },
);

describe('XSA-417: no node is left without a parent that knows it', () => {
  test.each([
    ['its nodes, outside at once and inside at the end', { nodes: 3 }, 'ENOSPC', 'OK', 'ENOSPC'],
    ['the size of the parent', { nodeSize: 48 }, 'ENOSPC', 'ENOSPC', 'ENOMEM'],
    ['its memory', { memory: 150 }, 'EIO', 'EIO', 'ENOMEM'],
  ] as const)('when a path is refused half way for %s, within a transaction or without', (_what, quotas, errno, inside, end) => {
    const on = stage({ quotas });
    const before = used(on, 1, 'memory');
    expectDialogue(
      [
        ['dom1', 0, 'MKDIR aaaaaaaaaaaaaaa/b/c/d', errno],
        ['dom0', 0, 'DIRECTORY /local/domain/1', ''],
        ['dom1', 0, 'START ', '1'],
        ['dom1', 1, 'MKDIR aaaaaaaaaaaaaaa/b/c/d', inside],
        ['dom1', 1, 'END T', end],
        ['dom0', 0, 'DIRECTORY /local/domain/1', ''],
        ['dom0', 0, 'READ /local/domain/1/aaaaaaaaaaaaaaa', 'ENOENT'],
        ['dom0', 0, 'READ /local/domain/1/aaaaaaaaaaaaaaa/b/c/d', 'ENOENT'],
        ['dom0', 0, 'CONTROL check', 'OK'],
      ],
      on,
    );
    expect([used(on, 1, 'nodes'), used(on, 1, 'memory')]).toEqual([1, before]);
    expect(on.log.filter((line) => /listed/.test(line))).toEqual([]);
  });
});

test('XSA-418: the deepest tree that a path can name is made, found sound and removed, in a transaction too', () => {
  const deep = Array(1024).fill('d').join('/');
  const on = expectDialogue([
    ['dom0', 0, `WRITE /local/domain/2/${deep} v`, 'OK'],
    ['dom0', 0, `READ /local/domain/2/${deep} `.trimEnd(), 'v'],
    ['dom0', 0, 'CONTROL check', 'OK'],
    ['dom0', 0, 'START ', '1'],
    ['dom0', 1, 'RM /local/domain/2/d', 'OK'],
    ['dom0', 1, 'END T', 'OK'],
    ['dom0', 0, 'DIRECTORY /local/domain/2', ''],
    ['dom0', 0, `WRITE /local/domain/2/${deep} v`, 'OK'],
    ['dom2', 0, 'CLOSED', ''],
    ['dom0', 0, 'RELEASE 2', 'OK'],
    ['dom0', 0, 'DIRECTORY /local/domain', '1'],
    ['dom0', 0, 'CONTROL check', 'OK'],
  ]);
  expect(on.log.filter((line) => /listed/.test(line))).toEqual([]);
});

test('XSA-419: two guests cannot make the store keep nodes of a domain that is gone', () => {
  const on = stage({ quotas: { nodes: 20 } });
  const ofDom0 = used(on, 0, 'nodes');
  expectDialogue([['dom1', 0, 'SET_PERMS /local/domain/1 b1', 'OK']], on);
  for (let life = 0; life < 5; life += 1) {
    for (let i = 0; i < 19; i += 1) ask(on, 'dom2', 0, `WRITE /local/domain/1/${life}-${i} v`);
    expect(used(on, 2, 'nodes')).toBe(life === 0 ? 20 : 19);
    on.domains.delete(2);
    on.virq();
    on.domains.set(2, { dying: false, shutdown: false });
    on.play([['dom0', 0, 'INTRODUCE 2 4660 1', '']]);
    expect(ask(on, 'dom0', 0, 'DIRECTORY /local/domain/1')).toBe('');
  }
  expect([used(on, 0, 'nodes'), used(on, 1, 'nodes')]).toEqual([ofDom0, 1]);
});

describe('XSA-420: numbers of 32 bits are taken as what they are', () => {
  const header = (...words: readonly [number, number, number, number]): Buffer => {
    const bytes = Buffer.alloc(16);
    for (const [i, word] of words.entries()) bytes.writeUInt32LE(word, i * 4);
    return bytes;
  };

  test.each([4097, 2 ** 30, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1])(
    'a length of %i ends the connection that sent it; it is neither waited for nor taken as less',
    (length) => {
      const { packets, bad } = new PacketReader().read(Buffer.concat([header(2, 1, 0, length), Buffer.alloc(64)]));
      expect(packets).toEqual([]);
      expect(bad).toMatch(new RegExp(`payload of ${length} bytes`));
    },
  );

  test.each([2 ** 31, 2 ** 32 - 1])('a type, a number and a transaction of %i come back as they were', (word) => {
    const on = stage();
    const dom1 = on.talker('dom1');
    const { packets } = new PacketReader().read(Buffer.concat([header(word, word, word, 0), header(2, word, word, 0)]));
    for (const packet of packets) dom1.link.push(packet);
    on.run();
    expect(dom1.got.map(({ reqId, txId, payload }) => [reqId, txId, payload])).toEqual([
      [word, word, 'ENOSYS\0'],
      [word, word, 'ENOENT\0'],
    ]);
  });
});
