/**
 * What can be read about the commands outside of them: the man pages and the table of what this xl covers, made from
 * the table of commands that the argv layer works by. Pure; `npm run docs` writes the files.
 */

import { knownKeys } from '../libxl/lint.js';
import { useless } from '../libxl/unmodelled.js';
import { type CommandSpec, commandUsage, hasLong, type Table, xlCommands } from './argv.js';

function xls(table: Table): CommandSpec[] {
  return xlCommands.flatMap((name) => table.commands[name] ?? []);
}

function ours(table: Table): CommandSpec[] {
  return Object.values(table.commands)
    .filter((spec) => !xlCommands.includes(spec.id) && !spec.hidden)
    .sort((a, b) => (a.id < b.id ? -1 : 1));
}

// ---- docs/coverage.md

/** Every command of xl 4.17: whether it is there, and what of it is not. */
export function coveragePage(table: Table): string {
  const rows = xlCommands.map((name) => {
    const declined = table.declined[name];
    const spec = table.commands[name];
    if (declined) return [name, 'declined', `there is no ${declined.missing}`];
    if (!spec) return [name, 'missing', ''];
    return [name, spec.xl?.notModelled ? 'in part' : 'yes', spec.xl?.notModelled ?? ''];
  });
  const count = (state: string) => rows.filter(([, each]) => each === state).length;
  return `# What this \`xl\` covers

Made by \`npm run docs\` from the table of commands; a test holds it against that table.

Of the ${xlCommands.length} subcommands of xl 4.17, ${count('yes')} are there, ${count('in part')} in part, and ${count('declined')} are declined: they need
hardware or a device model, are listed by \`xl help\`, and answer \`xl: COMMAND is not available on an embedded dom0\` with
exit code 1.${count('missing') > 0 ? ` ${count('missing')} are missing.` : ''}

${markdownTable(['Command', 'There', 'Not modelled'], rows)}
Beside them there are, of our own:

${markdownTable(
  ['Command', 'What it does'],
  ours(table).map((spec) => [spec.id.replaceAll(':', ' '), spec.summary ?? '']),
)}
## Keys of xl.cfg

All ${knownKeys.size} keys that xl of 4.17 looks up are read, for PV, PVH and HVM guests, with its checks and complaints, and a dry run
prints what xl prints. Of these nothing follows when a domain is made, or none is made with them:

${markdownTable(
  ['Key', 'What'],
  [...knownKeys].flatMap((key) => {
    const why = useless(key);
    return why === undefined ? [] : [[key, why.replace(`'${key}' is `, '')]];
  }),
)}
Keys that only HVM and PVH guests have are read and checked; such guests are refused, as on a host without VMX and SVM.
`;
}

/** A table in the form that the formatter leaves alone. */
function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = [head, ...rows].map((row) => row.map((cell) => cell.replaceAll('|', '\\|')));
  const widths = head.map((_, column) => Math.max(3, ...cells.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) =>
    `| ${widths.map((width, column) => (row[column] ?? '').padEnd(width)).join(' | ')} |\n`;
  const [first = [], ...rest] = cells;
  return line(first) + line(widths.map((width) => '-'.repeat(width))) + rest.map(line).join('');
}

// ---- Man pages

/** Text for roff: backslashes and hyphens as themselves, and no line that begins as a request does. */
function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .split('\n')
    .map((line) => (/^[.']/.test(line) ? `\\&${line}` : line))
    .join('\n');
}

function heading(name: string, section: number, version: string, title: string): string {
  return `.TH ${name.toUpperCase()} ${section} "" "xl\\-mtwatch ${roff(version)}" "${title}"\n`;
}

const section = (title: string, body: string) => `.SH ${title}\n${body}`;
const paragraphs = (...texts: readonly string[]) => texts.map((text) => `.PP\n${roff(text)}\n`).join('');
const item = (tag: string, body: string) => `.TP\n.B ${roff(tag)}\n${roff(body)}\n`;

function sentence(text: string): string {
  const [line = ''] = text.split('\n');
  const first = line.charAt(0).toUpperCase() + line.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

function commandEntry(spec: CommandSpec): string {
  const usage = `${spec.id.replaceAll(':', ' ')} ${commandUsage(spec)}`.trim();
  const what = sentence(spec.description ?? spec.summary ?? '');
  const options = Object.entries(spec.flags)
    .filter(([, flag]) => !flag.hidden)
    .map(([name, flag]) => {
      const value = flag.type === 'option' ? `=${String(flag.helpValue ?? name.toUpperCase())}` : '';
      const long = hasLong(spec, name) ? [`--${name}${value}`] : [];
      const short = flag.char ? [`-${flag.char}`] : [];
      return item([...short, ...long].join(', '), sentence(flag.description ?? ''));
    });
  const notModelled = spec.xl?.notModelled ? `.IP\n${roff(`Not modelled: ${sentence(spec.xl.notModelled)}`)}\n` : '';
  const list = options.length > 0 ? `.RS\n${options.join('')}.RE\n` : '';
  return `.TP\n.B ${roff(usage)}\n${roff(what)}\n${notModelled}${list}`;
}

/** xl(1): every command with its options, where things are, and how commands end. */
export function xlPage(table: Table, version: string): string {
  const declined = xlCommands.filter((name) => table.declined[name]).join(', ');
  return [
    heading('xl', 1, version, 'Xen'),
    section('NAME', `xl \\- ${roff('Xen management tool, with a dom0 that is embedded')}\n`),
    section('SYNOPSIS', `.B xl\n[\\-vfNtT] \\fIsubcommand\\fR [\\fIargs\\fR]\n`),
    section(
      'DESCRIPTION',
      paragraphs(
        'This xl takes the commands, options and files of the xl of Xen 4.17, prints what that prints, and ends as that ends. Behind it is no hypervisor but a model of one, with a dom0 kernel, guests and a XenStore server in one process. The first command that needs it starts it.',
        'A command may be shortened to a beginning that no other has. Options of a command stand before its operands. Those of ours, and create, take them anywhere.',
      ),
    ),
    section(
      'OPTIONS',
      [
        item('-v', 'Print more of what libxl does; given more than once, still more.'),
        item('-f', 'Force; it has no effect left in xl.'),
        item('-N', 'Dry run: print what would be done. Few commands have it.'),
        item('-t', 'Accepted for the sake of scripts; no operation here shows its progress in that way.'),
        item('-T', "Put the time and the process before each line of libxl's log."),
      ].join(''),
    ),
    section('COMMANDS OF XL', xls(table).map(commandEntry).join('')),
    section(
      'COMMANDS THAT ARE DECLINED',
      paragraphs(`They need what an embedded dom0 has not, say so, and end with exit code 1: ${declined}.`),
    ),
    section('COMMANDS OF THE EMBEDDED DOM0', ours(table).map(commandEntry).join('')),
    section(
      'ENVIRONMENT',
      [
        item(
          'XL_RUN_DIR',
          'The run directory: sockets, log, saved configurations. Default: xl in XDG_RUNTIME_DIR, else one of the user in the directory for temporary files. Two run directories are two hosts.',
        ),
        item('XL_DOM0_ARGS', 'Arguments for a dom0 that a command starts, as for xl dom0 start.'),
        item('XL_DOM0_AUTOSTART', '0: no command starts a dom0; it says how to.'),
        item('XL_TIMEOUT_SCALE', "What libxl's waits are multiplied by."),
        item(
          'XENSTORED_PATH',
          "Where XenStore clients connect. Another store than dom0's own limits xl to what the store tells.",
        ),
        item('XEN_CONFIG_DIR', 'Where xl.conf is; without it there is none.'),
        item('XEN_SCRIPT_DIR', 'Where hotplug scripts are looked for that are to run for real.'),
        item('NO_COLOR', 'No colours on a terminal.'),
      ].join(''),
    ),
    section(
      'EXIT STATUS',
      [
        item('0', 'Done. pause, unpause, trigger, sysrq, suspend and resume end so even where libxl failed, as they do in xl.'),
        item('1', 'It failed, or a configuration or a specification is not right.'),
        item('2', 'It was not used as its help says.'),
        item('3, 6', "create: libxl's error number."),
      ].join(''),
    ),
    section('SEE ALSO', `.BR xl\\-mtwatch (7)\n`),
  ].join('');
}

/** xl-mtwatch(7): what it is, what it models, and what it is for. */
export function overviewPage(table: Table, version: string): string {
  const topic = (name: string) =>
    ours(table)
      .filter(({ id }) => id.startsWith(`${name}:`))
      .map((spec) => item(`xl ${spec.id.replaceAll(':', ' ')}`, sentence(spec.summary ?? '')))
      .join('');
  return [
    heading('xl-mtwatch', 7, version, 'Xen'),
    section('NAME', `xl\\-mtwatch \\- ${roff("Xen's dom0 control plane on any machine, with no hypervisor")}\n`),
    section(
      'DESCRIPTION',
      paragraphs(
        "xl-mtwatch is xl with libxl's state machines, a XenStore server that any client can use, and a model of dom0's kernel in which one watch callback that hangs stalls everything, or, with xenwatch multithreading (mtwatch), only its own domain. End-to-end tests of what uses xl and XenStore run on it without a Xen host, and stalls of xenwatch can be caused, looked at and explored.",
        'Guests execute nothing: they are models of a Linux kernel that boots, connects its devices and answers control/shutdown. Images of kernels and disks must be there, and are not looked into.',
      ),
    ),
    section(
      'THE EMBEDDED DOM0',
      paragraphs('One process for each run directory (XL_RUN_DIR), which the first command starts.') + topic('dom0'),
    ),
    section(
      'WATCH THREADS',
      paragraphs(
        "dom0's kernel command line (xl dom0 start --cmdline) chooses the design: without xen_mtwatch one xenwatch thread runs every watch callback; with it each domain that is announced below /local/domain/0/mtwatch has a thread of its own; xen_mtwatch=rfc is the algorithm as it was posted, with its defects.",
      ) + topic('mtwatch'),
    ),
    section(
      'STALLS',
      paragraphs('A held device makes the callback that takes it down, or brings it up, wait until it is let go.') +
        topic('xwstall'),
    ),
    section('XENSTORE', paragraphs("The store as Debian's xenstore-ls and its sisters show it.") + topic('xenstore')),
    section('SEE ALSO', `.BR xl (1),\n.BR xenstore\\-ls (1)\n`),
  ].join('');
}
