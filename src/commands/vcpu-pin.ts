import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { cpuList, cpuListText } from '../libxl/cpu-list.js';
import { type Ctx, LibxlError } from '../libxl/ctx.js';
import { domainInfo } from '../libxl/domain.js';
import { isLongOverflow, strtol } from '../libxl/strtol.js';
import { type Affinity, listVcpus, setVcpuAffinity, setVcpuAffinityAll } from '../libxl/vcpu.js';

export default class VcpuPin extends XlCommand {
  static override summary = 'Set which CPUs a VCPU can use';
  static override examples = ['<%= config.bin %> vcpu-pin web 0 1', '<%= config.bin %> vcpu-pin web all all 0'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    vcpu: Args.string({ required: true, ignoreStdin: true, description: 'its number, or all' }),
    hard: Args.string({ required: true, ignoreStdin: true, description: 'processors that it may use; - leaves them' }),
    soft: Args.string({ ignoreStdin: true, description: 'processors that it prefers; - leaves them' }),
  };
  static override flags = {
    force: Flags.boolean({ char: 'f', default: false, description: 'undo a pinning of the kernel' }),
    'ignore-global-affinity-masks': Flags.boolean({ char: 'i', default: false, description: 'do not look at xl.conf' }),
    dryrun: Flags.boolean({ hidden: true, default: false, description: 'print what would be set' }),
  };
  static override xl: XlLayout = {
    usage: '[option] <Domain> <VCPU|all> <Hard affinity|-|all> <Soft affinity|-|all>',
    modifies: true,
    options: `-f, --force        Take back a pinning that the kernel has made
--ignore-global-affinity-masks Do not apply the masks of xl.conf`,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(VcpuPin);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const vcpu = parseVcpu(args.vcpu, flags.force);
      const { nrCpus } = await ctx.xc.call('xc.physinfo', {});
      const affinity = { hard: parseCpus(args.hard, nrCpus), soft: parseCpus(args.soft ?? '-', nrCpus) };
      if (flags.dryrun) return void process.stdout.write(`${dryRun(affinity, nrCpus)}\n`);
      if (affinity.hard && !flags['ignore-global-affinity-masks']) {
        if (!(await domainInfo(ctx, domid))) throw new XlFailure(1, 'Could not get domain info');
        if (affinity.hard.length === 0) throw new XlFailure(1, 'vcpu hard affinity map is empty');
      }
      if (vcpu === 'all') await pinAll(ctx, domid, affinity);
      else await pin(ctx, domid, vcpu, affinity, flags.force);
    });
  }
}

function parseVcpu(text: string, force: boolean): number | bigint | 'all' {
  const number = strtol(text, 10);
  if (number.end > 0 && number.value >= 0n) return isLongOverflow(number) ? 2n ** 63n - 1n : Number(number.value);
  if (text !== 'all') throw new XlFailure(1, `Error: Invalid argument ${text} as VCPU.`);
  if (force) throw new XlFailure(1, "Error: --force and 'all' as VCPU not allowed.");
  return 'all';
}

/** `-` leaves an affinity as it is. */
function parseCpus(text: string, nrCpus: number): readonly number[] | undefined {
  if (text === '-') return undefined;
  const cpus = cpuList(text, nrCpus);
  if (typeof cpus === 'string') throw new XlFailure(1, cpus);
  return cpus;
}

function dryRun({ hard, soft }: Affinity, nrCpus: number): string {
  return `cpumap: ${hard ? cpuListText(hard, nrCpus) : '-'}${soft ? ` ${cpuListText(soft, nrCpus)}` : ''}`;
}

async function pin(ctx: Ctx, domid: number, vcpu: number | bigint, affinity: Affinity, force: boolean): Promise<void> {
  try {
    await setVcpuAffinity(ctx, domid, Number(BigInt.asUintN(32, BigInt(vcpu))), affinity, force);
  } catch (error) {
    if (!(error instanceof LibxlError)) throw error;
    throw new XlFailure(1, `Could not set affinity for vcpu \`${vcpu}'.`);
  }
}

async function pinAll(ctx: Ctx, domid: number, affinity: Affinity): Promise<void> {
  const vcpus = await listVcpus(ctx, domid);
  if (!vcpus) throw new XlFailure(1, 'libxl_list_vcpu failed.');
  try {
    await setVcpuAffinityAll(ctx, domid, vcpus.length, affinity);
  } catch (error) {
    if (!(error instanceof LibxlError)) throw error;
    process.stderr.write('Could not set affinity.\n');
  }
}
