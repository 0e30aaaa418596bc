import { coreParts, domainCoreDump } from '../../src/libxl/core-dump.js';
import { domainCreateNew } from '../../src/libxl/create.js';
import { LibxlError } from '../../src/libxl/ctx.js';
import { type Machine, machine, pvConfig } from '../machine.js';

let m: Machine;
beforeEach(async () => {
  m = await machine({ dumps: true });
});
afterEach(() => m.dom0.close());

/** The sections of a core, by name: offset and size. */
function sections(core: Buffer): Record<string, readonly [number, number]> {
  const count = core.readUInt16LE(60);
  const header = (index: number) => {
    const at = Number(core.readBigUInt64LE(40)) + index * 64;
    const number = (offset: number) => Number(core.readBigUInt64LE(at + offset));
    return { name: core.readUInt32LE(at), at: number(24), size: number(32) };
  };
  const strings = header(core.readUInt16LE(62)).at;
  const name = (from: number) => core.subarray(strings + from, core.indexOf(0, strings + from)).toString();
  return Object.fromEntries(
    Array.from({ length: count }, (_, index) => header(index)).map((each) => [name(each.name), [each.at, each.size] as const]),
  );
}

test('a core has the sections of a real one, as large as the domain', async () => {
  const domid = await m.run(
    domainCreateNew(m.ctx, pvConfig('pv', { bInfo: { ...pvConfig().bInfo, maxMemkb: 4096, targetMemkb: 4096 } })),
  );
  await m.run(domainCoreDump(m.ctx, domid, '/var/lib/xen/dump/pv'));
  const core = Buffer.from(m.files.get('/var/lib/xen/dump/pv') ?? '', 'latin1');
  expect(core.subarray(0, 9)).toEqual(Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 1]));
  // 7 section headers, 1,384 bytes of notes, two contexts of 5,168 bytes, a page.
  expect(sections(core)).toEqual({
    '': [0, 0],
    '.note.Xen': [512, 1384],
    '.xen_prstatus': [1896, 2 * 5168],
    '.xen_shared_info': [12232, 4096],
    '.xen_pages': [16384, 4096 * 1024],
    '.xen_p2m': [16384 + 4096 * 1024, 16 * 1024],
    '.shstrtab': [16384 + 4096 * 1024 + 16 * 1024, 72],
  });
  expect(core.length).toBe(16384 + 4096 * 1024 + 16 * 1024 + 72);
});

test('the notes say how many vcpus and pages there are', () => {
  const [head] = coreParts(2, 1024);
  const notes = head?.bytes.subarray(512) ?? Buffer.alloc(0);
  // After the empty note: name and descriptor sizes, type, name, then magic, vcpus, pages and page size.
  expect([notes.readUInt32LE(16 + 4), notes.readUInt32LE(16 + 8)]).toEqual([32, 0x200_0001]);
  expect([0, 8, 16, 24].map((at) => notes.readBigUInt64LE(32 + at))).toEqual([0xf00f_ebedn, 2n, 1024n, 4096n]);
});

test.each([
  [
    'nobody',
    99,
    '/var/lib/xen/dump/x',
    'xc: error: Could not get info for domain (3 = No such process): Internal error',
    'libxl: error: libxl_domain.c:603:libxl_domain_core_dump: Domain 99:Core dumping domain to /var/lib/xen/dump/x: No such process',
  ],
  [
    'dom0',
    0,
    '/var/lib/xen/dump/x',
    "xc: error: Couldn't map live_shinfo (3 = No such process): Internal error",
    'libxl: error: libxl_domain.c:603:libxl_domain_core_dump: Core dumping domain to /var/lib/xen/dump/x: No such process',
  ],
])('of %s there is no core, but an empty file', async (_who, domid, path, ...lines) => {
  await expect(m.run(domainCoreDump(m.ctx, domid, path))).rejects.toBeInstanceOf(LibxlError);
  expect(m.lines).toEqual(lines);
  expect(m.files.get(path)).toBe('');
});
