import type { StoreEntry } from './types.ts';

/**
 * The current state: entries by key, and the keys in order. Inserting into a sorted array moves memory, which for
 * 50,000 keys costs some 10 µs: less than any tree in JavaScript, and ranges are plain array reads.
 */
export class KeyIndex {
  readonly #entries = new Map<string, StoreEntry>();
  readonly #keys: string[] = [];

  get size(): number {
    return this.#keys.length;
  }

  get(key: string): StoreEntry | undefined {
    return this.#entries.get(key);
  }

  set(entry: StoreEntry): void {
    if (!this.#entries.has(entry.key)) {
      const last = this.#keys.at(-1);
      if (last === undefined || last < entry.key) this.#keys.push(entry.key);
      else this.#keys.splice(this.#lowerBound(entry.key), 0, entry.key);
    }
    this.#entries.set(entry.key, entry);
  }

  delete(key: string): void {
    if (!this.#entries.delete(key)) return;
    this.#keys.splice(this.#lowerBound(key), 1);
  }

  *range(prefix: string, start = prefix): Generator<StoreEntry> {
    for (let i = this.#lowerBound(start < prefix ? prefix : start); i < this.#keys.length; i++) {
      const key = this.#keys[i]!;
      if (!key.startsWith(prefix)) return;
      yield this.#entries.get(key)!;
    }
  }

  count(prefix: string): number {
    return this.#lowerBound(afterPrefix(prefix)) - this.#lowerBound(prefix);
  }

  /** Position of the first key that is not below `key`. */
  #lowerBound(key: string): number {
    let low = 0;
    let high = this.#keys.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#keys[middle]! < key) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** The smallest string above every string that starts with `prefix`. */
export function afterPrefix(prefix: string): string {
  return prefix.slice(0, -1) + String.fromCharCode(prefix.charCodeAt(prefix.length - 1) + 1);
}
