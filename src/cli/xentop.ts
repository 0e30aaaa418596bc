/**
 * xentop 1.0, as Xen 4.17 has it: its options, its table, its screen and its keys (tools/xentop/xentop.c).
 *
 * What is printed goes through a `Put`, on a screen or on stdout: the same lines either way, but that a screen has the summary
 * above them and the list of keys below. In the table the field that it is sorted by is the first one until `s` is pressed.
 */
import type { Ctx } from '../libxl/ctx.js';
import { type DomainStat, type NodeStat, nodeStat } from '../libxl/stat.js';
import { atoi } from '../libxl/strtol.js';
import { ShutdownReason } from '../xenbus/xenbus.js';
import { byteString } from '../xenbus/xs-client.js';
import { type Key, Screen, type Style, type Terminal } from './screen.js';

export interface TopOptions {
  readonly networks: boolean;
  readonly vbds: boolean;
  readonly vcpus: boolean;
  readonly repeatHeader: boolean;
  readonly fullName: boolean;
  readonly batch: boolean;
  /** Seconds between two samples. */
  readonly delay: number;
  /** How many samples; undefined: no end. */
  readonly iterations: number | undefined;
}

export const defaultOptions: TopOptions = {
  networks: false,
  vbds: false,
  vcpus: false,
  repeatHeader: false,
  fullName: false,
  batch: false,
  delay: 3,
  iterations: undefined,
};

/** What the command line asks for: to run, or words and an exit code. */
export type Asked =
  | { readonly do: 'run'; readonly options: TopOptions }
  | { readonly do: 'print'; readonly stdout: string; readonly stderr: string };

/** By letter; `true` has a value. In the order of the long options, which is that of ambiguities. */
const letters: readonly (readonly [letter: string, name: string, hasValue: boolean])[] = [
  ['h', 'help', false],
  ['V', 'version', false],
  ['n', 'networks', false],
  ['x', 'vbds', false],
  ['r', 'repeat-header', false],
  ['v', 'vcpus', false],
  ['d', 'delay', true],
  ['b', 'batch', false],
  ['i', 'iterations', true],
  ['f', 'full-name', false],
];

const usage = `Usage: xentop [OPTION]
What the domains of this host have and use, again and again

-h, --help           print this help
-V, --version        print the version
-d, --delay=SECONDS  time from one sample to the next (default 3)
-n, --networks       print the vifs of each domain
-x, --vbds           print the vbds of each domain
-r, --repeat-header  print the header above each domain
-v, --vcpus          print the vcpus of each domain
-b, --batch          print lines, without a screen and keys
-i, --iterations     end after so many samples
-f, --full-name      print names as long as they are
`;

const version = 'xentop 1.0\nModelled by xl-mtwatch\n';

/** Reads the options as getopt_long(3) does, in any order; operands are not looked at. */
export function readOptions(argv: readonly string[]): Asked {
  const options = { ...defaultOptions };
  const words = [...argv];
  const refuse = (why: string): Asked => ({ do: 'print', stdout: usage, stderr: `xentop: ${why}\n` });
  const set = (letter: string, value: string): Asked | undefined => {
    switch (letter) {
      case 'h':
        return { do: 'print', stdout: usage, stderr: '' };
      case 'V':
        return { do: 'print', stdout: version, stderr: '' };
      case 'n':
        options.networks = true;
        break;
      case 'x':
        options.vbds = true;
        break;
      case 'r':
        options.repeatHeader = true;
        break;
      case 'v':
        options.vcpus = true;
        break;
      case 'd':
        options.delay = atoi(value) >>> 0;
        break;
      case 'b':
        options.batch = true;
        break;
      case 'i':
        // It counts down to 0, and begins by taking one off.
        options.iterations = atoi(value) >>> 0 || undefined;
        break;
      case 'f':
        options.fullName = true;
        break;
    }
    return undefined;
  };
  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    if (word === '--') break;
    if (!word.startsWith('-') || word === '-') continue;
    if (word.startsWith('--')) {
      const [, typed = '', , given] = /^--([^=]*)(=([\s\S]*))?$/.exec(word) ?? [];
      const exact = letters.filter(([, name]) => name === typed);
      const matches = exact.length > 0 ? exact : letters.filter(([, name]) => name.startsWith(typed));
      const [match] = matches;
      if (!match) return refuse(`unrecognized option '${word.split('=')[0]}'`);
      if (matches.length > 1) {
        const names = matches.map(([, name]) => ` '--${name}'`);
        return refuse(`option '${word}' is ambiguous; possibilities:${names.join('')}`);
      }
      const [letter, name, hasValue] = match;
      if (!hasValue && given !== undefined) return refuse(`option '--${name}' doesn't allow an argument`);
      const value = hasValue ? (given ?? words.shift()) : '';
      if (value === undefined) return refuse(`option '--${name}' requires an argument`);
      const end = set(letter, value);
      if (end) return end;
      continue;
    }
    for (let at = 1; at < word.length; at++) {
      const letter = word.charAt(at);
      const entry = letters.find(([each]) => each === letter);
      if (!entry) return refuse(`invalid option -- '${letter}'`);
      const rest = word.slice(at + 1);
      const value = entry[2] ? rest || words.shift() : '';
      if (value === undefined) return refuse(`option requires an argument -- '${letter}'`);
      const end = set(letter, value);
      if (end) return end;
      if (entry[2]) break;
    }
  }
  return { do: 'run', options };
}

/** What the table is made of: two samples, and what was between them. */
interface Sample {
  readonly now: NodeStat;
  readonly before: NodeStat | undefined;
}

interface Field {
  readonly header: string;
  readonly width: number;
  compare(a: DomainStat, b: DomainStat, sample: Sample): number;
  text(domain: DomainStat, sample: Sample): string;
  /** Whether the column grows with what is in it. */
  readonly grows?: boolean;
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
const netKb = ({ nets }: DomainStat, way: 'rx' | 'tx') => Math.floor(sum(nets.map((net) => net[way].bytes)) / 1024);

/** The sum of one counter over all vbds; undefined when there are vbds and none has counters. */
function vbdSum({ vbds }: DomainStat, counter: keyof NonNullable<DomainStat['vbds'][number]['counters']>): number | undefined {
  const counting = vbds.flatMap(({ counters }) => counters ?? []);
  return counting.length === 0 && vbds.length > 0 ? undefined : sum(counting.map((counters) => counters[counter]));
}

/** A column of numbers, with the largest first when it is sorted by. */
function numeric(header: string, width: number, value: (domain: DomainStat) => number | undefined, grows = false): Field {
  return {
    header,
    width,
    grows,
    compare: (a, b) => (value(b) ?? 0) - (value(a) ?? 0),
    text: (domain) => String(value(domain) ?? '-'),
  };
}

/** Letters of the states, in the order in which they are shown and sorted. */
const states: readonly (readonly [letter: string, is: (domain: DomainStat) => boolean])[] = [
  ['d', ({ info }) => info.dying],
  ['s', ({ info }) => info.shutdown !== null && info.shutdown !== ShutdownReason.crash],
  ['b', ({ info }) => info.blocked],
  ['c', ({ info }) => info.shutdown === ShutdownReason.crash],
  ['p', ({ info }) => info.paused],
  ['r', ({ info }) => info.running],
];

function compareStates(a: DomainStat, b: DomainStat): number {
  for (const [, is] of states) if (is(a) !== is(b)) return is(a) ? -1 : 1;
  return 0;
}

/** The part of one processor that it had since the last sample, in percent. */
function cpuPercent(domain: DomainStat, { now, before }: Sample): number {
  const then = before?.domains.find(({ domid }) => domid === domain.domid);
  if (!then || !before || now.at === before.at) return 0;
  return ((domain.info.cpuTime - then.info.cpuTime) * 100_000) / (now.at - before.at);
}

/** UINT_MAX pages: no limit. */
const noLimitKb = 0xffff_ffff * 4;

function percentOf(kb: number, { now }: Sample): string {
  return ((kb / now.totalKb) * 100).toFixed(1);
}

const fields: readonly Field[] = [
  {
    header: 'NAME',
    width: 10,
    compare: (a, b) => compareText(a.name.toLowerCase(), b.name.toLowerCase()),
    text: ({ name }) => name,
  },
  {
    header: 'STATE',
    width: 6,
    compare: compareStates,
    text: (domain) => states.map(([letter, is]) => (is(domain) ? letter : '-')).join(''),
  },
  { ...numeric('CPU(sec)', 10, ({ info }) => Math.floor(info.cpuTime)), compare: (a, b) => b.info.cpuTime - a.info.cpuTime },
  {
    header: 'CPU(%)',
    width: 6,
    compare: (a, b, sample) => cpuPercent(b, sample) - cpuPercent(a, sample),
    text: (domain, sample) => cpuPercent(domain, sample).toFixed(1),
  },
  numeric('MEM(k)', 10, ({ info }) => info.currentKb),
  {
    ...numeric('MEM(%)', 6, ({ info }) => info.currentKb),
    text: ({ info }, sample) => percentOf(info.currentKb, sample),
  },
  {
    ...numeric('MAXMEM(k)', 10, ({ info }) => info.maxKb),
    text: ({ info }) => (info.maxKb >= noLimitKb ? 'no limit' : String(info.maxKb)),
  },
  {
    ...numeric('MAXMEM(%)', 9, ({ info }) => info.maxKb),
    text: ({ info }, sample) => (info.maxKb >= noLimitKb ? 'n/a' : percentOf(info.maxKb, sample)),
  },
  numeric('VCPUS', 5, ({ vcpus }) => vcpus.length),
  numeric('NETS', 4, ({ nets }) => nets.length),
  numeric('NETTX(k)', 8, (domain) => netKb(domain, 'tx'), true),
  numeric('NETRX(k)', 8, (domain) => netKb(domain, 'rx'), true),
  numeric('VBDS', 4, ({ vbds }) => vbds.length),
  numeric('VBD_OO', 8, (domain) => vbdSum(domain, 'outOfRequests')),
  numeric('VBD_RD', 8, (domain) => vbdSum(domain, 'reads'), true),
  numeric('VBD_WR', 8, (domain) => vbdSum(domain, 'writes'), true),
  numeric('VBD_RSECT', 10, (domain) => vbdSum(domain, 'readSectors'), true),
  numeric('VBD_WSECT', 10, (domain) => vbdSum(domain, 'writeSectors'), true),
  // No domain has a security label.
  numeric('SSID', 4, () => 0),
];

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** What the keys have changed so far. */
export interface TopState {
  networks: boolean;
  vbds: boolean;
  vcpus: boolean;
  repeatHeader: boolean;
  readonly fullName: boolean;
  delay: number;
  sortField: number;
  /** Domains above the first one that is shown. */
  first: number;
  /** What is being typed for the delay. */
  prompt: string | undefined;
  /** Domains that the last screen had room for. */
  fitting: number;
  /** How wide the names have become; they do not shrink. */
  nameWidth: number;
}

export function initialState({ networks, vbds, vcpus, repeatHeader, fullName, delay }: TopOptions): TopState {
  return {
    networks,
    vbds,
    vcpus,
    repeatHeader,
    fullName,
    delay,
    sortField: 0,
    first: 0,
    prompt: undefined,
    fitting: 1,
    nameWidth: 10,
  };
}

/** Longest text that the prompt takes. */
const promptMax = 79;

/** Acts on a key; false: the program is to end. */
export function handleKey(state: TopState, key: Key): boolean {
  if (state.prompt !== undefined) {
    if (key === '\r') {
      const delay = atoi(state.prompt);
      if (delay > 0) state.delay = delay;
      state.prompt = undefined;
    } else if (key === '\x1b') state.prompt = undefined;
    else if (key === 'backspace') state.prompt = state.prompt.slice(0, -1);
    else if (/^[ -~]$/.test(key) && state.prompt.length < promptMax) state.prompt += key;
    return true;
  }
  switch (key.toLowerCase()) {
    case 'n':
      state.networks = !state.networks;
      break;
    case 'b':
      state.vbds = !state.vbds;
      break;
    case 'r':
      state.repeatHeader = !state.repeatHeader;
      break;
    case 's':
      state.sortField = (state.sortField + 1) % fields.length;
      break;
    case 'v':
      state.vcpus = !state.vcpus;
      break;
    case 'down':
      state.first += 1;
      break;
    case 'up':
      state.first = Math.max(0, state.first - 1);
      break;
    case 'page down':
      state.first += state.fitting;
      break;
    case 'page up':
      state.first = Math.max(0, state.first - state.fitting);
      break;
    case 'd':
      state.prompt = '';
      break;
    case 'q':
    case '\x1b':
      return false;
  }
  return true;
}

/** Where lines go. `full`: what comes now would have no place. */
interface Put {
  (text: string, style?: Style): void;
  readonly full: () => boolean;
}

/** The table as `xentop -b` prints it once. */
export function batchText(state: TopState, sample: Sample): string {
  const out: string[] = [];
  const put: Put = Object.assign((text: string) => void out.push(text), { full: () => false });
  putTable(put, state, sample);
  return out.join('');
}

/** A whole screen: summary, table, and the keys at the bottom. */
export function drawScreen(screen: Screen, state: TopState, sample: Sample): void {
  const full = () => screen.row >= screen.rows - 1;
  const put: Put = Object.assign(
    (text: string, style?: Style) => {
      if (!full()) screen.add(text, style);
    },
    { full },
  );
  put(summaryText(sample.now));
  putTable(put, state, sample);
  drawBottom(screen, state);
}

function summaryText({ at, version: xen, domains, totalKb, freeKb, nrCpus, cpuKhz }: NodeStat): string {
  const date = new Date(at);
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, '0')).join(':');
  // Each domain counts once, under the first of these that it is.
  const counted = ['r', 'b', 'p', 's', 'c', 'd'];
  const counts = new Map(counted.map((letter) => [letter, 0]));
  for (const domain of domains) {
    const is = counted.find((letter) => states.some(([each, holds]) => each === letter && holds(domain)));
    if (is !== undefined) counts.set(is, (counts.get(is) ?? 0) + 1);
  }
  const of = (letter: string) => counts.get(letter) ?? 0;
  return [
    `xentop - ${time}   Xen ${xen}\n`,
    `${domains.length} domains: ${of('r')} running, ${of('b')} blocked, ${of('p')} paused, `,
    `${of('c')} crashed, ${of('d')} dying, ${of('s')} shutdown \n`,
    `Mem: ${totalKb}k total, ${totalKb - freeKb}k used, ${freeKb}k free    `,
    `CPUs: ${nrCpus} @ ${Math.floor(cpuKhz / 1000)}MHz\n`,
  ].join('');
}

function putTable(put: Put, state: TopState, sample: Sample): void {
  const byField = fields[state.sortField];
  const domains = [...sample.now.domains].sort((a, b) => byField?.compare(a, b, sample) ?? 0);
  state.first = Math.max(0, Math.min(state.first, domains.length - 1));
  const shown = domains.slice(state.first);
  const widths = widthsOf(shown, state, sample);
  let fitting = 0;
  for (const [index, domain] of shown.entries()) {
    if (put.full()) break;
    if (index === 0 || state.repeatHeader) putHeader(put, state, widths);
    putDomain(put, domain, { state, sample, widths });
    if (state.vcpus) put(vcpuText(domain));
    if (state.networks) put(networkText(domain));
    if (state.vbds) put(vbdText(domain));
    fitting += 1;
  }
  state.fitting = Math.max(1, fitting);
}

function widthsOf(domains: readonly DomainStat[], state: TopState, sample: Sample): number[] {
  if (state.fullName) state.nameWidth = Math.max(state.nameWidth, ...domains.map(({ name }) => byteString(name).length));
  return fields.map((field, at) => {
    if (at === 0) return state.nameWidth;
    if (!field.grows) return field.width;
    return Math.max(field.width, ...domains.map((domain) => field.text(domain, sample).length));
  });
}

function putHeader(put: Put, { sortField }: TopState, widths: readonly number[]): void {
  for (const [at, { header }] of fields.entries()) {
    if (at > 0) put(' ', { reverse: true });
    put(header.padStart(widths[at] ?? 0), { reverse: true, bold: at === sortField });
  }
  put('\n');
}

interface Row {
  readonly state: TopState;
  readonly sample: Sample;
  readonly widths: readonly number[];
}

function putDomain(put: Put, domain: DomainStat, { state, sample, widths }: Row): void {
  for (const [at, field] of fields.entries()) {
    if (at > 0) put(' ');
    const text = field.text(domain, sample);
    // printf counts bytes.
    const cut = at === 0 && !state.fullName ? Buffer.from(text).subarray(0, field.width).toString() : text;
    const missing = Math.max(0, (widths[at] ?? 0) - Buffer.byteLength(cut));
    put(' '.repeat(missing) + cut, at === state.sortField ? { bold: true } : {});
  }
  put('\n');
}

function vcpuText({ vcpus }: DomainStat): string {
  const parts = vcpus.map(({ online, time }, vcpu) => {
    if (!online) return '';
    const line = vcpu !== 0 && vcpu % 5 === 0 ? '\n        ' : '';
    return `${line} ${String(vcpu).padStart(2)}: ${String(Math.floor(time)).padStart(10)}s`;
  });
  return `VCPUs(sec): ${parts.join('')}\n`;
}

function networkText({ nets }: DomainStat): string {
  const wide = (value: number) => String(value).padStart(8);
  const counters = ({ bytes, packets, errors, dropped }: DomainStat['nets'][number]['rx']) =>
    `${wide(bytes)}bytes ${wide(packets)}pkts ${wide(errors)}err ${wide(dropped)}drop`;
  return nets.map(({ rx, tx }, at) => `Net${at} RX: ${counters(rx)}  TX: ${counters(tx)}\n`).join('');
}

function vbdText({ vbds }: DomainStat): string {
  const lines = vbds.map(({ devid, counters }) => {
    const number = (value: number | undefined, width: number) => String(value ?? '-').padStart(width);
    const hex = (value: number) => value.toString(16).padStart(2);
    const requests = `OO: ${number(counters?.outOfRequests, 8)}   RD: ${number(counters?.reads, 8)}   WR: ${number(counters?.writes, 8)}`;
    const sectors = `RSECT: ${number(counters?.readSectors, 10)}   WSECT: ${number(counters?.writeSectors, 10)}`;
    return `VBD BlkBack ${String(devid).padStart(4)} [${hex(devid >> 8)}:${hex(devid & 0xff)}]  ${requests}   ${sectors}\n`;
  });
  return lines.join('');
}

function drawBottom(screen: Screen, { prompt, networks, vbds, vcpus, repeatHeader }: TopState): void {
  screen.move(screen.rows - 1, 2);
  if (prompt !== undefined) {
    screen.add(`Delay(sec): ${prompt}`);
    return;
  }
  const key = (letter: string, rest: string, on = false) => {
    screen.add(letter, { reverse: true });
    screen.add(rest, on ? { marked: true } : {});
    screen.add('  ');
  };
  key('D', 'elay');
  key('N', 'etworks', networks);
  screen.add('v', vbds ? { marked: true } : {});
  key('B', 'ds', vbds);
  key('V', 'CPUs', vcpus);
  key('R', 'epeat header', repeatHeader);
  key('S', 'ort order');
  key('Q', 'uit');
}

/** Prints one table after the other. */
export async function runBatch(ctx: Ctx, options: TopOptions, write: (text: string) => void): Promise<void> {
  const state = initialState(options);
  let before: NodeStat | undefined;
  for (let left = options.iterations; ; ) {
    const now = await nodeStat(ctx);
    write(batchText(state, { now, before }));
    before = now;
    if (left !== undefined && --left === 0) return;
    await ctx.clock.sleep(options.delay * 1000);
  }
}

/** Curses looks for a key so long, in milliseconds; no screen is drawn faster by itself. */
const keyWaitMs = 500;

/** Draws one screen after the other: when the delay is over, and at each key. */
export async function runScreen(ctx: Ctx, options: TopOptions, terminal: Terminal): Promise<void> {
  const state = initialState(options);
  let before: NodeStat | undefined;
  for (let left = options.iterations; ; ) {
    const now = await nodeStat(ctx);
    const screen = new Screen(terminal.rows, terminal.cols);
    drawScreen(screen, state, { now, before });
    terminal.show(screen);
    before = now;
    if (left !== undefined && --left === 0) return;
    const key = await nextKey(ctx, terminal, Math.max(state.delay * 1000, keyWaitMs));
    if (key !== undefined && key !== 'resize' && !handleKey(state, key)) return;
  }
}

/** The next key, or undefined after `forMs`. Keys that came while nobody waited are first. */
function nextKey(ctx: Ctx, terminal: Terminal, forMs: number): Promise<Key | undefined> {
  if (terminal.keys.length > 0) return Promise.resolve(terminal.keys.shift());
  return new Promise((resolve) => {
    const end = () => {
      late();
      terminal.onKey = () => {};
      resolve(terminal.keys.shift());
    };
    const late = ctx.clock.after(forMs, end);
    terminal.onKey = end;
  });
}
