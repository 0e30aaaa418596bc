/**
 * `xl create -n` of every key in every form, of every kind of syntax error, of texts from a seed, and under each key of
 * xl.conf, as the xl of Debian's Xen 4.17 answered.
 *
 * These answers were taken from xl's own binary with the hypervisor's answers put in its place (two processors in one
 * node, no domain), after 900 of them had been found equal to those of a real host. A uuid that xl had chosen and a
 * generation id are replaced. What xl prints is kept as the lines in which it differs from what it prints for `bases`.
 */
import { readFileSync } from 'node:fs';
import { parseConfig } from '../../src/libxl/config.js';
import { parseGlobalConfig } from '../../src/libxl/global-config.js';
import { toJson, yajl } from '../../src/libxl/json.js';
import { parseVkb } from '../../src/libxl/other-devices.js';
import { configToSexp } from '../../src/libxl/sexp.js';
import { parseSoundCard } from '../../src/libxl/sound-card.js';

interface Base {
  readonly cfg: string;
  readonly stdout: string;
}
interface Run {
  readonly name: string;
  /** The base that the text begins with. */
  readonly on?: string;
  readonly cfg: string;
  readonly exit?: number;
  readonly stderr?: string;
  /** Lines from, to (not included), and what stands in their place; absent when nothing was printed. */
  readonly edits?: readonly (readonly [from: number, to: number, lines: readonly string[]])[];
}
interface ConfRun {
  readonly name: string;
  readonly conf: string;
  readonly cfg: string;
  readonly ignoreMasks?: boolean;
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}
interface Attach {
  readonly command: string;
  readonly words: readonly string[];
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

function recordings<Kind>(name: string): Kind {
  return JSON.parse(readFileSync(new URL(`data/dry-runs/${name}.json`, import.meta.url), 'utf8'));
}

const options = {
  randomUuid: () => '00000000-1111-4222-8333-444444444444',
  randomGenid: () => Array.from({ length: 16 }, () => 7),
  pcpus: 2,
};
const { bases, runs } = recordings<{ readonly bases: Readonly<Record<string, Base>>; readonly runs: readonly Run[] }>(
  'create-n-keys',
);

function expected({ on, exit = 0, stderr = '', edits }: Run) {
  const lines = bases[on ?? 'pv']?.stdout.split('\n') ?? [];
  for (const [from, to, put] of edits?.toReversed() ?? []) lines.splice(from, to - from, ...put);
  return { exit, stderr, stdout: edits ? lines.join('\n') : '' };
}

test.each(runs.map((run) => [run.name, run] as const))('%s', (_name, run) => {
  const text = (run.on === undefined ? '' : (bases[run.on]?.cfg ?? '')) + run.cfg;
  const { config, exit, stderr } = parseConfig(text, '@', options);
  expect({ exit, stderr, stdout: config ? toJson(config) : '' }).toEqual(expected(run));
});

test('there are many of them, and a third ends xl', () => {
  expect(runs.length).toBeGreaterThan(2_000);
  expect(runs.filter(({ exit }) => exit).length).toBeGreaterThan(runs.length / 4);
});

describe('under an xl.conf', () => {
  test.each(recordings<readonly ConfRun[]>('xl-conf').map((run) => [run.name, run] as const))('%s', (_name, run) => {
    const conf = parseGlobalConfig(run.conf, 'xl.conf', 2);
    let got = { exit: conf.exit, stdout: '', stderr: conf.stderr };
    if (conf.global) {
      const ignoreMasks = run.ignoreMasks === true;
      const { config, exit, stderr } = parseConfig(run.cfg, '@', { ...options, global: conf.global, ignoreMasks });
      const sexp = config && conf.global.outputFormat === 'sxp' ? configToSexp(config) : undefined;
      got = {
        exit: sexp?.error === undefined ? exit : 1,
        stdout: sexp?.text ?? (config ? toJson(config) : ''),
        stderr: `${conf.stderr}Parsing config from @\n${stderr}${sexp?.error === undefined ? '' : `${sexp.error}\n`}`,
      };
    }
    expect(got).toEqual({ exit: run.exit, stdout: run.stdout, stderr: run.stderr });
  });
});

describe('xl -N vkb-attach and vsnd-attach', () => {
  test.each(recordings<readonly Attach[]>('other-attach').map((run) => [run.command, run.words, run] as const))(
    '%s 0 %j',
    (command, words, run) => {
      const vkb = command === 'vkb-attach' ? parseVkb(words) : undefined;
      const card = command === 'vsnd-attach' ? parseSoundCard(words) : undefined;
      const errors = vkb && 'errors' in vkb ? vkb.errors : card && 'errors' in card ? card.errors : [];
      const device = vkb && 'vkb' in vkb ? vkb.vkb : card && 'card' in card ? card.card : undefined;
      const stdout = device ? `${command.slice(0, -'-attach'.length)}: ${yajl(device)}\n` : '';
      expect({ stdout, stderr: errors.map((line) => `${line}\n`).join('') }).toEqual({ stdout: run.stdout, stderr: run.stderr });
      expect(run.exit === 0).toBe(device !== undefined);
    },
  );
});
