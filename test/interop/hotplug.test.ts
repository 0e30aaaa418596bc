/** Hotplug scripts as processes: the example, which runs Debian's `xenstore-read` and `xenstore-write`. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { testWith } from './clients.js';
import { type Lab, lab, pvCfg, until } from './harness.js';

let l: Lab;
afterEach(() => l.close());

const examples = fileURLToPath(new URL('../../examples', import.meta.url));
const quiet = { stdout: '', stderr: '', exitCode: 0 };

/** A machine whose scripts are those of `examples/`, and a guest whose interface is plugged in by one of them. */
function scripted(env: Readonly<Record<string, string>> = {}): void {
  l = lab({ XEN_SCRIPT_DIR: examples, XL_DOM0_ARGS: '--assume-files --trace trace.jsonl', ...env });
  const vif = 'vif = [ "mac=00:16:3e:00:00:07,script=vif-note" ]';
  writeFileSync(join(l.dir, 'web.cfg'), pvCfg('web').replace(/^vif = .*$/m, vif));
}

const notes = () => readFileSync(join(l.dir, 'notes'), 'utf8');

testWith('xenstore-write')('a script of the user plugs an interface in and out, and is told apart in the trace', async () => {
  scripted();
  l.env['VIF_NOTES'] = join(l.dir, 'notes');
  expect(await l.xl('create', '-q', '-e', 'web.cfg')).toEqual(quiet);
  await until(async () => /^0 .* 4 /m.test((await l.xl('network-list', 'web')).stdout));
  expect(await l.xl('network-detach', 'web', '0')).toEqual({ ...quiet, stderr: 'vif1.0 was unplugged\n' });
  expect(notes()).toBe('vif1.0 00:16:3e:00:00:07\nvif1.0 gone\n');
  await l.xl('dom0', 'stop', '--force');
  const trace = readFileSync(join(l.dir, 'trace.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { who: string; op: string; args: string[] });
  const vif = 'backend/vif/1/0';
  expect(
    trace.filter(({ who, args }) => who === 'hotplug' && args[0]?.startsWith(vif)).map(({ op, args }) => [op, ...args]),
  ).toEqual([
    ['READ', `${vif}/mac`],
    ['WRITE', `${vif}/hotplug-status`, 'connected'],
  ]);
});

testWith('xenstore-write')('what a script says of its failure is in libxl’s lines, and nothing is left', async () => {
  scripted();
  const { stderr, exitCode } = await l.xl('create', '-q', 'web.cfg');
  const script = '/etc/xen/scripts/vif-note';
  expect({ exitCode, lines: stderr.replace(/\[\d+\]/g, '[PID]').split('\n') }).toEqual({
    exitCode: 3,
    lines: [
      ...['online', 'offline'].flatMap((action) => [
        `libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: ${script} ${action} [PID] exited with error status 1`,
        'libxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: VIF_NOTES is not set',
        ...(action === 'online'
          ? ['libxl: error: libxl_create.c:1921:domcreate_attach_devices: Domain 1:unable to add vif devices']
          : []),
      ]),
      'libxl: error: libxl_domain.c:1183:libxl__destroy_domid: Domain 1:Non-existant domain',
      'libxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain 1:Unable to destroy guest',
      'libxl: error: libxl_domain.c:1064:domain_destroy_cb: Domain 1:Destruction of domain failed',
      '',
    ],
  });
  expect((await l.xl('list')).stdout.trim().split('\n')).toHaveLength(2);
});

testWith('xenstore-write')('a script that a monitor runs prints to the log of the domain', async () => {
  scripted();
  l.env['VIF_NOTES'] = join(l.dir, 'notes');
  expect(await l.xl('create', '-q', 'web.cfg')).toEqual(quiet);
  expect((await l.xl('shutdown', '-w', 'web')).exitCode).toBe(0);
  const log = () => readFileSync(join(l.runDir, 'log', 'xl-web.log'), 'utf8');
  await until(() => log().includes('Done. Exiting now'));
  expect(log().match(/^.*unplugged$/gm)).toEqual(['vif1.0 was unplugged']);
});
