/** What a domain leaves behind when it ends: nothing that another of its number could use. */
import { faults } from '../../src/xenbus/store.js';
import { expectDialogue, type Stage, stage } from './dialogue.js';

/** Ends domain 1, and introduces another of its number, with nothing between the two. */
function reborn(on: Stage): void {
  on.play([['dom0', 0, 'RELEASE 1', 'OK']]);
  on.play([['dom0', 0, 'INTRODUCE 1 4660 1', 'OK']]);
}

test('the root stays when its owner ends, goes back to dom0, and loses only what the domain owned below', () => {
  const on = expectDialogue([
    ['dom0', 0, 'SET_PERMS / n1 r2', 'OK'],
    ['dom1', 0, 'WRITE /x v', 'OK'],
  ]);
  reborn(on);
  expectDialogue(
    [
      ['dom0', 0, 'GET_PERMS /', 'n0 r2'],
      ['dom0', 0, 'DIRECTORY /', 'tool local'],
      ['dom0', 0, 'DIRECTORY /local/domain', '2'],
      ['dom1', 0, 'WRITE /x v', 'EACCES'],
    ],
    on,
  );
  expect(faults(on.loop.core.store)).toEqual([]);
});

test('a target that ends takes the rights that it lent with it', () => {
  const on = expectDialogue([
    ['dom0', 0, 'SET_TARGET 2 1', 'OK'],
    ['dom1', 0, 'WRITE s v', 'OK'],
    ['dom2', 0, 'READ /local/domain/1/s', 'v'],
  ]);
  reborn(on);
  expectDialogue(
    [
      ['dom0', 0, 'WRITE /local/domain/1/s v', 'OK'],
      ['dom0', 0, 'SET_PERMS /local/domain/1/s n1', 'OK'],
      ['dom2', 0, 'READ /local/domain/1/s', 'EACCES'],
      ['dom0', 0, 'SET_TARGET 2 1', 'OK'],
      ['dom2', 0, 'READ /local/domain/1/s', 'v'],
    ],
    on,
  );
});

test('a right is not for the next domain of that number, although nothing has changed in between', () => {
  const on = stage();
  on.play([
    ['dom0', 0, 'RM /local/domain/1', 'OK'],
    ['dom0', 0, 'WRITE /shared v', 'OK'],
    ['dom0', 0, 'SET_PERMS /shared n0 r1', 'OK'],
  ]);
  const { generation } = on.loop.core.store;
  reborn(on);
  expect(on.loop.core.store.generation).toBe(generation);
  expectDialogue([['dom1', 0, 'READ /shared', 'EACCES']], on);
});

test('nor is one that was given in a transaction which ends after the rebirth', () => {
  const on = expectDialogue([
    ['dom0', 0, 'WRITE /shared v', 'OK'],
    ['dom0', 0, 'START ', '1'],
    ['dom0', 1, 'SET_PERMS /shared n0 r1', 'OK'],
  ]);
  reborn(on);
  expectDialogue(
    [
      ['dom0', 1, 'END T', 'OK'],
      ['dom0', 0, 'GET_PERMS /shared', 'n0 r1'],
      ['dom1', 0, 'READ /shared', 'EACCES'],
    ],
    on,
  );
});

test('a transaction that made a node for it, and took it back, ends in ENOMEM', () => {
  const on = expectDialogue([
    ['dom0', 0, 'START ', '1'],
    ['dom0', 1, 'WRITE /local/domain/1/x v', 'OK'],
    ['dom0', 1, 'RM /local/domain/1/x', 'OK'],
  ]);
  on.domains.delete(1);
  on.virq();
  expectDialogue([['dom0', 1, 'END T', 'ENOMEM']], on);
});

test('one that was dying when it was introduced is noticed with the next death of any domain', () => {
  const on = stage();
  on.domains.set(3, { dying: true, shutdown: false });
  on.play([['dom0', 0, 'INTRODUCE 3 4660 1', 'OK']]);
  expectDialogue([['dom0', 0, 'IS_DOMAIN_INTRODUCED 3', 'T']], on);
  on.loop.virq(1);
  on.run();
  expectDialogue([['dom0', 0, 'IS_DOMAIN_INTRODUCED 3', 'F']], on);
});

test('RM of a tree that takes a guest past its nodes of a transaction is EIO below the root of it, and spoils it', () => {
  expectDialogue([
    ['dom0', 0, 'CONTROL quota set transaction-nodes 4', 'OK'],
    ['dom1', 0, 'WRITE a/b v', 'OK'],
    ['dom1', 0, 'WRITE a/c v', 'OK'],
    ['dom1', 0, 'WRITE a/d v', 'OK'],
    ['dom1', 0, 'START ', '1'],
    ['dom1', 1, 'RM a', 'EIO'],
    ['dom1', 1, 'END T', 'ENOMEM'],
  ]);
});

test('CONTROL quota DOMID counts what it is asked about, requests that are not done with among it', () => {
  const on = stage();
  const [reply] = on.play([['dom0', 0, 'CONTROL quota 1', '']]);
  expect(reply?.[3].replace(/\d+\n$/, 'N\n')).toBe(
    'Domain 1:\nnodes           :        1\nwatches         :        0\ntransactions    :        0\noutstanding     :        0\nmemory          :       N\n',
  );
});
