/**
 * `xl-mtwatch/xenstore` as others use it: imported by the package's name from plain scripts and from TypeScript, over real
 * sockets, and by docs/xenstore-client.md, whose every block is run.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { listenStore } from '../../src/xenbus/server.js';
import { StoreLoop } from '../../src/xenbus/store-loop.js';
import { ConnectError, connect, socketPath, type Xs } from '../../src/xenstore.js';
import { bin, lab } from './harness.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const guide = readFileSync(join(root, 'docs/xenstore-client.md'), 'utf8');

/** The blocks of a language, each with the heading that it stands under. */
function blocks(language: string): [string, string][] {
  let heading = '';
  return [...guide.matchAll(/^#+ (.*)$|^```(\w+)\n([\s\S]*?)^```$/gm)].flatMap(([, title, found, text = '']) => {
    if (title !== undefined) heading = title;
    return found === language ? [[heading, text] as [string, string]] : [];
  });
}

/** What a program says that it prints. */
const promised = (program: string): string[] => [...program.matchAll(/\/\/ -> (.*)$/gm)].map(([, line = '']) => line);

/** A directory of somebody who has installed the package, and in it a server on `path` and another for a guest. */
let directory: string;
let path: string;
let log: string[];
let loop: StoreLoop;
let servers: { close(): Promise<void> }[];
let clients: Xs[];
let children: ChildProcess[];

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'xs-library-'));
  mkdirSync(join(directory, 'node_modules/@types'), { recursive: true });
  symlinkSync(root, join(directory, 'node_modules/xl-mtwatch'));
  symlinkSync(join(root, 'node_modules/@types/node'), join(directory, 'node_modules/@types/node'));
  symlinkSync(join(root, 'node_modules/undici-types'), join(directory, 'node_modules/undici-types'));
  path = join(directory, 'socket');
  log = [];
  const turn = (): void => {
    while (loop.serveOne());
  };
  loop = new StoreLoop({
    domain: () => ({ dying: false, shutdown: false }),
    wake: () => setImmediate(turn),
    log: (line) => log.push(line),
  });
  servers = [await listenStore(loop, { path, domid: 0, who: 'client', log: (line) => log.push(line) })];
  clients = [];
  children = [];
});

afterEach(async () => {
  for (const xs of clients) xs.close();
  for (const child of children) child.kill('SIGKILL');
  for (const server of servers) await server.close();
  rmSync(directory, { recursive: true });
});

async function client(options: Parameters<typeof connect>[0] = { path }): Promise<Xs> {
  const xs = await connect(options);
  clients.push(xs);
  return xs;
}

async function run(file: string, ...args: string[]): Promise<{ stdout: string; stderr: string }> {
  return promisify(execFile)(process.execPath, [file, ...args], {
    cwd: directory,
    env: { ...process.env, XENSTORED_PATH: path },
  });
}

/** Runs a program of its own, which imports the package by its name. */
async function script(program: string): Promise<string[]> {
  const file = join(directory, 'script.mjs');
  writeFileSync(file, program);
  const { stdout, stderr } = await run(file);
  expect(stderr).toBe('');
  return stdout.split('\n').slice(0, -1);
}

describe('the guide', () => {
  const programs = blocks('js').filter(([, program]) => !program.includes('A guest agent'));

  test('has programs, and each of its blocks is of a kind that is run', () => {
    expect(programs.length).toBeGreaterThan(8);
    const kinds = [...guide.matchAll(/^```(\w+)$/gm)].map(([, kind]) => kind);
    expect(new Set(kinds)).toEqual(new Set(['js', 'sh', 'ts']));
  });

  test.each(programs.map(([heading, program], at): [number, string, string] => [at + 1, heading, program]))(
    'program %i (%s) prints what it says',
    async (_at, _heading, program) => {
      expect(await script(program)).toEqual(promised(program));
    },
  );

  test('shows the agent that is in examples', () => {
    const shown = blocks('js').find(([, program]) => program.includes('A guest agent'))?.[1];
    expect(shown).toBe(readFileSync(join(root, 'examples/agent.mjs'), 'utf8'));
  });

  test('shows a session with the embedded dom0 that ends as it should', async () => {
    const l = lab();
    try {
      const [[, session = ''] = []] = blocks('sh');
      const tools = join(directory, 'bin');
      mkdirSync(tools);
      // What it makes and starts is the lab's, which ends it in any case.
      writeFileSync(join(tools, 'mktemp'), `#!/bin/sh\nmkdir -p ${l.runDir} && echo ${l.runDir}\n`, { mode: 0o755 });
      writeFileSync(join(tools, 'xl'), `#!/bin/sh\nexec ${process.execPath} ${bin} "$@"\n`, { mode: 0o755 });
      const { XENSTORED_PATH: _, ...inherited } = process.env;
      const env = { ...inherited, PATH: `${tools}:${process.env['PATH']}` };
      const { stdout } = await promisify(execFile)('bash', ['-euc', session], { cwd: root, env });
      expect(stdout).toMatch(/^pong$/m);
    } finally {
      await l.close();
    }
  });

  const compiler = join(root, 'node_modules/typescript/bin/tsc');
  const compile = (program: string) => {
    writeFileSync(join(directory, 'package.json'), '{ "type": "module" }');
    writeFileSync(join(directory, 'main.ts'), program);
    const strict = ['--strict', '--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess', '--skipLibCheck', 'false'];
    const how = ['--noEmit', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2022', '--types', 'node'];
    return run(compiler, ...strict, ...how, 'main.ts').then(
      () => 'no errors',
      (error: unknown) => String((error as { stdout: string }).stdout),
    );
  };

  test('has TypeScript that a strict consumer can compile, libraries checked too', async () => {
    const [[, program = ''] = []] = blocks('ts');
    expect(await compile(program)).toBe('no errors');
  });

  test('has types that find mistakes', async () => {
    const wrong = `import { connect } from 'xl-mtwatch/xenstore';\nconst value: string = await (await connect()).read('/a');\n`;
    expect(await compile(wrong)).toMatch(/^main\.ts\(2,7\): error TS2322/);
  });
});

describe('the agent', () => {
  test('serves its guest with the rights of that guest, and leaves when it is told to', async () => {
    const dom0 = await client();
    await dom0.mkdir('/local/domain/3/data');
    await dom0.setPerms('/local/domain/3/data', [{ domid: 3, read: false, write: false }]);
    const own = join(directory, 'guest');
    servers.push(await listenStore(loop, { path: own, domid: 3, who: 'client', log: (line) => log.push(line) }));

    const agent = spawn(process.execPath, [join(root, 'examples/agent.mjs')], { env: { ...process.env, XENSTORED_PATH: own } });
    children.push(agent);
    const ended = new Promise((resolve) => agent.once('close', resolve));
    const home = '/local/domain/3/data';
    await dom0.waitFor(`${home}/agent`, (value) => value === 'ready');
    for (const [question, answer] of [
      ['ping', 'pong'],
      ['toString', 'I do not know toString'],
    ]) {
      await dom0.write(`${home}/ask`, question ?? '');
      expect(await dom0.waitFor(`${home}/ask`, (value) => value === '')).toBe('');
      expect(await dom0.read(`${home}/answer`)).toBe(answer);
    }
    agent.kill('SIGTERM');
    expect(await ended).toBe(0);
    expect(await dom0.read(`${home}/agent`)).toBeUndefined();
  });
});

describe('connecting', () => {
  test('goes where libxenstore goes', () => {
    expect([
      socketPath({ XENSTORED_PATH: '/a', XENSTORED_RUNDIR: '/b' }),
      socketPath({ XENSTORED_PATH: '', XENSTORED_RUNDIR: '/b' }),
      socketPath({}),
    ]).toEqual(['/a', '/b/socket', '/var/run/xenstored/socket']);
  });

  const failure = (options: Parameters<typeof connect>[0]) => connect(options).catch((error: unknown) => error);

  test('fails with the socket, the reason and the way out', async () => {
    const none = join(directory, 'none');
    expect(await failure({ path: none })).toMatchObject({
      name: 'ConnectError',
      code: 'ENOENT',
      path: none,
      message: `cannot connect to XenStore at ${none}: there is no such socket (ENOENT); start a server (xl dom0 start), or set XENSTORED_PATH to the socket of the one that runs (eval "$(xl dom0 env)")`,
    });
    const file = join(directory, 'file');
    writeFileSync(file, '');
    expect(String(await failure({ path: file }))).toMatch(/that is no socket \(E\w+\)/);
    expect(String(await failure({ path: '/dev/null' }))).toMatch(/that is no socket \(E\w+\)/);
    const left = join(directory, 'left');
    await promisify(execFile)(process.execPath, [
      '-e',
      `require('net').createServer().listen('${left}', () => process.kill(process.pid, 'SIGKILL'))`,
    ]).catch(() => undefined);
    expect(String(await failure({ path: left }))).toMatch(/nobody listens there \(ECONNREFUSED\)/);
    const long = join(directory, 'x'.repeat(200));
    expect(await failure({ path: long })).toBeInstanceOf(ConnectError);
  });

  test('is given up with the signal', async () => {
    const enough = new Error('enough');
    expect(await failure({ path, signal: AbortSignal.abort(enough) })).toBe(enough);
    const stopping = new AbortController();
    const connecting = failure({ path, signal: stopping.signal });
    stopping.abort(enough);
    expect(await connecting).toBe(enough);
  });
});

describe('over a socket', () => {
  test('ten thousand requests are answered, and go out in few writes', async () => {
    const xs = await client();
    await Promise.all(Array.from({ length: 10_000 }, (_, i) => xs.write(`/n/${i}`, `${i}`)));
    expect(await Promise.all(Array.from({ length: 10_000 }, (_, i) => xs.read(`/n/${i}`)))).toEqual(
      Array.from({ length: 10_000 }, (_, i) => `${i}`),
    );
  });

  test('requests of one turn arrive in one piece', async () => {
    const chunks: number[] = [];
    const pieces = join(directory, 'pieces');
    let all = 0;
    const arrived = new Promise<void>((resolve) => {
      const server = createServer((socket) => {
        socket.on('data', (chunk) => {
          chunks.push(chunk.length);
          all += chunk.length;
          if (all >= 100 * 19) resolve();
        });
      }).listen(pieces);
      servers.push({ close: async () => void server.close() });
    });
    const xs = await client({ path: pieces });
    const reads = Promise.allSettled(Array.from({ length: 100 }, () => xs.read('/a')));
    await arrived;
    expect(chunks).toEqual([100 * 19]);
    xs.close();
    await reads;
  });

  test('what was sent before closing arrives', async () => {
    const [xs, other] = [await client(), await client()];
    const written = xs.write('/a', 'v').catch((error: unknown) => (error as Error).name);
    xs.close();
    expect(await written).toBe('ConnectionClosed');
    expect(await other.waitFor('/a', (value) => value !== undefined)).toBe('v');
  });

  test('a server that goes in the middle of a transaction and of a loop ends both with its name', async () => {
    const xs = await client();
    const events = xs.watch('/a');
    await events.next();
    const loop = events.next();
    const transaction = xs.transaction(async (tx) => {
      await tx.write('/a', '1');
      await servers.shift()?.close();
      await tx.read('/a');
    });
    const ends = await Promise.allSettled([loop, transaction, xs.ended.then((error) => Promise.reject(error))]);
    expect(ends.map((end) => end.status === 'rejected' && String(end.reason))).toEqual(
      ends.map(() => `ConnectionEnded: the connection to ${path} ended: the server closed it`),
    );
  });

  const rubbish: [string, Buffer, RegExp][] = [
    [
      'text',
      Buffer.from('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n'),
      /does not speak the XenStore protocol, payload of \d+ bytes/,
    ],
    ['an answer that nobody asked for', Buffer.from('02000000ff0000000000000000000000', 'hex'), /request 255, which nobody made/],
    ['an answer of another kind', Buffer.from('0b000000010000000000000000000000', 'hex'), /a READ was answered by a WRITE/],
  ];
  test.each(rubbish)('a server that says %s is left', async (_, bytes, message) => {
    const odd = join(directory, 'odd');
    const sockets: Socket[] = [];
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.once('data', () => socket.write(bytes));
    }).listen(odd);
    servers.push({
      close: async () => {
        for (const socket of sockets) socket.destroy();
        server.close();
      },
    });
    const xs = await client({ path: odd });
    const error = await xs.read('/a').catch((reason: unknown) => reason);
    expect(String(error)).toMatch(/^ConnectionEnded: /);
    expect(String(error)).toMatch(message);
    expect(await xs.ended).toBe(error);
  });
});

describe('a program', () => {
  test('whose callback throws is told so, and its connection goes on', async () => {
    const printed = await script(`
      import { connect } from 'xl-mtwatch/xenstore';
      const xs = await connect();
      process.on('uncaughtException', (error) => console.log(error.message));
      await xs.watch('/a', () => { throw new Error('of the callback'); });
      await xs.write('/b', 'v');
      console.log(await xs.read('/b'));
      xs.close();
    `);
    expect(printed).toEqual(['of the callback', 'v']);
  });

  test('ends when it has closed its connection, though the server holds on to it', async () => {
    const deaf = join(directory, 'deaf');
    const sockets: Socket[] = [];
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.push(socket.resume());
    }).listen(deaf);
    servers.push({
      close: async () => {
        for (const socket of sockets) socket.destroy();
        server.close();
      },
    });
    const printed = await script(`
      import { connect } from 'xl-mtwatch/xenstore';
      const xs = await connect({ path: ${JSON.stringify(deaf)} });
      const read = xs.read('/a').catch((error) => console.log(error.name));
      xs.close();
      await read;
    `);
    expect(printed).toEqual(['ConnectionClosed']);
  });

  test('can import what is exported, and nothing else', async () => {
    const printed = await script(`
      const names = Object.keys(await import('xl-mtwatch/xenstore'));
      console.log(names.includes('connect'), names.includes('localStore'));
      console.log(await import('xl-mtwatch/dist/xenbus/xs-client.js').catch((error) => error.code));
      console.log((await import('xl-mtwatch/package.json', { with: { type: 'json' } })).default.name);
    `);
    expect(printed).toEqual(['true true', 'ERR_PACKAGE_PATH_NOT_EXPORTED', 'xl-mtwatch']);
  });
});
