import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { findDomain, printJson, withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import type { Ctx } from '../libxl/ctx.js';
import { domidToName, listDomains } from '../libxl/domain.js';
import { dom0Uptime, vmStartTime } from '../libxl/info.js';
import { byteString } from '../xenbus/xs-client.js';

interface Uptime {
  readonly name: string | null;
  readonly domid: number;
  readonly seconds: number;
}

export default class UptimeCommand extends XlCommand {
  static override summary = 'Print uptime for all/some domains';
  static override examples = ['<%= config.bin %> uptime', '<%= config.bin %> uptime -s web', '<%= config.bin %> uptime --json'];
  static override args = { domains: Args.string({ multiple: true, ignoreStdin: true, description: 'names or domids' }) };
  static override flags = {
    s: Flags.boolean({ char: 's', default: false, description: 'print the time of day and no seconds' }),
    json: Flags.boolean({ default: false, description: 'print JSON' }),
  };
  static override xl: XlLayout = { usage: '[-s] [Domain]', options: '' };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(UptimeCommand);
    await withSession(this, flags, async ({ ctx }) => {
      const asked: number[] = [];
      for (const each of args.domains ?? []) asked.push(await findDomain(ctx, each));
      const now = ctx.clock.wall();
      if (!flags.s && !flags.json) process.stdout.write(`${'Name'.padEnd(33)} ${'ID'.padStart(4)} Uptime\n`);
      const all: Uptime[] = [];
      for (const domid of asked.length > 0 ? asked : (await listDomains(ctx)).map((info) => info.domid)) {
        const uptime = await uptimeOf(ctx, domid, now);
        if (!uptime) continue;
        if (flags.json) all.push(uptime);
        else process.stdout.write(flags.s ? shortLine(uptime, now) : longLine(uptime));
      }
      if (flags.json) printJson(all);
    });
  }
}

/** dom0's is that of its kernel; a guest's begins when its domain was built. */
async function uptimeOf(ctx: Ctx, domid: number, now: number): Promise<Uptime | undefined> {
  const started = domid === 0 ? undefined : await vmStartTime(ctx, domid);
  if (domid !== 0 && started === undefined) return undefined;
  const seconds = started === undefined ? await dom0Uptime(ctx) : (Math.floor(now / 1000) - started) >>> 0;
  return { name: (await domidToName(ctx, domid)) ?? null, domid, seconds };
}

export function longLine({ name, domid, seconds }: Uptime): string {
  const text = name ?? '(null)';
  const padded = text + ' '.repeat(Math.max(0, 33 - byteString(text).length));
  return `${padded} ${String(domid).padStart(4)} ${uptimeText(seconds, true)}\n`;
}

export function shortLine({ name, domid, seconds }: Uptime, now: number): string {
  const date = new Date(now);
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, '0')).join(':');
  return ` ${time} up ${uptimeText(seconds, false)}, ${name ?? '(null)'} (${domid})\n`;
}

/** `2 days,  3:04:05` */
function uptimeText(uptime: number, withSeconds: boolean): string {
  const days = Math.floor(uptime / 86_400);
  const hours = Math.floor((uptime % 86_400) / 3600);
  const parts = [Math.floor((uptime % 3600) / 60), ...(withSeconds ? [uptime % 60] : [])];
  const time = [String(hours).padStart(2), ...parts.map((part) => String(part).padStart(2, '0'))].join(':');
  return days === 0 ? time : `${days} day${days === 1 ? '' : 's'}, ${time}`;
}
