import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byFindDomain, checkDomain, operandsOf, orComplain, printDryRun } from '../cli/device-command.js';
import { findDomain, withSession, XlFailure } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { readGlobalConfig } from '../cli/xl-conf.js';
import { nicAttach } from '../libxl/attach.js';
import { nicToJson } from '../libxl/json.js';
import type { Nic } from '../libxl/nic.js';
import { parseNicWords } from '../libxl/nic-spec.js';

export default class NetworkAttach extends XlCommand {
  static override summary = 'Create a new virtual network device';
  static override examples = ['<%= config.bin %> network-attach web mac=00:16:3e:00:00:02 bridge=xenbr0'];
  static override args = {
    domain: Args.string({ required: true, ignoreStdin: true, description: 'name or domid' }),
    spec: Args.string({ multiple: true, ignoreStdin: true, description: 'key=value, as in a config' }),
  };
  static override flags = {
    dryrun: Flags.boolean({ hidden: true, default: false, description: 'print the interface and stop' }),
  };
  static override xl: XlLayout = {
    usage:
      '<Domain> [type=<type>] [mac=<mac>] [bridge=<bridge>] [ip=<ip>] [script=<script>] [backend=<BackDomain>] ' +
      '[vifname=<name>] [rate=<rate>] [model=<model>] [accel=<accel>] [mtu=<mtu>]',
    modifies: true,
  };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(NetworkAttach);
    const [domain = '', ...words] = operandsOf(raw);
    if (flags.dryrun) {
      await checkDomain(this, flags, domain, byFindDomain);
      return printDryRun('vif', nicToJson(await nic(words)));
    }
    await withSession(this, flags, async ({ ctx }) => {
      const domid = await findDomain(ctx, domain);
      await orComplain(nicAttach(ctx, domid, await nic(words)), 'libxl_device_nic_add failed.', 1);
    });
  }
}

/** The interface that the words describe, over what xl.conf has for every one. */
async function nic(words: readonly string[]): Promise<Nic> {
  const { nicDefaults } = await readGlobalConfig(process.env);
  const parsed = parseNicWords(words);
  for (const line of parsed.lines) process.stderr.write(`${line}\n`);
  if (parsed.status !== 'ok') throw new XlFailure(1);
  return { ...nicDefaults, ...parsed.nic };
}
