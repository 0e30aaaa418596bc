/**
 * Bugs that are planted into a simulated system, to see whether its laws find them.
 *
 * Each is put between the parts that exist, or over one of their functions; the code under test has no switch for it, but
 * for those that hazards.ts has anyway.
 */
import type { Dom0 } from '../../src/xenbus/dom0.js';
import type { Defect } from '../../src/xenbus/kernel/hazards.js';
import { HardenedDispatch } from '../../src/xenbus/kernel/mtwatch.js';
import type { StoreNode } from '../../src/xenbus/store.js';
import type { StoreLink, StorePeer, StorePort } from '../../src/xenbus/transport.js';
import { joinStrings, splitStrings, type XsPacket, XsType } from '../../src/xenbus/xs-wire.js';

/** Who has a connection: what it was started for, as `create`. */
export interface Owner {
  readonly role: string;
}

export interface Plant {
  readonly what: string;
  readonly defects?: readonly Defect[];
  /** Between one connection and the store. */
  readonly between?: (owner: Owner) => Partial<Between> | undefined;
  /** Done to a system before it begins; what it returns undoes it. */
  readonly into?: (dom0: Dom0) => () => void;
}

/** What stands between a client and the store. What it does not pass on is not sent. */
export interface Between {
  request(packet: XsPacket, io: Io): void;
  answer(packet: XsPacket, io: Io): void;
}

export interface Io {
  /** On to the store, or to the client. */
  readonly ask: (packet: XsPacket) => void;
  readonly tell: (packet: XsPacket) => void;
  /** A request of one's own, whose answer nobody hears of. */
  readonly slip: (type: number, payload: string) => void;
}

const announcement = /^\/local\/domain\/0\/mtwatch\/\d+$/;
const ok = joinStrings('OK');

const firstString = ({ payload }: XsPacket): string => splitStrings(payload)[0] ?? payload.split('\0')[0] ?? '';
const pathOf = ({ payload }: XsPacket): string => payload.slice(0, Math.max(0, payload.indexOf('\0')));
const done = ({ type, reqId, txId }: XsPacket): XsPacket => ({ type, reqId, txId, payload: ok });

/** Says that it has removed an announcement, and has not. */
function keepsNode(roles: readonly string[]): NonNullable<Plant['between']> {
  return ({ role }) =>
    roles.includes(role)
      ? {
          request: (packet, { ask, tell }) => {
            if (packet.type === XsType.Rm && announcement.test(pathOf(packet))) tell(done(packet));
            else ask(packet);
          },
        }
      : undefined;
}

export const plants = {
  'mtwatch-after-T1': {
    what: 'libxl writes mtwatch/N after the transaction that makes /local/domain/N',
    between: () => {
      let late: XsPacket | undefined;
      return {
        request: (packet, { ask, tell, slip }) => {
          if (packet.type === XsType.Write && announcement.test(pathOf(packet))) {
            late = packet;
            tell(done(packet));
            return;
          }
          // The transaction looks whether it is there.
          if (late && packet.type === XsType.Read && announcement.test(pathOf(packet))) {
            tell({ ...packet, payload: '' });
            return;
          }
          ask(packet);
          if (late && packet.type === XsType.TransactionEnd && firstString(packet) === 'T') {
            slip(late.type, late.payload);
            late = undefined;
          }
        },
      };
    },
  },
  'mtwatch-before-vbd': {
    what: 'libxl removes mtwatch/N before the backend paths of its devices',
    between: ({ role }) =>
      role === 'destroy'
        ? {
            request: (packet, { ask, slip }) => {
              const domid = /^\/local\/domain\/0\/backend\/(?:vbd|vif)\/(\d+)\/\d+\/online$/.exec(pathOf(packet))?.[1];
              if (packet.type === XsType.Write && domid) slip(XsType.Rm, joinStrings(`/local/domain/0/mtwatch/${domid}`));
              ask(packet);
            },
          }
        : undefined,
  },
  'no-retry': {
    what: 'a transaction that met a conflict is taken for committed',
    between: () => ({
      answer: (packet, { tell }) => {
        const again = packet.type === XsType.Error && packet.payload === joinStrings('EAGAIN');
        tell(again ? { ...packet, type: XsType.TransactionEnd, payload: ok } : packet);
      },
    }),
  },
  'rollback-keeps-mtwatch': {
    what: 'the rollback of a failed creation leaves mtwatch/N',
    between: keepsNode(['create']),
  },
  'event-after-unregister': {
    what: 'a watch may have one more event when its unregistering was answered: of a client, and of a retiring thread',
    defects: ['purge-skips-retiring'],
    between: () => {
      let last: XsPacket | undefined;
      return {
        answer: (packet, { tell }) => {
          tell(packet);
          if (packet.type === XsType.WatchEvent) last = packet;
          if (packet.type === XsType.Unwatch && last) tell(last);
        },
      };
    },
  },
  lifo: { what: 'a thread runs its newest event first', defects: ['lifo'] },
  'early-reuse': {
    what: 'a domid is given out while its last thread is there',
    into: () => {
      const { busy } = HardenedDispatch.prototype;
      HardenedDispatch.prototype.busy = () => false;
      return () => {
        HardenedDispatch.prototype.busy = busy;
      };
    },
  },
  'no-refund': {
    what: 'a node that is removed still counts for the quota of its owner',
    into: ({ core: { store } }) => {
      const lost = new Map<number, number>();
      const { removeTree, ownedNodes } = store;
      store.removeTree = (path, removed) =>
        removeTree.call(store, path, (at: string, node: StoreNode, parent: StoreNode | undefined) => {
          const domid = node.perms[0].domid;
          if (domid !== 0) lost.set(domid, (lost.get(domid) ?? 0) + 1);
          removed?.(at, node, parent);
        });
      store.ownedNodes = (domid) => ownedNodes.call(store, domid) + (lost.get(domid) ?? 0);
      return () => {};
    },
  },
  'first-event-lost': {
    what: 'every third registration of a connection has no first event',
    between: () => {
      let registered = 0;
      let next = false;
      return {
        answer: (packet, { tell }) => {
          const isLost = next && packet.type === XsType.WatchEvent && registered % 3 === 0;
          next = packet.type === XsType.Watch;
          if (next) registered += 1;
          if (!isLost) tell(packet);
        },
      };
    },
  },
  'orphan-kept': {
    what: 'prune says that it has removed an orphan, and has not',
    between: keepsNode(['prune']),
  },
} as const satisfies Record<string, Plant>;

export type PlantName = keyof typeof plants;

export function isPlant(name: string): name is PlantName {
  return Object.hasOwn(plants, name);
}

/** Requests of a plant have numbers that a client does not come to. */
const slippedFrom = 0xf000_0000;

/** The store as one connection reaches it with a plant in between. */
export function plantedPort(port: StorePort, plant: Plant | undefined, owner: Owner): StorePort {
  const between = plant?.between?.(owner);
  if (!between) return port;
  return {
    connect: (peer: StorePeer): StoreLink => {
      let slipped = slippedFrom;
      const link = port.connect({
        ...peer,
        deliver: (packet) => {
          if (packet.reqId >= slippedFrom) return;
          if (between.answer) between.answer(packet, io);
          else peer.deliver(packet);
        },
      });
      const io: Io = {
        ask: (packet) => void link.push(packet),
        tell: (packet) => peer.deliver(packet),
        slip: (type, payload) => void link.push({ type, reqId: slipped++, txId: 0, payload }),
      };
      return {
        ...link,
        push: (packet) => {
          if (!between.request) return link.push(packet);
          between.request(packet, io);
          return true;
        },
      };
    },
  };
}
