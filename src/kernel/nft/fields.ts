/**
 * What rules read of a packet, under nft's names: where it lies and of which type it is.
 * Numbers: include/uapi/linux/netfilter/nf_tables.h, enum nft_payload_bases, nft_meta_keys, nft_ct_keys, nft_fib_*.
 */

/** How the value gets into a register. */
export type FieldSource =
  | {
      readonly from: 'payload';
      readonly base: 'link' | 'network' | 'transport';
      readonly offset: number;
      readonly length: number;
    }
  | { readonly from: 'meta' | 'ct'; readonly key: number }
  | { readonly from: 'fib'; readonly result: number; readonly flags: number };

export interface FieldSpec {
  /** Name of its type, see datum.ts. */
  readonly type: string;
  readonly source: FieldSource;
  /** The transport protocol that the name implies; compared first. */
  readonly protocol?: number;
  /** How nft writes values. */
  readonly names?: Readonly<Record<number, string>>;
}

const network = (type: string, offset: number, length: number): FieldSpec => ({
  type,
  source: { from: 'payload', base: 'network', offset, length },
});
const transport = (type: string, offset: number, length: number, protocol?: number): FieldSpec => ({
  type,
  source: { from: 'payload', base: 'transport', offset, length },
  ...(protocol === undefined ? {} : { protocol }),
});
const PROTOCOL_NAMES = { 1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'ipv6-icmp', 132: 'sctp' };
/** RFC 4443, RFC 2710, RFC 4861 section 4, RFC 3810. */
const ICMPV6_NAMES = {
  128: 'echo-request',
  129: 'echo-reply',
  130: 'mld-listener-query',
  131: 'mld-listener-report',
  132: 'mld-listener-done',
  133: 'nd-router-solicit',
  134: 'nd-router-advert',
  135: 'nd-neighbor-solicit',
  136: 'nd-neighbor-advert',
  143: 'mld2-listener-report',
};

export const FIELDS = {
  /** Kind of the interface: ARPHRD_* of include/uapi/linux/if_arp.h. */
  'meta iiftype': { type: 'arphrd', source: { from: 'meta', key: 8 }, names: { 1: 'ether' } },
  /** Where a packet came in; one of the node's own has none. nft shows it by name behind `meta iiftype ether` only. */
  'ether saddr': {
    type: 'ether_addr',
    source: { from: 'payload', base: 'link', offset: 6, length: 6 },
  },
  'ip saddr': network('ipv4_addr', 12, 4),
  'ip daddr': network('ipv4_addr', 16, 4),
  'ip6 saddr': network('ipv6_addr', 8, 16),
  'ip6 daddr': network('ipv6_addr', 24, 16),
  'th sport': transport('inet_service', 0, 2),
  'th dport': transport('inet_service', 2, 2),
  'tcp dport': transport('inet_service', 2, 2, 6),
  'udp sport': transport('inet_service', 0, 2, 17),
  'udp dport': transport('inet_service', 2, 2, 17),
  'sctp dport': transport('inet_service', 2, 2, 132),
  'tcp flags': transport('tcp_flag', 13, 1, 6),
  'icmp type': { ...transport('icmp_type', 0, 1, 1), names: { 0: 'echo-reply', 8: 'echo-request' } },
  'icmpv6 type': { ...transport('icmpv6_type', 0, 1, 58), names: ICMPV6_NAMES },
  'meta mark': { type: 'mark', source: { from: 'meta', key: 3 } },
  iifname: { type: 'ifname', source: { from: 'meta', key: 6 } },
  oifname: { type: 'ifname', source: { from: 'meta', key: 7 } },
  'meta l4proto': { type: 'inet_proto', source: { from: 'meta', key: 16 }, names: PROTOCOL_NAMES },
  'ct state': { type: 'ct_state', source: { from: 'ct', key: 0 } },
  'ct mark': { type: 'mark', source: { from: 'ct', key: 3 } },
  /** RTN_LOCAL 2, RTN_BROADCAST 3, RTN_MULTICAST 5: include/uapi/linux/rtnetlink.h. */
  'fib daddr type': {
    type: 'fib_addrtype',
    source: { from: 'fib', result: 3, flags: 2 },
    names: { 1: 'unicast', 2: 'local', 3: 'broadcast', 5: 'multicast' },
  },
} as const satisfies Readonly<Record<string, FieldSpec>>;

/** nft's name of a field, e.g. `ip saddr`. */
export type NftField = keyof typeof FIELDS;

export function fieldSpec(field: NftField): FieldSpec {
  return FIELDS[field];
}
