import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { printJson, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { type Cpupool, listCpupools } from '../libxl/cpupool.js';
import { byteString } from '../xenbus/xs-client.js';

export default class CpupoolList extends XlCommand {
  static override summary = 'List CPU pools on host';
  static override examples = ['<%= config.bin %> cpupool-list --cpus', '<%= config.bin %> cpupool-list --json Pool-0'];
  static override args = { pool: Args.string({ ignoreStdin: true, description: 'the name of a pool' }) };
  static override flags = {
    cpus: Flags.boolean({ char: 'c', default: false, description: 'print the processors of each pool' }),
    json: Flags.boolean({ default: false, description: 'print JSON' }),
  };
  static override xl: XlLayout = {
    usage: '[-c|--cpus] [<CPU Pool>]',
    options: '-c, --cpus                     Print the CPUs of each pool',
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(CpupoolList);
    await withSession(this, flags, async ({ ctx }) => {
      const pools = await listCpupools(ctx);
      const only = pools.find(({ name }) => name === args.pool);
      if (args.pool !== undefined && !only) throw new XlFailure(1, `Pool '${args.pool}' does not exist`);
      const listed = only ? [only] : pools;
      if (flags.json) printJson(listed);
      else process.stdout.write(table(listed, flags.cpus));
    });
  }
}

function table(pools: readonly Cpupool[], cpus: boolean): string {
  const header = `${padded('Name')}${cpus ? 'CPU list' : 'CPUs   Sched     Active   Domain count'}`;
  return [header, ...pools.map((pool) => row(pool, cpus))].map((line) => `${line}\n`).join('');
}

/** Every pool is active: an inactive one is an idea of xend's. */
function row(pool: Cpupool, cpus: boolean): string {
  if (cpus) return padded(pool.name) + pool.cpus.join(',');
  const count = String(pool.cpus.length).padStart(3);
  return `${padded(pool.name)}${count} ${pool.sched.padStart(9)}       y       ${String(pool.domains).padStart(4)}`;
}

function padded(name: string): string {
  return name + ' '.repeat(Math.max(0, 19 - byteString(name).length));
}
