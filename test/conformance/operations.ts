/**
 * What is done to the servers that are compared: operations, how they are printed, and a seeded generator of them.
 *
 * No server and no socket in here. Numbers and names of the protocol are written down again, and not taken from the
 * server that is tested, so that a mistake in it cannot hide. Payloads are strings of one character a byte.
 */

export const types = {
  CONTROL: 0,
  DIRECTORY: 1,
  READ: 2,
  GET_PERMS: 3,
  WATCH: 4,
  UNWATCH: 5,
  TRANSACTION_START: 6,
  TRANSACTION_END: 7,
  INTRODUCE: 8,
  RELEASE: 9,
  GET_DOMAIN_PATH: 10,
  WRITE: 11,
  MKDIR: 12,
  RM: 13,
  SET_PERMS: 14,
  WATCH_EVENT: 15,
  ERROR: 16,
  IS_DOMAIN_INTRODUCED: 17,
  RESUME: 18,
  SET_TARGET: 19,
  RESET_WATCHES: 21,
  DIRECTORY_PART: 22,
} as const;
export type TypeName = keyof typeof types;

const names = new Map<number, string>(Object.entries(types).map(([name, type]) => [type, name]));

export function nameOf(type: number): string {
  return names.get(type) ?? `TYPE_${type}`;
}

/** Whose connection it is: dom0's, or the ring of a guest. */
export type Speaker = 0 | 1 | 2;

/** The connections of an episode: three of dom0, which may be told to connect anew; then, where there are any, guests. */
export const dom0Connections = 3;
export const guests = [1, 2] as const;
export const speakers = (withGuests: boolean): Speaker[] => [0, 0, 0, ...(withGuests ? guests : [])];

/** A request. `tx` is the handle of a TRANSACTION_START of the episode, or an id that none has. */
export interface RequestOp {
  readonly kind: 'request';
  readonly conn: number;
  readonly type: number;
  readonly payload: string;
  readonly tx?: number | { readonly unknown: number };
  /** What later operations call the transaction that this one starts. */
  readonly handle?: number;
}

export type Operation =
  | RequestOp
  /** The connection ends and another takes its place. */
  | { readonly kind: 'reconnect'; readonly conn: number }
  /** Bytes on a connection of their own, in pieces; a READ of `/t` follows, unless `cut`: then the client goes away. */
  | { readonly kind: 'raw'; readonly what: string; readonly pieces: readonly string[]; readonly cut?: boolean }
  /** What a domain comes to in the hypervisor, and VIRQ_DOM_EXC. */
  | { readonly kind: 'domain'; readonly domid: number; readonly becomes: DomainState };

export type DomainState = 'running' | 'shutdown' | 'dying' | 'gone';

/** The fixed and visible part of a long text. */
function quoted(text: string): string {
  const shown = text.length > 160 ? `${text.slice(0, 60)}...${text.slice(-20)}` : text;
  const json = JSON.stringify(shown).replace(/[\u007f-\u00ff]/g, (c) => `\\u00${c.charCodeAt(0).toString(16)}`);
  return text.length > 160 ? `${json} (${text.length} bytes)` : json;
}

/** An operation on one line; enough to repeat it by hand. */
export function show(op: Operation): string {
  switch (op.kind) {
    case 'request': {
      const tx = op.tx === undefined ? '' : typeof op.tx === 'number' ? ` in T${op.tx}` : ` in unknown ${op.tx.unknown}`;
      return `c${op.conn} ${nameOf(op.type)}${tx} ${quoted(op.payload)}${op.handle === undefined ? '' : ` -> T${op.handle}`}`;
    }
    case 'reconnect':
      return `c${op.conn} reconnect`;
    case 'raw':
      return `raw (${op.what}) ${op.pieces.map(quoted).join(', ')}${op.cut ? ', then close' : ''}`;
    case 'domain':
      return `hypervisor: domain ${op.domid} is ${op.becomes}`;
  }
}

/** A 32-bit generator (mulberry32): the same seed gives the same operations everywhere. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const oddPaths = [
  ...['', '/', '//', '/t/', '/t//a', '//t', '/t/a/', '/t/.', '/t/..', '/t/a.b', '/t/a b', '/t/\u00c3\u00a9', '/t/a\u007f'],
  ...['/t/a@b', '/t/@a', '/t/-', '/t/_', 't/a', './a', 'a//b', 'a/', '/@a', '/t/a:b', '/t/a+b', '/t/a,b', '/t/a%b', '/t/~'],
  ...['@introduceDomain', '@releaseDomain', '@foo', '@', '@a/b', '@releaseDomain/1'],
  ...['/local/domain/0', '/local/domain/0/a', '/local/domain/1/a', '/local', '/tool/xenstored', '/local/domain/x/a'],
];
const oddTypes = [15, 16, 20, 23, 24, 25, 26, 27, 28, 100, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff];
const oddDomids = ['', 'x', '-1', '1x', '007', '0x10', '65535', '70000', '32752', '99999999999', ' 1', '+1'];
const oddPerms = ['', 'x0', 'r', '0', 'r-1', 'r65536', 'r1x', 'R0', 'rr0', 'r 1', 'n0x0', 'w0x1', 'b01', 'r+1', 'r99999999999'];
const lengths = [255, 256, 1000, 1024, 2040, 2047, 2048, 2049, 2060, 3000, 3071, 3072, 3073, 4000, 4080];
const controls = [
  '',
  'nosuch',
  'check',
  'check\0x',
  'print\0hello',
  'print',
  'log\0on',
  'log\0off',
  'log\0x',
  'help\0x',
  'quota\0set',
];

/** Quotas under which a short run meets them, and the defaults of both servers. */
export const quotaSettings = {
  tight: { nodes: 9, watches: 2, transactions: 1, 'transaction-nodes': 12, 'node-size': 128, 'path-max': 100, permissions: 3 },
  usual: {
    nodes: 1000,
    watches: 128,
    transactions: 10,
    'transaction-nodes': 1024,
    'node-size': 2048,
    'path-max': 2048,
    permissions: 5,
  },
} as const;

export interface Generating {
  readonly seed: number;
  readonly count: number;
  readonly guests: boolean;
}

/**
 * The operations of an episode, the same for the same seed.
 *
 * A handful of names, so that connections meet; a share of everything odd: paths, lengths, payloads cut or added to,
 * unknown transactions, types and domains, broken frames. With guests also what dom0 does about them.
 */
export function generate({ seed, count, guests: withGuests }: Generating): Operation[] {
  const random = randomFrom(seed);
  const chance = (p: number): boolean => random() < p;
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
  const weighted = (weights: Readonly<Record<string, number>>): string => {
    const entries = Object.entries(weights);
    let left = random() * entries.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [name, weight] of entries) {
      left -= weight;
      if (left < 0) return name;
    }
    return entries[0]?.[0] ?? '';
  };

  const who = speakers(withGuests);
  const open = who.map((): number[] => []);
  const watches: { readonly conn: number; readonly payload: string }[] = [];
  let handles = 0;
  let tokens = 0;

  const longName = (): string => {
    const base = pick(['/t/', '/t/a/', '/local/domain/0/', '/local/domain/12345/', '/local/domain/123456/', '']);
    const length = pick(lengths);
    if (chance(0.5)) return base + 'x'.repeat(Math.max(1, length - base.length));
    return (base + 'yyyyyyy/'.repeat(length / 8 + 1)).slice(0, length).replace(/\/$/, 'z');
  };
  const path = (conn: number): string => {
    if (chance(0.05)) return chance(0.25) ? longName() : pick(oddPaths);
    if (chance(0.03)) return pick(['/t', '/']);
    // Long names in one directory, so that its list does not fit into one reply.
    if (chance(0.05)) return `/t/long${chance(0.7) ? `/${pick('abcdefghijklmnopqrstuvwxyz'.split('')).repeat(200)}` : ''}`;
    const deep = Array.from({ length: pick([1, 1, 2, 2, 3]) }, () => pick(['a', 'b', 'c', 'd'])).join('/');
    const domid = who[conn] ?? 0;
    if (chance(0.08)) return deep;
    if (withGuests && chance(domid === 0 ? 0.25 : 0.6))
      return `/local/domain/${chance(0.8) ? domid || pick(guests) : pick([1, 2, 3])}/${deep}`;
    return `/t/${deep}`;
  };
  const value = (): string => {
    // With the permissions, some of these come to just the size that a node may have.
    if (withGuests && chance(0.2)) return 'S'.repeat(8 * pick([8, 9, 10, 11, 12, 13]));
    if (chance(0.8)) return pick(['', '1', '2', 'v', 'value', 'x'.repeat(30)]);
    if (chance(0.5))
      return String.fromCharCode(...Array.from({ length: Math.floor(random() * 12) }, () => Math.floor(random() * 256)));
    return 'L'.repeat(pick([100, 1000, 1990, 2000, 2047, 2048, 2049, 4000]));
  };
  const domid = (): string =>
    chance(0.15) ? pick(oddDomids) : String(pick(withGuests ? [0, 1, 1, 2, 2, 3, 7] : [0, 0, 1, 7, 42]));
  const perms = (conn: number): string => {
    const owner = chance(withGuests ? 0.65 : 0.8) ? String(who[conn] ?? 0) : domid();
    const list = [pick(['n', 'r', 'w', 'b']) + owner];
    for (let i = pick([0, 0, 1, 1, 2, 3, 5]); i > 0; i -= 1) list.push(pick(['n', 'r', 'w', 'b']) + domid());
    if (chance(0.06)) list[Math.floor(random() * list.length)] = pick(oddPerms);
    return list.join('\0');
  };
  const token = (): string => {
    if (chance(0.03)) return 'T'.repeat(pick([100, 1000, 3900, 4000, 4085]));
    if (chance(0.25)) return pick(['t1', 't2', '']);
    tokens += 1;
    return `w${tokens}`;
  };
  const mangled = (payload: string): string =>
    pick([payload.slice(0, -1), `${payload}\0`, `${payload}junk\0`, `${payload}junk`, `\0${payload}`, '\0\0\0', '', '\0']);

  const header = (type: number, length: number): string => {
    const bytes = Buffer.alloc(16);
    bytes.writeUInt32LE(type, 0);
    bytes.writeUInt32LE(1, 4);
    bytes.writeUInt32LE(length, 12);
    return bytes.toString('latin1');
  };
  const raw = (): Operation => {
    const read = `${header(types.READ, 3)}/t\0`;
    const at = 1 + Math.floor(random() * (read.length - 1));
    const size = pick([4097, 5000, 8192]);
    return pick<() => Operation>([
      () => ({
        kind: 'raw',
        what: 'a length that nobody may have',
        pieces: [header(2, pick([4097, 65536, 0x7fffffff, 0x80000000, 0xffffffff]))],
      }),
      () => ({ kind: 'raw', what: 'too long a payload', pieces: [`${header(types.WRITE, size)}/t/a\0${'x'.repeat(size - 5)}`] }),
      () => ({ kind: 'raw', what: 'two pieces', pieces: [read.slice(0, at), read.slice(at)] }),
      () => ({ kind: 'raw', what: 'byte by byte', pieces: read.split('') }),
      () => ({ kind: 'raw', what: 'many at once', pieces: [read.repeat(pick([2, 20, 200]))] }),
      () => ({ kind: 'raw', what: 'the longest', pieces: [`${header(types.WRITE, 4096)}/t/a\0${'x'.repeat(4091)}`] }),
      () => ({ kind: 'raw', what: 'nothing but zeros', pieces: ['\0'.repeat(16)] }),
      () => ({ kind: 'raw', what: 'half a payload', pieces: [`${header(types.WRITE, 100)}/t/zz\0abc`], cut: true }),
      () => ({ kind: 'raw', what: 'half a header', pieces: [read.slice(0, 1 + Math.floor(random() * 15))], cut: true }),
    ])();
  };

  const request = (conn: number, type: TypeName, payload: string, more: Partial<RequestOp> = {}): RequestOp => ({
    kind: 'request',
    conn,
    type: types[type],
    payload: payload.slice(0, 4096),
    ...more,
  });
  const administration = (conn: number): Operation => {
    const about = targets(seed) ? pick(['1', '3', '7']) : domid();
    const what = weighted({
      INTRODUCE: 4,
      RELEASE: 2,
      RESUME: 1.5,
      SET_TARGET: 2,
      CONTROL: 1.5,
      IS_DOMAIN_INTRODUCED: 2,
      domain: withGuests ? 5 : 0,
    });
    switch (what) {
      case 'domain':
        return {
          kind: 'domain',
          domid: pick(targets(seed) ? [1, 3] : [1, 2, 3]),
          becomes: pick(['running', 'running', 'running', 'shutdown', 'shutdown', 'dying', 'gone']),
        };
      case 'INTRODUCE':
        return request(conn, 'INTRODUCE', `${about}\0${pick(['1', '4660', 'x'])}\0${pick(['1', '1', '1', '2', '0', 'x'])}\0`);
      case 'SET_TARGET':
        // Only such as fail: what follows when a target is released is not what any toolstack does.
        return request(conn, 'SET_TARGET', pick([`${about}\x007\0`, `7\0${about}\0`, `${about}\0`, '']));
      case 'CONTROL':
        return request(conn, 'CONTROL', chance(0.1) ? '' : `${pick(controls)}\0`);
      default:
        return request(conn, what as TypeName, `${about}\0`);
    }
  };

  const step = (): Operation => {
    let conn =
      withGuests && chance(isTight(seed) ? 0.6 : 0.4)
        ? dom0Connections + Math.floor(random() * guests.length)
        : Math.floor(random() * dom0Connections);
    const isGuest = who[conn] !== 0;
    const what = weighted({
      WRITE: 24,
      READ: 12,
      MKDIR: 6,
      RM: 9,
      DIRECTORY: 6,
      DIRECTORY_PART: 2,
      GET_PERMS: 3,
      SET_PERMS: withGuests ? 9 : 4,
      WATCH: 7,
      UNWATCH: 4,
      RESET_WATCHES: 0.4,
      TRANSACTION_START: 5,
      TRANSACTION_END: 5,
      GET_DOMAIN_PATH: 0.7,
      administration: isGuest ? 0.7 : withGuests ? 5 : 2,
      type: 0.7,
      reconnect: isGuest ? 0 : 0.5,
      raw: isGuest ? 0 : 0.3,
    });
    const known = open[conn] ?? [];
    const tx =
      known.length > 0 && chance(0.6)
        ? pick(known)
        : chance(0.01)
          ? { unknown: pick([77777, 0xffffffff, 0x80000000, 1000000]) }
          : undefined;
    const inTx: Partial<RequestOp> = tx === undefined ? {} : { tx };
    const name = path(conn);
    let payload = `${name}\0`;
    switch (what) {
      case 'reconnect':
        open[conn] = [];
        return { kind: 'reconnect', conn };
      case 'raw':
        return raw();
      case 'administration':
        return { ...administration(conn), ...(chance(0.1) ? inTx : {}) } as Operation;
      case 'type':
        return { kind: 'request', conn, type: pick(oddTypes), payload: pick(['', '\0', payload, `${payload}x`]), ...inTx };
      case 'TRANSACTION_START': {
        if (tx !== undefined) return request(conn, what, '\0', inTx);
        handles += 1;
        open[conn] = [...known, handles];
        return request(conn, what, chance(0.05) ? pick(['', 'junk\0', 'junk']) : '\0', { handle: handles });
      }
      case 'TRANSACTION_END': {
        const handle = known.length > 0 ? pick(known) : undefined;
        if (handle === undefined) return request(conn, what, pick(['T\0', 'F\0']), typeof tx === 'object' ? { tx } : {});
        if (chance(0.04))
          return request(conn, what, pick(['', '\0', 'X\0', 'T', 'TT\0', 't\0', 'T\0T\0', 'F\0\0']), { tx: handle });
        open[conn] = known.filter((each) => each !== handle);
        return request(conn, what, chance(0.85) ? 'T\0' : 'F\0', { tx: handle });
      }
      case 'RESET_WATCHES':
        open[conn] = [];
        return request(conn, what, chance(0.9) ? '\0' : '', chance(0.2) ? inTx : {});
      case 'WRITE':
        payload = `${name}\0${value()}`;
        break;
      case 'SET_PERMS':
        // The root stays dom0's: a store whose root ends with a guest is of no use to compare.
        payload = `${name === '/' ? '/t' : name}\0${perms(conn)}\0`;
        break;
      case 'WATCH': {
        const again = chance(0.12) && watches.length > 0 ? pick(watches).payload : `${name}\0${token()}\0`;
        payload = chance(0.1) ? again.replace(/^[^\0]*/, pick(['@introduceDomain', '@releaseDomain'])) : again;
        watches.push({ conn, payload });
        break;
      }
      case 'UNWATCH':
        if (watches.length > 0 && chance(0.75)) ({ conn, payload } = pick(watches));
        else payload = `${name}\0${token()}\0`;
        return request(conn, what, chance(0.04) ? mangled(payload) : payload);
      case 'DIRECTORY_PART':
        payload = `${name}\0${pick(['0', '0', '0', '2', '4', '201', '4000', '4200', '-1', 'x', ''])}\0`;
        break;
      case 'GET_DOMAIN_PATH':
        payload = `${domid()}\0`;
        break;
      default:
    }
    return request(conn, what as TypeName, chance(0.04) ? mangled(payload) : payload, inTx);
  };

  const operations: Operation[] = withGuests ? prologue(seed) : [];
  /** Comes between the end of a domain and the next one of its number: without a change between them C's rule is not ours. */
  const change = (): Operation => request(0, 'WRITE', '/local/domain/0\0');
  /** When guests that ended come back, so that what was granted to their predecessors is met again. */
  const returning = new Map<number, number>();
  for (let i = 0; i < count; i += 1) {
    const op = step();
    if (withGuests && op.kind === 'request' && op.type === types.INTRODUCE) operations.push(change());
    operations.push(op);
    const ended = withGuests ? endedBy(op) : undefined;
    if (ended !== undefined && !returning.has(ended)) returning.set(ended, i + 4 + Math.floor(random() * 12));
    for (const [domid, at] of returning) {
      if (at > i) continue;
      returning.delete(domid);
      if (chance(0.5)) operations.push({ kind: 'domain', domid, becomes: 'gone' });
      operations.push({ kind: 'domain', domid, becomes: 'running' }, change(), request(0, 'INTRODUCE', `${domid}\x001\x001\0`));
      operations.push(request(0, 'MKDIR', `/local/domain/${domid}\0`));
      operations.push(request(0, 'SET_PERMS', `/local/domain/${domid}\0n${domid}\0`));
    }
  }
  return operations;
}

/** The guest that may have ended with an operation. */
function endedBy(op: Operation): number | undefined {
  const domid =
    op.kind === 'domain' && (op.becomes === 'dying' || op.becomes === 'gone')
      ? op.domid
      : op.kind === 'request' && op.type === types.RELEASE
        ? Number.parseInt(op.payload, 10)
        : 0;
  return guests.find((guest) => guest === domid);
}

/** Whether the quotas of an episode are tight; then guests do most of it, otherwise what dom0 permits them matters more. */
const isTight = (seed: number): boolean => seed % 2 === 0;

/** Whether guest 2 is the target of guest 1 in an episode: then 1 has the rights of 2 as well, and 2 stays till the end. */
const targets = (seed: number): boolean => seed % 5 === 0;

/** What an episode with guests begins with: quotas, tight in every other one, and nodes that guests may use. */
function prologue(seed: number): Operation[] {
  const ask = (type: TypeName, payload: string): Operation => ({ kind: 'request', conn: 0, type: types[type], payload });
  const quotas = quotaSettings[isTight(seed) ? 'tight' : 'usual'];
  return [
    ...Object.entries(quotas).map(([name, limit]) => ask('CONTROL', `quota\0set\0${name}\0${limit}\0`)),
    ask('SET_PERMS', '/t\0b0\0'),
    ask('WRITE', '/t/a\0v'),
    ask('SET_PERMS', '/t/a\0n0\0r1\0b2\0'),
    ask('WRITE', '/t/b\0v'),
    ask('SET_PERMS', '/t/b\0n1\0b2\0'),
    ...(targets(seed) ? [ask('SET_TARGET', '1\x002\0'), ask('WRITE', '/t/c\0v'), ask('SET_PERMS', '/t/c\0n0\0b2\0')] : []),
    ask('SET_PERMS', seed % 3 === 0 ? '@releaseDomain\0r0\0' : '@releaseDomain\0n0\0r1\0'),
  ];
}
