/**
 * The end of a guest's XenStore ring (xen/io/xs_wire.h) for a daemon that no-hypervisor.c was preloaded into.
 *
 * The page is a file that the daemon has mapped; reading and writing the file is reading and writing the page. Event
 * channels are FIFOs. A connection's state and errors in the ring are not looked at.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, constants, existsSync, openSync, readSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import type { Channel } from './session.js';

const pageSize = 4096;
const ringSize = 1024;
const rspRing = 1024;
const [reqCons, reqProd, rspCons, rspProd] = [2048, 2052, 2056, 2060];
/** The guest's port, as it is said in every INTRODUCE. */
export const guestPort = 1;

export function makeFifo(path: string): void {
  if (existsSync(path)) return;
  const { status, stderr } = spawnSync('mkfifo', ['-m', '600', path], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`mkfifo ${path}: ${stderr}`);
}

/** Gives domain `domid` a page, which makes it exist. */
export function makePage(directory: string, domid: number): void {
  const fd = openSync(join(directory, `ring-${domid}`), 'w', 0o600);
  writeSync(fd, Buffer.alloc(pageSize));
  closeSync(fd);
}

/** Makes an event channel pending; `domid` 0xffffffff raises the VIRQ `port`. */
export function notify(directory: string, domid: number, port: number): void {
  const record = Buffer.alloc(8);
  record.writeUInt32LE(domid, 0);
  record.writeUInt32LE(port, 4);
  const fd = openSync(join(directory, 'evtchn'), constants.O_WRONLY | constants.O_NONBLOCK);
  writeSync(fd, record);
  closeSync(fd);
}

/** Opens the guest's end of its ring. */
export function openRing(directory: string, domid: number): Channel {
  const page = openSync(join(directory, `ring-${domid}`), 'r+');
  const fifo = join(directory, `guest-${domid}`);
  makeFifo(fifo);
  const events = new Socket({ fd: openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK), readable: true, writable: false });
  let waiting = Buffer.alloc(0);
  let isOpen = true;
  let handlers: Parameters<Channel['receive']>[0] | undefined;

  const index = (at: number): number => {
    const word = Buffer.alloc(4);
    readSync(page, word, 0, 4, at);
    return word.readUInt32LE(0);
  };
  const setIndex = (at: number, value: number): void => {
    const word = Buffer.alloc(4);
    word.writeUInt32LE(value >>> 0, 0);
    writeSync(page, word, 0, 4, at);
  };
  /** Puts as much as there is room for. */
  const put = (): boolean => {
    let didPut = false;
    while (waiting.length > 0) {
      const prod = index(reqProd);
      const at = prod % ringSize;
      const count = Math.min(ringSize - ((prod - index(reqCons)) >>> 0), ringSize - at, waiting.length);
      if (count === 0) break;
      writeSync(page, waiting, 0, count, at);
      setIndex(reqProd, prod + count);
      waiting = waiting.subarray(count);
      didPut = true;
    }
    return didPut;
  };
  const take = (): boolean => {
    let didTake = false;
    for (;;) {
      const cons = index(rspCons);
      const at = cons % ringSize;
      const count = Math.min((index(rspProd) - cons) >>> 0, ringSize - at);
      if (count === 0) return didTake;
      const bytes = Buffer.alloc(count);
      readSync(page, bytes, 0, count, rspRing + at);
      setIndex(rspCons, cons + count);
      didTake = true;
      handlers?.data(bytes);
      if (!isOpen) return false;
    }
  };
  const turn = (): void => {
    if (!isOpen) return;
    const didPut = put();
    if (take() || didPut) notify(directory, domid, guestPort);
  };
  events.on('data', turn);
  return {
    write: (bytes) => {
      waiting = Buffer.concat([waiting, bytes]);
      turn();
    },
    receive: (given) => {
      handlers = given;
    },
    close: () => {
      if (!isOpen) return;
      isOpen = false;
      events.destroy();
      closeSync(page);
      handlers?.closed();
    },
  };
}
