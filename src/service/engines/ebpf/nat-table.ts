/**
 * The table of flows to backends on other nodes: bpf/include/lb_nat_table.h. Programs fill it; this gives it more room while
 * many flows need it, and takes that away again. No flow is moved: what is added lies beside what is there.
 *
 *     step 0   the ports of the range, 8 places each: lb_nat_heads, lb_nat_flows
 *     step 1   half as many further ports, for many clients of one backend
 *     step 2.. 8 more places at every port, for clients of many backends
 *
 * A step that is to go takes no new flows first (`open`), and goes when a whole look found none in it.
 */
import { viewOf } from '../../../codec/index.ts';
import { MAP_FLAG, mapMemoryBytes } from '../../../kernel/bpf/index.ts';
import { ChunkedArray } from './chunked-array.ts';
import { CHUNK, NAT_SLOTS, natFlowStruct, natSetStruct, natSweepStruct, natTableStruct } from './layout.ts';
import type { EngineObjects, EngineSizes } from './objects.ts';

const FIRST = new Uint8Array(4);
/** LB_NAT_LEVELS: levels beyond the first one. */
export const NAT_LEVELS = 8;
/** Where the flows of a set begin. */
const FLOWS_AT = natSetStruct.size - NAT_SLOTS * natFlowStruct.size;
/** A word's state: somebody's flow. */
const USED = 2;
/** Of datagrams, whose clients may be forged, so many places count for growth. */
const UNPROVEN = 262_144;
/** Places are given back at least so often. */
const SWEEP_MS = 10_000;
const SOON_MS = 250;
const AT_ONCE_MS = 10;
/** So many new flows may come in a millisecond, see flow-table.ts. */
const FASTEST = 400;
/** Of one look, and what part of a CPU all looks may take: as in flow-table.ts. */
const TURN_MS = 3;
const REST = 50;
const RETRY_MS = 10_000;
/** New flows that found many of their ports taken, after which there shall be more ports. */
const CROWDED = 8;
/** What was added stays for so long, also while it is not used. */
const KEPT_MS = 60_000;
/** A program that saw a step open has ended by then. */
const CLOSED_MS = 1_000;
/** Of the places that are left when a step has gone, one part in so many may be in use at most. */
const SPARE_PARTS = 4;

export type NatFlow = ReturnType<typeof natFlowStruct.decode>;

/** What was seen in the table. */
export interface NatUse {
  /** Places in use. */
  readonly used: number;
  /** Flows of TCP that are open, with clients who are there. */
  readonly confirmed: number;
  /** Flows of UDP. */
  readonly datagrams: number;
  /** Places given back. */
  readonly freed: number;
}

interface Tour {
  used: number;
  confirmed: number;
  datagrams: number;
  freed: number;
  /** Places in use by step. */
  readonly bySteps: number[];
  /** The set to look at next. */
  next: number;
  readonly since: number;
  costMs: number;
}

/** Sets of lb_nat_more when so many steps have been added to a table of so many ports. Pure. */
export function setsOfStep(ports: number, step: number): number {
  const further = ports >>> 1;
  return step === 0 ? 0 : further + (step - 1) * (ports + further);
}

/** Sets where flows of a port lie, one a level: of the range, and as one of the further ports. Pure. */
export function setsOfPort(ports: number, port: number): number[] {
  const further = ports >>> 1;
  const sets: number[] = [];
  for (let level = 0; level <= NAT_LEVELS; level++)
    for (const place of [port & (ports - 1), ports + (port & (further - 1))])
      sets.push(level * (ports + further) + place);
  return sets;
}

export class NatTable {
  readonly #objects: EngineObjects;
  readonly #now: () => number;
  readonly #ports: number;
  readonly #lastStep: number;
  readonly #chunks: ChunkedArray;
  /** Steps that take new flows, and those that may have some. */
  #open: number;
  #held: number;
  #use: NatUse = { used: 0, confirmed: 0, datagrams: 0, freed: 0 };
  #tour: Tour | undefined;
  #used = 0;
  #takenThen = 0;
  #crowdedThen = 0;
  #lookedAt: number;
  #grownAt = Number.NEGATIVE_INFINITY;
  #closedAt = 0;
  #restUntil = 0;
  #growAfter = 0;

  /** Adopts the table that is there. */
  constructor(
    objects: EngineObjects,
    {
      sizes = {},
      now = () => performance.now(),
    }: { readonly sizes?: EngineSizes; readonly now?: () => number } = {},
  ) {
    this.#objects = objects;
    this.#now = now;
    this.#lookedAt = now();
    const { lb_nat_heads, lb_nat_more, lb_nat_table } = objects.maps;
    this.#ports = lb_nat_heads.maxEntries;
    this.#chunks = new ChunkedArray(lb_nat_more, {
      valueSize: natSetStruct.size,
      theirs: true,
      flags: MAP_FLAG.MMAPABLE,
      created: objects.types.of('lb_nat_more'),
    });
    const most = Math.min(sizes.natLimit ?? Number.POSITIVE_INFINITY, this.#placesAt(1 + NAT_LEVELS));
    let last = 0;
    while (last <= NAT_LEVELS && this.#placesAt(last + 1) <= most && this.#fits(last + 1)) last++;
    this.#lastStep = last;
    const known = natTableStruct.decode(lb_nat_table.get(FIRST)!);
    this.#held = this.#stepOf(Math.min(known.held, this.#chunks.capacity));
    this.#open = Math.min(this.#held, this.#stepOf(known.open));
    if (known.held !== this.#sets(this.#held) || known.open !== this.#sets(this.#open)) this.#tell();
  }

  /** Places for new flows. */
  get capacity(): number {
    return this.#placesAt(this.#open);
  }

  /** Places that there could be. */
  get limit(): number {
    return this.#placesAt(this.#lastStep);
  }

  get bytes(): number {
    const { lb_nat_heads, lb_nat_flows } = this.#objects.maps;
    return mapMemoryBytes(lb_nat_heads) + mapMemoryBytes(lb_nat_flows) + this.#chunks.bytes;
  }

  /** Places in use, as far as is known without looking. */
  get used(): number {
    return this.#used;
  }

  /** How often it was made larger, as it is now: 0 for what it begins with. */
  get steps(): { readonly open: number; readonly held: number } {
    return { open: this.#open, held: this.#held };
  }

  /** Every flow that is there now, whether it is over or not. */
  *all(): Generator<NatFlow> {
    const { lb_nat_heads, lb_nat_flows } = this.#objects.maps;
    for (const [place, head] of lb_nat_heads.entries())
      for (const slot of usedSlots(head, 0)) {
        const value = lb_nat_flows.get(u32(viewOf(place).getUint32(0, true) * NAT_SLOTS + slot));
        if (value) yield natFlowStruct.decode(value);
      }
    for (const { count, values } of this.#chunks.values())
      for (let set = 0; set < count * natSetStruct.size; set += natSetStruct.size)
        for (const slot of usedSlots(values, set)) yield flowAt(values, set, slot);
  }

  /** The flows of one port of this node. */
  *ofPort(port: number): Generator<NatFlow> {
    for (const set of setsOfPort(this.#ports, port)) yield* this.#ofSet(set);
  }

  *#ofSet(set: number): Generator<NatFlow> {
    const { lb_nat_heads, lb_nat_flows } = this.#objects.maps;
    if (set >= this.#ports) {
      const value = this.#chunks.get(set - this.#ports);
      if (value) for (const slot of usedSlots(value, 0)) yield flowAt(value, 0, slot);
      return;
    }
    const head = lb_nat_heads.get(u32(set));
    if (!head) return;
    for (const slot of usedSlots(head, 0)) {
      const value = lb_nat_flows.get(u32(set * NAT_SLOTS + slot));
      if (value) yield natFlowStruct.decode(value);
    }
  }

  /** Looks through the whole table at once, for those who ask. */
  count(): NatUse {
    const tour = this.#begin();
    while (!this.#sweep(tour));
    // Who only asks must not make it forget that ports get few.
    const crowded = this.#crowdedThen;
    this.#note(tour);
    this.#crowdedThen = crowded;
    return this.#use;
  }

  /**
   * Gives places back, makes room and takes it away, when it is time to. Returns when to call it again, in milliseconds,
   * unless flows come meanwhile: then after `restMs`. Throws BPF_MAP_CALL where there is no memory, and asks again later.
   */
  tend(): number {
    const now = this.#now();
    if (now < this.#restUntil) return this.#restUntil - now;
    if (!this.#tour) {
      if (this.#trim()) return SOON_MS;
      const left = SWEEP_MS - (now - this.#lookedAt);
      this.#used = this.#use.used + this.#count(0) - this.#takenThen;
      if (this.#used === 0 && this.#held === 0) return SWEEP_MS;
      if (!this.#isTight && left > 0) return left;
      this.#tour = this.#begin();
    }
    const tour = this.#tour;
    const began = performance.now();
    let done = false;
    while (!done && performance.now() - began < TURN_MS) done = this.#sweep(tour);
    tour.costMs += performance.now() - began;
    if (!done) return SOON_MS;
    this.#tour = undefined;
    const crowd = this.#crowd;
    this.#note(tour);
    this.#restUntil = now + tour.costMs * REST;
    this.#growIfNeeded(now, crowd >= CROWDED);
    if (crowd === 0 || this.#held > 1) this.#shrinkIfEmpty(now, tour);
    return Math.max(this.restMs, this.#restUntil - now);
  }

  /** Makes the table as large as so many steps are. Throws BPF_MAP_CALL. */
  grow(step: number): void {
    this.#chunks.reserve(this.#sets(step));
    this.#grownAt = this.#now();
    this.#open = step;
    this.#held = Math.max(this.#held, step);
    this.#tell();
  }

  /** How long the table may be left alone, however fast it fills, in milliseconds: until half of it could be taken. */
  get restMs(): number {
    const room = this.capacity / 2 - this.#used;
    return room < 0 ? SOON_MS : Math.min(SOON_MS, Math.max(AT_ONCE_MS, room / FASTEST));
  }

  close(): void {
    this.#chunks.close();
  }

  #sets(step: number): number {
    return setsOfStep(this.#ports, step);
  }

  #placesAt(step: number): number {
    return (this.#ports + this.#sets(step)) * NAT_SLOTS;
  }

  #fits(step: number): boolean {
    return this.#sets(step) <= this.#objects.maps.lb_nat_more.maxEntries * CHUNK;
  }

  /** The last step that so many sets of lb_nat_more are enough for. */
  #stepOf(sets: number): number {
    let step = 0;
    while (step <= NAT_LEVELS && this.#sets(step + 1) <= sets) step++;
    return step;
  }

  #tell(): void {
    const [open, held] = [this.#sets(this.#open), this.#sets(this.#held)];
    this.#objects.maps.lb_nat_table.set(FIRST, natTableStruct.encode({ open, held }));
  }

  /** New flows since the last look that had to look for a port. */
  get #crowd(): number {
    return this.#count(1) - this.#crowdedThen;
  }

  get #isTight(): boolean {
    return (
      this.#used * 2 > this.capacity || (this.#open < Math.min(1, this.#lastStep) && this.#crowd >= CROWDED)
    );
  }

  /** Who only forges clients gets the further ports at the most, and of datagrams what they are allowed. */
  #growIfNeeded(now: number, crowded: boolean): void {
    const { confirmed, datagrams } = this.#use;
    const needed = 2 * (confirmed + Math.min(datagrams, UNPROVEN / 2));
    let step = crowded ? Math.max(this.#open, Math.min(1, this.#lastStep)) : this.#open;
    while (this.#placesAt(step) < needed && step < this.#lastStep) step++;
    if (step === this.#open || now < this.#growAfter) return;
    this.#growAfter = now + RETRY_MS;
    this.grow(step);
    this.#growAfter = 0;
  }

  #shrinkIfEmpty(now: number, tour: Tour): void {
    const last = this.#held;
    if (last === 0 || (tour.bySteps[last] ?? 0) > 0) return;
    if (this.#open === last) {
      if (now - this.#grownAt < KEPT_MS || tour.used * SPARE_PARTS > this.#placesAt(last - 1)) return;
      this.#open = last - 1;
      this.#closedAt = now;
      this.#tell();
      return;
    }
    if (tour.since - this.#closedAt < CLOSED_MS) return;
    // Ports forget the level first: when there is one again, who has no flows there need not look there.
    const levels = Math.max(0, last - 2);
    for (let set = 0; set < this.#ports + this.#sets(1); set += CHUNK)
      this.#run(set, this.#ports + this.#sets(1), levels);
    this.#held = last - 1;
    this.#tell();
    this.#trim();
  }

  /** Takes a chunk away that no step needs: each waits until all programs have seen it. False: there is none. */
  #trim(): boolean {
    const wanted = Math.ceil(this.#sets(this.#held) / CHUNK) * CHUNK;
    if (this.#chunks.capacity <= wanted) return false;
    this.#chunks.trim(this.#chunks.capacity - CHUNK);
    return true;
  }

  #begin(): Tour {
    const since = this.#now();
    return { used: 0, confirmed: 0, datagrams: 0, freed: 0, bySteps: [], next: 0, since, costMs: 0 };
  }

  /** Looks at some sets more. True: that was all. */
  #sweep(tour: Tour): boolean {
    let step = 0;
    while (step < this.#held && tour.next >= this.#ports + this.#sets(step)) step++;
    const end = this.#ports + this.#sets(step);
    const seen = this.#run(tour.next, end, NAT_LEVELS);
    for (const key of ['used', 'confirmed', 'datagrams', 'freed'] as const) tour[key] += seen[key];
    tour.bySteps[step] = (tour.bySteps[step] ?? 0) + seen.used;
    tour.next = Math.min(end, tour.next + CHUNK);
    return tour.next >= this.#ports + this.#sets(this.#held);
  }

  #run(first: number, sets: number, levels: number) {
    const data = natSweepStruct.encode({
      ...{ first, sets, levels },
      ...{ used: 0, confirmed: 0, datagrams: 0, freed: 0 },
    });
    return natSweepStruct.decode(this.#objects.programs.get('lb_nat_sweep')!.run({ data }).data);
  }

  #note({ used, confirmed, datagrams, freed }: Tour): void {
    this.#use = { used, confirmed, datagrams, freed };
    this.#used = used;
    this.#takenThen = this.#count(0);
    this.#crowdedThen = this.#count(1);
    this.#lookedAt = this.#now();
  }

  /** Of enum lb_nat_use, all CPUs together. */
  #count(use: number): number {
    const values = this.#objects.maps.lb_nat_use.getPerCpu(u32(use)) ?? [];
    return values.reduce((sum, value) => sum + Number(viewOf(value).getBigUint64(0, true)), 0);
  }
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}

/** Places of a head that hold a flow. */
function usedSlots(bytes: Uint8Array, head: number): number[] {
  const view = viewOf(bytes);
  const slots: number[] = [];
  for (let slot = 0; slot < NAT_SLOTS; slot++)
    if (view.getUint32(head + slot * 4, true) >>> 30 === USED) slots.push(slot);
  return slots;
}

function flowAt(values: Uint8Array, set: number, slot: number): NatFlow {
  const at = set + FLOWS_AT + slot * natFlowStruct.size;
  return natFlowStruct.decode(values.subarray(at, at + natFlowStruct.size));
}
