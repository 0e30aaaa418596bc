/** What `xl create --lint` finds, and where. */
import { knownKeys, lintConfig } from '../../src/libxl/lint.js';

const minimal = 'name="t"\nmemory=64\nkernel="/k"\n';

/** `LINE:COLUMN message` for each finding. */
function lint(text: string): readonly string[] {
  const findings = lintConfig(text, 'F', { randomUuid: () => '00000000-1111-4222-8333-444444444444' });
  return findings.map(({ line, column, message }) => `${line}:${column} ${message}`);
}

test('a config with nothing odd has no findings', () => {
  expect(lint(`${minimal}vcpus=2\ndisk=["/x,raw,xvda,rw"]\n`)).toEqual([]);
});

describe('findings', () => {
  test.each<[string, readonly string[]]>([
    ['memroy=5', ["4:1 unknown key 'memroy' is ignored; did you mean 'memory'?"]],
    ['  on_crahs="destroy"', ["4:3 unknown key 'on_crahs' is ignored; did you mean 'on_crash'?"]],
    ['quux=5', ["4:1 unknown key 'quux' is ignored"]],
    ['llc_colors=["1"]', ["4:1 'llc_colors' is a key of a newer Xen, which xl of 4.17 ignores"]],
    ['a=1; memory=32', ["2:1 'memory' is set again in line 4, and this value is lost", "4:1 unknown key 'a' is ignored"]],
    ['maxmem=[1]', ["4:1 parameter `maxmem' is a list but should be a single value"]],
    ['maxmem="x"', ["4:1 parameter `maxmem' is not a valid number"]],
    ['vif="bridge=b"', ["4:1 parameter `vif' is a single value but should be a list"]],
    ['vga="cirrus"', ["4:1 'vga' is ignored for a guest of type pv"]],
    ['type="pvh"\nboot="c"', ["5:1 'boot' is ignored for a guest of type pvh"]],
    ['vif=["foo=1"]', ["4:1 unrecognized argument `foo=1'"]],
    ['ioports=["3f8"]', ["4:1 'ioports' is not modelled and has no effect"]],
    ['vtpm=["backend=d"]', ["4:1 'vtpm' is served by nobody here: libxl gives up after ten seconds"]],
    ['disk=["x"]', ["4:1 config parsing error in disk specification: no vdev specified in `x'"]],
    ['max_grant_frames="x"', ['4:1 xl gives up here without a word']],
    ['cmdline="a"\nextra="b"', ['5:1 Warning: ignoring root= and extra= in favour of cmdline=']],
    [
      'bootloader_args=""',
      [expect.stringContaining('4:1 WARNING: Specifying "bootloader_args"'), '4:1 xl dies of signal 11 here'],
    ],
    [
      'pci=["01:00.0,foo=1"]',
      [
        "4:1 'pci' is refused: the host has no IOMMU",
        '4:1 Unknown PCI_SPEC_STRING option: foo',
        "4:1 unable to parse PCI_SPEC_STRING `01:00.0,foo=1' for passthrough",
      ],
    ],
    ['a=1 b=2', ["4:5 `b': syntax error, unexpected IDENT, expecting $end"]],
    ['extra="\\q"', ['4:7 `"\\q"\': invalid character after backlash in quoted string']],
    ['a=', ["4:3 syntax error, unexpected NEWLINE, expecting STRING or NUMBER or '['"]],
  ])('of %j', (text, findings) => {
    expect(lint(`${minimal}${text}\n`)).toEqual(findings);
  });

  test('without a name are for the beginning of the file', () => {
    expect(lint('memory=64\nkernel="/k"\n')).toEqual(['1:1 Domain name must be specified.']);
  });

  test('of a += are none, and of what it adds to neither', () => {
    expect(lint(`${minimal}disk=["/x,raw,xvda,rw"]\ndisk+=["/y,raw,xvdb,rw"]\n`)).toEqual([]);
  });
});

test('every key that a guest of some type reads is known', () => {
  const text = [...knownKeys].map((key) => `${key}=[]\n`).join('');
  expect(lint(text).filter((finding) => finding.includes('unknown key'))).toEqual([]);
});
