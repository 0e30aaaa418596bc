/**
 * The stream of a saved domain, from docs/specs/libxl-migration-stream.pandoc and libxc-migration-stream.pandoc of Xen:
 * the frames, byte for byte, and in them one record of ours.
 *
 * ```
 * "LibxlFmt", version 2, options 0              big endian; what follows is little endian
 * LIBXC_CONTEXT, 0 bytes
 *   ff*8 "XENF" version 3, options 0            image header
 *   x86 PV, page shift 12, Xen 4.17             domain header
 *   X86_PV_INFO  width 8, 4 levels
 *   STATIC_DATA_END
 *   0x80006d78   the guest, as JSON             an optional record, which another tool may pass over
 *   END
 * END
 * ```
 *
 * A real stream has pages and registers where this one has its record: real Xen finds no shared info in it, and ends with
 * an error; this reader ends in the same way at a stream that has no such record. Pure but for the source it reads from.
 */
import type { SavedGuest } from '../xenbus/privcmd.js';

/** Gives the next `count` bytes, or what there is before the end. */
export type ReadBytes = (count: number) => Promise<Buffer>;

/** A stream that is no saved domain: the lines that say so, innermost first. */
export class StreamError extends Error {
  override readonly name = 'StreamError';

  constructor(
    /** Whose line it is: libxc's, or libxl's with its place in the source. */
    readonly who: { readonly libxc: true } | { readonly where: string },
    message: string,
  ) {
    super(message);
  }
}

const libxlIdent = Buffer.from('LibxlFmt', 'latin1');
const libxlVersion = 2;
const libxcVersion = 3;
const xenVersion = { major: 4, minor: 17 };
const x86Pv = 1;

/** Record types of libxl and of libxc. */
const libxl = { end: 0, libxcContext: 1 } as const;
const libxc = { end: 0, x86PvInfo: 2, staticDataEnd: 0x10, optional: 0x8000_0000, model: 0x8000_6d78 } as const;
/** REC_LENGTH_MAX of libxc. */
const recordMaxBytes = 128 << 20;
/** A model is small; a longer record is none. */
const modelMaxBytes = 64 * 1024;

/** What goes out before the guest is asked to suspend. */
export function streamHead(): Buffer {
  const head = Buffer.alloc(16);
  libxlIdent.copy(head);
  head.writeUInt32BE(libxlVersion, 8);
  const image = Buffer.alloc(24, 0xff, 'latin1');
  image.fill(0, 8);
  image.write('XENF', 8, 'latin1');
  image.writeUInt32BE(libxcVersion, 12);
  const domain = Buffer.alloc(16);
  domain.writeUInt32LE(x86Pv, 0);
  domain.writeUInt16LE(12, 4);
  domain.writeUInt32LE(xenVersion.major, 8);
  domain.writeUInt32LE(xenVersion.minor, 12);
  const pvInfo = record(libxc.x86PvInfo, Buffer.from([8, 4, 0, 0, 0, 0, 0, 0]));
  return Buffer.concat([head, record(libxl.libxcContext), image, domain, pvInfo, record(libxc.staticDataEnd)]);
}

/** What goes out once it has. */
export function streamTail(guest: SavedGuest): Buffer {
  return Buffer.concat([record(libxc.model, Buffer.from(JSON.stringify(guest))), record(libxc.end), record(libxl.end)]);
}

/** A record: type, length, body, and zeros up to a multiple of 8. */
function record(type: number, body: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32LE(type, 0);
  head.writeUInt32LE(body.length, 4);
  return Buffer.concat([head, body, Buffer.alloc((8 - (body.length % 8)) % 8)]);
}

const readWhere = (line: number, name: string) => ({ where: `libxl_stream_read.c:${line}:${name}` });

/** Reads a stream to its end. `found` is told which Xen wrote it, once its headers are read. */
export async function readStream(read: ReadBytes, found: (xen: string) => void): Promise<SavedGuest> {
  const head = await padded(read, 16);
  const ident = head.readBigUInt64BE(0);
  const wanted = libxlIdent.readBigUInt64BE(0);
  if (ident !== wanted) {
    const hex = (value: bigint) => `0x${value.toString(16).padStart(16, '0')}`;
    throw new StreamError(readWhere(340, 'stream_header_done'), `Invalid ident: expected ${hex(wanted)}, got ${hex(ident)}`);
  }
  const version = head.readUInt32BE(8);
  if (version !== libxlVersion) {
    const text = `Unexpected Version: expected ${libxlVersion}, got ${version}`;
    throw new StreamError(readWhere(347, 'stream_header_done'), text);
  }
  if (head.readUInt32BE(12) & 1)
    throw new StreamError(readWhere(353, 'stream_header_done'), 'Unable to handle big endian streams');
  let guest: SavedGuest | undefined;
  for (;;) {
    const [type, length] = recordHead(await padded(read, 8));
    if (length > 0) await skip(read, length + ((8 - (length % 8)) % 8));
    if (type === libxl.libxcContext) guest = await readLibxc(read, found);
    else if (type === libxl.end) break;
    else {
      const text = `Unrecognised record 0x${type.toString(16).padStart(8, '0')}`;
      throw new StreamError(readWhere(646, 'process_record'), text);
    }
  }
  if (!guest) throw new StreamError({ where: '' }, 'the stream has no domain in it');
  return guest;
}

async function readLibxc(read: ReadBytes, found: (xen: string) => void): Promise<SavedGuest> {
  const bad = (text: string) => new StreamError({ libxc: true }, text);
  const image = await fromLibxc(read, 24, 'Failed to read Image Header from stream');
  const marker = image.readBigUInt64BE(0);
  if (marker !== 0xffff_ffff_ffff_ffffn)
    throw bad(`Invalid marker: Got 0x${image.readBigUInt64LE(0).toString(16).padStart(16, '0')}`);
  const id = image.readUInt32BE(8);
  if (id !== 0x5845_4e46) throw bad(`Invalid ID: Expected 0x58454e46, Got 0x${id.toString(16).padStart(8, '0')}`);
  const version = image.readInt32BE(12);
  if (version < 2 || version > 3) throw bad(`Invalid Version: Expected 2 <= ver <= 3, Got ${version}`);
  if (image.readUInt16BE(16) & 1) throw bad('Unable to handle big endian streams');
  const domain = await fromLibxc(read, 16, 'Failed to read Domain Header from stream');
  if (domain.readUInt32LE(0) !== x86Pv) throw bad('the domain is not an x86 PV domain, and no other is modelled');
  found(`${domain.readUInt32LE(8)}.${domain.readUInt32LE(12)}`);
  let guest: SavedGuest | undefined;
  for (;;) {
    const [type, length] = recordHead(await fromLibxc(read, 8, 'Failed to read Record Header from stream'));
    if (length > recordMaxBytes) throw tooLong(type, length);
    const size = length + ((8 - (length % 8)) % 8);
    const named = `(0x${type.toString(16).padStart(8, '0')}, ${recordNames[type] ?? 'Reserved'})`;
    const body = await fromLibxc(read, size, `Failed to read ${size} bytes of data for record ${named}`);
    if (type === libxc.end) break;
    if (type === libxc.model && length <= modelMaxBytes) guest = parseModel(body.subarray(0, length));
  }
  if (!guest) throw bad('the stream was saved by another Xen: it has pages, and this dom0 has no machine to put them into');
  return guest;
}

/** libxc's names of records. */
const recordNames: Readonly<Record<number, string>> = {
  0: 'End',
  1: 'Page data',
  2: 'x86 PV info',
  3: 'x86 PV P2M frames',
  4: 'x86 PV vcpu basic',
  5: 'x86 PV vcpu extended',
  6: 'x86 PV vcpu xsave',
  7: 'Shared info',
  8: 'x86 TSC info',
  16: 'Static data end',
  17: 'x86 CPUID policy',
  18: 'x86 MSR policy',
};

function tooLong(type: number, length: number): StreamError {
  const record = `Record (0x${type.toString(16).padStart(8, '0')}, ${recordNames[type] ?? 'Reserved'})`;
  return new StreamError(
    { libxc: true },
    `${record} length 0x${length.toString(16)} exceeds max (0x${recordMaxBytes.toString(16)})`,
  );
}

/** Passes over bytes, a piece at a time: their number comes out of the stream. */
async function skip(read: ReadBytes, count: number): Promise<void> {
  for (let left = count; left > 0; ) {
    const { length } = await read(Math.min(left, 1 << 20));
    if (length === 0) return;
    left -= length;
  }
}

function parseModel(body: Buffer): SavedGuest {
  try {
    return JSON.parse(body.toString('utf8')) as SavedGuest;
  } catch {
    throw new StreamError({ libxc: true }, 'the record of the guest is no JSON');
  }
}

function recordHead(bytes: Buffer): [type: number, length: number] {
  return [bytes.readUInt32LE(0), bytes.readUInt32LE(4)];
}

/** libxl takes what is missing at the end for zeros: a header of nothing is a bad one, and a record of nothing is the last. */
async function padded(read: ReadBytes, count: number): Promise<Buffer> {
  const bytes = Buffer.alloc(count);
  (await read(count)).copy(bytes);
  return bytes;
}

async function fromLibxc(read: ReadBytes, count: number, what: string): Promise<Buffer> {
  const bytes = count === 0 ? Buffer.alloc(0) : await read(count);
  if (bytes.length < count) throw new StreamError({ libxc: true }, `${what} (0 = Success)`);
  return bytes;
}
