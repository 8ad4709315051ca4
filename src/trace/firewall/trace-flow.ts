/**
 * Traces packets of one flow through everybody's nftables chains, for a bounded time. The rule that marks them stands in
 * a table that belongs to the netlink socket: it vanishes with it, however this process ends.
 */
import type { IpAddress } from '../../addr/index.ts';
import { isNetError, nftError } from '../../errors/index.ts';
import {
  equals,
  monitorNftTrace,
  type NftChange,
  type NftPlace,
  type NftRule,
  NftRuleset,
  type NftStatement,
  ruleOf,
} from '../../kernel/nft/index.ts';
import { type RuleTexts, type TracedPacket, TracedPackets } from './traced-packets.ts';

/** What to look for; whatever is undefined may be anything. */
export interface TracedFlow {
  readonly from?: IpAddress | undefined;
  readonly to: IpAddress;
  readonly protocol?: 'tcp' | 'udp' | 'sctp' | undefined;
  readonly port?: number | undefined;
}

export interface TraceOptions extends NftPlace {
  readonly flow: TracedFlow;
  readonly milliseconds: number;
  /** It ends after so many packets, too. */
  readonly packets: number;
  readonly rules: RuleTexts;
  readonly onPacket: (packet: TracedPacket) => void;
  /** The rule stands: packets sent from now on are seen. */
  readonly onReady?: (() => void) | undefined;
  /** Ends it early. */
  readonly signal?: AbortSignal | undefined;
}

export interface TraceSummary {
  readonly packets: number;
  readonly dropped: number;
  /** Whether the kernel had to leave out events. */
  readonly incomplete: boolean;
}

const PROTOCOLS = { tcp: 6, udp: 17, sctp: 132 } as const;
/** Before everybody else's chains, connection tracking's defragmentation included. */
const EARLIEST = -500;
/** Traced packets cost three times as much: a flood must not drown the node. */
const LIMIT: NftStatement = { kind: 'limit', rate: 20, per: 'second', burst: 20 };
const LOOK_MS = 50;

/** Resolves when it is over. Throws NFT_TRACE_UNSUPPORTED, NFT_CHANGE_REFUSED, KERNEL_NEEDS_ROOT. */
export async function traceFlow(options: TraceOptions): Promise<TraceSummary> {
  const { flow, rules, onPacket, signal, netns } = options;
  const table = `portolan-trace-${process.pid}`;
  const traced = new TracedPackets(table, rules);
  let [packets, dropped, incomplete] = [0, 0, false];
  const tell = (packet: TracedPacket) => {
    if (packets >= options.packets) return;
    packets++;
    if (packet.droppedBy) dropped++;
    onPacket(packet);
  };
  const monitor = monitorNftTrace({
    netns,
    onEvent: (event) => traced.add(event, performance.now()),
    onLost: () => {
      incomplete = true;
    },
  });
  try {
    using ruleset = NftRuleset.open({ netns });
    markFlow(ruleset, table, flow);
    options.onReady?.();
    const end = performance.now() + options.milliseconds;
    while (performance.now() < end && packets < options.packets && !signal?.aborted) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      for (const packet of traced.take(performance.now())) tell(packet);
    }
  } finally {
    monitor.close();
  }
  for (const packet of traced.take(performance.now(), true)) tell(packet);
  return { packets, dropped, incomplete };
}

function markFlow(ruleset: NftRuleset, table: string, flow: TracedFlow): void {
  try {
    ruleset.apply(traceChanges(table, flow));
  } catch (error) {
    if (isNetError(error, 'NFT_CHANGE_REFUSED') && /add table/.test(error.message))
      throw nftError('NFT_TRACE_UNSUPPORTED', {}, error);
    throw error;
  }
}

/** The table that marks the packets of a flow, there and back. */
export function traceChanges(table: string, flow: TracedFlow): NftChange[] {
  const at = { family: flow.to.family === 4 ? 'ip' : 'ip6', table } as const;
  return [
    { ...at, change: 'add table', owned: true },
    ...(['prerouting', 'output'] as const).flatMap((chain): NftChange[] => [
      {
        ...at,
        change: 'add chain',
        chain,
        hook: { type: 'filter', hook: chain, priority: EARLIEST, policy: 'accept' },
      },
      ...rulesOf(flow).map((rule): NftChange => ({ ...at, change: 'add rule', chain, rule })),
    ]),
  ];
}

function rulesOf({ from, to, protocol, port }: TracedFlow): NftRule[] {
  const ip = to.family === 4 ? 'ip' : 'ip6';
  const transport = (field: 'th sport' | 'th dport'): NftStatement[] => [
    ...(protocol === undefined ? [] : [equals('meta l4proto', PROTOCOLS[protocol])]),
    ...(port === undefined ? [] : [equals(field, port)]),
  ];
  const trace: NftStatement = { kind: 'trace' };
  return [
    ruleOf(
      [
        ...(from ? [equals(`${ip} saddr`, from)] : []),
        equals(`${ip} daddr`, to),
        ...transport('th dport'),
        LIMIT,
        trace,
      ],
      'portolan doctor: there',
    ),
    ruleOf(
      [
        equals(`${ip} saddr`, to),
        ...(from ? [equals(`${ip} daddr`, from)] : []),
        ...transport('th sport'),
        LIMIT,
        trace,
      ],
      'portolan doctor: and back',
    ),
  ];
}
