/**
 * The argv layer in front of oclif: what a user typed, as xl reads it, becomes the id of a command and an argv that
 * oclif cannot misread, or a text and an exit code.
 *
 * xl is getopt, not oclif: options of its own before the command, commands by unique prefix, bundled short options,
 * and its own words for every mistake. Everything here derives from oclif's manifest, so a command file says what it
 * takes once. Pure, and it imports nothing that runs: this is what starts first.
 *
 * The rules were taken from the xl of Xen 4.17. One of them surprises: glibc remembers from xl's first getopt call,
 * whose option string begins with `+`, not to look for options behind an operand. So `xl destroy web -f` ignores the
 * `-f`, and only `create` takes options behind its config file, because it steps over that file first.
 */

import type { Declined } from './declined.js';

/** A flag, as oclif's manifest has it. */
export interface FlagSpec {
  readonly type: 'boolean' | 'option';
  readonly char?: string | undefined;
  readonly description?: string | undefined;
  readonly helpValue?: string | readonly string[] | undefined;
  readonly hidden?: boolean | undefined;
  readonly multiple?: boolean | undefined;
  readonly options?: readonly string[] | undefined;
}

export interface ArgSpec {
  readonly required?: boolean | undefined;
  readonly hidden?: boolean | undefined;
  readonly multiple?: boolean | undefined;
}

/** Where xl's text or habits are fixed: the `xl` property of a command class. */
export interface XlLayout {
  /** Behind the command's name in its usage line, as xl spells it. */
  readonly usage?: string;
  /** Whether the usage line shows the global `-f`: the command changes something. */
  readonly modifies?: boolean;
  /**
   * The text below `Options:`, as xl prints it. Absent: derived from the flags. Empty: the section is left out. A blank: the
   * section is there and nothing in it.
   */
  readonly options?: string;
  /** A long name that xl takes and its help does not show. */
  readonly silentLong?: string;
  /**
   * What becomes of operands that the command has no place for. xl mostly does not look at them (`ignore`); `list`
   * prints its help (`help`); `create` takes one file and any number of `key=value` (`vars`). Ours refuse them.
   */
  readonly surplus?: 'ignore' | 'help' | 'vars';
  /** What of xl's command is not modelled, for the manual: a phrase. */
  readonly notModelled?: string;
  /**
   * `own`: the command reads its options itself, by another program's rules. It gets its words as they were typed, and
   * the flags that it has are for its help.
   */
  readonly getopt?: 'own';
  /** What the command says on stderr before it looks at its options, so that a refusal and its help have it in front. */
  readonly warning?: string;
}

/** A command, as oclif's manifest has it. */
export interface CommandSpec {
  /** `list`, `mtwatch:list`. */
  readonly id: string;
  readonly summary?: string | undefined;
  readonly description?: string | undefined;
  readonly examples?: readonly (string | { readonly command: string; readonly description: string })[] | undefined;
  readonly hidden?: boolean | undefined;
  readonly flags: Readonly<Record<string, FlagSpec>>;
  readonly args: Readonly<Record<string, ArgSpec>>;
  readonly xl?: XlLayout | undefined;
}

export interface Table {
  readonly commands: Readonly<Record<string, CommandSpec>>;
  /** What xl has and this dom0 cannot. */
  readonly declined: Readonly<Record<string, Declined>>;
  /** What a topic (`mtwatch`) is for. */
  readonly topics: Readonly<Record<string, { readonly description?: string | undefined }>>;
}

/** What to do with a command line. */
export type Plan =
  | { readonly do: 'run'; readonly id: string; readonly argv: readonly string[] }
  | { readonly do: 'print'; readonly stdout: string; readonly stderr: string; readonly exit: number };

type Refusal = Extract<Plan, { readonly do: 'print' }>;

/** The subcommands of xl 4.17, in the order of its table. Prefixes are looked up among all of them. */
export const xlCommands: readonly string[] = [
  ...['create', 'config-update', 'list', 'destroy', 'shutdown', 'reboot', 'pci-attach', 'pci-detach', 'pci-list'],
  ...['pci-assignable-add', 'pci-assignable-remove', 'pci-assignable-list', 'pause', 'unpause', 'console', 'vncviewer'],
  ...['save', 'migrate', 'restore', 'migrate-receive', 'dump-core', 'cd-insert', 'cd-eject', 'mem-max', 'mem-set'],
  ...['button-press', 'vcpu-list', 'vcpu-pin', 'vcpu-set', 'vm-list', 'info', 'sharing', 'sched-credit', 'sched-credit2'],
  ...['sched-rtds', 'domid', 'domname', 'rename', 'trigger', 'sysrq', 'debug-keys', 'set-parameters', 'dmesg', 'top'],
  ...['network-attach', 'network-list', 'network-detach', 'channel-list', 'block-attach', 'block-list', 'block-detach'],
  ...['vtpm-attach', 'vtpm-list', 'vtpm-detach', 'vkb-attach', 'vkb-list', 'vkb-detach', 'vdispl-attach', 'vdispl-list'],
  ...['vdispl-detach', 'vsnd-attach', 'vsnd-list', 'vsnd-detach', 'uptime', 'claims', 'cpupool-create', 'cpupool-list'],
  ...['cpupool-destroy', 'cpupool-rename', 'cpupool-cpu-add', 'cpupool-cpu-remove', 'cpupool-migrate'],
  ...['cpupool-numa-split', 'getenforce', 'setenforce', 'loadpolicy', 'remus', 'devd', 'psr-hwinfo', 'psr-cmt-attach'],
  ...['psr-cmt-detach', 'psr-cmt-show', 'psr-cat-set', 'psr-cat-show', 'psr-mba-set', 'psr-mba-show', 'usbctrl-attach'],
  ...['usbctrl-detach', 'usbdev-attach', 'usbdev-detach', 'usb-list', 'qemu-monitor-command'],
];

/** Commands that `quick.ts` has without oclif. */
export const quickCommands: readonly string[] = ['domid', 'domname', 'list', 'mtwatch:list'];

interface Globals {
  verbosity: number;
  dryrun: boolean;
  timestamps: boolean;
}

/** Reads a command line (without `node` and the script). */
export function plan(argv: readonly string[], table: Table): Plan {
  const globals: Globals = { verbosity: 0, dryrun: false, timestamps: false };
  const rest = readGlobals(argv, globals);
  if (typeof rest === 'string') return failure(1, `xl: invalid option -- '${rest}'\nunknown global option\n`);

  const [name, ...operands] = rest;
  if (name === undefined) return print(1, helpList(table));
  if (name === 'help') return help(operands, table);

  const found = lookup([name, ...operands], table);
  switch (found.kind) {
    case 'none':
      return failure(1, 'command not implemented\n');
    case 'topic':
      return found.wantsHelp ? print(0, topicHelp(found.topic, table)) : print(1, topicHelp(found.topic, table));
    case 'command':
      return planCommand(found.spec, found.argv, globals);
    case 'declined':
      return planDeclined(found.name, found.declined, found.argv);
  }
}

/** xl's options before the command. Answers with what is left, or with the letter that is no option. */
function readGlobals(argv: readonly string[], globals: Globals): readonly string[] | string {
  for (const [at, word] of argv.entries()) {
    if (word === '--') return argv.slice(at + 1);
    if (!word.startsWith('-') || word === '-') return argv.slice(at);
    for (const letter of word.slice(1)) {
      if (letter === 'v') globals.verbosity += 1;
      else if (letter === 'N') globals.dryrun = true;
      else if (letter === 'T') globals.timestamps = true;
      // -f and -t are accepted: forcing has no effect left in xl, and no operation here shows progress.
      else if (letter !== 'f' && letter !== 't') return letter;
    }
  }
  return [];
}

type Found =
  | { readonly kind: 'command'; readonly spec: CommandSpec; readonly argv: readonly string[] }
  | { readonly kind: 'topic'; readonly topic: string; readonly wantsHelp: boolean }
  | { readonly kind: 'declined'; readonly name: string; readonly declined: Declined; readonly argv: readonly string[] }
  | { readonly kind: 'none' };

/**
 * The command that `words` begin with. xl's own names come first, so that a prefix which scripts use for one of them
 * keeps its meaning beside our topics; a name of xl's that is not modelled here is found, and is no command.
 */
function lookup(words: readonly string[], table: Table): Found {
  const [first = '', ...rest] = words;
  const own = pick(first, xlCommands);
  if (own !== undefined || xlCommands.some((name) => name.startsWith(first))) return asCommand(own, rest, table);

  const topics = topicsOf(table);
  const plain = Object.keys(table.commands).filter((id) => !id.includes(':') && !xlCommands.includes(id));
  const name = pick(first, [...topics, ...plain]);
  if (name === undefined || !topics.includes(name)) return asCommand(name, rest, table);

  const [second, ...operands] = rest;
  if (second === undefined) return { kind: 'topic', topic: name, wantsHelp: false };
  if (second === '-h' || second === '--help') return { kind: 'topic', topic: name, wantsHelp: true };
  const inTopic = Object.keys(table.commands).filter((id) => id.startsWith(`${name}:`));
  return asCommand(pick(`${name}:${second}`, inTopic), operands, table);
}

function asCommand(id: string | undefined, argv: readonly string[], table: Table): Found {
  const declined = id !== undefined && Object.hasOwn(table.declined, id) ? table.declined[id] : undefined;
  if (id !== undefined && declined) return { kind: 'declined', name: id, declined, argv };
  const spec = id !== undefined && Object.hasOwn(table.commands, id) ? table.commands[id] : undefined;
  return spec ? { kind: 'command', spec, argv } : { kind: 'none' };
}

/** The name itself, or the only one that it is the beginning of. */
function pick(name: string, among: readonly string[]): string | undefined {
  if (among.includes(name)) return name;
  const matches = among.filter((candidate) => candidate.startsWith(name));
  return matches.length === 1 ? matches[0] : undefined;
}

function topicsOf(table: Table): string[] {
  const topics = Object.keys(table.commands).flatMap((id) => (id.includes(':') ? [id.slice(0, id.indexOf(':'))] : []));
  return [...new Set(topics)].sort();
}

/** `mtwatch list` for `mtwatch:list`. */
function spoken(spec: CommandSpec): string {
  return spec.id.replaceAll(':', ' ');
}

function planCommand(spec: CommandSpec, argv: readonly string[], globals: Globals): Plan {
  const canDryrun = Object.hasOwn(spec.flags, 'dryrun');
  if (globals.dryrun && !canDryrun) return failure(1, 'command does not implement -N (dryrun) option\n');
  if (layoutOf(spec).getopt === 'own') {
    const dryrun = globals.dryrun ? ['--dryrun'] : [];
    return { do: 'run', id: spec.id, argv: [...dryrun, ...globalFlags(globals), '--', ...argv] };
  }

  const read = getopt(spec, argv);
  const warning = layoutOf(spec).warning ?? '';
  if (read.kind === 'help') return { ...print(0, commandHelp(spec)), stderr: warning };
  if (read.kind === 'bad') return failure(2, `${warning}option \`${read.option}' not supported.\n`);

  const complaint = checkOperands(spec, read.operands, read.values.has('defconfig') && !read.steppedOver);
  if (complaint) return { ...complaint, stderr: warning + complaint.stderr };

  const values = new Map(read.values);
  if (globals.dryrun) values.set('dryrun', [true]);
  const flags = [...values].flatMap(([name, each]) => each.map((value) => (value === true ? `--${name}` : `--${name}=${value}`)));
  flags.push(...globalFlags(globals));
  const places = Object.keys(spec.args).length;
  const operands = layoutOf(spec).surplus === 'vars' ? read.operands : read.operands.slice(0, places);
  const manyAtEnd = Object.values(spec.args).at(-1)?.multiple === true;
  return { do: 'run', id: spec.id, argv: [...flags, '--', ...(manyAtEnd ? read.operands : operands)] };
}

function planDeclined(name: string, declined: Declined, [first]: readonly string[]): Plan {
  if (first === '-h' || first === '--help') return print(0, declinedHelp(name, declined));
  return failure(1, `xl: ${notAvailable(name)}\n`);
}

function notAvailable(name: string): string {
  return `${name} is not available on an embedded dom0`;
}

/** The usage of a command that is declined, and why it is. */
function declinedHelp(name: string, { summary, usage, modifies, missing }: Declined): string {
  const head = `Usage: xl [-vtT${modifies ? 'f' : ''}] ${name} ${usage}\n\n${sentence(summary)}\n\n`;
  return `${head}${notAvailable(name)}. There is no ${missing}.\n`;
}

/** The options before the command, as every command takes them. */
function globalFlags({ verbosity, timestamps }: Globals): string[] {
  return [...(verbosity > 0 ? [`--verbosity=${verbosity}`] : []), ...(timestamps ? ['--timestamps'] : [])];
}

/** A command of ours has no fixed text, and refuses what it has no place for. */
function layoutOf(spec: CommandSpec): XlLayout {
  return spec.xl ?? {};
}

function isXls(spec: CommandSpec): boolean {
  return xlCommands.includes(spec.id);
}

type Getopt =
  | {
      readonly kind: 'ok';
      /** By the flag's long name; the last one counts, unless the flag may be given more than once. */
      readonly values: ReadonlyMap<string, readonly (string | true)[]>;
      readonly operands: readonly string[];
      /** Whether the first operand stood before the options as create's file, which `-f` replaces. */
      readonly steppedOver: boolean;
    }
  | { readonly kind: 'help' }
  | { readonly kind: 'bad'; readonly option: string };

/** getopt_long(3) with the flags of one command. `-h` and `--help` are everybody's. */
function getopt(spec: CommandSpec, argv: readonly string[]): Getopt {
  const flags = Object.entries(spec.flags).filter(([, flag]) => !flag.hidden);
  const values = new Map<string, (string | true)[]>();
  const operands: string[] = [];
  const stops = isXls(spec);
  const words = [...argv];

  const set = (name: string, flag: FlagSpec, value: string | true) => {
    // How often an option without a value was given is the command's to count.
    values.set(name, flag.multiple || value === true ? [...(values.get(name) ?? []), value] : [value]);
  };

  // create steps over its file before it looks for options.
  const [leading] = words;
  if (layoutOf(spec).surplus === 'vars' && leading !== undefined && !leading.startsWith('-') && !leading.includes('=')) {
    operands.push(leading);
    words.shift();
  }
  const steppedOver = operands.length > 0;

  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    if (word === '--') {
      operands.push(...words);
      break;
    }
    if (!word.startsWith('-') || word === '-') {
      operands.push(word);
      if (!stops) continue;
      operands.push(...words);
      break;
    }
    if (word.startsWith('--')) {
      const equals = word.indexOf('=');
      const typed = equals < 0 ? word.slice(2) : word.slice(2, equals);
      const given = equals < 0 ? undefined : word.slice(equals + 1);
      const name = pick(typed, [...flags.filter(([name]) => hasLong(spec, name)).map(([name]) => name), 'help']);
      if (name === 'help' && given === undefined) return { kind: 'help' };
      const flag = name === undefined ? undefined : spec.flags[name];
      // getopt has no letter to name here, and xl prints a NUL in its place. We name the option behind it.
      if (name === undefined || !flag) return { kind: 'bad', option: `\0--${typed}` };
      if (flag.type === 'boolean') {
        if (given !== undefined) return { kind: 'bad', option: flag.char ?? `--${name}` };
        set(name, flag, true);
      } else {
        const value = given ?? words.shift();
        if (value === undefined) return { kind: 'bad', option: flag.char ?? `--${name}` };
        set(name, flag, value);
      }
      continue;
    }
    for (let at = 1; at < word.length; at++) {
      const letter = word.charAt(at);
      const entry = flags.find(([, flag]) => flag.char === letter);
      if (!entry) return letter === 'h' ? { kind: 'help' } : { kind: 'bad', option: letter };
      const [name, flag] = entry;
      if (flag.type === 'boolean') {
        set(name, flag, true);
        continue;
      }
      const value = at + 1 < word.length ? word.slice(at + 1) : words.shift();
      if (value === undefined) return { kind: 'bad', option: letter };
      set(name, flag, value);
      break;
    }
  }
  return { kind: 'ok', values, operands, steppedOver };
}

/**
 * Whether a flag may be given by its long name. Some of xl's options are a letter alone, and its help shows which; a
 * name of ours for one must not take a unique prefix away from another.
 */
export function hasLong(spec: CommandSpec, name: string): boolean {
  const { usage = '', options, silentLong } = layoutOf(spec);
  const isShown = options === undefined || `${usage}\n${options}`.includes(`--${name}`);
  return spec.flags[name]?.char === undefined || isShown || silentLong === name;
}

/** What is wrong with the number of operands, if anything is. */
function checkOperands(spec: CommandSpec, operands: readonly string[], hasFile: boolean): Refusal | undefined {
  const layout = layoutOf(spec);
  const args = Object.values(spec.args);
  const needed = args.filter((arg) => arg.required).length;
  const places = args.at(-1)?.multiple ? Number.POSITIVE_INFINITY : args.length;
  const name = spoken(spec);
  if (operands.length < needed) {
    const message = `'xl ${name}' requires at least ${needed} argument${needed > 1 ? 's' : ''}.\n\n`;
    return { do: 'print', stdout: commandHelp(spec), stderr: message, exit: 2 };
  }
  if (layout.surplus === 'vars') {
    const files = operands.filter((operand) => !operand.includes('=')).length + (hasFile ? 1 : 0);
    return files > 1 ? print(2, commandHelp(spec)) : undefined;
  }
  if (operands.length <= places || layout.surplus === 'ignore') return undefined;
  if (layout.surplus === 'help') return print(1, commandHelp(spec));
  if (isXls(spec)) return undefined;
  const message =
    places === 0
      ? `'xl ${name}' takes no arguments.\n\n`
      : `'xl ${name}' takes at most ${places} argument${places > 1 ? 's' : ''}.\n\n`;
  return { do: 'print', stdout: commandHelp(spec), stderr: message, exit: 2 };
}

function help(words: readonly string[], table: Table): Plan {
  const [name, second] = words;
  if (name === undefined || name === 'help') return print(0, helpList(table));
  const found = lookup(second === undefined ? [name] : [name, second], table);
  if (found.kind === 'command') return print(0, commandHelp(found.spec));
  if (found.kind === 'declined') return print(0, declinedHelp(found.name, found.declined));
  if (found.kind === 'topic') return print(0, topicHelp(found.topic, table));
  return print(0, `command "${words.join(' ')}" not implemented\n`);
}

/** `xl help`: xl's commands in xl's order, then ours. */
export function helpList(table: Table): string {
  const xls = xlCommands.flatMap((name) => {
    const summary = table.declined[name]?.summary ?? table.commands[name]?.summary;
    return summary === undefined ? [] : [listLine(name, summary)];
  });
  const ours = Object.values(table.commands)
    .filter((spec) => !isXls(spec) && !spec.hidden)
    .sort((a, b) => (a.id < b.id ? -1 : 1))
    .map((spec) => listLine(spoken(spec), spec.summary ?? ''));
  const head = 'Usage xl [-vfNtT] <subcommand> [args]\n\nxl full list of subcommands:\n\n';
  return `${head}${xls.join('')}\nand of this dom0, which is embedded:\n\n${ours.join('')}`;
}

function listLine(name: string, summary: string): string {
  const gap = name.length > 19 ? `\n${' '.repeat(21)}` : '';
  return ` ${name.padEnd(19)} ${gap}${summary}\n`;
}

function topicHelp(topic: string, table: Table): string {
  const inTopic = Object.values(table.commands).filter((spec) => spec.id.startsWith(`${topic}:`) && !spec.hidden);
  const what = table.topics[topic]?.description;
  const lines = inTopic.sort((a, b) => (a.id < b.id ? -1 : 1)).map((spec) => listLine(spoken(spec), spec.summary ?? ''));
  return `Usage: xl [-vtT] ${topic} <subcommand> [args]\n\n${what ? `${sentence(what)}\n\n` : ''}${lines.join('')}`;
}

/** `xl help CMD`, in xl's layout. Ours have their examples below it. */
export function commandHelp(spec: CommandSpec): string {
  const layout = layoutOf(spec);
  const globals = `-vtT${layout.modifies ? 'f' : ''}${Object.hasOwn(spec.flags, 'dryrun') ? 'N' : ''}`;
  const usage = commandUsage(spec);
  const options = layout.options ?? derivedOptions(spec);
  // xl puts its full stop behind one that is there, and a blank before a usage that is none.
  const what = isXls(spec) ? `${spec.summary}.` : sentence(spec.description ?? spec.summary ?? '');
  const examples = isXls(spec) ? '' : derivedExamples(spec);
  const head = `Usage: xl [${globals}] ${spoken(spec)}${usage || isXls(spec) ? ` ${usage}` : ''}\n\n${what}\n\n`;
  return `${head}${options ? `Options:\n\n${options.trimEnd() && options}\n` : ''}${examples ? `${options ? '\n' : ''}Examples:\n\n${examples}` : ''}`;
}

function sentence(text: string): string {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

/** What stands behind a command's name in its usage line. */
export function commandUsage(spec: CommandSpec): string {
  return layoutOf(spec).usage ?? derivedUsage(spec);
}

function derivedUsage(spec: CommandSpec): string {
  const options = Object.values(spec.flags).some((flag) => !flag.hidden) ? ['[options]'] : [];
  const args = Object.entries(spec.args)
    .filter(([, arg]) => !arg.hidden)
    .map(([name, arg]) => `${arg.required ? `<${spelt(name)}>` : `[${spelt(name)}]`}${arg.multiple ? '...' : ''}`);
  return [...options, ...args].join(' ');
}

/** `ConfigFile` for `config-file`, as xl spells operands. */
function spelt(name: string): string {
  return name.replace(/(?:^|-)([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function derivedOptions(spec: CommandSpec): string {
  const lines = Object.entries(spec.flags)
    .filter(([, flag]) => !flag.hidden)
    .map(([name, flag]) => {
      const value = flag.type === 'option' ? `=${String(flag.helpValue ?? name.toUpperCase())}` : '';
      return optionLine(`${flag.char ? `-${flag.char}, ` : ''}--${name}${value}`, flag.description ?? '');
    });
  return lines.length > 0 ? [...lines, optionLine('-h, --help', 'print this help')].join('\n') : '';
}

function optionLine(option: string, text: string): string {
  return option.length < 24 ? `${option.padEnd(24)}${text}` : `${option}\n${' '.repeat(24)}${text}`;
}

function derivedExamples(spec: CommandSpec): string {
  const lines = (spec.examples ?? []).map((example) => {
    const command = typeof example === 'string' ? example : example.command;
    const text = typeof example === 'string' ? '' : `    ${example.description}\n`;
    return `  ${command.replace('<%= config.bin %>', 'xl')}\n${text}`;
  });
  return lines.join('');
}

function print(exit: number, stdout: string): Refusal {
  return { do: 'print', stdout, stderr: '', exit };
}

function failure(exit: number, stderr: string): Refusal {
  return { do: 'print', stdout: '', stderr, exit };
}

/** `XL_TIMEOUT_SCALE`, what libxl's waits are multiplied by: a number over 0, else the words that refuse it. */
export function parseTimeoutScale(text: string | undefined): number | string {
  if (!text) return 1;
  const scale = Number(text);
  return Number.isFinite(scale) && scale > 0 ? scale : `XL_TIMEOUT_SCALE is ${text}; it must be a number over 0, like 0.05`;
}
