import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { WatchThread } from '../../xenbus/privcmd.js';
import { textOf } from '../../xenbus/xs-client.js';
import { printJson, withDom0, XlCommand, XlFailure } from '../../xl.js';

/** TASK_COMM_LEN of Linux, without the NUL. */
const commMaxBytes = 15;

export default class MtwatchShow extends XlCommand {
  static override summary = 'Show one xenwatch thread and its stack';
  static override description =
    'Show one xenwatch thread: what it runs, for how long, and its stack as /proc/PID/stack prints it';
  static override examples = [
    '<%= config.bin %> mtwatch show web',
    '<%= config.bin %> mtwatch show xen-mtwatch-7',
    '<%= config.bin %> mtwatch show --json 7',
  ];
  static override args = {
    'domain|thread': Args.string({ required: true, ignoreStdin: true, description: 'name or domid of a domain, or a thread' }),
  };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(MtwatchShow);
    const wanted = args['domain|thread'];
    const { threads, domains } = await withDom0(this, async (xc) => ({
      // The threads first: a domid is the hypervisor's before it has a node.
      threads: await xc.call('dom0.mtwatch', {}),
      domains: await xc.call('xc.domain_getinfolist', {}),
    }));
    const thread = threads.find((each) => names(each).includes(wanted));
    if (!thread) {
      const there = threads.map((each) => each.thread).join(', ');
      throw new XlFailure(1, `xl: no xenwatch thread ${wanted}; there are ${there}`);
    }
    if (flags.json) printJson(thread);
    else process.stdout.write(threadText(thread, thread.node && !domains.some(({ domid }) => domid === thread.domid)));
  }
}

function names(thread: WatchThread): string[] {
  return [
    thread.thread,
    thread.thread.slice(0, commMaxBytes),
    String(thread.domid),
    thread.name === null ? '' : textOf(thread.name),
  ];
}

const states = { R: 'running', S: 'sleeping', D: 'disk sleep' } as const;

/** `orphan`: its node is that of a domain that there is no more. Domain 0 has no node to speak of. */
export function threadText(thread: WatchThread, orphan: boolean): string {
  const { running } = thread;
  const name = thread.domid === 0 ? '' : ` (${thread.name === null ? 'no name' : textOf(thread.name)})`;
  const lines = [
    `thread:   ${thread.thread}${thread.retiring ? ' (retiring)' : ''}`,
    `domain:   ${thread.domid}${name}`,
    ...(thread.domid === 0 ? [] : [`node:     ${thread.node ? 'yes' : 'no'}${orphan ? ' (orphan)' : ''}`]),
    `pid:      ${thread.pid}`,
    `comm:     ${thread.thread.slice(0, commMaxBytes)}`,
    `state:    ${thread.state} (${states[thread.state]})`,
    `pending:  ${thread.pending}`,
    `handled:  ${thread.handled}`,
    ...(running
      ? [`running:  ${running.callback} for ${(running.forMs / 1000).toFixed(1)}s`, `path:     ${running.path}`]
      : ['running:  -']),
    ...(running ? ['stack:', ...running.stack] : []),
  ];
  return lines.map((line) => `${line}\n`).join('');
}
