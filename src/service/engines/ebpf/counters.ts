/**
 * What Service ports and backends were used for: per-CPU counters that programs increment, found by the numbers
 * that ports and backends have anyway.
 *
 *     backend 17 ─► lb_backend_counts[17 / 1024] ─► [17 % 1024] ─► {connections, refused, packets, bytes} a CPU
 *
 * A number that is used again begins at zero. Memory is bounded: beyond the limit there are no counters, and what
 * has such a number is not counted.
 */
import { viewOf } from '../../../codec/index.ts';
import { type BpfMap, type MapCreation, possibleCpus } from '../../../kernel/bpf/index.ts';
import type { Count } from '../../engine.ts';
import { ChunkedArray } from './chunked-array.ts';
import { CHUNK, countStruct } from './layout.ts';

export const NO_COUNT: Count = { connections: 0, refused: 0, packets: 0, bytes: 0 };

export function addCounts(a: Count, b: Count): Count {
  return {
    connections: a.connections + b.connections,
    refused: a.refused + b.refused,
    packets: a.packets + b.packets,
    bytes: a.bytes + b.bytes,
  };
}

/** The counters of one kind of numbers. */
export class Counters {
  readonly #array: ChunkedArray;
  readonly #limit: number;
  /** Numbers from here on were never counted by. */
  #clean: number;
  #staged = false;

  /** `limitBytes` is for all CPUs together. */
  constructor(outer: BpfMap, limitBytes: number, created: MapCreation) {
    this.#array = new ChunkedArray(outer, { valueSize: countStruct.size, perCpu: true, created });
    this.#limit = Math.min(
      this.#array.limit,
      Math.floor(limitBytes / (countStruct.size * possibleCpus()) / CHUNK) * CHUNK,
    );
    this.#clean = this.#array.capacity;
  }

  get array(): ChunkedArray {
    return this.#array;
  }

  /** Numbers below this one can be counted. */
  get limit(): number {
    return this.#limit;
  }

  reserve(count: number): void {
    this.#array.reserve(Math.min(count, this.#limit));
  }

  /** A number has a new owner. */
  take(id: number): void {
    if (id >= this.#limit) return;
    if (id >= this.#clean) {
      this.#clean = id + 1;
      if (id >= this.#array.capacity) this.#array.reserve(id + 1);
      return;
    }
    this.#array.stage(id);
    this.#staged = true;
  }

  flush(): void {
    if (this.#staged) this.#array.flush();
    this.#staged = false;
  }

  discard(): void {
    this.#array.discard();
    this.#staged = false;
  }

  /** Takes away counters of numbers from `count` on. */
  trim(count: number): number {
    const dropped = this.#array.trim(count);
    this.#clean = Math.min(this.#clean, this.#array.capacity);
    return dropped;
  }

  read(id: number): Count {
    const value = this.#array.get(id);
    return value ? decodeCount(value) : NO_COUNT;
  }

  /** All that were ever counted by. */
  *entries(): Generator<[id: number, count: Count]> {
    for (const [id, value] of this.#array.entries()) {
      const count = decodeCount(value);
      if (count.connections || count.refused || count.packets) yield [id, count];
    }
  }

  close(): void {
    this.#array.close();
  }
}

/** The sum of all CPUs. Beyond 2^53 figures lose their last digits. */
function decodeCount(value: Uint8Array): Count {
  const view = viewOf(value);
  const sums = [0, 0, 0, 0];
  for (let cpu = 0; cpu < value.length; cpu += countStruct.size)
    for (let at = 0; at < 4; at++) sums[at]! += Number(view.getBigUint64(cpu + at * 8, true));
  const [connections, refused, packets, bytes] = sums as [number, number, number, number];
  return { connections, refused, packets, bytes };
}
