/** What dom0d is told on its command line: by `xl dom0 start`, and through it by `XL_DOM0_ARGS`. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { parseTimeoutScale } from '../cli/argv.js';
import type { Fsync } from '../xenbus/journal.js';
import { defaultMachine, type MachineDescription, machineOf } from '../xenbus/machine.js';
import type { HostView } from '../xenbus/privcmd.js';

/** Seconds without a guest and without a client after which dom0d ends, unless `--idle` says otherwise. */
const idleDefaultSeconds = 600;

export interface Dom0dOptions {
  readonly runDir: string;
  readonly cmdline: string;
  readonly host: HostView;
  readonly machine: MachineDescription;
  readonly trace: string | undefined;
  /** The directory of the journal. */
  readonly journal: string | undefined;
  /** What the next life is given to be as this one: all arguments but those of this process, paths in full. */
  readonly again: readonly string[];
  readonly fsync: Fsync;
  readonly idleMs: number;
  readonly readyFd: number | undefined;
  /** For the hung-task period, and for what monitors wait. */
  readonly timeoutScale: number;
}

/** An argument that cannot be followed; the message says why. */
export class BadArguments extends Error {
  override readonly name = 'BadArguments';
}

/** Reads the command line. Relative paths are those of whoever started us. */
export function parseDom0dArgs(argv: readonly string[]): Dom0dOptions {
  const { values } = parseOrRefuse(argv);
  const { journal, fsync = 'always' } = values;
  if (fsync !== 'always' && fsync !== 'never') throw new BadArguments(`--fsync ${fsync}: give always or never`);
  if (values.fsync !== undefined && journal === undefined) {
    throw new BadArguments(`--fsync ${fsync}: there is no journal to write; give --journal DIR too`);
  }
  if (journal === '') throw new BadArguments('--journal: give a directory');
  const idle = values.idle === undefined ? idleDefaultSeconds : Number(values.idle);
  if (!Number.isFinite(idle) || idle < 0 || values.idle === '') {
    throw new BadArguments(`--idle ${values.idle}: give a number of seconds, 0 for never`);
  }
  const timeoutScale = parseTimeoutScale(process.env['XL_TIMEOUT_SCALE']);
  if (typeof timeoutScale === 'string') throw new BadArguments(timeoutScale);
  return {
    runDir: resolve(values['run-dir'] ?? '.'),
    cmdline: values.cmdline ?? 'xen_mtwatch',
    host: {
      root: resolve(values.root ?? '/'),
      assumeFiles: values['assume-files'] ?? false,
      strictFiles: values['strict-files'] ?? false,
      bridges: values.bridge ?? ['xenbr0'],
    },
    machine: values.host === undefined ? defaultMachine : readHost(values.host),
    trace: values.trace === undefined ? undefined : resolve(values.trace),
    journal: journal === undefined ? undefined : resolve(journal),
    again: argumentsAgain(values),
    fsync,
    idleMs: idle * 1000,
    readyFd: values['ready-fd'] === undefined ? undefined : Number(values['ready-fd']),
    timeoutScale,
  };
}

const pathArguments: readonly string[] = ['root', 'host', 'trace', 'journal'];
const ownArguments: readonly string[] = ['run-dir', 'ready-fd'];

function argumentsAgain(values: ReturnType<typeof parseOrRefuse>['values']): string[] {
  return Object.entries(values).flatMap(([name, value]) => {
    if (ownArguments.includes(name)) return [];
    return [value].flat().map((each) => {
      if (typeof each !== 'string') return `--${name}`;
      return `--${name}=${pathArguments.includes(name) ? resolve(each) : each}`;
    });
  });
}

function parseOrRefuse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        'run-dir': { type: 'string' },
        'ready-fd': { type: 'string' },
        cmdline: { type: 'string' },
        root: { type: 'string' },
        'assume-files': { type: 'boolean' },
        'strict-files': { type: 'boolean' },
        bridge: { type: 'string', multiple: true },
        host: { type: 'string' },
        trace: { type: 'string' },
        idle: { type: 'string' },
        journal: { type: 'string' },
        fsync: { type: 'string' },
      },
    });
  } catch (error) {
    throw new BadArguments(error instanceof Error ? error.message : String(error));
  }
}

/** `--host FILE`: what the host is, as JSON; docs/host.md has the keys. */
function readHost(file: string): MachineDescription {
  const path = resolve(file);
  try {
    return machineOf(JSON.parse(readFileSync(path, 'utf8')));
  } catch (error) {
    throw new BadArguments(`--host ${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
