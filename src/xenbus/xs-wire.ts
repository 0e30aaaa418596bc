/**
 * The XenStore wire format: one header of four little-endian words, then the payload.
 *
 * Facts from xen/include/public/io/xs_wire.h and docs/misc/xenstore.txt. No socket and no meaning here: bytes become
 * packets and packets become bytes.
 */

export const XsType = {
  Control: 0,
  Directory: 1,
  Read: 2,
  GetPerms: 3,
  Watch: 4,
  Unwatch: 5,
  TransactionStart: 6,
  TransactionEnd: 7,
  Introduce: 8,
  Release: 9,
  GetDomainPath: 10,
  Write: 11,
  Mkdir: 12,
  Rm: 13,
  SetPerms: 14,
  WatchEvent: 15,
  Error: 16,
  IsDomainIntroduced: 17,
  Resume: 18,
  SetTarget: 19,
  ResetWatches: 21,
  DirectoryPart: 22,
} as const;
export type XsType = (typeof XsType)[keyof typeof XsType];

const typeNames = new Map<number, string>(
  Object.entries(XsType).map(([name, type]) => [type, name.replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase()]),
);

/** `TRANSACTION_START` for 6; the number itself for a type that the protocol does not have. */
export function typeName(type: number): string {
  return typeNames.get(type) ?? String(type);
}

export const XS_HEADER_SIZE = 16;
export const XENSTORE_PAYLOAD_MAX = 4096;
export const XENSTORE_ABS_PATH_MAX = 3072;
export const XENSTORE_REL_PATH_MAX = 2048;

/** The errors that the protocol can name (xsd_errors in xs_wire.h). */
export const xsErrnos = [
  'EINVAL',
  'EACCES',
  'EEXIST',
  'EISDIR',
  'ENOENT',
  'ENOMEM',
  'ENOSPC',
  'EIO',
  'ENOTEMPTY',
  'ENOSYS',
  'EROFS',
  'EBUSY',
  'EAGAIN',
  'EISCONN',
  'E2BIG',
  'EPERM',
] as const;
export type XsErrno = (typeof xsErrnos)[number];

/**
 * A peer's mistake or a store's refusal, as an errno of the protocol. It is an answer, not an accident, and there may be
 * many of them: so it has no stack, which would cost more than the request.
 */
export class XsError extends Error {
  override readonly name = 'XsError';
  readonly errno: XsErrno;

  constructor(errno: XsErrno, detail = '') {
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = 0;
    super(detail ? `${errno}: ${detail}` : errno);
    Error.stackTraceLimit = limit;
    this.errno = errno;
  }
}

/**
 * One message, in either direction. `type` is a plain number: a peer may send any. The payload is a byte string, as every
 * path, value and token is: a character for each byte (latin1), whatever the encoding of its text.
 */
export interface XsPacket {
  readonly type: number;
  readonly reqId: number;
  readonly txId: number;
  readonly payload: string;
}

export type Decoded =
  | { readonly kind: 'packet'; readonly packet: XsPacket; readonly size: number }
  | { readonly kind: 'short'; readonly need: number }
  | { readonly kind: 'bad'; readonly reason: string };

/** Takes one packet out of `bytes`, from `at` on. Too few bytes is an outcome; over the limit is final. */
export function decode(bytes: Buffer, at = 0): Decoded {
  const have = bytes.length - at;
  if (have < XS_HEADER_SIZE) return { kind: 'short', need: XS_HEADER_SIZE - have };
  const length = bytes.readUInt32LE(at + 12);
  if (length > XENSTORE_PAYLOAD_MAX) return { kind: 'bad', reason: `payload of ${length} bytes is over ${XENSTORE_PAYLOAD_MAX}` };
  const size = XS_HEADER_SIZE + length;
  if (have < size) return { kind: 'short', need: size - have };
  const packet: XsPacket = {
    type: bytes.readUInt32LE(at),
    reqId: bytes.readUInt32LE(at + 4),
    txId: bytes.readUInt32LE(at + 8),
    payload: bytes.toString('latin1', at + XS_HEADER_SIZE, at + size),
  };
  return { kind: 'packet', packet, size };
}

/** A payload up to this is copied a byte at a time; a longer one is worth a call into the machine. */
const shortBytes = 24;

/** Packets as the bytes of one write. */
export function encode(...packets: readonly XsPacket[]): Buffer {
  let size = 0;
  for (const { payload } of packets) size += XS_HEADER_SIZE + payload.length;
  const bytes = Buffer.allocUnsafe(size);
  let at = 0;
  for (const { type, reqId, txId, payload } of packets) {
    bytes.writeUInt32LE(type >>> 0, at);
    bytes.writeUInt32LE(reqId >>> 0, at + 4);
    bytes.writeUInt32LE(txId >>> 0, at + 8);
    bytes.writeUInt32LE(payload.length, at + 12);
    if (payload.length > shortBytes) bytes.write(payload, at + XS_HEADER_SIZE, 'latin1');
    else for (let i = 0; i < payload.length; i += 1) bytes[at + XS_HEADER_SIZE + i] = payload.charCodeAt(i);
    at += XS_HEADER_SIZE + payload.length;
  }
  return bytes;
}

/** The NUL-terminated strings of a payload; a last one without its NUL counts too. */
export function splitStrings(payload: string): string[] {
  const parts = payload.split('\0');
  if (parts.at(-1) === '') parts.pop();
  return parts;
}

/** The strings of a payload that have their NUL; bytes after the last NUL are left out, as the C server does. */
export function terminatedStrings(payload: string): string[] {
  const parts = payload.split('\0');
  parts.pop();
  return parts;
}

/** The one string of a payload that is a string with its NUL and nothing else. */
export function oneString(payload: string): string | undefined {
  const nul = payload.indexOf('\0');
  return nul >= 0 && nul === payload.length - 1 ? payload.slice(0, nul) : undefined;
}

/** Strings, each with its NUL. */
export function joinStrings(...strings: readonly string[]): string {
  let payload = '';
  for (const string of strings) payload += `${string}\0`;
  return payload;
}

/** One entry of a node's permissions. The first entry's domid owns the node; its letters are for all who are not named. */
export interface Perm {
  readonly domid: number;
  readonly read: boolean;
  readonly write: boolean;
}

/** `r1`, `n0`, `b7`, `w3`. */
export function formatPerm(perm: Perm): string {
  const letter = perm.read ? (perm.write ? 'b' : 'r') : perm.write ? 'w' : 'n';
  return `${letter}${perm.domid}`;
}

/** The other way; undefined for what is not a permission. */
export function parsePerm(text: string): Perm | undefined {
  const match = /^([rwbn])(-?\d{1,10})$/.exec(text);
  if (!match) return undefined;
  const [, letter, digits] = match;
  return { domid: Number(digits), read: letter === 'r' || letter === 'b', write: letter === 'w' || letter === 'b' };
}
