/** Events of nftables traces as packets on their way. Pure. */

import type { PacketFlow } from '../../kernel/nflog/index.ts';
import type { NftTraceEvent } from '../../kernel/nft/index.ts';

/** A chain or rule that a packet met. */
export interface TraceStep {
  /** `ip filter FORWARD` */
  readonly chain: string;
  /** Undefined where the policy of a chain decided. */
  readonly handle: number | undefined;
  /** The rule in nft's words, or `policy`. */
  readonly rule: string;
  /** `accept`, `drop`, `jump x`, ... */
  readonly verdict: string;
}

export interface TracedPacket {
  /** As it was first seen. */
  readonly flow: PacketFlow;
  /** Index of the interface that it came in by, 0 for none: it is the node's own; of the last one that it was to leave by. */
  readonly iif: number;
  readonly oif: number;
  readonly steps: readonly TraceStep[];
  /** Chain and rule that dropped it; undefined when none of nftables did. */
  readonly droppedBy: TraceStep | undefined;
}

/** Text of a rule by `family table chain handle`. */
export type RuleTexts = ReadonlyMap<string, string>;

interface Open {
  /** Packets are told in the order in which they began. */
  readonly order: number;
  readonly mark: string;
  readonly flow: PacketFlow;
  readonly iif: number;
  oif: number;
  readonly steps: TraceStep[];
  droppedBy: TraceStep | undefined;
  /** Of the last event, ms of some clock. */
  at: number;
}

/** No packet of one number takes so long from one chain to the next. */
const REST_MS = 200;

export class TracedPackets {
  readonly #ownTable: string;
  readonly #rules: RuleTexts;
  readonly #open = new Map<number, Open>();
  #done: { readonly order: number; readonly packet: TracedPacket }[] = [];
  #begun = 0;

  /** `ownTable`: what the tracing itself adds is not told. */
  constructor(ownTable: string, rules: RuleTexts) {
    this.#ownTable = ownTable;
    this.#rules = rules;
  }

  add(event: NftTraceEvent, nowMs: number): void {
    if (event.type === 'none') return;
    const { headers } = event;
    let packet = this.#open.get(event.id);
    // Another packet has its number: nothing more will come of the first.
    if (packet && headers && headers.mark !== packet.mark) {
      this.#close(event.id);
      packet = undefined;
    }
    if (!packet) {
      // Without headers it is not known whose it is: its beginning was missed.
      if (!headers) return;
      const { flow, mark } = headers;
      const order = this.#begun++;
      packet = { order, mark, flow, iif: event.iif, oif: 0, steps: [], droppedBy: undefined, at: nowMs };
      this.#open.set(event.id, packet);
    }
    packet.at = nowMs;
    if (event.oif !== 0) packet.oif = event.oif;
    if (event.table === this.#ownTable || isEndOfChain(event)) return;
    const step = this.#step(event);
    packet.steps.push(step);
    if (event.verdict !== 'drop') return;
    packet.droppedBy = step;
    this.#close(event.id);
  }

  /** Packets that were dropped, or of which nothing came for a while; with `all`, whatever there is. */
  take(nowMs: number, all = false): TracedPacket[] {
    for (const [id, { at }] of [...this.#open]) if (all || nowMs - at >= REST_MS) this.#close(id);
    const oldest = Math.min(...[...this.#open.values()].map(({ order }) => order));
    const ready = this.#done.filter(({ order }) => order < oldest).sort((a, b) => a.order - b.order);
    this.#done = this.#done.filter(({ order }) => order > oldest);
    return ready.map(({ packet }) => packet);
  }

  #close(id: number): void {
    const packet = this.#open.get(id);
    if (!packet) return;
    this.#open.delete(id);
    const { order, flow, iif, oif, steps, droppedBy } = packet;
    this.#done.push({ order, packet: { flow, iif, oif, steps, droppedBy } });
  }

  #step({ family, table, chain, type, handle, verdict, to }: NftTraceEvent): TraceStep {
    const name = `${family} ${table} ${chain}`;
    return {
      chain: name,
      handle: handle === undefined ? undefined : Number(handle),
      rule: type === 'policy' ? 'policy' : (this.#rules.get(`${name} ${handle}`) ?? 'a rule'),
      verdict: to === undefined ? verdict : `${verdict} ${to}`,
    };
  }
}

/** No rule ended the packet's way through the chain: new kernels tell of a rule without a handle, old ones of a return. */
function isEndOfChain({ type, handle, verdict }: NftTraceEvent): boolean {
  return type === 'return' || (type === 'rule' && handle === undefined && verdict === 'continue');
}
