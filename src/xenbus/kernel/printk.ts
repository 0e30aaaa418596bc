/**
 * The kernel's log: a ring of lines, each with the time since boot, as `dmesg` prints them.
 *
 * Lines are numbered from the boot on, so that a reader who was given the number of the next one goes on there: what was
 * cleared or has fallen out of the ring in between is not repeated, and nothing is told twice.
 */

/** Lines kept; older ones are gone, as from a full log buffer. */
export const printkLinesMax = 16_384;
/** Characters of one page; each may become six in JSON, and a page must fit into a line of privcmd.sock. */
export const printkPageMax = 128 * 1024;

export class Printk {
  #lines: string[] = [];
  /** The number of the first line that is kept. */
  #first = 0;
  readonly #sinceBoot: () => number;
  readonly #readers = new Set<() => void>();

  /** `sinceBoot` answers in milliseconds. */
  constructor(sinceBoot: () => number) {
    this.#sinceBoot = sinceBoot;
  }

  print(text: string): void {
    const seconds = (this.#sinceBoot() / 1000).toFixed(6).padStart(12);
    for (const line of text.split('\n')) this.#lines.push(`[${seconds}] ${line}`);
    const over = this.#lines.length - printkLinesMax;
    if (over > 0) this.clear(this.#first + over);
    for (const wake of [...this.#readers]) wake();
  }

  lines(): string[] {
    return [...this.#lines];
  }

  /** The number that the next line will have. */
  get end(): number {
    return this.#first + this.#lines.length;
  }

  /** Lines from number `from` on, as many as one page holds and at least one; `next` is where to go on. */
  page(from: number): { readonly lines: string[]; readonly next: number } {
    const lines: string[] = [];
    let room = printkPageMax;
    let next = Math.min(Math.max(from, this.#first), this.end);
    for (let line = this.#lines[next - this.#first]; line !== undefined; line = this.#lines[next - this.#first]) {
      room -= line.length;
      if (room < 0 && lines.length > 0) break;
      lines.push(line);
      next += 1;
    }
    return { lines, next };
  }

  /** Forgets the lines before number `before`; all that there are without it. */
  clear(before = this.end): void {
    const count = Math.min(Math.max(before - this.#first, 0), this.#lines.length);
    this.#lines = this.#lines.slice(count);
    this.#first += count;
  }

  /** Calls `wake` after each line from now on; returns what ends that. */
  onLine(wake: () => void): () => void {
    this.#readers.add(wake);
    return () => this.#readers.delete(wake);
  }
}

/**
 * Which modules' debug messages a command line turns on (lib/dynamic_debug.c): `dyndbg="module xenbus +p; +p"`, or
 * `xen_blkback.dyndbg` with `=+p` or nothing behind it. Of a query, `module NAME` and the flags `+p`, `=p` and `-p` are
 * known; one that asks for anything else selects nothing.
 */
export function debugModules(cmdline: string): (module: string) => boolean {
  const rules: { readonly module: string | undefined; readonly on: boolean }[] = [];
  for (const match of cmdline.matchAll(/(?:^|\s)(?:([\w-]+)\.)?dyndbg(?:=(?:"([^"]*)"|(\S*)))?(?=\s|$)/g)) {
    const [, of, quoted, bare] = match;
    const queries = quoted ?? bare ?? (of === undefined ? '' : '+p');
    for (const query of queries.split(/[;\n]/)) {
      const rule = /^\s*(?:module\s+(\S+)\s+)?([+=-])(p?)\s*$/.exec(query);
      if (!rule) continue;
      const [, named, sign, flag] = rule;
      rules.push({ module: (of ?? named)?.replaceAll('-', '_'), on: flag === 'p' && sign !== '-' });
    }
  }
  const on = (module: string) =>
    rules.reduce((before, rule) => (rule.module === undefined || rule.module === module ? rule.on : before), false);
  const known = new Map<string, boolean>();
  return (module) => {
    const before = known.get(module);
    if (before !== undefined) return before;
    const now = on(module);
    known.set(module, now);
    return now;
  };
}
