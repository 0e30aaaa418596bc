/**
 * The fuzzer of what a user writes: config files, specifications of devices, xl.conf and command lines.
 *
 * An input is a text made of pieces of its language and of noise, all of one seed and the input's number. Whatever it
 * is, the parsers come to an end without throwing, say what is wrong or make a value, and the value is printed and read
 * back as the same. `input(seed, n)` is any of them again.
 */
import { plan, type Table } from '../../src/cli/argv.js';
import { parseConfig } from '../../src/libxl/config.js';
import { parseDiskSpec } from '../../src/libxl/disk.js';
import { parseGlobalConfig } from '../../src/libxl/global-config.js';
import { configToJson, fromJson, toJson } from '../../src/libxl/json.js';
import { knownKeys, lintConfig } from '../../src/libxl/lint.js';
import { parseNicSpec, parseNicWords } from '../../src/libxl/nic.js';
import { configToSexp } from '../../src/libxl/sexp.js';
import { parseXlCfg, printXlCfg } from '../../src/libxl/xl-cfg.js';
import { type Draw, drawer } from './inputs.js';

export interface XlInput {
  readonly kind: 'config' | 'key' | 'global' | 'disk' | 'nic' | 'argv';
  readonly words: readonly string[];
}

export interface XlFuzzFailure {
  readonly number: number;
  readonly input: XlInput;
  readonly error: Error;
}

export interface XlFuzzDone {
  readonly inputs: number;
  /** How many made a value, and how many were refused. */
  readonly accepted: number;
  readonly refused: number;
  readonly failure?: XlFuzzFailure;
}

interface XlFuzzOptions {
  readonly seed: number;
  readonly inputs: number;
  readonly table: Table;
  readonly progress?: (inputs: number) => void;
}

/** Inputs between two reports. */
const progressEvery = 10_000;

export function fuzzXl({ seed, inputs, table, progress }: XlFuzzOptions): XlFuzzDone {
  let accepted = 0;
  let refused = 0;
  for (let number = 0; number < inputs; number++) {
    const input = inputOf(seed, number, table);
    try {
      if (check(input, table)) accepted++;
      else refused++;
    } catch (error) {
      const failure = { number, input, error: error instanceof Error ? error : new Error(String(error)) };
      return { inputs: number + 1, accepted, refused, failure };
    }
    if ((number + 1) % progressEvery === 0) progress?.(number + 1);
  }
  return { inputs, accepted, refused };
}

/** The input of that number. */
export function inputOf(seed: number, number: number, table: Table): XlInput {
  const draw = drawer((Math.imul(seed, 0x9e37_79b1) ^ Math.imul(number + 1, 0x85eb_ca6b)) >>> 0);
  const kind = draw.pick(kinds);
  switch (kind) {
    case 'config':
      return { kind, words: [mangled(draw, configTextOf(draw))] };
    case 'key':
      return { kind, words: [`${draw.pick(minimals)}${setting(draw)}\n`] };
    case 'global':
      return { kind, words: [mangled(draw, `${draw.pick(globalKeys)}=${value(draw)}\n`)] };
    case 'disk':
    case 'nic':
      return { kind, words: Array.from({ length: 1 + draw(2) }, () => spec(draw, kind)) };
    case 'argv':
      return { kind, words: Array.from({ length: draw(6) }, () => argument(draw, table)) };
  }
}

const kinds = ['config', 'config', 'key', 'key', 'key', 'key', 'global', 'disk', 'disk', 'nic', 'nic', 'argv', 'argv'] as const;

// ---- What must hold

class Law extends Error {
  override readonly name = 'Law';
}

function hold(what: string, holds: boolean): void {
  if (!holds) throw new Law(what);
}

/** Whether the input was accepted. */
function check({ kind, words }: XlInput, table: Table): boolean {
  const [text = ''] = words;
  switch (kind) {
    case 'config':
    case 'key':
      return checkConfig(text);
    case 'global': {
      const { global, stderr, exit } = parseGlobalConfig(text, 'F', 2);
      hold('xl.conf ends xl with a status', (global === undefined) === exit > 0);
      return stderr === '';
    }
    case 'disk': {
      const parsed = parseDiskSpec(words, 'F');
      if ('errors' in parsed) hold('a refused disk says why', parsed.errors.length > 0);
      return 'disk' in parsed;
    }
    case 'nic': {
      const one = parseNicSpec(text, 'F');
      const { status, lines } = parseNicWords(words);
      hold(
        'a refused interface says why',
        (status === 'ok' || lines.length > 0) && (one.status === 'ok' || one.lines.length > 0),
      );
      return status === 'ok';
    }
    case 'argv': {
      const planned = plan(words, table);
      if (planned.do === 'run') hold('what runs is in the table', Object.hasOwn(table.commands, planned.id));
      return planned.do === 'run';
    }
  }
}

const uuid = '00000000-1111-4222-8333-444444444444';

/** The laws that cost more than the parsing itself are held for a quarter of all texts. */
function checkConfig(text: string): boolean {
  const thorough = text.length % 4 === 0;
  const { settings, diagnostics } = parseXlCfg(text, 'F');
  const { config, exit, lines, stderr } = parseConfig(text, 'F', { randomUuid: () => uuid });
  hold('a config or a status', (config === undefined) === exit > 0);
  hold('errors of the language end xl with 1', diagnostics.length === 0 || exit === 1 || exit === 134);
  hold('who gives up says why, but for a limit out of bounds', exit !== 1 || stderr !== '' || /max_(grant|maptrack)/.test(text));
  hold('lines are what goes to stderr', stderr === '' || lines.length > 0);
  if (thorough) {
    const findings = lintConfig(text, 'F', { randomUuid: () => uuid });
    hold('what xl complains of is found', stderr === '' || findings.length > 0);
    hold(
      'findings are in places',
      findings.every(({ line, column }) => line > 0 && column > 0),
    );
  }
  if (thorough && diagnostics.length === 0 && !text.includes('\0')) {
    const again = parseXlCfg(printXlCfg(settings), 'F');
    hold('settings are printed as what they are', again.diagnostics.length === 0 && again.settings.length === settings.length);
  }
  if (!config || !thorough) return config !== undefined;
  const json = toJson(config);
  hold('JSON of a config is read as the same', toJson(fromJson(json)) === json);
  hold(
    'JSON is what is printed',
    Object.keys(configToJson(config)).length > 0 && configToSexp(config).text.startsWith('(domain\n'),
  );
  return true;
}

// ---- Inputs

const minimals = [
  'name="t"\nmemory=64\nkernel="/k"\n',
  'name="t"\nmemory=64\nkernel="/k"\ntype="pvh"\n',
  'name="t"\nmemory=64\ntype="hvm"\n',
];
const keys = [...knownKeys];
const globalKeys = [
  ...['autoballoon', 'run_hotplug_scripts', 'lockfile', 'vif.default.script', 'vifscript', 'defaultbridge', 'output_format'],
  ...['blkdev_start', 'claim_mode', 'max_grant_frames', 'vm.cpumask', 'vm.hvm.cpumask', 'vm.pv.cpumask', 'domid_policy'],
];

const strings = [
  ...['', 'x', '0', '1', '-1', '5', '0x10', '010', '08', '99999999999999999999', '4294967296', ' 5', 'all', '^0', '0-3', 'host'],
  ...['pv', 'hvm', 'pvh', 'default', 'native', 'qemu-xen', 'destroy', 'restart', 'generate', 'none', 'igd', 'seabios', 'uefi'],
  ...['strategy=host', 'policy=strict', 'host,avx=0,family=20', '1:eax=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', '\xe9', 'a\\tb'],
];

const specPieces: Readonly<Record<'disk' | 'nic' | 'any', readonly string[]>> = {
  disk: [
    ...[
      'phy:',
      'file:',
      'tap:',
      'qcow2:',
      'nbd:',
      '/dev/x',
      'xvda',
      'hda:cdrom',
      'w',
      'r',
      'raw',
      'qcow2',
      'vdev=xvda',
      'target=/x',
    ],
    ...['format=raw', 'access=rw', 'cdrom', 'devtype=disk', 'script=s', 'backend=d', 'backendtype=phy', 'discard', 'colo-port=9'],
  ],
  nic: [
    ...['mac=00:16:3e:00:00:01', 'bridge=b', 'rate=10Mb/s', 'rate=1GB/s@20ms', 'ip=1', 'type=ioemu', 'model=e1000', 'devid=5'],
    ...['mtu=1400', 'script=s', 'trusted', 'netdev=e', 'accel=1', 'forwarddev=x', 'colo_checkpoint_port=9'],
  ],
  any: [
    ...['backend=d', 'type=pv', 'type=hostdev', 'hostbus=1', 'version=2', 'ports=4', 'connectors=a:1x2', 'be-alloc=1', 'vnc=1'],
    ...['vncdisplay=3', 'tag=t', 'path=/p', 'security_model=none', 'connection=pty', 'connection=socket', 'name=n', 'uuid=x'],
    ...[
      'backend-type=linux',
      'width=640',
      'multi-touch-width=1',
      '01:00.0',
      '0000:00:1f.7@5',
      'permissive=1',
      'rdm_policy=strict',
    ],
    ...[
      'card',
      'pcm',
      'stream',
      'sample-rates=8000;44100',
      'sample-formats=u8',
      'pnode=0',
      'size=32',
      'vcpus=0-1',
      'vdistances=10,20',
    ],
    ...['3f8-3ff', 'fd000,10@5', '7'],
  ],
};

function noise(draw: Draw): string {
  return Array.from({ length: draw(4) }, () => String.fromCharCode(draw(256))).join('');
}

function spec(draw: Draw, kind: 'disk' | 'nic' | 'any'): string {
  const pieces = Array.from({ length: draw(5) }, () =>
    draw(12) === 0 ? noise(draw) : draw.pick(specPieces[draw(8) === 0 ? 'any' : kind]),
  );
  return pieces.join(draw.pick([',', ',', ',', ', ', ':', '=', ' ']));
}

function quoted(text: string): string {
  return `"${text.replace(/["\\\n]/g, '\\$&')}"`;
}

function value(draw: Draw, depth = 0): string {
  switch (draw(7)) {
    case 0:
    case 1:
      return draw.pick(['0', '1', '2', '64', '0x10', '010', '08', '12abc', '4294967296', '99999999999999999999']);
    case 2:
      return quoted(draw.pick(strings));
    case 3:
      return quoted(spec(draw, draw.pick(['disk', 'nic', 'any'])));
    case 4:
      return quoted(noise(draw));
    default:
      return `[${Array.from({ length: draw(3) }, () => (depth > 2 ? '1' : depth === 0 && draw(4) > 0 ? quoted(spec(draw, draw.pick(['disk', 'nic', 'any']))) : value(draw, depth + 1))).join(draw.pick([',', ',', ', ', ',\n', ' ']))}]`;
  }
}

function setting(draw: Draw): string {
  return `${draw.pick(keys)}${draw.pick(['=', '=', '=', ' = ', '+='])}${value(draw)}`;
}

function configTextOf(draw: Draw): string {
  const lines = Array.from({ length: draw(6) }, () => draw.pick([setting(draw), setting(draw), '# c', '', noise(draw)]));
  return `${draw.pick(minimals)}${lines.join(draw.pick(['\n', '\n', ';', '\r\n', ' ']))}${draw.pick(['\n', ''])}`;
}

/** A text with some of its bytes dropped, changed or doubled. */
function mangled(draw: Draw, text: string): string {
  let result = text;
  for (let changes = draw(4); changes > 0; changes--) {
    const at = draw(result.length + 1);
    const put = draw.pick(['', '"', "'", '[', ']', ',', '=', ';', '#', '\n', '\\', '$', '\0', String.fromCharCode(draw(256))]);
    result = result.slice(0, at) + put + result.slice(at + draw(2));
  }
  return result;
}

function argument(draw: Draw, table: Table): string {
  const names = Object.keys(table.commands);
  switch (draw(6)) {
    case 0:
      return draw.pick(names).replaceAll(':', ' ');
    case 1: {
      const name = draw.pick(names);
      return name.slice(0, 1 + draw(name.length));
    }
    case 2:
      return draw.pick([
        '-n',
        '-vvv',
        '-N',
        '-h',
        '--help',
        '--',
        '-',
        '-f',
        '--defconfig=x',
        '--de',
        '-nq',
        '--json',
        '-T',
        'help',
        '-Z',
      ]);
    case 3:
      return draw.pick(['0', '1', 'web', 'a=1', '', 'x y', '-1', '99999999999', 'memory=64']);
    case 4:
      return `-${noise(draw)}`;
    default:
      return noise(draw);
  }
}
