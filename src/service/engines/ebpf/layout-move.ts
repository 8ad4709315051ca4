/**
 * A version with other structures takes over while traffic flows. Maps whose layout changed are made anew beside the
 * old ones, and get what these hold, member by member; all others are simply used on.
 *
 *     copy ─► programs that read flows: new ones beside the old ─► programs that make flows: new ones in their place
 *          ─► copy what came meanwhile ─► the old ones that read flows go ─► new maps get the old ones' names
 *
 * A flow that is in one of the maps is found at each moment by one of the two programs that look for flows. Only a
 * segment that comes by a program of the new version before its flow was copied is unknown: it is dropped, not
 * refused (LB_DROP_HOLD), and its sender repeats it. Each step can be begun again: an end in the middle leaves both
 * maps, and the next start goes on.
 */
import { renameSync } from 'node:fs';
import { join } from 'node:path';
import { viewOf } from '../../../codec/index.ts';
import {
  type BpfMap,
  MAP_TYPE,
  mapById,
  possibleCpus,
  type Translate,
  translator,
} from '../../../kernel/bpf/index.ts';
import { ChunkedArray } from './chunked-array.ts';
import { moveFlows } from './flow-move.ts';
import type { FlowTable } from './flow-table.ts';
import { backendStruct, countStruct, HOLD, HOLD_AT, LINE_BYTES, natSetStruct } from './layout.ts';
import { textOf } from './leftovers.ts';
import type { Links } from './links.ts';
import { nextPin, type OutdatedMap } from './map-types.ts';
import { createFrontends, type EngineObjects, type MapName } from './objects.ts';

/** What lies in chunks. */
const ELEMENTS: Readonly<Record<string, { size: number; perCpu: boolean }>> = {
  lb_tables: { size: LINE_BYTES, perCpu: false },
  lb_backends: { size: backendStruct.size, perCpu: false },
  lb_backend_counts: { size: countStruct.size, perCpu: true },
  lb_service_counts: { size: countStruct.size, perCpu: true },
  lb_nat_more: { size: natSetStruct.size, perCpu: false },
};

const FIRST = new Uint8Array(4);

export class LayoutMove {
  readonly #objects: EngineObjects;
  /** What was read of maps that programs write, to know what they wrote afterwards. */
  readonly #copied = new Map<MapName, Map<string, Uint8Array>>();
  readonly #flows: FlowTable;
  /** When flows were copied: jiffies. */
  #flowsSince: number | undefined;

  private constructor(objects: EngineObjects, flows: FlowTable) {
    this.#objects = objects;
    this.#flows = flows;
  }

  /** Copies everything once. undefined: no pinned map has another layout. */
  static begin(objects: EngineObjects, flows: FlowTable): LayoutMove | undefined {
    if (objects.outdated.size === 0) return undefined;
    const move = new LayoutMove(objects, flows);
    for (const [name, old] of objects.outdated) move.#copy(name, old);
    return move;
  }

  /** Lets the new programs take over, with everything that came meanwhile. */
  finish(links: Links): void {
    const { folder, outdated } = this.#objects;
    if (this.#copied.size > 0 || this.#flowsSince !== undefined) {
      this.#hold(true);
      links.openBeside();
      links.open('writers');
      for (const [name, old] of outdated) this.#catchUp(name, old);
      this.#hold(false);
      links.keepBeside();
    }
    links.open();
    for (const [name, { map }] of outdated) {
      renameSync(nextPin(folder, name), join(folder, name));
      map.close();
    }
  }

  #hold(hold: boolean): void {
    const { lb_config } = this.#objects.maps;
    const config = lb_config.get(FIRST)!;
    viewOf(config).setUint32(HOLD_AT, hold ? HOLD.UNKNOWN : HOLD.OFF, true);
    lb_config.set(FIRST, config);
  }

  #copy(name: MapName, old: OutdatedMap): void {
    const map = this.#objects.maps[name];
    if (name === 'lb_flows') {
      this.#flowsSince = this.#flows.jiffies();
      moveFlows(old, this.#flows);
    } else if (name === 'lb_frontends') copyFrontends(old, map, this.#objects);
    else if (map.type === MAP_TYPE.ARRAY_OF_MAPS) copyChunks(old, map, this.#objects.types.of(name));
    else {
      const known = new Map<string, Uint8Array>();
      this.#copied.set(name, known);
      this.#write(name, old, (key, value) => {
        known.set(textOf(key), value.slice());
        return true;
      });
    }
  }

  #catchUp(name: MapName, old: OutdatedMap): void {
    if (name === 'lb_flows') moveFlows(old, this.#flows, this.#flowsSince);
    const known = this.#copied.get(name);
    // Counters of programs go on in the new maps; the few of this moment are lost.
    if (!known || old.map.perCpu) return;
    this.#write(name, old, (key, value) => {
      const before = known.get(textOf(key));
      return before === undefined || Buffer.compare(before, value) !== 0;
    });
  }

  #write(name: MapName, old: OutdatedMap, wanted: (key: Uint8Array, value: Uint8Array) => boolean): void {
    const map = this.#objects.maps[name];
    const key = translator(
      { leaves: old.from?.key, size: old.map.keySize },
      { leaves: old.to?.key, size: map.keySize },
    );
    const one = translator(
      { leaves: old.from?.value, size: old.map.valueSize },
      { leaves: old.to?.value, size: map.valueSize },
    );
    const value = map.perCpu ? eachCpu(one, old.map.valueSize, map.valueSize) : one;
    const array = map.type === MAP_TYPE.ARRAY || map.type === MAP_TYPE.PERCPU_ARRAY;
    for (const [oldKey, oldValue] of old.map.entries()) {
      if (!wanted(oldKey, oldValue)) continue;
      if (array && viewOf(oldKey).getUint32(0, true) >= map.maxEntries) continue;
      map.set(key(oldKey), value(oldValue), old.resumed && !array ? 'create' : 'any');
    }
  }
}

function eachCpu(one: Translate, oldSize: number, size: number): Translate {
  const stride = (oldSize + 7) & ~7;
  const made = (size + 7) & ~7;
  return (bytes) => {
    const all = new Uint8Array(made * possibleCpus());
    for (let cpu = 0; cpu * stride < bytes.length; cpu++)
      all.set(one(bytes.subarray(cpu * stride, cpu * stride + oldSize)), cpu * made);
    return all;
  };
}

function innerOf(outer: BpfMap, chunk: number): BpfMap | undefined {
  const key = new Uint8Array(4);
  viewOf(key).setUint32(0, chunk, true);
  const value = outer.get(key);
  const id = value ? viewOf(value).getUint32(0, true) : 0;
  return id === 0 ? undefined : mapById(id, outer.name);
}

function copyFrontends(old: OutdatedMap, outer: BpfMap, { types }: EngineObjects): void {
  using inner = innerOf(old.map, 0);
  if (!inner) return;
  using made = createFrontends(inner.maxEntries, types);
  const key = translator(
    { leaves: old.from?.key, size: inner.keySize },
    { leaves: old.to?.key, size: made.keySize },
  );
  const value = translator(
    { leaves: old.from?.value, size: inner.valueSize },
    { leaves: old.to?.value, size: made.valueSize },
  );
  made.setMany(inner.entries().map(([k, v]) => [key(k), value(v)] as const));
  outer.setFd(FIRST, made);
}

/** Elements keep their places: ids and lines go on meaning what they meant. */
function copyChunks(
  old: OutdatedMap,
  outer: BpfMap,
  created: ReturnType<EngineObjects['types']['of']>,
): void {
  const { size, perCpu } = ELEMENTS[outer.name]!;
  const array = new ChunkedArray(outer, { valueSize: size, perCpu, created });
  try {
    for (let chunk = 0; chunk < old.map.maxEntries; chunk++) {
      using inner = innerOf(old.map, chunk);
      if (!inner) break;
      array.reserve((chunk + 1) * inner.maxEntries);
      const one = translator(
        { leaves: old.from?.value, size: inner.valueSize },
        { leaves: old.to?.value, size },
      );
      const translate = inner.perCpu ? eachCpu(one, inner.valueSize, size) : one;
      for (const [key, value] of inner.entries())
        array.stage(chunk * inner.maxEntries + viewOf(key).getUint32(0, true)).set(translate(value));
      array.flush();
    }
  } finally {
    array.close();
  }
}
