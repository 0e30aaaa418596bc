import { execFileSync } from 'node:child_process';
import type { Table } from '../../src/cli/argv.js';
import { completionScript } from '../../src/cli/completion.js';

const flag = (char: string | undefined, more = {}) => ({ type: 'boolean' as const, char, description: "it's [one]", ...more });
const table: Table = {
  commands: {
    list: { id: 'list', summary: 'List domains', flags: { long: flag('l') }, args: { domain: {} } },
    rename: { id: 'rename', summary: 'Rename a domain', flags: {}, args: { domain: {}, name: {} } },
    create: {
      id: 'create',
      summary: 'Create a domain',
      flags: { defconfig: { type: 'option', char: 'f', description: 'file' } },
      args: { 'config-file': {} },
    },
    'dom0:start': {
      id: 'dom0:start',
      summary: 'Start',
      flags: { fsync: { type: 'option', options: ['always', 'never'] }, 'assume-files': flag(undefined) },
      args: {},
    },
    'dom0:stop': { id: 'dom0:stop', summary: 'Stop', flags: {}, args: {} },
  },
  declined: {},
  topics: {},
};

describe('bash', () => {
  const domains = 'xl() { [ "$XL_DOM0_AUTOSTART $*" = "0 list" ] && printf "Name ID\\nDomain-0 0\\nweb 1\\nmail 2\\n"; }';
  /** What is offered for the last of these words. */
  const offered = (...words: readonly string[]) => {
    const quoted = words.map((word) => `'${word}'`).join(' ');
    const script = `${completionScript('bash', table)}\n${domains}\nCOMP_WORDS=(${quoted}); COMP_CWORD=${words.length - 1}; _xl
      printf '%s\\n' "\${COMPREPLY[@]}"`;
    return execFileSync('bash', ['--norc', '-c', script], { encoding: 'utf8' })
      .split('\n')
      .filter((line) => line !== '');
  };

  test.each([
    [
      ['xl', ''],
      ['rename', 'create', 'list', 'dom0', 'help'],
    ],
    [['xl', '-v', 'li'], ['list']],
    [['xl', 'help', 'c'], ['create']],
    [
      ['xl', 'dom0', ''],
      ['start', 'stop'],
    ],
    [
      ['xl', 'dom0', 'start', '--'],
      ['--fsync', '--assume-files', '--help'],
    ],
    [
      ['xl', 'dom0', 'start', '--fsync', ''],
      ['always', 'never'],
    ],
    [
      ['xl', 'list', '-'],
      ['-l', '--long', '-h', '--help'],
    ],
    [
      ['xl', 'list', ''],
      ['Domain-0', 'web', 'mail'],
    ],
    [['xl', 'list', '-l', 'w'], ['web']],
    [['xl', 'list', 'web', ''], []],
    [['xl', 'rename', 'web', ''], []],
    [['xl', 'nosuch', ''], []],
  ])('%j', (words, expected) => expect(offered(...words).sort()).toEqual([...expected].sort()));

  test('files, where an operand or a value is one', () => {
    expect(offered('xl', 'create', `${import.meta.dirname}/completion.te`)).toEqual([
      `${import.meta.dirname}/completion.test.ts`,
    ]);
    expect(offered('xl', 'create', '-f', `${import.meta.dirname}/completion.te`)).toEqual([
      `${import.meta.dirname}/completion.test.ts`,
    ]);
  });
});

test('zsh gets every command with its options, operands and words that have a meaning there', () => {
  const script = completionScript('zsh', table);
  expect(script).toContain("    list) _arguments '-l[it'\\''s \\[one\\]]' '--long[it'\\''s \\[one\\]]'");
  expect(script).toContain("'1:domain:_xl_domains' ;;");
  expect(script).toContain("        start) shift words; (( CURRENT-- )); _arguments '--fsync[]:value:(always never)'");
});

test('fish gets every command with its options and operands', () => {
  const lines = completionScript('fish', table).split('\n');
  expect(lines).toContain("complete -c xl -n __fish_use_subcommand -a list -d 'List domains'");
  expect(lines).toContain("complete -c xl -n '__fish_seen_subcommand_from list' -s l -l long -d 'it\\'s [one]'");
  expect(lines).toContain("complete -c xl -n '__fish_seen_subcommand_from list' -a '(__xl_domains)'");
  expect(lines).toContain(
    "complete -c xl -n '__fish_seen_subcommand_from dom0; and __fish_seen_subcommand_from start' -l fsync -x -a 'always never' -d ''",
  );
});
