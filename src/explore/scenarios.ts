/**
 * What is explored: stories of toolstacks, guests and users, told as the store requests that dom0's kernel can see.
 *
 * A story has phases. The scripts of a phase run against each other until nobody can go on; then comes the next phase,
 * with every fault healed first if it says so. An operation is what shrinking can leave out. Domid 7 is the one that
 * things happen to, 8 the bystander; the toolstack does what libxl does, in its order, with its 10 seconds.
 */

import type { Task } from '../xenbus/kernel/sched.js';
import { PrivcmdError } from '../xenbus/privcmd.js';
import type { StoreLink } from '../xenbus/transport.js';
import { XenbusState } from '../xenbus/xenbus.js';
import { joinStrings, XsError, XsType } from '../xenbus/xs-wire.js';
import type { Actor } from './actor.js';
import type { ScenarioInfo } from './outcome.js';
import type { World } from './world.js';

const { Initialising, InitWait, Initialised, Connected, Closing, Closed } = XenbusState;

/** libxl waits this long for a backend. */
const libxlWaitMs = 10_000;
/** A guest waits for its backend for as long as it takes; a script must end. */
const guestWaitMs = 60_000;

export interface Operation {
  readonly name: string;
  readonly run: (self: Actor) => Task;
}

export interface Script {
  readonly lane: string;
  readonly operations: readonly Operation[];
}

export interface Phase {
  readonly scripts: readonly Script[];
  /** Every hold is flushed, every allocation succeeds again, before this phase. */
  readonly heal?: boolean;
}

export interface Scenario extends ScenarioInfo {
  /** Nodes that are there before the kernel is. */
  readonly nodes?: readonly string[];
  readonly phases: (world: World) => readonly Phase[];
}

/** The scenario of that name. */
export function scenarioNamed(name: string): Scenario {
  const found = scenarios.find((scenario) => scenario.name === name);
  if (!found) throw new Error(`no scenario ${name}`);
  return found;
}

interface Device {
  readonly domid: number;
  readonly type: 'vbd' | 'vif';
  readonly devid: number;
  /** The domain that serves it. */
  readonly server: number;
}

const vbd = (domid: number, devid = 51712, server = 0): Device => ({ domid, type: 'vbd', devid, server });
const vif = (domid: number, devid = 0, server = 0): Device => ({ domid, type: 'vif', devid, server });
const busId = ({ domid, type, devid }: Device) => `${type}-${domid}-${devid}`;
const back = ({ domid, type, devid, server }: Device) => `/local/domain/${server}/backend/${type}/${domid}/${devid}`;
const front = ({ domid, type, devid }: Device) => `/local/domain/${domid}/device/${type}/${devid}`;
const is =
  (...states: readonly number[]) =>
  (value: string | undefined) =>
    states.includes(Number(value));
const gone = (value: string | undefined) => value === undefined;

const op = (name: string, run: (self: Actor) => Task): Operation => ({ name, run });

/** `xl create`'s first request, and `xl destroy`'s last. */
const announce = (name: string | number) => op(`announce ${name}`, (t) => t.write(`/local/domain/0/mtwatch/${name}`, ''));
const announceAgain = (domid: number) =>
  op(`announce ${domid} again`, (t) => t.write(`/local/domain/0/mtwatch/${domid}`, 'again'));
const retract = (name: string | number) => op(`retract ${name}`, (t) => t.rm(`/local/domain/0/mtwatch/${name}`));

const makeDomain = ({ hypervisor }: World, domid: number) =>
  op(`make domain ${domid}`, function* (t) {
    if (!hypervisor.get(domid)) hypervisor.create('00000000-0000-4000-8000-000000000000', 1, domid);
    yield* t.write(`/local/domain/${domid}/name`, `d${domid}`);
  });

const killDomain = ({ hypervisor }: World, domid: number) =>
  op(`kill domain ${domid}`, function* (t) {
    if (hypervisor.get(domid)) hypervisor.destroy(domid);
    yield* t.read('/local/domain');
  });

/** One transaction, as libxl adds a device. */
const addDevice = (device: Device) =>
  op(`add ${busId(device)}`, function* (t) {
    const { domid, type, devid, server } = device;
    const nodes: [string, string][] = [
      [`${back(device)}/frontend`, front(device)],
      [`${back(device)}/frontend-id`, String(domid)],
      [`${back(device)}/online`, '1'],
      [`${back(device)}/state`, String(Initialising)],
      ...(type === 'vbd'
        ? ([
            [`${back(device)}/mode`, 'w'],
            [`${back(device)}/dev`, 'xvda'],
          ] satisfies [string, string][])
        : ([
            [`${back(device)}/script`, 'vif-bridge'],
            [`${back(device)}/handle`, String(devid)],
            [`${back(device)}/mac`, '00:16:3e:00:00:07'],
          ] satisfies [string, string][])),
      ...(type === 'vbd'
        ? ([[`${front(device)}/virtual-device`, String(devid)]] satisfies [string, string][])
        : ([[`${front(device)}/mac`, '00:16:3e:00:00:07']] satisfies [string, string][])),
      [`${front(device)}/backend`, back(device)],
      [`${front(device)}/backend-id`, String(server)],
      [`${front(device)}/state`, String(Initialising)],
    ];
    yield* t.transaction(`adds ${busId(device)}`, function* (txId) {
      for (const [path, value] of nodes) yield* t.write(path, value, txId);
    });
  });

/** libxl waits for InitWait; what comes after it is given up when that does not come. */
const awaitInitWait = (device: Device) =>
  op(`await state 2 of ${busId(device)}`, function* (t) {
    const come = yield* t.until(`${back(device)}/state`, (value) => Number(value) >= InitWait, libxlWaitMs);
    if (!come) t.note(`unable to add device ${busId(device)}`);
  });

/** What the hotplug script of the device does: that of a disk looks at other disks first. */
const hotplug = (device: Device) =>
  op(`hotplug script of ${busId(device)}`, function* (t) {
    if (device.type === 'vif') return yield* t.write(`${back(device)}/hotplug-status`, 'connected');
    for (const name of ['params', 'mode', 'frontend', 'frontend-id', 'type', 'script', 'online', 'state']) {
      yield* t.read(`${back(device)}/${name}`);
    }
    yield* t.write(`${back(device)}/physical-device`, '7:0');
  });

const attach = (device: Device) => [addDevice(device), awaitInitWait(device), hotplug(device)];

/** libxl's forced removal, its first half: the frontend goes, the backend is told. */
const unplug = (device: Device) =>
  op(`unplug ${busId(device)}`, (t) =>
    t.transaction(`unplugs ${busId(device)}`, function* (txId) {
      yield* t.rm(front(device), txId);
      const state = yield* t.read(`${back(device)}/state`, txId);
      if (state === undefined) return;
      yield* t.write(`${back(device)}/online`, '0', txId);
      if (Number(state) !== Closed) yield* t.write(`${back(device)}/state`, String(Closing), txId);
    }),
  );
const awaitClosed = (device: Device) =>
  op(`await state 6 of ${busId(device)}`, function* (t) {
    const closed = yield* t.until(`${back(device)}/state`, (value) => value === undefined || is(Closed)(value), libxlWaitMs);
    if (!closed) t.note(`unable to remove device ${busId(device)}`);
  });
const removeBackend = (device: Device) => op(`remove backend of ${busId(device)}`, (t) => t.rm(back(device)));

/** `xl destroy`: all devices are unplugged, then each is awaited and removed, then the domain goes, its node last. */
function destroy(world: World, domid: number, ...devices: readonly Device[]): Operation[] {
  return [
    killDomain(world, domid),
    ...devices.map(unplug),
    ...devices.flatMap((device) => [awaitClosed(device), removeBackend(device)]),
    op(`remove domain ${domid}`, (t) => t.rm(`/local/domain/${domid}`)),
  ];
}

/** A toolstack that does not wait: a crashed one's successor, or one whose waits have run out. */
function hastyDestroy(world: World, domid: number, ...devices: readonly Device[]): Operation[] {
  return [
    killDomain(world, domid),
    ...devices.flatMap((device) => [unplug(device), removeBackend(device)]),
    op(`remove domain ${domid}`, (t) => t.rm(`/local/domain/${domid}`)),
  ];
}

/** What a guest offers for a device, in one transaction. Nothing, when it is dead by then. */
function* offer({ hypervisor }: World, self: Actor, device: Device): Task<number | undefined> {
  let port: number;
  try {
    port = hypervisor.evtchnAllocUnbound(device.domid, device.server);
  } catch (error) {
    if (!(error instanceof PrivcmdError)) throw error;
    return undefined;
  }
  const nodes: [string, string][] =
    device.type === 'vbd'
      ? [
          ['ring-ref', '8'],
          ['event-channel', String(port)],
          ['feature-persistent', '1'],
        ]
      : [
          ['tx-ring-ref', '9'],
          ['rx-ring-ref', '10'],
          ['event-channel', String(port)],
          ['request-rx-copy', '1'],
        ];
  if ((yield* self.read(`${front(device)}/state`)) === undefined) return undefined;
  yield* self.transaction(`offers rings of ${busId(device)}`, function* (txId) {
    for (const [name, value] of nodes) yield* self.write(`${front(device)}/${name}`, value, txId);
  });
  return port;
}

/** A guest's own state; a guest that is dead writes nothing, and nobody brings back a device that was removed. */
function* guestState({ hypervisor }: World, self: Actor, device: Device, state: number): Task {
  const domain = hypervisor.get(device.domid);
  if (!domain || domain.dying) return;
  yield* self.transaction(`${busId(device)} frontend: state ${state}`, function* (txId) {
    if ((yield* self.read(`${front(device)}/state`, txId)) !== undefined) {
      yield* self.write(`${front(device)}/state`, String(state), txId);
    }
  });
}

/** A guest that waits until dom0 has taken notice of what it did, as it can tell by its rings. */
const noticed = (world: World, { domid }: Device) => op('waits for dom0', (g) => world.noticed(g, domid));

/** The frontend driver of a guest, up to Connected. */
const frontend = (world: World, device: Device) =>
  op(`${busId(device)} frontend connects`, function* (g) {
    const state = `${back(device)}/state`;
    try {
      if (!(yield* g.until(state, (value) => is(InitWait, Connected)(value), guestWaitMs))) return;
      const port = yield* offer(world, g, device);
      if (port === undefined) return;
      if (device.type === 'vif') return yield* guestState(world, g, device, Connected);
      yield* guestState(world, g, device, Initialised);
      if (!(yield* g.until(state, is(Connected), guestWaitMs))) return;
      yield* guestState(world, g, device, Connected);
      // The first request of a guest, on a page that it grants for good.
      if (world.hypervisor.get(device.domid)?.dying === false) world.hypervisor.evtchnSend(device.domid, port, [11]);
    } catch (error) {
      if (!(error instanceof XsError)) throw error;
    }
  });

const guestOf = (world: World, domid: number, ...devices: readonly Device[]): Script => ({
  lane: `G${domid}`,
  operations: devices.map((device) => frontend(world, device)),
});

const guestWrites = (world: World, device: Device, state: number) =>
  op(`${busId(device)} frontend: state ${state}`, (g) => guestState(world, g, device, state));

const hold = ({ faults }: World, device: Device, mode: 'inflight' | 'connect' | 'io' | 'grants') =>
  op(`hold ${busId(device)} (${mode})`, function* (t) {
    faults.hold(busId(device), mode);
    t.note(`holds ${busId(device)} (${mode})`);
    yield* t.read('/local/domain');
  });
const flush = ({ faults }: World, device: Device) =>
  op(`flush ${busId(device)}`, function* (t) {
    if (faults.list().some(({ device: held }) => held === busId(device))) faults.flush(busId(device));
    t.note(`flushes ${busId(device)}`);
    yield* t.read('/local/domain');
  });
const fail = ({ failing }: World, what: string) =>
  op(`${what} fails from now on`, function* (t) {
    failing.add(what);
    yield* t.read('/local/domain');
  });

/** A process that has watched a node through /dev/xen/xenbus closes the file, or is killed. */
function watchingProcess(world: World): { readonly opens: Operation; readonly closes: Operation } {
  let link: StoreLink | undefined;
  return {
    opens: op('a process watches by /dev/xen/xenbus', function* (self) {
      link = world.device().connect({ domid: 0, who: 'client', deliver: () => {}, closed: () => {} });
      link.push({ type: XsType.Watch, reqId: 1, txId: 0, payload: joinStrings('/local/domain/0/memory', 'token') });
      yield* self.read('/local/domain');
    }),
    closes: op('the process closes it', function* (self) {
      link?.close();
      self.note('closes /dev/xen/xenbus');
      yield* self.read('/local/domain');
    }),
  };
}

const t = (...operations: readonly Operation[]): Script => ({ lane: 'T', operations });
const t2 = (...operations: readonly Operation[]): Script => ({ lane: 'T2', operations });

/** Domain 7 with its devices, made as `xl create` does, and running. */
const up = (world: World, domid: number, ...devices: readonly Device[]): Phase => ({
  scripts: [t(announce(domid), makeDomain(world, domid), ...devices.flatMap(attach)), guestOf(world, domid, ...devices)],
});

/** A domain that comes and goes while something else happens. */
const bystander = (world: World, domid = 8): Script =>
  t2(announce(domid), makeDomain(world, domid), ...attach(vif(domid)), ...destroy(world, domid, vif(domid)), retract(domid));

/** dom0 as a frontend: `xl block-attach 0`, or a disk that libxl attaches to look into it. */
const dom0Disk = vbd(0);

export const scenarios: readonly Scenario[] = [
  {
    name: 'create-destroy',
    what: 'a domain with a disk is created and destroyed, nothing stalls',
    phases: (w) => [up(w, 7, vbd(7)), { scripts: [t(...destroy(w, 7, vbd(7)), retract(7))] }],
  },
  {
    name: 'two-devices',
    what: 'a domain with a disk and a vif is created and destroyed, its guest connects meanwhile',
    phases: (w) => [up(w, 7, vbd(7), vif(7)), { scripts: [t(...destroy(w, 7, vbd(7), vif(7)), retract(7))] }],
  },
  {
    name: 'hasty-destroy',
    what: 'a domain is destroyed by a toolstack that waits for nothing, while its guest still connects',
    phases: (w) => [
      {
        scripts: [
          t(
            announce(7),
            makeDomain(w, 7),
            ...attach(vbd(7)),
            ...attach(vif(7)),
            ...hastyDestroy(w, 7, vbd(7), vif(7)),
            retract(7),
          ),
          guestOf(w, 7, vbd(7), vif(7)),
        ],
      },
    ],
  },
  {
    name: 'guest-closes',
    what: 'a guest closes its vif while the toolstack destroys the domain',
    phases: (w) => [
      up(w, 7, vif(7)),
      {
        scripts: [
          t(...hastyDestroy(w, 7, vif(7)), retract(7)),
          { lane: 'G7', operations: [guestWrites(w, vif(7), Closing), guestWrites(w, vif(7), Closed)] },
        ],
      },
    ],
  },
  {
    name: 'recreate',
    what: 'a domid is destroyed and comes back at once',
    phases: (w) => [
      up(w, 7, vif(7)),
      {
        scripts: [
          t(
            ...hastyDestroy(w, 7, vif(7)),
            retract(7),
            announce(7),
            makeDomain(w, 7),
            ...attach(vif(7)),
            ...destroy(w, 7, vif(7)),
            retract(7),
          ),
        ],
      },
    ],
  },
  ...(['inflight', 'io', 'grants', 'connect'] as const).map((mode): Scenario => {
    const device = mode === 'inflight' ? vif(7) : vbd(7);
    const names = {
      inflight: 'destroy-stalled',
      io: 'destroy-stalled-io',
      grants: 'destroy-stalled-grants',
      connect: 'connect-stalled',
    };
    const whats = {
      inflight: 'a packet is held while a domain is destroyed (scenario 1 of the RFC)',
      io: 'a disk’s thread cannot finish while a domain is destroyed (scenario 2)',
      grants: 'a granted page is still in use while a domain is destroyed (scenario 3)',
      connect: 'the write-back of a disk hangs when its frontend connects',
    };
    return {
      name: names[mode],
      what: `${whats[mode]}; another domain comes and goes`,
      phases: (w) =>
        mode === 'connect'
          ? [
              { scripts: [t(hold(w, device, mode), announce(7), makeDomain(w, 7), ...attach(device)), guestOf(w, 7, device)] },
              { scripts: [t(...destroy(w, 7, device), retract(7)), bystander(w)] },
            ]
          : [up(w, 7, device), { scripts: [t(hold(w, device, mode), ...destroy(w, 7, device), retract(7)), bystander(w)] }],
    };
  }),
  {
    name: 'heal-two-vifs',
    what: 'of two vifs the first stalls while the domain is destroyed; then it is let go',
    phases: (w) => [
      up(w, 7, vif(7, 0), vif(7, 1)),
      { scripts: [t(hold(w, vif(7, 0), 'inflight'), ...destroy(w, 7, vif(7, 0), vif(7, 1)), retract(7))] },
    ],
  },
  {
    name: 'node-first',
    what: 'the node is removed before the devices, one of which stalls',
    phases: (w) => [
      up(w, 7, vif(7)),
      { scripts: [t(hold(w, vif(7), 'inflight'), retract(7), ...destroy(w, 7, vif(7))), bystander(w)] },
    ],
  },
  {
    name: 'late-event',
    what: 'a guest writes its state after its node is gone; what that does, stalls',
    phases: (w) => [
      up(w, 7, vif(7)),
      {
        scripts: [
          t(hold(w, vif(7), 'inflight'), retract(7)),
          { lane: 'G7', operations: [guestWrites(w, vif(7), Closing), guestWrites(w, vif(7), Closed)] },
        ],
      },
      { heal: true, scripts: [t(...destroy(w, 7, vif(7)))] },
    ],
  },
  {
    name: 'toggle',
    what: 'a guest closes and reconnects its vif, again and again, while the hotplug script finishes',
    phases: (w) => [
      { scripts: [t(announce(7), makeDomain(w, 7), addDevice(vif(7)), awaitInitWait(vif(7))), guestOf(w, 7, vif(7))] },
      {
        scripts: [
          t(
            op('waits for the guest to connect anew', function* (self) {
              yield* self.until(`${front(vif(7))}/state`, is(Initialising), guestWaitMs);
              yield* self.until(`${front(vif(7))}/state`, is(Connected), guestWaitMs);
              // A slow script.
              for (let look = 0; look < 24; look++) yield* self.read(`${back(vif(7))}/script`);
            }),
            hotplug(vif(7)),
          ),
          {
            lane: 'G7',
            operations: [1, 2, 3].flatMap(() => [
              guestWrites(w, vif(7), Closed),
              noticed(w, vif(7)),
              guestWrites(w, vif(7), Initialising),
              noticed(w, vif(7)),
              guestWrites(w, vif(7), Connected),
              noticed(w, vif(7)),
            ]),
          },
        ],
      },
      { scripts: [t(...destroy(w, 7, vif(7)), retract(7))] },
    ],
  },
  {
    name: 'block-attach',
    what: 'a disk is attached to a running domain; the guest answers before the hotplug script is done',
    phases: (w) => [
      { scripts: [t(announce(7), makeDomain(w, 7))] },
      { scripts: [t(addDevice(vbd(7)), awaitInitWait(vbd(7)), hotplug(vbd(7))), guestOf(w, 7, vbd(7))] },
      { scripts: [t(...destroy(w, 7, vbd(7)), retract(7))] },
    ],
  },
  {
    name: 'block-attach-stalled',
    what: 'the same, with a disk whose write-back hangs; another domain comes and goes',
    phases: (w) => [
      { scripts: [t(announce(7), makeDomain(w, 7), hold(w, vbd(7), 'connect'))] },
      { scripts: [t(addDevice(vbd(7)), awaitInitWait(vbd(7)), hotplug(vbd(7))), guestOf(w, 7, vbd(7))] },
      { scripts: [bystander(w)] },
      { heal: true, scripts: [t(...destroy(w, 7, vbd(7)), retract(7))] },
    ],
  },
  {
    name: 'dom0-detach',
    what: 'dom0’s own disk is detached while a domain is stalled; then that is let go',
    phases: (w) => [
      up(w, 7, vif(7)),
      { scripts: [t2(addDevice(dom0Disk), awaitInitWait(dom0Disk), hotplug(dom0Disk))] },
      { scripts: [t(hold(w, vif(7), 'inflight'), unplug(vif(7)))] },
      { scripts: [t2(unplug(dom0Disk), awaitClosed(dom0Disk), removeBackend(dom0Disk))] },
      { heal: true, scripts: [t(awaitClosed(vif(7)), removeBackend(vif(7)), ...destroy(w, 7), retract(7))] },
    ],
  },
  {
    name: 'driver-domain',
    what: 'domain 3 serves a vif to dom0 and has one of dom0’s; it is shut down with both',
    phases: (w) => [
      up(w, 3, vif(3)),
      {
        scripts: [
          t(addDevice(vif(0, 5, 3))),
          {
            lane: 'G3',
            operations: [
              op('serves dom0’s vif', function* (g) {
                yield* g.until(`${back(vif(0, 5, 3))}/state`, is(Initialising), guestWaitMs);
                yield* g.write(`${back(vif(0, 5, 3))}/feature-rx-copy`, '1');
                yield* g.write(`${back(vif(0, 5, 3))}/state`, String(InitWait));
                if (yield* g.until(`${front(vif(0, 5, 3))}/state`, is(Connected), guestWaitMs)) {
                  yield* g.write(`${back(vif(0, 5, 3))}/state`, String(Connected));
                }
              }),
            ],
          },
        ],
      },
      {
        scripts: [
          t(...destroy(w, 3, vif(3)), retract(3)),
          t2(
            op('remove dom0’s vif', (self) => self.rm(front(vif(0, 5, 3)))),
            op('remove its backend', (self) => self.rm('/local/domain/3/backend')),
          ),
        ],
      },
    ],
  },
  {
    name: 'self-wait',
    what: 'dom0’s own vif, with its back end in dom0, is removed: who removes it waits for news that only its own thread could bring',
    phases: (w) => [
      { scripts: [t(addDevice(vif(0)), awaitInitWait(vif(0)), hotplug(vif(0)))] },
      { scripts: [t(unplug(vif(0)), awaitClosed(vif(0)), removeBackend(vif(0))), bystander(w)] },
    ],
  },
  {
    name: 'driver-domain-silent',
    what: 'a vif of dom0’s, whose driver domain never answers, is removed while it is found; another domain comes and goes',
    phases: (w) => [
      { scripts: [t(announce(3), makeDomain(w, 3))] },
      {
        scripts: [
          t(
            addDevice(vif(0, 5, 3)),
            op('remove dom0’s vif a little later', function* (self) {
              for (let look = 0; look < 10; look++) yield* self.read(`${back(vif(0, 5, 3))}/state`);
              yield* self.rm(front(vif(0, 5, 3)));
            }),
            awaitClosed(vif(0, 5, 3)),
            removeBackend(vif(0, 5, 3)),
          ),
          bystander(w),
        ],
      },
      {
        scripts: [
          t(
            killDomain(w, 3),
            op('remove domain 3', (self) => self.rm('/local/domain/3')),
            retract(3),
          ),
        ],
      },
    ],
  },
  {
    name: 'purge-block',
    what: 'a domain is destroyed and stalls on its second vif when it is let go; two others are destroyed meanwhile',
    phases: (w) => [
      up(w, 7, vif(7, 0), vif(7, 1)),
      { scripts: [t2(announce(8), announce(9))] },
      {
        scripts: [
          t(hold(w, vif(7, 0), 'inflight'), hold(w, vif(7, 1), 'inflight'), ...destroy(w, 7, vif(7, 0), vif(7, 1)), retract(7)),
        ],
      },
      { scripts: [t(flush(w, vif(7, 0)))] },
      { scripts: [t2(retract(8), retract(9))] },
    ],
  },
  {
    name: 'unannounced',
    what: 'a toolstack that knows nothing of mtwatch creates and destroys a domain, whose vif stalls',
    phases: (w) => [
      { scripts: [t(makeDomain(w, 7), ...attach(vif(7))), guestOf(w, 7, vif(7))] },
      { scripts: [t(hold(w, vif(7), 'inflight'), ...destroy(w, 7, vif(7))), bystander(w)] },
    ],
  },
  {
    name: 'announced-before',
    what: 'a node is there before the kernel watches',
    nodes: ['/local/domain/0/mtwatch/7'],
    phases: (w) => [{ scripts: [t(makeDomain(w, 7), ...attach(vif(7))), guestOf(w, 7, vif(7))] }],
  },
  {
    name: 'parent-removed',
    what: 'the parent of all nodes is removed',
    phases: () => [
      { scripts: [t(announce(7), announce(8))] },
      { scripts: [t(op('rm mtwatch', (self) => self.rm('/local/domain/0/mtwatch')))] },
    ],
  },
  {
    name: 'odd-names',
    what: 'nodes whose names are no domids, beside one that is',
    phases: () => [
      { scripts: [t(announce(7))] },
      {
        scripts: [t(announce('7abc'), announce('007'), announce(65543), announce(4294967303), announce('abc'), announce(32752))],
      },
      { scripts: [t(retract('7abc'), retract('007'), retract(65543), retract(4294967303), retract('abc'))] },
    ],
  },
  {
    name: 'reuse-stalled',
    what: 'a domid comes back while a callback of its last owner hangs',
    phases: (w) => [
      up(w, 7, vif(7)),
      { scripts: [t(hold(w, vif(7), 'inflight'), ...destroy(w, 7, vif(7)), retract(7))] },
      { scripts: [t(announceAgain(7))] },
      { heal: true, scripts: [t(retract(7))] },
    ],
  },
  {
    name: 'recreate-stalled',
    what: 'a domid comes back while its last owner, whose node is gone, stalls on a second vif',
    phases: (w) => [
      up(w, 7, vif(7, 0), vif(7, 1)),
      {
        scripts: [
          t(hold(w, vif(7, 0), 'inflight'), hold(w, vif(7, 1), 'inflight'), ...destroy(w, 7, vif(7, 0), vif(7, 1)), retract(7)),
        ],
      },
      { scripts: [t(flush(w, vif(7, 0)))] },
      { scripts: [t(announce(7), makeDomain(w, 7), addDevice(vbd(7)), awaitInitWait(vbd(7)))] },
      { heal: true, scripts: [t(...destroy(w, 7, vbd(7)), retract(7))] },
    ],
  },
  {
    name: 'flood',
    what: 'a guest writes its state and its multicast wish as fast as it can, while its domain is stalled in another vif',
    phases: (w) => [
      up(w, 7, vif(7, 0), vif(7, 1)),
      { scripts: [t(hold(w, vif(7, 1), 'inflight')), { lane: 'G7', operations: [guestWrites(w, vif(7, 1), Closing)] }] },
      {
        scripts: [
          {
            lane: 'G7',
            operations: [1, 2, 3].flatMap(() => [
              guestWrites(w, vif(7), Connected),
              op('request-multicast-control', (g) => g.write(`${front(vif(7))}/request-multicast-control`, '1')),
            ]),
          },
        ],
      },
      { heal: true, scripts: [t(...destroy(w, 7, vif(7, 0), vif(7, 1)), retract(7))] },
    ],
  },
  {
    name: 'no-thread',
    what: 'the thread of a domain cannot be started; memory comes back later',
    phases: (w) => [
      { scripts: [t(fail(w, 'kthread_run'), announce(7), makeDomain(w, 7), addDevice(vif(7)))] },
      { heal: true, scripts: [t(awaitInitWait(vif(7)), ...destroy(w, 7, vif(7)), retract(7))] },
    ],
  },
  {
    name: 'no-memory',
    what: 'there is no memory for a domain’s thread when it is announced; it comes back later',
    phases: (w) => [
      { scripts: [t(fail(w, 'kzalloc'), announce(7))] },
      { heal: true, scripts: [t(makeDomain(w, 7), ...attach(vif(7)))] },
    ],
  },
  {
    name: 'crash-announced',
    what: 'the toolstack is killed after it has announced a domain; the node is pruned later',
    phases: () => [{ scripts: [t(announce(7))] }, { scripts: [t2(retract(7))] }],
  },
  {
    name: 'crash-adding',
    what: 'the toolstack is killed while it adds devices; the domain is destroyed later',
    phases: (w) => [
      { scripts: [t(announce(7), makeDomain(w, 7), ...attach(vbd(7)), addDevice(vif(7))), guestOf(w, 7, vbd(7))] },
      { scripts: [t2(...destroy(w, 7, vbd(7), vif(7)), retract(7))] },
    ],
  },
  {
    name: 'crash-destroying',
    what: 'the toolstack is killed in the middle of a destroy; another one finishes',
    phases: (w) => [
      up(w, 7, vbd(7), vif(7)),
      { scripts: [t(unplug(vbd(7)), removeBackend(vbd(7)))] },
      { scripts: [t2(...destroy(w, 7, vbd(7), vif(7)), retract(7))] },
    ],
  },
  {
    name: 'xenwatch-stalled',
    what: 'xenwatch gets stuck in a disk of dom0’s own; a domain is destroyed meanwhile, another one later',
    phases: (w) => [
      up(w, 7, vif(7)),
      up(w, 8, vif(8)),
      {
        scripts: [
          t2(hold(w, dom0Disk, 'connect'), addDevice(dom0Disk), awaitInitWait(dom0Disk), hotplug(dom0Disk)),
          t(...destroy(w, 7, vif(7)), retract(7)),
        ],
      },
      { scripts: [t(...destroy(w, 8, vif(8)), retract(8))] },
    ],
  },
  {
    name: 'process-closes',
    what: 'a process closes /dev/xen/xenbus, where it has set a watch, while xenwatch is stuck in a disk of dom0’s own',
    phases: (w) => {
      const { opens, closes } = watchingProcess(w);
      return [
        { scripts: [t2(opens)] },
        { scripts: [t(hold(w, dom0Disk, 'connect'), addDevice(dom0Disk), awaitInitWait(dom0Disk), hotplug(dom0Disk))] },
        { scripts: [t2(closes)] },
      ];
    },
  },
  {
    name: 'vifs-stalled',
    what: 'a vif is held while its domain is destroyed; the vif of another domain goes meanwhile',
    phases: (w) => [
      up(w, 7, vif(7)),
      up(w, 8, vif(8)),
      { scripts: [t(hold(w, vif(7), 'inflight'), unplug(vif(7))), t2(...destroy(w, 8, vif(8)), retract(8))] },
      { heal: true, scripts: [t(awaitClosed(vif(7)), removeBackend(vif(7)), ...destroy(w, 7), retract(7))] },
    ],
  },
  {
    name: 'device-vanishes',
    what: 'a backend’s directory is removed under a guest that is connecting',
    phases: (w) => [
      {
        scripts: [
          t(announce(7), makeDomain(w, 7), addDevice(vbd(7)), awaitInitWait(vbd(7)), removeBackend(vbd(7))),
          guestOf(w, 7, vbd(7)),
        ],
      },
      {
        scripts: [
          t(
            op('await the end of vbd-7-51712', function* (self) {
              yield* self.until(back(vbd(7)), gone, libxlWaitMs);
            }),
            ...destroy(w, 7, vbd(7)),
            retract(7),
          ),
        ],
      },
    ],
  },
];
