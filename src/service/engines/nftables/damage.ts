/**
 * What somebody else changed of the tables, as notifications name it: chains, and elements of sets by their keys, so that
 * a repair need not read what nobody touched. Pure.
 */
import { FAMILIES, type Family } from '../../../addr/index.ts';
import { type NftElement, type NftEvent, readNftElements } from '../../../kernel/nft/index.ts';
import { entryId } from './compile.ts';
import { LAYOUTS, SET_IDS, type SetId } from './layout.ts';

/** With more keys a whole set is read faster. */
const MOST_KEYS = 1000;

/** Elements by their identity; undefined: perhaps all. */
export type DamagedKeys = ReadonlyMap<string, NftElement> | undefined;

const ids: ReadonlySet<string> = new Set(SET_IDS);

export class Damage {
  readonly #names: Readonly<Record<Family, Map<string, Map<string, NftElement> | undefined>>> = {
    4: new Map(),
    6: new Map(),
  };

  readonly #given: Readonly<Record<Family, Set<string>>> = { 4: new Set(), 6: new Set() };

  /** An event of our tables. Returns false when it is about a whole table: nothing is known then. */
  add(event: NftEvent): boolean {
    const { family: called, name, subject, deleted } = event;
    const family: Family | undefined = called === 'ip' ? 4 : called === 'ip6' ? 6 : undefined;
    if (family === undefined) return true;
    if (name === undefined) return false;
    if (subject === 'chain' && !deleted) this.#given[family].add(name);
    // Of a set that somebody empties, an event for each element comes.
    if (this.#isAll(family, name)) return true;
    this.#mark(family, name, subject === 'element' ? keysOf(family, event) : undefined);
    return true;
  }

  /** Also what the other one has. */
  merge(other: Damage): void {
    for (const family of FAMILIES) {
      for (const [name, keys] of other.#names[family]) this.#mark(family, name, keys);
      for (const name of other.#given[family]) this.#given[family].add(name);
    }
  }

  get isEmpty(): boolean {
    return FAMILIES.every((family) => this.#names[family].size === 0);
  }

  /** Names of chains and sets. */
  names(family: Family): ReadonlySet<string> {
    return new Set(this.#names[family].keys());
  }

  /** Names of chains that somebody made, changed or gave to a chain that had another one: which of these is not told. */
  given(family: Family): ReadonlySet<string> {
    return this.#given[family];
  }

  /** Sets of ours, with what may differ in them. */
  sets(family: Family): ReadonlyMap<SetId, DamagedKeys> {
    return new Map(
      [...this.#names[family]].flatMap(([name, keys]) =>
        ids.has(name) ? [[name as SetId, keys] as const] : [],
      ),
    );
  }

  #isAll(family: Family, name: string): boolean {
    return this.#names[family].has(name) && this.#names[family].get(name) === undefined;
  }

  #mark(family: Family, name: string, keys: DamagedKeys): void {
    if (this.#isAll(family, name)) return;
    const all = this.#names[family].get(name) ?? new Map<string, NftElement>();
    for (const [id, element] of keys ?? []) all.set(id, element);
    this.#names[family].set(name, keys === undefined || all.size > MOST_KEYS ? undefined : all);
  }
}

/** Keys of the elements of an event; undefined when they do not say which elements differ. */
function keysOf(family: Family, { name, elements }: NftEvent): Map<string, NftElement> | undefined {
  if (!ids.has(name!) || elements === undefined) return undefined;
  const id = name as SetId;
  const set = LAYOUTS[family].sets[id];
  // Ends of intervals are elements of their own.
  if (set.interval) return undefined;
  try {
    return new Map(readNftElements(set, elements).map(({ key }) => [entryId(id, key), { key }]));
  } catch {
    // Of a set of this name that has another shape.
    return undefined;
  }
}
