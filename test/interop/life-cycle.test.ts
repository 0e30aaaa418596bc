/** Domains that are saved, restored and migrated by real processes, two dom0s of this machine among them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bin, type Lab, lab, until } from './harness.js';

let here: Lab;
let there: Lab;
beforeEach(() => {
  here = lab();
  there = lab();
  writeFileSync(
    join(here.dir, 'web.cfg'),
    'name="web"\nmemory=64\nkernel="/boot/vmlinux"\nextra="console=hvc0"\ndisk=["phy:/dev/vg/web,xvda,w"]\nvif=["mac=00:16:3e:00:00:01"]\n',
  );
});
afterEach(async () => {
  await here.close();
  await there.close();
});

/** The rows of `xl list` without dom0: name, domid, state. */
async function domains(at: Lab): Promise<string[]> {
  const { stdout } = await at.xl('list');
  return stdout
    .trimEnd()
    .split('\n')
    .slice(2)
    .map((row) => row.split(/\s+/))
    .map(([name, domid, , , state]) => `${name} ${domid} ${state}`);
}

const isUp = (at: Lab, domid: number) =>
  until(async () => {
    const states = await Promise.all(
      ['vbd/51712', 'vif/0'].map((device) => at.xl('xenstore', 'read', `/local/domain/${domid}/device/${device}/state`)),
    );
    return states.every(({ stdout }) => stdout === '4\n');
  });

const progress = (frames: number) => expect.stringMatching(new RegExp(`xc: progress: Frames: ${frames}/${frames}  100%\n`));

describe('saving and restoring', () => {
  test('a saved domain is gone, and lives on under another domid', async () => {
    await here.xl('create', 'web.cfg');
    await isUp(here, 1);
    const saved = await here.xl('save', 'web', 'web.save');
    const config = statSync(join(here.dir, 'web.save')).size;
    expect(config).toBeGreaterThan(1000);
    expect(saved).toEqual({ stdout: '', stderr: progress(16384), exitCode: 0 });
    const info = /^Saving to web\.save new xl format \(info (0x3\/0x0\/\d+)\)\nxc: info: Saving domain 1, type x86 PV\n/.exec(
      saved.stderr,
    )?.[1];
    expect(await domains(here)).toEqual([]);

    const restored = await here.xl('restore', 'web.save');
    expect(restored.stderr.split('\n').slice(0, 6)).toEqual([
      `Loading new save file web.save (new xl fmt info ${info})`,
      ' Savefile contains xl domain config in JSON format',
      'Parsing config from <saved>',
      'xc: info: Found x86 PV domain from Xen 4.17',
      'xc: info: Restoring domain',
      'xc: info: Restore successful',
    ]);
    await isUp(here, 2);
    expect(await domains(here)).toEqual([expect.stringMatching(/^web 2 [r-][b-]----$/)]);
    const log = readFileSync(join(here.runDir, 'log', 'xl-web.log.1'), 'utf8');
    expect(log.split('\n').slice(1)).toEqual([
      'Domain 1 has shut down, reason code 2 0x2',
      'Domain has suspended.',
      'Done. Exiting now',
      '',
    ]);
    // The monitor of the second life does what the first one's did.
    expect((await here.xl('shutdown', '-w', 'web')).exitCode).toBe(0);
    await until(async () => (await domains(here)).length === 0);
  });

  test('-c lets it go on, -p leaves it paused', async () => {
    await here.xl('create', 'web.cfg');
    await isUp(here, 1);
    expect((await here.xl('save', '-c', 'web', 'a.save')).exitCode).toBe(0);
    expect(await domains(here)).toEqual([expect.stringMatching(/^web 1 [r-][b-]----$/)]);
    expect((await here.xl('save', '-p', 'web', 'b.save')).exitCode).toBe(0);
    expect(await domains(here)).toEqual(['web 1 --p---']);
    await here.xl('unpause', 'web');
    const one = readFileSync(join(here.dir, 'a.save')).subarray(0, 48);
    expect(readFileSync(join(here.dir, 'b.save')).subarray(0, 48)).toEqual(one);
    expect(one.toString('latin1', 0, 32)).toBe('Xen saved domain, xl format\n \0 \r');
  });

  test('what is no saved domain is refused as xl refuses it, and leaves nothing', async () => {
    await here.xl('create', '-p', 'web.cfg');
    await here.xl('unpause', 'web');
    await isUp(here, 1);
    await here.xl('save', 'web', 'web.save');
    const whole = readFileSync(join(here.dir, 'web.save'));
    const restored = async (change: (file: string) => void) => {
      const file = join(here.dir, 'cut');
      writeFileSync(file, whole);
      change(file);
      const { stderr, exitCode } = await here.xl('restore', 'cut');
      return { stderr: stderr.split('\n').slice(0, -1), exitCode };
    };
    const call = 'libxl_read_exactly( ctx, restore_fd, &hdr, sizeof(hdr), restore_source, "header")';
    expect(await restored((file) => truncateSync(file, 47))).toEqual({
      stderr: [
        'libxl: error: libxl_utils.c:505:libxl_read_exactly: file/stream truncated reading header from cut',
        `xl: fatal error: xl_vmcontrol.c:713: Protocol error: ${call}`,
      ],
      exitCode: 1,
    });
    expect(await restored((file) => writeFileSync(file, Buffer.alloc(48)))).toEqual({
      stderr: ['File has wrong magic number - corrupt or for a different tool?'],
      exitCode: 1,
    });
    expect((await restored((file) => truncateSync(file, whole.length - 40))).stderr).toContain(
      'xc: error: Restore failed (0 = Success): Internal error',
    );
    expect(await domains(here)).toEqual([]);
    expect((await here.xl('xenstore', 'ls', '/local/domain/0/mtwatch')).stdout).toBe('');
    expect((await here.xl('restore', 'web.save')).exitCode).toBe(0);
  });
});

/** `xl migrate` from here to there; `filter` stands in the pipe of one direction. */
function migrating(command: string): ChildProcess {
  const { XENSTORED_PATH: _, ...env } = process.env;
  return spawn(process.execPath, [bin, 'migrate', '-s', '', 'web', command], {
    cwd: here.dir,
    env: { ...env, XL_RUN_DIR: here.runDir, ...here.env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
}

const receive = () => `XL_RUN_DIR=${there.runDir} XL_DOM0_ARGS=--assume-files ${process.execPath} ${bin} migrate-receive`;

/** The target, and a line that breaks after so many bytes of what it says: the shell that holds it is killed. */
const lostAfter = (bytes: number) => `${receive()} | { dd bs=1 count=${bytes} 2> /dev/null; kill -9 $$; }`;

const ended = (child: ChildProcess) =>
  new Promise<{ code: number | null; stderr: string }>((resolve) => {
    let stderr = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      stderr += chunk.toString();
    });
    child.once('close', (code) => resolve({ code, stderr }));
  });

/** How many run: a domain that has neither stopped nor is paused. */
const running = (rows: readonly string[]) => rows.filter((row) => / [r-][b-]----$/.test(row)).length;

describe('migrating to another dom0', () => {
  beforeEach(async () => {
    await here.xl('create', 'web.cfg');
    await isUp(here, 1);
    await there.xl('list');
  });

  test('the domain is there afterwards, and no more here', async () => {
    const { code, stderr } = await ended(migrating(receive()));
    expect(code).toBe(0);
    expect(stderr.split('\n').filter((line) => /^(migration|Migration)/.test(line))).toEqual([
      'migration target: Ready to receive domain.',
      'migration target: Transfer complete, requesting permission to start domain.',
      'migration sender: Target has acknowledged transfer.',
      'migration sender: Giving target permission to start.',
      'migration target: Got permission, starting domain.',
      'migration target: Domain started successsfully.',
      'migration sender: Target reports successful startup.',
      'Migration successful.',
    ]);
    expect(await domains(here)).toEqual([]);
    expect(await domains(there)).toEqual([expect.stringMatching(/^web 1 [r-][b-]----$/)]);
    expect(existsSync(join(there.runDir, 'log', 'xl-web--incoming.log'))).toBe(true);
  });

  test.each([
    [
      'that is no receiver',
      'echo something else entirely, and more than the banner has bytes',
      'contained unexpected data instead of banner',
    ],
    ['that ends at once', 'true', 'file/stream truncated reading banner from migration receiver stream'],
  ])('a command %s leaves the domain as it is', async (_what, command, line) => {
    const { code, stderr } = await ended(migrating(command));
    expect([code, stderr]).toEqual([1, expect.stringContaining(line)]);
    expect(await domains(here)).toEqual([expect.stringMatching(/^web 1 [r-][b-]----$/)]);
  });

  test.each([
    ['after its banner', 54],
    ['in the middle of its ready message', 60],
  ])('a target that is lost %s leaves the domain running here alone', async (_when, bytes) => {
    const { code, stderr } = await ended(migrating(lostAfter(bytes)));
    expect([code, stderr]).toEqual([1, expect.stringContaining('Migration failed, resuming at sender.')]);
    expect(await domains(here)).toEqual([expect.stringMatching(/^web 1 [r-][b-]----$/)]);
    await until(async () => running(await domains(there)) === 0);
  });

  test('a target whose last word is lost has the domain, and the sender says that it does not know', async () => {
    // The banner has 54 bytes and the ready message 34: the report behind them does not arrive.
    const { code, stderr } = await ended(migrating(lostAfter(88)));
    expect([code, stderr]).toEqual([1, expect.stringContaining('** Migration failed during final handshake **')]);
    expect(await domains(here)).toEqual([expect.stringMatching(/^web--migratedaway 1 ---ss-$/)]);
    await until(async () => (await domains(there)).some((row) => /^web 1 [r-][b-]----$/.test(row)));
  });

  test('a sender that dies before it gives the word leaves the copy paused, and nothing runs twice', async () => {
    // The receiver is not told to go: what it would read is held back until the sender is gone.
    const child = migrating(`{ head -c 1 > /dev/null; sleep 3; } | ${receive()}`);
    const end = ended(child);
    await until(async () => (await domains(here)).length === 1);
    child.kill('SIGKILL');
    await end;
    const all = [...(await domains(here)), ...(await domains(there))];
    expect(running(all)).toBeLessThanOrEqual(1);
  });

  test('a target that cannot start the domain gives it back', async () => {
    // Over there somebody has taken the name in the meantime, so that the last rename fails.
    writeFileSync(join(there.dir, 'web.cfg'), 'name="web"\nmemory=32\nkernel="/boot/vmlinux"\n');
    await there.xl('create', '-p', 'web.cfg');
    const { code, stderr } = await ended(migrating(receive()));
    expect(code).toBe(1);
    const said = (who: RegExp) => stderr.split('\n').filter((line) => who.test(line));
    expect(said(/^migration target/).slice(2)).toEqual([
      'migration target: Got permission, starting domain.',
      'migration target: Failure, destroying our copy.',
      'migration target: Cleanup OK, granting sender permission to resume.',
    ]);
    expect(said(/^(migration sender|Migration)/).slice(1)).toEqual([
      'migration sender: Giving target permission to start.',
      'migration sender: Target reports startup failure (status code 6).',
      'migration sender: Trying to resume at our end.',
      'migration sender: Resumed OK.',
      'Migration failed due to problems at target.',
    ]);
    expect(await domains(here)).toEqual([expect.stringMatching(/^web 1 [r-][b-]----$/)]);
    expect(await domains(there)).toEqual(['web 1 --p---']);
  });
});

describe('the other commands', () => {
  test('a console shows what was printed, follows, and ends with the domain', async () => {
    await here.xl('create', 'web.cfg');
    await isUp(here, 1);
    const env = { ...process.env, ...here.env, XL_RUN_DIR: here.runDir };
    const child = spawn(process.execPath, [bin, 'console', 'web'], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    let stdout = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      stdout += chunk;
    });
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    // It has found its domain when it shows something.
    await until(() => stdout !== '');
    await here.xl('shutdown', 'web');
    expect(await ended).toBe(0);
    expect(stdout).toMatch(/^\[ +\d+\.\d{6}\] Linux version 6\.1\.0.*\r\n[\s\S]*reboot: Power down\r\n$/);
  });

  test('create -c shows the console from the first line on', async () => {
    const created = here.xl('create', '-c', '-q', 'web.cfg');
    await until(async () => (await domains(here)).length === 1);
    await isUp(here, 1);
    await here.xl('destroy', 'web');
    const { stdout, stderr, exitCode } = await created;
    expect([stderr, exitCode]).toEqual(['', 0]);
    expect(stdout).toMatch(/Linux version/);
  });

  test('config-update is what the next life is made of, once', async () => {
    await here.xl('create', 'web.cfg');
    await isUp(here, 1);
    expect(await here.xl('config-update', 'web', 'web.cfg', 'memory=80')).toEqual({
      stdout: '',
      stderr:
        'WARNING: xl now has better capability to manage domain configuration, avoid using this command when possible\nsetting dom1 configuration\n',
      exitCode: 0,
    });
    expect(await here.xl('reboot', '-w', 'web')).toEqual({
      stdout: '',
      stderr: 'Rebooting domain 1\nWaiting for 1 domains\nDomain 1 has been shut down, reason code 1\n',
      exitCode: 0,
    });
    await until(async () => /\bweb +2 +80 /.test((await here.xl('list')).stdout));
    expect(readFileSync(join(here.runDir, 'log', 'xl-web.log'), 'utf8')).toContain('"xl" configuration found, using it\n\n');
  });

  test('rename gives another name, which others must not have', async () => {
    await here.xl('create', '-p', 'web.cfg');
    expect(await here.xl('rename', 'web', 'shop')).toEqual({ stdout: '', stderr: '', exitCode: 0 });
    expect(await domains(here)).toEqual(['shop 1 --p---']);
    expect(await here.xl('rename', 'shop', 'Domain-0')).toEqual({
      stdout: '',
      stderr:
        "libxl: error: libxl_domain.c:81:libxl__domain_rename: Domain 1:Domain with name \"Domain-0\" already exists.\nCan't rename domain 'shop'.\n",
      exitCode: 1,
    });
  });
});
