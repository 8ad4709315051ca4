/**
 * The chains and sets that policies want in one family, and what of them the kernel does not have yet. A set remembers
 * for each changed element what the kernel holds, so that one new pod costs one element, however large the set is.
 */
import type { NftElement, NftHook, NftRule } from '../kernel/nft/index.ts';

export interface Chain {
  /** Where a base chain hangs. */
  readonly hook?: NftHook | undefined;
  readonly rules: readonly NftRule[];
}

export interface SetKind {
  /** Whether it maps to verdicts. */
  readonly map: boolean;
  /** Types of its key as nft writes them, e.g. `ipv4_addr . inet_proto . inet_service`. */
  readonly key: string;
}

export class SetTable {
  readonly name: string;
  readonly kind: SetKind;
  readonly comment: string;
  readonly elements = new Map<string, NftElement>();
  /** Changed since the kernel was brought up to date: key to what the kernel has. */
  readonly touched = new Map<string, NftElement | undefined>();
  inKernel = false;

  constructor(name: string, kind: SetKind, comment: string) {
    this.name = name;
    this.kind = kind;
    this.comment = comment;
  }

  put(key: string, element: NftElement): void {
    const before = this.elements.get(key);
    if (before && sameElement(before, element)) return;
    this.#touch(key, before);
    this.elements.set(key, element);
  }

  remove(key: string): void {
    const before = this.elements.get(key);
    if (!before) return;
    this.#touch(key, before);
    this.elements.delete(key);
  }

  clear(): void {
    for (const key of [...this.elements.keys()]) this.remove(key);
  }

  /** What the kernel has to do: elements to delete, and elements to add. A change of data is both. */
  changes(): { deletes: NftElement[]; adds: NftElement[] } {
    const deletes: NftElement[] = [];
    const adds: NftElement[] = [];
    for (const [key, before] of this.touched) {
      const now = this.elements.get(key);
      if (before && now && sameElement(before, now)) continue;
      if (before) deletes.push(before);
      if (now) adds.push(now);
    }
    return { deletes, adds };
  }

  /** The kernel has exactly the elements. */
  settle(): void {
    this.inKernel = true;
    this.touched.clear();
  }

  /** The kernel has these elements instead of what was believed; undefined when it has no such set. */
  observe(found: readonly { key: string; element: NftElement }[] | undefined): void {
    this.touched.clear();
    this.inKernel = found !== undefined;
    const there = new Set<string>();
    for (const { key, element } of found ?? []) {
      there.add(key);
      const now = this.elements.get(key);
      if (!now || !sameElement(now, element)) this.touched.set(key, element);
    }
    for (const key of this.elements.keys()) if (!there.has(key)) this.touched.set(key, undefined);
  }

  #touch(key: string, before: NftElement | undefined): void {
    if (!this.touched.has(key)) this.touched.set(key, before);
  }
}

/** Same verdict or data; a comment alone is no reason to change an element. */
function sameElement(a: NftElement, b: NftElement): boolean {
  return a === b || JSON.stringify(a.data) === JSON.stringify(b.data);
}

export interface Tables {
  chains: ReadonlyMap<string, Chain>;
  readonly sets: Map<string, SetTable>;
  /** Sets that are wanted no more and may still be in the kernel. */
  readonly retired: Map<string, SetTable>;
}

export function emptyTables(): Tables {
  return { chains: new Map(), sets: new Map(), retired: new Map() };
}

/** The set of a name, made or brought back. */
export function wantSet(tables: Tables, name: string, kind: SetKind, comment: string): SetTable {
  const there = tables.sets.get(name);
  if (there) return there;
  const set = tables.retired.get(name) ?? new SetTable(name, kind, comment);
  tables.retired.delete(name);
  tables.sets.set(name, set);
  return set;
}

export function dropSet(tables: Tables, name: string): void {
  const set = tables.sets.get(name);
  if (!set) return;
  tables.sets.delete(name);
  set.clear();
  if (set.inKernel) tables.retired.set(name, set);
}
