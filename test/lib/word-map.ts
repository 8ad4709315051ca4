/**
 * A hash table from a few 32-bit words to the numbers 0, 1, 2 ... in the order in which keys came, without allocating
 * anything for a look-up. Values lie in arrays of the caller's, at those numbers.
 */
export class WordMap {
  readonly #words: number;
  readonly #mask: number;
  readonly #keys: Uint32Array;
  /** Number + 1 of the key that lies there; 0 for an empty place. */
  readonly #places: Uint32Array;
  #size = 0;

  /** `words` of one key; room for `capacity` keys, a power of two. */
  constructor(words: number, capacity: number) {
    this.#words = words;
    this.#mask = capacity * 2 - 1;
    this.#keys = new Uint32Array(words * capacity);
    this.#places = new Uint32Array(capacity * 2);
  }

  get size(): number {
    return this.#size;
  }

  /** The number of a key, or -1. */
  find(key: Uint32Array): number {
    return this.#places[this.#place(key)]! - 1;
  }

  /** The number of a key, given now if it is new. Throws RangeError when full. */
  add(key: Uint32Array): number {
    const place = this.#place(key);
    const known = this.#places[place]!;
    if (known !== 0) return known - 1;
    if (this.#size * 2 > this.#mask) throw new RangeError('the table of the reference is full');
    this.#keys.set(key, this.#size * this.#words);
    this.#places[place] = ++this.#size;
    return this.#size - 1;
  }

  /** The words of the key with this number. */
  key(number: number): Uint32Array {
    return this.#keys.subarray(number * this.#words, (number + 1) * this.#words);
  }

  clear(): void {
    this.#places.fill(0);
    this.#size = 0;
  }

  /** Where a key lies, or would. */
  #place(key: Uint32Array): number {
    let hash = 0;
    for (let at = 0; at < this.#words; at++) hash = Math.imul(hash ^ key[at]!, 0x9e37_79b1) ^ (hash >>> 15);
    let place = (hash ^ (hash >>> 16)) & this.#mask;
    for (;;) {
      const number = this.#places[place]!;
      if (number === 0 || this.#holds(number - 1, key)) return place;
      place = (place + 1) & this.#mask;
    }
  }

  #holds(number: number, key: Uint32Array): boolean {
    const from = number * this.#words;
    for (let at = 0; at < this.#words; at++) if (this.#keys[from + at] !== key[at]) return false;
    return true;
  }
}
