/** The table of levels in ARCHITECTURE.md, held against the import lines. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, posix, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const src = fileURLToPath(new URL('../src', import.meta.url));

const xenbus = (...names: string[]) => names.map((name) => `xenbus/${name}`);
const levels: Record<string, readonly string[]> = {
  'xenbus 0': xenbus('clock', 'xs-wire', 'paths', 'xenbus', 'privcmd', 'transport', 'machine', 'words', 'keep'),
  'xenbus 1': xenbus(
    'store',
    'transaction',
    'watch',
    'quota',
    'requests',
    'xenstored',
    'store-loop',
    'hypervisor',
    'cpus',
    'hypfs',
    'xen-console',
    'trace',
    'sparing-log',
    'turns',
  ),
  'xenbus 2': xenbus('xs-client', 'xs-connection', 'fault', 'guest', 'xenconsoled', 'qemu'),
  'xenbus 3': xenbus(
    'dom0',
    'thread-view',
    'cpu-handlers',
    'server',
    'guest-sockets',
    'privcmd-server',
    'privcmd-client',
    'run-dir',
    'journal',
  ),
  'command line': ['version'],
  library: ['xenstore'],
  root: ['dom0d'],
};

function levelOf(module: string): string {
  for (const [level, modules] of Object.entries(levels)) if (modules.includes(module)) return level;
  if (module.startsWith('xenbus/kernel/')) return 'xenbus 2';
  if (['world', 'scenarios', 'laws', 'actor', 'store', 'worker'].some((name) => module === `explore/${name}`))
    return 'explored world';
  if (module.startsWith('explore/')) return 'explore';
  if (module.startsWith('libxl/')) return 'libxl';
  if (module.startsWith('dom0d/')) return 'root';
  if (module.startsWith('commands/') || module.startsWith('cli/')) return 'command line';
  return `unknown (${module})`;
}

const xenbusLevels = ['xenbus 0', 'xenbus 1', 'xenbus 2', 'xenbus 3'];
const mayImport: Record<string, (module: string, level: string) => boolean> = {
  'xenbus 0': (_, level) => level === 'xenbus 0',
  'xenbus 1': (_, level) => ['xenbus 0', 'xenbus 1'].includes(level),
  'xenbus 2': (module, level) =>
    ['xenbus 0', 'xenbus 2'].includes(level) || ['xenbus/hypervisor', 'xenbus/cpus'].includes(module),
  'xenbus 3': (_, level) => xenbusLevels.includes(level),
  explore: (_, level) => ['xenbus 0', 'explore'].includes(level),
  'explored world': (_, level) => ['xenbus 0', 'xenbus 1', 'xenbus 2', 'explore', 'explored world'].includes(level),
  libxl: (module, level) => ['xenbus 0', 'libxl'].includes(level) || module === 'xenbus/xs-client',
  'command line': (module, level) =>
    ['xenbus 0', 'libxl', 'explore', 'command line'].includes(level) ||
    module === 'explore/world' ||
    xenbus('xs-client', 'privcmd-client', 'run-dir').includes(module),
  library: (module, level) => level === 'xenbus 0' || xenbus('xs-client', 'store-loop').includes(module),
  root: () => true,
};

/** Libraries from outside, and the machine's own modules, by who may use them. */
const outside: Record<string, (module: string) => boolean> = {
  execa: (module) => ['libxl/hotplug', 'cli/launch', 'dom0d'].includes(module),
  '@oclif/core': (module) => ['command line'].includes(levelOf(module)),
  chalk: (module) => levelOf(module) === 'command line',
  ora: (module) => levelOf(module) === 'command line',
  'node:net': (module) =>
    ['xenbus/transport', 'xenbus/server', 'xenbus/run-dir'].includes(module) || module.startsWith('xenbus/privcmd-'),
};

interface Import {
  readonly from: string;
  readonly inside: boolean;
  readonly to: string;
}

const imports: Import[] = readdirSync(src, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .flatMap((file) => {
    const from = file.split(sep).join('/').replace(/\.ts$/, '');
    const text = readFileSync(join(src, file), 'utf8');
    return [...text.matchAll(/^(?:import|export)\b[^'";]*?from '([^']+)'|\bimport\('([^']+)'\)/gm)].map((match) => {
      const to = match[1] ?? match[2] ?? '';
      const inside = to.startsWith('.');
      return { from, inside, to: inside ? posix.join(posix.dirname(from), to).replace(/\.js$/, '') : to };
    });
  });

test('there are imports to look at', () => {
  expect(imports.length).toBeGreaterThan(100);
});

test('every module has a level', () => {
  expect([...new Set(imports.map(({ from }) => levelOf(from)))].filter((level) => level.startsWith('unknown'))).toEqual([]);
});

test('no module imports what is above it', () => {
  const wrong = imports.filter(({ inside }) => inside).filter(({ from, to }) => !mayImport[levelOf(from)]?.(to, levelOf(to)));
  expect(wrong.map(({ from, to }) => `${from} -> ${to}`)).toEqual([]);
});

test('nothing imports the composition root or the library', () => {
  expect(imports.filter(({ to }) => ['dom0d', 'xenstore'].includes(to))).toEqual([]);
});

test('outside libraries are used where the table says', () => {
  const wrong = imports.filter(({ from, to }) => outside[to]?.(from) === false);
  expect(wrong.map(({ from, to }) => `${from} -> ${to}`)).toEqual([]);
});

test('clocks, timers and chance are in clock.ts alone, below the command line', () => {
  const wrong = readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter((file) => /^(xenbus|libxl)/.test(file) && file.endsWith('.ts') && !file.endsWith('clock.ts'))
    .filter((file) =>
      /\b(Date\.now|new Date\(\)|Math\.random|setTimeout|setInterval|performance\.now|randomBytes|randomUUID)\b/.test(
        readFileSync(join(src, file), 'utf8'),
      ),
    );
  expect(wrong).toEqual([]);
});
