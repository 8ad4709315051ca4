/**
 * What nf_tables tells of packets that a rule marked with `meta nftrace set 1`: each chain and each rule that they met,
 * of anybody. Headers come with the first event of each chain only. Events of one packet have one number, which other
 * packets of the flow may get later: it is a hash of where the packet lies in memory.
 *
 *     rule mark (continue) -> policy (accept) -> [routing] -> rule jump x -> return -> policy (drop)
 *
 * Source: include/uapi/linux/netfilter/nf_tables.h, enum nft_trace_attributes; net/netfilter/nf_tables_trace.c.
 */
import {
  attributeTable,
  NETLINK,
  NetlinkMonitor,
  type NlMessage,
  nlBytes,
  nlString,
  nlU32be,
  nlU64be,
  viewOf,
} from '../netlink/index.ts';
import { type PacketFlow, readPacketFlow } from '../nflog/index.ts';
import type { NftPlace } from './change.ts';
import { familyOf, NFT } from './messages.ts';
import { readVerdict, VERDICT_CODES } from './verdict.ts';

const NFNLGRP_NFTRACE = 9;
/** struct nfgenmsg */
const HEADER_BYTES = 4;
/** enum nft_trace_types */
const TYPES = ['none', 'policy', 'return', 'rule'] as const;
/** NF_VERDICT_MASK of netfilter.h: the upper half may hold an errno or a queue. */
const VERDICT_MASK = 0xff;
const NAMES: ReadonlyMap<number, string> = new Map([
  ...Object.entries(VERDICT_CODES).map(([name, code]): [number, string] => [code, name]),
  [2, 'stolen'],
  [3, 'queue'],
  [4, 'repeat'],
]);

const traceAttributes = attributeTable('an nftables trace', {
  table: [1, 'NFTA_TRACE_TABLE', nlString],
  chain: [2, 'NFTA_TRACE_CHAIN', nlString],
  handle: [3, 'NFTA_TRACE_RULE_HANDLE', nlU64be],
  type: [4, 'NFTA_TRACE_TYPE', nlU32be],
  verdict: [5, 'NFTA_TRACE_VERDICT', nlBytes],
  id: [6, 'NFTA_TRACE_ID', nlU32be],
  network: [8, 'NFTA_TRACE_NETWORK_HEADER', nlBytes],
  transport: [9, 'NFTA_TRACE_TRANSPORT_HEADER', nlBytes],
  iif: [10, 'NFTA_TRACE_IIF', nlU32be],
  oif: [12, 'NFTA_TRACE_OIF', nlU32be],
  mark: [14, 'NFTA_TRACE_MARK', nlU32be],
  policy: [16, 'NFTA_TRACE_POLICY', nlU32be],
});

/** The packet as it entered a chain. */
export interface NftTraceHeaders {
  readonly flow: PacketFlow;
  /** Tells a packet from the next one of its flow: identification and sequence number. */
  readonly mark: string;
}

export interface NftTraceEvent {
  /** Of the packet, as long as it is on its way. */
  readonly id: number;
  readonly family: string;
  readonly table: string;
  readonly chain: string;
  /** A rule that matched, the end of a chain, or the policy of a base chain. */
  readonly type: (typeof TYPES)[number];
  /** Of the rule. */
  readonly handle: bigint | undefined;
  /** `accept`, `drop`, `continue`, `jump`, ...; the policy where that decided. */
  readonly verdict: string;
  /** Where a jump leads. */
  readonly to: string | undefined;
  /** Interfaces by index; 0 for none, or not told by this event. */
  readonly iif: number;
  readonly oif: number;
  readonly headers: NftTraceHeaders | undefined;
}

/** The event of a message; undefined for other messages. Throws NETLINK_MALFORMED. */
export function readNftTrace({ type, body }: Pick<NlMessage, 'type' | 'body'>): NftTraceEvent | undefined {
  if (type !== NFT.TRACE || body.length < HEADER_BYTES) return undefined;
  const found = traceAttributes.readFrom(body, HEADER_BYTES);
  const kind = TYPES[found.type ?? 0] ?? 'none';
  const { verdict, to } = kind === 'policy' ? policyOf(found.policy) : verdictOf(found.verdict);
  return {
    id: found.id ?? 0,
    family: familyOf(body),
    table: found.table ?? '',
    chain: found.chain ?? '',
    type: kind,
    handle: found.handle,
    verdict,
    to,
    iif: found.iif ?? 0,
    oif: found.oif ?? 0,
    headers: headersOf(found.network, found.transport),
  };
}

function policyOf(policy: number | undefined): { verdict: string; to: undefined } {
  return { verdict: policy === VERDICT_CODES.drop ? 'drop' : 'accept', to: undefined };
}

function verdictOf(bytes: Uint8Array | undefined): { verdict: string; to: string | undefined } {
  const { code = VERDICT_CODES.continue, chain: to } = readVerdict(bytes ?? new Uint8Array(0));
  return { verdict: NAMES.get(code < 0 ? code : code & VERDICT_MASK) ?? String(code), to };
}

function headersOf(
  network: Uint8Array | undefined,
  transport: Uint8Array | undefined,
): NftTraceHeaders | undefined {
  if (!network) return undefined;
  const flow = readPacketFlow(transport ? Buffer.concat([network, transport]) : network);
  if (!flow) return undefined;
  const identification = network[0]! >> 4 === 4 ? viewOf(network).getUint16(4) : 0;
  const sequence = flow.protocolName === 'tcp' && transport && transport.length >= 8;
  return { flow, mark: `${identification} ${sequence ? viewOf(transport).getUint32(4) : ''}` };
}

/** Calls back for the traces of a namespace until it is closed. Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
export function monitorNftTrace(
  options: NftPlace & {
    readonly onEvent: (event: NftTraceEvent) => void;
    /** Events came faster than they were read. */
    readonly onLost: () => void;
  },
): { close(): void } {
  return new NetlinkMonitor({
    netns: options.netns,
    protocol: NETLINK.NETFILTER,
    groups: [NFNLGRP_NFTRACE],
    onMessage(message) {
      const event = readNftTrace(message);
      if (event) options.onEvent(event);
    },
    onResync: options.onLost,
  });
}
