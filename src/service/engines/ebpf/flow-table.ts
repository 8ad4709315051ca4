/**
 * The table of translated flows: bpf/include/lb_flow_table.h. Programs fill it; this gives it more room before it is
 * full, and places back whose flows are over or idle. What it changes it lets a program change (bpf/lb_flow.bpf.c),
 * because packets change the same places meanwhile.
 */
import { randomBytes } from 'node:crypto';
import { viewOf } from '../../../codec/index.ts';
import { MAP_FLAG } from '../../../kernel/bpf/index.ts';
import { ChunkedArray } from './chunked-array.ts';
import {
  CHUNK,
  FLOW,
  FLOW_SLOTS,
  FLOWS_AT,
  flowEditStruct,
  flowSetStruct,
  flowStruct,
  flowSweepStruct,
  flowTableStruct,
} from './layout.ts';
import { type EngineObjects, type EngineSizes, FLOWS_BEGIN } from './objects.ts';

/** Places of a chunk. */
export const FLOWS_A_CHUNK = CHUNK * FLOW_SLOTS;

const FIRST = new Uint8Array(4);
const UNPROVEN = 262_144;
/**
 * The table doubles when this part of it is in use. Flows stay in the sets where they are, so sets that were there before
 * have half as much again as the mean, and all four of a new flow may be full: of 120,000 clients that came at once 215
 * were refused when it doubled at a half, and 33 at three eighths.
 */
const FULL = 3 / 8;
/** Places are given back at least so often. */
const SWEEP_MS = 10_000;
/** Between two looks while there is something to do, at the most and at the least. */
export const SOON_MS = 250;
const AT_ONCE_MS = 10;
/** So many new flows may come in a millisecond: what one CPU of two opens by XDP when it does nothing else. */
const FASTEST = 400;
/** Of one look: the event loop is not held up for longer. */
const TURN_MS = 3;
/** Looking takes no more of a CPU than one part in this many, also while a flood keeps the table full. */
const REST = 50;
/** Until more room is asked for again after there was none. */
const RETRY_MS = 10_000;

/** enum lb_flow_task. */
const TASK = { SHOW: 0, PUT: 1, CUT: 2 } as const;

export type Flow = ReturnType<typeof flowStruct.decode>;

/** What identifies a flow from its client's side. */
export interface FlowName {
  readonly client: Uint8Array;
  readonly clientPort: number;
  readonly vip: Uint8Array;
  readonly vipPort: number;
  readonly udp: boolean;
}

/** What was seen in the table. */
export interface FlowUse {
  /** Places in use. */
  used: number;
  /** Flows whose clients are there: they went on after an answer. */
  confirmed: number;
  /** Of UDP, with clients of whom only a first datagram came. */
  datagrams: number;
  /** Places given back. */
  freed: number;
  /** Sets that still have flows where they were before the table grew. */
  unsettled: number;
}

interface Tour extends FlowUse {
  chunk: number;
  costMs: number;
}

export interface FlowTableOptions {
  readonly sizes?: EngineSizes;
  /** Monotonic clock in milliseconds. */
  readonly now?: () => number;
}

export class FlowTable {
  readonly #objects: EngineObjects;
  readonly #now: () => number;
  readonly #limit: number;
  readonly #unproven: number;
  readonly #chunks: ChunkedArray;
  #sets: number;
  #use: FlowUse = { used: 0, confirmed: 0, datagrams: 0, freed: 0, unsettled: 0 };
  #tour: Tour | undefined;
  /** Places in use, as far as is known: of those that were taken since the last whole look some may be free again. */
  #used = 0;
  /** Places that were ever taken, at the last whole look. */
  #takenThen = 0;
  #lookedAt: number;
  #restUntil = 0;
  #growAfter = 0;

  /** Adopts the table that is there, or begins one. Throws BPF_MAP_CALL. */
  constructor(objects: EngineObjects, { sizes = {}, now = () => performance.now() }: FlowTableOptions = {}) {
    this.#objects = objects;
    this.#now = now;
    this.#lookedAt = now();
    const { lb_flows, lb_flow_table } = objects.maps;
    this.#limit = Math.min(lb_flows.maxEntries * FLOWS_A_CHUNK, sizes.flowsLimit ?? Number.POSITIVE_INFINITY);
    this.#unproven = sizes.flowsUnproven ?? UNPROVEN;
    this.#chunks = new ChunkedArray(lb_flows, {
      valueSize: flowSetStruct.size,
      theirs: true,
      flags: MAP_FLAG.MMAPABLE,
      created: objects.types.of('lb_flows'),
    });
    const known = flowTableStruct.decode(lb_flow_table.get(FIRST)!);
    if (known.seed !== 0n) {
      this.#sets = known.mask + 1;
      this.#chunks.reserve(this.#sets);
      return;
    }
    const wanted = (sizes.flows ?? FLOWS_BEGIN) / FLOWS_A_CHUNK;
    this.#sets = CHUNK * 2 ** Math.max(0, Math.ceil(Math.log2(wanted)));
    this.#chunks.reserve(this.#sets);
    const seed = randomBytes(8).readBigUInt64LE() | 1n;
    lb_flow_table.set(FIRST, flowTableStruct.encode({ mask: this.#sets - 1, first: this.#sets, seed }));
  }

  /** Places that there are. */
  get capacity(): number {
    return this.#sets * FLOW_SLOTS;
  }

  /** Places that there could be. */
  get limit(): number {
    return this.#limit;
  }

  get bytes(): number {
    return this.#chunks.bytes;
  }

  /** Places in use, as far as is known without looking. */
  get used(): number {
    return this.#used;
  }

  /** Every flow that is there now. */
  *all(): Generator<{ flow: Flow; bytes: Uint8Array }> {
    for (const { count, values } of this.#chunks.values()) {
      const view = viewOf(values);
      for (let set = 0; set < count * flowSetStruct.size; set += flowSetStruct.size)
        for (let slot = 0; slot < FLOW_SLOTS; slot++) {
          if (view.getUint32(set + slot * 4, true) === 0) continue;
          const at = set + FLOWS_AT + slot * flowStruct.size;
          const bytes = values.subarray(at, at + flowStruct.size);
          const flow = flowStruct.decode(bytes);
          if ((flow.flags & FLOW.USED) !== 0) yield { flow, bytes };
        }
    }
  }

  /** The flow of a client to a frontend. */
  show(name: FlowName): Flow | undefined {
    const { done, flow } = this.#edit(TASK.SHOW, nameBytes(name));
    return done ? flowStruct.decode(flow) : undefined;
  }

  /** Adds a flow, or what is known of it to that which is there. False: there is no place for it. */
  put(flow: Uint8Array): boolean {
    return this.#edit(TASK.PUT, flow).done !== 0;
  }

  /** Forgets the flow of a client to a frontend. */
  cut(name: FlowName): void {
    this.#edit(TASK.CUT, nameBytes(name));
  }

  /** Forgets all flows: for tests. */
  clear(): void {
    const names = [...this.all()].map(({ flow }) => ({
      client: flow.client.slice(),
      clientPort: flow.client_port,
      vip: flow.vip.slice(),
      vipPort: flow.vip_port,
      udp: (flow.flags & FLOW.UDP) !== 0,
    }));
    for (const name of names) this.cut(name);
  }

  /** The kernel's clock of flows: jiffies, low half. */
  jiffies(): number {
    return this.#edit(TASK.SHOW, new Uint8Array(flowStruct.size)).now;
  }

  /** Looks through the whole table at once, for those who ask. */
  count(): FlowUse {
    const tour = newTour();
    while (tour.chunk * CHUNK < this.#sets) this.#sweep(tour);
    this.#finish(tour);
    return this.#use;
  }

  /**
   * Gives places back and makes room, when it is time to. A look costs two lookups while the table is not full enough
   * to grow. Returns when to call it again, in milliseconds, unless flows come meanwhile: then after `restMs`. Throws
   * BPF_MAP_CALL where there is no memory, and asks again later.
   */
  tend(): number {
    const now = this.#now();
    if (now < this.#restUntil) return this.#restUntil - now;
    if (!this.#tour) {
      const left = SWEEP_MS - (now - this.#lookedAt);
      this.#used = this.#use.used + this.#taken() - this.#takenThen;
      if (this.#used === 0) return SWEEP_MS;
      if (this.#used <= this.capacity * FULL && left > 0) return left;
      this.#tour = newTour();
    }
    const tour = this.#tour;
    const began = performance.now();
    while (tour.chunk * CHUNK < this.#sets && performance.now() - began < TURN_MS) this.#sweep(tour);
    tour.costMs += performance.now() - began;
    if (tour.chunk * CHUNK < this.#sets) return SOON_MS;
    this.#tour = undefined;
    this.#finish(tour);
    this.#restUntil = now + tour.costMs * REST;
    this.#growIfNeeded(now);
    return Math.max(this.restMs, this.#restUntil - now);
  }

  /** How long the table may be left alone, however fast it fills, in milliseconds: until it could be full enough to grow. */
  get restMs(): number {
    const room = this.capacity * FULL - this.#used;
    return room < 0 ? SOON_MS : Math.min(SOON_MS, Math.max(AT_ONCE_MS, room / FASTEST));
  }

  close(): void {
    this.#chunks.close();
  }

  #growIfNeeded(now: number): void {
    const { confirmed, datagrams } = this.#use;
    const needed = (confirmed + Math.min(datagrams, this.#unproven * FULL)) / FULL;
    let sets = this.#sets;
    while (sets * FLOW_SLOTS < needed && sets * FLOW_SLOTS * 2 <= this.#limit) sets *= 2;
    if (sets === this.#sets || now < this.#growAfter) return;
    this.#growAfter = now + RETRY_MS;
    this.#chunks.reserve(sets);
    const { lb_flow_table } = this.#objects.maps;
    const known = flowTableStruct.decode(lb_flow_table.get(FIRST)!);
    lb_flow_table.set(FIRST, flowTableStruct.encode({ ...known, mask: sets - 1 }));
    this.#sets = sets;
    this.#growAfter = 0;
  }

  #sweep(tour: Tour): void {
    const { data } = this.#objects.programs
      .get('lb_flow_sweep')!
      .run({ data: flowSweepStruct.encode({ ...newTour(), chunk: tour.chunk }) });
    const seen = flowSweepStruct.decode(data);
    for (const key of ['used', 'confirmed', 'datagrams', 'freed', 'unsettled'] as const)
      tour[key] += seen[key];
    tour.chunk++;
  }

  #finish({ used, confirmed, datagrams, freed, unsettled }: Tour): void {
    this.#use = { used, confirmed, datagrams, freed, unsettled };
    this.#used = used;
    this.#takenThen = this.#taken();
    this.#lookedAt = this.#now();
  }

  #taken(): number {
    const values = this.#objects.maps.lb_flow_use.getPerCpu(FIRST) ?? [];
    return values.reduce((sum, value) => sum + Number(viewOf(value).getBigUint64(0, true)), 0);
  }

  #edit(task: number, flow: Uint8Array) {
    const data = flowEditStruct.encode({ task, done: 0, now: 0, flow });
    return flowEditStruct.decode(this.#objects.programs.get('lb_flow_edit')!.run({ data }).data);
  }
}

function newTour(): Tour {
  return { chunk: 0, used: 0, confirmed: 0, datagrams: 0, freed: 0, unsettled: 0, costMs: 0 };
}

function nameBytes({ client, clientPort, vip, vipPort, udp }: FlowName): Uint8Array {
  return flowStruct.encode({
    vip,
    backend: new Uint8Array(16),
    client,
    vip_port: vipPort,
    backend_port: 0,
    client_port: clientPort,
    flags: udp ? FLOW.UDP : 0,
    backend_id: 0,
    seen: 0,
  });
}
