import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../../cli/argv.js';
import { type Asked, errnoText, readPerms } from '../../cli/xenstore-text.js';
import { answer, type Outcome, unlessRefused, XenstoreTool } from '../../cli/xenstore-tool.js';
import type { Xs, XsRequests } from '../../xenbus/xs-client.js';
import type { Perm } from '../../xenbus/xs-wire.js';

export default class XenstoreChmod extends XenstoreTool {
  static override summary = 'Set the permissions of a node of the store';
  static override description =
    'Set the permissions of a node of the store, as xenstore-chmod does, in one transaction. Each is r (read), w (write), b (both) or n (none) and a domid; the first one names the owner, and its letter is for all who are not named.';
  static override examples = [
    '<%= config.bin %> xenstore chmod /local/domain/1/data n1 r0',
    '<%= config.bin %> xenstore chmod --recurse /local/domain/0/backend/vif/1 n0 r1',
  ];
  static override flags = {
    upto: Flags.boolean({ char: 'u', description: 'for all nodes above too' }),
    recurse: Flags.boolean({ char: 'r', description: 'for all nodes below too' }),
  };
  static override xl: XlLayout = { usage: '[options] <Path> <Perm>...', getopt: 'own' };

  override readonly tool = 'chmod';

  protected override work(xs: Xs, { operands: [path = '', ...words], upto, recurse }: Asked): Promise<Outcome> {
    return this.atomically(xs, async (tx) => {
      const perms = readPerms(words);
      if (typeof perms === 'string') this.fail(`Invalid permission specification: '${perms}'`);
      await this.#set(tx, path, perms);
      if (upto) await this.#setAbove(tx, path, perms);
      if (recurse) await this.#setBelow(tx, path, perms);
      return { stdout: '', exit: 0 };
    });
  }

  async #set(tx: XsRequests, path: string, perms: readonly Perm[]): Promise<void> {
    if (path === '') return;
    const set = await answer(tx.setPerms(path, perms).then(() => true));
    if ('errno' in set) this.fail(`Error occurred setting permissions on '${path}': ${errnoText[set.errno]}`);
  }

  /** The root is never above: `/a` has nothing before its slash. */
  async #setAbove(tx: XsRequests, path: string, perms: readonly Perm[]): Promise<void> {
    for (let below = path; below !== ''; ) {
      const slash = below.lastIndexOf('/');
      if (slash < 0) this.fail(`Unable to locate path separator '/' in '${below}'`);
      below = below.slice(0, slash);
      await this.#set(tx, below, perms);
    }
  }

  /** Below the root that is `//tool`, a path that the store refuses: so ends xenstore-chmod. */
  async #setBelow(tx: XsRequests, path: string, perms: readonly Perm[]): Promise<void> {
    if (path === '') return;
    for (const name of (await unlessRefused(tx.directory(path))) ?? []) {
      await this.#set(tx, `${path}/${name}`, perms);
      await this.#setBelow(tx, `${path}/${name}`, perms);
    }
  }
}
