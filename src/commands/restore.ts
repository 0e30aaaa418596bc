import { open } from 'node:fs/promises';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { bringUp, printConfig } from '../cli/bring-up.js';
import { configOf, readFrom, readHeader } from '../cli/save-file.js';
import { bareLog, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { systemWords } from '../cli/xl-conf.js';
import { LibxlError } from '../libxl/ctx.js';

export default class Restore extends XlCommand {
  static override summary = 'Restore a domain from a saved state';
  static override examples = ['<%= config.bin %> restore web.save', '<%= config.bin %> restore -p web.cfg web.save'];
  static override args = {
    first: Args.string({ required: true, ignoreStdin: true, description: 'the saved domain, or a config for it' }),
    second: Args.string({ ignoreStdin: true, description: 'the saved domain, when a config is given' }),
  };
  static override flags = {
    console: Flags.boolean({ char: 'c', default: false, description: "connect to the domain's console" }),
    debug: Flags.boolean({ char: 'd', default: false, description: 'print the configuration as JSON on stderr' }),
    exit: Flags.boolean({ char: 'e', default: false, description: 'leave no monitor behind' }),
    foreground: Flags.boolean({ char: 'F', default: false, description: "monitor the domain's death in the foreground" }),
    paused: Flags.boolean({ char: 'p', default: false, description: 'leave the domain paused' }),
    vncviewer: Flags.boolean({ char: 'V', default: false, description: 'look for its display, of which there is none' }),
    'vncviewer-autopass': Flags.boolean({ char: 'A', default: false, description: 'the same' }),
  };
  static override xl: XlLayout = {
    notModelled: 'the contents of memory: a guest goes on as the model that it was',
    usage: '[options] [<ConfigFile>] <CheckpointFile>',
    modifies: true,
    surplus: 'help',
    options: `-h                       Print this help.
-p                       Do not unpause domain after restoring it.
-e                       Do not wait in the background for the death of the domain.
-d                       Enable debug messages.
-V, --vncviewer          Connect to the VNC display after the domain is created.
-A, --vncviewer-autopass Pass VNC password to viewer via stdin.`,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Restore);
    const name = args.second ?? args.first;
    const configFile = args.second === undefined ? undefined : args.first;
    const file = await open(name, 'r').catch((error: unknown) => {
      throw new XlFailure(1, `Can't open restore file: ${systemWords(error)}`);
    });
    try {
      const read = readFrom(file.fd);
      const header = await readHeader(bareLog(flags), { name, read });
      const config = await configOf(header, configFile);
      if (flags.debug) printConfig(config, 'json', process.stderr);
      const rc = await withSession(this, flags, async (session) => (await bringUp(session, config, flags, read)).ended);
      if (rc < 0) throw new XlFailure(1);
    } catch (error) {
      // Whatever is wrong, restore ends with 1.
      if (error instanceof LibxlError) throw new XlFailure(1);
      if (error instanceof XlFailure) throw new XlFailure(1, error.message);
      throw error;
    } finally {
      await file.close();
    }
  }
}
