/** Source ranges of load balancer addresses in the kernel's trie: staging, and room for them. */
import { serviceError } from '../../../errors/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import type { PortPlan } from '../../types.ts';
import { encodeSource } from './layout.ts';
import { bytesOf, textOf } from './leftovers.ts';

const VALUE = Uint8Array.of(1, 0, 0, 0);
const VALUE_TEXT = textOf(VALUE);

export class SourceRanges {
  readonly #map: BpfMap;
  readonly #added = new Set<string>();
  readonly #gone = new Set<string>();
  /** What an earlier process left and no plan has claimed yet. */
  #left: Set<string> | undefined;
  /** In the kernel, those staged included. */
  #count = 0;

  constructor(map: BpfMap) {
    this.#map = map;
  }

  get count(): number {
    return this.#count;
  }

  adopt(left: Set<string>): void {
    this.#left = left;
    this.#count = left.size;
  }

  /** Throws SERVICE_MAP_FULL when the ranges of this port do not fit beside those of all others. */
  makeRoom(plan: PortPlan, service: number, before: readonly string[]): void {
    let wanted = -before.length;
    for (const range of plan.sourceRanges)
      if (!this.#left?.has(textOf(encodeSource(service, range)))) wanted++;
    const limit = this.#map.maxEntries;
    if (wanted > 0 && this.#count + wanted > limit)
      throw serviceError('SERVICE_MAP_FULL', {
        service: plan.service,
        map: 'lb_source_ranges',
        used: this.#count,
        limit,
        wanted,
      });
  }

  /** Stages the ranges of a port; returns their keys. */
  put(plan: PortPlan, service: number, before: readonly string[]): string[] {
    const keys = plan.sourceRanges.map((range) => textOf(encodeSource(service, range)));
    for (const key of keys) {
      const stays = this.#gone.delete(key);
      if (this.#left?.delete(key) || before.includes(key) || this.#added.has(key)) continue;
      this.#added.add(key);
      if (!stays) this.#count++;
    }
    this.drop(before.filter((key) => !keys.includes(key)));
    return keys;
  }

  drop(keys: Iterable<string>): void {
    for (const key of keys) this.#gone.add(key);
  }

  dropLeftovers(): void {
    this.drop(this.#left ?? []);
    this.#left = undefined;
  }

  writeAdded(): void {
    if (this.#added.size > 0)
      this.#map.setMany(Iterator.from(this.#added).map((key) => [bytesOf(key), VALUE] as const));
    this.#added.clear();
  }

  eraseGone(): void {
    if (this.#gone.size > 0) this.#map.deleteMany([...this.#gone].map(bytesOf));
    this.#count -= this.#gone.size;
    this.#gone.clear();
  }

  /** How many entries somebody else took away or put in; with `repair` they are as they ought to be afterwards. */
  foreign(wanted: Iterable<string>, repair: boolean): { missing: number; unwanted: number } {
    const present = new Map<string, string>();
    for (const [key, value] of this.#map.entries()) present.set(textOf(key), textOf(value));
    let missing = 0;
    for (const key of new Set(wanted)) {
      const value = present.get(key);
      present.delete(key);
      if (value === VALUE_TEXT) continue;
      missing++;
      if (repair) this.#map.set(bytesOf(key), VALUE);
    }
    if (repair) this.#map.deleteMany([...present.keys()].map(bytesOf));
    return { missing, unwanted: present.size };
  }
}
