/**
 * Where the actions of a fuzz run come from: one seed, and what the rig has open now.
 *
 * Most inputs are requests that mean something, over few names, so that they meet; some are nearly right; some are bytes
 * that were bent, cut or joined, or are none of the protocol at all. What holds afterwards is not known here.
 */
import { seeded } from '../../src/xenbus/clock.js';
import { joinStrings, XENSTORE_PAYLOAD_MAX, XS_HEADER_SIZE, type XsPacket, XsType } from '../../src/xenbus/xs-wire.js';
import { type Action, type Conn, guestDomids, packetBytes, type Rig, ringSlot, slots } from './rig.js';

/** Slots whose connections send what is not even framed; the others keep to the framing. */
const rudeSlots = 6;
/** The quotas of a round, by name: what a round may have. The first is the default of Xen 4.17. */
const quotaChoices: Readonly<Record<string, readonly number[]>> = {
  nodes: [1000, 30, 12],
  watches: [128, 4],
  transactions: [10, 2],
  outstanding: [20, 1],
  'transaction-nodes': [1024, 8],
  memory: [2.5 * 1024 * 1024, 60_000, 8192],
  'node-size': [2048, 300],
  permissions: [5, 3],
};

/** Whole numbers below `n`, and choices, of one seed. */
export interface Draw {
  (n: number): number;
  pick<T>(options: readonly T[]): T;
}

export function drawer(seed: number): Draw {
  const next = seeded(seed);
  const draw = (n: number): number => next() % n;
  return Object.assign(draw, { pick: <T>(options: readonly T[]): T => options[draw(options.length)] as T });
}

/** The quotas that a round begins with, as arguments of CONTROL. */
export function roundQuotas(draw: Draw): (readonly [string, string, string, string])[] {
  const small = draw(3) === 0;
  return Object.entries(quotaChoices).map(([name, choices]) => [
    'quota',
    'set',
    name,
    String(small ? draw.pick(choices) : choices[0]),
  ]);
}

const weighted = <T>(...entries: readonly (readonly [number, T])[]): readonly T[] =>
  entries.flatMap(([weight, value]) => new Array<T>(weight).fill(value));

const kinds = weighted<keyof typeof requests>(
  [18, 'write'],
  [8, 'mkdir'],
  [5, 'rm'],
  [7, 'setPerms'],
  [8, 'read'],
  [5, 'directory'],
  [2, 'directoryPart'],
  [2, 'getPerms'],
  [7, 'watch'],
  [4, 'unwatch'],
  [7, 'start'],
  [7, 'end'],
  [2, 'introduce'],
  [1, 'release'],
  [1, 'resume'],
  [1, 'setTarget'],
  [1, 'isIntroduced'],
  [1, 'domainPath'],
  [1, 'resetWatches'],
  [2, 'control'],
  [1, 'unknown'],
);

const names = ['a', 'b', 'c', 'd', 'a', 'b', 'device', '@x', '-', '_'];
const requests = {
  write: (draw: Draw, domid: number) => ({ type: XsType.Write, payload: joinStrings(somePath(draw, domid)) + someValue(draw) }),
  mkdir: (draw: Draw, domid: number) => ({ type: XsType.Mkdir, payload: joinStrings(somePath(draw, domid)) }),
  rm: (draw: Draw, domid: number) => ({ type: XsType.Rm, payload: joinStrings(somePath(draw, domid)) }),
  setPerms: (draw: Draw, domid: number) => {
    const perms = Array.from({ length: 1 + draw(draw(10) === 0 ? 8 : 3) }, () => somePerm(draw, domid));
    const path = draw(12) === 0 ? specialName(draw) : somePath(draw, domid);
    return { type: XsType.SetPerms, payload: joinStrings(path, ...perms) };
  },
  read: (draw: Draw, domid: number) => ({ type: XsType.Read, payload: joinStrings(somePath(draw, domid)) }),
  directory: (draw: Draw, domid: number) => ({ type: XsType.Directory, payload: joinStrings(somePath(draw, domid)) }),
  directoryPart: (draw: Draw, domid: number) => ({
    type: XsType.DirectoryPart,
    payload: joinStrings(somePath(draw, domid), draw.pick(['0', '1', '4000', '-1', 'x', '99999999999'])),
  }),
  getPerms: (draw: Draw, domid: number) => ({ type: XsType.GetPerms, payload: joinStrings(somePath(draw, domid)) }),
  watch: (draw: Draw, domid: number) => ({ type: XsType.Watch, payload: joinStrings(watchPath(draw, domid), someToken(draw)) }),
  unwatch: (draw: Draw, domid: number) => ({
    type: XsType.Unwatch,
    payload: joinStrings(watchPath(draw, domid), someToken(draw)),
  }),
  start: () => ({ type: XsType.TransactionStart, payload: joinStrings('') }),
  end: (draw: Draw) => ({ type: XsType.TransactionEnd, payload: joinStrings(draw.pick(['T', 'T', 'T', 'F', 'x'])) }),
  introduce: (draw: Draw) => ({ type: XsType.Introduce, payload: joinStrings(someDomid(draw), '1', draw.pick(['1', '1', '0'])) }),
  release: (draw: Draw) => ({ type: XsType.Release, payload: joinStrings(someDomid(draw)) }),
  resume: (draw: Draw) => ({ type: XsType.Resume, payload: joinStrings(someDomid(draw)) }),
  setTarget: (draw: Draw) => ({ type: XsType.SetTarget, payload: joinStrings(someDomid(draw), someDomid(draw)) }),
  isIntroduced: (draw: Draw) => ({ type: XsType.IsDomainIntroduced, payload: joinStrings(someDomid(draw)) }),
  domainPath: (draw: Draw) => ({ type: XsType.GetDomainPath, payload: joinStrings(someDomid(draw)) }),
  resetWatches: () => ({ type: XsType.ResetWatches, payload: joinStrings('') }),
  control: (draw: Draw) => ({ type: XsType.Control, payload: joinStrings(...someControl(draw)) }),
  unknown: (draw: Draw) => ({ type: draw.pick([5, 15, 16, 20, 23, 99, 0xffffffff]), payload: 'x'.repeat(draw(20)) }),
} satisfies Record<string, (draw: Draw, domid: number) => { type: number; payload: string }>;

const specialName = (draw: Draw): string => draw.pick(['@introduceDomain', '@releaseDomain', '@x', '@']);
const someDomid = (draw: Draw): string =>
  draw.pick([...guestDomids.map(String), ...guestDomids.map(String), '0', '7', '-1', 'x', '', '32752', '99999999999']);

/** Mostly a few names a few levels deep; a crowded directory; sometimes long, sometimes not a path. */
function somePath(draw: Draw, domid: number): string {
  const chance = draw(200);
  if (chance === 0)
    return draw.pick(['', '/', '//', '/a/', 'a//b', '/a b', '@releaseDomain', '/\u00e9', '/local', '/local/domain', '/tool']);
  const home = `/local/domain/${domid || draw.pick(guestDomids)}`;
  const root = domid === 0 ? draw.pick(['/t', '/t', home, '/v', '']) : draw.pick(['', '', home, '/t', '/local/domain/1']);
  if (chance === 1)
    return `${root}/${'l'.repeat(draw.pick([60, 150, 250, 1000, 2000, 2034, 2035, 2048, 2049, 3050, 3072, 4000]))}`;
  if (chance === 2) return `${root}${'/d'.repeat(draw.pick([10, 60, 1000]))}`;
  const below = chance < 40 ? [`crowd`, `k${draw(400)}`] : Array.from({ length: draw(4) }, () => draw.pick(names));
  const path = [root, ...below].join('/').replace(/^\/(?=[^/tvl])/, '');
  return path === '' ? 'a' : path;
}

const watchPath = (draw: Draw, domid: number): string =>
  draw(8) === 0 ? specialName(draw) : draw(10) === 0 ? '/' : somePath(draw, domid);
const someToken = (draw: Draw): string => {
  const chance = draw(40);
  return chance === 0 ? 't'.repeat(draw(4000)) : chance === 1 ? '' : draw.pick(['x', 'y', 'z', 'some-token']);
};
const someValue = (draw: Draw): string => {
  const chance = draw(40);
  if (chance === 0) return 'v'.repeat(draw(4000));
  return chance < 4 ? 'w'.repeat(draw(300)) : draw.pick(['', '1', '4', 'some value', '\0', '\u00ff\u0000\u0080']);
};
function somePerm(draw: Draw, domid: number): string {
  if (draw(30) === 0) return draw.pick(['r', 'x1', '', 'b-1', 'n0x3', 'w 2', 'n99999999999999999999', 'r7', 'n32752']);
  const whom = domid !== 0 && draw(2) === 0 ? domid : draw.pick([0, ...guestDomids]);
  return `${draw.pick(['n', 'r', 'w', 'b', 'b'])}${whom}`;
}

function someControl(draw: Draw): string[] {
  const quota = draw.pick(Object.entries(quotaChoices));
  return draw.pick([
    ['check'],
    ['help'],
    ['memreport'],
    ['print', 'some text'],
    ['log', 'on'],
    ['quota'],
    ['quota', someDomid(draw)],
    ['quota', 'set', quota[0], String(draw.pick(quota[1]))],
    ['quota-soft', 'set', 'memory', draw.pick(['1000', '2000000'])],
    ['quota-soft'],
    ['toString'],
    [],
  ]);
}

/** A generator of actions. It remembers, for each slot, bytes that were cut off and are to be sent next. */
export function inputs(draw: Draw, rig: Rig): () => Action {
  const carried = new Map<number, Buffer>();
  let reqId = 0;

  /** The end of a watch that there is, half of the time. */
  const ofItsOwn = (conn: Conn): { type: number; payload: string } | undefined => {
    const watch = draw(2) === 0 && conn.watches.size > 0 ? [...conn.watches.values()][draw(conn.watches.size)] : undefined;
    return watch && { type: XsType.Unwatch, payload: joinStrings(watch.path, watch.token) };
  };

  const request = (conn: Conn): XsPacket => {
    const open = [...conn.transactions];
    const kind = open.length > 0 && draw(8) === 0 ? 'end' : draw.pick(kinds);
    const { type, payload } = (kind === 'unwatch' && ofItsOwn(conn)) || requests[kind](draw, conn.domid);
    const wantsTx = kind === 'end' || (open.length > 0 && draw(3) > 0 && kind !== 'start');
    const stray = draw(40) === 0 ? draw.pick([1, 2, 77, 0xffffffff]) : 0;
    const txId = stray || (wantsTx ? (open[draw(Math.max(1, open.length))] ?? 0) : 0);
    reqId = (reqId + 1) >>> 0;
    return {
      type,
      reqId: draw(50) === 0 ? draw.pick([0, 0xffffffff]) : reqId,
      txId,
      payload: draw(40) === 0 ? bent(draw, payload) : payload,
    };
  };

  /** Framed bytes: one request or several, the last one perhaps in part. */
  const framed = (slot: number, conn: Conn): Buffer => {
    const parts = [carried.get(slot) ?? Buffer.alloc(0)];
    const count = draw(12) === 0 ? 1 + draw(draw(8) === 0 ? 100 : 5) : 1;
    for (let i = 0; i < count; i += 1) parts.push(packetBytes(request(conn)));
    const bytes = parts.length === 2 && parts[0]?.length === 0 ? (parts[1] as Buffer) : Buffer.concat(parts);
    carried.delete(slot);
    if (draw(15) > 0) return bytes;
    const cut = draw(bytes.length + 1);
    carried.set(slot, bytes.subarray(cut));
    return bytes.subarray(0, cut);
  };

  /** Bytes of somebody who does not care. */
  const rude = (slot: number, conn: Conn): Buffer => {
    const whole = framed(slot, conn);
    switch (draw(12)) {
      case 0:
        return Buffer.from(Array.from({ length: draw(200) }, () => draw(256)));
      case 1: {
        const bytes = Buffer.from(whole);
        for (let i = draw(4); i >= 0; i -= 1) if (bytes.length > 0) bytes[draw(bytes.length)] = draw(256);
        return bytes;
      }
      case 2: {
        const length = draw.pick([XENSTORE_PAYLOAD_MAX + 1, 5000, 0x7fffffff, 0x80000000, 0xffffffff]);
        return packetBytes(request(conn), length);
      }
      case 3:
        return packetBytes({ ...request(conn), payload: '' }, draw(20));
      case 4:
        return packetBytes(request(conn), draw(XENSTORE_PAYLOAD_MAX + 1));
      case 5:
        return whole.subarray(draw(whole.length + 1));
      case 6:
        return Buffer.concat([whole, whole]);
      case 7:
        return packetBytes({ ...request(conn), payload: 'p'.repeat(XENSTORE_PAYLOAD_MAX) });
      default:
        return whole;
    }
  };

  /** What a toolstack sends for a domain: its home, then the domain. */
  const birth = (domid: number): Buffer => {
    const home = `/local/domain/${domid}`;
    const steps: readonly (readonly [type: number, ...strings: string[]])[] = [
      [XsType.Mkdir, home],
      [XsType.SetPerms, home, `n${domid}`],
      [XsType.Introduce, String(domid), '1', '1'],
    ];
    return Buffer.concat(
      steps.map(([type, ...strings]) => packetBytes({ type, reqId: 0, txId: 0, payload: joinStrings(...strings) })),
    );
  };

  const freshSlot = (slot: number): Action => {
    carried.delete(slot);
    const domid = draw(3) === 0 ? 0 : draw.pick([...guestDomids]);
    return { do: 'open', slot, domid, buffer: draw.pick([0, 200, 4000, 64 * 1024]) };
  };

  /** A slot that goes on for a while, so that some transactions end before anybody comes between. */
  let busy = { slot: 0, left: 0 };

  return () => {
    const chance = draw(2000);
    if (busy.left > 0) busy.left -= 1;
    else busy = { slot: draw(4) === 0 ? ringSlot(draw.pick(guestDomids)) : draw(slots), left: draw(4) === 0 ? draw(20) : 0 };
    const { slot } = busy;
    const isRing = slot >= slots;
    const conn = rig.conns.get(slot);
    if (chance < 5) return { do: 'virq', domid: draw.pick([...guestDomids, 0, 7]) };
    if (chance < 20) {
      const is = draw.pick(['there', 'there', 'there', 'there', 'shut down', 'dying', 'gone'] as const);
      return { do: 'domain', domid: draw.pick(guestDomids), is };
    }
    if (chance < 23) return { do: 'close', slot };
    if (chance < 25) return { do: 'half-close', slot };
    if (chance < 40) return { do: 'read', slot, yes: draw(3) > 0 };
    if (chance < 55) return { do: 'drain', slot };
    if (!conn?.open || conn.ending) {
      if (!isRing) return freshSlot(slot);
      const bytes = birth(slot - slots);
      const asker = [...rig.conns].find(([, other]) => other.open && other.domid === 0 && !other.ending);
      if (!rig.domains.has(slot - slots)) return { do: 'domain', domid: slot - slots, is: 'there' };
      if (asker && !carried.has(asker[0])) return { do: 'bytes', slot: asker[0], bytes, step: 0, serve: 3 };
      return { do: 'open', slot: 0, domid: 0, buffer: 0 };
    }
    const isRude = slot < rudeSlots || slot === ringSlot(5);
    const bytes = isRude ? rude(slot, conn) : framed(slot, conn);
    return { do: 'bytes', slot, bytes, step: draw(30) === 0 ? 1 + draw(20) * draw(2) : 0, serve: draw.pick([0, 1, 1, 2, 2, 3]) };
  };
}

/** A payload that is not quite what it was. */
function bent(draw: Draw, payload: string): string {
  const at = draw(payload.length + 1);
  switch (draw(5)) {
    case 0:
      return payload.slice(0, at);
    case 1:
      return `${payload.slice(0, at)}\0${payload.slice(at)}`;
    case 2:
      return payload.slice(0, at) + String.fromCharCode(draw(256)) + payload.slice(at + 1);
    case 3:
      return payload + payload;
    default:
      return payload.slice(0, -1);
  }
}

/** An action as a line, for whoever reads a failure. */
export function actionLine(action: Action): string {
  if (action.do !== 'bytes') return JSON.stringify(action);
  const { slot, bytes, step, serve } = action;
  const whole = bytes.length >= XS_HEADER_SIZE && bytes.length === XS_HEADER_SIZE + bytes.readUInt32LE(12);
  const [type, reqId, txId] = whole ? [0, 4, 8].map((at) => bytes.readUInt32LE(at)) : [];
  const text = whole
    ? `type ${type} req ${reqId} tx ${txId} ${JSON.stringify(bytes.toString('latin1', XS_HEADER_SIZE))}`
    : `${bytes.length} bytes ${bytes.toString('hex')}`;
  const what = text.length > 300 ? `${text.slice(0, 300)}...` : text;
  return `slot ${slot}: ${what}${step ? ` in steps of ${step}` : ''}, serve ${serve}`;
}
