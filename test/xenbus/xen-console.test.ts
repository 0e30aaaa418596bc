/** Xen's console ring, the keys that write to it, and the parameters that it tells of. */
import { Hypfs } from '../../src/xenbus/hypfs.js';
import { machineOf } from '../../src/xenbus/machine.js';
import { bootText, consoleRingSize, type KeyContext, pressKeys, XenConsole } from '../../src/xenbus/xen-console.js';

const all = { index: 0, clear: false };

describe('the ring', () => {
  test('gives every line Xen’s name, and is read as often as one likes', () => {
    const ring = new XenConsole();
    ring.print('one\ntwo');
    expect(ring.read(all)).toEqual({ text: '(XEN) one\n(XEN) two\n', index: 20 });
    expect(ring.read(all).text).toBe('(XEN) one\n(XEN) two\n');
  });

  test('is read on from a place, of what has come since', () => {
    const ring = new XenConsole();
    ring.print('one');
    const { index } = ring.read(all);
    expect(ring.read({ index, clear: false })).toEqual({ text: '', index });
    ring.print('two');
    expect(ring.read({ index, clear: false }).text).toBe('(XEN) two\n');
    expect(ring.read({ index: 1_000_000, clear: false }).text).toBe('(XEN) one\n(XEN) two\n');
  });

  test('shows what was cleared to nobody any more, and what comes later to everybody', () => {
    const ring = new XenConsole();
    ring.print('one');
    expect(ring.read({ index: 0, clear: true }).text).toBe('(XEN) one\n');
    expect(ring.read(all).text).toBe('');
    ring.print('two');
    expect(ring.read(all).text).toBe('(XEN) two\n');
  });

  test('forgets its oldest characters when it is full', () => {
    const ring = new XenConsole();
    for (let line = 0; line < 2000; line++) ring.print(String(line));
    const { text, index } = ring.read(all);
    expect(text).toHaveLength(consoleRingSize);
    expect(text.endsWith('(XEN) 1999\n')).toBe(true);
    expect(index).toBeGreaterThan(consoleRingSize);
    expect(ring.read({ index: 5, clear: false }).text).toBe(text);
  });
});

test('the boot text tells of this machine', () => {
  const text = bootText(machineOf({ nrCpus: 4, totalMb: 4096, dom0Mb: 512, xenScheduler: 'rtds', xenExtra: '.1' }));
  for (const line of [
    'Xen version 4.17.1 (modelled by xl-mtwatch)',
    'System RAM: 4096MB (4194304kB)',
    'Using scheduler: SMP RTDS Scheduler (rtds)',
    'Brought up 4 CPUs',
    'Dom0 has maximum 4 VCPUs',
  ])
    expect(text.split('\n')).toContain(line);
});

describe('debug keys', () => {
  const guest = { uuid: '1111', pauseCount: 1, mappings: 3, maxVcpus: 2, onlineVcpus: 1, cpuTime: 1.26, eventChannels: 7 };
  const context: KeyContext = {
    now: 5_000_000,
    domains: [{ ...guest, domid: 4, dying: true, currentKb: 4096, maxKb: 8190 }],
    totalKb: 1000,
    freeKb: 400,
  };
  const press = (keys: string) => {
    const ring = new XenConsole();
    pressKeys(ring, keys, context);
    return ring
      .read(all)
      .text.split('\n')
      .slice(0, -1)
      .map((line) => line.replace('(XEN) ', ''));
  };

  test('q shows each domain as it is', () => {
    expect(press('q')).toEqual([
      "'q' pressed -> dumping domain info (now = 5000000)",
      'General information for domain 4:',
      '    dying=2 pause_count=1 mapped_pages=3',
      '    nr_pages=1024 max_pages=2047',
      '    handle=1111',
      '    vcpus=2 online=1 time=1.3s',
    ]);
  });

  test('each key of several is acted on, one that Xen has not is passed over, and one without a model says so', () => {
    expect(press('myRg')).toEqual([
      "'m' pressed -> dumping memory information",
      '    Dom heap: 400kB free of 1000kB',
      "'R' pressed -> reboot machine: not modelled here",
      "'g' pressed -> showing grant table usage",
      'grant-table for remote d4: 3 pages mapped',
    ]);
    expect(press('y')).toEqual([]);
    expect(press('')).toEqual([]);
  });

  test('h lists them by their codes', () => {
    const lines = press('h');
    expect(lines.slice(0, 2)).toEqual(["'h' pressed -> showing installed handlers", " key '%' (ascii '25') => trap to xendbg"]);
    expect(lines.at(-1)).toBe(" key 'z' (ascii '7a') => dump IOAPIC info");
    expect(lines).toHaveLength(31);
  });
});

describe('parameters', () => {
  test('keep what they are set to', () => {
    const hypfs = new Hypfs();
    hypfs.write('/params/loglvl', 'error/all');
    expect([hypfs.read('loglvl'), hypfs.read('pcid')]).toEqual(['error/all', undefined]);
  });

  test.each([
    ['/params/nosuch', '1', 'ENOENT'],
    ['/params/toString', '1', 'ENOENT'],
    ['/buildinfo/changeset', 'x', 'ENOENT'],
    ['/params/loglvl', 'loud', 'EINVAL'],
    ['/params/global-pages', 'perhaps', 'EDOM'],
    ['/params/gnttab_max_frames', '12x', 'EINVAL'],
    ['/params/gnttab_max_frames', '0x80000000', 'ERANGE'],
  ])('%s = %s is %s', (path, value, errno) => {
    expect(() => new Hypfs().write(path, value)).toThrow(expect.objectContaining({ errno }));
  });
});
