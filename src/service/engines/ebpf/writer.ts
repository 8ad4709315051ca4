import type { BpfMap } from '../../../kernel/bpf/index.ts';
import type { PortPlan } from '../../types.ts';
import { RangeAllocator } from './allocate.ts';
import { type Attempt, takeNumbers } from './attempt.ts';
import { BackendStore, type GoneBackend } from './backend-store.ts';
import type { ChunkedArray } from './chunked-array.ts';
import { type CompiledFrontend, compileFrontends } from './compile.ts';
import { Counters } from './counters.ts';
import { type Frontend, FrontendStore, type Table } from './frontend-store.ts';
import { CHUNK, encodeEndpoint, PROTOCOL_NUMBER } from './layout.ts';
import { Leftovers, textOf, VALUE } from './leftovers.ts';
import type { InnerTypes } from './map-types.ts';
import { SourceRanges } from './source-ranges.ts';
import { TableStore } from './table-store.ts';

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

export class Writer {
  readonly #frontends: FrontendStore;
  readonly #ranges: SourceRanges;
  readonly #options: WriterOptions;
  readonly #tables: TableStore;
  readonly #backends: BackendStore;
  readonly #services: RangeAllocator;
  readonly serviceCounts: Counters;
  readonly #ports = new Map<string, PortState>();
  /** Keys of the ClusterIPs of Services that somebody else serves. */
  readonly #notOurs = new Map<string, readonly string[]>();
  /** Service numbers of an earlier process that a port has again. */
  readonly #adoptedServices = new Set<number>();
  #leftovers: Leftovers | undefined;

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
    this.#tables = new TableStore(maps.tables, { linesLimit: options.linesLimit, now, types });
    this.#backends = new BackendStore(
      { backends: maps.backends, counts: maps.backendCounts },
      {
        nodeName: options.nodeName,
        limit: options.backendsLimit,
        counterBytes: options.counterBytes,
        now,
        types,
      },
    );
    this.serviceCounts = new Counters(
      maps.serviceCounts,
      options.counterBytes,
      types.of('lb_service_counts'),
    );
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
    return this.#tables.array;
  }

  get backends(): ChunkedArray {
    return this.#backends.array;
  }

  get backendCounts(): Counters {
    return this.#backends.counts;
  }

  /** Counts and limits for `status`. */
  usage(): Record<'frontends' | 'lines' | 'backends' | 'services', { used: number; limit: number }> {
    return {
      frontends: { used: this.#frontends.count, limit: this.#options.frontendsLimit },
      lines: this.#tables.usage(),
      backends: this.#backends.usage(),
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
    this.#backends.reserve(more.backends);
    this.#tables.reserve(more.lines);
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
      const ids = this.#backends.put(plan, before, service, pool, attempt);
      const leftovers = this.#leftovers && {
        left: this.#leftovers,
        frontend: (key: string) => this.#frontends.leftover(key),
      };
      const tables = this.#tables.put(plan, compiled, before?.tables, ids, { leftovers, attempt });
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

  /** Services whose ClusterIPs somebody else serves. */
  get notOurs(): Iterable<string> {
    return this.#notOurs.keys();
  }

  /** Stages the ClusterIPs of a Service that somebody else serves, none when nobody does. Throws SERVICE_MAP_FULL. */
  pass(service: string, addresses: readonly string[]): void {
    const before = this.#notOurs.get(service);
    if (before === undefined && addresses.length === 0) return;
    const now = this.#frontends.putNotOurs(service, addresses);
    if (before) this.#frontends.dropNotOurs(before);
    if (now.length > 0) this.#notOurs.set(service, now);
    else this.#notOurs.delete(service);
  }

  /** Stages the removal of what an earlier process left and no plan has claimed. */
  dropLeftovers(): void {
    const left = this.#leftovers;
    if (!left) return;
    this.#leftovers = undefined;
    this.#frontends.dropLeftovers();
    this.#ranges.dropLeftovers();
    this.#backends.dropLeftovers(left.backends);
    this.#tables.dropLeftovers(left);
  }

  /** Writes what is staged, in the order that traffic needs. Returns how much was written, and what is gone. */
  flush(): { changes: number; gone: GoneBackend[] } {
    this.backendCounts.flush();
    this.serviceCounts.flush();
    this.#backends.flush();
    this.#tables.flush();
    this.#ranges.writeAdded();
    const changes = this.#frontends.flush();
    this.#ranges.eraseGone();
    const retired = this.#backends.flushGone();
    this.#tables.release();
    return { changes: changes + retired.changes, gone: retired.gone };
  }

  /**
   * What somebody else changed in the maps, as text, piece by piece: between two pieces others may be served, and
   * write. With `repair` it is put right. Before the first full delta nothing is known to be foreign.
   */
  *foreign(repair: boolean): Generator<string[]> {
    if (this.#leftovers) return;
    yield* this.#backends.foreign(repair);
    yield* this.#tables.foreign(repair);
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
    dropped += this.#tables.trim() + this.#backends.trim();
    if (this.serviceCounts.array.capacity - this.#services.used > 2 * CHUNK)
      dropped += this.serviceCounts.trim(this.#services.trim() + CHUNK);
    return dropped;
  }

  close(): void {
    this.#tables.close();
    this.#backends.close();
    this.#frontends.close();
    this.serviceCounts.close();
  }

  #adopt(ranges: BpfMap): void {
    const left = new Leftovers(this.#frontends.map, this.#tables.array, this.#backends.array, ranges);
    if (left.frontends.size === 0 && left.backends.size === 0 && left.ranges.size === 0) return;
    this.#leftovers = left;
    this.#ranges.adopt(left.ranges);
    const services = new Set([...left.backends.keys(), ...this.#frontends.adopt(left.frontends)]);
    this.#services.reset(
      [...services].map((number) => [number, 1] as const),
      1,
    );
    this.#tables.adopt(left);
    this.#backends.adopt(left.backends);
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
    const number = takeNumbers(this.#services, 1, plan, 'service numbers');
    undo.push(() => this.#services.give(number, 1));
    write.push(() => this.serviceCounts.take(number));
    return number;
  }

  #retire(
    before: PortState,
    ids: readonly number[],
    tables: readonly Table[],
    frontends: readonly Frontend[],
  ): void {
    this.#frontends.retire(before.frontends, frontends);
    this.#frontends.dropWildcards(before.wildcards);
    this.#tables.retire(before.tables, tables);
    this.#backends.retire(before, ids);
  }
}
