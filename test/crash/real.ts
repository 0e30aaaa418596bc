/**
 * The crash matrix with real processes: the built `xl` is killed with SIGKILL at a request, chosen by a seed.
 *
 * `xl` runs on a run directory whose sockets are ours: we pass on what it asks, count, and kill it the moment that the request
 * has been passed on, or before. Whatever the store answers is not passed back. Then `xl destroy` and `xl mtwatch prune` run on
 * the run directory itself, and dom0 and its files are compared with what they were.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SystemClock, seeded } from '../../src/xenbus/clock.js';
import { privcmdClient } from '../../src/xenbus/privcmd-client.js';
import { runDirAt } from '../../src/xenbus/run-dir.js';
import { PacketReader, socketTransport } from '../../src/xenbus/transport.js';
import { xsClient } from '../../src/xenbus/xs-client.js';
import { encode, formatPerm, splitStrings, typeName } from '../../src/xenbus/xs-wire.js';
import { differences, type State, withoutResidue } from './matrix.js';

/** How long dom0 has to come to rest after the last command. */
const restMs = 20_000;
const lookEveryMs = 50;

const operations: readonly { readonly name: string; readonly given: boolean; readonly words: readonly string[] }[] = [
  { name: 'create -p', given: false, words: ['create', '-q', '-e', '-p', 'pv.cfg'] },
  { name: 'create', given: false, words: ['create', '-q', '-e', 'pv.cfg'] },
  { name: 'destroy', given: true, words: ['destroy', 'pv'] },
  { name: 'block-attach', given: true, words: ['block-attach', 'pv', 'file:/srv/more.img,xvdb,w'] },
  { name: 'block-detach', given: true, words: ['block-detach', 'pv', 'xvda'] },
  { name: 'network-attach', given: true, words: ['network-attach', 'pv', 'mac=00:16:3e:00:00:02', 'bridge=xenbr0'] },
  { name: 'network-detach', given: true, words: ['network-detach', 'pv', '0'] },
  { name: 'rename', given: true, words: ['rename', 'pv', 'other'] },
];

const config = `type = "pv"
name = "pv"
kernel = "/boot/vmlinux"
memory = 64
disk = [ "file:/srv/pv.img,xvda,w" ]
vif = [ "mac=00:16:3e:00:00:01,bridge=xenbr0" ]
`;

interface Kill {
  readonly request: number;
  readonly before: boolean;
}

/** Passes requests on and counts them, until the one at which its client is killed. */
class Interposer {
  readonly #servers: Server[] = [];
  readonly #upstream = new Set<Socket>();
  #count = 0;
  #last = '';
  #kill: Kill | undefined;
  #child: ChildProcess | undefined;
  #over = false;

  constructor(ours: string, theirs: string) {
    const [from, to] = [runDirAt(ours), runDirAt(theirs)];
    mkdirSync(from.store.dir, { recursive: true });
    symlinkSync(to.lib, from.lib);
    this.#listen(from.privcmd, to.privcmd, () => {
      let rest = '';
      return (chunk) => {
        const lines = (rest + chunk.toString('latin1')).split('\n');
        rest = lines.pop() ?? '';
        return lines.map((line) => [/"op":"([^"]+)"/.exec(line)?.[1] ?? line.slice(0, 40), Buffer.from(`${line}\n`, 'latin1')]);
      };
    });
    for (const who of ['xl', 'hotplug'] as const) {
      this.#listen(from.store[who], to.store[who], () => {
        const reader = new PacketReader();
        return (chunk) =>
          reader.read(chunk).packets.map((packet) => {
            return [`${typeName(packet.type)} ${splitStrings(packet.payload)[0] ?? ''}`, encode(packet)];
          });
      });
    }
  }

  /** Starts to count, for a client that is to be killed, or for one that is not. */
  begin(child: ChildProcess, kill: Kill | undefined): void {
    this.#count = 0;
    this.#over = false;
    this.#child = child;
    this.#kill = kill;
  }

  get count(): number {
    return this.#count;
  }

  get last(): string {
    return this.#last;
  }

  close(): void {
    for (const server of this.#servers) server.close();
    for (const socket of this.#upstream) socket.destroy();
  }

  #listen(ours: string, theirs: string, parser: () => (chunk: Buffer) => [name: string, bytes: Buffer][]): void {
    const server = createServer({ allowHalfOpen: false }, (client) => {
      const upstream = connect(theirs);
      const parse = parser();
      this.#upstream.add(upstream);
      upstream.on('close', () => {
        this.#upstream.delete(upstream);
        client.destroy();
      });
      client.on('data', (chunk) => {
        for (const [name, bytes] of parse(chunk)) if (this.#isPassed(name)) upstream.write(bytes);
      });
      client.on('close', () => upstream.end());
      client.on('error', () => undefined);
      upstream.on('error', () => undefined);
      upstream.on('data', (chunk) => {
        if (!this.#over) client.write(chunk);
      });
    });
    server.listen(ours);
    this.#servers.push(server);
  }

  #isPassed(name: string): boolean {
    if (this.#over) return false;
    this.#count += 1;
    this.#last = name;
    if (this.#count !== this.#kill?.request) return true;
    this.#over = true;
    this.#child?.kill('SIGKILL');
    return !this.#kill.before;
  }
}

export interface RealOutcome {
  readonly point: string;
  readonly last: string;
  readonly leaks: readonly string[];
}

/** Kills `count` times, and tells of each. What is started here is ended here. */
export async function crashForReal(
  count: number,
  seed: number,
  bin: string,
  tell: (outcome: RealOutcome) => void,
): Promise<void> {
  const clock = new SystemClock();
  const draw = seeded(seed);
  const dir = mkdtempSync(join(tmpdir(), 'xl-crash-'));
  const [runDir, proxyDir] = [join(dir, 'run'), join(dir, 'proxy')];
  writeFileSync(join(dir, 'pv.cfg'), config);
  const { XENSTORED_PATH: _, ...inherited } = process.env;
  const start = (where: string, words: readonly string[]) => {
    const env = {
      ...inherited,
      XL_RUN_DIR: where,
      XL_DOM0_ARGS: '--assume-files',
      XL_DOM0_AUTOSTART: where === runDir ? '1' : '0',
    };
    return spawn(process.execPath, [bin, ...words], { cwd: dir, env, stdio: ['ignore', 'ignore', 'ignore'] });
  };
  const xl = async (...words: string[]) => void (await once(start(runDir, words), 'exit'));
  const run = runDirAt(runDir);
  await xl('dom0', 'start', '--assume-files');
  mkdirSync(run.lib, { recursive: true });
  const proxy = new Interposer(proxyDir, runDir);
  const observer = await privcmdClient(run.privcmd, '0');
  const stateNow = async (): Promise<State> => {
    const xs = xsClient(await socketTransport(run.store.client));
    const nodes: string[] = [];
    const visit = async (path: string): Promise<void> => {
      for (const name of (await xs.directory(path)) ?? []) {
        const child = path === '/' ? `/${name}` : `${path}/${name}`;
        const perms = ((await xs.getPerms(child)) ?? []).map(formatPerm).join(',');
        nodes.push(`${child} = "${await xs.read(child)}"   (${perms})`);
        await visit(child);
      }
    };
    await visit('/');
    const census = await observer.call('dom0.census', {});
    xs.close();
    const userdata = existsSync(run.lib) ? readdirSync(run.lib) : [];
    return { nodes: withoutResidue(nodes), census, files: userdata.filter((name) => name.startsWith('userdata-')), locks: [] };
  };
  /** One run of an operation to its end or its kill. */
  const attempt = async (words: readonly string[], kill: Kill | undefined) => {
    const child = start(proxyDir, words);
    proxy.begin(child, kill);
    await once(child, 'exit');
    return proxy.count;
  };
  const make = async () => {
    const [status] = await once(start(runDir, ['create', '-q', '-e', 'pv.cfg']), 'exit');
    if (status !== 0) throw new Error(`no domain to try on: xl create ended with ${status}`);
  };
  const cleanUp = async () => {
    const { domains } = await observer.call('dom0.census', {});
    for (const { domid } of domains) if (domid !== 0) await xl('destroy', String(domid));
    await xl('mtwatch', 'prune');
  };
  try {
    const lengths = new Map<string, number>();
    const before = await stateNow();
    for (let done = 0; done < count; done += 1) {
      const operation = operations[draw() % operations.length];
      if (!operation) break;
      const { name, given, words } = operation;
      let length = lengths.get(name);
      if (length === undefined) {
        if (given) await make();
        length = await attempt(words, undefined);
        lengths.set(name, length);
        await cleanUp();
      }
      const kill = { request: 1 + (draw() % length), before: draw() % 2 === 0 };
      if (given) await make();
      await attempt(words, kill);
      await cleanUp();
      let leaks = differences(before, await stateNow());
      for (const end = clock.now() + restMs; leaks.length > 0 && clock.now() < end; ) {
        await clock.sleep(lookEveryMs);
        leaks = differences(before, await stateNow());
      }
      tell({ point: `${name}:${kill.request}${kill.before ? 'b' : ''} of ${length}`, last: proxy.last, leaks });
    }
  } finally {
    observer.close();
    proxy.close();
    await xl('dom0', 'stop');
    if (existsSync(run.pidFile)) process.kill(Number(readFileSync(run.pidFile, 'latin1').trim()), 'SIGTERM');
    rmSync(dir, { recursive: true, force: true });
  }
}
