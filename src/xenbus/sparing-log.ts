/**
 * A log for what others can cause as often as they like: of each kind the first line is written, then the second, the
 * fourth, the eighth, with the count, so that a flood of them is seen and does not fill the disk.
 */
export function sparingly(log: (line: string) => void): (kind: string, line: string) => void {
  const counts = new Map<string, number>();
  return (kind, line) => {
    const count = (counts.get(kind) ?? 0) + 1;
    counts.set(kind, count);
    if (isPowerOfTwo(count)) log(withCount(line, count));
  };
}

export function isPowerOfTwo(count: number): boolean {
  return Number.isInteger(Math.log2(count));
}

export function withCount(line: string, count: number): string {
  return count === 1 ? line : `${line} (${count} times so far)`;
}
