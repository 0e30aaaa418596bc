/** The frames are those of docs/specs/libxl-migration-stream.pandoc and libxc-migration-stream.pandoc of Xen. */
import { readStream, StreamError, streamHead, streamTail } from '../../src/libxl/stream.js';
import type { SavedGuest } from '../../src/xenbus/privcmd.js';

const guest: SavedGuest = {
  memoryKb: 131_072,
  maxKb: 132_096,
  maxVcpus: 2,
  onlineVcpus: 1,
  cmdline: 'console=hvc0',
  cpuTime: 0.25,
  uptimeMs: 61_000,
  devices: ['device/vbd/51712', 'device/vif/0'],
};
const whole = Buffer.concat([streamHead(), streamTail(guest)]);

function reader(bytes: Buffer) {
  let at = 0;
  return async (count: number) => {
    at += count;
    return bytes.subarray(at - count, at);
  };
}

/** Reads a stream; answers with the guest, or with the line that says what is wrong. */
async function read(bytes: Buffer): Promise<SavedGuest | string> {
  try {
    return await readStream(reader(bytes), () => undefined);
  } catch (error) {
    if (error instanceof StreamError) return error.message;
    throw error;
  }
}

const changed = (at: number, ...bytes: readonly number[]) => {
  const copy = Buffer.from(whole);
  copy.set(bytes, at);
  return copy;
};

test('what is written is read, and says by which Xen', async () => {
  const found: string[] = [];
  expect(await readStream(reader(whole), (xen) => found.push(xen))).toEqual(guest);
  expect(found).toEqual(['4.17']);
});

test('the head is that of a real stream, up to the record of the guest', () => {
  expect(streamHead().toString('hex').match(/.{16}/g)).toEqual([
    // LibxlFmt, version 2, no options; LIBXC_CONTEXT
    '4c6962786c466d74',
    '0000000200000000',
    '0100000000000000',
    // the image header: marker, XENF, version 3, no options
    'ffffffffffffffff',
    '58454e4600000003',
    '0000000000000000',
    // the domain header: x86 PV, page shift 12, Xen 4.17
    '010000000c000000',
    '0400000011000000',
    // X86_PV_INFO: 64 bits, 4 levels; STATIC_DATA_END
    '0200000008000000',
    '0804000000000000',
    '1000000000000000',
  ]);
});

test('every record is a multiple of 8 bytes, and the last two are the ends', () => {
  expect(streamTail(guest).length % 8).toBe(0);
  expect(streamTail(guest).subarray(-16)).toEqual(Buffer.alloc(16));
});

test('records that nobody has to know are passed over', async () => {
  const record = Buffer.alloc(24);
  record.writeUInt32LE(0x8000_0001, 0);
  record.writeUInt32LE(13, 4);
  expect(await read(Buffer.concat([streamHead(), record, streamTail(guest)]))).toEqual(guest);
});

test.each([
  ['nothing at all', Buffer.alloc(0), 'Invalid ident: expected 0x4c6962786c466d74, got 0x0000000000000000'],
  ['another ident', changed(0, 0x58), 'Invalid ident: expected 0x4c6962786c466d74, got 0x586962786c466d74'],
  ['another version', changed(11, 9), 'Unexpected Version: expected 2, got 9'],
  ['big endian', changed(15, 1), 'Unable to handle big endian streams'],
  ['an unknown record', changed(16, 9), 'Unrecognised record 0x00000009'],
  ['no image header', whole.subarray(0, 30), 'Failed to read Image Header from stream (0 = Success)'],
  ['another marker', changed(24, 0), 'Invalid marker: Got 0xffffffffffffff00'],
  ['another id', changed(32, 0x59), 'Invalid ID: Expected 0x58454e46, Got 0x59454e46'],
  ['another version of libxc', changed(39, 4), 'Invalid Version: Expected 2 <= ver <= 3, Got 4'],
  ['no domain header', whole.subarray(0, 50), 'Failed to read Domain Header from stream (0 = Success)'],
  ['half a record header', whole.subarray(0, 92), 'Failed to read Record Header from stream (0 = Success)'],
  ['half a record', whole.subarray(0, 76), 'Failed to read 8 bytes of data for record (0x00000002, x86 PV info) (0 = Success)'],
])('%s is refused in the words of libxc or libxl', async (_what, bytes, line) => {
  expect(await read(bytes)).toBe(line);
});

test('the last record may be missing: libxl takes what is not there for zeros', async () => {
  expect(await read(whole.subarray(0, -8))).toEqual(guest);
});

test('a stream that has pages is told from one of ours', async () => {
  const end = Buffer.alloc(16);
  expect(await read(Buffer.concat([streamHead(), end]))).toMatch(/^the stream was saved by another Xen/);
});
