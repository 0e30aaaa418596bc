import * as Flags from '@oclif/core/flags';
import { printJson, runDirOf, tryConnect, XlFailure } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';
import type { DeadThread, Dom0Status } from '../../xenbus/privcmd.js';

export default class Dom0StatusCommand extends XlCommand {
  static override summary = 'Show whether the embedded dom0 runs, and how';
  static override description = 'Show whether the embedded dom0 runs, and how it was started. Exit code 1 when it does not run';
  static override examples = ['<%= config.bin %> dom0 status', '<%= config.bin %> dom0 status --json'];
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON; null when no dom0 runs' }) };

  async run(): Promise<void> {
    const { flags } = await this.parse(Dom0StatusCommand);
    const dir = runDirOf(process.env);
    const xc = await tryConnect(dir);
    if (!xc) {
      if (flags.json) printJson(null);
      throw new XlFailure(1, `xl: no dom0 is running in ${dir.path}; start it with \`xl dom0 start\``);
    }
    const status = await xc.call('dom0.status', {});
    xc.close();
    if (flags.json) printJson(status);
    else process.stdout.write(statusText(status));
  }
}

export function statusText(status: Dom0Status): string {
  const { host } = status;
  const files = host.assumeFiles ? 'assumed to be there' : host.strictFiles ? 'looked into' : 'must exist';
  const fields: readonly (readonly [string, string | number])[] = [
    ['pid', status.pid],
    ['version', status.version],
    ['run directory', status.runDir],
    ['command line', status.cmdline === '' ? '-' : status.cmdline],
    ['xenwatch', designTexts[status.xenwatch]],
    ['domains', status.domains],
    ['connections', status.connections],
    ['up', `${(status.upMs / 1000).toFixed(1)}s`],
    ['files', `${files}${host.root === '/' ? '' : `, below ${host.root}`}`],
    ['bridges', host.bridges.join(' ') || '-'],
    ['journal', journalText(status.journal)],
    ['trace', status.trace ?? '-'],
    ...(status.journal?.recovery ?? []).map((line): readonly [string, string] => ['recovered', line]),
    ...status.dead.map((dead): readonly [string, string] => ['dead', deadText(dead, status.xenwatch)]),
  ];
  return fields.map(([name, value]) => `${`${name}:`.padEnd(15)}${value}\n`).join('');
}

function journalText(journal: Dom0Status['journal']): string {
  return journal ? `${journal.dir} (fsync ${journal.fsync}, ${journal.bytes} bytes)` : '-';
}

const designTexts = {
  single: 'one thread',
  rfc: 'rfc: one thread a domain, as the patch was posted',
  hardened: 'one thread a domain',
} satisfies Record<Dom0Status['xenwatch'], string>;

/** A thread that a bug has ended, what that means, and what to do about it. */
function deadText({ thread, pid, why, holds }: DeadThread, design: Dom0Status['xenwatch']): string {
  const told = `${thread}:${pid} (${why}); \`xl dom0 dmesg\` has its stack`;
  const lost = holds.includes('watches_lock')
    ? 'it keeps watches_lock, so no event and no reply of the store gets through any more'
    : lostWith(thread, design);
  return lost === undefined ? told : `${told}; ${lost}: \`xl dom0 stop\` and a new start are a reboot`;
}

function lostWith(thread: string, design: Dom0Status['xenwatch']): string | undefined {
  if (thread === 'xenwatch') return design === 'hardened' ? undefined : 'no event is handled any more';
  const domid = /^xen-mtwatch-(\d+)$/.exec(thread)?.[1];
  return domid === undefined ? undefined : `no event of domain ${domid} is handled any more`;
}
