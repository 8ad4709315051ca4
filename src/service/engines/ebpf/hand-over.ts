/**
 * Who translates: `hold` of lb_config (enum lb_hold of bpf/include/lb_types.h), and how flows pass from one engine to
 * the other without a break.
 *
 *     nftables -> eBPF   PASS, all is programmed, UNKNOWN while conntrack is read, OFF
 *     eBPF -> nftables   KNOWN while flows are read and written into conntrack, ALL
 *
 * The map has one value, so the ranges of ClusterIPs that stand beside it are written here, too.
 */
import { viewOf } from '../../../codec/index.ts';
import type { TranslatedFlow } from '../../translated-flow.ts';
import type { FlowTable } from './flow-table.ts';
import { translatedFlows } from './handed-flows.ts';
import { encodeRanges, HOLD, HOLD_AT, type Hold } from './layout.ts';
import type { NatTable } from './nat-table.ts';
import type { EngineObjects } from './objects.ts';
import type { PassedFlows } from './passed-flows.ts';
import type { Writer } from './writer.ts';

export class HandOver {
  readonly #maps: EngineObjects['maps'];
  readonly #flows: FlowTable;
  readonly #nat: NatTable;
  readonly #passed: PassedFlows;
  #config: Uint8Array | undefined;
  #hold: Hold = HOLD.OFF;

  constructor(
    maps: EngineObjects['maps'],
    { flows, nat }: { readonly flows: FlowTable; readonly nat: NatTable },
    passed: PassedFlows,
  ) {
    this.#maps = maps;
    this.#flows = flows;
    this.#nat = nat;
    this.#passed = passed;
  }

  /** What lb_config ought to hold; undefined before the ranges were set. */
  get config(): Uint8Array | undefined {
    return this.#config;
  }

  setServiceRanges(cidrs: readonly string[]): void {
    this.#config = encodeRanges(cidrs);
    this.setHold(this.#hold);
  }

  setHold(hold: Hold): void {
    const { lb_config } = this.#maps;
    const only = new Uint8Array(4);
    const value = this.#config ?? lb_config.get(only)!;
    this.#hold = hold;
    viewOf(value).setUint32(HOLD_AT, hold, true);
    lb_config.set(only, value);
  }

  /** Takes over from netfilter, see `EbpfEngine.takeOver`. */
  takeOver(writer: Writer): number {
    this.#passed.gather(writer);
    // From here on nothing new begins there. A segment of what began since is dropped, and repeated.
    this.setHold(HOLD.UNKNOWN);
    const flows = this.#passed.gather(writer);
    this.setHold(HOLD.OFF);
    return flows;
  }

  /** Gives all flows away, see `EbpfEngine.handOver`. */
  handOver(carry: (flows: TranslatedFlow[]) => void): void {
    this.setHold(HOLD.KNOWN);
    try {
      carry(translatedFlows(this.#flows, this.#nat));
    } finally {
      this.setHold(HOLD.ALL);
    }
  }
}
