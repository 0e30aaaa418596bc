import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { type Ctx, LibxlError, Rc } from '../libxl/ctx.js';
import { domainInfo } from '../libxl/domain.js';
import { asUint64, strtol } from '../libxl/strtol.js';
import { setVcpusOnline } from '../libxl/vcpu.js';

const INT_MAX = 0x7fff_ffff;

export default class VcpuSet extends XlCommand {
  static override summary = 'Set the number of active VCPUs allowed for the domain';
  static override examples = ['<%= config.bin %> vcpu-set web 1', '<%= config.bin %> vcpu-set --ignore-host web 4'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    vcpus: Args.string({ required: true, ignoreStdin: true, description: 'how many' }),
  };
  static override flags = {
    'ignore-host': Flags.boolean({ char: 'i', default: false, description: 'allow more than the host has processors' }),
  };
  static override xl: XlLayout = {
    usage: '[option] <Domain> <vCPUs>',
    modifies: true,
    options: '-i, --ignore-host  Allow more vCPUs than the host has CPUs',
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(VcpuSet);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const number = strtol(args.vcpus, 10);
      const count = asUint64(number);
      if (number.end === 0 || count > INT_MAX) throw new XlFailure(1, 'Error: Invalid argument.');
      if (!flags['ignore-host']) await checkHost(ctx, domid, Number(count));
      await setOnline(ctx, domid, Number(count));
    });
  }
}

async function checkHost(ctx: Ctx, domid: number, count: number): Promise<void> {
  const { nrCpus } = await ctx.xc.call('xc.physinfo', {});
  const info = await domainInfo(ctx, domid);
  if (!info) throw new XlFailure(1);
  if (count <= info.onlineVcpus || count <= nrCpus) return;
  const have = `You have ${nrCpus} physical CPUs and want ${count} vCPUs!`;
  throw new XlFailure(1, `You are overcommmitting! ${have} Aborting, use --ignore-host to continue`);
}

async function setOnline(ctx: Ctx, domid: number, count: number): Promise<void> {
  try {
    await setVcpusOnline(ctx, domid, count);
  } catch (error) {
    if (!(error instanceof LibxlError)) throw error;
    if (error.rc === Rc.DOMAIN_NOTFOUND) throw new XlFailure(1, `Domain ${domid} does not exist.`);
    throw new XlFailure(1, `libxl_set_vcpuonline failed domid=${domid} max_vcpus=${count}, rc: ${error.rc}`);
  }
}
