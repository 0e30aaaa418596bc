import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { printJson, withDom0, XlFailure } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';
import { everyDomain, everyWatchThread, type KernelThread } from '../../xenbus/privcmd.js';
import { byteString, textOf } from '../../xenbus/xs-client.js';

/** Entries of the queue, waiters, and threads in a refusal, that are printed; `--json` has more. */
const printedMax = 20;

export default class MtwatchShow extends XlCommand {
  static override summary = 'Show one kernel thread, its stack and what it waits for';
  static override description =
    'Show one xenwatch thread: what it runs, for how long, its stack as /proc/PID/stack prints it, what it waits for, the events that wait for it, and the tasks that cannot go on before it does. Any other thread of the kernel is shown too, by its name or pid.';
  static override examples = [
    '<%= config.bin %> mtwatch show web',
    '<%= config.bin %> mtwatch show xen-mtwatch-7',
    '<%= config.bin %> mtwatch show vif7.0-q0-dealloc',
    '<%= config.bin %> mtwatch show --json 7',
  ];
  static override args = {
    'domain|thread': Args.string({
      required: true,
      ignoreStdin: true,
      description: 'name or domid of a domain; name or pid of a thread',
    }),
  };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(MtwatchShow);
    const wanted = args['domain|thread'];
    const { thread, threads, domains } = await withDom0(this, async (xc) => {
      // The thread first: a domid is the hypervisor's before it has a node.
      const found = await xc.call('dom0.thread', { name: byteString(wanted) });
      return {
        thread: found,
        threads: found ? [] : await everyWatchThread(xc),
        domains: await everyDomain(xc),
      };
    });
    if (!thread) {
      const there = bounded(threads, ({ thread: name }) => name).join(', ');
      throw new XlFailure(1, `xl: no kernel thread ${wanted}; the xenwatch threads are ${there}`);
    }
    const { watch, ...task } = thread;
    if (flags.json) printJson({ ...watch, ...task });
    else process.stdout.write(threadText(thread, watch?.node === true && !domains.some(({ domid }) => domid === watch.domid)));
  }
}

/** As many as are printed, and how many there are beyond. */
function bounded<T>(list: readonly T[], text: (entry: T) => string, total = list.length): string[] {
  const printed = list.slice(0, printedMax).map(text);
  return total > printed.length ? [...printed, `... and ${total - printed.length} more`] : printed;
}

const states = { R: 'running', S: 'sleeping', D: 'disk sleep', X: 'dead' } as const;

/** `orphan`: its node is that of a domain that there is no more. Domain 0 has no node to speak of. */
export function threadText(task: KernelThread, orphan: boolean): string {
  const { watch, waits } = task;
  const lines = [
    `thread:   ${task.thread}${watch?.retiring ? ' (retiring)' : ''}`,
    ...(watch ? domainLines(watch, orphan) : []),
    `pid:      ${task.pid}`,
    `comm:     ${task.comm}`,
    `state:    ${task.state} (${states[task.state]})`,
    `waits:    ${waits ? waits.text : '-'}`,
    ...(task.holds.length > 0 ? [`holds:    ${task.holds.join(', ')}`] : []),
    ...(watch ? watchLines(watch) : []),
    ...(task.stack.length > 0 ? ['stack:', ...task.stack] : []),
    ...(watch && watch.pending > 0
      ? ['queue:', ...bounded(watch.queued, ({ path, callback }) => `${textOf(path)}  ${callback}`, watch.pending)]
      : []),
    ...(task.waiting > 0
      ? ['waited for by:', ...bounded(task.waiters, ({ comm, pid, text }) => `${comm}:${pid}  ${text}`, task.waiting)]
      : []),
  ];
  return lines.map((line) => `${line}\n`).join('');
}

function domainLines({ domid, name, node }: NonNullable<KernelThread['watch']>, orphan: boolean): string[] {
  if (domid === 0) return ['domain:   0'];
  const called = name === null ? 'no name' : textOf(name);
  return [`domain:   ${domid} (${called})`, `node:     ${node ? 'yes' : 'no'}${orphan ? ' (orphan)' : ''}`];
}

function watchLines({ pending, handled, running }: NonNullable<KernelThread['watch']>): string[] {
  return [
    `pending:  ${pending}`,
    `handled:  ${handled}`,
    ...(running
      ? [`running:  ${running.callback} for ${(running.forMs / 1000).toFixed(1)}s`, `path:     ${textOf(running.path)}`]
      : ['running:  -']),
  ];
}
