/**
 * What a map is made of, and what it can do with bytes. Batches stand on its single operations, structures on all of
 * them; `BpfMap` is such a map, and says what each of these does.
 */
import { mapTypeName, type UpdateMode } from './constants.ts';

/** What a map is made of. */
export interface MapShape {
  readonly name: string;
  /** MAP_TYPE.*. */
  readonly type: number;
  /** In bytes. */
  readonly keySize: number;
  /** In bytes, of one CPU's value in per-CPU maps. */
  readonly valueSize: number;
  readonly maxEntries: number;
  /** MAP_FLAG.*; default 0. */
  readonly flags?: number;
}

/** What the kernel says about a map: struct bpf_map_info. */
export interface MapInfo extends Required<MapShape> {
  readonly id: number;
}

/** Single operations. */
export interface ElementMap extends MapShape {
  readonly fd: number;
  /** Bytes that one lookup returns: all CPUs' values in per-CPU maps. */
  readonly valueBytes: number;
  get(key: Uint8Array): Uint8Array | undefined;
  set(key: Uint8Array, value: Uint8Array, mode?: UpdateMode): boolean;
  delete(key: Uint8Array): boolean;
  nextKey(key?: Uint8Array): Uint8Array | undefined;
}

/** Entries read at once; copies, so they outlive the next batch. */
export interface Chunk {
  readonly count: number;
  readonly keys: Uint8Array;
  readonly values: Uint8Array;
}

/** Writes key and value of an entry straight to where the kernel reads them. */
export type PutEntry<T> = (view: DataView, keyAt: number, valueAt: number, entry: T) => void;

/** Many elements at a time as well. */
export interface BytesMap extends ElementMap {
  getPerCpu(key: Uint8Array): Uint8Array[] | undefined;
  entries(): Generator<[key: Uint8Array, value: Uint8Array]>;
  chunks(): Generator<Chunk>;
  setManyWith<T>(entries: Iterable<T>, put: PutEntry<T>, mode?: UpdateMode): number;
  deleteMany(keys: Iterable<Uint8Array>): number;
  clear(): number;
  info(): MapInfo;
}

/** `HASH, key 8, value 16, 1000 entries, flags 0x0`. */
export function describeShape(shape: MapShape): string {
  return `${mapTypeName(shape.type)}, key ${shape.keySize}, value ${shape.valueSize}, ${shape.maxEntries} entries, flags 0x${(shape.flags ?? 0).toString(16)}`;
}
