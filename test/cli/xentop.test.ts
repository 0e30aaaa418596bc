/** xentop: its options, its table, its screen and its keys. */

import { keysOf, paint, Screen, type Terminal } from '../../src/cli/screen.js';
import {
  batchText,
  defaultOptions,
  drawScreen,
  handleKey,
  initialState,
  readOptions,
  runBatch,
  runScreen,
  type TopOptions,
} from '../../src/cli/xentop.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { type DomainStat, type NodeStat, nodeStat } from '../../src/libxl/stat.js';
import { machine, pvConfig } from '../machine.js';

const none = { bytes: 0, packets: 0, errors: 0, dropped: 0 };
const quiet = { outOfRequests: 0, reads: 0, writes: 0, readSectors: 0, writeSectors: 0 };

function domain(
  domid: number,
  name: string,
  changes: Partial<DomainStat['info']> = {},
  more: Partial<DomainStat> = {},
): DomainStat {
  const info = {
    domid,
    uuid: '',
    running: false,
    blocked: true,
    paused: false,
    dying: false,
    shutdown: null,
    currentKb: 131_072,
    outstandingKb: 0,
    maxKb: 132_096,
    onlineVcpus: 2,
    maxVcpus: 2,
    cpuTime: 0,
    cpupool: 0,
    ...changes,
  };
  const vcpus = [
    { online: true, time: info.cpuTime },
    { online: true, time: 0 },
  ];
  return { domid, name, info, vcpus, nets: [], vbds: [], ...more };
}

const dom0 = (cpuTime = 188) =>
  domain(0, 'Domain-0', { running: true, blocked: false, currentKb: 1_572_864, maxKb: 1_572_864, cpuTime });

function node(domains: readonly DomainStat[], at = 0): NodeStat {
  return { at, version: '4.17.7', cpuKhz: 2_596_135, nrCpus: 2, totalKb: 6_290_928, freeKb: 4_653_384, domains };
}

const state = (options: Partial<TopOptions> = {}) => initialState({ ...defaultOptions, ...options });
const header =
  '      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS NETS NETTX(k) NETRX(k) VBDS   VBD_OO   VBD_RD   VBD_WR  VBD_RSECT  VBD_WSECT SSID';
const dom0Row =
  '  Domain-0 -----r        188    0.0    1572864   25.0    1572864      25.0     2    0        0        0    0        0        0        0          0          0    0';

describe('options', () => {
  test('are read as getopt_long does, in any order and bundled', () => {
    expect(readOptions(['-b', 'operand', '-nxvrf', '-d1', '--iter', '5'])).toEqual({
      do: 'run',
      options: {
        ...{ batch: true, networks: true, vbds: true, vcpus: true, repeatHeader: true, fullName: true },
        ...{ delay: 1, iterations: 5 },
      },
    });
    expect(readOptions(['--delay=7', '--', '-b'])).toEqual({ do: 'run', options: { ...defaultOptions, delay: 7 } });
    expect(readOptions(['-i', '0'])).toEqual({ do: 'run', options: defaultOptions });
  });

  test.each([
    [['--bogus'], "xentop: unrecognized option '--bogus'\n"],
    [['-Z'], "xentop: invalid option -- 'Z'\n"],
    [['-d'], "xentop: option requires an argument -- 'd'\n"],
    [['--delay'], "xentop: option '--delay' requires an argument\n"],
    [['--batch=1'], "xentop: option '--batch' doesn't allow an argument\n"],
    [['--v'], "xentop: option '--v' is ambiguous; possibilities: '--version' '--vbds' '--vcpus'\n"],
    [['-h', '--bogus'], ''],
  ])('%j prints the usage, and %j', (argv, stderr) => {
    expect(readOptions(argv)).toEqual({ do: 'print', stdout: expect.stringMatching(/^Usage: xentop \[OPTION\]\n/), stderr });
  });
});

describe('the table', () => {
  test('has one line a domain, as it was recorded', () => {
    expect(batchText(state(), { now: node([dom0()]), before: undefined })).toBe(`${header}\n${dom0Row}\n`);
  });

  test('counts processor time of the last interval in percent of one processor', () => {
    const sample = { now: node([dom0(190.5)], 10_000), before: node([dom0(188)], 8_000) };
    expect(batchText(state(), sample).split('\n')[1]).toMatch(/^ {2}Domain-0 -----r {8}190 {2}125\.0 /);
    expect(batchText(state(), { ...sample, before: node([], 8_000) }).split('\n')[1]).toMatch(
      /^ {2}Domain-0 -----r {8}190 {4}0\.0 /,
    );
  });

  test('shows vcpus, vifs and vbds below their domain, and the header above each', () => {
    const nets = [{ devid: 0, rx: { ...none, bytes: 2048, packets: 3 }, tx: none }];
    const vbds = [
      { devid: 51_712, counters: { ...quiet, reads: 7, writeSectors: 16 } },
      { devid: 51_728, counters: null },
    ];
    const pv = domain(1, 'pv', { maxKb: 0xffff_ffff * 4 }, { nets, vbds });
    const options = { networks: true, vbds: true, vcpus: true, repeatHeader: true };
    expect(batchText(state(options), { now: node([dom0(), pv]), before: undefined }).split('\n')).toEqual([
      header,
      dom0Row,
      'VCPUs(sec):   0:        188s  1:          0s',
      header,
      '        pv --b---          0    0.0     131072    2.1   no limit       n/a     2    1        0        2    2        0        7        0          0         16    0',
      'VCPUs(sec):   0:          0s  1:          0s',
      'Net0 RX:     2048bytes        3pkts        0err        0drop  TX:        0bytes        0pkts        0err        0drop',
      'VBD BlkBack 51712 [ca: 0]  OO:        0   RD:        7   WR:        0   RSECT:          0   WSECT:         16',
      'VBD BlkBack 51728 [ca:10]  OO:        -   RD:        -   WR:        -   RSECT:          -   WSECT:          -',
      '',
    ]);
  });

  test('cuts names to ten bytes, or is as wide as the longest', () => {
    const now = node([domain(1, 'a-name-of-nineteen.'), domain(2, 'short')]);
    const names = (fullName: boolean) =>
      batchText(state({ fullName }), { now, before: undefined })
        .split('\n')
        .map((line) => line.slice(0, line.search(/ (STATE|--b---)/)).trimEnd());
    expect(names(false)).toEqual(['      NAME', 'a-name-of-', '     short', '']);
    expect(names(true)).toEqual(['               NAME', 'a-name-of-nineteen.', '              short', '']);
  });

  test('a vbd without counters leaves a dash, beside one that counts nothing', () => {
    const sums = (vbds: DomainStat['vbds']) =>
      batchText(state(), { now: node([domain(1, 'pv', {}, { vbds })]), before: undefined })
        .split('\n')[1]
        ?.trim()
        .split(/ +/)
        .slice(12, 15);
    expect(sums([{ devid: 1, counters: null }])).toEqual(['1', '-', '-']);
    expect(
      sums([
        { devid: 1, counters: null },
        { devid: 2, counters: quiet },
      ]),
    ).toEqual(['2', '0', '0']);
  });

  test('is sorted by name first, whatever their case, then by each field in turn', () => {
    const now = node([
      domain(1, 'b', { currentKb: 9 }),
      domain(2, 'A', { paused: true, blocked: false }),
      domain(3, 'c', { dying: true }),
    ]);
    const s = state();
    const order = () =>
      batchText(s, { now, before: undefined })
        .split('\n')
        .slice(1, -1)
        .map((line) => line.trim().charAt(0));
    const orders = Array.from({ length: 19 }, () => {
      const found = order().join('');
      handleKey(s, 's');
      return found;
    });
    expect(orders.slice(0, 5)).toEqual(['Abc', 'cbA', 'bAc', 'bAc', 'Acb']);
    expect(s.sortField).toBe(0);
  });
});

describe('keys', () => {
  test('switch what is shown, and end it', () => {
    const s = state();
    for (const key of ['n', 'B', 'v', 'R', 'x']) expect(handleKey(s, key)).toBe(true);
    expect(s).toMatchObject({ networks: true, vbds: true, vcpus: true, repeatHeader: true });
    expect(['q', 'Q', '\x1b'].map((key) => handleKey(s, key))).toEqual([false, false, false]);
  });

  test('d asks for the delay; what is no delay changes none', () => {
    const s = state();
    const type = (...keys: string[]) => keys.map((key) => handleKey(s, key));
    expect(type('d', '1', 'q', 'backspace', '2', '\r')).toEqual([true, true, true, true, true, true]);
    expect(s).toMatchObject({ delay: 12, prompt: undefined });
    type('D', '0', '\r');
    type('d', '9', '\x1b');
    expect(s).toMatchObject({ delay: 12, prompt: undefined });
  });

  test('arrows and pages move through the domains, not past the last', () => {
    const s = state();
    const sample = { now: node([1, 2, 3].map((domid) => domain(domid, `d${domid}`))), before: undefined };
    for (const [key, first] of [
      ['up', 'd1'],
      ['down', 'd2'],
      ['page down', 'd3'],
      ['page up', 'd2'],
    ] as const) {
      handleKey(s, key);
      expect(batchText(s, sample).split('\n')[1]?.trim().slice(0, 2)).toBe(first);
    }
  });

  test('are read from what a terminal sends', () => {
    expect(keysOf('n\x1b[A\x1bOB\x1b[5~\x7f\n\x1b[15~q')).toEqual(['n', 'up', 'down', 'page up', 'backspace', '\r', 'q']);
    expect(keysOf('\x1b')).toEqual(['\x1b']);
  });
});

describe('the screen', () => {
  const draw = (rows: number, cols: number, s = state(), domains = [dom0()]) => {
    const screen = new Screen(rows, cols);
    drawScreen(screen, s, { now: node(domains), before: undefined });
    return screen;
  };

  test('wraps the table at its edge, and keeps its last line for the keys', () => {
    const lines = draw(12, 80).lines();
    expect(lines.map((line) => line.trimEnd())).toEqual([
      expect.stringMatching(/^xentop - \d\d:\d\d:\d\d {3}Xen 4\.17\.7$/),
      '1 domains: 1 running, 0 blocked, 0 paused, 0 crashed, 0 dying, 0 shutdown',
      'Mem: 6290928k total, 1637544k used, 4653384k free    CPUs: 2 @ 2596MHz',
      header.slice(0, 80),
      header.slice(80, 160),
      header.slice(160),
      dom0Row.slice(0, 80).trimEnd(),
      dom0Row.slice(80, 160).trimEnd(),
      dom0Row.slice(160).trimEnd(),
      '',
      '',
      '  Delay  Networks  vBds  VCPUs  Repeat header  Sort order  Quit',
    ]);
  });

  test('shows as many domains as it has lines for', () => {
    const many = Array.from({ length: 50 }, (_, at) => domain(at + 1, `d${String(at).padStart(2, '0')}`));
    const s = state();
    const lines = draw(10, 200, s, many).lines();
    expect(lines.slice(4, 9).map((line) => line.trim().slice(0, 3))).toEqual(['d00', 'd01', 'd02', 'd03', 'd04']);
    expect(lines[9]).toMatch(/^ {2}Delay/);
    handleKey(s, 'page down');
    expect(draw(10, 200, s, many).lines()[4]?.trim().slice(0, 3)).toBe('d05');
  });

  test('marks the header, what it is sorted by, and the keys that are on', () => {
    const s = state({ networks: true });
    const screen = draw(8, 200, s);
    expect(screen.line(3).startsWith('\x1b[0;1;7m      NAME\x1b[0;7m  STATE')).toBe(true);
    expect(screen.line(4).startsWith('\x1b[0;1m  Domain-0\x1b[0m -----r')).toBe(true);
    expect(screen.line(7)).toContain('\x1b[0;7mN\x1b[0;43metworks\x1b[0m  v\x1b[0;7mB\x1b[0mds');
  });

  test('is painted whole once, then only where it has changed', () => {
    const before = new Screen(3, 10);
    before.add('one\ntwo\n');
    const after = new Screen(3, 10);
    after.add('one\ntwice\n');
    expect(paint(before)).toBe('\x1b[H\x1b[2J\x1b[1;1Hone\x1b[K\x1b[2;1Htwo\x1b[K\x1b[3;1H');
    expect(paint(after, before)).toBe('\x1b[2;1Htwice\x1b[K\x1b[3;1H');
    expect(paint(new Screen(2, 10), before)).toBe('\x1b[H\x1b[2J\x1b[1;1H');
  });
});

describe('running', () => {
  test('samples a real machine: its domains, their vifs and vbds', async () => {
    const m = await machine();
    await m.run(domainCreateNew(m.ctx, pvConfig()));
    await m.run(domainUnpause(m.ctx, 1));
    await m.settle();
    const found = await m.run(nodeStat(m.ctx));
    expect(found).toMatchObject({ version: '4.17.7', totalKb: 6_290_928, freeKb: 4_653_384 - 131_072 });
    expect(found.domains.map(({ name, nets, vbds }) => [name, nets.length, vbds])).toEqual([
      ['Domain-0', 0, []],
      ['pv', 1, [{ devid: 51_712, counters: quiet }]],
    ]);
    m.dom0.close();
  });

  test('prints as many tables as were asked for, with the delay between', async () => {
    const m = await machine();
    const tables: [number, string][] = [];
    const began = m.clock.now();
    const options = { ...defaultOptions, batch: true, iterations: 3, delay: 5 };
    await m.run(runBatch(m.ctx, options, (text) => tables.push([m.clock.now() - began, text.split('\n')[0] ?? ''])));
    expect(tables).toEqual([0, 5_000, 10_000].map((at) => [at, header]));
    m.dom0.close();
  });

  test('draws at each key and after each delay, until q', async () => {
    const m = await machine();
    const shown: string[] = [];
    const terminal: Terminal = {
      rows: 12,
      cols: 100,
      keys: [],
      show: (screen) => {
        shown.push(`${m.clock.now() - began} ${screen.lines()[11]?.includes('Delay(sec): 1') ? 'asks' : 'keys'}`);
        if (shown.length === 2) terminal.keys.push('d', '1');
        if (shown.length === 5) terminal.keys.push('\r', 'resize', 'q');
      },
      onKey: () => {},
      close: () => {},
    };
    const began = m.clock.now();
    await m.run(runScreen(m.ctx, defaultOptions, terminal));
    expect(shown).toEqual(['0 keys', '3000 keys', '3000 keys', '3000 asks', '6000 asks', '6000 keys', '6000 keys']);
    m.dom0.close();
  });
});
