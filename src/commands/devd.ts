import { spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, renameSync, writeSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { withDomainSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { deviceEventsHandler } from '../libxl/devd.js';

/** Older logs that are kept, as libxl keeps them. */
const logsKeptMax = 10;

export default class Devd extends XlCommand {
  static override summary = 'Daemon that listens for devices and launches backends';
  static override examples = ['<%= config.bin %> devd -F', '<%= config.bin %> devd --pidfile=/run/xldevd.pid'];
  static override flags = {
    foreground: Flags.boolean({ char: 'F', default: false, description: 'stay in the foreground' }),
    pidfile: Flags.string({ char: 'p', helpValue: 'FILE', description: "write the daemon's pid there" }),
  };
  static override xl: XlLayout = {
    notModelled: 'back ends in qemu',
    usage: '[options]',
    modifies: true,
    options: `-F                      Stay in the foreground.
-p, --pidfile [FILE]    Write the pid of the daemon to FILE.`,
  };

  async run(): Promise<void> {
    const { flags } = await this.parse(Devd);
    if (flags.foreground) return withDomainSession(this, flags, ({ ctx }) => deviceEventsHandler(ctx));
    await withDomainSession(this, flags, async ({ dir }) => daemonize(join(dir.logs, 'xldevd.log'), flags));
  }
}

/**
 * Leaves a process behind that does the work in the foreground of nobody, its lines in a log. As a daemon it stands in
 * `/`, which is where a pid file without a slash ends up, and what is wrong with that file stands in the log alone.
 */
function daemonize(file: string, { pidfile, verbosity }: { pidfile?: string | undefined; verbosity: number }): void {
  rotate(file);
  const log = openSync(file, 'a', 0o644);
  try {
    const pid = pidfile === undefined ? undefined : openPidfile(resolve('/', pidfile), log);
    if (pid === 'refused') return;
    const program = fileURLToPath(new URL('../../bin/xl.js', import.meta.url));
    const words = [program, ...Array<string>(verbosity).fill('-v'), 'devd', '-F'];
    const child = spawn(process.execPath, words, { cwd: '/', detached: true, stdio: ['ignore', log, log] });
    child.unref();
    if (pid === undefined) return;
    writeSync(pid, `${child.pid}\n`);
    closeSync(pid);
  } finally {
    closeSync(log);
  }
}

function openPidfile(path: string, log: number): number | 'refused' {
  try {
    return openSync(path, existsSync(path) ? 'r+' : 'w', 0o600);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    writeSync(log, `Unable to open pidfile: ${reasons[code ?? ''] ?? code}\n`);
    return 'refused';
  }
}

const reasons: Readonly<Record<string, string>> = {
  EACCES: 'Permission denied',
  EISDIR: 'Is a directory',
  ENOENT: 'No such file or directory',
  ENOTDIR: 'Not a directory',
};

/** `xldevd.log` becomes `.1`, that `.2`, and so on. */
function rotate(file: string): void {
  if (!existsSync(file)) return;
  for (let number = logsKeptMax - 1; number >= 1; number--) {
    if (existsSync(`${file}.${number}`)) renameSync(`${file}.${number}`, `${file}.${number + 1}`);
  }
  renameSync(file, `${file}.1`);
}
