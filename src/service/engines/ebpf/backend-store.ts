/** Backends and their counters in the maps: an id each, kept as long as any packet may be on its way to it. */
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import type { PortPlan } from '../../types.ts';
import { backendName } from '../../weighted.ts';
import { RangeAllocator } from './allocate.ts';
import { type Attempt, takeNumbers } from './attempt.ts';
import { ChunkedArray } from './chunked-array.ts';
import { backendFlags } from './compile.ts';
import { Counters } from './counters.ts';
import { backendText } from './entry-text.ts';
import {
  backendStruct,
  CHUNK,
  encodeEndpoint,
  PROTOCOL_NUMBER,
  readAddress,
  writeAddress,
} from './layout.ts';
import { bytesOf, type LeftBackend, textOf } from './leftovers.ts';
import type { InnerTypes } from './map-types.ts';

/** A backend that no Service port has any more. */
export interface GoneBackend {
  readonly address: string;
  readonly port: number;
  readonly protocol: 'TCP' | 'UDP';
}

/** Backends of an earlier process by Service number, by their bytes. */
export type LeftBackends = ReadonlyMap<number, Map<string, LeftBackend>>;

/** What a port had before. */
interface Before {
  readonly plan: PortPlan;
  /** Ids of `plan.backends`, in their order. */
  readonly ids: readonly number[];
}

export interface BackendStoreOptions {
  readonly nodeName: string;
  readonly limit: number;
  readonly counterBytes: number;
  readonly now: () => number;
  readonly types: InnerTypes;
}

export class BackendStore {
  readonly array: ChunkedArray;
  readonly counts: Counters;
  readonly #nodeName: string;
  readonly #ids: RangeAllocator;
  // Staged, see flush() and flushGone().
  #goneIds = new Map<number, Pick<GoneBackend, 'address' | 'port'>>();
  #gone: GoneBackend[] = [];

  constructor(
    maps: { readonly backends: BpfMap; readonly counts: BpfMap },
    { nodeName, limit, counterBytes, now, types }: BackendStoreOptions,
  ) {
    this.#nodeName = nodeName;
    this.array = new ChunkedArray(maps.backends, {
      valueSize: backendStruct.size,
      created: types.of('lb_backends'),
    });
    this.counts = new Counters(maps.counts, counterBytes, types.of('lb_backend_counts'));
    // Number 0 is nobody: a limit of 10 backends are the numbers 1 to 10.
    this.#ids = new RangeAllocator({ first: 1, limit: Math.min(limit + 1, this.array.limit), now });
  }

  usage(): { used: number; limit: number } {
    return { used: this.#ids.used, limit: this.#ids.limit - 1 };
  }

  reserve(more: number): void {
    const backends = Math.min(this.#ids.limit, this.#ids.top + more);
    this.array.reserve(backends);
    this.counts.reserve(backends);
  }

  adopt(left: LeftBackends): void {
    this.#ids.reset(
      [...left.values()].flatMap((known) => [...known.values()].map(({ id }) => [id, 1] as const)),
      1,
    );
  }

  dropLeftovers(left: LeftBackends): void {
    for (const backends of left.values())
      for (const [name, { id }] of backends) {
        const key = bytesOf(name);
        this.#goneIds.set(id, { address: readAddress(key), port: viewOf(key).getUint16(16) });
      }
  }

  /** Ids of a plan's backends, in their order; `pool` are those that the kernel has of the Service. Throws SERVICE_MAP_FULL. */
  put(
    plan: PortPlan,
    before: Before | undefined,
    service: number,
    pool: Map<string, LeftBackend> | undefined,
    { undo, write }: Attempt,
  ): number[] {
    const protocol = PROTOCOL_NUMBER[plan.protocol]!;
    const old = new Map<string, number>();
    before?.plan.backends.forEach((backend, at) => {
      old.set(backendName(backend), at);
    });
    return plan.backends.map((backend) => {
      const flags = backendFlags(backend, this.#nodeName);
      const at = before && old.get(backendName(backend));
      let id: number;
      if (at !== undefined) {
        id = before!.ids[at]!;
        if (backendFlags(before!.plan.backends[at]!, this.#nodeName) === flags) return id;
      } else {
        const adopted = pool && adoptBackend(backend.endpoint.address, backend.port, protocol, pool, undo);
        if (adopted && adopted.flags === flags) return adopted.id;
        id = adopted?.id ?? takeNumbers(this.#ids, 1, plan, 'lb_backends');
        if (!adopted) {
          undo.push(() => this.#ids.give(id, 1));
          write.push(() => this.counts.take(id));
        }
      }
      write.push(() => {
        const value = this.array.stage(id);
        writeAddress(value, 0, backend.endpoint.address);
        value[16] = backend.port >> 8;
        value[17] = backend.port & 255;
        value[18] = protocol;
        value[19] = flags;
        viewOf(value).setUint32(20, service, true);
      });
      return id;
    });
  }

  /** Stages the end of the backends that are not among `ids`. */
  retire({ plan, ids: before }: Before, ids: readonly number[]): void {
    const kept = new Set(ids);
    before.forEach((id, at) => {
      if (kept.has(id)) return;
      const { endpoint, port } = plan.backends[at]!;
      this.#goneIds.set(id, { address: endpoint.address, port });
      const { protocol } = plan;
      if (protocol !== 'SCTP') this.#gone.push({ address: endpoint.address, port, protocol });
    });
  }

  flush(): void {
    this.array.flush();
  }

  /** Once no frontend leads to them any more. Returns how many ids were given back, and which backends are gone. */
  flushGone(): { changes: number; gone: GoneBackend[] } {
    for (const [id, { address, port }] of this.#goneIds) {
      // Without flags, but still there: a program may have read the old frontend and be on its way here.
      const value = this.array.stage(id);
      writeAddress(value, 0, address);
      viewOf(value).setUint16(16, port);
    }
    this.array.flush();
    for (const id of this.#goneIds.keys()) this.#ids.give(id, 1);
    const changes = this.#goneIds.size;
    const gone = this.#gone;
    this.#goneIds.clear();
    this.#gone = [];
    return { changes, gone };
  }

  /** See Writer.foreign(). */
  *foreign(repair: boolean): Generator<string[]> {
    for (const found of this.array.foreign(repair))
      yield found.map(({ index, value }) =>
        value === undefined
          ? `lb_backends: the chunk of id ${index} is not in its place`
          : `${backendText(index, value)}, want ${backendText(index, this.array.wanted(index))}`,
      );
  }

  /** Gives back memory at the end of what is in use; returns how many chunks that were. */
  trim(): number {
    // One chunk stays for what comes next.
    const own =
      this.array.capacity - this.#ids.used > 2 * CHUNK ? this.array.trim(this.#ids.trim() + CHUNK) : 0;
    return own + this.counts.trim(this.array.capacity);
  }

  close(): void {
    this.array.close();
    this.counts.close();
  }
}

function adoptBackend(
  address: string,
  port: number,
  protocol: number,
  pool: Map<string, LeftBackend>,
  undo: (() => void)[],
): LeftBackend | undefined {
  const name = textOf(encodeEndpoint(address, port, protocol).subarray(0, 19));
  const found = pool.get(name);
  if (!found) return undefined;
  pool.delete(name);
  undo.push(() => pool.set(name, found));
  return found;
}
