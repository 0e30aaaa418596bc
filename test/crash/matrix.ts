/**
 * The crash matrix: a toolstack is killed at every single request of an operation, then what it left is cleaned up as a person
 * would, by `xl destroy` and, where no domain came to be, `xl mtwatch prune`. Afterwards dom0 must be what it was before:
 * each node with its value and permissions, the hypervisor, the kernel and its threads, files and locks.
 *
 * A point of the matrix is an operation, a variant of the machine, and the request at which the kill comes, before or after
 * it is carried out. Each has a machine of its own on virtual time, so a point replays from its name alone.
 */
import { diskAttach, nicAttach, vkbAttach } from '../../src/libxl/attach.js';
import { LibxlError } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { type Device, deviceRemove, type Force } from '../../src/libxl/device.js';
import type { Disk } from '../../src/libxl/disk.js';
import { domainRename, domainShutdown, domainUnpause } from '../../src/libxl/domain.js';
import type { DomainConfig } from '../../src/libxl/domain-config.js';
import { createDomain, startMonitor } from '../../src/libxl/monitor.js';
import { pruneOwn } from '../../src/libxl/mtwatch-nodes.js';
import { domainSuspend } from '../../src/libxl/suspend.js';
import type { Census } from '../../src/xenbus/privcmd.js';
import { devd, type Machine, type MachineOptions, machine, pvConfig } from '../machine.js';
import type { Toolstack } from '../toolstack.js';
import { migrate } from './migration.js';

export const designs = { single: '', rfc: 'xen_mtwatch=rfc', hardened: 'xen_mtwatch' } as const;
export type DesignName = keyof typeof designs;
export type Scripts = 'inside' | 'child' | 'slow';

/** Where the operation is tried. */
export interface Variant {
  readonly design: DesignName;
  readonly scripts: Scripts;
}

export const variants: readonly Variant[] = (['single', 'rfc', 'hardened'] as const).flatMap((design) =>
  (['inside', 'child', 'slow'] as const).map((scripts) => ({ design, scripts })),
);

export interface Operation {
  readonly name: string;
  readonly machine?: MachineOptions;
  /** What is there already; it goes with everything else. Made by a toolstack that lives. */
  readonly given?: (m: Machine) => Promise<void>;
  /**
   * What the toolstack does that is killed. It may fail. What another one does for it goes to `beside`: that goes on to its
   * end before anything is cleaned up.
   */
  readonly run: (toolstack: Toolstack, m: Machine, beside: Promise<unknown>[]) => Promise<unknown>;
}

const disk = (vdev: string, pdevPath: string): Disk => ({ pdevPath, vdev, format: 'raw', readwrite: true });
const mac = (last: number) => `00:16:3e:00:00:0${last}`;
/** A domain with a disk that is a device and one that is a file, and two vifs. */
const twoOfEach = (name: string): DomainConfig =>
  pvConfig(name, {
    disks: [disk('xvda', `/dev/vg/${name}`), disk('xvdb', `/srv/${name}.img`)],
    nics: [
      { devid: 0, mac: mac(1), bridge: 'xenbr0' },
      { devid: 1, mac: mac(2), bridge: 'xenbr0' },
    ],
  });
/** What only qemu serves: a display with its keyboard, a channel, an image and a drive. */
const image: Disk = { pdevPath: '/img/more.qcow2', vdev: 'xvdc', format: 'qcow2', readwrite: true };
const withQemu = (name: string): DomainConfig =>
  pvConfig(name, {
    disks: [
      disk('xvda', `/srv/${name}.img`),
      { ...image, pdevPath: `/img/${name}.qcow2`, vdev: 'xvdb' },
      { ...image, pdevPath: `/img/${name}.vhd`, vdev: 'hdc', format: 'vhd', readwrite: false, isCdrom: true },
    ],
    vfbs: [{ devid: 0, vnc: { passwd: 'secret' }, sdl: {} }],
    vkbs: [{ devid: 0 }],
    channels: [{ devid: 1, name: 'org.example.agent', 'connection.pty': {} }],
  });
/** A guest of a driver domain. */
const served = (name: string): DomainConfig =>
  pvConfig(name, {
    disks: [{ ...disk('xvda', '/dev/vg/served'), backendDomname: 'storage' }],
    nics: [{ devid: 0, mac: mac(5), backendDomname: 'storage' }],
  });
const filePv = (name: string) => pvConfig(name, { disks: [disk('xvda', `/srv/${name}.img`)] });

/** A domain that is there, running or paused. */
const there =
  (config: (name: string) => DomainConfig, state: 'running' | 'paused' = 'running') =>
  async (m: Machine): Promise<void> => {
    const domid = await createDomain(m.ctx, config('pv'));
    if (state === 'running') await domainUnpause(m.ctx, domid);
  };

/** A neighbour that hangs while it is destroyed: with one watch thread nothing else gets on. */
const hungNeighbour = async (m: Machine): Promise<void> => {
  await there(pvConfig)(m);
  await m.settle();
  m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
  await domainDestroy(m.ctx, 1).catch(refusal);
};

/** A driver domain, and `xl devd` in it; and a guest of it, or none. */
const driverDomain =
  (guest: 'with a guest' | 'alone') =>
  async (m: Machine): Promise<void> => {
    const config = pvConfig('storage', { nics: [] });
    await domainUnpause(m.ctx, await createDomain(m.ctx, { ...config, cInfo: { ...config.cInfo, driverDomain: true } }));
    await m.settle();
    devd(m, 1);
    if (guest === 'with a guest') await there(served)(m);
  };

/** What libxl refuses is an end like any other; a bug is none. */
function refusal(error: unknown): undefined {
  if (!(error instanceof LibxlError)) throw error;
  return undefined;
}

const create =
  (config: () => DomainConfig, then: 'unpause' | 'stay paused' = 'stay paused') =>
  async ({ ctx }: Toolstack): Promise<void> => {
    const domid = await createDomain(ctx, config());
    if (then === 'unpause') await domainUnpause(ctx, domid);
  };

const vbd: Device = { domid: 1, devid: 51712, kind: 'vbd', backendDomid: 0, backendKind: 'vbd' };
const qdisk: Device = { ...vbd, devid: 51728, backendKind: 'qdisk' };
const servedVbd: Device = { ...vbd, domid: 2, backendDomid: 1 };
const vif: Device = { domid: 1, devid: 0, kind: 'vif', backendDomid: 0, backendKind: 'vif' };
const remove =
  (device: Device, force: Force) =>
  ({ ctx }: Toolstack) =>
    deviceRemove(ctx, device, force);

const actions = { poweroff: 'destroy', reboot: 'restart', crash: 'rename-restart', watchdog: 'destroy', softReset: 'soft-reset' };

/** The monitor of domain 1, which has just been told to end; until there is nothing more to wait for, or another life. */
const monitored = (how: 'poweroff' | 'reboot' | 'crash') => async (toolstack: Toolstack, m: Machine) => {
  let again = () => {};
  const restarted = new Promise<void>((resolve) => {
    again = resolve;
  });
  let lives = 0;
  const say = (line: string) => {
    if (line.startsWith('Waiting for domain') && ++lives === 2) again();
  };
  const { done } = await startMonitor(toolstack.ctx, { domid: 1, name: 'pv', actions }, say);
  m.dom0.guestStops(1, how);
  await Promise.race([done, restarted]);
};

/** A saved domain, as bytes. */
const saved = new WeakMap<Machine, Buffer>();
const save = async (ctx: Toolstack['ctx']): Promise<Buffer> => {
  const pieces: Buffer[] = [];
  await domainSuspend(ctx, 1, async (bytes) => void pieces.push(Buffer.from(bytes)), { quiet: true });
  await domainDestroy(ctx, 1);
  return Buffer.concat(pieces);
};
const reader = (bytes: Buffer) => {
  let at = 0;
  return async (count: number) => {
    at += count;
    return bytes.subarray(at - count, at);
  };
};

/** A domain that keeps its uuid where it goes, so that its disk may be there too. */
const migrant = (name: string): DomainConfig => {
  const config = pvConfig(name);
  return { ...config, cInfo: { ...config.cInfo, uuid: '00000000-0000-4000-8000-00000000f00d' } };
};

/** A migration, one side of which is killed. */
const migrated =
  (killed: 'sender' | 'receiver') =>
  (toolstack: Toolstack, m: Machine, beside: Promise<unknown>[]): Promise<void> => {
    const other = m.toolstack();
    const [sender, receiver] = killed === 'sender' ? [toolstack, other] : [other, toolstack];
    const work = migrate(sender, receiver, 1, migrant('pv'));
    beside.push(work);
    return work;
  };

export const operations: readonly Operation[] = [
  { name: 'create -p', run: create(() => pvConfig()) },
  { name: 'create', run: create(() => filePv('pv'), 'unpause') },
  { name: 'create, 2 disks and 2 vifs', run: create(() => twoOfEach('pv'), 'unpause') },
  { name: 'create, name taken', given: there(pvConfig, 'paused'), run: create(() => filePv('pv')) },
  { name: 'create, disk taken', given: there(filePv), run: create(() => ({ ...twoOfEach('two'), disks: filePv('pv').disks })) },
  {
    name: 'create, no bridge',
    run: create(() => ({ ...twoOfEach('pv'), nics: [{ devid: 0, mac: mac(1), bridge: 'nobr' }] })),
  },
  { name: 'create, no kernel', machine: { missing: ['/boot/vmlinux'] }, run: create(() => pvConfig()) },
  { name: 'create, qemu', run: create(() => withQemu('pv'), 'unpause') },
  { name: 'create, channel', run: create(() => pvConfig('pv', { channels: withQemu('pv').channels ?? [] })) },
  {
    name: 'create, no device model',
    machine: { missing: ['/no/qemu'] },
    run: create(() => {
      const config = withQemu('pv');
      return { ...config, bInfo: { ...config.bInfo, deviceModel: '/no/qemu' } };
    }),
  },
  { name: 'create, driver domain', given: driverDomain('alone'), run: create(() => served('pv'), 'unpause') },
  { name: 'create, hung neighbour', given: hungNeighbour, run: create(() => filePv('second'), 'unpause') },
  { name: 'destroy', given: there(twoOfEach), run: ({ ctx }) => domainDestroy(ctx, 1) },
  { name: 'destroy, paused', given: there(twoOfEach, 'paused'), run: ({ ctx }) => domainDestroy(ctx, 1) },
  {
    name: 'destroy, hung vif',
    given: async (m) => {
      await there(filePv)(m);
      await m.settle();
      m.dom0.handlers['dom0.hold']({ device: 'vif1.0', mode: 'inflight' });
    },
    run: ({ ctx }) => domainDestroy(ctx, 1),
  },
  { name: 'destroy, qemu', given: there(withQemu), run: ({ ctx }) => domainDestroy(ctx, 1) },
  { name: 'destroy, qemu, paused', given: there(withQemu, 'paused'), run: ({ ctx }) => domainDestroy(ctx, 1) },
  { name: 'destroy, driver domain', given: driverDomain('with a guest'), run: ({ ctx }) => domainDestroy(ctx, 1) },
  { name: "destroy, driver domain's guest", given: driverDomain('with a guest'), run: ({ ctx }) => domainDestroy(ctx, 2) },
  { name: 'block-attach', given: there(pvConfig), run: ({ ctx }) => diskAttach(ctx, 1, disk('xvdb', '/dev/vg/more')) },
  { name: 'block-attach, file', given: there(pvConfig), run: ({ ctx }) => diskAttach(ctx, 1, disk('xvdb', '/srv/more.img')) },
  { name: 'block-attach, qemu', given: there(withQemu), run: ({ ctx }) => diskAttach(ctx, 1, image) },
  {
    name: 'block-attach, driver domain',
    given: driverDomain('with a guest'),
    run: ({ ctx }) => diskAttach(ctx, 2, { ...disk('xvdb', '/dev/vg/more'), backendDomname: 'storage' }),
  },
  { name: 'block-detach, qemu', given: there(withQemu), run: remove(qdisk, 'off') },
  { name: 'block-detach, driver domain', given: driverDomain('with a guest'), run: remove(servedVbd, 'off') },
  { name: 'vkb-attach', given: there(withQemu), run: ({ ctx }) => vkbAttach(ctx, 1, { backendType: 'qemu', numbers: {} }) },
  { name: 'block-detach', given: there(filePv), run: remove(vbd, 'off') },
  { name: 'block-detach -f', given: there(filePv, 'paused'), run: remove(vbd, 'on') },
  { name: 'network-attach', given: there(pvConfig), run: ({ ctx }) => nicAttach(ctx, 1, { mac: mac(2), bridge: 'xenbr0' }) },
  { name: 'network-detach', given: there(pvConfig), run: remove(vif, 'auto') },
  { name: 'rename', given: there(pvConfig), run: ({ ctx }) => domainRename(ctx, 1, 'pv', 'other') },
  { name: 'shutdown', given: there(filePv), run: ({ ctx }) => domainShutdown(ctx, 1) },
  { name: 'poweroff, monitor', given: there(filePv), run: monitored('poweroff') },
  { name: 'reboot, monitor', given: there(filePv), run: monitored('reboot') },
  { name: 'crash, rename-restart', given: there(filePv), run: monitored('crash') },
  { name: 'save', given: there(filePv), run: ({ ctx }) => save(ctx) },
  { name: 'migrate', given: there(migrant), run: migrated('sender') },
  { name: 'migrate-receive', given: there(migrant), run: migrated('receiver') },
  {
    name: 'restore',
    given: async (m) => {
      await there(filePv)(m);
      await m.settle();
      saved.set(m, await save(m.ctx));
    },
    run: async ({ ctx }, m) => {
      const domid = await createDomain(ctx, filePv('pv'), reader(saved.get(m) ?? Buffer.alloc(0)));
      await domainUnpause(ctx, domid);
    },
  },
];

/** Directories that libxl makes for the first domain, and that stay, as they do on a real host. */
const residue: readonly string[] = ['/vm', '/libxl', '/local/domain/0/device-model'];

/** What dom0 is, as far as an operation may leave traces in it. */
export interface State {
  readonly nodes: readonly string[];
  readonly census: Census;
  readonly files: readonly string[];
  readonly locks: readonly string[];
}

export function withoutResidue(nodes: readonly string[]): string[] {
  const stays = residue.map((path) => `${path} = ""   (n0)`);
  return nodes.filter((line) => !stays.includes(line));
}

function stateOf(m: Machine): State {
  return {
    nodes: withoutResidue(m.nodes()),
    census: m.dom0.census(),
    files: [...m.files.keys()],
    locks: [...m.locks.keys()],
  };
}

/** What `after` has and `before` has not, and the other way, in words. */
export function differences(before: State, after: State): string[] {
  const lists = (state: State): readonly [string, readonly string[]][] => {
    const { census } = state;
    return [
      ['node', state.nodes],
      ['file', state.files],
      ['lock', state.locks],
      ['domain', census.domains.map((domain) => JSON.stringify(domain))],
      ['memory', [`${census.freeKb} KiB free`]],
      ['store', [JSON.stringify(census.store)]],
      ['task', census.tasks],
      ['loop', census.loops],
      ['netdev', census.netdevs],
      ['port', Object.entries(census.bridges).flatMap(([bridge, ports]) => ports.map((port) => `${bridge} ${port}`))],
      ['backend', census.backends],
      ['qemu', census.qemus],
      ['hold', census.holds],
    ];
  };
  const found: string[] = [];
  const theirs = new Map(lists(after));
  for (const [what, mine] of lists(before)) {
    const left = [...(theirs.get(what) ?? [])];
    for (const item of mine) {
      const at = left.indexOf(item);
      if (at < 0) found.push(`lost ${what} ${item}`);
      else left.splice(at, 1);
    }
    for (const item of left) found.push(`left ${what} ${item}`);
  }
  return found;
}

export interface Point extends Variant {
  readonly operation: string;
  /** The request; undefined: the operation goes on to its end. */
  readonly kill: { readonly request: number; readonly before: boolean } | undefined;
  /** Afterwards the hypervisor loses its domains by itself, so that no `xl destroy` finds them. */
  readonly lost?: boolean;
}

export interface Outcome {
  readonly requests: number;
  readonly asked: readonly string[];
  /** The name of the request that it was killed at. */
  readonly last: string | undefined;
  readonly killed: boolean;
  /** Domids of the nodes that had to be pruned. */
  readonly pruned: readonly number[];
  readonly leaks: readonly string[];
  /** Generations of the store at which the law of mtwatch was looked at. */
  readonly looked: number;
}

/** Runs one point of the matrix. */
export async function crash(
  operation: Operation,
  { design, scripts, kill, lost = false }: Omit<Point, 'operation'>,
): Promise<Outcome> {
  let looked = 0;
  const m = await machine({
    ...operation.machine,
    cmdline: designs[design],
    committed: () => {
      looked += 1;
    },
  });
  const before = stateOf(m);
  if (operation.given) await m.run(operation.given(m));
  await m.settle();
  const toolstack = m.toolstack({ scripts, ...(kill ? { killAfter: kill.request, before: kill.before } : {}) });
  const beside: Promise<unknown>[] = [];
  await m.run(Promise.race([operation.run(toolstack, m, beside).catch(refusal), toolstack.ended]));
  const { killed, requests } = toolstack;
  await m.run(Promise.all(beside));
  toolstack.kill();
  const { destroyed, pruned } = await cleanUp(m, scripts, lost);
  const leaks = differences(before, stateOf(m));
  for (const domid of pruned) if (destroyed.has(domid)) leaks.push(`xl destroy ${domid} left mtwatch/${domid}`);
  for (const domid of m.unannounced) leaks.push(`/local/domain/${domid} was there without mtwatch/${domid}`);
  for (const line of m.log) leaks.push(`logged ${line}`);
  for (const { thread, why } of m.dom0.dead) leaks.push(`dead ${thread}: ${why}`);
  m.dom0.close();
  return { requests, asked: toolstack.asked, last: toolstack.asked.at(-1), killed, pruned, leaks, looked };
}

/** What a person does after a crash; and whatever hangs comes back some time. A destroyed domain needs no pruning. */
async function cleanUp(
  m: Machine,
  scripts: Scripts,
  lost: boolean,
): Promise<{ readonly destroyed: ReadonlySet<number>; readonly pruned: readonly number[] }> {
  const destroyed = new Set<number>();
  const toolstack = m.toolstack({ scripts });
  const destroyAll = async () => {
    for (const { domid } of m.dom0.census().domains) {
      if (domid === 0) continue;
      if (lost) {
        await m.ctx.xc.call('xc.domain_destroy', { domid });
        continue;
      }
      destroyed.add(domid);
      await m.run(domainDestroy(toolstack.ctx, domid).catch(refusal));
    }
  };
  await destroyAll();
  await m.settle();
  m.dom0.handlers['dom0.flush']({});
  await m.settle();
  await destroyAll();
  await m.settle();
  const pruned = await m.run(pruneOwn(toolstack.ctx));
  toolstack.exit();
  await m.settle();
  return { destroyed, pruned };
}

export function operationOf(name: string): Operation {
  const found = operations.find((operation) => operation.name === name);
  if (!found) throw new Error(`no operation ${name}; there are: ${operations.map((operation) => operation.name).join('; ')}`);
  return found;
}
