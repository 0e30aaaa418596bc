/**
 * dom0's network devices: their names, whether they have a carrier, and the bridges that they are ports of.
 *
 * Who changes any of that holds rtnl_mutex, of which the kernel has one: it is never held while anybody waits for a
 * packet, or one vif that hangs would stop all of them.
 */
import { PrivcmdError } from '../privcmd.js';
import type { Kernel } from './kernel.js';
import { mutex, mutexLock, mutexUnlock } from './locks.js';
import type { KTask, Task } from './sched.js';

export class NetDevices {
  readonly #kernel: Kernel;
  readonly #rtnl = mutex('rtnl_mutex');
  /** By name: whether there is a carrier. */
  readonly #carriers = new Map<string, boolean>();
  /** The ports of each bridge, by device. */
  readonly #bridges: ReadonlyMap<string, Map<string, number>>;

  constructor(kernel: Kernel, bridges: readonly string[]) {
    this.#kernel = kernel;
    this.#bridges = new Map(bridges.map((name) => [name, new Map()]));
  }

  /** `register_netdev`; false when there is one of that name. */
  *register(name: string): Task<boolean> {
    return yield* this.locked(() => {
      if (this.#carriers.has(name)) return false;
      this.#carriers.set(name, false);
      return true;
    });
  }

  /** `unregister_netdev`: it leaves its bridge. */
  *unregister(name: string): Task {
    yield* this.locked(() => {
      this.#carriers.delete(name);
      for (const bridge of this.#bridges.keys()) {
        const port = this.bridge(bridge, name, false);
        if (port !== undefined) this.#port(bridge, port, name, 'disabled');
      }
    });
  }

  /** `netif_carrier_on` or `_off`, and what the bridge makes of it. */
  carrier(name: string, on: boolean): void {
    if (this.#carriers.get(name) !== !on) return;
    this.#carriers.set(name, on);
    if (on) this.#kernel.printk(`IPv6: ADDRCONF(NETDEV_CHANGE): ${name}: link becomes ready`);
    for (const [bridge, ports] of this.#bridges) {
      const port = ports.get(name);
      if (port === undefined) continue;
      for (const state of on ? ['blocking', 'forwarding'] : ['disabled']) this.#port(bridge, port, name, state);
    }
  }

  /** Runs `body` with rtnl_mutex held. */
  *locked<T>(body: () => T): Task<T> {
    yield* this.rtnlLock();
    try {
      return body();
    } finally {
      this.rtnlUnlock(this.#kernel.self);
    }
  }

  /** Runs what sleeps with rtnl_mutex held, which a driver should not. */
  *over(body: Task): Task {
    const { self } = this.#kernel;
    yield* this.rtnlLock();
    yield* body;
    this.rtnlUnlock(self);
  }

  *rtnlLock(): Task {
    yield* this.#kernel.call('rtnl_lock', mutexLock(this.#kernel.self, this.#rtnl));
  }

  rtnlUnlock(self: KTask): void {
    mutexUnlock(this.#kernel.sched, self, this.#rtnl);
  }

  /** `ip link set vif1.0 master xenbr0`, or its undoing; answers with the port that it is, or was. */
  bridge(name: string, device: string, add: boolean): number | undefined {
    const ports = this.#bridges.get(name);
    if (!ports) throw new PrivcmdError('ENOENT', `no bridge ${name}`);
    const known = ports.get(device);
    if (add && known === undefined) {
      const used = new Set(ports.values());
      let port = 1;
      while (used.has(port)) port += 1;
      ports.set(device, port);
      this.#port(name, port, device, 'blocking');
      this.#port(name, port, device, 'disabled');
      this.#kernel.printk(`device ${device} entered promiscuous mode`);
      if (this.#carriers.get(device)) for (const state of ['blocking', 'forwarding']) this.#port(name, port, device, state);
      return port;
    }
    if (!add && known !== undefined) {
      ports.delete(device);
      this.#port(name, known, device, 'disabled');
      this.#kernel.printk(`device ${device} left promiscuous mode`);
    }
    return known;
  }

  #port(bridge: string, port: number, device: string, state: string): void {
    this.#kernel.printk(`${bridge}: port ${port}(${device}) entered ${state} state`);
  }
}
