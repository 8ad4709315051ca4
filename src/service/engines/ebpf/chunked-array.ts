import { viewOf } from '../../../codec/index.ts';
import { BpfMap, MAP_TYPE, mapById } from '../../../kernel/bpf/index.ts';
import { CHUNK } from './layout.ts';

/**
 * An array as long as needed: an outer array of arrays of 1024, made when first written. Writes are staged, and
 * flushed in one go: many elements then cost few system calls.
 */
export class ChunkedArray {
  readonly #outer: BpfMap;
  readonly #valueSize: number;
  readonly #chunks = new Map<number, BpfMap>();
  readonly #indexes: number[] = [];
  #staged: Uint8Array;

  /**
   * Adopts the chunks that are there. They have no gaps, so the first that is missing is the end: on Linux 6.1
   * each element read from a map of maps waits for an RCU grace period, too, and all of them would take a minute.
   */
  constructor(outer: BpfMap, valueSize: number) {
    this.#outer = outer;
    this.#valueSize = valueSize;
    this.#staged = new Uint8Array(valueSize * 64);
    for (let chunk = 0; chunk < outer.maxEntries; chunk++) {
      const value = outer.get(u32Bytes(chunk));
      const id = value ? viewOf(value).getUint32(0, true) : 0;
      if (id === 0) break;
      this.#chunks.set(chunk, mapById(id, outer.name));
    }
  }

  /** Elements that there is memory for. */
  get capacity(): number {
    return this.#chunks.size * CHUNK;
  }

  get chunks(): Iterable<BpfMap> {
    return this.#chunks.values();
  }

  /** All elements that exist, in no order. */
  *entries(): Generator<[index: number, value: Uint8Array]> {
    for (const [chunk, map] of this.#chunks)
      for (const [key, value] of passing(map).entries())
        yield [chunk * CHUNK + viewOf(key).getUint32(0, true), value];
  }

  /**
   * Makes room for elements 0 to `count` - 1 in one go. Each change of a map of maps waits until all programs have
   * seen it, some milliseconds; a batch waits once (Linux 6.1: once an element).
   */
  reserve(count: number): void {
    const missing: number[] = [];
    for (let chunk = 0; chunk * CHUNK < count; chunk++) if (!this.#chunks.has(chunk)) missing.push(chunk);
    this.#add(missing);
  }

  /** Room for the next value of an element, zeroed, valid until the next call of stage(). */
  stage(index: number): Uint8Array {
    const at = this.#indexes.length * this.#valueSize;
    if (at === this.#staged.length) {
      const larger = new Uint8Array(this.#staged.length * 2);
      larger.set(this.#staged);
      this.#staged = larger;
    }
    this.#indexes.push(index);
    return this.#staged.subarray(at, at + this.#valueSize).fill(0);
  }

  /** Writes what was staged, in its order. */
  flush(): void {
    const indexes = this.#indexes;
    for (let from = 0; from < indexes.length; ) {
      const chunk = Math.floor(indexes[from]! / CHUNK);
      let to = from + 1;
      while (to < indexes.length && Math.floor(indexes[to]! / CHUNK) === chunk) to++;
      const map = this.#chunk(chunk);
      if (to - from < 4) for (const [key, value] of this.#elements(from, to)) map.set(key, value);
      else passing(map).setMany(this.#elements(from, to));
      from = to;
    }
    this.discard();
  }

  /** Forgets what was staged. */
  discard(): void {
    this.#indexes.length = 0;
    const KEEP = 1 << 20;
    if (this.#staged.length > KEEP) this.#staged = new Uint8Array(this.#valueSize * 64);
  }

  close(): void {
    for (const map of this.#chunks.values()) map.close();
    this.#chunks.clear();
  }

  *#elements(from: number, to: number): Generator<[Uint8Array, Uint8Array]> {
    const key = new Uint8Array(4);
    const view = viewOf(key);
    for (let at = from; at < to; at++) {
      view.setUint32(0, this.#indexes[at]! % CHUNK, true);
      yield [key, this.#staged.subarray(at * this.#valueSize, (at + 1) * this.#valueSize)];
    }
  }

  #chunk(number: number): BpfMap {
    if (!this.#chunks.has(number)) this.reserve((number + 1) * CHUNK);
    return this.#chunks.get(number)!;
  }

  #add(numbers: readonly number[]): void {
    if (numbers.length === 0) return;
    const made = numbers.map((number) => {
      const map = BpfMap.create({
        name: this.#outer.name.slice(0, 15),
        type: MAP_TYPE.ARRAY,
        keySize: 4,
        valueSize: this.#valueSize,
        maxEntries: CHUNK,
      });
      this.#chunks.set(number, map);
      return [u32Bytes(number), u32Bytes(map.fd)] as const;
    });
    try {
      this.#outer.setMany(made);
    } catch (error) {
      for (const number of numbers) {
        this.#chunks.get(number)!.close();
        this.#chunks.delete(number);
      }
      throw error;
    }
  }
}

/** The same map without the buffer that a batch leaves with it: chunks are many, batches are rare. */
function passing(map: BpfMap): BpfMap {
  return new BpfMap(map.fd, map);
}

function u32Bytes(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}
