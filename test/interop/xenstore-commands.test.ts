/**
 * `xl xenstore ls` and its sisters beside the programs that they stand in for: the same command line, on the same store,
 * is to print the same bytes on the same stream, to end with the same code and to leave the same store behind.
 *
 * The words of a command line go through bash, which can pass what is no UTF-8. They are byte strings here, like all that
 * is read and written.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listenStore } from '../../src/xenbus/server.js';
import { StoreLoop } from '../../src/xenbus/store-loop.js';
import { socketTransport } from '../../src/xenbus/transport.js';
import { byteString, type Xs, xsClient } from '../../src/xenbus/xs-client.js';
import type { Perm } from '../../src/xenbus/xs-wire.js';
import { testWith } from './clients.js';
import { bin, type Lab, lab, pvCfg, until } from './harness.js';

const withTools = testWith('xenstore-ls');

let l: Lab;
let xs: Xs;
let socket: string;

beforeAll(async () => {
  l = lab();
  await l.xl('dom0', 'start', '--assume-files');
  socket = join(l.runDir, 'xenstored/socket');
  xs = xsClient(await socketTransport(socket));
});
afterAll(async () => {
  xs.close();
  await l.close();
});

interface End {
  readonly stdout: string;
  readonly stderr: string;
  /** A signal's number above 128. */
  readonly exit: number | null;
}

/** A word as bash reads it, whatever bytes it has. */
function quoted(word: string): string {
  if (/^[\w/.=-]+$/.test(word)) return word;
  return `$'${word.replace(/[^\w/.=-]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`)}'`;
}

const asShell = (...words: readonly string[]): string => words.map(quoted).join(' ');
const ours = (tool: string): string => asShell(process.execPath, bin, 'xenstore', tool);
const theirs = (tool: string): string => asShell(`xenstore-${tool}`);

/** The environment of both. Only theirs needs the socket; ours finds it in the run directory. */
function environment(more: Readonly<Record<string, string | undefined>> = {}): NodeJS.ProcessEnv {
  return { ...process.env, XL_RUN_DIR: l.runDir, XENSTORED_PATH: socket, ...more };
}

function start(script: string, env = environment()) {
  const child = spawn('bash', ['-c', script], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const heard = { stdout: '', stderr: '' };
  child.stdout.setEncoding('latin1').on('data', (chunk: string) => {
    heard.stdout += chunk;
  });
  child.stderr.setEncoding('latin1').on('data', (chunk: string) => {
    heard.stderr += chunk;
  });
  const end: Promise<End> = once(child, 'close').then(([exit]) => ({ ...heard, exit: exit as number | null }));
  return { child, heard, end };
}

const run = (script: string, env = environment()): Promise<End> => start(script, env).end;

const allBytes = String.fromCharCode(...Array.from({ length: 256 }, (_, i) => i));
const perm = (text: string): Perm => ({
  domid: Number(text.slice(1)),
  read: 'rb'.includes(text.charAt(0)),
  write: 'wb'.includes(text.charAt(0)),
});

/** `/t` with all that is odd. */
async function plant(): Promise<void> {
  await xs.rm('/t');
  const nodes: Record<string, string> = {
    bytes: allBytes,
    empty: '',
    back: 'a\\b\\\\x41',
    lines: 'one\ntwo\tthree\r',
    utf8: byteString('žluťoučký kůň €'),
    long: 'y'.repeat(4000),
    [`${'n'.repeat(100)}/below`]: 'wide',
    [Array.from({ length: 100 }, () => 'd').join('/')]: 'deep',
    [Array.from({ length: 30 }, (_, i) => `long-name-${i}`).join('/')]: 'deep and long',
    'chain/a/b/c': '',
    'kept/a/b': '',
    'kept/a': 'v',
  };
  for (let length = 0; length < 76; length += 5) nodes[`w/n${length}`] = 'x'.repeat(length);
  await Promise.all(Object.entries(nodes).map(([path, value]) => xs.write(`/t/${path}`, value)));
  await xs.setPerms('/t/chain/a', ['n0', 'r0', 'w0', 'b0'].map(perm));
}

/** A store in words: each node below `path` with its value and permissions. */
async function stored(path: string): Promise<string[]> {
  const [value, perms, names] = await Promise.all([xs.read(path), xs.getPerms(path), xs.directory(path)]);
  const below = await Promise.all((names ?? []).map((name) => stored(`${path}/${name}`)));
  return [`${path} = ${JSON.stringify(value)} ${JSON.stringify(perms)}`, ...below.flat()];
}

/** Splits a line at its blanks; a word in quotes may have escapes as in JSON. */
function wordsOf(line: string): string[] {
  return [...line.matchAll(/"(?:[^"\\]|\\.)*"|\S+/g)].map(([word]) =>
    word.startsWith('"') ? (JSON.parse(word) as string) : word,
  );
}

/** Runs each line under both names. Answers with how the two sides ended, line by line, and what they left in `/t`. */
async function besides(lines: readonly string[], changes: boolean): Promise<{ ours: unknown[]; theirs: unknown[] }> {
  const ends: { ours: unknown[]; theirs: unknown[] } = { ours: [], theirs: [] };
  await plant();
  for (const line of lines) {
    const [tool = '', ...words] = wordsOf(line);
    for (const side of ['theirs', 'ours'] as const) {
      const name = side === 'ours' ? ours(tool) : theirs(tool);
      const end = await run(`${name} ${asShell(...words)}`);
      ends[side].push({ line, ...end, ...(changes ? { left: await stored('/t') } : {}) });
      if (changes) await plant();
    }
  }
  return ends;
}

const table: Readonly<Record<string, { readonly changes?: boolean; readonly lines: readonly string[] }>> = {
  ls: {
    lines: [
      ...[
        'ls',
        'ls -p',
        'ls -f',
        'ls -fp',
        'ls /',
        'ls -s -p /t',
        'ls /t /t/w',
        'ls /t -p -f',
        'ls -- /t -p',
        'ls domain',
        'ls ""',
      ],
      ...['ls /t/none', 'ls /t/', 'ls none', 'ls /t/bytes /none /t', 'ls /t/w//n5', 'ls --flat --pre /t'],
      ...['ls -n', 'ls -n 3', 'ls -t', 'ls -x /t/w', 'ls -xR', 'ls --prefix=1 /t/w', 'ls -- --', 'ls "\\u00ff"'],
    ],
  },
  read: {
    lines: [
      ...[
        'read',
        'read -p',
        'read /t/bytes /t/lines',
        'read -p /t/bytes /t/lines',
        'read -R /t/bytes /t/back',
        'read -Rp /t/long',
      ],
      ...[
        'read /t/lines /none /t/back',
        'read /t/back /t/lines /t/back',
        'read -- -p',
        'read - /t/lines',
        'read domid',
        'read ""',
      ],
      ...['read --r /t/lines', 'read --ra /t/lines', 'read --bogus /t/lines', 'read "-\\u00e9" /t/lines', 'read -n4 /t/lines'],
      ...[
        'read -xy -t',
        'read --number',
        'read "\\u00ff\\u00fe"',
        'read "-\\u00ff" "\\u00c3\\u00a9"',
        'read /t/utf8 /t/empty',
        `read /${'a'.repeat(5000)}`,
      ],
    ],
  },
  list: {
    lines: [
      ...[
        'list',
        'list /',
        'list -p /',
        'list / /t',
        'list -p /t /none /t',
        'list /t/empty',
        'list -R /t',
        'list /t -p',
        'list domain',
      ],
      ...['list ""', 'list /t/', 'list --prefix -- /t'],
    ],
  },
  exists: {
    lines: [
      'exists',
      'exists /t',
      'exists /t /t/w',
      'exists /t /none',
      'exists -p /t',
      'exists none',
      'exists -x /t',
      'exists ""',
    ],
  },
  write: {
    changes: true,
    lines: [
      ...['write', 'write /t/a', 'write /t/a b /t/c', 'write /t/a 1 /t/b 1 /t/c 2 /t/a 3', 'write /t/a 1 // 1', 'write // 1'],
      ...[
        'write -R /t/a "\\\\x41\\\\"',
        'write /t/a "\\\\x41\\\\"',
        'write /t/a ""',
        'write /t/a -x',
        'write -- /t/a -x',
        'write /t/a "\\\\x 4\\\\q"',
      ],
      ...[
        'write -p /t/a b',
        'write /t/a "\\u00ff\\u0080"',
        'write /t/a "\\u00ef\\u00bf\\u00bd\\u00ff"',
        'write /t/new/deep/node v',
      ],
      ...[4091, 4092, 40_000].map((length) => `write /t/a ${'z'.repeat(length)}`),
      `write /t/a ${JSON.stringify('\\x01'.repeat(4000))}`,
    ],
  },
  rm: {
    changes: true,
    lines: [
      ...[
        'rm',
        'rm /t/none',
        'rm /none/none',
        'rm /t/empty /none/none',
        'rm -t /t/chain/a/b/c',
        'rm --tidy /t/kept/a/b',
        'rm -t /t/none/none',
      ],
      ...['rm -t /t/chain/a/b/c /t/chain', 'rm -t none', 'rm /', 'rm ""', 'rm -t ""', 'rm -s /t/empty /t/empty', 'rm -p /t'],
    ],
  },
  chmod: {
    changes: true,
    lines: [
      ...[
        'chmod',
        'chmod /t',
        'chmod /t x',
        'chmod /t ""',
        'chmod /t n',
        'chmod /t r0 w0',
        'chmod /t n0 r',
        'chmod -r / n0',
        'chmod ""',
      ],
      ...[
        'chmod -r /t/chain b0 r0',
        'chmod -u /t/chain/a/b/c w0',
        'chmod -u -r /t/chain/a b0 n0',
        'chmod /t -1',
        'chmod -- /t -1',
        'chmod -u none r0',
      ],
      ...[
        'chmod -ur name r0',
        'chmod /none r0',
        'chmod /t n-3',
        'chmod /t n99999999999999999999999',
        'chmod /t/ n0',
        'chmod "" n0',
        'chmod -t /t n0',
      ],
      `chmod /t ${'r0 '.repeat(1500)}`,
    ],
  },
  watch: {
    lines: [
      ...[
        'watch',
        'watch -n',
        'watch -n 0 /t',
        'watch -n 1 /t',
        'watch -n 2 /t /t/w',
        'watch -n 1 /t /t',
        'watch -n x /t',
        'watch -n -4 /t',
      ],
      ...[
        'watch -n 1 //',
        'watch -n2 @introduceDomain @releaseDomain',
        'watch --num=1 domid',
        'watch -n 1 ""',
        'watch -n1 @nothing',
        'watch -f /t',
      ],
    ],
  },
};

describe.each(Object.entries(table))('xl xenstore %s', (_, { lines, changes = false }) => {
  withTools('prints, answers and leaves what its original does', async () => {
    const ends = await besides(lines, changes);
    expect(ends.ours).toEqual(ends.theirs);
  });
});

describe('beside their originals', () => {
  withTools('they show a domain and its devices alike', async () => {
    writeFileSync(join(l.dir, 'pv.cfg'), pvCfg());
    expect(await l.xl('create', 'pv.cfg')).toMatchObject({ stderr: 'Parsing config from pv.cfg\n', exitCode: 0 });
    await until(async () => (await l.xl('dom0', 'dmesg')).stdout.trimEnd().endsWith('entered forwarding state'));
    const shown = await run(`${ours('ls')} -fp /`);
    expect(shown).toEqual(await run(`${theirs('ls')} -fp /`));
    expect(shown.stdout).toMatch(/^\/local\/domain\/1\/device\/vif\/0\/state = "4" {3}\(n1,r0\)$/m);
    expect(await run(`${ours('ls')} /local/domain/1`)).toEqual(await run(`${theirs('ls')} /local/domain/1`));
    await l.xl('destroy', 'pv');
  });

  withTools('they list five thousand children alike', async () => {
    await Promise.all(Array.from({ length: 5000 }, (_, i) => xs.write(`/many/child-number-${i}`, String(i))));
    for (const line of ['list -p', 'ls -p', 'chmod -r']) {
      const [tool = '', option = ''] = line.split(' ');
      const operands = tool === 'chmod' ? '/many n0 r0' : '/many';
      const end = await run(`${ours(tool)} ${option} ${operands}`);
      expect(end).toEqual(await run(`${theirs(tool)} ${option} ${operands}`));
      expect({ exit: end.exit, lines: end.stdout.split('\n').length }).toEqual({ exit: 0, lines: tool === 'chmod' ? 1 : 5001 });
    }
    await xs.rm('/many');
  });

  withTools('ls fits its lines into the terminal alike', async () => {
    await plant();
    for (const columns of [1, 2, 9, 20, 61, 80, 200]) {
      for (const options of ['-p', '-fp']) {
        const inTerminal = (command: string) =>
          `script -qec ${quoted(`stty cols ${columns} -opost; ${command} ${options} /t`)} /dev/null`;
        const end = await run(inTerminal(ours('ls')));
        expect({ columns, ...end }).toEqual({ columns, ...(await run(inTerminal(theirs('ls')))) });
        expect(end.stdout).toContain('lines');
      }
    }
  });

  withTools('they end alike when nobody reads them', async () => {
    await plant();
    for (const side of [ours, theirs]) {
      const ended = await run(`${side('ls')} -f / /t /t /t /t /t /t | head -1; echo \${PIPESTATUS[0]}`);
      expect(ended).toEqual({ stdout: '/tool = ""\n141\n', stderr: '', exit: 0 });
      const watching = start(`${side('watch')} /t | head -1; echo \${PIPESTATUS[0]}`);
      await until(() => watching.heard.stdout !== '');
      let over = false;
      void watching.end.then(() => {
        over = true;
      });
      await until(async () => {
        await xs.write('/t/empty', '');
        return over;
      });
      expect(await watching.end).toEqual({ stdout: '/t\n141\n', stderr: '', exit: 0 });
    }
  });

  withTools('watch prints each event at once, and ends by a signal', async () => {
    await plant();
    for (const side of [ours, theirs]) {
      // Not through `wait` of a shell in the background, where SIGINT is ignored.
      const { child, heard, end } = start(`exec ${side('watch')} /t domain`);
      await until(() => heard.stdout === '/t\ndomain\n');
      await xs.write('/t/empty', 'now');
      await until(() => heard.stdout === '/t\ndomain\n/t/empty\n');
      await xs.write('/local/domain/0/domain/x', '');
      await until(() => heard.stdout === '/t\ndomain\n/t/empty\ndomain/x\n');
      child.kill('SIGINT');
      expect({ ...(await end), signal: child.signalCode }).toMatchObject({ stderr: '', exit: null, signal: 'SIGINT' });
      await xs.rm('/local/domain/0/domain');
    }
  });

  withTools('they are refused alike where a guest may not read', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'xs-guest-'));
    const path = join(directory, 'socket');
    const guest = join(directory, 'guest');
    const turn = (): void => {
      for (let served = 0; loop.serveOne(); served += 1) {
        if (served === 64) {
          setImmediate(turn);
          return;
        }
      }
    };
    const domain = () => ({ dying: false, shutdown: false });
    const loop = new StoreLoop({ domain, wake: () => setImmediate(turn), log: () => undefined });
    const servers = [
      await listenStore(loop, { path, domid: 0, who: 'client', log: () => undefined }),
      await listenStore(loop, { path: guest, domid: 5, who: 'client', log: () => undefined }),
    ];
    const dom0 = xsClient(await socketTransport(path));
    await dom0.introduce(5, 1, 1);
    await dom0.write('/seen/secret/below', 'v');
    await dom0.write('/seen/public', 'v');
    for (const [node, letter] of Object.entries({ '/': 'r', '/seen': 'r', '/seen/secret': 'n', '/seen/public': 'r' })) {
      await dom0.setPerms(node, [perm(`${letter}0`)]);
    }
    const env = environment({ XENSTORED_PATH: guest });
    const lines = [
      ...[
        'ls /seen',
        'ls -p /seen/secret',
        'ls -fp /seen',
        'read /seen/public /seen/secret',
        'list /seen/secret',
        'exists /seen/secret',
      ],
      ...[
        'write /seen/public w',
        'write /seen/a 1 /seen/b 2',
        'rm /seen/public',
        'chmod /seen/public b5',
        'chmod -r /seen n5',
        'watch -n 1 /seen/secret',
      ],
      'watch -n 1 @releaseDomain',
    ];
    const ended: Record<'ours' | 'theirs', unknown[]> = { ours: [], theirs: [] };
    for (const line of lines) {
      const [tool = '', ...words] = line.split(' ');
      ended.ours.push({ line, ...(await run(`${ours(tool)} ${asShell(...words)}`, env)) });
      ended.theirs.push({ line, ...(await run(`${theirs(tool)} ${asShell(...words)}`, env)) });
    }
    dom0.close();
    for (const server of servers) await server.close();
    rmSync(directory, { recursive: true });
    expect(ended.ours).toEqual(ended.theirs);
    expect(ended.ours[1]).toMatchObject({ stderr: 'xenstore-ls: xs_directory (/seen/secret): Permission denied\n', exit: 1 });
  });
});

describe('without an original', () => {
  test('-h is the help of xl, on stdout, wherever it stands', async () => {
    const help = await l.xl('help', 'xenstore', 'ls');
    expect(help.stdout).toMatch(/^Usage: xl \[-vtT\] xenstore ls \[options\] \[<Path>\]\.\.\.\n/);
    expect([await l.xl('xenstore', 'ls', '-h'), await l.xl('xenstore', 'ls', '/t', '--hel')]).toEqual([help, help]);
  });

  test('--json has every value whole, and the permissions when they are asked for', async () => {
    await xs.write('/j/long', 'y'.repeat(4000));
    await xs.write('/j/text/bytes', allBytes);
    await xs.write('/j/text', byteString('ů'));
    const json = async (...args: string[]) => JSON.parse((await l.xl('xenstore', ...args)).stdout) as unknown;
    const base64 = Buffer.from(allBytes, 'latin1').toString('base64');
    expect(await json('ls', '--json', '/j')).toEqual([
      { path: '/j/long', value: 'y'.repeat(4000) },
      { path: '/j/text', value: 'ů' },
      { path: '/j/text/bytes', base64 },
    ]);
    expect(await json('ls', '-p', '--json', '/j/text')).toEqual([{ path: '/j/text/bytes', base64, perms: ['n0'] }]);
    expect(await json('read', '--json', '/j/text', '/j/text/bytes')).toEqual([
      { path: '/j/text', value: 'ů' },
      { path: '/j/text/bytes', base64 },
    ]);
    expect(await json('list', '--json', '/j', '/j/long')).toEqual([
      { path: '/j', children: ['long', 'text'] },
      { path: '/j/long', children: [] },
    ]);
    const events = (await l.xl('xenstore', 'watch', '--json', '-n', '2', '/j', 'domid')).stdout;
    expect(events).toBe('{"path":"/j","watch":"/j"}\n{"path":"domid","watch":"domid"}\n');
  });

  test('recursive chmod reaches a path of more than 255 bytes, and no other', async () => {
    const cut = `/j/${'c'.repeat(252)}`;
    await xs.write(cut, '');
    await xs.write(`${cut}tail`, '');
    await xs.rm(cut);
    expect(await l.xl('xenstore', 'chmod', '-r', '/j', 'r0')).toMatchObject({ stderr: '', exitCode: 0 });
    expect(await xs.getPerms(`${cut}tail`)).toEqual([perm('r0')]);
  });

  test('watch says that its store went away, whosever it was', async () => {
    const other = lab();
    try {
      await other.xl('dom0', 'start');
      const store = join(other.runDir, 'xenstored/socket');
      const own = start(`exec ${ours('watch')} /w`, { ...environment({ XL_RUN_DIR: other.runDir }), XENSTORED_PATH: '' });
      const foreign = start(`exec ${ours('watch')} /w`, environment({ XENSTORED_PATH: store }));
      await until(() => own.heard.stdout === '/w\n' && foreign.heard.stdout === '/w\n');
      await other.xl('dom0', 'stop');
      expect(await own.end).toMatchObject({
        stderr: `xl: dom0 ended while the command was running; ${join(other.runDir, 'dom0.log')} may say why\n`,
        exit: 1,
      });
      expect(await foreign.end).toMatchObject({
        stderr: `xl: the connection to ${store} ended: the server closed it\n`,
        exit: 1,
      });
    } finally {
      await other.close();
    }
  });
});
