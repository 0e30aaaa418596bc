/** `xl domid` and `xl domname`: from a name to a domid and back. */
import { domidToName, nameToDomid } from '../../libxl/domain.js';
import { type Session, XlFailure } from '../session.js';

export async function domid({ ctx }: Session, name: string): Promise<void> {
  const found = await nameToDomid(ctx, name);
  if (found === undefined) {
    throw new XlFailure(1, `Can't get domid of domain name '${name}', maybe this domain does not exist.`);
  }
  process.stdout.write(`${found}\n`);
}

/** The domid that a word begins with: digits at the beginning will do, as they do for xl. Any other word is refused. */
export function domidOf(text: string): number {
  const digits = /^\s*\+?(\d+)/.exec(text)?.[1];
  if (digits === undefined) throw new XlFailure(1, 'Invalid domain id.\n');
  return Math.min(Number(digits), 0xffff_ffff);
}

export async function domname({ ctx }: Session, domid: number): Promise<void> {
  const name = await domidToName(ctx, domid);
  if (name === undefined) {
    throw new XlFailure(1, `Can't get domain name of domain id '${domid}', maybe this domain does not exist.`);
  }
  process.stdout.write(`${name}\n`);
}
