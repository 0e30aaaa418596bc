import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, printJson, withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { cpuListText } from '../libxl/cpu-list.js';
import type { Ctx } from '../libxl/ctx.js';
import { domidToName, listDomains } from '../libxl/domain.js';
import { listVcpus } from '../libxl/vcpu.js';
import type { VcpuInfo } from '../xenbus/privcmd.js';
import { byteString } from '../xenbus/xs-client.js';

const header = 'Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)';

export default class VcpuList extends XlCommand {
  static override summary = 'List the VCPUs for all/some domains';
  static override examples = ['<%= config.bin %> vcpu-list', '<%= config.bin %> vcpu-list --json web db'];
  static override strict = false;
  static override args = { domains: Args.string({ multiple: true, ignoreStdin: true, description: 'names or domids' }) };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { usage: '[Domain, ...]', options: '' };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(VcpuList);
    const domains = raw.flatMap((token) => (token.type === 'arg' ? [token.input] : []));
    await withSession(this, flags, async ({ ctx }) => {
      const { nrCpus } = await ctx.xc.call('xc.physinfo', {});
      const listed = [];
      if (!flags.json) process.stdout.write(`${header}\n`);
      for await (const domid of domids(ctx, domains)) {
        for (const vcpu of (await listVcpus(ctx, domid)) ?? []) {
          const name = await domidToName(ctx, domid);
          if (flags.json) listed.push({ name: name ?? null, domid, ...vcpu });
          else process.stdout.write(`${row(name ?? '(null)', domid, vcpu, nrCpus)}\n`);
        }
      }
      if (flags.json) printJson(listed);
    });
  }
}

/** A domain is looked up when its turn comes: what was printed before one that is not there stays printed. */
async function* domids(ctx: Ctx, domains: readonly string[]): AsyncGenerator<number> {
  if (domains.length === 0) for (const { domid } of await listDomains(ctx)) yield domid;
  for (const domain of domains) yield await findDomain(ctx, domain);
}

/** `r` running, `b` blocked, `p` taken off: then it is on no processor. */
function row(
  name: string,
  domid: number,
  { vcpu, online, running, blocked, pcpu, cpuTime, hard, soft }: VcpuInfo,
  nrCpus: number,
) {
  const state = online ? `${running ? 'r' : '-'}${blocked ? 'b' : '-'}-` : '--p';
  return [
    `${name}${' '.repeat(Math.max(0, 32 - byteString(name).length))} ${String(domid).padStart(5)} ${String(vcpu).padStart(5)}`,
    `${(online ? String(pcpu) : '-').padStart(5)}   ${state} ${cpuTime.toFixed(1).padStart(9)}  `,
    `${cpuListText(hard, nrCpus)} / ${cpuListText(soft, nrCpus)}`,
  ].join('');
}
