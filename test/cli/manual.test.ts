import type { Table } from '../../src/cli/argv.js';
import { coveragePage, overviewPage, xlPage } from '../../src/cli/manual.js';

const table: Table = {
  commands: {
    list: {
      id: 'list',
      summary: 'List domains',
      flags: {
        long: { type: 'boolean', char: 'l', description: 'all of it' },
        quiet: { type: 'boolean', char: 'q', description: '.hidden \\ words' },
      },
      args: {},
      xl: { usage: '[options] [Domain]', options: '-l, --long  ...\n-q  ...', notModelled: 'security labels' },
    },
    'mtwatch:list': { id: 'mtwatch:list', summary: 'List | threads', flags: {}, args: {} },
  },
  declined: { 'pci-list': { summary: 'List', usage: '<Domain>', missing: 'PCI device' } },
  topics: {},
};

test('the coverage page has a row for each command of xl, and what is not modelled', () => {
  const lines = coveragePage(table).split('\n');
  expect(lines.filter((line) => /^\| \S+ +\| (in part|declined) /.test(line)).map((line) => line.replace(/ +/g, ' '))).toEqual([
    '| list | in part | security labels |',
    '| pci-list | declined | there is no PCI device |',
  ]);
  expect(lines.filter((line) => / missing +\|/.test(line))).toHaveLength(90);
  expect(lines.find((line) => line.startsWith('| mtwatch list'))?.replace(/ +/g, ' ')).toBe(
    '| mtwatch list | List \\| threads |',
  );
});

test('the man page has each command with the options that it takes, as roff reads them', () => {
  expect(xlPage(table, '1.2-3')).toContain(`.TP
.B list [options] [Domain]
List domains.
.IP
Not modelled: Security labels.
.RS
.TP
.B \\-l, \\-\\-long
All of it.
.TP
.B \\-q
\\&.hidden \\e words.
.RE
`);
  expect(xlPage(table, '1.2-3')).toContain('.TH XL 1 "" "xl\\-mtwatch 1.2\\-3" "Xen"');
  expect(overviewPage(table, '1')).toContain('.B xl mtwatch list\nList | threads.\n');
});
