/** What the reference remembers of packets: flows by client, ports of fragmented packets, affinity. */
import type { FragmentMemory, Packet } from './lb-reference-packet.ts';
import { sameAddress } from './lb-reference-packet.ts';
import { keyOf } from './lb-reference-world.ts';
import { WordMap } from './word-map.ts';

/** enum lb_flow_flag. */
export const FLOW = {
  USED: 1,
  REPLIED: 2,
  FIN_CLIENT: 4,
  FIN_BACKEND: 8,
  RESET: 16,
  HAIRPIN: 32,
  MASQUERADE: 64,
  DIRECT: 128,
  OPTION: 256,
  CONFIRMED: 512,
  UDP: 1024,
} as const;

export interface Flow {
  readonly vip: Uint32Array;
  readonly backend: Uint32Array;
  readonly client: Uint32Array;
  vipPort: number;
  backendPort: number;
  clientPort: number;
  flags: number;
  backendId: number;
  /** Among open flows of one client to one backend, which came first. */
  order: number;
}

/** Bits of the flags that say by which other port a backend sees a client: the three highest bits of the port changed. */
const WAY_SHIFT = 11;
const WAYS = 7 << WAY_SHIFT;
/** A port below is nobody's who did not take it. */
const LEAST_PORT = 1024;

export function wayOf(flow: Flow): number {
  return (flow.flags & WAYS) >> WAY_SHIFT;
}

export function wayFlags(way: number): number {
  return way << WAY_SHIFT;
}

export function portBy(port: number, way: number): number {
  return port ^ (way << 13);
}

/** Ways by which a client's port may be shown. */
export function waysOf(port: number): number[] {
  return [0, 1, 2, 3, 4, 5, 6, 7].filter((way) => way === 0 || portBy(port, way) >= LEAST_PORT);
}

export function emptyFlow(): Flow {
  const address = () => new Uint32Array(4);
  return {
    vip: address(),
    backend: address(),
    client: address(),
    ...{ vipPort: 0, backendPort: 0, clientPort: 0, flags: 0, backendId: 0, order: 0 },
  };
}

export function isOver(flow: Flow): boolean {
  const both = FLOW.FIN_CLIENT | FLOW.FIN_BACKEND;
  return (flow.flags & FLOW.RESET) !== 0 || (flow.flags & both) === both;
}

export class Flows {
  readonly #index: WordMap;
  readonly #flows: Flow[][] = [];
  readonly #key = new Uint32Array(5);

  constructor(capacity: number) {
    this.#index = new WordMap(5, capacity);
  }

  get size(): number {
    return this.#index.size;
  }

  clear(): void {
    this.#index.clear();
  }

  /** The flows of a client, or undefined. */
  of(address: Uint32Array, port: number, protocol: number): Flow[] | undefined {
    const at = this.#index.find(keyOf(this.#key, address, port, protocol));
    return at < 0 ? undefined : this.#flows[at];
  }

  /** The flow of a client whose backend sees this port of it, by one of these ways, a bit each. */
  seenAs(
    client: { readonly address: Uint32Array; readonly port: number; readonly protocol: number },
    backend: Uint32Array,
    port: number,
    ways: number,
    hairpin?: boolean,
  ): Flow | undefined {
    for (let way = 0; way < 8; way++) {
      if (((ways >> way) & 1) === 0) continue;
      const flows = this.of(client.address, portBy(client.port, way), client.protocol);
      const flow = flows && flowFrom(flows, backend, port, hairpin, way);
      if (flow) return flow;
    }
    return undefined;
  }

  /** The flows of a client, empty ones when there are none. */
  make(address: Uint32Array, port: number, protocol: number): Flow[] {
    const before = this.#index.size;
    const at = this.#index.add(keyOf(this.#key, address, port, protocol));
    this.#flows[at] ??= [];
    const flows = this.#flows[at]!;
    if (at === before) flows.length = 0;
    return flows;
  }

  *entries(): Generator<[key: Uint32Array, flows: Flow[]]> {
    for (let at = 0; at < this.#index.size; at++) yield [this.#index.key(at), this.#flows[at]!];
  }
}

export function flowTo(flows: Flow[], vip: Uint32Array, port: number): Flow | undefined {
  for (const flow of flows)
    if ((flow.flags & FLOW.USED) !== 0 && flow.vipPort === port && sameAddress(flow.vip, vip)) return flow;
  return undefined;
}

export function flowFrom(
  flows: Flow[],
  backend: Uint32Array,
  port: number,
  hairpin?: boolean,
  way?: number,
): Flow | undefined {
  let first: Flow | undefined;
  for (const flow of flows) {
    if ((flow.flags & FLOW.USED) === 0) continue;
    if (hairpin !== undefined && ((flow.flags & FLOW.HAIRPIN) !== 0) !== hairpin) continue;
    if (way !== undefined && wayOf(flow) !== way) continue;
    if (flow.backendPort !== port || !sameAddress(flow.backend, backend)) continue;
    if (!first || flow.order < first.order) first = flow;
  }
  return first;
}

/** The order of a flow that comes after those of the same client and backend. */
export function orderAfter(
  flows: Flow[],
  backend: Uint32Array,
  port: number,
  vip: Uint32Array,
  vipPort: number,
): number {
  let last: Flow | undefined;
  for (const flow of flows) {
    if ((flow.flags & FLOW.USED) === 0) continue;
    if (wayOf(flow) !== 0 || flow.backendPort !== port || !sameAddress(flow.backend, backend)) continue;
    if (!last || flow.order > last.order) last = flow;
  }
  if (!last || (last.vipPort === vipPort && sameAddress(last.vip, vip))) return 0;
  return Math.min(254, last.order + 1);
}

/** Ports of first fragments. */
export class Fragments implements FragmentMemory {
  readonly #index: WordMap;
  readonly #ports: Uint32Array;
  readonly #key = new Uint32Array(10);

  constructor(capacity: number) {
    this.#index = new WordMap(10, capacity);
    this.#ports = new Uint32Array(capacity);
  }

  get size(): number {
    return this.#index.size;
  }

  clear(): void {
    this.#index.clear();
  }

  remember(packet: Packet, id: number): void {
    this.#ports[this.#index.add(this.#keyOf(packet, id))] = packet.sourcePort * 65_536 + packet.targetPort;
  }

  recall(packet: Packet, id: number): boolean {
    const at = this.#index.find(this.#keyOf(packet, id));
    if (at < 0) return false;
    packet.sourcePort = this.#ports[at]! >>> 16;
    packet.targetPort = this.#ports[at]! & 0xffff;
    return true;
  }

  #keyOf(packet: Packet, id: number): Uint32Array {
    this.#key.set(packet.source);
    this.#key.set(packet.target, 4);
    this.#key[8] = id;
    this.#key[9] = packet.protocol;
    return this.#key;
  }
}

/** Backend of a client of a Service. */
export class Affinities {
  readonly #index: WordMap;
  readonly #ids: Uint32Array;
  readonly #key = new Uint32Array(5);

  constructor(capacity: number) {
    this.#index = new WordMap(5, capacity);
    this.#ids = new Uint32Array(capacity);
  }

  clear(): void {
    this.#index.clear();
  }

  get size(): number {
    return this.#index.size;
  }

  get(client: Uint32Array, service: number): number {
    const at = this.#index.find(keyOf(this.#key, client, service, 0));
    return at < 0 ? 0 : this.#ids[at]!;
  }

  set(client: Uint32Array, service: number, id: number): void {
    this.#ids[this.#index.add(keyOf(this.#key, client, service, 0))] = id;
  }
}
