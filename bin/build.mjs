#!/usr/bin/env node
// Builds dist/ from src/, the bundles that `xl` starts from, and oclif.manifest.json from the commands found there.
//
// The manifest is what lets `xl` start without importing every command. It is committed; `--check` fails when the
// committed one is not what the commands say now.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build as esbuild } from 'esbuild';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const manifestFile = join(root, 'oclif.manifest.json');

rmSync(join(root, 'dist'), { recursive: true, force: true });
const tsc = spawnSync(
  process.execPath,
  [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.build.json')],
  {
    stdio: 'inherit',
  },
);
if (tsc.status !== 0) process.exit(tsc.status ?? 1);

// `xl` starts from bundles: to find and read a hundred small files takes longer than most commands do. There is one for
// the command line's rules, one for the commands that run without oclif, and one for all the others, of which only what
// a command needs is run. They are CommonJS, which Node reads faster. Chunks are for what is large and rare.
const src = join(root, 'src');
const { version, oclif } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const common = {
  outdir: join(root, 'dist/bundle'),
  bundle: true,
  platform: 'node',
  target: 'node20.19',
  minifyWhitespace: true,
  minifySyntax: true,
  logLevel: 'warning',
};
/** A bundle lies elsewhere than its source, so the version is written in. */
const versionWrittenIn = {
  name: 'version',
  setup: ({ onLoad }) =>
    onLoad({ filter: /[/\\]src[/\\]version\.ts$/ }, () => ({ contents: `export const version = ${JSON.stringify(version)};` })),
};
const chunked = 'mtwatch/explore';
/** Libraries that are not always needed stay where they are, and the chunks are beside the bundles. */
const laterOutside = {
  name: 'later',
  setup: ({ onResolve }) =>
    onResolve({ filter: /./ }, ({ kind, path }) => {
      if (kind !== 'dynamic-import') return undefined;
      return path.startsWith('.') && !path.includes(chunked) ? undefined : { path, external: true };
    }),
};
/** The quickest leave all that they import later to others: it is what they do not do themselves. */
const allLaterOutside = {
  name: 'all later',
  setup: ({ onResolve }) =>
    onResolve({ filter: /./ }, ({ kind, path }) => (kind === 'dynamic-import' ? { path, external: true } : undefined)),
};
/** oclif's search for plugins and its own help, which the argv layer and the manifest do without. */
const unused = {
  name: 'unused',
  setup: ({ onResolve, onLoad }) => {
    onResolve({ filter: /^(ejs|tinyglobby|minimatch|lilconfig)$/ }, ({ path }) => ({ path, namespace: 'unused' }));
    onLoad({ filter: /./, namespace: 'unused' }, () => ({ contents: 'module.exports = {}' }));
  },
};
const cjs = {
  format: 'cjs',
  outExtension: { '.js': '.cjs' },
  define: { 'import.meta.url': 'bundleUrl' },
  banner: { js: "const bundleUrl=require('node:url').pathToFileURL(__filename).href;" },
};
const ids = readdirSync(join(src, 'commands'), { recursive: true })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.slice(0, -'.ts'.length).replaceAll('\\', '/'));
const loaders = ids.map((id) => `${JSON.stringify(id.replaceAll('/', ':'))}: () => import('./commands/${id}.js')`);
await Promise.all([
  esbuild({
    ...common,
    ...cjs,
    entryPoints: [join(src, 'cli/argv.ts'), join(src, 'cli/quick.ts')],
    plugins: [versionWrittenIn, allLaterOutside],
  }),
  esbuild({
    ...common,
    ...cjs,
    outdir: undefined,
    outExtension: undefined,
    outfile: join(root, 'dist/bundle/xl.cjs'),
    stdin: {
      resolveDir: src,
      loader: 'ts',
      contents: `import { runCommand } from './cli/xl-command.js';
        const commands = { ${loaders.join(', ')} };
        export const run = (id, argv) => runCommand(id, commands[id], argv);`,
    },
    plugins: [versionWrittenIn, unused, laterOutside],
  }),
  esbuild({
    ...common,
    entryPoints: [
      { in: join(src, 'dom0d.ts'), out: 'dom0d' },
      { in: join(src, 'explore/worker.ts'), out: 'worker' },
      { in: join(src, `commands/${chunked}.ts`), out: `commands/${chunked}` },
    ],
    format: 'esm',
    splitting: true,
    // oclif is CommonJS and asks for Node's own modules in its way.
    banner: { js: "import{createRequire as requireFrom}from'node:module';const require=requireFrom(import.meta.url);" },
    plugins: [versionWrittenIn, unused],
  }),
]);

const { Plugin } = await import('@oclif/core');
const plugin = new Plugin({ root, type: 'core', ignoreManifest: true, errorOnManifestCreate: true, respectNoCacheDefault: true });
await plugin.load();
// The directories are searched at the same time, and the commands stand as they were found.
const commands = Object.fromEntries(Object.entries(plugin.manifest.commands).sort(([a], [b]) => (a < b ? -1 : 1)));
// What the argv layer reads at every start.
const table = Object.fromEntries(
  Object.entries(commands).map(([id, { summary, description, examples, hidden, flags, args, xl }]) => [
    id,
    { id, summary, description, examples, hidden, flags, args, xl },
  ]),
);
const { declined } = await import('../dist/cli/declined.js');
writeFileSync(join(root, 'dist/bundle/table.json'), JSON.stringify({ commands: table, declined, topics: oclif.topics }));
const manifest = `${JSON.stringify({ ...plugin.manifest, commands }, null, 2)}\n`;
if (process.argv.includes('--check')) {
  if (readFileSync(manifestFile, 'utf8') !== manifest) {
    process.stderr.write('oclif.manifest.json is out of date: run `npm run build` and commit it\n');
    process.exit(1);
  }
} else {
  writeFileSync(manifestFile, manifest);
}
