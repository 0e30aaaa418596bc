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
