/**
 * Connections as a guest: while the store knows a domain, whoever connects at that domain's place speaks as the domain.
 *
 * When a place appears and when it goes, in which order where a domid is introduced, released and introduced again, and
 * no sockets and no files: who composes a dom0 gives `listen`. A real guest has one connection, its ring. Each
 * connection here is one more of the same domain, with the domain's permissions and quotas.
 *
 * ```
 * INTRODUCE 3   introduced(3) -> listen(3) ...... listens -> the reply goes out
 * RELEASE 3     the store closes the domain's connections -> released(3) -> close() -> the reply goes out
 * INTRODUCE 3   introduced(3) -> once the first place is closed: listen(3) ...
 * ```
 */
import type { StorePeer, StorePort } from './transport.js';
import { XsType } from './xs-wire.js';

/** The place of one domain. */
export interface GuestListener {
  /** Takes the place away before it returns; the promise is of what else ends with it. */
  close(): Promise<void>;
}

export interface GuestSocketsOptions {
  /** Opens the place of a domain; who connects there connects to `port`. */
  readonly listen: (domid: number, port: StorePort) => Promise<GuestListener>;
  /** Where the connections go. */
  readonly port: StorePort;
  readonly log: (line: string) => void;
}

export interface GuestSockets {
  /** The store has introduced a domain, or released it. */
  introduced(domid: number): void;
  released(domid: number): void;
  /** `port` for those who introduce domains: the reply to INTRODUCE waits until the domain can be connected to. */
  introducing(port: StorePort): StorePort;
  /** Resolves when every place that is being opened is open. */
  opened(): Promise<void>;
  close(): Promise<void>;
}

/** A domain from its introduction to its release. */
interface Place {
  isOver: boolean;
  listener: GuestListener | undefined;
  opened: Promise<void>;
}

export function guestSockets({ listen, port, log }: GuestSocketsOptions): GuestSockets {
  const places = new Map<number, Place>();
  /** What is left to do at the place of a domain that was released. */
  const closing = new Map<number, Promise<void>>();
  const opening = new Set<Promise<void>>();

  const open = async (domid: number, place: Place): Promise<void> => {
    try {
      const before = closing.get(domid);
      if (before) await before;
      if (place.isOver) return;
      const listener = await listen(
        domid,
        portUntil(port, () => place.isOver),
      );
      if (place.isOver) await listener.close();
      else place.listener = listener;
    } catch (error) {
      log(`domain ${domid} has no socket: ${error instanceof Error ? error.message : String(error)}`);
    }
  };

  const released = (domid: number): void => {
    const place = places.get(domid);
    if (!place) return;
    places.delete(domid);
    place.isOver = true;
    const closed = (place.listener ? place.listener.close() : place.opened).finally(() => {
      if (closing.get(domid) === closed) closing.delete(domid);
    });
    closing.set(domid, closed);
  };

  return {
    introduced: (domid) => {
      const place: Place = { isOver: false, listener: undefined, opened: Promise.resolve() };
      places.set(domid, place);
      place.opened = open(domid, place).finally(() => opening.delete(place.opened));
      opening.add(place.opened);
    },
    released,
    introducing: (inner) => ({
      connect: (peer) => withheld(inner, peer, () => (opening.size > 0 ? Promise.all(opening) : undefined)),
    }),
    opened: async () => void (await Promise.all(opening)),
    close: async () => {
      for (const domid of [...places.keys()]) released(domid);
      await Promise.all(closing.values());
    },
  };
}

/** `port` for as long as the domain is there. Whoever has got through to a place that is closing finds nobody. */
function portUntil(port: StorePort, isOver: () => boolean): StorePort {
  return {
    connect: (peer) => {
      if (!isOver()) return port.connect(peer);
      peer.closed('the domain was released');
      return { push: () => false, resume: () => undefined, end: () => undefined, close: () => undefined };
    },
  };
}

/**
 * Connects `peer` to `port` and keeps the reply to an INTRODUCE from it until what is being opened is open. Meanwhile the
 * peer counts as full, so that all that is behind the reply waits in the store.
 */
function withheld(
  port: StorePort,
  peer: StorePeer,
  opening: () => Promise<unknown> | undefined,
): ReturnType<StorePort['connect']> {
  let isWaiting = false;
  let isOpen = true;
  const link = port.connect({
    ...peer,
    full: () => isWaiting || (peer.full?.() ?? false),
    deliver: (packet) => {
      const opened = packet.type === XsType.Introduce ? opening() : undefined;
      if (!opened) {
        peer.deliver(packet);
        return;
      }
      isWaiting = true;
      void opened.then(() => {
        isWaiting = false;
        if (!isOpen) return;
        peer.deliver(packet);
        link.resume();
      });
    },
    closed: (reason) => {
      isOpen = false;
      peer.closed(reason);
    },
  });
  return {
    push: (packet) => link.push(packet),
    resume: () => link.resume(),
    end: () => link.end(),
    close: () => {
      isOpen = false;
      link.close();
    },
  };
}
