/**
 * Completion scripts for shells, from the table of commands: its names, their options, and what their operands are.
 *
 * A domain is completed by asking `xl list`, which starts no dom0 for it. Pure; the texts are printed by
 * `xl completion` and tried by the tests in real shells.
 */
import { type CommandSpec, hasLong, type Table, xlCommands } from './argv.js';

export type Shell = 'bash' | 'zsh' | 'fish';
export const shells: readonly Shell[] = ['bash', 'zsh', 'fish'];

/** What a command's operand is: shells complete two kinds of themselves. */
type Operand = 'domain' | 'file' | 'other';

interface Option {
  readonly short: string | undefined;
  readonly long: string | undefined;
  readonly takesValue: boolean;
  readonly choices: readonly string[];
  readonly text: string;
}

interface Entry {
  /** `['list']`, `['mtwatch', 'list']`. */
  readonly words: readonly string[];
  readonly summary: string;
  readonly options: readonly Option[];
  readonly operands: readonly Operand[];
}

export function completionScript(shell: Shell, table: Table): string {
  const entries = entriesOf(table);
  switch (shell) {
    case 'bash':
      return bash(entries);
    case 'zsh':
      return zsh(entries);
    case 'fish':
      return fish(entries);
  }
}

function entriesOf(table: Table): Entry[] {
  const specs = Object.values(table.commands).filter((spec) => !spec.hidden);
  const xls = xlCommands.flatMap((name) => specs.filter(({ id }) => id === name));
  const ours = specs.filter(({ id }) => !xlCommands.includes(id)).sort((a, b) => (a.id < b.id ? -1 : 1));
  return [...xls, ...ours].map(entryOf);
}

function entryOf(spec: CommandSpec): Entry {
  const options = Object.entries(spec.flags)
    .filter(([, flag]) => !flag.hidden)
    .map(([long, flag]) => ({
      short: flag.char,
      long: hasLong(spec, long) ? long : undefined,
      takesValue: flag.type === 'option',
      choices: flag.options ?? [],
      text: flag.description ?? '',
    }));
  const help = { short: 'h', long: 'help', takesValue: false, choices: [], text: 'print the help' };
  const firstLine = (spec.summary ?? '').split('\n')[0] ?? '';
  return {
    words: spec.id.split(':'),
    summary: firstLine,
    options: options.some(({ short }) => short === 'h') ? options : [...options, help],
    operands: Object.keys(spec.args).map(operandOf),
  };
}

function operandOf(name: string): Operand {
  if (name === 'domain') return 'domain';
  return /(^|-)file(name)?$/.test(name) ? 'file' : 'other';
}

function spellings({ short, long }: Option): string[] {
  return [...(short === undefined ? [] : [`-${short}`]), ...(long === undefined ? [] : [`--${long}`])];
}

/** Text within single quotes, for sh and its kin. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

const topWords = (entries: readonly Entry[]) => [...new Set([...entries.map(({ words: [first = ''] }) => first), 'help'])];
const topics = (entries: readonly Entry[]) => [
  ...new Set(entries.flatMap(({ words }) => (words.length > 1 ? [words[0] ?? ''] : []))),
];
const inTopic = (entries: readonly Entry[], topic: string) =>
  entries.flatMap(({ words }) => (words.length > 1 && words[0] === topic ? [words[1] ?? ''] : []));
const listDomains = "XL_DOM0_AUTOSTART=0 xl list 2>/dev/null | sed -e 1d -e 's/ .*//'";

function bash(entries: readonly Entry[]): string {
  const cases = entries.map((entry) => {
    const values = entry.options.filter(({ takesValue }) => takesValue);
    const choices = values.flatMap((option) =>
      option.choices.length > 0 ? [`${spellings(option).join('|')}) values=${quoted(option.choices.join(' '))} ;;`] : [],
    );
    const lines = [
      `options=${quoted(entry.options.flatMap(spellings).join(' '))}`,
      `operands=(${entry.operands.join(' ')})`,
      `takers=${quoted(` ${values.flatMap(spellings).join(' ')} `)}`,
      ...(choices.length > 0 ? [`case $previous in ${choices.join(' ')} esac`] : []),
    ];
    return `    ${quoted(entry.words.join(' '))})\n${lines.map((line) => `      ${line}\n`).join('')}      ;;\n`;
  });
  const topicCases = topics(entries).map(
    (topic) => `    ${topic}) subcommands=${quoted(inTopic(entries, topic).join(' '))} ;;\n`,
  );
  return `# bash completion for xl; \`eval "$(xl completion bash)"\`, or a file in bash_completion's directory
_xl() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]}
  local at=1 command= subcommands= options= takers= values= word seen=0
  local -a operands=()
  COMPREPLY=()
  while [ "$at" -lt "$COMP_CWORD" ] && [[ \${COMP_WORDS[at]} == -* ]]; do at=$((at + 1)); done
  if [ "$at" -eq "$COMP_CWORD" ]; then
    COMPREPLY=($(compgen -W ${quoted(topWords(entries).join(' '))} -- "$current"))
    return
  fi
  command=\${COMP_WORDS[at]}
  if [ "$command" = help ]; then
    COMPREPLY=($(compgen -W ${quoted(topWords(entries).join(' '))} -- "$current"))
    return
  fi
  case $command in
${topicCases.join('')}  esac
  if [ -n "$subcommands" ]; then
    at=$((at + 1))
    if [ "$at" -eq "$COMP_CWORD" ]; then
      COMPREPLY=($(compgen -W "$subcommands" -- "$current"))
      return
    fi
    command="$command \${COMP_WORDS[at]}"
  fi
  case $command in
${cases.join('')}  esac
  if [ -n "$values" ]; then
    COMPREPLY=($(compgen -W "$values" -- "$current"))
    return
  fi
  if [[ $takers == *" $previous "* ]]; then
    COMPREPLY=($(compgen -f -- "$current"))
    return
  fi
  if [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
    return
  fi
  for ((at = at + 1; at < COMP_CWORD; at++)); do
    word=\${COMP_WORDS[at]}
    if [[ $takers == *" $word "* ]]; then at=$((at + 1)); elif [[ $word != -* ]]; then seen=$((seen + 1)); fi
  done
  case \${operands[seen]} in
    domain) COMPREPLY=($(compgen -W "$(${listDomains})" -- "$current")) ;;
    file) COMPREPLY=($(compgen -f -- "$current")) ;;
  esac
}
complete -o filenames -F _xl xl
`;
}

function zsh(entries: readonly Entry[]): string {
  const bracketed = (text: string) => text.replace(/[[\]:\\]/g, '\\$&');
  const optionOf = (option: Option) => {
    const value = option.takesValue ? `:value:${option.choices.length > 0 ? `(${option.choices.join(' ')})` : '_files'}` : '';
    return spellings(option).map((spelling) => quoted(`${spelling}[${bracketed(option.text)}]${value}`));
  };
  const operandOfEntry = (operand: Operand, at: number) =>
    quoted(`${at + 1}:${operand}:${operand === 'domain' ? '_xl_domains' : operand === 'file' ? '_files' : ''}`);
  const argumentsOf = (entry: Entry) =>
    ['_arguments', ...entry.options.flatMap(optionOf), ...entry.operands.map(operandOfEntry)].join(' ');
  const described = (pairs: readonly (readonly [string, string])[]) =>
    pairs.map(([name, text]) => quoted(`${name}:${bracketed(text)}`)).join(' ');
  const tops = topWords(entries).map((word) => {
    const entry = entries.find(({ words }) => words.length === 1 && words[0] === word);
    return [word, entry?.summary ?? (word === 'help' ? 'print help' : `${word} ...`)] as const;
  });
  const single = entries.filter(({ words }) => words.length === 1);
  const cases = single.map((entry) => `    ${entry.words[0]}) ${argumentsOf(entry)} ;;\n`);
  const topicCases = topics(entries).map((topic) => {
    const own = entries.filter(({ words }) => words.length > 1 && words[0] === topic);
    const names = own.map(({ words, summary }) => [words[1] ?? '', summary] as const);
    const inner = own.map((entry) => `        ${entry.words[1]}) shift words; (( CURRENT-- )); ${argumentsOf(entry)} ;;\n`);
    return `    ${topic})
      if (( CURRENT == 2 )); then local -a names=(${described(names)}); _describe subcommand names; return; fi
      case $words[2] in
${inner.join('')}      esac
      ;;
`;
  });
  return `#compdef xl
# zsh completion for xl; \`eval "$(xl completion zsh)"\` after compinit, or a file _xl in a directory of $fpath
_xl_domains() {
  local -a names=(\${(f)"$(${listDomains})"})
  compadd -a names
}
_xl() {
  while (( CURRENT > 2 )) && [[ $words[2] == -* ]]; do shift words; (( CURRENT-- )); done
  if (( CURRENT == 2 )); then
    local -a commands=(${described(tops)})
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
${cases.join('')}${topicCases.join('')}  esac
}
if [ "$funcstack[1]" = _xl ]; then _xl "$@"; else compdef _xl xl; fi
`;
}

function fish(entries: readonly Entry[]): string {
  const lines: string[] = [];
  const escaped = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  for (const word of topWords(entries)) {
    const entry = entries.find(({ words }) => words.length === 1 && words[0] === word);
    const text = entry?.summary ?? (word === 'help' ? 'print help' : '');
    lines.push(`complete -c xl -n __fish_use_subcommand -a ${word}${text ? ` -d ${escaped(text)}` : ''}`);
  }
  for (const topic of topics(entries)) {
    const names = inTopic(entries, topic).join(' ');
    const condition = `__fish_seen_subcommand_from ${topic}; and not __fish_seen_subcommand_from ${names}`;
    lines.push(`complete -c xl -n ${escaped(condition)} -a ${escaped(names)}`);
  }
  for (const { words, options, operands } of entries) {
    const condition = escaped(words.map((word) => `__fish_seen_subcommand_from ${word}`).join('; and '));
    for (const option of options) {
      const short = option.short === undefined ? '' : ` -s ${option.short}`;
      const long = option.long === undefined ? '' : ` -l ${option.long}`;
      const value = option.takesValue ? (option.choices.length > 0 ? ` -x -a ${escaped(option.choices.join(' '))}` : ' -r') : '';
      lines.push(`complete -c xl -n ${condition}${short}${long}${value} -d ${escaped(option.text)}`);
    }
    if (operands.includes('domain')) lines.push(`complete -c xl -n ${condition} -a '(__xl_domains)'`);
    if (operands.includes('file')) lines.push(`complete -c xl -n ${condition} -F`);
  }
  return `# fish completion for xl; \`xl completion fish | source\`, or a file xl.fish in fish's completions directory
function __xl_domains
    XL_DOM0_AUTOSTART=0 xl list 2>/dev/null | sed -e 1d -e 's/ .*//'
end
complete -c xl -f
${lines.join('\n')}
`;
}
