/**
 * Dialogues with the store, for the tests that give and take nothing but packets.
 *
 * A table says who asks what in which transaction and what comes of it; the events that the store sends on the way are
 * rows of their own, where they come. The store is a whole one with its loop; the hypervisor is a map of domains.
 */
import { StoreLoop, type StoreLoopOptions } from '../../src/xenbus/store-loop.js';
import type { StoreLink } from '../../src/xenbus/transport.js';
import { joinStrings, splitStrings, type XsPacket, XsType } from '../../src/xenbus/xs-wire.js';

/** A request with its reply; or what a peer got unasked: `EVENT` with path and token, `CLOSED`. */
export type Row = readonly [who: string, tx: number, request: string, reply: string];

const types: Readonly<Record<string, number>> = {
  CONTROL: XsType.Control,
  DIRECTORY: XsType.Directory,
  READ: XsType.Read,
  GET_PERMS: XsType.GetPerms,
  WATCH: XsType.Watch,
  UNWATCH: XsType.Unwatch,
  START: XsType.TransactionStart,
  END: XsType.TransactionEnd,
  INTRODUCE: XsType.Introduce,
  RELEASE: XsType.Release,
  GET_DOMAIN_PATH: XsType.GetDomainPath,
  WRITE: XsType.Write,
  MKDIR: XsType.Mkdir,
  RM: XsType.Rm,
  SET_PERMS: XsType.SetPerms,
  IS_DOMAIN_INTRODUCED: XsType.IsDomainIntroduced,
  RESUME: XsType.Resume,
  SET_TARGET: XsType.SetTarget,
  RESET_WATCHES: XsType.ResetWatches,
  DIRECTORY_PART: XsType.DirectoryPart,
};

/**
 * `WRITE /a some value`, `SET_PERMS /a n0 r1`; `RESET_WATCHES` without a payload; `READ: /a` with a payload as it is
 * spelt, here one without its NUL; `#99 x` for a type that there is not.
 */
export function packetOf(tx: number, request: string, reqId = 7): XsPacket {
  const space = request.indexOf(' ');
  const word = space < 0 ? request : request.slice(0, space);
  const rest = space < 0 ? '' : request.slice(space + 1);
  const op = word.replace(/:$/, '');
  const type = op.startsWith('#') ? Number(op.slice(1)) : types[op];
  if (type === undefined) throw new Error(`there is no request ${op}`);
  const payload = (): string => {
    if (word !== op) return rest;
    if (space < 0) return '';
    if (op !== 'WRITE') return joinStrings(...rest.split(' '));
    const [path = '', ...value] = rest.split(' ');
    return joinStrings(path) + value.join(' ');
  };
  return { type, reqId, txId: tx, payload: payload() };
}

/** The strings of a payload, with spaces between. */
export const shown = ({ payload }: XsPacket): string => splitStrings(payload).join(' ');

/** One connection: what came on it, and a way to stop taking. */
export interface Talker {
  readonly link: StoreLink;
  readonly got: XsPacket[];
  full: boolean;
  open: boolean;
}

export interface Stage {
  readonly loop: StoreLoop;
  /** The domains that the hypervisor has. A change is noticed at the next `virq`. */
  readonly domains: Map<number, { dying: boolean; shutdown: boolean }>;
  readonly log: string[];
  /** The connection of that name. */
  talker(name: string): Talker;
  /** Asks the requests of a table, each when the one before is answered, and gives the table as it came out. */
  play(rows: readonly Row[]): Row[];
  /** What comes of a VIRQ for every guest, in the same form. */
  virq(): Row[];
  /** Serves until nothing is left to do. */
  run(): void;
}

/** The domains that the hypervisor has at first. */
const guests = [1, 2, 3];

/**
 * A store with two connections of dom0, `dom0` and `dom0b`, and the guests `dom1` and `dom2`, introduced, each the owner
 * of its home. Domain 3 exists and waits to be introduced; who is introduced later talks as `dom3`.
 */
export function stage(options: Partial<StoreLoopOptions> = {}): Stage {
  const domains = new Map(guests.map((domid) => [domid, { dying: false, shutdown: false }]));
  const talkers = new Map<string, Talker>();
  const log: string[] = [];
  let rows: Row[] = [];
  let asked: Row | undefined;
  const join = (name: string, domid: number): void => {
    const got: XsPacket[] = [];
    const link = loop.connect({
      domid,
      who: domid === 0 ? 'client' : 'domU-kernel',
      full: () => talkers.get(name)?.full ?? false,
      deliver: (packet) => {
        got.push(packet);
        if (packet.type === XsType.WatchEvent) rows.push([name, 0, 'EVENT', shown(packet)]);
        else if (asked?.[0] === name) rows.push([name, asked[1], asked[2], shown(packet)]);
      },
      closed: () => {
        const talker = talkers.get(name);
        if (talker) talker.open = false;
        rows.push([name, 0, 'CLOSED', '']);
      },
    });
    talkers.set(name, { link, got, full: false, open: true });
  };
  const loop = new StoreLoop({
    domain: (domid) => domains.get(domid),
    wake: () => undefined,
    log: (line) => log.push(line),
    introduced: (domid) => join(`dom${domid}`, domid),
    ...options,
  });
  const run = (): void => {
    while (loop.serveOne());
  };
  const talker = (name: string): Talker => {
    const found = talkers.get(name);
    if (!found) throw new Error(`there is no connection ${name}`);
    return found;
  };
  const made: Stage = {
    loop,
    domains,
    log,
    talker,
    play: (table) => {
      rows = [];
      for (const row of table) {
        const [who, tx, request] = row;
        if (request === 'EVENT' || request === 'CLOSED') continue;
        asked = row;
        talker(who).link.push(packetOf(tx, request));
        run();
      }
      asked = undefined;
      return rows;
    },
    virq: () => {
      rows = [];
      for (const domid of guests) loop.virq(domid);
      run();
      return rows;
    },
    run,
  };
  join('dom0', 0);
  join('dom0b', 0);
  for (const domid of [1, 2]) {
    made.play([
      ['dom0', 0, `INTRODUCE ${domid} 4660 1`, ''],
      ['dom0', 0, `WRITE /local/domain/${domid} `, ''],
      ['dom0', 0, `SET_PERMS /local/domain/${domid} n${domid}`, ''],
    ]);
  }
  return made;
}

/** Plays `table` and expects it to come out as it is written, events and their places included. */
export function expectDialogue(table: readonly Row[], on: Stage = stage()): Stage {
  expect(on.play(table)).toEqual(table);
  return on;
}
