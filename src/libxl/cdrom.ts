/**
 * Changing the medium of a guest's CD drive: qemu's to do, and so for HVM guests alone, of which none runs here. What is
 * left is what xl and libxl 4.17 say on the way there (`xl_cdrom.c`, `libxl_cdrom_insert`).
 */
import { type Ctx, LibxlError, Rc } from './ctx.js';
import { parseDiskSpec } from './disk-spec.js';
import { checkType } from './domain.js';

/** Refuses it. Answers with xl's complaint about what was asked for; libxl's own refusals are logged and thrown. */
export async function cdromInsert(ctx: Ctx, domid: number, vdev: string, path: string): Promise<string | undefined> {
  const parsed = parseDiskSpec(`vdev=${vdev},access=r,devtype=cdrom,target=${path}`, 'command line');
  if ('errors' in parsed) return parsed.errors.join('\n');
  const { format, pdevPath = '' } = parsed.disk;
  if (format !== 'empty' && !(await ctx.host.stat(pdevPath))) return `Cannot stat file: ${pdevPath}`;
  return refuseInsert(ctx, domid);
}

/** libxl_cdrom_insert of a guest that is no HVM guest. */
export async function refuseInsert(ctx: Ctx, domid: number): Promise<never> {
  await checkType(ctx, domid);
  const line = 'cdrom-insert requires an HVM domain';
  ctx.log('error', 'libxl_disk.c:838:libxl_cdrom_insert', domid, line);
  throw new LibxlError(Rc.INVAL, line);
}
