/**
 * The language of a disk: `phy:/dev/vg/guest,xvda,w`, `vdev=xvda,format=qcow2,target=/img`, old and new mixed.
 *
 *   spec := item (',' item)*     blanks before an item do not count; `target=` takes all that is left
 *
 * As in Xen's `libxlu_disk_l.l` the longest match decides what an item is, and the first rule of the table among equals.
 * A prefix such as `phy:` counts as if it matched to the end of the line. This is 4.17's table as Debian built it, which
 * does not know `trusted`: within a specification it is an ordinary positional parameter. Xen's own table knows it, and
 * Xen's tests give it as a word by itself; no target is called so, and there it is what Xen means.
 */
import type { Disk, DiskBackend, DiskFormat, DiskSpecification } from './disk.js';
import { atoi } from './strtol.js';

export type ParsedDisk = { readonly disk: Disk } | { readonly errors: readonly string[] };

/**
 * Parses a disk given as one word or several; `source` is what messages call it (`command line`, or the config file).
 * Several words (`xl block-attach 0 a b c`) are one specification in pieces.
 */
export function parseDiskSpec(words: string | readonly string[], source: string): ParsedDisk {
  const lex: DiskLex = { source, spec: '', rest: '', disk: { readwrite: true }, errors: [], hadPrefix: false, accessSet: false };
  const pieces = typeof words === 'string' ? [words] : words;
  for (const word of pieces) {
    if (pieces.length > 1 && (word === 'trusted' || word === 'untrusted')) {
      lex.disk.trusted = word === 'trusted';
      continue;
    }
    lex.spec = word;
    lex.rest = word;
    while (lex.rest !== '') lexItem(lex);
    if (lex.errors.length > 0) return { errors: lex.errors };
  }
  finish(lex);
  return lex.errors.length > 0 ? { errors: lex.errors } : { disk: lex.disk };
}

type Draft = { -readonly [Key in keyof Disk]: Disk[Key] };

interface DiskLex {
  readonly source: string;
  readonly disk: Draft;
  readonly errors: string[];
  spec: string;
  rest: string;
  hadPrefix: boolean;
  accessSet: boolean;
}

/** What is left unsaid, and the two checks that need the whole specification. */
function finish(lex: DiskLex): void {
  const { disk } = lex;
  disk.format ??= 'raw';
  if (disk.isCdrom) {
    disk.removable = true;
    disk.readwrite = false;
    if (!disk.pdevPath) disk.format = 'empty';
  }
  if (disk.vdev === undefined) fail(lex, undefined, 'no vdev specified');
  else if (disk.pdevPath === undefined && !disk.removable) fail(lex, undefined, 'no target specified (and device not removable)');
}

function fail(lex: DiskLex, near: string | undefined, message: string): void {
  const text = near === undefined ? '' : `: near \`${near}'`;
  lex.errors.push(`${lex.source}: config parsing error in disk specification: ${message}${text} in \`${lex.spec}'`);
}

/** Ends the parse: after this error xl prints no other. */
function failLast(lex: DiskLex, near: string, message: string): void {
  fail(lex, near, message);
  lex.rest = '';
}

interface DiskRule {
  /** Group 1, if there is one, is what the rule consumes; the rest of the match only counts for its length. */
  readonly pattern: RegExp;
  readonly apply: (lex: DiskLex, text: string) => void;
}

function lexItem(lex: DiskLex): void {
  let best: { readonly rule: DiskRule; readonly match: RegExpExecArray } | undefined;
  for (const rule of rules) {
    const match = rule.pattern.exec(lex.rest);
    if (match && match[0].length > (best?.match[0].length ?? 0)) best = { rule, match };
  }
  if (!best) {
    failLast(lex, lex.rest.split('\n', 1).join(), 'bad disk syntax');
    return;
  }
  const text = best.match[1] ?? best.match[0];
  lex.rest = lex.rest.slice(text.length);
  best.rule.apply(lex, text);
}

/** `key=value,` with what to do with the value. */
function keyed(key: string, apply: (lex: DiskLex, value: string) => void): DiskRule {
  return {
    pattern: new RegExp(`^${key}=[^,]*,?`),
    apply: (lex, text) => apply(lex, withoutComma(text).slice(key.length + 1)),
  };
}

/** A word that stands for itself. */
function word(pattern: string, apply: (disk: Draft) => void): DiskRule {
  return { pattern: new RegExp(`^${pattern},?`), apply: (lex) => apply(lex.disk) };
}

/** A deprecated prefix. */
function prefix(pattern: string, apply: (lex: DiskLex, name: string) => void = () => {}): DiskRule {
  return {
    pattern: new RegExp(`^((?:${pattern}):)[^\n]*`),
    apply: (lex, text) => {
      lex.hadPrefix = true;
      apply(lex, text.slice(0, -1));
    },
  };
}

const rules: readonly DiskRule[] = [
  { pattern: /^([ \t\n]+)([^ \t\n][^\n]*)?/, apply: () => {} },

  keyed('format', setFormat),
  word('cdrom', (disk) => {
    disk.isCdrom = true;
  }),
  word('devtype=cdrom', (disk) => {
    disk.isCdrom = true;
  }),
  word('devtype=disk', (disk) => {
    disk.isCdrom = false;
  }),
  { pattern: /^devtype=[^,]*,?/, apply: (lex, text) => fail(lex, text, 'unknown value for type') },
  keyed('access', setAccess),
  keyed('backend', (lex, value) => setString(lex, 'backendDomname', 'backend', value)),
  keyed('backendtype', setBackend),
  keyed('specification', setSpecification),
  keyed('vdev', (lex, value) => setString(lex, 'vdev', 'vdev', value)),
  keyed('script', (lex, value) => setString(lex, 'script', 'script', value)),
  word('direct-io-safe', (disk) => {
    disk.directIoSafe = true;
  }),
  word('discard', (disk) => {
    disk.discardEnable = true;
  }),
  word('no-discard', (disk) => {
    disk.discardEnable = false;
  }),
  word('colo', (disk) => {
    disk.coloEnable = true;
  }),
  word('no-colo', (disk) => {
    disk.coloEnable = false;
  }),
  keyed('colo-host', (lex, value) => setString(lex, 'coloHost', 'colo-host', value)),
  keyed('colo-port', setColoPort),
  keyed('colo-export', (lex, value) => setString(lex, 'coloExport', 'colo-export', value)),
  keyed('active-disk', (lex, value) => setString(lex, 'activeDisk', 'active-disk', value)),
  keyed('hidden-disk', (lex, value) => setString(lex, 'hiddenDisk', 'hidden-disk', value)),
  {
    pattern: /^target=[^\n]*/,
    apply: (lex, text) => setString(lex, 'pdevPath', 'target', withoutComma(text).slice('target='.length)),
  },
  { pattern: /^[a-z][-a-z0-9]*=[^,],?/, apply: (lex, text) => fail(lex, text, 'unknown parameter') },

  prefix('raw|qcow2?|vhd', setFormat),
  prefix('iscsi|e?nbd|drbd', (lex, name) => setString(lex, 'script', 'script', `block-${name}`)),
  prefix('tapdisk'),
  prefix('tap2?'),
  prefix('aio'),
  prefix('ioemu'),
  prefix('file'),
  prefix('phy'),
  {
    pattern: /^([a-z][a-z0-9]*:)([^a-z0-9\n][^\n]*)?/,
    apply: (lex, text) => failLast(lex, text, 'unknown deprecated disk prefix'),
  },

  { pattern: /^(?:[^=,]*,|[^=,]+,?)/, apply: (lex, text) => setPositional(lex, withoutComma(text)) },
];

function withoutComma(text: string): string {
  return text.endsWith(',') ? text.slice(0, -1) : text;
}

/** The next of target, format, vdev, access; after a mistake none is looked at any more. */
function setPositional(lex: DiskLex, text: string): void {
  const { disk } = lex;
  if (lex.errors.length > 0) return;
  if (disk.pdevPath === undefined) {
    disk.pdevPath = text;
  } else if (!lex.hadPrefix && disk.format === undefined) {
    // Nothing for a target, then `hdc:cdrom`: a drive without a medium.
    if (disk.pdevPath === '' && setTypedVdev(lex, text)) disk.format = 'empty';
    else setFormat(lex, text);
  } else if (disk.vdev === undefined) {
    if (!setTypedVdev(lex, text)) disk.vdev = text;
  } else if (!lex.accessSet) {
    lex.accessSet = true;
    setAccess(lex, text);
  } else {
    failLast(lex, text, 'too many positional parameters');
  }
}

/** `hdc:cdrom`; false, and nothing done, without a colon. */
function setTypedVdev(lex: DiskLex, text: string): boolean {
  const colon = text.lastIndexOf(':');
  if (colon < 0) return false;
  const type = text.slice(colon + 1);
  setString(lex, 'vdev', 'vdev', text.slice(0, colon));
  if (type === 'cdrom' || type === 'disk') lex.disk.isCdrom = type === 'cdrom';
  else fail(lex, type, 'unknown deprecated type');
  return true;
}

type StringKey = 'backendDomname' | 'vdev' | 'script' | 'pdevPath' | 'coloHost' | 'coloExport' | 'activeDisk' | 'hiddenDisk';

/** Sets a string once; an empty one may be set again. */
function setString(lex: DiskLex, key: StringKey, name: string, value: string): void {
  if (lex.disk[key]) fail(lex, value, `${name} respecified`);
  else lex.disk[key] = value;
}

function setAccess(lex: DiskLex, value: string): void {
  if (value === 'r' || value === 'ro') lex.disk.readwrite = false;
  else if (value === 'rw' || value === 'w' || value === '') lex.disk.readwrite = true;
  else fail(lex, value, 'unknown value for access');
}

function setFormat(lex: DiskLex, value: string): void {
  const format = value === '' ? 'raw' : oneOf<DiskFormat>(['raw', 'qcow', 'qcow2', 'vhd', 'empty', 'qed'], value);
  if (!format) fail(lex, value, 'unknown value for format');
  else if (lex.disk.format !== undefined && lex.disk.format !== format) fail(lex, value, 'format respecified');
  else lex.disk.format = format;
}

function setBackend(lex: DiskLex, value: string): void {
  const backend = oneOf<DiskBackend>(['phy', 'tap', 'qdisk', 'standalone'], value);
  if (!backend) fail(lex, value, 'unknown value for backendtype');
  else if (lex.disk.backend !== undefined && lex.disk.backend !== backend) fail(lex, value, 'backend respecified');
  else lex.disk.backend = backend;
}

function setSpecification(lex: DiskLex, value: string): void {
  const specification = oneOf<DiskSpecification>(['xen', 'virtio'], value);
  if (!specification) fail(lex, value, 'unknown value for specification');
  else if (lex.disk.specification !== undefined && lex.disk.specification !== specification) {
    fail(lex, value, 'specification respecified');
  } else lex.disk.specification = specification;
}

function setColoPort(lex: DiskLex, value: string): void {
  const port = atoi(value);
  if (port === 0) fail(lex, value, 'unknown value for colo_port');
  else lex.disk.coloPort = port;
}

function oneOf<Name extends string>(names: readonly Name[], value: string): Name | undefined {
  return names.find((name) => name === value);
}
