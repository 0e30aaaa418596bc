import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import {
  expectMessage,
  giveUp,
  lastWordLost,
  messages,
  type Peer,
  readExactly,
  sendMessage,
  startTransport,
  type Transport,
} from '../cli/migration.js';
import { configToSend, say, writeHeader } from '../cli/save-file.js';
import { findNamed, ignoringFailure, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { type Ctx, LibxlError, Rc } from '../libxl/ctx.js';
import { domainDestroy } from '../libxl/destroy.js';
import { domainRename } from '../libxl/domain.js';
import { domainResume, domainSuspend } from '../libxl/suspend.js';

export default class Migrate extends XlCommand {
  static override summary = 'Migrate a domain to another host';
  static override examples = [
    '<%= config.bin %> migrate web otherhost',
    "<%= config.bin %> migrate -s '' web 'xl migrate-receive'",
  ];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    host: Args.string({ required: true, ignoreStdin: true, description: 'where it goes, or the command that takes it' }),
  };
  static override flags = {
    config: Flags.string({ char: 'C', helpValue: 'FILE', description: 'a config to send instead of its own' }),
    ssh: Flags.string({ char: 's', helpValue: 'COMMAND', default: 'ssh', description: 'used instead of ssh' }),
    exit: Flags.boolean({ char: 'e', default: false, description: 'leave no monitor behind over there' }),
    foreground: Flags.boolean({ char: 'F', default: false, description: 'as -e without its meaning over there' }),
    debug: Flags.boolean({ default: false, description: 'print the configuration over there' }),
    live: Flags.boolean({ default: false, description: 'no effect' }),
    paused: Flags.boolean({ char: 'p', default: false, description: 'leave it paused over there' }),
    'preserve-domid': Flags.boolean({ char: 'D', default: false, description: 'ask for the same domid over there' }),
  };
  static override xl: XlLayout = {
    notModelled: 'the contents of memory, and so its rounds: the guest is stopped and goes on',
    usage: '[options] <Domain> <host>',
    modifies: true,
    options: `-h              Print this help.
-C <config>     Send <config> instead of config file from creation.
-s <sshcommand> Use <sshcommand> instead of ssh.  String will be passed
                to sh. If empty, run <host> instead of ssh <host> xl
                migrate-receive [-d -e]
-e              Do not wait in the background (on <host>) for the death
                of the domain.
--debug         Print huge (!) amount of debug during the migration process.
-p              Do not unpause domain after migrating it.
-D              Preserve the domain id`,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Migrate);
    const command = flags.ssh === '' ? args.host : remoteCommand(flags.ssh, args.host, flags);
    await withSession(this, flags, async ({ ctx }) => {
      const { domid, name } = await findNamed(ctx, args.domain);
      const { bytes } = await configToSend(ctx, domid, {
        keepDomid: flags['preserve-domid'],
        file: flags.config,
        stale: 'Inappropriate ioctl for device',
      });
      const transport = startTransport(command);
      try {
        await send(ctx, { domid, name, config: bytes, transport, command });
      } finally {
        transport.closeSend();
      }
    });
  }
}

interface RemoteFlags {
  readonly verbosity: number;
  readonly timestamps: boolean;
  readonly exit: boolean;
  readonly foreground: boolean;
  readonly debug: boolean;
  readonly paused: boolean;
}

/** What the shell runs to have `xl migrate-receive` on the other host. */
function remoteCommand(ssh: string, host: string, flags: RemoteFlags): string {
  const own = [
    process.stderr.isTTY ? ' -t' : '',
    flags.timestamps ? ' -T' : '',
    flags.verbosity > 0 ? ` -${'v'.repeat(Math.min(flags.verbosity, 4))}` : '',
  ].join('');
  const theirs = [flags.exit || flags.foreground ? ' -e' : '', flags.debug ? ' -d' : '', flags.paused ? ' -p' : ''].join('');
  return `exec ${ssh} ${host} xl${own} migrate-receive${theirs}`;
}

interface Sending {
  readonly domid: number;
  readonly name: string | undefined;
  readonly config: Buffer;
  readonly transport: Transport;
  readonly command: string;
}

async function send(ctx: Ctx, { domid, name, config, transport, command }: Sending): Promise<void> {
  const peer: Peer = { read: transport.read, name: 'migration receiver stream', command };
  const away = `${name}--migratedaway`;
  const hangUp = async (line: string) => {
    transport.closeSend();
    await transport.report(ctx);
    if (line !== '') say(line);
  };
  const failedResume = async () => {
    await hangUp('Migration failed, resuming at sender.');
    await ignoringFailure(domainResume(ctx, domid));
    return giveUp();
  };
  const failedBadly = async () => {
    lastWordLost();
    await hangUp('');
    return giveUp();
  };

  if (!(await expectMessage(ctx, peer, messages.banner, messages.banner.what))) {
    await hangUp('');
    throw giveUp();
  }
  await writeHeader(ctx, transport.write, 'migration stream', config);
  try {
    await domainSuspend(ctx, domid, transport.write, { quiet: true });
  } catch (error) {
    if (!(error instanceof LibxlError)) throw error;
    say(`migration sender: libxl_domain_suspend failed (rc=${error.rc})`);
    if (error.rc !== Rc.GUEST_TIMEDOUT) throw await failedResume();
    await hangUp('Migration failed, failed to suspend at sender.');
    throw giveUp();
  }
  if (!(await expectMessage(ctx, peer, messages.ready, messages.ready.what))) throw await failedResume();
  say('migration sender: Target has acknowledged transfer.');

  if (name !== undefined) {
    try {
      await domainRename(ctx, domid, name, away);
    } catch (error) {
      if (!(error instanceof LibxlError)) throw error;
      throw await failedResume();
    }
  }
  // From here on the domain is the target's, until the target gives it back.
  say('migration sender: Giving target permission to start.');
  if (!(await sendMessage(ctx, transport.write, messages.go.bytes, 'migration stream', messages.go.what)))
    throw await failedBadly();
  if (!(await expectMessage(ctx, peer, messages.report, messages.report.what))) throw await failedBadly();
  const status = await readExactly(ctx, { ...peer, name: 'migration ack stream' }, 1, 'success/failure status');
  if (!status) throw await failedBadly();
  const code = status.readInt8(0);
  if (code === 0) {
    say('migration sender: Target reports successful startup.');
    await ignoringFailure(domainDestroy(ctx, domid));
    say('Migration successful.');
    return;
  }
  say(`migration sender: Target reports startup failure (status code ${code}).`);
  if (!(await expectMessage(ctx, peer, messages.go, 'permission for sender to resume'))) throw await failedBadly();
  say('migration sender: Trying to resume at our end.');
  if (name !== undefined) await ignoringFailure(domainRename(ctx, domid, away, name));
  const resumed = await domainResume(ctx, domid).then(
    () => true,
    (error: unknown) => {
      if (error instanceof LibxlError) return false;
      throw error;
    },
  );
  if (resumed) say('migration sender: Resumed OK.');
  throw new XlFailure(1, 'Migration failed due to problems at target.');
}
