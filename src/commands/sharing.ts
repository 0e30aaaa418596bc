import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, printJson, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import type { Ctx } from '../libxl/ctx.js';
import { domainInfo, domidToName, listDomains } from '../libxl/domain.js';
import type { DomInfo } from '../xenbus/privcmd.js';
import { byteString } from '../xenbus/xs-client.js';

interface Sharing {
  readonly name: string | null;
  readonly domid: number;
  readonly memoryMb: number;
  /** A PV guest shares no pages, and there are no others. */
  readonly sharedMb: 0;
}

export default class SharingCommand extends XlCommand {
  static override summary = 'Get information about page sharing';
  static override examples = ['<%= config.bin %> sharing', '<%= config.bin %> sharing --json web'];
  static override args = { domain: Args.string({ ignoreStdin: true, description: 'name or domid' }) };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { notModelled: 'shared pages: there are none', usage: '[Domain]', surplus: 'help', options: '' };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(SharingCommand);
    await withSession(this, flags, async ({ ctx }) => {
      const infos = args.domain === undefined ? await listDomains(ctx) : [await oneDomain(ctx, args.domain)];
      const listed: Sharing[] = [];
      for (const info of infos) listed.push(sharingOf(info, await domidToName(ctx, info.domid)));
      if (flags.json) printJson(listed);
      else process.stdout.write(sharingTable(listed));
    });
  }
}

async function oneDomain(ctx: Ctx, text: string): Promise<DomInfo> {
  const info = await domainInfo(ctx, await findDomain(ctx, text));
  if (!info) throw new XlFailure(1, `Error: Domain '${text}' does not exist.`);
  return info;
}

function sharingOf({ domid, currentKb, outstandingKb }: DomInfo, name: string | undefined): Sharing {
  return { name: name ?? null, domid, memoryMb: Math.floor((currentKb + outstandingKb) / 1024), sharedMb: 0 };
}

function sharingTable(listed: readonly Sharing[]): string {
  const rows = listed.map(({ name, domid, memoryMb, sharedMb }) => {
    const text = name ?? '(null)';
    // printf counts bytes.
    const padded = text + ' '.repeat(Math.max(0, 40 - byteString(text).length));
    return `${padded} ${String(domid).padStart(5)} ${String(memoryMb).padStart(5)}  ${String(sharedMb).padStart(5)}\n`;
  });
  return `Name                                        ID   Mem Shared\n${rows.join('')}`;
}
