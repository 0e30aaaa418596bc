/**
 * What dom0 keeps for its next life: a table of plain values by key, which each part fills for itself.
 *
 * A key begins with what it is of and a slash (`node/local/domain/7`, `device/backend/vif/7/0`), so that a part finds its own
 * again. A value stands for the whole of what it describes and replaces the one before. `journal.ts` writes the table to
 * disk; without a journal nobody keeps anything. Between two steps of dom0 the table is a whole: changes of one step are
 * written together or not at all.
 */
export type Kept = null | boolean | number | string | readonly Kept[] | { readonly [name: string]: Kept | undefined };

export interface Keep {
  set(key: string, value: Kept): void;
  delete(key: string): void;
}

/** What the life before this one had kept, by key; empty at a clean start. */
export type Recovered = ReadonlyMap<string, Kept>;

/** What one part of dom0 has of the table. */
export interface Share {
  /** Absent: nothing is kept. */
  readonly keep?: Keep | undefined;
  /** Absent: nothing was kept before. */
  readonly recovered?: Recovered | undefined;
}

/** What was kept under keys that begin with `prefix`, by the rest of the key, in the order in which it was first kept. */
export function keptBelow(recovered: Recovered | undefined, prefix: string): Map<string, Kept> {
  const below = new Map<string, Kept>();
  for (const [key, value] of recovered ?? []) if (key.startsWith(prefix)) below.set(key.slice(prefix.length), value);
  return below;
}

/** The share of a part that comes and goes: its keys begin with `prefix`, and `clear` forgets all of them. */
export function partOf({ keep, recovered }: Share, prefix: string): Share & { clear(): void } {
  const mine = keptBelow(recovered, prefix);
  const keys = new Set(mine.keys());
  const part: Keep | undefined = keep && {
    set: (key, value) => {
      keys.add(key);
      keep.set(prefix + key, value);
    },
    delete: (key) => {
      if (keys.delete(key)) keep.delete(prefix + key);
    },
  };
  const clear = () => {
    for (const key of [...keys]) part?.delete(key);
  };
  return { keep: part, recovered: recovered && mine, clear };
}
