import {
  cfgReader,
  diagnosticLines,
  getBoundedLong,
  getDefbool,
  getList,
  getLong,
  getString,
  getStrings,
  parseXlCfg,
} from '../../src/libxl/xl-cfg.js';

const python = [
  'warning: Config file looks like it contains Python code.',
  'warning:  Arbitrary Python is no longer supported.',
  'warning:  See https://wiki.xen.org/wiki/PythonInXlConfig',
];

/** The error lines, without what they all have. */
function complaints(text: string): readonly string[] {
  return diagnosticLines(parseXlCfg(text, 'F')).map((line) => line.replace(': config parsing error near ', ' '));
}

function reader(text: string) {
  return cfgReader(parseXlCfg(text, 'F').settings, 'F');
}

const statementStart = "$end or IDENT or NEWLINE or ';'";
const valueStart = "STRING or NUMBER or '['";

describe('an error names its line, its text and what would have been right', () => {
  test.each<[string, string, readonly string[]]>([
    ['a bare word is no value', 'a = foo\n', [`F:1 \`foo': syntax error, unexpected IDENT, expecting ${valueStart}`]],
    ['a key needs an operator', 'x y\n', ["F:1 `y': syntax error, unexpected IDENT, expecting += or '='"]],
    ['a line starts with a key', '=1\n', [`F:1 \`=': syntax error, unexpected '=', expecting ${statementStart}`]],
    ['a number is no key', '1=2\n', [`F:1 \`1': syntax error, unexpected NUMBER, expecting ${statementStart}`]],
    ['a line has one assignment', 'a=1 b=2\n', ["F:1 `b': syntax error, unexpected IDENT, expecting $end"]],
    ['strings are not joined', 'a="x" "y"\n', ['F:1 `"y"\': syntax error, unexpected STRING, expecting $end']],
    ['a list needs commas', 'a=[1 2]\n', ["F:1 `2': syntax error, unexpected NUMBER, expecting ']'"]],
    ['a comma needs a value before it', 'a=[,]\n', ["F:1 `,': syntax error, unexpected ',', expecting ']'"]],
    ['one comma may trail, two may not', 'a=[1,]\nb=[1,,]\n', ["F:2 `,': syntax error, unexpected ',', expecting ']'"]],
    ['an operator is no value', 'a= +=\n', [`F:1 \`+=': syntax error, unexpected +=, expecting ${valueStart}`]],
    ['a number ends before a letter past f', 'a=0x1fg\n', ["F:1 `g': syntax error, unexpected IDENT, expecting $end"]],
    ['a semicolon is no value', ';;a=;\n', [`F:1 \`;': syntax error, unexpected ';', expecting ${valueStart}`]],
  ])('%s', (_, text, expected) => {
    expect(complaints(text)).toEqual(expected);
  });
});

describe('the end of a line is reported one line too early', () => {
  test.each<[string, readonly string[]]>([
    ['name =\n', [`F:0 <newline>: syntax error, unexpected NEWLINE, expecting ${valueStart}`]],
    ['\n\nname = # c\n', [`F:2 \`# c': syntax error, unexpected NEWLINE, expecting ${valueStart}`]],
    ['a=1;b=2;;c\n', ["F:0 <newline>: syntax error, unexpected NEWLINE, expecting += or '='"]],
  ])('%j', (text, expected) => {
    expect(complaints(text)).toEqual(expected);
  });
});

describe('the end of the text is reported with nothing near it, on the line of the last token', () => {
  test.each<[string, string]>([
    ['a=[\n', "F:1 `': syntax error, unexpected $end, expecting ']'"],
    ['a=[1,\n2', "F:2 `': syntax error, unexpected $end, expecting ']'"],
    ['a=[\n# only\n', "F:2 `': syntax error, unexpected $end, expecting ']'"],
    ['a', "F:1 `': syntax error, unexpected $end, expecting += or '='"],
    ['a=', `F:1 \`': syntax error, unexpected $end, expecting ${valueStart}`],
  ])('%j', (text, expected) => {
    expect(complaints(text)).toEqual([expected]);
  });
});

describe('text that is no token is skipped up to the next blank', () => {
  test.each<[string, string, readonly string[]]>([
    ['keys are in lower case', 'A=1\n', ["F:1 `A=1': lexical error"]],
    ['a string closes on its line', 'name="t\nb=1\n', ['F:1 `"t\': lexical error']],
    ['a backslash does not continue a line', 'a="\\\n"\n', ['F:1 `"\\\': lexical error', 'F:2 `"\': lexical error']],
    ['one character takes the newline with it', '@\nb\n', ["F:1 `@': lexical error"]],
    ['or the blank, and the line is then over', 'a=1 @ b=2\n', ["F:1 `@': lexical error"]],
    ['a letter of two bytes does not', 'a = \u00e4 b\n', ["F:1 `\u00e4': lexical error"]],
    ['a carriage return is no blank', 'a=1\r\nb=1\r\n', ["F:1 `\r': lexical error", "F:2 `\r': lexical error"]],
    ['one error a line', 'a=$\nb=$$\nc\n', ["F:1 `$': lexical error"]],
    ['a comment needs its newline', 'a=1\n#c', ["F:2 `#c': lexical error"]],
    ['a negative number looks like Python', 'a=-1\nb\nc\n', ["F:1 `-1': lexical error", ...python]],
    ['so does a dot', 'a=1.5\n', ["F:1 `.5': lexical error", ...python]],
    ['and a parenthesis', 'ok=1\n(1)\n:\n', ["F:2 `(1)': lexical error", "F:3 `:': lexical error", ...python]],
  ])('%s', (_, text, expected) => {
    expect(complaints(text)).toEqual(expected);
  });

  test('a single character at the very end goes unnoticed', () => {
    expect(complaints('a=1\n@')).toEqual([]);
    expect(complaints('a=1\n#')).toEqual([]);
  });
});

test('lists do not nest without end', () => {
  expect(complaints(`a=${'['.repeat(100_000)}\nb c\n`)).toEqual(["F:1 `[': memory exhausted"]);
});

describe('after an error', () => {
  test.each<[string, string, readonly string[]]>([
    [
      'the rest of the line is skipped, and errors count again after three good tokens',
      'a=,\nb=1\nd=1\ne f\n',
      [
        `F:1 \`,': syntax error, unexpected ',', expecting ${valueStart}`,
        "F:4 `f': syntax error, unexpected IDENT, expecting += or '='",
      ],
    ],
    ['errors right after it are not shown', 'a b\nc d\ne f\n', ["F:1 `b': syntax error, unexpected IDENT, expecting += or '='"]],
    [
      'nothing is read past a complete assignment',
      'a=1 b=2\nc d\ne=[\n',
      ["F:1 `b': syntax error, unexpected IDENT, expecting $end"],
    ],
    [
      'a lexical error hides the syntax error that it causes',
      'name="t u\nb=\nc=1\nd\n',
      [
        'F:1 `"t\': lexical error',
        `F:1 <newline>: syntax error, unexpected NEWLINE, expecting ${valueStart}`,
        "F:3 <newline>: syntax error, unexpected NEWLINE, expecting += or '='",
      ],
    ],
    [
      'escapes are not looked at any more',
      'a="\\q"\nb="\\q"\nc d\n',
      [
        'F:1 `"\\q"\': invalid character after backlash in quoted string',
        "F:3 `d': syntax error, unexpected IDENT, expecting += or '='",
      ],
    ],
  ])('%s', (_, text, expected) => {
    expect(complaints(text)).toEqual(expected);
  });
});

describe('strings', () => {
  test.each<[string, string]>([
    ['\'a "b" c\'', 'a "b" c'],
    ["'it\\'s'", "it's"],
    ['"\\a\\b\\f\\n\\r\\t\\v\\\\\\""', '\x07\b\f\n\r\t\v\\"'],
    // Octal escapes are read as decimal and yield nothing.
    ['"x\\101y\\1012z"', 'xyz'],
    ['"# no comment"', '# no comment'],
  ])('%s', (quoted, expected) => {
    expect(getString(reader(`a=${quoted}\n`), 'a')).toBe(expected);
  });

  test.each<[string, string]>([
    ['"x\\x41y"', 'invalid digit after backslash hexnumerical character escape in quoted string'],
    ['"\\1"', 'invalid digit after backslash octalnumerical character escape in quoted string'],
    ['"\\18z"', 'invalid digit after backslash octalnumerical character escape in quoted string'],
    ['"\\q"', 'invalid character after backlash in quoted string'],
  ])('%s is refused', (quoted, expected) => {
    expect(complaints(`a=${quoted}\n`)).toEqual([`F:1 \`${quoted}': ${expected}`]);
  });
});

describe('settings', () => {
  test('are kept in order, with the place of each name and value', () => {
    expect(parseXlCfg('a=1;b = "x" # c\n\nc=[ # d\n1,\n\n"y",]\nd._0=0x1f', 'F')).toEqual({
      diagnostics: [],
      likelyPython: false,
      settings: [
        { name: 'a', op: '=', at: { line: 1, column: 1 }, value: { kind: 'string', text: '1', line: 1, column: 3 } },
        { name: 'b', op: '=', at: { line: 1, column: 5 }, value: { kind: 'string', text: 'x', line: 1, column: 9 } },
        {
          name: 'c',
          op: '=',
          at: { line: 3, column: 1 },
          value: {
            kind: 'list',
            line: 3,
            column: 3,
            items: [
              { kind: 'string', text: '1', line: 4, column: 1 },
              { kind: 'string', text: 'y', line: 6, column: 1 },
            ],
          },
        },
        { name: 'd._0', op: '=', at: { line: 7, column: 1 }, value: { kind: 'string', text: '0x1f', line: 7, column: 6 } },
      ],
    });
  });

  test('of the same name: the last one counts', () => {
    expect(getString(reader('a=1\na=2\n'), 'a')).toBe('2');
  });

  test('grow by +=: strings are joined, lists appended, and the first may be missing', () => {
    const settings = reader('s="a"\ns+="b"\nl=["1"]\nl+=["2",[]]\nn+="x"\n');
    expect([getString(settings, 's'), getStrings(settings, 'l'), getString(settings, 'n')]).toEqual(['ab', ['1', '2'], 'x']);
  });

  test('of different kinds do not add up, and nothing is stored after that', () => {
    expect(complaints('a=1\na+=["2"]\nb="x"\nb+=[1]\n')).toEqual(['F:2 `]\': can\'t add [list] to "string" or vice versa']);
    expect(complaints('a=["1"]\na+="2"\n')).toEqual(['F:2 `"2"\': can\'t add [list] to "string" or vice versa']);
  });
});

describe('reading', () => {
  test.each<[string, bigint]>([
    ['10', 10n],
    ['010', 8n],
    ['0x80', 128n],
    ['"-5"', -5n],
    ['" 5"', 5n],
  ])('%s is the number %d', (text, expected) => {
    expect(getLong(reader(`a=${text}\n`), 'a')).toBe(expected);
  });

  test.each<[string, string]>([
    ['a=08', "F:1: warning: parameter `a' is not a valid number"],
    ['a="5 "', "F:1: warning: parameter `a' is not a valid number"],
    ['a=""', "F:1: warning: parameter `a' is not a valid number"],
    ['a=0x', "F:1: warning: parameter `a' is not a valid number"],
    ['\na=99999999999999999999', "F:2: warning: parameter `a' could not be parsed as a number: Numerical result out of range"],
    ['a=[1]', "F:1: warning: parameter `a' is a list but should be a single value"],
    ['a+=1', "F:1: warning: can't use += with numbers for parameter `a'"],
  ])('%j is no number', (text, expected) => {
    const settings = reader(text);
    expect(getLong(settings, 'a')).toBeUndefined();
    expect(settings.lines).toEqual([expected]);
  });

  test('a boolean is a number that is not zero', () => {
    const settings = reader('t=2\nf=0\n');
    expect([getDefbool(settings, 't'), getDefbool(settings, 'f'), getDefbool(settings, 'absent')]).toEqual([
      true,
      false,
      undefined,
    ]);
  });

  test('a number out of its bounds is told from an absent one', () => {
    const settings = reader('low=0\nhigh=9\nok=5\n');
    const read = (key: string) => getBoundedLong(settings, key, 1, 8);
    expect([read('low'), read('high'), read('ok'), read('absent')]).toEqual(['outside', 'outside', 5, undefined]);
    expect(settings.lines).toEqual([
      "F:1: warning: value `0' is smaller than minimum bound '1'",
      "F:2: warning: value `9' is greater than maximum bound '8'",
    ]);
  });

  test('a single value is no list, and a list of strings ends at a list', () => {
    const settings = reader('a="x"\nb=["1",["2"],"3"]\n');
    expect([getList(settings, 'a'), getStrings(settings, 'b')]).toEqual([undefined, ['1']]);
    expect(settings.lines).toEqual(["F:1: warning: parameter `a' is a single value but should be a list"]);
  });

  test('says nothing when asked quietly', () => {
    const settings = reader('a=[1]\n');
    expect(getLong(settings, 'a', { quiet: true })).toBeUndefined();
    expect(settings.lines).toEqual([]);
  });
});
