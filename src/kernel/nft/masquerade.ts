/**
 * Masquerading by ports that mean nothing else on a node. What is sent to a nodePort is taken for a new client's, so an
 * answer to a port in their range would go to a backend instead of who asked; two Services that answer whatever comes
 * would send it back and forth for ever. The NAT of Services itself lies below (service/engines/ebpf/nat.ts).
 *
 *     1024        13616                30000          32768                            65535
 *     servers     NAT of Services      nodePorts      masquerade, ports of sockets
 */
import type { IpAddress } from '../../addr/index.ts';
import { among, MASQUERADE, type NftRule, type NftStatement, ruleOf } from './rule.ts';

/** First and last. Netfilter keeps what it takes from these apart from what sockets have. */
export const MASQUERADE_PORTS = [32_768, 65_535] as const;

/** IANA protocol numbers. */
const [TCP, UDP, SCTP] = [6, 17, 132];

const WITH_PORTS = among(
  'meta l4proto',
  [TCP, UDP, SCTP].map((protocol) => ({ key: [protocol] })),
);

/** Rules that masquerade what matches: what has ports, and what has none. */
export function masqueradeRules(match: readonly NftStatement[], comment: string): NftRule[] {
  return [
    ruleOf([...match, WITH_PORTS, { ...MASQUERADE, ports: MASQUERADE_PORTS }], comment),
    ruleOf([...match, MASQUERADE], comment),
  ];
}

/** The same with an address that is given. */
export function sourceNatRules(address: IpAddress, comment: string): NftRule[] {
  return [
    ruleOf([WITH_PORTS, { kind: 'snat', address, ports: MASQUERADE_PORTS }], comment),
    ruleOf([{ kind: 'snat', address }], comment),
  ];
}
