/**
 * The shape in which a device type hands its XenStore nodes to the generic code that writes them.
 *
 * The links (`frontend`, `backend`) are not in it: they are the same for every device type, and the generic code knows
 * both paths. Order matters, because a watcher sees the nodes in it.
 */

export type NodePair = readonly [key: string, value: string];

export interface DeviceNodes {
  /** Below the frontend's directory, readable and writable by the guest (`nN,r0`). */
  readonly front: readonly NodePair[];
  /** Below the frontend's directory, for the guest to read only (`n0,rN`). */
  readonly frontRo: readonly NodePair[];
  /** Below the backend's directory, and copied to `/libxl/N/device/...`. */
  readonly back: readonly NodePair[];
}
