import { open } from 'node:fs/promises';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { pauseQuietly } from '../cli/bring-up.js';
import { configToSend, say, writeHeader, writeTo } from '../cli/save-file.js';
import { findDomain, ignoringFailure, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { LibxlError } from '../libxl/ctx.js';
import { domainDestroy } from '../libxl/destroy.js';
import { domainResume, domainSuspend } from '../libxl/suspend.js';

export default class Save extends XlCommand {
  static override summary = 'Save a domain state to restore later';
  static override examples = ['<%= config.bin %> save web web.save', '<%= config.bin %> save -c web web.save'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    'checkpoint-file': Args.string({ required: true, ignoreStdin: true, description: 'where it is saved' }),
    'config-file': Args.string({ ignoreStdin: true, description: 'a config to save instead of its own' }),
  };
  static override flags = {
    checkpoint: Flags.boolean({ char: 'c', default: false, description: 'let the domain go on afterwards' }),
    paused: Flags.boolean({ char: 'p', default: false, description: 'leave the domain paused afterwards' }),
    'preserve-domid': Flags.boolean({ char: 'D', default: false, description: 'save the domid too' }),
  };
  static override xl: XlLayout = {
    notModelled: 'the contents of memory: what is kept is in docs/saved-domains.md',
    usage: '[options] <Domain> <CheckpointFile> [<ConfigFile>]',
    modifies: true,
    surplus: 'help',
    options: `-h  Print this help.
-c  Leave domain running after creating the snapshot.
-p  Leave domain paused after creating the snapshot.
-D  Store the domain id in the configuration.`,
  };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Save);
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, args.domain);
      const name = args['checkpoint-file'];
      const { bytes } = await configToSend(ctx, domid, {
        keepDomid: flags['preserve-domid'],
        file: args['config-file'],
        stale: 'No such file or directory',
      });
      const file = await open(name, 'w', 0o644).catch(() => {
        throw new XlFailure(1, `Failed to open temp file ${name} for writing`);
      });
      try {
        const write = writeTo(file.fd);
        await writeHeader(ctx, write, name, bytes);
        await domainSuspend(ctx, domid, write);
      } catch (error) {
        if (!(error instanceof LibxlError)) throw error;
        say('Failed to save domain, resuming domain');
        await ignoringFailure(domainResume(ctx, domid));
        throw new XlFailure(1);
      } finally {
        await file.close();
      }
      if (flags.paused) await pauseQuietly(ctx, domid);
      if (flags.paused || flags.checkpoint) await ignoringFailure(domainResume(ctx, domid));
      else await ignoringFailure(domainDestroy(ctx, domid));
    });
  }
}
