import { readFile, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { commandHelp, type XlLayout } from '../cli/argv.js';
import { withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { configText } from '../libxl/config.js';
import { cpuList } from '../libxl/cpu-list.js';
import { cpupoolCreate, nameToCpupool, schedulerNames } from '../libxl/cpupool.js';
import { type Ctx, LibxlError } from '../libxl/ctx.js';
import { formatUuid } from '../libxl/domain.js';
import { atoi } from '../libxl/strtol.js';
import {
  type CfgReader,
  cfgReader,
  diagnosticLines,
  getList,
  getString,
  getStrings,
  hasKey,
  parseXlCfg,
} from '../libxl/xl-cfg.js';

export default class CpupoolCreate extends XlCommand {
  static override summary = 'Create a new CPU pool';
  static override examples = [`<%= config.bin %> cpupool-create 'name="batch"' 'sched="credit"'`];
  static override strict = false;
  static override args = {
    operands: Args.string({ multiple: true, ignoreStdin: true, description: 'a file, and key=value that override it' }),
  };
  static override flags = {
    defconfig: Flags.string({ char: 'f', helpValue: 'FILE', description: 'the configuration file' }),
    dryrun: Flags.boolean({ char: 'n', default: false, description: 'print the resulting configuration and stop' }),
  };
  static override xl: XlLayout = {
    usage: '[options] [<ConfigFile>] [Variable=value ...]',
    modifies: true,
    options: `-h, --help                   Print this help.
-f FILE, --defconfig=FILE    Use the given configuration file.
-n, --dryrun                 Dry run - prints the resulting configuration
                              (deprecated in favour of global -N option).

The keys are those of xlcpupool.cfg(5).`,
  };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(CpupoolCreate);
    const operands = raw.flatMap((token) => (token.type === 'arg' ? [token.input] : []));
    const extras = operands.filter((operand) => operand.includes('='));
    const files = [
      ...(flags.defconfig === undefined ? [] : [flags.defconfig]),
      ...operands.filter((each) => !each.includes('=')),
    ];
    if (files.length > 1) return void this.#help();
    const [file] = files;
    const source = file ?? 'command line';
    await withSession(this, flags, async ({ ctx }) => {
      const reader = read(configText(file === undefined ? '' : await contents(ctx, file), extras), source);
      try {
        const pool = await readPool(ctx, reader, file);
        printLines(reader);
        process.stdout.write(`Using config file "${source}"
cpupool name:   ${pool.name}
scheduler:      ${pool.sched}
number of cpus: ${pool.count}
`);
        if (!flags.dryrun) await make(ctx, pool);
      } finally {
        printLines(reader);
      }
    });
  }

  #help(): void {
    const { summary, flags, xl } = CpupoolCreate;
    process.stdout.write(commandHelp({ id: 'cpupool-create', summary, flags, args: {}, xl }));
    process.exitCode = 1;
  }
}

/** The file's text. That it is not there is xl's to say; what else is wrong with it, libxl says first. */
async function contents(ctx: Ctx, file: string): Promise<string> {
  const fail = (why: string, line?: number, what = '') => {
    if (line !== undefined) ctx.log('error', `libxl_utils.c:${line}:libxl_read_file_contents`, undefined, what);
    return new XlFailure(1, `Failed to read config file: ${file}: ${why}`);
  };
  try {
    if ((await stat(file)).isFile()) return await readFile(file, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    const why = strerrors[code] ?? code;
    throw code === 'ENOENT' ? fail(why) : fail(why, 336, `failed to open ${file}: ${why}`);
  }
  throw fail('Inappropriate ioctl for device', 346, `${file} is not a plain file: Success`);
}

const strerrors: Readonly<Record<string, string>> = {
  ENOENT: 'No such file or directory',
  EACCES: 'Permission denied',
  ENOTDIR: 'Not a directory',
  ELOOP: 'Too many levels of symbolic links',
};

function read(text: string, source: string): CfgReader {
  const parsed = parseXlCfg(text, source);
  const lines = diagnosticLines(parsed);
  if (lines.length > 0) throw new XlFailure(1, [...lines, 'Failed to parse config file: Invalid argument'].join('\n'));
  return cfgReader(parsed.settings, source);
}

/** Warnings come before whatever is said next. */
function printLines(reader: CfgReader): void {
  for (const line of reader.lines.splice(0)) process.stderr.write(`${line}\n`);
}

interface PoolConfig {
  readonly name: string;
  readonly sched: string;
  readonly cpus: readonly number[];
  /** As many as were named: one that is named twice counts twice. */
  readonly count: number;
  /** What xl ends with when something fails from here on. */
  readonly exit: number;
}

/** The hypervisor's own scheduler is Pool-0's, and xl ends with the id of it after a later mistake: 6 is credit2's. */
const defaultSched = { name: 'credit2', id: 6 } as const;

async function readPool(ctx: Ctx, reader: CfgReader, file: string | undefined): Promise<PoolConfig> {
  const name = getString(reader, 'name') ?? (file === undefined ? undefined : basename(file));
  if (name === undefined) throw new XlFailure(1, 'Missing cpupool name!');
  if ((await nameToCpupool(ctx, name)) !== undefined) throw new XlFailure(1, `Pool name "${name}" already exists`);
  const wanted = getString(reader, 'sched');
  const sched = wanted === undefined ? defaultSched.name : schedulerNames.find((each) => each === wanted.toLowerCase());
  if (sched === undefined) throw new XlFailure(1, 'Unknown scheduler');
  const exit = wanted === undefined ? defaultSched.id : 1;
  const { nrCpus } = await ctx.xc.call('xc.physinfo', {});
  const { cpus: free } = await ctx.xc.call('xc.cpupool_freeinfo', {});
  const cpus = readCpus(reader, free, nrCpus, exit);
  return { name, sched, cpus: [...new Set(cpus)], count: cpus.length, exit };
}

/** `nodes=` goes before `cpus=`; what is named must be free. */
function readCpus(reader: CfgReader, free: readonly number[], nrCpus: number, exit: number): readonly number[] {
  const nodes = getStrings(reader, 'nodes');
  if (nodes) {
    // All processors are in node 0.
    const cpus = nodes.flatMap((node) => (atoi(node) === 0 ? free : []));
    if (cpus.length === 0) throw new XlFailure(exit, 'no free cpu found');
    return cpus;
  }
  const list = getList(reader, 'cpus', { quiet: true }) ? getStrings(reader, 'cpus', { quiet: true }) : undefined;
  const text = list || !hasKey(reader, 'cpus') ? '' : (getString(reader, 'cpus') ?? '');
  const cpus = list?.map(atoi) ?? cpuList(text, nrCpus);
  if (typeof cpus === 'string') throw new XlFailure(exit, cpus);
  const taken = cpus.find((cpu) => !free.includes(cpu));
  if (taken !== undefined) throw new XlFailure(exit, `cpu ${taken} illegal or not free`);
  return cpus;
}

async function make(ctx: Ctx, { name, sched, cpus, exit }: PoolConfig): Promise<void> {
  try {
    await cpupoolCreate(
      ctx,
      name,
      sched,
      [...cpus].sort((a, b) => a - b),
      formatUuid(ctx.clock.random(16)),
    );
  } catch (error) {
    if (error instanceof LibxlError) throw new XlFailure(exit, 'error on creating cpupool');
    throw error;
  }
}
