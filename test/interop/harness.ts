/**
 * A run directory of its own and the built `xl` in it, for tests of real processes. What a test started ends with it:
 * its dom0d is known by the pid in the run directory, and no other process is touched.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';

export const bin = fileURLToPath(new URL('../../bin/xl.js', import.meta.url));

export interface Run {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number | undefined;
}

export interface Lab {
  /** A directory for the test's own files; commands run in it. */
  readonly dir: string;
  readonly runDir: string;
  /** The environment that commands have beside the run directory. Changes count for what runs afterwards. */
  readonly env: Record<string, string>;
  /** Runs `xl` to its end, whatever the end is. Output is as it was printed, with the last newline. */
  xl(...args: string[]): Promise<Run>;
  /** The pid of its dom0d, if one has written it. */
  pid(): number | undefined;
  /** dom0d's log. */
  log(): string;
  /** Ends its dom0d and removes its files. */
  close(): Promise<void>;
}

export function lab(env: Readonly<Record<string, string>> = {}): Lab {
  if (!existsSync(fileURLToPath(new URL('../../dist/bundle/xl.cjs', import.meta.url))))
    throw new Error('there is no dist: npm run build');
  const dir = mkdtempSync(join(tmpdir(), 'xl-lab-'));
  const runDir = join(dir, 'run');
  const own: Record<string, string> = { XL_DOM0_ARGS: '--assume-files', ...env };
  const read = (name: string) => {
    const file = join(runDir, name);
    return existsSync(file) ? readFileSync(file, 'utf8') : '';
  };
  const pid = () => {
    const text = read('dom0.pid').trim();
    return text === '' ? undefined : Number(text);
  };
  return {
    dir,
    runDir,
    env: own,
    xl: async (...args) => {
      const { XENSTORED_PATH: _, ...inherited } = process.env;
      const options = {
        cwd: dir,
        env: { ...inherited, XL_RUN_DIR: runDir, ...own },
        extendEnv: false,
        reject: false,
        stripFinalNewline: false,
        stdin: 'ignore',
      } as const;
      const { stdout, stderr, exitCode } = await execa(process.execPath, [bin, ...args], options);
      return { stdout, stderr, exitCode };
    },
    pid,
    log: () => read('dom0.log'),
    close: async () => {
      const server = pid();
      if (server !== undefined && isRunning(server)) {
        process.kill(server, 'SIGTERM');
        await until(() => !isRunning(server));
      }
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Whether a process runs; one that is dead and not collected yet does not. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  const stat = existsSync(`/proc/${pid}/stat`) ? readFileSync(`/proc/${pid}/stat`, 'utf8') : '';
  return !/\) Z /.test(stat);
}

/** Waits until something is so; fails after half a minute. */
export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  const giveUp = Date.now() + 30_000;
  while (!(await isSo())) {
    if (Date.now() > giveUp) throw new Error('it did not come to be in 30 s');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The guest of the recordings. */
export function pvCfg(name = 'pv', more = ''): string {
  return `name = "${name}"
memory = 128
vcpus = 2
kernel = "/boot/vmlinux"
ramdisk = "/boot/domu.initrd"
extra = "console=hvc0 root=/dev/xvda"
disk = [ "phy:/dev/vg/${name},xvda,w" ]
vif = [ "bridge=xenbr0" ]
${more}
`;
}
