/** What is printed is read as the same, for anything that a seed comes up with; and errors are told where they are. */
import { type Disk, parseDiskSpec } from '../../src/libxl/disk.js';
import { type Nic, parseNicSpec } from '../../src/libxl/nic.js';
import { diskSpecText, nicSpecText } from '../../src/libxl/spec-text.js';
import { type CfgValue, type PrintedValue, parseXlCfg, printXlCfg, quoteXlCfg } from '../../src/libxl/xl-cfg.js';
import { byteString, losslessText } from '../../src/xenbus/xs-client.js';
import { type Draw, drawer } from '../fuzz/inputs.js';

const seeds = Array.from({ length: 20 }, (_, index) => index + 1);

function word(draw: Draw, letters: string, most: number): string {
  return Array.from({ length: draw(most + 1) }, () => letters.charAt(draw(letters.length))).join('');
}

const anyText = ` \t"'\\#;,=[]()$\x01\x7f\xe9\xc3\xff\n\r\vabcz09.-+`;

function value(draw: Draw, depth = 0): PrintedValue {
  if (depth < 3 && draw(4) === 0) {
    return { kind: 'list', items: Array.from({ length: draw(4) }, () => value(draw, depth + 1)) };
  }
  return { kind: 'string', text: word(draw, anyText, 12) };
}

function settings(draw: Draw) {
  const names = ['a', 'memory', 'x.y', 'a_0', 'disk'];
  return Array.from({ length: 1 + draw(6) }, () => ({ name: draw.pick(names), value: value(draw) }));
}

function withoutPlace(given: CfgValue): PrintedValue {
  if (given.kind === 'string') return { kind: 'string', text: given.text };
  return { kind: 'list', items: given.items.map(withoutPlace) };
}

test.each(seeds)('seed %i: settings that are printed are read as the same', (seed) => {
  const draw = drawer(seed);
  for (let run = 0; run < 100; run++) {
    const given = settings(draw);
    const { settings: read, diagnostics } = parseXlCfg(printXlCfg(given), 'F');
    expect(diagnostics).toEqual([]);
    expect(read.map(({ name, value: of }) => ({ name, value: withoutPlace(of) }))).toEqual(given);
  }
});

test.each(seeds)('seed %i: an error has the line and column where it was put', (seed) => {
  const draw = drawer(seed);
  for (let run = 0; run < 100; run++) {
    const lines = printXlCfg(settings(draw)).trimEnd().split('\n');
    const line = draw(lines.length + 1);
    const indent = ' '.repeat(draw(5));
    lines.splice(line, 0, `${indent}${draw.pick(['$x', 'A=1', '=1', '"s"', '%'])}${draw.pick(['', ' ', ' b=1'])}`);
    const [first] = parseXlCfg(`${lines.join('\n')}\n`, 'F').diagnostics;
    expect(first?.at).toEqual({ line: line + 1, column: indent.length + 1 });
    expect(first?.message.startsWith(`F:${first.line}: config parsing error near `)).toBe(true);
  }
});

test('only quotes, backslashes and ends of lines are escaped', () => {
  expect(quoteXlCfg('a\'b"c\\d\ne\t#')).toBe('"a\'b\\"c\\\\d\\ne\t#"');
});

const nameLetters = 'abcxyz0189/_.-: =@\xe9';

function disk(draw: Draw): Disk {
  const maybe = (text: () => string) => (draw(3) === 0 ? text() : undefined);
  const name = () => `n${word(draw, nameLetters, 8)}`;
  const isCdrom = draw(4) === 0;
  const target = `/${word(draw, `${nameLetters},`, 10)}`;
  const fields = {
    vdev: name(),
    backendDomname: maybe(name),
    backend: draw.pick([undefined, 'phy', 'tap', 'qdisk', 'standalone'] as const),
    script: maybe(name),
    directIoSafe: draw(3) === 0 ? true : undefined,
    discardEnable: draw.pick([undefined, true, false]),
    specification: draw.pick([undefined, 'xen', 'virtio'] as const),
    coloHost: maybe(name),
    coloPort: draw(4) === 0 ? 1 + draw(65_535) : undefined,
    ...(isCdrom
      ? {
          isCdrom,
          removable: true,
          readwrite: false,
          ...draw.pick([{ format: 'empty' }, { format: 'raw', pdevPath: target }] as const),
        }
      : { format: draw.pick(['raw', 'qcow', 'qcow2', 'vhd', 'qed'] as const), readwrite: draw(2) === 0, pdevPath: target }),
  };
  return Object.fromEntries(Object.entries(fields).filter(([, field]) => field !== undefined)) as Disk;
}

test.each(seeds)('seed %i: a disk that is printed is read as the same', (seed) => {
  const draw = drawer(seed);
  for (let run = 0; run < 100; run++) {
    const given = disk(draw);
    expect([diskSpecText(given), parseDiskSpec(diskSpecText(given), 'F')]).toEqual([diskSpecText(given), { disk: given }]);
  }
});

function nic(draw: Draw): Nic {
  const maybe = (text: () => string) => (draw(3) === 0 ? text() : undefined);
  const name = () => word(draw, nameLetters, 8);
  const hex = () => draw(256).toString(16).padStart(2, '0');
  const rate = draw(3) === 0 ? { rateBytesPerInterval: 1 + draw(4_000_000), rateIntervalUsecs: 1_000_000 } : {};
  const fields = {
    nictype: draw.pick([undefined, 'vif', 'vif_ioemu'] as const),
    mac: maybe(() => Array.from({ length: 6 }, hex).join(':')),
    bridge: maybe(name),
    gatewaydev: maybe(name),
    ip: maybe(name),
    script: maybe(name),
    backendDomname: maybe(name),
    ifname: maybe(name),
    model: maybe(name),
    devid: draw(4) === 0 ? draw(1000) : undefined,
    mtu: draw(4) === 0 ? draw(10_000) : undefined,
    trusted: draw.pick([undefined, true, false]),
    ...rate,
  };
  return Object.fromEntries(Object.entries(fields).filter(([, field]) => field !== undefined)) as Nic;
}

test.each(seeds)('seed %i: an interface that is printed is read as the same', (seed) => {
  const draw = drawer(seed);
  for (let run = 0; run < 100; run++) {
    const given = nic(draw);
    const text = nicSpecText(given);
    expect([text, parseNicSpec(text, 'F')]).toEqual([text, { nic: given, lines: [], status: 'ok' }]);
  }
});

test.each(seeds)('seed %i: any bytes are a text that gives them back', (seed) => {
  const draw = drawer(seed);
  for (let run = 0; run < 200; run++) {
    const bytes = Array.from({ length: draw(12) }, () =>
      String.fromCharCode(draw.pick([draw(256), 0xc3, 0xa9, 0xed, 0xf0, 0x9f, 65])),
    ).join('');
    expect(byteString(losslessText(bytes))).toBe(bytes);
  }
  expect(losslessText('w\xc3\xa9b\xe9')).toBe('wéb\udce9');
  expect(byteString('\u{1f600}\udc80')).toBe('\xf0\x9f\x98\x80\x80');
});
