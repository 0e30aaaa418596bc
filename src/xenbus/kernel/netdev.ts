/**
 * dom0's network devices: their names, whether they have a carrier, and the bridges that they are ports of.
 *
 * Who changes any of that holds rtnl_mutex, of which the kernel has one: it is never held while anybody waits for a
 * packet, or one vif that hangs would stop all of them.
 */
import { keptBelow } from '../keep.js';
import { PrivcmdError } from '../privcmd.js';
import type { Kernel } from './kernel.js';
import { mutex, mutexLock, mutexUnlock } from './locks.js';
import type { KTask, Task } from './sched.js';

export class NetDevices {
  readonly #kernel: Kernel;
  readonly #rtnl = mutex('rtnl_mutex');
  /** By name: whether there is a carrier. */
  readonly #carriers = new Map<string, boolean>();
  /** Names of devices that a driver is about to make, with who waits until they are there or will not come. */
  readonly #coming = new Map<string, (() => void)[]>();
  /** What a device is called now, by the name that its driver gave it. */
  readonly #renamed = new Map<string, string>();
  /** The ports of each bridge, by device. */
  readonly #bridges: ReadonlyMap<string, Map<string, number>>;

  constructor(kernel: Kernel, bridges: readonly string[]) {
    this.#kernel = kernel;
    this.#bridges = new Map(bridges.map((name) => [name, new Map()]));
    const { recovered } = kernel;
    for (const [name, carrier] of keptBelow(recovered, 'netdev/')) this.#carriers.set(name, carrier === true);
    for (const [device, name] of keptBelow(recovered, 'renamed/')) this.#renamed.set(device, String(name));
    for (const [bridge, ports] of this.#bridges) {
      for (const [device, port] of keptBelow(recovered, `bridge/${bridge}/`)) ports.set(device, Number(port));
    }
  }

  /** What there is now, by name. */
  get names(): readonly string[] {
    return [...this.#carriers.keys()];
  }

  /** The ports of each bridge, by name. */
  get ports(): Readonly<Record<string, readonly string[]>> {
    return Object.fromEntries([...this.#bridges].map(([bridge, ports]) => [bridge, [...ports.keys()]]));
  }

  /** A driver is about to register a device of that name, and user space may have been told to use it; `settled` ends that. */
  coming(name: string): void {
    if (!this.#coming.has(name)) this.#coming.set(name, []);
  }

  settled(name: string): void {
    const waiting = this.#coming.get(name) ?? [];
    this.#coming.delete(name);
    for (const wake of waiting) wake();
  }

  /** Whether there is no device of that name yet and one is coming; then `wake` is called when that is settled. */
  awaits(name: string, wake: () => void): boolean {
    const waiting = this.#carriers.has(name) ? undefined : this.#coming.get(name);
    waiting?.push(wake);
    return waiting !== undefined;
  }

  /** `register_netdev`; false when there is one of that name. */
  *register(name: string): Task<boolean> {
    return yield* this.locked(() => {
      if (this.#carriers.has(name) || this.#renamed.has(name)) return false;
      this.#carriers.set(name, false);
      this.#kernel.keep?.set(`netdev/${name}`, false);
      return true;
    });
  }

  /** `ip link set vif1.0 name web0`: EEXIST when there is a device of that name. */
  rename(device: string, name: string): void {
    const carrier = this.#carriers.get(device);
    if (this.#carriers.has(name) || this.#bridges.has(name)) throw new PrivcmdError('EEXIST', `there is a ${name}`);
    if (carrier === undefined) throw new PrivcmdError('ENODEV', `no device ${device}`);
    this.#carriers.delete(device);
    this.#carriers.set(name, carrier);
    this.#renamed.set(device, name);
    const { keep } = this.#kernel;
    keep?.delete(`netdev/${device}`);
    keep?.set(`netdev/${name}`, carrier);
    keep?.set(`renamed/${device}`, name);
  }

  /** `unregister_netdev`: it leaves its bridge. */
  *unregister(registered: string): Task {
    yield* this.locked(() => {
      const name = this.#renamed.get(registered) ?? registered;
      const { keep } = this.#kernel;
      if (this.#renamed.delete(registered)) keep?.delete(`renamed/${registered}`);
      if (this.#carriers.delete(name)) keep?.delete(`netdev/${name}`);
      for (const bridge of this.#bridges.keys()) {
        const port = this.bridge(bridge, name, false);
        if (port !== undefined) this.#port(bridge, port, name, 'disabled');
      }
    });
  }

  /** `netif_carrier_on` or `_off`, and what the bridge makes of it. */
  carrier(registered: string, on: boolean): void {
    const name = this.#renamed.get(registered) ?? registered;
    if (this.#carriers.get(name) !== !on) return;
    this.#carriers.set(name, on);
    this.#kernel.keep?.set(`netdev/${name}`, on);
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
    if (add && !this.#carriers.has(device)) throw new PrivcmdError('ENODEV', `no device ${device}`);
    if (add && known === undefined) {
      const used = new Set(ports.values());
      let port = 1;
      while (used.has(port)) port += 1;
      ports.set(device, port);
      this.#kernel.keep?.set(`bridge/${name}/${device}`, port);
      this.#port(name, port, device, 'blocking');
      this.#port(name, port, device, 'disabled');
      this.#kernel.printk(`device ${device} entered promiscuous mode`);
      if (this.#carriers.get(device)) for (const state of ['blocking', 'forwarding']) this.#port(name, port, device, state);
      return port;
    }
    if (!add && known !== undefined) {
      ports.delete(device);
      this.#kernel.keep?.delete(`bridge/${name}/${device}`);
      this.#port(name, known, device, 'disabled');
      this.#kernel.printk(`device ${device} left promiscuous mode`);
    }
    return known;
  }

  #port(bridge: string, port: number, device: string, state: string): void {
    this.#kernel.printk(`${bridge}: port ${port}(${device}) entered ${state} state`);
  }
}
