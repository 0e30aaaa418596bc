/**
 * xl's commands as a real Xen 4.17 host answered them: stdout, stderr and exit status of each recording in
 * `data/commands`, with what is of one run alone taken out (`normalisations` in recordings.ts).
 *
 * A file there is a session: its commands run in their order on one dom0, after the session's `setup`. A command that
 * ours has must answer as recorded, but for what is in `differs`, with the reason; what is there and has come to match
 * fails as well. A command that ours has not is left out, and so is what a recording before it changed.
 *
 * By hand, for any directory of recordings (one each file, or many with `=== name` lines):
 *
 *   GOLDEN_DIR=DIR [GOLDEN_SETUP='create -p pv.cfg; unpause pv'] [GOLDEN_DOMID=N] [GOLDEN_FILES=1] \
 *     [GOLDEN_CMDLINE='xen_mtwatch'] [GOLDEN_BEFORE='02-unpause=xwstall hold vbd-17-51712 --connect; 18-list=xwstall flush'] \
 *     node --experimental-vm-modules node_modules/jest/bin/jest.js test/golden/commands.test.ts
 *
 * prints which recordings match and which differ, with a diff (`-` theirs, `+` ours). Without GOLDEN_SETUP a recording is
 * tried on a dom0 alone, with `pv` running, created paused and paused, and the least difference counts. GOLDEN_DOMID is the
 * domid that `pv`, or the first domain, gets; GOLDEN_CMDLINE is dom0's command line; GOLDEN_BEFORE has commands of ours that go
 * before recordings, by their names, and needs GOLDEN_SETUP; with GOLDEN_FILES the host has the files of `hostFiles`, else all. Config files are looked up in
 * DIR, in DIR/cfg and in DIR/../cfg.
 *
 * Two things were done to the recordings: disk images that lay in a home directory are below /srv, and `xl top -b` is
 * left out, because a real xl refuses xentop's options and ours takes them.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { plan, type Table, xlCommands } from '../../src/cli/argv.js';
import type { TraceLine } from '../../src/xenbus/trace.js';
import { type Lab, lab, until } from '../interop/harness.js';
import { type Answer, difference, type Recording, recordings, withoutDescriptions, words } from './recordings.js';
import { connections, connectionThere, data, plainUnits, recorded, traced, type Unit } from './requests.js';

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
/** What the argv layer reads at every start. */
const table: Table = JSON.parse(readFileSync(here('../../dist/bundle/table.json'), 'utf8'));
const isCommand = (name: string) => Object.hasOwn(table.commands, name);

/** libxl's deadlines are waited for at a fiftieth; a command that takes longer than this hangs. */
const longestMs = 30_000;
/** How often what a command shows is looked at again. */
const looksMax = 100;

/** `xl` in one process, on a dom0 of its own. */
interface Xl {
  readonly lab: Lab;
  (argv: readonly string[]): Promise<Answer>;
  close(): Promise<void>;
}

/** Commands that write to file descriptor 1, or are another program, and so need a process of their own. */
const ownProcess = ['console', 'migrate', 'migrate-receive'];

function xlProcess(): Xl {
  const l = lab({ XL_TIMEOUT_SCALE: '0.02' });
  let child: ChildProcess | undefined;
  const start = async (): Promise<ChildProcess> => {
    const { XENSTORED_PATH: _, NODE_OPTIONS: __, ...inherited } = process.env;
    const env = { ...inherited, ...l.env, XL_RUN_DIR: l.runDir };
    const forked = fork(here('xl-process.js'), [], {
      cwd: l.dir,
      env,
      execArgv: [],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    await new Promise((ready, failed) => {
      forked.once('message', ready);
      forked.once('exit', () => failed(new Error('xl-process.js has ended')));
    });
    child = forked;
    return forked;
  };
  const run = async (argv: readonly string[]): Promise<Answer> => {
    const planned = plan(argv, table);
    if (planned.do === 'print') return planned;
    if (ownProcess.includes(planned.id)) {
      const { stdout, stderr, exitCode } = await l.xl(...argv);
      return { stdout, stderr, exit: exitCode ?? -1 };
    }
    const to = child ?? (await start());
    return new Promise<Answer>((answered) => {
      const end = (answer: Answer) => {
        clearTimeout(timer);
        to.removeAllListeners('message').removeAllListeners('exit');
        answered(answer);
      };
      const lost = (why: string) => {
        child = undefined;
        to.kill('SIGKILL');
        end({ stdout: '', stderr: `${why}\n`, exit: -1 });
      };
      const timer = setTimeout(() => lost(`no end in ${longestMs} ms`), longestMs);
      to.once('message', (answer: Answer) => end(answer)).once('exit', () => lost('the process has ended'));
      to.send({ id: planned.id, argv: planned.argv });
    });
  };
  const close = async () => {
    child?.removeAllListeners('exit').kill('SIGKILL');
    await l.close();
  };
  return Object.assign(run, { lab: l, close });
}

const pvCfg = readFileSync(here('data/pv.cfg'), 'utf8');
/** What the config files of the recordings were made of, by their names. */
const configs: Readonly<Record<string, (pv: string) => string>> = {
  'pv.cfg': (pv) => pv,
  'pvb.cfg': (pv) => pv.replace('"pv"', '"pvb"'),
  'a.cfg': (pv) =>
    pv.replace('"pv"', '"a"').replace('vcpus = 2', 'vcpus = 1').replace('loop0', 'loop1').replace('00:00:01', '00:00:0f'),
  'e.cfg': (pv) => pv.replace('"pv"', '"e"').replace('vcpus = 2', 'vcpus = 1').replace('00:00:01', '00:00:0e'),
  'm96.cfg': (pv) => pv.replace('128', '96'),
  'small.cfg': (pv) => pv.replace('128', '16'),
  'nok.cfg': (pv) => pv.replace('vmlinux', 'nosuch'),
  'nor.cfg': (pv) => pv.replace('domu.initrd', 'nosuch'),
  'badk.cfg': (pv) => pv.replace('/boot/vmlinux', '/etc/passwd'),
  'nod.cfg': (pv) => pv.replace('loop0', 'nosuch'),
  'nof.cfg': (pv) => pv.replace('phy:/dev/loop0', 'file:/srv/nosuch.img'),
  'nob.cfg': (pv) => pv.replace('xenbr0', 'nosuchbr'),
  'syn.cfg': () => 'name = "x"\nmemory = = 5\n',
  'unk.cfg': (pv) => `${pv.replace('"pv"', '"unk"').replace('loop0', 'loop1').replace('00:00:01', '00:00:0c')}nosuchkey = 1\n`,
  b1pool: () => 'cpus="0"\n',
  b1bad: () => 'bad line\n',
  b1q: () => 'name="B1q"\nfoo=1\nsched=["credit"]\n',
  'bad.cfg': () => 'memory = \n',
  'ok.cfg': () => 'name="x"\nmemory=32\n',
  'x.cfg': () => 'name="x"\n',
  'text.save': () => 'text\n',
  'other.cfg': (pv) => oneVcpu(pv, 'other', '/dev/loop1', '0b'),
  'stall.cfg': (pv) => oneVcpu(pv, 'stall', '/dev/mapper/slow', '0a').replace('/dev/xvda"', '/dev/xvda labio"'),
  'third.cfg': (pv) => oneVcpu(pv, 'third', '/dev/loop3', '0c'),
};
const oneVcpu = (pv: string, name: string, disk: string, mac: string) =>
  pv.replace('"pv"', `"${name}"`).replace('vcpus = 2', 'vcpus = 1').replace('/dev/loop0', disk).replace('00:01', `00:${mac}`);
/** The files of a host, with how big each is. A kernel is known by how it begins, whatever it is. */
const hostFiles: Readonly<Record<string, number>> = {
  'boot/vmlinux': 65_906_612,
  'boot/domu.initrd': 1_162_747,
  'etc/passwd': 1024,
  ...Object.fromEntries([0, 1, 2, 3].map((minor) => [`dev/loop${minor}`, 16 * 2 ** 20])),
  ...Object.fromEntries([0, 1, 2, 3].map((number) => [`srv/img/d${number}.img`, 16 * 2 ** 20])),
};
const elfMagic = Buffer.from('\x7fELF\x02\x01\x01', 'latin1');

/** Makes the files of a host below a directory, and has dom0 look for files there. */
function makeHostFiles({ dir, env }: Lab): void {
  for (const [name, bytes] of Object.entries(hostFiles)) {
    const path = join(dir, 'host', name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, name === 'boot/vmlinux' ? elfMagic : '');
    truncateSync(path, bytes);
  }
  env['XL_DOM0_ARGS'] = `--root ${join(dir, 'host')} --strict-files`;
}

const paCfg = pvCfg
  .replace('"pv"', '"pa"')
  .replace('128', '96')
  .replace('vcpus = 2', 'vcpus = 1')
  .replace('console=hvc0 root=/dev/xvda', 'console=hvc0')
  .replace('loop0', 'loop2')
  .replace('00:00:01', '00:00:02');

/** A dom0 after these commands, with a guest that runs idle. `pv` gets `domid`. */
async function prepared({ setup, domid = 1, files = false, cmdline, writes }: Omit<Session, 'name' | 'about'>): Promise<Xl> {
  const xl = xlProcess();
  if (writes) xl.lab.env['XL_DOM0_ARGS'] += ` --trace ${traceFile(xl)}`;
  if (files) makeHostFiles(xl.lab);
  if (cmdline !== undefined) xl.lab.env['XL_DOM0_ARGS'] += ` --cmdline '${cmdline}'`;
  try {
    await prepare(xl, setup, domid);
    return xl;
  } catch (error) {
    await xl.close();
    throw error;
  }
}

async function prepare(xl: Xl, setup: readonly string[], domid: number): Promise<void> {
  for (const [name, of] of Object.entries(configs)) writeFileSync(join(xl.lab.dir, name), of(pvCfg));
  writeFileSync(join(xl.lab.dir, 'pa.cfg'), paCfg);
  for (let id = 1; id < domid; id += 1) {
    await must(xl, 'create -p -e pv.cfg');
    await must(xl, 'destroy pv');
  }
  for (const line of setup) {
    await must(xl, line);
    if (/^create (?!-p)/.test(line)) await idle(xl);
  }
}

/** Runs a command that has to succeed. */
async function must(xl: Xl, line: string): Promise<void> {
  const answer = await xl(words(line) ?? []);
  if (answer.exit !== 0) throw new Error(`xl ${line}: ${answer.stderr}`);
}

/** Waits until no guest runs: until its devices are connected it is on a processor now and then. */
async function idle(xl: Xl): Promise<void> {
  await until(async () => !/^(?!Domain-0).* [r-]-----/m.test((await xl(['list'])).stdout));
}

/** The command that a line is about, by its name or the beginning of it; that of `help list` is `list`. */
function commandOf(argv: readonly string[]): string | undefined {
  const [first, second] = argv.filter((word) => !/^-[vNftT]+$/.test(word));
  const word = first === 'help' && second !== undefined ? second : first;
  if (word === undefined) return undefined;
  if (xlCommands.includes(word)) return word;
  const matches = xlCommands.filter((name) => name.startsWith(word));
  return word !== '' && matches.length === 1 ? matches[0] : undefined;
}

/** Whether ours has the command that a recording is about; one that is declined it has not. The list of all commands is about every one. */
function isThere({ argv, stdout }: Recording): boolean {
  if (argv === undefined) return false;
  if (stdout.startsWith('Usage xl [')) return xlCommands.every((name) => isCommand(name) || Object.hasOwn(table.declined, name));
  const command = commandOf(argv);
  return command === undefined || isCommand(command);
}

/** What changes nothing on success, so that what comes after it does not depend on it. */
const looking = /^(.*-list|list|uptime|info|claims|sharing|domid|domname|top|help|psr-.*-show|psr-hwinfo|getenforce)$/;

function changes({ argv, exit }: Recording): boolean {
  const command = argv && commandOf(argv);
  const asked = argv?.some((word) => /^(-h|--help|help|-n|-N|-vN|--dryrun)$/.test(word));
  return exit === 0 && !asked && command !== undefined && !looking.test(command);
}

interface Session {
  readonly name: string;
  readonly about: string;
  readonly setup: readonly string[];
  readonly domid?: number;
  /** On a host that has `hostFiles` and no others. Elsewhere every file is taken to be there. */
  readonly files?: boolean;
  /** dom0's command line, when it is not the default one. */
  readonly cmdline?: string;
  /** Commands of ours that go before a recording, by its name: what was done to the host there. */
  readonly before?: Readonly<Record<string, string>>;
  /** The monitors' logs in the end: a file of the data with a `=== NAME` line before that of each domain. */
  readonly logs?: string;
  /** The store's requests: a file of the data, and which of its connections is which command's. */
  readonly writes?: { readonly file: string; readonly connections: Readonly<Record<string, string>> };
}

const running = ['create pv.cfg'];
const paused = ['create -p pv.cfg'];
/** What a recording before it left behind: no udev in the guest brings its second vcpu back. */
const grown = ['mem-max pv 100000', 'vcpu-set pv 1', 'vcpu-set pv 2'];
/** A guest that runs and one that is paused, on a host of which the pool had been renamed. */
const both = ['cpupool-numa-split', ...running, 'create -p pa.cfg'];
const sessions: readonly Session[] = [
  { name: 'help', about: '`xl help` of every command', setup: [] },
  { name: 'no-operands', about: 'every command without an operand', setup: [] },
  { name: 'bad-options', about: 'every command with an option that it has not', setup: [] },
  { name: 'global-options', about: "xl's own options, beginnings of names, operands that are missing or too many", setup: [] },
  { name: 'refused', about: 'domains, files and options that are not there', setup: [] },
  { name: 'host', about: 'what shows a dom0 that is alone', setup: [] },
  { name: 'dom0-alone', about: 'every command on a dom0 that is alone', setup: [] },
  { name: 'dom0-rename', about: 'domain 0 under another name', setup: [] },
  { name: 'dom0-dmesg', about: "the hypervisor's log and its keys", setup: ['dmesg -c'] },
  { name: 'dom0-sched-credit2', about: 'the scheduler with domain 0 alone', setup: [] },
  { name: 'dom0-vcpu-mem', about: "domain 0's processors and memory", setup: [] },
  { name: 'cpupools', about: 'cpupools come and go, with their schedulers', setup: [] },
  { name: 'dom0-pools-refused', about: 'words that are no cpupool, no processor and no parameter', setup: [] },
  { name: 'absent', about: 'domains, files and hosts that are not there, where domain 0 is alone', setup: [] },
  { name: 'dom0-destroyed', about: 'domain 0 is destroyed by force, and what fails after it', setup: [], domid: 17 },
  { name: 'create-paused', about: 'create -p, too little memory', setup: [], domid: 4 },
  { name: 'running', about: 'what shows a guest that runs, until it is shut down', setup: running },
  { name: 'guests-listed', about: 'what shows a guest that runs and one that is paused', setup: both, domid: 3 },
  { name: 'guests-sched', about: 'the scheduler with guests', setup: both, domid: 3 },
  { name: 'life', about: 'names, triggers, pauses and ends', setup: both, domid: 3 },
  { name: 'pause', about: 'pause and unpause', setup: running },
  { name: 'block-attach', about: 'disks come and go', setup: running, files: true },
  { name: 'memory-vcpus', about: "a guest's memory and processors", setup: running },
  { name: 'network', about: 'names, triggers, sysrq, pauses, network interfaces', setup: [...running, ...grown] },
  { name: 'refused-running', about: 'what a running PV guest refuses, or has not', setup: running, files: true },
  { name: 'running-refused', about: 'what a running PV guest has not', setup: running },
  { name: 'create-refused', about: 'create of what is not there', setup: [], domid: 8, files: true },
  { name: 'create-odd', about: 'create with what is there twice, unknown, or out of range', setup: [], domid: 2, files: true },
  {
    name: 'disks',
    about: 'disks of all kinds come and go, until the guest is shut down',
    setup: running,
    domid: 15,
    files: true,
  },
  { name: 'file-image', about: 'a disk that is a file', setup: [], domid: 24, files: true },
  { name: 'preserve', about: 'a guest that is kept when it shuts down', setup: [], domid: 34 },
  {
    name: 'xenwatch-stall',
    about: 'the only watch thread hangs while a disk connects',
    setup: [],
    domid: 16,
    cmdline: '',
    logs: 'xenwatch-stall.logs.txt',
    writes: {
      file: 'xenwatch-stall.writes.txt',
      connections: {
        '05-block-attach-other': '#6',
        '06-network-attach-other': '#8',
        '07-create-third': '#9',
        '08-create-third-vvv': '#12',
        '09-block-detach-other': '#13',
        '10-shutdown-w-other': '#14',
        '12-destroy-stall': '#17',
        '13b-list-l': '#21',
        '14-destroy-stall-again': '#22',
      },
    },
    before: {
      // The host had not been asked yet what dom0 has.
      '00-create-other': 'xenstore rm /local/domain/0/memory',
      '02-unpause': 'xwstall hold vbd-17-51712 --connect',
      '18-list-after-resume': 'xwstall flush',
    },
  },
  { name: 'paused', about: 'what shows a paused guest, and its end', setup: paused, domid: 4 },
];

/** What ours differ in, and why. */
const differs: readonly { readonly why: string; readonly which: (recording: Recording, session: string) => boolean }[] = [
  {
    why: 'xl 4.17 ends by SIGSEGV when the hypervisor refuses a parameter',
    which: ({ argv, exit }) => argv?.[0] === 'set-parameters' && exit === 139,
  },
  {
    why: 'a kernel is not read, and so has no segments: it fits',
    which: ({ name }) => name.startsWith('create-p-memory64') || name === 'create-too-little-memory',
  },
];

/** Whether a guest starts up after it. */
function boots({ argv, exit }: Recording): boolean {
  const command = argv && commandOf(argv);
  return (
    exit === 0 && command !== undefined && ['create', 'restore', 'reboot', 'unpause'].includes(command) && !argv?.includes('-p')
  );
}

/** How ours differs from a recording. What only looks is asked again for a while: a domain's end takes its time. */
async function compared(xl: Xl, recording: Recording, patient = true): Promise<string> {
  const { argv = [], exit } = recording;
  const differed = async () => difference(recording, await xl(argv));
  const looks = patient && looking.test(commandOf(argv) ?? '') && exit === 0;
  let found = await differed();
  for (let again = 0; found !== '' && looks && again < looksMax; again += 1) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    found = await differed();
  }
  return found;
}

async function replay(session: Session): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const xl = await prepared(session);
  try {
    for (const recording of held(session)) {
      const first = session.before?.[recording.name];
      if (first !== undefined) await must(xl, first);
      found.set(recording.name, await compared(xl, recording));
      if (boots(recording)) await idle(xl);
    }
    for (const [name, conn] of Object.entries(session.writes?.connections ?? {})) {
      const there = connectionThere(recorded(data(session.writes?.file ?? '')), conn);
      const here = await asked(xl);
      found.set(
        conn,
        here.some((units) => isDeepStrictEqual(inAnyOrder(units), inAnyOrder(there)))
          ? ''
          : `no connection asked what that of ${name} did`,
      );
    }
    for (const [name, text] of logsThere(session)) {
      const mine = readFileSync(join(xl.lab.runDir, 'log', `${name}.log`), 'utf8');
      const answer = { stdout: mine, stderr: '', exit: 0 };
      found.set(name, difference({ name, line: '', argv: [], stdout: text, stderr: '', exit: 0 }, answer));
    }
  } finally {
    await xl.close();
  }
  return found;
}

/**
 * Deadlines of two devices that are set one after the other can be over at the same moment here, and then the steps behind them
 * interleave. Their order is held on virtual time, in stall.test.ts.
 */
function inAnyOrder(units: readonly Unit[]): readonly string[] {
  return units.map((unit) => JSON.stringify(unit)).sort();
}

/** What each connection of the toolstack has changed in the store. */
async function asked(xl: Xl): Promise<Unit[][]> {
  await must(xl, 'dom0 status');
  const lines = readFileSync(traceFile(xl), 'utf8').split('\n');
  const trace = lines.filter((line) => line !== '').map((line) => JSON.parse(line) as TraceLine);
  return connections(traced(trace), 'xl', -1).map(plainUnits);
}

const traceFile = ({ lab }: Xl) => join(lab.dir, 'trace.jsonl');

/** The logs of a session's recording by their names, `xl-pv`. */
function logsThere({ logs }: Session): readonly (readonly [name: string, text: string])[] {
  if (logs === undefined) return [];
  const parts = readFileSync(here(`data/${logs}`), 'utf8').split(/^=== (.*)\n/m);
  return parts.flatMap((name, at) => (at % 2 === 1 ? [[`xl-${name}`, parts[at + 1] ?? ''] as const] : []));
}

/** The recordings of a session that the commands of the manifest can be held against. */
function held(session: Session): readonly Recording[] {
  const all = recordings(here(`data/commands/${session.name}.txt`));
  const end = all.findIndex((recording) => !isThere(recording) && changes(recording));
  return all.slice(0, end < 0 ? all.length : end).filter(isThere);
}

const directory = process.env['GOLDEN_DIR'];

if (directory === undefined) {
  describe.each(sessions)('$name: $about', (session) => {
    const all = held(session);
    const isKnown = (recording: Recording) => differs.some(({ which }) => which(recording, session.name));
    const [known, same] = [all.filter(isKnown), all.filter((recording) => !isKnown(recording))];
    let found: Map<string, string>;
    beforeAll(async () => {
      found = await replay(session);
    });

    test('has recordings, each with a name of its own', () => {
      const names = recordings(here(`data/commands/${session.name}.txt`)).map(({ name }) => name);
      expect(names.length).toBeGreaterThan(0);
      expect(names.filter((name, at) => names.indexOf(name) !== at)).toEqual([]);
    });
    for (const { name, line } of same) {
      test(`${name}: ${line}`, () => {
        expect(found.get(name)).toBe('');
      });
    }
    for (const [name, conn] of Object.entries(session.writes?.connections ?? {})) {
      test(`${name} asks what the real one does`, () => {
        expect(found.get(conn)).toBe('');
      });
    }
    for (const [name] of logsThere(session)) {
      test(`${name}.log`, () => {
        expect(found.get(name)).toBe('');
      });
    }
    for (const { name, line } of known) {
      test(`${name} differs: ${line}`, () => {
        expect(found.get(name)).not.toBe('');
      });
    }
  });
} else {
  test(`the recordings of ${directory}`, async () => {
    process.stdout.write(await report(directory));
  }, 3_600_000);
}

/** Holds ours against the recordings of a directory, and says what came of it. */
async function report(path: string): Promise<string> {
  const given = process.env['GOLDEN_SETUP'];
  const domid = Number(process.env['GOLDEN_DOMID'] ?? 1);
  const setups =
    given === undefined ? [[], running, paused, [...running, 'pause pv']] : [given.split(';').map((line) => line.trim())];
  const before = Object.fromEntries(
    (process.env['GOLDEN_BEFORE'] ?? '').split(';').map((each) => {
      const [name = '', ...line] = each.trim().split('=');
      return [name, line.join('=')];
    }),
  );
  const made: (Xl | undefined)[] = [];
  const lines: string[] = [];
  let matches = 0;
  let skipped = 0;
  const all = recordings(path);
  const once = given !== undefined;
  for (const recording of all) {
    const { argv, name, line } = recording;
    const command = argv && commandOf(argv);
    if (argv === undefined || !isThere(recording)) {
      lines.push(`skipped ${name}: ${line}`);
      skipped += 1;
      continue;
    }
    let least: string | undefined;
    for (const [index, setup] of setups.entries()) {
      made[index] ??= await fresh(
        setup.filter((each) => each !== ''),
        domid,
        path,
      );
      const xl = made[index] as Xl;
      const asRecorded = given === undefined && command?.startsWith('help') ? withoutDescriptions : (text: string) => text;
      const first = once ? before[name] : undefined;
      if (first !== undefined) await must(xl, first);
      const differed = await compared(xl, { ...recording, stdout: asRecorded(recording.stdout) }, once);
      if (boots(recording)) await idle(xl);
      if (least === undefined || differed.length < least.length) least = differed;
      if (!once && command !== undefined && !looking.test(command)) {
        await xl.close();
        made[index] = undefined;
      }
      if (differed === '') break;
    }
    if (least === '') matches += 1;
    lines.push(least === '' ? `ok      ${name}: ${line}` : `DIFFERS ${name}: ${line}\n${least}\n`);
  }
  await Promise.all(made.map((xl) => xl?.close()));
  return `${lines.join('\n')}\n${matches} match, ${all.length - matches - skipped} differ, ${skipped} skipped\n`;
}

async function fresh(setup: readonly string[], domid: number, path: string): Promise<Xl> {
  const cmdline = process.env['GOLDEN_CMDLINE'];
  const files = process.env['GOLDEN_FILES'] !== undefined;
  const xl = await prepared({ setup, domid, files, ...(cmdline === undefined ? {} : { cmdline }) });
  for (const from of [path, join(path, 'cfg'), join(path, '..', 'cfg')]) {
    if (!existsSync(from) || from.endsWith('.txt')) continue;
    for (const name of readdirSync(from)) if (name.endsWith('.cfg')) cpSync(join(from, name), join(xl.lab.dir, name));
  }
  return xl;
}
