/** Devices that come and go while their domain runs, as they are typed, with the words of xl 4.17. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isRunning, type Lab, lab, pvCfg, until } from './harness.js';

let l: Lab;
afterEach(() => l.close());

const quiet = { stdout: '', stderr: '', exitCode: 0 };

async function running(): Promise<void> {
  l = lab();
  writeFileSync(join(l.dir, 'web.cfg'), pvCfg('web'));
  expect(await l.xl('create', '-q', '-e', 'web.cfg')).toEqual(quiet);
}

const blockHeader = 'Vdev  BE  handle state evt-ch ring-ref BE-path                       \n';

/** The listing of the domain's disks, once all are connected. */
async function blockList(): Promise<string> {
  let stdout = '';
  await until(async () => {
    ({ stdout } = await l.xl('block-list', 'web'));
    return !/^\d+ +0 +1 +(?!4 )\d/m.test(stdout);
  });
  return stdout;
}

test('a disk is attached, listed, shown by list -l, detached and gone', async () => {
  await running();
  expect(await l.xl('block-attach', 'web', 'phy:/dev/vg/data,xvdb,w')).toEqual(quiet);
  const row = (devid: number) => `${devid} 0   1      4     -1     -1       /local/domain/0/backend/vbd/1/${devid}\n`;
  expect(await blockList()).toBe(blockHeader + row(51712) + row(51728));
  expect(await l.xl('block-attach', 'web', 'phy:/dev/vg/more,xvdb,w')).toEqual({
    stdout: '',
    stderr: `libxl: error: libxl_disk.c:343:device_disk_add: Domain 1:device already exists in xenstore
libxl: error: libxl_device.c:1486:device_addrm_aocomplete: unable to add device
libxl_device_disk_add failed.
`,
    exitCode: 1,
  });
  const [web] = JSON.parse((await l.xl('list', '-l', 'web')).stdout) as { config: { disks: { vdev: string }[] } }[];
  expect(web?.config.disks.map(({ vdev }) => vdev)).toEqual(['xvda', 'xvdb']);
  expect(await l.xl('block-detach', 'web', 'xvdb')).toEqual(quiet);
  expect(await blockList()).toBe(blockHeader + row(51712));
  expect(await l.xl('block-detach', 'web', 'xvdb')).toEqual({
    stdout: '',
    stderr: `libxl: error: libxl_disk.c:516:libxl__disk_from_xenstore: disk /libxl/1/device/vbd/51728 does not exist (no backend path
Error: Device xvdb not connected.
`,
    exitCode: 1,
  });
});

test('attaches at the same time are all in the saved config', async () => {
  await running();
  const macs = ['00:16:3e:00:00:11', '00:16:3e:00:00:12'];
  const ends = await Promise.all([
    l.xl('block-attach', 'web', 'phy:/dev/vg/b,xvdb,w'),
    l.xl('block-attach', 'web', 'phy:/dev/vg/c,xvdc,w'),
    ...macs.map((mac, index) => l.xl('network-attach', 'web', `mac=${mac}`, `devid=${index + 5}`)),
  ]);
  expect(ends).toEqual([quiet, quiet, quiet, quiet]);
  const [web] = JSON.parse((await l.xl('list', '-l', 'web')).stdout) as {
    config: { disks: { vdev: string }[]; nics: { mac: string }[] };
  }[];
  expect(web?.config.disks.map(({ vdev }) => vdev).sort()).toEqual(['xvda', 'xvdb', 'xvdc']);
  expect(web?.config.nics.map(({ mac }) => mac)).toEqual(expect.arrayContaining(macs));
});

test('listings say what they do not find, each in its way', async () => {
  await running();
  const [block, network] = [await l.xl('block-list', 'nosuch', '1'), await l.xl('network-list', 'nosuch', '1')];
  expect(block).toMatchObject({ stderr: 'nosuch is an invalid domain identifier\n', exitCode: 0 });
  expect(block.stdout).toContain('/local/domain/0/backend/vbd/1/51712\n');
  expect(network).toEqual({
    stdout: 'Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref BE-path                       \n',
    stderr: 'nosuch is an invalid domain identifier (rc=-6)\n',
    exitCode: 1,
  });
});

test('devd leaves a daemon behind that says in its log what it cannot do', async () => {
  await running();
  const pidfile = join(l.dir, 'devd.pid');
  expect(await l.xl('devd', '-p', pidfile)).toEqual(quiet);
  const pid = Number(readFileSync(pidfile, 'utf8'));
  expect(isRunning(pid)).toBe(true);
  expect(await l.xl('devd', '-p', join(l.dir, 'nosuch', 'pid'))).toEqual(quiet);
  expect(readFileSync(join(l.runDir, 'log', 'xldevd.log'), 'utf8')).toBe('Unable to open pidfile: No such file or directory\n');
  process.kill(pid, 'SIGTERM');
  await until(() => !isRunning(pid));
});
