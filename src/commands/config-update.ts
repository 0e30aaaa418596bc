import { readFile } from 'node:fs/promises';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { configOptions, helpText, parseOrFail } from '../cli/bring-up.js';
import { noDomainInfo, say } from '../cli/save-file.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { bytesOfText, readGlobalConfig, systemWords, writeBytes } from '../cli/xl-conf.js';
import { userdataName } from '../libxl/create.js';
import { domainInfo } from '../libxl/domain.js';
import { configToJson, yajl } from '../libxl/json.js';
import { losslessText } from '../xenbus/xs-client.js';
import Create from './create.js';

/** What is asked for, or how it ends before anything is done. */
type Asked =
  | { readonly file: string | undefined; readonly extras: readonly string[]; readonly debug: boolean }
  | { readonly exit: number; readonly stdout?: string; readonly stderr?: string };

export default class ConfigUpdate extends XlCommand {
  static override summary = `Update a running domain's saved configuration, used when rebuilding the domain after reboot.
WARNING: xl now has better capability to manage domain configuration, avoid using this command when possible`;
  static override examples = ['<%= config.bin %> config-update web web.cfg'];
  static override flags = {
    debug: Flags.boolean({ char: 'd', default: false, description: 'print the configuration as JSON' }),
    defconfig: Flags.string({ char: 'f', helpValue: 'FILE', description: 'the configuration file' }),
    dryrun: Flags.boolean({ default: false, description: 'print the configuration and change nothing' }),
  };
  /** The domain comes first, even before options, so it reads its words itself. */
  static override xl: XlLayout = {
    usage: '<Domain> <ConfigFile> [options] [vars]',
    modifies: true,
    getopt: 'own',
    options: `-h                      Print this help.
-f FILE, --defconfig=FILE
                     Use the given configuration file.
-d                      Enable debug messages.
`,
  };

  async run(): Promise<void> {
    const before = this.argv.indexOf('--');
    const [domain, ...words] = this.argv.slice(before + 1);
    const { flags } = await this.parse(ConfigUpdate, this.argv.slice(0, before));
    if (domain === undefined) {
      say('xl config-update requires a domain argument');
      process.stdout.write(helpText('config-update', ConfigUpdate));
      throw new XlFailure(1);
    }
    say('WARNING: xl now has better capability to manage domain configuration, avoid using this command when possible');
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, domain);
      const asked = readWords(words);
      if ('exit' in asked) {
        process.stdout.write(asked.stdout ?? '');
        process.stderr.write(asked.stderr ?? '');
        throw new XlFailure(asked.exit);
      }
      const { file } = asked;
      if (file === undefined) throw new XlFailure(1, 'Config file not specified');
      const text = await readFile(file, 'latin1').catch((error: unknown) => {
        throw new XlFailure(253, `Failed to read config file: ${file}: ${systemWords(error)}`);
      });
      const { config } = parseOrFail(text, asked.extras, file, configOptions(await readGlobalConfig(process.env)));
      // As of a domain in a list, which here is none.
      if (asked.debug || flags.dryrun) writeBytes(process.stdout, yajl({ domid: null, config: configToJson(config) }));
      if (flags.dryrun) return;
      say(`setting dom${domid} configuration`);
      const info = await domainInfo(ctx, domid);
      if (!info) {
        noDomainInfo(ctx, domid, 'Inappropriate ioctl for device');
        throw new XlFailure(1, 'failed to update configuration');
      }
      const extras = asked.extras.map((extra) => `${bytesOfText(extra)}\n`).join('');
      await ctx.host.writeUserdata(
        userdataName(domid, info.uuid, 'xl'),
        losslessText(extras === '' ? text : `${text}\n${extras}\n`),
      );
    });
  }
}

/** xl looks the command's help up under a name that it does not have. */
const noHelp: Asked = { exit: 0, stdout: 'command "config_update" not implemented\n' };

/** The words behind the domain: a file, then getopt's options, then a file or assignments. */
function readWords(words: readonly string[]): Asked {
  const rest = [...words];
  let file: string | undefined;
  let debug = false;
  if (rest[0] !== undefined && !rest[0].startsWith('-') && !rest[0].includes('=')) file = rest.shift();
  const bad = (option: string): Asked => ({ exit: 2, stderr: `option \`${option}' not supported.\n` });
  while (rest[0]?.startsWith('-') && rest[0] !== '-') {
    const word = rest.shift() ?? '';
    if (word === '--') break;
    if (word.startsWith('--')) {
      const [name = '', value] = splitOnce(word.slice(2));
      if (name !== '' && 'help'.startsWith(name) && value === undefined) return noHelp;
      if (name === '' || !'defconfig'.startsWith(name)) return bad('\0');
      file = value ?? rest.shift();
      if (file === undefined) return bad('f');
      continue;
    }
    for (let at = 1; at < word.length; at++) {
      const letter = word.charAt(at);
      if (letter === 'h') return noHelp;
      if (letter === 'd') debug = true;
      else if (letter === 'f') {
        file = word.slice(at + 1) || rest.shift();
        if (file === undefined) return bad('f');
        break;
        // -q is taken, and means nothing.
      } else if (letter !== 'q') return bad(letter);
    }
  }
  for (const word of rest) {
    if (word.includes('=')) continue;
    if (file !== undefined) return { exit: 2, stdout: helpText('create', Create) };
    file = word;
  }
  return { file, extras: rest.filter((word) => word.includes('=')), debug };
}

function splitOnce(word: string): [string, string | undefined] {
  const equals = word.indexOf('=');
  return equals < 0 ? [word, undefined] : [word.slice(0, equals), word.slice(equals + 1)];
}
