/**
 * Starts the servers that are compared, each in a directory of its own: Debian's C xenstored and oxenstored without a
 * hypervisor, and ours within this process. Ends what it started, by pid.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Quotas } from '../../src/xenbus/quota.js';
import { listenStore } from '../../src/xenbus/server.js';
import { StoreLoop } from '../../src/xenbus/store-loop.js';
import type { Who } from '../../src/xenbus/transport.js';
import type { DomainState } from './operations.js';
import { makeFifo, makePage, notify, openRing } from './ring.js';
import { type Machine, type Server, socketChannel } from './session.js';

/** Below the package's directory, which npm and jest run in. */
const shimSource = resolve('test/conformance/no-hypervisor.c');
const daemons = '/usr/lib/xen-4.17/bin';
const VIRQ_DOM_EXC = 3;
const ofVirq = 0xffffffff;

export interface Started {
  readonly server: Server;
  /** Undefined for the server that runs in this process. */
  readonly pid: number | undefined;
  close(): Promise<void>;
}

/** What is missing for the real servers to be started, with the package to install; empty when nothing is. */
export function missingForPeers(): string[] {
  const isThere = (path: string, mode: number): boolean => {
    try {
      accessSync(path, mode);
      return true;
    } catch {
      return false;
    }
  };
  const needed: [boolean, string][] = [
    [
      isThere(join(daemons, 'xenstored'), constants.X_OK) && isThere(join(daemons, 'oxenstored'), constants.X_OK),
      'xen-utils-4.17',
    ],
    [isThere('/usr/include/xenctrl.h', constants.R_OK) && isThere('/usr/include/xenevtchn.h', constants.R_OK), 'libxen-dev'],
    [spawnSync('gcc', ['--version']).status === 0, 'gcc'],
    [isThere('/usr/include/stdio.h', constants.R_OK), 'libc6-dev'],
  ];
  return needed.filter(([isMet]) => !isMet).map(([, debianPackage]) => debianPackage);
}

/** Compiles the library that stands in for the hypervisor, into `directory`; its path. */
function compileShim(directory: string): string {
  const library = join(directory, 'no-hypervisor.so');
  const { status, stderr } = spawnSync('gcc', ['-O1', '-shared', '-fPIC', '-o', library, shimSource, '-ldl'], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`gcc cannot compile ${shimSource}:\n${stderr}`);
  return library;
}

/** The hypervisor of a peer: files in its directory. */
function machineIn(directory: string): Machine {
  const mark = (what: string, domid: number, isSo: boolean): void => {
    const file = join(directory, `${what}-${domid}`);
    if (isSo) writeFileSync(file, '');
    else rmSync(file, { force: true });
  };
  return {
    set: (domid, state) => {
      const isThere = existsSync(join(directory, `ring-${domid}`));
      if (state === 'running' && !isThere) makePage(directory, domid);
      if (state === 'gone' || state === 'running') for (const what of ['shutdown', 'dying']) mark(what, domid, false);
      if (state === 'gone') rmSync(join(directory, `ring-${domid}`), { force: true });
      if ((state === 'shutdown' || state === 'dying') && isThere) mark(state, domid, true);
      if (state !== 'running') notify(directory, ofVirq, VIRQ_DOM_EXC);
    },
    ring: async (domid) => openRing(directory, domid),
  };
}

async function startPeer(name: string, args: (directory: string) => string[]): Promise<Started> {
  const directory = mkdtempSync(join(tmpdir(), 'xs-peer-'));
  const log = openSync(join(directory, 'log'), 'w');
  let child: ChildProcess;
  try {
    const library = compileShim(directory);
    makeFifo(join(directory, 'evtchn'));
    const env = {
      PATH: process.env['PATH'],
      LD_PRELOAD: library,
      NO_HYPERVISOR_DIR: directory,
      XENSTORED_RUNDIR: directory,
      XENSTORED_PATH: join(directory, 'socket'),
    };
    child = spawn(join(daemons, name), args(directory), { env, cwd: directory, stdio: ['ignore', log, log] });
  } finally {
    closeSync(log);
  }
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const kill = (): void => {
    child.kill('SIGKILL');
  };
  process.once('exit', kill);
  const close = async (): Promise<void> => {
    process.off('exit', kill);
    kill();
    await ended;
    rmSync(directory, { recursive: true, force: true });
  };
  const socket = join(directory, 'socket');
  for (const giveUp = Date.now() + 20_000; ; ) {
    const channel = await socketChannel(socket).catch(() => undefined);
    if (channel) {
      channel.close();
      break;
    }
    if (child.exitCode !== null || child.signalCode !== null || Date.now() > giveUp) {
      const output = readFileSync(join(directory, 'log'), 'utf8');
      await close();
      throw new Error(`${name} did not come up; it said:\n${output}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const obituary = (): string | undefined => {
    if (child.exitCode === null && child.signalCode === null) return undefined;
    return `${name} ended with ${child.exitCode ?? child.signalCode}, and said: ${readFileSync(join(directory, 'log'), 'utf8').slice(-2000)}`;
  };
  return { server: { name, socket, machine: machineIn(directory), obituary }, pid: child.pid, close };
}

/** The C server. Events are kept for a guest however long it takes, because its clock runs too fast. */
export function startCxenstored(): Promise<Started> {
  return startPeer('xenstored', () => ['-N', '-w', 'watch-event=0']);
}

export function startOxenstored(): Promise<Started> {
  const config = (directory: string): string => {
    const file = join(directory, 'oxenstored.conf');
    const lines = [
      'quota-activate = true',
      'perms-activate = true',
      'perms-watch-activate = true',
      'persistent = false',
      'xenstored-kva = /proc/xen/xsd_kva',
      'xenstored-port = /proc/xen/xsd_port',
    ];
    writeFileSync(file, `${lines.join('\n')}\n`);
    return file;
  };
  return startPeer('oxenstored', (directory) => ['--no-fork', '--config-file', config(directory), '--no-access-log']);
}

/** Ours, in this process, on real sockets; guests have one each. */
export async function startOurs(quotas: Partial<Quotas> = {}): Promise<Started> {
  const directory = mkdtempSync(join(tmpdir(), 'xs-ours-'));
  const domains = new Map<number, { dying: boolean; shutdown: boolean }>();
  const turn = (): void => {
    for (let served = 0; loop.serveOne(); served += 1) {
      if (served === 64) {
        setImmediate(turn);
        return;
      }
    }
  };
  const log = (): void => undefined;
  const loop = new StoreLoop({ domain: (domid) => domains.get(domid), wake: () => setImmediate(turn), log, quotas });
  const listen = (name: string, domid: number, who: Who) => listenStore(loop, { path: join(directory, name), domid, who, log });
  const listening = [await listen('socket', 0, 'client')];
  const rings = new Map<number, string>();
  const machine: Machine = {
    set: (domid, state: DomainState) => {
      const domain = domains.get(domid);
      if (state === 'gone') domains.delete(domid);
      else if (state === 'running') domains.set(domid, { dying: false, shutdown: false });
      else if (domain) domain[state] = true;
      // The real VIRQ names no domain: C looks at all that it knows.
      if (state !== 'running') for (const each of new Set([domid, ...domains.keys()])) loop.virq(each);
    },
    ring: async (domid) => {
      const name = `guest-${domid}`;
      if (!rings.has(domid)) {
        listening.push(await listen(name, domid, 'domU-kernel'));
        rings.set(domid, join(directory, name));
      }
      return socketChannel(join(directory, name));
    },
  };
  return {
    server: { name: 'ours', socket: join(directory, 'socket'), machine },
    pid: undefined,
    close: async () => {
      await Promise.all(listening.map((each) => each.close()));
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
