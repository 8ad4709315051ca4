/**
 * A connection that conntrack did not see beginning, written with its translation: as if its first packet had met a
 * NAT rule. The kernel computes the reply's tuple by itself, from the original one and the NAT.
 *
 *     original 10.244.1.5:40000 -> 10.96.0.10:80, NAT_DST 10.244.2.9:8080   gives   reply 10.244.2.9:8080 -> 10.244.1.5:40000
 *
 * Source: ctnetlink_create_conntrack(), net/netfilter/nf_conntrack_netlink.c.
 */
import type { IpAddress } from '../../addr/index.ts';
import { attributeTable, type NlWriter, nlIp, nlU16be, nlU32be } from '../netlink/index.ts';
import { protoinfoAttributes, tupleAttributes } from './entry.ts';

/** An address with a port. */
export interface ConntrackSocket {
  readonly address: IpAddress;
  readonly port: number;
}

export interface TranslatedConnection {
  /** IPPROTO_TCP or IPPROTO_UDP. */
  readonly protocol: number;
  readonly client: ConntrackSocket;
  /** Where the client sends to. */
  readonly target: ConntrackSocket;
  /** Who gets it. */
  readonly backend: ConntrackSocket;
  /** Whom the backend sees; the client itself when it is left out. */
  readonly source?: ConntrackSocket | undefined;
  /** Both sides have sent something. */
  readonly replied: boolean;
  /** It is kept when the table is full. */
  readonly assured: boolean;
  /** enum tcp_conntrack. */
  readonly tcpState?: number | undefined;
  readonly timeoutSeconds: number;
  readonly mark?: number | undefined;
}

/** enum ip_conntrack_status. */
export const IPS = {
  SEEN_REPLY: 1 << 1,
  ASSURED: 1 << 2,
  CONFIRMED: 1 << 3,
  SRC_NAT: 1 << 4,
  DST_NAT: 1 << 5,
} as const;
/**
 * Sequence numbers and window scales of the past are not known, so segments outside of the window that the kernel
 * learns from now on are no reason to leave them untranslated.
 */
const IP_CT_TCP_FLAG_BE_LIBERAL = 0x08;
const LIBERAL = Uint8Array.of(IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_BE_LIBERAL);

const natAttributes = attributeTable('a translation', {
  first4: [1, 'CTA_NAT_V4_MINIP', nlIp],
  last4: [2, 'CTA_NAT_V4_MAXIP', nlIp],
  ports: [
    3,
    'CTA_NAT_PROTO',
    attributeTable('ports of a translation', {
      first: [1, 'CTA_PROTONAT_PORT_MIN', nlU16be],
      last: [2, 'CTA_PROTONAT_PORT_MAX', nlU16be],
    }),
  ],
  first6: [4, 'CTA_NAT_V6_MINIP', nlIp],
  last6: [5, 'CTA_NAT_V6_MAXIP', nlIp],
});

const newAttributes = attributeTable('a new connection', {
  original: [1, 'CTA_TUPLE_ORIG', tupleAttributes],
  reply: [2, 'CTA_TUPLE_REPLY', tupleAttributes],
  status: [3, 'CTA_STATUS', nlU32be],
  protoinfo: [4, 'CTA_PROTOINFO', protoinfoAttributes],
  sourceNat: [6, 'CTA_NAT_SRC', natAttributes],
  timeout: [7, 'CTA_TIMEOUT', nlU32be, 'seconds'],
  mark: [8, 'CTA_MARK', nlU32be],
  destinationNat: [13, 'CTA_NAT_DST', natAttributes],
});

/** Writes the attributes that make this connection. */
export function writeConnection(writer: NlWriter, connection: TranslatedConnection): void {
  const { protocol, client, target, backend, source, replied, assured, timeoutSeconds, mark } = connection;
  newAttributes.write(writer, {
    original: tupleOf(protocol, client, target),
    reply: tupleOf(protocol, target, client),
    status: IPS.CONFIRMED | (replied ? IPS.SEEN_REPLY : 0) | (assured ? IPS.ASSURED : 0),
    ...(connection.tcpState === undefined
      ? {}
      : { protoinfo: { tcp: { state: connection.tcpState, flagsOriginal: LIBERAL, flagsReply: LIBERAL } } }),
    ...(source ? { sourceNat: natTo(source) } : {}),
    timeout: timeoutSeconds,
    ...(mark ? { mark } : {}),
    destinationNat: natTo(backend),
  });
}

function tupleOf(
  protocol: number,
  from: ConntrackSocket,
  to: ConntrackSocket,
): Parameters<typeof tupleAttributes.write>[1] {
  const ip =
    from.address.family === 4
      ? { source4: from.address, destination4: to.address }
      : { source6: from.address, destination6: to.address };
  return { ip, proto: { number: protocol, sourcePort: from.port, destinationPort: to.port } };
}

function natTo({ address, port }: ConntrackSocket): Parameters<typeof natAttributes.write>[1] {
  const range =
    address.family === 4 ? { first4: address, last4: address } : { first6: address, last6: address };
  return { ...range, ports: { first: port, last: port } };
}
