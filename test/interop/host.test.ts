/** The host through real processes: `--host`, and the commands that tell of it and change it. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Lab, lab, pvCfg, until } from './harness.js';

let l: Lab;
beforeEach(() => {
  l = lab();
});
afterEach(() => l.close());

const host = (text: string) => {
  const file = join(l.dir, 'host.json');
  writeFileSync(file, text);
  return file;
};
const value = async (field: string) => (await l.xl('info', field)).stdout;

test('a described host is what xl info tells of, and what domains are made on', async () => {
  const file = host('{ "nrCpus": 4, "nrNodes": 2, "totalMb": 1024, "dom0Mb": 512, "hostName": "small", "xenMb": 100 }');
  expect(await l.xl('dom0', 'start', '--assume-files', '--host', file)).toMatchObject({ exitCode: 0 });
  expect(await Promise.all(['host', 'nr_', 'cores', 'total', 'free_m'].map(value))).toEqual([
    'small\n',
    '4\n2\n',
    '2\n',
    '1024\n',
    '412\n',
  ]);
  expect((await l.xl('info', '-n')).stdout).toContain('  3:       1        1        1\n');
  expect((await l.xl('dmesg')).stdout).toContain('(XEN) Brought up 4 CPUs\n');
  writeFileSync(join(l.dir, 'big.cfg'), pvCfg('big').replace('memory = 128', 'memory = 500'));
  expect(await l.xl('create', 'big.cfg')).toMatchObject({ exitCode: 3, stderr: expect.stringContaining('Out of memory') });
});

test.each([
  ['{ "nrCPU": 4 }', 'nrCPU is not known; did you mean nrCpus?'],
  ['{ "nrCpus": ', 'JSON'],
])('the file %s is refused', async (text, why) => {
  const file = host(text);
  const { stderr, exitCode } = await l.xl('dom0', 'start', '--host', file);
  expect(exitCode).toBe(1);
  expect(stderr).toContain(`xl: dom0 did not start: --host ${file}: `);
  expect(stderr).toContain(why);
});

test('memory moves from a guest to what is free; refusals say what xl says', async () => {
  writeFileSync(join(l.dir, 'pv.cfg'), pvCfg('pv', 'maxmem = 256'));
  expect(await l.xl('create', 'pv.cfg')).toMatchObject({ exitCode: 0 });
  expect(await value('free_memory')).toBe('4416\n');
  expect(await l.xl('mem-set', 'pv', '100')).toEqual({ stdout: '', stderr: '', exitCode: 0 });
  await until(async () => (await value('free_memory')) === '4444\n');
  expect((await l.xl('sharing', 'pv')).stdout.split('\n')[1]).toBe(`${'pv'.padEnd(40)}     1   100      0`);
  expect(await l.xl('mem-set', 'pv', '1x')).toEqual({ stdout: '', stderr: 'invalid memory size: 1x\n', exitCode: 1 });
  expect(await l.xl('mem-max', 'pv', '99')).toMatchObject({
    stderr: expect.stringMatching(/^libxl: error: libxl_mem\.c:59:.*\ncannot set domid 1 static max memory to : 99\n$/),
    exitCode: 1,
  });
  const batch = await l.xl('xentop', '-b', '-i', '1', '--vbds');
  expect(batch).toMatchObject({ stderr: '', exitCode: 0 });
  expect(batch.stdout.split('\n').slice(1, 3)).toEqual([
    expect.stringMatching(/^ {2}Domain-0 -----r +\d+ +0\.0 +1572864 +25\.0 /),
    expect.stringMatching(/^ {8}pv --b--- +\d+ +0\.0 +102400 +1\.6 +103424 +1\.6 +2 +1 +0 +0 +1 /),
  ]);
  expect(batch.stdout.split('\n')[3]).toMatch(/^VBD BlkBack 51712 \[ca: 0\] {2}OO: {8}0 /);
});

test('what is printed for eyes and ears: help, warnings, a terminal that is none', async () => {
  expect(await l.xl('button-press', 'x')).toMatchObject({
    stderr: 'WARNING: "button-press" is deprecated. Please use "trigger"\n\'xl button-press\' requires at least 2 arguments.\n\n',
    exitCode: 2,
  });
  expect(await l.xl('top', '-Q')).toEqual({ stdout: '', stderr: "option `Q' not supported.\n", exitCode: 2 });
  const table = (await l.xl('top', '-bvi1')).stdout;
  expect(table.split('\n')[0]).toMatch(/^ {6}NAME {2}STATE /);
  expect(table).toMatch(/\n {2}Domain-0 -----r .*\nVCPUs\(sec\): {3}0: +\ds {2}1: +\ds\n/);
  l.env['TERM'] = 'xterm';
  expect((await l.xl('top', '-i1')).stdout).toMatch(/^ {6}NAME {2}STATE .*\n {2}Domain-0 -----r /);
  l.env['TERM'] = '';
  expect(await l.xl('top')).toEqual({ stdout: '', stderr: 'Error opening terminal: unknown.\n', exitCode: 0 });
  expect(await l.xl('xentop')).toMatchObject({ stderr: 'Error opening terminal: unknown.\n', exitCode: 1 });
  expect(await l.xl('sysrq', '0', 'hh')).toEqual({
    stdout: 'Usage: xl [-vtTf] sysrq <Domain> <letter>\n\nSend a sysrq to a domain.\n\n',
    stderr: 'Invalid sysrq.\n\n',
    exitCode: 1,
  });
  expect((await l.xl('uptime', '-s', '0')).stdout).toMatch(/^ \d\d:\d\d:\d\d up {2}0:0\d, Domain-0 \(0\)\n$/);
  expect(await l.xl('sharing', 'a', 'b')).toMatchObject({
    stdout: expect.stringMatching(/^Usage: xl \[-vtT\] sharing/),
    exitCode: 1,
  });
});
