/** Frontends in the kernel's hash: staging, numbers, ClusterIPs as such, growth. */
import { viewOf } from '../../../codec/index.ts';
import { serviceError } from '../../../errors/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import { socketAddress } from '../../describe.ts';
import type { PortPlan } from '../../types.ts';
import { RangeAllocator } from './allocate.ts';
import type { CompiledFrontend, TableName } from './compile.ts';
import {
  encodeEndpoint,
  endpointStruct,
  FRONTEND,
  frontendStruct,
  PROTOCOL_NUMBER,
  protocolName,
  readAddress,
} from './layout.ts';
import { bytesOf, textOf, VALUE } from './leftovers.ts';
import type { InnerTypes } from './map-types.ts';
import { growFrontends, openFrontends } from './objects.ts';

/** Key and value as text, because text is smaller than a typed array and compares by value. */
export interface Frontend {
  readonly key: string;
  readonly id: number;
  readonly value: string;
}

/** A table of a port as a frontend names it. */
export interface Table {
  readonly name: TableName;
  readonly line: number;
  readonly ids: ArrayLike<number>;
}

export interface FrontendStoreOptions {
  /** Entries to begin with, and to grow to. */
  readonly entries: number;
  readonly limit: number;
  readonly now: () => number;
  readonly types: InnerTypes;
}

/** Of an address as such. */
function addressValue(flags: number): string {
  return textOf(
    frontendStruct.encode({
      id: 0,
      service: 0,
      flags,
      affinity_s: 0,
      inside_line: 0,
      inside_size: 0,
      outside_line: 0,
      outside_size: 0,
    }),
  );
}

const WILDCARD_VALUE = addressValue(FRONTEND.WILDCARD);
const NOT_OURS_VALUE = addressValue(FRONTEND.WILDCARD | FRONTEND.NOT_OURS);
function addressKey(address: string): string {
  return textOf(encodeEndpoint(address, 0, 0));
}

function wildcardKeys(compiled: readonly CompiledFrontend[]): string[] {
  return compiled.filter(({ wildcard }) => wildcard).map(({ address }) => addressKey(address));
}

const EMPTY_TABLE: Omit<Table, 'name'> = { line: 0, ids: [] };

/** `lb_frontends[10.96.0.10:80/TCP]`. */
function frontendName(bytes: Uint8Array): string {
  const { address, port, protocol } = endpointStruct.decode(bytes);
  return `lb_frontends[${socketAddress(readAddress(address), port)}/${protocolName(protocol)}]`;
}

/** The table of this name. */
export function named(tables: readonly Table[] | undefined, name: TableName): Table | undefined {
  return tables?.find((table) => table.name === name);
}

export class FrontendStore {
  readonly #outer: BpfMap;
  readonly #limit: number;
  /** Entries to begin with. */
  readonly #smallest: number;
  readonly #ids: RangeAllocator;
  readonly #types: InnerTypes;
  #map: BpfMap;
  #count = 0;
  /** What an earlier process left and no plan has claimed yet. */
  #left: Map<string, string> | undefined;
  readonly #set = new Map<string, string>();
  readonly #deleted = new Map<string, number>();
  /** Ports of a Service share the entry of their ClusterIP as such. */
  readonly #wildcardUsers = new Map<string, number>();
  /** The same of ClusterIPs that somebody else serves. */
  readonly #notOursUsers = new Map<string, number>();
  #goneIds: number[] = [];

  constructor(outer: BpfMap, { entries, limit, now, types }: FrontendStoreOptions) {
    this.#outer = outer;
    this.#limit = limit;
    this.#smallest = entries;
    this.#ids = new RangeAllocator({ first: 1, limit: 2 ** 31, now });
    this.#types = types;
    this.#map = openFrontends(outer, entries, types);
  }

  /** The hash in use now. */
  get map(): BpfMap {
    return this.#map;
  }

  get count(): number {
    return this.#count;
  }

  /** Takes over what is in the kernel; returns the numbers of Service ports that it names. */
  adopt(left: Map<string, string>): Set<number> {
    this.#left = left;
    this.#count = left.size;
    const services = new Set<number>();
    const ids: [number, number][] = [];
    for (const value of left.values()) {
      if (value === WILDCARD_VALUE || value === NOT_OURS_VALUE) continue;
      const view = viewOf(bytesOf(value));
      ids.push([view.getUint32(VALUE.id, true), 1]);
      services.add(view.getUint32(VALUE.service, true));
    }
    this.#ids.reset(ids, 1);
    return services;
  }

  /** The kernel's value of a frontend that no plan has claimed yet. */
  leftover(key: string): DataView | undefined {
    const value = this.#left?.get(key);
    return value === undefined ? undefined : viewOf(bytesOf(value));
  }

  /** Makes room for this many more in one step. */
  reserve(more: number): void {
    let entries = this.#map.maxEntries;
    while (entries < this.#count + more) entries *= 2;
    entries = Math.min(entries, this.#limit);
    if (entries > this.#map.maxEntries)
      this.#map = growFrontends(this.#outer, this.#map, entries, this.#types);
  }

  /** Gives memory back when most of the buckets are for nobody; true when it did. */
  shrink(): boolean {
    let entries = this.#smallest;
    while (entries < this.#count * 2) entries *= 2;
    const SPARE = 4;
    if (entries * SPARE > this.#map.maxEntries) return false;
    this.#map = growFrontends(this.#outer, this.#map, Math.min(entries, this.#limit), this.#types);
    return true;
  }

  /**
   * What somebody else changed, as text: `wanted` are the frontends of all ports. With `repair` it is put right.
   */
  foreign(wanted: Iterable<Frontend>, repair: boolean): string[] {
    const found: string[] = [];
    const inUse = this.#outer.get(new Uint8Array(4));
    if (!inUse || viewOf(inUse).getUint32(0, true) !== this.#map.info().id) {
      found.push('lb_frontends[0] is not the map of frontends');
      if (repair) this.#outer.setFd(new Uint8Array(4), this.#map);
    }
    const left = new Map<string, string>();
    for (const { key, value } of wanted) left.set(key, value);
    for (const key of this.#notOursUsers.keys()) left.set(key, NOT_OURS_VALUE);
    for (const key of this.#wildcardUsers.keys()) left.set(key, WILDCARD_VALUE);
    const unwanted: Uint8Array[] = [];
    for (const [key, value] of this.#map.entries()) {
      const text = textOf(key);
      const want = left.get(text);
      left.delete(text);
      if (want === textOf(value)) continue;
      const name = frontendName(key);
      found.push(want === undefined ? `${name} belongs to nobody` : `${name} was changed`);
      if (want === undefined) unwanted.push(key.slice());
      else if (repair) this.#map.set(key, bytesOf(want));
    }
    if (repair) for (const key of unwanted) this.#map.delete(key);
    for (const [key, value] of left) {
      found.push(`${frontendName(bytesOf(key))} is absent`);
      if (repair) this.#map.set(bytesOf(key), bytesOf(value));
    }
    return found;
  }

  /** Stages the frontends of a port. Throws SERVICE_MAP_FULL. */
  put(
    plan: PortPlan,
    compiled: readonly CompiledFrontend[],
    before: readonly Frontend[] | undefined,
    service: number,
    tables: readonly Table[],
    taken: (() => void)[],
  ): Frontend[] {
    const frontends: Frontend[] = [];
    const staged: Frontend[] = [];
    let added = 0;
    for (const one of compiled) {
      if (one.wildcard) continue;
      const key = textOf(encodeEndpoint(one.address, one.port, PROTOCOL_NUMBER[plan.protocol]!));
      const kept = before?.find((frontend) => frontend.key === key);
      const left = kept ? undefined : this.#left?.get(key);
      const present = kept?.value ?? left;
      let id: number;
      if (present !== undefined) id = viewOf(bytesOf(present)).getUint32(VALUE.id, true);
      else {
        id = this.#ids.take(1)!;
        taken.push(() => this.#ids.give(id, 1));
        added++;
      }
      const inside = (one.inside && named(tables, one.inside)) || EMPTY_TABLE;
      const outside = (one.outside && named(tables, one.outside)) || EMPTY_TABLE;
      const value = textOf(
        frontendStruct.encode({
          id,
          service,
          flags: one.flags,
          affinity_s: plan.affinitySeconds,
          inside_line: inside.line,
          inside_size: inside.ids.length,
          outside_line: outside.line,
          outside_size: outside.ids.length,
        }),
      );
      const frontend = { key, id, value };
      frontends.push(frontend);
      if (value !== present) staged.push(frontend);
    }
    this.#makeRoom(plan.service, added + this.#newAddresses(wildcardKeys(compiled)));
    this.#count += added;
    for (const { key, value } of staged) this.#set.set(key, value);
    for (const { key } of frontends) this.#keep(key);
    return frontends.slice();
  }

  /** Stages the removal of those of a port's former frontends that it has no longer. */
  retire(before: readonly Frontend[], now: readonly Frontend[]): void {
    for (const { key, id } of before) {
      if (now.some((frontend) => frontend.key === key)) continue;
      if (!this.#set.has(key)) this.#deleted.set(key, id);
      else {
        // Another port took it over in this same flush.
        this.#goneIds.push(id);
        this.#count--;
      }
    }
  }

  /** How many of these ClusterIPs as such would be new; they take room like frontends. */
  #newAddresses(keys: readonly string[]): number {
    const found = new Set<string>();
    for (const key of keys)
      if (this.#addressWanted(key) === undefined && !this.#left?.has(key)) found.add(key);
    return found.size;
  }

  /** Stages ClusterIPs as such; returns their keys. */
  putWildcards(compiled: readonly CompiledFrontend[]): string[] {
    const keys = wildcardKeys(compiled);
    for (const key of keys) this.#countAddress(this.#wildcardUsers, key, 1);
    return keys;
  }

  dropWildcards(keys: readonly string[]): void {
    for (const key of keys) this.#countAddress(this.#wildcardUsers, key, -1);
  }

  /** Stages ClusterIPs that somebody else serves; returns their keys. Throws SERVICE_MAP_FULL. */
  putNotOurs(service: string, addresses: readonly string[]): string[] {
    const keys = addresses.map(addressKey);
    this.#makeRoom(service, this.#newAddresses(keys));
    for (const key of keys) this.#countAddress(this.#notOursUsers, key, 1);
    return keys;
  }

  dropNotOurs(keys: readonly string[]): void {
    for (const key of keys) this.#countAddress(this.#notOursUsers, key, -1);
  }

  /** What an address as such is to say; one that is ours as well, while a Service changes hands, is ours. */
  #addressWanted(key: string): string | undefined {
    if (this.#wildcardUsers.has(key)) return WILDCARD_VALUE;
    return this.#notOursUsers.has(key) ? NOT_OURS_VALUE : undefined;
  }

  /** Counts one user of an address more or less, and stages what that changes. */
  #countAddress(users: Map<string, number>, key: string, by: 1 | -1): void {
    const before = this.#addressWanted(key);
    const now = (users.get(key) ?? 0) + by;
    if (now > 0) users.set(key, now);
    else users.delete(key);
    const after = this.#addressWanted(key);
    if (after === before) return;
    if (after === undefined) {
      this.#set.delete(key);
      this.#deleted.set(key, 0);
    } else if (before !== undefined) this.#set.set(key, after);
    else {
      const present = this.#left?.get(key);
      if (present === undefined) this.#count++;
      // One whose removal is staged may say something else.
      if (present !== after) this.#set.set(key, after);
      this.#keep(key);
    }
  }

  /** Stages the removal of what no plan has claimed. */
  dropLeftovers(): void {
    for (const [key, value] of this.#left ?? [])
      this.#deleted.set(key, viewOf(bytesOf(value)).getUint32(VALUE.id, true));
    this.#left = undefined;
  }

  /** Writes what is staged, then erases what is gone. Returns how many entries that were. */
  flush(): number {
    for (const key of this.#set.keys()) this.#deleted.delete(key);
    const changes = this.#set.size + this.#deleted.size;
    this.#write();
    if (this.#deleted.size > 0) this.#map.deleteMany([...this.#deleted.keys()].map(bytesOf));
    for (const id of this.#deleted.values()) if (id !== 0) this.#ids.give(id, 1);
    for (const id of this.#goneIds) this.#ids.give(id, 1);
    this.#count -= this.#deleted.size;
    this.#set.clear();
    this.#deleted.clear();
    this.#goneIds = [];
    return changes;
  }

  close(): void {
    this.#map.close();
  }

  /** A key that somebody wants: it is no leftover, and not deleted for the one who had it before. */
  #keep(key: string): void {
    this.#left?.delete(key);
    const id = this.#deleted.get(key);
    if (id === undefined) return;
    this.#deleted.delete(key);
    if (id !== 0) this.#goneIds.push(id);
    this.#count--;
  }

  #makeRoom(service: string, added: number): void {
    if (this.#count + added <= this.#map.maxEntries) return;
    if (this.#count + added > this.#limit)
      throw serviceError('SERVICE_MAP_FULL', {
        service,
        map: 'lb_frontends',
        used: this.#count,
        limit: this.#limit,
        wanted: added,
      });
    this.reserve(added);
  }

  #write(): void {
    if (this.#set.size < 4) {
      for (const [key, value] of this.#set) this.#map.set(bytesOf(key), bytesOf(value));
      return;
    }
    this.#map.setMany(
      Iterator.from(this.#set).map(([key, value]) => [bytesOf(key), bytesOf(value)] as const),
    );
  }
}
