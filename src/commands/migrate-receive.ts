import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { bringUp, type LifeFlags, printConfig } from '../cli/bring-up.js';
import { expectMessage, giveUp, messages, type Peer, sendMessage } from '../cli/migration.js';
import { configOf, readFrom, readHeader, say, writeTo } from '../cli/save-file.js';
import { bareLog, type Session, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { type Ctx, LibxlError } from '../libxl/ctx.js';
import { domainDestroy } from '../libxl/destroy.js';
import { domainRename, domainUnpause } from '../libxl/domain.js';
import { losslessText } from '../xenbus/xs-client.js';

const ackStream = 'migration ack stream';

export default class MigrateReceive extends XlCommand {
  static override summary = 'Restore a domain from a saved state';
  static override examples = ["<%= config.bin %> migrate -s '' web 'XL_RUN_DIR=/tmp/other xl migrate-receive'"];
  static override flags = {
    foreground: Flags.boolean({ char: 'F', default: false, description: "monitor the domain's death in the foreground" }),
    exit: Flags.boolean({ char: 'e', default: false, description: 'leave no monitor behind' }),
    debug: Flags.boolean({ char: 'd', default: false, description: 'print the configuration as JSON on stderr' }),
    remus: Flags.boolean({ char: 'r', default: false, description: 'not modelled' }),
    paused: Flags.boolean({ char: 'p', default: false, description: 'leave the domain paused' }),
    colo: Flags.boolean({ default: false, description: 'not modelled' }),
    'coloft-script': Flags.string({ description: 'not modelled' }),
    'userspace-colo-proxy': Flags.boolean({ default: false, description: 'not modelled' }),
  };
  static override xl: XlLayout = { usage: '- for internal use only', modifies: true, surplus: 'help', options: '' };

  async run(): Promise<void> {
    const { flags } = await this.parse(MigrateReceive);
    const log = bareLog(flags);
    const write = writeTo(1);
    const peer: Peer = { read: readFrom(0), name: 'migration stream' };
    say('migration target: Ready to receive domain.');
    if (!(await sendMessage(log, write, messages.banner.bytes, ackStream, messages.banner.what))) throw giveUp();
    const life = { ...flags, console: false, vncviewer: false, 'vncviewer-autopass': false };
    const source = { name: '<incoming migration stream>', read: peer.read };
    try {
      const config = await configOf(await readHeader(log, source));
      const name = config.cInfo.name;
      const incoming = { ...config, cInfo: { ...config.cInfo, name: `${name}--incoming` } };
      if (flags.debug) printConfig(incoming, 'json', process.stderr);
      if (flags.remus || flags.colo) {
        throw new XlFailure(1, 'xl: migrate-receive: checkpointed streams are not modelled; use xl migrate');
      }
      await withSession(this, flags, async (session) => {
        const { domid, ended } = await bringUp(session, incoming, { ...life, paused: true }, source.read);
        await takeOver(session, peer, write, { domid, name: losslessText(name), life });
        await ended;
      });
    } catch (error) {
      throw creationFailed(error);
    }
  }
}

/** What xl says of a creation that failed with an error number of libxl; other failures have ended it before. */
function creationFailed(error: unknown): unknown {
  const code = error instanceof LibxlError ? error.rc : error instanceof XlFailure && error.exit > 1 ? -error.exit : undefined;
  if (code === undefined) return error;
  if (error instanceof XlFailure) say(error.message);
  return new XlFailure(1, `migration target: Domain creation failed (code ${code}).`);
}

interface Incoming {
  readonly domid: number;
  readonly name: string;
  readonly life: Pick<LifeFlags, 'paused'>;
}

/** The domain is here, paused, under another name: asks for it, takes it over, and says how that went. */
async function takeOver(
  { ctx }: Session,
  peer: Peer,
  write: (bytes: Buffer) => Promise<void>,
  { domid, name, life }: Incoming,
): Promise<void> {
  say('migration target: Transfer complete, requesting permission to start domain.');
  if (!(await sendMessage(ctx, write, messages.ready.bytes, ackStream, messages.ready.what))) throw giveUp();
  const code = (await expectMessage(ctx, peer, messages.go, messages.go.what)) ? await start(ctx, domid, name, life) : 1;
  if (!(await sendMessage(ctx, write, messages.report.bytes, ackStream, 'success/failure report'))) throw giveUp();
  const status = Buffer.alloc(1);
  status.writeInt8(code);
  if (!(await sendMessage(ctx, write, status, ackStream, 'success/failure code'))) throw giveUp();
  if (code === 0) return;

  say('migration target: Failure, destroying our copy.');
  try {
    await domainDestroy(ctx, domid);
  } catch (error) {
    if (!(error instanceof LibxlError)) throw error;
    throw new XlFailure(1, `migration target: Failed to destroy our copy (code ${error.rc}).`);
  }
  say('migration target: Cleanup OK, granting sender permission to resume.');
  const what = 'permission to sender to have domain back';
  if (!(await sendMessage(ctx, write, messages.go.bytes, ackStream, what))) throw giveUp();
}

/** Gives the domain its name and lets it run; answers with 0, or minus the error of libxl. */
async function start(ctx: Ctx, domid: number, name: string, { paused }: Pick<LifeFlags, 'paused'>): Promise<number> {
  say('migration target: Got permission, starting domain.');
  try {
    await domainRename(ctx, domid, `${name}--incoming`, name);
    if (!paused) await domainUnpause(ctx, domid);
  } catch (error) {
    if (error instanceof LibxlError) return -error.rc;
    throw error;
  }
  say('migration target: Domain started successsfully.');
  return 0;
}
