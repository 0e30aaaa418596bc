/**
 * What happens in a simulated system: the operations of toolstacks, clients of the store, guests, and of fate.
 *
 * Each knows what it has to do and whom it is about, and nothing of when it runs. Cheap ones are frequent; a fifth makes or
 * destroys domains.
 */
import { diskAttach, nicAttach } from '../../src/libxl/attach.js';
import { type Ctx, LIBXL_DOMID_REUSE_TIMEOUT } from '../../src/libxl/ctx.js';
import { destroyGuest, domainDestroy } from '../../src/libxl/destroy.js';
import { type Device, deviceRemove, type Force, pathsOf } from '../../src/libxl/device.js';
import { findDisk, findNic, listDisks, listedDiskDevice, listNics } from '../../src/libxl/device-list.js';
import {
  domainNames,
  domainPause,
  domainReboot,
  domainRename,
  domainShutdown,
  domainUnpause,
  formatUuid,
  listDomains,
} from '../../src/libxl/domain.js';
import type { DomainConfig } from '../../src/libxl/domain-config.js';
import { setMemoryTarget } from '../../src/libxl/memory.js';
import { createDomain } from '../../src/libxl/monitor.js';
import { announcedDomids, pruneOwn } from '../../src/libxl/mtwatch-nodes.js';
import { retrieveConfig } from '../../src/libxl/saved-config.js';
import { domainResume, domainSuspend, domainSuspendOnly } from '../../src/libxl/suspend.js';
import { setVcpusOnline } from '../../src/libxl/vcpu.js';
import { everyWatchThread, type MonitorRequest } from '../../src/xenbus/privcmd.js';
import { XenbusState } from '../../src/xenbus/xenbus.js';
import type { World } from './world.js';

/** Domains at a time; then one is destroyed instead of one made. */
export const domainsMax = 6;

export interface ToolstackOp {
  readonly weight: number;
  /** Whether it is about one domain. */
  readonly about: 'domain' | 'none';
  /** What it makes of a domain that others find strange afterwards. */
  readonly taints?: string;
  readonly run: (ctx: Ctx, world: World, domid: number) => Promise<unknown>;
}

const names = Array.from({ length: 12 }, (_, index) => `guest-${index}`);

/** One of `choices`, by weight. */
export function weighted<T extends { readonly weight: number }>(
  world: World,
  choices: readonly (readonly [string, T])[],
): readonly [string, T] {
  const total = choices.reduce((sum, [, { weight }]) => sum + weight, 0);
  let at = world.below(total);
  for (const choice of choices) {
    at -= choice[1].weight;
    if (at < 0) return choice;
  }
  throw new Error('weights do not add up');
}

/** A small guest, with few devices. */
function randomConfig(world: World): DomainConfig {
  const { below } = { below: (n: number) => world.below(n) };
  const diskCount = below(100) < 60 ? 0 : 1 + (below(100) < 20 ? 1 : 0);
  const nicCount = below(100) < 65 ? 0 : 1;
  const vdevs = ['xvda', 'xvdb'];
  const disk = (index: number) => ({
    pdevPath: below(3) === 0 ? `/srv/${below(1_000_000)}.img` : `/dev/vg/${below(6)}`,
    vdev: vdevs[index] ?? 'xvdc',
    format: 'raw' as const,
    readwrite: true,
  });
  const wanted = below(100) < 8 ? (world.pick([...world.released.keys()].slice(-3)) ?? 0) : 0;
  const pickOf = (actions: readonly string[]) => (world.pick(actions) ?? 'destroy') as DomainConfig['onCrash'];
  return {
    cInfo: {
      type: 'pv',
      name: below(100) < 5 ? 'guest-0' : `${world.pick(names)}-${below(1000)}`,
      uuid: formatUuid(world.clock.random(16)),
      runHotplugScripts: true,
      ...(wanted > 0 ? { domid: wanted } : {}),
    },
    bInfo: {
      maxVcpus: 1 + (below(8) === 0 ? 1 : 0),
      availVcpus: [0],
      maxMemkb: 32_768,
      targetMemkb: 32_768,
      schedParams: {},
      claimMode: true,
      kernel: '/boot/vmlinux',
      cmdline: 'console=hvc0',
      pv: {},
      archArm: {},
      archX86: {},
    },
    disks: Array.from({ length: diskCount }, (_, index) => disk(index)),
    nics: Array.from({ length: nicCount }, (_, devid) => ({ devid, mac: '00:16:3e:00:00:01', bridge: 'xenbr0' })),
    onPoweroff: pickOf(['destroy', 'destroy', 'preserve', 'restart']),
    onReboot: pickOf(['restart', 'restart', 'rename-restart', 'destroy']),
    onWatchdog: 'destroy',
    onCrash: pickOf(['destroy', 'restart', 'preserve', 'coredump-destroy', 'rename-restart']),
    onSoftReset: 'soft_reset',
  };
}

async function create(ctx: Ctx, world: World): Promise<void> {
  const config = randomConfig(world);
  const fault = world.below(100);
  const paused = world.below(100) < 15;
  const alone = world.below(100) < 10;
  const domid = await createDomain(ctx, config);
  const actions: MonitorRequest['actions'] = {
    poweroff: config.onPoweroff,
    reboot: config.onReboot,
    crash: config.onCrash,
    watchdog: config.onWatchdog,
    softReset: config.onSoftReset,
  } as MonitorRequest['actions'];
  if (!alone) await ctx.xc.call('dom0.monitor', { domid, name: config.cInfo.name, actions, verbosity: 0 });
  if (!paused) await domainUnpause(ctx, domid);
  else world.onFault(domid);
  if (fault < 4) world.scriptFaults.set(domid, fault < 2 ? { status: 1 } : 'late');
}

/** Destroys a domain and asks for its domid at once, or as soon as one gets it. */
async function recreate(ctx: Ctx, world: World, domid: number): Promise<void> {
  await domainDestroy(ctx, domid);
  if (world.below(4) === 0) await ctx.clock.sleep(LIBXL_DOMID_REUSE_TIMEOUT + 1);
  for (let turns = world.below(6); turns > 0; turns--) await ctx.clock.turn();
  const config = randomConfig(world);
  await createDomain(ctx, { ...config, cInfo: { ...config.cInfo, domid } });
}

/**
 * Detaches a device. Linux's back ends write Connected over libxl's Closing when they are connecting just then, and never close:
 * that is nobody's fault.
 */
async function detach(ctx: Ctx, world: World, device: Device, force: Force): Promise<void> {
  const state = world.dom0.core.store.get(`${pathsOf(device).backend}/state`)?.value;
  if (state !== String(XenbusState.Connected)) world.onFault(device.domid);
  await deviceRemove(ctx, device, force);
}

/** Saves a domain, and makes one anew from what was written. */
async function saveAndRestore(ctx: Ctx, world: World, domid: number): Promise<void> {
  const config = await retrieveConfig(ctx, domid);
  const written: Buffer[] = [];
  await domainSuspend(ctx, domid, async (bytes) => void written.push(bytes), { quiet: true });
  if (!config || world.below(4) === 0) return domainResume(ctx, domid);
  await destroyGuest(ctx, domid);
  const stream = Buffer.concat(written);
  let at = 0;
  const restored = await createDomain(ctx, config, async (count) => {
    at += count;
    return stream.subarray(at - count, at);
  });
  await domainUnpause(ctx, restored);
}

/** What `xl` commands do, by their names. */
export const toolstackOps: Readonly<Record<string, ToolstackOp>> = {
  create: { weight: 12, about: 'none', run: create },
  destroy: { weight: 9, about: 'domain', taints: 'destroyed', run: (ctx, _, domid) => domainDestroy(ctx, domid) },
  recreate: { weight: 5, about: 'domain', taints: 'destroyed', run: recreate },
  list: { weight: 14, about: 'none', run: async (ctx) => domainNames(ctx, await listDomains(ctx)) },
  'list-long': { weight: 2, about: 'domain', run: (ctx, _, domid) => retrieveConfig(ctx, domid) },
  'mtwatch-list': {
    weight: 8,
    about: 'none',
    run: async (ctx) => [await everyWatchThread(ctx.xc), await announcedDomids(ctx.xs)],
  },
  prune: { weight: 2, about: 'none', run: (ctx) => pruneOwn(ctx) },
  pause: { weight: 2, about: 'domain', taints: 'paused', run: (ctx, _, domid) => domainPause(ctx, domid) },
  unpause: { weight: 4, about: 'domain', run: (ctx, _, domid) => domainUnpause(ctx, domid) },
  shutdown: { weight: 2, about: 'domain', taints: 'shut down', run: (ctx, _, domid) => domainShutdown(ctx, domid) },
  reboot: { weight: 2, about: 'domain', taints: 'rebooted', run: (ctx, _, domid) => domainReboot(ctx, domid) },
  suspend: {
    weight: 2,
    about: 'domain',
    taints: 'suspended',
    run: async (ctx, _, domid) => {
      await domainSuspendOnly(ctx, domid);
      await domainResume(ctx, domid);
    },
  },
  save: { weight: 2, about: 'domain', taints: 'saved', run: saveAndRestore },
  rename: {
    weight: 4,
    about: 'domain',
    run: (ctx, world, domid) => domainRename(ctx, domid, undefined, `${world.pick(names)}-${world.below(1000)}`),
  },
  'mem-set': {
    weight: 4,
    about: 'domain',
    run: (ctx, world, domid) => setMemoryTarget(ctx, domid, BigInt(16_384 + 1024 * world.below(16))),
  },
  'vcpu-set': { weight: 3, about: 'domain', run: (ctx, world, domid) => setVcpusOnline(ctx, domid, 1 + world.below(2)) },
  'block-attach': {
    weight: 3,
    about: 'domain',
    run: (ctx, world, domid) => {
      const vdev = world.pick(['xvda', 'xvdb', 'xvdc']) ?? 'xvda';
      return diskAttach(ctx, domid, { pdevPath: `/srv/${world.below(1_000_000)}.img`, vdev, format: 'raw', readwrite: true });
    },
  },
  'block-detach': {
    weight: 3,
    about: 'domain',
    run: async (ctx, world, domid) => {
      const force = world.below(4) === 0 ? 'on' : 'off';
      const vdev = world.pick((await listDisks(ctx, domid)) ?? [])?.vdev;
      const disk = vdev === undefined ? undefined : await findDisk(ctx, domid, vdev);
      if (disk) await detach(ctx, world, listedDiskDevice(domid, disk), force);
    },
  },
  'network-attach': { weight: 2, about: 'domain', run: (ctx, _, domid) => nicAttach(ctx, domid, { bridge: 'xenbr0' }) },
  'network-detach': {
    weight: 2,
    about: 'domain',
    run: async (ctx, world, domid) => {
      const devid = world.pick((await listNics(ctx, domid)) ?? [])?.devid;
      const nic = devid === undefined ? undefined : await findNic(ctx, domid, devid);
      if (!nic) return;
      const device = { domid, devid: nic.devid, kind: 'vif', backendDomid: nic.backendDomid, backendKind: 'vif' };
      await detach(ctx, world, device, 'auto');
    },
  },
};

/** `xl destroy` of each domain that is there. */
export async function destroyAll(ctx: Ctx): Promise<void> {
  for (const { domid } of await listDomains(ctx)) {
    if (domid !== 0) await destroyGuest(ctx, domid);
  }
}
