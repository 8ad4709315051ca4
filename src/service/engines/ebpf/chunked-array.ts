import { viewOf } from '../../../codec/index.ts';
import {
  BpfMap,
  MAP_TYPE,
  type MapCreation,
  mapById,
  mapMemoryBytes,
  possibleCpus,
} from '../../../kernel/bpf/index.ts';
import { CHUNK } from './layout.ts';

export interface ChunkedArrayOptions {
  /** Bytes of an element, of one CPU's in per-CPU arrays. */
  readonly valueSize: number;
  /** Each CPU has its own values. */
  readonly perCpu?: boolean;
  /** Programs write them, so nothing is known about what they ought to be; default for values of a CPU. */
  readonly theirs?: boolean;
  /** MAP_FLAG.* of the inner arrays; default 0. */
  readonly flags?: number;
  /** Types of its elements, which whoever reads the maps later finds there. */
  readonly created?: MapCreation;
}

/**
 * An array as long as needed: an outer array of arrays of 1024, made when first written, taken away when nothing at
 * the end is in use. Writes are staged, and flushed in one go: many elements then cost few system calls. What was
 * written is remembered, so that what others wrote can be told.
 */
export class ChunkedArray {
  readonly #outer: BpfMap;
  readonly #valueSize: number;
  readonly #perCpu: boolean;
  readonly #theirs: boolean;
  readonly #flags: number;
  readonly #created: MapCreation;
  /** Of an element as one lookup returns it. */
  readonly #valueBytes: number;
  readonly #chunks = new Map<number, BpfMap>();
  readonly #ids = new Map<number, number>();
  /** What each chunk ought to hold. */
  readonly #wanted = new Map<number, Uint8Array>();
  readonly #indexes: number[] = [];
  #staged: Uint8Array;

  /**
   * Adopts the chunks that are there. They have no gaps, so the first that is missing is the end: on Linux 6.1
   * each element read from a map of maps waits for an RCU grace period, too, and all of them would take a minute.
   */
  constructor(outer: BpfMap, options: ChunkedArrayOptions) {
    const { valueSize, perCpu = false, theirs = perCpu, flags = 0, created = {} } = options;
    this.#theirs = theirs;
    this.#flags = flags;
    this.#outer = outer;
    this.#valueSize = valueSize;
    this.#perCpu = perCpu;
    this.#created = created;
    this.#valueBytes = perCpu ? ((valueSize + 7) & ~7) * possibleCpus() : valueSize;
    this.#staged = new Uint8Array(this.#valueBytes * 16);
    for (let chunk = 0; chunk < outer.maxEntries; chunk++) {
      const id = this.#idInKernel(chunk);
      if (id === 0) break;
      const map = mapById(id, outer.name);
      this.#chunks.set(chunk, map);
      this.#ids.set(chunk, id);
      if (!theirs) this.#wanted.set(chunk, this.#read(map));
    }
  }

  /** Elements that there is memory for. */
  get capacity(): number {
    return this.#chunks.size * CHUNK;
  }

  /** Elements that there could be. */
  get limit(): number {
    return this.#outer.maxEntries * CHUNK;
  }

  /** Kernel memory, the outer array included. */
  get bytes(): number {
    let bytes = mapMemoryBytes(this.#outer);
    for (const map of this.#chunks.values()) bytes += mapMemoryBytes(map);
    return bytes;
  }

  /** Values of the elements of one chunk after another, many at a time; valid until the next ones. */
  *values(): Generator<{ count: number; values: Uint8Array }> {
    for (const map of this.#chunks.values()) yield* passing(map).chunks();
  }

  /** All elements that exist as the kernel has them, in no order. */
  *entries(): Generator<[index: number, value: Uint8Array]> {
    for (const [chunk, map] of this.#chunks)
      for (const [key, value] of passing(map).entries())
        yield [chunk * CHUNK + viewOf(key).getUint32(0, true), value];
  }

  /** All elements as they ought to be; of an array that was adopted and not written yet, as they were found. */
  *wantedEntries(): Generator<[index: number, value: Uint8Array]> {
    const size = this.#valueSize;
    for (const [chunk, wanted] of this.#wanted)
      for (let at = 0; at < CHUNK; at++)
        yield [chunk * CHUNK + at, wanted.subarray(at * size, (at + 1) * size)];
  }

  /** An element as the kernel has it; undefined beyond the capacity. */
  get(index: number): Uint8Array | undefined {
    return this.#chunks.get(Math.floor(index / CHUNK))?.get(u32Bytes(index % CHUNK));
  }

  /**
   * Makes room for elements 0 to `count` - 1 in one go. Each change of a map of maps waits until all programs have
   * seen it, some milliseconds; a batch waits once (Linux 6.1: once an element).
   */
  reserve(count: number): void {
    const missing: number[] = [];
    for (let chunk = this.#chunks.size; chunk * CHUNK < count; chunk++)
      if (!this.#chunks.has(chunk)) missing.push(chunk);
    this.#add(missing);
  }

  /** Takes away chunks at the end that hold no element below `count`; returns how many. */
  trim(count: number): number {
    const keep = Math.ceil(count / CHUNK);
    let dropped = 0;
    while (this.#chunks.size > keep) {
      const chunk = this.#chunks.size - 1;
      // The last one first: what is left has no gaps at any moment.
      this.#outer.delete(u32Bytes(chunk));
      this.#chunks.get(chunk)!.close();
      this.#forget(chunk);
      dropped++;
    }
    return dropped;
  }

  /** Room for the next value of an element, zeroed, valid until the next call of stage(). */
  stage(index: number): Uint8Array {
    const at = this.#indexes.length * this.#valueBytes;
    if (at === this.#staged.length) {
      const larger = new Uint8Array(this.#staged.length * 2);
      larger.set(this.#staged);
      this.#staged = larger;
    }
    this.#indexes.push(index);
    return this.#staged.subarray(at, at + this.#valueBytes).fill(0);
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
      const wanted = this.#wanted.get(chunk);
      for (let at = from; wanted && at < to; at++)
        wanted.set(
          this.#staged.subarray(at * this.#valueSize, (at + 1) * this.#valueSize),
          (indexes[at]! % CHUNK) * this.#valueSize,
        );
      from = to;
    }
    this.discard();
  }

  /** Forgets what was staged. */
  discard(): void {
    this.#indexes.length = 0;
    const KEEP = 1 << 20;
    if (this.#staged.length > KEEP) this.#staged = new Uint8Array(this.#valueBytes * 16);
  }

  /**
   * Elements that somebody else changed, one chunk after the other: a large array can be looked through in many
   * turns. `undefined` is a chunk that is not in its place. With `repair` each is put right before it is told.
   */
  *foreign(repair: boolean): Generator<{ index: number; value: Uint8Array | undefined }[]> {
    for (let chunk = 0; chunk < this.#chunks.size; chunk++) {
      const found: { index: number; value: Uint8Array | undefined }[] = [];
      if (this.#idInKernel(chunk) !== this.#ids.get(chunk)) {
        found.push({ index: chunk * CHUNK, value: undefined });
        if (repair) this.#outer.setFd(u32Bytes(chunk), this.#chunks.get(chunk)!);
      }
      const map = this.#chunks.get(chunk)!;
      const wanted = this.#wanted.get(chunk);
      const present = wanted && this.#read(map);
      if (wanted && present && Buffer.compare(wanted, present) !== 0)
        for (let at = 0; at < CHUNK; at++) {
          const [from, to] = [at * this.#valueSize, (at + 1) * this.#valueSize];
          if (Buffer.compare(wanted.subarray(from, to), present.subarray(from, to)) === 0) continue;
          found.push({ index: chunk * CHUNK + at, value: present.slice(from, to) });
          if (repair) map.set(u32Bytes(at), wanted.slice(from, to));
        }
      yield found;
    }
  }

  /** An element as it ought to be; undefined beyond the capacity. */
  wanted(index: number): Uint8Array | undefined {
    const at = (index % CHUNK) * this.#valueSize;
    return this.#wanted.get(Math.floor(index / CHUNK))?.subarray(at, at + this.#valueSize);
  }

  close(): void {
    for (const map of this.#chunks.values()) map.close();
    this.#chunks.clear();
    this.#wanted.clear();
  }

  *#elements(from: number, to: number): Generator<[Uint8Array, Uint8Array]> {
    const key = new Uint8Array(4);
    const view = viewOf(key);
    for (let at = from; at < to; at++) {
      view.setUint32(0, this.#indexes[at]! % CHUNK, true);
      yield [key, this.#staged.subarray(at * this.#valueBytes, (at + 1) * this.#valueBytes)];
    }
  }

  #chunk(number: number): BpfMap {
    if (!this.#chunks.has(number)) this.reserve((number + 1) * CHUNK);
    return this.#chunks.get(number)!;
  }

  #idInKernel(chunk: number): number {
    const value = this.#outer.get(u32Bytes(chunk));
    return value ? viewOf(value).getUint32(0, true) : 0;
  }

  #read(map: BpfMap): Uint8Array {
    const all = new Uint8Array(CHUNK * this.#valueSize);
    for (const { count, keys, values } of passing(map).chunks()) {
      // Keys of an array come in their order.
      if (count > 0) all.set(values, viewOf(keys).getUint32(0, true) * this.#valueSize);
    }
    return all;
  }

  #add(numbers: readonly number[]): void {
    if (numbers.length === 0) return;
    const made = numbers.map((number) => {
      const map = BpfMap.create(
        {
          name: this.#outer.name.slice(0, 15),
          type: this.#perCpu ? MAP_TYPE.PERCPU_ARRAY : MAP_TYPE.ARRAY,
          keySize: 4,
          valueSize: this.#valueSize,
          maxEntries: CHUNK,
          flags: this.#flags,
        },
        this.#created,
      );
      this.#chunks.set(number, map);
      this.#ids.set(number, map.info().id);
      if (!this.#theirs) this.#wanted.set(number, new Uint8Array(CHUNK * this.#valueSize));
      return [u32Bytes(number), u32Bytes(map.fd)] as const;
    });
    try {
      this.#outer.setMany(made);
    } catch (error) {
      for (const number of numbers) {
        this.#chunks.get(number)!.close();
        this.#forget(number);
      }
      throw error;
    }
  }

  #forget(number: number): void {
    this.#chunks.delete(number);
    this.#ids.delete(number);
    this.#wanted.delete(number);
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
