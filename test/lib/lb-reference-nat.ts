/**
 * Flows with a backend on another node, for the reference of the packet programs: 8 places at each of a few ports. Which
 * port a new flow gets is the program's choice among those that are free towards the backend.
 */
import type { Packet } from './lb-reference-packet.ts';
import { PROTOCOL, sameAddress } from './lb-reference-packet.ts';
import type { Backend } from './lb-reference-world.ts';

export const NAT = { REPLIED: 1, CONFIRMED: 2, FIN_CLIENT: 4, FIN_BACKEND: 8, RESET: 16 } as const;
export const PLACES = 8;
const TCP = { FIN: 1, SYN: 2, RST: 4, ACK: 16 } as const;

export interface NatFlow {
  readonly client: Uint32Array;
  readonly vip: Uint32Array;
  readonly backend: Uint32Array;
  /** Address of this node that the backend sees. */
  readonly source: Uint32Array;
  readonly clientPort: number;
  readonly vipPort: number;
  readonly backendPort: number;
  readonly natPort: number;
  readonly backendId: number;
  readonly service: number;
  readonly protocol: number;
  flags: number;
  /** Seconds since its last packet, as the test has it: nothing of it is waited for. */
  idleS: number;
}

export function natIsOver({ flags }: NatFlow): boolean {
  const both = NAT.FIN_CLIENT | NAT.FIN_BACKEND;
  return (flags & NAT.RESET) !== 0 || (flags & both) === both;
}

/** Whether its place may be taken; `hurry`: all others are. */
function isGone(flow: NatFlow, hurry: boolean): boolean {
  const { protocol, flags, idleS } = flow;
  if (protocol !== PROTOCOL.TCP) return idleS > ((flags & NAT.REPLIED) !== 0 ? 180 : hurry ? 5 : 30);
  if (natIsOver(flow)) return idleS > (hurry ? 2 : 60);
  return idleS > ((flags & NAT.CONFIRMED) === 0 ? (hurry ? 3 : 15) : 6 * 3600);
}

/** What a table has grown by. */
export interface NatMore {
  /** The first of half as many further ports, which are taken when no other one is free. */
  readonly first: number;
  /** Times 8 places more at each port. */
  readonly levels: number;
}

export class NatFlows {
  /** Those of the range, then the further ones. */
  readonly ports: readonly number[];
  readonly #range: number;
  /** Places of a port. */
  readonly #each: number;
  /** By port and place, those of the first level first. */
  readonly places: (NatFlow | undefined)[];

  constructor(first: number, ports: number, more?: NatMore) {
    const from = (start: number, count: number) => Array.from({ length: count }, (_, at) => start + at);
    this.ports = [...from(first, ports), ...(more ? from(more.first, ports / 2) : [])];
    this.#range = ports;
    this.#each = PLACES * (1 + (more?.levels ?? 0));
    this.places = new Array(this.ports.length * this.#each).fill(undefined);
  }

  /** Where a place lies: which port by its number among all, which level, which of its places. */
  whereIs(place: number): { port: number; level: number; slot: number } {
    const at = place % this.#each;
    return { port: Math.floor(place / this.#each), level: Math.floor(at / PLACES), slot: at % PLACES };
  }

  clear(): void {
    this.places.fill(undefined);
  }

  /** Of a client's packet: the place, or -1. */
  ofClient(p: Packet): number {
    return this.places.findIndex(
      (flow) =>
        flow?.clientPort === p.sourcePort &&
        flow.vipPort === p.targetPort &&
        flow.protocol === p.protocol &&
        sameAddress(flow.client, p.source) &&
        sameAddress(flow.vip, p.target),
    );
  }

  /** Of a backend's packet. */
  ofBackend(p: Packet): number {
    return this.places.findIndex(
      (flow) =>
        flow?.natPort === p.targetPort &&
        flow.backendPort === p.sourcePort &&
        flow.protocol === p.protocol &&
        sameAddress(flow.backend, p.source) &&
        sameAddress(flow.source, p.target),
    );
  }

  track(flow: NatFlow, { tcpFlags }: Packet, fromClient: boolean): void {
    const { SYN, ACK, FIN, RST } = TCP;
    if (!fromClient) flow.flags |= NAT.REPLIED;
    else if ((flow.flags & NAT.REPLIED) !== 0 && (tcpFlags & (SYN | ACK)) === ACK)
      flow.flags |= NAT.CONFIRMED;
    if ((tcpFlags & RST) !== 0) flow.flags |= NAT.RESET;
    if ((tcpFlags & FIN) !== 0) flow.flags |= fromClient ? NAT.FIN_CLIENT : NAT.FIN_BACKEND;
    flow.idleS = 0;
  }

  /** Ports that a new flow may get; the client's own alone where that is one of them. */
  candidates(p: Packet, backend: Backend): { ports: number[]; hurry: boolean } {
    const range = this.ports.slice(0, this.#range);
    const further = this.ports.slice(this.#range);
    for (const hurry of [false, true])
      for (const some of [range, further]) {
        const ports = some.filter((port) => this.#placeAt(port, backend, hurry) >= 0);
        if (some === range && ports.includes(p.sourcePort)) return { ports: [p.sourcePort], hurry };
        if (ports.length > 0) return { ports, hurry };
      }
    return { ports: [], hurry: true };
  }

  put(flow: NatFlow, backend: Backend, hurry: boolean): number {
    const place = this.#placeAt(flow.natPort, backend, hurry);
    this.places[place] = flow;
    return place;
  }

  /** The place at a port: that of a flow to this backend which is gone, else the first that is free or gone. */
  #placeAt(port: number, backend: Backend, hurry: boolean): number {
    const first = this.ports.indexOf(port) * this.#each;
    let found = -1;
    for (let at = first; at < first + this.#each; at++) {
      const flow = this.places[at];
      if (!flow) {
        if (found < 0) found = at;
        continue;
      }
      const same =
        flow.backendPort === backend.port &&
        flow.protocol === backend.protocol &&
        sameAddress(flow.backend, backend.address);
      const gone = isGone(flow, hurry);
      if (same) return gone ? at : -1;
      if (gone && found < 0) found = at;
    }
    return found;
  }
}
