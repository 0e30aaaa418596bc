/**
 * The argv layer against the xl of Xen 4.17: what is expected here was printed by a real one, or stands in golden/.
 * Help texts with a fixed wording are compared whole.
 */
import type { CommandSpec, Plan, Table } from '../../src/cli/argv.js';
import { plan } from '../../src/cli/argv.js';
import { declined } from '../../src/cli/declined.js';
import type { XlCommand } from '../../src/cli/xl-command.js';
import Create from '../../src/commands/create.js';
import Destroy from '../../src/commands/destroy.js';
import Dom0Start from '../../src/commands/dom0/start.js';
import Dom0Stop from '../../src/commands/dom0/stop.js';
import Domid from '../../src/commands/domid.js';
import Domname from '../../src/commands/domname.js';
import List from '../../src/commands/list.js';
import MtwatchList from '../../src/commands/mtwatch/list.js';
import MtwatchShow from '../../src/commands/mtwatch/show.js';
import Pause from '../../src/commands/pause.js';
import Shutdown from '../../src/commands/shutdown.js';
import Unpause from '../../src/commands/unpause.js';
import XenstoreRead from '../../src/commands/xenstore/read.js';
import XwstallFlush from '../../src/commands/xwstall/flush.js';
import XwstallHold from '../../src/commands/xwstall/hold.js';

const classes: Readonly<Record<string, typeof XlCommand>> = {
  create: Create,
  destroy: Destroy,
  domid: Domid,
  domname: Domname,
  list: List,
  pause: Pause,
  shutdown: Shutdown,
  unpause: Unpause,
  'dom0:start': Dom0Start,
  'dom0:stop': Dom0Stop,
  'mtwatch:list': MtwatchList,
  'mtwatch:show': MtwatchShow,
  'xenstore:read': XenstoreRead,
  'xwstall:flush': XwstallFlush,
  'xwstall:hold': XwstallHold,
};

/** What oclif's manifest says of a class. */
function specOf(id: string, of: typeof XlCommand): CommandSpec {
  const flags = { ...of.baseFlags, ...of.flags } as CommandSpec['flags'];
  const { summary, description, examples, args, xl } = of;
  return { id, summary, description, examples: examples as string[], args: args as CommandSpec['args'], flags, xl };
}

const table: Table = {
  commands: Object.fromEntries(Object.entries(classes).map(([id, of]) => [id, specOf(id, of)])),
  declined,
  topics: { mtwatch: { description: "dom0's xenwatch threads, one a domain" } },
};

/** A command line as a person types it; blanks divide, `''` is an empty word. */
const xl = (line: string): Plan => plan(line === '' ? [] : line.split(' ').map((word) => (word === "''" ? '' : word)), table);
const run = (id: string, ...argv: string[]): Plan => ({ do: 'run', id, argv });
const print = (exit: number, stdout: string, stderr = ''): Plan => ({ do: 'print', stdout, stderr, exit });

const createHelp = `Usage: xl [-vtTfN] create <ConfigFile> [options] [vars]

Create a domain from config file <filename>.

Options:

-c                      Connect to the console after the domain is created.
-d                      Enable debug messages.
-e                      Do not wait in the background for the death of the domain.
-F                      Run in foreground until death of the domain.
-f FILE, --defconfig=FILE
                     Use the given configuration file.
-h                      Print this help.
-n, --dryrun            Dry run - prints the resulting configuration
                         (deprecated in favour of global -N option).
-p                      Leave the domain paused after it is created.
-q, --quiet             Quiet.
-V, --vncviewer         Connect to the VNC display after the domain is created.
-A, --vncviewer-autopass
                        Pass VNC password to viewer via stdin.
--ignore-global-affinity-masks Ignore global masks in xl.conf.
`;

const destroyHelp = `Usage: xl [-vtTf] destroy [options] <Domain>


Terminate a domain immediately.

Options:

-f                      Permit destroying domain 0, which will only succeed
                        when run from disaggregated toolstack domain with a
                        hardware domain distinct from domain 0.
`;

const listHelp = `Usage: xl [-vtT] list [options] [Domain]


List information about all/some domains.

Options:

-l, --long              Output all VM details
-v, --verbose           Prints out UUIDs and security context
-Z, --context           Prints out security context
-c, --cpupool           Prints the cpupool the domain is in
-n, --numa              Prints out NUMA node affinity
`;

const shutdownHelp = `Usage: xl [-vtTf] shutdown [options] <-a|Domain>

Issue a shutdown signal to a domain.

Options:

-a, --all               Shutdown all guest domains.
-h                      Print this help.
-F                      Fallback to ACPI power event for HVM guests with
                        no PV drivers.
-w, --wait              Wait for guest(s) to shutdown.

`;

describe("xl's own options", () => {
  test.each([
    ['-v list', run('list', '--verbosity=1', '--')],
    ['-vvv list', run('list', '--verbosity=3', '--')],
    ['-v -vv list', run('list', '--verbosity=3', '--')],
    ['-tvf list 0', run('list', '--verbosity=1', '--', '0')],
    ['-T list', run('list', '--timestamps', '--')],
    ['-- list', run('list', '--')],
    ['-N create a.cfg', run('create', '--dryrun', '--', 'a.cfg')],
  ])('xl %s', (line, expected) => expect(xl(line)).toEqual(expected));

  test.each([
    ['-h', "xl: invalid option -- 'h'\nunknown global option\n"],
    ['-vv -Q list', "xl: invalid option -- 'Q'\nunknown global option\n"],
    ['--help', "xl: invalid option -- '-'\nunknown global option\n"],
    ['--version', "xl: invalid option -- '-'\nunknown global option\n"],
    ['-N list', 'command does not implement -N (dryrun) option\n'],
    ['-N destroy 4', 'command does not implement -N (dryrun) option\n'],
    ['- list', 'command not implemented\n'],
  ])('xl %s is refused', (line, stderr) => expect(xl(line)).toEqual(print(1, '', stderr)));

  test.each(['', '-v', '-f', '--'])('xl %s alone prints the help and fails', (line) => {
    expect(xl(line)).toEqual(
      print(
        1,
        expect.stringMatching(
          /^Usage xl \[-vfNtT\] <subcommand> \[args\]\n\nxl full list of subcommands:\n\n create {14}Create/,
        ) as never,
      ),
    );
  });
});

describe('which command', () => {
  test.each([
    ['des 1', 'destroy'],
    ['li', 'list'],
    ['unp 1', 'unpause'],
    ['shu 1', 'shutdown'],
    ['mtw l', 'mtwatch:list'],
    ['mt list', 'mtwatch:list'],
    ['xw h vif1.0', 'xwstall:hold'],
    ['dom0 sto', 'dom0:stop'],
  ])('xl %s is %s', (line, id) => expect(xl(line)).toMatchObject({ do: 'run', id }));

  test.each([
    ['l', 'list and loadpolicy begin with it, though one of them is declined'],
    ['re 1', 'restart, restore, rename and more'],
    ['doma', 'none'],
    ['dom 0', 'domid and domname'],
    ['m', "xl's own migrate and mem-set come before our mtwatch"],
    ['nosuchcommand', 'none'],
    ['mtwatch nosuch', 'none in that topic'],
    ['mtwatch:list', 'not how it is spelt'],
    ['toString', 'what every object has'],
    ['dom0 st', 'start, stop and status'],
  ])('xl %s is none: %s', (line) => expect(xl(line)).toEqual(print(1, '', 'command not implemented\n')));

  test.each([
    ['pci-list pv', 'pci-list'],
    ['g', 'getenforce'],
    ['vnc pv', 'vncviewer'],
    ['remus', 'remus'],
  ])('xl %s is declined', (line, name) => {
    expect(xl(line)).toEqual(print(1, '', `xl: ${name} is not available on an embedded dom0\n`));
  });

  test('a topic alone lists what it has, and fails as xl alone does', () => {
    const text = `Usage: xl [-vtT] mtwatch <subcommand> [args]

Dom0's xenwatch threads, one a domain.

 mtwatch list        List dom0's xenwatch threads
 mtwatch show        Show one kernel thread, its stack and what it waits for
`;
    expect(xl('mtwatch')).toEqual(print(1, text));
    expect(xl('mtwatch -h')).toEqual(print(0, text));
    expect(xl('help mtwatch')).toEqual(print(0, text));
  });
});

describe('help', () => {
  test.each([
    ['create', createHelp],
    ['destroy', destroyHelp],
    ['list', listHelp],
    ['shutdown', shutdownHelp],
    ['pause', 'Usage: xl [-vtTf] pause <Domain>\n\nPause execution of a domain.\n\n'],
    ['unpause', 'Usage: xl [-vtTf] unpause <Domain>\n\nUnpause a paused domain.\n\n'],
    ['domid', 'Usage: xl [-vtT] domid <DomainName>\n\nConvert a domain name to domain id.\n\n'],
    ['domname', 'Usage: xl [-vtT] domname <DomainId>\n\nConvert a domain id to domain name.\n\n'],
  ])('xl help %s', (name, text) => {
    expect(xl(`help ${name}`)).toEqual(print(0, text));
    expect(xl(`${name} -h`)).toEqual(print(0, text));
    expect(xl(`${name} --help`)).toEqual(print(0, text));
    expect(xl(`${name} --he 3`)).toEqual(print(0, text));
  });

  test('xl help lists the commands in the order of xl, then ours', () => {
    const planned = xl('help');
    const names =
      planned.do === 'print'
        ? planned.stdout.split('\n').flatMap((line) => /^ (\S.*?)(?: {2,}| (?=[A-Z])| $)/.exec(line)?.[1] ?? [])
        : [];
    expect(names).toEqual([
      ...['create', 'list', 'destroy', 'shutdown', 'pci-attach', 'pci-detach', 'pci-list', 'pci-assignable-add'],
      ...[
        'pci-assignable-remove',
        'pci-assignable-list',
        'pause',
        'unpause',
        'vncviewer',
        'domid',
        'domname',
        'getenforce',
        'setenforce',
      ],
      ...['loadpolicy', 'remus', 'psr-hwinfo', 'psr-cmt-attach', 'psr-cmt-detach', 'psr-cmt-show', 'psr-cat-set'],
      ...['psr-cat-show', 'psr-mba-set', 'psr-mba-show', 'qemu-monitor-command'],
      ...['dom0 start', 'dom0 stop', 'mtwatch list', 'mtwatch show', 'xenstore read', 'xwstall flush', 'xwstall hold'],
    ]);
    expect(planned).toMatchObject({ exit: 0, stderr: '' });
  });

  test('of a command that is declined it says what is missing', () => {
    const text = `Usage: xl [-vtT] pci-list <Domain>

List pass-through pci devices for a domain.

pci-list is not available on an embedded dom0. There is no PCI device to pass through.
`;
    expect(xl('help pci-list')).toEqual(print(0, text));
    expect(xl('pci-list -h')).toEqual(print(0, text));
    expect(xl('pci-list --help pv')).toEqual(print(0, text));
  });

  test.each([
    ['help nosuch', 'command "nosuch" not implemented\n'],
    ['help --long', 'command "--long" not implemented\n'],
    ['help -h', 'command "-h" not implemented\n'],
  ])('xl %s says so and succeeds', (line, stdout) => expect(xl(line)).toEqual(print(0, stdout)));

  test('a prefix will do, and what follows is not looked at', () => {
    expect(xl('help des')).toEqual(print(0, destroyHelp));
    expect(xl('help create list')).toEqual(print(0, createHelp));
  });

  test('a command of ours has its text from its own flags, arguments and examples', () => {
    expect(xl('help xwstall hold')).toEqual(
      print(
        0,
        `Usage: xl [-vtT] xwstall hold [options] <Device>

Hold a device, so that whichever xenwatch thread takes it down (or brings it up) waits until \`xl xwstall flush\`. Of vif1.0 a packet stays in flight; of vbd-1-51712 a request, or what an option says.

Options:

--connect               hang when the device connects, not when it ends
--io                    a request never gets into the block layer (default of a vbd)
--grants                pages that the guest granted for good stay in use
--bio                   a request never ends: nobody hangs, its domain remains
-h, --help              print this help

Examples:

  xl xwstall hold vif1.0
  xl xwstall hold vbd-1-51712 --connect
  xl xwstall hold vbd-1-51712 --grants
`,
      ),
    );
  });
});

describe('options of a command', () => {
  test.each([
    ['list -l pv', run('list', '--long', '--', 'pv')],
    ['list -vZ', run('list', '--verbose', '--context', '--')],
    ['list --lon 0', run('list', '--long', '--', '0')],
    ['list -- -l', run('list', '--', '-l')],
    ["list ''", run('list', '--', '')],
    ['shutdown -w -w pv', run('shutdown', '--wait', '--wait', '--', 'pv')],
    ['create -qp a.cfg', run('create', '--quiet', '--paused', '--', 'a.cfg')],
    ['create -fa.cfg', run('create', '--defconfig=a.cfg', '--')],
    ['create -nf a.cfg', run('create', '--dryrun', '--defconfig=a.cfg', '--')],
    ['create --defconfig=a.cfg', run('create', '--defconfig=a.cfg', '--')],
    ['create --de a.cfg', run('create', '--defconfig=a.cfg', '--')],
    ['create -f a -f b', run('create', '--defconfig=b', '--')],
    ['dom0 start --bridge a --bridge b', run('dom0:start', '--bridge=a', '--bridge=b', '--')],
    ["dom0 start --cmdline ''", run('dom0:start', '--cmdline=', '--')],
  ])('xl %s', (line, expected) => expect(xl(line)).toEqual(expected));

  test.each([
    ['destroy -z pv', 'z'],
    ['list -z', 'z'],
    ['list -lz', 'z'],
    ['list --long=3', 'l'],
    ['create -f', 'f'],
    ['create --defconfig', 'f'],
    ['create -z -h', 'z'],
    ['create --exit', '\0--exit'],
    ['list --bogus', '\0--bogus'],
    ['list --', undefined],
    ['pause --verbosity 3 pv', '\0--verbosity'],
    ['mtwatch list --jsn', '\0--jsn'],
  ])('xl %s', (line, option) => {
    const refused = print(2, '', `option \`${option}' not supported.\n`);
    expect(xl(line)).toEqual(option === undefined ? run('list', '--') : refused);
  });

  test("stop at the first operand in xl's own commands: what follows is an operand, and mostly ignored", () => {
    expect(xl('destroy Domain-0 -f')).toEqual(run('destroy', '--', 'Domain-0'));
    expect(xl('destroy nosuch -z')).toEqual(run('destroy', '--', 'nosuch'));
    expect(xl('list 0 -l')).toEqual(print(1, listHelp));
  });

  test('stand anywhere in ours', () => {
    expect(xl('xwstall hold vbd-1-51712 --connect')).toEqual(run('xwstall:hold', '--connect', '--', 'vbd-1-51712'));
  });

  test('of create may follow its file, because it steps over that', () => {
    expect(xl('create a.cfg -p')).toEqual(run('create', '--paused', '--', 'a.cfg'));
    expect(xl('create a.cfg -nq memory=64 a=1 memory=64')).toEqual(
      run('create', '--dryrun', '--quiet', '--', 'a.cfg', 'memory=64', 'a=1', 'memory=64'),
    );
    expect(xl('create -nq name=x a.cfg')).toEqual(run('create', '--dryrun', '--quiet', '--', 'name=x', 'a.cfg'));
  });
});

describe('a command with rules of its own', () => {
  test.each([
    ['xenstore read -x --bogus=1 /a -- -p', run('xenstore:read', '--', '-x', '--bogus=1', '/a', '--', '-p')],
    ['xenstore read', run('xenstore:read', '--')],
    ['xenstore read -h', run('xenstore:read', '--', '-h')],
    ['-vvT xen rea -v', run('xenstore:read', '--verbosity=2', '--timestamps', '--', '-v')],
    ['-N xenstore read /a', print(1, '', 'command does not implement -N (dryrun) option\n')],
  ])('gets its words as they were typed: xl %s', (line, expected) => expect(xl(line)).toEqual(expected));

  test('has help like any other', () => {
    expect(xl('help xenstore read')).toMatchObject({ exit: 0, stdout: expect.stringContaining('-p, --prefix') as string });
  });
});

describe('operands', () => {
  test.each([
    ['destroy', "'xl destroy' requires at least 1 argument.\n\n", destroyHelp],
    ['des', "'xl destroy' requires at least 1 argument.\n\n", destroyHelp],
    [
      'domid',
      "'xl domid' requires at least 1 argument.\n\n",
      'Usage: xl [-vtT] domid <DomainName>\n\nConvert a domain name to domain id.\n\n',
    ],
  ])('xl %s alone has too few', (line, stderr, stdout) => expect(xl(line)).toEqual(print(2, stdout, stderr)));

  test('xl shutdown alone is for the command to refuse', () => {
    expect(xl('shutdown')).toEqual(run('shutdown', '--'));
    expect(xl('shutdown -a 0')).toEqual(run('shutdown', '--all', '--', '0'));
  });

  test('more than xl has a place for are left alone', () => {
    expect(xl('pause 1 2 3')).toEqual(run('pause', '--', '1'));
  });

  test('more than one domain is too many for list', () => {
    expect(xl('list 0 1')).toEqual(print(1, listHelp));
  });

  test.each(['create a.cfg b.cfg', 'create name=x a.cfg -p', 'create -f b.cfg a.cfg', 'create -nq /dev/null name=z -p'])(
    'xl %s has a word that is neither the file nor an assignment',
    (line) => expect(xl(line)).toEqual(print(2, createHelp)),
  );

  test('ours refuse what they have no place for', () => {
    const planned = xl('mtwatch list 1');
    expect(planned).toMatchObject({ do: 'print', exit: 2, stderr: "'xl mtwatch list' takes no arguments.\n\n" });
    expect(xl('xwstall flush a b')).toMatchObject({ exit: 2, stderr: "'xl xwstall flush' takes at most 1 argument.\n\n" });
  });
});
