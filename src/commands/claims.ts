import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { type Listed, listTable } from '../cli/quick/list.js';
import { printJson, withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { domainNames, listDomains } from '../libxl/domain.js';

const plain = { verbose: false, context: false, cpupool: false, numa: false };

export default class Claims extends XlCommand {
  static override summary = 'List outstanding claim information about all domains';
  static override examples = ['<%= config.bin %> claims', '<%= config.bin %> claims --json'];
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { notModelled: 'claims: a domain gets its memory at once', usage: '', options: ' ' };

  async run(): Promise<void> {
    const { flags } = await this.parse(Claims);
    await withSession(this, flags, async ({ ctx }) => {
      const infos = await listDomains(ctx);
      const names = await domainNames(ctx, infos);
      const listed = infos.map((info, at) => ({ info, name: names[at] }));
      if (flags.json) printJson(listed.map(asJson));
      else process.stdout.write(claimsTable(listed));
    });
  }
}

/** The table of `xl list` with a column for what a domain has claimed and not got yet, in MiB. */
export function claimsTable(listed: readonly Listed[]): string {
  const claims = ['  Claimed', ...listed.map(({ info }) => ` ${String(claimedMb(info.outstandingKb)).padStart(5)}`)];
  const rows = listTable(listed, plain).trimEnd().split('\n');
  return rows.map((row, at) => `${row}${claims[at]}\n`).join('');
}

function claimedMb(kb: number): number {
  return Math.floor(kb / 1024);
}

function asJson({ info, name }: Listed) {
  return { name: name ?? null, domid: info.domid, claimedMb: claimedMb(info.outstandingKb) };
}
