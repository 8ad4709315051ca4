/**
 * A BPF map behind a descriptor. Keys and values are bytes here; `typed()` puts structures on top.
 *
 * Single operations reuse one small block of memory that holds attr, key and value, so they allocate nothing for
 * the call itself; batches are in map-batch.ts.
 */
import type { Field } from '../../codec/index.ts';
import { bpfError } from '../../errors/bpf.ts';
import { Arena, closeFd, ERRNO, kernelFailure, mapFd } from '../syscall/index.ts';
import { bpf, objectInfo, pageSize, possibleCpus, putName, textOf } from './call.ts';
import { CMD, MAP_FLAG, MAP_TYPE, UPDATE, type UpdateMode } from './constants.ts';
import { BatchBuffer } from './map-batch.ts';
import {
  type BytesMap,
  type Chunk,
  describeShape,
  type MapInfo,
  type MapShape,
  type PutEntry,
} from './map-shape.ts';
import { pinObject } from './pin.ts';
import { TypedMap } from './typed-map.ts';

/** How a map is created beyond its shape. */
export interface MapCreation {
  /** A map that shows what the maps inside a map of maps look like. */
  readonly inner?: BpfMap;
  readonly btf?: { readonly fd: number; readonly keyTypeId: number; readonly valueTypeId: number };
  /** map_extra: for a bloom filter the number of hash functions. */
  readonly extra?: number;
  readonly numaNode?: number;
}

const PER_CPU: ReadonlySet<number> = new Set([
  MAP_TYPE.PERCPU_HASH,
  MAP_TYPE.PERCPU_ARRAY,
  MAP_TYPE.LRU_PERCPU_HASH,
]);
const ELEM_ATTR = 32;
const INFO_SIZE = 88;

export class BpfMap implements BytesMap {
  readonly fd: number;
  /** The name in the source; of an adopted map, what the kernel kept of it (15 letters). */
  readonly name: string;
  readonly type: number;
  readonly keySize: number;
  /** Of one CPU's value in per-CPU maps, see `valueBytes`. */
  readonly valueSize: number;
  /** Bytes that one lookup returns: per-CPU maps return each CPU's value, padded to 8 bytes. */
  readonly valueBytes: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly #arena: Arena;
  readonly #attr: Uint8Array;
  readonly #key: Uint8Array;
  readonly #value: Uint8Array;
  #reader: BatchBuffer | undefined;
  #writer: BatchBuffer | undefined;
  #open = true;

  /** Wraps an open descriptor; use `BpfMap.create`, `adoptMap` or a loaded object instead. */
  constructor(fd: number, shape: MapShape) {
    this.fd = fd;
    this.name = shape.name;
    this.type = shape.type;
    this.keySize = shape.keySize;
    this.valueSize = shape.valueSize;
    this.maxEntries = shape.maxEntries;
    this.flags = shape.flags ?? 0;
    this.valueBytes = PER_CPU.has(shape.type)
      ? ((shape.valueSize + 7) & ~7) * possibleCpus()
      : shape.valueSize;
    // The key after a key is written where values are.
    const room = Math.max(this.keySize, this.valueBytes);
    this.#arena = new Arena(ELEM_ATTR + this.keySize + room + 32);
    const attr = this.#arena.reserve(ELEM_ATTR);
    const key = this.#arena.reserve(this.keySize);
    const value = this.#arena.reserve(room);
    this.#attr = this.#arena.from(attr, ELEM_ATTR);
    this.#key = this.#arena.from(key, this.keySize);
    this.#value = this.#arena.from(value, this.valueBytes);
    this.#arena.view.setUint32(attr, fd, true);
    if (this.keySize > 0) this.#arena.point(attr + 8, key);
    this.#arena.point(attr + 16, value);
  }

  /** Creates a map. Throws BPF_MAP_REFUSED. */
  static create(shape: MapShape, creation: MapCreation = {}): BpfMap {
    const SIZE = 72;
    const arena = new Arena(SIZE + 8);
    const at = arena.reserve(SIZE);
    const { view } = arena;
    const { btf } = creation;
    const flags = shape.flags ?? 0;
    view.setUint32(at, shape.type, true);
    view.setUint32(at + 4, shape.keySize, true);
    view.setUint32(at + 8, shape.valueSize, true);
    view.setUint32(at + 12, shape.maxEntries, true);
    view.setUint32(at + 16, flags, true);
    if (creation.inner) view.setUint32(at + 20, creation.inner.fd, true);
    if (creation.numaNode) view.setUint32(at + 24, creation.numaNode, true);
    putName(arena, at + 28, shape.name);
    if (btf) {
      view.setUint32(at + 48, btf.fd, true);
      view.setUint32(at + 52, btf.keyTypeId, true);
      view.setUint32(at + 56, btf.valueTypeId, true);
    }
    if (creation.extra) view.setBigUint64(at + 64, BigInt(creation.extra), true);
    const fd = bpf(CMD.MAP_CREATE, arena.from(at, SIZE));
    if (fd < 0)
      throw bpfError(
        'BPF_MAP_REFUSED',
        { map: shape.name, definition: describeShape(shape) },
        kernelFailure(fd),
      );
    return new BpfMap(fd, shape);
  }

  /** Wraps the descriptor of an existing map and asks the kernel for its shape; closes it when that fails. */
  static fromFd(fd: number, name?: string): BpfMap {
    const info = readMapInfo(fd);
    if (typeof info === 'number') {
      closeFd(fd);
      throw bpfError('BPF_MAP_CALL', { action: 'describe', map: name ?? `fd ${fd}` }, kernelFailure(info));
    }
    return new BpfMap(fd, name === undefined ? info : { ...info, name });
  }

  get perCpu(): boolean {
    return PER_CPU.has(this.type);
  }

  /** The value of a key, copied; undefined when absent. In maps of maps it is the id of the inner map. */
  get(key: Uint8Array): Uint8Array | undefined {
    this.#putKey(key);
    const result = this.#call(CMD.MAP_LOOKUP_ELEM, 0);
    if (result === -ERRNO.ENOENT) return undefined;
    this.#check('look up a key in', result);
    return this.#value.slice();
  }

  /** Each CPU's value of a key in a per-CPU map. */
  getPerCpu(key: Uint8Array): Uint8Array[] | undefined {
    const all = this.get(key);
    return all && splitPerCpu(all, this.valueSize);
  }

  /**
   * Writes a value; in maps of maps and program arrays it is a descriptor, see `setFd`. Mode `create` refuses an
   * existing key (false is returned), `replace` an absent one (false).
   */
  set(key: Uint8Array, value: Uint8Array, mode: UpdateMode = 'any'): boolean {
    this.#putKey(key);
    if (value.length !== this.valueBytes) this.#wrongSize('value', value.length, this.valueBytes);
    this.#value.set(value);
    const result = this.#call(CMD.MAP_UPDATE_ELEM, UPDATE[mode]);
    if (mode === 'create' && result === -ERRNO.EEXIST) return false;
    if (mode === 'replace' && result === -ERRNO.ENOENT) return false;
    this.#check('write to', result);
    return true;
  }

  /** Puts a map or a program into a map that holds these. */
  setFd(key: Uint8Array, object: { readonly fd: number }): void {
    const value = new Uint8Array(4);
    new DataView(value.buffer).setUint32(0, object.fd, true);
    this.set(key, value);
  }

  /** Deletes a key; false when it was absent. Elements of arrays cannot be deleted. */
  delete(key: Uint8Array): boolean {
    this.#putKey(key);
    // Attributes behind the key are refused here.
    const result = bpf(CMD.MAP_DELETE_ELEM, this.#attr.subarray(0, 16));
    if (result === -ERRNO.ENOENT) return false;
    this.#check('delete a key of', result);
    return true;
  }

  /** Returns a value and deletes its key in one step (hash maps since 5.14); undefined when absent. */
  take(key: Uint8Array): Uint8Array | undefined {
    this.#putKey(key);
    const result = this.#call(CMD.MAP_LOOKUP_AND_DELETE_ELEM, 0);
    if (result === -ERRNO.ENOENT) return undefined;
    this.#check('take a key from', result);
    return this.#value.slice();
  }

  /** Appends to a queue or stack, adds to a bloom filter. False when full. */
  push(value: Uint8Array): boolean {
    if (value.length !== this.valueBytes) this.#wrongSize('value', value.length, this.valueBytes);
    this.#value.set(value);
    const result = this.#call(CMD.MAP_UPDATE_ELEM, 0);
    if (result === -ERRNO.E2BIG) return false;
    this.#check('push to', result);
    return true;
  }

  /** Takes the next value of a queue or stack; undefined when empty. */
  pop(): Uint8Array | undefined {
    const result = this.#call(CMD.MAP_LOOKUP_AND_DELETE_ELEM, 0);
    if (result === -ERRNO.ENOENT) return undefined;
    this.#check('pop from', result);
    return this.#value.slice();
  }

  /** The key after this one, or the first; undefined at the end. A key that vanished restarts at the first. */
  nextKey(key?: Uint8Array): Uint8Array | undefined {
    if (key) this.#putKey(key);
    else this.#arena.view.setBigUint64(8, 0n, true);
    const result = this.#call(CMD.MAP_GET_NEXT_KEY, 0);
    if (!key) this.#arena.point(8, this.#key.byteOffset);
    if (result === -ERRNO.ENOENT) return undefined;
    this.#check('walk', result);
    return this.#arena.from(this.#value.byteOffset, this.keySize).slice();
  }

  /** All keys; see `entries` for what changes meanwhile mean. */
  *keys(): Generator<Uint8Array> {
    for (const [key] of this.entries()) yield key;
  }

  /**
   * All keys with their values, in batches where the map type can. Keys that others add or delete meanwhile may be
   * missing; a key that stays is seen.
   */
  *entries(): Generator<[key: Uint8Array, value: Uint8Array]> {
    const { keySize, valueBytes } = this;
    for (const { count, keys, values } of this.chunks())
      for (let index = 0; index < count; index++)
        yield [
          keys.subarray(index * keySize, (index + 1) * keySize),
          values.subarray(index * valueBytes, (index + 1) * valueBytes),
        ];
  }

  /** Like `entries`, many at a time: keys and values lie one behind the other. */
  chunks(): Generator<Chunk> {
    this.#reader ??= new BatchBuffer(this);
    return this.#reader.chunks();
  }

  /** Writes many entries; returns how many. Not atomic: on an error those before it are written. */
  setMany(
    entries: Iterable<readonly [key: Uint8Array, value: Uint8Array]>,
    mode: UpdateMode = 'any',
  ): number {
    let bytes = new Uint8Array(0);
    return this.setManyWith(
      entries,
      (view, keyAt, valueAt, [key, value]) => {
        if (key.length !== this.keySize) this.#wrongSize('key', key.length, this.keySize);
        if (value.length !== this.valueBytes) this.#wrongSize('value', value.length, this.valueBytes);
        if (bytes.buffer !== view.buffer) bytes = new Uint8Array(view.buffer as ArrayBuffer);
        bytes.set(key, keyAt);
        bytes.set(value, valueAt);
      },
      mode,
    );
  }

  /** Like `setMany`; `put` writes keySize and valueBytes bytes of an entry straight to where the kernel reads them. */
  setManyWith<T>(entries: Iterable<T>, put: PutEntry<T>, mode: UpdateMode = 'any'): number {
    return this.#batches().setMany(entries, put, UPDATE[mode]);
  }

  /** Deletes many keys; absent ones are skipped. Returns how many were there. */
  deleteMany(keys: Iterable<Uint8Array>): number {
    return this.#batches().deleteMany(keys);
  }

  /** Deletes everything in a map whose keys can be deleted. Returns how many there were. */
  clear(): number {
    return this.deleteMany([...this.keys()]);
  }

  /** Makes the map read-only for user space, for ever; the verifier may then treat its content as constant. */
  freeze(): void {
    this.#check('freeze', bpf(CMD.MAP_FREEZE, this.#attr.subarray(0, 4)));
  }

  info(): MapInfo {
    const info = readMapInfo(this.fd);
    if (typeof info === 'number') return this.#check('describe', info) as never;
    return info;
  }

  /**
   * The values of an array created with MAP_FLAG.MMAPABLE as memory shared with the programs. Value i begins at
   * i * (valueSize rounded up to 8).
   */
  memory(): { buffer: ArrayBuffer; unmap(): void } {
    const PAGE = pageSize();
    const length = this.maxEntries * ((this.valueSize + 7) & ~7);
    const PROT_READ_WRITE = 3;
    if ((this.flags & MAP_FLAG.MMAPABLE) === 0) this.#check('map the memory of', -ERRNO.EINVAL);
    return mapFd(this.fd, Math.ceil(length / PAGE) * PAGE, PROT_READ_WRITE);
  }

  /** Structures for keys and values: `services.typed(lb4Key, lb4Service)`. Throws BPF_MAP_SIZE when they do not fit. */
  typed<K, V>(key: Field<K>, value: Field<V>): TypedMap<K, V> {
    return new TypedMap(this, key, value);
  }

  /** Keeps the map alive under a path in a bpffs. */
  pin(path: string): void {
    pinObject(this.fd, path, `map "${this.name}"`);
  }

  close(): void {
    if (this.#open) closeFd(this.fd);
    this.#open = false;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #batches(): BatchBuffer {
    if (this.#writer?.busy) return new BatchBuffer(this);
    this.#writer ??= new BatchBuffer(this);
    return this.#writer;
  }

  #call(command: number, flags: number): number {
    this.#arena.view.setUint32(24, flags, true);
    return bpf(command, this.#attr);
  }

  #putKey(key: Uint8Array): void {
    if (key.length !== this.keySize) this.#wrongSize('key', key.length, this.keySize);
    this.#key.set(key);
  }

  #wrongSize(what: string, got: number, want: number): never {
    throw bpfError('BPF_MAP_SIZE', { map: this.name, what, got, want });
  }

  #check(action: string, result: number): void {
    if (result < 0) throw bpfError('BPF_MAP_CALL', { action, map: this.name }, kernelFailure(result));
  }
}

/** Each CPU's part of a per-CPU value. */
export function splitPerCpu(all: Uint8Array, valueSize: number): Uint8Array[] {
  const stride = (valueSize + 7) & ~7;
  return Array.from({ length: all.length / stride }, (_, cpu) =>
    all.subarray(cpu * stride, cpu * stride + valueSize),
  );
}

function readMapInfo(fd: number): MapInfo | number {
  const view = objectInfo(fd, INFO_SIZE);
  if (typeof view === 'number') return view;
  return {
    type: view.getUint32(0, true),
    id: view.getUint32(4, true),
    keySize: view.getUint32(8, true),
    valueSize: view.getUint32(12, true),
    maxEntries: view.getUint32(16, true),
    flags: view.getUint32(20, true),
    name: textOf(new Uint8Array(view.buffer, view.byteOffset + 24, 16)),
  };
}
