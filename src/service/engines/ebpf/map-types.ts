/** Which layout maps have, and whether a pinned one has that of the objects at hand. */
import { join } from 'node:path';
import { viewOf } from '../../../codec/index.ts';
import {
  type BpfMap,
  type BpfProgram,
  type Btf,
  layoutOfMap,
  leavesOf,
  MAP_TYPE,
  type MapCreation,
  type MapDefinition,
  type MapLayout,
  mapById,
  type ObjectFile,
  openProgramBtf,
  sameLeaves,
} from '../../../kernel/bpf/index.ts';

/** Structures in maps of maps, which name only sizes. */
export const INNER: Readonly<Record<string, { key: string; value: string }>> = {
  lb_frontends: { key: 'lb_endpoint', value: 'lb_frontend' },
  lb_flows: { key: '__u32', value: 'lb_flow_set' },
  lb_tables: { key: '__u32', value: 'lb_line' },
  lb_backends: { key: '__u32', value: 'lb_backend' },
  lb_backend_counts: { key: '__u32', value: 'lb_count' },
  lb_service_counts: { key: '__u32', value: 'lb_count' },
  lb_nat_more: { key: '__u32', value: 'lb_nat_set' },
};

/** A pinned map of another layout. */
export interface OutdatedMap {
  readonly map: BpfMap;
  /** Of its keys and values, or of those in the maps that it holds; undefined when it was made without types. */
  readonly from: MapLayout | undefined;
  readonly to: MapLayout | undefined;
  /** Somebody began to carry it over, and did not end. */
  readonly resumed: boolean;
}

/** Where a map is pinned that is going to replace the one of this name. */
export function nextPin(folder: string, name: string): string {
  return join(folder, `${name}_next`);
}

/** The type information of an object, for maps that are made while the engine runs: numbers, not the 0.4 MB of it. */
export class InnerTypes {
  readonly #ids: ReadonlyMap<string, { readonly keyTypeId: number; readonly valueTypeId: number }>;
  readonly #kept: { readonly fd: number; close(): void };
  readonly #others: InnerTypes | undefined;

  /** `others`: of another object, for what this one does not know; closed with it. */
  constructor(btf: Btf, program: BpfProgram, others?: InnerTypes) {
    this.#ids = new Map(
      Object.entries(INNER).flatMap(([outer, { key, value }]) => {
        const keyTypeId = btf.sizedType(key);
        const valueTypeId = btf.sizedType(value);
        return keyTypeId === undefined || valueTypeId === undefined
          ? []
          : [[outer, { keyTypeId, valueTypeId }]];
      }),
    );
    this.#kept = openProgramBtf(program);
    this.#others = others;
  }

  /** For a map inside the map of this name. */
  of(outer: string): MapCreation {
    const ids = this.#ids.get(outer);
    return ids ? { btf: { fd: this.#kept.fd, ...ids } } : (this.#others?.of(outer) ?? {});
  }

  close(): void {
    this.#kept.close();
    this.#others?.close();
  }
}

/** What is different about a pinned map; undefined when it is as these objects want it. Its own size is no matter when `sized`. */
export function outdatedMap(
  name: string,
  map: BpfMap,
  files: readonly ObjectFile[],
  sized: boolean,
): Omit<OutdatedMap, 'resumed'> | undefined {
  for (const file of files) {
    const definition = file.maps.find((one) => one.name === name);
    if (!definition) continue;
    const { layout: from, sizes, empty } = present(map);
    const wanted = definition.inner ?? definition;
    const to = wantedLayout(definition, files);
    const same =
      map.type === definition.type &&
      (sized || map.maxEntries === definition.maxEntries) &&
      (map.flags & ~ACCESS) === (definition.flags & ~ACCESS) &&
      !empty &&
      sizes.key === wanted.keySize &&
      sizes.value === wanted.valueSize &&
      (!from || !to || (sameLeaves(from.key, to.key) && sameLeaves(from.value, to.value)));
    return same ? undefined : { map, from, to };
  }
  return undefined;
}

/** BPF_F_RDONLY, BPF_F_WRONLY: what a descriptor may do, no matter of layout. */
const ACCESS = (1 << 3) | (1 << 4);

/** Of what a map of maps holds, when it is one; without a map in it nobody knows. */
function present(map: BpfMap): {
  layout: MapLayout | undefined;
  sizes: { key: number; value: number };
  empty: boolean;
} {
  if (map.type !== MAP_TYPE.ARRAY_OF_MAPS)
    return {
      layout: layoutOfMap(map),
      sizes: { key: map.keySize, value: map.valueSize },
      empty: false,
    };
  const first = map.get(new Uint8Array(4));
  const id = first ? viewOf(first).getUint32(0, true) : 0;
  if (id === 0) return { layout: undefined, sizes: { key: 0, value: 0 }, empty: true };
  using inner = mapById(id, map.name);
  return {
    layout: layoutOfMap(inner),
    sizes: { key: inner.keySize, value: inner.valueSize },
    empty: false,
  };
}

function wantedLayout(definition: MapDefinition, files: readonly ObjectFile[]): MapLayout | undefined {
  const names = INNER[definition.name];
  for (const { btf, maps } of files) {
    const own = maps.find(({ name }) => name === definition.name);
    const key = names ? btf.sizedType(names.key) : own?.keyTypeId;
    const value = names ? btf.sizedType(names.value) : own?.valueTypeId;
    if (key && value) return { key: leavesOf(btf, key), value: leavesOf(btf, value) };
  }
  return undefined;
}
