/** Contents of the programs' maps that no packet brings about, or only after hours: written and put back. */
import { viewOf } from '../../src/codec/index.ts';
import { type BpfMap, mapById } from '../../src/kernel/bpf/index.ts';
import type { Flow } from '../../src/service/engines/ebpf/flow-table.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import {
  backendStruct,
  CHUNK,
  encodeEndpoint,
  FLOW_SLOTS,
  FLOWS_AT,
  flowSetStruct,
  flowStruct,
  frontendStruct,
  type HOLD,
  HOLD_AT,
  LINE_BYTES,
  PROTOCOL_NUMBER,
} from '../../src/service/engines/ebpf/layout.ts';

export type Protocol = 'TCP' | 'UDP';
type FrontendValue = ReturnType<typeof frontendStruct.decode>;
type BackendValue = ReturnType<typeof backendStruct.decode>;

export function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}

/** A place of the table of flows that is in use. */
interface Place {
  readonly chunk: BpfMap;
  readonly set: number;
  readonly slot: number;
}

export class MapContents {
  readonly #engine: EbpfEngine;

  constructor(engine: EbpfEngine) {
    this.#engine = engine;
  }

  /** While `work` runs, flows change hands as `value` says. */
  held<T>(value: (typeof HOLD)[keyof typeof HOLD], work: () => T): T {
    const { lb_config } = this.#engine.maps;
    const before = lb_config.get(u32(0))!;
    const config = before.slice();
    viewOf(config).setUint32(HOLD_AT, value, true);
    return replaced(lb_config, u32(0), config, work);
  }

  /** While `work` runs, a frontend is another one. */
  frontend<T>(
    [address, port, protocol]: readonly [string, number, Protocol],
    change: Partial<FrontendValue>,
    work: () => T,
  ): T {
    using map = this.frontends();
    const key = encodeEndpoint(address, port, PROTOCOL_NUMBER[protocol]!);
    const value = frontendStruct.decode(map.get(key)!);
    return replaced(map, key, frontendStruct.encode({ ...value, ...change }), work);
  }

  /** The hash of frontends that is in use. */
  frontends(): BpfMap {
    return mapById(viewOf(this.#engine.maps.lb_frontends.get(u32(0))!).getUint32(0, true), 'lb_frontends');
  }

  /** What a frontend says. */
  frontendOf(address: string, port: number, protocol: Protocol): FrontendValue {
    using map = this.frontends();
    return frontendStruct.decode(map.get(encodeEndpoint(address, port, PROTOCOL_NUMBER[protocol]!))!);
  }

  /** The first backend in the table of a line, the only one of a frontend that has one. */
  firstBackend(line: number): number {
    using map = this.#chunk('lb_tables', Math.floor(line / CHUNK));
    return viewOf(map.get(u32(line % CHUNK))!).getUint32(0, true);
  }

  /** While `work` runs, the first entry of a table names this backend. */
  firstOfTable<T>(line: number, backend: number, work: () => T): T {
    using map = this.#chunk('lb_tables', Math.floor(line / CHUNK));
    const key = u32(line % CHUNK);
    const value = map.get(key)!.slice(0, LINE_BYTES);
    viewOf(value).setUint32(0, backend, true);
    return replaced(map, key, value, work);
  }

  /** While `work` runs, a backend is another one. */
  backend<T>(id: number, change: Partial<BackendValue>, work: () => T): T {
    using map = this.#chunk('lb_backends', Math.floor(id / CHUNK));
    const value = backendStruct.decode(map.get(u32(id % CHUNK))!);
    return replaced(map, u32(id % CHUNK), backendStruct.encode({ ...value, ...change }), work);
  }

  /** Changes a flow that is there, and which one it is among those of a client's port. */
  changeFlow(wanted: (flow: Flow) => boolean, change: Partial<Flow>, order?: number): void {
    const { chunk, set, slot } = this.#find(wanted);
    using map = chunk;
    const value = map.get(u32(set))!;
    const at = FLOWS_AT + slot * flowStruct.size;
    const flow = flowStruct.decode(value.slice(at, at + flowStruct.size));
    value.set(flowStruct.encode({ ...flow, ...change }), at);
    const orders = flowSetStruct.members.find(({ name }) => name === 'order')!.offset;
    if (order !== undefined) value[orders + slot] = order;
    map.set(u32(set), value);
  }

  /** Every place of the first chunk of the table has this flow; without one, all of them are free. */
  fillFlows(flow?: Flow): void {
    using chunk = this.#chunk('lb_flows', 0);
    const value = new Uint8Array(flowSetStruct.size);
    if (flow)
      for (let slot = 0; slot < FLOW_SLOTS; slot++) {
        // A tag that no client's has: the highest bit is set in all.
        viewOf(value).setUint32(slot * 4, 0x8000_0001, true);
        value.set(flowStruct.encode(flow), FLOWS_AT + slot * flowStruct.size);
      }
    chunk.setMany(Array.from({ length: CHUNK }, (_, set) => [u32(set), value] as const));
  }

  /** All sets of the first chunk are empty, and say this of flows that may lie elsewhere. */
  markSets(mark: { readonly tried: number; readonly settled: number }): void {
    using chunk = this.#chunk('lb_flows', 0);
    const value = new Uint8Array(flowSetStruct.size);
    for (const { name, offset } of flowSetStruct.members)
      if (name === 'tried' || name === 'settled') viewOf(value).setUint32(offset, mark[name], true);
    chunk.setMany(Array.from({ length: CHUNK }, (_, set) => [u32(set), value] as const));
  }

  #chunk(name: 'lb_flows' | 'lb_tables' | 'lb_backends', at: number): BpfMap {
    return mapById(viewOf(this.#engine.maps[name].get(u32(at))!).getUint32(0, true), name);
  }

  #find(wanted: (flow: Flow) => boolean): Place {
    for (const key of this.#engine.maps.lb_flows.keys()) {
      const chunk = this.#chunk('lb_flows', viewOf(key).getUint32(0, true));
      for (const [at, value] of chunk.entries())
        for (let slot = 0; slot < FLOW_SLOTS; slot++) {
          if (viewOf(value).getUint32(slot * 4, true) === 0) continue;
          const start = FLOWS_AT + slot * flowStruct.size;
          const flow = flowStruct.decode(value.slice(start, start + flowStruct.size));
          if (wanted(flow)) return { chunk, set: viewOf(at).getUint32(0, true), slot };
        }
      chunk.close();
    }
    throw new Error('no such flow');
  }
}

function replaced<T>(map: BpfMap, key: Uint8Array, value: Uint8Array, work: () => T): T {
  const before = map.get(key)!.slice();
  map.set(key, value);
  try {
    return work();
  } finally {
    map.set(key, before);
  }
}
