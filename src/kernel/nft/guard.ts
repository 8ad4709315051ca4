/**
 * Keeps parts of tables as they are wanted, by netlink. What stands is known by handles (see dump.ts), read right after
 * the transaction, with the ruleset's generation as proof that nobody came in between. Whoever adds, moves or deletes a
 * rule of the part is found out. Without that proof nothing is known, and the next call writes again.
 */
import { isNetError } from '../../errors/index.ts';
import { type NftPlace, setOfShape } from './change.ts';
import { elementChanges, emptied, type NftPart, partChanges, partText } from './part.ts';
import { NftRuleset } from './ruleset.ts';
import { formatKey } from './set-element.ts';

/** Others may change rules between reading and writing, this often at most. */
const MOST_TRIES = 8;

interface Known {
  readonly part: NftPart;
  readonly text: string;
  readonly looks: string;
  readonly generation: number;
}

export class NftGuard {
  readonly #ruleset: NftRuleset;
  readonly #known = new Map<string, Known>();

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  constructor(place: NftPlace = {}) {
    this.#ruleset = NftRuleset.open(place);
  }

  close(): void {
    this.#ruleset.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Puts a part right where it differs; returns whether it had to. Throws NFT_CHANGE_REFUSED, NFT_LIST_FAILED. */
  ensure(part: NftPart): boolean {
    const key = `${part.family} ${part.table} ${part.prefix}`;
    const text = partText(part);
    const known = this.#known.get(key);
    if (known?.text === text) {
      const generation = this.#ruleset.generation();
      if (generation === known.generation) return false;
      if (this.#looks(part) === known.looks) {
        this.#known.set(key, { ...known, generation });
        return false;
      }
    }
    this.#known.delete(key);
    let generation = known && this.#writeElements(part, known);
    if (generation === undefined) {
      this.#ruleset.wake(part);
      generation = this.#write(part);
    }
    if (generation === undefined) return false;
    const looks = this.#looks(part);
    // If somebody came in between, such a picture must not become the measure.
    if (this.#ruleset.generation() === generation) this.#known.set(key, { part, text, looks, generation });
    return true;
  }

  /** Takes a part away, and its table when nothing else is in it. Returns whether there was anything. */
  remove(part: NftPart): boolean {
    const wrote = this.#write(emptied(part)) !== undefined;
    this.#known.delete(`${part.family} ${part.table} ${part.prefix}`);
    const { family, table } = part;
    const all = this.#found({ ...part, prefix: '' });
    if (all.chains.length + all.sets.length > 0 || this.#ruleset.table(part) === 'absent') return wrote;
    this.#ruleset.apply([{ family, table, change: 'delete table' }]);
    return true;
  }

  /**
   * Changes only elements, where nothing else differs from what is known to stand: rules keep their counters. Returns
   * the generation after it; undefined when the part has to be written as a whole.
   */
  #writeElements(part: NftPart, known: Known): number | undefined {
    const changes = elementChanges(known.part, part);
    if (changes === undefined || changes.length === 0) return undefined;
    const generation = this.#ruleset.generation();
    if (generation !== known.generation && this.#looks(known.part) !== known.looks) return undefined;
    try {
      this.#ruleset.apply(changes, { generation });
      return (generation + 1) >>> 0;
    } catch {
      // Somebody came in between, or was here before: then everything is compared and written.
      return undefined;
    }
  }

  /** Returns the generation after it; undefined when there was nothing to write. */
  #write(part: NftPart): number | undefined {
    for (let tries = 1; ; tries++) {
      const generation = this.#ruleset.generation();
      const changes = partChanges(part, this.#found(part));
      if (changes.length === 0) return undefined;
      try {
        this.#ruleset.apply(changes, { generation });
        return (generation + 1) >>> 0;
      } catch (error) {
        if (!isNetError(error, 'NFT_GENERATION_CHANGED') || tries >= MOST_TRIES) throw error;
      }
    }
  }

  #found({ family, table, prefix }: NftPart) {
    const ours = ({ name }: { readonly name: string }) => name.startsWith(prefix);
    return {
      chains: this.#ruleset
        .chains({ family, table })
        .filter(ours)
        .map(({ name }) => name),
      sets: this.#ruleset.sets({ family, table }).filter(ours),
    };
  }

  /** What tells a part from an edited one: handles in their order, and what can be changed in place. */
  #looks(part: NftPart): string {
    const ours = (name: string) => name.startsWith(part.prefix);
    const chains = this.#ruleset.chains(part).filter(({ name }) => ours(name));
    const rules = this.#ruleset.rules(part).filter(({ chain }) => ours(chain));
    const sets = this.#ruleset.sets(part).filter(({ name }) => ours(name));
    return [
      this.#ruleset.table(part),
      ...chains.map(({ name, handle, hook }) => `chain ${name} ${handle} ${hook?.policy}`),
      ...rules.map(({ chain, handle }) => `rule ${chain} ${handle}`),
      ...sets.flatMap(({ name, handle }) => [`set ${name} ${handle}`, ...this.#elements(part, name)]),
    ].join('\n');
  }

  #elements(part: NftPart, name: string): string[] {
    const set = part.sets.find((each) => each.name === name);
    if (!set) return [];
    try {
      return this.#ruleset.elements(setOfShape(part, set)).map(formatKey).sort();
    } catch (error) {
      if (isNetError(error, 'NFT_NO_SUCH_SET')) return [];
      throw error;
    }
  }
}

/** Writes parts once. Throws NFT_CHANGE_REFUSED. */
export function writeNftParts(parts: readonly NftPart[], place: NftPlace = {}): void {
  using guard = new NftGuard(place);
  for (const part of parts) guard.ensure(part);
}

/** Takes parts away, and tables that are empty then. */
export function removeNftParts(parts: readonly NftPart[], place: NftPlace = {}): void {
  using guard = new NftGuard(place);
  for (const part of parts) guard.remove(part);
}
