/**
 * The text of xenstore-ls and its sisters. What is expected here was printed by those of Xen 4.17; that the commands
 * still print it is shown, with the programs at hand, by interop/xenstore-commands.test.ts.
 */

import {
  type Asked,
  escaped,
  jsonValue,
  type LsStyle,
  lsLine,
  readPerms,
  readToolLine,
  type Shown,
  type ToolName,
  unescaped,
  usageLine,
} from '../../src/cli/xenstore-text.js';
import type { Perm } from '../../src/xenbus/xs-wire.js';

const allBytes = String.fromCharCode(...Array.from({ length: 256 }, (_, i) => i));

describe('values', () => {
  test('are shown as printable ASCII, with escapes for the rest', () => {
    expect(escaped('plain "text" ~')).toBe('plain "text" ~');
    expect(escaped('\0\x07\b\t\n\v\r\x1b\\\x7f\x80\xff')).toBe('\\000\\007\\x08\\t\\n\\x0b\\r\\x1b\\\\\\x7f\\x80\\xff');
  });

  test('of all bytes are read back as they were shown', () => {
    expect(escaped(allBytes)).toMatch(/^[ -~]+$/);
    expect(unescaped(escaped(allBytes))).toBe(allBytes);
  });

  test.each([
    ['\\x41\\101\\t\\n\\r\\\\', 'AA\t\n\r\\'],
    ['\\', '\0'],
    ['\\q\\8\\"', 'q8"'],
    ['\\0\\00\\000\\08', '\0\0\0\x008'],
    ['\\777\\1234', '\xffS4'],
    ['\\x', 'x'],
    ['\\xzz\\x-g\\x-', 'xzzx-gx-'],
    ['\\x 41', 'A'],
    ['\\x\n4', '\x04'],
    ['\\x  ', 'x  '],
    ['\\x-1\\x-12\\x+1', '\xff\xff2\x01'],
    ['\\x0x41\\x0Xg', '\x0041\0g'],
    ['a\\x4g', 'a\x04g'],
  ])('%j is read as scanf reads it', (text, value) => expect(unescaped(text)).toBe(value));

  test('of any length are read', () => {
    expect(unescaped('\\x41'.repeat(30_000))).toBe('A'.repeat(30_000));
  });

  test('are text in JSON where they are UTF-8, else base64', () => {
    expect(['', 'v', '\xc3\xa9', '\xff\0'].map(jsonValue)).toEqual([
      { value: '' },
      { value: 'v' },
      { value: 'é' },
      { base64: '/wA=' },
    ]);
  });
});

describe('a line of ls', () => {
  const n0: Perm = { domid: 0, read: false, write: false };
  const r1: Perm = { domid: 1, read: true, write: false };
  const plain: LsStyle = { flat: false, prefix: false, columns: undefined };
  const node = (more: Partial<Shown>): Shown => ({ path: '/t/a', name: 'a', depth: 0, value: 'v', perms: undefined, ...more });

  test('is indented by a blank a level', () => {
    expect(lsLine(node({ depth: 3 }), plain)).toBe('   a = "v"\n');
  });

  test('has the whole path with -f, and the whole value', () => {
    expect(lsLine(node({ depth: 3, value: 'v'.repeat(4000) }), { ...plain, flat: true })).toBe(`/t/a = "${'v'.repeat(4000)}"\n`);
  });

  test('of 80 characters is whole; of more, the value is cut and ends in a backslash and dots', () => {
    expect(lsLine(node({ value: 'v'.repeat(71) }), plain)).toBe(`a = "${'v'.repeat(71)}"\n`);
    expect(lsLine(node({ value: 'v'.repeat(72) }), plain)).toBe(`a = "${'v'.repeat(71)}\\..."\n`);
  });

  test('is cut where its bytes are too many, not its escapes, but what is cut are the escapes', () => {
    expect(lsLine(node({ value: '\n'.repeat(71) }), plain)).toBe(`a = "${'\\n'.repeat(71)}"\n`);
    expect(lsLine(node({ value: '\n'.repeat(72) }), plain)).toBe(`a = "${'\\n'.repeat(35)}\\\\..."\n`);
  });

  test('has a name cut to what the width leaves, and a whole one where it leaves less than nothing', () => {
    const name = 'n'.repeat(100);
    expect(lsLine(node({ name, value: '' }), plain)).toBe(`${'n'.repeat(72)} = ""\n`);
    expect(lsLine(node({ name, depth: 72, value: '' }), plain)).toBe(`${' '.repeat(72)} = ""\n`);
    expect(lsLine(node({ name, depth: 73, value: 'v' }), plain)).toBe(`${' '.repeat(73)}${name} = "v\\..."\n`);
  });

  test('has the permissions behind dots that reach to column 60, in every second column', () => {
    const style = { ...plain, prefix: true };
    expect(lsLine(node({ perms: [n0, r1] }), style)).toBe(`a = "v" ${' .'.repeat(26)}  (n0,r1)\n`);
    expect(lsLine(node({ value: 'vv', perms: [n0] }), style)).toBe(`a = "vv" ${'. '.repeat(25)}.  (n0)\n`);
    expect(lsLine(node({ value: 'v'.repeat(60), perms: [n0] }), style)).toBe(`a = "${'v'.repeat(60)}"   (n0)\n`);
    expect(lsLine(node({ value: 'v'.repeat(80), perms: [n0] }), style)).toBe(`a = "${'v'.repeat(71)}\\..."  (n0)\n`);
    expect(lsLine(node({ perms: [n0] }), { ...style, flat: true })).toBe('/t/a = "v"   (n0)\n');
  });

  test('fits into the terminal less two columns, with -f as far as the value goes', () => {
    const value = 'v'.repeat(20);
    expect(lsLine(node({ value }), { ...plain, columns: 20 })).toBe(`a = "${'v'.repeat(9)}\\..."\n`);
    expect(lsLine(node({ value }), { ...plain, flat: true, columns: 20 })).toBe(`/t/a = "${'v'.repeat(10)}\\..."\n`);
    expect(lsLine(node({ value }), { ...plain, columns: 1 })).toBe(`a = "${value}"\n`);
    expect(lsLine(node({ value }), { ...plain, columns: 2 })).toBe(`a = "${value}\\..."\n`);
  });

  test('of a value that cannot be read is two, the second for the permissions', () => {
    expect(lsLine(node({ value: undefined }), plain)).toBe('a:\n\n');
    expect(lsLine(node({ value: undefined, perms: [n0] }), { ...plain, prefix: true })).toBe('a:\n  (n0)\n');
  });
});

describe('a command line', () => {
  const none: Asked = {
    flat: false,
    prefix: false,
    tidy: false,
    upto: false,
    recurse: false,
    raw: false,
    json: false,
    number: -1,
    operands: [],
  };
  const read = (line: string) => {
    const [tool, ...words] = line.split(' ');
    return readToolLine(tool as ToolName, words);
  };

  test.each<[string, Partial<Asked>]>([
    ['ls', {}],
    ['ls -fp /a', { flat: true, prefix: true, operands: ['/a'] }],
    ['ls /a --flat -s /b --pre', { flat: true, prefix: true, operands: ['/a', '/b'] }],
    ['ls --json', { json: true }],
    ['read -R -- -p', { raw: true, operands: ['-p'] }],
    ['read - -- --', { operands: ['-', '--'] }],
    ['write /a 1 -R /b 2', { raw: true, operands: ['/a', '1', '/b', '2'] }],
    ['rm --t /a', { tidy: true, operands: ['/a'] }],
    ['chmod /a -ur n0', { upto: true, recurse: true, operands: ['/a', 'n0'] }],
    ['watch -n 3 /a', { number: 3, operands: ['/a'] }],
    ['watch -n3x --number=-4 /a', { number: -4, operands: ['/a'] }],
    ['watch --num 99999999999999999999 /a', { number: -1, operands: ['/a'] }],
    ['watch -n x /a', { number: 0, operands: ['/a'] }],
  ])('%s', (line, asked) => expect(read(line)).toEqual({ complaints: [], asked: { ...none, ...asked } }));

  test.each(['read', 'read -p', 'list', 'rm', 'exists', 'chmod', 'watch', 'watch -n 1', 'write', 'write /a', 'write /a 1 /b'])(
    '%s is answered with the usage line',
    (line) => expect(read(line)).toEqual({ complaints: [], asked: 'usage' }),
  );

  test.each(['read -t /a', 'ls -n 3 /a', 'exists -p /a', 'write --upto /a 1', 'chmod -f /a n0', 'rm -rt /a', 'ls -R -h'])(
    '%s is too, for the option of another program',
    (line) => expect(read(line)).toEqual({ complaints: [], asked: 'usage' }),
  );

  test.each(['read -h', 'ls --help -t', 'exists --h /a', 'chmod -uh'])('%s asks for help', (line) =>
    expect(read(line)).toEqual({ complaints: [], asked: 'help' }),
  );

  test.each<[string, string]>([
    ['read -x /a', "xenstore-read: invalid option -- 'x'"],
    ['read --bogus=1 /a', "xenstore-read: unrecognized option '--bogus=1'"],
    ['rm --json /a', "xenstore-rm: unrecognized option '--json'"],
    ['read --r /a', "xenstore-read: option '--r' is ambiguous; possibilities: '--recurse' '--raw'"],
    ['read --pre=3 /a', "xenstore-read: option '--prefix' doesn't allow an argument"],
    ['watch /a -n', "xenstore-watch: option requires an argument -- 'n'"],
    ['watch /a --num', "xenstore-watch: option '--number' requires an argument"],
  ])('%s is complained of, and the rest is done', (line, complaint) => {
    expect(read(line)).toEqual({ complaints: [complaint], asked: { ...none, operands: ['/a'] } });
  });

  test('is read in order: what comes first decides', () => {
    expect(read('read -x -t -h')).toEqual({ complaints: ["xenstore-read: invalid option -- 'x'"], asked: 'usage' });
  });

  test('has the usage line of its program, and exists has that of list', () => {
    expect(usageLine('chmod')).toBe('Usage: xenstore-chmod [-h] [-u] [-r] [-s] key <mode [modes...]>');
    expect(usageLine('exists')).toBe('Usage: xenstore-exists [-h] [-p] [-s] key [...]');
  });
});

describe('the permissions of chmod', () => {
  test('are letters with domids, as atoi reads them', () => {
    expect(readPerms(['n0', 'r1x', 'w', 'b-3'])).toEqual([
      { domid: 0, read: false, write: false },
      { domid: 1, read: true, write: false },
      { domid: 0, read: false, write: true },
      { domid: -3, read: true, write: true },
    ]);
  });

  test('of another letter are refused with it, and an empty word with its NUL', () => {
    expect([readPerms(['n0', 'x1']), readPerms([''])]).toEqual(['x', '\0']);
  });
});
