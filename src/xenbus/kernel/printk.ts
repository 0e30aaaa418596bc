/** The kernel's log: a ring of lines, each with the time since boot, as `dmesg` prints them. */

/** Lines kept; older ones are gone, as from a full log buffer. */
export const printkLinesMax = 16_384;

export class Printk {
  readonly #lines: string[] = [];
  readonly #sinceBoot: () => number;

  /** `sinceBoot` answers in milliseconds. */
  constructor(sinceBoot: () => number) {
    this.#sinceBoot = sinceBoot;
  }

  print(text: string): void {
    const seconds = (this.#sinceBoot() / 1000).toFixed(6).padStart(12);
    for (const line of text.split('\n')) this.#lines.push(`[${seconds}] ${line}`);
    if (this.#lines.length > printkLinesMax) this.#lines.splice(0, this.#lines.length - printkLinesMax);
  }

  lines(): string[] {
    return [...this.#lines];
  }

  clear(): void {
    this.#lines.length = 0;
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
