/**
 * Suspending a domain, saving it to a stream, and letting it go on: libxl_domain_suspend and libxl_domain_resume
 * (libxl_dom_suspend.c, libxl_dom_save.c, libxl_stream_write.c of 4.17, and libxc's xg_sr_save.c, which speaks as `xc:`).
 *
 * The guest suspends itself: it is asked through `control/shutdown`, acknowledges by taking the request, and stops. Who
 * has been suspended is resumed cooperatively: its call returns as cancelled, and rings and watches are as they were.
 */
import { domainPath, join } from '../xenbus/paths.js';
import { PrivcmdError, type SavedGuest } from '../xenbus/privcmd.js';
import { ShutdownReason } from '../xenbus/xenbus.js';
import { abort } from '../xenbus/xs-client.js';
import { beginWait, strerror, transact } from './ao.js';
import { type Ctx, LIBXL_PVCONTROL_TIMEOUT, LibxlError, type LogLevel, Rc } from './ctx.js';
import { checkAlive } from './device.js';
import { checkType, domainInfo } from './domain.js';
import { streamHead, streamTail } from './stream.js';

/** How long a guest that has acknowledged may take to stop, in milliseconds. */
const suspendTimeoutMs = 60_000;

/** Takes bytes of the stream, in order. Rejects with the words of the system's error. */
export type WriteBytes = (bytes: Buffer) => Promise<void>;

/** A stream that could not be written, in the words of strerror(3) with the number before. */
export class WriteFailed extends Error {
  override readonly name = 'WriteFailed';

  constructor(
    readonly errno: number,
    readonly words: string,
  ) {
    super(words);
  }
}

const xcError = (ctx: Ctx, text: string) => ctx.xcLog(`xc: error: ${text}: Internal error`);

/** Pages between two reports of how many are sent: 4 MiB. */
const reportPages = 1024;
/** A report is worth a line at this level when it is so many percent further than the last one, or behind it. */
const reportPercent = 5;

/** How far a save is, on the log (stdiostream_progress): at each of its steps, and more often for who wants details. */
function progressOf(ctx: Ctx): (what: string, done: number, total: number) => void {
  let last = 0;
  const print = (level: LogLevel, line: string) => ctx.xcLog(`xc: ${level}: ${line}`, level);
  return (what, done, total) => {
    const percent = total === 0 ? 0 : Math.floor((done * 100) / total);
    if (percent === last) return;
    const isStep = percent < last || percent >= last + reportPercent;
    print(isStep ? 'progress' : 'detail', `${what}: ${done}/${total}  ${String(percent).padStart(3)}%`);
    if (isStep) last = percent;
  };
}

/** The frame of dom0's shared info page, as a host of 6 GiB has it. */
const dom0SharedInfo = 0xbfda7;

export interface SuspendOptions {
  /** A migration does not say how far it is. */
  readonly quiet?: boolean;
}

/** Suspends a domain and writes what it is. When this fails the domain may or may not be suspended; the caller resumes it. */
export async function domainSuspend(ctx: Ctx, domid: number, write: WriteBytes, options: SuspendOptions = {}): Promise<void> {
  await checkType(ctx, domid);
  await ctx.xs.read(join(domainPath(domid), 'device/suspend/event-channel'));
  let responded = false;
  const fail = (rc: Rc, errno: number, words: string): LibxlError => {
    xcError(ctx, `Save failed (${errno} = ${words})`);
    const line = responded ? 'domain responded to suspend request' : 'domain did not respond to suspend request';
    ctx.log('error', 'libxl_stream_write.c:347:libxl__xc_domain_save_done', domid, `saving domain: ${line}: ${words}`);
    return new LibxlError(responded ? rc : Rc.GUEST_TIMEDOUT, line);
  };
  try {
    await write(streamHead()).catch((error: unknown) => {
      if (!(error instanceof WriteFailed)) throw error;
      const line = `error writing to stream header during copy of save v2 stream: ${error.words}`;
      ctx.log('error', 'libxl_aoutils.c:347:datacopier_writable', undefined, line);
      throw new LibxlError(Rc.FAIL, line);
    });
    ctx.xcLog(`xc: info: Saving domain ${domid}, type x86 PV`, 'info');
    if (domid === 0) {
      // Xen gives nobody the frames of dom0, dom0 included.
      xcError(ctx, `Failed to map shared info frame at mfn 0x${dom0SharedInfo.toString(16)} (3 = ${strerror('ESRCH')})`);
      throw fail(Rc.FAIL, 3, strerror('ESRCH'));
    }
    const suspended = await suspendGuest(ctx, domid, () => {
      responded = true;
    });
    if (suspended !== 0) {
      xcError(ctx, 'save callback suspend() failed: 0');
      throw fail(suspended, 0, 'Success');
    }
    const info = await domainInfo(ctx, domid);
    if (info?.shutdown !== ShutdownReason.suspend) {
      xcError(ctx, `Domain has not been suspended: ${shutdownWords(info?.shutdown)}`);
      throw fail(Rc.FAIL, 0, 'Success');
    }
    const guest: SavedGuest = await ctx.xc.call('xc.dom_save', { domid });
    if (!options.quiet) reportFrames(progressOf(ctx), Math.floor(guest.memoryKb / 4));
    await write(streamTail(guest));
  } catch (error) {
    if (error instanceof WriteFailed) {
      xcError(ctx, `Failed to write page data to stream (${error.errno} = ${error.words})`);
      throw fail(Rc.FAIL, error.errno, error.words);
    }
    if (error instanceof PrivcmdError) throw fail(Rc.FAIL, 22, strerror(error.errno));
    throw error;
  }
}

/** Suspends a domain where it is (libxl_domain_suspend_only, which came after 4.17): it keeps its memory and its devices. */
export async function domainSuspendOnly(ctx: Ctx, domid: number): Promise<void> {
  await checkType(ctx, domid);
  const rc = await suspendGuest(ctx, domid, () => undefined);
  if (rc !== 0) throw new LibxlError(rc, `domain ${domid} was not suspended`);
}

/** What a save says of the frames of a domain. There are none to send here, so they are all there at once. */
function reportFrames(report: ReturnType<typeof progressOf>, frames: number): void {
  for (let sent = 0; sent < frames; sent += reportPages) report('Frames', sent, frames);
  report('Frames', frames, frames);
  report('End of stream', 0, 0);
}

/** libxl__domain_suspend of a PV guest; answers with 0, or with what went wrong, which has been logged. */
async function suspendGuest(ctx: Ctx, domid: number, acknowledged: () => void): Promise<0 | Rc> {
  const debug = (line: number, name: string, text: string) =>
    ctx.log('debug', `libxl_dom_suspend.c:${line}:${name}`, domid, text);
  debug(203, 'domain_suspend_callback_common', 'issuing PV suspend request via XenBus control node');
  const path = join(await ctx.xs.getDomainPath(domid), 'control', 'shutdown');
  await transact(ctx, async (tx) => {
    await checkAlive(tx, domid);
    await tx.write(path, 'suspend');
  });
  try {
    const taken = await beginWait(ctx, path, LIBXL_PVCONTROL_TIMEOUT, (value) => value !== 'suspend');
    await taken();
  } catch (error) {
    if (!(error instanceof LibxlError)) throw error;
    if (error.rc !== Rc.TIMEDOUT) return error.rc;
    if (await cancelRequest(ctx, path)) {
      const where = 'libxl_dom_suspend.c:269:domain_suspend_common_pvcontrol_suspending';
      ctx.log('error', where, domid, "guest didn't acknowledge suspend, cancelling request");
      // Nothing went wrong by then, in libxl's eyes; libxc finds a domain that has not been suspended.
      return 0;
    }
  }
  debug(281, 'domain_suspend_common_pvcontrol_suspending', 'guest acknowledged suspend request');
  acknowledged();
  debug(300, 'domain_suspend_common_wait_guest', 'wait for the guest to suspend');
  return waitSuspended(ctx, domid);
}

/** Takes the request back, unless the guest has taken it at the last moment. Answers whether it did. */
async function cancelRequest(ctx: Ctx, path: string): Promise<boolean> {
  const done = await transact(ctx, async (tx) => {
    if ((await tx.read(path)) !== 'suspend') return abort;
    await tx.write(path, '');
    return true;
  });
  return done === true;
}

/** Waits for the domain to have stopped with SHUTDOWN_suspend; asks again whenever the store says that some domain has stopped. */
async function waitSuspended(ctx: Ctx, domid: number): Promise<0 | Rc> {
  let stale = false;
  let late = false;
  let wake = () => {};
  const look = () => {
    stale = true;
    wake();
  };
  const watch = await ctx.xs.watch('@releaseDomain', look);
  const cancel = ctx.clock.after(suspendTimeoutMs * ctx.timeoutScale, () => {
    late = true;
    wake();
  });
  const where = (line: number, name: string) => `libxl_dom_suspend.c:${line}:${name}`;
  try {
    for (;;) {
      if (stale) {
        stale = false;
        const info = await domainInfo(ctx, domid);
        if (!info) {
          const text = `guest we were suspending has been destroyed: ${strerror('ENOENT')}`;
          ctx.log('error', where(342, 'suspend_common_wait_guest_check'), domid, text);
          return Rc.FAIL;
        }
        if (info.shutdown === ShutdownReason.suspend) {
          ctx.log('debug', where(358, 'suspend_common_wait_guest_check'), domid, 'guest has suspended');
          return 0;
        }
        if (info.shutdown !== null) {
          const text = `guest we were suspending has shut down with unexpected reason code ${info.shutdown}`;
          ctx.log('debug', where(353, 'suspend_common_wait_guest_check'), domid, text);
          return Rc.FAIL;
        }
      }
      if (late) {
        ctx.log('error', where(372, 'suspend_common_wait_guest_timeout'), domid, 'guest did not suspend, timed out');
        return Rc.GUEST_TIMEDOUT;
      }
      if (!stale) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    cancel();
    await watch.close();
  }
}

/** Lets a suspended domain go on where it is. The store is told too, which has taken it for one that shut down. */
export async function domainResume(ctx: Ctx, domid: number): Promise<void> {
  await checkType(ctx, domid);
  const info = await domainInfo(ctx, domid);
  const fail = (text: string) => {
    ctx.log('error', 'libxl_dom_suspend.c:666:domain_resume_done', domid, text);
    return new LibxlError(Rc.FAIL, text);
  };
  if (info?.shutdown !== ShutdownReason.suspend) {
    xcError(ctx, `Dom ${domid} not suspended: (${shutdownWords(info?.shutdown)})`);
    throw fail(`xc_domain_resume failed: ${strerror('EINVAL')}`);
  }
  try {
    await ctx.xc.call('xc.domain_resume', { domid });
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    throw fail(`xc_domain_resume failed: ${strerror(error.errno)}`);
  }
  await ctx.xs.resume(domid);
}

/** What libxc says of a domain's end: whether, and why. */
/** SHUTDOWN_CODE_INVALID, as far as domctl has room for it: what a domain has that never shut down. */
const shutdownCodeInvalid = 255;

function shutdownWords(reason: ShutdownReason | null | undefined): string {
  return `shutdown ${typeof reason === 'number' ? 1 : 0}, reason ${reason ?? shutdownCodeInvalid}`;
}
