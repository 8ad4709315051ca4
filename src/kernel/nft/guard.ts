/**
 * Keeps parts of tables as they are wanted, by netlink, and changes only what differs: chains stay at their hooks, rules
 * and elements that are as wanted stay, with their counters. Rules are known by their seals (seal.ts), also those
 * that a former process wrote, and by where they lead; all else is compared as it is told. While the ruleset's generation is the one that was
 * seen last, nothing is read.
 */
import { isNetError } from '../../errors/index.ts';
import { type NftPlace, setOfShape } from './change.ts';
import type { NftSetFound } from './dump-sets.ts';
import { emptied, type NftPart, type NftPartFound, partChanges, partText, sameShape } from './part.ts';
import { isOurs, isStrange, type NftOwner } from './renamed.ts';
import { NftRuleset } from './ruleset.ts';
import { ruleSeal } from './seal.ts';
import type { NftElement } from './set-element.ts';
import { inSteps } from './steps.ts';

/** Others may change rules between reading and writing, this often at most. */
const MOST_TRIES = 8;

interface Known {
  readonly text: string;
  readonly generation: number;
}

export interface NftGuardOptions extends NftPlace {
  /** Prefixes of all who share the tables: chains of a part that somebody gave a name of nobody's go, too. */
  readonly neighbours?: readonly string[];
}

export class NftGuard {
  readonly #ruleset: NftRuleset;
  readonly #neighbours: readonly string[];
  readonly #known = new Map<string, Known>();

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  constructor(options: NftGuardOptions = {}) {
    this.#ruleset = NftRuleset.open({ netns: options.netns });
    this.#neighbours = options.neighbours ?? [];
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
    const { wrote, generation } = this.#write(part);
    // If somebody came in between, that must not become the measure.
    if (this.#ruleset.generation() === generation) this.#known.set(key, { text, generation });
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
  #write(part: NftPart): { wrote: boolean; generation: number } {
    const wanted = part.sets.length + part.chains.length > 0;
    const woke = wanted && this.#ruleset.wake(part);
    for (let tries = 1; ; tries++) {
      let generation = this.#ruleset.generation();
      const changes = partChanges(part, this.#found(part));
      try {
        for (const step of inSteps(changes)) {
          this.#ruleset.apply(step, { generation });
          generation = (generation + 1) >>> 0;
        }
        return { wrote: woke || changes.length > 0, generation };
      } catch (error) {
        if (tries >= MOST_TRIES || !isNetError(error, 'NFT_GENERATION_CHANGED')) throw error;
      }
    }
  }

  #found(part: NftPart): NftPartFound {
    const owner: NftOwner = { prefix: part.prefix, neighbours: this.#neighbours };
    const seals = new Set(part.chains.flatMap(({ rules }) => rules.map(ruleSeal)));
    const chains = this.#ruleset.chains(part).flatMap((chain) => {
      const named = chain.name.startsWith(part.prefix);
      if (!named && !isStrange(chain.name, owner)) return [];
      const rules = this.#ruleset.rules(part, chain.name);
      const ours = named || isOurs(rules, owner, ({ seal }) => seal !== undefined && seals.has(seal));
      return ours ? [{ ...chain, rules }] : [];
    });
    const sets = this.#ruleset.sets(part).filter(({ name }) => name.startsWith(part.prefix));
    return { chains, sets: sets.map((set) => ({ ...set, elements: this.#elements(part, set) })) };
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
