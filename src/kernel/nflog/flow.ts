/** Addresses and ports of an IP packet that may be cut off anywhere: RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 9260. */
import { IpAddress } from '../../addr/index.ts';
import { viewOf } from '../netlink/index.ts';

const PROTOCOL_NAMES: ReadonlyMap<number, string> = new Map([
  [1, 'icmp'],
  [6, 'tcp'],
  [17, 'udp'],
  [58, 'icmpv6'],
  [132, 'sctp'],
]);
const WITH_PORTS: ReadonlySet<number> = new Set([6, 17, 132]);
/** Hop-by-hop, routing, destination options: their second byte counts 8 bytes beyond the first 8 (RFC 8200 section 4). */
const EXTENSIONS: ReadonlySet<number> = new Set([0, 43, 60]);
const FRAGMENT = 44;
const MOST_EXTENSIONS = 8;

export interface PacketFlow {
  readonly source: IpAddress;
  readonly destination: IpAddress;
  /** IPPROTO_*. */
  readonly protocol: number;
  readonly protocolName: string;
  /** Undefined for protocols without ports, later fragments and packets cut before them. */
  readonly sourcePort: number | undefined;
  readonly destinationPort: number | undefined;
}

/** Undefined when the bytes hold no IP header. */
export function readPacketFlow(packet: Uint8Array): PacketFlow | undefined {
  const version = (packet[0] ?? 0) >> 4;
  if (version === 4 && packet.length >= 20) {
    const headerBytes = (packet[0]! & 15) * 4;
    if (headerBytes < 20) return undefined;
    const first = (viewOf(packet).getUint16(6) & 0x1fff) === 0;
    return flowOf(
      IpAddress.fromBytes(packet.subarray(12, 16)),
      IpAddress.fromBytes(packet.subarray(16, 20)),
      packet[9]!,
      first ? packet.subarray(headerBytes) : undefined,
    );
  }
  if (version !== 6 || packet.length < 40) return undefined;
  let protocol = packet[6]!;
  let at = 40;
  let first = true;
  for (let count = 0; count < MOST_EXTENSIONS && packet.length >= at + 8; count++) {
    if (EXTENSIONS.has(protocol)) {
      protocol = packet[at]!;
      at += 8 + packet[at + 1]! * 8;
    } else if (protocol === FRAGMENT) {
      protocol = packet[at]!;
      first = (viewOf(packet).getUint16(at + 2) & 0xfff8) === 0;
      at += 8;
    } else break;
  }
  return flowOf(
    IpAddress.fromBytes(packet.subarray(8, 24)),
    IpAddress.fromBytes(packet.subarray(24, 40)),
    protocol,
    first ? packet.subarray(at) : undefined,
  );
}

function flowOf(
  source: IpAddress,
  destination: IpAddress,
  protocol: number,
  transport: Uint8Array | undefined,
): PacketFlow {
  const ports =
    WITH_PORTS.has(protocol) && transport && transport.length >= 4 ? viewOf(transport) : undefined;
  return {
    source,
    destination,
    protocol,
    protocolName: PROTOCOL_NAMES.get(protocol) ?? String(protocol),
    sourcePort: ports?.getUint16(0),
    destinationPort: ports?.getUint16(2),
  };
}
