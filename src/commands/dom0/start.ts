import { resolve } from 'node:path';
import * as Flags from '@oclif/core/flags';
import { startDom0 } from '../../cli/launch.js';
import { runDirOf, tryConnect, XlFailure } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';

export default class Dom0Start extends XlCommand {
  static override summary = 'Start the embedded dom0';
  static override description =
    'Start the embedded dom0 in the background. Commands that need one start it by themselves, with the arguments in XL_DOM0_ARGS.';
  static override examples = [
    '<%= config.bin %> dom0 start',
    '<%= config.bin %> dom0 start --journal /var/lib/xl/journal',
    "<%= config.bin %> dom0 start --cmdline '' --assume-files --trace /tmp/trace.jsonl",
    '<%= config.bin %> dom0 start --bridge xenbr0 --bridge xenbr1 --idle 0',
  ];
  static override flags = {
    cmdline: Flags.string({
      helpValue: 'WORDS',
      description: "dom0's kernel command line (default xen_mtwatch; '' is one xenwatch thread)",
    }),
    root: Flags.string({ helpValue: 'DIR', description: 'look up the files of configs below DIR' }),
    'assume-files': Flags.boolean({ default: false, description: 'take every file that a config names as there' }),
    'strict-files': Flags.boolean({ default: false, description: 'look at the format of kernels' }),
    bridge: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'NAME',
      description: 'a bridge of the host (default xenbr0; repeatable)',
    }),
    host: Flags.string({
      helpValue: 'FILE',
      description: 'JSON with what the host is: nrCpus, totalMb, dom0Mb, ... (docs/host.md)',
    }),
    trace: Flags.string({ helpValue: 'FILE', description: 'append each XenStore request and event to FILE, as JSON lines' }),
    idle: Flags.string({
      helpValue: 'SECONDS',
      description: 'end after so long without guest and client (default 600, 0 is never)',
    }),
    journal: Flags.string({
      helpValue: 'DIR',
      description: 'keep store and domains in DIR, and begin with what is there (docs/journal.md)',
    }),
    fsync: Flags.string({
      helpValue: 'WHEN',
      description: 'always (default): what was answered survives a power cut; never: it survives a kill of dom0 only',
    }),
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(Dom0Start);
    const dir = runDirOf(process.env);
    const running = await tryConnect(dir);
    if (running) {
      running.close();
      const next = 'stop it first with `xl dom0 stop` if it is to have other arguments';
      throw new XlFailure(1, `xl: a dom0 is running in ${dir.path} (pid ${running.server.pid}); ${next}`);
    }
    const { client, ours } = await startDom0(dir, argumentsOf(flags));
    client.close();
    if (!ours)
      throw new XlFailure(1, `xl: a command beside this one started dom0 (pid ${client.server.pid}) with other arguments`);
  }
}

/** The flags as dom0d takes them. Paths are made absolute here, where the user is. */
function argumentsOf(flags: Readonly<Record<string, unknown>>): string[] {
  const paths = ['root', 'host', 'trace', 'journal'];
  return ['cmdline', 'root', 'assume-files', 'strict-files', 'bridge', 'host', 'trace', 'idle', 'journal', 'fsync'].flatMap(
    (name) => {
      const value = flags[name];
      if (value === undefined || value === false) return [];
      if (value === true) return [`--${name}`];
      const values = Array.isArray(value) ? value.map(String) : [String(value)];
      return values.map((each) => {
        if (!paths.includes(name)) return `--${name}=${each}`;
        // The empty path would be where the user is, and is a variable that is not set.
        if (each === '') throw new XlFailure(1, `xl: --${name}: give a path`);
        return `--${name}=${resolve(each)}`;
      });
    },
  );
}
