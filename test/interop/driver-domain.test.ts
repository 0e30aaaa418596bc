/** A driver domain as its user has it: `driver_domain=1`, `xl devd` in a shell that speaks for it, `backend=` in another guest. */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bin, isRunning, type Lab, lab, until } from './harness.js';

let l: Lab;
afterEach(() => l.close());

const quiet = { stdout: '', stderr: '', exitCode: 0 };
const config = (name: string, more: string) => `name = "${name}"\nmemory = 64\nkernel = "/boot/vmlinux"\n${more}\n`;

test('a disk and an interface of another guest are served by a guest, whose devd runs their scripts', async () => {
  l = lab();
  writeFileSync(join(l.dir, 'store.cfg'), config('store', 'driver_domain = 1'));
  const devices = 'disk = [ "/dev/vg/web,raw,xvda,w,backend=store" ]\nvif = [ "mac=00:16:3e:00:00:08,backend=store" ]';
  writeFileSync(join(l.dir, 'web.cfg'), config('web', devices));
  expect(await l.xl('create', '-q', '-e', 'store.cfg')).toEqual(quiet);

  const env = { ...process.env, ...l.env, XL_RUN_DIR: l.runDir, XENSTORED_PATH: join(l.runDir, 'guest/1/socket') };
  const log = join(l.dir, 'devd.log');
  const devd = spawn('/bin/sh', ['-c', 'exec "$0" "$1" devd -F 2>"$2"', process.execPath, bin, log], { env, stdio: 'ignore' });
  const pid = devd.pid ?? 0;
  try {
    expect(await l.xl('create', '-q', '-e', 'web.cfg')).toEqual(quiet);
    await until(async () => /^51712 1 +2 +4 /m.test((await l.xl('block-list', 'web')).stdout));
    await until(async () => /^0 +1 +00:16:3e:00:00:08 +0 +4 /m.test((await l.xl('network-list', 'web')).stdout));
    expect(await l.xl('destroy', 'web')).toEqual(quiet);
    await until(async () => (await l.xl('xenstore', 'exists', '/local/domain/1/backend')).exitCode === 1);
    expect(readFileSync(log, 'utf8')).toBe('');
  } finally {
    process.kill(pid, 'SIGTERM');
    await until(() => !isRunning(pid));
  }
});
