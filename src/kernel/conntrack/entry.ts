/**
 * One entry of connection tracking as ctnetlink has it. Pure.
 *
 *   TUPLE_ORIG  { IP {src, dst}, PROTO {number, ports | ICMP id, type, code}, ZONE }   as the first packet came
 *   TUPLE_REPLY { ... }       the answer: after NAT its source is the backend and its destination the masquerade address
 *
 * Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
 */

import type { IpAddress } from '../../addr/index.ts';
import {
  type AttributeCodec,
  attributeTable,
  nlBytes,
  nlIp,
  nlU8,
  nlU16be,
  nlU32be,
  nlU64be,
} from '../netlink/index.ts';

export interface ConntrackTuple {
  readonly source: IpAddress;
  readonly destination: IpAddress;
  /** IPPROTO_*: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6. */
  readonly protocol: number;
  /** Of TCP, UDP, SCTP and the like; else 0. */
  readonly sourcePort: number;
  readonly destinationPort: number;
}

export interface ConntrackEntry {
  readonly family: 4 | 6;
  readonly original: ConntrackTuple;
  readonly reply: ConntrackTuple;
  /** Bits IPS_*: 1 expected, 2 seen reply, 4 assured, 8 confirmed, 16 SNAT, 32 DNAT. */
  readonly status: number;
  readonly mark: number;
  /** Left until it ends, in seconds. */
  readonly timeoutSeconds: number;
  readonly id: number;
  readonly zone: number;
  /** enum tcp_conntrack: 1 SYN_SENT, 2 SYN_RECV, 3 ESTABLISHED, 4 to 8 on the way to its end; only of TCP. */
  readonly tcpState?: number;
  /** Packets and bytes of both directions; only with net.netfilter.nf_conntrack_acct. */
  readonly packets?: bigint;
  readonly bytes?: bigint;
  /** The original tuple as the kernel wrote it: by it an entry is deleted, ICMP included. */
  readonly raw: Uint8Array;
}

export const ipAttributes = attributeTable('addresses of a tuple', {
  source4: [1, 'CTA_IP_V4_SRC', nlIp],
  destination4: [2, 'CTA_IP_V4_DST', nlIp],
  source6: [3, 'CTA_IP_V6_SRC', nlIp],
  destination6: [4, 'CTA_IP_V6_DST', nlIp],
});

const protoAttributes = attributeTable('protocol of a tuple', {
  number: [1, 'CTA_PROTO_NUM', nlU8],
  sourcePort: [2, 'CTA_PROTO_SRC_PORT', nlU16be],
  destinationPort: [3, 'CTA_PROTO_DST_PORT', nlU16be],
});

export const tupleAttributes = attributeTable('a tuple', {
  ip: [1, 'CTA_TUPLE_IP', ipAttributes],
  proto: [2, 'CTA_TUPLE_PROTO', protoAttributes],
});

/** enum ctattr_protoinfo, ctattr_protoinfo_tcp. */
export const protoinfoAttributes = attributeTable('state of a connection', {
  tcp: [
    1,
    'CTA_PROTOINFO_TCP',
    attributeTable('state of a TCP connection', {
      state: [1, 'CTA_PROTOINFO_TCP_STATE', nlU8],
      flagsOriginal: [4, 'CTA_PROTOINFO_TCP_FLAGS_ORIGINAL', nlBytes, 'struct nf_ct_tcp_flags: flags, mask'],
      flagsReply: [5, 'CTA_PROTOINFO_TCP_FLAGS_REPLY', nlBytes],
    }),
  ],
});

const counterAttributes = attributeTable('counters of a connection', {
  packets: [1, 'CTA_COUNTERS_PACKETS', nlU64be],
  bytes: [2, 'CTA_COUNTERS_BYTES', nlU64be],
});

interface TupleWithBytes {
  readonly bytes: Uint8Array;
  readonly tuple: ReturnType<typeof tupleAttributes.read>;
}

/** Keeps the bytes of a nested attribute beside what is read from them. */
const tupleWithBytes: AttributeCodec<TupleWithBytes> = {
  nested: true,
  write: (writer, value) => writer.bytes(value.bytes),
  read: (bytes) => ({ bytes: bytes.slice(), tuple: tupleAttributes.read(bytes) }),
};

export const conntrackAttributes = attributeTable('a connection', {
  original: [1, 'CTA_TUPLE_ORIG', tupleWithBytes],
  reply: [2, 'CTA_TUPLE_REPLY', tupleAttributes],
  status: [3, 'CTA_STATUS', nlU32be],
  protoinfo: [4, 'CTA_PROTOINFO', protoinfoAttributes],
  timeout: [7, 'CTA_TIMEOUT', nlU32be, 'seconds'],
  mark: [8, 'CTA_MARK', nlU32be],
  countersOriginal: [9, 'CTA_COUNTERS_ORIG', counterAttributes],
  countersReply: [10, 'CTA_COUNTERS_REPLY', counterAttributes],
  id: [12, 'CTA_ID', nlU32be],
  zone: [18, 'CTA_ZONE', nlU16be],
});

export const statisticsAttributes = attributeTable('statistics of connection tracking', {
  entries: [1, 'CTA_STATS_GLOBAL_ENTRIES', nlU32be],
  most: [2, 'CTA_STATS_GLOBAL_MAX_ENTRIES', nlU32be],
});

/** Reads a message of ctnetlink; undefined for what is no IP connection. Throws NETLINK_MALFORMED. */
export function readEntry(body: Uint8Array): ConntrackEntry | undefined {
  const NFGENMSG = 4;
  if (body.length < NFGENMSG) return undefined;
  const read = conntrackAttributes.readFrom(body, NFGENMSG);
  const original = read.original && tupleOf(read.original.tuple);
  const reply = read.reply && tupleOf(read.reply);
  if (!original || !reply || !read.original) return undefined;
  const { countersOriginal, countersReply } = read;
  return {
    family: original.source.family,
    original,
    reply,
    status: read.status ?? 0,
    mark: read.mark ?? 0,
    timeoutSeconds: read.timeout ?? 0,
    id: read.id ?? 0,
    zone: read.zone ?? 0,
    raw: read.original.bytes,
    ...(read.protoinfo?.tcp?.state === undefined ? {} : { tcpState: read.protoinfo.tcp.state }),
    ...(countersOriginal
      ? {
          packets: (countersOriginal.packets ?? 0n) + (countersReply?.packets ?? 0n),
          bytes: (countersOriginal.bytes ?? 0n) + (countersReply?.bytes ?? 0n),
        }
      : {}),
  };
}

function tupleOf(read: ReturnType<typeof tupleAttributes.read>): ConntrackTuple | undefined {
  const { ip, proto } = read;
  const source = ip?.source4 ?? ip?.source6;
  const destination = ip?.destination4 ?? ip?.destination6;
  if (!source || !destination || proto?.number === undefined) return undefined;
  return {
    source,
    destination,
    protocol: proto.number,
    sourcePort: proto.sourcePort ?? 0,
    destinationPort: proto.destinationPort ?? 0,
  };
}
