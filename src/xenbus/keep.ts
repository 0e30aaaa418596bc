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
