/**
 * Many map elements in one bpf(2): BPF_MAP_*_BATCH (>= 5.6). Map types that have no batches (and older kernels)
 * are served element by element, which a caller does not notice but for the time.
 *
 *   attr.batch {in_batch*, out_batch*, keys*, values*, count, map_fd, elem_flags, flags}
 */
import { bpfError } from '../../errors/bpf.ts';
import { Arena, ERRNO, kernelFailure } from '../syscall/index.ts';
import { bpf } from './call.ts';
import { CMD, MAP_TYPE } from './constants.ts';
import type { Chunk, ElementMap, PutEntry } from './map-shape.ts';

const ATTR = 56;
/** A batch aims at this many bytes of keys and values. */
const TARGET_BYTES = 256 << 10;
/** A hash bucket that has more entries than a batch makes the kernel answer ENOSPC; batches then grow up to this. */
const MOST_ENTRIES = 1 << 20;

/** Memory for one batch at a time of one map. */
export class BatchBuffer {
  readonly #map: ElementMap;
  /** True while entries to write are collected here; a source of entries may itself write to the map. */
  busy = false;
  #capacity: number;
  #arena!: Arena;
  #keysAt = 0;
  #valuesAt = 0;
  #positionAt = 0;
  #usable: boolean;

  constructor(map: ElementMap) {
    this.#map = map;
    const each = map.keySize + map.valueBytes;
    this.#capacity = Math.max(16, Math.min(4096, Math.floor(TARGET_BYTES / Math.max(1, each))));
    // Maps of maps convert between descriptors and ids, which batches of old kernels do not.
    this.#usable = map.type !== MAP_TYPE.QUEUE && map.type !== MAP_TYPE.STACK;
  }

  #prepare(capacity: number): void {
    const { keySize, valueBytes, fd } = this.#map;
    const positionSize = Math.max(8, keySize);
    this.#capacity = capacity;
    const arena = new Arena(ATTR + capacity * (keySize + valueBytes) + 2 * positionSize + 96);
    this.#arena = arena;
    arena.reserve(ATTR);
    this.#positionAt = arena.reserve(((positionSize + 7) & ~7) * 2);
    this.#keysAt = arena.reserve(capacity * keySize);
    this.#valuesAt = arena.reserve(capacity * valueBytes);
    arena.view.setUint32(36, fd, true);
  }

  /** Runs one command on `count` elements from element `first` on; returns the result and how many were done. */
  #run(command: number, first: number, count: number, flags = 0): { result: number; done: number } {
    const { view } = this.#arena;
    this.#arena.point(16, this.#keysAt + first * this.#map.keySize);
    this.#arena.point(24, this.#valuesAt + first * this.#map.valueBytes);
    view.setUint32(32, count, true);
    view.setBigUint64(40, BigInt(flags), true);
    const result = bpf(command, this.#arena.from(0, ATTR));
    return { result, done: view.getUint32(32, true) };
  }

  #fail(action: string, result: number): never {
    throw bpfError('BPF_MAP_CALL', { action, map: this.#map.name }, kernelFailure(result));
  }

  *chunks(): Generator<Chunk> {
    const { keySize, valueBytes } = this.#map;
    if (!this.#usable) return yield* this.#chunksOneByOne();
    let capacity = Math.min(this.#capacity, Math.max(16, this.#map.maxEntries));
    let started = false;
    // What a generator walks over must not be shared: another walk may run between two of its steps.
    let position: Uint8Array | undefined;
    for (;;) {
      if (!this.#arena || this.#capacity < capacity) this.#prepare(capacity);
      const positionSize = Math.max(8, keySize);
      const arena = this.#arena;
      if (position) {
        arena.bytes.set(position, this.#positionAt);
        arena.point(0, this.#positionAt);
      } else arena.view.setBigUint64(0, 0n, true);
      arena.point(8, this.#positionAt + ((positionSize + 7) & ~7));
      const { result, done } = this.#run(CMD.MAP_LOOKUP_BATCH, 0, capacity);
      if (!started && isUnsupported(result)) {
        this.#usable = false;
        return yield* this.#chunksOneByOne();
      }
      if (result === -ERRNO.ENOSPC && capacity < MOST_ENTRIES) {
        capacity *= 2;
        continue;
      }
      if (result < 0 && result !== -ERRNO.ENOENT) this.#fail('read', result);
      started = true;
      position = arena.from(this.#positionAt + ((positionSize + 7) & ~7), positionSize).slice();
      yield {
        count: done,
        keys: arena.from(this.#keysAt, done * keySize).slice(),
        values: arena.from(this.#valuesAt, done * valueBytes).slice(),
      };
      if (result < 0) return;
    }
  }

  *#chunksOneByOne(): Generator<Chunk> {
    // Keys first: a key deleted by the consumer would restart the walk.
    const keys: Uint8Array[] = [];
    const limit = this.#map.maxEntries * 2 + 16;
    for (let key = this.#map.nextKey(); key && keys.length < limit; key = this.#map.nextKey(key))
      keys.push(key);
    for (const key of keys) {
      const values = this.#map.get(key);
      if (values) yield { count: 1, keys: key, values };
    }
  }

  /** Writes entries; `put` writes the key and the value of one into the given places of a view. */
  setMany<T>(entries: Iterable<T>, put: PutEntry<T>, flags: number): number {
    const { keySize, valueBytes } = this.#map;
    let total = 0;
    let filled = 0;
    const flush = () => {
      if (filled === 0) return;
      if (this.#usable) {
        const { result, done } = this.#run(CMD.MAP_UPDATE_BATCH, 0, filled, flags);
        if (result === 0) total += filled;
        else if (total === 0 && isUnsupported(result)) this.#usable = false;
        else this.#fail(`write entry ${total + (result === -ERRNO.EFAULT ? 0 : done)} of many to`, result);
      }
      if (!this.#usable) this.#setOneByOne(filled, flags, (count) => (total += count));
      filled = 0;
    };
    if (!this.#arena) this.#prepare(this.#capacity);
    this.busy = true;
    try {
      for (const entry of entries) {
        put(this.#arena.view, this.#keysAt + filled * keySize, this.#valuesAt + filled * valueBytes, entry);
        if (++filled === this.#capacity) flush();
      }
      flush();
    } finally {
      this.busy = false;
    }
    return total;
  }

  #setOneByOne(count: number, flags: number, add: (count: number) => void): void {
    const { keySize, valueBytes } = this.#map;
    const mode = flags === 1 ? 'create' : flags === 2 ? 'replace' : 'any';
    for (let index = 0; index < count; index++) {
      const key = this.#arena.from(this.#keysAt + index * keySize, keySize);
      const value = this.#arena.from(this.#valuesAt + index * valueBytes, valueBytes);
      if (!this.#map.set(key, value, mode))
        this.#fail('write to', mode === 'create' ? -ERRNO.EEXIST : -ERRNO.ENOENT);
      add(1);
    }
  }

  deleteMany(keys: Iterable<Uint8Array>): number {
    const { keySize, name } = this.#map;
    let total = 0;
    let filled = 0;
    const flush = () => {
      for (let first = 0; first < filled; ) {
        if (!this.#usable) {
          const key = this.#arena.from(this.#keysAt + first * keySize, keySize);
          if (this.#map.delete(key)) total++;
          first++;
          continue;
        }
        const { result, done } = this.#run(CMD.MAP_DELETE_BATCH, first, filled - first);
        if (result === 0) {
          total += filled - first;
          break;
        }
        if (isUnsupported(result)) {
          this.#usable = false;
          continue;
        }
        if (result !== -ERRNO.ENOENT) this.#fail('delete many keys of', result);
        // The key at `done` is absent: those before it are gone, go on behind it.
        total += done;
        first += done + 1;
      }
      filled = 0;
    };
    if (!this.#arena) this.#prepare(this.#capacity);
    this.busy = true;
    try {
      for (const key of keys) {
        if (key.length !== keySize)
          throw bpfError('BPF_MAP_SIZE', { map: name, what: 'key', got: key.length, want: keySize });
        this.#arena.bytes.set(key, this.#keysAt + filled * keySize);
        if (++filled === this.#capacity) flush();
      }
      flush();
    } finally {
      this.busy = false;
    }
    return total;
  }
}

/** No batches for this map type (ENOTSUPP, EOPNOTSUPP), or a kernel before 5.6 (EINVAL). */
function isUnsupported(result: number): boolean {
  return result === -ERRNO.ENOTSUPP || result === -ERRNO.EOPNOTSUPP || result === -ERRNO.EINVAL;
}
