import type { Field } from '../../codec/index.ts';
import { viewOf } from '../../codec/index.ts';
import { bpfError } from '../../errors/bpf.ts';
import type { UpdateMode } from './constants.ts';
import type { BytesMap } from './map-shape.ts';

/** A map whose keys and values are structures of the codec. Made by `map.typed(key, value)`. */
export class TypedMap<K, V> {
  readonly map: BytesMap;
  readonly #key: Field<K>;
  readonly #value: Field<V>;

  constructor(map: BytesMap, key: Field<K>, value: Field<V>) {
    const check = (what: string, got: number, want: number) => {
      if (got !== want) throw bpfError('BPF_MAP_SIZE', { map: map.name, what, got, want });
    };
    check('key', key.size, map.keySize);
    check('value', value.size, map.valueSize);
    this.map = map;
    this.#key = key;
    this.#value = value;
  }

  get(key: K): V | undefined {
    const data = this.map.get(encode(this.#key, key));
    return data && this.#value.read(viewOf(data), 0);
  }

  /** Each CPU's value, in a per-CPU map. */
  getPerCpu(key: K): V[] | undefined {
    return this.map.getPerCpu(encode(this.#key, key))?.map((data) => this.#value.read(viewOf(data), 0));
  }

  /** See BpfMap.set. */
  set(key: K, value: V, mode?: UpdateMode): boolean {
    return this.map.set(encode(this.#key, key), encode(this.#value, value), mode);
  }

  delete(key: K): boolean {
    return this.map.delete(encode(this.#key, key));
  }

  *entries(): Generator<[K, V]> {
    const { keySize, valueBytes } = this.map;
    for (const { count, keys, values } of this.map.chunks()) {
      const [keyView, valueView] = [viewOf(keys), viewOf(values)];
      for (let index = 0; index < count; index++)
        yield [this.#key.read(keyView, index * keySize), this.#value.read(valueView, index * valueBytes)];
    }
  }

  /** Like `entries`, with each CPU's value. */
  *entriesPerCpu(): Generator<[K, V[]]> {
    const stride = (this.map.valueSize + 7) & ~7;
    for (const [key, all] of this.map.entries()) {
      const view = viewOf(all);
      const values = Array.from({ length: all.length / stride }, (_, cpu) =>
        this.#value.read(view, cpu * stride),
      );
      yield [this.#key.read(viewOf(key), 0), values];
    }
  }

  /** See BpfMap.setMany; not for per-CPU maps. */
  setMany(entries: Iterable<readonly [K, V]>, mode?: UpdateMode): number {
    const { map } = this;
    if (map.valueBytes !== this.#value.size)
      throw bpfError('BPF_MAP_SIZE', {
        map: map.name,
        what: 'value',
        got: this.#value.size,
        want: map.valueBytes,
      });
    return map.setManyWith(
      entries,
      (view, keyAt, valueAt, [key, value]) => {
        this.#key.write(view, keyAt, key);
        this.#value.write(view, valueAt, value);
      },
      mode,
    );
  }

  deleteMany(keys: Iterable<K>): number {
    return this.map.deleteMany(Iterator.from(keys).map((key) => encode(this.#key, key)));
  }
}

function encode<T>(field: Field<T>, value: T): Uint8Array {
  const data = new Uint8Array(field.size);
  field.write(viewOf(data), 0, value);
  return data;
}
