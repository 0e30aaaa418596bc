import * as Flags from '@oclif/core/flags';
import { printJson, withDom0, XlFailure } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';
import { dmesgWaitMaxMs, type KernelLog, PrivcmdError } from '../../xenbus/privcmd.js';
import type { PrivcmdClient } from '../../xenbus/privcmd-client.js';

/** What a process ends with that Ctrl-C ended: 128 and SIGINT. */
const interrupted = 130;

/** A line of the log, taken apart. */
export interface LogLine {
  /** Since the boot. */
  readonly seconds: number;
  readonly text: string;
}

export default class Dom0Dmesg extends XlCommand {
  static override summary = "Print the log of dom0's kernel";
  static override description =
    "Print the log of dom0's kernel: what its drivers said, hung tasks, oopses. With --follow it goes on with new lines until Ctrl-C.";
  static override examples = [
    '<%= config.bin %> dom0 dmesg',
    '<%= config.bin %> dom0 dmesg --ctime --follow',
    '<%= config.bin %> dom0 dmesg --json',
    '<%= config.bin %> dom0 dmesg --clear',
  ];
  static override flags = {
    clear: Flags.boolean({ char: 'c', default: false, description: 'empty the log after printing it' }),
    ctime: Flags.boolean({ char: 'T', default: false, description: 'print dates, in local time' }),
    follow: Flags.boolean({ char: 'w', default: false, description: 'print new lines as they come' }),
    json: Flags.boolean({ default: false, description: 'print JSON; with --follow, a line of it for each line of the log' }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(Dom0Dmesg);
    if (flags.follow) process.once('SIGINT', () => process.exit(interrupted));
    const all: unknown[] = [];
    await withDom0(this, async (xc) => {
      for await (const { lines, bootMs } of pages(xc, flags.clear, flags.follow)) {
        const told = lines.map((line) => {
          if (flags.json) return jsonOf(line, flags.ctime ? bootMs : undefined);
          return flags.ctime ? dated(line, bootMs) : line;
        });
        if (flags.json && !flags.follow) all.push(...told);
        else process.stdout.write(told.map((line) => `${flags.json ? JSON.stringify(line) : line}\n`).join(''));
      }
    });
    if (flags.json && !flags.follow) printJson(all);
  }
}

/** The line as JSON has it; with its date when it is known when the kernel booted. */
function jsonOf(line: string, bootMs: number | undefined): LogLine & { readonly date?: string } {
  const { seconds, text } = logLineOf(line);
  if (bootMs === undefined) return { seconds, text };
  return { seconds, date: new Date(bootMs + seconds * 1000).toISOString(), text };
}

/** The log page by page; with `follow` without an end. */
async function* pages(xc: PrivcmdClient, clear: boolean, follow: boolean): AsyncGenerator<KernelLog> {
  for (let from = 0, waitMs = 0; ; ) {
    const page = await xc.call('dom0.dmesg', { clear, from, waitMs }).catch((error: unknown) => {
      if (follow && error instanceof PrivcmdError) throw new XlFailure(1, 'xl: dom0 ended, and with it the log');
      throw error;
    });
    yield page;
    if (page.whole && !follow) return;
    from = page.next;
    waitMs = page.whole ? dmesgWaitMaxMs : 0;
  }
}

/** `[   12.345678] text`, taken apart. */
export function logLineOf(line: string): LogLine {
  const [, seconds = '0', text = line] = /^\[ *(\d+\.\d+)\] (.*)$/s.exec(line) ?? [];
  return { seconds: Number(seconds), text };
}

/** The line as `dmesg -T` of util-linux prints it: `[Sun Nov 22 22:20:45 2026] text`. Whole seconds, cut off. */
export function dated(line: string, bootMs: number): string {
  const { seconds, text } = logLineOf(line);
  const date = new Date(Math.floor((bootMs + seconds * 1000) / 1000) * 1000);
  const [weekday = '', month = '', day = '', year = ''] = date.toDateString().split(' ');
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, '0')).join(':');
  return `[${weekday} ${month} ${day.replace(/^0/, ' ')} ${time} ${year}] ${text}`;
}
