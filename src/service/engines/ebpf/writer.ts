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
import { backendName } from '../../weighted.ts';
import { RangeAllocator } from './allocate.ts';
import { ChunkedArray } from './chunked-array.ts';
import {
  backendFlags,
  type CompiledFrontend,
  compileFrontends,
  compileTable,
  type TableName,
} from './compile.ts';
import { Counters } from './counters.ts';
import { backendText } from './entry-text.ts';
import { type Frontend, FrontendStore, named, type Table } from './frontend-store.ts';
import {
  backendStruct,
  CHUNK,
  encodeEndpoint,
  LINE_BYTES,
  LINE_ENTRIES,
  PROTOCOL_NUMBER,
  readAddress,
  writeAddress,
} from './layout.ts';
import { bytesOf, type LeftBackend, Leftovers, textOf, VALUE } from './leftovers.ts';
import type { InnerTypes } from './map-types.ts';
import { SourceRanges } from './source-ranges.ts';

/** What is programmed for one Service port. */
export interface PortState {
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
  readonly backendCounts: BpfMap;
  readonly serviceCounts: BpfMap;
}

export interface WriterOptions {
  readonly nodeName: string;
  readonly frontends: number;
  readonly frontendsLimit: number;
  readonly backendsLimit: number;
  readonly linesLimit: number;
  /** Memory for each of the two kinds of counters. */
  readonly counterBytes: number;
  readonly now: () => number;
  readonly types: InnerTypes;
}

/** What is undone when a port cannot be programmed, and what is written when it can. */
interface Attempt {
  readonly undo: (() => void)[];
  readonly write: (() => void)[];
}

const linesOf = (entries: number) => Math.ceil(entries / LINE_ENTRIES);

export class Writer {
  readonly #frontends: FrontendStore;
  readonly #ranges: SourceRanges;
  readonly #options: WriterOptions;
  readonly #tables: ChunkedArray;
  readonly #backends: ChunkedArray;
  readonly #lines: RangeAllocator;
  readonly #ids: RangeAllocator;
  readonly #services: RangeAllocator;
  readonly backendCounts: Counters;
  readonly serviceCounts: Counters;
  readonly #ports = new Map<string, PortState>();
  /** Service numbers of an earlier process that a port has again. */
  readonly #adoptedServices = new Set<number>();
  #leftovers: Leftovers | undefined;

  // Staged, see flush().
  #goneIds = new Map<number, Pick<GoneBackend, 'address' | 'port'>>();
  #goneTables: Omit<Table, 'name'>[] = [];
  #gone: GoneBackend[] = [];

  constructor(maps: WriterMaps, options: WriterOptions) {
    const { now, types } = options;
    this.#options = options;
    this.#ranges = new SourceRanges(maps.ranges);
    this.#frontends = new FrontendStore(maps.frontends, {
      entries: options.frontends,
      limit: options.frontendsLimit,
      now,
      types,
    });
    this.#tables = new ChunkedArray(maps.tables, { valueSize: LINE_BYTES, created: types.of('lb_tables') });
    this.#backends = new ChunkedArray(maps.backends, {
      valueSize: backendStruct.size,
      created: types.of('lb_backends'),
    });
    this.backendCounts = new Counters(
      maps.backendCounts,
      options.counterBytes,
      types.of('lb_backend_counts'),
    );
    this.serviceCounts = new Counters(
      maps.serviceCounts,
      options.counterBytes,
      types.of('lb_service_counts'),
    );
    this.#lines = new RangeAllocator({ limit: Math.min(options.linesLimit, this.#tables.limit), now });
    // Number 0 is nobody: a limit of 10 backends are the numbers 1 to 10.
    this.#ids = new RangeAllocator({
      first: 1,
      limit: Math.min(options.backendsLimit + 1, this.#backends.limit),
      now,
    });
    this.#services = new RangeAllocator({ first: 1, limit: 2 ** 31, now });
    // With one chunk in it, a map of maps tells the layout of all of them.
    this.reserve({ frontends: 0, lines: 1, backends: 1 });
    this.serviceCounts.reserve(1);
    this.#adopt(maps.ranges);
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

  /** Counts and limits for `status`. */
  usage(): Record<'frontends' | 'lines' | 'backends' | 'services', { used: number; limit: number }> {
    return {
      frontends: { used: this.#frontends.count, limit: this.#options.frontendsLimit },
      lines: { used: this.#lines.used, limit: this.#lines.limit },
      backends: { used: this.#ids.used, limit: this.#ids.limit - 1 },
      services: { used: this.#services.used, limit: this.#services.limit },
    };
  }

  /** What is programmed for a Service port: its number, the ids of its plan's backends, its tables and frontends. */
  port(key: string): PortState | undefined {
    return this.#ports.get(key);
  }

  /** All Service ports by their keys. */
  ports(): IterableIterator<[key: string, port: PortState]> {
    return this.#ports.entries();
  }

  /** Makes room for this many things more, so that a first sync does not grow maps step by step. */
  reserve(more: { frontends: number; lines: number; backends: number }): void {
    const backends = Math.min(this.#ids.limit, this.#ids.top + more.backends);
    this.#backends.reserve(backends);
    this.backendCounts.reserve(backends);
    this.#tables.reserve(Math.min(this.#lines.limit, this.#lines.top + more.lines));
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
    const attempt: Attempt = { undo: [], write: [] };
    try {
      const service = before?.service ?? this.#serviceNumber(plan, compiled, attempt);
      const pool = before ? undefined : this.#leftovers?.backends.get(service);
      const ids = this.#putBackends(plan, before, service, pool, attempt);
      const tables = this.#putTables(plan, compiled, before, ids, attempt);
      this.#ranges.makeRoom(plan, service, before?.ranges ?? []);
      // The last that may fail: what follows only stages.
      const frontends = this.#frontends.put(plan, compiled, before?.frontends, service, tables, attempt.undo);
      const wildcards = this.#frontends.putWildcards(compiled);
      const ranges = this.#ranges.put(plan, service, before?.ranges ?? []);
      for (const write of attempt.write) write();
      this.#ports.set(plan.key, { plan, service, ids, tables, frontends, wildcards, ranges });
      if (before) this.#retire(before, ids, tables, frontends);
    } catch (error) {
      for (const undo of attempt.undo) undo();
      throw error;
    }
  }

  /** Stages the removal of a Service port. */
  drop(key: string): void {
    const before = this.#ports.get(key);
    if (!before) return;
    this.#ports.delete(key);
    this.#retire(before, [], [], []);
    this.#ranges.drop(before.ranges);
    this.#services.give(before.service, 1);
  }

  /** Stages the removal of what an earlier process left and no plan has claimed. */
  dropLeftovers(): void {
    const left = this.#leftovers;
    if (!left) return;
    this.#leftovers = undefined;
    this.#frontends.dropLeftovers();
    this.#ranges.dropLeftovers();
    for (const backends of left.backends.values())
      for (const [name, { id }] of backends) {
        const key = bytesOf(name);
        this.#goneIds.set(id, { address: readAddress(key), port: viewOf(key).getUint16(16) });
      }
    for (const [line, lines] of left.tables)
      this.#goneTables.push({ line, ids: new Array<number>(lines * LINE_ENTRIES) });
  }

  /** Writes what is staged, in the order that traffic needs. Returns how much was written, and what is gone. */
  flush(): { changes: number; gone: GoneBackend[] } {
    let changes = this.#goneIds.size;
    this.backendCounts.flush();
    this.serviceCounts.flush();
    this.#backends.flush();
    this.#tables.flush();
    this.#ranges.writeAdded();
    changes += this.#frontends.flush();
    this.#ranges.eraseGone();
    for (const [id, { address, port }] of this.#goneIds) {
      // Without flags, but still there: a program may have read the old frontend and be on its way here.
      const value = this.#backends.stage(id);
      writeAddress(value, 0, address);
      viewOf(value).setUint16(16, port);
    }
    this.#backends.flush();

    for (const id of this.#goneIds.keys()) this.#ids.give(id, 1);
    for (const { line, ids } of this.#goneTables) this.#lines.give(line, linesOf(ids.length));
    const gone = this.#gone;
    this.#goneIds.clear();
    this.#goneTables = [];
    this.#gone = [];
    return { changes, gone };
  }

  /**
   * What somebody else changed in the maps, as text, piece by piece: between two pieces others may be served, and
   * write. With `repair` it is put right. Before the first full delta nothing is known to be foreign.
   */
  *foreign(repair: boolean): Generator<string[]> {
    if (this.#leftovers) return;
    for (const found of this.#backends.foreign(repair))
      yield found.map(({ index, value }) =>
        value === undefined
          ? `lb_backends: the chunk of id ${index} is not in its place`
          : `${backendText(index, value)}, want ${backendText(index, this.#backends.wanted(index))}`,
      );
    for (const found of this.#tables.foreign(repair))
      yield found.map(({ index, value }) =>
        value === undefined
          ? `lb_tables: the chunk of line ${index} is not in its place`
          : `lb_tables[${index}] was changed`,
      );
    for (const counters of [this.backendCounts, this.serviceCounts])
      for (const found of counters.array.foreign(repair))
        yield found.map(({ index }) => `counters: the chunk of number ${index} is not in its place`);
    const ports = [...this.#ports.values()];
    yield this.#frontends.foreign(
      ports.flatMap(({ frontends }) => frontends),
      repair,
    );
    const ranges = ports.flatMap(({ ranges }) => ranges);
    const { missing, unwanted } = this.#ranges.foreign(ranges, repair);
    yield missing + unwanted === 0
      ? []
      : [`lb_source_ranges: ${missing} entries are absent, ${unwanted} belong to nobody`];
  }

  /** Gives back memory at the end of what is in use. Returns how many chunks and maps that were. */
  trim(): number {
    if (this.#leftovers) return 0;
    let dropped = this.#frontends.shrink() ? 1 : 0;
    const spaces = [
      [this.#backends, this.#ids],
      [this.#tables, this.#lines],
    ] as const;
    // One chunk stays for what comes next.
    for (const [array, numbers] of spaces)
      if (array.capacity - numbers.used > 2 * CHUNK) dropped += array.trim(numbers.trim() + CHUNK);
    dropped += this.backendCounts.trim(this.#backends.capacity);
    if (this.serviceCounts.array.capacity - this.#services.used > 2 * CHUNK)
      dropped += this.serviceCounts.trim(this.#services.trim() + CHUNK);
    return dropped;
  }

  close(): void {
    this.#tables.close();
    this.#backends.close();
    this.#frontends.close();
    this.backendCounts.close();
    this.serviceCounts.close();
  }

  #adopt(ranges: BpfMap): void {
    const left = new Leftovers(this.#frontends.map, this.#tables, this.#backends, ranges);
    if (left.frontends.size === 0 && left.backends.size === 0 && left.ranges.size === 0) return;
    this.#leftovers = left;
    this.#ranges.adopt(left.ranges);
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
  #serviceNumber(plan: PortPlan, compiled: readonly CompiledFrontend[], { undo, write }: Attempt): number {
    for (const { address, port, wildcard } of this.#leftovers ? compiled : []) {
      if (wildcard) continue;
      const key = textOf(encodeEndpoint(address, port, PROTOCOL_NUMBER[plan.protocol]!));
      const number = this.#frontends.leftover(key)?.getUint32(VALUE.service, true);
      if (number === undefined || this.#adoptedServices.has(number)) continue;
      this.#adoptedServices.add(number);
      undo.push(() => this.#adoptedServices.delete(number));
      return number;
    }
    const number = this.#take(this.#services, 1, plan, 'service numbers');
    undo.push(() => this.#services.give(number, 1));
    write.push(() => this.serviceCounts.take(number));
    return number;
  }

  #take(space: RangeAllocator, length: number, plan: PortPlan, map: string): number {
    const start = space.take(length);
    if (start === undefined)
      throw serviceError('SERVICE_MAP_FULL', {
        service: plan.service,
        map,
        used: space.used,
        limit: space.limit - space.first,
        wanted: length,
      });
    return start;
  }

  #putBackends(
    plan: PortPlan,
    before: PortState | undefined,
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
      const flags = backendFlags(backend, this.#options.nodeName);
      const at = before && old.get(backendName(backend));
      let id: number;
      if (at !== undefined) {
        id = before!.ids[at]!;
        if (backendFlags(before!.plan.backends[at]!, this.#options.nodeName) === flags) return id;
      } else {
        const adopted =
          pool && this.#adoptBackend(backend.endpoint.address, backend.port, protocol, pool, undo);
        if (adopted && adopted.flags === flags) return adopted.id;
        id = adopted?.id ?? this.#take(this.#ids, 1, plan, 'lb_backends');
        if (!adopted) {
          undo.push(() => this.#ids.give(id, 1));
          write.push(() => this.backendCounts.take(id));
        }
      }
      write.push(() => {
        const value = this.#backends.stage(id);
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

  #adoptBackend(
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

  #putTables(
    plan: PortPlan,
    compiled: readonly CompiledFrontend[],
    before: PortState | undefined,
    ids: readonly number[],
    attempt: Attempt,
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
            : (this.#adoptTable(plan, compiled, name, wanted, attempt) ??
                this.#newTable(plan, name, wanted, attempt)),
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
    { undo }: Attempt,
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
        const lines = left.tables.get(line)!;
        left.tables.delete(line);
        undo.push(() => left.tables.set(line, lines));
        return { name, line, ids };
      }
    }
    return undefined;
  }

  #newTable(plan: PortPlan, name: TableName, ids: readonly number[], { undo, write }: Attempt): Table {
    const lines = linesOf(ids.length);
    const line = this.#take(this.#lines, lines, plan, 'lb_tables');
    undo.push(() => this.#lines.give(line, lines));
    write.push(() => {
      for (let at = 0; at < lines; at++) {
        const view = viewOf(this.#tables.stage(line + at));
        const entries = Math.min(LINE_ENTRIES, ids.length - at * LINE_ENTRIES);
        for (let entry = 0; entry < entries; entry++)
          view.setUint32(entry * 4, ids[at * LINE_ENTRIES + entry]!, true);
      }
    });
    return { name, line, ids };
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
      const { endpoint, port } = before.plan.backends[at]!;
      this.#goneIds.set(id, { address: endpoint.address, port });
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
