import { withDom0, XlCommand } from '../../xl.js';

export default class Dom0Env extends XlCommand {
  static override summary = 'Print what xenstore-ls and its like need in the environment';
  static override description =
    'Print shell commands that set XL_RUN_DIR and XENSTORED_PATH, for `eval "$(xl dom0 env)"`; then xenstore-ls and other clients find the embedded dom0';
  static override examples = ['eval "$(<%= config.bin %> dom0 env)" && xenstore-ls'];

  async run(): Promise<void> {
    await this.parse(Dom0Env);
    await withDom0(this, async (_xc, dir) => {
      process.stdout.write(assignment('XL_RUN_DIR', dir.path) + assignment('XENSTORED_PATH', dir.store.client));
    });
  }
}

/** As ssh-agent prints it, in words that every shell reads back as they are. */
export function assignment(name: string, value: string): string {
  const word = /^[\w@%+=:,./-]+$/.test(value) ? value : `'${value.replaceAll("'", "'\\''")}'`;
  return `${name}=${word}; export ${name};\n`;
}
