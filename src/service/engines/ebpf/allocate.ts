/**
 * Numbers that programs may still be reading when they are given back: ids of backends, lines of tables. What is
 * freed rests for a while before it is used again.
 */

/** How long; programs run for microseconds. */
const REST_MS = 100;

interface Freed {
  readonly start: number;
  readonly length: number;
  readonly atMs: number;
}

/** Hands out ranges of a space that begins at `first`. Ranges are few and small, most of one element. */
export class RangeAllocator {
  /** First element, and the end of the space. */
  readonly first: number;
  readonly limit: number;
  readonly #now: () => number;
  /** Free ranges by length. */
  readonly #free = new Map<number, number[]>();
  readonly #resting: Freed[] = [];
  #restingFrom = 0;
  #top: number;
  #used = 0;

  /** `limit` is the end of the space. */
  constructor(options: { first?: number; limit: number; now: () => number }) {
    this.first = options.first ?? 0;
    this.limit = options.limit;
    this.#top = this.first;
    this.#now = options.now;
  }

  /** Elements in use. */
  get used(): number {
    return this.#used;
  }

  /** End of what was ever in use. */
  get top(): number {
    return this.#top;
  }

  /** Starts over with what is in use already, e.g. by an earlier process. Ranges must not overlap. */
  reset(ranges: Iterable<readonly [start: number, length: number]>, first: number): void {
    this.#free.clear();
    this.#resting.length = 0;
    this.#restingFrom = 0;
    this.#used = 0;
    let at = first;
    for (const [start, length] of [...ranges].sort((a, b) => a[0] - b[0])) {
      if (start > at) this.#put(at, start - at);
      at = Math.max(at, start + length);
      this.#used += length;
    }
    this.#top = at;
  }

  /** A range of this length, or undefined when the space is full. */
  take(length: number): number | undefined {
    this.#wake();
    let start = this.#pop(length) ?? this.#split(length);
    if (start === undefined) {
      if (this.#top + length > this.limit) return undefined;
      start = this.#top;
      this.#top += length;
    }
    this.#used += length;
    return start;
  }

  /** Gives the end of the space back that is not in use; returns the new `top`. */
  trim(): number {
    this.#wake();
    this.#join();
    for (const [length, list] of this.#free)
      for (const [at, start] of list.entries()) {
        // Ranges are joined now: only one can end there.
        if (start + length !== this.#top) continue;
        this.#top = start;
        list.splice(at, 1);
        if (list.length === 0) this.#free.delete(length);
        return this.#top;
      }
    return this.#top;
  }

  give(start: number, length: number): void {
    this.#used -= length;
    this.#resting.push({ start, length, atMs: this.#now() });
  }

  #wake(): void {
    const now = this.#now();
    while (this.#restingFrom < this.#resting.length) {
      const next = this.#resting[this.#restingFrom]!;
      if (now - next.atMs < REST_MS) break;
      this.#put(next.start, next.length);
      this.#restingFrom++;
    }
    if (this.#restingFrom > 1024 || this.#restingFrom === this.#resting.length) {
      this.#resting.splice(0, this.#restingFrom);
      this.#restingFrom = 0;
    }
  }

  #put(start: number, length: number): void {
    const list = this.#free.get(length);
    if (list) list.push(start);
    else this.#free.set(length, [start]);
  }

  #pop(length: number): number | undefined {
    const list = this.#free.get(length);
    const start = list?.pop();
    if (list?.length === 0) this.#free.delete(length);
    return start;
  }

  /** Takes the smallest larger range, and keeps its rest free. When none is left, joins neighbours once. */
  #split(length: number): number | undefined {
    const larger = () => [...this.#free.keys()].filter((have) => have > length).sort((a, b) => a - b)[0];
    let found = larger();
    if (found === undefined && this.#freeTotal() > this.#top / 4) {
      this.#join();
      const exact = this.#pop(length);
      if (exact !== undefined) return exact;
      found = larger();
    }
    if (found === undefined) return undefined;
    const start = this.#pop(found)!;
    this.#put(start + length, found - length);
    return start;
  }

  #freeTotal(): number {
    let total = 0;
    for (const [length, list] of this.#free) total += length * list.length;
    return total;
  }

  #join(): void {
    const all = [...this.#free].flatMap(([length, list]) => list.map((start) => [start, length] as const));
    all.sort((a, b) => a[0] - b[0]);
    this.#free.clear();
    let open: [start: number, length: number] | undefined;
    for (const [start, length] of all) {
      if (open && open[0] + open[1] === start) open[1] += length;
      else {
        if (open) this.#put(...open);
        open = [start, length];
      }
    }
    if (open) this.#put(...open);
  }
}
