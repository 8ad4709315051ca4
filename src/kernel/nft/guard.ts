/**
 * Keeps parts of tables as they are wanted, by netlink, and changes only what differs: chains stay at their hooks, rules
 * and elements that are as wanted stay, with their counters. Rules are known by their seals (seal.ts), also those
 * that a former process wrote; all else is compared as it is told. While the ruleset's generation is the one that was
 * seen last, nothing is read.
 */
import { isNetError } from '../../errors/index.ts';
import { type NftPlace, setOfShape } from './change.ts';
import type { NftSetFound } from './dump-sets.ts';
import { emptied, type NftPart, type NftPartFound, partChanges, partText, sameShape } from './part.ts';
import { NftRuleset } from './ruleset.ts';
import type { NftElement } from './set-element.ts';
import { inSteps } from './steps.ts';

/** Others may change rules between reading and writing, this often at most. */
const MOST_TRIES = 8;

interface Known {
  readonly text: string;
  readonly generation: number;
  readonly chains: ReadonlyMap<string, bigint>;
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
    const key = keyOf(part);
    const text = partText(part);
    const known = this.#known.get(key);
    if (known?.text === text && known.generation === this.#ruleset.generation()) return false;
    this.#known.delete(key);
    const { wrote, generation } = this.#write(part, known?.chains);
    const chains = new Map(this.#chains(part).map(({ name, handle }) => [name, handle]));
    // If somebody came in between, that must not become the measure.
    if (this.#ruleset.generation() === generation) this.#known.set(key, { text, generation, chains });
    return wrote;
  }

  /** Takes a part away, and its table when nothing else is in it. Returns whether there was anything. */
  remove(part: NftPart): boolean {
    const { wrote } = this.#write(emptied(part));
    this.#known.delete(keyOf(part));
    const { family, table } = part;
    const others = this.#ruleset.chains(part).length + this.#ruleset.sets(part).length;
    if (others > 0 || this.#ruleset.table(part) === 'absent') return wrote;
    this.#ruleset.apply([{ family, table, change: 'delete table' }]);
    return true;
  }

  /** Returns whether anything was written, and the generation after it. */
  #write(part: NftPart, handles?: ReadonlyMap<string, bigint>): { wrote: boolean; generation: number } {
    const wanted = part.sets.length + part.chains.length > 0;
    const woke = wanted && this.#ruleset.wake(part);
    let trusts = true;
    const renamed = (name: string, handle: bigint) => !trusts || (handles?.get(name) ?? handle) !== handle;
    for (let tries = 1; ; tries++) {
      let generation = this.#ruleset.generation();
      const changes = partChanges(part, this.#found(part, renamed));
      try {
        for (const step of inSteps(changes)) {
          this.#ruleset.apply(step, { generation });
          generation = (generation + 1) >>> 0;
        }
        return { wrote: woke || changes.length > 0, generation };
      } catch (error) {
        if (tries >= MOST_TRIES) throw error;
        if (isNetError(error, 'NFT_GENERATION_CHANGED')) continue;
        if (!trusts) throw error;
        // Rules may lead to what somebody gave another name before this process was there to see it.
        trusts = false;
      }
    }
  }

  #found(part: NftPart, renamed: (name: string, handle: bigint) => boolean): NftPartFound {
    const chains = this.#chains(part);
    const sets = this.#ruleset.sets(part).filter(({ name }) => name.startsWith(part.prefix));
    return {
      chains: chains.map((chain) => ({ ...chain, rules: this.#ruleset.rules(part, chain.name) })),
      sets: sets.map((set) => ({ ...set, elements: this.#elements(part, set) })),
      renamed: new Set(chains.flatMap(({ name, handle }) => (renamed(name, handle) ? [name] : []))),
    };
  }

  #chains(part: NftPart) {
    return this.#ruleset.chains(part).filter(({ name }) => name.startsWith(part.prefix));
  }

  #elements(part: NftPart, found: NftSetFound): NftElement[] {
    const set = part.sets.find(({ name }) => name === found.name);
    if (!set || !sameShape(found, set)) return [];
    try {
      return this.#ruleset.elements(setOfShape(part, set));
    } catch (error) {
      if (isNetError(error, 'NFT_NO_SUCH_SET')) return [];
      throw error;
    }
  }
}

function keyOf({ family, table, prefix }: NftPart): string {
  return `${family} ${table} ${prefix}`;
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
