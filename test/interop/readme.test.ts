/** README's sessions, typed line by line: what they show is what is printed. */
import { readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { testWith } from './clients.js';
import { bin, type Lab, lab, until } from './harness.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const readme = readFileSync(join(root, 'README.md'), 'utf8');

interface Step {
  readonly command: string;
  readonly output: string;
}

/** The commands in the `console` blocks of a section, each with what is shown below it. */
function session(title: string): Step[] {
  const [, section = ''] = readme.split(`\n## ${title}\n`);
  const [text = ''] = section.split('\n## ');
  return [...text.matchAll(/^```console\n([\s\S]*?)^```/gm)].flatMap(([, block = '']) =>
    block
      .split(/^\$ /m)
      .slice(1)
      .map((text) => {
        const end = text.indexOf('\n');
        return { command: text.slice(0, end), output: text.slice(end + 1) };
      }),
  );
}

/** Puts aside what differs from run to run: pids, counts and times. */
function normal(output: string): string {
  return (
    output
      .replace(/^(.{46} \S+ +)\d+ ([RSD]) +\d+ +\d+ {2}/gm, '$1PID $2 ... ')
      .replace(/^(pid|pending|handled): +\d+$/gm, '$1: ...')
      .replace(/^(waits: .*:)\d+$/gm, '$1PID')
      // Two devices were removed at once.
      .replace(/^queue:\n(?:\S+ {2}\w+\n)+/gm, 'queue:\n...\n')
      .replace(/ for \d+\.\ds$/gm, ' for ...')
      .replace(/ +\d+\.\d$/gm, ' ...')
  );
}

let l: Lab;
beforeEach(() => {
  l = lab({ XL_DOM0_ARGS: '' });
  symlinkSync(join(root, 'examples'), join(l.dir, 'examples'));
});
afterEach(() => l.close());

test('what README shows is what xl prints', async () => {
  const steps = session('A session');
  expect(steps.length).toBeGreaterThan(10);
  const printed: Step[] = [];
  for (const { command } of steps) {
    const [xl, ...args] = command.split(' ');
    expect(xl).toBe('xl');
    // A wait that is meant to be in vain need not be long.
    if (command === 'xl destroy 1') l.env['XL_TIMEOUT_SCALE'] = '0.2';
    const { stdout, stderr } = await l.xl(...args);
    delete l.env['XL_TIMEOUT_SCALE'];
    printed.push({ command, output: stderr + stdout });
    if (args[0] === 'create') {
      // Whoever types is slower than the guest boots.
      await until(async () => (await l.xl('dom0', 'dmesg')).stdout.trimEnd().endsWith('entered forwarding state'));
    }
  }
  expect(printed.map(({ command, output }) => ({ command, output: normal(output) }))).toEqual(
    steps.map(({ command, output }) => ({ command, output: normal(output) })),
  );
});

testWith('xenstore-read')('what README shows of a shell in a guest is what is printed there', async () => {
  const steps = session('As a guest');
  expect(steps.length).toBeGreaterThan(5);
  const words = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const script = [
    `xl() { ${words(process.execPath)} ${words(bin)} "$@"; }`,
    'exec 2>&1',
    ...steps.map(({ command }) => `printf '\\n$ %s\\n' ${words(command)}; ${command}`),
  ].join('\n');
  const { stdout } = await execa('sh', ['-c', script], { cwd: l.dir, env: { XL_RUN_DIR: l.runDir, XL_DOM0_ARGS: '' } });
  expect(`${stdout}\n`).toBe(steps.map(({ command, output }) => `\n$ ${command}\n${output}`).join(''));
});

test('what README shows of a search is what is found', async () => {
  const steps = session('Searching schedules');
  expect(steps.length).toBe(2);
  const speed = (output: string) => output.replace(/\d+\/s$/gm, '.../s');
  const printed: Step[] = [];
  for (const { command } of steps) {
    const { stdout, stderr } = await l.xl(...command.split(' ').slice(1));
    printed.push({ command, output: speed(stderr + stdout) });
  }
  expect(printed).toEqual(steps.map(({ command, output }) => ({ command, output: speed(output) })));
});

test('README names every command of ours', async () => {
  const [, stdout = ''] = (await l.xl('help')).stdout.split('which is embedded:');
  const commands = [...stdout.matchAll(/^ ([a-z0-9]+)(?: ([a-z]+))?(?= |$)/gm)].map((match) => match[2] ?? match[1] ?? '');
  expect(commands.length).toBeGreaterThan(10);
  expect(commands.filter((name) => !readme.includes(name))).toEqual([]);
});
