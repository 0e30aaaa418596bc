/**
 * Every request of XenStore with every bad input, from dom0 and from a guest, inside a transaction and outside; and what
 * requests do there that a guest and dom0 may not do alike. Facts of C xenstored 4.17, packets in and packets out.
 */
import { expectDialogue, packetOf, type Row, shown, stage } from './dialogue.js';

const long = 'x'.repeat(2048);

/** A request, what dom0 gets for it and what a guest gets. */
type Bad = readonly [request: string, dom0: string, guest: string];

const forAll = (operations: readonly string[], table: readonly Bad[]): Bad[] =>
  operations.flatMap((op) => table.map(([rest, ...errnos]): Bad => [`${op}${rest}`, ...errnos]));

const badNames: readonly Bad[] = [
  [': \0', 'EINVAL', 'EINVAL'],
  [' //', 'EINVAL', 'EINVAL'],
  [' /a//b', 'EINVAL', 'EINVAL'],
  [' /a/', 'EINVAL', 'EINVAL'],
  [' a/', 'EINVAL', 'EINVAL'],
  [' /a.b', 'EINVAL', 'EINVAL'],
  [' /a:b', 'EINVAL', 'EINVAL'],
  [': /a b\0', 'EINVAL', 'EINVAL'],
  [': /\xe4\0', 'EINVAL', 'EINVAL'],
  [' @releaseDomain', 'EINVAL', 'EINVAL'],
  [' @other', 'EINVAL', 'EINVAL'],
  [` /${long}`, 'EINVAL', 'EINVAL'],
  [` x${long}`, 'EINVAL', 'EINVAL'],
  [` /local/domain/1/x${long}`, 'EINVAL', 'EINVAL'],
  [` /local/domain/123456/${long}`, 'EINVAL', 'EINVAL'],
];

const missing: readonly Bad[] = [
  [' /missing', 'ENOENT', 'EACCES'],
  [' /local/domain/2/missing', 'ENOENT', 'EACCES'],
  [' /local/domain/1/missing', 'ENOENT', 'ENOENT'],
  [' missing/deep', 'ENOENT', 'ENOENT'],
];

/** C xenstored answers these with whatever errno was left from before; this server always with the same. */
const notOneString = (errno: string): readonly Bad[] =>
  [': ', ': /a', ': /a\0/b\0', ': /a\0x'].map((payload): Bad => [payload, errno, errno]);

const bad: readonly Bad[] = [
  ...forAll(['READ', 'DIRECTORY', 'GET_PERMS'], [...notOneString('ENOENT'), ...badNames, ...missing]),
  ...forAll(['MKDIR', 'RM'], [...notOneString('ENOMEM'), ...badNames]),
  ['RM /', 'EINVAL', 'EACCES'],
  ['RM missing/deep', 'ENOENT', 'ENOENT'],
  ['RM /missing/deep', 'ENOENT', 'EACCES'],
  ...badNames.filter(([name]) => name.startsWith(' ')).map(([name]): Bad => [`WRITE${name} v`, 'EINVAL', 'EINVAL']),
  ['WRITE: ', 'EINVAL', 'EINVAL'],
  ['WRITE: /a', 'EINVAL', 'EINVAL'],
  ['WRITE: \0v', 'EINVAL', 'EINVAL'],
  ...[...badNames, ...missing]
    .filter(([name]) => name.startsWith(' '))
    .map(([name, ...errnos]): Bad => [`SET_PERMS${name} n1`, ...errnos])
    .filter(([request]) => !request.includes('@releaseDomain')),
  ['SET_PERMS: ', 'EINVAL', 'EINVAL'],
  ['SET_PERMS /local/domain/1', 'EINVAL', 'EINVAL'],
  ['SET_PERMS: /local/domain/1\0n1', 'EINVAL', 'EINVAL'],
  ...['x1', 'R1', 'r', 'r-', 'rx', 'r1x', 'r08', 'r0x'].map(
    (perm): Bad => [`SET_PERMS /local/domain/1 ${perm}`, 'EINVAL', 'EINVAL'],
  ),
  ['SET_PERMS /local/domain/1 n1 x', 'EINVAL', 'EINVAL'],
  ['SET_PERMS /local/domain/1 n99', 'ENOENT', 'ENOENT'],
  ['SET_PERMS /local/domain/1 n-1', 'ENOENT', 'ENOENT'],
  // A bad permission is found before a bad path, and a missing owner too.
  ['SET_PERMS // x', 'EINVAL', 'EINVAL'],
  ['SET_PERMS // n99', 'ENOENT', 'ENOENT'],
  ['DIRECTORY_PART: ', 'EINVAL', 'EINVAL'],
  ['DIRECTORY_PART /', 'EINVAL', 'EINVAL'],
  ['DIRECTORY_PART / 0 0', 'EINVAL', 'EINVAL'],
  ['DIRECTORY_PART: /\x000', 'EINVAL', 'EINVAL'],
  ['DIRECTORY_PART // 0', 'EINVAL', 'EINVAL'],
  ['DIRECTORY_PART @releaseDomain 0', 'EINVAL', 'EINVAL'],
  ['DIRECTORY_PART /missing 0', 'ENOENT', 'EACCES'],
  ['DIRECTORY_PART missing 0', 'ENOENT', 'ENOENT'],
  ...forAll(
    ['WATCH', 'UNWATCH'],
    [
      [': ', 'EINVAL', 'EINVAL'],
      [': /a', 'EINVAL', 'EINVAL'],
      [' /a', 'EINVAL', 'EINVAL'],
      [': /a\0t', 'EINVAL', 'EINVAL'],
      [' /a t x', 'EINVAL', 'EINVAL'],
    ],
  ),
  ...badNames
    .filter(([name]) => name.startsWith(' ') && !name.includes('@'))
    .map(([name]): Bad => [`WATCH${name} t`, 'EINVAL', 'EINVAL']),
  [`WATCH @${long} t`, 'EINVAL', 'EINVAL'],
  ['UNWATCH // t', 'ENOENT', 'ENOENT'],
  ['UNWATCH /never t', 'ENOENT', 'ENOENT'],
  ...['END: ', 'END ', 'END: T', 'END X', 'END t', 'END TT', 'END T T'].map((end): Bad => [end, 'EINVAL', 'EINVAL']),
  ...forAll(
    ['GET_DOMAIN_PATH'],
    [
      [': ', 'EINVAL', 'EINVAL'],
      [': 1', 'EINVAL', 'EINVAL'],
      [' 1 1', 'EINVAL', 'EINVAL'],
    ],
  ),
  ...forAll(
    ['RELEASE', 'RESUME', 'IS_DOMAIN_INTRODUCED'],
    [
      [': ', 'EINVAL', 'EACCES'],
      [': 1', 'EINVAL', 'EACCES'],
      [' 1 1', 'EINVAL', 'EACCES'],
    ],
  ),
  ...forAll(
    ['RELEASE', 'RESUME'],
    [
      [' 0', 'EINVAL', 'EACCES'],
      [' x', 'EINVAL', 'EACCES'],
      [' ', 'EINVAL', 'EACCES'],
      [' 4294967296', 'EINVAL', 'EACCES'],
      [' 9', 'ENOENT', 'EACCES'],
      [' -1', 'ENOENT', 'EACCES'],
      [' 32752', 'ENOENT', 'EACCES'],
    ],
  ),
  ['INTRODUCE ', 'EINVAL', 'EACCES'],
  ['INTRODUCE 3', 'EINVAL', 'EACCES'],
  ['INTRODUCE 3 1', 'EINVAL', 'EACCES'],
  ['INTRODUCE: 3\x001\x001', 'EINVAL', 'EACCES'],
  ['INTRODUCE 3 1 0', 'EINVAL', 'EACCES'],
  ['INTRODUCE 3 1 x', 'EINVAL', 'EACCES'],
  ['INTRODUCE 9 1 0', 'EINVAL', 'EACCES'],
  ['SET_TARGET ', 'EINVAL', 'EACCES'],
  ['SET_TARGET 1', 'EINVAL', 'EACCES'],
  ['SET_TARGET: 1\x002', 'EINVAL', 'EACCES'],
  ['SET_TARGET 1 3', 'ENOENT', 'EACCES'],
  ['SET_TARGET 3 1', 'ENOENT', 'EACCES'],
  ...[
    ': ',
    ' ',
    ' nonsense',
    ': help',
    ' help x',
    ' check x',
    ' log',
    ' log x',
    ' log on off',
    ' print',
    ' print a b',
    ': print\0a',
    ' memreport a b',
    ' quota 0 0',
    ' quota set',
    ' quota set nodes',
    ' quota set nodes 0',
    ' quota set nodes -1',
    ' quota set nodes x',
    ' quota set nodes 5 6',
    ' quota set other 5',
    ' quota-soft 0',
    ' quota-soft set',
    ' quota-soft set nodes 5',
    ' live-update',
    ' logfile',
  ].map((rest): Bad => [`CONTROL${rest}`, 'EINVAL', 'EACCES']),
  ['CONTROL quota 9', 'ENOENT', 'EACCES'],
  ...[15, 16, 20, 23, 255, 65536, 2 ** 31, 2 ** 32 - 1].map((type): Bad => [`#${type} x`, 'ENOSYS', 'ENOSYS']),
];

describe('bad input, inside a transaction as outside', () => {
  test.each(bad)('%j is %s from dom0 and %s from a guest', (request, dom0, guest) => {
    expectDialogue([
      ['dom0', 0, request, dom0],
      ['dom1', 0, request, guest],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, request, dom0],
      ['dom0', 1, 'END T', 'OK'],
      ['dom1', 0, 'START ', '1'],
      ['dom1', 1, request, guest],
      ['dom1', 1, 'END T', 'OK'],
    ]);
  });
});

describe('a transaction that there is not', () => {
  const named = [
    'READ a',
    'DIRECTORY a',
    'DIRECTORY_PART a 0',
    'GET_PERMS a',
    'WRITE a v',
    'MKDIR a',
    'RM a',
    'SET_PERMS a n1',
    'START ',
    'END T',
    'GET_DOMAIN_PATH 1',
    'RESET_WATCHES',
    'READ //',
  ];
  const privileged = ['CONTROL check', 'INTRODUCE 3 1 1', 'RELEASE 1', 'RESUME 1', 'IS_DOMAIN_INTRODUCED 1', 'SET_TARGET 1 2'];

  test.each(named)('is ENOENT for %j, whatever else is wrong with it', (request) => {
    expectDialogue([
      ['dom0', 9, request, 'ENOENT'],
      ['dom1', 9, request, 'ENOENT'],
    ]);
  });

  test.each(privileged)('is ENOENT for %j of dom0; a guest is turned away before', (request) => {
    expectDialogue([
      ['dom0', 9, request, 'ENOENT'],
      ['dom1', 9, request, 'EACCES'],
      ['dom0', 0, 'IS_DOMAIN_INTRODUCED 1', 'T'],
      ['dom0', 0, 'IS_DOMAIN_INTRODUCED 3', 'F'],
    ]);
  });

  test('is ENOSYS for a request that there is not, either', () => {
    expectDialogue([['dom0', 9, '#99 x', 'ENOSYS']]);
  });

  test('does not matter to WATCH and UNWATCH', () => {
    expectDialogue([
      ['dom1', 9, 'WATCH a t', 'OK'],
      ['dom1', 0, 'EVENT', 'a t'],
      ['dom1', 9, 'UNWATCH a t', 'OK'],
    ]);
  });

  test('is one of another connection, of the same domain or not', () => {
    expectDialogue([
      ['dom0', 0, 'START ', '1'],
      ['dom0b', 1, 'READ /tool', 'ENOENT'],
      ['dom1', 1, 'READ a', 'ENOENT'],
      ['dom0b', 1, 'END T', 'ENOENT'],
      ['dom0', 1, 'END T', 'OK'],
    ]);
  });
});

describe('payloads that are odd and good', () => {
  test('a value holds any byte, NUL too, and none', () => {
    const on = expectDialogue([
      ['dom0', 0, 'WRITE: /w\0', 'OK'],
      ['dom0', 0, 'READ /w', ''],
      ['dom0', 0, 'WRITE: /w\0a\0\xff\0', 'OK'],
      ['dom0', 0, 'READ /w', 'a \xff'],
    ]);
    expect(on.talker('dom0').got.at(-1)?.payload).toBe('a\0\xff\0');
  });

  test('bytes behind the last NUL of strings are left out', () => {
    expectDialogue([
      ['dom0', 0, 'WATCH: /a\0t\0junk', 'OK'],
      ['dom0', 0, 'EVENT', '/a t'],
      ['dom0', 0, 'UNWATCH: /a\0t\0junk', 'OK'],
      ['dom0', 0, 'SET_PERMS: /tool\0r0\0junk', 'OK'],
      ['dom0', 0, 'GET_PERMS /tool', 'r0'],
      ['dom0', 0, 'CONTROL: check\0junk', 'OK'],
    ]);
  });

  test('a token may be empty, and strings past those that count are left out of INTRODUCE and SET_TARGET', () => {
    expectDialogue([
      ['dom0', 0, 'WATCH: /a\0\0', 'OK'],
      ['dom0', 0, 'EVENT', '/a '],
      ['dom0', 0, 'INTRODUCE 1 1 1 1', 'OK'],
      ['dom0', 0, 'SET_TARGET 1 2 3', 'OK'],
    ]);
  });

  test('a watch is taken back once, by the path and the token that it was given, in whatever spelling of the path', () => {
    expectDialogue([
      ['dom1', 0, 'WATCH a t', 'OK'],
      ['dom1', 0, 'EVENT', 'a t'],
      ['dom1', 0, 'UNWATCH a other', 'ENOENT'],
      ['dom1', 0, 'UNWATCH /a t', 'ENOENT'],
      ['dom2', 0, 'UNWATCH /local/domain/1/a t', 'ENOENT'],
      ['dom1', 0, 'UNWATCH /local/domain/1/a t', 'OK'],
      ['dom1', 0, 'UNWATCH a t', 'ENOENT'],
    ]);
  });

  test('START and RESET_WATCHES take any payload', () => {
    expectDialogue([
      ['dom1', 0, 'START', '1'],
      ['dom1', 0, 'START: junk', '2'],
      ['dom1', 0, 'RESET_WATCHES junk', 'OK'],
      ['dom1', 0, 'START a b', '3'],
    ]);
  });

  test('domids are read as C reads them', () => {
    expectDialogue([
      ['dom1', 0, 'GET_DOMAIN_PATH x', '/local/domain/0'],
      ['dom1', 0, 'GET_DOMAIN_PATH -1', '/local/domain/4294967295'],
      ['dom1', 0, 'GET_DOMAIN_PATH 1x', '/local/domain/1'],
      ['dom1', 0, 'GET_DOMAIN_PATH 4294967297', '/local/domain/1'],
      ['dom0', 0, 'IS_DOMAIN_INTRODUCED x', 'T'],
      ['dom0', 0, 'IS_DOMAIN_INTRODUCED 32752', 'T'],
      ['dom0', 0, 'IS_DOMAIN_INTRODUCED -1', 'F'],
      ['dom0', 0, 'SET_PERMS /tool r0x1 w-0 b+2', 'OK'],
      ['dom0', 0, 'GET_PERMS /tool', 'r1 w0 b2'],
      ['dom0', 0, 'SET_PERMS /tool r4294967296', 'OK'],
      ['dom0', 0, 'GET_PERMS /tool', 'r0'],
    ]);
  });

  test.each([
    ['/', 2048 - 1],
    ['/local/domain/1/', 2048],
    ['/local/domain/-1/', 2048],
    ['', 2048],
  ])('a name below %j may have %i bytes more and not one more', (prefix, room) => {
    expectDialogue([
      ['dom0', 0, `MKDIR ${prefix}${'x'.repeat(room)}`, 'OK'],
      ['dom0', 0, `READ ${prefix}${'x'.repeat(room)}`, ''],
      ['dom0', 0, `RM ${prefix}${'x'.repeat(room)}`, 'OK'],
      ['dom0', 0, `MKDIR ${prefix}${'x'.repeat(room + 1)}`, 'EINVAL'],
    ]);
  });

  test('a list in parts begins where it is told, in the middle of a name and behind its end as well', () => {
    const on = stage();
    on.play([
      ['dom0', 0, 'WRITE /d/a ', ''],
      ['dom0', 0, 'WRITE /d/bb ', ''],
    ]);
    const parts = ['0', '2', '3', '5', '99', '-1', 'x'].map((offset) => {
      on.play([['dom0', 0, `DIRECTORY_PART /d ${offset}`, '']]);
      return on
        .talker('dom0')
        .got.at(-1)
        ?.payload.replace(/^\d+\0/, '');
    });
    expect(parts).toEqual(['a\0bb\0\0', 'bb\0\0', 'b\0\0', '\0', '\0', '\0', 'a\0bb\0\0']);
  });

  test('a list in parts comes with a number that changes with the node and its list, and with nothing else', () => {
    const on = stage();
    const generation = (tx = 0): string => {
      on.play([['dom0', tx, 'DIRECTORY_PART /d 0', '']]);
      return on.talker('dom0').got.at(-1)?.payload.split('\0')[0] ?? '';
    };
    const changesWith = (...requests: readonly string[]): boolean => {
      const before = generation();
      on.play(requests.map((request): Row => ['dom0', request.startsWith('in ') ? 1 : 0, request.replace(/^in /, ''), '']));
      return generation() !== before;
    };
    on.play([['dom0', 0, 'WRITE /d/a/deep v', '']]);
    expect([
      changesWith('READ /d', 'DIRECTORY /d', 'GET_PERMS /d', 'MKDIR /d'),
      changesWith('WRITE /d/a v', 'WRITE /d/a/other v', 'RM /d/a/deep', 'RM /d/missing'),
      changesWith('WRITE /d v'),
      changesWith('WRITE /d v'),
      changesWith('SET_PERMS /d n0'),
      changesWith('WRITE /d/b v'),
      changesWith('RM /d/b'),
      changesWith('START ', 'in WRITE /d/b v', 'in END F'),
    ]).toEqual([false, false, true, true, true, true, true, false]);
    on.play([['dom0', 0, 'START ', '']]);
    expect(generation(2)).toBe(generation());
  });

  test('the largest value is one payload less its path, and comes back whole', () => {
    const value = 'v'.repeat(4096 - '/v\0'.length);
    expectDialogue([
      ['dom0', 0, `WRITE /v ${value}`, 'OK'],
      ['dom0', 0, 'READ /v', value],
    ]);
  });

  test('a reply has the number and the transaction of its request, all 32 bits of them', () => {
    const on = stage();
    const dom1 = on.talker('dom1');
    dom1.link.push(packetOf(0xffff_ffff, 'READ a', 0xffff_fffe));
    dom1.link.push(packetOf(0x8000_0000, 'WATCH a t', 0x8000_0000));
    on.run();
    expect(dom1.got.map(({ type, reqId, txId }) => [type, reqId, txId])).toEqual([
      [16, 0xffff_fffe, 0xffff_ffff],
      [4, 0x8000_0000, 0x8000_0000],
      [15, 0, 0],
    ]);
  });
});

describe('what a guest may do', () => {
  test.each<Row>([
    ['dom1', 0, 'DIRECTORY /', 'EACCES'],
    ['dom1', 0, 'READ /', 'EACCES'],
    ['dom1', 0, 'GET_PERMS /', 'EACCES'],
    ['dom1', 0, 'WRITE / v', 'EACCES'],
    ['dom1', 0, 'SET_PERMS / n1', 'EACCES'],
    ['dom1', 0, 'RM /', 'EACCES'],
    ['dom1', 0, 'MKDIR /', 'EACCES'],
    ['dom1', 0, 'MKDIR /new', 'EACCES'],
    ['dom1', 0, 'WRITE /new v', 'EACCES'],
    ['dom1', 0, 'RM /tool', 'EACCES'],
    ['dom1', 0, 'RM /missing', 'EACCES'],
    ['dom1', 0, 'MKDIR /local', 'EACCES'],
    ['dom1', 0, 'MKDIR /local/domain/2', 'EACCES'],
    ['dom1', 0, 'MKDIR /local/domain/2/x', 'EACCES'],
    ['dom1', 0, 'RM /local/domain/2', 'EACCES'],
    ['dom1', 0, 'RM /local/domain/2/missing', 'EACCES'],
    ['dom1', 0, 'SET_PERMS /local/domain/2 n1', 'EACCES'],
    ['dom1', 0, 'SET_PERMS /local/domain/1 n2', 'EPERM'],
    ['dom1', 0, 'SET_PERMS /local/domain/1 n0', 'EPERM'],
    ['dom1', 0, 'SET_PERMS @releaseDomain n1', 'EACCES'],
    ['dom1', 0, 'RM missing', 'OK'],
    ['dom1', 0, 'MKDIR /local/domain/1', 'OK'],
  ])('%s, transaction %i: %s is %s', (...row) => {
    expectDialogue([row, ['dom1', 0, 'START ', '1'], ['dom1', 1, row[2], row[3]], ['dom1', 1, 'END F', 'OK']]);
  });

  test('reading alone does not let it make or remove, and writing alone does not let it look', () => {
    expectDialogue([
      ['dom0', 0, 'SET_PERMS /local/domain/2 r2', 'OK'],
      ['dom1', 0, 'MKDIR /local/domain/2', 'EACCES'],
      ['dom1', 0, 'MKDIR /local/domain/2/x', 'EACCES'],
      ['dom1', 0, 'READ /local/domain/2/x', 'ENOENT'],
      ['dom0', 0, 'SET_PERMS /local/domain/2 w2', 'OK'],
      ['dom1', 0, 'MKDIR /local/domain/2', 'OK'],
      ['dom1', 0, 'MKDIR /local/domain/2/x', 'OK'],
      ['dom1', 0, 'READ /local/domain/2/x', ''],
      ['dom1', 0, 'READ /local/domain/2/y', 'EACCES'],
      ['dom1', 0, 'DIRECTORY /local/domain/2', 'EACCES'],
      ['dom0', 0, 'GET_PERMS /local/domain/2/x', 'w1'],
      ['dom1', 0, 'SET_PERMS /local/domain/2 n1', 'EACCES'],
    ]);
  });

  test('the first permission that names it counts, and none that was given to nobody', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /p v', 'OK'],
      ['dom0', 0, 'SET_PERMS /p b0 n1 r2 w2', 'OK'],
      ['dom1', 0, 'READ /p', 'EACCES'],
      ['dom2', 0, 'READ /p', 'v'],
      ['dom2', 0, 'WRITE /p v', 'EACCES'],
      ['dom0', 0, 'SET_PERMS /p b0 n99 r99', 'OK'],
      ['dom1', 0, 'WRITE /p w', 'OK'],
      ['dom0', 0, 'GET_PERMS /p', 'b0 n99 r99'],
    ]);
  });

  test('rights within a transaction are those of its nodes, which others do not see yet', () => {
    expectDialogue([
      ['dom1', 0, 'WRITE a v', 'OK'],
      ['dom1', 0, 'START ', '1'],
      ['dom1', 1, 'SET_PERMS a n1 r2', 'OK'],
      ['dom1', 1, 'GET_PERMS a', 'n1 r2'],
      ['dom1', 0, 'GET_PERMS a', 'n1'],
      ['dom2', 0, 'READ /local/domain/1/a', 'EACCES'],
      ['dom2', 0, 'WATCH /local/domain/1/a t', 'OK'],
      ['dom2', 0, 'EVENT', '/local/domain/1/a t'],
      ['dom2', 0, 'EVENT', '/local/domain/1/a t'],
      ['dom1', 1, 'END T', 'OK'],
      ['dom2', 0, 'READ /local/domain/1/a', 'v'],
    ]);
  });

  test('a domain with a target creates in its own name, and cannot change who owns what is there', () => {
    expectDialogue([
      ['dom0', 0, 'SET_TARGET 2 1', 'OK'],
      ['dom2', 0, 'WRITE /local/domain/1/x v', 'OK'],
      ['dom0', 0, 'GET_PERMS /local/domain/1/x', 'n2'],
      ['dom2', 0, 'SET_PERMS /local/domain/1 n2', 'EPERM'],
      ['dom2', 0, 'SET_PERMS /local/domain/1 n1 r2', 'OK'],
      ['dom1', 0, 'READ /local/domain/2', 'EACCES'],
      ['dom0', 0, 'WRITE /p v', 'OK'],
      ['dom0', 0, 'SET_PERMS /p n0 n2 r1', 'OK'],
      ['dom2', 0, 'READ /p', 'EACCES'],
      ['dom0', 0, 'SET_PERMS /p n0 r1 n2', 'OK'],
      ['dom2', 0, 'READ /p', 'v'],
    ]);
  });

  test('events tell it of what it may read: a node, one below what it may read, and what it just could', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /s/public v', 'OK'],
      ['dom0', 0, 'WRITE /s/private v', 'OK'],
      ['dom0', 0, 'SET_PERMS /s/public n0 r1', 'OK'],
      ['dom1', 0, 'WATCH / t', 'OK'],
      ['dom1', 0, 'EVENT', '/ t'],
      ['dom0', 0, 'WRITE /s/private w', 'OK'],
      ['dom1', 0, 'EVENT', '/s/public/below t'],
      ['dom0', 0, 'WRITE /s/public/below v', 'OK'],
      ['dom1', 0, 'EVENT', '/s/public/below t'],
      ['dom0', 0, 'SET_PERMS /s/public/below n0', 'OK'],
      ['dom1', 0, 'EVENT', '/s/public/below t'],
      ['dom0', 0, 'WRITE /s/public/below w', 'OK'],
      ['dom1', 0, 'EVENT', '/s/public/below t'],
      ['dom0', 0, 'RM /s/public/below', 'OK'],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'SET_PERMS /s/public n0', 'OK'],
      ['dom0', 1, 'WRITE /s/public hidden', 'OK'],
      ['dom1', 0, 'EVENT', '/s/public t'],
      ['dom0', 1, 'END T', 'OK'],
      ['dom0', 0, 'WRITE /s/public more', 'OK'],
      ['dom0', 0, 'RM /s', 'OK'],
    ]);
  });
});

describe('transactions', () => {
  test('requests of dom0 about domains, watches and control take effect at once in them', () => {
    expectDialogue([
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'SET_PERMS @releaseDomain n0 r1', 'OK'],
      ['dom1', 0, 'WATCH @releaseDomain t', 'OK'],
      ['dom1', 0, 'EVENT', '@releaseDomain t'],
      ['dom0', 1, 'IS_DOMAIN_INTRODUCED 2', 'T'],
      ['dom0', 1, 'RESUME 2', 'OK'],
      ['dom0', 1, 'SET_TARGET 2 1', 'OK'],
      ['dom2', 0, 'READ /local/domain/1', ''],
      ['dom0', 1, 'CONTROL check', 'OK'],
      ['dom0', 1, 'END F', 'OK'],
      ['dom2', 0, 'CLOSED', ''],
      ['dom1', 0, 'EVENT', '@releaseDomain t'],
      ['dom0', 0, 'RELEASE 2', 'OK'],
    ]);
  });

  test('RESET_WATCHES within one ends it', () => {
    expectDialogue([
      ['dom1', 0, 'START ', '1'],
      ['dom1', 1, 'WRITE a v', 'OK'],
      ['dom1', 1, 'RESET_WATCHES', 'OK'],
      ['dom1', 1, 'END T', 'ENOENT'],
      ['dom1', 0, 'READ a', 'ENOENT'],
      ['dom1', 0, 'START ', '2'],
    ]);
  });

  test('refused and malformed ends: what is malformed leaves it open, what is refused ends it', () => {
    expectDialogue([
      ['dom1', 0, 'START ', '1'],
      ['dom1', 1, 'END X', 'EINVAL'],
      ['dom1', 1, 'END: T', 'EINVAL'],
      ['dom1', 1, 'START ', 'EBUSY'],
      ['dom1', 1, 'WRITE a v', 'OK'],
      ['dom0', 0, 'WRITE /local/domain/1/b v', 'OK'],
      ['dom1', 1, 'END T', 'EAGAIN'],
      ['dom1', 1, 'END F', 'ENOENT'],
    ]);
  });

  test('see a node as it was at the first access, and until then as it is', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /a v', 'OK'],
      ['dom0', 0, 'START ', '1'],
      ['dom0b', 0, 'WRITE /a w', 'OK'],
      ['dom0', 1, 'READ /a', 'w'],
      ['dom0b', 0, 'WRITE /a x', 'OK'],
      ['dom0', 1, 'READ /a', 'w'],
      ['dom0', 1, 'END T', 'EAGAIN'],
    ]);
  });

  test('empty, or of what stayed as it was, they end well', () => {
    expectDialogue([
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'END T', 'OK'],
      ['dom0', 0, 'START ', '2'],
      ['dom0', 2, 'READ /missing/deep', 'ENOENT'],
      ['dom0b', 0, 'WRITE /tool/other v', 'OK'],
      ['dom0', 2, 'END T', 'OK'],
    ]);
  });

  test('conflict with what others did to a node that they only looked at: its children, its permissions, its removal', () => {
    expectDialogue([
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'GET_PERMS /tool', 'n0'],
      ['dom0b', 0, 'WRITE /tool/x v', 'OK'],
      ['dom0', 1, 'END T', 'EAGAIN'],
      ['dom0', 0, 'START ', '2'],
      ['dom0', 2, 'READ /tool', ''],
      ['dom0b', 0, 'SET_PERMS /tool n0', 'OK'],
      ['dom0', 2, 'END T', 'EAGAIN'],
      ['dom0', 0, 'START ', '3'],
      ['dom0', 3, 'RM /tool/x', 'OK'],
      ['dom0b', 0, 'RM /tool/x', 'OK'],
      ['dom0', 3, 'END T', 'EAGAIN'],
    ]);
  });

  test('list a child twice that they make anew, whose removal with them is EIO', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /t/c/a v', 'OK'],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'READ /t/c/x', 'ENOENT'],
      ['dom0b', 0, 'RM /t/c', 'OK'],
      ['dom0', 1, 'WRITE /t/c/a/d v', 'OK'],
      ['dom0', 1, 'DIRECTORY /t/c', 'a a'],
      ['dom0', 1, 'RM /t/c', 'EIO'],
      ['dom0', 1, 'DIRECTORY /t/c', 'a'],
      ['dom0', 1, 'READ /t/c/a', 'ENOENT'],
      ['dom0', 1, 'END T', 'EAGAIN'],
    ]);
  });

  test('removing a node that their list does not have is EIO, and the node is gone', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /t/d v', 'OK'],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'READ /t/d', 'v'],
      ['dom0b', 0, 'WRITE /t/d/c v', 'OK'],
      ['dom0', 1, 'RM /t/d/c', 'EIO'],
      ['dom0', 1, 'READ /t/d/c', 'ENOENT'],
      ['dom0', 1, 'END T', 'EAGAIN'],
    ]);
  });

  test('removing what another emptied meanwhile is EIO', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /t/b/a v', 'OK'],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'WRITE /t/b/b v', 'OK'],
      ['dom0b', 0, 'RM /t/b/a', 'OK'],
      ['dom0', 1, 'RM /t/b', 'EIO'],
      ['dom0', 1, 'END T', 'EAGAIN'],
      ['dom0', 0, 'DIRECTORY /t/b', ''],
    ]);
  });

  test('tell of what they removed and made again as of a change of it', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /a/b/c v', 'OK'],
      ['dom0b', 0, 'WATCH /a/b/c c', 'OK'],
      ['dom0b', 0, 'EVENT', '/a/b/c c'],
      ['dom0b', 0, 'WATCH / r', 'OK'],
      ['dom0b', 0, 'EVENT', '/ r'],
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'RM /a/b', 'OK'],
      ['dom0', 1, 'WRITE /a/b/c w', 'OK'],
      ['dom0b', 0, 'EVENT', '/a/b r'],
      ['dom0b', 0, 'EVENT', '/a/b/c c'],
      ['dom0b', 0, 'EVENT', '/a/b/c r'],
      ['dom0', 1, 'END T', 'OK'],
      ['dom0', 0, 'READ /a/b/c', 'w'],
    ]);
  });

  test('RM and RM again, and MKDIR after it, are as outside', () => {
    expectDialogue([
      ['dom1', 0, 'WRITE a/b v', 'OK'],
      ['dom1', 0, 'START ', '1'],
      ['dom1', 1, 'RM a/b', 'OK'],
      ['dom1', 1, 'RM a/b', 'OK'],
      ['dom1', 1, 'READ a/b', 'ENOENT'],
      ['dom1', 1, 'RM a', 'OK'],
      ['dom1', 1, 'RM a/b', 'ENOENT'],
      ['dom1', 1, 'MKDIR a/b', 'OK'],
      ['dom1', 1, 'END T', 'OK'],
      ['dom0', 0, 'DIRECTORY /local/domain/1/a', 'b'],
      ['dom0', 0, 'READ /local/domain/1/a/b', ''],
    ]);
  });

  test('with a node for a domain that ended meanwhile are refused with ENOMEM, with one of its nodes with EAGAIN', () => {
    const on = expectDialogue([
      ['dom0', 0, 'START ', '1'],
      ['dom0', 1, 'WRITE /local/domain/1/x v', 'OK'],
      ['dom0', 0, 'START ', '2'],
      ['dom0', 2, 'WRITE /local/domain/1 v', 'OK'],
    ]);
    on.domains.delete(1);
    on.virq();
    expectDialogue(
      [
        ['dom0', 1, 'END T', 'ENOMEM'],
        ['dom0', 2, 'END T', 'EAGAIN'],
        ['dom0', 0, 'DIRECTORY /local/domain', '2'],
      ],
      on,
    );
  });
});

describe('domains', () => {
  test('the end of one takes its nodes wherever they lie, with those of others below them, then tells of the end', () => {
    expectDialogue([
      ['dom1', 0, 'WRITE x/y v', 'OK'],
      ['dom0', 0, 'WRITE /t/d v', 'OK'],
      ['dom0', 0, 'SET_PERMS /t/d b1 r2', 'OK'],
      ['dom0', 0, 'WRITE /t/d/e/zero v', 'OK'],
      ['dom0', 0, 'SET_PERMS /t/d/e/zero n0', 'OK'],
      ['dom0', 0, 'WRITE /t/d2 v', 'OK'],
      ['dom0', 0, 'SET_PERMS /t/d2 n2 b1', 'OK'],
      ['dom1', 0, 'WRITE /t/d2/one v', 'OK'],
      ['dom0', 0, 'WATCH / r', 'OK'],
      ['dom0', 0, 'EVENT', '/ r'],
      ['dom0b', 0, 'WATCH /t/d/e/zero z', 'OK'],
      ['dom0b', 0, 'EVENT', '/t/d/e/zero z'],
      ['dom0b', 0, 'WATCH @releaseDomain s', 'OK'],
      ['dom0b', 0, 'EVENT', '@releaseDomain s'],
      ['dom1', 0, 'CLOSED', ''],
      ['dom0', 0, 'EVENT', '/local/domain/1 r'],
      ['dom0b', 0, 'EVENT', '/t/d/e/zero z'],
      ['dom0', 0, 'EVENT', '/t/d r'],
      ['dom0', 0, 'EVENT', '/t/d2/one r'],
      ['dom0b', 0, 'EVENT', '@releaseDomain s'],
      ['dom0', 0, 'RELEASE 1', 'OK'],
      ['dom0', 0, 'DIRECTORY /t', 'd2'],
      ['dom0', 0, 'DIRECTORY /t/d2', ''],
      ['dom0', 0, 'GET_PERMS /t/d2', 'n2 b1'],
      ['dom0', 0, 'IS_DOMAIN_INTRODUCED 1', 'F'],
      ['dom0', 0, 'RELEASE 1', 'ENOENT'],
      ['dom0', 0, 'RESUME 1', 'ENOENT'],
      ['dom0', 0, 'CONTROL quota 1', 'ENOENT'],
    ]);
  });

  test('one that was named and never introduced can be neither released nor resumed; its nodes go with it, unannounced', () => {
    const on = expectDialogue([
      ['dom0', 0, 'WRITE /k v', 'OK'],
      ['dom0', 0, 'SET_PERMS /k n3', 'OK'],
      ['dom0', 0, 'IS_DOMAIN_INTRODUCED 3', 'F'],
      ['dom0', 0, 'RELEASE 3', 'ENOENT'],
      ['dom0', 0, 'RESUME 3', 'ENOENT'],
      ['dom0', 0, 'SET_TARGET 1 3', 'ENOENT'],
      ['dom0', 0, 'WATCH /k w', 'OK'],
      ['dom0', 0, 'EVENT', '/k w'],
      ['dom0', 0, 'WATCH @releaseDomain w', 'OK'],
      ['dom0', 0, 'EVENT', '@releaseDomain w'],
    ]);
    on.domains.delete(3);
    expect(on.virq()).toEqual([['dom0', 0, 'EVENT', '/k w']]);
    expectDialogue([['dom0', 0, 'READ /k', 'ENOENT']], on);
  });

  test('a second INTRODUCE is not announced; it takes the watches and transactions of the guest from it', () => {
    expectDialogue([
      ['dom0', 0, 'WATCH @introduceDomain t', 'OK'],
      ['dom0', 0, 'EVENT', '@introduceDomain t'],
      ['dom1', 0, 'WATCH x t', 'OK'],
      ['dom1', 0, 'EVENT', 'x t'],
      ['dom1', 0, 'START ', '1'],
      ['dom0', 0, 'INTRODUCE 1 1 2', 'OK'],
      ['dom1', 1, 'READ /', 'ENOENT'],
      ['dom0', 0, 'WRITE /local/domain/1/x v', 'OK'],
      ['dom1', 0, 'START ', '2'],
    ]);
  });

  test('a released one begins anew when it is introduced again, without what was open', () => {
    expectDialogue([
      ['dom1', 0, 'START ', '1'],
      ['dom1', 1, 'WRITE x v', 'OK'],
      ['dom1', 0, 'CLOSED', ''],
      ['dom0', 0, 'RELEASE 1', 'OK'],
      ['dom0', 0, 'INTRODUCE 1 1 1', 'OK'],
      ['dom1', 1, 'READ x', 'ENOENT'],
      ['dom1', 0, 'READ /local/domain/1', 'EACCES'],
      ['dom1', 0, 'START ', '1'],
    ]);
  });
});

describe('quotas', () => {
  test('of nodes count what a guest owns wherever it lies; dom0 may add to them past the bound', () => {
    expectDialogue([
      ['dom0', 0, 'CONTROL quota set nodes 3', 'OK'],
      ['dom0', 0, 'SET_PERMS /local/domain/2 n2 b1', 'OK'],
      ['dom1', 0, 'WRITE /local/domain/2/a v', 'OK'],
      ['dom1', 0, 'WRITE /local/domain/2/b v', 'OK'],
      ['dom1', 0, 'WRITE /local/domain/2/c v', 'ENOSPC'],
      ['dom0', 0, 'WRITE /local/domain/1/x v', 'OK'],
      ['dom1', 0, 'RM /local/domain/2/a', 'OK'],
      ['dom1', 0, 'WRITE z v', 'ENOSPC'],
      ['dom0', 0, 'RM /local/domain/2/b', 'OK'],
      ['dom1', 0, 'WRITE z v', 'OK'],
    ]);
  });

  test('of nodes stand in the way of a transaction that makes some, even when it refused to, and of no other', () => {
    expectDialogue([
      ['dom0', 0, 'WRITE /local/domain/1/x v', 'OK'],
      ['dom0', 0, 'WRITE /local/domain/1/y v', 'OK'],
      ['dom0', 0, 'CONTROL quota set nodes 2', 'OK'],
      ['dom1', 0, 'START ', '1'],
      ['dom1', 1, 'WRITE z v', 'ENOSPC'],
      ['dom1', 1, 'RM x', 'OK'],
      ['dom1', 1, 'END T', 'ENOSPC'],
      ['dom1', 0, 'START ', '2'],
      ['dom1', 2, 'RM x', 'OK'],
      ['dom1', 2, 'END T', 'OK'],
    ]);
  });

  test('of nodes are looked at by a commit when the permissions of an own node were set in it, but not when it was written', () => {
    expectDialogue([
      ['dom1', 0, 'WRITE x v', 'OK'],
      ['dom0', 0, 'CONTROL quota set nodes 2', 'OK'],
      ['dom1', 0, 'START ', '1'],
      ['dom1', 1, 'WRITE z v', 'ENOSPC'],
      ['dom1', 1, 'SET_PERMS /local/domain/1/x n1', 'OK'],
      ['dom1', 1, 'END T', 'ENOSPC'],
      ['dom1', 0, 'START ', '2'],
      ['dom1', 2, 'WRITE z v', 'ENOSPC'],
      ['dom1', 2, 'WRITE x w', 'OK'],
      ['dom1', 2, 'END T', 'OK'],
    ]);
  });

  test('of a node hold for its parent too, which grows by the name of a child', () => {
    expectDialogue([
      ['dom0', 0, 'CONTROL quota set node-size 60', 'OK'],
      ['dom1', 0, `MKDIR ${'n'.repeat(26)}`, 'OK'],
      ['dom1', 0, 'MKDIR n', 'ENOSPC'],
      ['dom1', 0, `MKDIR ${'n'.repeat(26)}/n`, 'OK'],
      ['dom0', 0, 'WRITE /local/domain/1/longer-than-it-may-be v', 'OK'],
      ['dom1', 0, 'WRITE /local/domain/1 v', 'ENOSPC'],
      ['dom1', 0, 'RM longer-than-it-may-be', 'OK'],
      ['dom1', 0, 'SET_PERMS /local/domain/1 n1 r2', 'ENOSPC'],
    ]);
  });

  test('of permissions come before all else, and do not hold for what is inherited', () => {
    expectDialogue([
      ['dom0', 0, 'CONTROL quota set permissions 2', 'OK'],
      ['dom1', 0, 'SET_PERMS /local/domain/1 n1 r2', 'OK'],
      ['dom1', 0, 'SET_PERMS // x x x', 'ENOSPC'],
      ['dom0', 0, 'SET_PERMS /local/domain/1 n1 r2 w2', 'OK'],
      ['dom1', 0, 'WRITE a v', 'OK'],
      ['dom1', 0, 'GET_PERMS a', 'n1 r2 w2'],
    ]);
  });

  test('of watches come behind a bad path and a watch that is there, and end with UNWATCH', () => {
    expectDialogue([
      ['dom0', 0, 'CONTROL quota set watches 1', 'OK'],
      ['dom1', 0, 'WATCH a t', 'OK'],
      ['dom1', 0, 'EVENT', 'a t'],
      ['dom1', 0, 'WATCH b t', 'OK'],
      ['dom1', 0, 'EVENT', 'b t'],
      ['dom1', 0, 'WATCH c t', 'E2BIG'],
      ['dom1', 0, 'WATCH b t', 'EEXIST'],
      ['dom1', 0, 'WATCH // t', 'EINVAL'],
      ['dom1', 0, 'UNWATCH a t', 'OK'],
      ['dom1', 0, 'WATCH c t', 'OK'],
      ['dom1', 0, 'EVENT', 'c t'],
    ]);
  });

  test('of transactions end with one of them, and EBUSY comes first', () => {
    expectDialogue([
      ['dom0', 0, 'CONTROL quota set transactions 1', 'OK'],
      ['dom1', 0, 'START ', '1'],
      ['dom1', 0, 'START ', '2'],
      ['dom1', 0, 'START ', 'ENOSPC'],
      ['dom1', 1, 'START ', 'EBUSY'],
      ['dom1', 1, 'END F', 'OK'],
      ['dom1', 0, 'START ', '3'],
    ]);
  });

  test.each(['READ q', 'DIRECTORY q', 'DIRECTORY_PART q 0', 'GET_PERMS q', 'WRITE q/r v', 'MKDIR q', 'RM q', 'SET_PERMS q n1'])(
    'of the nodes of a transaction make %s ENOSPC, and its end ENOMEM',
    (request) => {
      expectDialogue([
        ['dom0', 0, 'CONTROL quota set transaction-nodes 2', 'OK'],
        ['dom1', 0, 'WRITE a v', 'OK'],
        ['dom1', 0, 'WRITE b v', 'OK'],
        ['dom1', 0, 'START ', '1'],
        ['dom1', 1, 'READ a', 'v'],
        ['dom1', 1, 'READ b', 'v'],
        ['dom1', 1, request, 'ENOSPC'],
        ['dom1', 1, 'READ a', 'v'],
        ['dom1', 1, 'END T', 'ENOMEM'],
      ]);
    },
  );

  test('of memory hold for what dom0 writes into a node of the guest, too', () => {
    expectDialogue([
      ['dom0', 0, 'CONTROL quota set memory 400', 'OK'],
      ['dom1', 0, 'WRITE a v', 'OK'],
      ['dom1', 0, `WRITE b ${'v'.repeat(400)}`, 'EIO'],
      ['dom0', 0, `WRITE /local/domain/1/b ${'v'.repeat(400)}`, 'EIO'],
      ['dom0', 0, 'DIRECTORY /local/domain/1', 'a'],
      ['dom1', 0, `WATCH ${'b'.repeat(300)} t`, 'ENOMEM'],
      ['dom0', 0, `WRITE /b ${'v'.repeat(400)}`, 'OK'],
    ]);
  });

  test('of a path hold for all, special names apart', () => {
    const name = 'a'.repeat(20);
    expectDialogue([
      ['dom0', 0, 'CONTROL quota set path-max 20', 'OK'],
      ['dom1', 0, `WRITE ${name} v`, 'OK'],
      ['dom1', 0, `WRITE ${name}a v`, 'EINVAL'],
      ['dom0', 0, `MKDIR /${name}`, 'EINVAL'],
      ['dom0', 0, `WATCH /${name} t`, 'EINVAL'],
      ['dom0', 0, `WATCH @${name} t`, 'OK'],
      ['dom0', 0, 'EVENT', `@${name} t`],
    ]);
  });

  test('are told by CONTROL in lines of name and number, and set there as C reads numbers', () => {
    const on = stage();
    on.play([
      ['dom0', 0, 'CONTROL quota set nodes 5x', ''],
      ['dom0', 0, 'CONTROL quota-soft set memory 77', ''],
    ]);
    const told = (request: string): string[] => {
      on.play([['dom0', 0, request, '']]);
      const reply = on.talker('dom0').got.at(-1);
      return reply ? shown(reply).split('\n') : [];
    };
    const numbers = (lines: readonly string[]) => lines.map((line) => /^[^:]*: *\d*/.exec(line)?.[0] ?? line);
    expect(numbers(told('CONTROL quota'))).toEqual([
      'Quota settings:',
      'nodes            :        5',
      'watches          :      128',
      'transactions     :       10',
      'outstanding      :       20',
      'transaction-nodes:     1024',
      'memory           :  2621440',
      'node-size        :     2048',
      'path-max         :     2048',
      'permissions      :        5',
      '',
    ]);
    expect(numbers(told('CONTROL quota-soft'))).toEqual(['Quota settings:', 'memory           :       77', '']);
    on.play([
      ['dom1', 0, 'WATCH a t', ''],
      ['dom1', 0, 'START ', ''],
      ['dom1', 0, 'WRITE d/e/f abc', ''],
    ]);
    expect(told('CONTROL quota 1').filter((line) => !line.startsWith('outstanding'))).toEqual([
      'Domain 1:',
      'nodes           :        4',
      'watches         :        1',
      'transactions    :        1',
      'memory          :      227',
      '',
    ]);
    expect(told('CONTROL help').filter((line) => /^(check|print|quota)/.test(line))).toEqual([
      'check\t',
      'print\t<string>',
      'quota\t[set <name> <val>|<domid>]',
      'quota-soft\t[set <name> <val>]',
    ]);
  });

  test.each(['check', 'log on', 'log off', 'print word'])('CONTROL %s is OK', (command) => {
    expectDialogue([['dom0', 0, `CONTROL ${command}`, 'OK']]);
  });
});
