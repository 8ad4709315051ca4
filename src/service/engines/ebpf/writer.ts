/**
 * Writes plans into the maps. Order is what makes a change invisible to traffic:
 *
 *     new backends ─► new tables, in free lines ─► frontends, one update each ─► gone frontends ─► gone backends
 *
 * At every moment each frontend names a whole table of live backends. Writes are staged over many Services and
 * flushed in that order.
 */
import { viewOf } from '../../../codec/index.ts';
import { serviceError } from '../../../errors/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import type { PortPlan } from '../../types.ts';
import { RangeAllocator } from './allocate.ts';
import { ChunkedArray } from './chunked-array.ts';
import {
  backendFlags,
  backendName,
  type CompiledFrontend,
  compileFrontends,
  compileTable,
  type TableName,
} from './compile.ts';
import { type Frontend, FrontendStore, named, type Table } from './frontend-store.ts';
import {
  backendStruct,
  CHUNK,
  CHUNKS,
  encodeEndpoint,
  encodeSource,
  LINE_BYTES,
  LINE_ENTRIES,
  PROTOCOL_NUMBER,
  writeAddress,
} from './layout.ts';
import { bytesOf, type LeftBackend, Leftovers, textOf, VALUE } from './leftovers.ts';

/** What is programmed for one Service port. */
interface PortState {
  readonly plan: PortPlan;
  readonly service: number;
  /** Ids of `plan.backends`, in their order. */
  readonly ids: readonly number[];
  readonly tables: readonly Table[];
  readonly frontends: readonly Frontend[];
  /** Keys of ClusterIPs as such; shared with the other ports of the Service. */
  readonly wildcards: readonly string[];
  /** Keys of source ranges. */
  readonly ranges: readonly string[];
}

/** A backend that no Service port has any more. */
export interface GoneBackend {
  readonly address: string;
  readonly port: number;
  readonly protocol: 'TCP' | 'UDP';
}

export interface WriterMaps {
  readonly frontends: BpfMap;
  readonly tables: BpfMap;
  readonly backends: BpfMap;
  readonly ranges: BpfMap;
}

export interface WriterOptions {
  readonly nodeName: string;
  readonly frontends: number;
  readonly frontendsLimit: number;
  readonly now: () => number;
}

const RANGE_VALUE = Uint8Array.of(1, 0, 0, 0);
const linesOf = (entries: number) => Math.ceil(entries / LINE_ENTRIES);

export class Writer {
  readonly #frontends: FrontendStore;
  readonly #ranges: BpfMap;
  readonly #options: WriterOptions;
  readonly #tables: ChunkedArray;
  readonly #backends: ChunkedArray;
  readonly #lines: RangeAllocator;
  readonly #ids: RangeAllocator;
  readonly #services: RangeAllocator;
  readonly #ports = new Map<string, PortState>();
  /** Service numbers of an earlier process that a port has again. */
  readonly #adoptedServices = new Set<number>();
  #leftovers: Leftovers | undefined;

  // Staged, see flush().
  readonly #addedRanges = new Set<string>();
  readonly #goneRanges = new Set<string>();
  #goneIds: number[] = [];
  #goneTables: Omit<Table, 'name'>[] = [];
  #gone: GoneBackend[] = [];

  constructor(maps: WriterMaps, options: WriterOptions) {
    const { now } = options;
    this.#options = options;
    this.#ranges = maps.ranges;
    this.#frontends = new FrontendStore(maps.frontends, {
      entries: options.frontends,
      limit: options.frontendsLimit,
      now,
    });
    this.#tables = new ChunkedArray(maps.tables, LINE_BYTES);
    this.#backends = new ChunkedArray(maps.backends, backendStruct.size);
    this.#lines = new RangeAllocator({ limit: CHUNK * CHUNKS, now });
    this.#ids = new RangeAllocator({ first: 1, limit: CHUNK * CHUNKS, now });
    this.#services = new RangeAllocator({ first: 1, limit: 2 ** 31, now });
    this.#adopt();
  }

  get frontends(): BpfMap {
    return this.#frontends.map;
  }

  get tables(): ChunkedArray {
    return this.#tables;
  }

  get backends(): ChunkedArray {
    return this.#backends;
  }

  /** Counts for `status`. */
  usage(): { frontends: number; lines: number; backends: number } {
    return { frontends: this.#frontends.count, lines: this.#lines.used, backends: this.#ids.used };
  }

  /** Number of a frontend and of its Service port, for counters and explanations. */
  port(key: string): { service: number; ids: readonly number[] } | undefined {
    return this.#ports.get(key);
  }

  /** Makes room for this many things more, so that a first sync does not grow maps step by step. */
  reserve(more: { frontends: number; lines: number; backends: number }): void {
    this.#backends.reserve(Math.min(CHUNK * CHUNKS, this.#ids.top + more.backends));
    this.#tables.reserve(Math.min(CHUNK * CHUNKS, this.#lines.top + more.lines));
    this.#frontends.reserve(more.frontends);
  }

  /** Stages a Service port. Throws SERVICE_MAP_FULL, and then leaves it as it was. */
  put(plan: PortPlan): void {
    const before = this.#ports.get(plan.key);
    const compiled = compileFrontends(plan);
    // Nobody can reach it, for example because all its frontends belong to other Services.
    if (compiled.length === 0) {
      this.drop(plan.key);
      return;
    }
    const taken: (() => void)[] = [];
    try {
      const service = before?.service ?? this.#serviceNumber(plan, compiled, taken);
      const pool = before ? undefined : this.#leftovers?.backends.get(service);
      const ids = this.#putBackends(plan, before, service, pool, taken);
      const tables = this.#putTables(plan, compiled, before, ids, taken);
      const frontends = this.#frontends.put(plan, compiled, before?.frontends, service, tables, taken);
      const wildcards = this.#frontends.putWildcards(compiled);
      const ranges = this.#putRanges(plan, before, service);
      this.#ports.set(plan.key, { plan, service, ids, tables, frontends, wildcards, ranges });
      if (before) this.#retire(before, ids, tables, frontends);
    } catch (error) {
      for (const undo of taken) undo();
      throw error;
    }
  }

  /** Stages the removal of a Service port. */
  drop(key: string): void {
    const before = this.#ports.get(key);
    if (!before) return;
    this.#ports.delete(key);
    this.#retire(before, [], [], []);
    for (const key of before.ranges) this.#goneRanges.add(key);
    this.#services.give(before.service, 1);
  }

  /** Stages the removal of what an earlier process left and no plan has claimed. */
  dropLeftovers(): void {
    const left = this.#leftovers;
    if (!left) return;
    this.#leftovers = undefined;
    this.#frontends.dropLeftovers();
    for (const key of left.ranges) this.#goneRanges.add(key);
    for (const backends of left.backends.values())
      for (const { id } of backends.values()) this.#goneIds.push(id);
    for (const [line, lines] of left.tables)
      this.#goneTables.push({ line, ids: new Array<number>(lines * LINE_ENTRIES) });
  }

  /** Writes what is staged, in the order that traffic needs. Returns how much was written, and what is gone. */
  flush(): { changes: number; gone: GoneBackend[] } {
    let changes = this.#goneIds.length;
    this.#backends.flush();
    this.#tables.flush();
    for (const key of this.#addedRanges) this.#ranges.set(bytesOf(key), RANGE_VALUE);
    changes += this.#frontends.flush();
    if (this.#goneRanges.size > 0) this.#ranges.deleteMany([...this.#goneRanges].map(bytesOf));
    for (const id of this.#goneIds) this.#backends.stage(id);
    this.#backends.flush();

    for (const id of this.#goneIds) this.#ids.give(id, 1);
    for (const { line, ids } of this.#goneTables) this.#lines.give(line, linesOf(ids.length));
    const gone = this.#gone;
    this.#addedRanges.clear();
    this.#goneRanges.clear();
    this.#goneIds = [];
    this.#goneTables = [];
    this.#gone = [];
    return { changes, gone };
  }

  close(): void {
    this.#tables.close();
    this.#backends.close();
    this.#frontends.close();
  }

  #adopt(): void {
    const left = new Leftovers(this.#frontends.map, this.#tables, this.#backends, this.#ranges);
    if (left.frontends.size === 0 && left.backends.size === 0) return;
    this.#leftovers = left;
    const services = new Set([...left.backends.keys(), ...this.#frontends.adopt(left.frontends)]);
    this.#services.reset(
      [...services].map((number) => [number, 1] as const),
      1,
    );
    this.#lines.reset(left.tables, 0);
    this.#ids.reset(
      [...left.backends.values()].flatMap((known) => [...known.values()].map(({ id }) => [id, 1] as const)),
      1,
    );
  }

  /** The number that the kernel knows this port by already, or a new one. */
  #serviceNumber(plan: PortPlan, compiled: readonly CompiledFrontend[], taken: (() => void)[]): number {
    for (const { address, port, wildcard } of this.#leftovers ? compiled : []) {
      if (wildcard) continue;
      const key = textOf(encodeEndpoint(address, port, PROTOCOL_NUMBER[plan.protocol]!));
      const number = this.#frontends.leftover(key)?.getUint32(VALUE.service, true);
      if (number === undefined || this.#adoptedServices.has(number)) continue;
      this.#adoptedServices.add(number);
      return number;
    }
    const number = this.#take(this.#services, 1, plan, 'service numbers');
    taken.push(() => this.#services.give(number, 1));
    return number;
  }

  #take(space: RangeAllocator, length: number, plan: PortPlan, map: string): number {
    const start = space.take(length);
    if (start === undefined)
      throw serviceError('SERVICE_MAP_FULL', {
        service: plan.service,
        map,
        used: space.used,
        limit: CHUNK * CHUNKS,
        wanted: length,
      });
    return start;
  }

  #putBackends(
    plan: PortPlan,
    before: PortState | undefined,
    service: number,
    pool: Map<string, LeftBackend> | undefined,
    taken: (() => void)[],
  ): number[] {
    const protocol = PROTOCOL_NUMBER[plan.protocol]!;
    const old = new Map<string, number>();
    before?.plan.backends.forEach((backend, at) => {
      old.set(backendName(backend), at);
    });
    return plan.backends.map((backend) => {
      const flags = backendFlags(backend, this.#options.nodeName);
      const at = before && old.get(backendName(backend));
      let id: number;
      if (at !== undefined) {
        id = before!.ids[at]!;
        if (backendFlags(before!.plan.backends[at]!, this.#options.nodeName) === flags) return id;
      } else {
        const adopted = pool && this.#adoptBackend(backend.endpoint.address, backend.port, protocol, pool);
        if (adopted && adopted.flags === flags) return adopted.id;
        id = adopted?.id ?? this.#take(this.#ids, 1, plan, 'lb_backends');
        if (!adopted) taken.push(() => this.#ids.give(id, 1));
      }
      const value = this.#backends.stage(id);
      writeAddress(value, 0, backend.endpoint.address);
      value[16] = backend.port >> 8;
      value[17] = backend.port & 255;
      value[18] = protocol;
      value[19] = flags;
      viewOf(value).setUint32(20, service, true);
      return id;
    });
  }

  #adoptBackend(
    address: string,
    port: number,
    protocol: number,
    pool: Map<string, LeftBackend>,
  ): LeftBackend | undefined {
    const name = textOf(encodeEndpoint(address, port, protocol).subarray(0, 19));
    const found = pool.get(name);
    pool.delete(name);
    return found;
  }

  #putTables(
    plan: PortPlan,
    compiled: readonly CompiledFrontend[],
    before: PortState | undefined,
    ids: readonly number[],
    taken: (() => void)[],
  ): Table[] {
    const tables: Table[] = [];
    for (const { inside, outside } of compiled)
      for (const name of [inside, outside]) {
        if (name === undefined || named(tables, name)) continue;
        const entries = compileTable(plan, name);
        let wanted: readonly number[] = Array.from(entries, (entry) => ids[entry]!);
        // One list instead of two alike for each of ten thousand ports.
        if (sameNumbers(wanted, ids)) wanted = ids;
        const kept = named(before?.tables, name);
        tables.push(
          kept && sameNumbers(kept.ids, wanted)
            ? kept
            : (this.#adoptTable(plan, compiled, name, wanted) ?? this.#newTable(plan, name, wanted, taken)),
        );
      }
    return tables.slice();
  }

  /** A table that the kernel has already under one of this port's frontends. */
  #adoptTable(
    plan: PortPlan,
    compiled: readonly CompiledFrontend[],
    name: TableName,
    ids: readonly number[],
  ): Table | undefined {
    const left = this.#leftovers;
    if (!left) return undefined;
    for (const frontend of compiled) {
      const sides = [
        [frontend.inside, VALUE.insideLine, VALUE.insideSize],
        [frontend.outside, VALUE.outsideLine, VALUE.outsideSize],
      ] as const;
      for (const [table, lineAt, sizeAt] of sides) {
        if (table !== name) continue;
        const key = textOf(encodeEndpoint(frontend.address, frontend.port, PROTOCOL_NUMBER[plan.protocol]!));
        const view = this.#frontends.leftover(key);
        if (!view) continue;
        const line = view.getUint32(lineAt, true);
        if (!left.tables.has(line) || !left.hasTable(line, view.getUint32(sizeAt, true), ids)) continue;
        left.tables.delete(line);
        return { name, line, ids };
      }
    }
    return undefined;
  }

  #newTable(plan: PortPlan, name: TableName, ids: readonly number[], taken: (() => void)[]): Table {
    const lines = linesOf(ids.length);
    const line = this.#take(this.#lines, lines, plan, 'lb_tables');
    taken.push(() => this.#lines.give(line, lines));
    for (let at = 0; at < lines; at++) {
      const view = viewOf(this.#tables.stage(line + at));
      const entries = Math.min(LINE_ENTRIES, ids.length - at * LINE_ENTRIES);
      for (let entry = 0; entry < entries; entry++)
        view.setUint32(entry * 4, ids[at * LINE_ENTRIES + entry]!, true);
    }
    return { name, line, ids };
  }

  #putRanges(plan: PortPlan, before: PortState | undefined, service: number): string[] {
    const keys = plan.sourceRanges.map((range) => textOf(encodeSource(service, range)));
    for (const key of keys) {
      this.#goneRanges.delete(key);
      if (!this.#leftovers?.ranges.delete(key) && !before?.ranges.includes(key)) this.#addedRanges.add(key);
    }
    for (const key of before?.ranges ?? []) if (!keys.includes(key)) this.#goneRanges.add(key);
    return keys;
  }

  #retire(
    before: PortState,
    ids: readonly number[],
    tables: readonly Table[],
    frontends: readonly Frontend[],
  ): void {
    this.#frontends.retire(before.frontends, frontends);
    this.#frontends.dropWildcards(before.wildcards);
    for (const table of before.tables)
      if (named(tables, table.name)?.line !== table.line) this.#goneTables.push(table);
    const kept = new Set(ids);
    before.ids.forEach((id, at) => {
      if (kept.has(id)) return;
      this.#goneIds.push(id);
      const { endpoint, port } = before.plan.backends[at]!;
      const { protocol } = before.plan;
      if (protocol !== 'SCTP') this.#gone.push({ address: endpoint.address, port, protocol });
    });
  }
}

function sameNumbers(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  if (a.length !== b.length) return false;
  for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) return false;
  return true;
}
