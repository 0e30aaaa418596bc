/**
 * One line of JSON for every request and event of the store, in server order.
 *
 * ```
 * {"t":12.3,"conn":4,"who":"xl","domid":0,"tx":0,"op":"WRITE","args":["/local/domain/0/mtwatch/1",""],"result":"OK"}
 * ```
 *
 * `result` is `OK`, the errno, or what was answered. Values are shown as they travel, byte for byte (latin1).
 */
import type { Ms } from './clock.js';
import type { Who } from './transport.js';
import { splitStrings, typeName, type XsPacket, XsType } from './xs-wire.js';

export interface TraceLine {
  readonly t: Ms;
  readonly conn: number;
  readonly who: Who;
  readonly domid: number;
  readonly tx: number;
  readonly op: string;
  readonly args: readonly string[];
  readonly result: string | readonly string[] | null;
}

/** What a connection asked and was told, or (without `reply`) an event that it was sent. */
export function traceLine(
  t: Ms,
  conn: number,
  who: Who,
  domid: number,
  packet: XsPacket,
  reply: XsPacket | undefined,
): TraceLine {
  return { t, conn, who, domid, tx: packet.txId, op: typeName(packet.type), args: args(packet), result: result(packet, reply) };
}

/** The strings of a request; the value of a WRITE is bytes to the end, without a NUL. */
function args(packet: XsPacket): string[] {
  if (packet.type !== XsType.Write) return splitStrings(packet.payload);
  const end = packet.payload.indexOf('\0');
  return end < 0 ? [packet.payload] : [packet.payload.slice(0, end), packet.payload.slice(end + 1)];
}

function result(request: XsPacket, reply: XsPacket | undefined): string | string[] | null {
  if (!reply) return null;
  if (request.type === XsType.Read && reply.type === XsType.Read) return reply.payload;
  const strings = splitStrings(reply.payload);
  return strings.length === 1 ? (strings[0] ?? '') : strings;
}
