/**
 * Recordings of xl commands on a real host, what about them is of that run alone, and how ours are held against them.
 *
 * A recording is `$ command line` (as bash quotes it), `--- exit status: N`, `--- stdout` and the bytes, `--- stderr` and
 * the bytes. Whoever recorded added a newline that was missing at the end of stdout. A file has one, or many that begin
 * with `=== name`, in the order in which they were made.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Answer {
  /** Bytes, as latin1. */
  readonly stdout: string;
  readonly stderr: string;
  readonly exit: number;
}

export interface Recording extends Answer {
  readonly name: string;
  readonly line: string;
  /** Behind `xl`; undefined when the line is more than one xl command. */
  readonly argv: readonly string[] | undefined;
}

/** The recordings of a file, or of all the files of a directory in the order of their names. */
export function recordings(path: string): readonly Recording[] {
  if (!existsSync(path)) throw new Error(`there is no ${path}`);
  const texts = path.endsWith('.txt')
    ? [{ name: '', text: readFileSync(path, 'latin1') }]
    : readdirSync(path)
        .filter((name) => name.endsWith('.txt'))
        .sort()
        .map((name) => ({ name: name.slice(0, -'.txt'.length), text: readFileSync(join(path, name), 'latin1') }));
  return texts.flatMap(({ name, text }) => {
    if (text.startsWith('$ ')) return one(name, text);
    const parts = text.split(/^=== (.*)\n/m).slice(1);
    return parts.flatMap((each, index) => (index % 2 === 0 ? one(each, parts[index + 1] ?? '') : []));
  });
}

function one(name: string, text: string): Recording[] {
  const found = /^\$ ?(.*)\n--- exit status: (\d+)\n--- stdout\n([\s\S]*?)--- stderr\n([\s\S]*)$/.exec(text);
  if (!found) return [];
  const [, line = '', exit, stdout = '', stderr = ''] = found;
  // Whoever recorded made sure of an end.
  const [program, ...argv] = words(line.replace(/^timeout \d+ /, '')) ?? [];
  return [{ name, line: `$ ${line}`, argv: program === 'xl' ? argv : undefined, stdout, stderr, exit: Number(exit) }];
}

/** The words of a command line as bash prints them with %q; undefined when it is a pipe or a list. */
export function words(line: string): string[] | undefined {
  const found: string[] = [];
  const word = /\s*((?:\$'(?:[^'\\]|\\.)*'|'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s'"\\|<>;&$])+)/y;
  let end = 0;
  for (;;) {
    word.lastIndex = end;
    const match = word.exec(line);
    if (!match) break;
    end = word.lastIndex;
    found.push(
      (match[1] ?? '').replace(
        /\$'((?:[^'\\]|\\.)*)'|'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)/g,
        (_, ansi?: string, single?: string, double?: string, escaped?: string) =>
          escaped ??
          single ??
          double?.replace(/\\(["\\$`])/g, '$1') ??
          (ansi ?? '').replace(/\\n/g, '\n').replace(/\\(.)/g, '$1'),
      ),
    );
  }
  return line.slice(end).trim() === '' ? found : undefined;
}

/**
 * What is of one run alone. Each takes the run's own value out of a text, the column that it stands in included, so
 * that it reads the same on both sides.
 */
export const normalisations: readonly { readonly name: string; readonly of: (text: string) => string }[] = [
  {
    name: 'what follows a NUL: the recorder kept the output in a variable of bash, which ends there',
    of: (text) => text.replace(/\0[\s\S]*$|(?<=option `)$/, '\n'),
  },
  { name: "xl's own path", of: (text) => text.replaceAll('/usr/lib/xen-4.17/bin/xl:', 'xl:') },
  {
    name: 'uuids',
    of: (text) =>
      text.replace(
        /\b(?!00000000-0000-0000-0000-000000000000)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/g,
        'UUID',
      ),
  },
  {
    name: 'MAC addresses that were drawn; those that were given begin with zeroes behind 00:16:3e',
    of: (text) => text.replace(/\b00:16:3e:(?!00:00)(?:[0-9a-f]{2}:){2}[0-9a-f]{2}\b/g, '00:16:3e:DR:AW:N!'),
  },
  { name: 'seconds of CPU time, in their column', of: (text) => text.replace(/ +\d+\.\d(?=\s|$)/gm, ' SECONDS') },
  {
    name: "a vCPU's processor and state at that moment",
    of: (text) => text.replace(/^(.{32} +\d+ +\d+) +(?:\d+|-) +(?:[r-][b-][p-])(?= )/gm, '$1 CPU STATE'),
  },
  { name: 'uptimes', of: (text) => text.replace(/ (?:\d+ days?, )? ?\d+:\d\d(?::\d\d)?(?=,|\s|$)/gm, ' UPTIME') },
  { name: 'time stamps', of: (text) => text.replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'DATE') },
  { name: 'pids', of: (text) => text.replace(/\[\d+\]/g, '[PID]').replace(/\bpid \d+/g, 'pid PID') },
  {
    name: 'event channels and ring references of a device list',
    of: (text) =>
      text
        .replace(/^(\d+ +\d+ +\d+ +\d+) +\d+ +\d+ +(?=\/local)/gm, '$1 PORT RING ')
        .replace(/^(\d+ +\d+ +[0-9a-f:]{17} +\d+ +\d+) +-?\d+ +-?\d+ *\/ *-?\d+ +/gm, '$1 PORT RINGS '),
  },
  { name: 'event channels, ports and machine frames of the log', of: (text) => text.replace(/\b0x[0-9a-f]{5,}\b/g, 'ADDRESS') },
  {
    name: 'our own commands behind those of xl',
    of: (text) => (text.startsWith('Usage xl [') ? text.replace(/\nand of this dom0[\s\S]*/, '') : text),
  },
  {
    name: 'what is free, and what the machine is',
    of: (text) =>
      text.replace(
        /^(host|release|version|machine|cpu_mhz|hw_caps|virt_caps|free_memory|outstanding_claims|cc_\w+|xen_commandline|xen_changeset|build_id|xend_config_format|sharing_\w+) *:.*$/gm,
        '$1: OF THE MACHINE',
      ),
  },
];

/** Lines of `-vvv` that ours has not: what they count or show is not there. */
const leftOut: readonly { readonly what: string; readonly line: RegExp }[] = [
  { what: "libxc's building of a domain: a kernel is not read", line: /^(domainbuilder|xc): (detail|debug|progress): / },
  { what: 'operations and their pollers, by address', line: /:(Domain \d+:)? ?ao 0x[0-9a-f]+: / },
  { what: 'watches and their slots, by address', line: / watch w=0x[0-9a-f]+/ },
  { what: 'the child that waits until a domain is gone', line: /:devices_destroy_cb: Domain \d+:Forked pid / },
  { what: "libxencall's buffers", line: /^xencall:buffer: debug: / },
];

/** The log without what ours has not. */
function withoutLeftOut(text: string): string {
  return text
    .split('\n')
    .filter((each) => !leftOut.some(({ line }) => line.test(each.replace(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+ \[\d+\] /, ''))))
    .join('\n');
}

export function normalised(text: string): string {
  return normalisations.reduce((so, { of }) => of(so), text);
}

/** In place of the descriptions of options in a help text of the data: they are xl's own words, and ours differ. */
export const ellipsis = '...';

/** A help text without the descriptions of its options: names, order and the rest stay. */
export function withoutDescriptions(text: string): string {
  if (!/^Usage: xl \[/.test(text)) return text;
  let inOptions = false;
  return text
    .split('\n')
    .flatMap((line) => {
      if (line.endsWith(` ${ellipsis}`)) return [line];
      if (line === 'Options:') inOptions = true;
      if (line === 'Examples:') inOptions = false;
      const option = /^ *(-.*?|".*?":|(?<=^ {4})\w+(?= +- ))(?= {2,}(?![ -])| [A-Z][a-z]|$| +- )/.exec(line);
      if (option && line.startsWith('-')) return [`${(option[1] ?? '').replace(/ {2,}/g, ' ')} ${ellipsis}`];
      if (!inOptions || line === '' || line === 'Options:') return [line];
      return option ? [`${option[1]} ${ellipsis}`] : [];
    })
    .join('\n');
}

/** How an answer differs from a recording: '' when it does not. */
export function difference(recording: Recording, answer: Answer): string {
  const lines: string[] = [];
  const help = withoutDescriptions(recording.stdout) === recording.stdout;
  const read = (text: string) => normalised(help ? withoutDescriptions(text) : text);
  const ending = (text: string) => (text === '' || text.endsWith('\n') ? text : `${text}\n`);
  if (recording.exit !== answer.exit) lines.push(`-exit status ${recording.exit}`, `+exit status ${answer.exit}`);
  for (const [name, theirs, ours] of [
    ['stdout', read(recording.stdout), read(ending(answer.stdout))],
    ['stderr', normalised(withoutLeftOut(recording.stderr)), normalised(withoutLeftOut(answer.stderr))],
  ] as const) {
    if (theirs !== ours) lines.push(name, ...lineDiff(theirs.split('\n'), ours.split('\n')));
  }
  return lines.join('\n');
}

/** A diff: `-` on theirs alone, `+` on ours alone, ` ` on both, beside a line that is not. */
function lineDiff(theirs: readonly string[], ours: readonly string[]): string[] {
  const lines = allLines(theirs, ours);
  const isOdd = (line: string | undefined) => line?.startsWith('- ') || line?.startsWith('+ ');
  return lines.filter((line, at) => isOdd(line) || isOdd(lines[at - 1]) || isOdd(lines[at + 1]));
}

function allLines(theirs: readonly string[], ours: readonly string[]): string[] {
  // Longest common subsequence, from the end.
  const common = Array.from({ length: theirs.length + 1 }, () => new Array<number>(ours.length + 1).fill(0));
  const at = (i: number, j: number) => common[i]?.[j] ?? 0;
  for (let i = theirs.length - 1; i >= 0; i -= 1) {
    for (let j = ours.length - 1; j >= 0; j -= 1) {
      const row = common[i];
      if (row) row[j] = theirs[i] === ours[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const lines: string[] = [];
  let i = 0;
  let j = 0;
  while (i < theirs.length || j < ours.length) {
    if (i < theirs.length && j < ours.length && theirs[i] === ours[j]) {
      lines.push(`  ${theirs[i]}`);
      i += 1;
      j += 1;
    } else if (i < theirs.length && (j >= ours.length || at(i + 1, j) >= at(i, j + 1))) {
      lines.push(`- ${theirs[i]}`);
      i += 1;
    } else {
      lines.push(`+ ${ours[j]}`);
      j += 1;
    }
  }
  return lines;
}
