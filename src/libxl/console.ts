/**
 * The console of a PV guest: console 0, the one whose ring xenconsoled serves.
 *
 * It is no ordinary device: its frontend directory is `/local/domain/N/console`, nobody waits for it, and its state
 * nodes never move (libxl 4.17, `libxl__device_console_add`).
 */
import type { DeviceNodes } from './nodes.js';

/** How many bytes xenconsoled keeps for a reader that does not come. */
export const LIBXL_XENCONSOLE_LIMIT = 1_048_576;
export const LIBXL_XENCONSOLE_PROTOCOL = 'vt100';

/** The ring that the domain builder gave to the console. */
export interface ConsoleRing {
  readonly port: number;
  readonly mfn: number;
}

export function consoleNodes(domid: number, ring: ConsoleRing): DeviceNodes {
  return {
    front: [['backend-id', '0']],
    frontRo: [
      ['limit', String(LIBXL_XENCONSOLE_LIMIT)],
      ['type', 'xenconsoled'],
      ['output', 'pty'],
      // xenconsoled fills in the pty's name.
      ['tty', ''],
      ['port', String(ring.port)],
      ['ring-ref', String(ring.mfn)],
    ],
    back: [
      ['frontend-id', String(domid)],
      ['online', '1'],
      ['state', '1'],
      ['protocol', LIBXL_XENCONSOLE_PROTOCOL],
    ],
  };
}
