/**
 * A domain's core (xc_domain_dumpcore, xg_core.c of 4.17): an ELF file with Xen's notes and sections, in their order.
 *
 * ```
 * ELF header, section headers
 * .note.Xen            none, header (vcpus, pages), Xen version, format version
 * .xen_prstatus        a vcpu_guest_context for each vcpu: zeros
 * .xen_shared_info     a page of zeros
 * .xen_pages           the pages: a hole of the right size
 * .xen_p2m             pfn and gmfn of each page, the gmfn invalid
 * .shstrtab
 * ```
 *
 * Guests are models: they have no registers and no pages, and zeros stand for both. Sizes, counts and names are those of
 * a real core, so that what reads such files finds its way.
 */
import { PrivcmdError } from '../xenbus/privcmd.js';
import { strerror } from './ao.js';
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { domainInfo } from './domain.js';

const pageBytes = 4096;
/** sizeof(vcpu_guest_context_t) of x86_64. */
const contextBytes = 5168;
const elfHeaderBytes = 64;
const sectionHeaderBytes = 64;
/** XC_CORE_MAGIC, of a PV domain. */
const coreMagic = 0xf00f_ebedn;
const invalid = 0xffff_ffff_ffff_ffffn;

const sht = { null: 0, progbits: 1, strtab: 3, note: 7 } as const;
/** XEN_ELFNOTE_DUMPCORE_*. */
const note = { none: 0x200_0000, header: 0x200_0001, xenVersion: 0x200_0002, formatVersion: 0x200_0003 } as const;

/** Where a core is written: pieces of it, and holes between them. */
export interface CoreFile {
  write(bytes: Uint8Array, at: number): Promise<void>;
  close(): Promise<void>;
}

/** Writes the core of a domain into a file, which is made even when there is no such domain, as libxc makes it. */
export async function domainCoreDump(ctx: Ctx, domid: number, path: string): Promise<void> {
  const fail = (what: string, errno: number, words: string) => {
    ctx.xcLog(`xc: error: ${what} (${errno} = ${words}): Internal error`);
    ctx.log('error', 'libxl_domain.c:603:libxl_domain_core_dump', domid, `Core dumping domain to ${path}: ${words}`);
    return new LibxlError(Rc.FAIL, words);
  };
  const made = await ctx.host.createFile(path);
  if ('words' in made) throw fail(`Could not open corefile ${path}`, made.errno, made.words);
  const { file } = made;
  try {
    const info = await domainInfo(ctx, domid);
    const gone = strerror('ESRCH');
    if (!info) throw fail('Could not get info for domain', 3, gone);
    if (domid === 0) throw fail("Couldn't map live_shinfo", 3, gone);
    for (const { at, bytes } of coreParts(info.maxVcpus, Math.floor(info.currentKb / 4))) await file.write(bytes, at);
  } catch (error) {
    if (error instanceof LibxlError || error instanceof PrivcmdError) throw error;
    throw fail('Failed to write buffer', 5, strerror('EIO'));
  } finally {
    await file.close();
  }
}

/** The pieces of a core that are not zero, and where they lie. */
export function coreParts(vcpus: number, pages: number): readonly { readonly at: number; readonly bytes: Buffer }[] {
  const notes = coreNotes(vcpus, pages);
  const names = ['.shstrtab', '.note.Xen', '.xen_prstatus', '.xen_shared_info', '.xen_pages', '.xen_p2m'];
  const strings = Buffer.from(`\0${names.map((name) => `${name}\0`).join('')}`, 'latin1');
  const noteAt = elfHeaderBytes + sectionHeaderBytes * (names.length + 1);
  const prstatusAt = noteAt + notes.length;
  const sharedAt = prstatusAt + contextBytes * vcpus;
  const pagesAt = Math.ceil((sharedAt + pageBytes) / pageBytes) * pageBytes;
  const p2mAt = pagesAt + pages * pageBytes;
  const stringsAt = p2mAt + pages * 16;

  const sections = [
    section(0, sht.null, 0, 0, 0, 0),
    section(nameAt(0), sht.strtab, stringsAt, strings.length, 0, 0),
    section(nameAt(1), sht.note, noteAt, notes.length, 0, 0),
    section(nameAt(2), sht.progbits, prstatusAt, contextBytes * vcpus, 16, contextBytes),
    section(nameAt(3), sht.progbits, sharedAt, pageBytes, 8, pageBytes),
    section(nameAt(4), sht.progbits, pagesAt, pages * pageBytes, pageBytes, pageBytes),
    section(nameAt(5), sht.progbits, p2mAt, pages * 16, 8, 16),
  ];
  const p2m = Buffer.alloc(pages * 16);
  for (let page = 0; page < pages; page++) {
    p2m.writeBigUInt64LE(BigInt(page), page * 16);
    p2m.writeBigUInt64LE(invalid, page * 16 + 8);
  }
  return [
    { at: 0, bytes: Buffer.concat([elfHeader(sections.length), ...sections, notes]) },
    { at: p2mAt, bytes: Buffer.concat([p2m, strings]) },
  ];

  function nameAt(index: number): number {
    return names.slice(0, index).reduce((at, name) => at + name.length + 1, 1);
  }
}

function elfHeader(sections: number): Buffer {
  const header = Buffer.alloc(elfHeaderBytes);
  // Magic, 64 bits, little endian, version 1, System V, ABI version 1.
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 1]);
  header.writeUInt16LE(4, 16);
  header.writeUInt16LE(62, 18);
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(elfHeaderBytes), 40);
  header.writeUInt16LE(elfHeaderBytes, 52);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(sectionHeaderBytes, 58);
  header.writeUInt16LE(sections, 60);
  header.writeUInt16LE(1, 62);
  return header;
}

function section(name: number, type: number, at: number, bytes: number, align: number, entry: number): Buffer {
  const header = Buffer.alloc(sectionHeaderBytes);
  header.writeUInt32LE(name, 0);
  header.writeUInt32LE(type, 4);
  header.writeBigUInt64LE(BigInt(at), 24);
  header.writeBigUInt64LE(BigInt(bytes), 32);
  header.writeBigUInt64LE(BigInt(align), 48);
  header.writeBigUInt64LE(BigInt(entry), 56);
  return header;
}

/** What `xl info` says of the same hypervisor. */
const xen = {
  extraversion: '.7',
  compiler: 'x86_64-linux-gnu-gcc (Debian 12.2.0-14+deb12u1) 12.2.0',
  compileBy: 'pkg-xen-devel',
  compileDomain: 'lists.alioth.debian.org',
  compileDate: 'Wed Nov  4 16:52:28 UTC 2026',
  capabilities: 'xen-3.0-x86_64 ',
  virtStart: 0xffff_8000_0000_0000n,
} as const;

function coreNotes(vcpus: number, pages: number): Buffer {
  const words = (...values: readonly (bigint | number)[]) => {
    const bytes = Buffer.alloc(8 * values.length);
    for (const [index, value] of values.entries()) bytes.writeBigUInt64LE(BigInt(value), index * 8);
    return bytes;
  };
  const text = (value: string, length: number) => {
    const bytes = Buffer.alloc(length);
    bytes.write(value.slice(0, length - 1), 'latin1');
    return bytes;
  };
  const version = Buffer.concat([
    words(4, 17),
    text(xen.extraversion, 16),
    // xen_compile_info: 64, 16, 32 and 32 bytes.
    text(xen.compiler, 64),
    text(xen.compileBy, 16),
    text(xen.compileDomain, 32),
    text(xen.compileDate, 32),
    text(xen.capabilities, 1024),
    text('', 64),
    words(xen.virtStart, pageBytes),
  ]);
  return Buffer.concat([
    elfNote(note.none, Buffer.alloc(0)),
    elfNote(note.header, words(coreMagic, vcpus, pages, pageBytes)),
    elfNote(note.xenVersion, version),
    elfNote(note.formatVersion, words(1)),
  ]);
}

function elfNote(type: number, description: Buffer): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt32LE(4, 0);
  head.writeUInt32LE(description.length, 4);
  head.writeUInt32LE(type, 8);
  head.write('Xen\0', 12, 'latin1');
  return Buffer.concat([head, description]);
}
